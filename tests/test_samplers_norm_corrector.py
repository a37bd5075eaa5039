"""The corrector with measured norms against score-SDE's algorithm, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from refdiff import ExactModel, random
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.processes import AffineProcess
from refdiff.samplers.langevin import predictor_corrector
from refdiff.samplers.norm_corrector import norm_corrector, norm_predictor_corrector, norm_step_size
from refdiff.samplers.reverse_sde import reverse_diffusion
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, VEPower, VPLinear

MIXTURE = GaussianMixture.isotropic([[-1.5, 0.0, 0.2], [1.0, 0.5, 0.0]], [0.04, 0.2], [0.4, 0.6])
VP = VPLinear()


def plain(model, schedule, times, x, rng, snr, norm, first, count=1):
    """Algorithms 4 and 5 around the reverse-diffusion predictor, with alpha_i of the corrected level i.

    A prediction is a run of its own, whose normals are counted out under the generator's next key.
    """

    def correct(x, t, scale):
        for _ in range(count):
            grad, z = model.score(x, t), rng.standard_normal(x.shape)
            grad_norm, z_norm = np.sqrt((grad**2).sum(1)), np.sqrt((z**2).sum(1))
            if norm == "batch":
                grad_norm, z_norm = grad_norm.mean() + 0 * grad_norm, z_norm.mean() + 0 * z_norm
            step = (snr * z_norm / grad_norm) ** 2 * 2 * scale
            x = x + step[:, None] * grad + np.sqrt(step * 2)[:, None] * z
        return x

    for s, t, after in zip(times[:-1], times[1:], [*times[2:], 0.0], strict=True):
        a = schedule.alpha(s) / schedule.alpha(t)
        if first == "corrector":
            x = correct(x, s, a**2)
        variance = schedule.sigma(s) ** 2 - a**2 * schedule.sigma(t) ** 2
        z = random.normals(rng, len(x), 0, x.shape[1])
        x = (2 - a) * x + variance * model.score(x, s) + np.sqrt(variance) * z
        if first == "predictor":
            x = correct(x, t, (schedule.alpha(t) / schedule.alpha(after)) ** 2)
    return x


@pytest.mark.parametrize("norm", ["batch", "sample"])
@pytest.mark.parametrize("first", ["predictor", "corrector"])
def test_the_sampler_runs_like_score_sdes_algorithm(norm, first):
    model, times = ExactModel(MIXTURE, VP), np.linspace(0.9, 0.1, 8)
    x = model.sample(30, 0.9, 4)
    found = norm_predictor_corrector(
        VP, times, model, x, snr=0.2, corrector_steps=2, norm=norm, first=first, seed=np.random.default_rng(5)
    )
    expected = plain(model, VP, times, x, np.random.default_rng(5), 0.2, norm, first, 2)
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


def test_the_step_has_the_asked_ratio_of_signal_to_noise():
    rng = np.random.default_rng(0)
    score, z = rng.standard_normal((2, 50, 4))
    eps = norm_step_size(score, z, snr=0.3, norm="sample")
    signal, noise = eps * score, np.sqrt(2 * eps) * z
    ratio = np.linalg.norm(signal, axis=1) / np.linalg.norm(noise, axis=1)
    # |eps S| / |sqrt(2 eps) z| = sqrt(eps / 2) |S| / |z| = r
    assert np.allclose(ratio, 0.3, rtol=1e-13)
    assert norm_step_size(score, z, snr=0.3).ndim == 0


def test_in_many_dimensions_measured_norms_are_sigma():
    """Far from the data p_t is N(0, sigma^2), |S| = |z| / sigma, and the step that of the given sizes."""
    process, law = VEPower(T=50.0), Gaussian(np.zeros(2000), 1e-6)
    model = ExactModel(law, process)
    x = model.sample(20, 50.0, 1)
    rng = np.random.default_rng(2)
    eps = norm_step_size(model.score(x, 50.0), rng.standard_normal(x.shape), snr=0.16)
    # |z| = sqrt(d) up to 1 / sqrt(2 d) for each of 20 points
    assert eps == pytest.approx(2 * (0.16 * 50.0) ** 2, rel=4 * 5 / np.sqrt(2 * 2000 * 20))


def test_without_corrections_it_is_the_predictor():
    model, times = ExactModel(MIXTURE, VP), np.linspace(0.9, 0.0, 5)
    x = model.sample(10, 0.9, 0)
    found = norm_predictor_corrector(VP, times, model, x, corrector_steps=0, final="mean", seed=3)
    table, rng = reverse_diffusion(VP, times, final="mean"), np.random.default_rng(3)
    # one run for every interval; the last draws nothing
    z = [random.normals(rng, 10, 0, x.shape[1]) for _ in range(table.draws)]
    expected = run(table, model, x, normals=z)
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(norm_corrector(model, x, 0.9, steps=0, seed=0), x)


def test_nothing_is_corrected_where_sigma_is_zero():
    model, x = ExactModel(Gaussian([0.7], 0.0), VP), np.array([[0.3], [0.1]])
    found = norm_predictor_corrector(VP, [0.5, 0.0], model, x, final="mean", predictor="ancestral", seed=0)
    assert np.allclose(found, 0.7)
    assert predictor_corrector(VP, [0.5, 0.0]).nfe == 1


def test_points_keep_their_shape_and_precision_and_seeds_repeat():
    model = ExactModel(MIXTURE, VP)
    x = model.sample(6, 0.5, 0).reshape(2, 3, 3)
    one, two = (norm_corrector(model, x.astype(np.float32), 0.5, steps=3, seed=7) for _ in range(2))
    assert one.shape == x.shape
    assert one.dtype == np.float32
    assert np.array_equal(one, two)
    called = norm_corrector(lambda y, t: model.score(y, t), x, 0.5, steps=3, seed=7)
    assert np.allclose(called, one, atol=1e-5)


MODEL, X = ExactModel(MIXTURE, VP), np.zeros((2, 3)) + 0.1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: norm_step_size(X, X[:1], snr=0.1), ValueError, "normals must have the shape of score"),
        (lambda: norm_step_size(0 * X, X, snr=0.1), ValueError, "score must not vanish"),
        (lambda: norm_step_size(X, X, snr=-0.1), ValueError, "snr must lie in"),
        (lambda: norm_step_size(X, X, snr=0.1, norm="all"), ValueError, "norm must be one of batch, sample"),
        (lambda: norm_corrector(MODEL, 0.1, 0.5, seed=0), ValueError, "x must have shape"),
        (lambda: norm_corrector(MODEL, X, 0.5, seed=None), TypeError, "seed must be a whole number"),
        (lambda: norm_corrector(3, X, 0.5, seed=0), TypeError, "model must be an ExactModel or a function"),
        (
            lambda: norm_predictor_corrector(VP, [0.5, 0.1], MODEL, X, predictor="heun", seed=0),
            ValueError,
            "predictor must be one of",
        ),
        (
            lambda: norm_predictor_corrector(VP, [0.5, 0.1], MODEL, X, final="mean", seed=0),
            ValueError,
            "final must be noisy where a corrector",
        ),
        (
            lambda: norm_predictor_corrector(AffineProcess([VP, VP, VP]), [0.5, 0.1], MODEL, X, seed=0),
            ValueError,
            "process must be the same on all axes",
        ),
        (
            lambda: norm_predictor_corrector(FlowMatching(), [1.0, 0.1], MODEL, X, predictor="ancestral", seed=0),
            ValueError,
            "times must start where alpha > 0",
        ),
        (lambda: norm_corrector(lambda x, _: x, X, np.nan, seed=0), ValueError, "t must be finite"),
        (lambda: norm_predictor_corrector(3, [0.5, 0.1], MODEL, X, seed=0), TypeError, "process must be"),
        (
            lambda: norm_predictor_corrector(VP, [0.5, 0.0], MODEL, X, norm="all", seed=0),
            ValueError,
            "norm must be one of",
        ),
        (
            lambda: norm_predictor_corrector(VP, [0.5, 0.1], MODEL, X, corrector_steps=-1, seed=0),
            ValueError,
            "corrector_steps must be at least 0",
        ),
        (
            lambda: norm_predictor_corrector(VP, [0.1, 0.5], MODEL, X, seed=0),
            ValueError,
            "times must decrease",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
