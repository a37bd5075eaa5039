r"""Laws and their predictions on Numba's kernels: mixtures and times as the arrays that kernels take.

A prediction is sum_k r_k (mu m_k + B_k (x - alpha m_k)) with B_k = (beta S_k + gamma) (alpha S_k alpha + sigma^2)^-1:

    denoiser      (mu, beta, gamma) = (1, alpha, 0)          velocity      (alpha', alpha alpha', (sigma^2)' / 2)
    score         (0, 0, -1)                                 v_prediction  (-sigma, -sigma alpha, sigma alpha)
    noise         (0, 0, sigma)

Kernels have one algebra for all predictions where refdiff.model has two, Bayes and log density: NumPy is what proves
the formulas, and what proves the kernels. A matrix covariance becomes variances in its own basis, which serves all
times of a process that is the same on all axes; where it is not, kernels do not apply (`applies`).

Every question is asked of a law, at points x (n, d) that are checked, and at a time `when`, an answer of `at`: alpha,
sigma^2 and the prediction's mu, beta, gamma. Sources: PODB-54..57.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions.covariances import NO_DENSITY, TOO_FAR, Covariances, Diagonal
from refdiff.kernels.numba import second_order
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.laws import Mixture, Tree
from refdiff.kernels.numba.mixture import predict
from refdiff.kernels.numba.point_set import predict_points
from refdiff.kernels.numba.pruning import leaves
from refdiff.kernels.numba.tiles import LANES
from refdiff.schedules import Coefficients


class Law(Protocol):
    """What is read of a GaussianMixture, which asks this module and so is not imported here."""

    @property
    def log_weights(self) -> Array:
        """log w_k, shape (K,)."""

    @property
    def means(self) -> Array:
        """m_k, shape (K, d)."""

    @property
    def covariances(self) -> Covariances:
        """S_k."""

    @property
    def dim(self) -> int:
        """d."""

    @property
    def count(self) -> int:
        """K."""


# prediction -> (mu, beta, gamma)
_CHOICES: dict[str, Callable[[Coefficients], tuple[Any, Any, Any]]] = {
    "denoiser": lambda c: (1.0, c.alpha, 0.0),
    "score": lambda c: (0.0, 0.0, -1.0),
    "noise": lambda c: (0.0, 0.0, c.sigma),
    "velocity": lambda c: (c.dalpha, c.dalpha * c.alpha, c.dvariance / 2),
    "v_prediction": lambda c: (-c.sigma, -c.sigma * c.alpha, c.sigma * c.alpha),
}

# An eigenvalue is off by a rounding of the largest: below this part of it, fewer than six digits may be left.
LOST = 1e6 * np.finfo(float).eps

# From so many components a tree of them pays, where there are few axes; from so many axes products pay.
TREE_PAYS, PRODUCTS_PAY = 2048, 32

_mixtures: WeakKeyDictionary[Law, Mixture] = WeakKeyDictionary()
_least: WeakKeyDictionary[Law, dict[float, Array]] = WeakKeyDictionary()
_trees: WeakKeyDictionary[Law, Tree] = WeakKeyDictionary()


def applies(law: Law, when: Array) -> bool:
    """Whether kernels can evaluate the law at the time `when`, an answer of `at`, shape (5, 1 or d).

    Not matrix covariances under a process that differs on the axes, nor matrices whose small eigenvalues are lost
    beside the large ones, where Cholesky's factors may not be.

    Raises:
        ValueError: a component of variances has no density then.
    """
    if len(mixture(law).bases):
        return when.shape[1] == 1 and bool((least(law, when, law.dim * LOST) > 0).all())
    if not (least(law, when) > 0).all():
        raise ValueError(NO_DENSITY.format(what="a component covariance"))
    return True


def least(law: Law, when: Array, part: float = 0.0) -> Array:
    """The least variance of all components on each axis at a time `when` (5, 1 or d), shape (1 or d,).

    Of a law of matrices: on all axes, less a `part` of the component's largest.
    """
    known = _least.setdefault(law, {})
    if part not in known:  # what a time asks is then no matter of how many components there are
        parts = mixture(law)
        low = parts.variances
        if len(parts.bases):
            low = low.min(axis=1, keepdims=True) - part * low.max(axis=1, keepdims=True)
        known[part] = low.min(axis=0)
    return np.asarray(when[0] * when[0] * known[part] + when[1] * (1 - part))


def mixture(law: Law) -> Mixture:
    """The law as kernels take it, without the components of weight 0; made once for each law."""
    if law not in _mixtures:
        drawn = np.isfinite(law.log_weights)
        means, covariances = law.means[drawn], law.covariances[drawn]
        bases = np.empty((0, law.dim, law.dim))
        if isinstance(covariances, Diagonal):
            variances = covariances.variances
        else:
            variances, bases = np.linalg.eigh(covariances.matrices)
            variances = np.maximum(variances, 0.0)
            if len(bases) == 1:
                means = means @ bases[0]
        parts = (means, variances, law.log_weights[drawn], bases)
        _mixtures[law] = Mixture(*(np.ascontiguousarray(part) for part in parts))
    return _mixtures[law]


def at(c: Coefficients, prediction: str) -> Array:
    """alpha, sigma^2, mu, beta, gamma of the coefficients c and a prediction.

    Shape (5, 1), or (5, d) for a process that differs on the axes.
    """
    rows = np.broadcast_arrays(c.alpha, c.sigma**2, *_CHOICES[prediction](c))
    return np.array(rows, dtype=float).reshape(5, -1)


def pruned(law: Law) -> Mixture | Tree:
    """The law as kernels take it that may leave out components too far to matter, in an order of its own."""
    parts = mixture(law)
    if parts.variances.shape[1] > 1 or len(parts.bases) or len(parts.means) < TREE_PAYS or law.dim >= PRODUCTS_PAY:
        return parts
    if law not in _trees:
        order, starts, boxes = leaves(parts.means, parts.variances, parts.log_weights)
        variances = parts.variances if len(parts.variances) == 1 else parts.variances[order]
        _trees[law] = Tree(
            parts.means[order], variances, parts.log_weights[order], parts.bases, starts, np.ascontiguousarray(boxes)
        )
    return _trees[law]


def _isotropic(parts: Mixture | Tree, when: Array) -> bool:
    return parts.variances.shape[1] == 1 and not len(parts.bases) and when.shape[1] == 1


STATIC = np.array([[1.0], [0.0], [0.0], [0.0], [-1.0]])  # the law itself, and its score


def evaluate(law: Law, x: Array, when: Array) -> tuple[Array, Array]:
    """The law's prediction (n, d) and log density (n,) at points x (n, d) and a time `when`."""
    parts = pruned(law)
    x, out, logp = np.ascontiguousarray(x), np.empty(x.shape), np.empty(len(x))
    if len(x) and _isotropic(parts, when) and law.dim >= PRODUCTS_PAY:
        predict_points(x, parts, when, out, logp)
    else:
        over_blocks(predict, len(x), x, parts, when, out, logp)
    return out, logp


