"""Claims of diffusers' classes that read alphas_cumprod: right steps pass, slips are named with their step."""

from dataclasses import replace

import numpy as np
import pytest

from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.ddim import ddim, ddim_inversion
from refdiff.samplers.dpm_sde import sde_dpm_solver_pp
from refdiff.samplers.impulse import NotFinite
from refdiff.samplers.pndm import plms
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.protocols.diffusers.claims import readers
from refdiff.validation.audits.protocols.diffusers.claims.products import BARS, by_level, rho
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.steps import Mismatch, compare

diffusers = pytest.importorskip("diffusers")

UNCLIPPED = {"clip_sample": False}
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **TRAILING}
LCM_TIMES = {"timesteps": [999, 759, 499, 259]}


def sampler(name, options=None, steps=5, at_steps=None, at_step=None):
    kind = getattr(diffusers, name, None) or pytest.skip(f"{name} is not in this version")
    made = Made(kind, options or {}, steps, at_steps or {}, at_step or {})
    return readers()[name](made)


def wrong(one):
    return compare(one).wrong


def named(one):
    """The variants that the sampler is."""
    return [
        (v.verdict, v.name) for v in one.claim.variants if not compare(one, replace(one.claim, build=v.build)).wrong
    ]


RIGHT = [
    ("DDPMScheduler", UNCLIPPED, {}, {}),
    ("DDPMScheduler", UNCLIPPED | {"prediction_type": "v_prediction"}, {}, {}),
    ("DDPMScheduler", UNCLIPPED | TRAILING, {}, {}),
    ("DDPMScheduler", UNCLIPPED | {"variance_type": "fixed_small_log", "prediction_type": "sample"}, {}, {}),
    ("DDPMScheduler", UNCLIPPED | {"variance_type": "fixed_large"}, {}, {}),
    ("DDPMScheduler", UNCLIPPED | {"variance_type": "learned"}, {}, {}),
    ("DDPMScheduler", UNCLIPPED | {"variance_type": "learned_range"}, {}, {}),
    ("DDPMScheduler", UNCLIPPED, {"timesteps": [900, 500, 100, 30, 2]}, {}),
    ("DDPMScheduler", UNCLIPPED | ZERO_SNR, {}, {}),
    ("DDPMParallelScheduler", UNCLIPPED, {}, {}),
    ("DDIMScheduler", UNCLIPPED, {}, {}),
    ("DDIMScheduler", UNCLIPPED | {"set_alpha_to_one": False}, {}, {"eta": 1.0}),
    ("DDIMScheduler", UNCLIPPED | {"set_alpha_to_one": False, "steps_offset": 1}, {}, {"eta": 0.5}),
    ("DDIMScheduler", UNCLIPPED | ZERO_SNR, {}, {"eta": 1.0}),
    ("DDIMScheduler", UNCLIPPED, {}, {"use_clipped_model_output": True}),
    ("DDIMParallelScheduler", UNCLIPPED, {}, {"eta": 0.5}),
    ("DDIMInverseScheduler", UNCLIPPED, {}, {}),
    ("DDIMInverseScheduler", UNCLIPPED | {"set_alpha_to_one": False}, {}, {}),
    ("CogVideoXDDIMScheduler", UNCLIPPED | ZERO_SNR, {}, {}),
    ("CogVideoXDPMScheduler", UNCLIPPED, {}, {}),
    ("CogVideoXDPMScheduler", UNCLIPPED | ZERO_SNR | {"beta_schedule": "linear"}, {}, {}),
    ("PNDMScheduler", {}, {}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}, {}, {}),
    ("LCMScheduler", {}, {}, {}),
    ("LCMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {}, {}),
    ("LCMScheduler", {}, LCM_TIMES, {}),
    ("TCDScheduler", {}, {}, {"eta": 0.5}),
    ("TCDScheduler", {}, LCM_TIMES | {"strength": 0.5}, {}),
    ("CMStochasticIterativeScheduler", {"clip_denoised": False, "s_noise": 0.9}, {}, {}),
    ("UnCLIPScheduler", UNCLIPPED, {}, {}),
    ("UnCLIPScheduler", UNCLIPPED | {"variance_type": "learned_range", "prediction_type": "sample"}, {}, {}),
    ("DDPMWuerstchenScheduler", {"scaler": 2.0}, {}, {}),
    ("SCMScheduler", {}, {}, {}),
    ("RePaintScheduler", UNCLIPPED | {"eta": 0.5}, {"jump_length": 9}, {}),
]


@pytest.mark.parametrize(("name", "options", "at_steps", "at_step"), RIGHT)
def test_right_classes_pass_with_every_choice(name, options, at_steps, at_step):
    assert not wrong(sampler(name, options, 5, at_steps, at_step))


SLIPS = [
    ("DDIMScheduler", UNCLIPPED | LINSPACE, {}, "moves by 200 timesteps"),
    ("DDIMParallelScheduler", UNCLIPPED | LINSPACE, {}, "moves by 200 timesteps"),
    ("CogVideoXDDIMScheduler", UNCLIPPED | LINSPACE, {}, "moves by 200 timesteps"),
    ("CogVideoXDPMScheduler", UNCLIPPED | LINSPACE, {}, "moves by 200 timesteps"),
    ("PNDMScheduler", {"skip_prk_steps": True, **LINSPACE}, {}, "moves by T // N = 200 timesteps"),
    ("PNDMScheduler", {"skip_prk_steps": True, "prediction_type": "v_prediction"}, {}, "combines the v"),
    ("PNDMScheduler", {"prediction_type": "v_prediction", **LINSPACE}, {}, "it also moves by"),
    ("DDPMScheduler", UNCLIPPED | TRAILING | {"variance_type": "fixed_large"}, {}, "adds noise in its last step"),
    ("LCMScheduler", {}, LCM_TIMES | {"strength": 0.5}, "noises its output"),
    ("RePaintScheduler", UNCLIPPED, {"jump_length": 1, "jump_n_sample": 2}, "undoes a step by the betas above it"),
]


