"""Ancestral sampling against the published boxes of Ho, Nichol and Dhariwal, and Kingma, and against exact laws."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import against

from refdiff import (
    AffineProcess,
    BetaTable,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    Trigonometric,
    VEPower,
    VPCosine,
    VPLinear,
    beta_table,
    testing,
)
from refdiff.samplers import ancestral, times
from refdiff.samplers.ancestral import ddpm, mean_weights
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import posterior_std, step_variance
from refdiff.samplers.families import families
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.propagation import propagate
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run

MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
TABLE = beta_table.linear(20, 0.01, 0.6)
DOWN = np.arange(20.0, -1.0, -1.0)
PROCESSES = {
    "VP": VPLinear(),
    "FM": FlowMatching(),
    "EDM": VEPower(T=80.0),
    "cosine": VPCosine(),
    "trig": Trigonometric(1.0),
}


# ---------------------------------------------------------------------- the papers' boxes, on numbers


def ho(betas, kind, v=0.5):
    """Ho et al. 2020, algorithm 2, with the two variances of section 3.2; Nichol and Dhariwal 2021, equation (15)."""
    bars = np.cumprod(1 - betas)
    before = np.append(1.0, bars[:-1])
    tilde = betas * (1 - before) / (1 - bars)
    clipped = np.log(np.append(tilde[1:2], tilde[1:]))
    variance = {"posterior": tilde, "beta": betas, "interpolated": np.exp(v * np.log(betas) + (1 - v) * clipped)}[kind]

    def sample(eps, x, normal):
        for i in reversed(range(len(betas))):
            mean = (x - betas[i] / np.sqrt(1 - bars[i]) * eps(x, i + 1)) / np.sqrt(1 - betas[i])
            x = mean + np.sqrt(variance[i]) * normal() if i > 0 else mean
        return x

    return sample


def respaced(bars, indices, kind):
    """A sub-grid of the indices 1..N, from noise to data, as schedulers do it: betas made anew from ratios of bars."""

    def sample(clean, x, normal):
        for i, j in zip(indices, [*indices[1:], 0], strict=True):
            here, there = bars[i - 1], bars[j - 1] if j else 1.0
            beta = 1 - here / there
            x0 = clean(x, i)
            x = np.sqrt(there) * beta / (1 - here) * x0 + np.sqrt(here / there) * (1 - there) / (1 - here) * x
            if j:
                x = x + np.sqrt(beta if kind == "beta" else (1 - there) / (1 - here) * beta) * normal()
        return x

    return sample


def vdm(schedule, grid):
    """Kingma et al. 2021, equation (33): gamma = -log SNR, c = -expm1(gamma_s - gamma_t), s the cleaner time."""

    def sample(eps, x, normal):
        for t, s in pairwise(grid):
            gamma_t, gamma_s = -2 * schedule.log_snr(t), -2 * schedule.log_snr(s)
            alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
            sigma_t, sigma_s = schedule.sigma(t), schedule.sigma(s)
            c = -np.expm1(gamma_s - gamma_t)
            x = alpha_s / alpha_t * (x - c * sigma_t * eps(x, t)) + sigma_s * np.sqrt(c) * normal()
        return x

    return sample


def boxed(box, table, model, prediction):
    """A box and a table on the same mixture, start and normals."""
    against(box, to_prediction(table, prediction), model, count=40, seed=3, atol=1e-13)


@pytest.mark.parametrize("kind", ["posterior", "beta", "interpolated"])
@given(betas=st.lists(st.floats(1e-3, 0.8), min_size=2, max_size=8))
@settings(max_examples=10)
def test_on_all_indices_of_a_table_it_is_hos_sampler(kind, betas):
    table = BetaTable(np.array(betas))
    down = np.arange(len(betas), -1.0, -1.0)
    boxed(ho(table.betas, kind), ddpm(table, down, variance=kind), ExactModel(MIXTURE, table), "noise")


def test_a_share_for_each_step_is_improved_ddpms_learned_range():
    v = np.random.default_rng(0).uniform(-0.2, 1.2, 20)
    sampler = ddpm(TABLE, DOWN, variance="interpolated", v=v[::-1])
    boxed(ho(TABLE.betas, "interpolated", v), sampler, ExactModel(MIXTURE, TABLE), "noise")


@pytest.mark.parametrize("kind", ["posterior", "beta"])
def test_a_sub_grid_is_the_strided_sampler(kind):
    indices = [20, 14, 9, 5, 2]
    model = ExactModel(MIXTURE, TABLE)
    boxed(respaced(TABLE.alpha_bar, indices, kind), ddpm(TABLE, [*indices, 0], variance=kind), model, "denoiser")


@pytest.mark.parametrize("name", PROCESSES)
def test_vdms_ancestral_sampler_is_ddpm(name):
    process = PROCESSES[name]
    grid = times.uniform(process, 7, start=0.9 * process.T, end=0.01 * process.T)
    boxed(vdm(process, grid), ddpm(process, grid), ExactModel(MIXTURE, process), "noise")


@pytest.mark.parametrize("kind", ["posterior", "beta", "interpolated"])
def test_impulses_through_hos_box_give_the_table(kind):
    found = impulse_response(ho(TABLE.betas, kind), TABLE, prediction="noise")
    assert found.difference(to_prediction(ddpm(TABLE, DOWN, variance=kind), "noise")) < 1e-12


def test_impulses_through_the_strided_box_give_the_table():
    indices = [20, 14, 9, 5, 2]
    found = impulse_response(respaced(TABLE.alpha_bar, indices, "beta"), TABLE)
    assert found.difference(ddpm(TABLE, [*indices, 0], variance="beta")) < 1e-12


# ---------------------------------------------------------------------- exact laws


def output_variances(data, **options):
    """A thousand steps of the linear table from N(0, 1), each data variance on an axis of its own."""
    table = ddpm(beta_table.linear(), np.arange(1000.0, -1.0, -1.0), **options)
    law, start = (Gaussian(np.zeros(len(data)), np.array(values)) for values in (data, np.ones(len(data))))
    return np.diag(propagate(table, law, start).output.cov())


def closed_variance(data, variance):
    """V_{i-1} = k_i^2 V_i + v_i from V_N = 1 on the marginals' variances alone; k_i is Cov(x_{i-1}, x_i) / Var x_i."""
    betas = np.linspace(1e-4, 0.02, 1000)
    true = [data]
    for beta in betas:
        true.append((1 - beta) * true[-1] + beta)
    value = 1.0
    for i in reversed(range(1000)):
        value = (np.sqrt(1 - betas[i]) * true[i] / true[i + 1]) ** 2 * value + variance[i]
    return value


