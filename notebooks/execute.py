r"""Runs the notebooks: NN_name.py is the source, NN_name.ipynb its executed pair.

A notebook is executed in a fresh kernel, in this folder's environment. After each cell with the tag `check` the same
cell is run once more with an `attempt` that is wrong, and must fail: a check that cannot fail teaches nothing. Nothing
may be written to stderr. What is kept is the outputs, without times and machine; a notebook that fails keeps its old
pair.

    python notebooks/execute.py              # all of them: execute and write the pairs
    python notebooks/execute.py 03 12        # some
    python notebooks/execute.py --check      # execute and write nothing, as CI does
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from refdiff import files
from refdiff.plotting.styles import quantize

HERE = Path(__file__).parent
WRONG = "attempt = lambda *arguments, **options: 0.125"
TIMEOUT = 300  # seconds a cell: what takes longer hangs


class CheckCannotFail(Exception):
    """A check cell accepts a wrong attempt."""


class Client(NotebookClient):
    """A client that tries every check with a wrong attempt as well."""

    async def async_execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        done = await super().async_execute_cell(cell, cell_index, **options)
        if "check" in cell.metadata.get("tags", ()):
            await self._sabotage(cell, cell_index)
            self.nb.cells[cell_index] = cell  # where the client puts whatever it executes
        return done

    async def _sabotage(self, cell: Any, index: int) -> None:
        """Run a copy of a check cell with a wrong attempt, which must raise AssertionError."""
        tried = nbformat.v4.new_code_cell(f"{WRONG}\n{cell.source}")
        try:
            await super().async_execute_cell(tried, index, store_history=False)
        except CellExecutionError as error:
            if error.ename != "AssertionError":
                raise CheckCannotFail(
                    f"cell {index + 1} met a wrong attempt with {error.ename}: {error.evalue}"
                ) from None
        else:
            raise CheckCannotFail(f"cell {index + 1} accepts the attempt 0.125:\n{cell.source}")
        await super().async_execute_cell(nbformat.v4.new_code_cell("attempt = None"), index, store_history=False)


def executed(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source with its outputs, and with nothing of the machine it ran on.

    Raises:
        CellExecutionError: a cell raised, a check cell among them.
        CheckCannotFail: a check cell accepts a wrong attempt.
        ValueError: something was written to stderr.
    """
    book = jupytext.read(source)
    quiet = ["--log-level=40"]  # the kernel's own warning that its port on this machine is not encrypted
    client = Client(
        book,
        timeout=TIMEOUT,
        kernel_name="python3",
        extra_arguments=quiet,
        coalesce_streams=True,  # one text, however the kernel has cut it
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    book.metadata = nbformat.from_dict(
        {key: part for key, part in book.metadata.items() if key in ("jupytext", "kernelspec")}
    )
    for index, cell in enumerate(book.cells):
        cell.id = f"cell-{index + 1:02}"
        cell.metadata.pop("execution", None)  # the clock of the run
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise ValueError(f"cell {index + 1} writes to stderr: {output['text']}")
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = lighter(output["data"]["image/png"])
    return book


def lighter(png: str) -> str:
    """A picture in base64 with the 256 colours that suit it best."""
    small = io.BytesIO()
    quantize(io.BytesIO(base64.b64decode(png)), small, 256)
    return base64.b64encode(small.getvalue()).decode()


def written(source: Path, keep: bool) -> tuple[float, int]:
    """Execute one source; write its pair where asked. Seconds, and bytes of the pair."""
    start = time.perf_counter()
    book = executed(source)
    text = nbformat.writes(book) + "\n"
    if keep:
        files.write_text(source.with_suffix(".ipynb"), text)
    return time.perf_counter() - start, len(text.encode())


def main() -> int:
    """The status: 0, or 1 where a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="numbers of notebooks, all where left out")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="kernels at a time")
    asked = parser.parse_args()
    sources = sorted(path for path in HERE.glob("*.py") if re.match(r"\d\d_", path.name))
    unknown = set(asked.numbers) - {path.name[:2] for path in sources}
    if unknown:
        parser.error(
            f"no notebook {', '.join(sorted(unknown))}; there are {', '.join(path.name[:2] for path in sources)}"
        )
    chosen = [path for path in sources if not asked.numbers or path.name[:2] in asked.numbers]
    # a kernel is a process of its own, whose linear algebra and compiled loops share the cores with the others
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    failed = 0
    with ProcessPoolExecutor(max(1, min(asked.jobs, len(chosen)))) as pool:
        runs = {pool.submit(written, path, not asked.check): path for path in chosen}
        for run in as_completed(runs):
            try:
                seconds, size = run.result()
            except Exception as error:  # whatever a cell raised; the others go on
                failed += 1
                print(f"{runs[run].name} FAILED\n{error}", flush=True)
            else:
                print(f"{runs[run].name:40} {seconds:6.1f} s {size / 1000:7.0f} kB", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} notebooks run, with all their checks", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
