r"""Integrators of general-purpose libraries as tables: what their names stand for on the equations of diffusion.

Backward from s to t = s - h, with v the probability-flow velocity and k the share of noise,

    dx = -F du + G dw,    F = (1 + k^2) v - k^2 f x,    G = k g(t)             u the time that has passed

A `Scheme` is a Runge-Kutta method for additive noise. With W the increment of the Brownian path over the step and
H = int (w_r - r W / h) dr / h its space-time area, independent normals of variance h and h / 12,

    y_i = x - h sum_j A_ij F(y_j, s - c_j h) + sum_l (W_il W + H_il H) G(s - e_l h)

the last row being the result. int w_r dr = h (W / 2 + H) (torchsde's U, Roessler's I_10).
Sources: Hairer, Norsett, Wanner 1993; Roessler 2010 (SRA1); Foster, dos Reis, Strange 2023 (SEA, ShARK, SLOW-RK);
Foster 2023 (SPaRK); Kidger et al. 2021 (reversible Heun); Shampine 2009 (leapfrog).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array
from refdiff.samplers import Tableau
from refdiff.samplers.numbers import lagrange_integrals
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.runge_kutta import METHODS, Method
from refdiff.schedules import Schedule

Build = Callable[[Schedule, Array, float], Tableau]  # (process, decreasing times, share of noise)


@dataclass(frozen=True)
class Scheme:
    """A Runge-Kutta method for additive noise, see above; rows of A, W and H as above, of any length.

    Attributes:
        A: rows of weights of the slopes, those of the stages and then of the result.
        W, H: rows of weights of the two noises, one for each node in `nodes`.
        nodes: where in the step the diffusion is asked for.
        again: whether the slope at the end of a step is evaluated and is the first slope of the next one.
        c: where in the step the stages lie, the row sums of A unless given.
    """

    A: Sequence[Sequence[float]]
    W: Sequence[Sequence[float]] = ()
    H: Sequence[Sequence[float]] = ()
    nodes: Sequence[float] = (0.0,)
    again: bool = False
    c: Sequence[float] | None = None

    def place(self, i: int) -> float:
        """c_i."""
        return float(sum(self.A[i])) if self.c is None else self.c[i]


def combined(method: Method | str, *, again: bool = False) -> Scheme:
    """A Runge-Kutta method whose slopes are F h + G W: the noise is weighed as the drift is."""
    rule = METHODS[method] if isinstance(method, str) else method
    rows = [*rule.A.tolist(), rule.b.tolist()]
    return Scheme(rows, rows, (), tuple(rule.c.tolist()), again, tuple(rule.c.tolist()))


_TURN = ((1.0, 0.0), (0.0, 1.0))
SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        **{name: combined(name) for name in ("euler", "midpoint", "heun", "ralston", "heun3", "rk38")},
        "bogacki-shampine": combined("bogacki-shampine", again=True),
        "dormand-prince": combined("dormand-prince", again=True),
        "fehlberg2": combined(
            Method(np.array([[0, 0, 0], [1 / 2, 0, 0], [1 / 256, 255 / 256, 0]]), np.array([1, 510, 1]) / 512)
        ),
        "euler-heun": Scheme([[], [1]], [[], [0.5, 0.5]], (), (0, 1)),
        "sra1": Scheme(
            [[], [3 / 4], [1 / 3, 2 / 3]], [[], [0, 3 / 4], [0.5, 0.5]], [[], [0, 3 / 2], [1, -1]], (0.0, 1.0)
        ),
        # diffrax has the stages' noise with the diffusion at the start of the step
        "sra1-start": Scheme(
            [[], [3 / 4], [1 / 3, 2 / 3]], [[], [3 / 4], [0.5, 0.5]], [[], [3 / 2], [1, -1]], (0.0, 1.0)
        ),
        "sea": Scheme([[], [1]], [[0.5], [0.5, 0.5]], [[1], [1, -1]], (0.0, 1.0)),
        "shark": Scheme([[], [5 / 6], [2 / 5, 3 / 5]], [[], [5 / 6], [0.5, 0.5]], [[1], [1], [1, -1]], (0.0, 1.0)),
        # the first stage is only the diffusion's, the drift's are at x + H and after it
        "general-shark": Scheme(
            [[], [5 / 6], [2 / 5, 3 / 5]], [[], [5 / 6], [2 / 5, 3 / 5]], [[1], [1], [6 / 5, -6 / 5]], (0, 5 / 6)
        ),
        "spark": Scheme(
            [[], [1 / 2], [0, 1], [(3 - 3**0.5) / 6, 3**0.5 / 3, (3 - 3**0.5) / 6]],
            [[], [1 / 2], [0, 1], [(3 - 3**0.5) / 6, 3**0.5 / 3, (3 - 3**0.5) / 6]],
            [[], [3**0.5], [], [1, 0, -1]],
            (0.0, 0.5, 1.0),
        ),
        "slow-rk": Scheme(
            [[], [3 / 4], [1 / 3, 2 / 3]], [[], [0, 3 / 4], [0, 1]], [[], [0, 3 / 2], [0, 2, -2]], (0.0, 0.5, 1.0)
        ),
    }
)


def one_step(scheme: Scheme | Method | str) -> Build:
    """The table of a one-step method, by name or by its coefficients."""
    found = SCHEMES[scheme] if isinstance(scheme, str) else scheme
    rule = combined(found) if isinstance(found, Method) else found

    def build(process: Schedule, times: ArrayLike, noise: float = 0.0) -> Tableau:
        rec = Recorder("integrator", process, times, "velocity")
        x = rec.start
        for s, t in rec.steps:
            x = _step(rec, rule, x, s, t, noise)
        if rule.again:
            rec.evaluate(x, rec.points[-1])
        return rec.finish(x)

    return build


def _step(rec: Recorder, rule: Scheme, x: State, s: Point, t: Point, k: float) -> State:
    h = s.t - t.t
    increment, area = _noises(rec, h, k, any(any(row) for row in rule.H))
    size = [k * np.sqrt(_inside(rec, s, t, e).coefficients.g2) for e in rule.nodes] if k else []
    rec.keep(x, s)
    slopes: list[State] = []
    for i, row in enumerate(rule.A):
        y = x
        for weight, slope in zip(row, slopes, strict=False):
            y = y - (h * weight) * slope if weight else y
        for rows, normal in ((rule.W, increment), (rule.H, area)):
            given = rows[i] if k and i < len(rows) else ()
            total = sum(w * g for w, g in zip(given, size, strict=False))
            y = y + total * normal if total else y
        if i == len(rule.A) - 1:
            return y
        point = _inside(rec, s, t, rule.place(i))
        slopes.append(drift(rec, y, point, k))
    raise ValueError("A must have a row for the result")


def _inside(rec: Recorder, s: Point, t: Point, part: float) -> Point:
    return s if part == 0 else t if part == 1 else rec.at(s.t - part * (s.t - t.t))


def _noises(rec: Recorder, h: float, k: float, area: bool) -> tuple[State, State]:
    """W and H of a step."""
    if not k:
        return State({}), State({})
    increment = np.sqrt(h) * rec.normal()
    return increment, np.sqrt(h / 12) * rec.normal() if area else State({})


def drift(rec: Recorder, x: State, point: Point, k: float) -> State:
    """F at x, by one evaluation."""
    v = rec.evaluate(x, point)
    if not k:
        return v
    found: State = (1 + k * k) * v - (k * k * point.coefficients.f) * x
    return found


# ---------------------------------------------------------------------- methods that remember


def reversible_heun(process: Schedule, times: ArrayLike, noise: float = 0.0) -> Tableau:
    """z' = 2 x - z - h F(z) + G W,  x' = x - h (F(z) + F(z')) / 2 + (G + G') W / 2, from z = x."""
    rec = Recorder("reversible Heun", process, times, "velocity")
    x = z = rec.start
    before = drift(rec, z, rec.points[0], noise)
    for s, t in rec.steps:
        h, (increment, _) = s.t - t.t, _noises(rec, s.t - t.t, noise, False)
        first, last = (noise * np.sqrt(p.coefficients.g2) if noise else 0.0 for p in (s, t))
        z = 2 * x - z - h * before + first * increment
        after = drift(rec, z, t, noise)
        x = x - (h / 2) * (before + after) + ((first + last) / 2) * increment
        rec.keep(x, t)
        before = after
    return rec.finish(x)


def leapfrog(process: Schedule, times: ArrayLike, noise: float = 0.0) -> Tableau:
    """x_{n+1} = x_{n-1} - (t_{n-1} - t_{n+1}) v(x_n), after a step of Euler's."""
    rec = Recorder("leapfrog", process, times, "velocity")
    (s, t), *rest = rec.steps
    old, x = rec.start, rec.start - (s.t - t.t) * drift(rec, rec.start, s, noise)
    for before, (s, t) in zip(rec.steps, rest, strict=False):
        v = drift(rec, x, s, noise)
        old, x = x, old - (before[0].t - t.t) * v
    return rec.finish(x)


def adams(order: int, *, implicit: bool, equal: bool = False) -> Build:
    """Adams-Bashforth (of the grid's own steps), and with `implicit` Adams-Moulton once after it, started by rk38.

    torchdiffeq's: 3/8-rule steps until 3 values are known, then every value up to order - 1 of them; Adams-Moulton
    takes the one at the end of the step beside them.

    Args:
        order: of the implicit method; the explicit one has one less.
        implicit: predict, evaluate and correct once.
        equal: with the weights of equal steps whatever the steps are, which is wrong on other grids.
    """

    def build(process: Schedule, times: ArrayLike, noise: float = 0.0) -> Tableau:
        rec = Recorder("Adams", process, times, "velocity")
        x, nodes, values = rec.start, list[float](), list[State]()
        for s, t in rec.steps:
            nodes, values = [s.t, *nodes][: order - 1], [drift(rec, x, s, noise), *values][: order - 1]
            if len(values) < 3:
                x = _step(rec, SCHEMES["rk38"], x, s, t, noise)
            else:
                x = _multistep(rec, x, s, t, nodes, values, implicit, equal)
        return rec.finish(x)

    return build


def _multistep(
    rec: Recorder, x: State, s: Point, t: Point, nodes: list[float], values: list[State], implicit: bool, equal: bool
) -> State:
    h = s.t - t.t
    known = [s.t + j * h for j in range(len(nodes))] if equal else nodes

    def moved(at: list[float], of: list[State]) -> State:
        total = x
        for weight, value in zip(lagrange_integrals(at, s.t, t.t), of, strict=True):
            total = total + float(weight) * value
        return total

    predicted = moved(known, values)
    if not implicit:
        return predicted
    rec.keep(x, s)
    return moved([t.t, *known], [rec.evaluate(predicted, t), *values])
