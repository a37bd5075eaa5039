"""Samplers of reverse equations with a score, against the algorithms of their papers written out on numbers."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import against, flow_order, order_of
from scipy.integrate import quad

from refdiff import ExactModel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.processes import AffineProcess
from refdiff.samplers.frozen_scores import of_schedule
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.propagation import propagate
from refdiff.samplers.reverse_sde import (
    FAMILIES,
    ancestral,
    euler_maruyama,
    exponential_euler_maruyama,
    reverse_diffusion,
    stochastic_runge_kutta,
)
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform
from refdiff.schedules import FlowMatching, FunctionSchedule, SubVP, VEGeometric, VEPower, VPCosine, VPLinear

SCHEDULES = {"vp": VPLinear(), "ve": VEGeometric(0.05, 20.0), "flow": FlowMatching(), "sub-vp": SubVP()}
MIXTURE = GaussianMixture.isotropic([[-1.5], [1.0]], [0.04, 0.2], [0.4, 0.6])


def grid(schedule, n=7):
    return np.linspace(0.9, 0.1, n + 1) * schedule.T


def plain_euler_maruyama(schedule, times, k=1.0):
    def sample(model, x, normal):
        for s, t in pairwise(times):
            f, g2 = schedule.f(s), schedule.g2(s)
            x = x - (s - t) * (f * x - 0.5 * (1 + k * k) * g2 * model(x, s))
            if k:
                x = x + k * np.sqrt(g2 * (s - t)) * normal()
        return x

    return sample


def plain_reverse_diffusion(schedule, times, k=1.0):
    """rev_f = f_i(x) - G^2 s (half of it for the flow), x - rev_f + G z, with f_i and G of the forward step."""

    def sample(model, x, normal):
        for s, t in pairwise(times):
            a = schedule.alpha(s) / schedule.alpha(t)
            variance = schedule.sigma(s) ** 2 - a**2 * schedule.sigma(t) ** 2
            rev_f = (a - 1) * x - variance * model(x, s) * (1.0 if k else 0.5)
            x = x - rev_f
            if k:
                x = x + np.sqrt(variance) * normal()
        return x

    return sample


def plain_ancestral(schedule, times, large=False):
    """DDPM's posterior of x_0 = (x + sigma^2 s) / alpha."""

    def sample(model, x, normal):
        for s, t in pairwise(times):
            (a_s, v_s), (a_t, v_t) = ((schedule.alpha(u), schedule.sigma(u) ** 2) for u in (s, t))
            a = a_s / a_t
            step = v_s - a**2 * v_t
            clean = (x + v_s * model(x, s)) / a_s
            x = a_t * step / v_s * clean + a * v_t / v_s * x + np.sqrt(step if large else step * v_t / v_s) * normal()
        return x

    return sample


def plain_exponential(schedule, times, k=1.0):
    """Quadrature in time of the pull, and of the noise's variance."""

    def sample(model, x, normal):
        for s, t in pairwise(times):
            a_t = schedule.alpha(t)
            pull = quad(lambda u, a=a_t: a / schedule.alpha(u) * schedule.g2(u), t, s, epsabs=0, epsrel=1e-13)[0]
            spread = quad(lambda u, a=a_t: (a / schedule.alpha(u)) ** 2 * schedule.g2(u), t, s, epsrel=1e-13)[0]
            x = a_t / schedule.alpha(s) * x + 0.5 * (1 + k * k) * pull * model(x, s)
            if k:
                x = x + k * np.sqrt(spread) * normal()
        return x

    return sample


def reverse_drift(schedule, model):
    """The drift backward in time, for k = 1."""
    return lambda y, u: -schedule.f(u) * y + schedule.g2(u) * model(y, u)


def plain_heun(schedule, times):
    """Euler-Maruyama to the end of the step, then the mean of the two drifts with the same increment."""

    def sample(model, x, normal):
        drift = reverse_drift(schedule, model)
        for s, t in pairwise(times):
            h = s - t
            first = drift(x, s)
            dw = np.sqrt(0.5 * h * (schedule.g2(s) + schedule.g2(t))) * normal()
            x = x + 0.5 * h * (first + drift(x + h * first + dw, t)) + dw
        return x

    return sample


