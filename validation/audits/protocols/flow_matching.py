r"""The package flow_matching: its ODE solvers, its schedulers, its affine paths and what is made of them.

Its time s runs from noise, s = 0, to data, s = 1:

    X_s = alpha_s X_1 + sigma_s X_0,    velocity dX/ds = alpha' X_1 + sigma' X_0,    snr = alpha / sigma

On the Euclidean space the Riemannian solver is a Runge-Kutta method like any other. Discrete flows are jump processes,
of which there is no table. Sources: Lipman et al. 2023, 2024.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching, Schedule, VPCosine, VPLinear
from refdiff.validation.audits.checks.parts import Answer, Part
from refdiff.validation.audits.checks.schedules import ScheduleSubject
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.drift import FLOWING, Diffusion, Drift, Driven, Way, asked_times, driven
from refdiff.validation.audits.protocols.integrators import adams, one_step
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Subject

LIBRARY, EPS, OPERATIONS = "flow_matching", float(np.finfo(float).eps), 16
SOLVERS: Mapping[str, Mapping[str, tuple[str, float]]] = MappingProxyType(
    {
        "ODESolver": {
            "euler": ("euler", 1),
            "midpoint": ("midpoint", 2),
            "heun2": ("heun", 2),
            "heun3": ("heun3", 3),
            "rk4": ("rk38", 4),
            "explicit_adams": ("adams", 4),
        },
        "RiemannianODESolver": {"euler": ("euler", 1), "midpoint": ("midpoint", 2), "rk4": ("rk38", 4)},
    }
)
LATE = Way(FlowMatching(), 0.5, 0.0)  # from the middle of the path on
ROUNDING = "16 roundings in each term"


# ---------------------------------------------------------------------- solvers


def integrate(
    kind: str,
    method: str,
    by_size: bool,
    start: float,
    drift: Drift,
    diffusion: Diffusion,  # noqa: ARG001
    x: Array,
    clock: Array,
    normal: Callable[[], Array],  # noqa: ARG001
) -> Array:
    """solver.sample from s = start over the clock, by its times or by the size of its steps."""
    import torch
    from flow_matching import solver as solvers
    from flow_matching.utils.manifolds import Euclidean

    def velocity(x: Any, t: Any) -> Any:
        return to_torch(drift(float(t) - start, to_numpy(x)).astype(clock.dtype), like=x)

    solver = solvers.ODESolver(velocity) if kind == "ODESolver" else solvers.RiemannianODESolver(Euclidean(), velocity)
    times = to_torch((start + clock).astype(clock.dtype))
    size = float(clock[1] - clock[0]) if by_size else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        found = solver.sample(
            x_init=to_torch(x), step_size=size, method=method, time_grid=times[[0, -1]] if by_size else times
        )
    return to_numpy(found)


def sampler(kind: str, method: str, by_size: bool, late: bool, dtype: str, steps: int) -> Driven:
    """A solver with a method."""
    known, order = SOLVERS[kind][method]
    way = LATE if late else FLOWING
    clock = way.clock(steps, dtype)
    start = 1 - way.start
    said = f"step_size={float(clock[1]):g}, time_grid=torch.tensor([{start}, 1.0])"
    first = "Euclidean(), velocity" if kind == "RiemannianODESolver" else "velocity"
    script = (
        f"import torch\nfrom flow_matching.solver import {kind}\nfrom flow_matching.utils.manifolds import Euclidean\n"
        "asked = []\ndef velocity(x, t):\n    asked.append(float(t))\n    return torch.zeros_like(x)\n"
        f"{kind}({first}).sample(torch.ones(1, 1), method={method!r}, "
        + (said if by_size else f"step_size=None, time_grid=torch.linspace({start}, 1, {steps + 1})")
        + f")\nprint(asked)  # {steps} steps from {start} to 1"
    )
    found = driven(
        _name(kind, method, by_size, late, dtype),
        partial(integrate, kind, method, by_size, start),
        way,
        clock,
        adams(12, implicit=False) if known == "adams" else one_step(known),
        order=None if known == "adams" else order,
        source="Lipman et al. 2024; Hairer, Norsett, Wanner 1993",
        script=script,
    )
    # the Riemannian solver makes the times of steps by size in float32, whatever the points are
    return replace(found, dtype=np.dtype(np.float32)) if by_size and kind == "RiemannianODESolver" else found


def _name(kind: str, method: str, by_size: bool, late: bool, dtype: str) -> str:
    said = (", step_size" if by_size else "") + (", from s=0.5" if late else "")
    return f"{kind}(method={method!r}{said}{f', {dtype}' if dtype != 'float64' else ''})"


def subject(kind: str, method: str, by_size: bool = False, late: bool = False, dtype: str = "float64") -> Subject:
    """A solver with a method; steps by size are powers of two, whose lengths add up exactly."""
    steps = (2, 4, 8, 16) if by_size or late else (1, 2, 5, 10)
    name = _name(kind, method, by_size, late, dtype)
    build = partial(sampler, kind, method, by_size, late, dtype)
    return Subject(name, build, LIBRARY, _version(), LIBRARY, steps, (("method", method),))


def _version() -> str:
    from importlib.metadata import version

    return version(LIBRARY)


# ---------------------------------------------------------------------- schedulers


def _schedulers() -> Mapping[str, tuple[Callable[[], Any], Schedule | None]]:
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
    make, process = _schedulers()[name]
    made, kind = make(), np.dtype(dtype)

    def part(which: str, sign: float = 1.0) -> Callable[[Array], Array]:
        return lambda t: sign * to_numpy(getattr(made(to_torch((1 - t).astype(kind))), which)).astype(float)

    def inverse(lam: Array) -> Array:
        return 1 - to_numpy(made.snr_inverse(to_torch(np.exp(lam).astype(kind)))).astype(float)

    said = f"{name}(){f', {dtype}' if dtype != 'float64' else ''}"
    if process is None:
        return Part(said, library=LIBRARY, version=_version(), protocol=LIBRARY, answers=partial(_closed, name, made))
    return ScheduleSubject(
        said,
        library=LIBRARY,
        version=_version(),
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


def ends(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """snr_inverse at both ends, and a velocity changed to another scheduler there."""
    import torch

    for name, (make, _) in _schedulers().items():
        for snr, s in ((0.0, 0.0), (np.inf, 1.0)):
            if name == "VPScheduler" and s == 0:
                continue  # alpha > 0 at its noisy end
            found = to_numpy(make().snr_inverse(torch.tensor([snr], dtype=torch.float64)))
            yield Answer(f"{name}().snr_inverse({snr})", found, [s], OPERATIONS * EPS, ROUNDING)


def transformed(quick: bool) -> Iterator[Answer]:
    """ScheduleTransformedModel on Gaussian data, where the velocity of every schedule is known."""
    import torch
    from flow_matching.path.scheduler import ScheduleTransformedModel

    law, x = Gaussian([0.7], [[0.3]]), np.array([[-1.0], [0.4], [2.0]])
    known = {name: (make(), p) for name, (make, p) in _schedulers().items() if p is not None}
    for first, (old, p) in known.items():
        for second, (new, q) in known.items():
            before, after = ExactModel(law, p), ExactModel(law, q)

            def velocity(x: Any, t: Any, before: ExactModel = before) -> Any:
                if not bool(torch.isfinite(x).all() and torch.isfinite(t).all()):
                    return torch.full_like(x, torch.nan)
                return to_torch(-np.asarray(before.velocity(to_numpy(x), 1 - float(t))))

            model = ScheduleTransformedModel(velocity, old, new)
            for s in (0.5, 1.0) if quick else (0.2, 0.5, 0.8, 1.0):
                with torch.no_grad():
                    found = to_numpy(model(x=to_torch(x), t=torch.tensor(s, dtype=torch.float64)))
                yield _changed(f"{first} to {second}, s = {s}", found, x, before, after, s)


def _changed(place: str, found: Array, x: Array, before: ExactModel, after: ExactModel, s: float) -> Answer:
    """Beside the exact velocity, within what roundings of t, s and x / s do to each of its two terms."""
    right = -np.asarray(after.velocity(x, 1 - s))
    if not np.isfinite(right).all() or s == 1.0:
        # all is 0 / 0 there: whether it is a number, and of the size of the limit
        return Answer(place, found, right, 1 + np.abs(right).max(), "a limit that exists, to its size")
    c = after.process.coefficients(1 - s)
    t = float(before.process.schedules[0].time_of_log_snr(c.log_snr))
    b = before.process.coefficients(t)
    scale, rate = c.sigma / b.sigma, (c.g2 / c.sigma**2) / (b.g2 / b.sigma**2)
    inner = x / scale
    old = np.abs(before.velocity(inner, t)) + np.abs(before.velocity_rate(inner, t)) / b.sigma**2
    old = old + np.abs(np.squeeze(before.velocity_jacobian(inner, t), -1) * inner)
    terms = scale * rate * old + np.abs(x) * (np.abs(c.dsigma / c.sigma) + np.abs(rate * b.dsigma / b.sigma))
    return Answer(place, found, right, OPERATIONS * EPS * terms / b.sigma**2 / c.sigma**2,
                  "16 roundings in each term and in t, over sigma^2, which may cancel")  # fmt: skip


# ---------------------------------------------------------------------- paths


def conversions(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """AffineProbPath: the sample, its velocity, and the six conversions between velocity, target and noise."""
    import torch
    from flow_matching.path import AffineProbPath

    rng = np.random.default_rng(0)
    x0, x1 = rng.standard_normal((2, 9, 1))
    s = np.linspace(0.1, 0.9, 9)
    for name, (make, _) in _schedulers().items():
        path = AffineProbPath(make())
        c = path.scheduler(to_torch(s))
        a, b, da, db = (to_numpy(part)[:, None] for part in (c.alpha_t, c.sigma_t, c.d_alpha_t, c.d_sigma_t))
        sample = path.sample(x_0=to_torch(x0), x_1=to_torch(x1), t=to_torch(s))
        sizes = np.abs(a * x1) + np.abs(b * x0), np.abs(da * x1) + np.abs(db * x0)
        given = {"target": x1, "epsilon": x0, "velocity": da * x1 + db * x0}
        right = {"x_t": a * x1 + b * x0, "dx_t": given["velocity"]}
        for which, size in zip(right, sizes, strict=True):
            yield Answer(
                f"{name}: {which}", to_numpy(getattr(sample, which)), right[which], OPERATIONS * EPS * size, ROUNDING
            )
        turn, t = np.abs(da * b - db * a), torch.tensor(s, dtype=torch.float64)[:, None]
        # a conversion divides by alpha, by sigma or by their Wronskian
        worst = (
            OPERATIONS
            * EPS
            * (sizes[0] + sizes[1])
            * (1 + (np.abs(da) + np.abs(db)) ** 2)
            / (a * b * np.minimum(turn, 1))
        )
        for before in given:
            for after in given:
                if before != after:
                    call = getattr(path, f"{before}_to_{after}")
                    word = {"target": "x_1"}.get(before, before)
                    found = call(**{word: to_torch(given[before])}, x_t=to_torch(right["x_t"]), t=t)
                    yield Answer(f"{name}: {before}_to_{after}", to_numpy(found), given[after], worst,
                                 "16 roundings of all terms, over what is divided by")  # fmt: skip


def likelihood(quick: bool) -> Iterator[Answer]:  # noqa: ARG001
    """compute_likelihood on Gaussian data: the change of log p is the method's own quadrature of the divergence."""
    import torch
    from flow_matching.solver import ODESolver

    variance, steps = 0.3, 8

    def slope(s: Any) -> Any:
        return (s * variance - (1 - s)) / (s**2 * variance + (1 - s) ** 2)

    def velocity(x: Any, t: Any) -> Any:
        return slope(t) * x

    times = np.linspace(1, 0, steps + 1)
    x = torch.tensor([[0.3, -0.2], [1.0, 0.7]], dtype=torch.float64)
    found, log_p = ODESolver(velocity).compute_likelihood(
        x, lambda y: -(y**2).sum(1) / 2, None, "rk4", time_grid=to_torch(times), exact_divergence=True
    )
    change = to_numpy(log_p).astype(float) + (to_numpy(found) ** 2).sum(1) / 2
    h = 1 / steps
    rule = [(0, 1), (1 / 3, 3), (2 / 3, 3), (1, 1)]  # the 3/8 rule
    right = -sum(h / 8 * w * 2 * slope(t - part * h) for t in times[:-1] for part, w in rule)
    yield Answer(
        "change of log p", change, np.full(2, right), OPERATIONS * steps * EPS * 10, "16 roundings in each step"
    )


