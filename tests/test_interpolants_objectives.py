"""Objectives: closed forms against quadrature and draws, what is given, targets, couplings, integrals in time."""

import mixtures
import numpy as np
import pytest
from pairs import SHIFT, TURN, Turning, build

from refdiff import Empirical, Gaussian
from refdiff.channels import Channel
from refdiff.expectations import Estimate, MonteCarlo, Quadrature
from refdiff.interpolants import (
    InterpolantModel,
    brownian,
    conditional_loss,
    linear,
    marginal_loss,
    matching_gap,
    over_time,
    posterior_variance,
    trigonometric,
)
from refdiff.interpolants.objectives import GIVEN
from refdiff.interpolants.targets import TARGETS
from refdiff.transport import component_pairs, gaussian_pairs, independent, optimal_pairs, point_pairs

LINE = {
    "mixtures": independent(mixtures.law("full", 1, 2), mixtures.law("isotropic", 1, 3)),
    "points and a mixture": independent(mixtures.law("points", 1, 3), mixtures.law("full", 1, 2)),
    "a mixture and points": independent(mixtures.law("full", 1, 2), mixtures.law("points", 1, 3)),
    "matched": component_pairs(
        mixtures.law("full", 1, 2, weights=[0.5, 0.5]), mixtures.law("full", 1, 2, 3, weights=[0.5, 0.5]), np.eye(2) / 2
    ),
    "Gaussians": gaussian_pairs(Gaussian([0.3], 1.0), Gaussian([1.0], 4.0), 0.7),
}
WAYS = {"linear": linear(), "noisy": linear(0.4), "trigonometric": trigonometric(0.3)}


def curved(x, t):
    return np.sin(2 * x) + t


# with noise and a density at the end sums go over both: for few components
CASES = [
    *((name, "linear", given) for name in LINE for given in GIVEN),
    *((name, "noisy", "pair") for name in LINE),
    ("points and a mixture", "noisy", "first"), ("a mixture and points", "noisy", "second"),
    ("matched", "noisy", "first"), ("matched", "noisy", "second"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "way", "given"), CASES)
def test_a_conditional_loss_is_the_marginal_one_and_a_gap(name, way, given):
    model, rule = InterpolantModel(LINE[name], WAYS[way]), Quadrature()
    for f in (curved,) if name == "matched" else (curved, Channel(-0.4, 1.0, 0.0)):
        whole = conditional_loss(model, f, 0.4, given=given, route=rule)
        parts = marginal_loss(model, f, 0.4, route=rule).value + matching_gap(model, 0.4, given=given, route=rule).value
        assert whole.value == pytest.approx(parts, rel=1e-10)
        assert whole.route == "quadrature"
    drawn = conditional_loss(model, curved, 0.4, given=given, route=MonteCarlo(5_000, 3))
    exact = conditional_loss(model, curved, 0.4, given=given, route=rule).value
    assert abs(drawn.value - exact) < 4.5 * drawn.error  # 7e-6 of false alarm each, the seed is fixed


