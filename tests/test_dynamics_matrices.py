"""Flow maps, likelihoods, Jacobians and translations of processes with matrices: by the same functions as of others."""

import numpy as np
import pytest
from scipy.linalg import expm

from refdiff.distributions import Empirical, Gaussian, random_mixture
from refdiff.dynamics import flow, flow_jacobian, gaussian_flow, log_likelihood, path, translate
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, LinearProcess, PrincipalAxes, critically_damped_langevin
from refdiff.schedules import FlowMatching, VPLinear


def turning():
    """Drift, noise and force that change in time and commute with nothing."""
    a, b, g, h = np.random.default_rng(5).standard_normal((4, 2, 2)) * np.array([0.5, 0.5, 0.6, 0.3])[:, None, None]
    return LinearProcess(
        lambda t: a + expm(t * a) @ b @ expm(-t * a),
        lambda t: g + np.sin(t) * h,
        force=lambda t: np.array([np.cos(t), 1]),
    )


TURNED = PrincipalAxes(AffineProcess([VPLinear(), FlowMatching()]), expm(0.7 * np.array([[0.0, 1.0], [-1.0, 0.0]])))
LOOSE = {"rtol": 1e-6, "atol": 1e-8}
PROCESSES = {"langevin": critically_damped_langevin(1), "turning": turning(), "principal axes": TURNED}


@pytest.fixture(scope="module", params=PROCESSES)
def model(request):
    return ExactModel(random_mixture(2, 3, 1, "full"), PROCESSES[request.param])


def test_densities_follow_the_flow_and_points_come_back(model):
    """DOP853 at rtol 1e-6 loses a few tens of it over the way."""
    x = model.sample(3, 0.9, 1)
    there = flow(model, x, 0.9, 0.1, log_density=True, **LOOSE)
    closed = model.log_density(there.x, 0.1) - model.log_density(x, 0.9)
    np.testing.assert_allclose(there.log_density_change, closed, atol=1e-4)
    np.testing.assert_allclose(flow(model, there.x, 0.1, 0.9, **LOOSE).x, x, atol=1e-4)


def test_the_likelihood_by_the_flow_is_the_density_of_the_data(model):
    x = model.distribution.sample(3, 2)
    found = log_likelihood(model, x, end=0.9, **LOOSE)
    np.testing.assert_allclose(found.log_likelihood, model.distribution.logpdf(x), atol=1e-4)


def test_the_jacobian_of_the_flow_is_its_derivative(model):
    """Central differences of order 2 with h = 1e-3 err by 1e-6 and lose 1e-8 / h of the flow's tolerance."""
    x = model.sample(1, 0.9, 3)
    found, h = flow_jacobian(model, x, 0.9, 0.5, **LOOSE), 1e-3
    ahead, behind = flow(model, x + h * np.array([np.eye(2), -np.eye(2)]), 0.9, 0.5, rtol=1e-8, atol=1e-10).x
    np.testing.assert_allclose(found.jacobian[0], ((ahead - behind) / (2 * h)).T, atol=1e-4)
    np.testing.assert_allclose(np.linalg.slogdet(found.jacobian)[1], found.log_volume, atol=1e-4)


def test_gaussian_data_have_a_closed_flow(model):
    data = Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 0.6]])
    exact = ExactModel(data, model.process)
    x = exact.sample(3, 0.9, 1)
    channel = gaussian_flow(data, model.process, 0.9, 0.2)
    np.testing.assert_allclose(channel.push(exact.marginal(0.9)).cov(), exact.marginal(0.2).cov(), rtol=1e-11)
    np.testing.assert_allclose(channel.sample(x, 0), flow(exact, x, 0.9, 0.2, **LOOSE).x, atol=1e-4)


def test_one_point_moves_with_the_noise(model):
    """The flow of a point mass is `noise_channel`, which the path of dense output passes."""
    point = ExactModel(Empirical([[0.4, -0.2]]), model.process)
    x = point.sample(2, 0.9, 1)
    times = [0.9, 0.6, 0.2]
    found = path(point, x, times, **LOOSE)
    for t, at in zip(times, found.x, strict=True):
        start, end = (model.process.kernel(u) for u in (0.9, t))
        rest = x - start.at(point.distribution.means[0]).means[0]
        expected = end.at(point.distribution.means[0]).means[0] + rest @ np.transpose(
            model.process.noise_channel(0.9, t).gain
        )
        np.testing.assert_allclose(at, expected, atol=1e-4)


def test_translation_there_and_back_is_nothing(model):
    other = ExactModel(random_mixture(2, 2, 9, "full"), model.process)
    x = model.distribution.sample(2, 4)
    there = translate(model, other, x, 0.8, **LOOSE)
    np.testing.assert_allclose(translate(other, model, there.x, 0.8, **LOOSE).x, x, atol=1e-4)
    assert np.abs(there.x - x).max() > 0.01
