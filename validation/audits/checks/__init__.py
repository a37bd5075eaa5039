"""What is examined, one file for each question.

A check is a function (Subject, quick) -> findings. It answers for its own question only, and yields `not_applicable`
where the subject has nothing to examine. What the foreign code raises, it turns into a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from refdiff.validation.audits.findings import Finding
from refdiff.validation.audits.subject import Subject

Check = Callable[[Subject, bool], Iterator[Finding]]


@cache
def common() -> tuple[Check, ...]:
    """The checks of every protocol: of every module of this package that lists CHECKS."""
    names = sorted(module.name for module in iter_modules(__path__))
    return tuple(one for name in names for one in getattr(import_module(f"{__name__}.{name}"), "CHECKS", ()))
