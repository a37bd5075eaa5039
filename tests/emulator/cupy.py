"""A stand-in for the parts of CuPy that host code uses: arrays in guarded memory, kernels on the emulator.

What CuPy refuses is refused here: NumPy arrays among its own, and becoming one without being asked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from emulator import events
from emulator.events import random as random
from emulator.kernels import RawModule as RawModule
from emulator.kernels import state
from emulator.memory import Block

float32, float64, int32, int64, uint32, uint64, bool_ = (
    np.float32,
    np.float64,
    np.int32,
    np.int64,
    np.uint32,
    np.uint64,
    np.bool_,
)

__version__ = "0"  # of none that was released


class ndarray:
    """An array on the device."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray[Any, Any], block: Block) -> None:
        self._host, self._block = host, block

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy "
                        "array explicitly.")  # fmt: skip

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: ndarray(self._host.T, self._block))
    device = property(lambda _: cuda.Device(0))

    def get(self) -> np.ndarray[Any, Any]:
        state.copies["from"] += 1
        return self._host.copy()

    def item(self) -> Any:
        state.waits += 1  # whoever asks waits for what runs
        return self._host.item()

    def fill(self, value: Any) -> None:
        self._host.fill(_number(value))

    def reshape(self, *shape: Any) -> ndarray:
        return _wrapped(self._host.reshape(*shape), self)

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return self if not copy and self.dtype == dtype else _new(self._host.astype(dtype))

    def copy(self) -> ndarray:
        return _new(self._host.copy())

    def __getitem__(self, key: Any) -> ndarray:
        return _wrapped(self._host[_plain(key)], self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_plain(key)] = _plain(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __repr__(self) -> str:
        return repr(self._host)


def _plain(value: Any) -> Any:
    """Arrays of the device as what they are made of; others are refused, as CuPy refuses them."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(one) for one in value)
    return value


def _number(value: Any) -> Any:
    return value._host.item() if isinstance(value, ndarray) else value


def _new(host: np.ndarray[Any, Any]) -> ndarray:
    """A copy, in whose memory axes come in the same order."""
    turned = host.flags.f_contiguous and not host.flags.c_contiguous
    made = empty(host.shape[::-1] if turned else host.shape, host.dtype)
    made._host = made._host.T if turned else made._host
    made._host[...] = host
    return made


def _wrapped(found: Any, *arguments: Any) -> Any:
    """What NumPy found as an array of the device: a view where it is one, else new."""
    if isinstance(found, (list, tuple)):
        return type(found)(_wrapped(one, *arguments) for one in found)
    if isinstance(found, np.ndarray) and found.size:
        for one in arguments:
            if isinstance(one, ndarray) and np.may_share_memory(found, one._host):
                return ndarray(found, one._block)
    return _new(np.asarray(found))


def _method(name: str) -> Callable[..., Any]:
    def method(self: ndarray, *arguments: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            found = getattr(self._host, name)(*_plain(arguments), **_known(name, options))
        if found is self._host:  # in place
            return self
        return found if found is NotImplemented else _wrapped(found, self)

    return method


def _known(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of NumPy that CuPy has too."""
    if other := options.keys() - OPTIONS | options.keys() & LACKING.get(name, set()):
        raise TypeError(f"the stand-in for CuPy knows no option {min(other)} of {name}")
    return {name: _plain(value) for name, value in options.items()}


OPTIONS = {"axis", "ddof", "dtype", "keepdims", "side", "num", "endpoint", "optimize"}
LACKING = {"count_nonzero": {"keepdims"}}
_BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
for _name in [
    *(f"__{side}{one}__" for one in _BINARY.split() for side in ("", "r", "i")),
    *(f"__{one}__" for one in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "abs", "invert"]),
    *["sum", "max", "min", "mean", "any", "all", "argmax", "argmin", "argsort", "cumsum", "prod", "transpose", "var"],
]:
    if hasattr(np.ndarray, _name):
        setattr(ndarray, _name, _method(_name))


