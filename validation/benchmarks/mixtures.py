"""The isotropic mixture of a problem, as plain arrays that every library can take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import random_mixture
from refdiff.distributions.covariances import Diagonal


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k w_k N(m_k, v_k I): means (K, d), variances (K,), log weights (K,)."""

    means: Array
    variances: Array
    log_weights: Array

    @staticmethod
    def random(dim: int, count: int, seed: int) -> Mixture:
        """Means N(0, 4 I), variances log-uniform in [0.1, 1], weights a flat Dirichlet draw."""
        law = random_mixture(dim, count, seed)
        assert isinstance(law.covariances, Diagonal)
        return Mixture(law.means, np.ascontiguousarray(law.covariances.variances[:, 0]), law.log_weights)

    @property
    def count(self) -> int:
        """K."""
        return len(self.means)

    @property
    def dim(self) -> int:
        """d."""
        return int(self.means.shape[1])
