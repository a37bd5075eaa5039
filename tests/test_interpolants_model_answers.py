"""Samples, equations and fields of an interpolant, shapes and precision of its answers, and what is refused."""

import numpy as np
import pytest
from pairs import JOININGS, build

from refdiff.dynamics import VelocityField, field_flow, log_likelihood
from refdiff.interpolants import (
    Blend,
    InterpolantModel,
    ScalarInterpolant,
    brownian,
    linear,
)

# ---------------------------------------------------------------------- samples and equations


@pytest.mark.parametrize("name", JOININGS)
def test_interpolated_pairs_have_the_marginals(name):
    model, n = InterpolantModel(build("components"), JOININGS[name]), 20_000
    times = np.array([0.0, 0.3, 1.0]) * model.T
    found = model.interpolated(n, times, 2)
    assert found.shape == (3, n, 2)
    for t, x in zip(times, found, strict=True):
        law = model.marginal(t)
        # five standard errors: an alarm in a million numbers
        assert (np.abs(x.mean(axis=0) - law.mean()) <= 5 * np.sqrt(np.diag(law.cov()) / n)).all()
        products = (x - law.mean())[:, :, None] * (x - law.mean())[:, None, :]
        assert (np.abs(products.mean(axis=0) - law.cov()) <= 5 * products.std(axis=0) / np.sqrt(n)).all()


NOISES = {"number": 0.8, "axes": np.array([0.3, 0.9]), "matrix": np.array([[0.5, 0.1, 0.2], [0.0, 0.4, -0.3]])}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", NOISES)
def test_equations_with_any_noise_have_the_marginals(backward, kind):
    # the drift of Gaussians is affine, so that mean and covariance obey linear equations: read off, then integrated
    model, noise = InterpolantModel(build("Gaussians"), brownian(0.6)), NOISES[kind]
    equation = model.equation(lambda t: noise, backward=backward)
    start, end = (0.9, 0.2) if backward else (0.2, 0.9)
    g = np.atleast_2d(equation.noise_at(np.zeros((1, 2)), start))
    g = np.diag(np.broadcast_to(g.ravel(), 2)) if g.shape[0] == 1 else g
    spread = np.sign(end - start) * g @ g.T

    def moments(t, y):
        at_zero, *at_units = equation.drift_at(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), t)
        slope = (at_units - at_zero).T
        covariance = y[2:].reshape(2, 2)
        return np.concatenate([at_zero + slope @ y[:2], (slope @ covariance + covariance @ slope.T + spread).ravel()])

    from scipy.integrate import solve_ivp

    law = model.marginal(start)
    found = solve_ivp(
        moments, (start, end), np.concatenate([law.mean(), law.cov().ravel()]), method="DOP853", rtol=1e-9, atol=1e-10
    ).y[:, -1]
    np.testing.assert_allclose(found[:2], model.marginal(end).mean(), atol=1e-8)
    np.testing.assert_allclose(found[2:].reshape(2, 2), model.marginal(end).cov(), atol=1e-8)
    assert equation.motions == (3 if np.ndim(noise) == 2 else 2)


def test_without_noise_the_equation_is_the_flow_also_where_there_is_no_score():
    model = InterpolantModel(build("a map"), linear())
    drift = model.equation(lambda t: 0.0)
    x = model.sample(3, 0.3, 0)
    np.testing.assert_array_equal(drift.drift_at(x, 0.3), model.velocity(x, 0.3))


