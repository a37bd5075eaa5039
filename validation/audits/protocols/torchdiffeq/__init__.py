r"""The integrators of torchdiffeq: odeint(func, y0, t, method=...), also those of flow_matching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols import callables
from refdiff.validation.audits.protocols.integrators.conditions import whole_steps
from refdiff.validation.audits.protocols.integrators.schemes import adams, one_step
from refdiff.validation.audits.protocols.integrators.ways import FLOWING, Drift, Driven, driven
from refdiff.validation.audits.protocols.protocol import Protocol, Request
from refdiff.validation.audits.protocols.torchdiffeq.methods import (
    ADAMS,
    ADAPTIVE,
    FIXED,
    OPTIONS,
    SOURCE,
    fixed,
    held,
    held_build,
    integrate,
    name_of,
)
from refdiff.validation.audits.protocols.torchdiffeq.pairs import adaptive
from refdiff.validation.audits.subject import Subject


def sampler(method: str, options: Mapping[str, Any], dtype: str, warped: bool, steps: int) -> Driven:
    """odeint with a method, over equal steps, or over steps that grow."""
    clock = FLOWING.clock(steps, dtype)
    if warped:
        clock = (clock * (1 + clock) / 2).astype(dtype)
    name = name_of(method, options) + (", unequal steps" if warped else "")
    script = (
        "import torch\nfrom torchdiffeq import odeint\n"
        f"odeint(func, x, torch.tensor({np.round(clock, 6).tolist()}), method={method!r}, options={dict(options)})"
    )
    if method in FIXED:
        known, order = FIXED[method]
        run = partial(fixed, method, options)
        return driven(name, run, FLOWING, clock, one_step(known), order=order, source=SOURCE, script=script)
    if method in ADAPTIVE:
        run = partial(held, method, options)
        return driven(
            name, run, FLOWING, clock, held_build(method), order=ADAPTIVE[method], source=SOURCE, script=script
        )
    limit, implicit = int(options.get("max_order", 12)), method != "explicit_adams"
    return driven(
        name,
        partial(fixed, method, options),
        FLOWING,
        clock,
        adams(limit, implicit=implicit),
        # two steps of order 4 and one of order 3 or 4 begin; beyond order 6 the region of stability is tiny
        order=None if limit > 6 else min(limit, 5) if implicit else min(limit - 1, 4),
        conventions=() if implicit else ("max_order counts the slope at the end too: the order is max_order - 1",),
        source=SOURCE,
        script=script,
        variants=(
            (
                "has the weights of equal steps on steps that are not",
                adams(limit, implicit=implicit, equal=True),
                Verdict.WRONG,
            ),
        ),
    )  # fmt: skip


def subject(method: str, options: Mapping[str, Any], dtype: str = "float64", warped: bool = False) -> Subject:
    """A method with its options."""
    import torchdiffeq

    said = (", unequal steps" if warped else "") + (f", {dtype}" if dtype != "float64" else "")
    return Subject(
        name_of(method, options) + said,
        partial(sampler, method, options, dtype, warped),
        "torchdiffeq",
        torchdiffeq.__version__,
        "torchdiffeq",
        (1, 2, 4, 8) if method in ADAPTIVE else (1, 3, 8, 16) if warped or method in ADAMS else (1, 2, 5, 10),
        (("method", method), *options.items()),
    )


def wrap(target: Any, request: Request) -> Subject:
    """odeint with the method and options of the request.

    Raises:
        ValueError: it is not the library's own, or an option or a value of one is unknown.
    """
    import torchdiffeq

    if target is not torchdiffeq.odeint:
        raise ValueError("it must be torchdiffeq.odeint itself; a solver of your own goes by the protocol velocity")
    method = request.options.get("method", "dopri5")
    if method not in OPTIONS:
        raise ValueError(f"method must be one of {', '.join(OPTIONS)}, got {method!r}")
    options = callables.settings(request, ("method", *OPTIONS[method]))
    options.pop("method", None)
    return subject(method, options, request.dtype)


def members(quick: bool) -> Mapping[str, Callable[[], Iterator[Subject]]]:
    """Every method of odeint."""

    def of(method: str) -> Iterator[Subject]:
        yield subject(method, {})
        if quick:
            return
        yield subject(method, {}, "float32")
        if method in FIXED or method in ADAMS:
            yield subject(method, {}, warped=True)
        for limit in (4, 6) if method in ADAMS else ():
            yield subject(method, {"max_order": limit})

    return {method: partial(of, method) for method in (*FIXED, *ADAMS, *ADAPTIVE)}


def zero_steps(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Whether step_size = 1 / n gives n steps."""
    if subject.name != name_of("euler", {}):
        return

    def run(n: int, dtype: str, drift: Drift) -> Array:
        return integrate("euler", {"step_size": 1 / n}, drift, np.ones((1, 1), dtype), np.array([0, 1], dtype))

    def script(n: int, dtype: str) -> str:
        return (
            "import torch\nfrom torchdiffeq import odeint\nasked = []\n"
            f"one, ends = torch.ones(1, dtype=torch.{dtype}), torch.tensor([0, 1], dtype=torch.{dtype})\n"
            f"options = {{'step_size': 1 / {n}}}\n"
            "odeint(lambda t, y: asked.append(t) or y, one, ends, method='euler', options=options)\n"
            "print(len(asked))"
        )

    yield from whole_steps(subject.name, "step_size", range(1, 31 if quick else 101), run, script)


PROTOCOLS = (
    Protocol(
        "torchdiffeq",
        "odeint(func, y0, t, method=...)",
        wrap,
        "torchdiffeq",
        members,
        checks=(adaptive, zero_steps),
        options=("method", *dict.fromkeys(name for names in OPTIONS.values() for name in names)),
        given=None,
    ),
)
