"""Pruned mixtures against 64-bit mantissas and against sweeps of everything; what a lane gets is its own."""

from typing import Any

import numba
import numpy as np
import pytest

from refdiff.kernels.numba import pruning
from refdiff.kernels.numba.compiling import blocks, compiled
from refdiff.kernels.numba.lanes import load, store
from refdiff.kernels.numba.laws import Tree, workspace
from refdiff.kernels.numba.mixture import predict
from refdiff.kernels.numba.tiles import LANES

PLAIN = bool(numba.config.DISABLE_JIT)
COUNT, POINTS = (200, 70) if PLAIN else (3000, 130)
SIGMAS = [0.003, 0.05, 0.5, 5.0]
SCORE, DENOISER, VELOCITY = (0.0, 0.0, -1.0), (1.0, 1.0, 0.0), (-0.7, 0.4, 1.3)


@compiled
def pays(first, last, mixture, at, answers):  # type: ignore[no-untyped-def]
    for place in range(first, last):
        answers[place] = pruning.pays(mixture, at)


@compiled
def predict_within(first, last, points, mixture, at, cutoff, out, logp):  # type: ignore[no-untyped-def]
    """`mixture.predict` with a cutoff."""
    dim = points.shape[1]
    x, o, l = np.empty((dim, LANES), points.dtype), np.empty((dim, LANES), points.dtype), np.empty(LANES, points.dtype)
    work = workspace(points, dim, 1)
    for block in range(first, last):
        count = load(points, block * LANES, x)
        pruning.evaluate_within(x, mixture, at, pruning.cutoff_bits(mixture, at) if cutoff == 0 else cutoff, work, o, l)
        store(o, count, block * LANES, out)
        logp[block * LANES : block * LANES + count] = l[:count]


def mixture_of(means: Any, variances: Any, log_weights: Any) -> Any:
    """A mixture with its tree, in the tree's order."""
    means, variances, log_weights = (np.asarray(a, float) for a in (means, variances, log_weights))
    order, starts, boxes = pruning.leaves(means, variances, log_weights)
    spread = variances[order] if len(variances) > 1 else variances
    none = np.empty((0, means.shape[1], means.shape[1]))
    return Tree(means[order], spread, log_weights[order], none, starts, boxes)


def some_mixture(dim: int, alike: bool, count: int = COUNT, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=count)
    variances = np.zeros((1, 1)) if alike else 0.01 * rng.exponential(size=(count, 1)) + 1e-6
    return mixture_of(rng.standard_normal((count, dim)), variances, np.log(weights / weights.sum()))


def at_level(sigma: float, output: tuple[float, float, float] = SCORE, a: float = 1.0) -> Any:
    return np.array([[a], [sigma**2], *[[number] for number in output]])


