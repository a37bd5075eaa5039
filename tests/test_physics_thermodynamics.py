"""Entropy and heat of exact models: balances, laws, splits and controls, against grids, stencils and divergences."""

from functools import cache

import numpy as np
import pytest

from refdiff import Empirical, ExactModel, Gaussian, GaussianMixture, operators
from refdiff.distributions import kl_divergence, random_mixture
from refdiff.dynamics import differential_entropy
from refdiff.expectations import MonteCarlo, Quadrature, integral
from refdiff.metrics import divergence, fisher_divergence
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


@cache
def balance(name):
    """The balance of one of the models."""
    return entropy_balance(MODELS[name], T, rule(MODELS[name]))


def means(model, t, function):
    """Sums over one lattice, of values that are each (n,)."""
    return integral(model.marginal(t), lambda x: np.stack(function(x), axis=1), rule(model), 10.0)[0]


def rule(model):
    return RULE if model.dim == 1 else LOOSE


def squared(weight, a):
    return np.einsum("ni,ij,nj->n", a, weight, a)


@pytest.mark.parametrize("name", MODELS)
def test_every_quantity_is_the_expectation_that_defines_it(name):
    model, found = MODELS[name], balance(name)
    law, d = model.marginal(T), operators.dense(model.process.diffusion(T), model.dim)
    inverse, equation = np.linalg.inv(d / 2), controlled_equation(model, Clock(T, 1.0))
    end = None if name == "ve" else frozen(model, T).stationary

    def defined(x):
        v, f = model.velocity(x, T), equation.drift_at(x, 0.0)
        given = np.einsum("ni,ij,nj->n", f, inverse, v)
        values = [-law.logpdf(x), model.velocity_divergence(x, T), squared(inverse, v), given]
        if end is None:
            return values
        at_rest = end.score(x)
        return [*values, squared(d / 2, law.score(x) - at_rest), squared(inverse, f - at_rest @ d / 2)]

    kinds = ("entropy", "rate", "production", "heat", "excess", "housekeeping")
    for kind, exact in zip(kinds, means(model, T, defined), strict=end is not None):
        assert abs(getattr(found, kind).value - exact) < 1e-8 * (1 + found.production.value)
    assert found.heat.route == "closed"
    assert found.production.value > 0
    if end is None:
        assert found.housekeeping is None
        assert found.excess is None
        return
    assert found.housekeeping.value >= 0
    assert (found.housekeeping.value > 0.1) == (name == "turning with a force")


@pytest.mark.parametrize("name", MODELS)
def test_the_balance_holds_and_the_rate_is_the_slope_of_the_entropy(name):
    model, found = MODELS[name], balance(name)
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
    end, ends = Gaussian([0.0], 1.0), (0.2, 0.8)
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
    model, found = MODELS["matrix"], balance("matrix")
    d = operators.dense(model.process.diffusion(T), 2)
    inverse, law, rates = np.linalg.inv(d / 2), model.marginal(T), (1.0, 0.0, -1.0, -2.0)
    equations = [controlled_equation(model, Clock(T, rate)) for rate in rates]

    def defined(x):
        drifts, pull = [one.drift_at(x, 0.0) for one in equations], law.score(x) @ d / 2
        flows = [drift - pull for drift in drifts]
        return [squared(inverse, v) for v in flows] + [
            np.einsum("ni,ij,nj->n", f, inverse, v) for f, v in zip(drifts, flows, strict=True)
        ]

    exact = means(model, T, defined).reshape(2, -1).T
    for rate, (produced, given) in zip(rates, exact, strict=True):
        made, gained, heat = found.under_control(rate)
        np.testing.assert_allclose(made.value, produced, atol=1e-8 * (1 + abs(produced)))
        np.testing.assert_allclose(heat.value, given, atol=1e-8 * (1 + abs(given)))
        np.testing.assert_allclose(gained.value, rate * found.rate.value)
    np.testing.assert_allclose(found.under_control(-1.0)[2].value, found.heat.value + 2 * found.rate.value, rtol=1e-12)


def test_errors_are_those_of_what_is_drawn():
    model, way = MODELS["offset"], MonteCarlo(300, 1)
    found, law = entropy_balance(model, T, way), model.marginal(T)
    near = Gaussian(law.mean(), law.cov())
    assert found.entropy.error == divergence(law, near, "kl", way).error
    n = found.non_gaussian.error
    assert n == fisher_divergence(law, near, way, weight=model.process.diffusion(T)).error / 2
    assert [one.error for one in (found.rate, found.production, found.excess)] == [n] * 3
    # production r^2 (Pi_G + n), gain r (dS_G/dt + n), heat the difference of both
    assert [one.error for one in found.under_control(-2.0)] == pytest.approx([4 * n, 2 * n, 6 * n])
    # one seed for all times: errors add up as values do; over this time both change by 0.033 of themselves at most
    made = total_production(model, T, T + 0.01, way)
    np.testing.assert_allclose([made.value, made.error], [0.01 * found.production.value, 0.01 * n], rtol=0.033)


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
