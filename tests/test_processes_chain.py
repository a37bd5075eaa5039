"""Chains against dense matrices of the whole path, tables of betas, products in high precision, and Bayes' rule."""

import numpy as np
import pytest
from chains import KINDS, draw_chain, whole
from hypothesis import assume, given
from hypothesis import strategies as st

from refdiff import AffineProcess, Channel, Empirical, Gaussian, VEGeometric, VPLinear, operators, testing
from refdiff.distributions import random_mixture
from refdiff.processes import Chain, LinearProcess


def block(matrix, i, j, dim):
    return matrix[i * dim : (i + 1) * dim, j * dim : (j + 1) * dim]


SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 4))
def test_joint_law_kernels_and_covariances_are_blocks_of_one_solved_path(seed, kind, dim):
    chain, rng = draw_chain(seed, kind, dim), np.random.default_rng(seed + 1)
    root = rng.normal(size=(dim, dim))
    start = Gaussian(rng.normal(size=dim), root @ root.T)
    mean, cov, _, _ = whole(chain, dim, start.mean(), start.cov())
    joint = chain.joint(start)
    close = {"rtol": 0, "atol": 1e-12 * (1 + np.abs(cov).max() + np.abs(mean).max())}
    np.testing.assert_allclose(joint.mean(), mean, **close)
    np.testing.assert_allclose(joint.cov(), cov, **close)
    for i in range(chain.steps + 1):
        for j in range(chain.steps + 1):
            found = operators.dense(chain.covariance(i, j, start.cov()), dim)
            np.testing.assert_allclose(found, block(cov, i, j, dim), **close)
        given_x0 = chain.kernel(i).at(np.ones(dim))
        m, c, _, _ = whole(chain, dim, np.ones(dim), np.zeros((dim, dim)))
        np.testing.assert_allclose(given_x0.mean(), m[i * dim : (i + 1) * dim], **close)
        np.testing.assert_allclose(given_x0.cov(), block(c, i, i, dim), **close)
        np.testing.assert_allclose(operators.dense(chain.covariance(i, i), dim), block(c, i, i, dim), **close)


@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 3))
def test_the_precision_is_block_tridiagonal_and_inverts_the_joint_covariance(seed, kind, dim):
    chain = draw_chain(seed, kind, dim)
    start = Gaussian(np.zeros(dim), 0.7)
    _, cov, matrix, noise = whole(chain, dim, np.zeros(dim), start.cov())
    found = chain.precision(start).dense()
    size = (np.abs(found) @ np.abs(cov)).max()
    np.testing.assert_allclose(found @ cov, np.eye(len(cov)), rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(
        found, matrix.T @ np.linalg.inv(noise) @ matrix, rtol=0, atol=1e-11 * np.abs(found).max()
    )
    # given x_0 the rows and columns of x_0 are left out of the precision, not of the covariance
    given_x0 = chain.precision() if chain.dim else None
    if given_x0 is not None:
        np.testing.assert_allclose(given_x0.dense(), found[dim:, dim:], rtol=0, atol=1e-13 * np.abs(found).max())
    blocks = np.abs(found).reshape(chain.steps + 1, dim, chain.steps + 1, dim).max(axis=(1, 3))
    far = np.abs(np.subtract.outer(np.arange(chain.steps + 1), np.arange(chain.steps + 1))) > 1
    assert not blocks[far].any()


def test_the_numbers_of_the_texts():
    chain = Chain.noh_lee([0.1, 0.3, 0.2])
    kernels = [chain.kernel(t) for t in (1, 2, 3)]
    np.testing.assert_allclose([k.gain**2 for k in kernels], [0.9, 0.63, 0.504], rtol=1e-14)  # PHY-13b, of the data
    np.testing.assert_allclose([k.noise for k in kernels], [0.1, 0.37, 0.496], rtol=1e-14)  # and of the noise
    for variance, std in ((0.25, 0.3974), (4.0, 0.6222), (1.0, np.sqrt(0.3))):  # PHY-53: less where data vary less
        back = Chain.noh_lee([0.3]).reverse(0, 1, Gaussian([0.0], variance))
        assert np.sqrt(back.noise) == pytest.approx(std, abs=5e-5)
    alphas, betas = np.sqrt(1 - np.array([0.1, 0.4, 0.2])), np.sqrt([0.1, 0.4, 0.2])
    su = Chain.su(alphas, betas)
    bars = np.sqrt([su.kernel(t).noise for t in range(4)])
    for t in (1, 2, 3):  # TOPA-26: the variance of one step back for one data point, and for data N(0, I)
        assert np.sqrt(su.bridge(t - 1, t).noise) == pytest.approx(bars[t - 1] * betas[t - 1] / bars[t], rel=1e-13)
        assert np.sqrt(su.reverse(t - 1, t, Gaussian([0.0], 1.0)).noise) == pytest.approx(betas[t - 1], rel=1e-13)


@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 3))
def test_the_reversed_chain_retraces_the_marginals_and_ends_in_the_data(seed, kind, dim):
    chain, rng = draw_chain(seed, kind, dim), np.random.default_rng(seed + 1)
    data = Gaussian(rng.normal(size=dim), rng.uniform(0.2, 2.0))
    back, noise = chain.reversed(data), chain.marginal(chain.steps, data)
    for i in range(chain.steps + 1):
        found, forward = back.marginal(i, noise), chain.marginal(chain.steps - i, data)
        size = 1e-11 * (1 + np.abs(forward.cov()).max() + np.abs(forward.mean()).max())
        np.testing.assert_allclose(found.mean(), forward.mean(), rtol=0, atol=size)
        np.testing.assert_allclose(found.cov(), forward.cov(), rtol=0, atol=size)
    # two steps back at once are two steps: the reverse of a Gaussian chain is Markov
    twice = chain.reverse(1, 2, data).compose(chain.reverse(2, 3, data))
    direct = chain.reverse(1, 3, data)
    np.testing.assert_allclose(operators.dense(twice.gain, dim), operators.dense(direct.gain, dim), rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        operators.dense(twice.noise, dim), operators.dense(direct.noise, dim), rtol=0, atol=1e-11
    )


