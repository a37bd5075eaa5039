r"""`refdiff audit`: other people's samplers, schedulers and denoisers against the exact model.

Exit status: 0 nothing is wrong, or nothing that the baseline does not have; 1 something is, or a file was not written;
2 the command was not understood; 130 stopped by Ctrl-C or SIGTERM (what was found by then is written).
"""

from __future__ import annotations

import os
import re
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from refdiff.cli import options, printing
from refdiff.validation import threads

if TYPE_CHECKING:
    from rich.console import Console

    from refdiff.validation.audits.audit import Unit
    from refdiff.validation.audits.baseline import Baseline
    from refdiff.validation.audits.report import Run

# Fewer subjects than this are done before a second process has imported torch.
WORTH_SHARING = 6


@click.command()
@click.argument("target", required=False)
@click.option("--protocol", metavar="NAME", help="How a callable of your own is called; see --list.")
@click.option("--family", metavar="NAME", help="What it claims to be: a name from `refdiff samplers`.")
@click.option(
    "--set", "options", multiple=True, callback=options.settings, metavar="KEY=VALUE", help="An option of the target."
)
@click.option(
    "--claim", "claimed", multiple=True, callback=options.settings, metavar="KEY=VALUE", help="One of the family."
)
@click.option("--dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True,
              help="Number type of the points.")  # fmt: skip
@click.option("--only", multiple=True, callback=lambda c, o, texts: [options.pattern(c, o, t) for t in texts],
              metavar="PATTERN", help="Only these questions, or these subjects: regular expressions.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Fewer options and numbers of steps.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at work  [default: 2, or 1 where that is faster]")
@click.option("-v", "--verbose", is_flag=True, help="Show what is ok and what does not apply, too.")
@click.option("--json", "json_file", **options.FILE_TO_WRITE, help="Write the findings for machines.")
@click.option("--html", "html_file", **options.FILE_TO_WRITE, help="Write the findings as a page, with pictures.")
@click.option("--baseline", **options.FILE_TO_WRITE, help="A file of what is known: only what is new fails.")
@click.option("--update-baseline", is_flag=True, help="Write what is wrong now to --baseline.")
@click.option("--list", "listing", is_flag=True, help="Print protocols and members and run nothing.")
@click.pass_context
def audit(
    context: click.Context,
    /,
    target: str | None,
    only: list[re.Pattern[str]],
    quick: bool,
    jobs: int | None,
    verbose: bool,
    json_file: Path | None,
    html_file: Path | None,
    baseline: Path | None,
    update_baseline: bool,
    listing: bool,
    **asked: Any,
) -> None:
    """Audit a sampler, a scheduler or a denoiser: does it do what its paper says?

    TARGET is a library (diffusers), a member of it (diffusers:UniPCMultistepScheduler), or a callable of your own
    (package.module:function or file.py:function) with --protocol.

    \b
    refdiff audit diffusers --quick
    refdiff audit diffusers:UniPCMultistepScheduler --set solver_order=3 --set use_karras_sigmas=true
    refdiff audit mine.py:my_sampler --protocol k-diffusion --family edm-heun --claim s_churn=2

    \b
    Exit status:  0  nothing is wrong that --baseline does not have
                  1  something is, or nothing could be examined
                  2  the command was not understood
                130  interrupted; what was found by then is written
    """
    threads.limit()
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of foreign code
    from refdiff.validation.audits import report

    console = printing.console()
    if listing:
        _list(console, quick)
        return
    if target is None:
        raise click.UsageError("what is to be audited? TARGET is a library or MODULE:NAME; --list shows what there is")
    known = _baseline(baseline, update_baseline)
    options.different(json=json_file, html=html_file, baseline=baseline)
    try:
        chosen, questions = _chosen(target, only, quick, asked)
    except KeyboardInterrupt:
        click.echo("Interrupted before anything was examined.", err=True)
        context.exit(130)
    run = _execute(console, chosen, questions, quick, options.jobs_for(len(chosen), jobs, WORTH_SHARING), known)
    problems = _write(run, json_file, html_file, baseline if update_baseline else None)
    for part in report.shown(run, verbose):
        console.print(part, soft_wrap=True)
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    failed = problems or run.idle or (run.new and not update_baseline)
    context.exit(130 if run.interrupted else 1 if failed else 0)


