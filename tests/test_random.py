"""Random numbers by counter: the published answers, the place of every number, and the laws they follow."""

from fractions import Fraction
from functools import reduce

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from refdiff import random

PI = ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))  # digits of pi
ONES = ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2)
# kat_vectors of Random123: rounds, counter and key, answer
KNOWN = [
    (10, ((0,) * 4, (0,) * 2), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, ONES, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    (7, ((0,) * 4, (0,) * 2), "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, ONES, "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, PI, "4dfccaba 190a87f0 c47362ba b6b5242a"),
]
SEEDS = st.integers(0, 2**64 - 1)


def hexadecimal(words):
    return " ".join(f"{w:08x}" for w in words)


# ---------------------------------------------------------------------- the words


@pytest.mark.parametrize(("rounds", "at", "answer"), KNOWN)
def test_philox_gives_the_published_answers(rounds, at, answer):
    assert hexadecimal(random.philox(*at, rounds)) == answer
    assert hexadecimal(random.philox(*at, rounds - 1)) != answer


def test_another_order_of_words_misses_the_published_answer():
    (c0, c1, c2, c3), (k0, k1) = PI
    answer = KNOWN[2][2]
    for counter in ((c1, c0, c3, c2), (c2, c3, c0, c1), (c3, c2, c1, c0)):
        assert hexadecimal(random.philox(counter, (k0, k1))) != answer
    assert hexadecimal(random.philox((c0, c1, c2, c3), (k1, k0))) != answer


def test_counters_and_keys_broadcast():
    rng = np.random.default_rng(0)
    counters, keys = (rng.integers(2**32, size=s) for s in ((5, 1, 4), (3, 2)))
    found = random.philox(counters, keys)
    assert found.shape == (5, 3, 4)
    assert found.dtype == np.uint32
    for i, j in np.ndindex(5, 3):
        assert np.array_equal(found[i, j], random.philox(counters[i, 0], keys[j]))


@given(SEEDS, SEEDS, st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_a_uniform_is_the_53_upper_bits_of_two_words_at_its_place(seed, particle, draw, dim):
    found = random.uniforms(seed, [particle], draw, dim)[0]
    for axis in range(dim):
        counter, key = (particle % 2**32, particle >> 32, draw, axis // 2), (seed % 2**32, seed >> 32)
        low, high = (int(w) for w in random.philox(counter, key).reshape(2, 2)[axis % 2])
        assert Fraction(found[axis]) == Fraction((high * 2**32 + low) // 2**11 + 1, 2**53)


def test_the_least_and_the_largest_uniform():
    words = np.array([0, 2**32 - 1], dtype=np.uint64)
    assert np.array_equal(random.unit(words, words), [2.0**-53, 1.0])


# ---------------------------------------------------------------------- the place of a number


@given(SEEDS, st.integers(0, 2**64 - 41), st.integers(0, 2**32 - 1), st.integers(1, 9), st.data())
def test_a_number_depends_on_seed_particle_draw_and_axis_alone(seed, first, draw, dim, data):
    whole = random.normals(seed, range(first, first + 40), draw, dim)
    chosen = data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=8))
    # part of a batch, in another order, repeated
    part = random.normals(seed, np.array([first + i for i in chosen], dtype=np.uint64), draw, dim)
    assert np.array_equal(part, whole[chosen])
    # fewer axes are the first of more
    fewer = data.draw(st.integers(1, dim))
    assert np.array_equal(random.normals(seed, range(first, first + 40), draw, fewer), whole[:, :fewer])
    # another seed, particle or draw changes every number: two are equal with probability below 1e-12
    others = [
        random.normals(seed ^ (1 << data.draw(st.integers(0, 63))), range(first, first + 40), draw, dim),
        random.normals(seed, range(first + 1, first + 41), draw, dim),
        random.normals(seed, range(first, first + 40), draw ^ (1 << data.draw(st.integers(0, 31))), dim),
    ]
    for other in others:
        assert (other != whole).all()


def test_numbers_do_not_depend_on_the_blocks_they_are_made_in(monkeypatch):
    expected = random.normals(5, 100, 3, 7)
    for size in (1, 5, 17):
        monkeypatch.setattr(random, "_BLOCK", size)
        assert np.array_equal(random.normals(5, 100, 3, 7), expected)


def test_particles_are_a_count_a_range_or_their_numbers():
    expected = random.uniforms(5, np.arange(6), 1, 3)
    assert np.array_equal(random.uniforms(5, 6, 1, 3), expected)
    assert np.array_equal(random.uniforms(5, range(6), 1, 3), expected)
    assert np.array_equal(random.uniforms(5, [4, 2, 0], 1, 3), expected[[4, 2, 0]])
    assert np.array_equal(random.uniforms(5, range(4, -1, -2), 1, 3), expected[[4, 2, 0]])
    for none in (0, [], range(0), range(7, 7)):
        assert random.normals(5, none, 1, 3).shape == (0, 3)


def test_a_generator_gives_one_key_and_moves_on():
    rng = np.random.default_rng(7)
    first, second = (random.normals(rng, 5, 0, 2) for _ in range(2))
    keys = [int(k) for k in np.random.default_rng(7).integers(2**64, size=2, dtype=np.uint64)]
    assert np.array_equal(first, random.normals(keys[0], 5, 0, 2))
    assert np.array_equal(second, random.normals(keys[1], 5, 0, 2))
    assert random.seed_key(2**64 - 1) == 2**64 - 1


# ---------------------------------------------------------------------- Box and Muller


def corners():
    """Uniforms where the logarithm or an angle is extreme, and ordinary ones."""
    step = 2.0**-53
    angles = [q / 8 + s * step for q in range(9) for s in range(-3, 4) if 0 < q / 8 + s * step <= 1]
    radii = [step, 2 * step, 0.5, 1 - 2 * step, 1 - step, 1.0]
    ordinary = random.uniforms(3, 500, 0, 2)
    pairs = [(u, v) for u in radii for v in angles] + [(0.3, v) for v in angles] + list(map(tuple, ordinary))
    return np.array(pairs).T


def test_normals_are_box_mullers_to_seven_ulps():
    """In units of 2^-53: log 2, halved by the root, the root 1; the angle 1.7, its sine or cosine 2; the product 1.

    These are 6.7, and no more than as many ulps; 2.6 occur.
    """
    u, v = corners()
    with mp.workdps(40):
        for a, b, *found in zip(u, v, *random.box_muller(u, v), strict=True):
            r = mp.sqrt(-2 * mp.log(mp.mpf(a)))
            for z, exact in zip(found, (r * mp.cospi(2 * mp.mpf(b)), r * mp.sinpi(2 * mp.mpf(b))), strict=True):
                assert abs(mp.mpf(z) - exact) <= 7 * np.spacing(abs(float(exact))) * (exact != 0)


def test_the_largest_normal():
    reach, _ = random.box_muller(np.array(2.0**-53), np.array(1.0))
    assert reach == pytest.approx(np.sqrt(106 * np.log(2)), rel=1e-15)
    assert np.isfinite(random.box_muller(*corners())).all()


def test_a_pair_of_normals_comes_from_a_pair_of_uniforms():
    u, z = random.uniforms(9, 1000, 4, 6), random.normals(9, 1000, 4, 6)
    np.testing.assert_allclose(z[:, 0::2] ** 2 + z[:, 1::2] ** 2, -2 * np.log(u[:, 0::2]), rtol=1e-14)
    turns = np.arctan2(z[:, 1::2], z[:, 0::2]) / (2 * np.pi)
    np.testing.assert_allclose(turns % 1, u[:, 1::2] % 1, rtol=0, atol=1e-15)


# ---------------------------------------------------------------------- the laws

PLACES = ["particle, low", "particle, high", "draw", "axes", "seed, low", "seed, high"]


def neighbours(place, rounds, n=1 << 15):
    """Words (n, 4) of n counters or keys that differ in one word only, and there by one from row to row."""
    counter, key = np.zeros((n, 4), dtype=np.uint64), np.zeros((n, 2), dtype=np.uint64)
    words = (*counter.T, *key.T)
    words[PLACES.index(place)][:] = np.arange(n)
    return random.philox(counter, key, rounds)


def probabilities(words):
    """p-values of uniformity, of pairs within and across neighbours, of all bits, and of how bits change."""
    w = words.astype(np.uint64)
    u = np.stack([random.unit(w[:, 0], w[:, 1]), random.unit(w[:, 2], w[:, 3])], axis=1)
    for column in u.T:
        yield stats.kstest(column, "uniform").pvalue
    for a, b in ((u[0::2, 0], u[1::2, 0]), (u[0::2, 1], u[1::2, 1]), (u[:, 0], u[:, 1])):
        cells, _, _ = np.histogram2d(a, b, bins=16, range=[[0, 1], [0, 1]])
        yield stats.chisquare(cells.ravel()).pvalue
    for part in (words, words[1:] ^ words[:-1]):
        bits = np.unpackbits(np.ascontiguousarray(part).view(np.uint8), axis=1)
        scores = (2 * bits.mean(axis=0) - 1) * np.sqrt(len(bits))
        yield stats.chi2.sf((scores**2).sum(), bits.shape[1])


@pytest.mark.statistical
@pytest.mark.parametrize("place", PLACES)
def test_neighbouring_counters_and_keys_look_independent(place):
    """Seven p-values above 1e-6 in six directions: a false alarm in 4e-5 of such tests, and nothing here varies."""
    assert min(probabilities(neighbours(place, 10))) > 1e-6
    # half of the rounds do not mix: the same tests notice it in every direction
    assert min(probabilities(neighbours(place, 5))) < 1e-12


@pytest.fixture(scope="module")
def numbers():
    """Two million normals of eight axes."""
    return random.normals(20, 250_000, 6, 8)


@pytest.mark.statistical
def test_normals_have_the_normal_distribution(numbers):
    """A p-value above 1e-6 for each of eight axes: a false alarm in 8e-6 of such tests."""
    for axis in numbers.T:
        assert stats.kstest(axis, "norm").pvalue > 1e-6
    # a scale wrong by four percent moves the distribution function by 0.24 * 0.04, 4.8 / sqrt(n)
    assert stats.kstest(1.04 * numbers[:, 0], "norm").pvalue < 1e-12


@pytest.mark.statistical
@pytest.mark.parametrize("power", range(1, 7))
def test_normals_have_the_moments_of_the_normal(numbers, power):
    """z-scores below 5 for six moments: a false alarm in 4e-6 of such tests."""
    first, second = (float(stats.norm.moment(k)) for k in (power, 2 * power))

    def score(z):
        return (reduce(np.multiply, [z] * power).mean() - first) / np.sqrt((second - first**2) / z.size)

    assert abs(score(numbers)) < 5
    assert abs(score(0.98 * numbers + 0.01)) > 5


@pytest.mark.statistical
@pytest.mark.parametrize("limit", [2.0, 3.0, 4.0, 4.5, 5.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_normals_have_the_tails_of_the_normal(numbers, limit, sign):
    """Ten p-values of binomial counts above 1e-6: a false alarm in 1e-5 of such tests."""
    beyond, mass = int((sign * numbers > limit).sum()), stats.norm.sf(limit)
    assert stats.binomtest(beyond, numbers.size, mass).pvalue > 1e-6
    if limit <= 4:  # 63 are beyond 4, so that a tail cut off there is noticed; 7 beyond 4.5, and 0.6 beyond 5
        assert stats.binomtest(0, numbers.size, mass).pvalue < 1e-12


@pytest.mark.statistical
@pytest.mark.parametrize("power", [1, 2])
def test_normals_of_all_axes_draws_and_neighbours_are_uncorrelated(power):
    """All 435 correlations of 30 columns within 6 / sqrt(n), for numbers and squares: 2e-6 of tests raise an alarm."""
    n = 20_000
    one = np.concatenate([random.normals(8, n, m, 5) for m in (0, 1, 2)], axis=1)
    moved = [random.normals(8, range(1, n + 1), 0, 5), random.normals(9, n, 0, 5), random.normals(8 + 2**32, n, 0, 5)]
    columns = np.concatenate([one, *moved], axis=1) ** power

    def largest(table):
        scores = np.corrcoef(table.T) * np.sqrt(n)
        return np.abs(scores[np.triu_indices(len(scores), 1)]).max()

    assert largest(columns) < 6
    # a tenth of one column in another is 14 / sqrt(n)
    columns[:, 3] += 0.1 * columns[:, 17]
    assert largest(columns) > 6


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must be in 0..18446744073709551615, got -1"),
        ({"seed": 2**64}, ValueError, "seed must be in 0..18446744073709551615"),
        ({"seed": None}, TypeError, "seed must be a whole number, got None"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
        ({"particles": -1}, ValueError, "particles must be at least 0, got -1"),
        ({"particles": True}, TypeError, "particles must be a whole number, got True"),
        ({"particles": [0, -2]}, ValueError, "particles must not be negative, got -2"),
        ({"particles": [0.0, 1.0]}, TypeError, "particles must be whole numbers"),
        ({"particles": [[0, 1]]}, ValueError, r"particles must have shape \(n,\), got \(1, 2\)"),
        ({"particles": range(-1, 3)}, ValueError, r"particles must lie in \[0, 2\^64\)"),
        ({"particles": range(2**64 - 1, 2**64 + 1)}, ValueError, r"particles must lie in \[0, 2\^64\)"),
        ({"draw": 2**32}, ValueError, "draw must be in 0..4294967295"),
        ({"draw": -1}, ValueError, "draw must be in 0..4294967295"),
        ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("function", [random.uniforms, random.normals])
def test_bad_places_are_named(function, change, error, message):
    with pytest.raises(error, match=message):
        function(**{"seed": 0, "particles": 3, "draw": 0, "dim": 2} | change)


@pytest.mark.parametrize(
    ("counter", "key", "error", "message"),
    [
        ([0.0] * 4, [0] * 2, TypeError, "counter must hold whole numbers"),
        ([0] * 3, [0] * 2, ValueError, r"counter must have shape \(..., 4\), got \(3,\)"),
        ([0] * 4, 0, ValueError, r"key must have shape \(..., 2\), got \(\)"),
        ([0] * 4, [0, 2**32], ValueError, r"key must hold words in \[0, 2\^32\)"),
        ([0, 0, 0, -1], [0] * 2, ValueError, r"counter must hold words in \[0, 2\^32\)"),
        (np.zeros((2, 4), int), np.zeros((3, 2), int), ValueError, "counter and key must broadcast"),
    ],
)
def test_bad_words_are_named(counter, key, error, message):
    with pytest.raises(error, match=message):
        random.philox(counter, key)


# ---------------------------------------------------------------------- on a device


@pytest.mark.parametrize("kind", [np.uint64, np.int64, np.uint32])
def test_particles_on_a_device_have_their_numbers_there(cupy, kind):
    particles = np.array([0, 7, 2**31, 3], dtype=kind)
    assert np.array_equal(random.uniforms(9, cupy.asarray(particles), 2, 5).get(), random.uniforms(9, particles, 2, 5))
    found, expected = random.normals(9, cupy.asarray(particles[::-1]), 2, 5).get(), random.normals(9, particles, 2, 5)
    # log, sqrt, sine and cosine are off by a few units each, in the radius and in the direction
    assert (abs(found[::-1] - expected) <= 16 * np.spacing(abs(expected))).all()
    assert not np.isclose(found, expected).all()
    assert random.normals(np.random.default_rng(1), cupy.zeros(0, dtype=kind), 2, 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("particles", "error", "message"),
    [
        (np.zeros(2), TypeError, "particles must be whole numbers"),
        (np.zeros((2, 2), dtype=int), ValueError, r"particles must have shape \(n,\)"),
        (np.array([3, -1]), ValueError, "particles must not be negative, got -1"),
    ],
)
def test_particles_on_a_device_that_are_none_are_refused(cupy, particles, error, message):
    for question in (random.normals, random.uniforms):
        with pytest.raises(error, match=message):
            question(0, cupy.asarray(particles), 0, 1)
    with pytest.raises(ValueError, match="draw must be in"):
        random.normals(0, cupy.zeros(1, dtype=np.uint64), -1, 1)
