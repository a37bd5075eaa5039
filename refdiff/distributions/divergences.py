r"""Entropy, Kullback-Leibler divergence, 2-Wasserstein distance and total variation of Gaussians.

    H(N(m, S))     = (d log(2 pi e) + log det S) / 2
    KL(P || Q)     = ( |L^-1 (m_P - m_Q)|^2 + sum_i [e_i - log(1 + e_i)] ) / 2,    S_Q = L L'

with e_i the eigenvalues of L^-1 (S_P - S_Q) L^-T, and 1 + e_i those of L^-1 S_P L^-T where they are far from 1. The
printed form tr(S_Q^-1 S_P) - d + log(det S_Q / det S_P) is the same number, but loses every digit when P and Q are
close. Sources: DMI-12, DMI-13, PODA-101.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf, hyp2f1, ndtr

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions.covariances import NO_DENSITY, Dense
from refdiff.distributions.mixture import Gaussian, GaussianMixture


def entropy(gaussian: GaussianMixture) -> float:
    """Differential entropy of a Gaussian in nats.

    Raises:
        TypeError: not a Gaussian (a mixture's entropy has no closed form).
        ValueError: the covariance is singular.
    """
    p = _gaussian("gaussian", gaussian)
    return float(0.5 * (p.dim * np.log(2 * np.pi * np.e) + p.covariances.log_det(p.dim)[0]))


def kl_divergence(p: GaussianMixture, q: GaussianMixture) -> float:
    """KL(p || q) = E_p log(p / q) of two Gaussians, in nats.

    Raises:
        TypeError: p or q is not a Gaussian.
        ValueError: dimensions differ, or a covariance is singular (the divergence is infinite or undefined).

    Examples:
        >>> from refdiff.distributions import Gaussian, kl_divergence
        >>> print(round(float(kl_divergence(Gaussian([1.0], 1.0), Gaussian([0.0], 1.0))), 12))  # |m - n|^2 / 2
        0.5
    """
    p, q = _gaussian("p", p), _gaussian("q", q)
    if p.dim != q.dim:
        raise ValueError(f"p and q must have the same dimension, got {p.dim} and {q.dim}")
    excess, ratio, squares = relative_spectrum(p, q)
    return float(0.5 * (squares.sum() + excess_minus_log(excess, ratio).sum()))


def relative_spectrum(p: Gaussian, q: Gaussian) -> tuple[Array, Array, Array]:
    """The Gaussian p in units of q, along the axes that both covariances have in them: e, 1 + e and squares, (d,) each.

    e are the eigenvalues of L^-1 (S_P - S_Q) L^-T, S_Q = L L', and the squares those of L^-1 (m_P - m_Q). e has its
    digits where P and Q are close, 1 + e where P is narrow.

    Both covariances have to have inverses.
    """
    shift = p.means[0] - q.means[0]
    if max(p.covariance.ndim, q.covariance.ndim) < 2:
        excess, ratio = (np.broadcast_to(s / q.covariance, p.dim) for s in (p.covariance - q.covariance, p.covariance))
        return excess, ratio, np.asarray(shift**2 / q.covariance)
    one, two = (operators.dense(g.covariance, p.dim) for g in (p, q))
    white = Dense(two[None]).whitener[0]
    excess, axes = np.linalg.eigh(white @ (one - two) @ white.T)
    # 1 + e by singular values, which have twice the range of eigenvalues; both lists increase along the same axes
    ratio = np.linalg.svd(white @ np.linalg.cholesky(one), compute_uv=False)[::-1] ** 2
    return excess, ratio, np.asarray((axes.T @ (white @ shift)) ** 2)


def wasserstein(p: GaussianMixture, q: GaussianMixture) -> float:
    """The 2-Wasserstein distance of two Gaussians.

    W2^2 = |m_P - m_Q|^2 + |(T - I) S_P^(1/2)|_F^2,   T = S_P^(-1/2) (S_P^(1/2) S_Q S_P^(1/2))^(1/2) S_P^(-1/2)

    with T the optimal map; for diagonal covariances the second term is sum (s_P - s_Q)^2 over standard deviations.

    Raises:
        TypeError: p or q is not a Gaussian.
        ValueError: dimensions differ.

    Examples:
        >>> from refdiff.distributions import Gaussian, wasserstein
        >>> print(round(float(wasserstein(Gaussian([3.0], 1.0), Gaussian([0.0], 25.0))), 12))  # sqrt(3^2 + (1 - 5)^2)
        5.0
    """
    p, q = _gaussian("p", p, density=False), _gaussian("q", q, density=False)
    if p.dim != q.dim:
        raise ValueError(f"p and q must have the same dimension, got {p.dim} and {q.dim}")
    shift = p.means[0] - q.means[0]
    if max(p.covariance.ndim, q.covariance.ndim) < 2:
        one, two = (np.broadcast_to(np.sqrt(g.covariance), p.dim) for g in (p, q))
        return float(np.hypot(np.linalg.norm(shift), np.linalg.norm(one - two)))
    a, b = (operators.dense(g.covariance, p.dim) for g in (p, q))
    values, basis = np.linalg.eigh(a)
    values = np.maximum(values, 0.0)
    half = (basis * np.sqrt(values)) @ basis.T
    inner, frame = np.linalg.eigh(half @ b @ half)
    middle = (frame * np.sqrt(np.maximum(inner, 0.0))) @ frame.T
    if values[0] > len(values) * np.finfo(float).eps * values[-1]:
        spread = np.linalg.norm((middle - a) @ (basis / np.sqrt(values)))  # = |(T - I) S_P^(1/2)|, nothing cancels
    else:  # no map: what cancels is of the size of rounding times the covariances
        spread = np.sqrt(max(np.trace(a) + np.trace(b) - 2 * np.trace(middle), 0.0))
    return float(np.hypot(np.linalg.norm(shift), spread))


def total_variation(p: GaussianMixture, q: GaussianMixture) -> float:
    """sup |P(A) - Q(A)| of two Gaussians in one dimension, from the points where the densities cross.

    Raises:
        TypeError: p or q is not a Gaussian.
        ValueError: more than one dimension.
    """
    p, q = _gaussian("p", p, density=False), _gaussian("q", q, density=False)
    if p.dim != 1 or q.dim != 1:
        raise ValueError(f"p and q must have one dimension, got {p.dim} and {q.dim}")
    a, b = (float(np.sqrt(operators.dense(g.covariance, 1)[0, 0])) for g in (p, q))
    shift = float(q.means[0, 0] - p.means[0, 0])
    if a == 0 or b == 0:
        return float(a != b or shift != 0)
    if a > b:  # the same distance; then the wider density is larger outside the crossings
        a, b, shift = b, a, -shift
    # with x = p's mean + a u:  u^2 - (u - delta)^2 / r^2 = 2 log r, delta = shift / a, r = b / a
    r, delta = b / a, shift / a
    excess = (b - a) * (b + a) / a**2  # r^2 - 1
    if excess == 0:
        return float(erf(abs(delta) / 2**1.5))
    # excess u^2 + 2 delta u - (delta^2 + 2 r^2 log r) = 0
    constant = delta**2 + 2 * r**2 * np.log1p((b - a) / a)
    middle = abs(delta) + np.sqrt(delta**2 + excess * constant)
    u = np.sort(np.array([-middle / excess, constant / middle]) * (1 if delta >= 0 else -1))
    v = (u - delta) / r
    inside = (ndtr(u[1]) - ndtr(v[1])) - (ndtr(u[0]) - ndtr(v[0]))
    return float(inside)


def excess_minus_log(e: Array, ratio: Array) -> Array:
    """e - log(ratio) for e and `ratio` = 1 + e, shape (d,): e^2 2F1(1, 2; 3; -e) / 2 where that cancels."""
    small = np.abs(e) < 0.5
    e_small = np.where(small, e, 0.0)
    return np.where(small, 0.5 * e_small**2 * hyp2f1(1, 2, 3, -e_small), e - np.log(np.where(small, 1.0, ratio)))


def _gaussian(name: str, value: GaussianMixture, *, density: bool = True) -> Gaussian:
    if not isinstance(value, Gaussian):
        raise TypeError(f"{name} must be a Gaussian, got {value!r}")
    if density and value.covariances.singular:
        raise ValueError(NO_DENSITY.format(what=f"{name}'s covariance"))
    return value
