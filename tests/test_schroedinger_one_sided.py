"""A law at one end, a potential at the other: both directions, closed forms and expectations, half bridges."""

import numpy as np
import pytest
from schroedinger_cases import LAWS, PLANE, REFERENCES, SECOND, grid_bridge

from refdiff import Empirical, ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.distributions import kl_divergence
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.interpolants import InterpolantModel
from refdiff.schroedinger import (
    ExponentialSum,
    OneSidedBridge,
    ReferenceBridges,
    backward_half_bridge,
    forward_half_bridge,
)
from refdiff.stochastic import marginal_family, solve

EACH_REFERENCE = pytest.mark.parametrize("reference", REFERENCES.values(), ids=list(REFERENCES))
EACH_POTENTIAL = pytest.mark.parametrize("potential", SECOND.values(), ids=list(SECOND))
LINE = GaussianMixture.isotropic([[-1.5], [1.0]], [0.3, 0.5], [0.4, 0.6])
ENDS = GaussianMixture.isotropic([[-2.0], [0.5], [2.0]], [0.2, 1.4, 0.3], [0.3, 0.3, 0.4])
BOTH = pytest.mark.parametrize("given", ["first", "second"])
TERMS = {
    "law": Gaussian([0.5, 0.1], [[0.5, 0.2], [0.2, 0.3]]),
    "growing": SECOND["growing"][:1],
    "point": Empirical([[0.4, -0.3]]),
}
EACH_TERM = pytest.mark.parametrize("potential", TERMS.values(), ids=list(TERMS))


