r"""What the pages' Markdown has besides Markdown: formulas, links from names to what they name, and LaTeX.

An indented block is a formula, set by `typeset`, unless it is a program; so is a paragraph whose lines have columns.
Code in single backticks that names something public becomes a link to it. Code that begins with a word of PREFIXES is a
formula: LaTeX becomes MathML, so that no script is needed to read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from textwrap import dedent
from xml.etree.ElementTree import Element

import typeset
from markdown import Extension, Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.inlinepatterns import InlineProcessor
from recognise import FORMULA, amid_prose, in_columns, is_program, is_python

# before Markdown's own: of blocks 'code' has 80; of inline patterns 'backtick' 190
BEFORE_CODE, BEFORE_BACKTICKS, AFTER_BACKTICKS = 85, 195, 187
PREFIXES: dict[str, Callable[[str], str]] = {
    "tex:": lambda text: latex(text),
    "display:": lambda text: latex(text, display=True),
    "ascii:": lambda text: f'<span class="formula">{typeset.line(text)}</span>',
}

QUOTED = re.compile(r"(^|\n)>(?=[ =])")
Found = tuple[str | None, int | None, int | None]
Resolve = Callable[[str, str], str | None]


def latex(text: str, display: bool = False) -> str:
    """LaTeX as MathML."""
    from refdiff.validation.pages import formula

    return str(formula(text, inline=not display))


class _Formulas(BlockProcessor):
    """Indented blocks and paragraphs in columns."""

    def __init__(self, md: Markdown, resolve: Resolve) -> None:
        super().__init__(md.parser)
        self.md, self.resolve = md, resolve

    def test(self, parent: Element, block: str) -> bool:  # noqa: ARG002
        return block.startswith("    ") or in_columns(block) or bool(QUOTED.search(block) and _scope(self.md))

    def run(self, parent: Element, blocks: list[str]) -> bool | None:
        if QUOTED.search(blocks[0]) and not blocks[0].startswith("    ") and _scope(self.md):
            blocks[0] = QUOTED.sub(r"\1\\>", blocks[0])  # docstrings quote nobody: a number is > 0
            return False
        if not blocks[0].startswith("    "):
            self._put(parent, blocks.pop(0))
            return None
        taken = []
        while blocks and (blocks[0].startswith("    ") or not blocks[0].strip()):
            taken.append(blocks.pop(0))
        text, rest = self.detab("\n\n".join(one.strip("\n") for one in taken).rstrip())
        text = dedent(text).strip("\n")
        if is_program(text) or not _scope(self.md):  # pages show what a terminal shows
            parent.append(_raw(self.md, _highlighted(text)))
        else:
            self._put(parent, text)
        if rest.strip():
            blocks.insert(0, rest)
        return None

    def _put(self, parent: Element, text: str) -> None:
        html = typeset.block(text)
        scope = _scope(self.md)
        html = re.sub(r"<code>(.*?)</code>", lambda found: linked(found[1], self.resolve, scope), html)
        parent.append(_raw(self.md, html))


class _Code(InlineProcessor):
    """Code in backticks."""

    def __init__(self, md: Markdown, resolve: Resolve) -> None:
        super().__init__(r"(?<![\\`])(`+)(?!`)([^\n]*?\S[^\n]*?)(?<!`)\1(?!`)", md)
        self.resolve = resolve

    def handleMatch(self, m: re.Match[str], data: str) -> Found:  # type: ignore[override] # noqa: ARG002
        text = m[2].strip()
        for prefix, shown in PREFIXES.items():
            if text.startswith(prefix):
                return self.md.htmlStash.store(shown(text.removeprefix(prefix))), m.start(0), m.end(0)
        html = linked(escape(text, quote=False), self.resolve, _scope(self.md))
        if "<autoref" not in html:
            return None, None, None
        return self.md.htmlStash.store(html), m.start(0), m.end(0)


class _Signs(InlineProcessor):
    """Formulas amid the prose of docstrings."""

    def __init__(self, md: Markdown, resolve: Resolve) -> None:
        super().__init__(FORMULA.pattern, md)
        self.resolve = resolve

    def handleMatch(self, m: re.Match[str], data: str) -> Found:  # type: ignore[override] # noqa: ARG002
        scope = _scope(self.md)
        if not scope or ("_" in m[0] and self.resolve(m[0], scope)):
            return None, None, None
        html = f'<span class="formula">{amid_prose(m[0])}</span>'
        return self.md.htmlStash.store(html), m.start(0), m.end(0)


def linked(text: str, resolve: Resolve, scope: str) -> str:
    """Code (as HTML), with a link where it is a name, or a call of one, that resolves in a scope."""
    named = re.fullmatch(r"([A-Za-z_][\w.]*)(\(.*\))?", text)
    target = resolve(named[1], scope) if named else None
    code = f"<code>{text}</code>"
    return f'<autoref optional identifier="{target}">{code}</autoref>' if target else code


def _scope(md: Markdown) -> str:
    """The dotted path of the object whose docstring is being set; "" on a page."""
    pattern = md.inlinePatterns["mkdocs-autorefs"] if "mkdocs-autorefs" in md.inlinePatterns else None  # noqa: SIM401
    current = getattr(getattr(pattern, "hook", None), "current_object", None)
    return current.canonical_path if current is not None else ""


def _raw(md: Markdown, html: str) -> Element:
    """An element that stands for HTML that is finished."""
    element = Element("p")
    element.text = md.htmlStash.store(html)
    return element


def _highlighted(text: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonConsoleLexer, PythonLexer, TextLexer

    lexer = PythonConsoleLexer if text.startswith(">>>") else PythonLexer if is_python(text) else TextLexer
    return f'<div class="highlight">{highlight(text, lexer(), HtmlFormatter(wrapcode=True))}</div>'


class Markup(Extension):
    """The three of them, given what finds the public path of a name in a scope."""

    def __init__(self, resolve: Resolve) -> None:
        super().__init__()
        self.resolve = resolve

    def extendMarkdown(self, md: Markdown) -> None:
        md.parser.blockprocessors.register(_Formulas(md, self.resolve), "formulas", BEFORE_CODE)
        md.inlinePatterns.register(_Code(md, self.resolve), "names", BEFORE_BACKTICKS)
        md.inlinePatterns.register(_Signs(md, self.resolve), "signs", AFTER_BACKTICKS)
