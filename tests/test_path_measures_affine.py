"""Affine equations and joint laws of two times: printed numbers, both directions, mixtures, refusals."""

import numpy as np
import pytest

from refdiff import ExactModel, Gaussian, GaussianMixture
from refdiff.path_measures import (
    AffineEquation,
    AffineScore,
    affine_forward,
    affine_reverse,
    forward_joint,
    reverse_joint,
)
from refdiff.processes import AffineProcess, LinearProcess
from refdiff.schedules import VPLinear
from refdiff.stochastic import forward_equation, marginal_family

TURNING = LinearProcess([[0.0, 2.0], [-1.0, -1.0]], [[0.4, 0.0], [0.3, 1.1]], force=[0.3, -0.2])
AXES = AffineProcess([VPLinear(), VPLinear(0.5, 3.0)])
MOVED = AffineProcess(VPLinear(0.5, 3.0), offset=lambda t: ([t, t * t], [1.0, 2 * t], [0.0, 2.0]))
DATA = Gaussian([0.5, -0.3], [[0.7, 0.2], [0.2, 0.4]])


def test_the_printed_covariances():
    # PODD-90: beta = 1, T = 1, V_0 = 4: alpha_T V_0 = 2.426 for the equation, sqrt(V_0 V_T) = 2.901 for the flow
    model = ExactModel(Gaussian([0.0], 4.0), VPLinear(1.0, 1.0))
    equation, flow = (reverse_joint(model, 0.0, 1.0, k).cov() for k in (1.0, 0.0))
    assert abs(equation[0, 1] - 2.426) < 0.5e-3
    assert abs(flow[0, 1] - 2.901) < 0.5e-3
    np.testing.assert_allclose(np.diag(equation), np.diag(flow), rtol=1e-12)
    np.testing.assert_allclose(equation, forward_joint(model, 0.0, 1.0).cov(), rtol=1e-12)


@pytest.mark.parametrize("process", [TURNING, AXES, MOVED], ids=["matrices", "axes", "offset"])
def test_the_reverse_has_the_joint_law_of_the_process_for_one_amount_of_noise(process):
    model = ExactModel(DATA, process)
    forward = forward_joint(model, 0.2, 0.7)
    for k, same in ((1.0, True), (0.5, False), (2.0, False)):
        back = reverse_joint(model, 0.2, 0.7, k)
        np.testing.assert_allclose(back.mean(), forward.mean(), rtol=1e-11)
        assert (np.abs(back.cov() - forward.cov()).max() < 1e-11) == same
        np.testing.assert_allclose(back.cov()[:2, :2], forward.cov()[:2, :2], rtol=1e-11)


def test_the_joint_law_of_a_mixture_has_the_marginals_and_the_kernel():
    law = GaussianMixture.full([[0.0, 1.0], [2.0, -1.0]], [np.eye(2), [[0.5, 0.1], [0.1, 0.3]]], [0.3, 0.7])
    model = ExactModel(law, TURNING)
    joint = forward_joint(model, 0.2, 0.7)
    for axes, t in (([0, 1], 0.2), ([2, 3], 0.7)):
        x = model.sample(3, t, 1)
        np.testing.assert_allclose(joint.marginal(axes).logpdf(x), model.log_density(x, t), rtol=1e-12)
    x = model.sample(1, 0.2, 2)[0]
    y = np.array([[0.3, 0.4], [1.0, 0.0]])
    given = joint.conditional([0, 1], x).logpdf(y)
    np.testing.assert_allclose(given, TURNING.channel(0.2, 0.7).logpdf(y, x[None]), rtol=1e-11)


@pytest.mark.parametrize("process", [TURNING, AXES, MOVED], ids=["matrices", "axes", "offset"])
def test_equations_are_those_of_the_process_and_its_family(process):
    model, x = ExactModel(DATA, process), np.random.default_rng(0).standard_normal((4, 2))
    forward = affine_forward(process, 2)
    np.testing.assert_allclose(
        forward.equation().drift_at(x, 0.4), forward_equation(process, 2).drift_at(x, 0.4), rtol=1e-12
    )
    np.testing.assert_array_equal(forward.equation().linear_at(0.4), process.drift(0.4))
    assert affine_forward(VPLinear(), 2).linear_at(0.4) == VPLinear().f(0.4)
    own = forward.transition(0.2, 0.7)
    np.testing.assert_allclose(
        own.push(model.marginal(0.2)).cov(), process.channel(0.2, 0.7).push(model.marginal(0.2)).cov(), rtol=1e-12
    )
    for k in (0.5, 1.0):
        back, family = affine_reverse(process, AffineScore.exact(model), k).equation(), marginal_family(model, k)
        np.testing.assert_allclose(back.drift_at(x, 0.4), family.drift_at(x, 0.4), rtol=1e-11)
        np.testing.assert_allclose(back.noise_at(x, 0.4), family.noise_at(x, 0.4), rtol=1e-12)


def test_no_time_is_no_change_and_numbers_serve_every_axis():
    equation = AffineEquation(lambda t: -1.0, lambda t: 0.5, lambda t: 2.0, 3)
    still = equation.transition(0.3, 0.3)
    assert (still.gain, still.noise) == (1.0, 0.0)
    step = equation.transition(0.0, 1.0)
    np.testing.assert_allclose(step.gain, np.exp(-1) * np.eye(3), atol=1e-15)
    np.testing.assert_allclose(step.offset, 0.5 * (1 - np.exp(-1)), rtol=1e-13)
    np.testing.assert_allclose(step.noise, 2 * (1 - np.exp(-2)) * np.eye(3), atol=1e-14)
    assert equation.diffusion_at(0.0) == 4


def test_refusals():
    with pytest.raises(TypeError, match="linear"):
        AffineEquation(1.0, lambda t: 0.0, lambda t: 1.0, 1)
    with pytest.raises(ValueError, match="dim"):
        AffineEquation(lambda t: 1.0, lambda t: 0.0, lambda t: 1.0, 0)
    bad = AffineEquation(lambda t: np.eye(3), lambda t: np.zeros(3), lambda t: np.ones((3, 2)), 2)
    for ask, name in ((bad.linear_at, "linear"), (bad.force_at, "force"), (bad.noise_at, "noise")):
        with pytest.raises(ValueError, match=name):
            ask(0.0)
    with pytest.raises(TypeError, match="process"):
        affine_forward(1.0, 2)
    with pytest.raises(ValueError, match="dim"):
        affine_forward(TURNING, 3)
    score = AffineScore(lambda t: 1.0, lambda t: 0.0, 3)
    with pytest.raises(ValueError, match="score"):
        affine_reverse(TURNING, score)
    with pytest.raises(TypeError, match="score"):
        affine_reverse(TURNING, np.sin)
    with pytest.raises(TypeError, match="process"):
        affine_reverse(np.sin, score)
    with pytest.raises(TypeError, match="model"):
        forward_joint(DATA, 0.1, 0.2)
    with pytest.raises(ValueError, match="s must not exceed t"):
        reverse_joint(ExactModel(DATA, TURNING), 0.7, 0.2)
