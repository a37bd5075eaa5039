"""Markovian fitting by samples: marginals, what a start at points leads to, and steps one after the other."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.interpolants import InterpolantModel, brownian, linear
from refdiff.processes import ornstein_uhlenbeck
from refdiff.schroedinger import GaussianBridge, ReferenceBridges, drawn_pairs
from refdiff.transport import independent, point_pairs


def pulled():
    return ornstein_uhlenbeck([[1.0, 0.5], [-0.5, 0.8]], noise=np.diag([1e-4, 7e-5]), mean=[1.0, -2.0])


@pytest.mark.parametrize("backward", [False, True])
def test_drawn_pairs_of_mixtures_have_the_right_marginals(backward):
    p = GaussianMixture.isotropic([[-1.0], [1.0]], [0.2, 0.1], [0.3, 0.7])
    q = GaussianMixture.isotropic([[0.0], [2.0]], [0.3, 0.2])
    model = InterpolantModel(independent(p, q), ReferenceBridges(0.5))
    found = drawn_pairs(model, np.linspace(1, 0, 51) if backward else np.linspace(0, 1, 51), 4000, 3)
    x, y = found.first.means, found.second.means
    for law, drawn in ((p, x), (q, y)):
        # of 4000 draws within 4.5 standard errors, and Euler's bias of some 1/50 of the spread
        spread = np.sqrt(law.cov()[0, 0])
        assert abs(drawn.mean() - law.mean()[0]) < spread * (4.5 / np.sqrt(4000) + 0.02)
        assert abs(drawn.std() - spread) < spread * (4.5 / np.sqrt(2000) + 0.02)
    assert np.corrcoef(x[:, 0], y[:, 0])[0, 1] > 0.3  # of independent pairs it makes others


@pytest.mark.parametrize("backward", [False, True])
def test_from_points_paths_leave_towards_the_mean_of_their_partners(backward):
    x, y = np.array([[0.0, 1.0], [0.0, 1.0], [2.0, 0.0]]), np.array([[1.0, 1.0], [5.0, 1.0], [0.0, 0.0]])
    pairs = point_pairs(x, y, [0.1, 0.3, 0.6])
    # one step in the place of many goes all the way, with next to no noise: to the partners' mean
    model = InterpolantModel(pairs.swapped() if backward else pairs, ReferenceBridges(1e-12, 2.0))
    found = drawn_pairs(model, [2.0, 0.0] if backward else [0.0, 2.0], 40, 1)
    starts, ends = (half.means for half in (found.first, found.second)[:: -1 if backward else 1])
    assert_allclose(ends, np.where(starts[:, :1] == 0, [[4.0, 1.0]], [[0.0, 0.0]]), rtol=0, atol=2e-5)  # 9 deviations


def test_the_drift_at_points_is_the_limit_of_that_beside_them():
    rng, process = np.random.default_rng(4), pulled()
    x, y, z = rng.standard_normal((3, 5, 2))
    model, h = InterpolantModel(point_pairs(x, y), ReferenceBridges(process)), 1e-7
    # a path that has gone for h is at x + b h + G z sqrt(h); b is that of the bridge to y but for O(sqrt(h))
    bridge = model.interpolant.process
    beside = x + h**0.5 * z @ bridge.diffusion(0.0) ** 0.5
    expected = model.velocity(beside, h) + 0.5 * model.score(beside, h) @ bridge.diffusion(h)
    pull = bridge.diffusion(0.0) @ bridge.channel(0.0, 1.0).gain.T @ model.interpolant.precision
    whole = bridge.channel(0.0, 1.0)
    direct = x @ bridge.drift(0.0).T + bridge.force(0.0) + (y - x @ whole.gain.T - whole.offset) @ pull.T
    assert_allclose(expected, direct, rtol=0, atol=1e-6)
    found = drawn_pairs(model, [0.0, 1.0], 30, 1)
    for start, end in zip(found.first.means, found.second.means, strict=True):  # one step, and noise of 1e-4
        assert_allclose(end - start, direct[(x == start).all(axis=1)][0], rtol=0, atol=4.5e-4)


def test_steps_one_after_the_other_come_to_the_bridge():
    p, q, n = Gaussian([0.0], 1.0), Gaussian([1.0], 0.5), 500
    bridge, pairs = GaussianBridge(p, q, 0.2), independent(p, q)
    for k, grid in enumerate((np.linspace(0, 1, 21), np.linspace(1, 0, 21), np.linspace(0, 1, 21))):
        pairs = drawn_pairs(InterpolantModel(pairs, bridge.interpolant), grid, n, k)
    # 4.5 standard errors of a covariance and a mean of n pairs in each of three steps, and Euler's 1 / 20
    best = bridge.pairs.cross_covariance()[0, 0]
    bound = 4.5 * np.sqrt(3 * (0.5 + best**2) / n) + 0.05
    assert abs(pairs.cross_covariance()[0, 0] - best) < bound < best / 1.5  # independent pairs are far from it
    assert abs(pairs.second.mean()[0] - 1.0) < 4.5 * np.sqrt(3 * 0.5 / n) + 0.05


def test_what_does_not_fit_is_refused():
    p = Gaussian([0.0], 1.0)
    plain, points = InterpolantModel(independent(p, p), linear()), point_pairs([[0.0]], [[1.0]])
    bridges = InterpolantModel(independent(p, p), ReferenceBridges(1.0))
    refused = [
        (TypeError, "InterpolantModel", lambda: drawn_pairs(p, [0.0, 1.0], 3, 0)),
        (ValueError, "noise must be given", lambda: drawn_pairs(plain, [0.0, 1.0], 3, 0)),
        (ValueError, "from 0 to T", lambda: drawn_pairs(bridges, [0.0, 0.5], 3, 0)),
        (ValueError, "times", lambda: drawn_pairs(bridges, [0.0, 0.5, 0.5, 1.0], 3, 0)),
        (ValueError, "that of the bridges", lambda: drawn_pairs(InterpolantModel(points, brownian(1.0)), [0.0, 1.0], 3,
                                                                0, lambda _: 2.0)),
    ]  # fmt: skip
    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