# ---------------------------------------------------------------------- what is asked


def _baseline(path: Path | None, update: bool) -> Baseline:
    from refdiff.validation.audits import baseline

    if path is None:
        if update:
            raise click.UsageError("--update-baseline needs to know the file: --baseline FILE")
        return baseline.Baseline()
    try:
        return baseline.Baseline() if update and not path.exists() else baseline.load(path)
    except baseline.BadBaseline as error:
        raise click.BadParameter(str(error), param_hint="'--baseline'") from None


def _chosen(
    target: str, only: list[re.Pattern[str]], quick: bool, asked: dict[str, Any]
) -> tuple[list[Unit], re.Pattern[str] | None]:
    """The subjects, and the names of the checks that they are put to, where those are chosen."""
    from refdiff.validation.audits import audit, targets
    from refdiff.validation.audits.asking import BadTarget
    from refdiff.validation.audits.protocols.protocol import protocols

    try:
        found = targets.find(target, quick=quick, **asked)
    except BadTarget as error:
        raise click.UsageError(str(error)) from None
    chosen = audit.units(found)
    names = {name for one in found for check in audit.checks(protocols()[one.protocol]) for name in audit.names(check)}
    questions, subjects = [], []
    for pattern in only:
        if any(pattern.fullmatch(name) for name in names):
            questions.append(rf"\A(?:{pattern.pattern})\Z")
        elif any(pattern.search(unit.name) for unit in chosen):
            subjects.append(pattern)
        elif any(pattern.search(name) for name in names):
            questions.append(pattern.pattern)
        else:
            listed = ", ".join(sorted(names))
            raise click.UsageError(f"no subject matches --only {pattern.pattern!r}, nor a question: {listed}")
    if subjects:
        chosen = [unit for unit in chosen if any(one.search(unit.name) for one in subjects)]
    return chosen, re.compile("|".join(questions), re.IGNORECASE) if questions else None


# ---------------------------------------------------------------------- running


def _execute(
    console: Console,
    chosen: list[Unit],
    questions: re.Pattern[str] | None,
    quick: bool,
    jobs: int,
    known: Baseline,
) -> Run:
    """All results, or those found before it is stopped, behind a progress bar on stderr."""
    from refdiff.validation.audits import audit, report

    start, found = time.perf_counter(), {}
    with printing.until_stopped():
        for line in report.head(chosen, quick):
            console.print(line, soft_wrap=True)
        with (
            printing.progress(len(chosen)) as advance,
            closing(audit.results(chosen, quick=quick, questions=questions, jobs=jobs)) as stream,
        ):
            for place, one in stream:
                found[place] = one
                advance(one.name)
    in_order = tuple(found[place] for place in sorted(found))
    return report.Run(in_order, len(chosen), quick, time.perf_counter() - start, known)


def _write(run: Run, json_file: Path | None, html_file: Path | None, baseline_file: Path | None) -> list[str]:
    """Write the files; what went wrong, in words. One that fails does not stop the others."""
    from refdiff.validation.audits import baseline, page, report

    known = run.baseline.updated(run.results, run.quick)
    return printing.write(
        [
            (json_file, lambda: printing.as_json(report.as_json(run))),
            (html_file, lambda: page.page(run)),
            (baseline_file, lambda: baseline.as_text(known)),
        ]
    )


def _list(console: Console, quick: bool) -> None:
    """Protocols, their libraries, and what those have."""
    from rich.padding import Padding

    from refdiff.validation.audits import targets
    from refdiff.validation.audits.asking import BadTarget
    from refdiff.validation.audits.protocols.protocol import protocols

    for one in protocols().values():
        console.print(f"{one.name}: {one.summary}", style="bold", soft_wrap=True)
        if one.library is None:
            continue
        version = targets.installed(one.library)
        if version is None:
            console.print(f"    {targets.missing(one)}", soft_wrap=True)
            continue
        console.print(f"    {one.library} {version}", soft_wrap=True)
        try:
            listed = ", ".join(targets.members(one, quick))
        except BadTarget as error:
            listed = str(error)
        console.print(Padding(listed, (0, 0, 0, 4), expand=False))
    console.print("\nFamilies for --family: refdiff samplers --no-measure")
