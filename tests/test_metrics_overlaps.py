"""Overlaps of Gaussians, digit by digit against mpmath, and where they are infinite."""

import mpmath
import numpy as np
import pytest

from refdiff import Gaussian
from refdiff.distributions import kl_divergence, random_mixture
from refdiff.metrics import alpha_divergence, divergence
from refdiff.metrics.overlaps import geometric_mean, log_overlap
from refdiff.physics import affinity, bhattacharyya_distance

ALPHAS = [1e-9, 0.3, 0.5, 1 - 1e-9, 1.7, 2.0]


def alpha_of(p, q, a):
    """D_a of Gaussians on the line as it is printed, with as many digits as it takes."""
    with mpmath.workdps(450):
        m, n, s, t = (mpmath.mpf(float(part)) for part in (*p.mean(), *q.mean(), *p.cov()[0], *q.cov()[0]))
        a = mpmath.mpf(a)
        mixed = (1 - a) * s + a * t
        logs = mpmath.log(mixed) - (1 - a) * mpmath.log(s) - a * mpmath.log(t)
        return float((mpmath.exp(-(a * (1 - a) * (m - n) ** 2 / mixed + logs) / 2) - 1) / (a * (a - 1)))


@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize("ratio", [1e-200, 1e-17, 1e-8, 0.5, 1 - 1e-9, 1 + 1e-9, 1.4])
def test_narrow_and_near_gaussians_keep_their_digits(ratio, a):
    q = Gaussian([0.0], 1e-6)
    for shift in (0.0, 1e-3 * abs(ratio - 1)):
        p = Gaussian([shift], ratio * 1e-6)
        # the logarithm of 1e-200 is 460, so that its exponential errs by as many roundings
        np.testing.assert_allclose(divergence(p, q, alpha_divergence(a)).value, alpha_of(p, q, a), rtol=3e-13)


def test_bounded_overlaps_are_never_infinite():
    # an axis that is 1e20 times as wide hides nothing of another one
    p, q = Gaussian([0.0, 0.0], [1e20, 1.0]), Gaussian([0.0, 0.0], 1.0)
    exact = np.sqrt(2e10 / (1 + 1e20))
    np.testing.assert_allclose(affinity(p, q).value, exact, rtol=1e-13)
    np.testing.assert_allclose(divergence(p, q, "hellinger").value, 1 - exact, rtol=1e-15)
    np.testing.assert_allclose(bhattacharyya_distance(q, p).value, -np.log(exact), rtol=1e-13)
    for a in (0.0, 1.0):
        assert log_overlap(p, q, a) == 0
    assert np.isfinite(log_overlap(Gaussian([0.0, 0.0], [1e20, 1e-3]), q, 1e-3))
    assert log_overlap(p, q, 1.5) == log_overlap(q, p, -0.5) == np.inf
    assert np.isfinite(log_overlap(q, p, 1.5))


def test_geometric_means_of_mixtures_are_bounded_by_those_of_components():
    p, q = random_mixture(2, 3, 1, "full"), random_mixture(2, 2, 2).affine(1.0, [5.0, 0.0])
    law, log = geometric_mean(p, q)
    x = np.concatenate([one.sample(200, 3) for one in (p, q, law)])
    share = np.exp((p.logpdf(x) + q.logpdf(x)) / 2 - law.logpdf(x) - log)
    assert share.max() <= 1 + 1e-12
    assert share.min() >= 6**-0.5 * (1 - 1e-12)


def test_axes_that_both_share_are_found_for_any_turn():
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s], [s, c]])
    wide, flat = np.array([1.0, 1e-6]), np.array([1e-6, 1.0])
    for a in (0.5, 0.2):
        told = [log_overlap(*(Gaussian([0.1 * k, 0.0], turn @ np.diag(v) @ turn.T) for k, v in enumerate((wide, flat))),
                            a)]  # fmt: skip
        straight = log_overlap(*(Gaussian(turn.T @ [0.1 * k, 0.0], v) for k, v in enumerate((wide, flat))), a)
        # covariances are rounded by 1e-16, 1e-10 of what is narrow
        np.testing.assert_allclose(told, straight, rtol=1e-8)
    p, q = Gaussian([0.0, 0.0], [1.0, 2.0]), Gaussian([0.3, 0.1], [[1.0, 0.0], [0.0, 1.5]])
    np.testing.assert_allclose(kl_divergence(p, q), kl_divergence(p, Gaussian([0.3, 0.1], [1.0, 1.5])), rtol=1e-14)
