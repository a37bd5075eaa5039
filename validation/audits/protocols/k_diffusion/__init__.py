r"""k-diffusion: f(model, x, sigmas, extra_args=None, callback=None, disable=None, **options), model(x, sigma) = D.

States are x = x_0 + sigma eps and the times are the levels sigma themselves, which end at 0 or above it. A function
whose name is k-diffusion's is taken for what that name says, also in a fork of it; any other by a family.

DPM-fast takes (model, x, sigma_min, sigma_max, n) in place of sigmas, with n evaluations on equal steps of log sigma.
DPM-adaptive chooses its steps by what it sees and is no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import to_prediction
from refdiff.samplers.adams import lms
from refdiff.samplers.dpm_fast import dpm_solver_fast
from refdiff.samplers.dpm_sde import dpmpp_2s_ancestral, dpmpp_3m_sde, dpmpp_sde, sde_dpm_solver_pp
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp_multistep
from refdiff.samplers.edm import edm_euler, edm_heun
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.kdiffusion import dpm2, dpm2_ancestral, euler_ancestral
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import callables, importing
from refdiff.validation.audits.protocols.arrays import edge_of
from refdiff.validation.audits.protocols.k_diffusion import parts
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject, Variant

# what the rest of the package imports beside its samplers
UNRELATED = ("torchvision", "skimage", "dctorch", "clip", "cleanfid", "jsonmerge", "kornia", "resize_right", "wandb")
# The largest and smallest level of the grids that are tried, those of Stable Diffusion.
HIGH, LOW = 14.6, 0.03
CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")


@dataclass(frozen=True)
class Known:
    """What a name of k-diffusion stands for.

    Args:
        build: (grid, options) -> Tableau.
        order: as run, with its start-up.
        options: what is tried beside the defaults.
        variants: slips that some versions have.
    """

    build: Callable[..., Tableau]
    order: float
    options: Sequence[Mapping[str, Any]] = ()
    variants: Sequence[tuple[str, Callable[..., Tableau]]] = ()


def _ancestral(family: Callable[..., Tableau], grid: Array, first: float, eta: float = 1.0, **more: Any) -> Tableau:
    """A split of a level into sigma_up = eta (...) and sigma_down = sqrt(sigma^2 - sigma_up^2).

    sigma_up is off by a rounding where the grid is: what the difference of squares makes of that counts as rounding.
    """
    return family(EXPLODING, grid, eta=eta * float(grid[0]) / first, **more)


def _in_noise(build: Callable[..., Tableau], family: Callable[..., Tableau]) -> Callable[..., Tableau]:
    """The same table for the noise (x - D) / sigma, of which these steps are made: what x - D cancels is rounding."""
    return lambda grid, first, **options: to_prediction(build(family, grid, first, **options), "noise")


def _without_noise(family: Callable[..., Tableau], grid: Array, first: float, **options: Any) -> Tableau:
    table = _ancestral(family, grid, first, **options)
    level = np.abs(table.noise).max(axis=1, initial=0.0) / options.get("s_noise", 1.0)
    return replace(table, noise=np.where((level >= (1 - 1e-9) * table.times)[:, None], 0.0, table.noise))


def _plain(family: Callable[..., Tableau], grid: Array, _first: float, **options: Any) -> Tableau:
    return family(EXPLODING, grid, **options)


def _fast(grid: Array, _first: float, nfe: int = 1) -> Tableau:
    return dpm_solver_fast(EXPLODING, grid, nfe=nfe)


_ETAS = ({"eta": 0.0}, {"eta": 0.5}, {"s_noise": 1.1}, {"eta": 1.3})
_CHURNS = ({"s_churn": 3.0}, {"s_churn": 40.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.003})
_SDE = ({"eta": 0.0}, {"eta": 0.5}, {"s_noise": 1.1})
HALVED = "counts the second difference half, so that the step is not the parabola's and its order is 2"
SILENT = "leaves out the noise of a step with sigma_down = 0 to a level above 0, so that its law is a point"

KNOWN: Mapping[str, Known] = {
    "sample_euler": Known(_in_noise(_plain, edm_euler), 1, _CHURNS),
    "sample_euler_ancestral": Known(_in_noise(_ancestral, euler_ancestral), 1, _ETAS),
    "sample_heun": Known(_in_noise(_plain, edm_heun), 2, _CHURNS),
    "sample_dpm_2": Known(_in_noise(_plain, dpm2), 2, _CHURNS),
    "sample_dpm_2_ancestral": Known(
        _in_noise(_ancestral, dpm2_ancestral), 2, _ETAS, ((SILENT, _in_noise(_without_noise, dpm2_ancestral)),)
    ),
    "sample_lms": Known(_in_noise(_plain, lms), 2, ({"order": 1}, {"order": 2}, {"order": 3})),
    "sample_dpm_fast": Known(_fast, 2),
    "sample_dpmpp_2s_ancestral": Known(partial(_ancestral, dpmpp_2s_ancestral), 2, _ETAS),
    "sample_dpmpp_sde": Known(partial(_ancestral, dpmpp_sde), 2, (*_SDE, {"r": 0.3}, {"r": 1.0})),
    "sample_dpmpp_2m": Known(partial(_plain, dpm_solver_pp_multistep), 2),
    "sample_dpmpp_2m_sde": Known(
        partial(_plain, sde_dpm_solver_pp), 2, (*_SDE, {"solver_type": "heun"}, {"solver_type": "heun", "eta": 0.5})
    ),
    "sample_dpmpp_3m_sde": Known(
        partial(_plain, partial(dpmpp_3m_sde, published=False)),
        2,
        _SDE,
        ((HALVED, partial(_plain, partial(dpmpp_3m_sde, published=True))),),
    ),
}


# ---------------------------------------------------------------------- playing


def play(function: Callable[..., Any], grid: Array, options: Mapping[str, Any], dtype: str) -> Play:
    """The function as a sampler."""
    edge = edge_of(function, "torch")
    fast = callables.accepts(function, "sigma_min") and not callables.accepts(function, "sigmas")
    silent = {"disable": True} if callables.accepts(function, "disable") else {}

    def call(network: Callable[..., Any], start: Any, _: callables.Normal) -> Any:
        levels = grid.astype(dtype)  # anew for each run: what is given may be written to
        # numbers of this type, which the function makes tensors of its own from
        given = (levels[-1], levels[0]) if fast else (edge.to(levels),)
        return function(network, start, *given, **silent, **options)

    return callables.play(function, edge, dtype, call)


def sampler_of(function: Callable[..., Any], grid: Array, options: Mapping[str, Any], request: Request) -> Sampler:
    """The function on a grid, with the claim of the request's family or of its own name."""
    name = getattr(function, "__name__", "")
    claim = callables.claim_of(function, request, grid, EXPLODING, "denoiser")
    if claim is None and name in KNOWN:
        known, first = KNOWN[name], float(grid[0])
        said = {"nfe": options["n"]} if name == "sample_dpm_fast" else options
        claim = Claim(
            build=lambda levels: known.build(levels, first, **said),
            grid=grid,
            process=EXPLODING,
            prediction="denoiser",
            order=order_of(known, options),
            source=f"k-diffusion's {name}",
            variants=tuple(
                Variant(text, lambda levels, build=build: build(levels, first, **said))  # type: ignore[misc]
                for text, build in known.variants
            ),
        )
    return Sampler(
        name=callables.name_of(function, options),
        play=play(function, grid, options, request.dtype),
        # levels that are Python numbers become float32 tensors, whatever the points are
        dtype=np.dtype(np.float32) if "n" in options else edge_of(function, "torch").dtype(request.dtype),
        claim=claim,
        told=float,
        trained=EXPLODING,
        script=script(function, grid, options, request.dtype),
    )


