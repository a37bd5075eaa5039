r"""What k-diffusion has beside its samplers: grids of levels, the split of a step, conversions, denoisers.

    get_sigmas_*         Karras's, exponential and polynomial grids, and sqrt(e^{int beta} - 1) of the VP process
    get_ancestral_step   sigma_up = eta sqrt(sigma_t^2 (sigma_s^2 - sigma_t^2) / sigma_s^2), at most sigma_t;
                         sigma_down^2 = sigma_t^2 - sigma_up^2
    to_d                 (x - D) / sigma
    external.*           denoisers of x_0 + sigma eps made from networks for eps or v, and sigma <-> t

Grids are float32 whatever their arguments are: a relative error of 16 roundings, times the condition of the formula
(the power rho of a root), is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.model import ExactModel
from refdiff.processes import beta_table
from refdiff.schedules import VPLinear
from refdiff.validation.audits.checks.denoisers import DenoiserSubject, standard_law
from refdiff.validation.audits.checks.parts import Answer, Part
from refdiff.validation.audits.levels import EXPLODING, PRESERVING
from refdiff.validation.audits.protocols import callables, importing
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.subject import Subject

EPS = float(np.finfo(np.float32).eps)
LOW, HIGH = 0.03, 14.6
STEPS, QUICK = (1, 2, 3, 5, 10, 20, 50, 1000), (5,)


def _karras(n: int, rho: float = 7.0) -> Array:
    return callables.levels(n, HIGH, LOW, clean=True, rho=rho)


def _exponential(n: int, rho: float = 1.0) -> Array:
    """Powers of u between the logarithms: u = 1 first, so that the grid is finer at its end for rho > 1."""
    if n == 1:
        return np.array([HIGH, 0.0])
    falling = np.linspace(1, 0, n) ** rho
    return np.append(np.exp(falling * (np.log(HIGH) - np.log(LOW)) + np.log(LOW)), 0.0)


def _vp(n: int) -> Array:
    """sigma / alpha of beta from 0.1 to 20 at equal steps from t = 1 to 1e-3, and 0."""
    c = VPLinear().coefficients(np.linspace(1, 1e-3, n) if n > 1 else np.ones(1))
    return np.append(c.sigma / c.alpha, 0.0)


# name: what is right, and the condition of the formula: the power rho on a root, or an exponential of a logarithm
GRIDS: Mapping[str, tuple[Callable[..., Array], tuple[Mapping[str, float], ...], tuple[float, ...], float]] = {
    "get_sigmas_karras": (_karras, ({}, {"rho": 5.0}), (LOW, HIGH), 7 * (HIGH / LOW) ** (1 / 5)),
    "get_sigmas_exponential": (_exponential, ({},), (LOW, HIGH), 4.0),
    "get_sigmas_polyexponential": (_exponential, ({}, {"rho": 2.0}), (LOW, HIGH), 8.0),
    "get_sigmas_vp": (_vp, ({},), (), 11.0),
}


def _grids(function: Any, name: str, quick: bool) -> Iterator[Answer]:
    right, options, ends, condition = GRIDS[name]
    for given in options:
        for n in QUICK if quick else STEPS:
            wanted = right(n, **given)
            said = "".join(f", {k} = {v:g}" for k, v in given.items())
            yield Answer(
                f"{n} steps{said}",
                to_numpy(function(n, *ends, **given)),
                wanted,
                16 * EPS * condition * wanted,
                "16 roundings of float32, times the condition of the formula",
            )


def _ancestral_step(function: Any, _quick: bool) -> Iterator[Answer]:
    import torch

    for eta in (0.0, 0.5, 1.0, 1.3):
        for high, low in ((10.0, 9.0), (10.0, 1.0), (1.0, 0.3), (0.3, 0.0)):
            up = min(low, eta * np.sqrt(low**2 * (high - low) * (high + low) / high**2))
            down = np.sqrt((low - up) * (low + up))
            given = [torch.tensor(v, dtype=torch.float64) for v in (high, low)]
            found = np.array([float(v) for v in function(*given, eta=eta)])
            eps, off = float(np.finfo(float).eps), 1e-300
            # down is the root of a difference of squares
            bound = 16 * eps * np.array([low**2 / max(down, np.sqrt(eps) * low, off), low])
            yield Answer(
                f"from {high:g} to {low:g}, eta = {eta:g}", found, np.array([down, up]), bound,
                "16 roundings of float64 in sigma^2, of which sigma_down^2 is a difference",
            )  # fmt: skip


def _to_d(function: Any, _quick: bool) -> Iterator[Answer]:
    rng = np.random.default_rng(0)
    x, clean, sigma = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 3)), rng.uniform(0.1, 5.0, 4)
    found = to_numpy(function(*(to_torch(part) for part in (x, sigma, clean))))
    right = (x - clean) / sigma[:, None, None]
    yield Answer("a level for each point", found, right, 1e-14 * (abs(x) + abs(clean)) / sigma[:, None, None],
                 "roundings of a difference and a quotient")  # fmt: skip


def _levels(made: Any, _quick: bool) -> Iterator[Answer]:
    """DiscreteSchedule: its table, t -> sigma at whole and half times, and back."""
    sigmas = to_numpy(made.sigmas).astype(float)
    t = np.arange(0, len(sigmas) - 1, 0.5)
    right = np.exp(np.interp(t, np.arange(len(sigmas)), np.log(sigmas)))
    # log sigma and its weights are float32
    bound = 16 * EPS * (1 + np.abs(np.log(right)))
    rule = "16 roundings of float32 in log sigma"
    yield Answer("t_to_sigma", to_numpy(made.t_to_sigma(to_torch(t))), right, bound * right, rule)
    back = to_numpy(made.sigma_to_t(to_torch(right.astype(np.float32))))
    rate = np.interp(t, np.arange(len(sigmas) - 1) + 0.5, np.diff(np.log(sigmas)))
    yield Answer("sigma_to_t", back, t, 2 * bound / np.minimum.reduce([rate, np.roll(rate, 1), np.roll(rate, -1)])
                 + 16 * EPS * (1 + t), rule)  # fmt: skip
    whole = to_numpy(made.get_sigmas())
    yield Answer("get_sigmas()", whole, np.append(sigmas[::-1], 0.0), 0.0, "the table itself, from noise to data")
    yield Answer("get_sigmas(2)", to_numpy(made.get_sigmas(2)), [sigmas[-1], sigmas[0], 0.0],
                 16 * EPS * np.array([sigmas[-1], sigmas[0], 0.0]), rule)  # fmt: skip


def _table() -> Array:
    """alpha_bar of Stable Diffusion's 1000 betas."""
    return np.asarray(beta_table.scaled_linear().alpha_bar)


