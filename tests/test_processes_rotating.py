"""Turning frames against integrals, exponentials and the general linear process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from refdiff.dynamics.equilibrium import circulation, stationary_covariance
from refdiff.processes import LinearProcess, Rotating
from refdiff.validation.identities.rotating_axes import Swinging, first_order

SEEDS = st.integers(0, 2**32 - 1)
DIMS = st.integers(1, 4)


def accelerating(t):
    return t + t * t / 2, 1 + t, 1.0


def turned(dim, seed, *, drift=False, clock=None):
    rng = np.random.default_rng(seed)
    w, root, f = rng.normal(size=(3, dim, dim))
    return Rotating(w - w.T, root @ root.T / dim, f if drift else None, clock)


@given(SEEDS, DIMS, st.booleans(), st.sampled_from([None, accelerating]))
def test_the_closed_form_is_the_process_of_these_coefficients(seed, dim, drift, clock):
    closed = turned(dim, seed, drift=drift, clock=clock)
    process = LinearProcess(closed.drift, closed.noise, 0.8, rates=closed.rates)
    for s, t in ((0.0, 0.8), (0.3, 0.5)):
        found, wanted = process.channel(s, t), closed.channel(s, t)
        # the steps of the process agree with their halves to 1e-11, and err by 2^-16 of it, beside rounding
        np.testing.assert_allclose(found.gain, wanted.gain, atol=1e-11 * np.abs(wanted.gain).max())
        np.testing.assert_allclose(found.noise, wanted.noise, atol=1e-11 * np.abs(wanted.noise).max())


@given(SEEDS, DIMS)
def test_variance_is_preserved_though_nothing_commutes(seed, dim):
    closed = turned(dim, seed, clock=accelerating)
    link = closed.kernel(0.7)
    np.testing.assert_allclose(link.noise, np.eye(dim) - link.gain @ link.gain.T, atol=1e-12)
    np.testing.assert_allclose(closed.drift(0.7), -closed.diffusion(0.7) / 2, atol=1e-12)


@given(SEEDS, DIMS, st.sampled_from([None, accelerating]))
def test_noise_and_rates_are_of_the_diffusion(seed, dim, clock):
    closed, t, h = turned(dim, seed, drift=True, clock=clock), 0.4, 1e-4
    g = closed.noise(t)
    np.testing.assert_allclose(g @ g.T, closed.diffusion(t), atol=1e-12)
    df, du, dd = closed.rates(t)
    size = 1 + np.abs(closed.turning).sum() ** 3  # third derivatives turn three times
    for rate, part in ((df, closed.drift), (dd, closed.diffusion)):
        difference = (part(t + h) - part(t - h)) / (2 * h)
        np.testing.assert_allclose(rate, difference, atol=8 * h**2 * size * np.abs(part(t)).max() + 1e-9)
    assert not du.any()


@given(SEEDS, DIMS)
def test_the_spectral_form_is_of_the_diffusion_and_the_propagator(seed, dim):
    closed, t, h = turned(dim, seed, clock=accelerating), 0.6, 1e-4
    rates, axes, evolution, connection = closed.spectral(t)
    np.testing.assert_allclose(axes * rates @ axes.T, closed.diffusion(t), atol=1e-12)
    np.testing.assert_allclose(axes @ evolution @ axes.T, closed.propagator(0.0, t), atol=1e-12)
    moved = (closed.spectral(t + h).axes - closed.spectral(t - h).axes) / (2 * h)
    np.testing.assert_allclose(connection, (axes.T @ moved).T, atol=h**2 * (1 + np.abs(closed.turning).sum() ** 3))
    np.testing.assert_allclose(connection, -connection.T, atol=1e-13)


@given(SEEDS, DIMS)
def test_propagators_compose_and_go_back(seed, dim):
    closed = turned(dim, seed, drift=True)
    whole = closed.propagator(0.1, 0.9)
    np.testing.assert_allclose(closed.propagator(0.4, 0.9) @ closed.propagator(0.1, 0.4), whole, atol=1e-12)
    back = closed.propagator(0.9, 0.1)
    size = np.abs(whole).max() * np.abs(back).max()
    np.testing.assert_allclose(back @ whole, np.eye(dim), atol=1e-12 * size)


@given(SEEDS, DIMS)
def test_who_turns_with_the_noise_sees_a_circulation(seed, dim):
    closed = turned(dim, seed)
    drift, noise = closed.frame_drift - closed.turning, closed.frame_diffusion + 0.1 * np.eye(dim)
    drift = drift - 0.05 * np.eye(dim)  # well away from noise of lower rank
    slack = 1e-12 * (1 + np.linalg.norm(drift)) / 0.1
    np.testing.assert_allclose(stationary_covariance(drift, noise), np.eye(dim), atol=slack)
    np.testing.assert_allclose(circulation(drift, noise), closed.turning, atol=slack * 10)


def test_noise_of_rank_one_that_turns_reaches_everything():
    # L213's claim U(T) -> 0 holds for a noise that turns, and fails for one that does not
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    still = Rotating(0 * turn, [1.0, 0.0]).propagator(0, 20)
    np.testing.assert_allclose(np.linalg.svd(still)[1], [1, np.exp(-10)], atol=1e-15)
    np.testing.assert_allclose(
        np.linalg.svd(Rotating(turn, [1.0, 0.0]).propagator(0, 20))[1], [7.65e-3, 5.93e-3], atol=5e-6
    )


def test_small_times_keep_the_digits_of_the_covariance():
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    link = Rotating(turn, [1.0, 3.0]).kernel(1e-12)
    np.testing.assert_allclose(np.diag(link.noise), [1e-12, 3e-12], rtol=1e-11)


def test_a_clock_may_stand_still():
    starting = Rotating([[0.0, 1.0], [-1.0, 0.0]], [1.0, 2.0], clock=lambda t: (t * t, 2 * t, 2.0))
    assert not starting.drift(0.0).any()
    plain = Rotating([[0.0, 1.0], [-1.0, 0.0]], [1.0, 2.0])
    np.testing.assert_allclose(starting.propagator(0.0, 0.5), plain.propagator(0.0, 0.25), atol=1e-15)


def test_no_time_does_nothing():
    link = turned(3, 0).channel(0.5, 0.5)
    np.testing.assert_allclose(link.gain, np.eye(3), atol=1e-14)
    assert not link.noise.any()
    assert not link.offset.any()


def test_what_a_text_file_leaves_of_antisymmetry_is_enough():
    assert Rotating([[0.0, 1.0], [-1.0 - 1e-10, 0.0]], 1.0).turning[1, 0] == pytest.approx(-1, abs=1e-9)


def test_without_turning_the_axes_are_on_their_own():
    link = Rotating(np.zeros((2, 2)), [1.0, 3.0]).channel(0.5, 1.5)
    np.testing.assert_allclose(link.gain, np.diag(np.exp([-0.5, -1.5])), rtol=1e-14)
    np.testing.assert_allclose(link.noise, np.diag(-np.expm1([-1.0, -3.0])), rtol=1e-13)
    assert Rotating([[0.0]], 2.0).kernel(1.0).gain == pytest.approx(np.exp(-1))


def test_a_drift_of_its_own_is_turned_too():
    w, f = np.array([[0.0, 2.0], [-2.0, 0.0]]), np.array([[-1.0, 0.5], [0.0, -2.0]])
    r = expm(0.3 * w)
    closed = Rotating(w, 1.0, f)
    np.testing.assert_allclose(closed.frame(0.3), r, atol=1e-14)
    np.testing.assert_allclose(closed.drift(0.3), r @ f @ r.T, atol=1e-14)
    np.testing.assert_allclose(closed.propagator(0, 0.3), r @ expm(0.3 * (f - w)), atol=1e-14)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: Rotating(np.eye(2), 1.0), ValueError, "turning must be antisymmetric"),
        (lambda: Rotating(-np.eye(2), 1.0), ValueError, "turning must be antisymmetric"),
        (lambda: Rotating([[0.0, 1.0], [-1.0001, 0.0]], 1.0), ValueError, "turning must be antisymmetric"),
        (lambda: Rotating(np.zeros((2, 3)), 1.0), ValueError, "turning must be square"),
        (lambda: Rotating(np.zeros((2, 2)), [1.0, 2.0, 3.0]), ValueError, "diffusion must act on dimension 2"),
        (lambda: Rotating(np.zeros((2, 2)), 1.0, np.zeros((3, 3))), ValueError, "drift must act on dimension 2"),
        (lambda: Rotating(np.zeros((2, 2)), -1.0), ValueError, "diffusion must not be negative"),
        (lambda: Rotating(np.zeros((2, 2)), 1.0, clock=3.0), TypeError, "clock must be a function"),
        (lambda: Rotating([[0.0]], 1.0, clock=lambda t: (t + 1, 1, 0)), ValueError, "clock must start"),
        (lambda: Rotating([[0.0]], 1.0, clock=lambda t: (-t, -1, 0)), ValueError, "must not run backwards"),
        (lambda: Rotating([[0.0]], 1.0).channel(0.5, 0.2), ValueError, "s must not exceed t"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_numbers_of_the_smallest_turning_example():
    # rates 1 and 3, an angle of 1e-3 (t + t^2 / 2), t = 1: the source's first order errs by a fifth and more
    eta, example = 1e-3, Swinging(np.array([1.0, 3.0]), np.zeros(2), np.array([[0.0, -1.0], [1.0, 0.0]]), np.eye(2))
    turned = example.turned(eta)
    link, axes = turned.kernel(1.0), turned.axes(1.0)
    exact = axes.T @ link.gain @ axes
    np.testing.assert_allclose([exact[0, 1], exact[1, 0]], [-3.66125e-4, -2.71835e-4], atol=5e-10)
    corrected, printed = (eta * first_order(example, 1.0, decays=kind) for kind in (True, False))
    np.testing.assert_allclose([corrected[0, 1], corrected[1, 0]], [-3.66125e-4, -2.71835e-4], atol=5e-10)
    np.testing.assert_allclose([printed[0, 1], printed[1, 0]], [-4.33319e-4, -4.33319e-4], atol=5e-10)
    own, rates = axes.T @ link.noise @ axes, np.diag([1.0, 3.0])
    u = example.decay(1.0)
    assert (rates @ own - own @ rates)[0, 1] == pytest.approx(-4.931e-4, abs=5e-8)
    assert 2 * u.sum() * printed[0, 1] == pytest.approx(-7.190e-4, abs=5e-8)
