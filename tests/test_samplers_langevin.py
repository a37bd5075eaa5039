"""Langevin's iteration, annealed and as a corrector, against the papers' algorithms on numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import ExactModel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.processes import AffineProcess
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.langevin import annealed_langevin, langevin, predictor_corrector
from refdiff.samplers.propagation import propagate
from refdiff.samplers.reverse_sde import ancestral, euler_maruyama, exponential_euler_maruyama, reverse_diffusion
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, VEGeometric, VEPower, VPLinear

MIXTURE = GaussianMixture.isotropic([[-1.5, 0.0], [1.0, 0.5]], [0.04, 0.2], [0.4, 0.6])
VE, VP = VEPower(T=10.0), VPLinear()
LEVELS = np.geomspace(10.0, 0.1, 5)


def ncsn(sigmas, eps, steps):
    """Song and Ermon's Algorithm 1: alpha_i = eps sigma_i^2 / sigma_L^2, x + alpha_i / 2 s + sqrt(alpha_i) z."""

    def sample(model, x, normal):
        for sigma in sigmas:
            alpha = eps * sigma**2 / sigmas[-1] ** 2
            for _ in range(steps):
                x = x + alpha / 2 * model(x, sigma) + np.sqrt(alpha) * normal()
        return x

    return sample


def pc(schedule, times, snr, count, first):
    """Algorithm 1 of score-SDE, or the order of its code, with the reverse-diffusion predictor and ald's corrector."""

    def predict(model, x, normal, s, t):
        a = schedule.alpha(s) / schedule.alpha(t)
        variance = schedule.sigma(s) ** 2 - a**2 * schedule.sigma(t) ** 2
        return (2 - a) * x + variance * model(x, s) + np.sqrt(variance) * normal()

    def correct(model, x, normal, t):
        for _ in range(count if schedule.sigma(t) > 0 else 0):
            eps = 2 * (snr * schedule.sigma(t)) ** 2
            x = x + eps * model(x, t) + np.sqrt(2 * eps) * normal()
        return x

    def sample(model, x, normal):
        for s, t in pairwise(times):
            if first == "corrector":
                x = predict(model, correct(model, x, normal, s), normal, s, t)
            else:
                x = correct(model, predict(model, x, normal, s, t), normal, t)
        return x

    return sample


CASES = {
    "annealed": (
        VE,
        annealed_langevin(VE, LEVELS, step_size=2e-3, steps=3, convention="song-ermon"),
        ncsn(LEVELS, 2e-3, 3),
    ),
    **{
        f"{first} first, to {end}": (
            VP,
            predictor_corrector(VP, np.linspace(1, end, 6), corrector_steps=2, snr=0.2, first=first),
            pc(VP, np.linspace(1, end, 6), 0.2, 2, first),
        )
        for first in ("predictor", "corrector")
        for end in (0.1, 0.0)
    },
}


