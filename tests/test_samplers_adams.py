"""Adams-Bashforth against algorithms on numbers, their weights from moment equations or k-diffusion's integral."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import flow_order, sampled_alone
from scipy.integrate import quad
from scipy.special import expit

from refdiff import AffineProcess, ExactModel, Gaussian, GaussianMixture
from refdiff.processes import BetaTable, beta_table
from refdiff.samplers.adams import FAMILIES, adams_bashforth, lms
from refdiff.samplers.clocks import CLOCKS
from refdiff.samplers.conversions import butcher, to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.order import measure_order
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, VEPower, VPCosine, VPLinear

LAW = GaussianMixture.isotropic([[-1.0, 0.3], [1.2, -0.4], [0.1, 0.9]], [0.09, 0.25, 0.16], [0.5, 0.2, 0.3])


def moment_weights(nodes, end):
    """w with sum w_j (c_j - c_0)^m = (c_end - c_0)^(m+1) / (m+1) for m < k: no Lagrange polynomial is formed."""
    h = end - nodes[0]
    places = (np.array(nodes) - nodes[0]) / h
    powers = np.arange(len(nodes))
    return h * np.linalg.solve(places[None, :] ** powers[:, None], 1 / (powers + 1))


# value, slope in time, and the scale r of z = x / r with r' / r, from log_snr and its closed derivative
PLAIN_CLOCKS = {
    "t": lambda s, t: (t, 1.0, 1.0, 0.0),
    "log_snr": lambda s, t: (s.log_snr(t), s.dlog_snr(t), 1.0, 0.0),
    "rho": lambda s, t: (np.exp(-s.log_snr(t)), -np.exp(-s.log_snr(t)) * s.dlog_snr(t), s.alpha(t),
                         s.dalpha(t) / s.alpha(t)),
    "1/rho": lambda s, t: (np.exp(s.log_snr(t)), np.exp(s.log_snr(t)) * s.dlog_snr(t), s.sigma(t),
                           s.dsigma(t) / s.sigma(t)),
    "ratio": lambda s, t: (expit(-s.log_snr(t)), -expit(s.log_snr(t)) * expit(-s.log_snr(t)) * s.dlog_snr(t),
                           s.alpha(t) + s.sigma(t), (s.dalpha(t) + s.dsigma(t)) / (s.alpha(t) + s.sigma(t))),
    "angle": lambda s, t: (np.arctan(s.sigma(t) / s.alpha(t)), -0.5 * np.sin(2 * np.arctan(s.sigma(t) / s.alpha(t)))
                           * s.dlog_snr(t), np.hypot(s.alpha(t), s.sigma(t)),
                           (s.alpha(t) * s.dalpha(t) + s.sigma(t) * s.dsigma(t)) / (s.alpha(t)**2 + s.sigma(t)**2)),
}  # fmt: skip


def plain_adams(model, schedule, x, times, order, clock):
    """z' = F in the clock: chain rule on the velocity of x, z = x / r."""
    past = []
    for s, t in pairwise(times):
        c = schedule.coefficients(s)
        value, slope, r, growth = PLAIN_CLOCKS[clock](schedule, s)
        velocity = c.dalpha * model(x, s) + c.dsigma * (x - c.alpha * model(x, s)) / c.sigma
        past = [(value, (velocity - x * growth) / r / slope), *past][:order]
        end, _, after, _ = PLAIN_CLOCKS[clock](schedule, t)
        weights = moment_weights([node for node, _ in past], end)
        x = after * (x / r + sum(w * rate for w, (_, rate) in zip(weights, past, strict=True)))
    return x


def plain_lms(model, x, sigmas, order=4):
    """The linear multistep sampler of k-diffusion: d = (x - D) / sigma, weights by adaptive quadrature in sigma."""
    past = []
    for i in range(len(sigmas) - 1):
        past = [*past, (x - model(x, sigmas[i])) / sigmas[i]][-order:]
        used = min(i + 1, order)

        def basis(tau, j, i=i, used=used):
            others = [k for k in range(used) if k != j]
            return np.prod([(tau - sigmas[i - k]) / (sigmas[i - j] - sigmas[i - k]) for k in others])

        weights = [quad(basis, sigmas[i], sigmas[i + 1], args=(j,), epsabs=0, epsrel=1e-13)[0] for j in range(used)]
        x = x + sum(w * d for w, d in zip(weights, past[::-1], strict=True))
    return x


