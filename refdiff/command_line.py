"""What the commands share: options that are checked before work begins, the console, a progress bar."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

FILE = click.Path(dir_okay=False, path_type=Path)


def writable(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:  # noqa: ARG001
    """A file that can be written, known before the run that it is for."""
    if path is None:
        return None
    if not path.parent.is_dir():
        raise click.BadParameter(f"{path} is in a folder that does not exist; create {path.parent} first")
    if not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"{path} is in a folder that cannot be written to")
    return path


def pattern(context: click.Context, option: click.Parameter, text: str | None) -> re.Pattern[str] | None:  # noqa: ARG001
    """A regular expression, case ignored."""
    try:
        return None if text is None else re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise click.BadParameter(f"{text!r} must be a regular expression: {error}") from None


def console() -> Console:
    """stdout, as text without markup; 120 columns wide where it is not a terminal that says its width."""
    from rich.console import Console

    found = Console(markup=False, emoji=False, highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = 120
    return found


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr, where that is a terminal; the value is told what has just been done."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (MofNCompleteColumn(), BarColumn(bar_width=30), TimeElapsedColumn(), TextColumn("{task.description}"))
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda name: bar.update(task, advance=1, description=escape(name))


def track(items: Iterable[Item], total: int, name: str) -> Iterator[Item]:
    """The items, counted by a progress bar."""
    with progress(total) as advance:
        for item in items:
            yield item
            advance(name)
