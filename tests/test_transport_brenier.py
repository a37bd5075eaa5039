"""Checks of maps: gradients, monotone, carrying one law to another; potentials and their transforms."""

import numpy as np
import pytest

from refdiff import operators
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, random_mixture
from refdiff.dynamics import FlowMap
from refdiff.metrics import optimal_coupling, wasserstein
from refdiff.model import ExactModel
from refdiff.schedules import VPLinear
from refdiff.transport import optimal_map
from refdiff.transport.brenier import (
    MapCheck,
    asymmetry,
    c_transform,
    c_transform_of_points,
    check_map,
    cyclical_gap,
    monge_ampere_residual,
    monotone_gap,
    optimal_potentials,
)
from refdiff.transport.entropic_gaussian import QuadraticPotential


class Affine:
    """A channel as a map."""

    def __init__(self, gain, offset):
        self.gain, self.offset = np.asarray(gain), np.asarray(offset)

    def forward(self, z):
        return z @ self.gain.T + self.offset

    def jacobian(self, z):
        return np.broadcast_to(self.gain, (len(z), *self.gain.shape))


def drawn(seed: int, dim: int) -> Gaussian:
    law = random_mixture(dim, 1, seed, "full")
    return Gaussian(law.means[0], law.covariances.operator())


P, Q = drawn(1, 3), drawn(2, 3)
X = P.sample(30, 1)


def root(s):
    values, axes = np.linalg.eigh(s)
    return (axes * np.sqrt(values)) @ axes.T


def test_the_optimal_map_has_nothing_against_it():
    found = check_map(optimal_map(P, Q), P, Q, X)
    assert found.optimal(1e-12)
    axes = Gaussian([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    assert check_map(
        optimal_map(axes, Gaussian([1.0, 1.0, 1.0], 2.0)), axes, Gaussian([1.0, 1.0, 1.0], 2.0), X
    ).optimal(1e-12)
    assert found.least.min() > 0
    assert found.asymmetry.shape == found.least.shape == found.residual.shape == (30,)


def test_three_failures_are_told_apart():
    gain = root(Q.cov()) @ np.linalg.inv(root(P.cov()))  # carries P to Q, and is no gradient
    turned = check_map(Affine(gain, Q.mean() - gain @ P.mean()), P, Q, X)
    assert turned.asymmetry.min() > 0.01
    np.testing.assert_allclose(turned.residual, 0, atol=1e-12)
    assert not turned.optimal(1e-3)
    best = optimal_map(P, Q)
    values, axes = np.linalg.eigh(root(P.cov()) @ Q.cov() @ root(P.cov()))
    back = np.linalg.inv(root(P.cov()))
    flipped = back @ (axes * np.sqrt(values) * [1, 1, -1]) @ axes.T @ back  # a gradient, of a saddle
    saddle = check_map(Affine(flipped, Q.mean() - flipped @ P.mean()), P, Q, X)
    assert saddle.asymmetry.max() < 1e-12
    assert saddle.least.max() < 0
    np.testing.assert_allclose(saddle.residual, 0, atol=1e-12)
    assert saddle.cyclical > 0.01
    wide = check_map(Affine(1.1 * np.asarray(best.gain), best.offset), P, Q, X)
    assert wide.asymmetry.max() < 1e-12
    assert wide.least.min() > 0
    assert np.abs(wide.residual).max() > 0.1


def test_flow_maps_can_be_checked():
    model = ExactModel(Gaussian([0.5, -1.0], [[1.0, 0.5], [0.5, 2.0]]), VPLinear())
    way = FlowMap(model, 0.0, 0.7, rtol=1e-7, atol=1e-9)
    found = check_map(way, model.distribution, model.marginal(0.7), model.distribution.sample(2, 1))
    assert found.optimal(1e-5)  # of Gaussian data noised at one rate
    three = ExactModel(GaussianMixture.isotropic([[1.5, 0.0], [-0.8, 1.2], [-0.5, -1.4]], [0.3, 0.5, 0.2]), VPLinear())
    turned = check_map(
        FlowMap(three, 0.0, 0.7, rtol=1e-7, atol=1e-9), three.distribution, three.marginal(0.7), [[0.3, 0.2]]
    )
    assert turned.asymmetry[0] > 1e-3  # and yet it carries one law to the other, and is monotone
    assert np.abs(turned.residual[0]) < 1e-5
    assert turned.least[0] > 0
    assert not turned.optimal(1e-3)


def test_what_is_no_number_is_not_optimal():
    for part in range(4):
        parts = [np.zeros(2), np.ones(2), np.zeros(2), 0.0]
        assert MapCheck(*parts).optimal(1e-12)
        parts[part] = parts[part] * np.nan
        assert not MapCheck(*parts).optimal(1e-12)


def test_permutations_tell_what_pairs_do_not():
    x = np.random.default_rng(0).standard_normal((40, 2))
    c, s = np.cos(1.2), np.sin(1.2)
    y = x @ np.array([[c, -s], [s, c]]).T
    assert monotone_gap(x, y) >= -1e-12  # (x_i - x_j).(y_i - y_j) = cos |x_i - x_j|^2
    assert cyclical_gap(x, y) > 0.05
    assert cyclical_gap(x, 2 * x + 1) == pytest.approx(0, abs=1e-12)
    assert monotone_gap(x, -x) < 0
    line = x[:, :1]
    assert cyclical_gap(line, np.tanh(line)) == pytest.approx(0, abs=1e-12)
    assert cyclical_gap([[0.0], [1.0]], [[1.0], [0.0]], [1.0, 3.0]) == pytest.approx(0.5)
    assert cyclical_gap([[0.0], [1.0]], [[3.0], [0.0]], [1.0, 3.0]) == pytest.approx(9 / 4 + 3 / 4 - 1.5)


def test_asymmetry_of_rotations_and_symmetric_matrices():
    assert asymmetry([[0.0, 1.0], [-1.0, 0.0]]) == pytest.approx(2.0)
    np.testing.assert_array_equal(asymmetry(np.zeros((2, 3, 3))), 0.0)
    assert asymmetry(np.float32(np.eye(2))).dtype == np.float32


@pytest.mark.parametrize("storage", [np.asarray, np.diag], ids=["diagonal", "matrix"])
def test_potentials_are_transforms_of_each_other_and_sum_to_the_cost(storage):
    p, q = Gaussian([1.0, 0.0], storage([1.0, 3.0])), Gaussian([0.0, 2.0], storage([2.0, 0.5]))
    f, g = optimal_potentials(p, q)
    x, y = p.sample(6, 1), q.sample(6, 2)
    np.testing.assert_allclose(c_transform(f)(y), g(y), rtol=1e-13)
    np.testing.assert_allclose(c_transform(g)(x), f(x), rtol=1e-13)
    way = optimal_map(p, q)
    image = x - f.gradient(x)
    np.testing.assert_allclose(image, operators.apply(way.gain, x) + way.offset)
    half = 0.5 * ((x - image) ** 2).sum(axis=1)
    np.testing.assert_allclose(f(x) + g(image), half, rtol=1e-12)
    assert (f(x)[:, None] + g(y) <= 0.5 * ((x[:, None] - y) ** 2).sum(axis=2) + 1e-12).all()
    bends = [np.trace(operators.dense(h.hessian, 2) @ law.cov()) for h, law in ((f, p), (g, q))]
    mean = f(p.mean()) + g(q.mean()) + 0.5 * sum(bends)
    assert mean == pytest.approx(0.5 * wasserstein(p, q).value ** 2, rel=1e-12)


def test_transforms_of_points_are_the_duals_of_couplings():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 2)), rng.standard_normal((8, 2))
    best = optimal_coupling(Empirical(x), Empirical(y), 2.0)
    f, g = (0.5 * part for part in best.potentials)
    np.testing.assert_allclose(c_transform_of_points(f, x, y), g, atol=1e-12)
    np.testing.assert_allclose(c_transform_of_points(g, y, x), f, atol=1e-12)
    assert c_transform_of_points(f, x, np.zeros((2, 3, 2))).shape == (2, 3)


