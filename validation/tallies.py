r"""What the page of a run counts: outcomes by topic, evidence, source text and state, and items of the ledger."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from refdiff.validation import ledger
from refdiff.validation.identity import REJECTION, Evidence, Identity
from refdiff.validation.report import Run, brief
from refdiff.validation.runner import Outcome

STATES = {"ok": "ok", "FAILED": "failed", "BLIND": "blind", "n/a": "idle"}  # a verdict as a word of the address
WORDS = {"ok": "ok", "failed": "FAILED", "blind": "BLIND", "idle": "n/a", "refutes": "refutes a printed formula"}
DRAWN = dict(zip(("good", "bad", "blue", "", "empty"), ledger.STATES, strict=True))  # states of items by their looks
NEAREST = 5  # how many of the worst are named


def ordered(run: Run) -> dict[str, list[Outcome]]:
    """The outcomes of a run by topic: topics with failures first, and failures first in a topic; else as they ran."""
    found = {topic: sorted(outcomes, key=lambda one: one.passed) for topic, outcomes in run.topics.items()}
    return dict(sorted(found.items(), key=lambda item: all(one.passed for one in item[1])))


def found_and_expected(one: Outcome) -> tuple[str, str]:
    """What a failing outcome, one, shows, and what it had to show."""
    bound = f"the two sides at most {brief(one.identity.tolerance)} apart"
    if one.raised:
        return one.raised, "two sides that can be compared"
    if one.verdict == "BLIND":
        return f"the negative control misses by {brief(one.control)} tolerances", f"at least {REJECTION:g} tolerances"
    if not math.isfinite(one.error):
        return "a value that is not a finite number", bound
    return f"{brief(one.error)} apart, {brief(one.error / one.identity.tolerance)} tolerances", bound


def sources_of(one: Outcome) -> list[str]:
    """The texts whose items an outcome, one, covers or refutes, in the order of the ledger."""
    prefixes = {item.split("-")[0] for item in one.identity.covers + one.identity.refutes}
    return [name for name, those in ledger.SOURCES.items() if prefixes & set(those)]


def states_of(one: Outcome) -> list[str]:
    """The state of an outcome, one, and whether it holds and so refutes what is printed: keys of WORDS."""
    return [STATES[one.verdict], *["refutes"] * bool(one.verdict == "ok" and one.identity.refutes)]


@dataclass(frozen=True)
class Kind:
    """What the identities of one kind of evidence scored.

    Attributes:
        evidence: the kind.
        count, failed: how many identities, and how many of them fail.
        error: the worst error, in tolerances; None where nothing ran.
        control: the weakest negative control, in tolerances; None where nothing ran.
    """

    evidence: Evidence
    count: int
    failed: int
    error: float | None
    control: float | None


def kinds(outcomes: Sequence[Outcome]) -> list[Kind]:
    """A row for each kind of evidence of these outcomes, the strictest first."""
    found: dict[Evidence, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.identity.evidence, []).append(one)

    def row(evidence: Evidence, those: list[Outcome]) -> Kind:
        ran = [one for one in those if one.verdict != "n/a"]
        error = max((one.error / one.identity.tolerance for one in ran), default=None)
        control = min((one.control for one in ran), default=None)
        return Kind(evidence, len(those), sum(not one.passed for one in those), error, control)

    return [row(evidence, found[evidence]) for evidence in sorted(found, key=lambda kind: kind.tolerance)]


@dataclass(frozen=True, eq=False)
class Text:
    """One of the source texts.

    Attributes:
        name: a key of `ledger.SOURCES`.
        count, failed: how many identities of the run speak of it, and how many of them fail.
        items: how many of its items are in which state.
        here: how many of its items this run checks, and how many it refutes.
    """

    name: str
    count: int
    failed: int
    items: Counter[str]
    here: Counter[str]

    @property
    def total(self) -> int:
        """How many items."""
        return self.items.total()

    @property
    def checked(self) -> int:
        """How many items an identity covers or refutes."""
        return self.items["checked"] + self.items["refuted"]

    @property
    def shares(self) -> list[tuple[str, str, int]]:
        """Looks, name and number of every state."""
        return [(looks, state, self.items[state]) for looks, state in DRAWN.items()]


def texts(outcomes: Sequence[Outcome], rows: Iterable[ledger.Row]) -> list[Text]:
    """A row for each source text, from outcomes and rows of the ledger."""
    items, here = ({name: Counter[str]() for name in ledger.SOURCES} for _ in range(2))
    refuted = {item for one in outcomes if one.verdict == "ok" for item in one.identity.refutes}
    ran = checks(one.identity for one in outcomes if one.verdict != "n/a")
    for row in rows:
        items[row.source][row.state] += 1
        if row.id in ran:
            here[row.source]["refuted" if row.id in refuted else "checked"] += 1

    def of(name: str) -> Text:
        those = [one for one in outcomes if name in sources_of(one)]
        return Text(name, len(those), sum(not one.passed for one in those), items[name], here[name])

    return [of(name) for name in ledger.SOURCES]


def nearest(outcomes: Iterable[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Of the outcomes that hold, those of the least margin: of error below tolerance, of control above 100."""
    held = [one for one in outcomes if one.verdict == "ok"]
    tight = sorted(held, key=lambda one: -one.error / one.identity.tolerance)
    return tight[:NEAREST], sorted(held, key=lambda one: one.control)[:NEAREST]


def checks(identities: Iterable[Identity]) -> dict[str, list[tuple[str, bool]]]:
    """By item, the names of these identities that cover it, and whether they refute its print."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for one in identities:
        for item in dict.fromkeys(one.refutes + one.covers):
            found.setdefault(item, []).append((one.name, item in one.refutes))
    return found


# ---------------------------------------------------------------------- filters

Options = list[tuple[str, str, int]]  # value, words and how many
Field = tuple[str, str, Options]  # key, label and options


def fields(outcomes: Sequence[Outcome]) -> list[Field]:
    """The filters of these outcomes."""
    known = [one.identity for one in outcomes]
    evidence = [kind.evidence.name for kind in kinds(outcomes)]
    return [
        ("source", "Source", _options((name for one in outcomes for name in sources_of(one)), ledger.SOURCES)),
        ("topic", "Topic", _options(one.topic for one in known)),
        ("evidence", "Evidence", _options((one.evidence.name for one in known), evidence)),
        ("state", "State", _options((state for one in outcomes for state in states_of(one)), WORDS, WORDS)),
    ]


def item_fields(rows: Sequence[ledger.Row]) -> list[Field]:
    """The filters of these rows of the ledger."""
    return [
        ("source", "Source", _options((row.source for row in rows), ledger.SOURCES)),
        ("state", "State", _options((row.state for row in rows), ledger.STATES)),
    ]


def _options(
    values: Iterable[str], order: Iterable[str] | None = None, words: Mapping[str, str] | None = None
) -> Options:
    """Every value, sorted or in a given order and in other words, and how often it is there."""
    counts = Counter(values)
    known = sorted(counts) if order is None else order
    return [(value, (words or {}).get(value, value), counts[value]) for value in known]
