r"""Two samplers on one noise: the exact score's and an approximate one's, side by side.

    dx = [F x + u - (1 + k^2)/2 D s(x, t)] dt + k G dw,      dy = [F y + u - (1 + k^2)/2 D s^(y, t)] dt + k G dw

with the same dw and, at first, the optimal coupling of p_T and q_T. Any coupling's distance bounds W2 from above, and
this one's is bounded by `wasserstein_bound`. Three ways of having it:

    affine       Gaussian data and s^ = -A (x - c): (x, y) is Gaussian, and its equation linear         `coupled_law`
    flows        k = 0: no noise, so every pair of points is a solution of its own                      `coupled_flows`
    paths        any k and any score: drawn, by `stochastic.solve`, with a standard error              `coupled_paths`

Optimal at first are x = S_p^(1/2) z and y = S_q^(1/2) O z, O the orthogonal part of S_q^(1/2) S_p^(1/2), singular or
not. On the line increasing maps are optimal, flows increase, and therefore E |x_0 - y_0|^2 of flows is W2^2 itself.
Sources: TOPB-59, TOPB-61, TOPB-64, TOPB-66.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, reduce
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.divergences import kl_divergence, wasserstein
from refdiff.dynamics import VelocityField, field_flow
from refdiff.expectations import Estimate, MonteCarlo, Quadrature, Route, checked, draws, integral, name_of
from refdiff.model import ExactModel
from refdiff.path_measures.scores import AffineScore, ApproximateScore, interval, pieces
from refdiff.processes.transition import Linear, over
from refdiff.random import SEEDS, seed_key
from refdiff.stochastic import StochasticEquation, solve
from refdiff.transport import optimal_image
from refdiff.transport.gaussian_maps import optimal_roots

TOGETHER = 8192  # points that share their steps: what a step costs is mostly not for the points


@dataclass(frozen=True, eq=False)
class CoupledLaw:
    """The joint law of x and y at a time, both Gaussian.

    Attributes:
        mean: of (x, y), shape (2 d,).
        root: W with W W' their covariance, shape (2 d, m); where the axes are independent of each other, that of each
            pair (x_i, y_i), shape (d, 2, m).
    """

    mean: Array
    root: Array

    @property
    def exact(self) -> Gaussian:
        """The law of x, the data's own."""
        return self._marginal(0)

    @property
    def generated(self) -> Gaussian:
        """The law of y."""
        return self._marginal(1)

    @property
    def distance(self) -> float:
        """(E |x - y|^2)^(1/2), from the root, so that a small distance keeps its digits."""
        d = len(self.mean) // 2
        x, y = (self.root[:, 0], self.root[:, 1]) if self.root.ndim == 3 else (self.root[:d], self.root[d:])
        shift, spread = self.mean[:d] - self.mean[d:], x - y
        return float(np.hypot(np.linalg.norm(shift), np.linalg.norm(spread)))

    @property
    def wasserstein(self) -> float:
        """W2 of the two laws."""
        return wasserstein(self.exact, self.generated)

    @property
    def kl(self) -> float:
        """KL(law of x || law of y)."""
        return kl_divergence(self.exact, self.generated)

    def _marginal(self, which: int) -> Gaussian:
        d = len(self.mean) // 2
        part = slice(which * d, (which + 1) * d)
        if self.root.ndim == 3:
            return Gaussian(self.mean[part], (self.root[:, which] ** 2).sum(axis=1))
        return Gaussian(self.mean[part], self.root[part] @ self.root[part].T)


