"""Bridges of point sets: plain sums, both marginals, every reference, limits of the noise, samples, refusals."""

import numpy as np
import pytest
from schroedinger_cases import REFERENCES
from scipy.special import logsumexp

from refdiff import Empirical, FlowMatching, Gaussian
from refdiff.metrics.couplings import optimal_coupling
from refdiff.path_measures import EndLaw, EndWeight, bridge_paths
from refdiff.schroedinger import point_bridge, point_plan
from refdiff.stochastic import solve
from refdiff.transport import Unconverged

RNG = np.random.default_rng(11)
P = Empirical(RNG.standard_normal((6, 2)), RNG.dirichlet(np.ones(6)))
Q = Empirical(1.5 * RNG.standard_normal((8, 2)), RNG.dirichlet(np.ones(8)))
EACH_REFERENCE = pytest.mark.parametrize("reference", REFERENCES.values(), ids=list(REFERENCES))


def plain_plan(p, q, log_kernel, turns=500):
    """Masses u_i K_ij v_j with the weights as sums, by turns."""
    g = np.zeros(len(q))
    for _ in range(turns):
        f = np.log(p) - logsumexp(log_kernel + g, axis=1)
        g = np.log(q) - logsumexp(log_kernel + f[:, None], axis=0)
    return np.exp(f[:, None] + log_kernel + g), g


@EACH_REFERENCE
def test_its_pairs_are_the_entropic_plan_of_the_reference(reference):
    bridge = point_bridge(P, Q, reference, tolerance=1e-12)
    step = bridge.process.channel(0.0, bridge.T)
    kernel = np.array([step.at(x).logpdf(Q.means) for x in P.means])
    masses, g = plain_plan(P.weights, Q.weights, kernel)
    np.testing.assert_allclose(bridge.pairs.first.weights.reshape(8, 6).T, masses, atol=1e-12)
    for t, law in ((0.0, P), (bridge.T, Q)):
        np.testing.assert_array_equal(bridge.marginal(t).means, law.means)
        np.testing.assert_allclose(bridge.marginal(t).weights, law.weights, atol=2e-12)
    # Psi by a plain sum
    x, t = np.array([[0.3, -0.4], [1.0, 0.2]]), 0.35 * bridge.T
    later = bridge.process.channel(t, bridge.T)
    sums = np.array([logsumexp(g + later.at(one).logpdf(Q.means)) for one in x])
    found = bridge.log_potentials(x, t)[0]
    np.testing.assert_allclose(found - found[0], sums - sums[0], atol=1e-11)


