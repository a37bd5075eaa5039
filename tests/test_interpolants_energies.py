"""Energies: golden numbers, their order, clocks of even speed, and what is infinite."""

import mixtures
import numpy as np
import pytest
from pairs import build

from refdiff import Empirical, Gaussian
from refdiff.channels import Channel
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.interpolants import (
    InterpolantModel,
    brownian,
    conditional_energy,
    energy_bounds,
    energy_density,
    linear,
    marginal_energy,
    matching_gap,
    optimal_schedule,
    over_time,
    trigonometric,
    unexplained,
)
from refdiff.transport import image_pairs, independent, optimal_pairs
from refdiff.validation.numeric import derivative


def gaussians(m, s, way=None, d=1):
    return InterpolantModel(independent(Gaussian(np.zeros(d), 1.0), Gaussian(np.full(d, m), s * s)), way or linear())


@pytest.mark.parametrize(
    ("m", "s", "least", "plain"),
    [(0.0, 2.0, 1.466873708001, 5 - np.pi), (0.5, 3.0, 4.803743, 5.537611), (0.0, 1.0, None, 2 - np.pi / 2)],
)
def test_golden_numbers(m, s, least, plain):
    found = energy_bounds(gaussians(m, s))
    assert found.transport.value == pytest.approx(m * m + (s - 1) ** 2, abs=1e-14)
    assert found.conditional.value == pytest.approx(m * m + 1 + s * s, rel=1e-13)
    assert found.marginal.value == pytest.approx(m * m + 1 + s * s - s * np.pi / 2, rel=1e-12)
    assert found.marginal.value == pytest.approx(plain, abs=5e-7)
    if least is not None:
        assert found.retimed.value == pytest.approx(least, abs=5e-7 if m else 1e-12)
    if not m:
        assert found.retimed.value == pytest.approx((1 + s - 2 * s / np.sqrt(1 + s * s)) ** 2, abs=1e-12)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("s", [0.1, 1.0, 7.0])
def test_the_energy_of_axes_adds(d, s):
    assert marginal_energy(gaussians(0.4, s, d=d)).value == pytest.approx(
        d * (0.16 + 1 + s * s - s * np.pi / 2), rel=1e-9
    )


LINE = {
    "mixtures": independent(mixtures.law("full", 1, 2), mixtures.law("isotropic", 1, 3)),
    "a mixture and points": independent(Gaussian([0.5], 1.5), mixtures.law("points", 1, 2)),
}


@pytest.mark.parametrize(
    ("name", "way"), [("mixtures", trigonometric()), ("a mixture and points", linear())], ids=["mixtures", "points"]
)
def test_energies_are_in_order_and_differ_by_the_gap(name, way):
    model, rule = InterpolantModel(LINE[name], way), Quadrature(1e-6)  # whose finer sums are good to 1e-10
    found = energy_bounds(model, rule)
    assert found.transport.value < found.retimed.value < found.marginal.value < found.conditional.value
    gap = over_time(lambda t: matching_gap(model, t, route=rule))
    assert found.conditional.value - found.marginal.value == pytest.approx(gap.value, rel=1e-9)


def test_the_printed_rule_spends_what_the_first_clock_spends():
    for model in (gaussians(0.0, 2.0), InterpolantModel(build("Gaussians"), linear())):
        plain = marginal_energy(model).value
        assert optimal_schedule(model, power=1.0).energy.value == pytest.approx(plain, rel=1e-10)
        least = optimal_schedule(model).energy.value
        powers = [optimal_schedule(model, power=p).energy.value for p in (0.4, 0.6)]
        assert least < min(powers)
        assert max(powers) < plain


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_clock_spends_what_it_says_and_has_its_rates(power):
    model = gaussians(0.5, 3.0)
    found = optimal_schedule(model, power=power)
    assert found.clock(0.0)[0] == 0
    assert found.clock(1.0)[0] == 1
    for t in (0.2, 0.55, 0.9):
        rho, rate, bend = found.clock(t)
        assert derivative(lambda u: found.clock(u)[0], t, 0.01) == pytest.approx(rate, rel=1e-6)
        assert derivative(lambda u: found.clock(u)[1], t, 0.01) == pytest.approx(bend, rel=1e-5)
        assert rate * energy_density(model, rho).value ** power == pytest.approx(found.spent[-1], rel=1e-9)
    if power == 0.5:  # even speed
        retimed = InterpolantModel(model.pairs, linear().retimed(found.clock))
        densities = [energy_density(retimed, t).value for t in (0.05, 0.4, 0.95)]
        np.testing.assert_allclose(densities, found.energy.value, rtol=1e-9)


