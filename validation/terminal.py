r"""What a run of the identities found, as a table for a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from refdiff.validation.identity import Identity
from refdiff.validation.report import Run, brief, remark
from refdiff.validation.runner import Outcome

# Below this width the kind of evidence is abbreviated; lines longer than WIDEST are hard to follow.
WIDE, WIDEST = 110, 140
SHORT = {"rounding": "round", "quadrature": "quad", "derivative": "deriv", "Monte Carlo": "MC"}
STYLES = {"ok": "green", "FAILED": "bold red", "BLIND": "bold magenta", "n/a": "dim"}


def table(run: Run, width: int) -> Iterator[RenderableType]:
    """Outcomes by topic, then what failed, then the verdict, in lines of this width."""
    yield _table([], width, header=True)
    for topic, outcomes in run.topics.items():
        yield Padding(Text(topic, style="bold"), (1, 0, 0, 0))
        yield _table(outcomes, width)
    yield Text()
    for one in run.failures:
        yield Text(f"{one.verdict} {one.identity.name}: {remark(one)}", style=STYLES[one.verdict])
    yield Text(run.verdict, style="bold red" if run.failures or run.interrupted else "bold green")


def _table(outcomes: Iterable[Outcome], width: int, header: bool = False) -> Table:
    """Rows whose columns stand where those of the other topics do."""
    narrow = width < WIDE
    found = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, width=min(width, WIDEST), show_header=header)
    found.add_column("identity", ratio=1)
    found.add_column("evidence" if not narrow else "by", width=5 if narrow else 11)
    for name, size in {"error": 7, "tol.": 5, "control": 7, "cases": 5, "s": 5}.items():
        found.add_column(name, width=size, justify="right")
    found.add_column("", width=6)
    for one in outcomes:
        found.add_row(*_cells(one, narrow))
    return found


def _cells(one: Outcome, narrow: bool) -> list[Text]:
    ran, kind = one.verdict != "n/a", one.identity.evidence.name
    numbers = (
        brief(one.error),
        brief(one.identity.tolerance),
        brief(one.control),
        f"{one.cases}",
        f"{one.seconds:.1f}",
    )
    texts = [one.identity.name, SHORT.get(kind, kind) if narrow else kind, *(numbers if ran else [""] * 5)]
    return [Text(text, style="" if ran else "dim") for text in texts] + [Text(one.verdict, style=STYLES[one.verdict])]


def listing(chosen: Iterable[Identity]) -> Iterator[RenderableType]:
    """Identities by topic, with the items each covers and refutes."""
    topics: dict[str, list[Identity]] = {}
    for one in chosen:
        topics.setdefault(one.topic, []).append(one)
    for topic, identities in topics.items():
        yield Text(f"{topic} ({len(identities)})", style="bold")
        for one in identities:
            yield Padding(Text(one.name), (0, 0, 0, 2))
            refuted = f"; refutes the printed {', '.join(one.refutes)}" if one.refutes else ""
            yield Padding(Text(f"{', '.join(one.covers) or 'no item'}{refuted}", style="dim"), (0, 0, 0, 6))
