"""Denoisers and schedules by themselves: exact ones pass in both number types, slips are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching, Schedule, SubVP, VEPower, VPCosine, VPLinear
from refdiff.validation.audits.checks.denoisers import DenoiserSubject, denoiser, standard_law
from refdiff.validation.audits.checks.schedules import ScheduleSubject, schedule
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.subject import Subject

PROCESSES = (VPLinear(), VPCosine(), FlowMatching(), SubVP(), VEPower(T=80.0))
PREDICTIONS = ("denoiser", "noise", "score", "velocity", "v_prediction")
FRACTIONS = (1e-3, 0.05, 0.3, 0.7, 0.99)


def asked(process: Schedule, answer: Callable[..., Any], prediction: str = "denoiser", **more: Any) -> list[Finding]:
    times = tuple(process.T * u for u in FRACTIONS)
    subject = DenoiserSubject("mine", answer=answer, process=process, prediction=prediction, times=times, **more)
    return list(denoiser(subject, False))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_exact_answers_pass(process: Schedule, prediction: str) -> None:
    model = ExactModel(standard_law(), process)
    found = asked(process, lambda x, t: model.predict(x, t, prediction), prediction)
    found += asked(
        process,
        lambda x, t: np.float32(model.predict(x.astype(np.float32), np.float32(t), prediction)),
        prediction,
        dtype=np.dtype(np.float32),
    )
    assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_a_denoiser_made_from_the_score_passes_and_slips_are_named(process: Schedule) -> None:
    model = ExactModel(standard_law(), process)

    def tweedie(x: Any, t: float, power: int = 2) -> Any:
        c = process.coefficients(t)
        return (x + c.sigma**power * model.score(x, t)) / c.alpha

    assert all(f.verdict is Verdict.OK for f in asked(process, tweedie))
    for answer, said in {
        (lambda x, t: tweedie(x, t, 1)): "sigma in place of sigma^2",
        (lambda x, t: model.noise(x, t)): "the noise prediction",
        (lambda x, t: 1.001 * model.denoiser(x, t)): "1.001 at t",
    }.items():
        found = asked(process, answer)
        assert all(f.verdict is Verdict.WRONG and said in f.text for f in found), [f.text for f in found]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_both_ends_of_time_are_examined(process: Schedule) -> None:
    """The answer is x at the data, and at pure noise the mean of the data; a thousandth beside them is rejected."""
    model = ExactModel(standard_law(), process)
    for factor, verdict in ((1.0, Verdict.OK), (1.001, Verdict.WRONG)):

        def answer(x: Any, t: float, factor: float = factor) -> Any:
            return factor * model.denoiser(x, t)

        made = DenoiserSubject("ends", answer=answer, process=process, times=(0.0, process.T))
        assert [f.verdict for f in denoiser(made, False)] == [verdict] * 2


def test_wrong_shapes_exceptions_and_no_numbers_are_findings() -> None:
    for answer, said in (
        (lambda x, t: x[:, 0], "shape (32,)"),
        (lambda x, t: 1 / 0, "ZeroDivisionError"),
        (lambda x, t: x * np.nan, "nan"),
    ):
        found = asked(VPLinear(), answer)
        assert all(f.verdict is Verdict.WRONG and said in f.text for f in found)


def of(process: Schedule, dtype: str = "float64", **changed: Any) -> list[Finding]:
    names = {"alpha": process.alpha, "sigma": process.sigma, "log_snr": process.log_snr, "dalpha": process.dalpha,
             "dsigma": process.dsigma, "inverse": process.time_of_log_snr}  # fmt: skip
    functions = {
        name: (lambda t, f=function: np.asarray(f(t), dtype=dtype).astype(float))
        for name, function in {**names, **changed}.items()
    }
    made = ScheduleSubject("mine", process=process, span=(0.0, process.T), dtype=np.dtype(dtype), **functions)
    return list(schedule(made, False))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_schedules_themselves_pass(process: Schedule, dtype: str) -> None:
    found = of(process, dtype)
    assert len(found) == 7
    assert not [f.text for f in found if f.verdict is not Verdict.OK]


def test_slips_of_schedules_are_named() -> None:
    p = VPLinear()
    slips: dict[str, tuple[Callable[[Any], Any], str]] = {
        "alpha": (lambda t: p.alpha(t) ** 2, "alpha squared"),
        "sigma": (lambda t: p.sigma(t) ** 2, "the variance sigma^2"),
        "dsigma": (lambda t: p.dsigma(t) / 2, "half of it"),
        "dalpha": (lambda t: p.f(t), "the rate alpha' / alpha"),
        "log_snr": (lambda t: 2 * p.log_snr(t), "twice of it"),
        "inverse": (lambda lam: p.time_of_log_snr(lam) + 1e-3, "the time of lambda"),
    }
    for name, (function, said) in slips.items():
        found = of(p, **{name: function})
        wrong = [f for f in found if f.verdict is Verdict.WRONG and f.place == name]
        assert len(wrong) == 1
        assert said in wrong[0].text
    late = of(p, alpha=lambda t: p.alpha(np.minimum(t + 0.005, 1)))
    assert any("one time step too late" in f.text for f in late)
    flat = of(p, sigma=lambda t: p.sigma(np.maximum(t, 0.5)) * p.alpha(np.minimum(t, 0.5)) * 0 + 0.5,
              alpha=lambda t: 0 * t + 0.5)  # fmt: skip
    assert any(f.place == "monotone" and f.verdict is Verdict.WRONG for f in flat)


def test_what_a_schedules_functions_raise_is_its_finding() -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError("by the schedule")

    for name in ("alpha", "sigma", "dalpha", "log_snr", "inverse"):
        for function, said in ((broken, "ZeroDivisionError: by the schedule"), (lambda t: t[:3], "shape (3,)")):
            names = {"alpha": VPLinear().alpha, "sigma": VPLinear().sigma, name: function}
            made = ScheduleSubject("mine", process=VPLinear(), **names)  # type: ignore[arg-type]
            wrong = {f.place: f.text for f in schedule(made, True) if f.verdict is Verdict.WRONG}
            assert set(wrong) == {name} | ({"monotone"} if name in ("alpha", "sigma") else set())
            assert all(said in text for text in wrong.values())


def test_a_level_that_stays_within_roundings_is_told_from_one_that_does_not() -> None:
    p = VPCosine()
    steps = {name: (lambda t, f=f: f(np.floor(t * 100) / 100)) for name, f in (("alpha", p.alpha), ("sigma", p.sigma))}
    flat = of(p, "float32", **steps)
    assert [f.verdict for f in flat if f.place == "monotone"] == [Verdict.WRONG]


def test_a_check_that_meets_another_subject_yields_nothing() -> None:
    other = Subject("a sampler", lambda steps: None)  # type: ignore[arg-type, return-value]
    assert not [*denoiser(other, False), *schedule(other, False)]
