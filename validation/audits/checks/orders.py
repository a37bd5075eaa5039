r"""Whole runs with the perfect network: against the claimed table on the same network, and against the exact flow.

    trajectory   the foreign sampler and the claimed table from the same points (and the same normals) must end at the
                 same points, to rounding: right coefficients, right scaling and right levels together
    order        errors(n) ~ C n^-p against the exact flow, for the foreign sampler and for its claimed table on the
                 same grids. Both must fall alike, and where one stops falling the other must too

Deterministic samplers are compared with the flow map on a mixture, stochastic ones by the 2-Wasserstein distance of
the output's law, from recovered weights, on Gaussian data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.dynamics.flow import flow
from refdiff.model import ExactModel
from refdiff.processes.affine import motion
from refdiff.samplers.order import Order, fit
from refdiff.samplers.propagation import flow as straight
from refdiff.samplers.times import uniform_log_snr
from refdiff.schedules import Schedule
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.checks.exactness import exact, summary
from refdiff.validation.audits.findings import Finding, Verdict, judged, not_applicable
from refdiff.validation.audits.reading import FEW, FEW_QUICK, Read, Unreadable, counts, read
from refdiff.validation.audits.rounding import OPERATIONS, WORST
from refdiff.validation.audits.rows import RULE, Rows
from refdiff.validation.audits.subject import Subject

TRAJECTORY, ORDER = "trajectory", "order"
POINTS = 6
DATA = {
    "Gaussian": Gaussian([0.7, -0.3], [0.25, 1.5]),
    "mixture": GaussianMixture.isotropic([[-1.0, 0.3], [1.2, -0.4]], [0.09, 0.25], [0.4, 0.6]),
}
LINE = (0.7, 0.25)  # mean and variance of the data of weak orders
SWEEP, SWEEP_QUICK = (8, 16, 32, 64), (8, 16, 32)
SPAN = (-1.0, 1.2)  # of log alpha/sigma, where grids can be given: there equal steps are fine in every clock
ABOVE = 10.0  # times what rounding may be, for an error to take part in a fit
# what a fit over four counts leaves open: see tests of the orders of families
LEAST = 0.1
ORDER_RULE = "the spread of the slopes in the claimed table's own fit on the same grids, at least 0.1, and rounding"
MOST = 140  # evaluations of a run: reading one takes as many points
FINE = 0.01  # of a rounding of the sampler's numbers: so exactly is a step of the flow solved, and at best to 1e-12
GROWS = 10  # times that, the error of the flow at the end
FLAT = 0.9  # an error that falls by less than this factor when the steps are doubled does not fall


def trajectory(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Where runs with the perfect network end."""
    for steps in counts(subject, quick, FEW, FEW_QUICK):
        place = f"{steps} steps"
        try:
            found = read(subject, steps)
        except Unreadable as why:
            yield not_applicable(subject.name, TRAJECTORY, f"{place}: {why}")
            continue
        for data, law in DATA.items():
            yield _ends(subject.name, found, law, f"{place}, {data} data")


def _ends(name: str, found: Read, law: GaussianMixture, place: str) -> Finding:
    run = Run(found, law)
    theirs, mine = run.foreign(), run.method
    size = float(np.sqrt(np.mean(mine**2)))
    off = float(np.abs(theirs - mine).max()) / size
    bound = run.rounding() / size
    text = f"ends {off:.3g} from where the method does, relative to the points"
    details: dict[str, Any] = {}
    if not found.table.stochastic:
        right = run.exact
        errors = [float(np.abs(end - right).max()) / size for end in (theirs, mine)]
        text += f"; its error against the exact flow is {errors[0]:.3g}, the method's {errors[1]:.3g}"
        details = {"error": errors[0], "error of the method": errors[1]}
    return judged(
        name, TRAJECTORY, off, bound, f"{place}: {text}", rule=RULE, place=place, script=found.sampler.script, **details
    )