def evaluated(points: Any, mixture: Any, at: Any, cutoff: float = 0.0, threads: int = 1) -> Any:
    out, logp = np.empty_like(points), np.empty(len(points), points.dtype)
    count = -(-len(points) // LANES)
    blocks(predict_within, count, points, mixture, at, cutoff, out, logp, threads=threads)
    return out, logp


def exact(points: Any, mixture: Any, at: Any) -> Any:
    """Outputs, log densities and what their errors are measured by, in long doubles.

    A logit is off by (d + 3) roundings of its |t|^2 / (2 T), and so is log p; an output by that, relative to the
    largest of what it averages, and by the roundings of a sum.
    """
    x, means, variances, log_weights, at = (
        np.asarray(a, np.longdouble) for a in (points, mixture.means, mixture.variances, mixture.log_weights, at)
    )
    a, q, mu, beta, gamma = at[:, 0]
    dim, eps = x.shape[1], np.finfo(points.dtype).eps
    v = np.broadcast_to(variances, (len(means), 1))[:, 0]
    t, b = a * a * v + q, (beta * v + gamma) / (a * a * v + q)
    out, logp, wide, high = np.empty_like(x), np.empty(len(x), x.dtype), np.empty(len(x)), np.empty(len(x))
    for i in range(len(x)):
        delta = x[i] - a * means
        half = (delta * delta).sum(axis=1) / (2 * t)
        logits = log_weights - dim * np.log(t) / 2 - half
        r = np.exp(logits - logits.max())
        out[i] = r @ (mu * means + b[:, None] * delta) / r.sum()
        logp[i] = logits.max() + np.log(r.sum()) - dim * np.log(2 * np.longdouble(np.pi)) / 2
        felt = r > eps**2
        relative = eps * (16 + 2 * (dim + 3) * (half[felt].max() + np.abs(logits[felt]).max()))
        size = np.abs(x[i]).max() + abs(a) * np.abs(means[felt]).max()
        high[i] = relative
        wide[i] = 2 * relative * (abs(mu) * np.abs(means[felt]).max() + np.abs(b[felt]).max() * size)
    return out, logp, wide, high


def draws(mixture: Any, sigma: float, a: float = 1.0, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(mixture.means), size=POINTS)
    noise = rng.standard_normal((POINTS, mixture.means.shape[1]))
    return (a * mixture.means[rows] + sigma * noise).astype(mixture.means.dtype)


def agrees(found: Any, wanted: Any) -> bool:
    out, logp, wide, high = wanted
    return bool((np.abs(found[0] - out).max(axis=1) <= wide).all() and (np.abs(found[1] - logp) <= high).all())


# ---------------------------------------------------------------------- the tree


@pytest.mark.parametrize("count", [1, 2, 64, 65, 1000])
def test_leaves_share_out_all_components_and_boxes_hold_them(count: int) -> None:
    rng = np.random.default_rng(count)
    means, variances, log_weights = rng.standard_normal((count, 3)), rng.random((count, 1)), rng.random(count)
    order, starts, boxes = pruning.leaves(means, variances, log_weights)
    assert np.array_equal(np.sort(order), np.arange(count))
    sizes, leaf_count = np.diff(starts), len(starts) - 1
    assert sizes.min() >= 1
    assert sizes.max() <= pruning.LEAF
    assert sizes.max() - sizes.min() <= 1
    assert boxes.shape == (2 * leaf_count - 1, 2, 5)
    rows = np.concatenate([means, variances, log_weights[:, None]], axis=1)[order]
    for leaf in range(leaf_count):
        part, box = rows[starts[leaf] : starts[leaf + 1]], boxes[leaf_count - 1 + leaf]
        assert np.array_equal(part.min(axis=0), box[0])
        assert np.array_equal(part.max(axis=0), box[1])
    for node in range(leaf_count - 1):
        children = boxes[2 * node + 1 : 2 * node + 3]
        assert np.array_equal(children[:, 0].min(axis=0), boxes[node, 0])
        assert np.array_equal(children[:, 1].max(axis=0), boxes[node, 1])


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("dim", [1, 2, 9])
def test_what_is_left_out_is_below_rounding(dim: int, alike: bool, sigma: float) -> None:
    mixture, at = some_mixture(dim, alike), at_level(sigma)
    points = draws(mixture, sigma)
    assert agrees(evaluated(points, mixture, at), exact(points, mixture, at))


@pytest.mark.parametrize("output", [DENOISER, VELOCITY])
def test_every_output_with_a_gain(output: Any) -> None:
    for a, alike in ((0.6, False), (-0.6, True)):
        mixture, at = some_mixture(3, alike), at_level(0.04, output, a)
        points = draws(mixture, 0.04, a)
        assert agrees(evaluated(points, mixture, at), exact(points, mixture, at))


def test_a_cutoff_of_one_bit_is_seen() -> None:
    mixture, at = some_mixture(2, True), at_level(0.05)
    points = draws(mixture, 0.05)
    assert not agrees(evaluated(points, mixture, at, cutoff=1.0), exact(points, mixture, at))


def test_a_far_point_and_points_between_components_agree() -> None:
    mixture, at = some_mixture(2, True), at_level(0.02)
    middle = (mixture.means[:10] + mixture.means[10:20]) / 2
    points = np.concatenate([middle, [[40.0, -30.0], [1e4, 1e4], [0.0, -1e7]]])
    assert agrees(evaluated(points, mixture, at), exact(points, mixture, at))


@pytest.mark.parametrize("count", [1, 64, 150])
def test_equal_components_count_all(count: int) -> None:
    mixture = mixture_of(np.ones((count, 2)), np.zeros((1, 1)), np.full(count, -np.log(count)))
    points = np.array([[1.0, 1.0], [1.1, 0.8], [-3.0, 2.0]])
    assert agrees(evaluated(points, mixture, at_level(0.1)), exact(points, mixture, at_level(0.1)))


def test_a_heavy_far_component_is_not_left_out_for_a_light_near_one() -> None:
    rng = np.random.default_rng(3)
    means, log_weights = rng.standard_normal((300, 2)), np.full(300, -2000.0)
    means[7], log_weights[7] = (3.0, 3.0), 0.0
    mixture = mixture_of(means, np.zeros((1, 1)), log_weights)
    points = draws(mixture, 0.1)[:40]
    assert agrees(evaluated(points, mixture, at_level(0.1)), exact(points, mixture, at_level(0.1)))


def test_a_narrow_component_under_a_wide_one_is_found() -> None:
    mixture = some_mixture(2, False)
    mixture.variances[::2] = 1e-10
    mixture = mixture_of(mixture.means, mixture.variances, mixture.log_weights)
    points = draws(mixture, 1e-6)
    assert agrees(evaluated(points, mixture, at_level(1e-6)), exact(points, mixture, at_level(1e-6)))


# ---------------------------------------------------------------------- what a lane depends on


@pytest.mark.parametrize("sigma", [0.003, 0.05, 0.5])
def test_a_point_does_not_feel_its_neighbours_nor_threads(sigma: float) -> None:
    mixture, at = some_mixture(2, False), at_level(sigma)
    points = draws(mixture, sigma)
    out, logp = evaluated(points, mixture, at)
    order = np.random.default_rng(5).permutation(POINTS)
    for threads in (1, 2, 3):
        again = evaluated(points[order], mixture, at, threads=threads)
        assert np.array_equal(again[0], out[order])
        assert np.array_equal(again[1], logp[order])
    alone = evaluated(points[:1], mixture, at)
    assert np.array_equal(alone[0], out[:1])
    assert np.array_equal(alone[1], logp[:1])


def test_far_leaves_are_not_touched() -> None:
    rng = np.random.default_rng(6)
    means = rng.standard_normal((COUNT, 2)) + np.repeat([[0.0], [100.0]], [COUNT // 2, COUNT - COUNT // 2], axis=0)
    mixture = mixture_of(means, np.zeros((1, 1)), np.zeros(COUNT))
    points = rng.standard_normal((50, 2))
    before = evaluated(points, mixture, at_level(0.5))
    mixture.means[mixture.means[:, 0] > 50.0] = np.nan
    after = evaluated(points, mixture, at_level(0.5))
    assert np.array_equal(after[0], before[0])
    assert np.array_equal(after[1], before[1])
    assert np.isnan(evaluated(points, mixture, at_level(50.0))[0]).all()


def test_what_is_not_a_number_stays_in_its_lane() -> None:
    mixture, at = some_mixture(2, True), at_level(0.05)
    points = draws(mixture, 0.05)[:64]
    out, _ = evaluated(points, mixture, at)
    points[5, 1] = np.nan
    again, _ = evaluated(points, mixture, at)
    others = np.arange(64) != 5
    assert np.isnan(again[5]).any()
    assert np.array_equal(again[others], out[others])


def test_the_tree_agrees_with_the_sweep_of_everything() -> None:
    mixture, at = some_mixture(4, True), at_level(0.3)
    points = draws(mixture, 0.3)
    full = mixture._replace(leaves=np.zeros(1, np.int64), boxes=np.empty((0, 2, 6)))
    out, logp = np.empty_like(points), np.empty(POINTS)
    blocks(predict, -(-POINTS // LANES), points, full, at, out, logp, threads=1)
    found = evaluated(points, mixture, at)
    _, _, wide, high = exact(points, mixture, at)
    assert (np.abs(found[0] - out).max(axis=1) <= 2 * wide).all()
    assert (np.abs(found[1] - logp) <= 2 * high).all()


def test_pruning_pays_for_many_components_at_small_noise_only() -> None:
    many, few = some_mixture(2, True, count=4096), some_mixture(2, True, count=1000)
    answers = np.zeros(3)
    for place, mixture, sigma in ((0, many, 0.03), (1, many, 0.5), (2, few, 0.03)):
        pays(place, place + 1, mixture, at_level(sigma), answers)
    assert answers.tolist() == [1, 0, 0]
