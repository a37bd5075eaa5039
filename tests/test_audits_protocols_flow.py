"""Flow-matching solvers, schedulers, paths and matchers: what is right passes, one changed number is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from refdiff.samplers import families
from refdiff.validation.audits.checks.coefficients import coefficients, told_level
from refdiff.validation.audits.checks.parts import parts
from refdiff.validation.audits.checks.schedules import ScheduleSubject, schedule
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols import flow_matching, torchcfm, velocity
from refdiff.validation.audits.protocols.protocol import Request, protocols
from refdiff.validation.audits.subject import Subject

METHODS = (
    "fm-euler",
    "fm-midpoint",
    "fm-heun",
    "fm-ralston",
    "fm-heun3",
    "fm-kutta3",
    "fm-ssprk3",
    "fm-rk4",
    "fm-rk38",
)


def explicit(name: str, change: Callable[[Any, Any, Any], Any] = lambda A, b, c: (A, b, c)) -> Callable[..., Any]:
    """A loop over times of the Runge-Kutta method of a family, with its numbers changed."""
    from refdiff.samplers.runge_kutta import METHODS as known

    rule = known[name.removeprefix("fm-")]
    A, b, c = change(rule.A.copy(), rule.b.copy(), rule.c.copy())

    def loop(velocity: Callable[[Any, Any], Any], x: Any, times: Any) -> Any:
        for i in range(len(times) - 1):
            h, slopes = times[i + 1] - times[i], []
            for row, part in zip(A, c, strict=True):
                moved = sum((float(w) * k for w, k in zip(row, slopes, strict=False)), 0 * x)
                slopes.append(velocity(x + h * moved, times[i] + float(part) * h))
            x = x + h * sum(float(w) * k for w, k in zip(b, slopes, strict=True))
        return x

    return loop


def subject(loop: Callable[..., Any], family: str, dtype: str = "float64", **options: Any) -> Subject:
    return velocity.wrap(loop, Request(family, {"arrays": "numpy", **options}, {}, dtype))


def wrong(found: Iterator[Finding]) -> list[Finding]:
    return [one for one in found if one.verdict is Verdict.WRONG]


@pytest.mark.parametrize(("data_at", "dtype"), [(0, "float64"), (1, "float32")])
@pytest.mark.parametrize("name", METHODS)
def test_every_right_method_passes(name: str, data_at: int, dtype: str) -> None:
    one = subject(explicit(name), name, dtype, data_at=data_at)
    for check in (coefficients, told_level):
        found = list(check(one, True))
        assert found
        assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


def test_a_changed_coefficient_is_named_with_its_step() -> None:
    def halved(A: Any, b: Any, c: Any) -> Any:
        b[1] *= 0.9
        return A, b, c

    (found,) = wrong(coefficients(subject(explicit("fm-rk4", halved), "fm-rk4"), True))
    assert "step 1" in found.text
    assert "0.06, should be -0.066666667" in found.text.replace("-0.06,", "0.06,")


def test_a_time_that_is_off_by_a_step_is_found_though_no_weight_shows_it() -> None:
    def late(velocity: Callable[[Any, Any], Any], x: Any, times: Any) -> Any:
        for i in range(len(times) - 1):
            x = x + (times[i + 1] - times[i]) * velocity(x, times[i + 1])
        return x

    one = subject(late, "fm-euler")
    assert not wrong(coefficients(one, True))
    (found,) = wrong(told_level(one, True))
    assert "evaluation 1 (in step 1) is told t = 0.8" in found.text
    assert "that of the next evaluation" in found.text


@pytest.mark.parametrize("end", [0, -1])
def test_one_end_of_time_told_at_every_step_is_no_rounding_of_times(end: int) -> None:
    """Pure noise and clean data are infinitely far from any level: told elsewhere they are not rounded, but wrong."""

    def stuck(velocity: Callable[[Any, Any], Any], x: Any, times: Any) -> Any:
        for i in range(len(times) - 1):
            x = x + (times[i + 1] - times[i]) * velocity(x, times[end])
        return x

    for data_at in (0, 1):
        assert wrong(told_level(subject(stuck, "fm-euler", data_at=data_at), True))


def test_a_velocity_taken_with_the_wrong_sign_is_found() -> None:
    def turned(velocity: Callable[[Any, Any], Any], x: Any, times: Any) -> Any:
        for i in range(len(times) - 1):
            x = x - (times[i + 1] - times[i]) * velocity(x, times[i])
        return x

    (found,) = wrong(coefficients(subject(turned, "fm-euler"), True))
    assert "minus it" in found.text


def test_torch_and_jax_loops_pass_as_numpy_ones_do() -> None:
    for arrays in ("torch", "jax"):
        pytest.importorskip(arrays)
        dtype = "float64" if arrays == "torch" else "float32"  # JAX has float64 only where it is switched on
        one = subject(explicit("fm-heun"), "fm-heun", dtype, arrays=arrays)
        assert all(f.verdict is Verdict.OK for f in coefficients(one, True))


def test_an_unknown_option_of_time_is_refused() -> None:
    with pytest.raises(ValueError, match="data_at"):
        subject(explicit("fm-euler"), "fm-euler", data_at=2)
    assert "fm-euler" in families()


# ---------------------------------------------------------------------- flow_matching


def test_the_solvers_of_flow_matching_have_the_coefficients_of_their_names() -> None:
    pytest.importorskip("flow_matching")
    for kind, methods in flow_matching.SOLVERS.items():
        for method in methods:
            one = flow_matching.subject(kind, method, by_size=method == "rk4", steps=(8,))
            assert not wrong(coefficients(one, True)), (kind, method)
            assert not wrong(told_level(one, True)), (kind, method)


def test_steps_by_size_that_begin_at_zero_wherever_the_interval_begins_are_found() -> None:
    """RiemannianODESolver makes times i step_size from s = 0 also where it starts at s = 1/2."""
    pytest.importorskip("flow_matching")
    one = flow_matching.subject("RiemannianODESolver", "midpoint", by_size=True, late=True)
    assert wrong(coefficients(one, True))
    found = wrong(told_level(one, True))
    assert "evaluation 1 (in step 1) is told t = 1.0, which is noise level inf; its state has 1" in found[0].text
    assert not wrong(coefficients(flow_matching.subject("ODESolver", "midpoint", by_size=True, late=True), True))


def test_schedulers_and_conversions_of_flow_matching_are_right() -> None:
    pytest.importorskip("flow_matching")
    for name in ("CondOTScheduler", "PolynomialConvexScheduler", "VPScheduler", "LinearVPScheduler", "CosineScheduler"):
        one = flow_matching.scheduler(name, "float64")
        assert not wrong(schedule(one, True))
        assert not wrong(parts(one, True))
    for name in ("AffineProbPath", "compute_likelihood"):
        (made,) = flow_matching.members(True)[name]()
        assert not wrong(parts(made, True))


def test_a_scheduler_with_a_derivative_of_the_wrong_sign_is_found() -> None:
    pytest.importorskip("flow_matching")
    from dataclasses import replace

    one = flow_matching.scheduler("VPScheduler", "float64")
    assert isinstance(one, ScheduleSubject)
    assert one.dsigma is not None
    true = one.dsigma
    found = wrong(schedule(replace(one, dsigma=lambda t: -true(t)), True))
    assert [f.place for f in found] == ["dsigma"]


def test_the_clean_end_of_a_changed_scheduler_is_no_number() -> None:
    """0 / 0 where the velocity has a limit: found at s = 1 and nowhere else."""
    pytest.importorskip("flow_matching")
    (made,) = flow_matching.members(True)["ScheduleTransformedModel"]()
    found = wrong(parts(made, True))
    assert found
    assert all("s = 1.0" in f.text for f in found)


@pytest.mark.parametrize("conversion", ["velocity_to_target", "target_to_epsilon", "epsilon_to_velocity"])
def test_a_conversion_that_is_off_by_a_thousandth_is_found(conversion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = pytest.importorskip("flow_matching.path").AffineProbPath
    true = getattr(kind, conversion)
    monkeypatch.setattr(kind, conversion, lambda *given, **named: 1.001 * true(*given, **named))
    (made,) = flow_matching.members(True)["AffineProbPath"]()
    assert {f.place.partition(": ")[2] for f in wrong(parts(made, True))} == {conversion}


def test_a_likelihood_without_its_divergence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = pytest.importorskip("flow_matching.solver").ODESolver
    true = kind.compute_likelihood

    def silent(self: Any, x: Any, log_p: Any, *given: Any, **named: Any) -> Any:
        end, _ = true(self, x, log_p, *given, **named)
        return end, log_p(end)

    monkeypatch.setattr(kind, "compute_likelihood", silent)
    (made,) = flow_matching.members(True)["compute_likelihood"]()
    assert [f.place for f in wrong(parts(made, True))] == ["change of log p"]


def test_an_inverse_of_the_ratio_for_another_schedule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = pytest.importorskip("flow_matching.path.scheduler").LinearVPScheduler
    monkeypatch.setattr(kind, "snr_inverse", lambda self, snr: snr / (1 + snr))
    found = wrong(parts(flow_matching.scheduler("LinearVPScheduler", "float64"), True))
    assert [f.place for f in found] == ["snr_inverse"]


# ---------------------------------------------------------------------- torchcfm


def test_matchers_and_couplings_of_torchcfm_are_right() -> None:
    pytest.importorskip("torchcfm")
    for of in torchcfm.members(False).values():
        for one in of():
            found = list(parts(one, True))
            assert found
            assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


def test_a_bridge_whose_spread_is_not_rooted_is_found() -> None:
    pytest.importorskip("torchcfm")
    from torchcfm import SchrodingerBridgeConditionalFlowMatcher as Bridge

    class Squared(Bridge):  # type: ignore[misc]
        def compute_sigma_t(self, t: Any) -> Any:
            return self.sigma * t * (1 - t)

    made = torchcfm.wrap(Squared, Request(family="SchrodingerBridgeConditionalFlowMatcher"))
    found = wrong(parts(made, True))
    assert any("sigma_t" in f.text for f in found)
    assert not any("mu" in f.text.split(":")[1] for f in found)
    assert np.isfinite([f.number or 0.0 for f in found]).all()


@pytest.mark.parametrize(
    ("part", "place"),
    [("compute_lambda", "lambda"), ("bridge regularization", "reg"), ("OTPlanSampler", "exact: cost")],
)
def test_wrong_parts_of_torchcfm_are_found(part: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = pytest.importorskip("torchcfm").SchrodingerBridgeConditionalFlowMatcher
    plans = pytest.importorskip("torchcfm.optimal_transport").OTPlanSampler
    weigh, plan, make = bridge.compute_lambda, plans.get_map, plans.__init__
    monkeypatch.setattr(bridge, "compute_lambda", lambda self, t: self.sigma * weigh(self, t))
    monkeypatch.setattr(plans, "get_map", lambda self, x, y: plan(self, x, -y))
    monkeypatch.setattr(plans, "__init__", lambda self, method, reg=0.05, **more: make(self, method, reg / 2, **more))
    (made,) = torchcfm.members(True)[part]()
    assert place in " ".join(f.place for f in wrong(parts(made, True)))


OWN = {"torchdiffeq": "odeint", "torchsde": "sdeint", "diffrax": "Heun", "flow_matching": "ODESolver"}


@pytest.mark.parametrize("library", OWN)
def test_what_is_not_the_librarys_own_is_not_audited_as_if_it_were(library: str) -> None:
    pytest.importorskip(library)

    class Heun:
        """Named like one of a library's solvers."""

    Heun.__name__ = OWN[library]
    with pytest.raises(ValueError, match="the protocol velocity") as told:
        protocols()[library].wrap(Heun, Request())
    assert "velocity" in protocols(), told


@pytest.mark.parametrize("library", OWN)
def test_options_that_a_library_does_not_have_are_refused(library: str) -> None:
    found = pytest.importorskip(f"{library}.solver" if library == "flow_matching" else library)
    with pytest.raises(ValueError, match="options must be among"):
        protocols()[library].wrap(getattr(found, OWN[library]), Request(options={"rtol": 1e-3}))


def test_a_size_of_steps_is_the_size_of_the_steps() -> None:
    solver = pytest.importorskip("flow_matching.solver").ODESolver
    one = flow_matching.wrap(solver, Request(options={"step_size": 0.2}))
    assert one.steps == (5,)
    assert one.build(5).claim.grid == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])  # type: ignore[union-attr]
    assert flow_matching.wrap(solver, Request(options={"step_size": 0.125, "late": True})).steps == (4,)
    for size in (0.3, 1.0, 2.0, 0, -0.5):
        with pytest.raises(ValueError, match="step_size must be"):
            flow_matching.wrap(solver, Request(options={"step_size": size}))
