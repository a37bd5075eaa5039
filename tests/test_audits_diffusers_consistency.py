"""The same result by every way to the same thing; a scheduler that remembers, mixes or converts wrongly is found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.protocols.diffusers import claims, consistency, resumed, runs
from refdiff.validation.audits.protocols.diffusers.claimed import read
from refdiff.validation.audits.protocols.diffusers.options import Build, subject_of

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def verdicts(kind: type, **options: Any) -> dict[Verdict, set[tuple[str, str]]]:
    found: dict[Verdict, set[tuple[str, str]]] = {verdict: set() for verdict in Verdict}
    for one in consistency.consistency(subject_of(Build(kind, options)), False):
        found[one.verdict].add((one.question, one.place))
    return found


def test_a_right_scheduler_is_consistent_in_every_way() -> None:
    found = verdicts(diffusers.DPMSolverMultistepScheduler)
    assert not found[Verdict.WRONG]
    assert {q for q, _ in found[Verdict.OK]} == {
        "state", "output", "begin index", "scaled", "batch", "number type", "prediction types"
    }  # fmt: skip
    assert ("prediction types", "v_prediction") in found[Verdict.OK]
    assert ("number type", "bfloat16") in found[Verdict.OK]


def test_a_stochastic_scheduler_is_consistent_with_the_same_normals() -> None:
    found = verdicts(diffusers.EulerAncestralDiscreteScheduler)
    assert not found[Verdict.WRONG]
    assert ("state", "after a run") in found[Verdict.OK]


def test_a_multistep_method_that_begins_later_with_the_weights_of_a_past_that_it_lacks_is_rejected() -> None:
    """The LMS scheduler takes its order from the step's number, and drops the terms that have no derivatives yet."""
    beside = read(subject_of(Build(diffusers.LMSDiscreteScheduler)), consistency.STEPS)
    assert beside is not None
    first = next(f for f in resumed.resumed(beside) if f.place == "by index, step 4")
    assert first.verdict is Verdict.WRONG


class Broken(diffusers.EulerDiscreteScheduler):  # type: ignore[misc, name-defined]
    """One thing is broken in each subclass."""

    order = 1
    change: Callable[..., Any] = staticmethod(lambda self, result, output: result)
    memory = 0

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        result = super().step(model_output, timestep, sample, return_dict=return_dict)
        self.memory += 1
        value = self.change(self, result[0] if not return_dict else result.prev_sample, return_dict)
        if return_dict:
            result.prev_sample = value
            return result
        return (value, *result[1:])


CHANGES: dict[tuple[str, str], Callable[..., Any]] = {
    ("state", "after a run"): lambda self, x, named: x * (1.001 if self.memory > 8 else 1),
    ("batch", "one by one"): lambda self, x, named: x + 0.01 * x.mean(dim=0, keepdim=True),
    ("number type", "float16"): lambda self, x, named: x.float().double() if x.dtype != torch.float64 else x,
    ("number type", "float64"): lambda self, x, named: x.float(),
    ("output", "return_dict"): lambda self, x, named: -x if named else x,
    ("prediction types", "sample"): lambda self, x, named: x * (1.01 if self.config.prediction_type == "sample" else 1),
    ("begin index", "by index, step 4"): lambda self, x, named: x * (1.01 if self.begin_index == 4 else 1),
}


PARTS = {
    "state": consistency.states,
    "batch": consistency.batches,
    "number type": consistency.types,
    "output": consistency.outputs,
    "prediction types": consistency.predictions,
    "begin index": resumed.resumed,
}


@pytest.mark.parametrize("expected", CHANGES)
def test_what_is_broken_is_rejected_by_its_question(expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    readers = claims.readers()
    monkeypatch.setattr(
        "refdiff.validation.audits.protocols.diffusers.options.readers",
        lambda: {**readers, "Changed": readers["EulerDiscreteScheduler"]},
    )
    kind = type("Changed", (Broken,), {"change": staticmethod(CHANGES[expected])})
    kind.__init__ = diffusers.EulerDiscreteScheduler.__init__  # type: ignore[misc]
    if expected == ("number type", "float64"):  # which ends the check
        assert expected in verdicts(kind)[Verdict.WRONG]
        return
    beside = read(subject_of(Build(kind)), consistency.STEPS)
    assert beside is not None
    assert expected in {(f.question, f.place) for f in PARTS[expected[0]](beside) if f.verdict is Verdict.WRONG}


def test_steps_that_a_scheduler_had_before_change_what_it_does_later() -> None:
    """The singlestep solver writes lower_order_final into its options where the steps are odd."""
    options = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    beside = read(subject_of(Build(diffusers.DPMSolverSinglestepScheduler, options)), consistency.STEPS)
    assert beside is not None
    assert "after other steps" in {f.place for f in consistency.states(beside) if f.verdict is Verdict.WRONG}


def test_the_network_is_exact() -> None:
    found = read(subject_of(Build(diffusers.DDIMScheduler, {"clip_sample": False})))
    assert found is not None
    a, s = found.level(3)
    x = np.array([[0.3, -1.0]])
    clean = (x - s * runs.exact(found)(x, 3)) / a
    # the posterior mean of N(m, v) by precision weights
    weight = np.array([1 / runs.VARIANCE, a * a / s**2])
    mean = (weight[0] * runs.MEAN + weight[1] * x / a) / weight.sum()
    np.testing.assert_allclose(clean, mean, rtol=1e-9)
