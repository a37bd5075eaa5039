"""MMD and energy distance: closed forms, integrals over scales and samples agree; estimates have no bias."""

import numpy as np
import pytest
from emulator.cupy import standing_in
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from refdiff import Gaussian, GaussianMixture
from refdiff.distributions import Empirical, cdf, quantile, random_mixture
from refdiff.metrics import (
    energy_distance,
    gaussian_kernel,
    inverse_multiquadric_kernel,
    laplace_kernel,
    median_distance,
    mmd_squared,
    rational_quadratic_kernel,
    wasserstein,
)
from refdiff.metrics.similarities import DISTANCE

KERNELS = {
    "gaussian": gaussian_kernel(0.7),
    "laplace": laplace_kernel(0.7),
    "rational": rational_quadratic_kernel(0.7, 0.3),
    "multiquadric": inverse_multiquadric_kernel(0.7),
    "distance": DISTANCE,
}
P = random_mixture(2, 3, 1, "full")
Q = random_mixture(2, 2, 2, "isotropic")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 3)), RNG.normal(0.5, 1.2, size=(25, 3))


@pytest.mark.parametrize("name", KERNELS)
def test_point_sets_have_v_statistics(name):
    kernel, w = KERNELS[name], RNG.dirichlet(np.ones(30))
    w[3] = 0
    kxx, kyy, kxy = (kernel.values(cdist(a, b, "sqeuclidean")) for a, b in ((X, X), (Y, Y), (X, Y)))
    found = mmd_squared(Empirical(X, w), Empirical(Y), kernel)
    w = w / w.sum()
    np.testing.assert_allclose(found.value, w @ kxx @ w + kyy.mean() - 2 * (w @ kxy).mean(), rtol=1e-10)
    assert (found.error, found.route) == (0.0, "closed")
    assert mmd_squared(Empirical(X), Empirical(X), kernel).value == 0
    assert mmd_squared(Empirical(X), Empirical(np.repeat(X, 2, axis=0)), kernel).value < 1e-15


