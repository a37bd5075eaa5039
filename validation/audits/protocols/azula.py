r"""azula: samplers kind(denoiser, start, stop, steps, **options), denoisers q(x_t, t).mean = D, and noise schedules.

azula's schedules have any alpha and sigma, and its samplers are the same maps in y = x / alpha, rho = sigma / alpha,
whatever these are. So a sampler is played in y on the levels that its schedule has at its own times: a claim's numbers
come from the schedule as it is, which is audited by itself.

A denoiser of one's own, kind(backbone, schedule) or an object with `schedule`, is audited by `denoiser_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.samplers import to_prediction
from refdiff.samplers.adams import adams_bashforth, lms
from refdiff.samplers.ddim import ddim
from refdiff.samplers.deis import deis
from refdiff.samplers.edm import edm_euler, edm_heun, noise_prediction
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.sa_solver import sa_solver
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import FunctionSchedule, Schedule
from refdiff.validation.audits.checks.denoisers import DenoiserSubject
from refdiff.validation.audits.checks.schedules import ScheduleSubject
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import EDGES, to_numpy
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject, Variant, multiplied

# lambda = log(alpha / sigma) is +-7 at the ends of azula's schedules
SCHEDULES = ("VPSchedule", "VESchedule", "CosineSchedule", "RectifiedSchedule", "DecaySchedule")


# ---------------------------------------------------------------------- samplers, in y = x / alpha and rho


def ito(grid: Array, *, eta: float = 1.0, temperature: float = 1.0) -> Tableau:
    """y + (1 + eta^2) / temperature (rho_s - rho_t) eps + eta sqrt(rho_t^2 - rho_s^2) z: Euler-Maruyama in rho."""
    rec = Recorder("Ito SDE in rho", EXPLODING, grid, "denoiser")
    x = rec.start
    for t, s in rec.steps:
        eps = noise_prediction(rec, x, t)
        drift = (1 + eta**2) / temperature * (s.sigma - t.sigma)
        x = x + drift * eps + rec.noise(eta * np.sqrt((t.sigma - s.sigma) * (t.sigma + s.sigma)))
    return rec.finish(x)


def predictor_corrector(grid: Array, *, corrections: int = 1, delta: float = 0.01) -> Tableau:
    """D + sqrt(1 - delta) (y - D) + sqrt(delta) rho z, so many times at each level, then a step of DDIM."""
    rec = Recorder("Predictor-corrector", EXPLODING, grid, "denoiser")
    x = rec.start
    for t, s in rec.steps:
        for _ in range(corrections):
            clean = rec.evaluate(x, t)
            x = clean + np.sqrt(1 - delta) * (x - clean) + rec.noise(np.sqrt(delta) * t.sigma)
        clean = rec.evaluate(x, t)
        x = clean + s.sigma / t.sigma * (x - clean)
    return rec.finish(x)


PANELS = 256


def rosenbrock(grid: Array, *, order: int = 2, swapped: Array | None = None) -> Tableau:
    r"""The exponential Adams-Bashforth step of azula's documentation, for f = ((1 - a) y - D) / b, a = b^2 =
    rho^2 / (1 + rho^2), in u = log rho,

        y_s = sqrt((1 + rho_s^2) / (1 + rho_t^2)) y_t + sqrt(1 + rho_s^2) sum_i f_i int e^u / (1 + e^2u) l_i(u) du

    with integrals by trapezoids on 256 panels. With `swapped`, the alphas of the grid, the last root is
    sqrt(alpha_s^2 + sigma_t^2) / alpha_s in place of sqrt(alpha_s^2 + sigma_s^2) / alpha_s.
    """
    rec = Recorder("REAB", EXPLODING, grid, "denoiser")
    x = rec.start
    nodes: list[float] = []
    values: list[Any] = []
    for i, (t, s) in enumerate(rec.steps):
        a = t.sigma**2 / (1 + t.sigma**2)
        clean = rec.evaluate(x, t)
        nodes, values = (
            [*nodes, float(np.log(t.sigma))][-order:],
            [*values, ((1 - a) * x - clean) / np.sqrt(a)][-order:],
        )
        u = np.linspace(nodes[-1], float(np.log(s.sigma)), PANELS + 1)
        density = 1 / (2 * np.cosh(u))
        last = s.sigma if swapped is None else t.sigma * swapped[i] / swapped[i + 1]
        x = np.sqrt((1 + s.sigma**2) / (1 + t.sigma**2)) * x
        for j, value in enumerate(values):
            basis = np.prod([(u - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j], axis=0)
            x = x + np.sqrt(1 + last**2) * float(np.trapezoid(density * basis, u)) * value
    return rec.finish(x)


@dataclass(frozen=True)
class Known:
    """What a class stands for: (grid, **options) -> Tableau, its order as run, options that are tried, conventions."""

    build: Callable[..., Tableau]
    order: float
    options: Sequence[Mapping[str, Any]] = ()
    conventions: tuple[str, ...] = ()
    moved: Callable[[Array, Array], Array] = multiplied


def _noise(build: Callable[..., Tableau], **fixed: Any) -> Callable[..., Tableau]:
    """The same table for the noise, from which these samplers make their steps: what x - D cancels is rounding."""
    return lambda grid, **options: to_prediction(build(EXPLODING, grid, **fixed, **options), "noise")


def in_ratio(grid: Array, errors: Array) -> Array:
    """Levels made from sigma / (alpha + sigma), which has these relative errors."""
    u = grid / (1 + grid) * (1 + errors)
    return np.asarray(u / (1 - u))


def in_log(grid: Array, errors: Array) -> Array:
    """Levels made from log sigma - log alpha: alpha, sigma and the logarithms have these relative errors."""
    u = np.log(grid)
    return np.asarray(np.exp(u + errors * (1 + np.abs(u))))


def _multistep(name: str) -> Callable[..., Tableau]:
    kinds: Mapping[str, Callable[[Array, int], Tableau]] = {
        "zAB": lambda grid, order: to_prediction(lms(EXPLODING, grid, order=order), "noise"),
        "vAB": lambda grid, order: adams_bashforth(EXPLODING, grid, order=order, clock="ratio"),
        "zEAB": lambda grid, order: to_prediction(deis(EXPLODING, grid, degree=order - 1, clock="log_snr"), "noise"),
        "xEAB": lambda grid, order: sa_solver(EXPLODING, grid, predictor_order=order, corrector_order=0, tau=0.0),
    }
    return lambda grid, order=2: kinds[name](grid, order)


_ORDERS = ({"order": 1}, {"order": 3}, {"order": 4})
TRAPEZOIDS = "its integrals are those of 256 trapezoids"
SHARE = "eta is the share of the variance, the square of the eta of Song et al."
KNOWN: Mapping[str, Known] = {
    "DDPMSampler": Known(lambda grid: ddim(EXPLODING, grid, eta=1.0), 1),
    "DDIMSampler": Known(
        lambda grid, eta=0.0: ddim(EXPLODING, grid, eta=float(np.sqrt(eta))), 1, ({"eta": 0.5}, {"eta": 1.0}), (SHARE,)
    ),
    "EulerSampler": Known(_noise(edm_euler), 1),
    "HeunSampler": Known(_noise(edm_heun), 2),
    "ItoSampler": Known(ito, 1, ({"eta": 0.0}, {"eta": 0.5})),
    "zABSampler": Known(_multistep("zAB"), 2, _ORDERS),
    "vABSampler": Known(_multistep("vAB"), 2, _ORDERS, moved=in_ratio),
    "zEABSampler": Known(_multistep("zEAB"), 2, _ORDERS, moved=in_log),
    "xEABSampler": Known(_multistep("xEAB"), 2, _ORDERS, moved=in_log),
    "REABSampler": Known(rosenbrock, 2, ({"order": 1}, {"order": 3}), (TRAPEZOIDS,), in_log),
    "PCSampler": Known(predictor_corrector, 1, ({"corrections": 2, "delta": 0.1}, {"corrections": 0})),
}
SWAPPED = "takes sigma of the step's start for that of its end in the weight of the integral, so that its order is 1"


# ---------------------------------------------------------------------- playing


def _exact(schedule: Any, answer: Callable[[Any, Any], Any]) -> Any:
    """An azula denoiser that answers what the audit's model does."""
    from azula.denoise import Denoiser, DiracPosterior

    class Exact(Denoiser):  # type: ignore[misc]
        def forward(self, x_t: Any, t: Any, **_: Any) -> Any:
            return DiracPosterior(mean=answer(x_t, t))

    found = Exact()
    found.schedule = schedule
    return found


