r"""The same quantities once more, in mpmath to 50 digits and more, by the formulas as a textbook prints them.

    log p(y) = log sum_k w_k N(y; A_k, T_k),  T_k = a^2 S_k + q I        s(y) = -sum_k r_k T_k^-1 (y - a m_k)
    E[x | y] = sum_k r_k mu_k,  mu_k = m_k + a S_k T_k^-1 (y - a m_k)
    Cov[x | y] = sum_k r_k (S_k - a^2 S_k T_k^-1 S_k) + sum_k r_k (mu_k - E)(mu_k - E)'
    lambda = log(alpha / sigma),   f = (log alpha)',   g2 = (sigma^2)' - 2 f sigma^2

No care is taken about cancellation: with 150 digits there are 100 to lose. Nothing here calls the library.

Beside every value stands its size: the sum of the absolute terms that any floating-point evaluation adds up, where a
responsibility counts with the logarithm it comes from and an inverse with |T^-1| |T| |T^-1|. The ulp of the size is
what rounding the inputs of these sums already costs: the conditioning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import mpmath as mp
import numpy as np
from numpy.typing import ArrayLike

DIGITS = 150
Real = Any  # an mpmath number: the package has no types


@dataclass(frozen=True)
class Value:
    """The entries of an exact result and the sizes of them, flat."""

    entries: list[Real]
    sizes: list[Real]


def _matrix(array: ArrayLike) -> Real:
    return mp.matrix(np.asarray(array, dtype=float).tolist())


def _abs(m: Real) -> Real:
    return m.apply(abs)


def _geometric(m: Real) -> Real:
    """sqrt(m_ii m_jj): an entry of a covariance is rounded in this unit, whatever the correlation."""
    roots = mp.matrix([mp.sqrt(m[i, i]) for i in range(m.rows)])
    return roots * roots.T


def _sum(terms: list[Real]) -> Real:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


@dataclass(frozen=True)
class Observed:
    """A mixture of raw weights (K,), means (K, d), covariances (K, d, d), seen through a x + N(0, q I) at one y (d,).

    a = 1 and q = 0 is the law itself.
    """

    weights: ArrayLike
    means: ArrayLike
    covariances: ArrayLike
    y: ArrayLike
    a: float = 1.0
    q: float = 0.0

    def values(self) -> dict[str, Value]:
        """log density, score, denoiser and posterior covariance at y."""
        with mp.workdps(DIGITS):
            return self._values()

    def _values(self) -> dict[str, Value]:
        weights = [mp.mpf(w) for w in np.asarray(self.weights, float)]
        means, y = [_matrix(m) for m in np.asarray(self.means, float)], _matrix(self.y)
        spread = [_matrix(s) for s in np.asarray(self.covariances, float)]
        a, q, d, ks = mp.mpf(self.a), mp.mpf(self.q), len(y), range(len(means))
        total = [a * a * s + q * mp.eye(d) for s in spread]
        inverse = [t**-1 for t in total]
        rough = [_abs(i) * _abs(t) * _abs(i) for i, t in zip(inverse, total, strict=True)]
        delta = [y - a * m for m in means]
        # y - a m is exact up to its own rounding when a = 1; otherwise a m is rounded first
        blur = [_abs(e) if a == 1 else _abs(e) + _abs(a * m) for e, m in zip(delta, means, strict=True)]
        dets = [mp.log(mp.det(t)) for t in total]
        base = d * mp.log(2 * mp.pi)
        norm = mp.log(_sum(weights))
        logits = [
            mp.log(weights[k]) - norm - ((delta[k].T * inverse[k] * delta[k])[0] + dets[k] + base) / 2 for k in ks
        ]
        levels = [
            abs(mp.log(weights[k])) + abs(norm) + ((blur[k].T * rough[k] * _abs(delta[k]))[0] + abs(dets[k]) + base) / 2
            for k in ks
        ]
        joint = [mp.exp(v) for v in logits]
        density = _sum(joint)
        r = [j / density for j in joint]
        rise = [1 + v for v in levels]  # relative rounding of a responsibility, in units of eps

        def mean(parts: list[Real], sizes: list[Real]) -> tuple[Real, Real]:
            centre = _sum([r[k] * parts[k] for k in ks])
            return centre, _sum([r[k] * (sizes[k] + rise[k] * _abs(parts[k] - centre)) for k in ks])

        gradients = [-(inverse[k] * delta[k]) for k in ks]
        score, score_size = mean(gradients, [rough[k] * blur[k] for k in ks])
        gains = [abs(a) * _abs(spread[k]) for k in ks]
        mu = [means[k] + a * spread[k] * inverse[k] * delta[k] for k in ks]
        mu_size = [_abs(means[k]) + gains[k] * rough[k] * blur[k] for k in ks]
        denoiser, denoiser_size = mean(mu, mu_size)
        left = [spread[k] - a * a * spread[k] * inverse[k] * spread[k] for k in ks]
        centred, spans = [m - denoiser for m in mu], mu_size
        kept = [mp.eye(d) - a * a * spread[k] * inverse[k] for k in ks]
        cov = _sum([r[k] * (left[k] + centred[k] * centred[k].T) for k in ks])
        cov_size = _sum(
            [
                r[k]
                * (
                    _geometric(left[k])
                    + _abs(kept[k]) * _abs(spread[k]) * _abs(kept[k]).T
                    + rise[k] * _abs(centred[k]) * _abs(centred[k]).T
                )
                + r[k] * (spans[k] * _abs(centred[k]).T + _abs(centred[k]) * spans[k].T)
                for k in ks
            ]
        )
        peak = _sum([r[k] * levels[k] for k in ks])
        return {
            "log density": Value([mp.log(density)], [peak]),
            "score": Value(list(score), list(score_size)),
            "denoiser": Value(list(denoiser), list(denoiser_size)),
            "posterior covariance": Value(list(cov), list(cov_size)),
        }


Formula = Callable[[Real], Real]


@dataclass(frozen=True)
class Path:
    """A schedule as two mpmath functions of time on [0, T]; what follows from them is differentiated numerically."""

    alpha: Formula
    sigma: Formula
    T: Real

    def log_snr(self, t: Real) -> Real:
        """log(alpha / sigma) at t."""
        return mp.log(self.alpha(t) / self.sigma(t))

    def f(self, t: Real) -> Real:
        """(log alpha)' at t, to the right where a table has a kink."""
        return mp.diff(self.alpha, t, direction=1) / self.alpha(t)

    def g2(self, t: Real) -> Real:
        """(sigma^2)' - 2 f sigma^2 at t."""
        return mp.diff(lambda u: self.sigma(u) ** 2, t, direction=1) - 2 * self.f(t) * self.sigma(t) ** 2

    def time(self, lam: Real) -> Real:
        """The time with log_snr = lam, by a bracket of log t: 50 digits also of a tiny time.

        It is halved until it is far from the end T, where log_snr may be infinite, and then closed by regula falsi.
        """
        low, high = mp.mpf(-100), mp.log(self.T)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.log_snr(mp.exp(middle)) > lam else (low, middle)
        # findroot refuses what does not come below its tolerance, on the square of the error
        return mp.exp(mp.findroot(lambda u: self.log_snr(mp.exp(u)) - lam, (low, high), solver="anderson", tol=1e-100))


