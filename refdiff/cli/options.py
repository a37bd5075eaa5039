"""Options that several commands have, checked before work begins."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import click

FILE = click.Path(dir_okay=False, path_type=Path)
WORDS = {"true": True, "false": False, "none": None, "null": None}


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


def settings(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:  # noqa: ARG001
    """KEY=VALUE pairs: values as JSON or Python write them, true, false and none in any case, anything else as text."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} must be KEY=VALUE")
        if key in found:
            raise click.BadParameter(f"{key} is given twice")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


FILE_TO_WRITE: dict[str, Any] = {"type": FILE, "callback": writable}


def different(**paths: Path | None) -> None:
    """Files that are read and written must not be one.

    Raises:
        click.UsageError: two options name the same file.
    """
    given = [path.resolve() for path in paths.values() if path is not None]
    if len(set(given)) < len(given):
        *most, last = (f"--{name}" for name in paths)
        raise click.UsageError(f"{', '.join(most)} and {last} must be different files")


def jobs_for(count: int, asked: int | None, worth_sharing: int) -> int:
    """How many processes for `count` pieces of work: as asked, at most one each.

    Where nothing is asked, one if a second would still be starting when fewer than `worth_sharing` are done, else two.
    """
    if asked is not None:
        return min(asked, max(count, 1))
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if count < worth_sharing else min(2, processors)
