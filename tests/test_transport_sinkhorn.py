"""Entropic plans of point sets: closed forms, both limits, and what a plan says without its matrix."""

import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from refdiff import backends
from refdiff.distributions import Empirical, Gaussian
from refdiff.metrics import optimal_coupling
from refdiff.transport import Unconverged, sinkhorn


def two(n=40, m=30, dim=2, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    return Empirical(rng.normal(size=(n, dim)), a), Empirical(0.5 * rng.normal(size=(m, dim)) + 1, b)


def assert_plan(plan, tolerance=1e-9):
    masses = plan.coupling()
    error = np.abs(masses.sum(axis=1) - plan.p.weights).sum() + np.abs(masses.sum(axis=0) - plan.q.weights).sum()
    # masses are off by roundings of potentials in units of eps
    slack = 1e-13 + 4 * np.finfo(float).eps * (np.abs(plan.f).max() + np.abs(plan.g).max()) / plan.epsilon
    assert error == pytest.approx(plan.marginal_error, abs=slack)
    assert error <= tolerance + slack


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


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("annealed", [False, True])
@pytest.mark.parametrize("cost", ["half-squared", 1.0, 3.0])
def test_every_way_ends_at_the_same_plan(cost, annealed, accelerated):
    p, q = two()
    epsilon = 0.6 if cost == 3.0 else 0.1
    plan = sinkhorn(p, q, epsilon, cost=cost, annealed=annealed, accelerated=accelerated, tolerance=1e-11)
    best = sinkhorn(p, q, epsilon, cost=cost, tolerance=1e-13)
    assert_plan(plan)
    np.testing.assert_allclose(plan.f, best.f, atol=1e-8)
    np.testing.assert_allclose(plan.g, best.g, atol=1e-8)
    assert plan.p.weights @ plan.f == pytest.approx(plan.q.weights @ plan.g, abs=1e-12)
    assert plan.value == pytest.approx(best.value, abs=1e-10)


def test_going_beyond_takes_fewer_turns():
    p, q = two()
    slow, fast = (sinkhorn(p, q, 0.05, annealed=False, accelerated=way).iterations for way in (False, True))
    assert 3 * fast < slow


def test_the_value_is_cost_and_divergence():
    p, q = two()
    plan = sinkhorn(p, q, 0.2, tolerance=1e-13)
    masses = plan.coupling()
    costs = cdist(p.means, q.means, "sqeuclidean") / 2
    assert plan.mean_cost() == pytest.approx((masses * costs).sum(), rel=1e-13)
    assert plan.kl() == pytest.approx((masses * np.log(masses / np.outer(p.weights, q.weights))).sum(), rel=1e-11)
    assert plan.value == pytest.approx(plan.mean_cost() + 0.2 * plan.kl(), rel=1e-12)
    assert "40 x 30" in repr(plan)


def test_little_noise_gives_the_optimal_coupling_and_much_noise_none():
    p, q = two(12, 9)
    best = optimal_coupling(p, q, 2.0)
    least, prices = 0.5 * best.cost, []
    for epsilon in (0.02, 0.005):
        plan = sinkhorn(p, q, epsilon, tolerance=1e-10, max_iterations=100_000)
        prices.append(plan.mean_cost() - least)
        # KL is at most the entropy of either law
        assert least <= plan.value <= least + epsilon * -(p.weights @ p.log_weights)
    assert 0 <= prices[1] < prices[0] / 2
    far = sinkhorn(p, q, 1e9)
    np.testing.assert_allclose(far.coupling(), np.outer(p.weights, q.weights), rtol=1e-7)


def test_given_costs_are_as_those_of_points():
    p, q = two(n=20, m=25)
    named = sinkhorn(p, q, 0.3, cost=1.5)
    matrix = cdist(p.means, q.means) ** 1.5
    for cost in (matrix, lambda x, y: cdist(x, y) ** 1.5):
        plan = sinkhorn(p, q, 0.3, cost=cost)
        np.testing.assert_allclose(plan.f, named.f, atol=1e-9)
        np.testing.assert_allclose(plan.swapped().coupling(), named.coupling().T, atol=1e-9)
    with pytest.raises(ValueError, match="a matrix"):
        sinkhorn(p, q, 0.3, cost=matrix).barycentric([0.0, 0.0])


def test_points_without_weight_have_potentials_and_change_nothing():
    p, q = two(n=20, m=15)
    x, y = np.vstack([p.means, [[0.3, 0.1]]]), np.vstack([[[2.0, -1.0]], q.means])
    more = sinkhorn(Empirical(x, np.append(p.weights, 0)), Empirical(y, np.append(0, q.weights)), 0.3, tolerance=1e-12)
    plan = sinkhorn(p, q, 0.3, tolerance=1e-12)
    np.testing.assert_allclose(more.f[:-1], plan.f, atol=1e-13)
    assert more.f[-1] == pytest.approx(plan.potential(x[-1]), abs=1e-12)
    assert more.g[0] == pytest.approx(plan.swapped().potential(y[0]), abs=1e-10)
    assert_plan(more)


def test_one_point_takes_everything():
    p, _ = two(n=5)
    one = Gaussian([1.0, 0.0], 0.0)
    plan = sinkhorn(p, one, 0.1)
    np.testing.assert_allclose(plan.coupling()[:, 0], p.weights, rtol=1e-13)
    np.testing.assert_array_equal(plan.barycentric(), np.tile([1.0, 0.0], (5, 1)))
    assert plan.kl() == pytest.approx(0, abs=1e-12)
    assert sinkhorn(one, one, 0.1).value == 0


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_products_without_the_matrix(backend):
    p, q = two()
    with backends.use(backend):
        plan = sinkhorn(p, q, 0.3)
        masses, v = plan.coupling(), np.random.default_rng(1).normal(size=(30, 3))
        np.testing.assert_allclose(plan.plan_times(v), masses @ v, atol=1e-14)
        np.testing.assert_allclose(plan.plan_times(v[:, 0]), masses @ v[:, 0], atol=1e-14)
        np.testing.assert_allclose(plan.swapped().plan_times(np.ones(40)), masses.sum(axis=0), atol=1e-14)
        image = masses @ q.means / masses.sum(axis=1)[:, None]
        np.testing.assert_allclose(plan.barycentric(), image, atol=1e-13)
        np.testing.assert_allclose(plan.barycentric(p.means), image, atol=1e-13)


def test_backends_agree():
    p, q = two(n=150, m=170, dim=3)
    plans = []
    for backend in ("numpy", "numba"):
        with backends.use(backend):
            plans.append(sinkhorn(p, q, 0.05))
    np.testing.assert_allclose(plans[1].f, plans[0].f, atol=1e-12)
    assert plans[0].iterations == plans[1].iterations
    assert plans[0].mean_cost() == pytest.approx(plans[1].mean_cost(), rel=1e-12)


def test_the_map_is_the_gradient_of_the_potential_and_ends_in_the_plan():
    p, q = two()
    plan = sinkhorn(p, q, 0.3, tolerance=1e-12)
    x, h = np.random.default_rng(2).normal(size=(6, 2)), 1e-5
    slope = [(plan.potential(x + h * e) - plan.potential(x - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(plan.barycentric(x), x - np.transpose(slope), atol=1e-8)
    # of turns that end with f, whose rows are right
    np.testing.assert_allclose(plan.potential(p.means), plan.f, atol=1e-10)
    density = plan.log_density(np.repeat(p.means[:1], 30, axis=0), q.means)
    expected = np.log(plan.coupling()[0] / (p.weights[0] * q.weights))
    np.testing.assert_allclose(density, expected, atol=1e-9)
    assert plan.barycentric(x.astype(np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="y must have the shape"):
        plan.log_density(x, x[:2])


def test_pairs_have_the_laws_as_halves_where_the_plan_is_rough():
    p, q = two()
    with pytest.raises(Unconverged, match="after 3 iterations") as raised:
        sinkhorn(p, q, 0.05, max_iterations=3, annealed=False)
    rough = raised.value.plan
    assert rough.iterations == 3
    assert len(rough.errors) == 3
    assert_plan(rough, 2.0)
    pairs = rough.pairs()
    assert pairs.count == 1200
    assert_sums(pairs, p, q)
    fine = sinkhorn(p, q, 0.05).pairs()
    assert fine.cost() == pytest.approx(2 * sinkhorn(p, q, 0.05).mean_cost(), rel=1e-8)


def assert_sums(pairs, p, q):
    masses = pairs.first.weights.reshape(p.count, q.count)
    np.testing.assert_allclose(masses.sum(axis=1), p.weights, atol=1e-14)
    np.testing.assert_allclose(masses.sum(axis=0), q.weights, atol=1e-14)


def test_a_start_near_the_end_is_at_the_end_soon():
    p, q = two()
    plan = sinkhorn(p, q, 0.1)
    assert sinkhorn(p, q, 0.1, start=plan.g).iterations == 1
    assert sinkhorn(p, q, 0.1, start=plan.g + 7).value == pytest.approx(plan.value, abs=1e-9)


def test_the_marginal_error_falls_at_every_turn_that_does_not_go_beyond():
    p, q = two()
    errors = sinkhorn(p, q, 0.05, accelerated=False, annealed=False).errors
    assert (np.diff(errors) < 0).all()


@pytest.mark.parametrize("share", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize(("n", "m", "dim"), [(4, 5, 2), (8, 8, 1), (30, 20, 2)])
def test_plans_of_few_points_end_at_any_noise(n, m, dim, share):
    p, q = two(n, m, dim)
    epsilon = share * cdist(p.means, q.means, "sqeuclidean").max()
    plan = sinkhorn(p, q, epsilon, max_iterations=200)
    assert_plan(plan)
    least = optimal_coupling(p, q, 2.0).cost / 2
    # KL is at most the entropy of either law, and a dual value as near to the best as marginal errors say
    slack = 1e-9 * (np.abs(plan.f).max() + np.abs(plan.g).max())
    assert least - slack <= plan.value <= least + epsilon * -(p.weights @ p.log_weights) + slack


def test_few_equal_points_end_where_turns_alone_do_not():
    x = np.linspace(0, 1, 8)[:, None]
    y = np.random.default_rng(0).random((8, 1))
    for epsilon in (1e-2, 1e-3, 1e-4):
        assert_plan(sinkhorn(x, y, epsilon, max_iterations=100))


def test_tiny_weights_are_no_harder():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.01):
        p, q = (Empirical(rng.normal(size=(k, 3)), rng.dirichlet(np.full(k, share))) for k in (50, 40))
        assert p.weights.min() < 1e-12
        assert_plan(sinkhorn(p, q, 1e-3, max_iterations=100))


def test_points_too_far_apart_for_float64_are_told_soon():
    p, q = two(n=6, m=6)
    with pytest.raises(Unconverged, match="are rounded") as raised:
        sinkhorn(p.means, q.means + 1e6, 0.1)
    assert raised.value.plan.iterations < 100


def test_tiny_noise_does_not_overflow_and_is_told_soon():
    p, q = two(n=6, m=6)
    with pytest.raises(Unconverged, match="after 5 iterations") as raised:
        sinkhorn(p, q, 1e-9, max_iterations=5)
    assert np.isfinite(raised.value.plan.f).all()
    with pytest.raises(Unconverged, match="are rounded") as raised:
        sinkhorn(p, q, 1e-9)
    assert raised.value.plan.iterations < 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must lie in"),
        ({"cost": "cubed"}, "cost must be one of"),
        ({"cost": np.ones((2, 2))}, "cost must have shape"),
        ({"cost": -1.0}, "cost must lie in"),
        ({"cost": lambda x, y: np.ones(3)}, "cost must answer with shape"),
        ({"start": np.zeros(5)}, "start must have shape"),
        ({"tolerance": 0.0}, "tolerance must lie in"),
        ({"p": Gaussian([0.0, 0.0], 1.0)}, "p must be a law of points"),
        ({"q": np.zeros((3, 5))}, "same dimension"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    p, q = two(n=4, m=3)
    with pytest.raises(ValueError, match=message):
        sinkhorn(**{"p": p, "q": q, "epsilon": 0.1, **change})


def test_a_matrix_of_too_many_pairs_is_refused(monkeypatch):
    p, q = two(n=4, m=3)
    plan = sinkhorn(p, q, 0.5)
    monkeypatch.setattr(sys.modules[type(plan).__module__], "HELD", 11)
    with pytest.raises(ValueError, match="at most 11 pairs"):
        plan.coupling()
