"""Entropic plans of points on a GPU: those of the processor, made of arrays that stay where they are."""

import numpy as np
import pytest
from emulator import cupy as stand_in

from refdiff.channels import Channel
from refdiff.distributions import Empirical
from refdiff.transport import (
    DevicePoints,
    Unconverged,
    entropic_cost,
    entropic_pairs,
    self_sinkhorn,
    sinkhorn,
    sinkhorn_divergence,
    sinkhorn_slope,
)
from refdiff.transport.costs import ground_cost
from refdiff.transport.soft_minima import CudaSide, PlainSide, side

EPS = np.finfo(float).eps
TOLERANCE = 1e-9


def problem(dim=3, n=70, m=50, kind="f8"):
    rng = np.random.default_rng(dim)
    x, y, b = rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) + 0.5, rng.random(m)
    b[:4] = 0
    return x.astype(kind), y.astype(kind), b.astype(kind)


def plans(cupy, cost="half-squared", epsilon=0.3, dim=3):
    """The plan of points on the device, and of the same ones in NumPy, to a smaller tolerance."""
    x, y, b = problem(dim)
    there = sinkhorn(cupy.asarray(x), DevicePoints(cupy.asarray(y), cupy.asarray(b)), epsilon, cost=cost)
    return there, sinkhorn(x, Empirical(y, b), epsilon, cost=cost, tolerance=1e-13)


def assert_like(found, expected, atol):
    assert abs(found.get() - expected).max() <= atol


def stiffness(plan):
    """What potentials are off by, in units of eps and of the marginal error.

    log r of a point that lacks some mass is that over its own mass, and turns multiply an error by h.
    """
    a, b = plan.p.weights, plan.q.weights
    masses = plan.coupling()[np.ix_(a > 0, b > 0)]
    a, b = a[a > 0], b[b > 0]
    h = np.linalg.svd(masses / np.sqrt(np.outer(a, b)), compute_uv=False)[1] ** 2
    return 1 / min(a.min(), b.min()) / (1 - h)


# ---------------------------------------------------------------------- halves


@pytest.mark.parametrize(("cost", "dim", "epsilon"), [("half-squared", 3, 0.05), (1.0, 3, 0.3), ("squared", 17, 0.5)])
def test_a_half_on_the_device_is_that_of_numpy(cupy, cost, dim, epsilon):
    x, y, b = problem(dim)
    y, logs, g = y[4:], np.log(b[4:] / b.sum()), np.random.default_rng(1).normal(size=46)
    ground, values = ground_cost(cost, (70, 46)), np.random.default_rng(2).normal(size=(46, 1))
    plain = PlainSide(ground, x, y, logs)
    there = side(ground, *(cupy.asarray(one) for one in (x, y, logs)))
    assert isinstance(there, CudaSide)
    # d + 10 roundings each of the largest logit in both, or of squared lengths where products serve
    size = (ground.largest(x, y) + abs(g).max()) / epsilon + abs(logs).max()
    off = 2 * (dim + 10) * EPS * size
    device = cupy.asarray(g)
    m = plain.minima(g, epsilon)
    assert_like(there.minima(device, epsilon), m, off)
    assert_like(there.means(device, epsilon, cupy.asarray(values)), plain.means(g, epsilon, values), 4 * off)
    assert_like(there.mean_costs(device, epsilon), plain.mean_costs(g, epsilon), 4 * off * ground.largest(x, y))
    shares = np.exp(logs + (g - ground.values(x, y)) / epsilon + m[:, None])
    assert_like(there.shares(device, epsilon, cupy.asarray(m)), shares.T, 2 * off)
    assert abs(plain.minima(g, 1.001 * epsilon) - m).max() > off


def test_points_far_from_each_other_in_many_axes_keep_their_differences(cupy):
    """Units in which squared lengths are above 2^16: products would lose what is near."""
    x, y, _ = problem(20)
    y[:40] = x[:40]
    logs, g, epsilon = np.log(np.full(50, 0.02)), np.zeros(50), 1e-7
    exact = PlainSide(ground_cost("half-squared", (70, 50)), x, y, logs).minima(g, epsilon)
    there = CudaSide(ground_cost("half-squared", (70, 50)), *(cupy.asarray(one) for one in (x, y, logs)))
    found = there.minima(cupy.asarray(g), epsilon).get()
    assert abs(found[:40] - exact[:40]).max() <= 30 * EPS * abs(exact[:40]).max()
    there._centred = there._centred[0], 0.0  # as if products would do
    assert abs(there.minima(cupy.asarray(g), epsilon).get()[:40] - exact[:40]).max() > 1e6 * EPS


