r"""Overlaps of Gaussians: int p^a q^(1 - a), its normalised integrand, and where it is infinite.

    log int p^a q^(1 - a) = -[ a (1 - a) d' S^-1 d + log det S - (1 - a) log det S_p - a log det S_q ] / 2
    S = (1 - a) S_p + a S_q,   d = m_p - m_q                infinite unless S is positive, as it is for 0 <= a <= 1

p^a q^(1 - a) is then a Gaussian of precision a P + (1 - a) Q = P S Q. For mixtures and a > 1, p^a is at most a multiple
of the sum of the p_k^a, and q^(1 - a) at most (v_l q_l)^(1 - a) for every l: with one such l for every k, the Gaussians
p_k^a q_l^(1 - a) bound the whole, and a mean under them has a variance. Sources: PODA-104, PHY-103 (a = 1/2).
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.linalg import eigh

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import Dense
from refdiff.distributions.mixture import law as law_of
from refdiff.distributions.moments import log_total

EPS = float(np.finfo(float).eps)


def log_overlap(p: GaussianMixture, q: GaussianMixture, a: float) -> float:
    """log int p^a q^(1 - a) of two Gaussians p and q with densities, for any real a; infinite where it is."""
    spread, target = p.covariances.dense(p.dim)[0], q.covariances.dense(q.dim)[0]
    white = Dense(target[None]).whitener[0]
    # S and S_p in the units of S_q are 1 + (1 - a) e and 1 + e: near each other little cancels
    e, axes = np.linalg.eigh(white @ (spread - target) @ white.T)
    between = 1 + (1 - a) * e
    if between.min() <= EPS * np.abs(e).max() * abs(1 - a):
        return np.inf
    shift = axes.T @ (white @ (p.means[0] - q.means[0]))
    logs = np.log1p((1 - a) * e) - (1 - a) * np.log1p(e)
    return float(-0.5 * (a * (1 - a) * shift**2 / between + logs).sum())


def bounding(p: GaussianMixture, q: GaussianMixture, a: float) -> GaussianMixture | None:
    """A mixture that p^a q^(1 - a), for a > 1, is at most a multiple of; None where its integral is infinite.

    Raises:
        ValueError: neither is known: along every direction some component of q is wide enough, and none along all.
    """
    found = []
    for k in range(p.count):
        one = _component(p, k)
        logs = np.array([log_overlap(one, _component(q, l), a) - (a - 1) * q.log_weights[l] for l in range(q.count)])
        if np.isposinf(logs).all():
            if _infinite(p, q, a):
                return None
            raise ValueError(f"p and q must have a component of q that is wide enough for each of p, got none for {k}")
        best = int(logs.argmin())
        found.append((a * p.log_weights[k] + logs[best], *_product(one, _component(q, best), a)))
    weights, means, matrices = (np.array(part) for part in zip(*found, strict=True))
    return law_of(weights - log_total(weights[None]), means, Dense(matrices))


def _component(law: GaussianMixture, k: int) -> GaussianMixture:
    return Gaussian(law.means[k], law.covariances[slice(k, k + 1)].operator())


def _product(p: GaussianMixture, q: GaussianMixture, a: float) -> tuple[Array, Array]:
    """Mean and covariance of the Gaussian that p^a q^(1 - a) is a multiple of."""
    one, two = (law.covariances.inverse().dense(law.dim)[0] for law in (p, q))
    precision = a * one - (a - 1) * two
    covariance = np.linalg.inv(precision)
    return covariance @ (a * one @ p.means[0] - (a - 1) * two @ q.means[0]), 0.5 * (covariance + covariance.T)


def _infinite(p: GaussianMixture, q: GaussianMixture, a: float) -> bool:
    """Whether along some direction v, a v' P_k v is below (a - 1) v' P_l v for all l: a half-line of no decay."""
    ones, twos = (law.covariances.inverse().dense(law.dim) for law in (p, q))
    for one, two in product(ones, twos):
        v = eigh(two, one)[1]  # the extremes of their ratio among them
        least = np.einsum("di,lde,ei->li", v, twos, v).min(axis=0)
        if (a * np.einsum("di,de,ei->i", v, one, v) <= (a - 1) * least * (1 + 8 * EPS)).any():
            return True
    return False
