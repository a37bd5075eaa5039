r"""Brownian paths as the library draws them: Ito's sums, areas under refinement, and what a path is worth to a method.

On every path, for every grid, without a limit:

    sum w_i dw_i = (w_T^2 - sum dw_i^2) / 2          Ito: the integrand at the left of each step
    sum (w_i + w_{i+1}) dw_i / 2 = w_T^2 / 2         Stratonovich
    sum g_i dw_i = g_n w_T - sum w_{i+1} (g_{i+1} - g_i),  so that a smooth g(t) has one integral, left or middle

Strong errors have constants. For dx = mu x dt + s x dw from 1, with c = 2 mu + s^2 and n steps on [0, T],

    n E|x_n - x|^2    ->  s^4 T^2 e^{cT} / 2                                                        Euler-Maruyama
    n^2 E|x_n - x|^2  ->  [(s^6 / 6 + mu^2 s^2) T^3 + (mu^2 + 2 mu s^2)^2 T^4 / 4] e^{cT}           Milstein

and for dx = -a x dt + g dw, n (x - x_n) / T tends in law to y, dy = (-a y + a^2 x / 2) dt - a g (dw + dw' / sqrt 3)/2,
with w' another Brownian motion: what the area of a step holds and its increment does not.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.stochastic import BrownianPath, StochasticEquation
from refdiff.stochastic.brownian_steps import Piece, split
from refdiff.stochastic.solvers import METHODS, advanced
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identity import ORDER, Sides, identity

TOPIC = "Brownian paths"


def grid(rng: np.random.Generator, count: int = 12) -> Array:
    """0, some random times and a last one, shape (count + 1,)."""
    return np.append(0.0, np.cumsum(rng.exponential(size=count)))


@identity(
    "Ito's sums on a path",
    topic=TOPIC,
    formula=r"\sum_i w_i \Delta w_i = \tfrac12 \Big(w_T^2 - \sum_i \Delta w_i^2\Big),\quad"
    r" \sum_i \tfrac{w_i + w_{i+1}}{2} \Delta w_i = \tfrac12 w_T^2,\quad"
    r" \sum_i g_i \Delta w_i = g_n w_T - \sum_i w_{i+1} \Delta g_i",
    covers=["PODD-64"],
    over="once",
    control="the integrand at the right end of each step",
)
def ito_sums(case: Case, wrong: bool) -> list[Sides]:
    """Sums over the library's path against its end and its squares; the integral of time from two grids."""
    times = grid(case.rng)
    path = BrownianPath(case.seed, times[[0, -1]], 2)
    w, found, h = path.values(times, 5), path.increments(times, 5), np.diff(times)[:, None, None]
    dw, end, squares = found.dw, w[-1], (found.dw**2).sum(axis=0)
    g = np.sin(times)[:, None, None]
    sums = ((w[1:] if wrong else w[:-1]) * dw).sum(axis=0)
    parts = g[-1] * end - (w[1:] * np.diff(g, axis=0)).sum(axis=0)
    # int t dw = T w_T - int w dt, with the areas of the steps and with that of the whole
    of_time = (times[1:, None, None] * dw - h * (0.5 * dw + found.area)).sum(axis=0)
    whole = path.increment(0.0, times[-1], 5)
    size = squares.sum() + (np.abs(w) ** 2).max()
    return [
        Sides(sums, 0.5 * (end**2 - squares), scale=size),
        Sides((0.5 * (w[:-1] + w[1:]) * dw).sum(axis=0), 0.5 * end**2, scale=size),
        Sides((g[:-1] * dw).sum(axis=0), parts, scale=np.abs(w).max() * len(times)),
        Sides(of_time, times[-1] * (0.5 * whole.dw - whole.area), scale=times[-1] * np.abs(w).max() * len(times)),
    ]