def test_output_variances_of_a_thousand_steps():
    betas = np.linspace(1e-4, 0.02, 1000)
    bars = np.cumprod(1 - betas)
    tilde = betas * (1 - np.append(1.0, bars[:-1])) / (1 - bars)
    silent = np.where(np.arange(1000) > 0, betas, 0.0)
    printed = {0.25: (0.246125, 0.250752), 1.0: (0.99107, 0.9999), 4.0: (3.97478, 3.99057)}
    data = list(printed)
    for column, (variance, options) in enumerate(((tilde, {}), (silent, {"variance": "beta"}))):
        found = output_variances(data, **options)
        np.testing.assert_allclose(found, [closed_variance(one, variance) for one in data], rtol=1e-12)
        np.testing.assert_allclose(found, [values[column] for values in printed.values()], rtol=0, atol=6e-6)
    assert output_variances([1.0], variance="beta", final_noise=True)[0] == pytest.approx(1.0, rel=1e-12)


def test_fewer_steps_of_the_rescaled_table_lose_more_variance():
    for steps, printed in ((10, 0.461), (100, 0.9208)):
        betas = np.minimum(np.linspace(1e-4, 0.02, steps) * 1000 / steps, 0.999)
        table = ddpm(BetaTable(betas), np.arange(float(steps), -1.0, -1.0))
        found = propagate(table, Gaussian([0.0], 1.0), Gaussian([0.0], 1.0)).output.cov()[0, 0]
        assert found == pytest.approx(printed, abs=6e-4)


def test_variance_errors_of_vdms_sampler_on_the_circle():
    circle, data = Trigonometric(1.0), Gaussian([0.0], 4.0)
    printed = [-1.176, -0.656, -0.348, -0.180, -0.0915, -0.0462]
    for steps, value in zip([10, 20, 40, 80, 160, 320], printed, strict=True):
        found = propagate(ddpm(circle, np.linspace(1.45, 0.05, steps + 1)), data)
        assert found.output.cov()[0, 0] - found.target().cov()[0, 0] == pytest.approx(value, abs=6e-4)


