"""Gauss steps of linear SDEs against moment equations, mpmath and closed propagators."""

from itertools import pairwise

import matrices
import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from refdiff.processes import transition
from refdiff.processes.transition import Linear, Transition

SEEDS = st.integers(0, 2**32 - 1)
STILL = np.zeros(2)


def linear(made):
    return Linear(made.drift, made.force, made.noise)


def fixed(drift, noise, force=None):
    values = drift, np.zeros(len(drift)) if force is None else force, noise
    return Linear(*(lambda _, value=value: value for value in values))


def exactly(drift, noise, length):
    """K, Sigma and det Sigma (an mpf) by Van Loan's block exponential with 60 digits."""
    n = len(drift)
    with mp.workdps(60):
        f, d = mp.matrix(drift.tolist()), mp.matrix((noise @ noise.T).tolist())
        block = mp.zeros(2 * n)
        block[:n, :n], block[:n, n:], block[n:, n:] = -f, d, f.T
        found = mp.expm(block * mp.mpf(length), method="taylor")
        k = found[n:, n:].T
        sigma = k * found[:n, n:]
        return np.array(k.tolist(), float), np.array(sigma.tolist(), float), mp.det(sigma)


def van_loan(drift, noise, length):
    """Sigma by the block exponential in double precision."""
    n = len(drift)
    block = expm(length * np.block([[-drift, noise @ noise.T], [np.zeros((n, n)), drift.T]]))
    return block[n:, n:].T @ block[:n, n:]


@pytest.mark.parametrize("dim", range(2, 9))
def test_mean_and_covariance_follow_their_equations_though_nothing_commutes(dim):
    made = matrices.Coefficients(dim, dim)
    f, later = made.drift(0.1), made.drift(0.9)
    assert np.abs(f @ later - later @ f).max() > 0.1
    found = transition.over(linear(made), 0.0, 1.0)
    for one, wanted in zip((found.gain, found.offset, found.root @ found.root.T), matrices.moments(made, 0.0, 1.0),
                           strict=True):  # fmt: skip
        # DOP853 at rtol = 1e-13, some hundred steps
        np.testing.assert_allclose(one, wanted, atol=1e-11 * np.abs(wanted).max())


@given(SEEDS, st.integers(1, 5), st.integers(1, 3))
def test_transitions_join_and_a_wider_noise_changes_nothing(seed, dim, columns):
    made = matrices.Coefficients(dim, seed, columns)
    whole = transition.over(linear(made), 0.0, 0.9)
    joined = transition.over(linear(made), 0.4, 0.9).after(transition.over(linear(made), 0.0, 0.4))
    wider = transition.over(
        linear(made)._replace(noise=lambda t: np.hstack([made.noise(t), np.zeros((dim, 3))])), 0.0, 0.9
    )
    for other in (joined, wider):
        np.testing.assert_allclose(other.gain, whole.gain, atol=1e-12 * np.abs(whole.gain).max())
        np.testing.assert_allclose(other.offset, whole.offset, atol=1e-12 * (1 + np.abs(whole.offset).max()))
        spread, wanted = other.root @ other.root.T, whole.root @ whole.root.T
        np.testing.assert_allclose(spread, wanted, atol=1e-12 * np.abs(wanted).max())
        assert other.root.shape[1] <= dim


@given(SEEDS, st.integers(1, 5))
def test_backwards_is_the_inverse_with_the_noise_of_reversed_time(seed, dim):
    made = matrices.Coefficients(dim, seed)
    there, back = transition.over(linear(made), 0.2, 0.8), transition.over(linear(made), 0.8, 0.2)
    size = np.abs(there.gain).max() * np.abs(back.gain).max()
    np.testing.assert_allclose(back.gain @ there.gain, np.eye(dim), atol=1e-12 * size)
    # x_0.8 = K x_0.2 + k: its inverse has the offset -K^-1 k, and the noise K^-1 Sigma K^-T
    offset = -back.gain @ there.offset
    np.testing.assert_allclose(back.offset, offset, atol=1e-11 * size * (1 + np.abs(offset).max()))
    carried = back.gain @ there.root
    wanted = carried @ carried.T
    np.testing.assert_allclose(back.root @ back.root.T, wanted, atol=1e-11 * size * np.abs(wanted).max())


@given(SEEDS, st.integers(2, 6))
def test_a_turning_drift_keeps_lengths(seed, dim):
    made = matrices.Coefficients(dim, seed)
    turning = linear(made)._replace(drift=lambda t: made.drift(t) - made.drift(t).T)
    gain = transition.step(turning, 0.0, 0.7).gain
    np.testing.assert_allclose(gain @ gain.T, np.eye(dim), atol=1e-13)