def _denoisers(external: Any) -> Iterator[Subject]:
    """Wrappers of exact networks, which know their level by the t that they are given."""
    law, bars = standard_law(), _table()
    model = ExactModel(law, PRESERVING)
    logs = np.log(np.sqrt((1 - bars) / bars))

    def discrete(t: float) -> float:
        return float(np.exp(np.interp(t, np.arange(len(logs)), logs)))

    kinds = {
        "DiscreteEpsDDPMDenoiser": ("noise", discrete),
        "DiscreteVDDPMDenoiser": ("v_prediction", discrete),
        "VDenoiser": ("v_prediction", lambda t: float(np.tan(t * np.pi / 2))),
    }
    for name, (prediction, level) in kinds.items():

        def network(x: Any, t: Any, prediction: str = prediction, level: Callable[[float], float] = level) -> Any:
            rho = level(float(to_numpy(t).ravel()[0]))
            return to_torch(model.predict(to_numpy(x).astype(float), rho, prediction)).to(x)

        kind = getattr(external, name)
        made = kind(network) if name == "VDenoiser" else kind(network, to_torch(bars), quantize=False)

        def answer(x: Array, t: float, made: Any = made) -> Array:
            import torch

            return to_numpy(made(to_torch(x), torch.full((len(x),), t, dtype=torch.float64)))

        # the times in between pass through the buffers of the module, which keep the type of alpha_bar
        yield DenoiserSubject(
            name=name, library="k_diffusion", version=metadata.version("k-diffusion"), protocol="k-diffusion",
            answer=answer, process=EXPLODING, law=law, times=(0.05, 0.3, 1.0, 4.0, 12.0),
        )  # fmt: skip


def members(sampling: Any, without: tuple[str, ...]) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Every part by its name."""
    external = importing.load("k_diffusion.external", without)
    version = metadata.version("k-diffusion")

    def one(name: str, answers: Callable[[bool], Iterator[Answer]]) -> Iterator[Subject]:
        yield Part(name, library="k_diffusion", version=version, protocol="k-diffusion", answers=answers)

    found: dict[str, Callable[[bool], Iterator[Answer]]] = {
        name: partial(_grids, getattr(sampling, name), name) for name in GRIDS
    }
    found |= {
        "get_ancestral_step": partial(_ancestral_step, sampling.get_ancestral_step),
        "to_d": partial(_to_d, sampling.to_d),
        "DiscreteSchedule": partial(
            _levels, external.DiscreteSchedule(to_torch(np.sqrt((1 - _table()) / _table()).astype(np.float32)), False)
        ),
    }
    asked: dict[str, Callable[[], Iterator[Subject]]] = {n: partial(one, n, answers) for n, answers in found.items()}
    return asked | {"denoisers": partial(_denoisers, external)}
