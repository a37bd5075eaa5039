r"""The embedded pairs of torchdiffeq: their numbers, their control, and their interpolants, which have an own order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.samplers.impulse import NotLinear
from refdiff.samplers.order import reference_flow
from refdiff.validation.audits.findings import Finding, Verdict, judged
from refdiff.validation.audits.levels import FLOW
from refdiff.validation.audits.protocols.integrators.conditions import conditions, defects, embedded
from refdiff.validation.audits.protocols.integrators.ways import FLOWING
from refdiff.validation.audits.protocols.torchdiffeq.methods import ADAPTIVE, integrate, name_of, stale, tableau
from refdiff.validation.audits.steps import Mismatch, compare
from refdiff.validation.audits.subject import Subject


def adaptive(subject: Subject, quick: bool) -> Iterator[Finding]:
    """An embedded pair: its conditions, its interpolant, and the error that falls with the tolerance."""
    method = str(dict(subject.options).get("method", ""))
    if method not in ADAPTIVE or subject.name != name_of(method, {}):
        return
    A, b, lower, middle = tableau(method)
    order = int(ADAPTIVE[method])
    yield conditions(subject.name, A, b, order)
    yield embedded(subject.name, A, lower, order)
    if not np.array_equal(A[-1], b):
        yield reused(subject, method)
    yield dense(subject.name, method, A, middle, order)
    yield from tolerance(subject, method, quick)


def reused(subject: Subject, method: str) -> Finding:
    """Whether the slope that a step begins with is the one at its own start, in a pair that does not end with it."""
    held = subject.build(2)
    claim = replace(held.claim, build=lambda grid: stale(method)(FLOW, grid, 0.0)) if held.claim else None
    try:
        same = not compare(held, claim).wrong
    except (Mismatch, NotLinear):
        same = False
    said = (
        "the last slope of a step, k_s = f(t + h, y + h sum a_sj k_j), is the first of the next, whose state is "
        "y + h sum b_j k_j: another point"
    )
    script = (
        "import torch\nfrom torchdiffeq import odeint\nasked = []\n"
        "def f(t, y):\n    asked.append((float(t), float(y)))\n    return -y\n"
        f"odeint(f, torch.ones(1), torch.tensor([0.0, 1.0]), method={method!r}, rtol=1e30, atol=1e30,\n"
        "       options=dict(first_step=0.5, max_step=0.5))\n"
        "print(asked)  # no state is asked about at the start of the second step"
    )
    if same:
        return Finding(subject.name, "first slope", Verdict.WRONG, said, place="step 1", script=script)
    return Finding(subject.name, "first slope", Verdict.OK, "every step begins with the slope at its start")


def dense(name: str, method: str, A: Array, middle: Array, order: int) -> Finding:
    """The order of what is said in the middle of a step.

    The interpolant is the quartic through both ends, their slopes and y_0 + h sum mid_j k_j in the middle: no better
    than order 4, and there as good as the conditions of part 1/2. An output between two steps has the method's global
    order min(p, 4) where the middle's order is min(p, 4) - 1 or more: one step's error h^p beside n steps' h^p.
    """
    met = [worst <= bound for worst, bound in defects(A, middle, 4, 0.5)]
    have = met.index(False) if False in met else 4
    least = min(order, 4) - 1
    worst = defects(A, middle, 2, 0.5)[1][0]
    text = (
        f"an output in the middle of a step has order {have}, its error is h^{have + 1}"
        + (f": y_0 + h/2 k_2 is off by {worst:.4g} h^2 y''" if have < 2 else "")
        + f"; the method's order {order} needs {least}"
    )
    script = (
        "import torch, math\nfrom torchdiffeq import odeint\n"
        "t = torch.linspace(0, 10, 401, dtype=torch.float64)\n"
        "y = odeint(lambda t, y: y * torch.cos(t), torch.ones(1, dtype=torch.float64), t,\n"
        f"           method={method!r}, rtol=1e-8, atol=1e-8)[:, 0]\n"
        "print((y - torch.exp(torch.sin(t))).abs().max())"
    )
    rule = "min(p, 4) - 1, for a global order of min(p, 4)"
    return judged(name, "dense output", float(least), float(have), text, rule=rule, place="middle", script=script)


def tolerance(subject: Subject, method: str, quick: bool) -> Iterator[Finding]:
    """Whether the error against the flow map falls when the tolerance does."""
    model = ExactModel(Gaussian([0.7], [[0.3]]), FLOW)
    x = model.sample(4, 1.0, 0)
    exact = reference_flow(model, x, 1.0, 0.0)
    drift = FLOWING.drift(model.velocity)
    errors = []
    for tol in (1e-2, 1e-4, 1e-6)[: 2 if quick else None]:
        found = integrate(method, {}, drift, x, np.array([0.0, 1.0]), tol)
        errors.append(float(np.abs(found - exact).max()))
    ratio = max(after / before for before, after in pairwise(errors))
    said = ", ".join(f"{error:.1e}" for error in errors)
    yield judged(subject.name, "tolerance", ratio, 1.0, f"errors {said} at tolerances 1e-2, 1e-4, ...",
                 rule="a hundredth of the tolerance gives no larger error", errors=errors)  # fmt: skip
