"""Affine flows of Gaussian pairs against steps of their differential equation, and the lines that have none."""

import numpy as np
import pytest

from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, random_mixture
from refdiff.dynamics import field_flow
from refdiff.interpolants import InterpolantModel, ScalarInterpolant, brownian, from_schedule, linear, trigonometric
from refdiff.interpolants.affine_flows import affine_flow, affine_image, meeting
from refdiff.schedules import VEGeometric
from refdiff.transport import gaussian_pairs, image_pairs, independent, point_pairs

PATHS = {"linear": linear(), "trigonometric": trigonometric(), "beam": linear(0.5), "Brownian": brownian(1.3, 2.0)}


def gaussian(dim, seed, rank=None):
    rng = np.random.default_rng([dim, seed])
    root = rng.standard_normal((dim, rank or dim + 2))
    return Gaussian(rng.standard_normal(dim), root @ root.T / dim)


def dependent(p, q, rho=0.6):
    """A pair with a cross-covariance that commutes with nothing."""
    d = p.dim
    turn = np.linalg.qr(np.random.default_rng(d).standard_normal((d, d)))[0]
    return gaussian_pairs(p, q, rho * np.linalg.cholesky(p.cov()) @ turn @ np.linalg.cholesky(q.cov()).T)


@pytest.mark.parametrize("path", ["linear", "Brownian"])
@pytest.mark.parametrize("joined", [independent, dependent])
def test_the_affine_map_is_where_steps_of_the_velocity_lead(joined, path):
    model = InterpolantModel(joined(gaussian(3, 0), gaussian(3, 1)), PATHS[path])
    z = model.sample(3, 0.0, 2)
    t = model.T
    channel = affine_flow(model)(t)
    stepped = field_flow(model.field(), z, 0.0, t, rtol=1e-11, atol=1e-12).x
    # tens of steps of 1e-11 each
    np.testing.assert_allclose(z @ channel.gain.T + channel.offset, stepped, rtol=0, atol=1e-9)
    pushed, wanted = channel.push(model.marginal(0.0)), model.marginal(t)
    np.testing.assert_allclose(pushed.cov(), wanted.cov(), rtol=0, atol=1e-12 * np.trace(wanted.cov()))
    np.testing.assert_allclose(pushed.mean(), wanted.mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("joined", [independent, dependent])
def test_every_path_of_two_numbers_has_the_same_map_at_its_end_and_noise_another_one(joined):
    pairs = joined(gaussian(3, 0), gaussian(3, 1))
    straight, bent, noisy = (affine_flow(InterpolantModel(pairs, PATHS[name]))(1.0).gain
                             for name in ("linear", "trigonometric", "beam"))  # fmt: skip
    detour = ScalarInterpolant(  # a and b are both larger than 1 on the way, and b turns back
        lambda t: ((1 - t) * (1 + 6 * t), 5 - 12 * t, -12.0),
        lambda t: (t * (2 - t) * (1 + np.sin(6 * t) * (1 - t)), *_slopes(t)),
    )
    np.testing.assert_allclose(bent, straight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(affine_flow(InterpolantModel(pairs, detour))(1.0).gain, straight, rtol=0, atol=1e-11)
    assert np.abs(noisy - straight).max() > 1e-3


def _slopes(t):
    """Of t (2 - t) (1 + sin(6 t) (1 - t))."""
    f, df, d2f = t * (2 - t), 2 - 2 * t, -2.0
    s, c = np.sin(6 * t), np.cos(6 * t)
    g, dg, d2g = 1 + s * (1 - t), 6 * c * (1 - t) - s, -36 * s * (1 - t) - 12 * c
    return df * g + f * dg, d2f * g + 2 * df * dg + f * d2g


def test_a_schedule_whose_ends_are_no_ends_starts_from_its_own_first_law():
    model = InterpolantModel(
        independent(gaussian(2, 0), Gaussian(np.zeros(2), 1.0)), from_schedule(VEGeometric(0.5, 20.0))
    )
    channel, z = affine_flow(model)(1.0), model.sample(3, 0.0, 1)
    stepped = field_flow(model.field(), z, 0.0, 1.0, rtol=1e-11, atol=1e-12).x
    np.testing.assert_allclose(z @ channel.gain.T + channel.offset, stepped, rtol=0, atol=1e-8)


@pytest.mark.parametrize("law", [random_mixture(3, 4, 1, "full"), Empirical(np.eye(3).repeat(2, 0).cumsum(0))])
def test_an_affine_image_of_any_law_moves_along_lines(law):
    gain = np.array([[1.0, 0.8, 0.0], [-0.5, 0.7, 0.1], [0.0, 0.2, 2.0]])
    pairs = image_pairs(law, Channel(gain, [1.0, -2.0, 0.5]))
    image = affine_image(pairs)
    np.testing.assert_allclose(image.gain, gain, rtol=0, atol=1e-12)
    for path in (linear(), trigonometric()):
        channel, now = affine_flow(InterpolantModel(pairs, path))(0.3), path.at(0.3)
        np.testing.assert_allclose(channel.gain, now.first * np.eye(3) + now.second * gain, rtol=0, atol=1e-12)
        np.testing.assert_allclose(channel.offset, now.second * np.array([1.0, -2.0, 0.5]), rtol=0, atol=1e-12)
    assert affine_image(independent(law, law)) is None
    assert affine_image(image_pairs(law, Channel(gain, noise=1e-8))) is None


def test_diagonal_parts_stay_diagonal_and_points_are_allowed():
    model = InterpolantModel(independent(Gaussian(np.zeros(2), [1.0, 4.0]), Gaussian(np.ones(2), [9.0, 0.0])), linear())
    channel = affine_flow(model)(1.0)
    np.testing.assert_allclose(channel.gain, [3.0, 0.0])
    point = affine_flow(InterpolantModel(independent(Gaussian([0.0, 1.0], 0.0), Gaussian([3.0, 1.0], 0.0)), linear()))
    np.testing.assert_allclose(point(0.5).push(Gaussian([0.0, 1.0], 0.0)).mean(), [1.5, 1.0])
    two = affine_flow(InterpolantModel(point_pairs([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]), linear()))
    np.testing.assert_allclose(two(1.0).push(Empirical([[0.0, 0.0], [1.0, 0.0]])).means, [[0.0, 1.0], [0.0, 2.0]],
                               atol=1e-12)  # fmt: skip


def test_a_flow_stays_in_the_span_of_its_first_law():
    flat = Gaussian(np.ones(4), gaussian(4, 0, rank=2).cov())
    end = Gaussian(np.zeros(4), (root := np.linalg.qr(flat.cov())[0][:, :2] @ np.diag([1.0, 2.0])) @ root.T)
    model = InterpolantModel(independent(flat, end), linear())
    np.testing.assert_allclose(affine_flow(model)(1.0).push(flat).cov(), end.cov(), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="span of x_0"):
        affine_flow(InterpolantModel(independent(flat, gaussian(4, 1)), linear()))(1.0)
    with pytest.raises(ValueError, match="span of x_0"):
        affine_flow(InterpolantModel(independent(Gaussian([0.0], 0.0), Gaussian([0.0], 1.0)), linear()))(1.0)


def test_lines_that_meet_at_the_very_end_only_are_flows():
    law = random_mixture(3, 4, 1, "full")
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    flat, shear = turn @ np.diag([2.0, 0.0, 0.5]) @ turn.T, np.outer(turn[0], turn[1])  # singular, and nilpotent
    for gain in (flat, shear):
        assert meeting(gain) == np.inf
        model = InterpolantModel(image_pairs(law, Channel(gain, 1.0)), linear())
        np.testing.assert_allclose(affine_flow(model)(1.0).gain, gain, rtol=0, atol=1e-12)
    for end in (Gaussian([0.1, 7.0, -0.3], 0.0), Empirical([[0.1, 7.0, -0.3]])):
        channel = affine_flow(InterpolantModel(independent(law, end), linear()))(1.0)
        np.testing.assert_allclose(channel.gain, 0.0, atol=1e-15)
        np.testing.assert_allclose(channel.offset, [0.1, 7.0, -0.3])


def test_lines_that_meet_have_no_flow():
    unit, turn = Gaussian(np.zeros(2), 1.0), np.array([[0.0, -1.0], [1.0, 0.0]])
    assert meeting(turn) == np.inf
    assert meeting(np.diag([-0.5, -4.0])) == 0.25
    np.testing.assert_allclose(meeting(np.stack([turn, -2 * np.eye(2)])), [np.inf, 0.5])
    for pairs in (image_pairs(unit, Channel(-1.0)), image_pairs(unit, Channel(np.diag([-0.5, -4.0])))):
        with pytest.raises(ValueError, match="b / a = "):
            affine_flow(InterpolantModel(pairs, linear()))
    for one, two, cross in ((1.0, np.array([4.0, 1.0]), np.array([-2.0, 0.3])),
                            (np.eye(2), np.diag([4.0, 1.0]), np.diag([-2.0, 0.3]))):  # fmt: skip
        # one direction meets, the other has noise of its own
        model = InterpolantModel(gaussian_pairs(Gaussian([0, 0], one), Gaussian([0, 0], two), cross), linear())
        with pytest.raises(ValueError, match=r"b / a = 0\.5"):
            affine_flow(model)
