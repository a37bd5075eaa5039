r"""Adams-Bashforth methods: the probability flow as dy/du = F in a clock u, F continued by its past values.

    y_t = y_s + sum_{j<k} F_j int_{u_s}^{u_t} l_j(u) du,      l_j the Lagrange polynomials of the last k nodes,

exact integrals for whatever steps the grid has; the clocks with their y and F are those of `clocks`. In rho, where F is
the noise prediction, it is the linear multistep method of k-diffusion. Order k has local error h^(k+1). Steps 1, 2, ...
of a start that ramps up have local errors h^2, h^3, ...: the first one alone costs the global order min(k, 2). A
Runge-Kutta start of order 4 leaves h^5 in each of its k - 1 steps, hence min(k, 5).

A step with an end where u is infinite or F unknown (alpha = 0 first, sigma = 0 last, a jump of the process) is DDIM's,
and such a node takes no part in the continuation. Sources: PODC9-18, PODC9-19, PODC9-55, PODD-56; Karras et al. 2022;
Hairer et al. 1993, III.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import one_of, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.clocks import CLOCKS, Clock, clock_named
from refdiff.samplers.edm import euler_step
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, lagrange_integrals
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.runge_kutta import METHODS, combined, runge_kutta_step
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

STARTS = ("ramp", "runge-kutta")


def adams_bashforth(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    clock: str = "t",
    start: str = "ramp",
) -> Tableau:
    """Adams-Bashforth of any order in any clock, with the weights of the grid's own steps.

    Args:
        process, times: the process and the decreasing grid (n + 1,); one schedule per axis works with a start that
            ramps up.
        order: k, how many past values are continued; grids of fewer steps use what there is.
        clock: t, rho, 1/rho, ratio, angle or log_snr.
        start: "ramp", orders 1, 2, ..., k; or "runge-kutta", the first k - 1 steps by the classical method of order 4
            in the same clock (a step to sigma = 0, where it cannot look, ramps up).

    Raises:
        ValueError: an order below 1, an unknown clock or start.
    """
    order, start = whole_number("order", order, low=1), one_of("start", start, STARTS)
    rec = Recorder(f"Adams-Bashforth {order} in {clock}", process, times, "denoiser")
    return _multistep(rec, clock_named(clock), order, start)


def lms(process: AffineProcess | Schedule, times: ArrayLike, *, order: int = 4, start: str = "ramp") -> Tableau:
    """The linear multistep method of k-diffusion: Adams-Bashforth for x/alpha in sigma/alpha, by default of order 4.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        order: how many past values are continued.
        start: "ramp" as in k-diffusion, or "runge-kutta".

    Raises:
        ValueError: an order below 1, or an unknown start.
    """
    order, start = whole_number("order", order, low=1), one_of("start", start, STARTS)
    return _multistep(Recorder(f"LMS {order}", process, times, "denoiser"), CLOCKS["rho"], order, start)


def _multistep(rec: Recorder, clock: Clock, order: int, start: str) -> Tableau:
    x, history = rec.start, History(order)
    for s, t in rec.steps:
        known = _rate_known(clock, s)
        if known:
            history.add(clock.value(s), clock.slope(rec, x, s))
        if not known or (t.clean and not clock.ends_clean):
            x = euler_step(rec, x, s, t)
        elif start == "runge-kutta" and not history.full and not t.clean:
            x = runge_kutta_step(rec, clock, x, s, t, METHODS["rk4"])
        else:
            weights = lagrange_integrals(history.nodes, history.nodes[0], clock.value(t))
            x = clock.moved(x, s, t, combined(weights, history.values))
    return rec.finish(x)


def _rate_known(clock: Clock, s: Point) -> bool:
    """Whether u is finite and F a rate at s, where sigma > 0: betas that end in 1 jump before their last time."""
    if s.pure_noise and not clock.starts_pure:
        return False
    c = s.coefficients
    turning = s.alpha * c.dsigma - s.sigma * c.dalpha
    return clock.prediction != "velocity" or bool(np.all((turning > 0) & (turning < np.inf)))


class History:
    """The last few nodes and the values there, the newest first: `length` of them at most."""

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


def _member(clock: str, order: int, start: str = "ramp") -> Family:
    """One entry of the table: startup is min(k, 2) for the ramp, the full order (k <= 5) for the Runge-Kutta start."""
    exact = start == "runge-kutta"
    return Family(
        f"ab{order}-{clock}".replace("_", "-") + ("-rk" if exact else ""),
        adams_bashforth,
        order,
        f"n + {3 * (order - 1)}" if exact else "n",
        "PODC9-18, PODD-56 (Bashforth and Adams 1883)",
        {"order": order, "clock": clock, "start": start},
        startup=order if exact else min(order, 2),
        exact_steps=order - 1,
        clock=clock,
        starts_pure=True,
    )


FAMILIES = (
    *(_member("t", k) for k in (1, 2, 3, 4)),
    _member("t", 4, start="runge-kutta"),
    *(_member("log_snr", k) for k in (2, 3, 4)),
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
        measure=EARLY,
    ),
)
