r"""Adaptive steps: two samplers of neighbouring orders that share their evaluations.

    e = max over points of rms_j |x_high - x_low|_j / (atol + rtol max(|x_s|_j, |x_high|_j))          accepted if e <= 1
    h <- h safety e^(-i/k) e_before^(p/k),    (i, p) = (0.7, 0.4),   k = order of the lower one + 1

The steps depend on what the model answers, so this stands beside the tables; each attempt is two tables of one step,
and an accepted grid replayed as a table gives the same numbers. Evaluations at the same point and time are counted
once: those that the pair shares, the last stage of a step that is the first of the next, and the first stage of a
step that was rejected. SciPy holds the coefficients of Bogacki-Shampine and Dormand-Prince; its own solvers take one
state and no clock.

    heun-euler, bogacki-shampine, dormand-prince      embedded Runge-Kutta pairs 2(1), 3(2), 5(4), in any clock
    dpm-solver-12, dpm-solver-23                      DPM-Solver of two orders, in lambda

Sources: PODD-57..58, PODC9-23..26 (Dormand and Prince 1980; Bogacki and Shampine 1989; Gustafsson 1991; Lu et al.
2022, appendix C; Song et al. 2021, who sample with an adaptive method).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import RK23, RK45

from refdiff.arguments import Array, one_of, points, real_array, real_scalar, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.clocks import Clock, clock_named
from refdiff.samplers.dpm_solver import dpm_solver
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.runge_kutta import METHODS, Method, runge_kutta
from refdiff.samplers.running import Model, asking, run
from refdiff.samplers.tableau import Tableau
from refdiff.samplers.times import one_schedule
from refdiff.schedules import Schedule


class Pair(NamedTuple):
    """Two families of one step, (process, times, **options) -> Tableau, the lower of them of this order."""

    low: Callable[..., Tableau]
    high: Callable[..., Tableau]
    order: int


class Adapted(NamedTuple):
    """The output of an adaptive run (..., d), with its accepted grid and what it cost.

    Attributes:
        x: points at the last time.
        times: the accepted grid, from the first time to the last.
        errors: the scaled error of every accepted step, each at most 1.
        nfe: evaluations of the model.   accepted, rejected: steps.
    """

    x: Array
    times: Array
    errors: Array
    nfe: int
    accepted: int
    rejected: int


def embedded(A: ArrayLike, b: ArrayLike, gap: ArrayLike) -> Method:
    """The lower method b + gap of a pair whose last stage is the higher one's result, as SciPy writes them.

    Args:
        A, b, gap: the matrix (k, k), the higher result (k,) and the lower one less it (k + 1,).
    """
    inner, higher, last = (np.asarray(part, dtype=float) for part in (A, b, gap))
    rows = np.pad(inner, ((0, 1), (0, len(last) - inner.shape[1])))
    rows[-1, : len(higher)] = higher
    return Method(rows, np.pad(higher, (0, 1)) + last)


def _runge_kutta(low: Method, high: str) -> Pair:
    return Pair(partial(runge_kutta, method=low), partial(runge_kutta, method=high), low.order)


PAIRS: Mapping[str, Pair] = MappingProxyType(
    {
        "heun-euler": _runge_kutta(METHODS["euler"], "heun"),
        "bogacki-shampine": _runge_kutta(embedded(RK23.A, RK23.B, RK23.E), "bogacki-shampine"),
        "dormand-prince": _runge_kutta(embedded(RK45.A, RK45.B, RK45.E), "dormand-prince"),
        "dpm-solver-12": Pair(partial(dpm_solver, order=1), partial(dpm_solver, order=2), 1),
        "dpm-solver-23": Pair(partial(dpm_solver, order=2, r1=1 / 3), partial(dpm_solver, order=3), 2),
    }
)


def adaptive(
    process: AffineProcess | Schedule,
    model: Model,
    x: ArrayLike,
    *,
    pair: str = "dormand-prince",
    clock: str | None = None,
    start: float | None = None,
    end: float = 0.0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    first_step: float = 0.01,
    safety: float = 0.9,
    pi: tuple[float, float] = (0.7, 0.4),
    max_steps: int = 10_000,
) -> Adapted:
    """The probability flow with steps as long as the tolerance allows, the same for all points of the batch.

    Args:
        process: an AffineProcess that is the same on all axes, or a Schedule.
        model: an ExactModel, or a function (x, t) -> what the pair asks for: the velocity in t and log_snr, the
            v_prediction in ratio and angle, the noise in rho and for DPM-Solver, the denoiser in 1/rho.
        x: points at the first time, shape (..., d).
        pair: the name of one in PAIRS.
        clock: t, rho, 1/rho, ratio, angle or log_snr; t unless given, and log_snr for DPM-Solver, which has no other.
        start, end: the first and the last time, T and 0 unless given. sigma = 0 at the end in t, ratio and angle only,
            alpha = 0 at the start in these and 1/rho only.
        rtol, atol: the tolerances.
        first_step: the first step as a part of the way in the clock.
        safety, pi: of the step control; pi = (1, 0) is plain proportional control.
        max_steps: how many attempts to make.

    Raises:
        ValueError: an unknown name, ends that the clock does not reach, or tolerances that are both 0.
        RuntimeError: the end is not reached in `max_steps` attempts, or no step is short enough (the model's answers
            are not finite, or jump).
    """
    one_of("pair", pair, PAIRS)
    methods, solver = PAIRS[pair], pair.startswith("dpm-solver")
    if solver and clock not in (None, "log_snr"):
        raise ValueError(f"clock must be log_snr for {pair}, got {clock!r}")
    name = clock or ("log_snr" if solver else "t")
    options: dict[str, Any] = {} if solver else {"clock": name}
    rtol, atol = real_scalar("rtol", rtol, low=0), real_scalar("atol", atol, low=0)
    if rtol == atol == 0:
        raise ValueError("rtol and atol must not both be 0")
    part = real_scalar("first_step", first_step, low=0, high=1, open_low=True)
    process = AffineProcess(process) if isinstance(process, Schedule) else process
    way = _Way(process, name, start, end)
    rows, restore = points("x", x, np.atleast_1d(real_array("x", x)).shape[-1])
    ask = _Remembering(model, "noise" if solver else clock_named(name).prediction)
    control = _Control(safety, pi, methods.order + 1, part * (way.last - way.first))
    u, times, errors, rejected = way.first, [way.start], [], 0
    for _ in range(whole_number("max_steps", max_steps, low=1)):
        v = u + control.step
        # a step that all but reaches the end reaches it
        final = abs(way.last - u) <= 1.01 * abs(control.step)
        t = way.end if final else way.time(v)
        if not t < times[-1]:
            raise RuntimeError(f"no step from t = {times[-1]} meets rtol = {rtol} and atol = {atol}, however short")
        low, high = (run(build(process, [times[-1], t], **options), ask, rows) for build in (methods.low, methods.high))
        scale = atol + rtol * np.maximum(np.abs(rows), np.abs(high))
        error = float(np.sqrt(np.mean(((high - low) / scale) ** 2, axis=1)).max())
        if control.accepts(error):
            rows, u = high, v
            times.append(t)
            errors.append(error)
            if final:
                return Adapted(restore(rows), np.array(times), np.array(errors), ask.calls, len(errors), rejected)
        else:
            rejected += 1
    raise RuntimeError(f"max_steps must be larger: {max_steps} attempts reached t = {times[-1]}, and not {end}")


class _Way:
    """The way from one time to another in a clock."""

    def __init__(self, process: AffineProcess, name: str, start: float | None, end: float) -> None:
        self.clock: Clock = clock_named(name)
        one_schedule(process, "adaptive steps")
        start = process.T if start is None else real_scalar("start", start, low=0, high=process.T)
        rec = Recorder(name, process, [start, real_scalar("end", end, low=0, high=start)])
        first, last = rec.points
        if first.pure_noise and not self.clock.starts_pure:
            raise ValueError(f"start must have alpha > 0 in {name}, got {start}")
        if last.clean and name not in ("t", "ratio", "angle"):
            raise ValueError(f"end must have sigma > 0 in {name}: the last step would have no error, got {end}")
        self.start, self.end, self._rec = first.t, last.t, rec
        self.first, self.last = self._value(first), self._value(last)

    def _value(self, point: Point) -> float:
        return float(self.clock.value(point))

    def time(self, u: float) -> float:
        """The time at which the clock shows u."""
        return u if self.clock.log_snr is None else self._rec.at_log_snr(self.clock.log_snr(u)).t


class _Control:
    """The length of the next step from the errors of the last two."""

    def __init__(self, safety: float, pi: tuple[float, float], order: int, step: float) -> None:
        self.safety = real_scalar("safety", safety, low=0, high=1, open_low=True)
        powers = real_array("pi", pi, ndim=(1,))
        if powers.shape != (2,) or (powers < 0).any():
            raise ValueError(f"pi must be two numbers, none negative, got {pi}")
        self.integral, self.proportional = (powers / order).tolist()
        self.order, self.step, self.before, self.refused = order, step, 1.0, False

    def accepts(self, error: float) -> bool:
        """Whether the step is accepted; the step is the next one's from then on."""
        if not error <= 1:  # nor is a step accepted that overflows
            self.refused = True
            self.step *= max(0.2, self.safety * error ** (-1 / self.order))
            return False
        error = max(error, 1e-10)  # an error of 0 says nothing about how much longer a step may be
        factor = self.safety * error**-self.integral * self.before**self.proportional
        # five times longer at the most, and not longer right after a rejection
        self.step *= min(1.0 if self.refused else 5.0, max(0.2, factor))
        self.before, self.refused = error, False
        return True


class _Remembering:
    """A model that is asked once about the same points at the same time."""

    KEPT = 32  # more than the stages of two steps

    def __init__(self, model: Model, prediction: str) -> None:
        self.ask, self.calls = asking(model, prediction), 0
        self.known: dict[tuple[float, bytes], Array] = {}

    def __call__(self, x: Array, t: float) -> Array:
        key = (t, x.tobytes())
        if key not in self.known:
            self.calls += 1
            answer = self.ask(x, t)
            while len(self.known) >= self.KEPT:
                del self.known[next(iter(self.known))]
            self.known[key] = answer
        return self.known[key]
