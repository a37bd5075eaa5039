r"""The integrators of torchsde: sdeint(sde, y0, ts, bm, method=..., dt=...).

The reverse equation has additive noise, for which Ito and Stratonovich are the same equation. The Brownian path is
replaced by normals from outside: W, and U = int (w_r - w_0) dr = h (W / 2 + H). The library's own path is examined by
itself: its normals replaced by impulses, its increments and areas have exact covariances; and the Levy area

    A = int (w^1 dw^2 - w^2 dw^1) / 2 = H^1 W^2 - W^1 H^2 + b^12,    Var A = h^2 / 4,    Var b = h^2 / 12,
    Var(b | H) = h^2 / 20 + h / 5 (H^1^2 + H^2^2)

Sources: Roessler 2010; Kloeden and Platen 1992; Kidger et al. 2021; Davie 2014; Foster, Oberhauser, Lyons 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.findings import Finding, judged
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch, untracked
from refdiff.validation.audits.protocols.integrators.conditions import whole_steps
from refdiff.validation.audits.protocols.integrators.schemes import Build, one_step, reversible_heun
from refdiff.validation.audits.protocols.integrators.strong import strong_order
from refdiff.validation.audits.protocols.integrators.ways import REVERSING, Diffusion, Drift, Driven, driven
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Subject

# method -> (equation, what it is for additive noise, weak order, strong order)
METHODS: Mapping[str, tuple[str, Build, float, float]] = MappingProxyType(
    {
        "euler": ("ito", one_step("euler"), 1, 1.0),
        "milstein": ("ito", one_step("euler"), 1, 1.0),
        "srk": ("ito", one_step("sra1"), 2, 1.5),
        "midpoint": ("stratonovich", one_step("midpoint"), 2, 1.0),
        "heun": ("stratonovich", one_step("heun"), 2, 1.0),
        "euler_heun": ("stratonovich", one_step("euler-heun"), 1, 1.0),
        "reversible_heun": ("stratonovich", reversible_heun, 2, 1.0),
        "log_ode": ("stratonovich", one_step("midpoint"), 2, 1.0),
        "milstein, stratonovich": ("stratonovich", one_step("euler"), 1, 1.0),
    }
)
STEPS = (1, 2, 4, 8, 16)  # whose lengths add up exactly: others take a step of length zero, see `zero_steps`


def integrate(
    method: str, drift: Drift, diffusion: Diffusion, x: Array, clock: Array, normal: Callable[[], Array]
) -> Array:
    """sdeint over the clock's equal steps, the state at the end."""
    import torch
    import torchsde

    kind = METHODS[method][0]
    last: list[tuple[Any, Any, Any]] = []

    class Equation(torch.nn.Module):  # type: ignore[misc]
        noise_type, sde_type = "additive", kind

        def f(self, t: Any, y: Any) -> Any:
            if looking[0]:
                return torch.zeros_like(y)
            # srk asks twice about the very tensor that it has
            for state, time, answer in last:
                if state is y and time == t:
                    return answer
            answer = to_torch(drift(float(t), to_numpy(y)).astype(clock.dtype), like=y)
            last[:] = [*last[-3:], (y, t, answer)]
            return answer

        def g(self, t: Any, y: Any) -> Any:
            return torch.full((*y.shape, 1), diffusion(float(t)), dtype=y.dtype)

    start = to_torch(x)
    arguments = {"method": method.split(",")[0], "dt": float(clock[1] - clock[0])}
    with untracked(), _looked_at() as looking:
        ends = to_torch(clock[[0, -1]])
        found = torchsde.sdeint(Equation(), start, ends, bm=_path(start, normal), **arguments)
    return to_numpy(found[-1])


@contextmanager
def _looked_at() -> Iterator[list[bool]]:
    """Holds True while sdeint asks for a drift to see its shape, before it begins: that is no call of the sampler."""
    from torchsde._core import sdeint as inner

    looking, check = [False], inner.check_contract

    def checked(*given: Any, **named: Any) -> Any:
        looking[0] = True
        try:
            return check(*given, **named)
        finally:
            looking[0] = False

    with patch.object(inner, "check_contract", checked):
        yield looking


def _path(like: Any, normal: Callable[[], Array]) -> Any:
    """A Brownian path whose increments over the steps, one after the other, are the normals."""
    import torch
    from torchsde import BaseBrownian

    class Path(BaseBrownian):  # type: ignore[misc]
        dtype, device, shape = like.dtype, like.device, like.shape
        levy_area_approximation = "foster"

        def __repr__(self) -> str:
            return "a path from outside"

        def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
            h = float(tb) - float(ta)
            increment = np.sqrt(h) * normal()
            found = [increment]
            if return_U:
                found.append(h * (increment / 2 + np.sqrt(h / 12) * normal()))
            tensors = [to_torch(part, like=like) for part in found]
            if return_A:
                tensors.append(torch.zeros((*like.shape, 1), dtype=like.dtype))
            return tensors[0] if len(tensors) == 1 else tuple(tensors)

    return Path()


