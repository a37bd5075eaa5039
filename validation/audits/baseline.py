"""What is known to be wrong, in a file, so that only what is new fails.

A finding is known by its key (whose it is, question, place). One that the file has and the run does not is fixed
where the run gives another verdict for the same key, or examined its subject and question at least as thoroughly as the
run that wrote the file; else it was not examined and stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from refdiff import files
from refdiff.validation.audits.audit import Result
from refdiff.validation.audits.findings import Finding, Verdict

FORMAT = "refdiff audit baseline 1"


class BadBaseline(ValueError):
    """The file is no baseline."""


@dataclass(frozen=True)
class Entry:
    """A known finding.

    Attributes:
        subject, question: what it is about.
        text: what was found when it was written, for people.
        quick: whether only a quick run has seen it.
    """

    subject: str
    question: str
    text: str
    quick: bool = False


@dataclass(frozen=True)
class Baseline:
    """Known findings by key."""

    known: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))

    def new(self, results: Iterable[Result]) -> list[Finding]:
        """The wrong findings that are not known."""
        return [one for one in wrong(results) if one.key not in self.known]

    def fixed(self, results: Iterable[Result], quick: bool) -> dict[str, Entry]:
        """The known findings that are gone."""
        # what could not be examined says nothing of what is known
        found = [one for r in results for one in r.findings if one.verdict is not Verdict.NOT_APPLICABLE]
        still, right = {one.key for one in found if one.verdict is Verdict.WRONG}, {one.key for one in found}
        examined = {(one.whose, one.question) for one in found}
        return {
            key: entry
            for key, entry in self.known.items()
            if key not in still
            and (key in right or ((entry.subject, entry.question) in examined and (entry.quick or not quick)))
        }

    def updated(self, results: Iterable[Result], quick: bool) -> Baseline:
        """The baseline with what these results found, without what they found to be fixed."""
        listed = list(results)
        gone = self.fixed(listed, quick)
        known = {key: entry for key, entry in self.known.items() if key not in gone}
        for one in wrong(listed):
            only_quick = quick and (one.key not in known or known[one.key].quick)
            known[one.key] = Entry(one.whose, one.question, one.text, only_quick)
        return Baseline(dict(sorted(known.items())))


def wrong(results: Iterable[Result]) -> list[Finding]:
    """The wrong findings of all results."""
    return [one for result in results for one in result.findings if one.verdict is Verdict.WRONG]


def load(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        BadBaseline: it is not there, or no baseline.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise BadBaseline(f"{path} must be of format {FORMAT!r}, got {content['format']!r}")
        return Baseline({one.pop("key"): Entry(**one) for one in content["known"]})
    except FileNotFoundError:
        raise BadBaseline(f"{path} is not there; --update-baseline writes it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadBaseline):
            raise
        raise BadBaseline(f"{path} must be a file that --update-baseline wrote: {error!r}") from None


def as_text(baseline: Baseline) -> str:
    """A baseline as a file, a finding a block, so that a version control shows what has changed."""
    known = [{"key": key, **vars(entry)} for key, entry in baseline.known.items()]
    return json.dumps({"format": FORMAT, "known": known}, indent=1, ensure_ascii=False) + "\n"


def save(baseline: Baseline, path: Path) -> None:
    """Write a baseline."""
    files.write_text(path, as_text(baseline))
