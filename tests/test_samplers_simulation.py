"""Exact output laws against a million particles, for stochastic samplers of every kind.

Each law gives five z-scores (two means, two variances, one covariance); a limit of 4.5 is passed by chance with
probability 7e-6 each, 4e-4 in all of them together, and the seeds are fixed.
"""

import numpy as np
import pytest

from refdiff import ExactModel, Gaussian, VPLinear
from refdiff.samplers.families import families
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run

PARTICLES = 10**6
LAW = Gaussian([0.7, -0.4], [[0.5, 0.2], [0.2, 0.3]])
STOCHASTIC = (
    "ddim-eta1",
    "ddpm-beta",
    "analytic-dpm",
    "edm-heun-churn",
    "euler-ancestral-half",
    "restart-heun",
    "dpmpp-sde",
    "dpmpp-2m-sde",
    "dpmpp-3m-sde",
    "sa-solver",
    "stochastic-heun",
    "predictor-corrector",
)


def standard_scores(y, law):
    """The z-scores of the sample mean and covariance of Gaussian draws."""
    n, cov = len(y), law.cov()
    mean = (y.mean(axis=0) - law.mean()) / np.sqrt(np.diag(cov) / n)
    centred = y - law.mean()
    found = centred.T @ centred / n
    # Var of a product of two centred Gaussians: S_ii S_jj + S_ij^2
    spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    scores = (found - cov) / spread
    return np.concatenate([mean, scores[np.triu_indices(2)]])


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_million_particles_have_the_propagated_law(name):
    family, process = families()[name], VPLinear()
    tableau = family(process, family.grid(process, 5, 0.9, 0.05))
    assert tableau.stochastic
    model = ExactModel(LAW, process)
    y = run(tableau, model, model.sample(PARTICLES, 0.9, 11), 12)
    expected = propagate(tableau, LAW).output
    assert np.abs(standard_scores(y, expected)).max() < 4.5
    # five coarse steps do not reach the target: the particles tell the two laws apart
    assert np.abs(standard_scores(y, propagate(tableau, LAW).target())).max() > 20
