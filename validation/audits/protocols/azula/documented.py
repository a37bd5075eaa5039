r"""azula's schedules as its documentation has them, and its denoiser of a Gaussian.

A denoiser of one's own, kind(backbone, schedule) or an object with `schedule`, is audited by `denoiser_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.schedules import FunctionSchedule, Schedule
from refdiff.validation.audits.checks.denoisers import DenoiserSubject
from refdiff.validation.audits.checks.schedules import ScheduleSubject
from refdiff.validation.audits.protocols.arrays import EDGES, to_numpy
from refdiff.validation.audits.subject import Subject

LOW, HIGH, GAMMA = 1e-3, 1e3, 0.1  # azula's defaults of alpha_min and sigma_min, of sigma_max, and of gamma
Three = tuple[Callable[[Array], Array], Callable[[Array], Array], Callable[[Array], Array]]  # a function, its slopes


def _mixed(share: Three) -> FunctionSchedule:
    """alpha = 1 - share + LOW share, sigma = share + LOW (1 - share)."""
    part, rate, bend = share
    k = 1 - LOW
    return FunctionSchedule(
        lambda t: part(t) * LOW + (1 - part(t)), lambda t: part(t) + (1 - part(t)) * LOW, 1.0,
        lambda t: -k * rate(t), lambda t: k * rate(t), lambda t: -k * bend(t), lambda t: k * bend(t),
    )  # fmt: skip


def _spread(alpha: Three, rest: Callable[[Array], Array]) -> FunctionSchedule:
    """sigma^2 = 1 - alpha^2 + LOW^2, with rest = 1 - alpha^2 where nothing cancels."""
    signal, rate, bend = alpha

    def sigma(t: Array) -> Array:
        return np.sqrt(rest(t) + LOW**2)

    def slope(t: Array) -> Array:
        return np.asarray(-signal(t) * rate(t) / sigma(t))

    def curve(t: Array) -> Array:
        return np.asarray(-(rate(t) ** 2 + signal(t) * bend(t) + slope(t) ** 2) / sigma(t))

    return FunctionSchedule(signal, sigma, 1.0, rate, slope, bend, curve)


_FALL, _TURN, _DECAY, _RISE = np.log(LOW), np.arccos(LOW), np.log(GAMMA), np.log(HIGH / LOW)
_DECAYED: Three = (
    lambda t: -np.expm1(t * _DECAY) / (1 - GAMMA),
    lambda t: -_DECAY * np.exp(t * _DECAY) / (1 - GAMMA),
    lambda t: -(_DECAY**2) * np.exp(t * _DECAY) / (1 - GAMMA),
)
# alpha and sigma of azula's documentation; lambda = log(alpha / sigma) is +-7 at the ends
DOCUMENTED: Mapping[str, FunctionSchedule] = {
    "VESchedule": FunctionSchedule(
        np.ones_like, lambda t: np.exp((1 - t) * np.log(LOW) + t * np.log(HIGH)), 1.0,
        np.zeros_like, lambda t: _RISE * LOW * np.exp(_RISE * t),
        np.zeros_like, lambda t: _RISE**2 * LOW * np.exp(_RISE * t),
    ),
    "VPSchedule": _spread(
        (
            lambda t: np.exp(t * t * _FALL),
            lambda t: 2 * t * _FALL * np.exp(t * t * _FALL),
            lambda t: (2 * _FALL + (2 * t * _FALL) ** 2) * np.exp(t * t * _FALL),
        ),
        lambda t: -np.expm1(2 * t * t * _FALL),
    ),
    "CosineSchedule": _spread(
        (
            lambda t: np.cos(t * _TURN),
            lambda t: -_TURN * np.sin(t * _TURN),
            lambda t: -(_TURN**2) * np.cos(t * _TURN),
        ),
        lambda t: np.sin(t * _TURN) ** 2,
    ),
    "RectifiedSchedule": _mixed((lambda t: t, np.ones_like, np.zeros_like)),
    "DecaySchedule": _mixed(_DECAYED),
}  # fmt: skip


def documented(name: str) -> Iterator[Subject]:
    """A schedule as its documentation has it, in both number types."""
    import azula.noise

    made, version = getattr(azula.noise, name)(), metadata.version("azula")
    for dtype in ("float64", "float32"):
        edge = EDGES["torch"]

        def of(part: int, dtype: str = dtype) -> Callable[[Array], Array]:
            return lambda t: to_numpy(made(EDGES["torch"].to(t.astype(dtype)))[part])

        yield ScheduleSubject(
            name=f"{name} in {dtype}",
            library="azula",
            version=version,
            protocol="azula",
            alpha=of(0),
            sigma=of(1),
            process=DOCUMENTED[name],
            span=(0.0, 1.0),
            dtype=edge.dtype(dtype),
        )


def denoiser_of(made: Any, process: Schedule, name: str, *, dtype: str = "float64", **more: Any) -> Subject:
    """An azula denoiser beside the exact model, of the law and at the times that `more` says."""
    edge = EDGES["torch"]

    def answer(x: Array, t: float) -> Array:
        return to_numpy(made(edge.to(x.astype(dtype)), edge.to(np.asarray(t, dtype=dtype))).mean)

    times = more.pop("times", (0.01, 0.1, 0.5, 0.9, 0.99))
    return DenoiserSubject(
        name=name, protocol="azula", answer=answer, process=process, times=times, dtype=edge.dtype(dtype), **more
    )


def gaussian() -> Iterator[Subject]:
    """GaussianDenoiser for correlated data, on two schedules."""
    import azula.noise
    import torch
    from azula.denoise import GaussianDenoiser
    from azula.linalg.covariance import FullCovariance

    rng = np.random.default_rng(7)
    mean, root = rng.standard_normal(2), rng.standard_normal((2, 2))
    values, axes = np.linalg.eigh(root @ root.T)
    cov = FullCovariance(torch.from_numpy(axes), torch.from_numpy(values))
    law = GaussianMixture.full(mean[None], (root @ root.T)[None])
    for name in ("RectifiedSchedule", "VPSchedule"):
        made = GaussianDenoiser(torch.from_numpy(mean), cov, getattr(azula.noise, name)())
        yield denoiser_of(made, DOCUMENTED[name], f"GaussianDenoiser on {name}", law=law,
                          library="azula", version=metadata.version("azula"))  # fmt: skip
