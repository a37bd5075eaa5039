r"""Equations with affine drift, whose paths are Gaussian: with affine scores, bridges, linear controls.

    dx = [M(t) x + c(t)] dt + G(t) dw,      time running either way
    x_t | x_s ~ N(K x_s + k, W W')          by the Gauss steps of `refdiff.processes.transition`

To data, with any affine score s = -A (x - c) in the place of grad log p_t,

    dx = [F x + u - (1 + k^2)/2 D s] dt + k G dw,      dt < 0

and with the exact one, -P^-1 (x - m), the reverse of Gaussian data. The joint law of two times of the forward process
is that of its reverse for k = 1 only: for one axis Cov(x_s, x_t) = P_t (P_s / P_t)^((1 + k^2)/2) (alpha_t /
alpha_s)^(k^2). Sources: PODD-85, PODD-90, PODA-407, RDX-B11; Anderson 1982.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.objectives.reverse import whole
from refdiff.operators import Operator
from refdiff.path_measures.scores import AffineScore
from refdiff.processes import Process
from refdiff.processes.transition import Linear, over
from refdiff.schedules import Schedule
from refdiff.stochastic.equation import StochasticEquation


@dataclass(frozen=True, eq=False)
class AffineEquation:
    """dx = [M(t) x + c(t)] dt + G(t) dw on R^d.

    Args:
        linear: t -> M, a number, (d,) or (d, d).
        force: t -> c, a number or (d,).
        noise: t -> G, a number, (d,) or (d, m).
        dim: d.
        motions: m, d unless given.

    Raises:
        TypeError: one is no function.
        ValueError: dim or motions is less than 1.
    """

    linear: Callable[[float], ArrayLike]
    force: Callable[[float], ArrayLike]
    noise: Callable[[float], ArrayLike]
    dim: int
    motions: int = 0

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        object.__setattr__(self, "motions", whole_number("motions", self.motions or self.dim, low=1))
        for name in ("linear", "force", "noise"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {getattr(self, name)!r}")

    def linear_at(self, t: float) -> Operator:
        """M at a time t, an operator.

        Raises:
            ValueError: it does not act on R^d.
        """
        m = operators.operator("linear", self.linear(t))
        if m.shape not in ((), (self.dim,), (self.dim, self.dim)):
            raise ValueError(f"linear must act on dimension {self.dim}, got shape {m.shape}")
        return m

    def force_at(self, t: float) -> Array:
        """c at a time t, shape (d,).

        Raises:
            ValueError: it has another shape.
        """
        c = real_array("force", self.force(t))
        if c.shape not in ((), (self.dim,)):
            raise ValueError(f"force must answer with a number or shape {(self.dim,)}, got {c.shape}")
        return np.broadcast_to(c, (self.dim,))

    def noise_at(self, t: float) -> Operator:
        """G at a time t, an operator: a number, (d,) or (d, m).

        Raises:
            ValueError: it does not map R^m into R^d.
        """
        g = operators.operator("noise", self.noise(t))
        shapes = [(self.dim, self.motions), *([(), (self.dim,)] if self.motions == self.dim else [])]
        if g.shape not in shapes:
            raise ValueError(f"noise must answer with one of the shapes {shapes}, got {g.shape}")
        return g

    def diffusion_at(self, t: float) -> Operator:
        """D = G G' at a time t, an operator."""
        g = self.noise_at(t)
        return g @ g.T if g.ndim == 2 else g * g

    def equation(self) -> StochasticEquation:
        """The same as functions of points and time, with M for what exponential methods take exactly."""

        def drift(x: Array, t: float) -> Array:
            return operators.apply(self.linear_at(t), x) + self.force_at(t)

        return StochasticEquation(drift, self.noise_at, self.dim, motions=self.motions, linear=self.linear_at)

    def transition(self, start: float, end: float) -> Channel:
        """The channel from time `start` to time `end`, in either order."""
        first, last = real_scalar("start", start), real_scalar("end", end)
        if first == last:
            return Channel()
        dense = Linear(
            lambda t: operators.dense(self.linear_at(t), self.dim),
            self.force_at,
            lambda t: operators.dense(self.noise_at(t), self.dim),
        )
        return over(dense, first, last).channel


