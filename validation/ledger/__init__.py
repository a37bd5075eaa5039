r"""The ledger: what refdiff says about each of the 835 numbered items of the five source texts.

    checked          an identity covers the item (the registry says which)
    refuted          an identity rejects the item's printed form and proves the corrected one
    implemented      a function or class is the item (notes.tsv names it); no identity compares it yet
    not computable   nothing in the item can be computed (notes.tsv says why)
    open             none of these yet

Two files are written by hand: index.tsv is the list of items, notes.tsv holds those implemented and not computable.
Everything else is derived from the registry, so the ledger cannot fall behind it.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from importlib import resources

STATES = ("checked", "refuted", "implemented", "not computable", "open")

# The prefix of an item's id says its text.
SOURCES = {
    "ddim-redux": ("RDX",),
    "mathintro": ("DMI",),
    "physics": ("PHY",),
    "principles": ("PODA", "PODB", "PODC8", "PODC9", "PODC10", "PODD"),
    "topics": ("TOPA", "TOPB"),
}


@dataclass(frozen=True)
class Row:
    """One item: id, name, kind and file from the index; its state; and by which checks, function or reason."""

    id: str
    name: str
    kind: str
    file: str
    state: str
    by: str

    @property
    def source(self) -> str:
        """The text the item is from, a key of SOURCES."""
        prefix = self.id.split("-")[0]
        return next(name for name, prefixes in SOURCES.items() if prefix in prefixes)


def index() -> list[dict[str, str]]:
    """The items as listed: id, name, kind, file."""
    return _table("index.tsv")


def notes() -> list[dict[str, str]]:
    """The rows written by hand: id, state (implemented or not computable), by."""
    return _table("notes.tsv")


def rows() -> list[Row]:
    """One row an item, in the order of the index.

    Examples:
        >>> from refdiff.validation.ledger import rows
        >>> print(len(rows()), rows()[0].id)
        835 RDX-01
    """
    from refdiff.validation.runner import registry

    checks, refutations = defaultdict(list), defaultdict(list)
    for one in registry().values():
        for item in one.covers:
            checks[item].append(one.name)
        for item in one.refutes:
            refutations[item].append(one.name)
    written = {note["id"]: note for note in notes()}

    def row(item: dict[str, str]) -> Row:
        name = item["id"]
        if name in refutations:
            state, by = "refuted", "; ".join(dict.fromkeys(refutations[name] + checks[name]))
        elif name in checks:
            state, by = "checked", "; ".join(checks[name])
        elif name in written:
            state, by = written[name]["state"], written[name]["by"]
        else:
            state, by = "open", ""
        return Row(name, item["name"], item["kind"], item["file"], state, by)

    return [row(item) for item in index()]


def _table(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
