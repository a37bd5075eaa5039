r"""Runs of DDIM on any law: in latent space, with a schedule for each axis, and distilled into fewer steps.

    x_0 = Q z_0 with orthonormal columns     Q' x_t is the run in the latent space, Q' z its noise
    two steps s -> u -> t as one             x~ = (sigma_s x_t - sigma_t x_s) / (alpha_t sigma_s - alpha_s sigma_t)

Distilling with the exact x~ halves the steps and changes nothing: after log2 N rounds one step is the N-step run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.processes.affine import motion
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.families import families
from refdiff.samplers.propagation import flow, propagate
from refdiff.samplers.running import run
from refdiff.samplers.times import karras, uniform, uniform_log_snr
from refdiff.schedules import FlowMatching, FunctionSchedule, VEPower, VPLinear
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import scalar
from refdiff.validation.identity import ORDER, Sides, identity
from refdiff.validation.laws import cdf
from refdiff.validation.numeric import extrapolate

TOPIC = "DDIM sampler"


def small(case: ModelCase) -> bool:
    """Laws that a run of several steps does not cost much on."""
    return case.law.count * case.law.dim <= 200


def first(case: Case) -> bool:
    """One draw for what has no random numbers in it."""
    return case.name == "draw 0"


def descent(case: ModelCase, steps: int) -> Array:
    """Equal steps in t from case.t to case.s, shape (steps + 1,)."""
    return uniform(case.process, steps, start=case.t, end=case.s)


# ---------------------------------------------------------------------- progressive distillation


Predictor = Callable[[Array, float], Array]


def two_in_one(process: AffineProcess, teacher: Predictor, grid: Array, wrong: bool = False) -> tuple[Predictor, Array]:
    """The student of a teacher on a grid (2 n + 1,), and its own (n + 1,); a wrong one keeps the two-step result."""
    triples = {float(grid[k]): grid[k : k + 3] for k in range(0, len(grid) - 1, 2)}

    def student(x: Array, s: float) -> Array:
        a, b = (process.coefficients(float(t)) for t in triples[s][[0, 2]])
        end = run(ddim(process, triples[s]), teacher, x)
        # alpha_t sigma_s - alpha_s sigma_t without its cancellation
        gap = a.sigma * b.alpha * -np.expm1(a.log_snr - b.log_snr)
        return np.asarray(end if wrong else (a.sigma * end - b.sigma * x) / gap)

    return student, grid[::2]


@identity(
    "Two steps in one",
    topic=TOPIC,
    formula=r"\tilde x = \frac{\sigma_s \tilde x_t - \sigma_t x_s}{\alpha_t\sigma_s - \alpha_s\sigma_t}:\quad"
    r" \mathrm{DDIM}_{s \to t}(x_s; \tilde x) = \mathrm{DDIM}_{u \to t} \circ \mathrm{DDIM}_{s \to u}(x_s),\qquad"
    r" t = 0:\ \tilde x = \tilde x_0 / \alpha_0",
    covers=["PODC10-05", "PODC10-14", "PODC10-15"],
    control="the target at t = 0, the two-step result itself, at every t",
    needs=lambda case: scalar(case) and small(case),
    most=8,
)
def target(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """One step with the target as its clean point against the run of two; the last step to clean data."""
    process, model, x = case.process, case.model, case.x
    for end in (case.s, 0.0):
        grid = uniform(process, 2, start=case.t, end=end)
        student, coarse = two_in_one(process, model.denoiser, grid, wrong)
        twice = run(ddim(process, grid), model, x)
        a, b = (process.coefficients(float(t)) for t in coarse)
        # x~ is divided by the gap that the step multiplies it by
        size = np.abs(twice).max() + np.abs(x).max() * (1 + b.sigma / a.sigma)
        yield Sides(run(ddim(process, coarse), student, x), twice, scale=size)
        if end == 0.0 and b.sigma == 0:
            yield Sides(b.alpha * model.denoiser(run(ddim(process, grid[:2]), model, x), float(grid[1])), twice)


@identity(
    "Distilled to one step, the sampler stays what it was",
    topic=TOPIC,
    formula=r"N \to N/2 \to \dots \to 1:\quad \mathrm{DDIM}_{T \to 0}(x; \tilde x^{(\log_2 N)}) ="
    r" \mathrm{DDIM}_{t_{N-1} \to t_N} \circ \dots \circ \mathrm{DDIM}_{t_0 \to t_1}(x),\qquad t_k = T(1 - k/N)",
    covers=["PODC10-16", "PODC10-17", "PODC10-05"],
    control="the student's step taken with the teacher's clean point at its start",
    needs=lambda case: scalar(case) and small(case),
    most=7,
)
def distilled(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Three rounds of students on a grid of eight steps, each the teacher of the next, against the run of eight."""
    process, x = case.process, case.x
    grid = descent(case, 8)
    full = run(ddim(process, grid), case.model, x)
    teacher: Predictor = case.model.denoiser
    size = np.abs(x).max() + np.abs(full).max() + np.abs(teacher(x, case.t)).max()
    for _ in range(3):
        before = teacher
        teacher, grid = two_in_one(process, teacher, grid)
    # alpha_t / alpha_s magnifies what the first steps round
    ratio = max(1.0, float(process.coefficients(case.s).alpha / process.coefficients(case.t).alpha))
    yield Sides(run(ddim(process, grid), before if wrong else teacher, x), full, scale=size * ratio)
    yield Sides(descent(case, 8)[::2], descent(case, 4))
    yield Sides(grid, [case.t, case.s])


