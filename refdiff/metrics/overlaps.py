r"""Overlaps of Gaussians: int p^a q^(1 - a), its normalised integrand, and where it is infinite.

    log int p^a q^(1 - a) = -[ a (1 - a) d' S^-1 d + log det S - (1 - a) log det S_p - a log det S_q ] / 2
    S = (1 - a) S_p + a S_q,   d = m_p - m_q                infinite unless S is positive, as it is for 0 <= a <= 1

With r the eigenvalues of S_q^-1 S_p the determinants are a sum of log(a + (1 - a) r) - (1 - a) log r, which is of
second order in r - 1 and vanishes with a and with 1 - a. It is the same for a and 1 - a exchanged and 1/r in place of
r; with b the smaller of both numbers and x = r - 1 or 1/r - 1 it is b k(x) - k(b x), k(x) = x - log(1 + x).

p^a q^(1 - a) is then a Gaussian of precision a P + (1 - a) Q = P S Q. For mixtures and a > 1, p^a is at most a multiple
of the sum of the p_k^a, and q^(1 - a) at most (v_l q_l)^(1 - a) for every l: with one such l for every k, the Gaussians
p_k^a q_l^(1 - a) bound the whole, and a mean under them has a variance. Sources: PODA-104, PHY-103 (a = 1/2).
"""

from __future__ import annotations

from itertools import product

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import Dense
from refdiff.distributions.divergences import excess_minus_log, relative_spectrum
from refdiff.distributions.mixture import law as law_of
from refdiff.distributions.moments import log_total

EPS = float(np.finfo(float).eps)
NOTHING = -40.0  # the logarithm of what is lost in rounding


def log_overlap(p: Gaussian, q: Gaussian, a: float) -> float:
    """log int p^a q^(1 - a) of two Gaussians p and q with densities, for any real a; infinite where it is."""
    if a < 0:
        return log_overlap(q, p, 1 - a)
    e, r, squares = relative_spectrum(p, q)
    near = np.abs(e) < 0.5
    between = np.where(near, 1 + (1 - a) * e, a + (1 - a) * r)
    if a > 1 and between.min() <= EPS * (a - 1) * np.abs(e).max():
        return np.inf
    return float(-0.5 * (a * (1 - a) * squares / between + _spreads(e, r, a)).sum())


def _spreads(e: Array, r: Array, a: float) -> Array:
    """log(a + (1 - a) r) - (1 - a) log r for r = 1 + e, shape (d,)."""
    b, near = min(a, 1 - a), np.abs(e) < 0.5
    x, ratio = (e, r) if b < a else (-e / r, 1 / r)
    small, far = np.where(near, x, 0.0), np.where(near, 1.0, ratio)
    close = b * excess_minus_log(small, 1 + small) - excess_minus_log(b * small, 1 + b * small)
    return np.where(near, close, np.log1p(b * (far - 1)) - b * np.log(far))


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


def geometric_mean(p: GaussianMixture, q: GaussianMixture) -> tuple[GaussianMixture, float]:
    """The mixture of all sqrt(w_k p_k v_l q_l) for laws p and q with densities, and the logarithm of their mass R.

    sqrt(p q) is between R / sqrt(K L) times it and R times it, everywhere: a mean of their ratio under it has a small
    relative error, however far p is from q.
    """
    pairs, logs = [], []
    for k, l in product(*(np.flatnonzero(np.isfinite(law.log_weights)).tolist() for law in (p, q))):
        pairs.append((_component(p, k), _component(q, l)))
        logs.append(log_overlap(*pairs[-1], 0.5) + 0.5 * float(p.log_weights[k] + q.log_weights[l]))
    kept = np.flatnonzero(np.array(logs) > max(logs) + NOTHING).tolist()
    weights = np.array([logs[i] for i in kept])
    means, matrices = (np.array(part) for part in zip(*[_product(*pairs[i], 0.5) for i in kept], strict=True))
    total = log_total(weights[None])
    return law_of(weights - total, means, Dense(matrices)), float(np.squeeze(total))


def _component(law: GaussianMixture, k: int) -> Gaussian:
    return Gaussian(law.means[k], law.covariances[slice(k, k + 1)].operator())


def _product(p: Gaussian, q: Gaussian, a: float) -> tuple[Array, Array]:
    """Mean and covariance of the Gaussian that p^a q^(1 - a) is a multiple of."""
    one, two = (law.covariances.inverse().dense(law.dim)[0] for law in (p, q))
    precision = a * one - (a - 1) * two
    covariance = np.linalg.inv(precision)
    return covariance @ (a * one @ p.means[0] - (a - 1) * two @ q.means[0]), 0.5 * (covariance + covariance.T)


def _infinite(p: GaussianMixture, q: GaussianMixture, a: float) -> bool:
    """Whether along some direction v, a v' P_k v is below (a - 1) v' P_l v for all l: a half-line of no decay."""
    from scipy.linalg import eigh  # late: a tenth of a second

    ones, twos = (law.covariances.inverse().dense(law.dim) for law in (p, q))
    for one, two in product(ones, twos):
        v = eigh(two, one)[1]  # the extremes of their ratio among them
        least = np.einsum("di,lde,ei->li", v, twos, v).min(axis=0)
        if (a * np.einsum("di,de,ei->i", v, one, v) <= (a - 1) * least * (1 + 8 * EPS)).any():
            return True
    return False
