"""Distribution functions and quantiles against 60 digits, in both tails, in gaps and on atoms."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.distributions import (
    Empirical,
    Gaussian,
    GaussianMixture,
    cdf,
    log_cdf,
    log_quantile,
    monotone_map,
    quantile,
)

LAW = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
MIXED = GaussianMixture.isotropic([[-1.0], [0.0], [2.0]], [0.0, 1.0, 0.0], [0.25, 0.5, 0.25])


def exact_cdf(law, x, upper=False):
    """F or 1 - F in 60 digits."""
    with mpmath.workdps(60):
        sign = -1 if upper else 1
        std = [mpmath.sqrt(float(v)) for v in np.broadcast_to(law.covariances.dense(1)[:, 0, 0], law.count)]
        return mpmath.fsum(
            mpmath.mpf(float(w)) * mpmath.ncdf(sign * (mpmath.mpf(float(x)) - float(m)) / s)
            for w, m, s in zip(law.weights, law.means[:, 0], std, strict=True)
        )


@pytest.mark.parametrize("upper", [False, True])
def test_both_tails_have_all_their_digits(upper):
    x = np.concatenate([np.linspace(-30, 30, 61), [-300.0, 300.0]])
    found = log_cdf(LAW, x[:, None], upper=upper)
    exact = [exact_cdf(LAW, one, upper) for one in x]
    rest = [exact_cdf(LAW, one, not upper) for one in x]
    with mpmath.workdps(60):
        logs = [float(mpmath.log(p) if p < 0.5 else mpmath.log1p(-q)) for p, q in zip(exact, rest, strict=True)]
        opposite = np.array([abs(float(mpmath.log(q))) for q in rest])
    # 5 eps of log_ndtr, the sum and the weights; where F is nearly 1, of the logarithm of the other tail
    where = np.maximum(1.0, np.where(np.array(logs) > -0.1, opposite, 1.0))
    keeps = np.array(logs) < -1e-290  # and not where that tail is no normal number
    assert keeps.sum() > 40
    assert (np.abs(found - logs) <= 1e-15 * 5 * np.abs(logs) * where)[keeps].all()
    # e^log F loses |log F| eps
    np.testing.assert_allclose(cdf(LAW, x[:, None], upper=upper), [float(v) for v in exact], rtol=2e-13, atol=1e-290)


@given(st.integers(0, 10_000), st.floats(-700.0, -1e-6), st.booleans())
def test_quantiles_of_random_mixtures_invert_the_distribution_function(seed, level, upper):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    law = GaussianMixture.isotropic(
        rng.normal(size=(count, 1)) * 10 ** rng.uniform(-1, 2), 10 ** rng.uniform(-4, 2, count), rng.uniform(size=count)
    )
    x = log_quantile(law, level, upper=upper)
    assert x.shape == (1,)
    # x is known to its spacing, which moves log F by the slope there
    tail = log_cdf(law, x, upper=upper)
    slope = np.exp(law.logpdf(x) - tail)
    size = max(np.abs(law.means).max(), abs(x[0]))
    np.testing.assert_allclose(tail, level, rtol=2e-14, atol=1e-14 + 4e-16 * size * slope)


def test_a_gaussian_is_its_own_closed_form():
    law = Gaussian([2.0], 9.0)
    with mpmath.workdps(40):
        for p in (1e-300, 1e-5, 0.2, 0.5, 0.9):
            z = mpmath.findroot(lambda z, p=p: mpmath.log(mpmath.ncdf(z)) - mpmath.log(mpmath.mpf(p)), -1.0)
            assert abs(quantile(law, p)[0] - float(2 + 3 * z)) < 1e-14 * max(1, abs(z))
            assert abs(quantile(law, p, upper=True)[0] - float(2 - 3 * z)) < 1e-14 * max(1, abs(z))


def test_the_ends_of_probability_are_the_ends_of_the_support():
    assert quantile(LAW, [0.0, 1.0]).tolist() == [[-np.inf], [np.inf]]
    assert quantile(LAW, [0.0, 1.0], upper=True).tolist() == [[np.inf], [-np.inf]]
    assert quantile(Empirical([[3.0], [-1.0]]), [0.0, 1.0]).tolist() == [[-1.0], [3.0]]


def test_atoms_are_steps_of_height_their_weight():
    law = Empirical([[-1.0], [1.0], [0.0]], [0.25, 0.25, 0.5])
    np.testing.assert_allclose(cdf(law, [[-1.1], [-1.0], [-0.5], [0.0], [1.0]]), [0, 0.25, 0.25, 0.75, 1], rtol=1e-15)
    np.testing.assert_allclose(cdf(law, [[-1.0], [0.5]], upper=True), [0.75, 0.25], rtol=1e-15)
    p = [0.1, 0.25, 0.26, 0.7, 0.8, 1.0]
    assert quantile(law, p).ravel().tolist() == [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]
    points = np.random.default_rng(0).normal(size=(200, 1))
    levels = (np.arange(200) + 0.5) / 200
    assert np.array_equal(quantile(Empirical(points), levels), np.sort(points, axis=0))


def test_atoms_among_other_components_are_found_exactly_and_what_lies_between_them_is_smooth():
    # F(-1) jumps from Phi(-1) / 2 by 1/4
    jump = float(cdf(MIXED, [-1.0])) - 0.25
    inside = quantile(MIXED, [jump + 1e-9, jump + 0.1, jump + 0.25 - 1e-9])
    assert inside.ravel().tolist() == [-1.0, -1.0, -1.0]
    smooth = quantile(MIXED, [0.5 * jump, 0.6])
    np.testing.assert_allclose(cdf(MIXED, smooth), [0.5 * jump, 0.6], rtol=1e-14)
    assert smooth[1, 0] not in (0.0, 2.0)


def test_the_monotone_map_carries_one_law_to_the_other_and_back():
    other = GaussianMixture.isotropic([[-1.0], [4.0]], [1.0, 0.5], [0.3, 0.7])
    x = np.concatenate([LAW.sample(200, 0), np.linspace(-12, 12, 9)[:, None]])
    moved = monotone_map(LAW, other, x)
    assert (np.diff(moved[np.argsort(x[:, 0]), 0]) > 0).all()
    for upper in (False, True):
        np.testing.assert_allclose(log_cdf(other, moved, upper=upper), log_cdf(LAW, x, upper=upper), rtol=1e-12)
    np.testing.assert_allclose(monotone_map(other, LAW, moved), x, rtol=1e-12, atol=1e-12)
    a, b = Gaussian([1.0], 4.0), Gaussian([-2.0], 0.25)
    np.testing.assert_allclose(monotone_map(a, b, x), -2 + (x - 1) / 4, rtol=1e-13)
    assert set(monotone_map(LAW, Empirical([[0.0], [1.0]]), x).ravel()) == {0.0, 1.0}


def test_shapes_and_types_follow_the_arguments():
    x = LAW.sample(6, 1).reshape(2, 3, 1)
    assert cdf(LAW, x).shape == (2, 3)
    assert cdf(LAW, x.astype(np.float32)).dtype == log_cdf(LAW, x.astype(np.float32)).dtype == np.float32
    assert quantile(LAW, np.full((2, 3), 0.4)).shape == (2, 3, 1)
    assert quantile(LAW, np.float32(0.4)).dtype == log_quantile(LAW, np.float32(-1)).dtype == np.float32
    assert monotone_map(LAW, LAW, x.astype(np.float32)).dtype == np.float32
    assert quantile(LAW, np.zeros(0)).shape == (0, 1)
    assert cdf(LAW, np.zeros((0, 1))).shape == (0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cdf(Gaussian([0.0, 0.0], 1.0), [[0.0, 0.0]]), ValueError, "law must be on the line, got 2"),
        (lambda: cdf("normal", [[0.0]]), TypeError, "law must be a Gaussian"),
        (lambda: cdf(LAW, [0.0, 1.0]), ValueError, r"x must have shape \(\.\.\., 1\)"),
        (lambda: quantile(LAW, 1.5), ValueError, r"p must lie in \[0, 1\], got 1.5"),
        (lambda: log_quantile(LAW, 0.5), ValueError, r"log_p must lie in \[-inf, 0\], got 0.5"),
        (lambda: log_quantile(LAW, np.nan), ValueError, "log_p must lie"),
        (lambda: monotone_map(Empirical([[0.0]]), LAW, [[0.0]]), ValueError, "source must have no point"),
        (lambda: monotone_map(LAW, Gaussian([0.0, 0.0], 1.0), [[0.0]]), ValueError, "target must be on the line"),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_points_of_no_weight_have_no_quantile():
    law = Empirical([[3.0], [1.0], [2.0], [0.0]], [0.2, 0.3, 0.5, 0.0])
    np.testing.assert_array_equal(quantile(law, [0.0, 0.1, 0.31, 0.79, 0.81, 1.0])[1:, 0], [1, 2, 2, 3, 3])
