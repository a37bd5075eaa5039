"""Chains against dense matrices of the whole path, tables of betas, products in high precision, and Bayes' rule."""

import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refdiff import AffineProcess, Channel, Empirical, Gaussian, VEGeometric, VPLinear, operators, testing
from refdiff.distributions import random_mixture
from refdiff.processes import Chain, LinearProcess

KINDS = ("scalar", "diagonal", "matrix", "mixed")


def draw_link(rng, kind, dim):
    """A channel on R^dim with a gain that may turn and shrink, an offset, and noise of full rank."""
    kind = rng.choice(KINDS[:3]) if kind == "mixed" else kind
    if kind == "scalar":
        return Channel(rng.uniform(0.3, 1.1), rng.normal(), rng.uniform(0.1, 1.0))
    if kind == "diagonal":
        return Channel(rng.uniform(0.3, 1.1, dim), rng.normal(size=dim), rng.uniform(0.1, 1.0, dim))
    root = rng.normal(size=(dim, dim)) * 0.4
    return Channel(rng.normal(size=(dim, dim)) * 0.5, rng.normal(size=dim), root @ root.T + 0.1 * np.eye(dim))


def draw_chain(seed, kind="mixed", dim=3, steps=5):
    rng = np.random.default_rng(seed)
    return Chain([draw_link(rng, kind, dim) for _ in range(steps)])


def whole(chain, dim, start_mean, start_cov):
    """Mean and covariance of (x_0..x_N) by solving M x = noises + offsets: M has I on and -A below the diagonal."""
    n = chain.steps + 1
    matrix, noise, mean = np.eye(n * dim), np.zeros((n * dim, n * dim)), np.zeros(n * dim)
    noise[:dim, :dim], mean[:dim] = start_cov, start_mean
    for i, link in enumerate(chain.links, 1):
        now, before = slice(i * dim, (i + 1) * dim), slice((i - 1) * dim, i * dim)
        matrix[now, before] = -operators.dense(link.gain, dim)
        noise[now, now], mean[now] = operators.dense(link.noise, dim), link.offset
    inverse = np.linalg.inv(matrix)
    return inverse @ mean, inverse @ noise @ inverse.T, matrix, noise


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


def conditioned(mean, cov, dim, i, given):
    """E and Cov of x_i given the states `given`, by Schur complement: (gain for the stacked states, offset, cov)."""
    rows = np.concatenate([np.arange(k * dim, (k + 1) * dim) for k in given])
    own = np.arange(i * dim, (i + 1) * dim)
    gain = np.linalg.solve(cov[np.ix_(rows, rows)], cov[np.ix_(rows, own)]).T
    return gain, mean[own] - gain @ mean[rows], cov[np.ix_(own, own)] - gain @ cov[np.ix_(rows, own)]


@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
def test_a_bridge_is_the_schur_complement_of_the_joint_law(seed, kind, dim, h, stride):
    chain, rng = draw_chain(seed, kind, dim), np.random.default_rng(seed + 1)
    i, j = h + 1, h + 1 + stride
    mean, cov, _, _ = whole(chain, dim, rng.normal(size=dim), np.eye(dim))  # Markov: the law of x_0 does not matter
    gain, offset, left = conditioned(mean, cov, dim, i, (j, h))
    found = chain.bridge(i, j, h)
    size = 1e-11 * (1 + np.abs(gain).max()) * np.linalg.cond(cov)
    both = found.channel(dim)
    np.testing.assert_allclose(both.gain, gain, rtol=0, atol=size)
    np.testing.assert_allclose(both.offset, offset, rtol=0, atol=size)
    np.testing.assert_allclose(operators.dense(found.noise, dim), left, rtol=0, atol=size)
    end, start = rng.normal(size=(2, 4, dim))
    expected = np.concatenate([end, start], axis=1) @ gain.T + offset
    np.testing.assert_allclose(found.mean(end, start), expected, rtol=0, atol=10 * size)
    for one in range(4):
        law = found.given(start[one]).at(end[one])
        np.testing.assert_allclose(law.mean(), expected[one], rtol=0, atol=10 * size)


@given(SEEDS, st.sampled_from(KINDS))
def test_a_bridge_from_an_end_or_over_no_noise_knows_the_state(seed, kind):
    chain = draw_chain(seed, kind)
    end, start = np.random.default_rng(seed).normal(size=(2, 2, 3))
    np.testing.assert_array_equal(chain.bridge(0, 4).mean(end, start), start)
    np.testing.assert_array_equal(chain.bridge(4, 4).mean(end, start), end)
    np.testing.assert_array_equal(chain.bridge(2, 2, 2).mean(start, start), start)
    for found in (chain.bridge(0, 4), chain.bridge(4, 4)):
        assert not found.noise.any()
    moved = Chain([Channel(0.5, 1.0), *chain.links]).bridge(1, 3)
    np.testing.assert_array_equal(moved.mean(end, start), 0.5 * start + 1.0)


@given(testing.beta_tables(12))
def test_noh_lees_chain_at_scale_1_is_the_table_and_its_bridges_are_ddpms_posterior(table):
    chain, process = Chain.noh_lee(table.betas), AffineProcess(table)
    rtol = 40 * plain.EPS * (1 + table.steps)  # some roundings a step, of terms that are all positive
    expected = table.posterior()
    for i in range(1, table.steps + 1):
        kernel, closed = chain.kernel(i), process.kernel(float(i))
        np.testing.assert_allclose(kernel.gain, closed.gain, rtol=rtol * (1 + table.total[min(i, table.steps - 1)]))
        np.testing.assert_allclose(kernel.noise, closed.noise, rtol=rtol)
        found = chain.bridge(i - 1, i)
        of_xt = 0.0 if i == 1 else expected.of_xt[i - 1]
        np.testing.assert_allclose(found.of_end, of_xt, rtol=rtol)
        np.testing.assert_allclose(found.of_start, expected.of_x0[i - 1], rtol=rtol * (1 + table.total[i - 1]))
        np.testing.assert_allclose(found.noise, expected.variance[i - 1], rtol=rtol)


