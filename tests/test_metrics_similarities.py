"""Kernels are the mixtures of Gaussians that they are said to be, and their means over laws those of draws."""

import numpy as np
import pytest
from scipy.special import gamma, hyp1f1

from refdiff import Gaussian
from refdiff.distributions import Empirical, random_mixture
from refdiff.expectations import Quadrature, integral
from refdiff.metrics import gaussian_kernel, inverse_multiquadric_kernel, laplace_kernel, rational_quadratic_kernel
from refdiff.metrics.similarities import DISTANCE, means_over

KERNELS = {
    "gaussian": gaussian_kernel(0.7),
    "laplace": laplace_kernel(0.01),
    "rational 0.1": rational_quadratic_kernel(3.0, 0.1),
    "rational 40": rational_quadratic_kernel(0.7, 40.0),
    "rational 1000": rational_quadratic_kernel(0.7, 1000.0),
    "multiquadric": inverse_multiquadric_kernel(20.0),
    "distance": DISTANCE,
}


@pytest.mark.parametrize("name", KERNELS)
def test_scales_make_the_kernel(name):
    kernel, r = KERNELS[name], np.array([0.0, 1e-3, 0.1, 1.0, 3.0, 30.0])
    s, w = kernel.scales(1.0)
    made = (w * (np.expm1 if kernel.shifted else np.exp)(-s * r[:, None] ** 2)).sum(axis=1)
    np.testing.assert_allclose(made, kernel.values(r**2), atol=2e-14 * max(1, np.abs(kernel.values(r**2)).max()))


def test_kernels_are_the_printed_ones():
    r2 = np.array([0.0, 0.3, 4.0])
    np.testing.assert_allclose(gaussian_kernel(2.0).values(r2), np.exp(-r2 / 8))
    np.testing.assert_allclose(laplace_kernel(2.0).values(r2), np.exp(-np.sqrt(r2) / 2))
    np.testing.assert_allclose(rational_quadratic_kernel(2.0, 3.0).values(r2), (1 + r2 / 24) ** -3)
    np.testing.assert_allclose(inverse_multiquadric_kernel(2.0).values(r2), 1 / np.sqrt(1 + r2 / 4))
    np.testing.assert_allclose(rational_quadratic_kernel(2.0, 1e6).values(r2), np.exp(-r2 / 8), rtol=1e-5)


@pytest.mark.parametrize("name", ["gaussian", "multiquadric", "rational 40"])
@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "shared", "full"])
def test_means_over_laws_are_integrals(name, storage):
    kernel, p, q = KERNELS[name], Empirical([[0.0, 1.0], [2.0, -1.0]]), random_mixture(2, 3, 5, storage)
    found, change = means_over(kernel, p, q)

    def values(y):
        return kernel.values(((y[:, None] - p.means) ** 2).sum(axis=2))

    np.testing.assert_allclose(found, integral(q, values, Quadrature(1e-11), 1.0)[0], rtol=1e-9)
    assert (change <= 1e-5 * found).all()


@pytest.mark.parametrize("storages", [("isotropic", "full"), ("shared", "diagonal"), ("diagonal", "isotropic")])
def test_two_laws_add_their_covariances(storages):
    p, q = (random_mixture(3, 2, seed, storage) for seed, storage in enumerate(storages))
    found = means_over(KERNELS["gaussian"], p, q)[0]
    for k in range(2):
        shifted = q.affine(1.0, -p.means[k]).convolve(np.broadcast_to(p.covariances.dense(3), (2, 3, 3))[k])
        # E e^(-|z|^2 / 2 L^2) is a density at 0, N(0; m, S + L^2), times its normalisation
        at_zero = np.exp(shifted.convolve(0.49).logpdf(np.zeros(3))) * (2 * np.pi * 0.49) ** 1.5
        np.testing.assert_allclose(found[k], at_zero, rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 7, 64])
def test_the_mean_distance_of_a_gaussian_is_kummers_function(dim):
    m, v = np.full(dim, 0.3), 2.3
    exact = np.sqrt(2 * v) * gamma((dim + 1) / 2) / gamma(dim / 2) * hyp1f1(-0.5, dim / 2, -(m @ m) / (2 * v))
    found, change = means_over(DISTANCE, Empirical([m]), Gaussian(np.zeros(dim), v))
    np.testing.assert_allclose(-found[0], exact, rtol=1e-12)
    assert change[0] < 1e-8 * exact


@pytest.mark.parametrize(
    "make", [gaussian_kernel, laplace_kernel, rational_quadratic_kernel, inverse_multiquadric_kernel]
)
def test_lengths_and_powers_are_checked(make):
    for length in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="length must"):
            make(length)
    if make in (rational_quadratic_kernel, inverse_multiquadric_kernel):
        with pytest.raises(ValueError, match="must lie in"):
            make(1.0, 0.0)
