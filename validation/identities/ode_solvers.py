r"""Solvers of the probability flow: what a step does, Euler's constant, and a claim about order that needs more.

    dx/dt = v(x, t) = L(t) x + N(x, t);     Gaussian data: v = a (x - alpha m) + alpha' m,  a = P' / 2P per eigenvalue

    Euler     x + h v                   n (G / G* - 1) -> -D/2 [ int a^2 dt + a(end) - a(start) ],  h = D / n < 0
    Heun      x + h/2 (v + v')
    RK4       weights (1, 2, 2, 1) / 6

Euler's step is one number in every parameterization. It is DDIM's where alpha and sigma are linear in t on the step,
and otherwise differs by (alpha + h alpha' - alpha_t) x* + (sigma + h sigma' - sigma_t) eps*. A field that is bounded
and Lipschitz in x, but rough in t, may cost Euler sqrt(h) and not h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Gaussian
from refdiff.model import ExactModel
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.propagation import propagate
from refdiff.samplers.reverse_sde import euler_maruyama
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import VEPower
from refdiff.validation.cases import Case, ModelCase, ProcessCase
from refdiff.validation.conditions import scalar, smooth
from refdiff.validation.identities.kernel_sde import panels
from refdiff.validation.identities.reverse_sde_samplers import end
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import noised_variance
from refdiff.validation.numeric import extrapolate
from refdiff.validation.numeric import runge_kutta as rk4

TOPIC = "ODE solvers"


def slope(case: ProcessCase, u: Array | float, data: float) -> Array:
    """a = P' / 2P at the times u, of the shape of u."""
    c = case.schedule.coefficients(u)
    return np.asarray((c.alpha * c.dalpha * data + 0.5 * c.dvariance) / noised_variance(c, data))


# ---------------------------------------------------------------------- the equation


@identity(
    "Eigenvalues of the flow's Jacobian",
    topic=TOPIC,
    formula=r"\nabla v = \frac{\alpha' \alpha s_i^2 + \sigma' \sigma}{\alpha^2 s_i^2 + \sigma^2};\qquad"
    r" \nabla v = f - \tfrac12 g^2 \Big( \frac{\alpha^2}{\sigma^4} \mathrm{Cov}(x_0|x) - \frac{1}{\sigma^2} \Big)",
    covers=["PODB-65"],
    control="the covariance over sigma^2",
    needs=lambda case: scalar(case) and case.law.dim <= 5,
)
def jacobian(case: ModelCase, wrong: bool) -> list[Sides]:
    """Eigenvalues of the model's Jacobian for the law's Gaussian, and the Jacobian of the law from its posterior."""
    c, dim = case.process.coefficients(case.t), case.law.dim
    values, axes = np.linalg.eigh(np.atleast_2d(case.law.cov()))
    best = ExactModel(Gaussian(case.law.mean(), case.law.cov() + 1e-3 * np.eye(dim)), case.process)
    values = values + 1e-3
    rates = (c.alpha * c.dalpha * values + c.sigma * c.dsigma) / (c.alpha**2 * values + c.sigma**2)
    spread = case.model.posterior_covariance(case.x, case.t)
    hessian = c.alpha**2 / c.sigma ** (2 if wrong else 4) * spread - np.eye(dim) / c.sigma**2
    size = np.abs(c.f) + 0.5 * c.g2 / c.sigma**2 * (1 + c.alpha**2 / c.sigma**2 * np.abs(spread).max())
    return [
        Sides(best.velocity_jacobian(case.x, case.t), axes * rates @ axes.T, scale=np.abs(rates).max() + size),
        Sides(case.model.velocity_jacobian(case.x, case.t), c.f * np.eye(dim) - 0.5 * c.g2 * hessian, scale=size),
    ]


# ---------------------------------------------------------------------- the methods


