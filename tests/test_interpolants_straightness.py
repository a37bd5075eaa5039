"""What rectifying costs and saves: closed forms of Gaussians, exact accounts, convex costs, Euler's steps."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.interpolants import (
    InterpolantModel,
    ScalarInterpolant,
    account,
    displacement_cost,
    euler_error,
    linear,
    rectify,
    reflow,
    straightness,
    trigonometric,
    unexplained,
)
from refdiff.transport import gaussian_pairs, image_pairs, independent

LINES = [random_mixture(1, 2, 1, "full", spread=0.8), random_mixture(1, 2, 2, "full", spread=0.8)]
P = GaussianMixture.full([[-1.0, 0.0], [1.0, 0.5]], [[[0.3, 0.1], [0.1, 0.2]], [[0.4, 0.0], [0.0, 0.1]]], [0.4, 0.6])
Q = GaussianMixture.isotropic([[0.0, 2.0], [2.5, -1.0]], [0.2, 0.3], [0.5, 0.5])
QUICK = Quadrature(1e-6)


def gaussian(dim, seed):
    root = np.random.default_rng([dim, seed]).standard_normal((dim, dim + 2))
    return Gaussian(np.random.default_rng(seed).standard_normal(dim), root @ root.T / dim)


def turned(rho, theta):
    """x_1 = rho R x_0 + noise, both N(0, I)."""
    turn = np.array([[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]])
    unit = Gaussian(np.zeros(2), 1.0)
    return gaussian_pairs(unit, unit, rho * turn)


def test_independent_gaussians_have_closed_forms():
    p, q = gaussian(3, 0), gaussian(3, 1)
    found = account(independent(p, q))
    share = np.trace(np.real(sqrtm(q.cov() @ np.linalg.inv(p.cov()))) @ p.cov())
    np.testing.assert_allclose(found.variance.value, np.pi / 2 * share, rtol=1e-12)
    np.testing.assert_allclose(found.straightness.value, (2 - np.pi / 2) * share, rtol=1e-12)
    np.testing.assert_allclose(found.before.value - found.after.value, 2 * share, rtol=1e-12)


def test_gaussians_keep_their_account_with_any_cross_covariance_and_nothing_is_left_after_it():
    for pairs in (
        turned(0.7, 2.0),
        gaussian_pairs(gaussian(3, 0), gaussian(3, 1), 0.1 * np.arange(9.0).reshape(3, 3) / 8),
    ):
        found = account(pairs)
        assert found.straightness.value > 1e-4
        assert found.variance.value > 1e-4
        assert abs(found.residual) < 1e-12 * found.before.value
        again = account(rectify(pairs).pairs())
        np.testing.assert_allclose([again.straightness.value, again.variance.value], 0.0, atol=1e-12)
        np.testing.assert_allclose([again.before.value, again.after.value], found.after.value, rtol=1e-12)


@pytest.mark.parametrize(("rho", "theta"), [(0.7, 2.0), (0.999, 3.0), (-0.5, 1.0)])
def test_noisy_rotations_are_rectified_to_rotations_by_a_smaller_angle(rho, theta):
    k = rho * np.cos(theta)
    angle = rho * np.sin(theta) * np.arccos(k) / np.sqrt(1 - k * k)
    found = rectify(turned(rho, theta)).channel().gain
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(found, turn, rtol=0, atol=1e-11)


def test_mixtures_keep_their_account_on_the_line_and_in_the_plane():
    found = account(independent(*LINES), QUICK)
    assert abs(found.residual) <= found.error < 1e-4
    assert found.straightness.value > 1e-3
    plane = account(rectify(independent(P, Q), method="dopri5", rtol=1e-3, atol=1e-4), MonteCarlo(64, 1))
    # the same 64 draws of z_0 at both ends, others on the way: 4.5 standard errors, though not normal ones
    assert abs(plane.residual) <= 4.5 * plane.error
    assert plane.straightness.value > 4.5 * plane.straightness.error


def test_maps_have_nothing_left():
    flow = reflow(rectify(independent(*LINES)))
    found = account(flow, QUICK)
    assert found.straightness.value == found.variance.value == found.residual == 0
    np.testing.assert_allclose(found.after.value, displacement_cost(flow.coupling, route=QUICK).value)
    assert euler_error(flow, 1, QUICK).value < 1e-20
    assert straightness(flow).value == 0
    closed = rectify(independent(gaussian(2, 0), gaussian(2, 1)))
    assert account(reflow(closed)).after.value == displacement_cost(closed).value  # no route is needed
    image = InterpolantModel(image_pairs(P, Channel([[1.0, 0.5], [-0.5, 0.8]])), linear())
    assert unexplained(image).value == 0
    np.testing.assert_allclose(straightness(image).value, 0.0, atol=1e-30)


def test_only_lines_keep_the_account():
    pairs = independent(gaussian(2, 0), gaussian(2, 1))
    found = account(InterpolantModel(pairs, trigonometric()))
    np.testing.assert_allclose(found.after.value, account(pairs).after.value, rtol=1e-12)  # the same coupling
    assert abs(found.residual) > 0.1


def test_other_units_of_time_change_nothing():
    slow = ScalarInterpolant(lambda t: (1 - t / 3, -1 / 3, 0.0), lambda t: (t / 3, 1 / 3, 0.0), T=3.0)
    for pairs in (independent(gaussian(2, 0), gaussian(2, 1)), turned(0.7, 2.0)):
        quick, found = account(pairs), account(InterpolantModel(pairs, slow))
        for name in ("before", "after", "straightness", "variance"):
            np.testing.assert_allclose(getattr(found, name).value, getattr(quick, name).value, rtol=1e-12)
    line, route = independent(*LINES), MonteCarlo(4, 1)
    quick, found = straightness(line, route), straightness(InterpolantModel(line, slow), route)
    np.testing.assert_allclose(found.value, quick.value, rtol=1e-9)
    plane, coarse = independent(P, Q), {"method": "dopri5", "rtol": 1e-5, "atol": 1e-6}
    flows = (rectify(InterpolantModel(plane, way), **coarse) for way in (linear(), slow))
    found, quick = (straightness(flow, MonteCarlo(2, 1)).value for flow in flows)
    np.testing.assert_allclose(found, quick, rtol=1e-3)  # steps of 1e-5, not the same ones


def test_where_the_flow_has_no_closed_form_its_energy_says_how_straight_it_is():
    pairs = turned(0.7, 2.0)
    # the velocity (s'/2 + rho sin(theta) J) / s x on circles of squared radius s(t)
    k, sine = 0.7 * np.cos(2.0), 0.7 * np.sin(2.0)
    nodes, weights = (part / 2 for part in np.polynomial.legendre.leggauss(40))
    t = nodes + 0.5
    s, ds = 1 - 2 * (1 - k) * t * (1 - t), -2 * (1 - k) * (1 - 2 * t)
    angle = sine * np.arccos(k) / np.sqrt(1 - k * k)
    energy = weights @ (2 * (ds**2 / 4 + sine**2) / s)
    np.testing.assert_allclose(straightness(pairs).value, energy - 4 * (1 - np.cos(angle)), rtol=1e-10)


def test_convex_costs_fall():
    pairs = independent(*LINES)
    flow = rectify(pairs)
    for cost in (lambda u: (u**4).sum(axis=1), lambda u: np.cosh(0.5 * u[:, 0]), lambda u: np.sqrt(1 + u[:, 0] ** 2)):
        before, after = (displacement_cost(one, cost, QUICK) for one in (pairs, flow))
        assert after.value < before.value - before.error - after.error
    both = gaussian_pairs(gaussian(2, 0), gaussian(2, 1), [[0.2, 0.1], [-0.1, 0.1]])
    np.testing.assert_allclose(displacement_cost(both).value, both.cost())
    image = rectify(both)
    np.testing.assert_allclose(
        displacement_cost(image, lambda u: (u**2).sum(axis=1), Quadrature()).value, displacement_cost(image).value
    )


def test_one_step_of_euler_lands_on_the_mean_before_and_on_the_end_after():
    p, q = gaussian(3, 0), gaussian(3, 1)
    pairs = independent(p, q)
    np.testing.assert_allclose(euler_error(pairs, 1).value, np.trace(q.cov()), rtol=1e-12)
    assert euler_error(rectify(pairs).pairs(), 1).value < 1e-24
    errors = [euler_error(pairs, n).value for n in (64, 128, 256)]
    ratios = np.divide(errors[:-1], errors[1:])
    np.testing.assert_allclose(2 * ratios[1] - ratios[0], 4.0, atol=0.03)  # of order one: a quarter of the square
    line = independent(*LINES)
    np.testing.assert_allclose(euler_error(line, 1, QUICK).value, LINES[1].cov()[0, 0], rtol=1e-5)
    assert euler_error(line, 4, MonteCarlo(100, 0)).value < LINES[1].cov()[0, 0]


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="given must be a MapCoupling"):
        account(P)
    with pytest.raises(TypeError, match="given must be a MapCoupling"):
        euler_error(P, 3)
    with pytest.raises(TypeError, match="given must be a PairLaw or a MapCoupling"):
        displacement_cost(P)
    with pytest.raises(TypeError, match="model must be an InterpolantModel"):
        unexplained(independent(P, Q))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        euler_error(independent(P, Q), 0)
    with pytest.raises(ValueError, match="route must be"):
        account(independent(*LINES))
    with pytest.raises(ValueError, match="cost must answer with shape"):
        displacement_cost(independent(*LINES), lambda u: u, QUICK)
