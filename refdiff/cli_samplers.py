r"""`refdiff samplers`: every family, its orders, its table; `refdiff compare`: exact distance against evaluations."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refdiff import command_line, files

if TYPE_CHECKING:
    from rich.console import Console

    from refdiff.distributions import GaussianMixture
    from refdiff.processes import AffineProcess
    from refdiff.samplers.compare import Measured
    from refdiff.samplers.families import Family
    from refdiff.schedules import Schedule

# Shown where no sampler is named: one of every kind.
USUAL = ("ddim", "ddpm", "edm-heun", "dpm-solver-2", "dpmpp-2m", "dpmpp-3m", "deis-tab2", "unipc-3", "dpmpp-2m-sde")
COUNTS = (32, 64, 128, 256)


def processes() -> Mapping[str, Callable[[], AffineProcess | Schedule]]:
    """The processes that the command line knows by name."""
    from refdiff.processes import catalogue

    return catalogue()


def laws() -> dict[str, GaussianMixture]:
    """The laws that the command line knows by name."""
    import numpy as np

    from refdiff.distributions import Empirical, Gaussian, GaussianMixture

    return {
        "gaussian": Gaussian([0.7], 0.25),
        "normal": Gaussian([0.0], 1.0),
        "spectrum": Gaussian(np.zeros(64), 1.0 / np.arange(1.0, 65.0) ** 2),
        "mixture": GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], [0.4, 0.6]),
        "points": Empirical([[-1.0], [1.0]]),
    }


class Named(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click
    """A name in a table that is made when it is asked for: --help of another command does not wait for SciPy."""

    def __init__(self, what: str, table: Callable[[], Mapping[str, Any]]) -> None:
        self.name, self.table = what, table

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """The names, for --help."""
        return f"[{'|'.join(self.table())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if the table has it."""
        if value not in self.table():
            self.fail(f"{value!r} must be a {self.name}: {', '.join(self.table())}", param, ctx)
        return value


def _settings(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG001
    """KEY=VALUE pairs, values as JSON where they are (numbers, true, lists), as text otherwise."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} must be KEY=VALUE")
        try:
            found[key.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            found[key.replace("-", "_")] = value
    return found


def _grids() -> Mapping[str, Any]:
    from refdiff.samplers.times import GRIDS

    return GRIDS


PROCESS = click.option(
    "--process", default="vp-linear", show_default=True, type=Named("process", processes), help="The noising process."
)
GRID = click.option(
    "--grid",
    default="uniform-log-snr",
    show_default=True,
    type=Named("grid", _grids),
    help="How times are spaced.",
)
START = click.option("--start", type=float, help="The first (noisiest) time  [default: T, or where lambda = -5]")
END = click.option("--end", type=float, help="The last time  [default: where lambda = 4]")


@click.command()
@click.argument("name", required=False)
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Steps of the table shown.")
@PROCESS
@GRID
@START
@END
@click.option(
    "--set", "options", multiple=True, callback=_settings, metavar="KEY=VALUE", help="An option of the sampler."
)
@click.option("--prediction", help="Show the table for a model that answers this prediction.")
@click.option("--coordinate", help="Show the stages as x, x/alpha or x/sigma.")
@click.option(
    "--save", "file", type=command_line.FILE, callback=command_line.writable, help="Write the table (.json, .npz)."
)
@click.option(
    "--only", callback=command_line.pattern, help="List the families whose name matches a regular expression."
)
@click.option("--measure/--no-measure", default=True, show_default=True, help="Measure the orders for the list.")
def samplers(name: str | None, only: re.Pattern[str] | None, measure: bool, **shown: Any) -> None:
    """List the families of samplers, or show the table of one.

    The list has the order that theory states and the measured one (Gaussian data, exact errors), where a multistep
    method starts with lower-order steps also the order as run, the evaluations for n steps, and whether it adds noise.
    """
    console = command_line.console()
    if name is not None and only is not None:
        raise click.UsageError("NAME and --only exclude each other")
    if name is None:
        _list(console, only, measure)
    else:
        _show(console, _family(name), **shown)


@click.command()
@click.argument("names", nargs=-1)
@PROCESS
@click.option("--law", default="gaussian", show_default=True, type=Named("law", laws), help="The data.")
@click.option("--data", type=command_line.FILE, help="A Gaussian with the mean and covariance of your points, as data.")
@click.option("--steps", default="5,10,20,40,80", show_default=True, help="Numbers of steps, with commas.")
@GRID
@START
@END
@click.option(
    "--plot", type=command_line.FILE, callback=command_line.writable, help="Draw the plot (.png, .svg, .pdf)."
)
@click.option("--json", "json_file", type=command_line.FILE, callback=command_line.writable, help="Write the numbers.")
def compare(
    names: tuple[str, ...],
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
    chosen = {name: _family(name) for name in names or USUAL}
    target = laws()[law] if data is None else _fitted(data)
    console = command_line.console()
    try:
        stream = work_precision(chosen, processes()[process](), target, counts, grid=grid, start=start, end=end)
        rows = list(command_line.track(stream, len(chosen) * len(counts), "samplers"))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _print_comparison(console, rows, counts)
    if json_file is not None:
        files.write_text(json_file, json.dumps([vars(row) for row in rows], indent=1))
    if plot is not None:
        try:
            plotting.work_precision(
                rows, plot, f"{law if data is None else data.name} data, process {process}, grid {grid}"
            )
        except ValueError as error:
            raise click.ClickException(f"{plot} was not drawn: {error}") from None


# ---------------------------------------------------------------------- one family


def _family(name: str) -> Family:
    from refdiff.samplers.families import families

    known = families()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see them with refdiff samplers --no-measure"
        raise click.UsageError(f"{name!r} is no sampler; {hint}")
    return known[name]


def _fitted(path: Path) -> GaussianMixture:
    """The Gaussian with the mean and covariance of the points in a file."""
    from refdiff.distributions import Gaussian
    from refdiff.validation.data import DataError, load

    try:
        points = load(path, most=10**6).law()
    except DataError as error:
        raise click.BadParameter(str(error), param_hint="'--data'") from None
    return Gaussian(points.mean(), points.cov())


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
    schedule = processes()[process]()
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
        [name, *_entries(family, measure)] for name, family in command_line.track(chosen.items(), len(chosen), "orders")
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
    schedule = processes()["vp-linear"]()
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
