r"""Assertions: a registered identity on a subject of one's own, a foreign denoiser, a foreign score.

    denoiser   f(x, t) = E[x_0 | x_t = x]          score   f(x, t) = grad log p_t(x)

Points are drawn from p_t, so the comparison is made where the function will be used; a slip is named by
refdiff.validation.slips.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, BetaTable
from refdiff.schedules import Schedule
from refdiff.validation.slips import Point, likely_slips

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

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VPLinear
        >>> from refdiff.testing import assert_identity
        >>> assert_identity("Tweedie, first order", ExactModel(Gaussian([0.7], 0.25), VPLinear()))
        True
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

    Examples:
        >>> from refdiff import ExactModel, FlowMatching, Gaussian
        >>> from refdiff.testing import assert_denoiser
        >>> model = ExactModel(Gaussian([0.0], 1.0), FlowMatching())
        >>> assert_denoiser(lambda x, t: (1 - t) * x / ((1 - t) ** 2 + t**2), model, times=[0.1, 0.9])
        >>> try:  # with 1 - t for t
        ...     assert_denoiser(lambda x, t: t * x / ((1 - t) ** 2 + t**2), model, times=0.1)
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[-1].strip())
        your result matches the denoiser with t reversed (T - t in place of t)
    """
    spread = float(np.sqrt(np.diagonal(_law_of(model).cov()).max()))
    _compare("denoiser", denoiser, model, times, seed, n, rtol, spread)


def assert_score(
    score: Callback, model: ExactModel, times: ArrayLike, *, seed: int = 0, n: int = 32, rtol: float = 1e-7
) -> None:
    """Assert that score(x, t) is grad log p_t of the model at points drawn from p_t; arguments as of `assert_denoiser`.

    Raises:
        AssertionError: it is not; the message names the worst point and likely slips.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VPLinear
        >>> from refdiff.testing import assert_score
        >>> model = ExactModel(Gaussian([0.0], 1.0), VPLinear())  # p_t = N(0, 1)
        >>> assert_score(lambda x, t: -x, model, times=[0.1, 0.5])
        >>> try:
        ...     assert_score(lambda x, t: x, model, times=0.5)
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[-1].strip())
        your result matches minus the score grad log p_t
    """
    _law_of(model)
    _compare("score", score, model, times, seed, n, rtol, 0.0)


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
    spread: float,
) -> None:
    if not callable(function):
        raise TypeError(f"{kind} must be a function of points and time, got {function!r}")
    tolerance = real_scalar("rtol", rtol, low=0, open_low=True)
    count, rng = whole_number("n", n, low=1), generator(seed)
    clock = np.atleast_1d(real_array("times", times, ndim=(0, 1)))
    if clock.size == 0:
        raise ValueError("times must hold at least one time")
    asked = [Point(model, model.sample(count, float(t), rng), float(t)) for t in clock]
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
        found = likely_slips(kind, model, [(p.x, p.t) for p in asked], answers, tolerance)
        raise AssertionError(message + "".join(f"\n  your result matches {name}" for name in found))


def _answer(kind: str, function: Callback, p: Point) -> Array:
    answer = np.asarray(function(p.x.copy(), p.t))
    if answer.shape != p.x.shape:
        raise AssertionError(f"{kind} must send points of shape {p.x.shape} to that shape, got {answer.shape}")
    return answer.astype(np.float64)


def _short(x: Array) -> str:
    return np.array2string(x, precision=9, threshold=6)
