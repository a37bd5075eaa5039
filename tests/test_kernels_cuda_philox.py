"""Random numbers on the device: the words and uniforms of refdiff.random bit by bit, its normals to roundings."""

import numpy as np
import pytest

from refdiff import random
from refdiff.backends import use
from refdiff.kernels.cuda import philox

SEED = 0x0123_4567_89AB_CDEF
# log, sqrt, sine and cosine are off by a few units each, in the radius and in the direction
ULPS = 16


@pytest.fixture
def particles():
    return np.array([0, 1, 2**32 - 1, 2**32, 2**64 - 1, *range(10**6, 10**6 + 300)], dtype=np.uint64)


def test_words_are_those_of_the_reference_bit_by_bit(cupy, particles):
    found = philox.words(SEED, cupy.asarray(particles), 2**32 - 1, 7).get()
    low, high = (particles & np.uint64(2**32 - 1)), (particles >> np.uint64(32))
    rest = np.broadcast_to(np.array([2**32 - 1, 7], dtype=np.uint64), (len(particles), 2))
    key = np.array([SEED & 0xFFFFFFFF, SEED >> 32], dtype=np.uint64)
    assert (found == random.philox(np.column_stack([low, high, rest]), key)).all()
    assert (found != random.philox(np.column_stack([high, low, rest]), key)).any()


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 257])
def test_uniforms_are_those_of_the_reference_bit_by_bit(cupy, particles, dim):
    found = philox.uniforms(SEED, cupy.asarray(particles), 5, dim).get()
    assert (found == random.uniforms(SEED, particles, 5, dim)).all()
    assert (found != random.uniforms(SEED, particles, 6, dim)).all()


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_normals_are_those_of_the_reference_to_roundings(cupy, particles, dim, backend):
    found = philox.normals(SEED, cupy.asarray(particles), 5, dim).get()
    with use(backend):
        expected = random.normals(SEED, particles, 5, dim)
    assert (abs(found - expected) <= ULPS * np.spacing(abs(expected))).all()


def test_normals_in_single_precision_are_those_in_double_rounded(cupy, particles):
    single, double = (philox.normals(SEED, cupy.asarray(particles), 0, 3, kind).get() for kind in ("f4", "f8"))
    assert single.dtype == np.float32
    assert (single == double.astype(np.float32)).all()


def test_no_particle_has_no_normals(cupy):
    assert philox.normals(1, cupy.zeros(0, dtype=np.uint64), 0, 3).shape == (0, 3)