def karras(n, low=0.05, high=8.0, power=7):
    return np.append((np.linspace(high ** (1 / power), low ** (1 / power), n)) ** power, 0.0)


@pytest.mark.parametrize("clock", list(CLOCKS))
def test_adams_bashforth_is_the_chain_rule_with_moment_weights(clock):
    schedule, times = VPLinear(), np.array([0.9, 0.8, 0.55, 0.5, 0.31, 0.2, 0.12])
    x = ExactModel(LAW, schedule).sample(5, times[0], 0)

    def denoiser(y, t):
        return ExactModel(LAW, schedule).denoiser(y, t)

    for order in (1, 2, 3, 4):
        table = adams_bashforth(schedule, times, order=order, clock=clock)
        plain = plain_adams(denoiser, schedule, x, times, order, clock)
        np.testing.assert_allclose(run(table, denoiser, x), plain, rtol=0, atol=2e-12 * np.abs(plain).max())
        read = impulse_response(
            lambda model, y, _, order=order: plain_adams(one_answer(model), schedule, y, times, order, clock),
            schedule,
            end_time=times[-1],
        )
        assert table.close(read, 1e-11), (order, table.difference(read))


def one_answer(model):
    """A model that is called once where an algorithm writes its answer twice."""
    known = {}

    def ask(x, t):
        if t not in known:
            known[t] = model(x, t)
        return known[t]

    return ask


def test_lms_is_the_sampler_of_k_diffusion():
    model, sigmas = ExactModel(LAW, VEPower()), karras(9)
    x = model.sample(6, sigmas[0], 1)
    for order in (1, 2, 3, 4, 5):
        table, plain = lms(VEPower(), sigmas, order=order), plain_lms(model.denoiser, x, sigmas, order)
        np.testing.assert_allclose(run(table, model, x), plain, rtol=0, atol=1e-12)
        read = impulse_response(lambda m, y, _, order=order: plain_lms(m, y, sigmas, order), VEPower())
        assert table.close(read, 1e-12)


@given(st.lists(st.floats(0.02, 1.0), min_size=2, max_size=7), st.integers(1, 5))
def test_a_step_integrates_polynomials_of_degree_below_its_order(steps, order):
    times = np.append(np.cumsum(steps[::-1])[::-1], 0.0) / (1.1 * sum(steps))
    table = to_prediction(adams_bashforth(FlowMatching(), times, order=order), "velocity")
    for degree in range(min(order, len(times) - 1)):
        path = run(table, lambda x, t, m=degree: np.full_like(x, t**m), [[0.3]], trajectory=True)[:, 0, 0]
        exact = (times[-1] ** (degree + 1) - times[-2] ** (degree + 1)) / (degree + 1)
        # Lagrange polynomials of uneven nodes are as large as their weights
        assert path[-1] - path[-2] == pytest.approx(exact, abs=1e-13 * (1 + np.abs(table.outputs[-1]).sum()))


def test_equal_steps_give_the_textbook_weights():
    textbook = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
                5: [1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720]}  # fmt: skip
    for order, weights in textbook.items():
        table = to_prediction(adams_bashforth(FlowMatching(), np.linspace(0.9, 0.2, 8), order=order), "velocity")
        np.testing.assert_allclose(table.outputs[-1][:order], -0.1 * np.array(weights), rtol=0, atol=1e-13)


def test_order_one_is_ddim_where_the_flow_has_no_linear_part():
    times = [0.9, 0.6, 0.5, 0.1]
    for schedule in (VPLinear(), FlowMatching(), VPCosine()):
        assert lms(schedule, times, order=1).close(ddim(schedule, times), 1e-13)
    # straight paths and rotations: also in x
    assert adams_bashforth(FlowMatching(), times, order=1, clock="t").close(ddim(FlowMatching(), times), 1e-13)
    assert not adams_bashforth(VPLinear(), times, order=1, clock="t").close(ddim(VPLinear(), times), 1e-3)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_local_order_is_one_above_the_global_one(order):
    # not to t = 0.2, where the variance of the flow is least and the third derivative of x vanishes
    found = measure_order(
        lambda t: adams_bashforth(FlowMatching(), t, order=order),
        Gaussian([0.7], 0.25),
        FlowMatching(),
        lambda n: np.linspace(0.6, 0.3, n + 1),
        kind="local",
        counts=(16, 32, 64),
        floor=1e-13,
    )
    assert found.order == pytest.approx(order + 1, abs=0.1)


