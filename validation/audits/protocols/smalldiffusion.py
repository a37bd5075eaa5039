r"""smalldiffusion: samples(model, sigmas, gam, mu, xt=...), model.predict_eps_cfg(x, sigma) = eps on x_0 + sigma eps.

A step from s to t with the noise of the step before, e_r, is

    x_t = x_s - (sigma_s - sigma_down) (gam e_s + (1 - gam) e_r) + sqrt(sigma_t^2 - sigma_down^2) z
    sigma_t = sigma_s^mu sigma_down^(1 - mu)

gam = 1, mu = 0 is DDIM, mu = 1/2 DDPM (sigma_down = sigma_t^2 / sigma_s), and gam = 2 the authors' gradient estimation:
of order 1, for equal steps would need gam = 3/2 for order 2. A function of one's own has the same arguments, and is
taken for this one unless a family is named. Schedules are tables of sigma, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.processes import BetaTable, beta_table
from refdiff.samplers.impulse import Sampler as Play
from refdiff.samplers.recorder import Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.checks.denoisers import DenoiserSubject
from refdiff.validation.audits.checks.parts import Answer, Part
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import callables, importing
from refdiff.validation.audits.protocols.arrays import EDGES, to_numpy, to_torch
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject

HIGH, LOW = 14.6, 0.03
EPS = float(np.finfo(np.float32).eps)


def gradient_estimation(grid: Array, *, gam: float = 1.0, mu: float = 0.0) -> Tableau:
    """The table of a run, the first step with gam = 1."""
    rec = Recorder(f"Gradient estimation, gam = {gam:g}, mu = {mu:g}", EXPLODING, grid, "noise")
    x, before = rec.start, State({})
    for i, (s, t) in enumerate(rec.steps):
        eps = rec.evaluate(x, s)
        share = (t.sigma / s.sigma) ** (mu / (1 - mu))  # sigma_down / sigma_t
        mean = gam * eps + (1 - gam) * before if i else eps
        x = x - (s.sigma - t.sigma * share) * mean + rec.noise(t.sigma * np.sqrt((1 - share) * (1 + share)))
        before = eps
    return rec.finish(x)


class _Model:
    """The audit's network, as `samples` sees it."""

    def __init__(self, network: Callable[..., Any], normal: Callable[[], Any]) -> None:
        self._network, self._normal = network, normal

    def eval(self) -> None:
        """Networks without dropout have nothing to switch."""

    def predict_eps_cfg(self, x: Any, sigma: Any, *_: Any) -> Any:
        return self._network(x, sigma)

    predict_eps = predict_eps_cfg

    def rand_input(self, _: int) -> Any:
        return self._normal()


class _Place:
    """Where tensors lie, all that is asked of an Accelerator."""

    device = "cpu"


def play(function: Any, grid: Array, options: Mapping[str, Any], dtype: str) -> Play:
    """The last point of the generator."""
    edge = EDGES["torch"]

    def call(network: Callable[..., Any], start: Any, normal: callables.Normal) -> Any:
        made = _Model(network, lambda: edge.to(normal(), start))
        *_, last = function(made, edge.to(grid.astype(dtype)), xt=start, accelerator=_Place(), **options)
        return last

    return callables.play(function, edge, dtype, call)


def subject(function: Any, request: Request, version: str = "", *, clean: bool = False) -> Subject:
    """A function with its options, on Karras's levels."""
    options = request.options

    def build(steps: int) -> Sampler:
        grid = callables.levels(steps, HIGH, LOW, clean=clean)
        claim = callables.claim_of(function, request, grid, EXPLODING, "noise")
        if claim is None:

            def table(levels: Array) -> Tableau:
                return gradient_estimation(levels, **options)

            claim = Claim(table, grid, EXPLODING, "noise", order=1, source="smalldiffusion's samples")
        return Sampler(
            name=callables.name_of(function, options),
            play=play(function, grid, options, request.dtype),
            dtype=np.dtype(request.dtype),
            claim=claim,
            told=float,
            trained=EXPLODING,
        )

    name = callables.name_of(function, options) + (" to sigma = 0" if clean else "")
    return Subject(name, build, "smalldiffusion", version, "smalldiffusion", options=tuple(options.items()))


def wrap(function: Any, request: Request) -> Subject:
    """A generator of one's own."""
    return subject(function, request)


# ---------------------------------------------------------------------- the library


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """The sampler, the schedules and their grids, and the denoiser of a data set."""
    module = importing.load("smalldiffusion", ("torchvision",))
    version = metadata.version("smalldiffusion")
    found: dict[str, Callable[[], Iterator[Subject]]] = {"samples": partial(_samples, module.samples, version, quick)}
    for name in TABLES:
        if hasattr(module, name):
            found[name] = partial(_part, name, partial(_table, getattr(module, name), name), version)
    found["sample_sigmas"] = partial(_part, "sample_sigmas", partial(_grids, module), version)
    found["samples on own grids"] = partial(_part, "samples on own grids", partial(_finite, module), version)
    return found | {"IdealDenoiser": partial(_ideal, module, version)}


