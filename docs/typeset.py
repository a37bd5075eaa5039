r"""Formulas as docstrings write them, in ASCII, set as HTML, and read back.

    x_t = alpha_t x_0 + sigma_t eps,     E[x_0 | x_t] = int x_0 p(x_0 | x_t) dx_0

Token by token, from left to right: Greek names become Greek letters, `_` and `^` lower and raise what stands next to
them, operators get their signs, single letters are italic, words upright. Nothing is moved, added or left out, so what
is set says what was written: `source(line(text)) == text` for every text. Braces after `_` and `^`, which only group,
are not drawn; parentheses are, as f^(2) is no square.
"""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser

LOWER = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega eps"
GREEK = dict(zip(LOWER.split(), "αβγδϵζηθκλμνξπρστφχψωε", strict=True)) | dict(
    zip(["Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega"], "ΓΔΘΛΞΠΣΦΨΩ", strict=True)
)
LARGE = {"int": "∫", "oint": "∮", "sum": "∑", "prod": "∏"}
WORDS = GREEK | LARGE | {"grad": "∇", "sqrt": "√", "infinity": "∞"}
# longest first; -- and --- are no minus signs, and `-` between words is a hyphen
SIGNS = {"...": "…", "<=>": "⇔", "<->": "↔", "+-": "±", "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "!=": "≠"}
SIGNS |= {"=>": "⇒", "||": "‖", "<<": "≪", ">>": "≫", "~": "∼", "*": "∗", "-": "−", "'''": "‴", "''": "″", "'": "′"}
HATS = {"hat": "\u0302", "bar": "\u0304"}  # above a Greek letter, or above x, y and z: Psihat, xbar
BACK = {glyph: word for word, glyph in (WORDS | SIGNS | HATS).items()}
FUNCTIONS = {
    "log",
    "exp",
    "sin",
    "cos",
    "tan",
    "tanh",
    "arctan",
    "artanh",
    "min",
    "max",
    "det",
    "tr",
    "div",
    "inf",
    "sup",
}
FUNCTIONS |= {"erf", "diag", "sign", "hess", "Hess", "Var", "Cov", "KL", "var", "cov", "softmax", "logsumexp", "phi"}

ATOM = r"[+-]?(?:\d+(?:\.\d+)?[A-Za-z]*|[A-Za-z][A-Za-z0-9]*)|[+*-](?![\w(])"
TOKEN = re.compile(
    r"(?P<code>`[^`\n]+`)"
    r"|(?P<file>\b[A-Za-z]\w*\.(?:py|html|tsv|json|npz|md|cuh?)\b|\b[a-z]{3,}/(?=\s)|\b[A-Za-z]\w+(?:\.[A-Za-z]\w+)+\b)"
    r"|(?P<dashes>--+[a-z-]*)"
    r"|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
    r"|(?P<name>[a-z]{2,}(?:_[a-z]{2,})+\b(?:\(\))?)"
    rf"|(?P<hatted>\b(?:{'|'.join(GREEK)}|[A-Za-z])\^(?=[\s)\],;:_|]|$))"
    r"|(?P<word>[A-Za-z]+)"
    rf"|(?P<shift>[_^](?=[{{(]|{ATOM}))"
    r"|(?P<sign>\.\.\.|<=>|<->|\+-|->|<-|<=|>=|!=|=>|\|\||<<|>>|'''|''|['~*-])"
    r"|(?P<other>[\s\S])"
)
NEAR = 60  # characters on each side that say what a sign is: longer than words are
SHIFTED, UNDER = re.compile(ATOM), re.compile(r"_[A-Za-z0-9]+")
HATTED = rf"({'|'.join(GREEK)}|[xyz](?=hat|bar))(hat|bar)?"
DIFFERENTIAL = rf"d(?:[A-Zac-hj-np-z]|{'|'.join(GREEK)})"  # dx, dtheta; no do, di, db
SHORT = 2  # letters of a subscript that is indices, and no word: x_ij, but x_end


def line(text: str) -> str:
    """One line or cell of ASCII mathematics as HTML, of which `source` is the inverse."""
    out, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        assert match is not None
        assert match.lastgroup is not None
        kind, token = match.lastgroup, match[0]
        if kind == "shift" and at and not text[at - 1].isspace():
            html, at = _shifted(text, at)
            out.append(html)
            continue
        base, _, under = token.partition("_")
        if kind == "name" and (base in WORDS or (base in FUNCTIONS and len(under) <= SHORT)):  # sigma_max, max_jk
            kind, token = "word", base
        out.append(_plain(text, at, kind, token))
        at += len(token)
    return "".join(out)


def source(html: str) -> str:
    """The text that `line` or `block` made this HTML of.

    Raises:
        ValueError: tags do not close each other.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "".join(reader.out)


def _shifted(text: str, at: int) -> tuple[str, int]:
    """What a `_` or `^` lowers or raises, as HTML, and where it ends."""
    tag = "sub" if text[at] == "_" else "sup"
    start = at + 1
    if text[start] in "{(":
        end = _closing(text, start)
        if end is None:
            return escape(text[at]), start
        if text[start] == "{":
            return f'<{tag} class="braced">{line(text[start + 1 : end])}</{tag}>', end + 1
        return f"<{tag}>{line(text[start : end + 1])}</{tag}>", end + 1
    match = SHIFTED.match(text, start)
    assert match is not None
    atom, end = match[0], match.end()
    # the exponent of a number or of e keeps its own subscript: 2^l_ij is a power of l_ij
    under = UNDER.match(text, end)
    if tag == "sup" and under and re.search(r"(?:^|[^A-Za-z])(?:\d+|e)$", text[max(at - NEAR, 0) : at]):
        atom, end = atom + under[0], under.end()
    return f"<{tag}>{_atom(atom)}</{tag}>", end


def _atom(atom: str) -> str:
    letters = atom.lstrip("+-")
    if letters.isalpha() and letters not in WORDS and len(letters) > 1:
        sign = line(atom[: len(atom) - len(letters)])
        # one text node: `source` reads it back, and no rule of `line` may see two letters as a product
        return sign + (f"<i>{letters}</i>" if len(letters) <= SHORT else f"<b>{letters}</b>")
    return line(atom)


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes; None where it does not."""
    pair = {"{": "}", "(": ")"}[text[start]]
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == text[start]) - (text[i] == pair)
        if depth == 0:
            return i
    return None


