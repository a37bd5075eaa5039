"""Samplers on the device: the same seed gives the samples of the NumPy loop, and of Numba, to roundings.

A run's error is measured in what a rounding of the model's arguments and answers does to it (`tables.unit`), so that
the growth of errors along the steps is not guessed.
"""

from dataclasses import replace
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
from emulator.building import COMPILER
from emulator.cupy import standing_in
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import EPS, tableaus, unit

from refdiff import AffineProcess, Empirical, ExactModel, FlowMatching, GaussianMixture, VPLinear, backends, random
from refdiff.kernels.cuda import tableau as kernels
from refdiff.kernels.cuda.device import THREADS
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.ddim import ddim
from refdiff.samplers.families import families
from refdiff.samplers.running import run

# Roundings of a stage and of an answer, as of the kernel for processors: half an eps of a term each. Sums over some
# hundred components add at random.
ROUNDINGS = 16
SINGLE = 2.0**29  # a rounding of float32, in those of float64
VP = VPLinear()
AXES = AffineProcess([VPLinear(0.1, 12.0), FlowMatching()])
emulated = pytest.mark.skipif(COMPILER is None, reason="no emulator: neither g++ nor clang++ is installed")


def law(kind, dim, count=5):
    """Components about the origin, stored as `kind` says."""
    rng = np.random.default_rng(dim)
    means, spreads, turns = (
        rng.normal(size=(count, dim)),
        0.1 + rng.random((count, dim)),
        rng.normal(size=(count, dim, dim)),
    )
    matrices = turns @ np.swapaxes(turns, 1, 2) / dim + 0.1 * np.eye(dim)
    weights = 0.5 + rng.random(count)
    return {
        "isotropic": lambda: GaussianMixture.isotropic(means, spreads[:, 0], weights),
        "diagonal": lambda: GaussianMixture.diagonal(means, spreads, weights),
        "shared": lambda: GaussianMixture.shared(means, matrices[0], weights),
        "full": lambda: GaussianMixture.full(means, matrices, weights),
        "points": lambda: Empirical(means, weights),
    }[kind]()


def of(name, process=VP, coordinate="x", steps=4):
    """A family's table from 0.9 to 0.1."""
    return to_coordinate(families()[name](process, np.linspace(0.9, 0.1, steps + 1)), coordinate)


# name -> table, law, number of points: windows in registers and in memory, no noise, noise of one draw or of two that
# come again, weights for each axis, coordinates, one step, a block that is full, a tail of one, one point
CASES = {
    "ddpm": lambda: (of("ddpm"), law("isotropic", 3), 129),
    "one step": lambda: (ddim(VP, [0.9, 0.1]), law("isotropic", 3), 1),
    "two draws, x/sigma": lambda: (of("dpmpp-sde", coordinate="x/sigma", steps=3), law("points", 1), 127),
    "3m, on the line": lambda: (of("dpmpp-3m"), law("diagonal", 1), 5),
    "sde 2m on its axes": lambda: (of("dpmpp-2m-sde", AXES), law("diagonal", 2), 9),
    "each axis over its sigma": lambda: (of("ddpm", AXES, "x/sigma"), law("diagonal", 2), 9),
    "unipc, one basis": lambda: (of("unipc"), law("shared", 2), 128),
    "pndm, bases": lambda: (of("pndm", steps=6), law("full", 2), 3),
    "churn": lambda: (of("edm-heun-churn"), law("isotropic", 2), 2),
    "lms": lambda: (of("lms4", steps=6), law("points", 16), 5),
    "many components": lambda: (of("ddpm", steps=2), law("isotropic", 3, 300), 130),
    "17 axes": lambda: (of("dpmpp-3m-sde"), law("isotropic", 17), 5),
}
process_of = {"sde 2m on its axes": AXES, "each axis over its sigma": AXES}


@cache
def case(name):
    """Table, model, start, all stages by NumPy for the seed 7, and their unit."""
    tableau, data, n = CASES[name]()
    model = ExactModel(data, process_of.get(name, VP))
    x = model.sample(n, 0.9, 0) / tableau.scale[0]
    with backends.use("numpy"):
        expected = run(tableau, model, x, 7, trajectory=True)
    return tableau, model, x, expected, unit(tableau, model, x, 7, expected)


def far(found, expected, roundings):
    """The largest difference of stages in units of a stage's rounding."""
    assert found.shape == expected.shape
    return (abs(found - expected).max(axis=(1, 2)) / roundings).max()


