"""scikit-learn: GaussianMixture.score_samples with spherical covariances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.mixture import GaussianMixture

from refdiff.arguments import Array
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import LogDensity
from refdiff.validation.benchmarks.teams import chunk_sizes, combinations, in_team


def candidates(problem: LogDensity, threads: int) -> list[Candidate]:
    """All points at once, as it is called, and chunks."""
    law, n = problem.mixture, len(problem.x)
    model = GaussianMixture(law.count, covariance_type="spherical")
    model.weights_, model.means_ = np.exp(law.log_weights), law.means
    model.covariances_, model.precisions_cholesky_ = law.variances, 1 / np.sqrt(law.variances)

    def build(form: str, size: int, team: int) -> Callable[[int], Array]:  # noqa: ARG001
        return lambda points: np.concatenate(
            in_team(lambda part: model.score_samples(problem.x[part]), min(n, points), size, team)
        )

    return combinations(build, ["spherical"], [*chunk_sizes(n, law.count), n], (1, threads), n)
