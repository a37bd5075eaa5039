"""Pictures of samplers' errors: against evaluations, and against steps with the slope of an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array, real_scalar
from refdiff.plotting.colours import PALETTE
from refdiff.plotting.fields import increasing
from refdiff.samplers.compare import Measured
from refdiff.samplers.order import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^v<>ph*X"  # 11, and 7 colours: 77 pairs before one comes again
ROUNDING = 1e-12  # what `measure_order` takes for rounding
WIDE = 1.4  # a slope triangle spans at least this ratio of steps


def work_precision(axes: Axes, rows: Sequence[Measured]) -> Axes:
    """W2 against evaluations, both on logarithmic axes, one line for each sampler.

    Args:
        axes: what is drawn on.
        rows: distances of `refdiff.samplers.compare.work_precision`; those that are 0 or missing are left out.

    Raises:
        ValueError: nothing to plot.
    """
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.wasserstein is not None and 0 < row.wasserstein < np.inf:
            lines.setdefault(row.sampler, []).append((row.nfe, row.wasserstein))
    if not lines:
        raise ValueError("rows must hold at least one distance above 0 to be plotted")
    # the legend from the worst to the best at the most evaluations, as the lines end on the right
    for i, name in enumerate(sorted(lines, key=lambda name: -lines[name][-1][1])):
        nfe, errors = zip(*lines[name], strict=True)
        color, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        axes.loglog(nfe, errors, marker=marker, color=color, linestyle="-", label=name)
    counts = sorted({nfe for line in lines.values() for nfe, _ in line})
    _count_ticks(axes, counts)
    axes.grid(alpha=0.25)
    axes.set_xlabel("function evaluations")
    axes.set_ylabel(r"$W_2$ to the exact law")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes


def convergence(
    axes: Axes,
    steps: ArrayLike,
    errors: ArrayLike,
    *,
    label: str = "",
    order: float | str | None = None,
    color: str | None = None,
    floor: float = ROUNDING,
) -> Axes:
    """Errors against numbers of steps, both on logarithmic axes, with a triangle error ~ steps^-order beneath.

    Args:
        axes: what is drawn on.
        steps: numbers of steps, increasing, shape (n,).
        errors: shape (n,); those that are 0 are left out.
        label: of the line in a legend.
        order: p of the triangle, "fit" for the one that `measure_order` finds in these errors, or None for no triangle.
        color: of the line; the next of the palette where left out.
        floor: errors below it may be rounding and have no part in the fit.

    Raises:
        ValueError: shapes that do not fit, steps that are not above 0 or do not increase, a negative error, none above
            0, or fewer than two above the floor for a fit.
    """
    from matplotlib import rcParams

    counts, found = increasing("steps", steps), real_array("errors", errors, ndim=(1,))
    if found.shape != counts.shape or (found < 0).any() or not (found > 0).any():
        raise ValueError(f"errors must be {len(counts)} numbers >= 0, not all 0, got {found}")
    if counts[0] <= 0:
        raise ValueError(f"steps must be above 0, got {counts[0]}")
    if order is not None and order != "fit":
        order = real_scalar("order", order)
    elif order == "fit":
        order = fit(counts.tolist(), found.tolist(), real_scalar("floor", floor, low=0.0), 4).order
    shade = color or PALETTE[len(axes.lines) % len(PALETTE)]
    marker = MARKERS[len(axes.lines) % len(MARKERS)]
    seen = found > 0
    axes.loglog(counts[seen], found[seen], marker=marker, color=shade, linestyle="-", label=label or None)
    if order is not None:
        _triangle(axes, counts[seen], found[seen], float(order), shade, floor)
    axes.grid(alpha=0.25, linewidth=rcParams["grid.linewidth"])
    axes.set_xlabel("steps")
    axes.set_ylabel("error")
    return axes


def _triangle(axes: Axes, steps: Array, errors: Array, order: float, color: str, floor: float) -> None:
    """A triangle of slope -order beneath the last errors that are no rounding; its sides are marked 1 and the order."""
    from matplotlib import rcParams

    above = np.flatnonzero(errors > floor)
    last = max(int(above[-1]) if above.size else len(steps) - 1, min(1, len(steps) - 1))
    right = float(steps[last])
    before = np.flatnonzero(steps <= right / WIDE)
    first = int(before[-1]) if before.size else 0
    left = float(steps[first]) if first != last else right / 2
    fall = (right / left) ** -order
    high = 0.5 * min(float(errors[first]), float(errors[last]) / fall)
    corners = [(left, high), (right, high * fall), (left, high * fall)]
    axes.fill(*np.transpose(corners), facecolor=color, edgecolor=color, alpha=0.25, linewidth=0.0)
    small = {"fontsize": 0.8 * rcParams["font.size"], "color": "0.2", "textcoords": "offset points"}
    axes.annotate(f"{order:.3g}", (left, high * fall**0.5), (-3, 0), ha="right", va="center", **small)
    axes.annotate("1", ((left * right) ** 0.5, high * fall), (0, -3), ha="center", va="top", **small)


def _count_ticks(axes: Axes, counts: Sequence[int]) -> None:
    """Ticks at the counts themselves, those left out that would run into the one before."""
    shown = [n for i, n in enumerate(counts) if i == 0 or n / counts[i - 1] > 1.15]
    axes.set_xticks(shown, [str(n) for n in shown])
    axes.xaxis.minorticks_off()
