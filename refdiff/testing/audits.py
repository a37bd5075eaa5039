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
from refdiff.arguments import Array, one_of, whole_number

if TYPE_CHECKING:
    from refdiff.validation.audits.findings import Finding
    from refdiff.validation.audits.report import Run


class ErrorCurve(NamedTuple):
    """How far from the exact answer a sampler ends that is fed by the exact model.

    Of a deterministic sampler: the largest distance of a coordinate from the exact flow, for some points of a mixture,
    in units of their size. Of a stochastic one: the Wasserstein distance W2 of the exact law of its output from the
    exact law, for Gaussian data, in units of the data's size.

    Attributes:
        steps: numbers of steps, shape (n,).
        errors: the sampler's own, shape (n,).
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
        """The error curve of every set of options of which one was measured, by its name; see `curve`."""
        from refdiff.validation.audits.pictures import curve

        found: dict[str, ErrorCurve] = {}
        for one in self.findings:
            errors, method = (dict(curve(one.details, whose)) for whose in ("errors", "method"))
            both = [n for n in errors if n in method]
            if both:
                columns = (np.array([n, errors[n], method[n]]) for n in both)
                found.setdefault(one.subject, ErrorCurve(*np.stack(list(columns), axis=1)))
        return found

    @property
    def curve(self) -> ErrorCurve:
        """The error curve, where one was measured.

        Raises:
            ValueError: none was measured, for the reasons that the message says, or several were: see `curves`.
        """
        from refdiff.validation.audits.checks.orders import ORDER

        found = self.curves
        if len(found) == 1:
            return found.popitem()[1]
        if found:
            raise ValueError(f"curve must be the only one, got {len(found)}: choose one of curves, {', '.join(found)}")
        why = dict.fromkeys(f"{one.subject}: {one.text}" for one in self.findings if one.question == ORDER)
        raise ValueError(f"no error curve was measured; {'; '.join(why) or 'nothing was asked that measures one'}")

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
        jobs: processes at work. Each of them imports the main module: more than 1 asks, in a script, for a call that
            stands under `if __name__ == "__main__":`.

    Returns:
        What was found, about every set of options. An interrupt ends it without any of that; `refdiff audit` writes
        what was found by then.

    Raises:
        TypeError: target is no text, or options or claim no table of names and values.
        ValueError: no such library, member, callable, protocol, family, option or dtype, or it is not installed; the
            message says what is there.

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

    if not isinstance(target, str):
        raise TypeError(f'target must be text, such as "diffusers:DDIMScheduler", got {target!r}')
    for name, given in (("options", options), ("claim", claim)):
        if not (given is None or isinstance(given, Mapping)):
            raise TypeError(f"{name} must be a table of names and values, got {given!r}")
    one_of("dtype", dtype, ("float64", "float32"))
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