def sampler(method: str, dtype: str, steps: int) -> Driven:
    """sdeint with a method."""
    kind, build, weak, strong = METHODS[method]
    name = method.split(",")[0]
    script = (
        "import torch, torchsde\n"
        f"class SDE:\n    noise_type, sde_type = 'additive', {kind!r}\n"
        "    def f(self, t, y): return -y\n    def g(self, t, y): return torch.ones(*y.shape, 1)\n"
        f"torchsde.sdeint(SDE(), torch.ones(1, 1), torch.tensor([0.0, 1.0]), dt={1 / steps}, method={name!r})"
    )
    return driven(
        f"sdeint(method={name!r}, {kind})",
        partial(integrate, method),
        REVERSING,
        REVERSING.clock(steps, dtype),
        build,
        order=weak,
        strong=strong,
        source="Roessler 2010" if name == "srk" else "Kloeden and Platen 1992",
        script=script,
    )


def subject(method: str, dtype: str = "float64") -> Subject:
    """A method for additive noise."""
    import torchsde

    kind = METHODS[method][0]
    name = f"sdeint(method={method.split(',')[0]!r}, {kind})" + (f", {dtype}" if dtype != "float64" else "")
    version = getattr(torchsde, "__version__", "")
    options = (("method", method),)
    return Subject(name, partial(sampler, method, dtype), "torchsde", version, "torchsde", STEPS, options)


def wrap(target: Any, request: Request) -> Subject:
    """sdeint with the method of the request.

    Raises:
        ValueError: it is not the library's own, or an option or a value of one is unknown.
    """
    import torchsde

    if target is not torchsde.sdeint:
        raise ValueError("it must be torchsde.sdeint itself; a solver of your own goes by the protocol velocity")
    method = str(callables.settings(request, ("method",)).get("method", "euler"))
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return subject(method, request.dtype)


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Every method of sdeint, for additive noise."""

    def of(method: str) -> Iterator[Subject]:
        yield subject(method)
        if not quick:
            yield subject(method, "float32")

    return {method: partial(of, method) for method in METHODS}


# ---------------------------------------------------------------------- the Brownian path, examined once


def path(subject: Subject, quick: bool) -> Iterator[Finding]:
    """The law of BrownianInterval, exactly where it is linear in its normals, and its Levy areas."""
    if subject.name != "sdeint(method='srk', ito)":
        return
    yield from increments(subject.name)
    for kind in ("davie", "foster"):
        yield levy_area(subject.name, kind, 20_000 if quick else 200_000)


def weights(queries: list[tuple[float, float]], areas: bool) -> Array:
    """Weights of the path's normals in W, and U, of each query in turn."""
    import torch
    from torchsde._brownian import brownian_interval as inner

    seeds: dict[Any, int] = {}

    def normal(size: Any, dtype: Any, device: Any, seed: Any) -> Any:  # noqa: ARG001
        place = seeds.setdefault(seed, len(seeds))
        found = torch.zeros(size, dtype=dtype)
        found[place] = 1.0
        return found

    with patch.object(inner, "_randn", normal):
        kind = "space-time" if areas else "none"
        made = inner.BrownianInterval(
            0.0, 1.0, size=(64, 1), dtype=torch.float64, levy_area_approximation=kind, entropy=0
        )
        found = [made(a, b, return_U=areas) for a, b in queries]
    parts = [part for one in found for part in (one if areas else (one,))]
    return np.array([to_numpy(part)[:, 0] for part in parts])


QUERIES = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.6), (0.1, 0.7), (0.0, 1.0), (0.6, 0.75), (0.3, 0.35))


def increments(name: str) -> Iterator[Finding]:
    """Cov of int 1_[a,b] dw and int (b - r) 1_[a,b] dw over all pairs of queries."""
    for areas in (False, True):
        found = weights(list(QUERIES), areas)
        covariance = found @ found.T
        right = np.array([[_covariance(p, q) for q in _kernels(areas)] for p in _kernels(areas)])
        gap = float(np.abs(covariance - right).max())
        yield judged(
            name,
            "Brownian path",
            gap,
            16 * len(QUERIES) * np.finfo(float).eps,
            f"covariances of W{' and U' if areas else ''} over {len(QUERIES)} intervals, worst difference {gap:.2g}",
            rule="16 roundings for each interval, of variances of at most 1",
            place="W and U" if areas else "W",
        )


