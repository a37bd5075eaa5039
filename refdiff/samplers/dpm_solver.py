r"""DPM-Solver: the probability flow in lambda = log(alpha / sigma), with its linear part exact.

    noise   x_t = alpha_t / alpha_s x_s - sigma_t sum_{k<n} h^(k+1) phi_(k+1)(h)  eps^(k)  +  O(h^(n+1))
    data    x_t = sigma_t / sigma_s x_s + alpha_t sum_{k<n} h^(k+1) phi_(k+1)(-h) D^(k)    +  O(h^(n+1))

from s to t < s, h = lambda_t - lambda_s, with the k-th total derivatives in lambda along the trajectory. n = 1 is DDIM.
Higher ones take the derivatives from differences of evaluations f_0, f_1, ...

    single step   inside the step, at lambda_s + r h:  h f' ~ (f_1 - f_0) / r_1
    multistep     of steps before, at lambda_s - r h:  h f' ~ (f_0 - f_1) / r

and weigh h f' with h phi_2 (solver types taylor, heun) or with half the weight of f_0 (dpmsolver, midpoint), which
differ by O(h^3) in the step. A step onto sigma = 0, or towards noise onto alpha = 0, where h is infinite, is of first
order.

This file has the steps for both predictions and the noise family; DPM-Solver++ takes the data prediction. Sources:
PODC9-21, PODC9-23..26, PODC9-31..35 (Lu et al. 2022a, 2022b).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import one_of, real_scalar, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import frozen_step
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, phi
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

# The names of the authors' code, then those of the diffusers library; taylor and heun are one, and dpmsolver and
# midpoint differ in one place: whether the second inner stage of order 3 weighs its slope exactly or with one half.
SOLVER_TYPES = ("dpmsolver", "taylor", "midpoint", "heun")
FULL_WEIGHT = ("taylor", "heun")


# ---------------------------------------------------------------------- one step, for the noise and for the data


def expansion(prediction: str, s: Point, t: Point, order: int, eta: Number = 0.0) -> tuple[Number, list[Number]]:
    """The weight of x, and those of f, h f', h^2 f'', of which there are `order`, in the step from s to t.

    eta is k^2 of the reverse SDE in `ddim`, a number or one for each axis, 0 the probability flow: it makes the data's
    h (1 + eta) h, and the noise's weights 1 + eta times as large.
    """
    carry, first, _ = frozen_step(s, t, eta, prediction)
    if order == 1:
        return carry, [first]
    h = t.log_snr - s.log_snr
    size, z = (-(1 + eta) * t.sigma * h, h) if prediction == "noise" else (t.alpha * (1 + eta) * h, -(1 + eta) * h)
    return carry, [first, *(size * phi(k, z) for k in range(2, order + 1))]


def single_step(
    rec: Recorder, s: Point, t: Point, x: State, inner: Sequence[tuple[Number, Point]], solver_type: str
) -> State:
    """A step with evaluations at s and at the inner points, each given with its r: of order 1 + their number.

    solver_type is one of SOLVER_TYPES.
    """
    kind, f0 = rec.prediction, rec.evaluate(x, s)
    carry, w = expansion(kind, s, t, 1 + len(inner))
    end: State = carry * x + w[0] * f0
    if not inner:
        return end
    (r1, one), *rest = inner
    carry1, v = expansion(kind, s, one, 1)
    d1 = (rec.evaluate(carry1 * x + v[0] * f0, one) - f0) / r1  # h f'
    if not rest:
        end += (w[1] if solver_type in FULL_WEIGHT else w[0] / 2) * d1
        return end
    [(r2, two)] = rest
    carry2, v = expansion(kind, s, two, 2)
    inside = (v[0] / 2 if solver_type == "midpoint" else v[1]) * r2  # f changes by r_2 h f' on the way there
    d2 = (rec.evaluate(carry2 * x + v[0] * f0 + inside * d1, two) - f0) / r2
    if solver_type not in FULL_WEIGHT:
        end += w[1] * d2
        return end
    # slope and curvature at s of the parabola through f_0, f_1, f_2
    slope, bend = (r2 * d1 - r1 * d2) / (r2 - r1), 2 * (d2 - d1) / (r2 - r1)
    end += w[1] * slope + w[2] * bend
    return end


def multi_step(
    prediction: str,
    s: Point,
    t: Point,
    x: State,
    history: Sequence[tuple[Point, State]],
    solver_type: str,
    halved_curvature: bool = False,
    eta: Number = 0.0,
) -> State:
    """A step with the evaluations at s and before, newest first: of order their number; without its noise.

    solver_type and halved_curvature as in `Multistep`, eta as in `expansion`.
    """
    carry, w = expansion(prediction, s, t, len(history), eta)
    end: State = carry * x + w[0] * history[0][1]
    changes = differences(s, t, history)
    if len(changes) == 1:
        end += (w[1] if solver_type in FULL_WEIGHT else w[0] / 2) * changes[0]
    elif changes:
        end += w[1] * changes[0] + w[2] * ((1 if halved_curvature else 2) * changes[1])
    return end


def differences(s: Point, t: Point, history: Sequence[tuple[Point, State]]) -> list[State]:
    """h f' and h^2 f'' / 2 at s, of the polynomial through up to three evaluations: one fewer than there are."""
    (_, f0), *older = history
    if not older:
        return []
    h, (before, f1) = t.log_snr - s.log_snr, older[0]
    r0 = (s.log_snr - before.log_snr) / h
    d0 = (f0 - f1) / r0
    if len(older) == 1:
        return [d0]
    r1 = (before.log_snr - older[1][0].log_snr) / h
    second = (d0 - (f1 - older[1][1]) / r1) / (r0 + r1)  # the divided difference
    return [d0 + r0 * second, second]


