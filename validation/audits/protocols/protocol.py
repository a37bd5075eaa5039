"""What a calling convention offers an audit: subjects of a library, or of one callable, and checks of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any

import refdiff.validation.audits.protocols as here
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.subject import Subject


@dataclass(frozen=True)
class Request:
    """What a user asks about a callable, or about one class of a library.

    Args:
        family: the name of a refdiff family that it claims to be, or None.
        options: passed on to the foreign function or class.
        claimed: options of the refdiff family.
        dtype: number type of the points.
    """

    family: str | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    claimed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    dtype: str = "float64"


@dataclass(frozen=True)
class Protocol:
    """A calling convention.

    Args:
        name: as in --protocol: "k-diffusion".
        summary: the convention in a line: "f(model, x, sigmas)".
        wrap: (callable or class, request) -> the subject that it is.
        library: the import name of the library whose parts `members` lists, or None.
        members: quick -> the subjects of the installed library, by member name: class or function -> subjects.
        checks: what is examined beside the checks of every protocol.
        options: names that `wrap` takes for itself, beside the arguments of the callable.
        given: how many of the callable's first arguments the protocol gives, which are nobody's to set; None where
            all that can be set are the names in `options`.
        families: names that `wrap` knows, beside refdiff's families.
    """

    name: str
    summary: str
    wrap: Callable[[Any, Request], Subject]
    library: str | None = None
    members: Callable[[bool], Mapping[str, Callable[[], Iterator[Subject]]]] | None = None
    checks: tuple[Check, ...] = ()
    options: tuple[str, ...] = ()
    given: int | None = 0
    families: tuple[str, ...] = ()


@cache
def protocols() -> Mapping[str, Protocol]:
    """All protocols by name: every module or package of this folder that has PROTOCOLS takes part."""
    found: dict[str, Protocol] = {}
    for module in iter_modules(here.__path__):
        for one in getattr(import_module(f"{here.__name__}.{module.name}"), "PROTOCOLS", ()):
            found[one.name] = one
    return MappingProxyType(found)