@pytest.mark.parametrize("name", ["matched", "Gaussians"])
def test_less_is_left_to_chance_where_one_end_is_given_and_the_same_without_noise(name):
    rule = Quadrature()
    noisy, bare = (InterpolantModel(LINE[name], WAYS[way]) for way in ("noisy", "linear"))
    gaps = {given: float(matching_gap(noisy, 0.6, given=given, route=rule).value) for given in GIVEN}
    assert gaps["first"] < gaps["pair"] - 1e-3
    assert gaps["second"] < gaps["pair"] - 1e-3
    # without noise the other end is known from x_t and this one
    same = [float(matching_gap(bare, 0.6, given=given, route=rule).value) for given in GIVEN]
    assert np.ptp(same) == 0


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["number", "matrix"])
def test_gaussian_pairs_have_closed_losses(kind, target, given):
    if kind == "number":
        model, f, t = InterpolantModel(LINE["Gaussians"], WAYS["trigonometric"]), Channel(0.4, 0.2, 0.0), 0.3
    else:
        model, f, t = InterpolantModel(build("Gaussians"), Turning()), Channel(TURN, SHIFT, 0.0), 0.7
    closed = conditional_loss(model, f, t, target=target, given=given)
    assert closed.route == "closed"
    assert closed.error == 0
    gap, marginal = matching_gap(model, t, target=target, given=given), marginal_loss(model, f, t, target=target)
    assert closed.value == pytest.approx(marginal.value + gap.value, rel=1e-12)
    function = lambda x, _: x @ np.atleast_2d(f.gain).T + f.offset  # noqa: E731
    route = Quadrature() if kind == "number" else MonteCarlo(5_000, 1)
    other = conditional_loss(model, function, t, target=target, given=given, route=route)
    assert abs(other.value - closed.value) <= (1e-9 * closed.value if kind == "number" else 4.5 * other.error)
    other = matching_gap(model, t, target=target, given=given, route=route)
    assert abs(other.value - gap.value) <= (1e-9 * gap.value if kind == "number" else 4.5 * other.error + 1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_the_optimum_reaches_nothing_of_the_marginal_loss_and_the_gap_of_the_other(target):
    model = InterpolantModel(LINE["mixtures"], WAYS["noisy"])
    optimum = {
        "velocity": model.velocity, "first": model.expected_first, "second": model.expected_second,
        "noise": model.expected_noise, "score": model.score,
    }[target]  # fmt: skip
    rule = Quadrature()
    assert marginal_loss(model, optimum, 0.7, target=target, route=rule).value < 1e-24
    gap = matching_gap(model, 0.7, target=target, route=rule).value
    assert conditional_loss(model, optimum, 0.7, target=target, route=rule).value == pytest.approx(gap, rel=1e-12)
    x = model.sample(5, 0.7, 0)
    found = posterior_variance(model, x, 0.7, target=target)
    for row, one in zip(x, found, strict=True):
        if target in ("first", "second"):
            j = {"first": 0, "second": 1}[target]
            assert one == pytest.approx(model.posterior(row, 0.7).cov()[j, j], rel=1e-10)
        else:
            assert one > 0
    assert posterior_variance(model, x.reshape(5, 1, 1), 0.7, target=target).shape == (5, 1)
    assert posterior_variance(model, x.astype(np.float32), 0.7).dtype == np.float32


def test_minimisers_do_not_know_what_is_given():
    # affine f: the best one under each of the three losses, from normal equations by differences of a quadratic
    model, best = InterpolantModel(LINE["Gaussians"], WAYS["trigonometric"]), []
    for given in GIVEN:

        def loss(a, b, given=given):
            return conditional_loss(model, Channel(float(a), float(b), 0.0), 0.4, given=given).value

        at = loss(0, 0)
        slope = [(loss(1, 0) - loss(-1, 0)) / 2, (loss(0, 1) - loss(0, -1)) / 2]
        bend = [loss(1, 0) + loss(-1, 0) - 2 * at, loss(0, 1) + loss(0, -1) - 2 * at]
        mixed = (loss(1, 1) + loss(-1, -1) - loss(1, -1) - loss(-1, 1)) / 4
        best.append(np.linalg.solve([[bend[0], mixed], [mixed, bend[1]]], -np.array(slope)))
    slope = model.velocity_jacobian([0.0], 0.4)[0, 0]
    np.testing.assert_allclose(best, np.tile([slope, model.velocity([0.0], 0.4)[0]], (3, 1)), rtol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_optimal_pairs_leave_less_than_independent_ones(noise):
    p, q = Gaussian([0.0, 1.0], [1.0, 0.5]), Gaussian([2.0, 0.0], [0.3, 2.0])
    gaps = []
    for pairs in (independent(p, q), optimal_pairs(p, q)):
        model = InterpolantModel(pairs, linear(noise))
        gaps.append(over_time(lambda t, model=model: matching_gap(model, t), scale=1.0).value)
    assert gaps[1] < gaps[0]
    if not noise:
        assert gaps[1] == pytest.approx(0, abs=1e-12)  # straight paths that do not cross
        # independent: sum of s_0 s_1 pi / 2 of the axes
        assert gaps[0] == pytest.approx(np.pi / 2 * (np.sqrt(0.3) + 1.0), rel=1e-9)


def test_points_given_as_ends_are_taken_one_by_one():
    start, f = Gaussian([1.0, 1.0], 0.5), Channel(0.3, [1.0, 0.0], 0.0)
    points, twice = (
        Empirical([[0.0, 0.0], [3.0, 1.0]]),
        Empirical([[0.0, 0.0], [3.0, 1.0], [0.0, 0.0]], [0.2, 0.5, 0.3]),
    )
    model, same = (InterpolantModel(independent(start, one), linear(0.4)) for one in (points, twice))
    closed = conditional_loss(model, f, 0.4, given="second")
    assert closed.route == "closed"
    drawn = conditional_loss(model, f, 0.4, given="second", route=MonteCarlo(5_000, 0))
    assert abs(drawn.value - closed.value) < 4.5 * drawn.error
    known = conditional_loss(same, f, 0.4, given="second", route=Quadrature())
    assert known.value == pytest.approx(closed.value, rel=1e-9)
    # of pairs of points one end says the other one
    pair, rule = InterpolantModel(point_pairs([[0.0], [1.0]], [[2.0], [5.0]]), linear(0.3)), Quadrature()
    gaps = [matching_gap(pair, 0.5, given=given, route=rule).value for given in GIVEN]
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9)


def test_integrals_in_time_have_weights_errors_and_limits():
    power = lambda p: over_time(lambda t: Estimate(t**p, 0.0, "closed"), 2.0)  # noqa: E731
    assert power(3).value == pytest.approx(4.0, rel=1e-14)
    assert power(3).error < 1e-12
    weighted = over_time(lambda t: Estimate(1.0, 0.5, "closed"), 1.0, weight=lambda t: 6 * t * (1 - t))
    assert (weighted.value, weighted.error) == (pytest.approx(1.0), pytest.approx(0.5))
    with pytest.raises(ValueError, match="function must be smooth and have an integral"):
        over_time(lambda t: Estimate(1 / t, 0.0, "closed"))
    model = InterpolantModel(LINE["Gaussians"], linear())
    drawn = over_time(lambda t: marginal_loss(model, curved, t, route=MonteCarlo(500, 0)))
    exact = over_time(lambda t: marginal_loss(model, curved, t, route=Quadrature()))
    assert abs(drawn.value - exact.value) < 4.5 * drawn.error


BRIDGE = InterpolantModel(LINE["Gaussians"], brownian(0.5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: marginal_loss(LINE["mixtures"], curved, 0.4), TypeError, "model must be an InterpolantModel"),
        (lambda: marginal_loss(BRIDGE, 3.0, 0.4), TypeError, "predictor must be a function"),
        (lambda: marginal_loss(BRIDGE, Channel(1.0, 0.0, 0.5), 0.4), ValueError, "predictor must have no noise"),
        (lambda: marginal_loss(BRIDGE, Channel(np.eye(2), 0.0, 0.0), 0.4), ValueError, "predictor must act on"),
        (lambda: marginal_loss(BRIDGE, lambda x, t: x[:, 0], 0.4, route=Quadrature()), ValueError, "predictor must"),
        (lambda: marginal_loss(BRIDGE, curved, 0.4), ValueError, "route must be a Quadrature or a MonteCarlo"),
        (lambda: marginal_loss(BRIDGE, curved, 0.4, target="flow"), ValueError, "target must be one of"),
        (lambda: conditional_loss(BRIDGE, curved, 0.4, given="z", route=Quadrature()), ValueError, "given must be"),
        (lambda: matching_gap(BRIDGE, 1.4), ValueError, "t must lie in"),
        (lambda: matching_gap(BRIDGE, 0.0), ValueError, "t must be a time with noise in every direction"),
        (lambda: matching_gap(BRIDGE, 0.5, route=3), TypeError, "route must be"),
        (lambda: over_time(curved, 0.0), ValueError, "T must lie in"),
        (lambda: over_time(curved, tolerance=2.0), ValueError, "tolerance must lie in"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_end_of_points_and_densities_is_refused():
    from refdiff import GaussianMixture

    both = GaussianMixture.isotropic([[0.0], [1.0]], [0.0, 1.0])
    model = InterpolantModel(independent(Gaussian([0.0], 1.0), both), linear(0.3))
    with pytest.raises(ValueError, match="given must be an end that is a point set or has a density"):
        matching_gap(model, 0.5, given="second", route=Quadrature())
