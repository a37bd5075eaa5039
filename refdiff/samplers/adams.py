r"""Adams-Bashforth methods: the probability flow as dz/dc = F in a clock c, F continued by its past values.

    coordinate   z          flow
    x            x          dx = v dt                       with w = alpha sigma' - sigma alpha' > 0
    x/alpha      x / alpha  dz = eps d rho                  d rho / dt = w / alpha^2
    x/sigma      x / sigma  dz = x* d(1 / rho)              d(1 / rho) / dt = -w / sigma^2

    clock        c                           dc/dt
    t            t                           1
    log_snr      lambda = log(alpha/sigma)   -w / (alpha sigma)
    rho          sigma / alpha               w / alpha^2
    angle        arctan(sigma / alpha)       w / (alpha^2 + sigma^2)

    z_t = z_s + sum_{j<k} F_j int_{c_s}^{c_t} l_j(c) dc,      l_j the Lagrange polynomials of the last k nodes,

exact integrals for whatever steps the grid has. x/alpha with rho is the linear multistep method of k-diffusion, with
F = d = (x - D) / sigma where alpha = 1. Order k has local error h^(k+1). Steps 1, 2, ... of a start that ramps up have
local errors h^2, h^3, ...: the first one alone costs the global order min(k, 2). A Runge-Kutta start of order 4 leaves
h^5 in each of its k - 1 steps, hence min(k, 5).

A step with an end where c or z is infinite (alpha = 0 first, sigma = 0 last) is DDIM's, and such a node takes no part
in the continuation. Sources: PODC9-18, PODC9-19, PODC9-55, PODD-56; Karras et al. 2022; Hairer et al. 1993, III.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import one_of, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, lagrange_integrals, log
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.runge_kutta import METHODS, Method
from refdiff.samplers.tableau import COORDINATES, Tableau
from refdiff.schedules import Schedule

STARTS = ("ramp", "runge-kutta")


class Clock(NamedTuple):
    """A variable of integration: its value, its rate dc/dt, and log_snr where it has a value (None for t)."""

    value: Callable[[Point], Number]
    rate: Callable[[Point], Number]
    log_snr: Callable[[Number], Number] | None


def _turning(p: Point) -> Number:
    """w = alpha sigma' - sigma alpha', two terms of one sign; sigma' from (sigma^2)', for sigma > 0."""
    c = p.coefficients
    return p.alpha * c.dvariance / (2 * p.sigma) - p.sigma * c.dalpha


def _angle(p: Point) -> Number:
    # the clean side of tan: exact at alpha = 0, where rho is infinite
    return np.arctan2(p.sigma, p.alpha)


CLOCKS = {
    "t": Clock(lambda p: p.t, lambda p: 1.0, None),
    "log_snr": Clock(lambda p: p.log_snr, lambda p: -_turning(p) / (p.alpha * p.sigma), lambda c: c),
    "rho": Clock(lambda p: p.rho, lambda p: _turning(p) / p.alpha**2, lambda c: -log(c)),
    "angle": Clock(_angle, lambda p: _turning(p) / (p.alpha**2 + p.sigma**2), lambda c: -log(np.tan(c))),
}


class Flow:
    """The probability flow dz/dc = F of one coordinate and clock, on recorded states.

    Args:
        clock: a key of CLOCKS.
        coordinate: x, x/alpha or x/sigma.

    Raises:
        ValueError: an unknown clock or coordinate.
    """

    def __init__(self, clock: str, coordinate: str) -> None:
        self.clock = CLOCKS[one_of("clock", clock, tuple(CLOCKS))]
        self.coordinate = one_of("coordinate", coordinate, COORDINATES)

    def finite(self, p: Point) -> bool:
        """Whether c and z are finite at a point, and move there: betas that end in 1 jump after their last time."""
        moving = p.clean or np.all(_turning(p))
        return bool(np.all(self.scale(p)) and moving) and not bool(np.any(abs(self.clock.value(p)) == np.inf))

    def scale(self, p: Point) -> Number:
        """x / z."""
        return {"x": 1.0, "x/alpha": p.alpha, "x/sigma": p.sigma}[self.coordinate]

    def rate(self, x: State, d: State, p: Point) -> State:
        """F at x, with the denoiser's answer d there, as a combination of the two."""
        eps: State = (x - p.alpha * d) / p.sigma
        c, turning = p.coefficients, _turning(p)
        per_time = {
            "x": lambda: c.dalpha * d + (c.dvariance / (2 * p.sigma)) * eps,
            "x/alpha": lambda: (turning / p.alpha**2) * eps,
            "x/sigma": lambda: (-turning / p.sigma**2) * d,
        }[self.coordinate]()
        found: State = per_time / self.clock.rate(p)
        return found

    def advance(self, x: State, s: Point, t: Point, increment: State) -> State:
        """x at t after z has grown by the increment since s."""
        before, after = self.scale(s), self.scale(t)
        moved: State = (after / before) * x + after * increment
        return moved

    def between(self, rec: Recorder, s: Point, t: Point, part: float) -> Point:
        """The Point a given part of the way from s to t in c."""
        if part in (0, 1):
            return t if part else s
        a, b = self.clock.value(s), self.clock.value(t)
        where = a + part * (b - a)
        return rec.at(float(where)) if self.clock.log_snr is None else rec.at_log_snr(self.clock.log_snr(where))


