"""Markovian fitting: the map of cross-covariances, its rates, rectified flow, and marginals that are kept."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad

from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence
from refdiff.interpolants import InterpolantModel, brownian, linear, rectify
from refdiff.processes import ornstein_uhlenbeck
from refdiff.schedules import VPLinear
from refdiff.schroedinger import (
    GaussianBridge,
    ReferenceBridges,
    end_pairs,
    markovian_fitting,
    markovian_projection,
    markovian_rates,
)
from refdiff.transport import gaussian_pairs, independent

TURNING = ornstein_uhlenbeck([[1.0, 0.5], [-0.5, 0.8]], noise=np.diag([1.0, 0.7]), mean=[1.0, -2.0])
REFERENCES = pytest.mark.parametrize("reference", [0.5, VPLinear(0.5, 2.0), TURNING], ids=["Brownian", "VP", "turning"])
PLANE = Gaussian([0.3, -0.2], [[1.0, 0.3], [0.3, 0.5]]), Gaussian([1.0, 2.0], [[0.4, -0.2], [-0.2, 0.6]])


def still(_):
    return 0.0


@pytest.mark.parametrize(
    ("s", "t", "c", "epsilon"), [(1.0, 0.25, 0.0, 0.5), (0.5, 2.0, -0.6, 0.1), (1.0, 1.0, 0.9, 3.0)]
)
def test_a_step_on_the_line_is_the_closed_form(s, t, c, epsilon):
    model = InterpolantModel(gaussian_pairs(Gaussian([0.3], s), Gaussian([2.0], t), c), brownian(epsilon))
    found = end_pairs(model, lambda _: np.sqrt(epsilon)).cross_covariance()[0, 0]
    passed = quad(lambda u: 1 / model.marginal(u).cov()[0, 0], 0, 1, epsabs=1e-13, epsrel=1e-13)[0]
    assert_allclose(found, np.sqrt(s * t) * np.exp(-0.5 * epsilon * passed), rtol=1e-12)


@REFERENCES
def test_the_bridge_is_fixed_and_the_drift_is_its_own(reference):
    bridge = GaussianBridge(*PLANE, reference)
    found = end_pairs(bridge.model)
    assert_allclose(found.cross_covariance(), bridge.pairs.cross_covariance(), rtol=0, atol=1e-12)
    for backward in (False, True):
        way = markovian_projection(bridge.model, backward=backward)
        x = np.random.default_rng(0).standard_normal((4, 2))
        drift = bridge.backward_drift(x, 0.4) if backward else bridge.forward_drift(x, 0.4)
        assert_allclose(way.equation().drift_at(x, 0.4), drift, rtol=0, atol=1e-12)


@REFERENCES
def test_a_projection_keeps_marginals_in_both_directions(reference):
    model = InterpolantModel(independent(*PLANE), ReferenceBridges(reference))
    before, after = model.marginal(0.2), model.marginal(0.3)
    law = markovian_projection(model).transition(0.2, 0.3).push(before)
    early = markovian_projection(model, backward=True).transition(0.3, 0.2).push(after)
    for found, expected in ((law, after), (early, before)):
        assert_allclose(found.mean(), expected.mean(), rtol=0, atol=1e-12)
        assert_allclose(found.cov(), expected.cov(), rtol=0, atol=1e-12)


def test_both_directions_have_the_same_ends():
    model = InterpolantModel(independent(*PLANE), ReferenceBridges(1.5))
    backward = markovian_projection(model, backward=True).transition(1.0, 0.0)
    assert_allclose(end_pairs(model).cross_covariance(), backward.gain @ PLANE[1].cov(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("reference", [0.5, TURNING], ids=["Brownian", "turning"])
def test_iterates_come_closer_at_the_predicted_rate(reference):
    found = markovian_fitting(independent(*PLANE), reference, 5)
    errors = [np.linalg.norm(plan.cross_covariance() - found.limit.cross_covariance()) for plan in found.plans]
    assert_allclose(errors[-1] / errors[-2], found.rates[0], rtol=1e-2)
    fall = found.divergences()
    assert (np.diff(fall) < 0).all()
    assert_allclose(fall[1], kl_divergence(found.plans[1].mixture(), found.limit.mixture()), rtol=1e-14)
    for plan in found.plans:
        assert_allclose(plan.second.cov(), PLANE[1].cov(), rtol=1e-15)


def test_rates_are_those_of_differences():
    bridge = GaussianBridge(*PLANE, 0.5)
    cross, h = bridge.pairs.cross_covariance(), 1e-4
    columns = []
    for unit in np.eye(4).reshape(4, 2, 2):
        up, down = (
            end_pairs(InterpolantModel(gaussian_pairs(*PLANE, cross + sign * h * unit), bridge.interpolant))
            for sign in (1, -1)
        )
        columns.append((up.cross_covariance() - down.cross_covariance()).ravel() / (2 * h))
    rates = np.sort(np.abs(np.linalg.eigvals(np.stack(columns, axis=1))))[::-1]
    assert_allclose(markovian_rates(bridge.model), rates, rtol=0, atol=1e-6)


def on_the_line(r):
    return r / (1 - r) * ((1 + r) / (1 - r) * np.log(1 / r) - 2)


@pytest.mark.parametrize("epsilon", [0.05, 5.0])
def test_rates_on_the_line_and_of_turns_in_the_plane(epsilon):
    bridge = GaussianBridge(Gaussian([0.0, 0.0], 1.0), Gaussian([1.0, 0.0], 0.25), epsilon)
    r = bridge.pairs.cross_covariance()[0, 0] ** 2 / 0.25
    turn = r / (1 - r) * np.log(1 / r)
    assert_allclose(markovian_rates(bridge.model), [turn, *[on_the_line(r)] * 3], rtol=0, atol=1e-10)


def test_the_rate_on_the_line_is_at_most_a_tenth_and_vanishes_at_both_ends():
    unit, found = Gaussian([0.0], 1.0), []
    worst = 0.22337926332038616  # r at the maximum of the formula, by SciPy
    for r in (1e-3, worst - 1e-3, worst, worst + 1e-3, 1 - 1e-5):
        epsilon = (1 - r) / np.sqrt(r)  # c = r^(1/2), and c (c + eps) = 1
        found.append(markovian_rates(GaussianBridge(unit, unit, epsilon).model)[0])
    assert_allclose(found[1:4], [on_the_line(worst + h) for h in (-1e-3, 0.0, 1e-3)], rtol=1e-11)
    assert found[1] < found[2] > found[3]
    assert_allclose(found[2], 0.10387224882239722, rtol=1e-11)
    # with h = 1 - r the formula is h / 6 + O(h^3): (1 - h) (h / 6 + 2 h^2 / 12 + ..); 1 - r costs five digits
    assert_allclose([found[0], found[4]], [on_the_line(1e-3), 1e-5 / 6], rtol=1e-5)


def test_without_noise_a_step_is_rectified_flow():
    first, second = PLANE
    found = end_pairs(InterpolantModel(independent(first, second), linear()), still)
    values, axes = np.linalg.eig(np.linalg.solve(first.cov().T, second.cov().T).T)  # (S_1 S_0^-1)^(1/2)
    gain = np.real(axes * np.sqrt(values) @ np.linalg.inv(axes))
    assert_allclose(found.cross_covariance(), first.cov() @ gain.T, rtol=0, atol=1e-12)
    rectified = rectify(independent(first, second)).pairs()
    assert_allclose(found.cross_covariance(), rectified.cross_covariance(), rtol=0, atol=1e-12)
    again = end_pairs(InterpolantModel(found, linear()), still)
    assert_allclose(again.cross_covariance(), found.cross_covariance(), rtol=0, atol=1e-12)
    # which is not optimal where the covariances do not commute, and what little noise leads to is
    assert np.abs(gain - gain.T).max() > 0.01


def test_what_does_not_fit_is_refused():
    p, mixture = Gaussian([0.0], 1.0), GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.0])
    plain = InterpolantModel(independent(p, p), linear())
    point = InterpolantModel(independent(p, Gaussian([1.0], 0.0)), ReferenceBridges(1.0))
    refused = [
        (ValueError, "noise must be given", lambda: end_pairs(plain)),
        (ValueError, "second law", lambda: end_pairs(point)),
        (TypeError, "InterpolantModel", lambda: end_pairs(p)),
        (TypeError, "InterpolantModel", lambda: markovian_projection(p)),
        (TypeError, "InterpolantModel", lambda: markovian_rates(p)),
        (ValueError, "Gaussian pairs", lambda: markovian_fitting(independent(mixture, p), 1.0, 1)),
        (ValueError, "steps", lambda: markovian_fitting(independent(p, p), 1.0, -1)),
    ]
    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
