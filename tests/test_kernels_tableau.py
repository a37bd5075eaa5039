"""The fused run against the NumPy loop for every family.

What rounding can do to a run is measured, not guessed: `tables.unit`.
"""

from dataclasses import replace
from functools import cache
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from tables import tableaus, unit

from refdiff import AffineProcess, Empirical, ExactModel, FlowMatching, GaussianMixture, VPLinear, backends, compiled
from refdiff.kernels.numba import compiling
from refdiff.kernels.numba.tiles import LANES
from refdiff.samplers import fused
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.ddim import ddim
from refdiff.samplers.families import families
from refdiff.samplers.running import run

INTERPRETED = bool(config.DISABLE_JIT)
FAMILIES = dict(list(families().items())[::20]) if INTERPRETED else families()
SOME = list(FAMILIES)[::3]
EVERY = pytest.mark.parametrize("name", FAMILIES)
# Roundings of a stage and of an answer: a dozen or two, each of them half an eps of a term.
ROUNDINGS = 16
POINTS = 3 if INTERPRETED else LANES + 6

LAW = GaussianMixture.isotropic(
    [[-1.0, 0.5, 0.2], [1.2, 0.0, -0.3], [0.0, 1.0, 2.0]], [0.09, 0.25, 0.2], [0.4, 0.4, 0.2]
)
VP, FM = VPLinear(), FlowMatching()
PER_AXIS = AffineProcess([VPLinear(0.1, 12.0), FlowMatching(), VPLinear(0.1, 18.0)])


@cache
def table(name, process=VP):
    """The family on six steps of its clock, or twelve where six are too few."""
    family = FAMILIES[name]
    for steps in (6, 12):
        try:
            return family(process, family.grid(process, steps, 0.98 * process.T, 0.04 * process.T))
        except ValueError as error:
            refusal = error
    raise refusal


def start(tableau, model, n=POINTS):
    """Points at the first time, in the table's coordinate."""
    return model.sample(n, float(tableau.times[0]), 0) / tableau.scale[0]


def on(name, *arguments, **options):
    with backends.use(name):
        return run(*arguments, **options)


def far(tableau, model, x, seed=7, changed=None):
    """The largest difference of a fused run and the NumPy loop, in units of a stage's rounding."""
    expected = on("numpy", tableau, model, x, seed, trajectory=True)
    times = tableau.times[tableau.evaluated].tolist()
    whens = [compiled.at(model.process.coefficients(t), tableau.prediction) for t in times]
    assert all(compiled.applies(model.distribution, when) for when in whens)
    found = on("numba", tableau if changed is None else changed, model, x, seed, trajectory=True)
    assert found.shape == expected.shape
    return (np.abs(found - expected).max(axis=(1, 2)) / unit(tableau, model, x, seed, expected)).max()


# ---------------------------------------------------------------------- the NumPy loop


@EVERY
def test_every_stage_of_every_family_is_that_of_the_numpy_loop(name):
    # half of the families under each process has all kinds of weights and of coefficients
    process = FM if crc32(name.encode()) % 2 else VP
    tableau, model = table(name, process), ExactModel(LAW, process)
    assert far(tableau, model, start(tableau, model)) <= ROUNDINGS


@pytest.mark.skipif(INTERPRETED, reason="takes all families")
def test_families_reach_much_of_what_a_table_can_hold():
    tables = [table(name) for name in FAMILIES]
    assert {tableau.stochastic for tableau in tables} == {True, False}
    assert not all(tableau.evaluated[:-1].all() for tableau in tables)
    # how far back they reach, in stages, outputs and normals
    assert np.max([tableau.window for tableau in tables], axis=0).min() >= 4


@pytest.mark.parametrize("coordinate", ["x/alpha", "x/sigma"])
def test_stages_in_another_coordinate_are_those_of_the_numpy_loop(coordinate):
    for name in SOME[::2]:
        for process in (VP, PER_AXIS) if name in per_axis_families() else (VP,):
            tableau, model = to_coordinate(of_times(name, process), coordinate), ExactModel(LAW, process)
            assert tableau.coordinate == coordinate
            assert far(tableau, model, start(tableau, model)) <= ROUNDINGS, name


@cache
def of_times(name, process):
    """The family on equal steps of t, which every axis has in common."""
    return FAMILIES[name](process, np.linspace(0.9, 0.1, 7))


@cache
def per_axis_families():
    """Those of some families that give each axis weights of its own."""

    def takes_axes(name):
        try:
            return of_times(name, PER_AXIS).axes == (3,)
        except (ValueError, TypeError):  # one clock for all axes, or two schedules compared
            return False

    return [name for name in SOME if takes_axes(name)]


