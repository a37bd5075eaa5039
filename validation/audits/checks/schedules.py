r"""A foreign noise schedule against refdiff's, from one end of its times to the other.

Asked are alpha, sigma, their derivatives, lambda = log(alpha / sigma), its inverse, and whether it falls.

The bounds are what rounding makes of the closed forms, sigma = sqrt(1 - alpha^2) among them, which cancels:

    alpha      16 eps (alpha + |t alpha'|)
    sigma      16 eps (sigma + |t sigma'| + alpha^2 / sigma)
    alpha'     16 eps (|alpha'| + |t alpha''|),      sigma'  16 eps (|sigma'| (1 + alpha^2 / sigma^2) + |t sigma''|)
    lambda     16 eps (1 + |lambda| + |t lambda'| + alpha^2 / sigma^2)
    inverse    16 eps t, and that of lambda divided by |lambda'|
    order      alpha / sigma falls from each time to the next where lambda falls by more than its own bounds

Where the exact number or its bound is infinite, at an end, nothing is asked but of alpha and sigma, which are finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.schedules import Coefficients, Schedule
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged
from refdiff.validation.audits.rounding import OPERATIONS, TERMS
from refdiff.validation.audits.subject import Sampler, Subject, no_sampler

QUESTION = "schedule"
COUNT, QUICK = 201, 21
RULE = f"{TERMS} of the closed form, 1 - alpha^2 among them"

Function = Callable[[Array], Array]


@dataclass(frozen=True)
class ScheduleSubject(Subject):
    """A noise schedule as functions of arrays of times, in NumPy.

    Args:
        alpha, sigma: the signal factor and the standard deviation of the noise.
        process: the refdiff schedule that it claims to be.
        dalpha, dsigma: derivatives, where it has them.
        log_snr: log(alpha / sigma), and `inverse`, the time of it.
        span: the times that it is for.
        dtype: of its arithmetic.
    """

    build: Callable[[int], Sampler] = no_sampler
    checks: tuple[str, ...] = (QUESTION,)
    alpha: Function | None = None
    sigma: Function | None = None
    process: Schedule | None = None
    dalpha: Function | None = None
    dsigma: Function | None = None
    log_snr: Function | None = None
    inverse: Function | None = None
    span: tuple[float, float] = (0.0, 1.0)
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    script: str = ""


# What is off in known ways, from the exact coefficients and the whole of the times.
SLIPS: Mapping[str, Mapping[str, Callable[[Coefficients, Schedule, Array], Array]]] = {
    "alpha": {
        "alpha squared (alpha_bar in place of its root)": lambda c, s, t: c.alpha**2,
        "sqrt(alpha)": lambda c, s, t: np.sqrt(c.alpha),
        "sigma": lambda c, s, t: c.sigma,
        "alpha of the time reversed": lambda c, s, t: s.alpha(s.T - t),
    },
    "sigma": {
        "the variance sigma^2": lambda c, s, t: c.sigma**2,
        "sigma / alpha, the noise level": lambda c, s, t: c.sigma / c.alpha,
        "1 - alpha in place of sqrt(1 - alpha^2)": lambda c, s, t: 1 - c.alpha,
        "sqrt(1 - alpha), alpha in place of alpha^2": lambda c, s, t: np.sqrt(1 - c.alpha),
        "alpha": lambda c, s, t: c.alpha,
        "sigma of the time reversed": lambda c, s, t: s.sigma(s.T - t),
    },
    "log_snr": {
        "twice of it, log(alpha^2 / sigma^2)": lambda c, s, t: 2 * c.log_snr,
        "minus it, log(sigma / alpha)": lambda c, s, t: -c.log_snr,
        "log alpha": lambda c, s, t: np.log(c.alpha),
    },
    "dalpha": {"minus it": lambda c, s, t: -c.dalpha, "the rate alpha' / alpha": lambda c, s, t: c.f},
    "dsigma": {
        "minus it": lambda c, s, t: -c.dsigma,
        "the derivative of sigma^2": lambda c, s, t: c.dvariance,
        "half of it": lambda c, s, t: c.dsigma / 2,
    },
}


def schedule(subject: Subject, quick: bool) -> Iterator[Finding]:
    """One finding for each function, one for the inverse, and one for the order."""
    if not isinstance(subject, ScheduleSubject) or subject.process is None:
        return
    low, high = subject.span
    t = np.linspace(low, high, QUICK if quick else COUNT).astype(subject.dtype).astype(float)
    t = np.clip(t, low, min(high, subject.process.T))
    for name in ("alpha", "sigma", "dalpha", "dsigma", "log_snr"):
        if getattr(subject, name) is not None:
            yield _examined(subject, name, name, t, _of)
    if subject.inverse is not None:
        yield _examined(subject, "inverse", "inverse", t[1:-1], _inverse)
    if subject.alpha is not None and subject.sigma is not None:
        yield _examined(subject, "monotone", "alpha / sigma", t, _order)


def rounding(name: str, c: Coefficients, t: Array, eps: float) -> Array:
    """How far the function of this name may be off, at the times where it has these coefficients."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cancelled = np.where(c.sigma > 0, c.alpha**2 / c.sigma**2, 0.0)
        slope = np.abs(t * c.g2) / (2 * c.sigma**2)  # |t lambda'|
        size = {
            "alpha": np.abs(c.alpha) + np.abs(t * c.dalpha),
            "sigma": c.sigma * (1 + cancelled) + np.abs(t * c.dsigma),
            "dalpha": np.abs(c.dalpha) + np.abs(t * c.d2alpha),
            "dsigma": np.abs(c.dsigma) * (1 + cancelled) + np.abs(t * c.d2sigma),
            "log_snr": 1 + np.abs(c.log_snr) + slope + cancelled,
        }[name]
    return np.asarray(OPERATIONS * eps * size)


