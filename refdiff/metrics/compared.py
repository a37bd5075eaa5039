"""What is compared: laws, which are known, and samples, of which only draws are.

An array of points stands for the law that it was drawn from: what is estimated from it has a standard error. A law,
`Empirical` among them, stands for itself. So a metric of two point sets is exact for `Empirical(x)` and has the error
of sampling for x. Weighted points are an `Empirical`. Two samples may lie on a GPU, as arrays of CuPy, where a metric
says that it takes them. Sources: PODA-102, the empirical law of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff.arguments import Array, real_array
from refdiff.backends import on_device
from refdiff.distributions import Empirical, GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY, Covariances, Dense, Diagonal
from refdiff.distributions.mixture import law as law_of
from refdiff.distributions.moments import log_total

Compared: TypeAlias = GaussianMixture | ArrayLike


class Side(NamedTuple):
    """One of two that are compared.

    Attributes:
        law: itself, or the empirical law of a sample.
        drawn: whether it is a sample.
    """

    law: GaussianMixture
    drawn: bool


def sides(p: Compared, q: Compared) -> tuple[Side, Side]:
    """Both p and q, each a law or a sample of points (n, d), after a check that they live in one space.

    Raises:
        TypeError: one is neither a law nor an array of real numbers.
        ValueError: a sample is empty, not finite or not of shape (n, d), or the dimensions differ.
    """
    first, second = _side("p", p), _side("q", q)
    if first.law.dim != second.law.dim:
        raise ValueError(f"p and q must have the same dimension, got {first.law.dim} and {second.law.dim}")
    return first, second


def _side(name: str, value: Any) -> Side:
    if isinstance(value, GaussianMixture):
        return Side(value, drawn=False)
    x = real_array(name, value)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be a law, or at least one point of shape (n, d), got shape {x.shape}")
    return Side(Empirical(x), drawn=True)


def samples_on_device(p: Any, q: Any) -> tuple[Any, Any] | None:
    """Samples p (n, d) and q (m, d) that lie on one GPU, contiguous and of one type; nothing where neither does.

    Both are float32 where both were, and float64 otherwise.

    Raises:
        TypeError: one of them lies there and the other does not, or they do not hold real numbers.
        ValueError: one is empty, not finite or no matrix, or the dimensions or the GPUs differ.
    """
    there = on_device(p), on_device(q)
    if not any(there):
        return None
    if not all(there):
        here, other = ("q", q) if there[0] else ("p", p)
        raise TypeError(
            f"p and q must both be arrays of CuPy, or neither, got a {type(other).__name__} for {here}: cupy.asarray "
            "and cupy.asnumpy move samples"
        )
    from refdiff.cuda import points  # late: it takes a third of a second to import

    for name, value in (("p", p), ("q", q)):
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(f"{name} must be at least one point of shape (n, d), got shape {value.shape}")
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"p and q must have the same dimension, got {p.shape[1]} and {q.shape[1]}")
    if p.device.id != q.device.id:
        raise ValueError(f"p and q must be on one GPU, got {p.device.id} and {q.device.id}")
    with p.device:
        first, second = points("p", p, p.shape[1])[0], points("q", q, p.shape[1])[0]
        dtype = np.promote_types(first.dtype, second.dtype)
        return first.astype(dtype, copy=False), second.astype(dtype, copy=False)


def is_points(law: GaussianMixture) -> bool:
    """Whether a law has all its mass on points: no component has a variance."""
    stored = law.covariances
    return not (stored.variances if isinstance(stored, Diagonal) else stored.matrices).any()


def weighted_points(law: GaussianMixture) -> tuple[Array, Array]:
    """The points (n, d) and weights (n,), which sum to 1, of a law of points, without those of weight 0."""
    kept = np.isfinite(law.log_weights)
    weights = law.weights[kept]
    return law.means[kept], weights / weights.sum()


class Parts(NamedTuple):
    """A law as points of positive mass and a density.

    Attributes:
        places: the points, shape (n, d), and `masses` (n,) theirs.
        masses: see places.
        density: the law of the rest, None where there is no rest.
        rest: its mass.
    """

    places: Array
    masses: Array
    density: GaussianMixture | None
    rest: float


def parts(name: str, law: GaussianMixture) -> Parts:
    """The parts of a law, which messages call by this `name`.

    Raises:
        ValueError: a covariance is singular without being 0.
    """
    stored, drawn = law.covariances, np.isfinite(law.log_weights)
    entries = stored.variances if isinstance(stored, Diagonal) else stored.matrices.reshape(len(stored.matrices), -1)
    spread = np.broadcast_to(entries.any(axis=1), law.count)
    on, off = np.flatnonzero(drawn & ~spread), np.flatnonzero(drawn & spread)
    weights = law.weights / law.weights[drawn].sum()
    density = _part(law, off) if len(off) else None
    if density is not None and density.covariances.singular:
        raise ValueError(NO_DENSITY.format(what=f"{name}'s covariance"))
    return Parts(law.means[on], weights[on], density, float(weights[off].sum()))


def _part(law: GaussianMixture, ks: NDArray[np.intp]) -> GaussianMixture:
    logs = law.log_weights[ks]
    return law_of(logs - log_total(logs[None]), law.means[ks], law.covariances[ks])


def merged(laws: Sequence[GaussianMixture], masses: ArrayLike) -> GaussianMixture:
    """The mixture of `laws` on one space with these positive `masses` (n,), which need not sum to 1."""
    logs = np.log(np.asarray(masses, dtype=np.float64))
    weights = np.concatenate([one.log_weights + log for one, log in zip(laws, logs, strict=True)])
    means = np.concatenate([one.means for one in laws])
    covariances: Covariances
    if all(isinstance(one.covariances, Diagonal) for one in laws):
        stored = [one.covariances.variances for one in laws if isinstance(one.covariances, Diagonal)]
        wide = max(v.shape[1] for v in stored)
        covariances = Diagonal(
            np.concatenate([np.broadcast_to(v, (one.count, wide)) for v, one in zip(stored, laws, strict=True)])
        )
    else:
        square = (laws[0].dim, laws[0].dim)
        dense = [np.broadcast_to(one.covariances.dense(one.dim), (one.count, *square)) for one in laws]
        covariances = Dense(np.concatenate(dense))
    return law_of(weights - log_total(weights[None]), means, covariances)


def same_space(p: GaussianMixture, q: GaussianMixture) -> None:
    """Check that p and q are laws on one space.

    Raises:
        TypeError: one is no law.
        ValueError: the dimensions differ.
    """
    for name, law in (("p", p), ("q", q)):
        if not isinstance(law, GaussianMixture):
            raise TypeError(f"{name} must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
    if p.dim != q.dim:
        raise ValueError(f"p and q must have the same dimension, got {p.dim} and {q.dim}")
