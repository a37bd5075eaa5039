"""Minibatch pairs: order statistics on the line, costs between independent and optimal pairs, marginals, refusals."""

from itertools import permutations

import mixtures
import numpy as np
import pytest

from refdiff import Empirical, Gaussian
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.interpolants import InterpolantModel, linear, matching_gap, minibatch_pairs
from refdiff.metrics import wasserstein
from refdiff.transport import independent

# sum of the squared means of the order statistics of n standard normals, over n
ORDERED = {1: 0.0, 2: 1 / np.pi, 3: 3 / (2 * np.pi)}


@pytest.mark.parametrize("n", ORDERED)
def test_gaussians_on_the_line_are_joined_by_their_ranks(n):
    p, q, batches = Gaussian([0.3], 4.0), Gaussian([-1.0], 0.25), 1200 // n
    pairs = minibatch_pairs(p, q, n, batches, 0)
    x, y = pairs.first.means[:, 0], pairs.second.means[:, 0]
    products = (x - 0.3) * (y + 1.0)
    by_batch = products.reshape(batches, n).mean(axis=1)
    # independent batches: 4.5 standard errors are a false alarm in 7e-6
    assert abs(by_batch.mean() - ORDERED[n]) < 4.5 * by_batch.std() / np.sqrt(batches)


@pytest.mark.parametrize("dim", [1, 2])
def test_larger_batches_cost_less_and_keep_the_marginals(dim):
    p, q = mixtures.law("full", dim, 2), mixtures.law("isotropic", dim, 3)
    costs, errors = [independent(p, q).cost()], [0.0]
    for n in (1, 4, 32):
        count = 512 // n
        pairs = minibatch_pairs(p, q, n, count, 1)
        assert pairs.count == 512
        square = ((pairs.first.means - pairs.second.means) ** 2).sum(axis=1).reshape(count, n).mean(axis=1)
        assert pairs.cost() == pytest.approx(square.mean())
        costs.append(square.mean())
        errors.append(square.std() / np.sqrt(count))
        for half, law in ((pairs.first, p), (pairs.second, q)):
            assert (np.abs(half.mean() - law.mean()) < 4.5 * np.sqrt(np.diag(law.cov()) / 512)).all()
    assert abs(costs[1] - costs[0]) < 4.5 * errors[1]
    # the same points of one seed: larger batches hold smaller ones, and join them no worse
    assert costs[3] < costs[2] < costs[1]
    if dim == 1:
        assert costs[3] > wasserstein(p, q, route=Quadrature()).value ** 2 - 4.5 * errors[3]


def test_a_batch_is_joined_at_the_least_sum_of_squares():
    pairs = minibatch_pairs(mixtures.law("full", 2, 2), Gaussian([0.0, 1.0], [2.0, 0.3]), 5, 20, 0)
    orders = np.array([*permutations(range(5))])
    for x, y in zip(*(half.means.reshape(20, 5, 2) for half in (pairs.first, pairs.second)), strict=True):
        sums = ((x - y[orders]) ** 2).sum(axis=(1, 2))
        assert sums[0] == pytest.approx(sums.min(), rel=1e-14)  # of the order in which they come


def test_less_is_left_to_chance_by_larger_batches():
    p, q, route = Gaussian([0.0], 1.0), Gaussian([2.0], 4.0), MonteCarlo(2000, 0)
    gaps = []
    for n in (1, 8, 64):
        model = InterpolantModel(minibatch_pairs(p, q, n, 512 // n, 0), linear(0.2))
        gaps.append(float(matching_gap(model, 0.5, route=route).value))
    assert gaps[0] > gaps[1] > gaps[2]
    # independent Gaussians: s_0^2 s_1^2 / V_t without noise, and nearly that with a little
    assert gaps[0] == pytest.approx(4 / 1.25, rel=0.2)


def test_a_batch_of_all_points_is_the_optimal_coupling():
    p, q = Empirical([[0.0, 0.0], [1.0, 1.0]]), Empirical([[1.0, 0.9], [0.0, 0.2]])
    pairs = minibatch_pairs(p, q, 64, 8, 0)
    assert pairs.cost() < independent(p, q).cost() / 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: minibatch_pairs(p, 3, 2, 2, 0), TypeError, "q must be a Gaussian"),
        (lambda p: minibatch_pairs(p, Gaussian([0.0, 0.0], 1.0), 2, 2, 0), ValueError, "q must have the dimension"),
        (lambda p: minibatch_pairs(p, p, 0, 2, 0), ValueError, "size must be at least 1"),
        (lambda p: minibatch_pairs(p, p, 2, 0, 0), ValueError, "batches must be at least 1"),
        (lambda p: minibatch_pairs(p, p, 2, 2, None), TypeError, "seed must be"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(Gaussian([0.0], 1.0))
