"""Entropic plans of point sets: closed forms, both limits, and what the plan says without its matrix."""

import numpy as np
import pytest

from refdiff.distributions import Empirical
from refdiff.transport import sinkhorn


@pytest.mark.parametrize(
    ("cost", "covariance"),
    # PODB-74 with standard deviations 1 and 1/2 at eps = 1/2; |x - y|^2 is as half of it at eps / 2
    [("half-squared", (5**0.5 - 1) / 4), ("squared", (17**0.5 - 1) / 8), (2.0, (17**0.5 - 1) / 8)],
)
def test_gauss_hermite_grids_have_the_covariance_of_gaussians(cost, covariance):
    z, w = np.polynomial.hermite_e.hermegauss(40)
    w /= w.sum()
    plan = sinkhorn(Empirical(z[:, None], w), Empirical(z[:, None] / 2, w), 0.5, cost=cost, tolerance=1e-13)
    assert z @ plan.coupling() @ z / 2 == pytest.approx(covariance, abs=1e-13)
