"""The exact model: Bayes against log density, stencils in space and time, both ends of time, precision and shapes."""

import numpy as np
import plain
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    SubVP,
    Trigonometric,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
    backends,
    beta_table,
    testing,
)
from refdiff.distributions import random_mixture, ring
from refdiff.validation.numeric import derivative, jacobian

MODELS = testing.models(2, spread=3.0, max_count=3)
FRACTIONS = st.floats(0.1, 0.9)
PREDICTIONS = ("score", "denoiser", "noise", "velocity", "v_prediction")
SECOND = ("posterior_covariance", "hessian", "denoiser_jacobian", "velocity_jacobian")
RATES = ("velocity_rate", "acceleration")
SCALARS = ("log_density", "velocity_divergence", "log_density_rate")
PROCESSES = {
    "VP linear": VPLinear(),
    "VP linear from 0": VPLinear(0.0, 20.0),
    "VP cosine": VPCosine(),
    "VP cosine without offset": VPCosine(0.0),
    "sub-VP": SubVP(),
    "VE geometric": VEGeometric(),
    "VE clean start": VEGeometric(clean_start=True),
    "EDM": VEPower(),
    "flow matching": FlowMatching(),
    "trigonometric": Trigonometric(),
    "DDPM": beta_table.linear(),
    "zero terminal SNR": beta_table.linear().zero_terminal_snr(),
    "per axis": AffineProcess([VPLinear(), FlowMatching()]),
}


def moment(model, fraction):
    """A time away from the kinks of a table."""
    t = fraction * model.process.T
    return float(np.floor(t) + 0.5) if any(hasattr(s, "betas") for s in model.process.schedules) else t


def coefficient(model, t, name):
    return np.broadcast_to(getattr(model.process.coefficients(t), name), (model.dim,))


@given(MODELS, FRACTIONS, st.integers(0, 2**32))
def test_denoiser_solves_the_joint_gaussian_of_clean_and_noisy_data(model, fraction, seed):
    assume(not model.process.per_axis)
    t = moment(model, fraction)
    c = model.process.coefficients(t)
    a, q = float(c.alpha), float(c.sigma) ** 2
    assume(a > 0)
    x = model.sample(3, t, seed)
    pushed = plain.noised(model.distribution, a, q)
    size = 1 + np.abs(model.distribution.means).max()
    assume(plain.rounding(pushed, x) < 1e-4)
    error = np.abs(model.denoiser(x, t) - plain.denoiser(model.distribution, x, a, q)).max()
    assert error <= 8 * plain.rounding(pushed, x) * size


@given(MODELS, FRACTIONS, st.integers(0, 2**32))
def test_the_four_predictions_say_the_same_in_their_own_terms(model, fraction, seed):
    t = moment(model, fraction)
    x = model.sample(3, t, seed)
    alpha, sigma, dalpha, dvariance = (coefficient(model, t, n) for n in ("alpha", "sigma", "dalpha", "dvariance"))
    score, denoiser = model.score(x, t), model.denoiser(x, t)
    size = np.abs(x).max() + np.abs(alpha * denoiser).max() + 1
    pushed = model.marginal(t)
    slack = 1e-12 + plain.rounding(pushed, x)
    np.testing.assert_allclose(alpha * denoiser, x + sigma**2 * score, rtol=0, atol=slack * size)
    np.testing.assert_allclose(model.noise(x, t), -sigma * score, rtol=1e-13)
    np.testing.assert_allclose(
        model.v_prediction(x, t), -sigma * (alpha * score + denoiser), rtol=1e-13, atol=1e-13 * size
    )
    expected = dalpha * denoiser - dvariance * score / 2
    np.testing.assert_allclose(model.velocity(x, t), expected, rtol=1e-13, atol=1e-13 * np.abs(expected).max())


