r"""Pinned bridges: the paths of a linear process between two points.

    x_u | x_s, x_e ~ N(P x_e + Q x_s + c, V)            any time between: `Bridge` of the channels s -> u -> e
    dx = [F x + u + D K' N^-1 (x_e - K x - k)] dt + G dw        (K, k, N) the channel from t to e

The second line is the process with Doob's function h = p(x_e | x_t = x), whose gradient pulls to the end, like
1 / (e - t) near it. From one time to the next a bridge is a Markov chain with Gaussian links, which samples it exactly
at any times. For Brownian motion (VE) the mean is the straight line and V = (u - s)(e - u) / (e - s).
Sources: PODA-403, TOPA-26, PHY-25, RDX-05.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points, real_array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.objectives.errors import coloured
from refdiff.objectives.reverse import whole
from refdiff.operators import Operator
from refdiff.processes import Chain, Process
from refdiff.processes.bridge import Bridge
from refdiff.random import normals, seed_key
from refdiff.schedules import Schedule
from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.families import forward_equation


@dataclass(frozen=True, eq=False)
class PinnedBridge:
    """The paths of a process from x_s = start to x_e = end.

    Args:
        process: a Process or a Schedule.
        start, end: points of shape (d,).
        s, e: their times, 0 <= s < e <= T.

    Raises:
        TypeError: no process.
        ValueError: times or points that do not fit, or noise that does not reach every direction between them.

    Examples:
        >>> from refdiff import VEPower
        >>> from refdiff.path_measures import PinnedBridge
        >>> bridge = PinnedBridge(VEPower(power=0.5, T=1.0), [0.0], [1.0])  # Brownian motion from 0 to 1
        >>> law = bridge.at(0.25)
        >>> print(law.mean().round(6), law.cov().round(6))  # t, t (1 - t)
        [0.25] [[0.1875]]
    """

    process: Process
    start: Array
    end: Array
    s: float
    e: float

    def __init__(
        self, process: Process | Schedule, start: ArrayLike, end: ArrayLike, s: float = 0.0, e: float | None = None
    ) -> None:
        process = whole(process)
        first, last = (real_array(name, x, ndim=(1,)) for name, x in (("start", start), ("end", end)))
        if first.shape != last.shape or process.axes not in (None, len(first)):
            raise ValueError(f"start and end must have one shape (d,), d = {process.axes or 'any'}, got {first.shape} "
                             f"and {last.shape}")  # fmt: skip
        late = process.T if e is None else real_scalar("e", e, low=0, high=process.T)
        early = real_scalar("s", s, low=0, high=late)
        _noisy(process, early, late, len(first))
        for name, value in (("process", process), ("start", first), ("end", last), ("s", early), ("e", late)):
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """d, the dimension."""
        return len(self.start)

    def at(self, t: float) -> Gaussian:
        """The law of x_t, a point at both ends."""
        return self.channel(self.s, t).at(self.start)

    def channel(self, t: float, u: float) -> Channel:
        """The channel from x_t to x_u, s <= t <= u <= e, given the end."""
        first, then = self._ordered(t, u)
        if first == then:
            return Channel()
        if then == self.e:
            return Channel(0.0, self.end, 0.0)
        link = between(self.process, first, then, self.e)
        return Channel(link.of_start, operators.apply(link.of_end, self.end) + link.offset, link.noise)

    def joint(self, times: ArrayLike) -> Gaussian:
        """The law of x at increasing times (n,) after s, one after the other in R^(n d)."""
        grid = _increasing(times, self.s, self.e)
        links = [self.channel(t, u) for t, u in pairwise([self.s, *grid.tolist()])]
        whole_path = Chain(links).joint(Gaussian(self.start, 0.0))
        return whole_path_without_start(whole_path, self.dim)

    def pull(self, x: Array, t: float) -> Array:
        """grad log h = K' N^-1 (x_e - K x - k) at points x (n, d) of a time t < e, shape (n, d)."""
        return end_pull(self.process, x, t, self.e, self.end)

    def equation(self) -> StochasticEquation:
        """dx = [F x + u + D grad log h] dt + G dw, for times in [s, e)."""
        base = forward_equation(self.process, self.dim)

        def drift(x: Array, t: float) -> Array:
            return base.drift_at(x, t) + operators.apply(self.process.diffusion(t), self.pull(x, t))

        return StochasticEquation(drift, base.noise, self.dim)

    def sample(self, times: ArrayLike, n: int, seed: int | np.random.Generator) -> Array:
        """`n` paths at increasing times (m,) in [s, e], by `seed` and counter, shape (m, n, d)."""
        starts, ends = (np.broadcast_to(x, (whole_number("n", n, low=1), self.dim)) for x in (self.start, self.end))
        return bridge_paths(self.process, starts, ends, times, self.s, self.e, seed)

    def _ordered(self, t: float, u: float) -> tuple[float, float]:
        later = real_scalar("u", u, low=self.s, high=self.e)
        return real_scalar("t", t, low=self.s, high=later), later


