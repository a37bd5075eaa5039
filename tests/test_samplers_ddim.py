"""DDIM and its relatives against the papers' algorithm boxes, written here on numbers."""

from functools import partial
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import GAUSSIAN, against, flow_order

from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, beta_table
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import FAMILIES, ddim, ddim_inversion, gddim
from refdiff.samplers.extended import ExtendedProcess
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.order import measure_order
from refdiff.samplers.propagation import propagate
from refdiff.samplers.times import uniform, uniform_log_snr
from refdiff.schedules import FlowMatching, SubVP, VEPower, VPCosine, VPLinear

MIXTURE = GaussianMixture.isotropic([[-1.0], [0.8]], [0.09, 0.25], [0.3, 0.7])
COUNTS = (16, 32, 64)
SCHEDULES = [VPLinear(), FlowMatching(), VEPower(T=80.0), VPCosine(), SubVP()]
TABLE = beta_table.linear()
INDICES = np.array([1000.0, 777, 500, 201, 40, 3, 0])


def middle(process, steps):
    return uniform_log_snr(process, steps, start=0.98 * process.T, end=0.02 * process.T)


# ---------------------------------------------------------------------- the algorithm boxes


def song(eta, table=TABLE, indices=INDICES):
    """Song, Meng and Ermon 2021, equations (12) and (16), on a table of alpha_bar."""
    alpha_bar = np.append(1.0, np.cumprod(1 - table.betas))

    def sampler(model, x, normal):
        for now, later in pairwise(indices.astype(int)):
            a, b = alpha_bar[now], alpha_bar[later]
            eps = model(x, float(now))
            std = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
            clean = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
            x = np.sqrt(b) * clean + np.sqrt(max(1 - b - std**2, 0)) * eps
            if std > 0:
                x = x + std * normal()
        return x

    return sampler


def zhang(k, table=TABLE, indices=INDICES):
    """Zhang, Tao and Chen 2022, theorem 1: alpha is alpha_bar and their lambda is k."""
    alpha = np.append(1.0, np.cumprod(1 - table.betas))

    def sampler(model, x, normal):
        for now, later in pairwise(indices.astype(int)):
            a, b = alpha[now], alpha[later]
            variance = (1 - b) * (1 - ((1 - b) / (1 - a)) ** (k * k) * (a / b) ** (k * k))
            eps = model(x, float(now))
            x = np.sqrt(b / a) * x + (np.sqrt(1 - b - variance) - np.sqrt(b / a) * np.sqrt(1 - a)) * eps
            if variance > 0:
                x = x + np.sqrt(variance) * normal()
        return x

    return sampler


def lu(schedule, times):
    """SDE-DPM-Solver-1 of Lu et al. 2022, for a predicted noise."""

    def sampler(model, x, normal):
        for s, t in pairwise(times):
            a, b = schedule.coefficients(s), schedule.coefficients(t)
            h = b.log_snr - a.log_snr
            eps = model(x, s)
            x = b.alpha / a.alpha * x - 2 * b.sigma * (np.exp(h) - 1) * eps
            x = x + b.sigma * np.sqrt(np.exp(2 * h) - 1) * normal()
        return x

    return sampler


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_the_box_of_song(eta):
    tableau = to_prediction(ddim(TABLE, INDICES, eta=eta), "noise")
    against(song(eta), tableau, ExactModel(MIXTURE, TABLE), count=7, rtol=0, atol=2e-13)
    read = impulse_response(song(eta), TABLE, prediction="noise")
    # 1 - alpha_bar by subtraction at t = 3 loses four digits in the box
    assert tableau.difference(read) < 1e-12


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 2.0])
def test_gddim_is_the_box_of_zhang(k):
    tableau = to_prediction(gddim(TABLE, INDICES, stochasticity=k), "noise")
    against(zhang(k), tableau, ExactModel(MIXTURE, TABLE), count=7, rtol=0, atol=2e-13)
    assert tableau.difference(impulse_response(zhang(k), TABLE, prediction="noise")) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_frozen_noise_is_the_box_of_lu(schedule):
    times = uniform_log_snr(schedule, 7, start=0.8 * schedule.T, end=0.1 * schedule.T)
    tableau = to_prediction(gddim(schedule, times, frozen="noise"), "noise")
    against(lu(schedule, times), tableau, ExactModel(MIXTURE, schedule), count=7, rtol=1e-11, atol=1e-11)
    read = impulse_response(lu(schedule, times), schedule, prediction="noise", end_time=times[-1])
    assert tableau.difference(read) < 1e-12


