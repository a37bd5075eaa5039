r"""What a run of the identities found, as one HTML page for people.

The page stands alone: formulas are MathML, pictures are inline SVG, nothing is fetched. A picture shows, on a
logarithmic axis in units of the identity's tolerance, how far the two sides were apart (bar), the tolerance itself
(line at 1), and by how much the negative control missed (diamond, beyond the line at REJECTION).
"""

from __future__ import annotations

import math
from collections import Counter

from refdiff.validation import ledger
from refdiff.validation.identity import REJECTION
from refdiff.validation.pages import formula, rendered
from refdiff.validation.report import Run, remark


def page(run: Run) -> str:
    """The HTML page of a run."""
    rows = ledger.rows()
    return rendered(
        "report.html",
        [],
        {"formula": formula, "place": place, "remark": remark},
        run=run,
        rejection=REJECTION,
        decades=DECADES,
        width=WIDTH,
        states=ledger.STATES,
        totals=Counter(row.state for row in rows),
        sources={name: Counter(row.state for row in rows if row.source == name) for name in ledger.SOURCES},
        rows=rows,
    )


# The axis of the pictures: powers of ten of the tolerance, and its length in pixels.
DECADES = (-6, 16)
WIDTH = 220


def place(score: float) -> float:
    """Where a score, a number of tolerances, is on the axis, whose ends stand for what lies beyond."""
    low, high = DECADES
    power = math.log10(score) if 0 < score < math.inf else low if score == 0 else high
    return round(WIDTH * (min(max(power, low), high) - low) / (high - low), 1)
