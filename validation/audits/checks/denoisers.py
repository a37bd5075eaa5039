r"""A foreign denoiser, score or other prediction against the exact model, at points drawn from p_t.

The bound is what rounding makes of an exact implementation. With w the posterior's weights of what x_0 may be, whose
logarithms are made from |x - alpha x_0|^2 / 2 sigma^2,

    of D      16 eps (|D| + |x| / alpha + (1 + (|x|^2 + alpha^2 E|x_0|^2) / sigma^2) s),   s^2 = trace Cov[x_0 | x]
              + 6 times the largest change of D over 6 points and times that are off by one rounding
    of a x + b D (noise, score, velocity, v)      |b| times that + 16 eps (|a x| + |b D|)

A wrong answer is named where a known slip gives the same numbers at every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.predictions import weights
from refdiff.schedules import Schedule
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, judged
from refdiff.validation.audits.rounding import OPERATIONS, PERTURBED, TERMS, WORST
from refdiff.validation.audits.subject import Sampler, Subject, no_sampler
from refdiff.validation.slips import likely_slips

QUESTION = "denoiser"
POINTS, SEED = 32, 0
RULE = f"{TERMS}, and {WORST:g} times what moving x and t by a rounding changes"


def standard_law(dim: int = 2) -> GaussianMixture:
    """Three Gaussians of unequal weights and spreads: no symmetry hides a sign or an axis."""
    rng = np.random.default_rng(5)
    return GaussianMixture.isotropic(rng.standard_normal((3, dim)), [0.09, 0.25, 0.04], [0.5, 0.3, 0.2])


@dataclass(frozen=True)
class DenoiserSubject(Subject):
    """A function of (x, t) that answers a prediction.

    Args:
        answer: (x of shape (n, d), t) -> (n, d), in NumPy.
        process: what t means.
        prediction: what it answers: denoiser, noise, score, velocity or v_prediction.
        law: the data that it stands for; None where `answering` makes it for a law.
        answering: law -> answer, for implementations that take the data or an exact denoiser.
        times: where it is asked.
        dtype: of its arithmetic.
    """

    build: Callable[[int], Sampler] = no_sampler
    checks: tuple[str, ...] = (QUESTION,)
    answer: Callable[[Array, float], Any] | None = None
    process: Schedule | None = None
    prediction: str = "denoiser"
    law: GaussianMixture = field(default_factory=standard_law)
    times: tuple[float, ...] = ()
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    script: str = ""


def denoiser(subject: Subject, quick: bool) -> Iterator[Finding]:
    """One finding for each time."""
    if not isinstance(subject, DenoiserSubject) or subject.answer is None or subject.process is None:
        return
    model, rng = ExactModel(subject.law, subject.process), np.random.default_rng(SEED)
    asked, answers, found = [], [], []
    for t in subject.times[:: max(1, len(subject.times) // 2)] if quick else subject.times:
        x = model.sample(POINTS, t, rng).astype(subject.dtype).astype(float)
        given = float(np.asarray(t, dtype=subject.dtype))
        try:
            answer = np.asarray(subject.answer(x.copy(), given), dtype=float)
        except Exception as error:  # whatever the foreign code raises
            text = f"t = {t:g}: {type(error).__name__}: {error}"
            yield Finding(subject.name, QUESTION, Verdict.WRONG, text, place=f"t = {t:g}", script=subject.script)
            continue
        if answer.shape != x.shape:
            text = f"t = {t:g}: it answers shape {answer.shape} to points of shape {x.shape}"
            yield Finding(subject.name, QUESTION, Verdict.WRONG, text, place=f"t = {t:g}", script=subject.script)
            continue
        asked.append((x, given))
        answers.append(answer)
        found.append(_compared(subject, model, x, given, answer))
    wrong = [one for one in found if one.verdict is Verdict.WRONG]
    slips = likely_slips(subject.prediction, model, asked, answers, 1e3 * _eps(subject) ** 0.75) if wrong else []
    said = f"; it gives {' or '.join(slips[:2])}" if slips else ""
    for one in found:
        yield one if one.verdict is not Verdict.WRONG else _with(one, one.text + said)


def _with(one: Finding, text: str) -> Finding:
    return Finding(one.subject, one.question, one.verdict, text, one.number, one.bound, one.place, one.rule, one.script)


def _eps(subject: DenoiserSubject) -> float:
    return float(np.finfo(subject.dtype).eps)


def _compared(subject: DenoiserSubject, model: ExactModel, x: Array, t: float, answer: Array) -> Finding:
    right = np.asarray(model.predict(x, t, subject.prediction))
    error, bound = np.abs(answer - right), rounding(model, x, t, subject.prediction, _eps(subject))
    ratio = np.where(np.isfinite(error), error / bound, np.inf)
    i, j = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    text = (
        f"t = {t:g}: all {x.size} numbers of the {subject.prediction} are right"
        if ratio.max() <= 1
        else f"t = {t:g}: the {subject.prediction} at x = {np.round(x[i], 6).tolist()} is {answer[i, j]:.8g} in entry "
        f"{j}, should be {right[i, j]:.8g}"
    )
    return judged(subject.name, QUESTION, float(error[i, j]), float(bound[i, j]), text, rule=RULE, place=f"t = {t:g}",
                  script=subject.script)  # fmt: skip


def rounding(model: ExactModel, x: Array, t: float, prediction: str, eps: float) -> Array:
    """How far an exact implementation may be off in this number type, entry by entry."""
    c = model.affine.coefficients(t)
    clean = np.asarray(model.denoiser(x, t))
    law = model.distribution
    second = float(np.trace(law.cov()) + np.sum(np.asarray(law.mean()) ** 2))
    spread = np.sqrt(np.trace(np.asarray(model.posterior_covariance(x, t)), axis1=1, axis2=2))[:, None]
    with np.errstate(divide="ignore"):
        exponent = 1 + (np.sum(x**2, axis=1, keepdims=True) + c.alpha**2 * second) / c.sigma**2
    rng, change = np.random.default_rng(SEED), np.zeros_like(x)
    for _ in range(PERTURBED):
        up = 1 + eps * rng.choice([-1.0, 1.0])
        moved = model.denoiser(x * (1 + eps * rng.choice([-1.0, 1.0], x.shape)), min(t * up, model.process.T))
        change = np.maximum(change, np.abs(np.asarray(moved) - clean))
    # |x| / alpha: D may be made from the score or the noise; norms: a matrix may mix the entries
    sizes = [np.linalg.norm(part, axis=1, keepdims=True) for part in (clean, x)]
    # where alpha = 0 or sigma = 0 neither is divided by: the answer is the mean of the data, or x
    divided = sizes[1] / c.alpha if c.alpha > 0 else 0.0
    weighed = exponent * spread if c.sigma > 0 else 0.0
    off = WORST * change + OPERATIONS * eps * (sizes[0] + divided + weighed)
    if prediction == "denoiser":
        return np.asarray(off)
    of_x, of_clean = weights(c, "denoiser", prediction)
    both = np.abs(of_x) * sizes[1] + np.abs(of_clean) * sizes[0]
    return np.asarray(np.abs(of_clean) * off + OPERATIONS * eps * both)


CHECKS: tuple[Check, ...] = (denoiser,)
