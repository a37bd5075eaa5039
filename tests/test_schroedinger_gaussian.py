"""Bridges of Gaussians: golden numbers, laws and paths, drifts by other routes, points at either end, limits."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schroedinger_references import LANGEVIN, REFERENCES
from scipy.integrate import quad

from refdiff import Gaussian, GaussianMixture, VPLinear, operators
from refdiff.distributions import kl_divergence
from refdiff.dynamics import field_flow
from refdiff.interpolants import InterpolantModel, linear
from refdiff.path_measures import EndLaw, PinnedBridge
from refdiff.processes import LinearProcess
from refdiff.schroedinger import GaussianBridge, reference_process
from refdiff.stochastic import exact_moments
from refdiff.testing import covariances, matrix_processes, processes
from refdiff.transport import optimal_pairs

P, Q = Gaussian([0.3, -0.4], [[1.2, 0.4], [0.4, 0.6]]), Gaussian([1.0, 0.8], [[0.5, -0.2], [-0.2, 0.9]])
HERE, THERE = Gaussian([0.3, -0.2], 0.0), Gaussian([0.7, 0.5], 0.0)
X = np.array([[0.2, 0.5], [-1.0, 0.3], [1.4, -0.7]])
GOLDEN = GaussianBridge(Gaussian([0.0], 1.0), Gaussian([2.0], 0.25), 0.5)


def test_golden_numbers_of_one_axis():
    assert GOLDEN.cost == pytest.approx(4.719145514059879, rel=1e-15)
    np.testing.assert_allclose(GOLDEN.pairs.cross_covariance(), [[(np.sqrt(5) - 1) / 4]], rtol=1e-15)
    assert quad(GOLDEN.effort, 0, 1, epsrel=1e-13)[0] == pytest.approx(GOLDEN.cost, rel=1e-13)
    assert GOLDEN.divergence(Gaussian([0.0], 1.0)) == GOLDEN.cost
    start = Gaussian([0.4], 0.5)
    assert GOLDEN.divergence(start) == GOLDEN.cost + kl_divergence(GOLDEN.p, start)


@pytest.mark.parametrize("name", REFERENCES)
def test_marginals_lead_from_the_first_law_to_the_second(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    assert bridge.dim == 2
    assert bridge.T == bridge.interpolant.T
    for t, law in ((0.0, P), (bridge.T, Q)):
        np.testing.assert_allclose(bridge.marginal(t).mean(), law.mean(), rtol=1e-14)
        np.testing.assert_allclose(bridge.marginal(t).cov(), law.cov(), rtol=1e-14)
    # narrower and narrower towards both ends, without a jump
    for t in (1e-9, bridge.T * (1 - 1e-9)):
        law = P if t < 0.5 else Q
        np.testing.assert_allclose(bridge.marginal(t).cov(), law.cov(), atol=1e-7)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_equations_are_affine_and_push_the_first_law_to_the_second(name, backward):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    equation, affine = bridge.equation(backward=backward), bridge.affine(backward=backward)
    drift = bridge.backward_drift if backward else bridge.forward_drift
    for t in np.array([0.1, 0.5, 0.9]) * bridge.T:
        expected = operators.apply(affine.linear_at(t), X) + affine.force_at(t)
        np.testing.assert_allclose(equation.drift_at(X, t), expected, rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(equation.drift_at(X, t), drift(X, t))
        root = operators.dense(equation.noise_at(X, t), 2)
        np.testing.assert_allclose(root @ root.T, operators.dense(bridge.process.diffusion(t), 2), atol=1e-14)
    first, last = (Q, P) if backward else (P, Q)
    image = bridge.channel(bridge.T, 0.0).push(first) if backward else bridge.channel(0.0, bridge.T).push(first)
    np.testing.assert_allclose(image.mean(), last.mean(), atol=1e-13)
    np.testing.assert_allclose(image.cov(), last.cov(), atol=1e-13)


@pytest.mark.parametrize("name", ["Brownian", "axes", "turning", "Langevin"])
def test_transitions_are_those_of_the_equations(name):
    # by the equations' own moments, integrated to 1e-12: they know nothing but the drifts
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    for s, t in ((0.0, 0.6), (0.9, 0.4)):
        mine, steps = bridge.channel(s, t), bridge.affine(backward=t < s).transition(s, t)
        np.testing.assert_allclose(operators.dense(mine.gain, 2), operators.dense(steps.gain, 2), atol=1e-11)
        np.testing.assert_allclose(mine.offset, steps.offset, atol=1e-11)
        np.testing.assert_allclose(operators.dense(mine.noise, 2), operators.dense(steps.noise, 2), atol=1e-11)
    np.testing.assert_array_equal(bridge.channel(0.3, 0.3).gain, 1.0)


@pytest.mark.parametrize("name", REFERENCES)
def test_joint_laws_of_many_times_are_one(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    times = [0.0, 0.4, 0.7, bridge.T]
    joint = bridge.joint(times).cov()
    np.testing.assert_allclose(joint[:2, 6:], bridge.pairs.cross_covariance(), atol=1e-13)
    np.testing.assert_allclose(joint[2:6, 2:6], bridge.joint(times[1:3]).cov(), atol=1e-13)
    np.testing.assert_array_equal(bridge.joint([0.4]).cov(), bridge.marginal(0.4).cov())
    # by the bridges of the reference, which know nothing of transitions: Cov(x_0, x_t) = S_0 Q' + C P'
    link = bridge.interpolant.link(0.4)
    q, p = (operators.dense(part, 2) for part in (link.of_start, link.of_end))
    np.testing.assert_allclose(joint[:2, 2:4], P.cov() @ q.T + bridge.pairs.cross_covariance() @ p.T, atol=1e-13)


@pytest.mark.parametrize("name", REFERENCES)
def test_plans_given_their_start_are_conditional_laws(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    mine, other = bridge.conditional_plan(X[0]), bridge.pairs.given_first(X[0])
    np.testing.assert_allclose(mine.mean(), other.mean(), atol=1e-12)
    np.testing.assert_allclose(mine.cov(), other.cov(), atol=1e-12)
    # off the support of p it is p(y | x) Psi_T(y) still, with Psi_T = q / p(. | x_0) from a point
    whole, beside = bridge.interpolant.overall, GaussianBridge(HERE, Q, REFERENCES[name]).conditional_plan(X[0])
    logs = whole.at(X[0]).logpdf(X) + Q.logpdf(X) - whole.at(HERE.mean()).logpdf(X) - beside.logpdf(X)
    np.testing.assert_allclose(logs, logs[0], rtol=1e-11)
    with pytest.raises(ValueError, match="x must be one point, got 3"):
        bridge.conditional_plan(X)


@pytest.mark.parametrize("name", ["Brownian", "Langevin"])
def test_paths_have_the_joint_law(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    times = [0.0, 0.3, 0.8, 1.0]
    paths = bridge.sample(times, 20_000, 5)
    law, states = bridge.joint(times), np.concatenate(list(paths), axis=1)
    std = np.sqrt(np.diag(law.cov()))
    # 4.5 standard errors of 8 means and of 36 second moments: a false alarm in 3e-4 of seeds, and this one is fixed
    assert (np.abs(states.mean(axis=0) - law.mean()) < 4.5 * std / np.sqrt(len(states))).all()
    spread = np.sqrt((np.outer(std, std) ** 2 + law.cov() ** 2) / len(states))
    assert (np.abs(np.cov(states.T) - law.cov()) < 4.5 * spread).all()
    np.testing.assert_array_equal(paths, bridge.sample(times, 20_000, 5))


@pytest.mark.parametrize("name", REFERENCES)
def test_velocities_are_those_of_the_interpolant(name):
    # v averages the flows of pinned bridges, where drifts are steered by potentials
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    assert isinstance(bridge.model, InterpolantModel)
    for t in (0.0, 0.2, 0.5, 0.8, bridge.T):
        np.testing.assert_allclose(bridge.velocity(X, t), bridge.model.velocity(X, t), atol=1e-11)
        np.testing.assert_allclose(bridge.log_density(X, t), bridge.model.log_density(X, t), rtol=1e-12)
        half = 0.5 * operators.apply(bridge.process.diffusion(t), bridge.model.score(X, t))
        np.testing.assert_allclose(bridge.osmotic_velocity(X, t), half, atol=1e-12)
        np.testing.assert_allclose(bridge.forward_drift(X, t), bridge.model.velocity(X, t) + half, atol=1e-11)
        np.testing.assert_allclose(bridge.backward_drift(X, t), bridge.model.velocity(X, t) - half, atol=1e-11)


def test_the_flow_carries_one_law_to_the_other():
    bridge = GaussianBridge(P, Q, 0.5)
    x = P.sample(4, 1)
    ends = field_flow(bridge.field(), x, 0.0, 1.0, rtol=1e-11, atol=1e-12).x
    # an affine map, of three points here and of a fourth: what it makes of p has the moments of q
    design = np.column_stack([x, np.ones(4)])
    image = np.linalg.lstsq(design, ends, rcond=None)[0]
    np.testing.assert_allclose(design @ image, ends, atol=1e-9)
    np.testing.assert_allclose(image[:2].T @ P.cov() @ image[:2], Q.cov(), atol=1e-9)
    np.testing.assert_allclose(P.mean() @ image[:2] + image[2], Q.mean(), atol=1e-9)


@pytest.mark.parametrize("name", REFERENCES)
def test_from_a_point_it_is_the_law_made_from_a_point(name):
    process = GaussianBridge(P, Q, REFERENCES[name]).process
    bridge, other = GaussianBridge(HERE, Q, process), EndLaw(process, Q, HERE.mean())
    x = np.tile(HERE.mean(), (2, 1))
    np.testing.assert_allclose(bridge.forward_pull(x, 0.0), other.gradient(x, 0.0), atol=1e-13)
    for t in (0.01, 0.3, 0.7, 0.99):
        np.testing.assert_allclose(bridge.marginal(t).cov(), other.marginal(t).cov(), atol=1e-14)
        np.testing.assert_allclose(bridge.forward_pull(X, t), other.gradient(X, t), atol=1e-9)
        logs = bridge.log_potentials(X, t)[0] - other.log_h(X, t)
        # log_h is a difference of log densities, which are off by some roundings of their size
        size = np.abs(bridge.marginal(t).logpdf(X)).max()
        np.testing.assert_allclose(logs - logs[0], 0.0, rtol=0, atol=100 * np.finfo(float).eps * size)
    free = process.channel(0.0, bridge.T).at(HERE.mean())
    assert bridge.cost == pytest.approx(kl_divergence(Q, free), rel=1e-12)
    with pytest.raises(ValueError, match="density"):
        bridge.backward_drift(x, 0.0)


@pytest.mark.parametrize("name", REFERENCES)
def test_to_a_point_it_is_half_pinned_and_infinitely_dear(name):
    bridge = GaussianBridge(P, THERE, REFERENCES[name])
    assert bridge.cost == np.inf
    # the way back is the reference's own from q: nothing but its score from a point steers it
    mirror = GaussianBridge(HERE, THERE, REFERENCES[name])
    pinned = PinnedBridge(mirror.process, HERE.mean(), THERE.mean(), 0.0, mirror.T)
    for t in (0.2, 0.6, 0.9):
        np.testing.assert_allclose(mirror.forward_pull(X, t), pinned.pull(X, t), atol=1e-9)
        np.testing.assert_allclose(mirror.marginal(t).cov(), pinned.at(t).cov(), atol=1e-14)
        np.testing.assert_allclose(bridge.forward_pull(X, t), pinned.pull(X, t), atol=1e-9)
    back = bridge.channel(bridge.T, 0.4)
    np.testing.assert_allclose(operators.apply(back.gain, THERE.mean()) + back.offset, bridge.marginal(0.4).mean())
    np.testing.assert_allclose(operators.dense(back.noise, 2), bridge.marginal(0.4).cov(), atol=1e-13)
    assert np.isfinite(bridge.backward_drift(X, bridge.T)).all()
    for ask in (bridge.forward_drift, bridge.osmotic_velocity, bridge.log_potentials):
        with pytest.raises(ValueError, match="density"):
            ask(X, bridge.T)


def test_a_law_on_a_line_stays_within_reach():
    flat = Gaussian([0.0, 0.0, 1.0], np.diag([1.0, 0.0, 0.5]))
    bridge = GaussianBridge(flat, Gaussian([1.0, 1.0, 0.0], np.diag([0.0, 2.0, 0.3])), 0.4)
    assert bridge.pairs.cross_covariance()[0, 0] == 0
    assert bridge.pairs.cross_covariance()[2, 2] > 0
    law = bridge.marginal(0.5)
    mean, cov = exact_moments(bridge.equation(), 0.01, 0.5, bridge.marginal(0.01).mean(), bridge.marginal(0.01).cov())
    np.testing.assert_allclose(mean, law.mean(), atol=1e-10)
    np.testing.assert_allclose(cov, law.cov(), atol=1e-10)


@pytest.mark.parametrize("name", ["Brownian", "Langevin"])
def test_laws_without_a_density_have_transitions_and_paths(name):
    flat = Gaussian([1.0, 0.0], [[1.0, 2.0], [2.0, 4.0]])
    for p, q in ((HERE, Q), (P, THERE), (HERE, THERE), (flat, Q), (P, flat), (flat, THERE)):
        bridge = GaussianBridge(p, q, REFERENCES[name])
        joint = bridge.joint([0.0, 0.4, 1.0]).cov()
        np.testing.assert_allclose(joint[:2, 4:], bridge.pairs.cross_covariance(), atol=1e-13)
        np.testing.assert_allclose(joint[4:, 4:], q.cov(), atol=1e-12)
        for s, t in ((1.0, 0.0), (1.0, 0.4), (0.4, 0.0)):
            image = bridge.channel(s, t).push(bridge.marginal(s))
            np.testing.assert_allclose(image.cov(), bridge.marginal(t).cov(), atol=1e-13)
            np.testing.assert_allclose(image.mean(), bridge.marginal(t).mean(), atol=1e-13)
        paths = bridge.sample([0.0, 0.4, 1.0], 3, 1)
        np.testing.assert_allclose(
            (paths[0] - p.mean()) @ (np.eye(2) - p.cov() @ np.linalg.pinv(p.cov())), 0, atol=1e-13
        )


@settings(max_examples=12)
@given(st.data())
def test_any_laws_and_references_agree_with_their_interpolant(data):
    dim = data.draw(st.integers(1, 3))
    reference = data.draw(st.one_of(st.floats(0.05, 5.0), matrix_processes(dim), processes(dim)))
    laws = [Gaussian(data.draw(st.lists(st.floats(-2, 2), min_size=dim, max_size=dim)), data.draw(covariances(dim)))
            for _ in range(2)]  # fmt: skip
    process, end = reference_process(reference)
    whole = process.channel(0.0, end)
    assume(not operators.singular(whole.noise) and (whole.gain.ndim == 2 or whole.gain.all()))
    bridge = GaussianBridge(*laws, process)
    t = data.draw(st.floats(0.1, 0.9)) * bridge.T
    blend = bridge.interpolant.at(t)
    law, joint = bridge.marginal(t), bridge.joint([0.0, t])
    size = np.abs(joint.cov()).max()
    assert np.abs(law.cov() - joint.cov()[dim:, dim:]).max() <= 1e-10 * size
    of_start, of_end = (operators.dense(part, dim) for part in (blend.first, blend.second))
    cross = laws[0].cov() @ of_start.T + bridge.pairs.cross_covariance() @ of_end.T
    assert np.abs(joint.cov()[:dim, dim:] - cross).max() <= 1e-9 * size


def test_without_noise_it_is_the_displacement_of_optimal_transport():
    flow = InterpolantModel(optimal_pairs(P, Q), linear())
    gaps = []
    for e in (1e-2, 1e-4, 1e-8):
        bridge = GaussianBridge(P, Q, e)
        np.testing.assert_allclose(bridge.marginal(0.4).cov(), flow.marginal(0.4).cov(), atol=3 * e)
        gaps.append(np.abs(bridge.forward_drift(X, 0.4) - flow.velocity(X, 0.4)).max())
        # drifts differ by D score / 2, velocities by e^2
        assert np.abs(bridge.velocity(X, 0.4) - flow.velocity(X, 0.4)).max() <= 10 * e**2 + 1e-13
    np.testing.assert_allclose(gaps[1] / gaps[0], 1e-2, rtol=0.05)


def test_in_much_noise_the_ends_are_independent():
    for e in (1e3, 1e6):
        cross = GaussianBridge(P, Q, e).pairs.cross_covariance()
        # C = S_0 S_1 / e + O(e^-3)
        np.testing.assert_allclose(e * cross, P.cov() @ Q.cov(), atol=2 / e)


def test_many_axes_are_many_bridges():
    means, one, two = np.arange(40.0), np.linspace(0.5, 2.0, 40), np.linspace(3.0, 0.1, 40)
    whole = GaussianBridge(Gaussian(means, one), Gaussian(-means, two), VPLinear(0.5, 3.0))
    assert whole.channel(0.2, 0.8).gain.shape == (40,)
    dense = GaussianBridge(Gaussian(means, np.diag(one)), Gaussian(-means, np.diag(two)), VPLinear(0.5, 3.0))
    x = np.random.default_rng(0).standard_normal((3, 40))
    parts = []
    for j in (0, 7, 39):
        part = GaussianBridge(Gaussian(means[[j]], one[j]), Gaussian(-means[[j]], two[j]), VPLinear(0.5, 3.0))
        np.testing.assert_allclose(whole.forward_drift(x, 0.3)[:, [j]], part.forward_drift(x[:, [j]], 0.3), rtol=1e-12)
        parts.append(part.cost)
    np.testing.assert_allclose(whole.backward_drift(x, 0.8), dense.backward_drift(x, 0.8), rtol=1e-11, atol=1e-11)
    assert whole.cost == pytest.approx(dense.cost, rel=1e-13)


def test_points_keep_their_shape_and_precision():
    x = np.zeros((2, 3, 1), dtype=np.float32)
    for ask in (GOLDEN.forward_drift, GOLDEN.backward_drift, GOLDEN.velocity, GOLDEN.osmotic_velocity,
                GOLDEN.forward_pull, GOLDEN.backward_pull):  # fmt: skip
        assert ask(x, 0.3).shape == (2, 3, 1)
        assert ask(x, 0.3).dtype == np.float32
        assert np.shape(ask([0.0], 0.3)) == (1,)
    assert [one.shape for one in GOLDEN.log_potentials(x, 0.3)] == [(2, 3), (2, 3)]
    assert "R^1" in repr(GOLDEN)


def test_bad_arguments_are_refused():
    mixture = GaussianMixture.isotropic([[0.0], [1.0]], 1.0)
    with pytest.raises(TypeError, match="p must be a Gaussian"):
        GaussianBridge(mixture, GOLDEN.q, 0.5)
    with pytest.raises(TypeError, match="reference"):
        GaussianBridge(GOLDEN.p, GOLDEN.q, "Brownian")
    with pytest.raises(ValueError, match="dimension"):
        GaussianBridge(GOLDEN.p, P, 0.5)
    with pytest.raises(ValueError, match="dimension"):
        GaussianBridge(GOLDEN.p, GOLDEN.q, LANGEVIN)
    with pytest.raises(ValueError, match="reaches every direction"):
        GaussianBridge(P, Q, LinearProcess(np.zeros((2, 2)), [[1.0], [0.0]]))
    for times in ([0.5, 0.5], [], [0.3, 1.2]):
        with pytest.raises(ValueError, match="times"):
            GOLDEN.joint(times)
    for ask in (GOLDEN.marginal, GOLDEN.effort, lambda t: GOLDEN.forward_drift([0.0], t)):
        with pytest.raises(ValueError, match="t must"):
            ask(1.5)