@identity(
    "Middles of steps are Stratonovich's, and for integrands without noise nobody's",
    topic=TOPIC,
    formula=r"\mathbb{E} \Big|\sum_i w_{i+1/2} \Delta w_i - \tfrac12 w_T^2\Big|^2 = \tfrac14 \sum_i h_i^2,\quad"
    r" \mathbb{E} \sum_i w_i \Delta w_i = 0,\quad"
    r" \mathbb{E} \Big|\sum_i (g_{i+1/2} - g_i) \Delta w_i\Big|^2 = \sum_i (g_{i+1/2} - g_i)^2 h_i",
    covers=["PODD-64"],
    over="once",
    control="left ends in place of middles",
)
def middles(case: Case, wrong: bool) -> list[Sides]:
    """Fourth moments by Wick's theorem, from Cov(w_s, w_t) = min(s, t), against the closed sums."""
    times = grid(case.rng)
    h, middle = np.diff(times), 0.5 * (times[1:] + times[:-1])
    known = np.concatenate([times, middle])
    covariance = np.minimum.outer(known, known)
    steps = len(h)
    ahead = np.zeros((steps, len(known)))
    ahead[np.arange(steps), np.arange(1, steps + 1)], ahead[np.arange(steps), np.arange(steps)] = 1.0, -1.0
    at = np.zeros_like(ahead)
    at[np.arange(steps), np.arange(steps) if wrong else steps + 1 + np.arange(steps)] = 1.0
    end = np.eye(len(known))[steps]
    # the quadratic form w' Q w of sum at_i ahead_i - w_T^2 / 2
    q = at.T @ ahead - 0.5 * np.outer(end, end)
    q = 0.5 * (q + q.T) @ covariance
    square = np.trace(q) ** 2 + 2 * np.trace(q @ q)
    g, shifted = np.cos(times[:-1]), np.cos(middle)
    moves = (shifted - g) @ (ahead @ covariance @ ahead.T) @ (shifted - g)
    return [
        Sides(square, 0.25 * (h**2).sum(), scale=times[-1] ** 2),
        Sides(moves, ((shifted - g) ** 2 * h).sum()),
        Sides(np.trace(ahead @ covariance @ np.eye(len(known))[:steps].T), 0.0, scale=times[-1]),
    ]


@identity(
    "A step and its area, split in two",
    topic=TOPIC,
    formula=r"W_1 = r W + 2Y,\; Y \mid H \sim \mathcal{N}(3rqH, \tfrac14 h r q (r^3 + q^3)),\;"
    r" H_1 = \frac{r^2 (H - Y) + \dots}{r^3 + q^3},\quad q = 1 - r",
    covers=["PODA-403", "PODD-63"],
    over="once",
    control="the bridge of the increment alone, which does not know its area",
)
def areas(case: Case, wrong: bool) -> list[Sides]:
    """The library's split, impulse by impulse, against Bayes' rule for two independent steps."""
    h, r = case.rng.exponential(), case.rng.uniform(0.05, 0.95)
    q = 1 - r
    law = Gaussian(np.zeros(4), h * np.array([r, r / 12, q, q / 12]))
    joined = np.array([[1.0, 0.0, 1.0, 0.0], [q / 2, r, -r / 2, q]])
    seen = case.rng.normal(size=2) * np.sqrt(h)
    posterior = Channel(joined, 0.0, np.zeros((2, 2))).posterior(law, seen)

    def made(w: float, area: float, z: Array) -> Array:
        parts = split(Piece(np.array([[w]]), np.array([[area]])), h, r, z[None])
        found = np.array([value[0, 0] for piece in parts for value in piece])
        if wrong:
            found[0] = r * w + np.sqrt(h * r * q) * z[0]
        return found

    nothing = np.zeros(2)
    mean = made(float(seen[0]), float(seen[1]), nothing)
    noise = np.stack([made(0.0, 0.0, e) for e in np.eye(2)])
    return [
        Sides(mean, posterior.mean(), scale=np.sqrt(h) + np.abs(seen).max()),
        Sides(noise.T @ noise, posterior.cov(), scale=h),
    ]


# ---------------------------------------------------------------------- what a path is worth


def one_step(equation: StochasticEquation, method: str, x: Array, s: float, t: float, dw: Array) -> Array:
    """x (n, 1) after one step of a method for an equation, along increments dw (n, 1) without areas."""
    return advanced(METHODS[method], equation, x, s, t, Piece(dw, np.zeros_like(dw)))


def extrapolated(power: int, horizon: float, square: list[tuple[int, float]]) -> Array:
    """(n / horizon)^power e(n)^2 at n = infinity, a scalar, from pairs of n and the `square` of the error."""
    return numeric.extrapolate([np.asarray(n**power * e2 / horizon**power) for n, e2 in square])