def test_the_field_carries_points_and_densities():
    model = InterpolantModel(build("components"), brownian(0.6))
    x = model.sample(2, 0.0, 0)
    field = model.field()
    assert isinstance(field, VelocityField)
    found = field_flow(field, x, 0.0, 1.0, log_density=True, rtol=1e-8, atol=1e-9)
    expected = model.log_density(found.x, 1.0)
    np.testing.assert_allclose(model.log_density(x, 0.0) + found.log_density_change, expected, rtol=1e-6)
    said = log_likelihood(field, found.x, prior=model.pairs.first.logpdf, start=1.0, end=0.0, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(said.log_likelihood, expected, rtol=1e-6)
    np.testing.assert_allclose(
        field.products(x, 0.4, np.ones((2, 1, 2)))[:, 0], model.velocity_jacobian(x, 0.4).sum(axis=(1, 2))
    )


# ---------------------------------------------------------------------- shapes, precision, refusals

VECTORS = ("velocity", "score", "expected_first", "expected_second", "expected_noise", "velocity_rate", "acceleration")
NUMBERS = ("log_density", "velocity_divergence", "log_density_rate")


def test_results_follow_the_shape_and_precision_of_points():
    model = InterpolantModel(build("components"), brownian(0.6))
    rows = model.sample(6, 0.4, 0)
    for name, tail in [
        *((one, (2,)) for one in VECTORS),
        *((one, ()) for one in NUMBERS),
        ("velocity_jacobian", (2, 2)),
    ]:
        answer = getattr(model, name)
        whole = answer(rows, 0.4)
        assert whole.shape == (6, *tail)
        np.testing.assert_allclose(answer(rows.reshape(2, 3, 2), 0.4), whole.reshape(2, 3, *tail), rtol=1e-12)
        np.testing.assert_allclose(answer(rows[0], 0.4), whole[0], rtol=1e-12)
        assert answer(rows[:0], 0.4).shape == (0, *tail)
        single = answer(rows.astype(np.float32), 0.4)
        assert single.dtype == np.float32
        np.testing.assert_array_equal(single, answer(rows.astype(np.float32).astype(float), 0.4).astype(np.float32))
    single = model.conditional_velocity(rows.astype(np.float32), rows, rows, 0.4)
    assert single.dtype == np.float32
    assert model.conditional_velocity(rows[0], rows[0], rows[0], 0.4).shape == (2,)


def test_many_components_are_taken_a_part_at_a_time(monkeypatch):
    from refdiff.distributions import covariances, mixture

    model = InterpolantModel(build("points with a mixture"), brownian(0.6))
    x = model.sample(40, 0.4, 0)
    whole = [getattr(model, name)(x, 0.4) for name in (*VECTORS, *NUMBERS)]
    monkeypatch.setattr(covariances, "TILE", 30)
    monkeypatch.setattr(mixture, "TILE", 30)
    for name, expected in zip((*VECTORS, *NUMBERS), whole, strict=True):
        np.testing.assert_allclose(getattr(model, name)(x, 0.4), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: InterpolantModel(m, linear()), TypeError, "pairs must be a PairLaw"),
        (lambda m: InterpolantModel(m.pairs, m.pairs), TypeError, "interpolant must be an Interpolant"),
        (lambda m: m.velocity([0.0], 0.5), ValueError, "x must have shape"),
        (lambda m: m.velocity([0.0, np.nan], 0.5), ValueError, "x must be finite"),
        (lambda m: m.velocity([0.0, 1.0], 1.5), ValueError, "t must lie in"),
        (lambda m: m.score([0.0, 1.0], -0.5), ValueError, "t must lie in"),
        (
            lambda m: m.conditional_velocity(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(2), 0.5),
            ValueError,
            "as many points",
        ),
        (lambda m: m.interpolated(3, 0.5, 0), ValueError, "times must have 1 dimensions"),
        (lambda m: m.interpolated(-3, [0.5], 0), ValueError, "n must be"),
        (lambda m: m.posterior([0.0, 1.0, 2.0], 0.5), ValueError, "y must have shape|x must have shape"),
        (lambda m: m.equation(lambda t: -np.ones((2, 2, 2))), ValueError, "noise must have"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(InterpolantModel(build("components"), linear()))


def test_what_an_interpolant_does_not_know_is_said():
    class Bare:
        T = 1.0

        def at(self, t):
            return Blend(*(np.asarray(v) for v in (1 - t, t, 0.0, -1.0, 1.0, 0.0)))

    model = InterpolantModel(build("components"), Bare())
    x = np.zeros(2)
    np.testing.assert_array_equal(model.velocity(x, 0.5), InterpolantModel(model.pairs, linear()).velocity(x, 0.5))
    with pytest.raises(ValueError, match="interpolant must know its second rates"):
        model.acceleration(x, 0.5)
    flat = InterpolantModel(model.pairs, ScalarInterpolant(linear().first, linear().second))
    with pytest.raises(ValueError, match="at which"):
        InterpolantModel(
            model.pairs, ScalarInterpolant(lambda t: (1 - t, -np.inf, 0.0), flat.interpolant.second)
        ).velocity(x, 0.5)
