r"""Iterative Markovian fitting (IMF, DSBM): processes made Markov and put between bridges by turns.

    reciprocal   the law Pi of pairs (x_0, x_T), joined by the bridges of the reference
    Markov       dx = b dt + G dw,   b = E[drift of the bridge | x_t] = v + D grad log p_t / 2

v is the velocity of `InterpolantModel`. The Markov process has the same p_t, so that both marginals are right in every
iterate; the pairs of its ends are the next Pi. Only the bridge is Markov and reciprocal. With P* the bridge,

    KL(Pi || P*) = KL(Pi || M) + KL(M || P*),     KL(M || P*) >= KL(pairs of M || pairs of P*)

Gaussian pairs: b = c' + B_t (x - c), B = (R - D / 2) P^-1 where dx/dt has the covariance R with x_t, and the
next cross-covariance is S K', K' the transposed flow of dK/dt = B K from 0 to T. On the line, Brownian of rate eps on
[0, 1], variances s and t, P_u = s (1 - u)^2 + (2 c + eps) u (1 - u) + t u^2,

    c -> (s t)^(1/2) exp(-(eps / 2) int_0^1 du / P_u),       fixed where c (c + eps) = s t, there with r = c^2 / (s t)

    rate  r / (1 - r) ((1 + r) / (1 - r) log(1 / r) - 2)  <= 0.1039

whatever eps is: 0 for eps -> 0, where one step is enough, as for eps -> inf. For eps -> 0 proportional fitting, which
leaves r of means and r^2 of covariances, hardly moves. In more dimensions turns last longer: between multiples of I an
antisymmetric part of the cross-covariance is left by r / (1 - r) log(1 / r) of it, which tends to 1 for eps -> 0. There
a step is a rectified flow, straight once, and turned pairs stay as they are. Of mixtures a step is `drawn_pairs`.
Sources: PODB-82, PODB-92, TOPB-69; Shi, De Bortoli, Campbell and Doucet 2023, "Diffusion Schroedinger bridge
matching"; Peluchetti 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, whole_number
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.interpolants import InterpolantModel
from refdiff.operators import Operator
from refdiff.path_measures import AffineEquation
from refdiff.processes import Process
from refdiff.processes.transition import NODES, Linear, over
from refdiff.schedules import Schedule
from refdiff.schroedinger.reference import ReferenceBridges
from refdiff.transport import GaussianPlan, PairLaw, gaussian_pairs

Noise = Callable[[float], ArrayLike]


@dataclass(frozen=True, eq=False)
class MarkovianFitting:
    """The iterates of Markovian fitting between Gaussians.

    Attributes:
        interpolant: the bridges of the reference.
        plans: the laws of (x_0, x_T) of Pi^0, Pi^1, .., all with the same marginals.
    """

    interpolant: ReferenceBridges
    plans: tuple[PairLaw, ...]

    @cached_property
    def limit(self) -> PairLaw:
        """The pairs of the Schroedinger bridge."""
        plan = self.plans[0]
        p, q = _one(plan.first), _one(plan.second)
        return GaussianPlan(p, q, 1.0, self.interpolant.overall).pairs()

    @cached_property
    def rates(self) -> Array:
        """|Eigenvalues| of the step at its fixed point, decreasing, shape (d^2,): what is left of small errors."""
        return markovian_rates(InterpolantModel(self.limit, self.interpolant))

    def divergences(self) -> Array:
        """KL(Pi^n || P*), decreasing, shape (n + 1,).

        Raises:
            ValueError: the pairs of an iterate have no density.
        """
        best = _one(self.limit.mixture())
        return np.array([kl_divergence(_one(plan.mixture()), best) for plan in self.plans])


def markovian_fitting(
    pairs: PairLaw, reference: Process | Schedule | float, steps: int, T: float | None = None
) -> MarkovianFitting:
    """`steps` times the Markov process of pairs joined by bridges, and the pairs of its ends.

    Args:
        pairs: the law of (x_0, x_T) to begin with, Gaussian with two densities: `independent(p, q)`, or any other.
        reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        steps: how many.
        T: the end; the process's own unless given, 1 of Brownian motion.

    Raises:
        TypeError: pairs is no PairLaw, or reference none.
        ValueError: pairs that are a mixture or without a density at an end, or what `ReferenceBridges` refuses.
    """
    bridges, plans = ReferenceBridges(reference, T), [pairs]
    for _ in range(whole_number("steps", steps)):
        plans.append(end_pairs(InterpolantModel(plans[-1], bridges)))
    return MarkovianFitting(bridges, tuple(plans))


def markovian_projection(
    model: InterpolantModel, noise: Noise | None = None, *, backward: bool = False
) -> AffineEquation:
    """The Markov process of Gaussian pairs that are joined, as an equation with affine drift: marginals p_t.

    Args:
        model: Gaussian pairs and how they are joined.
        noise: t -> G; that of the reference where the model's interpolant is a ReferenceBridges. For mixtures, and any
            noise, it is `InterpolantModel.equation`.
        backward: whether time runs from the second law to the first.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: the pairs are a mixture, or no noise is given or known.
    """
    gaussian_model(model)
    g, parts = noise_of(model, noise), lru_cache(maxsize=NODES)(_dense(model))

    @lru_cache(maxsize=NODES)
    def linear(t: float) -> Operator:
        return _slope(parts(t), operators.operator("noise", g(t)), backward=backward)

    def force(t: float) -> Array:
        return np.asarray(parts(t).moved - linear(t) @ parts(t).mean)

    columns = operators.operator("noise", g(0.5 * model.T)).shape[1:]
    return AffineEquation(linear, force, g, model.dim, columns[0] if columns else 0)


def end_pairs(model: InterpolantModel, noise: Noise | None = None) -> PairLaw:
    """The law of (x_0, x_T) of the Markov process of Gaussian pairs: a step of Markovian fitting.

    Args:
        model: Gaussian pairs and how they are joined.
        noise: t -> G, the reference's unless given; 0 is rectified flow.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: the pairs are a mixture or without a density at an end, or no noise is given or known.
    """
    gaussian_model(model)
    g, parts = noise_of(model, noise), _dense(model)
    for name, half in (("first", model.pairs.first), ("second", model.pairs.second)):
        if half.covariances.singular:
            raise ValueError(NO_DENSITY.format(what=f"the {name} law of the pairs"))
    way = _flow(lambda t: _slope(parts(t), operators.operator("noise", g(t))), model)
    return gaussian_pairs(_one(model.pairs.first), _one(model.pairs.second), model.pairs.first.cov() @ way.T)


def markovian_rates(model: InterpolantModel, noise: Noise | None = None) -> Array:
    """|Eigenvalues| of the derivative of `end_pairs` in the cross-covariance, decreasing, shape (d^2,).

    Args:
        model: Gaussian pairs, the bridge's for the rates of convergence, and how they are joined.
        noise: t -> G, the reference's unless given.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: the pairs are a mixture, or no noise is given or known.
    """
    gaussian_model(model)
    g, parts, d = noise_of(model, noise), lru_cache(maxsize=None)(_dense(model)), model.dim

    def both(t: float, changes: Array) -> Array:
        # of x' = B x, y' = B y + dB x, the way from x to y is the change of the flow
        now = parts(t)
        slope = _slope(now, operators.operator("noise", g(t)))
        rate, spread = (
            left @ changes @ now.second.T + right @ changes.swapaxes(1, 2) @ now.first.T
            for left, right in ((now.dfirst, now.dsecond), (now.first, now.second))
        )
        moved = (rate - slope @ spread) @ np.linalg.inv(now.covariance)
        same = np.broadcast_to(slope, moved.shape)
        return np.concatenate([np.dstack([same, np.zeros_like(moved)]), np.dstack([moved, same])], axis=1)

    # changes of one row of the cross-covariance share their steps
    rows = [_flow(partial(both, changes=row), model) for row in np.eye(d * d).reshape(d, d, d, d)]
    ways = np.concatenate(rows)[:, d:, :d]
    columns = (model.pairs.first.cov() @ ways.swapaxes(1, 2)).reshape(d * d, d * d).T
    return np.sort(np.abs(np.linalg.eigvals(columns)))[::-1]


# ---------------------------------------------------------------------- parts


def gaussian_model(model: InterpolantModel) -> None:
    """Nothing, for a `model` of Gaussian pairs.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: its pairs are a mixture.
    """
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"model must be an InterpolantModel, got {model!r}")
    if model.pairs.count != 1:
        raise ValueError(f"model must be of Gaussian pairs, got {model.pairs.count} components")


def noise_of(model: InterpolantModel, noise: Noise | None = None) -> Noise:
    """t -> G, the `noise` that is given, or that of the reference of the `model`.

    Raises:
        ValueError: none is given, and the pairs are not joined by bridges of a reference.
    """
    if noise is not None:
        return noise
    bridges = model.interpolant
    if not isinstance(bridges, ReferenceBridges):
        raise ValueError(f"noise must be given where the pairs are not joined by ReferenceBridges, got {bridges!r}")
    return lambda t: operators.root(bridges.process.diffusion(t))


class _Dense(NamedTuple):
    """A, B, A', B', P = Cov(x_t) and R = Cov(dx/dt, x_t) at one time, each (d, d); c = E x_t and c', each (d,)."""

    first: Array
    second: Array
    dfirst: Array
    dsecond: Array
    covariance: Array
    rate: Array
    mean: Array
    moved: Array