def levels_of(schedule: Any, times: Any) -> tuple[Array, Array]:
    """alpha, and rho = sigma / alpha, of a schedule at its own times."""
    alpha, sigma = (to_numpy(part).astype(float) for part in schedule(times))
    return np.broadcast_to(alpha, sigma.shape), sigma / alpha


def sampler_of(kind: Any, schedule: Any, steps: int, options: Mapping[str, Any], request: Request) -> Sampler:
    """A class of samplers on a schedule of azula."""
    import torch

    dtype, edge = getattr(torch, request.dtype), EDGES["torch"]

    def made(answer: Callable[[Any, Any], Any]) -> Any:
        return kind(_exact(schedule, answer), steps=steps, silent=True, dtype=dtype, **options)

    alphas, grid = levels_of(schedule, made(lambda x, t: x).timesteps)

    def play(model: callables.Model, x: Array, normal: callables.Normal) -> Array:
        def answer(x_t: Any, t: Any) -> Any:
            alpha = float(levels_of(schedule, t)[0])
            return edge.to(model(to_numpy(x_t).astype(float) / alpha, to_numpy(t).item()), x_t)

        start = edge.to(np.asarray(x * alphas[0], dtype=request.dtype))
        with callables.drawn(kind, normal, edge, start):
            return np.asarray(to_numpy(made(answer)(start)).astype(float) / alphas[-1])

    claim = callables.claim_of(kind, request, grid, EXPLODING, "denoiser")
    known = KNOWN.get(kind.__name__)
    if claim is None and known is not None:
        variants = (
            (Variant(SWAPPED, lambda given: rosenbrock(given, swapped=alphas, **options)),)
            if kind.__name__ == "REABSampler"
            else ()
        )
        claim = Claim(
            build=lambda given: known.build(given, **options),
            grid=grid,
            process=EXPLODING,
            prediction="denoiser",
            order=min(known.order, options.get("order", known.order)),
            source=f"azula's {kind.__name__}",
            conventions=known.conventions,
            variants=variants,
            moved=known.moved,
        )
    return Sampler(
        name=callables.name_of(kind, options),
        play=play,
        dtype=np.dtype(request.dtype),
        claim=claim,
        told=lambda t: float(levels_of(schedule, torch.tensor(t, dtype=dtype))[1]),
        trained=EXPLODING,
        script=_script(kind, schedule, steps, options, request.dtype),
    )


