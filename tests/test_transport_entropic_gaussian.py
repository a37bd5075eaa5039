"""Entropic couplings of Gaussians: the optimality conditions, the limits, every storage and rank, and tiny digits."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from refdiff import Gaussian, GaussianMixture
from refdiff.channels import Channel
from refdiff.transport import GaussianPlan, optimal_pairs
from refdiff.validation.numeric import hermite, product_rule

SEEDS = st.integers(0, 2**32 - 1)
EPSILONS = [1e-3, 0.5, 20.0]


def spd(rng, d, rank=None):
    a = rng.standard_normal((d, rank or d))
    return a @ a.T


def channels(rng, d):
    return {
        "half squared": Channel(noise=1.0),
        "matrices": Channel(rng.standard_normal((d, d)), rng.standard_normal(d), spd(rng, d) + 0.1 * np.eye(d)),
        "numbers": Channel(0.7, 0.1, 0.4),
        "diagonals": Channel(rng.standard_normal(d), rng.standard_normal(d), rng.random(d) + 0.1),
        "a flat gain": Channel(np.diag(np.append(0.0, np.ones(d - 1))), 0.0, rng.random(d) + 0.1),
    }


CHANNELS = tuple(channels(np.random.default_rng(0), 2))


def build(seed, epsilon=0.5, channel="half squared", d=3, ranks=(None, None)):
    rng = np.random.default_rng(seed)
    m, n = rng.standard_normal((2, d))
    p, q = Gaussian(m, spd(rng, d, ranks[0])), Gaussian(n, spd(rng, d, ranks[1]))
    return GaussianPlan(p, q, epsilon, channels(rng, d)[channel])


def dense(a, d):
    return np.asarray(a) if np.ndim(a) == 2 else np.eye(d) * a


def parts(plan):
    """S, R, C, A and N as matrices."""
    d = plan.p.dim
    c = plan.pairs().cross.dense(d)[0]
    return plan.p.cov(), plan.q.cov(), c, dense(plan.channel.gain, d), dense(plan.channel.noise, d)


def cost(plan, x, y):
    """c of each pair of rows."""
    _, _, _, a, n = parts(plan)
    gap = y - x @ a.T - plan.channel.offset
    return 0.5 * np.einsum("...i,ij,...j->...", gap, np.linalg.inv(n), gap)


# ---------------------------------------------------------------------- the optimum


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("channel", CHANNELS)
def test_precision_of_the_pair_is_that_of_the_cost_off_the_diagonal(channel, epsilon):
    plan = build(1, epsilon, channel)
    s, r, c, a, n = parts(plan)
    precision = np.linalg.inv(np.block([[s, c], [c.T, r]]))
    # inverses keep eps times the condition of the digits, which grows as 1 / epsilon
    slack = 1e-13 * np.linalg.cond(np.block([[s, c], [c.T, r]]))
    np.testing.assert_allclose(precision[:3, 3:], -a.T @ np.linalg.inv(n) / epsilon, rtol=0,
                               atol=slack * np.abs(precision).max() / 100)  # fmt: skip


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_cross_covariance_is_the_closed_form_with_roots_of_matrices(epsilon):
    plan = build(2, epsilon)
    s, r, c, _, _ = parts(plan)
    half = np.real(sqrtm(s))
    middle = np.real(sqrtm(4 * half @ r @ half + epsilon**2 * np.eye(3)))
    np.testing.assert_allclose(c, 0.5 * (half @ middle @ np.linalg.inv(half) - epsilon * np.eye(3)), atol=1e-12)


@given(SEEDS, st.sampled_from(CHANNELS), st.sampled_from([(3, 3), (3, 1), (2, 3), (1, 2)]))
def test_no_other_gaussian_coupling_is_better(seed, channel, ranks):
    plan = build(seed, 0.4, channel, ranks=ranks)
    s, r, c, a, n = parts(plan)
    rng = np.random.default_rng(seed)
    fixed = plan.least_cost - best_alignment(plan)
    best = plan.value
    for size in (0.01, 0.3, 1.0):
        k, root, other = correlations(plan)
        moved = k + size * rng.standard_normal(k.shape) * (1 - np.linalg.norm(k, 2)) / 3
        moved *= min(1.0, 0.999 / np.linalg.norm(moved, 2))
        cross = root @ moved @ other.T
        kl = -0.5 * np.linalg.slogdet(np.eye(len(k)) - moved @ moved.T)[1]
        value = fixed - np.trace(a.T @ np.linalg.inv(n) @ cross.T) + 0.4 * kl
        assert value >= best - 1e-12 * (1 + abs(best) + np.abs(fixed))
    assert plan.kl() == pytest.approx(-0.5 * np.linalg.slogdet(np.eye(len(k)) - k @ k.T)[1], abs=1e-9)
    gap = plan.q.mean() - a @ plan.p.mean() - plan.channel.offset
    spread = r + a @ s @ a.T - a @ c - (a @ c).T
    direct = 0.5 * (gap @ np.linalg.solve(n, gap) + np.trace(np.linalg.solve(n, spread)))
    assert plan.mean_cost() == pytest.approx(direct, rel=1e-9)
    assert plan.value == pytest.approx(plan.mean_cost() + 0.4 * plan.kl(), rel=1e-13)


def best_alignment(plan):
    """The least of -tr A' N^-1 C' over all couplings: minus the sum of the singular values."""
    return -plan.singular_values.sum()


def correlations(plan):
    """K, F and G of C = F K G' with square roots from eigenvectors."""
    roots, inverses = [], []
    for s in (plan.p.cov(), plan.q.cov()):
        values, axes = np.linalg.eigh(s)
        felt = values > 1e-12 * values[-1]
        roots.append(axes[:, felt] * np.sqrt(values[felt]))
        inverses.append(axes[:, felt] / np.sqrt(values[felt]))
    c = parts(plan)[2]
    return inverses[0].T @ c @ inverses[1], roots[0], roots[1]