def test_families_under_a_process_of_its_own_for_each_axis_are_those_of_the_numpy_loop():
    model = ExactModel(LAW, PER_AXIS)
    for name in per_axis_families():
        tableau = of_times(name, PER_AXIS)
        assert far(tableau, model, start(tableau, model, 5)) <= ROUNDINGS, name
    assert len(per_axis_families()) >= len(SOME) // 2


@pytest.mark.parametrize("kind", ["diagonal", "shared", "full", "points"])
def test_covariances_of_every_storage_are_those_of_the_numpy_loop(kind):
    rng = np.random.default_rng(0)
    means, matrices = rng.standard_normal((5, 3)), rng.standard_normal((5, 3, 3))
    matrices = matrices @ np.swapaxes(matrices, 1, 2) + 0.1 * np.eye(3)
    law = {
        "diagonal": lambda: GaussianMixture.diagonal(means, rng.uniform(0.1, 1, (5, 3))),
        "shared": lambda: GaussianMixture.shared(means, matrices[0]),
        "full": lambda: GaussianMixture.full(means, matrices),
        "points": lambda: Empirical(means),
    }[kind]()
    model = ExactModel(law, VP)
    for name in list(FAMILIES)[::30]:
        tableau = table(name)
        assert far(tableau, model, start(tableau, model, 5)) <= ROUNDINGS, name


@settings(max_examples=5 if INTERPRETED else 25)
@given(st.data(), st.integers(0, 2**64 - 1), st.booleans())
def test_any_table_is_that_of_the_numpy_loop(data, seed, per_axis):
    tableau = data.draw(tableaus(per_axis=3 if per_axis else None, process=VP))
    model = ExactModel(LAW, VP)
    assert far(tableau, model, model.sample(5, 0.9, 0), seed) <= ROUNDINGS


@pytest.mark.parametrize("part", ["states", "outputs", "noise"])
def test_a_weight_that_is_a_little_wrong_would_be_seen(part):
    tableau, model = ddim(VP, np.linspace(0.9, 0.1, 5), eta=0.5), ExactModel(LAW, VP)
    weights = getattr(tableau, part).copy()
    weights[2] *= 1 + 1e-9
    x = start(tableau, model)
    assert far(tableau, model, x, changed=replace(tableau, **{part: weights})) > 100 * ROUNDINGS
    assert far(tableau, model, x) <= ROUNDINGS


# ---------------------------------------------------------------------- batches, threads, shapes


def stochastic(eta=1.0):
    return ddim(VP, np.linspace(0.9, 0.1, 4), eta=eta), ExactModel(LAW, VP)


