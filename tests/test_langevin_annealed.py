"""Annealed chains and predictor-corrector: without Metropolis' rule the tables of samplers, with it the exact law."""

import numpy as np
import pytest

from refdiff import ExactModel, VEPower, VPLinear, operators
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture
from refdiff.langevin import adjusted_predictor_corrector, annealed_chains, mala
from refdiff.processes import AffineProcess, critically_damped_langevin
from refdiff.samplers import run
from refdiff.samplers.langevin import PREDICTORS, annealed_langevin, predictor_corrector

SIGMAS = np.geomspace(4.0, 0.3, 5)
MODEL = ExactModel(GaussianMixture.isotropic([[-1.5, 0.0], [1.0, 0.5]], [0.04, 0.2], [0.4, 0.6]), VEPower(T=10.0))
X = np.random.default_rng(1).standard_normal((7, 2)) * 4


def z_scores(y, law):
    m, c = law.mean(), np.diag(law.cov())
    parts = ((y, m), ((y - m) ** 2, c))
    return np.array([(a.mean(axis=0) - b) / a.std(axis=0) * np.sqrt(len(y)) for a, b in parts])


def test_without_the_rule_it_is_the_table_of_annealed_langevin():
    table = annealed_langevin(MODEL.process, SIGMAS, step_size=0.2 * SIGMAS[-1] ** 2, steps=3)
    found = annealed_chains(MODEL, SIGMAS, X, step_size=0.2, steps=3, seed=5, particle=2, adjusted=False)
    np.testing.assert_allclose(found.x, run(table, MODEL, X, 5, particle=2), rtol=1e-11, atol=1e-12)
    assert found.draw == 15
    np.testing.assert_array_equal(found.probability, 1.0)


