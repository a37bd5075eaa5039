"""Samplers of bridges as tables: their weights, exact laws, orders, and what a model has to be shown."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture, wasserstein
from refdiff.interpolants import InterpolantModel, ScalarInterpolant, brownian, linear
from refdiff.processes import ornstein_uhlenbeck
from refdiff.samplers import propagate, run, to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.schedules import FlowMatching, VPLinear
from refdiff.schroedinger import (
    GaussianBridge,
    ReferenceBridges,
    bridge_channels,
    bridge_denoiser,
    bridge_sampler,
)
from refdiff.transport import component_pairs, gaussian_pairs, image_pairs, independent, point_pairs

P, Q = Gaussian([0.3, -0.2], [[1.0, 0.3], [0.3, 0.5]]), Gaussian([1.0, 2.0], [[0.4, -0.2], [-0.2, 0.6]])
EPSILON = 0.5


def cosines(n):
    return (1 + np.cos(np.pi * np.linspace(0, 1, n + 1))) / 2


@pytest.mark.parametrize("k", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "bridges", [brownian(EPSILON, 2.0), ReferenceBridges(VPLinear(0.5, 2.0))], ids=["Brownian", "VP"]
)
def test_every_stage_has_its_law_where_x_0_is_one_point(bridges, k):
    model = InterpolantModel(independent(Gaussian([0.5, -1.0], 0.0), Q), bridges)
    table = bridge_sampler(bridges, bridges.T * cosines(3), k)
    for t, channel in zip(table.times.tolist(), bridge_channels(table, model), strict=True):
        found, expected = channel.push(Q), model.marginal(t)
        assert_allclose(found.mean(), expected.mean(), rtol=0, atol=1e-13)
        assert_allclose(found.cov(), expected.cov(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", [0.0, 0.4, 1.0])
def test_the_posterior_is_the_reference_given_its_past(k):
    bridges = ReferenceBridges(VPLinear(0.5, 2.0))
    table, process = bridge_sampler(bridges, [1.0, 0.7, 0.2], k), bridges.process
    if k == 1:
        first, then = process.channel(0.0, 0.2), process.channel(0.2, 0.7)
        back = then.reverse(Gaussian([0.0], first.noise))  # x_s given x_t, and x_0 = 0
        assert_allclose(table.states[2, 0], back.gain, rtol=1e-13)
        assert_allclose(table.noise[2, 0] ** 2, back.noise, rtol=1e-13)
        assert not table.states[2, 1:].any()
    else:
        kept, std = table.states[2, 0], table.noise[2, 0] if k else 0.0
        assert_allclose(kept**2 * bridges.at(0.7).noise + std**2, bridges.at(0.2).noise, rtol=1e-13)


def test_without_noise_it_is_ddim_of_flow_matching():
    times = [1.0, 0.6, 0.3, 0.0]
    assert bridge_sampler(linear(), times).difference(ddim(FlowMatching(), times)) < 1e-15


@pytest.mark.parametrize(("k", "given_end"), [(0.0, True), (0.5, True), (1.0, True), (1.0, False)])
def test_outputs_of_independent_pairs_converge_at_order_one(k, given_end):
    model, errors = InterpolantModel(independent(P, Q), brownian(EPSILON)), []
    for n in (24, 48):
        channel = bridge_channels(bridge_sampler(model.interpolant, cosines(n), k), model, given_end=given_end)[-1]
        errors.append(wasserstein(channel.push(Q), P))
    assert 0.85 < np.log2(errors[0] / errors[1]) < 1.05  # log n / n for k > 0, but at order 1 near the end


def test_a_model_that_is_not_shown_the_end_needs_markov_pairs_or_all_the_noise():
    model, errors = InterpolantModel(independent(P, Q), brownian(EPSILON)), []
    for n in (24, 96):
        channel = bridge_channels(bridge_sampler(model.interpolant, cosines(n), 0.0), model)[-1]
        errors.append(wasserstein(channel.push(Q), P))
    assert errors[1] > 0.7 * errors[0] > 0.1


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0])
def test_of_a_schroedinger_bridge_the_end_adds_nothing_and_pairs_converge(k):
    model, errors = GaussianBridge(P, Q, EPSILON).model, []
    for n in (16, 32):
        table = bridge_sampler(model.interpolant, cosines(n), k)
        blind, shown = (bridge_channels(table, model, given_end=shown)[-1] for shown in (False, True))
        assert_allclose(blind.gain, shown.gain, rtol=0, atol=1e-11)
        assert_allclose(blind.noise, shown.noise, rtol=0, atol=1e-11)
        errors.append(wasserstein(image_pairs(Q, blind).mixture(), model.pairs.swapped().mixture()))
    assert 0.8 < np.log2(errors[0] / errors[1]) < 1.05


def test_without_the_end_pairs_are_those_of_the_markov_process():
    model = InterpolantModel(independent(P, Q), brownian(EPSILON))
    blind, shown = (
        image_pairs(Q, bridge_channels(bridge_sampler(model.interpolant, cosines(64), 1.0), model, given_end=end)[-1])
        for end in (False, True)
    )
    assert np.abs(shown.cross_covariance()).max() < 0.02  # the independent pairs
    assert np.abs(blind.cross_covariance()).max() > 0.2  # a step of Markovian fitting


def test_runs_of_points_follow_the_channels():
    pairs = gaussian_pairs(P, Q, [[0.2, 0.0], [0.1, -0.1]])
    model, n = InterpolantModel(pairs, brownian(EPSILON)), 20_000
    table, x = bridge_sampler(brownian(EPSILON), cosines(6), 0.5), Q.sample(20_000, 1)
    for ask, given_end in ((bridge_denoiser(model), False), (bridge_denoiser(model, x), True)):
        law = bridge_channels(table, model, given_end=given_end)[-1].push(Q)
        made = run(table, ask, x, 2)
        scaled = (made.mean(axis=0) - law.mean()) / np.sqrt(np.diag(law.cov()) / n)
        assert np.abs(scaled).max() < 4.5
        # of 20000 draws variances are known to 4.5 sqrt(2 / n) = 0.045
        assert_allclose(np.cov(made.T), law.cov(), rtol=0, atol=0.045 * np.diag(law.cov()).max())


def test_mixtures_and_points_are_answered_by_bayes_rule():
    rng = np.random.default_rng(7)
    p, q = random_mixture(2, 2, rng, "full"), random_mixture(2, 2, rng, "full")
    masses = np.multiply.outer(p.weights, q.weights) + 0.004 * np.array([[-1.0, 1.0], [1.0, -1.0]])
    model = InterpolantModel(component_pairs(p, q, masses), brownian(EPSILON))
    x, y, t = rng.standard_normal((2, 2)), q.sample(2, rng), 0.4
    now = model.interpolant.at(t)
    found = bridge_denoiser(model, y)(x, t)
    for row in range(2):
        law = model.pairs.given_second(y[row])
        z = law.sample(200_000, 3)
        logs = -((x[row] - now.first * z - now.second * y[row]) ** 2).sum(axis=1) / (2 * now.noise)
        w = np.exp(logs - logs.max())
        mean = w @ z / w.sum()
        error = np.sqrt((w**2) @ (z - mean) ** 2) / w.sum()
        assert (np.abs(found[row] - mean) < 4.5 * error).all()
    at_end = bridge_denoiser(model, y)(y, 1.0)
    assert_allclose(at_end[0], model.pairs.given_second(y[0]).mean(), rtol=1e-12)


def test_references_that_pull_elsewhere_are_answered():
    process = ornstein_uhlenbeck([[1.0, 0.5], [-0.5, 0.8]], noise=np.eye(2), mean=[2.0, -1.0])
    rng, t = np.random.default_rng(3), 0.4
    model = GaussianBridge(P, Q, process).model  # Markov, so that the end adds nothing
    x, y = model.sample(4, t, rng), Q.sample(4, rng)
    assert_allclose(bridge_denoiser(model, y)(x, t), bridge_denoiser(model)(x, t), rtol=0, atol=1e-12)
    end = np.array([[0.5, 1.5]])  # one end, which is no news
    model = InterpolantModel(independent(P, Empirical(end)), ReferenceBridges(process))
    found = bridge_denoiser(model, np.repeat(end, 4, axis=0))(x, t)
    assert_allclose(found, model.expected_first(x, t), rtol=0, atol=1e-12)


def test_the_noising_of_a_table_is_the_reference_seen_backwards():
    times = np.array([1.0, 0.7, 0.2])
    found = bridge_sampler(brownian(EPSILON), times).coefficients
    assert_allclose(found.sigma**2, EPSILON * times * (1 - times), rtol=0, atol=1e-15)
    assert_allclose(found.alpha, 1 - times, rtol=0, atol=1e-15)
    assert_allclose(found.f[1:], -1 / (1 - times[1:]), rtol=1e-14)
    assert_allclose(found.g2[1:], EPSILON, rtol=1e-14)


def test_points_are_returned_to_where_they_came_from_when_the_end_is_shown():
    x, y = [[0.0], [1.0], [5.0]], [[2.0], [3.0], [4.0]]
    model = InterpolantModel(point_pairs(x, y), brownian(EPSILON))
    found = run(bridge_sampler(brownian(EPSILON), cosines(4), 0.3), bridge_denoiser(model, y), y, 1)
    assert_allclose(found, x, rtol=1e-14)


def test_a_network_that_is_not_shown_the_end_starts_at_the_mean_of_the_points_that_led_there():
    x, y = [[0.0], [4.0], [1.0]], np.array([[2.0], [2.0], [3.0]])
    model = InterpolantModel(point_pairs(x, y, [0.1, 0.3, 0.6]), brownian(EPSILON))
    ask = bridge_denoiser(model)
    assert_allclose(ask(y, 1.0), [[3.0], [3.0], [1.0]], rtol=1e-15)
    # before T the other end's weight is exp(-1 / (2 eps (1 - t))), and x_0 of one end moves by about 1 - t
    assert_allclose(ask(y, 1.0), model.expected_first(y, 1 - 1e-6), rtol=0, atol=1e-4)
    assert_allclose(bridge_denoiser(model, y)(y, 1.0), ask(y, 1.0), rtol=1e-15)
    assert_allclose(run(bridge_sampler(brownian(EPSILON), [1.0, 0.0]), ask, y, 1), ask(y, 1.0), rtol=1e-15)


def test_what_does_not_fit_is_refused():
    model, table = InterpolantModel(independent(P, Q), brownian(1.0)), bridge_sampler(brownian(1.0), [1.0, 0.0])
    mixture = GaussianMixture.isotropic([[0.0, 0.0], [1.0, 0.0]], [1.0, 1.0])
    turning = ReferenceBridges(ornstein_uhlenbeck([[1.0, 0.5], [-0.5, 1.0]], noise=np.eye(2)))
    growing = ScalarInterpolant(lambda t: (1 - t, -1.0, 0.0), lambda t: (t, 1.0, 0.0), lambda t: (t**4, 4 * t**3, 0.0))
    atoms = InterpolantModel(independent(P, Empirical([[0.0, 0.0]])), brownian(1.0))
    late = ScalarInterpolant(lambda t: (1 - t, -1.0, 0.0), lambda t: (max(2 * t - 1, 0.0), 2.0, 0.0))
    of_noise = to_prediction(ddim(FlowMatching(), [0.9, 0.1]), "noise")
    refused = [
        (TypeError, "interpolant", lambda: bridge_sampler(P, [1.0, 0.0])),
        (ValueError, "numbers", lambda: bridge_sampler(turning, [1.0, 0.0])),
        (ValueError, "start at T", lambda: bridge_sampler(brownian(1.0), [0.9, 0.0])),
        (ValueError, "times", lambda: bridge_sampler(brownian(1.0), [1.0, 1.0])),
        (ValueError, "stochasticity", lambda: bridge_sampler(brownian(1.0), [1.0, 0.0], 1.5)),
        (ValueError, "forget x_T", lambda: bridge_sampler(growing, [1.0, 0.5, 0.0])),
        (TypeError, "InterpolantModel", lambda: bridge_denoiser(P)),
        (TypeError, "InterpolantModel", lambda: bridge_denoiser(P, [[0.0, 0.0]])),
        (ValueError, "2 points", lambda: bridge_denoiser(model, np.zeros((2, 2)))(np.zeros((3, 2)), 0.5)),
        (ValueError, "point of the second", lambda: bridge_denoiser(atoms, [[1.0, 0.0]])(np.zeros((1, 2)), 0.5)),
        (ValueError, "point of the second", lambda: bridge_denoiser(atoms)(np.ones((1, 2)), 1.0)),
        (TypeError, "tableau", lambda: bridge_channels(model, model)),
        (TypeError, "InterpolantModel", lambda: bridge_channels(table, P)),
        (ValueError, "Gaussian pairs", lambda: bridge_channels(table, InterpolantModel(independent(mixture, Q),
                                                                                      brownian(1.0)))),
        (ValueError, "b_t > 0", lambda: bridge_sampler(late, [1.0, 0.4, 0.0])),
        (ValueError, "density", lambda: propagate(table, P)),
        (ValueError, "denoiser", lambda: bridge_channels(of_noise, model)),
    ]  # fmt: skip
    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
