"""What multistep families share: falling orders, options, steps onto infinite lambdas, and inversion."""

import numpy as np
import pytest

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, VEGeometric, VPLinear
from refdiff.samplers.deis import deis
from refdiff.samplers.dpm_sde import sde_dpm_solver, sde_dpm_solver_pp
from refdiff.samplers.dpm_solver import dpm_solver_multistep
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp_multistep
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.samplers.sa_solver import sa_solver
from refdiff.samplers.times import uniform_log_snr

VP = VPLinear()


def test_the_stochastic_solver_of_order_3_is_the_adams_method_of_sa_solver():
    grid = uniform_log_snr(VP, 9, start=0.9, end=0.05)
    assert sde_dpm_solver_pp(VP, grid, order=3, solver_type="heun").close(
        sa_solver(VP, grid, predictor_order=3, corrector_order=0, tau=1.0)
    )
    assert sde_dpm_solver(VP, grid, order=3, solver_type="heun").close(
        sa_solver(VP, grid, predictor_order=3, corrector_order=0, tau=1.0, prediction="noise")
    )
    assert not sde_dpm_solver_pp(VP, grid, order=3, solver_type="heun", halved_curvature=True).close(
        sa_solver(VP, grid, predictor_order=3, corrector_order=0, tau=1.0)
    )


def test_orders_that_fall_at_the_end_are_the_same_in_every_family():
    grid = uniform_log_snr(VP, 6, start=0.9, end=0.05)
    full = sde_dpm_solver_pp(VP, grid, order=3, solver_type="heun", lower_order_final=True)
    assert full.close(sa_solver(VP, grid, predictor_order=3, corrector_order=0, lower_order_final=True))
    flow = dpm_solver_multistep(VP, grid, order=3, solver_type="heun", lower_order_final=True)
    deis_flow = deis(VP, grid, degree=2, clock="log_snr", lower_order_final=True)
    model = ExactModel(Gaussian([0.3], [[0.5]]), VP)
    x = np.linspace(-1.0, 1.0, 5)[:, None]
    np.testing.assert_allclose(run(flow, model, x), run(deis_flow, model, x), rtol=0, atol=1e-12)
    corrected = sa_solver(VP, grid, predictor_order=2, corrector_order=3, lower_order_final=True)
    assert len(corrected.row(corrected.stages - 1)[1]) == 1  # the last step takes one evaluation


@pytest.mark.parametrize("build", [dpm_solver_multistep, dpm_solver_pp_multistep])
def test_an_inversion_is_of_the_order_of_its_method(build):
    law = Gaussian([0.0], [[0.25]])
    errors = []
    for steps in (40, 80):
        grid = uniform_log_snr(VP, steps, start=0.9, end=0.05)[::-1]
        errors.append(propagate(build(VP, grid, order=2, towards_noise=True), law).wasserstein())
    assert 3.3 < errors[0] / errors[1] < 4.7
    with pytest.raises(ValueError, match="times must start where sigma > 0"):
        build(VP, [0.0, 0.5], towards_noise=True)


@pytest.mark.parametrize("build", [sde_dpm_solver, sde_dpm_solver_pp])
def test_options_of_stochastic_solvers_reach_their_steps(build):
    grid = uniform_log_snr(VP, 6, start=0.9, end=0.05)
    full = build(VP, grid, order=3)
    used = [len(full.row(k)[1]) for k in range(1, full.stages)]
    assert used == [1, 2, 3, 3, 3, 3]
    euler = build(VP, grid, order=3, euler_at_final=True)
    assert [len(euler.row(k)[1]) for k in range(1, euler.stages)] == [1, 2, 3, 3, 3, 1]
    falling = build(VP, grid, order=3, lower_order_final=True)
    assert [len(falling.row(k)[1]) for k in range(1, falling.stages)] == [1, 2, 3, 3, 2, 1]
    assert not build(VP, grid, order=3, halved_curvature=True).close(full)
    sa = sa_solver(VP, grid, predictor_order=3, corrector_order=0, lower_order_final=True, prediction=full.prediction)
    assert build(VP, grid, order=3, solver_type="heun", lower_order_final=True).close(sa)


@pytest.mark.parametrize("prediction", ["noise", "denoiser"])
@pytest.mark.parametrize("solver", ["dpm", "sa"])
def test_an_axis_that_ends_with_noise_takes_its_own_step_beside_one_that_ends_clean(solver, prediction):
    def build(process):
        if solver == "sa":
            given = {"predictor_order": 1, "corrector_order": 0, "prediction": prediction}
            return sa_solver(process, [0.6, 0.3, 0.0], **given)
        return (sde_dpm_solver if prediction == "noise" else sde_dpm_solver_pp)(process, [0.6, 0.3, 0.0], order=1)

    schedules = VP, VEGeometric(0.5, 10.0)
    assert VP.sigma(0.0) == 0 < VEGeometric(0.5, 10.0).sigma(0.0)
    together = build(AffineProcess(schedules)).unroll()
    for axis, schedule in enumerate(schedules):
        alone = build(schedule).unroll()
        draws = alone.noise.shape[1]
        np.testing.assert_allclose(together.start[..., axis], alone.start, rtol=0, atol=1e-14)
        np.testing.assert_allclose(together.outputs[..., axis], alone.outputs, rtol=0, atol=1e-13)
        np.testing.assert_allclose(together.noise[:, :draws, axis], alone.noise, rtol=0, atol=1e-14)
        assert not together.noise[:, draws:, axis].any()
    assert together.noise[-1, -1, 1] > 0.1


@pytest.mark.parametrize("build", [dpm_solver_multistep, dpm_solver_pp_multistep])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_inversion_onto_pure_noise_ends_in_the_predicted_noise(build, order):
    table = build(FlowMatching(), [0.2, 0.5, 0.8, 1.0], order=order, towards_noise=True)
    model = ExactModel(Gaussian([0.7], 0.25), FlowMatching())
    x = np.array([[0.3], [1.1]])
    stages = run(table, model, x, trajectory=True)
    np.testing.assert_allclose(stages[-1], model.noise(stages[-2], 0.8), rtol=1e-13)