# ---------------------------------------------------------------------- orders


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_tables_in_many_digits(family):
    schedule = FlowMatching()
    with mpmath.workdps(30):
        few, many = (
            measure_order(partial(family, process), GAUSSIAN, process, lambda n: middle(schedule, n), counts=(8, 16))
            for process in (schedule, ExtendedProcess(schedule))
        )
    np.testing.assert_allclose(few.errors, np.array(many.errors, dtype=float), rtol=1e-12)


def test_second_order_locally():
    schedule = VPLinear()
    found = measure_order(
        partial(ddim, schedule), GAUSSIAN, schedule, lambda n: middle(schedule, n), kind="local", counts=COUNTS
    )
    assert found.order == pytest.approx(2, abs=0.1)


def test_first_order_on_a_mixture():
    schedule = VPLinear()
    assert flow_order(ddim, schedule, partial(middle, schedule), law=MIXTURE, counts=(20, 40, 80)) == pytest.approx(
        1, abs=0.1
    )


def test_frozen_noise_loses_its_first_order_error_on_gaussian_data():
    schedule = FlowMatching()
    wide = measure_order(
        partial(gddim, schedule, frozen="noise"),
        GAUSSIAN,
        schedule,
        lambda n: uniform_log_snr(schedule, n, start=1 - 1e-6, end=1e-6),
        counts=(128, 256, 512),
    )
    assert wide.order == pytest.approx(2, abs=0.1)
    half = measure_order(
        partial(gddim, schedule, frozen="noise", stochasticity=0.5),
        GAUSSIAN,
        schedule,
        lambda n: middle(schedule, n),
        counts=(256, 512, 1024),
    )
    assert half.order == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("variance", "steps", "deterministic", "ancestral"),
    [
        (0.25, 10, 0.138872, 0.111972),
        (0.25, 50, 0.222999, 0.197445),
        (1.0, 10, 0.690298, 0.548657),
        (1.0, 50, 0.929185, 0.857512),
        (4.0, 10, 2.95659, 2.38818),
        (4.0, 50, 3.76611, 3.55444),
    ],
)
def test_final_variances_of_gaussian_data(variance, steps, deterministic, ancestral):
    # the reference table of TOPA-38: Su's betas on rounded equal strides
    table, times = beta_table.su(), np.round(np.linspace(0, 1000, steps + 1))[::-1]
    for eta, expected in ((0.0, deterministic), (1.0, ancestral)):
        found = propagate(ddim(table, times, eta=eta), Gaussian([0.0], variance)).output.cov()
        assert found.item() == pytest.approx(expected, rel=5e-6)


# ---------------------------------------------------------------------- limits


@given(st.floats(0, 1), st.integers(1, 6), st.sampled_from(SCHEDULES))
def test_every_noise_keeps_the_marginals_of_one_point(share, steps, schedule):
    times = uniform(schedule, steps, end=0.01 * schedule.T)
    sigma = schedule.sigma(times[1:])
    found = propagate(ddim(schedule, times, noise=share * sigma), Gaussian([1.3], 0.0))
    np.testing.assert_allclose(found.output.mean(), 1.3 * schedule.alpha(times[-1]), atol=1e-12)
    np.testing.assert_allclose(found.output.cov(), [[sigma[-1] ** 2]], rtol=1e-12)


