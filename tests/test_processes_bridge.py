"""Bridges against Schur complements of the joint law, DDPM's posterior and products in high precision."""

import mpmath as mp
import numpy as np
import plain
import pytest
from chains import KINDS, draw_chain, whole
from hypothesis import given
from hypothesis import strategies as st

from refdiff import AffineProcess, Channel, operators, testing
from refdiff.processes import Chain

SEEDS = st.integers(0, 2**32)


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


def test_a_bridge_takes_float32_batches():
    chain = draw_chain(1, "matrix", 2)
    end, start = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    found = chain.bridge(1, 3).mean(end, start)
    assert found.dtype == np.float32
    assert found.shape == (3, 4, 2)


SCALAR = Channel(0.5, 0.0, 1.0)
FLAT = Channel(np.eye(2), 0.0, [1.0, 0.0])  # noise on one axis only


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Chain([SCALAR]).bridge(0, 1, 1), ValueError, "h <= i <= j must hold"),
        (lambda: Chain([FLAT, FLAT]).bridge(1, 2), ValueError, "the law of y is singular"),
        (lambda: Chain([SCALAR]).bridge(0, 1).mean([1.0], [1.0, 2.0]), ValueError, "start must have"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(build, error, message):
    with pytest.raises(error, match=message):
        build()
