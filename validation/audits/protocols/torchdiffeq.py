r"""The integrators of torchdiffeq: odeint(func, y0, t, method=...), also those of flow_matching.

Fixed-grid methods take the times as their grid. Adaptive ones are held to a grid by a tolerance that accepts every
step and a first and largest step of the grid's; their coefficients are read so, their control by `tolerance`. What
they say between two steps is an interpolant, of its own order (`dense`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.samplers.impulse import NotLinear
from refdiff.samplers.order import reference_flow
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.runge_kutta import Method, density, nodes, rooted_trees
from refdiff.samplers.runge_kutta import combined as weighted
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.findings import Finding, Verdict, judged
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols.arrays import to_numpy, to_torch
from refdiff.validation.audits.protocols.drift import FLOWING, Diffusion, Drift, Driven, asked_times, driven
from refdiff.validation.audits.protocols.integrators import Build, adams, combined, one_step
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.steps import Mismatch, compare
from refdiff.validation.audits.subject import Subject

# method -> (what it is, its order)
FIXED: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "euler": ("euler", 1),
        "midpoint": ("midpoint", 2),
        "heun2": ("heun", 2),
        "heun3": ("heun3", 3),
        "rk4": ("rk38", 4),
    }
)
ADAPTIVE: Mapping[str, float] = MappingProxyType(
    {"dopri8": 8, "dopri5": 5, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}
)
ADAMS = ("explicit_adams", "implicit_adams")
ANY = 1e30  # a tolerance that accepts every step and every iteration
SOURCE = "Hairer, Norsett, Wanner 1993"


def integrate(
    method: str, options: Mapping[str, Any], drift: Drift, x: Array, clock: Array, tolerance: float | None = None
) -> Array:
    """odeint over the clock, the state at its last time."""
    import torch
    from torchdiffeq import odeint

    def func(t: Any, y: Any) -> Any:
        return to_torch(drift(float(t), to_numpy(y)).astype(clock.dtype), like=y)

    loose = {} if tolerance is None else {"rtol": tolerance, "atol": tolerance}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of iterations that are stopped after the first, as wanted
        found = odeint(func, to_torch(x), to_torch(clock), method=method, options=dict(options), **loose)
    return to_numpy(found[-1])


def _held(
    method: str,
    drift: Drift,
    diffusion: Diffusion,  # noqa: ARG001
    x: Array,
    clock: Array,
    normal: Callable[[], Array],  # noqa: ARG001
) -> Array:
    """An adaptive method whose every step is one of the clock's."""
    h = float(clock[1] - clock[0])
    return integrate(method, {"first_step": h, "max_step": h}, drift, x, clock[[0, -1]], ANY)


def _fixed(
    method: str,
    options: Mapping[str, Any],
    drift: Drift,
    diffusion: Diffusion,  # noqa: ARG001
    x: Array,
    clock: Array,
    normal: Callable[[], Array],  # noqa: ARG001
) -> Array:
    return integrate(method, options, drift, x, clock, ANY if method == "implicit_adams" else None)


def tableau(method: str) -> tuple[Array, Array, Array, Array]:
    """A, b, the embedded b and the weights in the middle of a step, as the library has them."""
    from torchdiffeq._impl.odeint import SOLVERS

    kind = SOLVERS[method]
    size = len(kind.tableau.c_sol)
    A = np.zeros((size, size))
    for i, row in enumerate(kind.tableau.beta):
        A[i + 1, : i + 1] = to_numpy(row)
    b = to_numpy(kind.tableau.c_sol)
    return A, b, b - to_numpy(kind.tableau.c_error), to_numpy(kind.mid)


def held_build(method: str) -> Build:
    """What an adaptive method is when its steps are given."""
    named = {"dopri5": "dormand-prince", "bosh3": "bogacki-shampine", "fehlberg2": "fehlberg2", "adaptive_heun": "heun"}
    if method in named:
        return one_step(named[method])
    A, b, *_ = tableau(method)  # of order 8 by its conditions: the numbers are examined by themselves
    return one_step(combined(Method(A[:-1, :-1], b[:-1]), again=True))