@identity(
    "What two steps and one differ by",
    topic=TOPIC,
    formula=r"\Psi_{s\to t} = \Psi_{u\to t} \circ \Psi_{s\to u};\qquad"
    r" \cos(a)\cos(b) - \cos(a + b) = \sin(a)\sin(b) = O(h^2)",
    covers=["PODC10-18", "PODC10-03"],
    over="once",
    control="the semigroup property taken to hold for DDIM",
)
def semigroup(case: Case, wrong: bool) -> Iterator[Sides]:
    """The exact flow in two parts and in one, and the tables of two steps and of one, on Gaussian data."""
    std, mean = case.rng.uniform(0.3, 2.0, 3), case.rng.standard_normal(3)
    law = Gaussian(mean, std**2)
    for process in (AffineProcess(VPLinear()), AffineProcess(FlowMatching())):
        times = np.sort(case.rng.uniform(0.1, 0.9, 3))[::-1]
        s, u, t = (process.coefficients(float(time)) for time in times)
        whole, first, second = (flow(motion(a), motion(b), mean, std**2) for a, b in ((s, t), (s, u), (u, t)))
        yield Sides(second[0] * first[0], whole[0])
        yield Sides(second[0] * first[1] + second[1], whole[1], scale=3.0)
        angle = [np.arctan2(c.sigma, c.alpha * std) for c in (s, u, t)]
        two, one = (propagate(ddim(process, g), law).channel().gain for g in (times, times[[0, 2]]))
        gap = np.sin(angle[0] - angle[1]) * np.sin(angle[1] - angle[2]) * whole[0]
        yield Sides(two - one, 0 * gap if wrong else gap, scale=whole[0])


# ---------------------------------------------------------------------- latent spaces and axes


def by_hand(model: ExactModel, times: Array, z: Array, normals: Array, eta: float) -> Array:
    """A path (m + 1, n, d) over times (m + 1,) from z (n, d), with normals (m, n, d) for n in its steps from s to t.

    alpha_t D + sqrt(sigma_t^2 - c^2) eps + c n, with c = eta sigma_t / sigma_s sigma_{s|t}.
    """
    path, process = [z], model.affine
    for k, (start, end) in enumerate(pairwise(times.tolist())):
        s, t = process.coefficients(start), process.coefficients(end)
        fresh = eta * t.sigma / s.sigma * np.sqrt(s.sigma**2 - (s.alpha / t.alpha * t.sigma) ** 2)
        clean = model.denoiser(path[-1], start)
        kept = np.sqrt(t.sigma**2 - fresh**2) * (path[-1] - s.alpha * clean) / s.sigma
        path.append(t.alpha * clean + kept + (fresh * normals[k] if fresh else 0.0))
    return np.array(path)


