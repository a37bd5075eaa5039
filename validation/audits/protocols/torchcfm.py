r"""The package torchcfm: conditional flow matchers and the coupling of minibatches.

Its time runs from x_0, s = 0, to the data x_1, s = 1. A matcher is a path N(mu_s, sigma_s^2) with the velocity

    u = mu' + sigma' / sigma (x - mu)

    ConditionalFlowMatcher                      mu = (1 - s) x_0 + s x_1       sigma constant
    TargetConditionalFlowMatcher                mu = s x_1                     sigma_s = 1 - (1 - sigma) s
    SchrodingerBridgeConditionalFlowMatcher     mu = (1 - s) x_0 + s x_1       sigma_s = sigma sqrt(s (1 - s))
    VariancePreservingConditionalFlowMatcher    mu = cos(pi s / 2) x_0 + sin(pi s / 2) x_1

The coupling minimizes sum pi |x - y|^2, with a regularization - reg H(pi) for the bridge of noise sigma, where
reg = 2 sigma^2. Sources: Tong et al. 2024 (both papers), Lipman et al. 2023, Albergo and Vanden-Eijnden 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import permutations
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.checks.parts import Answer, Part
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Subject

LIBRARY, OPERATIONS = "torchcfm", 16
ROUNDING = "16 roundings in each term, and the guard 1e-8 of the class in what it divides by"
GUARD = 1e-8

# (x_0, x_1, s, sigma) -> mu, sigma_s, mu', sigma'
Path = Callable[[Array, Array, Array, float], tuple[Array, Array, Array, Array]]


def _straight(x0: Array, x1: Array, s: Array, sigma: float) -> tuple[Array, Array, Array, Array]:
    return (1 - s) * x0 + s * x1, np.full_like(s, sigma), x1 - x0, np.zeros_like(s)


def _target(x0: Array, x1: Array, s: Array, sigma: float) -> tuple[Array, Array, Array, Array]:  # noqa: ARG001
    return s * x1, 1 - (1 - sigma) * s, x1, np.full_like(s, sigma - 1)


def _bridge(x0: Array, x1: Array, s: Array, sigma: float) -> tuple[Array, Array, Array, Array]:
    root = np.sqrt(s * (1 - s))
    return (1 - s) * x0 + s * x1, sigma * root, x1 - x0, sigma * (1 - 2 * s) / (2 * root)


def _turning(x0: Array, x1: Array, s: Array, sigma: float) -> tuple[Array, Array, Array, Array]:
    a = np.pi / 2 * s
    moving = np.pi / 2 * (np.cos(a) * x1 - np.sin(a) * x0)
    return np.cos(a) * x0 + np.sin(a) * x1, np.full_like(s, sigma), moving, np.zeros_like(s)


PATHS: Mapping[str, Path] = MappingProxyType(
    {
        "ConditionalFlowMatcher": _straight,
        "ExactOptimalTransportConditionalFlowMatcher": _straight,
        "TargetConditionalFlowMatcher": _target,
        "SchrodingerBridgeConditionalFlowMatcher": _bridge,
        "VariancePreservingConditionalFlowMatcher": _turning,
    }
)


def matcher(kind: type, path: Path, dtype: str, quick: bool) -> Iterator[Answer]:
    """mu, sigma, the sample and the velocity of a class that makes a matcher of sigma."""
    rng = np.random.default_rng(0)
    count = 9 if quick else 33
    x0, x1, noise = rng.standard_normal((3, count, 2)).astype(dtype).astype(float)
    s = np.linspace(0.05, 0.95, count).astype(dtype).astype(float)
    eps = float(np.finfo(dtype).eps)
    for sigma in (0.1, 0.5, 1.0):
        made = kind(sigma=sigma)
        mu, spread, moving, rate = path(x0, x1, s[:, None], sigma)
        given = {
            key: to_torch(value.astype(dtype)) for key, value in {"x0": x0, "x1": x1, "t": s, "noise": noise}.items()
        }
        x = mu + spread * noise
        here = to_torch(x.astype(dtype))
        size = np.abs(x0) + np.abs(x1) + spread * np.abs(noise)
        found = made.compute_mu_t(given["x0"], given["x1"], given["t"])
        yield Answer(f"sigma = {sigma}: mu", to_numpy(found), mu, OPERATIONS * eps * size, ROUNDING)
        found = made.compute_sigma_t(given["t"])
        found = np.broadcast_to(to_numpy(found), s.shape)
        yield Answer(f"sigma = {sigma}: sigma_t", found, spread[:, 0], OPERATIONS * eps, ROUNDING)
        found = made.sample_xt(given["x0"], given["x1"], given["t"], given["noise"])
        yield Answer(f"sigma = {sigma}: x_t", to_numpy(found), x, OPERATIONS * eps * size, ROUNDING)
        slope = rate / spread
        found = made.compute_conditional_flow(given["x0"], given["x1"], given["t"], here)
        # x - mu is known to a rounding of x, and is divided by sigma_s
        bound = OPERATIONS * eps * (2 * size + np.abs(slope) * size / (s * (1 - s))[:, None])
        bound = bound + GUARD / (2 * s * (1 - s))[:, None] * np.abs(slope * (x - mu))
        yield Answer(f"sigma = {sigma}: velocity", to_numpy(found), moving + slope * (x - mu), bound, ROUNDING)


def weight(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """lambda_t = 2 sigma_t / sigma^2, the weight of the score in the bridge's loss."""
    from torchcfm import SchrodingerBridgeConditionalFlowMatcher as Bridge

    s = np.linspace(0.05, 0.95, 9)
    for sigma in (0.01, 0.1, 1.0):
        right = 2 * np.sqrt(s * (1 - s)) / sigma
        bound = right * (GUARD / sigma**2 + OPERATIONS * np.finfo(float).eps)
        yield Answer(
            f"sigma = {sigma}: lambda", to_numpy(Bridge(sigma).compute_lambda(to_torch(s))), right, bound, ROUNDING
        )


