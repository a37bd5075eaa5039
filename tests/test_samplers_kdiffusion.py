"""Euler ancestral, DPM2 and DPM2 ancestral against k-diffusion's algorithms on numbers, and their limits."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import (
    GAUSSIAN,
    SCHEDULES,
    SIGMA_LAW,
    flow_order,
    heard_in_sigma,
    in_log_snr,
    seen_through_alpha,
    sigma_grid,
)

from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import ddim
from refdiff.samplers.edm import edm_euler
from refdiff.samplers.kdiffusion import FAMILIES, dpm2, dpm2_ancestral, euler_ancestral
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, VPLinear

NAMED = {family.name: family for family in FAMILIES}


def ancestral_step(sigma_from, sigma_to, eta):
    """k-diffusion's get_ancestral_step."""
    up = min(sigma_to, eta * (sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2) ** 0.5)
    return max(sigma_to**2 - up**2, 0.0) ** 0.5, up


def plain_euler_ancestral(denoiser, x, sigmas, normal, eta=1.0, s_noise=1.0):
    for sigma, target in pairwise(sigmas):
        down, up = ancestral_step(sigma, target, eta)
        x = x + (x - denoiser(x, sigma)) / sigma * (down - sigma)
        if up > 0:
            x = x + s_noise * up * normal()
    return x


def plain_dpm2_ancestral(denoiser, x, sigmas, normal, eta=1.0, s_noise=1.0):
    for sigma, target in pairwise(sigmas):
        down, up = ancestral_step(sigma, target, eta)
        d = (x - denoiser(x, sigma)) / sigma
        if down > 0:
            middle = np.exp((np.log(sigma) + np.log(down)) / 2)
            inside = x + d * (middle - sigma)
            d = (inside - denoiser(inside, middle)) / middle
        x = x + d * (down - sigma)
        if up > 0:
            x = x + s_noise * up * normal()
    return x


