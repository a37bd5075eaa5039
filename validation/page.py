r"""What a run of the identities found, as one HTML page for people.

The page stands alone: formulas are MathML, pictures are inline SVG, nothing is fetched. A picture shows, on a
logarithmic axis in units of the identity's tolerance, how far the two sides were apart (bar), the tolerance itself
(line at 1), and by how much the negative control missed (diamond, beyond the line at REJECTION). Failures come first.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from refdiff.validation import ledger, tallies
from refdiff.validation.drawn import summary
from refdiff.validation.identity import REJECTION, Check
from refdiff.validation.pages import anchors, formula, rendered
from refdiff.validation.report import Run, counted, remark
from refdiff.validation.runner import registry

OWN = ("main", "axis", "identities", "identities-none", "items", "items-none", "ledger")  # ids of the page itself


def page(run: Run) -> str:
    """The HTML page of a run."""
    rows = ledger.rows()
    topics = tallies.ordered(run)
    shown = [one for outcomes in topics.values() for one in outcomes]
    texts = tallies.texts(shown, rows)
    ids = anchors([*(f"topic {topic}" for topic in topics), *(one.identity.name for one in shown)], OWN)
    return rendered(
        "report.html",
        [],
        {
            "formula": formula,
            "place": place,
            "remark": remark,
            "states": tallies.states_of,
            "code": code,
            "counted": counted,
        },
        run=run,
        topics=topics,
        ids=ids,
        verdicts=Counter(one.verdict for one in shown),
        refuting=sum("refutes" in tallies.states_of(one) for one in shown),
        known=len(registry()),
        sources_of=tallies.sources_of,
        found_and_expected=tallies.found_and_expected,
        kinds=tallies.kinds(shown),
        texts=texts,
        here=sum(text.here.total() for text in texts),
        nearest=tallies.nearest(shown),
        fields=tallies.fields(shown),
        picture=summary(shown),
        rejection=REJECTION,
        decades=DECADES,
        width=WIDTH,
        rows=rows,
        item_fields=tallies.item_fields(rows),
        checks=tallies.checks({**registry(), **{one.identity.name: one.identity for one in shown}}.values()),
        looks=tallies.DRAWN,
        totals=Counter(row.state for row in rows),
    )


# ---------------------------------------------------------------------- code


class Code(NamedTuple):
    """The function of a check.

    Attributes:
        path: its file in the repository.
        first, last: its lines there.
        text: the lines.
        link: where to read them in the public repository, "" where none is known.
    """

    path: str
    first: int
    last: int
    text: str
    link: str


@cache
def code(check: Check) -> Code | None:
    """Where a check is written, without its decorator; None where no file has it."""
    try:
        lines, start = inspect.getsourcelines(check)
    except (OSError, TypeError):
        return None
    skipped = next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), 0)
    module = check.__module__
    path = module.removeprefix("refdiff.").replace(".", "/") + ".py"  # validation/ stands beside refdiff/
    first, last = start + skipped, start + len(lines) - 1
    known = repository() if module.startswith("refdiff.validation.") else ""
    link = f"{known}/blob/HEAD/{path}#L{first}-L{last}" if known else ""
    return Code(path, first, last, inspect.cleandoc("\n" + "".join(lines[skipped:])), link)


def repository() -> str:
    """The address of the public repository that the metadata of the package name, or ""."""
    urls: Any = metadata.metadata("refdiff").get_all("Project-URL") or []
    known = {name.strip().lower(): url.strip() for name, _, url in (one.partition(",") for one in urls)}
    found = next((known[name] for name in ("repository", "source", "source code") if name in known), "")
    return found.rstrip("/") if found.startswith("https://") else ""


# ---------------------------------------------------------------------- pictures

# The axis of the pictures: powers of ten of the tolerance, and its length in pixels.
DECADES = (-6, 16)
WIDTH = 220


def place(score: float) -> float:
    """Where a score, a number of tolerances, is on the axis, whose ends stand for what lies beyond."""
    low, high = DECADES
    power = math.log10(score) if 0 < score < math.inf else low if score == 0 else high
    return round(WIDTH * (min(max(power, low), high) - low) / (high - low), 1)