@given(st.sampled_from(sorted(PROCESSES)), st.lists(st.floats(0.02, 0.98), min_size=2, max_size=6, unique=True))
def test_posterior_variance_is_exact_for_one_point_and_beta_for_stationary_data(name, fractions):
    process = PROCESSES[name]
    grid = np.sort(fractions)[::-1] * process.T
    point = propagate(ddpm(process, grid), Gaussian([0.7, -1.3], 0.0))
    assert exact(point)
    if name in ("VP", "cosine", "trig"):
        assert exact(propagate(ddpm(process, grid, variance="beta"), Gaussian([0.0, 0.0], 1.0)))


def exact(found):
    target, law = found.target(), found.output
    size = np.abs(target.cov()).max()
    return np.abs(law.cov() - target.cov()).max() <= 1e-12 * size and (
        np.abs(law.mean() - target.mean()).max() <= 1e-12 * (1 + np.abs(target.mean()).max())
    )


@given(testing.schedules(), st.floats(0.0, 1.0), st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2, unique=True))
def test_weights_keep_the_marginals_for_every_eta(schedule, eta, fractions):
    late, early = sorted(fractions, reverse=True)
    s, t = Recorder("", schedule, [late * schedule.T, early * schedule.T]).points
    kappa, gamma = mean_weights(s, t, eta)
    c = eta * posterior_std(s, t)
    np.testing.assert_allclose(kappa * s.alpha + gamma, t.alpha, rtol=1e-12)
    np.testing.assert_allclose(kappa**2 * s.sigma**2 + c**2, t.sigma**2, rtol=1e-12)
    # the step from t to s, added to what is left of t's noise, is all of s's
    np.testing.assert_allclose(step_variance(s, t) + (s.alpha / t.alpha * t.sigma) ** 2, s.sigma**2, rtol=1e-12)


def test_weights_of_a_long_step_keep_their_digits():
    s, t = Recorder("", VEPower(T=80.0), [80.0, 1e-3]).points
    kappa, gamma = mean_weights(s, t)
    assert kappa == pytest.approx((1e-3 / 80) ** 2, rel=1e-14)
    assert gamma == pytest.approx(1 - kappa, rel=1e-15)


# ---------------------------------------------------------------------- ends, axes, options


def test_from_pure_noise_to_clean_data_in_one_step_is_the_denoiser():
    model = ExactModel(MIXTURE, FlowMatching())
    x = np.random.default_rng(0).standard_normal((5, 1))
    for kind in ancestral.VARIANCES:
        table = ddpm(FlowMatching(), [1.0, 0.0], variance=kind)
        assert table.draws == 0
        np.testing.assert_allclose(run(table, model, x), np.full_like(x, MIXTURE.mean()), rtol=1e-14)


@pytest.mark.parametrize("kind", ancestral.VARIANCES)
def test_ends_of_infinite_log_snr_keep_a_table_finite(kind):
    for process in (FlowMatching(), Trigonometric(0.5), beta_table.scaled_linear(6).zero_terminal_snr()):
        for noise in (False, True):
            table = ddpm(process, times.uniform(process, 3), variance=kind, final_noise=noise)
            for part in (table.states, table.outputs, table.noise):
                assert np.isfinite(part).all()


def test_noise_is_left_out_of_a_step_to_clean_data_only():
    assert ddpm(VPLinear(), [1.0, 0.5, 0.0], variance="beta").draws == 1
    assert ddpm(VPLinear(), [1.0, 0.5, 0.0], variance="beta", final_noise=True).draws == 2
    assert ddpm(VPLinear(), [1.0, 0.5, 0.1], variance="beta").draws == 2
    assert ddpm(VPLinear(), [1.0, 0.5, 0.0], final_noise=True).draws == 1  # the posterior's own is zero


def test_final_interpolated_noise_is_clipped_to_the_step_before():
    table = ddpm(TABLE, DOWN, variance="interpolated", v=0.3, final_noise=True)
    tilde = TABLE.posterior().variance
    expected = np.exp(0.3 * np.log(TABLE.betas[0]) + 0.7 * np.log(tilde[1]))
    np.testing.assert_allclose(table.noise[-1, 0] ** 2, expected, rtol=1e-12)
    one = ddpm(TABLE, [3.0, 0.0], variance="interpolated", v=0.3, final_noise=True)  # nothing before: beta
    np.testing.assert_allclose(one.noise[-1, 0] ** 2, TABLE.sigma(3.0) ** 2, rtol=1e-12)


