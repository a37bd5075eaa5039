r"""EDM: networks net(x, sigma) = D, and samplers f(net, latents, **options) that make their own grid.

Latents are unit normals: the start is x = sigma_max latents, and the grid is Karras's,

    sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,  sigma_N = 0

as in edm_sampler of NVlabs/edm, whose options are num_steps, sigma_min, sigma_max, rho, S_churn, S_min, S_max, S_noise
and randn_like. A sampler of this convention is taken for edm-heun unless a family is named. A network is audited as a
denoiser of x_0 + sigma eps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from refdiff.arguments import Array
from refdiff.samplers.edm import edm_heun
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import edge_of
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject

CHURN = {"S_churn": "s_churn", "S_min": "s_tmin", "S_max": "s_tmax", "S_noise": "s_noise"}
# of edm_sampler, where a sampler has no defaults of its own
DEFAULTS = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


class Net:
    """The exact model as such samplers see it: a call, and what they ask a network about."""

    sigma_min, sigma_max = 0.0, float("inf")
    label_dim = 0

    def __init__(self, network: Callable[..., Any]) -> None:
        self._network = network

    def __call__(self, x: Any, sigma: Any, *_: Any, **__: Any) -> Any:
        return self._network(x, sigma)

    def round_sigma(self, sigma: Any) -> Any:
        """A network that knows every level has nothing to round."""
        return sigma


def options_of(function: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that count: what is given, else the function's own defaults, else those of edm_sampler."""
    own = {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    return {**DEFAULTS, **own, **given}


def play(function: Any, start: float, steps: int, options: Mapping[str, Any], dtype: str) -> Play:
    """The function as a sampler of x = start latents."""
    edge = edge_of(function, "torch")

    def call(network: Callable[..., Any], latents: Any, normal: callables.Normal) -> Any:
        more: dict[str, Any] = {}
        if callables.accepts(function, "randn_like"):
            more["randn_like"] = lambda like, **_: edge.to(normal(), like)
        return function(Net(network), latents, num_steps=steps, **more, **options)

    return callables.play(function, edge, dtype, call, start)


def wrap(function: Any, request: Request) -> Subject:
    """A sampler f(net, latents, num_steps=..., **options)."""
    options = options_of(function, request.options)
    high, low, rho = (float(options[name]) for name in ("sigma_max", "sigma_min", "rho"))
    churn = {ours: float(options[theirs]) for theirs, ours in CHURN.items() if theirs in options}

    def build(steps: int) -> Sampler:
        grid = callables.levels(steps, high, low, clean=True, rho=rho)
        claim = callables.claim_of(function, request, grid, EXPLODING, "denoiser")
        if claim is None:

            def heun(levels: Array) -> Tableau:
                return edm_heun(EXPLODING, levels, **churn)

            claim = Claim(heun, grid, EXPLODING, "denoiser", order=2, source="edm-heun: Karras et al. 2022")
        return Sampler(
            name=callables.name_of(function, request.options),
            play=play(function, high, steps, request.options, request.dtype),
            dtype=edge_of(function, "torch").dtype(request.dtype),
            claim=claim,
            told=float,
            trained=EXPLODING,
        )

    name = callables.name_of(function, request.options)
    return Subject(name, build, protocol="edm", options=tuple(request.options.items()))


PROTOCOLS = (Protocol("edm", "f(net, latents, num_steps=..., **options), net(x, sigma) -> denoised", wrap, given=2),)
