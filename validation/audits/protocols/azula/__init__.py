r"""azula: samplers kind(denoiser, start, stop, steps, **options), denoisers q(x_t, t).mean = D, and noise schedules.

azula's schedules have any alpha and sigma, and its samplers are the same maps in y = x / alpha, rho = sigma / alpha,
whatever these are. So a sampler is played in y on the levels that its schedule has at its own times: a claim's numbers
come from the schedule as it is, which is audited by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import EDGES, to_numpy
from refdiff.validation.audits.protocols.azula.documented import DOCUMENTED, documented, gaussian
from refdiff.validation.audits.protocols.azula.tables import KNOWN, SWAPPED, Known, rosenbrock
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject, Variant


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
    found |= {name: partial(documented, name) for name in DOCUMENTED if hasattr(azula.noise, name)}
    return found | {"GaussianDenoiser": gaussian}


def _samplers(kind: Any, known: Known, quick: bool) -> Iterator[Subject]:
    version, default = metadata.version("azula"), "RectifiedSchedule"
    asked: list[tuple[dict[str, Any], str, str]] = [
        ({}, default, "float64"),
        ({}, default, "float32"),
        *(({}, s, "float64") for s in DOCUMENTED if s != default),
    ]
    asked += [
        (dict(options), default, "float32" if options.get("order", 1) > 2 else "float64") for options in known.options
    ]
    for options, schedule, dtype in asked[:1] if quick else asked:
        made = subject(kind, schedule, options, Request(dtype=dtype), version)
        yield made if dtype == "float64" else replace(made, name=f"{made.name} in {dtype}")


PROTOCOLS = (
    Protocol(
        name="azula",
        summary="kind(denoiser, steps=..., **options)(x), denoiser(x, t).mean -> denoised",
        wrap=wrap,
        library="azula",
        members=members,
        given=1,
    ),
)