def test_the_choices_of_noise_meet():
    schedule, times = VPCosine(), uniform(VPCosine(), 5)
    assert gddim(schedule, times).difference(ddim(schedule, times, eta=1)) < 1e-14
    assert gddim(schedule, times, stochasticity=0).difference(ddim(schedule, times)) == 0
    endless = gddim(schedule, times, stochasticity=100)
    assert endless.difference(ddim(schedule, times, noise=schedule.sigma(times[1:]))) < 1e-14
    middle_times = middle(schedule, 5)
    assert (
        gddim(schedule, middle_times, stochasticity=0, frozen="noise").difference(ddim(schedule, middle_times)) < 1e-13
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_both_ends_of_time_are_ordinary(family, steps):
    for schedule in (FlowMatching(), VPCosine()):
        tableau = family(schedule, uniform(schedule, steps))
        assert all(np.isfinite(part).all() for part in (tableau.states, tableau.outputs, tableau.noise))
        # the last step is the denoiser itself
        assert [w for _, w in tableau.row(steps)[1]] == [1.0]
        assert not tableau.row(steps)[0]


def test_every_axis_has_its_own_process():
    schedules = [VPLinear(), FlowMatching(), VPCosine()]
    process, times = AffineProcess(schedules), np.array([0.9, 0.6, 0.3, 0.1])
    tables = [
        lambda p: ddim(p, times, eta=0.7),
        lambda p: gddim(p, times, stochasticity=1.5),
        lambda p: gddim(p, times, frozen="noise"),
        lambda p: ddim_inversion(p, times[::-1]),
    ]
    for build in tables:
        whole = build(process).unroll()
        for j, schedule in enumerate(schedules):
            alone = build(schedule).unroll()
            np.testing.assert_allclose(whole.outputs[..., j], alone.outputs, rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(whole.noise[..., j], alone.noise, rtol=1e-13, atol=1e-15)


def test_a_noise_for_each_axis_is_used_on_its_axis():
    process, times = AffineProcess([VPLinear(), FlowMatching()]), [0.9, 0.5, 0.2]
    noise = np.array([[0.1, 0.3], [0.05, 0.0]])
    whole = ddim(process, times, noise=noise)
    for j, schedule in enumerate(process.schedules):
        alone = ddim(schedule, times, noise=noise[:, j])
        np.testing.assert_allclose(whole.outputs[..., j], alone.outputs, rtol=1e-13)
        np.testing.assert_array_equal(whole.noise[1:, 0, j], noise[:, j])


# ---------------------------------------------------------------------- the ends of eta


def test_more_noise_than_the_posteriors_leaves_a_step_to_clean_data_as_it_is():
    table = ddim(VPLinear(), [0.5, 0.45, 0.4, 0.0], eta=1.1)
    assert table.outputs[-1, 0] == 1
    assert not table.noise[-1].any()
    with pytest.raises(ValueError, match="eta must leave"):
        ddim(VPLinear(), [0.5, 0.0001], eta=1.1)


@given(st.floats(-4, 4), st.floats(-14, 0))
def test_an_eta_that_asks_for_all_of_sigma_is_taken_in_spite_of_rounding(lam, log_step):
    process = VPLinear()
    s, t = (float(process.time_of_log_snr(value)) for value in (lam, lam + np.exp(log_step)))
    a, b = process.coefficients(s), process.coefficients(t)
    eta = 1 / np.sqrt(1 - (a.alpha * b.sigma / (b.alpha * a.sigma)) ** 2)
    found = ddim(process, [s, t], eta=eta)
    assert found.noise[-1, 0] == pytest.approx(b.sigma, rel=1e-6)
    with pytest.raises(ValueError, match="eta must leave"):
        ddim(process, [s, t], eta=eta * 1.001)


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 2.0])
def test_a_frozen_noise_moves_x_over_alpha_by_its_share_of_the_step_in_rho(k):
    process, (s, t) = FlowMatching(), (0.8, 0.3)
    table = to_prediction(gddim(process, [s, t], stochasticity=k, frozen="noise"), "noise")
    rho = [process.sigma(u) / process.alpha(u) for u in (s, t)]
    assert table.states[-1, 0] == pytest.approx(process.alpha(t) / process.alpha(s), rel=1e-14)
    assert table.outputs[-1, 0] == pytest.approx((1 + k**2) * (rho[1] - rho[0]) * process.alpha(t), rel=1e-13)
    if k:
        assert table.noise[-1, 0] == pytest.approx(k * process.alpha(t) * np.sqrt(rho[0] ** 2 - rho[1] ** 2), rel=1e-13)


def test_a_stochasticity_whose_square_vanishes_is_ddim():
    times = [1.0, 0.5, 0.0]
    assert gddim(FlowMatching(), times, stochasticity=1e-170).difference(ddim(FlowMatching(), times)) == 0


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ddim(VPLinear(), [1, 0.5], eta=-1), "eta must"),
        (lambda: ddim(VPLinear(), [1, 0.5], eta=np.nan), "eta must"),
        (lambda: ddim(VPLinear(), [1, 0.5], eta=5), "eta must leave .* got 5.0 in the step from 1.0 to 0.5"),
        (lambda: ddim(VPLinear(), [1, 0.5], noise=-0.1), "noise must not be negative"),
        (lambda: ddim(VPLinear(), [1, 0.5, 0], noise=0.1), "noise must be at most sigma_t, 0.0 at t = 0.0, got 0.1"),
        (
            lambda: ddim(VPLinear(), [1, 0.5, 0], noise=[0.1, 0, 0]),
            "noise must be one number or one entry for each of 2",
        ),
        (lambda: ddim(VPLinear(), [1, 0.5], noise=0.1, eta=1), "exclude each other"),
        (lambda: ddim(VPLinear(), [0.5, 1]), "times must decrease"),
        (lambda: gddim(VPLinear(), [1, 0.5], stochasticity=-1), "stochasticity must"),
        (lambda: gddim(VPLinear(), [1, 0.5], frozen="score"), "frozen must be one of denoiser, noise"),
        (lambda: gddim(FlowMatching(), [1, 0.5], frozen="noise"), "alpha > 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
