"""The processes that have a name: on the command line, in audits, and as cases of the identities.

Every module of `refdiff.schedules` and `refdiff.processes` that lists `PROCESSES` takes part.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType

from refdiff.processes.affine import AffineProcess
from refdiff.schedules import Schedule


@cache
def catalogue() -> Mapping[str, Callable[[], AffineProcess | Schedule]]:
    """All named processes, each as a function that makes it with its usual parameters.

    Raises:
        ValueError: two processes of one name.
    """
    found: dict[str, Callable[[], AffineProcess | Schedule]] = {}
    for package in map(import_module, ("refdiff.schedules", "refdiff.processes")):
        for module in pkgutil.iter_modules(package.__path__):
            mine = getattr(import_module(f"{package.__name__}.{module.name}"), "PROCESSES", {})
            if twice := found.keys() & mine.keys():
                raise ValueError(f"name must be unique among processes, got {min(twice)!r} twice")
            found |= mine
    return MappingProxyType(found)
