"""Free energies of Gaussians: flows, proximal steps, dissipation, convergence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import operators
from refdiff.distributions import Gaussian, kl_divergence, random_mixture, wasserstein
from refdiff.path_measures import dissipation, kl_gradient_flow
from refdiff.processes import ornstein_uhlenbeck
from refdiff.transport import optimal_map
from refdiff.transport.displacement import displacement
from refdiff.transport.jko import FreeEnergy


def drawn(seed: int, dim: int) -> Gaussian:
    law = random_mixture(dim, 1, seed, "full")
    return Gaussian(law.means[0], law.covariances.operator())


def energy(seed: int, dim: int, temperature: float) -> FreeEnergy:
    rng = np.random.default_rng(seed)
    p, q = (a + a.T for a in rng.standard_normal((2, dim, dim)) / 4)
    return FreeEnergy(p + np.eye(dim), rng.standard_normal(dim), temperature, q, 0.3)


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.0, 0.7]), st.floats(0.01, 0.5))
def test_a_step_is_the_implicit_euler_step_of_the_particles(seed, dim, temperature, tau):
    f, p = energy(seed, dim, temperature), drawn(seed, dim)
    if 1 + tau * f.convexity <= 0.05:
        return
    q = f.step(p, tau)
    way, slope, x = optimal_map(p, q), f.gradient(q), p.sample(5, seed)
    y = operators.apply(way.gain, x) + way.offset
    np.testing.assert_allclose(y + tau * (operators.apply(slope.gain, y) + slope.offset), x, rtol=1e-9, atol=1e-9)


def test_a_step_is_the_least_of_what_it_minimises():
    f, p, tau, rng = energy(3, 3, 0.8), drawn(1, 3), 0.3, np.random.default_rng(0)
    best = f.step(p, tau)
    least = f.value(best) + wasserstein(p, best) ** 2 / (2 * tau)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            a = np.eye(3) + size * rng.standard_normal((3, 3))
            other = Gaussian(best.mean() + size * rng.standard_normal(3), a @ best.cov() @ a.T)
            assert f.value(other) + wasserstein(p, other) ** 2 / (2 * tau) > least


def test_the_divergence_is_the_free_energy_of_its_target():
    p, target = drawn(1, 3), drawn(2, 3)
    f = FreeEnergy.divergence(target)
    assert f.value(p) == pytest.approx(kl_divergence(p, target))
    assert f.dissipation(p) == pytest.approx(dissipation(target, p).value, rel=1e-12)
    known = kl_gradient_flow(target, p, T=2.0).marginal(1.3)
    now = f.flow(p, 1.3)
    np.testing.assert_allclose(now.cov(), known.cov(), atol=1e-12)
    np.testing.assert_allclose(now.mean(), known.mean(), atol=1e-12)
    assert f.convexity == pytest.approx(1 / np.linalg.eigvalsh(target.cov())[-1])
    np.testing.assert_allclose(f.step(target, 0.4).cov(), target.cov(), atol=1e-14)  # nothing to gain


def test_flows_of_interactions_are_those_of_their_equation():
    f, p = energy(5, 3, 0.6), drawn(4, 3)
    known = (
        ornstein_uhlenbeck(f.curvature + f.interaction, noise=np.sqrt(2 * 0.6) * np.eye(3)).channel(0.0, 0.7).push(p)
    )
    np.testing.assert_allclose(f.flow(p, 0.7).cov(), known.cov(), atol=1e-12)
    flat = FreeEnergy(temperature=2.0).flow(Gaussian([1.0], 0.0), 0.3)
    assert flat.cov()[0, 0] == pytest.approx(1.2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_converge_to_the_flow_at_order_one(temperature):
    f, p = energy(1, 3, temperature), drawn(2, 3)
    exact = f.flow(p, 1.0)
    errors = [wasserstein(f.steps(p, 1 / n, n)[-1], exact) for n in (50, 100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.025)


def test_the_energy_falls_at_the_rate_of_its_dissipation():
    f, p, h = energy(2, 2, 0.5), drawn(3, 2), 1e-4
    rate = (f.value(f.flow(p, 0.3 + h)) - f.value(f.flow(p, 0.3 - h))) / (2 * h)
    assert rate == pytest.approx(-f.dissipation(f.flow(p, 0.3)), rel=1e-6)
    q = f.step(p, 0.2)
    assert f.value(q) + wasserstein(p, q) ** 2 / 0.4 <= f.value(p)


def test_steps_obey_the_variational_inequality_and_flows_contract():
    target = drawn(2, 3)
    f, p, tau = FreeEnergy.divergence(target), drawn(1, 3), 0.3
    lam, q = f.convexity, f.step(p, tau)
    for seed in range(6, 12):
        r = drawn(seed, 3)
        left = 0.5 * (1 + lam * tau) * wasserstein(q, r) ** 2 - 0.5 * wasserstein(p, r) ** 2
        assert left <= tau * (f.value(r) - f.value(q)) - 0.5 * wasserstein(p, q) ** 2
        assert wasserstein(f.flow(p, 0.5), f.flow(r, 0.5)) <= np.exp(-0.5 * lam) * wasserstein(p, r)


def test_points_move_and_spread():
    point = Gaussian([2.0, 0.0], 0.0)
    f = FreeEnergy(1.0, [0.0, 1.0], 0.5)
    assert f.value(point) == np.inf
    one = f.step(point, 0.2)
    np.testing.assert_allclose(one.mean(), [2 / 1.2, 0.2 / 1.2])
    np.testing.assert_allclose(one.cov(), np.eye(2) * 0.1 / 1.2)  # tau theta / (1 + tau P)
    cold = FreeEnergy(1.0, [0.0, 1.0], 0.0)
    assert not cold.step(point, 0.2).cov().any()
    assert cold.value(point) == pytest.approx(2.5)
    # a potential that draws to one place: the step of half the squared distance to it, along the shortest way
    there = displacement(drawn(1, 2), Gaussian([0.0, 1.0], 0.0)).marginal(0.2 / 1.2)
    np.testing.assert_allclose(cold.step(drawn(1, 2), 0.2).cov(), there.cov(), atol=1e-14)


def test_storage_stays_and_concave_energies_have_a_limit():
    f, p = FreeEnergy(0.5), Gaussian(np.zeros(3000), 2.0)
    assert f.step(p, 0.1).covariances.operator().shape == ()
    assert f.value(p) == pytest.approx(3000 * (0.5 - 0.5 * np.log(2 * np.pi * np.e * 2)))
    assert FreeEnergy([1.0, 2.0], interaction=[-0.5, 1.0]).convexity == 0.5  # of deviations
    assert FreeEnergy([1.0, 2.0], interaction=1.0).convexity == 1.0  # of the mean, which attraction does not move
    saddle = FreeEnergy([1.0, -2.0])
    saddle.step(Gaussian([0.0, 0.0], 1.0), 0.49)
    with pytest.raises(ValueError, match=r"tau must be below 0\.5"):
        saddle.step(Gaussian([0.0, 0.0], 1.0), 0.5)


def test_what_does_not_fit_is_named():
    f, p = FreeEnergy([1.0, 2.0]), Gaussian([0.0, 0.0], 1.0)
    with pytest.raises(TypeError, match="law must be a Gaussian"):
        f.flow(random_mixture(2, 2, 1), 1.0)
    with pytest.raises(ValueError, match="curvature of shape"):
        f.step(drawn(1, 3), 0.1)
    with pytest.raises(ValueError, match="curvature must be symmetric"):
        FreeEnergy([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="must have one dimension, got"):
        FreeEnergy([1.0, 2.0], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="temperature must lie in"):
        FreeEnergy(1.0, 0.0, -1.0)
    with pytest.raises(TypeError, match="target must be a Gaussian"):
        FreeEnergy.divergence(random_mixture(2, 2, 1))
    with pytest.raises(ValueError, match="target's covariance is singular"):
        FreeEnergy.divergence(Gaussian([0.0], 0.0))
    with pytest.raises(ValueError, match="law's covariance is singular"):
        FreeEnergy(1.0).gradient(Gaussian([0.0], 0.0))
    with pytest.raises(ValueError, match="t must lie in"):
        f.flow(p, -1.0)