@given(SEEDS, st.sampled_from(CHANNELS), st.sampled_from([(2, 2), (2, 1), (1, 2), (1, 1)]), st.booleans())
def test_potentials_solve_both_equations_of_sinkhorn_everywhere(seed, channel, ranks, swapped):
    size = build(seed, 0.0, channel, d=2, ranks=ranks).singular_values.max()
    e = 0.1 + size  # so that exp(g / eps) is no narrower than the nodes' normal times (1 + 0.62)^(-1/2)
    plan = build(seed, e, channel, d=2, ranks=ranks)
    u, w = product_rule(hermite(90), 2)
    law, one, other = (plan.p, plan.f, plan.g) if swapped else (plan.q, plan.g, plan.f)
    values, axes = np.linalg.eigh(law.cov())
    nodes = law.mean() + u @ (axes * np.sqrt(np.maximum(values, 0))).T
    rng = np.random.default_rng(seed)
    where = (plan.q if swapped else plan.p).mean() + 0.5 * np.sqrt(e) * rng.standard_normal((3, 2))
    costs = cost(plan, *((nodes[:, None], where) if swapped else (where, nodes[:, None])))
    inner = one(nodes)[:, None] - costs
    peak = inner.max(axis=0)
    found = -e * np.log(w @ np.exp((inner - peak) / e)) - peak
    np.testing.assert_allclose(found, other(where), rtol=1e-9, atol=1e-10 * (e + np.abs(costs).min()))


