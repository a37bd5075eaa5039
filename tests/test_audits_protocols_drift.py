"""Drifts and integrators: what is right passes, a wrong g, sign, time or weight is named, laws of paths are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from refdiff.arguments import Array
from refdiff.schedules import VPLinear
from refdiff.validation.audits.checks.coefficients import coefficients, told_level
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols import diffrax, torchdiffeq, torchsde
from refdiff.validation.audits.protocols import drift as drifts
from refdiff.validation.audits.protocols.integrators.conditions import conditions, embedded, whole_steps
from refdiff.validation.audits.protocols.integrators.schemes import SCHEMES, one_step, reversible_heun
from refdiff.validation.audits.protocols.integrators.strong import strong_order
from refdiff.validation.audits.protocols.integrators.ways import REVERSING, Diffusion, Drift, driven
from refdiff.validation.audits.protocols.protocol import Request
from refdiff.validation.audits.protocols.torchdiffeq import methods, pairs
from refdiff.validation.audits.subject import Subject

PROCESS = VPLinear()


def wrong(found: Iterator[Finding]) -> list[Finding]:
    return [one for one in found if one.verdict is Verdict.WRONG]


# ---------------------------------------------------------------------- foreign drifts


class Reverse:
    """The reverse equation of a variance-preserving process, as torchsde takes it, with what may be wrong in it."""

    def __init__(
        self, score: Callable[[Any, Any], Any], *, power: int = 2, sign: float = 1.0, late: float = 0.0
    ) -> None:
        self.score, self.power, self.sign, self.late = score, power, sign, late

    def beta(self, u: Any) -> Any:
        return 0.1 + 19.9 * (1 - u - self.late)

    def f(self, u: Any, x: Any) -> Any:
        g = self.beta(u) ** 0.5
        return 0.5 * self.beta(u) * x + self.sign * g**self.power * self.score(x, 1 - u)

    def g(self, u: Any, x: Any) -> Any:
        return self.beta(u) ** 0.5 + 0 * x


def reverse(dtype: str = "float64", **broken: Any) -> Subject:
    return drifts.wrap(partial(Reverse, **broken), Request(None, {"arrays": "numpy"}, {}, dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_reverse_drift_and_its_diffusion_pass(dtype: str) -> None:
    for check in (coefficients, told_level):
        found = list(check(reverse(dtype), False))
        assert found
        assert all(one.verdict is Verdict.OK for one in found), [one.text for one in found]


@pytest.mark.parametrize(
    ("broken", "said"), [({"power": 1}, "the score"), ({"sign": -1.0}, "minus it"), ({"late": 0.1}, "step 1")]
)
def test_a_wrong_drift_is_named(broken: dict[str, Any], said: str) -> None:
    found = wrong(coefficients(reverse(**broken), True))
    assert found
    assert said in found[0].text


def test_the_flow_drift_passes_and_half_of_it_does_not() -> None:
    def make(score: Any, factor: float) -> Callable[[Any, Any], Any]:
        return lambda u, x: 0.5 * (0.1 + 19.9 * (1 - u)) * (x + factor * score(x, 1 - u))

    for factor, right in ((1.0, True), (0.5, False)):
        request = Request(None, {"arrays": "numpy", "noise": 0.0})
        assert bool(wrong(coefficients(drifts.wrap(partial(make, factor=factor), request), True))) is not right


@pytest.mark.parametrize("options", [{"direction": "s"}, {"arrays": "abacus"}, {"process": "sideways"}, {"half": 1}])
def test_unknown_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        drifts.wrap(Reverse, Request(None, options))


def test_a_process_has_one_name_for_all_protocols() -> None:
    for named in ("vp-linear", PROCESS):
        made = drifts.wrap(Reverse, Request(None, {"process": named})).build(2)
        assert made.trained == PROCESS


# ---------------------------------------------------------------------- integrators of additive noise


def loop(name: str, scale: float = 1.0, place: float = 1.0) -> Callable[..., Array]:
    """A scheme run as a plain loop; `scale` multiplies its noise and `place` the nodes of its diffusion."""
    rule = SCHEMES[name]

    def run(drift: Drift, spread: Diffusion, x: Array, clock: Array, normal: Callable[[], Array]) -> Array:
        for i in range(len(clock) - 1):
            h, u = clock[i + 1] - clock[i], clock[i]
            noises = [(rule.W, np.sqrt(h) * normal())]
            if any(any(row) for row in rule.H):
                noises.append((rule.H, np.sqrt(h / 12) * normal()))
            slopes: list[Array] = []
            for k, row in enumerate(rule.A):
                y = x + h * sum(w * s for w, s in zip(row, slopes, strict=False))
                for rows, z in noises:
                    given = rows[k] if k < len(rows) else ()
                    y = y + scale * z * sum(
                        w * spread(u + place * e * h) for w, e in zip(given, rule.nodes, strict=False)
                    )
                if k < len(rule.A) - 1:
                    slopes.append(drift(float(u + rule.place(k) * h), y))
            x = np.asarray(y, dtype=clock.dtype)
        return x

    return run


def of(name: str, run: Callable[..., Array], strong: float = 1.0, dtype: str = "float64") -> Subject:
    def build(steps: int) -> Any:
        return driven(name, run, REVERSING, REVERSING.clock(steps, dtype), one_step(name), order=1, strong=strong)

    return Subject(name, build, steps=(3,))


@pytest.mark.parametrize("name", [name for name, rule in SCHEMES.items() if not rule.again and name != "fehlberg2"])
def test_every_scheme_passes_as_a_loop(name: str) -> None:
    for dtype in ("float64", "float32"):
        found = list(coefficients(of(name, loop(name), dtype=dtype), True))
        assert found
        assert all(one.verdict is Verdict.OK for one in found), [one.text for one in found]


def test_a_wrong_noise_is_named_and_a_late_diffusion_too() -> None:
    (first, *_) = wrong(coefficients(of("sra1", loop("sra1", scale=0.5)), True))
    assert "normal" in first.text
    assert wrong(coefficients(of("heun", loop("heun", place=0.5)), True))


@pytest.mark.parametrize(
    ("name", "order", "too_high"),
    [("euler", 1.0, 1.5), ("heun", 1.0, 1.5), ("sra1", 1.5, 2.5), ("shark", 1.5, 2.5), ("slow-rk", 1.5, 2.5)],
)
def test_strong_orders_are_reached_and_higher_ones_are_not(name: str, order: float, too_high: float) -> None:
    (found,) = strong_order(of(name, loop(name), order), True)
    assert found.verdict is Verdict.OK, found.text
    assert (found.number or 0.0) + too_high - order > (found.bound or 0.0)


def test_noise_of_a_wrong_size_has_no_strong_order() -> None:
    (lost,) = strong_order(of("euler", loop("euler", scale=0.9)), True)
    assert lost.verdict is Verdict.WRONG


# ---------------------------------------------------------------------- numbers by themselves


def test_a_pair_is_known_by_the_conditions_of_both_its_weights() -> None:
    """Heun with Euler's weights inside: of order 2 and 1."""
    A, b, lower = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.5, 0.5]), np.array([1.0, 0.0])
    assert conditions("heun", A, b, 2).verdict is embedded("heun", A, lower, 2).verdict is Verdict.OK
    assert conditions("heun", A, lower, 2).verdict is Verdict.WRONG
    assert embedded("heun", A, 0.9 * lower, 2).verdict is Verdict.WRONG


