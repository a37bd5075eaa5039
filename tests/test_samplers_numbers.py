"""phi functions and Lagrange integrals against mpmath and polynomials."""

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refdiff.samplers.numbers import (
    exp,
    expm1,
    exponential_integrals,
    gauss_legendre,
    lagrange,
    lagrange_integrals,
    log,
    phi,
    root,
    sqrt,
    vandermonde,
)

EPS = np.finfo(float).eps


@pytest.mark.parametrize("m", range(6))
@given(h=st.floats(-30, 30))
@example(h=1.0)  # where the series is longest
@example(h=-1.0)
def test_phi_functions_have_no_cancellation(m, h):
    with mpmath.workdps(60):
        expected = mpmath.hyp1f1(1, m + 1, mpmath.mpf(h)) / mpmath.factorial(m)
        error = abs((mpmath.mpf(float(phi(m, h))) - expected) / expected)
    # the recursion loses 1 / (j! |h phi_{j+1}|) <= m at every stage where |h| > 1
    assert error < 8 * (1 + m) ** 2 * EPS


@pytest.mark.parametrize("m", range(5))
@pytest.mark.parametrize("h", ["0.3", "-4", "1e-15", "1e-3"])
def test_phi_functions_of_extended_numbers_have_their_digits(m, h):
    with mpmath.workdps(40):
        found = phi(m, mpmath.mpf(h))
    with mpmath.workdps(200):
        x = mpmath.mpf(h)
        expected = (mpmath.exp(x) - sum(x**j / mpmath.factorial(j) for j in range(m))) / x**m
        assert abs(found / expected - 1) < mpmath.mpf(10) ** -36  # h itself was read with 40 digits


def test_phi_at_zero_is_one_over_a_factorial_and_arrays_keep_their_shape():
    assert [float(phi(m, 0.0)) for m in range(5)] == [1.0, 1.0, 1 / 2, 1 / 6, 1 / 24]
    assert phi(2, np.array([[-2.0, 0.0, 0.5], [3.0, 1e-9, -1.0]])).shape == (2, 3)


@pytest.mark.parametrize("m", range(6))
def test_phi_of_an_array_is_phi_of_its_numbers(m):
    h = np.array([-1e30, -2.0, -1.0, -0.3, 0.0, 0.7, 1.5, 20.0])
    np.testing.assert_allclose(phi(m, h), [phi(m, float(one)) for one in h], rtol=16 * EPS)


def test_functions_accept_extended_numbers():
    x = mpmath.mpf("0.3")
    for function, theirs in ((exp, mpmath.exp), (expm1, mpmath.expm1), (log, mpmath.log), (sqrt, mpmath.sqrt)):
        assert function(x) == theirs(x)
        assert function(np.array([x], dtype=object))[0] == theirs(x)
        np.testing.assert_allclose(function(0.3), float(theirs(x)), rtol=4 * EPS)


def test_a_root_of_what_rounding_left_below_zero_is_zero():
    assert root(-1e-17) == 0.0
    np.testing.assert_array_equal(root(np.array([4.0, -1e-20])), [2.0, 0.0])


NODES = st.lists(st.integers(-20, 20), min_size=1, max_size=5, unique=True)


@given(NODES, st.floats(-20, 20), st.integers(0, 2**32))
def test_polynomials_are_reproduced(nodes, x, seed):
    c = np.random.default_rng(seed).standard_normal(len(nodes))
    values = np.polynomial.polynomial.polyval(np.array(nodes, dtype=float), c)
    basis = np.array(lagrange([float(n) for n in nodes], x))
    size = np.abs(basis) @ np.abs(values) + np.polynomial.polynomial.polyval(abs(x), np.abs(c))
    assert abs(basis @ values - np.polynomial.polynomial.polyval(x, c)) < 1e-12 * size


@given(NODES, st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 2**32))
def test_integrals_of_polynomials_are_exact(nodes, a, b, seed):
    c = np.random.default_rng(seed).standard_normal(len(nodes))
    points = np.array(nodes, dtype=float)
    weights = np.array(lagrange_integrals(list(points), a, b))
    antiderivative = np.polynomial.polynomial.polyint(c)
    values = np.polynomial.polynomial.polyval(points, c)
    expected = np.diff(np.polynomial.polynomial.polyval(np.array([a, b]), antiderivative))[0]
    size = np.abs(weights) @ np.abs(values) + np.polynomial.polynomial.polyval(5.0, np.abs(antiderivative))
    assert abs(weights @ values - expected) < 1e-12 * size


def test_weighted_integrals_reach_rounding():
    found = lagrange_integrals([0.0, 1.0], 0.2, 1.5, np.exp, 32)
    first = (1.5 - 1) * np.exp(1.5) - (0.2 - 1) * np.exp(0.2)  # int x e^x
    # relative to the size of the integrals, which cancel in the first weight
    np.testing.assert_allclose(found, [np.exp(1.5) - np.exp(0.2) - first, first], rtol=0, atol=1e-14)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=5, unique=True), st.integers(0, 2**32))
def test_weights_of_moments_have_these_moments(nodes, seed):
    moments = np.random.default_rng(seed).standard_normal(len(nodes))
    weights = np.array(vandermonde([float(n) for n in nodes], list(moments)))
    powers = np.vander(np.array(nodes, dtype=float), increasing=True).T
    size = np.abs(powers) @ np.abs(weights)
    assert (np.abs(powers @ weights - moments) <= 1e-13 * (size + np.abs(moments))).all()


@given(st.integers(1, 4), st.floats(-6, 6))
def test_exponential_integrals_are_those_of_the_polynomials_under_the_exponential(count, k):
    nodes = [0.0, 1.0, -0.5, 2.0][:count]
    expected = lagrange_integrals(nodes, 0.0, 1.0, lambda u: k * np.exp(k * (1 - u)), 32)
    found = exponential_integrals(nodes, k)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.exp(abs(k)))
    # the first moment is the sum of all weights
    np.testing.assert_allclose(sum(found), np.expm1(k), rtol=0, atol=1e-13 * np.exp(abs(k)))


def test_exponential_integrals_of_axes_are_those_of_each():
    k, nodes = np.array([0.3, -2.0]), [np.zeros(2), np.array([1.0, 0.5])]
    found = exponential_integrals(nodes, k)
    for axis in range(2):
        each = exponential_integrals([node[axis] for node in nodes], float(k[axis]))
        np.testing.assert_allclose([weight[axis] for weight in found], each, rtol=1e-14)


@pytest.mark.parametrize("count", range(1, 6))
def test_a_rule_of_gauss_is_exact_to_its_degree_and_no_further(count):
    nodes, weights = gauss_legendre(count)
    for degree in range(2 * count):
        np.testing.assert_allclose(weights @ nodes**degree, 1 / (degree + 1), rtol=8 * EPS)
    assert abs(weights @ nodes ** (2 * count) - 1 / (2 * count + 1)) > 1e-8
