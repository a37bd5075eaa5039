r"""What the pages of `validate` and of `audit` share: one file that stands alone, whatever it is about.

A page extends pages.html, which carries pages.css and pages.js within itself; parts.html has the macros. Nothing is
fetched. Without JavaScript everything is visible. With it, rows (`data-row`) of a list are filtered by the form that
names the list (`data-filters`), a row's values of a field standing in `data-FIELD`, separated by `|`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any
from xml.etree import ElementTree

from refdiff.validation.report import brief, environment

# Commands that the converter does not know, and what says the same.
UNKNOWN = {
    r"\\[bB]igg?[lr]?(?=\\\|)": "",
    r"\\arg(?![a-z])": r"\\operatorname{arg}",
    r"\\math(sf|bf) (\w)": r"\\math\1{\2}",
    r"\\mathrm\{(\w)\}": r"\\text{\1}",  # one letter would be slanted
}
# Relations and the like that the converter takes for letters, without room around them.
RELATIONS = {one: one for one in ";\N{PLUS-MINUS SIGN}\N{LONG LEFT RIGHT DOUBLE ARROW}\u27c2\u2ab0"} | {
    "~": "\N{TILDE OPERATOR}"
}
# Elements whose first child carries the others.
SCRIPTS = ("msub", "msup", "msubsup", "munder", "mover", "munderover")
OPEN, CLOSE, SIGNS = ("(", "["), (")", "]", "|", "}", "!"), ("+", "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}")


def rendered(name: str, packages: Iterable[str], filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """A template as text.

    Args:
        name: file name of the template, which extends `pages.html`.
        packages: where templates are looked for, in this order; this package is the last.
        filters: what templates call after `|`, beside `brief`.
        values: what templates speak of, beside `environment`, `date` and `file` (the text of a file of this package).
    """
    import jinja2

    rooms = (*packages, __package__)

    def found(asked: str) -> str | None:
        files = (resources.files(room).joinpath(asked) for room in rooms)
        return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)

    house = jinja2.Environment(
        loader=jinja2.FunctionLoader(found),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    house.filters.update(brief=brief, **filters)
    house.globals.update(file=_file, environment=environment(), date=_now())
    return house.get_template(name).render(**values)


def _file(name: str) -> Any:
    """The text of a file of this package as it stands: ours, so nothing in it has to be escaped."""
    from markupsafe import Markup

    return Markup(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _now() -> str:
    return datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def anchors(names: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """An id for each of these names: its letters and digits, with a number where it is reserved or another name's."""
    found: dict[str, str] = {}
    taken = set(reserved)
    for name in dict.fromkeys(names):
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"
        one, count = plain, 1
        while one in taken:
            count += 1
            one = f"{plain}-{count}"
        taken.add(one)
        found[name] = one
    return found


def formula(latex: str, *, inline: bool = False) -> Any:
    """Some latex as MathML markup; as it stands, in <code>, where the converter does not know it.

    Args:
        latex: the formula.
        inline: within a line of text, and not in a line of its own.
    """
    from latex2mathml.converter import convert
    from markupsafe import Markup

    known = latex
    for pattern, replacement in UNKNOWN.items():
        known = re.sub(pattern, replacement, known)
    try:
        written = convert(known, display="inline" if inline else "block")
    except Exception:  # the converter has no common base for its errors
        return Markup("<code>{}</code>").format(latex)
    # in a page of HTML the namespace, which would be in every name, is not needed
    written = re.sub(r"&(?!#?\w+;)", "&amp;", re.sub(' xmlns="[^"]*"', "", written, count=1))
    tree = ElementTree.fromstring(written)
    for row in tree.iter():
        for before, child, after in zip([None, *row], row, [*row[1:], None], strict=False):
            if row.tag not in SCRIPTS:  # of which the row outside has seen the base
                _set_function(child, after)
            if child.tag == "mi" and child.text in RELATIONS:
                child.tag, child.text = "mo", RELATIONS[child.text]
            elif child.text == "\N{INFINITY}":
                child.tag = "mi"
            elif child.text == "|" and child.get("stretchy") == "false":  # open or close, which only TeX's room suits
                child.attrib.update(lspace="0", rspace="0")
            if child.text in SIGNS and before is not None and before.tag == "mo" and before.text not in CLOSE:
                child.set("form", "prefix")  # x = -4, which is no difference
            if (
                child.text == "\N{DOUBLE VERTICAL LINE}"
                and "minsize" not in child.attrib
                and "form" not in child.attrib
            ):
                # as an operator the sign of a norm hangs where a font has no room for it
                child.tag, child.attrib = "mi", {"mathvariant": "normal"}
    return Markup(ElementTree.tostring(tree, encoding="unicode"))


def _set_function(child: ElementTree.Element, after: ElementTree.Element | None) -> None:
    """Give the name of a function, with the scripts that it carries, room before what is no bracket."""
    sign = _first(child, SCRIPTS)
    name = sign.text or ""
    if sign.tag in ("mi", "mo") and len(name) > 1 and name.isalpha():
        bare = after is None or _first(after, (*SCRIPTS, "mrow")).text in (*OPEN, *CLOSE, ",")
        sign.tag, sign.attrib = "mo", {"lspace": "0", "rspace": "0" if bare else "0.1667em"}


def _first(one: ElementTree.Element, inside: tuple[str, ...]) -> ElementTree.Element:
    while one.tag in inside and len(one):
        one = one[0]
    return one
