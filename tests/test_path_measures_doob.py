"""Doob's transform: weighted ends, laws made from a point, pinned points, both directions of time, refusals."""

import numpy as np
import pytest

from refdiff import Empirical, ExactModel, Gaussian, GaussianMixture
from refdiff.path_measures import EndLaw, EndWeight, PinnedBridge, doob, log_ratio
from refdiff.processes import AffineProcess, LinearProcess
from refdiff.schedules import VEPower, VPLinear
from refdiff.stochastic import StochasticEquation, forward_equation, marginal_family, solve

LANGEVIN = LinearProcess([[0.0, 2.0], [-1.0, -2.0]], [[0.0], [1.7]], force=[0.1, -0.4])
AXES = AffineProcess([VPLinear(0.5, 3.0), VEPower(0.5, T=1.0)])
BROWNIAN = AffineProcess(VEPower(0.5, T=1.0))
ENDS = GaussianMixture.full([[1.0, 0.0], [-1.0, 0.5]], [0.2 * np.eye(2), [[0.3, 0.1], [0.1, 0.2]]], [0.4, 0.6])
PROCESSES = pytest.mark.parametrize("process", [LANGEVIN, AXES, BROWNIAN], ids=["Langevin", "axes", "Brownian"])


@PROCESSES
def test_a_law_is_made_from_a_point(process):
    made = EndLaw(process, ENDS, [0.3, -0.2])
    assert made.marginal(1.0) is ENDS
    ends = made.sample([0.5, 1.0], 4000, 3)
    # 4.5 standard errors
    for x, law in zip(ends, (made.marginal(0.5), ENDS), strict=True):
        assert (np.abs(x.mean(axis=0) - law.mean()) < 4.5 * np.sqrt(np.diag(law.cov()) / 4000)).all()
    np.testing.assert_allclose(made.marginal(0.0).mean(), [0.3, -0.2])


@PROCESSES
def test_the_weight_of_a_point_is_the_bridge(process):
    start, end, x = [0.3, -0.2], [-0.5, 0.6], np.random.default_rng(1).standard_normal((4, 2))
    pinned, weight = PinnedBridge(process, start, end), EndWeight(process, Empirical([end]))
    made = EndLaw(process, Empirical([end]), start)
    for other in (weight.gradient(x, 0.4), made.gradient(x, 0.4), made.gradient(x, 0.0) * 0 + pinned.pull(x, 0.4)):
        np.testing.assert_allclose(other, pinned.pull(x, 0.4), rtol=1e-10)
    np.testing.assert_allclose(weight.marginal(0.4, start).cov(), pinned.at(0.4).cov(), rtol=1e-10)
    np.testing.assert_allclose(made.equation().drift_at(x, 0.4), pinned.equation().drift_at(x, 0.4), rtol=1e-10)
    np.testing.assert_allclose(made.gradient(x, 0.9), pinned.pull(x, 0.9), rtol=1e-9)


@PROCESSES
def test_both_forms_of_the_pull_agree_where_they_change(process):
    made, x = EndLaw(process, ENDS, [0.3, -0.2]), np.random.default_rng(2).standard_normal((4, 2))
    before, after = made.gradient(x, 0.5), made.gradient(x, 0.5 + 1e-9)
    np.testing.assert_allclose(before, after, rtol=1e-6, atol=1e-7)


@PROCESSES
def test_the_pull_keeps_its_digits_at_both_ends_of_the_way(process):
    # near the end it is the difference of two scores there, near the start that of the middle of all ends
    made, x = EndLaw(process, ENDS, [0.3, -0.2]), np.random.default_rng(6).standard_normal((4, 2))
    free = process.kernel(1.0).at(np.array([0.3, -0.2]))
    np.testing.assert_allclose(made.gradient(x, 1 - 1e-7), ENDS.score(x) - free.score(x), rtol=1e-4, atol=1e-4)
    soon = process.kernel(1e-6).at(np.array([0.3, -0.2])).mean()
    np.testing.assert_allclose(made.gradient(soon, 1e-6), made.gradient([0.3, -0.2], 0.0), rtol=1e-4, atol=1e-4)


def test_a_weight_of_one_changes_nothing_and_the_free_end_needs_no_pull():
    x = np.random.default_rng(3).standard_normal((4, 2))
    free = Gaussian([0.3, -0.2], 1.0)
    made = EndLaw(BROWNIAN, free, [0.3, -0.2])  # of Brownian motion from there
    np.testing.assert_allclose(made.gradient(x, 0.3), 0.0, atol=1e-13)
    np.testing.assert_allclose(made.log_h(x, 0.3), 0.0, atol=1e-13)
    wide = EndWeight(BROWNIAN, Gaussian([0.0, 0.0], 1e12))
    np.testing.assert_allclose(wide.gradient(x, 0.3), 0.0, atol=1e-11)


