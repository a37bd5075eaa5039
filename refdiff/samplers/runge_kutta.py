r"""Runge-Kutta methods on the probability flow, in any time variable.

    k_i = F(y + h sum_j A_ij k_j, u + c_i h),     y + h sum_i b_i k_i      for dy/du = F(y, u)

In each clock u a coordinate y = x / m turns the velocity v of the flow into

    clock       u                         m                 F = dy/du
    t           t                         1                 v                          flow matching
    rho         sigma / alpha             alpha             noise prediction           EDM, DEIS, DDIM
    1/rho       alpha / sigma             sigma             denoiser
    ratio       sigma / (alpha + sigma)   alpha + sigma     noise - denoiser           the straight path
    log_snr     lambda                    1                 v / lambda'

so Euler's method in rho, 1/rho or ratio is DDIM, and on the straight path x_t = (1 - t) x_0 + t eps in t as well. A
method is data, its order a matter of algebra: b . Phi(tree) = 1 / gamma(tree) for every rooted tree of that size.
Sources: PODD-57..59, PODC9-09, PODC9-28, PODC9-55, DMI-76; Hairer, Norsett, Wanner, Solving ODEs I (1993).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations_with_replacement
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import DOP853, RK23, RK45

from refdiff.arguments import Array, one_of, real_array
from refdiff.processes import AffineProcess
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, log
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

# ---------------------------------------------------------------------- clocks


@dataclass(frozen=True)
class Clock:
    """A time variable u of the probability flow with the coordinate y = x / scale in which dy/du is simple.

    Attributes:
        prediction: what the model answers.
        value, scale: u and m at a Point.
        log_snr: u to lambda, for the points between; None for t itself.
        rate: (x, answer, point) to dy/du, for arrays and symbolic states alike.
        starts_pure, ends_clean: whether u is finite where alpha = 0, and where sigma = 0.
    """

    prediction: str
    value: Callable[[Point], Number]
    scale: Callable[[Point], Number]
    log_snr: Callable[[Number], Number] | None
    rate: Callable[[Any, Any, Point], Any]
    starts_pure: bool
    ends_clean: bool


def _answer(x: Any, answer: Any, point: Point) -> Any:  # noqa: ARG001
    return answer


def _along_log_snr(x: Any, velocity: Any, point: Point) -> Any:  # noqa: ARG001
    return velocity * (-2 * point.sigma**2 / point.coefficients.g2)


def _along_ratio(x: Any, velocity: Any, point: Point) -> Any:
    """noise - denoiser from x = alpha D + sigma e and v = alpha' D + sigma' e."""
    c, total = point.coefficients, point.alpha + point.sigma
    if np.isfinite(c.dsigma).all():
        turn = c.dalpha * c.sigma - c.dsigma * c.alpha
        return x * ((c.dalpha + c.dsigma) / turn) - velocity * (total / turn)
    # times 2 sigma, as (sigma^2)' is finite where sigma' is not
    turn = 2 * c.dalpha * c.sigma**2 - c.dvariance * c.alpha
    return x * ((2 * c.sigma * c.dalpha + c.dvariance) / turn) - velocity * (2 * c.sigma * total / turn)


def _total(p: Point) -> Number:
    return p.alpha + p.sigma


def _ratio(p: Point) -> Number:
    return p.sigma / _total(p)


CLOCKS: Mapping[str, Clock] = MappingProxyType(
    {
        "t": Clock("velocity", lambda p: p.t, lambda _: 1.0, None, _answer, True, True),
        "rho": Clock("noise", lambda p: p.rho, lambda p: p.alpha, lambda u: -log(u), _answer, False, True),
        "1/rho": Clock("denoiser", lambda p: p.alpha / p.sigma, lambda p: p.sigma, log, _answer, True, False),
        "ratio": Clock("velocity", _ratio, _total, lambda u: log(1 / u - 1), _along_ratio, True, True),
        "log_snr": Clock("velocity", lambda p: p.log_snr, lambda _: 1.0, lambda u: u, _along_log_snr, False, False),
    }
)  # fmt: skip


def clock_named(name: str) -> Clock:
    """The clock of that name.

    Raises:
        ValueError: an unknown name.
    """
    one_of("clock", name, CLOCKS)
    return CLOCKS[name]


# ---------------------------------------------------------------------- methods


@dataclass(frozen=True, eq=False)
class Method:
    """An explicit Runge-Kutta method.

    Args:
        A: weights of the slopes in the stages, (s, s), strictly lower triangular.
        b: weights of the slopes in the result, (s,), of sum 1.
        c: where the stages lie in the step, (s,) in [0, 1]: the row sums of A.

    Raises:
        ValueError: shapes that do not fit, an implicit method, stages outside the step, or weights that are no average.
    """

    A: Array
    b: Array

    def __post_init__(self) -> None:
        A, b = real_array("A", self.A, ndim=(2,)), real_array("b", self.b, ndim=(1,))
        if A.shape != (len(b), len(b)):
            raise ValueError(f"A must have shape {(len(b), len(b))} like b, got {A.shape}")
        if np.triu(A).any():
            raise ValueError("A must be strictly lower triangular: the method must be explicit")
        if abs(b.sum() - 1) > 1e-12:
            raise ValueError(f"b must have sum 1, got {b.sum()}")
        object.__setattr__(self, "A", A)
        object.__setattr__(self, "b", b)
        if (self.c < 0).any() or (self.c > 1).any():
            raise ValueError(f"A must have row sums in [0, 1], got {self.c}")

    @cached_property
    def c(self) -> Array:
        """Where the stages lie: the row sums of A, those within rounding of 0 or 1 exactly there."""
        sums: Array = self.A.sum(axis=1)
        return np.asarray(np.where(np.abs(sums - np.round(sums)) < 1e-14, np.round(sums), sums))

    @property
    def stages(self) -> int:
        """s, the number of slopes."""
        return len(self.b)

    @cached_property
    def order(self) -> int:
        """The largest p <= 8 such that all conditions of trees up to size p hold."""
        p = 0
        while p < 8 and all(abs(defect(self, tree)) < 1e-12 for tree in rooted_trees(p + 1)):
            p += 1
        return p


Tree = tuple[Any, ...]  # a root with its subtrees


@cache
def rooted_trees(size: int) -> tuple[Tree, ...]:
    """All rooted trees with so many nodes: 1, 1, 2, 4, 9, 20, 48, 115, ..."""
    return tuple(tuple(branches) for branches in _forests(size - 1, size - 1))


def _forests(nodes: int, largest: int) -> Iterator[list[Tree]]:
    """Multisets of trees with so many nodes together, none larger than `largest`."""
    if nodes == 0:
        yield []
    for size in range(min(nodes, largest), 0, -1):
        for count in range(1, nodes // size + 1):
            for smaller in _forests(nodes - count * size, size - 1):
                for same in combinations_with_replacement(rooted_trees(size), count):
                    yield [*same, *smaller]


def nodes(tree: Tree) -> int:
    """The number of nodes."""
    return 1 + sum(nodes(branch) for branch in tree)


def density(tree: Tree) -> int:
    """gamma(tree): its number of nodes times the densities of its branches."""
    return nodes(tree) * prod(density(branch) for branch in tree)


def defect(method: Method, tree: Tree) -> float:
    """b . Phi(tree) - 1 / gamma(tree), with Phi the product over the branches of A Phi(branch)."""

    def stage_weights(tree: Tree) -> Array:
        return np.asarray(np.prod([np.ones(method.stages), *(method.A @ stage_weights(b) for b in tree)], axis=0))

    return float(method.b @ stage_weights(tree) - 1 / density(tree))


def _method(*rows: ArrayLike) -> Method:
    """A method from its rows below the diagonal, the last being b."""
    *stages, b = [np.asarray(row, dtype=float) for row in rows]
    size = len(b)
    return Method(np.array([np.pad(row, (0, size - len(row))) for row in [np.zeros(0), *stages]]), b)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "euler": _method([1]),
        "midpoint": _method([1 / 2], [0, 1]),
        "heun": _method([1], [1 / 2, 1 / 2]),
        "ralston": _method([2 / 3], [1 / 4, 3 / 4]),
        "heun3": _method([1 / 3], [0, 2 / 3], [1 / 4, 0, 3 / 4]),
        "kutta3": _method([1 / 2], [-1, 2], [1 / 6, 2 / 3, 1 / 6]),
        "ssprk3": _method([1], [1 / 4, 1 / 4], [1 / 6, 1 / 6, 2 / 3]),
        "rk4": _method([1 / 2], [0, 1 / 2], [0, 0, 1], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        "rk38": _method([1 / 3], [-1 / 3, 1], [1, -1, 1], [1 / 8, 3 / 8, 3 / 8, 1 / 8]),
        # the coefficients are SciPy's; without the last stage, which is the first of the next step
        "bogacki-shampine": _method(*RK23.A[1:], RK23.B),
        "dormand-prince": _method(*RK45.A[1:], RK45.B),
        "dop853": _method(*DOP853.A[1:], DOP853.B),
    }
)


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"method must be a Method or one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


# ---------------------------------------------------------------------- the sampler


def runge_kutta(
    process: AffineProcess | Schedule, times: ArrayLike, *, method: Method | str = "rk4", clock: str = "t"
) -> Tableau:
    """An explicit Runge-Kutta method on the probability flow.

    Args:
        process, times: the process and the decreasing grid. It may start where alpha = 0 in the clocks t, 1/rho and
            ratio, and end where sigma = 0 in all but log_snr: in t and ratio the model is asked for the velocity at
            the end where a stage lies there (c = 1), in rho such a method takes Euler's step last, as EDM does, and
            in 1/rho, infinite at the end, every method does.
        method: a Method, or the name of one in METHODS.
        clock: t, rho, 1/rho, ratio or log_snr.

    Raises:
        ValueError: an unknown name, a grid with an end where the clock has no step, or a process with one schedule for
            each axis where a stage lies inside a step of a clock other than t.
    """
    rule = method_named(method) if isinstance(method, str) else method
    time = clock_named(clock)
    rec = Recorder(
        f"{method if isinstance(method, str) else 'Runge-Kutta'} in {clock}", process, times, time.prediction
    )
    if not time.starts_pure:
        rec.finite_log_snr(f"{clock} is infinite there", last=clock == "log_snr")
    x = rec.start
    for s, t in rec.steps:
        if t.clean and clock == "1/rho":
            x = t.alpha * rec.evaluate(x, s)  # the limit of Euler's step
        else:
            last = t.clean and clock == "rho" and bool((rule.c == 1).any())
            x = _step(rec, x, s, t, METHODS["euler"] if last else rule, time)
    return rec.finish(x)


def _step(rec: Recorder, x: State, s: Point, t: Point, rule: Method, clock: Clock) -> State:
    start, h = clock.value(s), clock.value(t) - clock.value(s)
    points: dict[float, Point] = {0.0: s, 1.0: t}
    slopes: list[State] = []

    def moved(weights: Array, point: Point) -> State:
        """scale (y + h sum_j weights_j k_j)."""
        total: State = x / clock.scale(s)
        for weight, slope in zip(weights, slopes, strict=False):
            total = total + (h * weight) * slope if weight else total
        result: State = total * clock.scale(point)
        return result

    for c, row in zip(rule.c.tolist(), rule.A, strict=True):
        if c not in points:
            u = start + c * h
            points[c] = rec.at(float(u)) if clock.log_snr is None else rec.at_log_snr(clock.log_snr(u))
        stage = moved(row, points[c]) if slopes else x
        slopes.append(clock.rate(stage, rec.evaluate(stage, points[c]), points[c]))
    return moved(rule.b, t)


def _family(name: str, method: str, clock: str = "t", source: str = "PODD-57..59") -> Family:
    rule, ends = METHODS[method], CLOCKS[clock]
    return Family(
        name,
        runge_kutta,
        rule.order,
        "n" if rule.stages == 1 else f"{rule.stages}n",
        source,
        {"method": method, "clock": clock},
        clock="t" if clock == "t" else "log_snr",
        starts_pure=ends.starts_pure,
        ends_clean=clock != "log_snr",
        # on a shorter way the error is down to rounding before its leading term stands alone
        measure={"span": (-2.5, 2.5), "counts": (16, 32, 64, 128)} if rule.order >= 5 else {},
    )


FAMILIES = (
    *(
        _family(f"fm-{method}", method, source="PODD-57..59, DMI-76 (Lipman et al. 2023)")
        for method in METHODS
        if method != "dop853"
    ),
    _family("rk4-rho", "rk4", "rho", "PODC9-55"),
    _family("rk4-inverse-rho", "rk4", "1/rho", "PODC9-55"),
    _family("rk4-ratio", "rk4", "ratio", "DMI-76"),
    _family("euler-log-snr", "euler", "log_snr", "PODC9-09"),
    _family("heun-log-snr", "heun", "log_snr", "PODC9-28"),
)
