r"""Runge-Kutta methods on the probability flow, in any time variable.

    k_i = F(y + h sum_j A_ij k_j, u + c_i h),     y + h sum_i b_i k_i      for dy/du = F(y, u)

The clocks u, their coordinates y and rates F are those of `clocks`: t, rho, 1/rho, ratio, angle and log_snr. A method
is data, its order a matter of algebra: b . Phi(tree) = 1 / gamma(tree) for every rooted tree of that size.
Sources: PODD-57..59, PODC9-09, PODC9-28, PODC9-55, DMI-76; Hairer, Norsett, Wanner, Solving ODEs I (1993).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from refdiff.processes import Process
from refdiff.samplers.clocks import CLOCKS, Clock, clock_named
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

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


# ---------------------------------------------------------------------- the sampler


def runge_kutta(
    process: Process | Schedule, times: ArrayLike, *, method: Method | str = "rk4", clock: str = "t"
) -> Tableau:
    """An explicit Runge-Kutta method on the probability flow.

    Args:
        process, times: the process, any of them in the clock t, and the decreasing grid (n + 1,). It may start where
            alpha = 0 in the clocks t, 1/rho, ratio and angle, and end where sigma = 0 in all but log_snr: in t, ratio
            and angle the model is asked at the end where a stage lies there (c = 1), in rho such a method takes Euler's
            step last, as EDM does, and in 1/rho, infinite at the end, every method does.
        method: a Method, or the name of one in METHODS.
        clock: a key of CLOCKS, t, rho, 1/rho, ratio, angle or log_snr: the model answers the clock's prediction.

    Raises:
        ValueError: an unknown name, a grid with an end where the clock has no step, or a process with one schedule for
            each axis where a stage lies inside a step of a clock other than t.
    """
    rule = method if isinstance(method, Method) else METHODS[one_of("method", method, METHODS)]
    name = "Runge-Kutta" if isinstance(method, Method) else method
    time = clock_named(clock)
    rec = Recorder(f"{name} in {clock}", process, times, time.prediction)
    if not time.starts_pure:
        rec.finite_log_snr(f"{clock} is infinite there", last=not time.ends_clean)
    x = rec.start
    for s, t in rec.steps:
        infinite = t.clean and not time.ends_clean  # in 1/rho, where Euler's step has a limit
        x = t.alpha * rec.evaluate(x, s) if infinite else runge_kutta_step(rec, time, x, s, t, rule)
    return rec.finish(x)


def runge_kutta_step(rec: Recorder, clock: Clock, x: State, s: Point, t: Point, rule: Method) -> State:
    """One step of a rule in a clock, from the clock's own prediction or from the denoiser (see `Clock.slope`).

    A method with a stage at t cannot ask for the noise or the denoiser at sigma = 0: there the step is Euler's.
    """
    if t.clean and rec.prediction in ("noise", "denoiser") and (rule.c == 1).any():
        rule = METHODS["euler"]
    h = clock.value(t) - clock.value(s)
    slopes = [clock.slope(rec, x, s)]
    for row, part in zip(rule.A[1:].tolist(), rule.c[1:].tolist(), strict=True):
        inside = clock.between(rec, s, t, part)
        slopes.append(clock.slope(rec, clock.moved(x, s, inside, h * combined(row, slopes)), inside))
    return clock.moved(x, s, t, h * combined(rule.b.tolist(), slopes))


def combined(weights: Iterable[Number], states: Iterable[State]) -> State:
    """sum_j weights_j states_j, without the terms of weight zero, over as many as there are."""
    total = State({})
    for weight, state in zip(weights, states, strict=False):
        total = total + weight * state if np.any(weight) else total
    return total


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