def prediction(law: Law, x: Array, when: Array) -> Array:
    """The law's prediction (n, d) at points x (n, d) and a time `when`."""
    return finite(evaluate(law, x, when)[0])


def log_density(law: Law, x: Array, when: Array) -> Array:
    """The log density (n,) of the law at a time `when`, at points x (n, d)."""
    return evaluate(law, x, when)[1]


def jacobian(law: Law, x: Array, when: Array) -> Array:
    """The derivative of the law's prediction, (n, d, d), at points x (n, d) and a time `when`."""
    out = np.empty((*x.shape, x.shape[1]))
    _ask(second_order.jacobian, law, x, when, out)
    return finite(out)


def divergence(law: Law, x: Array, when: Array) -> Array:
    """The divergence of the law's prediction, (n,), at points x (n, d) and a time `when`."""
    out = np.empty(len(x))
    _ask(second_order.divergence, law, x, when, out, np.empty((0, x.shape[1])))
    return finite(out)


def covariance_times(law: Law, x: Array, vectors: Array, when: Array) -> Array:
    """Cov[x_0 | x] u, (n, d), for x_0 of the law, points x and vectors u (both (n, d)), and a time `when`."""
    parts = mixture(law)
    out = np.empty(x.shape)
    over_blocks(second_order.covariance_times, len(x), *map(np.ascontiguousarray, (x, vectors)), parts, when, out)
    return finite(out)


def responsibilities(law: Law, x: Array, when: Array) -> Array:
    """p(component k of the law | x), (n, K), at points x (n, d) and a time `when`."""
    drawn = np.isfinite(law.log_weights)
    out = np.empty((len(x), int(drawn.sum())))
    _ask(second_order.responsibilities, law, x, when, out)
    whole = np.zeros((len(x), law.count))
    whole[:, drawn] = finite(out)
    return whole


def _ask(kernel: Callable[..., None], law: Law, x: Array, when: Array, *answers: Array) -> None:
    parts = mixture(law)
    over_blocks(kernel, len(x), np.ascontiguousarray(x), parts, when, *answers)


def over_blocks(kernel: Callable[..., None], points: int, *arguments: Any, **options: Any) -> None:
    """Call a kernel with its arguments on all blocks of so many points, with the options of `blocks`."""
    if points:
        blocks(kernel, -(-points // LANES), *arguments, **options)


def finite(answer: Array, otherwise: str = TOO_FAR) -> Array:
    """The answer, of any shape, if float64 could hold what led to it.

    Raises:
        ValueError: it could not, with the message `otherwise`.
    """
    if not np.isfinite(answer).all():
        raise ValueError(otherwise.format(what="x"))
    return answer
