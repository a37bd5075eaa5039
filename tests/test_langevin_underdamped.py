"""Underdamped Langevin: exact flows, weak orders of schemes, and chains that follow the exact law of their steps."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm

from refdiff import operators
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.dynamics import Relaxation
from refdiff.langevin import Kinetics, Target, kinetic_equation, kinetic_step, underdamped_langevin
from refdiff.langevin.kinetic import SCHEMES, letters
from refdiff.validation.numeric import divergence

RNG = np.random.default_rng(5)
SPD = [a @ a.T + 0.2 * np.eye(3) for a in RNG.standard_normal((3, 3, 3))]
KINETICS = {
    "numbers": Kinetics(0.5, 2.0),
    "diagonals": Kinetics([0.5, 1.0, 2.0], [1.0, 0.0, 3.0]),
    "matrices": Kinetics(SPD[0], SPD[1]),
    "mass a matrix": Kinetics(SPD[0], 0.7),
    "no friction": Kinetics(2.0, 0.0),
}
TARGET = Gaussian([0.5, -1.0, 0.2], SPD[2])


def linear(by, precision):
    """The drift and diffusion (2d, 2d) of the kinetic equation on Gaussian data."""
    m, g = (operators.dense(a, 3) for a in (by.mass, by.friction))
    inverse = np.linalg.inv(m)
    drift = np.block([[np.zeros((3, 3)), inverse], [-precision, -g @ inverse]])
    return drift, np.block([[np.zeros((3, 6))], [np.zeros((3, 3)), 2 * g]])


@pytest.mark.parametrize("name", KINETICS)
@pytest.mark.parametrize("h", [1e-4, 0.3, 5.0])
def test_free_flight_is_the_exact_transition_of_its_equation(name, h):
    """U as a scheme of one letter with no force, against Van Loan's matrix exponential."""
    by = KINETICS[name]
    drift, diffusion = linear(by, np.zeros((3, 3)))
    wide = Gaussian(np.zeros(3), 1e20)  # no force to speak of
    step, exact = kinetic_step(wide, h, "UB", by), Relaxation(drift, diffusion).channel(h)
    size = np.abs(expm(h * drift)).max()
    np.testing.assert_allclose(step.deviation, expm(h * drift) - np.eye(6), atol=1e-13 * size)
    np.testing.assert_allclose(step.noise, exact.noise, rtol=1e-9, atol=1e-13 * np.abs(exact.noise).max())


@pytest.mark.parametrize("name", ["numbers", "matrices"])
def test_a_frozen_force_is_integrated_exactly(name):
    by, h = KINETICS[name], 0.7
    drift, _ = linear(by, np.zeros((3, 3)))
    force = np.array([0.3, -1.0, 0.5])
    at_p = np.concatenate([np.zeros(3), force])
    wanted = [quad(lambda u, i=i: (expm(u * drift) @ at_p)[i], 0, h, epsabs=1e-13)[0] for i in range(6)]
    f = by.flight(h)
    far, near = (np.broadcast_to(a, (3, 3)) @ force if a.ndim == 2 else a * force for a in (f.far, f.near))
    np.testing.assert_allclose(np.concatenate([far, near]), wanted, rtol=1e-10, atol=1e-12)


def weak_errors(scheme, steps, law=TARGET, by=KINETICS["matrices"], span=0.8):
    """|covariance after the span - the exact one| from a fixed start, for these numbers of steps."""
    drift, diffusion = linear(by, np.linalg.inv(law.cov()))
    start = Gaussian(np.ones(6), 0.3)
    wanted = Relaxation(drift, diffusion, -drift @ np.concatenate([law.mean(), np.zeros(3)])).channel(span).push(start)
    found = [kinetic_step(law, span / n, scheme, by).after(n, start) for n in steps]
    return np.array(
        [np.abs(one.cov() - wanted.cov()).max() + np.abs(one.mean() - wanted.mean()).max() for one in found]
    )


@pytest.mark.parametrize(
    ("scheme", "order"), [*((s, 2.0) for s in SCHEMES[:-1]), ("E", 1.0), ("BAO", 1.0), ("OAB", 1.0)]
)
def test_palindromes_have_weak_order_two_and_other_words_one(scheme, order):
    errors = weak_errors(scheme, (32, 64, 128))
    slopes = np.log2(errors[:-1] / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.08)


def test_the_order_holds_for_a_double_well_by_a_tree_of_quadratures():
    """Five nodes in place of every normal, exact for polynomials of degree 9: the tree of 5^n branches is summed."""
    law = GaussianMixture.isotropic([[-1.0], [1.3]], 0.6)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()

    def mean(scheme, n, span=0.5):
        x, p, w, h = np.array([0.2]), np.array([0.4]), np.array([1.0]), span / n
        by = Kinetics(1.0, 1.5)
        for _ in range(n):
            for letter, part in letters(scheme):
                if letter == "A":
                    x = x + part * h * p
                elif letter == "B":
                    p = p + part * h * law.score(x[:, None])[:, 0]
                else:
                    decay, spread = by.ornstein_uhlenbeck(part * h)
                    x, w = np.repeat(x, 5), np.outer(w, weights).ravel()
                    p = (decay * p[:, None] + spread * nodes).ravel()
        return np.array([w @ x, w @ (x * p), w @ np.cos(x)])

    for scheme in ("BAOAB", "ABOBA"):
        found = {n: mean(scheme, n) for n in (1, 2, 3, 4, 6)}
        limit = found[6] + (found[6] - found[3]) / 3  # h^2 extrapolated
        coarse, fine = (np.abs(found[n] - limit) for n in (2, 4))
        order = np.log2(coarse / fine)
        assert ((order > 1.7) & (order < 2.5)).all(), (scheme, order)


