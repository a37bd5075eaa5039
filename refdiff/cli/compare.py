"""`refdiff compare`: the exact distance of samplers' output laws against their function evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refdiff import files
from refdiff.cli import names, options, printing

if TYPE_CHECKING:
    from rich.console import Console

    from refdiff.distributions import GaussianMixture
    from refdiff.samplers.compare import Measured

# Shown where no sampler is named: one of every kind.
USUAL = ("ddim", "ddpm", "edm-heun", "dpm-solver-2", "dpmpp-2m", "dpmpp-3m", "deis-tab2", "unipc-3", "dpmpp-2m-sde")


@click.command()
@click.argument("asked", metavar="[NAMES]...", nargs=-1)
@names.PROCESS
@click.option("--law", default="gaussian", show_default=True, type=names.Named("law", names.laws), help="The data.")
@click.option("--data", type=options.FILE, help="A Gaussian with the mean and covariance of your points, as data.")
@click.option("--steps", default="5,10,20,40,80", show_default=True, help="Numbers of steps, with commas.")
@names.GRID
@names.START
@names.END
@click.option("--plot", **options.FILE_TO_WRITE, help="Draw the plot (.png, .svg, .pdf).")
@click.option("--json", "json_file", **options.FILE_TO_WRITE, help="Write the numbers.")
def compare(
    asked: tuple[str, ...],
    process: str,
    law: str,
    data: Path | None,
    steps: str,
    grid: str,
    start: float | None,
    end: float | None,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """The exact W2 distance of each sampler's output law, against its function evaluations.

    For Gaussian data by exact propagation, for a mixture on the line by quadrature: no Monte Carlo. Without names, some
    usual samplers.
    """
    from refdiff import plotting
    from refdiff.samplers.compare import work_precision

    try:
        if plot is not None:
            plotting.drawable(plot)
    except (ImportError, ValueError) as error:
        raise click.ClickException(f"{plot} cannot be drawn: {error}") from None
    try:
        counts = [int(text) for text in steps.split(",")]
    except ValueError:
        raise click.BadParameter(f"{steps!r} must be whole numbers with commas", param_hint="'--steps'") from None
    chosen = {name: names.family(name) for name in asked or USUAL}
    target = names.laws()[law] if data is None else _fitted(data)
    console = printing.console()
    try:
        stream = work_precision(chosen, names.processes()[process](), target, counts, grid=grid, start=start, end=end)
        rows = list(printing.track(stream, len(chosen) * len(counts), "samplers"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _print_comparison(console, rows, counts)
    if json_file is not None:
        files.write_text(json_file, json.dumps([vars(row) for row in rows], indent=1))
    if plot is not None:
        try:
            _draw(rows, plot, f"{law if data is None else data.name} data, process {process}, grid {grid}")
        except ValueError as error:
            raise click.ClickException(f"{plot} was not drawn: {error}") from None


def _fitted(path: Path) -> GaussianMixture:
    """The Gaussian with the mean and covariance of the points in a file."""
    from refdiff.distributions import Gaussian
    from refdiff.validation.data import DataError, load

    try:
        points = load(path, most=10**6).law()
    except DataError as error:
        raise click.BadParameter(str(error), param_hint="'--data'") from None
    return Gaussian(points.mean(), points.cov())


def _draw(rows: list[Measured], path: Path, title: str) -> None:
    """The plot as a file."""
    from matplotlib.figure import Figure

    from refdiff import plotting

    with plotting.style("screen"):
        figure = Figure(figsize=(8.0, 5.2))
        plotting.work_precision(figure.subplots(), rows).set_title(title)
        plotting.save(figure, path)


def _print_comparison(console: Console, rows: list[Measured], counts: list[int]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title="W2 (evaluations)", title_justify="left")
    table.add_column("sampler")
    for n in counts:
        table.add_column(f"{n} steps", justify="right")
    by_name: dict[str, list[Measured]] = {}
    for row in rows:
        by_name.setdefault(row.sampler, []).append(row)
    for name, found in by_name.items():
        cells = ["-" if row.wasserstein is None else f"{row.wasserstein:.2e} ({row.nfe})" for row in found]
        table.add_row(name, *cells)
    console.print(table)
    for name, found in by_name.items():
        if problems := [row.problem for row in found if row.problem]:
            console.print(f"{name}: {problems[0]}", soft_wrap=True)
