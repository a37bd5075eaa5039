"""Reverse kernels: coefficients that do not cancel, any linear process, exact kernels of mixtures."""

import numpy as np
import pytest
from mpmath import mp, mpf

from refdiff import (
    AffineProcess,
    BetaTable,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VPCosine,
    VPLinear,
)
from refdiff.channels import Channel
from refdiff.objectives import posterior_logpdf, posterior_step
from refdiff.objectives.reverse import grid_of_times, reverse_steps, whole
from refdiff.processes import LinearProcess
from refdiff.validation.identities.forward_kernels import path
from refdiff.validation.laws import log_normal

TABLE = BetaTable(np.linspace(0.01, 0.3, 30))
MATRIX = LinearProcess(
    lambda t: np.array([[0.1, 1.0 + t], [-1.0, -0.5]]), lambda t: [[0.6, 0.1], [0.0, 0.5 + t]], force=[1.0, -1.0]
)
PROCESSES = {
    "schedule": AffineProcess(VPLinear(), lambda t: (3 * t, 3.0, 0.0)),
    "axes": AffineProcess([VPLinear(), FlowMatching()], lambda t: ([t, -t], [1.0, -1.0], [0.0, 0.0])),
    "matrix": MATRIX,
}


def test_steps_of_a_table_are_its_posteriors():
    known = TABLE.posterior()
    for i in range(2, 31):
        step = posterior_step(TABLE, i - 1, i, 1)
        np.testing.assert_allclose(step.of_x0, known.of_x0[i - 1], rtol=1e-12)
        np.testing.assert_allclose(step.of_xt, known.of_xt[i - 1], rtol=1e-12)
        np.testing.assert_allclose(step.posterior, known.variance[i - 1], rtol=1e-12)


@pytest.mark.parametrize("t", [0.7, 0.31])  # far, and so close that I - B F is taken from the noise between
@pytest.mark.parametrize("name", PROCESSES)
def test_steps_are_the_conditional_law_of_the_dense_joint(name, t):
    process, rng = PROCESSES[name], np.random.default_rng(1)
    s = 0.3
    x0, xt = rng.normal(size=(2, 2))
    step = posterior_step(process, s, t, 2)
    given = path(process.kernel(s).at(x0), [process.channel(s, t)]).conditional([2, 3], xt)
    np.testing.assert_allclose(step.mean(x0, xt), given.mean(), rtol=1e-11)
    noise = step.posterior if step.posterior.ndim == 2 else np.diag(np.broadcast_to(step.posterior, 2))
    np.testing.assert_allclose(noise, given.cov(), rtol=1e-11, atol=1e-14)
    points = rng.normal(size=(4, 3, 2))
    assert step.mean(points, points).shape == (4, 3, 2)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_close_times_do_not_cancel(gap):
    # for constant F = -a, D = 1 in two equal axes, as a matrix process and in 50 digits
    a, s = 0.7, 0.5
    process = LinearProcess(-a * np.eye(2), np.eye(2))
    t = s + gap
    mp.dps = 50
    drop = mp.exp(-mpf(a) * (mpf(t) - mpf(s)))
    noise, before = (1 - drop**2) / (2 * mpf(a)), (1 - mp.exp(-2 * mpf(a) * mpf(s))) / (2 * mpf(a))
    exact = mp.exp(-mpf(a) * mpf(s)) * noise / (drop**2 * before + noise)
    found = posterior_step(process, s, t, 2).of_x0
    # the process gives its noise over so short a step to this; I - B F alone would be off by 1e-16 / gap
    assert abs(found[0, 0] / float(exact) - 1) < 1e-11
    assert abs(found[0, 1]) < 1e-11 * float(exact)


def test_from_pure_noise_nothing_is_learnt_and_to_the_data_all_is_the_denoiser():
    step = posterior_step(VPCosine(), 0.4, 1.0, 1)
    assert step.of_xt == 0
    np.testing.assert_allclose(step.posterior, VPCosine().sigma(0.4) ** 2, rtol=1e-14)
    np.testing.assert_allclose(step.of_x0, VPCosine().alpha(0.4), rtol=1e-14)
    home = posterior_step(VPLinear(), 0.0, 0.5, 1)
    assert (home.of_x0, home.of_xt, home.posterior) == (1, 0, 0)