def test_a_step_too_many_is_counted_with_its_length() -> None:
    def run(last: float) -> Callable[[int, str, Drift], None]:
        def steps(n: int, dtype: str, drift: Drift) -> None:  # noqa: ARG001
            for u in [i / n for i in range(n)] + [last] * (n == 3):
                drift(u, np.zeros((1, 1)))

        return steps

    found = list(whole_steps("mine", "dt", range(1, 6), run(1 - 2**-40), lambda n, dtype: f"{n} {dtype}"))
    assert [one.verdict for one in found] == 2 * [Verdict.WRONG]
    assert "dt = 1/3 gives 4 steps, the last 9.1e-13 long; 1 of 5 lengths" in found[0].text
    assert [one.script for one in found] == ["3 float64", "3 float32"]
    assert not wrong(whole_steps("mine", "dt", (1, 2, 4, 5), run(0.0), lambda n, dtype: ""))


# ---------------------------------------------------------------------- torchsde, torchdiffeq, diffrax


def right(subject: Subject, steps: int) -> bool:
    found = list(coefficients(replace(subject, steps=(steps,)), True))
    return [one.verdict for one in found] == [Verdict.OK]


def test_torchsde_has_the_weights_of_its_methods() -> None:
    pytest.importorskip("torchsde")
    for method in ("euler", "srk", "reversible_heun", "log_ode"):
        assert right(torchsde.subject(method), 4), method


