"""The moments of Analytic-DPM, NPR-DPM and SN-DPM against quadrature, closed forms and regressions on the noise."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from refdiff import (
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPLinear,
    beta_table,
    testing,
)
from refdiff.distributions import random_mixture, ring
from refdiff.samplers.analytic_moments import averaged_covariance, conditional_variance

MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
PROCESSES = {
    "VP": VPLinear(),
    "FM": FlowMatching(),
    "EDM": VEPower(T=80.0),
    "table": beta_table.linear(20, 0.01, 0.6),
}


def covariance_by_quadrature(law, alpha, sigma):
    """E x_0^2 - E D(x_t)^2 in one dimension, by adaptive quadrature over x_t, component densities written out."""
    means, variances, weights = law.means.ravel(), law.covariances.dense(1).ravel() * np.ones(law.count), law.weights

    def integrand(x):
        v = alpha**2 * variances + sigma**2
        density = weights * np.exp(-0.5 * (x - alpha * means) ** 2 / v) / np.sqrt(2 * np.pi * v)
        clean = means + alpha * variances / v * (x - alpha * means)
        total = density.sum()
        return float((density @ clean) ** 2 / total) if total > 0 else 0.0

    std = np.sqrt(alpha**2 * variances + sigma**2)
    breaks = np.unique(np.concatenate([alpha * means + k * std for k in range(-12, 13)]).round(12))
    total = sum(quad(integrand, a, b, epsabs=1e-15, epsrel=1e-13)[0] for a, b in pairwise(breaks))
    return float(weights @ (variances + means**2) - total)


@pytest.mark.parametrize("law", [MIXTURE, Empirical([[-1.0], [1.0], [0.3]], [0.2, 0.5, 0.3])])
@pytest.mark.parametrize("name", PROCESSES)
def test_averaged_covariance_in_one_dimension(law, name):
    model = ExactModel(law, PROCESSES[name])
    for t in (0.1, 0.4, 1.0):
        c = model.process.coefficients(t * model.process.T)
        found = averaged_covariance(model, t * model.process.T)[0, 0]
        assert found == pytest.approx(covariance_by_quadrature(law, c.alpha, c.sigma), abs=1e-12 * law.cov()[0, 0])


def test_averaged_covariance_of_two_points_along_sus_table():
    model = ExactModel(Empirical([[-1.0], [1.0]]), beta_table.su())
    found = [averaged_covariance(model, t)[0, 0] for t in (10.0, 100.0, 300.0, 600.0, 1000.0)]
    np.testing.assert_allclose(found, [0.0, 0.003334, 0.566851, 0.973219, 0.999958], atol=6e-7)


@pytest.mark.parametrize("law", [ring(), random_mixture(2, 3, 1, "full"), random_mixture(2, 3, 2, "diagonal")])
def test_averaged_covariance_in_two_dimensions_is_what_the_denoiser_does_not_explain(law):
    # total covariance: Cov x_0 - Cov D, with Cov D from a plain grid over the plane
    model = ExactModel(law, VPLinear())
    for t in (0.15, 0.5):
        pushed = model.marginal(t)
        std = np.sqrt(np.linalg.eigvalsh(pushed.covariances.dense(2)).min())
        reach = 8 * np.sqrt(pushed.covariances.dense(2).max())
        lines = [np.arange(pushed.means[:, i].min() - reach, pushed.means[:, i].max() + reach, std / 4) for i in (0, 1)]
        x = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 2)
        w = np.exp(pushed.logpdf(x)) * (std / 4) ** 2
        off = model.denoiser(x, t) - law.mean()
        expected = law.cov() - (w[:, None] * off).T @ off
        np.testing.assert_allclose(averaged_covariance(model, t), expected, atol=1e-8 * np.abs(law.cov()).max())


@given(testing.distributions(max_dim=2, kinds=["gaussian"]), st.floats(0.1, 0.9))
def test_sums_over_a_gaussian_are_its_closed_form(law, t):
    model = ExactModel(law, VPLinear())
    by_sums = averaged_covariance(model, t, denoiser=model.denoiser)
    size = np.abs(law.cov()).max()
    np.testing.assert_allclose(averaged_covariance(model, t), by_sums, atol=1e-12 * size)


def test_draws_find_the_average_in_higher_dimensions():
    one = ExactModel(MIXTURE, VPLinear())
    means = np.array([[m, 0.2 * k, 1.0] for k, m in enumerate([-2.0, 0.5, 3.0])])
    law = GaussianMixture.diagonal(
        means * [1, 0, 0], [[v, 0.5, 2.0] for v in (0.09, 1.0, 0.25)], weights=[0.5, 0.3, 0.2]
    )
    c = VPLinear().coefficients(0.3)
    exact = [averaged_covariance(one, 0.3)[0, 0], *(v / (1 + c.alpha**2 / c.sigma**2 * v) for v in (0.5, 2.0))]
    found = averaged_covariance(ExactModel(law, VPLinear()), 0.3, draws=20_000, seed=5)
    spread = np.diagonal(ExactModel(law, VPLinear()).posterior_covariance(law.sample(2000, 1), 0.3), axis1=1, axis2=2)
    assert abs(found[0, 0] - exact[0]) < 5 * spread[:, 0].std() / np.sqrt(20_000) * 2
    np.testing.assert_allclose(np.diagonal(found)[1:], exact[1:], rtol=1e-10)
    np.testing.assert_allclose(found - np.diag(np.diagonal(found)), 0, atol=1e-10)
    again = averaged_covariance(ExactModel(law, VPLinear()), 0.3, draws=20_000, seed=5)
    np.testing.assert_array_equal(found, again)


def test_a_denoiser_that_is_off_adds_its_square_error():
    model = ExactModel(MIXTURE, VPLinear())

    def shifted(x, t):
        return model.denoiser(x, t) + 0.3

    found = averaged_covariance(model, 0.3, denoiser=shifted)
    np.testing.assert_allclose(found, averaged_covariance(model, 0.3) + 0.09, rtol=1e-12)
    x = model.sample(5, 0.3, 0)
    exact = conditional_variance(model, x, 0.3)
    np.testing.assert_allclose(conditional_variance(model, x, 0.3, denoiser=shifted), exact + 0.09, rtol=1e-12)


@pytest.mark.parametrize("law", [MIXTURE, ring(), random_mixture(3, 4, 5, "full")])
def test_npr_and_sn_are_regressions_on_the_noise(law):
    process = VPLinear()
    model, c = ExactModel(law, process), process.coefficients(0.3)
    x = model.sample(4, 0.3, 0)

    def wrong(x, t):
        return 0.9 * model.denoiser(x, t) + 0.1

    mean = wrong(x, 0.3)
    eps = (x - c.alpha * mean) / c.sigma
    for row, e, npr, sn in zip(
        x,
        eps,
        conditional_variance(model, x, 0.3, denoiser=wrong),
        conditional_variance(model, x, 0.3, "sn", denoiser=wrong),
        strict=True,
    ):
        posterior = model.posterior(row, 0.3)  # of x_0, so of the noise (x - alpha x_0) / sigma
        noise = (row - c.alpha * posterior.means) / c.sigma
        spread = (c.alpha / c.sigma) ** 2 * np.diagonal(posterior.covariances.dense(law.dim), axis1=1, axis2=2)
        squares = posterior.weights @ (noise**2 + spread)
        residuals = posterior.weights @ ((noise - e) ** 2 + spread)
        ratio = (c.sigma / c.alpha) ** 2
        np.testing.assert_allclose(npr, ratio * residuals, rtol=1e-11)
        np.testing.assert_allclose(sn, ratio * (squares - e**2), rtol=1e-10, atol=1e-12 * ratio * squares.max())
    both = [conditional_variance(model, x, 0.3, kind) for kind in ("npr", "sn")]
    np.testing.assert_array_equal(*both)


def test_bad_input_is_refused():
    model = ExactModel(Gaussian([0.0], 1.0), FlowMatching())
    x = np.zeros((2, 1))
    with pytest.raises(ValueError, match="sigma > 0"):
        averaged_covariance(model, 0.0)
    with pytest.raises(ValueError, match="kind must be"):
        conditional_variance(model, x, 0.5, "both")
    with pytest.raises(ValueError, match="shape of its points"):
        conditional_variance(model, x, 0.5, denoiser=lambda x, _: x[:1])
    with pytest.raises(ValueError, match="alpha > 0"):
        conditional_variance(model, x, 1.0, "sn", denoiser=lambda x, _: x)
