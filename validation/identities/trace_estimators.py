r"""Hutchinson's estimator: all its probes at once, those that are drawn, and one probe along a whole path.

    E u'Au = tr A,    Var u'Au = 2 |S|^2 - c sum_i S_ii^2,    S = (A + A') / 2;   c = 0 for normals, 2 for signs
    on the sphere     2 (d |S|^2 - (tr S)^2) / (d + 2);   two axes of a frame in d = 3: a quarter of it
    along a path      int u'J u dt = u'M u,    M = int dv/dx dt;    for Gaussian data M = log(V_t V_s^-1) / 2

Averages over all probes are sums: over all signs; over Gauss-Hermite nodes for normals; on spheres over the corners of
the icosahedron (d = 3) and the roots of E_8 (d = 8), on which polynomials of degree 5 and 7 have their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.dynamics import draw_probes, hutchinson, log_likelihood, trace_variance
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import one_gaussian, tabulated
from refdiff.validation.identity import MONTE_CARLO, QUADRATURE, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import hermite, lattice, product_rule

TOPIC = "Flow maps and likelihood"
DRAWS = 20_000


def icosahedron() -> Array:
    """Its corners on the sphere of radius sqrt(3), shape (12, 3)."""
    golden = (1 + np.sqrt(5)) / 2
    corners = lattice(np.array([-1.0, 1.0]), np.array([-golden, golden]))
    found = np.concatenate([np.roll(np.insert(corners, 0, 0.0, axis=1), k, axis=1) for k in range(3)])
    return np.asarray(found * np.sqrt(3 / (1 + golden**2)))


def roots_of_e8() -> Array:
    """Two units +-1 among zeros, and all signs of 1/2 with an even number of minuses, at length sqrt(8): (240, 8)."""
    signs = lattice(*[np.array([-1.0, 1.0])] * 8)
    half = signs[signs.prod(axis=1) > 0] / 2
    i, j = np.triu_indices(8, 1)
    pairs = [a * np.eye(8)[i] + b * np.eye(8)[j] for a in (-1, 1) for b in (-1, 1)]
    return np.asarray(2 * np.concatenate([half, *pairs]))


@identity(
    "Hutchinson's estimator over all its probes",
    topic=TOPIC,
    formula=r"\mathbb{E}\, u^\top A u = \mathrm{tr} A,\quad \mathrm{Var}\, u^\top A u = 2 \|S\|_F^2,\;"
    r" 2 (\|S\|_F^2 - \textstyle\sum_i S_{ii}^2),\; \tfrac{2}{d+2} (d \|S\|_F^2 - (\mathrm{tr} S)^2),\quad"
    r" S = \tfrac12 (A + A^\top)",
    covers=["PODB-25", "PODA-312"],
    over="once",
    control="the matrix A itself in place of its symmetric part",
)
def over_all_probes(case: Case, wrong: bool) -> Iterator[Sides]:
    """Sums over all signs, nodes and corners against the formulas, here and in the library; frames by what is left."""

    def each(d: int) -> tuple[Array, Array, float, float, float]:
        a = case.rng.standard_normal((d, d))
        s = a if wrong else (a + a.T) / 2
        return a, s, (s**2).sum(), (np.diag(s) ** 2).sum(), np.trace(s)

    signs = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    rules = (
        ("rademacher", *product_rule(signs, 6)),
        ("gaussian", *product_rule(hermite(3), 3)),
        ("sphere", icosahedron(), np.full(12, 1 / 12)),
        ("sphere", roots_of_e8(), np.full(240, 1 / 240)),
    )
    for probe, u, w in rules:
        d = u.shape[1]
        a, s, square, diagonal, trace = each(d)
        forms = np.einsum("ui,ij,uj->u", u, a, u)
        variance = w @ (forms - np.trace(a)) ** 2
        known = {
            "rademacher": 2 * (square - diagonal),
            "gaussian": 2 * square,
            "sphere": 2 * (d * square - trace**2) / (d + 2),
        }
        yield Sides(w @ forms, np.trace(a), scale=d * np.abs(a).max())
        yield Sides(variance, known[probe], scale=2 * square)
        yield Sides(variance, trace_variance(s if wrong else a, probe), scale=2 * square)
        if (probe, d) == ("sphere", 3):
            two = (3 * np.trace(a) - forms) / 2  # what the third axis of a frame leaves of the trace for the others
            yield Sides(w @ (two - np.trace(a)) ** 2, trace_variance(a, "orthogonal", 2), scale=square)


@identity(
    "Drawn probes have Hutchinson's variance",
    topic=TOPIC,
    formula=r"\mathbb{E} (\bar q_m - \mathrm{tr} A)^2 = \tfrac1m \mathrm{Var}\, u^\top A u,\quad"
    r" \text{in a frame } \tfrac{d-m}{d-1} \text{ of it}",
    covers=["PODB-25"],
    over="once",
    evidence=MONTE_CARLO,
    control="the variance of one normal probe for the mean of four probes of any kind",
)
def drawn(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's own probes, many estimates of one trace: mean, mean square and what they say of their error."""
    d, m = 5, 4
    a = case.rng.standard_normal((d, d))
    for probe in ("gaussian", "rademacher", "sphere", "orthogonal"):
        found = hutchinson(np.broadcast_to(a, (DRAWS, d, d)), m, seed=case.seed, probe=probe)
        exact = trace_variance(a, "gaussian") if wrong else trace_variance(a, probe, m)
        error = found.value - np.trace(a)
        for values, expected in ((error, 0.0), (error**2, exact), (found.standard_error**2, exact)):
            yield Sides(values.mean(), expected, scale=values.std() / np.sqrt(DRAWS))


@identity(
    "Fixed probes along a path estimate the trace of one matrix",
    topic=TOPIC,
    formula=r"\int_s^t u^\top \tfrac{\partial v}{\partial x}(x_\tau, \tau)\, u\, d\tau = u^\top M u,\quad"
    r" M = \tfrac12 \log (V_t V_s^{-1}) \text{ for Gaussian data},\quad V = \alpha^2 S + \sigma^2 I",
    covers=["PODB-25", "PODB-24"],
    evidence=QUADRATURE,
    control="log(V_t V_s^-1) without the 1/2",
    needs=lambda case: one_gaussian(case) and case.law.dim <= 5 and not tabulated(case.process),
    most=4,
)
def along_a_path(case: ModelCase, wrong: bool) -> Sides:
    """Probe by probe, the integrals that the library carries along the flow against forms of a closed matrix."""
    values, axes = np.linalg.eigh(case.law.cov())
    before, after = (noised_variance(case.process.coefficients(t), values) for t in (case.s, case.t))
    m = (axes * np.log(after / before) * (1.0 if wrong else 0.5)) @ axes.T
    x = case.model.sample(2, case.s, case.rng)
    how: dict[str, Any] = {"divergence": "gaussian", "probes": 2, "seed": case.seed, "rtol": 1e-10}
    found = log_likelihood(case.model, x, start=case.s, end=case.t, **how)
    u = draw_probes("gaussian", 2, 2, case.law.dim, case.seed)
    forms = np.einsum("nmi,ij,nmj->mn", u, m, u)
    return Sides(found.forms, forms, scale=1 + np.abs(u).max() ** 2 * np.abs(m).sum())
