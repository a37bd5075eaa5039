r"""Drift and diffusion functions, and the integrators of libraries that are given them.

Diffusion runs backward in t, libraries forward in u = start - t:

    dx = -F du + G dw,    F = (1 + k^2) v - k^2 f x = f x - (1 + k^2) / 2 g^2 S,    G = k g

k = 0 is the probability flow, k = 1 the reverse equation. An integrator is presented with F and G of the exact model,
of which it sees the velocity as impulses. A foreign drift is put into Euler's loop, so that each wrong coefficient
shows as a weight of a state, of the score or of a normal:

    make(score) -> drift(u, x), or an object with f(u, x) and g(u, x) (torchsde's);  score(x, t)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import refdiff.schedules as schedules
from refdiff.arguments import Array
from refdiff.samplers.impulse import NotLinear, listen
from refdiff.samplers.order import fit
from refdiff.samplers.reverse_sde import euler_maruyama
from refdiff.schedules import Schedule, VPLinear
from refdiff.validation.audits.findings import Finding, Verdict, judged, not_applicable
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols.arrays import to_jax, to_numpy, to_torch
from refdiff.validation.audits.protocols.integrators import Build, claimed
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.subject import Claim, Sampler, Subject, Variant

Drift = Callable[[float, Array], Array]  # (u, x) -> dx/du
Diffusion = Callable[[float], float]  # u -> G
TIMES = 8  # roundings of a time: of the grid, the step, the place in it and the change of clock
# (drift, diffusion, x, times u, normal) -> x at the last time, all in NumPy
Run = Callable[[Drift, Diffusion, Array, Array, Callable[[], Array]], Array]
ARRAYS: dict[str, Callable[[Any], Any]] = {"numpy": np.asarray, "torch": to_torch, "jax": to_jax}


@dataclass(frozen=True)
class Way:
    """Which equation is integrated, and from where to where.

    Args:
        process: whose times these are.
        start, end: times of the noisier and of the cleaner end; u = start - t.
        noise: k, the share of noise.
    """

    process: Schedule
    start: float = 1.0
    end: float = 0.0
    noise: float = 0.0

    def clock(self, steps: int, dtype: str) -> Array:
        """u at the ends of so many equal steps, in the number type of the solver."""
        return np.linspace(0, self.start - self.end, steps + 1).astype(dtype)

    def grid(self, clock: Array) -> Array:
        """The times t of a clock, exactly."""
        return np.asarray(self.start - clock.astype(float))

    def time(self, u: float, eps: float = 0.0) -> float:
        """t at u; within rounding of the end it is the end, of which some solvers keep a rounding away."""
        t = min(max(self.start - float(u), 0.0), self.process.T)
        return self.end if abs(t - self.end) <= TIMES * eps * self.start else t

    def drift(self, model: Callable[[Array, Any], Array], eps: float = 0.0) -> Drift:
        """dx/du by a model that answers the velocity, of a solver whose numbers have these spacings."""
        k2 = self.noise**2

        def rate(u: float, x: Array) -> Array:
            t = self.time(u, eps)
            v = model(np.asarray(x, dtype=float), t)
            return -v if not k2 else k2 * float(self.process.f(t)) * np.asarray(x, dtype=float) - (1 + k2) * v

        return rate

    def diffusion(self, u: float) -> float:
        """G at u."""
        t = self.time(u)
        return self.noise * float(np.sqrt(self.process.g2(t)))

    def gain(self, t: Array, variance: float) -> Array:
        """dx_end / dx_t along the equation without its noise, for data N(0, variance)."""
        c, last = self.process.coefficients(t), self.process.coefficients(self.end)
        ratio = (last.alpha**2 * variance + last.sigma**2) / (c.alpha**2 * variance + c.sigma**2)
        return np.asarray(ratio ** ((1 + self.noise**2) / 2) * (c.alpha / last.alpha) ** self.noise**2)


FLOWING = Way(FLOW)
# rates of size 1 and nothing infinite at either end; a step of 2^-n is a number of every type
REVERSING = Way(VPLinear(beta_min=0.5, beta_max=4.0, T=1.25), 1.25, 0.25, 1.0)


@dataclass(frozen=True)
class Driven(Sampler):
    """An integrator on the equation of a way.

    Args:
        way: the equation.
        strong: the strong order that the integrator is known by for additive noise, or None.
    """

    way: Way = FLOWING
    strong: float | None = None


def driven(
    name: str,
    run: Run,
    way: Way,
    clock: Array,
    build: Build | None,
    *,
    order: float | None = None,
    strong: float | None = None,
    source: str = "",
    variants: tuple[tuple[str, Build, Verdict], ...] = (),
    conventions: tuple[str, ...] = (),
    script: str = "",
) -> Driven:
    """An integrator over the times of a clock; its claim is the table that `build` makes."""

    def play(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
        # integrators see numbers, each with a path of its own: points of any dimension are laid out in a column
        shape, start = np.shape(x), np.reshape(np.asarray(x, dtype=clock.dtype), (-1, 1))
        rate = way.drift(model, float(np.finfo(clock.dtype).eps))

        def drift(u: float, column: Array) -> Array:
            return np.reshape(rate(u, np.reshape(column, shape)), (-1, 1))

        found = run(drift, way.diffusion, start, clock, lambda: np.reshape(normal(), (-1, 1)))
        return np.reshape(np.asarray(found, dtype=float), shape)

    claim = None
    if build is not None:
        claim = Claim(
            claimed(build, way.process, way.noise),
            way.grid(clock),
            way.process,
            "velocity",
            order=order,
            source=source,
            conventions=conventions,
            variants=tuple(Variant(said, claimed(other, way.process, way.noise), v) for said, other, v in variants),
        )
    return Driven(
        name=name,
        play=play,
        dtype=np.dtype(clock.dtype),
        claim=claim,
        told=float,
        trained=way.process,
        script=script,
        # t = start - u is as exact as u, whose roundings are those of the largest time
        told_within=TIMES * float(np.finfo(clock.dtype).eps) * way.start,
        way=way,
        strong=strong,
    )


# ---------------------------------------------------------------------- foreign drifts


def wrap(make: Callable[[Any], Any], request: Request) -> Subject:
    """A function that makes a drift of a score, in Euler's loop.

    Options: arrays (numpy, torch or jax; torch unless given), process (a class of refdiff.schedules), noise (k),
    start, end, and direction: "u" for a drift of u = start - t as above, "t" for dx/dt at t itself.
    """
    options = dict(request.options)
    array = ARRAYS[options.pop("arrays", "torch")]
    process = options.pop("process", "VPLinear")
    schedule: Schedule = getattr(schedules, process)() if isinstance(process, str) else process
    direction = options.pop("direction", "u")
    way = Way(
        schedule,
        float(options.pop("start", schedule.T)),
        float(options.pop("end", 1e-3 * schedule.T)),
        float(options.pop("noise", 1.0)),
    )
    if options or direction not in ("u", "t"):
        raise ValueError(
            f"options must be arrays, process, noise, start, end and direction, got {options or direction}"
        )
    name = getattr(make, "__name__", type(make).__name__)

    def build(steps: int) -> Sampler:
        clock = way.clock(steps, request.dtype)

        def play(model: Callable[[Array, Any], Array], x: Array, normal: Callable[[], Array]) -> Array:
            return _euler(make, model, way, array, direction, clock, x, normal)

        claim = Claim(
            lambda grid: euler_maruyama(schedule, grid, noise=way.noise),
            way.grid(clock),
            schedule,
            "score",
            order=1,
            source="Anderson 1982, Song et al. 2021",
        )
        return Sampler(name=name, play=play, dtype=np.dtype(request.dtype), claim=claim, told=float, trained=schedule)

    return Subject(name, build, protocol="drift", options=tuple(request.options.items()))


def _euler(
    make: Callable[[Any], Any],
    model: Callable[[Array, Any], Array],
    way: Way,
    array: Callable[[Any], Any],
    direction: str,
    clock: Array,
    x: Array,
    normal: Callable[[], Array],
) -> Array:
    def score(y: Any, t: Any) -> Any:
        return array(model(to_numpy(y).astype(float), float(np.ravel(to_numpy(t))[0])).astype(clock.dtype))

    made = make(score)
    rate, spread = getattr(made, "f", made), getattr(made, "g", None)
    at = clock if direction == "u" else way.grid(clock).astype(clock.dtype)
    y = np.asarray(x, dtype=clock.dtype)
    for before, after, place in zip(clock[:-1], clock[1:], at[:-1], strict=True):
        given, h = (array(place), array(y)), after - before
        moved = to_numpy(rate(*given)) * (h if direction == "u" else -h)
        # a drift alone comes with the method's noise; a diffusion that is there is used, and must be 0 on the flow
        size = way.diffusion(float(before)) if spread is None else to_numpy(spread(*given)).reshape(-1, 1)
        noisy = bool(way.noise or np.any(size))
        y = np.asarray(y + moved + size * np.sqrt(h) * normal() if noisy else y + moved, dtype=clock.dtype)
    return np.asarray(y, dtype=float)


# ---------------------------------------------------------------------- checks


def asked_times(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Whether the model is asked at the times of the method: a velocity carries no trace of its time in the weights."""
    for steps in (subject.steps or (1, 5, 20))[: 2 if quick else None]:
        sampler = subject.build(steps)
        if sampler.claim is None:
            yield not_applicable(subject.name, "times", "nothing is claimed: name a family")
            return
        try:
            heard = listen(sampler.play, tolerance=1e4 * sampler.eps)
        except NotLinear as error:
            yield not_applicable(subject.name, "times", str(error))
            return
        table = sampler.claim.table()
        right, place = table.times[table.evaluated], f"{steps} steps"
        if len(right) != len(heard.times):
            text = f"{place}: the model is asked {len(heard.times)} times, should be {len(right)}"
            yield Finding(subject.name, "times", Verdict.WRONG, text, place=place)
            continue
        told = sampler.told or float
        gap = np.abs(np.array([told(t) for t in heard.times]) - right)
        bound = TIMES * sampler.eps * float(np.abs(sampler.claim.grid).max())
        worst = int(np.argmax(gap > bound) if (gap > bound).any() else np.argmax(gap))
        text = f"{place}: call {worst} is at t = {told(heard.times[worst]):.8g}, should be {right[worst]:.8g}"
        rule = "8 roundings of the largest time: of the grid, the step, the place in it and the change of clock"
        yield judged(subject.name, "times", float(gap[worst]), bound, text, rule=rule, place=place)