def _dense(model: InterpolantModel) -> Callable[[float], _Dense]:
    """Time to what the slope of the drift is made of."""
    d, pairs = model.dim, model.pairs
    m, n = pairs.first.means[0], pairs.second.means[0]
    s, c, t = (block.dense(d)[0] for block in (pairs.first.covariances, pairs.cross, pairs.second.covariances))

    def at(time: float) -> _Dense:
        now = model.interpolant.at(time)
        a, b, da, db, noise, spread = (
            operators.dense(part, d) for part in (now.first, now.second, now.dfirst, now.dsecond, now.noise, now.spread)
        )
        covariance = a @ (s @ a.T + c @ b.T) + b @ (c.T @ a.T + t @ b.T) + noise
        rate = da @ (s @ a.T + c @ b.T) + db @ (c.T @ a.T + t @ b.T) + spread
        mean, moved = a @ m + b @ n + now.offset, da @ m + db @ n + now.doffset
        return _Dense(a, b, da, db, covariance, rate, mean, moved)

    return at


def _slope(now: _Dense, g: Operator, *, backward: bool = False) -> Array:
    """(R - D / 2) P^-1, or (R + D / 2) P^-1 `backward`, for a noise `g`."""
    half = operators.dense(0.5 * (g @ g.T if g.ndim == 2 else g * g), len(now.rate))
    return np.asarray(np.linalg.solve(now.covariance, (now.rate + (half if backward else -half)).T).T)


def _flow(linear: Callable[[float], Array], model: InterpolantModel) -> Array:
    """K of dK/dt = B K from the start to the end, of one B (d, d) or of many (n, d, d)."""
    force = np.zeros(linear(0.5 * model.T).shape[:-1])
    still = Linear(linear, lambda _: force, lambda _: force[..., None])
    return np.asarray(over(still, 0.0, model.T).gain)


def _one(half: Any) -> Gaussian:
    if not isinstance(half, Gaussian):
        raise ValueError(f"pairs must be Gaussian, got {half!r}")
    return half