def test_the_brownian_interval_has_the_exact_covariances_and_its_levy_areas_have_not() -> None:
    pytest.importorskip("torchsde")
    assert not wrong(torchsde.increments("path"))
    davie, foster = torchsde.levy_area("path", "davie", 20_000), torchsde.levy_area("path", "foster", 20_000)
    assert davie.verdict is foster.verdict is Verdict.WRONG
    assert abs((davie.number or 0) - 1 / 12) < 0.01
    assert abs((foster.number or 0) - 0.03) < 0.002


def test_torchdiffeq_has_the_weights_of_its_methods_on_equal_steps() -> None:
    pytest.importorskip("torchdiffeq")
    for method in ("heun3", "rk4", *methods.ADAMS, "dopri5"):
        assert right(torchdiffeq.subject(method, {}), 8 if method in methods.ADAMS else 4), method


def test_options_of_adaptive_methods_reach_the_library() -> None:
    import_ = pytest.importorskip("torchdiffeq")
    found = {}
    for most in (2, 100):
        one = torchdiffeq.wrap(import_.odeint, Request(options={"method": "bosh3", "max_num_steps": most}))
        found[most] = next(coefficients(replace(one, steps=(4,)), True))
    assert found[100].verdict is Verdict.OK
    assert "max_num_steps exceeded" in found[2].text


def test_adams_on_unequal_steps_is_known_for_what_it_is() -> None:
    pytest.importorskip("torchdiffeq")
    found = wrong(coefficients(replace(torchdiffeq.subject("explicit_adams", {}, warped=True), steps=(8,)), False))
    assert found
    assert "weights of equal steps" in found[0].text


def test_pairs_are_examined_by_their_conditions_their_middle_and_their_first_slope() -> None:
    pytest.importorskip("torchdiffeq")
    for method, order in (("dopri5", 5), ("dopri8", 8), ("bosh3", 3)):
        A, b, _, middle = methods.tableau(method)
        assert conditions(method, A, b, order).verdict is Verdict.OK
        dense = pairs.dense(method, method, A, middle, order)
        assert (dense.verdict is Verdict.WRONG) is (method == "bosh3")
    for method in ("adaptive_heun", "fehlberg2"):
        assert pairs.reused(torchdiffeq.subject(method, {}), method).verdict is Verdict.WRONG


def test_a_tableau_with_one_number_changed_breaks_its_conditions() -> None:
    pytest.importorskip("torchdiffeq")
    A, b, *_ = methods.tableau("dopri5")
    assert conditions("dopri5", A, b, 5).verdict is Verdict.OK
    A[3, 1] *= 1.001
    assert conditions("dopri5", A, b, 5).verdict is Verdict.WRONG


@pytest.mark.filterwarnings("ignore")
def test_diffrax_has_the_weights_of_its_solvers() -> None:
    pytest.importorskip("diffrax")
    for name, stochastic in (("Tsit5", False), ("LeapfrogMidpoint", False), ("ShARK", True)):
        one = diffrax.subject(name, stochastic)
        assert right(one, 3), name
        assert not wrong(diffrax.numbers(one, True)), name


@pytest.mark.filterwarnings("ignore")
def test_jax_keeps_its_number_type_afterwards() -> None:
    pytest.importorskip("diffrax")
    import jax

    before = jax.config.jax_enable_x64
    diffrax.subject("Euler", False).build(2).play(lambda x, t: x, np.ones((1, 1)), lambda: np.zeros((1, 1)))
    assert jax.config.jax_enable_x64 is before


def test_reversible_heun_is_heun_in_its_first_step() -> None:
    process = REVERSING.process
    grid = np.array([1.25, 0.75])
    assert reversible_heun(process, grid, 1.0).close(one_step("heun")(process, grid, 1.0))
