"""One-sided Lipschitz rates of scores: above every secant, attained between two components, the same in any storage."""

import numpy as np
import pytest

from refdiff import GaussianMixture
from refdiff.distributions import random_mixture
from refdiff.path_measures import score_rate


def len_of(value):
    return f"{np.ndim(value)}-d"


@pytest.mark.parametrize(
    "covariance", [0.4, [0.3, 0.5, 0.7], [[1.0, 0.3, 0.0], [0.3, 0.5, 0.2], [0.0, 0.2, 0.4]]], ids=len_of
)
def test_score_rate_bounds_every_secant_and_is_attained_between_two_components(covariance):
    means, matrix = (
        random_mixture(3, 2, 4).means,
        np.asarray(covariance) * (np.eye(3) if np.ndim(covariance) < 2 else 1),
    )
    law = GaussianMixture.shared(means, matrix)
    if np.ndim(covariance) < 2:
        assert score_rate(law) == pytest.approx(
            score_rate(GaussianMixture.diagonal(means, np.tile(np.diag(matrix), (2, 1))))
        )
    rate = score_rate(law)
    x, y = law.sample(400, 1), law.sample(400, 2)
    gaps = ((law.score(x) - law.score(y)) * (x - y)).sum(axis=1) / ((x - y) ** 2).sum(axis=1)
    assert gaps.max() <= rate + 1e-12
    u = np.linspace(-20, 20, 20001)[:, None]
    line = law.means.mean(axis=0) + u * (law.means[1] - law.means[0])
    # where both components weigh the same the bound is the eigenvalue itself
    best = np.linalg.eigvalsh(law.hessian(line))[:, -1].max()
    assert best <= rate + 1e-12
    np.testing.assert_allclose(best, rate, rtol=1e-4)  # by the spacing of the line
    d = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 0.5]])
    scaled = score_rate(law, d)
    secants = (((law.score(x) - law.score(y)) @ d) * (x - y)).sum(axis=1) / ((x - y) ** 2).sum(axis=1)
    assert secants.max() <= scaled


def test_rates_of_one_diffusion_are_one_in_every_storage():
    law = GaussianMixture.isotropic([[0.0, 1.0], [2.0, -1.0]], 0.4)
    rates = [score_rate(law, d) for d in (2.0, [2.0, 2.0], 2 * np.eye(2))]
    np.testing.assert_allclose(rates, 2 * (8 / 0.4**2 / 4 - 1 / 0.4), rtol=1e-13)
    shared = GaussianMixture.shared(law.means, 0.4 * np.eye(2))
    np.testing.assert_allclose(score_rate(shared, 2.0), rates[0], rtol=1e-13)
