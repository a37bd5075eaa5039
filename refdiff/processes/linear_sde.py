r"""Linear SDEs with matrix coefficients, dx = [F(t) x + u(t)] dt + G(t) dw: constant or varying, commuting or not.

    x_t | x_s ~ N(K x_s + k, Sigma)               `channel(s, t)`, by the Gauss steps of `transition`
    Psi(t, s) = L_t Z L_s^-1,  C = L L'           `noise_channel(s, t)`

The frame of the noise is Cholesky's, turned. With H = L^-1 (F C + D/2) L^-T and E = L^-1 D L^-T, the rest
z = L^-1 (x - A x_0 - b) obeys, in the reverse equation with k,

    dz = (W + k^2/2 E) z dt + k L^-1 G dw,        W = H - lower(H + H'),  antisymmetric

with `lower` the lower triangle and half of the diagonal, since L^-1 L' = lower(H + H'). At k = 0 the frame V = L Z
turns and nothing else (gDDIM's R_t is V, not L). W is of the size 1/t at t = 0, where the noise of some directions
comes in through others, so that V has no limit there: time is counted by log t. Psi needs no choice of V.
Examples: Ornstein-Uhlenbeck, critically damped Langevin, variance-preserving noise of any D(t). Sources: RDX-01..20c,
RDX-31, RDX-33, PODD-85, PODD-86; Dockhorn, Vahdat and Kreis 2022 (Langevin); Zhang, Tao and Chen 2022 (gDDIM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np

from refdiff.arguments import Array, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.operators import Operator
from refdiff.processes.coefficients import Coefficient, OfTime, Rates, WithoutForce, columns
from refdiff.processes.motion import Motion, Offset
from refdiff.processes.pieces import Pieces
from refdiff.processes.transition import Linear, Transition, constant, identity, over, step, steps, triangular

# A gain that is nothing beside 1, and the first part, in log t / k^2, of the way to it.
FORGOTTEN, FORGETS = 1e-30, 8.0

# transitions and frames that are kept, of all processes: a sampler asks for each time more than once
KEPT = 256


@dataclass(frozen=True, eq=False)
class LinearProcess:
    """The process dx = [F(t) x + u(t)] dt + G(t) dw on [0, T].

    Args:
        drift: F, a (d, d) matrix or a function of t.
        noise: G, a (d, m) matrix or a function of t; D = G G'.
        T: the final time.
        force: u, shape (d,), or a function of t; zero unless given.
        rates: t -> (F', u', D') of shapes (d, d), (d,) and (d, d), for accelerations; zero where nothing varies.

    Raises:
        TypeError: rates that are no function.
        ValueError: shapes that do not fit each other, numbers that are not finite, or T <= 0.

    Examples:
        >>> import numpy as np
        >>> from refdiff import LinearProcess
        >>> process = LinearProcess([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]])  # dx = v dt, dv = dw
        >>> print(process.kernel(1.0).noise.round(6))  # [[t^3 / 3, t^2 / 2], [t^2 / 2, t]]
        [[0.333333 0.5     ]
         [0.5      1.      ]]
    """

    drift_of: Callable[[float], Array]
    noise_of: Callable[[float], Array]
    force_of: Callable[[float], Array]
    rates_of: Rates | None
    T: float
    axes: int
    steady: bool
    forced: bool

    def __init__(
        self,
        drift: Coefficient,
        noise: Coefficient,
        T: float = 1.0,
        *,
        force: Coefficient | None = None,
        rates: Rates | None = None,
    ) -> None:
        final = real_scalar("T", T, low=0, open_low=True)
        if rates is not None and not callable(rates):
            raise TypeError(f"rates must be a function of time, got {rates!r}")
        first = OfTime.of("drift", drift, 2)(0.0)
        dim = len(first)
        parts = {
            "drift": OfTime.of("drift", drift, 2, dim, dim),
            "noise": OfTime.of("noise", noise, 2, dim, *columns(noise)),
            "force": OfTime.of("force", np.zeros(dim) if force is None else force, 1, dim),
        }
        for at in (0.0, final):
            for part in parts.values():
                part(at)
        steady = not any(callable(part) for part in (drift, noise, force))
        forced = callable(force) or bool(parts["force"](0.0).any())
        values = {"T": final, "axes": dim, "steady": steady, "forced": forced, "rates_of": rates}
        for name, value in (values | {f"{name}_of": part for name, part in parts.items()}).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        kind = "constant" if self.steady else "of time"
        force = ", with a force" if self.forced else ""
        return f"LinearProcess(R^{self.axes}, G {self.noise_of(0.0).shape}, {kind}{force}, T = {self.T:g})"

    def __getstate__(self) -> dict[str, Any]:
        """The equation alone: what has been computed from it is computed again where it is sent."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    # ------------------------------------------------------------------ the equation

    def drift(self, t: float) -> Operator:
        """F(t), shape (d, d)."""
        return self.drift_of(self._time("t", t))

    def force(self, t: float) -> Array:
        """u(t), shape (d,)."""
        return self.force_of(self._time("t", t))

    def noise(self, t: float) -> Array:
        """G(t), shape (d, m)."""
        return self.noise_of(self._time("t", t))

    def diffusion(self, t: float) -> Operator:
        """D(t) = G G', shape (d, d)."""
        g = self.noise(t)
        return np.asarray(g @ g.T)

    @property
    def equation(self) -> Linear:
        """F, u and G as functions of time."""
        return Linear(self.drift_of, self.force_of, self.noise_of)

    @property
    def centred(self) -> LinearProcess:
        """The process of x - b_t: the same F and G without u."""
        return self._centred if self.forced else self

    @cached_property
    def _centred(self) -> LinearProcess:
        if self.steady:
            return LinearProcess(self.drift_of(0.0), self.noise_of(0.0), self.T)
        rates = self.rates_of
        return LinearProcess(self.drift_of, self.noise_of, self.T, rates=rates and WithoutForce(rates, self.axes))

    # ------------------------------------------------------------------ channels

    def transition(self, s: float, t: float) -> Transition:
        """The transition from s to t >= s, its covariance as a root.

        Raises:
            ValueError: s > t, or a time outside [0, T].
        """
        start, end = self._time("s", s), self._time("t", t)
        if start > end:
            raise ValueError(f"s must not exceed t, got s = {s} and t = {t}")
        return _transition(self, start, end)

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t >= s: N(K x + k, Sigma)."""
        return self.transition(s, t).channel

    def kernel(self, t: float) -> Channel:
        """The channel from clean data to time t."""
        return self.channel(0.0, t)

    def noise_channel(self, s: float, t: float, stochasticity: float = 0.0) -> Channel:
        """From y_s to y_t, y = x - A x_0 - b, both ways in time: y_t = Psi y_s + N(0, C_t - Psi C_s Psi').

        Args:
            s, t: the times.
            stochasticity: k >= 0, 0 unless t <= s.

        Raises:
            ValueError: noise on the way to noise, or a time > 0 at which the noise does not reach every direction.
        """
        start, end = self._time("s", s), self._time("t", t)
        k = real_scalar("stochasticity", stochasticity, low=0)
        if k and end > start:
            raise ValueError(f"t must not exceed s where there is noise, got s = {s}, t = {t} and stochasticity = {k}")
        if start == 0:
            raise ValueError("s must be > 0, where there is noise, got 0")
        gain, root = _turned(self, start, end, k)
        return Channel(gain, 0.0, root @ root.T)

    def frame(self, t: float) -> Array:
        """The lower triangular L with L L' = C_t and a positive diagonal, shape (d, d).

        Raises:
            ValueError: the noise does not reach every direction by then, up to rounding: a direction's own part of its
                variance is below d eps.
        """
        lower = triangular(self.transition(0.0, t).root)
        # L^-1 G rounds to eps / part of its rows, and gains L Z L^-1 multiply that by 1 / part once more
        own = float((np.diag(lower) / np.maximum(np.linalg.norm(lower, axis=1), np.finfo(float).tiny)).min())
        if own * own <= self.axes * np.finfo(float).eps:
            raise ValueError(f"noise must reach every direction by t = {t}, got one with the part {own * own:.2g} of "
                             "its variance of its own, which is rounding")  # fmt: skip
        return lower

    def turning(self, t: float) -> tuple[Array, Array, Array]:
        """L, W and L^-1 G at a time > 0, of shapes (d, d), (d, d) and (d, m)."""
        lower = self.frame(t)
        noise = np.asarray(np.linalg.solve(lower, self.noise_of(t)))
        spread = np.linalg.solve(lower, self.drift_of(t) @ lower) + noise @ noise.T / 2
        both = spread + spread.T
        turn = spread - np.tril(both) + np.diag(np.diag(both)) / 2
        return lower, (turn - turn.T) / 2, noise

    @cached_property
    def _turns(self) -> Pieces:
        """t W and sqrt(t) L^-1 G side by side, (d, d + m), which are smooth in log t also at its start."""

        def scaled(t: float) -> Array:
            _, turn, noise = self.turning(t)
            return np.hstack([t * turn, np.sqrt(t) * noise])

        return Pieces(scaled, self.T)

    # ------------------------------------------------------------------ how the kernel moves

    def offset(self, t: float) -> Offset:
        """b_t = k(t, 0) with b' = F b + u and its rate (zero where the rates are not known), each (d,)."""
        time = self._time("t", t)
        drift, value = self.drift_of(time), self.transition(0.0, time).offset
        rate = drift @ value + self.force_of(time)
        known = self._rates(time)
        return Offset(value, rate, np.zeros(self.axes) if known is None else known[0] @ value + drift @ rate + known[1])

    def motion(self, t: float) -> Motion:
        """The channel from clean data with its rates: A' = F A, S = F C + D/2; R is Cholesky's, lower triangular."""
        time = self._time("t", t)
        gain, _, root = self.transition(0.0, time)
        drift, diffusion, noise = self.drift_of(time), self.diffusion(time), root @ root.T
        dgain, spread = drift @ gain, drift @ noise + diffusion / 2
        known = self._rates(time)
        d2gain = None if known is None else known[0] @ gain + drift @ dgain
        dspread = None if known is None else known[0] @ noise + drift @ (spread + spread.T) + known[2] / 2
        return Motion(gain, dgain, d2gain, noise, triangular(root), spread, dspread, self.offset(time))

    def _rates(self, t: float) -> list[Array] | None:
        """F', u' and D', or None."""
        d = self.axes
        if self.steady:
            return [np.zeros((d, d)), np.zeros(d), np.zeros((d, d))]
        if self.rates_of is None:
            return None
        found = [real_array("rates", part) for part in self.rates_of(t)]
        if [part.shape for part in found] != [(d, d), (d,), (d, d)]:
            raise ValueError(f"rates must answer with F', u' and D' of shapes {[(d, d), (d,), (d, d)]}, "
                             f"got {[part.shape for part in found]}")  # fmt: skip
        return found

    def _time(self, name: str, t: float) -> float:
        return real_scalar(name, t, low=0, high=self.T)

    @cached_property
    def _grid(self) -> tuple[Array, list[Transition], list[Transition]]:
        """Ends of the steps through [0, T] (m + 1,), 0 first; the steps, and the transitions from 0 to all ends."""
        parts = steps(self.equation, 0.0, self.T)
        ends = np.array([0.0, *(end for end, _ in parts)])
        before = [identity(self.axes)]
        for _, part in parts:
            before.append(part.after(before[-1]))
        return ends, [part for _, part in parts], before


@lru_cache(maxsize=KEPT)
def _transition(process: LinearProcess, s: float, t: float) -> Transition:
    """From s to t, by the steps that lie between and a part of one at either end."""
    equation = process.equation
    if s == t:
        return identity(process.axes)
    if process.steady:
        return constant(equation, t - s)
    ends, between, before = process._grid
    first, last = int(np.searchsorted(ends, s, side="right")), int(np.searchsorted(ends, t, side="left"))
    # s lies in step first - 1, t in step last - 1
    if first >= last:
        return step(equation, s, t)
    rest = [] if ends[last - 1] == t else [step(equation, float(ends[last - 1]), t)]
    if s == 0:
        return reduce(lambda done, part: part.after(done), rest, before[last - 1])
    start = step(equation, s, float(ends[first])) if s < ends[first] else identity(process.axes)
    return reduce(lambda done, part: part.after(done), [*between[first : last - 1], *rest], start)


def _forgetting(equation: Linear, start: float, end: float, k: float) -> Transition:
    """The transition of the rest in its frame, whose variances are 1 and whose gain never grows: the last part first.

    Much noise forgets where it came from, and what has been forgotten need not be carried.
    """
    reach = FORGETS / (k * k) if k else np.inf
    known, at = identity(len(equation.drift(end))), end
    while at != start and np.abs(known.gain).max() > FORGOTTEN:
        # forwards in time where k is 0 alone
        before = start if abs(start - at) <= reach else at + reach
        known, at, reach = known.after(over(equation, before, at, least=1.0)), before, 2 * reach
    return known


@lru_cache(maxsize=KEPT)
def _turned(process: LinearProcess, s: float, t: float, k: float) -> tuple[Array, Array]:
    """Psi and the root of the noise from s to t."""
    d, turns = process.axes, process._turns
    if t == 0:  # the noise is gone
        return np.zeros((d, d)), np.zeros((d, 1))

    def drift(u: float) -> Array:
        both = turns(u)
        return np.asarray(both[:, :d] + k * k / 2 * both[:, d:] @ both[:, d:].T)

    still = np.zeros(d)
    equation = Linear(drift, lambda _: still, lambda u: k * turns(u)[:, d:])
    gain, _, root = _forgetting(equation, float(np.log(s / process.T)), float(np.log(t / process.T)), k)
    after, before = process.frame(t), process.frame(s)
    return after @ np.linalg.solve(before.T, gain.T).T, after @ root
