"""Fick's law on laws: flux, velocity and what they make of the density, against stencils and convolutions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, Gaussian
from refdiff.distributions import random_mixture
from refdiff.physics import diffusive_velocity, flux, spreading_rate
from refdiff.validation.numeric import divergence, jacobian

SEEDS = st.integers(0, 2**32 - 1)
STORAGES = ("number", "axes", "matrix")


def drawn(seed, dim, storage):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim))
    d = {"number": 0.7, "axes": rng.uniform(0.2, 2, dim), "matrix": root @ root.T + 0.1 * np.eye(dim)}[storage]
    law = random_mixture(dim, 3, seed, "full")
    return law, d, law.sample(5, rng)


@given(SEEDS, st.integers(1, 4), st.sampled_from(STORAGES))
def test_the_flux_is_the_gradient_and_its_divergence_the_loss_of_mass(seed, dim, storage):
    law, d, x = drawn(seed, dim, storage)
    density = np.exp(law.logpdf(x))
    matrix = d * np.eye(dim) if np.ndim(d) < 2 else d
    gradient = jacobian(lambda y: np.exp(law.logpdf(y)), x, 0.01)
    found, size = flux(law, x, d), np.abs(matrix).max() * density.max() / 0.1
    np.testing.assert_allclose(found, -gradient @ matrix.T, atol=1e-8 * size)
    np.testing.assert_allclose(diffusive_velocity(law, x, d) * density[:, None], found, atol=1e-14 * size)
    lost = divergence(lambda y: flux(law, y, d), x, 0.01)
    np.testing.assert_allclose(spreading_rate(law, x, d) * density, -lost, atol=1e-6 * size / 0.1)


@given(SEEDS, st.integers(1, 4), st.sampled_from(STORAGES))
def test_the_density_grows_at_the_spreading_rate_while_its_variance_grows_by_2_d_t(seed, dim, storage):
    law, d, x = drawn(seed, dim, storage)
    # ten standard deviations of the shortest time scale: 0.1 is the least variance of these mixtures
    h = 1e-3 * 0.1 / np.max(np.sum(np.atleast_2d(d), axis=-1) if np.ndim(d) == 2 else d)
    values = [law.convolve((50 + k) * h * 2 * np.asarray(d)).logpdf(x) for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    exact = spreading_rate(law.convolve(100 * h * np.asarray(d)), x, d)
    np.testing.assert_allclose(slope, exact, atol=1e-6 * (1 + np.abs(exact).max()) / (1000 * h))


def test_a_control_adds_its_own_flux_and_minus_the_velocity_stops_all():
    law, x = random_mixture(3, 4, 1), np.random.default_rng(0).normal(size=(2, 3, 3))
    d = np.diag([1.0, 0.5, 2.0])
    v = diffusive_velocity(law, x, d)
    assert np.abs(flux(law, x, d, -v)).max() <= 1e-15 * np.abs(flux(law, x, d)).max()
    np.testing.assert_allclose(flux(law, x, d, -2 * v), -flux(law, x, d), rtol=1e-12)
    wind = np.array([1.0, 0.0, -2.0])
    blown = flux(law, x, d, wind) - flux(law, x, d)
    np.testing.assert_allclose(blown, np.exp(law.logpdf(x))[..., None] * wind, atol=1e-15)


def test_nothing_flows_in_a_place_that_nobody_reaches_and_float32_stays_float32():
    far = np.array([[60.0, 0.0]], dtype=np.float32)
    law = Gaussian([0.0, 0.0], 1.0)
    assert (flux(law, far, 1.0) == 0).all()
    np.testing.assert_allclose(diffusive_velocity(law, far, 2.0), [[120.0, 0.0]])
    for found in (flux(law, far, 1.0), diffusive_velocity(law, far, 2.0), spreading_rate(law, far, [1.0, 2.0])):
        assert found.dtype == np.float32
    np.testing.assert_allclose(spreading_rate(law, far, [1.0, 2.0]), [3600 - 3])


@pytest.mark.parametrize("function", [flux, diffusive_velocity, spreading_rate])
def test_refusals_name_the_argument(function):
    law = Gaussian([0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="diffusivity must not be negative"):
        function(law, [0.0, 0.0], -1.0)
    with pytest.raises(ValueError, match="diffusivity of shape"):
        function(law, [0.0, 0.0], [1.0, 1.0, 1.0])
    with pytest.raises(TypeError, match="law must be"):
        function("law", [0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="no density"):
        function(Empirical([[0.0, 0.0]]), [0.0, 0.0], 1.0)


def test_controls_fit_the_points_and_are_finite():
    law = Gaussian([0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="control must have the shape of x"):
        flux(law, np.zeros((3, 2)), 1.0, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="control of shape"):
        flux(law, np.zeros((3, 2)), 1.0, np.zeros(3))
    with pytest.raises(ValueError, match="control must be finite"):
        flux(law, np.zeros((3, 2)), 1.0, [np.nan, 0.0])
