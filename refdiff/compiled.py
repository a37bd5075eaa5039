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
from refdiff.kernels.numba.tiles import LANES
from refdiff.model import ExactModel
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients

# prediction -> (mu, beta, gamma)
_CHOICES: dict[str, Callable[[Coefficients], tuple[Any, Any, Any]]] = {
    "denoiser": lambda c: (1.0, c.alpha, 0.0),
    "score": lambda c: (0.0, 0.0, -1.0),
    "noise": lambda c: (0.0, 0.0, c.sigma),
    "velocity": lambda c: (c.dalpha, c.dalpha * c.alpha, c.dvariance / 2),
    "v_prediction": lambda c: (-c.sigma, -c.sigma * c.alpha, c.sigma * c.alpha),
}

_mixtures: WeakKeyDictionary[GaussianMixture, kernels.Mixture] = WeakKeyDictionary()


def applies(model: ExactModel) -> bool:
    """Whether kernels can evaluate the model: all but matrix covariances under a process that differs on the axes."""
    return isinstance(model.distribution.covariances, Diagonal) or not model.process.per_axis


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
        parts = (
            means,
            variances,
            law.log_weights[drawn],
            bases,
            np.zeros(1, dtype=np.int64),
            np.empty((0, 2, law.dim)),
        )
        _mixtures[law] = kernels.Mixture(*(np.ascontiguousarray(part) for part in parts))
    return _mixtures[law]


def at(c: Coefficients, prediction: str) -> Array:
    """alpha, sigma^2, mu, beta, gamma, shape (5, 1), or (5, d) for a process that differs on the axes."""
    rows = np.broadcast_arrays(c.alpha, c.sigma**2, *_CHOICES[prediction](c))
    return np.array(rows, dtype=float).reshape(5, -1)


STATIC = np.array([[1.0], [0.0], [0.0], [0.0], [-1.0]])  # the law itself, and its score


def check_density(parts: kernels.Mixture, when: Array) -> None:
    """ValueError where a component has no density at the time `when`, as far as float64 tells."""
    a, q = when[0], when[1]
    spread = a * a * parts.variances + q
    least, most = spread.min(axis=1), spread.max(axis=1)
    slack = len(parts.bases[:1]) * parts.means.shape[1] * np.finfo(float).eps
    if (least <= slack * most).any():
        raise ValueError(NO_DENSITY.format(what="a component covariance"))


def evaluate(law: GaussianMixture, x: Array, when: Array) -> tuple[Array, Array]:
    """Prediction (n, d) and log density (n,) at checked points x (n, d)."""
    out, logp = np.empty_like(x), np.empty(len(x))
    _ask(kernels.predict, law, x, when, out, logp)
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
    check_density(parts, when)
    out = np.empty_like(x)
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
    check_density(parts, when)
    _over_blocks(kernel, len(x), np.ascontiguousarray(x), parts, when, *answers)


def normals(seed: int, particles: NDArray[np.uint64], draw: int, dim: int) -> Array:
    """random.normals of these particles, up to a few ulps."""
    out = np.empty((len(particles), dim))
    if len(particles):
        count = -(-len(particles) // philox.LANES)
        blocks(philox.fill_normals, count, seed & 0xFFFFFFFF, seed >> 32, particles, draw, out)
    return out


# ---------------------------------------------------------------------- tables


def takes(tableau: Tableau, model: Any) -> bool:
    """Whether the fused kernel can run this table on this model: not with matrix-valued noise weights."""
    return (
        isinstance(model, ExactModel)
        and applies(model)
        and tableau.noise.ndim < 4
        and tableau.states.dtype == np.float64
    )


def run(
    tableau: Tableau,
    model: ExactModel,
    x: Array,
    seed: int,
    particle: int,
    trajectory: bool,
    progress: Callable[[int, int], None] | None,
) -> Array:
    """The output (n, d) of a sampler for checked points x (n, d), or all stages (s, n, d)."""
    table, parts = _table(tableau, model), mixture(model.distribution)
    for when in table.at[tableau.evaluated]:
        check_density(parts, when)
    out = np.empty_like(x)
    kept = np.empty((tableau.stages if trajectory else 0, *x.shape))
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.int64)

    def tell(done: int, count: int) -> None:
        if progress is not None:
            progress(done * tableau.nfe // count, tableau.nfe)

    start = np.ascontiguousarray(x)
    arguments = (start, table, parts, key, np.uint64(particle), out, kept)
    _over_blocks(table_kernel.run, len(x), *arguments, progress=tell)
    return _finite(kept if trajectory else out)


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


def _finite(answer: Array) -> Array:
    """The answer, if float64 could hold what led to it."""
    if not np.isfinite(answer).all():
        raise ValueError("x must be near enough to a component for float64, got a log density of -inf")
    return answer
