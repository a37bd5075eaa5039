r"""`refdiff bench`: refdiff beside other libraries, in alternating repetitions, with answers that agree.

Exit status: 0 all answers agree; 1 one does not, or refdiff broke, or the file was not written; 130 interrupted.
Whether refdiff is as fast as is asked for is reported and changes nothing: it depends on the machine. With --gpu all
that runs on one GPU; where there is none that works, what stands in the way is printed, and the exit status is 0.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refdiff.cli import options, printing
from refdiff.validation import threads as threading_variables

if TYPE_CHECKING:
    from rich.console import Console

    from refdiff.validation.benchmarks.places import Place
    from refdiff.validation.benchmarks.suite import Outcome, Plan
    from refdiff.validation.benchmarks.workloads import Workload

LEVELS = ("full", "quick", "tiny")


@click.command()
@click.option("--peers", is_flag=True, help="Other libraries take part where they are installed.")
@click.option("--only", callback=options.pattern, help="Regular expression on names of workloads.")
@click.option("--quick", "level", flag_value="quick", help="Smaller problems: minutes in place of half an hour.")
@click.option("--level", type=click.Choice(LEVELS), default="full", hidden=True)
@click.option("--gpu", is_flag=True, help="Workloads and contenders of one GPU; without one, says why and ends.")
@click.option("--float32", is_flag=True, help="With --gpu: numbers of 32 bits, where they have digits enough.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of every contender.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Repetitions at most.")
@click.option(
    "--budget", type=click.FloatRange(min=0), default=25.0, show_default=True, help="Seconds of one contender's rounds."
)
@click.option(
    "--json",
    "json_file",
    **options.FILE_TO_WRITE,
    help="Write the results for machines.",
)
@click.option("--list", "listing", is_flag=True, help="Print workloads and contenders and run nothing.")
@click.pass_context
def bench(
    context: click.Context,
    peers: bool,
    only: re.Pattern[str] | None,
    level: str,
    gpu: bool,
    float32: bool,
    threads: int,
    rounds: int,
    budget: float,
    json_file: Path | None,
    listing: bool,
) -> None:
    """Time refdiff beside other libraries, each at its best.

    Each workload runs in alternating repetitions; a ratio is the median over rounds of the seconds of a contender
    over those of refdiff. The limits of this machine are measured in the same rounds. Without --peers only refdiff,
    NumPy and SciPy take part, or with --gpu refdiff and arrays of CuPy.

    \b
    Exit status:  0  all answers agree
                  1  an answer is wrong, or refdiff broke
                  2  the command was not understood
                130  interrupted; what was found by then is written
    """
    with _confined(threads):
        from refdiff.validation.benchmarks import report
        from refdiff.validation.benchmarks.suite import Plan

        chosen = _chosen(only, gpu, float32)
        console = printing.console()
        if listing:
            _list(console, chosen, gpu)
            return
        plan = Plan(level, peers, threads, rounds, budget)
        if gpu and not _gpu_works(console):
            return
        place, machine = _place(plan, gpu, float32)
        problems: list[str] = []

        def keep(outcomes: Sequence[Outcome], interrupted: bool) -> None:
            text = lambda: printing.as_json(report.as_json(outcomes, plan, interrupted, place))  # noqa: E731
            problems[:] = printing.write([(json_file, text)])

        outcomes, interrupted = _execute(console, chosen, plan, place, machine, keep)
        keep(outcomes, interrupted)
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    context.exit(130 if interrupted else 1 if problems or any(one.failed for one in outcomes) else 0)


def _chosen(only: re.Pattern[str] | None, gpu: bool, float32: bool) -> list[Workload]:
    from refdiff.validation.benchmarks import gpu_workloads, workloads

    if float32 and not gpu:
        raise click.UsageError("--float32 goes with --gpu: processors compute in float64")
    every = gpu_workloads.WORKLOADS if gpu else workloads.WORKLOADS
    found = [one for one in every if only is None or only.search(one.name)]
    found = [one for one in found if not (float32 and one.kind in gpu_workloads.DOUBLE)]
    if not found:
        raise click.UsageError(f"no workload matches --only {only.pattern if only else ''!r}; see refdiff bench --list")
    return found


def _gpu_works(console: Console) -> bool:
    """Whether a kernel runs here; else what stands in the way is printed."""
    from refdiff.cli import gpu
    from refdiff.validation.benchmarks.gpu import broken

    if not (problem := broken()):
        return True
    console.print("Nothing was measured: no GPU can be used here.", style="bold")
    for reason in gpu.look().reasons or [problem]:
        console.print(f"  {reason}", soft_wrap=True)
    console.print("refdiff info shows what was found.")
    return False


def _place(plan: Plan, gpu: bool, float32: bool) -> tuple[Place, Callable[[], Any]]:
    """Where contenders run, and what measures its limits."""
    scale = 0.05 if plan.level == "tiny" else 1.0
    if not gpu:
        from refdiff.validation.benchmarks.limits import Machine
        from refdiff.validation.benchmarks.suite import CPU

        return CPU, Machine(plan.threads, scale)
    from refdiff.validation.benchmarks.gpu import place
    from refdiff.validation.benchmarks.gpu_machine import DeviceMachine

    found = place("float32" if float32 else "float64")
    return found, DeviceMachine(found.dtype, found.clock, scale / 10 if plan.level == "tiny" else 1.0)


@contextmanager
def _confined(threads: int) -> Iterator[None]:
    """At most so many processors, and as many threads in each library that is loaded from here on.

    Libraries count the processors they may run on; one that takes its number from nowhere else is held by those.
    """
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(threading_variables.VARIABLES, str(threads)))
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(before) > threads:
        os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        if len(before) > threads:
            os.sched_setaffinity(0, before)


def _execute(
    console: Console,
    chosen: Sequence[Workload],
    plan: Plan,
    place: Place,
    machine: Callable[[], Any],
    keep: Callable[[Sequence[Outcome], bool], None],
) -> tuple[list[Outcome], bool]:
    """The outcomes, each printed and kept when it is there, and whether it was stopped before the end."""
    from refdiff.validation.benchmarks import report
    from refdiff.validation.benchmarks.suite import measure

    outcomes: list[Outcome] = []
    for line in report.head(plan, place):
        console.print(line, soft_wrap=True)
    with printing.until_stopped(), printing.progress(len(chosen)) as advance:
        for workload in chosen:
            outcome = measure(workload, plan, machine, place=place)
            outcomes.append(outcome)
            keep(outcomes, True)  # what is there stays, whatever follows
            advance(workload.name)
            for part in report.shown(outcome):
                console.print(part, soft_wrap=isinstance(part, str))
    interrupted = len(outcomes) < len(chosen)
    if not (plan.peers or interrupted):
        console.print("\nOther libraries take part with --peers.")
    return outcomes, interrupted


def _list(console: Console, chosen: Sequence[Workload], gpu: bool) -> None:
    from refdiff.validation.benchmarks import contenders, report

    everyone = contenders.CONTENDERS
    if gpu:
        from refdiff.validation.benchmarks.gpu import CONTENDERS as everyone
    for workload in chosen:
        sizes = report.sizes({name: size for name, size in workload.sizes.items() if name != "sigma"})
        console.print(f"{workload.name}: {workload.title}, {sizes}", style="bold", soft_wrap=True)
        for one in contenders.of_kind(workload.kind, everyone):
            needed = f"not installed: pip install {' '.join(one.missing)}" if one.missing else report.versions(one)
            console.print(f"    {one.name:<20}{needed}".rstrip(), soft_wrap=True)
        for goal in workload.goals:
            console.print(f"    goal  {goal.text}", soft_wrap=True)
