"""Paths against exact ones on the line and against flows: at the times asked for, between them, and both ways."""

import numpy as np
import pytest
from numba import config

from refdiff import AffineProcess, Empirical, ExactModel, GaussianMixture, VEPower, VPLinear, backends
from refdiff.dynamics import Unfinished, VelocityField, flow, quantile_flow
from refdiff.dynamics.paths import path

if config.DISABLE_JIT:
    pytest.skip("hours without compilation", allow_module_level=True)

LAW = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
WAYS = {
    "EDM down": (VEPower(T=80.0), np.geomspace(80.0, 0.002, 4)),
    "VP from data": (VPLinear(), np.linspace(0.0, 1.0, 3)),
}
HOW = {"flow, SciPy": ("numpy", False), "flow, kernel": ("numba", False), "interpolants": ("numpy", True)}


def exact(model, x, start, t):
    moved = quantile_flow(model, x, start, t)
    return moved, model.log_density(moved, t) - model.log_density(x, start)


@pytest.mark.parametrize("how", sorted(HOW))
@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("method", ["dop853", "dopri5"])
def test_points_and_densities_are_right_at_all_times_and_between_them(way, how, method):
    schedule, times = WAYS[way]
    backend, interpolate = HOW[how]
    model = ExactModel(LAW, schedule)
    x = model.sample(2, times[0], 1)
    rtol = 1e-6 if method == "dop853" else 1e-4
    options = {"method": method, "rtol": rtol, "atol": 1e-2 * rtol, "log_density": True, "interpolate": interpolate}
    with backends.use(backend):
        found = path(model, x, times, **options)
        between = 0.3 * times[:-1] + 0.7 * times[1:]
        points, changes = found.at(between)
    pairs = zip([*times, *between], [*found.x, *points], [*found.log_density_change, *changes], strict=True)
    # interpolants of order 4 err by up to 25 times what steps do, log p by its slope times that of x
    allowed = rtol * (100 if interpolate and method == "dopri5" else 30)
    for t, one, change in pairs:
        moved, expected = exact(model, x, times[0], t)
        slope = max(1.0, np.abs(model.score(moved, t)).max())
        np.testing.assert_allclose(one, moved, rtol=0, atol=allowed * max(1.0, np.abs(moved).max()))
        np.testing.assert_allclose(change, expected, rtol=0, atol=allowed * slope * max(1.0, np.abs(moved).max()))


def test_interpolants_take_fewer_evaluations_than_a_flow_for_each_time():
    model = ExactModel(LAW, VPLinear())
    x, times = model.sample(1, 1.0, 2), np.linspace(1.0, 0.0, 33)
    with backends.use("numpy"):
        read, flown = (path(model, x, times, rtol=1e-6, interpolate=one) for one in (True, False))
    assert (2 * read.evaluations < flown.evaluations).all()
    errors = [np.abs(one.x[-1] - quantile_flow(model, x, 1.0, 0.0)).max() for one in (read, flown)]
    assert errors[1] < 0.1 * errors[0] < 1e-6


@pytest.mark.parametrize("how", sorted(HOW))
def test_a_path_is_its_flows_and_begins_where_it_begins(how):
    backend, interpolate = HOW[how]
    rng = np.random.default_rng(3)
    model = ExactModel(
        GaussianMixture.isotropic(rng.normal(size=(3, 2)), 0.1),
        AffineProcess(VPLinear(), offset=lambda t: (np.array([t, 0.0]), np.array([1.0, 0.0]), np.zeros(2))),
    )
    x = model.sample(20, 0.9, 4).reshape(4, 5, 2)
    times = [0.9, 0.9, 0.4, 0.2]
    with backends.use(backend):
        found = path(model, x, times, rtol=1e-5, log_density=True, interpolate=interpolate)
        later = flow(model, x, 0.9, 0.3, rtol=1e-5, log_density=True)
        one, several = found(0.3), found([0.3, 0.9])
        at, change = found.at(0.3)
    assert found.x.shape == (4, 4, 5, 2)
    assert found.log_density_change.shape == (4, 4, 5)
    assert found.evaluations.shape == (4, 5)
    assert one.shape == (4, 5, 2)
    assert several.shape == (2, 4, 5, 2)
    assert np.array_equal(found.x[0], x)
    assert np.array_equal(found.x[1], x)
    assert np.array_equal(several[1], x)
    assert np.array_equal(one, several[0])
    assert np.array_equal(one, at)
    assert not found.log_density_change[0].any()
    np.testing.assert_allclose(one, later.x, rtol=0, atol=1e-3)
    np.testing.assert_allclose(change, later.log_density_change, rtol=0, atol=1e-3)
    assert found([]).shape == (0, 4, 5, 2)