def test_variances_by_name_are_those_of_the_texts():
    data = Gaussian([0.3], 0.6)
    model, times = ExactModel(data, TABLE), np.arange(1.0, 31.0)
    steps = {name: reverse_steps(model, times, name, "matched", None) for name in ("small", "large", "matched")}
    small, large = ([float(step.noise) for step in steps[name][1:]] for name in ("small", "large"))
    np.testing.assert_allclose(small, TABLE.posterior().variance[1:], rtol=1e-12)
    np.testing.assert_allclose(large, TABLE.betas[1:], rtol=1e-12)
    for i, step in enumerate(steps["matched"][1:], 1):
        exact = model.process.channel(times[i - 1], times[i]).reverse(Gaussian(*moments(model, times[i - 1])))
        np.testing.assert_allclose(step.noise, exact.noise, rtol=1e-12)
    decoder = steps["small"][0]
    np.testing.assert_allclose(decoder.noise, model.process.kernel(1.0).reverse(data).noise, rtol=1e-13)
    # large is exact for N(0, I), small for one point
    unit = ExactModel(Gaussian([0.0], 1.0), TABLE)
    matched = reverse_steps(unit, times, "matched", 1.0, None)
    np.testing.assert_allclose([float(step.noise) for step in matched[1:]], TABLE.betas[1:], rtol=1e-12)
    point = ExactModel(Empirical([[2.0]]), TABLE)
    matched = reverse_steps(point, times, "matched", 1.0, None)
    np.testing.assert_allclose([float(step.noise) for step in matched[1:]], small, rtol=1e-12)


def moments(model, t):
    law = model.marginal(t)
    return law.mean(), law.cov()


@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "shared", "full"])
@pytest.mark.parametrize(
    "channel", [Channel(0.7, 0.2, 0.4), Channel([0.5, 1.2], 0.0, [0.3, 0.1]), MATRIX.channel(0.2, 0.8)]
)
def test_exact_kernels_are_the_posteriors_of_single_points(storage, channel):
    rng = np.random.default_rng(2)
    means, spread = rng.normal(size=(3, 2)), rng.uniform(0.2, 1, 3)
    law = {
        "isotropic": lambda: GaussianMixture.isotropic(means, spread, [1, 2, 3]),
        "diagonal": lambda: GaussianMixture.diagonal(means, rng.uniform(0.2, 1, (3, 2))),
        "shared": lambda: GaussianMixture.shared(means, [[0.5, 0.2], [0.2, 0.3]]),
        "full": lambda: GaussianMixture.full(means, [[[0.5, 0.2], [0.2, 0.3]], np.eye(2), 0.1 * np.eye(2)]),
    }[storage]()
    x, y = rng.normal(size=(2, 6, 2))
    found = posterior_logpdf(channel, law, x, y)
    np.testing.assert_allclose(
        found, [channel.posterior(law, b).logpdf(a) for a, b in zip(x, y, strict=True)], rtol=1e-11
    )
    quotient = channel.logpdf(y, x) + law.logpdf(x) - channel.push(law).logpdf(y)
    np.testing.assert_allclose(found, quotient, rtol=1e-10, atol=1e-12)


def test_exact_kernels_keep_far_components_and_gaussians():
    law = GaussianMixture.isotropic([[-40.0], [40.0]], 0.5)
    channel = Channel(1.0, 0.0, 0.5)
    # x_0 at the component that y says is not there: N(40; -20, 1/4) beside e^-3200 for the other
    found = posterior_logpdf(channel, law, np.array([[40.0]]), np.array([[-40.0]]))
    assert np.isfinite(found).all()
    single = Gaussian([0.3, 0.1], [[0.5, 0.2], [0.2, 0.3]])
    x, y = np.random.default_rng(3).normal(size=(2, 4, 2))
    back = MATRIX.kernel(0.5).reverse(single)
    exact = [log_normal(a, back.gain @ b + back.offset, back.noise) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(posterior_logpdf(MATRIX.kernel(0.5), single, x, y), exact, rtol=1e-12)


def test_exact_kernels_of_many_rows_are_those_of_each(monkeypatch):
    # mixtures take as many rows at a time as fit a tile: with a small tile, four parts of 3, 3, 3 and 1 rows
    law = GaussianMixture.isotropic([[-1.0], [0.5], [2.0]], [0.3, 0.2, 0.1])
    channel, (x, y) = Channel(0.8, 0.1, 0.3), np.random.default_rng(4).normal(size=(2, 10, 1))
    alone = [posterior_logpdf(channel, law, a[None], b[None])[0] for a, b in zip(x, y, strict=True)]
    monkeypatch.setattr(GaussianMixture, "parts", lambda self, rows: [rows[i : i + 3] for i in range(0, len(rows), 3)])
    np.testing.assert_allclose(posterior_logpdf(channel, law, x, y), alone, rtol=1e-13)


def test_bad_input_is_refused_by_name():
    with pytest.raises(TypeError, match="process must be a Process or a Schedule, got 1"):
        whole(1)
    with pytest.raises(ValueError, match="times must increase within"):
        posterior_step(TABLE, 3, 2, 1)
    with pytest.raises(ValueError, match="times must be at least 3, got 2"):
        grid_of_times([1, 2], whole(TABLE), least=3)
    with pytest.raises(ValueError, match="times must have 1 dimensions"):
        grid_of_times(1.0, whole(TABLE))
