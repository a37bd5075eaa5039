r"""The command line: `refdiff validate` runs the identities of diffusion theory, `refdiff samplers` and
`refdiff compare` show samplers, `refdiff audit` puts other people's to the test, `refdiff info` says what is installed.

Exit status: 0 every identity holds; 1 an identity failed, or its negative control was not rejected; 2 the command was
not understood; 130 interrupted (what was found by then is written). Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refdiff import __version__, backends, command_line, files
from refdiff.cli_audit import audit
from refdiff.cli_bench import bench
from refdiff.cli_samplers import compare, samplers
from refdiff.validation import threads

if TYPE_CHECKING:
    from rich.console import Console

    from refdiff.validation.data import Data
    from refdiff.validation.identity import Identity
    from refdiff.validation.report import Run

# Fewer identities than this are done before a second process has started: at a tenth of a second each, or a thirtieth
# in a quick run, against two seconds.
WORTH_SHARING, WORTH_SHARING_QUICK = 20, 60


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="refdiff")
def main() -> None:
    """The reference implementation of the mathematics of diffusion generative models."""
    try:
        backends.current()
    except ValueError as error:
        raise click.UsageError(str(error)) from None


# ---------------------------------------------------------------------- options


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


OPTIONAL = {
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "torch": ("torch",),
    "diffusers": ("diffusers",),
    "matplotlib": ("matplotlib",),
    "dask": ("dask",),
    "scikit-learn": ("scikit-learn",),
}


@main.command()
@click.option(
    "--data",
    "data",
    type=command_line.FILE,
    help="Points of your own (.npy, .npz, .csv) in place of the built-in laws.",
)
@click.option("--weights", type=command_line.FILE, help="A file with one weight for each point of --data.")
@click.option("--bandwidth", type=float, help="Standard deviation of a Gaussian kernel on each point of --data.")
@click.option("--points", type=click.IntRange(min=1), help="At most so many points of --data  [default: a short run]")
@click.option(
    "--only", callback=command_line.pattern, help="Regular expression on names, topics and ids; case does not matter."
)
@click.option("--source", callback=_prefixes, help="Only items of one text: its name, or a prefix of its ids.")
@click.option("--quick", is_flag=True, help="Fewer cases.")
@click.option("--thorough", is_flag=True, help="All laws under all processes at four times.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="What random numbers come from.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at work  [default: 2, or 1 where that is faster]")
@click.option(
    "--json",
    "json_file",
    type=command_line.FILE,
    callback=command_line.writable,
    help="Write the results for machines.",
)
@click.option(
    "--html", "html_file", type=command_line.FILE, callback=command_line.writable, help="Write the results as a page."
)
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

    from refdiff.validation import terminal

    if quick and thorough:
        raise click.UsageError("--quick and --thorough exclude each other")
    for name in ("weights", "bandwidth", "points"):
        if data is None and context.params[name] is not None:
            raise click.UsageError(f"--{name} says something about the points in --data FILE, which is missing")
    targets = [path.resolve() for path in (data, weights, json_file, html_file) if path is not None]
    if len(set(targets)) < len(targets):
        raise click.UsageError("--data, --weights, --json and --html must be different files")
    chosen = _chosen(only, source)
    console = command_line.console()
    if listing:
        for part in terminal.listing(chosen):
            console.print(part)
        return
    given = _load(data, weights, bandwidth, seed, points)
    level = "quick" if quick else "thorough" if thorough else "default"
    run = _execute(console, chosen, level, seed, given, _jobs(jobs, len(chosen), quick))
    problems = _write(run, json_file, html_file)
    for part in terminal.table(run, console.width):
        console.print(part, soft_wrap=isinstance(part, Text))  # a sentence stays on one line where it is piped
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    context.exit(130 if run.interrupted else 1 if run.failures or problems else 0)


@main.command()
def info() -> None:
    """Versions, linear algebra, processors, and which backends can run here."""
    _print_info(command_line.console())


main.add_command(samplers)
main.add_command(compare)
main.add_command(bench)
main.add_command(audit)


# ---------------------------------------------------------------------- choosing and running


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
    """All outcomes, or those found before Ctrl-C, behind a progress bar on stderr."""
    from refdiff.validation.parallel import outcomes
    from refdiff.validation.report import Run, counted

    described = "" if data is None else data.describe()
    head = [f"refdiff {__version__}", counted(len(chosen), "identity"), f"level {level}", f"seed {seed}"]
    given = None if data is None else {data.name: data.law()}
    start, found = time.perf_counter(), {}
    try:
        console.print(", ".join(head + [f"data {described}"] * bool(described)), soft_wrap=True)
        with (
            command_line.progress(len(chosen)) as advance,
            closing(outcomes(chosen, level, seed, given, jobs)) as stream,
        ):
            for place, outcome in stream:
                found[place] = outcome
                advance(outcome.identity.name)
    except KeyboardInterrupt:  # what is there is worth reporting
        pass
    in_order = tuple(found[place] for place in sorted(found))
    return Run(in_order, len(chosen), level, seed, described, time.perf_counter() - start)


def _jobs(asked: int | None, count: int, quick: bool) -> int:
    """How many processes: one where a second would still be starting when the first is done."""
    if asked is not None:
        return asked
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if count < (WORTH_SHARING_QUICK if quick else WORTH_SHARING) else min(2, processors)


def _write(run: Run, json_file: Path | None, html_file: Path | None) -> list[str]:
    """Write the reports; what went wrong, in words. One that fails does not stop the other."""
    from refdiff.validation import report

    def as_text(build: Callable[[Run], Any]) -> str:
        return json.dumps(build(run), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    problems = []
    texts: dict[Path | None, Callable[[], str]] = {
        json_file: lambda: as_text(report.as_json),
        html_file: lambda: report.page(run),
    }
    for path, text in texts.items():
        try:
            if path is not None:
                files.write_text(path, text())
        except Exception as error:  # a full disk, or a page that cannot be built: the other report still counts
            problems.append(f"{path} was not written: {error!r}")
    return problems


# ---------------------------------------------------------------------- printing


def _print_info(console: Console) -> None:
    from rich.padding import Padding
    from rich.table import Table

    from refdiff.validation.report import environment

    rows: dict[str, dict[str, str]] = {
        "versions": {**{name: str(value) for name, value in environment().items()}, "numba": _version("numba")},
        "optional": {name: _version(*alternatives) for name, alternatives in OPTIONAL.items()},
        "linear algebra": _linear_algebra(),
        "backends": _backends(),
    }
    for title, entries in rows.items():
        console.print(title, style="bold")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=14)
        table.add_column(overflow="fold")
        for name, value in entries.items():
            table.add_row(name, value)
        console.print(Padding(table, (0, 0, 0, 2)))


def _version(*distributions: str) -> str:
    """The version of the first of these distributions that is installed, without importing it."""
    for name in distributions:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return "not installed"


def _linear_algebra() -> dict[str, str]:
    import numpy as np

    built: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    blas = built.get("Build Dependencies", {}).get("blas", {})
    set_to = [f"{name}={os.environ[name]}" for name in threads.VARIABLES if name in os.environ]
    return {
        "BLAS": " ".join(str(blas.get(key, "")) for key in ("name", "version")).strip() or "unknown",
        "threads": ", ".join(set_to) or "no variable limits them: as many as processors",
    }


def _backends() -> dict[str, str]:
    """What can run here, or why not, without importing any of it."""
    numba, cupy = _version("numba"), _version(*OPTIONAL["cupy"])
    devices = _cuda_devices()
    missing = "CuPy is not installed (pip install 'refdiff[gpu-cuda12]' or 'refdiff[gpu-cuda13]')"
    reasons = [missing] * (cupy == "not installed") + [devices] * (not devices[:1].isdigit())
    return {
        "NumPy": "ready",
        "Numba": "not installed" if numba == "not installed" else f"ready ({numba}); backend {backends.current()}",
        "CUDA": "not available: " + "; ".join(reasons) if reasons else f"ready (CuPy {cupy}, {devices})",
    }


def _cuda_devices() -> str:
    """How many devices the CUDA driver shows, or why it shows none."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return "no CUDA driver"
    if status or count.value == 0:
        return f"the CUDA driver finds no device (status {status})"
    return f"{count.value} device{'s' * (count.value > 1)}"
