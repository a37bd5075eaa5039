"""DPM-Solver++ against the paper's, k-diffusion's and diffusers' algorithms, its orders, limits and bad input."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from sampling import FAR, GRIDS, MODES, agree, flow_order, in_log_snr, order_of

from refdiff import AffineProcess, ExactModel, FlowMatching, VEPower, VPLinear, beta_table
from refdiff.samplers import dpm_solver_pp
from refdiff.samplers.ddim import ddim
from refdiff.samplers.dpm_fast import dpm_solver_fast, dpm_solver_singlestep
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp as single
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp_multistep as multi
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_log_snr

FAMILIES = {family.name: family for family in dpm_solver_pp.FAMILIES}


# ---------------------------------------------------------------------- the algorithms, on numbers


def paper_2s(schedule, model, x, ts, r=0.5):
    """Lu et al. 2022b, Algorithm 1, with its first r free."""
    alpha, sigma, lam = schedule.alpha, schedule.sigma, schedule.log_snr
    for s, t in pairwise(ts):
        h, d = lam(t) - lam(s), model(x, s)
        mid = schedule.time_of_log_snr(lam(s) + r * h)
        u = sigma(mid) / sigma(s) * x - alpha(mid) * (math.exp(-r * h) - 1) * d
        blend = (1 - 1 / (2 * r)) * d + 1 / (2 * r) * model(u, mid)
        x = sigma(t) / sigma(s) * x - alpha(t) * (math.exp(-h) - 1) * blend
    return x


def paper_2m(schedule, model, x, ts, exact=False):
    """Lu et al. 2022b, Algorithm 2; with the exact first moment of the affine interpolant in place of h / 2."""
    alpha, sigma, lam = schedule.alpha, schedule.sigma, schedule.log_snr
    old, last = None, None
    for s, t in pairwise(ts):
        h, d = lam(t) - lam(s), model(x, s)
        share = (h - 1 + math.exp(-h)) / (1 - math.exp(-h)) if exact else h / 2
        blend = d if old is None else d + share / last * (d - old)
        x = sigma(t) / sigma(s) * x + alpha(t) * (1 - math.exp(-h)) * blend
        old, last = d, h
    return x


def released_3s(schedule, model, x, ts, kind):
    """The single-step method of order 3 of the released code (dpmsolver, taylor)."""
    alpha, sigma, lam = schedule.alpha, schedule.sigma, schedule.log_snr
    for s, t in pairwise(ts):
        h, d = lam(t) - lam(s), model(x, s)
        one, two = (schedule.time_of_log_snr(lam(s) + part * h) for part in (1 / 3, 2 / 3))
        phi_1, phi_11, phi_12 = math.expm1(-h), math.expm1(-h / 3), math.expm1(-2 * h / 3)
        phi_22, phi_2 = phi_12 / (2 * h / 3) + 1, phi_1 / h + 1
        u1 = sigma(one) / sigma(s) * x - alpha(one) * phi_11 * d
        d1 = model(u1, one)
        u2 = sigma(two) / sigma(s) * x - alpha(two) * phi_12 * d + 2 * alpha(two) * phi_22 * (d1 - d)
        d2 = model(u2, two)
        x = sigma(t) / sigma(s) * x - alpha(t) * phi_1 * d
        if kind == "dpmsolver":
            x = x + 1.5 * alpha(t) * phi_2 * (d2 - d)
        else:
            e1, e2 = 3 * (d1 - d), 1.5 * (d2 - d)
            first, second = 3 * (2 / 3 * e1 - 1 / 3 * e2), 6 * (e2 - e1)
            x = x + alpha(t) * phi_2 * first - alpha(t) * (phi_2 / h - 0.5) * second
    return x


def diffusers_multistep(schedule, model, x, ts, order, heun, lower_order_final, euler_at_final, factor=1.0):
    """The multistep scheduler, whose D2 lacks a factor 2; orders as its step counts them."""
    alpha, sigma, lam = schedule.alpha, schedule.sigma, schedule.log_snr
    outputs, n = [], len(ts) - 1
    for i in range(n):
        s0, t = ts[i], ts[i + 1]
        outputs.append(model(x, s0))
        final = i == n - 1 and (euler_at_final or lower_order_final or sigma(t) == 0)
        second = i == n - 2 and lower_order_final
        m0, h = outputs[-1], lam(t) - lam(s0)
        if order == 1 or i < 1 or final:
            x = sigma(t) / sigma(s0) * x - alpha(t) * (np.exp(-h) - 1.0) * m0
            continue
        h_0 = lam(s0) - lam(ts[i - 1])
        r0 = h_0 / h
        D1_0 = 1.0 / r0 * (m0 - outputs[-2])
        x = sigma(t) / sigma(s0) * x - alpha(t) * (np.exp(-h) - 1.0) * m0
        if order == 2 or i < 2 or second:
            weight = alpha(t) * ((np.exp(-h) - 1.0) / h + 1.0) if heun else -0.5 * alpha(t) * (np.exp(-h) - 1.0)
            x = x + weight * D1_0
            continue
        r1 = (lam(ts[i - 1]) - lam(ts[i - 2])) / h
        D1_1 = 1.0 / r1 * (outputs[-2] - outputs[-3])
        D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1)
        D2 = factor / (r0 + r1) * (D1_0 - D1_1)
        x = x + alpha(t) * ((np.exp(-h) - 1.0) / h + 1.0) * D1
        x = x - alpha(t) * ((np.exp(-h) - 1.0 + h) / h**2 - 0.5) * D2
    return x


def diffusers_singlestep(schedule, model, x, ts, orders, heun):
    """The single-step scheduler: of each block, every evaluation starts from the block's first point again."""
    alpha, sigma, lam = schedule.alpha, schedule.sigma, schedule.log_snr
    kept, outputs = x, []
    for i, order in enumerate(orders):
        if order == 1:
            kept, outputs = x, []
        outputs.append(model(x, ts[i]))
        t, first = ts[i + 1], ts[i + 1 - order]
        h = lam(t) - lam(first)
        m = outputs[0]
        x = sigma(t) / sigma(first) * kept - alpha(t) * (np.exp(-h) - 1.0) * m
        if order == 2:
            D1 = (outputs[1] - m) / ((lam(ts[i]) - lam(first)) / h)
            weight = alpha(t) * ((np.exp(-h) - 1.0) / h + 1.0) if heun else -0.5 * alpha(t) * (np.exp(-h) - 1.0)
            x = x + weight * D1
        if order == 3:
            r1, r0 = (lam(ts[i - 1]) - lam(first)) / h, (lam(ts[i]) - lam(first)) / h
            D1_0, D1_1 = (outputs[1] - m) / r1, (outputs[2] - m) / r0
            D1, D2 = (r0 * D1_0 - r1 * D1_1) / (r0 - r1), 2.0 * (D1_1 - D1_0) / (r0 - r1)
            slope = alpha(t) * ((np.exp(-h) - 1.0) / h + 1.0)
            x = x + slope * (D1 if heun else D1_1)
            if heun:
                x = x - alpha(t) * ((np.exp(-h) - 1.0 + h) / h**2 - 0.5) * D2
    return x


