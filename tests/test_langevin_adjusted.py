"""Metropolis-adjusted chains keep the target itself: balance pair by pair, whole steps by quadrature, and by chains."""

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import multivariate_normal

from refdiff import operators
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.langevin import Kinetics, Preconditioner, Target, gaussian_acceptance, hmc, mala, target_of, warm_up
from refdiff.langevin.adjusted import Proposal
from refdiff.langevin.hamiltonian import Leapfrog
from refdiff.random import normals

LAW = random_mixture(2, 3, 4, "full")
TURN = np.array([[0.0, 0.7], [-0.7, 0.0]])
MATRIX = np.array([[1.0, 0.4], [0.4, 0.8]])


def bent(x):
    c, s = np.cos(x[:, 0]), np.sin(x[:, 1])
    return np.stack([np.stack([2 + c, 0.3 * s], axis=1), np.stack([0.3 * s, 1.5 + 0.5 * s], axis=1)], axis=1)


def bent_divergence(x):
    return np.stack([-np.sin(x[:, 0]) + 0.3 * np.cos(x[:, 1]), 0.5 * np.cos(x[:, 1])], axis=1)


CASES = {
    "plain": (Preconditioner(), None),
    "truncated": (Preconditioner(0.5), 0.8),
    "diagonal": (Preconditioner([0.3, 1.5]), None),
    "matrix": (Preconditioner(MATRIX), None),
    "skew": (Preconditioner(MATRIX, TURN), None),
    "diagonal that varies": (Preconditioner(lambda x: 1.5 + np.sin(x), 0.0, np.cos), None),
    "matrix that varies": (Preconditioner(bent, TURN, bent_divergence), None),
}