@pytest.mark.parametrize("name", KERNELS)
def test_samples_have_u_statistics(name):
    kernel = KERNELS[name]
    kxx, kyy, kxy = (kernel.values(cdist(a, b, "sqeuclidean")) for a, b in ((X, X), (Y, Y), (X, Y)))
    unbiased = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kxx, kyy)]
    found = mmd_squared(X, Y, kernel)
    np.testing.assert_allclose(found.value, sum(unbiased) - 2 * kxy.mean(), rtol=1e-10)
    assert found.route == "monte carlo"
    single = mmd_squared(X.astype(np.float32), Y.astype(np.float32), kernel)
    np.testing.assert_allclose(single.value, found.value, rtol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_laws_of_mixtures_are_limits_of_fine_point_sets(name):
    z = (np.arange(400) + 0.5) / 400
    laws = [GaussianMixture.isotropic([[0.0], [2.0]], [0.3, 0.5]), Gaussian([1.0], 0.7)]
    fine = [Empirical(quantile(law, z)) for law in laws]
    exact = mmd_squared(*laws, KERNELS[name]).value
    # 400 quantiles are within 1 / 400 of the law in the Kolmogorov distance, and on average far nearer
    np.testing.assert_allclose(mmd_squared(*fine, KERNELS[name]).value, exact, rtol=5e-3)
    np.testing.assert_allclose(mmd_squared(laws[0], fine[1], KERNELS[name]).value, exact, rtol=5e-3)


@pytest.mark.parametrize("name", KERNELS)
def test_estimates_have_no_bias_and_errors_that_cover(name):
    kernel, near = KERNELS[name], Q.affine(0.7)
    exact = mmd_squared(P, near, kernel).value
    pairs = [(P.sample(60, seed), near.sample(40, 500 + seed)) for seed in range(150)]
    for other in (False, True)[: 2 if name == "gaussian" else 1]:  # other kernels take an integral for each
        found = [mmd_squared(x, near if other else y, kernel) for x, y in pairs]
        values = np.array([one.value for one in found])
        z = (values.mean() - exact) / (values.std() / np.sqrt(len(values)))
        assert abs(z) < 4.5  # a false alarm in 7e-6
        ratio = values.var() / np.mean([one.error**2 for one in found])
        assert abs(ratio - 1) < 4.5 * np.sqrt(2 / 149) + 0.1  # and the kurtosis of the values


@pytest.mark.parametrize("name", ["gaussian", "distance"])
def test_errors_are_right_where_the_laws_are_equal_and_the_first_order_vanishes(name):
    found = [mmd_squared(P.sample(40, seed), P.sample(60, 900 + seed), KERNELS[name]) for seed in range(300)]
    values, errors = (np.array([getattr(one, part) for one in found]) for part in ("value", "error"))
    assert abs(values.mean()) < 4.5 * values.std() / np.sqrt(300)
    ratio = values.var() / np.mean(errors**2)
    # sums of squares: a kurtosis below 12 makes the deviation of a variance at most sqrt(11 / 300); without the second
    # order, or with twice of it, as rows alone would say, the ratio is infinite or 1/2
    assert abs(ratio - 1) < 2.3 * np.sqrt(11 / 300)


def test_energy_distances_have_three_routes():
    laws = [GaussianMixture.isotropic([[-1.0], [2.0]], [0.2, 1.0], [0.3, 0.7]), Gaussian([0.4], 2.0)]
    x = np.linspace(-12, 14, 26_001)
    squares = (cdf(laws[0], x[:, None]) - cdf(laws[1], x[:, None])) ** 2
    found = energy_distance(*laws)
    np.testing.assert_allclose(found.value, 2 * np.trapezoid(squares, x), rtol=1e-9)
    assert 0 < found.error < 1e-9

    def spread(m, v):
        s = np.sqrt(v)
        return s * np.sqrt(2 / np.pi) * np.exp(-0.5 * m * m / v) + m * (1 - 2 * ndtr(-m / s))

    p, q = Gaussian([0.3], 0.5), Gaussian([1.0], 2.0)
    closed = 2 * spread(0.7, 2.5) - spread(0, 1.0) - spread(0, 4.0)
    np.testing.assert_allclose(energy_distance(p, q).value, closed, rtol=1e-12)


def test_points_on_the_line_need_no_pairs():
    rng = np.random.default_rng(2)
    x, y = np.round(rng.normal(size=(200, 1)), 1), np.round(rng.normal(0.3, 1, (150, 1)), 1)
    flat = energy_distance(x, y)
    lifted = energy_distance(*(np.hstack([part, np.zeros_like(part)]) for part in (x, y)))
    np.testing.assert_allclose(flat.value, lifted.value, rtol=1e-9)
    np.testing.assert_allclose(flat.error, lifted.error, rtol=1e-9)


def test_a_point_against_a_law_is_exact():
    law = Gaussian(np.zeros(3), 1.0)
    kernel = gaussian_kernel(1.0)
    # E e^(-|z|^2 / 2) = 2^(-3/2), of two draws 3^(-3/2)
    np.testing.assert_allclose(mmd_squared(law, Empirical([np.zeros(3)]), kernel).value, 1 + 3**-1.5 - 2 * 2**-1.5)


def test_few_points_have_an_error_that_says_so():
    assert mmd_squared(X[:2], Y, KERNELS["gaussian"]).error == np.inf
    assert mmd_squared(X[:3], Y, KERNELS["gaussian"]).error == np.inf
    assert np.isfinite(mmd_squared(X[:4], Y, KERNELS["gaussian"]).error)
    with pytest.raises(ValueError, match="q must be a law or a sample of at least two points"):
        mmd_squared(X, Y[:1], KERNELS["gaussian"])
    with pytest.raises(ValueError, match="at least one point"):
        energy_distance(X, np.zeros((0, 3)))
    with pytest.raises(TypeError, match="kernel must be a Kernel, got 'gaussian'"):
        mmd_squared(X, Y, "gaussian")


def test_the_median_distance_is_that_of_all_pairs():
    both = np.concatenate([X, Y])
    distances = cdist(both, both)[np.triu_indices(len(both), 1)]
    assert median_distance(X, Empirical(Y)) == np.median(distances)
    many = RNG.normal(size=(4000, 2))
    np.testing.assert_allclose(median_distance(many[:2000], many[2000:]), 1.665, rtol=0.05)
    with pytest.raises(ValueError, match="median distance of 0"):
        median_distance(np.zeros((5, 2)), np.ones((1, 2)))


def test_the_error_of_two_samples_is_the_one_of_their_centred_tables():
    kernel, n, m = KERNELS["laplace"], len(X), len(Y)
    kxx, kyy, kxy = (kernel.values(cdist(a, b, "sqeuclidean")) for a, b in ((X, X), (Y, Y), (X, Y)))

    def left_within(k):
        """The mean square of U-centred entries (Szekely and Rizzo 2014, definition 2)."""
        count, off = len(k), ~np.eye(len(k), dtype=bool)
        k = np.where(off, k, 0.0)
        rows = k.sum(axis=1)
        centred = k - (rows[:, None] + rows) / (count - 2) + k.sum() / ((count - 1) * (count - 2))
        return (centred[off] ** 2).sum() / (count * (count - 3))

    centred = kxy - kxy.mean(axis=1, keepdims=True) - kxy.mean(axis=0) + kxy.mean()
    between = (centred**2).sum() / ((n - 1) * (m - 1))
    second = 2 * left_within(kxx) / (n * (n - 1)) + 2 * left_within(kyy) / (m * (m - 1)) + 4 * between / (n * m)
    a = (kxx.sum(axis=1) - 1) / (n - 1) - kxy.mean(axis=1)
    b = (kyy.sum(axis=1) - 1) / (m - 1) - kxy.mean(axis=0)
    first = 4 / n * a.var(ddof=1) + 4 / m * b.var(ddof=1)
    np.testing.assert_allclose(mmd_squared(X, Y, kernel).error ** 2, first - second, rtol=1e-10)
    # where the first order is less than the noise of its rows, the second is left
    near = mmd_squared(X, X + 1e-3, kernel)
    kernels = [kernel.values(cdist(x, x, "sqeuclidean")) for x in (X, X + 1e-3)]
    across = kernel.values(cdist(X, X + 1e-3, "sqeuclidean"))
    across = across - across.mean(axis=1, keepdims=True) - across.mean(axis=0) + across.mean()
    rest = sum(2 * left_within(k) / (n * (n - 1)) for k in kernels) + 4 * (across**2).sum() / ((n - 1) * n) ** 2
    np.testing.assert_allclose(near.error**2, rest, rtol=1e-10)
    against = mmd_squared(X, Empirical(Y), kernel).error ** 2
    a_law = 4 / n * a.var(ddof=1) - 2 * left_within(kxx) / (n * (n - 1))
    np.testing.assert_allclose(against, a_law, rtol=1e-10)


# ---------------------------------------------------------------------- samples on a device

# A pair is off by 20 roundings at most, u each: a discrepancy by those of three means, one of which counts twice, none
# above 3 here; and what is left of the squares of rows in a variance is some hundredths of them.
UNITS = {"f8": 2.0**-53, "f4": 2.0**-24}


def assert_estimates_agree(found, expected, unit):
    assert abs(found.value - expected.value) <= 4 * 3 * 20 * unit
    np.testing.assert_allclose(found.error, expected.error, rtol=100 * 2 * 20 * unit)
    assert found.route == expected.route == "monte carlo"


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("name", ["gaussian", "distance"])
def test_samples_on_a_device_have_the_estimates_of_samples_here(cupy, name, kind):
    x, y = X.astype(kind), Y.astype(kind)
    found = mmd_squared(cupy.asarray(x), cupy.asarray(y), KERNELS[name])
    assert_estimates_agree(found, mmd_squared(x, y, KERNELS[name]), UNITS[kind])
    assert [type(part) for part in (found.value, found.error)] == [float, float]
    with pytest.raises(AssertionError):
        assert_estimates_agree(found, mmd_squared(x, y[:-1], KERNELS[name]), UNITS[kind])
    if name == "distance":
        assert energy_distance(cupy.asarray(x), cupy.asarray(y)).value == found.value


def test_the_same_sample_twice_is_compared_with_itself_as_here(cupy):
    there = cupy.asarray(X)
    found, expected = mmd_squared(there, there, KERNELS["laplace"]), mmd_squared(X, X, KERNELS["laplace"])
    assert_estimates_agree(found, expected, UNITS["f8"])


def test_single_and_double_precision_are_compared_in_double(cupy):
    single = X.astype(np.float32)
    found = mmd_squared(cupy.asarray(single), cupy.asarray(Y), KERNELS["laplace"])
    assert_estimates_agree(found, mmd_squared(single, Y, KERNELS["laplace"]), UNITS["f8"])


def test_no_sample_is_copied_from_or_to_a_device():
    with standing_in() as cupy:
        x, y = cupy.asarray(X), cupy.asarray(Y)
        cupy.state.copies.update(to=0)
        mmd_squared(x, y, KERNELS["laplace"])
        assert cupy.state.copies == {"to": 0, "from": 0}


@pytest.mark.parametrize("count", [2, 9, 10])
def test_the_median_distance_on_a_device_is_the_one_here(cupy, count):
    x, y = X[:count], Y[:1]
    x[0] = x[1]
    np.testing.assert_allclose(
        median_distance(cupy.asarray(x), cupy.asarray(y)), median_distance(x, y), rtol=1e-15, atol=0
    )
    with pytest.raises(ValueError, match="median distance of 0"):
        median_distance(cupy.zeros((5, 2)), cupy.zeros((1, 2)))


def test_samples_in_two_places_and_those_that_are_none_are_refused(cupy):
    x, y = cupy.asarray(X), cupy.asarray(Y)
    kernel = KERNELS["gaussian"]
    with pytest.raises(TypeError, match="p and q must both be arrays of CuPy, or neither, got a ndarray for q"):
        mmd_squared(x, Y, kernel)
    with pytest.raises(TypeError, match="got a GaussianMixture for p"):
        energy_distance(P, x)
    with pytest.raises(ValueError, match="p and q must have the same dimension, got 3 and 2"):
        median_distance(x, y[:, :2])
    with pytest.raises(ValueError, match=r"p must be at least one point of shape \(n, d\), got shape \(30,\)"):
        mmd_squared(x[:, 0], y, kernel)
    with pytest.raises(ValueError, match="q must be a law or a sample of at least two points"):
        mmd_squared(x, y[:1], kernel)
    with pytest.raises(ValueError, match="q must be finite, got nan"):
        mmd_squared(x, y * np.nan, kernel)
    with pytest.raises(ValueError, match="the gaussian kernel's length must be one that float32 can hold"):
        mmd_squared(x.astype("f4"), y.astype("f4"), gaussian_kernel(1e20))
    with pytest.raises(ValueError, match=r"length must be one that float32 can hold, got a scale 1e\+50"):
        mmd_squared(x.astype("f4"), y.astype("f4"), inverse_multiquadric_kernel(1e-25))
    with pytest.raises(TypeError, match="p must be numbers that NumPy takes"):
        wasserstein(x, y, 2)


def test_points_too_far_apart_for_squares_are_refused(cupy):
    far = (X + 1e20).astype(np.float32)
    with pytest.raises(ValueError, match="p and q must be so near that float64, or float32 for two samples of it on a"):
        energy_distance(cupy.asarray(far), cupy.asarray(Y.astype(np.float32)))
    assert energy_distance(far, Y).value > 1e20
    with pytest.raises(ValueError, match="got a median distance of inf"):
        median_distance(cupy.asarray(far[:1]), cupy.asarray(np.eye(3, dtype=np.float32)[:1]))
    with pytest.raises(ValueError, match="p and q must be so near that float64"):
        energy_distance(X, Y + 1e200)
    assert mmd_squared(X, Y + 1e200, KERNELS["gaussian"]).value > 0
