"""Direct formulas with SciPy and plain sums, which the library is compared with; none of them calls its formulas."""

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

EPS = np.finfo(float).eps

# the coefficients of a schedule that are rates, and of what
RATES = {"dalpha": "alpha", "dsigma": "sigma", "d2alpha": "dalpha", "d2sigma": "dsigma", "d2variance": "dvariance"}


def parts(law):
    """Weights (K,), means (K, d) and dense covariances (K, d, d) of a law."""
    matrices = np.broadcast_to(law.covariances.dense(law.dim), (law.count, law.dim, law.dim))
    return np.exp(law.log_weights), law.means, matrices


def logits(law, x):
    """log w_k + log N(x; m_k, S_k), shape (n, K), by scipy.stats."""
    columns = [
        np.log(w) + np.atleast_1d(multivariate_normal(m, s).logpdf(x)) for w, m, s in zip(*parts(law), strict=True)
    ]
    return np.stack(columns, axis=1)


def logpdf(law, x):
    """log sum_k w_k N(x; m_k, S_k)."""
    return logsumexp(logits(law, x), axis=1)


def responsibilities(law, x):
    """w_k N_k / sum_j w_j N_j."""
    found = logits(law, x)
    return np.exp(found - logsumexp(found, axis=1, keepdims=True))


def gradients(law, x):
    """-S_k^-1 (x - m_k), shape (n, K, d), by a linear solve for each point and component."""
    _, means, matrices = parts(law)
    return np.array([[-np.linalg.solve(s, row - m) for m, s in zip(means, matrices, strict=True)] for row in x])


def score(law, x):
    """sum_k r_k g_k."""
    return np.einsum("nk,nkd->nd", responsibilities(law, x), gradients(law, x))


def hessian(law, x):
    """sum_k r_k (g_k g_k' - S_k^-1) - s s'."""
    g, r, s = gradients(law, x), responsibilities(law, x), score(law, x)
    inverse = np.linalg.inv(parts(law)[2])
    return np.einsum("nk,nkij->nij", r, g[..., None] * g[..., None, :] - inverse) - s[:, :, None] * s[:, None, :]


def denoiser(law, x, a, q):
    """E[x_0 | x = a x_0 + N(0, q I)] by the joint Gaussian of (x_0, x) of each component, shape (n, d)."""
    pushed, (_, means, matrices) = noised(law, a, q), parts(law)
    r = responsibilities(pushed, x)
    mu = [
        [
            m + a * s @ np.linalg.solve(a * a * s + q * np.eye(law.dim), row - a * m)
            for m, s in zip(means, matrices, strict=True)
        ]
        for row in x
    ]
    return np.einsum("nk,nkd->nd", r, np.array(mu))


class noised:
    """The law of a x_0 + N(0, q I), as raw parts."""

    def __init__(self, law, a, q):
        _, means, matrices = parts(law)
        self.dim, self.count, self.log_weights = law.dim, law.count, law.log_weights
        self.means, self.covariances = a * means, self
        self._matrices = a * a * matrices + q * np.eye(law.dim)

    def dense(self, dim):  # noqa: ARG002
        """The matrices (K, d, d)."""
        return self._matrices


def rounding(law, x):
    """What rounding costs relative to the size of a result, for any evaluation in float64.

    A logit is rounded by eps cond(S) times its size, and a responsibility by that much relatively; a factor 32 d for
    the operations in a row.
    """
    r, level = responsibilities(law, x), np.abs(logits(law, x))
    weighted = np.where(r > 0, r * level, 0.0).sum(axis=1).max()
    condition = max(np.linalg.cond(s) for s in parts(law)[2])
    return 32 * law.dim * EPS * condition * (1 + weighted)


def close(actual, expected, relative):
    """Whether entries agree to `relative` times the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    size = max(np.abs(expected).max(initial=0.0), np.finfo(float).tiny)
    error = np.abs(actual - expected).max(initial=0.0) / size
    assert error <= relative, f"error {error:.3g} of size {size:.3g}, allowed {relative:.3g}"
    return True
