"""Steering at a cost: the regulator of textbooks, the least cost, divergences of controlled paths, sampled costs."""

import numpy as np
import pytest

from refdiff import Gaussian
from refdiff.distributions import kl_divergence
from refdiff.path_measures import (
    AffineControl,
    AffineEquation,
    EndLaw,
    FeynmanKac,
    Quadratic,
    affine_control,
    affine_forward,
    controlled,
    girsanov,
    linear_cost,
    optimal_control,
    path_costs,
    path_log_weights,
)
from refdiff.processes import AffineProcess, LinearProcess
from refdiff.schedules import VEPower
from refdiff.stochastic import StochasticEquation, solve

BROWNIAN = AffineEquation(lambda t: 0.0, lambda t: 0.0, lambda t: 1.0, 1)
NOTHING = Quadratic([[0.0]])
TURNING = LinearProcess([[0.0, 2.0], [-1.0, -1.0]], [[0.6, 0.0], [0.3, 1.1]], force=[0.3, -0.2])
V = Quadratic([[1.0, 0.3], [0.3, 0.5]], [0.2, -0.1], 0.4)
PHI = Quadratic([[0.5, 0.0], [0.0, 1.0]], [0.3, 0.2], -0.2)


def test_steering_brownian_motion_to_the_origin():
    # g = c x^2 / 2: u* = -c x / (1 + c (1 - t)) and the least cost c x^2 / (2 (1 + c)) + log(1 + c) / 2
    c, x = 3.0, 0.7
    formula = FeynmanKac(BROWNIAN, NOTHING, Quadratic([[c]]), 0.0, 1.0)
    least = c * x * x / (2 * (1 + c)) + 0.5 * np.log(1 + c)
    assert abs(formula.log_h([x], 0.0) + least) < 1e-13
    u = affine_control(BROWNIAN, formula)
    np.testing.assert_allclose(u(np.array([[x]]), 0.4), [[-c * x / (1 + 0.6 * c)]], rtol=1e-12)
    cost = linear_cost(BROWNIAN, u, NOTHING, Quadratic([[c]]), Gaussian([x], 0.0), 0.0, 1.0)
    assert abs(cost.value - least) < 1e-11
    assert cost.running == 0
    # the effort is the divergence of the controlled paths: of their ends here, given which both are bridges
    end = Gaussian([x / (1 + c)], 1 / (1 + c))
    assert abs(cost.effort - kl_divergence(end, Gaussian([x], 1.0))) < 1e-11


def test_no_affine_control_costs_less():
    equation, law = affine_forward(TURNING, 2), Gaussian([0.4, -0.5], 0.0)
    formula = FeynmanKac(equation, V, PHI, 0.0, 1.0)
    best, rng = affine_control(equation, formula), np.random.default_rng(0)
    least = linear_cost(equation, best, V, PHI, law, 0.0, 1.0).value
    assert abs(least + formula.log_h([0.4, -0.5], 0.0)) < 1e-10
    gain, offset = 0.1 * rng.standard_normal((2, 2)), 0.1 * rng.standard_normal(2)
    more = []
    for size in (0.1, 1.0):
        other = AffineControl(lambda t, s=size: best.gain(t) + s * gain, lambda t, s=size: best.offset(t) + s * offset)
        more.append(linear_cost(equation, other, V, PHI, law, 0.0, 1.0).value - least)
    assert 0 < 50 * more[0] < more[1] < 200 * more[0]  # a square, but for what the paths change


def test_costs_of_sampled_paths():
    equation, start = affine_forward(TURNING, 2), np.array([0.4, -0.5])
    formula = FeynmanKac(equation, V, PHI, 0.0, 1.0)
    base = equation.equation()
    u = optimal_control(base, formula)
    times = np.linspace(0.0, 1.0, 65)
    steered = controlled(base, u)
    paths = solve(steered, np.tile(start, (2000, 1)), times, seed=4, trajectory=True)
    found = path_costs(paths, times, u, lambda x, t: -V.at(x), lambda x: -PHI.at(x))
    # 4.5 standard errors, and the first order of the steps
    assert abs(found.value + formula.log_h(start, 0.0)) < 4.5 * found.error + 0.02
    # under the best control each path weighs the same: log e^(int V) phi - log dP*/dP is the logarithm of h
    free = path_log_weights(paths, times, lambda x, t: V.at(x), PHI.at)
    assert (free - girsanov(steered, base, paths, times).log_ratio).std() < 0.2 * free.std()
    # the effort of paths is their divergence from the free ones, chain by chain
    effort = path_costs(paths, times, u)
    ratio = girsanov(steered, base, paths, times)
    np.testing.assert_allclose(effort.value, 0.5 * ratio.energy.mean(), rtol=1e-12)


