"""Bridges made from potentials: two roads to every law, drifts, ends, samples, a grid's own answer, refusals."""

import numpy as np
import pytest
from schroedinger_cases import FIRST, LAWS, PLANE, REFERENCES, SECOND, grid_bridge

from refdiff import Empirical, Gaussian, GaussianMixture
from refdiff.path_measures import EndLaw, Quadratic
from refdiff.schroedinger import ExponentialSum, MixtureBridge
from refdiff.stochastic import solve

EACH_REFERENCE = pytest.mark.parametrize("reference", REFERENCES.values(), ids=list(REFERENCES))
EACH_FIRST = pytest.mark.parametrize("first", FIRST.values(), ids=list(FIRST))
EACH_SECOND = pytest.mark.parametrize("second", SECOND.values(), ids=list(SECOND))
LINE = MixtureBridge(
    GaussianMixture.isotropic([[-1.5], [1.0]], [0.3, 0.5], [0.4, 0.6]),
    GaussianMixture.isotropic([[-1.0], [0.5], [2.0]], [0.2, 0.4, 0.3], [0.3, 0.3, 0.4]),
    0.8,
)


@EACH_REFERENCE
@EACH_FIRST
@EACH_SECOND
def test_products_of_potentials_are_mixtures_of_pinned_bridges(reference, first, second):
    bridge = MixtureBridge(first, second, reference)
    t, model = 0.4 * bridge.T, bridge.model
    for end, law in ((0.0, bridge.pairs.first), (bridge.T, bridge.pairs.second)):
        np.testing.assert_allclose(bridge.marginal(end).mean(), law.mean(), atol=1e-10)
        np.testing.assert_allclose(bridge.marginal(end).cov(), law.cov(), atol=1e-10)
    x = bridge.sample([t], 5, 1)[0]
    density = bridge.log_density(x, t)
    # rounding of quadratics of some tens, and of covariances of Langevin's reference, whose condition is 1e3
    for other in (bridge.marginal(t).logpdf(x), model.log_density(x, t)):
        np.testing.assert_allclose(other, density, atol=1e-10)
    np.testing.assert_allclose(model.score(x, t), bridge.score(x, t), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.velocity(x, t), bridge.velocity(x, t), rtol=1e-9, atol=1e-9)