# ---------------------------------------------------------------------- functions


def empty(shape: Any, dtype: Any = float) -> ndarray:
    sides = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(side) for side in shape)
    block = Block(int(np.prod(sides, dtype=np.int64)) * np.dtype(dtype).itemsize)
    return ndarray(block.array(sides, dtype), block)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    state.copies["to"] += 1
    return _new(np.ascontiguousarray(a, dtype).reshape(np.shape(a)))


def array(obj: Any, dtype: Any = None, copy: bool = True) -> ndarray:
    made = asarray(obj, dtype)
    return made.copy() if copy and made is obj else made


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    made = asarray(a, dtype)
    return made if made.flags.c_contiguous else _new(np.ascontiguousarray(made._host))


def asnumpy(a: Any) -> np.ndarray[Any, Any]:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def shares_memory(a: ndarray, b: ndarray) -> bool:
    return np.shares_memory(a._host, b._host)


def _function(name: str) -> Callable[..., Any]:
    of_numpy = getattr(np, name)

    def function(*arguments: Any, out: ndarray | None = None, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            found = of_numpy(*_plain(arguments), **_known(name, options))
        if out is not None:
            out._host[...] = found
            return out
        return _wrapped(found, *arguments)

    function.__name__ = name
    return function


FUNCTIONS = """
    abs all amax any arange argsort array_equal broadcast_to clip concatenate count_nonzero cumsum diag dot einsum
    empty_like exp exp2 expm1 full full_like isfinite isnan linspace log log1p log2 logaddexp matmul max maximum
    mean min minimum moveaxis ones ones_like outer prod ravel repeat searchsorted sign sort sqrt square stack sum
    take tile transpose where zeros zeros_like
""".split()  # noqa: SIM905


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return _function(name)
    raise AttributeError(f"the stand-in for CuPy has no {name}")


class linalg:
    """What is singular has no solution, and no error, as in CuPy."""

    @staticmethod
    def solve(a: ndarray, b: ndarray) -> ndarray:
        try:
            return _new(np.linalg.solve(_plain(a), _plain(b)))
        except np.linalg.LinAlgError:
            return _new(np.full(b.shape, np.nan, b.dtype))


# ---------------------------------------------------------------------- the device


class cuda:
    """What host code asks of the device."""

    class runtime:
        @staticmethod
        def getDeviceCount() -> int:
            return 1

        @staticmethod
        def memGetInfo() -> tuple[int, int]:
            return state.total, state.total

        @staticmethod
        def getDeviceProperties(number: int) -> dict[str, Any]:  # noqa: ARG004
            return events.PROPERTIES

        driverGetVersion = runtimeGetVersion = staticmethod(lambda: 0)

    Event, get_elapsed_time = events.Event, staticmethod(events.get_elapsed_time)

    class Device:
        def __init__(self, number: int = 0) -> None:
            self.id = number

        attributes = {"MultiProcessorCount": 2}  # noqa: RUF012
        compute_capability = "00"

        def __enter__(self) -> cuda.Device:
            return self

        def __exit__(self, *_: Any) -> None:
            return None

        def synchronize(self) -> None:
            return None

    class Stream:
        def synchronize(self) -> None:
            state.waits += 1

    @staticmethod
    def get_current_stream() -> cuda.Stream:
        return cuda.Stream()

    @staticmethod
    def is_available() -> bool:
        return True


class _Pool:
    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        return None


def get_default_memory_pool() -> _Pool:
    return _Pool()


@contextmanager
def standing_in() -> Iterator[ModuleType]:
    """This module in CuPy's place, with a state of its own."""
    before, kept = sys.modules.get("cupy"), vars(state).copy()
    sys.modules["cupy"] = sys.modules[__name__]
    state.__init__()  # type: ignore[misc]
    try:
        yield sys.modules[__name__]
    finally:
        vars(state).update(kept)
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
