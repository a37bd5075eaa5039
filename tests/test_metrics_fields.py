"""Fields of points: gradients of kernels, charges in any dimension, and the same on a device as here."""

import mpmath
import numpy as np
import pytest
from emulator.cupy import standing_in

from refdiff.distributions import Empirical, GaussianMixture
from refdiff.metrics import (
    Force,
    energy_distance,
    gaussian_kernel,
    inverse_multiquadric_kernel,
    inverse_power,
    kernel_gradient,
    laplace_kernel,
    mmd_squared,
    pair_field,
    rational_quadratic_kernel,
)
from refdiff.metrics.pairs import row_sums
from refdiff.metrics.similarities import DISTANCE

KERNELS = {
    "gaussian": (gaussian_kernel(0.7), lambda r2: mpmath.exp(-r2 / (2 * mpmath.mpf(0.7) ** 2))),
    "laplace": (laplace_kernel(0.7), lambda r2: mpmath.exp(-mpmath.sqrt(r2) / mpmath.mpf(0.7))),
    "rational": (
        rational_quadratic_kernel(0.7, 1.7),
        lambda r2: (1 + r2 / (2 * mpmath.mpf(1.7) * mpmath.mpf(0.7) ** 2)) ** -mpmath.mpf(1.7),
    ),
    "multiquadric": (inverse_multiquadric_kernel(0.7), lambda r2: (1 + r2 / mpmath.mpf(0.7) ** 2) ** mpmath.mpf(-0.5)),
    "distance": (DISTANCE, lambda r2: -mpmath.sqrt(r2)),
}
RNG = np.random.default_rng(3)
X, Y, W = RNG.normal(size=(9, 3)), RNG.normal(size=(7, 3)), RNG.normal(size=7)
ULPS = 64 * 2.0**-53  # seven terms of either sign, each right to some ulps of its own size


@pytest.mark.parametrize("name", KERNELS)
def test_fields_of_kernels_are_gradients_of_their_sums(name):
    kernel, function = KERNELS[name]
    found = pair_field(kernel, X, Y, W)
    with mpmath.workdps(40):
        for x, one in zip(X[:2], found, strict=False):
            terms = []
            for y, w in zip(Y, W, strict=True):
                away = [mpmath.mpf(a) - mpmath.mpf(b) for a, b in zip(x, y, strict=True)]
                slope = mpmath.diff(function, sum(one**2 for one in away))
                terms.append([float(2 * w * slope * one) for one in away])
            expected, size = np.sum(terms, axis=0), np.abs(terms).sum(axis=0)
            assert (abs(one - expected) <= ULPS * size).all()
            assert (abs(2 * one - expected) > ULPS * size).any()
    np.testing.assert_allclose(pair_field(kernel, X, Y), pair_field(kernel_gradient(kernel), X, Y, np.full(7, 1 / 7)))


def test_the_score_of_a_mixture_is_a_gaussian_field_over_its_sum():
    law = GaussianMixture.isotropic(Y, 0.49, abs(W))
    kernel = gaussian_kernel(0.7)
    ratio = pair_field(kernel, X, Y, abs(W)) / row_sums(kernel, X, Y, abs(W))[0][:, None]
    np.testing.assert_allclose(ratio, law.score(X), rtol=1e-12)
    wrong = pair_field(gaussian_kernel(0.71), X, Y, abs(W)) / row_sums(kernel, X, Y, abs(W))[0][:, None]
    assert not np.allclose(wrong, law.score(X), rtol=1e-3)


def sphere(dim):
    """Points and weights of a rule on the unit circle or sphere, whose sums of powers of distances are exact enough."""
    turns = np.arange(128) * 2 * np.pi / 128
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    if dim == 2:
        return ring, np.full(128, 1 / 128)
    z, masses = np.polynomial.legendre.leggauss(64)
    circles = np.sqrt(1 - z * z)[:, None, None] * ring
    points = np.concatenate([circles, np.broadcast_to(z[:, None, None], (64, 128, 1))], axis=2)
    return points.reshape(-1, 3), np.repeat(masses / 256, 128)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_shell_pulls_as_a_point_outside_and_not_at_all_inside(dim):
    points, masses = sphere(dim)
    inside, outside = np.zeros((2, 5, dim))
    inside[:, 0], outside[:, 1] = np.linspace(-0.5, 0.5, 5), np.linspace(2, 5, 5)
    force = inverse_power(dim)
    # the rule errs by 2^-128, and roundings by those of 64 terms of size 4
    assert abs(pair_field(force, inside, points, masses)).max() < 1e-14
    far = outside / (outside**2).sum(axis=1, keepdims=True) ** (dim / 2)
    np.testing.assert_allclose(pair_field(force, outside, points, masses), far, atol=1e-15)
    assert abs(pair_field(inverse_power(dim + 1), inside, points, masses)).max() > 0.1


