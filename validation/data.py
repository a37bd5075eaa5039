r"""Data of one's own: a file of points x_k in R^d, with weights w_k and a bandwidth h, as a law of the closed world.

    h = 0    the point set        sum_k w_k delta(x - x_k)
    h > 0    its kernel estimate  sum_k w_k N(x; x_k, h^2 I)

    .npy    an array (n, d), or (n,) for d = 1
    .npz    the arrays points[, weights][, bandwidth]
    .csv    a row a point, a column a coordinate, one column named weight or weights if there is one; header optional

Every identity holds for every law, so a file too large for a short run is replaced by a part of it, which is a law
too: the law of fewer coordinates (a marginal) of fewer points (a subset drawn from the seed). Points of a size that
the processes are not made for are centred and scaled: an affine image of the law. What was done is said in `notes`.
A .npy file is mapped, not read, so that only the drawn part is ever held in memory as float64.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.distributions.constructors import from_samples

# How much of a file is kept: n d numbers, what a score costs, and n d^2, what a posterior covariance costs. At these
# sizes the slowest identities take some seconds a case; no matrix (6, d, d) takes more than 50 MB.
ENTRIES, SQUARES, COORDINATES = 1 << 20, 1 << 28, 1024
# Coordinates up to LARGE, and deviations from their mean down to SMALL, are taken as they are. Raw pixels or metres
# are not: next to noise of size 1 their densities have exponents beyond what is left of 16 digits.
LARGE, SMALL = 20.0, 0.01
# Rows looked at together when a mapped file is searched for numbers that are not finite.
BLOCK = 1 << 22

Rows = NDArray[np.intp]


class DataError(ValueError):
    """A message that says what is wrong with a file, and the argument it came by: data, weights or bandwidth."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(message)
        self.argument = argument


@dataclass(frozen=True, eq=False)
class Data:
    """Points (n, d) as read, with weights (n,) or None, a kernel's standard deviation, and what was done to the file.

    `name` is the name of the file; `lines` are the lines of a text file that the points stand on.
    """

    name: str
    points: np.ndarray[Any, Any]
    weights: Array | None = None
    bandwidth: float = 0.0
    notes: tuple[str, ...] = ()
    lines: tuple[int, ...] = ()

    def law(self) -> GaussianMixture:
        """The point set, or its kernel estimate.

        Raises:
            ValueError: weights or bandwidth that no law has.
        """
        return from_samples(self.points, self.weights, self.bandwidth)

    def describe(self) -> str:
        """One line for the head of a report."""
        n, d = self.points.shape
        parts = [f"{self.name}: {n} point{'s' * (n > 1)} in {d}-d"]
        parts += ["weighted"] * (self.weights is not None) + [f"bandwidth {self.bandwidth:g}"] * (self.bandwidth > 0)
        return "; ".join([", ".join(parts), *self.notes])


def load(
    path: str | Path,
    weights: str | Path | None = None,
    bandwidth: float | None = None,
    seed: int = 0,
    most: int | None = None,
) -> Data:
    """The data in a file, checked, and thinned where it is large.

    Args:
        path: a .npy, .npz or .csv file.
        weights: another file with one number a point, which replaces the weights in `path`.
        bandwidth: replaces the bandwidth in `path`; 0, the point set itself, where neither says one.
        seed: what a part of a large file is drawn with.
        most: the largest number of points that is kept; as many as make a short run when left out.

    Raises:
        DataError: there is no such file, it cannot be read, or what it holds is not n >= 1 points of finite numbers.
    """
    with _blaming("data"):
        data = _read(Path(path))
        _check_points(data)
    with _blaming("data" if weights is None else "weights"):
        if weights is not None:
            data = replace(data, weights=_column(_read(Path(weights))))
        _check_weights(data)
    with _blaming("data" if bandwidth is None else "bandwidth"):
        if bandwidth is not None:
            data = replace(data, bandwidth=float(bandwidth))
        _check_bandwidth(data)
    return _sized(_thin(data, np.random.default_rng(seed), most))