def k_2m(model, x, sigmas):
    """DPM++ 2M on sigma, as k-diffusion runs it."""
    old = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return denoised
        t, t_next = -math.log(sigmas[i]), -math.log(sigmas[i + 1])
        h, mix = t_next - t, denoised
        if old is not None:
            r = (t + math.log(sigmas[i - 1])) / h
            mix = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
        x = sigmas[i + 1] / sigmas[i] * x - math.expm1(-h) * mix
        old = denoised
    return x


def k_2s(model, x, sigmas):
    """DPM++ 2S ancestral at eta = 0, as k-diffusion runs it: Euler's step onto sigma = 0."""
    for a, b in pairwise(sigmas):
        denoised = model(x, a)
        if b == 0:
            x = x + (x - denoised) / a * (b - a)
            continue
        t, h = -math.log(a), math.log(a) - math.log(b)
        mid = math.exp(-(t + h / 2))
        u = mid / a * x - math.expm1(-h / 2) * denoised
        x = b / a * x - math.expm1(-h) * model(u, mid)
    return x


@pytest.mark.parametrize("name", GRIDS)
def test_2s_is_the_papers_algorithm(name):
    """For several r."""
    schedule, ts = GRIDS[name]
    for r in (0.5, 0.3, 1.0):
        agree(schedule, ts, single(schedule, ts, r1=r), lambda f, x, r=r: paper_2s(schedule, f, x, ts, r))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
