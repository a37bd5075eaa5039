"""Flows of points that are CuPy's: against densities, closed flows and NumPy's own route, in the process's own time."""

import numpy as np
import pytest
from numba import config

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    GaussianMixture,
    LinearProcess,
    VEPower,
    VPCosine,
    VPLinear,
    backends,
)
from refdiff.distributions import random_mixture
from refdiff.dynamics import FlowMap, Unfinished, flow, log_likelihood, path

if config.DISABLE_JIT:
    pytest.skip("minutes without compilation: laws become arrays beside Numba's kernels", allow_module_level=True)

KINDS = ("isotropic", "diagonal", "full")
# schedule, start, end: from pure noise, whose alpha is 0, and to or from data, whose sigma is 0; EDM's range
WAYS = {
    "straight, all of it": (FlowMatching(), 1.0, 0.0),
    "EDM down": (VEPower(T=80.0), 80.0, 0.002),
    "VP from data": (VPLinear(), 0.0, 1.0),
}
LOOSE = {"rtol": 1e-6, "atol": 1e-8}


def model(kind="isotropic", dim=2, schedule=None):
    return ExactModel(random_mixture(dim, 3, 7, kind), VPLinear() if schedule is None else schedule)


def of_numpy(given, x, start, end, **options):
    with backends.use("numpy"):
        return flow(given, x, start, end, **options)


@pytest.mark.parametrize(("kind", "way"), list(zip(KINDS, WAYS, strict=True)))
def test_density_goes_along_with_the_points(cupy, kind, way):
    """log p at both ends knows no differential equation."""
    schedule, start, end = WAYS[way]
    given = model(kind, schedule=schedule)
    x = given.sample(3, start, 2)
    found = flow(given, cupy.asarray(x), start, end, log_density=True, rtol=1e-8, atol=1e-10)
    with backends.use("numpy"):
        change = given.log_density(found.x.get(), end) - given.log_density(x, start)
    # 1e-8 at each of some tens of steps, and what the errors of x do to log p, of slope 10 to 100
    assert abs(found.log_density_change.get() - change).max() < 1e-5
    # the control: the volume of the scale r left out, where it is not 1
    if way == "EDM down":
        assert abs(found.log_density_change.get() - change + 2 * np.log(80)).max() > 1


@pytest.mark.parametrize(("kind", "way"), list(zip(KINDS, sorted(WAYS), strict=True)))
def test_points_are_those_of_numpy_in_the_process_s_own_time(cupy, kind, way):
    schedule, start, end = WAYS[way]
    given = model(kind, schedule=schedule)
    x = given.sample(2, start, 3)
    found = flow(given, cupy.asarray(x), start, end, log_density=True, rtol=1e-8, atol=1e-10)
    expected = of_numpy(given, x, start, end, log_density=True, rtol=1e-8, atol=1e-10)
    size = max(1.0, abs(expected.x).max())
    # 100 steps of 1e-8, magnified between modes by some tens
    assert abs(found.x.get() - expected.x).max() < 2e-5 * size
    assert abs(found.log_density_change.get() - expected.log_density_change).max() < 2e-5
    # the control: a time that is off by a hundredth of the way
    off = of_numpy(given, x, start, end + 0.01 * (start - end), **LOOSE)
    assert abs(found.x.get() - off.x).max() > 2e-5 * size


def test_axes_with_schedules_of_their_own_go_in_their_own_time(cupy):
    process = AffineProcess((VPLinear(), VPCosine()))
    means, variances = np.array([[0.3, -0.2]]), np.array([[0.2, 0.5]])
    given = ExactModel(GaussianMixture.diagonal(means, variances), process)
    x = given.sample(3, 0.9, 4)
    found = flow(given, cupy.asarray(x), 0.9, 0.1, log_density=True, **LOOSE)
    a, b = (process.coefficients(t) for t in (0.9, 0.1))
    ratio = (b.alpha**2 * variances + b.sigma**2) / (a.alpha**2 * variances + a.sigma**2)
    # 1e-6 in each of some tens of steps
    np.testing.assert_allclose(found.x.get(), b.alpha * means + np.sqrt(ratio) * (x - a.alpha * means), atol=1e-4)
    np.testing.assert_allclose(found.log_density_change.get(), -np.log(ratio).sum() / 2, atol=1e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found.x.get(), b.alpha * means + ratio * (x - a.alpha * means), atol=1e-4)