def test_softening_is_height_over_the_plane_of_the_charges():
    t, d = 0.4, 3
    above = np.column_stack([X, np.full(len(X), t)])
    lifted = pair_field(inverse_power(d + 1), above, np.column_stack([Y, np.zeros(len(Y))]), abs(W))
    np.testing.assert_allclose(pair_field(inverse_power(d + 1, t), X, Y, abs(W)), lifted[:, :d], rtol=1e-13)
    # PFGM: dx/dt = F_x / F_t = (x - D) / t, D the mean over kernels of the points
    pulls = abs(W) * (((X[:, None] - Y) ** 2).sum(axis=2) + t * t) ** (-(d + 1) / 2)
    mean = pulls @ Y / pulls.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(lifted[:, :d] / lifted[:, d:], (X - mean) / t, rtol=1e-12)


def test_on_the_line_the_pfgm_flow_keeps_the_share_of_points_below():
    y, w = Y[:, :1], abs(W) / abs(W).sum()

    def share(x, t):
        return float(w @ (0.5 + np.arctan((x - y[:, 0]) / t) / np.pi))

    x, t = 0.3, 2.0
    field = pair_field(inverse_power(2), [[x, t]], np.column_stack([y, np.zeros(7)]), w)[0]
    h = 1e-4
    slope = field[0] / field[1]
    change = share(x + h * slope, t + h) - share(x - h * slope, t - h)
    assert abs(change) < 1e-11  # h^3 and a third derivative below 10
    assert abs(share(x - h * slope, t + h) - share(x + h * slope, t - h)) > 1e-6


@pytest.mark.parametrize("name", ["gaussian", "distance"])
def test_the_flow_of_two_fields_goes_down_the_discrepancy(name):
    kernel = KERNELS[name][0]
    discrepancy = energy_distance if name == "distance" else lambda p, q: mmd_squared(p, q, kernel)
    flow = pair_field(kernel, X, Y) - pair_field(kernel, X, X)
    direction = RNG.normal(size=X.shape)

    def value(step):
        return discrepancy(Empirical(X + step * direction), Empirical(Y)).value

    h = 1e-3
    slope = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    # h^4 times a fifth derivative of some hundreds
    np.testing.assert_allclose(slope, -2 / len(X) * (flow * direction).sum(), rtol=1e-7)


def test_no_point_moves_itself():
    for force in (inverse_power(3), inverse_power(3, 0.1), DISTANCE, laplace_kernel(0.5)):
        assert pair_field(force, [[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]]).tolist() == [[0.0, 0.0, 0.0]]
        both = pair_field(force, X, X, np.ones(len(X)))
        others = [pair_field(force, X[i], np.delete(X, i, axis=0), np.ones(len(X) - 1)) for i in range(len(X))]
        np.testing.assert_allclose(both, others, rtol=1e-12, atol=1e-14)


def test_shapes_and_single_precision_come_back():
    assert pair_field(DISTANCE, X[0], Y).shape == (3,)
    assert pair_field(DISTANCE, X.reshape(3, 3, 3), Y).shape == (3, 3, 3)
    assert pair_field(DISTANCE, X.astype(np.float32), Y).dtype == np.float32
    assert pair_field(DISTANCE, np.zeros((0, 3)), Y).shape == (0, 3)


