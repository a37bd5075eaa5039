r"""Distances of laws on the line, from quantiles and distribution functions.

    W_p^p = int_0^1 |F^-1(u) - G^-1(u)|^p du = int phi(z) |F^-1(Phi(z)) - G^-1(Phi(z))|^p dz

z keeps both tails apart from 0 and 1. Quantiles jump where F rests, and rest where F jumps: the levels of points and of
components are ends of intervals. Each interval is halved until the Gauss-Legendre sums of the whole and of its halves
agree; intervals are halved together, as there may be as many as there are points. Sources: TOPB-59, TOPB-55; Villani
2003, "Topics in optimal transportation", theorem 2.18.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture, cdf
from refdiff.distributions.quantiles import equal_mass
from refdiff.expectations import Quadrature
from refdiff.metrics.compared import is_points, weighted_points

Function = Callable[[Array], Array]

# of an interval, where there are fewer than MANY intervals, and where points have cut them small already
NODES, LESS, MANY = 16, 6, 128
# beyond it e^(-z^2 / 2) z^p is below 1e-15 of its largest value, sqrt(p) being where that is
REACH = 8.5
HALVINGS = 60  # of an interval: a jump within it is then one between neighbouring numbers


def quantile_integral(p: GaussianMixture, q: GaussianMixture, order: float, rule: Quadrature) -> tuple[float, float]:
    """W_p^p of two laws on the line for p = `order`, and the last change of it.

    Raises:
        ValueError: the tolerance of the `rule` is not met within the nodes that may be taken.
    """
    first, second = inverse(p), inverse(q)
    reach = REACH + np.sqrt(order)

    def integrand(z: Array) -> Array:
        return np.asarray(np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) * np.abs(first(z) - second(z)) ** order)

    levels = np.concatenate([levels_of(p), levels_of(q)])
    within = levels[np.abs(levels) < reach]
    knots = np.unique(np.concatenate([np.arange(-np.ceil(reach), np.ceil(reach) + 1), within]))
    return adaptive(integrand, knots, rule)


def inverse(law: GaussianMixture) -> Function:
    """The function z -> F^-1(Phi(z)) of a law on the line, for z (n,)."""
    if not is_points(law):
        return lambda z: equal_mass(law, np.broadcast_to(z[:, None], (len(z), law.count)))
    x, weights = weighted_points(law)
    order = np.argsort(x[:, 0])
    places, ends = x[order, 0], np.cumsum(weights[order])[:-1]
    return lambda z: np.asarray(places[np.searchsorted(ends, ndtr(z))])


def potential_against(points: GaussianMixture, law: GaussianMixture, order: float) -> Array:
    """The optimal potential f (n,) at the `points` of a law of them against another `law` on the line, at order p.

    From one x to the next it rises by |x' - y|^p - |x - y|^p with y the quantile at the rank between them.
    """
    x, weights = weighted_points(points)
    by_rank = np.argsort(x[:, 0], kind="stable")
    places, ends = x[by_rank, 0], np.cumsum(weights[by_rank])[:-1]
    y = inverse(law)(ndtri(ends))
    f = np.zeros(len(x))
    f[by_rank[1:]] = np.cumsum(np.abs(places[1:] - y) ** order - np.abs(places[:-1] - y) ** order)
    return f


def levels_of(law: GaussianMixture) -> Array:
    """Where quantiles of a law on the line may jump or bend: the levels of points and between components, as z (n,)."""
    if is_points(law):
        x, weights = weighted_points(law)
        return np.asarray(ndtri(np.cumsum(weights[np.argsort(x[:, 0])])[:-1]))
    order = np.argsort(law.means[:, 0])
    between = np.cumsum(law.weights[order])[:-1]
    spread = np.broadcast_to(law.covariances.dense(1)[:, 0, 0], law.count)
    places = law.means[spread == 0]
    at = cdf(law, places) if len(places) else np.zeros(0)
    ends = np.concatenate([between, at, *([cdf(law, np.nextafter(places, -np.inf))] if len(places) else [])])
    return np.asarray(ndtri(np.clip(ends, 0.0, 1.0)))


@cache
def _legendre(count: int) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def _sums(function: Function, left: Array, right: Array, count: int) -> Array:
    nodes, weights = _legendre(count)
    width = right - left
    values = function((left[:, None] + width[:, None] * nodes).ravel())
    return np.asarray(width * (values.reshape(len(left), count) @ weights))


def adaptive(function: Function, knots: Array, rule: Quadrature) -> tuple[float, float]:
    """The integral of a function from (n,) to (n,) between the first and the last of the `knots` (m,), and its change.

    The change is the sum of what halving has changed in the intervals that were left; the finer sums are far better.

    Args:
        function: smooth between knots, or at least between most places.
        knots: where it may jump or bend, increasing.
        rule: the tolerance, and how many nodes may be taken.

    Raises:
        ValueError: the tolerance is not met within the nodes that may be taken.
    """
    left, right = knots[:-1], knots[1:]
    count = NODES if left.size < MANY else LESS
    whole = _sums(function, left, right, count)
    done, change, taken = 0.0, 0.0, whole.size
    for _ in range(HALVINGS):
        taken += 2 * left.size
        if taken * count > rule.most:
            raise ValueError(f"route must be a Quadrature with more nodes, got {rule}: {left.size} intervals are left")
        middle = 0.5 * (left + right)
        ends = np.concatenate([left, middle]), np.concatenate([middle, right])
        halves = _sums(function, *ends, count).reshape(2, -1)
        both = halves.sum(axis=0)
        changes = np.abs(both - whole)
        allowed = rule.tolerance * (done + np.abs(both).sum())
        # an equal share of what is left for every interval, or all of them at once
        last = (changes <= (allowed - change) / (2 * left.size)) | (change + changes.sum() <= allowed)
        done += float(both[last].sum())
        change += float(changes[last].sum())
        if last.all():
            break
        left, right = np.concatenate([left[~last], middle[~last]]), np.concatenate([middle[~last], right[~last]])
        whole = halves[:, ~last].ravel()
    else:  # what is left are jumps in intervals of no length
        done, change = done + float(whole.sum()), change + float(np.abs(whole).sum())
    return done, change