@EACH_REFERENCE
def test_products_of_potentials_are_mixtures_over_pairs(reference):
    bridge = point_bridge(P, Q, reference)
    for t in np.array([0.02, 0.5, 0.97]) * bridge.T:
        x = bridge.sample([t], 5, 2)[0]
        density = bridge.log_density(x, t)
        # rounding of squares over the noise, which is up to a hundred times smaller than in the middle
        for law in (bridge.marginal(t), bridge.model.marginal(t)):
            np.testing.assert_allclose(law.logpdf(x), density, rtol=1e-11, atol=1e-9)
        np.testing.assert_allclose(bridge.model.velocity(x, t), bridge.velocity(x, t), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("epsilon", [0.02, 0.3, 5.0])
def test_the_first_marginal_is_exact_and_the_second_as_good_as_sinkhorns(epsilon):
    bridge = point_bridge(P, Q, epsilon, T=2.0, tolerance=1e-8)
    np.testing.assert_allclose(bridge.marginal(0.0).weights, P.weights, rtol=1e-12)
    masses = bridge.pairs.first.weights.reshape(8, 6)
    np.testing.assert_allclose(masses.sum(axis=0), P.weights, rtol=1e-11)
    assert np.abs(masses.sum(axis=1) - Q.weights).sum() < 2e-8
    last = bridge.marginal(2.0)
    assert last.count == 8
    np.testing.assert_allclose(last.weights, masses.sum(axis=1), rtol=1e-11)
    plan = point_plan(P, Q, epsilon, T=2.0, tolerance=1e-8)
    assert plan.epsilon == 2 * epsilon
    # potentials of Sinkhorn and of the bridge differ by half a turn of its iteration
    np.testing.assert_allclose(plan.coupling(), masses.T, atol=2e-8)


def test_the_drift_is_the_pull_to_the_expected_end():
    bridge, x, t = point_bridge(P, Q, 0.5), np.array([0.2, -0.7]), 0.6
    share = bridge.second.log_weights + Gaussian(x, 0.2).logpdf(Q.means)
    share = np.exp(share - logsumexp(share))
    np.testing.assert_allclose(bridge.forward_drift(x, t), (share @ Q.means - x) / 0.4, rtol=1e-12)
    weight = EndWeight(bridge.process, bridge.second)
    np.testing.assert_allclose(bridge.forward_pull(x, t), weight.gradient(x, t), rtol=1e-12)
    np.testing.assert_allclose(bridge.log_potentials(x, t)[0], weight.log_h(x, t), rtol=1e-12)
    assert bridge.conditional_plan(x).count == 8


def test_without_noise_paths_are_the_straight_lines_of_the_optimal_coupling():
    p, q = (Empirical(one.means[:6]) for one in (P, Q))
    best = optimal_coupling(p, q, 2.0)
    bridge = point_bridge(p, q, 1e-3)
    masses = np.zeros((6, 6))
    masses[best.rows, best.columns] = best.masses
    np.testing.assert_allclose(bridge.pairs.first.weights.reshape(6, 6).T, masses, atol=1e-12)
    for t in (0.2, 0.7):
        x = (1 - t) * p.means[best.rows] + t * q.means[best.columns]
        chord = q.means[best.columns] - p.means[best.rows]
        # lines of other pairs pass some deviations off
        assert np.median(np.abs(bridge.forward_drift(x, t) - chord)) < 1e-8
        assert np.median(np.abs(bridge.velocity(x, t) - chord)) < 1e-8


def test_much_noise_makes_the_ends_independent():
    # masses differ from products by the mean of (x - Ex) . (y - Ey) / eps
    for epsilon in (1e3, 1e6):
        bridge = point_bridge(P, Q, epsilon)
        masses = bridge.pairs.first.weights.reshape(8, 6).T
        product = np.outer(P.weights, Q.weights)
        x, y = P.means - P.mean(), Q.means - Q.mean()
        np.testing.assert_allclose((masses / product - 1) * epsilon, x @ y.T, rtol=0, atol=20 / np.sqrt(epsilon))


def test_a_reference_that_forgets_where_it_began_pairs_at_random():
    bridge = point_bridge(P, Q, FlowMatching())  # alpha_T = 0
    product = np.outer(P.weights, Q.weights)
    np.testing.assert_allclose(bridge.pairs.first.weights.reshape(8, 6).T, product, rtol=1e-9)
    x = bridge.sample([0.5], 4, 1)[0]
    np.testing.assert_allclose(bridge.forward_pull(x, 0.5), 0.0, atol=1e-14)
    np.testing.assert_allclose(bridge.marginal(0.5).logpdf(x), bridge.log_density(x, 0.5), atol=1e-12)


def test_one_point_at_either_end():
    one, other = Empirical([[0.3, -0.2]]), point_bridge(Empirical([[0.3, -0.2]]), Q, 0.5)
    known, x = EndLaw(other.process, Q, [0.3, -0.2]), np.array([[0.5, 0.1], [-1.0, 0.4]])
    np.testing.assert_allclose(other.forward_pull(x, 0.4), known.gradient(x, 0.4), rtol=1e-10)
    pinned = point_bridge(P, one, 0.5)
    np.testing.assert_allclose(pinned.forward_drift(x, 0.4), (one.means - x) / 0.6, rtol=1e-12)
    both = point_bridge(one, Empirical([[1.0, 1.0]]), 0.5)
    np.testing.assert_allclose(both.marginal(0.5).mean(), [0.65, 0.4], rtol=1e-13)
    np.testing.assert_allclose(both.marginal(0.5).cov(), 0.125 * np.eye(2), rtol=1e-13)


def test_its_equations_carry_the_points_to_each_other():
    bridge, n = point_bridge(P, Q, 0.5), 1500
    times = 1 - np.geomspace(1, 1e-3, 60)
    found = solve(bridge.equation(), P.sample(n, 1), times, seed=2)
    back = solve(bridge.equation(backward=True), Q.sample(n, 3), (1 - times), seed=4)
    for x, t in ((found, float(times[-1])), (back, float(1 - times[-1]))):
        law = bridge.marginal(t)
        z = (x.mean(axis=0) - law.mean()) / np.sqrt(np.diag(law.cov()) / n)
        assert (np.abs(z) < 4.5).all()
        assert (np.abs(x.var(axis=0) / np.diag(law.cov()) - 1) < 4.5 * np.sqrt(4 / n)).all()


def test_samples_are_pairs_and_bridges_between_them():
    bridge = point_bridge(P, Q, REFERENCES["Langevin"])
    paths = bridge.sample([0.0, 0.4, 1.0], 4000, 5)
    law = bridge.marginal(0.4)
    assert (np.abs(paths[1].mean(axis=0) - law.mean()) < 4.5 * np.sqrt(np.diag(law.cov()) / 4000)).all()
    shares = (paths[2][:, None] == Q.means).all(axis=2).mean(axis=0)
    assert (np.abs(shares - Q.weights) < 4.5 * np.sqrt(Q.weights / 4000)).all()
    x, y = bridge.sample_pairs(10, 6)
    assert bridge_paths(bridge.process, x, y, [0.5], 0.0, 1.0, 1).shape == (1, 10, 2)


def test_points_without_weight_and_float32():
    wide = Empirical(np.vstack([Q.means, [[9.0, 9.0]]]), np.append(Q.weights, 0.0))
    bridge, other = point_bridge(P, wide, 0.5), point_bridge(P, Q, 0.5)
    x = np.zeros((3, 2), dtype=np.float32)
    np.testing.assert_allclose(bridge.forward_drift(x, 0.5), other.forward_drift(x, 0.5), rtol=1e-6)
    assert bridge.velocity(x, 0.5).dtype == np.float32
    assert bridge.marginal(0.5).dim == 2
    assert "6 x 8 on R^2" in repr(other)


def test_refusals():
    with pytest.raises(ValueError, match="q must be a law of points"):
        point_bridge(P, Gaussian([0.0, 0.0], 1.0), 0.5)
    with pytest.raises(TypeError, match="p must be a law"):
        point_bridge(P.means, Q, 0.5)
    with pytest.raises(ValueError, match="dimension"):
        point_bridge(P, Empirical([[0.0]]), 0.5)
    with pytest.raises(Unconverged):
        point_bridge(P, Q, 1e-3, max_iterations=2)
    with pytest.raises(ValueError, match="t must not be that of an end without density"):
        point_bridge(P, Q, 0.5).forward_drift([0.0, 0.0], 1.0)