def order_of(known: Known, options: Mapping[str, Any]) -> float | None:
    """The order with these options; None where they change the law that the steps converge to."""
    if options.get("s_noise", 1.0) != 1 or options.get("eta", 1.0) > 1:
        return None
    return float(min(known.order, options.get("order", known.order)))


def script(function: Callable[..., Any], grid: Array, options: Mapping[str, Any], dtype: str) -> str:
    """Lines that call the function with `model`, `x` and `draw`, and leave its output in `x`."""
    name, module = getattr(function, "__name__", "sampler"), getattr(function, "__module__", "module")
    module = module.removeprefix("audited_")  # a file of one's own, in whose folder the program runs
    given = "".join(f", {k}={v!r}" for k, v in options.items())
    levels = f"torch.tensor({[float(s) for s in grid]}, dtype=torch.{dtype})"
    if "n" in options:
        levels = f"{float(grid[-1])}, {float(grid[0])}"
    return (
        f"import {module} as module\n"
        "torch.randn_like = lambda x: draw(x)\n"
        "module.BrownianTreeNoiseSampler = lambda *_, **__: lambda *_: draw(x)\n"
        f"x = module.{name}(model, x, {levels}{given})"
    )


def subject(
    function: Callable[..., Any], request: Request, options: Mapping[str, Any], *, clean: bool = True, version: str = ""
) -> Subject:
    """A function with its options, on Karras's grids."""
    fast = getattr(function, "__name__", "") == "sample_dpm_fast"

    def build(steps: int) -> Sampler:
        if fast:
            grid = np.exp(np.linspace(np.log(HIGH), np.log(LOW), steps // 3 + 2))
            return sampler_of(function, grid, {"n": steps, **options}, request)
        return sampler_of(function, callables.levels(steps, HIGH, LOW, clean=clean), options, request)

    name = callables.name_of(function, options) + ("" if clean or fast else " on levels above 0")
    module = getattr(function, "__module__", "").partition(".")[0]
    return Subject(name, build, module, version, "k-diffusion", options=tuple(options.items()))


def wrap(function: Any, request: Request) -> Subject:
    """A function of one's own."""
    family = callables.family_of(request)
    return subject(function, request, request.options, clean=family is None or family.ends_clean)


# ---------------------------------------------------------------------- the library


def sampling() -> Any:
    """k_diffusion.sampling."""
    return importing.load("k_diffusion.sampling", UNRELATED)


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Every sampler, with each of its options by itself, and what stands beside the samplers."""
    module = sampling()
    found: dict[str, Callable[[], Iterator[Subject]]] = {
        name: partial(_subjects, getattr(module, name), known, quick)
        for name, known in KNOWN.items()
        if hasattr(module, name)
    }
    return {**found, **parts.members(module, UNRELATED)}


def _subjects(function: Any, known: Known, quick: bool) -> Iterator[Subject]:
    version = metadata.version("k-diffusion")
    asked: list[tuple[dict[str, Any], str, bool]] = [
        ({}, "float64", True),
        ({}, "float32", True),
        ({}, "float64", False),
    ]
    asked += [(dict(options), "float64", True) for options in known.options]
    for options, dtype, clean in asked[:1] if quick else asked:
        if clean or known.build is not _fast:
            made = subject(function, Request(dtype=dtype), options, clean=clean, version=version)
            yield made if dtype == "float64" else replace(made, name=f"{made.name} in {dtype}")


PROTOCOLS = (
    Protocol(
        name="k-diffusion",
        summary="f(model, x, sigmas, **options), model(x, sigma) -> denoised",
        wrap=wrap,
        library="k_diffusion",
        members=members,
        given=3,
    ),
)
