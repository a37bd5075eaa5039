"""Numbers of steps and options: what breaks is found, what a class refuses is counted, and what runs passes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols.diffusers import BEYOND, classes, members, options, robustness, wrap
from refdiff.validation.audits.protocols.diffusers.options import Build, subject_of, sweep
from refdiff.validation.audits.protocols.protocol import Request, protocols
from refdiff.validation.audits.subject import Subject

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

COUNTS = (1, 2, 3, 10, 16)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def found(kind: type, *, counts: tuple[int, ...] = COUNTS, **given: Any) -> list[Finding]:
    subject = subject_of(Build(kind, given), steps=counts)
    return list(robustness.step_counts(subject, False))


def wrong(kind: type, **given: Any) -> set[str]:
    return {f.place for f in found(kind, **given) if f.verdict is Verdict.WRONG}


@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"],
)
def test_right_schedulers_run_with_every_number_of_steps(name: str) -> None:
    findings = found(getattr(diffusers, name))
    assert [f.verdict for f in findings] == [Verdict.OK], [f.text for f in findings]


class Broken(diffusers.EulerDiscreteScheduler):  # type: ignore[misc, name-defined]
    """Set as it should be, then changed."""

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **more: Any) -> None:
        super().set_timesteps(num_inference_steps, device, **more)
        self.change()

    def change(self) -> None: ...


class OneMore(Broken):
    def change(self) -> None:
        self.timesteps = torch.cat([self.timesteps, self.timesteps[-1:] - 1])


class Outside(Broken):
    def change(self) -> None:
        self.timesteps = self.timesteps + 1


class Repeats(Broken):
    def change(self) -> None:
        if len(self.sigmas) > 3:
            self.sigmas[1] = self.sigmas[2]


class Rises(Broken):
    def change(self) -> None:
        if len(self.sigmas) > 3:
            self.sigmas[1], self.sigmas[2] = self.sigmas[2].clone(), self.sigmas[1].clone()


class Raises(Broken):
    def step(self, *given: Any, **more: Any) -> Any:
        return super().step(*given, **more) if self.num_inference_steps != 10 else [][1]


class Nan(Broken):
    def step(self, output: Any, t: Any, sample: Any, **more: Any) -> Any:
        return super().step(output, t, sample / (len(self.timesteps) != 10), **more)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (OneMore, "count"),
        (Outside, "range"),
        (Repeats, "zero length"),
        (Rises, "order"),
        (Raises, "runs"),
        (Nan, "finite"),
    ],
)
def test_a_broken_scheduler_is_rejected_by_its_question(kind: Any, expected: str) -> None:
    assert expected in wrong(kind)


def test_a_finding_names_the_first_number_of_steps_and_all_of_them() -> None:
    (one,) = [f for f in found(Raises) if f.verdict is Verdict.WRONG]
    assert one.text.startswith("10 steps: IndexError")
    assert one.details["steps"] == [10]
    assert "set_timesteps(10)" in one.script


def test_a_table_whose_floor_is_above_its_last_entry_steps_upwards() -> None:
    kind = diffusers.EulerDiscreteScheduler
    assert "order" in {f.place for f in found(kind, counts=(1000,), rescale_betas_zero_snr=True)}


def test_what_a_class_refuses_is_counted_and_not_wrong() -> None:
    kind = diffusers.DDIMScheduler
    found_ = sweep(kind, quick=True)
    assert found_.refused
    assert all("sigmoid" in repr(build.options) for build, _ in found_.refused)
    (one,) = found(kind, counts=(10, 2000))
    assert one.verdict is Verdict.OK
    assert "1 refused" in one.text


def test_a_sweep_has_every_option_and_pairs_of_any_two() -> None:
    singles = sweep(diffusers.DPMSolverMultistepScheduler, quick=True)
    flat = [set(build.options) for build in singles.singles]
    for name in ("solver_order", "solver_type", "use_karras_sigmas", "timestep_spacing", "final_sigmas_type"):
        assert any(name in one for one in flat)
    assert not singles.pairs
    asked = ("beta_schedule", "use_karras_sigmas", "prediction_type")
    few = sweep(diffusers.LMSDiscreteScheduler, False, lambda build: set(build.options) <= set(asked))
    both = [set(build.options) for build in few.pairs]
    for one, two in combinations(asked, 2):
        assert {one, two} in both
    keys = [repr(options._known(build)) for build in (*few.singles, *few.pairs)]
    assert len(set(keys)) == len(keys)


def test_a_pair_that_breaks_only_together_is_found() -> None:
    class Together(diffusers.EulerDiscreteScheduler):  # type: ignore[misc, name-defined]
        def __init__(self, use_karras_sigmas: bool = False, prediction_type: str = "epsilon") -> None:
            super().__init__(use_karras_sigmas=use_karras_sigmas, prediction_type=prediction_type)

        def step(self, *given: Any, **more: Any) -> Any:
            if self.config.use_karras_sigmas and self.config.prediction_type == "sample":
                return {}["sample"]
            return super().step(*given, **more)

    findings = list(robustness.pairs(subject_of(Build(Together)), False))
    bad = {f.subject for f in findings if f.verdict is Verdict.WRONG}
    assert len(bad) == 1
    assert "use_karras_sigmas=True" in bad.pop()
    assert findings[-1].verdict is Verdict.OK
    assert "1 wrong" in findings[-1].text


def test_the_protocol_lists_every_class_of_the_installed_version() -> None:
    listed = members(True)
    assert set(listed) == set(classes())
    assert "UniPCMultistepScheduler" in listed
    assert set(BEYOND) <= set(listed)
    (one,) = listed["AmusedScheduler"]()
    assert "diffusers" in protocols()
    answers = [f for check in protocols()["diffusers"].checks for f in check(one, True)]
    assert [f.verdict for f in answers] == [Verdict.NOT_APPLICABLE]
    assert "tokens" in answers[0].text


def test_a_class_of_ones_own_is_wrapped_with_options_of_step_apart() -> None:
    subject = wrap(diffusers.EulerDiscreteScheduler, Request(options={"use_karras_sigmas": True, "s_churn": 1.0}))
    assert isinstance(subject, Subject)
    assert subject.source.at_step == {"s_churn": 1.0}
    with pytest.raises(ValueError, match=r"takes .*use_karras_sigmas.*; got nothing_like_it"):
        wrap(diffusers.EulerDiscreteScheduler, Request(options={"nothing_like_it": 1}))


def test_what_never_runs_is_not_ok() -> None:
    bogus = Build(diffusers.EulerDiscreteScheduler, {"beta_schedule": "bogus"})
    (one,) = robustness.step_counts(subject_of(bogus), True)
    assert one.verdict is Verdict.NOT_APPLICABLE
    assert "refuses every number" in one.text


def test_an_option_that_step_does_not_take_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="got s_chrun"):
        wrap(diffusers.EulerDiscreteScheduler, Request(options={"s_chrun": 40.0}))
