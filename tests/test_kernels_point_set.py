"""Point sets with many axes against 64-bit mantissas; bounds that hold; results that depend on their own point only."""

from typing import Any

import numba
import numpy as np
import pytest

from refdiff.kernels.numba import point_screen, point_set
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.laws import Mixture
from refdiff.kernels.numba.point_products import CHUNK

PLAIN = bool(numba.config.DISABLE_JIT)
COUNTS = {1: 40, 3: 60, 64: 60, 3072: 40} if PLAIN else {1: 300, 3: 500, 64: 400, 3072: 100}
POINTS = 10 if PLAIN else 40  # two groups of lanes, the second not full
SIGMAS = [0.01, 0.1, 0.5, 2.0, 20.0, 80.0]
SCORE, DENOISER, VELOCITY = (0.0, 0.0, -1.0), (1.0, 1.0, 0.0), (-0.7, 0.4, 1.3)


def mixture_of(means: Any, variances: Any = None, log_weights: Any = None) -> Any:
    count, dim = means.shape
    variances = np.zeros((1, 1)) if variances is None else variances
    log_weights = np.full(count, -np.log(count)) if log_weights is None else log_weights
    arrays = [np.ascontiguousarray(a, float) for a in (means, variances, log_weights, np.empty((0, dim, dim)))]
    return Mixture(*arrays)


def some_points(dim: int, seed: int = 0) -> Any:
    """Points near a plane, not around 0."""
    rng = np.random.default_rng(seed)
    rank = min(8, dim)
    plane = rng.standard_normal((COUNTS[dim], rank)) @ rng.standard_normal((rank, dim))
    return mixture_of(3.0 + plane + 0.1 * rng.standard_normal((COUNTS[dim], dim)))


def at_level(sigma: float, output: tuple[float, float, float] = SCORE, a: float = 1.0) -> Any:
    return np.array([[a], [sigma**2], *[[number] for number in output]])


def draws(mixture: Any, sigma: float, a: float = 1.0, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(mixture.means), size=POINTS)
    noise = rng.standard_normal((POINTS, mixture.means.shape[1]))
    return (a * mixture.means[rows] + sigma * noise).astype(mixture.means.dtype)


def evaluated(points: Any, mixture: Any, at: Any, threads: int = 1) -> Any:
    out, logp = np.full_like(points, np.nan), np.full(len(points), np.nan, points.dtype)
    point_set.predict_points(points, mixture, at, out, logp, threads=threads)
    return out, logp


def logits_of(x: Any, mixture: Any, at: Any) -> Any:
    """Logits of one point, |x - a m_k|^2 / (2 T_k), x - a m_k, b_k, in long doubles."""
    x, means, variances, log_weights, at = (
        np.asarray(a, np.longdouble) for a in (x, mixture.means, mixture.variances, mixture.log_weights, at)
    )
    v = np.broadcast_to(variances, (len(means), 1))[:, 0]
    t = at[0, 0] ** 2 * v + at[1, 0]
    delta = x - at[0, 0] * means
    half = (delta * delta).sum(axis=1) / (2 * t)
    return log_weights - len(x) * np.log(t) / 2 - half, half, delta, (at[3, 0] * v + at[4, 0]) / t


def exact(points: Any, mixture: Any, at: Any) -> Any:
    """Outputs, log densities and what their errors are measured by.

    A squared distance is off by 16 roundings of itself where products are accepted (|X| + |Y| < 4 |x - a m|), for each
    of the sqrt(terms) < 16 that a sum of a panel comes to in the mean square; a logit likewise. An output is off by
    that, relative to the largest of what it averages.
    """
    dim, eps = points.shape[1], np.finfo(points.dtype).eps
    mu, a = at[2, 0], at[0, 0]
    means = np.asarray(mixture.means, np.longdouble)
    out, logp = np.empty(points.shape, np.longdouble), np.empty(len(points), np.longdouble)
    wide, high = np.empty(len(points)), np.empty(len(points))
    for i in range(len(points)):
        logits, half, delta, b = logits_of(points[i], mixture, at)
        r = np.exp(logits - logits.max())
        out[i] = r @ (mu * means + b[:, None] * delta) / r.sum()
        logp[i] = logits.max() + np.log(r.sum()) - dim * np.log(2 * np.longdouble(np.pi)) / 2
        felt = r > eps**2
        relative = eps * (64 + 32 * half[felt].max() + 4 * np.abs(logits[felt]).max())
        size = np.sqrt(float(at[1, 0])) + np.abs(delta[felt]).max() + (abs(a) * np.ptp(means[felt], axis=0)).max()
        high[i] = relative
        wide[i] = 2 * relative * (abs(mu) * np.abs(means).max() + np.abs(b[felt]).max() * size)
    return out, logp, wide, high


