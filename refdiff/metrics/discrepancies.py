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

from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.expectations import Estimate
from refdiff.metrics.compared import Compared, Side, is_points, sides, weighted_points
from refdiff.metrics.pairs import row_sums
from refdiff.metrics.similarities import DISTANCE, Kernel, means_over

SEEN = 1024  # points whose distances have the median: half a million distances


def mmd_squared(p: Compared, q: Compared, kernel: Kernel) -> Estimate:
    """MMD^2(p, q) of laws, or samples (n, d) of them.

    Args:
        p: a law or a sample.
        q: a law or a sample.
        kernel: as of `gaussian_kernel` and others.

    Returns:
        The error is 0 in closed form, what coarser scales change, or the standard error of samples.

    Raises:
        TypeError: p or q is neither a law nor an array of real numbers, or the kernel is none.
        ValueError: dimensions differ, or a sample has fewer than two points; of fewer than four the error is infinite.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a Kernel, got {kernel!r}")
    first, second = sides(p, q)
    for name, side in (("p", first), ("q", second)):
        if side.drawn and side.law.count < 2:
            raise ValueError(f"{name} must be a law or a sample of at least two points, got one")
    xx, yy, xy = (_rows(kernel, one, two) for one, two in ((first, first), (second, second), (first, second)))
    yx = _rows(kernel, second, first) if second.drawn else xy
    value = xx.mean + yy.mean - 2 * xy.mean
    change = xx.change + yy.change + 2 * xy.change
    if not (first.drawn or second.drawn):
        exact = kernel.name == "gaussian" or (is_points(first.law) and is_points(second.law))
        return Estimate(max(value, 0.0), 0.0 if exact else change, "closed" if exact else "quadrature")
    counts = [side.law.count if side.drawn else np.inf for side in (first, second)]
    variance = 0.0
    both = first.drawn and second.drawn
    within = 4 * _left_between(xy, yx) / (counts[0] * counts[1]) if both else 0.0
    for side, n, own, across in ((first, counts[0], xx, xy), (second, counts[1], yy, yx)):
        if side.drawn:
            within += 2 * _left_within(own) / (n * (n - 1))
            variance += 4 / n * float((own.rows - across.rows).var(ddof=1))
    total = max(variance - 2 * within, 0.0) + within if np.isfinite(within) else np.inf
    return Estimate(value, float(np.sqrt(total)) + change, "monte carlo")


def energy_distance(p: Compared, q: Compared) -> Estimate:
    """2 E |x - y| - E |x - x'| - E |y - y'| of laws, or samples (n, d) of them; on the line 2 int (F - G)^2.

    Args:
        p: a law or a sample.
        q: a law or a sample.

    Returns:
        The error as of `mmd_squared`, whose kernel is -|x - y| here.
    """
    return mmd_squared(p, q, DISTANCE)


def median_distance(p: Compared, q: Compared) -> float:
    """The median of the distances between two points of p and q together: a length for a kernel.

    Of many points an even selection is taken, so that the same points have the same length. A law counts by its means.

    Args:
        p: a law or a sample (n, d).
        q: a law or a sample (m, d).

    Raises:
        ValueError: more than half of the distances are 0.
    """
    from scipy.spatial.distance import pdist  # late: a quarter of the time to import this package

    both = np.concatenate([side.law.means for side in sides(p, q)])
    seen = both[np.unique(np.linspace(0, len(both) - 1, SEEN).astype(np.intp))]
    found = float(np.median(pdist(seen)))
    if found == 0:
        raise ValueError("p and q must be points of which most differ, got a median distance of 0")
    return found


# ---------------------------------------------------------------------- rows of a kernel


class Rows(NamedTuple):
    """E k(x, y) over y, for every x.

    Attributes:
        rows: the means, shape (n,), over all other y where x and y are of one sample.
        mean: their mean.
        square: E k^2; 0 where it is not wanted.
        change: what coarser scales change of the mean.
    """

    rows: Array
    mean: float
    square: float
    change: float


def _rows(kernel: Kernel, one: Side, two: Side) -> Rows:
    p, q = one.law, two.law
    if not (is_points(p) and is_points(q)):
        rows, changes = means_over(kernel, p, q)
        return Rows(rows, float(p.weights @ rows), 0.0, float(p.weights @ changes))
    (x, a), (y, b) = weighted_points(p), weighted_points(q)
    rows, squares = row_sums(kernel, x, y, b)
    if one is two and one.drawn:  # without the pairs of a draw with itself
        n = len(x)
        rows, squares = (
            (part - np.power(kernel.at_zero, k) / n) * (n / (n - 1)) for k, part in ((1, rows), (2, squares))
        )
    return Rows(rows, float(a @ rows), float(a @ squares), 0.0)


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
