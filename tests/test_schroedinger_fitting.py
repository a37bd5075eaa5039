"""Proportional fitting: iterates, limits, rates and what falls in every half step."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, kl_divergence
from refdiff.processes import ornstein_uhlenbeck
from refdiff.schedules import VPLinear
from refdiff.schroedinger import proportional_fitting, refit
from refdiff.transport import independent, point_pairs

GOLDEN = 0.3819660112501052  # spec, PODB-92: of s0 = 1, s1 = 1/2, eps = 1/2


def gaussian(rng, dim):
    root = rng.standard_normal((dim, dim)) / np.sqrt(dim)
    return Gaussian(rng.standard_normal(dim), root @ root.T + 0.3 * np.eye(dim))


def channel(rng, dim):
    root = rng.standard_normal((dim, dim)) / np.sqrt(dim)
    return Channel(rng.standard_normal((dim, dim)), rng.standard_normal(dim), root @ root.T + 0.5 * np.eye(dim))


def fitted_pairs(p, q, reference):
    return proportional_fitting(p, q, reference, 0).limit


def joint(pairs):
    law = pairs.mixture()
    return np.concatenate([law.mean(), law.cov().ravel()])


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_iterates_are_refits_by_turns_for_any_reference(dim):
    rng = np.random.default_rng(dim)
    p, q = gaussian(rng, dim), gaussian(rng, dim)
    found = proportional_fitting(p, q, channel(rng, dim), 6)
    plan = found.plans[0]
    for n in range(1, 7):
        plan = refit(plan, second=q) if n % 2 else refit(plan, first=p)
        assert_allclose(joint(plan), joint(found.plans[n]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_iterates_are_channels_reversed_by_bayes_rule(dim):
    rng = np.random.default_rng(10 + dim)
    p, q, forward = gaussian(rng, dim), gaussian(rng, dim), channel(rng, dim)
    found = proportional_fitting(p, q, forward, 6)
    for n in range(1, 7, 2):
        backward = forward.reverse(p)
        assert_allclose(backward.push(q).cov(), found.plans[n].first.cov(), rtol=0, atol=1e-12)
        forward = backward.reverse(q)
        assert_allclose(forward.push(p).mean(), found.plans[n + 1].second.mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_limit_is_where_the_iterates_lead_and_has_the_interaction_of_the_reference(dim):
    rng = np.random.default_rng(20 + dim)
    p, q, reference = gaussian(rng, dim), gaussian(rng, dim), channel(rng, dim)
    found = proportional_fitting(p, q, reference, 0)
    cycles = int(np.ceil(np.log(1e-16) / np.log(found.mean_rates[0])))
    last = proportional_fitting(p, q, reference, 2 * cycles).plans[-1]
    assert_allclose(joint(last), joint(found.limit), rtol=0, atol=1e-11)
    precision = np.linalg.inv(found.limit.mixture().cov())
    expected = -reference.gain.T @ np.linalg.inv(reference.noise)
    assert_allclose(precision[:dim, dim:], expected, rtol=0, atol=1e-10 * np.abs(precision).max())
    roots = [np.linalg.cholesky(law.cov()) for law in (p, q)]
    whitened = np.linalg.solve(roots[1], np.linalg.solve(roots[0], found.limit.cross_covariance()).T)
    assert_allclose(np.linalg.svd(whitened, compute_uv=False), found.correlations, rtol=0, atol=1e-10)


def test_the_closed_form_of_the_line_and_its_golden_ratios():
    found = proportional_fitting(Gaussian([0.3], 1.0), Gaussian([2.0], 0.25), 0.5, 12)
    assert_allclose(found.limit.cross_covariance(), [[(np.sqrt(5) - 1) / 4]], rtol=1e-15)
    assert_allclose(found.mean_rates, [GOLDEN], rtol=1e-15)
    assert_allclose(found.covariance_rates, [0.1458980337503155], rtol=1e-15)
    means = np.array([plan.second.means[0, 0] - 2.0 for plan in found.plans[::2]])
    spreads = np.array([plan.second.cov()[0, 0] - 0.25 for plan in found.plans[::2]])
    assert_allclose(means[-1] / means[-2], GOLDEN, rtol=1e-4)
    assert_allclose(spreads[-1] / spreads[-2], GOLDEN**2, rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_cycle_contracts_small_errors_at_the_rates_of_the_canonical_correlations(dim):
    rng = np.random.default_rng(30 + dim)
    p, q, reference = gaussian(rng, dim), gaussian(rng, dim), channel(rng, dim)
    found, step = proportional_fitting(p, q, reference, 0), 1e-4
    rows, columns = np.triu_indices(dim)

    def moved(mean, covariance):
        """Errors of the second marginal of a plan near the limit, and a cycle later: those of mean and covariance."""
        plan = refit(refit(found.limit, second=Gaussian(q.means[0] + mean, q.covariance + covariance)), first=p)
        later = refit(refit(plan, second=q), first=p)
        return [
            (one.second.means[0] - q.means[0], (one.second.cov() - q.cov())[rows, columns]) for one in (plan, later)
        ]

    def rates(part, errors):
        before, after = (
            np.stack([moved(*e)[k][part] - moved(*(-x for x in e))[k][part] for e in errors]) for k in (0, 1)
        )
        return np.sort(np.linalg.eigvals(np.linalg.solve(before, after)).real)[::-1]

    of_means = [(e, 0 * q.covariance) for e in step * np.eye(dim)]
    symmetric = [np.add(e, e.T) for e in (step * np.multiply.outer(np.eye(dim)[i], np.eye(dim)[j])
                                          for i, j in zip(rows, columns, strict=True))]  # fmt: skip
    # differences of 1e-4, squared, and rounding over 1e-4 times the condition of the eigenvectors
    assert_allclose(rates(0, of_means), found.mean_rates, rtol=0, atol=1e-6)
    assert_allclose(rates(1, [(0 * e[0], e) for e in symmetric]), found.covariance_rates, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 3])
def test_divergence_from_the_bridge_falls_by_that_of_the_marginal(dim):
    rng = np.random.default_rng(40 + dim)
    found = proportional_fitting(gaussian(rng, dim), gaussian(rng, dim), channel(rng, dim), 9)
    fall, violated = found.divergences(), found.marginal_divergences()
    assert (np.diff(fall) < 0).all()
    assert_allclose(fall[:-1] - fall[1:], violated.sum(axis=1)[:-1], rtol=1e-9, atol=1e-13 * fall[0])
    assert_allclose(violated[::2, 0], 0, atol=1e-13)
    assert_allclose(violated[1::2, 1], 0, atol=1e-13)
    for one in (violated[::2, 1], violated[1::2, 0]):
        assert (np.diff(one) <= 0).all()
        assert (one * np.arange(1, len(one) + 1) <= fall[0]).all()


def test_marginal_divergence_may_rise_from_one_half_step_to_the_next_but_not_in_a_cycle():
    found = proportional_fitting(Gaussian([0.0], 10.0), Gaussian([0.0], 0.05), 0.5, 2)
    violated = found.marginal_divergences()
    assert violated[1, 0] > violated[0, 1] > violated[2, 1]
    found = proportional_fitting(Gaussian([0.0], 0.1), Gaussian([0.0], 1.0), 0.05, 4)
    away = [kl_divergence(plan.mixture(), found.limit.mixture()) for plan in found.plans]
    assert away[1] > away[0] > away[2] > away[4]


def test_processes_and_schedules_stand_for_their_channels():
    p, q = Gaussian([0.3], 1.0), Gaussian([2.0], 0.25)
    turned = ornstein_uhlenbeck([[1.0]], noise=[[0.8]])
    for reference, T, way in ((0.4, 2.0, Channel(noise=0.8)), (VPLinear(2.0, 2.0), 0.5, Channel(np.exp(-0.5), 0.0,
                              1 - np.exp(-1.0))), (turned, None, turned.channel(0.0, turned.T))):  # fmt: skip
        found, expected = (proportional_fitting(p, q, *given) for given in ((reference, 3, T), (way, 3)))
        assert_allclose(joint(found.plans[-1]), joint(expected.plans[-1]), rtol=1e-13)


def test_singular_laws_keep_their_support_and_points_stay():
    flat = Gaussian(np.ones(3), 1.0).affine(np.diag([1.0, 2.0, 0.0]))
    point = Gaussian([1.0, 2.0, 3.0], 0.0)
    found = proportional_fitting(flat, Gaussian(np.zeros(3), np.diag([1.0, 0.5, 2.0])), 0.7, 160)
    assert_allclose(joint(found.plans[-1]), joint(found.limit), rtol=0, atol=1e-14)
    assert_allclose(found.correlations[-1], 0.0, atol=1e-15)
    for plan in proportional_fitting(point, flat, 0.7, 3).plans:
        assert not plan.cross_covariance().any()
        assert_allclose(plan.first.means[0], point.means[0], rtol=1e-15)


@pytest.mark.parametrize("epsilon", [1e-8, 1e8])
def test_limits_are_the_optimal_and_the_independent_coupling(epsilon):
    rng = np.random.default_rng(5)
    p, q = gaussian(rng, 3), gaussian(rng, 3)
    found = fitted_pairs(p, q, epsilon).cross_covariance()
    if epsilon > 1:
        assert_allclose(found, p.cov() @ q.cov() / epsilon, rtol=0, atol=1e-14)
    else:
        values, axes = np.linalg.eig(p.cov() @ q.cov())  # the optimal one is (S T)^(1/2)
        assert_allclose(found, np.real(axes * np.sqrt(values) @ np.linalg.inv(axes)), rtol=0, atol=2e-8)


def test_refits_of_points_are_sinkhorn_steps():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((5, 2)), rng.standard_normal((7, 2))
    a, b = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(7))
    p, q, kernel = Empirical(x, a), Empirical(y, b), np.exp(-((x[:, None] - y) ** 2).sum(-1) / 1.4)
    rows, columns = (part.ravel() for part in np.indices((5, 7)))
    masses = a[:, None] * b * kernel
    plan = point_pairs(x[rows], y[columns], masses.ravel() / masses.sum())
    v = np.ones(7)
    for _ in range(3):
        plan = refit(plan, first=p)
        u = 1 / (kernel @ (b * v))
        assert_allclose(plan.first.weights.reshape(5, 7), a[:, None] * u[:, None] * kernel * v * b, rtol=1e-13)
        plan = refit(plan, second=q)
        v = 1 / (kernel.T @ (a * u))
        assert_allclose(plan.first.weights.reshape(5, 7), a[:, None] * u[:, None] * kernel * v * b, rtol=1e-13)


def test_points_without_weight_lose_their_pairs_and_repeated_points_are_one():
    plan = point_pairs([[0.0], [0.0], [1.0]], [[0.0], [1.0], [1.0]], [0.2, 0.3, 0.5])
    found = refit(plan, second=Empirical([[1.0], [1.0], [0.0]], [0.5, 0.5, 0.0]))
    assert_allclose(found.first.weights, [0.375, 0.625], rtol=1e-15)


def test_what_does_not_fit_is_refused():
    p, mixture = Gaussian([0.0], 1.0), GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.0])
    plan, points = fitted_pairs(p, p, 1.0), point_pairs([[0.0]], [[1.0]])
    refused = [
        (TypeError, "p must be a Gaussian", lambda: proportional_fitting(mixture, p, 1.0, 1)),
        (ValueError, "dimension", lambda: proportional_fitting(p, Gaussian([0.0, 0.0], 1.0), 1.0, 1)),
        (ValueError, "epsilon", lambda: proportional_fitting(p, p, 0.0, 1)),
        (ValueError, "noise in all", lambda: fitted_pairs(p, p, Channel(1.0))),
        (ValueError, "outputs", lambda: fitted_pairs(p, p, Channel([[1.0], [1.0]], 0.0, 1.0))),
        (TypeError, "reference must be a Process", lambda: proportional_fitting(p, p, None, 1)),
        (ValueError, "T must be left out", lambda: proportional_fitting(p, p, Channel(noise=1.0), 1, 2.0)),
        (ValueError, "half_steps", lambda: proportional_fitting(p, p, 1.0, -1)),
        (TypeError, "pairs must be a PairLaw", lambda: refit(p, first=p)),
        (ValueError, "both", lambda: refit(plan)),
        (ValueError, "both", lambda: refit(plan, first=p, second=p)),
        (TypeError, "second must be", lambda: refit(plan, second=mixture)),
        (TypeError, "second must be", lambda: refit(independent(mixture, p), second=Empirical([[0.0]]))),
        (ValueError, "dimension", lambda: refit(plan, first=Gaussian([0.0, 0.0], 1.0))),
        (ValueError, "density", lambda: refit(fitted_pairs(p, Gaussian([0.0], 0.0), 1.0), second=p)),
        (ValueError, "no points", lambda: refit(points, second=Empirical([[0.5]]))),
    ]
    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