REFUSALS = [
    (("gaussian", X, Y), TypeError, "force must be a Force or a Kernel, got 'gaussian'"),
    ((DISTANCE, X, Y[:0]), ValueError, r"y must be at least one point of shape \(m, d\), got shape \(0, 3\)"),
    ((DISTANCE, X[:, :2], Y), ValueError, r"x must have shape \(..., 3\), got \(9, 2\)"),
    ((DISTANCE, X, Y, W[:3]), ValueError, r"weights must have shape \(7,\), got \(3,\)"),
    ((DISTANCE, X, [[np.nan]]), ValueError, "y must be finite, got nan"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSALS, ids=range(len(REFUSALS)))
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        pair_field(*arguments)


def test_forces_are_refused_that_are_none():
    with pytest.raises(TypeError, match="kernel must be a Kernel, got 3"):
        kernel_gradient(3)
    with pytest.raises(ValueError, match="power must lie in"):
        inverse_power(0)
    for power, softening in ((3, 1e-200), (200, 40.0), (3, 1e154)):  # the second and the third have lost digits
        with pytest.raises(ValueError, match=r"softening must have a power -2 and -\d+\.0 in float64"):
            inverse_power(power, softening)
    with pytest.raises(ValueError, match="kind must be one of GAUSSIAN, POWER, PULL, INVERSE, got 'LAPLACE'"):
        Force("LAPLACE", 1.0, 1.0, 1.0)


def test_a_softening_is_a_unit_of_length():
    e, n = 40.0, 100
    for points in (Y, 30 * Y):
        field = pair_field(inverse_power(n, 1), X / e, points / e)
        # powers of numbers that are off by two roundings, and as many of their own
        np.testing.assert_allclose(field / e ** (n - 1), pair_field(inverse_power(n, e), X, points), rtol=4 * n * 2e-16)


NEAR = [[1e-110, 0.0], [-1e-110, 0.0]]  # 1 / r^3 is beyond all numbers, and of both signs
FAR = [[1e200, 0.0], [0.0, 1.0]]


def test_forces_beyond_all_numbers_are_refused_and_exponentials_are_0_there(cupy):
    for there in (np.asarray, cupy.asarray):
        x, near, far = (there(np.array(part)) for part in ([[0.0, 0.0]], NEAR, FAR))
        with pytest.raises(ValueError, match="x and y must be so far apart, or weights so small, that the force"):
            pair_field(inverse_power(3), x, near)
        for force in (DISTANCE, inverse_power(1), inverse_power(1, 1e-3), KERNELS["rational"][0]):
            with pytest.raises(ValueError, match="x and y must be so near that float64 can hold squares of their dist"):
                pair_field(force, x, far)
        for name in ("gaussian", "laplace"):
            kernel = KERNELS[name][0]
            assert (2 * pair_field(kernel, x, far) == pair_field(kernel, x, far[1:])).all()
            assert (pair_field(kernel, x, far) != 0).any()
    single = [cupy.asarray(np.array(part, "f4")) for part in ([[0.0, 0.0]], [[1e20, 0.0]])]
    with pytest.raises(
        ValueError, match=r"so near that float32 can hold .* got coordinates that differ by up to 1e\+20"
    ):
        pair_field(DISTANCE, *single)
    assert pair_field(DISTANCE, *(part.get() for part in single)).tolist() == [[1.0, 0.0]]


# ---------------------------------------------------------------------- on a device


def test_points_of_two_precisions_meet_in_the_higher_one(cupy):
    x, y = (X + 1e6).astype("f4"), Y + 1e6  # float32 has sixteenths of such numbers
    found = pair_field(DISTANCE, cupy.asarray(x), cupy.asarray(y))
    assert found.dtype == np.float32
    expected = pair_field(DISTANCE, x, y)
    np.testing.assert_allclose(found.get(), expected, rtol=2.0**-23)  # rounded once
    assert abs(pair_field(DISTANCE, x, y.astype("f4")) - expected).max() > 1e-3
    back = pair_field(DISTANCE, cupy.asarray(y), cupy.asarray(x))
    assert back.dtype == np.float64
    np.testing.assert_allclose(back.get(), pair_field(DISTANCE, y, x), rtol=0, atol=64 * 2.0**-53)  # means of units


def test_points_on_two_devices_are_refused(monkeypatch):
    with standing_in() as cupy:
        monkeypatch.setattr(cupy.ndarray, "device", property(lambda one: cupy.cuda.Device(len(one) % 2)))
        x, y, w = (cupy.asarray(part) for part in (X[:8], Y, W))
        with pytest.raises(ValueError, match=r"x, y and weights must be on one GPU, got \[0, 1\]"):
            pair_field(DISTANCE, x, y, w)
        pair_field(DISTANCE, x[:7], y, w)


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("force", [inverse_power(3), KERNELS["gaussian"][0]], ids=["coulomb", "gaussian"])
def test_fields_on_a_device_are_those_here(cupy, force, kind):
    x, y, w = (part.astype(kind) for part in (X, Y, W))
    there = [cupy.asarray(part) for part in (x.reshape(3, 3, 3), y, w)]
    here = [part.astype(float) for part in (x, y, w)]
    found = pair_field(force, *there)
    assert (found.dtype, found.shape) == (kind, (3, 3, 3))
    size = np.abs([pair_field(force, here[0], y[None], [w]) for y, w in zip(*here[1:], strict=True)]).sum(axis=0)
    off = 128 * np.finfo(kind).eps / 2 * size  # exponents of at most 30, and sums of seven
    expected = pair_field(force, *here)
    assert (abs(found.get().reshape(9, 3) - expected) <= off).all()
    assert (abs(found.get().reshape(9, 3) + expected) > off).any()
    mean = pair_field(force, *there[:2])
    np.testing.assert_allclose(
        mean.get().reshape(9, 3), pair_field(force, *here[:2]), rtol=0, atol=2e3 * np.finfo(kind).eps
    )


def test_a_device_refuses_what_does_not_fit_or_is_elsewhere(cupy):
    x, y, w = (cupy.asarray(part) for part in (X, Y, W))
    with pytest.raises(TypeError, match="x, y and weights must all be arrays of CuPy or none, got 2 of 3"):
        pair_field(DISTANCE, x, y, W)
    with pytest.raises(ValueError, match=r"x must have shape \(..., 3\), got \(9, 2\)"):
        pair_field(DISTANCE, x[:, :2], y)
    with pytest.raises(ValueError, match=r"weights must have shape \(7,\), got \(6,\)"):
        pair_field(DISTANCE, x, y, w[1:])
    with pytest.raises(ValueError, match="y must be at least one point"):
        pair_field(DISTANCE, x, y[:0])
    with pytest.raises(ValueError, match=r"force must be one that float32 can hold, got a scale -7\.21e\+39"):
        pair_field(gaussian_kernel(1e-20), x.astype("f4"), y.astype("f4"))
