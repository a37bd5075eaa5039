"""Entropy and heat of exact models: balances, laws, splits and controls, against grids, stencils and divergences."""

import numpy as np
import pytest

from refdiff import Empirical, ExactModel, Gaussian, GaussianMixture, operators
from refdiff.distributions import kl_divergence, random_mixture
from refdiff.dynamics import differential_entropy
from refdiff.expectations import MonteCarlo, Quadrature, integral
from refdiff.metrics import divergence
from refdiff.physics import Clock, controlled_equation, entropy_balance, frozen, total_production
from refdiff.processes import (
    AffineProcess,
    LinearProcess,
    critically_damped_langevin,
    variance_preserving,
    with_velocity,
)
from refdiff.schedules import FlowMatching, VEPower, VPLinear
from refdiff.validation.numeric import derivative, extrapolate

RULE = Quadrature(1e-9)
LOOSE = Quadrature(1e-5)  # of sums that gain as many digits with the last halving as they had
LINE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
PLANE = GaussianMixture.full(
    [[0.0, 1.0], [1.5, -1.0]], [[[0.6, 0.2], [0.2, 0.5]], [[0.5, 0.0], [0.0, 0.4]]], [0.6, 0.4]
)
TURNING = LinearProcess([[-1.0, 2.0], [-1.5, -0.5]], [[1.0, 0.0], [0.4, 0.7]], force=[0.3, -1.0])
MODELS = {
    "vp": ExactModel(LINE, VPLinear(0.1, 6.0)),
    "ve": ExactModel(LINE, VEPower(0.5, T=1.0)),
    "flow matching": ExactModel(LINE, FlowMatching()),
    "offset": ExactModel(LINE, AffineProcess(VPLinear(0.5, 4.0), lambda t: (np.sin(t), np.cos(t), -np.sin(t)))),
    "per axis": ExactModel(PLANE, AffineProcess([VPLinear(0.1, 6.0), FlowMatching()])),
    "matrix": ExactModel(PLANE, variance_preserving([[1.2, 0.5], [0.0, 0.9]])),
    "turning with a force": ExactModel(PLANE, TURNING),
}
T = 0.3


def mean(model, t, function):
    """A sum over a lattice, of values (n,)."""
    return float(integral(model.marginal(t), function, rule(model), 10.0)[0])


def rule(model):
    return RULE if model.dim == 1 else LOOSE


def squared(weight, a):
    return np.einsum("ni,ij,nj->n", a, weight, a)


@pytest.mark.parametrize("name", MODELS)
def test_every_quantity_is_the_expectation_that_defines_it(name):
    model = MODELS[name]
    found = entropy_balance(model, T, rule(model))
    law, d = model.marginal(T), operators.dense(model.process.diffusion(T), model.dim)
    inverse = np.linalg.inv(d / 2)

    def drift(x):
        return controlled_equation(model, Clock(T, 1.0)).drift_at(x, 0.0)

    size = 1e-8 * (1 + found.production.value)
    assert abs(found.entropy.value + mean(model, T, law.logpdf)) < 1e-8
    assert abs(found.rate.value - mean(model, T, lambda x: model.velocity_divergence(x, T))) < size
    assert abs(found.production.value - mean(model, T, lambda x: squared(inverse, model.velocity(x, T)))) < size
    heat = mean(model, T, lambda x: np.einsum("ni,ij,nj->n", drift(x), inverse, model.velocity(x, T)))
    assert abs(found.heat.value - heat) < size
    assert found.heat.route == "closed"
    assert found.production.value > 0
    if name == "ve":
        assert found.housekeeping is None
        assert found.excess is None
        return
    end = frozen(model, T).stationary
    losing = mean(model, T, lambda x: squared(d / 2, law.score(x) - end.score(x)))
    keeping = mean(model, T, lambda x: squared(inverse, drift(x) - end.score(x) @ d / 2))
    assert abs(found.excess.value - losing) < size
    assert abs(found.housekeeping.value - keeping) < size
    assert found.housekeeping.value >= 0
    assert (found.housekeeping.value > 0.1) == (name == "turning with a force")


