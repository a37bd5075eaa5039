"""Anyone's potentials: residuals of the system and its ends, gauge, order of the differences; costs by potentials."""

import numpy as np
import pytest
from schroedinger_cases import LAWS, PLANE, REFERENCES, SECOND
from scipy.integrate import quad

from refdiff import Empirical, Gaussian
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.path_measures import log_ratio
from refdiff.schroedinger import (
    GaussianBridge,
    MixtureBridge,
    SchroedingerSystem,
    point_bridge,
    steering_cost,
    steering_effort,
)
from refdiff.stochastic import forward_equation, solve

EACH_REFERENCE = pytest.mark.parametrize("reference", REFERENCES.values(), ids=list(REFERENCES))


@EACH_REFERENCE
def test_the_potentials_of_bridges_solve_the_system_and_others_do_not(reference):
    bridge = MixtureBridge(LAWS["full"], SECOND["growing"], reference)
    system = SchroedingerSystem(bridge.marginal(0.0), bridge.marginal(bridge.T), reference)
    x, t = bridge.sample([0.5], 3, 1)[0], 0.5
    found = system.residuals(bridge.log_potentials, x, t, step=0.01)
    # second differences: rounding of 1e-16 of logarithms of some units over 0.01^2, a few terms
    assert max(found.forward.max(), found.backward.max()) < 1e-8
    exchanged = system.residuals(lambda y, s: bridge.log_potentials(y, s)[::-1], x, t)
    assert min(exchanged.forward.max(), exchanged.backward.max()) > 0.01
    ends = system.end_residuals(bridge.log_potentials, x)
    np.testing.assert_allclose(np.stack(ends), 0.0, atol=1e-10)
    scaled = system.residuals(lambda y, s: tuple(np.add(bridge.log_potentials(y, s), ([2.0], [-2.0]))), x, t)
    assert max(scaled.forward.max(), scaled.backward.max()) < 1e-8


def test_bridges_of_gaussians_and_of_points_solve_it_too():
    p, q = Gaussian([0.1, 0.3], [[0.5, 0.2], [0.2, 0.4]]), Gaussian([1.0, -0.2], 0.3)
    bridge, x = GaussianBridge(p, q, REFERENCES["VP"]), np.array([[0.3, 0.1], [1.0, -0.5]])
    system = SchroedingerSystem(p, q, REFERENCES["VP"])
    found = system.residuals(bridge.log_potentials, x, 0.5)
    assert max(found.forward.max(), found.backward.max()) < 1e-8
    assert np.abs(np.stack(system.end_residuals(bridge.log_potentials, x))).max() < 1e-11
    points = point_bridge(LAWS["points"], Empirical([[1.0, 0.0], [-1.0, 0.5]]), 0.5)
    found = SchroedingerSystem(p, q, 0.5).residuals(points.log_potentials, x, 0.4)
    assert max(found.forward.max(), found.backward.max()) < 1e-8


def test_residuals_fall_with_the_eighth_power_of_the_steps():
    points = point_bridge(LAWS["points"], Empirical([[1.0, 0.0], [-1.0, 0.5]]), 0.5)
    system, x = SchroedingerSystem(PLANE, PLANE, 0.5), np.array([[0.1, 0.2], [0.4, -0.3]])
    steps = np.array([0.05, 0.025])
    errors = [np.max(np.stack(system.residuals(points.log_potentials, x, 0.5, step=h, lapse=0.2 * h))) for h in steps]
    order = np.log2(errors[0] / errors[1])
    assert 7 < order < 9