class Run:
    """One sampler, one law, one batch of points.

    Levels are those of the claimed table; those that the sampler tells where it rounds its times by design.
    """

    def __init__(self, found: Read, law: GaussianMixture) -> None:
        self.found, self.law = found, law
        claim, comparison = found.claim, found.comparison
        self.table = comparison.table
        self.model = ExactModel(law, claim.process)
        self.points = self.model.sample(POINTS, float(self.table.times[0]), 7)
        self.x = self.points / self.table.scale[0]
        rng = np.random.default_rng(11)
        self.heard_normals = rng.standard_normal((comparison.heard.draws, *self.x.shape))
        self.normals = rng.standard_normal((self.table.draws, *self.x.shape))
        for drawn in comparison.drawn:
            if drawn.heard is not None and drawn.table is not None:
                self.normals[drawn.table] = drawn.sign * self.heard_normals[drawn.heard]
        if comparison.rotation is not None:
            self.normals = np.tensordot(comparison.rotation.T, self.heard_normals, axes=1)
        levels = found.told
        self.rounds = levels is not None and levels.verdict is Verdict.CONVENTION

    def foreign(self) -> Array:
        """Where the sampler ends, with the network that it would have."""
        sampler, claim = self.found.sampler, self.found.claim
        drawn = iter(self.heard_normals)
        network = self._by_order()
        if sampler.told is not None:
            network = sampler.network(ExactModel(self.law, sampler.trained or claim.process))
        return np.asarray(sampler.play(network, self.x.copy(), lambda: next(drawn).copy()), dtype=float)

    def _by_order(self) -> Callable[[Array, Any], Array]:
        """A network that knows the claimed level of every evaluation, whatever it is told."""
        stages, scales = iter(self.found.mine.at), iter(self.found.claim.scales(self.table))

        def network(x: Array, t: Any) -> Array:  # noqa: ARG001
            k = next(stages)
            return self._answer(self.table.scale[k] * np.asarray(x, dtype=float) / next(scales), self.table.times[k])

        return network

    @cached_property
    def method(self) -> Array:
        """Where the claimed table ends."""
        return self._played(self.found.mine)

    def rounding(self) -> float:
        """How far apart the two may be."""
        right, rng = self.method, np.random.default_rng(2)
        changes = [float(np.abs(self._played(rows, rng) - right).max()) for rows in self.found.rehearsals]
        return WORST * max(changes, default=0.0) + OPERATIONS * self.found.sampler.eps * float(np.abs(right).max())

    @property
    def tolerance(self) -> float:
        """Of each step of the flow, relative."""
        return max(1e-12, FINE * self.found.sampler.eps)

    @cached_property
    def exact(self) -> Array:
        """Where the probability flow ends, in the sampler's coordinate."""
        table = self.table
        ends = float(table.times[0]), float(table.times[-1])
        data = next(name for name, law in DATA.items() if law is self.law)
        return np.asarray(_flowed(data, self.found.claim.process, *ends, self.tolerance) / table.scale[-1])

    def _answer(self, x: Array, t: float) -> Array:
        return np.asarray(self.model.predict(x, float(t), self.found.claim.prediction))

    def _played(self, rows: Rows, rng: np.random.Generator | None = None) -> Array:
        """The rows run; with levels and answers off by roundings, if a generator is given."""
        sampler, claim = self.found.sampler, self.found.claim
        by = OPERATIONS * sampler.eps
        times, final = self.found.comparison.heard.times, claim.process.T
        network = None
        if self.rounds:
            network = sampler.network(ExactModel(self.law, sampler.trained or claim.process))
            scales = claim.scales(self.table)

        def answer(j: int, x: Array, t: float) -> Array:
            if network is not None:
                result = network(x / rows.table.scale[rows.at[j]] * scales[j], times[j])
            else:
                near = t if rng is None else min(t * (1 + by * rng.choice([-1.0, 1.0])), final)
                result = self._answer(x, near)
            return result if rng is None else result * (1 + by * rng.uniform(-1, 1, result.shape))

        return rows.played(answer, self.x, self.normals)


@cache
def _flowed(data: str, process: Schedule, start: float, end: float, tolerance: float) -> Array:
    """Where the flow takes the points of `Run`."""
    law, model = DATA[data], ExactModel(DATA[data], process)
    if isinstance(law, Gaussian):
        first, last = (motion(process.coefficients(t)) for t in (start, end))
        gain, offset = straight(first, last, law.mean(), np.diag(law.cov()))
        return np.asarray(gain * model.sample(POINTS, start, 7) + offset)
    return flow(model, model.sample(POINTS, start, 7), start, end, rtol=tolerance, atol=0.1 * tolerance).x


# ---------------------------------------------------------------------- orders


class Errors(NamedTuple):
    """The error of one number of steps, of the sampler and of the method."""

    foreign: float
    method: float


def order(subject: Subject, quick: bool) -> Iterator[Finding]:
    """How the error falls with the number of steps."""
    sweep: tuple[int, ...] = SWEEP_QUICK if quick else SWEEP
    if subject.steps and subject.on_grid is None:
        sweep = tuple(sorted(subject.steps))
    try:
        most = MOST * sweep[0] / max(1, len(_on_span(subject, sweep[0]).comparison.heard.times))
    except Unreadable as why:
        yield _unread(subject, why)
        return
    sweep = tuple(n for n in sweep if n <= most)
    if len(sweep) < 3:
        yield not_applicable(subject.name, ORDER, "it takes too few numbers of steps for an order")
        return
    try:
        runs = [_measured(_on_span(subject, n)) for n in sweep]
    except Unreadable as why:
        yield _unread(subject, why)
        return
    pairs, rounding = [one.errors for one in runs], runs[-1].rounding()
    curve = {"counts": sweep, "errors": [e.foreign for e in pairs], "method": [e.method for e in pairs]}
    try:
        mine = fit(sweep, [e.method for e in pairs], ABOVE * rounding, 4)
    except ValueError as why:  # too few errors above rounding
        yield not_applicable(subject.name, ORDER, str(why), **curve)
        return
    least = min(e.method for n, e in zip(sweep, pairs, strict=True) if n in mine.window)
    # what rounding does to the logarithm of the least error moves a fit over four doublings by at most four times that
    bound = max(LEAST, mine.spread) + 4 * rounding / least
    if mine.order < LEAST or bound > 1:
        listed = ", ".join(f"{e.method:.3g} at {n}" for n, e in zip(sweep, pairs, strict=True))
        text = f"on its grids the method's own error does not fall as a power of the steps: {listed}"
        yield not_applicable(subject.name, ORDER, text, **curve)
        return
    yield _fallen(subject, curve, mine, bound)


