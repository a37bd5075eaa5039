"""Plans of a point set with itself: equal to those by turns, at any eps in some forty steps, symmetric."""

import mixtures
import numpy as np
import pytest

from refdiff import Empirical, Gaussian
from refdiff.transport import Unconverged, self_sinkhorn, sinkhorn

POINTS = mixtures.law("points", 2, 9, 4).affine(0.3)


@pytest.mark.parametrize("cost", ["half-squared", "squared", 1.0, 0.5])
@pytest.mark.parametrize("epsilon", [0.3, 2.0, 50.0])
def test_it_is_the_plan_that_turns_find(cost, epsilon):
    plan = self_sinkhorn(POINTS, epsilon, cost=cost, tolerance=1e-12)
    turns = sinkhorn(POINTS, POINTS, epsilon, cost=cost, tolerance=1e-12)
    assert plan.value == pytest.approx(turns.value, rel=1e-10)
    np.testing.assert_allclose(plan.coupling(), turns.coupling(), atol=1e-10)
    np.testing.assert_array_equal(plan.f, plan.g)
    np.testing.assert_array_equal(plan.coupling(), plan.coupling().T)
    np.testing.assert_allclose(plan.coupling().sum(axis=0), POINTS.weights, atol=1e-12)
    assert plan.value == pytest.approx(plan.mean_cost() + epsilon * plan.kl(), rel=1e-11)


@pytest.mark.parametrize("epsilon", [1e-12, 1e-4, 1e-2, 0.1, 1.0, 1e3])
def test_errors_are_halved_at_any_noise(epsilon):
    x = np.random.default_rng(0).standard_normal((200, 2))
    x[:3] += [30.0, 0.0]  # far from the rest: turns would take long
    plan = self_sinkhorn(Empirical(x), epsilon, tolerance=1e-12)
    assert plan.iterations <= 42  # 2^-40 = 1e-12
    tail = plan.errors[plan.errors < 1e-3]
    assert (tail[1:] < 0.51 * tail[:-1] + 1e-15).all()


def test_points_without_a_weight_have_potentials():
    x, w = POINTS.means, POINTS.weights
    wide = Empirical(np.vstack([x, [[7.0, 7.0]]]), np.append(w, 0.0))
    plan, alone = self_sinkhorn(wide, 0.5), self_sinkhorn(POINTS, 0.5)
    np.testing.assert_allclose(plan.f[:-1], alone.f, rtol=1e-14)
    assert plan.f[-1] == pytest.approx(alone.potential(wide.means[-1]), rel=1e-14)


def test_a_cost_of_its_own_is_left_to_turns():
    gap = POINTS.means[:, None] - POINTS.means
    plan = self_sinkhorn(POINTS, 0.5, cost=0.5 * (gap**2).sum(axis=-1), tolerance=1e-12)
    assert plan.value == pytest.approx(self_sinkhorn(POINTS, 0.5, tolerance=1e-12).value, rel=1e-10)


def test_refusals():
    with pytest.raises(TypeError, match="p must hold real numbers"):
        self_sinkhorn("points", 1.0)
    with pytest.raises(ValueError, match="p must be a law of points"):
        self_sinkhorn(Gaussian([0.0], 1.0), 1.0)
    with pytest.raises(ValueError, match="epsilon"):
        self_sinkhorn(POINTS, 0.0)
    with pytest.raises(Unconverged, match="after 2 iterations") as caught:
        self_sinkhorn(POINTS, 0.5, max_iterations=2)
    assert caught.value.plan.iterations == 2