@given(SEEDS, st.integers(1, 4), st.floats(0.01, 20))
def test_constant_coefficients_are_an_exponential_with_all_digits(seed, dim, length):
    made = matrices.Coefficients(dim, seed)
    f, g = made.drift(0.3) - np.eye(dim), made.noise(0.3)
    found = transition.constant(fixed(f, g), length)
    gain, sigma, _ = exactly(f, g, length)
    # the doublings double what rounding does to |F| t
    slack = 64 * dim * plain.EPS * (1 + length * np.abs(f).sum())
    np.testing.assert_allclose(found.gain, gain, atol=slack * max(1, np.abs(gain).max()))
    np.testing.assert_allclose(found.root @ found.root.T, sigma, atol=slack * np.abs(sigma).max())


@pytest.mark.parametrize("length", [1e-6, 1e-4, 1e-2, 0.1, 1.0, 5.0])
def test_langevin_keeps_every_digit_of_a_graded_covariance(length):
    f, g = matrices.langevin()
    found = transition.constant(fixed(f, g), length)
    gain, sigma, determinant = exactly(f, g, length)
    std = np.sqrt(np.diag(sigma))
    np.testing.assert_allclose(found.gain, gain, rtol=1e-12, atol=1e-15 * np.abs(gain).max())
    # entries in units of their standard deviations, 1e-9 and 1e-3 of each other at the shortest length
    np.testing.assert_allclose(
        found.root @ found.root.T / np.multiply.outer(std, std), sigma / np.multiply.outer(std, std), atol=1e-14
    )
    lower = transition.triangular(found.root)
    assert abs(float(np.prod(np.diag(lower)) ** 2 / determinant) - 1) < 1e-13


def test_the_usual_block_exponential_loses_its_digits_where_noise_outlives_the_start():
    f, g = matrices.langevin()
    for length in (1.0, 5.0):
        _, sigma, _ = exactly(f, g, length)
        assert np.abs(van_loan(f, g, length) - sigma).max() > 1e-12 * np.abs(sigma).max()
        kept = transition.constant(fixed(f, g), length).root
        np.testing.assert_allclose(kept @ kept.T, sigma, atol=1e-14 * np.abs(sigma).max())


@pytest.mark.parametrize("dim", [4, 6])
def test_noise_through_a_chain_of_integrators_keeps_its_determinant(dim):
    # the noise enters the last coordinate alone: variances t^(2 d - 1), ..., t, and det of the size t^(d^2)
    f, g = np.diag(np.ones(dim - 1), 1) - 0.1 * np.eye(dim), np.eye(dim)[:, -1:]
    for length in (0.01, 1.0, 5.0):
        found = transition.constant(fixed(f, g), length)
        _, sigma, determinant = exactly(f, g, length)
        np.testing.assert_allclose(found.root @ found.root.T, sigma, rtol=1e-13)
        lower = transition.triangular(found.root)
        # the variance of a coordinate given the others is 1e-8 of its own at dim = 6
        assert abs(float(np.prod(np.diag(lower)) ** 2 / determinant) - 1) < 1e-11


def test_a_constant_force_pushes_as_an_extra_coordinate_would():
    made = matrices.Coefficients(3, 5)
    f, u = made.drift(0.2), made.force(0.2)
    found = transition.constant(fixed(f, made.noise(0.2), u), 2.5)
    wanted = expm(2.5 * np.block([[f, u[:, None]], [np.zeros((1, 4))]]))[:3, 3]
    np.testing.assert_allclose(found.offset, wanted, rtol=1e-12)


def test_jumps_and_kinks_of_the_coefficients_are_found():
    turn, wave = np.array([[0.0, 1.0], [-1.0, 0.0]]), np.pi / 7

    def drift(t):
        return turn if t < wave else -np.eye(2)

    def noise(t):
        return (1 + abs(t - 0.7)) * np.eye(2)

    found = transition.over(Linear(drift, lambda _: STILL, noise), 0.1, 0.9)
    fall = np.exp(-(0.9 - wave))
    np.testing.assert_allclose(found.gain, fall * expm((wave - 0.1) * turn), atol=1e-12)

    def integral(a, b, slope, decay):
        nodes, weights = np.polynomial.legendre.leggauss(20)
        u = (a + b) / 2 + (b - a) / 2 * nodes
        return (b - a) / 2 * (weights * np.exp(-2 * decay * (0.9 - u)) * (1 + slope * (u - 0.7)) ** 2).sum()

    spread = fall**2 * integral(0.1, wave, -1, 0) + integral(wave, 0.7, -1, 1) + integral(0.7, 0.9, 1, 1)
    np.testing.assert_allclose(found.root @ found.root.T, spread * np.eye(2), atol=1e-12)


def test_a_root_singularity_is_stepped_towards():
    equation = Linear(lambda t: -np.sqrt([[t]]), lambda _: np.zeros(1), lambda t: np.sqrt([[t]]))
    found = transition.over(equation, 0.0, 1.0)
    # x = e^(-2 t^1.5 / 3), the noise by substitution of t = q^2
    nodes, weights = np.polynomial.legendre.leggauss(40)
    q = (1 + nodes) / 2
    wanted = (weights * q**3 * np.exp(-4 / 3 * (1 - q**3))).sum()
    np.testing.assert_allclose(found.gain, np.exp(-2 / 3), rtol=1e-12)
    np.testing.assert_allclose(found.root**2, wanted, rtol=1e-12)