# ---------------------------------------------------------------------- the same samples


@pytest.mark.parametrize("name", CASES)
def test_a_seed_gives_the_stages_of_the_numpy_loop(cupy, name):
    tableau, model, x, expected, roundings = case(name)
    found = run(tableau, model, cupy.asarray(x), 7, trajectory=True)
    assert far(found.get(), expected, roundings) <= ROUNDINGS
    assert np.array_equal(run(tableau, model, cupy.asarray(x), 7).get(), found[-1].get())
    if tableau.stochastic:
        for other in ({"seed": 8}, {"seed": 7, "particle": 1}):
            assert far(run(tableau, model, cupy.asarray(x), **other, trajectory=True).get(), expected, roundings) > 1e6


@emulated
@settings(max_examples=10)
@given(st.data(), st.integers(0, 2**64 - 1), st.booleans())
def test_any_table_is_that_of_the_numpy_loop(data, seed, per_axis):
    tableau = data.draw(tableaus(per_axis=3 if per_axis else None, process=VP))
    model = ExactModel(law("isotropic", 3), VP)
    x = model.sample(5, 0.9, 0)
    with backends.use("numpy"):
        expected = run(tableau, model, x, seed, trajectory=True)
    # windows of any length in memory: compiled once
    with standing_in() as cupy, patch.object(kernels, "REGISTERS", 0):
        found = run(tableau, model, cupy.asarray(x), seed, trajectory=True).get()
    assert far(found, expected, unit(tableau, model, x, seed, expected)) <= ROUNDINGS


@pytest.mark.parametrize("name", ["ddpm", "two draws, x/sigma"])
def test_registers_and_memory_keep_the_same_bits(cupy, name):
    tableau, model, x, _, _ = case(name)
    inside = run(tableau, model, cupy.asarray(x), 7).get()
    with patch.object(kernels, "REGISTERS", 0):
        assert np.array_equal(run(tableau, model, cupy.asarray(x), 7).get(), inside)


@pytest.mark.parametrize("name", ["ddpm", "unipc, one basis"])
def test_a_seed_gives_the_samples_of_numba(cupy, name):
    tableau, model, x, _, roundings = case(name)
    with backends.use("numba"):
        expected = run(tableau, model, x, 7, trajectory=True)
    assert far(run(tableau, model, cupy.asarray(x), 7, trajectory=True).get(), expected, roundings) <= 2 * ROUNDINGS


@pytest.mark.parametrize("name", ["ddpm", "unipc, one basis", "17 axes"])
def test_float32_is_computed_in_float32(cupy, name):
    tableau, model, x, expected, roundings = case(name)
    found = run(tableau, model, cupy.asarray(x.astype(np.float32)), 7, trajectory=True)
    assert found.dtype == np.float32
    assert 1e6 < far(found.get(), expected, roundings) <= ROUNDINGS * SINGLE


@pytest.mark.parametrize("part", ["states", "outputs", "noise"])
def test_a_weight_that_is_a_little_wrong_would_be_seen(cupy, part):
    tableau, model, x, expected, roundings = case("ddpm")
    weights = getattr(tableau, part).copy()
    weights[2] *= 1 + 1e-9
    found = run(replace(tableau, **{part: weights}), model, cupy.asarray(x), 7, trajectory=True)
    assert far(found.get(), expected, roundings) > 100 * ROUNDINGS


# ---------------------------------------------------------------------- batches, grids, orders, memory


@pytest.mark.parametrize("name", ["ddpm", "many components"])
@pytest.mark.parametrize("particle", [2**32 - 64, 2**64 - 256])
def test_a_batch_in_parts_has_bit_by_bit_the_points_of_the_batch_in_one(cupy, name, particle):
    tableau, model, x, _, _ = case(name)
    there = cupy.asarray(x)
    whole = run(tableau, model, there, 3, particle=particle).get()
    first, second = (run(tableau, model, there[part], 3, particle=at).get()
                     for part, at in ((slice(0, 100), particle), (slice(100, None), particle + 100)))  # fmt: skip
    assert np.array_equal(np.concatenate([first, second]), whole)
    assert not np.isclose(run(tableau, model, there[100:], 3, particle=particle).get(), whole[100:]).any()


