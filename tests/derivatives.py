"""Derivatives of predictions by NumPy's matrices and in 60 digits, and what rounding may do to them.

The bound of an entry is  eps (C size + 16 shift / h):  size is the largest term of the sums it is made of, shift what
the reference moves by when points, means and covariances move by h relative to their size (the largest of a few random
moves: the condition of the case, a logit's error included), and C = K + d + 20 counts additions one after the other and
two dozen roundings beside them. The factor 16 stands for the operations that each act like one move, and for the
moves that were not tried. To that comes a floor for what is too small for the type.
"""

from functools import lru_cache

import mpmath as mp
import numpy as np
from mixtures import law

from refdiff import ExactModel, compiled

# Responsibilities below 2^-500 become 0, or below 2^-126 in single precision; what multiplies them is below 2^100 here.
FLOOR = {"f8": 2.0**-400, "f4": 2.0**-26}


@lru_cache(maxsize=16)
def derivative(model, prediction, t, points):
    """NumPy's matrices, kept for the divergence, which is their trace."""
    answer = {"velocity": model.velocity_jacobian, "score": model.hessian, "denoiser": model.denoiser_jacobian}
    return answer[prediction](np.frombuffer(points).reshape(-1, model.dim), t)


def reference(name, model, x, t, vectors=None, prediction="velocity"):
    """The same from NumPy."""
    if name == "responsibilities":
        return model.marginal(t).responsibilities(x)
    if name == "covariance_times":
        return np.einsum("nij,nj->ni", model.posterior_covariance(x, t), vectors)
    jacobian = derivative(model, prediction, t, x.tobytes())
    return jacobian if name == "jacobian" else np.trace(jacobian, axis1=1, axis2=2)


def bound(name, make, x, t, kind="f8", **options):
    """The answer for each point, and what rounding may do to it; `make(move)` is the model with its numbers moved."""
    model = make(0.0)
    want = reference(name, model, x, t, **options)
    rng, h = np.random.default_rng(1), 2.0**-26
    shift = 0.0
    for move in (h, -h, 1.01 * h):
        near = x * (1 + move * rng.uniform(-1, 1, x.shape))
        shift = np.maximum(shift, largest(reference(name, make(move), near, t, **options) - want))
    within = size(name, model, x, t, **options)
    steps = model.distribution.count + model.dim + 20
    return want, FLOOR[kind] + np.finfo(kind).eps * (steps * np.maximum(within, largest(want)) + 16 * shift / h)


def largest(values):
    return np.abs(values).reshape(len(values), -1).max(axis=1)


def size(name, model, x, t, vectors=None, prediction="velocity"):
    """The average over the components of the first term, d of which a trace sums: nothing cancels in it."""
    if name == "responsibilities":
        return np.ones(len(x))
    c, dim = model.process.coefficients(t), model.dim
    a, q, _, beta, gamma = (np.abs(row).max() for row in compiled.at(c, prediction))
    v = np.linalg.eigvalsh(model.distribution.covariances.average(np.eye(model.distribution.count), dim))
    r = model.marginal(t).responsibilities(x)
    if name == "covariance_times":
        return r @ (v * q / (a * a * v + q)).max(axis=1) * np.linalg.norm(vectors, axis=1)
    return r @ ((beta * v + gamma) / (a * a * v + q)).max(axis=1) * (dim if name == "divergence" else 1)


@lru_cache(maxsize=4)
def case(kind, dim, count, n, process, t, seed=0, spread=1.0):
    """Models of moved numbers, points of x_t and vectors."""
    models = {}

    def make(move):
        if move not in models:
            models[move] = ExactModel(law(kind, dim, count, seed, spread=spread, move=move), process)
        return models[move]

    rng = np.random.default_rng([7, seed, dim])
    return make, make(0.0).sample(n, t, rng), rng.standard_normal((n, dim))


def exact(data, x, when):
    """Jacobian of the output and posterior covariance at one point, from sums that are not centred."""
    a, q, mu, beta, gamma = (mp.mpf(float(row[0])) for row in when)
    dim = data.dim
    matrices = data.covariances.average(np.eye(data.count), dim)
    point, eye = mp.matrix(x.tolist()), mp.eye(dim)
    logits, terms = [], []
    for k in range(data.count):
        s, m = mp.matrix(matrices[k].tolist()), mp.matrix(data.means[k].tolist())
        total = a * a * s + q * eye
        inverse = total**-1
        delta = point - a * m
        g = -inverse * delta
        b = (beta * s + gamma * eye) * inverse
        logits.append(mp.mpf(float(data.log_weights[k])) - ((delta.T * inverse * delta)[0] + mp.log(mp.det(total))) / 2)
        terms.append((b, mu * m + b * delta, g, q * s * inverse, m + a * s * inverse * delta))
    top = max(logits)
    r = [mp.exp(l - top) for l in logits]
    r = [w / mp.fsum(r) for w in r]

    def mean(values):
        return sum((w * v for w, v in zip(r, values, strict=True)), 0 * values[0])

    bs, os, gs, cs, ds = zip(*terms, strict=True)
    jacobian = mean(bs) + mean([o * g.T for o, g in zip(os, gs, strict=True)]) - mean(os) * mean(gs).T
    covariance = mean(cs) + mean([d * d.T for d in ds]) - mean(ds) * mean(ds).T
    return np.array(jacobian.tolist(), dtype=float), np.array(covariance.tolist(), dtype=float)
