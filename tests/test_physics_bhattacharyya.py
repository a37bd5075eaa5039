"""Bhattacharyya's potential, its rates and forces, in closed form, by quadrature and by differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, Gaussian, GaussianMixture
from refdiff.distributions import random_mixture
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.physics import (
    affine_rate,
    affinity,
    bhattacharyya_distance,
    fisher_direction,
    force,
    potential_rate,
    separate,
    total_force,
)
from refdiff.validation.numeric import derivative, jacobian

SEEDS = st.integers(0, 2**32 - 1)
RULE = Quadrature(1e-10)
LOOSE = Quadrature(1e-6)  # of sums that gain as many digits with the last halving as they had
P = Gaussian([0.3, -0.2], [[1.0, 0.3], [0.3, 0.5]])
Q = Gaussian([1.0, 0.4], [[0.6, -0.2], [-0.2, 0.7]])


def gaussian(dim, rng, spread=0.7):
    root = rng.normal(size=(dim, dim))
    return Gaussian(spread * rng.normal(size=dim), root @ root.T / dim + 0.3 * np.eye(dim))


@given(SEEDS, st.integers(1, 6))
def test_gaussians_have_the_printed_closed_form(seed, dim):
    rng = np.random.default_rng(seed)
    p, q = gaussian(dim, rng), gaussian(dim, rng)
    middle, u = (p.cov() + q.cov()) / 2, p.mean() - q.mean()
    log_dets = [np.linalg.slogdet(c)[1] for c in (middle, p.cov(), q.cov())]
    exact = u @ np.linalg.solve(middle, u) / 8 + log_dets[0] / 2 - (log_dets[1] + log_dets[2]) / 4
    np.testing.assert_allclose(bhattacharyya_distance(p, q).value, exact, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(affinity(p, q).value, np.exp(-exact), rtol=1e-12)
    np.testing.assert_allclose(bhattacharyya_distance(q, p).value, exact, rtol=1e-10, atol=1e-13)


@given(SEEDS, st.integers(1, 6), st.floats(0.1, 10.0))
def test_equal_covariances_have_mahalanobis_over_eight(seed, dim, scale):
    rng = np.random.default_rng(seed)
    p = gaussian(dim, rng).affine(scale)
    q = p.affine(1.0, rng.normal(size=dim))
    u = p.mean() - q.mean()
    np.testing.assert_allclose(bhattacharyya_distance(p, q).value, u @ np.linalg.solve(p.cov(), u) / 8, rtol=1e-11)
    # the field itself has Fisher's direction at every point, away from p
    x = p.sample(4, rng)
    pushes = force(p, q, x)
    exact = -0.25 * np.exp((p.logpdf(x) + q.logpdf(x)) / 2)[:, None] * np.linalg.solve(p.cov(), u)
    np.testing.assert_allclose(pushes, exact, atol=1e-9 * np.abs(exact).max())


@pytest.mark.parametrize("dim", [1, 2])
def test_quadrature_and_draws_agree_with_closed_forms(dim):
    rng = np.random.default_rng(dim)
    p, q = gaussian(dim, rng), gaussian(dim, rng)
    a, b = rng.normal(size=(dim, dim)), rng.normal(size=dim)
    rate, rule = affine_rate(p, q, a, b), RULE if dim == 1 else LOOSE
    for found, exact in (
        (affinity(p, q, rule), affinity(p, q).value),
        (bhattacharyya_distance(p, q, rule), bhattacharyya_distance(p, q).value),
        (total_force(p, q, rule), total_force(p, q).value),
        (potential_rate(p, q, lambda x: x @ a.T + b, rule), rate),
    ):
        np.testing.assert_allclose(found.value, exact, rtol=1e-9, atol=1e-12)
        assert found.route == "quadrature"
    drawn = total_force(p, q, MonteCarlo(4000, 5))
    assert (np.abs(drawn.value - total_force(p, q).value) < 4.5 * drawn.error).all()


@pytest.mark.parametrize("apart", [0.5, 3.0, 60.0])
def test_mixtures_are_summed_where_they_meet_however_far_they_are(apart):
    """|z| < 4.5 for what is drawn, a false alarm in 7e-6 of seeds each; at 60 log U is below -400."""
    p, q = random_mixture(1, 3, 1), random_mixture(1, 2, 2).affine(1.0, [apart])
    x, step = np.linspace(-20, 20 + apart, 20_001, retstep=True)
    logs = 0.5 * (p.logpdf(x[:, None]) + q.logpdf(x[:, None]))
    weights = np.exp(logs - logs.max())
    shift = np.log(step) + logs.max()
    gap, v = (p.score(x[:, None]) - q.score(x[:, None]))[:, 0], np.sin(x)
    wanted = -np.log(weights.sum()) - shift
    pulls = np.array([weights @ gap, weights @ (gap * v)]) * np.exp(shift) / 4
    for way in (RULE, MonteCarlo(2000, 3)):
        near = 4.5 if isinstance(way, MonteCarlo) else 0
        found = bhattacharyya_distance(p, q, way)
        assert abs(found.value - wanted) <= near * found.error + 1e-9 * wanted
        kept = affinity(p, q, way)
        assert abs(kept.value - np.exp(-wanted)) <= near * kept.error + 1e-9 * np.exp(-wanted) * wanted
        force_, rate = total_force(p, q, way), potential_rate(p, q, np.sin, way)
        assert abs(force_.value[0] + pulls[0]) <= near * force_.error[0] + 1e-8 * abs(pulls).max()
        assert abs(rate.value - pulls[1]) <= near * rate.error + 1e-8 * abs(pulls).max()
        if near and apart > 1:
            assert found.error < 0.05  # of a ratio between 1 / sqrt(6) and 1
            np.testing.assert_allclose(kept.error, kept.value * found.error, rtol=1e-12)


@pytest.mark.parametrize("apart", [0.3, 4.0])
def test_errors_of_the_distance_are_the_scatter_of_seeds(apart):
    # below and above U = 1/2, where -log U is taken of 1 - U and of U
    p, q = GaussianMixture.isotropic([[0.0], [0.5]], [1.0, 0.3]), Gaussian([apart], 1.0)
    exact = bhattacharyya_distance(p, q, RULE).value
    assert (exact > np.log(2)) == (apart > 1)
    found = [bhattacharyya_distance(p, q, MonteCarlo(200, seed)) for seed in range(100)]
    z = np.array([(one.value - exact) / one.error for one in found])
    # 100 z-scores, of a mean and of a variance: 7e-6 of false alarms each; 0.05 for the skewness of 200 terms
    assert abs(z.mean()) < 4.5 / np.sqrt(100) + 0.05
    assert abs(z.var(ddof=1) - 1) < 4.5 * np.sqrt(2 / 99)


def test_near_each_other_no_digit_is_lost():
    p = Gaussian([0.0], 1.0)
    for e in (1e-3, 2.0**-30, 2.0**-40):
        q = Gaussian([e], 1 + e)
        # u^2 / 8 M + (log cosh(log(1 + e) / 2)) / 2 -> e^2 (1/8 + 1/16) (1 + O(e))
        np.testing.assert_allclose(bhattacharyya_distance(p, q).value, e * e * 3 / 16, rtol=2 * e)
        np.testing.assert_allclose(
            bhattacharyya_distance(p, q, Quadrature(1e-12)).value, bhattacharyya_distance(p, q).value, rtol=1e-7
        )
    assert bhattacharyya_distance(p, p).value == 0
    assert affinity(p, p).value == 1


def test_far_from_each_other_the_distance_has_its_digits():
    p, q = Gaussian([0.0], 1.0), Gaussian([12.0], 1.0)
    np.testing.assert_allclose(bhattacharyya_distance(p, q, RULE).value, 18.0, rtol=1e-7)
    assert bhattacharyya_distance(Gaussian([0.0], 1e-200), Gaussian([1.0], 1e-200)).value == pytest.approx(1e200 / 8)


def test_the_force_is_the_gradient_of_a_ratio():
    p, q = random_mixture(2, 3, 1, "full"), random_mixture(2, 2, 2, "diagonal")
    x = q.sample(5, 3)
    at_x = (p.logpdf(x) - q.logpdf(x)) / 2
    slope = jacobian(lambda y: np.exp((p.logpdf(y) - q.logpdf(y)) / 2 - at_x), x, 0.01)
    exact = -0.5 * np.exp(q.logpdf(x) + at_x)[:, None] * slope
    np.testing.assert_allclose(force(p, q, x), exact, atol=1e-8 * np.abs(exact).max())
    np.testing.assert_allclose(force(p, q, x), -force(q, p, x), rtol=1e-10)  # action and reaction


def test_mixtures_are_pushed_as_the_potential_falls():
    p, q = random_mixture(1, 2, 1), random_mixture(1, 3, 2)

    def moved(u):
        return affinity(p, q.affine(1.0, [u]), RULE).value

    np.testing.assert_allclose(total_force(p, q, RULE).value, [-derivative(moved, 0.0, 0.02)], atol=1e-8)

    def stretched(u):
        return affinity(p, q.affine(1 + 0.7 * u, [0.4 * u]), RULE).value

    found = potential_rate(p, q, lambda x: 0.7 * x + 0.4, RULE)
    np.testing.assert_allclose(found.value, derivative(stretched, 0.0, 0.02), atol=1e-8)


@given(SEEDS, st.integers(1, 5))
def test_affine_motion_in_closed_form(seed, dim):
    rng = np.random.default_rng(seed)
    p, q, a, b = gaussian(dim, rng), gaussian(dim, rng), rng.normal(size=(dim, dim)), rng.normal(size=dim)

    def moved(u):
        return affinity(p, q.affine(np.eye(dim) + u * a, u * b)).value

    size = 1 + np.abs(a).max() ** 2
    np.testing.assert_allclose(affine_rate(p, q, a, b), derivative(moved, 0.0, 0.01 / size), atol=1e-8 * size)
    np.testing.assert_allclose(affine_rate(p, q, 0.0, b), -total_force(p, q).value @ b, atol=1e-12)


@given(SEEDS, st.integers(1, 4))
def test_the_total_force_is_along_fishers_direction_for_any_covariances(seed, dim):
    rng = np.random.default_rng(seed)
    p, q = gaussian(dim, rng), gaussian(dim, rng)
    w, pull = fisher_direction(p, q), total_force(p, q).value
    np.testing.assert_allclose(pull, -affinity(p, q).value / 4 * w, rtol=1e-12)
    # Fisher's direction maximises (w'u)^2 / w'M w
    middle, u = (p.cov() + q.cov()) / 2, p.mean() - q.mean()
    others = rng.normal(size=(20, dim))
    best = (w @ u) ** 2 / (w @ middle @ w)
    assert ((others @ u) ** 2 <= best * np.einsum("ni,ij,nj->n", others, middle, others) * (1 + 1e-9)).all()
    assert pull @ u <= 0  # away from p, whatever the sign of the printed direction


def test_a_rigid_mass_keeps_its_energy_and_friction_leads_downhill():
    times = np.linspace(0, 12, 7)
    thrown = separate(P, Q, times, velocity=[-0.8, -0.3])
    energy = (thrown.velocities**2).sum(axis=1) / 2 + thrown.potentials
    np.testing.assert_allclose(energy, energy[0], rtol=1e-9)
    assert thrown.potentials.max() > thrown.potentials[0]  # it climbs before it falls
    slow = separate(P, Q, times, friction=True)
    assert (np.diff(slow.potentials) < 0).all()
    seen = slice(0, None, 3)
    rates = [-(v @ v) for v in slow.velocities[seen]]
    exact = [potential_rate(P, Q.affine(1.0, s), lambda x, v=v: np.tile(v, (len(x), 1)), LOOSE).value
             for s, v in zip(slow.shifts[seen], slow.velocities[seen], strict=True)]  # fmt: skip
    np.testing.assert_allclose(rates, exact, rtol=1e-7)


def test_equal_covariances_turn_fishers_direction_only_off_their_axes():
    p = Gaussian([0.0, 0.0], [4.0, 0.25])
    along = separate(p, p.affine(1.0, [1.0, 0.0]), [0.0, 20.0], friction=True).shifts[-1]
    assert along[1] == 0
    askew = separate(p, p.affine(1.0, [1.0, 0.1]), [0.0, 3.0, 6.0], friction=True)
    first, last = askew.velocities[0], askew.velocities[-1]
    assert abs(first[0] * last[1] - first[1] * last[0]) > 0.1 * np.linalg.norm(first) * np.linalg.norm(last)


def test_refusals_name_the_argument():
    for function in (affinity, bhattacharyya_distance, total_force):
        with pytest.raises(TypeError, match="q must be"):
            function(P, None)
        with pytest.raises(ValueError, match="same dimension"):
            function(P, Gaussian([0.0], 1.0))
        with pytest.raises(ValueError, match="no density"):
            function(P, Empirical([[0.0, 0.0]]))
        with pytest.raises(ValueError, match="route must be"):
            function(P, random_mixture(2, 2, 1))
    with pytest.raises(ValueError, match="velocity must answer with shape"):
        potential_rate(P, Q, lambda x: x[:, 0], RULE)
    with pytest.raises(TypeError, match="q must be a Gaussian"):
        affine_rate(P, random_mixture(2, 2, 1), 1.0)
    with pytest.raises(ValueError, match="singular mean of covariances"):
        fisher_direction(Empirical([[0.0]]), Empirical([[1.0]]))
    with pytest.raises(ValueError, match="times must be two or more"):
        separate(P, Q, [1.0, 0.0])
    with pytest.raises(ValueError, match="velocity of shape"):
        separate(P, Q, [0.0, 1.0], velocity=[1.0, 0.0, 0.0])
    assert force(P, Q, np.zeros((3, 2), dtype=np.float32)).dtype == np.float32
