"""What schedulers expose beside their steps: right ones pass, a broken part is told by its own question."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from refdiff.validation.audits.checks.coefficients import coefficients
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols.diffusers import claimed, claims, exposed, given
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
    return [*exposed.exposed(subject, False), *given.given(subject, False)]


def wrong(kind: type, **options: Any) -> set[tuple[str, str]]:
    return {(f.question, f.place) for f in found(kind, **options) if f.verdict is Verdict.WRONG}


@pytest.mark.parametrize(
    ("name", "questions"),
    [
        ("DDIMScheduler", {"initial noise", "add_noise", "get_velocity", "pred_original_sample", "constants"}),
        ("DPMSolverMultistepScheduler", {"initial noise", "add_noise", "custom timesteps", "constants"}),
        ("LMSDiscreteScheduler", {"initial noise", "scale_model_input", "add_noise", "pred_original_sample"}),
        ("HeunDiscreteScheduler", {"initial noise", "scale_model_input", "add_noise", "custom timesteps"}),
    ],
)
def test_right_schedulers_pass_each_question(name: str, questions: set[str]) -> None:
    findings = found(getattr(diffusers, name), **({"clip_sample": False} if name == "DDIMScheduler" else {}))
    assert questions <= {f.question for f in findings if f.verdict is Verdict.OK}
    assert not [f for f in findings if f.verdict is Verdict.WRONG]


class Lms(diffusers.LMSDiscreteScheduler):  # type: ignore[misc, name-defined]
    """A scheduler of which one part is broken in a subclass."""

    broken = ""

    @property
    def init_noise_sigma(self) -> Any:
        return super().init_noise_sigma * (2 if self.broken == "initial" else 1)

    def scale_model_input(self, sample: Any, timestep: Any) -> Any:
        shown = super().scale_model_input(sample, timestep)
        return sample if self.broken == "shown" else shown

    def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
        if self.broken == "half":
            return super().add_noise(original_samples, noise / 2, timesteps)
        if self.broken == "batch" and len(timesteps) > 1:
            return super().add_noise(original_samples, noise, timesteps[:1].repeat(len(timesteps)))
        if self.broken == "begin" and self.begin_index:
            return super().add_noise(original_samples, 2 * noise, timesteps)
        return super().add_noise(original_samples, noise, timesteps)

    def step(self, *given: Any, **more: Any) -> Any:
        out = super().step(*given, **more)
        if self.broken == "original":
            out.pred_original_sample = -out.pred_original_sample
        return out


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("initial", ("initial noise", "init_noise_sigma")),
        ("shown", ("scale_model_input", "")),
        ("half", ("add_noise", "one by one")),
        ("batch", ("add_noise", "in a batch")),
        ("begin", ("add_noise", "begin index")),
        ("original", ("pred_original_sample", "pred_original_sample")),
    ],
)
def test_a_broken_part_is_rejected_by_its_question(
    part: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = claims.readers()
    monkeypatch.setattr(
        "refdiff.validation.audits.protocols.diffusers.options.readers",
        lambda: {**readers, "Broken": readers["LMSDiscreteScheduler"]},
    )
    kind = type("Broken", (Lms,), {"broken": part})
    kind.__init__ = diffusers.LMSDiscreteScheduler.__init__  # type: ignore[misc]
    assert expected in wrong(kind)


def test_wrong_constants_are_rejected() -> None:
    class Off(diffusers.DPMSolverMultistepScheduler):  # type: ignore[misc, name-defined]
        def __init__(self, solver_order: int = 2) -> None:
            super().__init__(solver_order=solver_order)
            self.lambda_t = 2 * self.lambda_t

    assert wrong(Off) == {("constants", "lambda_t")}


def test_velocities_by_the_index_of_the_step_are_rejected() -> None:
    assert ("get_velocity", "one by one") in wrong(diffusers.EulerDiscreteScheduler)


def test_custom_levels_that_are_taken_for_a_ramp_are_rejected() -> None:
    assert ("custom sigmas", "sigmas") in wrong(diffusers.EDMEulerScheduler)
    assert not {q for q, _ in wrong(diffusers.EulerDiscreteScheduler)} & {"custom sigmas"}


def test_given_levels_that_are_shifted_are_a_convention() -> None:
    findings = found(diffusers.FlowMatchEulerDiscreteScheduler, shift=3.0)
    assert [f.verdict for f in findings if f.question == "custom sigmas"] == [Verdict.CONVENTION]


def test_levels_that_are_shaped_otherwise_than_the_options_say_are_no_convention() -> None:
    class Other(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc, name-defined]
        """What it is given is shifted by 2, its own levels by 3; times and levels agree with each other."""

        def __init__(self, shift: float = 3.0) -> None:
            super().__init__(shift=shift)

        def set_timesteps(self, num_inference_steps: Any = None, sigmas: Any = None, **more: Any) -> None:
            self.set_shift(3.0 if sigmas is None else 2.0)
            super().set_timesteps(num_inference_steps, sigmas=sigmas, **more)

    assert ("custom sigmas", "sigmas") in {
        (f.question, f.place) for f in given.customs(Build(Other)) if f.verdict is Verdict.WRONG
    }


def test_given_levels_that_are_off_are_no_convention_where_nothing_shifts() -> None:
    class Off(diffusers.FlowMatchEulerDiscreteScheduler):  # type: ignore[misc, name-defined]
        """Given levels come out 1.5e-4 off in one place, and 0.9 of a time in another."""

        def __init__(self, shift: float = 1.0) -> None:
            super().__init__(shift=shift)

        def set_timesteps(self, num_inference_steps: Any = None, sigmas: Any = None, **more: Any) -> None:
            super().set_timesteps(num_inference_steps, sigmas=sigmas, **more)
            if sigmas is not None:
                self.sigmas, self.timesteps = self.sigmas.clone(), self.timesteps.clone()
                self.sigmas[3] += 1.5e-4
                self.timesteps[4] += 0.9

    assert [f.verdict for f in given.customs(Build(Off)) if f.question == "custom sigmas"] == [Verdict.WRONG]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], type]:
    """(a subclass, its parent's name) -> the subclass, with its parent's constructor and claim."""
    readers = dict(claims.readers())

    def made(kind: type, parent: str) -> type:
        readers[kind.__name__] = readers[parent]
        kind.__init__ = getattr(diffusers, parent).__init__  # type: ignore[misc]
        return kind

    monkeypatch.setattr("refdiff.validation.audits.protocols.diffusers.options.readers", lambda: readers)
    return made


@pytest.mark.parametrize("place", [2, 6])
def test_noise_that_is_off_at_one_time_is_found_where_others_take_the_level_of_the_rounded_time(
    known: Callable[[type, str], type], place: int
) -> None:
    right = diffusers.SASolverScheduler(use_karras_sigmas=True)
    right.set_timesteps(10)
    bad = int(right.timesteps[place])

    class Louder(diffusers.SASolverScheduler):  # type: ignore[misc, name-defined]
        def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> Any:
            louder = 1 + 1e-4 * (timesteps == bad).double()[:, None]
            return super().add_noise(original_samples, noise, timesteps) * louder

    def asked(kind: type) -> set[Verdict]:
        subject = subject_of(Build(kind, {"use_karras_sigmas": True}))
        return {f.verdict for f in exposed.exposed(subject, False) if f.question == "add_noise"}

    assert asked(diffusers.SASolverScheduler) == {Verdict.CONVENTION}
    assert asked(known(Louder, "SASolverScheduler")) == {Verdict.WRONG}


def test_what_set_timesteps_keeps_or_clears_is_set_anew_for_every_run(known: Callable[[type, str], type]) -> None:
    class Kept(diffusers.EulerDiscreteScheduler):  # type: ignore[misc, name-defined]
        def set_timesteps(self, *given: Any, **more: Any) -> None:
            super().set_timesteps(*given, **more)
            self.pairs = (i for i in range(9))  # which cannot be copied

    class Cleared(diffusers.EulerDiscreteScheduler):  # type: ignore[misc, name-defined]
        past: ClassVar[list[int]] = []

        def set_timesteps(self, *given: Any, **more: Any) -> None:
            super().set_timesteps(*given, **more)
            self.past.clear()

        def step(self, *given: Any, **more: Any) -> Any:
            self.past.append(1)
            assert len(self.past) <= len(self.timesteps)
            return super().step(*given, **more)

    for kind in (Kept, Cleared):
        subject = subject_of(Build(known(kind, "EulerDiscreteScheduler")))
        assert {f.verdict for f in coefficients(subject, True)} == {Verdict.OK}


def test_an_exact_network_for_one_point_answers_what_each_prediction_is() -> None:
    import numpy as np

    point, noise, a, s = np.array([0.5]), np.array([2.0]), 0.6, 0.8
    x = a * point + s * noise
    expected = {"denoiser": point, "noise": noise, "v_prediction": a * noise - s * point, "velocity": noise - point}
    for name, value in expected.items():
        answered = claimed.answer(name, x, point, a, s)
        assert answered is not None
        np.testing.assert_allclose(answered, value)
    assert claimed.answer("score", x, point, a, s) is None


def test_scripts_are_programs() -> None:
    subject = subject_of(Build(diffusers.EulerDiscreteScheduler))
    scripts = [f.script for f in exposed.exposed(subject, False) if f.script]
    assert len(scripts) >= 5
    for script in scripts:
        assert ast.parse(script).body