def between(process: Process, t: float, u: float, e: float) -> Bridge:
    """x_u given x_t and x_e of a process, t < u < e: x_u = P x_e + Q x_t + c + N(0, V)."""
    return Bridge.between(process.channel(t, u), process.channel(u, e))


def end_pull(process: Process, x: Array, t: float, e: float, end: Array) -> Array:
    """K' N^-1 (y - K x - k) of a process at points x (n, d) of a time t < e, for y = `end` (d,) or (n, d)."""
    step = process.channel(t, e)
    left = end - operators.apply(step.gain, x) - step.offset
    return operators.apply(step.gain.T, solved(step.noise, left))


def solved(noise: Operator, x: Array) -> Array:
    """N^-1 x of a covariance N = `noise` for vectors x (n, d).

    Raises:
        ValueError: it is singular.
    """
    if operators.singular(noise):
        raise ValueError(f"t must be so long before the end that noise reaches every direction, got the noise {noise}")
    return np.asarray(np.linalg.solve(noise, x.T).T if noise.ndim == 2 else x / noise)


def bridge_paths(
    process: Process,
    starts: ArrayLike,
    ends: ArrayLike,
    times: ArrayLike,
    s: float,
    e: float,
    seed: int | np.random.Generator,
) -> Array:
    """Exact paths of a process between points of their own, shape (m, n, d).

    Args:
        process: a Process.
        starts, ends: x_s and x_e, each (n, d).
        times: increasing times (m,) in [s, e].
        s, e: the times of the ends.
        seed: of the numbers; a path depends on it and on its own number alone.

    Raises:
        ValueError: times that do not increase within [s, e], or points that do not fit.
    """
    first, last = (real_array(name, x, ndim=(2,)) for name, x in (("starts", starts), ("ends", ends)))
    if first.shape != last.shape:
        raise ValueError(f"ends must have the shape of starts, {first.shape}, got {last.shape}")
    points("starts", first, process.axes or first.shape[1])
    grid, key = _increasing(times, s, e), seed_key(seed)
    paths = np.empty((len(grid), *first.shape))
    x, before = first, s
    for i, t in enumerate(grid.tolist()):
        if t == e:
            x = last
        elif t > before:
            link = between(process, before, t, e)
            mean = operators.apply(link.of_end, last) + operators.apply(link.of_start, x) + link.offset
            x = mean + coloured(Channel(1.0, 0.0, link.noise), normals(key, len(x), i, first.shape[1]))
        paths[i], before = x, t
    return paths


def whole_path_without_start(joint: Gaussian, dim: int) -> Gaussian:
    """The law of (x_1, .., x_N) from that of (x_0, x_1, .., x_N), each in R^d with d = `dim`."""
    return Gaussian(joint.means[0][dim:], joint.cov()[dim:, dim:])


def _increasing(times: ArrayLike, s: float, e: float) -> Array:
    """Times (n,), n > 0, that increase within [s, e].

    Raises:
        ValueError: they do not.
    """
    grid = real_array("times", times, ndim=(1,))
    if len(grid) < 1 or (np.diff(grid) <= 0).any() or grid[0] < s or grid[-1] > e:
        raise ValueError(f"times must increase within [{s}, {e}], got {grid}")
    return grid


def _noisy(process: Process, s: float, e: float, dim: int) -> None:
    """Check that noise reaches every direction between two times.

    Raises:
        ValueError: it does not.
    """
    if s >= e or Gaussian(np.zeros(dim), process.channel(s, e).noise).covariances.singular:
        raise ValueError(f"s and e must be times with noise in every direction between them, got {s} and {e}")