@pytest.mark.parametrize("name", MODELS)
def test_the_balance_holds_and_the_rate_is_the_slope_of_the_entropy(name):
    model = MODELS[name]
    found = entropy_balance(model, T, rule(model))
    assert abs(found.rate.value - found.production.value + found.heat.value) < 1e-13 * (1 + found.production.value)
    if found.excess is not None:
        left = found.production.value - found.housekeeping.value - found.excess.value
        assert abs(left) < 1e-11 * (1 + found.production.value)
    if model.dim == 1:
        slope = derivative(lambda u: entropy_balance(model, T + u, RULE).entropy.value, 0.0, 0.01)
        assert abs(slope - found.rate.value) < 1e-7 * (1 + abs(slope))
        near = derivative(lambda u: _beyond(model, T + u), 0.0, 0.01)
        assert abs(near + found.non_gaussian.value) < 1e-7 * (1 + abs(slope))


def _beyond(model, t):
    law = model.marginal(t)
    return divergence(law, Gaussian(law.mean(), law.cov()), "kl", RULE).value


def test_detailed_balance_produces_what_is_lost_to_the_equilibrium():
    model = MODELS["vp"]
    end, ends = Gaussian([0.0], 1.0), (0.05, 0.8)
    lost = [divergence(model.marginal(t), end, "kl", RULE).value for t in ends]
    made = total_production(model, *ends, RULE)
    assert abs(made.value - (lost[0] - lost[1])) < 1e-8
    for t in ends:
        found = entropy_balance(model, t, RULE)
        slope = derivative(lambda u, t=t: divergence(model.marginal(t + u), end, "kl", RULE).value, 0.0, 0.004)
        np.testing.assert_allclose([found.production.value, found.excess.value], -slope, rtol=1e-5)
        assert found.housekeeping.value == 0


def test_a_turning_equilibrium_goes_on_producing():
    model = ExactModel(frozen(MODELS["turning with a force"], 0.0).stationary, TURNING)
    found = entropy_balance(model, 0.7)
    assert abs(found.excess.value) < 1e-12
    assert abs(found.rate.value) < 1e-12
    np.testing.assert_allclose(found.production.value, found.housekeeping.value, rtol=1e-10)
    np.testing.assert_allclose(found.heat.value, found.production.value, rtol=1e-10)
    np.testing.assert_allclose(total_production(model, 0.2, 0.7).value, 0.5 * found.production.value, rtol=1e-9)


def test_gaussians_are_closed_and_close_to_equilibrium_nothing_is_lost():
    model = ExactModel(Gaussian([0.0, 0.0], 1.0), VPLinear())
    rest = entropy_balance(model, 0.5)
    for part in (rest.rate, rest.production, rest.heat, rest.excess, rest.housekeeping):
        assert abs(part.value) < 1e-13
        assert part.route == "closed"
    e = 1e-6
    near = entropy_balance(ExactModel(Gaussian([e], 1.0), VPLinear(2.0, 2.0)), 0.0)
    # Pi = beta e^2 / 2 for a mean of e, beta = 2
    np.testing.assert_allclose(near.production.value, e * e, rtol=1e-8)
    start, end = Gaussian([1.0], 0.3), Gaussian([0.0], 1.0)
    model = ExactModel(start, VPLinear())
    last = model.marginal(1.0)
    lost = kl_divergence(start, end) - kl_divergence(Gaussian(last.mean(), last.cov()), end)
    np.testing.assert_allclose(total_production(model, 0.0, 1.0).value, lost, rtol=1e-9)


def test_many_dimensions_and_single_points_are_no_exception():
    many = entropy_balance(ExactModel(random_mixture(64, 4, 1), VPLinear()), 0.3, MonteCarlo(200, 1))
    assert many.production.value > many.non_gaussian.value > 0
    point = entropy_balance(ExactModel(Empirical([[1.0]]), VPLinear(2.0, 2.0)), 0.5)
    # p = N(e^-1/2, 1 - e^-1): v = -(x - x / P + m / P), all in closed form
    m2, p = np.exp(-1.0), -np.expm1(-1.0)
    np.testing.assert_allclose(point.production.value, m2 + (1 - 1 / p) ** 2 * p, rtol=1e-12)
    assert point.production.route == "closed"
    still = entropy_balance(ExactModel(Gaussian([0.0], 0.5), VPLinear(0.0, 4.0)), 0.0)
    assert (still.production.value, still.heat.value, still.housekeeping) == (0, 0, None)