@pytest.mark.parametrize("name", ["ddpm", "unipc, one basis"])
def test_points_beyond_the_grid_are_taken_in_turn(cupy, name, monkeypatch):
    tableau, model, x, expected, roundings = case(name)
    monkeypatch.setattr(kernels, "WAVES", 1)
    grid = THREADS * cupy.cuda.Device().attributes["MultiProcessorCount"]
    turns = 2 * grid // len(x) + 1
    many = np.tile(x, (turns, 1))
    found = run(tableau, model, cupy.asarray(many), 7).get()
    assert abs(found[: len(x)] - expected[-1]).max() <= ROUNDINGS * roundings[-1]
    if not tableau.stochastic:
        assert np.array_equal(found, np.tile(found[: len(x)], (turns, 1)))
    else:
        assert np.array_equal(found[-9:], run(tableau, model, cupy.asarray(many[-9:]), 7, particle=len(many) - 9).get())


@emulated
@pytest.mark.parametrize("name", ["ddpm", "unipc, one basis", "17 axes"])
def test_no_order_of_threads_changes_a_bit(name):
    tableau, model, x, _, _ = case(name)
    answers = []
    for order in ("forward", "backward", "random"):
        with standing_in() as cupy:
            cupy.state.order = order
            answers.append(run(tableau, model, cupy.asarray(x), 7).get())
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


@emulated
def test_little_memory_takes_fewer_blocks_and_too_little_says_so(monkeypatch):
    tableau, model, x, expected, roundings = case("unipc, one basis")
    many, block = np.tile(x, (3, 1)), 8 * sum(tableau.window[:2]) * 2 * THREADS
    with standing_in() as cupy:
        whole = run(tableau, model, cupy.asarray(many), 7).get()
        cupy.state.total = 2 * (2 * block)  # half of it takes two blocks
        assert np.array_equal(run(tableau, model, cupy.asarray(many), 7).get(), whole)
        monkeypatch.setattr(kernels, "WORKSPACE", block)
        assert np.array_equal(run(tableau, model, cupy.asarray(many), 7).get(), whole)
        assert [grid[0] for _, grid, *_ in cupy.state.launches] == [3, 2, 1]
        cupy.state.total = 64
        with pytest.raises(MemoryError, match="a window of this table for 32 points needs"):
            run(tableau, model, cupy.asarray(x), 7)
    assert abs(whole[: len(x)] - expected[-1]).max() <= ROUNDINGS * roundings[-1]


@emulated
def test_normals_leave_no_trace_in_memory_and_a_run_is_one_kernel():
    tableau, model, x, _, _ = case("ddpm")
    with standing_in() as cupy:
        run(tableau, model, cupy.asarray(x), 7)
        assert [name for name, *_ in cupy.state.launches] == ["run"]
        assert cupy.state.copies["from"] == 0


# ---------------------------------------------------------------------- one stage


@pytest.mark.parametrize("axes", ["one", "each"])
@pytest.mark.parametrize(("sources", "draws"), [(0, 0), (0, 2), (1, 1), (8, 0), (9, 1), (17, 3)])
def test_a_stage_is_the_sum_of_its_terms(cupy, sources, draws, axes):
    rng, n, dim = np.random.default_rng(sources), 43, 5
    width = 1 if axes == "one" else dim
    a, w, v = rng.normal(size=(sources, n, dim)), rng.normal(size=(sources, width)), rng.normal(size=(draws, width))
    places = np.array([3, 0, 2**32 - 1][:draws], dtype=np.uint32)
    z = np.array([random.normals(9, range(20, 20 + n), int(m), dim) for m in places]).reshape(draws, n, dim)
    there = [cupy.asarray(one) for one in a]
    arguments = cupy.asarray(w), cupy.asarray(places), cupy.asarray(v)
    found = kernels.combine(cupy.zeros((n, dim)), there, *arguments, 9, 20).get()
    terms = np.concatenate([w[:, None] * a, v[:, None] * z])
    # a rounding for each term, and the ulps of normals, which are 16 at most
    bound = EPS * ((sources + draws) * abs(terms).sum(0) + 16 * abs(terms[sources:]).sum(0))
    assert (abs(found - terms.sum(0)) <= bound).all()
    if draws:
        other = kernels.combine(cupy.zeros((n, dim)), there, *arguments, 9, 21).get()
        assert (abs(other - terms.sum(0)) > 1e3 * bound).mean() > 0.99
