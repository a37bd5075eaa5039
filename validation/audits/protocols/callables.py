r"""What the protocols of functions share: networks and normals at the edge, Brownian paths, and claims by family.

A foreign function draws its normals by its library's own calls. While it is played these are replaced, so that the
audit's normals come out: torch.randn_like, torch.randn, torch.normal, numpy.random and jax.random.normal, and Brownian
paths of which it asks increments W(b) - W(a) over sqrt|b - a|. Increments over intervals that overlap are not
independent, and are not here: an interval is made of the increments of its parts.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from refdiff.arguments import Array
from refdiff.processes import catalogue
from refdiff.samplers import times
from refdiff.samplers.families import Family, families
from refdiff.samplers.impulse import Sampler as Play
from refdiff.schedules import Schedule
from refdiff.validation.audits.levels import EXPLODING, PRESERVING
from refdiff.validation.audits.protocols.arrays import Edge, scope, to_numpy
from refdiff.validation.audits.protocols.protocol import Request
from refdiff.validation.audits.subject import Claim

Normal = Callable[[], Array]
Model = Callable[[Array, Any], Array]

# processes whose time is sigma / alpha itself, for any table of levels; the others are those of the catalogue
LEVELS: Mapping[str, Schedule] = {"vp-levels": PRESERVING, "ve-levels": EXPLODING}


def process_of(function: Any, request: Request, default: str) -> Schedule:
    """The process of a function's times: as claimed, as its attribute `process` says, or the protocol's own."""
    return process_named(request.claimed.get("process", getattr(function, "process", default)))


def process_named(named: Schedule | str) -> Schedule:
    """A schedule as it is, or the one of this name.

    Raises:
        ValueError: there is none of this name, or its process is more than a schedule.
    """
    if isinstance(named, Schedule):
        return named
    if named not in LEVELS and named not in catalogue():
        raise ValueError(f"process must be a Schedule or one of {', '.join([*catalogue(), *LEVELS])}, got {named!r}")
    made = LEVELS[named] if named in LEVELS else catalogue()[named]()
    if isinstance(made, Schedule):
        return made
    if made.per_axis or made is not made.centred:
        raise ValueError(f"process must be one schedule without an offset, which {named!r} is not")
    return made.schedules[0]


def family_of(request: Request) -> Family | None:
    """The family that a request names.

    Raises:
        ValueError: there is none of this name.
    """
    if request.family is None:
        return None
    if request.family not in families():
        raise ValueError(f"family must be one of {', '.join(families())}, got {request.family!r}")
    return families()[request.family]


def claim_of(
    function: Any, request: Request, grid: Array, process: Schedule, prediction: str | None = None
) -> Claim | None:
    """The claim that a request makes on a grid, or None where it names no family.

    Args:
        prediction: what the network answers by the protocol; as claimed, or the family's own, where it is None.
    """
    family = family_of(request)
    if family is None:
        return None
    options = {k: v for k, v in request.claimed.items() if k not in ("process", "prediction_type")}
    said = request.claimed.get("prediction_type", getattr(function, "prediction", prediction))
    return Claim(
        build=lambda times: family(process, times, **options),
        grid=grid,
        process=process,
        prediction=family(process, grid, **options).prediction if said is None else said,
        order=family.order,
        source=f"{family.name}: {family.source}",
    )


def levels(steps: int, high: float, low: float, *, clean: bool, rho: float = 7.0) -> Array:
    """steps + 1 noise levels from high to low by Karras et al.; with `clean` the last one is 0 and follows low."""
    if steps == 1:
        return np.array([high, 0.0 if clean else low])
    return times.karras(EXPLODING, steps, start=high, end=low, rho=rho, append_clean=clean)


def settings(request: Request, names: Collection[str]) -> dict[str, Any]:
    """The options of a request, where there are no others than these.

    Raises:
        ValueError: an option of another name.
    """
    unknown = [name for name in request.options if name not in names]
    if unknown:
        raise ValueError(f"options must be among {', '.join(names)}, got {', '.join(unknown)}")
    return dict(request.options)


def name_of(function: Any, options: Mapping[str, Any]) -> str:
    """As in reports: the function and what was set."""
    name = getattr(function, "__name__", type(function).__name__)
    said = ", ".join(f"{k}={v!r}" for k, v in options.items())
    return f"{name}({said})" if said else name


def accepts(function: Any, name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled
        return False


def network(model: Model, edge: Edge) -> Callable[..., Any]:
    """The audit's model for foreign arrays; what else it is given (labels, conditions) it does not look at."""

    def answer(x: Any, t: Any, *_: Any, **__: Any) -> Any:
        return edge.to(model(to_numpy(x).astype(float), to_numpy(t).astype(float)), x)

    return answer


