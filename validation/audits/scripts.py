r"""Reproductions: programs of about ten lines that need only the audited library and NumPy.

A wrong weight is shown by an impulse: a model that answers 0, but 1 at one evaluation (or a start of 1, or a single
normal of 1), and the number that the sampler then hands to its network, or returns. Linear samplers show their weights
like this, and the right number is what the claimed step makes of the sampler's own earlier states.

`Sampler.script` makes the sampler. Where it leaves a `scheduler`, the loop of a pipeline calls it; else its last lines
call it themselves, with `model`, `x` and `draw`, and leave the output in `x`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.steps import Comparison
from refdiff.validation.audits.subject import Sampler

LOOP = """\
for t in scheduler.timesteps:
    shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    x = scheduler.step(model(shown, t), t, x{more})[0]"""

# A scheduler draws its normals in its module by randn_tensor, or from a Brownian tree.
DRAWN = """\
import sys
module = sys.modules[type(scheduler).__module__]
module.randn_tensor = lambda shape, **_: draw(torch.empty(shape, dtype=x.dtype))
module.BrownianTreeNoiseSampler = lambda *_, **__: lambda *_: draw(x)"""

DRAW = """\
drawn = []
def draw(like):  # normals: {normals}
    drawn.append(0)
    return torch.full_like(like, {value})"""

SEEN = "asked.append(x.flatten()[0].item())"
HEAD = f"""\
import torch{{setup}}
asked = []
def model(x, t, **_):  # answers {{answers}}
    {SEEN}
    return torch.full_like(x, {{value}})"""


def impulse(sampler: Sampler, comparison: Comparison) -> str:
    """A program that shows the first wrong step of a sampler, "" where nothing says how the sampler is made."""
    if not sampler.script or not comparison.wrong:
        return ""
    first = comparison.wrong[0]
    heard, nfe = comparison.heard, len(comparison.heard.times)
    columns = [*range(1 + nfe), *(None if c.heard is None else 1 + nfe + c.heard for c in comparison.drawn)]
    # a normal that is missing has no impulse, and its step shows nothing else
    gaps = [0.0 if at is None else gap for at, gap in zip(columns, np.abs(first.row - first.right), strict=True)]
    column = int(np.argmax(gaps))
    if columns[column] is None or not gaps[column]:
        return ""
    at = np.flatnonzero(comparison.table.evaluated).tolist()
    place = at.index(first.seen) if first.seen in at else nfe
    scale = sampler.claim.scales(comparison.table)[place] if sampler.claim and place < nfe else 1.0
    right = float(first.right[column] * scale)
    seen = f"asked[{place}]" if place < nfe else "x.item()"
    what = f"what evaluation {place + 1} is shown" if place < nfe else "the output"
    shown = f'print("{what}: found", {seen}, "right", {right!r})'
    return f"{_calling(sampler.script, int(columns[column]), nfe, heard.draws)}\n{shown}\n"


def _calling(setup: str, column: int, nfe: int, draws: int) -> str:
    """The program with 1 in this column of (start, outputs, normals)."""
    output, normal = column - 1, column - 1 - nfe
    answer = _one("evaluation", output, "asked") if 0 <= output < nfe else ("0", "0.0")
    drawn = _one("draw", normal, "drawn") if normal >= 0 else ("0", "0.0")
    return _program(setup, float(column == 0), answer, drawn if draws else None)


def _one(what: str, number: int, counted: str) -> tuple[str, str]:
    """0 but 1 at one call, as a comment and as an expression."""
    return f"0, and 1 at {what} {number + 1}", f"float(len({counted}) == {number + 1})"


def _program(setup: str, start: float, answer: tuple[str, str], drawn: tuple[str, str] | None) -> str:
    """Lines that run the sampler; answers and normals are (comment, expression), None for the library's normals."""
    loop = re.search(r"^scheduler = ", setup, re.MULTILINE) is not None
    if drawn is None and not loop and "draw(" in setup:
        drawn = ("0", "0.0")
    lines = [
        HEAD.format(setup=f"\n{setup}" if loop else "", answers=answer[0], value=answer[1]),
        f"x = torch.full((1, 1), {start}, dtype=torch.float64)",
    ]
    if drawn is not None:
        lines.append(DRAW.format(normals=drawn[0], value=drawn[1]))
    if not loop:
        return "\n".join([*lines, setup])
    if drawn is not None:
        lines.append(DRAWN)
    return "\n".join([*lines, LOOP.format(more=", **at_step" if "at_step = " in setup else "")])


def exception(script: str, error: BaseException) -> str:
    """A program that shows what the sampler raises, or the first number that is none, for a model that answers 1."""
    if not script:
        return ""
    told = f"{type(error).__name__}: {error}".replace("\n", " ")
    return f"# {told}\n{running(script)}"


def running(script: str) -> str:
    """A program that runs the sampler on a start of 1 with a model that answers 1, and prints all that this hears."""
    program = _program(script, 1.0, ("1", "1.0"), None)
    heard = "asked.append((float(torch.as_tensor(t).flatten()[0]), x.flatten()[0].item()))"
    return program.replace(SEEN, heard) + '\nprint("asked about (t, x):", asked, "output", x)\n'


def reproduced(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of one sampler, of which those that are wrong have programs that print something.

    Where an end or a law is wrong because a step is, the program is the one that shows that step.
    """
    listed = list(findings)
    wrong = [one for one in listed if one.verdict is Verdict.WRONG and one.script]
    steps = {one.place: one.script for one in wrong if one.question == "coefficients" and "print(" in one.script}

    def shown(one: Finding) -> Finding:
        if one not in wrong or "print(" in one.script:
            return one
        told = one.question == "told level"  # shown by the times themselves
        cause = "" if told else steps.get(one.place.partition(",")[0]) or next(iter(steps.values()), "")
        return replace(one, script=f"# by the step that is wrong\n{cause}" if cause else running(one.script))

    return [shown(one) for one in listed]
