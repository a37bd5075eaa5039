r"""`refdiff validate`: the identities of diffusion theory, each with its negative control.

Exit status: 0 every identity holds; 1 an identity failed, or its negative control was not rejected; 2 the command was
not understood; 130 stopped by Ctrl-C or SIGTERM (what was found by then is written).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refdiff import __version__
from refdiff.cli import options, printing
from refdiff.validation import threads

if TYPE_CHECKING:
    from rich.console import Console

    from refdiff.validation.data import Data
    from refdiff.validation.identity import Identity
    from refdiff.validation.report import Run

# Fewer identities than this are done before a second process has started: at a tenth of a second each, or a thirtieth
# in a quick run, against two seconds.
WORTH_SHARING, WORTH_SHARING_QUICK = 20, 60


def _prefixes(context: click.Context, option: click.Parameter, name: str | None) -> tuple[str, ...]:  # noqa: ARG001
    """The prefixes of item ids that a source's name, or the beginning of a prefix, stands for."""
    if name is None:
        return ()
    from refdiff.validation.ledger import SOURCES

    known = [prefix for prefixes in SOURCES.values() for prefix in prefixes]
    found = SOURCES.get(name.lower()) or tuple(prefix for prefix in known if prefix.startswith(name.upper() or "-"))
    if not found:
        raise click.BadParameter(f"{name!r} must be one of {', '.join(SOURCES)}, or a prefix of {', '.join(known)}")
    return found


@click.command()
@click.option("--data", type=options.FILE, help="Points of your own (.npy, .npz, .csv) in place of the built-in laws.")
@click.option("--weights", type=options.FILE, help="A file with one weight for each point of --data.")
@click.option("--bandwidth", type=float, help="Standard deviation of a Gaussian kernel on each point of --data.")
@click.option("--points", type=click.IntRange(min=1), help="At most so many points of --data  [default: a short run]")
@click.option(
    "--only", callback=options.pattern, help="Regular expression on names, topics and ids; case does not matter."
)
@click.option("--source", callback=_prefixes, help="Only items of one text: its name, or a prefix of its ids.")
@click.option("--quick", is_flag=True, help="Fewer cases.")
@click.option("--thorough", is_flag=True, help="All laws under all processes at four times.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What random numbers come from.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at work  [default: 2, or 1 where that is faster]")
@click.option(
    "--json",
    "json_file",
    type=options.FILE,
    callback=options.writable,
    help="Write the results for machines.",
)
@click.option("--html", "html_file", type=options.FILE, callback=options.writable, help="Write the results as a page.")
@click.option("--list", "listing", is_flag=True, help="Print the identities and run nothing.")
@click.pass_context
def validate(
    context: click.Context,
    data: Path | None,
    weights: Path | None,
    bandwidth: float | None,
    points: int | None,
    only: re.Pattern[str] | None,
    source: tuple[str, ...],
    quick: bool,
    thorough: bool,
    seed: int,
    jobs: int | None,
    json_file: Path | None,
    html_file: Path | None,
    listing: bool,
) -> None:
    """Check the identities of diffusion theory, each with its negative control.

    Every line of the table is one identity: the worst relative error between its two sides over all cases, the
    tolerance of its kind of evidence, and by how many tolerances the same check misses when a mistake is built in.
    With --data, a mistake that makes no difference for these points is tried on the built-in laws.

    \b
    Exit status:  0  every identity holds
                  1  an identity failed, or its control was not rejected
                  2  the command was not understood
                130  interrupted; what was found by then is written
    """
    threads.limit()
    from rich.text import Text

    from refdiff.validation import report, terminal
    from refdiff.validation.page import page

    if quick and thorough:
        raise click.UsageError("--quick and --thorough exclude each other")
    for name in ("weights", "bandwidth", "points"):
        if data is None and context.params[name] is not None:
            raise click.UsageError(f"--{name} says something about the points in --data FILE, which is missing")
    options.different(data=data, weights=weights, json=json_file, html=html_file)
    chosen = _chosen(only, source)
    console = printing.console()
    if listing:
        for part in terminal.listing(chosen):
            console.print(part)
        return
    jobs = options.jobs_for(len(chosen), jobs, WORTH_SHARING_QUICK if quick else WORTH_SHARING)
    given = _load(data, weights, bandwidth, seed, points)
    level = "quick" if quick else "thorough" if thorough else "default"
    run = _execute(console, chosen, level, seed, given, jobs)
    problems = printing.write(
        [(json_file, lambda: printing.as_json(report.as_json(run))), (html_file, lambda: page(run))]
    )
    for part in terminal.table(run, console.width):
        console.print(part, soft_wrap=isinstance(part, Text))  # a sentence stays on one line where it is piped
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    context.exit(130 if run.interrupted else 1 if run.failures or problems else 0)


def _chosen(only: re.Pattern[str] | None, source: tuple[str, ...]) -> list[Identity]:
    """The identities that both options admit, in the order of the registry."""
    from refdiff.validation.runner import registry

    def admitted(one: Identity) -> bool:
        items = one.covers + one.refutes
        named = only is None or any(only.search(text) for text in (one.name, one.topic, *items))
        return named and (not source or any(item.split("-")[0] in source for item in items))

    found = [one for one in registry().values() if admitted(one)]
    if not found:
        asked = [f"--only {only.pattern!r}"] if only else []
        asked += [f"--source {'/'.join(source)}"] * bool(source)
        raise click.UsageError(f"no identity matches {' and '.join(asked)}; refdiff validate --list shows all")
    return found


def _load(path: Path | None, weights: Path | None, bandwidth: float | None, seed: int, most: int | None) -> Data | None:
    from refdiff.validation.data import DataError, load

    try:
        return None if path is None else load(path, weights, bandwidth, seed, most)
    except DataError as error:
        raise click.BadParameter(str(error), param_hint=f"'--{error.argument}'") from None


def _execute(console: Console, chosen: Sequence[Identity], level: str, seed: int, data: Data | None, jobs: int) -> Run:
    """All outcomes, or those found before it is stopped, behind a progress bar on stderr."""
    from refdiff.validation.parallel import outcomes
    from refdiff.validation.report import Run, counted

    described = "" if data is None else data.describe()
    head = [f"refdiff {__version__}", counted(len(chosen), "identity"), f"level {level}", f"seed {seed}"]
    given = None if data is None else {data.name: data.law()}
    start, found = time.perf_counter(), {}
    with printing.until_stopped():
        console.print(", ".join(head + [f"data {described}"] * bool(described)), soft_wrap=True)
        with (
            printing.progress(len(chosen)) as advance,
            closing(outcomes(chosen, level, seed, given, jobs)) as stream,
        ):
            for place, outcome in stream:
                found[place] = outcome
                advance(outcome.identity.name)
    in_order = tuple(found[place] for place in sorted(found))
    return Run(in_order, len(chosen), level, seed, described, time.perf_counter() - start)