# ---------------------------------------------------------------------- plans


@pytest.mark.parametrize(("cost", "epsilon", "dim"), [("squared", 0.3, 3), (1.0, 0.3, 3), ("half-squared", 2.0, 17)])
def test_a_plan_on_the_device_is_the_plan(cupy, cost, epsilon, dim):
    there, here = plans(cupy, cost, epsilon, dim)
    assert there.marginal_error <= TOLERANCE
    off = TOLERANCE * stiffness(here)
    assert_like(there.f, here.f, epsilon * off)
    assert_like(there.g, here.g, epsilon * off)
    far = ground_cost(cost, (70, 50)).largest(here.p.means, here.q.means)
    # by duality between the cost of any coupling and the value: masses that are moved, times how far
    assert abs(there.value - here.value) <= 2 * TOLERANCE * far
    assert abs(there.value - sinkhorn(here.p, here.q, 1.001 * epsilon, cost=cost).value) > 2 * TOLERANCE * far
    assert_like(there.coupling(), here.coupling(), 2 * off * here.coupling().max())
    assert abs(there.mean_cost() - here.mean_cost()) <= 2 * off * far
    assert abs(there.kl() - here.kl()) <= 4 * off * (1 + far / epsilon)
    x, y = there.p.means, there.q.means
    for found, expected in (
        (there.barycentric(), here.barycentric()),
        (there.barycentric(x + 1), here.barycentric(here.p.means + 1)),
        (there.plan_times(y), here.plan_times(here.q.means)),
        (there.plan_times(y[:, 0]), here.plan_times(here.q.means[:, 0])),
        (there.swapped().barycentric(), here.swapped().barycentric()),
        (there.potential(x[0]), here.potential(here.p.means[0])),
        (there.log_density(x[:50], y), here.log_density(here.p.means[:50], here.q.means)),
    ):
        assert isinstance(found, cupy.ndarray)
        assert found.shape == np.shape(expected)
        assert_like(found, expected, 4 * off * abs(expected).max())


def test_single_precision_ends_where_potentials_are_rounded(cupy):
    x, y, _ = problem(kind="f4")
    here = sinkhorn(x.astype(float), y.astype(float), 0.3, tolerance=1e-13)
    with pytest.raises(Unconverged, match="are rounded: take a larger tolerance") as caught:
        sinkhorn(cupy.asarray(x), cupy.asarray(y), 0.3)
    there = caught.value.plan
    assert there.f.dtype == there.g.dtype == there.coupling().dtype == np.float32
    assert there.iterations < 100
    size = np.finfo("f4").eps * max(abs(here.f).max(), abs(here.g).max()) / 0.3
    assert there.marginal_error <= 8 * size
    assert sinkhorn(cupy.asarray(x), cupy.asarray(y), 0.3, tolerance=8 * size).marginal_error <= 8 * size
    assert abs(there.value - here.value) <= 8 * size * 0.3


def test_nothing_is_copied_and_no_order_of_threads_changes_a_bit():
    x, y, b = problem()
    found = []
    with stand_in.standing_in() as cupy:
        device, q = cupy.asarray(x), DevicePoints(cupy.asarray(y), cupy.asarray(b))
        for cupy.state.order in ("random", "backward"):
            before = dict(cupy.state.copies)
            plan = sinkhorn(device, q, 0.5, tolerance=1e-6)
            plan.coupling(), plan.barycentric(), plan.kl(), plan.potential(device), plan.plan_times(q.means)
            assert cupy.state.copies == before
            found.append((plan.f.get(), plan.g.get()))
    assert (found[0][0] == found[1][0]).all()
    assert (found[0][1] == found[1][1]).all()


