"""`refdiff info`: versions, linear algebra, processors, and which backends can run here."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from importlib import metadata
from typing import Any

import click

from refdiff import backends
from refdiff.cli import printing
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
    """Versions, linear algebra, processors, and which backends can run here."""
    from rich.padding import Padding
    from rich.table import Table

    from refdiff.validation.report import environment

    console = printing.console()
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