def affine_forward(process: Process | Schedule, dim: int) -> AffineEquation:
    """dx = [F x + u] dt + G dw of a process or a schedule on R^d, d = `dim`, with the symmetric root of D for G.

    Raises:
        TypeError: no process.
        ValueError: a process on another number of axes.
    """
    process = whole(process)
    if process.axes not in (None, dim):
        raise ValueError(f"dim must be the process's number of axes {process.axes}, got {dim}")
    return AffineEquation(
        process.drift,
        process.force,
        lambda t: operators.root(process.diffusion(t)),
        dim,
    )


def affine_reverse(process: Process, score: AffineScore, stochasticity: float = 1.0) -> AffineEquation:
    """dx = [F x + u - (1 + k^2)/2 D s] dt + k G dw, dt < 0: the way to data with an affine score.

    Args:
        process: of the noising, on as many axes as the score.
        score: s; `AffineScore.exact(model)` for the reverse of Gaussian data.
        stochasticity: k >= 0.

    Raises:
        TypeError: no process, or no AffineScore.
        ValueError: k is negative, or the score has another dimension than the process.
    """
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process, got {process!r}")
    if not isinstance(score, AffineScore):
        raise TypeError(f"score must be an AffineScore, got {score!r}")
    if process.axes not in (None, score.dim):
        raise ValueError(f"score must have dimension {process.axes} like the process, got {score.dim}")
    k = real_scalar("stochasticity", stochasticity, low=0)
    share = (1 + k * k) / 2

    def linear(t: float) -> Operator:
        pulled = operators.product(process.diffusion(t), score.precision_at(t))
        return operators.add(process.drift(t), share * pulled)

    def force(t: float) -> Array:
        centre = operators.apply(score.precision_at(t), score.centre_at(t))
        return process.force(t) - share * operators.apply(process.diffusion(t), centre)

    return AffineEquation(linear, force, lambda t: k * operators.root(process.diffusion(t)), score.dim)


def forward_joint(model: ExactModel, s: float, t: float) -> GaussianMixture:
    """The law of (x_s, x_t) in R^(2 d), s <= t: a mixture where the data of the `model` are one.

    Raises:
        TypeError: the model is no ExactModel.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    return _joint(model.marginal(s), model.process.channel(s, t))


def reverse_joint(model: ExactModel, s: float, t: float, stochasticity: float = 1.0) -> Gaussian:
    """The law of (x_s, x_t) in R^(2 d), s <= t, that equations with the marginals of Gaussian data run to data have.

    Args:
        model: Gaussian data and their noising.
        s, t: times with a density.
        stochasticity: k >= 0; the law is that of the forward process for k = 1 only.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: the data are a mixture, or s exceeds t.
    """
    if real_scalar("s", s) > real_scalar("t", t):
        raise ValueError(f"s must not exceed t, got s = {s} and t = {t}")
    equation = affine_reverse(model.process, AffineScore.exact(model), stochasticity)
    joint = _joint(model.marginal(t), equation.transition(t, s))
    turned = np.roll(np.arange(2 * model.dim), model.dim)
    return Gaussian(joint.means[0][turned], joint.cov()[np.ix_(turned, turned)])


def _joint(law: GaussianMixture, channel: Channel) -> GaussianMixture:
    """The law of (x, y) when x follows `law` and y is what the channel makes of it."""
    dim = law.dim
    gain = np.vstack([np.eye(dim), operators.dense(channel.gain, dim)])
    noise = np.zeros((2 * dim, 2 * dim))
    noise[dim:, dim:] = operators.dense(channel.noise, dim)
    return law.affine(gain, np.append(np.zeros(dim), np.broadcast_to(channel.offset, (dim,)))).convolve(noise)
