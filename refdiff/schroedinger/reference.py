r"""References and their pinned bridges: Brownian motion sqrt(eps) w, and every linear process.

With the channels x_t = K x_0 + k + N(0, C), x_T = G x_t + g + N(0, N) and x_T = A x_0 + b + N(0, Sigma) of a reference
dx = [F x + u] dt + dw, Cov dw = D dt, its paths between x_0 and x_T are those of

    x_t = Q x_0 + P x_T + c + N(0, V)          P = C G' Sigma^-1,  Q = K - P A,  c = k - P b,  V = C - P G C
    P' = F P + R      Q' = F Q - R A      c' = F c + u - R b      S = F V + D / 2 - R G C           R = D G' Sigma^-1

with S + S' = V' and no division but by the noise of the whole way. S is that of the bridge's own flow, F V + D / 2 -
D G' N^-1 G V, as N^-1 G V = Sigma^-1 G C: what `InterpolantModel.velocity` averages is the current velocity of a
mixture of bridges. Noise has to reach every direction by T, not before: D may be singular, as Langevin's is. Of
Brownian motion P = t / T, V = eps t (T - t) / T, S = eps (T - 2 t) / (2 T). Sources: PODB-76, PODB-82, PODB-86,
PODA-403, PHY-25.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, real_scalar
from refdiff.channels import Channel
from refdiff.interpolants import Blend
from refdiff.objectives.reverse import whole
from refdiff.operators import Operator, product
from refdiff.processes import Bridge, Motion, Offset, Process
from refdiff.processes.motion import NO_OFFSET
from refdiff.schedules import Schedule

ZERO, ONE = np.zeros(()), np.ones(())


@dataclass(frozen=True)
class BrownianReference:
    """The process dx = sqrt(eps) dw on [0, T], in any dimension.

    Args:
        epsilon: eps > 0, the noise rate.
        T: the final time.

    Raises:
        ValueError: epsilon or T is not positive.
    """

    epsilon: float
    T: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epsilon", "T"):
            object.__setattr__(self, name, real_scalar(name, getattr(self, name), low=0, open_low=True))

    @property
    def axes(self) -> int | None:
        """None: it acts on any dimension."""
        return None

    @property
    def centred(self) -> BrownianReference:
        """The process itself, which has no offset."""
        return self

    def kernel(self, t: float) -> Channel:
        """The channel from time 0 to time t: noise eps t."""
        return self.channel(0.0, t)

    def channel(self, s: float, t: float) -> Channel:
        """The channel from time s to time t >= s: noise eps (t - s)."""
        late = real_scalar("t", t, low=0, high=self.T)
        return Channel(1.0, 0.0, self.epsilon * (late - real_scalar("s", s, low=0, high=late)))

    def noise_channel(self, s: float, t: float, stochasticity: float = 0.0) -> Channel:
        """From y_s to y_t, y = x - x_0: the gain (t / s)^((1 + k^2) / 2).

        Args:
            s, t: the times.
            stochasticity: k >= 0, 0 unless t <= s.

        Raises:
            ValueError: s = 0, or noise on the way to noise.
        """
        start, end = real_scalar("s", s, low=0, high=self.T, open_low=True), real_scalar("t", t, low=0, high=self.T)
        k = real_scalar("stochasticity", stochasticity, low=0)
        if k and end > start:
            raise ValueError(f"t must not exceed s where there is noise, got s = {s}, t = {t} and stochasticity = {k}")
        part = end / start
        return Channel(part ** ((1 + k * k) / 2), 0.0, self.epsilon * end * (1 - part ** (k * k)))

    def offset(self, t: float) -> Offset:
        """Nothing, at every time t."""
        real_scalar("t", t, low=0, high=self.T)
        return NO_OFFSET

    def motion(self, t: float) -> Motion:
        """The channel from clean data with its rates, at a time t: C = eps t, S = eps / 2."""
        noise = self.kernel(t).noise
        return Motion(ONE, ZERO, ZERO, noise, np.sqrt(noise), np.asarray(0.5 * self.epsilon), ZERO)

    def drift(self, t: float) -> Operator:
        """0, a scalar, at every time t."""
        return self.offset(t).value

    def force(self, t: float) -> Array:
        """0, a scalar, at every time t."""
        return self.offset(t).value

    def diffusion(self, t: float) -> Operator:
        """eps, a scalar, at every time t."""
        return np.asarray(self.offset(t).value + self.epsilon)


def reference_process(reference: Process | Schedule | float, T: float | None = None) -> tuple[Process, float]:
    """The process of a reference, and the time at which its paths end.

    Args:
        reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Raises:
        TypeError: reference is none of these.
        ValueError: eps or T is not positive, or T is after the process's end.
    """
    if isinstance(reference, Process | Schedule):
        process = whole(reference)
        return process, process.T if T is None else real_scalar("T", T, low=0, high=process.T, open_low=True)
    if np.ndim(reference) or np.asarray(reference).dtype.kind not in "uif":
        raise TypeError(f"reference must be a Process, a Schedule or a number, got {reference!r}")
    final = real_scalar("T", 1.0 if T is None else T, low=0, open_low=True)
    return BrownianReference(real_scalar("epsilon", reference, low=0, open_low=True), final), final


@dataclass(frozen=True, eq=False)
class ReferenceBridges:
    """The pinned bridges of a reference as an Interpolant: x_t = Q x_0 + P x_T + c + N(0, V).

    Args:
        process: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Attributes:
        process: the reference as a Process.
        T: the end.
        overall: the channel from x_0 to x_T: A, b and Sigma.
        precision: Sigma^-1, an operator.

    Raises:
        TypeError: process is none of these.
        ValueError: a number or T out of its range, noise that does not reach every direction by T, or a process that
            has forgotten x_0 by then, as a schedule with alpha = 0.
    """

    process: Process
    T: float
    overall: Channel
    precision: Operator

    def __init__(self, process: Process | Schedule | float, T: float | None = None) -> None:
        found, final = reference_process(process, T)
        overall = found.channel(0.0, final)
        if operators.singular(overall.noise):
            raise ValueError(f"process must have noise that reaches every direction by T = {final}, got the noise "
                             f"{overall.noise}")  # fmt: skip
        if overall.gain.ndim < 2 and (overall.gain == 0).any():  # all is drawn anew at T: no path leads there
            raise ValueError(f"process must keep something of x_0 until T = {final}, got the gain {overall.gain}: let "
                             "bridges end before")  # fmt: skip
        values = {"process": found, "T": final, "overall": overall, "precision": operators.inverse(overall.noise)}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def link(self, t: float) -> Bridge:
        """P, Q, c and V of a time t in [0, T]; at either end x_t is that end exactly."""
        now = real_scalar("t", t, low=0, high=self.T)
        if now == self.T:
            return Bridge(ONE, ZERO, np.zeros_like(self.overall.offset), ZERO)
        return Bridge.between(self.process.channel(0.0, now), self.process.channel(now, self.T))

    def at(self, t: float) -> Blend:
        """The blend of a time t in [0, T], with second rates where the process knows those of its coefficients.

        Raises:
            ValueError: t is outside, or drift or diffusion are infinite there.
        """
        now = real_scalar("t", t, low=0, high=self.T)
        first, later = self.process.channel(0.0, now), self.process.channel(now, self.T)
        f, d, u = self.process.drift(now), self.process.diffusion(now), self.process.force(now)
        if not all(np.isfinite(part).all() for part in (f, d, u)):
            raise ValueError(f"t must be a time with a finite drift and diffusion, got t = {now} with {f} and {d}")
        link, reach = self.link(now), product(later.gain.T, self.precision)
        blend = _with_rates(link, f, u, product(d, reach), d, product(later.gain, first.noise), self.overall)
        bends = _bends(self.process.motion(now), f)
        if bends is None:
            return blend
        df, du, dd = bends
        turned = total(product(dd, reach), -product(d, product(f.T, reach)))
        return _with_second_rates(blend, (f, df, du), dd, (product(d, reach), turned), (later.gain, first.noise, d),
                                  self.overall)  # fmt: skip


def _with_rates(
    link: Bridge, f: Operator, u: Array, pull: Operator, d: Operator, seen: Operator, overall: Channel
) -> Blend:
    """The blend of a bridge with its rates, where `pull` is R and `seen` G C."""
    return Blend(
        first=link.of_start,
        second=link.of_end,
        noise=link.noise,
        dfirst=total(product(f, link.of_start), -product(pull, overall.gain)),
        dsecond=total(product(f, link.of_end), pull),
        spread=total(product(f, link.noise), 0.5 * d, -product(pull, seen)),
        offset=link.offset,
        doffset=np.asarray(moved(f, link.offset) + u - moved(pull, overall.offset)),
    )


def _bends(motion: Motion, f: Operator) -> tuple[Operator, Array, Operator] | None:
    """F', u' and D' of a process from how its kernel moves, or None where it does not know."""
    if motion.d2gain is None or motion.dspread is None:
        return None
    b = motion.offset
    df = product(total(motion.d2gain, -product(f, motion.dgain)), operators.inverse(motion.gain))
    du = b.acceleration - moved(df, b.value) - moved(f, b.rate)
    grown = total(motion.spread, motion.spread.T)
    dd = 2 * total(motion.dspread, -product(df, motion.noise), -product(f, grown))
    return df, np.asarray(du), dd


