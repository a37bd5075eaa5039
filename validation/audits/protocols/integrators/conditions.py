r"""The numbers of a Runge-Kutta method by themselves, and whether steps of a given length fill an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.runge_kutta import density, nodes, rooted_trees
from refdiff.validation.audits.findings import Finding, Verdict, judged
from refdiff.validation.audits.protocols.integrators.ways import Drift


def defects(A: Array, weights: Array, order: int, part: float = 1.0) -> list[tuple[float, float]]:
    """(worst defect, its rounding) of the conditions of orders 1, 2, ...

    For every tree of n nodes, weights . Phi(tree) = part^n / gamma(tree).
    """

    def phi(tree: Any, M: Array) -> Array:
        return np.asarray(np.prod([np.ones(len(M)), *(M @ phi(branch, M) for branch in tree)], axis=0))

    found = []
    for size in range(1, order + 1):
        gaps = [abs(weights @ phi(tree, A) - part ** nodes(tree) / density(tree)) for tree in rooted_trees(size)]
        sizes = [float(np.abs(weights) @ phi(tree, np.abs(A))) for tree in rooted_trees(size)]
        rounding = 16 * size * np.finfo(float).eps
        found.append((float(max(gaps)), float(rounding * max(max(sizes), 1.0))))
    return found


def conditions(name: str, A: Array, b: Array, order: int, script: str = "") -> Finding:
    """Whether a method has its order, by algebra."""
    worst, bound = max(defects(A, b, order), key=lambda pair: pair[0] / pair[1])
    text = f"conditions of all trees up to order {order}: worst defect {worst:.2g}"
    rule = "16 roundings for each node of a tree, in the sum of the terms' sizes"
    return judged(name, "order conditions", worst, bound, text, rule=rule, place=f"order {order}", script=script)


def embedded(name: str, A: Array, b: Array, order: int) -> Finding:
    """Whether the second weights of a pair have the order below the first one's."""
    met = sum(worst <= bound for worst, bound in defects(A, b, order - 1))
    text, rule = f"the embedded weights have order {met}", "one less than the method's"
    return judged(name, "embedded order", float(order - 1 - met), 0.0, text, rule=rule)


def whole_steps(
    name: str,
    option: str,
    counts: Iterable[int],
    integrate: Callable[[int, str, Drift], Any],
    script: Callable[[int, str], str],
) -> Iterator[Finding]:
    """Whether steps of length 1/n fill an interval of length 1 in n steps, in both number types.

    Args:
        option: what the length is called.
        counts: what n may be.
        integrate: (n, number type, drift) runs Euler's method so.
        script: (n, number type) -> a program that prints how many steps there are.
    """
    for dtype in ("float64", "float32"):
        taken = {n: _asked(lambda drift, n=n, dtype=dtype: integrate(n, dtype, drift)) for n in counts}  # type: ignore[misc]
        wrong = [n for n, asked in taken.items() if len(asked) != n]
        n = wrong[0] if wrong else 1
        text = "n steps for every n"
        if wrong:
            length = 1 - taken[n][-1]
            text = f"{option} = 1/{n} gives {len(taken[n])} steps, the last {length:.2g} long; {len(wrong)} of "
            text += f"{len(taken)} lengths do not give n steps"
        yield Finding(
            name,
            "steps of zero length",
            Verdict.WRONG if wrong else Verdict.OK,
            f"{dtype}: {text}",
            place=f"{option}, {dtype}",
            rule="n steps of length 1/n fill an interval of length 1",
            script=script(n, dtype),
        )


def _asked(run: Callable[[Drift], Any]) -> Sequence[float]:
    """When the drift is asked for."""
    times: list[float] = []

    def drift(u: float, x: Array) -> Array:
        times.append(u)
        return np.zeros_like(x)

    run(drift)
    return times
