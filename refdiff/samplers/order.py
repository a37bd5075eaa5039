r"""The order of a sampler, measured from exact errors.

    global   error(n) of n steps from one end of the grid to the other            ~ C n^-p
    local    error of the last of n steps, all stages before it on the exact flow ~ C n^-(p+1)

For Gaussian data a deterministic sampler is an affine map, and its error is the L2 norm of its difference from the
exact flow under the law of the start; a stochastic one is judged by the W2 distance of its output law (weak order).
For mixtures the reference is a flow map by an eighth-order Runge-Kutta method at tolerance 1e-13. The slope is
taken over the last counts whose error stands above rounding. Sources: PODC9-12, PODC9-19, PODC9-26, PODD-57..59.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers.propagation import flow, propagate
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients, Schedule

COUNTS = (8, 16, 32, 64, 128, 256, 512)


class Order(NamedTuple):
    """A measured order.

    Attributes:
        order: the slope of log error against log n over the window.
        spread: the largest less the smallest slope between neighbours in the window.
        counts, errors: every number of steps tried, and its error.
        window: the counts the slope was taken over.
    """

    order: float
    spread: float
    counts: tuple[int, ...]
    errors: tuple[float, ...]
    window: tuple[int, ...]


def measure_order(
    build: Callable[[Array], Tableau],
    law: GaussianMixture,
    process: AffineProcess | Schedule,
    grid: Callable[[int], ArrayLike],
    *,
    kind: str = "global",
    counts: Sequence[int] = COUNTS,
    exact_steps: int = 0,
    floor: float = 1e-12,
    points: int = 3,
) -> Order:
    """The order of a sampler on one law.

    Args:
        build: times -> Tableau.
        law: the data, a Gaussian or (deterministic samplers, global order) a mixture.
        process: what the times mean.
        grid: n -> n + 1 decreasing times.
        kind: global or local.
        counts: numbers of steps, increasing.
        exact_steps: so many first steps are exact: the order of a multistep method without its start-up.
        floor: errors below this, relative to the spread of the target, are rounding.
        points: how many counts the slope is taken over.

    Raises:
        ValueError: an unknown kind, or fewer than two counts above the floor.
    """
    if kind not in ("global", "local"):
        raise ValueError(f"kind must be global or local, got {kind!r}")
    errors = [_error(build, law, process, np.asarray(grid(n), dtype=float), kind, exact_steps) for n in counts]
    return fit(counts, errors, floor, points)


def fit(counts: Sequence[int], errors: Sequence[float], floor: float, points: int) -> Order:
    """The slope over the last counts before the first error below the floor."""
    below = [i for i, error in enumerate(errors) if error <= floor]
    usable = below[0] if below else len(errors)
    window = range(max(usable - points, 0), usable)
    if len(window) < 2:
        raise ValueError(f"counts must give at least two errors above the floor {floor}, got {list(errors)}")
    n, e = np.log([counts[i] for i in window]), np.log([errors[i] for i in window])
    slopes = -np.diff(e) / np.diff(n)
    order = -np.polyfit(n, e, 1)[0]
    return Order(float(order), float(np.ptp(slopes)), tuple(counts), tuple(errors), tuple(counts[i] for i in window))


def _error(
    build: Callable[[Array], Tableau],
    law: GaussianMixture,
    process: AffineProcess | Schedule,
    times: Array,
    kind: str,
    exact_steps: int,
) -> float:
    tableau = build(times)
    until = float(times[-2]) if kind == "local" else float(times[exact_steps]) if exact_steps else None
    if law.count == 1:
        return gaussian_error(tableau, law, until)
    if until is not None or tableau.stochastic:
        raise ValueError("law must be Gaussian for a local order, exact first steps or a stochastic sampler")
    return mixture_error(tableau, ExactModel(law, process))


def gaussian_error(tableau: Tableau, law: GaussianMixture, until: float | None = None) -> float:
    """How far a sampler is from the exact flow (L2 under the start's law), or from the exact law (W2) if stochastic.

    Relative to the standard deviation of the target.
    """
    found = propagate(tableau, law, exact_until=until)
    size = float(np.sqrt(np.mean(np.diag(found.target().cov()))))
    if tableau.stochastic:
        return found.wasserstein() / size
    c = found.tableau.coefficients
    first, last = (Coefficients(*(part[k] for part in c)) for k in (0, -1))
    covariance = law.covariances.operator()
    values = covariance if found.basis is None else np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    mean = law.means[0] if found.basis is None else found.basis.T @ law.means[0]
    gain, offset = flow(first, last, mean, values)
    start = first.alpha**2 * values + first.sigma**2
    # E |(G - G*) x + b - b*|^2 for x ~ N(alpha m, V)
    slope = found.gains[-1] - gain
    shift = found.offsets[-1] - offset + slope * first.alpha * mean
    return float(np.sqrt(np.sum(np.broadcast_to(slope**2 * start, mean.shape)) + np.sum(shift**2)) / size)


def mixture_error(tableau: Tableau, model: ExactModel, count: int = 8) -> float:
    """The largest difference between the sampler's map and the reference flow map at some draws of the start."""
    first, last = float(tableau.times[0]), float(tableau.times[-1])
    x = model.sample(count, first, 0)
    return float(np.abs(run(tableau, model, x) - reference_flow(model, x, first, last)).max())


def reference_flow(model: ExactModel, x: Array, start: float, end: float) -> Array:
    """The probability flow from one time to another, shape (n, d), by DOP853 at tolerance 1e-13."""
    shape = x.shape
    result = solve_ivp(
        lambda t, y: model.velocity(y.reshape(shape), float(t)).ravel(),
        (start, end),
        x.ravel(),
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
    )
    return np.asarray(result.y[:, -1].reshape(shape))
