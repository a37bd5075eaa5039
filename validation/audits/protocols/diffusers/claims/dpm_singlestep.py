r"""Single-step DPM-Solvers: steps over one, two or three intervals of the grid, with the points between as stages.

The classes list an order for every interval, as 1, 2, 3, 1, 2, 1: each 1 begins a step, whose order is its number of
intervals. In the SDE form with H = 2 h, from s to any of these points p,

    x_p = sigma_p / sigma_s e^{-h} x_s + alpha_p ((1 - e^{-H}) D_s + terms of slope and curvature) + c W

where W is the increment of one Brownian path in the clock e^{2 lambda} from s to p, and c = sigma_p e^{-lambda_p}. Two
slips are known: noises that are drawn anew for every p (then D at the stages knows nothing of the noise of the step,
and the weak order falls to 1), and (1 - e^{-H} - H) / H^2 - 1/2 in the weight of the curvature, where + 1/2 stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from refdiff.arguments import Array
from refdiff.samplers.ddim import flow_step, sde_split
from refdiff.samplers.dpm_solver import single_step
from refdiff.samplers.numbers import Number, exp, expm1, phi, root
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule
from refdiff.validation.audits.protocols.diffusers.claims.exponential import Method, lambda_solver, length_zero
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler

ANEW = "draws the noise of a step anew, not as the path goes on from its inner stages: weak order 1"
SUBTRACTED = "has 1/2 with the wrong sign in the weight of the curvature in order 3"


def steps_of(orders: Sequence[int]) -> list[int]:
    """How many intervals each step has."""
    starts = [i for i, order in enumerate(orders) if order == 1]
    return [end - start for start, end in zip(starts, [*starts[1:], len(orders)], strict=True)]


def flow_table(process: Schedule, levels: Array, lengths: list[int], prediction: str, solver_type: str) -> Tableau:
    """Steps of the probability flow over so many intervals each."""
    rec = Recorder("DPM-Solver over the grid's own points", process, levels, prediction)
    x, at = rec.start, 0
    for length in lengths:
        s, *inner, t = rec.points[at : at + length + 1]
        parts = [((p.log_snr - s.log_snr) / (t.log_snr - s.log_snr), p) for p in inner]
        x = single_step(rec, s, t, x, parts, solver_type)
        at += length
    return rec.finish(x)


def sde_table(
    process: Schedule, levels: Array, lengths: list[int], solver_type: str, *, anew: bool = False, sign: float = 1.0
) -> Tableau:
    """Steps of the reverse SDE over so many intervals each, with both slips on request."""
    rec = Recorder("SDE-DPM-Solver++ over the grid's own points", process, levels, "denoiser")
    x, at = rec.start, 0
    for length in lengths:
        s, *points = rec.points[at : at + length + 1]
        path, known = _Path(rec, s, anew), [(s, rec.evaluate(x, s))]
        for p in points[:-1]:
            stage = _sde_stage(x, s, p, known, "midpoint" if solver_type == "midpoint" else "heun", 1.0)
            known.append((p, rec.evaluate(stage + path(p), p)))
        t = points[-1]
        x = _sde_stage(x, s, t, known, solver_type, sign) + path(t)
        at += length
    return rec.finish(x)


class _Path:
    """The noise sigma_p e^{-lambda_p} (W(p) - W(s)) in the clock e^{2 lambda}, for points p from s on."""

    def __init__(self, rec: Recorder, start: Point, anew: bool) -> None:
        self.rec, self.start, self.last, self.anew = rec, start, start, anew
        self.sum = State({})

    def __call__(self, p: Point) -> State:
        _, std = sde_split(self.start, p, 1.0)
        if p.clean or self.anew:
            return self.rec.noise(std)
        # in units of the whole increment from s to p: what was there by the last point, and what came since
        gained = expm1(2 * (p.log_snr - self.last.log_snr))
        scale = exp(2 * (self.last.log_snr - self.start.log_snr))  # e^{2 lambda} at the last point, 1 at s
        self.sum = self.sum + root(gained * scale) * self.rec.normal()
        self.last = p
        noise: State = self.sum * (std / root(expm1(2 * (p.log_snr - self.start.log_snr))))
        return noise


def _sde_stage(
    x: State, s: Point, p: Point, known: Sequence[tuple[Point, State]], solver_type: str, sign: float
) -> State:
    """The mean of x at p: with D frozen at s, or with what one or two later evaluations say of its change."""
    kept, _ = sde_split(s, p, 1.0)
    h, (_, f0) = p.log_snr - s.log_snr, known[0]
    H: Number = 2 * h
    end: State = flow_step(x, f0, s, p, kept)
    slopes = [(float((q.log_snr - s.log_snr) / h), f) for q, f in known[1:]]
    changes: list[tuple[Number, State]] = [(r, (f - f0) / r) for r, f in slopes]
    if len(changes) == 1:
        share = H * phi(2, -H) if solver_type == "heun" else -expm1(-H) / 2
        end += changes[0][1] * (p.alpha * share)
    elif changes:
        (r1, d1), (r2, d2) = changes
        if solver_type == "midpoint":
            end += d2 * (p.alpha * H * phi(2, -H))
            return end
        slope, bend = (d1 * r2 - d2 * r1) / (r2 - r1), (d2 - d1) * (2 / (r2 - r1))
        weight = H * phi(3, -H) if sign > 0 else H * phi(3, -H) - 1
        end += (slope * (H * phi(2, -H)) + bend * weight) * p.alpha
    return end


def singlestep(made: Made) -> Sampler:
    """DPMSolverSinglestepScheduler."""
    scheduler = made.scheduler
    config = scheduler.config
    lengths, kind = steps_of(scheduler.order_list), config.solver_type
    slips: dict[str, Method] = {}

    if config.algorithm_type == "sde-dpmsolver++":

        def sde(process: Schedule, levels: Array, anew: bool = False, sign: float = 1.0) -> Tableau:
            return sde_table(process, levels, lengths, kind, anew=anew, sign=sign)

        method: Method = sde
        if max(lengths) > 1:
            slips[ANEW] = partial(sde, anew=True)
        if max(lengths) == 3 and kind == "heun":
            slips |= {
                SUBTRACTED: partial(sde, sign=-1.0),
                f"{SUBTRACTED}, and {ANEW}": partial(sde, anew=True, sign=-1.0),
            }
    else:
        prediction = "denoiser" if config.algorithm_type == "dpmsolver++" else "noise"

        def method(process: Schedule, levels: Array) -> Tableau:
            return flow_table(process, levels, lengths, prediction, kind)

    order = min(config.solver_order, 2)
    return lambda_solver(made, scheduler, method, order, variants=slips, conventions=length_zero(scheduler))


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"DPMSolverSinglestepScheduler": singlestep}
