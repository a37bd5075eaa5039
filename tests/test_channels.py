"""Channels against the joint Gaussian, Bayes' rule on a grid, and each other."""

import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Channel, Empirical, Gaussian, GaussianMixture, operators, testing
from refdiff.distributions import random_mixture

DIM = 3
LAWS = testing.distributions(dim=DIM, spread=2.0)


@st.composite
def channels(draw, kinds=("scalar", "diagonal", "matrix")):
    """Channels on R^3 with noise of variance at least 0.1, in every storage."""
    kind, noise = draw(st.sampled_from(kinds)), draw(st.sampled_from(["scalar", "diagonal", "matrix"]))
    values = draw(testing.points(DIM, 3, 2.0))
    gain = {"scalar": values[0, 0], "diagonal": values[0], "matrix": values[:2]}[kind]
    rows = 2 if kind == "matrix" else DIM
    variance = draw(st.floats(0.1, 2.0))
    c = {
        "scalar": variance,
        "diagonal": variance * np.arange(1.0, rows + 1),
        "matrix": draw(testing.covariances(rows)) + variance * np.eye(rows),
    }[noise]
    return Channel(gain, values[1, :rows], c)


def matrices(channel):
    """A, b and C as arrays."""
    a = operators.dense(channel.gain, DIM)
    return a, np.broadcast_to(channel.offset, (len(a),)), operators.dense(channel.noise, len(a))


@given(LAWS, channels())
def test_push_moves_every_component_as_a_gaussian(law, channel):
    a, b, c = matrices(channel)
    w, m, s = plain.parts(law)
    pushed_w, pushed_m, pushed_s = plain.parts(channel.push(law))
    np.testing.assert_allclose(pushed_w, w, rtol=1e-14)
    np.testing.assert_allclose(pushed_m, m @ a.T + b, atol=1e-13)
    np.testing.assert_allclose(pushed_s, a @ s @ a.T + c, rtol=0, atol=1e-13 * (1 + np.abs(pushed_s).max()))


@given(LAWS, channels(("scalar", "diagonal")), channels())
def test_a_composed_channel_pushes_like_one_after_the_other(law, first, second):
    together, apart = second.compose(first).push(law), second.push(first.push(law))
    np.testing.assert_allclose(together.means, apart.means, atol=1e-12)
    s = plain.parts(apart)[2]
    np.testing.assert_allclose(plain.parts(together)[2], s, rtol=0, atol=1e-13 * (1 + np.abs(s).max()))


@given(channels(("scalar", "diagonal")), channels(("scalar", "diagonal")), channels())
def test_composition_is_associative(a, b, c):
    left, right = matrices(c.compose(b).compose(a)), matrices(c.compose(b.compose(a)))
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * (1 + np.abs(other).max()))


@given(LAWS, channels(), st.integers(0, 2**32))
def test_posterior_is_bayes_rule_pointwise(law, channel, seed):
    # p(x | y) p(y) = p(y | x) p(x) at x drawn from the prior, for laws with a density
    law = law.convolve(0.05)
    x = law.sample(3, seed)
    y = channel.push(law).sample(1, seed)[0]
    left = channel.posterior(law, y).logpdf(x) + channel.push(law).logpdf(y)
    right = np.array([channel.logpdf(y, row) for row in x]) + law.logpdf(x)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e4 * plain.rounding(law, x) * (1 + np.abs(right).max()))


@given(LAWS, channels(), st.integers(0, 2**32))
def test_posterior_moments_are_those_of_the_posterior_law(law, channel, seed):
    y = channel.push(law).sample(2, seed)
    mean, cov, spread = (getattr(channel, f"posterior_{name}")(law, y) for name in ("mean", "cov", "variance"))
    for i, row in enumerate(y):
        left = channel.posterior(law, row)
        np.testing.assert_allclose(mean[i], left.mean(), rtol=0, atol=1e-11 * (1 + np.abs(law.means).max()))
        np.testing.assert_allclose(cov[i], left.cov(), rtol=0, atol=1e-10 * (1 + np.abs(law.means).max() ** 2))
    np.testing.assert_allclose(spread, np.trace(cov, axis1=1, axis2=2), rtol=1e-9, atol=1e-11)