def test_langevin_has_a_finite_production_once_velocities_are_told_from_positions():
    start = GaussianMixture.isotropic([[-1.0], [1.5]], [0.5, 0.8], [0.4, 0.6])
    model = ExactModel(with_velocity(start, 0.25), critically_damped_langevin(1))
    with pytest.raises(ValueError, match="infinite unless `parity`"):
        entropy_balance(model, 0.4, MonteCarlo(100, 1))
    found, end = entropy_balance(model, 0.4, LOOSE, parity=[1, -1]), frozen(model, 0.4).stationary

    def told(u):
        law = model.marginal(0.4 + u)
        return np.array([differential_entropy(law, LOOSE).value, -divergence(law, end, "kl", LOOSE).value])

    # central differences with errors in h^2 and h^4 taken out
    slopes = extrapolate([(told(h) - told(-h)) / (2 * h) for h in (0.04, 0.02, 0.01)], first=2, step=2)
    np.testing.assert_allclose(slopes, [found.rate.value, found.excess.value], rtol=1e-6)
    # friction alone leads to an equilibrium: nothing keeps house
    assert found.housekeeping.value < 1e-12
    # a stationary covariance of a position and a velocity is not even
    mixing = LinearProcess([[-1.0, 0.5], [0.3, -2.0]], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="parity must leave the stationary law"):
        entropy_balance(ExactModel(Gaussian([0.0, 0.0], 1.0), mixing), 0.4, parity=[1, -1])


def test_draws_agree_with_quadrature():
    """|z| < 4.5 for the three that are drawn: a false alarm in 7e-6 of seeds for each."""
    exact, drawn = (entropy_balance(MODELS["offset"], T, way) for way in (RULE, MonteCarlo(4000, 3)))
    for name in ("entropy", "rate", "production", "excess", "non_gaussian"):
        one, other = getattr(drawn, name), getattr(exact, name)
        assert abs(one.value - other.value) < 4.5 * one.error
        assert one.route == "monte carlo"


def test_controls_change_heat_and_nothing_is_produced_while_all_is_stopped():
    model = MODELS["matrix"]
    found = entropy_balance(model, T, rule(model))
    for rate in (1.0, 0.0, -1.0, -2.0):
        made, gained, heat = found.under_control(rate)
        equation, d = controlled_equation(model, Clock(T, rate)), operators.dense(model.process.diffusion(T), 2)
        inverse, law = np.linalg.inv(d / 2), model.marginal(T)

        def flow(x, equation=equation, d=d, law=law):
            return equation.drift_at(x, 0.0) - law.score(x) @ d / 2

        defined = mean(model, T, lambda x, flow=flow, w=inverse: squared(w, flow(x)))
        given = mean(model, T, lambda x, e=equation, flow=flow, w=inverse: np.einsum(
            "ni,ij,nj->n", e.drift_at(x, 0.0), w, flow(x)))  # fmt: skip
        np.testing.assert_allclose(made.value, defined, atol=1e-8 * (1 + abs(defined)))
        np.testing.assert_allclose(heat.value, given, atol=1e-8 * (1 + abs(given)))
        np.testing.assert_allclose(gained.value, rate * found.rate.value)
    np.testing.assert_allclose(found.under_control(-1.0)[2].value, found.heat.value + 2 * found.rate.value, rtol=1e-12)


def test_refusals_name_what_is_missing():
    with pytest.raises(TypeError, match="model must be an ExactModel"):
        entropy_balance(LINE, T)
    with pytest.raises(ValueError, match="route must be"):
        entropy_balance(MODELS["vp"], T)
    with pytest.raises(ValueError, match="no density"):
        entropy_balance(ExactModel(Empirical([[0.0], [1.0]]), VPLinear()), 0.0, RULE)
    straight = ExactModel(Gaussian([0.0], 0.5), FlowMatching())
    with pytest.raises(ValueError, match="drift must be finite"):  # alpha = 0 there
        entropy_balance(straight, 1.0)
    with pytest.raises(ValueError, match="infinite"):  # the line is straight where it starts: no noise, and a current
        entropy_balance(straight, 0.0)
    with pytest.raises(ValueError, match="end must be later"):
        total_production(MODELS["vp"], 0.5, 0.5, RULE)
