"""Pictures of what identities scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from refdiff.plotting.colours import FIRST, LAST
from refdiff.plotting.styles import dot, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 1e-17  # what smaller errors are drawn as: half the spacing of numbers at 0.1


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

    Args:
        axes: what is drawn on.
        outcomes: of identities, as `refdiff.validation.runner.run_all` gives them.

    Raises:
        ValueError: no outcomes.
    """
    found = sorted(outcomes, key=lambda o: (o.identity.evidence.name, o.identity.tolerance, o.error))
    if not found:
        raise ValueError("outcomes must hold at least one, got none")
    rows = np.arange(len(found))
    tolerance = np.array([o.identity.tolerance for o in found])
    error = np.maximum([o.error for o in found], LEAST)
    control = np.maximum(np.array([o.control for o in found]) * tolerance, LEAST)
    axes.hlines(rows, error, control, color="0.88", linewidth=thin())
    axes.plot(error, rows, "o", markersize=1.5 * dot(), color=FIRST, label="worst error")
    axes.plot(tolerance, rows, "|", markersize=2 * dot(), color="black", label="tolerance")
    axes.plot(control, rows, "x", markersize=1.5 * dot(), color=LAST, label="negative control")
    kinds = [o.identity.evidence.name for o in found]
    middles = {kind: float(np.mean([row for row, one in enumerate(kinds) if one == kind])) for kind in kinds}
    axes.set_yticks([*middles.values()], [*middles])
    axes.tick_params(axis="y", length=0)
    for row in range(1, len(found)):
        if kinds[row] != kinds[row - 1]:
            axes.axhline(row - 0.5, color="0.75", linewidth=thin())
    axes.set_xscale("log")
    axes.set_xlabel("scaled error")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return axes
