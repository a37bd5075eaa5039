r"""Soft minima over weighted points on the device, the halves of Sinkhorn's iteration, without the array of pairs.

    M_i = -log2 sum_j 2^l_ij,        l_ij = h_j - s |x_i - y_j|^r,       h_j = log2(b_j) + g_j log2(e) / eps

for points x, y as they are, and a cost that is s eps log(2) |x - y|^r. A thread takes one point x (few axes: it stays
in registers) or four, for four points y at a time (many: tiles in shared memory, as products of matrices are made), and
keeps a sum by its largest exponent so far. Of few axes, terms below 2^-100 of it (float32: 2^-64) are left out.

Points y are taken in parts, which depend on how many there are and on nothing else, so that few rows fill a device
too; parts are put together in their order. So M_i depends on x_i, y and h alone, bit by bit. It is off by a few
roundings of the largest |h_j| + s |x_i - y_j|^r that is felt: potentials g of size |g| are worth |g| / eps of them.

Per pair and axis there are two operations (a difference, a product added), or one where products serve: with

    l_ij + s |x_i|^2 = h_j - s |y_j|^2 + 2 s x_i.y_j,        off by roundings of s (|x|^2 + |y|^2)

Arrays are of one type, float64 or float32, in which everything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refdiff.kernels.cuda.device import THREADS, cupy, kernel, launch, rows_at_once

NARROW = 16  # axes that stay in registers
TILE, ROWS, AXES = 128, 64, 16  # as the sources have them: points y at a time, points x of a block, axes at a time
WIDE_SHARED = AXES * (ROWS + 4 + 32 + 4)  # numbers in shared memory
VALUES = 8  # columns at a time
PARTS = 32  # of points y, at most
SMALL = 2**24  # bytes that are taken without asking how many there are


def soft_minima(x: Any, y: Any, h: Any, scale: float, order: float, products: bool = False) -> Any:
    """M in bits, shape (n,).

    Args:
        x: points, shape (n, d).
        y: points, shape (m, d).
        h: heights in bits, shape (m,).
        scale: s in bits.
        order: r.
        products: whether l is made of products, which is for squares and for many axes.

    Raises:
        MemoryError: what parts come to does not fit.
    """
    out = cupy().empty(len(x), dtype=x.dtype)
    parts = parts_of(len(y))[0]
    products = products and order == 2 and x.shape[1] > NARROW
    squares = [(z * z).sum(axis=1) * x.dtype.type(scale) for z in (x, y)] if products else []
    heights = h - squares[1] if products else h
    join = kernel("sinkhorn_sums", "join_minima", x.dtype, VALUES=1)
    for rows in _tiles(len(x), 2 * parts * x.itemsize, "the sums of soft minima"):
        count = len(x[rows])
        partial = cupy().empty((parts, 2, count), dtype=x.dtype)
        _ask("minima", x[rows], y, heights, 2 * scale if products else scale, order, partial, products=products)
        launch(join, count, partial, np.int64(count), np.int32(parts), out[rows])
        del partial  # before others are asked for
    return out + squares[0] if products else out


def soft_means(x: Any, y: Any, h: Any, scale: float, order: float, minima: Any, values: Any) -> Any:
    """sum_j 2^(l_ij + M_i) v_j, divided by the sum without v, shape (n, k).

    Args:
        x, y, h, scale, order: as of `soft_minima`.
        minima: M in bits, shape (n,), or about that.
        values: v, shape (m, k).

    Raises:
        MemoryError: what parts come to, or one row of what weighs the points y, does not fit.
    """
    out = cupy().empty((len(x), values.shape[1]), dtype=x.dtype)
    held = len(y) if x.shape[1] > NARROW else 0
    for rows in _tiles(len(x), ((VALUES + 1) * parts_of(len(y))[0] + held) * x.itemsize, "the means"):
        _means((x[rows], y, h, scale, order, minima[rows]), values, out[rows])
    return out


def mean_powers(x: Any, y: Any, h: Any, scale: float, order: float, minima: Any) -> Any:
    """sum_j 2^(l_ij + M_i) |x_i - y_j|^r, divided by the sum without the power, shape (n,): as `soft_means`."""
    out, (parts, _) = cupy().empty(len(x), dtype=x.dtype), parts_of(len(y))
    for rows in _tiles(len(x), 2 * parts * x.itemsize, "the mean costs"):
        partial = cupy().empty((parts, 2, len(x[rows])), dtype=x.dtype)
        _ask("powers", x[rows], y, h, scale, order, minima[rows], partial)
        _join_means(partial, 1, 0, out[rows])
        del partial  # before others are asked for
    return out


def shares(x: Any, y: Any, h: Any, scale: float, order: float, minima: Any) -> Any:
    """2^(l_ij + M_i), shape (m, n): rows are points y. Arguments are those of `soft_means`.

    Raises:
        MemoryError: so many numbers do not fit.
    """
    for rows in _tiles(len(y), len(x) * x.itemsize, "an array of all pairs"):
        if rows != slice(0, len(y)):
            raise MemoryError(f"{len(y)} x {len(x)} numbers do not fit into half of what is free on the GPU")
    out = cupy().empty((len(y), len(x)), dtype=x.dtype)
    _ask("shares", x, y, h, scale, order, minima, out, wide=True)
    return out


def parts_of(count: int) -> tuple[int, int]:
    """Into how many parts so many points y go, and how many points each but the last one has."""
    length = TILE * -(-count // (PARTS * TILE))
    return -(-count // length), length


def _means(given: tuple[Any, ...], values: Any, out: Any) -> None:
    """The means of some rows: `given` are x, y, h, s, r and M."""
    x, y = given[:2]
    k, (parts, length) = values.shape[1], parts_of(len(y))
    held = shares(*given) if x.shape[1] > NARROW else None
    for column in range(0, k, VALUES):
        width = min(VALUES, k - column)
        partial = cupy().empty((parts, width + 1, len(x)), dtype=x.dtype)
        table = values, np.int32(k), np.int32(column), partial
        if held is None:
            _ask("means", *given, *table, width=width)
        else:
            absorb = kernel("sinkhorn_sums", "absorb", x.dtype, VALUES=width)
            sizes = np.int64(len(x)), np.int64(len(y)), np.int64(length)
            launch(absorb, len(x), held, *sizes, *table, shared=TILE * width * x.itemsize, rows=parts)
        _join_means(partial, k, column, out)


def _join_means(partial: Any, k: int, column: int, out: Any) -> None:
    """Columns from `column` on of means (n, k) from sums (parts, columns + 1, n)."""
    parts, width, n = partial.shape
    join = kernel("sinkhorn_sums", "join_means", partial.dtype, VALUES=width - 1)
    launch(join, n, partial, np.int64(n), np.int32(parts), np.int32(k), np.int32(column), out)


def _tiles(rows: int, row_bytes: int, what: str) -> Iterator[slice]:
    """Slices of rows of which one fits at a time."""
    step = rows if rows * row_bytes <= SMALL else rows_at_once(rows, row_bytes, 0, what)
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(start + step, rows))


def _ask(
    function: str, x: Any, y: Any, h: Any, scale: float, order: float, *rest: Any,
    products: bool = False, width: int = 1, wide: bool = False,
) -> None:  # fmt: skip
    """Run a kernel on x and all parts of y, that for few axes or, where there are many or `wide`, that for many."""
    dim, kind = x.shape[1], x.dtype.type
    parts, length = parts_of(len(y))
    given = (x, np.int64(len(x)), y, h, np.int64(len(y)), np.int64(length), kind(scale), kind(order / 2))
    numbers = {"ORDER": int(order) if order in (1, 2) else 0}
    if dim > NARROW or wide:
        run = kernel("sinkhorn_wide", function, x.dtype, PRODUCTS=int(products), **numbers)
        items = THREADS * -(-len(x) // ROWS)
        launch(run, items, *given, np.int32(dim), *rest, shared=WIDE_SHARED * x.itemsize, rows=parts)
    elif function == "minima":
        run = kernel("sinkhorn", function, x.dtype, DIM=dim, **numbers)
        launch(run, len(x), *given, *rest, shared=(dim + 1) * TILE * x.itemsize, rows=parts)
    else:
        run = kernel("sinkhorn_means", function, x.dtype, DIM=dim, VALUES=width, **numbers)
        launch(run, len(x), *given, *rest, shared=(dim + 1 + width) * TILE * x.itemsize, rows=parts)
