"""Flow couplings: the law they arrive at, the way back, their derivatives, and the closed forms they take."""

import numpy as np
import pytest

from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, monotone_map, random_mixture
from refdiff.dynamics import field_flow
from refdiff.interpolants import FlowCoupling, InterpolantModel, brownian, linear, rectify, trigonometric
from refdiff.normalizing import PushForward
from refdiff.transport import component_pairs, gaussian_pairs, image_pairs, independent

P = GaussianMixture.full([[-1.0, 0.0], [1.0, 0.5]], [[[0.3, 0.1], [0.1, 0.2]], [[0.4, 0.0], [0.0, 0.1]]], [0.4, 0.6])
Q = GaussianMixture.isotropic([[0.0, 2.0], [2.5, -1.0]], [0.2, 0.3], [0.5, 0.5])
LINES = [random_mixture(1, 3, 1, "full", spread=0.8), random_mixture(1, 2, 2, "full", spread=0.8)]


def test_mixtures_arrive_at_the_second_law_and_return():
    flow, z = rectify(independent(P, Q), rtol=1e-8), P.sample(2, 0)
    assert not flow.is_affine
    t = 0.8
    x, slopes = flow.with_jacobian(z, t)
    # steps of 1e-8 each, some tens of them
    np.testing.assert_allclose(flow.forward(z, t), x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow.inverse(x, t), z, rtol=0, atol=1e-6)
    # what the change of variables says of the law: the derivative of the map knows no density
    np.testing.assert_allclose(np.linalg.slogdet(slopes)[1], flow.log_det(z, t), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        flow.model.log_density(x, t), P.logpdf(z) - np.linalg.slogdet(slopes)[1], rtol=0, atol=1e-6
    )
    h = np.array([1e-3, 0.0])
    stencil = (flow.forward(z + h, t) - flow.forward(z - h, t)) / 2e-3
    np.testing.assert_allclose(slopes[:, :, 0], stencil, rtol=0, atol=1e-4)  # h^2, and 1e-8 / h


def test_a_coupling_by_components_keeps_its_laws_too():
    flow = rectify(component_pairs(P, Q, [[0.4, 0.0], [0.1, 0.5]]), rtol=1e-8)
    z, x = flow.sample(5, 1)
    np.testing.assert_allclose(Q.logpdf(x), P.logpdf(z) - np.linalg.slogdet(flow.jacobian(z))[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", [linear(), trigonometric(), brownian(0.5, 2.0)])
def test_on_the_line_every_path_leads_to_the_monotone_map(path):
    p, q = LINES
    flow, z = rectify(InterpolantModel(independent(p, q), path)), p.sample(5, 0)
    x = flow.forward(z)
    np.testing.assert_allclose(x, monotone_map(p, q, z), rtol=0, atol=1e-11)
    for t in (0.3 * flow.T, flow.T):
        stepped = field_flow(flow.model.field(), z, 0.0, t, rtol=1e-9, atol=1e-11).x
        np.testing.assert_allclose(flow.forward(z, t), stepped, rtol=0, atol=1e-7)
        np.testing.assert_allclose(flow.inverse(flow.forward(z, t), t), z, rtol=0, atol=1e-11)
    h = 1e-5
    stencil = (flow.forward(z + h) - flow.forward(z - h)) / (2 * h)
    np.testing.assert_allclose(flow.jacobian(z)[:, :, 0], stencil, rtol=1e-7)


def test_points_are_reached_on_the_line_and_left_by_no_map():
    flow = rectify(independent(Gaussian([0.0], 1.0), Empirical([[-1.0], [2.0]], [0.25, 0.75])))
    x = flow.forward(np.array([[-3.0], [-0.7], [-0.6], [2.0]]))
    np.testing.assert_allclose(x[:, 0], [-1.0, -1.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="law at the time 1"):
        flow.inverse(x)
    with pytest.raises(ValueError, match="law at the time 1"):
        flow.jacobian(x)
    plane = rectify(independent(Gaussian([0.0, 0.0], 1.0), Empirical([[-1.0, 0.0], [2.0, 0.0]])))
    near = plane.forward([[-2.0, 0.3], [1.0, 0.1]], 0.999)  # 0.001 of the way is left
    np.testing.assert_allclose(near, [[-1.0, 0.0], [2.0, 0.0]], rtol=0, atol=0.005)
    with pytest.raises(ValueError, match="law at the time 1"):
        plane.forward([[0.0, 0.0]])
    with pytest.raises(ValueError, match="law at the time 0"):
        rectify(independent(Empirical([[-1.0], [2.0]]), Gaussian([0.0], 1.0)))


def test_affine_flows_are_laws_of_pairs_and_fixed_points():
    p, q = Gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 1.0]]), Gaussian([0.0, 3.0], [[1.0, -0.6], [-0.6, 3.0]])
    first = rectify(independent(p, q))
    pairs = first.pairs()
    np.testing.assert_allclose(pairs.second.cov(), q.cov(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(pairs.second.mean(), q.mean(), rtol=0, atol=1e-13)
    again = rectify(pairs).channel()
    np.testing.assert_allclose(again.gain, first.channel().gain, rtol=0, atol=1e-12)
    z = p.sample(3, 0)
    np.testing.assert_allclose(first.jacobian(z), np.tile(first.channel().gain, (3, 1, 1)))
    image = rectify(image_pairs(P, Channel([[1.0, 0.8], [-0.5, 0.7]], [1.0, 1.0])))  # of a mixture
    np.testing.assert_allclose(image.pairs().second.means, image.target.means, rtol=0, atol=1e-13)
    z = P.sample(3, 0)
    stepped = field_flow(image.model.field(), z, 0.0, 1.0, rtol=1e-9).x
    np.testing.assert_allclose(image.forward(z), stepped, rtol=0, atol=1e-8)


def test_pairs_the_other_way_round_are_rectified_to_the_way_back():
    p, q = Gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 1.0]]), Gaussian([0.0, 3.0], [[1.0, -0.6], [-0.6, 3.0]])
    for pairs in (gaussian_pairs(p, q, [[0.3, 0.5], [-0.4, 0.2]]), independent(*LINES)):
        there, back = rectify(pairs), rectify(pairs.swapped())
        z = there.source.sample(3, 0)
        np.testing.assert_allclose(back.forward(there.forward(z)), z, rtol=0, atol=1e-11)
        np.testing.assert_allclose(there.log_det(z), there.model.log_density(z, 0.0)
                                   - there.model.log_density(there.forward(z), 1.0), rtol=0, atol=1e-11)  # fmt: skip