def _with_second_rates(
    blend: Blend,
    equation: tuple[Operator, Operator, Array],
    dd: Operator,
    pulls: tuple[Operator, Operator],
    ends: tuple[Operator, Operator, Operator],
    overall: Channel,
) -> Blend:
    """The blend with its second rates: F, F' and u', D', R and R', and G, C and D."""
    (f, df, du), (pull, dpull), (gain, noise, d) = equation, pulls, ends
    seen, grown = product(gain, noise), total(blend.spread, blend.spread.T)
    dseen = total(product(seen, f.T), product(gain, d))
    offset = moved(df, blend.offset) + moved(f, blend.doffset) + du
    return blend._replace(
        d2first=total(product(df, blend.first), product(f, blend.dfirst), -product(dpull, overall.gain)),
        d2second=total(product(df, blend.second), product(f, blend.dsecond), dpull),
        d2offset=np.asarray(offset - moved(dpull, overall.offset)),
        dspread=total(product(df, blend.noise), product(f, grown), 0.5 * dd, -product(dpull, seen),
                      -product(pull, dseen)),
    )  # fmt: skip


def total(*parts: Operator) -> Operator:
    """The sum of operators, the `parts`."""
    return reduce(operators.add, (np.asarray(part) for part in parts))


def moved(a: Operator, offset: Array) -> Array:
    """A b of an operator a and an `offset` b, a number or (d,)."""
    return operators.apply(a, np.broadcast_to(offset, a.shape[1:]) if a.ndim == 2 else offset)
