"""Runs of points that are CuPy's: models that are functions, what else may be given, and what is refused.

Functions here are followed by NumPy's loop; both sides add up the same terms, in another order.
"""

from dataclasses import replace
from unittest.mock import patch
from weakref import ref

import numpy as np
import pytest
from emulator.building import COMPILER
from emulator.cupy import standing_in
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import tableaus

from refdiff import AffineProcess, Empirical, ExactModel, GaussianMixture, LinearProcess, VPLinear, backends, random
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.ddim import ddim
from refdiff.samplers.reverse_sde import euler_maruyama
from refdiff.samplers.running import run

VP = VPLinear()
TIMES = np.linspace(0.9, 0.1, 4)
MODEL = ExactModel(GaussianMixture.isotropic([[-1.0, 0.5], [1.2, 0.0]], [0.09, 0.25], [0.4, 0.6]), VP)
TABLE = ddim(VP, TIMES, eta=1.0)
X = np.random.default_rng(0).standard_normal((5, 2))
emulated = pytest.mark.skipif(COMPILER is None, reason="no emulator: neither g++ nor clang++ is installed")
# Stages of a few terms of the size of one, through a model whose slope is below two, a few steps on: a hundred
# roundings of the largest stage.
ROUNDINGS = 100


def bent(x, t):
    """A model that is not linear, different at every time, of arrays of either kind."""
    return x / (1.0 + x * x) + t * x