def test_2m_is_the_papers_algorithm(name, kind):
    """Simplified, and with the exact moment."""
    schedule, ts = GRIDS[name]
    agree(
        schedule, ts, multi(schedule, ts, solver_type=kind), lambda f, x: paper_2m(schedule, f, x, ts, kind == "heun")
    )


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("kind", ["dpmsolver", "taylor"])
def test_3s_is_the_released_algorithm(name, kind):
    """With inner points at 1/3 and 2/3."""
    schedule, ts = GRIDS[name]
    agree(
        schedule,
        ts,
        single(schedule, ts, order=3, solver_type=kind),
        lambda f, x: released_3s(schedule, f, x, ts, kind),
    )


# order, solver_type and whether the curvature is halved, where each of them matters
KINDS = [(1, "midpoint", True), (2, "midpoint", True), (2, "heun", True), (3, "heun", True), (3, "midpoint", False)]


@pytest.mark.parametrize("end", [None, 0.0])
@pytest.mark.parametrize(("lower", "euler"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("order", "kind", "halved"), KINDS)
def test_multistep_is_the_scheduler_of_diffusers(order, kind, halved, lower, euler, end):
    """With its options for the last step, on grids that end at sigma_min or at zero, and with its curvature."""
    for name in ("EDM",) if euler else GRIDS:
        schedule, ts = GRIDS[name]
        grid = ts if end is None else np.append(ts, end)
        rules = {"lower_order_final": lower, "euler_at_final": euler}
        table = multi(schedule, grid, order=order, solver_type=kind, halved_curvature=halved, **rules)
        plain = partial(
            diffusers_multistep, schedule, ts=grid, order=order, heun=kind == "heun", factor=1.0 if halved else 2.0
        )
        agree(schedule, grid, table, lambda f, x, plain=plain, rules=rules: plain(f, x, **rules))


@pytest.mark.parametrize(
    ("steps", "order", "end", "orders"),
    [
        (6, 3, None, [1, 2, 3, 1, 2, 1]),
        (5, 3, None, [1, 2, 3, 1, 2]),
        (4, 3, None, [1, 2, 3, 1]),
        (3, 3, None, [1, 2, 1]),
        (5, 3, 0.0, [1, 2, 3, 1, 1]),
        (6, 2, None, [1, 2, 1, 2, 1, 2]),
        (5, 2, None, [1, 2, 1, 2, 1]),
        (6, 2, 0.0, [1, 2, 1, 2, 1, 1]),
    ],
)
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
def test_single_step_on_the_grid_is_the_scheduler_of_diffusers(steps, order, end, orders, kind):
    """Blocks on the points of the grid, the step onto sigma = 0 alone."""
    schedule, ts = GRIDS["VP linear"]
    grid = ts[: steps + 1] if end is None else np.append(ts[:steps], end)
    table = dpm_solver_singlestep(schedule, grid, order=order, prediction="denoiser", solver_type=kind)
    agree(schedule, grid, table, lambda f, x: diffusers_singlestep(schedule, f, x, grid, orders, kind == "heun"))


@pytest.mark.parametrize("end", [(), (0.0,)])
def test_2m_and_2s_are_those_of_k_diffusion(end):
    """On sigmas, with the last step onto zero and without."""
    schedule, sigmas = VEPower(T=80.0), [*GRIDS["EDM"][1], *end]
    agree(schedule, sigmas, multi(schedule, sigmas), lambda f, x: k_2m(f, x, sigmas))
    agree(schedule, sigmas, single(schedule, sigmas), lambda f, x: k_2s(f, x, sigmas))


def test_k_diffusion_works_in_x_over_alpha():
    """For data noised with alpha < 1 the table on x / alpha at sigma / alpha is the one on sigmas."""
    schedule, ts = GRIDS["VP linear"]
    edm, sigmas = VEPower(T=1e4), schedule.sigma(ts) / schedule.alpha(ts)
    one, two = multi(schedule, ts).unroll(), multi(edm, sigmas).unroll()
    np.testing.assert_allclose(one.outputs[-1] / schedule.alpha(ts[-1]), two.outputs[-1], rtol=1e-11, atol=1e-13)


# ---------------------------------------------------------------------- what it is


@pytest.mark.parametrize("name", ["dpmpp-2s", "dpmpp-3s-heun", "dpmpp-2m", "dpmpp-3m"])
def test_global_order_on_a_mixture(name):
    """Against the flow by an eighth-order method."""
    family, schedule = FAMILIES[name], FlowMatching()
    found = flow_order(family, schedule, in_log_snr(schedule, 0.7, 0.3), law=FAR, counts=(32, 64))
    assert abs(found - (family.startup or family.order)) < 0.1


def test_lower_order_final_costs_3m_nothing_that_its_start_has_not():
    """With an exact history, one last step of first order leaves order 2 of 3."""
    schedule = VEPower(T=80.0)
    build, grid = partial(multi, order=3, lower_order_final=True), in_log_snr(schedule, 1.0, 0.3)
    assert abs(order_of(build, schedule, grid, counts=(64, 128), exact_steps=2) - 2) < 0.1


def test_fast_with_the_data_prediction_is_another_method_of_the_same_order():
    """The mixed schedule takes either prediction."""
    schedule = FlowMatching()
    ts = uniform_log_snr(schedule, 4, start=0.9, end=0.1)
    noise, data = (dpm_solver_fast(schedule, ts, prediction=kind) for kind in ("noise", "denoiser"))
    model = ExactModel(MODES, schedule)
    x = model.sample(5, 0.9, 0)
    gap = np.abs(run(noise, model, x) - run(data, model, x)).max()
    assert noise.nfe == data.nfe == 11
    assert 1e-6 < gap < 0.1


# ---------------------------------------------------------------------- ends, short grids and bad input


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_from_pure_noise_to_sigma_zero_the_end_steps_are_ddim(name, steps):
    """x_1 = sigma_1 / sigma_0 x + alpha_1 D at alpha = 0, x_0 = D onto sigma = 0, and all is finite."""
    schedule, grid = FlowMatching(), np.linspace(1.0, 0.0, steps + 1)
    table = FAMILIES[name](schedule, grid)
    assert np.isfinite(table.unroll().outputs).all()
    states, outputs, _ = table.row(table.stages - 1)
    assert not states
    assert [(j, float(w)) for j, w in outputs] == [(table.stages - 2, 1.0)]
    if steps > 1:
        states, outputs, _ = table.row(1)
        np.testing.assert_allclose([states[0][1], outputs[0][1]], [grid[1], 1 - grid[1]], rtol=1e-14)


def test_multistep_does_not_extrapolate_from_pure_noise():
    """The evaluation at alpha = 0 is infinitely far back in lambda: the next step is of first order again."""
    grid = [1.0, 0.8, 0.5, 0.2]
    table, later = multi(FlowMatching(), grid, order=3), multi(FlowMatching(), grid[1:], order=3)
    one, two = table.unroll(), later.unroll()
    np.testing.assert_allclose(one.outputs[-1][1:], two.outputs[-1], rtol=1e-14, atol=1e-15)


def test_zero_terminal_snr_tables_give_finite_samplers():
    """From the last index of a table with alpha = 0 down to index 0."""
    table = beta_table.linear(40, 0.005, 0.2).zero_terminal_snr()
    ts = np.arange(40.0, -1, -5)
    for build in (lambda p, t: multi(p, t, order=3), lambda p, t: dpm_solver_singlestep(p, t, prediction="denoiser")):
        assert np.isfinite(build(table, ts).unroll().outputs).all()


@pytest.mark.parametrize("steps", [1, 2])
def test_an_order_higher_than_the_steps_is_a_lower_order_start(steps):
    """With one step DDIM, with two the second-order method."""
    ts = [0.9, 0.6, 0.3][: steps + 1]
    assert multi(FlowMatching(), ts, order=3).close(multi(FlowMatching(), ts, order=steps))
    if steps == 1:
        assert multi(FlowMatching(), ts, order=3).close(ddim(FlowMatching(), ts))


def test_multistep_takes_one_schedule_for_each_axis():
    """Axis by axis the scalar sampler, ends included."""
    ts, schedules = [0.9, 0.7, 0.4, 0.2, 0.0], (FlowMatching(), VPLinear())
    both = multi(AffineProcess(schedules), ts, order=3).unroll().outputs
    for axis, schedule in enumerate(schedules):
        np.testing.assert_allclose(both[..., axis], multi(schedule, ts, order=3).unroll().outputs, rtol=1e-14)


@pytest.mark.parametrize(
    ("build", "given", "message"),
    [
        (single, {"order": 4}, "order must be in 1..3"),
        (multi, {"order": 4}, "order must be in 1..3"),
        (single, {"solver_type": "midpiont"}, "solver_type must be one of"),
        (multi, {"solver_type": "bh1"}, "solver_type must be one of"),
        (single, {"order": 3, "r1": 0.9}, "r1 must be less than r2"),
        (single, {"r1": -0.5}, "r1 must lie in"),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_bad_options_are_refused(build, given, message):
    """With the name of the option and what it was."""
    with pytest.raises(ValueError, match=message):
        build(FlowMatching(), [0.9, 0.5, 0.2], **given)
