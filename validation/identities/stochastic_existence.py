r"""What a stochastic equation asks of f and g to have one solution, and where diffusion models do not give it.

    f Lipschitz and of linear growth in x, int_0^T g^2 dt finite   =>   one strong solution

int g^2 = sigma^2(T) - sigma^2(0) - 2 int f sigma^2 for any schedule: sigma_T^2 - sigma_0^2 for an exploding variance,
int beta for a preserved one; but -2 log(1 - t) - 2t for flow matching, which has no limit at t = 1 where alpha = 0.
Solutions of one path and of two starts keep |x - y| <= e^{Lt} |x_0 - y_0| with L the one-sided bound of the Jacobian's
eigenvalues (the noise, additive, drops out). The conditions are not idle: 2 sqrt(x) is not Lipschitz at 0, where 0 and
t^2 both solve, and x^2, of no linear growth, takes x_0 to infinity at t = 1 / x_0.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.processes import critically_damped_langevin
from refdiff.schedules import FlowMatching, Schedule, VEGeometric, VEPower, VPCosine, VPLinear
from refdiff.stochastic import BrownianPath, StochasticEquation, forward_equation, solve
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity

TOPIC = "Brownian paths"


def energy(schedule: Schedule, start: float, end: float) -> float:
    """int g^2 dt of a schedule from start to end, by quadrature over pieces that shrink towards the ends by halves."""
    width = end - start
    part = 0.5 ** np.arange(1, 12)
    knots = np.concatenate([[0.0], part[::-1], 1 - part[1:], [1.0]])
    edges = start + width * knots
    pieces = [numeric.integral(schedule.g2, a, b, 24) for a, b in pairwise(edges.tolist())]
    return float(np.sum(pieces))


@identity(
    "The energy of the noise is finite, but not for flow matching",
    topic=TOPIC,
    formula=r"\int_0^T g^2\,dt = \sigma_T^2 - \sigma_0^2 - 2 \int_0^T f \sigma^2\,dt:\quad \sigma_T^2 - \sigma_0^2"
    r" \;\text{(VE)},\; \int_0^T \beta\,dt\;\text{(VP)},\; -2 \log(1 - t) - 2t \to \infty\;\text{(flow matching)}",
    covers=["PODD-65"],
    over="once",
    evidence=QUADRATURE,
    control="flow matching with an energy that has a limit",
)
def noise_energy(case: Case, wrong: bool) -> list[Sides]:
    """Quadrature of the library's g^2 against closed forms in sigma, in beta and in log(1 - t)."""
    low, high = case.rng.uniform([0.1, 5.0], [1.0, 20.0])
    geometric, power, linear, cosine = (
        VEGeometric(low, 10 * high),
        VEPower(1.0, T=high),
        VPLinear(low, high),
        VPCosine(),
    )
    sides = [
        Sides(energy(s, 0.0, s.T), float(s.sigma(s.T)) ** 2 - float(s.sigma(0.0)) ** 2) for s in (geometric, power)
    ]
    sides.append(Sides(energy(linear, 0.0, 1.0), 0.5 * (low + high)))
    # beta = -2 d log alpha / dt: what is left of the signal says it
    late = 0.9 * cosine.T
    sides.append(Sides(energy(cosine, 0.0, late), -2 * np.log(cosine.alpha(late) / cosine.alpha(0.0))))
    flow = FlowMatching()
    for left in (1e-1, 1e-2, 1e-3):
        growth = 0.0 if wrong else -2 * np.log(left)
        sides.append(Sides(energy(flow, 0.0, 1 - left), growth - 2 * (1 - left)))
    return sides


@identity(
    "Two starts on one path",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} |x - y|^2 \le 2 L |x - y|^2,\quad"
    r" x_t - y_t = \alpha_t\,(x_0 - y_0)\;\text{for}\; dx = f x\,dt + g\,dw",
    covers=["PODD-65"],
    over="once",
    evidence=ORDER,
    control="paths of their own",
)
def one_path(case: Case, wrong: bool) -> list[Sides]:
    """The solver with two starts, steps extrapolated, against the process's gain: the noise drops out of it."""
    x = case.rng.normal(size=(2, 2))
    sides = []
    for process in (VPLinear(0.5, 2.0), critically_damped_langevin(1, 0.8)):
        equation = forward_equation(process, 2)
        gaps = []
        times = np.linspace(0.1, 0.9, 65)
        fine = [BrownianPath(case.seed + k, times[[0, -1]], 2).increments(times, 1) for k in (0, 1)]
        for n in (8, 16, 32, 64):
            path, other = (one.coarsened(64 // n) for one in fine)
            paths = (path, other if wrong else path)
            ends = [solve(equation, x[k : k + 1], path.times, "heun", path=paths[k]) for k in (0, 1)]
            gaps.append((ends[1] - ends[0])[0])
        step = forward_gain(process, 0.1, 0.9)
        sides.append(Sides(numeric.extrapolate(gaps, first=2), step @ (x[1] - x[0])))
    return sides


def forward_gain(process: object, s: float, t: float) -> Array:
    """The gain (2, 2) of a process from s to t, by its drift's own equation."""
    equation = forward_equation(process, 2)  # type: ignore[arg-type]

    def rate(time: float, state: Array) -> Array:
        columns = state.reshape(2, 2)  # rows are the images of the axes
        return (equation.drift_at(columns, time) - equation.drift_at(np.zeros((1, 2)), time)).ravel()

    found = solve_ivp(rate, (s, t), np.eye(2).ravel(), "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    return np.asarray(found.reshape(2, 2).T)


@identity(
    "Without its conditions, no or many solutions",
    topic=TOPIC,
    formula=r"\dot x = 2 \sqrt{x}:\; x = 0 \;\text{and}\; x = t^2;\qquad \dot x = x^2:\; x = \frac{1}{1/x_0 - t}",
    covers=["PODD-65"],
    over="once",
    control="t^2 taken for the one solution",
    evidence=ORDER,
)
def without_conditions(case: Case, wrong: bool) -> list[Sides]:
    """The solver from 0 and from next to 0 for the root, and towards the pole for the square; steps extrapolated."""
    tiny, end, x = 1e-12, case.rng.uniform(0.5, 1.5), case.rng.uniform(0.5, 1.5)
    root = StochasticEquation(lambda x, _: 2 * np.sqrt(x), lambda _: 0.0, 1)
    square = StochasticEquation(lambda x, _: x * x, lambda _: 0.0, 1)

    def limit(equation: StochasticEquation, start: float, end: float) -> Array:
        runs = [solve(equation, [[start]], np.linspace(0, end, n + 1), "sra3", seed=0) for n in (48, 96, 192)]
        return numeric.extrapolate(runs, first=3)

    # from tiny: (t + sqrt(tiny))^2; grids that grow from it see where it leaves 0
    warm = np.append(0.0, np.geomspace(1e-8, end, 180))
    left, still = solve(root, [[tiny], [0.0]], warm, "sra3", seed=0)
    late = 0.9 / x
    return [
        Sides(left, end**2),
        Sides(still, end**2 if wrong else 0.0, scale=end**2),
        Sides(limit(square, x, late), 10 * x),
    ]
