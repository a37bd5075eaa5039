r"""DPM-Solver-v3: the linear part and the parameterization chosen for the data.

In lambda = log(alpha / sigma), with free l, a, b for each coordinate and eps the noise prediction,

    dx/dlambda = L x - N,            L = (log alpha)' - l,       N = sigma eps - l x
    N_new      = e^{-A} N - B,       A = int_s a,                B = int_s e^{-A} b       (from lambda_s)
    x_t        = E(s, t) x_s - int E(lambda, t) e^A (N_new + B) dlambda,      E(r, t) = exp(int_r^t L)

and N_new is taken as its Taylor polynomial at lambda_s with derivatives from the evaluations before: order 1 freezes
it. The l, a and b that make N_new move least along the flow are in `v3_statistics`; with those of Gaussian data one
step of any length is exact.

With b = 0 a step is linear and the sampler a table (`dpm_solver_v3`); b adds constants, which a table has no place
for, so `sample_dpm_solver_v3` stands beside. Sources: PODC9-38, PODC9-40..48 (Zheng et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, real_array, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.numbers import gauss_legendre
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.running import Model, asking
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

Curve = Callable[[Array], Array]  # lambda (m,) -> values (m, 1) or (m, d)
NODES = 32  # of Gauss and Legendre in a piece of a step: to rounding for smooth l, a and b


@dataclass(frozen=True, eq=False)
class Statistics:
    """l, a and b as functions of lambda, with antiderivatives of l and a.

    Attributes:
        linear, scaling, bias: l, a and b, (m,) -> (m, 1) or (m, d).
        linear_integral, scaling_integral: antiderivatives of l and a, likewise.
    """

    linear: Curve
    scaling: Curve
    bias: Curve
    linear_integral: Curve
    scaling_integral: Curve


# ---------------------------------------------------------------------- the solver


class Step(NamedTuple):
    """x_t = gain x_s - sum_j weights_j N_j - offset, with N at s and at the evaluations before: each (1,) or (d,)."""

    gain: Array
    weights: tuple[Array, ...]
    offset: Array


def dpm_solver_v3(
    process: AffineProcess | Schedule, times: ArrayLike, *, statistics: Statistics, order: int = 2
) -> Tableau:
    """DPM-Solver-v3, multistep, for statistics with b = 0: given numbers, or those of Gaussian data of mean 0.

    Args:
        process, times: a process that is the same on all axes; the grid has alpha > 0 and sigma > 0 at both ends, as
            lambda runs over it.
        statistics: l, a and b.
        order: 1, 2, ...; the first steps use what evaluations there are, which caps the order as run at 2.

    Raises:
        ValueError: statistics with b != 0 (`sample_dpm_solver_v3` takes them), or a grid with an infinite lambda.
    """
    rec, steps = _prepared(process, times, statistics, order)
    if any(step.offset.any() for step in steps):
        raise ValueError("statistics must have b = 0 for a table, which has no constants: use sample_dpm_solver_v3")
    x, history = rec.start, list[State]()
    for (s, _), step in zip(rec.steps, steps, strict=True):
        history = [reduced(rec.evaluate(x, s), x, s, statistics), *history][:order]
        x = _weight(step.gain) * x
        for weight, n in zip(step.weights, history, strict=True):
            x = x - _weight(weight) * n
    return rec.finish(x)


def sample_dpm_solver_v3(
    process: AffineProcess | Schedule,
    model: Model,
    x: ArrayLike,
    times: ArrayLike,
    *,
    statistics: Statistics,
    order: int = 2,
) -> Array:
    """DPM-Solver-v3 from points x (..., d) at the first time to points at the last, for any statistics.

    `model` is an ExactModel, or a function (x, t) -> noise; the other arguments are those of `dpm_solver_v3`.

    Raises:
        ValueError: a grid with an infinite lambda, or statistics of another dimension than the points.
    """
    rec, steps = _prepared(process, times, statistics, order)
    rows, restore = points("x", x, np.atleast_1d(real_array("x", x)).shape[-1])
    if steps[0].gain.shape not in ((1,), rows.shape[1:]):
        raise ValueError(f"statistics must have 1 or {rows.shape[1]} axes like x, got {steps[0].gain.shape[0]}")
    history: list[Array] = []
    ask = asking(model, "noise")
    for (s, _), step in zip(rec.steps, steps, strict=True):
        history = [reduced(ask(rows, s.t), rows, s, statistics), *history][:order]
        rows = step.gain * rows - sum(w * n for w, n in zip(step.weights, history, strict=True)) - step.offset
    return restore(rows)


def reduced(eps: Any, x: Any, point: Point, statistics: Statistics) -> Any:
    """N = sigma eps - l x at a point, of arrays and of symbolic states."""
    return eps * point.sigma - x * _weight(statistics.linear(np.atleast_1d(point.log_snr))[0])


def _prepared(
    process: AffineProcess | Schedule, times: ArrayLike, statistics: Statistics, order: int
) -> tuple[Recorder, list[Step]]:
    order = whole_number("order", order, low=1)
    if not isinstance(statistics, Statistics):
        raise TypeError(f"statistics must be Statistics, got {statistics!r}")
    rec = Recorder(f"DPM-Solver-v3, order {order}", process, times, "noise")
    rec.scalar("DPM-Solver-v3")
    rec.finite_log_snr("DPM-Solver-v3 runs over lambda")
    lams = [float(p.log_snr) for p in rec.points]
    schedule = rec.affine.schedules[0]
    plan = [
        step(schedule, lams[i + 1], lams[max(0, i - order + 1) : i + 1][::-1], statistics)
        for i in range(len(rec.steps))
    ]
    return rec, plan


def step(schedule: Schedule, end: float, nodes: Sequence[float], statistics: Statistics) -> Step:
    """The coefficients of the step to lambda = end from nodes[0], with the evaluations at nodes[1:] before it."""
    start, *before = nodes
    h = end - start
    u, w = _rule(max(abs(lam - start) for lam in (end, *before)))
    lams = start + h * u
    # E(lambda, t) e^A at the nodes of the outer integral
    kernel = _integrating_factor(schedule, lams, end, statistics) * np.exp(
        statistics.scaling_integral(lams) - statistics.scaling_integral(np.array([start]))
    )
    moments = [h * ((w * (lams - start) ** k) @ kernel) for k in range(len(nodes))]
    offset = h * (w @ (kernel * _shift(start, lams, statistics)))
    gain = _integrating_factor(schedule, np.array([start]), end, statistics)[0]
    if not before:
        return Step(gain, (moments[0],), offset)
    # N_new^(k) / k! = sum_j (R^-1)_kj (N_new_j - N_new_s), with rows (delta_j, delta_j^2, ...) of R
    deltas = np.array(before) - start
    inverse = np.linalg.inv(deltas[:, None] ** np.arange(1, len(nodes)))
    shares = np.einsum("kd,kj->jd", np.array(moments[1:]), inverse)
    past = np.array(before)
    decay = np.exp(statistics.scaling_integral(np.array([start])) - statistics.scaling_integral(past))
    weights = (moments[0] - shares.sum(axis=0), *(shares * decay))
    return Step(gain, weights, offset - (shares * _shift(start, past, statistics)).sum(axis=0))


def _integrating_factor(schedule: Schedule, lams: Array, end: float, statistics: Statistics) -> Array:
    """E(lambda, end) = alpha_end / alpha e^{-int l}, (m, d)."""
    last = np.array([end])
    ratio = schedule.alpha(schedule.time_of_log_snr(end)) / schedule.alpha(schedule.time_of_log_snr(lams))
    return np.asarray(ratio[:, None] * np.exp(statistics.linear_integral(lams) - statistics.linear_integral(last)))


def _shift(start: float, lams: Array, statistics: Statistics) -> Array:
    """B at each lambda: int_start^lambda e^{-int_start^r a} b dr, (m, d)."""
    u, w = _rule(float(np.abs(lams - start).max()))
    inner = start + np.outer(lams - start, u)
    bias = statistics.bias(inner.ravel())
    if not bias.any():
        return np.zeros((len(lams), 1))
    decay = np.exp(statistics.scaling_integral(np.array([start])) - statistics.scaling_integral(inner.ravel()))
    values = (decay * bias).reshape(*inner.shape, -1)
    return np.asarray((lams - start)[:, None] * np.einsum("j,mjd->md", w, values))


def _rule(length: float) -> tuple[Array, Array]:
    """Gauss and Legendre on [0, 1], in as many pieces as keep each below 2 in lambda."""
    pieces = max(1, int(np.ceil(length / 2)))
    u, w = gauss_legendre(NODES)
    return np.concatenate([(u + k) / pieces for k in range(pieces)]), np.tile(w / pieces, pieces)


def _weight(values: Array) -> Any:
    """One number, or one for each axis."""
    return float(values[0]) if values.shape == (1,) else values
