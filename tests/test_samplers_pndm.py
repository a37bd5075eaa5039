"""PNDM, PLMS and iPNDM against the algorithms as diffusers and the papers run them on alpha_bar."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import flow_order, order_of, sampled_alone
from scipy.integrate import quad

from refdiff import ExactModel, Gaussian, GaussianMixture
from refdiff.processes import beta_table
from refdiff.samplers.adams import lms
from refdiff.samplers.conversions import butcher, to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.pndm import FAMILIES, ipndm, plms, pndm
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, VEPower, VPCosine, VPLinear
from refdiff.validation.numeric import extrapolate

LAW = GaussianMixture.isotropic([[-1.0, 0.3], [1.2, -0.4], [0.1, 0.9]], [0.09, 0.25, 0.16], [0.5, 0.2, 0.3])
TABLE = beta_table.linear(100, 1e-3, 0.1)
TIMES = np.arange(90.0, -1.0, -10.0)  # an even stride, so that half steps are indices; the end is clean


def alpha_bar(t):
    return 1.0 if t == 0 else float(TABLE.alpha_bar[round(t) - 1])


def transferred(x, e, s, t):
    """The transfer part in the form of the paper: x_t = sqrt(a_t / a_s) x - (a_t - a_s) / (...) e."""
    a, b = alpha_bar(s), alpha_bar(t)
    below = a * np.sqrt(1 - b) + np.sqrt(a * (1 - a) * b)
    return np.sqrt(b / a) * x - np.sqrt(a) * (b - a) / (np.sqrt(a) * below) * e


def multistep(past):
    weights = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    return sum(w * e for w, e in zip(weights[len(past)], past, strict=True))


def plain_pndm(model, x):
    """Three pseudo Runge-Kutta steps of four evaluations, then pseudo linear multistep steps."""
    past = []
    for i, (s, t) in enumerate(pairwise(TIMES)):
        e1 = model(x, s)
        past = [e1, *past][:4]
        if i < 3:
            m = (s + t) / 2
            e2 = model(transferred(x, e1, s, m), m)
            e3 = model(transferred(x, e2, s, m), m)
            e4 = model(transferred(x, e3, s, t), t)
            x = transferred(x, (e1 + 2 * e2 + 2 * e3 + e4) / 6, s, t)
        else:
            x = transferred(x, multistep(past), s, t)
    return x


def plain_plms(model, x, order=4):
    """Latent diffusion's: the first step is taken again with the mean of both ends' noise, which is not kept."""
    past = []
    for i, (s, t) in enumerate(pairwise(TIMES)):
        e = model(x, s)
        if i == 0:
            mean = (e + model(transferred(x, e, s, t), t)) / 2
            x, past = transferred(x, mean, s, t), [e]
        else:
            past = [e, *past][:order]
            x = transferred(x, multistep(past), s, t)
    return x


def plain_ipndm(model, x, order=4):
    past = []
    for s, t in pairwise(TIMES):
        past = [model(x, s), *past][:order]
        x = transferred(x, multistep(past), s, t)
    return x


def plain_variable(model, sigmas, x, order):
    """iPNDM-v in sigma, alpha = 1: the published weights for uneven steps, with their brackets where they belong."""
    past = []
    for i in range(len(sigmas) - 1):
        past = [model(x, sigmas[i]), *past][:order]
        h = sigmas[i + 1] - sigmas[i]
        weights = np.array([1.0])
        if len(past) > 1:
            h1 = sigmas[i] - sigmas[i - 1]
            weights = np.array([1 + h / h1 / 2, -h / h1 / 2])
        if len(past) > 2:
            h2 = sigmas[i - 1] - sigmas[i - 2]
            bend = (1 - h / (3 * (h + h1))) * h * (h + h1) / (h1 * (h1 + h2)) / 2
            weights = np.append(weights, 0.0) + bend * np.array([1, -(1 + h1 / h2), h1 / h2])
        x = x + h * sum(w * e for w, e in zip(weights, past, strict=True))
    return x


PLAIN = {
    "pndm": (pndm(TABLE, TIMES), plain_pndm),
    "plms": (plms(TABLE, TIMES), plain_plms),
    "s-pndm": (plms(TABLE, TIMES, order=2), lambda m, x: plain_plms(m, x, 2)),
    **{f"ipndm{k}": (ipndm(TABLE, TIMES, order=k), lambda m, x, k=k: plain_ipndm(m, x, k)) for k in (1, 2, 3, 4)},
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_tables_are_the_published_algorithms(name):
    table, plain = PLAIN[name]
    model = ExactModel(LAW, TABLE)
    x = model.sample(4, TIMES[0], 0)
    np.testing.assert_allclose(run(table, model, x), plain(model.noise, x), rtol=0, atol=1e-12)
    read = impulse_response(lambda m, y, _: plain(m, y), TABLE, prediction="noise")
    assert to_prediction(table, "noise").close(read, 1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_ipndm_v_has_the_published_weights(order):
    sigmas = np.array([8.0, 5.0, 3.5, 1.0, 0.7, 0.0])
    model = ExactModel(LAW, VEPower())
    x = model.sample(4, 8.0, 0)
    table = ipndm(VEPower(), sigmas, order=order, variable=True)
    plain = plain_variable(model.noise, sigmas, x, order)
    np.testing.assert_allclose(run(table, model, x), plain, rtol=0, atol=1e-12)
    read = impulse_response(lambda m, y, _: plain_variable(m, sigmas, y, order), VEPower(), prediction="noise")
    assert to_prediction(table, "noise").close(read, 1e-12)


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=6), st.integers(1, 4))
def test_ipndm_v_is_the_linear_multistep_method(steps, order):
    times = 0.9 * np.append(np.cumsum(steps[::-1])[::-1], 0.0) / sum(steps)
    # adams.py carries x/alpha by Lagrange integrals, here DDIM carries a mean
    table = lms(FlowMatching(), times, order=order)
    size = np.abs(table.unroll().outputs).max()
    assert ipndm(FlowMatching(), times, order=order, variable=True).difference(table) <= 1e-12 * (1 + size)


def test_equal_steps_of_rho_make_ipndm_the_linear_multistep_method():
    rho = np.linspace(3.0, 0.2, 8)
    times = VPLinear().time_of_log_snr(-np.log(rho))
    for order in (1, 2, 3, 4):
        assert ipndm(VPLinear(), times, order=order).close(lms(VPLinear(), times, order=order), 1e-11)


def order_in_rho(build, schedule, exact_steps=0):
    def grid(n):
        rho = np.linspace(0.5, 0.05, n + 1)
        return schedule.time_of_log_snr(-np.log(rho))

    return order_of(build, schedule, grid, counts=(32, 64, 128), exact_steps=exact_steps)


def test_equal_steps_of_rho_raise_the_order_as_far_as_the_start_allows():
    # EDM: rho = t, the classical Runge-Kutta and Adams-Bashforth methods
    assert order_in_rho(pndm, VEPower()) == pytest.approx(4, abs=0.1)
    assert order_in_rho(plms, VEPower()) == pytest.approx(3, abs=0.15)
    assert order_in_rho(ipndm, VEPower()) == pytest.approx(2, abs=0.1)
    # straight paths: rho = t / (1 - t), and the middle of t is not the middle of rho
    assert order_in_rho(pndm, FlowMatching()) == pytest.approx(3, abs=0.15)
    for build in (pndm, plms, ipndm):
        assert order_in_rho(build, FlowMatching(), 3) == pytest.approx(4, abs=0.1)


def test_order_on_a_mixture_is_two():
    for build in (pndm, plms, ipndm):
        found = flow_order(build, FlowMatching(), lambda n: np.linspace(0.5, 0.2, n + 1), counts=(32, 64, 128))
        assert found == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("build", [pndm, plms])
def test_in_equal_steps_of_time_the_transfer_leaves_the_covariance_of_noise_and_rate(build):
    # (exact - found) / h^2 -> (1/12) int eps'(t) rho''(t) Phi dt: the weights give the mean of eps in t, not under drho
    variance, first, last = 0.25, 0.6, 0.2
    law, straight = Gaussian([0.0], variance), FlowMatching()

    def rate(t):
        rho = t / (1 - t)
        noise_slope = variance / (variance + rho**2) ** 1.5 / (1 - t) ** 2  # d/dt of eps = rho / sqrt(v + rho^2)
        carried = np.sqrt((variance + (last / (1 - last)) ** 2) / (variance + rho**2))
        return noise_slope * 2 / (1 - t) ** 3 * carried / 12

    limit = quad(rate, first, last, epsabs=0, epsrel=1e-12)[0]
    ratios = []
    for count in (40, 80, 160, 320):
        times = np.linspace(first, last, count + 1)
        gain = np.ravel(propagate(build(straight, times), law).channel().gain)[0]
        start, end = (np.sqrt(variance + (t / (1 - t)) ** 2) for t in (first, last))
        ratios.append((end - gain * start * (1 - first) / (1 - last)) / (times[1] - times[0]) ** 2)
    assert extrapolate(ratios) == pytest.approx(limit, rel=1e-3)


def test_a_pseudo_runge_kutta_step_is_the_classical_one_where_rho_is_time():
    classical = butcher(pndm(VEPower(), [0.7, 0.4]))
    np.testing.assert_allclose(classical.A, [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]], atol=1e-13)
    np.testing.assert_allclose(classical.b, [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=1e-13)


def test_evaluations_are_those_of_the_starts():
    times = np.linspace(0.9, 0.1, 11)
    assert [build(VPLinear(), times).nfe for build in (pndm, plms, ipndm)] == [10 + 9, 10 + 1, 10]
    assert pndm(VPLinear(), times, order=2).nfe == 10 + 3
    assert pndm(VPLinear(), times, order=1).close(ddim(VPLinear(), times), 1e-14)
    assert plms(VPLinear(), times, order=1).close(ddim(VPLinear(), times), 1e-14)


@given(st.sampled_from(FAMILIES), st.integers(1, 5))
def test_tables_reach_from_pure_noise_to_clean_data(family, steps):
    for schedule in (VPCosine(), FlowMatching(), beta_table.scaled_linear(50).zero_terminal_snr()):
        times = np.linspace(schedule.T, 0.0, steps + 1)
        table = family(schedule, times)
        x = np.random.default_rng(0).standard_normal((4, 2))
        assert np.isfinite(run(table, ExactModel(LAW, schedule), x)).all()
        if steps == 1:
            assert table.close(ddim(schedule, times), 0.0)


def test_a_start_that_would_look_at_clean_data_uses_its_history():
    # two Runge-Kutta steps, and then the third would evaluate at sigma = 0
    table = pndm(FlowMatching(), [0.9, 0.6, 0.3, 0.0])
    assert table.nfe == 4 + 4 + 1
    assert plms(FlowMatching(), [0.9, 0.0]).close(ddim(FlowMatching(), [0.9, 0.0]), 0.0)


def test_axes_with_their_own_schedule_are_sampled_one_by_one():
    for family in FAMILIES:
        sampled_alone(family, (FlowMatching(), VPCosine()), [1.0, 0.8, 0.6, 0.5, 0.2])


@pytest.mark.parametrize("build", [pndm, plms, ipndm])
@pytest.mark.parametrize("order", [0, 5])
def test_orders_outside_one_to_four_are_refused(build, order):
    with pytest.raises(ValueError, match=r"order must be in 1\.\.4"):
        build(VPLinear(), [0.9, 0.1], order=order)