def errors(found: Any, wanted: Any) -> tuple[float, float]:
    """The worst output and the worst log density, of what is allowed."""
    out, logp, wide, high = wanted
    worst = (np.abs(found[0] - out).max(axis=1) / wide).max(), (np.abs(found[1] - logp) / high).max()
    return float(worst[0]), float(worst[1])


def agrees(found: Any, wanted: Any) -> bool:
    return max(errors(found, wanted)) <= 1


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dim", list(COUNTS))
def test_products_and_repairs_agree_with_differences(dim: int, sigma: float) -> None:
    mixture = some_points(dim)
    points = draws(mixture, sigma)
    assert agrees(evaluated(points, mixture, at_level(sigma)), exact(points, mixture, at_level(sigma)))


@pytest.mark.parametrize("output", [SCORE, DENOISER, VELOCITY])
@pytest.mark.parametrize("a", [0.6, -0.6, 1e-3])
def test_every_output_with_a_gain_and_variances_of_components(output: Any, a: float) -> None:
    rng = np.random.default_rng(4)
    mixture = some_points(64)
    count = len(mixture.means)
    mixture = mixture_of(mixture.means, 0.1 * rng.random((count, 1)), np.log(rng.dirichlet(np.ones(count))))
    for sigma in (0.1, 3.0):
        points, at = draws(mixture, sigma, a), at_level(sigma, output, a)
        assert agrees(evaluated(points, mixture, at), exact(points, mixture, at))


