r"""Hutchinson's estimator of a trace, and its exact variance.

    tr A = E u'Au   for every u with E uu' = I.   Only S = (A + A') / 2 counts: u'Au = u'Su.

    probes       u                                         Var u'Au
    gaussian     N(0, I)                                   2 |S|^2                             |S|^2 = sum_ij S_ij^2
    rademacher   independent signs                         2 sum_{i != j} S_ij^2
    sphere       uniform on |u| = sqrt(d)  ("sliced")      2 d / (d + 2) |S - (tr S / d) I|^2
    orthogonal   the first m of a uniform frame of these   the same, and (d - m) / (d - 1) of it in the mean of m

Independent entries of variance 1 and fourth moment k give 2 |S|^2 + (k - 3) sum_i S_ii^2: normals have k = 3, signs
k = 1. On the sphere E (u'Su)^2 = d / (d + 2) ((tr S)^2 + 2 |S|^2), since a normal is a point of it times an independent
length. In a frame all d forms add up to d tr S, which does not vary: so two of them have covariance -Var / (d - 1), and
the mean of m has Var / m times (d - m) / (d - 1), as draws without replacement have; with m = d it is exact.

Signs are never worse than normals, nor is the sphere. Signs are exact for diagonal matrices, the sphere for multiples
of the identity, and its variance is the same in every basis. Sources: PODB-25, PODA-312; Hutchinson 1989.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, one_of, precise_as, real_array, whole_number
from refdiff.random import normals, seed_key, uniforms

Operator = Callable[[Array], ArrayLike]


@dataclass(frozen=True, eq=False)
class TraceEstimate:
    """What m probes say of a trace.

    Attributes:
        value: the mean of the forms, unbiased, shape (...).
        standard_error: from their spread, shape (...): its square is an unbiased estimate of the variance of `value`;
            NaN for one probe, which says nothing of its error. 0 for a whole frame of orthogonal probes.
        forms: u'Au for every probe, shape (m, ...).
    """

    value: Any
    standard_error: Any
    forms: Array

    @staticmethod
    def of(forms: Array, probe: str, dim: int) -> TraceEstimate:
        """The estimate from forms u'Au, shape (m, ...), of probes of that kind (`probe`) in `dim` axes."""
        count = len(forms)
        left = 1 - count / dim if probe == "orthogonal" else 1.0  # of a frame, as of a finite population
        if left == 0:
            error = np.zeros_like(forms[0])
        elif count == 1:
            error = np.full_like(forms[0], np.nan)
        else:
            error = np.sqrt(forms.var(axis=0, ddof=1) * left / count)
        return TraceEstimate(forms.mean(axis=0)[()], error[()], forms)


def hutchinson(
    operator: ArrayLike | Operator,
    probes: int,
    *,
    seed: int | np.random.Generator,
    probe: str = "rademacher",
    shape: tuple[int, ...] | None = None,
) -> TraceEstimate:
    """The trace of A from products A u alone.

    Args:
        operator: A, shape (..., d, d); or a function u -> A u of vectors (..., d), one for each matrix, called once for
            every probe.
        probes: how many, m.
        seed: of `draw_probes`: the n-th matrix has the n-th point's probes.
        probe: gaussian, rademacher, sphere or orthogonal.
        shape: (..., d), for a function.

    Raises:
        TypeError: the operator is no real array and no function, or a function comes without `shape`.
        ValueError: the matrices are not square, a product has another shape than u or is not finite, an unknown
            probe, or more orthogonal probes than axes.

    Examples:
        >>> from refdiff.dynamics import hutchinson
        >>> found = hutchinson([[1.0, 0.0], [0.0, 2.0]], 3, seed=0, probe="rademacher")
        >>> print(found.value, found.standard_error)  # u'Au = 1 + 2 for u of +-1, whatever the seed
        3.0 0.0
    """
    if callable(operator):
        if not isinstance(shape, tuple) or not shape:
            raise TypeError(f"shape must be the shape (..., d) of the vectors that the operator takes, got {shape!r}")
        product: Operator = operator
    else:
        a = _square("operator", operator)
        shape = a.shape[:-1]

        def product(u: Array) -> Array:
            return np.asarray(np.einsum("...ij,...j->...i", a, u))

    *lead, dim = shape
    drawn = draw_probes(probe, int(np.prod(lead)), probes, dim, seed)
    forms = np.empty((drawn.shape[1], *lead))
    for k in range(len(forms)):
        u = drawn[:, k].reshape(shape)
        forms[k] = (u * answered("operator", product(u), u.shape, finite=True)).sum(axis=-1)
    found = TraceEstimate.of(forms, probe, dim)
    return TraceEstimate(*(precise_as(operator, part) for part in (found.value, found.standard_error, found.forms)))


