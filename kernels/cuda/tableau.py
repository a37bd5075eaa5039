r"""The tableau kernel on the device: a thread takes its point through a whole sampler, normals and all.

    y_k = sum_i w_i y_i + sum_i w_i o_i + sum_i w_i z_i,      o_k = o(scale_k y_k, t_k) where stage k is evaluated

as kernels.numba.tableau says it. Normals are made where they are added, from the counter (seed, particle, draw), so
that no split of the batch and no grid changes a run. What a stage reaches back to is kept in registers where that is
little, else in memory as (slot, axis, thread of the grid), as much as the grid asks for, however many points there are.

For more axes, and for models that are functions, `combine` makes one stage of arrays.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np

from refdiff.kernels.cuda import mixture as mixtures
from refdiff.kernels.cuda.device import THREADS, WAVES, cupy, kernel, launch, rows_at_once

WARP = 32  # threads of a block where points are so few that multiprocessors would stand idle
WORKSPACE = 2**28  # bytes that all blocks keep at most, or those of one
REGISTERS = 96  # bytes of a point's earlier stages and outputs that are kept in registers: a tenth of a thread's
SOURCES = 8  # arrays that one launch of `combine` adds up

# A table on the host. kinds, places (E,) int64: 0 a stage, 1 an output, 2 a normal, and its number among them; weights
# (E, 1 or d); starts (s + 1,): stage k has the terms starts[k] .. starts[k + 1] - 1; evaluated (s,) bool; scale
# (s, 1 or d); at (s, 5, 1 or d) as `mixture` wants it; window: how many earlier stages and outputs a stage reaches.
Table = namedtuple("Table", "kinds places weights starts evaluated scale at window")


def run(start: Any, table: Table, mixture: mixtures.Mixture, key: int, particle: int, every: bool) -> Any:
    """Points through the table.

    Args:
        start: x (n, d), contiguous, d <= mixture.MOST.
        table: a Table.
        mixture: the law, of the type of x, on the device.
        key: the seed.
        particle: the number of the first row.
        every: whether all stages are asked for.

    Returns:
        The output (n, d), or all stages (s, n, d).

    Raises:
        MemoryError: there is no room for what a block keeps.
    """
    xp, (n, dim), size = cupy(), start.shape, start.itemsize
    stages, (states, outputs) = len(table.evaluated), (max(1, back) for back in table.window)
    row = (states + outputs) * dim
    shape = (stages, n, dim) if every else (n, dim)
    out = xp.empty(shape, start.dtype)
    wide = int(max(table.weights.shape[1], table.scale.shape[1]) > 1)
    defined = mixtures.numbers(mixture, table.at.shape[-1] == 1, size)
    kept = rings(states, outputs, dim, size)
    inside = kept["STATES"] > 0
    processors = xp.cuda.Device().attributes["MultiProcessorCount"]
    threads = THREADS if n > THREADS * processors else WARP
    blocks, block = min(-(-n // threads), WAVES * processors), row * size * threads
    if not inside:
        blocks = min(blocks, max(1, WORKSPACE // block))
        blocks = rows_at_once(blocks, block, 0, f"a window of this table for {threads} points")
    work = xp.empty(0 if inside else row * threads * blocks, start.dtype)
    chosen = kernel("tableau", "run", start.dtype, **defined, **kept, WIDE=wide, THREADS=THREADS)
    numbers = (np.int32(stages), np.int32(states), np.int32(outputs), np.uint64(key), np.uint64(particle))
    arguments = (
        *mixtures.arguments(mixture, defined),
        *_sent(table, (states, outputs), dim if wide else 1, start.dtype),
        mixtures.times(table.at, defined, start.dtype),
        *numbers,
        np.int32(every),
        work,
        out,
    )
    shared = mixtures.shared_bytes(defined, size, len(mixture.means))
    launch(chosen, blocks * threads if n else 0, start, np.int64(n), *arguments, shared=shared, threads=threads)
    return out


def rings(states: int, outputs: int, dim: int, itemsize: int) -> dict[str, int]:
    """What the kernel is compiled for: how many stages and outputs are kept in registers, where they are few."""
    inside = (states + outputs) * dim * itemsize <= REGISTERS
    return {"STATES": states, "OUTPUTS": outputs} if inside else {"STATES": 0, "OUTPUTS": 0}


def _sent(table: Table, slots: tuple[int, int], width: int, dtype: Any) -> tuple[Any, ...]:
    """TABLE_ARGUMENTS of tableau.cu: stages and outputs by their slots, weights and scale of one width."""
    places = np.where(table.kinds < 2, table.places % np.array([*slots, 1])[table.kinds], table.places)
    weights, scale = (np.broadcast_to(part, (len(part), width)) for part in (table.weights, table.scale))
    parts = [(table.kinds, np.int32), (places, np.uint32), (weights, dtype), (table.starts, np.int32)]
    parts += [(table.evaluated, np.int32), (scale, dtype)]
    return tuple(cupy().asarray(np.ascontiguousarray(part).astype(kind)) for part, kind in parts)


def combine(
    like: Any, sources: Sequence[Any], weights: Any, draws: Any, noise: Any, key: int = 0, particle: int = 0
) -> Any:
    """One stage, sum_i w_i a_i + sum_m v_m z_m.

    Args:
        like: an array of the shape (n, d) and the type of the answer.
        sources: arrays a_i of that kind, any number, contiguous.
        weights: w (I, 1 or d), on the device.
        draws: numbers of the normals z_m, (M,) uint32, on the device.
        noise: v (M, 1 or d), as many for each as of weights.
        key: the seed of the normals.
        particle: the number of the first row.

    Returns:
        A new array (n, d).
    """
    out, (n, dim) = cupy().empty(like.shape, like.dtype), like.shape
    chosen, width = kernel("combine", "combine", like.dtype), np.int32(weights.shape[1])
    numbers = (np.int64(n), np.int32(dim), np.uint64(key), np.uint64(particle))
    for first in range(0, max(1, len(sources)), SOURCES):
        some, drawn = list(sources[first : first + SOURCES]), 0 if first else len(draws)
        arrays = (*some, *[like] * (SOURCES - len(some)), np.int32(len(some)))
        terms = (draws, np.int32(drawn), weights[first : first + SOURCES], noise, width)
        items = n * ((dim + 1) // 2)
        launch(chosen, items, *arrays, *terms, *numbers, np.int32(first > 0), out)
    return out
