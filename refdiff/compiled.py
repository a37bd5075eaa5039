r"""Exact models and samplers on Numba's kernels: laws, times and tables as the arrays that kernels take.

A prediction is sum_k r_k (mu m_k + B_k (x - alpha m_k)) with B_k = (beta S_k + gamma) (alpha S_k alpha + sigma^2)^-1:

    denoiser      (mu, beta, gamma) = (1, alpha, 0)          velocity      (alpha', alpha alpha', (sigma^2)' / 2)
    score         (0, 0, -1)                                 v_prediction  (-sigma, -sigma alpha, sigma alpha)
    noise         (0, 0, sigma)

Kernels have one algebra for all predictions where refdiff.model has two, Bayes and log density: NumPy is what proves
the formulas, and what proves the kernels. A matrix covariance becomes variances in its own basis, which serves all
times of a process that is the same on all axes; where it is not, kernels do not apply (`applies`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.distributions.covariances import NO_DENSITY, Diagonal
from refdiff.distributions.mixture import GaussianMixture
from refdiff.kernels.numba import mixture as kernels
from refdiff.kernels.numba import philox, second_order
from refdiff.kernels.numba import tableau as table_kernel
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.point_set import predict_points
from refdiff.kernels.numba.pruning import leaves
from refdiff.kernels.numba.tiles import LANES
from refdiff.model import ExactModel
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients

FAR = "x must be near enough to a component for float64, got a log density of -inf"
UNSTABLE = "stages must stay finite, got one that is not: steps are unstable, or x is too far from every component"

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

_mixtures: WeakKeyDictionary[GaussianMixture, kernels.Mixture] = WeakKeyDictionary()
_trees: WeakKeyDictionary[GaussianMixture, kernels.Tree] = WeakKeyDictionary()


def applies(law: GaussianMixture, when: Array) -> bool:
    """Whether kernels can evaluate the law at the time `when`, an answer of `at`.

    Not matrix covariances under a process that differs on the axes, nor matrices whose small eigenvalues are lost
    beside the large ones, where Cholesky's factors may not be.

    Raises:
        ValueError: a component of variances has no density then.
    """
    parts = mixture(law)
    if len(parts.bases) and when.shape[1] > 1:
        return False
    spread = when[0] * when[0] * parts.variances + when[1]
    if len(parts.bases):
        return bool((spread.min(axis=1) > law.dim * LOST * spread.max(axis=1)).all())
    if not (spread > 0).all():
        raise ValueError(NO_DENSITY.format(what="a component covariance"))
    return True


def mixture(law: GaussianMixture) -> kernels.Mixture:
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
        _mixtures[law] = kernels.Mixture(*(np.ascontiguousarray(part) for part in parts))
    return _mixtures[law]


def at(c: Coefficients, prediction: str) -> Array:
    """alpha, sigma^2, mu, beta, gamma, shape (5, 1), or (5, d) for a process that differs on the axes."""
    rows = np.broadcast_arrays(c.alpha, c.sigma**2, *_CHOICES[prediction](c))
    return np.array(rows, dtype=float).reshape(5, -1)


def pruned(law: GaussianMixture) -> kernels.Mixture | kernels.Tree:
    """The law as kernels take it that may leave out components too far to matter, in an order of its own."""
    parts = mixture(law)
    if parts.variances.shape[1] > 1 or len(parts.bases) or len(parts.means) < TREE_PAYS or law.dim >= PRODUCTS_PAY:
        return parts
    if law not in _trees:
        order, starts, boxes = leaves(parts.means, parts.variances, parts.log_weights)
        variances = parts.variances if len(parts.variances) == 1 else parts.variances[order]
        _trees[law] = kernels.Tree(
            parts.means[order], variances, parts.log_weights[order], parts.bases, starts, np.ascontiguousarray(boxes)
        )
    return _trees[law]


def _isotropic(parts: kernels.Mixture | kernels.Tree, when: Array) -> bool:
    return parts.variances.shape[1] == 1 and not len(parts.bases) and when.shape[1] == 1


STATIC = np.array([[1.0], [0.0], [0.0], [0.0], [-1.0]])  # the law itself, and its score


def evaluate(law: GaussianMixture, x: Array, when: Array) -> tuple[Array, Array]:
    """Prediction (n, d) and log density (n,) at checked points x (n, d)."""
    parts = pruned(law)
    x, out, logp = np.ascontiguousarray(x), np.empty(x.shape), np.empty(len(x))
    if len(x) and _isotropic(parts, when) and law.dim >= PRODUCTS_PAY:
        predict_points(x, parts, when, out, logp)
    else:
        _over_blocks(kernels.predict, len(x), x, parts, when, out, logp)
    return out, logp


def prediction(law: GaussianMixture, x: Array, when: Array) -> Array:
    """The prediction (n, d) at checked points x (n, d)."""
    return _finite(evaluate(law, x, when)[0])


def log_density(law: GaussianMixture, x: Array, when: Array) -> Array:
    """log p (n,) at checked points x (n, d)."""
    return evaluate(law, x, when)[1]


def jacobian(law: GaussianMixture, x: Array, when: Array) -> Array:
    """The derivative of the prediction, (n, d, d), at checked points x (n, d)."""
    out = np.empty((*x.shape, x.shape[1]))
    _ask(second_order.jacobian, law, x, when, out)
    return _finite(out)


def divergence(law: GaussianMixture, x: Array, when: Array) -> Array:
    """The divergence of the prediction, (n,), at checked points x (n, d)."""
    out = np.empty(len(x))
    _ask(second_order.divergence, law, x, when, out, np.empty((0, x.shape[1])))
    return _finite(out)


def covariance_times(law: GaussianMixture, x: Array, vectors: Array, when: Array) -> Array:
    """Cov[x_0 | x] u, (n, d), at checked points and vectors (n, d)."""
    parts = mixture(law)
    out = np.empty(x.shape)
    _over_blocks(second_order.covariance_times, len(x), *map(np.ascontiguousarray, (x, vectors)), parts, when, out)
    return _finite(out)


def responsibilities(law: GaussianMixture, x: Array, when: Array) -> Array:
    """p(component k | x), (n, K), at checked points x (n, d)."""
    drawn = np.isfinite(law.log_weights)
    out = np.empty((len(x), int(drawn.sum())))
    _ask(second_order.responsibilities, law, x, when, out)
    whole = np.zeros((len(x), law.count))
    whole[:, drawn] = _finite(out)
    return whole


def _ask(kernel: Callable[..., None], law: GaussianMixture, x: Array, when: Array, *answers: Array) -> None:
    parts = mixture(law)
    _over_blocks(kernel, len(x), np.ascontiguousarray(x), parts, when, *answers)


def normals(seed: int, particles: NDArray[np.uint64], draw: int, dim: int) -> Array:
    """random.normals of these particles, up to a few ulps."""
    out = np.empty((len(particles), dim))
    if len(particles):
        count = -(-len(particles) // philox.LANES)
        blocks(philox.fill_normals, count, seed & 0xFFFFFFFF, seed >> 32, particles, draw, out)
    return out


# ---------------------------------------------------------------------- tables


def run(
    tableau: Tableau,
    model: ExactModel,
    x: Array,
    seed: int,
    particle: int,
    trajectory: bool,
    progress: Callable[[int, int], None] | None,
) -> Array | None:
    """The output (n, d) of a sampler for checked points x (n, d), or all stages (s, n, d).

    None where the fused kernel cannot run this table on this model: matrix-valued noise weights, numbers that are not
    float64, or a law to which kernels do not apply.
    """
    if tableau.noise.ndim > 3 or {tableau.states.dtype, tableau.outputs.dtype, tableau.noise.dtype} != {
        np.dtype(float)
    }:
        return None
    table = _table(tableau, model)
    if not all(applies(model.distribution, when) for when in table.at[tableau.evaluated]):
        return None
    out = np.empty(x.shape)
    kept = np.empty((tableau.stages if trajectory else 0, *x.shape))
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.int64)

    def tell(done: int, count: int) -> None:
        if progress is not None:
            progress(done * tableau.nfe // count, tableau.nfe)

    arguments = (np.ascontiguousarray(x), table, pruned(model.distribution), key, np.uint64(particle), out, kept)
    _over_blocks(table_kernel.run, len(x), *arguments, progress=tell)
    return _finite(kept if trajectory else out, UNSTABLE)


def _table(tableau: Tableau, model: ExactModel) -> table_kernel.Table:
    """The table and the model's coefficients at its times, as the kernel takes them."""
    stages = tableau.stages
    # the newest stage lies beside those it is made of
    window = (max(tableau.window[:2]) + 1, max(tableau.window[2], 1))
    kinds: list[int] = []
    places: list[int] = []
    weights: list[Array] = []
    starts = [0]
    for k in range(stages):
        for kind, terms in enumerate(tableau.row(k)):
            kept = window[0] if kind < 2 else window[1]
            kinds += [kind] * len(terms)
            places += [j % kept for j, _ in terms]
            weights += [np.atleast_1d(w) for _, w in terms]
        starts.append(len(kinds))
    width = max([len(w) for w in weights], default=1)
    evaluated = np.flatnonzero(tableau.evaluated)
    times = tableau.times[evaluated].tolist()
    asked = [at(model.process.coefficients(t), tableau.prediction) for t in times]
    when = np.zeros((stages, *(asked or [STATIC])[0].shape))
    when[evaluated] = asked or 0.0
    return table_kernel.Table(
        np.array(kinds, dtype=np.int64),
        np.array(places, dtype=np.int64),
        np.array([np.broadcast_to(w, (width,)) for w in weights], dtype=float).reshape(-1, width),
        np.array(starts, dtype=np.int64),
        np.array(tableau.normals, dtype=np.int64),
        np.array(tableau.evaluated),
        np.array(tableau.scale, dtype=float).reshape(stages, -1),
        when,
        np.array(window, dtype=np.int64),
    )


def _over_blocks(kernel: Callable[..., None], points: int, *arguments: Any, **options: Any) -> None:
    if points:
        blocks(kernel, -(-points // LANES), *arguments, **options)


def _finite(answer: Array, otherwise: str = FAR) -> Array:
    """The answer, if float64 could hold what led to it."""
    if not np.isfinite(answer).all():
        raise ValueError(otherwise)
    return answer