def test_where_alpha_varies_too():
    model, times = ExactModel(MODEL.distribution, VPLinear()), [0.9, 0.5, 0.2]
    rho = [float(model.affine.coefficients(t).sigma / model.affine.coefficients(t).alpha) for t in times]
    sigma = [float(model.affine.coefficients(t).sigma) for t in times]
    # the table's levels are relative to sigma / alpha and its steps are eta = delta (sigma_t / rho_n)^2
    table = annealed_langevin(model.process, times, step_size=0.1 * rho[-1] ** 2, steps=2)
    found = annealed_chains(model, times, X / 4, step_size=0.1, steps=2, seed=5, adjusted=False)
    assert sigma[0] > sigma[-1]
    np.testing.assert_allclose(found.x, run(table, model, X / 4, 5), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_without_the_rule_it_is_the_table_of_predictor_corrector(predictor):
    times, model = [0.9, 0.6, 0.3, 0.1], ExactModel(MODEL.distribution, VPLinear())
    table = predictor_corrector(model.process, times, predictor=predictor, corrector_steps=2, snr=0.2)
    options = {"predictor": predictor, "step_size": 2 * 0.2**2, "steps": 2, "seed": 5}
    found = adjusted_predictor_corrector(model, times, X / 4, adjusted=False, **options)
    np.testing.assert_allclose(found.x, run(table, model, X / 4, 5), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("adjusted", [True, False])
def test_long_at_the_last_level_the_adjusted_law_is_p_and_the_other_one_not(adjusted):
    """2000 chains: |z| < 4.5 for the variance, of p or of P / (1 - eta / 2 P), which are 17 errors apart."""
    data = ExactModel(Gaussian([0.5], 0.2), VEPower(T=10.0))
    x = data.sample(2000, 4.0, 1)
    found = annealed_chains(data, [4.0, 1.5, 0.5], x, step_size=1.4, steps=15, seed=2, adjusted=adjusted)
    law = data.marginal(0.5)
    spread = float(law.cov()[0, 0])
    kept = law if adjusted else Gaussian(law.mean(), spread / (1 - 1.4 * 0.25 / (2 * spread)))
    other = Gaussian(law.mean(), spread / (1 - 1.4 * 0.25 / (2 * spread))) if adjusted else law
    assert np.abs(z_scores(found.x, kept)).max() < 4.5
    assert np.abs(z_scores(found.x, other)).max() > 10
    assert found.probability.shape == (3,)


@pytest.mark.parametrize("name", ["matrix", "offset", "per axis"])
def test_any_process_may_be_annealed(name):
    """From p at the first time, handed over as a point mass is, which is 25 errors off: 1500 chains settle at p."""
    process, law = {
        "matrix": (critically_damped_langevin(1), Gaussian([0.3, 0.0], [[0.5, 0.1], [0.1, 0.4]])),
        "offset": (AffineProcess(VPLinear(), offset=lambda t: (t * t, 2 * t, 2.0)), random_mixture(2, 2, 3)),
        "per axis": (AffineProcess([VPLinear(), VPLinear(0.1, 5.0)]), random_mixture(2, 2, 3)),
    }[name]
    model = ExactModel(law, process)
    start, end = (0.5 * process.T, 0.3 * process.T)
    found = annealed_chains(model, [start, end], model.sample(1500, start, 1), step_size=0.4, steps=30, seed=2)
    assert np.abs(z_scores(found.x, model.marginal(end))).max() < 4.5
    assert (found.probability > 0.5).all()


def test_between_levels_points_are_carried_as_a_point_mass_is():
    """Without steps: x = A x_0 + b at the first time is A x_0 + b at the last one."""
    clean = np.random.default_rng(4).standard_normal((5, 2))
    for process in (
        AffineProcess([VPLinear(), VPLinear(0.1, 5.0)], offset=lambda t: (t * t, 2 * t, 2.0)),
        critically_damped_langevin(1),
    ):
        first, last = (process.kernel(t * process.T) for t in (0.7, 0.2))
        x, wanted = (operators.apply(k.gain, clean) + k.offset for k in (first, last))
        model = ExactModel(random_mixture(2, 2, 3), process)
        found = annealed_chains(model, [0.7 * process.T, 0.2 * process.T], x, step_size=0.1, steps=0, seed=0)
        np.testing.assert_allclose(found.x, wanted, rtol=1e-11, atol=1e-12)


def test_correcting_repairs_what_a_coarse_predictor_leaves():
    data = ExactModel(Gaussian([0.5], 0.2), VPLinear())
    times, x = [0.9, 0.5, 0.25], data.sample(2000, 0.9, 1)
    bare, corrected = (
        adjusted_predictor_corrector(data, times, x, step_size=0.8, steps=steps, seed=2) for steps in (0, 25)
    )
    assert np.abs(z_scores(bare.x, data.marginal(0.25))).max() > 10
    assert np.abs(z_scores(corrected.x, data.marginal(0.25))).max() < 4.5
    assert np.isnan(bare.probability).all()


def test_it_may_end_without_noise_where_nothing_is_corrected():
    model = ExactModel(Empirical([[-1.0], [1.0]]), VPLinear())
    found = adjusted_predictor_corrector(model, [0.9, 0.4, 0.0], model.sample(50, 0.9, 1), step_size=0.1, seed=2)
    assert np.isfinite(found.x).all()
    assert np.isnan(found.probability[-1])
    single = annealed_chains(model, [0.9, 0.4], np.zeros((2, 3, 1), dtype=np.float32), step_size=0.1, steps=1, seed=0)
    assert single.x.shape == (2, 3, 1)
    assert single.x.dtype == np.float32


def test_no_chains_are_chains_too():
    x = np.zeros((0, 2))
    found = annealed_chains(MODEL, SIGMAS, x, step_size=0.1, steps=2, seed=0)
    assert found.x.shape == (0, 2)
    assert np.isnan(found.probability).all()
    assert adjusted_predictor_corrector(MODEL, SIGMAS, x, seed=0).x.shape == (0, 2)


def test_grids_and_noises_that_do_not_fit_are_refused():
    x = np.zeros((1, 2))
    with pytest.raises(TypeError, match="model must be an ExactModel"):
        annealed_chains(MODEL.distribution, SIGMAS, x, step_size=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="times must be decreasing"):
        annealed_chains(MODEL, SIGMAS[::-1], x, step_size=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="times must lie in"):
        annealed_chains(MODEL, [11.0, 1.0], x, step_size=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="times must leave noise on every axis"):
        annealed_chains(MODEL, [1.0, 0.0], x, step_size=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="predictor must be one of"):
        adjusted_predictor_corrector(MODEL, SIGMAS, x, predictor="heun", seed=0)


def test_annealing_finds_the_weights_of_far_modes_and_steps_at_the_data_do_not():
    """Modes at +-6 of weights .8 and .2, which relax in 2e7: 200 chains from far out, 160 steps either way."""
    law = GaussianMixture.isotropic([[-6.0], [6.0]], 1.0, [0.8, 0.2])
    levels, x = np.geomspace(12.0, 0.3, 8), np.random.default_rng(1).standard_normal((200, 1)) * 12
    found = annealed_chains(ExactModel(law, VEPower(T=40.0)), levels, x, step_size=0.15, steps=20, seed=3)
    stuck = mala(law, x, step_size=0.15, steps=160, seed=3)
    error = np.sqrt(0.2 * 0.8 / 200)
    assert abs((found.x > 0).mean() - 0.2) < 4.5 * error
    assert abs((stuck.x > 0).mean() - 0.5) < 4.5 * np.sqrt(0.25 / 200)  # as the start has them