def plain_sra1(schedule, times):
    """Roessler's tableau: A21 = 3/4, B21 = 3/2, c = (0, 3/4) and (1, 0), alpha = (1/3, 2/3), beta = (1, 0), (-1, 1)."""

    def sample(model, x, normal):
        drift = reverse_drift(schedule, model)
        for s, t in pairwise(times):
            h = s - t
            dw, dz = np.sqrt(h) * normal(), np.sqrt(h) * normal()
            i10 = 0.5 * h * (dw + dz / np.sqrt(3))
            b = [np.sqrt(schedule.g2(t)), np.sqrt(schedule.g2(s))]  # at c = 1 and 0
            k1 = drift(x, s)
            k2 = drift(x + 0.75 * h * k1 + 1.5 * b[0] * i10 / h, s - 0.75 * h)
            x = x + h * (k1 / 3 + 2 * k2 / 3) + b[0] * dw + (-b[0] + b[1]) * i10 / h
        return x

    return sample


PLAIN = {
    "euler-maruyama": plain_euler_maruyama,
    "score-euler": lambda schedule, times: plain_euler_maruyama(schedule, times, 0.0),
    "reverse-diffusion": plain_reverse_diffusion,
    "reverse-diffusion-flow": lambda schedule, times: plain_reverse_diffusion(schedule, times, 0.0),
    "score-ancestral": plain_ancestral,
    "score-ancestral-large": lambda schedule, times: plain_ancestral(schedule, times, True),
    "exponential-euler-maruyama": plain_exponential,
    "exponential-score-euler": lambda schedule, times: plain_exponential(schedule, times, 0.0),
    "stochastic-heun": plain_heun,
    "sra1": plain_sra1,
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_table_runs_like_the_papers_algorithm_on_a_mixture(family, schedule):
    times = grid(schedule)
    table, model = family(schedule, times), ExactModel(MIXTURE, schedule)
    # rounding in the score of a narrow component grows from step to step
    size = np.abs(model.marginal(float(times[-1])).means).max()
    against(PLAIN[family.name](schedule, times), table, model, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_impulses_read_the_table_off_the_papers_algorithm(family):
    schedule = VPLinear()
    times = grid(schedule)
    found = impulse_response(
        PLAIN[family.name](schedule, times), schedule, prediction="score", start_time=times[0], end_time=times[-1]
    )
    assert family(schedule, times).difference(found) <= 1e-12


@pytest.mark.parametrize("name", ["score-euler", "reverse-diffusion-flow", "exponential-score-euler"])
def test_measured_order_of_flows_is_theoretical_on_a_mixture(name):
    family, schedule = next(f for f in FAMILIES if f.name == name), VPLinear()
    found = flow_order(
        family, schedule, lambda n: uniform(schedule, n, start=0.8, end=0.1), law=MIXTURE, counts=(64, 128)
    )
    assert abs(found - 1) < 0.1


@pytest.mark.parametrize("method", ["heun", "sra1"])
@pytest.mark.parametrize("noise", [0.5, 1.4])
def test_runge_kutta_has_weak_order_two_for_every_share_of_noise(method, noise):
    schedule = VPLinear()
    build = partial(stochastic_runge_kutta, method=method, noise=noise)
    assert abs(order_of(build, schedule, lambda n: uniform(schedule, n, end=0.1), counts=(64, 128)) - 2) < 0.1


def test_heun_to_sigma_zero_ends_with_euler_maruyama_and_keeps_its_order():
    schedule = VPLinear()
    table = stochastic_runge_kutta(schedule, [0.5, 0.25, 0.0])
    assert table.nfe == 3
    assert abs(order_of(stochastic_runge_kutta, schedule, lambda n: uniform(schedule, n), counts=(64, 128)) - 2) < 0.1


def _strong_error(method, n, schedule, fine=256):
    """Root mean square distance at the end from SRA1 on a fine grid, driven by the same Brownian path."""
    law, span = Gaussian([0.7], 0.25), (0.5, 0.3)
    reference = stochastic_runge_kutta(schedule, np.linspace(*span, fine + 1), method="sra1")
    coarse = (
        euler_maruyama(schedule, np.linspace(*span, n + 1))
        if method == "euler"
        else stochastic_runge_kutta(schedule, np.linspace(*span, n + 1), method="sra1")
    )
    # every output is linear in the normals; the coarse normals are sums of the fine ones
    weights = [_noise_response(table, law, schedule) for table in (reference, coarse)]
    h, m = (span[0] - span[1]) / fine, fine // n
    per_step = _joint(np.full(m, h))
    exact, own = weights[0].reshape(n, m * 2), weights[1].reshape(n, -1)
    pulled = own @ per_step[: own.shape[1]]
    return np.sqrt(((exact - pulled) ** 2).sum())


def _joint(h):
    """The coarse (z, z') as combinations of the fine (z_1, z'_1, z_2, ...): dW and chi over the union of the steps."""
    m, total = len(h), h.sum()
    dw, chi = np.zeros(2 * m), np.zeros(2 * m)
    for i in range(m):
        dw[2 * i] = np.sqrt(h[i])
        # int (w_u - w_0) du / H: the earlier increment stays for the later steps
        chi[2 * i] += np.sqrt(h[i]) * (0.5 * h[i] + h[i + 1 :].sum()) / total
        chi[2 * i + 1] += np.sqrt(h[i] / 12) * h[i] / total
    return np.array([dw / np.sqrt(total), (chi - 0.5 * dw) / np.sqrt(total / 12)])


def _noise_response(table, law, schedule):
    """How the output depends on each normal, with the exact linear score of Gaussian data: (draws,)."""
    variance = law.cov().item()

    def score(x, t):
        return -x / (schedule.alpha(t) ** 2 * variance + schedule.sigma(t) ** 2)

    normals = np.eye(table.draws)[:, :, None]
    return run(table, score, np.zeros((table.draws, 1)), normals=normals)[:, 0]


def test_strong_orders_of_euler_maruyama_and_sra1():
    """Additive noise: order 1, and 2 for SRA1: the h^2 f'' g^2 in its local error vanishes for a linear drift."""
    schedule, counts = VPLinear(), np.array([8, 16, 32])
    for method, order in (("euler", 1.0), ("sra1", 2.0)):
        errors = [_strong_error(method, n, schedule) for n in counts]
        slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert abs(slope - order) < 0.1, (method, slope)


@given(st.floats(0.02, 0.9), st.floats(0.05, 1.0))
@settings(max_examples=10)
def test_weight_of_a_frozen_score_is_its_integral(low, part):
    for schedule in (VPCosine(), FlowMatching(), SubVP(), VEGeometric(), VEPower(T=3.0)):
        t = low * schedule.T
        s = t + part * 0.98 * (schedule.T - t)
        a_t = schedule.alpha(t)
        expected = quad(lambda u, c=schedule, a=a_t: a / c.alpha(u) * c.g2(u), t, s, epsabs=0, epsrel=1e-12)[0]
        assert of_schedule(schedule, s, t) == pytest.approx(expected, rel=1e-9)


def test_weight_of_a_frozen_score_in_closed_form():
    # straight path: 2 alpha_t [rho - log(1 + rho)], over decades of rho and from sigma = 0
    for s, t in ((0.999, 0.5), (0.3, 0.0), (0.2, 0.199)):
        (a, b), schedule = (s / (1 - s), t / (1 - t)), FlowMatching()
        exact = 2 * (1 - t) * (a - b - np.log1p(a) + np.log1p(b))
        assert of_schedule(schedule, s, t) == pytest.approx(exact, rel=1e-11)
    assert of_schedule(VEGeometric(0.01, 50.0), 1.0, 0.0) == pytest.approx(2500 - 1e-4, rel=1e-12)


def test_exponential_euler_maruyama_is_exact_for_a_score_that_is_constant():
    schedule = FunctionSchedule(
        lambda t: np.exp(-t),
        lambda t: np.sqrt(-np.expm1(-2 * t)),
        2.0,
        lambda t: -np.exp(-t),
        lambda t: np.exp(-2 * t) / np.sqrt(-np.expm1(-2 * t)),
    )
    x = np.array([[0.4]])
    one, many = (
        run(exponential_euler_maruyama(schedule, times, noise=0.0), lambda y, _: np.full_like(y, 0.7), x)
        for times in ([1.5, 0.5], np.linspace(1.5, 0.5, 8))
    )
    assert np.abs(one - many).max() < 1e-13


def test_finals_leave_out_the_last_noise_or_denoise():
    schedule, law = VPLinear(), Gaussian([0.7], 0.25)
    times = np.linspace(0.8, 0.05, 9)
    for build in (euler_maruyama, reverse_diffusion, ancestral, exponential_euler_maruyama, stochastic_runge_kutta):
        noisy, mean, tweedie = (build(schedule, times, final=final) for final in ("noisy", "mean", "tweedie"))
        assert (noisy.nfe, mean.nfe, tweedie.nfe) == (noisy.nfe, noisy.nfe, noisy.nfe + 1)
        assert mean.draws < noisy.draws == tweedie.draws
        laws = [propagate(table, law) for table in (noisy, mean, tweedie)]
        assert laws[1].output.mean() == pytest.approx(laws[0].output.mean(), rel=1e-14)
        assert laws[1].output.cov() < laws[0].output.cov()
        p = laws[0].output
        gain = schedule.alpha(0.05) * 0.25 / (schedule.alpha(0.05) ** 2 * 0.25 + schedule.sigma(0.05) ** 2)
        assert laws[2].output.cov().item() == pytest.approx(gain**2 * p.cov().item(), rel=1e-12)
        assert tweedie.times[-1] == 0.0


def test_ancestral_ends_with_the_denoiser_where_sigma_is_zero():
    schedule = VPLinear()
    table, model = ancestral(schedule, [0.4, 0.0]), ExactModel(MIXTURE, schedule)
    x = model.sample(5, 0.4, 0)
    assert np.allclose(run(table, model, x, seed=0), model.denoiser(x, 0.4), rtol=1e-12, atol=1e-12)


def test_reverse_diffusion_starts_where_alpha_is_zero():
    table = reverse_diffusion(FlowMatching(), np.linspace(1, 0, 4))
    assert all(np.isfinite(part).all() for part in (table.states, table.outputs, table.noise))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_axis_has_its_own_process(family):
    each = [VPLinear(), FlowMatching(), SubVP(0.1, 5.0)]
    times = np.linspace(0.8, 0.1, 5)
    together = family(AffineProcess(each), times).unroll()
    for j, schedule in enumerate(each):
        alone = family(schedule, times).unroll()
        for one, all_axes in zip(alone, together, strict=True):
            assert np.allclose(all_axes[..., j], one, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("build", "times", "options", "message"),
    [
        (euler_maruyama, [1.0, 0.5], {}, "times must lie where f and g"),
        (stochastic_runge_kutta, [1.0, 0.5], {}, "times must lie where f and g"),
        (ancestral, [1.0, 0.5], {}, "times must start where alpha > 0"),
        (exponential_euler_maruyama, [1.0, 0.5], {}, "times must start where alpha > 0"),
        (euler_maruyama, [0.5, 0.0], {"final": "tweedie"}, "times must end where"),
        (euler_maruyama, [0.5, 0.1], {"final": "clean"}, "final must be one of"),
        (euler_maruyama, [0.5, 0.1], {"noise": -1.0}, "noise must lie in"),
        (reverse_diffusion, [0.5, 0.1], {"noise": np.inf}, "noise must be finite"),
        (ancestral, [0.5, 0.1], {"variance": "beta"}, "variance must be one of"),
        (stochastic_runge_kutta, [0.5, 0.1], {"method": "rk4"}, "method must be one of"),
        (euler_maruyama, [0.1, 0.5], {}, "times must decrease"),
    ],
)
def test_bad_input_is_refused_by_name(build, times, options, message):
    with pytest.raises(ValueError, match=message):
        build(FlowMatching(), times, **options)


def test_g_infinite_at_the_last_time_is_refused_where_it_is_used():
    rough = VEPower(0.25, T=4.0)  # g^2 = t^(-1/2) / 2
    assert euler_maruyama(rough, [1.0, 0.0]).nfe == 1
    with pytest.raises(ValueError, match="times must lie where f and g"):
        stochastic_runge_kutta(rough, [1.0, 0.0], method="sra1")
