"""Squared errors of the denoiser by three routes, at points and on average, under any weight."""

import numpy as np
import pytest

from refdiff import AffineProcess, Empirical, ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.objectives import MonteCarlo, Quadrature
from refdiff.objectives.errors import Errors, estimate, form, mean_covariance, pulled, trace
from refdiff.processes import LinearProcess

RNG = np.random.default_rng(0)
FULL = Gaussian([0.3, -0.1], [[1.0, 0.4], [0.4, 0.6]])
PEAKS = GaussianMixture.full(
    [[0.0, 1.0], [1.5, -1.0]], [[[0.5, 0.2], [0.2, 0.3]], [[0.3, 0.1], [0.1, 0.3]]], [0.4, 0.6]
)
PROCESSES = {
    "schedule": AffineProcess(VPLinear()),
    "axes": AffineProcess([VPLinear(), FlowMatching()]),
    "matrix": LinearProcess([[0.0, 4.0], [-1.0, -4.0]], [[0.0], [2.0]], force=[1.0, 0.0]),
}
WEIGHTS = {"number": np.array(2.0), "axes": np.array([1.0, 3.0]), "matrix": np.array([[2.0, 0.5], [0.5, 1.0]])}
POINTS = np.array([[0.4, 0.2], [-1.0, 1.0]])


def test_forms_traces_and_pulled_weights_are_those_of_matrices():
    u = RNG.normal(size=(3, 4, 2))
    dense = {name: np.diag(np.broadcast_to(q, 2)) if q.ndim < 2 else q for name, q in WEIGHTS.items()}
    for name, q in WEIGHTS.items():
        np.testing.assert_allclose(form(q, u), np.einsum("abi,ij,abj->ab", u, dense[name], u), rtol=1e-13)
        for other, s in WEIGHTS.items():
            np.testing.assert_allclose(trace(q, s, 2), np.trace(dense[name] @ dense[other]), rtol=1e-13)
            found = pulled(q, s, "s")
            found = np.diag(np.broadcast_to(found, 2)) if found.ndim < 2 else found
            exact = dense[name].T @ np.linalg.inv(dense[other]) @ dense[name]
            np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-13)
    for singular in (np.array([1.0, 0.0]), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="prior must have full rank, got"):
            pulled(np.ones(()), singular, "prior")


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_closed_errors_are_those_of_quadrature_and_draws(process, weight):
    model, q = ExactModel(FULL, PROCESSES[process]), WEIGHTS[weight]
    for points in (None, POINTS):
        closed = Errors(model, points, None).weighted(0.4, q)[0]
        summed, slack = Errors(model, points, Quadrature(1e-11)).weighted(0.4, q)
        np.testing.assert_allclose(summed, closed, rtol=1e-10)
        assert (slack <= 1e-11 * summed + 1e-14).all()
        drawn = Errors(model, points, MonteCarlo(1500, 2)).weighted(0.4, q)[0]
        assert drawn.shape == (1 if points is None else 2, 1500)
        value, error = estimate(drawn, 0.0)
        # six standard errors, and rounding where Cov[x_0 | x_t] is the same for all draws
        assert (np.abs(value - closed) <= 6 * error + 1e-12 * closed).all()


@pytest.mark.parametrize("process", PROCESSES)
def test_errors_of_mixtures_agree_by_quadrature_and_draws(process):
    model = ExactModel(PEAKS, PROCESSES[process])
    for points in (None, POINTS):
        for q in WEIGHTS.values():
            summed = Errors(model, points, Quadrature(1e-8)).weighted(0.6, q)[0]
            value, error = estimate(Errors(model, points, MonteCarlo(1500, 2)).weighted(0.6, q)[0], 0.0)
            assert (np.abs(value - summed) < 6 * error).all()
    covariance = mean_covariance(model, 0.6, Quadrature(1e-8))
    unit = Errors(model, None, Quadrature(1e-8)).weighted(0.6, np.ones(()))[0]
    np.testing.assert_allclose(np.trace(covariance), unit[0], rtol=1e-7)
    drawn = mean_covariance(model, 0.6, MonteCarlo(4000, 1))
    # posterior covariances spread by less than their own size: 6 / sqrt(4000) of it
    assert np.abs(drawn - covariance).max() < 0.1 * np.abs(covariance).max()


def test_errors_of_far_points_vanish_and_are_no_failure_of_quadrature():
    # E Cov is of the size e^-(8 / sigma^2): nothing beside the error that the best linear estimate leaves
    model = ExactModel(Empirical([[-1.0], [1.0]]), FlowMatching())
    value, slack = Errors(model, None, Quadrature(1e-12)).weighted(0.05, np.ones(()))
    assert 0 <= value[0] < 1e-17
    assert slack[0] < 1e-17


def test_a_point_is_denoised_without_error():
    model = ExactModel(Empirical([[1.0, 2.0]]), VPLinear())
    assert Errors(model, None, None).weighted(0.5, np.ones(()))[0] == 0
    np.testing.assert_allclose(Errors(model, np.array([[1.0, 4.0]]), None).weighted(0.5, np.ones(()))[0], [4.0])


def test_a_route_is_needed_for_mixtures_only():
    with pytest.raises(ValueError, match="there is no closed form"):
        Errors(ExactModel(PEAKS, VPLinear()), None, None)
    assert Errors(ExactModel(FULL, VPLinear()), None, None).name == "closed"
    assert Errors(ExactModel(PEAKS, VPLinear()), None, MonteCarlo(2, 0)).name == "monte carlo"
