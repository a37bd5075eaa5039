"""Every kernel compiled for every architecture by NVRTC, which needs no GPU, and what the assembler says of it.

    python tests/cuda_registers.py [--every]

prints registers, spilled bytes, stack and static shared memory of kernels x numbers x types x architectures. VARIANTS
is the one list of what the host code compiles sources for. One variant of each source is compiled for all
architectures, the others for one each, or for all with --every.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from refdiff.kernels.cuda import device, mixture
from refdiff.kernels.cuda.tableau import REGISTERS

FOLDER = Path(device.__file__).parent
ARCHITECTURES = (75, 80, 90, 100)  # Turing, Ampere, Hopper, Blackwell
TYPES = ("float64", "float32")


def mixtures(itemsize: int) -> list[dict[str, int]]:
    """Mixtures of each kind in few, some and the most axes, each as `kernels.cuda.mixture` has it compiled."""

    def law(dim: int, width: int, bases: int, still: bool = True, rows: int = 9) -> dict[str, int]:
        means, variances, turns = np.empty((9, dim)), np.empty((rows, width)), np.empty((bases, dim, dim))
        return mixture.numbers(mixture.Mixture(means, variances, np.empty(9), turns), still, itemsize)

    one_basis = law(3, 3, 1, rows=1), law(16, 16, 1)
    return [law(2, 1, 0), law(16, 1, 0), law(2, 1, 0, still=False), law(16, 16, 0), *one_basis, law(16, 16, 9)]


def some_mixtures(itemsize: int) -> list[dict[str, int]]:
    """Some of the mixtures, of each kind one."""
    return mixtures(itemsize)[::3]


def pairs(_: int) -> list[dict[str, int]]:
    """Functions of each kind on many axes, where registers are few, and of some kinds on few."""
    few = [{"KIND": kind, "HALVES": halves, "DIM": dim} for kind, halves, dim in ((0, 0, 1), (1, 0, 3), (5, 3, 3))]
    return few + [{"DIM": 16, **numbers} for numbers in wide_pairs(0)]


def wide_pairs(_: int) -> list[dict[str, int]]:
    """Functions of each kind, and what is multiplied where an exponent is a number of halves."""
    return [{"KIND": kind, "HALVES": halves} for kind, halves in ((0, 0), (2, 0), (2, 1), (3, 0), (4, 0), (5, 17))]


def flows(itemsize: int) -> list[dict[str, int]]:
    """Pairs of 3, 6 and 12 stages, whose error is known by one row or by two."""
    low, usual, high = {"STAGES": 3, "ERRORS": 1}, {"STAGES": 6, "ERRORS": 1}, {"STAGES": 12, "ERRORS": 2}
    round_, *_, turned, own = mixtures(itemsize)
    return [
        round_ | low | {"LOG": 1},
        turned | usual | {"LOG": 0},
        own | usual | {"LOG": 1},
        round_ | high | {"LOG": 1},
    ]


def samplers(itemsize: int) -> list[dict[str, int]]:
    """Tables that reach back a stage, in registers, and such that reach further, in memory."""
    threads = {"THREADS": device.THREADS}
    kept = {"STATES": 1, "OUTPUTS": 1, "WIDE": 0} | threads
    stored = {"STATES": 0, "OUTPUTS": 0, "WIDE": 1} | threads
    return [one | (kept if 2 * one["DIM"] * itemsize <= REGISTERS else stored) for one in some_mixtures(itemsize)]


# The numbers that host code compiles each source with, for numbers of so many bytes: the fewest, the usual, the most.
VARIANTS: dict[str, Callable[[int], list[dict[str, int]]]] = {
    "adaptive": flows,
    "combine": lambda itemsize: [{}],
    "mixture": mixtures,
    "mixture_parts": some_mixtures,
    "pair_sums": pairs,
    "pair_sums_wide": wide_pairs,
    "philox": lambda itemsize: [{}],
    "second_order": mixtures,
    "second_order_parts": some_mixtures,
    "sinkhorn": lambda itemsize: [{"DIM": dim, "ORDER": r} for dim, r in ((1, 2), (3, 1), (16, 2), (16, 0))],
    "sinkhorn_means": lambda itemsize: [{"DIM": dim, "ORDER": 2, "VALUES": n} for dim, n in ((3, 3), (16, 8))],
    "sinkhorn_sums": lambda itemsize: [{"VALUES": 8}],
    "sinkhorn_wide": lambda itemsize: [{"ORDER": r, "PRODUCTS": p} for r, p in ((0, 0), (1, 0), (2, 0), (2, 1))],
    "stepping": lambda itemsize: [{}],
    "tableau": samplers,
    "wide": lambda itemsize: [{"FORM": form} for form in range(3)],
    "wide_full": lambda itemsize: [{}],
}
LINE = "{:19} {:16} {:66} {:8}" + " {:>13}" * len(ARCHITECTURES)
# Kernels that may keep something in memory: source, kernel, with which numbers, and why.
COLD: tuple[tuple[str, str, dict[str, int], str], ...] = (
    # two points, two averages and a turned difference are 160 registers and their work the rest: what is of the grid
    # waits in memory meanwhile, some ten numbers against K (4 d^2 + 12 d) operations
    ("adaptive", "flow", {"DIM": 16, "KIND": 2, "LOG": 1}, "sums of 16 axes take all registers"),
    # two numbers of the grid on Blackwell, beside a point, its turned image and what is summed for it
    ("adaptive", "flow", {"DIM": 16, "KIND": 1, "TURNED": 1}, "a point in two bases of 16 axes"),
    # on Blackwell one number of the grid, read once for all components of a stage; rolled loops keep it there as well
    ("tableau", "run", {"DIM": 16, "KIND": 2}, "the sampler's own numbers, beside an output in 16 axes"),
)


@dataclass(frozen=True)
class Used:
    """What one kernel takes of a multiprocessor: registers of a thread, and bytes."""

    kernel: str
    registers: int
    spilled: int
    stack: int
    shared: int


def may_spill(source: str, kernel: str, numbers: dict[str, int]) -> bool:
    """Whether COLD allows a variant to keep something in memory."""
    return any((source, kernel) == cold[:2] and cold[2].items() <= numbers.items() for cold in COLD)


def assert_listed() -> None:
    """Each source that host code has asked for in this process is listed, with numbers of those names."""
    for _, source, options in device._modules:
        asked = {option[2:].split("=")[0] for option in options if option.startswith("-D")} - {"SINGLE"}
        listed = [set(numbers) for numbers in VARIANTS[source](8)]
        assert asked in listed, f"{source} is compiled with {sorted(asked)}, and VARIANTS lists {listed}"


def nvrtc() -> Any:
    """NVRTC as CuPy calls it.

    Raises:
        ImportError: CuPy or NVRTC is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CuPy, about what it does not find
        from cupy.cuda import nvrtc

        try:
            nvrtc.getVersion()
        except Exception as error:  # of CuPy, about the library that it loads now
            raise ImportError(f"NVRTC cannot be loaded: {error}") from error
    return nvrtc