def test_the_posterior_of_a_mixture_is_the_mean_of_bridges_over_its_points():
    data, chain = Empirical([[-1.0, 0.5], [2.0, 0.0], [0.3, 0.3]], [0.2, 0.5, 0.3]), draw_chain(7, "matrix", 2)
    y = np.array([0.4, -0.2])
    found = chain.posterior(2, 4, data, y)
    weights = data.weights * np.exp([chain.kernel(4).logpdf(y, p) for p in data.means])
    bridge = chain.bridge(2, 4)
    np.testing.assert_allclose(found.weights, weights / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.means, [bridge.given(p).at(y).mean() for p in data.means], rtol=1e-12)
    np.testing.assert_allclose(found.covariances.dense(2)[0], bridge.noise, rtol=0, atol=1e-13)


@given(testing.processes(2), SEEDS)
def test_a_chain_of_a_process_is_its_kernels_and_transitions(process, seed):
    grid = np.sort(np.random.default_rng(seed).uniform(0.05, 0.9, 5)) * process.T
    assume((process.coefficients(grid[-1]).alpha > 0).all())  # a last beta of 1 leaves nothing to go on from
    chain, from_data = Chain.of(process, grid), Chain.of(process, grid, from_data=True)
    assert (chain.steps, from_data.steps) == (4, 5)
    for i in range(5):
        for found, exact in (
            (chain.kernel(i), process.channel(grid[0], grid[i])),
            (from_data.kernel(i + 1), process.kernel(grid[i])),
            (chain.respaced([0, i, 5][:2] if i else [0, 1]).links[0], process.channel(grid[0], grid[max(i, 1)])),
        ):
            np.testing.assert_allclose(found.gain, exact.gain, rtol=1e-11)
            np.testing.assert_allclose(found.noise, exact.noise, rtol=1e-9, atol=1e-11 * (1 + exact.noise.max()))


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_a_chain_of_a_matrix_process_has_its_transitions_posteriors_and_stationary_law(dim):
    rng = np.random.default_rng(dim)
    root, noise = 0.5 * rng.normal(size=(dim, dim)), rng.normal(size=(dim, dim))
    drift = -root @ root.T - 0.4 * np.eye(dim) + root - root.T  # damped and turning
    process = LinearProcess(drift, noise, T=2.0, force=rng.normal(size=dim))
    grid = np.linspace(0.4, 2.0, 5)
    chain, from_data = Chain.of(process, grid), Chain.of(process, grid, from_data=True)
    for i in range(5):
        for j in range(i + 1, 5):
            found, exact = chain.channel(i, j), process.channel(grid[i], grid[j])
            for name in ("gain", "offset", "noise"):
                size = 1e-11 * (1 + np.abs(getattr(exact, name)).max())
                np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=0, atol=size)
        if (
            i
        ):  # Bayes' rule between two transitions, and the equation of x_t - A x_0 - b run backwards with all its noise
            bridge, back = from_data.bridge(i, i + 1), process.noise_channel(grid[i], grid[i - 1], 1.0)
            size = 1e-11 * np.linalg.cond(from_data.kernel(i + 1).noise)
            np.testing.assert_allclose(bridge.of_end, back.gain, rtol=0, atol=size)
            np.testing.assert_allclose(bridge.noise, back.noise, rtol=0, atol=size)
    settled = chain.stationary()
    size = 1e-10 * np.abs(settled.covariance).max()
    np.testing.assert_allclose(drift @ settled.covariance + settled.covariance @ drift.T, -noise @ noise.T, atol=size)


