r"""Samplers as rows: the weights of (start, answers, normals) in every state that is shown, and in the output.

    y_k = start_k x + sum_j answers_kj o_j + sum_m normals_km z_m

Rows are what impulses show of a foreign sampler and what a claimed table comes to, so both are put to the same uses:
with the network of Gaussian data, o_j = K_j (alpha_j y_j - alpha_j m) + k_j m in one dimension, the output is
gain x + offset + noise . z exactly; with any other network the rows are played.

What rounding may do is rehearsed: the claimed table's own rows, made with a relative error of `OPERATIONS` roundings in
every term of every step, each weight by itself, on a grid that is off by one rounding. A bound is `WORST` times the
largest change in `PERTURBED` rehearsals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.processes.affine import motion
from refdiff.samplers import Tableau
from refdiff.samplers.propagation import exact_prediction
from refdiff.schedules import Coefficients
from refdiff.validation.audits.rounding import OPERATIONS, PERTURBED, WORST
from refdiff.validation.audits.steps import Comparison
from refdiff.validation.audits.subject import Claim
from refdiff.validation.audits.terms import terms_of, turned

RULE = (
    f"{WORST:g} times the largest change over {PERTURBED} tables that are off by {OPERATIONS} roundings in every term "
    "and by one in every level"
)


class Output(NamedTuple):
    """y = gain x + offset + noise . z for Gaussian data, in the sampler's coordinate."""

    gain: float
    offset: float
    noise: Array


@dataclass(frozen=True)
class Rows:
    """A sampler as rows.

    Attributes:
        weights: shape (nfe + 1, 1 + nfe + draws), the output's row last.
        prediction: what the answers are.
        table: the table whose stages the states are; its levels and coordinate are theirs.
    """

    weights: Array
    prediction: str
    table: Tableau

    @property
    def at(self) -> list[int]:
        """The evaluated stages."""
        return [int(k) for k in np.flatnonzero(self.table.evaluated)]

    def level(self, stage: int) -> Coefficients:
        """The coefficients of the process at a stage."""
        return Coefficients(*(part[stage] for part in self.table.scalars))

    def output(self, mean: float, variance: float) -> Output:
        """The output with the network of data N(mean, variance).

        Raises:
            ValueError: data of one point, evaluated without noise.
        """
        at, size = self.at, self.weights.shape[1]
        # every state as (x, 1, z...)
        answers = np.zeros((len(at), 2 + size - 1 - len(at)))
        states = np.zeros((len(at) + 1, answers.shape[1]))
        for j, row in enumerate(self.weights):
            states[j] = row[1 : 1 + len(at)] @ answers
            states[j, 0] += row[0]
            states[j, 2:] += row[1 + len(at) :]
            if j < len(at):
                c = self.level(at[j])
                of_state, of_mean = exact_prediction(self.prediction, motion(c), np.array([variance]), 1)
                slope = float(np.ravel(of_state)[0])
                answers[j] = slope * self.table.scale[at[j]] * states[j]
                answers[j, 1] += (float(of_mean) - slope * float(c.alpha)) * mean
        return Output(float(states[-1, 0]), float(states[-1, 1]), states[-1, 2:])

    def played(self, network: Callable[[int, Array, float], Array], x: Array, normals: Array) -> Array:
        """The output for points x (n, d) and normals (draws, n, d); network(evaluation, x of the process, time)."""
        given = [x]
        drawn = list(normals)
        for j, row in enumerate(self.weights):
            # an answer that is not there yet has no weight
            state = sum(
                (w * part for w, part in zip(row[: len(given)], given, strict=True) if w),
                np.zeros_like(x),
            ) + sum((w * z for w, z in zip(row[1 + len(self.at) :], drawn, strict=True) if w), np.zeros_like(x))
            if j == len(self.at):
                break
            stage = self.at[j]
            given.append(network(j, self.table.scale[stage] * state, float(self.table.times[stage])))
        return state


def heard(comparison: Comparison, claim: Claim) -> Rows:
    """What impulses show of the sampler, with states as they are before they are scaled for the network."""
    weights = comparison.heard.rows.copy()
    weights[:-1] /= claim.scales(comparison.table)[:, None]
    return Rows(weights, claim.prediction, comparison.table)


def claimed(claim: Claim, table: Tableau | None = None) -> Rows:
    """The rows of the claimed table."""
    return _written(claim.table() if table is None else table, claim.prediction, lambda products: products)


def rehearsed(claim: Claim, moved: tuple[Tableau, ...], eps: float) -> Iterator[Rows]:
    """Rows of the claimed table as arithmetic of this precision may make them, on grids that are off by a rounding."""
    rng = np.random.default_rng(1)

    def rounded(products: Array) -> Array:
        return np.asarray(products * (1 + OPERATIONS * eps * rng.uniform(-1, 1, products.shape)))

    for table in moved:
        yield _written(table, claim.prediction, rounded)


def _written(table: Tableau, prediction: str, rounded: Callable[[Array], Array]) -> Rows:
    at = np.flatnonzero(table.evaluated).tolist()
    size = 1 + len(at) + table.draws
    unit = np.eye(size)
    place = {stage: 1 + i for i, stage in enumerate(at)}
    known = [unit[0]]
    turns = turned(table, prediction)
    for k in range(1, table.stages):
        row = np.zeros(size)
        for term, w in terms_of(table, k):
            kind, index = term.kind, term.index
            if kind == "y":
                row = row + rounded(w * known[index])
            elif kind == "z":
                row = row + rounded(w * unit[1 + len(at) + index])
            else:
                of_x, of_answer = turns[index]
                if of_x:
                    row = row + rounded(w * of_x * known[index])
                row = row + rounded(w * of_answer * unit[place[index]])
        known.append(row)
    return Rows(np.array([*(known[k] for k in at), known[-1]]), prediction, table)