@contextmanager
def _blaming(argument: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise DataError(argument, str(error)) from None


# ---------------------------------------------------------------------- reading


def _read(path: Path) -> Data:
    readers = {".npy": _npy, ".npz": _npz, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path.name} must end in .npy, .npz or .csv")
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'not there'}, expected a file")
    try:
        return _shaped(reader(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} must be text in UTF-8: {error.reason} at byte {error.start}") from None
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read: {error or type(error).__name__}") from None


def _npy(path: Path) -> Data:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:  # not an array file, cut short, or an array of Python objects
        raise ValueError(f"{path.name} must be an array of numbers saved by numpy.save: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path.name} is an archive of arrays: it must be named .npz")
    return Data(path.name, array)


def _npz(path: Path) -> Data:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, which must be named .npy")
            if "points" not in archive:
                raise ValueError(f"it holds {', '.join(archive) or 'nothing'}, expected points[, weights][, bandwidth]")
            found = {name: archive[name] for name in ("points", "weights", "bandwidth") if name in archive}
            others = sorted(set(archive) - set(found))
    except ValueError as error:
        raise ValueError(f"{path.name} must be arrays of numbers saved by numpy.savez: {error}") from None
    notes = (f"not used: {', '.join(others)}",) * bool(others)
    weights = _column(Data("weights", found["weights"])) if "weights" in found else None
    h = found.get("bandwidth", np.zeros(()))
    if h.size != 1 or h.dtype.kind not in "buif":
        raise ValueError(f"bandwidth in {path.name} must be one number, got {h.dtype} of shape {h.shape}")
    return Data(path.name, found["points"], weights, float(h.reshape(())), notes)


def _csv(path: Path) -> Data:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        separator = max(",;\t", key=first.count)
        reader = csv.reader(file, delimiter=separator)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    header = bool(rows) and not any(_is_number(cell) for cell in rows[0][1])
    names = [cell.strip() for cell in rows[0][1]] if header else []
    rows = rows[header:]
    if not rows:
        raise ValueError(f"{path.name} holds no points")
    table = np.array([_numbers(path.name, line, row, len(rows[0][1]), names) for line, row in rows])
    lines = tuple(line for line, _ in rows)
    weighing = [j for j, name in enumerate(names) if name.lower() in ("weight", "weights")]
    if len(weighing) > 1:
        raise ValueError(f"{path.name} must have at most one column of weights, got {len(weighing)}")
    if not weighing or table.shape[1] == 1:
        return Data(path.name, table, lines=lines)
    return Data(path.name, np.delete(table, weighing, axis=1), table[:, weighing[0]], lines=lines)


def _numbers(file: str, line: int, row: list[str], width: int, names: list[str]) -> list[float]:
    """The cells of one line; an empty cell is a missing value."""
    if len(row) != width or (names and len(row) != len(names)):
        raise ValueError(f"{file}, line {line}, has {len(row)} cells, expected {len(names) or width}")
    try:
        return [float(cell) for cell in row]
    except ValueError:  # a missing value or a word: look for it
        pass
    for j, cell in enumerate(row):
        if cell.strip() and not _is_number(cell):
            column = f"column {names[j]!r}" if names and names[j] else f"column {j + 1}"
            hint = "" if names else " (a header line has no numbers in it)" if line == 1 else ""
            raise ValueError(f"{file}, line {line}, {column} must be a number, got {cell.strip()!r}{hint}")
    return [float(cell) if cell.strip() else np.nan for cell in row]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _shaped(data: Data) -> Data:
    """Points as (n, d): one number a point where the array has one dimension."""
    array = data.points
    if array.dtype.kind not in "buif":
        raise ValueError(f"{data.name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim not in (1, 2):
        hint = f"; flatten each point to {np.prod(array.shape[1:])} numbers" if array.ndim > 2 else ""
        raise ValueError(f"{data.name} must be an array (n, d) or (n,), got shape {array.shape}{hint}")
    if array.size == 0:
        raise ValueError(f"{data.name} must hold at least one point, got shape {array.shape}")
    return replace(data, points=array.reshape(len(array), -1))


def _column(data: Data) -> Array:
    data = _shaped(data)
    if 1 not in data.points.shape:
        raise ValueError(f"{data.name} must be one number a point, got shape {data.points.shape}")
    return np.array(data.points, dtype=np.float64).ravel()


# ---------------------------------------------------------------------- checking and thinning


def _check_points(data: Data) -> None:
    bad = _not_finite(data.points)
    if bad.size:
        _refuse(data, bad, "hold a value that is missing or not finite")


def _check_bandwidth(data: Data) -> None:
    if not (np.isfinite(data.bandwidth) and data.bandwidth >= 0):
        raise ValueError(f"bandwidth must be a finite number of at least 0, got {data.bandwidth}")


def _check_weights(data: Data) -> None:
    if data.weights is None:
        return
    n = len(data.points)
    if data.weights.shape != (n,):
        raise ValueError(f"weights must be one number for each of the {n} points, got {data.weights.size}")
    bad = np.flatnonzero(~(np.isfinite(data.weights) & (data.weights >= 0)))
    if bad.size:
        _refuse(data, bad, f"have a weight that is negative or not finite (the first is {data.weights[bad[0]]:g})")
    if not data.weights.any():
        raise ValueError("weights must not all be zero")


def _not_finite(array: np.ndarray[Any, Any]) -> Rows:
    """The rows with a NaN or an infinity, looked for a block of rows at a time."""
    if array.dtype.kind != "f":
        return np.empty(0, dtype=np.intp)
    step = max(1, BLOCK // array.shape[1])
    blocks = range(0, len(array), step)
    return np.concatenate([i + np.flatnonzero(~np.isfinite(array[i : i + step]).all(axis=1)) for i in blocks])


def _refuse(data: Data, bad: Rows, what: str) -> None:
    names = [data.lines[i] if data.lines else i for i in bad[:5].tolist()]
    listed = ", ".join(map(str, names)) + (", ..." if bad.size > 5 else "")
    where = f"line {listed}" if data.lines else f"row {listed}, counted from 0"
    raise ValueError(f"{bad.size} of the {len(data.points)} points in {data.name} {what}: {where}")


def _thin(data: Data, rng: np.random.Generator, most: int | None) -> Data:
    """Fewer axes and points, drawn without repetition; points of weight zero are dropped."""
    (n, d), notes = data.points.shape, list(data.notes)
    axes, rows = np.arange(d), np.arange(n)
    if data.weights is not None and not data.weights.all():
        rows = np.flatnonzero(data.weights)
        notes.append(f"{n - rows.size} points of weight zero left out")
    if d > COORDINATES:
        axes = np.sort(rng.choice(d, COORDINATES, replace=False))
        notes.append(f"{COORDINATES} of {d} coordinates drawn")
    count = most or max(1, min(ENTRIES // axes.size, SQUARES // axes.size**2))
    if rows.size > count:
        rows = np.sort(rng.choice(rows, count, replace=False))
        notes.append(f"{count} of {n} points drawn" + ", to keep the run short" * (most is None))
    return replace(
        data,
        points=np.asarray(_part(data.points, rows, axes), dtype=np.float64),
        weights=None if data.weights is None else data.weights[rows],
        notes=tuple(notes),
        lines=(),
    )


def _part(array: np.ndarray[Any, Any], rows: Rows, axes: Rows) -> np.ndarray[Any, Any]:
    """array[rows][:, axes] without holding all axes of all the rows of a mapped file."""
    step = max(1, BLOCK // array.shape[1])
    return np.concatenate([array[rows[i : i + step]][:, axes] for i in range(0, rows.size, step)])


def _sized(data: Data) -> Data:
    """Points (and bandwidth) of about size 1, by one shift and one factor, where they are far from it."""
    centred = data.points - data.points.mean(axis=0)
    spread = float(np.sqrt(np.mean(centred**2)))
    if np.abs(data.points).max() <= LARGE and (spread >= SMALL or spread == 0):
        return data
    factor = spread or 1.0
    note = f"centred and divided by {factor:.4g}, the size that the processes are made for"
    return replace(data, points=centred / factor, bandwidth=data.bandwidth / factor, notes=(*data.notes, note))