@pytest.mark.parametrize("interpolate", [False, True])
def test_types_follow_the_points_and_paths_may_be_short(interpolate):
    model = ExactModel(LAW, VPLinear())
    x = model.sample(2, 1.0, 5).astype(np.float32)
    single = path(model, x, [1.0, 0.5], log_density=True, interpolate=interpolate)
    assert single.x.dtype == single(0.7).dtype == single.log_density_change.dtype == np.float32
    np.testing.assert_allclose(single(0.7), quantile_flow(model, x, 1.0, 0.7), rtol=1e-5, atol=1e-6)
    still = path(model, x[0], [0.4], interpolate=interpolate)
    assert still.x.shape == (1, 1)
    assert np.array_equal(still(0.4), x[0])
    assert still.log_density_change is None
    assert still.at(0.4)[1] is None
    none = path(model, np.empty((0, 1)), [1.0, 0.0], log_density=True, interpolate=interpolate)
    assert none.x.shape == (2, 0, 1)
    assert none(0.5).shape == (0, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": VPLinear()}, TypeError, "model must be an ExactModel or a VelocityField"),
        ({"times": []}, ValueError, "times must hold at least one time"),
        ({"times": [1.0, 0.5, 0.7]}, ValueError, "times must increase or decrease"),
        ({"times": [1.5, 0.5]}, ValueError, r"times must lie in \[0, 1\], got 1.5"),
        ({"x": [0.0, 1.0]}, ValueError, "x must have shape"),
        ({"method": "euler"}, ValueError, "method must be one of"),
        ({"model": ExactModel(Empirical([[0.0]]), VPLinear())}, ValueError, "at which the data have a density"),
        ({"max_steps": 1, "interpolate": True}, Unfinished, "max_steps = 1 must be larger"),
        ({"max_steps": 1}, Unfinished, "max_steps = 1 must be larger"),
    ],
)
def test_what_cannot_be_done_is_refused(change, error, message):
    arguments = {"model": ExactModel(LAW, VPLinear()), "x": [[0.0]], "times": [1.0, 0.0]} | change
    with pytest.raises(error, match=message):
        path(**arguments)


@pytest.mark.parametrize("interpolate", [True, False])
def test_a_field_has_paths_at_any_times(interpolate):
    """dx/dt = (x_2 + x_1 / 5, -x_1 + x_2 / 5) turns by t and grows by e^(t/5); its volume grows by e^(2t/5)."""
    rates = np.array([[0.2, 1.0], [-1.0, 0.2]])
    field = VelocityField(lambda x, t: x @ rates.T, 2, divergence=lambda x, t: np.full(len(x), 0.4))
    x, times = np.array([[1.0, 0.0], [0.5, 2.0]]), np.array([-1.0, 0.5, 3.0])
    when = np.append(times, [-0.9999, 0.0, 2.0])  # the first one within the first step
    points_only = path(field, x, times, interpolate=interpolate)
    found = path(field, x, times, log_density=True, interpolate=interpolate)
    moved, changes = found.at(when)
    np.testing.assert_allclose(points_only(when), moved, atol=1e-8)
    for t, one, change in zip(when + 1, moved, changes, strict=True):
        turn = np.exp(0.2 * t) * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
        # rtol 1e-10 of steps, and an interpolant that errs by up to ten of them
        np.testing.assert_allclose(one, x @ turn.T, atol=1e-8)
        np.testing.assert_allclose(change, -0.4 * t, atol=1e-8)


def test_times_beside_the_path_are_refused():
    found = path(ExactModel(LAW, VPLinear()), [[0.0]], [0.2, 0.6])
    with pytest.raises(ValueError, match=r"t must lie in \[0.2, 0.6\], got 0.7"):
        found([0.3, 0.7])
