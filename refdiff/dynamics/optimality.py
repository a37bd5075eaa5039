r"""Probability flows beside optimal maps: how far the flow of a model is from the shortest way to its noise.

    S_t # p_0 = p_t,     T_{s->t} = S_t o S_s^-1,      optimal from p_s to p_t  =>  DT = DT' >= 0

For Gaussian data under one schedule T is optimal between any two times, on the line for any data. Elsewhere DT is not
symmetric in general. Its rate at t = s is the Hessian of log p_s, so that maps to one fixed end can only all be optimal
where at all points

    [D^2 log p_s, DT_{s->end}] = 0

A flow map has `asymmetry` numbers at points, and a cost beside the optimal one, E |x - T(x)|^2 >= W_2^2. As t -> inf of
dx = -x dt + sqrt(2) dw, p_t -> N(0, I): `ornstein_uhlenbeck_map` ends where e^-t, to which the mean of the data is
left, is below rounding, at 37.
Sources: PODB-93, PODB-94, PODB-95; Lavenant and Santambrogio 2022, "The flow map of the Fokker-Planck equation does not
provide optimal transport".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, points, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.dynamics.flow_map import FlowMap
from refdiff.dynamics.jacobians import flow_jacobian
from refdiff.expectations import Estimate, Route, expectation
from refdiff.model import ExactModel
from refdiff.schedules import VPLinear
from refdiff.transport import asymmetry
from refdiff.transport.perturbed import commutator

HORIZON = 37.0  # e^-t = 9e-17: p_t is N(0, I) to rounding, its mean too (its variance is from 18 on)


@dataclass(frozen=True, eq=False)
class FlowCheck:
    """A flow map at n points.

    Attributes:
        image: T(x), shape (n, d).
        jacobian: DT(x), shape (n, d, d).
        asymmetry: |DT - DT'| / |DT| in Frobenius' norm, shape (n,).
        least: the least eigenvalue of (DT + DT') / 2, shape (n,).
        commutator: D^2 log p DT - DT D^2 log p at x, shape (n, d, d): where it is not 0 for a DT that is symmetric, a
            map from a little later is not.
    """

    image: Array
    jacobian: Array
    asymmetry: Array
    least: Array
    commutator: Array


def ornstein_uhlenbeck_map(data: GaussianMixture, start: float = 0.0, *, end: float = HORIZON) -> FlowMap:
    """The flow map of p_start to p_end of dx = -x dt + sqrt(2) dw, of which S_inf is the one of start 0.

    Args:
        data: p_0.
        start: the time from which on it maps; p_start has a density.
        end: the last time, 37 and as good as infinity unless given.

    Raises:
        TypeError: the data are no law.
        ValueError: times that are not 0 <= start < end.
    """
    last = real_scalar("end", end, low=0, open_low=True)
    first = real_scalar("start", start, low=0, high=last)
    if first == last:
        raise ValueError(f"start must be before the end, got {start} and {end}")
    # beta = 2: alpha = e^-t, sigma^2 = 1 - e^-2t
    return FlowMap(ExactModel(data, VPLinear(2.0, 2.0, T=last)), first, last)


def check_flow(way: FlowMap, x: ArrayLike) -> FlowCheck:
    """What of an optimal map a flow map has at points x (n, d).

    Raises:
        TypeError: it is no FlowMap.
        ValueError: the points have another dimension.
    """
    if not isinstance(way, FlowMap):
        raise TypeError(f"way must be a FlowMap, got {way!r}")
    rows, _ = points("x", x, way.dim)
    found = flow_jacobian(way.model, rows, way.start, way.end, method=way.method, rtol=way.rtol, atol=way.atol)
    slope = np.asarray(found.jacobian)
    bent = way.model.marginal(way.start).hessian(rows)
    least = np.linalg.eigvalsh(0.5 * (slope + np.swapaxes(slope, 1, 2)))[:, 0]
    return FlowCheck(np.asarray(found.x), slope, asymmetry(slope), np.asarray(least), commutator(bent, slope))


def flow_cost(way: FlowMap, route: Route) -> Estimate:
    """E |x - T(x)|^2 of a flow map, never below W_2(p_start, p_end)^2.

    Args:
        way: T.
        route: a Quadrature or a MonteCarlo over p_start.

    Raises:
        TypeError: it is no FlowMap, or the route is none.
        ValueError: there is no route, or its tolerance is not met.
    """
    if not isinstance(way, FlowMap):
        raise TypeError(f"way must be a FlowMap, got {way!r}")
    law = way.model.marginal(way.start)

    def squares(x: Array) -> Array:
        return np.asarray(((x - np.asarray(way.forward(x))) ** 2).sum(axis=1))

    return expectation(law, squares, route, float(np.trace(law.cov())))