@identity(
    "Latent and pixel diffusion are one for an orthonormal decoder",
    topic=TOPIC,
    formula=r"x_0 = Q z_0,\ Q^\top Q = I:\quad Q^\top x_t = z_t,\quad \hat x_0(x_t) = Q\,\hat z_0(z_t),\quad"
    r" \mathbb{E}\|\epsilon - \hat\epsilon(x_t)\|^2 = \mathbb{E}\|\epsilon - \hat\epsilon(z_t)\|^2",
    covers=["DMI-50", "DMI-51", "DMI-52", "DMI-53", "DMI-54"],
    over="once",
    control="a decoder whose columns are 1.3 long, as a latent scale factor that is forgotten",
)
def latent(case: Case, wrong: bool) -> Iterator[Sides]:
    """Tables of eta = 0, 1/2, 1 run in six dimensions, their formulas in two with Q' of the noise; losses of both."""
    rng = case.rng
    q = np.linalg.qr(rng.standard_normal((6, 2)))[0] * (1.3 if wrong else 1.0)
    inside = random_mixture(2, 4, case.seed, "full", spread=1.5)
    for schedule in (VPLinear(), FlowMatching()):
        pixel, hidden = ExactModel(inside.affine(q), schedule), ExactModel(inside, schedule)
        times, x = uniform(schedule, 8, start=0.95, end=0.0), rng.standard_normal((5, 6))
        size = 5.0 * np.abs(inside.means).max() + np.abs(x).max()
        for eta in (0.0, 0.5, 1.0):
            table = ddim(schedule, times, eta=eta)
            noise = rng.standard_normal((table.draws, *x.shape))
            above = run(table, pixel, x, normals=noise, trajectory=True)
            below = by_hand(hidden, times, x @ q, noise @ q, eta)
            yield Sides(above @ q, below, scale=size)
            yield Sides(above[-1], below[-1] @ q.T, scale=size)
            for k in (1, 4, 7):
                # E|eps - eps*|^2 given x is (alpha / sigma)^2 tr Cov[x_0 | x]
                losses = [
                    np.trace(model.posterior_covariance(points[k], times[k]), axis1=1, axis2=2)
                    for model, points in ((pixel, above), (hidden, below))
                ]
                yield Sides(losses[0], losses[1], scale=np.trace(inside.cov()))


@identity(
    "A schedule for each principal axis",
    topic=TOPIC,
    formula=r"\sigma_m / \alpha_m = s_m \rho(t):\quad \frac{x_m(0) - \alpha_m \mu_m}{\sqrt{V_m}} ="
    r" \prod_i \cos(\Delta\theta_i)\,\frac{x_m(T) - \alpha_m \mu_m}{\sqrt{V_m}},\quad \tan\theta = \rho,"
    r"\text{ the same for all } m",
    covers=["RDX-53"],
    over="once",
    control="one schedule for all axes",
)
def principal_axes(case: Case, wrong: bool) -> list[Sides]:
    """The law of a run on axes of deviations 0.05 to 5 against one product; Karras' 20 noises from 80 to 0.002."""
    std = np.array([0.05, 0.5, 1.0, 5.0])
    process = AffineProcess([_scaled(1.0 if wrong else s) for s in std])
    times = karras(VEPower(T=80.0), 20, end=0.002, append_clean=True)
    law = Gaussian(case.rng.standard_normal(4), std**2)
    found = propagate(ddim(process, times), law)
    left = np.sqrt(np.diag(found.output.cov())) / std
    # the isotropic run and the one for each axis, as printed to three digits
    alone = propagate(ddim(VEPower(T=80.0), times), law)
    lost = np.sqrt(np.diag(alone.output.cov())) / std - 1
    return [
        Sides(left, np.cos(np.diff(np.arctan(times))).prod() * np.ones(4)),
        Sides(np.round(lost, 3), [-0.188, -0.139, -0.127, -0.102]),
        Sides(np.round(left - 1, 3), [-0.127] * 4),
    ]


