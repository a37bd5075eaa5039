"""What commands print and write: the console, a progress bar, files of which one that fails stops no other."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from refdiff import files

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")


def console() -> Console:
    """stdout, as text without markup; 120 columns wide where it is not a terminal that says its width."""
    from rich.console import Console

    found = Console(markup=False, emoji=False, highlight=False, force_jupyter=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = 120
    return found


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr, where that is a terminal, to `total`; the value is told what has just been done."""
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


@contextmanager
def until_stopped() -> Iterator[None]:
    """The work inside ends quietly at Ctrl-C and at SIGTERM, as CI and batch systems send it: what is there is kept."""
    terminable = threading.current_thread() is threading.main_thread()  # only there are signals received
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if terminable else None
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        if terminable:
            signal.signal(signal.SIGTERM, before)


def as_json(found: Any) -> str:
    """Results as a file for machines."""
    return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write(texts: Iterable[tuple[Path | None, Callable[[], str]]]) -> list[str]:
    """Write each text to its path, where it has one; what went wrong, in words."""
    problems = []
    for path, text in texts:
        try:
            if path is not None:
                files.write_text(path, text())
        except Exception as error:  # a full disk, or a page that cannot be built: the others still count
            problems.append(f"{path} was not written: {error!r}")
    return problems