@pytest.mark.parametrize(("schedule", "table", "plain"), CASES.values(), ids=CASES)
def test_the_table_runs_like_the_papers_algorithm_on_a_mixture(schedule, table, plain):
    model, rng = ExactModel(MIXTURE, schedule), np.random.default_rng(1)
    x, normals = model.sample(20, schedule.T, 2), rng.standard_normal((table.draws, 20, 2))
    drawn = iter(normals)
    expected = plain(lambda y, t: model.score(y, t), x, lambda: next(drawn))
    assert np.abs(run(table, model, x, normals=normals) - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize(("schedule", "table", "plain"), CASES.values(), ids=CASES)
def test_impulses_read_the_table_off_the_papers_algorithm(schedule, table, plain):
    found = impulse_response(plain, schedule, prediction="score", end_time=float(table.times[-1]))
    assert table.difference(found) <= 1e-12


@given(st.floats(0.05, 4.0), st.floats(0.02, 0.9), st.integers(1, 40))
def test_langevin_follows_the_recursion_of_its_variance(data, part, steps):
    spread = data + 1.0
    eta = part * 2 * spread  # stable below 2 P
    found = propagate(langevin(VE, 1.0, step_size=eta, steps=steps), Gaussian([0.3], data), Gaussian([1.0], 4.0))
    mean, variance = 1.0, 4.0
    for _ in range(steps):
        mean, variance = mean - eta / spread * (mean - 0.3), (1 - eta / spread) ** 2 * variance + 2 * eta
    assert found.output.cov().item() == pytest.approx(variance, rel=1e-12)
    assert found.output.mean().item() == pytest.approx(mean, rel=1e-10, abs=1e-12)


def test_langevin_settles_at_its_own_variance_and_diverges_beyond_twice_the_targets():
    law = Gaussian([0.0], 0.25)
    settled = propagate(langevin(VE, 1.0, step_size=0.5, steps=200), law).output.cov().item()
    assert settled == pytest.approx(1.25 / (1 - 0.5 / 2.5), rel=1e-12)
    assert propagate(langevin(VE, 1.0, step_size=2.6, steps=200), law).output.cov().item() > 1e10


def test_annealing_over_ten_levels_has_the_values_of_the_errata():
    """PODA-331: the printed loop L..2 leaves .02929, the loop to level 1 .01053; unit variance has not settled yet."""
    sigmas = np.geomspace(10, 0.1, 10)
    law, start = Gaussian([0.0, 0.0], np.array([0.0, 1.0])), Gaussian([0.0, 0.0], 100.0)
    for count, values in ((10, (0.01053, 1.0683)), (9, (0.02929, 1.0810))):
        table = annealed_langevin(VE, sigmas[:count], step_size=0.1 * sigmas[count - 1] ** 2, steps=100)
        np.testing.assert_allclose(np.diag(propagate(table, law, start).output.cov()), values, rtol=5e-4)
    one = langevin(VE, 10.0, step_size=0.1, steps=1)
    for start, value in ((1.0, 1.198), (100.0, 100.002)):
        found = propagate(one, Gaussian([0.0], 1.0), Gaussian([0.0], start)).output.cov().item()
        assert found == pytest.approx(value, abs=5e-4)


def test_conventions_of_the_step_differ_by_two():
    one = annealed_langevin(VE, LEVELS, step_size=1e-3, steps=2)
    assert one.close(annealed_langevin(VE, LEVELS, step_size=2e-3, steps=2, convention="song-ermon"), 1e-15)


def test_annealing_with_a_varying_alpha_is_annealing_of_x_over_alpha():
    """In x / alpha a flow-matching process is an exploding one with rho = t / (1 - t)."""
    times = np.array([0.8, 0.5, 0.2])
    rho = times / (1 - times)
    flow = annealed_langevin(FlowMatching(), times, step_size=1e-3, steps=3)
    ve = annealed_langevin(VEPower(T=10.0), rho, step_size=1e-3, steps=3)
    law, start = Gaussian([0.7], 0.25), Gaussian([0.1], 3.0)
    moved = propagate(flow, law, start).output
    still = propagate(ve, law, Gaussian([0.1 / 0.2], 3.0 / 0.2**2)).output
    assert moved.mean().item() / 0.8 == pytest.approx(still.mean().item(), rel=1e-12)
    assert moved.cov().item() / 0.64 == pytest.approx(still.cov().item(), rel=1e-12)


def test_every_predictor_without_corrections_is_itself():
    times = np.linspace(0.9, 0.1, 5)
    alone = {
        "euler-maruyama": euler_maruyama,
        "reverse-diffusion": reverse_diffusion,
        "ancestral": ancestral,
        "exponential": exponential_euler_maruyama,
    }
    for name, build in alone.items():
        for final in ("noisy", "mean", "tweedie"):
            own = predictor_corrector(VP, times, predictor=name, corrector_steps=0, final=final)
            assert own.close(build(VP, times, final=final), 1e-15)


def test_corrections_bring_the_law_closer_and_leave_the_bias_of_their_step():
    law, times = Gaussian([0.7], 0.25), np.linspace(1, 0.05, 11)
    errors = [propagate(predictor_corrector(VP, times, corrector_steps=n), law).wasserstein() for n in (0, 1, 5)]
    assert errors[0] > errors[1] > errors[2]
    spread = (VP.alpha(0.05) ** 2 * 0.25) + VP.sigma(0.05) ** 2
    eta = 2 * (0.9 * VP.sigma(0.05)) ** 2
    found = propagate(predictor_corrector(VP, times, corrector_steps=100, snr=0.9), law).output.cov().item()
    assert found == pytest.approx(spread / (1 - eta / (2 * spread)), rel=1e-10)


def test_step_sizes_are_eta_at_the_corrected_times():
    times = np.linspace(1, 0.1, 4)
    for first, corrected in (("predictor", times[1:]), ("corrector", times[:-1])):
        sizes = 2 * (0.16 * VP.sigma(corrected)) ** 2
        given_sizes = predictor_corrector(VP, times, snr=None, step_sizes=sizes, first=first)
        assert given_sizes.close(predictor_corrector(VP, times, snr=0.16, first=first), 1e-15)
    constant = predictor_corrector(VP, times, snr=None, step_sizes=0.01)
    assert constant.close(predictor_corrector(VP, times, snr=None, step_sizes=[0.01] * 3), 0.0)


def test_finals_leave_out_the_last_normal_or_denoise():
    law, times = Gaussian([0.7], 0.25), np.linspace(1, 0.1, 6)
    for first in ("predictor", "corrector"):
        noisy, mean, tweedie = (
            predictor_corrector(VP, times, first=first, final=final) for final in ("noisy", "mean", "tweedie")
        )
        assert (mean.nfe, tweedie.nfe) == (noisy.nfe, noisy.nfe + 1)
        assert (mean.draws, tweedie.draws) == (noisy.draws - 1, noisy.draws)
        laws = [propagate(table, law).output for table in (noisy, mean)]
        assert laws[0].mean().item() == pytest.approx(laws[1].mean().item(), rel=1e-14)
        assert laws[1].cov() < laws[0].cov()
    for build in (
        lambda final: annealed_langevin(VE, LEVELS, final=final),
        lambda final: langevin(VE, 1.0, step_size=0.1, steps=4, final=final),
    ):
        assert build("tweedie").nfe == build("noisy").nfe + 1
        assert build("tweedie").times[-1] == 0.0


def test_every_axis_has_its_own_process():
    both = AffineProcess([VP, FlowMatching()])
    times = np.linspace(0.8, 0.1, 4)
    for build in (annealed_langevin, predictor_corrector):
        together = build(both, times).unroll()
        for j, schedule in enumerate((VP, FlowMatching())):
            for one, all_axes in zip(build(schedule, times).unroll(), together, strict=True):
                assert np.allclose(all_axes[..., j], one, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: langevin(VE, 0.0, step_size=0.1, steps=1), r"t must lie in \(0"),
        (lambda: langevin(VE, 1.0, step_size=0.0, steps=1), r"step_size must lie in \(0"),
        (lambda: langevin(VE, 1.0, step_size=0.1, steps=0), "steps must be at least 1"),
        (lambda: langevin(VE, 1.0, step_size=0.1, steps=1, final="mean"), "final must be one of noisy, tweedie"),
        (lambda: annealed_langevin(VE, [1.0, 0.0]), "times must end where sigma > 0"),
        (lambda: annealed_langevin(FlowMatching(), [1.0, 0.5]), "times must start where alpha > 0"),
        (lambda: annealed_langevin(VE, LEVELS, convention="ncsn"), "convention must be one of eta, song-ermon"),
        (lambda: annealed_langevin(VE, LEVELS[::-1]), "times must decrease"),
        (lambda: predictor_corrector(VP, [1.0, 0.5], predictor="heun"), "predictor must be one of"),
        (lambda: predictor_corrector(VP, [1.0, 0.5], first="both"), "first must be one of"),
        (lambda: predictor_corrector(VP, [1.0, 0.5], snr=None), "snr or step_sizes must be given"),
        (lambda: predictor_corrector(VP, [1.0, 0.5], step_sizes=0.1), "snr and step_sizes exclude each other"),
        (
            lambda: predictor_corrector(VP, [1, 0.5], snr=None, step_sizes=[0.1] * 3),
            "step_sizes must be one number or one entry",
        ),
        (lambda: predictor_corrector(VP, [1.0, 0.5], snr=None, step_sizes=-0.1), "step_sizes must not be negative"),
        (lambda: predictor_corrector(VP, [1.0, 0.5], corrector_steps=-1), "corrector_steps must be at least 0"),
        (lambda: predictor_corrector(FlowMatching(), [1.0, 0.5], predictor="ancestral"), "times must start where"),
        (lambda: predictor_corrector(FlowMatching(), [1.0, 0.5], predictor="euler-maruyama"), "times must lie where"),
        (lambda: predictor_corrector(VEGeometric(clean_start=True), [1, 0], final="tweedie"), "times must end where"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
