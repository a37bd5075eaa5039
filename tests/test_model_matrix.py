"""The exact model of matrix processes: Tweedie, the probability flow, stencils, precision, and no data noise at all."""

import matrices
import numpy as np
import pytest

from refdiff import AffineProcess, Empirical, ExactModel, Gaussian, VPLinear
from refdiff.distributions import random_mixture
from refdiff.processes import (
    LinearProcess,
    PrincipalAxes,
    critically_damped_langevin,
    positions,
    with_velocity,
)
from refdiff.validation.numeric import derivative, divergence, jacobian

DIM, TIME = 4, 0.5
MADE = matrices.Coefficients(DIM, 6)
TURN = np.linalg.qr(np.random.default_rng(2).standard_normal((DIM, DIM)))[0]
AXES = AffineProcess([VPLinear(), VPLinear(1.0, 3.0), VPLinear(0.5, 9.0), VPLinear(4.0, 5.0)])
PROCESSES = {
    "matrix": LinearProcess(MADE.drift, MADE.noise, force=MADE.force, rates=MADE.rates),
    "matrix, constant": LinearProcess(MADE.drift(0), MADE.noise(0), force=MADE.force(0)),
    "Langevin": critically_damped_langevin(2),
    "along axes": PrincipalAxes(AXES, TURN),
}
LAWS = {
    "full": random_mixture(DIM, 3, 1, "full"),
    "isotropic": random_mixture(DIM, 4, 2, "isotropic"),
    "one component": Gaussian(np.arange(DIM), np.diag([0.1, 1.0, 2.0, 0.5])),
    "points": Empirical(np.random.default_rng(0).standard_normal((5, DIM)), [0.1, 0.3, 0.2, 0.2, 0.2]),
    "at rest": with_velocity(random_mixture(2, 3, 3, "full")),
}
PAIRS = [(law, process) for law in LAWS for process in PROCESSES]


def near(found, wanted, slack):
    np.testing.assert_allclose(found, wanted, atol=slack * (1 + np.abs(wanted).max()))


@pytest.mark.parametrize(("law", "process"), PAIRS)
def test_answers_follow_the_equation_and_its_density(law, process):
    law, process = LAWS[law], PROCESSES[process]
    model, t = ExactModel(law, process), TIME
    x = model.sample(4, t, 1)
    m, s, v = process.motion(t), model.score(x, t), model.velocity(x, t)
    f, d, b = process.drift(t), process.diffusion(t), m.offset
    # the flow from F and D, Tweedie's formula from the score, the noise from the root
    near(v, (x - b.value) @ f.T + b.rate - s @ d / 2, 1e-11)
    near(model.denoiser(x, t) @ m.gain.T, x - b.value + s @ m.noise, 1e-11)
    near(model.noise(x, t), -s @ m.root, 1e-13)
    near(model.noise(x, t) @ m.root.T, x - b.value - model.denoiser(x, t) @ m.gain.T, 1e-11)
    # stencils in space
    h = 0.01
    near(s, jacobian(lambda y: model.log_density(y, t), x, h), 1e-7)
    near(model.hessian(x, t), jacobian(lambda y: model.score(y, t), x, h), 1e-6)
    near(model.denoiser_jacobian(x, t), jacobian(lambda y: model.denoiser(y, t), x, h), 1e-6)
    near(model.velocity_jacobian(x, t), jacobian(lambda y: model.velocity(y, t), x, h), 1e-6)
    near(model.velocity_divergence(x, t), divergence(lambda y: model.velocity(y, t), x, h), 1e-6)
    near(np.trace(model.velocity_jacobian(x, t), axis1=1, axis2=2), model.velocity_divergence(x, t), 1e-10)
    # A Cov A' = C + C H C
    cov, c = model.posterior_covariance(x, t), m.noise
    near(m.gain @ cov @ m.gain.T, c + c @ model.hessian(x, t) @ c, 1e-10)
    near(model.covariance_times(x, s, t), np.einsum("nij,nj->ni", cov, s), 1e-12)
    # stencils in time, and continuity of probability
    rate = model.log_density_rate(x, t)
    near(rate, derivative(lambda u: model.log_density(x, u), t, 0.003), 1e-6)
    near(rate, -model.velocity_divergence(x, t) - (v * s).sum(axis=1), 1e-10)
    near(model.velocity_rate(x, t), derivative(lambda u: model.velocity(x, u), t, 0.003), 1e-5)
    turned = np.einsum("nij,nj->ni", model.velocity_jacobian(x, t), v)
    near(model.acceleration(x, t), model.velocity_rate(x, t) + turned, 1e-12)


