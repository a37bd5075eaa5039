"""The exact law of every stage against the joint Gaussian of a table written out, and against many particles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from tables import tableaus

from refdiff import AffineProcess, Empirical, ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.processes import beta_table
from refdiff.samplers.conversions import to_coordinate, to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.propagation import propagate
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run

PROCESS = VPLinear()
TIMES = np.linspace(1.0, 0.0, 9)


def dense_law(tableau, model, start):
    """Mean (s, d) and covariance (s, d, s, d) of all stages: run on the origin and on every unit of start and noise.

    For Gaussian data the sampler is affine in (x, z_0, z_1, ...): its differences from the run on zeros are its matrix.
    """
    dim = start.dim
    zeros = np.zeros((tableau.draws, 1, dim))
    base = run(tableau, model, np.zeros((1, dim)), normals=zeros, trajectory=True)[:, 0]
    columns, factors = [], [np.linalg.cholesky(start.cov())]
    for a in range(dim):
        moved = run(tableau, model, np.eye(dim)[a : a + 1], normals=zeros, trajectory=True)[:, 0]
        columns.append(moved - base)
    for m in range(tableau.draws):
        factors.append(np.eye(dim))
        for a in range(dim):
            normals = zeros.copy()
            normals[m, 0, a] = 1.0
            columns.append(run(tableau, model, np.zeros((1, dim)), normals=normals, trajectory=True)[:, 0] - base)
    matrix = np.stack(columns, axis=-1)  # (s, d, columns)
    mean = base + matrix[..., :dim] @ start.mean()
    blocks = [matrix[..., i * dim : (i + 1) * dim] @ factor for i, factor in enumerate(factors)]
    spread = np.concatenate(blocks, axis=-1)
    return mean, np.einsum("kic,ljc->kilj", spread, spread), matrix[..., :dim] @ start.cov()


LAWS = {
    "full": Gaussian([1.0, -2.0, 0.5], np.array([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]])),
    "diagonal": Gaussian([1.0, -2.0, 0.5], [0.3, 1.0, 2.0]),
    "number": Gaussian([1.0, -2.0, 0.5], 0.4),
}


@pytest.mark.parametrize("kind", LAWS)
@given(tableau=tableaus(process=PROCESS))
@settings(max_examples=12)
def test_every_stage_has_the_law_of_the_joint_gaussian(kind, tableau):
    model = ExactModel(LAWS[kind], PROCESS)
    found = propagate(tableau, LAWS[kind])
    mean, cov, cross = dense_law(tableau, model, found.start)
    for k in range(tableau.stages):
        size = max(1.0, np.abs(cov[k, :, k]).max())
        np.testing.assert_allclose(found.law(k).mean(), mean[k], atol=1e-11 * max(1, np.abs(mean[k]).max()))
        np.testing.assert_allclose(found.law(k).cov(), cov[k, :, k], rtol=0, atol=1e-11 * size)
        found_cross = np.broadcast_to(np.asarray(found.cross_covariance(k)), (3, 3) if kind == "full" else (3,))
        expected = cross[k] if kind == "full" else np.diagonal(cross[k])
        np.testing.assert_allclose(found_cross, expected, rtol=0, atol=1e-11 * size)


@given(tableaus(process=AffineProcess([VPLinear(), FlowMatching(), VPLinear(0.2, 5.0)]), per_axis=3))
@settings(max_examples=8)
def test_axes_noised_at_different_rates_mix_a_full_covariance(tableau):
    process = AffineProcess([VPLinear(), FlowMatching(), VPLinear(0.2, 5.0)])
    for law in LAWS.values():
        found = propagate(tableau, law)
        mean, cov, _ = dense_law(tableau, ExactModel(law, process), found.start)
        np.testing.assert_allclose(found.output.mean(), mean[-1], atol=1e-11 * max(1, np.abs(mean).max()))
        np.testing.assert_allclose(found.output.cov(), cov[-1, :, -1], rtol=0, atol=1e-11 * max(1, np.abs(cov).max()))


@given(
    tableaus(process=PROCESS, prediction="denoiser"), st.sampled_from(["score", "noise", "velocity", "v_prediction"])
)
def test_predictions_and_coordinates_do_not_change_the_law(tableau, prediction):
    law = LAWS["full"]
    one, two = (propagate(table, law).output for table in (
        tableau, to_coordinate(to_prediction(tableau, prediction), "x/sigma")))  # fmt: skip
    np.testing.assert_allclose(two.cov(), one.cov(), rtol=0, atol=1e-10 * max(1, np.abs(one.cov()).max()))
    np.testing.assert_allclose(two.mean(), one.mean(), rtol=0, atol=1e-10 * max(1, np.abs(one.mean()).max()))


def test_noise_with_a_matrix_weight_adds_that_matrix():
    matrix = np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.2, 0.0, 1.0]])
    rec = Recorder("matrix", PROCESS, [0.9, 0.6, 0.3])
    x = 0.5 * rec.start + rec.evaluate(rec.start, rec.points[0]) + rec.noise(matrix)
    tableau = rec.finish(0.8 * x + 0.3 * rec.evaluate(x, rec.points[1]))
    found = propagate(tableau, LAWS["full"])
    mean, cov, _ = dense_law(tableau, ExactModel(LAWS["full"], PROCESS), found.start)
    np.testing.assert_allclose(found.output.mean(), mean[-1], rtol=1e-12)
    np.testing.assert_allclose(found.output.cov(), cov[-1, :, -1], rtol=1e-12)


def test_a_thousand_ddpm_steps_shrink_a_standard_normal_by_a_hundredth():
    tableau = ddim(beta_table.linear(), np.arange(1000, -1, -1.0), eta=1.0)
    found = propagate(tableau, Gaussian([0.0], 1.0), start=Gaussian([0.0], 1.0)).output.cov()[0, 0]
    betas = np.linspace(1e-4, 0.02, 1000)
    bars = np.append(1.0, np.cumprod(1 - betas))
    variance = 1.0
    for i in range(1000, 0, -1):  # N(0, 1) data: E[x_0 | x] = sqrt(abar) x, the DDPM mean is sqrt(1 - beta) x
        variance = (1 - betas[i - 1]) * variance + betas[i - 1] * (1 - bars[i - 1]) / (1 - bars[i])
    np.testing.assert_allclose(found, variance, rtol=1e-12)
    assert round(found, 4) == 0.9911


def test_ddim_on_a_gaussian_is_a_product_of_cosines():
    for steps in (1, 4, 16, 64):
        tableau = ddim(FlowMatching(), np.linspace(1, 0, steps + 1))
        found = propagate(tableau, Gaussian([0.7], 0.25))
        angle = np.arctan2(tableau.coefficients.sigma, 0.5 * tableau.coefficients.alpha)
        np.testing.assert_allclose(found.gains[-1], 0.5 * np.prod(np.cos(np.diff(angle))), rtol=1e-13, atol=1e-16)


def test_three_thousand_axes_cost_no_matrix():
    variances = np.linspace(0.0, 2.0, 3000)
    found = propagate(ddim(PROCESS, TIMES[:-1], eta=0.5), Gaussian(np.zeros(3000), variances))
    assert found.output.covariance.shape == (3000,)
    one = propagate(ddim(PROCESS, TIMES[:-1], eta=0.5), Gaussian([0.0], variances[1500]))
    np.testing.assert_allclose(found.output.covariance[1500], one.output.cov()[0, 0], rtol=1e-13)


def test_a_point_is_reached_by_any_number_of_steps():
    for steps in (1, 3):
        found = propagate(ddim(PROCESS, np.linspace(1, 0, steps + 1)), Empirical([[1.5, -2.0]]))
        np.testing.assert_allclose(found.output.mean(), [1.5, -2.0], rtol=1e-13)
        assert found.wasserstein() < 1e-13


def test_distances_are_those_of_the_stage_to_its_own_target():
    found = propagate(ddim(PROCESS, [0.9, 0.5, 0.2], eta=1.0), Gaussian([0.7], 0.25))
    for k in (1, 2, -1):
        law, target = found.law(k), found.target(k)
        (m, s), (n, r) = ((float(g.mean()[0]), float(g.cov()[0, 0]) ** 0.5) for g in (law, target))
        np.testing.assert_allclose(found.wasserstein(k), np.hypot(m - n, s - r), rtol=1e-12)
        expected = np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5  # KL(law || target)
        np.testing.assert_allclose(found.kl(k), expected, rtol=1e-10)
        gap, _ = quad(lambda x: abs(norm.pdf(x, m, s) - norm.pdf(x, n, r)), -9, 9, limit=200, epsabs=1e-12)  # noqa: B023
        np.testing.assert_allclose(found.total_variation(k), gap / 2, rtol=1e-8)
    assert found.wasserstein(1) != found.wasserstein()


def test_an_exact_history_leaves_the_error_of_the_last_step():
    law = Gaussian([0.7], 0.25)
    times = np.array([0.9, 0.6, 0.5])
    whole = propagate(ddim(PROCESS, times), law, exact_until=0.6)
    last = propagate(ddim(PROCESS, times[1:]), law)
    c = whole.tableau.coefficients
    spread = np.sqrt(c.alpha**2 * 0.25 + c.sigma**2)
    np.testing.assert_allclose(whole.gains[1], spread[1] / spread[0], rtol=1e-14)
    np.testing.assert_allclose(whole.gains[2], last.gains[1] * spread[1] / spread[0], rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda t: propagate(t, GaussianMixture.isotropic([[0.0], [1.0]], 1.0)),
            TypeError,
            "gaussian must be a Gaussian, got",
        ),
        (lambda t: propagate(t, LAWS["full"], start=Gaussian([0.0], 1.0)), ValueError, "start must have dimension 3"),
        (lambda t: propagate(t, LAWS["full"]).law(9), ValueError, r"stage must be in -9..8, got 9"),
        (
            lambda t: propagate(t, LAWS["full"], exact_until=2.0) and propagate(t, LAWS["full"]).total_variation(),
            ValueError,
            "p and q must have one dimension",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(ddim(PROCESS, TIMES))


def test_an_evaluation_of_point_data_at_no_noise_is_refused():
    rec = Recorder("at the data", PROCESS, [0.5, 0.0])
    x = rec.evaluate(rec.start, rec.points[0])
    tableau = rec.finish(rec.evaluate(x, rec.points[1]))
    with pytest.raises(ValueError, match="tableau must be evaluated where p_t has a density"):
        propagate(tableau, Empirical([[1.0]]))
