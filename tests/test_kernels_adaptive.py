"""The adaptive kernel against closed flows, tolerance ladders, and what one lane may do to the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from scipy.integrate import DOP853, RK45

from refdiff.kernels.numba import adaptive
from refdiff.kernels.numba.adaptive import LANES, Pair, Way
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.laws import Mixture

PLAIN = bool(config.DISABLE_JIT)
POINTS = 3 if PLAIN else 150


def pair(solver):
    rows = np.zeros((solver.n_stages + 1, solver.n_stages))
    rows[:-1, : solver.A.shape[1]] = solver.A[: solver.n_stages]
    rows[-1] = solver.B
    errors = np.array([solver.E5, solver.E3] if solver is DOP853 else [solver.E])
    return Pair(np.append(solver.C[: solver.n_stages], 1.0), rows, errors, solver.error_estimator_order + 1.0)


PAIRS = {"dop853": pair(DOP853), "dopri5": pair(RK45)}


def mixture(means, variances, weights=None):
    means, variances = np.array(means, dtype=float), np.array(variances, dtype=float)
    weights = np.full(len(means), 1 / len(means)) if weights is None else np.array(weights)
    dim = means.shape[1]
    return Mixture(means, variances, np.log(weights), np.empty((0, dim, dim)))


def clock(theta, delta, floor):
    """u of the place (cos theta, sin theta)."""
    return float(np.log(2 * np.sin(theta / 2) ** 2 + delta) / 2 - np.log(np.cos(theta) + floor))


def flow(y, law, start, end, name="dop853", rtol=1e-10, atol=1e-12, log=False, attempts=1000, threads=1, shift=0.0):
    """The kernel from angle to angle; y, the change of log p, and what is known of the blocks."""
    delta, floor = law.variances.min() / 2, 1 / np.sqrt(1 + (law.means**2).sum(axis=1).max())
    places = [clock(theta, delta, floor) for theta in (start, end)]
    way = Way(places[0], places[1] + shift, delta, floor, rtol, atol, attempts)
    count = -(-len(y) // LANES)
    out, change = np.full_like(y, np.nan), np.full(len(y), np.nan) if log else None
    counts, reached = np.full((count, 4), -1), np.full(count, np.nan)
    blocks(adaptive.flow, count, y, PAIRS[name], way, law, out, change, counts, reached, threads=threads)
    return out, change, counts, (reached - way.start) / (way.end - way.start or 1.0)


def affine(y, mean, variances, start, end):
    """The flow of one Gaussian, c m + sqrt(T_end / T_start) (y - c m), and the change of its log density."""
    before, after = (np.cos(a) ** 2 * np.asarray(variances) + np.sin(a) ** 2 for a in (start, end))
    moved = np.cos(end) * mean + np.sqrt(after / before) * (y - np.cos(start) * mean)
    return moved, -np.log(np.broadcast_to(after / before, mean.shape)).sum() / 2


ANGLE = st.floats(0, np.pi / 2) | st.sampled_from([0.0, 1e-6, np.pi / 2 - 1e-6, np.pi / 2])


@settings(max_examples=5 if PLAIN else settings().max_examples)
@given(
    st.sampled_from(sorted(PAIRS)),
    st.integers(1, 3),
    st.lists(st.floats(-3, 3).map(lambda e: 10**e), min_size=3, max_size=3),
    ANGLE,
    ANGLE,
    st.integers(0, 2**32 - 1),
)
def test_flow_of_one_gaussian_is_affine(name, dim, variances, start, end, seed):
    rng = np.random.default_rng(seed)
    mean, v = rng.normal(size=dim), np.array(variances[:dim])
    rtol = 1e-4 if PLAIN else 1e-9
    y = np.cos(start) * mean + np.sqrt(np.cos(start) ** 2 * v + np.sin(start) ** 2) * rng.normal(size=(POINTS, dim))
    found, change, counts, _ = flow(y, mixture([mean], [v]), start, end, name, rtol, 1e-3 * rtol, log=True)
    expected, exact = affine(y, mean, v, start, end)
    assert (counts[:, adaptive.ENDED] == adaptive.DONE).all()
    # Each step may add a tolerance, relative to y then and to 1 in log p. What has been added is stretched like
    # distances, by at most `stretch`; no run needs 300 steps, and 30 is more than the errors of 60 in a row amount to.
    before, after = (np.cos(a) ** 2 * v + np.sin(a) ** 2 for a in (start, end))
    stretch = max(1.0, np.sqrt(after / before).max())
    size = max(1.0, np.abs(y).max(), np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=30 * rtol * stretch * size)
    np.testing.assert_allclose(change, exact, rtol=0, atol=30 * rtol * max(1.0, abs(exact)))


MEANS = np.random.default_rng(3).normal(size=(5, 2))
LAW = mixture(MEANS, [[0.01], [0.02], [0.05], [0.1], [0.03]], [0.1, 0.2, 0.3, 0.2, 0.2])
NOISE = np.random.default_rng(4).normal(size=(POINTS, 2))
jitted = pytest.mark.skipif(PLAIN, reason="hours without compilation")


@jitted
@pytest.mark.parametrize("name", sorted(PAIRS))
def test_errors_follow_the_tolerance_and_steps_its_root(name):
    best = flow(NOISE, LAW, np.pi / 2, 0.0, rtol=1e-13, atol=1e-15, log=True)
    steps, errors = [], []
    ladder = (1e-5, 1e-7, 1e-9, 1e-11)
    for rtol in ladder:
        y, change, counts, _ = flow(NOISE, LAW, np.pi / 2, 0.0, name, rtol, 1e-2 * rtol, log=True)
        errors.append(max(np.abs(y - best[0]).max(), np.abs(change - best[1]).max()))
        steps.append(counts[:, [adaptive.STEPS, adaptive.REJECTED]].sum())
    # flows between modes magnify errors: 100 here; and an error estimate bounds less than it says by a few
    assert all(error < 300 * rtol for error, rtol in zip(errors, ladder, strict=True))
    assert errors[-1] < 1e-4 * errors[0]
    # an error is proportional to h^8, h^5: a hundredth of it takes 1.8, 2.5 times the steps, a rejection or two aside
    each = 100 ** (1 / PAIRS[name].exponent)
    assert (np.array(steps[1:]) / steps[:-1] < 1.25 * each).all()
    assert (np.array(steps[1:]) / steps[:-1] > 0.75 * each).all()


@jitted
def test_there_and_back():
    y, change, *_ = flow(NOISE, LAW, np.pi / 2, 0.0, rtol=1e-12, atol=1e-14, log=True)
    back, undone, *_ = flow(y, LAW, 0.0, np.pi / 2, rtol=1e-12, atol=1e-14, log=True)
    # distances between modes of scale 0.1 grow by some hundred on the way back, and errors with them
    np.testing.assert_allclose(back, NOISE, rtol=0, atol=1e-9)
    np.testing.assert_allclose(change, -undone, rtol=0, atol=1e-8)
    assert np.abs(back - NOISE).max() > 0


@jitted
def test_a_clock_that_ends_elsewhere_is_noticed():
    tolerance = {"rtol": 1e-12, "atol": 1e-14}
    exact = affine(NOISE, MEANS[0], 0.01, np.pi / 2, 0.1)[0]
    one = mixture(MEANS[:1], [[0.01]])
    assert np.abs(flow(NOISE, one, np.pi / 2, 0.1, **tolerance)[0] - exact).max() < 1e-10
    assert np.abs(flow(NOISE, one, np.pi / 2, 0.1, shift=1e-6, **tolerance)[0] - exact).max() > 1e-8


def test_no_way_changes_nothing():
    y, change, counts, _ = flow(NOISE, LAW, 0.3, 0.3, log=True)
    assert np.array_equal(y, NOISE)
    assert not change.any()
    assert not counts.any()


@jitted
def test_log_density_costs_nothing_unless_asked_for_and_leads_to_the_same_points():
    y, change, counts, _ = flow(NOISE, LAW, np.pi / 2, 0.0)
    other, _, asked, _ = flow(NOISE, LAW, np.pi / 2, 0.0, log=True)
    assert change is None
    np.testing.assert_allclose(y, other, rtol=0, atol=1e-8)
    assert (counts[:, adaptive.EVALUATIONS] <= asked[:, adaptive.EVALUATIONS]).all()


@jitted
def test_neither_threads_nor_other_blocks_change_a_bit():
    many = np.random.default_rng(5).normal(size=(5 * LANES + 7, 2))
    one, two = (flow(many, LAW, np.pi / 2, 0.0, log=True, threads=threads) for threads in (1, 2))
    for left, right in zip(one, two, strict=True):
        assert np.array_equal(left, right)
    for first in range(0, len(many), LANES):
        alone, change, *_ = flow(many[first : first + LANES], LAW, np.pi / 2, 0.0, log=True)
        assert np.array_equal(alone, one[0][first : first + LANES])
        assert np.array_equal(change, one[1][first : first + LANES])


@jitted
def test_a_hard_lane_among_easy_ones_is_as_exact_as_alone():
    law = mixture([[0.0, 0.0], [3.0, 0.0]], [[0.01], [0.01]])
    # close to the line between both modes, where the flow bends most
    hard, easy = np.array([[1e-3, 0.2]]), np.full((LANES - 1, 2), -2.0)
    start, end, tolerance = 1.4, 0.5, {"rtol": 1e-6, "atol": 1e-8}
    best = flow(hard, law, start, end, rtol=1e-13, atol=1e-15)[0]
    alone = flow(hard, law, start, end, **tolerance)
    among = flow(np.concatenate([easy[:30], hard, easy[30:]]), law, start, end, **tolerance)
    # 20 steps or so, each with a tolerance
    assert np.abs(alone[0] - best).max() < 2e-5
    assert np.abs(among[0][30] - best[0]).max() < 2e-5
    # a root of the mean over lanes would divide the error by 8, and take 8^(1/8) = 1.3 times longer steps
    assert among[2][0, adaptive.STEPS] > alone[2][0, adaptive.STEPS] / 1.15
    assert flow(easy, law, start, end, **tolerance)[2][0, adaptive.STEPS] < alone[2][0, adaptive.STEPS]


@jitted
def test_a_block_that_is_given_up_says_where_and_leaves_the_others_alone():
    hard = mixture(MEANS, [[1e-6]])
    y = np.concatenate([np.zeros((LANES, 2)) + MEANS[0], NOISE[:LANES]])
    full = flow(y, hard, np.pi / 2, 0.0)[2]
    few = int(full[:, [adaptive.STEPS, adaptive.REJECTED]].sum(axis=1).max()) - 1
    assert full[0, 1] + full[0, 2] < few
    out, _, counts, reached = flow(y, hard, np.pi / 2, 0.0, attempts=few)
    assert counts[:, adaptive.ENDED].tolist() == [adaptive.DONE, adaptive.TOO_MANY]
    assert np.array_equal(out[:LANES], flow(y[:LANES], hard, np.pi / 2, 0.0)[0])
    assert reached[0] == 1
    assert 0 < reached[1] < 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_a_point_without_a_density_ends_its_block_and_no_other(bad):
    y = np.zeros((LANES + 1, 2))
    y[5, 0] = bad
    rtol = 1e-3 if PLAIN else 1e-8
    for log in (False, True):
        with np.errstate(all="ignore"):
            out, _, counts, reached = flow(y, LAW, 1.5, 1.2, rtol=rtol, log=log)
        assert counts[:, adaptive.ENDED].tolist() == [adaptive.TOO_SHORT, adaptive.DONE]
        assert reached[0] == 0
        assert np.isfinite(out[LANES:]).all()


@jitted
@pytest.mark.parametrize("tiny", [1e-6, 1e-12])
def test_steps_grow_with_the_logarithm_of_the_least_variance(tiny):
    """A thousand times smaller a scale takes some steps more, not a thousand times as many."""
    counts = [flow(NOISE, mixture(MEANS, [[v]]), np.pi / 2, 0.0)[2] for v in (1e-3, tiny)]
    steps, rejected = (np.array([c[:, k].max() for c in counts]) for k in (adaptive.STEPS, adaptive.REJECTED))
    assert steps[1] < steps[0] + 25 * np.log10(1e-3 / tiny) / 3
    assert (rejected < steps).all()
