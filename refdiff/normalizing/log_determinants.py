r"""log det(I + J) of a contraction as a power series, cut off or estimated.

    log det(I + J) = sum_{k >= 1} t_k,    t_k = (-1)^(k+1) tr J^k / k,    |t_k| <= d q^k / k  where |J|_2 <= q < 1
    cut off        |sum_{k > n} t_k| <= d sum_{k > n} q^k / k <= d q^(n+1) / ((n + 1) (1 - q)),    equal at J = -q I
    probes         tr J^k = E v'J^k v where E v v' = I: products with vectors only
    roulette       t_1 + ... + t_N weighted by 1 / P(N >= k): its mean is the whole series for a random length N, and
                   its second moment is sum_k t_k (t_k + 2 sum_{j > k} t_j) / P(N >= k)

Lengths are N = m + G, m terms for sure and then one more with probability c each: the variance is finite where
q^2 <= c, and infinite where the spectral radius r of J has r^2 > c, though the mean is right (t_n / P(N >= n) grows
like (r / c)^n, its square times P(N = n) like (r^2 / c)^n).
Sources: PODB-21; Hutchinson 1989, Chen et al. 2019 (residual flows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import tanhsinh

from refdiff.arguments import Array, answered, generator, real_array, real_scalar, whole_number


def _signed(powers: Array) -> Array:
    """(-1)^(k+1) / k times the traces of powers k = 1.. in the last axis."""
    k = np.arange(1, powers.shape[-1] + 1)
    return powers * np.where(k % 2, 1.0, -1.0) / k


def power_terms(jacobians: ArrayLike, count: int) -> Array:
    """t_1..t_count of matrices J (..., d, d), shape (..., count): from powers of J, whatever the norm of J.

    Args:
        jacobians: J.
        count: how many terms.

    Raises:
        ValueError: the matrices are not square.
    """
    j = real_array("jacobians", jacobians)
    if j.ndim < 2 or j.shape[-1] != j.shape[-2]:
        raise ValueError(f"jacobians must have shape (..., d, d), got {j.shape}")
    traces = np.empty((*j.shape[:-2], whole_number("count", count)))
    power = np.broadcast_to(np.eye(j.shape[-1]), j.shape)
    for k in range(count):
        power = power @ j
        traces[..., k] = np.einsum("...ii->...", power)
    return _signed(traces)


def probe_terms(pull: Callable[[Array], ArrayLike], probes: ArrayLike, count: int) -> Array:
    """(-1)^(k+1) v'J^k v / k for k = 1..count, shape (..., count): t_k in the mean where E v v' = I.

    Args:
        pull: v (..., d) -> v'J, a vector-Jacobian product for each probe.
        probes: v, shape (..., d).
        count: how many terms, each one more product.

    Raises:
        ValueError: pull answers with another shape.
    """
    v = real_array("probes", probes)
    found = np.empty((*v.shape[:-1], whole_number("count", count)))
    pulled = v
    for k in range(count):
        pulled = answered("pull", pull(pulled), v.shape)
        found[..., k] = (pulled * v).sum(axis=-1)
    return _signed(found)


def remainder(norm: ArrayLike, terms: int, dim: int) -> Any:
    """d sum_{k > n} q^k / k = d q^(n+1) int_0^1 (1 - w)^n / (1 - q + q w) dw: what n terms leave out at most.

    Args:
        norm: q, a bound on |J|_2, in [0, 1), of any shape (...).
        terms: n.
        dim: d.

    Raises:
        ValueError: a norm outside [0, 1), for which the series need not converge.
    """
    q = real_array("norm", norm)
    if ((q < 0) | (q >= 1)).any():
        raise ValueError(f"norm must lie in [0, 1), got {q[(q < 0) | (q >= 1)].flat[0]}")
    n = whole_number("terms", terms)
    # hyp2f1 has no number for it from n = 171 on; these nodes crowd at w = 0, where q -> 1 makes a pole
    left = tanhsinh(lambda w, q: np.exp(n * np.log1p(-w)) / (1 - q + q * w), 0.0, 1.0, args=(q,), rtol=1e-14)
    return whole_number("dim", dim, low=1) * q ** (n + 1) * left.integral


def terms_for(norm: float, error: float, dim: int) -> int:
    """The least number of terms whose remainder for a `norm` q in [0, 1) and `dim` d is at most `error`.

    Raises:
        ValueError: a norm outside [0, 1), or an error that is not positive.
    """
    error = real_scalar("error", error, low=0, open_low=True)
    if remainder(norm, 0, dim) <= error:
        return 0
    low, high = 0, 1  # the remainder falls with every term: doubled until it is small enough, then halved in
    while remainder(norm, high, dim) > error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if remainder(norm, middle, dim) > error else (low, middle)
    return high


@dataclass(frozen=True)
class Roulette:
    """Random lengths N = sure + G, P(G >= j) = keep^j, of an unbiased estimate of a series.

    Args:
        keep: c, the probability of one more term, in (0, 1).
        sure: m, the terms that are always taken.

    Raises:
        ValueError: keep is not in (0, 1).
    """

    keep: float = 0.5
    sure: int = 2

    def __post_init__(self) -> None:
        if not 0 < real_scalar("keep", self.keep) < 1:
            raise ValueError(f"keep must lie in (0, 1), got {self.keep}")
        whole_number("sure", self.sure)

    @property
    def mean_length(self) -> float:
        """E N = m + c / (1 - c): what an estimate costs."""
        return self.sure + self.keep / (1 - self.keep)

    def reached(self, count: int) -> Array:
        """P(N >= k) for k = 1..count, shape (count,)."""
        return self.keep ** np.maximum(0.0, np.arange(1, whole_number("count", count) + 1) - self.sure)

    def lengths(self, shape: int | tuple[int, ...], seed: int | np.random.Generator) -> NDArray[np.int64]:
        """Draws of N of this shape, by a seed."""
        return np.asarray(self.sure - 1 + generator(seed).geometric(1 - self.keep, shape))

    def estimate(self, terms: ArrayLike, lengths: ArrayLike) -> Array:
        """sum_{k <= N} t_k / P(N >= k) of terms (..., count) and lengths N that broadcast with (...).

        Raises:
            ValueError: a length beyond the terms that are given.
        """
        t, n = real_array("terms", terms, finite=False), real_array("lengths", lengths)
        if (n < 0).any() or (n > t.shape[-1]).any():
            raise ValueError(f"lengths must lie in 0..{t.shape[-1]}, the terms given, got {n.min()} to {n.max()}")
        taken = np.arange(t.shape[-1]) < n[..., None]
        return np.asarray(np.where(taken, t / self.reached(t.shape[-1]), 0.0).sum(axis=-1))

    def variance(self, terms: ArrayLike) -> Array:
        """The variance of the estimate of a series with these terms (..., count), and no further ones, shape (...)."""
        t = real_array("terms", terms)
        later = np.flip(np.cumsum(np.flip(t, -1), axis=-1), -1) - t
        # t_k (t_k + 2 later_k) add up to the square of the whole: only the excess of 1 / P over 1 is variance
        excess = 1 / self.reached(t.shape[-1]) - 1
        return np.asarray((excess * t * (t + 2 * later)).sum(axis=-1))
