r"""Maximum mean discrepancy and energy distance, of laws exactly and of samples without bias.

    MMD^2(p, q) = E k(x, x') + E k(y, y') - 2 E k(x, y),      x, x' ~ p,  y, y' ~ q independent
    energy      = 2 E |x - y| - E |x - x'| - E |y - y'|       the same with k = -|x - y|

Laws have it in closed form for the Gaussian kernel, point sets for every kernel (V-statistics), and all else by an
integral over scales (`similarities`). In a sample only pairs of different draws count (U-statistics): the mean over
samples is the value of the laws, which may make an estimate negative. With a(x) = E k(x, x') - E k(x, y), b(y) alike
and z the variance that is left of a kernel when the means of its rows and of its columns are taken away,

    Var = 4/n Var a + 4/m Var b + B,     B = 2 z_xx / n (n - 1) + 2 z_yy / m (m - 1) + 4 z_xy / n m

The variances of a and b seen in samples, whose rows are means themselves, have twice B in them. Where p = q, B is all.
Sources: PODA-104, PODA-102; Gretton et al. 2012, "A kernel two-sample test"; Szekely and Rizzo 2013 and 2014, "Energy
statistics" and "Partial distance correlation"; Hoeffding 1948, of the variance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refdiff.expectations import Estimate
from refdiff.metrics.compared import Compared, Side, is_points, samples_on_device, sides, weighted_points
from refdiff.metrics.pairs import row_sums
from refdiff.metrics.similarities import DISTANCE, Kernel, means_over

SEEN = 1024  # points whose distances have the median: half a million distances


def mmd_squared(p: Compared, q: Compared, kernel: Kernel) -> Estimate:
    """MMD^2(p, q) of laws, or samples (n, d) of them.

    Two samples that are arrays of CuPy are compared on their GPU. Pairs of float32 are computed in float32 there and
    added without loss: means of pairs are right to some 1e-7, and their difference is right to that part of them.

    Args:
        p: a law or a sample.
        q: a law or a sample.
        kernel: as of `gaussian_kernel` and others.

    Returns:
        The error is 0 in closed form, what coarser scales change, or the standard error of samples.

    Raises:
        MemoryError: sums for a part of the points do not fit on the GPU.
        TypeError: p or q is neither a law nor an array of real numbers, only one is an array of CuPy, or the kernel is
            none.
        ValueError: dimensions differ, a sample has fewer than two points (of fewer than four the error is infinite), or
            is so far from another that a square of a distance is infinite.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Gaussian
        >>> from refdiff.metrics import gaussian_kernel, mmd_squared
        >>> p, q = Gaussian([0.0], 0.5), Gaussian([2.0], 0.5)  # x - y is N(-2, 1), x - x' is N(0, 1)
        >>> found = mmd_squared(p, q, gaussian_kernel(1.0))  # E k of N(m, 1) is e^(-m^2 / 4) / sqrt(2)
        >>> np.allclose(found.value, np.sqrt(2) * (1 - np.exp(-1)))
        True
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a Kernel, got {kernel!r}")
    samples = samples_on_device(p, q)
    if samples is not None:
        counts = [float(len(x)) for x in samples]
        _enough(counts)
        with samples[0].device:
            return _estimate(_Tables(*(_rows_on_device(kernel, *pair) for pair in _pairings(*samples))), counts)
    first, second = sides(p, q)
    counts = [float(side.law.count) if side.drawn else np.inf for side in (first, second)]
    _enough(counts)
    *own, across, back = _pairings(first, second)
    xx, yy, xy = (_rows(kernel, *pair) for pair in (*own, across))
    tables = _Tables(xx, yy, xy, _rows(kernel, *back) if second.drawn else xy)
    if first.drawn or second.drawn:
        return _estimate(tables, counts)
    exact = kernel.name == "gaussian" or (is_points(first.law) and is_points(second.law))
    return Estimate(max(tables.value, 0.0), 0.0 if exact else tables.change, "closed" if exact else "quadrature")


def energy_distance(p: Compared, q: Compared) -> Estimate:
    """2 E |x - y| - E |x - x'| - E |y - y'| of laws, or samples (n, d) of them; on the line 2 int (F - G)^2.

    Args:
        p: a law or a sample.
        q: a law or a sample.

    Returns:
        The error as of `mmd_squared`, whose kernel is -|x - y| here; arrays of CuPy are taken as there.

    Examples:
        >>> from refdiff import Empirical
        >>> from refdiff.metrics import energy_distance
        >>> print(round(float(energy_distance(Empirical([[0.0]]), Empirical([[3.0]])).value), 6))  # 2 |x - y|
        6.0
    """
    return mmd_squared(p, q, DISTANCE)


def median_distance(p: Compared, q: Compared) -> float:
    """The median of the distances between two points of p and q together: a length for a kernel.

    Of many points an even selection is taken, so that the same points have the same length. A law counts by its means.
    Two samples may be arrays of CuPy.

    Args:
        p: a law or a sample (n, d).
        q: a law or a sample (m, d).

    Raises:
        TypeError: only one is an array of CuPy, or one is no array of real numbers.
        ValueError: more than half of the distances are 0, or half of them have infinite squares.
    """
    samples = samples_on_device(p, q)
    if samples is not None:
        with samples[0].device:
            return _positive(_median_on_device(*samples))
    from scipy.spatial.distance import pdist  # late: a quarter of the time to import this package

    both = np.concatenate([side.law.means for side in sides(p, q)])
    return _positive(float(np.median(pdist(both[_seen(len(both))]))))


def _seen(count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, SEEN).astype(np.intp))


