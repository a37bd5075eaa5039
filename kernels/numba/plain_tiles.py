"""The tiles of `tiles` in NumPy: what vector code must agree with, and what runs in its place without compilation."""

from __future__ import annotations

from typing import Any

import numpy as np


def _add_products(rows: Any, columns: Any, out: Any) -> None:
    """out += sum_s rows[s] columns[s], in the order of s; that of a matrix product depends on the number of lanes."""
    for row, column in zip(rows, columns, strict=False):
        out += row[:, None] * column


def logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k |x - c_k|^2 for k < count, and the largest so far in each lane into top."""
    weighted_logits(x, c, np.broadcast_to(p[:, :1], c.shape), offsets, count, l, top)


def inner_logits(x: Any, c: Any, p: Any, offsets: Any, squares: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + p_k squares + c_k . x for k < count, and the largest so far in each lane into top."""
    l[:count] = offsets[:count, None] + p[:count, :1] * squares
    _add_products(c[:count].T, x, l[:count])
    np.maximum(top, l[:count].max(axis=0), out=top)


def weighted_logits(x: Any, c: Any, p: Any, offsets: Any, count: int, l: Any, top: Any) -> None:
    """l[k] = offset_k + sum_j p_kj (x_j - c_kj)^2 for k < count, and the largest so far in each lane into top."""
    l[:count] = 0
    _add_products(p[:count].T, ((x - c[:count, :, None]) ** 2).swapaxes(0, 1), l[:count])
    l[:count] += offsets[:count, None]
    np.maximum(top, l[:count].max(axis=0), out=top)


def absorb(l: Any, top: Any, m: Any, total: Any, out: Any) -> None:
    """Rows l become 2^(l - top), and are summed: into total, and with the rows of m into out."""
    np.exp2(l - top, out=l)
    total += l.sum(axis=0)
    accumulate(l, m, 0, len(out), out)


def absorb_sloped(l: Any, top: Any, slopes: Any, m: Any, total: Any, shrink: Any, out: Any) -> None:
    """The same, and with the slopes into shrink."""
    absorb(l, top, m, total, out)
    _add_products(slopes[:, :1], l, shrink[None])


def products(x: Any, c: Any, count: int, out: Any) -> None:
    """out[k] += sum_j c[k, j] x[j] for k < count."""
    _add_products(c[:count].T, x, out[:count])


def accumulate(l: Any, m: Any, begin: int, count: int, out: Any) -> None:
    """out[j] += sum_k m[k, j] l[k] for begin <= j < count, over the rows k of l."""
    _add_products(m[:, begin:count], l, out[begin:count])
