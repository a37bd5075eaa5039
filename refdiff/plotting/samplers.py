"""Pictures of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refdiff import files
from refdiff.samplers.compare import Measured

MARKERS = "osD^v<>ph*X+"


def drawable(path: str | Path) -> Path:
    """A file that a picture can be written to.

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


def work_precision(rows: Sequence[Measured], path: str | Path, title: str = "") -> None:
    """W2 against evaluations, both on logarithmic axes, one line for each sampler; written as the path's ending says.

    Args:
        rows: distances of `refdiff.samplers.compare.work_precision`; those that are 0 or missing are left out.
        path: the file, .png, .svg or another of matplotlib's.
        title: above the picture.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing to plot, or an ending that matplotlib does not write.
    """
    target = drawable(path)
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.wasserstein is not None and row.wasserstein > 0:
            lines.setdefault(row.sampler, []).append((row.nfe, row.wasserstein))
    if not lines:
        raise ValueError("rows must hold at least one distance above 0 to be plotted")
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.subplots()
    # the legend from the worst to the best at the most evaluations, as the lines end on the right
    for i, name in enumerate(sorted(lines, key=lambda name: -lines[name][-1][1])):
        nfe, errors = zip(*lines[name], strict=True)
        axes.loglog(nfe, errors, marker=MARKERS[i % len(MARKERS)], markersize=4.5, linewidth=1.3, label=name)
    counts = sorted({nfe for line in lines.values() for nfe, _ in line})
    shown = [n for i, n in enumerate(counts) if i == 0 or n / counts[i - 1] > 1.15]
    axes.set_xticks(shown, [str(n) for n in shown])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set_xlabel("function evaluations")
    axes.set_ylabel(r"$W_2$ to the exact law")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with files.written(target) as temporary:
        figure.savefig(temporary, dpi=150)
