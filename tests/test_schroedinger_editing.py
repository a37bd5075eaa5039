"""Edits by noise: channels for Gaussian targets, curves of faithfulness and realism, samplers for mixtures."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence, random_mixture, wasserstein
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, ornstein_uhlenbeck
from refdiff.samplers import run
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.ddim import ddim
from refdiff.schedules import FlowMatching, VPLinear
from refdiff.schroedinger import edit, edit_channel, edit_curve
from refdiff.transport import image_pairs

SOURCE = Gaussian([1.0, -0.5], [[0.5, 0.2], [0.2, 0.3]])
TARGET = Gaussian([-0.3, 0.4], [[0.3, -0.1], [-0.1, 0.8]])


@pytest.mark.parametrize("k", [0.0, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("t", [0.2, 0.9])
def test_the_channel_is_the_closed_form_along_the_axes_of_the_target(k, t):
    model = ExactModel(TARGET, VPLinear())
    c = AffineProcess(VPLinear()).coefficients(t)
    values, axes = np.linalg.eigh(TARGET.cov())
    noised = c.alpha**2 * values + c.sigma**2
    g = c.alpha ** (k * k) * (values / noised) ** ((1 + k * k) / 2)
    found = edit_channel(model, t, k)
    assert_allclose(found.gain, (axes * g * c.alpha) @ axes.T, rtol=0, atol=1e-11)
    noise = g**2 * c.sigma**2 + values - g**2 * noised
    assert_allclose(found.noise, (axes * noise) @ axes.T, rtol=0, atol=1e-11)
    assert_allclose(found.push(TARGET).cov(), TARGET.cov(), rtol=0, atol=1e-11)  # the target's own points stay in it
    assert_allclose(found.push(TARGET).mean(), TARGET.mean(), rtol=0, atol=1e-11)


def test_curves_trade_faithfulness_for_realism():
    model, times = ExactModel(TARGET, VPLinear()), np.linspace(0, 1, 9)
    for k in (0.0, 1.0):
        curve = edit_curve(SOURCE, model, times, k)
        assert curve.faithfulness[0] == 0
        assert (np.diff(curve.faithfulness) > 0).all()
        assert (np.diff(curve.kl) < 0).all()
        assert_allclose(curve.kl[0], kl_divergence(SOURCE, TARGET), rtol=1e-14)
        assert_allclose(curve.wasserstein[0], wasserstein(SOURCE, TARGET), rtol=1e-14)
        assert curve.kl[-1] < 1e-4
        # an edit moves points at least as far as the two laws are apart
        least = [wasserstein(SOURCE, edit_channel(model, t, k).push(SOURCE)) ** 2 for t in times]
        assert (curve.faithfulness >= np.array(least) - 1e-12).all()


@pytest.mark.parametrize("process", [AffineProcess(FlowMatching()), ornstein_uhlenbeck([[1.0, 0.6], [-0.6, 0.5]],
                                                                                       noise=np.eye(2))],
                         ids=["one schedule", "turning"])  # fmt: skip
def test_a_flow_keeps_the_divergence_of_the_noised_laws_and_noise_loses_of_it(process):
    model = ExactModel(TARGET, process)
    times = np.array([0.2, 0.5, 0.8])
    noised = [kl_divergence(process.kernel(t).push(SOURCE), process.kernel(t).push(TARGET)) for t in times.tolist()]
    assert_allclose(edit_curve(SOURCE, model, times).kl, noised, rtol=1e-10)
    assert (edit_curve(SOURCE, model, times, 1.0).kl < 0.9 * np.array(noised)).all()


def test_large_noise_on_the_way_leaves_nothing_of_the_point():
    found = edit_channel(ExactModel(TARGET, VPLinear()), 0.9, 3.0)
    assert np.abs(found.gain).max() < 1e-8
    assert_allclose(found.push(SOURCE).cov(), TARGET.cov(), rtol=0, atol=1e-8)


def test_sources_without_a_density_are_edited_too_and_at_time_0_any_target_leaves_them():
    curve = edit_curve(Gaussian([1.0, 0.0], 0.0), ExactModel(TARGET, VPLinear()), [0.0, 0.5], 0.0)
    assert curve.kl[0] == np.inf
    assert np.isfinite(curve.kl[1])
    assert edit_curve(SOURCE, ExactModel(TARGET, VPLinear()), []).kl.shape == (0,)
    nothing = edit_channel(ExactModel(Gaussian([1.0, 0.0], 0.0), VPLinear()), 0.0, 0.6)
    assert (nothing.gain, nothing.offset, nothing.noise) == (1.0, 0.0, 0.0)


def test_samplers_edit_like_the_channel_and_mixtures_too():
    model, t = ExactModel(TARGET, VPLinear()), 0.5
    x, n = SOURCE.sample(4000, 1), 4000
    for table, k in ((ddim(VPLinear(), np.linspace(t, 0, 61)), 0.0), (ddpm(VPLinear(), np.linspace(t, 0, 61)), 1.0)):
        made, law = edit(table, model, x, 2), edit_channel(model, t, k).push(SOURCE)
        # 4.5 standard errors of the means, and 1/60 of a step's size
        errors = np.abs(made.mean(axis=0) - law.mean()) / np.sqrt(np.diag(law.cov()))
        assert (errors < 4.5 / np.sqrt(n) + 0.02).all()
        assert_allclose(np.cov(made.T), law.cov(), rtol=0, atol=0.06)
        moved = ((made - x) ** 2).sum(axis=1).mean()
        assert_allclose(moved, image_pairs(SOURCE, edit_channel(model, t, k)).cost(), rtol=0.06)
    mixture = ExactModel(random_mixture(2, 3, 5, "full"), VPLinear())
    made = edit(ddim(VPLinear(), np.linspace(1.0, 0, 31)), mixture, x.astype(np.float32), 3)
    assert made.dtype == np.float32
    assert_allclose(made.mean(axis=0), mixture.distribution.mean(), atol=0.1)


def test_curves_are_the_moments_of_the_channel():
    model, t, k = ExactModel(TARGET, VPLinear()), 0.4, 0.7
    channel, curve = edit_channel(model, t, k), edit_curve(SOURCE, model, [t], k)
    moved = channel.gain - np.eye(2)
    gap = moved @ SOURCE.mean() + channel.offset
    faithful = gap @ gap + np.trace(moved @ SOURCE.cov() @ moved.T + channel.noise)
    made = Gaussian(channel.gain @ SOURCE.mean() + channel.offset,
                    channel.gain @ SOURCE.cov() @ channel.gain.T + channel.noise)  # fmt: skip
    expected = faithful, wasserstein(made, TARGET), kl_divergence(made, TARGET)
    assert_allclose([curve.faithfulness[0], curve.wasserstein[0], curve.kl[0]], expected, rtol=1e-12)


def test_an_edit_is_noise_and_a_run_of_the_table():
    model, table, x = ExactModel(TARGET, VPLinear()), ddim(VPLinear(), [0.5, 0.2, 0.0]), SOURCE.sample(3, 1)
    noisy = model.process.kernel(0.5).sample(x, np.random.default_rng(2))
    assert_allclose(edit(table, model, x, np.random.default_rng(2)), run(table, model, noisy), rtol=1e-14)


def test_a_network_edits_in_the_place_of_the_exact_model():
    model, table, x = ExactModel(TARGET, VPLinear()), ddim(VPLinear(), [0.5, 0.2, 0.0]), SOURCE.sample(3, 1)
    found = edit(table, lambda y, t: model.predict(y, t, table.prediction), x, 2, process=VPLinear())
    assert_allclose(found, edit(table, model, x, 2), rtol=0, atol=1e-13)


def test_what_does_not_fit_is_refused():
    model = ExactModel(TARGET, VPLinear())
    mixture = ExactModel(GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.0]), VPLinear())
    table = ddim(VPLinear(), [0.5, 0.0])
    refused = [
        (TypeError, "target must be Gaussian", lambda: edit_channel(mixture, 0.5)),
        (TypeError, "target must be Gaussian", lambda: edit_channel(VPLinear(), 0.5)),
        (ValueError, "t must", lambda: edit_channel(model, 1.5)),
        (ValueError, "stochasticity", lambda: edit_channel(model, 0.5, -1.0)),
        (TypeError, "source must be Gaussian", lambda: edit_curve(mixture.distribution, model, [0.5])),
        (ValueError, "dimension", lambda: edit_curve(Gaussian([0.0], 1.0), model, [0.5])),
        (TypeError, "tableau", lambda: edit(model, model, [[0.0, 0.0]], 1)),
        (TypeError, "ExactModel", lambda: edit(table, table, [[0.0, 0.0]], 1)),
        (TypeError, "process", lambda: edit(table, model.denoiser, [[0.0, 0.0]], 1)),
    ]
    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
