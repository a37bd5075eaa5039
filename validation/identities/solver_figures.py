r"""What the drawings of solvers show, as numbers: end points of one-dimensional mixtures.

    9.1   DDIM goes straight to alpha_t x* + sigma_t eps*, the flow does not
    9.2   DEIS: the parabola through three noises, integrated over the next step
    9.3   Heun: half the diagonal of the parallelogram of two slopes
    9.4   stepping: a chain; a Picard sweep: every point from all slopes before it
    9.5, 9.6, 9.7   a window of four: slopes, cumulated; it moves to the first point that has not settled

Each is computed from its picture by plain arithmetic, and compared with the sampler.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.samplers.ddim import ddim
from refdiff.samplers.deis import deis
from refdiff.samplers.exponential_heun import heun_log_snr
from refdiff.samplers.picard import paradigms, picard
from refdiff.samplers.running import run
from refdiff.validation.cases import ProcessCase
from refdiff.validation.identity import Sides, identity
from refdiff.validation.numeric import legendre
from refdiff.validation.steps import tabulated

TOPIC = "Figures of solvers"
LAW = GaussianMixture.isotropic([[-1.0], [0.5], [2.0]], [0.05, 0.2, 0.1], [0.4, 0.35, 0.25])


def pictured(case: ProcessCase) -> bool:
    """Processes with a smooth clock."""
    return not tabulated(case.process)


@identity(
    "End points of the solvers' figures",
    topic=TOPIC,
    formula=r"\alpha_t x^* + \sigma_t\epsilon^*,\qquad \frac{\alpha_t}{\alpha_s}x_s + \frac12\int_s^t"
    r" \frac{g^2}{\sigma}\frac{\alpha_t}{\alpha_\tau}P_2(\tau)\,d\tau,\qquad x_s + \tfrac12\big[hF_0 + hF_1\big]",
    covers=["PODC9-54"],
    over="processes",
    control="the parabola replaced by the value at its last point, the diagonal by one of its sides",
    needs=pictured,
    most=12,
)
def end_points(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Figures 9.1, 9.2 and 9.3: one step of DDIM, the third of DEIS, one of Heun, from their constructions."""
    p, model = case.schedule, ExactModel(LAW, case.process)
    x = model.sample(4, case.t, case.rng)
    a, b = p.coefficients(case.t), p.coefficients(case.s)
    noise = -a.sigma * model.score(x, case.t)
    secant = b.alpha * (x - a.sigma * noise) / a.alpha + b.sigma * noise
    sides = [Sides(run(ddim(p, [case.t, case.s]), model, x), secant, np.abs(x).max() * (1 + b.alpha / a.alpha))]

    grid = np.linspace(case.t, case.s, 4)
    path = run(deis(p, grid, degree=2), model, x, trajectory=True)[..., 0]
    anchors = np.array([model.noise(path[i, :, None], grid[i])[:, 0] for i in range(3)])
    unit = (grid[:3] - grid[2]) / (grid[3] - grid[2])
    curve = np.linalg.solve(np.vander(unit, increasing=True), anchors)
    if wrong:
        curve[1:] = 0
    u, v = legendre()
    c, last = p.coefficients(grid[2] + (grid[3] - grid[2]) * u), p.coefficients(grid[3])
    kernel = (grid[3] - grid[2]) * v * c.g2 / (2 * c.sigma) * last.alpha / c.alpha
    start = last.alpha / p.alpha(grid[2]) * path[2]
    size = np.abs(start).max() + np.abs(kernel).sum() * np.abs(curve).sum(axis=0).max()
    sides.append(Sides(path[3], start + kernel @ np.vander(u, 3, increasing=True) @ curve, size))

    h = b.log_snr - a.log_snr
    one = h * model.velocity(x, case.t) / p.dlog_snr(case.t)
    two = h * model.velocity(x + one, case.s) / p.dlog_snr(case.s)
    half = one if wrong else (one + two) / 2
    sides.append(
        Sides(run(heun_log_snr(p, [case.t, case.s]), model, x), x + half, (np.abs(x) + np.abs(one) + np.abs(two)).max())
    )
    return sides


def sweep(model: ExactModel, path: Array, rho: Array, alpha: Array, times: Array) -> Array:
    """One Picard sweep of y = x / alpha over a window: its left end, and the cumulated slopes; shape (p + 1,)."""
    slopes = np.array([model.noise([alpha[i] * path[i]], times[i]).item() for i in range(len(path) - 1)])
    return np.concatenate([path[:1], path[0] + np.cumsum(np.diff(rho) * slopes)])


@identity(
    "Picard sweeps and sliding windows as drawn",
    topic=TOPIC,
    formula=r"y^{(k+1)}_{\ell+j} = y^{(k)}_\ell + \sum_{i<j}(\rho_{\ell+i+1} -"
    r" \rho_{\ell+i})\,\epsilon^*(y^{(k)}_{\ell+i}),\qquad"
    r"\text{stride} = \min\{j: |x^{(k+1)}_{\ell+j} - x^{(k)}_{\ell+j}|^2 > \tau\}",
    covers=["PODC9-54"],
    over="processes",
    control="the sweep anchored at every point's own old value, with the full prefix sum",
    needs=lambda case: pictured(case) and 0.2 < case.s / case.process.T < 0.5,
)
def windows(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Figures 9.4 to 9.7: two sweeps over the grid, and a window of four with its strides, in plain loops."""
    p, model, width = case.schedule, ExactModel(LAW, case.process), 4
    times = np.linspace(case.t, case.s, 10)
    c = p.coefficients(times)
    rho, x = c.sigma / c.alpha, model.sample(1, case.t, case.rng)
    start = x.item() / c.alpha[0]
    path = np.full(10, start)
    for _ in range(2):
        fresh = sweep(model, path, rho, c.alpha, times)
        path = path + (fresh - path[0]) if wrong else fresh
    size = c.alpha[-1] * (np.abs(path).max() + rho[0])
    sides = [Sides(run(picard(p, times, sweeps=2), model, x).item(), c.alpha[-1] * path[-1], size)]

    tolerance, path, left, strides = 1e-6, np.full(10, start), 0, list[int]()
    while left < 9:
        right = min(left + width, 9)
        here = slice(left, right + 1)
        fresh = sweep(model, path[here], rho[here], c.alpha[here], times[here])
        moved = (c.alpha[left + 1 : right + 1] * (fresh - path[here])[1:]) ** 2 > tolerance
        stride = int(np.argmax(moved)) + 1 if moved.any() else right - left
        path[here] = fresh
        path[right + 1 : right + 1 + stride] = fresh[-1]
        strides, left = [*strides, stride], left + stride
    found = paradigms(p, model, x, times, window=width, tolerance=tolerance)
    return [*sides, Sides(found.strides, strides), Sides(found.x.item(), c.alpha[-1] * path[-1], size)]
