"""The tiles of `tiles` in NumPy: what vector code must agree with, and what runs in its place without compilation."""

from __future__ import annotations

from typing import Any

import numpy as np


def logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k |x - c_k|^2 for k < count, and the largest so far in each lane into top."""
    weighted_logits(x, c, np.broadcast_to(p[:, :1], c.shape), offsets, count, l, top)


def inner_logits(x: Any, c: Any, p: Any, offsets: Any, squares: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k squares + c_k . x for k < count, and the largest so far in each lane into top."""
    l[:count] = offsets[:count, None] + p[:count, :1] * squares + c[:count, : len(x)] @ x
    np.maximum(top, l[:count].max(axis=0), out=top)


def weighted_logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + sum_j p_kj (x_j - c_kj)^2 for k < count, and the largest so far in each lane into top."""
    delta = x - c[:count, :, None]
    l[:count] = offsets[:count, None] + np.einsum("kji,kji,kj->ki", delta, delta, p[:count])
    np.maximum(top, l[:count].max(axis=0), out=top)


def absorb(l: Any, top: Any, m: Any, total: Any, out: Any) -> None:
    """Rows l become 2^(l - top), and are summed: into total, and with the rows of m into out."""
    np.exp2(l - top, out=l)
    total += l.sum(axis=0)
    out += m[: len(l), : len(out)].T @ l


def absorb_sloped(l: Any, top: Any, slopes: Any, m: Any, total: Any, shrink: Any, out: Any) -> None:
    """The same, and with the slopes into shrink."""
    absorb(l, top, m, total, out)
    shrink += slopes[: len(l), 0] @ l


def products(x: Any, c: Any, count: int, out: Any) -> None:
    """out[k] += sum_j c[k, j] x[j] for k < count."""
    out[:count] += c[:count, : len(x)] @ x


def accumulate(l: Any, m: Any, begin: int, count: int, out: Any) -> None:
    """out[j] += sum_k m[k, j] l[k] for begin <= j < count, over the rows k of l."""
    out[begin:count] += m[: len(l), begin:count].T @ l