def test_the_best_clock_does_not_depend_on_the_first_one():
    uneven = linear().retimed(lambda t: (t * t / 2 + t / 2, t + 0.5, 1.0))
    first, second = (optimal_schedule(gaussians(0.5, 3.0, way)) for way in (linear(), uneven))
    assert first.energy.value == pytest.approx(second.energy.value, rel=1e-9)
    for t in (0.1, 0.6):
        rho = second.clock(t)[0]
        assert rho * rho / 2 + rho / 2 == pytest.approx(first.clock(t)[0], rel=1e-8)
    # on [0, T] everything is slower by T
    longer = InterpolantModel(gaussians(0.5, 3.0).pairs, linear().retimed(lambda t: (t / 4, 0.25, 0.0), 4.0))
    slow = optimal_schedule(longer)
    assert slow.energy.value == pytest.approx(first.energy.value / 4, rel=1e-9)
    assert slow.clock(4.0)[0] == 4
    np.testing.assert_allclose(slow.clock(2.4), np.multiply(first.clock(0.6), [4, 1, 0.25]), rtol=1e-8)
    assert energy_bounds(longer).transport.value == pytest.approx(4.25 / 4)


def test_a_velocity_that_stops_on_the_way_makes_a_clock_that_jumps():
    # N(0, 1) to N(0, 4) is narrowest at 1/5, where k = 0
    found = optimal_schedule(gaussians(0.0, 2.0))
    assert 0.2 in found.knots.round(7)
    below, above = (found.clock(found.spent[1] / found.spent[-1] + e)[0] for e in (-1e-6, 1e-6))
    assert below < 0.2 < above


def test_maps_without_crossings_spend_what_their_pairs_do():
    model = InterpolantModel(
        optimal_pairs(Gaussian([0.0, 1.0], [1.0, 0.3]), Gaussian([2.0, 0.0], [0.5, 2.0])), linear()
    )
    found = energy_bounds(model)
    values = [found.transport.value, found.retimed.value, found.marginal.value, found.conditional.value]
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


def test_bridges_have_no_conditional_energy_and_points_no_distance_to_mixtures_in_the_plane():
    bridge = gaussians(0.5, 3.0, brownian(0.4))
    for infinite in (conditional_energy, unexplained):
        with pytest.raises(
            ValueError, match="noise whose rate has a finite square, got a spread and no noise at t = 0"
        ):
            infinite(bridge)
    found = energy_bounds(bridge)
    assert found.conditional is None
    assert found.transport.value < found.retimed.value < found.marginal.value
    plane = InterpolantModel(
        independent(mixtures.law("isotropic", 2, 2), Empirical([[0.0, 1.0], [2.0, 2.0]])), linear()
    )
    found = energy_bounds(plane, MonteCarlo(40, 0))
    assert found.transport is None
    assert found.retimed.value < found.marginal.value < found.conditional.value
    exact = energy_density(plane, 0.4, Quadrature())
    drawn = energy_density(plane, 0.4, MonteCarlo(4000, 0))
    assert abs(drawn.value - exact.value) < 4.5 * drawn.error


def test_what_does_not_move_spends_nothing():
    law = Gaussian([3.0, 1.0], [[2.0, 0.5], [0.5, 1.0]])
    for pairs in (optimal_pairs(law, law), image_pairs(mixtures.law("full", 2, 2), Channel(1.0, 0.0, 0.0))):
        found = energy_bounds(InterpolantModel(pairs, linear()), None if pairs.count == 1 else MonteCarlo(9, 0))
        # to the square of the rounding of what does not move
        assert 0 <= found.retimed.value <= 1e-28
        assert 0 <= found.marginal.value <= 1e-28
        assert 0 <= found.conditional.value <= 1e-28


STILL = image_pairs(Gaussian([0.0], 1.0), Channel(1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: conditional_energy(3), TypeError, "model must be an InterpolantModel"),
        (lambda: marginal_energy(3), TypeError, "model must be an InterpolantModel"),
        (lambda: energy_density(3, 0.5), TypeError, "model must be an InterpolantModel"),
        (lambda: optimal_schedule(3), TypeError, "model must be an InterpolantModel"),
        (lambda: energy_bounds(3), TypeError, "model must be an InterpolantModel"),
        (lambda: optimal_schedule(gaussians(0.0, 2.0), power=0.0), ValueError, "power must lie in"),
        (lambda: optimal_schedule(gaussians(0.0, 2.0), tolerance=0.0), ValueError, "tolerance must lie in"),
        (lambda: marginal_energy(InterpolantModel(LINE["mixtures"], linear())), ValueError, "route must be"),
        (lambda: optimal_schedule(gaussians(0.0, 2.0)).clock(1.5), ValueError, "t must lie in"),
        (lambda: optimal_schedule(InterpolantModel(STILL, linear())), ValueError, "model must have a vel"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