@pytest.mark.parametrize("name", CASES)
def test_as_many_go_from_x_to_y_as_back(name):
    """p(x) q(y | x) a(x, y) with SciPy's normal density for q: symmetric, pair by pair."""
    by, truncation = CASES[name]
    h = 0.15
    proposal = Proposal(target_of(LAW), h, by, truncation)
    x, y = LAW.sample(20, 1), LAW.sample(20, 2)

    def flow(a, b):
        here, there = proposal.at(a), proposal.at(b)
        score = LAW.score(a)
        length = np.linalg.norm(score, axis=1, keepdims=True)
        score = score if truncation is None else score * np.minimum(1, truncation / length)
        local = by.at(a)
        matrices = local.matrix if by.varies else [operators.dense(local.matrix, 2)] * 20
        spread = [np.diag(m) if np.ndim(m) == 1 else m for m in matrices]
        mean = a + h * local.drift(score)
        q = [multivariate_normal(m, 2 * h * s).logpdf(z) for m, s, z in zip(mean, spread, b, strict=True)]
        return LAW.logpdf(a) + q + np.minimum(proposal.log_ratio(here, there), 0)

    np.testing.assert_allclose(flow(x, y), flow(y, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_chains_that_start_in_equilibrium_stay_there(name):
    """Means of log p and of four moments over 4000 chains after eight steps: |z| < 4.5, false once in 20 000 tests."""
    by, truncation = CASES[name]
    x = LAW.sample(4000, 5)
    found = mala(LAW, x, step_size=0.2, steps=8, seed=3, preconditioner=by, truncation=truncation)
    check_moments(found.x)
    # its mean probability is the share that is accepted, up to chance
    z = (found.accepted - found.probability).mean() / (found.accepted - found.probability).std() * np.sqrt(4000)
    assert abs(z) < 4.5
    assert 0.2 < found.accepted.mean() < 0.999


def check_moments(y):
    m, c = LAW.mean(), LAW.cov()
    parts = [(y, m), ((y - m) ** 2, np.diag(c)), ((y - m).prod(axis=1, keepdims=True), c[0, 1])]
    for drawn, wanted in parts:
        assert np.abs((drawn.mean(axis=0) - wanted) / drawn.std(axis=0) * np.sqrt(len(y))).max() < 4.5


@pytest.mark.parametrize("options", [
    {"leapfrogs": 5}, {"persistence": 0.9}, {"leapfrogs": 2, "persistence": 0.5, "mass": MATRIX}, {"mass": [0.5, 2.0]},
])  # fmt: skip
def test_hamiltonian_chains_stay_there_too(options):
    found = hmc(LAW, LAW.sample(4000, 5), step_size=0.6, steps=6, seed=3, **options)
    check_moments(found.x)
    mass = np.broadcast_to(np.diag(np.asarray(options.get("mass", 1.0)) * np.eye(2)), 2)
    z = ((found.momentum**2).mean(axis=0) - mass) / (found.momentum**2).std(axis=0) * np.sqrt(4000)
    assert np.abs(z).max() < 4.5
    assert 0.2 < found.accepted.mean() < 0.999


def test_a_whole_step_with_momenta_keeps_the_law_and_without_the_turn_it_would_not():
    """E f after a step from (x, p) in equilibrium by sums over a lattice; the kink of min(1, .) leaves 1e-6."""
    law = GaussianMixture.isotropic([[-1.5], [1.5]], [0.6, 1.0])
    step = Leapfrog(target_of(law), 1.1, 1, Kinetics())
    u = np.arange(-7, 7, 0.05)
    x, p = (part.reshape(-1, 1) for part in np.meshgrid(u, u))
    weight = np.exp(law.logpdf(x) - p[:, 0] ** 2 / 2)
    y, q, _, there = step(x, p, law.score(x))
    ratio = there - law.logpdf(x) + step.kinetic_energy(p) - step.kinetic_energy(q)
    accept = np.exp(np.minimum(ratio, 0))

    def f(a, b):
        return np.sin(a + 2 * b + 0.3 * a * b)[:, 0]

    before = weight @ f(x, p) / weight.sum()
    after, unturned = ((weight @ (accept * f(y, q) + (1 - accept) * f(x, s * p))) / weight.sum() for s in (-1, 1))
    assert after == pytest.approx(before, abs=4e-6)
    assert abs(unturned - before) > 0.015


def test_one_leapfrog_without_persistence_is_the_langevin_step():
    x = LAW.sample(50, 1)
    one = mala(LAW, x, step_size=0.4**2 / 2, steps=6, seed=8, preconditioner=np.linalg.inv(MATRIX), trajectory=True)
    other = hmc(LAW, x, np.zeros_like(x), step_size=0.4, steps=6, seed=8, mass=MATRIX, trajectory=True)
    np.testing.assert_allclose(other.x, one.x, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(other.probability, one.probability, rtol=1e-9)


def test_leapfrogs_go_back_the_way_they_came():
    step, x, p = Leapfrog(target_of(LAW), 0.3, 7, Kinetics(MATRIX)), LAW.sample(5, 1), LAW.sample(5, 2)
    y, q, score, _ = step(x, p, LAW.score(x))
    back, turned, *_ = step(y, -q, score)
    np.testing.assert_allclose(back, x, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(turned, -p, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dim", [1, 4, 64])
@pytest.mark.parametrize("h", [0.1, 0.8, 3.0])
def test_acceptance_on_a_gaussian_is_the_closed_form(dim, h):
    found = mala(Gaussian(np.zeros(dim), 1.0), np.random.default_rng(dim).standard_normal((3000, dim)),
                 step_size=h, steps=1, seed=4)  # fmt: skip
    wanted = gaussian_acceptance(h, dim)
    assert abs(found.probability.mean() - wanted) < 4.5 * found.probability.std() / np.sqrt(3000) + 1e-15


def test_acceptance_scales_with_the_cube_root_of_the_dimension_and_is_best_at_574():
    sizes = np.geomspace(0.5, 5.0, 40)
    for dim in (10**3, 10**6):
        # of order h = l d^(-1/3), the next term
        gap = gaussian_acceptance(sizes * dim ** (-1 / 3), dim) - 2 * ndtr(-np.sqrt(sizes**3 / 8))
        assert np.abs(gap).max() < 0.7 * dim ** (-1 / 3)
    fine = np.geomspace(0.8, 2.5, 2000) * 1e-2
    accepted = gaussian_acceptance(fine, 10**6)
    assert accepted[np.argmax(fine * accepted)] == pytest.approx(0.574, abs=2e-3)


def test_warming_up_finds_the_step_that_is_accepted_as_often_as_wanted():
    x = LAW.sample(100, 1)

    def sampler(y, h, k):
        return mala(LAW, y, step_size=h, steps=2, seed=1, draw=k)

    for start in (1e-3, 10.0):
        h, chains = warm_up(sampler, x, step_size=start, rounds=40, goal=0.574)
        assert chains.draw == 40 * 2 * 2
        found = mala(LAW, LAW.sample(1000, 3), step_size=h, steps=1, seed=2)
        assert found.probability.mean() == pytest.approx(0.574, abs=0.03)


def test_where_there_is_no_density_nothing_is_accepted():
    def log_density(x):
        return np.where(((x > 0) & (x < 1)).all(axis=1), 0.0, -np.inf)

    box = Target(np.zeros_like, 2, log_density)
    x = np.random.default_rng(1).uniform(size=(500, 2))
    for found in (
        mala(box, x, step_size=0.1, steps=20, seed=3),
        hmc(box, x, step_size=0.4, steps=20, seed=3, leapfrogs=2),
    ):
        assert ((found.x > 0) & (found.x < 1)).all()
        z = (found.x.mean(axis=0) - 0.5) * np.sqrt(12 * 500)
        assert np.abs(z).max() < 4.5
        assert 0.1 < found.accepted.mean() < 0.9
    with pytest.raises(ValueError, match="x must start where the density is positive"):
        mala(box, [[2.0, 0.5]], step_size=0.1, steps=1, seed=0)


def test_a_momentum_turns_where_the_step_is_refused():
    """The density is positive at the start only, so that every step is refused."""

    def point(x):
        return np.where((x == 0).all(axis=1), 0.0, -np.inf)

    p, c = np.array([[1.0, -2.0]]), 0.8
    found = hmc(Target(np.zeros_like, 2, point), np.zeros((1, 2)), p, step_size=0.3, steps=1, seed=6, persistence=c)
    np.testing.assert_array_equal(found.x, 0.0)
    np.testing.assert_allclose(found.momentum, -(c * p + 0.6 * normals(6, 1, 0, 2)), rtol=1e-14)
    assert found.accepted == found.probability == 0.0


@pytest.mark.parametrize("name", CASES)
def test_a_run_remembers_nothing_but_where_it_is(name):
    """Ten steps at once and one by one, refused ones among them."""
    by, truncation = CASES[name]
    x = LAW.sample(30, 1)
    options = {"step_size": 0.9, "seed": 4, "preconditioner": by, "truncation": truncation}
    whole, y = mala(LAW, x, steps=10, **options), x
    for k in range(10):
        y = mala(LAW, y, steps=1, draw=2 * k, **options).x
    np.testing.assert_allclose(whole.x, y, rtol=1e-12, atol=1e-13)
    assert 0 < whole.accepted.mean() < 1


def test_runs_go_on_and_split_and_keep_precision_and_shape():
    x = LAW.sample(6, 1).reshape(2, 3, 2)
    whole = mala(LAW, x, step_size=0.3, steps=5, seed=4, trajectory=True)
    assert whole.x.shape == (6, 2, 3, 2)
    assert whole.accepted.shape == (2, 3)
    first = mala(LAW, x[1], step_size=0.3, steps=2, seed=4, particle=3)
    rest = mala(LAW, first.x, step_size=0.3, steps=3, seed=4, particle=3, draw=first.draw)
    np.testing.assert_array_equal(rest.x, whole.x[-1, 1])
    single = hmc(LAW, x.astype(np.float32), step_size=0.3, steps=2, seed=4)
    assert single.x.dtype == single.momentum.dtype == np.float32
    assert np.isnan(mala(LAW, x, step_size=0.3, steps=0, seed=4).accepted).all()


def test_what_cannot_be_adjusted_is_refused():
    x = np.zeros((1, 2))
    with pytest.raises(ValueError, match="target must have a log_density"):
        mala(Target(LAW.score, 2), x, step_size=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="preconditioner must have a positive definite matrix"):
        mala(LAW, x, step_size=0.1, steps=1, seed=0, preconditioner=[1.0, 0.0])
    with pytest.raises(ValueError, match="persistence must be below 1"):
        hmc(LAW, x, step_size=0.1, steps=1, seed=0, persistence=1.0)
    with pytest.raises(ValueError, match="log_density must answer with numbers below infinity"):
        mala(Target(LAW.score, 2, lambda x: np.full(len(x), np.inf)), x, step_size=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="step_size must be positive"):
        gaussian_acceptance(0.0, 3)
    with pytest.raises(ValueError, match="momentum must have the shape of x"):
        hmc(LAW, x, np.zeros(2), step_size=0.1, steps=1, seed=0)