def stale(method: str) -> Build:
    """The method with the last slope of a step as the first one of the next, whatever point that slope was at."""
    A, b, *_ = tableau(method)

    def build(process: Schedule, times: ArrayLike, noise: float = 0.0) -> Tableau:  # noqa: ARG001
        rec = Recorder("stale slopes", process, times, "velocity")
        x = rec.start
        first = rec.evaluate(x, rec.points[0])
        for s, t in rec.steps:
            h, slopes = s.t - t.t, [first]
            for row in A[1:]:
                point = rec.at(s.t - float(row.sum()) * h) if row.sum() < 1 else t
                slopes.append(rec.evaluate(x - h * weighted(row.tolist(), slopes), point))
            x = rec.keep(x - h * weighted(b.tolist(), slopes), t)
            first = slopes[-1]
        return rec.finish(x)

    return build


def _name(method: str, options: Mapping[str, Any]) -> str:
    said = "".join(f", {k}={v!r}" for k, v in options.items())
    return f"odeint(method={method!r}{said})"


def sampler(method: str, options: Mapping[str, Any], dtype: str, warped: bool, steps: int) -> Driven:
    """odeint with a method, over equal steps, or over steps that grow."""
    clock = FLOWING.clock(steps, dtype)
    if warped:
        clock = (clock * (1 + clock) / 2).astype(dtype)
    name = _name(method, options) + (", unequal steps" if warped else "")
    script = (
        "import torch\nfrom torchdiffeq import odeint\n"
        f"odeint(func, x, torch.tensor({np.round(clock, 6).tolist()}), method={method!r}, options={dict(options)})"
    )
    if method in FIXED:
        known, order = FIXED[method]
        run = partial(_fixed, method, options)
        return driven(name, run, FLOWING, clock, one_step(known), order=order, source=SOURCE, script=script)
    if method in ADAPTIVE:
        run = partial(_held, method)
        return driven(
            name, run, FLOWING, clock, held_build(method), order=ADAPTIVE[method], source=SOURCE, script=script
        )
    limit, implicit = int(options.get("max_order", 12)), method != "explicit_adams"
    return driven(
        name,
        partial(_fixed, method, options),
        FLOWING,
        clock,
        adams(limit, implicit=implicit),
        # two steps of order 4 and one of order 3 or 4 begin; beyond order 6 the region of stability is tiny
        order=None if limit > 6 else min(limit, 5) if implicit else min(limit - 1, 4),
        conventions=() if implicit else ("max_order counts the slope at the end too: the order is max_order - 1",),
        source=SOURCE,
        script=script,
        variants=(
            (
                "has the weights of equal steps on steps that are not",
                adams(limit, implicit=implicit, equal=True),
                Verdict.WRONG,
            ),
        ),
    )  # fmt: skip


def subject(method: str, options: Mapping[str, Any], dtype: str = "float64", warped: bool = False) -> Subject:
    """A method with its options."""
    import torchdiffeq

    name = _name(method, options) + (", unequal steps" if warped else "") + (f", {dtype}" if dtype != "float64" else "")
    return Subject(
        name,
        partial(sampler, method, options, dtype, warped),
        "torchdiffeq",
        torchdiffeq.__version__,
        "torchdiffeq",
        (1, 2, 4, 8) if method in ADAPTIVE else (1, 3, 8, 16) if warped or method in ADAMS else (1, 2, 5, 10),
        (("method", method), *options.items()),
    )


