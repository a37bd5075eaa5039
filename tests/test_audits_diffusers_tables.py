"""Tables of schedulers: right ones pass, and a broken entry is told by the question that it belongs to."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols.diffusers import tables, training
from refdiff.validation.audits.protocols.diffusers.options import Build, subject_of

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def found(kind: type, **options: Any) -> list[Finding]:
    subject = subject_of(Build(kind, options))
    return [*training.training_table(subject, False), *tables.grids(subject, False)]


def wrong(kind: type, **options: Any) -> set[tuple[str, str]]:
    """(question, place) of what is wrong, without the number of steps."""
    return {(f.question, f.place.split(", ")[-1]) for f in found(kind, **options) if f.verdict is Verdict.WRONG}


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "LMSDiscreteScheduler"]
)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_tables_of_right_schedulers_pass(name: str, schedule: str, spacing: str) -> None:
    kind = getattr(diffusers, name)
    assert wrong(kind, beta_schedule=schedule, timestep_spacing=spacing) <= {("first level", "one step")}


@pytest.mark.parametrize("family", ["karras", "exponential", "beta"])
def test_families_of_levels_pass_and_rounded_times_are_a_convention(family: str) -> None:
    findings = found(diffusers.DPMSolverMultistepScheduler, **{f"use_{family}_sigmas": True})
    assert not [f for f in findings if f.verdict is Verdict.WRONG]
    assert {f.place for f in findings if f.verdict is Verdict.CONVENTION} <= {"rounded", "cut"}
    assert [f for f in findings if f.question == "levels" and family in f.text]


def test_alpha_bar_off_by_one_in_time_is_rejected() -> None:
    class Late(diffusers.DDIMScheduler):  # type: ignore[misc, name-defined]
        def __init__(self, num_train_timesteps: int = 1000, beta_schedule: str = "linear") -> None:
            super().__init__(num_train_timesteps=num_train_timesteps, beta_schedule=beta_schedule)
            self.alphas_cumprod = torch.cat([torch.ones(1), self.alphas_cumprod[:-1]])

    assert ("alphas_cumprod", "alphas_cumprod") in wrong(Late)


def test_alpha_bar_of_one_wrong_beta_is_rejected() -> None:
    class Off(diffusers.DDIMScheduler):  # type: ignore[misc, name-defined]
        def __init__(self, num_train_timesteps: int = 1000) -> None:
            super().__init__(num_train_timesteps=num_train_timesteps)
            self.alphas_cumprod[500:] *= 1.001

    bad = [f for f in found(Off) if f.question == "alphas_cumprod" and f.verdict is Verdict.WRONG]
    assert bad
    assert bad[0].number is not None
    assert abs(bad[0].number - 1e-3) < 1e-4


def test_a_floor_above_the_last_entry_of_a_rescaled_table_is_rejected() -> None:
    assert ("training levels", "order") in wrong(diffusers.EulerDiscreteScheduler, rescale_betas_zero_snr=True)
    options = {
        "rescale_betas_zero_snr": True,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
    assert ("training levels", "order") not in wrong(diffusers.EulerDiscreteScheduler, **options)


class Changed(diffusers.DPMSolverMultistepScheduler):  # type: ignore[misc, name-defined]
    """A scheduler whose grid is changed after it was set."""

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **more: Any) -> None:
        super().set_timesteps(num_inference_steps, device, **more)
        self.change()

    def change(self) -> None: ...


class TimesOffByOne(Changed):
    def change(self) -> None:
        self.timesteps = self.timesteps - 1


class TimesOneHigher(Changed):
    def change(self) -> None:
        self.timesteps = self.timesteps + 1


class LevelsSquared(Changed):
    def change(self) -> None:
        self.sigmas = self.sigmas**2


class RhoFive(Changed):
    def change(self) -> None:
        a, b, n = self.sigmas[0], self.sigmas[-2], len(self.sigmas) - 1
        self.sigmas[:-1] = (a**0.2 + torch.linspace(0, 1, n) * (b**0.2 - a**0.2)) ** 5


class EndsElsewhere(Changed):
    """Karras's levels, between ends that are off by a tenth."""

    def change(self) -> None:
        a, b, n = 1.1 * self.sigmas[0], self.sigmas[-2], len(self.sigmas) - 1
        self.sigmas[:-1] = (a ** (1 / 7) + torch.linspace(0, 1, n) * (b ** (1 / 7) - a ** (1 / 7))) ** 7


class NoisyEnd(Changed):
    def change(self) -> None:
        self.sigmas[-1] = self.sigmas[-2]


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (TimesOffByOne, {}, ("spacing", "times")),
        (TimesOffByOne, {"use_karras_sigmas": True}, ("told times", "times")),
        (TimesOneHigher, {"use_exponential_sigmas": True}, ("told times", "times")),
        (TimesOneHigher, {"use_beta_sigmas": True}, ("told times", "times")),
        (LevelsSquared, {}, ("levels", "levels at the times")),
        (RhoFive, {"use_karras_sigmas": True}, ("levels", "karras levels")),
        (EndsElsewhere, {"use_karras_sigmas": True}, ("levels", "ends of karras levels")),
        (NoisyEnd, {}, ("final level", "final level")),
    ],
)
def test_a_changed_grid_is_rejected_by_its_question(kind: Any, options: Any, expected: tuple[str, str]) -> None:
    given = options | {"solver_order": 2}
    kind.__init__ = diffusers.DPMSolverMultistepScheduler.__init__
    assert expected in wrong(kind, **given)


def test_levels_without_times_are_rejected() -> None:
    assert ("levels", "count") in wrong(diffusers.EulerDiscreteScheduler, interpolation_type="log_linear")


def test_one_step_that_starts_clean_is_rejected() -> None:
    assert ("first level", "one step") in wrong(diffusers.EulerDiscreteScheduler)
    assert ("first level", "one step") not in wrong(diffusers.EulerDiscreteScheduler, timestep_spacing="trailing")


def test_flow_levels_are_equally_spaced_before_the_shift() -> None:
    findings = found(diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0)
    assert [f for f in findings if "before the shift" in f.text]
    assert not [f for f in findings if f.verdict is Verdict.WRONG]


def test_cumulative_products_are_those_of_float64() -> None:
    right, bound = training.cumulative(diffusers.DDIMScheduler().config)
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(right, np.cumprod(1 - betas), rtol=1e-12)
    assert (bound < 3e-4 * right).all()


def test_preconditioned_times_are_those_of_their_definition() -> None:
    class Doubled(diffusers.EDMEulerScheduler):  # type: ignore[misc, name-defined]
        def precondition_noise(self, sigma: Any) -> Any:
            return 2 * super().precondition_noise(sigma)

    assert ("told times", "c_noise") not in wrong(diffusers.EDMEulerScheduler)
    assert ("told times", "c_noise") in wrong(Doubled)
