"""Lattice sums and draws by counter, against closed moments."""

import numpy as np
import pytest

from refdiff import Gaussian, GaussianMixture
from refdiff.expectations import MonteCarlo, Quadrature, checked, draws, expectation, integral

LAW = GaussianMixture.full(
    [[0.0, 1.0], [2.0, -1.0], [5.0, 5.0]],
    [[[1.0, 0.2], [0.2, 0.6]], [[0.3, 0.1], [0.1, 0.3]], [[9.0, 0.0], [0.0, 9.0]]],
    [0.5, 0.5, 0.0],
)


def test_lattice_sums_have_the_moments_of_the_law():
    mean, change = integral(LAW, lambda x: x, Quadrature(1e-12), 1.0)
    np.testing.assert_allclose(mean, LAW.mean(), atol=1e-12)
    assert change < 1e-11
    second = integral(LAW, lambda x: x[:, :, None] * x[:, None, :], Quadrature(1e-12), 1.0)[0]
    np.testing.assert_allclose(second - np.outer(mean, mean), LAW.cov(), rtol=1e-11)


def test_lattice_sums_converge_where_gauss_hermite_crawls():
    # poles at pi / 24 from the line
    exact = integral(Gaussian([0.0], 1.0), lambda x: np.tanh(12 * x[:, 0]) ** 2, Quadrature(1e-13), 1.0)[0]
    z, w = np.polynomial.hermite_e.hermegauss(128)
    crawling = w @ np.tanh(12 * z) ** 2 / np.sqrt(2 * np.pi)
    grid = np.linspace(-9, 9, 20001)
    dense = (np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * np.tanh(12 * grid) ** 2).sum() * (grid[1] - grid[0])
    np.testing.assert_allclose(exact, dense, rtol=2e-12)  # rounding of 20 001 terms
    assert abs(crawling - dense) > 1e-4


def test_singular_laws_and_narrow_neighbours_are_summed():
    line = Gaussian([1.0, 2.0], [[1.0, 1.0], [1.0, 1.0]])
    found = integral(line, lambda x: (x[:, 0] - x[:, 1]) ** 2 + x[:, 0] ** 2, Quadrature(1e-12), 1.0)[0]
    np.testing.assert_allclose(found, 3, rtol=1e-12)
    point = integral(Gaussian([3.0], 0.0), lambda x: x[:, 0] ** 2, Quadrature(), 1.0)[0]
    np.testing.assert_allclose(point, 9, rtol=1e-14)
    # a component fifty times narrower than the one it stands in, seen from the wide one
    narrow = GaussianMixture.isotropic([[0.0], [0.5]], [1.0, 4e-4])
    found = integral(narrow, lambda x: narrow.responsibilities(x)[:, 1], Quadrature(1e-10), 1.0)[0]
    np.testing.assert_allclose(found, 0.5, rtol=1e-10)


def test_what_is_nothing_beside_its_scale_is_not_resolved():
    # e^-200 beyond the reach of the lattice
    found, change = integral(Gaussian([0.0], 1.0), lambda x: np.exp(40 * (x[:, 0] - 20)), Quadrature(1e-10), 1e300)
    assert change <= 1e-15 * 1e300
    assert np.isfinite(found)


def test_a_lattice_that_is_too_large_says_so():
    with pytest.raises(ValueError, match="route must be a MonteCarlo, or a Quadrature with more nodes"):
        integral(Gaussian(np.zeros(6), 1.0), lambda x: x, Quadrature(), 1.0)
    with pytest.raises(ValueError, match="for 1 dimensions and 1 components"):
        integral(Gaussian([0.0], 1.0), lambda x: np.abs(x), Quadrature(1e-12, most=1000), 1.0)


def test_draws_are_of_the_law_and_the_first_the_same_for_any_number():
    x = draws(LAW, 20_000, 3)
    np.testing.assert_array_equal(draws(LAW, 50, 3), x[:50])
    assert (draws(LAW, 50, 4) != x[:50]).all()
    # six standard errors: a false alarm in 2e-9 of seeds, and this one is fixed
    spread = np.sqrt(np.diag(LAW.cov()) / len(x))
    assert (np.abs(x.mean(axis=0) - LAW.mean()) < 6 * spread).all()
    fourth = ((x - LAW.mean()) ** 4).mean(axis=0)
    assert (np.abs(np.diag(np.cov(x.T) - LAW.cov())) < 6 * np.sqrt(fourth / len(x))).all()
    assert not (np.linalg.norm(x - [5.0, 5.0], axis=1) < 1).any()  # a component of weight 0 has no draws


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1.5, np.nan])
def test_tolerances_are_checked(tolerance):
    with pytest.raises(ValueError, match="tolerance must"):
        Quadrature(tolerance)


def test_routes_are_checked():
    with pytest.raises(ValueError, match="samples must be at least 2"):
        MonteCarlo(1, 0)
    with pytest.raises(ValueError, match="seed must be"):
        MonteCarlo(10, -1)
    with pytest.raises(ValueError, match="most must be at least 1"):
        Quadrature(most=0)
    with pytest.raises(ValueError, match="there is no closed form"):
        checked(None)
    with pytest.raises(TypeError, match="got 'monte carlo'"):
        checked("monte carlo")


def test_expectations_of_any_shape_have_a_route_and_an_error():
    """|z| < 4.5 for each of four draws' means, a false alarm in 7e-6 of seeds; their errors are known."""
    exact, drawn = (expectation(LAW, lambda x: x[:, :, None] * x[:, None, :], way, 30.0)
                    for way in (Quadrature(1e-12), MonteCarlo(5000, 2)))  # fmt: skip
    assert (exact.route, drawn.route) == ("quadrature", "monte carlo")
    wanted = LAW.cov() + np.outer(LAW.mean(), LAW.mean())
    np.testing.assert_allclose(exact.value, wanted, rtol=1e-11)
    assert (exact.error < 1e-10).all()
    assert (np.abs(drawn.value - wanted) < 4.5 * drawn.error).all()
    # Var x_i x_j by the lattice; the draws see it to some 2 sqrt(kurtosis / 5000)
    fourth = integral(LAW, lambda x: (x[:, :, None] * x[:, None, :] - wanted) ** 2, Quadrature(1e-12), 1e3)[0]
    np.testing.assert_allclose(drawn.error, np.sqrt(fourth / 5000), rtol=0.1)
    for found in (expectation(LAW, lambda x: x[:, 0], way) for way in (Quadrature(), MonteCarlo(10, 1))):
        assert isinstance(found.value, float)
        assert isinstance(found.error, float)
    with pytest.raises(ValueError, match="there is no closed form"):
        expectation(LAW, lambda x: x, None)
