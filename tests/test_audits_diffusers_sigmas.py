"""Schedulers on sigmas and on flows: right ones read as right, known slips have names, broken steps are found."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from refdiff.distributions import Gaussian
from refdiff.samplers import propagate
from refdiff.samplers.edm import edm_euler as edm_euler_table
from refdiff.validation.audits.checks.coefficients import told_level
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.levels import falling, strictly
from refdiff.validation.audits.protocols.diffusers.claims import (
    edm_euler,
    euler,
    flow_match,
    flow_others,
    heun,
    kdpm2,
    lms,
    score_sde,
)
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.steps import Mismatch, compare
from refdiff.validation.audits.subject import Subject

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("torchsde")  # two of the classes are there only with it
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # deprecated classes and custom schedules say so

MODULES = (edm_euler, euler, flow_match, flow_others, heun, kdpm2, lms, score_sde)
READERS = {name: reader for module in MODULES for name, reader in module.CLASSES.items()}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}


def kind_of(name):
    found = getattr(diffusers, name, None)
    if found is None:
        deprecated = pytest.importorskip("diffusers.schedulers.deprecated")
        found = getattr(deprecated, name, None)
    if found is None or "dummy" in found.__module__:  # a dummy stands for a class that needs what is not installed
        pytest.skip(f"diffusers {diffusers.__version__} has no {name} here")
    return found


def sampler(name, options=None, steps=5, at_step=None, at_steps=None, kind=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return READERS[name](Made(kind or kind_of(name), options or {}, steps, at_steps or {}, at_step or {}))


def variant_of(one):
    """The name of the first variant that the sampler is."""
    for variant in one.claim.variants:
        if not compare(one, replace(one.claim, build=variant.build)).wrong:
            assert variant.verdict is Verdict.WRONG
            return variant.name
    return None


V, KARRAS, SAMPLE = {"prediction_type": "v_prediction"}, {"use_karras_sigmas": True}, {"prediction_type": "sample"}
RIGHT = [
    ("EulerDiscreteScheduler", {}, {}),
    ("EulerDiscreteScheduler", {**V, "timestep_type": "continuous", **KARRAS}, {}),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, {}),
    ("EulerDiscreteScheduler", {**V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {}),
    ("EulerAncestralDiscreteScheduler", {}, {}),
    ("EulerAncestralDiscreteScheduler", {**V, "timestep_spacing": "leading", "steps_offset": 1}, {}),
    ("HeunDiscreteScheduler", {}, {}),
    ("HeunDiscreteScheduler", {**SAMPLE, "use_exponential_sigmas": True, **COSINE}, {}),
    ("KDPM2DiscreteScheduler", {}, {}),
    ("KDPM2DiscreteScheduler", {**V, **KARRAS}, {}),
    ("KDPM2AncestralDiscreteScheduler", V, {}),
    ("LMSDiscreteScheduler", {}, {}),
    ("LMSDiscreteScheduler", {**V, **KARRAS}, {"order": 2}),
    ("LMSDiscreteScheduler", SAMPLE, {"order": 3}),
    ("EDMEulerScheduler", {"sigma_data": 0.5}, {}),
    ("EDMEulerScheduler", {**V, "sigma_schedule": "exponential"}, {}),
    ("KarrasVeScheduler", {}, {}),
    ("ScoreSdeVeScheduler", {}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, {}),
    ("FlowMatchHeunDiscreteScheduler", {}, {}),
    ("FlowMatchLCMScheduler", {"shift": 3.0}, {}),
    ("FlowMapEulerDiscreteScheduler", {}, {}),
    ("LTXEulerAncestralRFScheduler", {"eta": 0.5, "s_noise": 0.9}, {}),
    ("MiniMaxH3Scheduler", {}, {}),
    ("PiflowScheduler", {}, {}),
    ("HeliosScheduler", {"stages": 1, "scheduler_type": "euler"}, {}),
]


@pytest.mark.parametrize(("name", "options", "at_step"), RIGHT)
def test_a_right_scheduler_has_every_step_right_and_tells_the_level_of_its_states(name, options, at_step):
    one = sampler(name, options, at_step=at_step)
    assert not compare(one).wrong
    (told,) = told_level(Subject(name, lambda _: one, steps=(5,)), True)
    assert told.verdict in (Verdict.OK, Verdict.CONVENTION), told.text


# ---------------------------------------------------------------------- slips that have a name

SLIPS = [
    (
        "EulerDiscreteScheduler",
        {},
        {"s_churn": 2.0},
        "asks the network before it adds the churn's noise, which stays in",
    ),
    (
        "EulerDiscreteScheduler",
        V,
        {"s_churn": 2.0, "s_noise": 1.1},
        "and takes v at sigma where the state is at sigma_hat",
    ),
    ("EDMEulerScheduler", {}, {"s_churn": 2.0}, "asks the network before it adds"),
    ("IPNDMScheduler", {}, {}, "loses its network's first answer"),
    ("ScoreSdeVpScheduler", {}, {}, "takes steps of 1/n"),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True, "stochastic_sampling": True}, {}, "ends in noise"),
    ("FlowMatchLCMScheduler", {"invert_sigmas": True}, {}, "ends in noise"),
    ("FlowMatchHeunDiscreteScheduler", {}, {"s_churn": 2.0}, "without scaling the data"),
]


@pytest.mark.parametrize(("name", "options", "at_step", "said"), SLIPS)
def test_a_known_slip_is_found_and_named(name, options, at_step, said):
    one = sampler(name, options, at_step=at_step)
    if not compare(one).wrong:
        pytest.skip(f"{name} of diffusers {diffusers.__version__} is right")
    assert said in variant_of(one)


@pytest.mark.parametrize("gamma", [0.1, 0.4])
def test_churn_that_is_added_after_the_network_was_asked_leaves_its_variance_in_for_data_of_one_point(gamma):
    # D = 0: the step to sigma = 0 leaves -gamma y + sigma sqrt(gamma (2 + gamma)) z, with y of variance sigma^2
    grid, point = np.array([10.0, 0.0]), Gaussian(np.zeros(1), np.zeros((1, 1)))
    right = edm_euler_table(euler.PRESERVING, grid, s_churn=gamma)
    wrong = euler.asked_before_churn(grid, "noise", {"s_churn": gamma}, taken_at_hat=True)
    left = [float(propagate(table, point).output.cov()[0, 0]) for table in (right, wrong)]
    assert left == pytest.approx([0.0, 2 * gamma * (1 + gamma) * 100.0], rel=1e-9, abs=1e-12)


def test_a_flow_that_adds_churn_as_if_its_variance_exploded_is_named():
    class Old(kind_of("FlowMatchEulerDiscreteScheduler")):  # as in older releases
        def step(self, answer, t, x, s_churn=0.0):
            if self.step_index is None:
                self._init_step_index(t)
            sigma, after = self.sigmas[self.step_index : self.step_index + 2]
            hat = sigma * (1 + min(s_churn / (len(self.sigmas) - 1), 2**0.5 - 1))
            x = x + diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor(x.shape) * (
                hat**2 - sigma**2
            ).sqrt().to(x.dtype)
            self._step_index += 1
            return (x + (after - hat) * sigma / hat * answer,)

    one = sampler("FlowMatchEulerDiscreteScheduler", at_step={"s_churn": 1.0}, kind=Old)
    assert "without scaling the data" in variant_of(one)


def test_log_linear_interpolation_has_a_level_more_than_it_has_steps():
    with pytest.raises(Mismatch, match="5 times, the method 6 times"):
        compare(sampler("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}))


def test_dpm2_ancestral_loses_its_way_down_where_levels_are_far_apart():
    one = sampler("KDPM2AncestralDiscreteScheduler", COSINE, steps=10)
    wrong, said = [], ""
    try:
        wrong = compare(one).wrong
    except ValueError as error:  # what cancels is a root of a number below 0 on some processors
        said = str(error)
    if said:
        assert said.endswith("got nan")
        return
    if not wrong:
        pytest.skip(f"KDPM2AncestralDiscreteScheduler of diffusers {diffusers.__version__} is right")
    assert len(wrong) == 1
    assert wrong[0].error > 0.1
    assert "cancels in float32" in variant_of(one)


# ---------------------------------------------------------------------- negative controls


def broken_euler():
    class Broken(kind_of("EulerDiscreteScheduler")):
        def step(self, answer, t, x, **rest):
            index = self.step_index or 0
            new = super().step(answer, t, x, **rest)[0]
            return (x + (new - x) / 2 if index == 2 else new,)

    return Broken


def broken_heun():
    class Broken(kind_of("HeunDiscreteScheduler")):
        def step(self, answer, t, x, **rest):
            self.prev_derivative = None if self.prev_derivative is None else 0 * self.prev_derivative
            return super().step(answer, t, x, **rest)

    return Broken


def broken_kdpm2():
    class Broken(kind_of("KDPM2DiscreteScheduler")):
        def set_timesteps(self, *given, **named):
            super().set_timesteps(*given, **named)
            self.sigmas_interpol = self.sigmas_interpol * 1.01

    return Broken


def broken_lms():
    class Broken(kind_of("LMSDiscreteScheduler")):
        def get_lms_coefficient(self, order, t, current):
            return super().get_lms_coefficient(order, t, order - 1 - current)

    return Broken


def broken_flow():
    class Broken(kind_of("FlowMatchEulerDiscreteScheduler")):
        def step(self, answer, t, x, **rest):
            return super().step(-answer, t, x, **rest)

    return Broken


def broken_edm():
    class Broken(kind_of("EDMEulerScheduler")):
        def precondition_outputs(self, x, answer, sigma):
            return super().precondition_outputs(x, answer / 2, sigma)

    return Broken


BROKEN = [
    ("EulerDiscreteScheduler", broken_euler, [3]),
    ("HeunDiscreteScheduler", broken_heun, [1, 2, 3, 4]),
    ("KDPM2DiscreteScheduler", broken_kdpm2, [1, 2, 3, 4]),
    ("LMSDiscreteScheduler", broken_lms, [2, 3, 4, 5]),
    ("FlowMatchEulerDiscreteScheduler", broken_flow, [1, 2, 3, 4, 5]),
    ("EDMEulerScheduler", broken_edm, [1, 2, 3, 4, 5]),
]


@pytest.mark.parametrize(("name", "broken", "steps"), BROKEN)
def test_a_broken_scheduler_is_off_in_its_broken_steps_alone(name, broken, steps):
    comparison = compare(sampler(name, kind=broken()))
    said = sorted({int(str(step).split("step ")[1].split()[0].rstrip(",:")) for step in comparison.wrong})
    assert said == steps


def test_times_that_are_one_off_are_told_wrong():
    class Late(kind_of("HeunDiscreteScheduler")):
        def set_timesteps(self, *given, **named):
            super().set_timesteps(*given, **named)
            self.timesteps[1::2] = self.timesteps[1::2] + 1

    one = sampler("HeunDiscreteScheduler", kind=Late)
    (told,) = told_level(Subject("late", lambda _: one, steps=(5,)), True)
    assert told.verdict is Verdict.WRONG
    assert "evaluation 2 " in told.text


def test_levels_that_repeat_are_made_to_decrease_by_less_than_a_rounding():
    found = strictly(np.array([3.0, 1.0, 1.0, 0.5, 0.0]))
    assert (np.diff(found) < 0).all()
    assert np.abs(found - [3.0, 1.0, 1.0, 0.5, 0.0]).max() < 1e-12


def test_a_grid_that_rises_is_refused_and_one_that_rises_by_a_rounding_is_not():
    assert falling([3.0, 1.0, 1.0000003, 0.0]).tolist() == [3.0, 1.0, 1.0000003, 0.0]
    with pytest.raises(ValueError, match=r"levels must fall, got a step from 1 to 1\.5"):
        falling([3.0, 1.0, 1.5, 0.0])
