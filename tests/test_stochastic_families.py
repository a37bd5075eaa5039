"""The stochastic equations of exact models: one of them is the process itself, and one Anderson's reversal."""

import numpy as np
import pytest

from refdiff import ExactModel, FlowMatching, VPLinear, operators
from refdiff.distributions import random_mixture
from refdiff.processes import AffineProcess, critically_damped_langevin
from refdiff.stochastic import StochasticEquation, forward_equation, marginal_family, solve

DIM = 2
LAW = random_mixture(DIM, 3, 5)
POINTS = np.random.default_rng(1).standard_normal((4, DIM))
PROCESSES = {
    "scalar": AffineProcess(VPLinear()),
    "with an offset": AffineProcess(VPLinear(), offset=lambda t: (t * t, 2 * t, 2.0)),
    "Langevin": critically_damped_langevin(1),
}


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("t", [0.1, 0.7])
def test_towards_noise_with_the_process_s_own_noise_the_family_is_the_process(name, t):
    process = PROCESSES[name]
    family, forward = marginal_family(ExactModel(LAW, process), to_data=False), forward_equation(process, DIM)
    np.testing.assert_allclose(family.drift_at(POINTS, t), forward.drift_at(POINTS, t), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(family.covariance_rate(POINTS, t), forward.covariance_rate(POINTS, t), rtol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_towards_data_with_the_process_s_own_noise_it_is_anderson_s_reversal(name):
    process, t = PROCESSES[name], 0.6
    model = ExactModel(LAW, process)
    pulled = operators.apply(process.diffusion(t), model.score(POINTS, t))
    wanted = forward_equation(process, DIM).drift_at(POINTS, t) - pulled
    np.testing.assert_allclose(marginal_family(model).drift_at(POINTS, t), wanted, rtol=1e-10, atol=1e-10)


def test_noise_of_one_s_own_may_have_more_motions_than_axes():
    columns = np.array([[1.0, 0.0, 0.5], [0.2, 1.0, 0.0]])
    family = marginal_family(ExactModel(LAW, VPLinear()), noise=lambda t: columns)
    assert family.motions == 3
    dw = np.random.default_rng(2).standard_normal((4, 3))
    np.testing.assert_allclose(family.scattered(POINTS, 0.5, dw), dw @ columns.T, rtol=1e-14)
    np.testing.assert_allclose(family.covariance_rate(POINTS, 0.5), columns @ columns.T, rtol=1e-14)


def test_without_noise_it_is_the_probability_flow():
    model = ExactModel(LAW, VPLinear())
    np.testing.assert_array_equal(marginal_family(model, 0.0).drift_at(POINTS, 0.5), model.velocity(POINTS, 0.5))


def test_flow_matching_has_a_flow_from_its_end_and_no_reversal():
    """D = 2 t / (1 - t): the probability flow is finite at T = 1, and so are equations with other noise."""
    model = ExactModel(LAW, FlowMatching())
    found = solve(marginal_family(model, 0.0), POINTS, [1.0, 0.8], "heun", seed=0)
    first = POINTS - 0.2 * model.velocity(POINTS, 1.0)
    wanted = POINTS - 0.1 * (model.velocity(POINTS, 1.0) + model.velocity(first, 0.8))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    for method in ("euler-maruyama", "heun", "sra1"):
        with pytest.raises(ValueError, match=r"finite, got (1\.0 where f = -inf|inf)"):
            solve(marginal_family(model), POINTS, [1.0, 0.5], method, seed=0)
    with pytest.raises(ValueError, match=r"drift at t = 1\.0 must be finite"):
        marginal_family(model).drift_at(POINTS, 1.0)
    late = marginal_family(model, noise=lambda t: np.sqrt(t / (1 - t)) * np.ones((2, 3)) if t < 1 else np.inf)
    assert late.motions == 3


def test_what_is_no_model_or_no_process_is_refused():
    with pytest.raises(TypeError, match="model must be an ExactModel"):
        marginal_family(VPLinear())
    with pytest.raises(TypeError, match="process must be a Process or a Schedule"):
        forward_equation(LAW, 2)
    with pytest.raises(ValueError, match="dim must be the process's number of axes 2, got 3"):
        forward_equation(PROCESSES["Langevin"], 3)


@pytest.mark.parametrize("noise", [lambda t: 1.0, lambda x, t: 0.5 * x], ids=["additive", "of x"])
def test_points_may_be_lists_and_have_a_shape(noise):
    equation = StochasticEquation(lambda x, t: -x, noise, 2, additive=noise.__code__.co_argcount == 1)
    listed = POINTS.tolist()
    for asked in (equation.drift_at, equation.noise_at, equation.covariance_rate):
        np.testing.assert_array_equal(asked(listed, 0.5), asked(POINTS, 0.5))
    for wrong in (POINTS[0], POINTS[:, :1], 1.0):
        with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \("):
            equation.drift_at(wrong, 0.5)
        if not equation.additive:
            with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \("):
                equation.noise_at(wrong, 0.5)
