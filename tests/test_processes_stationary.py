"""Stationary laws against many steps, and what is left of the data in high precision."""

import mpmath as mp
import numpy as np
import pytest
from chains import draw_link
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Channel, Gaussian, operators
from refdiff.processes import Chain
from refdiff.processes.stationary import stationary

SEEDS = st.integers(0, 2**32)


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


def test_a_table_of_small_betas_keeps_its_scale_although_each_link_says_it_to_few_digits():
    settled = Chain.noh_lee(np.geomspace(1e-9, 0.02, 50), 3.0).stationary()
    np.testing.assert_allclose(settled.covariance, 9.0, rtol=1e-13)  # from the largest beta: eps / 0.02


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Chain([Channel(np.eye(2), 0.0, 1.0)]).stationary(), "spectral radius below 1, got 1.0"),
        (lambda: stationary(Channel(-1.2)), "spectral radius below 1, got 1.2"),
        (lambda: Chain([Channel(0.5, 0.0, 0.75), Channel(0.5, 1.0, 0.75)]).stationary(), "link 2 does not keep"),
        (lambda: Chain([Channel(0.5, 0.0, 0.75), Channel(0.8, 0.0, 0.3)]).stationary(), "link 2 does not keep that of"),
        (
            lambda: Chain([Channel(0.5, 0.0, 0.75), Channel(0.8, 0.0, 0.36 + 1e-12)]).stationary(),
            "link 2 does not keep",
        ),
        (lambda: Chain([Channel(0.5, 1.0), Channel(0.8, 0.4 + 1e-12)]).stationary(), "link 2 does not keep"),
    ],
)
def test_a_chain_without_a_stationary_law_says_why(build, message):
    with pytest.raises(ValueError, match=message):
        build()
