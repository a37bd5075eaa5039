r"""What the drawings of solvers show, as numbers: end points of one-dimensional mixtures.

    9.1   DDIM goes straight to alpha_t x* + sigma_t eps*, the flow does not
    9.2   DEIS: the parabola through three noises, integrated over the next step
    9.3   Heun: half the diagonal of the parallelogram of two slopes

Each is computed from its picture by plain arithmetic, and compared with the sampler.
"""

from __future__ import annotations

import numpy as np

from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.samplers.ddim import ddim
from refdiff.samplers.deis import deis
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run
from refdiff.validation.cases import ProcessCase
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import Sides, identity
from refdiff.validation.numeric import legendre

TOPIC = "Figures of solvers"
LAW = GaussianMixture.isotropic([[-1.0], [0.5], [2.0]], [0.05, 0.2, 0.1], [0.4, 0.35, 0.25])


@identity(
    "End points of the solvers' figures",
    topic=TOPIC,
    formula=r"\alpha_t x^* + \sigma_t\epsilon^*,\qquad \frac{\alpha_t}{\alpha_s}x_s + \frac12\int_s^t"
    r" \frac{g^2}{\sigma}\frac{\alpha_t}{\alpha_\tau}P_2(\tau)\,d\tau,\qquad x_s + \tfrac12\big[hF_0 + hF_1\big]",
    covers=["PODC9-54"],
    over="processes",
    control="the parabola replaced by the value at its last point, the diagonal by one of its sides",
    needs=smooth,
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
        Sides(
            run(runge_kutta(p, [case.t, case.s], method="heun", clock="log_snr"), model, x),
            x + half,
            (np.abs(x) + np.abs(one) + np.abs(two)).max(),
        )
    )
    return sides