def test_follmers_drift_for_two_points_is_a_hyperbolic_tangent():
    # from 0 to +-1 with equal weights: the drift of Brownian motion is (tanh(x / (1 - t)) - x) / (1 - t)
    made = EndLaw(BROWNIAN, Empirical([[-1.0], [1.0]]), [0.0])
    x = np.linspace(-2, 2, 9)[:, None]
    for t in (0.1, 0.3, 0.9):
        # weights e^(+-x / (1 - t)) of the free kernel over those from the point
        np.testing.assert_allclose(made.gradient(x, t), (np.tanh(x / (1 - t)) - x) / (1 - t), rtol=1e-11, atol=1e-11)
    assert made.gradient([0.0], 0.0) == 0


def test_the_ratio_of_laws_is_that_of_h():
    weight = EndWeight(AXES, ENDS)
    times = np.linspace(0.0, 0.8, 201)
    base = forward_equation(AXES, 2)
    paths = solve(base, np.tile([0.3, -0.2], (60, 1)), times, seed=5, trajectory=True)
    found = log_ratio(weight.equation(), base, paths, times)
    exact = weight.log_h(paths[-1], 0.8) - weight.log_h(paths[0], 0.0)
    # the error of left sums falls like the square root of the step
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.25
    assert exact.std() > 1


def test_the_mean_of_h_does_not_change_along_free_paths():
    weight, start = EndWeight(LANGEVIN, ENDS), np.array([0.3, -0.2])
    x = LANGEVIN.channel(0.0, 0.6).at(start).sample(20_000, 1)
    values = np.exp(weight.log_h(x, 0.6))
    # 4.5 standard errors
    assert abs(values.mean() - np.exp(weight.log_h(start, 0.0))) < 4.5 * values.std() / np.sqrt(20_000)


def test_time_to_data_pulls_the_other_way():
    model = ExactModel(ENDS, AXES)
    clean, x = np.array([0.7, 0.1]), np.random.default_rng(4).standard_normal((4, 2))
    point = ExactModel(Empirical([clean]), AXES)

    def gradient(y, t):  # of log p(x_0 | x_t)
        return point.score(y, t) - model.score(y, t)

    conditioned = doob(marginal_family(model), gradient, to_data=True)
    np.testing.assert_allclose(conditioned.drift_at(x, 0.4), marginal_family(point).drift_at(x, 0.4), rtol=1e-11)


def test_noise_of_the_state_pulls_with_its_own_strength():
    axes = StochasticEquation(lambda x, t: 0 * x, lambda x, t: x, 2, additive=False)
    matrices = StochasticEquation(lambda x, t: 0 * x, lambda x, t: x[:, :, None] * np.eye(2), 2, additive=False)
    x = np.random.default_rng(5).standard_normal((3, 2))
    for equation in (axes, matrices):
        np.testing.assert_allclose(doob(equation, lambda y, t: np.ones_like(y)).drift_at(x, 0.0), x**2, rtol=1e-14)


def test_single_points_and_precision():
    weight, made = EndWeight(AXES, ENDS), EndLaw(AXES, ENDS, [0.0, 0.0])
    for one in (weight, made):
        assert np.ndim(one.log_h([0.1, 0.2], 0.4)) == 0
        assert one.gradient(np.zeros((2, 3, 2), dtype=np.float32), 0.4).dtype == np.float32
        assert one.gradient(np.zeros((2, 3, 2)), 0.4).shape == (2, 3, 2)


def test_refusals():
    with pytest.raises(TypeError, match="law"):
        EndWeight(AXES, np.sin)
    with pytest.raises(ValueError, match="law must have dimension"):
        EndWeight(AXES, Gaussian([0.0], 1.0))
    with pytest.raises(ValueError, match="start"):
        EndLaw(AXES, ENDS, [0.0])
    with pytest.raises(ValueError, match="t must lie in"):  # where there is no density beside the start
        EndLaw(AXES, ENDS, [0.0, 0.0], 0.2).log_h([0.0, 0.0], 0.2)
    with pytest.raises(ValueError, match="e must"):
        EndWeight(AXES, ENDS, 2.0)
    with pytest.raises(TypeError, match="equation"):
        doob(np.sin, np.sin)
    with pytest.raises(TypeError, match="gradient"):
        doob(forward_equation(AXES, 2), 1.0)
    with pytest.raises(ValueError, match="gradient"):
        doob(forward_equation(AXES, 2), lambda x, t: x[:, :1]).drift_at(np.zeros((2, 2)), 0.5)
