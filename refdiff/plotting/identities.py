"""Pictures of what identities scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from refdiff.arguments import Array
from refdiff.plotting.colours import FIRST, LAST
from refdiff.plotting.styles import dot, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 1e-17  # what smaller errors are drawn as: numbers at 0.1 are 1.4e-17 apart


class Kind(Protocol):
    """A kind of evidence."""

    @property
    def name(self) -> str:
        """Of the kind."""


class Checked(Protocol):
    """An identity."""

    @property
    def evidence(self) -> Kind:
        """The kind of evidence."""

    @property
    def tolerance(self) -> float:
        """On the scaled error."""


class Scored(Protocol):
    """What an identity scored."""

    @property
    def identity(self) -> Checked:
        """Which one."""

    @property
    def error(self) -> float:
        """The worst scaled error."""

    @property
    def control(self) -> float:
        """The error of the negative control, in tolerances."""


def scores(axes: Axes, outcomes: Sequence[Scored]) -> Axes:
    """The error, the tolerance and the negative control of every identity, a row each, by kind of evidence.

    An error above its tolerance has a square around it; an infinite one, of a check that broke, is drawn at the end.
    The legend is beneath the axes, where a constrained layout, as `style` has it, makes room.

    Args:
        axes: what is drawn on.
        outcomes: of identities, as `refdiff.validation.runner.run_all` gives them.

    Raises:
        ValueError: no outcomes, an error that is no number, or a tolerance that is not above 0.
    """
    from matplotlib import rcParams

    found = sorted(outcomes, key=lambda o: (o.identity.evidence.name, o.identity.tolerance, o.error))
    error, tolerance, control = _numbers(found)
    ink = rcParams["text.color"]
    rows = np.arange(len(found))
    failed = error > tolerance
    axes.hlines(rows, error, control, color="0.88", linewidth=thin())
    axes.plot(error, rows, "o", markersize=1.5 * dot(), color=FIRST, label="worst error")
    axes.plot(tolerance, rows, "|", markersize=2 * dot(), color=ink, label="tolerance")
    axes.plot(control, rows, "x", markersize=1.5 * dot(), color=LAST, label="negative control")
    if failed.any():
        axes.plot(error[failed], rows[failed], "s", markersize=4 * dot(), color=ink, fillstyle="none", label="failed")
    kinds = np.array([o.identity.evidence.name for o in found])
    names = sorted(set(kinds.tolist()))
    axes.set_yticks([float(rows[kinds == name].mean()) for name in names], names)
    axes.tick_params(axis="y", length=0)
    axes.hlines(np.flatnonzero(kinds[1:] != kinds[:-1]) + 0.5, LEAST, control.max(), color="0.6", linewidth=thin())
    axes.set_xscale("log")
    axes.set_xlabel("scaled error")
    # beneath the ticks and the name of the axis, whatever its height
    beneath = 3.2 * rcParams["font.size"] * axes.figure.dpi / 72 / axes.get_window_extent().height
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -beneath), ncols=4, frameon=False)
    return axes


def _numbers(found: Sequence[Scored]) -> tuple[Array, Array, Array]:
    """Errors, tolerances and controls, each (n,), such as a logarithmic axis can show.

    Raises:
        ValueError: none, an error that is no number, or a tolerance that is not above 0.
    """
    if not found:
        raise ValueError("outcomes must hold at least one, got none")
    columns = [(o.error, o.identity.tolerance, o.control * o.identity.tolerance) for o in found]
    error, tolerance, control = np.array(columns, dtype=np.float64).T
    if np.isnan(error).any() or np.isnan(control).any():
        raise ValueError("outcomes must hold errors that are numbers, got nan")
    if not (tolerance > 0).all():
        raise ValueError(f"outcomes must have tolerances above 0, got {tolerance.min()}")
    known = np.concatenate([error, control, tolerance])
    end = 10.0 * float(known[np.isfinite(known)].max())
    return np.clip(error, LEAST, end), tolerance, np.clip(control, LEAST, end)
