r"""Reverse equations as solvers meet them: where their points end, for every noise and every process.

For Gaussian data and a linear force, E x and E x x' of a solver's points follow exactly, step by step; steps are
extrapolated to none. In the elapsed time s = T - t, y_s = x_{T - s}:

    right                dy = [-f(y, T - s) + g^2 grad log p_{T-s}(y)] ds + g(T - s) dw       back to the data
    the printed proof    the first sign of that drift turned; then half of the Laplacian lost against the other half
    the printed clock    dx = [f(x, t) - g^2 grad log p_t(x)] dt + g dw from x_0 ~ p_T, t up: a third law

With beta = 1, data of variance 4 and T = 2 they end at variance 4, 2.919 and 3.529. The compensator matters too: the
forward path run backwards, x_{T-s} = x_T + w_{T-s} - w_T for f = 0, is driven by increments that know x_T.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess, critically_damped_langevin, ornstein_uhlenbeck
from refdiff.processes.motion import Process
from refdiff.schedules import VEPower, VPLinear
from refdiff.stochastic import StochasticEquation, exact_moments, linear_moments, marginal_family
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ProcessCase, per_axis
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, well_conditioned

TOPIC = "Reverse-time equations"
COUNTS = (2, 4, 8, 16)


def limit(
    equation: StochasticEquation, method: str, span: tuple[float, float], law: GaussianMixture, first: int
) -> tuple[Array, Array]:
    """The mean (d,) and covariance (d, d) at the end of a span of points that a method takes along an equation.

    Steps are extrapolated to none, the first error in their power `first`; the points start with the law.
    """
    found = [linear_moments(equation, method, np.linspace(*span, n + 1), law.mean(), law.cov()) for n in COUNTS]
    mean, covariance = (numeric.extrapolate(list(part), first=first) for part in zip(*found, strict=True))
    return mean, covariance


def compared(
    model: ExactModel, equation: StochasticEquation, method: str, span: tuple[float, float], first: int
) -> list[Sides]:
    """What an equation's points tend to by a method, against the marginals of the model at both ends of the span.

    In standard deviations of the last one; `first` is the power of the first error.
    """
    before, after = (model.marginal(t) for t in span)
    mean, covariance = limit(equation, method, span, before, first)
    std = np.sqrt(np.diag(after.cov()))
    return [
        Sides(mean / std, after.mean() / std, scale=1.0),
        Sides(covariance / np.outer(std, std), after.cov() / np.outer(std, std)),
    ]


def corrupted(model: ExactModel, factor: float) -> StochasticEquation:
    """Anderson's reversal with the score times a factor."""
    right = marginal_family(model)

    def drift(x: Array, t: float) -> Array:
        pull = operators.apply(model.process.diffusion(t), model.score(x, t))
        return right.drift_at(x, t) + (1 - factor) * pull

    return StochasticEquation(drift, right.noise, model.dim, motions=right.motions)


@identity(
    "Points of the reverse equation end in the data",
    topic=TOPIC,
    formula=r"dy = [-f(y, T - s) + g^2(T - s) \nabla \log p_{T-s}(y)]\,ds + g(T - s)\,dw,\; y_0 \sim p_T"
    r" \;\Rightarrow\; y_s \sim p_{T-s}: \quad 4 \text{ against } 2.919, 3.529",
    covers=["PODD-108", "PODA-407", "PODD-107"],
    refutes=["PODD-108"],
    over="once",
    evidence=QUADRATURE,
    control="the drift of the printed proof, its sign turned",
    most=1,
)
def printed_reversal(case: Case, wrong: bool) -> list[Sides]:
    """Moments of three equations by their own rates; what the printed ones end at to four figures."""
    del case
    schedule, law, horizon = VPLinear(1.0, 1.0, T=2.0), Gaussian([0.0], 4.0), 2.0
    model = ExactModel(law, schedule)
    start = model.marginal(horizon)

    def ends(sign: float, back: bool) -> float:
        """The variance after T of dy = sign [f - g^2 S] ds + g dw, with the coefficients of T - s or of s."""

        def drift(x: Array, s: float) -> Array:
            t = horizon - s if back else s
            rate = schedule.f(t) * x - schedule.g2(t) * model.score(x, t)
            return np.asarray(sign * rate)

        noise = lambda s: np.sqrt(schedule.g2(horizon - s if back else s))  # noqa: E731
        equation = StochasticEquation(drift, noise, 1)
        return float(exact_moments(equation, 0.0, horizon, start.mean(), start.cov())[1][0, 0])

    right = ends(1.0 if wrong else -1.0, back=True)
    # printed to four figures: half a unit of the last one
    printed = [(ends(1.0, back=True), 2.919), (ends(1.0, back=False), 3.529)]
    return [Sides(right, 4.0), *(Sides(np.round(found, 3), number) for found, number in printed)]


