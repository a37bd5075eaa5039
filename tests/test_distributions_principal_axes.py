"""Principal axes against the eigenvectors of the covariance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, testing
from refdiff.distributions import pca


@given(testing.distributions(), st.data())
def test_axes_are_orthonormal_and_diagonalise_the_covariance(law, data):
    count = data.draw(st.integers(1, law.dim))
    axes = pca(law, count)
    np.testing.assert_allclose(axes.axes.T @ axes.axes, np.eye(count), atol=1e-13)
    moved = axes.axes.T @ law.cov() @ axes.axes
    # eigenvalues of a symmetric matrix move by the rounding of its entries
    np.testing.assert_allclose(moved, np.diag(axes.variances), atol=1e-12 * (1 + np.abs(law.cov()).max()))
    assert (np.diff(axes.variances) <= 1e-13 * axes.variances[0]).all()
    expected = np.linalg.eigvalsh(law.cov())[::-1][:count]
    np.testing.assert_allclose(axes.variances, expected, atol=1e-12 * (1 + np.abs(expected).max()))


@given(testing.distributions())
def test_the_sign_of_an_axis_makes_its_largest_entry_positive(law):
    axes = pca(law).axes
    assert (np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) > 0).all()


@given(testing.distributions())
def test_projecting_centres_and_decorrelates_and_lifting_is_the_way_back(law):
    axes = pca(law)
    there = axes.project(law)
    size = 1 + np.abs(law.means).max() + np.abs(law.cov()).max()
    np.testing.assert_allclose(there.mean(), 0, atol=1e-12 * size)
    np.testing.assert_allclose(there.cov(), np.diag(axes.variances), atol=1e-11 * size)
    back = axes.lift(there)
    np.testing.assert_allclose(back.means, law.means, atol=1e-12 * size)
    np.testing.assert_allclose(back.cov(), law.cov(), atol=1e-11 * size)


@pytest.mark.parametrize("count", [40, 3])
def test_a_point_set_in_a_plane_has_two_axes_to_full_precision(count):
    # the third singular value is eps, the third variance its square: an eigenvalue would only be eps
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((5, 2)))
    axes = pca(Empirical(rng.standard_normal((count, 2)) @ basis.T))
    assert (axes.variances[2:] <= 1e-28).all()
    np.testing.assert_allclose(axes.axes[:, :2] @ axes.axes[:, :2].T, basis @ basis.T, atol=1e-13)


def test_the_number_of_axes_is_checked():
    with pytest.raises(ValueError, match=r"count must be in 1\.\.2"):
        pca(Empirical([[0.0, 1.0], [1.0, 0.0]]), 3)
