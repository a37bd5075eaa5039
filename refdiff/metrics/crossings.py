r"""Total variation on the line, from the points where two densities cross.

    sup_A |P(A) - Q(A)| = sum_i |P(I_i) - Q(I_i)| / 2,   I_i the intervals between the points with p = q

Both probabilities of an interval are differences of distribution functions. Crossings are sought between neighbours on
a grid about each component, fine beside its deviation; what a grid of twice the spacing finds says how far to trust
it. Sources: PODA-104.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture, cdf

REACH, NODES = 9.0, 289  # about each component: a sixteenth of its deviation apart


def total_variation_on_line(p: GaussianMixture, q: GaussianMixture, masses: tuple[float, float]) -> tuple[float, float]:
    """int |a p - b q| / 2 for densities p and q on the line and `masses` a and b; and what a coarser grid changes."""
    logs = np.log(masses)

    def excess(x: Array) -> Array:
        rows = np.asarray(x)[..., None]
        return np.asarray(p.logpdf(rows) + logs[0] - q.logpdf(rows) - logs[1])

    fine, coarse = (_between(p, q, masses, _crossings(excess, _grid(p, q, step))) for step in (1, 2))
    return fine, abs(fine - coarse)


def _grid(p: GaussianMixture, q: GaussianMixture, step: int) -> Array:
    offsets = np.linspace(-REACH, REACH, NODES)[::step]
    found = []
    for law in (p, q):
        std = np.broadcast_to(np.sqrt(law.covariances.dense(1)[:, 0, 0]), law.count)
        found.append((law.means + std[:, None] * offsets).ravel())
    return np.unique(np.concatenate(found))


def _crossings(excess: Callable[[Array], Array], x: Array) -> Array:
    from scipy.optimize import elementwise  # late: a third of the time to import this package

    values = excess(x)
    changes = np.flatnonzero(values[:-1] * values[1:] < 0)
    roots = elementwise.find_root(excess, (x[changes], x[changes + 1])).x if len(changes) else np.zeros(0)
    return np.sort(np.concatenate([roots, x[values == 0]]))


def _between(p: GaussianMixture, q: GaussianMixture, masses: tuple[float, float], ends: Array) -> float:
    below = masses[0] * cdf(p, ends[:, None]) - masses[1] * cdf(q, ends[:, None])
    return float(0.5 * np.abs(np.diff(below, prepend=0.0, append=masses[0] - masses[1])).sum())
