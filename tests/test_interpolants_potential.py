"""Flows of the best gradient field: marginals, exact accounts, the way to the optimal coupling and its rate."""

import numpy as np
import pytest

from refdiff.distributions import Gaussian, random_mixture
from refdiff.distributions.divergences import wasserstein
from refdiff.dynamics import VelocityField, field_flow
from refdiff.interpolants import (
    InterpolantModel,
    MapCoupling,
    PotentialCoupling,
    ScalarInterpolant,
    linear,
    potential_rate,
    rectify,
    rectify_potential,
    reflow,
    trigonometric,
    unexplained,
)
from refdiff.transport import gaussian_pairs, independent, optimal_map, optimal_pairs


def gaussian(dim, seed):
    root = np.random.default_rng([dim, seed]).standard_normal((dim, dim + 1))
    return Gaussian(np.random.default_rng(seed).standard_normal(dim), root @ root.T / dim)


def rotation(theta):
    return np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])


def rotated(theta):
    unit = Gaussian(np.zeros(2), 1.0)
    return gaussian_pairs(unit, unit, rotation(theta).T)


@pytest.mark.parametrize("path", [linear(), trigonometric(), linear(0.4)])
def test_the_field_is_a_gradient_that_has_the_marginals(path):
    model = InterpolantModel(independent(gaussian(3, 0), gaussian(3, 1)), path)
    flow = rectify_potential(model)
    slope = flow.slope(0.3)
    np.testing.assert_allclose(slope, slope.T, rtol=0, atol=1e-14)
    h = 1e-4
    rate = (model.marginal(0.3 + h).cov() - model.marginal(0.3 - h).cov()) / (2 * h)
    p = model.marginal(0.3).cov()
    np.testing.assert_allclose(slope @ p + p @ slope, rate, rtol=0, atol=1e-6)
    for t in (0.4, 1.0):
        pushed = flow.channel(t).push(flow.source)
        np.testing.assert_allclose(pushed.cov(), model.marginal(t).cov(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(pushed.mean(), model.marginal(t).mean(), rtol=0, atol=1e-12)
    z = flow.source.sample(1, 0)
    stepped = field_flow(VelocityField(flow.velocity, 3), z, 0.0, 1.0, rtol=1e-7).x
    np.testing.assert_allclose(flow.forward(z), stepped, rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow.inverse(flow.forward(z, 0.4), 0.4), z, rtol=0, atol=1e-10)
    np.testing.assert_allclose(flow.with_jacobian(z)[1][0], flow.channel().gain, rtol=0, atol=1e-13)


def test_the_loss_is_what_no_gradient_can_follow_and_the_account_is_exact():
    pairs = gaussian_pairs(gaussian(3, 0), gaussian(3, 1), 0.1 * np.arange(9.0).reshape(3, 3) / 8)
    flow = rectify_potential(pairs)
    model, loss = flow.model, flow.loss().value
    assert loss > unexplained(model).value
    # S of the lines that it makes, by definition
    end, nodes = flow.channel(), np.polynomial.legendre.leggauss(24)
    bend = 0.0
    for t, weight in zip((nodes[0] + 1) / 2, nodes[1] / 2, strict=True):
        gain = end.gain - np.eye(3) - flow.slope(t) @ flow.channel(t).gain
        bend += weight * np.trace(gain @ flow.source.cov() @ gain.T)
    np.testing.assert_allclose(pairs.cost() - flow.pairs().cost(), bend + loss, rtol=1e-10)
    found = flow.account()
    np.testing.assert_allclose([found.straightness.value, found.variance.value], [bend, loss], rtol=1e-9)
    assert abs(found.residual) < 1e-12 * pairs.cost()
    slow = ScalarInterpolant(lambda t: (1 - t / 3, -1 / 3, 0.0), lambda t: (t / 3, 1 / 3, 0.0), T=3.0)
    same = rectify_potential(InterpolantModel(pairs, slow)).account()
    np.testing.assert_allclose(
        [same.straightness.value, same.variance.value], [found.straightness.value, found.variance.value], rtol=1e-9
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_repeated_it_approaches_the_optimal_coupling_at_the_rate_of_the_closed_form(dim):
    p, q = gaussian(dim, 0), gaussian(dim, 1)
    least, rate, pairs, gaps = wasserstein(p, q) ** 2, potential_rate(p, q), independent(p, q), []
    assert 0 < rate < 1
    for _ in range(6 if dim == 3 else 4):
        pairs = rectify_potential(pairs).pairs()
        gaps.append(pairs.cost() - least)
    np.testing.assert_allclose(gaps[-1] / gaps[-2], rate**2, rtol=2e-3)
    if dim == 2:
        s, best = p.cov(), optimal_map(p, q).gain
        phi = np.arccos(np.trace(best @ s) / np.sqrt(np.trace(s) * np.trace(q.cov())))
        np.testing.assert_allclose(rate, 1 - phi / np.tan(phi), rtol=1e-10)
    best = optimal_pairs(p, q)
    np.testing.assert_allclose(rectify_potential(best).channel().gain, optimal_map(p, q).gain, rtol=0, atol=1e-10)
    assert rectify_potential(best).loss().value < 1e-12


@pytest.mark.parametrize("theta", [0.5, 2.0, 3.1])
def test_rotations_are_fixed_for_all_fields_and_undone_by_gradients(theta):
    pairs = rotated(theta)
    np.testing.assert_allclose(rectify(pairs).channel().gain, rotation(theta), rtol=0, atol=1e-12)
    flow = rectify_potential(pairs)
    # cancellation makes of the variance half way, (1 + cos(theta)) / 2, what it is to 1e-13
    np.testing.assert_allclose(flow.loss().value, 2 * theta * np.sin(theta), rtol=1e-11)
    np.testing.assert_allclose(flow.channel().gain, np.eye(2), rtol=0, atol=1e-10)
    np.testing.assert_allclose(pairs.cost(), 4 * (1 - np.cos(theta)), rtol=1e-12)


def test_it_is_a_map_like_others_and_on_the_line_the_monotone_one():
    p, q = Gaussian([1.0], 2.0), Gaussian([0.0], 0.5)
    flow = rectify_potential(independent(p, q))
    assert isinstance(flow, MapCoupling)
    assert isinstance(flow, PotentialCoupling)
    np.testing.assert_allclose(flow.channel().gain, [[0.5]], rtol=1e-12)
    assert potential_rate(p, q) == 0
    lines = reflow(rectify_potential(independent(gaussian(2, 0), gaussian(2, 1))))
    x = lines.forward([[1.0, 1.0]], 0.5)
    np.testing.assert_allclose(lines.inverse(x, 0.5), [[1.0, 1.0]], rtol=0, atol=1e-12)
    assert flow.forward(np.zeros((2, 1, 1), np.float32)).dtype == np.float32
    assert rectify_potential(independent(p, Gaussian([0.0], 0.0))).channel().gain == 0


def test_bad_input_is_named():
    law = random_mixture(2, 2, 0)
    with pytest.raises(TypeError, match="given must be an InterpolantModel or a PairLaw"):
        rectify_potential(law)
    with pytest.raises(TypeError, match="model must be an InterpolantModel"):
        PotentialCoupling(law)
    with pytest.raises(ValueError, match="model must have Gaussian pairs"):
        rectify_potential(independent(law, law))
    with pytest.raises(ValueError, match="law at the time 0"):
        rectify_potential(independent(Gaussian([0.0], 0.0), Gaussian([0.0], 1.0)))
    with pytest.raises(ValueError, match=r"law at the time 0\.5"):
        rectify_potential(rotated(np.pi)).slope(0.5)
    with pytest.raises(TypeError, match="q must be a Gaussian"):
        potential_rate(gaussian(2, 0), law)
    with pytest.raises(ValueError, match="covariance of p"):
        potential_rate(Gaussian([0.0], 0.0), Gaussian([0.0], 1.0))