def test_points_that_an_affine_map_moves_are_moved_back():
    law = Empirical(np.eye(3).repeat(2, 0).cumsum(0))
    flow = rectify(image_pairs(law, Channel(2.0, [1.0, 0.0, 3.0])))
    x = flow.forward(law.means, 0.5)
    np.testing.assert_allclose(x, 1.5 * law.means + [0.5, 0.0, 1.5], rtol=0, atol=1e-12)
    np.testing.assert_allclose(flow.inverse(x, 0.5), law.means, rtol=0, atol=1e-12)
    np.testing.assert_allclose(flow.log_det(law.means), 3 * np.log(2), rtol=1e-12)
    collapsed = rectify(independent(law, Gaussian([1.0, 2.0, 3.0], 0.0)))
    np.testing.assert_allclose(collapsed.forward(law.means), np.tile([1.0, 2.0, 3.0], (6, 1)))
    with pytest.raises(ValueError, match="law at the time 1"):
        collapsed.inverse(law.means)


def test_it_is_a_bijection_for_other_laws_and_gives_point_pairs():
    flow = rectify(independent(*LINES))
    law = PushForward(LINES[0], flow)
    x = LINES[1].sample(4, 0)
    np.testing.assert_allclose(law.logpdf(x), LINES[1].logpdf(x), rtol=0, atol=1e-9)
    pairs = flow.pairs(z := LINES[0].sample(6, 1))
    np.testing.assert_allclose(pairs.second.means, flow.forward(z))


def test_batches_keep_their_shape_and_precision():
    plane = rectify(independent(P, Q), method="dopri5", rtol=1e-5, atol=1e-6)
    for flow in (
        rectify(independent(*LINES)),
        plane,
        rectify(independent(Gaussian([0, 0], 1.0), Gaussian([1, 1], 2.0))),
    ):
        z = np.zeros((2, 1, flow.dim), np.float32)
        for found, tail in ((flow.forward(z), (flow.dim,)), (flow.inverse(z), (flow.dim,)), (flow.log_det(z), ()),
                            (flow.jacobian(z), (flow.dim, flow.dim))):  # fmt: skip
            assert found.dtype == np.float32
            assert found.shape == (2, 1, *tail)
        assert flow.forward(np.zeros((0, flow.dim))).shape == (0, flow.dim)
        np.testing.assert_array_equal(flow.forward(z, 0.0), z)
        np.testing.assert_array_equal(flow.jacobian(z, 0.0), np.broadcast_to(np.eye(flow.dim), (2, 1, *[flow.dim] * 2)))


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="given must be an InterpolantModel or a PairLaw"):
        rectify(P)
    with pytest.raises(TypeError, match="model must be an InterpolantModel"):
        FlowCoupling(P)
    with pytest.raises(ValueError, match="method must be one of"):
        rectify(independent(P, Q), method="euler")
    flow = rectify(independent(P, Q))
    with pytest.raises(ValueError, match="model must have an affine flow"):
        flow.channel()
    with pytest.raises(ValueError, match="model must have an affine flow"):
        flow.pairs()
    with pytest.raises(ValueError, match="t must lie in"):
        flow.forward([[0.0, 0.0]], 1.5)
    with pytest.raises(ValueError, match="z must have shape"):
        flow.forward([[0.0]])