def test_the_density_of_paths_is_that_of_the_joint_law_and_sampled_paths_follow_it():
    chain, x0 = draw_chain(3, "mixed", 2, 4), np.array([0.3, -0.4])
    paths = np.swapaxes(chain.sample(np.broadcast_to(x0, (20_000, 2)), 5), 0, 1)
    law = Gaussian(chain.joint(Gaussian(x0, 0.0)).mean()[2:], chain.joint(Gaussian(x0, 0.0)).cov()[2:, 2:])
    flat = paths[:, 1:].reshape(len(paths), -1)
    np.testing.assert_allclose(chain.logpdf(paths[:50]), law.logpdf(flat[:50]), rtol=1e-11)
    np.testing.assert_allclose(chain.logpdf(paths[0]), law.logpdf(flat[0]), rtol=1e-11)
    # twice the log density's drop is chi-square with 8 degrees: 7 standard errors, once in 10^11, and the seed is fixed
    surprise = -2 * (law.logpdf(flat) - law.logpdf(law.mean()))
    assert abs(surprise.mean() - 8) < 7 * np.sqrt(16 / len(flat))
    centred = flat - law.mean()
    error = (centred.T @ centred / len(flat) - law.cov()) / np.sqrt(np.outer(*[np.diag(law.cov())] * 2))
    assert np.abs(error).max() < 7 * np.sqrt(2 / len(flat))


def test_a_long_chain_of_scalars_stays_in_scalars_and_acts_on_any_dimension():
    chain = Chain.of(AffineProcess(VPLinear()), np.linspace(0.01, 1, 300))
    assert chain.dim is None
    assert chain.kernel(299).gain.ndim == chain.covariance(5, 100).ndim == chain.bridge(40, 50).noise.ndim == 0
    for dim in (1, 64):
        law = random_mixture(dim, 1, 0)
        assert chain.joint(Gaussian(law.means[0], 1.0)).dim == 300 * dim if dim == 1 else True
        assert chain.marginal(299, law).dim == dim
    assert chain.precision().diagonal.shape == (299, 1, 1)


SCALAR, PLANE = Channel(0.5, 0.0, 1.0), Channel(np.eye(2), 0.0, 1.0)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Chain([]), ValueError, "links must not be empty"),
        (lambda: Chain([0.5]), TypeError, "links must be Channel objects, got 0.5"),
        (lambda: Chain([PLANE, Channel(np.ones(3))]), ValueError, "links must act on one dimension"),
        (lambda: Chain([Channel(np.ones((1, 2)))]), ValueError, "links must act on one dimension"),
        (lambda: Chain.su([0.5, 0.5], [0.5]), ValueError, "betas must have the shape of alphas"),
        (lambda: Chain.su([0.5], [-0.5]), ValueError, "betas must not be negative"),
        (lambda: Chain.noh_lee([0.5, 1.5]), ValueError, r"betas must lie in \[0, 1\]"),
        (lambda: Chain.noh_lee([0.5], 0.0), ValueError, "scale must lie"),
        (lambda: Chain.of(AffineProcess(VPLinear()), [0.5]), ValueError, "times must increase, at least 2"),
        (lambda: Chain.of(AffineProcess(VEGeometric()), [0.5, 0.2]), ValueError, "times must increase"),
        (lambda: Chain([SCALAR]).kernel(2), ValueError, "i must be in 0..1"),
        (lambda: Chain([SCALAR]).channel(1, 0), ValueError, "i <= j must hold"),
        (lambda: Chain([SCALAR]).respaced([0]), ValueError, "indices must increase"),
        (lambda: Chain([PLANE]).precision(Gaussian(np.zeros(2), 0.0)), ValueError, "the covariance of start"),
        (lambda: Chain([PLANE, Channel(0.5)]).precision(), ValueError, "the noise of link 2"),
        (lambda: Chain([PLANE]).joint(random_mixture(2, 2, 0)), TypeError, "start must be a Gaussian"),
        (lambda: Chain([PLANE]).reverse(0, 1, random_mixture(2, 2, 0)), TypeError, "law must be a Gaussian"),
        (lambda: Chain([SCALAR]).logpdf(np.zeros((3, 1))), ValueError, r"path must have shape \(..., 2, d\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(build, error, message):
    with pytest.raises(error, match=message):
        build()