def _plain(text: str, at: int, kind: str, token: str) -> str:
    end = at + len(token)
    before, after = text[max(at - NEAR, 0) : at], text[end : end + NEAR]
    if kind == "code":
        return f"<code>{escape(token[1:-1], quote=False)}</code>"
    if kind in ("file", "name", "dashes"):
        return f"<tt>{escape(token)}</tt>"
    if kind == "hatted":
        return f'<i>{GREEK.get(token[:-1], token[:-1])}<span class="hat">{HATS["hat"]}</span></i>'
    if kind == "word":
        return _word(token, before, after)
    if kind == "sign":
        return _sign(token, before, after)
    if token in BACK:  # the glyph itself was written
        return f'<span class="as-is">{token}</span>'
    return escape(token, quote=False)


def _word(token: str, before: str, after: str) -> str:
    if token == "sum" and re.match(r"\s+[a-z]{2,}\b(?!_)", after) and not _is_formula(after.split()[0]):
        return token  # the sum of two laws
    hat = re.fullmatch(HATTED, token)
    if hat:
        return f"<i>{GREEK.get(hat[1], hat[1])}{HATS.get(hat[2], '')}</i>"
    if token in WORDS:
        return WORDS[token]
    if len(token) == 1:
        article = token == "a" and re.match(r" [a-z]{2,}\b(?![_^(])", after) and not _is_formula(after.split()[0])
        return token if article or (_ends_in_word(before) and after[:1] != "_" and token in "s") else f"<i>{token}</i>"
    differential = re.fullmatch(DIFFERENTIAL, token)
    if differential:
        return f"<i>d</i>{_word(token[1:], 'd', '')}"
    return token