def _samples(function: Any, version: str, quick: bool) -> Iterator[Subject]:
    asked = [{}, {"mu": 0.5}, {"gam": 2.0}, {"gam": 1.5, "mu": 0.3}]
    for options in asked[:1] if quick else asked:
        yield subject(function, Request(options=options), version)
        yield subject(function, Request(options=options), version, clean=True)


def _part(name: str, answers: Callable[[bool], Iterator[Answer]], version: str) -> Iterator[Subject]:
    yield Part(name, library="smalldiffusion", version=version, protocol="smalldiffusion", answers=answers)


def _levels(table: BetaTable) -> Array:
    return np.asarray(table.sigma(np.arange(1, table.steps + 1)) / np.sqrt(table.alpha_bar))


TABLES: Mapping[str, Callable[[int], Array]] = {
    "ScheduleLogLinear": lambda n: np.geomspace(0.02, 10, n),
    "ScheduleDDPM": lambda n: _levels(beta_table.linear(n)),
    "ScheduleLDM": lambda n: _levels(beta_table.scaled_linear(n)),
    "ScheduleSigmoid": lambda n: _levels(beta_table.sigmoid(n)),
    "ScheduleCosine": lambda n: _levels(beta_table.squared_cosine(n)),
}


def _table(kind: Any, name: str, quick: bool) -> Iterator[Answer]:
    """The levels of a table: what 1 / alpha_bar - 1 and the product of n factors lose in float32 is theirs."""
    for n in (1000,) if quick else (50, 1000):
        right = TABLES[name](n)
        bound = 16 * EPS * right
        if name != "ScheduleLogLinear":  # the relative error of alpha_bar, n roundings, over 2 (1 - alpha_bar)
            bound = EPS * (16 + np.arange(1, n + 1)) * (1 + right**2) / right
        yield Answer(f"{n} levels", to_numpy(kind(n).sigmas), right, bound, "n roundings of float32 in alpha_bar")


def _grids(module: Any, quick: bool) -> Iterator[Answer]:
    """Levels that fall, at every number of steps up to that of the table: equal ones are a step of length zero."""
    made = module.ScheduleDDPM(100)
    for steps in (10, 100) if quick else (1, 2, 3, 10, 30, 66, 67, 99, 100):
        falls = np.diff(to_numpy(made.sample_sigmas(steps)).astype(float)) < 0
        yield Answer(
            f"{steps} steps of 100 levels fall", float(falls.sum()), float(steps), 0.0, "a level for each step"
        )


def _finite(module: Any, quick: bool) -> Iterator[Answer]:
    """A run on every grid of the library's schedules ends in numbers: without data, x only grows by its noise."""
    import torch

    silent = _Model(lambda x, sigma: 0 * x, lambda: torch.zeros(1, 1))
    for name in TABLES:
        for size, steps in ((50, 50),) if quick else ((50, 20), (50, 50), (1000, 100), (1000, 1000)):
            sigmas = getattr(module, name)(size).sample_sigmas(steps)
            for mu in (0.0, 0.5):
                *_, last = module.samples(silent, sigmas, mu=mu, xt=torch.zeros(1, 1), accelerator=_Place())
                yield Answer(f"{name}({size}), {steps} steps, mu = {mu:g}", to_numpy(last).ravel(), [0.0], 0.0,
                             "no data and no noise leave 0")  # fmt: skip


def _ideal(module: Any, version: str) -> Iterator[Subject]:
    """The exact noise prediction for a data set."""
    data = np.random.default_rng(3).standard_normal((7, 2))

    class Data:
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, i: int) -> Any:
            return to_torch(data[i])

    made = module.IdealDenoiser(Data())

    def answer(x: Array, t: float) -> Array:
        return to_numpy(made(to_torch(x), to_torch(np.asarray(t))))

    yield DenoiserSubject(
        name="IdealDenoiser", library="smalldiffusion", version=version, protocol="smalldiffusion", answer=answer,
        process=EXPLODING, prediction="noise", law=GaussianMixture.isotropic(data, 0.0),
        times=(0.02, 0.1, 0.5, 2.0, 10.0),
    )  # fmt: skip


PROTOCOLS = (
    Protocol(
        name="smalldiffusion",
        summary="samples(model, sigmas, gam=..., mu=..., xt=...), model.predict_eps_cfg(x, sigma) -> noise",
        wrap=wrap,
        library="smalldiffusion",
        members=members,
        given=2,
    ),
)
