r"""The order of a sampler, measured from exact errors.

    global   error(n) of n steps from one end of the grid to the other            ~ C n^-p
    local    error of the last of n steps, all stages before it on the exact flow ~ C n^-(p+1)

For Gaussian data a deterministic sampler is an affine map, and its error is the L2 norm of its difference from the
exact flow under the law of the start; a stochastic one is judged by the W2 distance of its output law (weak order).
For mixtures, and Gaussian data with no flow along axes (processes of matrices), the reference is a flow map by an
eighth-order Runge-Kutta method at tolerance 1e-13, and the error the largest of eight points. The order is fitted over
the last counts whose error stands above rounding. Sources: PODC9-12, PODC9-19, PODC9-26, PODD-57..59.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import Process
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.extended import on_one_axis
from refdiff.samplers.numbers import sqrt
from refdiff.samplers.propagation import flow, propagate, substitute
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

COUNTS = (8, 16, 32, 64, 128, 256, 512)


class Order(NamedTuple):
    """A measured order.

    Attributes:
        order: p of the fit log error = log C - p log n + c / n over the window.
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
    process: Process | Schedule,
    grid: Callable[[int], ArrayLike],
    *,
    kind: str = "global",
    counts: Sequence[int] = COUNTS,
    exact_steps: int = 0,
    floor: float | None = None,
    points: int = 4,
) -> Order:
    """The order of a sampler on one law.

    Args:
        build: times -> Tableau. With an `ExtendedProcess`, inside `mpmath.workdps`, everything has so many digits.
        law: the data, a Gaussian or (deterministic samplers) a mixture.
        process: the process, any of them, whose times the grid holds.
        grid: n -> decreasing times (n + 1,).
        kind: global or local.
        counts: numbers of steps, increasing.
        exact_steps: so many first steps are exact: the order of a multistep method without its start-up.
        floor: errors below this, relative to the spread of the target, are rounding: 1e-12 unless given, or
            1000 units of the last digit in extended precision.
        points: how many counts the fit is taken over.

    Raises:
        ValueError: an unknown kind, fewer than two counts above the floor, or a law that the kind cannot use.

    Examples:
        >>> from refdiff import Gaussian, VPLinear
        >>> from refdiff.samplers import measure_order, times
        >>> from refdiff.samplers.ddim import ddim
        >>> process, law = VPLinear(), Gaussian([0.7], 0.25)
        >>> grid = lambda n: times.uniform_log_snr(process, n, start=0.5, end=0.1)
        >>> print(round(measure_order(lambda t: ddim(process, t), law, process, grid).order, 2))
        1.0
    """
    if kind not in ("global", "local"):
        raise ValueError(f"kind must be global or local, got {kind!r}")
    whole_number("exact_steps", exact_steps)
    errors = []
    for n in counts:
        times = np.asarray(grid(n), dtype=float)
        until = float(times[-2]) if kind == "local" else float(times[exact_steps]) if exact_steps else None
        tableau = build(times)
        if law.count == 1 and (tableau.stochastic or _is_extended(tableau) or _along_axes(tableau, law)):
            errors.append(gaussian_error(tableau, law, until))
        else:
            errors.append(mixture_error(tableau, ExactModel(law, process), until))
    return fit(counts, errors, _rounding(tableau) if floor is None else floor, points)


def _along_axes(tableau: Tableau, law: GaussianMixture) -> bool:
    """Whether the exact flow of Gaussian data and the sampler are numbers along one set of axes."""
    gain, full = tableau.motion(0).gain, law.covariances.operator().ndim == 2
    own = bool(gain.ndim or tableau.axes or tableau.noise.ndim > 2)
    return gain.ndim < 2 and len(tableau.axes) < 2 and not (full and own)


def _rounding(tableau: Tableau) -> float:
    """Errors below this may be rounding."""
    if not _is_extended(tableau):
        return 1e-12
    import mpmath

    return float(mpmath.mpf(10) ** (3 - mpmath.mp.dps))


def _is_extended(tableau: Tableau) -> bool:
    return tableau.states.dtype == object or tableau.outputs.dtype == object


