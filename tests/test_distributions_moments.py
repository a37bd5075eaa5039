"""Moments of fields under responsibilities, where large numbers must not meet."""

import numpy as np
import pytest
from scipy.special import logsumexp

from refdiff.distributions.moments import average, cross, cross_trace, log_total


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_second_moments_are_centred_before_they_are_multiplied(offset):
    rng = np.random.default_rng(0)
    r = rng.dirichlet(np.ones(5), 4)
    u, v = np.round(rng.standard_normal((2, 4, 5, 3)) * 64) / 64  # which 1e8 leaves exact
    field_u, field_v = (lambda ks, f=f: f[:, ks] + offset for f in (u, v))
    mean_u, mean_v = (np.einsum("nk,nkd->nd", r, f) for f in (u, v))
    expected = np.einsum("nk,nki,nkj->nij", r, u - mean_u[:, None], v - mean_v[:, None])
    # the mean of 1e8 + u is rounded by 1e-8, and that times the centred v averages to its rounding
    np.testing.assert_allclose(cross(r, field_u, field_v, 3), expected, rtol=0, atol=1e-14 + 1e-14 * offset**0.5)
    trace = np.trace(expected, axis1=1, axis2=2)
    np.testing.assert_allclose(cross_trace(r, field_u, field_v, 3), trace, rtol=0, atol=1e-14 + 1e-14 * offset**0.5)
    np.testing.assert_allclose(average(r, field_u, 3), mean_u + offset, rtol=1e-15)


def test_the_logarithm_of_a_sum_of_nothing_is_minus_infinity():
    logits = np.array([[-np.inf, -np.inf], [0.0, 0.0], [-1e300, -np.inf], [700.0, 710.0], [-800.0, -801.0]])
    np.testing.assert_allclose(log_total(logits), logsumexp(logits, axis=1), rtol=1e-15)