def test_the_weight_of_the_data_keeps_its_digits_late_in_a_long_chain():
    betas, scale = np.linspace(1e-4, 0.02, 1000), 1.3
    chain = Chain.noh_lee(betas, scale)
    with mp.workdps(50):
        kept = [1 - mp.mpf(float(b)) for b in betas]
        bar = [mp.mpf(1)]
        for k in kept:
            bar.append(bar[-1] * k)
        for t, stride in ((1000, 1), (1000, 400), (3, 1), (700, 699)):
            before, after, step = bar[t - stride], bar[t], bar[t] / bar[t - stride]
            exact = (
                mp.sqrt(step) * (1 - before) / (1 - after),
                mp.sqrt(before) * (1 - step) / (1 - after),
                mp.mpf(scale) ** 2 * (1 - step) * (1 - before) / (1 - after),
            )
            found = chain.bridge(t - stride, t)
            for got, want in zip((found.of_end, found.of_start, found.noise), exact, strict=True):
                assert abs(mp.mpf(float(got)) / want - 1) < 2000 * plain.EPS  # a rounding or two for each step


@given(SEEDS, st.integers(1, 3))
def test_sus_chain_keeps_variance_1_exactly_where_its_squares_add_up_to_1(seed, dim):
    rng = np.random.default_rng(seed)
    betas = rng.uniform(0.1, 0.9, (6, dim))
    chain = Chain.su(np.sqrt(1 - betas**2), betas)
    settled = chain.stationary()
    np.testing.assert_allclose(settled.covariance, np.ones(dim) if dim > 1 else 1.0, rtol=1e-13)
    np.testing.assert_array_equal(settled.mean, 0.0)
    last = chain.kernel(6)
    np.testing.assert_allclose(last.gain**2 + last.noise, 1.0, rtol=1e-14)
    free = Chain.su(rng.uniform(0.2, 0.9, 6), betas[:, 0])
    with pytest.raises(ValueError, match="does not keep"):
        free.stationary()


@given(SEEDS, st.sampled_from(("scalar", "diagonal", "matrix")), st.integers(1, 4))
def test_many_steps_of_a_link_settle_at_its_stationary_law(seed, kind, dim):
    rng = np.random.default_rng(seed)
    link = draw_link(rng, kind, dim)
    a = operators.dense(link.gain, dim)
    a = a * (0.8 / max(1.0, np.linalg.norm(a, 2)))
    link = Channel(a if kind == "matrix" else link.gain * 0.8 / 1.1, link.offset, link.noise)
    chain, start = Chain([link]), Gaussian(rng.normal(size=dim), 2.0)
    many = link
    for _ in range(8):  # 2^8 steps: 0.8^256 is below rounding
        many = many.compose(many)
    law, settled = many.push(start), chain.stationary()
    np.testing.assert_allclose(np.broadcast_to(settled.mean, dim), law.mean(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(operators.dense(settled.covariance, dim), law.cov(), rtol=1e-11, atol=1e-12)
    left, after = chain.remainder(1, start), link.push(start)
    np.testing.assert_allclose(np.broadcast_to(settled.mean + left.mean, dim), after.mean(), rtol=0, atol=1e-11)
    total = operators.dense(operators.add(settled.covariance, left.covariance), dim)
    np.testing.assert_allclose(total, after.cov(), rtol=0, atol=1e-11)


def test_what_is_left_of_the_data_after_a_long_chain_is_far_below_rounding():
    table = np.full(2000, 0.02)
    left = Chain.noh_lee(table, 2.0).remainder(2000, Gaussian([3.0], 0.25))
    with mp.workdps(40):
        bar = (1 - mp.mpf(0.02)) ** 2000
        assert abs(left.mean[0] / float(3 * mp.sqrt(bar)) - 1) < 1e-12
        assert abs(left.covariance / float(bar * (mp.mpf(0.25) - 4)) - 1) < 1e-12


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


def test_a_bridge_takes_float32_batches():
    chain = draw_chain(1, "matrix", 2)
    end, start = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    found = chain.bridge(1, 3).mean(end, start)
    assert found.dtype == np.float32
    assert found.shape == (3, 4, 2)


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
        (lambda: Chain([SCALAR]).bridge(0, 1, 1), ValueError, "h <= i <= j must hold"),
        (lambda: Chain([SCALAR]).respaced([0]), ValueError, "indices must increase"),
        (lambda: Chain([PLANE]).precision(Gaussian(np.zeros(2), 0.0)), ValueError, "the covariance of start"),
        (lambda: Chain([PLANE, Channel(0.5)]).precision(), ValueError, "the noise of link 2"),
        (lambda: Chain([PLANE]).joint(random_mixture(2, 2, 0)), TypeError, "start must be a Gaussian"),
        (lambda: Chain([PLANE]).reverse(0, 1, random_mixture(2, 2, 0)), TypeError, "law must be a Gaussian"),
        (lambda: Chain([PLANE]).stationary(), ValueError, "spectral radius below 1"),
        (lambda: Chain([SCALAR]).logpdf(np.zeros((3, 1))), ValueError, r"path must have shape \(..., 2, d\)"),
        (lambda: Chain([SCALAR]).bridge(0, 1).mean([1.0], [1.0, 2.0]), ValueError, "start must have"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(build, error, message):
    with pytest.raises(error, match=message):
        build()
