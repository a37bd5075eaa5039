"""Moving components: rates in time and divergences of one component, under every storage and process."""

import matrices
import numpy as np
import pytest

from refdiff import AffineProcess, Empirical, ExactModel, FlowMatching, Gaussian, VPLinear
from refdiff.distributions import random_mixture
from refdiff.moving import Moving
from refdiff.processes import LinearProcess, PrincipalAxes, critically_damped_langevin
from refdiff.validation.numeric import derivative

DIM, TIME = 4, 0.55
MADE = matrices.Coefficients(DIM, 2)
TURN = np.linalg.qr(np.random.default_rng(1).standard_normal((DIM, DIM)))[0]
AXES = AffineProcess([VPLinear(), FlowMatching(), VPLinear(1.0, 3.0), FlowMatching()], lambda t: (t * t, 2 * t, 2.0))
PROCESSES = {
    "scalar": AffineProcess(VPLinear()),
    "per axis": AXES,
    "along axes": PrincipalAxes(AXES, TURN),
    "matrix": LinearProcess(MADE.drift, MADE.noise, force=MADE.force, rates=MADE.rates),
    "Langevin": critically_damped_langevin(2),
}
LAWS = {kind: random_mixture(DIM, 3, 1, kind) for kind in ("isotropic", "diagonal", "shared", "full")} | {
    "points": Empirical(np.random.default_rng(0).standard_normal((3, DIM)))
}
EVERYTHING = slice(None)
# every law meets two or three processes, and every process as many laws
PAIRS = [(law, process) for i, law in enumerate(LAWS) for j, process in enumerate(PROCESSES) if (i + j) % 2 == 0]


def component(law, process, k, t):
    """N(c_k, T_k) as a Gaussian."""
    pushed = process.kernel(t).push(law)
    return Gaussian(pushed.means[k], np.broadcast_to(pushed.covariances.dense(DIM), (law.count, DIM, DIM))[k])


@pytest.mark.parametrize(("law", "process"), PAIRS)
def test_components_move_as_their_densities_do(law, process):
    law, process = LAWS[law], PROCESSES[process]
    moving = Moving.under(law, process, TIME)
    x = moving.law.sample(3, 0)
    rates, v, dv = moving.log_rates(x), moving.velocities(x)(EVERYTHING), moving.velocity_rates(x)(EVERYTHING)
    f, d, b = process.drift(TIME), process.diffusion(TIME), process.offset(TIME)
    f, d = (
        part * np.eye(DIM) if np.ndim(part) == 0 else np.diag(part) if np.ndim(part) == 1 else part for part in (f, d)
    )
    force = b.rate - f @ np.broadcast_to(b.value, (DIM,))
    for k in range(law.count):
        one = component(law, process, k, TIME)
        step = derivative(lambda t, k=k: component(law, process, k, t).logpdf(x), TIME, 0.003)
        np.testing.assert_allclose(rates[:, k], step, atol=1e-7 * (1 + np.abs(step).max()))
        # the probability flow of a component on its own, from the equation and not from the motion
        np.testing.assert_allclose(v[:, k], x @ f.T + force - one.score(x) @ d.T / 2, atol=1e-10 * np.abs(v).max())
        slope = derivative(lambda t, k=k: Moving.under(law, process, t).velocities(x)(EVERYTHING)[:, k], TIME, 0.003)
        np.testing.assert_allclose(dv[:, k], slope, atol=1e-6 * (1 + np.abs(slope).max()))


@pytest.mark.parametrize(("law", "process"), PAIRS)
def test_the_mean_velocity_is_that_of_bayes_and_its_slope_has_the_divergence_for_a_trace(law, process):
    model = ExactModel(LAWS[law], PROCESSES[process])
    moving = Moving.under(LAWS[law], PROCESSES[process], TIME)
    x = moving.law.sample(5, 1)
    v, jacobian = model.velocity(x, TIME), model.velocity_jacobian(x, TIME)
    np.testing.assert_allclose(moving.velocity(x), v, atol=1e-12 * np.abs(v).max())
    np.testing.assert_allclose(moving.jacobian(x), jacobian, atol=1e-12 * (1 + np.abs(jacobian).max()))
    trace = np.trace(jacobian, axis1=1, axis2=2)
    np.testing.assert_allclose(moving.divergence(x), trace, atol=1e-12 * (1 + np.abs(jacobian).max()))


def test_rates_of_velocities_need_the_rates_of_the_equation():
    moving = Moving.under(LAWS["full"], LinearProcess(MADE.drift, MADE.noise), TIME)
    moving.log_rates(np.zeros((1, DIM)))
    with pytest.raises(ValueError, match="process must know F', u' and D' for accelerations: give it `rates`"):
        moving.velocity_rates(np.zeros((1, DIM)))