def assert_near(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    eps = np.finfo(expected.dtype).eps
    assert abs(found.get() - expected).max(initial=0) <= ROUNDINGS * eps * max(1, abs(expected).max(initial=0))


# ---------------------------------------------------------------------- functions


@emulated
@settings(max_examples=10)
@given(st.data(), st.integers(0, 2**32), st.sampled_from([None, 3]))
def test_any_table_on_any_function_is_that_of_the_numpy_loop(data, seed, axes):
    tableau, dim = data.draw(tableaus(per_axis=axes)), axes or 2
    x = np.random.default_rng(seed).standard_normal((4, dim))
    with standing_in() as cupy:
        expected = run(tableau, bent, x, seed, trajectory=True)
        assert_near(run(tableau, bent, cupy.asarray(x), seed, trajectory=True), expected)
        normals = np.stack([random.normals(seed, 4, m, dim) for m in range(tableau.draws)] or [x])[: tableau.draws]
        options = {"normals": cupy.asarray(normals), "trajectory": True}
        assert_near(run(tableau, bent, cupy.asarray(x), **options), expected)


@pytest.mark.parametrize("axes", ["numbers", "matrices"])
def test_weights_that_are_matrices_act_on_rows(cupy, axes):
    drift = np.array([[0.0, 4.0], [-1.0, -4.0]])
    tableau = euler_maruyama(LinearProcess(drift, np.array([[0.3, 0.1], [0.0, 0.9]])), TIMES)
    if axes == "numbers":  # the noise alone has matrices
        tableau = replace(ddim(VP, TIMES, eta=1.0), noise=np.array([np.zeros((1, 2, 2)), *tableau.noise[1:]]))
    tableau = replace(tableau, noise=tableau.noise @ np.array([[1.0, 2.0], [0.0, 1.0]]))
    assert tableau.noise.ndim == 4
    expected = run(tableau, bent, X, 3, particle=5, trajectory=True)
    assert_near(run(tableau, bent, cupy.asarray(X), 3, particle=5, trajectory=True), expected)
    normals = np.stack([random.normals(3, range(5, 10), m, 2) for m in range(tableau.draws)])
    assert_near(run(tableau, bent, cupy.asarray(X), normals=cupy.asarray(normals), trajectory=True), expected)
    turned = replace(tableau, noise=np.swapaxes(tableau.noise, 2, 3))
    with pytest.raises(AssertionError):
        assert_near(run(turned, bent, cupy.asarray(X), 3, particle=5, trajectory=True), expected)


def test_a_function_may_do_with_its_points_what_it_likes(cupy):
    def spoiling(x, t):
        answer = bent(x, t)
        x.fill(0.0)
        return answer

    assert_near(run(TABLE, spoiling, cupy.asarray(X), 1), run(TABLE, bent, X, 1))


def test_a_function_is_asked_at_points_and_times_of_the_process(cupy):
    asked, table = [], to_coordinate(TABLE, "x/sigma")

    def model(x, t):
        asked.append((x, t))
        return bent(x, t)

    path = run(table, model, cupy.asarray(X), 1, trajectory=True).get()
    assert [t for _, t in asked] == list(TIMES[:-1])
    for (x, _), y, scale in zip(asked, path[:-1], table.scale[:-1], strict=True):
        assert np.array_equal(x.get(), y * scale)


def test_an_exact_model_as_a_function_is_the_exact_model(cupy):
    ask = lambda x, t: MODEL.predict(x, t, TABLE.prediction)  # noqa: E731
    expected = run(TABLE, MODEL, X, 3, trajectory=True)
    found = [run(TABLE, model, cupy.asarray(X), 3, trajectory=True) for model in (MODEL, ask)]
    for one in found:
        assert_near(one, expected)
    with pytest.raises(AssertionError):
        assert_near(run(TABLE, MODEL, cupy.asarray(X), 4, trajectory=True), expected)


@emulated
def test_points_that_do_not_fit_at_once_go_a_tile_after_the_other():
    seen = []

    def model(x, t):
        sizes.append(len(x))
        return bent(x, t)

    with standing_in() as cupy:
        sizes = []
        cupy.state.total = 2 * 2 * 8 * 2 * (sum(TABLE.window[:2]) + 4)  # half of it takes two points of two axes
        assert_near(run(TABLE, model, cupy.asarray(X), 3, particle=9, progress=lambda *told: seen.append(told)),
                    run(TABLE, bent, X, 3, particle=9))  # fmt: skip
        assert sizes == [2] * 6 + [1] * 3
        assert seen[-1] == (3, 3)
        assert seen == sorted(seen)
        cupy.state.total = 64
        with pytest.raises(MemoryError, match="a run of this table needs"):
            run(TABLE, model, cupy.asarray(X), 3)


@pytest.mark.parametrize(("states", "outputs"), [(6, 1), (1, 3)])
def test_no_more_answers_are_kept_than_the_table_reaches_back_to(cupy, states, outputs):
    wide = {"states": TABLE.states, "outputs": TABLE.outputs}
    for name, back in (("states", states), ("outputs", outputs)):
        wide[name] = np.pad(wide[name], ((0, 0), (0, back - wide[name].shape[1])))
    answers, alive = [], []

    def model(x, t):
        alive.append(sum(one() is not None for one in answers))
        answer = bent(x, t)
        answers.append(ref(answer))
        return answer

    assert_near(run(replace(TABLE, **wide), model, cupy.asarray(X), 3), run(TABLE, bent, X, 3))
    assert alive == [min(k, outputs) for k in range(TABLE.nfe)]


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_answers_of_another_type_are_taken_as_the_type_of_the_points(cupy, kind):
    run_of = lambda x: run(TABLE, lambda y, t: (4 * bent(y, t)).astype(kind), x, 3)  # noqa: E731
    assert_near(run_of(cupy.asarray(X)), run_of(X))


# ---------------------------------------------------------------------- shapes, offsets, given stages, progress


@pytest.mark.parametrize("model", [MODEL, bent])
@pytest.mark.parametrize("shape", [(2,), (0, 2), (2, 3, 2)])
def test_answers_have_the_shape_and_type_of_their_points(cupy, model, shape):
    for kind in (np.float64, np.float32):
        x = np.random.default_rng(1).standard_normal(shape).astype(kind)
        found, path = (run(TABLE, model, cupy.asarray(x), 3, trajectory=every) for every in (False, True))
        assert_near(found, run(TABLE, model, x, 3))
        assert_near(path, run(TABLE, model, x, 3, trajectory=True))
    assert run(TABLE, model, cupy.zeros(shape, dtype=np.int64), 3).dtype == np.float64


@pytest.mark.parametrize("trajectory", [False, True])
def test_a_process_with_an_offset_is_run_about_its_centre(cupy, trajectory):
    offset = lambda t: (np.array([t, 2.0]), np.array([1.0, 0.0]), 0.0)  # noqa: E731
    model = ExactModel(MODEL.distribution, AffineProcess(VP, offset))
    expected = run(TABLE, model, X, 3, trajectory=trajectory)
    assert_near(run(TABLE, model, cupy.asarray(X), 3, trajectory=trajectory), expected)
    given_stages = {2: X + 1.0}, {2: cupy.asarray(X + 1.0)}
    options = {"trajectory": trajectory}
    assert_near(run(TABLE, model, cupy.asarray(X), 3, given=given_stages[1], **options),
                run(TABLE, model, X, 3, given=given_stages[0], **options))  # fmt: skip
    with pytest.raises(AssertionError):
        assert_near(run(TABLE, MODEL, cupy.asarray(X), 3, trajectory=trajectory), expected)


def test_a_kernel_tells_of_its_end_and_a_loop_of_every_evaluation(cupy):
    for model, expected in ((MODEL, [(3, 3)]), (bent, [(1, 3), (2, 3), (3, 3)])):
        seen = []
        run(TABLE, model, cupy.asarray(X), 3, progress=lambda *told, seen=seen: seen.append(told))
        assert seen == expected
    wild, seen = replace(TABLE, states=TABLE.states * 1e200), []
    with pytest.raises(ValueError, match="stages must stay finite"):
        run(wild, MODEL, cupy.asarray(X), 3, progress=lambda *told: seen.append(told))
    assert seen == []  # what is not known to be done is not told


def test_a_generator_gives_the_key_that_it_gives_numpy(cupy):
    found = run(TABLE, MODEL, cupy.asarray(X), np.random.default_rng(3))
    assert_near(found, run(TABLE, MODEL, X, np.random.default_rng(3)))


# ---------------------------------------------------------------------- what is refused

FULL = GaussianMixture.full(np.eye(2), np.array([np.eye(2), [[2.0, 0.5], [0.5, 1.0]]]))
STILL = LinearProcess(-np.eye(2), np.eye(2))
DIGITS = replace(TABLE, states=TABLE.states.astype(object))
REFUSED = {
    "normals of numpy": (TypeError, "normals must be an array of CuPy", {"seed": None, "normals": np.zeros((2, 5, 2))}),
    "given of numpy": (TypeError, "given must be an array of CuPy like x", {"given": {1: X}}),
    "an answer of numpy": (TypeError, "model must answer with an array of CuPy", {"model": lambda x, t: x.get()}),
    "an answer of another shape": (ValueError, "model must answer with the shape", {"model": lambda x, t: x[:1]}),
    "a complex answer": (TypeError, "with real numbers", {"model": lambda x, t: x.astype(complex)}),
    "no finite answer": (ValueError, "finite numbers, got one that is not at t = 0.9", {"model": lambda x, t: x / 0.0}),
    "no model": (TypeError, "model must be an ExactModel or a function", {"model": "denoiser"}),
    "no seed": (ValueError, "seed must be given for a sampler that draws", {"seed": None}),
    "a wrong particle": (ValueError, "particle must be in 0", {"particle": -1}),
    "a stage that is none": (ValueError, "given must hold stages 1..3", {"given": {4: None}}),
    "a process of matrices": (ValueError, "process must be an AffineProcess", {"model": ExactModel(FULL, STILL)}),
    "a law of matrices on axes": (ValueError, "for matrices", {"model": ExactModel(FULL, AffineProcess([VP, VP]))}),
    "no density": (ValueError, "no density", {"model": ExactModel(Empirical(np.eye(2)), VP),
                                             "tableau": replace(TABLE, times=np.zeros(4))}),
    "numbers of many digits": (TypeError, "tableau must hold float64", {"tableau": DIGITS}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_says_why(cupy, case):
    error, message, change = REFUSED[case]
    arguments = {"tableau": TABLE, "model": MODEL, "x": cupy.asarray(X), "seed": 0} | change
    if case == "a stage that is none":
        arguments["given"] = {4: cupy.asarray(X)}
    with pytest.raises(error, match=message):
        run(**arguments)


def test_points_that_are_no_points_are_refused(cupy):
    for x, message in ((cupy.asarray(1.0), "x must have shape"), (cupy.full((3, 2), np.nan), "x must be finite")):
        with pytest.raises(ValueError, match=message):
            run(TABLE, MODEL, x, 0)
    with pytest.raises(TypeError, match="normals must be numbers that NumPy takes"):
        run(TABLE, MODEL, X, normals=cupy.zeros((2, 5, 2)))
    with pytest.raises(TypeError, match="model must answer with an array of NumPy"):
        run(TABLE, lambda x, t: cupy.asarray(x), X, 0)


@pytest.mark.parametrize("dim", [1, 3, 17])
@pytest.mark.parametrize("count", [2, 300])
def test_points_of_other_axes_than_the_law_are_refused(cupy, dim, count):
    law = GaussianMixture.isotropic(np.arange(2.0 * count).reshape(-1, 2), np.ones(count))
    for x in (np.zeros((5, dim)), cupy.zeros((5, dim))):
        with pytest.raises(ValueError, match=rf"x must have shape \(\.\.\., 2\), got \(5, {dim}\)"):
            run(TABLE, ExactModel(law, VP), x, 0)


@emulated
@pytest.mark.parametrize("name", ["normals", "given", "answer"])
def test_what_is_on_another_gpu_is_refused_and_not_read_there(name):
    with standing_in() as cupy:
        other = cupy.zeros((TABLE.draws, 5, 2) if name == "normals" else (5, 2))
        options = {"normals": {"normals": other}, "given": {"seed": 0, "given": {1: other}}, "answer": {"seed": 0}}[
            name
        ]
        place = property(lambda one: cupy.cuda.Device(int(one is other)))
        with (
            patch.object(cupy.ndarray, "device", place),
            pytest.raises(ValueError, match=f"{name}.* must be on the GPU"),
        ):
            run(TABLE, lambda x, t: other if name == "answer" else x, cupy.asarray(X), **options)
        run(TABLE, lambda x, t: other if name == "answer" else x, cupy.asarray(X), **options)


@pytest.mark.parametrize("points", [X, X[:0]])
def test_the_last_particle_is_the_last_of_64_bits(cupy, points):
    last = 2**64 - max(1, len(points))
    for x in (points, cupy.asarray(points)):
        assert run(TABLE, MODEL, x, 0, particle=last).shape == points.shape
        with pytest.raises(ValueError, match=f"particle must be in 0..{last}, got {last + 1}"):
            run(TABLE, MODEL, x, 0, particle=last + 1)


@pytest.mark.parametrize("model", [MODEL, bent])
def test_steps_that_are_unstable_are_told(cupy, model):
    wild = replace(TABLE, states=TABLE.states * 1e200)
    with pytest.raises(ValueError, match=r"stages must stay finite|finite numbers"):
        run(wild, model, cupy.asarray(X), 0)
    with backends.use("numpy"), np.errstate(all="ignore"), pytest.raises(ValueError):  # of many causes
        run(wild, model, X, 0)
