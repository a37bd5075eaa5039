"""The flow of an exact model as a normalizing flow, against the densities that it transports."""

import numpy as np
import pytest
from numba import config

from refdiff import ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear, backends
from refdiff.dynamics import FlowMap
from refdiff.normalizing import Affine, Composition, PushForward

if config.DISABLE_JIT:
    pytest.skip("hours without compilation", allow_module_level=True)

LAW = GaussianMixture.isotropic([[-1.0, 0.3], [1.0, 0.0], [0.2, 1.5]], [0.2, 0.3, 0.1], [0.3, 0.5, 0.2])
MODEL = ExactModel(LAW, VPLinear())


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.1, 0.8)])
def test_the_flow_of_a_marginal_is_the_other_marginal(start, end):
    f = FlowMap(MODEL, start, end, rtol=1e-8, atol=1e-10)
    law = PushForward(MODEL.marginal(start), f)
    x = MODEL.sample(2, end, 1)
    with backends.use("numba"):
        # steps of 1e-8 each, some tens of them
        np.testing.assert_allclose(law.logpdf(x), MODEL.log_density(x, end), rtol=0, atol=1e-6)
        z = f.inverse(x)
        np.testing.assert_allclose(f.forward(z), x, rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.linalg.slogdet(f.jacobian(z))[1], f.log_det(z), rtol=0, atol=1e-6)
        assert law.sample(3, 2).shape == (3, 2)


def test_its_likelihood_of_gaussian_data_is_minus_their_entropy():
    data = Gaussian([0.5, -1.0], [[1.0, 0.4], [0.4, 0.5]])
    model = ExactModel(data, FlowMatching())
    roots = np.sqrt(2) * np.linalg.cholesky(data.cov())
    nodes = data.mean() + np.concatenate([roots.T, -roots.T])  # exact for quadratics
    law = PushForward(Gaussian(np.zeros(2), 1.0), FlowMap(model, 1.0, 0.0, rtol=1e-8, atol=1e-10))
    entropy = np.linalg.slogdet(2 * np.pi * np.e * data.cov())[1] / 2
    assert abs(law.likelihood(nodes).value + entropy) < 1e-6
    # the same law seen through one more layer
    shifted = PushForward(law.base, Composition([law.bijection, Affine(2.0, [1.0, 1.0])]))
    np.testing.assert_allclose(shifted.logpdf(2 * nodes + 1), data.logpdf(nodes) - 2 * np.log(2), rtol=0, atol=1e-6)


def test_batches_keep_their_shape_and_precision():
    f = FlowMap(MODEL, 0.9, 0.2, method="dopri5", rtol=1e-5, atol=1e-6)
    z = MODEL.sample(4, 0.9, 3).reshape(2, 2, 2).astype(np.float32)
    for found, tail in ((f.forward(z), (2,)), (f.inverse(z), (2,)), (f.log_det(z), ()), (f.jacobian(z), (2, 2))):
        assert found.dtype == np.float32
        assert found.shape == (2, 2, *tail)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="model must be an ExactModel"):
        FlowMap(LAW, 0.0, 1.0)
    with pytest.raises(ValueError, match="end must lie"):
        FlowMap(MODEL, 0.0, 1.1)
