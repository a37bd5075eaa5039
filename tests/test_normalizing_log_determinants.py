"""The series of log det(I + J): remainders that are reached, and estimates whose mean and variance are summed up."""

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff.normalizing import Roulette
from refdiff.normalizing.log_determinants import power_terms, probe_terms, remainder, terms_for

SEEDS = st.integers(0, 2**32 - 1)


def contraction(norm, dim, rng):
    j = rng.normal(size=(dim, dim))
    return norm * j / np.linalg.norm(j, 2)


@given(seed=SEEDS, dim=st.integers(1, 6), norm=st.floats(0.0, 0.9), terms=st.integers(0, 40))
def test_the_series_is_the_log_determinant_within_its_remainder(seed, dim, norm, terms):
    j = contraction(norm, dim, np.random.default_rng(seed))
    left_out = np.linalg.slogdet(np.eye(dim) + j)[1] - power_terms(j, terms).sum()
    assert abs(left_out) <= remainder(norm, terms, dim) * (1 + 1e-12) + 1e-14 * dim


@pytest.mark.parametrize("norm", [1e-8, 0.3, 0.6, 0.99, 0.9999])
def test_the_remainder_is_reached_and_the_simple_bound_is_above_it(norm):
    for terms, dim in itertools.product((0, 1, 5, 60, 1000), (1, 3)):
        found = remainder(norm, terms, dim)
        assert found <= dim * norm ** (terms + 1) / ((terms + 1) * (1 - norm)) * (1 + 1e-14)
        if (digits := -(terms + 1) * np.log10(norm)) < 280:
            with mpmath.workdps(30 + int(digits)):  # the difference cancels down to q^n
                q = mpmath.mpf(norm)
                exact = -dim * (mpmath.log(1 - q) + sum(q**k / k for k in range(1, terms + 1)))  # of J = -q I
            np.testing.assert_allclose(found, float(exact), rtol=1e-12)


def test_terms_for_an_error_are_the_least():
    assert terms_for(0.0, 1e-12, 5) == 0
    assert terms_for(0.5, 10.0, 1) == 0
    for norm, error in itertools.product((0.1, 0.6, 0.98), (1e-3, 1e-12)):
        n = terms_for(norm, error, 3)
        assert remainder(norm, n, 3) <= error < remainder(norm, n - 1, 3)
    # the number that 60 terms at norm 0.6 come from, with some to spare
    assert terms_for(0.6, 1e-14, 3) <= 60


@given(seed=SEEDS, dim=st.integers(1, 5))
def test_all_signs_and_all_axes_as_probes_give_the_terms_themselves(seed, dim):
    j = contraction(0.8, dim, np.random.default_rng(seed))
    expected = power_terms(j, 12)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=dim)))
    for probes in (signs, np.sqrt(dim) * np.eye(dim)):
        found = probe_terms(lambda v: v @ j, probes, 12).mean(axis=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * dim)


@pytest.mark.parametrize("roulette", [Roulette(0.5, 2), Roulette(0.7, 0), Roulette(0.9, 1)], ids=str)
def test_random_lengths_have_the_mean_and_the_variance_that_are_claimed(roulette):
    # every length up to 400 by its own probability: what is left out is below 400 (0.4^2 / 0.5)^400
    terms, count = power_terms(contraction(0.4, 4, np.random.default_rng(1)), 400), 400
    lengths = np.arange(count + 1)
    survival = np.append(1.0, roulette.reached(count))
    chances = survival - np.append(survival[1:], 0.0)  # the last takes the rest
    estimates = roulette.estimate(terms, lengths)
    np.testing.assert_allclose(chances @ estimates, terms.sum(), rtol=1e-12)
    np.testing.assert_allclose(chances @ lengths, roulette.mean_length, rtol=1e-9)
    np.testing.assert_allclose(chances @ (estimates - terms.sum()) ** 2, roulette.variance(terms), rtol=1e-9)
    # without the weights 1 / P(N >= k) the mean is that of a damped series
    cut = np.array([terms[:n].sum() for n in lengths])
    assert abs(chances @ cut - terms.sum()) > 1e-3 * abs(terms.sum())


def test_the_variance_is_infinite_where_a_squared_eigenvalue_exceeds_the_chance_of_one_more_term():
    """It grows without bound in the number of terms at r^2 = 0.64 > 0.5, and has a limit at 0.49 < 0.5."""
    for radius, finite in ((0.8, False), (0.7, True)):
        first, second = (Roulette(0.5, 2).variance(power_terms([[-radius]], n)) for n in (100, 200))
        assert (abs(second - first) < 1e-2 * first) == finite
        if not finite:
            # the ratio of its terms is r^2 / c but for 1 / k^2
            assert second / first > (radius**2 / 0.5) ** 100 / 8


def test_drawn_lengths_follow_their_law():
    roulette = Roulette(0.6, 3)
    drawn = roulette.lengths((40_000,), 5)
    assert drawn.min() == 3
    # counts are binomial: 5.5 standard errors are a false alarm in 3e-7 of 12 comparisons at this fixed seed
    for k, p in enumerate(roulette.reached(12), 1):
        assert abs((drawn >= k).mean() - p) <= 5.5 * np.sqrt(p * (1 - p) / drawn.size)
    np.testing.assert_array_equal(drawn, roulette.lengths(40_000, np.random.default_rng(5)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: power_terms(np.ones(3), 2), "jacobians must have shape"),
        (lambda: power_terms(np.ones((2, 3)), 2), "jacobians must have shape"),
        (lambda: probe_terms(np.sum, np.ones((2, 3)), 2), "pull must answer"),
        (lambda: remainder(1.0, 3, 2), "norm must lie"),
        (lambda: remainder(-0.1, 3, 2), "norm must lie"),
        (lambda: terms_for(0.5, 0.0, 2), "error must lie"),
        (lambda: Roulette(1.0), "keep must lie"),
        (lambda: Roulette(0.0), "keep must lie"),
        (lambda: Roulette(0.5, -1), "sure must be"),
        (lambda: Roulette(0.5).estimate([1.0, 2.0], 3), "lengths must lie"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