def coupled_law(
    model: ExactModel,
    score: AffineScore,
    *,
    stochasticity: float = 0.0,
    prior: GaussianMixture | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> CoupledLaw:
    """The law of (x, y) at `start`, to rounding, for Gaussian data of any process and an affine score.

    Where nothing is a matrix each axis is a pair of its own, and the work grows like d and not like its cube.

    Args:
        model: an ExactModel of Gaussian data.
        score: s^.
        stochasticity: k >= 0.
        prior: q_end, a Gaussian; p_end unless given.
        start, end: the times, T unless given; only times between the two are asked for.

    Raises:
        TypeError: the model is no ExactModel, or the score not affine.
        ValueError: data or a prior that are no Gaussians, dimensions that differ, times out of order, or a negative
            stochasticity.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.path_measures import AffineScore, coupled_law
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower(power=0.5, T=1.0))
        >>> print(coupled_law(model, AffineScore.exact(model), stochasticity=1.0).wasserstein < 1e-7)
        True
        >>> far = coupled_law(model, AffineScore.exact(model), prior=Gaussian([1.0], 2.0))  # a start that is off by one
        >>> print(round(far.wasserstein, 6))  # which the flow, x / sqrt(1 + t), takes to 1 / sqrt(2)
        0.707107
    """
    first, last = interval(model, score, start, end)
    if not isinstance(score, AffineScore):
        raise TypeError(f"score must be an AffineScore, got {score!r}")
    before = model.marginal(last)
    if model.distribution.count != 1 or (prior is not None and prior.count != 1):
        raise ValueError("model must have Gaussian data, and the prior be a Gaussian, for a closed law of both")
    if prior is not None and prior.dim != model.dim:
        raise ValueError(f"prior must have the dimension {model.dim} of the data, got {prior.dim}")
    k = real_scalar("stochasticity", stochasticity, low=0)
    after = before if prior is None else prior
    p, q = (np.asarray(law.covariances.operator()) for law in (before, after))
    rates = [np.asarray(part(last)) for part in (model.process.drift, model.process.diffusion, score.precision_at)]
    apart = max(part.ndim for part in (p, q, *rates)) < 2
    equation = _pairs(model, score, k) if apart else _joint(model, score, k)
    times = pieces(model.process, first, last)[::-1]
    ways = [over(equation, t, later) for t, later in pairwise(times)]
    way = reduce(lambda done, part: part.after(done), ways)
    d, means = model.dim, np.stack([before.means[0], after.means[0]])
    if apart:
        cross = np.stack([np.broadcast_to(np.sqrt(part), (d,)) for part in (p, q)], axis=1)[:, :, None]
        mean = ((way.gain @ means.T[:, :, None])[..., 0] + way.offset).T.ravel()
    else:
        cross = optimal_roots(operators.dense(p, d), operators.dense(q, d))
        mean = way.gain @ means.ravel() + way.offset
    return CoupledLaw(mean, np.concatenate([way.gain @ cross, way.root], axis=-1))


def _joint(model: ExactModel, score: AffineScore, k: float) -> Linear:
    """The equation of (x, y) in R^(2 d)."""
    exact, process, d = AffineScore.exact(model), model.process, model.dim

    @cache
    def parts(t: float) -> tuple[Array, Array]:
        """Drift and force, shapes (2 d, 2 d) and (2 d,), which are asked for one after the other."""
        f, spread = (operators.dense(np.asarray(part(t)), d) for part in (process.drift, process.diffusion))
        joint, push = np.zeros((2 * d, 2 * d)), np.tile(np.broadcast_to(process.force(t), (d,)), 2)
        for one, part in ((exact, slice(0, d)), (score, slice(d, None))):
            pulled = 0.5 * (1 + k * k) * spread @ operators.dense(one.precision_at(t), d)
            joint[part, part] = f + pulled
            push[part] -= pulled @ one.centre_at(t)
        return joint, push

    def noise(t: float) -> Array:
        return np.tile(k * operators.dense(operators.root(np.asarray(process.diffusion(t))), d), (2, 1))

    return Linear(lambda t: parts(t)[0], lambda t: parts(t)[1], noise)


def _pairs(model: ExactModel, score: AffineScore, k: float) -> Linear:
    """The equations of the pairs (x_i, y_i), of shapes (d, 2, 2), (d, 2) and (d, 2, 1)."""
    exact, process, d = AffineScore.exact(model), model.process, model.dim

    @cache
    def parts(t: float) -> tuple[Array, Array]:
        joint, push = np.zeros((d, 2, 2)), np.empty((d, 2))
        for i, one in enumerate((exact, score)):
            a = one.precision_at(t)
            if a.ndim == 2:
                raise ValueError(f"score must have matrices for its precision at all times or at none, got one at {t}")
            pulled = 0.5 * (1 + k * k) * process.diffusion(t) * a
            joint[:, i, i] = process.drift(t) + pulled
            push[:, i] = process.force(t) - pulled * one.centre_at(t)
        return joint, push

    def noise(t: float) -> Array:
        root = k * np.sqrt(np.broadcast_to(process.diffusion(t), (d,)))
        return np.stack([root, root], axis=1)[:, :, None]

    return Linear(lambda t: parts(t)[0], lambda t: parts(t)[1], noise)


def coupled_flows(
    model: ExactModel,
    score: ApproximateScore,
    route: Route,
    *,
    prior: GaussianMixture | None = None,
    start: float = 0.0,
    end: float | None = None,
    rtol: float = 1e-10,
) -> Estimate:
    """E |x_0 - y_0|^2 of the two flows, k = 0; on the line it is W2(p_start, q_start)^2.

    Args:
        model: the data and their noising.
        score: s^.
        route: a Quadrature over p_end, or a MonteCarlo.
        prior: q_end: p_end unless given, on the line any law, else a Gaussian under Gaussian data.
        start, end: the times, T unless given.
        rtol: of the steps of both flows.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: no route, dimensions that differ, times out of order, or priors without an optimal map.
    """
    first, last = interval(model, score, start, end)
    law, how, d = model.marginal(last), checked(route), model.dim

    def rate(z: Array, t: float) -> Array:
        x, y = z[:, :d], z[:, d:]
        velocity = np.asarray(model.velocity(y, t))
        moved = velocity + 0.5 * operators.apply(
            np.asarray(model.process.diffusion(t)), model.score(y, t) - score.at(y, t)
        )
        return np.hstack([model.velocity(x, t), moved])

    def squares(x: Array) -> Array:
        z = np.hstack([x, _partners(law, prior, x)])
        field = VelocityField(rate, 2 * d)
        found = field_flow(field, z, last, first, rtol=rtol, atol=rtol / 100, batch=TOGETHER).x
        return np.asarray(((found[:, :d] - found[:, d:]) ** 2).sum(axis=1))

    if isinstance(how, Quadrature):
        value, error = integral(law, squares, how, float(np.trace(law.cov())))
        return Estimate(float(value), error, name_of(how))
    return _mean(squares(draws(law, how.samples, how.seed)), how)


def coupled_paths(
    model: ExactModel,
    score: ApproximateScore,
    route: MonteCarlo,
    times: ArrayLike,
    *,
    stochasticity: float = 1.0,
    prior: GaussianMixture | None = None,
    method: str = "heun",
) -> tuple[Array, Array, Estimate]:
    """Drawn pairs (x, y) at the last of falling times, each (n, d), and E |x - y|^2 with its standard error.

    The noise of both is the same, so that their distance has none; what the steps err by is not in the error.

    Args:
        model: the data and their noising.
        score: s^.
        route: how many pairs, and the seed.
        times: from noise to data, shape (m,), m > 1; at all of them p_t has a density.
        stochasticity: k >= 0.
        prior: q at the first time: p unless given, on the line any law, else a Gaussian under Gaussian data.
        method: of `stochastic.solve`, one for additive noise.

    Raises:
        TypeError: the model is no ExactModel, or the route no MonteCarlo.
        ValueError: an unknown method, times that do not fall, dimensions that differ, a negative stochasticity, or
            priors without an optimal map.
    """
    when = real_array("times", times, ndim=(1,))
    if len(when) < 2 or (np.diff(when) >= 0).any():
        raise ValueError(f"times must fall, at least two of them, got {when.tolist()}")
    interval(model, score, float(when[-1]), float(when[0]))
    if not isinstance(route, MonteCarlo):
        raise TypeError(f"route must be a MonteCarlo, got {route!r}")
    k, process, d = real_scalar("stochasticity", stochasticity, low=0), model.process, model.dim
    law = model.marginal(float(when[0]))
    x = draws(law, route.samples, route.seed)
    y = _partners(law, prior, x)

    def drift(z: Array, t: float) -> Array:
        u, v = z[:, :d], z[:, d:]
        spread = np.asarray(process.diffusion(t))
        # velocity = F x + u - D s / 2, of which the last part is of the model's own score
        own = model.velocity(u, t) - 0.5 * k * k * operators.apply(spread, model.score(u, t))
        other = 0.5 * model.score(v, t) - 0.5 * (1 + k * k) * score.at(v, t)
        return np.hstack([own, model.velocity(v, t) + operators.apply(spread, other)])

    def noise(t: float) -> Array:
        return np.tile(k * operators.dense(operators.root(np.asarray(process.diffusion(t))), d), (2, 1))

    equation = StochasticEquation(drift, noise, 2 * d, motions=d)
    # a seed of its own: of the starts the first draws are taken
    found = solve(equation, np.hstack([x, y]), when, method, seed=(seed_key(route.seed) + 1) % SEEDS)
    x, y = found[:, :d], found[:, d:]
    return x, y, _mean(((x - y) ** 2).sum(axis=1), route)


def _partners(law: GaussianMixture, prior: GaussianMixture | None, x: Array) -> Array:
    """The images of points x (n, d) under the optimal map of a law to a prior, None for itself."""
    if prior is None:
        return x
    try:
        return np.asarray(optimal_image(law, prior, x))
    except ValueError as error:
        raise ValueError(f"prior must have an optimal map from the exact law, p and q here: {error}") from None


def _mean(values: Array, route: MonteCarlo) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(route.samples)), name_of(route))
