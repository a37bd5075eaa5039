r"""The normals of a scheduler, given from outside while it is played.

They are drawn inside `step` by `randn_tensor` of the scheduler's module, or by a Brownian tree; both are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch


class Path:
    """A Brownian path in the class's own clock, made of unit normals where it is asked for.

    (W(t) - W(s)) / sqrt|t - s| for any two points of the clock, as BrownianTreeNoiseSampler gives it: beyond the
    known points the path goes on by sqrt(gap) z, between two of them it is a bridge. So increments over intervals
    that overlap share their normals, as they do in the library; those over disjoint intervals are unit normals of
    their own. An interval of length zero has 0 / 0, there as here.

    Args:
        normal: the source of normals.
        like: a tensor of the shape and type of the increments.
        transform: from the class's times to its clock.
    """

    def __init__(
        self, normal: Callable[[], Array], like: Any, *_: Any, transform: Callable[[Any], Any] = lambda x: x, **__: Any
    ) -> None:
        self.normal, self.like, self.transform = normal, like, transform
        self.known: dict[float, Array] = {}

    def at(self, point: float) -> Array:
        """W at a point of the clock, shape of the normals; W = 0 where it is asked first: only increments matter."""
        if point not in self.known:
            below = max((p for p in self.known if p < point), default=None)
            above = min((p for p in self.known if p > point), default=None)
            ends = [p for p in (below, above) if p is not None]
            if len(ends) == 2:
                low, high = ends
                part = (point - low) / (high - low)
                middle = (1 - part) * self.known[low] + part * self.known[high]
                self.known[point] = middle + np.sqrt((point - low) * (1 - part)) * self.normal()
            elif ends:
                self.known[point] = self.known[ends[0]] + np.sqrt(abs(point - ends[0])) * self.normal()
            else:
                self.known[point] = np.zeros(())
        return self.known[point]

    def __call__(self, start: Any, end: Any) -> Any:
        """The unit normal of the increment over [start, end], a tensor like `like`."""
        s, t = (float(self.transform(to_torch(np.asarray(to_numpy(one), dtype=float)))) for one in (start, end))
        with np.errstate(invalid="ignore", divide="ignore"):
            return to_torch((self.at(s) - self.at(t)) / np.sqrt(abs(s - t)) * np.ones(self.like.shape), like=self.like)


@contextmanager
def drawn(scheduler: Any, normal: Callable[[], Array], like: Any) -> Iterator[None]:
    """The scheduler's normals come from `normal`, as tensors of the type of `like`."""

    def randn_tensor(shape: Any, *_: Any, **__: Any) -> Any:
        return to_torch(normal(), like=like).reshape(tuple(shape))

    replaced = {"randn_tensor": randn_tensor, "BrownianTreeNoiseSampler": partial(Path, normal, like)}
    modules = {sys.modules[kind.__module__] for kind in type(scheduler).__mro__ if kind.__module__ in sys.modules}
    with ExitStack() as patches:
        for module in modules:
            for name, new in replaced.items():
                if hasattr(module, name):
                    patches.enter_context(patch.object(module, name, new))
        yield
