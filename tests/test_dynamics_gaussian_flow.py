"""The affine flow of Gaussian data against the differential equation, the laws it joins, and its own composition."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, GaussianMixture, VEPower, VPCosine, VPLinear
from refdiff.dynamics import covariance_flow, flow
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.processes import LinearProcess


def matrix(dim, seed=0):
    rng = np.random.default_rng([dim, seed])
    q = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (q * 10 ** rng.uniform(-2, 0.5, dim)) @ q.T


def axes_of_their_own(dim):
    return AffineProcess([VPLinear(0.1, 5.0 + 5 * j) if j % 2 else FlowMatching() for j in range(dim)])


def random_process(dim):
    rng = np.random.default_rng(dim)
    f, g, h = rng.normal(size=(3, dim, dim))
    return LinearProcess(lambda t: f * np.cos(3 * t) + t * g, lambda t: h + t * f, 1.0)


LANGEVIN = LinearProcess([[0.0, 1.0], [-1.0, -2.0]], [[0.0], [2.0]], 2.0)
CASES = {
    "one schedule, data across the axes": (Gaussian([1.0, -1.0, 0.5], matrix(3)), VPCosine(), 1.0, 0.0),
    "axes of their own, data along them": (Gaussian([1.0, -1.0], [0.3, 2.0]), axes_of_their_own(2), 0.9, 0.1),
    "axes of their own, data across them": (Gaussian([1.0, -1.0, 0.5], matrix(3)), axes_of_their_own(3), 1.0, 0.0),
    "the same towards noise": (Gaussian([1.0, -1.0, 0.5], matrix(3)), axes_of_their_own(3), 0.0, 1.0),
    "critically damped Langevin": (Gaussian([1.0, 0.0], [0.5, 0.0]), LANGEVIN, 2.0, 0.05),
    "drift and noise that turn": (Gaussian([1.0, -1.0], matrix(2)), random_process(2), 0.8, 0.0),
    "a point under Langevin": (Gaussian([1.0, 0.3], 0.0), LANGEVIN, 0.4, 1.5),
}


def test_covariances_that_are_given_are_carried_by_their_rates_down_to_a_singular_end():
    p, shrinking = matrix(3), np.diag([0.0, 1.0, 1.0])  # the first axis keeps its variance, the others lose theirs

    def rates(t):
        gain = np.eye(3) - t * shrinking
        return gain @ p @ gain, -shrinking @ p @ gain

    for end in (0.7, 1.0):
        m = covariance_flow(rates, 0.0, end)
        # the map of x -> (1 - t D) x, whose velocity this is
        np.testing.assert_allclose(m, np.eye(3) - end * shrinking, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_closed_map_is_the_flow_and_joins_the_laws(name):
    law, process, start, end = CASES[name]
    model, channel = ExactModel(law, process), gaussian_flow(law, process, start, end)
    x = model.sample(2, start, 1)
    found = flow(model, x, start, end, rtol=1e-12, atol=1e-14).x
    moved = np.stack([channel.at(one).mean() for one in x])
    # some hundred steps of 1e-12
    np.testing.assert_allclose(moved, found, rtol=0, atol=1e-10 * np.abs(found).max())
    pushed, there = channel.push(model.marginal(start)), model.marginal(end)
    np.testing.assert_allclose(pushed.cov(), there.cov(), rtol=0, atol=1e-13 * np.abs(there.cov()).max())
    np.testing.assert_allclose(pushed.mean(), there.mean(), rtol=0, atol=1e-13 * (1 + np.abs(x).max()))


@pytest.mark.parametrize("dim", [2, 5, 8])
def test_maps_compose_and_return_where_nothing_commutes(dim):
    law, process = Gaussian(np.arange(dim) / dim, matrix(dim)), axes_of_their_own(dim)
    whole = gaussian_flow(law, process, 0.9, 0.1)
    first, second = gaussian_flow(law, process, 0.9, 0.4), gaussian_flow(law, process, 0.4, 0.1)
    size = np.abs(whole.gain).max()
    np.testing.assert_allclose(second.compose(first).gain, whole.gain, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(second.compose(first).offset, whole.offset, rtol=0, atol=1e-12 * size)
    back = gaussian_flow(law, process, 0.1, 0.9).compose(whole)
    np.testing.assert_allclose(back.gain, np.eye(dim), rtol=0, atol=1e-11 * size)
    # the control: symmetric roots without the rotation between them join the laws and are not the flow
    p, q = (np.real(sqrtm(ExactModel(law, process).marginal(t).cov())) for t in (0.9, 0.1))
    assert np.abs(q @ np.linalg.inv(p) - whole.gain).max() > 1e-3


def test_a_point_mass_moves_by_the_ratio_of_the_noises_down_to_the_point():
    law = Gaussian([2.0, -1.0], 0.0)
    x = np.array([3.0, 4.0])
    for end in (0.5, 0.0):
        channel = gaussian_flow(law, VEPower(T=10.0), 10.0, end)
        np.testing.assert_allclose(channel.at(x).mean(), law.mean() + end / 10 * (x - law.mean()), rtol=1e-14)
        assert channel.gain == pytest.approx(end / 10, rel=1e-15)
    flat = Gaussian([0.0, 0.0], [1.0, 0.0])
    gain = gaussian_flow(flat, VEPower(T=10.0), 10.0, 0.0).gain
    np.testing.assert_allclose(gain, [np.sqrt(1 / 101), 0.0], rtol=1e-14)


def test_storages_and_offsets_are_kept():
    assert gaussian_flow(Gaussian([0.0, 0.0], 1.0), VPLinear(), 0.9, 0.1).gain.shape == ()
    assert gaussian_flow(Gaussian([0.0, 0.0], [1.0, 2.0]), VPLinear(), 0.9, 0.1).gain.shape == (2,)
    assert gaussian_flow(Gaussian([0.0, 0.0], np.eye(2)), VPLinear(), 0.9, 0.1).gain.shape == (2, 2)
    along = Gaussian([0.0, 0.0], [1.0, 2.0])
    assert gaussian_flow(along, axes_of_their_own(2), 0.9, 0.1).gain.shape == (2,)
    # in closed form also down to where an axis has no density
    np.testing.assert_array_equal(gaussian_flow(Gaussian([0.0, 0.0], [1.0, 0.0]), VPLinear(), 0.5, 0.0).gain[1], 0.0)
    np.testing.assert_array_equal(
        gaussian_flow(Gaussian([0.0, 0.0], [1.0, 0.0]), axes_of_their_own(2), 0.5, 0.0).gain[1], 0.0
    )
    assert np.array_equal(gaussian_flow(Gaussian([1.0], 1.0), VPLinear(), 0.5, 0.5).at(np.array([3.0])).mean(), [3.0])
    law, moved = Gaussian([1.0], 0.5), AffineProcess(VPLinear(), offset=lambda t: (t**2, 2 * t, 2.0))
    plain, shifted = gaussian_flow(law, VPLinear(), 0.9, 0.1), gaussian_flow(law, moved, 0.9, 0.1)
    np.testing.assert_allclose(shifted.at([2.0 + 0.81]).mean(), plain.at([2.0]).mean() + 0.01, rtol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((GaussianMixture.isotropic([[0.0], [1.0]], 1.0), VPLinear(), 1.0, 0.0), TypeError, "law must be a Gaussian"),
        ((Gaussian([0.0], 1.0), "VP", 1.0, 0.0), TypeError, "process must be"),
        ((Gaussian([0.0], 1.0), axes_of_their_own(2), 1.0, 0.0), ValueError, "process must have 1 axes"),
        ((Gaussian([0.0], 1.0), VPLinear(), 2.0, 0.0), ValueError, "start must lie in"),
        ((Gaussian([0.0], 0.0), VPLinear(), 0.0, 1.0), ValueError, "the covariance at the start is singular"),
        ((Gaussian([0.0, 0.0], [1.0, 0.0]), LANGEVIN, 1.0, 0.0), ValueError, "the covariance at the end is singular"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        gaussian_flow(*arguments)
