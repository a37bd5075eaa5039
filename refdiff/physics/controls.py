r"""Controls that stop a density, turn it back or hurry it, while its noise goes on.

    forward      dx = f dt + G dw,     f = F x + u,      v = f - (D/2) grad log p,     J = p v,   D = G G'
    controlled   dx = (f + c) dt' + G dw,    c = (r - 1) v(x, t):     J = r p v(x, t)

so that the density of time t is carried along the noising's own clock at the rate r: r = 1 leaves it to itself, r = 0
stops it (c = -v), r = -1 turns it back (c = -2 v), r = -2 twice as fast. Particles move on in any case; only their mean
flux stops or turns. After [0, T] the wall clock t' goes on to 2 T, and at t' the density is at

    t = 2 T - t'        the reflected clock; a source also prints T - t', which is negative

What was recorded of v on the way, for 0 <= t <= T, is all that is needed on the way back, T <= t' <= 2 T. Diffusion
alone has f = 0 and D/2 for its diffusivity; c = D grad log p is its reversal. Sources: PHY-00, PHY-05..07, PHY-94,
PHY-96.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, precise_as, real_array, real_scalar
from refdiff.model import ExactModel
from refdiff.stochastic import StochasticEquation, forward_equation


@dataclass(frozen=True)
class Clock:
    """The time of the noising at which a density is when the wall clock shows t': t = start + rate (t' - since).

    Args:
        start: the time at which the density is when the wall clock shows `since`.
        rate: r, how fast it goes on: 1 with the noising, 0 not at all, -1 back.
        since: the wall clock's time at which it starts.
    """

    start: float
    rate: float
    since: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start", "rate", "since"):
            object.__setattr__(self, name, real_scalar(name, getattr(self, name)))

    @staticmethod
    def reflected(T: float) -> Clock:
        """2 T - t', from T on: back to clean data by t' = 2 T."""
        return Clock(T, -1.0, T)

    @staticmethod
    def stopped(t: float) -> Clock:
        """Always the time t."""
        return Clock(t, 0.0)

    def time(self, now: float) -> float:
        """t when the wall clock shows t' = `now`."""
        return self.start + self.rate * (now - self.since)


def control(model: ExactModel, x: ArrayLike, t: float, rate: float) -> Any:
    """c = (r - 1) v(x, t) at points x (..., d), shape (..., d): what makes the density go on at the `rate` r.

    Args:
        model: the exact model whose velocity v is used.
        x: the points.
        t: the time at which the density is.
        rate: r.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: t is outside [0, T], or there is no density then.
    """
    return precise_as(x, (real_scalar("rate", rate) - 1) * np.asarray(_velocity(model, x, t)))


def stopping_control(model: ExactModel, x: ArrayLike, t: float) -> Any:
    """c = -v at points x (..., d), shape (..., d): no flux, the density of the `model` at time t stays.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: t is outside [0, T], or there is no density then.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.physics import stopping_control
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> print(stopping_control(model, [[10.0]], 3.0))  # minus the velocity t x / (1 + t^2)
        [[-3.]]
    """
    return control(model, x, t, 0.0)


def reversing_control(model: ExactModel, x: ArrayLike, t: float) -> Any:
    """c = -2 v at points x (..., d), shape (..., d): the flux of the `model` at time t runs back.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: t is outside [0, T], or there is no density then.
    """
    return control(model, x, t, -1.0)


def controlled_flux(model: ExactModel, x: ArrayLike, t: float, rate: float = 1.0) -> Any:
    """J = r p v at points x (..., d) and a time t of the `model`, shape (..., d), at the `rate` r.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: t is outside [0, T], or there is no density then.
    """
    v = np.asarray(_velocity(model, x, t))
    density = np.exp(np.asarray(model.log_density(real_array("x", x), t)))
    return precise_as(x, real_scalar("rate", rate) * density[..., None] * v)


def controlled_equation(model: ExactModel, clock: Clock) -> StochasticEquation:
    """dx = (f + c) dt' + G dw on the wall clock t', dt' > 0: particles of p_t at the start stay particles of p_t.

    Noise and drift are those of the noising at the time t that the `clock` tells, as in the update of PHY-96.

    Args:
        model: an ExactModel of any process.
        clock: which density is wanted when, for instance `Clock.reflected(model.process.T)`.

    Raises:
        TypeError: the model is no ExactModel, or the clock no Clock.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    if not isinstance(clock, Clock):
        raise TypeError(f"clock must be a Clock, got {clock!r}")
    forward = forward_equation(model.process, model.dim)

    def drift(x: Array, now: float) -> Array:
        t = clock.time(now)
        return np.asarray(forward.drift_at(x, t) + control(model, x, t, clock.rate))

    return StochasticEquation(drift, lambda now: operators.root(model.process.diffusion(clock.time(now))), model.dim)


def _velocity(model: ExactModel, x: ArrayLike, t: float) -> Any:
    """v in float64, of a model."""
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    return model.velocity(real_array("x", x), t)
