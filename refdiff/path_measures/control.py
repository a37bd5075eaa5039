r"""Steering an equation at a cost: Hopf and Cole's logarithm, linear controls, and what they cost.

    dx = b dt + G (u dt + dw),     J(u) = E[int (|u|^2 / 2 + l(x, t)) dt + g(x_e)]

    -log h(x, t) = min J from x at t,     h = E[exp(-int l - g)]  (Feynman and Kac),     u* = G' grad log h
    J(u) = -log h + 1/2 E int |u - u*|^2 dt = -log h + KL(P^u || P^*),     1/2 E int |u|^2 dt = KL(P^u || P)

The first line of that is the Hamilton-Jacobi-Bellman equation d_t S + b . grad S + 1/2 tr(D Hess S) - 1/2 |G' grad S|^2
+ l = 0 of S = -log h, made linear; the second is Girsanov. Under the best control int l + g + log dP^*/dP is the same
for every path. Where b, u are affine and l, g quadratic all of it is a matter of moments.
Sources: PODB-77, PODD-89, PODD-91; Hopf 1950, Cole 1951; Fleming 1978; Kappen 2005.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from refdiff import operators
from refdiff.arguments import Array, answered, real_array, real_scalar
from refdiff.distributions import Gaussian
from refdiff.expectations import Estimate
from refdiff.path_measures.affine import AffineEquation
from refdiff.path_measures.doob import Weight
from refdiff.path_measures.feynman_kac import Quadratic
from refdiff.path_measures.girsanov import steps_of
from refdiff.stochastic.equation import StochasticEquation

Control = Callable[[Array, float], ArrayLike]
RTOL, ATOL = 1e-11, 1e-13  # of each step of the moments


@dataclass(frozen=True)
class ControlCost:
    """The parts of J(u).

    Attributes:
        effort: E int |u|^2 / 2 dt, the divergence of the controlled paths from the free ones.
        running: E int l dt.
        terminal: E g(x_e).
    """

    effort: float
    running: float
    terminal: float

    @property
    def value(self) -> float:
        """Their sum."""
        return self.effort + self.running + self.terminal


@dataclass(frozen=True, eq=False)
class AffineControl:
    """u(x, t) = K(t) x + k(t) of an equation with m motions.

    Args:
        gain: t -> K, shape (m, d).
        offset: t -> k, shape (m,).

    Raises:
        TypeError: one is no function.
    """

    gain: Callable[[float], ArrayLike]
    offset: Callable[[float], ArrayLike]

    def __post_init__(self) -> None:
        for name in ("gain", "offset"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {getattr(self, name)!r}")

    def __call__(self, x: Array, t: float) -> Array:
        """u at points x (n, d) of a time t, shape (n, m)."""
        return np.asarray(x @ self.gain_at(t).T + self.offset_at(t))

    def gain_at(self, t: float) -> Array:
        """K at a time t, shape (m, d)."""
        return real_array("gain", self.gain(t), ndim=(2,))

    def offset_at(self, t: float) -> Array:
        """k at a time t, shape (m,)."""
        return real_array("offset", self.offset(t), ndim=(1,))


def controlled(equation: StochasticEquation, control: Control) -> StochasticEquation:
    """dx = [b + G u] dt + G dw.

    Args:
        equation: dx = b dt + G dw.
        control: (x, t) -> u at points x (n, d), shape (n, m).

    Raises:
        TypeError: no equation, or control is no function.
    """
    if not isinstance(equation, StochasticEquation):
        raise TypeError(f"equation must be a StochasticEquation, got {equation!r}")
    if not callable(control):
        raise TypeError(f"control must be a function, got {control!r}")

    def drift(x: Array, t: float) -> Array:
        u = answered("control", control(x, t), (len(x), equation.motions), finite=True)
        return equation.drift_at(x, t) + equation.scattered(x, t, u)

    return StochasticEquation(drift, equation.noise, equation.dim, equation.additive, equation.motions)


def optimal_control(equation: StochasticEquation, weight: Weight) -> Control:
    """u* = G' grad log h of points (n, d) and times, (n, m), for the `weight` h of an equation."""

    def control(x: Array, t: float) -> Array:
        g, pull = equation.noise_at(x, t), np.asarray(weight.gradient(x, t))
        if equation.additive:
            return operators.apply(g.T, pull)
        return np.asarray(g * pull if g.ndim == 2 else np.einsum("nij,ni->nj", g, pull))

    return control


