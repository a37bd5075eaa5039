r"""The law of the output of a stochastic sampler, exactly and with its own random numbers.

    law              mean and variance of the output for Gaussian data, from the sampler's recovered weights, against
                     those of the claimed table: no Monte Carlo
    random numbers   the sampler is run with its own generator. With its weights known, the states that it shows give
                     back the normals that it drew: each must have mean 0 and variance 1, and those of two draws, two
                     axes or two points must be independent

For independent unit normals u, v every tested number has an exact law: sum u ~ N(0, n), sum u^2 ~ chi^2_n,
sum (u + v)^2 / 2 and sum (u - v)^2 / 2 ~ chi^2_n, and the count within the quartiles ~ Binomial(n, 1/2). The
probability that any of them raises a false alarm is ALARM.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from scipy.special import bdtr, bdtrc, chdtr, chdtrc, ndtr, ndtri

from refdiff.arguments import Array
from refdiff.processes.affine import motion
from refdiff.samplers.propagation import exact_prediction
from refdiff.validation.audits.checks import Check
from refdiff.validation.audits.checks.exactness import NAMES, summary
from refdiff.validation.audits.findings import Finding, judged, not_applicable
from refdiff.validation.audits.reading import FEW, FEW_QUICK, QUICK, Read, Unreadable, counts, read
from refdiff.validation.audits.rows import RULE, Rows
from refdiff.validation.audits.subject import Subject

LAW, RANDOM = "law", "random numbers"
DATA = ((0.7, 0.25), (0.0, 1.0))  # mean and variance
ALARM, POINTS, AXES, SEED = 1e-9, 20_000, 2, 20260
RANDOM_RULE = f"the probability of a false alarm in any of the tests is {ALARM:g}; {POINTS} points, fixed seed"
QUARTILE = float(ndtri(0.75))
# normals whose weight is less than so many roundings of the states that carry them are not seen well enough
FAINT = 1e4


def law(subject: Subject, quick: bool) -> Iterator[Finding]:
    """Mean and variance of the output, without Monte Carlo."""
    for steps in counts(subject, quick, FEW, FEW_QUICK):
        place = f"{steps} steps"
        try:
            found = read(subject, steps)
        except Unreadable as why:
            yield not_applicable(subject.name, LAW, f"{place}: {why}")
            continue
        if not (found.comparison.table.stochastic or found.comparison.heard.draws):
            yield not_applicable(subject.name, LAW, "it is deterministic")
            return
        yield from _laws(subject.name, found, place)


def _laws(name: str, found: Read, place: str) -> Iterator[Finding]:
    for mean, variance in DATA:

        def numbers(rows: Rows, mean: float = mean, variance: float = variance) -> Array:
            return summary(rows, mean, variance)

        right, has, bound = numbers(found.mine), numbers(found.theirs), found.allowed(numbers)
        off = np.abs(has - right)
        worst = int(np.argmax(off / bound))
        what = NAMES[found.table.stochastic][worst].removeprefix("its ")
        data = f"N({mean:g}, {variance:g})"
        values = f"is {has[worst]:.8g}, of the method {right[worst]:.8g} (in units of the target's size)"
        text = f"{place}: for data {data} the {what} of the output {values}"
        yield judged(name, LAW, float(off[worst]), float(bound[worst]), text,
                     rule=RULE, place=f"{place}, data {data}", script=found.sampler.script)  # fmt: skip


# ---------------------------------------------------------------------- the sampler's own random numbers


def random_numbers(subject: Subject, quick: bool) -> Iterator[Finding]:  # noqa: ARG001
    """The normals that the sampler draws by itself."""
    for steps in counts(subject, True, QUICK, QUICK)[:1]:
        place = f"{steps} steps"
        try:
            found = read(subject, steps)
        except Unreadable as why:
            yield not_applicable(subject.name, RANDOM, f"{place}: {why}")
            continue
        sampler = found.sampler
        if sampler.seeded is None or not found.comparison.heard.draws:
            yield not_applicable(subject.name, RANDOM, "it draws none" if sampler.seeded else "it has no generator")
            return
        recovered, names = normals(found)
        if not len(recovered):
            yield not_applicable(subject.name, RANDOM, f"{place}: its normals are lost in rounding")
            continue
        p, text = least_likely(recovered, names)
        said = "its normals are unit normals, independent between steps, axes and points" if p >= ALARM else text
        yield _judged(subject.name, place, p, said, sampler.script)


def _judged(name: str, place: str, p: float, said: str, script: str) -> Finding:
    surprise = float(-np.log10(max(p, 1e-300)))
    bound = float(-np.log10(ALARM))
    return judged(name, RANDOM, surprise, bound, f"{place}: {said}", rule=RANDOM_RULE, place=place, script=script)


def normals(found: Read) -> tuple[Array, list[str]]:
    """The normals of a run, shape (draws, points, axes), with their names: from the states that it shows.

    Where some cannot be told apart, independent combinations of them.
    """
    sampler, rows = found.sampler, found.theirs
    at = rows.at
    assert sampler.seeded is not None
    scales = found.claim.scales(rows.table)
    states: list[Array] = []
    answers: list[Array] = []
    turns = [exact_prediction(rows.prediction, motion(rows.level(k)), np.array([DATA[0][1]]), 1) for k in at]

    def network(x: Array, t: object) -> Array:  # noqa: ARG001
        j = len(states)
        state = np.asarray(x, dtype=float) / scales[j]
        c, (of_state, of_mean) = rows.level(at[j]), turns[j]
        answer = of_state * (rows.table.scale[at[j]] * state - c.alpha * DATA[0][0]) + of_mean * DATA[0][0]
        states.append(state)
        answers.append(np.asarray(answer, dtype=float).astype(sampler.dtype).astype(float))
        return answers[-1]

    start = np.zeros((POINTS, AXES))
    states.append(np.asarray(sampler.seeded(network, start, SEED), dtype=float))
    nfe = len(at)
    known = np.tensordot(rows.weights[:, 1 : 1 + nfe], np.array(answers), axes=1)
    left = np.array(states) - known
    noise = rows.weights[:, 1 + nfe :]
    used = np.flatnonzero(np.abs(noise).max(axis=0) > 0)
    u, s, v = np.linalg.svd(noise[:, used], full_matrices=False)
    clear = s > FAINT * sampler.eps * np.abs(np.array(states)).max()
    parts = np.tensordot((u[:, clear] / s[clear]).T, left, axes=1)
    if clear.sum() < len(used):
        return parts, [f"combination {i + 1} of its normals" for i in range(len(parts))]
    return np.tensordot(v.T, parts, axes=1), [f"normal {m + 1}" for m in used.tolist()]


def least_likely(drawn: Array, names: list[str]) -> tuple[float, str]:
    """The least probability of what normals (draws, points, axes) show, times the number of tests, and what it is."""
    count = drawn.shape[1]
    found: list[tuple[float, str]] = []
    for z, name in zip(drawn, names, strict=True):
        for axis in range(z.shape[1]):
            u = z[:, axis]
            found.append((2 * float(ndtr(-abs(u.sum()) / np.sqrt(count))), f"{name} has mean {u.mean():.4g}"))
            found.append((_chi2(u, count), f"{name} has variance {np.mean(u * u):.4g}"))
            inside = int(np.sum(np.abs(u) < QUARTILE))
            p = 2 * float(min(bdtr(inside, count, 0.5), bdtrc(inside - 1, count, 0.5))) if inside else 2 * 0.5**count
            found.append((min(1.0, p), f"{name} is no normal: {inside / count:.4g} of it lie within the quartiles"))
            half = count // 2
            for one, other in ((u[: count - 1 : 2], u[1::2]), (u[:half], u[half : 2 * half])):
                found.append((_dependent(one, other), f"{name} is the same, or related, for two points"))
        for a, b in combinations(range(z.shape[1]), 2):
            found.append((_dependent(z[:, a], z[:, b]), f"{name} is correlated between two axes"))
    for (one, first), (other, second) in combinations(zip(drawn, names, strict=True), 2):
        for axis in range(drawn.shape[2]):
            p = _dependent(one[:, axis], other[:, axis])
            correlation = np.mean(one[:, axis] * other[:, axis])
            found.append((p, f"{first} and {second} have correlation {correlation:.4g}"))
    p, text = min(found, key=lambda pair: pair[0])
    # a wrong mean or variance shows in sums and differences too, and is what is said first
    alone = [pair for pair in found if "mean" in pair[1] or "variance" in pair[1]]
    if min(alone)[0] * len(found) < ALARM:
        text = min(alone)[1]
    return float(min(1.0, p * len(found))), f"{text}, p = {p:.2g} for independent unit normals"


def _chi2(u: Array, count: int) -> float:
    total = float(u @ u)
    return 2 * float(min(chdtr(count, total), chdtrc(count, total)))


def _dependent(u: Array, v: Array) -> float:
    """The probability of sums and differences of this size."""
    return min(1.0, 2 * min(_chi2((u + v) / np.sqrt(2), len(u)), _chi2((u - v) / np.sqrt(2), len(u))))


CHECKS: tuple[Check, ...] = (law, random_numbers)
