"""refdiff's own tables as functions of other people's calling conventions, right and broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refdiff.samplers import Tableau


def loop(table: Tableau, model: Callable[[Any, float], Any], x: Any, normal: Callable[[], Any]) -> Any:
    """A table run as a loop, in the arithmetic of x."""
    states, outputs, normals = [x], {}, []
    for k in range(table.stages):
        while len(normals) < table.normals[k]:
            normals.append(normal())
        if k:
            rows = table.row(k)
            terms = [(states[j], w) for j, w in rows[0]] + [(outputs[j], w) for j, w in rows[1]]
            terms += [(normals[m], w) for m, w in rows[2]]
            states.append(sum((float(np.ravel(w)[0]) * part for part, w in terms), 0 * x))
        if table.evaluated[k]:
            outputs[k] = model(states[k], float(table.times[k]))
    return states[-1]


def broken(table: Tableau, part: str = "outputs", factor: float = 1.01) -> Tableau:
    """The table with the newest weight of one step, the last that has one, multiplied."""
    from dataclasses import replace

    weights = getattr(table, part).copy()
    k = max(int(k) for k in np.flatnonzero(np.any(weights.reshape(len(weights), -1), axis=1)))
    i = int(np.flatnonzero(weights[k].reshape(weights.shape[1], -1).any(axis=1))[0])
    weights[k, i] *= factor
    return replace(table, **{part: weights})
