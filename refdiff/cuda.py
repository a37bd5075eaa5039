r"""Laws and their predictions on a GPU: points that are arrays of CuPy, and laws as the arrays its kernels take.

The algebra is that of `compiled`, with the same `when`; laws stay where they are, and what kernels need of one goes to
a device once, in the precision of the points. Points of float64 are computed in float64, those of float32 in float32:
x itself is then all that is exact, and logits are off by their size times 6e-8. Sources: PODB-54..57.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike

from refdiff import compiled
from refdiff.arguments import Array
from refdiff.compiled import Law
from refdiff.distributions.covariances import TOO_FAR
from refdiff.kernels.cuda import mixture as kernels
from refdiff.kernels.cuda import second_order
from refdiff.kernels.cuda.device import cupy

ELSEWHERE = "x must be an array of NumPy for {what}: pass cupy.asnumpy(x)"
TOO_WIDE = "x must be of a type that holds the numbers of the law, as {kind} does not: there is {what}"

_mixtures: WeakKeyDictionary[Law, dict[tuple[Any, ...], kernels.Mixture]] = WeakKeyDictionary()


def points(name: str, x: Any, dim: int) -> tuple[Any, Callable[[Any], Any]]:
    """Points of shape (..., dim) on a device as (n, dim), and the way back to their leading shape.

    They keep float32, and are float64 otherwise.

    Args:
        name: what messages call them.
        x: the points.
        dim: d.

    Raises:
        TypeError: the points are not real numbers.
        ValueError: they have another last dimension than `dim`, or are not finite.
    """
    if x.dtype.kind not in "buif":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    if x.ndim == 0 or x.shape[-1] != dim:
        raise ValueError(f"{name} must have shape (..., {dim}), got {x.shape}")
    lead = x.shape[:-1]
    with x.device:
        rows = cupy().ascontiguousarray(x, dtype=np.float32 if x.dtype == np.float32 else np.float64).reshape(-1, dim)
        if not bool(cupy().isfinite(rows).all()):
            raise ValueError(f"{name} must be finite, got {float(x[~cupy().isfinite(x)][0])}")
    return rows, lambda result: result.reshape(lead + result.shape[1:])


def mixture(law: Law, dtype: Any) -> kernels.Mixture:
    """The law as kernels take it, of float32 or float64 as `dtype` says; sent once to each device.

    Raises:
        ValueError: it has numbers beyond those of the type.
    """
    known = _mixtures.setdefault(law, {})
    place = (id(cupy()), cupy().cuda.Device().id, np.dtype(dtype))
    if place not in known:
        with np.errstate(over="ignore"):
            parts = [part.astype(dtype) for part in compiled.mixture(law)]
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError(TOO_WIDE.format(kind=np.dtype(dtype), what="a mean or a variance beyond it"))
        sent = kernels.Mixture(*map(cupy().asarray, parts))
        # copies from the host are only in the order of this stream, and the law, once known, is there for all
        cupy().cuda.get_current_stream().synchronize()
        known[place] = sent
    return known[place]


def applies(law: Law, when: Array, dtype: Any = np.float64) -> None:
    """Check that kernels can evaluate the law at the time `when`, an answer of `compiled.at`, shape (5, 1 or d).

    Raises:
        ValueError: they cannot, or the law has no density then, or none in numbers of `dtype`.
    """
    if not compiled.applies(law, when):
        raise ValueError(ELSEWHERE.format(what="matrices nearly singular, or under a process that differs on the axes"))
    if not (least := compiled.least(law, when).min()) >= np.finfo(dtype).tiny:  # or its inverse is infinite
        raise ValueError(TOO_WIDE.format(kind=np.dtype(dtype), what=f"a variance of {least:.3g}"))


def prediction(law: Law, x: Any, when: Array) -> Any:
    """The law's prediction (n, d) at points x (n, d) on a device and a time `when`."""
    return finite(kernels.predict(x, mixture(law, x.dtype), when)[0])


def log_density(law: Law, x: Any, when: Array) -> Any:
    """The log density (n,) of the law at a time `when`, at points x (n, d) on a device."""
    return kernels.predict(x, mixture(law, x.dtype), when)[1]


def divergence(law: Law, x: Any, when: Array) -> Any:
    """The divergence of the law's prediction, (n,), at points x (n, d) on a device and a time `when`."""
    return finite(second_order.divergence(x, mixture(law, x.dtype), when)[1])


QUESTIONS: dict[str, Callable[[Law, Any, Array], Any]] = {
    "prediction": prediction,
    "log_density": log_density,
    "divergence": divergence,
}


def ask(
    question: str, law: Law, x: Any, when: Array = compiled.STATIC, offset: ArrayLike = 0.0, rate: ArrayLike = 0.0
) -> Any:
    """What the law's prediction is asked about at x - `offset`, by the name of the question, plus a `rate`.

    Args:
        question: prediction, log_density or divergence.
        law: the law.
        x: points of shape (..., d) on a device.
        when: an answer of `compiled.at`, shape (5, 1 or d); the score of the law itself where it is left out.
        offset: a number or (d,), what is taken off x.
        rate: a number or (d,), what is added to the answer.

    Raises:
        TypeError: no such question is answered on a device, or x are no points.
        ValueError: points that do not fit, or a law to which kernels do not apply.
    """
    rows, restore = points("x", x, law.dim)
    if question not in QUESTIONS:
        raise TypeError(ELSEWHERE.format(what=f"the {question}"))
    with rows.device:
        applies(law, when, rows.dtype)
        found = QUESTIONS[question](law, rows - constant(offset, rows) if np.any(offset) else rows, when)
        return restore(found + constant(rate, found) if np.any(rate) else found)


def constant(value: ArrayLike, like: Any) -> Any:
    """A constant `value` of NumPy, any shape, of the type and on the device of the array `like`, any shape."""
    with like.device:
        return cupy().asarray(np.asarray(value, dtype=like.dtype))


def finite(answer: Any, otherwise: str = TOO_FAR) -> Any:
    """The answer, of any shape on a device, if its floating-point type could hold what led to it.

    Raises:
        ValueError: it could not, with the message `otherwise`.
    """
    if not bool(cupy().isfinite(answer).all()):
        raise ValueError(otherwise.format(what="x").replace("float64", answer.dtype.name))
    return answer
