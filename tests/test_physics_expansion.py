"""The expansion of a point, which knows no rate, and of laws, which do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, ExactModel, Gaussian
from refdiff.distributions import random_mixture
from refdiff.physics import diffusive_velocity, expansion_velocity, point_law, point_path, point_velocity
from refdiff.schedules import VEPower
from refdiff.validation.numeric import derivative

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.floats(0.01, 100.0), st.floats(0.01, 10.0))
def test_the_velocity_of_a_point_does_not_know_beta_but_flux_and_density_do(seed, beta, t):
    rng = np.random.default_rng(seed)
    start, x = rng.normal(size=3), rng.normal(size=(2, 4, 3))
    v = point_velocity(x, t, start)
    np.testing.assert_allclose(v, (x - start) / (2 * t), rtol=1e-14)
    law = point_law(t, beta, start)
    np.testing.assert_allclose(diffusive_velocity(law, x, beta / 2), v, rtol=1e-12)
    np.testing.assert_allclose(expansion_velocity(Empirical([start]), x, beta * t, beta), v, rtol=1e-12)
    assert not np.allclose(law.logpdf(x), point_law(t, 2 * beta, start).logpdf(x))


def test_a_schedule_that_varies_shows_and_so_does_any_law_that_is_no_point():
    model, t = ExactModel(Empirical([[1.0, 2.0]]), VEPower(0.85, T=5.0)), 0.7
    x = model.sample(4, t, 0)
    # s = t^1.7
    found = expansion_velocity(model.distribution, x, t**1.7, 1.7 * t**0.7)
    np.testing.assert_allclose(found, 1.7 / (2 * t) * (x - [1.0, 2.0]), rtol=1e-13)
    np.testing.assert_allclose(found, model.velocity(x, t), rtol=1e-12)
    pair = Empirical([[-1.0], [1.0]])
    slow, fast = (expansion_velocity(pair, [[0.3]], beta * 1.0, beta) for beta in (0.5, 2.0))
    assert abs(slow - fast).max() > 0.1


@given(SEEDS, st.integers(1, 3))
def test_laws_expand_by_half_of_the_rate_times_the_score_in_every_storage(seed, dim):
    rng, law = np.random.default_rng(seed), random_mixture(dim, 3, seed, "full")
    x = law.sample(4, rng)
    root = rng.normal(size=(2, dim, dim))
    c, grows = (r @ r.T + 0.1 * np.eye(dim) for r in root)
    size = np.abs(grows).max() * 10 * (1 + np.abs(x).max())
    for spread, rate in ((c, grows), (c, 0.7), (0.3, grows), (np.diag(c), np.diag(grows)), (0.0, grows)):
        matrix = rate * np.eye(dim) if np.ndim(rate) < 2 else rate
        noised = law.convolve(spread)
        exact = -noised.score(x) @ matrix / 2
        np.testing.assert_allclose(expansion_velocity(law, x, spread, rate), exact, atol=1e-11 * size)


def test_points_go_along_their_path_and_stay_on_the_point_itself():
    start, x = np.array([1.0, -1.0]), np.array([[2.0, 0.0], [1.0, -1.0], [0.0, 5.0]])
    for end in (0.0, 0.3, 4.0):
        np.testing.assert_allclose(point_path(x, 1.2, end, start), start + (end / 1.2) ** 0.5 * (x - start))
    slope = derivative(lambda u: point_path(x, 1.2, 2.0 + u, start), 0.0, 0.02)
    np.testing.assert_allclose(slope, point_velocity(point_path(x, 1.2, 2.0, start), 2.0, start), atol=1e-10)
    # the source has an infinite velocity "at all points" for t to 0; the point itself rests
    assert (point_velocity(start, 1e-300, start) == 0).all()
    assert (point_path(x, 1.0, 0.0, start) == start).all()


def test_float32_and_refusals():
    x = np.ones((2, 3), dtype=np.float32)
    for found in (
        point_velocity(x, 0.5),
        point_path(x, 0.5, 1.0),
        expansion_velocity(Gaussian(np.zeros(3), 1.0), x, 1, 1),
    ):
        assert found.dtype == np.float32
        assert found.shape == (2, 3)
    with pytest.raises(ValueError, match=r"t must lie in \(0"):
        point_velocity(x, 0.0)
    with pytest.raises(ValueError, match="start of shape"):
        point_path(x, 1.0, 1.0, [0.0, 1.0])
    with pytest.raises(ValueError, match="one number"):
        point_velocity(1.0, 1.0)
    with pytest.raises(ValueError, match="no density"):
        expansion_velocity(Empirical([[0.0]]), [0.0], 0.0, 1.0)
    with pytest.raises(ValueError, match="rate must not be negative"):
        expansion_velocity(Gaussian([0.0], 1.0), [0.0], 1.0, -1.0)
    with pytest.raises(TypeError, match="law must be"):
        expansion_velocity(3.0, [0.0], 1.0, 1.0)
