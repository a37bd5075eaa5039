"""NumPy on this side, the library's own arrays on the other; the number type is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from refdiff.arguments import Array


def to_torch(x: Any, like: Any = None) -> Any:
    """A torch tensor of the numbers of x, of the type and on the device of `like` where it is given."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(x)).reshape(np.shape(x))  # NumPy makes one axis of none
    return tensor if like is None else tensor.to(dtype=like.dtype, device=like.device)


def to_jax(x: Any, like: Any = None) -> Any:
    """A JAX array of the numbers of x, of the type of `like` where it is given."""
    import jax
    import jax.numpy as jnp

    if like is None:  # float32 where JAX has no float64
        return jnp.asarray(x, dtype=jax.dtypes.canonicalize_dtype(np.asarray(x).dtype))
    return jnp.asarray(x, dtype=like.dtype)


def to_numpy(x: Any) -> Array:
    """A NumPy array of the numbers of a torch tensor, a JAX array or anything else, of its own number type."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    return np.asarray(x)


def dtype_of(x: Any) -> np.dtype[Any]:
    """The number type of an array of any library; float64 for what has none that NumPy knows."""
    try:
        found = to_numpy(x).dtype
    except (TypeError, ValueError):  # bfloat16
        return np.dtype(np.float64)
    return found if np.issubdtype(found, np.floating) else np.dtype(np.float64)


def _same(x: Any, like: Any = None) -> Any:
    return np.asarray(x, dtype=None if like is None else np.asarray(like).dtype)


@contextmanager
def untracked() -> Iterator[None]:
    """torch without gradients, and without the warnings of foreign code."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Edge:
    """Whose arrays a foreign function takes.

    Args:
        name: numpy, torch or jax.
        to: NumPy numbers, and an array whose type they shall have -> an array of the library.
    """

    name: str
    to: Callable[..., Any]

    def dtype(self, wanted: str) -> np.dtype[Any]:
        """The number type that the library really gives."""
        return dtype_of(self.to(np.zeros(1, dtype=wanted)))


EDGES = {"numpy": Edge("numpy", _same), "torch": Edge("torch", to_torch), "jax": Edge("jax", to_jax)}


def edge_of(function: Any, convention: str | None = None) -> Edge:
    """The library whose arrays a function computes with.

    What it says by its attribute `arrays`; else that of its calling convention; else, where the convention leaves it
    open, the one that its module imports, JAX before torch before NumPy.
    """
    said = getattr(function, "arrays", convention)
    if said is None:
        used = {value.__name__.partition(".")[0] for value in scope(function).values() if isinstance(value, ModuleType)}
        said = next((name for name in ("jax", "torch") if name in used), "numpy")
    return edge_named(said)


def edge_named(name: str) -> Edge:
    """The library of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in EDGES:
        raise ValueError(f"arrays must be one of {', '.join(EDGES)}, got {name!r}")
    return EDGES[name]


def scope(function: Any) -> dict[str, Any]:
    """The names that a function, or a class's call, sees around it."""
    import inspect
    import sys

    function = inspect.unwrap(function) if callable(function) else function
    module = sys.modules.get(getattr(function, "__module__", None) or type(function).__module__)
    found: dict[str, Any] = getattr(function, "__globals__", None) or vars(module or ModuleType("nowhere"))
    return found
