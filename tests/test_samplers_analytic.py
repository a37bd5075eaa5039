"""Analytic-DPM against theorem 1 of its paper, its moments against quadrature, its steps against exact laws."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import against

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPLinear,
    beta_table,
    testing,
)
from refdiff.distributions import random_mixture
from refdiff.samplers import analytic
from refdiff.samplers.analytic import analytic_dpm, state_dependent_dpm
from refdiff.samplers.analytic_moments import conditional_variance
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run

MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
TABLE = beta_table.linear(20, 0.01, 0.6)
PROCESSES = {"VP": VPLinear(), "FM": FlowMatching(), "EDM": VEPower(T=80.0), "table": TABLE}
VP = VPLinear()


# ---------------------------------------------------------------------- the paper's box, on numbers


@cache
def mean_square_score(t):
    """E |grad log p_t|^2 / d for the mixture on the table, by Gauss-Legendre panels."""
    law = ExactModel(MIXTURE, TABLE).marginal(t)
    edges = np.arange(law.means.min() - 20, law.means.max() + 20, 0.25)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    x = (edges[:-1, None] + 0.125 * (nodes + 1)).reshape(-1, 1)
    values = np.exp(law.logpdf(x)) * law.score(x)[:, 0] ** 2
    return float(0.125 * np.tile(weights, len(edges) - 1) @ values)


def bao(bars, squares, indices, eta):
    """Bao et al. 2022, theorem 1 and algorithm 1: abar_n, bbar_n = 1 - abar_n, the score as the model, x_1 -> mean."""

    def sample(score, x, normal):
        for n, m in zip(indices, [*indices[1:], 0], strict=True):
            abar, abar_m = bars[n - 1], bars[m - 1] if m else 1.0
            bbar, bbar_m = 1 - abar, 1 - abar_m
            alpha = abar / abar_m
            lam2 = eta**2 * bbar_m / bbar * (1 - alpha)
            clean = (x + bbar * score(x, n)) / np.sqrt(abar)
            mean = np.sqrt(abar_m) * clean + np.sqrt(bbar_m - lam2) * (x - np.sqrt(abar) * clean) / np.sqrt(bbar)
            x = mean
            if m:
                rest = np.sqrt(bbar / alpha) - np.sqrt(bbar_m - lam2)
                x = mean + np.sqrt(lam2 + rest**2 * (1 - bbar * squares[n])) * normal()
        return x

    return sample


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_isotropic_is_theorem_1_of_the_paper(eta):
    model, indices = ExactModel(MIXTURE, TABLE), [20, 13, 8, 4, 1]
    squares = {n: mean_square_score(float(n)) for n in indices}
    box = bao(TABLE.alpha_bar, squares, indices, eta)
    table = to_prediction(analytic_dpm(TABLE, [*indices, 0], law=MIXTURE, eta=eta), "score")
    against(box, table, model, count=30, rtol=1e-11, atol=1e-12)
    assert impulse_response(box, TABLE, prediction="score").difference(table) < 1e-11


# ---------------------------------------------------------------------- the sampler


@st.composite
def gaussians(draw):
    """Gaussians in one to three dimensions, also without full rank."""
    dim = draw(st.integers(1, 3))
    covariance = draw(testing.covariances(dim, draw(st.integers(0, dim))))
    return Gaussian(draw(st.lists(st.floats(-3, 3), min_size=dim, max_size=dim)), covariance)


@given(
    gaussians(),
    st.sampled_from(sorted(PROCESSES)),
    st.floats(0.0, 1.0),
    st.lists(st.floats(0.03, 0.97), min_size=1, max_size=4, unique=True),
    st.booleans(),
)
def test_gaussian_data_come_out_exactly_on_every_grid_for_every_eta(law, name, eta, fractions, clean):
    process = PROCESSES[name]
    grid = process.T * np.sort([*fractions, 1.0, *([0.0] if clean else [0.01])])[::-1]
    table = analytic_dpm(process, grid, law=law, covariance="full", eta=eta, final_noise=True)
    found = propagate(table, law)
    target = found.target()
    # an ill-conditioned covariance of the data is known to rounding of its largest eigenvalue
    scale = 1e-11 * np.abs(target.cov()).max()
    np.testing.assert_allclose(found.output.cov(), target.cov(), atol=scale)
    np.testing.assert_allclose(found.output.mean(), target.mean(), atol=1e-11 * (1 + np.abs(target.mean()).max()))


def test_the_diagonal_is_enough_for_gaussians_along_the_axes_also_with_their_own_schedules():
    law = Gaussian([0.3, -1.0], [0.2, 3.0])
    for process in (VPLinear(), AffineProcess([VPLinear(), FlowMatching()])):
        for covariance in ("diagonal", "full"):
            table = analytic_dpm(
                process, [1.0, 0.6, 0.2, 0.0], law=law, covariance=covariance, eta=0.4, final_noise=True
            )
            found = propagate(table, law)
            np.testing.assert_allclose(found.output.cov(), law.cov(), atol=1e-13)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_one_point_has_nothing_left_and_stationary_data_make_beta_of_it(eta):
    grid = [0.9, 0.5, 0.2, 0.05]
    point = analytic_dpm(VPLinear(), grid, law=Empirical([[0.4]]), eta=eta)
    assert point.close(ddim(VPLinear(), grid, eta=eta))
    if eta == 1:
        normal = analytic_dpm(VPLinear(), grid, law=Gaussian([0.0], 1.0))
        assert normal.close(ddpm(VPLinear(), grid, variance="beta"))
        assert normal.close(analytic_dpm(VPLinear(), grid, moments=analytic.standard_normal))


def test_a_share_for_each_step_reaches_beta_as_the_base_where_it_fits():
    grid = np.array([0.9, 0.88, 0.85])
    sigma = VPLinear().sigma(grid)
    table = analytic_dpm(VPLinear(), grid, moments=[0.0, 0.0], eta=sigma[:-1] / sigma[1:])
    np.testing.assert_allclose(table.noise, ddpm(VPLinear(), grid, variance="beta").noise, rtol=1e-12)
    with pytest.raises(ValueError, match="eta must leave"):  # beta > sigma_t^2
        analytic_dpm(beta_table.linear(), [2.0, 1.0], moments=[0.0], eta=np.sqrt([1.02 / 0.5]))


def test_estimates_are_clipped_to_their_bounds():
    process, grid = VPLinear(), [0.9, 0.05, 0.01]
    s = process.coefficients(np.array(grid[:-1]))
    ceiling = (s.sigma / s.alpha) ** 2
    wild = analytic_dpm(process, grid, moments=[1e9, 1e9])
    assert wild.close(analytic_dpm(process, grid, moments=ceiling))
    ranged = analytic_dpm(process, grid, moments=[1e9, 1e9], data_range=(-1, 1))
    assert ranged.close(analytic_dpm(process, grid, moments=np.minimum(ceiling, 1.0)))
    assert not ranged.close(wild)


def test_moments_come_in_three_shapes():
    grid = [0.9, 0.5, 0.2]
    one = analytic_dpm(VPLinear(), grid, moments=[0.2, 0.1])
    axes = analytic_dpm(VPLinear(), grid, moments=[[0.2, 0.2], [0.1, 0.1]])
    full = analytic_dpm(VPLinear(), grid, moments=[0.2 * np.eye(2), 0.1 * np.eye(2)])
    assert (one.noise.shape[2:], axes.noise.shape[2:], full.noise.shape[2:]) == ((), (2,), (2, 2))
    np.testing.assert_allclose(axes.noise, one.noise[..., None] * np.ones(2), rtol=1e-14)
    np.testing.assert_allclose(full.noise, one.noise[..., None, None] * np.eye(2), atol=1e-15)


# ---------------------------------------------------------------------- variances of the state


@pytest.mark.parametrize("covariance", ["npr", "sn", "full"])
def test_on_gaussian_data_the_state_dependent_sampler_is_the_table(covariance):
    matrix = np.array([[0.5, 0.3], [0.3, 1.2]])
    law = Gaussian([0.3, -1.0], matrix if covariance == "full" else [0.2, 3.0])
    model, grid = ExactModel(law, VPLinear()), [1.0, 0.6, 0.2, 0.0]
    shape = "full" if covariance == "full" else "diagonal"
    table = analytic_dpm(VPLinear(), grid, law=law, covariance=shape, eta=0.7)
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((4, 5, 2)), rng.standard_normal((3, 4, 5, 2))
    found = state_dependent_dpm(model, grid, x, covariance=covariance, eta=0.7, normals=z)
    np.testing.assert_allclose(found, run(table, model, x, normals=z[:2]), rtol=1e-11)


def test_one_state_dependent_step_has_the_mean_and_covariance_of_the_exact_kernel():
    model = ExactModel(random_mixture(2, 3, 1, "full"), VPLinear())
    x = model.sample(3, 0.6, 0)
    step = {}
    for name, z in (("zero", np.zeros(2)), ("e1", np.array([1.0, 0.0])), ("e2", np.array([0.0, 1.0]))):
        normals = np.broadcast_to(z, (1, 3, 2))
        step[name] = state_dependent_dpm(model, [0.6, 0.4], x, covariance="full", normals=normals)
    factor = np.stack([step["e1"] - step["zero"], step["e2"] - step["zero"]], axis=-1)
    back = [model.process.channel(0.4, 0.6).posterior(model.marginal(0.4), row) for row in x]
    np.testing.assert_allclose(step["zero"], [law.mean() for law in back], rtol=1e-12, atol=1e-13)
    # for eta = 1 the kernel is the true reverse of the Markov step
    np.testing.assert_allclose(factor @ np.swapaxes(factor, 1, 2), [law.cov() for law in back], rtol=1e-10, atol=1e-12)


def test_state_dependent_runs_keep_precision_and_seed():
    model, grid = ExactModel(MIXTURE, FlowMatching()), [1.0, 0.5, 0.0]
    x = np.random.default_rng(1).standard_normal((6, 1))
    one, two = (state_dependent_dpm(model, grid, x, 7) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, state_dependent_dpm(model, grid, x, 8))
    assert state_dependent_dpm(model, grid, x.astype(np.float32), 7).dtype == np.float32
    noisy = state_dependent_dpm(model, grid, x, 7, final_noise=True)
    assert not np.allclose(one, noisy)


def test_a_negative_sn_variance_is_taken_as_zero():
    model = ExactModel(Empirical([[0.5]]), VPLinear())  # nothing left: eps_D^2 above eps*^2 makes it negative
    x = model.sample(5, 0.5, 0)

    def wrong(x, t):
        return model.denoiser(x, t) - 10 * np.sign(x - 0.5 * VPLinear().alpha(t))

    assert (conditional_variance(model, x, 0.5, "sn", denoiser=wrong) < 0).any()
    out = state_dependent_dpm(model, [0.5, 0.2], x, 3, covariance="sn", denoiser=wrong)
    assert np.isfinite(out).all()


# ---------------------------------------------------------------------- bad input


def test_isotropic_is_the_mean_over_axes():
    law, grid = Gaussian([0.0, 1.0, 0.5], [0.1, 0.5, 2.0]), [0.9, 0.5, 0.2]
    left = [np.mean([v * VP.sigma(s) ** 2 / (VP.alpha(s) ** 2 * v + VP.sigma(s) ** 2) for v in (0.1, 0.5, 2.0)])
            for s in grid[:-1]]  # fmt: skip
    assert analytic_dpm(VP, grid, law=law).close(analytic_dpm(VP, grid, moments=left), 1e-13)


def test_moments_of_standard_normal_data_are_these_datas_own_where_variance_is_not_preserved():
    grid, law = [0.9, 0.5, 0.2], Gaussian([0.0], 1.0)
    table = analytic_dpm(FlowMatching(), grid, moments=analytic.standard_normal)
    assert table.close(analytic_dpm(FlowMatching(), grid, law=law), 1e-13)


@pytest.mark.parametrize("covariance", ["npr", "sn", "full"])
def test_another_mean_adds_its_error_to_the_noise_of_a_step(covariance):
    law, (s, t), x, z = Gaussian([0.7], 0.25), (0.6, 0.3), np.array([[0.4], [1.5]]), np.array([[[0.8], [-0.3]]])
    model, other = ExactModel(law, VP), lambda y, _: 0.8 * y + 0.1
    (a, b), best = VP.coefficients([s, t]).alpha, model.denoiser(x, s)
    rho2 = (VP.sigma(s) / a) ** 2
    posterior, mean = 0.25 * rho2 / (0.25 + rho2), other(x, s)
    noise, noise_best = (x - a * mean) / VP.sigma(s), (x - a * best) / VP.sigma(s)
    second = posterior / rho2 + noise_best**2  # E[eps^2 | x]
    v = rho2 * (second - noise**2) if covariance == "sn" else posterior + (mean - best) ** 2
    q = (a * VP.sigma(t) / (b * VP.sigma(s))) ** 2
    step = b * (mean + q * (x / a - mean))
    expected = step + np.sqrt(VP.sigma(t) ** 2 * (1 - q) + (b * (1 - q)) ** 2 * np.maximum(v, 0)) * z[0]
    found = state_dependent_dpm(model, [s, t], x, covariance=covariance, denoiser=other, normals=z)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bad_input_is_refused():
    grid, law = [0.9, 0.5, 0.1], Gaussian([0.0], 1.0)
    for options, message in (
        ({}, "law or moments"),
        ({"law": law, "moments": [0.1, 0.1]}, "law or moments"),
        ({"law": law, "covariance": "low rank"}, "covariance must be one of"),
        ({"moments": [0.1]}, "moments must have one entry for each of 2 steps"),
        ({"moments": [0.1, -0.1]}, "moments must not be negative"),
        ({"moments": [[[1.0, 2.0], [2.0, 1.0]]] * 2}, "moments must be positive semi-definite"),
        ({"law": law, "eta": -0.1}, "eta must not be negative"),
        ({"law": law, "eta": 9.0}, "eta must leave"),
        ({"law": law, "eta": [0.1]}, "eta must be one number or one entry"),
        ({"law": law, "data_range": (1, -1)}, "data_range must be"),
        ({"law": law, "data_range": (1, 2, 3)}, "data_range must be"),
        ({"law": law, "data_range": 3}, "data_range must have 1 dimensions"),
        ({"law": random_mixture(3, 2, 1, "full")}, "seed must be given"),
    ):
        with pytest.raises(ValueError, match=message):
            analytic_dpm(VPLinear(), grid, **options)
    model, x = ExactModel(law, FlowMatching()), np.zeros((2, 1))
    for options, message in (
        ({}, "seed or normals"),
        ({"seed": 1, "normals": np.zeros((2, 2, 1))}, "seed or normals"),
        ({"normals": np.zeros((1, 2, 1))}, "normals must have shape"),
        ({"seed": 1, "covariance": "isotropic"}, "covariance must be one of npr, sn, full"),
        ({"seed": 1, "eta": 9.0}, "eta must leave"),
    ):
        with pytest.raises(ValueError, match=message):
            state_dependent_dpm(model, grid, x, **options)