def test_steering_costs_are_integrals_of_efforts():
    first, second = (Gaussian([m], v) for m, v in ((-0.5, 0.4), (0.7, 0.6)))
    bridge, route = MixtureBridge(first, second, 0.6), Quadrature(1e-11)
    total = quad(lambda t: float(steering_effort(bridge, t, route).value), 0.0, 1.0, epsabs=1e-11)[0]
    cost = steering_cost(bridge, route)
    np.testing.assert_allclose(cost.value, total, rtol=1e-9)
    known = GaussianBridge(Gaussian(bridge.marginal(0.0).mean(), bridge.marginal(0.0).cov()),
                           Gaussian(bridge.marginal(1.0).mean(), bridge.marginal(1.0).cov()), 0.6)  # fmt: skip
    np.testing.assert_allclose(cost.value, known.cost, rtol=1e-9)
    np.testing.assert_allclose(steering_effort(bridge, 0.3, route).value, known.effort(0.3), rtol=1e-9)
    np.testing.assert_allclose(steering_cost(known).value, known.cost, rtol=1e-13)
    np.testing.assert_allclose(steering_cost(bridge, route, 0.2, 0.9).value, steering_cost(known, None, 0.2, 0.9).value)
    assert steering_effort(known, 0.3).value == known.effort(0.3)


def test_steering_to_points_costs_more_and_more():
    bridge = point_bridge(Empirical([[-1.0], [0.5]]), Empirical([[-0.4], [1.3]]), 0.7)
    route = Quadrature(1e-10)
    part = quad(lambda t: float(steering_effort(bridge, t, route).value), 0.0, 0.6, epsabs=1e-10)[0]
    np.testing.assert_allclose(steering_cost(bridge, route, 0.0, 0.6).value, part, rtol=1e-8)
    assert steering_cost(bridge, route).value == np.inf
    for end in (Gaussian([0.3, -0.1], [[1.0, 0.0], [0.0, 0.0]]), LAWS["points"]):
        assert steering_cost(MixtureBridge(PLANE, end, 0.5)).value == np.inf
    assert steering_cost(GaussianBridge(Gaussian([0.0], 1.0), Gaussian([0.3], 0.0), 0.5)).value == np.inf
    # near the end one point is left, and the cost is that of its Gaussian: log(1 / (1 - t)) / 2
    late = [float(steering_cost(bridge, route, 0.0, 1 - left).value) for left in (1e-4, 1e-6)]
    np.testing.assert_allclose(late[1] - late[0], 0.5 * np.log(100), rtol=1e-3)


def test_the_cost_is_the_mean_log_ratio_of_paths():
    bridge, times = MixtureBridge(LAWS["isotropic"], PLANE, 0.5), np.linspace(0.0, 0.9, 121)
    x = bridge.marginal(0.0).sample(400, 1)
    paths = solve(bridge.equation(), x, times, seed=2, trajectory=True)
    ratios = log_ratio(bridge.equation(), forward_equation(bridge.process, 2), paths, times)
    cost = steering_cost(bridge, MonteCarlo(20_000, 3), 0.0, 0.9)
    # 4.5 standard errors, and 1% for the steps
    error = 4.5 * np.hypot(ratios.std() / np.sqrt(400), cost.error)
    assert abs(ratios.mean() - cost.value) < error + 0.01 * cost.value


def test_refusals():
    system = SchroedingerSystem(PLANE, PLANE, 0.5)
    with pytest.raises(ValueError, match="t must lie"):
        system.residuals(lambda x, t: (x[:, 0], x[:, 0]), [0.0, 0.0], 0.001)
    with pytest.raises(ValueError, match="log_potentials must answer"):
        system.residuals(lambda x, t: (x, x), [0.0, 0.0], 0.5)
    with pytest.raises(TypeError, match="q must be"):
        SchroedingerSystem(PLANE, np.sin, 0.5)
    with pytest.raises(ValueError, match="dimension"):
        SchroedingerSystem(PLANE, Gaussian([0.0], 1.0), 0.5)
    with pytest.raises(TypeError, match="bridge must be"):
        steering_cost(np.sin, Quadrature())
    with pytest.raises(ValueError, match="route must be given"):
        steering_effort(MixtureBridge(PLANE, PLANE, 0.5), 0.5)
