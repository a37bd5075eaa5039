"""The schedulers of flow_matching beside the schedules that they are, or their closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.schedules import FlowMatching, Schedule, VPCosine, VPLinear
from refdiff.validation.audits.checks.parts import Answer, Part
from refdiff.validation.audits.checks.schedules import ScheduleSubject
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch

LIBRARY, EPS, OPERATIONS = "flow_matching", float(np.finfo(float).eps), 16
ROUNDING = "16 roundings in each term"


def version() -> str:
    """The installed version."""
    return metadata.version(LIBRARY)


def schedulers() -> Mapping[str, tuple[Callable[[], Any], Schedule | None]]:
    """Makers of every scheduler, with the schedule of refdiff that it is, if there is one."""
    from flow_matching.path import scheduler as s

    return {
        "CondOTScheduler": (s.CondOTScheduler, FlowMatching()),
        "PolynomialConvexScheduler": (lambda: s.PolynomialConvexScheduler(3), None),
        "VPScheduler": (s.VPScheduler, VPLinear()),
        "LinearVPScheduler": (s.LinearVPScheduler, None),
        "CosineScheduler": (s.CosineScheduler, VPCosine(s=0.0)),
    }


# alpha, sigma, alpha', sigma' in s, where refdiff has no schedule of the name
CLOSED: Mapping[str, Callable[[Array], tuple[Array, Array, Array, Array]]] = MappingProxyType(
    {
        "PolynomialConvexScheduler": lambda s: (s**3, 1 - s**3, 3 * s * s, -3 * s * s),
        "LinearVPScheduler": lambda s: (s, np.sqrt(1 - s * s), np.ones_like(s), -s / np.sqrt(1 - s * s)),
    }
)


def scheduler(name: str, dtype: str) -> ScheduleSubject | Part:
    """A scheduler beside the schedule that it is."""
    make, process = schedulers()[name]
    made, kind = make(), np.dtype(dtype)

    def part(which: str, sign: float = 1.0) -> Callable[[Array], Array]:
        return lambda t: sign * to_numpy(getattr(made(to_torch((1 - t).astype(kind))), which)).astype(float)

    def inverse(lam: Array) -> Array:
        return 1 - to_numpy(made.snr_inverse(to_torch(np.exp(lam).astype(kind)))).astype(float)

    said = f"{name}(){f', {dtype}' if dtype != 'float64' else ''}"
    if process is None:
        return Part(said, library=LIBRARY, version=version(), protocol=LIBRARY, answers=partial(_closed, name, made))
    return ScheduleSubject(
        said,
        library=LIBRARY,
        version=version(),
        protocol=LIBRARY,
        alpha=part("alpha_t"),
        sigma=part("sigma_t"),
        dalpha=part("d_alpha_t", -1.0),
        dsigma=part("d_sigma_t", -1.0),
        inverse=inverse,
        process=process,
        # at s = 1 the rounding of s is all of sigma
        span=(1 / 64, 1.0),
        dtype=kind,
    )


def _closed(name: str, made: Any, quick: bool) -> Iterator[Answer]:
    s = np.linspace(0.05, 0.95, 7 if quick else 37)
    found = made(to_torch(s))
    right = CLOSED[name](s)
    for which, value in zip(("alpha_t", "sigma_t", "d_alpha_t", "d_sigma_t"), right, strict=True):
        # 1 - s^n cancels, and sigma' divides by its root
        bound = OPERATIONS * EPS * np.abs(value) / (1 - s)
        yield Answer(which, to_numpy(getattr(found, which)), value, bound, "16 roundings, over 1 - s, which cancels")
    snr = right[0] / right[1]
    yield Answer("snr_inverse", to_numpy(made.snr_inverse(to_torch(snr))), s, OPERATIONS * EPS / (1 - s), ROUNDING)