def play(
    function: Any, edge: Edge, dtype: str, call: Callable[[Callable[..., Any], Any, Normal], Any], scale: float = 1.0
) -> Play:
    """A foreign function as a sampler, its normals replaced.

    Args:
        function: whose calls of a library's normals are replaced.
        edge: whose arrays it takes.
        dtype: the number type of its points.
        call: (network, start, normal) -> its output, with the network and the start in its arrays.
        scale: what the start is divided by.
    """

    def sampler(model: Model, x: Array, normal: Normal) -> Array:
        start = edge.to(np.asarray(x / scale, dtype=dtype))
        with drawn(function, normal, edge, start):
            return to_numpy(call(network(model, edge), start, normal))

    return sampler


class Path:
    """A Brownian path from outside normals, asked for W(b) - W(a) over sqrt|b - a|; times to 1e-6 are the same."""

    def __init__(self, normal: Callable[[], Any]) -> None:
        self.normal = normal
        self.times: list[float] = []
        self.parts: list[Any] = []  # the increment between each two neighbours, times increasing

    def __call__(self, a: Any, b: Any) -> Any:
        for t in (ends := (float(to_numpy(a)), float(to_numpy(b)))):
            self._place(t)
        one, two = sorted(map(self._place, ends))
        sign = 1.0 if ends[0] >= ends[1] else -1.0  # as levels fall
        total = self.parts[one]
        for part in self.parts[one + 1 : two]:
            total = total + part
        return sign * total / np.sqrt(self.times[two] - self.times[one])

    def _place(self, t: float) -> int:
        """Where t is among the times, after it has been put there."""
        i = bisect_left(self.times, t)
        for j in (i - 1, i):
            if 0 <= j < len(self.times) and abs(self.times[j] - t) <= 1e-6 * abs(t):
                return j
        self.times.insert(i, t)
        if len(self.times) == 1:
            return 0
        if i in (0, len(self.times) - 1):
            gap = self.times[1] - self.times[0] if i == 0 else self.times[-1] - self.times[-2]
            self.parts.insert(i, np.sqrt(gap) * self.normal())
        else:  # a bridge between two known times
            low, high = t - self.times[i - 1], self.times[i + 1] - t
            whole = self.parts[i - 1]
            first = low / (low + high) * whole + np.sqrt(low * high / (low + high)) * self.normal()
            self.parts[i - 1 : i] = [first, whole - first]
        return i


class _Numpy:
    """numpy.random.Generator's normals from outside."""

    def __init__(self, normal: Normal) -> None:
        self._normal = normal

    def standard_normal(self, size: Any = None, *_: Any, **__: Any) -> Array:
        return _shaped(self._normal(), size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Array:
        return np.asarray(loc + scale * _shaped(self._normal(), size))

    def randn(self, *size: int) -> Array:
        return _shaped(self._normal(), size)


def _shaped(z: Array, size: Any) -> Array:
    return z if size is None or size == () else z.reshape(size)


def generator(normal: Normal) -> Any:
    """An object with the normals of a numpy Generator, from outside."""
    return _Numpy(normal)


@contextmanager
def drawn(function: Any, normal: Normal, edge: Edge, like: Any) -> Iterator[None]:
    """The function's normals come from `normal`."""

    def foreign(*_: Any, **__: Any) -> Any:
        return edge.to(normal(), like)

    def sized(*size: Any, **named: Any) -> Any:
        shape = named.get("size", size[0] if size and not isinstance(size[0], int) else size)
        return foreign().reshape(tuple(shape))

    def scaled(mean: Any = 0.0, std: Any = 1.0, size: Any = None, **_: Any) -> Any:
        shape = np.broadcast_shapes(np.shape(mean), np.shape(std)) if size is None else size
        return mean + std * (sized(shape) if shape else foreign())

    def keyed(key: Any, shape: Any = None, *_: Any, **__: Any) -> Any:  # noqa: ARG001
        return foreign() if shape is None else foreign().reshape(shape)

    def alike(shown: Any, **__: Any) -> Any:
        return foreign().reshape(shown.shape)  # points may be shown as images of one pixel

    def brownian(*_: Any, **__: Any) -> Path:
        return Path(foreign)

    around = scope(function)
    with ExitStack() as stack:
        replaced: list[Any] = []
        if edge.name == "torch":
            import torch

            replaced = [(torch, "randn_like", alike), (torch, "randn", sized), (torch, "normal", scaled)]
        elif edge.name == "jax":
            import jax

            replaced = [(jax.random, "normal", keyed)]
        ours = _Numpy(normal)
        replaced += [(np.random, name, getattr(ours, name)) for name in ("standard_normal", "normal", "randn")]
        replaced += [(np.random, "default_rng", lambda *_, **__: ours)]
        for module, name, new in replaced:
            old = getattr(module, name)
            stack.enter_context(patch.object(module, name, new))
            for mine in [key for key, value in around.items() if value is old]:  # from torch import randn_like
                stack.enter_context(patch.dict(around, {mine: new}))
        if "BrownianTreeNoiseSampler" in around:
            stack.enter_context(patch.dict(around, {"BrownianTreeNoiseSampler": brownian}))
        yield
