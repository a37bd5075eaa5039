"""`refdiff audit` as a function: what it finds about a scheduler or a sampler, and error curves as arrays."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refdiff import files
from refdiff.arguments import Array, whole_number

if TYPE_CHECKING:
    from refdiff.validation.audits.findings import Finding
    from refdiff.validation.audits.report import Run


class ErrorCurve(NamedTuple):
    """Errors at the end of a deterministic sampler, fed by the exact model, against the exact flow.

    Attributes:
        steps: numbers of steps, shape (n,).
        errors: the sampler's own, in units of the points' size, shape (n,).
        method: those of the method it claims to be, on the same grids, shape (n,).
    """

    steps: Array
    errors: Array
    method: Array


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found; `print` shows it as `refdiff audit` does.

    Attributes:
        run: the results with all their details.
    """

    run: Run

    @property
    def findings(self) -> list[Finding]:
        """All findings: subject, question, verdict, text, number and bound of each."""
        return self.run.findings

    @property
    def wrong(self) -> list[Finding]:
        """The findings that are wrong."""
        return self.run.new

    @property
    def curves(self) -> dict[str, ErrorCurve]:
        """The error curve of every set of options of which one was measured, by its name."""
        from refdiff.validation.audits.pictures import curve

        found: dict[str, ErrorCurve] = {}
        for one in self.findings:
            errors, method = (dict(curve(one.details, whose)) for whose in ("errors", "method"))
            both = [n for n in errors if n in method]
            if both:
                columns = (np.array([n, errors[n], method[n]]) for n in both)
                found.setdefault(one.subject, ErrorCurve(*np.stack(list(columns), axis=1)))
        return found

    def save(self, path: str | Path) -> None:
        """Write the page of `refdiff audit --html`.

        Args:
            path: of the file, written under a temporary name first.

        Raises:
            OSError: it cannot be written.
        """
        from refdiff.validation.audits.page import page

        files.write_text(Path(path), page(self.run))

    def __str__(self) -> str:
        from rich.console import Console

        from refdiff.validation.audits.report import shown

        console = Console(file=io.StringIO(), width=120, color_system=None)
        for part in shown(self.run):
            console.print(part, soft_wrap=True)
        return console.file.getvalue().strip("\n")  # type: ignore[attr-defined, no-any-return]


def audit(
    target: str,
    options: Mapping[str, Any] | None = None,
    *,
    protocol: str | None = None,
    family: str | None = None,
    claim: Mapping[str, Any] | None = None,
    dtype: str = "float64",
    quick: bool = False,
    jobs: int = 1,
) -> Audit:
    """Put a scheduler, a sampler or a denoiser of a library, or of a file, to the questions of `refdiff audit`.

    Args:
        target: "diffusers" for all of a library, "diffusers:UniPCMultistepScheduler" for one class of it, or
            "package.module:function" and "file.py:function" for a callable, with the protocol.
        options: passed on to it; left out, what the library offers is tried.
        protocol: the name of a calling convention; `refdiff audit --list` has them.
        family: the name of the family that a callable claims to be; `refdiff samplers` has them.
        claim: options of the family.
        dtype: number type of the points.
        quick: fewer numbers of steps and sets of options.
        jobs: processes at work; more than 1 only where the caller's module can be imported.

    Raises:
        ValueError: no such library, member, callable, protocol, family or option, or it is not installed; the message
            says what is there.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from refdiff.testing import audit
        >>> with TemporaryDirectory() as folder:
        ...     mine = Path(folder, "mine.py")  # one step, whatever its grid
        ...     _ = mine.write_text("def jump(model, x, sigmas): return model(x, sigmas[0])")
        ...     found = audit(f"{mine}:jump", protocol="plain", family="edm-euler", quick=True)
        >>> print([one.question for one in found.wrong])
        ['coefficients', 'order']
    """
    # the audits stand on the library, so only a call may reach up to them, never an import of it
    from refdiff.validation.audits.asking import BadTarget
    from refdiff.validation.audits.audit import results, silence, units
    from refdiff.validation.audits.report import Run
    from refdiff.validation.audits.targets import find

    workers = whole_number("jobs", jobs, low=1)
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of foreign code
    start = time.perf_counter()
    try:
        with silence():
            found = find(target, protocol, family=family, options=options, claimed=claim, dtype=dtype, quick=quick)
    except BadTarget as error:
        raise ValueError(str(error)) from None
    chosen = units(found)
    in_order = dict(results(chosen, quick=quick, jobs=workers))
    return Audit(Run(tuple(in_order[i] for i in sorted(in_order)), len(chosen), quick, time.perf_counter() - start))
