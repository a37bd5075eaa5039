"""What is what in a docstring: formulas, programs, lists in columns, and sections that name several things at once."""

from __future__ import annotations

import ast
import re

import typeset

COMMAND = re.compile(r"(?:\$ |>>> |pip |python3? |refdiff |(?:from \w[\w.]* )?import \w|@\w+\()")
CODE = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.For, ast.With, ast.Return, ast.Lambda, ast.keyword)

# a letter, Greek or not, and what it is lowered or raised by; x*, and (*cells, d), but no *word*; a sign between spaces
GREEK = "|".join(sorted(typeset.GREEK, key=len, reverse=True))
GROUP = r"\{[^{}\n]*\}|\((?:[^()\n]|\([^()\n]*\))*\)"
SHIFTS = rf"(?:[_^](?:{GROUP}|[+-]?[A-Za-z0-9]+|[+*-](?!\w)))+"
# a letter that stands alone, as no word of English does but the article
LETTER = (
    r"(?<!['\"])(?<!--)(?:[b-zB-Z]|[Aa](?=')|[Aa](?= [=+~<>*/-] )|(?<=[=+~<>*/-] )[Aa]|(?<=\()[Aa](?=,))"
    r"(?:'+|(?!['.-]\w|/|\+\+))(?!\w)"
)
FORMULA = re.compile(
    r"(?<![\w`.*/])(?<!\w-)(?:"
    rf"(?:[A-Za-z]|int|sum|prod|[a-z]+(?=\^)|{GREEK}){SHIFTS}'*(?!\.?\w)"
    rf"|(?:[A-Za-z]|{GREEK})\*(?=[\s,.;:)\]=]|$)"
    rf"|(?:{GREEK})(?:'+|\b)(?![_\w])"
    rf"|{LETTER}|{typeset.DIFFERENTIAL}(?:/{typeset.DIFFERENTIAL})?(?![\w'-])"
    rf"|sqrt(?=\()|grad(?=\s)|(?:int|sum)(?=\s(?:[A-Za-z]|{GREEK})[_^(]))"
    rf"|(?<=[)\]|])\^(?:{GROUP}|[+-]?[A-Za-z0-9]+)"
    r"|(?<=\()\*[a-z]\w*"
    r"|(?<=\s)(?:->|<-|<=|>=|!=|-)(?=\s)|(?<=[\s(])-(?=[\w(|])"
    r"|(?<=[)\]])'+(?!\w)"
)


def amid_prose(text: str) -> str:
    """A match of FORMULA as HTML; a power of what stands in brackets is raised, and (*cells, d) is no product."""
    if text.startswith("*"):
        return text
    return typeset.line(")" + text)[1:] if text.startswith(("^", "'")) else typeset.line(text)


def is_program(text: str) -> bool:
    """Whether an indented block is Python or a command, and no formula or list in columns."""
    return any(COMMAND.match(row) for row in text.splitlines()) or is_python(text)


def is_python(text: str) -> bool:
    """Whether Python reads it, and finds more in it than names and numbers, as it may in a formula."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    return any(isinstance(node, CODE) for node in ast.walk(tree))


def in_columns(text: str) -> bool:
    """Whether a paragraph is a list in columns: a cell of all of its lines begins at the same place, after a gap."""
    rows = text.split("\n")
    if len(rows) < 2 or rows[0].startswith((" ", "|", "-", "*", "#", "<", ">")):
        return False
    begins = [{match.end() for match in re.finditer(r"(?:^ +|  +)(?=\S)", row)} for row in rows]
    return bool(set.intersection(*begins))


SECTION = re.compile(r"^(?:Args|Attributes|Raises):[ ]*\n(?:    .*\n?|\n)*", re.MULTILINE)
NAMES = r"\*{0,2}\w+(?:, \*{0,2}\w+)*"
ENTRY = re.compile(rf"^    ({NAMES}): (.*(?:\n     .*)*)", re.MULTILINE)
FIRST = re.compile(rf"^    {NAMES}: .*", re.MULTILINE)
SECOND = re.compile(r"(?<=\S)   +(?=\w+(?:, \w+)*: )")


def rows(docstring: str) -> str:
    """A docstring whose lists of arguments and attributes have one name in each entry.

    left, right: arrays.                 becomes    left: arrays.    right: arrays.
    name: in words.   topic: a heading.             the same in two lines
    """
    return SECTION.sub(lambda section: ENTRY.sub(_apart, FIRST.sub(_lines, section[0])), docstring)


def _lines(line: re.Match[str]) -> str:
    return SECOND.sub("\n    ", line[0])


def _apart(entry: re.Match[str]) -> str:
    return "\n".join(f"    {name}: {entry[2]}" for name in entry[1].split(", "))
