"""The NumPy loop against the unrolled table, and what it promises about seeds, shapes and answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import follow, tableaus

from refdiff import ExactModel, FlowMatching, GaussianMixture, VPLinear, random
from refdiff.samplers.ddim import ddim
from refdiff.samplers.running import run

LAW = GaussianMixture.isotropic([[-1.0, 0.5], [1.2, 0.0]], [0.09, 0.25], [0.4, 0.6])
MODEL = ExactModel(LAW, VPLinear())
TIMES = np.linspace(1.0, 0.0, 6)


def bent(x, t):
    """A model that is not linear, different at every time."""
    return np.tanh(x) + t * x


@given(tableaus(), st.integers(0, 2**32))
def test_the_loop_follows_the_unrolled_table(tableau, seed):
    rng = np.random.default_rng(seed)
    x, normals = rng.standard_normal((4, 2)), rng.standard_normal((tableau.draws, 4, 2))
    found = run(tableau, bent, x, normals=normals, trajectory=True)
    expected = follow(tableau, bent, x, normals)
    # both sum up to some dozen terms of the size of the largest stage
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))


@given(tableaus(per_axis=3), st.integers(0, 2**32))
def test_weights_for_each_axis_act_on_their_axis(tableau, seed):
    rng = np.random.default_rng(seed)
    x, normals = rng.standard_normal((4, 3)), rng.standard_normal((tableau.draws, 4, 3))
    expected = follow(tableau, bent, x, normals)
    found = run(tableau, bent, x, normals=normals, trajectory=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))


def test_the_same_seed_gives_the_same_points_and_another_seed_others():
    tableau, x = ddim(VPLinear(), TIMES, eta=1.0), MODEL.sample(5, 1.0, 0)
    first = run(tableau, MODEL, x, 3)
    assert np.array_equal(first, run(tableau, MODEL, x, 3))
    assert (first != run(tableau, MODEL, x, 4)).all()


def test_a_generator_gives_each_run_a_key():
    tableau, x = ddim(VPLinear(), TIMES, eta=1.0), MODEL.sample(5, 1.0, 0)
    rng = np.random.default_rng(3)
    first, second = run(tableau, MODEL, x, rng), run(tableau, MODEL, x, rng)
    assert (first != second).all()
    keys = np.random.default_rng(3).integers(2**64, size=2, dtype=np.uint64)
    assert np.array_equal(first, run(tableau, MODEL, x, int(keys[0])))
    assert np.array_equal(second, run(tableau, MODEL, x, int(keys[1])))


def test_given_normals_are_the_seeds_normals():
    tableau, x = ddim(VPLinear(), TIMES, eta=1.0), MODEL.sample(5, 1.0, 0)
    normals = np.stack([random.normals(3, 5, m, 2) for m in range(tableau.draws)])
    assert np.array_equal(run(tableau, MODEL, x, 3), run(tableau, MODEL, x, normals=normals))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 12), st.integers(1, 11))
def test_a_batch_in_parts_has_the_points_of_the_batch_in_one(seed, particle, cut):
    tableau, x = ddim(VPLinear(), TIMES, eta=1.0), MODEL.sample(12, 1.0, 0)
    whole = run(tableau, MODEL, x, seed, particle=particle)
    parts = [
        run(tableau, MODEL, x[:cut], seed, particle=particle),
        run(tableau, MODEL, x[cut:], seed, particle=particle + cut),
    ]
    # a matrix product of few rows may be summed in another order than one of many
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-12, atol=1e-13)
    again = run(tableau, MODEL, x[cut:], seed, particle=particle)
    assert not np.isclose(again, whole[cut:], rtol=1e-6).any()


def test_points_of_any_leading_shape_and_precision():
    tableau, x = ddim(VPLinear(), TIMES), MODEL.sample(6, 1.0, 0)
    flat = run(tableau, MODEL, x)
    assert np.array_equal(run(tableau, MODEL, x.reshape(2, 3, 2)), flat.reshape(2, 3, 2))
    # a matrix product of one row may be summed in another order than one of six
    np.testing.assert_allclose(run(tableau, MODEL, x[0]), flat[0], rtol=1e-13)
    single = run(tableau, MODEL, x.astype(np.float32))
    assert single.dtype == np.float32
    assert np.array_equal(single, run(tableau, MODEL, x.astype(np.float32).astype(float)).astype(np.float32))


def test_the_trajectory_begins_with_the_start_and_ends_with_the_output():
    tableau, x = ddim(VPLinear(), TIMES), MODEL.sample(6, 1.0, 0)
    path = run(tableau, MODEL, x, trajectory=True)
    assert path.shape == (tableau.stages, 6, 2)
    assert np.array_equal(path[0], x)
    assert np.array_equal(path[-1], run(tableau, MODEL, x))


def test_given_stages_are_put_in_place_of_computed_ones():
    tableau, x = ddim(VPLinear(), TIMES), MODEL.sample(3, 1.0, 0)
    path = run(tableau, MODEL, x, trajectory=True)
    moved = run(tableau, MODEL, x, given={2: path[2] + 1.0}, trajectory=True)
    assert np.array_equal(moved[:2], path[:2])
    assert np.array_equal(moved[2], path[2] + 1.0)
    rest = ddim(VPLinear(), TIMES[2:])
    assert np.array_equal(moved[-1], run(rest, MODEL, path[2] + 1.0))
    with pytest.raises(ValueError, match=r"given must hold stages 1..5 of shape \(3, 2\), got 6"):
        run(tableau, MODEL, x, given={6: x})
    with pytest.raises(ValueError, match="given must hold stages"):
        run(tableau, MODEL, x, given={2: x[:1]})


def test_progress_counts_every_evaluation():
    seen = []
    run(ddim(VPLinear(), TIMES), MODEL, MODEL.sample(2, 1.0, 0), progress=lambda done, all_: seen.append((done, all_)))
    assert seen == [(k, 5) for k in range(1, 6)]


def test_the_model_is_asked_at_the_points_and_times_of_the_process():
    asked = []

    def model(x, t):
        asked.append((x.shape, t))
        return np.zeros_like(x)

    run(ddim(FlowMatching(), TIMES), model, np.ones((3, 2)))
    assert asked == [((3, 2), t) for t in TIMES[:-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 1.0}, "x must have shape"),
        ({"x": [[np.nan, 1.0]]}, "x must be finite"),
        ({"seed": None}, "seed must be given for a sampler that draws 4 normals"),
        ({"seed": -1}, "seed must be in 0..18446744073709551615, got -1"),
        ({"seed": 2**64}, "seed must be in 0..18446744073709551615"),
        ({"particle": -1}, "particle must be in 0..18446744073709551613, got -1"),
        ({"particle": 2**64 - 2}, "particle must be in 0..18446744073709551613"),
        ({"normals": np.zeros((4, 3, 2))}, "seed and normals exclude each other"),
        ({"seed": None, "normals": np.zeros((4, 3, 1))}, r"normals must have shape \(4, 3, 2\)"),
        ({"model": lambda x, t: x[:1]}, "model must answer with the shape of its points"),
        ({"model": lambda x, t: np.full_like(x, np.inf)}, "model must answer with finite numbers, got inf at t = 1.0"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"model": MODEL, "x": np.ones((3, 2)), "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        run(ddim(VPLinear(), TIMES, eta=1.0), **arguments)


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError, match="tableau must be a Tableau, got 'ddim'"):
        run("ddim", MODEL, np.ones((3, 2)))


def test_a_model_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="model must be an ExactModel or a function"):
        run(ddim(VPLinear(), TIMES), "denoiser", np.ones((3, 2)))