@given(SEEDS, st.sampled_from(CHANNELS), st.sampled_from([(3, 3), (3, 1), (2, 3), (1, 2)]))
def test_channels_and_gradients_and_pairs_are_of_one_coupling(seed, channel, ranks):
    plan = build(seed, 0.5, channel, ranks=ranks)
    s, r, c, a, n = parts(plan)
    there, back = plan.forward(), plan.backward()
    size = 1 + max(np.abs(dense(part, 3)).max() for part in (there.gain, back.gain, s, r)) ** 2
    near = {"rtol": 0, "atol": 1e-13 * size**1.5}
    np.testing.assert_allclose(s @ dense(there.gain, 3).T, c, **near)
    np.testing.assert_allclose(dense(back.gain, 3) @ r, c, **near)
    for way, law, image in ((there, plan.p, plan.q), (back, plan.q, plan.p)):
        pushed = way.push(law)
        np.testing.assert_allclose(pushed.cov(), image.cov(), **near)
        np.testing.assert_allclose(pushed.mean(), image.mean(), **near)
    x, y = np.random.default_rng(seed).standard_normal((2, 4, 3))
    pull = np.linalg.inv(n)
    gap = plan.barycentric(x) - x @ a.T - plan.channel.offset
    wide = {"rtol": 0, "atol": 1e-12 * size**1.5 * (1 + np.abs(pull).max()) ** 2}
    np.testing.assert_allclose(plan.f.gradient(x), -gap @ pull @ a, **wide)
    np.testing.assert_allclose(plan.g.gradient(y), (y - (y @ dense(back.gain, 3).T + back.offset) @ a.T
                               - plan.channel.offset) @ pull, **wide)  # fmt: skip


def test_density_of_the_pair_is_gibbs_and_potentials_share_the_value():
    for channel in CHANNELS:
        plan = build(5, 0.7, channel)
        x, y = plan.pairs().sample(6, 1)
        ratio = plan.pairs().mixture().logpdf(np.hstack([x, y])) - plan.p.logpdf(x) - plan.q.logpdf(y)
        np.testing.assert_allclose(ratio, (plan.f(x) + plan.g(y) - cost(plan, x, y)) / 0.7, atol=1e-10)
        for law, potential in ((plan.p, plan.f), (plan.q, plan.g)):
            bend = np.trace(dense(potential.hessian, 3) @ law.cov())
            assert potential(law.mean()) + 0.5 * bend == pytest.approx(0.5 * plan.value, rel=1e-13)


# ---------------------------------------------------------------------- storage, limits, digits


@given(SEEDS, st.sampled_from(["half squared", "numbers", "diagonals"]), st.sampled_from(EPSILONS))
def test_storages_agree(seed, channel, epsilon):
    rng = np.random.default_rng(seed)
    m, n, v, w = rng.standard_normal((4, 3)) ** 2
    way = channels(rng, 3)[channel]
    plan = GaussianPlan(Gaussian(m, v), Gaussian(n, w), epsilon, way)
    full = GaussianPlan(Gaussian(m, np.diag(v)), Gaussian(n, np.diag(w)), epsilon, way)
    near = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(plan.pairs().cross.dense(3), full.pairs().cross.dense(3), **near)
    for name in ("value", "least_cost"):
        assert getattr(plan, name) == pytest.approx(getattr(full, name), rel=1e-12)
    assert plan.kl() == pytest.approx(full.kl(), rel=1e-12)
    x = rng.standard_normal((4, 3))
    for ask in (lambda one: one.f(x), lambda one: one.g(x), lambda one: one.barycentric(x)):
        np.testing.assert_allclose(ask(plan), ask(full), rtol=1e-10, atol=1e-10)
    assert plan.forward().gain.ndim < 2


def test_numbers_stay_numbers():
    plan = GaussianPlan(Gaussian([0.0, 1.0], 1.0), Gaussian([1.0, 1.0], 0.25), 0.5)
    assert plan.forward().gain.ndim == 0
    assert plan.pairs().cross_covariance()[0, 0] == pytest.approx((np.sqrt(5) - 1) / 4, rel=1e-15)  # golden
    other = GaussianPlan(plan.p, plan.q, 0.5, Channel(noise=0.5))  # |x - y|^2
    assert other.pairs().cross_covariance()[0, 0] == pytest.approx(0.3903882032, abs=1e-10)