def path_costs(
    paths: ArrayLike,
    times: ArrayLike,
    control: Control,
    running: Callable[[Array, float], ArrayLike] | None = None,
    terminal: Callable[[Array], ArrayLike] | None = None,
) -> Estimate:
    """J(u) from paths of the controlled equation, with a standard error.

    Args:
        paths: x at the times, shape (N + 1, n, d), n > 1: of the Euler-Maruyama chain, whose cost has |u|^2 at the
            start of each step.
        times: increasing, shape (N + 1,).
        control: u of points (n, d) and a time, shape (n, m).
        running: l of points (n, d) and a time, shape (n,), by the trapezoidal rule; 0 unless given.
        terminal: g of points (n, d), shape (n,); 0 unless given.

    Raises:
        ValueError: times that do not increase, fewer than two paths, or shapes that do not fit.
    """
    shape = np.shape(paths)
    when, states, _ = steps_of(paths, times, shape[-1] if shape else 1)
    count = states.shape[1]
    if when[-1] < when[0] or count < 2:
        raise ValueError(f"times must increase and paths be at least two, got {when} and {count}")
    total = np.zeros(count)
    for x, t, h in zip(states[:-1], when[:-1], np.diff(when), strict=True):
        total += 0.5 * h * np.square(real_array("control", control(x, float(t)), ndim=(2,))).sum(axis=1)
    if running is not None:
        values = [answered("running", running(x, float(t)), (count,)) for x, t in zip(states, when, strict=True)]
        total += np.trapezoid(np.stack(values), when, axis=0)
    if terminal is not None:
        total += answered("terminal", terminal(states[-1]), (count,))
    return Estimate(float(total.mean()), float(total.std(ddof=1) / np.sqrt(count)), "monte carlo")


def linear_cost(
    equation: AffineEquation,
    control: AffineControl,
    running: Quadratic | Callable[[float], Quadratic],
    terminal: Quadratic,
    law: Gaussian,
    start: float,
    end: float,
) -> ControlCost:
    """J(u) of an affine control in closed form, by moments: log phi = -g and V = -l are what is given, as Quadratics.

    Args:
        equation: dx = [M x + c] dt + G dw, time increasing.
        control: u = K x + k.
        running: V = -l, a Quadratic or t -> one.
        terminal: log phi = -g.
        law: of x at the start, a Gaussian or a point.
        start, end: the times.

    Raises:
        TypeError: the law is no Gaussian.
        ValueError: times out of order, or dimensions that differ.
    """
    if not isinstance(law, Gaussian):
        raise TypeError(f"law must be a Gaussian, got {law!r}")
    late = real_scalar("end", end)
    early, d = real_scalar("start", start, high=late), equation.dim
    for name, one in (("law", law), ("terminal", terminal)):
        if one.dim != d:
            raise ValueError(f"{name} must have dimension {d} like the equation, got {one.dim}")
    potential = (lambda _: running) if isinstance(running, Quadratic) else running

    def rates(t: float, state: Array) -> Array:
        mean, cov = state[:d], state[d:-2].reshape(d, d)
        gain, offset = control.gain_at(t), control.offset_at(t)
        noise = operators.dense(equation.noise_at(t), d)
        m = operators.dense(equation.linear_at(t), d) + noise @ gain
        moved = m @ cov
        u = gain @ mean + offset
        effort = 0.5 * (u @ u + (gain @ cov * gain).sum())
        forced = m @ mean + equation.force_at(t) + noise @ offset
        ran = -potential(t).mean(mean, cov)
        return np.concatenate([forced, (moved + moved.T + noise @ noise.T).ravel(), [effort, ran]])

    state = np.concatenate([law.means[0], operators.dense(law.covariances.operator(), d).ravel(), [0.0, 0.0]])
    if early < late:
        state = solve_ivp(rates, (early, late), state, "DOP853", rtol=RTOL, atol=ATOL).y[:, -1]
    return ControlCost(float(state[-2]), float(state[-1]), -terminal.mean(state[:d], state[d:-2].reshape(d, d)))


def affine_control(equation: AffineEquation, weight: Any) -> AffineControl:
    """u* = G' grad log h for a `weight` with one quadratic log h at every time, a FeynmanKac of an affine equation.

    Raises:
        ValueError: h is a sum, and u* not affine.
    """
    if len(weight.terminal) != 1:
        raise ValueError(f"weight must have one terminal Quadratic, got {len(weight.terminal)}")

    @lru_cache(maxsize=16)  # both parts are asked for at one time after the other
    def known(t: float) -> tuple[Array, Array]:
        root, log_h = operators.dense(equation.noise_at(t), equation.dim).T, weight.quadratics(t)[0]
        return -root @ log_h.curvature, root @ log_h.slope

    return AffineControl(lambda t: known(t)[0], lambda t: known(t)[1])
