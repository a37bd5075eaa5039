r"""Steps in time of many lines of cells, side by side: a tridiagonal system for each, in blocks of lines.

    e_0 = 1 + d_0,  e_i = 1 + d_i e_(i-1) / q_(i-1),   q_i = e_i + u_i
    z_i = x_i + u_(i-1) z_(i-1) / q_(i-1),             y_i = z_i / q_i + (d_(i+1) / q_i) y_(i+1)

is the solution of (I - A) y = x for rates u up and d down a line, times the step in time; nothing is subtracted. A row
of a block has one entry of each of its lines, so that all loops over a row are vector code, and what is worked on
stays in a core's own cache: a density is read once in a step of any method, and written once. Where all lines are
alike the pivots are those of one line, found beforehand. Lines may be the columns of an array or its rows, which are
turned on the way in and on the way out, a cache line at a time.

Methods are numbers here: EULER, PATANKAR, CRANK_NICOLSON, TR_BDF2. They are those of `refdiff.fokker_planck.sweeps`,
which is the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.kernels.numba.compiling import compiled, inlined, shared, wide_vectors
from refdiff.kernels.numba.lanes import aligned

EULER, PATANKAR, CRANK_NICOLSON, TR_BDF2 = range(4)

WIDTH = 32  # lines of a block
# What is worked on, for a cell of every line of a block: Z is x and becomes y, and stands by itself; of the `rest`,
# KEPT is x, BACK d_(i+1) / q_i, RATE u_i and before that the weight of the rates out of a cell, INVERSE 1 / q_i.
ROWS = 4
# Unsigned, as every index made of them: one that might be negative would be counted from the end, by a branch.
KEPT, BACK, RATE, INVERSE = (np.uintp(WIDTH * k) for k in range(ROWS))
LANES = np.uintp(WIDTH)
NEXT = np.uintp(WIDTH * ROWS)  # from a cell of a line to the next one
TURNED = 8  # numbers of a cache line

GAMMA = 2 - np.sqrt(2.0)  # with which both stages of TR-BDF2 have one matrix
STRETCH = 2 / (GAMMA * (2 - GAMMA))


@inlined
def load(values: Any, rows: bool, first: int, width: int, z: Any) -> None:
    """Lines first.. of `values`, (n, lines) or with `rows` (lines, n), as columns of `z` (n * WIDTH,)."""
    n = z.size // WIDTH
    if not rows:
        for i in range(n):
            at = np.uintp(i) * LANES
            for j in range(np.uintp(width)):
                z[at + j] = values[np.uintp(i), np.uintp(first) + j]
        return
    for begin in range(0, n, TURNED):
        end = min(begin + TURNED, n)
        for j in range(np.uintp(width)):
            for i in range(np.uintp(begin), np.uintp(end)):
                z[i * LANES + j] = values[np.uintp(first) + j, i]


@inlined
def store(z: Any, rows: bool, first: int, width: int, values: Any) -> None:
    """The columns of `z` (n * WIDTH,) as lines first.. of `values`, (n, lines) or with `rows` (lines, n)."""
    n = z.size // WIDTH
    if not rows:
        for i in range(n):
            at = np.uintp(i) * LANES
            for j in range(np.uintp(width)):
                values[np.uintp(i), np.uintp(first) + j] = z[at + j]
        return
    for begin in range(0, n, TURNED):
        end = min(begin + TURNED, n)
        for j in range(np.uintp(width)):
            for i in range(np.uintp(begin), np.uintp(end)):
                values[np.uintp(first) + j, i] = z[i * LANES + j]


@compiled
def eliminate(up: Any, down: Any, dt: float, pivots: Any) -> None:
    """What lines that are all alike have in common: u_i / q_i, 1 / q_i and d_(i+1) / q_i as rows of `pivots` (3, n).

    Args:
        up: rates, shape (n, 1).
        down: rates, shape (n, 1).
        dt: the step, a scalar.
        pivots: for the answer, shape (3, n).
    """
    n = up.shape[0]
    left = 1 + dt * down[0, 0]
    for i in range(n):
        if i > 0:
            left = 1 + dt * down[i, 0] * (left * pivots[1, i - 1])
        pivots[1, i] = 1 / (left + dt * up[i, 0])
        pivots[0, i] = dt * up[i, 0] * pivots[1, i]
        pivots[2, i] = dt * down[i + 1, 0] * pivots[1, i] if i + 1 < n else 0.0


@inlined
def solve_alike(z: Any, pivots: Any) -> None:
    """y in place of x in `z` (n * WIDTH,), for lines that are all alike, with their `pivots` (3, n)."""
    n = z.size // WIDTH
    for i in range(1, n):
        at, share = np.uintp(i) * LANES, pivots[0, i - 1]
        for j in range(LANES):
            z[at + j] += share * z[at - LANES + j]
    last = np.uintp(n - 1) * LANES
    for j in range(LANES):
        z[last + j] *= pivots[1, n - 1]
    for i in range(n - 2, -1, -1):
        at, own, above = np.uintp(i) * LANES, pivots[1, i], pivots[2, i]
        for j in range(LANES):
            z[at + j] = own * z[at + j] + above * z[at + LANES + j]


@inlined
def eliminate_cell(z: Any, rest: Any, i: Any, j: Any, up: float, down: float) -> None:
    """Cell i > 0 of line j, in `z` (n * WIDTH,) and `rest` (n * ROWS * WIDTH,), with its rates up and down.

    BACK is e_i until the next cell is reached, and d_(i+1) / q_i from then on.
    """
    at, own = i * NEXT + j, i * LANES + j
    weight, inverse = rest[at + RATE], rest[at - NEXT + INVERSE]
    back = down * weight * inverse
    left = 1 + back * rest[at - NEXT + BACK]
    rest[at - NEXT + BACK] = back
    z[own] += rest[at - NEXT + RATE] * inverse * z[own - LANES]
    rest[at + BACK] = left
    rest[at + INVERSE] = 1 / (left + up * weight)
    rest[at + RATE] = up * weight


@shared
def solve(z: Any, rest: Any, up: Any, down: Any, dt: float, first: int, rates: Any) -> None:
    """y in place of x for lines with rates of their own, or weights of their own on the rates that all have.

    Args:
        z: x, shape (n * WIDTH,).
        rest: weights of the rates out of cells in RATE, which are lost, shape (n * ROWS * WIDTH,).
        up: rates, shape (n, lines) or (n, 1).
        down: rates, shape (n, lines) or (n, 1).
        dt: the step, a scalar.
        first: the line in the first column.
        rates: room for a row of rates up and one of rates down, shape (2 * WIDTH,).
    """
    wide_vectors()
    n, alike = up.shape[0], up.shape[1] == 1
    width = np.uintp(1 if alike else min(WIDTH, up.shape[1] - first))
    begin = np.uintp(0 if alike else first)
    for k in range(n):
        i = np.uintp(k)
        for j in range(width):
            rates[j] = dt * up[i, begin + j]
            rates[LANES + j] = dt * down[i, begin + j]
        if k == 0:
            for j in range(LANES):
                one = np.uintp(0) if alike else j
                weight = rest[RATE + j]
                rest[BACK + j] = 1 + rates[LANES + one] * weight
                rest[RATE + j] = rates[one] * weight
                rest[INVERSE + j] = 1 / (rest[BACK + j] + rest[RATE + j])
        elif alike:
            every_up, every_down = rates[0], rates[LANES]
            for j in range(LANES):
                eliminate_cell(z, rest, i, j, every_up, every_down)
        else:
            for j in range(LANES):
                eliminate_cell(z, rest, i, j, rates[j], rates[LANES + j])
    last = np.uintp(n - 1)
    for j in range(LANES):
        z[last * LANES + j] *= rest[last * NEXT + INVERSE + j]
    for k in range(n - 2, -1, -1):
        at, own = np.uintp(k) * NEXT, np.uintp(k) * LANES
        for j in range(LANES):
            z[own + j] = rest[at + INVERSE + j] * z[own + j] + rest[at + BACK + j] * z[own + LANES + j]


@inlined
def keep(z: Any, rest: Any, n: int) -> None:
    """KEPT of `rest` (n * ROWS * WIDTH,) from `z` (n * WIDTH,)."""
    for k in range(n):
        at, own = np.uintp(k) * NEXT, np.uintp(k) * LANES
        for j in range(LANES):
            rest[at + KEPT + j] = z[own + j]


@inlined
def even(rest: Any, n: int) -> None:
    """1 for all weights of the rates in `rest` (n * ROWS * WIDTH,)."""
    for k in range(n):
        at = np.uintp(k) * NEXT
        for j in range(LANES):
            rest[at + RATE + j] = 1.0


@inlined
def weigh(z: Any, rest: Any, n: int) -> None:
    """Weights (x + y) / (2 y) of the rates in `rest` (n * ROWS * WIDTH,), 1 where y = 0, and x in place of y in `z`."""
    for k in range(n):
        at, own = np.uintp(k) * NEXT, np.uintp(k) * LANES
        for j in range(LANES):
            before, after = rest[at + KEPT + j], z[own + j]
            weight = 0.5 * (before + after) / after
            rest[at + RATE + j] = weight if after > 0 else 1.0
            z[own + j] = before


@inlined
def extend(z: Any, factor: float, rest: Any, n: int) -> None:
    """x + factor (y - x) in place of y in `z` (n * WIDTH,), with x in `rest` (n * ROWS * WIDTH,)."""
    for k in range(n):
        at, own = np.uintp(k) * NEXT, np.uintp(k) * LANES
        for j in range(LANES):
            before = rest[at + KEPT + j]
            z[own + j] = before + factor * (z[own + j] - before)


@compiled
def advance(
    begin: int, end: int, x: Any, rows: bool, up: Any, down: Any, dt: float, method: int, pivots: Any, out: Any
) -> None:
    """One step of the lines of blocks begin..end.

    Args:
        begin: the first block.
        end: the block after the last one.
        x: the lines, shape (n, lines), or (lines, n) with `rows`.
        rows: whether lines are rows.
        up: rates, shape (n, lines), or (n, 1) where all lines are alike.
        down: rates, shape (n, lines), or (n, 1) where all lines are alike.
        dt: the step, a scalar.
        method: a number.
        pivots: those of `eliminate` for the method's part of the step where all lines are alike, shape (3, n).
        out: for the lines after the step, in the shape of x, another array.
    """
    wide_vectors()
    n, lines = up.shape[0], x.shape[0] if rows else x.shape[1]
    alike = up.shape[1] == 1
    z, rest = aligned((n * WIDTH,), np.float64), aligned((n * ROWS * WIDTH,), np.float64)
    rates = aligned((2 * WIDTH,), np.float64)
    part = dt
    if method == CRANK_NICOLSON:
        part = dt / 2
    elif method == TR_BDF2:
        part = GAMMA * dt / 2
    for block in range(begin, end):
        first = block * WIDTH
        width = min(WIDTH, lines - first)
        if width < WIDTH:  # columns that are no lines have numbers too
            for k in range(np.uintp(z.size)):
                z[k] = 1.0
            for j in range(np.uintp(2 * WIDTH)):
                rates[j] = 0.0
        load(x, rows, first, width, z)
        if method != EULER:
            keep(z, rest, n)
        for stage in range(2 if method in (PATANKAR, TR_BDF2) else 1):
            weighted = stage == 1 and method == PATANKAR
            if weighted:
                weigh(z, rest, n)
            elif stage == 1:
                extend(z, STRETCH, rest, n)
            if alike and not weighted:
                solve_alike(z, pivots)
            else:
                if not weighted:
                    even(rest, n)
                solve(z, rest, up, down, part, first, rates)
        if method == CRANK_NICOLSON:
            extend(z, 2.0, rest, n)
        store(z, rows, first, width, out)