def test_orders_on_a_mixture():
    # ramp: 2, whatever the order; a Runge-Kutta start keeps the order
    for start, order, expected in (("ramp", 2, 2), ("ramp", 4, 2), ("runge-kutta", 3, 3), ("runge-kutta", 4, 4)):
        build = partial(adams_bashforth, order=order, start=start)
        found = flow_order(build, FlowMatching(), lambda n: np.linspace(0.5, 0.2, n + 1), counts=(32, 64, 128))
        assert found == pytest.approx(expected, abs=0.1)


@given(st.sampled_from(FAMILIES), st.integers(1, 5))
@settings(max_examples=20)
def test_tables_reach_from_pure_noise_to_clean_data(family, steps):
    for schedule in (VPCosine(), FlowMatching(), VEPower(), beta_table.scaled_linear(50).zero_terminal_snr()):
        times = np.linspace(schedule.T, 0.0, steps + 1)
        x = np.random.default_rng(0).standard_normal((4, 2)) * schedule.sigma(schedule.T)
        assert np.isfinite(run(family(schedule, times), ExactModel(LAW, schedule), x)).all()


def test_steps_with_an_infinite_end_are_ddim():
    ends = np.array([1.0, 0.5, 0.0])
    assert lms(FlowMatching(), ends[:2]).close(ddim(FlowMatching(), ends[:2]), 0.0)
    assert adams_bashforth(FlowMatching(), ends[1:], clock="log_snr").close(ddim(FlowMatching(), ends[1:]), 0.0)
    # the node at rho = infinity takes no part: the second step of LMS is of order 1 as well
    assert lms(FlowMatching(), ends).close(ddim(FlowMatching(), ends), 1e-15)


def test_where_the_process_jumps_the_step_is_ddim():
    # alpha = 0 from index 49 on, and an infinite rate at 49 itself
    table, grid = BetaTable(np.append(np.linspace(1e-4, 0.2, 49), 1.0)), [50.0, 49.0, 30.0, 10.0]
    for clock in sorted(set(CLOCKS) - {"angle"}):  # a rotation is no velocity in t: the angle has its own Euler step
        found = adams_bashforth(table, grid, clock=clock)
        np.testing.assert_allclose(found.outputs[1, 0], ddim(table, grid).outputs[1, 0], rtol=1e-13)
    in_time = adams_bashforth(table, grid, order=1)
    np.testing.assert_allclose(in_time.outputs[2, 0], ddim(table, grid).outputs[2, 0], rtol=1e-13)


def test_axes_with_their_own_schedule_are_sampled_one_by_one():
    for clock in CLOCKS:
        sampled_alone(
            partial(adams_bashforth, order=3, clock=clock), (FlowMatching(), VPCosine()), [0.9, 0.7, 0.6, 0.2]
        )


def test_the_runge_kutta_start_is_the_classical_method():
    classical = butcher(lms(FlowMatching(), [0.7, 0.4], start="runge-kutta"), "x/alpha")
    np.testing.assert_allclose(classical.b, [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=1e-14)
    np.testing.assert_allclose(classical.c, [0, 1 / 2, 1 / 2, 1], atol=1e-14)
    np.testing.assert_allclose(classical.A[1:].sum(axis=1), classical.c[1:], atol=1e-14)
    assert lms(FlowMatching(), np.linspace(0.8, 0.1, 9), start="runge-kutta").nfe == 8 + 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, "order"),
        ({"clock": "s"}, "clock"),
        ({"start": "exact"}, "start"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"{message} must be"):
        adams_bashforth(VPLinear(), [0.9, 0.1], **options)


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match="decrease"):
        lms(VPLinear(), [0.1, 0.9])
    with pytest.raises(ValueError, match="same on all axes"):
        adams_bashforth(AffineProcess([FlowMatching(), VPCosine()]), [0.9, 0.1], clock="rho", start="runge-kutta")