@pytest.mark.parametrize("process", PROCESSES)
def test_shapes_and_precision_are_those_of_the_points(process):
    model = ExactModel(LAWS["full"], PROCESSES[process])
    x = model.sample(6, TIME, 0).reshape(2, 3, DIM)
    vectors, matrices_, numbers = (2, 3, DIM), (2, 3, DIM, DIM), (2, 3)
    shapes = {
        vectors: ("score", "denoiser", "noise", "velocity", "velocity_rate", "acceleration"),
        matrices_: ("posterior_covariance", "hessian", "denoiser_jacobian", "velocity_jacobian"),
        numbers: ("log_density", "velocity_divergence", "log_density_rate"),
    }
    for shape, names in shapes.items():
        for name in names:
            wanted, found = getattr(model, name)(x, TIME), getattr(model, name)(x.astype(np.float32), TIME)
            assert (np.shape(wanted), found.dtype) == (shape, np.float32), name
            one = getattr(model, name)(x[0, 1], TIME)
            np.testing.assert_allclose(one, wanted[0, 1], rtol=1e-12, atol=1e-12 * np.abs(wanted).max())
            # x rounded to float32 moves an answer by its slope, an answer by half a unit
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("process", PROCESSES)
def test_a_force_moves_the_centre_and_nothing_else(process):
    model = ExactModel(LAWS["full"], PROCESSES[process])
    b, x = model.process.offset(TIME), model.sample(4, TIME, 0)
    centred = model.centred
    assert centred.centred is centred
    for name in ("score", "denoiser", "noise", "hessian", "velocity_jacobian", "velocity_divergence"):
        near(getattr(centred, name)(x - b.value, TIME), getattr(model, name)(x, TIME), 1e-11)
    near(centred.velocity(x - b.value, TIME) + b.rate, model.velocity(x, TIME), 1e-11)


def test_one_dimension_answers_as_the_scalar_process_does():
    schedule, law = VPLinear(), random_mixture(1, 3, 4, "diagonal")

    def beta(t):
        return np.array([[schedule.coefficients(t).g2]])

    def rates(_):
        return [[-9.95]], [0.0], [[19.9]]

    one = LinearProcess(lambda t: -beta(t) / 2, lambda t: np.sqrt(beta(t)), rates=rates)
    matrix, scalar = ExactModel(law, one), ExactModel(law, schedule)
    for t in (1e-4, 0.3, 1.0):
        x = scalar.sample(7, t, 0)
        for name in ("score", "denoiser", "noise", "velocity", "velocity_rate", "acceleration", "hessian",
                     "posterior_covariance", "denoiser_jacobian", "velocity_jacobian", "log_density",
                     "velocity_divergence", "log_density_rate"):  # fmt: skip
            wanted = getattr(scalar, name)(x, t)
            np.testing.assert_allclose(
                getattr(matrix, name)(x, t), wanted, rtol=1e-9, atol=1e-10 * np.abs(wanted).max()
            )


def test_velocities_at_rest_are_noised_from_the_first_moment():
    law = random_mixture(2, 3, 5, "full")
    model = ExactModel(with_velocity(law), critically_damped_langevin(2))
    for t in (1e-5, 1e-3, 1.0):
        x = model.sample(8, t, 0)
        c = model.process.kernel(t)
        # the denoiser knows that nothing moved at time 0
        near(model.denoiser(x, t)[:, 2:], 0 * x[:, 2:], 1e-9)
        near(model.marginal(t).mean(), c.gain @ with_velocity(law).mean(), 1e-12)
        s = model.score(x, t)
        residual = model.denoiser(x, t) @ c.gain.T - x - s @ c.noise
        assert np.abs(residual).max() < 1e-9 * np.abs(x).max()
    with pytest.raises(ValueError, match="density"):
        model.score(np.zeros(4), 0.0)
    np.testing.assert_allclose(positions(model.marginal(0.0)).cov(), law.cov(), atol=1e-13)


def test_matrix_processes_have_no_alpha_to_make_v_of():
    model = ExactModel(LAWS["full"], PROCESSES["matrix"])
    with pytest.raises(ValueError, match="process must be an AffineProcess here"):
        model.v_prediction(np.zeros(DIM), TIME)
    with pytest.raises(ValueError, match="process must have 2 axes like the data, got 4"):
        ExactModel(Gaussian(np.zeros(2), 1.0), PROCESSES["matrix"])
