r"""Entropic transport between laws: couplings as cheap as a given amount of randomness allows, and their divergence.

    gamma = argmin over couplings of E c(x, y) + eps KL(gamma || p x q),       V_eps(p, q) the least of it
    S_eps(p, q) = V_eps(p, q) - (V_eps(p, p) + V_eps(q, q)) / 2

of Gaussians in closed form, of point sets by Sinkhorn's turns, on a GPU where they are arrays of CuPy. With
R = exp(-c / eps) p q / Z the coupling is the one of least KL(gamma || R): entropic transport is the static problem of
Schroedinger, V = eps min KL - eps log Z.

V_eps(p, p) is not 0, and the law q of least V_eps(p, q) is narrower than p; S_eps has neither fault. It is >= 0, 0 for
equal laws only, convex in each of them; W_2^2 / 2 where eps -> 0, |E x - E y|^2 / 2 where eps -> infinity. Its first
variation in p is f_pq - f_pp, with the gradient

    grad f_pq - grad f_pp = E_pp[y | x] - E_pq[y | x]

Sources: PODB-74, PODB-84, PODB-86; Genevay, Peyre and Cuturi 2018, "Learning generative models with Sinkhorn
divergences"; Feydy et al. 2019, "Interpolating between optimal transport and MMD using Sinkhorn divergences".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.mixture import law as law_of
from refdiff.metrics.compared import Compared, is_points
from refdiff.transport.costs import Ground
from refdiff.transport.device_points import DevicePoints, on_gpu, two_laws, where_it_is
from refdiff.transport.entropic_gaussian import HALF_SQUARED, GaussianPlan, noise_of_axes
from refdiff.transport.pairs import PairLaw
from refdiff.transport.self_transport import self_sinkhorn
from refdiff.transport.sinkhorn import EntropicPlan, sinkhorn


def entropic_plan(
    p: Compared | DevicePoints,
    q: Compared | DevicePoints,
    epsilon: float,
    channel: Channel = HALF_SQUARED,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> GaussianPlan | EntropicPlan:
    """The entropic coupling of two Gaussians or two point sets.

    Both kinds of plan answer value, mean_cost(), kl(), pairs(), potential(x) and barycentric(x).

    Args:
        p, q: Gaussians, or laws of points, or points (n, d) and (m, d) of equal weights, on a GPU as of `sinkhorn`.
        epsilon: eps > 0, for Gaussians also 0.
        channel: A, b and N of the cost (y - A x - b)' N^-1 (y - A x - b) / 2, without one |x - y|^2 / 2.
        tolerance, max_iterations: of points, as of `sinkhorn`.

    Raises:
        TypeError: p or q is neither a law nor an array of points, or points on a GPU are given a channel.
        ValueError: dimensions that differ, a negative epsilon, a singular N, or laws of another kind: the entropic
            coupling of mixtures has no closed form.
    """
    first, second = two_laws(p, q)
    if on_gpu(first) and channel is not HALF_SQUARED:
        raise TypeError("channel must be left out for points on a GPU, where costs are powers of the distance")
    if not on_gpu(first) and first.count == 1 and second.count == 1:
        return GaussianPlan(_gaussian(first), _gaussian(second), epsilon, channel)
    if not on_gpu(first) and not (is_points(first) and is_points(second)):
        raise ValueError(
            f"p and q must be Gaussians or point sets, got {first!r} and {second!r}: for mixtures couple samples, "
            "or see the bridges of mixtures that are made from their potentials"
        )
    ground = _ground(channel, first.dim)
    return sinkhorn(first, second, epsilon, cost=ground, tolerance=tolerance, max_iterations=max_iterations)


def entropic_pairs(p: Compared, q: Compared, epsilon: float, channel: Channel = HALF_SQUARED) -> PairLaw:
    """The entropic coupling as a law of pairs.

    Args:
        p, q, epsilon, channel: as of `entropic_plan`; without a channel the cost is |x - y|^2 / 2.
    """
    return entropic_plan(p, q, epsilon, channel).pairs()


def entropic_cost(
    p: Compared | DevicePoints, q: Compared | DevicePoints, epsilon: float, channel: Channel = HALF_SQUARED
) -> float:
    """The least E c + eps KL(gamma || p x q): p, q, epsilon and channel as of `entropic_plan`."""
    return entropic_plan(p, q, epsilon, channel).value


# ---------------------------------------------------------------------- the divergence


def sinkhorn_divergence(
    p: Compared | DevicePoints,
    q: Compared | DevicePoints,
    epsilon: float,
    *,
    cost: Ground = "half-squared",
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> float:
    """S_eps(p, q) of two Gaussians or two point sets.

    What is left of nearly equal laws is known to rounding of the values V, and of points to `tolerance` times them.

    Args:
        p, q: Gaussians, or laws of points, or points (n, d) and (m, d) of equal weights.
        epsilon: eps > 0, for Gaussians also 0.
        cost: of points, as of `sinkhorn`: powers of the distance up to the second keep S_eps from being negative, as
            exp(-c / eps) is then a positive kernel. Of Gaussians it is the default.
        tolerance, max_iterations: of points, as of `sinkhorn`.

    Raises:
        TypeError: p or q is neither a law nor an array of points.
        ValueError: laws of another kind, another cost of Gaussians, or as of `sinkhorn`.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.transport import sinkhorn_divergence
        >>> p, q = Gaussian([0.0], 1.0), Gaussian([2.0], 1.0)  # of shifted laws it is W_2^2 / 2 for every eps
        >>> print([round(float(sinkhorn_divergence(p, q, eps)), 6) for eps in (0.1, 10.0)])
        [2.0, 2.0]
    """
    one, two = two_laws(p, q)
    if on_gpu(one) or (is_points(one) and is_points(two)):
        if not callable(cost) and np.ndim(cost) > 0:
            raise ValueError("cost must be of any two points, p's and q's own ones too, got a matrix")
        first, second = (
            self_sinkhorn(law, epsilon, cost=cost, tolerance=tolerance, max_iterations=max_iterations).value
            for law in (one, two)
        )
        across = sinkhorn(one, two, epsilon, cost=cost, tolerance=tolerance, max_iterations=max_iterations).value
        return across - 0.5 * (first + second)
    if not isinstance(cost, str) or cost != "half-squared":
        raise ValueError(f"cost must be half-squared for Gaussians, got {cost!r}")
    for name, law in (("p", one), ("q", two)):
        if law.count != 1:
            raise ValueError(f"{name} must be a Gaussian like the other, or both must be point sets, got {law!r}")
    a, b = _gaussian(one), _gaussian(two)
    return _gaussian_divergence(*(GaussianPlan(*pair, epsilon) for pair in ((a, b), (a, a), (b, b))))


@where_it_is
def sinkhorn_slope(
    p: Compared | DevicePoints,
    q: Compared | DevicePoints,
    epsilon: float,
    x: ArrayLike,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 10_000,
) -> Any:
    """The gradient of the first variation of S_eps(p, q) in p, E_pp[y | x] - E_pq[y | x], at points x.

    The derivative of S_eps in a point x_i of p is the mass of x_i times it: down it p flows to q.

    Args:
        p, q: Gaussians, or laws of points, or points (n, d) and (m, d) of equal weights.
        epsilon: eps > 0.
        x: points, shape (..., d), those of p or any others.
        tolerance, max_iterations: of points, as of `sinkhorn`.

    Raises:
        TypeError: p or q is neither a law nor an array of points.
        ValueError: as of `entropic_plan`, or x has another dimension.
    """
    across = entropic_plan(p, q, epsilon, tolerance=tolerance, max_iterations=max_iterations)
    if on_gpu(across.p):
        within = self_sinkhorn(across.p, epsilon, tolerance=tolerance, max_iterations=max_iterations).barycentric(x)
        return within - across.barycentric(x)
    rows, restore = points("x", x, across.p.dim)
    if isinstance(across, GaussianPlan):
        within = GaussianPlan(across.p, across.p, epsilon).barycentric(rows)
    else:
        within = self_sinkhorn(across.p, epsilon, tolerance=tolerance, max_iterations=max_iterations).barycentric(rows)
    return restore(np.asarray(within - across.barycentric(rows)))


def _gaussian_divergence(across: GaussianPlan, first: GaussianPlan, second: GaussianPlan) -> float:
    """S_eps from the plans of (p, q), (p, p) and (q, q), by the smaller of what noise adds and what it takes.

    V is the least cost plus what noise adds, F(s), and the cost of independent pairs less what correlations take,
    s - F(s). Sums of s are the same in all of them but for W_2.
    """
    e = across.epsilon
    added, taken = zip(*(noise_of_axes(one.singular_values, e) for one in (across, first, second)), strict=True)
    few, many = (part[0].sum() - 0.5 * (part[1].sum() + part[2].sum()) for part in (added, taken))
    shift = across.q.means[0] - across.p.means[0]
    if sum(part.sum() for part in added) <= sum(part.sum() for part in taken):
        found = across.least_cost + few
    else:
        found = 0.5 * float(shift @ shift) - many
    return max(float(found), 0.0)


def _gaussian(law: GaussianMixture) -> Gaussian:
    made = law if isinstance(law, Gaussian) else law_of(law.log_weights, law.means, law.covariances)
    assert isinstance(made, Gaussian)
    return made


def _ground(channel: Channel, dim: int) -> Ground:
    """The cost of a channel between points."""
    if channel is HALF_SQUARED:
        return "half-squared"
    white = np.linalg.inv(np.linalg.cholesky(operators.dense(channel.noise, dim)))

    def cost(x: Array, y: Array) -> Array:
        from scipy.spatial.distance import cdist  # late: a quarter of the time to import this package

        images = operators.apply(channel.gain, x) + channel.offset
        return 0.5 * np.asarray(cdist(images @ white.T, y @ white.T, "sqeuclidean"))

    return cost