@cache
def compiled(source: str, options: tuple[str, ...], architecture: int) -> tuple[str, tuple[Used, ...]]:
    """What the compiler complains of, and what kernels use; kept in a folder of the temporary files.

    Raises:
        RuntimeError: the source does not compile; it says what the compiler says.
    """
    library = nvrtc()
    told = (f"-arch=sm_{architecture}", *options, "--ptxas-options=-v")
    key = hashlib.sha256(repr((library.getVersion(), source, told)).encode()).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"refdiff-nvrtc-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{key}.json"
    if not kept.exists():
        program = library.createProgram(source, "kernels.cu", [], [])
        try:
            library.compileProgram(program, list(told))
        except Exception as error:
            raise RuntimeError(library.getProgramLog(program)) from error
        log = library.getProgramLog(program)
        assert len(library.getCUBIN(program)) > 0
        library.destroyProgram(program)
        place = folder / f"{key}-{os.getpid()}"
        place.write_text(json.dumps([complaints(log), [asdict(one) for one in uses(log)]]))
        place.replace(kept)  # at once: other processes may be about to do the same
    said, found = json.loads(kept.read_text())
    return said, tuple(Used(**one) for one in found)


def complaints(log: str) -> str:
    """A log without what ptxas reports of kernels."""
    lines = log.strip("\0").splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.startswith(("ptxas   ", "ptxas info")))


def uses(log: str) -> Iterator[Used]:
    """What ptxas reports of kernels."""
    for part in re.split(r"Compiling entry function '", log)[1:]:

        def bytes_of(what: str, text: str = part) -> int:
            found = re.search(rf"(\d+) bytes {what}", text)
            return int(found[1]) if found else 0

        registers = re.search(r"Used (\d+) registers", part)
        assert registers, part
        spilled = bytes_of("spill stores") + bytes_of("spill loads")
        yield Used(part.split("'")[0], int(registers[1]), spilled, bytes_of("stack frame"), bytes_of("smem"))


def asked_for(name: str, kind: str, architecture: int, every: bool) -> list[dict[str, int]]:
    """Numbers with which a source is compiled: the first for each architecture, the others in turn for one of them."""
    variants = VARIANTS[name](np.dtype(kind).itemsize)
    turn = ARCHITECTURES.index(architecture)
    return [one for place, one in enumerate(variants) if every or place % len(ARCHITECTURES) == turn or not place]


def of_source(
    name: str, architecture: int, every: bool = False
) -> Iterator[tuple[str, dict[str, int], str, tuple[Used, ...]]]:
    """Type, numbers, complaints and uses of a source's variants."""
    for kind in TYPES:
        for numbers in asked_for(name, kind, architecture, every):
            options = device.options(np.dtype(kind), **numbers)
            yield kind, numbers, *compiled(device.source(name), options, architecture)


def main(every: bool) -> None:
    """Print the table, a line for each kernel with its numbers and type, and what architectures say in columns."""
    print("registers+spilled bytes/stack bytes, where there are any; s static shared memory; . not compiled this time")
    print(LINE.format("source", "kernel", "numbers", "type", *(f"sm_{one}" for one in ARCHITECTURES)))
    count, table = 0, dict[tuple[str, ...], dict[int, Used]]()
    for name in VARIANTS:
        for architecture in ARCHITECTURES:
            for kind, numbers, _, found in of_source(name, architecture, every):
                said = " ".join(f"{key}={value}" for key, value in numbers.items())
                for used in found:
                    table.setdefault((name, used.kernel, said, kind), {})[architecture] = used
                    count += 1
    for row, on in table.items():
        print(LINE.format(*row, *(cell(on[one]) if one in on else "." for one in ARCHITECTURES)))
    print(f"{count} kernels compiled by NVRTC {'.'.join(map(str, nvrtc().getVersion()))}")


def cell(used: Used) -> str:
    """What one kernel uses on one architecture, in a word."""
    memory = f"+{used.spilled}/{used.stack}" if used.spilled or used.stack else ""
    return f"{used.registers}{memory}" + (f" s{used.shared}" if used.shared else "")


if __name__ == "__main__":
    try:
        main("--every" in sys.argv)
    except ImportError as error:
        sys.exit(f"no table: {error}")