@given(MODELS, FRACTIONS, st.integers(0, 2**32))
def test_jacobians_are_derivatives_in_space(model, fraction, seed):
    t = moment(model, fraction)
    x = model.sample(2, t, seed)
    law = model.marginal(t)
    h = 0.02 * np.sqrt(min(np.linalg.eigvalsh(s)[0] for s in plain.parts(law)[2]))
    rounding = plain.rounding(law, x) / h
    assume(rounding < 1e-3)
    for first, second in (("score", "hessian"), ("denoiser", "denoiser_jacobian"), ("velocity", "velocity_jacobian")):
        base, found = getattr(model, first), getattr(model, second)(x, t)
        expected = jacobian(lambda z, base=base: base(z, t), x, h)
        # an 8th-order stencil at a fiftieth of the narrowest component: truncation 1e-8 of the steepest slope
        gradients = np.abs(plain.gradients(law, x)).max()
        steep = np.abs(expected).max() + np.abs(base(x, t)).max() * (gradients + 1 / h * 0.02)
        assert np.abs(found - expected).max() <= 1e-6 * steep + 10 * rounding * (1 + np.abs(base(x, t)).max())


@given(MODELS, FRACTIONS, st.integers(0, 2**32))
def test_the_posterior_covariance_is_the_jacobian_of_the_denoiser_times_the_noise(model, fraction, seed):
    t = moment(model, fraction)
    x = model.sample(2, t, seed)
    alpha, sigma = coefficient(model, t, "alpha"), coefficient(model, t, "sigma")
    left = model.denoiser_jacobian(x, t) * sigma**2
    right = model.posterior_covariance(x, t) * alpha
    size = np.abs(model.distribution.means).max() ** 2 + np.abs(model.distribution.cov()).max() + 1e-9
    np.testing.assert_allclose(left, right, rtol=0, atol=size * (1e-10 + plain.rounding(model.marginal(t), x)))


@given(MODELS, FRACTIONS, st.integers(0, 2**32))
def test_rates_in_time_are_derivatives_at_a_fixed_point(model, fraction, seed):
    t = moment(model, fraction)
    x = model.sample(2, t, seed)
    law = model.marginal(t)
    room = 0.5 if any(hasattr(s, "betas") for s in model.process.schedules) else min(t, model.process.T - t)
    # the density moves by its rate: a step that changes the log density by about a fiftieth
    h = 0.02 * room / (1 + room * np.abs(model.log_density_rate(x, t)).max())
    rounding = plain.rounding(law, x) * (1 + np.abs(plain.logits(law, x)).max()) * room / h
    assume(rounding < 1e-4)
    pace = np.abs(model.log_density_rate(x, t)).max() + 1 / room
    found = derivative(lambda u: model.log_density(x, u), t, h)
    np.testing.assert_allclose(found, model.log_density_rate(x, t), rtol=0, atol=(1e-6 + rounding) * pace)
    found = derivative(lambda u: model.velocity(x, u), t, h)
    size = pace * (1 + np.abs(model.velocity(x, t)).max())
    np.testing.assert_allclose(found, model.velocity_rate(x, t), rtol=1e-5, atol=(1e-5 + 10 * rounding) * size)


@given(MODELS, FRACTIONS, st.integers(0, 2**32))
def test_the_velocity_carries_the_density(model, fraction, seed):
    # continuity: d log p / dt + v . score + div v = 0
    t = moment(model, fraction)
    x = model.sample(3, t, seed)
    terms = [
        model.log_density_rate(x, t),
        (model.velocity(x, t) * model.score(x, t)).sum(axis=1),
        model.velocity_divergence(x, t),
    ]
    law = model.marginal(t)
    g, v = np.abs(plain.gradients(law, x)).max(), np.abs(model.velocity(x, t)).max()
    size = sum(np.abs(term).max() for term in terms) + g * v + g * g * np.abs(coefficient(model, t, "dvariance")).max()
    assert np.abs(sum(terms)).max() <= (1e-11 + 10 * plain.rounding(law, x)) * size


