"""The law whose optimal map is known, and is no map of its probability flow."""

import numpy as np
import pytest

from refdiff.distributions import Gaussian
from refdiff.normalizing import Inverse, PushForward
from refdiff.transport.brenier import check_map
from refdiff.transport.perturbed import PerturbedGaussian
from refdiff.validation.numeric import jacobian

NORMAL = Gaussian([0.0, 0.0], 1.0)


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 0.5, 0.99])
def test_the_map_is_optimal_and_its_inverse_exact(epsilon):
    law = PerturbedGaussian(epsilon)
    x = law.sample(100, 1)
    assert check_map(law, law, NORMAL, x).optimal(1e-11)
    np.testing.assert_allclose(law.inverse(law.forward(x)), x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(law.logpdf(x), PushForward(NORMAL, Inverse(law)).logpdf(x), rtol=1e-12)


def test_derivatives_are_those_of_the_functions():
    law, x = PerturbedGaussian(0.2), PerturbedGaussian(0.2).sample(8, 2)
    np.testing.assert_allclose(jacobian(lambda z: law.potential(z), x, 0.05), law.forward(x), atol=1e-9)
    np.testing.assert_allclose(jacobian(law.forward, x, 0.05), law.jacobian(x), atol=1e-9)
    slope = jacobian(lambda z: jacobian(law.logpdf, z, 0.01), x, 0.01)
    np.testing.assert_allclose(slope, law.hessian(x), rtol=1e-5, atol=1e-5)


def test_the_density_has_mass_one():
    law = PerturbedGaussian(0.3)
    axis = np.arange(-7, 7, 0.05)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    assert np.exp(law.logpdf(grid)).sum() * 0.05**2 == pytest.approx(1, abs=1e-9)


def test_the_commutator_at_the_origin():
    for e in (0.1, 0.3):
        found = PerturbedGaussian(e).commutator([0.0, 0.0])
        np.testing.assert_allclose(found, 24 * e**2 / (1 - e**2) * np.array([[0, 1], [-1, 0]]), atol=1e-13)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1])
def test_a_potential_that_is_not_convex_or_not_perturbed_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must lie between 0 and 1"):
        PerturbedGaussian(epsilon)
