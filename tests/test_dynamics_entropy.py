"""Entropy and Fisher information: closed forms, quadrature and draws agree, and rates are derivatives."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, entropy, kl_divergence, random_mixture
from refdiff.dynamics import (
    differential_entropy,
    divergence_rate,
    entropy_rate,
    fisher_information,
)
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.metrics import divergence
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, critically_damped_langevin
from refdiff.schedules import FlowMatching, VEPower, VPLinear
from refdiff.validation.numeric import derivative

RULE = Quadrature(1e-11)
MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.2, 1.0, 0.3], [0.5, 0.3, 0.2])
OTHER = GaussianMixture.isotropic([[-1.0], [2.0]], [0.8, 1.5], [0.4, 0.6])
FULL = random_mixture(2, 3, 1, "full").convolve(0.2)


def gaussian(dim, seed):
    law = random_mixture(dim, 1, seed, "full")
    return Gaussian(law.means[0], law.cov())


def per_axis():
    return AffineProcess([VPLinear(), FlowMatching()])


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("dim", [1, 2])
def test_gaussians_in_closed_form_are_what_quadrature_finds(dim):
    p = gaussian(dim, 1)
    for ask in (
        lambda route: differential_entropy(p, route),
        lambda route: fisher_information(p, route),
    ):
        closed, summed = ask(None), ask(RULE)
        np.testing.assert_allclose(summed.value, closed.value, rtol=1e-11, atol=1e-12)
        assert (closed.route, summed.route) == ("closed", "quadrature")
        assert np.all(np.asarray(closed.error) == 0)


def test_closed_forms_are_the_libraries_gaussian_ones():
    p = gaussian(3, 1)
    assert differential_entropy(p).value == entropy(p)
    np.testing.assert_allclose(fisher_information(p).value, np.linalg.inv(p.cov()), rtol=1e-12)
    np.testing.assert_allclose(
        differential_entropy(GaussianMixture.isotropic([[0.0]], 2.0)).value, norm(0, 2**0.5).entropy()
    )


def test_mixtures_agree_with_adaptive_quadrature():
    p, s = (lambda x: float(np.exp(MIXTURE.logpdf([[x]])[0]))), lambda x: float(MIXTURE.score([[x]])[0, 0])
    parts = {"limit": 200, "epsabs": 1e-12, "epsrel": 1e-12}

    def over(f):
        return sum(quad(lambda x: p(x) * f(x), a, b, **parts)[0] for a, b in [(-12, -1), (-1, 2), (2, 14)])

    logs = lambda x: float(MIXTURE.logpdf([[x]])[0])  # noqa: E731
    np.testing.assert_allclose(differential_entropy(MIXTURE, RULE).value, over(lambda x: -logs(x)), rtol=1e-10)
    np.testing.assert_allclose(fisher_information(MIXTURE, RULE).value, [[over(lambda x: s(x) ** 2)]], rtol=1e-10)


def test_fisher_information_is_minus_the_mean_hessian():
    x = FULL.sample(10_000, 3)
    drawn = -FULL.hessian(x)
    z = (drawn.mean(axis=0) - fisher_information(FULL, RULE).value) / (drawn.std(axis=0) / 100)
    assert np.abs(z).max() < 4.5  # four numbers: a false alarm in 4e4 seeds


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_agree_with_quadrature_within_their_errors(seed):
    way = MonteCarlo(4000, seed)
    pairs = [
        (ask(way), ask(RULE))
        for ask in (
            lambda route: differential_entropy(FULL, route),
            lambda route: fisher_information(FULL, route),
        )
    ]
    for drawn, summed in pairs:
        assert np.abs((drawn.value - summed.value) / drawn.error).max() < 4.5
        assert drawn.route == "monte carlo"


# ---------------------------------------------------------------------- rates


@pytest.mark.parametrize("process", [VPLinear(), VEPower(0.5, T=10.0), FlowMatching()], ids=["VP", "VE", "FM"])
def test_the_rates_are_derivatives_in_time_for_mixtures(process):
    t = 0.4 * process.T
    model, h = ExactModel(MIXTURE, process), 2e-3 * process.T

    def at(u):
        return ExactModel(MIXTURE, process).marginal(u), ExactModel(OTHER, process).marginal(u)

    slope = derivative(lambda u: np.asarray(differential_entropy(at(t + u)[0], RULE).value), 0.0, h)
    np.testing.assert_allclose(entropy_rate(model, t, RULE).value, slope, rtol=1e-7, atol=1e-8)
    fall = derivative(lambda u: np.asarray(divergence(*at(t + u), "kl", RULE).value), 0.0, h)
    np.testing.assert_allclose(divergence_rate(model, OTHER, t, RULE).value, fall, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "process",
    [AffineProcess(VPLinear()), per_axis(), critically_damped_langevin(1)],
    ids=["scalar", "per axis", "matrix"],
)
def test_the_rates_are_derivatives_in_time_under_any_process(process):
    p, q, t = gaussian(2, 1), gaussian(2, 2), 0.3 * process.T
    models = [ExactModel(law, process) for law in (p, q)]

    def laws(u):
        return [Gaussian(m.marginal(t + u).mean(), m.marginal(t + u).cov()) for m in models]

    h = 1e-3 * process.T
    slope = derivative(lambda u: np.asarray(entropy(laws(u)[0])), 0.0, h)
    np.testing.assert_allclose(entropy_rate(models[0], t).value, slope, rtol=1e-8)
    fall = derivative(lambda u: np.asarray(kl_divergence(*laws(u))), 0.0, h)
    np.testing.assert_allclose(divergence_rate(models[0], q, t).value, fall, rtol=1e-8)
    np.testing.assert_allclose(entropy_rate(models[0], t, RULE).value, slope, rtol=1e-8)


def test_the_entropy_rate_is_finite_where_drift_and_diffusion_are_not():
    model = ExactModel(MIXTURE, FlowMatching())
    # x_1 is N(0, 1) and dx/dt = eps - x_0 there: dP/dt = 2, so dH/dt = 1, whatever the data
    np.testing.assert_allclose(entropy_rate(model, 1.0, RULE).value, 1.0, rtol=1e-12)


def test_many_dimensions_take_draws():
    law = random_mixture(64, 3, 0, "isotropic")
    found, way = fisher_information(law, MonteCarlo(2000, 1)), MonteCarlo(2000, 2)
    assert found.value.shape == found.error.shape == (64, 64)
    x = law.sample(2000, 3)
    other = -law.hessian(x)
    spread = np.hypot(found.error, other.std(axis=0) / 2000**0.5)
    # 2080 numbers, of which one is beyond 5.5 deviations in one of 1e4 seeds
    assert np.abs((found.value - other.mean(axis=0)) / spread).max() < 5.5
    model = ExactModel(law, VPLinear())
    c, rate = model.affine.coefficients(0.5), entropy_rate(model, 0.5, way)
    s = model.marginal(0.5).score(model.sample(2000, 0.5, 4))
    known = 64 * c.f + c.g2 / 2 * (s**2).sum(axis=1)
    assert abs(rate.value - known.mean()) < 4.5 * np.hypot(rate.error, known.std() / 2000**0.5)


def test_laws_without_a_density_are_refused():
    points = Empirical([[-1.0], [1.0]])
    with pytest.raises(ValueError, match="law is singular"):
        differential_entropy(points, RULE)
    with pytest.raises(ValueError, match="t = 0"):
        entropy_rate(ExactModel(points, VPLinear()), 0.0, RULE)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: differential_entropy(MIXTURE), ValueError, "route must be a Quadrature"),
        (lambda: differential_entropy("p", RULE), TypeError, "law must be"),
        (lambda: entropy_rate(MIXTURE, 0.5, RULE), TypeError, "model must be"),
        (lambda: entropy_rate(ExactModel(MIXTURE, VPLinear()), 2.0, RULE), ValueError, "t must lie"),
        (lambda: divergence_rate(ExactModel(MIXTURE, VPLinear()), 3, 0.5, RULE), TypeError, "other must be"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