def test_controls_of_other_noises():
    class Line:
        def gradient(self, x, _t):
            return np.broadcast_to([1.0, 2.0], x.shape)

    x = np.random.default_rng(1).standard_normal((3, 2))
    kinds = {
        "number": (StochasticEquation(lambda x, t: 0 * x, lambda t: 2.0, 2), [2.0, 4.0]),
        "columns": (StochasticEquation(lambda x, t: 0 * x, lambda t: [[1.0], [3.0]], 2, motions=1), [7.0]),
    }
    for equation, u in kinds.values():
        np.testing.assert_allclose(optimal_control(equation, Line())(x, 0.0), np.tile(u, (3, 1)))
    axes = StochasticEquation(lambda x, t: 0 * x, lambda x, t: x, 2, additive=False)
    matrices = StochasticEquation(lambda x, t: 0 * x, lambda x, t: x[:, :, None] * np.eye(2), 2, additive=False)
    for equation in (axes, matrices):
        u = optimal_control(equation, Line())
        np.testing.assert_allclose(u(x, 0.0), x * [1.0, 2.0])
        np.testing.assert_allclose(controlled(equation, u).drift_at(x, 0.0), x * x * [1.0, 2.0])


def test_making_a_law_from_a_point_costs_its_divergence():
    # PODB-77: control cost = divergence of the ends, where the reference starts at the same point
    ends = Gaussian([2.0], 0.25)
    made = EndLaw(AffineProcess(VEPower(0.5, T=1.0)), ends, [0.0])
    base = controlled(made.equation(), lambda x, t: np.zeros_like(x))
    times = np.linspace(0.0, 1.0, 129)
    free = StochasticEquation(lambda x, t: 0 * x, lambda t: 1.0, 1)
    u = optimal_control(free, made)
    paths = solve(base, np.zeros((4000, 1)), times[:-1], seed=2, trajectory=True)
    found = path_costs(paths, times[:-1], u)
    exact = kl_divergence(ends, Gaussian([0.0], 1.0))
    assert abs(found.value - exact) < 4.5 * found.error + 0.02 * exact


def test_refusals():
    base = BROWNIAN.equation()
    paths, zero = np.zeros((3, 4, 1)), lambda x, t: np.zeros((len(x), 1))
    with pytest.raises(TypeError, match="equation"):
        controlled(1.0, zero)
    with pytest.raises(TypeError, match="control"):
        controlled(base, 1.0)
    with pytest.raises(ValueError, match="control"):
        controlled(base, lambda x, t: np.zeros((len(x), 2))).drift_at(np.zeros((2, 1)), 0.0)
    with pytest.raises(TypeError, match="gain"):
        AffineControl(1.0, zero)
    for times, states in (([0.0, -1.0, -2.0], paths), ([0.0, 1.0, 2.0], paths[:, :1])):
        with pytest.raises(ValueError, match="times"):
            path_costs(states, times, zero)
    with pytest.raises(TypeError, match="law"):
        linear_cost(BROWNIAN, AffineControl(zero, zero), NOTHING, NOTHING, 0.0, 0.0, 1.0)
    for law, end, name in ((Gaussian([0.0, 0.0], 1.0), NOTHING, "law"), (Gaussian([0.0], 1.0), V, "terminal")):
        with pytest.raises(ValueError, match=f"^{name} must have dimension 1"):
            linear_cost(BROWNIAN, AffineControl(zero, zero), NOTHING, end, law, 0.0, 1.0)
    two = FeynmanKac(BROWNIAN, NOTHING, [NOTHING, NOTHING], 0.0, 1.0)
    with pytest.raises(ValueError, match="weight"):
        affine_control(BROWNIAN, two)