@given(MODELS, FRACTIONS, st.integers(0, 2**32))
def test_the_acceleration_is_the_rate_of_the_velocity_along_the_flow(model, fraction, seed):
    t = moment(model, fraction)
    x = model.sample(2, t, seed)
    expected = model.velocity_rate(x, t) + (model.velocity_jacobian(x, t) @ model.velocity(x, t)[..., None])[..., 0]
    np.testing.assert_allclose(model.acceleration(x, t), expected, rtol=1e-11, atol=1e-12 * np.abs(expected).max())


# ---------------------------------------------------------------------- the ends of time


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_every_question_has_a_finite_answer_at_both_ends_where_there_is_a_density(name, kind):
    law = random_mixture(2, 3, 0, kind)
    model = ExactModel(law, PROCESSES[name])
    for t in (0.0, model.process.T):
        x = model.sample(4, t, 0)
        for question in (*PREDICTIONS, *SECOND, "log_density", "velocity_divergence", "log_density_rate"):
            assert np.isfinite(getattr(model, question)(x, t)).all(), (question, t)


@pytest.mark.parametrize("name", PROCESSES)
def test_at_time_zero_the_denoiser_is_the_identity_and_at_pure_noise_the_mean(name):
    law = random_mixture(2, 3, 0, "full")
    model = ExactModel(law, PROCESSES[name])
    x = law.sample(4, 0)
    if not coefficient(model, 0.0, "sigma").any():
        np.testing.assert_allclose(model.denoiser(x, 0.0), x, rtol=1e-12, atol=1e-12)
        # covariance of rounding only: squares of eps
        np.testing.assert_allclose(model.posterior_covariance(x, 0.0), 0, atol=1e-25)
    silent = coefficient(model, model.process.T, "alpha") == 0
    np.testing.assert_allclose(
        model.denoiser(x, model.process.T)[:, silent],
        np.tile(law.mean(), (4, 1))[:, silent],
        atol=1 if model.process.per_axis else 1e-13,
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_a_point_set_is_refused_at_zero_noise_and_answered_everywhere_else(name):
    model = ExactModel(Empirical([[0.0, 1.0], [2.0, -1.0]]), PROCESSES[name])
    x = np.array([[0.3, 0.2]])
    if not coefficient(model, 0.0, "sigma").any():
        with pytest.raises(ValueError, match="no density"):
            model.denoiser(x, 0.0)
    for fraction in (1e-3, 0.5, 1.0):
        t = model.process.T * fraction
        for question in (*PREDICTIONS, *SECOND, *SCALARS):
            assert np.isfinite(getattr(model, question)(x, t)).all(), (question, t)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_covariance_without_full_rank_is_answered_wherever_there_is_noise(name):
    model = ExactModel(GaussianMixture.shared([[0.0, 1.0], [2.0, -1.0]], np.ones((2, 2))), PROCESSES[name])
    for fraction in (1e-3, 0.5, 1.0):
        t = model.process.T * fraction
        x = model.sample(2, t, 0)
        for question in (*PREDICTIONS, *SECOND, *SCALARS):
            assert np.isfinite(getattr(model, question)(x, t)).all(), (question, t)


def test_a_single_gaussian_has_the_linear_score_of_its_marginal():
    model = ExactModel(Gaussian([1.0, -1.0], [[2.0, 0.5], [0.5, 1.0]]), VPLinear())
    c = model.process.coefficients(0.4)
    spread = c.alpha**2 * np.array([[2.0, 0.5], [0.5, 1.0]]) + c.sigma**2 * np.eye(2)
    x = np.array([[0.3, 0.4], [5.0, -2.0]])
    expected = -np.linalg.solve(spread, (x - c.alpha * np.array([1.0, -1.0])).T).T
    np.testing.assert_allclose(model.score(x, 0.4), expected, rtol=1e-13)
    np.testing.assert_allclose(model.hessian(x, 0.4), np.tile(-np.linalg.inv(spread), (2, 1, 1)), rtol=1e-12)


@pytest.mark.parametrize("power", [-7, -5, -3])
def test_small_noise_keeps_the_residual_of_the_denoiser(power):
    # near a point of the set the denoiser is that point to all digits, and the score the pull towards it
    points = np.array([[0.0, 1.0], [2.0, -1.0]])
    model, sigma = ExactModel(Empirical(points), VEPower()), 10.0**power
    x = points[[1]] + sigma * np.array([[0.5, -1.0]])
    np.testing.assert_array_equal(model.denoiser(x, sigma), points[[1]])
    np.testing.assert_allclose(model.score(x, sigma), -(x - points[[1]]) / sigma**2, rtol=1e-14)
    assert np.abs(model.posterior_covariance(x, sigma)).max() == 0


# ---------------------------------------------------------------------- shapes and precision


@pytest.mark.parametrize("process", ["VP linear", "per axis"])
@pytest.mark.parametrize("kind", ["isotropic", "full"])
@pytest.mark.parametrize("lead", [(), (0,), (3,), (2, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_answers_follow_the_shape_and_precision_of_the_points(process, kind, lead, dtype):
    model = ExactModel(random_mixture(2, 3, 0, kind), PROCESSES[process])
    x = np.random.default_rng(0).standard_normal((*lead, 2)).astype(dtype)
    tails = {**dict.fromkeys(PREDICTIONS + RATES, (2,)), **dict.fromkeys(SECOND, (2, 2)), **dict.fromkeys(SCALARS, ())}
    for question, tail in tails.items():
        answer = np.asarray(getattr(model, question)(x, 0.3))
        assert answer.shape == lead + tail, question
        assert answer.dtype == dtype, question
        # computed in float64 and rounded once at the end
        double = np.asarray(getattr(model, question)(x.astype(np.float64), 0.3)).astype(dtype)
        np.testing.assert_allclose(answer, double, rtol=1e-12 if dtype == np.float64 else 2e-7, atol=1e-12)


def test_a_schedule_stands_for_its_scalar_process():
    x = np.array([[0.5, 0.1]])
    np.testing.assert_array_equal(
        ExactModel(ring(), VPLinear()).score(x, 0.3), ExactModel(ring(), AffineProcess(VPLinear())).score(x, 0.3)
    )


def test_the_posterior_law_has_the_denoiser_as_its_mean():
    model = ExactModel(random_mixture(2, 3, 0, "full"), FlowMatching())
    x = np.array([0.4, -0.2])
    law = model.posterior(x, 0.3)
    np.testing.assert_allclose(law.mean(), model.denoiser(x, 0.3), rtol=1e-12)
    np.testing.assert_allclose(law.cov(), model.posterior_covariance(x, 0.3), rtol=1e-10)


def test_samples_of_the_marginal_repeat_with_their_seed():
    model = ExactModel(ring(), VPLinear())
    np.testing.assert_array_equal(model.sample(5, 0.3, 1), model.sample(5, 0.3, 1))


@pytest.mark.parametrize("dim", [1, 3072])
def test_dimensions_1_and_3072_in_linear_memory(dim):
    model = ExactModel(random_mixture(dim, 2, 0, spread=0.1), VPLinear())
    x = model.sample(3, 0.5, 0)
    c = model.process.coefficients(0.5)
    tweedie = (x + c.sigma**2 * model.score(x, 0.5)) / c.alpha
    np.testing.assert_allclose(model.denoiser(x, 0.5), tweedie, rtol=0, atol=1e-10)


def test_covariance_times_a_vector_is_the_covariance_times_the_vector():
    data = random_mixture(3, 4, seed=2, covariance="full")
    model = ExactModel(data, VPLinear())
    x, u = model.sample(70, 0.3, seed=1), np.random.default_rng(2).normal(size=(70, 3))
    expected = (model.posterior_covariance(x, 0.3) @ u[..., None])[..., 0]
    np.testing.assert_allclose(model.covariance_times(x, u, 0.3), expected, rtol=1e-12, atol=1e-14)
    with backends.use("numba"):  # without a matrix: another order of the sums
        np.testing.assert_allclose(model.covariance_times(x, u, 0.3), expected, rtol=1e-11, atol=1e-13)
    with pytest.raises(ValueError, match="vectors must have the shape of x"):
        model.covariance_times(x, u[:5], 0.3)
