r"""The grid on which DDIM loses least on Gaussian data.

One step multiplies the deviation along axis j by cos(theta_j(t_i) - theta_j(t_{i+1})), where tan theta_j =
sigma / (alpha s_j), so a run loses, in squared W2,

    L = sum_j w_j (1 - P_j)^2,    P_j = prod_i cos(theta_j(t_i) - theta_j(t_{i+1})),    w_j = V_j(end)

With one axis equal angles are best, log cos being concave; with several a grid in between. Source: PODC9-11.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize, root
from scipy.special import softmax

from refdiff.arguments import Array


def loss(angles: Array, stretch: Array, weights: Array) -> tuple[float, Array]:
    """L and its derivatives by the inner angles, where axis j has the angle arctan(stretch_j tan(angle)).

    Args:
        angles: n + 1 angles in [0, pi/2].
        stretch, weights: of the axes, shape (d,).
    """
    # with sin and cos kept apart nothing overflows at pure noise, where the tangent is infinite
    up, over = stretch[:, None] * np.sin(angles), np.cos(angles)
    turn = np.diff(np.arctan2(up, over))
    missing = -np.expm1(np.log(np.cos(turn)).sum(axis=1))
    rate = stretch[:, None] / (up**2 + over**2)
    bend = (np.tan(turn[:, :-1]) - np.tan(turn[:, 1:])) * rate[:, 1:-1]
    return float(weights @ missing**2), np.asarray(2 * (weights * missing * (1 - missing)) @ bend)


def least_loss(angles: Array, stretch: Array, weights: Array) -> Array:
    """The angles (n + 1,) with these ends that minimise L: quasi-Newton steps on log L, then a root of its gradient.

    Starts from the given angles; stretch and weights are those of `loss`.

    The order of the angles is kept by writing their differences as shares e^{z_i} / sum e^z of the whole.
    """
    first, length = angles[0], angles[-1] - angles[0]

    def placed(z: Array) -> Array:
        return np.concatenate([angles[:1], first + length * np.cumsum(softmax(np.append(z, 0.0))[:-1]), angles[-1:]])

    def objective(z: Array) -> tuple[float, Array]:
        at = placed(z)
        value, by_angle = loss(at, stretch, weights)
        # d angle_i / d z_k = length p_k (1[k <= i] - sum_{l <= i} p_l)
        share = np.diff(at) / length
        later = np.append(np.cumsum(by_angle[::-1])[::-1], 0.0)
        return float(np.log(value)), (length * share * (later - later @ share))[:-1] / value

    found = minimize(objective, np.zeros(len(angles) - 2), jac=True, method="BFGS", options={"maxiter": 2000})
    best = placed(found.x)
    least = loss(best, stretch, weights)[0]

    def gradient(inner: Array) -> Array:
        return loss(np.concatenate([angles[:1], inner, angles[-1:]]), stretch, weights)[1] / least

    polished = np.concatenate([angles[:1], root(gradient, best[1:-1], tol=1e-13).x, angles[-1:]])
    ordered = (np.sign(length) * np.diff(polished) > 0).all()
    return polished if ordered and loss(polished, stretch, weights)[0] <= least else best
