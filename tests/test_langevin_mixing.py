"""Rates of relaxation on the line against other discretisations, closed forms, bounds, passages and chains."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from refdiff import ExactModel, VEPower
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, log_cdf, random_mixture
from refdiff.langevin import (
    adjusted_chain,
    mala,
    muckenhoupt,
    passage_time,
    relaxation_rates,
    relaxation_times,
    spectral_gap,
    unadjusted_chain,
    unadjusted_langevin,
    wells_of,
)
from refdiff.validation.numeric import derivative, extrapolate, second_derivative

THREE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.3, 1.0, 0.5], [0.5, 0.3, 0.2])


def pair(m, weights=(0.5, 0.5)):
    return GaussianMixture.isotropic([[-m], [m]], 1.0, weights)


def finite_volumes(law, count, cells, mobility=lambda x: 1.0 + 0 * x):
    """The smallest eigenvalues of -(M p f')' = lambda p f on a grid with closed ends, of the second order."""
    std = np.sqrt(law.covariances.dense(1)[:, 0, 0])
    edges = np.linspace((law.means[:, 0] - 9 * std).min(), (law.means[:, 0] + 9 * std).max(), cells + 1)
    h = edges[1] - edges[0]
    p = np.exp(law.logpdf((edges[:-1] + h / 2)[:, None]))
    flux = (np.exp(law.logpdf(edges[:, None])) * mobility(edges))[1:-1] / h**2
    diagonal = (np.append(flux, 0) + np.append(0, flux)) / p
    beside = -flux / np.sqrt(p[:-1] * p[1:])
    return eigh_tridiagonal(diagonal, beside, select="i", select_range=(1, count))[0]


def test_a_gaussian_relaxes_at_multiples_of_one_rate():
    np.testing.assert_allclose(relaxation_rates(Gaussian([0.3], 2.0), 20, 1.5), 0.75 * np.arange(1, 21), rtol=1e-12)


@pytest.mark.parametrize("bends", [False, True])
def test_rates_are_those_of_finite_volumes_extrapolated(bends):
    def mobility(x):
        return 1.0 + 0.5 * np.tanh(x) if bends else 1.0 + 0 * x

    wanted = extrapolate([finite_volumes(THREE, 4, n, mobility) for n in (500, 1000, 2000)], first=2, step=2)
    np.testing.assert_allclose(relaxation_rates(THREE, 4, mobility), wanted, rtol=1e-6)


@pytest.mark.parametrize("m", [4.0, 8.0, 20.0, 30.0])
def test_behind_a_high_barrier_the_rate_is_twice_one_over_the_passage(m):
    """lambda_1 tau -> 2 for two equal wells, up to what is lost inside a well, e^(-m^2 / 2): to rounding at 1e-195."""
    found = spectral_gap(pair(m)) * passage_time(pair(m), -m, m)
    assert found == pytest.approx(2.0, rel=1e-12 + 2 * m * np.exp(-(m**2) / 2))


def test_modes_that_move_apart_relax_slower_than_kramers_by_the_root_of_half_pi():
    far = [12.0, 16.0, 20.0]
    rates = np.array([spectral_gap(pair(m)) for m in far])
    limit = (2 / np.pi) ** 1.5 * np.array(far) * np.exp(-(np.array(far) ** 2) / 2)
    # the next term of the barrier's integral is of order 1 / m^2
    np.testing.assert_allclose((1 - rates / limit) * np.array(far) ** 2, 1.25, atol=0.05)
    kramers = np.array([wells_of(pair(m)).relaxation_rate() for m in far])
    np.testing.assert_allclose(kramers / rates, np.sqrt(np.pi / 2), rtol=1 / 144)


def test_the_rate_lies_between_the_bounds():
    for law in (THREE, pair(1.0), pair(3.0, (0.9, 0.1)), pair(8.0), Gaussian([1.0], 0.3)):
        low, high = muckenhoupt(law)
        assert low <= 1 / spectral_gap(law) <= high
        assert high == 8 * low


def test_of_a_gaussian_the_bound_is_its_supremum():
    """sup (1 - F(x)) int_0^x 1 / p by SciPy's quadrature and search; M divides it."""

    def product(x):
        return -norm.sf(x) * np.sqrt(2 * np.pi) * quad(lambda y: np.exp(y * y / 2), 0, x, epsabs=1e-13)[0]

    wanted = -minimize_scalar(product, bounds=(0.1, 4), method="bounded").fun
    assert muckenhoupt(Gaussian([0.0], 1.0), 2.0)[1] == pytest.approx(2 * wanted, rel=2e-3)  # between two nodes


def test_rates_beyond_rounding_are_refused_and_times_beyond_numbers_are_infinite():
    with pytest.raises(ValueError, match="only 1 of them"):
        relaxation_rates(pair(8.0), 2)
    assert passage_time(pair(45.0), -45.0, 45.0) == np.inf


def test_a_passage_time_solves_its_equation():
    """M (tau'' + s tau') = -1 in the start, tau = 0 at the end, from either side."""
    for end in (2.5, -2.5):

        def tau(a, end=end):
            return np.array(passage_time(THREE, a, end, 0.7))

        for start in (-1.0, 0.3):
            s = THREE.score([[start]])[0, 0]
            left = second_derivative(tau, start, 0.03) + s * derivative(tau, start, 0.03)
            assert left * 0.7 == pytest.approx(-1.0, rel=1e-7)
        assert passage_time(THREE, end, end) == 0.0


@pytest.mark.parametrize("place", [0.5, 0.5 + 1e-4])
def test_short_passages_take_their_time_too(place):
    """tau(a, b) / (b - a) -> F / (M p), at a mean, where panels end, and beside it; and parts of a way add up."""
    wanted = np.exp(log_cdf(THREE, [[place]])[0] - THREE.logpdf([[place]])[0])
    for width in (1e-3, 1e-4, 1e-7):
        assert passage_time(THREE, place, place + width) / width == pytest.approx(wanted, rel=3 * width + 1e-9)
    parts = passage_time(THREE, place - 1e-4, place) + passage_time(THREE, place, 2.0)
    assert passage_time(THREE, place - 1e-4, 2.0) == pytest.approx(parts, rel=1e-12)


def test_wells_are_where_the_score_vanishes_and_their_chain_is_reversible():
    wells = wells_of(THREE)
    assert len(wells.bottoms) == 3
    assert len(wells.tops) == 2
    for x, sign in ((wells.bottoms, -1), (wells.tops, 1)):
        np.testing.assert_allclose(THREE.score(x[:, None]), 0.0, atol=1e-12)
        assert (sign * THREE.hessian(x[:, None]) > 0).all()
    right, left = wells.rates(2.0)
    mass = np.exp(THREE.logpdf(wells.bottoms[:, None])) / np.sqrt(-THREE.hessian(wells.bottoms[:, None])[:, 0, 0])
    np.testing.assert_allclose(mass[:-1] * right, mass[1:] * left, rtol=1e-12)
    jumps = np.diag(right, 1) + np.diag(left, -1)
    jumps -= np.diag(jumps.sum(axis=1))
    assert wells.relaxation_rate(2.0) == pytest.approx(np.sort(-np.linalg.eigvals(jumps).real)[1], rel=1e-9)
    assert wells_of(pair(0.9)).relaxation_rate() == np.inf
    np.testing.assert_allclose(wells_of(Gaussian([0.4], 1.0)).bottoms, [0.4], rtol=1e-12)


def test_noise_takes_the_barrier_away():
    model = ExactModel(Empirical([[-6.0], [6.0]]), VEPower(T=20.0))
    times = relaxation_times(model, [1.0, 2.0, 4.0, 8.0])
    assert times[0] > 1e6
    # in units of the variance of the noise, which steps may be in proportion to
    assert ((times / np.array([1.0, 4.0, 16.0, 64.0]))[2:] < 4).all()
    assert relaxation_times(model, 4.0).shape == ()
    np.testing.assert_array_equal(relaxation_times(model, [[1.0], [4.0]]), times[[0, 2], None])


# ---------------------------------------------------------------------- chains as matrices


def test_the_unadjusted_chain_of_a_gaussian_is_in_closed_form():
    chain = unadjusted_chain(Gaussian([0.3], 2.0), 0.3)
    mean = chain.moment(chain.stationary, 1)
    assert mean == pytest.approx(0.3, abs=1e-13)
    assert chain.moment(chain.stationary, 2) - mean**2 == pytest.approx(2 / (1 - 0.3 / 4), rel=1e-12)
    assert chain.second_eigenvalue == pytest.approx(1 - 0.15, rel=1e-12)


@pytest.mark.parametrize("build", [unadjusted_chain, adjusted_chain])
def test_small_steps_relax_at_the_generator_s_rate(build):
    law = pair(1.5, (0.3, 0.7))
    rate = spectral_gap(law)
    errors = [abs((1 - build(law, h).second_eigenvalue) / h / rate - 1) for h in (0.1, 0.05)]
    assert errors[1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.35)


def test_the_adjusted_chain_keeps_the_target_and_the_other_one_does_not():
    """The first by detailed balance at every pair of nodes; the second is off by O(h)."""
    for truncation in (None, 0.5):
        chain = adjusted_chain(THREE, 0.2, truncation=truncation)
        flows = chain.target[:, None] * chain.matrix
        np.testing.assert_allclose(flows, flows.T, rtol=1e-10, atol=1e-300)
        assert (chain.matrix >= 0).all()
        assert chain.total_variation(chain.target @ chain.matrix) < 1e-14
    off = []
    for h in (0.04, 0.02):
        chain = unadjusted_chain(THREE, h)
        off.append(chain.total_variation(chain.stationary))
        assert np.abs(chain.stationary @ chain.matrix - chain.stationary).max() < 1e-13
    assert off[0] / off[1] == pytest.approx(2, rel=0.1)


def test_chains_by_counter_have_the_law_of_the_matrix():
    """2000 chains from one node after five steps: |z| < 4.5 for two moments."""
    for build, sample in (
        (unadjusted_chain, lambda x: unadjusted_langevin(THREE, x, step_size=0.3, steps=5, seed=3)),
        (adjusted_chain, lambda x: mala(THREE, x, step_size=0.3, steps=5, seed=3).x),
    ):
        chain = build(THREE, 0.3)
        start = np.zeros(len(chain.x))
        node = int(np.argmin(np.abs(chain.x - 0.5)))
        start[node] = 1.0
        masses, found = chain.after(5, start), sample(np.full((2000, 1), chain.x[node]))[:, 0]
        for k in (1, 2):
            z = (np.mean(found**k) - chain.moment(masses, k)) / np.std(found**k) * np.sqrt(2000)
            assert abs(z) < 4.5


def test_what_is_not_on_the_line_or_leaves_it_is_refused():
    with pytest.raises(ValueError, match="law must be on the line"):
        spectral_gap(random_mixture(2, 2, 1))
    with pytest.raises(TypeError, match="law must be a Gaussian or GaussianMixture"):
        wells_of(3)
    with pytest.raises(ValueError, match="the law"):
        passage_time(Empirical([[0.0], [1.0]]), 0.0, 1.0)
    with pytest.raises(ValueError, match="step_size must keep chains near the law"):
        unadjusted_chain(Gaussian([0.0], 1.0), 2.5)
    with pytest.raises(ValueError, match="step_size must need at most"):
        adjusted_chain(pair(20.0), 1e-4)
    with pytest.raises(ValueError, match="mobility must be positive"):
        spectral_gap(THREE, lambda x: x)
    with pytest.raises(ValueError, match="law must need at most"):
        spectral_gap(pair(60.0))
    with pytest.raises(ValueError, match="law must need at most"):
        muckenhoupt(pair(100.0))
    narrow = GaussianMixture.isotropic([[-1.0], [1.0]], 1e-12)
    with pytest.raises(ValueError, match="law must need at most 50000 panels"):
        passage_time(narrow, -1.0, 1.0)
    with pytest.raises(ValueError, match="law must need at most"):
        wells_of(narrow)
    with pytest.raises(TypeError, match="model must be an ExactModel"):
        relaxation_times(THREE, [0.1])
