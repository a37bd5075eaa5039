"""Grids: that they cover what they are made around, and that means of laws on cells are masses to rounding."""

import numpy as np
import pytest

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture
from refdiff.fokker_planck import Grid


def mass_by_quadrature(law, grid, cell, nodes=20):
    u, w = np.polynomial.legendre.leggauss(nodes)
    axes = [grid.centres(k)[i] + grid.spacing[k] / 2 * u for k, i in enumerate(cell)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    weights = np.ones(())
    for _ in range(grid.dim):
        weights = np.multiply.outer(weights, w / 2)
    return (np.exp(law.logpdf(points)) * weights).sum()


@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "shared", "full"])
@pytest.mark.parametrize("dim", [1, 2])
def test_means_on_cells_are_integrals_of_the_density(storage, dim):
    law = random_mixture(dim, 3, 4, storage)
    grid = Grid.around(law, 24)
    found = grid.averages(law)
    for cell in np.ndindex(*[3] * dim):
        place = tuple(6 + 4 * k for k in cell)
        # eight nodes of Gauss-Legendre on half a standard deviation are exact to rounding
        assert found[place] == pytest.approx(mass_by_quadrature(law, grid, place), rel=1e-12)


def test_means_keep_their_digits_in_both_tails():
    grid = Grid(-30, 30, 60)
    p = grid.averages(Gaussian([0.0], 1.0))
    assert p[0] > 0
    assert np.allclose(p, p[::-1], rtol=1e-12, atol=0)
    assert p[-1] == pytest.approx(3.7e-186, rel=0.01)  # the mass beyond 29: Phi(-29) = 3.745e-186


def test_a_narrow_correlated_component_keeps_its_mass():
    law = GaussianMixture.full([[0.1, 0.2]], [[[1.0, 0.999], [0.999, 1.0]]])
    grid = Grid([-9, -9], [9, 9], 40)
    assert grid.mass(grid.averages(law)) == pytest.approx(1, abs=1e-12)


def test_cells_far_wider_than_a_ridge_have_the_masses_of_the_small_cells_they_are_made_of():
    ridge = Gaussian([0.1, 0.0], np.array([[1.0, 0.999], [0.999, 1.0]]))
    wide = Grid([-2, -2], [2, 2], 10).averages(ridge)
    fine = Grid([-2, -2], [2, 2], 160).averages(ridge).reshape(10, 16, 10, 16).mean(axis=(1, 3))
    assert np.abs(wide - fine).max() < 1e-12 * fine.max()


def test_point_masses_count_for_their_cells_and_in_halves_on_faces():
    grid = Grid(0, 4, 4)
    assert np.array_equal(grid.averages(Empirical([[0.5], [2.0]])), [0.5, 0.25, 0.25, 0])
    flat = Grid([0, 0], [4, 4], 4).averages(Empirical([[0.5, 3.5]]))
    assert flat[0, 3] == 1
    assert flat.sum() == 1


@pytest.mark.parametrize("outside", [1e-2, 1e-9, 1e-14])
def test_a_grid_around_laws_leaves_a_stated_mass_of_each_outside(outside):
    laws = [random_mixture(2, 3, 1, "full"), Gaussian([3.0, 0.0], [0.1, 2.0])]
    grid = Grid.around(laws, (30, 40), outside)
    lost = [1 - grid.mass(grid.averages(law)) for law in laws]
    assert all(-1e-12 <= part <= outside + 1e-12 for part in lost)
    single = Grid.around(Gaussian([1.0], 4.0), 10, outside)
    # half of it on either side
    assert 1 - single.mass(single.averages(Gaussian([1.0], 4.0))) == pytest.approx(outside, rel=1e-6, abs=1e-15)


def test_places_and_masses():
    grid = Grid([0, -1], [3, 1], (3, 4))
    assert grid.dim == 2
    assert grid.shape == (3, 4)
    assert np.allclose(grid.spacing, [1, 0.5])
    assert grid.volume == 0.5
    assert np.allclose(grid.centres(0), [0.5, 1.5, 2.5])
    assert np.allclose(grid.faces(1), [-1, -0.5, 0, 0.5, 1])
    assert grid.points.shape == (3, 4, 2)
    assert np.allclose(grid.points[1, 0], [1.5, -0.75])
    assert np.allclose(grid.mass(np.ones((5, 3, 4))), np.full(5, 6.0))
    assert repr(grid) == "Grid([0, 3] x [-1, 1], 3 x 4 cells)"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Grid(1, 0, 5), ValueError, "upper must be above"),
        (lambda: Grid([0, 0, 0], [1, 1, 1], 5), ValueError, "one shape"),
        (lambda: Grid(0, 1, 2), ValueError, "cells must be at least 3"),
        (lambda: Grid([0, 0], [1, 1], [5]), ValueError, "cells must be one number"),
        (lambda: Grid(0, 1, 4.0), TypeError, "cells"),
        (lambda: Grid.around("law", 5), TypeError, "laws"),
        (lambda: Grid.around(1.0, 5), TypeError, "laws must be"),
        (lambda: Grid.around([], 5), ValueError, "laws"),
        (lambda: Grid.around(random_mixture(3, 2, 1, "full"), 5), ValueError, "line or in the plane"),
        (lambda: Grid.around(Empirical([[1.0]]), 5), ValueError, "extent"),
        (lambda: Grid.around(Gaussian([0.0], 1.0), 5, 0.0), ValueError, "outside"),
        (lambda: Grid(0, 1, 5).averages(Gaussian([0.0, 0.0], 1.0)), ValueError, "1 dimensions"),
        (lambda: Grid(0, 1, 5).averages("law"), TypeError, "law must be"),
        (lambda: Grid(0, 1, 5).mass(np.ones(4)), ValueError, "density"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()
