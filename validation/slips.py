r"""What a wrong denoiser or score is instead.

A slip is recognised by computing the wrong formula itself: whichever reproduces the answers at all times is named.
Formulas are written out here on purpose, apart from `refdiff.predictions`: each stands beside the mistakes made in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from refdiff.arguments import Array
from refdiff.model import ExactModel


@dataclass(frozen=True)
class Point:
    """What a slip is computed from: the exact model at points x (n, d) and one time t, where its answers are (n, d)."""

    model: ExactModel
    x: Array
    t: float

    @property
    def alpha(self) -> Array:
        """The signal factor alpha(t), a scalar."""
        return self.model.affine.coefficients(self.t).alpha

    @property
    def sigma(self) -> Array:
        """The noise standard deviation sigma(t), a scalar."""
        return self.model.affine.coefficients(self.t).sigma

    @property
    def score(self) -> Array:
        """grad log p_t(x)."""
        return np.asarray(self.model.score(self.x, self.t))

    @property
    def denoiser(self) -> Array:
        """E[x_0 | x_t = x]."""
        return np.asarray(self.model.denoiser(self.x, self.t))


Prediction = Callable[[Point], Array]
PREDICTIONS: dict[str, Prediction] = {
    "the denoiser E[x_0 | x]": lambda p: p.denoiser,
    "the score grad log p_t": lambda p: p.score,
    "the noise prediction E[eps | x]": lambda p: -p.sigma * p.score,
    "the velocity E[dx_t/dt | x]": lambda p: np.asarray(p.model.velocity(p.x, p.t)),
    "the v prediction E[alpha eps - sigma x_0 | x]": lambda p: np.asarray(p.model.v_prediction(p.x, p.t)),
    "its own input x": lambda p: p.x,
}
# What goes wrong in one formula; each is tried for every time at once, so a match is rarely an accident.
_OF_DENOISERS: dict[str, Prediction] = {
    "Tweedie with sigma in place of sigma^2": lambda p: (p.x + p.sigma * p.score) / p.alpha,
    "Tweedie without the division by alpha": lambda p: p.x + p.sigma**2 * p.score,
    "Tweedie with alpha^2 in place of alpha": lambda p: (p.x + p.sigma**2 * p.score) / p.alpha**2,
    "Tweedie with the sign of the score reversed": lambda p: (p.x - p.sigma**2 * p.score) / p.alpha,
    "x / alpha, without the score": lambda p: p.x / p.alpha,
    "x - sigma eps with the variance sigma^2 in place of sigma": lambda p: (p.x + p.sigma**3 * p.score) / p.alpha,
}
_OF_SCORES: dict[str, Prediction] = {
    "sigma in place of sigma^2": lambda p: p.sigma * p.score,
    "sigma^2 times the score": lambda p: p.sigma**2 * p.score,
    "(E[x_0 | x] - x) / sigma^2, without alpha": lambda p: (p.denoiser - p.x) / p.sigma**2,
    "(alpha^2 E[x_0 | x] - x) / sigma^2, alpha^2 in place of alpha": lambda p: (
        (p.alpha**2 * p.denoiser - p.x) / p.sigma**2
    ),
    "-eps / sigma^2 in place of -eps / sigma": lambda p: p.score / p.sigma,
    "-x / sigma^2, the score of the noise alone": lambda p: -p.x / p.sigma**2,
}
CLOCKS: dict[str, Callable[[Point], float]] = {
    "t reversed (T - t in place of t)": lambda p: p.model.process.T - p.t,
    "t divided by T": lambda p: p.t / p.model.process.T,
    "t one step too late": lambda p: p.t + 1,
    "t one step too early": lambda p: p.t - 1,
}
SLIPS: Mapping[str, Mapping[str, Prediction]] = MappingProxyType({"denoiser": _OF_DENOISERS, "score": _OF_SCORES})


def likely_slips(
    kind: str, model: ExactModel, asked: Sequence[tuple[Array, float]], answers: Sequence[Array], rtol: float
) -> list[str]:
    """What explains answers that are not the prediction `kind`, at every (points, time) that was asked.

    Args:
        kind: denoiser, score, noise, velocity or v_prediction.
        model: the exact model that was to be answered for.
        asked: points (n, d) and their time, of every question.
        answers: one for each question, shape (n, d).
        rtol: how near an explanation must come, relative to its largest entry.
    """
    points = [Point(model, x, t) for x, t in asked]
    if not all(np.isfinite(answer).all() for answer in answers):
        return []
    right = next(guess for name, guess in PREDICTIONS.items() if name.startswith(f"the {kind.replace('_', ' ')}"))
    tried = {name: guess for name, guess in {**PREDICTIONS, **SLIPS.get(kind, {})}.items() if guess is not right}
    tried |= {f"minus {name}": _minus(guess) for name, guess in PREDICTIONS.items()}
    tried |= {f"the {kind} with {name}": _moved(right, clock) for name, clock in CLOCKS.items()}
    found = [name for name, guess in tried.items() if _explains(guess, points, answers, rtol)]
    if not found and _explains(right, points, answers, max(1e-4, rtol)):
        found = ["the exact answer to 1e-4: it may compute in float32; state a larger rtol if that is meant"]
    factors = {p.t: _factor(right(p), answer) for p, answer in zip(points, answers, strict=True)}
    if not found and _explains(lambda p: factors[p.t] * right(p), points, answers, rtol):
        found = [f"the {kind} times a factor: " + ", ".join(f"{c:.6g} at t = {t:g}" for t, c in factors.items())]
    return found


def _minus(guess: Prediction) -> Prediction:
    return lambda p: -guess(p)


def _moved(guess: Prediction, clock: Callable[[Point], float]) -> Prediction:
    return lambda p: guess(Point(p.model, p.x, clock(p)))


def _explains(guess: Prediction, asked: Sequence[Point], answers: Sequence[Array], rtol: float) -> bool:
    for p, answer in zip(asked, answers, strict=True):
        try:
            with np.errstate(all="ignore"):
                value = guess(p)
        except ValueError:  # a time moved out of [0, T], or a law without density there: no explanation
            return False
        if not np.abs(answer - value).max() <= rtol * np.abs(value).max():
            return False
    return True


def _factor(expected: Array, actual: Array) -> float:
    """The c of the least squares fit actual = c expected."""
    return float(np.sum(actual * expected) / (np.sum(expected**2) or 1.0))
