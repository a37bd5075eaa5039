"""Jacobians of flow maps against differences, closed forms, volumes and densities."""

import numpy as np
import pytest
from numba import config

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPLinear,
    backends,
)
from refdiff.distributions import random_mixture
from refdiff.dynamics import Unfinished, flow
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.dynamics.jacobians import flow_jacobian
from refdiff.processes import LinearProcess
from refdiff.validation import numeric

AXES = AffineProcess([VPLinear(), FlowMatching()])
TURNING = LinearProcess([[0.0, 1.0], [-1.0, -2.0]], [[0.3, 0.0], [0.2, 1.5]], 1.0)


@pytest.mark.parametrize(
    ("process", "start", "end"),
    [(VPLinear(), 1.0, 0.0), (AXES, 0.2, 0.9), (TURNING, 1.0, 0.1)],
    ids=["VP", "axes", "F"],
)
def test_the_jacobian_of_gaussian_data_is_the_gain_of_the_closed_map(process, start, end):
    law = Gaussian([1.0, -0.5], np.array([[0.6, 0.3], [0.3, 0.4]]))
    model = ExactModel(law, process)
    x = model.sample(2, start, 1)
    found, channel = flow_jacobian(model, x, start, end, rtol=1e-8), gaussian_flow(law, process, start, end)
    # some 50 steps of 1e-8
    np.testing.assert_allclose(found.jacobian, np.broadcast_to(channel.gain, (2, 2, 2)), rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.log_volume, np.linalg.slogdet(channel.gain)[1], rtol=0, atol=1e-7)


@pytest.mark.skipif(config.DISABLE_JIT, reason="hours without compilation")
@pytest.mark.parametrize(("start", "end"), [(80.0, 0.01), (0.01, 80.0)])
def test_three_routes_to_a_volume_and_two_to_a_matrix_agree(start, end):
    """Magnified or shrunk by thousands: entries keep their digits, and so does log |det M|."""
    model = ExactModel(random_mixture(2, 3, 5, "full"), VEPower(T=80.0))
    x = model.sample(1, start, 2)
    found = flow_jacobian(model, x, start, end, rtol=1e-8, atol=1e-10)
    step = 1e-3 * np.sqrt(np.diag(model.marginal(start).cov()).min())
    with backends.use("numba"):
        differences = numeric.jacobian(lambda y: flow(model, y, start, end, rtol=1e-13, atol=1e-15).x, x, step)
    size = np.abs(differences).max()
    np.testing.assert_allclose(found.jacobian, differences, rtol=0, atol=1e-6 * size)
    densities = model.log_density(x, start) - model.log_density(found.x, end)
    np.testing.assert_allclose(found.log_volume, densities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.log_determinant, found.log_volume, rtol=0, atol=1e-6)
    # the control: the diagonal alone has another determinant
    diagonal = np.log(np.abs(np.einsum("nii->ni", found.jacobian))).sum(axis=1)
    assert np.abs(diagonal - found.log_volume).max() > 1e-4


def test_jacobians_multiply_along_the_way():
    model = ExactModel(random_mixture(3, 4, 6, "diagonal"), VPLinear())
    x = model.sample(1, 0.8, 3)
    whole, first = flow_jacobian(model, x, 0.8, 0.2, rtol=1e-7), flow_jacobian(model, x, 0.8, 0.4, rtol=1e-7)
    second = flow_jacobian(model, first.x, 0.4, 0.2, rtol=1e-7)
    size = np.abs(whole.jacobian).max()
    np.testing.assert_allclose(second.jacobian @ first.jacobian, whole.jacobian, rtol=0, atol=1e-5 * size)
    np.testing.assert_allclose(second.x, whole.x, rtol=0, atol=1e-5)


def test_shapes_types_and_offsets():
    law = GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.5]], 0.2)
    plain = ExactModel(law, VPLinear())
    moved = ExactModel(law, AffineProcess(VPLinear(), offset=lambda t: (t, 1.0, 0.0)))
    x = plain.sample(20, 0.5, 4).reshape(4, 5, 2)
    found, shifted = (
        flow_jacobian(plain, x, 0.5, 0.3, rtol=1e-6),
        flow_jacobian(moved, x + 0.5, 0.5, 0.3, rtol=1e-6),
    )
    assert found.x.shape == (4, 5, 2)
    assert found.jacobian.shape == (4, 5, 2, 2)
    assert found.log_volume.shape == found.evaluations.shape == found.log_determinant.shape == (4, 5)
    np.testing.assert_allclose(shifted.x, found.x + 0.3, rtol=0, atol=1e-5)
    np.testing.assert_allclose(shifted.jacobian, found.jacobian, rtol=0, atol=1e-5)
    single = flow_jacobian(plain, x[0, 0].astype(np.float32), 0.5, 0.3, rtol=1e-5)
    assert single.x.dtype == single.jacobian.dtype == single.log_volume.dtype == np.float32
    assert single.jacobian.shape == (2, 2)
    still = flow_jacobian(plain, x, 0.4, 0.4)
    assert np.array_equal(still.jacobian, np.broadcast_to(np.eye(2), (4, 5, 2, 2)))
    assert flow_jacobian(plain, np.empty((0, 2)), 0.9, 0.3).jacobian.shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": VPLinear()}, TypeError, "model must be an ExactModel"),
        ({"x": [0.0]}, ValueError, "x must have shape"),
        ({"start": 2.0}, ValueError, "start must lie in"),
        ({"model": ExactModel(Empirical([[0.0, 1.0]]), VPLinear())}, ValueError, "at which the data have a density"),
        ({"max_steps": 1}, Unfinished, "max_steps = 1 must be larger"),
        ({"rtol": 0.0}, ValueError, "rtol must lie in"),
    ],
)
def test_what_cannot_be_done_is_refused(change, error, message):
    model = ExactModel(GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.5]], 0.2), VPLinear())
    arguments = {"model": model, "x": [[0.0, 0.1]], "start": 1.0, "end": 0.0} | change
    with pytest.raises(error, match=message):
        flow_jacobian(**arguments)