@identity(
    "Strong errors of methods whose noise multiplies x",
    topic=TOPIC,
    formula=r"n\,\mathbb{E}|x_n - x|^2 \to \tfrac12 s^4 T^2 e^{cT},\qquad n^2\,\mathbb{E}|x_n^{\mathrm{Mil}} - x|^2 \to"
    r" \big[(\tfrac16 s^6 + \mu^2 s^2) T^3 + \tfrac14 (\mu^2 + 2 \mu s^2)^2 T^4\big] e^{cT},\quad c = 2\mu + s^2",
    covers=["PODD-62", "PODD-64"],
    over="once",
    evidence=ORDER,
    control="Euler-Maruyama taken for a method of strong order 1",
)
def multiplied_noise(case: Case, wrong: bool) -> list[Sides]:
    """One step of the library's methods and of the solution, averaged over dw by Gauss-Hermite, to the power n."""
    mu, s, horizon = case.rng.uniform([0.1, 0.3, 0.5], [0.5, 0.6, 1.2])
    equation = StochasticEquation(
        lambda x, _: mu * x, lambda x, _: s * x, 1, additive=False, slope=lambda x, _: np.full_like(x, s)
    )
    z, w = numeric.hermite(40)
    c = 2 * mu + s * s

    def square(method: str, n: int) -> float:
        h = horizon / n
        dw = np.sqrt(h) * z[:, None]
        step = one_step(equation, method, np.ones_like(dw), 0.0, h, dw)[:, 0]
        exact = np.exp((mu - s * s / 2) * h + s * dw[:, 0])
        # E |a_1..a_n - b_1..b_n|^2 of independent pairs, in differences that do not cancel
        second, cross, gap = w @ exact**2, w @ (step * exact), w @ (step - exact) ** 2
        total = np.zeros(3)  # E (x_n - x)^2, E (x_n - x) x, E x^2
        total[2] = 1.0
        lag = cross - second
        rows = np.array([[gap + 2 * lag + second, 2 * (gap + lag), gap], [0.0, lag + second, lag], [0.0, 0.0, second]])
        return float((np.linalg.matrix_power(rows, n) @ total)[0])

    counts = [8 * 2**k for k in range(6)]
    power = 2 if wrong else 1
    euler = extrapolated(power, horizon, [(n, square("euler-maruyama", n)) for n in counts])
    milstein = extrapolated(2, horizon, [(n, square("milstein", n)) for n in counts])
    growth = np.exp(c * horizon)
    spread = (s**6 / 6 + mu**2 * s**2) * horizon + (mu**2 + 2 * mu * s * s) ** 2 * horizon**2 / 4
    return [Sides(euler, 0.5 * s**4 * horizon * growth), Sides(milstein, spread * growth)]


@identity(
    "Strong error of Euler-Maruyama with additive noise",
    topic=TOPIC,
    formula=r"\tfrac{n}{T}(x - x_n) \to y,\quad dy = (-a y + \tfrac12 a^2 x)\,dt -"
    r" \tfrac12 a g\,(dw + \tfrac{1}{\sqrt 3} dw')",
    covers=["PODD-62", "PODD-64"],
    over="once",
    evidence=ORDER,
    control="an error that sees no noise beside the path's own increments",
)
def added_noise(case: Case, wrong: bool) -> Sides:
    """The joint second moments of the library's step and of the solution, against the limit's own equation."""
    a, g, horizon, start = case.rng.uniform([0.5, 0.4, 0.6, 0.5], [1.5, 1.0, 1.2, 1.5])
    equation = StochasticEquation(lambda x, _: -a * x, lambda _: g, 1)

    def square(n: int) -> float:
        h = horizon / n
        gain = one_step(equation, "euler-maruyama", np.ones((1, 1)), 0.0, h, np.zeros((1, 1)))[0, 0]
        noise = one_step(equation, "euler-maruyama", np.zeros((1, 1)), 0.0, h, np.ones((1, 1)))[0, 0]
        decay = np.exp(-a * h)
        both = np.array([[gain, 0.0], [0.0, decay]])
        cross = -noise * g * np.expm1(-a * h) / a
        added = np.array([[noise**2 * h, cross], [cross, -(g**2) * np.expm1(-2 * a * h) / (2 * a)]])
        second = np.full((2, 2), start**2)
        for _ in range(n):
            second = both @ second @ both.T + added
        return float(np.array([1.0, -1.0]) @ second @ np.array([1.0, -1.0]))

    found = extrapolated(2, horizon, [(n, square(n)) for n in (8, 16, 32, 64, 128)])
    drift = np.array([[-a, 0.0], [a * a / 2, -a]])
    noise = np.array([[g, 0.0], [-a * g / 2, 0.0 if wrong else -a * g / np.sqrt(12)]])
    # E (x, y)(x, y)' by van Loan's block matrix
    blocks = expm(horizon * np.block([[drift, noise @ noise.T], [np.zeros((2, 2)), -drift.T]]))
    spread = blocks[:2, 2:] @ blocks[:2, :2].T
    mean = blocks[:2, :2] @ np.array([start, 0.0])
    return Sides(found, spread[1, 1] + mean[1] ** 2)