def _scaled(s: float) -> FunctionSchedule:
    """alpha = 1, sigma = s t."""
    return FunctionSchedule(
        lambda t: np.ones_like(t),
        lambda t: s * t,
        80.0,
        lambda t: 0 * t,
        lambda t: s + 0 * t,
        lambda t: 0 * t,
        lambda t: 0 * t,
    )


# ---------------------------------------------------------------------- the limit, and its price


@identity(
    "Runs of DDIM converge to the monotone map",
    topic=TOPIC,
    formula=r"\frac{dx}{ds} = 10 s\Big(\frac{\epsilon^*}{\sqrt{1 - e^{-10 s^2}}} - x\Big):\quad"
    r" F_1(x(1)) = F_0(x(0)),\quad x(1) = 0.7:\ x(0) = 0.9978347376",
    covers=["TOPA-47", "TOPA-52", "TOPA-56", "TOPA-57", "TOPA-55"],
    over="once",
    evidence=ORDER,
    control="half the rate: 5 s in place of 10 s",
    needs=first,
)
def monotone_map(case: Case, wrong: bool) -> list[Sides]:  # noqa: ARG001
    """Extrapolated runs in equal steps of s, of s^2 with the rate 10, against the quantile; tables of both clocks."""
    law = GaussianMixture.isotropic([[-1.3], [0.8]], [0.09, 0.25], [0.3, 0.7])
    square, plain = VPLinear(0.0, 20.0), VPLinear(10.0, 10.0)
    used = VPLinear(0.0, 10.0) if wrong else square

    level = cdf(ExactModel(law, square).marginal(1.0), 0.7)
    quantile = brentq(lambda x: cdf(law, x) - level, -5, 5, xtol=1e-15)
    runs = {n: np.linspace(1, 0, n + 1) for n in (25, 50, 100, 200)}
    ends = [np.asarray(run(ddim(used, s), ExactModel(law, used), [[0.7]]).item()) for s in runs.values()]
    tables = [
        to_prediction(ddim(schedule, s), "v_prediction").unroll()
        for schedule, s in ((square, runs[50]), (plain, runs[50] ** 2))
    ]
    return [
        Sides(extrapolate(ends), quantile),
        Sides(quantile, 0.99783473763),
        # 50 and 100 steps, as printed
        Sides(np.round(np.array(ends[1:3]) - 0.99783473763, 4), [-1.90e-2, -9.6e-3]),
        Sides(tables[0].outputs, tables[1].outputs, scale=1.0),
    ]


@identity(
    "Function evaluations",
    topic="Samplers",
    formula=r"\mathrm{NFE} = m N \text{ for } m \text{ evaluations a step, twice that with guidance};\quad"
    r" \lambda = \log(\alpha / \sigma)",
    covers=["PODC9-06"],
    over="once",
    control="one evaluation a step for every family",
    needs=first,
)
def evaluations(case: Case, wrong: bool) -> Iterator[Sides]:  # noqa: ARG001
    """Calls that a run makes, counted, against the formula in n of every family; the grid is equal in log SNR."""
    schedule, steps = VPLinear(), 7
    times = uniform_log_snr(schedule, steps, start=0.9, end=0.05)
    c = schedule.coefficients(times)
    yield Sides(np.diff(np.log(c.alpha / c.sigma)), np.log(c.alpha / c.sigma)[[0, -1]] @ [-1, 1] / steps)
    for family in families().values():
        table, calls = family(schedule, times), 0

        def counted(x: Array, _: float) -> Array:  # what it answers does not count
            nonlocal calls
            calls += 1
            return 0.1 * x

        run(table, counted, np.ones((1, 2)), seed=0 if table.draws else None)
        expected = steps if wrong else _number(family.nfe, steps)
        yield Sides(float(calls), float(expected))
        if wrong and calls != steps:
            return
        if family.name == "ddim":
            calls = 0
            run(table, lambda x, t: 2 * counted(x, t) - counted(-x, t), np.ones((1, 2)))
            yield Sides(float(calls), 2.0 * steps)


def _number(formula: str, n: int) -> int:
    """ "2n - 1" at n."""
    factor, _, rest = formula.replace(" ", "").partition("n")
    return int(factor or 1) * n + int(rest or 0)