def test_a_process_may_move_its_centre(cupy):
    still = model()
    process = AffineProcess(VPLinear(), lambda t: (np.array([t, -1.0]), np.array([1.0, 0.0]), 0.0))
    x = still.sample(3, 0.9, 5)
    moving = ExactModel(still.distribution, process)
    found = flow(moving, cupy.asarray(x + np.array([0.9, -1.0])), 0.9, 0.2, **LOOSE).x.get()
    expected = flow(still, cupy.asarray(x), 0.9, 0.2, **LOOSE).x.get()
    # x + b - b is x up to a rounding, magnified between modes
    np.testing.assert_allclose(found, expected + np.array([0.2, -1.0]), rtol=0, atol=1e-8)
    assert abs(found - expected).max() > 0.5


def test_point_sets_flow_to_small_noise_and_not_to_none(cupy):
    given = ExactModel(Empirical(np.random.default_rng(1).normal(size=(5, 2))), VEPower(T=80.0))
    x = cupy.asarray(given.sample(3, 80.0, 9))
    found = flow(given, x, 80.0, 0.002, **LOOSE).x.get()
    assert abs(found[:, None] - given.distribution.means).max(axis=2).min(axis=1).max() < 0.02  # ten deviations
    for start, end in ((80.0, 0.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="at which the data have a density"):
            flow(given, x, start, end)


def test_shapes_types_and_counts_follow_the_points(cupy):
    given, x = model(), model().sample(6, 1.0, 8)
    double = flow(given, cupy.asarray(x.reshape(2, 3, 2)), 1.0, 0.1, log_density=True, **LOOSE)
    single = flow(given, cupy.asarray(x.reshape(2, 3, 2).astype("f4")), 1.0, 0.1, log_density=True)
    one = flow(given, cupy.asarray(x[0]), 1.0, 0.1, **LOOSE)
    none = flow(given, cupy.zeros((0, 2)), 1.0, 0.1, log_density=True)
    still = flow(given, cupy.asarray(x), 0.4, 0.4, log_density=True)
    assert all(isinstance(part, cupy.ndarray) for part in (double.x, double.log_density_change, still.x, one.x))
    assert double.x.shape == (2, 3, 2)
    assert double.log_density_change.shape == double.steps.shape == double.rejected.shape == (2, 3)
    assert (double.evaluations == 2 + 12 * (double.steps + double.rejected)).all()
    assert single.x.dtype == single.log_density_change.dtype == np.float32
    # the usual 1e-4 of steps in float32, four or so, grown between modes
    assert abs(single.x.get() - double.x.get()).max() < 1e-2
    assert (single.evaluations < double.evaluations).all()
    assert one.x.shape == (2,)
    assert np.ndim(one.steps) == 0
    assert one.log_density_change is None
    assert none.x.shape == (0, 2)
    assert none.log_density_change.shape == (0,)
    assert np.array_equal(still.x.get(), x)
    assert not still.log_density_change.get().any()
    assert not still.evaluations.any()


@pytest.mark.parametrize("dim", [2, 17])
def test_points_that_end_are_kept_when_others_do_not(cupy, monkeypatch, dim):
    given = ExactModel(GaussianMixture.isotropic(np.random.default_rng(dim).normal(size=(3, dim)), 1e-6), VPLinear())
    group, options = (128, LOOSE) if dim == 2 else (2, {"method": "dopri5", "rtol": 1e-3})
    monkeypatch.setattr("refdiff.kernels.cuda.adaptive.rows_at_once", lambda rows, *_: min(rows, 2))
    x = np.zeros((group + 2, dim)) + given.sample(1, 0.9, 0)
    x[group:] = given.sample(2, 0.9, 10)
    full = flow(given, cupy.asarray(x), 0.9, 0.0, **options)
    attempts = full.steps + full.rejected
    few = int(attempts.max()) - 1
    assert attempts.min() <= few
    with pytest.raises(Unfinished, match=r"points \d+\.\.\d+: max_steps = \d+ must be larger after 0") as caught:
        flow(given, cupy.asarray(x), 0.9, 0.0, max_steps=few, **options)
    ends, found = attempts <= few, caught.value.flow.x.get()
    assert np.array_equal(found[ends], full.x.get()[ends])
    assert np.isnan(found[~ends]).all()


def test_flow_maps_and_likelihoods_stay_on_the_device(cupy):
    given = model()
    x = given.sample(2, 0.1, 6)
    along = FlowMap(given, 0.1, 1.0, **LOOSE)
    there = along.forward(cupy.asarray(x))
    assert abs(along.inverse(there).get() - x).max() < 1e-4
    found = log_likelihood(given, cupy.asarray(x), start=0.1, **LOOSE)
    expected = given.log_density(x, 0.1)
    assert isinstance(found.log_likelihood, cupy.ndarray)
    assert abs(found.log_likelihood.get() - expected).max() < 1e-4
    assert abs(found.log_prior.get() - expected).max() > 1e-2  # without the volume
    assert not found.standard_error.get().any()
    assert found.forms.shape == (1, 2)


def test_maps_and_likelihoods_of_float32_have_its_tolerances(cupy):
    given = model()
    x = given.sample(2, 0.1, 6)
    single, along = cupy.asarray(x.astype("f4")), FlowMap(given, 0.1, 1.0)
    found = along.inverse(along.forward(single)), log_likelihood(given, single, start=0.1).log_likelihood
    assert {one.dtype for one in found} == {np.dtype("f4")}
    for one, expected in zip(found, (x, given.log_density(x, 0.1)), strict=True):
        # some steps at 1e-4, and for the way back at that times how the flow widens, which is less than ten
        assert 1e-9 < abs(one.get() - expected).max() < 1e-2
    with pytest.raises(ValueError, match="rtol must be at least"):
        log_likelihood(given, single, start=0.1, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "euler"}, "method must be one of"),
        ({"rtol": 1e-15}, "rtol must lie in"),
        ({"x": np.zeros((2, 2), "f4"), "rtol": 1e-5}, "rtol must be at least 1.19e-05 for points of float32 on a GPU"),
        ({"atol": 0.0}, "atol must lie in"),
        ({"end": 1.5}, "end must lie in"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"x": np.zeros((2, 3))}, "x must have shape"),
        ({"x": np.full((2, 2), np.nan)}, "x must be finite"),
        ({"x": np.full((2, 2), 1e200)}, "near enough to a component for float64"),
        ({"x": np.full((2, 2), 1e30, "f4")}, "near enough to a component for float32"),
        ({"model": ExactModel(model().distribution, LinearProcess(-np.eye(2), np.eye(2)))}, "AffineProcess"),
        ({"model": model("full", schedule=AffineProcess((VPLinear(), VPCosine())))}, "for matrices"),
    ],
)
def test_what_cannot_be_done_is_refused(cupy, change, message):
    arguments = {"model": model(), "x": np.zeros((2, 2)), "start": 1.0, "end": 0.0} | change
    arguments["x"] = cupy.asarray(arguments["x"])
    with pytest.raises(ValueError, match=message):
        flow(**arguments)


def test_what_has_no_kernel_asks_for_numpy(cupy):
    x = cupy.zeros((2, 2))
    for ask in (lambda: path(model(), x, [1.0, 0.5]), lambda: log_likelihood(model(), x, divergence="sphere", seed=0)):
        with pytest.raises(TypeError, match="x must be numbers that NumPy takes"):
            ask()
