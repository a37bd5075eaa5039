r"""Barycentres of Gaussians for entropic costs: what each regulariser does to the width of a mean.

    q = argmin sum_i w_i V(p_i, q),       X(S) = sum_i w_i [ (eps^2 I + 4 S^(1/2) S_i S^(1/2))^(1/2) - eps I ]

    KL(gamma || p x q)      V_eps               2 S = X                          too narrow: S - eps of one law
    -H(gamma)               V_eps - eps H(q)    2 S = X + 2 eps I                too wide: S + eps of one law
    debiased                S_eps               2 S = (X^2 + 2 eps X)^(1/2)      S itself

The first variations of V in q are potentials g_i, and sum_i w_i g_i is constant where q is best (plus eps log q where
-eps H(q) is added, less the potential of q with itself where that is taken off). With grad g_i = y - E_i[x | y] that
gives the equations above; means average. The first can leave q singular, a point where the mean of the S_i is below eps
in all directions. Then 2 S = X, which no step leaves a range by, is not enough: M y = sum_i w_i E_i[x | y] = y has to
hold on it. q moves along y -> M y, S -> M S M, which never raises V. At eps = 0 all are the Wasserstein barycentre.

Sources: PODB-74; Janati, Cuturi and Gramfort 2020, "Debiased Sinkhorn barycenters"; Mallasto, Gerolin and Minh 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, one_of, real_array, real_scalar, whole_number
from refdiff.distributions import Gaussian
from refdiff.metrics.compared import same_space

KINDS = ("debiased", "product", "entropy")


def entropic_barycentre(
    laws: Sequence[Gaussian],
    epsilon: float,
    weights: ArrayLike | None = None,
    *,
    kind: str = "debiased",
    tolerance: float = 1e-13,
    most: int = 2000,
) -> Gaussian:
    """The Gaussian q of least sum_i w_i V(p_i, q), for |x - y|^2 / 2.

    Args:
        laws: Gaussians p_i, of any ranks.
        epsilon: eps >= 0.
        weights: w_i >= 0, shape (n,), equal when left out.
        kind: "debiased" for Sinkhorn's divergence, "product" for eps KL(gamma || p x q), "entropy" for -eps H(gamma).
        tolerance: of the last step, relative to the mean of tr S_i.
        most: steps, after which there is an error; some forty are usual, more where a variance is hardly above eps.

    Raises:
        TypeError: one is no Gaussian.
        ValueError: dimensions, weights or numbers do not fit, or the tolerance is not met.
    """
    if not len(laws):
        raise ValueError("laws must be at least one, got none")
    for one in laws:
        if not isinstance(one, Gaussian):
            raise TypeError(f"laws must be Gaussians, got {one!r}")
        same_space(one, laws[0])
    e, kind = real_scalar("epsilon", epsilon, low=0), one_of("kind", kind, KINDS)
    tolerance, most = real_scalar("tolerance", tolerance, low=0, open_low=True), whole_number("most", most, low=1)
    w = np.ones(len(laws)) if weights is None else real_array("weights", weights, ndim=(1,))
    if len(w) != len(laws) or (w < 0).any() or not w.sum() > 0:
        raise ValueError(f"weights must be {len(laws)} numbers >= 0, not all 0, got {w.tolist()}")
    w = w / w.sum()
    mean = w @ np.stack([one.means[0] for one in laws])
    spreads = [np.asarray(one.covariance) for one in laws]
    dim, plain = laws[0].dim, max(s.ndim for s in spreads) < 2
    matrices = np.stack([operators.dense(s, dim) for s in spreads])
    start = np.tensordot(w, matrices, axes=1)
    size, here = float(np.trace(start)), start
    if size == 0:
        return Gaussian(mean, e if kind == "entropy" else 0.0)
    for _ in range(most):
        new = _next(matrices, w, here, e, kind)
        step = float(np.abs(new - here).max())
        here = new
        if step <= tolerance * size:
            return Gaussian(mean, np.diag(here) if plain else here)
    raise ValueError(
        f"most must be more steps than {most} for a tolerance of {tolerance}, got a last step of {step:.3g}"
    )


def _next(matrices: Array, w: Array, s: Array, e: float, kind: str) -> Array:
    """S after a step from `s`."""
    if kind == "product":
        move = sum(a * _pull(one, s, e) for a, one in zip(w, matrices, strict=True))
        new = np.asarray(move @ s @ move)
        return np.asarray(0.5 * (new + new.T))
    root, x = operators.root(s), np.zeros(s.shape)
    for weight, one in zip(w, matrices, strict=True):
        values, axes = np.linalg.eigh(root @ one @ root)
        t = np.maximum(values, 0.0)
        # (eps^2 + 4 t)^(1/2) - eps without the difference
        both = np.divide(4 * t, e + np.sqrt(e**2 + 4 * t), out=np.zeros(t.shape), where=t > 0)
        x += weight * (axes * both) @ axes.T
    if kind == "debiased":
        return 0.5 * operators.root(x @ x + 2 * e * x)
    return 0.5 * x + e * np.eye(len(s))


def _pull(one: Array, s: Array, e: float) -> Array:
    """The gain (d, d) of y -> E_i[x | y] for p_i of covariance `one` and q of covariance `s`, as in `GaussianPlan`."""
    root = operators.root(one)
    values, axes = np.linalg.eigh(root @ s @ root)
    both = e + np.sqrt(e**2 + 4 * np.maximum(values, 0.0))
    turned = root @ axes
    return np.asarray((turned * np.divide(2.0, both, out=np.zeros(both.shape), where=both > 0)) @ turned.T)
