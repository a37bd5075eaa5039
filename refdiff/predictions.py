r"""One prediction turned into another, given x and t.

Every prediction is a combination of the clean point and the noise, x = alpha D + sigma e (x - b of a process with an
offset b, whose velocity has b' besides):

    from          D                          e                            to (from D and e)
    denoiser      p                          (x - alpha p) / sigma        D
    noise         (x - sigma p) / alpha      p                            e
    score         (x + sigma^2 p) / alpha    -sigma p                     -e / sigma
    velocity      (sigma p - sigma' x) / W   (alpha' x - alpha p) / W     alpha' D + sigma' e
    v_prediction  (alpha x - sigma p) / R    (sigma x + alpha p) / R      alpha e - sigma D

with W = alpha' sigma - alpha sigma' and R = alpha^2 + sigma^2. Only what the target needs is computed, so noise to
score works at alpha = 0. Processes with matrices have x = A D + R e (R a root now) and, with F' = A' A^-1 and S,

    score     p = -R'^-1 e         velocity  p = A' D + S R'^-1 e = F' x + (S R'^-1 - F' R) e

and no v_prediction. Sources: PODB-54, PODB-56, PODB-57, DMI-28, RDX-08, RDX-22, RDX-23.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, one_of, points, real_array
from refdiff.operators import Operator
from refdiff.processes.affine import AffineProcess
from refdiff.processes.motion import Motion, Process
from refdiff.schedules import Coefficients, Schedule


class _Prediction(NamedTuple):
    """How a prediction p gives D and e, and how D and e give it (as callables: an unneeded one is never formed)."""

    denoiser: Callable[[Coefficients, Array, Array], Array]
    noise: Callable[[Coefficients, Array, Array], Array]
    made: Callable[[Coefficients, Callable[[], Array], Callable[[], Array]], Array]


def _wronskian(c: Coefficients) -> Array:
    return np.asarray(c.dalpha * c.sigma - c.alpha * c.dsigma)


def _square(c: Coefficients) -> Array:
    return np.asarray(c.alpha**2 + c.sigma**2)


_TABLE = {
    "denoiser": _Prediction(
        lambda c, x, p: p,
        lambda c, x, p: (x - c.alpha * p) / c.sigma,
        lambda c, clean, noise: clean(),
    ),
    "noise": _Prediction(
        lambda c, x, p: (x - c.sigma * p) / c.alpha,
        lambda c, x, p: p,
        lambda c, clean, noise: noise(),
    ),
    "score": _Prediction(
        lambda c, x, p: (x + c.sigma**2 * p) / c.alpha,
        lambda c, x, p: -c.sigma * p,
        lambda c, clean, noise: -noise() / c.sigma,
    ),
    "velocity": _Prediction(
        lambda c, x, p: (c.sigma * p - c.dsigma * x) / _wronskian(c),
        lambda c, x, p: (c.dalpha * x - c.alpha * p) / _wronskian(c),
        lambda c, clean, noise: c.dalpha * clean() + c.dsigma * noise(),
    ),
    "v_prediction": _Prediction(
        lambda c, x, p: (c.alpha * x - c.sigma * p) / _square(c),
        lambda c, x, p: (c.sigma * x + c.alpha * p) / _square(c),
        lambda c, clean, noise: c.alpha * noise() - c.sigma * clean(),
    ),
}

PREDICTIONS = tuple(_TABLE)


def convert(value: ArrayLike, x: ArrayLike, t: float, process: Process | Schedule, source: str, target: str) -> Array:
    """The prediction `target` at (x, t) that says the same as the prediction `source` with this value.

    Args:
        value: the source prediction at x, shape (..., d).
        x: noisy points, shape (..., d).
        t: one time in [0, T].
        process: a Process, or a Schedule.
        source, target: denoiser, noise, score, velocity or v_prediction.

    Raises:
        ValueError: an unknown prediction, shapes that differ, or a time at which the source does not determine the
            target (the noise from the denoiser at sigma = 0, the denoiser from the noise at alpha = 0).

    Examples:
        >>> from refdiff import FlowMatching, convert
        >>> print(convert([0.5], [1.0], 0.25, FlowMatching(), "denoiser", "noise"))  # (1 - 0.75 * 0.5) / 0.25
        [2.5]
        >>> print(convert([0.5], [1.0], 0.25, FlowMatching(), "denoiser", "velocity"))  # noise less data
        [2.]
    """
    _known(source, target)
    where = real_array("x", x)
    if where.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    rows, restore = points("x", x, where.shape[-1])
    given, _ = points("value", value, where.shape[-1])
    if given.shape != rows.shape:
        raise ValueError(f"value must have the shape of x, {where.shape}, got {np.shape(value)}")
    noising = AffineProcess(process) if isinstance(process, Schedule) else process
    b = noising.offset(t)  # of x - b, and a velocity is one of b' too
    centred = given - b.rate if source == "velocity" else given
    if isinstance(noising, AffineProcess):
        found = _made(noising.coefficients(t), rows - b.value, centred, source, target)
    else:
        of_x, of_value = weights(noising.motion(t), source, target)
        found = operators.apply(of_x, rows - b.value) + operators.apply(of_value, centred)
    return restore(found + b.rate if target == "velocity" else found)


def weights(c: Coefficients | Motion, source: str, target: str) -> tuple[Operator, Operator]:
    """(a, b) with target = a x + b source, of the shape of the process's coefficients c.

    Raises:
        ValueError: an unknown prediction, or coefficients at which the source does not determine the target.
    """
    _known(source, target)
    if isinstance(c, Motion):
        return _matrix_weights(c, source, target)
    one, zero = np.ones_like(c.alpha), np.zeros_like(c.alpha)
    return _made(c, one, zero, source, target), _made(c, zero, one, source, target)


def _known(source: str, target: str) -> None:
    one_of("source", source, PREDICTIONS)
    one_of("target", target, PREDICTIONS)


def _made(c: Coefficients, x: Array, given: Array, source: str, target: str) -> Array:
    """The target at x, from the source there."""
    if source == target:
        return given
    known = _TABLE[source]
    with np.errstate(all="ignore"):  # what is not finite is reported below, with its reason
        result = _TABLE[target].made(c, lambda: known.denoiser(c, x, given), lambda: known.noise(c, x, given))
    if not np.isfinite(result).all():
        raise ValueError(
            f"t must leave {source} and {target} equivalent, got a time where alpha = {c.alpha}, sigma = {c.sigma}"
        )
    return result


def _matrix_weights(m: Motion, source: str, target: str) -> tuple[Operator, Operator]:
    """`weights` of a process with matrices: D and e as multiples (2, d, d) of x and of the source.

    Numbers on all axes, such as those of one schedule turned, stay numbers.
    """
    if "v_prediction" in (source, target):
        raise ValueError("source and target must not be v_prediction for a process with matrices")
    sizes = {len(part) for part in (m.gain, m.dgain, m.root, m.spread) if part.ndim}
    dim = max(sizes, default=1)
    gain, dgain, root, spread = (operators.dense(part, dim) for part in (m.gain, m.dgain, m.root, m.spread))
    x, given = np.stack([np.eye(dim), np.zeros((dim, dim))]), np.stack([np.zeros((dim, dim)), np.eye(dim)])

    def moved() -> tuple[Array, Array]:
        """F' and S R'^-1 - F' R, which is D R'^-1 / 2."""
        rate = _solved(gain.T, dgain.T).T
        return rate, _solved(root, spread.T).T - rate @ root

    def noise() -> Array:
        if source == "noise":
            return given
        if source == "score":
            return -root.T @ given
        if source == "denoiser":
            return _solved(root, x - gain @ given)
        rate, of_noise = moved()
        # where noise does not reach an axis directly D is singular, up to the rounding of two terms that cancel
        if np.linalg.matrix_rank(of_noise, tol=1e-12 * float(np.linalg.norm(rate @ root))) < dim:
            raise np.linalg.LinAlgError
        return _solved(of_noise, given - rate @ x)

    def made() -> Array:
        if source == target:
            return given
        if target == "noise":
            return noise()
        if target == "score":
            return -_solved(root.T, noise())
        if target == "denoiser":
            return _solved(gain, x - root @ noise())
        if source == "denoiser":  # A' D + S R'^-1 e, also where A is singular
            return np.asarray(dgain @ given + _solved(root, spread.T).T @ noise())
        rate, of_noise = moved()
        return np.asarray(rate @ x + of_noise @ noise())

    try:
        found = made()
    except np.linalg.LinAlgError:
        raise ValueError(f"t must leave {source} and {target} equivalent, got a time where they are not") from None
    return (found[0], found[1]) if sizes else (found[0].reshape(()), found[1].reshape(()))


def _solved(matrix: Array, right: Array) -> Array:
    """matrix^-1 right, for right (..., d, d).

    Raises:
        LinAlgError: the matrix, with axes in whatever units, is singular up to rounding.
    """
    if operators.singular(matrix):
        raise np.linalg.LinAlgError
    return np.asarray(np.linalg.solve(matrix, right))
