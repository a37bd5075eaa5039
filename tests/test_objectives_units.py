"""Bits per dimension: the offsets of scaled levels, and what dequantised densities say about levels."""

import numpy as np
import pytest
from scipy.special import ndtr

from refdiff import Gaussian, GaussianMixture
from refdiff.objectives import (
    MonteCarlo,
    Quadrature,
    bits,
    bits_per_dimension,
    dequantized,
    level_spacing,
    level_values,
    nats_of_density,
)


def test_a_nat_is_1_44_bits():
    assert bits(np.log(2)) == 1
    np.testing.assert_array_equal(bits([0.0, 3 * np.log(2)]), [0, 3])


@pytest.mark.parametrize(("place", "offset"), [("cells", 7.0), ("ends", np.log2(127.5))])
def test_eight_bits_scaled_to_the_unit_interval_add_seven(place, offset):
    spacing = level_spacing(256, place=place)
    # the density 1/2 on [-1, 1] in d = 3 dimensions: a uniform level costs 8 bits where the cells fill the interval
    nats = 3 * np.log(2)
    np.testing.assert_allclose(bits_per_dimension(nats, 3, spacing), 1 + offset, rtol=1e-14)
    np.testing.assert_allclose(nats_of_density(1 + offset, 3, spacing), nats, rtol=1e-14)


def test_levels_stand_in_their_cells_or_end_at_the_ends():
    cells, ends = level_values(4, 0.0, 1.0), level_values(5, 0.0, 1.0, "ends")
    np.testing.assert_allclose(cells, [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(ends, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(np.diff(level_values(256)), level_spacing(256), rtol=1e-12)
    # x / 127.5 - 1
    np.testing.assert_allclose(level_values(256, place="ends"), np.arange(256) / 127.5 - 1, atol=1e-15)


def test_scaling_the_data_changes_no_bits():
    law, spacing = Gaussian([0.1, -0.3], [[0.5, 0.1], [0.1, 0.4]]), 1 / 128
    x = np.array([0.3, 0.2])
    plain = bits_per_dimension(-law.logpdf(x), 2, spacing)
    scaled = bits_per_dimension(-law.affine(128.0, 7.0).logpdf(128 * x + 7), 2, 1.0)
    np.testing.assert_allclose(scaled, plain, rtol=1e-13)


def probability(law, x, spacing):
    """P of the cell, from distribution functions."""
    std = np.sqrt(law.covariances.dense(1)[:, 0, 0])
    high, low = (ndtr((x + side * spacing / 2 - law.means[:, 0]) / std) for side in (1, -1))
    return law.weights @ (high - low)


def test_uniform_dequantisation_bounds_the_probability_of_a_level_and_meets_it_for_fine_levels():
    law = GaussianMixture.isotropic([[-0.5], [0.4]], [0.04, 0.01], [0.6, 0.4])
    values, gaps = np.array([-0.7, -0.4, 0.0, 0.25, 0.5]), []
    for levels in (8, 32, 128, 512):
        spacing = level_spacing(levels)
        found = dequantized(law.logpdf, values[:, None], spacing, Quadrature(1e-13))
        exact = np.log([probability(law, x, spacing) for x in values])
        assert (found.value < exact).all()
        gaps.append(exact - found.value)
    # half the variance of log p in the cell, spacing^2 score^2 / 24, and terms of fourth order
    np.testing.assert_allclose(gaps[2] / gaps[3], 16, rtol=0.02)
    np.testing.assert_allclose(gaps[3], spacing**2 / 24 * law.score(values[:, None])[:, 0] ** 2, rtol=0.01)


def test_a_density_that_is_constant_in_its_cells_is_met_exactly():
    found = dequantized(lambda x: np.full(len(x), -np.log(2)), [[0.1], [0.2]], 1 / 128, Quadrature())
    np.testing.assert_allclose(bits_per_dimension(-found.value, 1), [8, 8], rtol=1e-14)


def test_routes_agree_in_several_dimensions():
    law, x = Gaussian([0.1, -0.3], [[0.5, 0.1], [0.1, 0.4]]), [[0.3, 0.2], [-0.1, 0.9]]
    exact = dequantized(law.logpdf, x, 0.25, Quadrature(1e-12))
    # E log p over a cell: the quadratic form gains spacing^2 / 12 of the trace of the precision
    closed = law.logpdf(x) - 0.5 * np.trace(np.linalg.inv(law.cov())) * 0.25**2 / 12 + 2 * np.log(0.25)
    np.testing.assert_allclose(exact.value, closed, rtol=1e-12)
    drawn = dequantized(law.logpdf, x, 0.25, MonteCarlo(4000, 0))
    # six standard errors: a false alarm in 2e-9 of seeds, and this one is fixed
    assert (np.abs(drawn.value - exact.value) < 6 * drawn.error).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: level_spacing(1), ValueError, "levels must be at least 2"),
        (lambda: level_spacing(4, 1.0, 1.0), ValueError, "high must lie in"),
        (lambda: level_spacing(4, place="middle"), ValueError, "place must be one of cells, ends"),
        (lambda: bits_per_dimension(1.0, 0), ValueError, "dim must be at least 1"),
        (lambda: bits_per_dimension(1.0, 2, 0.0), ValueError, "spacing must lie in"),
        (lambda: nats_of_density(1.0, 2, -1.0), ValueError, "spacing must lie in"),
        (lambda: dequantized(np.sum, 1.0, 0.1, Quadrature()), ValueError, "x must have shape"),
        (lambda: dequantized(np.sum, [1.0], 0.1, None), TypeError, "route must be a Quadrature"),
        (lambda: dequantized(np.sum, [1.0], 0.1, Quadrature(), dim=2), ValueError, "x must have shape"),
        (
            lambda: dequantized(lambda x: x.sum(axis=1), np.zeros(8), 0.1, Quadrature(most=100)),
            ValueError,
            "route must be a MonteCarlo",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numbers_keep_their_precision_and_no_level_is_no_error():
    nats = np.array([1.0, 2.5], dtype=np.float32)
    for found in (bits(nats), bits_per_dimension(nats, 3, 0.1), nats_of_density(nats, 3, 0.1)):
        assert found.dtype == np.float32
    assert bits_per_dimension(nats, 3, 0.1)[1] == np.float32(bits_per_dimension(2.5, 3, 0.1))
    for route in (Quadrature(), MonteCarlo(10, 1)):
        found = dequantized(Gaussian([0.0], 1.0).logpdf, np.zeros((2, 0, 1)), 0.1, route)
        assert found.value.shape == found.error.shape == (2, 0)
