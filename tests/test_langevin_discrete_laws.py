"""The laws that schemes keep on Gaussian data: closed forms, stability, bias, and how many steps they take."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov

from refdiff.distributions import Gaussian, random_mixture, wasserstein
from refdiff.langevin import (
    Kinetics,
    Preconditioner,
    kinetic_step,
    largest_step,
    largest_unadjusted_step,
    unadjusted_langevin,
    unadjusted_step,
)
from refdiff.langevin.kinetic import SCHEMES

RNG = np.random.default_rng(2)
DIM = 3
TARGET = Gaussian(RNG.standard_normal(DIM), random_mixture(DIM, 1, 1, "full").cov())
PRECISION = np.linalg.inv(TARGET.cov())
MATRIX, FRICTION = (a @ a.T + 0.3 * np.eye(DIM) for a in RNG.standard_normal((2, DIM, DIM)))
TURN = RNG.standard_normal((DIM, DIM))
TURN = TURN - TURN.T
KINETICS = Kinetics(MATRIX, FRICTION)
FASTEST = 2 / np.sqrt(np.linalg.eigvals(np.linalg.inv(MATRIX) @ PRECISION).real.max())


@given(st.floats(-12, -0.01))
def test_the_unadjusted_law_is_the_closed_form_at_every_stable_step(exponent):
    h = 10**exponent * largest_unadjusted_step(TARGET, MATRIX)
    found = unadjusted_step(TARGET, h, MATRIX).stationary
    wanted = np.linalg.inv(PRECISION - h / 2 * PRECISION @ MATRIX @ PRECISION)
    # near the limit the law is as wide as the last eigenvalue is small: 1 / (1 - 10^-.01) = 44 times
    np.testing.assert_allclose(found.cov(), wanted, rtol=1e-9, atol=1e-11 * np.abs(wanted).max())
    np.testing.assert_array_equal(found.mean(), TARGET.mean())


@pytest.mark.parametrize("by", [Preconditioner(MATRIX, TURN), Preconditioner([0.3, 1.0, 2.0]), Preconditioner(0.7)])
def test_the_stationary_law_is_that_of_scipy_s_discrete_equation(by):
    h = 0.3 * largest_unadjusted_step(TARGET, by)
    step = unadjusted_step(TARGET, h, by)
    wanted = solve_discrete_lyapunov(np.eye(DIM) + step.deviation, step.noise)
    np.testing.assert_allclose(step.stationary.cov(), wanted, rtol=1e-10, atol=1e-12)
    pushed = step.channel.push(step.stationary)
    np.testing.assert_allclose(pushed.cov(), step.stationary.cov(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(pushed.mean(), TARGET.mean(), rtol=1e-12)


def test_small_steps_lose_no_digits_to_the_equation():
    """P = 1 / (1 - h) where S = 1 and M = 2: at h = 1e-9 the equation in discrete time would leave no digit of h."""
    for h in (1e-3, 1e-6, 1e-9):
        found = unadjusted_step(Gaussian(np.zeros(DIM), 1.0), h, 2.0).stationary.cov()
        np.testing.assert_allclose(found - np.eye(DIM), h / (1 - h) * np.eye(DIM), atol=4e-15)


@pytest.mark.parametrize("friction", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("share", [1e-3, 0.3, 0.9])
def test_positions_of_baoab_and_aboba_are_exact_and_those_of_obabo_known(friction, share):
    by, h = Kinetics(MATRIX, FRICTION * friction), share * FASTEST
    # rounding over the part of the distance that one step takes away: of momenta, and of positions under much friction
    rounding = 1e-12 / min(1.0, friction * share, share**2 / friction)
    cov = {s: kinetic_step(TARGET, h, s, by).stationary.cov() for s in ("BAOAB", "ABOBA", "OBABO")}
    x, p = slice(0, DIM), slice(DIM, 2 * DIM)
    tolerance = {"rtol": 0.0, "atol": rounding}
    for scheme in ("BAOAB", "ABOBA"):
        np.testing.assert_allclose(cov[scheme][x, x], TARGET.cov(), **tolerance)
        np.testing.assert_allclose(cov[scheme][x, p], 0.0, atol=rounding)
    np.testing.assert_allclose(cov["BAOAB"][p, p], MATRIX - h * h / 4 * PRECISION, **tolerance)
    shadow = np.linalg.inv(PRECISION - h * h / 4 * PRECISION @ np.linalg.inv(MATRIX) @ PRECISION)
    np.testing.assert_allclose(cov["OBABO"][x, x], shadow, **tolerance)
    np.testing.assert_allclose(cov["OBABO"][p, p], MATRIX, **tolerance)


def test_the_limits_of_stability_are_where_the_radius_is_one():
    for by in (Preconditioner(MATRIX), Preconditioner(MATRIX, TURN), Preconditioner(0.5, TURN)):
        limit = largest_unadjusted_step(TARGET, by)
        assert unadjusted_step(TARGET, limit, by).spectral_radius == pytest.approx(1.0, abs=1e-12)
        assert largest_step(lambda h, b=by: unadjusted_step(TARGET, h, b), 1e-6) == pytest.approx(limit, rel=1e-8)
        with pytest.raises(ValueError, match="step must make all distances shrink"):
            _ = unadjusted_step(TARGET, 1.001 * limit, by).stationary
    for scheme in ("BAOAB", "OBABO", "ABOBA"):
        found = largest_step(lambda h, s=scheme: kinetic_step(TARGET, h, s, KINETICS), 1e-3)
        assert found == pytest.approx(FASTEST, rel=1e-8)
    assert largest_unadjusted_step(TARGET, Preconditioner(0.0, TURN)) == 0.0  # without noise it turns for ever


@pytest.mark.parametrize(
    ("scheme", "order"), [(s, 2) for s in SCHEMES if s not in ("BAOAB", "ABOBA", "E")] + [("E", 1)]
)
def test_the_bias_has_the_scheme_s_order(scheme, order):
    biases = [kinetic_step(TARGET, h, scheme, KINETICS).wasserstein for h in (0.01, 0.005)]
    assert np.log2(biases[0] / biases[1]) == pytest.approx(order, abs=0.05)


def test_bias_of_the_unadjusted_step_in_both_distances():
    """One axis: W2 = sqrt(P) - sqrt(S) ~ h / (4 sqrt(S)), KL ~ (h / 4 S)^2."""
    s = 2.0
    for h in (1e-2, 1e-3):
        step = unadjusted_step(Gaussian([1.0], s), h)
        assert step.wasserstein == pytest.approx(h / (4 * np.sqrt(s)), rel=h)
        assert step.kl == pytest.approx((h / (4 * s)) ** 2, rel=2 * h)


def test_powers_are_steps_one_after_the_other_and_the_number_of_steps_is_the_least():
    h = 0.02 * largest_unadjusted_step(TARGET, MATRIX)
    step, start = unadjusted_step(TARGET, h, MATRIX), Gaussian(np.full(DIM, 3.0), 1.0)
    law = start
    for _ in range(11):
        law = step.channel.push(law)
    np.testing.assert_allclose(step.after(11, start).cov(), law.cov(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(step.after(11, start).mean(), law.mean(), rtol=1e-12)
    assert step.steps_to(100.0, start) == 0
    goal = 1.1 * step.wasserstein
    n = step.steps_to(goal, start)
    assert wasserstein(step.after(n, start), TARGET) <= goal < wasserstein(step.after(n - 1, start), TARGET)
    # the distance falls by the spectral radius with every step, in the end
    far = [wasserstein(step.after(n, start), step.stationary) for n in (8000, 8001)]
    assert far[1] / far[0] == pytest.approx(step.spectral_radius, rel=1e-5)
    with pytest.raises(ValueError, match="distance must be above the stationary law's"):
        step.steps_to(0.9 * step.wasserstein, start)


def test_chains_settle_at_the_law():
    """4000 chains from the law itself, a few steps on: the six means and squares have |z| < 4.5."""
    by = Preconditioner(MATRIX, TURN)
    h = 0.3 * largest_unadjusted_step(TARGET, by)
    law = unadjusted_step(TARGET, h, by).stationary
    y = unadjusted_langevin(TARGET, law.sample(4000, 1), step_size=h, steps=5, seed=2, preconditioner=by)
    for drawn, wanted in ((y, law.mean()), ((y - law.mean()) ** 2, np.diag(law.cov()))):
        assert np.abs((drawn.mean(axis=0) - wanted) / drawn.std(axis=0) * np.sqrt(4000)).max() < 4.5


def test_what_is_no_gaussian_or_has_no_limit_is_refused():
    with pytest.raises(TypeError, match="gaussian must be a Gaussian"):
        unadjusted_step(random_mixture(2, 2, 1), 0.1)
    with pytest.raises(ValueError, match="preconditioner must be constant"):
        unadjusted_step(TARGET, 0.1, Preconditioner(lambda x: x, 0.0, lambda x: x))
    with pytest.raises(ValueError, match="start must be a stable step size"):
        largest_step(lambda h: unadjusted_step(TARGET, h), 1e6)
    with pytest.raises(ValueError, match="step must have a largest stable size"):
        largest_step(lambda h: unadjusted_step(TARGET, 1e-3), 1e-3)
    step = kinetic_step(TARGET, 0.1)
    with pytest.raises(ValueError, match="start must be a law on all 6 coordinates of the step, got 3"):
        step.after(2, TARGET)
    with pytest.raises(TypeError, match="start must be a Gaussian"):
        step.steps_to(1.0, random_mixture(6, 2, 1))
    for friction in (0.0, [1.0, 0.0, 2.0]):  # energy, or a part of it, is kept for ever
        with pytest.raises(ValueError, match=r"spectral radius of 1$"):
            _ = kinetic_step(Gaussian(np.zeros(3), 1.0), 0.1, "BAOAB", Kinetics(1.0, friction)).stationary
