r"""Work in chunks, so that temporaries stay in cache, by one caller or by a team of threads.

A library that spreads one operation over threads pays for waking them at every operation; a team of threads that each
take whole chunks pays once. Which is faster depends on the library and the size: both are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

from refdiff.validation.benchmarks.measuring import Candidate

# Chunks are chosen by the size of their largest temporary, chunk x K numbers: 128 KB, 512 KB, 2 MB and 8 MB,
# around the second-level caches of today's cores.
TEMPORARIES = (1 << 14, 1 << 16, 1 << 18, 1 << 20)


def chunk_sizes(n: int, width: int, temporaries: Sequence[int] = TEMPORARIES) -> list[int]:
    """Sizes of chunks of n points whose temporaries have `width` numbers a point, increasing, each at most n."""
    return sorted({max(1, min(n, size // max(1, width))) for size in temporaries})


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices of 0..n."""
    return (slice(first, min(n, first + size)) for first in range(0, n, size))


def in_team(
    work: Callable[[slice], Any], n: int, size: int, threads: int, enter: Callable[[], Any] | None = None
) -> list[Any]:
    """work(slice) for all chunks, in order of the chunks; `enter` is called in each thread before its first."""
    parts = list(chunks(n, size))
    if threads == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads, initializer=enter) as pool:
        return list(pool.map(work, parts))


def combinations(
    build: Callable[[str, int, int], Callable[[int], Any]],
    forms: Sequence[str],
    sizes: Sequence[int],
    teams: Sequence[int],
    n: int,
) -> list[Candidate]:
    """Candidates for all forms of a formula, sizes of chunks and teams; a team where there are chunks for it."""
    found = []
    for form, size, team in product(forms, sizes, sorted(set(teams))):
        if team == 1 or size * team <= n:
            family = form + (f", team of {team}" if team > 1 else "")
            found.append(
                Candidate(f"{family}, chunks of {size}", build(form, size, team), 2 * team * size, family, size)
            )
    return found
