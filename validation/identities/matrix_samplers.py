r"""Samplers with matrix weights on linear SDEs: gDDIM's step, its order, and the family of reverse equations.

    x_t = K x_s + [V_t - K V_s] eps,      eps = V_s^-1 (x_s - U_s D),      V' = (F + D Sigma^-1 / 2) V

The texts print U_t [V_t U_t^-1 - V_s U_s^-1] for the bracket, which needs U and V that commute. The second side
integrates V as it stands by DOP853, from any V V' = Sigma, where the library turns Cholesky's frame.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess
from refdiff.samplers import propagate, run
from refdiff.samplers.ddim import gddim
from refdiff.samplers.matrix_deis import matrix_deis
from refdiff.samplers.order import reference_flow
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.tableau import Tableau
from refdiff.validation.cases import Case
from refdiff.validation.identities.matrix_sde import DIM, Turning
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import square_root
from refdiff.validation.numeric import extrapolate

TOPIC = "Samplers with matrix weights"
START, END = 1.0, 0.4


class Example(Turning):
    """The non-commuting example as a process, with frames of its own."""

    @cached_property
    def process(self) -> LinearProcess:
        """The process on [0, 1]."""
        return LinearProcess(self.drift, self.noise_map, START)

    def moved(self, share: float, times: Array, first: Array) -> Array:
        """Solutions of Y' = (F + share D Sigma^-1) Y at increasing or decreasing times (n,), Y = first at the first.

        Sigma is integrated beside Y, from its quadrature. Shape (n, d, d).
        """

        def slope(t: float, both: Array) -> Array:
            y, sigma = both.reshape(2, DIM, DIM)
            f, d = self.drift(t), self.diffusion(t)
            return np.concatenate([(f + share * d @ np.linalg.inv(sigma)) @ y, f @ sigma + sigma @ f.T + d]).ravel()

        start = np.concatenate([first, self.covariance(float(times[0]))]).ravel()
        found = solve_ivp(slope, (times[0], times[-1]), start, "DOP853", times, rtol=1e-12, atol=1e-14)
        return np.asarray(found.y.T.reshape(-1, 2, DIM, DIM)[:, 0])

    def frames(self, times: Array) -> Array:
        """V at increasing or decreasing times (n,), from the symmetric root at the first, shape (n, d, d)."""
        return self.moved(0.5, times, square_root(self.covariance(float(times[0]))))

    def printed(self, times: Array) -> Tableau:
        """The table of the printed step U_t [V_t U_t^-1 - V_s U_s^-1] at decreasing times (n,)."""
        rec = Recorder("gDDIM as printed", self.process, times, "denoiser")
        x, v = rec.start, self.frames(times)
        for (s, t), before, after in zip(rec.steps, v, v[1:], strict=False):
            us, ut = self.evolution(s.t), self.evolution(t.t)
            clean = rec.evaluate(x, s)
            weight = ut @ (after @ np.linalg.inv(ut) - before @ np.linalg.inv(us)) @ np.linalg.inv(before)
            x = self.propagator(t.t, s.t) * x + weight * (x - us * clean)
        return rec.finish(x)


@identity(
    "gDDIM's step is exact for one point",
    topic=TOPIC,
    formula=r"x_t = K x_s + [V_t - K V_s] V_s^{-1} (x_s - U_s x_0) = U_t x_0 + V_t V_s^{-1} (x_s - U_s x_0)",
    covers=["RDX-20", "RDX-20b"],
    refutes=["RDX-20"],
    over="once",
    evidence=QUADRATURE,
    control="V U^-1 in place of U^-1 V, as printed",
)
def one_point(case: Case, wrong: bool) -> list[Sides]:
    """One step of the table against the flow by DOP853 and against frames of another gauge."""
    sde = Example(case)
    model = ExactModel(Empirical(case.rng.standard_normal((1, DIM))), sde.process)
    x, ends = model.sample(4, START, case.rng), np.array([START, END])
    found = run(sde.printed(ends) if wrong else matrix_deis(sde.process, ends), model, x)
    before, after = sde.frames(ends)
    clean = model.distribution.means
    rest = np.linalg.solve(before, (x - clean @ sde.evolution(START).T).T).T
    return [
        Sides(found, reference_flow(model, x, START, END)),
        Sides(found, clean @ sde.evolution(END).T + rest @ after.T),
    ]


@identity(
    "gDDIM converges to the probability flow of a point set",
    topic=TOPIC,
    formula=r"\lim_{n\to\infty} x^{(n)} = \Phi(x),\quad x^{(n)} - \Phi(x) = c_1/n + c_2/n^2 + \dots",
    covers=["RDX-20"],
    refutes=["RDX-20"],
    over="once",
    evidence=ORDER,
    control="V U^-1 in place of U^-1 V, as printed: the limit is another map",
)
def point_set(case: Case, wrong: bool) -> Sides:
    """Runs with 3 to 24 equal steps of log t, extrapolated, against DOP853."""
    sde, model, x, reached = four_points(case)
    grids = [np.geomspace(START, END, n + 1) for n in (3, 6, 12, 24)]
    runs = [run(sde.printed(grid) if wrong else matrix_deis(sde.process, grid), model, x) for grid in grids]
    return Sides(extrapolate(runs), reached)


@lru_cache(maxsize=4)
def four_points(case: Case) -> tuple[Example, ExactModel, Array, Array]:
    """The process, the model of a set of four points, two points (2, d) of START, and where DOP853 has them at END."""
    sde = Example(case)
    model = ExactModel(Empirical(case.rng.standard_normal((4, DIM))), sde.process)
    x = model.sample(2, START, case.rng)
    return sde, model, x, reference_flow(model, x, START, END)


@identity(
    "Every stochasticity keeps the law of one point",
    topic=TOPIC,
    formula=r"x_t = U_t x_0 + \Psi_k y + N(0, \Sigma_t - \Psi_k \Sigma_s \Psi_k'),\quad"
    r" \dot y = (F + \tfrac{1 + k^2}{2} D \Sigma^{-1}) y",
    covers=["RDX-09", "RDX-20b"],
    over="once",
    evidence=QUADRATURE,
    control="the noise of k = 1 for every k",
)
def stochastic(case: Case, wrong: bool) -> list[Sides]:
    """Laws of the tables for data of no variance against the kernel; Psi_k by DOP853."""
    sde, sides = Example(case), []
    point = Gaussian(case.rng.standard_normal(DIM), np.zeros(DIM))
    for k in (0.0, 0.5, 1.0, 2.0):
        psi = sde.moved((1 + k * k) / 2, np.array([START, END]), np.eye(DIM))[-1]
        found = propagate(gddim(sde.process, [START, END], stochasticity=k), point)
        drawn = sde.process.noise_channel(START, END, 1.0 if wrong else k).noise
        sides += [
            Sides(found.channel().gain, psi),
            Sides(found.output.cov(), sde.covariance(END)),
            Sides(psi @ sde.covariance(START) @ psi.T + drawn, sde.covariance(END)),
            Sides(found.output.mean(), sde.evolution(END) @ point.mean()),
        ]
    return sides