@identity(
    "Every noise, every direction: where a solver's points tend",
    topic=TOPIC,
    formula=r"dx = [v \mp \tfrac{k^2}{2} g^2 \nabla \log p_t]\,dt + k g\,dw \;\Rightarrow\; x_t \sim p_t"
    r" \;\text{for}\; k \in \{0, \tfrac12, 1, 2\}",
    covers=["PODD-107", "PODD-108", "PODB-67", "PODA-407", "PODA-413"],
    over="processes",
    evidence=ORDER,
    control="half of the score, which is the printed proof's drift without its sign",
    needs=smooth,
    most=5,
)
def solver_marginals(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """Heun's and Roessler's points of Gaussian data in the plane, both ways, over a short span of lambda."""
    schedule = case.schedule
    data = gaussian(case.rng, 2)
    lam = float(schedule.log_snr(case.s))
    # data about as wide as the noise, so that neither hides the other
    model = ExactModel(data.affine(np.exp(-lam)), schedule)
    span = float(schedule.time_of_log_snr(lam + 0.3)), case.s
    if wrong:
        yield from compared(model, corrupted(model, 0.5), "heun", span[::-1], 2)
        return
    for k, ends in ((0.0, span[::-1]), (0.5, span), (1.0, span[::-1]), (2.0, span[::-1])):
        family = marginal_family(model, k, to_data=ends[1] < ends[0])
        yield from compared(model, family, "sra1" if k else "heun", ends, 2)


def matrices(case: Case) -> tuple[Process, tuple[float, float]]:
    """A process of matrices, and a span of its time."""
    drift, noise = (well_conditioned(case.rng, 2) for _ in range(2))
    made: tuple[tuple[Callable[[], Process], tuple[float, float]], ...] = (
        (lambda: critically_damped_langevin(1), (0.7, 0.675)),
        (
            lambda: ornstein_uhlenbeck(drift @ drift.T / 2 + np.eye(2) + 0.5 * (drift - drift.T), noise=noise),
            (0.7, 0.64),
        ),
        (lambda: LinearProcess(lambda t: -drift * t, lambda t: noise + t * np.eye(2), 1.0), (0.8, 0.74)),
        (lambda: per_axis(2), (0.6, 0.54)),
    )
    build, span = made[case.seed % len(made)]
    return build(), span


@identity(
    "Every noise under matrices",
    topic=TOPIC,
    formula=r"dx = [v - \tfrac12 H H' \nabla \log p_t]\,dt + H\,dw,\;dt < 0:"
    r"\quad x_t \sim p_t \;\text{for every}\; H(t)",
    covers=["PODB-67", "PODA-407", "PODD-108"],
    over="once",
    evidence=ORDER,
    control="half of the score",
)
def matrix_marginals(case: Case, wrong: bool) -> Iterator[Sides]:
    """The same for positions and velocities, turning drifts and axes apart; and noise of one's own."""
    process, span = matrices(case)
    model = ExactModel(Gaussian(case.rng.normal(size=2), np.diag(case.rng.uniform(0.5, 1.5, 2))), process)
    if wrong:
        yield from compared(model, corrupted(model, 0.5), "sra1", span, 2)
        return
    other = case.rng.normal(size=(2, 3)) / np.sqrt(3)
    for family in (
        *(marginal_family(model, k) for k in (0.5, 1.0, 2.0)),
        marginal_family(model, noise=lambda t: other * (1 + t)),
    ):
        yield from compared(model, family, "sra1", span, 2)


@identity(
    "The forward path's own noise does not drive its reversal",
    topic=TOPIC,
    formula=r"\mathrm{Cov}(w_{T-s} - w_T, x_T) = -s\,I,\quad f = 0, g = 1:\;"
    r" x_{T-s} = x_T + (w_{T-s} - w_T) \;\text{without a score}",
    covers=["PODA-407"],
    refutes=["PODA-407"],
    over="once",
    control="reversed increments that are independent of x_T",
)
def reversed_noise(case: Case, wrong: bool) -> list[Sides]:
    """Covariances of x_0 and a path by min(s, t); Anderson's drift as what the increment's mean given x_T is."""
    horizon, variance = case.rng.uniform(0.5, 2.0), case.rng.uniform(0.5, 2.0)
    s = horizon * np.linspace(0.1, 0.9, 5)
    build = np.eye(6) - np.outer(np.ones(6), np.eye(6)[5])  # w_{T-s} - w_T, of the times T - s and T
    times = np.append(horizon - s, horizon)
    path = np.minimum.outer(times, times)
    cross = (build @ path)[:5, 5]  # with x_T = x_0 + w_T
    model = ExactModel(Gaussian([0.0], variance), VEPower(0.5, T=2 * horizon))
    x = case.rng.normal(size=(1, 1))
    # over a short s the mean of the increment given x_T is s times the score
    mean = 0.0 * s if wrong else cross / (variance + horizon) * x[0, 0]
    # the variance of x_{T-s} when the increment is independent of x_T, and as it is
    spread = variance + horizon + s + 2 * (0.0 * s if wrong else cross)
    return [
        Sides(mean, s * model.score(x, horizon)[0, 0], scale=horizon),
        Sides(spread, variance + horizon - s),
    ]