def exact(s0, s1, e):
    """k, -log(1 - k^2) and what is added to the least cost, to 50 digits."""
    with mpmath.workdps(50):
        s, e = mpmath.mpf(s0) * mpmath.mpf(s1), mpmath.mpf(e)
        rho = mpmath.sqrt(e**2 + 4 * s**2)
        with mpmath.workdps(700):
            k = (mpmath.sqrt(e**2 + 4 * s**2) - e) / (2 * s)
            log = -mpmath.log(1 - k**2)
            added = s * (1 - k) + e * log / 2
        return float(k), float(log), float(added), float(rho)


@pytest.mark.parametrize("epsilon", [1e-280, 1e-100, 1e-12, 1e-3, 1.0, 1e3, 1e12, 1e100, 1e140])
def test_every_number_has_its_digits_at_any_noise(epsilon):
    s0, s1 = 1.5, 0.75
    plan = GaussianPlan(Gaussian([0.0], s0**2), Gaussian([0.0], s1**2), epsilon)
    k, log, added, _ = exact(s0, s1, epsilon)
    assert plan.pairs().cross_covariance()[0, 0] == pytest.approx(s0 * s1 * k, rel=1e-15)
    assert plan.kl() == pytest.approx(0.5 * log, rel=2e-15)
    assert plan.value == pytest.approx(0.5 * (s0 - s1) ** 2 + added, rel=1e-15)
    same = GaussianPlan(Gaussian([0.0], s0**2), Gaussian([0.0], s0**2), epsilon)
    assert same.value == pytest.approx(exact(s0, s0, epsilon)[2], rel=1e-14)  # the least cost is 0: nothing to hide in


@given(SEEDS, st.sampled_from([(3, 3), (3, 2), (2, 3), (1, 2)]))
def test_without_noise_it_is_the_optimal_coupling_and_with_much_the_product(seed, ranks):
    plan = build(seed, 0.0, ranks=ranks)
    optimal = optimal_pairs(plan.p, plan.q)
    size = 1 + np.trace(plan.p.cov() + plan.q.cov())
    np.testing.assert_allclose(plan.pairs().cross_covariance(), optimal.cross_covariance(), atol=1e-6 * size)
    assert plan.value == pytest.approx(0.5 * optimal.cost(), abs=1e-9 * size)
    assert plan.value == plan.mean_cost() == plan.least_cost
    assert plan.kl() == np.inf
    loud = GaussianPlan(plan.p, plan.q, 1e9 * size)
    s, r = plan.p.cov(), plan.q.cov()
    np.testing.assert_allclose(loud.pairs().cross_covariance() * loud.epsilon, s @ r, atol=1e-8 * size**2)
    product = 0.5 * ((plan.p.mean() - plan.q.mean()) ** 2).sum() + 0.5 * np.trace(s + r)
    assert loud.value == pytest.approx(product, rel=1e-8)


def test_a_point_is_coupled_in_one_way():
    point, q = Gaussian([1.0, 2.0], 0.0), Gaussian([0.0, 0.0], [[2.0, 0.3], [0.3, 1.0]])
    for epsilon in (0.0, 0.5):
        plan = GaussianPlan(point, q, epsilon)
        assert plan.value == pytest.approx(0.5 * (5.0 + 3.0), rel=1e-15)
        assert plan.kl() == 0
        assert not plan.pairs().cross_covariance().any()
    way = GaussianPlan(point, q, 0.5).forward()
    np.testing.assert_allclose(way.noise, q.cov())
    np.testing.assert_allclose(way.gain @ point.mean() + way.offset, q.mean())
    both = GaussianPlan(point, Gaussian([0.0, 0.0], 0.0), 0.5)
    assert both.value == 2.5
    assert both.f(point.mean()) == 1.25


