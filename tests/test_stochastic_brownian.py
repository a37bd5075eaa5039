"""Brownian paths are one path under every grid, have the law of one, and know no batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refdiff.random import normals
from refdiff.stochastic import BrownianPath, Increments
from refdiff.stochastic.brownian import DEPTH
from refdiff.stochastic.brownian_steps import Piece, joined, split

PATHS = {
    "two times": BrownianPath(3, [0.2, 1.7], 2),
    "a grid": BrownianPath(4, [0.0, 0.3, 0.4, 1.9], 2),
    "to data": BrownianPath(5, [1.9, 0.5, 0.1], 2),
}
WHO = np.array([7, 2, 10**12, 2**64 - 1], dtype=np.uint64)


def ends(path):
    return float(min(path.times)), float(max(path.times))


def assert_same(a, b):
    # sums of some thousand terms of the size of the whole
    np.testing.assert_allclose(a.dw, b.dw, rtol=0, atol=1e-13)
    np.testing.assert_allclose(a.area, b.area, rtol=0, atol=1e-13)


def moments(first, second, r, h):
    """The linear map from (W1, H1, W2, H2) to (W, H), and their covariance."""
    q = 1 - r
    build = np.array([[1, 0, 1, 0], [q / 2, r, -r / 2, q]])
    return build, np.diag([first, first / 12, second, second / 12]) * h


@pytest.mark.parametrize("r", [0.5, 0.3, 1e-3, 0.999])
def test_a_step_is_split_with_the_law_of_two_steps_given_what_they_make(r):
    h = 0.7
    build, law = moments(r, 1 - r, r, h)
    # the halves of unit impulses of W, H, z and z': the split's own matrix, column by column
    columns = []
    for w, area, one, two in np.eye(4):
        a, b = split(Piece(np.array([[w]]), np.array([[area]])), h, r, np.array([[one, two]]))
        columns.append([a.dw[0, 0], a.area[0, 0], b.dw[0, 0], b.area[0, 0]])
    made = np.array(columns).T
    np.testing.assert_allclose(made @ np.diag([h, h / 12, 1, 1]) @ made.T, law, rtol=1e-12, atol=1e-15)
    # and joined again they are what they were
    np.testing.assert_allclose(build @ made, np.eye(2, 4), rtol=0, atol=1e-14)


def test_a_split_by_the_formulas_of_conditioning_is_no_other():
    """The mean and covariance given (W, H), by the dense formula of Gaussians."""
    h, r = 1.3, 0.37
    build, law = moments(r, 1 - r, r, h)
    gain = law @ build.T @ np.linalg.inv(build @ law @ build.T)
    left = law - gain @ build @ law
    made = np.array(
        [
            np.concatenate([np.ravel(part) for piece in split(Piece(w, a), h, r, z) for part in piece])
            for w, a, z in ((np.ones((1, 1)) * i, np.ones((1, 1)) * j, np.zeros((1, 2))) for i, j in ((1, 0), (0, 1)))
        ]
    ).T
    np.testing.assert_allclose(made, gain, rtol=1e-12, atol=1e-14)
    noise = np.array(
        [
            np.concatenate([np.ravel(p) for q in split(Piece(np.zeros((1, 1)), np.zeros((1, 1))), h, r, z) for p in q])
            for z in np.eye(2)[:, None]
        ]
    )
    np.testing.assert_allclose(noise.T @ noise, left, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", PATHS)
@settings(max_examples=8)
@given(parts=st.lists(st.floats(0, 1), min_size=3, max_size=6, unique=True), back=st.booleans())
def test_a_grid_sees_what_its_refinement_adds_up_to_in_either_direction(name, parts, back):
    path, (low, high) = PATHS[name], ends(PATHS[name])
    grid = np.unique(np.round(low + (high - low) * np.sort(parts), 6))
    assume(len(grid) > 1)
    fine = np.unique(np.concatenate([grid, np.linspace(grid[0], grid[-1], 4)]))
    fine = fine[np.append(True, np.diff(fine) > 1e-9)]
    fine[-1] = grid[-1]
    coarse = path.increments(grid[::-1] if back else grid, WHO)
    assert_same(path.increments(fine, WHO).on(coarse.times), coarse)


@pytest.mark.parametrize("name", PATHS)
def test_a_particle_sees_its_path_in_any_batch(name):
    path, (low, high) = PATHS[name], ends(PATHS[name])
    grid = np.linspace(low, high, 6)
    alone, together = path.increments(grid, WHO[1:2]), path.increments(grid, WHO)
    np.testing.assert_array_equal(alone.dw[:, 0], together.dw[:, 1])
    np.testing.assert_array_equal(alone.area[:, 0], together.area[:, 1])
    np.testing.assert_array_equal(path.increments(grid, WHO.tolist()).dw, together.dw)


def test_increments_and_areas_are_independent_with_variances_h_and_h_over_12():
    """Of two motions under two seeds, 10^4 particles: 528 covariances, one beyond 5 errors in 3e-4 of the seeds."""
    grid, count = np.array([1.0, 0.9, 2 / 3, 0.5, 0.0]), 10_000
    parts = []
    for seed in (11, 2**40):
        found = BrownianPath(seed, [0.0, 1.0], 2, depth=6).increments(grid, count)
        parts += [np.moveaxis(part, 1, 2).reshape(8, count) for part in (found.unit, found.unit_areas)]
    z = np.concatenate(parts)
    error = z @ z.T / count - np.eye(32)
    assert (np.abs(error) < 5 * np.sqrt((1 + np.eye(32)) / count)).all()
    assert (np.abs(z.mean(axis=1)) < 4.5 / np.sqrt(count)).all()


def test_the_area_is_the_integral_of_the_path():
    """On n = 2^10 steps the trapezoidal sum errs by 1 / (sqrt(12) n), 3e-4: five times as much."""
    fine = BrownianPath(2, [0.0, 1.0]).increments(np.linspace(0, 1, 1025), 3)
    w = np.concatenate([np.zeros((1, 3, 1)), np.cumsum(fine.dw, axis=0)])
    integral = np.trapezoid(w, dx=1 / 1024, axis=0)
    whole = BrownianPath(2, [0.0, 1.0]).increment(0.0, 1.0, 3)
    np.testing.assert_allclose(whole.dw / 2 + whole.area, integral, rtol=0, atol=1.4e-3)


def test_over_its_own_times_a_path_is_the_normals_of_its_seed():
    times = np.array([1.0, 0.7, 0.1])
    found = BrownianPath(9, times, 3).increments(times, WHO)
    for step in range(2):
        z = normals(9, WHO, step, 6)
        np.testing.assert_allclose(found.unit[step], z[:, :3], rtol=1e-14)
        np.testing.assert_allclose(found.unit_areas[step], z[:, 3:], rtol=1e-14)


def test_backwards_increments_change_their_sign_and_areas_do_not():
    path, grid = PATHS["two times"], np.array([0.3, 0.4, 1.1])
    forth, back = path.increments(grid, 4), path.increments(grid[::-1], 4)
    np.testing.assert_allclose(back.dw[::-1], -forth.dw, rtol=0, atol=1e-15)
    np.testing.assert_allclose(back.area[::-1], forth.area, rtol=0, atol=1e-15)
    assert_same(back.reversed(), forth)


def test_values_add_increments_up():
    path = PATHS["a grid"]
    w = path.values([0.1, 0.5, 0.9], 2)
    np.testing.assert_allclose(w[2] - w[1], path.increment(0.5, 0.9, 2).dw, rtol=0, atol=1e-14)
    assert not w[0].any()


def test_a_rounding_error_of_a_time_is_none_of_the_path():
    """w at 0.1 + 0.2 and at 0.3 differ by 1e-8 for a path that takes them for two times."""
    path = BrownianPath(1, [0.0, 1.0, 2.0], depth=8)
    third = 5 / 256
    for near in (third * (1 + 1e-15), third * (1 - 1e-15)):
        np.testing.assert_allclose(path.increment(0, near, 1).dw, path.increment(0, third, 1).dw, rtol=1e-13)
    assert 0.1 + 0.2 != 0.3
    own = BrownianPath(1, [0.0, 0.3, 1.0])
    np.testing.assert_array_equal(own.increment(0, 0.1 + 0.2, 1).dw, own.increment(0, 0.3, 1).dw)


def test_times_within_a_last_piece_are_on_one_function():
    path = BrownianPath(6, [0.0, 1.0], depth=3)
    grid = np.array([0.0, 0.26, 0.3, 0.31, 0.37, 1.0])
    found = path.increments(grid, 5)
    assert_same(found.on(grid[[0, 2, 5]]), path.increments(grid[[0, 2, 5]], 5))
    assert_same(found.on(grid[[5, 1, 0]]), path.increments(grid[[5, 1, 0]], 5))


@pytest.mark.parametrize("factor", [1, 2, 3, 6])
def test_coarsened_is_joined_step_by_step(factor):
    found = BrownianPath(8, np.array([0.0, 0.1, 0.4, 0.5, 0.9, 1.0, 2.0])).increments([0, 0.1, 0.4, 0.5, 0.9, 1, 2], 2)
    coarse, h = found.coarsened(factor), np.diff(found.times)
    piece, length = Piece(found.dw[0], found.area[0]), h[0]
    for k in range(1, factor):
        piece = joined(piece, Piece(found.dw[k], found.area[k]), length / (length + h[k]))
        length += h[k]
    np.testing.assert_allclose(coarse.dw[0], piece.dw, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(coarse.area[0], piece.area, rtol=1e-12, atol=1e-15)


def test_depth_is_what_draws_allow():
    assert BrownianPath(0, [0.0, 1.0]).depth == DEPTH
    assert BrownianPath(0, np.arange(2.0**10 + 1)).depth == 21
    with pytest.raises(ValueError, match=r"depth must be in 0\.\.31, got 32"):
        BrownianPath(0, [0.0, 1.0], depth=32)


def test_what_is_no_grid_of_the_path_is_refused():
    path = PATHS["two times"]
    for times, words in (
        ([0.2, 0.2], "increase, or decrease"),
        ([0.2, 1.0, 0.5], "increase, or decrease"),
        ([1.0], "increase, or decrease"),
        ([0.1, 1.0], "times must lie between 0.2 and 1.7"),
        ([0.2, 0.95, 0.95 + 4e-16], "times must be apart by more than rounding, got 0.95 and"),
    ):
        with pytest.raises(ValueError, match=words):
            path.increments(times, 2)
    with pytest.raises(ValueError, match="particles must be whole numbers"):
        path.increments([0.5, 1.0], [0.5])
    found = path.increments([0.2, 0.5, 1.7], 2)
    with pytest.raises(ValueError, match="factor must divide the number of steps 2, got 3"):
        found.coarsened(3)
    with pytest.raises(ValueError, match="times must be some of the path's 3 times"):
        found.on([0.2, 0.6])
    with pytest.raises(ValueError, match="particles must be those of the path"):
        found.steps([0.2, 0.5], 3)
    with pytest.raises(ValueError, match="dw and area must have shape"):
        Increments(found.times, found.dw[:1], found.area[:1], found.particles)
    with pytest.raises(ValueError, match="motions must be at least 1"):
        BrownianPath(0, [0.0, 1.0], 0)
