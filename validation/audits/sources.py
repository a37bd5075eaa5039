r"""Where the code is: of what is audited, and of the method that it is compared with.

A claim is a closure over options, so what it is a method of is seen from its table: of the functions that return this
table, one inside the other, the outermost of refdiff.samplers is the method. Where none is, the method is written in
the protocol itself, by the function that finishes the table.
"""

from __future__ import annotations

import inspect
import os
import sys
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from refdiff.samplers import Tableau
from refdiff.validation.audits.subject import Claim

SAMPLERS = "refdiff.samplers."
# parts of refdiff.samplers that make or turn the tables of others
SHARED = tuple(SAMPLERS + part for part in ("conversions", "families", "recorder", "tableau"))


class Source(NamedTuple):
    """Code: its dotted name, and "file:line" from the folder that its package is in."""

    name: str
    place: str

    @property
    def title(self) -> str:
        """The name without its module, and of a function within another without what Python puts between them."""
        return self.name.rpartition(":")[2].replace(".<locals>", "")

    @property
    def text(self) -> str:
        """What the module says of itself, for a module of refdiff's; else ""."""
        module = self.name.rpartition(":")[0]
        return inspect.getdoc(import_module(module)) or "" if module.startswith("refdiff.") else ""


def source_of(thing: Any) -> Source | None:
    """Where a class or function is written; None where it has no source file."""
    try:
        found = inspect.unwrap(thing)
        path, (_, line) = inspect.getsourcefile(found), inspect.getsourcelines(found)
    except (OSError, TypeError, ValueError):
        return None
    return _source(found.__module__, found.__qualname__, path, line) if path else None


def method_of(claim: Claim) -> Source | None:
    """The function that makes the claimed table; None where it is made by none, or cannot be made."""
    made: list[tuple[str, CodeType]] = []

    def watch(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and isinstance(value, Tableau):
            made.append((str(frame.f_globals.get("__name__", "")), frame.f_code))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        claim.build(claim.grid)
    except Exception:  # the grid may be what is wrong with the sampler
        made.clear()
    finally:
        sys.setprofile(before)
    own = [(module, code) for module, code in made if module not in SHARED and module != "dataclasses"]
    families = [(module, code) for module, code in own if module.startswith(SAMPLERS)]
    chosen = [*families[-1:], *own[:1]]
    return _source(chosen[0][0], chosen[0][1].co_qualname, chosen[0][1].co_filename, chosen[0][1].co_firstlineno) \
        if chosen else None  # fmt: skip


def _source(module: str, name: str, path: str, line: int) -> Source:
    package = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    home = Path(package).resolve().parents[1 if Path(package).name == "__init__.py" else 0] if package else Path.cwd()
    file = Path(path).resolve()
    place = file.relative_to(home) if file.is_relative_to(home) else Path(os.path.relpath(file))
    return Source(f"{module}:{name}", f"{place.as_posix()}:{line}")