def classical(name: str, v: Callable[[Array, float], Array], x: Array, times: Array) -> Array:
    """Euler, Heun or RK4, as `name` says, as A.1 writes them: x (n, d) over times (m + 1,), with h < 0."""
    for t, after in pairwise(times):
        h = after - t
        k1 = v(x, t)
        if name == "euler":
            x = x + h * k1
        elif name == "heun":
            x = x + h / 2 * (k1 + v(x + h * k1, after))
        else:
            x = rk4(v, x, t, h)
    return x


@identity(
    "Euler, Heun and RK4 as tables, in either clock",
    topic=TOPIC,
    formula=r"x + h v,\quad x + \tfrac h2 (v + v(x + h v, t + h)),\quad x + \tfrac h6 (k_1 + 2 k_2 + 2 k_3 + k_4),"
    r"\qquad \tau = T - t:\ t_{n+1} = t_n - h,\ x_{n+1} = x_n - h v",
    covers=["PODD-57", "PODD-58", "PODD-59", "PODD-61", "PODD-56"],
    control="Heun's correction with the first slope twice: Euler",
    needs=lambda case: case.law.dim <= 5 and case.law.count < 20,
    most=6,
)
def tables(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """The tables run on the model against the steps of A.1, and those with the reversed field."""
    times, x, v = np.linspace(case.t, case.s, 3), case.x[:2], case.model.velocity
    final = case.process.T

    def reversed_field(y: Array, tau: float) -> Array:
        return np.asarray(-v(y, min(max(final - tau, times[-1]), times[0])))

    for name in ("euler", "heun", "rk4"):
        out = run(runge_kutta(case.process, times, method=name), case.model, x)
        plain = classical("euler" if wrong and name == "heun" else name, v, x, times)
        size = np.abs(x).max() + np.abs(out).max()
        yield Sides(out, plain, scale=size)
        yield Sides(out, classical(name, reversed_field, x, final - times), scale=size)


@identity(
    "Leading error of Euler on the flow, with the score and with the velocity",
    topic=TOPIC,
    formula=r"n \left( \frac{G_n}{G} - 1 \right) \to -\frac D2 \left[ \int a^2\, dt + a_e - a_t \right],\quad"
    r" a = \frac{P'}{2P},\ D = e - t",
    covers=["PODA-420", "PODD-57"],
    over="processes",
    evidence=ORDER,
    control="the change of a left out: the error of a constant rate",
    needs=smooth,
    most=10,
)
def euler_constant(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """Gains of the two tables at four numbers of steps, extrapolated, against a quadrature."""
    data, e, law = 0.5, end(case), Gaussian([0.0], 0.5)
    (first, last), span = (slope(case, u, data) for u in (case.t, e)), e - case.t
    u, weights = panels(case.schedule, e, case.t)
    square = -weights @ slope(case, u, data) ** 2
    constant = -span / 2 * (square + (0 if wrong else last - first))
    size = abs(span) / 2 * (abs(square) + abs(first) + abs(last))
    c, there = case.schedule.coefficients(case.t), case.schedule.coefficients(e)
    exact = np.sqrt(noised_variance(there, data) / noised_variance(c, data))
    builds: list[Callable[[Array], Tableau]] = [
        lambda g: runge_kutta(case.process, g, method="euler"),
        lambda g: euler_maruyama(case.process, g, noise=0.0),
    ]
    for build in builds:
        gains = [
            np.asarray(n * (propagate(build(np.linspace(case.t, e, n + 1)), law).gains[-1].item() / exact - 1))
            for n in (8, 16, 32)
        ]
        yield Sides(extrapolate(gains), constant, scale=size)


@identity(
    "One Euler step is one number, and DDIM only on a straight path",
    topic=TOPIC,
    formula=r"x_{Euler} - x_{DDIM} = (\alpha_s + h \alpha'_s - \alpha_t) x^* + (\sigma_s + h \sigma'_s - \sigma_t)"
    r" \varepsilon^*\ \text{in every parameterization}",
    covers=["PODB-66"],
    refutes=["PODB-66"],
    control="plain Euler on v is DDIM, as claimed for every schedule",
    needs=lambda case: scalar(case) and case.law.dim <= 5,
    most=12,
)
def euler_against_ddim(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Tables of Euler on velocity and on the score, converted to three predictions, against DDIM's table."""
    grid, x, model = [case.t, case.s], case.x, case.model
    a, b = (case.process.coefficients(u) for u in grid)
    h, data, noise = case.s - case.t, model.denoiser(x, case.t), model.noise(x, case.t)
    signal, spread = a.alpha + h * a.dalpha - b.alpha, a.sigma + h * a.dsigma - b.sigma
    gap = np.zeros_like(x) if wrong else signal * data + spread * noise
    other = run(ddim(case.process, grid), model, x)
    terms = np.abs(x) * (1 + abs(h * a.f)) + (abs(h) * a.g2 / a.sigma + b.sigma + b.alpha * a.sigma / a.alpha) * np.abs(
        noise
    )
    size = terms + np.abs(other) + np.abs(b.alpha * data) * (1 + a.alpha / a.sigma * (abs(h * a.dsigma) + a.sigma))
    for table in (runge_kutta(case.process, grid, method="euler"), euler_maruyama(case.process, grid, noise=0.0)):
        for prediction in ("velocity", "score", "denoiser"):
            yield Sides(run(to_prediction(table, prediction), model, x) - other, gap, scale=size.max())


# ---------------------------------------------------------------------- a claim about order


@identity(
    "Bounded and Lipschitz is not enough for first order",
    topic=TOPIC,
    formula=r"f(s) = \sum_k 2^{-k/2} \cos 2\pi 2^k s:\ \text{error} = \frac{\sqrt h}{1 - 2^{-1/2}};\qquad"
    r" |\partial_s f| \le M_s:\ \text{error} \le \frac h2 (M_s + L M) \frac{e^{LS} - 1}{L}",
    covers=["DMI-79"],
    refutes=["DMI-79"],
    over="once",
    control="an error of order h, as the lemma claims for bounded f with a Lipschitz constant (here 0)",
)
def first_order_needs_smoothness(case: Case, wrong: bool) -> Iterator[Sides]:
    """Euler's table on the lacunary series, whose integral from 1 to 0 is 0, and the bound that a smooth flow obeys."""
    waves = 2.0 ** np.arange(60)

    def rough(x: Array, t: float) -> Array:
        # at multiples of 2^-n the terms k >= n are at their peaks, so those beyond the 60 are a geometric tail
        total = waves**-0.5 @ np.cos(2 * np.pi * (waves * t % 1.0)) + 2**-30 / (1 - 2**-0.5)
        return np.full_like(x, total)

    constants = []
    for n in range(3, 9):
        h = 2.0**-n
        table = runge_kutta(VEPower(T=1.0), np.arange(2**n, -1, -1) * h, method="euler")
        error = -run(table, rough, np.zeros((1, 1))).item()
        constants.append(error / (h if wrong else np.sqrt(h)))
    yield Sides(constants, 1 / (1 - 2**-0.5))
    # a linear field a(t) x with sigma = t: L = max |a|, M = max |a x|, M_s = max |a' x| over the grown path
    data, start = case.rng.uniform(0.3, 1), 1.5
    process, u = VEPower(T=2.0), np.linspace(0, start, 2001)
    a, da = u / (data + u**2), (data - u**2) / (data + u**2) ** 2
    law = ExactModel(Gaussian([0.0], data), process)
    lipschitz, x0 = np.abs(a).max(), 2.0
    for n in (8, 64):
        times = np.linspace(start, 0, n + 1)
        path = run(runge_kutta(process, times, method="euler"), law, np.array([[x0]]), trajectory=True)[:, 0, 0]
        exact = x0 * np.sqrt((data + times**2) / (data + start**2))
        largest = x0  # |x| falls on the way to the data
        bend = np.abs(da).max() * largest + lipschitz * np.abs(a).max() * largest
        bound = start / n / 2 * bend * np.expm1(lipschitz * start) / lipschitz
        yield Sides(np.maximum(np.abs(path - exact).max() / bound - 1, 0.0), 0.0)