@EACH_REFERENCE
@EACH_POTENTIAL
@BOTH
def test_from_points_it_is_a_bridge_of_potentials(reference, potential, given):
    bridge = OneSidedBridge(LAWS["points"], potential, reference, given=given)
    whole, t = bridge.closed(), 0.4 * bridge.T
    x = whole.sample([t], 4, 1)[0]
    for name in ("forward_pull", "backward_pull", "forward_drift", "backward_drift", "velocity", "log_density"):
        mine, known = getattr(bridge, name)(x, t), getattr(whole, name)(x, t)
        np.testing.assert_allclose(mine, known, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sum(bridge.log_potentials(x, t)), whole.log_density(x, t), rtol=1e-9, atol=1e-9)
    side = 0 if given == "first" else 1
    np.testing.assert_array_equal(bridge.log_potentials(x, t)[side], bridge.log_potential(x, t))
    known = bridge.marginal(0.0 if given == "first" else bridge.T)
    np.testing.assert_allclose(known.mean(), LAWS["points"].mean(), rtol=1e-9, atol=1e-9)
    # the plan of one point is the conditional law of the whole
    one = LAWS["points"].means[1]
    other = whole.pairs.given_first(one) if given == "first" else whole.pairs.given_second(one)
    np.testing.assert_allclose(bridge.conditional_plan(one).mean(), other.mean(), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(bridge.conditional_plan(one).cov(), other.cov(), rtol=1e-7, atol=1e-9)


@BOTH
def test_turns_on_a_grid_find_the_same_bridge_for_a_law_that_is_a_mixture(given):
    potential = ExponentialSum.adjusted(ENDS, 0.8)
    bridge = OneSidedBridge(LINE, potential, 0.8, given=given)
    # from far out the adjusted potential sends paths 2.5 times as far
    grid = np.arange(-17.0, 17.0, 0.1)[:, None]
    law = np.exp(LINE.logpdf(grid)) * 0.1
    end = np.exp(bridge.log_density(grid, 1.0 if given == "first" else 0.0, Quadrature(1e-11)).value) * 0.1
    assert abs(end.sum() - 1) < 1e-12
    kernel = np.exp(-0.5 * (grid - grid.T) ** 2 / 0.8) / np.sqrt(2 * np.pi * 0.8)
    _, v = grid_bridge(law, end, kernel, 1e-12)
    middle = np.abs(grid[:, 0]) < 4
    gauge = np.log(v / 0.1)[middle] - potential.log_value(grid)[middle]
    assert np.ptp(gauge) < 1e-8


@BOTH
def test_answers_by_expectation_are_those_of_closed_forms(given):
    bridge = OneSidedBridge(LINE, Gaussian([0.7], 0.6), VPLinear(0.5, 3.0), given=given)
    x, t, route = np.array([[-1.0], [0.2], [0.9]]), 0.6, Quadrature(1e-11)
    found = bridge.log_density(x, t, route)
    np.testing.assert_allclose(found.value, bridge.log_density(x, t), atol=1e-11)
    assert found.route == "quadrature"
    assert (found.error < 1e-9).all()
    for ask in (bridge.score, bridge.forward_drift, bridge.backward_drift, bridge.velocity, bridge.log_potentials):
        np.testing.assert_allclose(ask(x, t, route), ask(x, t), atol=1e-10)
    np.testing.assert_allclose(bridge.field(route).velocity(x, t), bridge.field().velocity(x, t), atol=1e-10)
    drawn = bridge.log_density(x, t, MonteCarlo(4000, 3))
    assert (np.abs(drawn.value - found.value) < 4.5 * drawn.error).all()


@EACH_REFERENCE
@EACH_TERM
@BOTH
def test_with_one_term_marginals_are_mixtures_of_pinned_bridges(reference, potential, given):
    bridge = OneSidedBridge(PLANE, potential, reference, given=given)
    model = InterpolantModel(bridge.pairs, ReferenceBridges(reference))
    for t in np.array([0.0, 0.3, 0.8, 1.0]) * bridge.T:
        mine, other = bridge.marginal(t), model.marginal(t)
        np.testing.assert_allclose(mine.means, other.means, atol=1e-9)
        np.testing.assert_allclose(mine.covariances.dense(2), other.covariances.dense(2), atol=1e-9)
    x, t = bridge.sample([0.4], 3, 1)[0], 0.4
    np.testing.assert_allclose(bridge.velocity(x, t), model.velocity(x, t), rtol=1e-8, atol=1e-8)
    mean = 0.5 * (bridge.forward_drift(x, t) + bridge.backward_drift(x, t))
    np.testing.assert_allclose(mean, bridge.velocity(x, t), rtol=1e-12, atol=1e-12)


def test_at_its_own_time_the_law_is_the_one_given():
    bridge, x = OneSidedBridge(PLANE, LAWS["isotropic"], 0.5), np.array([[0.3, -0.2], [1.0, 0.6]])
    assert bridge.marginal(0.0) is PLANE
    np.testing.assert_allclose(bridge.log_density(x, 0.0, Quadrature()).value, PLANE.logpdf(x), rtol=1e-14)
    np.testing.assert_allclose(bridge.score(x, 0.0), PLANE.score(x), rtol=1e-13)
    potentials = bridge.log_potentials(x, 0.0)
    np.testing.assert_allclose(potentials[0], bridge.log_potential(x, 0.0), rtol=1e-14)
    np.testing.assert_allclose(potentials[0] + potentials[1], PLANE.logpdf(x), rtol=1e-13)


@pytest.mark.parametrize("potential", [SECOND["points"], SECOND["growing"]], ids=["points", "growing"])
@BOTH
def test_its_equation_makes_the_pairs_that_it_draws(potential, given):
    bridge, n = OneSidedBridge(PLANE, potential, 0.5, given=given), 1500
    x, y = bridge.sample_pairs(n, 5)
    start, end = (x, y) if given == "first" else (y, x)
    times = 1 - np.geomspace(1, 1e-3, 60)
    away = bridge.equation(backward=given == "second")
    found = solve(away, start, times if given == "first" else 1 - times, seed=6)
    # two samples, 4.5 standard errors; Euler's steps err by less than one
    spread = np.sqrt((end.var(axis=0) + found.var(axis=0)) / n)
    assert (np.abs(end.mean(axis=0) - found.mean(axis=0)) < 4.5 * spread).all()
    assert (np.abs(found.var(axis=0) / end.var(axis=0) - 1) < 0.2).all()
    path = bridge.sample([0.0, 0.5], n, 5)
    np.testing.assert_array_equal(path[0], x)


@EACH_REFERENCE
def test_the_forward_half_bridge_is_the_reference_from_its_law(reference):
    half = forward_half_bridge(PLANE, reference)
    x, t = np.random.default_rng(1).standard_normal((4, 2)), 0.6 * half.T
    np.testing.assert_allclose(half.forward_pull(x, t), 0.0, atol=1e-14)
    known = half.process.kernel(t).push(PLANE)
    np.testing.assert_allclose(half.marginal(t).logpdf(x), known.logpdf(x), atol=1e-10)
    np.testing.assert_allclose(half.backward_pull(x, t), known.score(x), atol=1e-10)
    np.testing.assert_allclose(
        half.conditional_plan(x[0]).mean(), half.process.kernel(half.T).at(x[0]).mean(), rtol=1e-12
    )


def test_a_diffusion_model_that_forgets_its_data_is_a_half_bridge_too():
    half, model = forward_half_bridge(PLANE, FlowMatching()), ExactModel(PLANE, FlowMatching())
    x = np.random.default_rng(1).standard_normal((4, 2))
    for t in (0.0, 0.4, 1.0):
        np.testing.assert_allclose(half.log_density(x, t), model.log_density(x, t), rtol=1e-11)
    back, known = half.equation(backward=True), marginal_family(model)
    np.testing.assert_allclose(back.drift_at(x, 0.5), known.drift_at(x, 0.5), rtol=1e-11)
    np.testing.assert_allclose(half.velocity(x, 0.5), model.velocity(x, 0.5), rtol=1e-11)


def test_the_backward_half_bridge_is_andersons_reversal_from_another_law():
    data, prior = GaussianMixture.isotropic([[-1.0], [1.5]], [0.1, 0.3], [0.3, 0.7]), Gaussian([0.0], 1.0)
    schedule = VPLinear(0.5, 3.0)
    half, model = backward_half_bridge(prior, data, schedule), ExactModel(data, schedule)
    x = np.linspace(-2, 2, 5)[:, None]
    np.testing.assert_allclose(
        half.equation(backward=True).drift_at(x, 0.5), marginal_family(model).drift_at(x, 0.5), rtol=1e-12
    )
    np.testing.assert_allclose(half.conditional_plan([0.4]).mean(), model.denoiser(np.array([0.4]), 1.0), rtol=1e-10)
    # what it makes at time 0 is not the data, as the prior is not p_T
    made = half.log_density(x, 0.0, Quadrature(1e-11)).value
    nodes = np.arange(-9.0, 9.0, 0.02)[:, None]
    weights = prior.logpdf(nodes) - model.log_density(nodes, 1.0)
    kernel = np.array([half.process.kernel(1.0).at(one).logpdf(nodes) for one in x])
    expected = data.logpdf(x) + np.log(np.exp(kernel + weights).sum(axis=1) * 0.02)
    np.testing.assert_allclose(made, expected, atol=1e-10)
    assert np.abs(made - data.logpdf(x)).max() > 1e-2


def test_half_bridges_of_gaussians_cost_what_their_ends_cost():
    p, start, q = Gaussian([0.3, 0.1], [[0.5, 0.1], [0.1, 0.4]]), Gaussian([0.0, 0.0], 1.0), Gaussian([1.0, 0.0], 0.7)
    for reference in REFERENCES.values():
        free = forward_half_bridge(start, reference).pairs.mixture()
        forward = forward_half_bridge(p, reference).pairs.mixture()
        # chain rule: what comes after x_0 is that of the reference
        np.testing.assert_allclose(kl_divergence(forward, free), kl_divergence(p, start), rtol=1e-8)
        half = backward_half_bridge(q, start, reference)
        end = half.process.channel(0.0, half.T).push(start)
        np.testing.assert_allclose(kl_divergence(half.pairs.mixture(), free), kl_divergence(q, end), rtol=1e-8)


def test_closed_forms_are_refused_where_there_are_none_and_sampling_is_not():
    bridge = OneSidedBridge(PLANE, LAWS["isotropic"], 0.5)
    with pytest.raises(ValueError, match="potential must have one term"):
        _ = bridge.pairs
    with pytest.raises(ValueError, match="law must be of points"):
        bridge.closed()
    with pytest.raises(TypeError, match="law must be"):
        OneSidedBridge(np.sin, PLANE, 0.5)
    with pytest.raises(TypeError, match="potential must be"):
        OneSidedBridge(PLANE, np.sin, 0.5)
    with pytest.raises(ValueError, match="given must be one of"):
        OneSidedBridge(PLANE, PLANE, 0.5, given="third")
    with pytest.raises(ValueError, match="dimension 2"):
        OneSidedBridge(PLANE, LINE, 0.5)
    with pytest.raises(ValueError, match="keep x_0 in mind"):
        OneSidedBridge(PLANE, PLANE, FlowMatching(), given="second")
    with pytest.raises(TypeError, match="p must be"):
        forward_half_bridge(np.sin, 0.5)
    for side, t in (("first", 0.5), ("second", 0.0)):
        with pytest.raises(ValueError, match="t must not be that of an end without density"):
            OneSidedBridge(PLANE, LAWS["points"], 0.5, T=0.5, given=side).log_potential([0.0, 0.0], t)
    x = np.zeros((2, 3, 2), dtype=np.float32)
    assert bridge.forward_drift(x, 0.5).dtype == np.float32
    for ask in (bridge.backward_drift, bridge.score, bridge.velocity, bridge.log_density):
        with pytest.raises(ValueError, match="give a route"):
            ask(x, 0.5)
    with pytest.raises(ValueError, match="give a route"):
        bridge.equation(backward=True)
    assert bridge.equation(backward=True, route=MonteCarlo(100, 1)).drift_at(x[0], 0.5).shape == (3, 2)
    assert bridge.log_potential(x, 0.5).shape == (2, 3)
    assert "first law given" in repr(bridge)
    assert OneSidedBridge(Empirical([[0.0, 0.0]]), PLANE, 0.5).pairs.count == 2
