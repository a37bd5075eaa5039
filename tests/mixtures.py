"""Mixtures of every storage, for tests of what is computed with them, and what rounding may do to that.

A prediction is sum_k r_k o_k with o_k = mu m_k + B_k (x - a m_k). To first order its rounding error is

    u sum_k r_k (c |terms of o_k| + delta_k |o_k - o|),      u = eps / 2

where delta_k u is the error of a logit: c times its terms, and what rounding a m_k does to it. c counts operations: one
for each axis and component that is summed, and a dozen for the rest. Where delta u is not small, r_k is anything that
such errors can make of it. A covariance matrix brings a factor, its condition number; one for all components, with
axes U, turns their means into its basis and back: the terms of mu m_k are then |U| |U'| |mu m_k|.
"""

import numpy as np
import plain

from refdiff import Empirical, GaussianMixture, compiled
from refdiff.distributions.covariances import Dense, Diagonal
from refdiff.kernels.cuda.mixture import Mixture

U = np.finfo(float).eps / 2
KINDS = ("isotropic", "one variance", "diagonal", "one diagonal", "shared", "full", "points")


def law(kind, dim, count, seed=0, *, offset=0.0, spread=1.0, weights=None, move=0.0):
    """A mixture whose covariances are stored in this way, with variances in spread * [0.1, 1] and means about offset.

    Every number is moved by about so much of its size as `move` says, by the same moves for the same number.
    """
    rng, other = (
        np.random.default_rng([seed, dim, count]),
        np.random.default_rng([int(1e15 * abs(move)), 1 + (move < 0)]),
    )

    def moved(values):
        return values * (1 + move * other.uniform(-1, 1, np.shape(values)))

    means = moved(offset + 2 * rng.standard_normal((count, dim)))
    weights = rng.dirichlet(np.ones(count)) if weights is None else weights
    variances = spread * 10 ** -rng.random((count, dim))
    basis = np.linalg.qr(rng.standard_normal((count, dim, dim)))[0]
    matrices = np.einsum("kij,kj,klj->kil", basis, moved(variances), basis)
    # an error of a matrix is relative to its norm, in all of its entries
    noise = other.uniform(-1, 1, matrices.shape)
    matrices = matrices + move * spread * (noise + noise.swapaxes(1, 2))
    return {
        "isotropic": lambda: GaussianMixture.isotropic(means, moved(variances[:, 0]), weights),
        "one variance": lambda: GaussianMixture.isotropic(means, float(moved(0.3 * spread)), weights),
        "diagonal": lambda: GaussianMixture.diagonal(means, moved(variances), weights),
        "one diagonal": lambda: GaussianMixture.diagonal(means, moved(variances[0]), weights),
        "shared": lambda: GaussianMixture.shared(means, matrices[0], weights),
        "full": lambda: GaussianMixture.full(means, matrices, weights),
        "points": lambda: Empirical(means, weights),
    }[kind]()


def allowance(data, x, when):
    """What rounding may do to the output (n, d) and the log density (n,), in units of u, for `compiled.at` = when."""
    a, q, mu, beta, gamma = (np.broadcast_to(row, (data.dim,)) for row in when)
    weights, means, matrices = plain.parts(data)
    drawn = weights > 0
    weights, means, matrices = weights[drawn], means[drawn], matrices[drawn]
    if isinstance(data.covariances, Diagonal):
        v, basis = np.diagonal(matrices, axis1=1, axis2=2), np.broadcast_to(np.eye(data.dim), matrices.shape)
    else:
        v, basis = np.linalg.eigh(matrices)
        v = np.maximum(v, 0)
    total = a * a * v + q
    condition = 1.0 if isinstance(data.covariances, Diagonal) else (total.max(axis=1) / total.min(axis=1)).max()
    apart, size = x[:, None] - a * means, np.abs(x)[:, None] + np.abs(a * means)
    turned, turned_size = np.einsum("nkd,kde->nke", apart, basis), np.einsum("nkd,kde->nke", size, np.abs(basis))
    logs = np.abs(np.log(weights)) + 0.5 * np.abs(np.log(total)).sum(axis=1)
    distance = 0.5 * (turned**2 / total).sum(axis=2)
    steps = data.dim + 12
    delta = condition * (steps * (logs + distance + data.dim) + 2 * (np.abs(turned) * turned_size / total).sum(axis=2))
    logits = np.log(weights) - 0.5 * np.log(total).sum(axis=1) - distance
    most = logits.argmax(axis=1)[:, None]
    slack = 2 * U * (delta + np.take_along_axis(delta, most, axis=1))
    r = np.exp(np.minimum(logits - np.take_along_axis(logits, most, axis=1) + slack, 0))
    r /= np.maximum(1, np.exp(logits - np.take_along_axis(logits, most, axis=1)).sum(axis=1, keepdims=True))
    slope = (np.abs(beta) * v + np.abs(gamma)) / total
    drawn_to = np.abs(mu * means)
    if isinstance(data.covariances, Dense) and len(data.covariances.matrices) == 1:
        drawn_to = np.einsum("kde,kce,kc->kd", np.abs(basis), np.abs(basis), drawn_to)
    terms = drawn_to + np.einsum("kde,ke,nke->nkd", np.abs(basis), slope, turned_size)
    each = mu * means + np.einsum("kde,ke,nke->nkd", basis, (beta * v + gamma) / total, turned)
    out = (each * r[..., None]).sum(axis=1) / r.sum(axis=1, keepdims=True)
    moved = np.minimum(delta, 1 / U)[..., None] * np.abs(each - out[:, None])
    count = condition * (steps + len(means))
    logp = (r * delta).sum(axis=1) + len(means) + np.abs(np.take_along_axis(logits, most, axis=1)[:, 0])
    return (r[..., None] * (count * terms + moved)).sum(axis=1), logp


def on_device(cupy, data, kind="f8"):
    """The law as kernels of a device take it, of numbers of this kind."""
    return Mixture(*(cupy.asarray(part.astype(kind)) for part in compiled.mixture(data)))
