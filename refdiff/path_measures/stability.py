r"""How far a sampler's output is from the data when its score is not the exact one: W2 <= score matching.

To data both run with one noise, the first with s = grad log p_t from p_T, the second with an approximate s^ from q_T,

    dx = [F x + u - (1 + k^2)/2 D s(x, t)] dt + k G dw,     dt < 0          k = 0 a flow, k = 1 Anderson's reversal

so no noise is left in x - y, and Gronwall's argument for flows goes through for every k. With L_t a one-sided
Lipschitz rate of -[F x - (1 + k^2)/2 D s^], the field as it is run, and I_t = exp int_0^t L,

    W2(p_0, q_0) <= (E |x_0 - y_0|^2)^(1/2)
                 <= (1 + k^2)/2 int_0^T I_t (E_{p_t} |D (s - s^)|^2)^(1/2) dt + I_T W2(p_T, q_T)

where p_T and q_T are coupled optimally at first. The printed bound has the weight g^2 of k = 1 for both ends of the
family: twice what a flow needs, and with the I_t of another field. The largest eigenvalue of the symmetric part of the
derivative stands for L in every dimension. A bound over times composes: over [0, a] and [a, T] it is B_a + I_a B_T.
All of it holds in any norm |P^(1/2) x|, with R = P^(1/2), L the eigenvalue for R (.) R^-1 and R D (s - s^) for the
error: Langevin's dynamics shrink no Euclidean distance, and its bound is many times better in a norm of its own.
Sources: TOPB-56, TOPB-59, TOPB-60, TOPB-61, TOPB-63, TOPB-66.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_scalar
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.divergences import wasserstein
from refdiff.distributions.quantiles import monotone_map
from refdiff.expectations import Estimate, Quadrature, Route, expectation, integral, name_of
from refdiff.model import ExactModel
from refdiff.operators import Operator
from refdiff.path_measures.scores import AffineScore, ApproximateScore, interval, largest, pieces

NODES = 10  # of Gauss-Legendre in one part of the time
FLOOR = 1e-14  # of W2, beside the spread of the data: what rounding leaves of a score that is exact
DEEPEST = 40  # halvings of a part, after which a jump is no longer than rounding
EUCLIDEAN = np.ones(())  # the root of the metric
MOST = 1000  # parts, beside those between jumps

Rates = Callable[[float], tuple[float, float, float]]  # t -> L, the size of the error of the field, its error


@dataclass(frozen=True)
class Stability:
    """A bound on W2 and what it is made of, all in the norm of the metric.

    Attributes:
        value: the bound.
        euclidean: a bound on the Euclidean W2, the value over the least root of the metric's eigenvalues.
        matching: the part of the score errors, the integral over time.
        prior: the part of the priors, I_T W2(p_T, q_T).
        growth: I_T, what becomes of a distance of 1 at the end.
        error: at most the error of the expectations under the integral: 0 in closed form, what quadrature may err by,
            or an upper bound of the standard error.
        route: "closed", "quadrature" or "monte carlo".
    """

    value: float
    euclidean: float
    matching: float
    prior: float
    growth: float
    error: float
    route: str


def score_error(
    model: ExactModel, score: ApproximateScore, t: float, *, weighted: bool = False, route: Route | None = None
) -> Estimate:
    """E_{p_t} |s - s^|^2, the loss of explicit score matching, or E |D (s - s^)|^2 where it is `weighted`.

    Args:
        model: the data and their noising.
        score: s^.
        t: one time, at which p_t has a density.
        weighted: whether the diffusion D multiplies the errors.
        route: how the expectation is taken; None in closed form, for Gaussian data and an AffineScore.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: dimensions that differ, or no closed form and no route.
    """
    when, _ = interval(model, score, t, t)
    return _error(model, score, when, np.asarray(model.process.diffusion(when)) if weighted else np.ones(()), route)


def _error(model: ExactModel, score: ApproximateScore, when: float, weight: Operator, route: Route | None) -> Estimate:
    """E |M (s - s^)|^2 with the weight M."""
    if isinstance(score, AffineScore) and model.distribution.count == 1:
        law = model.marginal(when)
        p, a = law.covariances.operator(), score.precision_at(when)
        gap = operators.product(weight, operators.add(a, -operators.inverse(p)))
        shift = operators.apply(operators.product(weight, a), law.means[0] - score.centre_at(when))
        spread = operators.sandwich(gap, p)
        trace = np.trace(spread) if spread.ndim == 2 else np.broadcast_to(spread, model.dim).sum()
        return Estimate(float(trace + shift @ shift), 0.0, "closed")

    def squares(x: Array) -> Array:
        wrong = operators.apply(weight, model.score(x, when) - score.at(x, when))
        return np.asarray((wrong**2).sum(axis=1))

    law = model.marginal(when)
    size = float((operators.dense(weight, model.dim) ** 2).sum() / np.trace(law.cov()))
    return expectation(law, squares, route, size)


def growth_rate(model: ExactModel, score: ApproximateScore, t: float, *, stochasticity: float = 0.0) -> float:
    """L_t, the most that the distance of two solutions of one noise grows per time on the way to data, over itself.

    Args:
        model: the data and their noising.
        score: s^, whose equation it is.
        t: the time.
        stochasticity: k >= 0.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: dimensions that differ, or a negative stochasticity.
    """
    when, _ = interval(model, score, t, t)
    return _growth(model, score, when, _pull(stochasticity))


def wasserstein_bound(
    model: ExactModel,
    score: ApproximateScore,
    *,
    stochasticity: float = 0.0,
    prior: GaussianMixture | float | None = None,
    start: float = 0.0,
    end: float | None = None,
    metric: ArrayLike = 1.0,
    route: Route | None = None,
    tolerance: float = 1e-10,
) -> Stability:
    """The bound on W2(p_start, q_start) of what an approximate score makes of q_end.

    Args:
        model: the data and their noising, scalar, per axis or by matrices.
        score: an AffineScore, or a LipschitzScore.
        stochasticity: k >= 0: 0 the probability flow, 1 Anderson's equation.
        prior: q_end, a law, or W2(p_end, q_end) itself (or more); p_end unless given.
        start: the time nearer to data at which there is still a density for the score to be of.
        end: the time at which the way to data begins, T unless given; only times between the two are asked for.
        metric: P, whose norm (x' P x)^(1/2) measures distances, a number, (d,) or (d, d); Euclid's unless given.
        route: how expectations over p_t are taken; None in closed form, for Gaussian data and an AffineScore.
        tolerance: relative, of the integral over time.

    Raises:
        TypeError: the model is no ExactModel, or the prior no law.
        ValueError: times out of order, dimensions that differ, a negative stochasticity, a metric that is not positive
            definite, no route where one is needed, a prior whose distance has no closed form, or rates that vary on
            all scales.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.path_measures import AffineScore, wasserstein_bound
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower(power=0.5, T=1.0))
        >>> found = wasserstein_bound(model, AffineScore.exact(model), prior=0.1)  # x / sqrt(1 + t)
        >>> print(round(found.value, 6))
        0.070711
    """
    first, last = interval(model, score, start, end)
    pull, tol = _pull(stochasticity), real_scalar("tolerance", tolerance, low=0, high=1, open_low=True)
    closed = isinstance(score, AffineScore) and model.distribution.count == 1
    root = _root(metric, model.dim)
    distance = prior_distance(model, prior, last, route, root)

    def rates(t: float) -> tuple[float, float, float]:
        weight = operators.product(root, np.asarray(model.process.diffusion(t)))
        found = _error(model, score, t, weight, route)
        size = pull * float(np.sqrt(max(found.value, 0.0)))
        slack = pull**2 * float(found.error) / (2 * size) if size else 0.0
        return _growth(model, score, t, pull, root), size, slack

    floor = FLOOR * largest(root) * float(np.sqrt(np.trace(model.distribution.cov()) + 1e-300))
    whole = _Part(*map(float, _over(rates, pieces(model.process, first, last), tol, floor)))
    carried = float(np.exp(whole.log_growth))
    value, least = whole.distance + carried * distance, -largest(-root)
    return Stability(
        value,
        value / least,
        whole.distance,
        carried * distance,
        carried,
        whole.slack,
        name_of(None if closed else route),
    )


def prior_distance(
    model: ExactModel,
    prior: GaussianMixture | float | None,
    t: float,
    route: Route | None,
    root: Operator = EUCLIDEAN,
) -> float:
    """W2(p_t, q) of a model at a time t and a `prior` q: 0 for None, and a number is the distance itself.

    Closed for Gaussians; on the line by the monotone map, with a quadrature for `route`. It is that of R x, for a
    symmetric `root` R of the metric, a number, (d,) or (d, d).

    Raises:
        TypeError: the prior is neither a law nor a number.
        ValueError: a negative number, another dimension, or mixtures in more than one dimension.
    """
    if prior is None:
        return 0.0
    if not isinstance(prior, GaussianMixture):
        return real_scalar("prior", prior, low=0)
    if prior.dim != model.dim:
        raise ValueError(f"prior must have the dimension {model.dim} of the data, got {prior.dim}")
    law, prior = model.marginal(t).affine(root), prior.affine(root)
    if law.count == 1 and prior.count == 1:
        one, other = (Gaussian(each.means[0], each.covariances.operator()) for each in (law, prior))
        return wasserstein(one, other)
    if model.dim > 1:
        raise ValueError("prior must be a Gaussian under Gaussian data, on the line, or its distance W2: the distance "
                         f"of mixtures in {model.dim} dimensions has no closed form")  # fmt: skip
    rule = route if isinstance(route, Quadrature) else Quadrature()

    size = float(law.cov()[0, 0] + prior.cov()[0, 0] + (law.mean() - prior.mean())[0] ** 2)
    square, _ = integral(law, lambda x: ((x - monotone_map(law, prior, x)) ** 2)[:, 0], rule, size)
    return float(np.sqrt(square))


# ---------------------------------------------------------------------- over time


class _Part(NamedTuple):
    """A part of the time: the logarithm of what it does to a distance, what it adds, and the error of that."""

    log_growth: float
    distance: float
    slack: float

    def then(self, later: _Part) -> _Part:
        """This part and a later one, in the time of the forward process."""
        grown = np.exp(self.log_growth)
        return _Part(
            self.log_growth + later.log_growth, self.distance + grown * later.distance, self.slack + grown * later.slack
        )


def _over(rates: Rates, ends: list[float], tolerance: float, floor: float) -> _Part:
    """All of the time: every part is halved until its halves add nothing that counts, the nearest to data first."""
    total = _Part(0.0, 0.0, 0.0)
    waiting = [(a, b, _one(rates, a, b), 0) for a, b in pairwise(ends)][::-1]
    taken = 0
    while waiting:
        a, b, whole, depth = waiting.pop()
        middle = a + (b - a) / 2
        first, second = _one(rates, a, middle), _one(rates, middle, b)
        halves = first.then(second)
        # relative to what there is so far, where that is more: what is far from data often is damped
        size = tolerance * max(halves.distance, total.distance * np.exp(-total.log_growth)) + floor
        turned = abs(halves.log_growth - whole.log_growth)
        if depth >= DEEPEST or (abs(halves.distance - whole.distance) <= size and turned <= tolerance):
            total, taken = total.then(halves), taken + 1
            if taken > MOST + len(ends):
                raise ValueError(
                    f"score and process must be smooth in time but at jumps: {taken} parts lead to t = {b}"
                )
        else:
            waiting += [(middle, b, second, depth + 1), (a, middle, first, depth + 1)]
    return total


def _one(rates: Rates, start: float, end: float) -> _Part:
    """A part in one step of Gauss-Legendre, with I at the nodes by the integral of their polynomial."""
    nodes, weights, inner = _gauss()
    h = end - start
    growth, sizes, slacks = np.array([rates(start + h * float(u)) for u in nodes]).T
    carried = h * weights * np.exp(h * (inner @ growth))
    return _Part(float(h * weights @ growth), float(carried @ sizes), float(carried @ slacks))


@cache
def _gauss() -> tuple[Array, Array, Array]:
    """Nodes and weights on [0, 1] (n,), and (n, n) the integrals of the Lagrange polynomials from 0 to the nodes."""
    nodes, weights = (part / 2 for part in np.polynomial.legendre.leggauss(NODES))
    nodes = nodes + 0.5
    coefficients = np.linalg.inv(np.polynomial.legendre.legvander(2 * nodes - 1, NODES - 1))
    integrals = np.polynomial.legendre.legint(np.eye(NODES), lbnd=-1, axis=1) / 2
    inner = np.stack([np.polynomial.legendre.legval(2 * nodes - 1, one) for one in integrals], axis=1)
    return nodes, weights, inner @ coefficients


def _root(metric: ArrayLike, dim: int) -> Operator:
    """The symmetric root of a metric.

    Raises:
        ValueError: it does not act on R^dim, or is not positive definite.
    """
    p = operators.covariance("metric", metric)
    operators.fits("metric", p, dim)
    if operators.singular(p):
        raise ValueError(f"metric must be positive definite, got {p.tolist()}")
    return operators.root(p)


def _growth(model: ExactModel, score: ApproximateScore, t: float, pull: float, root: Operator = EUCLIDEAN) -> float:
    """The one-sided Lipschitz rate of -F x + (1 + k^2)/2 D s^, with `pull` (1 + k^2)/2."""
    drift, diffusion = (np.asarray(part) for part in (model.process.drift(t), model.process.diffusion(t)))
    return score.growth(-drift, pull, diffusion, root, t)


def _pull(stochasticity: float) -> float:
    """(1 + k^2)/2."""
    return 0.5 * (1 + real_scalar("stochasticity", stochasticity, low=0) ** 2)
