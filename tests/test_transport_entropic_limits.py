"""Series of the entropic cost against the closed form and its bounds; regularisers against sums over plans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, Gaussian
from refdiff.channels import Channel
from refdiff.distributions import entropy
from refdiff.transport import GaussianPlan, Regulariser, entropic_cost, little_noise, much_noise, sinkhorn

SEEDS = st.integers(0, 2**32 - 1)
EPS = np.finfo(float).eps


def pair(seed, d=3, rank=None):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((d, rank or d)), rng.standard_normal((d, d))
    return Gaussian(rng.standard_normal(d), a @ a.T), Gaussian(rng.standard_normal(d), b @ b.T)


@given(SEEDS, st.sampled_from([1.0, 0.3, 1e-3]), st.sampled_from([None, 1]))
def test_series_in_little_noise_err_by_less_than_the_first_term_left_out(seed, share, rank):
    p, q = pair(seed, rank=rank)
    s = GaussianPlan(p, q, 1.0).singular_values
    epsilon = 2 * share * s[s > 0].min()
    value = entropic_cost(p, q, epsilon)
    errors = []
    for terms in range(5):
        found = little_noise(p, q, epsilon, terms)
        slack = 50 * EPS * (abs(value) + s.sum())
        assert abs(found.value - value) <= found.bound + slack
        assert abs(found.value - value) >= 0.1 * found.bound - slack  # and by not much less
        errors.append(found.bound)
    assert errors == sorted(errors, reverse=True)


@given(SEEDS, st.sampled_from([1.0, 3.0, 1e3]))
def test_series_in_much_noise_err_by_less_than_the_first_term_left_out(seed, share):
    p, q = pair(seed)
    channel = Channel(0.5, 0.1, [1.0, 2.0, 0.5])
    s = GaussianPlan(p, q, 1.0, channel).singular_values
    epsilon = 2 * share * s.max()
    value = entropic_cost(p, q, epsilon, channel)
    for terms in range(5):
        found = much_noise(p, q, epsilon, terms, channel)
        slack = 50 * EPS * (abs(value) + s.sum())
        assert abs(found.value - value) <= found.bound + slack
        assert abs(found.value - value) >= 0.1 * found.bound - slack


def test_first_terms_are_entropies_fisher_information_and_the_independent_cost():
    p, q = Gaussian([0.0, 1.0], [1.0, 0.25]), Gaussian([1.0, 1.0], [4.0, 0.5])
    epsilon = 0.01
    w = 0.5 * (1 + (np.sqrt([1.0, 0.25]) - np.sqrt([4.0, 0.5])) @ (np.sqrt([1.0, 0.25]) - np.sqrt([4.0, 0.5])))
    first = w - epsilon * np.log(2 * np.pi * epsilon) + 0.5 * epsilon * (entropy(p) + entropy(q))
    assert little_noise(p, q, epsilon, 0).value == pytest.approx(first, rel=1e-14)
    t = (np.arange(20000) + 0.5) / 20000
    fisher = sum((1 / ((1 - t) * a + t * b) ** 2).mean() for a, b in ((1.0, 2.0), (0.5, np.sqrt(0.5))))
    assert little_noise(p, q, epsilon, 0).bound == pytest.approx(epsilon**2 / 8 * fisher, rel=1e-8)
    assert much_noise(p, q, 100.0, 0).value == pytest.approx(0.5 * (1 + 1.25 + 4.5), rel=1e-14)


# ---------------------------------------------------------------------- regularisers


@pytest.mark.parametrize("scale", [0.5, 1.0, 0.2])
def test_objectives_of_other_regularisers_are_sums_over_the_plan(scale):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5, 2))
    p, q = Empirical(x, rng.dirichlet(np.ones(5))), Empirical(y, rng.dirichlet(np.ones(5)))
    squared = ((x[:, None] - y) ** 2).sum(axis=-1)
    h = [-(one.weights @ np.log(one.weights)) for one in (p, q)]
    for reference in ("product", "entropy", "entropy less one"):
        way = Regulariser(0.9, scale, reference)
        plan = sinkhorn(p, q, way.epsilon, tolerance=1e-13)
        m = plan.coupling()
        term = {"product": m / np.outer(p.weights, q.weights), "entropy": m, "entropy less one": m / np.e}[reference]
        direct = scale * (m * squared).sum() + 0.9 * (m * np.log(term)).sum()
        assert way.objective(plan.value, *h) == pytest.approx(direct, rel=1e-11)
        other = sinkhorn(p, q, 0.9, cost=scale * squared, tolerance=1e-13)
        np.testing.assert_allclose(other.coupling(), m, atol=1e-12)


def test_objective_of_densities_has_differential_entropies():
    p, q = pair(1, d=2)
    way = Regulariser(0.6, 1.0, "entropy")
    plan = GaussianPlan(p, q, way.epsilon)
    direct = 2 * plan.mean_cost() - 0.6 * entropy(Gaussian(plan.pairs().mixture().mean(), plan.pairs().mixture().cov()))
    assert way.objective(plan.value, entropy(p), entropy(q)) == pytest.approx(direct, rel=1e-12)


def test_refusals():
    p, q = pair(0)
    for match, make in [
        ("epsilon must lie in", lambda: little_noise(p, q, 1e3)),
        ("epsilon must lie in", lambda: little_noise(p, q, 0.0)),
        ("epsilon must be at least", lambda: much_noise(p, q, 1e-3)),
        ("terms must be", lambda: much_noise(p, q, 1e3, -1)),
        ("weight", lambda: Regulariser(0.0)),
        ("scale", lambda: Regulariser(1.0, 0.0)),
        ("reference must be one of", lambda: Regulariser(1.0, 1.0, "KL")),
    ]:
        with pytest.raises(ValueError, match=match):
            make()


def test_the_gap_to_no_noise_is_of_order_eps_log_eps():
    p, q = Gaussian([2.0], 1.0), Gaussian([0.0], 0.25)
    ratios = []
    for epsilon in (1e-1, 1e-2, 1e-3, 1e-4):
        gap = entropic_cost(p, q, epsilon) - 0.5 * (4 + 0.25)
        ratios.append(gap / (epsilon * np.log(1 / epsilon)))
    assert ratios == pytest.approx([0.577, 0.534, 0.522, 0.5167], abs=6e-4)  # golden, as printed
