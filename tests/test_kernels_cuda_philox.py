"""Random numbers on the device: the words and uniforms of refdiff.random bit by bit, its normals to roundings."""

import numpy as np
import pytest

from refdiff import random
from refdiff.backends import use
from refdiff.kernels.cuda import device, philox

SEED = 0x0123_4567_89AB_CDEF
# log, sqrt, sine and cosine are off by a few units each, in the radius and in the direction
ULPS = 16
# In float32, of 2^-24 of a number: 1 - u is off by 1, which log1p makes 1.44, its answer by 2, a sum by 1: of these the
# root halves all and adds 1; a turn is off by 1, its sine by 2; the product of both by 1, and 1 for what is beyond.
ROOT, TURN = (1.44 + 2 + 1) / 2 + 1 + 1, 1 + 2 + 1
SINGLE = (ROOT + TURN + 1) * 2.0**-24
PARTS = """
extern "C" __global__ void parts(const uint64* u, int64 n, float* out) {
    for (int64 i = own(); i < n; i += all()) {
        out[3 * i] = radius(u[i]);
        turned(u[i], out[3 * i + 1], out[3 * i + 2]);
    }
}
"""


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


def test_normals_in_single_precision_are_those_in_double_to_its_roundings(cupy, particles):
    single, double = (philox.normals(SEED, cupy.asarray(particles), 0, 3, kind).get() for kind in ("f4", "f8"))
    assert single.dtype == np.float32
    assert (abs(single - double) <= SINGLE * abs(double)).all()


def test_single_precision_loses_nothing_where_logarithm_sine_or_cosine_vanish(cupy):
    rng = np.random.default_rng(0)
    edges = [k * 2**50 + j * 2**i for k in range(9) for j in (-1, 0, 1) for i in (0, 1, 20, 23, 24, 29, 30, 49)]
    places = [int(2**e) for e in rng.uniform(0, 53, 500)]
    units = np.unique([u for u in (*edges, *places, *(2**53 - p for p in places)) if 0 < u <= 2**53]).astype(np.uint64)
    module = cupy.RawModule(code=device.source("philox") + PARTS, options=device.options("f4"), backend="nvrtc")
    out = cupy.zeros((len(units), 3), dtype=np.float32)
    device.launch(module.get_function("parts"), len(units), cupy.asarray(units), np.int64(len(units)), out)
    u = units * 2.0**-53
    expected = np.column_stack([np.sqrt(-2 * np.log1p(u - 1)), *random._turn(u)])  # u - 1 is rounded where it may be
    naive = u.astype("f4")
    naive = np.column_stack([np.sqrt(-2 * np.log(naive)), *random._turn(naive)])
    assert (abs(out.get() - expected) <= np.array([ROOT, TURN, TURN]) * 2.0**-24 * abs(expected)).all()
    assert (abs(naive - expected) > 1e3 * 2.0**-24 * abs(expected)).any(axis=0).all()


def test_no_particle_has_no_normals(cupy):
    assert philox.normals(1, cupy.zeros(0, dtype=np.uint64), 0, 3).shape == (0, 3)
