r"""Which code runs an inner loop: plain NumPy, or kernels compiled by Numba.

    auto     Numba where the work is worth loading it (once on a machine: compiling it), NumPy elsewhere: the default
    numpy    NumPy everywhere: the reference
    numba    Numba wherever there is a kernel

The environment variable REFDIFF_BACKEND says it for a process, `use` for a block of code. Both give the same answers up
to rounding. Arrays of CuPy are answered on their GPU, whatever the backend (`on_device`). Where Numba's compiler is
switched off (NUMBA_DISABLE_JIT=1), auto means NumPy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

BACKENDS = ("auto", "numpy", "numba")

# Points times components times (axes + exponential) from which `auto` takes Numba: about a second of NumPy, against a
# third of a second to load kernels, and ten once to compile them.
WORTH = 5e7
EXPONENTIAL = 8  # what the exponential of a component costs, in axes

_chosen: ContextVar[str | None] = ContextVar("backend", default=None)


def current() -> str:
    """The backend asked for: auto, numpy or numba.

    Raises:
        ValueError: REFDIFF_BACKEND is none of them.
    """
    return _chosen.get() or _known("REFDIFF_BACKEND", os.environ.get("REFDIFF_BACKEND") or "auto")


@contextmanager
def use(name: str) -> Iterator[None]:
    """Code in this block runs on the backend of this name: auto, numpy or numba.

    As context variables do, it holds in the thread that entered the block, and not in threads started inside, unless
    they are given a copy of the context.

    Raises:
        ValueError: there is no such backend.

    Examples:
        >>> from refdiff import backends
        >>> with backends.use("numpy"):
        ...     print(backends.current())
        numpy
    """
    token = _chosen.set(_known("name", name))
    try:
        yield
    finally:
        _chosen.reset(token)


def on_device(x: Any) -> bool:
    """Whether x is an array of CuPy, which is answered on its GPU and by arrays there."""
    cupy = sys.modules.get("cupy")  # whoever has such an array has imported it
    return cupy is not None and isinstance(x, cupy.ndarray)


def array_module(x: Any) -> Any:
    """CuPy for its arrays, NumPy for all others: `exp` of it is that of x."""
    import numpy  # late: the command line says how many threads it may use after it has read this module

    return sys.modules["cupy"] if on_device(x) else numpy


def numba_pays(points: int, components: int, axes: int, evaluations: int = 1) -> bool:
    """Whether Numba is to evaluate a mixture of so many components on so many axes at `points` points.

    Args:
        evaluations: how often at each point.
    """
    asked = current()
    if asked != "auto":
        return asked == "numba"
    worth = float(points) * components * (axes + EXPONENTIAL) * evaluations >= WORTH
    return worth and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def _known(argument: str, name: str) -> str:
    # as arguments.one_of, which needs NumPy: the command line reads this before it says how many threads NumPy may use
    if name not in BACKENDS:
        raise ValueError(f"{argument} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name