def test_interpolation_ends_at_both_variances_and_passes_a_beta_of_zero():
    grid = [0.9, 0.5, 0.2, 0.01]
    for v, kind in ((0.0, "posterior"), (1.0, "beta")):
        assert ddpm(VPLinear(), grid, variance="interpolated", v=v).close(ddpm(VPLinear(), grid, variance=kind))
    table = BetaTable(np.array([0.1, 0.0, 0.2]))
    found = ddpm(table, [3.0, 2.0, 1.0, 0.0], variance="interpolated", v=0.0)
    assert found.noise[2].max() == 0
    assert found.draws == 1


def test_given_variances_are_used_as_they_are():
    grid = [0.9, 0.5, 0.0]
    table = ddpm(VPLinear(), grid, variance=[0.3, 0.2])
    np.testing.assert_allclose(table.noise[1:, 0] ** 2, [0.3, 0.2], rtol=1e-15)
    axes = ddpm(VPLinear(), grid, variance=[[0.3, 0.1], [0.2, 0.0]])
    np.testing.assert_allclose(axes.noise[1:, 0] ** 2, [[0.3, 0.1], [0.2, 0.0]], rtol=1e-15)


@pytest.mark.parametrize("kind", ancestral.VARIANCES)
def test_axes_with_their_own_schedules_are_sampled_alone(kind):
    schedules = [VPLinear(), FlowMatching(), VEPower(T=1.0)]
    grid = [0.9, 0.6, 0.2, 0.0]
    together = ddpm(AffineProcess(schedules), grid, variance=kind, final_noise=True)
    for axis, schedule in enumerate(schedules):
        alone = ddpm(schedule, grid, variance=kind, final_noise=True)
        for name in ("states", "outputs"):
            np.testing.assert_allclose(getattr(together, name)[..., axis], getattr(alone, name), rtol=1e-14)
        np.testing.assert_allclose(together.noise[1:3, 0, axis], alone.noise[1:3, 0], rtol=1e-14)


def test_a_beta_of_zero_leaves_the_clipping_of_a_later_step_alone():
    table = ddpm(BetaTable([0.1, 0.0]), [2.0, 1.0, 0.0], variance="interpolated", final_noise=True)
    assert not table.noise[1].any()
    assert table.noise[2, 0] == pytest.approx(np.sqrt(0.1), rel=1e-14)


@pytest.mark.parametrize("process", PROCESSES)
def test_seven_names_of_one_step(process):
    """With x_0 = D the posterior's step is DDIM's with eta = 1, gDDIM's with k = 1, and those of other papers."""
    grid = np.array([0.9, 0.5, 0.2, 0.05])
    table = ddpm(PROCESSES[process], grid)
    for name, options in (
        ("ddim-eta1", {}),
        ("gddim", {"stochasticity": 1.0}),
        ("euler-ancestral", {}),
        ("sde-dpmpp-1", {}),
        ("sa-solver-p1", {}),
        ("score-ancestral", {}),
        ("analytic-dpm", {"moments": [0.0, 0.0, 0.0]}),
    ):
        other = to_prediction(families()[name](PROCESSES[process], grid, **options), "denoiser")
        assert other.difference(table) < 1e-13, name
    large = to_prediction(families()["score-ancestral-large"](PROCESSES[process], grid), "denoiser")
    assert large.difference(ddpm(PROCESSES[process], grid, variance="beta")) < 1e-13


def test_bad_input_is_refused():
    grid = [0.9, 0.5, 0.1]
    for options, message in (
        ({"variance": "small"}, "variance must be one of"),
        ({"variance": [0.1, -0.1]}, "variance must not be negative"),
        ({"variance": [0.1]}, "one entry for each of 2 steps"),
        ({"variance": [0.1, np.nan]}, "variance must be finite"),
        ({"variance": np.ones((2, 2, 2))}, "variance must have 1 or 2 dimensions"),
        ({"variance": "interpolated", "v": [0.5]}, "v must be one number or one entry"),
        ({"variance": "interpolated", "v": np.inf}, "v must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            ddpm(VPLinear(), grid, **options)
    with pytest.raises(ValueError, match="decrease"):
        ddpm(VPLinear(), grid[::-1])
    s, t = Recorder("", VPLinear(), [0.9, 0.5]).points
    with pytest.raises(ValueError, match="eta must leave"):
        mean_weights(s, t, 3.0)
