"""DPM-Solver against the algorithm boxes of the paper and of its released code, its orders, limits and bad input."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import FAR, GRIDS, MODES, agree, flow_order, in_log_snr, order_of

from refdiff import AffineProcess, ExactModel, FlowMatching, VEPower, VPLinear
from refdiff.samplers import dpm_fast, dpm_solver
from refdiff.samplers.ddim import ddim
from refdiff.samplers.dpm_fast import dpm_solver_fast, dpm_solver_singlestep, mixed_orders
from refdiff.samplers.dpm_solver import dpm_solver as single
from refdiff.samplers.dpm_solver import dpm_solver_multistep as multi
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_log_snr

FAMILIES = {family.name: family for family in dpm_solver.FAMILIES + dpm_fast.FAMILIES}


# ---------------------------------------------------------------------- the algorithms, on numbers


def box(schedule, model, x, ts, order=2, r1=None, r2=None, taylor=False):
    """The single-step algorithms of Lu et al. 2022a: DPM-Solver-1, -2 with r1, -3 with r1 and r2."""
    alpha, sigma, lam = schedule.alpha, schedule.sigma, schedule.log_snr
    for s, t in pairwise(ts):
        h, m = lam(t) - lam(s), model(x, s)
        phi_1 = math.exp(h) - 1
        if order == 1:
            x = alpha(t) / alpha(s) * x - sigma(t) * phi_1 * m
        elif order == 2:
            r = 0.5 if r1 is None else r1
            s1 = schedule.time_of_log_snr(lam(s) + r * h)
            u = alpha(s1) / alpha(s) * x - sigma(s1) * (math.exp(r * h) - 1) * m
            weight = (phi_1 - h) / (r * h) if taylor else phi_1 / (2 * r)
            x = alpha(t) / alpha(s) * x - sigma(t) * phi_1 * m - sigma(t) * weight * (model(u, s1) - m)
        else:
            r, q = (1 / 3 if r1 is None else r1), (2 / 3 if r2 is None else r2)
            s1, s2 = (schedule.time_of_log_snr(lam(s) + part * h) for part in (r, q))
            u1 = alpha(s1) / alpha(s) * x - sigma(s1) * (math.exp(r * h) - 1) * m
            d1 = model(u1, s1) - m
            u2 = alpha(s2) / alpha(s) * x - sigma(s2) * (math.exp(q * h) - 1) * m
            u2 = u2 - sigma(s2) * q / r * ((math.exp(q * h) - 1) / (q * h) - 1) * d1
            d2 = model(u2, s2) - m
            x = alpha(t) / alpha(s) * x - sigma(t) * phi_1 * m
            phi_2 = phi_1 / h - 1
            if taylor:
                e1, e2 = d1 / r, d2 / q
                first, second = (q * e1 - r * e2) / (q - r), 2 * (e2 - e1) / (q - r)
                x = x - sigma(t) * phi_2 * first - sigma(t) * (phi_2 / h - 0.5) * second
            else:
                x = x - sigma(t) / q * phi_2 * d2
    return x


def multistep_box(schedule, model, x, ts, order=2, taylor=False, lower_order_final=False, factor=2.0):
    """The multistep algorithm of the released code, whose D_2 lacks the factor 2."""
    alpha, sigma, lam = schedule.alpha, schedule.sigma, schedule.log_snr
    seen, n = [], len(ts) - 1
    for i, (s, t) in enumerate(pairwise(ts)):
        seen.append((lam(s), model(x, s)))
        h, most = lam(t) - lam(s), min(order, i + 1, n - i if lower_order_final else order)
        phi_1, m0 = math.exp(h) - 1, seen[-1][1]
        y = alpha(t) / alpha(s) * x - sigma(t) * phi_1 * m0
        if most >= 2:
            r0 = (seen[-1][0] - seen[-2][0]) / h
            d0 = (m0 - seen[-2][1]) / r0
        if most == 2:
            y = y - sigma(t) * ((phi_1 / h - 1) if taylor else phi_1 / 2) * d0
        if most == 3:
            r1 = (seen[-2][0] - seen[-3][0]) / h
            d1 = (seen[-2][1] - seen[-3][1]) / r1
            first, second = d0 + r0 / (r0 + r1) * (d0 - d1), factor / (r0 + r1) * (d0 - d1)
            phi_2 = phi_1 / h - 1
            y = y - sigma(t) * phi_2 * first - sigma(t) * (phi_2 / h - 0.5) * second
        x = y
    return x


def edm_fast(model, x, start, end, nfe):
    """DPM-Solver-fast as k-diffusion runs it on sigma, in t = -log sigma."""
    steps = nfe // 3 + 1
    orders = [3] * (steps - 2) + [2, 1] if nfe % 3 == 0 else [3] * (steps - 1) + [nfe % 3]
    clock = np.linspace(-math.log(start), -math.log(end), steps + 1)
    for order, a, b in zip(orders, clock, clock[1:], strict=False):
        h, eps = b - a, model(x, math.exp(-a))
        if order == 1:
            x = x - math.exp(-b) * math.expm1(h) * eps
        elif order == 2:
            u = x - math.exp(-(a + h / 2)) * math.expm1(h / 2) * eps
            x = x - math.exp(-b) * math.expm1(h) * model(u, math.exp(-(a + h / 2)))
        else:
            one, two = a + h / 3, a + 2 * h / 3
            u1 = x - math.exp(-one) * math.expm1(h / 3) * eps
            d1 = model(u1, math.exp(-one)) - eps
            u2 = x - math.exp(-two) * math.expm1(2 * h / 3) * eps
            u2 = u2 - math.exp(-two) * 2 * (math.expm1(2 * h / 3) / (2 * h / 3) - 1) * d1
            d2 = model(u2, math.exp(-two)) - eps
            x = x - math.exp(-b) * math.expm1(h) * eps - math.exp(-b) * 1.5 * (math.expm1(h) / h - 1) * d2
    return x


SINGLE = [
    {"order": 1},
    {"order": 2},
    {"order": 2, "r1": 0.3},
    {"order": 2, "r1": 1.0},
    {"order": 2, "r1": 0.7, "taylor": True},
    {"order": 3},
    {"order": 3, "taylor": True},
    {"order": 3, "r1": 0.4, "r2": 0.9},
    {"order": 3, "r1": 0.4, "r2": 0.9, "taylor": True},
]
MULTI = [
    {"order": 1},
    {"order": 2},
    {"order": 2, "taylor": True},
    {"order": 3},
    {"order": 3, "taylor": True, "lower_order_final": True},
    {"order": 2, "lower_order_final": True},
    {"order": 3, "factor": 1.0},
]


def options(given):
    """The same options under the names of the library."""
    named = {k: v for k, v in given.items() if k not in ("taylor", "factor")}
    halved = {"halved_curvature": True} if given.get("factor") == 1.0 else {}
    return {**named, **halved, "solver_type": "taylor" if given.get("taylor") else "dpmsolver"}


@pytest.mark.parametrize("given", SINGLE, ids=str)
@pytest.mark.parametrize("name", GRIDS)
def test_single_step_is_the_papers_algorithm(name, given):
    """Lu et al. 2022a, Algorithms 1 and 2 and their general forms."""
    schedule, ts = GRIDS[name]
    agree(schedule, ts, single(schedule, ts, **options(given)), lambda f, x: box(schedule, f, x, ts, **given))


@pytest.mark.parametrize("given", MULTI, ids=str)
@pytest.mark.parametrize("name", GRIDS)
def test_multistep_is_the_released_algorithm(name, given):
    """With the factor 2 that makes order 3, or without it, as released."""
    schedule, ts = GRIDS[name]
    agree(schedule, ts, multi(schedule, ts, **options(given)), lambda f, x: multistep_box(schedule, f, x, ts, **given))


@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 5, 6, 7, 11])
def test_fast_is_the_mixed_schedule_in_log_sigma(nfe):
    """K = nfe // 3 + 1 equal steps in lambda."""
    schedule = VEPower(T=80.0)
    ts = uniform_log_snr(schedule, nfe // 3 + 1, start=20.0, end=0.05)
    table = dpm_solver_fast(schedule, ts, nfe=nfe)
    assert table.nfe == nfe == sum(mixed_orders(nfe))
    agree(schedule, ts, table, lambda f, x: edm_fast(f, x, 20.0, 0.05, nfe))


@pytest.mark.parametrize("kind", dpm_solver.SOLVER_TYPES)
def test_blocks_on_an_equal_grid_are_steps_with_equal_inner_parts(kind):
    """Order 3 on 9 steps equal in lambda: 3, 3, 2, 1, the same as steps of single-step DPM-Solver one by one."""
    schedule = FlowMatching()
    ts = uniform_log_snr(schedule, 9, start=0.9, end=0.1)
    table = dpm_solver_singlestep(schedule, ts, solver_type=kind)
    parts = [single(schedule, ts[[0, 3, 6]], order=3, solver_type=kind)]
    parts += [single(schedule, ts[[6, 8]], order=2, solver_type=kind), single(schedule, ts[[8, 9]], order=1)]
    model = ExactModel(MODES, schedule)
    x = model.sample(4, 0.9, 0)
    expected = x
    for part in parts:
        expected = run(part, model, expected)
    np.testing.assert_allclose(run(table, model, x), expected, rtol=0, atol=1e-12)
    assert table.nfe == 9


# ---------------------------------------------------------------------- what it is


@pytest.mark.parametrize("name", GRIDS)
def test_first_order_is_ddim(name):
    """In both forms, and onto sigma = 0 as well."""
    schedule, ts = GRIDS[name]
    for grid in (ts, np.append(ts, 0.0)):
        model = ExactModel(MODES, schedule)
        x = model.sample(5, float(ts[0]), 2)
        expected = run(ddim(schedule, grid), model, x)
        for table in (single(schedule, grid, order=1), multi(schedule, grid, order=1)):
            np.testing.assert_allclose(run(table, model, x), expected, rtol=0, atol=1e-12)


@given(
    st.floats(0.05, 0.95), st.integers(-14, -1), st.sampled_from([(single, 1), (single, 2), (single, 3), (multi, 3)])
)
def test_steps_of_any_size_keep_a_constant_prediction(t, digits, which):
    """x = alpha d + sigma e stays so, to rounding, however close the times are: nothing is divided by what cancels."""
    build, order = which
    ts = [t, *(t * (1 - k * 10.0**digits / 4) for k in (1, 2, 3))]
    table = build(FlowMatching(), ts, order=order)
    u = table.unroll()
    # one e for all outputs: the weights of x and of the outputs together make sigma_t e
    found = u.start[-1] * ts[0] + u.outputs[-1].sum()
    assert abs(found - ts[-1]) <= 64 * np.finfo(float).eps * (1 + u.start[-1])
    assert abs(u.start[-1] - (1 - ts[-1]) / (1 - ts[0])) <= 32 * np.finfo(float).eps * u.start[-1]


@pytest.mark.parametrize("name", ["dpm-solver-2", "dpm-solver-2-taylor", "dpm-solver-3", "dpm-solver-2m"])
def test_global_order_on_a_mixture(name):
    """Against the flow by an eighth-order method."""
    family, schedule = FAMILIES[name], FlowMatching()
    found = flow_order(family, schedule, in_log_snr(schedule, 0.7, 0.3), law=FAR, counts=(16, 32))
    assert abs(found - family.order) < 0.1


def order_on_gaussian(build, counts=(16, 32, 64)):
    """The measured order on Gaussian data."""
    schedule = VEPower(T=80.0)
    return order_of(build, schedule, in_log_snr(schedule, 1.0, 0.3), counts=counts)


@pytest.mark.parametrize("r1", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["dpmsolver", "taylor"])
def test_second_order_holds_for_every_inner_point(r1, kind):
    """gamma changes the constant, not the order."""
    assert abs(order_on_gaussian(partial(single, r1=r1, solver_type=kind)) - 2) < 0.1


@pytest.mark.parametrize("kind", dpm_solver.SOLVER_TYPES)
@pytest.mark.parametrize(("r1", "r2", "expected"), [(1 / 2, 2 / 3, 3), (1 / 5, 2 / 3, 3), (1 / 3, 0.9, 2)])
def test_third_order_needs_its_second_inner_point_at_two_thirds(kind, r1, r2, expected):
    """The O(h^2) error of the first inner stage reaches the step with a weight that vanishes at r2 = 2/3 only."""
    found = order_on_gaussian(partial(single, order=3, r1=r1, r2=r2, solver_type=kind))
    assert abs(found - expected) < 0.15


@pytest.mark.parametrize(("rest", "expected"), [(0, 2), (1, 2), (2, 3)])
def test_mixed_steps_have_the_order_that_the_last_one_allows(rest, expected):
    """A last step of order 1 costs one order of the whole."""
    counts = [3 * k + rest for k in (16, 32)]
    assert abs(order_on_gaussian(dpm_solver_singlestep, counts) - expected) < 0.1
    steps = [n // 3 + 1 for n in counts]
    found = order_on_gaussian(lambda p, t: dpm_solver_fast(p, t, nfe=3 * (len(t) - 2) + rest), steps)
    assert abs(found - expected) < 0.15


# ---------------------------------------------------------------------- ends, short grids and bad input


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_grid_to_sigma_zero_ends_with_a_first_order_step(name, steps):
    """x_0 = (x - sigma eps) / alpha from the last point before it."""
    grid = np.append(np.linspace(0.9, 0.1, steps), 0.0)
    table = FAMILIES[name](FlowMatching(), grid)
    before = table.stages - 2
    states, outputs, _ = table.row(table.stages - 1)
    assert table.times[before] == grid[-2]
    assert [j for j, _ in states] == [before] == [j for j, _ in outputs]
    np.testing.assert_allclose(
        [states[0][1], outputs[0][1]], [1 / (1 - grid[-2]), -grid[-2] / (1 - grid[-2])], rtol=1e-14
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_pure_noise_is_refused(name):
    """At alpha = 0 the noise says nothing about the data."""
    with pytest.raises(ValueError, match="times must start where alpha > 0"):
        FAMILIES[name](FlowMatching(), [1.0, 0.6, 0.3])


@pytest.mark.parametrize("steps", [1, 2])
def test_an_order_higher_than_the_steps_is_a_lower_order_start(steps):
    """With one step DDIM, with two the second-order method."""
    ts = [0.9, 0.6, 0.3][: steps + 1]
    assert multi(FlowMatching(), ts, order=3).close(multi(FlowMatching(), ts, order=steps))


def test_per_axis_processes_take_steps_without_inner_points():
    """Axis by axis the scalar sampler; inner points in lambda need one clock."""
    ts = [0.9, 0.7, 0.4, 0.2]
    process, schedules = AffineProcess([FlowMatching(), VPLinear()]), (FlowMatching(), VPLinear())
    for build in (lambda p: multi(p, ts, order=3), lambda p: dpm_solver_singlestep(p, ts)):
        both = build(process).unroll().outputs[-1]
        for axis, schedule in enumerate(schedules):
            np.testing.assert_allclose(both[:, axis], build(schedule).unroll().outputs[-1], rtol=1e-14)
    assert single(process, ts, order=2, r1=1.0).axes == (2,)
    with pytest.raises(ValueError, match="process must be the same on all axes"):
        single(process, ts, order=2)


@pytest.mark.parametrize(
    ("build", "given", "message"),
    [
        (single, {"order": 4}, "order must be in 1..3"),
        (multi, {"order": 0}, "order must be in 1..3"),
        (single, {"solver_type": "rk"}, "solver_type must be one of dpmsolver, taylor"),
        (multi, {"solver_type": "rk"}, "solver_type must be one of dpmsolver, taylor"),
        (single, {"order": 1, "r1": 0.5}, "r1 must be left out in order 1"),
        (single, {"order": 2, "r2": 0.5}, "r2 must be left out in order 2"),
        (single, {"r1": 0.0}, "r1 must lie in"),
        (single, {"r1": 1.5}, "r1 must lie in"),
        (single, {"order": 3, "r1": 0.7, "r2": 0.7}, "r1 must be less than r2"),
        (dpm_solver_fast, {"nfe": 12}, "times must have 5 steps for 12 evaluations, got 2"),
        (dpm_solver_fast, {"nfe": 0}, "nfe must be at least 1"),
        (dpm_solver_fast, {"prediction": "score"}, "prediction must be one of noise, denoiser"),
        (dpm_solver_singlestep, {"lower_order_final": False}, "times must have a multiple of 3 steps"),
        (dpm_solver_singlestep, {"prediction": "x"}, "prediction must be one of noise, denoiser"),
        (dpm_solver_singlestep, {"solver_type": "x"}, "solver_type must be one of"),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_bad_options_are_refused(build, given, message):
    """With the name of the option and what it was."""
    with pytest.raises(ValueError, match=message):
        build(FlowMatching(), [0.9, 0.5, 0.2], **given)


def test_an_order_that_is_no_number_is_refused():
    """TypeError, as everywhere."""
    with pytest.raises(TypeError, match="order must be a whole number"):
        single(FlowMatching(), [0.9, 0.5], order=2.0)
