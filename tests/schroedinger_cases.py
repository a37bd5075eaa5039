"""What the tests of Schroedinger bridges share: references, potentials of all kinds, and a grid's own iteration."""

import numpy as np

from refdiff import AffineProcess, Empirical, GaussianMixture, VEPower, VPLinear
from refdiff.distributions import random_mixture
from refdiff.path_measures import Quadratic
from refdiff.processes import LinearProcess
from refdiff.schroedinger import ExponentialSum

REFERENCES = {
    "Brownian": 0.5,
    "VP": VPLinear(0.5, 3.0),
    "axes": AffineProcess([VPLinear(0.5, 3.0), VEPower(0.5, T=1.0)]),
    "Langevin": LinearProcess([[0.0, 2.0], [-1.0, -2.0]], [[0.0], [1.7]], force=[0.1, -0.4]),
}
# a curvature of either is indefinite: it grows in one direction, slower than the other one falls there
UPWARDS = [Quadratic([[0.6, 0.05], [0.05, -0.01]], [0.5, -0.3], 0.2), Quadratic([[0.3, 0.0], [0.0, 0.5]], [-1.0, 0.4])]
SIDEWAYS = [Quadratic([[-0.01, 0.05], [0.05, 0.7]], [0.2, 0.1]), Quadratic([[0.4, 0.1], [0.1, 0.5]], [0.4, -0.8], 0.3)]
LAWS = {
    "points": Empirical([[0.3, -0.2], [-1.0, 0.4], [0.6, 1.1]], [0.5, 0.2, 0.3]),
    "isotropic": random_mixture(2, 3, 1, "isotropic"),
    "full": random_mixture(2, 2, 5, "full"),
}
FIRST = {**LAWS, "growing": ExponentialSum.of(SIDEWAYS)}
SECOND = {**LAWS, "growing": ExponentialSum.of(UPWARDS)}
PLANE = GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4], [0.4, 0.6])


def grid_bridge(p, q, kernel, tolerance=1e-13, most=4000):
    """u and v with u_i sum_j K_ij v_j = p_i and v_j sum_i u_i K_ij = q_j, by turns, for masses on a grid."""
    v = np.ones_like(q)
    for _ in range(most):
        u = p / (kernel @ v)
        columns = v * (u @ kernel)
        if np.abs(columns - q).sum() < tolerance:
            return u, v
        v = q / (u @ kernel)
    raise AssertionError(f"turns on a grid must converge, got {np.abs(columns - q).sum()}")