def _script(kind: Any, schedule: Any, steps: int, options: Mapping[str, Any], dtype: str) -> str:
    given = "".join(f", {k}={v!r}" for k, v in options.items())
    return (
        f"from azula.noise import {type(schedule).__name__}\nfrom azula.denoise import Denoiser, DiracPosterior\n"
        f"from {kind.__module__} import {kind.__name__}\ntorch.randn_like = lambda x: draw(x)\n"
        f"schedule = {type(schedule).__name__}()\n"
        "class Exact(Denoiser):  # the audit is in y = x / alpha\n"
        "    forward = lambda self, x, t: DiracPosterior(model(x / schedule(t)[0], t))\n"
        "denoiser = Exact()\ndenoiser.schedule = schedule\n"
        f"sampler = {kind.__name__}(denoiser, steps={steps}, silent=True, dtype=torch.{dtype}{given})\n"
        "alpha = schedule(sampler.timesteps)[0]\n"
        "x = sampler(x * alpha[0]) / alpha[-1]"
    )


def wrap(kind: Any, request: Request) -> Subject:
    """A sampler class of azula's kind, on the rectified schedule."""
    return subject(kind, "RectifiedSchedule", request.options, request)


def subject(kind: Any, schedule: str, options: Mapping[str, Any], request: Request, version: str = "") -> Subject:
    """A class with its options on one of azula's schedules."""
    import azula.noise

    def build(steps: int) -> Sampler:
        return sampler_of(kind, getattr(azula.noise, schedule)(), steps, options, request)

    name = f"{callables.name_of(kind, options)} on {schedule}"
    return Subject(name, build, "azula", version, "azula", options=(*options.items(), ("schedule", schedule)))


