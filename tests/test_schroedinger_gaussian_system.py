"""The system behind Gaussian bridges: its equations, the static potentials, Hessians early and late, transitions."""

import numpy as np
import pytest
from schroedinger_references import LANGEVIN, REFERENCES

from refdiff import Gaussian, VPLinear, operators
from refdiff.schroedinger import GaussianBridge
from refdiff.validation.numeric import derivative, jacobian

P, Q = Gaussian([0.3, -0.4], [[1.2, 0.4], [0.4, 0.6]]), Gaussian([1.0, 0.8], [[0.5, -0.2], [-0.2, 0.9]])
X = np.array([[0.2, 0.5], [-1.0, 0.3], [1.4, -0.7]])


@pytest.mark.parametrize("name", ["Brownian", "turning", "Langevin"])
def test_potentials_solve_the_backward_and_the_forward_equation(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    process, t = bridge.process, 0.6
    f, d = (operators.dense(part, 2) for part in (process.drift(t), process.diffusion(t)))
    free = X @ f.T + process.force(t)
    psi, hat = (lambda u, i=i: bridge.log_potentials(X, u)[i] for i in (0, 1))
    for log, pull, sign, source in (
        (psi, bridge.forward_pull, 1.0, 0.0),
        (hat, bridge.backward_pull, -1.0, float(np.trace(f))),
    ):
        g = pull(X, t)
        bend = jacobian(lambda y, pull=pull: np.asarray(pull(y, t)), X, 0.05)
        spread = 0.5 * (np.einsum("ij,nij->n", d, bend) + np.einsum("ni,ij,nj->n", g, d, g))
        # an eighth-order stencil with steps of 0.004: 1e-13 of rounding in each logarithm, over the step
        rate = derivative(log, t, 0.004)
        np.testing.assert_allclose(rate + (free * g).sum(axis=1) + sign * spread, -source, atol=1e-9)


@pytest.mark.parametrize("name", REFERENCES)
def test_potentials_multiply_to_the_density_and_are_those_of_the_static_plan(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    end = bridge.T
    for t in (0.0, 0.4, end):
        one, other = bridge.log_potentials(X, t)
        np.testing.assert_allclose(one + other, bridge.marginal(t).logpdf(X), rtol=1e-13, atol=1e-13)
    # gamma = p q exp(f + g - c): Psi_T is q exp(g) and Psi_0 exp(-f), up to constants
    late = bridge.log_potentials(X, end)[0] - Q.logpdf(X) - bridge.plan.g(X)
    early = bridge.log_potentials(X, 0.0)[0] + bridge.plan.f(X)
    np.testing.assert_allclose(late, late[0], atol=1e-11)
    np.testing.assert_allclose(early, early[0], atol=1e-11)
    np.testing.assert_allclose(bridge.log_potentials(P.mean(), 0.0)[0], 0.0, atol=1e-14)


@pytest.mark.parametrize("name", REFERENCES)
def test_gradients_are_those_of_the_potentials(name):
    bridge = GaussianBridge(P, Q, REFERENCES[name])
    for t in (0.0, 0.3, 0.8, bridge.T):
        for i, pull in ((0, bridge.forward_pull), (1, bridge.backward_pull)):
            slope = jacobian(lambda y, i=i, t=t: np.asarray(bridge.log_potentials(y, t)[i]), X, 0.05)
            np.testing.assert_allclose(slope, pull(X, t), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", REFERENCES)
def test_hessians_do_not_jump_where_their_formula_changes(name):
    system = GaussianBridge(P, Q, REFERENCES[name]).system
    half = 0.5 * system.interpolant.T
    early, late = (operators.dense(system.backward(t)[0], 2) for t in (half, half * (1 + 1e-12)))
    # 1e-12 of change, and rounding of covariances of noise that comes in through another axis
    np.testing.assert_allclose(early, late, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REFERENCES)
def test_means_and_transitions_are_those_of_the_marginals(name):
    system = GaussianBridge(P, Q, REFERENCES[name]).system
    end = system.interpolant.T
    for s, t in ((0.0, 0.4), (0.3, 0.9), (0.2, end)):
        before, after = system.marginal(s), system.marginal(t)
        np.testing.assert_allclose(system.mean(s), before.mean(), atol=1e-13)
        image, back = system.channel(s, t).push(before), system.reverse(s, t).push(after)
        np.testing.assert_allclose(image.mean(), after.mean(), atol=1e-12)
        np.testing.assert_allclose(image.cov(), after.cov(), atol=1e-12)
        np.testing.assert_allclose(back.mean(), before.mean(), atol=1e-12)
        np.testing.assert_allclose(back.cov(), before.cov(), atol=1e-12)


def test_transitions_follow_one_another():
    system = GaussianBridge(P, Q, LANGEVIN).system
    whole, parts = system.channel(0.1, 0.9), system.channel(0.4, 0.9).compose(system.channel(0.1, 0.4))
    np.testing.assert_allclose(whole.gain, parts.gain, atol=1e-12)
    np.testing.assert_allclose(whole.noise, parts.noise, atol=1e-12)


@pytest.mark.parametrize("process", [0.5, VPLinear(3.0, 3.0)], ids=["Brownian", "stationary"])
def test_a_bridge_backwards_in_time_is_the_bridge_back(process):
    # a reversible reference has no direction but by the law that it starts with
    there, back = GaussianBridge(P, Q, process), GaussianBridge(Q, P, process)
    np.testing.assert_allclose(there.backward_drift(X, 0.3), -back.forward_drift(X, 0.7), atol=1e-12)
    np.testing.assert_allclose(there.forward_drift(X, 0.3), -back.backward_drift(X, 0.7), atol=1e-12)
    np.testing.assert_allclose(there.channel(0.8, 0.3).gain, back.channel(0.2, 0.7).gain, atol=1e-13)
    np.testing.assert_allclose(there.channel(0.8, 0.3).noise, back.channel(0.2, 0.7).noise, atol=1e-13)


def test_a_reference_that_has_the_laws_is_its_own_bridge():
    end = LANGEVIN.channel(0.0, 1.0).push(P)
    bridge = GaussianBridge(P, Gaussian(end.mean(), end.cov()), LANGEVIN)
    assert bridge.cost == pytest.approx(0.0, abs=1e-14)
    np.testing.assert_allclose(bridge.forward_pull(X, 0.4), 0.0, atol=1e-13)
    np.testing.assert_allclose(bridge.log_potentials(X, 0.4)[0], 0.0, atol=1e-13)
    np.testing.assert_allclose(bridge.channel(0.2, 0.7).gain, LANGEVIN.channel(0.2, 0.7).gain, atol=1e-13)


def test_precisions_of_narrow_ends_keep_their_digits():
    # Psihat does not know how narrow q is: at T its Hessian is that of the noise and of x_0 given x_T
    for width in (1e-3, 1e-6, 1e-9):
        bridge = GaussianBridge(Gaussian([0.0], 1.0), Gaussian([1.0], width**2), 0.5)
        gain = float(bridge.system.backward(1.0)[0])
        # Psihat_0 is p / N(1; x, eps), of precision 1 - 1 / eps = -1, and -1 / (1 - eps) after noise eps; then width^2
        assert gain == pytest.approx(-2.0, rel=10 * width**2 + 1e-12)
