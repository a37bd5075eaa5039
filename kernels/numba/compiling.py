r"""How kernels are compiled, kept and called.

    @inlined     a part of a kernel, compiled into what calls it
    @reordered   a part of a kernel, whose sums may be taken in another order
    @shared      a part that stays a function of its own
    @compiled    a kernel: compiled at its first call, kept on disk, runs without the interpreter's lock
    blocks(...)  a kernel on ranges of blocks, side by side in threads

Only two liberties are taken with arithmetic: a product and a sum may become one fused operation, which rounds once
instead of twice ("contract"), and a division by zero gives an infinity as NumPy's does. Sums keep their order, but for
those of `reordered` parts ("reassoc"), where a sum over the axes of one point would add one number at a time.

Numba knows a kernel is stale when the kernel's own file changes, not when a file changes from which it has parts:
so what is compiled is kept in a folder named after the contents of this whole package. A kernel takes seconds to
compile, and processes that start together want the same ones: a lock beside what is kept lets one of them do it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import config, types
from numba.extending import lower_builtin, type_callable

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

FAST = {"contract"}
PART = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # never called from Python: half of the time to compile
PATIENCE = 1.0  # seconds before a first call says why it takes time: what is kept on disk loads in less


def _fingerprint() -> str:
    """The contents of this package, in 12 letters."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _kept() -> str:
    """Where compiled kernels are kept: below NUMBA_CACHE_DIR, this package, or the user's own cache; "" is nowhere."""
    own = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    bases = [config.CACHE_DIR] if config.CACHE_DIR else [str(Path(__file__).parent / "__pycache__"), own]
    for base in bases:
        folder = os.path.join(base, f"refdiff-{_fingerprint()}")
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return ""


_FOLDER = _kept()


def inlined(function: Kernel) -> Kernel:
    """A part of a kernel."""
    made: Kernel = numba.njit(error_model="numpy", fastmath=FAST, nogil=True, forceinline=True, **PART)(function)
    return made


def reordered(function: Kernel) -> Kernel:
    """A part of a kernel in which LLVM may add in any order: so many partial sums at a time as fill a vector."""
    flags = FAST | {"reassoc"}
    made: Kernel = numba.njit(error_model="numpy", fastmath=flags, nogil=True, forceinline=True, **PART)(function)
    return made


def shared(function: Kernel) -> Kernel:
    """A part that is called and not copied into what calls it: large, or called from several places."""
    made: Kernel = numba.njit(error_model="numpy", fastmath=FAST, nogil=True, **PART)(function)
    return made


def compiled(function: Kernel) -> Kernel:
    """A kernel."""
    old, config.CACHE_DIR = config.CACHE_DIR, _FOLDER
    try:
        made: Kernel = numba.njit(error_model="numpy", fastmath=FAST, nogil=True, cache=bool(_FOLDER))(function)
    finally:
        config.CACHE_DIR = old
    return made


def wide_vectors() -> None:
    """As the first statement of a kernel or a part: its loops use the widest vector registers of the machine.

    LLVM keeps to half of AVX-512's width on most machines that have it, for code that seldom uses vectors; a loop
    full of polynomials is 1.6 times as fast with all of it. Says nothing on other machines, nor to Python.
    """


@type_callable(wide_vectors)
def _(_context: Any) -> Any:
    return lambda: types.none


@lower_builtin(wide_vectors)
def _(context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
    # llvmlite's set of attributes refuses those that are pairs of strings when asked by its own method
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')
    return context.get_dummy_value()


_told = threading.Event()


@contextmanager
def patience() -> Iterator[None]:
    """Says on stderr, once, that kernels are being compiled, where what happens inside takes longer than loading."""

    def tell() -> None:
        if not _told.is_set():
            print("refdiff: compiling kernels, once for this machine (seconds each) ...", file=sys.stderr, flush=True)
        _told.set()

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_lock = threading.Lock()


@contextmanager
def _alone(kernel: Callable[..., Any]) -> Iterator[None]:
    """Of processes that want a kernel at once one compiles it, and the others wait and read what it has kept."""
    try:
        import fcntl
    except ImportError:  # a system without: each compiles for itself
        yield
        return
    if not _FOLDER:  # nothing is kept that others could read
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):  # a folder whose file system has no locks
            file = stack.enter_context(open(os.path.join(_FOLDER, f"{kernel.__name__}.lock"), "w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            # by name, not by closing: a process forked meanwhile has the file open too
            stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        yield


def ready(kernel: Callable[..., Any], *arguments: Any) -> None:
    """Compile a kernel for arguments of these types, or load it, if that has not been done."""
    if config.DISABLE_JIT:
        return
    kinds: Any = tuple(numba.typeof(argument) for argument in arguments)
    if kinds not in kernel.overloads:  # type: ignore[attr-defined]
        with _lock, patience(), _alone(kernel):
            kernel.compile(kinds)  # type: ignore[attr-defined]


def thread_count(asked: int | None = None) -> int:
    """How many threads kernels use: as asked, or Numba's number (NUMBA_NUM_THREADS, or all processors)."""
    return int(numba.get_num_threads()) if asked is None else asked


def blocks(
    kernel: Callable[..., Any],
    count: int,
    *arguments: Any,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Call kernel(first, last, *arguments) until the blocks 0..count-1 are done, in threads.

    A range of blocks is done in one thread, and no result depends on which, nor on how the blocks are grouped.

    Args:
        kernel: a compiled kernel that writes into its arguments.
        count: the number of blocks.
        threads: how many at a time; Numba's number unless given.
        progress: called with (blocks done, blocks in all).
    """
    ready(kernel, 0, 0, *arguments)
    team = max(1, min(thread_count(threads), count))
    # shares small enough that threads end together and an interrupt is heard, large enough to be worth a call
    share = max(1, count // (8 * team))
    ranges = [(first, min(first + share, count)) for first in range(0, count, share)]
    if team == 1 or len(ranges) == 1:
        for first, last in ranges:
            kernel(first, last, *arguments)
            if progress is not None:
                progress(last, count)
        return
    done = 0
    with ThreadPoolExecutor(team) as pool:
        waiting = {pool.submit(kernel, first, last, *arguments): last - first for first, last in ranges}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    done += waiting.pop(future)
                    future.result()
                    if progress is not None:
                        progress(done, count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
