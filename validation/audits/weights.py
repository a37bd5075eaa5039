r"""What a sampler's states are made of, beside what they should be made of: the numbers of a picture.

Every state that is seen (shown to the network, or the output) is a sum of the start, the network's answers and normals.
A row of `claimed` is what the claimed step makes of the sampler's own earlier states, so that a row differs only where
its own step is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refdiff.validation.audits.steps import Comparison

MOST = 14, 30  # rows and columns: what a picture has room for


def weights(comparison: Comparison) -> dict[str, Any]:
    """The weights of the states around the first wrong one.

    Returns:
        rows, columns: the names of the states and of what they are made of.
        found, claimed: the weights, a list for each row.
        left_out: how many rows and columns are more than a picture has room for.
    """
    steps, words, nfe = comparison.steps, comparison.words, len(comparison.heard.times)
    first = next((i for i, step in enumerate(steps) if step.wrong), 0)
    # a wrong step last, with those before it, where not all have room
    start = max(0, min(first - 2, len(steps) - MOST[0]))
    shown = steps[start : start + MOST[0]]
    found, claimed = (np.array(part) for part in ([s.row for s in shown], [s.right for s in shown]))
    names = ["start", *(f"answer {n}" for n in range(1, nfe + 1))]
    names += [f"own normal {(c.heard or 0) + 1}" if c.table is None else f"normal {c.table + 1}"
              for c in comparison.drawn]  # fmt: skip
    used = np.flatnonzero((found != 0).any(axis=0) | (claimed != 0).any(axis=0))
    kept = np.sort(used[np.argsort(-np.abs(found - claimed)[:, used].max(axis=0), kind="stable")][: MOST[1]])
    return {
        "rows": [f"evaluation {n}" if (n := int(words.evaluations[s.seen])) else "output" for s in shown],
        "columns": [names[i] for i in kept],
        "found": found[:, kept].tolist(),
        "claimed": claimed[:, kept].tolist(),
        "left_out": [len(steps) - len(shown), len(used) - len(kept)],
    }