def plain_dpm2(denoiser, x, sigmas, normal, s_churn=0.0, s_tmin=0.0, s_tmax=np.inf, s_noise=1.0):
    for sigma, target in pairwise(sigmas):
        gamma = min(s_churn / (len(sigmas) - 1), 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0.0
        hat = sigma * (1 + gamma)
        if gamma > 0:
            x = x + s_noise * (hat**2 - sigma**2) ** 0.5 * normal()
        d = (x - denoiser(x, hat)) / hat
        if target > 0:
            middle = np.exp((np.log(hat) + np.log(target)) / 2)
            inside = x + d * (middle - hat)
            d = (inside - denoiser(inside, middle)) / middle
        x = x + d * (target - hat)
    return x


CHURN = {"s_churn": 2.0, "s_tmin": 0.05, "s_tmax": 5.0, "s_noise": 1.01}
MEMBERS = {
    "Euler ancestral": (euler_ancestral, plain_euler_ancestral, {}),
    "Euler ancestral, half": (euler_ancestral, plain_euler_ancestral, {"eta": 0.5, "s_noise": 1.02}),
    "Euler ancestral, eta 0": (euler_ancestral, plain_euler_ancestral, {"eta": 0.0}),
    "Euler ancestral at its limit": (euler_ancestral, plain_euler_ancestral, {"eta": 50.0}),
    "DPM2": (dpm2, plain_dpm2, {}),
    "DPM2 with churn": (dpm2, plain_dpm2, CHURN),
    "DPM2 ancestral": (dpm2_ancestral, plain_dpm2_ancestral, {}),
    "DPM2 ancestral, half": (dpm2_ancestral, plain_dpm2_ancestral, {"eta": 0.5, "s_noise": 1.02}),
    "DPM2 ancestral at its limit": (dpm2_ancestral, plain_dpm2_ancestral, {"eta": 50.0}),
}


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_map_is_the_plain_algorithm_seen_through_x_over_alpha(schedule, member):
    build, plain, options = MEMBERS[member]
    times = sigma_grid(schedule, 7, clean=True)
    seen_through_alpha(partial(plain, **options), build(schedule, times, **options), schedule, times)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_impulses_through_the_plain_algorithm_read_the_table(schedule, member):
    build, plain, options = MEMBERS[member]
    times = sigma_grid(schedule, 5)
    found = heard_in_sigma(partial(plain, **options), schedule, times)
    assert found.difference(build(schedule, times, **options)) < 1e-12


def test_the_order_of_dpm2_is_measured_on_a_mixture():
    law = GaussianMixture.isotropic([[-1.0], [1.0]], [0.09, 0.09], [0.4, 0.6])
    found = flow_order(dpm2, VPLinear(), in_log_snr(VPLinear(), 0.5, 0.2), law=law, counts=(32, 64, 128))
    assert abs(found - 2) < 0.1


# ---------------------------------------------------------------------- what they are


@given(st.floats(0.0, 1.0), st.integers(1, 6), st.sampled_from(SCHEDULES))
def test_euler_ancestral_is_ddim_with_the_same_eta(eta, n, schedule):
    times = sigma_grid(schedule, n, clean=True)
    assert euler_ancestral(schedule, times, eta=eta).close(ddim(schedule, times, eta=eta))


def test_eta_zero_is_the_deterministic_sampler():
    times = sigma_grid(VPLinear(), 6)
    assert euler_ancestral(VPLinear(), times, eta=0.0).close(edm_euler(VPLinear(), times))
    assert dpm2_ancestral(VPLinear(), times, eta=0.0).close(dpm2(VPLinear(), times))
    assert not dpm2_ancestral(VPLinear(), times, eta=0.0).stochastic


def test_dpm2_ancestral_at_eta_one_asks_at_the_times_of_the_grid():
    times = sigma_grid(VPLinear(), 6)
    asked = dpm2_ancestral(VPLinear(), times)
    np.testing.assert_allclose(asked.times[asked.evaluated][1::2], times[1:], rtol=1e-12)


@pytest.mark.parametrize("build", [euler_ancestral, dpm2_ancestral])
def test_at_its_limit_an_ancestral_step_keeps_the_variance_of_the_noise(build):
    # rho_down = 0: the step is the denoiser plus noise of the level of t, also where k-diffusion's DPM2 adds none
    times = sigma_grid(VPLinear(), 1)
    law = propagate(build(VPLinear(), times, eta=50.0), GAUSSIAN)
    sigma = float(VPLinear().sigma(times[-1]))
    np.testing.assert_allclose(law.channel().noise, sigma**2, rtol=1e-12)


# ---------------------------------------------------------------------- ends of the grid, axes, bad input


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", NAMED)
def test_grids_from_alpha_zero_to_sigma_zero_give_finite_tables(name, n):
    family = NAMED[name]
    table = family(FlowMatching(), np.linspace(1.0, 0.0, n + 1))
    assert table.nfe == (n if family.nfe == "n" else max(2 * n - 2, 1))
    x = np.random.default_rng(0).standard_normal((4, 1))
    stages = run(table, ExactModel(SIGMA_LAW, FlowMatching()), x, trajectory=True, seed=0)
    assert np.isfinite(stages).all()
    if n == 1:  # the denoiser at pure noise is the mean
        np.testing.assert_allclose(stages[-1], np.broadcast_to(SIGMA_LAW.mean(), x.shape), atol=1e-14)


def test_each_axis_of_a_per_axis_process_is_sampled_on_its_own():
    schedules, times = [VPLinear(), FlowMatching()], np.linspace(0.9, 0.05, 5)
    law = Gaussian([0.3, -0.4], [0.5, 2.0])
    rng = np.random.default_rng(3)
    x, normals = rng.standard_normal((6, 2)), rng.standard_normal((4, 6, 2))
    table = euler_ancestral(AffineProcess(schedules), times, eta=0.7)
    found = run(table, ExactModel(law, AffineProcess(schedules)), x, normals=normals)
    for j, schedule in enumerate(schedules):
        one = ExactModel(Gaussian(law.mean()[j : j + 1], law.cov()[j, j]), schedule)
        alone = run(euler_ancestral(schedule, times, eta=0.7), one, x[:, [j]], normals=normals[:, :, [j]])
        np.testing.assert_allclose(found[:, [j]], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("build", [dpm2, dpm2_ancestral])
def test_a_midpoint_refuses_a_process_for_each_axis(build):
    with pytest.raises(ValueError, match="same on all axes"):
        build(AffineProcess([VPLinear(), FlowMatching()]), [0.9, 0.5, 0.1])


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (euler_ancestral, {"eta": -0.1}, "eta"),
        (euler_ancestral, {"s_noise": -1.0}, "s_noise"),
        (dpm2_ancestral, {"eta": np.nan}, "eta"),
        (dpm2_ancestral, {"s_noise": np.inf}, "s_noise"),
        (dpm2, {"s_churn": -1.0}, "s_churn"),
        (dpm2, {"s_churn": 1.0}, "s_tmax must keep"),
    ],
)
def test_options_out_of_range_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(VPLinear(), [1.0, 0.5, 0.1], **options)
