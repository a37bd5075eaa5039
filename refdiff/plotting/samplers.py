"""Pictures of samplers' errors: against evaluations, and against steps with the slope of an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_array, real_scalar
from refdiff.plotting.colours import PALETTE
from refdiff.plotting.fields import increasing
from refdiff.samplers.compare import Measured
from refdiff.samplers.order import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^v<>ph*X"
DASHES = ("-", "--", ":")  # one for each round through the palette
ROUNDING = 1e-12  # what `measure_order` takes for rounding
FITTED = 4  # over so many numbers of steps, as by `measure_order`
WIDE = 1.4  # a slope triangle spans at least this ratio of steps
APART = 1.15  # ratio of neighbours whose ticks do not run into each other
BESIDE = 0.1  # room for the order beside a triangle, in widths of what is drawn
ABOVE = 2.0  # where a triangle ends, in errors beneath it


def work_precision(axes: Axes, rows: Sequence[Measured]) -> Axes:
    """W2 against evaluations, both on logarithmic axes, one line for each sampler.

    The legend is to the right of the axes, where a constrained layout, as `style` has it, makes room.

    Args:
        axes: what is drawn on.
        rows: distances of `refdiff.samplers.compare.work_precision`; those that are 0, infinite or missing are left
            out.

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
        axes.loglog(*zip(*lines[name], strict=True), label=name, **_look(i, None))
    _finish(axes, "function evaluations", r"$W_2$ to the exact law")
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
    """Errors against numbers of steps, both on logarithmic axes, with a triangle error ~ steps^-order above.

    Args:
        axes: what is drawn on.
        steps: numbers of steps, increasing, shape (n,).
        errors: shape (n,), inf where a sampler diverges; those that are 0 or inf are left out.
        label: of the line in a legend.
        order: p of the triangle, "fit" for the one that `measure_order` finds in these errors, or None for no triangle.
        color: of the line; the next of the palette where left out.
        floor: errors of this size and below may be rounding: they have no part in the fit, and no triangle.

    Raises:
        ValueError: shapes that do not fit, steps that are not above 0 or do not increase, a negative error, none above
            0 and finite, an order that is neither a number nor "fit", or fewer than two errors above the floor for a
            fit.

    Examples:
        >>> import numpy as np
        >>> from matplotlib.figure import Figure
        >>> from refdiff.plotting import convergence
        >>> steps = np.array([4, 8, 16, 32, 64])
        >>> axes = convergence(Figure().subplots(), steps, 3 / steps**2, order="fit")
        >>> print([text.get_text() for text in axes.texts])  # the sides of the triangle: 2 down for 1 along
        ['2.00', '1']
    """
    counts, found = increasing("steps", steps), real_array("errors", errors, ndim=(1,), finite=False)
    seen = (found > 0) & (found < np.inf)
    if found.shape != counts.shape or not (found >= 0).all() or not seen.any():
        raise ValueError(f"errors must be {len(counts)} numbers >= 0 like steps, not all 0 or inf, got {found}")
    if counts[0] <= 0:
        raise ValueError(f"steps must be above 0, got {counts[0]}")
    slope, said = _slope(counts[found < np.inf], found[found < np.inf], order, real_scalar("floor", floor, low=0.0))
    (line,) = axes.loglog(counts[seen], found[seen], label=label or None, **_look(len(axes.lines), color))
    axes.margins(x=BESIDE)
    if slope is not None:
        _triangle(axes, counts[seen], found[seen], slope, said, line.get_color(), floor)
    _finish(axes, "steps", "error")
    return axes


def _slope(steps: Array, errors: Array, order: float | str | None, floor: float) -> tuple[float | None, str]:
    """The order of a triangle, and its name.

    Raises:
        ValueError: it is neither a number nor "fit", or fewer than two errors are above the floor for a fit.
    """
    if order is None:
        return None, ""
    if order != "fit":
        if isinstance(order, str):
            raise ValueError(f"order must be a number or 'fit', got {order!r}")
        number = real_scalar("order", order)
        return number, f"{number:g}"
    if (usable := int((np.cumsum(errors <= floor) == 0).sum())) < 2:
        raise ValueError(f"errors must have two above the floor {floor} before one below it for a fit, got {usable}")
    found = fit(steps.tolist(), errors.tolist(), floor, FITTED).order
    return found, f"{found:.2f}"


def _triangle(axes: Axes, steps: Array, errors: Array, order: float, said: str, color: Any, floor: float) -> None:
    """A triangle of slope -order above the last errors that are no rounding; its sides are marked 1 and the order."""
    from matplotlib import rcParams

    above = np.flatnonzero(errors > floor)
    last = int(above[-1]) if above.size else len(steps) - 1
    before = np.flatnonzero(steps <= steps[last] / WIDE)
    first = int(before[-1]) if before.size else 0
    left, right = float(steps[first]), float(steps[last])
    if first == last:  # nothing to span: a single error has a triangle to its left
        left = right / 2
    fall = (right / left) ** -order
    high = ABOVE * float(max(errors[first] if first != last else 0.0, errors[last] / fall))
    top, upright = (high, right) if fall <= 1 else (high * fall, left)
    axes.fill(*np.transpose([(left, high), (right, high * fall), (upright, top)]), facecolor=color, alpha=0.25, lw=0.0)
    words: dict[str, Any] = {"fontsize": 0.8 * rcParams["font.size"], "textcoords": "offset points"}
    aside, side = (3, "left") if fall <= 1 else (-3, "right")
    axes.annotate(said, (upright, high * fall**0.5), (aside, 0), ha=side, va="center", **words)
    axes.annotate("1", ((left * right) ** 0.5, top), (0, 2), ha="center", va="bottom", **words)


def _look(i: int, color: str | None) -> dict[str, Any]:
    """Of the i-th line: colour and marker, which differ in grey too."""
    rounds, place = divmod(i, len(PALETTE))
    dashes = DASHES[rounds % len(DASHES)]
    return {"color": color or PALETTE[place], "marker": MARKERS[i % len(MARKERS)], "linestyle": dashes}


def _finish(axes: Axes, along: str, up: str) -> None:
    """Ticks at the counts of all lines, but those that would run into the one before; a grid, and names."""
    lines = [line for line in axes.lines if line.get_transform() is axes.transData]  # axhline spans 0 to 1 of the axes
    counts = sorted({float(n) for line in lines for n in np.asarray(line.get_xdata(), dtype=float) if n > 0})
    shown: list[float] = []
    for n in counts:
        if not shown or n > APART * shown[-1]:
            shown.append(n)
    axes.set_xticks(shown, [f"{n:g}" for n in shown])
    axes.xaxis.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set_xlabel(along)
    axes.set_ylabel(up)
