"""Tables on disk: JSON for people and other languages, npz for size. Numbers come back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from refdiff import files
from refdiff.processes import Motion
from refdiff.samplers.tableau import ARRAYS, Tableau, parts
from refdiff.schedules import Coefficients

FORMAT = "refdiff tableau 1"


def save(tableau: Tableau, path: str | Path) -> None:
    """Write a table as .json or .npz, to a temporary name first and renamed when complete.

    Raises:
        ValueError: another ending.
    """
    target = _ending(path)
    content: dict[str, Any] = {"format": FORMAT}
    content |= {name: getattr(tableau, name) for name in ("name", "prediction", "coordinate")}
    content |= {name: getattr(tableau, name) for name in ARRAYS}
    kind = "motion" if isinstance(tableau.coefficients, Motion) else "coefficients"
    content |= {f"{kind}.{name}": part for name, part in parts(tableau.coefficients).items()}
    with files.written(target) as temporary:
        if target.suffix == ".npz":
            np.savez(temporary, **content)
        else:
            # shortest decimals that read back as the same float64; infinities as the word
            plain = {
                name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in content.items()
            }
            temporary.write_text(json.dumps(plain))


def load(path: str | Path) -> Tableau:
    """Read a table that `save` wrote.

    Raises:
        ValueError: another ending, or a file that is no such table.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from refdiff import VPLinear
        >>> from refdiff.samplers import families, load, save
        >>> table = families()["dpmpp-2m"](VPLinear(), [1.0, 0.5, 0.1])
        >>> with TemporaryDirectory() as folder:
        ...     save(table, f"{folder}/table.json")
        ...     print(load(f"{folder}/table.json").difference(table))  # bit by bit
        0.0
    """
    target = _ending(path)
    try:
        if target.suffix == ".npz":
            with np.load(target, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
        else:
            content = json.loads(target.read_text())
            shapes = {name: np.asarray(value) for name, value in content.items() if isinstance(value, list)}
            content |= shapes
        if str(content.pop("format")) != FORMAT:
            raise ValueError(f"path must name a saved tableau of format {FORMAT}, got {target}")
        words: dict[str, Any] = {name: str(content.pop(name)) for name in ("name", "prediction", "coordinate")}
        return Tableau(coefficients=_coefficients(content), **words, **{name: content[name] for name in ARRAYS})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"path must name a saved tableau, got {target}: {error!r}") from None


def _coefficients(content: dict[str, Any]) -> Coefficients | Motion:
    """What was saved of the process."""
    if "motion.gain" not in content:
        return Coefficients(*(np.asarray(content[f"coefficients.{name}"]) for name in Coefficients._fields))
    rates = dict.fromkeys(("d2gain", "dspread"))  # where the process did not know them
    known = {name.removeprefix("motion."): part for name, part in content.items() if name.startswith("motion.")}
    return Motion(**rates | {name: np.asarray(part) for name, part in known.items()})


def _ending(path: str | Path) -> Path:
    target = Path(path)
    if target.suffix not in (".json", ".npz"):
        raise ValueError(f"path must end in .json or .npz, got {str(path)!r}")
    return target