def _kernels(areas: bool) -> list[tuple[float, float, int]]:
    return [(a, b, power) for a, b in QUERIES for power in ((0, 1) if areas else (0,))]


def _covariance(p: tuple[float, float, int], q: tuple[float, float, int]) -> float:
    """int over both intervals of (b - r)^m (d - r)^n dr."""
    (a, b, m), (c, d, n) = p, q
    low, high = max(a, c), min(b, d)
    if high <= low:
        return 0.0
    nodes, w = np.polynomial.legendre.leggauss(3)
    r = low + (high - low) * (nodes + 1) / 2
    return float((high - low) / 2 * w @ ((b - r) ** m * (d - r) ** n))


def levy_area(name: str, kind: str, draws: int) -> Finding:
    """Var of the Levy area over a unit interval: 1/4, and 1/20 where W = H = 0 (Foster) or 1/12 (Davie, without H)."""
    import torch
    from torchsde import BrownianInterval

    shape = (draws, 2)
    none = torch.zeros(shape, dtype=torch.float64)
    made = BrownianInterval(0.0, 1.0, size=shape, dtype=torch.float64, levy_area_approximation=kind, entropy=7,
                            W=none, H=none)  # fmt: skip
    area = to_numpy(made(0.0, 1.0, return_A=True)[1])[:, 0, 1]
    found, right = float(np.mean(area**2)), {"davie": 1 / 12, "foster": 1 / 20}[kind]
    # the mean of n squares of a normal of variance v has the standard deviation v sqrt(2 / n)
    bound = 6 * right * np.sqrt(2 / draws)
    free = BrownianInterval(0.0, 1.0, size=shape, dtype=torch.float64, levy_area_approximation=kind, entropy=8)
    total = float(np.mean(to_numpy(free(0.0, 1.0, return_A=True)[1])[:, 0, 1] ** 2))
    text = (
        f"{kind}: given W = H = 0 the Levy area has variance {found:.4f} h^2, should be {right:.4f} h^2; "
        f"without conditions {total:.4f} h^2, should be 0.2500 h^2"
    )
    script = (
        "import torch\nfrom torchsde import BrownianInterval\n"
        "none = torch.zeros(1000000, 2)\n"
        f"bm = BrownianInterval(0.0, 1.0, size=(1000000, 2), levy_area_approximation={kind!r})\n"
        "print((bm(0.0, 1.0, return_A=True)[1][:, 0, 1] ** 2).mean())  # should be 1 / 4\n"
        f"bm = BrownianInterval(0.0, 1.0, size=(1000000, 2), levy_area_approximation={kind!r}, W=none, H=none)\n"
        f"print((bm(0.0, 1.0, return_A=True)[1][:, 0, 1] ** 2).mean())  # should be 1 / {round(1 / right)}"
    )
    rule = "6 standard deviations of a variance from so many draws: a false alarm in 5e8 runs"
    return judged(name, "Levy area", abs(found - right), bound, text, rule=rule, place=kind, script=script)


def zero_steps(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Whether dt = 1 / n gives n steps."""
    if subject.name != "sdeint(method='euler', ito)":
        return

    def run(n: int, dtype: str, drift: Drift) -> Array:
        clock = np.linspace(0, 1, n + 1).astype(dtype)
        clock[1] = 1 / n
        return integrate("euler", drift, lambda _: 1.0, np.zeros((1, 1), dtype), clock, lambda: np.zeros((1, 1)))

    def script(n: int, dtype: str) -> str:
        return (
            "import torch, torchsde\nasked = []\n"
            "class SDE:\n    noise_type, sde_type = 'additive', 'ito'\n"
            "    def f(self, t, y): return asked.append(t) or -y\n"
            f"    def g(self, t, y): return torch.ones(*y.shape, 1, dtype=torch.{dtype})\n"
            f"one, ends = torch.ones(1, 1, dtype=torch.{dtype}), torch.tensor([0, 1], dtype=torch.{dtype})\n"
            f"torchsde.sdeint(SDE(), one, ends, dt=1 / {n}, method='euler')\n"
            "print(len(asked) - 1)  # the first call is for the shape"
        )

    yield from whole_steps(subject.name, "dt", range(1, 31 if quick else 61), run, script)


PROTOCOLS = (
    Protocol(
        "torchsde",
        "sdeint(sde, y0, ts, bm, method=..., dt=...)",
        wrap,
        "torchsde",
        members,
        checks=(strong_order, path, zero_steps),
        options=("method",),
        given=None,
    ),
)
