"""Lyapunov's equation against integrals, decompositions there and back, the fastest circulation against its bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from refdiff.dynamics.equilibrium import (
    circulation,
    equilibrating_drift,
    fastest_circulation,
    growth,
    is_reversible,
    numerical_abscissa,
    spectral_abscissa,
    stationary_covariance,
)

SEEDS = st.integers(0, 2**32 - 1)
DIMS = st.integers(1, 6)
# critically damped Langevin dynamics with M = 1/4, Gamma = 1, beta = 4
LANGEVIN = np.array([[0.0, 16.0], [-4.0, -16.0]]), np.diag([0.0, 8.0])


def problem(dim, seed, rank=None):
    """D of some rank, an antisymmetric Q and a covariance with eigenvalues in [0.3, 3]."""
    rng = np.random.default_rng(seed)
    noise, turn = rng.normal(size=(dim, rank or dim)), rng.normal(size=(dim, dim))
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return noise @ noise.T + 0.1 * np.eye(dim) * (rank is None), turn - turn.T, axes * rng.uniform(0.3, 3, dim) @ axes.T


@given(SEEDS, DIMS)
def test_a_drift_made_of_its_parts_has_these_parts(seed, dim):
    d, q, sigma = problem(dim, seed)
    f = equilibrating_drift(d, q, sigma)
    # the equations are solved to rounding times the separation of F and -F, at least twice the slowest rate
    slack = 1e-13 * np.linalg.norm(f) / min(1.0, -2 * numerical_abscissa(f, sigma))
    np.testing.assert_allclose(stationary_covariance(f, d), sigma, atol=slack * np.abs(sigma).max())
    np.testing.assert_allclose(circulation(f, d), q, atol=slack * (np.abs(q).max() + np.abs(d).max()))


@given(SEEDS, DIMS)
def test_detailed_balance_is_no_circulation(seed, dim):
    d, q, sigma = problem(dim, seed)
    assert is_reversible(equilibrating_drift(d, 0 * q, sigma), d)
    if dim > 1:
        assert not is_reversible(equilibrating_drift(d, q, sigma), d)


def test_langevin_dynamics_circulates_and_is_reversible_all_the_same():
    f, d = LANGEVIN
    np.testing.assert_allclose(stationary_covariance(f, d), np.diag([1, 0.25]), atol=1e-15)
    np.testing.assert_allclose(circulation(f, d), [[0, -4], [4, 0]], atol=1e-14)
    assert not is_reversible(f, d)
    assert is_reversible(f, d, parity=[1, -1])
    assert not is_reversible(f, d, parity=[-1, -1])


def test_parity_is_no_symmetry_of_noise_between_positions_and_velocities():
    f, d = LANGEVIN
    for shared in (1.0, -1.0):
        assert not is_reversible(f, d + np.array([[4.0, shared], [shared, 0.0]]), parity=[1, -1])


@given(SEEDS, DIMS, st.sampled_from([None, 1]), st.sampled_from([1.5, 4.0, 100.0]))
def test_the_fastest_circulation_attains_the_mean_rate_with_any_noise(seed, dim, rank, stretch):
    d, _, sigma = problem(dim, seed, rank)
    rate = np.trace(np.linalg.solve(sigma, d)) / 2 / dim
    f = equilibrating_drift(d, fastest_circulation(d, sigma, stretch), sigma)
    times = np.linspace(0, 5 / rate, 30)
    # normal up to a change of coordinates of condition sqrt(stretch), so eigenvalues are as good as the matrix
    assert spectral_abscissa(f) == pytest.approx(-rate, rel=1e-9)
    assert (growth(f, times, sigma) <= np.sqrt(stretch) * np.exp(-rate * times) * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("q", "abscissa", "left"), [(0.0, -0.1, 3.679), (0.5, -0.1287, 3.044), (2.0, -0.55, 0.0540), (10.0, -0.55, 0.0402)]
)
def test_circulation_speeds_the_source_s_kind_of_example_up(q, abscissa, left):
    sigma = np.diag([1.0, 10.0])
    f = equilibrating_drift(2.0, [[0.0, q], [-q, 0.0]], sigma)
    k = expm(5 * f)
    assert spectral_abscissa(f) == pytest.approx(abscissa, abs=5e-5)
    assert np.abs(k @ sigma @ k.T).max() == pytest.approx(left, rel=5e-4)  # |Sigma(5) - Sigma| from Sigma(0) = 0


@given(SEEDS, st.integers(2, 6), st.sampled_from([None, 1]))
def test_no_circulation_is_slower_than_none_at_any_time_nor_faster_than_the_mean_rate(seed, dim, rank):
    d, q, sigma = problem(dim, seed, rank)
    still, turning = (equilibrating_drift(d, part, sigma) for part in (0 * q, q))
    times = np.geomspace(1e-3, 20, 40)
    assert (growth(turning, times, sigma) <= growth(still, times, sigma) * (1 + 1e-9)).all()
    assert spectral_abscissa(turning) >= -np.trace(np.linalg.solve(sigma, d)) / 2 / dim * (1 + 1e-9)


@given(SEEDS, DIMS)
def test_growth_starts_at_the_numerical_abscissa_and_never_exceeds_it(seed, dim):
    rng = np.random.default_rng(seed)
    f, (_, _, sigma) = rng.normal(size=(dim, dim)), problem(dim, seed)
    rate, h = numerical_abscissa(f, sigma), 1e-6
    size = np.linalg.norm(f) * np.linalg.cond(sigma)
    # |e^(hF)| = 1 + h rate + O(h^2 |F|^2)
    assert (growth(f, h, sigma) - 1) / h == pytest.approx(rate, abs=2 * h * size**2 + 1e-8)
    times = np.linspace(0.1, 2, 7)
    assert (growth(f, times, sigma) <= np.exp(rate * times) * (1 + 1e-9)).all()


def test_growth_is_the_norm_of_the_exponential_in_the_shape_of_the_times():
    f = np.array([[-1.0, 8.0], [0.0, -2.0]])
    times = np.array([[0.0, 0.3], [1.0, 4.0]])
    wanted = [[np.linalg.norm(expm(t * f), 2) for t in row] for row in times]
    np.testing.assert_allclose(growth(f, times), wanted, rtol=1e-13)
    assert growth(f, 0.5).shape == ()
    assert growth(f, 0.5) > 1 > growth(f, 9.0)  # a transient, then decay


def test_numbers_and_diagonals_are_matrices():
    assert stationary_covariance(-0.5, 1.0).tolist() == [[1.0]]
    np.testing.assert_allclose(stationary_covariance([-1.0, -2.0], 2.0), np.diag([1, 0.5]), rtol=1e-15)
    np.testing.assert_allclose(equilibrating_drift(1.0, np.zeros((2, 2)), [1.0, 2.0]), np.diag([-0.5, -0.25]))
    assert circulation(-0.5, 1.0).tolist() == [[0.0]]
    assert fastest_circulation(1.0, 2.0).tolist() == [[0.0]]


def test_what_no_noise_moves_is_reversible():
    assert is_reversible([[-1.0, 2.0], [0.0, -1.0]], 0.0)
    assert not stationary_covariance([[-1.0, 2.0], [0.0, -1.0]], 0.0).any()


@given(SEEDS, DIMS)
def test_scales_of_time_and_space_change_nothing(seed, dim):
    d, q, sigma = problem(dim, seed)
    small, f = 1e-150, equilibrating_drift(d, q, sigma)
    np.testing.assert_allclose(equilibrating_drift(small * d, small * q, small * sigma), f, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(stationary_covariance(small * f, small * d), stationary_covariance(f, d), rtol=1e-9)
    assert is_reversible(small * equilibrating_drift(d, 0 * q, sigma), small * d)


def test_hundreds_of_coordinates():
    d, q, sigma = problem(200, 0)
    f = equilibrating_drift(d, q, sigma)
    np.testing.assert_allclose(stationary_covariance(f, d), sigma, atol=1e-9)
    np.testing.assert_allclose(circulation(f, d), q, atol=1e-7)
    best = equilibrating_drift(d, fastest_circulation(d, sigma), sigma)
    assert spectral_abscissa(best) == pytest.approx(-np.trace(np.linalg.solve(sigma, d)) / 400, rel=1e-9)


def test_what_a_text_file_leaves_of_antisymmetry_is_enough():
    q = np.array([[0.0, 1.0], [-1.0 - 1e-10, 0.0]])
    np.testing.assert_allclose(equilibrating_drift(2.0, q, 1.0), [[-1.0, -1.0], [1.0, -1.0]], atol=1e-9)


def test_noise_that_does_not_reach_an_axis_leaves_it_at_rest():
    np.testing.assert_allclose(stationary_covariance([-1.0, -2.0], [2.0, 0.0]), np.diag([1.0, 0.0]))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: stationary_covariance(np.eye(2), 1.0), "drift must have eigenvalues with negative real parts"),
        (lambda: stationary_covariance([[0, 1], [-1, 0]], 1.0), "Hurwitz"),
        (lambda: circulation([-1.0, 0.0], 1.0), "Hurwitz"),
        (lambda: stationary_covariance(np.zeros((2, 3)), 1.0), "drift must be square"),
        (lambda: stationary_covariance([-1, -2], [1, 2, 3]), "must act on the same dimension"),
        (lambda: stationary_covariance(-1.0, -1.0), "diffusion must not be negative"),
        (lambda: circulation([-1.0, np.nan], 1.0), "drift must be finite"),
        (lambda: equilibrating_drift(1.0, np.eye(2), np.eye(2)), "circulation must be antisymmetric"),
        (lambda: equilibrating_drift(1.0, -np.eye(2), np.eye(2)), "circulation must be antisymmetric"),
        (lambda: equilibrating_drift(1.0, [[0, 1], [-1.0001, 0]], np.eye(2)), "circulation must be antisymmetric"),
        (lambda: equilibrating_drift(1.0, np.zeros((2, 2)), [1.0, 0.0]), "covariance must be positive definite"),
        (lambda: fastest_circulation(np.zeros((2, 2)), np.eye(2)), "diffusion must not be 0"),
        (lambda: fastest_circulation(1.0, 1.0, stretch=1.0), "stretch must lie in"),
        (lambda: is_reversible(-1.0, 1.0, parity=[2.0]), "parity must be"),
        (lambda: is_reversible([-1.0, -1.0], 1.0, parity=[1.0]), "parity must be"),
        (lambda: growth(-1.0, [0.0, np.nan]), "times must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises(ValueError, match=said):
        call()