def vp_linear(low: float, high: float, sub: bool = False) -> Path:
    """alpha = e^(-B/2) with B = low t + (high - low) t^2 / 2; sigma^2 = 1 - e^-B, or sigma = 1 - e^-B for sub-VP."""

    def total(t: Real) -> Real:
        return mp.mpf(low) * t + (mp.mpf(high) - mp.mpf(low)) * t * t / 2

    return Path(
        lambda t: mp.exp(-total(t) / 2),
        lambda t: (1 - mp.exp(-total(t))) ** (1 if sub else mp.mpf(1) / 2),
        mp.mpf(1),
    )


def vp_cosine(s: float) -> Path:
    """alpha = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)), sigma^2 = 1 - alpha^2."""

    def alpha(t: Real) -> Real:
        offset = mp.mpf(s)
        return mp.cos(mp.pi / 2 * (t + offset) / (1 + offset)) / mp.cos(mp.pi / 2 * offset / (1 + offset))

    return Path(alpha, lambda t: mp.sqrt(1 - alpha(t) ** 2), mp.mpf(1))


def ve_geometric(low: float, high: float, clean_start: bool) -> Path:
    """alpha = 1, sigma = low (high / low)^t, or for a clean_start the root of its square minus low^2."""
    small, large = mp.mpf(low), mp.mpf(high)

    def sigma(t: Real) -> Real:
        grown = small * (large / small) ** t
        return mp.sqrt(grown**2 - small**2) if clean_start else grown

    return Path(lambda t: mp.mpf(1) + 0 * t, sigma, mp.mpf(1))


def ve_power(power: float, T: float) -> Path:
    """alpha = 1, sigma = t^power."""
    return Path(lambda t: mp.mpf(1) + 0 * t, lambda t: t ** mp.mpf(power), mp.mpf(T))


def straight() -> Path:
    """alpha = 1 - t, sigma = t."""
    return Path(lambda t: 1 - t, lambda t: t, mp.mpf(1))


def arc(sigma_d: float) -> Path:
    """alpha = cos t, sigma = sigma_d sin t, up to the float64 number nearest to pi/2."""
    return Path(mp.cos, lambda t: mp.mpf(sigma_d) * mp.sin(t), mp.mpf(float(np.pi / 2)))


def table(betas: ArrayLike) -> Path:
    """alpha^2 = prod (1 - beta) of betas (N,) at whole times, geometric between them; sigma^2 = 1 - alpha^2."""
    with mp.workdps(DIGITS):
        kept = [1 - mp.mpf(b) for b in np.asarray(betas, float)]
        products = list(accumulate(kept, mul, initial=mp.mpf(1)))

    def square(t: Real) -> Real:
        step = min(int(mp.floor(t)), len(kept) - 1)
        return products[step] * kept[step] ** (t - step)

    return Path(lambda t: mp.sqrt(square(t)), lambda t: mp.sqrt(1 - square(t)), mp.mpf(len(kept)))
