"""`refdiff info`: versions, linear algebra, processors, which backends can run here, and which GPU would be used."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import metadata
from typing import Any

import click

from refdiff import backends
from refdiff.cli import gpu, printing
from refdiff.validation import threads

OPTIONAL = {
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "torch": ("torch",),
    "diffusers": ("diffusers",),
    "matplotlib": ("matplotlib",),
    "dask": ("dask",),
    "scikit-learn": ("scikit-learn",),
}


@click.command()
def info() -> None:
    """Versions, linear algebra, processors, which backends can run here, and the GPU or why there is none."""
    from rich.padding import Padding
    from rich.table import Table

    from refdiff.validation.report import environment

    console, found = printing.console(), gpu.look()
    rows: dict[str, dict[str, str]] = {
        "versions": {**{name: str(value) for name, value in environment().items()}, "numba": _version("numba")},
        "optional": {name: _version(*alternatives) for name, alternatives in OPTIONAL.items()},
        "linear algebra": _linear_algebra(),
        "backends": _backends(found.verdict),
        "GPU": found.rows(),
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


def _backends(cuda: str) -> dict[str, str]:
    """What can run here, or why not, without importing any of it."""
    numba = _version("numba")
    return {
        "NumPy": "ready",
        "Numba": "not installed" if numba == "not installed" else f"ready ({numba}); backend {backends.current()}",
        "CUDA": cuda,
    }