def _positive(median: float) -> float:
    if not 0 < median < np.inf:
        raise ValueError(
            f"p and q must be points of which most differ, and not beyond squares of numbers, got a median distance of "
            f"{median:g}"
        )
    return median


def _median_on_device(x: Any, y: Any) -> float:
    """The same of samples (n, d) and (m, d) there: every distance is there twice, and one 0 for each point."""
    from refdiff.kernels.cuda import pair_sums  # late: nothing but GPUs needs it
    from refdiff.kernels.cuda.device import cupy

    places = _seen(len(x) + len(y))
    of_x, of_y = (cupy().asarray(part) for part in (places[places < len(x)], places[places >= len(x)] - len(x)))
    seen = cupy().concatenate([x[of_x], y[of_y]])
    distances = cupy().sort(pair_sums.values(pair_sums.DISTANCE, 1.0, 1.0, seen, seen).ravel())[len(seen) :: 2]
    middle = len(distances) // 2
    return float(distances[middle - 1 + len(distances) % 2 : middle + 1].mean(dtype=np.float64))


# ---------------------------------------------------------------------- rows of a kernel


class Rows(NamedTuple):
    """E k(x, y) over y, for every x.

    Attributes:
        rows: the means, shape (n,), over all other y where x and y are of one sample; on a GPU if the points are.
        mean: their mean.
        square: E k^2; 0 where it is not wanted.
        change: what coarser scales change of the mean.
    """

    rows: Any
    mean: float
    square: float
    change: float


class _Tables(NamedTuple):
    xx: Rows
    yy: Rows
    xy: Rows
    yx: Rows

    @property
    def value(self) -> float:
        return self.xx.mean + self.yy.mean - 2 * self.xy.mean

    @property
    def change(self) -> float:
        return self.xx.change + self.yy.change + 2 * self.xy.change


def _pairings(x: Any, y: Any) -> tuple[tuple[Any, Any], ...]:
    return (x, x), (y, y), (x, y), (y, x)


def _enough(counts: list[float]) -> None:
    for name, count in zip("pq", counts, strict=True):
        if count < 2:
            raise ValueError(f"{name} must be a law or a sample of at least two points, got one")


def _estimate(tables: _Tables, counts: list[float]) -> Estimate:
    """From samples of so many points, infinitely many those of a law.

    Raises:
        ValueError: the discrepancy is infinite.
    """
    if not np.isfinite(tables.value):
        raise ValueError(
            "p and q must be so near that float64, or float32 for two samples of it on a GPU, can hold squares of "
            "their distances, got an infinite one"
        )
    variance = 0.0
    within = 4 * _left_between(tables.xy, tables.yx) / (counts[0] * counts[1]) if np.isfinite(counts).all() else 0.0
    for n, own, across in ((counts[0], tables.xx, tables.xy), (counts[1], tables.yy, tables.yx)):
        if np.isfinite(n):
            within += 2 * _left_within(own) / (n * (n - 1))
            variance += 4 / n * float((own.rows - across.rows).var(ddof=1))
    total = max(variance - 2 * within, 0.0) + within if np.isfinite(within) else np.inf
    return Estimate(tables.value, float(np.sqrt(total)) + tables.change, "monte carlo")


def _rows(kernel: Kernel, one: Side, two: Side) -> Rows:
    p, q = one.law, two.law
    if not (is_points(p) and is_points(q)):
        rows, changes = means_over(kernel, p, q)
        return Rows(rows, float(p.weights @ rows), 0.0, float(p.weights @ changes))
    (x, a), (y, b) = weighted_points(p), weighted_points(q)
    rows, squares = row_sums(kernel, x, y, b)
    if one is two and one.drawn:
        rows, squares = _others(kernel, rows, squares)
    return Rows(rows, float(a @ rows), float(a @ squares), 0.0)


def _rows_on_device(kernel: Kernel, x: Any, y: Any) -> Rows:
    """The same of samples (n, d) and (m, d) there; weights are ones, which float32 does not round."""
    from refdiff.kernels.cuda.device import cupy  # late: nothing but GPUs needs it

    rows, squares = (part / len(y) for part in row_sums(kernel, x, y, cupy().ones(len(y), dtype=y.dtype)))
    if x is y:
        rows, squares = _others(kernel, rows, squares)
    return Rows(rows, float(rows.mean()), float(squares.mean()), 0.0)


def _others(kernel: Kernel, rows: Any, squares: Any) -> tuple[Any, Any]:
    """Means (n,) of a kernel and of its square without the pairs of a draw with itself."""
    n = len(rows)
    return (rows - kernel.at_zero / n) * (n / (n - 1)), (squares - kernel.at_zero**2 / n) * (n / (n - 1))


def _left_within(own: Rows) -> float:
    """z_xx without bias, from U-centred values (Szekely and Rizzo); infinite where fewer than four points are seen."""
    n = len(own.rows)
    if n < 4:
        return np.inf
    rows = float(own.rows @ own.rows) / n
    total = own.square - 2 * (n - 1) / (n - 2) * rows + n / (n - 2) * own.mean**2
    return max(float(total * (n - 1) / (n - 3)), 0.0)


def _left_between(rows: Rows, columns: Rows) -> float:
    """z_xy without bias: of a table of n x m entries, n and m at least 2, without the means of rows and columns."""
    n, m = len(rows.rows), len(columns.rows)
    total = rows.square - float(rows.rows @ rows.rows) / n - float(columns.rows @ columns.rows) / m + rows.mean**2
    return max(float(total * n * m / ((n - 1) * (m - 1))), 0.0)