def runge_kutta_step(rec: Recorder, flow: Flow, x: State, d: State, s: Point, t: Point, method: Method) -> State:
    """One explicit Runge-Kutta step in the clock of the flow, with the denoiser's answer d at s already there.

    A method with a stage at t cannot call the model at sigma = 0: there the step is Euler's.
    """
    step = flow.clock.value(t) - flow.clock.value(s)
    if t.clean and (method.c == 1).any():
        method = METHODS["euler"]
    rates = [flow.rate(x, d, s)]
    for row, part in zip(method.A[1:], method.c[1:], strict=True):
        p = flow.between(rec, s, t, float(part))
        y = flow.advance(x, s, p, combined(row, rates) * step)
        rates.append(flow.rate(y, rec.evaluate(y, p), p))
    return flow.advance(x, s, t, combined(method.b, rates) * step)


def combined(weights: Iterable[Number], states: list[State]) -> State:
    """sum_j weights_j states_j, without the terms of weight zero, over as many as there are."""
    total = State({})
    for weight, state in zip(weights, states, strict=False):
        total = total + weight * state if np.any(weight) else total
    return total


def adams_bashforth(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    clock: str = "t",
    coordinate: str = "x",
    start: str = "ramp",
) -> Tableau:
    """Adams-Bashforth of any order in any clock, with the weights of the grid's own steps.

    Args:
        process, times: the process and the decreasing grid; one schedule per axis works with a start that ramps up.
        order: k, how many past values are continued; grids of fewer steps use what there is.
        clock: t, log_snr, rho or angle.
        coordinate: x (velocity), x/alpha (noise) or x/sigma (denoiser).
        start: "ramp", orders 1, 2, ..., k; or "runge-kutta", the first k - 1 steps by the classical method of order 4
            in the same clock (a step to sigma = 0, where it cannot look, ramps up).

    Raises:
        ValueError: an order below 1, an unknown clock, coordinate or start.
    """
    order = whole_number("order", order, low=1)
    flow, start = Flow(clock, coordinate), one_of("start", start, STARTS)
    rec = Recorder(f"Adams-Bashforth {order} in {clock} for {coordinate}", process, times, "denoiser")
    return _multistep(rec, flow, order, start)


def lms(process: AffineProcess | Schedule, times: ArrayLike, *, order: int = 4, start: str = "ramp") -> Tableau:
    """The linear multistep method of k-diffusion: Adams-Bashforth for x/alpha in sigma/alpha, by default of order 4.

    Args:
        process, times: the process and the decreasing grid; it may start where alpha = 0 and end where sigma = 0.
        order: how many past values are continued.
        start: "ramp" as in k-diffusion, or "runge-kutta".

    Raises:
        ValueError: an order below 1, or an unknown start.
    """
    order = whole_number("order", order, low=1)
    start = one_of("start", start, STARTS)
    return _multistep(Recorder(f"LMS {order}", process, times, "denoiser"), Flow("rho", "x/alpha"), order, start)


def _multistep(rec: Recorder, flow: Flow, order: int, start: str) -> Tableau:
    x, history = rec.start, History(order)
    for s, t in rec.steps:
        d = rec.evaluate(x, s)
        if flow.finite(s):
            history.add(flow.clock.value(s), flow.rate(x, d, s))
        if not (flow.finite(s) and flow.finite(t)):
            x = t.alpha * d + (t.sigma / s.sigma) * (x - s.alpha * d)
        elif start == "runge-kutta" and not history.full and not t.clean:
            x = runge_kutta_step(rec, flow, x, d, s, t, METHODS["rk4"])
        else:
            weights = lagrange_integrals(history.nodes, history.nodes[0], flow.clock.value(t))
            x = flow.advance(x, s, t, combined(weights, history.values))
    return rec.finish(x)


class History:
    """The last few nodes and the values there, the newest first."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.nodes: list[Number] = []
        self.values: list[State] = []

    @property
    def full(self) -> bool:
        """Whether there are as many values as are ever used."""
        return len(self.nodes) == self.length

    def add(self, node: Number, value: State) -> None:
        """Take in the newest value, forget the oldest."""
        self.nodes = [node, *self.nodes][: self.length]
        self.values = [value, *self.values][: self.length]


# The h^2 of the first step is y''(rho_0): in equal steps of rho it shows early where rho_0 is no larger than the data.
EARLY = {"span": (0.7, 3.0)}


def _member(clock: str, order: int, coordinate: str = "x", start: str = "ramp") -> Family:
    """One entry of the table: startup is min(k, 2) for the ramp, the full order (k <= 5) for the Runge-Kutta start."""
    exact = start == "runge-kutta"
    return Family(
        f"ab{order}-{clock}".replace("_", "-") + ("-rk" if exact else ""),
        adams_bashforth,
        order,
        f"n + {3 * (order - 1)}" if exact else "n",
        "PODC9-18, PODD-56 (Bashforth and Adams 1883)",
        {"order": order, "clock": clock, "coordinate": coordinate, "start": start},
        startup=order if exact else min(order, 2),
        exact_steps=order - 1,
        clock=clock,
        starts_pure=True,
    )


FAMILIES = (
    *(_member("t", k) for k in (1, 2, 3, 4)),
    _member("t", 4, start="runge-kutta"),
    *(_member("log_snr", k) for k in (2, 3, 4)),
    *(_member("rho", k) for k in (2, 3, 4)),
    *(_member("angle", k) for k in (2, 3, 4)),
    *(
        Family(
            f"lms{k}",
            lms,
            k,
            "n",
            "PODC9-18, PODC9-55 (Karras et al. 2022, k-diffusion)",
            {"order": k},
            startup=min(k, 2),
            exact_steps=k - 1,
            clock="rho",
            starts_pure=True,
            measure=EARLY,
        )
        for k in (1, 2, 3, 4)
    ),
    Family(
        "lms4-rk",
        lms,
        4,
        "n + 9",
        "PODC9-18, PODC9-55",
        {"order": 4, "start": "runge-kutta"},
        clock="rho",
        exact_steps=3,
        starts_pure=True,
    ),
)
