r"""An audit: the subjects of a library or a callable, put to every check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from refdiff.validation.audits.checks import Check, common
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols.protocol import Protocol
from refdiff.validation.audits.subject import Subject


def examine(
    subjects: Iterable[Subject],
    protocol: Protocol,
    *,
    quick: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """The findings about each subject, by the checks of every protocol and by this one's own."""
    for subject in subjects:
        for check in (*common(), *protocol.checks):
            yield from _guarded(check, subject, quick)
        tell(subject.name)


def _guarded(check: Check, subject: Subject, quick: bool) -> Iterator[Finding]:
    try:
        yield from check(subject, quick)
    except Exception as error:  # foreign code may raise anything, and one check must not end the audit
        name = getattr(check, "__name__", "check")
        yield Finding(subject.name, name, Verdict.WRONG, f"breaks: {type(error).__name__}: {error}", place="exception")