def _sign(token: str, before: str, after: str) -> str:
    if token == "-" and re.search(r"[A-Za-z]$", before) and re.match(r"[A-Za-z]", after):
        left, right = re.split(r"[^A-Za-z]", before)[-1], re.split(r"[^A-Za-z]", after)[0]
        words = [len(one) > 1 and not _is_formula(one) for one in (left, right)]
        if any(words):
            return "-"
    if token == "*" and re.search(r"[\w)\]}]$", before):
        return token  # x* is no product, and the star is a raised one
    if token == "'" and _ends_in_word(before):
        return "'"  # the kernel's, the kernels'
    if token == "'" and not re.search(r"[\w)\]}'>*]$", before):
        return "'"  # a quotation mark
    return SIGNS[token]


def _ends_in_word(before: str) -> bool:
    """Whether a word of prose stands at the end: three letters or more that are no sign and no subscript."""
    found = re.search(r"(?<![A-Za-z_^])[A-Za-z]{3,}'?$", before)
    return found is not None and not _is_formula(found[0].rstrip("'"))


def _is_formula(word: str) -> bool:
    word = re.split(r"[_^(\[,;:']", word)[0]
    return word in WORDS.keys() | FUNCTIONS or re.fullmatch(DIFFERENTIAL, word) is not None


class _Reader(HTMLParser):
    """Reads back what `line` set."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.open: list[tuple[str, str]] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        self.open.append((tag, kind))
        if tag == "tr":
            self.out += "\n" * (self.rows > 0)
            self.rows += 1
        self.out.append({"sub": "_", "sup": "^", "code": "`"}.get(tag, "") + "{" * (kind == "braced"))

    def handle_endtag(self, tag: str) -> None:
        opened, kind = self.open.pop()
        if opened != tag:
            raise ValueError(f"<{opened}> is closed by </{tag}>")
        self.out.append("`" * (tag == "code") + "}" * (kind == "braced"))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][1] == "hat":
            self.out.append("^")
            return
        literal = any(tag in ("tt", "code") or kind == "as-is" for tag, kind in self.open)
        self.out.append(data if literal else "".join(BACK.get(one, one) for one in data))


# ---------------------------------------------------------------------- blocks


def block(text: str) -> str:
    """Lines whose columns stand under each other, as a table: a cell begins where two spaces or more end."""
    lines = text.split("\n")
    begins = _columns(lines)
    places = sorted(set().union(*begins)) or [0]
    out = []
    for row, starts in zip(lines, begins, strict=True):
        ends = [*starts[1:], len(row)] if starts else []
        first = starts[0] if starts else len(row)
        lead = places.index(first) if starts else len(places)
        cells = [f'<td colspan="{lead + 1}">{row[:first]}</td>']
        for start, end in zip(starts, ends, strict=True):
            until = places.index(end) if end in places[1:] and end != len(row) else len(places)
            kind = ' class="words"' if prose(row[start:end]) else ""
            cells.append(f'<td colspan="{until - places.index(start)}"{kind}>{line(row[start:end])}</td>')
        out.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="formula"><table class="columns">{"".join(out)}</table></div>'


def prose(cell: str) -> bool:
    """Whether a cell is words more than signs."""
    words = re.findall(r"(?<![\w^{(])[A-Za-z]{3,}(?![\w(\[])", re.sub(r"`[^`]*`", "names", cell))
    return len([word for word in words if not _is_formula(word)]) >= max(1, len(re.findall(r"[=_^<>|+*/]", cell)))


def _columns(lines: list[str]) -> list[list[int]]:
    """Where the cells of each line begin: after two spaces, and after one where a neighbour has a cell after more."""
    wide = [{match.end() for match in re.finditer(r"  +(?=\S)", row)} for row in lines]
    out = []
    for i, row in enumerate(lines):
        beside = set().union(*(wide[j] for j in (i - 1, i + 1) if 0 <= j < len(lines)))
        narrow = {place for place in beside if _begins(row, place, lines[max(i - 1, 0) : i + 2])}
        first = {len(row) - len(row.lstrip())} if row.strip() else set()
        out.append(sorted(first | wide[i] | narrow))
    return out


def _begins(row: str, place: int, near: list[str]) -> bool:
    """Whether a cell begins after one space: with the sign of a neighbour's, or after a label that fills its column."""
    if not re.match(r"\S \S", row[max(place - 2, 0) : place + 1]):
        return False
    alike = any(other[place : place + 1] == row[place] for other in near if other is not row)
    return (alike and row[place] in "=~<>+-:") or ("  " not in row[:place].strip() and prose(row[:place]))
