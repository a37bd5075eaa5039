"""How pictures look: sizes for a screen, a printed column and a projector, and files that are never half there.

Functions of this package take line widths and sizes of markers from matplotlib's settings, so that a style scales them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from refdiff import files
from refdiff.arguments import one_of, real_scalar, whole_number
from refdiff.plotting.colours import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Letters and lines in points, figures in inches. Print: a column of 3.4 in, where 8 pt is a caption. Projector: 16 pt
# on 9 in is read from the last row, where a figure fills the wall.
MEDIA: dict[str, dict[str, Any]] = {
    "screen": {"font": 10.0, "line": 1.5, "marker": 5.0, "size": (6.4, 4.2), "dpi": 100},
    "print": {"font": 8.0, "line": 1.0, "marker": 3.5, "size": (3.4, 2.5), "dpi": 300},
    "projector": {"font": 16.0, "line": 2.6, "marker": 9.0, "size": (9.0, 5.6), "dpi": 100},
}
# In print colours may be lost: lines differ by their dashes too.
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (9, 2)),
    (0, (3, 1.5, 1, 1.5, 1, 1.5)),
    (0, (2, 2)),
)
FEW, MANY = 16, 64  # lines that are as thick as one, and half as thick
STROKES = (("major", 0.4), ("minor", 0.3))  # of ticks, in widths of lines
# What is written, and on what, also where another style (a dark one) is in force.
INK = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "patch.edgecolor")
PAPER = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
# Text stays text in files, and files of the same picture are the same.
TEXT: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "refdiff", "pdf.fonttype": 42, "ps.fonttype": 42}
UNDATED: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@contextmanager
def style(medium: str = "screen") -> Iterator[None]:
    """Inside of the block figures look as they should on this medium; afterwards as before.

    Args:
        medium: screen, print or projector.

    Raises:
        ValueError: another medium.
    """
    import matplotlib

    chosen = _settings(medium)
    with matplotlib.rc_context(chosen):
        yield


def use_style(medium: str = "screen") -> None:
    """`style` from here on, for all of a session: the one function here that changes matplotlib's global settings.

    Args:
        medium: screen, print or projector.

    Raises:
        ValueError: another medium.
    """
    import matplotlib

    matplotlib.rcParams.update(_settings(medium))


def thin(count: float = MANY) -> float:
    """The width, in points, of each of so many lines: of a few that of any line, of many half of it.

    Args:
        count: how many; many where left out.
    """
    from matplotlib import rcParams

    part = min(1.0, max(0.5, math.sqrt(FEW / count)))
    return part * float(rcParams["lines.linewidth"])


def dot() -> float:
    """The size, in points, of points of which there are many."""
    from matplotlib import rcParams

    return 0.4 * float(rcParams["lines.markersize"])


def drawable(path: str | Path) -> Path:
    """A file that a picture can be written to.

    Args:
        path: its name, which ends as one of matplotlib's kinds.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: an ending that matplotlib does not write.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'refdiff[plot]'") from None
    target = Path(path)
    known = FigureCanvasAgg.get_supported_filetypes()
    if target.suffix[1:].lower() not in known:
        raise ValueError(
            f"path must end in one of {', '.join('.' + kind for kind in sorted(known))}, got {str(path)!r}"
        )
    return target


def save(figure: Figure, path: str | Path, *, dpi: float = 150.0, colors: int | None = None) -> Path:
    """The figure as a file, of the kind that its ending says: all of it, or what was there before.

    Text stays text in .svg and .pdf, and one picture is one sequence of bytes: no date is written.

    Args:
        figure: what is written.
        path: its name, .png, .svg, .pdf or another of matplotlib's.
        dpi: dots an inch, of .png and of dense images in the others.
        colors: of a .png, at most 256, those that suit it best: some third of the bytes. All where left out.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: an ending that matplotlib does not write, dpi that are not above 0, or colors that are not in
            1..256 or of another kind of file.
    """
    target, dots = drawable(path), real_scalar("dpi", dpi, low=0.0, open_low=True)
    kind = target.suffix.lower()
    if colors is not None and whole_number("colors", colors, low=1, high=256) and kind != ".png":
        raise ValueError(f"colors must be left out where path does not end in .png, got {colors} for {str(path)!r}")
    import matplotlib

    with matplotlib.rc_context(TEXT), files.written(target) as temporary:
        figure.savefig(temporary, dpi=dots, metadata=UNDATED.get(kind))
        if colors is not None:
            quantize(temporary, temporary, colors)
    return target


def quantize(source: Path | BinaryIO, target: Path | BinaryIO, colors: int) -> None:
    """Write a .png with the colours that suit it best: some third of the bytes, and hardly to be told apart.

    Args:
        source: the picture.
        target: what is written; the same file, where it is to take its place.
        colors: how many at most, in 1..256.
    """
    from PIL import Image

    with Image.open(source) as whole:
        few = whole.convert("RGB").quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(target, "PNG", optimize=True)


def _settings(medium: str) -> dict[Any, Any]:
    """matplotlib's settings for a medium."""
    from cycler import cycler

    chosen = MEDIA[one_of("medium", medium, MEDIA)]
    font, line = chosen["font"], chosen["line"]
    cycle = cycler(color=PALETTE)
    if medium == "print":
        cycle += cycler(linestyle=DASHES)
    small = {f"{axis}tick.labelsize": 0.85 * font for axis in "xy"}
    ticks = {f"{axis}tick.{kind}.width": width * line for axis in "xy" for kind, width in STROKES}
    return {
        **TEXT,
        **small,
        **ticks,
        **dict.fromkeys(INK, "black"),
        **dict.fromkeys(PAPER, "white"),
        "axes.prop_cycle": cycle,
        "axes.linewidth": 0.4 * line,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 1.1 * font,
        "axes.labelsize": font,
        "axes.grid": False,
        "lines.color": "C0",
        "grid.color": "#b0b0b0",
        "grid.linewidth": 0.4 * line,
        "grid.alpha": 0.25,
        "figure.figsize": chosen["size"],
        "figure.dpi": chosen["dpi"],
        "figure.constrained_layout.use": True,
        "font.size": font,
        "legend.fontsize": 0.85 * font,
        "legend.frameon": False,
        "lines.linewidth": line,
        "lines.markersize": chosen["marker"],
        "savefig.dpi": chosen["dpi"],
    }