def test_only_the_pulled_back_gain_decides_the_coupling():
    rng = np.random.default_rng(3)
    p, q = (Gaussian(rng.standard_normal(2), spd(rng, 2)) for _ in range(2))
    turn = rng.standard_normal((2, 2))
    crosses = []
    for noise in (spd(rng, 2), spd(rng, 2), np.eye(2)):
        gain = noise @ turn  # N^-1 A is one matrix
        crosses.append(GaussianPlan(p, q, 0.3, Channel(gain, rng.standard_normal(2), noise)).pairs().cross_covariance())
    np.testing.assert_allclose(crosses[1], crosses[0], atol=1e-13)
    np.testing.assert_allclose(crosses[2], crosses[0], atol=1e-13)


def test_singular_values_that_are_rounding_are_not_taken_for_small_ones():
    turn, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((4, 4)))
    p = Gaussian(np.zeros(4), turn[:, :2] @ turn[:, :2].T)
    q = Gaussian(np.zeros(4), turn[:, 2:] @ turn[:, 2:].T)
    for epsilon in (0.0, 1e-18, 1e-3):
        plan = GaussianPlan(p, q, epsilon)
        assert np.abs(plan.pairs().cross_covariance()).max() < 1e-13
        assert plan.value == pytest.approx(2.0, rel=1e-13)


def test_many_dimensions_are_one_decomposition():
    rng = np.random.default_rng(0)
    d = 120
    plan = GaussianPlan(Gaussian(np.zeros(d), spd(rng, d) / d), Gaussian(np.ones(d), spd(rng, d) / d), 0.01)
    s, r, *_ = parts(plan)
    w = plan.forward()
    np.testing.assert_allclose(w.gain @ s @ w.gain.T + w.noise, r, atol=1e-11)
    np.testing.assert_allclose(0.01 * w.gain, w.noise, atol=1e-12)  # W N^-1 A and eps W


# ---------------------------------------------------------------------- arguments


def test_single_precision_stays():
    plan = build(0)
    x = np.zeros((2, 5, 3), np.float32)
    assert plan.f(x).dtype == plan.f.gradient(x).dtype == plan.barycentric(x).dtype == np.float32
    assert plan.f(x).shape == (2, 5)
    assert plan.barycentric(x).shape == (2, 5, 3)


def test_refusals():
    p, q = Gaussian([0.0, 1.0], 1.0), Gaussian([0.0, 1.0], [1.0, 2.0])
    two = GaussianMixture.isotropic([[0.0], [1.0]], 1.0)
    for error, match, make in [
        (
            TypeError,
            "p must be a Gaussian",
            lambda: GaussianPlan(two, q, 1.0),
        ),
        (TypeError, "q must be a Gaussian", lambda: GaussianPlan(p, 3, 1.0)),
        (TypeError, "channel must be", lambda: GaussianPlan(p, q, 1.0, 2.0)),
        (ValueError, "q must have the dimension 2", lambda: GaussianPlan(p, Gaussian([0.0], 1.0), 1.0)),
        (ValueError, "epsilon", lambda: GaussianPlan(p, q, -1.0)),
        (ValueError, "noise in all", lambda: GaussianPlan(p, q, 1.0, Channel(noise=[0.0, 1.0]))),
        (ValueError, "channel's gain", lambda: GaussianPlan(p, q, 1.0, Channel(np.ones(3), noise=1.0))),
        (ValueError, "2 outputs", lambda: GaussianPlan(p, q, 1.0, Channel(np.ones((3, 2)), noise=1.0))),
        (ValueError, "must be positive here", lambda: GaussianPlan(p, q, 0.0).forward()),
        (ValueError, "must be positive here", lambda: GaussianPlan(p, q, 0.0).f),
        (ValueError, "x must have shape", lambda: GaussianPlan(p, q, 1.0).f(np.zeros(3))),
    ]:
        with pytest.raises(error, match=match):
            make()
