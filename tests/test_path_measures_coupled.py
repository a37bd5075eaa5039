"""Two samplers on one noise: pairs of axes and matrices agree, drawn pairs follow the law, flows make other laws."""

import numpy as np
import pytest

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, GaussianMixture, VEPower, VPLinear
from refdiff.distributions import monotone_map, wasserstein
from refdiff.expectations import MonteCarlo, Quadrature, integral
from refdiff.path_measures import (
    AffineScore,
    LipschitzScore,
    coupled_flows,
    coupled_law,
    coupled_paths,
    wasserstein_bound,
)

PEAKS = GaussianMixture.isotropic([[-1.0], [1.0]], 0.4, [0.4, 0.6])
OTHER = GaussianMixture.isotropic([[-1.1], [0.8]], 0.3)


@pytest.mark.parametrize(
    ("k", "centre"), [(0.0, lambda t: 0.0), (0.7, lambda t: [0.1, t, -0.3])], ids=["flow", "noise"]
)
def test_axes_of_their_own_have_the_law_that_matrices_have(k, centre):
    process = AffineProcess([VPLinear(), FlowMatching(), VPLinear(1.0, 3.0)], lambda t: (t * t, 2 * t, 2.0))
    model, prior = ExactModel(Gaussian([1.0, -1.0, 0.0], [0.4, 1.0, 0.0]), process), Gaussian([0.0, 0.1, 0.0], 0.7)
    own = AffineScore(lambda t: [1.2, 0.9 / (1.1 - t), 1 / (t + 0.1)], centre, 3)
    dense = AffineScore(lambda t: np.diag(own.precision_at(t)), centre, 3)
    found, wanted = (
        coupled_law(model, each, stochasticity=k, prior=prior, start=0.05, end=0.9) for each in (own, dense)
    )
    assert (found.root.shape[:2], wanted.root.shape[0]) == ((3, 2), 6)
    assert found.generated.covariances.operator().shape == (3,)
    for one, other in ((found.exact, wanted.exact), (found.generated, wanted.generated)):
        np.testing.assert_allclose(one.mean(), other.mean(), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(one.cov(), other.cov(), rtol=1e-12, atol=1e-13)
    for what in ("distance", "wasserstein", "kl"):
        np.testing.assert_allclose(getattr(found, what), getattr(wanted, what), rtol=1e-10)


def test_many_axes_cost_what_each_does():
    model = ExactModel(Gaussian(np.linspace(-1, 1, 400), 0.5), VPLinear())
    score = AffineScore(lambda t: 1.2, lambda t: 0.1, 400)
    whole = coupled_law(model, score, stochasticity=1.0)
    line = coupled_law(
        ExactModel(Gaussian([-1.0], 0.5), VPLinear()), AffineScore(score.precision, score.centre, 1), stochasticity=1.0
    )
    np.testing.assert_allclose(whole.generated.covariances.operator(), line.generated.cov()[0, 0], rtol=1e-12)
    with pytest.raises(ValueError, match="score must have matrices"):
        coupled_law(model, AffineScore(lambda t: 1.0 if t > 0.5 else np.eye(400), lambda t: 0.0, 400))


def test_drawn_pairs_follow_the_closed_law():
    model = ExactModel(Gaussian([0.0], 0.25), VEPower(1.0, T=5.0))  # the spec's example
    score = AffineScore(lambda t: 1.2 / (0.25 + t * t), lambda _: 0.2, 1)
    law = coupled_law(model, score, stochasticity=1.0)
    assert abs(law.wasserstein - 0.2137) < 5e-5
    times = 5.0 * np.linspace(1.0, 0.0, 101) ** 2
    x, y, found = coupled_paths(model, score, MonteCarlo(1000, 5), times)
    assert abs(found.value - law.distance**2) < 4.5 * found.error + 1e-4  # and the error of Heun's steps
    gaps = (x - y)[:, 0]
    assert abs(gaps.mean() + 0.199213) < 4.5 * gaps.std() / np.sqrt(1000) + 1e-4
    np.testing.assert_allclose(
        [law.generated.mean()[0], law.generated.cov()[0, 0]], [0.199213, 0.178683], atol=5.1e-7
    )  # TOPB-64


def test_another_laws_score_leads_to_that_law():
    # the score of OTHER from its own p_T makes OTHER, whose distance on the line is known
    model, other = ExactModel(PEAKS, VPLinear()), ExactModel(OTHER, VPLinear())
    score, prior = LipschitzScore.exact(other), other.marginal(1.0)
    square, _ = integral(PEAKS, lambda x: ((x - monotone_map(PEAKS, OTHER, x)) ** 2)[:, 0], Quadrature(1e-4), 1.0)
    flows = coupled_flows(model, score, Quadrature(1e-2), prior=prior, rtol=1e-4)
    assert abs(np.sqrt(flows.value) - np.sqrt(square)) < 1e-2 / 2 * np.sqrt(square)  # tolerances of both
    bound = wasserstein_bound(model, score, prior=prior, route=Quadrature(1e-6), tolerance=1e-6)
    assert np.sqrt(square) < bound.value
    drawn = wasserstein_bound(model, score, prior=prior, route=MonteCarlo(500, 1), tolerance=1e-4)
    assert abs(drawn.value - bound.value) < 4.5 * drawn.error
    times = np.linspace(1.0, 0.0, 41)
    x, y, found = coupled_paths(model, score, MonteCarlo(500, 2), times, prior=prior)
    assert found.value > square - 4.5 * found.error
    for points, law in ((x, PEAKS), (y, OTHER)):
        error = np.sqrt(law.cov()[0, 0] / 500)
        assert abs(points.mean() - law.mean()[0]) < 4.5 * error


FULL = ExactModel(Gaussian([1.0, -1.0], [[1.0, 0.3], [0.3, 0.2]]), VPLinear())
PRIOR = Gaussian([0.1, 0.0], [[1.1, -0.7], [-0.7, 0.9]])


def test_the_priors_are_coupled_optimally_though_their_covariances_do_not_commute():
    exact, first = AffineScore.exact(FULL), wasserstein(PRIOR, FULL.marginal(0.2))
    pair = coupled_law(FULL, exact, prior=PRIOR, start=0.2, end=0.2)
    np.testing.assert_allclose([pair.distance, pair.wasserstein], first, rtol=1e-12)
    flows = coupled_flows(FULL, exact, Quadrature(), prior=PRIOR, start=0.2, end=0.2)
    np.testing.assert_allclose(flows.value, first**2, rtol=1e-9)


def test_drawn_pairs_follow_the_closed_law_for_other_amounts_of_noise():
    score = AffineScore(lambda t: [[1.6, 0.2], [0.1, 1.1]], lambda t: [0.6, 0.0], 2)
    law = coupled_law(FULL, score, stochasticity=0.5, prior=PRIOR, start=0.2, end=0.6)
    times = np.linspace(0.6, 0.2, 41)
    x, y, found = coupled_paths(FULL, score, MonteCarlo(2000, 7), times, stochasticity=0.5, prior=PRIOR)
    assert abs(found.value - law.distance**2) < 4.5 * found.error
    assert found.error < 0.05 * found.value
    for points, one in ((x, law.exact), (y, law.generated)):
        assert (np.abs(points.mean(axis=0) - one.mean()) < 4.5 * np.sqrt(np.diag(one.cov()) / 2000)).all()
        spread = np.sqrt(2 / 2000) * np.diag(one.cov())  # of a Gaussian's sample variance
        assert (np.abs(points.var(axis=0) - np.diag(one.cov())) < 4.5 * spread).all()