def _eps(subject: ScheduleSubject) -> float:
    return float(np.finfo(subject.dtype).eps)


def _exact(subject: ScheduleSubject, t: Array) -> Coefficients:
    assert subject.process is not None
    return subject.process.coefficients(t)


class Broken(Exception):
    """What a foreign function raises, or answers in place of numbers."""


def _values(subject: ScheduleSubject, name: str, x: Array) -> Array:
    """What the foreign function answers, shape of x.

    Raises:
        Broken: it raises, or its answer is no array of that shape.
    """
    try:
        found = np.asarray(getattr(subject, name)(x.copy()), dtype=float)
    except Exception as error:  # whatever the foreign code raises
        raise Broken(f"{type(error).__name__}: {error}") from error
    if found.shape != x.shape:
        raise Broken(f"shape {found.shape} for arguments of shape {x.shape}")
    return found


Question = Callable[["ScheduleSubject", str, Array], Finding]


def _examined(subject: ScheduleSubject, place: str, said: str, t: Array, question: Question) -> Finding:
    """The answer to a question, or what the foreign function raises there."""
    try:
        return question(subject, place, t)
    except Broken as why:
        return Finding(subject.name, QUESTION, Verdict.WRONG, f"{said}: {why}", place=place, script=subject.script)


def _of(subject: ScheduleSubject, name: str, t: Array) -> Finding:
    """A function's values: at its worst place, with the slip that gives all of them."""
    c = _exact(subject, t)
    right, found = np.asarray(getattr(c, name)), _values(subject, name, t)
    bound = rounding(name, c, t, _eps(subject))
    asked = np.isfinite(right) & np.isfinite(bound)
    error = np.abs(np.where(np.isfinite(found), found, np.inf)[asked] - right[asked])
    ratio = error / np.maximum(bound[asked], np.finfo(float).tiny)
    i = int(np.argmax(ratio))
    at, wrong, r = t[asked][i], found[asked][i], right[asked][i]
    text = f"{name} is right at {asked.sum()} times"
    if ratio[i] > 1:
        text = f"{name}({at:g}) is {wrong:.8g}, should be {r:.8g}{_slip(subject, name, t, found)}"
    return judged(subject.name, QUESTION, float(error[i]), float(bound[asked][i]), text, rule=RULE, place=name,
                  script=subject.script)  # fmt: skip


def _slip(subject: ScheduleSubject, name: str, t: Array, found: Array) -> str:
    assert subject.process is not None
    c, process, tolerance = _exact(subject, t), subject.process, 1e3 * _eps(subject) ** 0.75
    step = t[1] - t[0]
    with np.errstate(all="ignore"):
        tried = {said: np.asarray(make(c, process, t)) for said, make in SLIPS[name].items()}
    for said, by in {"one time step too late": step, "one time step too early": -step}.items():
        tried[f"{name} {said}"] = np.asarray(getattr(process.coefficients(np.clip(t + by, 0, process.T)), name))
    for said, value in tried.items():
        known = np.isfinite(value) & np.isfinite(found)
        known[[0, -1]] = False  # clipped times, and limits
        if known.any() and (np.abs(found[known] - value[known]) <= tolerance * np.abs(value[known]).max()).all():
            return f"; it is {said}"
    right = np.asarray(getattr(c, name))
    inside = np.isfinite(right) & (right != 0) & np.isfinite(found)
    factors = found[inside] / right[inside]
    if factors.size and np.ptp(factors) <= tolerance * abs(factors[0]):
        return f"; it is {factors[0]:.6g} times that everywhere"
    return ""


def _inverse(subject: ScheduleSubject, name: str, t: Array) -> Finding:
    """The time of a lambda."""
    c, eps = _exact(subject, t), _eps(subject)
    lam = c.log_snr.astype(subject.dtype).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = c.g2 / (2 * c.sigma**2)
    bound = OPERATIONS * eps * t + rounding("log_snr", c, t, eps) / rate
    found = _values(subject, name, lam)
    error = np.where(np.isfinite(found), np.abs(found - t), np.inf)
    i = int(np.argmax(error / bound))
    right = "the inverse of lambda is right" if error[i] <= bound[i] else (
        f"the time of lambda = {lam[i]:.6g} is {found[i]:.8g}, should be {t[i]:.8g}")  # fmt: skip
    return judged(subject.name, QUESTION, float(error[i]), float(bound[i]), right, rule=RULE, place=name,
                  script=subject.script)  # fmt: skip


def _order(subject: ScheduleSubject, place: str, t: Array) -> Finding:
    """alpha / sigma falls with time: else two times are one level, and a step between them is no step.

    Strictly, where lambda falls by more than the roundings of both ends of the step; by no more than these it may rise.
    """
    c = _exact(subject, t)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _values(subject, "alpha", t) / _values(subject, "sigma", t)
        change = np.diff(np.log(ratio))
        off = rounding("log_snr", c, t, _eps(subject))
        hidden = off[1:] + off[:-1]
        same = ~(-np.diff(c.log_snr) > hidden) & (np.abs(change) <= hidden)
        rises = np.flatnonzero(~(np.diff(ratio) < 0) & ~same)
    text = f"alpha / sigma falls at all {len(t)} times"
    if rises.size:
        i = int(rises[0])
        text = f"alpha / sigma does not fall from t = {t[i]:g} to {t[i + 1]:g}: {ratio[i]:.8g}, then {ratio[i + 1]:.8g}"
    return judged(subject.name, QUESTION, float(rises.size), 0.0, text, rule="a level for each time, but for roundings",
                  place=place, script=subject.script)  # fmt: skip


CHECKS: tuple[Check, ...] = (schedule,)
