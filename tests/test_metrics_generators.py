"""The weighted functions of f-divergences, against mpmath."""

import mpmath as mp
import numpy as np
import pytest

from refdiff.metrics import alpha_divergence, own_divergence
from refdiff.metrics.generators import NAMED

L = np.array([-300, -40, -3, -0.6, -0.5, -0.1, -1e-3, -1e-7, -1e-12, 1e-12, 1e-7, 1e-3, 0.1, 0.5, 0.6, 3, 40, 300.0])


def family(a, u):
    if a in (0, 1):
        return u * mp.log(u) - u + 1 if a == 1 else -mp.log(u) + u - 1
    return (u**a - a * u + a - 1) / (a * (a - 1))


def exact(f):
    with mp.workdps(60):
        ratios = [mp.exp(mp.mpf(l)) for l in L]
        return np.array([float(2 * f(u) / (1 + u)) for u in ratios])


@pytest.mark.parametrize("alpha", [-1, -0.3, 0, 0.5, 0.9, 1, 1.0000001, 2, 3])
def test_the_family_keeps_its_digits_near_and_far(alpha):
    found = alpha_divergence(alpha).weighted(L, 0.0)
    # exponents up to 900 in size: as many roundings
    np.testing.assert_allclose(found, exact(lambda u: family(mp.mpf(alpha), u)), rtol=1e-14)


def test_bounded_divergences_keep_their_digits():
    found = NAMED["js"].weighted(L, 0.0)
    js = exact(lambda u: (u * mp.log(u) - (u + 1) * mp.log((1 + u) / 2)) / 2)
    np.testing.assert_allclose(found, js, rtol=1e-14)
    np.testing.assert_allclose(NAMED["total-variation"].weighted(L, 0.0), exact(lambda u: abs(u - 1) / 2), rtol=1e-15)


def test_what_is_no_number_is_one_times_a_small_weight():
    f = alpha_divergence(3.0)
    assert np.isposinf(f.weighted(np.array([600.0]), 0.0))
    # 2 f(u) / (1 + u) -> u^2 / 3
    np.testing.assert_allclose(f.weighted(np.array([600.0]), np.array([-1200.0])), 1 / 3, rtol=1e-12)


def test_named_ones_are_multiples_of_the_family_with_its_limits():
    assert NAMED["hellinger"].at_zero == NAMED["hellinger"].slope == 0.5
    assert (NAMED["kl"].at_zero, NAMED["kl"].slope) == (1.0, np.inf)
    assert (NAMED["reverse-kl"].at_zero, NAMED["reverse-kl"].slope) == (np.inf, 1.0)
    assert (NAMED["chi-squared"].at_zero, NAMED["chi-squared"].slope) == (1.0, np.inf)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda u: u**2, "f must be 0 at 1, got 1"),
        (lambda u: -((u - 1) ** 2), "f must be convex"),
        (lambda u: np.zeros(3) + u[0], "f must answer with shape"),
        (lambda u: np.log(u - u[0]), "f must be finite"),
    ],
    ids=["not 0", "concave", "shape", "infinite"],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_own_functions_are_checked(f, message):
    with pytest.raises(ValueError, match=message):
        own_divergence(f)


def test_parameters_of_the_family_are_checked():
    with pytest.raises(ValueError, match="alpha must be finite"):
        alpha_divergence(np.inf)
    with pytest.raises(ValueError, match="factor must lie"):
        alpha_divergence(0.5, factor=0.0)