# ---------------------------------------------------------------------- the library


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Samplers with each of their options and each schedule by itself; schedules; the Gaussian denoiser."""
    import azula.denoise
    import azula.noise
    import azula.sample

    found = {
        name: partial(_samplers, getattr(azula.sample, name), known, quick)
        for name, known in KNOWN.items()
        if hasattr(azula.sample, name)
    }
    found |= {name: partial(_schedule, name) for name in SCHEDULES if hasattr(azula.noise, name)}
    return found | {"GaussianDenoiser": _gaussian}


def _samplers(kind: Any, known: Known, quick: bool) -> Iterator[Subject]:
    version, default = metadata.version("azula"), "RectifiedSchedule"
    asked: list[tuple[dict[str, Any], str, str]] = [
        ({}, default, "float64"),
        ({}, default, "float32"),
        *(({}, s, "float64") for s in SCHEDULES if s != default),
    ]
    asked += [
        (dict(options), default, "float32" if options.get("order", 1) > 2 else "float64") for options in known.options
    ]
    for options, schedule, dtype in asked[:1] if quick else asked:
        made = subject(kind, schedule, options, Request(dtype=dtype), version)
        yield made if dtype == "float64" else replace(made, name=f"{made.name} in {dtype}")


LOW, HIGH, GAMMA = 1e-3, 1e3, 0.1  # azula's defaults of alpha_min and sigma_min, of sigma_max, and of gamma


def _decayed(t: Array) -> Array:
    """(1 - gamma^t) / (1 - gamma)."""
    return np.asarray(-np.expm1(t * np.log(GAMMA)) / (1 - GAMMA))


def _variance(small: Array) -> Array:
    return np.sqrt(small + LOW**2)


# alpha and sigma of azula's documentation, with 1 - alpha^2 where nothing cancels
DOCUMENTED: Mapping[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "VESchedule": (np.ones_like, lambda t: np.exp((1 - t) * np.log(LOW) + t * np.log(HIGH))),
    "VPSchedule": (
        lambda t: np.exp(t * t * np.log(LOW)),
        lambda t: _variance(-np.expm1(2 * t * t * np.log(LOW))),
    ),
    "CosineSchedule": (
        lambda t: np.cos(t * np.arccos(LOW)),
        lambda t: _variance(np.sin(t * np.arccos(LOW)) ** 2),
    ),
    "RectifiedSchedule": (lambda t: t * LOW + (1 - t), lambda t: t + (1 - t) * LOW),
    "DecaySchedule": (
        lambda t: _decayed(t) * LOW + 1 - _decayed(t),
        lambda t: _decayed(t) + (1 - _decayed(t)) * LOW,
    ),
}


def _schedule(name: str) -> Iterator[Subject]:
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
            process=FunctionSchedule(*DOCUMENTED[name]),
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


def _gaussian() -> Iterator[Subject]:
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
        yield denoiser_of(made, FunctionSchedule(*DOCUMENTED[name]), f"GaussianDenoiser on {name}", law=law,
                          library="azula", version=metadata.version("azula"))  # fmt: skip


PROTOCOLS = (
    Protocol(
        name="azula",
        summary="kind(denoiser, steps=..., **options)(x), denoiser(x, t).mean -> denoised",
        wrap=wrap,
        library="azula",
        members=members,
    ),
)
