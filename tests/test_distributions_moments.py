"""Moments of fields under responsibilities, where large numbers must not meet."""

import numpy as np
import pytest
from scipy.special import logsumexp

from refdiff.distributions import covariances
from refdiff.distributions.covariances import tiles
from refdiff.distributions.moments import average, cross, cross_trace, log_total, twice


@pytest.mark.parametrize("tile", [2**20, 24, 1])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_second_moments_are_centred_before_they_are_multiplied(offset, tile, monkeypatch):
    monkeypatch.setattr(covariances, "TILE", tile)
    rng = np.random.default_rng(0)
    r = rng.dirichlet(np.ones(5), 4)
    r[1:] = [[0, 0, 0.25, 0.75, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]  # whole tiles that weigh nothing
    u, v = np.round(rng.standard_normal((2, 4, 5, 3)) * 64) / 64  # which 1e8 leaves exact
    asked = []

    def both(ks):
        asked.append(ks)
        return u[:, ks] + offset, v[:, ks] + offset

    mean_u, mean_v = (np.einsum("nk,nkd->nd", r, f) for f in (u, v))
    expected = np.einsum("nk,nki,nkj->nij", r, u - mean_u[:, None], v - mean_v[:, None])
    # the mean of 1e8 + u is rounded by 1e-8, and that times the centred v averages to its rounding; means of tiles,
    # rounded too, lie at the distance of points from each other
    atol = 1e-14 + (1e-14 * offset**0.5 if tile == 2**20 else 1e-16 * offset)
    np.testing.assert_allclose(cross(r, both, 3), expected, rtol=0, atol=4 * atol)
    trace = np.trace(expected, axis1=1, axis2=2)
    np.testing.assert_allclose(cross_trace(r, both, 3), trace, rtol=0, atol=4 * atol)
    # every component once for each of the two answers
    assert [(ks.start, ks.stop) for ks in asked[: len(asked) // 2]] == [(ks.start, ks.stop) for ks in tiles(4, 5, 3)]
    assert len(asked) == 2 * len([*tiles(4, 5, 3)])
    np.testing.assert_allclose(average(r, lambda ks: both(ks)[0], 3), mean_u + offset, rtol=1e-15)


def test_a_field_beside_itself_has_its_own_covariance():
    r, u = np.array([[0.25, 0.75]]), np.array([[[1.0, 0.0], [-1.0, 2.0]]])
    np.testing.assert_allclose(cross(r, twice(lambda ks: u[:, ks]), 2), [[[0.75, -0.75], [-0.75, 0.75]]], rtol=1e-15)


def test_the_logarithm_of_a_sum_of_nothing_is_minus_infinity():
    logits = np.array([[-np.inf, -np.inf], [0.0, 0.0], [-1e300, -np.inf], [700.0, 710.0], [-800.0, -801.0]])
    np.testing.assert_allclose(log_total(logits), logsumexp(logits, axis=1), rtol=1e-15)
