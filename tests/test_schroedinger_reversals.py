"""Chains reversed by turns: what they share with proportional fitting, and what fixed noise does to them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.interpolants import InterpolantModel
from refdiff.processes import ornstein_uhlenbeck
from refdiff.schedules import VPLinear
from refdiff.schroedinger import BrownianReference, ReferenceBridges, proportional_fitting, reversed_chains

FIRST, SECOND, EPSILON = Gaussian([0.3], 1.0), Gaussian([2.0], 0.25), 0.5
PLANE = Gaussian([0.3, -0.2], [[1.0, 0.3], [0.3, 0.5]]), Gaussian([1.0, 2.0], [[0.4, -0.2], [-0.2, 0.6]])


def joint(pairs):
    law = pairs.mixture()
    return np.concatenate([law.mean(), law.cov().ravel()])


@pytest.mark.parametrize(
    "reference",
    [0.7, VPLinear(0.5, 2.0), ornstein_uhlenbeck([[1.0, 0.5], [-0.5, 0.8]], noise=np.eye(2))],
    ids=["Brownian", "VP", "turning"],
)
@pytest.mark.parametrize("steps", [1, 7])
def test_bayes_reversals_are_proportional_fitting_for_any_number_of_steps(reference, steps):
    times = np.linspace(0, 1, steps + 1) ** 2
    chains = reversed_chains(*PLANE, reference, times, 4)
    bridges = ReferenceBridges(reference)
    fitted = proportional_fitting(*PLANE, bridges.overall, 8)
    for n in range(4):
        assert_allclose(joint(chains.forward_pairs(n)), joint(fitted.plans[2 * n]), rtol=0, atol=1e-12)
        assert_allclose(joint(chains.backward_pairs(n)), joint(fitted.plans[2 * n + 1]), rtol=0, atol=1e-12)


def test_iterates_keep_the_bridges_of_the_reference():
    times = np.array([0.0, 0.3, 0.8, 1.0])
    chains, bridges = reversed_chains(*PLANE, 0.7, times, 2), ReferenceBridges(0.7)
    model = InterpolantModel(chains.forward_pairs(), bridges)
    for i, t in enumerate(times.tolist()):
        found, expected = chains.forward[-1].marginal(i, PLANE[0]), model.marginal(t)
        assert_allclose(found.mean(), expected.mean(), rtol=0, atol=1e-13)
        assert_allclose(found.cov(), expected.cov(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("reference", [BrownianReference(0.7), VPLinear(0.5, 2.0)], ids=["Brownian", "VP"])
def test_a_reversal_keeps_one_drift_and_nelson_gives_the_other(reference):
    bridges = ReferenceBridges(reference)
    plans = proportional_fitting(*PLANE, bridges.overall, 3).plans
    models = [InterpolantModel(plan, bridges) for plan in plans]
    x, t = np.random.default_rng(0).standard_normal((5, 2)), 0.4
    half = 0.5 * bridges.process.diffusion(t)
    forward, backward = ([m.velocity(x, t) + sign * half * m.score(x, t) for m in models] for sign in (1, -1))
    assert_allclose(backward[1], backward[0], rtol=0, atol=1e-12)
    assert_allclose(forward[2], forward[1], rtol=0, atol=1e-12)
    assert_allclose(backward[3], backward[2], rtol=0, atol=1e-12)
    assert np.abs(forward[1] - forward[0]).max() > 0.1


@pytest.mark.parametrize("reversal", ["state", "drift"])
def test_links_back_are_regressions_of_what_is_learnt_with_the_noise_of_the_reference(reversal):
    process = ornstein_uhlenbeck([[1.0, 0.5], [-0.5, 0.8]], noise=[[1.0, 0.0], [0.4, 0.7]], mean=[1.0, -2.0])
    chains = reversed_chains(*PLANE, process, [0.0, 0.3, 1.0], 1, kernels="euler", reversal=reversal)
    first = chains.forward[0]
    for chain, back, law in ((first, chains.backward[0], PLANE[0]), (chains.backward[0], chains.forward[1], PLANE[1])):
        for k, (link, found) in enumerate(zip(chain.links, back.links[::-1], strict=True)):
            here, there = chain.marginal(k, law), chain.marginal(k + 1, law)
            # x_k, or x_k+1 + F x_k - F x_k+1, from its mean and its covariance with x_k+1
            mean, cross = here.mean(), here.cov() @ link.gain.T
            if reversal == "drift":
                mean = there.mean() + link.gain @ (mean - there.mean())
                cross = there.cov() + link.gain @ (cross - there.cov())
            gain = cross @ np.linalg.inv(there.cov())
            assert_allclose(found.gain, gain, rtol=0, atol=1e-13)
            assert_allclose(found.offset, mean - gain @ there.mean(), rtol=0, atol=1e-13)
            place = k if chain is first else 1 - k
            assert_allclose(found.noise, first.links[place].noise, rtol=1e-15)
    assert_allclose(first.links[0].noise / 0.3, first.links[1].noise / 0.7, rtol=1e-14)


def test_eulers_links_hold_the_coefficients_of_where_they_begin():
    found = reversed_chains(*PLANE, VPLinear(0.5, 2.0), [0.0, 0.4, 1.0], 0, kernels="euler").forward[0].links
    for link, h, rate in zip(found, (0.4, 0.6), (0.5, 1.1), strict=True):
        assert_allclose(link.gain, 1 - 0.5 * h * rate, rtol=1e-14)
        assert_allclose(link.noise, h * rate, rtol=1e-14)
    pulled = ornstein_uhlenbeck([[2.0]], noise=[[1.0]], mean=[3.0])
    link = reversed_chains(FIRST, SECOND, pulled, [0.0, 0.1], 0, kernels="euler").forward[0].links[0]
    assert_allclose([link.gain.item(), link.offset.item(), link.noise.item()], [0.8, 0.6, 0.1], rtol=1e-14)


def errors(reference, steps, *cycles, **options):
    """Cov(x_0, x_N) of forward chains, and the law of x_N, off proportional fitting, after some numbers of cycles."""
    chains = reversed_chains(FIRST, SECOND, reference, np.linspace(0, 1, steps + 1), max(cycles), **options)
    bridges = ReferenceBridges(reference)
    fitted = proportional_fitting(FIRST, SECOND, bridges.overall, 2 * max(cycles))
    found = [np.abs(joint(chains.forward_pairs(n)) - joint(fitted.plans[2 * n]))[[3, 5, 1]] for n in cycles]
    return found if len(cycles) > 1 else found[0]


def test_eulers_kernels_lead_to_the_bridge_of_eulers_chain_one_over_n_away():
    coarse, fine = (errors(VPLinear(1.0, 1.0), n, 12, kernels="euler") for n in (16, 32))
    assert_allclose(coarse[0] / fine[0], 2.0, rtol=0.01)
    assert_allclose(fine[1:], 0, atol=1e-7)  # marginals are the right ones, up to the cycles


@pytest.mark.parametrize("reversal", ["state", "drift"])
def test_fixed_noise_moves_an_iterate_by_one_over_n(reversal):
    coarse, fine = (errors(EPSILON, n, 2, reversal=reversal) for n in (64, 128))
    large = coarse > 1e-12  # the conditional means are exact: `state` has the right mean
    assert large[:2].all()
    assert_allclose(coarse[large] / fine[large], 2.0, rtol=0.08)


@pytest.mark.parametrize("reversal", ["state", "drift"])
def test_fixed_noise_forgets_the_reference_after_as_many_cycles_as_steps(reversal):
    coarse = errors(EPSILON, 8, 20, reversal=reversal)
    few, many = errors(EPSILON, 16, 4, 32, reversal=reversal)
    assert many[0] > 0.01 > 3 * few[0]
    # a finer chain has better marginals, but does not come closer to the bridge
    assert many[0] > 1.9 * coarse[0]
    assert_allclose(coarse[1] / many[1], 2.0, rtol=0.05)


def test_conditional_means_with_fixed_noise_lead_to_geometric_variances_whatever_the_reference_drifts():
    steps, epsilon, last = 3, 1.2, Gaussian([2.0], 0.6)  # where a cycle leaves 0.43 of the error
    for reference in (epsilon, ornstein_uhlenbeck([[1.5]], noise=[[np.sqrt(epsilon)]])):
        chains = reversed_chains(FIRST, last, reference, np.linspace(0, 1, steps + 1), 30, kernels="euler",
                                 reversal="state")  # fmt: skip
        limit = [chains.forward[-1].marginal(k, FIRST).cov()[0, 0] for k in range(steps + 1)]
        assert_allclose(limit, 0.6 ** (np.arange(steps + 1) / (steps + 1)), rtol=1e-9)


def test_where_noise_is_more_than_variances_leave_room_for_links_forget():
    chains = reversed_chains(FIRST, SECOND, 1.2, [0.0, 0.5, 1.0], 40, reversal="state")  # eps h = 0.6 > R S_1 = 0.4
    assert_allclose(chains.forward[-1].links[-1].gain, 0.0, atol=1e-6)
    assert_allclose(chains.forward[-1].marginal(2, FIRST).cov(), 0.6, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    times, mixture = np.linspace(0, 1, 3), GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.0])
    refused = [
        (ValueError, "times", (FIRST, SECOND, 1.0, [0.0, 0.5, 0.5], 1), {}),
        (ValueError, "times", (FIRST, SECOND, 1.0, [0.1, 0.5], 1), {}),
        (ValueError, "kernels", (FIRST, SECOND, 1.0, times, 1), {"kernels": "none"}),
        (ValueError, "reversal", (FIRST, SECOND, 1.0, times, 1), {"reversal": "none"}),
        (TypeError, "q must be a Gaussian", (FIRST, mixture, 1.0, times, 1), {}),
        (ValueError, "q must have a density", (FIRST, Gaussian([0.0], 0.0), 1.0, times, 1), {}),
        (ValueError, "q must have a density", (FIRST, PLANE[0], 1.0, times, 1), {}),
        (TypeError, "reference", (FIRST, SECOND, "one", times, 1), {}),
        (ValueError, "cycles", (FIRST, SECOND, 1.0, times, -1), {}),
    ]
    for error, words, given, options in refused:
        with pytest.raises(error, match=words):
            reversed_chains(*given, **options)
