"""The gradient flow of KL: closed forms of the spec, storages, noising as such a flow, and what it is called with."""

import numpy as np
import pytest

from refdiff import Empirical, ExactModel, Gaussian, GaussianMixture, VPLinear
from refdiff.distributions import kl_divergence, random_mixture
from refdiff.dynamics import flow
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.path_measures import dissipation, kl_gradient_flow

FULL = Gaussian([0.5, -0.2], [[1.0, 0.4], [0.4, 0.6]])
PEAKS = GaussianMixture.isotropic([[-1.0], [1.0]], 0.3, [0.4, 0.6])


def test_the_closed_form_of_topb_77():
    mu, s2, a, b2 = 0.7, 0.5, -1.0, 2.0
    model = kl_gradient_flow(Gaussian([mu], s2), Gaussian([a], b2), T=2.0)
    for t in (0.0, 0.3, 2.0):
        law = model.marginal(t)
        np.testing.assert_allclose(law.mean(), mu + (a - mu) * np.exp(-t / s2), rtol=1e-12)
        np.testing.assert_allclose(law.cov(), [[s2 + (b2 - s2) * np.exp(-2 * t / s2)]], rtol=1e-12)
        # on the line particles keep their place in units of the standard deviation
        x = np.array([[-2.0], [0.4]])
        expected = law.mean() + np.sqrt(law.cov()[0, 0] / b2) * (x - a)
        np.testing.assert_allclose(flow(model, x, 0.0, t).x, expected, rtol=1e-9)


def test_noising_that_preserves_variance_is_the_flow_to_a_standard_normal():
    # beta = 2 runs at its speed; M = 1 and S = 1
    data = random_mixture(3, 2, 1)
    model = kl_gradient_flow(Gaussian(np.zeros(3), 1.0), data)
    noised = ExactModel(data, VPLinear(2.0, 2.0))
    x = noised.sample(4, 0.6, 1)
    np.testing.assert_allclose(model.velocity(x, 0.6), noised.velocity(x, 0.6), rtol=1e-9)


@pytest.mark.parametrize("mobility", [0.7, [0.7, 0.7], [[0.7, 0.0], [0.0, 0.7]]], ids=["number", "axes", "matrix"])
def test_storages_of_the_mobility_agree_and_divergence_falls(mobility):
    start = Gaussian([1.5, 1.0], [0.3, 2.0])
    model = kl_gradient_flow(FULL, start, mobility=mobility)
    again = kl_gradient_flow(FULL, start, mobility=0.7)
    np.testing.assert_allclose(model.marginal(0.4).cov(), again.marginal(0.4).cov(), rtol=1e-12)
    square = dissipation(FULL, start, mobility=mobility)
    np.testing.assert_allclose(square.value, 0.7 * dissipation(FULL, start).value, rtol=1e-12)
    divergences = [kl_divergence(Gaussian(law.mean(), law.cov()), FULL) for law in map(model.marginal, (0, 0.3, 0.9))]
    assert divergences[0] > divergences[1] > divergences[2]


@pytest.mark.parametrize("mobility", [[1.3, 0.4], [[1.0, -0.5], [-0.5, 0.6]]], ids=["axes", "matrix"])
def test_particles_follow_the_ratio_of_the_densities_by_a_mobility_that_commutes_with_nothing(mobility):
    model, t = kl_gradient_flow(FULL, random_mixture(2, 3, 1), mobility=mobility), 0.4
    x, m = model.sample(5, t, 1), np.asarray(mobility) * np.eye(2) if np.ndim(mobility) == 1 else np.array(mobility)
    pull = FULL.score(x) - model.score(x, t)
    np.testing.assert_allclose(model.velocity(x, t), pull @ m.T, rtol=1e-9)
    # the closed form of Gaussians beside the sum over a mixture of two that are one
    one = Gaussian([0.1, 0.4], [[0.5, -0.1], [-0.1, 0.9]])
    twice = GaussianMixture.full(np.tile(one.means, (2, 1)), [one.cov(), one.cov()])
    closed = dissipation(FULL, one, mobility=mobility)
    by_sum = dissipation(FULL, twice, mobility=mobility, route=Quadrature(1e-8))
    assert (closed.route, by_sum.route) == ("closed", "quadrature")
    np.testing.assert_allclose(closed.value, by_sum.value, rtol=1e-9)


def test_a_direction_without_mobility_does_not_move():
    model = kl_gradient_flow(Gaussian([0.0, 0.0], 1.0), FULL, mobility=[1.0, 0.0])
    before, after = model.marginal(0.0), model.marginal(1.0)
    assert abs(after.mean()[1] - before.mean()[1]) < 1e-14
    assert abs(after.cov()[1, 1] - before.cov()[1, 1]) < 1e-13


def test_dissipation_by_three_routes():
    other = Gaussian([0.2], 1.5)
    by_sum = dissipation(other, PEAKS, route=Quadrature())
    drawn = dissipation(other, PEAKS, route=MonteCarlo(20_000, 3))
    assert abs(drawn.value - by_sum.value) < 4.5 * drawn.error
    one, mixture = Gaussian([0.1], 0.8), GaussianMixture.isotropic([[0.1], [0.1]], 0.8)  # one Gaussian, written as two
    np.testing.assert_allclose(
        dissipation(other, mixture, route=Quadrature()).value, dissipation(other, one).value, rtol=1e-12
    )
    assert dissipation(PEAKS, PEAKS, route=Quadrature()).value < 1e-25


def test_bad_input_is_named():
    for call, message in (
        (lambda: kl_gradient_flow(FULL, PEAKS), "target"),
        (lambda: kl_gradient_flow(Gaussian([0.0], 0.0), PEAKS), "target"),
        (lambda: kl_gradient_flow(FULL, FULL, mobility=-1.0), "mobility"),
        (lambda: kl_gradient_flow(FULL, FULL, mobility=[1.0, 1.0, 1.0]), "mobility"),
        (lambda: dissipation(FULL, Gaussian([0.0, 0.0], 0.0)), "law"),
        (lambda: dissipation(PEAKS, PEAKS), "route"),
        (lambda: dissipation(Empirical([[0.0]]), PEAKS), "target"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call in (lambda: kl_gradient_flow(PEAKS, PEAKS), lambda: dissipation(FULL, 1.0)):
        with pytest.raises(TypeError):
            call()
