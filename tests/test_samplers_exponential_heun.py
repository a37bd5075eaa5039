"""Heun in lambda, plain and exponential, against the equations on numbers."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import flow_order, in_log_snr

from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.edm import edm_heun
from refdiff.samplers.exponential_heun import FAMILIES, exponential_heun
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_log_snr
from refdiff.schedules import FlowMatching, Transformed, VEPower, VPLinear

MIXTURE = GaussianMixture.isotropic([[-1.0], [0.8]], [0.25, 0.36], [0.4, 0.6])
SCHEDULES = [VEPower(T=100.0), VPLinear(), FlowMatching()]
ENDS = {VEPower: (60.0, 0.02), VPLinear: (0.9, 0.02), FlowMatching: (0.98, 0.02)}
NAMED = {**{family.name: family for family in FAMILIES}, "velocity": partial(exponential_heun, prediction="velocity")}
LINEAR = {"noise": 1.0, "score": 1.0, "denoiser": 1.0, "velocity": 0.0}


def grid(schedule, n):
    start, end = ENDS[type(schedule)]
    return uniform_log_snr(schedule, n, start=start, end=end)


def plain(model, x, times, schedule, prediction):
    """(9.4.13) and (9.4.14) in the words of the text: L, N and the integral of L, with c_1 and c_2 spelled out."""

    def force(x, t):
        c, p = schedule.coefficients(t), model(x, t)
        rate = schedule.dlog_snr(t)
        return {"noise": -c.sigma * p, "score": c.sigma**2 * p, "denoiser": c.alpha * p, "velocity": p / rate}[
            prediction
        ]

    def integral(s, t):
        a, b = schedule.coefficients(s), schedule.coefficients(t)
        if prediction == "velocity":
            return 0.0
        return float(np.log(b.sigma / a.sigma) if prediction == "denoiser" else np.log(b.alpha / a.alpha))

    for s, t in pairwise(times):
        h, e = float(schedule.log_snr(t) - schedule.log_snr(s)), integral(s, t)
        # e^E - 1 - E loses all digits for a small E
        c1 = 1.0 if e == 0 else np.expm1(e) / e
        c2 = sum(e**k / np.prod(np.arange(1.0, k + 3)) for k in range(30)) if abs(e) < 2 else (np.expm1(e) - e) / e**2
        first = force(x, s)
        guess = np.exp(e) * x + h * c1 * first
        x = guess + h * c2 * (force(guess, t) - first)
    return x


@pytest.mark.parametrize("prediction", LINEAR)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_map_is_the_plain_algorithm(schedule, prediction):
    times, model = grid(schedule, 20), ExactModel(MIXTURE, schedule)
    x = model.sample(6, times[0], 0)
    table = exponential_heun(schedule, times, prediction=prediction)
    expected = plain(lambda x, t: model.predict(x, t, prediction), x, times, schedule, prediction)
    stages = run(table, model, x, trajectory=True)
    assert np.abs(stages[-1] - expected).max() < 1e-13 * np.abs(stages).max()


@pytest.mark.parametrize("prediction", LINEAR)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_impulses_through_the_plain_algorithm_read_the_table(schedule, prediction):
    times = grid(schedule, 5)
    found = impulse_response(
        lambda model, x, normal: plain(model, x, times, schedule, prediction),
        schedule,
        prediction=prediction,
        start_time=times[0],
        end_time=times[-1],
    )
    assert found.difference(exponential_heun(schedule, times, prediction=prediction)) < 1e-12


# ---------------------------------------------------------------------- orders


@pytest.mark.parametrize("name", NAMED)
def test_the_order_is_measured_on_a_mixture(name):
    law = GaussianMixture.isotropic([[-1.0], [1.0]], [0.09, 0.09], [0.4, 0.6])
    found = flow_order(NAMED[name], VPLinear(), in_log_snr(VPLinear(), 0.5, 0.2), law=law, counts=(32, 64, 128))
    assert abs(found - 2) < 0.1


# ---------------------------------------------------------------------- what they are


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_score_is_the_noise_in_other_words(schedule):
    times = grid(schedule, 4)
    noise = exponential_heun(schedule, times, prediction="noise")
    assert to_prediction(exponential_heun(schedule, times, prediction="score"), "noise").close(noise)


def test_without_a_linear_part_exponential_heun_is_plain_heun():
    # alpha = 1: the noise form has L = 0
    schedule = VEPower(T=100.0)
    times = grid(schedule, 4)
    heun = runge_kutta(schedule, times, method="heun", clock="log_snr")
    assert to_prediction(heun, "noise").close(exponential_heun(schedule, times))
    for schedule in SCHEDULES:
        times = grid(schedule, 4)
        heun = runge_kutta(schedule, times, method="heun", clock="log_snr")
        assert heun.difference(exponential_heun(schedule, times, prediction="velocity")) < 1e-13


@given(st.floats(0.3, 3.0))
def test_plain_heun_in_lambda_does_not_depend_on_the_speed_of_time(power):
    # the same alpha and sigma at other times: only the rate of lambda changes, which the table must take out
    slow = VPLinear()
    fast = Transformed(slow, lambda u: (u**power, power * u ** (power - 1), power * (power - 1) * u ** (power - 2)))
    times = grid(slow, 3)
    one, two = NAMED["velocity"](slow, times), NAMED["velocity"](fast, times ** (1 / power))
    one, two = (to_prediction(table, "noise").unroll() for table in (one, two))
    np.testing.assert_allclose(one.outputs, two.outputs, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(one.start, two.start, rtol=1e-11)


def test_none_of_the_forms_is_another():
    times = grid(VPLinear(), 3)
    tables = [to_prediction(exponential_heun(VPLinear(), times, prediction=p), "noise") for p in LINEAR if p != "score"]
    tables.append(to_prediction(edm_heun(VPLinear(), times), "noise"))
    gaps = [a.difference(b) for i, a in enumerate(tables) for b in tables[:i]]
    assert min(gaps) > 1e-3


# ---------------------------------------------------------------------- axes, bad input


@pytest.mark.parametrize("name", NAMED)
def test_each_axis_of_a_per_axis_process_is_sampled_on_its_own(name):
    schedules, times = [VPLinear(), FlowMatching()], np.linspace(0.9, 0.05, 5)
    law = Gaussian([0.3, -0.4], [0.5, 2.0])
    x = np.random.default_rng(3).standard_normal((6, 2))
    found = run(NAMED[name](AffineProcess(schedules), times), ExactModel(law, AffineProcess(schedules)), x)
    for j, schedule in enumerate(schedules):
        one = ExactModel(Gaussian(law.mean()[j : j + 1], law.cov()[j, j]), schedule)
        alone = run(NAMED[name](schedule, times), one, x[:, [j]])
        np.testing.assert_allclose(found[:, [j]], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("times", [[1.0, 0.5], [0.5, 0.0], [1.0, 0.0]])
def test_a_grid_that_reaches_an_infinite_lambda_is_refused(name, times):
    with pytest.raises(ValueError, match=r"times must .* steps in lambda are finite"):
        NAMED[name](FlowMatching(), times)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="prediction must be one of noise, score, denoiser, velocity"):
        exponential_heun(VPLinear(), [0.9, 0.5], prediction="v_prediction")