def test_all_is_done_on_the_device_of_the_points(monkeypatch):
    x, y, b = problem()

    class Other(stand_in.cuda.Device):
        inside = 0

        def __enter__(self):
            Other.inside += 1

        def __exit__(self, *_):
            Other.inside -= 1

    done, made = [], stand_in._wrapped
    with stand_in.standing_in() as cupy:
        p, q, weights = (cupy.asarray(one) for one in (x, y, b))
        monkeypatch.setattr(stand_in.ndarray, "device", property(lambda _: Other(1)))
        monkeypatch.setattr(stand_in, "_wrapped", lambda *some: (done.append(Other.inside), made(*some))[1])
        law = DevicePoints(q, weights)
        plan = sinkhorn(p, law, 0.5)
        plan.coupling(), plan.barycentric(), plan.kl(), plan.potential(p), plan.plan_times(weights), plan.mean_cost()
        plan.log_density(p[:50], q)
        self_sinkhorn(law, 0.5), sinkhorn_slope(x=p, epsilon=0.5, q=law, p=p), sinkhorn_divergence(p, law, 0.5)
        monkeypatch.setattr(stand_in.ndarray, "device", property(lambda one: Other(int(one.shape == (70, 3)))))
        for asked in (lambda: sinkhorn(p, q, 0.5), lambda: plan.potential(p)):
            with pytest.raises(ValueError, match="GPU"):
                asked()
    assert len(done) > 1000
    assert done.count(0) == 1  # the slice that is taken above


def test_divergences_and_their_slopes_are_those_of_laws(cupy):
    x, y, b = problem()
    p, q = cupy.asarray(x), DevicePoints(cupy.asarray(y), cupy.asarray(b))
    here, tolerance = Empirical(y, b), 1e-11
    cost = entropic_cost(p, q, 0.3)  # its tolerance is 1e-9 in both
    # by duality: masses that are moved, times how far, and there are three of them
    off = 6 * TOLERANCE * ground_cost("half-squared", (70, 50)).largest(x, y)
    assert abs(cost - entropic_cost(x, here, 0.3)) <= off
    found, expected = sinkhorn_divergence(p, q, 0.3), sinkhorn_divergence(x, here, 0.3, tolerance=tolerance)
    assert abs(found - expected) <= off < abs(cost - expected)
    slope, exact = sinkhorn_slope(p, q, 0.3, p), sinkhorn_slope(x, here, 0.3, x, tolerance=tolerance)
    assert isinstance(slope, cupy.ndarray)
    # what shares are off by, relatively, is twice what potentials are
    assert_like(slope, exact, 2 * TOLERANCE * stiffness(sinkhorn(x, here, 0.3)) * abs(np.concatenate([x, y])).max())
    assert abs(np.roll(exact, 1, axis=0) - exact).max() > 1e-2
    with pytest.raises(ValueError, match="cost must be of any two points"):
        sinkhorn_divergence(p, q, 0.3, cost=np.ones((70, 50)))


def test_a_plan_of_points_with_themselves_ends_in_single_precision_too(cupy):
    x, _, _ = problem()
    weights = np.ones(70)
    weights[5] = 0
    here = self_sinkhorn(Empirical(x, weights), 0.3, tolerance=1e-12)
    there = self_sinkhorn(DevicePoints(cupy.asarray(x), cupy.asarray(weights)), 0.3, tolerance=1e-12)
    # errors are halved at least, and eps log r is below eps times the marginal error over a weight
    assert_like(there.f, here.f, 2 * 0.3 * 70 * 1e-12)
    single = cupy.asarray(x.astype("f4"))
    with pytest.raises(Unconverged, match="take a larger tolerance") as caught:
        self_sinkhorn(single, 0.3)
    assert caught.value.plan.f.dtype == np.float32
    assert caught.value.plan.iterations < 100


def test_potentials_of_a_similar_problem_are_a_start(cupy):
    x, y, _ = problem()
    first = sinkhorn(cupy.asarray(x), cupy.asarray(y), 0.3)
    again = sinkhorn(first.p, first.q, 0.3, start=first.g)
    assert again.iterations <= 2 < first.iterations


@pytest.mark.parametrize(("dim", "cost"), [(3, "half-squared"), (17, 1.0)])
def test_newtons_steps_end_what_is_small(cupy, dim, cost):
    x, y, b = problem(dim)
    p, q, epsilon = cupy.asarray(x), DevicePoints(cupy.asarray(y), cupy.asarray(b)), 0.01
    there, here = sinkhorn(p, q, epsilon, cost=cost), sinkhorn(x, Empirical(y, b), epsilon, cost=cost)
    assert max(there.marginal_error, here.marginal_error) <= TOLERANCE
    # from the same turns on steps are the same but for roundings, by which one more may be wanted
    assert abs(there.iterations - here.iterations) <= 1
    far = ground_cost(cost, (70, 50)).largest(x, y)
    assert abs(there.value - here.value) <= 4 * TOLERANCE * far
    with pytest.raises(Unconverged):
        sinkhorn(p, q, epsilon, cost=cost, accelerated=False, max_iterations=4 * here.iterations)