def draw_probes(probe: str, points: ArrayLike | range, count: int, dim: int, seed: int | np.random.Generator) -> Array:
    """Probes u with E uu' = I, `count` for each point, shape (n, m, d).

    Args:
        probe: gaussian, rademacher, sphere or orthogonal.
        points: the points' numbers, shape (n,); or n, for 0..n-1.
        count: m; for orthogonal probes at most d.
        dim: d.
        seed: an int, or a generator that draws one. Those of a point depend on the seed, its number and the kind
            alone: no split of a batch changes them.

    Raises:
        ValueError: an unknown probe, or more orthogonal probes than axes.
    """
    one_of("probe", probe, PROBES)
    count, dim, key = whole_number("probes", count, low=1), whole_number("dim", dim, low=1), seed_key(seed)
    if probe == "orthogonal" and count > dim:
        raise ValueError(f"probes must be at most {dim}, the number of axes, for orthogonal ones, got {count}")
    raw = uniforms if probe == "rademacher" else normals
    drawn = np.stack([raw(key, points, draw, dim) for draw in range(count)], axis=1)
    return PROBES[probe](drawn)


def trace_variance(matrix: ArrayLike, probe: str, probes: int = 1) -> Any:
    """The exact variance of Hutchinson's estimate.

    Args:
        matrix: A, shape (..., d, d), symmetric or not.
        probe: gaussian, rademacher, sphere or orthogonal.
        probes: how many the mean is over, m.

    Returns:
        shape (...).

    Raises:
        ValueError: the matrix is not square, an unknown probe, or more orthogonal probes than axes.

    Examples:
        >>> from refdiff.dynamics import trace_variance
        >>> a = [[1.0, 1.0], [1.0, 2.0]]
        >>> print(round(float(trace_variance(a, "gaussian")), 6))  # 2 |A|_F^2
        14.0
        >>> print(round(float(trace_variance(a, "rademacher")), 6))  # the diagonal has none: 4 A_12^2
        4.0
    """
    one_of("probe", probe, PROBES)
    a, count = _square("matrix", matrix), whole_number("probes", probes, low=1)
    s, dim = (a + np.swapaxes(a, -1, -2)) / 2, a.shape[-1]
    diagonal = np.einsum("...ii->...i", s)
    outside = s.copy()
    np.einsum("...ii->...i", outside)[...] = 0
    # sums of squares alone: nothing cancels where the variance is small
    mixed = (outside**2).sum(axis=(-1, -2))
    if probe == "gaussian":
        result = 2 * (mixed + (diagonal**2).sum(axis=-1))
    elif probe == "rademacher":
        result = 2 * mixed
    else:
        uneven = diagonal - diagonal.mean(axis=-1, keepdims=True)
        result = 2 * dim / (dim + 2) * (mixed + (uneven**2).sum(axis=-1))
    if probe == "orthogonal":
        if count > dim:
            raise ValueError(f"probes must be at most {dim}, the number of axes, for orthogonal ones, got {count}")
        result = result * ((dim - count) / max(dim - 1, 1))
    return precise_as(matrix, result / count)


def _signs(u: Array) -> Array:
    """Half of the uniforms, multiples of 2^-53 in (0, 1], are above 1/2."""
    return np.where(u > 0.5, 1.0, -1.0)


def _on_sphere(z: Array) -> Array:
    # z = 0, once in 2^53 for d = 1, becomes a point as any other
    z = np.where((z == 0).all(axis=-1, keepdims=True), 1.0, z)
    return np.asarray(np.sqrt(z.shape[-1]) * z / np.linalg.norm(z, axis=-1, keepdims=True))


def _frames(z: Array) -> Array:
    """Gram and Schmidt's frames of normals (n, m, d), which turn as those do: uniform among all."""
    q, r = np.linalg.qr(np.swapaxes(z, -1, -2))
    signs = np.where(np.einsum("...ii->...i", r) < 0, -1.0, 1.0)
    return np.asarray(np.sqrt(z.shape[-1]) * np.swapaxes(q * signs[:, None, :], -1, -2))


# what makes probes of numbers (n, m, d): of uniforms for signs, of normals for the others
PROBES: MappingProxyType[str, Callable[[Array], Array]] = MappingProxyType(
    {"gaussian": lambda z: z, "rademacher": _signs, "sphere": _on_sphere, "orthogonal": _frames}
)


def _square(name: str, value: ArrayLike) -> Array:
    a = real_array(name, value)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or a.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., d, d), got {a.shape}")
    return a