def fit(counts: Sequence[int], errors: Sequence[float], floor: float, points: int) -> Order:
    """The fit over the last counts, so many points, before the first error below the floor.

    Raises:
        ValueError: fewer than two errors above the floor.
    """
    below = [i for i, error in enumerate(errors) if error <= floor]
    usable = below[0] if below else len(errors)
    window = range(max(usable - points, 0), usable)
    if len(window) < 2:
        raise ValueError(f"counts must give at least two errors above the floor {floor}, got {list(errors)}")
    n, e = np.array([counts[i] for i in window], dtype=float), np.log([errors[i] for i in window])
    slopes = -np.diff(e) / np.diff(np.log(n))
    # error = C n^-p (1 + c / n + ...): the next term is part of the fit where there are points enough for it
    terms = [np.ones_like(n), -np.log(n), 1 / n][: len(n)]
    order = np.linalg.lstsq(np.stack(terms, axis=1), e)[0][1]
    return Order(float(order), float(np.ptp(slopes)), tuple(counts), tuple(errors), tuple(counts[i] for i in window))


def gaussian_error(tableau: Tableau, law: GaussianMixture, until: float | None = None) -> float:
    """How far a sampler is from the exact flow (L2 under the start's law), or from the exact law (W2) if stochastic.

    Relative to the standard deviation of the target; stages at `until` and noisier ones are on the exact flow.
    """
    if _is_extended(tableau):
        return _extended_error(tableau, law, until)
    found = propagate(tableau, law, exact_until=until)
    size = float(np.sqrt(np.mean(np.diag(found.target().cov()))))
    if tableau.stochastic:
        return found.wasserstein() / size
    first, last = (found.tableau.motion(k) for k in (0, -1))
    covariance = law.covariances.operator()
    values = covariance if found.basis is None else np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    mean = law.means[0] if found.basis is None else found.basis.T @ law.means[0]
    gain, offset = flow(first, last, mean, values)
    start = first.gain**2 * values + first.noise
    # E |(G - G*) x + b - b*|^2 for x ~ N(alpha m, V)
    slope = found.gains[-1] - gain
    shift = found.offsets[-1] - offset + slope * first.gain * mean
    return float(np.sqrt(np.sum(np.broadcast_to(slope**2 * start, mean.shape)) + np.sum(shift**2)) / size)


def _extended_error(tableau: Tableau, law: GaussianMixture, until: float | None) -> float:
    """`gaussian_error` of a table of mpmath numbers, on the line."""
    import mpmath

    if law.dim != 1:
        raise ValueError(f"law must have dimension 1 in extended precision, got {law.dim}")
    table = on_one_axis(tableau)
    mean, variance = np.array([mpmath.mpf(law.mean()[0])]), np.array([mpmath.mpf(law.cov()[0, 0])])
    gains, offsets, spreads = substitute(table, mean, variance, until)
    first, last = (table.motion(k) for k in (0, -1))
    before, after = (m.gain**2 * variance + m.noise for m in (first, last))
    shift = gains[-1] * first.gain * mean + offsets[-1] - last.gain * mean
    if table.stochastic:
        gap = sqrt(gains[-1] ** 2 * before + spreads[-1]) - sqrt(after)
    else:
        gap = (gains[-1] - flow(first, last, mean, variance)[0]) * sqrt(before)
    return float(sqrt((gap**2 + shift**2) / after)[0])


def mixture_error(tableau: Tableau, model: ExactModel, until: float | None = None, count: int = 8) -> float:
    """The largest difference between a deterministic sampler's map and the reference flow map at `count` draws.

    Stages at `until` and noisier ones are on the reference flow.

    Raises:
        ValueError: a stochastic sampler, which is no map.
    """
    if tableau.stochastic:
        raise ValueError("tableau must be deterministic to be compared with a flow map; take Gaussian data")
    table = to_coordinate(tableau, "x")
    x = model.sample(count, float(table.times[0]), 0)
    exact = x
    path: dict[int, Array] = {}
    for k in range(1, table.stages):
        if k == table.stages - 1 or (until is not None and table.times[k] >= until):
            exact = reference_flow(model, exact, float(table.times[max(path, default=0)]), float(table.times[k]))
            path[k] = exact
    last = path.pop(table.stages - 1)
    return float(np.abs(run(table, model, x, given=path) - last).max())


def reference_flow(model: ExactModel, x: Array, start: float, end: float) -> Array:
    """The probability flow of points x (n, d) from one time to another, by DOP853 at tolerance 1e-13."""
    shape = x.shape
    from scipy.integrate import solve_ivp  # late: it takes longer to import than all of this package

    result = solve_ivp(
        lambda t, y: model.velocity(y.reshape(shape), float(t)).ravel(),
        (start, end),
        x.ravel(),
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
    )
    return np.asarray(result.y[:, -1].reshape(shape))