def usable(
    history: Sequence[tuple[Point, State]],
    t: Point,
    left: int,
    order: int,
    lower_order_final: bool,
    euler_at_final: bool,
) -> Sequence[tuple[Point, State]]:
    """The evaluations that a multistep method takes for the step to t, the `left`-th from the end.

    order, lower_order_final and euler_at_final as in `Multistep`.
    """
    # an evaluation where alpha = 0 lies infinitely far back in lambda, and says nothing about a slope
    near = [node for node in history if not node[0].pure_noise] or history
    most = 1 if t.clean or t.pure_noise or (euler_at_final and left == 1) else left if lower_order_final else order
    return near[: min(most, order)]


# ---------------------------------------------------------------------- samplers, for the noise and for the data


@dataclass(frozen=True)
class Multistep:
    """How a multistep method takes its steps.

    Args:
        order: 1, 2 or 3.
        solver_type: the weight of the slope in steps of order 2.
        lower_order_final: the last steps have an order of at most the number of steps left.
        euler_at_final: the last step has order 1.
        halved_curvature: in order 3 half of the interpolant's second derivative.
        solver_types: those that there are.

    Raises:
        ValueError: an unknown order or solver_type.
    """

    order: int
    solver_type: str
    lower_order_final: bool = False
    euler_at_final: bool = False
    halved_curvature: bool = False
    solver_types: tuple[str, ...] = SOLVER_TYPES

    def __post_init__(self) -> None:
        whole_number("order", self.order, low=1, high=3)
        one_of("solver_type", self.solver_type, self.solver_types)


def singlestep_table(
    name: str,
    process: AffineProcess | Schedule,
    times: ArrayLike,
    prediction: str,
    order: int,
    r1: float | None,
    r2: float | None,
    solver_type: str,
) -> Tableau:
    """Every step of the grid by `single_step`, with inner points at given parts of it in lambda.

    Args:
        name, process, times, prediction: of the table, see `Recorder`; times (n + 1,).
        order, r1, r2, solver_type: as in `dpm_solver`.
    """
    order, parts = whole_number("order", order, low=1, high=3), inner_parts(order, r1, r2)
    one_of("solver_type", solver_type, SOLVER_TYPES)
    rec = Recorder(f"{name}-{order}" if prediction == "noise" else name, process, times, prediction)
    check_start(rec)
    x = rec.start
    for s, t in rec.steps:
        inner = () if t.clean or s.pure_noise else parts
        points = [(r, t if r == 1 else rec.between(s, t, r)) for r in inner]
        x = single_step(rec, s, t, x, points, solver_type)
    return rec.finish(x)


