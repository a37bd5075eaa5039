"""The kernels' normals against the NumPy stream and the published answers of Philox."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import config
from numba.core.errors import TypingError

from refdiff import random
from refdiff.kernels.numba import philox
from refdiff.kernels.numba.compiling import blocks, compiled

Word = np.uint64
LANES = 8 if config.DISABLE_JIT else 64

# Both sides compute sqrt(-2 log u) times a sine or cosine of the same u and v. Each is within 7 ulps of the exact
# normal (test_random.py has NumPy's; a kernel's log, sine and cosine are as good), so they differ by 14 at most.
ULPS = 14


@compiled
def words(first, last, k0, k1, particle, draw, group, out):
    for _ in range(first, last):
        out[0], out[1], out[2], out[3] = philox.words(k0, k1, particle, draw, group)


@compiled
def unit(first, last, low, high, out):
    for _ in range(first, last):
        out[0] = philox.unit(low, high)


def halves(seed):
    return seed % 2**32, seed >> 32


def far(found, expected):
    """The largest difference, in ulps."""
    return np.max(np.abs(found - expected) / np.spacing(np.abs(expected)), initial=0)


@compiled
def fill_block(first, last, key0, key1, particle, draw, out):
    for _ in range(first, last):
        philox.normals_block(key0, key1, particle, draw, out)


def block(seed, particle, draw, dim, lanes=LANES, dtype=np.float64):
    out = np.full((dim, lanes), np.nan, dtype=dtype)
    fill_block(0, 1, *halves(seed), Word(particle), draw, out)
    return out


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**64 - 1, 2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ((0x85A308D3243F6A88, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_words_are_the_published_answers(counter, key, answer):
    found = np.empty(4, Word)
    words(0, 1, *map(Word, key), *map(Word, counter), found)
    assert " ".join(f"{int(w):08x}" for w in found) == answer


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_uniforms_are_those_of_numpy_bit_by_bit(low, high):
    for pair in ((low, high), (0, 0), (2**32 - 1, 2**32 - 1), (2**11 - 1, 0), (2**11, 2**32 - 1)):
        found = np.empty(1)
        unit(0, 1, *map(Word, pair), found)
        assert found[0] == random.unit(*(np.array(w, dtype=Word) for w in pair))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - LANES), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_a_block_holds_the_normals_of_numpy(seed, particle, draw, dim):
    expected = random.normals(seed, range(particle, particle + LANES), draw, dim).T
    assert far(block(seed, particle, draw, dim), expected) <= ULPS


def test_thousands_of_normals_are_those_of_numpy():
    dim = 4 if config.DISABLE_JIT else 2000
    for particle in (0, 2**32 - LANES // 2):  # the second crosses into the high word
        found = block(12, particle, 5, dim)
        assert far(found, random.normals(12, range(particle, particle + LANES), 5, dim).T) <= ULPS
    # the next particle's normals are others
    assert not np.isclose(found, block(12, particle + 1, 5, dim)).all()


@given(st.integers(1, LANES), st.integers(1, 7), st.integers(0, LANES))
def test_a_normal_does_not_depend_on_the_lane_it_is_made_in(lanes, dim, start):
    whole = block(3, 2**40, 7, 7, lanes=2 * LANES)
    assert np.array_equal(block(3, 2**40 + start, 7, dim, lanes=lanes), whole[:dim, start : start + lanes])


def test_a_particle_that_has_become_a_float_is_refused():
    with pytest.raises((TypeError, TypingError)):
        fill_block(0, 1, 0, 0, 2.0, 0, np.empty((2, LANES)))
    # of either kind of whole number
    out = np.empty((2, LANES))
    fill_block(0, 1, *halves(3), 9, 0, out)
    assert np.array_equal(out, block(3, 9, 0, 2))


def test_single_precision_holds_the_rounded_normals():
    assert np.array_equal(block(3, 9, 2, 5, dtype=np.float32), block(3, 9, 2, 5).astype(np.float32))


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("rows", [0, 1, philox.LANES, 3 * philox.LANES + 5])
def test_rows_of_any_particles_are_those_of_numpy(rows, dim):
    particles = np.random.default_rng(rows).integers(2**64, size=rows, dtype=np.uint64)
    out = np.full((rows, dim), np.nan)
    count = -(-rows // philox.LANES)
    if rows:
        blocks(philox.fill_normals, count, *halves(77), particles, 6, out, threads=2)
    assert far(out, random.normals(77, particles, 6, dim)) <= ULPS
    # one block at a time writes its own rows only, and the same numbers
    for k in range(count):
        own = slice(k * philox.LANES, (k + 1) * philox.LANES)
        part = np.full_like(out, np.nan)
        philox.fill_normals(k, k + 1, *halves(77), particles, 6, part)
        assert np.array_equal(part[own], out[own])
        assert np.isnan(part).sum() == out.size - out[own].size


def test_rows_are_the_columns_of_a_block():
    out = np.empty((LANES, 5))
    philox.fill_normals(0, 1, *halves(77), np.arange(LANES, dtype=np.uint64), 6, out)
    assert np.array_equal(out.T, block(77, 0, 6, 5))
