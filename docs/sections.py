"""Sections of docstrings that name several things at once, with a row for each, as tables of the reference have them.

left, right: arrays.               becomes   left: arrays.    right: arrays.
name: in words.   topic: a heading.          the same in two lines
"""

from __future__ import annotations

import re

from griffe import Extension, Object

SECTION = re.compile(r"(?:Args|Arguments|Attributes|Returns|Raises|Yields):\s*$")
ENTRY = re.compile(r"    (?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*): ")
SECOND = re.compile(r"(?<=\S)   +(?=\w+(?:, \w+)*: )")


def rows(docstring: str) -> str:
    """A docstring whose lists of arguments and attributes have one name in each entry."""
    out: list[str] = []
    inside = False
    for line in docstring.split("\n"):
        inside = bool(SECTION.match(line)) or (inside and (not line or line.startswith("    ")))
        if inside and ENTRY.match(line):
            first, *others = SECOND.split(line)
            out += [first, *("    " + other for other in others)]
        else:
            out.append(line)
    return "\n".join(_apart(out))


def _apart(lines: list[str]) -> list[str]:
    out: list[str] = []
    inside, i = False, 0
    while i < len(lines):
        line = lines[i]
        inside = bool(SECTION.match(line)) or (inside and (not line or line.startswith("    ")))
        found = ENTRY.match(line) if inside else None
        i += 1
        if found is None:
            out.append(line)
            continue
        rest = []
        while i < len(lines) and lines[i].startswith("     "):
            rest.append(lines[i])
            i += 1
        for name in found["names"].split(", "):
            out += [f"    {name}: {line[found.end() :]}", *rest]
    return out


class Rows(Extension):
    """Griffe's way to hand docstrings over."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Called for everything that is read."""
        if obj.docstring is not None:
            obj.docstring.value = rows(obj.docstring.value)
