"""Chains of random links in every storage, and the law of their whole path by one linear solve."""

import numpy as np

from refdiff import Channel, operators
from refdiff.processes import Chain

KINDS = ("scalar", "diagonal", "matrix", "mixed")


def draw_link(rng, kind, dim):
    """A channel on R^dim with a gain that may turn and shrink, an offset, and noise of full rank."""
    kind = rng.choice(KINDS[:3]) if kind == "mixed" else kind
    if kind == "scalar":
        return Channel(rng.uniform(0.3, 1.1), rng.normal(), rng.uniform(0.1, 1.0))
    if kind == "diagonal":
        return Channel(rng.uniform(0.3, 1.1, dim), rng.normal(size=dim), rng.uniform(0.1, 1.0, dim))
    root = rng.normal(size=(dim, dim)) * 0.4
    return Channel(rng.normal(size=(dim, dim)) * 0.5, rng.normal(size=dim), root @ root.T + 0.1 * np.eye(dim))


def draw_chain(seed, kind="mixed", dim=3, steps=5):
    rng = np.random.default_rng(seed)
    return Chain([draw_link(rng, kind, dim) for _ in range(steps)])


def whole(chain, dim, start_mean, start_cov):
    """Mean and covariance of (x_0..x_N) by solving M x = noises + offsets: M has I on and -A below the diagonal."""
    n = chain.steps + 1
    matrix, noise, mean = np.eye(n * dim), np.zeros((n * dim, n * dim)), np.zeros(n * dim)
    noise[:dim, :dim], mean[:dim] = start_cov, start_mean
    for i, link in enumerate(chain.links, 1):
        now, before = slice(i * dim, (i + 1) * dim), slice((i - 1) * dim, i * dim)
        matrix[now, before] = -operators.dense(link.gain, dim)
        noise[now, now], mean[now] = operators.dense(link.noise, dim), link.offset
    inverse = np.linalg.inv(matrix)
    return inverse @ mean, inverse @ noise @ inverse.T, matrix, noise
