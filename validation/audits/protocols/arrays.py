"""NumPy on this side, the library's own arrays on the other; the number type is kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.arguments import Array


def to_torch(x: Any, like: Any = None) -> Any:
    """A torch tensor of the numbers of x, of the type and on the device of `like` where it is given."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor if like is None else tensor.to(dtype=like.dtype, device=like.device)


def to_jax(x: Any, like: Any = None) -> Any:
    """A JAX array of the numbers of x, of the type of `like` where it is given."""
    import jax.numpy as jnp

    return jnp.asarray(x, dtype=None if like is None else like.dtype)


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