def test_a_c_transform_is_the_least_over_a_grid():
    f = QuadraticPotential(np.array([0.3]), 0.7, np.array([-0.4]), np.array(-1.5))
    x = np.linspace(-20, 20, 400001)
    for y in (-1.0, 2.0):
        assert c_transform(f)(np.array([y])) == pytest.approx((0.5 * (x - y) ** 2 - f(x[:, None])).min(), abs=1e-8)
    with pytest.raises(ValueError, match="Hessian below the identity"):
        c_transform(QuadraticPotential(np.zeros(1), 0.0, np.zeros(1), np.array(1.0)))


def test_residuals_of_a_map_between_mixtures_are_those_of_densities():
    p, q = random_mixture(1, 2, 1), random_mixture(1, 3, 2)
    x = p.sample(10, 1)
    residual = monge_ampere_residual(p, q, x, x, np.ones((10, 1, 1)))
    np.testing.assert_allclose(residual, q.logpdf(x) - p.logpdf(x))


def test_what_does_not_fit_is_named():
    way = optimal_map(P, Q)
    with pytest.raises(TypeError, match="way must be a Channel or have the methods forward and jacobian"):
        check_map(Q, P, Q, X)
    with pytest.raises(ValueError, match="way must have no noise"):
        check_map(Channel(noise=1.0), P, Q, X)
    with pytest.raises(TypeError, match="q must have a density"):
        check_map(way, P, 3, X)
    with pytest.raises(ValueError, match="x must be at least one point"):
        check_map(way, P, Q, np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"way\.forward must answer with shape"):
        check_map(Affine(np.ones((2, 3)), np.zeros(2)), P, Q, X)
    with pytest.raises(ValueError, match="y must have the shape"):
        cyclical_gap(X, X[:, :2])
    with pytest.raises(ValueError, match="y must have the shape"):
        monotone_gap(X, X[:, :2])
    with pytest.raises(ValueError, match="jacobian must be square"):
        asymmetry(np.ones(3))
    with pytest.raises(ValueError, match="f must have one value"):
        c_transform_of_points(np.zeros(2), np.zeros((3, 1)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="tolerance must lie in"):
        check_map(way, P, Q, X).optimal(-1.0)