@given(LAWS, channels(), st.integers(0, 2**32))
def test_posterior_mean_of_a_component_solves_the_joint_gaussian(law, channel, seed):
    a, b, c = matrices(channel)
    _, m, s = plain.parts(law)
    y = channel.push(law).sample(2, seed)
    total = a @ s @ a.T + c
    logits = plain.logits(channel.push(law), y)
    r = np.exp(logits - logits.max(axis=1, keepdims=True))
    r /= r.sum(axis=1, keepdims=True)
    expected = np.zeros((2, DIM))
    for k in range(law.count):
        expected += r[:, [k]] * (m[k] + np.linalg.solve(total[k], (y - m[k] @ a.T - b).T).T @ a @ s[k])
    np.testing.assert_allclose(channel.posterior_mean(law, y), expected, rtol=0, atol=1e-9 * (1 + np.abs(m).max()))


@given(st.integers(0, 2**32), st.floats(0.05, 2.0))
def test_denoising_a_point_set_is_a_softmax_of_squared_distances(seed, noise):
    rng = np.random.default_rng(seed)
    x, weights, y = rng.standard_normal((7, 2)), rng.random(7) + 0.01, rng.standard_normal(2)
    logit = np.log(weights) - ((y - 0.6 * x) ** 2).sum(axis=1) / (2 * noise)
    r = np.exp(logit - logit.max())
    r /= r.sum()
    channel, law = Channel(0.6, 0.0, noise), Empirical(x, weights)
    np.testing.assert_allclose(channel.posterior_mean(law, y), r @ x, rtol=0, atol=1e-13)
    np.testing.assert_allclose(channel.posterior_cov(law, y), np.cov(x.T, aweights=r, ddof=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(channel.posterior(law, y).weights, r, rtol=0, atol=1e-13)


@given(testing.distributions(dim=DIM, kinds=["gaussian"]), channels(), st.integers(0, 2**32))
def test_the_reverse_channel_gives_back_the_prior_and_the_posterior(law, channel, seed):
    back = channel.reverse(law)
    y = channel.push(law).sample(1, seed)[0]
    posterior = channel.posterior(law, y)
    size = 1 + np.abs(law.means).max() ** 2
    np.testing.assert_allclose(back.at(y).mean(), posterior.mean(), rtol=0, atol=1e-11 * size)
    np.testing.assert_allclose(back.at(y).cov(), posterior.cov(), rtol=0, atol=1e-11 * size)
    again = back.push(channel.push(law))
    np.testing.assert_allclose(again.mean(), law.mean(), rtol=0, atol=1e-11 * size)
    np.testing.assert_allclose(again.cov(), law.cov(), rtol=0, atol=1e-11 * size)


@given(channels(), st.integers(0, 2**32))
def test_the_density_of_a_channel_is_the_normal_around_its_mean(channel, seed):
    a, b, c = matrices(channel)
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((5, DIM)), rng.standard_normal((5, len(a)))
    residual = y - x @ a.T - b
    square = (residual * np.linalg.solve(c, residual.T).T).sum(axis=1)
    expected = -0.5 * (square + np.linalg.slogdet(2 * np.pi * c)[1])
    rtol = 96 * plain.EPS * np.linalg.cond(c)
    np.testing.assert_allclose(channel.logpdf(y, x), expected, rtol=rtol, atol=rtol * square.max())
    np.testing.assert_allclose(channel.at(x[1]).logpdf(y[1]), channel.logpdf(y, x)[1], rtol=1e-13)
    # every y against every x
    table = channel.logpdf(y[:, None].repeat(5, axis=1), x)
    assert table.shape == (5, 5)
    np.testing.assert_array_equal(np.diagonal(table), channel.logpdf(y, x))


@pytest.mark.statistical
def test_samples_of_a_channel_have_its_mean_and_covariance():
    channel, n = (
        Channel([[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]], [1.0, 0.0, -1.0], np.diag([0.5, 1.0, 0.1]) + 0.05),
        40_000,
    )
    y = channel.sample(np.tile([0.3, -0.7], (n, 1)), 0)
    law = channel.at([0.3, -0.7])
    products = (y - law.mean())[:, :, None] * (y - law.mean())[:, None, :]
    # 6 standard errors: a false alarm in 1e-8 of the seeds; the seed is fixed
    assert (np.abs(y.mean(axis=0) - law.mean()) <= 6 * y.std(axis=0) / np.sqrt(n)).all()
    assert (np.abs(products.mean(axis=0) - law.cov()) <= 6 * products.std(axis=0) / np.sqrt(n)).all()


def test_the_default_channel_is_the_identity():
    law = random_mixture(2, 3, 0)
    np.testing.assert_array_equal(Channel().push(law).means, law.means)
    np.testing.assert_array_equal(Channel().compose(Channel(2.0, 1.0, 0.5)).noise, 0.5)


def test_one_component_posterior_of_a_mixture_that_was_seen_is_certain():
    law = GaussianMixture.isotropic([[0.0], [1e8]], 1.0, [1.0, 1e-300])
    left = Channel(1.0, 0.0, 1.0).posterior(law, [1e8 + 2])
    np.testing.assert_allclose(left.weights, [0, 1])
    np.testing.assert_allclose(left.mean(), [1e8 + 1], rtol=1e-15)


def test_an_observation_without_noise_of_a_point_set_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="push it through a noisy channel first"):
        Channel().posterior(Empirical([[0.0], [1.0]]), [0.0])


def test_an_observation_without_noise_of_a_regular_law_is_a_point():
    left = Channel(2.0).posterior(Gaussian([0.0, 0.0], [1.0, 3.0]), [1.0, 4.0])
    np.testing.assert_allclose(left.mean(), [0.5, 2.0], rtol=1e-15)
    assert left.covariances.singular


@pytest.mark.parametrize("lead", [(), (0,), (4,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("storage", ["isotropic", "full"])
def test_posterior_moments_follow_the_shape_and_precision_of_the_observations(lead, dtype, storage):
    law, channel = random_mixture(3, 4, 0, storage), Channel([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], 0.5, 0.3)
    y = np.random.default_rng(0).standard_normal((*lead, 2)).astype(dtype)
    for question, tail in (("posterior_mean", (3,)), ("posterior_cov", (3, 3)), ("posterior_variance", ())):
        result = np.asarray(getattr(channel, question)(law, y))
        assert result.shape == lead + tail
        assert result.dtype == dtype


def test_a_number_as_offset_stands_for_all_coordinates_when_channels_are_composed():
    gain = np.array([[1.0, 2.0, 4.0], [0.5, 0.0, -1.0]])
    whole = Channel(gain, 1.0).compose(Channel(2.0, 0.5, 0.25))
    np.testing.assert_array_equal(whole.offset, gain.sum(axis=1) * 0.5 + 1.0)
    np.testing.assert_array_equal(whole.gain, 2.0 * gain)
    np.testing.assert_array_equal(whole.noise, 0.25 * gain @ gain.T)


def test_channels_whose_dimensions_do_not_meet_are_refused():
    with pytest.raises(ValueError, match="earlier must have 3 outputs, got 2"):
        Channel(np.ones((2, 3))).compose(Channel(np.ones((2, 3))))
    with pytest.raises(ValueError, match="earlier must have 2 outputs, got 3"):
        Channel(1.0, np.zeros(2)).compose(Channel(np.ones(3)))
    with pytest.raises(ValueError, match="same output dimension"):
        Channel(np.ones((2, 3)), np.zeros(3))
