"""SDE-DPM-Solver(++) and k-diffusion's stochastic DPM++ samplers against their algorithms, written here on numbers."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import GAUSSIAN, against, flow_order, in_log_snr

from refdiff import ExactModel, FlowMatching, GaussianMixture, VEGeometric, VEPower, VPLinear
from refdiff.processes import AffineProcess
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.dpm_sde import (
    PATHS,
    dpmpp_2s_ancestral,
    dpmpp_3m_sde,
    dpmpp_sde,
    sde_dpm_solver,
    sde_dpm_solver_pp,
)
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_log_snr

MIXTURE = GaussianMixture.isotropic([[-1.0], [0.8]], [0.09, 0.25], [0.3, 0.7])
VP, EDM, FM = VPLinear(), VEPower(T=10.0), FlowMatching()
LEVELS = np.array([9.0, 4.0, 2.5, 1.1, 0.4, 0.13, 0.05])  # sigma, uneven in log sigma


# ---------------------------------------------------------------------- the algorithms on numbers, alpha = 1


def ancestral(now, later, eta):
    up = min(later, eta * np.sqrt(later**2 * (now**2 - later**2) / now**2))
    return np.sqrt(later**2 - up**2), up


def k_dpmpp_sde(sigmas, r=0.5, eta=1.0, s_noise=1.0):
    """DPM++ SDE with a Brownian path in sigma: W over [s, t] is W over [s, m] and over [m, t]."""

    def sampler(model, x, normal):
        for now, later in pairwise(sigmas):
            d = model(x, now)
            if later == 0:
                x = x + (x - d) / now * (later - now)
                continue
            middle = now ** (1 - r) * later**r
            down, up = ancestral(now, middle, eta)
            first = np.sqrt(now - middle) * normal() if eta * s_noise else 0.0
            u = down / now * x + (1 - down / now) * d + first / np.sqrt(now - middle) * s_noise * up
            d2 = model(u, middle)
            down, up = ancestral(now, later, eta)
            whole = first + np.sqrt(middle - later) * normal() if eta * s_noise else 0.0
            mean = (1 - 1 / (2 * r)) * d + 1 / (2 * r) * d2
            x = down / now * x + (1 - down / now) * mean + whole / np.sqrt(now - later) * s_noise * up
        return x

    return sampler


def k_2s_ancestral(sigmas, eta=1.0, s_noise=1.0):
    def sampler(model, x, normal):
        for now, later in pairwise(sigmas):
            d = model(x, now)
            down, up = ancestral(now, later, eta)
            if down == 0:
                x = x + (x - d) / now * (down - now)
            else:
                middle = np.sqrt(now * down)
                u = middle / now * x + (1 - middle / now) * d
                x = down / now * x + (1 - down / now) * model(u, middle)
            if later > 0 and up * s_noise > 0:
                x = x + normal() * s_noise * up
        return x

    return sampler


def k_multistep(sigmas, kind, eta=1.0, s_noise=1.0):
    """DPM++ 2M SDE (midpoint, heun) and 3M SDE (3m)."""

    def sampler(model, x, normal):
        seen = []  # (log sigma, denoised)
        for now, later in pairwise(sigmas):
            d = model(x, now)
            seen.append((np.log(now), d))
            if later == 0:
                x = d
                continue
            h = np.log(now / later)
            total = h * (1 + eta)
            x = np.exp(-total) * x + (1 - np.exp(-total)) * d
            phi_2 = (np.exp(-total) - 1) / total + 1
            if len(seen) > 1:
                h_1 = seen[-2][0] - seen[-1][0]
                d1_0 = (seen[-1][1] - seen[-2][1]) * h / h_1
                if kind == "midpoint":
                    x = x + 0.5 * (1 - np.exp(-total)) * d1_0
                elif kind == "heun" or len(seen) == 2:
                    x = x + phi_2 * d1_0
                else:
                    h_2 = seen[-3][0] - seen[-2][0]
                    d1_1 = (seen[-2][1] - seen[-3][1]) * h / h_2
                    part = h_1 / (h_1 + h_2)
                    d1, d2 = d1_0 + (d1_0 - d1_1) * part, (d1_0 - d1_1) * h / (h_1 + h_2)
                    x = x + phi_2 * d1 - (phi_2 / total - 0.5) * d2
            if eta * s_noise:
                x = x + normal() * later * np.sqrt(1 - np.exp(-2 * eta * h)) * s_noise
        return x

    return sampler


def lu_noise(points, order, solver_type):
    """SDE-DPM-Solver on (alpha, sigma, t), the noise prediction."""

    def sampler(model, x, normal):
        last = None
        for (a, s, t), (b, u, _) in pairwise(points):
            eps, lam, lam_t = model(x, t), np.log(a / s), np.log(b / u)
            h = lam_t - lam
            new = b / a * x - 2 * u * (np.exp(h) - 1) * eps
            if order == 2 and last is not None:
                d1 = (eps - last[1]) * h / (lam - last[0])
                weight = {"midpoint": u * (np.exp(h) - 1), "heun": 2 * u * ((np.exp(h) - 1) / h - 1)}[solver_type]
                new = new - weight * d1
            last = lam, eps
            x = new + u * np.sqrt(np.exp(2 * h) - 1) * normal()
        return x

    return sampler


CASES = {
    "sde": (dpmpp_sde, k_dpmpp_sde, {}, {}),
    "sde r, eta, s_noise": (dpmpp_sde, k_dpmpp_sde, *[{"r": 0.3, "eta": 0.6, "s_noise": 1.05}] * 2),
    "sde without noise": (dpmpp_sde, k_dpmpp_sde, *[{"eta": 0.0}] * 2),
    "2s": (dpmpp_2s_ancestral, k_2s_ancestral, {}, {}),
    "2s eta, s_noise": (dpmpp_2s_ancestral, k_2s_ancestral, *[{"eta": 0.4, "s_noise": 0.9}] * 2),
    "2m": (sde_dpm_solver_pp, k_multistep, {}, {"kind": "midpoint"}),
    "2m heun": (sde_dpm_solver_pp, k_multistep, {"solver_type": "heun", "eta": 0.5}, {"kind": "heun", "eta": 0.5}),
    "2m without noise": (sde_dpm_solver_pp, k_multistep, {"eta": 0.0}, {"kind": "midpoint", "eta": 0.0}),
    "3m": (dpmpp_3m_sde, k_multistep, {}, {"kind": "3m"}),
    "3m eta, s_noise": (
        dpmpp_3m_sde,
        k_multistep,
        {"eta": 0.7, "s_noise": 1.1},
        {"kind": "3m", "eta": 0.7, "s_noise": 1.1},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("end", [0.05, 0.0])
def test_the_table_is_the_impulse_response_of_k_diffusions_algorithm(case, end):
    build, plain, options, plain_options = CASES[case]
    sigmas = np.append(LEVELS[:-1], end)
    table = build(EDM, sigmas, **options)
    found = impulse_response(plain(sigmas, **plain_options), EDM, end_time=end)
    assert found.difference(table) < 1e-12


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("process", [VP, FM], ids=["VP", "FM"])
def test_runs_on_a_mixture_are_k_diffusions_in_the_coordinate_x_over_alpha(case, process):
    build, plain, options, plain_options = CASES[case]
    times = process.time_of_log_snr(-np.log(LEVELS))
    table, model = build(process, times, **options), ExactModel(MIXTURE, process)
    x = model.sample(5, times[0], 0)
    normals = np.random.default_rng(1).standard_normal((table.draws, *x.shape))
    drawn = iter(normals)

    def denoiser(y, sigma):
        t = float(process.time_of_log_snr(-np.log(sigma)))
        return model.denoiser(process.alpha(t) * y, t)

    y = plain(LEVELS, **plain_options)(denoiser, x / process.alpha(times[0]), lambda: next(drawn))
    np.testing.assert_allclose(run(table, model, x, normals=normals), process.alpha(times[-1]) * y, rtol=2e-13)


@pytest.mark.parametrize(("order", "solver_type"), [(1, "midpoint"), (2, "midpoint"), (2, "heun")])
@pytest.mark.parametrize("process", [VP, FM, EDM], ids=["VP", "FM", "EDM"])
def test_sde_dpm_solver_is_lus_algorithm(process, order, solver_type):
    times = process.time_of_log_snr(-np.log(LEVELS))
    points = [(process.alpha(t), process.sigma(t), t) for t in times]
    table = sde_dpm_solver(process, times, order=order, solver_type=solver_type)
    plain = lu_noise(points, order, solver_type)
    assert impulse_response(plain, process, prediction="noise", end_time=times[-1]).difference(table) < 1e-12
    against(plain, table, ExactModel(MIXTURE, process), atol=1e-14)


# ---------------------------------------------------------------------- what theory says


@given(eta=st.floats(0, 1), s=st.floats(0.3, 0.95), t=st.floats(0.02, 0.25))
def test_one_frozen_step_is_ddim_with_the_share_of_noise_that_the_sde_adds(eta, s, t):
    frozen = sde_dpm_solver_pp(VP, [s, t], order=1, eta=eta)
    h = VP.log_snr(t) - VP.log_snr(s)
    share = np.sqrt(np.expm1(-2 * eta * h) / np.expm1(-2 * h))
    other = ddim(VP, [s, t], eta=share)
    # a share lost in rounding draws no normal on either side
    if frozen.draws == other.draws:
        assert frozen.difference(other) < 1e-7 if eta < 1e-8 else frozen.difference(other) < 1e-12


def test_order_one_of_the_data_prediction_is_the_ddpm_posterior_and_that_of_the_noise_is_not():
    times = VP.time_of_log_snr(-np.log(LEVELS))
    posterior = ddim(VP, times, eta=1.0)
    assert sde_dpm_solver_pp(VP, times, order=1).close(posterior, 1e-12)
    assert not to_prediction(sde_dpm_solver(VP, times, order=1), "denoiser").close(posterior, 1e-2)


def test_3m_without_noise_is_of_order_two_on_a_mixture():
    found = flow_order(
        partial(dpmpp_3m_sde, eta=0.0), VP, in_log_snr(VP, 0.6, 0.15), law=MIXTURE, counts=(32, 64, 128, 256)
    )
    assert abs(found - 2) < 0.1


def test_normals_of_one_path_keep_their_variance():
    times = VP.time_of_log_snr(-np.log(LEVELS[:2]))
    for path in PATHS:
        table = dpmpp_sde(VP, times, path=path)
        noise = table.noise[-1]
        c = VP.sigma(times[1]) * np.sqrt(-np.expm1(2 * (VP.log_snr(times[0]) - VP.log_snr(times[1]))))
        np.testing.assert_allclose(np.sum(noise**2), c**2, rtol=1e-13)
        assert (noise[1] == 0) == (path == "independent")


# ---------------------------------------------------------------------- ends and bad input

DATA = [
    sde_dpm_solver_pp,
    dpmpp_3m_sde,
    dpmpp_sde,
    dpmpp_2s_ancestral,
]


@pytest.mark.parametrize("build", DATA)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.7, 0.4, 0.2, 0.1, 0.0]])
def test_from_pure_noise_to_data_everything_is_finite_and_the_last_step_gives_the_denoised_point(build, eta, times):
    table = build(FM, times, eta=eta)
    assert all(np.isfinite(part).all() for part in (table.states, table.outputs, table.noise))
    model = ExactModel(MIXTURE, FM)
    x = model.sample(3, 1.0, 0)
    normals = np.random.default_rng(0).standard_normal((table.draws, *x.shape))
    path = run(table, model, x, normals=normals, trajectory=True)
    last = np.flatnonzero(table.evaluated)[-1]
    if len(times) > 2:  # at alpha = 0 the denoiser is the mean
        np.testing.assert_allclose(path[-1], model.denoiser(path[last], table.times[last]), rtol=1e-12)
    first = [1.0, times[1]]
    np.testing.assert_allclose(build(FM, first, eta=eta).outputs[-1, 0], FM.alpha(times[1]), rtol=1e-14)


def test_the_last_step_of_the_noise_prediction_gives_the_denoised_point():
    table = sde_dpm_solver(FM, [0.9, 0.5, 0.2, 0.0])
    assert to_prediction(table, "denoiser").outputs[-1, 0] == pytest.approx(1.0, rel=1e-14)
    assert not table.noise[-1].any()


def test_axes_have_their_own_steps_where_no_point_lies_between():
    process, times = AffineProcess([VP, FM]), [0.9, 0.6, 0.3, 0.1, 0.0]
    for build in (sde_dpm_solver, sde_dpm_solver_pp, dpmpp_3m_sde):
        both, one, two = (build(p, times) for p in (process, VP, FM))
        for name in ("states", "outputs", "noise"):
            np.testing.assert_array_equal(
                getattr(both, name), np.stack([getattr(one, name), getattr(two, name)], axis=-1)
            )
    for build in (dpmpp_sde, dpmpp_2s_ancestral):
        with pytest.raises(ValueError, match="process must be the same on all axes"):
            build(process, times)


def test_the_two_normals_of_a_step_are_increments_of_one_path_in_its_clock():
    s, t, r = 0.9, 0.4, 0.3
    lam = [float(VP.log_snr(s)), float(VP.log_snr(t))]
    rho = np.exp(-np.array([lam[0], lam[0] + r * (lam[1] - lam[0]), lam[1]]))
    for path, clock in (("sigma", rho), ("snr", rho**-2)):
        fresh, shared = dpmpp_sde(VP, [s, t], r=r, path=path).noise[-1] ** 2
        assert shared / (shared + fresh) == pytest.approx((clock[1] - clock[0]) / (clock[2] - clock[0]), rel=1e-12)


def test_a_whole_step_between_ends_at_the_time_of_the_grid():
    table = dpmpp_sde(VP, [0.9, 0.4, 0.1], r=1.0)
    np.testing.assert_array_equal(table.times, [0.9, 0.4, 0.4, 0.1, 0.1])
    assert table.draws == 2  # the path ends with the part, nothing is left to draw


def test_a_large_eta_of_2s_ancestral_is_the_noised_denoiser_or_refused():
    # eta so large that nothing of x is kept: x_t = alpha_t D + sigma_t z
    table = dpmpp_2s_ancestral(VP, [0.5, 0.4], eta=50.0)
    assert table.nfe == 1
    assert table.states[-1, 0] == 0
    assert table.outputs[-1, 0] == pytest.approx(VP.alpha(0.4))
    with pytest.raises(ValueError, match="eta must leave the point between within the process"):
        dpmpp_2s_ancestral(VEGeometric(0.01, 10.0), [0.01, 0.0], eta=1.2)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (sde_dpm_solver, {"order": 4}, "order must be"),
        (sde_dpm_solver, {"solver_type": "euler"}, "solver_type must be"),
        (sde_dpm_solver_pp, {"order": 0}, "order must be"),
        (sde_dpm_solver_pp, {"solver_type": "bh1"}, "solver_type must be"),
        (sde_dpm_solver_pp, {"eta": -0.1}, "eta must"),
        (dpmpp_3m_sde, {"s_noise": -1.0}, "s_noise must"),
        (dpmpp_sde, {"r": 0.0}, "r must"),
        (dpmpp_sde, {"path": "tree"}, "path must be"),
        (dpmpp_2s_ancestral, {"eta": np.nan}, "eta must"),
    ],
)
def test_bad_options_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(VP, [0.9, 0.5, 0.1], **options)


def test_the_noise_prediction_is_refused_at_pure_noise():
    with pytest.raises(ValueError, match="times must start where alpha > 0"):
        sde_dpm_solver(FM, [1.0, 0.5])


def test_2m_sde_approaches_the_law_of_the_data():
    times = uniform_log_snr(VP, 200, start=0.999, end=1e-4)
    assert propagate(sde_dpm_solver_pp(VP, times), GAUSSIAN).wasserstein() < 1e-3