@pytest.mark.parametrize("name", KINETICS)
@pytest.mark.parametrize("scheme", ["BAOAB", "OBABO", "UBU", "E"])
def test_chains_have_the_law_of_the_affine_step(name, scheme):
    """Means of 4000 chains, six coordinates and their squares: |z| > 4.5 happens once in 12 000 such tests."""
    by, n = KINETICS[name], 4000
    x = TARGET.sample(n, 1)
    found = underdamped_langevin(
        TARGET, x, np.ones((n, 3)), step_size=0.25, steps=4, seed=3, scheme=scheme, kinetics=by
    )
    y = np.concatenate([found.x, found.momentum], axis=1)
    start = Gaussian(np.append(TARGET.mean(), np.ones(3)), np.pad(TARGET.cov(), ((0, 3), (0, 3))))
    law = kinetic_step(TARGET, 0.25, scheme, by).after(4, start)
    for drawn, wanted in ((y, law.mean()), ((y - law.mean()) ** 2, np.diag(law.cov()))):
        z = (drawn.mean(axis=0) - wanted) / (drawn.std(axis=0) / np.sqrt(n))
        assert np.abs(z).max() < 4.5


def test_a_force_is_asked_once_for_each_place():
    asked = []

    def score(x):
        asked.append(len(x))
        return TARGET.score(x)

    for scheme, count in (("BAOAB", 6), ("OBABO", 6), ("ABOBA", 5), ("UBU", 5), ("E", 5), ("BOAOB", 6)):
        asked.clear()
        found = underdamped_langevin(Target(score, 3), np.zeros((2, 3)), step_size=0.1, steps=5, seed=1, scheme=scheme)
        assert len(asked) == found.evaluations == count, scheme


def test_runs_go_on_where_they_stopped_and_batches_in_parts():
    x, options = np.zeros((4, 3), dtype=np.float32), {"step_size": 0.1, "seed": 9, "scheme": "OBABO"}
    whole = underdamped_langevin(TARGET, x, steps=6, trajectory=True, **options)
    assert whole.x.shape == whole.momentum.shape == (7, 4, 3)
    assert whole.x.dtype == np.float32
    assert whole.draw == 1 + 2 * 6
    x = x.astype(float)
    half = underdamped_langevin(TARGET, x[1:], steps=3, particle=1, **options)
    rest = underdamped_langevin(TARGET, half.x, half.momentum, steps=3, particle=1, draw=half.draw, **options)
    np.testing.assert_allclose(rest.x, whole.x[-1, 1:], rtol=1e-5, atol=1e-6)


def test_the_equation_is_the_linear_one_on_gaussian_data():
    for by in KINETICS.values():
        drift, diffusion = linear(by, np.linalg.inv(TARGET.cov()))
        equation, y = kinetic_equation(TARGET, by), RNG.standard_normal((4, 6))
        centre = np.append(TARGET.mean(), np.zeros(3))
        np.testing.assert_allclose(equation.drift_at(y, 0.0), (y - centre) @ drift.T, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(equation.covariance_rate(y, 0.0), diffusion, atol=1e-12)


@pytest.mark.parametrize("noise", [1.0, 1.1])
def test_a_mixture_with_momenta_in_equilibrium_does_not_change(noise):
    """-div(b q) + div(D grad q) / 2 over q by stencils of the log density of (x, p): 0 with the right noise alone."""
    mass, friction = np.array([[1.0, 0.3], [0.3, 0.7]]), np.array([[0.8, -0.2], [-0.2, 0.5]])
    law = random_mixture(2, 3, 4)
    spreads = law.covariances.dense(2)
    both = GaussianMixture.full(
        np.pad(law.means, ((0, 0), (0, 2))),
        np.stack([np.block([[s, np.zeros((2, 2))], [np.zeros((2, 2)), mass]]) for s in spreads]),
        law.weights,
    )
    equation, y = kinetic_equation(law, Kinetics(mass, friction)), both.sample(4, 1)
    here, spread = both.logpdf(y), noise**2 * equation.covariance_rate(y, 0.0) / 2

    def flux(z):
        ratio = np.exp(both.logpdf(z) - here)[:, None]
        return ratio * (equation.drift_at(z, 0.0) - both.score(z) @ spread)

    changed = np.abs(divergence(flux, y, 0.01)).max()
    assert changed < 1e-9 if noise == 1 else changed > 1e-2


def test_words_and_kinetics_that_are_none_are_refused():
    for word in ("", "BA", "BAOU", "UO", "BAOAX", 5):
        with pytest.raises(ValueError, match="scheme must be a word"):
            letters(word)
    with pytest.raises(ValueError, match="mass must be positive definite"):
        Kinetics(0.0)
    with pytest.raises(ValueError, match="mass and friction must act on the same dimension"):
        Kinetics([1.0, 2.0], np.eye(3))
    with pytest.raises(ValueError, match="mass of shape"):
        underdamped_langevin(TARGET, np.zeros((1, 3)), step_size=0.1, steps=1, seed=0, kinetics=Kinetics([1.0, 2.0]))
    with pytest.raises(ValueError, match="momentum must have the shape of x"):
        underdamped_langevin(TARGET, np.zeros((1, 3)), np.zeros(3), step_size=0.1, steps=1, seed=0)


def test_a_mixture_is_sampled_by_every_scheme():
    law = random_mixture(2, 3, 4)
    x = law.sample(2000, 1)
    for scheme in SCHEMES:
        found = underdamped_langevin(law, x, step_size=0.02, steps=10, seed=3, scheme=scheme)
        z = (found.x.mean(axis=0) - law.mean()) / (np.sqrt(np.diag(law.cov()) / 2000))
        assert np.abs(z).max() < 4.5
