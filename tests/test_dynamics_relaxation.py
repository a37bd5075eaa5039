"""Currents, divergence and entropy on the way to equilibrium, against derivatives, paths and quadrature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from refdiff import Empirical, ExactModel, Gaussian, GaussianMixture
from refdiff.distributions import entropy, kl_divergence, random_mixture
from refdiff.dynamics import Relaxation
from refdiff.processes import LinearProcess, Rotating
from refdiff.validation.numeric import extrapolate

SEEDS = st.integers(0, 2**32 - 1)
DIMS = st.integers(1, 5)
LANGEVIN = Relaxation([[0.0, 16.0], [-4.0, -16.0]], [0.0, 8.0])
START = Gaussian([0.3, -0.2], [[0.5, 0.1], [0.1, 0.4]])


def relaxation(dim, seed):
    """Rates between 0.3 and some units, noise of full rank, a force."""
    rng = np.random.default_rng(seed)
    f, root = rng.normal(size=(2, dim, dim)) / np.sqrt(dim)
    f -= (max(np.linalg.eigvals(f).real.max(), 0) + 0.3) * np.eye(dim)
    return Relaxation(f, root @ root.T + 0.2 * np.eye(dim), rng.normal(size=dim))


def gaussian(dim, seed):
    drawn = random_mixture(dim, 1, seed, "full")
    return Gaussian(drawn.means[0], drawn.cov())


def after(motion, law, t):
    moved = motion.channel(t).push(law)
    return Gaussian(moved.mean(), moved.cov())


def slope(function, h=1e-3):
    """The derivative at h * 2 from five points, of order 4."""
    a, b, _, c, d = (function(k * h) for k in range(5))
    return (a - 8 * b + 8 * c - d) / (12 * h)


@given(SEEDS, DIMS)
def test_the_channel_is_the_exponential_and_ends_in_equilibrium(seed, dim):
    motion = relaxation(dim, seed)
    end = motion.stationary
    for t in (0.0, 0.4, 400.0):
        k, link = expm(t * motion.drift), motion.channel(t)
        size = np.abs(end.cov()).max() * max(1, np.abs(k).max()) ** 2
        np.testing.assert_allclose(link.gain, k, atol=1e-12 * max(1, np.abs(k).max()))
        np.testing.assert_allclose(link.noise, end.cov() - k @ end.cov() @ k.T, atol=1e-11 * size)
        stays = link.push(end)
        np.testing.assert_allclose(stays.mean(), end.mean(), atol=1e-11 * (1 + np.abs(end.mean()).max()))
        np.testing.assert_allclose(stays.cov(), end.cov(), atol=1e-11 * size)


@given(SEEDS, DIMS)
def test_the_current_circulates_and_does_nothing_else_in_equilibrium(seed, dim):
    motion = relaxation(dim, seed)
    end, x = motion.stationary, motion.stationary.sample(4, seed)
    size = np.linalg.norm(motion.drift) * np.linalg.cond(end.cov()) * (1 + np.abs(x).max())
    wanted = motion.circulating_velocity(x)
    np.testing.assert_allclose(motion.velocity(end, x), wanted, atol=1e-12 * size)
    np.testing.assert_allclose(motion.current(end, x), np.exp(end.logpdf(x))[:, None] * wanted, atol=1e-12 * size)
    assert motion.divergence_rate(end) == pytest.approx(0, abs=1e-20 * size**2)
    assert motion.entropy_rate(end) == pytest.approx(0, abs=1e-12 * size)


@given(SEEDS, DIMS)
def test_rates_are_derivatives_of_divergence_and_entropy(seed, dim):
    motion, law = relaxation(dim, seed), gaussian(dim, seed)
    here, h = after(motion, law, 2e-3), 1e-3
    lost = slope(lambda t: kl_divergence(after(motion, law, t), motion.stationary), h)
    gained = slope(lambda t: entropy(after(motion, law, t)), h)
    # the covariance changes by at most this part of itself in a time of h, the method errs by its 4th power / 30
    pace = np.linalg.norm(motion.drift) + np.linalg.norm(np.linalg.solve(law.cov(), motion.diffusion))
    slack = (h * pace) ** 4 * pace + 1e-9
    assert lost == pytest.approx(motion.divergence_rate(here), abs=slack * (1 + abs(lost)))
    assert gained == pytest.approx(motion.entropy_rate(here), abs=slack * (1 + abs(gained)))


@given(SEEDS, DIMS)
def test_production_is_what_is_lost_and_what_keeps_the_current_going(seed, dim):
    motion, law = relaxation(dim, seed), gaussian(dim, seed)
    whole = motion.entropy_production(law)
    assert whole == pytest.approx(motion.housekeeping(law) - motion.divergence_rate(law), rel=1e-9)
    x = law.sample(20_000, seed)
    squared = (motion.velocity(law, x) @ np.linalg.inv(np.linalg.cholesky(motion.diffusion / 2)).T) ** 2
    drawn = squared.sum(axis=1)
    # 6 standard errors: a false alarm in 2e-9 of the draws were they normal, and the seeds are fixed
    assert drawn.mean() == pytest.approx(whole, abs=6 * drawn.std() / np.sqrt(len(drawn)))


def told_apart(motion, law, h, parity):
    """KL(path | reversed path) / h of the two ends of a path."""
    signs, link = np.diag(parity), motion.channel(h)
    dim, still = len(signs), np.zeros((len(signs), len(signs)))

    def both(start):
        ends = start.affine(np.vstack([np.eye(dim), link.gain]), np.append(np.zeros(dim), link.offset))
        ends = ends.convolve(np.block([[still, still], [still, link.noise]]))
        return ends

    back = both(link.push(law).affine(signs)).affine(np.block([[still, signs], [signs, still]]))
    there = both(law)
    return kl_divergence(Gaussian(there.mean(), there.cov()), Gaussian(back.mean(), back.cov())) / h


@given(SEEDS, st.integers(1, 3))
def test_production_is_how_fast_a_path_is_told_from_its_reversal(seed, dim):
    motion, law = relaxation(dim, seed), gaussian(dim, seed)
    first, second = (told_apart(motion, law, h, np.ones(dim)) for h in (2e-4, 1e-4))
    pace = np.linalg.norm(motion.drift) + np.linalg.norm(np.linalg.solve(law.cov(), motion.diffusion))
    # the expansion in h is cut at h^2
    assert 2 * second - first == pytest.approx(motion.entropy_production(law), rel=(2e-4 * pace) ** 2 * 10 + 1e-6)


def test_langevin_dynamics_produces_what_it_relaxes_when_velocities_turn_back():
    production = LANGEVIN.entropy_production(START, parity=[1, -1])
    assert production == pytest.approx(-LANGEVIN.divergence_rate(START), rel=1e-13)
    # the variance of positions is of the order of h^3, which leaves room for five steps before rounding takes over
    told = [told_apart(LANGEVIN, START, 2e-3 / 2**k, [1.0, -1.0]) for k in range(5)]
    assert float(extrapolate(told)) == pytest.approx(production, rel=1e-9)
    # and without that the rate has no limit
    assert told_apart(LANGEVIN, START, 1e-3, [1.0, 1.0]) > 50 * told_apart(LANGEVIN, START, 1e-2, [1.0, 1.0])
    for ask in (LANGEVIN.entropy_production, LANGEVIN.housekeeping):
        with pytest.raises(ValueError, match="the entropy production is infinite unless `parity`"):
            ask(START)


def test_what_stands_still_without_noise_produces_nothing():
    frozen = Relaxation([-0.5, 0.0], [1.0, 0.0])
    whole = Relaxation(-0.5, 1.0).entropy_production(Gaussian([0.3], 0.5))
    assert frozen.entropy_production(Gaussian([0.3, 2.0], [0.5, 0.1])) == pytest.approx(whole, rel=1e-14)
    with pytest.raises(ValueError, match="infinite"):
        Relaxation([-0.5, 0.0], [1.0, 0.0], [0.0, 1.0]).entropy_production(START)


@given(SEEDS, st.integers(2, 5))
def test_axes_without_noise_are_found_in_any_frame(seed, dim):
    rng = np.random.default_rng(seed)
    axes, law = np.linalg.qr(rng.normal(size=(dim, dim)))[0], gaussian(dim, seed)
    seen = np.arange(dim) < dim - 1
    still, turned = Relaxation(-0.5 * seen, 1.0 * seen), Relaxation(*((axes * a * seen) @ axes.T for a in (-0.5, 1.0)))
    moved = law.affine(axes)
    wanted = still.entropy_production(law)
    assert turned.entropy_production(Gaussian(moved.mean(), moved.cov())) == pytest.approx(wanted, rel=1e-9)


@given(SEEDS, DIMS, st.sampled_from([1e-12, 1e9]))
def test_rates_know_no_unit_of_length(seed, dim, unit):
    motion, law = relaxation(dim, seed), gaussian(dim, seed)
    scaled = Relaxation(motion.drift, unit**2 * motion.diffusion, unit * motion.offset)
    there = Gaussian(unit * law.mean(), unit**2 * law.cov())
    for ask in ("entropy_production", "divergence_rate", "housekeeping", "entropy_rate"):
        wanted = getattr(motion, ask)(law)
        size = motion.entropy_production(law) + np.linalg.norm(motion.drift)
        assert getattr(scaled, ask)(there) == pytest.approx(wanted, abs=1e-10 * size)


def test_housekeeping_of_a_mixture_is_its_mean_over_the_mixture():
    motion, law = relaxation(2, 3), random_mixture(2, 3, 4, "full")
    x = law.sample(40_000, 5)
    field = motion.circulating_velocity(x)
    drawn = np.einsum("ni,ij,nj->n", field, np.linalg.inv(motion.diffusion / 2), field)
    # 6 standard errors, the seed is fixed
    assert drawn.mean() == pytest.approx(motion.housekeeping(law), abs=6 * drawn.std() / np.sqrt(len(drawn)))
    assert motion.housekeeping(Empirical(law.means, law.weights)) < motion.housekeeping(law)


def test_currents_take_any_batch_and_keep_single_precision():
    law = random_mixture(2, 3, 4, "full")
    x = law.sample(6, 5).reshape(2, 3, 2)
    for ask in (LANGEVIN.velocity, LANGEVIN.current):
        assert ask(law, x).shape == (2, 3, 2)
        assert ask(law, x.astype(np.float32)).dtype == np.float32
        np.testing.assert_allclose(ask(law, x)[1, 2], ask(law, x[1, 2]), rtol=1e-14)
    assert LANGEVIN.circulating_velocity(x.astype(np.float32)).dtype == np.float32
    assert not LANGEVIN.current(law, [[1e3, 0.0]]).any()  # the density is 0


def test_the_velocity_is_the_exact_model_s_where_coefficients_vary():
    turned = Rotating([[0.0, 2.0], [-2.0, 0.0]], [0.4, 3.0], clock=lambda t: (t + t * t / 2, 1 + t, 1.0))
    process = LinearProcess(turned.drift, turned.noise, 1.0, rates=turned.rates)
    model, t = ExactModel(random_mixture(2, 3, 4, "full"), process), 0.6
    x, at = model.sample(5, t, 6), Relaxation(turned.drift(t), turned.diffusion(t))
    np.testing.assert_allclose(at.velocity(model.marginal(t), x), model.velocity(x, t), atol=1e-12)


def test_one_dimension_has_no_circulation():
    motion = Relaxation(-2.0, 3.0, 1.0)
    assert motion.stationary.mean() == pytest.approx([0.5])
    assert motion.stationary.cov() == pytest.approx(np.array([[0.75]]))
    law = Gaussian([0.1], 2.0)
    assert motion.housekeeping(law) == 0
    assert motion.entropy_production(law) == pytest.approx(-motion.divergence_rate(law), rel=1e-14)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: Relaxation([-1.0, -1.0], 1.0, [1.0]), ValueError, "offset must have shape"),
        (lambda: Relaxation(-1.0, [1.0, -1.0]), ValueError, "diffusion must not be negative"),
        (lambda: Relaxation(1.0, 1.0).stationary, ValueError, "Hurwitz"),
        (lambda: Relaxation(1.0, 1.0).circulation, ValueError, "Hurwitz"),
        (lambda: LANGEVIN.channel(-1.0), ValueError, "t must lie in"),
        (lambda: LANGEVIN.velocity(Gaussian([0.0], 1.0), [0.0]), ValueError, "law must have dimension 2"),
        (lambda: LANGEVIN.velocity("law", [0.0, 0.0]), TypeError, "law must be a Gaussian"),
        (lambda: LANGEVIN.velocity(Empirical([[0.0, 0.0]]), [0.0, 0.0]), ValueError, "density"),
        (lambda: LANGEVIN.divergence_rate(GaussianMixture.isotropic(np.eye(2), 1.0)), TypeError, "must be a Gaussian"),
        (lambda: LANGEVIN.entropy_rate(Gaussian([0.0, 0.0], [1.0, 0.0])), ValueError, "the covariance of the law"),
        (lambda: LANGEVIN.entropy_production(START, parity=[1, 0]), ValueError, "parity must be"),
        (
            lambda: Relaxation(-1.0, [[2.0, 1.0], [1.0, 2.0]]).entropy_production(START, parity=[1, -1]),
            ValueError,
            "must not correlate",
        ),
        (lambda: Relaxation([-1.0, -1.0], [1.0, 0.0]).divergence_rate(START), ValueError, "stationary covariance"),
        (lambda: Relaxation([-1.0, -1.0], [1.0, 0.0]).housekeeping(START), ValueError, "stationary covariance"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, said):
    with pytest.raises(error, match=said):
        call()