PARTS: Mapping[str, Callable[[bool], Iterator[Answer]]] = MappingProxyType(
    {
        "AffineProbPath": conversions,
        "ScheduleTransformedModel": transformed,
        "snr_inverse": ends,
        "compute_likelihood": likelihood,
    }
)


def wrap(target: Any, request: Request) -> Subject:
    """A solver class; options method, step_size (any value: steps by their size) and late (from s = 0.5)."""
    from flow_matching import solver

    kind, options = getattr(target, "__name__", str(target)), dict(request.options)
    if target is not getattr(solver, kind, None):
        raise ValueError(f"{kind} must be flow_matching's own; a solver of yours goes by --protocol flow-matching")
    if kind not in SOLVERS:
        raise ValueError(f"{kind} must be one of {', '.join(SOLVERS)}: discrete flows are jump processes, not tables")
    method = options.pop("method", "euler")
    if method not in SOLVERS[kind]:
        raise ValueError(f"method must be one of {', '.join(SOLVERS[kind])}, got {method!r}")
    return subject(kind, method, "step_size" in options, bool(options.get("late")), request.dtype)


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Solvers by method, schedulers, paths."""

    def solver(kind: str) -> Iterator[Subject]:
        for method in SOLVERS[kind]:
            yield subject(kind, method)
            yield subject(kind, method, by_size=True)
            if not quick:
                yield subject(kind, method, dtype="float32")
                yield subject(kind, method, late=True)
        yield subject(kind, "midpoint", by_size=True, late=True)

    def schedule(name: str) -> Iterator[Subject]:
        yield scheduler(name, "float64")
        if not quick and _schedulers()[name][1] is not None:
            yield scheduler(name, "float32")

    def part(name: str) -> Iterator[Subject]:
        yield Part(name, library=LIBRARY, version=_version(), protocol=LIBRARY, answers=PARTS[name])

    found: dict[str, Callable[[], Iterator[Subject]]] = {kind: partial(solver, kind) for kind in SOLVERS}
    found |= {name: partial(schedule, name) for name in _schedulers()}
    return found | {name: partial(part, name) for name in PARTS}


PROTOCOLS = (
    Protocol(
        "flow_matching",
        "ODESolver(velocity).sample(x_init, ...)",
        wrap,
        LIBRARY,
        members,
        checks=(asked_times,),
        options=("method", "step_size", "late"),
    ),
)