def coupling(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """The exact plan against all permutations, and Sinkhorn's against the fixed point that it must be."""
    from torchcfm.optimal_transport import OTPlanSampler, wasserstein

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 5, 2))
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    least = min(cost[np.arange(5), list(p)].sum() for p in permutations(range(5))) / 5
    plan = OTPlanSampler("exact").get_map(to_torch(x), to_torch(y))
    eps = 100 * np.finfo(float).eps
    rule = "100 roundings: of squared distances, which torch takes the root of first, and of their sum"
    yield Answer("exact: cost", (plan * cost).sum(), least, eps * cost.max(), rule)
    yield Answer("exact: marginals", np.append(plan.sum(0), plan.sum(1)), np.full(10, 0.2), eps, rule)
    yield Answer("wasserstein", wasserstein(to_torch(x), to_torch(y)), np.sqrt(least), eps * cost.max(), rule)
    sigma = 0.8
    plan = OTPlanSampler("sinkhorn", reg=2 * sigma**2).get_map(to_torch(x), to_torch(y))
    # pi = a_i b_j exp(-|x - y|^2 / (2 sigma^2)): the bridge's coupling, so that this has rank one
    logs = np.log(plan) + cost / (2 * sigma**2)
    centred = logs - logs.mean(0) - logs.mean(1, keepdims=True) + logs.mean()
    yield Answer("sinkhorn: exp(-cost / 2 sigma^2)", centred, np.zeros((5, 5)), eps * cost.max() / sigma**2, rule)
    # the library stops where the marginals are this far off
    yield Answer(
        "sinkhorn: marginals",
        np.append(plan.sum(0), plan.sum(1)),
        np.full(10, 0.2),
        1e-8,
        "its own tolerance, 1e-9, in norm",
    )


def bridge_reg(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """The regularization that a bridge of noise sigma needs."""
    from torchcfm import SchrodingerBridgeConditionalFlowMatcher as Bridge

    for sigma in (0.1, 1.0, 2.0):
        yield Answer(f"sigma = {sigma}: reg", Bridge(sigma).ot_sampler.reg, 2 * sigma**2, 1e-15 * sigma**2, "2 sigma^2")


PARTS: Mapping[str, Callable[[bool], Iterator[Answer]]] = MappingProxyType(
    {"compute_lambda": weight, "OTPlanSampler": coupling, "bridge regularization": bridge_reg}
)


def _version() -> str:
    import torchcfm

    return str(torchcfm.__version__)


def subject(kind: type, path: Path, dtype: str) -> Part:
    """A class of matchers."""
    name = kind.__name__ + (f", {dtype}" if dtype != "float64" else "")
    answers = partial(matcher, kind, path, dtype)
    script = (
        f"import torch, torchcfm\nfm = torchcfm.{kind.__name__}(sigma=0.5)\n"
        "x0, x1, t = torch.randn(3, 2), torch.randn(3, 2), torch.rand(3)\n"
        "print(fm.compute_mu_t(x0, x1, t), fm.compute_sigma_t(t), fm.compute_conditional_flow(x0, x1, t, x0))"
    )
    return Part(name, library=LIBRARY, version=_version(), protocol=LIBRARY, answers=answers, script=script)


def wrap(target: Any, request: Request) -> Subject:
    """A class of matchers; family: the class of torchcfm that it is like, its own name unless given.

    Raises:
        ValueError: there is no such class, or an option is given.
    """
    callables.settings(request, ())
    name = str(request.family or getattr(target, "__name__", ""))
    if name not in PATHS:
        raise ValueError(f"{name!r} must be one of {', '.join(PATHS)}")
    return subject(target, PATHS[name], request.dtype)


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Matchers, the weight of the score, couplings."""

    def of(name: str) -> Iterator[Subject]:
        import torchcfm

        for dtype in ("float64",) if quick else ("float64", "float32"):
            yield subject(getattr(torchcfm, name), PATHS[name], dtype)

    def part(name: str) -> Iterator[Subject]:
        yield Part(name, library=LIBRARY, version=_version(), protocol=LIBRARY, answers=PARTS[name])

    return {name: partial(of, name) for name in PATHS} | {name: partial(part, name) for name in PARTS}


PROTOCOLS = (
    Protocol(
        "torchcfm",
        "a conditional flow matcher: mu_t, sigma_t, u_t",
        wrap,
        LIBRARY,
        members,
        given=None,
        families=tuple(PATHS),
    ),
)