def multistep_table(
    name: str,
    process: AffineProcess | Schedule,
    times: ArrayLike,
    prediction: str,
    rules: Multistep,
    *,
    towards_noise: bool = False,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Tableau:
    """Every step of the grid by `multi_step`, with as many evaluations as there are, up to the order.

    Args:
        name, process, times, prediction, towards_noise: of the table, see `Recorder`; times (n + 1,).
        rules: how the steps are taken.
        eta, s_noise: k^2 of the reverse SDE, and a factor of its noise.

    Raises:
        ValueError: a start at alpha = 0 for the noise, or at sigma = 0 towards it.
    """
    rec = Recorder(name, process, times, prediction, towards_noise=towards_noise)
    check_start(rec)
    if towards_noise and rec.points[0].clean:
        raise ValueError(f"times must start where sigma > 0 to go towards noise, got {rec.points[0].t}")
    x, history, count = rec.start, list[tuple[Point, State]](), len(rec.steps)
    for left, (s, t) in zip(range(count, 0, -1), rec.steps, strict=True):
        history = [(s, rec.evaluate(x, s)), *history][: rules.order]
        near = usable(history, t, left, rules.order, rules.lower_order_final, rules.euler_at_final)
        # on axes where sigma = 0 the noise prediction gives the denoised point, whatever eta
        share = eta * (t.sigma > 0) if prediction == "noise" else eta
        x = multi_step(prediction, s, t, x, near, rules.solver_type, rules.halved_curvature, share)
        if np.any(share):
            x = x + rec.noise(s_noise * frozen_step(s, t, share, prediction)[2])
    return rec.finish(x)


def inner_parts(order: int, r1: float | None, r2: float | None) -> tuple[float, ...]:
    """r1 and r2 as the order needs them; 1/2 in order 2, 1/3 and 2/3 in order 3, unless given.

    Raises:
        ValueError: parts that are not increasing in (0, 1], or that the order does not use.
    """
    for name, value, least in (("r1", r1, 2), ("r2", r2, 3)):
        if value is not None and order < least:
            raise ValueError(f"{name} must be left out in order {order}, got {value}")
    given = [1 / order if r1 is None else r1, 2 / 3 if r2 is None else r2][: order - 1]
    parts = tuple(real_scalar(f"r{k}", r, low=0, high=1, open_low=True) for k, r in enumerate(given, 1))
    if order == 3 and parts[0] >= parts[1]:
        raise ValueError(f"r1 must be less than r2, got r1 = {parts[0]} and r2 = {parts[1]}")
    return parts


def check_start(rec: Recorder) -> None:
    """Nothing but for the noise prediction at alpha = 0.

    Raises:
        ValueError: a start where it says nothing about x_0.
    """
    if rec.prediction == "noise":
        rec.finite_log_snr("the noise prediction says nothing about x_0 there, the denoiser does", last=False)


# ---------------------------------------------------------------------- the noise family


def dpm_solver(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    r1: float | None = None,
    r2: float | None = None,
    solver_type: str = "dpmsolver",
) -> Tableau:
    """DPM-Solver-1, 2 and 3: `order` evaluations a step, inside the step, of the noise.

    Order 2 holds for every r1 (the gamma of PODC9-25, with solver_type taylor). Order 3 needs r2 = 2/3 and falls to
    2 elsewhere: the first inner stage is off by O(h^2), and only there does its weight vanish with h.

    Args:
        process, times: the process and the decreasing grid (n + 1,), from alpha > 0; a step onto sigma = 0 is
            DPM-Solver-1.
        order: 1, 2 or 3.
        r1, r2: where the inner evaluations are, as parts of the step in lambda: 0 < r1 < r2 <= 1.
        solver_type: dpmsolver (midpoint) as in the paper's algorithm boxes, taylor (heun) with the exact weights.

    Raises:
        ValueError: an unknown order or solver_type, parts that are not increasing in (0, 1] or not used, a start at
            alpha = 0, or inner points for a process that is not the same on all axes.
    """
    return singlestep_table("DPM-Solver", process, times, "noise", order, r1, r2, solver_type)


def dpm_solver_multistep(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    solver_type: str = "dpmsolver",
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    halved_curvature: bool = False,
    towards_noise: bool = False,
) -> Tableau:
    """DPM-Solver with the evaluations of earlier steps: one evaluation of the noise a step.

    The first steps are of order 1, 2, as far as there is a history, which caps the order as run at 2.

    Args:
        process, times: the process and the decreasing grid (n + 1,), from alpha > 0; a step onto sigma = 0 is of first
            order.
        order: 1, 2 or 3.
        solver_type: the weight of the slope in steps of order 2: dpmsolver (midpoint) or taylor (heun).
        lower_order_final: the last steps have an order of at most the number of steps left.
        euler_at_final: the last step has order 1.
        halved_curvature: in order 3 take half of the interpolant's second derivative, as the authors' released code
            and what follows it do; the order is then 2.
        towards_noise: the grid increases from sigma > 0, and the same steps invert the flow.

    Raises:
        ValueError: an unknown order or solver_type, or a start at alpha = 0.
    """
    rules = Multistep(order, solver_type, lower_order_final, euler_at_final, halved_curvature)
    return multistep_table(f"DPM-Solver-{order}M", process, times, "noise", rules, towards_noise=towards_noise)


# As run, order 3 of a multistep method is 2: its first step has a local error O(h^2), and there is one of it.
BOX, BOOK = "PODC9-26 (Lu et al. 2022a)", "PODC9-23, PODC9-25 (Lu et al. 2022a)"
FAMILIES = (
    Family("dpm-solver-1", dpm_solver, 1, "n", "PODC9-24 (Lu et al. 2022a)", {"order": 1}),
    Family("dpm-solver-2", dpm_solver, 2, "2n", BOX, {"order": 2}),
    Family("dpm-solver-2-taylor", dpm_solver, 2, "2n", BOOK, {"order": 2, "solver_type": "taylor"}),
    Family("dpm-solver-3", dpm_solver, 3, "3n", BOOK, {"order": 3}),
    Family("dpm-solver-3-taylor", dpm_solver, 3, "3n", BOOK, {"order": 3, "solver_type": "taylor"}),
    Family("dpm-solver-2m", dpm_solver_multistep, 2, "n", BOOK, {"order": 2}),
    Family("dpm-solver-2m-taylor", dpm_solver_multistep, 2, "n", BOOK, {"order": 2, "solver_type": "taylor"}),
    Family("dpm-solver-3m", dpm_solver_multistep, 3, "n", BOOK, {"order": 3}, startup=2, exact_steps=2),
    Family("dpm-solver-3m-halved", dpm_solver_multistep, 2, "n", BOOK, {"order": 3, "halved_curvature": True}),
)
