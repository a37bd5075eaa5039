r"""Solving a stochastic equation on a grid: methods by name, with what theory says of them.

    strong order p    E |x_n - x(T)| ~ h^p on one path          weak order q    E f(x_n) - E f(x(T)) ~ h^q

Orders depend on the kind of noise (`solvers_noise.KINDS`); a method is refused where theory gives it none. Times run
either way: dx = b dt + G dw with dt of either sign, Ito's sense in the direction of travel. Sources: PODD-62, PODD-64,
PODA-419, TOPA-77; Kloeden and Platen 1992 (chapters 10, 11, 14 and 15), Roessler 2010.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, one_of, points, single_precision, whole_number
from refdiff.random import PARTICLES, seed_key
from refdiff.stochastic import solvers_steps as steps
from refdiff.stochastic.brownian import BrownianPath
from refdiff.stochastic.brownian_steps import Path, Piece, monotonic
from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.solvers_noise import Leg, noise_kind


@dataclass(frozen=True)
class Method:
    """A method and its orders.

    Attributes:
        name: as `solve` takes it.
        step: (leg, x) -> x after the leg.
        strong, weak: the strong and the weak order for each kind of noise that it takes.
        sense: ito or stratonovich, how the equation is read.
        source: where it comes from.
    """

    name: str
    step: steps.Step
    strong: Mapping[str, float]
    weak: Mapping[str, float]
    source: str
    sense: str = "ito"


def _orders(**known: float) -> Mapping[str, float]:
    return MappingProxyType(known)


# strong, and weak
_HALF = _orders(additive=1.0, diagonal=0.5, scalar=0.5, commutative=0.5, general=0.5)
_ALL = _orders(additive=1.0, diagonal=1.0, scalar=1.0, commutative=1.0, general=1.0)
_ONE = _orders(additive=1.0, diagonal=1.0, scalar=1.0, commutative=1.0)
_HEUN = _orders(additive=1.0, diagonal=1.0, scalar=1.0, commutative=1.0, general=0.5)
_HEUN_WEAK = _orders(additive=2.0, diagonal=1.0, scalar=1.0, commutative=1.0, general=1.0)
_SRA, _SRA_WEAK = _orders(additive=1.5), _orders(additive=2.0)
_SRI, _SRI_WEAK = _orders(diagonal=1.5, scalar=1.5), _orders(diagonal=2.0, scalar=2.0)
_PLATEN = _orders(additive=1.0, diagonal=1.0, scalar=1.0, commutative=0.5, general=0.5)
_PLATEN_WEAK = _orders(additive=2.0, diagonal=2.0, scalar=2.0, commutative=2.0, general=2.0)
_KLOEDEN = "Kloeden and Platen 1992"

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        one.name: one
        for one in (
            Method("euler-maruyama", steps.euler_maruyama, _HALF, _ALL, f"{_KLOEDEN}, 10.2"),
            Method("milstein", steps.milstein, _ONE, _ONE, f"{_KLOEDEN}, 10.3"),
            Method("explicit-milstein", steps.explicit_milstein, _ONE, _ONE, f"{_KLOEDEN}, 11.1"),
            Method("heun", steps.heun, _HEUN, _HEUN_WEAK, "Rümelin 1982"),
            Method("stratonovich-heun", steps.stratonovich_heun, _HEUN, _HEUN_WEAK, "Rümelin 1982", "stratonovich"),
            Method("exponential", steps.exponential, _orders(additive=1.0), _orders(additive=1.0), "PODC9-09, PODB-65"),
            Method("sra1", steps.additive_runge_kutta(steps.SRA1), _SRA, _SRA_WEAK, "Roessler 2010, SRA1"),
            Method("sra3", steps.additive_runge_kutta(steps.SRA3), _SRA, _SRA_WEAK, "Roessler 2010, SRA3"),
            Method("sri1", steps.diagonal_runge_kutta(steps.SRI1), _SRI, _SRI_WEAK, "Roessler 2010, SRIW1"),
            # of order 3 without noise
            Method("sri2", steps.diagonal_runge_kutta(steps.SRI2), _SRI, _SRI_WEAK, "Roessler 2010, SRID2"),
            Method("platen", steps.platen, _PLATEN, _PLATEN_WEAK, f"{_KLOEDEN}, 15.1.3"),
        )
    }
)


def solve(
    equation: StochasticEquation,
    x: ArrayLike,
    times: ArrayLike,
    method: str = "euler-maruyama",
    *,
    seed: int | np.random.Generator | None = None,
    path: Path | None = None,
    particle: int = 0,
    trajectory: bool = False,
) -> Any:
    """Take points along a stochastic equation over a grid.

    With a seed the steps of the grid are independent: `BrownianPath(seed, times, m)`, whose step j has the increment
    sqrt(h_j) normals(seed, particle + i, j, m) for row i, as `samplers.run` has. Euler-Maruyama for the family of an
    exact model is run as a table then, in one kernel where that pays (see `marginal_family`); a path is followed here.

    Args:
        equation: what is solved.
        x: where to start at the first time, shape (..., d).
        times: the grid, shape (k + 1,), increasing or decreasing.
        method: one of METHODS.
        seed: for a path of its own: an int in [0, 2^64), or a generator, from which a key is drawn.
        path: a BrownianPath or Increments in place of a seed, the same for runs that are to be compared.
        particle: the number of the first row of x: with it, a batch in parts has the points of the batch in one.
        trajectory: return x at every time, shape (k + 1, ..., d), and not only at the last one.

    Returns:
        x at the last time (..., d), as float32 when x is float32; all arithmetic is float64.

    Raises:
        TypeError: what is no equation or no path.
        ValueError: an unknown method, a kind of noise that it is not made for, a seed and a path or neither, a grid
            that is not monotonic, or points that do not stay finite.

    Examples:
        >>> import numpy as np
        >>> from refdiff.stochastic import StochasticEquation, solve
        >>> equation = StochasticEquation(lambda x, t: -x, lambda t: 0.0, 1)  # no noise: Euler's method
        >>> print(solve(equation, [[1.0]], [0.0, 0.5, 1.0], seed=0))  # (1 - h)^2
        [[0.25]]
    """
    if not isinstance(equation, StochasticEquation):
        raise TypeError(f"equation must be a StochasticEquation, got {equation!r}")
    rows, restore = points("x", x, equation.dim)
    chosen, grid = METHODS[one_of("method", method, METHODS)], monotonic("times", times)
    first = whole_number("particle", particle, high=PARTICLES - len(rows))
    known = taken(chosen, equation, rows[:4], float(grid[0]))
    if (seed is None) == (path is None):
        raise ValueError("seed or path must be given, and not both")
    if path is None and known == "additive" and method == "euler-maruyama" and equation.euler is not None:
        found = equation.euler(rows, grid, seed_key(seed), first, trajectory)  # type: ignore[arg-type]
        return np.stack([restore(y) for y in found]) if trajectory else restore(found)
    if path is None:
        path = BrownianPath(seed, grid, equation.motions)  # type: ignore[arg-type]
    if not isinstance(path, Path):
        raise TypeError(f"path must be a BrownianPath or Increments, got {path!r}")
    if path.motions != equation.motions:
        raise ValueError(f"path must have the {equation.motions} motions of the equation, got {path.motions}")
    single = getattr(x, "dtype", None) == np.float32
    kept = np.empty((len(grid) if trajectory else 0, *rows.shape), dtype=np.float32 if single else float)
    pieces = path.steps(grid, range(first, first + len(rows)))
    for k, ((s, t), piece) in enumerate(zip(pairwise(grid.tolist()), pieces, strict=True)):
        if trajectory:
            kept[k] = single_precision(rows) if single else rows
        rows = advanced(chosen, equation, rows, s, t, piece)
    if not trajectory:
        return restore(rows)
    kept[-1] = single_precision(rows) if single else rows
    return kept.reshape(len(grid), *np.shape(x))


def advanced(method: Method, equation: StochasticEquation, x: Array, s: float, t: float, piece: Piece) -> Array:
    """Points x (n, d) after one step of a method for an equation, from s to t, with this piece of a path.

    Raises:
        ValueError: they do not stay finite.
    """
    after = method.step(Leg(equation, s, t, piece.dw, piece.area), x)
    if not np.isfinite(after).all():
        raise ValueError(f"x must stay finite, got {after[~np.isfinite(after)].flat[0]} at t = {t}: steps are unstable")
    return after


def taken(method: Method, equation: StochasticEquation, x: Array, t: float) -> str:
    """The kind of an equation's noise, probed at points x (n, d) and time t, where the method takes it.

    Raises:
        ValueError: the method is not made for it.
    """
    found = noise_kind(equation, x, t)
    if found not in method.strong:
        kinds = ", ".join(method.strong)
        raise ValueError(f"method must be one for {found} noise, got {method.name!r}, which takes {kinds}")
    return found
