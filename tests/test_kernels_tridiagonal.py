"""Steps of lines on kernels: those of the NumPy reference in every entry, on any number of threads."""

import numpy as np
import pytest

from refdiff.fokker_planck.lines import PARTS
from refdiff.fokker_planck.sweeps import METHODS, Line
from refdiff.kernels.numba import tridiagonal
from refdiff.kernels.numba.compiling import blocks

# lines of few cells, one more and one fewer than a block has, and no multiple of a cache line
SHAPES = [(3, 1), (9, 5), (20, tridiagonal.WIDTH + 1), (17, 2 * tridiagonal.WIDTH - 1)]


def advanced(x, rows, line, dt, method, threads=1):
    up, down = line.up, line.down
    number = list(METHODS).index(method)
    pivots = np.zeros((3, len(up)))
    if up.shape[1] == 1:
        tridiagonal.eliminate(up, down, dt * PARTS[method], pivots)
    given = np.ascontiguousarray(x.T) if rows else x
    out = np.full_like(given, np.nan)
    count = -(-x.shape[1] // tridiagonal.WIDTH)
    blocks(tridiagonal.advance, count, given, rows, up, down, dt, number, pivots, out, threads=threads)
    return out.T if rows else out


def problem(shape, alike):
    rng = np.random.default_rng(list(shape))
    x = rng.random(shape) * 10.0 ** rng.integers(-60, 1, shape)
    up, down = rng.exponential(30, (2, shape[0], 1 if alike else shape[1]))
    return x, Line(up, down, False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alike", [True, False], ids=["alike", "each its own"])
@pytest.mark.parametrize("rows", [False, True], ids=["columns", "rows"])
def test_kernels_do_what_numpy_does(shape, alike, rows):
    x, line = problem(shape, alike)
    for name in ("euler", "patankar"):
        # sums of positive terms only: n fused operations here and there
        expected = METHODS[name].step(x, 0.1, line)
        assert np.allclose(advanced(x, rows, line, 0.1, name), expected, rtol=1e-14 * shape[0], atol=0)
    for name in ("crank-nicolson", "tr-bdf2"):
        expected = METHODS[name].step(x, 0.1, line)
        assert np.abs(advanced(x, rows, line, 0.1, name) - expected).max() <= 1e-14 * np.abs(x).max()


def test_results_do_not_depend_on_threads():
    x, line = problem((12, 5 * tridiagonal.WIDTH + 3), False)
    one, three = (advanced(x, True, line, 0.1, "patankar", threads=k) for k in (1, 3))
    assert np.array_equal(one, three)


def test_a_broken_pivot_is_seen():
    x, line = problem((9, 5), True)
    wrong = Line(line.up * (1 + 1e-9), line.down, False)
    expected = METHODS["euler"].step(x, 0.1, line)
    assert not np.allclose(advanced(x, False, wrong, 0.1, "euler"), expected, rtol=1e-12, atol=0)