@pytest.mark.parametrize("particle", [0, 2**32 - 40, 2**64 - 3 * LANES])
def test_a_batch_in_parts_has_bit_by_bit_the_points_of_the_batch_in_one(particle):
    tableau, model = stochastic()
    x = start(tableau, model, n := 5 if INTERPRETED else 2 * LANES + 5)
    whole = on("numba", tableau, model, x, 3, particle=particle, trajectory=True)
    for cut in (1, n // 2, n - 1):
        parts = [
            on("numba", tableau, model, x[:cut], 3, particle=particle, trajectory=True),
            on("numba", tableau, model, x[cut:], 3, particle=particle + cut, trajectory=True),
        ]
        assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert np.array_equal(on("numba", tableau, model, x, 3, particle=particle), whole[-1])
    assert not np.isclose(on("numba", tableau, model, x, 3, particle=particle + 1), whole[-1]).any()


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_the_number_of_threads_changes_no_bit(threads, monkeypatch):
    tableau, model = stochastic()
    x = start(tableau, model, 70 if INTERPRETED else 7 * LANES + 5)
    answers = []
    for team in (1, threads):
        monkeypatch.setattr(compiling, "thread_count", lambda asked=None, team=team: team)
        answers.append(on("numba", tableau, model, x, 3, trajectory=not INTERPRETED))
    assert np.array_equal(*answers)


def test_a_generator_and_a_seed_give_the_normals_of_the_loop():
    tableau, model = stochastic()
    x = start(tableau, model, 3)
    for seed in (0, 2**32, 2**64 - 1):
        assert far(tableau, model, x, seed) <= ROUNDINGS
    found = on("numba", tableau, model, x, np.random.default_rng(3))
    np.testing.assert_allclose(found, on("numpy", tableau, model, x, np.random.default_rng(3)), rtol=1e-12, atol=1e-13)
    assert not np.isclose(found, on("numba", tableau, model, x, 4)).any()


def test_points_of_any_leading_shape_order_and_precision():
    tableau, model = stochastic()
    x = start(tableau, model, 6)
    with backends.use("numba"):
        flat = run(tableau, model, x, 3)
        assert np.array_equal(run(tableau, model, x.reshape(2, 3, 3), 3), flat.reshape(2, 3, 3))
        assert np.array_equal(run(tableau, model, x[0], 3), flat[0])
        assert np.array_equal(run(tableau, model, np.repeat(x, 2, axis=0)[::2], 3), flat)
        path = run(tableau, model, x.reshape(2, 3, 3), 3, trajectory=True)
        assert path.shape == (tableau.stages, 2, 3, 3)
        assert np.array_equal(path[0], x.reshape(2, 3, 3))
        assert np.array_equal(path[-1], flat.reshape(2, 3, 3))
        single = run(tableau, model, x.astype(np.float32), 3)
        assert single.dtype == np.float32
        assert np.array_equal(single, run(tableau, model, x.astype(np.float32).astype(float), 3).astype(np.float32))
        assert run(tableau, model, np.empty((0, 3)), 3).shape == (0, 3)
        assert run(tableau, model, np.empty((0, 3)), 3, trajectory=True).shape == (tableau.stages, 0, 3)


def test_the_start_is_left_as_it_is():
    tableau, model = stochastic()
    x = start(tableau, model, 6)
    before = x.copy()
    path = on("numba", tableau, model, x, 3, trajectory=True)
    path += 1
    assert np.array_equal(x, before)


def test_progress_grows_to_all_evaluations():
    tableau, model = stochastic()
    seen = []
    n = 2 if INTERPRETED else 9 * LANES
    on("numba", tableau, model, start(tableau, model, n), 3, progress=lambda *counts: seen.append(counts))
    assert [all_ for _, all_ in seen] == [tableau.nfe] * len(seen)
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert done[-1] == tableau.nfe
    assert len(seen) > 1 or INTERPRETED


def test_an_answer_that_is_no_number_is_refused():
    tableau, model = stochastic()
    x = start(tableau, model, 3)
    weights = tableau.states.copy()
    weights[1] = 1e308
    wild = replace(tableau, states=weights)
    for name in ("numba", "numpy"):
        with np.errstate(all="ignore"), backends.use(name), pytest.raises(ValueError, match="must"):
            run(wild, model, x * 1e10, 3)


def test_a_time_without_a_density_is_refused():
    model = ExactModel(Empirical([[0.0], [1.0]]), FlowMatching())
    tableau = ddim(FlowMatching(), [0.9, 0.5, 0.0])
    late = replace(tableau, times=np.array([0.9, 0.0, 0.0]))
    assert np.isfinite(on("numba", tableau, model, [[0.3]])).all()
    for name in ("numba", "numpy"):
        with backends.use(name), pytest.raises(ValueError, match="is singular, so the law has no density"):
            run(late, model, [[0.3]])


# ---------------------------------------------------------------------- what the kernel does not take


def matrix_noise(tableau):
    return replace(tableau, noise=tableau.noise[..., None, None] * np.eye(3))


def refuse(*_, **__):
    raise AssertionError("the fused kernel was asked")


@pytest.mark.parametrize(
    "options",
    [{"seed": 3, "given": {1: np.ones((5, 3))}}, {"normals": np.random.default_rng(0).standard_normal((3, 5, 3))}],
    ids=["given", "normals"],
)
def test_options_that_the_kernel_does_not_take_are_for_the_loop(options, monkeypatch):
    tableau, model = stochastic()
    x = start(tableau, model, 5)
    monkeypatch.setattr(fused, "run", refuse)
    found, expected = (on(name, tableau, model, x, **options) for name in ("numba", "numpy"))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    with pytest.raises(AssertionError, match="was asked"):
        on("numba", tableau, model, x, 3)


def test_functions_and_models_that_the_kernel_does_not_take_are_run_by_the_loop():
    tableau, model = stochastic()
    x = start(tableau, model, 5)
    turned = ExactModel(GaussianMixture.shared(np.eye(3), np.eye(3) + 0.5), PER_AXIS)
    assert fused.run(tableau, turned, x, 3, 0, False, None) is None
    assert fused.run(matrix_noise(tableau), model, x, 3, 0, False, None) is None
    found, expected = (on(name, matrix_noise(tableau), model, x, 3) for name in ("numba", "numpy"))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    objects = replace(tableau, states=tableau.states.astype(object))
    assert fused.run(objects, model, x, 3, 0, False, None) is None
    asked = []

    def answer(y, t):
        asked.append(t)
        return model.predict(y, t, tableau.prediction)

    found = on("numba", tableau, answer, x, 3)
    assert len(asked) == tableau.nfe
    np.testing.assert_allclose(found, on("numpy", tableau, model, x, 3), rtol=1e-12, atol=1e-13)
    table_ = ddim(PER_AXIS, np.linspace(0.9, 0.1, 4))
    found, expected = (on(name, table_, turned, x) for name in ("numba", "numpy"))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