def strong_order(subject: Subject, quick: bool) -> Iterator[Finding]:
    """The strong order on Gaussian data, from the exact distance to the solution on the same Brownian path."""
    counts = (8, 16, 32, 64)[: 3 if quick else None]
    samplers = [subject.build(n) for n in counts]
    first = samplers[0]
    if not isinstance(first, Driven) or first.strong is None or not first.way.noise:
        return
    errors = [strong_error(sampler) for sampler in samplers if isinstance(sampler, Driven)]
    found = fit(counts, errors, 0.0, len(counts)).order
    text = f"strong order {found:.3f} over {counts}, known as {first.strong:g}"
    rule = "the order less 0.1, what the next term of the error leaves of a fit over these steps"
    yield judged(
        subject.name, "strong order", first.strong - found, 0.1, text, rule=rule, script=first.script, errors=errors
    )


def strong_error(sampler: Driven, variance: float = 0.5) -> float:
    """sqrt(E |x - x*|^2) for data N(0, variance), x* the solution with the path whose increments the sampler drew.

    Over a step the path gives W and its area H: the parts of int gain G dw along 1 and 1/2 - r/h. What is orthogonal
    to both no sampler of W and H can know.
    """
    way, process = sampler.way, sampler.way.process
    total = np.asarray(sampler.claim.grid if sampler.claim else way.grid(way.clock(1, "float64")))
    steps = len(total) - 1

    def exact(x: Array, t: Any) -> Array:
        c = process.coefficients(float(t))
        rate = c.alpha * c.dalpha * variance + c.dvariance / 2
        return np.asarray(x * rate / (c.alpha**2 * variance + c.sigma**2))

    weights = _linear(sampler, exact)
    per = (len(weights) - 1) // steps
    c = process.coefficients(way.start)
    square = (weights[0] - float(way.gain(np.array(way.start), variance))) ** 2 * float(
        c.alpha**2 * variance + c.sigma**2
    )
    nodes, w = (np.asarray(part) for part in np.polynomial.legendre.leggauss(8))
    r, w = (nodes + 1) / 2, w / 2
    for i in range(steps):
        h = total[i] - total[i + 1]
        t = total[i] - r * h
        value = way.gain(t, variance) * np.array([way.diffusion(way.start - one) for one in t])
        mine = weights[1 + per * i : 1 + per * (i + 1)]
        along = mine[0] / np.sqrt(h) + (mine[1] * np.sqrt(12 / h) * (0.5 - r) if per > 1 else 0.0)
        square += h * float(w @ (value - along) ** 2)
    return float(np.sqrt(square))


def _linear(sampler: Sampler, model: Callable[[Array, Any], Array]) -> Array:
    """Weights of the start and of every normal in the output, for a model that is linear."""
    drawn = 0

    def count() -> Array:
        nonlocal drawn
        drawn += 1
        return np.zeros((1, 1))

    sampler.play(model, np.zeros((1, 1)), count)
    pulses, asked = np.eye(1 + drawn), iter(range(1, 1 + drawn))
    return np.asarray(sampler.play(model, pulses[:, :1].copy(), lambda: pulses[:, [next(asked)]].copy())[:, 0])


PROTOCOLS = (
    Protocol(
        "drift",
        "make(score) -> drift(u, x), or an object with f and g",
        wrap,
        checks=(asked_times, strong_order),
        options=("arrays", "process", "noise", "start", "end", "direction"),
    ),
)
