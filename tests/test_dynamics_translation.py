"""Translation by dual encoders against closed maps, monotone maps, optimal maps and its own way back."""

import numpy as np
import pytest
from numba import config
from scipy.linalg import sqrtm

from refdiff import (
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPCosine,
    VPLinear,
    backends,
)
from refdiff.distributions import cdf, monotone_map, random_mixture
from refdiff.dynamics import quantile_flow
from refdiff.dynamics.translation import gaussian_translation, translate

if config.DISABLE_JIT:
    pytest.skip("hours without compilation", allow_module_level=True)

S, T = np.array([[1.0, 0.6], [0.6, 0.5]]), np.array([[0.3, -0.2], [-0.2, 0.9]])
SOURCE, TARGET = Gaussian([1.0, 0.0], S), Gaussian([-1.0, 2.0], T)


def root(matrix):
    return np.real(sqrtm(matrix))


def test_gaussians_are_translated_by_a_product_of_roots_which_is_optimal_where_they_commute():
    source, target = ExactModel(SOURCE, FlowMatching()), ExactModel(TARGET, FlowMatching())
    channel = gaussian_translation(source, target)
    product = root(T) @ np.linalg.inv(root(S))
    np.testing.assert_allclose(channel.gain, product, rtol=0, atol=1e-13)
    pushed = channel.push(SOURCE)
    np.testing.assert_allclose(pushed.cov(), T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(pushed.mean(), TARGET.mean(), rtol=0, atol=1e-13)
    optimal = np.linalg.inv(root(S)) @ root(root(S) @ T @ root(S)) @ np.linalg.inv(root(S))
    assert np.abs(product - optimal).max() > 0.05
    commuting = 2 * S @ S + 0.1 * S
    same = gaussian_translation(source, ExactModel(Gaussian([0.0, 0.0], commuting), FlowMatching())).gain
    best = np.linalg.inv(root(S)) @ root(root(S) @ commuting @ root(S)) @ np.linalg.inv(root(S))
    np.testing.assert_allclose(same, best, rtol=0, atol=1e-12)
    np.testing.assert_allclose(same, same.T, rtol=0, atol=1e-13)


def test_the_two_flows_are_the_closed_channel():
    source, target = ExactModel(SOURCE, VPLinear()), ExactModel(TARGET, VPCosine())
    x = source.sample(2, 0.0, 1)
    found = translate(source, target, x, 0.9, rtol=1e-8, log_density=True)
    channel = gaussian_translation(source, target, 0.9)
    np.testing.assert_allclose(found.x, x @ channel.gain.T + channel.offset, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.log_density_change, -np.linalg.slogdet(channel.gain)[1], rtol=0, atol=1e-6)


def test_cycles_close_and_densities_follow():
    with backends.use("numba"):
        source = ExactModel(random_mixture(3, 4, 1, "full"), FlowMatching())
        target = ExactModel(random_mixture(3, 5, 2, "diagonal"), FlowMatching())
        x = source.sample(20, 0.0, 3)
        there = translate(source, target, x, log_density=True)
        back = translate(target, source, there.x, log_density=True)
    np.testing.assert_allclose(back.x, x, rtol=0, atol=1e-7)
    np.testing.assert_allclose(back.latent, there.latent, rtol=0, atol=1e-7)
    # at alpha = 0 both latents are standard normal: the densities differ by the volumes alone
    change = target.log_density(there.x, 0.0) - source.log_density(x, 0.0)
    np.testing.assert_allclose(there.log_density_change, change, rtol=0, atol=1e-6)
    np.testing.assert_allclose(back.log_density_change, -change, rtol=0, atol=1e-6)


def test_on_the_line_translation_is_the_monotone_map():
    laws = (
        GaussianMixture.isotropic([[-2.0], [1.0]], [0.1, 0.5], [0.6, 0.4]),
        GaussianMixture.isotropic([[-1.0], [0.0], [4.0]], [0.3, 0.05, 0.4], [0.3, 0.3, 0.4]),
    )
    source, target = (ExactModel(law, FlowMatching()) for law in laws)
    x = source.sample(50, 0.0, 4)
    with backends.use("numba"):
        found = translate(source, target, x, rtol=1e-13, atol=1e-15)
    exact = quantile_flow(target, quantile_flow(source, x, 0.0, 1.0), 1.0, 0.0)
    np.testing.assert_allclose(found.x, exact, rtol=0, atol=1e-12)
    monotone = monotone_map(*laws, x)
    # F between the modes of the source is known to 1e-16, and the map there is steep
    slope = np.exp(laws[0].logpdf(x) - laws[1].logpdf(monotone))
    assert (np.abs(found.x - monotone)[:, 0] < 1e-12 * (1 + slope)).all()
    np.testing.assert_allclose(cdf(laws[1], found.x), cdf(laws[0], x), rtol=0, atol=1e-12)
    # the control: latents of different laws, at a time when data are still in them
    with backends.use("numba"):
        early = translate(source, target, x, 0.8)
    assert np.abs(early.x - monotone).max() > 1e-2


def test_point_sets_are_translated_from_and_to_small_noise():
    source = ExactModel(Empirical([[-1.0, 0.0], [1.0, 0.0]]), VEPower(T=80.0))
    target = ExactModel(Empirical([[0.0, 5.0], [0.0, 7.0]]), VEPower(T=80.0))
    x = source.sample(10, 0.01, 5)
    with backends.use("numba"):
        found = translate(source, target, x, clean=0.01)
    nearest = np.linalg.norm(found.x[:, None] - target.distribution.means, axis=2).min(axis=1)
    assert nearest.max() < 0.06
    with pytest.raises(ValueError, match="clean must be a time at which the data have a density, got 0"):
        translate(source, target, x)


@pytest.mark.parametrize("call", [translate, gaussian_translation])
def test_what_cannot_be_done_is_refused(call):
    good, x = ExactModel(SOURCE, VPLinear()), [np.zeros((1, 2))] if call is translate else []
    with pytest.raises(TypeError, match="target must be an ExactModel"):
        call(good, SOURCE, *x)
    with pytest.raises(ValueError, match="target must have 2 dimensions like the source, got 1"):
        call(good, ExactModel(Gaussian([0.0], 1.0), VPLinear()), *x)
    if call is gaussian_translation:
        with pytest.raises(TypeError, match="source must be a model of Gaussian data"):
            call(ExactModel(random_mixture(2, 2, 0, "full"), VPLinear()), good)