def test_no_time_is_the_identity():
    made = matrices.Coefficients(3, 1)
    found = transition.over(linear(made), 0.4, 0.4)
    np.testing.assert_array_equal(found.gain, np.eye(3))
    assert not found.root.any()
    assert not found.offset.any()
    assert not transition.identity(3).channel.noise.any()


@given(SEEDS, st.integers(1, 5), st.integers(1, 7))
def test_triangular_roots_are_of_the_same_covariance(seed, dim, columns):
    root = np.random.default_rng(seed).standard_normal((dim, columns))
    lower = transition.triangular(root)
    np.testing.assert_allclose(lower @ lower.T, root @ root.T, atol=1e-13 * np.abs(root).sum() ** 2)
    np.testing.assert_array_equal(lower, np.tril(lower))
    assert (np.diag(lower) >= 0).all()
    assert transition.narrow(root).shape == (dim, min(dim, columns))


def test_one_step_is_of_twice_the_order_of_its_nodes(monkeypatch):
    made = matrices.Coefficients(3, 7)
    monkeypatch.setattr(transition, "NODES", 2)
    transition._gauss.cache_clear()
    try:
        errors = []
        wanted = matrices.moments(made, 0.0, 0.8)
        for count in (8, 16, 32):
            grid = np.linspace(0, 0.8, count + 1)
            found = transition.identity(3)
            for a, b in pairwise(grid):
                found = transition.step(linear(made), a, b).after(found)
            parts = found.gain, found.offset, found.root @ found.root.T
            errors.append([np.abs(one - other).max() for one, other in zip(parts, wanted, strict=True)])
        orders = np.log2(np.divide(errors[:-1], errors[1:]))
        np.testing.assert_allclose(orders[-1], 4, atol=0.1)
    finally:
        transition._gauss.cache_clear()


def test_transitions_are_channels():
    part = Transition(2 * np.eye(2), np.ones(2), np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(part.channel.noise, [[1, 2], [2, 4]])
    np.testing.assert_array_equal(part.channel.gain, 2 * np.eye(2))
    np.testing.assert_array_equal(part.channel.offset, [1, 1])


def test_coefficients_without_any_smoothness_are_refused(monkeypatch):
    monkeypatch.setattr(transition, "MOST", 60)
    rng = np.random.default_rng(0)
    equation = Linear(lambda _: rng.standard_normal((2, 2)), lambda _: STILL, lambda _: np.eye(2))
    with pytest.raises(
        ValueError, match=r"drift and noise must be smooth but at jumps: 60 steps from t = 0\.0 to 1\.0"
    ):
        transition.over(equation, 0.0, 1.0)


def test_digits_of_little_noise_may_be_of_no_use():
    # one coordinate hardly any noise reaches, and what reaches it is not quite a function of time
    rng = np.random.default_rng(1)

    def noise(_):
        return np.array([[1.0], [1e-7 * (1 + 1e-7 * rng.uniform())]])

    equation = Linear(lambda _: np.zeros((2, 2)), lambda _: STILL, noise)
    assert len(transition.steps(equation, 0.0, 1.0, least=1.0)) == 2
    np.testing.assert_allclose(transition.over(equation, 0.0, 1.0, least=1.0).root[0, 0] ** 2, 1, rtol=1e-14)


@pytest.mark.parametrize("constant", [False, True])
def test_many_equations_at_once_are_each_its_own(constant):
    many = [matrices.Coefficients(2, seed) for seed in range(4)]

    def stacked(name):
        return lambda t: np.stack([getattr(one, name)(0.1 if constant else t) for one in many])

    whole = Linear(*map(stacked, ("drift", "force", "noise")))
    found = transition.constant(whole, 3.0) if constant else transition.over(whole, 0.9, 0.1)
    for i in range(4):
        one = Linear(*(lambda t, part=part, i=i: part(t)[i] for part in whole))
        alone = transition.over(one, 0.0, 3.0) if constant else transition.over(one, 0.9, 0.1)
        for part, wanted in (
            (found.gain[i], alone.gain),
            (found.offset[i], alone.offset),
            (found.root[i] @ found.root[i].T, alone.root @ alone.root.T),
        ):
            np.testing.assert_allclose(part, wanted, atol=1e-12 * np.abs(wanted).max())


def test_noise_alone_makes_steps_as_short_as_it_asks_for():
    # nothing moves, so gain and offset agree at once; int dt / (w^2 + (t - c)^2) is an arc tangent
    width, centre = 0.02, 0.3
    equation = Linear(
        lambda _: np.zeros((1, 1)), lambda _: STILL[:1], lambda t: np.array([[1 / np.hypot(width, t - centre)]])
    )
    exact = (np.arctan(0.7 / width) + np.arctan(0.3 / width)) / width
    found = transition.over(equation, 0.0, 1.0)
    np.testing.assert_allclose(found.root[0, 0] ** 2, exact, rtol=1e-13)
