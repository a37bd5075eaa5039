r"""Entropy and Kullback-Leibler divergence of Gaussians.

    H(N(m, S))     = (d log(2 pi e) + log det S) / 2
    KL(P || Q)     = ( |L^-1 (m_P - m_Q)|^2 + sum_i [e_i - log(1 + e_i)] ) / 2,    S_Q = L L'

with e_i the eigenvalues of L^-1 (S_P - S_Q) L^-T, and 1 + e_i those of L^-1 S_P L^-T where they are far from 1. The
printed form tr(S_Q^-1 S_P) - d + log(det S_Q / det S_P) is the same number, but loses every digit when P and Q are
close. Sources: DMI-12, DMI-13, PODA-101.
"""

from __future__ import annotations

import numpy as np
from scipy.special import hyp2f1

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
    """
    p, q = _gaussian("p", p), _gaussian("q", q)
    if p.dim != q.dim:
        raise ValueError(f"p and q must have the same dimension, got {p.dim} and {q.dim}")
    difference = operators.add(p.covariance, -q.covariance)
    if max(p.covariance.ndim, q.covariance.ndim) < 2:
        ratio, excess = (np.broadcast_to(s / q.covariance, p.dim) for s in (p.covariance, difference))
        distance = (p.means[0] - q.means[0]) ** 2 / q.covariance
    else:
        white = Dense(operators.dense(q.covariance, q.dim)[None]).whitener[0]
        # both lists increase along the same eigenvectors
        ratio, excess = (
            np.linalg.eigvalsh(white @ operators.dense(s, p.dim) @ white.T) for s in (p.covariance, difference)
        )
        distance = (white @ (p.means[0] - q.means[0])) ** 2
    return float(0.5 * (distance.sum() + _excess_minus_log(excess, ratio).sum()))


def _excess_minus_log(e: Array, ratio: Array) -> Array:
    """e - log(ratio) with ratio = 1 + e, as e^2 2F1(1, 2; 3; -e) / 2 where the difference cancels."""
    small = np.abs(e) < 0.5
    e_small = np.where(small, e, 0.0)
    return np.where(small, 0.5 * e_small**2 * hyp2f1(1, 2, 3, -e_small), e - np.log(np.where(small, 1.0, ratio)))


def _gaussian(name: str, value: GaussianMixture) -> Gaussian:
    if not isinstance(value, Gaussian):
        raise TypeError(f"{name} must be a Gaussian, got {value!r}")
    if value.covariances.singular:
        raise ValueError(NO_DENSITY.format(what=f"{name}'s covariance"))
    return value
