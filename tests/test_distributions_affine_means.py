"""Means of affine fields by products of matrices: against the fields, far from the origin and near an end."""

import numpy as np
import pytest
from pairs import KINDS, SHIFT, build

from refdiff import Gaussian
from refdiff.distributions import affine_means as module
from refdiff.distributions import covariances
from refdiff.distributions.affine_means import affine_mean
from refdiff.distributions.moments import average
from refdiff.interpolants import InterpolantModel, brownian, linear
from refdiff.transport import independent


def by_fields(law, values, gains, x):
    g = law.gradients(x)
    return average(law.posterior_weights(x), lambda ks: values[ks] - gains.multiply(g(ks), ks), law.dim)


@pytest.mark.parametrize("move", [0.0, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_means_are_those_of_the_fields(kind, move):
    pair = build(kind)
    law = pair.blend(0.4, 0.6, move * SHIFT, 0.2)
    _, gains = pair.regression((np.array(-1.0), np.array(1.0)), (np.array(0.4), np.array(0.6)))
    values = np.random.default_rng(0).standard_normal(law.means.shape)
    x = law.sample(30, 0)
    expected = by_fields(law, values, gains, x)
    # x and c_k are rounded at the size of the offset, and slopes are of size 1 here
    np.testing.assert_allclose(affine_mean(law, values, gains, x), expected, rtol=0, atol=1e-12 + 1e-15 * move)


def test_rows_are_taken_a_part_at_a_time(monkeypatch):
    model = InterpolantModel(build("components"), brownian(0.5))
    x = model.sample(50, 0.4, 0)
    whole = model.velocity(x, 0.4)
    monkeypatch.setattr(module, "TILE", 20)
    np.testing.assert_allclose(model.velocity(x, 0.4), whole, rtol=1e-13)
    monkeypatch.setattr(covariances, "TILE", 20)
    np.testing.assert_allclose(model.velocity(x, 0.4), whole, rtol=1e-13)


@pytest.mark.parametrize("left", [1e-3, 1e-6])
def test_near_points_slopes_are_steep_and_digits_are_those_of_the_distance(left):
    points = build("pairs of points").first
    model = InterpolantModel(independent(Gaussian([0.0, 0.0], 1.0), points), linear())
    x0 = np.random.default_rng(0).standard_normal((5, 2))
    x = left * x0 + (1 - left) * points.means
    # by then the point is certain, and x_0 = (x - t x_1) / (1 - t), off by eps / (1 - t)
    np.testing.assert_allclose(model.velocity(x, 1 - left), points.means - x0, atol=1e-14 / left)


def test_a_law_without_density_has_no_means():
    model = InterpolantModel(build("points with points"), linear())
    with pytest.raises(ValueError, match="singular"):
        model.velocity([0.0, 0.0], 0.5)