@pytest.mark.parametrize("dim", [3, 17])
def test_no_points_have_no_potentials(cupy, dim):
    plan = plans(cupy, dim=dim, epsilon=2.0)[0]
    none = cupy.asarray(np.empty((0, dim)))
    assert plan.potential(none).shape == (0,)
    assert plan.barycentric(none).shape == (0, dim)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_weights_are_of_any_size(cupy, kind):
    x, _, _ = problem(kind=kind)
    weights = np.linspace(1, 2, 70).astype(kind)
    for size in (np.finfo(kind).max / 4, 4 * np.finfo(kind).tiny):
        law = DevicePoints(cupy.asarray(x), cupy.asarray(weights * np.asarray(size, kind)))
        # log w - log max w is off by an ulp of log w, which is 709 at most, and the sum by one for each weight
        np.testing.assert_allclose(law.weights.get(), weights / weights.sum(), rtol=(2 * 709 + 70) * np.finfo(kind).eps)


# ---------------------------------------------------------------------- at the door


def test_points_on_different_machines_are_refused(cupy):
    x, y, b = problem()
    p, q = cupy.asarray(x), cupy.asarray(y)
    for one, other, name in ((p, y, "q"), (x, q, "p"), (p, Empirical(y, b), "q"), (x, DevicePoints(q), "p")):
        with pytest.raises(TypeError, match=f"{name} must be points on the GPU as"):
            sinkhorn(one, other, 0.3)
    with pytest.raises(TypeError, match="weights must be an array of CuPy"):
        DevicePoints(p, b)
    with pytest.raises(TypeError, match="points must be an array of CuPy"):
        DevicePoints(x)
    with pytest.raises(TypeError, match="start must be an array of CuPy"):
        sinkhorn(p, q, 0.3, start=np.zeros(50))
    plan = sinkhorn(p, q, 0.3, tolerance=1e-3)
    for wrong in (lambda: plan.potential(x), lambda: plan.plan_times(b), lambda: plan.log_density(x, x)):
        with pytest.raises(TypeError, match="must be an array of CuPy"):
            wrong()
    with pytest.raises(TypeError, match="law, which holds arrays of NumPy"):
        plan.pairs()
    with pytest.raises(TypeError, match="law, which holds arrays of NumPy"):
        entropic_pairs(p, q, 0.3)


def test_costs_that_are_no_numbers_in_units_of_eps_are_refused(cupy):
    x, y, _ = problem()
    for scale, epsilon in ((1e200, 0.3), (1.0, 1e-310)):
        for p, q in ((scale * x, scale * y), (cupy.asarray(scale * x), cupy.asarray(scale * y))):
            for asked in (lambda p, q, e: sinkhorn(p, q, e, accelerated=False), lambda p, _, e: self_sinkhorn(p, e)):
                with pytest.raises(ValueError, match="epsilon must be larger, or points nearer"):
                    asked(p, q, epsilon)
    single = cupy.asarray(x.astype("f4"))
    with pytest.raises(ValueError, match="are beyond float32"):
        sinkhorn(single, single, 1e-38)


def test_what_does_not_fit_is_refused(cupy):
    x, y, _ = problem()
    p, q = cupy.asarray(x), cupy.asarray(y)
    for cost in (lambda u, v: u @ v.T, np.ones((70, 50))):
        with pytest.raises(TypeError, match="cost must be a power of the distance of points on a GPU"):
            sinkhorn(p, q, 0.3, cost=cost)
    with pytest.raises(TypeError, match="channel must be left out for points on a GPU"):
        entropic_cost(p, q, 0.3, Channel(2.0, np.zeros(3), 1.0))
    for other, message in (
        (cupy.asarray(y[:, :2]), "same dimension, got 3 and 2"),
        (cupy.asarray(y.astype("f4")), "same type, got float64 and float32"),
        (cupy.asarray(y[0]), "must have shape"),
        (cupy.asarray(np.full((5, 3), np.nan)), "q must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            sinkhorn(p, other, 0.3)
    for weights in (np.zeros(50), np.linspace(-1, 1, 50)):
        with pytest.raises(ValueError, match="weights must be at least 0"):
            DevicePoints(q, cupy.asarray(weights))
    with pytest.raises(ValueError, match=r"weights must have shape \(50,\)"):
        DevicePoints(q, cupy.asarray(np.ones(49)))
