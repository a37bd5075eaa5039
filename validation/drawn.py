r"""The picture of all identities of a run, drawn by matplotlib where it is installed, as SVG that is part of a page.

The page's colours take the place of the drawing's, so that they follow light and dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from refdiff.validation.runner import Outcome

if TYPE_CHECKING:
    from markupsafe import Markup

# Inches, at 72 to the inch: as wide as the page's column, so that letters keep their size; rows of one pixel and more
# stand apart up to some hundreds, and a few rows need no more than the axis and its legend.
WIDTH, LEAST, MOST, ROW = 9.4, 1.7, 4.0, 0.06
# what matplotlib writes, and what stands for it on the page; greys by how light they are
COLOURS = {"#0072b2": "var(--blue)", "#d55e00": "var(--orange)"}
DARK, LIGHT = 0x40, 0xC8


def summary(outcomes: Sequence[Outcome]) -> Markup | None:
    """The errors, tolerances and controls of the outcomes that ran; None without matplotlib or without any."""
    ran = [one for one in outcomes if one.verdict != "n/a" and not math.isnan(one.error + one.control)]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    if not ran:
        return None
    from markupsafe import Markup

    from refdiff.plotting import scores, style

    written = io.StringIO()
    with style("screen"):
        figure = Figure(figsize=(WIDTH, min(LEAST + ROW * len(ran), MOST)), layout="constrained")
        scores(figure.add_subplot(), ran)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_fitted(written.getvalue()))


def _fitted(svg: str) -> str:
    """The drawing without what is meant for a file of its own: header, style of everything, fixed size, names."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\bid="', 'id="scores-', svg)
    svg = re.sub(r'(href="#|url\(#)', r"\1scores-", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"(?<=\d\.\d)\d+", "", re.sub(r"\n\s*", "\n", svg))  # a tenth of a point is less than a pixel
    svg = re.sub(r"#[0-9a-f]{6}\b", _of_the_page, svg)
    return re.sub(r'<g([^>]*)>\n((?:<use [^>]*style="([^"]*)"/>\n)(?:<use [^>]*style="\3"/>\n)+)</g>', _told_once, svg)


def _of_the_page(found: re.Match[str]) -> str:
    """A colour of the page for one of the drawing; letters' for what is neither known nor a grey."""
    written = found[0]
    if written[1:3] == written[3:5] == written[5:7] and (grey := int(written[1:3], 16)) > DARK:
        return "var(--shade)" if grey >= LIGHT else "var(--edge)"
    return COLOURS.get(written, "currentColor")


def _told_once(found: re.Match[str]) -> str:
    """A group of marks that look the same, with their looks at the group."""
    attributes, marks, style = found.groups()
    told = f' style="{style}"'
    return f"<g{attributes}{told}>\n{marks.replace(told, '')}</g>"
