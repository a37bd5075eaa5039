r"""Assertions: a registered identity on a subject of one's own, a foreign denoiser, a foreign score.

    denoiser   f(x, t) = E[x_0 | x_t = x]          score   f(x, t) = grad log p_t(x)

Points are drawn from p_t, so the comparison is made where the function will be used. A slip is recognised by computing
the wrong formula itself: whichever reproduces the answers at all times is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, BetaTable
from refdiff.schedules import Schedule

if TYPE_CHECKING:
    from refdiff.validation.cases import Case
    from refdiff.validation.identity import Identity

# ---------------------------------------------------------------------- identities


def assert_identity(identity: Identity | str, subject: Any, *, s: float | None = None, t: float | None = None) -> bool:
    """Assert that a registered identity holds for a subject of your own.

    Args:
        identity: an `Identity`, or the name of a registered one.
        subject: a case of `refdiff.validation.cases`; or what the identity speaks about: an ExactModel, a law, a
            process or Schedule, a BetaTable, or a seed for the identities that draw their own objects.
        s, t: times 0 < s < t < T for models and processes, 0.23 T and 0.41 T when left out.

    Returns:
        Whether the identity applies to the subject (nothing is asserted where it does not).

    Raises:
        AssertionError: it applies and does not hold.
        ValueError: no identity has this name.
        TypeError: the identity does not speak about subjects of this type.
    """
    chosen = _registered(identity) if isinstance(identity, str) else identity
    case = _case(chosen.over, subject, s, t)
    if not chosen.needs(case):
        return False
    error = chosen.error(case)
    if not error <= chosen.tolerance:
        raise AssertionError(
            f"{chosen.name} does not hold for {case.name}: error {error:.3g}, tolerance {chosen.tolerance:.3g} "
            f"({chosen.evidence.name} evidence)\n  {chosen.formula}"
        )
    return True


def _registered(name: str) -> Identity:
    # here and in _case: the checks stand on the library, so only a call may reach up to them, never an import of it
    from refdiff.validation.runner import registry

    known = registry()
    if name not in known:
        close = get_close_matches(name, known, 3) or sorted(known)[:3]
        raise ValueError(f"identity must be the name of a registered identity, such as {close}; got {name!r}")
    return known[name]


def _case(over: str, subject: Any, s: float | None, t: float | None) -> Case:
    from refdiff.validation import cases

    if isinstance(subject, cases.Case):
        return subject
    model = subject if isinstance(subject, ExactModel) else None
    law = model.distribution if model else subject
    process = model.process if model else AffineProcess(subject) if isinstance(subject, Schedule) else subject
    name = repr(subject)
    if over == "laws" and isinstance(law, GaussianMixture):
        return cases.LawCase(name, 0, law)
    if over in ("models", "processes") and isinstance(process, AffineProcess):
        early, late = (fraction * process.T for fraction in cases.TIMES[0])
        s, t = early if s is None else s, late if t is None else t
        if not 0 < s < t < process.T:
            raise ValueError(f"s and t must satisfy 0 < s < t < T = {process.T}, got s = {s} and t = {t}")
        if over == "processes" and not process.per_axis:
            return cases.ProcessCase(name, 0, process, s, t)
        if over == "models" and model:
            return cases.ModelCase(name, 0, law, process, s, t)
    if over == "tables" and isinstance(subject, BetaTable):
        return cases.TableCase(name, 0, subject)
    if over == "once" and isinstance(subject, int):
        return cases.Case(f"seed {subject}", subject)
    raise TypeError(f"subject must fit an identity over {over}, got {subject!r}")


# ---------------------------------------------------------------------- foreign denoisers and scores

Callback = Callable[[Array, float], ArrayLike]


@dataclass(frozen=True)
class _Point:
    """What a slip is computed from: the exact model at points x and one time."""

    model: ExactModel
    x: Array
    t: float

    @property
    def alpha(self) -> Array:
        return self.model.process.coefficients(self.t).alpha

    @property
    def sigma(self) -> Array:
        return self.model.process.coefficients(self.t).sigma

    @property
    def score(self) -> Array:
        return np.asarray(self.model.score(self.x, self.t))

    @property
    def denoiser(self) -> Array:
        return np.asarray(self.model.denoiser(self.x, self.t))


Prediction = Callable[[_Point], Array]
PREDICTIONS: dict[str, Prediction] = {
    "the denoiser E[x_0 | x]": lambda p: p.denoiser,
    "the score grad log p_t": lambda p: p.score,
    "the noise prediction E[eps | x]": lambda p: -p.sigma * p.score,
    "the velocity E[dx_t/dt | x]": lambda p: np.asarray(p.model.velocity(p.x, p.t)),
    "the v prediction E[alpha eps - sigma x_0 | x]": lambda p: np.asarray(p.model.v_prediction(p.x, p.t)),
    "its own input x": lambda p: p.x,
}
# What goes wrong in one formula; each is tried for every time at once, so a match is rarely an accident.
DENOISER_SLIPS: dict[str, Prediction] = {
    "Tweedie with sigma in place of sigma^2": lambda p: (p.x + p.sigma * p.score) / p.alpha,
    "Tweedie without the division by alpha": lambda p: p.x + p.sigma**2 * p.score,
    "Tweedie with alpha^2 in place of alpha": lambda p: (p.x + p.sigma**2 * p.score) / p.alpha**2,
    "Tweedie with the sign of the score reversed": lambda p: (p.x - p.sigma**2 * p.score) / p.alpha,
    "x / alpha, without the score": lambda p: p.x / p.alpha,
    "x - sigma eps with the variance sigma^2 in place of sigma": lambda p: (p.x + p.sigma**3 * p.score) / p.alpha,
}
SCORE_SLIPS: dict[str, Prediction] = {
    "sigma in place of sigma^2": lambda p: p.sigma * p.score,
    "sigma^2 times the score": lambda p: p.sigma**2 * p.score,
    "(E[x_0 | x] - x) / sigma^2, without alpha": lambda p: (p.denoiser - p.x) / p.sigma**2,
    "(alpha^2 E[x_0 | x] - x) / sigma^2, alpha^2 in place of alpha": lambda p: (
        (p.alpha**2 * p.denoiser - p.x) / p.sigma**2
    ),
    "-eps / sigma^2 in place of -eps / sigma": lambda p: p.score / p.sigma,
    "-x / sigma^2, the score of the noise alone": lambda p: -p.x / p.sigma**2,
}
CLOCKS: dict[str, Callable[[_Point], float]] = {
    "t reversed (T - t in place of t)": lambda p: p.model.process.T - p.t,
    "t divided by T": lambda p: p.t / p.model.process.T,
    "t one step too late": lambda p: p.t + 1,
    "t one step too early": lambda p: p.t - 1,
}


def assert_denoiser(
    denoiser: Callback, model: ExactModel, times: ArrayLike, *, seed: int = 0, n: int = 32, rtol: float = 1e-7
) -> None:
    """Assert that denoiser(x, t) is E[x_0 | x_t = x] of the model at points drawn from p_t.

    Args:
        denoiser: sends float64 points (n, d) and one time to (n, d).
        model: the exact model it should answer for.
        times: one time or several, in [0, T].
        seed: of the points.   n: points for each time.
        rtol: allowed error in units of the largest |E[x_0 | x]| at that time or the data's largest standard
            deviation; the default suits float64, 1e-4 a float32 implementation.

    Raises:
        AssertionError: it is not; the message names the worst point and likely slips.
    """
    spread = float(np.sqrt(np.diagonal(_law_of(model).cov()).max()))
    _compare("denoiser", denoiser, model, times, seed, n, rtol, DENOISER_SLIPS, spread)


def assert_score(
    score: Callback, model: ExactModel, times: ArrayLike, *, seed: int = 0, n: int = 32, rtol: float = 1e-7
) -> None:
    """Assert that score(x, t) is grad log p_t of the model at points drawn from p_t; arguments as `assert_denoiser`.

    Raises:
        AssertionError: it is not; the message names the worst point and likely slips.
    """
    _law_of(model)
    _compare("score", score, model, times, seed, n, rtol, SCORE_SLIPS, 0.0)


def _law_of(model: ExactModel) -> GaussianMixture:
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    return model.distribution


def _compare(
    kind: str,
    function: Callback,
    model: ExactModel,
    times: ArrayLike,
    seed: int,
    n: int,
    rtol: float,
    slips: dict[str, Prediction],
    spread: float,
) -> None:
    if not callable(function):
        raise TypeError(f"{kind} must be a function of points and time, got {function!r}")
    tolerance = real_scalar("rtol", rtol, low=0, open_low=True)
    count, rng = whole_number("n", n, low=1), generator(seed)
    clock = np.atleast_1d(real_array("times", times, ndim=(0, 1)))
    if clock.size == 0:
        raise ValueError("times must hold at least one time")
    asked = [_Point(model, model.sample(count, float(t), rng), float(t)) for t in clock]
    answers = [_answer(kind, function, p) for p in asked]
    worst, message = 0.0, ""
    for p, actual in zip(asked, answers, strict=True):
        expected = p.denoiser if kind == "denoiser" else p.score
        size = max(np.abs(expected).max(), spread) or np.abs(p.x).max()
        error = np.abs(actual - expected).max(axis=1) / size
        error = np.where(np.isnan(error), np.inf, error)
        row = int(np.argmax(error))
        if error[row] > max(worst, tolerance):
            worst = error[row]
            message = (
                f"{kind} is wrong, worst at t = {p.t:g}, x = {_short(p.x[row])}:\n"
                f"  expected {_short(expected[row])}\n  got      {_short(actual[row])}\n"
                f"  error {error[row]:.3g} of the size {size:.3g}, allowed rtol = {tolerance:g}"
            )
    if message:
        found = _likely(kind, asked, answers, slips, tolerance)
        raise AssertionError(message + "".join(f"\n  your result matches {name}" for name in found))


def _answer(kind: str, function: Callback, p: _Point) -> Array:
    answer = np.asarray(function(p.x.copy(), p.t))
    if answer.shape != p.x.shape:
        raise AssertionError(f"{kind} must send points of shape {p.x.shape} to that shape, got {answer.shape}")
    return answer.astype(np.float64)


def likely_slips(
    kind: str, model: ExactModel, asked: Sequence[tuple[Array, float]], answers: Sequence[Array], rtol: float
) -> list[str]:
    """What explains answers that are not the prediction `kind`, at every (points, time) that was asked.

    Args:
        kind: denoiser, score, noise, velocity or v_prediction.
        rtol: how near an explanation must come, relative to its largest entry.
    """
    slips = {"denoiser": DENOISER_SLIPS, "score": SCORE_SLIPS}.get(kind, {})
    return _likely(kind, [_Point(model, x, t) for x, t in asked], list(answers), slips, rtol)


def _likely(
    kind: str, asked: list[_Point], answers: list[Array], slips: dict[str, Prediction], rtol: float
) -> list[str]:
    """The slips that explain the answers at every time."""
    if not all(np.isfinite(answer).all() for answer in answers):
        return []
    right = next(guess for name, guess in PREDICTIONS.items() if name.startswith(f"the {kind.replace('_', ' ')}"))
    tried = {name: guess for name, guess in {**PREDICTIONS, **slips}.items() if guess is not right}
    tried |= {f"minus {name}": _minus(guess) for name, guess in PREDICTIONS.items()}
    tried |= {f"the {kind} with {name}": _moved(right, clock) for name, clock in CLOCKS.items()}
    found = [name for name, guess in tried.items() if _explains(guess, asked, answers, rtol)]
    if not found and _explains(right, asked, answers, max(1e-4, rtol)):
        found = ["the exact answer to 1e-4: it may compute in float32; state a larger rtol if that is meant"]
    factors = {p.t: _factor(right(p), answer) for p, answer in zip(asked, answers, strict=True)}
    if not found and _explains(lambda p: factors[p.t] * right(p), asked, answers, rtol):
        found = [f"the {kind} times a factor: " + ", ".join(f"{c:.6g} at t = {t:g}" for t, c in factors.items())]
    return found


def _minus(guess: Prediction) -> Prediction:
    return lambda p: -guess(p)


def _moved(guess: Prediction, clock: Callable[[_Point], float]) -> Prediction:
    return lambda p: guess(_Point(p.model, p.x, clock(p)))


def _explains(guess: Prediction, asked: list[_Point], answers: list[Array], rtol: float) -> bool:
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


def _short(x: Array) -> str:
    return np.array2string(x, precision=9, threshold=6)