def wrap(target: Any, request: Request) -> Subject:
    """odeint with the method and options of the request."""
    import torchdiffeq

    if target is not torchdiffeq.odeint:
        raise ValueError("it must be torchdiffeq.odeint itself; a solver of your own goes by --protocol flow-matching")
    options = dict(request.options)
    method = options.pop("method", "dopri5")
    if method not in (*FIXED, *ADAPTIVE, *ADAMS):
        raise ValueError(f"method must be one of {', '.join((*FIXED, *ADAPTIVE, *ADAMS))}, got {method!r}")
    return subject(method, options, request.dtype)


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Every method of odeint."""

    def of(method: str) -> Iterator[Subject]:
        yield subject(method, {})
        if quick:
            return
        yield subject(method, {}, "float32")
        if method in FIXED or method in ADAMS:
            yield subject(method, {}, warped=True)
        for limit in (4, 6) if method in ADAMS else ():
            yield subject(method, {"max_order": limit})

    return {method: partial(of, method) for method in (*FIXED, *ADAMS, *ADAPTIVE)}


# ---------------------------------------------------------------------- what only this library has


def defects(A: Array, weights: Array, order: int, part: float = 1.0) -> list[tuple[float, float]]:
    """(worst defect, its rounding) of the conditions of orders 1, 2, ...

    For every tree of n nodes, weights . Phi(tree) = part^n / gamma(tree).
    """

    def phi(tree: Any, M: Array) -> Array:
        return np.asarray(np.prod([np.ones(len(M)), *(M @ phi(branch, M) for branch in tree)], axis=0))

    found = []
    for size in range(1, order + 1):
        gaps = [abs(weights @ phi(tree, A) - part ** nodes(tree) / density(tree)) for tree in rooted_trees(size)]
        sizes = [float(np.abs(weights) @ phi(tree, np.abs(A))) for tree in rooted_trees(size)]
        rounding = 16 * size * np.finfo(float).eps
        found.append((float(max(gaps)), float(rounding * max(max(sizes), 1.0))))
    return found


def conditions(name: str, A: Array, b: Array, order: int, script: str = "") -> Finding:
    """Whether a method has its order, by algebra."""
    worst, bound = max(defects(A, b, order), key=lambda pair: pair[0] / pair[1])
    text = f"conditions of all trees up to order {order}: worst defect {worst:.2g}"
    rule = "16 roundings for each node of a tree, in the sum of the terms' sizes"
    return judged(name, "order conditions", worst, bound, text, rule=rule, place=f"order {order}", script=script)


def adaptive(subject: Subject, quick: bool) -> Iterator[Finding]:
    """An embedded pair: its conditions, its interpolant, and the error that falls with the tolerance."""
    method = str(dict(subject.options).get("method", ""))
    if method not in ADAPTIVE or subject.name != _name(method, {}):
        return
    A, b, embedded, middle = tableau(method)
    order = int(ADAPTIVE[method])
    yield conditions(subject.name, A, b, order)
    lower = [worst <= bound for worst, bound in defects(A, embedded, order - 1)]
    yield judged(subject.name, "embedded order", float(order - 1 - sum(lower)), 0.0,
                 f"the embedded weights have order {sum(lower)}", rule="one less than the method's")  # fmt: skip
    if not np.array_equal(A[-1], b):
        yield reused(subject, method)
    yield dense(subject.name, method, A, middle, order)
    yield from tolerance(subject, method, quick)


def reused(subject: Subject, method: str) -> Finding:
    """Whether the slope that a step begins with is the one at its own start, in a pair that does not end with it."""
    held = subject.build(2)
    claim = replace(held.claim, build=lambda grid: stale(method)(FLOW, grid, 0.0)) if held.claim else None
    try:
        same = not compare(held, claim).wrong
    except (Mismatch, NotLinear):
        same = False
    said = (
        "the last slope of a step, k_s = f(t + h, y + h sum a_sj k_j), is the first of the next, whose state is "
        "y + h sum b_j k_j: another point"
    )
    script = (
        "import torch\nfrom torchdiffeq import odeint\nasked = []\n"
        "def f(t, y):\n    asked.append((float(t), float(y)))\n    return -y\n"
        f"odeint(f, torch.ones(1), torch.tensor([0.0, 1.0]), method={method!r}, rtol=1e30, atol=1e30,\n"
        "       options=dict(first_step=0.5, max_step=0.5))\n"
        "print(asked)  # no state is asked about at the start of the second step"
    )
    if same:
        return Finding(subject.name, "first slope", Verdict.WRONG, said, place="step 1", script=script)
    return Finding(subject.name, "first slope", Verdict.OK, "every step begins with the slope at its start")


def dense(name: str, method: str, A: Array, middle: Array, order: int) -> Finding:
    """The order of what is said in the middle of a step.

    The interpolant is the quartic through both ends, their slopes and y_0 + h sum mid_j k_j in the middle: no better
    than order 4, and there as good as the conditions of part 1/2. An output between two steps has the method's global
    order min(p, 4) where the middle's order is min(p, 4) - 1 or more: one step's error h^p beside n steps' h^p.
    """
    met = [worst <= bound for worst, bound in defects(A, middle, 4, 0.5)]
    have = met.index(False) if False in met else 4
    least = min(order, 4) - 1
    worst = defects(A, middle, 2, 0.5)[1][0]
    text = (
        f"an output in the middle of a step has order {have}, its error is h^{have + 1}"
        + (f": y_0 + h/2 k_2 is off by {worst:.4g} h^2 y''" if have < 2 else "")
        + f"; the method's order {order} needs {least}"
    )
    script = (
        "import torch, math\nfrom torchdiffeq import odeint\n"
        "t = torch.linspace(0, 10, 401, dtype=torch.float64)\n"
        "y = odeint(lambda t, y: y * torch.cos(t), torch.ones(1, dtype=torch.float64), t,\n"
        f"           method={method!r}, rtol=1e-8, atol=1e-8)[:, 0]\n"
        "print((y - torch.exp(torch.sin(t))).abs().max())"
    )
    rule = "min(p, 4) - 1, for a global order of min(p, 4)"
    return judged(name, "dense output", float(least), float(have), text, rule=rule, place="middle", script=script)


def tolerance(subject: Subject, method: str, quick: bool) -> Iterator[Finding]:
    """Whether the error against the flow map falls when the tolerance does."""
    model = ExactModel(Gaussian([0.7], [[0.3]]), FLOW)
    x = model.sample(4, 1.0, 0)
    exact = reference_flow(model, x, 1.0, 0.0)
    drift = FLOWING.drift(model.velocity)
    errors = []
    for tol in (1e-2, 1e-4, 1e-6)[: 2 if quick else None]:
        found = integrate(method, {}, drift, x, np.array([0.0, 1.0]), tol)
        errors.append(float(np.abs(found - exact).max()))
    ratio = max(after / before for before, after in pairwise(errors))
    said = ", ".join(f"{error:.1e}" for error in errors)
    yield judged(subject.name, "tolerance", ratio, 1.0, f"errors {said} at tolerances 1e-2, 1e-4, ...",
                 rule="a hundredth of the tolerance gives no larger error", errors=errors)  # fmt: skip


def zero_steps(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Whether step_size = 1 / n gives n steps."""
    if subject.name != _name("euler", {}):
        return
    for dtype in ("float64", "float32"):
        wrong = []
        for n in range(1, 31 if quick else 101):
            asked: list[float] = []

            def drift(u: float, x: Array, asked: list[float] = asked) -> Array:
                asked.append(u)
                return np.zeros_like(x)

            integrate("euler", {"step_size": 1 / n}, drift, np.ones((1, 1), dtype), np.array([0, 1], dtype))
            if len(asked) != n:
                wrong.append((n, len(asked), 1 - asked[-1]))
        n, taken, last = wrong[0] if wrong else (0, 0, 0.0)
        text = f"step_size = 1/{n} gives {taken} steps, the last {last:.2g} long" if wrong else "n steps for every n"
        yield Finding(
            subject.name,
            "steps of zero length",
            Verdict.WRONG if wrong else Verdict.OK,
            f"{dtype}: {text}",
            place=f"step_size, {dtype}",
            rule="n steps of length 1/n fill an interval of length 1",
            script="import torch\nfrom torchdiffeq import odeint\nasked = []\n"
            f"one, ends = torch.ones(1, dtype=torch.{dtype}), torch.tensor([0, 1], dtype=torch.{dtype})\n"
            f"options = {{'step_size': 1 / {n or 1}}}\n"
            "odeint(lambda t, y: asked.append(t) or y, one, ends, method='euler', options=options)\n"
            "print(len(asked))",
        )


PROTOCOLS = (
    Protocol(
        "torchdiffeq",
        "odeint(func, y0, t, method=...)",
        wrap,
        "torchdiffeq",
        members,
        checks=(asked_times, adaptive, zero_steps),
        options=("max_order",),
    ),
)