def clustered(spread: float) -> tuple[Any, Any]:
    """Points in tight pairs of clusters far apart, and queries that feel a whole cluster."""
    rng = np.random.default_rng(7)
    count = COUNTS[64]
    centres = np.repeat(rng.standard_normal((2, 64)) * 10, [count // 4, count - count // 4], axis=0)
    mixture = mixture_of(centres + spread * rng.standard_normal((count, 64)))
    return mixture, draws(mixture, spread)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_distances_inside_a_tight_cluster_do_not_cancel(spread: float) -> None:
    mixture, points = clustered(spread)
    at = at_level(spread)
    assert agrees(evaluated(points, mixture, at), exact(points, mixture, at))
    # the products alone are wrong there: |X|^2 is 640 and a logit is in units of spread^2
    x, y = (array - mixture.means.mean(axis=0) for array in (points, mixture.means))
    square = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T
    logits = -square / (2 * spread**2)
    r = np.exp(logits - logits.max(axis=1, keepdims=True))
    bare = (r / r.sum(axis=1, keepdims=True)) @ mixture.means - points
    log_density = logits.max(axis=1) + np.log(r.mean(axis=1)) - 32 * np.log(2 * np.pi) - 64 * np.log(spread)
    assert not agrees((bare / spread**2, log_density), exact(points, mixture, at))


def test_a_cutoff_of_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_set, "cutoff_of", lambda *_: 1.0)
    for sigma, worst in ((0.5, 1), (2.0, 1)):
        mixture, at = some_points(3), at_level(sigma)
        points = draws(mixture, sigma)
        assert max(errors(evaluated(points, mixture, at), exact(points, mixture, at))) > worst


# ---------------------------------------------------------------------- extreme inputs


@pytest.mark.parametrize("count", [1, 2, CHUNK, CHUNK + 1])
@pytest.mark.parametrize("sigma", [1e-3, 1.0])
def test_equal_points_count_all(count: int, sigma: float) -> None:
    mixture = mixture_of(np.tile(np.linspace(-1.0, 1.0, 40), (count, 1)))
    points = mixture.means[:1] + sigma * np.random.default_rng(0).standard_normal((5, 40))
    assert agrees(evaluated(points, mixture, at_level(sigma)), exact(points, mixture, at_level(sigma)))


def test_pairs_of_equal_points_share_the_weight() -> None:
    mixture = some_points(64)
    twice = mixture_of(np.concatenate([mixture.means, mixture.means]))
    points = draws(mixture, 0.1)
    assert agrees(evaluated(points, twice, at_level(0.1)), exact(points, twice, at_level(0.1)))


def test_far_queries_and_queries_on_a_point_agree() -> None:
    mixture = some_points(64)
    points = np.concatenate([mixture.means[:3], mixture.means[:3] + 1e4, mixture.means[:1] - 1e8])
    for sigma in (0.05, 2.0):
        assert agrees(evaluated(points, mixture, at_level(sigma)), exact(points, mixture, at_level(sigma)))


@pytest.mark.parametrize("scale", [1e-60, 1e-20, 1e30, 1e100])
def test_any_unit_of_length_will_do(scale: float) -> None:
    base = some_points(64)
    mixture = mixture_of(base.means * scale)
    for sigma in (0.05 * scale, 5.0 * scale):
        points = draws(mixture, sigma)
        assert agrees(evaluated(points, mixture, at_level(sigma)), exact(points, mixture, at_level(sigma)))


def test_no_query_is_no_work() -> None:
    out, logp = evaluated(np.empty((0, 64)), some_points(64), at_level(1.0))
    assert out.shape == (0, 64)
    assert logp.shape == (0,)


# ---------------------------------------------------------------------- the bounds of the sparse way


@pytest.mark.parametrize("unit", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("moved", [0.0, 1e9])
@pytest.mark.parametrize("a", [1.0, 0.37])
def test_float32_products_bound_the_logits(
    unit: float, moved: float, a: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[Any] = []

    def keep(kernel: Any, *arguments: Any, threads: Any = None, **_: Any) -> None:
        blocks(kernel, *arguments, threads=threads)
        caught.append((kernel, arguments))

    monkeypatch.setattr(point_set, "blocks", keep)
    mixture = mixture_of(unit * (some_points(64).means + moved))
    at = at_level(0.3 * unit, a=a)
    points = draws(mixture, 0.3 * unit, a)
    out, logp = np.empty_like(points), np.empty(len(points))
    center = mixture.means.mean(axis=0)
    point_set._sparse(points, np.arange(len(points)), mixture, at, center, 60.0, 0, out, logp, 1)
    upper, lower = next(arguments[-2:] for kernel, arguments in caught if kernel is point_screen.screen)
    upper, lower = upper.reshape(len(upper), -1), lower.max(axis=0).reshape(-1)
    count, band = len(mixture.means), point_screen.BAND
    for i in range(len(points)):
        logits = logits_of(points[i], mixture, at)[0]
        assert lower[i] <= logits.max()
        for n in range(-(-count // band)):
            assert upper[n, i] >= logits[n * band : (n + 1) * band].max()


# ---------------------------------------------------------------------- what a result depends on


@pytest.mark.parametrize("sigma", [0.1, 2.0, 10.0])
@pytest.mark.parametrize("few", [1, POINTS])
def test_threads_and_neighbours_change_no_bit(few: int, sigma: float) -> None:
    mixture, at = some_points(64), at_level(sigma)
    points = draws(mixture, sigma)
    out, logp = evaluated(points, mixture, at)
    order = np.random.default_rng(2).permutation(POINTS)[:few]
    for threads in (1, 2, 5):
        again = evaluated(points[order], mixture, at, threads)
        assert np.array_equal(again[0], out[order])
        assert np.array_equal(again[1], logp[order])


def test_a_guess_of_the_way_changes_roundings_only() -> None:
    mixture, at = some_points(64), at_level(1.0)
    points = draws(mixture, 1.0)
    rows, center = np.arange(len(points)), mixture.means.mean(axis=0)
    cutoff, wanted = point_set.cutoff_of(mixture, at), exact(points, mixture, at)
    out, logp = np.full_like(points, np.nan), np.full(len(points), np.nan)
    assert len(point_set._sparse(points, rows, mixture, at, center, cutoff, 0, out, logp, 1)) == 0
    assert agrees((out, logp), wanted)
    left = point_set._dense(points, rows, mixture, at, center, cutoff, out, logp, 1)
    kept = np.setdiff1d(rows, left)
    assert len(kept) > 0
    assert agrees((out[kept], logp[kept]), tuple(part[kept] for part in wanted))
