"""Reflow of maps: lines, their velocity by Newton's steps, and where they cross."""

import numpy as np
import pytest

from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.dynamics import VelocityField, field_flow
from refdiff.interpolants import InterpolantModel, MapCoupling, StraightFlow, linear, rectify, reflow
from refdiff.transport import component_pairs, image_pairs, independent

P = GaussianMixture.full([[-1.0, 0.0], [1.0, 0.5]], [[[0.3, 0.1], [0.1, 0.2]], [[0.4, 0.0], [0.0, 0.1]]], [0.4, 0.6])
Q = GaussianMixture.isotropic([[0.0, 2.0], [2.5, -1.0]], [0.2, 0.3], [0.5, 0.5])
LINES = [random_mixture(1, 3, 1, "full", spread=0.8), random_mixture(1, 2, 2, "full", spread=0.8)]
CORNERS = 2 * np.array([[np.cos(u), np.sin(u)] for u in 2 * np.pi * np.arange(3) / 3])
RING = GaussianMixture.isotropic(CORNERS, [0.2, 0.2, 0.2])


def coarse(pairs):
    """Steps of 1e-5, for maps in the plane."""
    return reflow(rectify(pairs, method="dopri5", rtol=1e-5, atol=1e-6))


def test_in_the_plane_newtons_steps_find_the_line_through_a_point():
    flow, z = coarse(independent(P, Q)), P.sample(1, 0)
    assert np.isinf(flow.crossing_time(z)).all()
    t = 0.6
    x = flow.forward(z, t)
    # the map is known to some 1e-5
    np.testing.assert_allclose(flow.inverse(x, t), z, rtol=0, atol=1e-3)
    np.testing.assert_allclose(flow.velocity(x, t), flow.coupling.forward(z) - z, rtol=0, atol=1e-3)


@pytest.mark.parametrize("law", [LINES[1], GaussianMixture.isotropic([[-5.0], [5.0]], [0.1, 0.1])])
def test_on_the_line_no_lines_cross_and_the_velocity_leads_along_them(law):
    flow, z = reflow(independent(LINES[0], law)), LINES[0].sample(20, 0)
    assert np.isinf(flow.crossing_time(z)).all()
    lines = flow.coupling.forward(z) - z
    for t in (0.0, 0.5, 0.9, 1.0):
        x = flow.forward(z, t)
        np.testing.assert_allclose(flow.inverse(x, t), z, rtol=0, atol=1e-11)
        np.testing.assert_allclose(flow.velocity(x, t), lines, rtol=0, atol=2e-11)
    field = VelocityField(flow.velocity, 1)
    moved = field_flow(field, z[:1], 0.0, 1.0, rtol=1e-6, atol=1e-7).x
    np.testing.assert_allclose(moved, flow.coupling.forward(z[:1]), rtol=0, atol=1e-5)


def test_of_gaussians_it_is_the_velocity_of_the_law_of_pairs():
    p, q = Gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 1.0]]), Gaussian([0.0, 3.0], [[1.0, -0.6], [-0.6, 3.0]])
    first = rectify(independent(p, q))
    flow, model = reflow(first), InterpolantModel(first.pairs(), linear())
    for t in (0.2, 0.8):
        x = model.sample(3, t, 0)
        np.testing.assert_allclose(flow.velocity(x, t), model.velocity(x, t), rtol=0, atol=1e-11)
        z, slopes = flow.inverse(x, t), flow.jacobian(x, t)
        np.testing.assert_allclose(flow.forward(z, t), x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(slopes[0], (1 - t) * np.eye(2) + t * first.channel().gain, rtol=0, atol=1e-12)
    assert isinstance(flow, MapCoupling)
    np.testing.assert_allclose(reflow(flow).velocity(x, 0.8), flow.velocity(x, 0.8), rtol=0, atol=1e-11)


def test_lines_that_cross_are_told():
    # each corner goes to the next one: off the centre of the ring neighbours change places
    flow = coarse(component_pairs(RING, RING, np.roll(np.eye(3) / 3, 1, axis=1)))
    around, within = flow.crossing_time(np.array([CORNERS[0], [0.3, 0.0]]))
    assert around == np.inf
    assert 0 < within < 1


class Mirror:
    """The plane turned by half a turn and stretched, about a centre: lines that all cross."""

    dim, T, source = 2, 1.0, P
    centre = np.array([0.5, 0.5])

    def forward(self, z, t=None):  # noqa: ARG002
        return self.centre - 3 * (z - self.centre)

    def with_jacobian(self, z, t=None):  # noqa: ARG002
        return self.forward(z), np.tile(-3 * np.eye(2), (len(z), 1, 1))

    def inverse(self, x, t=None):  # noqa: ARG002
        return self.centre - (x - self.centre) / 3

    def velocity(self, x, t):
        return -4 * (x - self.centre) / (1 - 4 * t)


def test_the_time_of_a_crossing_is_that_of_the_lines():
    flow = reflow(Mirror())
    z = np.array([[1.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(flow.crossing_time(z), 0.25)
    np.testing.assert_allclose(flow.forward(z, 0.25), [Mirror.centre] * 2)
    x = flow.forward(z, 0.2)
    np.testing.assert_allclose(flow.inverse(x, 0.2), z, rtol=0, atol=1e-14)
    # the inverse is good to 1e-14, and the velocity is four times what is between it and the centre
    np.testing.assert_allclose(flow.velocity(x, 0.2), Mirror().velocity(x, 0.2), rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match=r"lines that do not meet, got one from .* that does at t = 0\.25"):
        flow.velocity(z, 0.7)
    with pytest.raises(ValueError, match="lines that do not meet"):
        flow.velocity(2 * z, 0.25)


def test_batches_keep_their_shape_and_precision():
    flow = reflow(rectify(image_pairs(P, Channel(2.0, [1.0, 0.0]))))
    z = np.zeros((2, 1, 2), np.float32)
    for found, tail in ((flow.forward(z), (2,)), (flow.inverse(z, 0.5), (2,)), (flow.velocity(z, 0.5), (2,)),
                        (flow.jacobian(z, 0.5), (2, 2)), (flow.crossing_time(z), ())):  # fmt: skip
        assert found.dtype == np.float32
        assert found.shape == (2, 1, *tail)
    assert flow.velocity(np.zeros((0, 2)), 0.5).shape == (0, 2)
    np.testing.assert_allclose(flow.pairs([[1.0, 1.0]]).second.means, [[3.0, 2.0]])


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="given must be a MapCoupling or a PairLaw"):
        reflow(P)
    flow = StraightFlow(rectify(independent(*LINES)))
    with pytest.raises(ValueError, match="t must lie in"):
        flow.velocity([[0.0]], 1.5)