@pytest.mark.parametrize(("name", "options", "at_steps", "said"), SLIPS)
def test_known_slips_of_this_version_are_named(name, options, at_steps, said):
    one = sampler(name, options, 5, at_steps)
    if not wrong(one):
        pytest.skip("repaired in this version")
    assert [(verdict, text) for verdict, text in named(one) if said in text and verdict is Verdict.WRONG]


def test_ancestral_steps_go_to_the_next_timestep_or_are_said_not_to():
    one = sampler("DDPMScheduler", UNCLIPPED | LINSPACE)
    said = [text for _, text in named(one)]
    assert not wrong(one) or any("moves by 200 timesteps" in text for text in said)  # 0.30 strode


def test_steps_that_do_not_divide_move_beside_their_next_timestep():
    one = sampler("DDIMScheduler", UNCLIPPED | TRAILING, 7)
    first = wrong(one)[0]
    # 999 - 1000 // 7 = 857, and the next timestep is 856
    assert first.stage == 1
    assert [verdict for verdict, text in named(one) if "moves by 142 timesteps" in text] == [Verdict.WRONG]


def test_trailing_timesteps_below_zero_are_more_evaluations_than_the_method_has():
    with pytest.raises(Mismatch, match="62 times, the method 61 times"):
        compare(sampler("DDIMScheduler", UNCLIPPED | TRAILING, 61))


def test_an_inverse_with_v_converts_at_another_level_by_convention():
    one = sampler("DDIMInverseScheduler", UNCLIPPED | {"prediction_type": "v_prediction"})
    assert wrong(one)
    assert [verdict for verdict, _ in named(one)] == [Verdict.CONVENTION]


def test_an_inverse_with_sample_prediction_is_infinite_where_it_starts_at_clean_data():
    with pytest.raises(NotFinite):
        compare(sampler("DDIMInverseScheduler", UNCLIPPED | {"prediction_type": "sample"}))


def test_an_eta_that_is_not_used_is_found():
    one = sampler("CogVideoXDDIMScheduler", UNCLIPPED, at_step={"eta": 1.0})
    assert wrong(one)
    assert any("takes eta and does not use it" in text for _, text in named(one))


def test_half_steps_of_odd_strides_are_one_timestep_apart():
    one = sampler("PNDMScheduler", {"num_train_timesteps": 300}, 12)  # T // N = 25: moves to 12 below, and tells 13
    assert wrong(one)[0].stage == 1
    assert any("half of them" in text for _, text in named(one))


def test_tables_step_by_step_are_those_of_the_families():
    grid = np.append(rho(np.linspace(0.01, 0.95, 6)), 0.0)
    for name, options, family in [
        ("DDIMScheduler", {}, lambda g: ddim(BARS, g)),
        ("DDIMScheduler", {"eta": 0.7}, lambda g: ddim(BARS, g, eta=0.7)),
        ("PNDMScheduler", {}, lambda g: plms(BARS, g)),
        ("CogVideoXDPMScheduler", {}, lambda g: sde_dpm_solver_pp(BARS, g)),
    ]:
        made = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
        claim = sampler(name, made, 6, at_step=options).claim
        # PLMS asks at its second time twice
        asked = np.insert(grid, 1, grid[1]) if name == "PNDMScheduler" else grid
        assert claim.build(asked).close(family(grid), 1e-12), name
    large = sampler("DDPMScheduler", UNCLIPPED | {"variance_type": "fixed_large"}, 6).claim
    assert large.build(grid).close(ddpm(BARS, grid, variance="beta"), 1e-12)
    rising = sampler("DDIMInverseScheduler", UNCLIPPED, 6).claim.build(grid[::-1])
    assert rising.close(ddim_inversion(BARS, grid[::-1], evaluate_at="noisier"), 1e-12)


def test_levels_reach_noise_without_signal_and_stay_there():
    grid = rho([0.0, 1e-6, 0.5, 1.0])
    c = BARS.coefficients(grid)
    np.testing.assert_allclose(c.alpha**2, [0.0, 1e-6, 0.5, 1.0], rtol=1e-14)
    assert (c.sigma[0], c.log_snr[0], c.sigma[-1]) == (1.0, -np.inf, 0.0)
    moved = by_level(grid, np.full(4, 1e-3))
    assert moved[0] == grid[0]
    np.testing.assert_allclose(moved[1:], grid[1:] * 1.001)


BROKEN = {
    "a little of the state added again": lambda scheduler, out, t, x: scheduler.step(out, t, x)[0] + 1e-4 * x,
    "the model's answer at the wrong sign": lambda scheduler, out, t, x: scheduler.step(-out, t, x)[0],
    "a step too far": lambda scheduler, out, t, x: scheduler.step(out, t - 1, x)[0],
}


@pytest.mark.parametrize("slip", BROKEN)
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_a_slip_in_the_third_step_is_found_there(name, slip, monkeypatch):
    one = sampler(name, UNCLIPPED, 5)
    kind = getattr(diffusers, name)
    right = kind.step

    def step(self, out, t, x, **more):
        if t != self.timesteps[2]:
            return right(self, out, t, x, **more)
        with monkeypatch.context() as m:
            m.setattr(kind, "step", right)
            m.setattr(kind, "previous_timestep", lambda self, t: self.timesteps[3], raising=False)
            return (BROKEN[slip](self, out, t, x),)

    monkeypatch.setattr(kind, "step", step)
    assert [s.stage for s in wrong(one)] == [3]