@EACH_REFERENCE
def test_drifts_differ_by_noise_times_the_score(reference):
    bridge = MixtureBridge(LAWS["full"], SECOND["growing"], reference)
    x, t = bridge.sample([0.3 * bridge.T], 4, 2)[0], 0.3 * bridge.T
    d = np.asarray(bridge.process.diffusion(t))
    pulled = bridge.score(x, t) @ (d if d.ndim == 2 else np.diag(np.broadcast_to(d, 2)))
    np.testing.assert_allclose(bridge.forward_drift(x, t) - bridge.backward_drift(x, t), pulled, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(bridge.equation().drift_at(x, t), bridge.forward_drift(x, t))
    np.testing.assert_allclose(bridge.equation(backward=True).drift_at(x, t), bridge.backward_drift(x, t))
    np.testing.assert_allclose(bridge.field().velocity(x, t), bridge.velocity(x, t))


def test_turns_on_a_grid_find_the_potentials_of_a_bridge_between_mixtures():
    # sums with this spacing integrate components of deviation 0.4 and more to rounding: e^(-2 pi^2 (0.4 / 0.05)^2)
    grid = np.arange(-8.0, 8.0, 0.05)[:, None]
    p, q = (np.exp(LINE.marginal(t).logpdf(grid)) * 0.05 for t in (0.0, 1.0))
    kernel = np.exp(-0.5 * (grid - grid.T) ** 2 / 0.8) / np.sqrt(2 * np.pi * 0.8)
    u, v = grid_bridge(p, q, kernel)
    middle = np.abs(grid[:, 0]) < 3
    gauge = np.log(v / 0.05)[middle] - LINE.second.logpdf(grid)[middle]
    assert np.ptp(gauge) < 1e-9
    plan = u[:, None] * kernel * v
    pairs = LINE.pairs.mixture().logpdf(np.stack(np.broadcast_arrays(grid, grid.T), axis=-1)) + 2 * np.log(0.05)
    assert np.abs(plan - np.exp(pairs)).max() < 1e-10 * plan.max()


def test_its_equation_carries_the_first_marginal_to_the_second():
    x = LINE.marginal(0.0).sample(2000, 3)
    ends = solve(LINE.equation(), x, np.linspace(0, 1, 49), seed=4)
    back = solve(LINE.equation(backward=True), LINE.marginal(1.0).sample(2000, 5), np.linspace(1, 0, 49), seed=6)
    for found, t in ((ends, 1.0), (back, 0.0)):
        law = LINE.marginal(t)
        z = (found.mean() - law.mean()[0]) / np.sqrt(law.cov()[0, 0] / 2000)
        # 4.5 standard errors, as below; Euler's steps of 1/48 err by a tenth of that
        assert abs(z) < 4.5
        assert abs(found.var() / law.cov()[0, 0] - 1) < 4.5 * np.sqrt(3 / 2000)


@EACH_FIRST
@EACH_SECOND
def test_samples_are_of_their_laws_without_a_list_of_pairs(first, second):
    bridge = MixtureBridge(first, second, 0.5)
    x, y = bridge.sample_pairs(4000, 7)
    paths = bridge.sample([0.25, 0.5, 1.0], 4000, 8)
    for found, t in ((x, 0.0), (paths[0], 0.25), (paths[1], 0.5), (paths[2], 1.0), (y, 1.0)):
        law = bridge.marginal(t)
        assert (np.abs(found.mean(axis=0) - law.mean()) < 4.5 * np.sqrt(np.diag(law.cov()) / 4000)).all()
    cross, spread = bridge.pairs.cross_covariance(), np.sqrt(np.outer(x.var(axis=0), y.var(axis=0)))
    # products of two coordinates have at most some three times the deviation of Gaussians'
    assert (np.abs(np.cov(x.T, y.T)[:2, 2:] - cross) < 4.5 * 3 * spread / np.sqrt(4000)).all()


@EACH_SECOND
def test_a_plan_given_its_start_is_the_conditional_law(second):
    bridge, x = MixtureBridge(LAWS["full"], second, 0.5), np.array([0.2, -0.4])
    given, other = bridge.conditional_plan(x), bridge.pairs.given_first(x)
    np.testing.assert_allclose(given.mean(), other.mean(), rtol=1e-11)
    np.testing.assert_allclose(given.cov(), other.cov(), rtol=1e-10, atol=1e-14)


def test_from_one_point_it_is_the_process_of_foellmer():
    start, ends = np.array([[0.3, -0.2]]), LAWS["isotropic"]
    known = EndLaw(REFERENCES["VP"], ends, start[0])
    free = known.process.kernel(1.0).at(start[0])
    # Psi_T = q / p(. | x_0): the density of q over a Gaussian, as quadratics
    over = ExponentialSum.density(free)
    tilt = ExponentialSum(-over.curvatures, -over.slopes, -over.constants)
    bridge = MixtureBridge(Empirical(start), ExponentialSum.density(ends).times(tilt), REFERENCES["VP"])
    x = known.marginal(0.6).sample(5, 1)
    np.testing.assert_allclose(bridge.forward_pull(x, 0.6), known.gradient(x, 0.6), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(bridge.log_potentials(x, 0.6)[0], known.log_h(x, 0.6), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(bridge.log_mass, 0.0, atol=1e-13)


def test_drifts_of_points_grow_towards_their_end_and_stay_exact():
    bridge, x = MixtureBridge(LAWS["points"], LAWS["points"], 0.5), np.array([0.3, -0.1])
    for left in (1e-3, 1e-6, 1e-9):
        # the nearest point is at 0.1, the next one many deviations further
        pull = (np.array([0.3, -0.2]) - x) / left
        np.testing.assert_allclose(bridge.forward_drift(x, 1 - left), pull, rtol=1e-6)
        np.testing.assert_allclose(bridge.backward_drift(x, left), -pull, rtol=1e-12)
    with pytest.raises(ValueError, match="t must not be that of an end without density"):
        bridge.forward_drift(x, 1.0)
    with pytest.raises(ValueError, match="t must not be that of an end without density"):
        bridge.log_potentials(x, 0.0)
    smooth = MixtureBridge(PLANE, PLANE, 0.5)
    np.testing.assert_allclose(smooth.forward_drift(x, 1.0), 0.5 * PLANE.score(x), rtol=1e-13)


def test_marginals_reach_both_ends_and_a_wide_noise_forgets_the_pairing():
    bridge = MixtureBridge(PLANE, LAWS["points"], 1e8)
    assert np.abs(bridge.pairs.cross_covariance()).max() < 1e-6
    for t in (0.0, 1.0):
        np.testing.assert_allclose(bridge.marginal(t).mean(), bridge.pairs.blend(1 - t, t).mean(), rtol=1e-12)
    np.testing.assert_allclose(bridge.marginal(0.0).mean(), PLANE.mean(), rtol=1e-6)
    # little noise: p_0 is the product of both potentials
    narrow = MixtureBridge(PLANE, PLANE, 1e-10)
    x = np.random.default_rng(1).standard_normal((4, 2))
    product = 2 * PLANE.logpdf(x)
    found = narrow.log_density(x, 0.0)
    np.testing.assert_allclose(found - found[0], product - product[0], atol=1e-7)


def test_shapes_precision_and_singular_laws():
    bridge = MixtureBridge(Gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]), LAWS["isotropic"], 0.5)
    x = np.zeros((2, 3, 2), dtype=np.float32)
    for answer in (bridge.forward_drift, bridge.backward_drift, bridge.velocity, bridge.score, bridge.osmotic_velocity):
        assert answer(x, 0.5).dtype == np.float32
        assert answer(x, 0.5).shape == (2, 3, 2)
    assert bridge.log_density(x, 0.5).shape == (2, 3)
    np.testing.assert_allclose(
        bridge.marginal(0.5).logpdf(x[0]), bridge.log_density(x[0].astype(float), 0.5), rtol=1e-6
    )
    assert "MixtureBridge(1 x 3 on R^2" in repr(bridge)


def test_refusals():
    with pytest.raises(TypeError, match="first must be a mixture"):
        MixtureBridge(np.sin, PLANE, 0.5)
    with pytest.raises(ValueError, match="second must have the dimension 2"):
        MixtureBridge(PLANE, Gaussian([0.0], 1.0), 0.5)
    with pytest.raises(ValueError, match="axes"):
        MixtureBridge(Gaussian([0.0], 1.0), Gaussian([0.0], 1.0), REFERENCES["axes"])
    with pytest.raises(ValueError, match="t must lie"):
        LINE.marginal(1.5)
    with pytest.raises(ValueError, match="grows faster"):
        MixtureBridge(PLANE, ExponentialSum.of(Quadratic(-3 * np.eye(2))), 0.5).forward_drift([0.0, 0.0], 0.0)
    with pytest.raises(ValueError, match="grows faster"):
        _ = MixtureBridge(ExponentialSum.flat(2), ExponentialSum.flat(2), 0.5).pairs
    with pytest.raises(ValueError, match="one point"):
        LINE.conditional_plan([[0.0], [1.0]])
