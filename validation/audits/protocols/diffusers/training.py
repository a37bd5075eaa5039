r"""alphas_cumprod, prod (1 - beta), of the table of betas that the options name, against float64.

A cumulative product of i numbers of float32 is off by two roundings of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.processes import beta_table
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.findings import Finding, Verdict, convention, judged
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.options import Build
from refdiff.validation.audits.protocols.diffusers.playing import constructed
from refdiff.validation.audits.protocols.diffusers.precision import EPS
from refdiff.validation.audits.subject import Subject

QUESTION = "alphas_cumprod"
TABLES: Mapping[str, str] = {"squaredcos_cap_v2": "squared_cosine"}
FLOOR = 2.0**-24  # alpha_bar of the last index where it should be 0, in the schedulers that divide by it


def training_table(subject: Subject, _: bool) -> Iterator[Finding]:
    """alphas_cumprod of every training index."""
    build = subject.source
    if not isinstance(build, Build):
        return
    scheduler = constructed(build.kind, build.options)
    config, bars = scheduler.config, getattr(scheduler, "alphas_cumprod", None)
    name = getattr(config, "beta_schedule", None)
    if bars is None or name is None or getattr(config, "trained_betas", None) is not None:
        return
    found = to_numpy(bars).astype(float)
    right, bound = cumulative(config)
    if len(found) != len(right):
        text = f"it has {len(found)} entries, should have {len(right)}"
        yield Finding(subject.name, QUESTION, Verdict.WRONG, text, place="length")
        return
    made = build.made(10).script().rpartition("\n")[0]
    for one in (*_products(found, right, bound, made), *_order(found, made)):
        yield replace(one, subject=subject.name)


def _products(found: Array, right: Array, bound: Array, made: str) -> Iterator[Finding]:
    """The entries, and the last one where it should be 0."""
    last = len(right) - (right[-1] == 0)
    error = np.abs(found - right)[:last] / bound[:last]
    k = int(np.argmax(error)) if np.isfinite(error).all() else int(np.argmax(~np.isfinite(error)))
    script = f"{made}\nimport numpy as np\nb = scheduler.betas.double().numpy()\nprint(np.cumprod(1 - b)[{k}], "
    yield judged(
        "",
        QUESTION,
        abs(found[k] - right[k]) / right[k],
        bound[k] / right[k],
        f"entry {k} is {found[k]:.9g}, should be {right[k]:.9g}",
        rule="2 roundings of each factor",
        place=QUESTION,
        script=f"{script}scheduler.alphas_cumprod[{k}])",
    )
    if last < len(right) and found[-1] == FLOOR:
        yield convention("", QUESTION, "the last entry is 2^-24 in place of 0", place="terminal")
    elif last < len(right) and found[-1] != 0:
        text = f"the last entry is {found[-1]:.9g}, should be 0"
        yield Finding("", QUESTION, Verdict.WRONG, text, found[-1], 0.0, place="terminal")


def _order(found: Array, made: str) -> Iterator[Finding]:
    """More noise has a lower alpha_bar."""
    rises = np.flatnonzero(np.diff(found) >= 0)
    if len(rises):
        k = int(rises[0])
        text = (
            f"alphas_cumprod rises from {found[k]:.6g} at index {k} to {found[k + 1]:.6g}, so that more noise is less"
        )
        script = f"{made}\nprint(scheduler.alphas_cumprod[{k}:{k + 2}])"
        yield Finding("", "training levels", Verdict.WRONG, text, found[k + 1] - found[k], 0.0, "order",
                      "alpha_bar falls strictly", script)  # fmt: skip


def cumulative(config: Any) -> tuple[Array, Array]:
    """alpha_bar of every training index by the options, shape (num_train_timesteps,), and how far float32 is off."""
    count, name = config.num_train_timesteps, config.beta_schedule
    ends = {k: getattr(config, k) for k in ("beta_start", "beta_end") if name != "squaredcos_cap_v2"}
    bars = beta_table.TABLES[TABLES.get(name, name)](count, **ends).alpha_bar
    # each factor 1 - beta is rounded, and so is each product; a beta is off by 8 roundings of the largest
    i = np.arange(1, count + 1)
    relative = 2 * i * EPS * (1 + 4 * getattr(config, "beta_end", 0.0))
    if (scale := getattr(config, "snr_shift_scale", None)) is not None:
        bars = bars / (scale + (1 - scale) * bars)
        relative = relative * max(scale, 1.0) + 4 * EPS
    if getattr(config, "rescale_betas_zero_snr", False):
        roots = np.sqrt(bars)
        kept = roots - roots[-1]
        drift = relative / 2 * roots
        with np.errstate(divide="ignore", invalid="ignore"):
            # both ends of a difference are off, and their table is once more taken apart and multiplied up
            relative = 2 * (drift + drift[-1]) / kept + 2 * relative + 2 * i * EPS
        bars = (kept * roots[0] / kept[0]) ** 2
    return bars, bars * relative


CHECKS: tuple[Check, ...] = (training_table,)
