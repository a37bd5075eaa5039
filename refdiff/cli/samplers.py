"""`refdiff samplers`: every family, its orders, its table."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refdiff.cli import names, options, printing

if TYPE_CHECKING:
    from rich.console import Console

    from refdiff.samplers.families import Family

COUNTS = (32, 64, 128, 256)


@click.command()
@click.argument("name", required=False)
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Steps of the table shown.")
@names.PROCESS
@names.GRID
@names.START
@names.END
@click.option(
    "--set", "options", multiple=True, callback=options.settings, metavar="KEY=VALUE", help="An option of the sampler."
)
@click.option("--prediction", help="Show the table for a model that answers this prediction.")
@click.option("--coordinate", help="Show the stages as x, x/alpha or x/sigma.")
@click.option("--save", "file", **options.FILE_TO_WRITE, help="Write the table (.json, .npz).")
@click.option("--only", callback=options.pattern, help="List the families whose name matches a regular expression.")
@click.option("--measure/--no-measure", default=True, show_default=True, help="Measure the orders for the list.")
def samplers(name: str | None, only: re.Pattern[str] | None, measure: bool, **shown: Any) -> None:
    """List the families of samplers, or show the table of one.

    The list has the order that theory states and the measured one (Gaussian data, exact errors), where a multistep
    method starts with lower-order steps also the order as run, the evaluations for n steps, and whether it adds noise.
    """
    console = printing.console()
    if name is not None and only is not None:
        raise click.UsageError("NAME and --only exclude each other")
    if name is None:
        _list(console, only, measure)
    else:
        _show(console, names.family(name), **shown)


# ---------------------------------------------------------------------- one family


def _show(
    console: Console,
    family: Family,
    *,
    steps: int,
    process: str,
    grid: str,
    start: float | None,
    end: float | None,
    options: dict[str, Any],
    prediction: str | None,
    coordinate: str | None,
    file: Path | None,
) -> None:
    from refdiff.samplers.compare import grid_times
    from refdiff.samplers.conversions import to_coordinate, to_prediction
    from refdiff.samplers.storage import save

    known = [p for p in inspect.signature(family.build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := options.keys() - {p.name for p in known}:
        raise click.UsageError(
            f"{unknown.pop()!r} must be an option of {family.name}: {', '.join(p.name for p in known)}"
        )
    schedule = names.processes()[process]()
    try:
        tableau = family(schedule, grid_times(schedule, grid, steps, start, end), **options)
        tableau = to_prediction(tableau, prediction) if prediction else tableau
        tableau = to_coordinate(tableau, coordinate) if coordinate else tableau
        if file is not None:
            save(tableau, file)
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from None
    head = (inspect.getdoc(family.build) or "").split("\n\n")[0].replace("\n", " ")
    given = {**family.options, **options}
    console.print(f"{family.name}: {head}", soft_wrap=True)
    console.print(f"source   {family.source}", soft_wrap=True)
    if known:
        listed = ", ".join(f"{p.name} = {given.get(p.name, p.default)!r}" for p in known)
        console.print(f"options  {listed}", soft_wrap=True)
    console.print(f"\n{tableau}", soft_wrap=True)


# ---------------------------------------------------------------------- all families


def _list(console: Console, only: re.Pattern[str] | None, measure: bool) -> None:
    from rich.table import Table

    from refdiff.samplers.families import families

    chosen = {name: one for name, one in families().items() if only is None or only.search(name)}
    if not chosen:
        raise click.UsageError(f"no sampler matches --only {only.pattern if only else ''!r}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    head = ["sampler", "order", *(["measured", "as run"] if measure else []), "nfe", "noise", "source"]
    rows = [
        [name, *_entries(family, measure)] for name, family in printing.track(chosen.items(), len(chosen), "orders")
    ]
    for column, cells in zip(head, zip(*rows, strict=True), strict=True):
        # where the console is narrow, only the source is cut
        least = None if column == "source" else max(map(len, [column, *cells]))
        number = column in ("order", "measured", "as run", "nfe")
        table.add_column(column, justify="right" if number else "left", no_wrap=True, min_width=least)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _entries(family: Family, measure: bool) -> list[str]:
    """The columns after the name."""
    schedule = names.processes()["vp-linear"]()
    stochastic = family(schedule, family.grid(schedule, 8, 0.6, 0.2)).stochastic
    stated = "-" if family.order is None else f"{family.order:g}"
    measured: list[str] = []
    if measure:
        both = (False, family.order is not None), (True, family.startup is not None)
        measured = [_measured_order(family, as_run) if wanted else "" for as_run, wanted in both]
    return [stated, *measured, family.nfe, "yes" if stochastic else "", family.source]


def _measured_order(family: Family, as_run: bool) -> str:
    from refdiff.distributions import Gaussian

    law = Gaussian([0.7, -0.3, 0.5], [0.25, 1.5, 0.12])
    try:
        return f"{family.measured(law, as_run=as_run, **{'counts': COUNTS, **family.measure}).order:.2f}"
    except ValueError:  # fewer than two errors above rounding
        return "exact"
