"""Operators in three storages against their dense matrices."""

import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import operators, testing

DIM = 3


@st.composite
def pairs(draw):
    """An operator on R^3 in some storage, and its matrix."""
    kind = draw(st.sampled_from(["scalar", "diagonal", "matrix"]))
    values = draw(testing.points(3, 3, 4.0))
    if kind == "scalar":
        return values[0, 0].reshape(()), values[0, 0] * np.eye(3)
    if kind == "diagonal":
        return values[0], np.diag(values[0])
    return values, values


def same(found, expected):
    # three products of numbers up to 4: 3 sums of 3 terms, in units of 4^3
    np.testing.assert_allclose(operators.dense(found, DIM), expected, rtol=0, atol=64 * 9 * plain.EPS)


@given(pairs(), pairs())
def test_product_add_and_sandwich_are_those_of_the_matrices(a, b):
    same(operators.product(a[0], b[0]), a[1] @ b[1])
    same(operators.add(a[0], b[0]), a[1] + b[1])
    symmetric = b[0] if b[0].ndim < 2 else b[0] + b[0].T
    dense = operators.dense(symmetric, DIM)
    same(operators.sandwich(a[0], symmetric), a[1] @ dense @ a[1].T)


@given(pairs(), testing.points(3))
def test_apply_is_that_of_the_matrix(a, x):
    np.testing.assert_allclose(operators.apply(a[0], x), x @ a[1].T, rtol=0, atol=40 * 9 * plain.EPS)


@given(testing.covariances(3), pairs())
def test_a_rectangular_sandwich_is_the_covariance_of_the_image(s, a):
    wide = np.vstack([a[1], a[1][:1]])
    np.testing.assert_allclose(operators.sandwich(wide, s), wide @ s @ wide.T, rtol=0, atol=1e-11)


@given(st.integers(1, 6), st.data())
def test_every_gram_matrix_is_accepted_as_a_covariance_whatever_its_rank_and_scale(dim, data):
    factor = data.draw(testing.points(dim, data.draw(st.integers(1, 6)), 1.0))
    scale = 10.0 ** data.draw(st.integers(-30, 30))
    matrix = scale * factor.T @ factor
    np.testing.assert_allclose(operators.covariance("noise", matrix), matrix, rtol=1e-12, atol=1e-15 * scale)


@given(testing.covariances(3, 2), st.floats(1e-6, 1.0))
def test_an_indefinite_matrix_is_refused_and_its_eigenvalue_named(matrix, depth):
    vectors = np.linalg.eigh(matrix)[1]
    bad = matrix - depth * max(np.trace(matrix), 1e-3) * np.outer(vectors[:, 0], vectors[:, 0])
    with pytest.raises(ValueError, match=r"noise must be positive semi-definite, got the eigenvalue -"):
        operators.covariance("noise", 0.5 * (bad + bad.T))


def test_a_covariance_is_symmetrised_and_clear_asymmetry_refused():
    found = operators.covariance("noise", [[1.0, 0.5], [0.5 + 1e-9, 1.0]])
    np.testing.assert_array_equal(found, found.T)
    with pytest.raises(ValueError, match="noise must be symmetric"):
        operators.covariance("noise", [[1.0, 0.5], [0.4, 1.0]])


def test_symmetry_is_asked_for_to_eight_digits_of_the_largest_entry():
    for size in (1e-30, 1.0, 1e30):
        operators.covariance("noise", size * np.array([[1.0, 0.5], [0.5 + 0.9e-8, 1.0]]))
        with pytest.raises(ValueError, match="noise must be symmetric"):
            operators.covariance("noise", size * np.array([[1.0, 0.5 + 1.1e-8], [0.5, 1.0]]))


@pytest.mark.parametrize("count", [None, 1, 5])
def test_rounding_may_leave_an_eigenvalue_of_minus_8_d_eps_times_the_largest(count):
    def diagonal(units):
        matrix = np.diag([3.0, -3.0 * units * plain.EPS])
        return matrix if count is None else np.tile(matrix, (count, 1, 1))

    np.testing.assert_array_equal(operators.semi_definite("noise", diagonal(15.5)), diagonal(15.5))
    with pytest.raises(ValueError, match="noise must be positive semi-definite"):
        operators.semi_definite("noise", diagonal(16.5))


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3), (3, 2, 3)])
def test_a_matrix_that_is_not_square_is_refused(shape):
    with pytest.raises(ValueError, match="noise must be square"):
        operators.semi_definite("noise", np.ones(shape))


@pytest.mark.parametrize(
    ("value", "what"),
    [(-1.0, "negative"), ([1.0, -1e-300], "negative"), ([[-2.0, -1.0], [-1.0, -2.0]], "positive semi-definite")],
)
def test_a_negative_variance_or_eigenvalue_is_named_as_such(value, what):
    with pytest.raises(ValueError, match=f"noise must (not )?be {what}"):
        operators.covariance("noise", value)


def test_rows_and_fits_say_the_dimensions():
    assert operators.rows(np.ones((2, 5)), 5) == 2
    assert operators.rows(np.ones(()), 5) == 5
    operators.fits("gain", np.ones((2, 5)), 5)
    operators.fits("gain", np.ones(()), 5)
    for wrong in (np.ones((2, 5)), np.ones(5)):
        with pytest.raises(ValueError, match="gain of shape"):
            operators.fits("gain", wrong, 2)


@pytest.mark.parametrize(("operator", "wanted"), [
    (np.array(0.0), True), (np.array(1e-300), False),
    (np.array([1.0, 0.0]), True), (np.array([1.0, 1e-300]), False),
    (np.zeros((2, 2)), True), (np.ones((2, 2)), True), (np.array([[1.0, 1.0], [1.0, 1.0 + 1e-16]]), True),
    (np.array([[0.6, 0.8], [0.8, -0.6]]), False),
    # a turned diagonal (1, 0), which is no exact zero
    (np.array([[0.6], [0.8]]) @ np.array([[0.6, 0.8]]), True),
    # Langevin's root at t = 1e-9, in its units of t^1.5 and t^0.5
    (np.array([[1e-14, 0.0], [3e-5, 2e-5]]), False),
])  # fmt: skip
def test_singular_matrices_are_so_in_any_units_of_their_axes(operator, wanted):
    assert operators.singular(operator) is wanted
    units = np.array([1e-9, 1e6])
    if operator.ndim == 2:
        assert operators.singular(units[:, None] * operator / units) is wanted