def _unread(subject: Subject, why: Unreadable) -> Finding:
    """What breaks at the numbers of steps of the sweep, which other checks may not try, is said here."""
    verdict = Verdict.WRONG if why.defect else Verdict.NOT_APPLICABLE
    return Finding(subject.name, ORDER, verdict, str(why), place="sweep")


def _fallen(subject: Subject, curve: dict[str, Any], mine: Order, bound: float) -> Finding:
    sweep, foreign, method = (curve[name] for name in ("counts", "errors", "method"))
    claim = _on_span(subject, sweep[0]).claim
    meant = f" (order {claim.order:g} is meant)" if claim.order is not None else ""
    # over the same counts as the method's
    taken = [(n, e) for n, e in zip(sweep, foreign, strict=True) if n in mine.window]
    found = fit([n for n, _ in taken], [max(e, 1e-300) for _, e in taken], 0.0, len(taken))
    text = f"errors fall with order {found.order:.2f}, the method's on the same grids with {mine.order:.2f}{meant}"
    missing = mine.order - found.order
    # a fit may foresee a fall that the errors do not show: the last numbers of steps are asked by themselves too
    ends = last_slope(sweep, foreign, mine.window), last_slope(sweep, method, mine.window)
    if ends[1] - ends[0] > max(missing, bound):
        missing = ends[1] - ends[0]
        text += f"; at the last numbers of steps with {ends[0]:.2f}, the method's with {ends[1]:.2f}"
    if foreign[-1] > FLAT * foreign[-2] and method[-1] < FLAT * method[-2]:
        text += f"; the error stagnates at {foreign[-1]:.3g}, the method's is {method[-1]:.3g}"
    return judged(subject.name, ORDER, missing, bound, text, rule=ORDER_RULE, place="sweep",
                  **curve, orders=(found.order, mine.order))  # fmt: skip


def last_slope(counts: Sequence[int], errors: Sequence[float], window: Sequence[int]) -> float:
    """The p of error ~ steps^-p between the last two numbers of steps of a window."""
    (n, e), (more, least) = [(n, max(e, 1e-300)) for n, e in zip(counts, errors, strict=True) if n in window][-2:]
    return float(np.log(e / least) / np.log(more / n))


def _on_span(subject: Subject, steps: int) -> Read:
    """The sampler of so many steps: on equal steps of log alpha/sigma where grids can be given."""
    if subject.on_grid is None:
        return read(subject, steps)
    if -steps not in subject.memory:  # what was read on other grids than the sampler's own
        process = read(subject, counts(subject, True, FEW, FEW_QUICK)[0]).claim.process
        start, end = (float(process.time_of_log_snr(lam)) for lam in SPAN)
        sampler = subject.on_grid(uniform_log_snr(process, steps, start=start, end=end))
        subject.memory[-steps] = read(Subject(subject.name, lambda _: sampler), steps)
    found: Read = subject.memory[-steps]
    return found


class Measured(NamedTuple):
    """What one number of steps shows.

    Attributes:
        errors: relative to the size of the points, or of the data.
        rounding: asked for what of an error may be rounding, and the tolerance of the flow with what it grows to.
    """

    errors: Errors
    rounding: Callable[[], float]


def _measured(found: Read) -> Measured:
    if found.table.stochastic:
        errors = Errors(_distance(found.theirs), _distance(found.mine))
        return Measured(errors, lambda: float(found.allowed(lambda rows: np.array(_distance(rows)))))
    run = Run(found, DATA["mixture"])
    size = _size(run.exact)
    errors = Errors(*(float(np.abs(end - run.exact).max()) / size for end in (run.foreign(), run.method)))
    return Measured(errors, lambda: run.rounding() / size + GROWS * run.tolerance)


def _size(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _distance(rows: Rows) -> float:
    """The 2-Wasserstein distance of the output's law, exactly, in units of the data's size."""
    mean, variance = summary(rows, *LINE)
    right = exact(rows.table, *LINE)
    return float(np.hypot(mean - right[0], np.sqrt(variance) - np.sqrt(right[1])))


CHECKS: tuple[Check, ...] = (trajectory, order)
