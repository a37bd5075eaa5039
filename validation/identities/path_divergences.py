r"""The divergence of laws of paths, and what it says of the marginals, of correlations and of chains.

    KL(P || Q) = KL(p_T || q_T) + 1/2 int E g^2 |s^ - s|^2 dt = KL(p_0 || q_0) + E KL(P(.|x_0) || Q(.|x_0))

for Anderson's reversal. The source derives it from its form of Girsanov's ratio and "the Ito integral has zero
expectation under P": under P that integral is against the noise of Q and has the mean +int |theta|^2, so the two
sentences together give -1/2 int, a negative divergence. Its "Const." is KL(p_T || q_T). Minimizing is equivalent to
matching scores for the stochastic equation only: with noise k g the factor 1/2 is (1 + k^2)^2 / (8 k^2), infinite for
the probability flow. If s^ is the score of other data under the same process, Q is that process, and score matching is
the divergence of the data less that of what is left of them.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import block_diag

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, kl_divergence, random_mixture
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.model import ExactModel
from refdiff.path_measures.affine import affine_reverse, forward_joint, reverse_joint
from refdiff.path_measures.chains import chain_kl
from refdiff.path_measures.divergences import conditional_kl, path_kl
from refdiff.path_measures.scores import AffineScore
from refdiff.processes import LinearProcess
from refdiff.stochastic import StochasticEquation, forward_equation
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase, ProcessCase, with_gaussian_data
from refdiff.validation.conditions import smooth
from refdiff.validation.identity import MONTE_CARLO, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, line

TOPIC = "Laws of paths"


def off_by(model: ExactModel, rng: np.random.Generator, size: float = 0.2) -> AffineScore:
    """The score of Gaussian data with other precisions and centres, a perturbation of a size."""
    dim = model.dim
    stretch = np.eye(dim) + size * np.diag(rng.uniform(-1, 1, dim))
    shift = size * rng.standard_normal(dim)

    def precision(t: float) -> Array:
        return np.asarray(stretch @ np.linalg.inv(model.marginal(t).cov()))

    return AffineScore(
        precision, lambda t: model.marginal(t).mean() + shift * np.sqrt(np.trace(model.marginal(t).cov())), dim
    )


def matrix_process(rng: np.random.Generator) -> LinearProcess:
    """Langevin dynamics of two axes, whose noise reaches the velocities alone."""
    pull = np.diag(rng.uniform(1.0, 2.0, 2))
    drift = np.block([[np.zeros((2, 2)), np.eye(2)], [-pull, -2 * np.eye(2)]])
    return LinearProcess(drift, np.vstack([np.zeros((2, 2)), 2 * np.eye(2)]), T=1.0)


@identity(
    "Divergence of paths from both ends",
    topic=TOPIC,
    formula=r"\mathrm{KL}(p_t \| q_t)"
    r" + \tfrac{(1 + k^2)^2}{8 k^2} \mathbb{E}_P \int_s^t g^2 |\hat s - \nabla \log p|^2 du"
    r" = \mathrm{KL}(p_s \| q_s) + \mathbb{E}\, \mathrm{KL}(P(\cdot | x_s) \| Q(\cdot | x_s))",
    covers=["PODD-91"],
    refutes=["PODD-91"],
    over="processes",
    evidence=QUADRATURE,
    control="-1/2 int, which the printed ratio and a mean of zero under P give together",
    needs=smooth,
    most=4,
)
def both_ends(case: ProcessCase, wrong: bool) -> Sides:
    """The energy of scores against the laws at the data end and the energy of the two equations run to noise."""
    start, k = case.t - 0.3 * (case.t - case.s), float(case.rng.choice([1.0, 0.6]))
    model = with_gaussian_data(case, 2).model
    score = off_by(model, case.rng)
    prior = Gaussian(1.1 * model.marginal(case.t).mean(), 1.2 * model.marginal(case.t).cov())
    paths = path_kl(model, score, start=start, end=case.t, stochasticity=k, prior=prior)
    made = affine_reverse(model.process, score, k).transition(case.t, start).push(prior)
    here = model.marginal(start)
    ends = kl_divergence(Gaussian(here.mean(), here.cov()), Gaussian(made.mean(), made.cov()))
    inner = conditional_kl(model, score, start=start, end=case.t, stochasticity=k, prior=prior)
    # the moments of q are integrated to 1e-11 of themselves
    left = paths.prior - paths.paths if wrong else paths.value
    return Sides(left, ends + inner, scale=paths.value + ends + 0.1)


@identity(
    "Score matching between two exact models is the divergence of their data",
    topic=TOPIC,
    formula=r"\tfrac12 \int_s^t \mathbb{E}_{p_u}\, g^2 |\nabla \log q_u - \nabla \log p_u|^2 du"
    r" = \mathrm{KL}(p_s \| q_s) - \mathrm{KL}(p_t \| q_t)",
    covers=["PODD-91"],
    evidence=QUADRATURE,
    tolerance=1e-8,  # of integrals over time of integrals over x to 1e-9
    control="without the factor 1/2",
    needs=lambda case: case.law.dim == 1 and smooth(case) and not case.law.covariances.singular,
    most=4,
)
def between_models(case: ModelCase, wrong: bool) -> Sides:
    """The reversal with the other model's score is the other noising: quadrature over time against sums on the line."""
    other = ExactModel(
        random_mixture(1, 3, case.rng).affine(1.0, case.law.mean()).convolve(case.law.cov()), case.process
    )
    start = 0.5 * (case.s + case.t)
    paths = path_kl(case.model, other, start=start, end=case.t, route=Quadrature(1e-10))
    ends = []
    for u in (start, case.t):
        p, q = case.model.marginal(u), other.marginal(u)
        x, step = line(p, q)
        ends.append(step * np.exp(p.logpdf(x)) @ (p.logpdf(x) - q.logpdf(x)))
    return Sides((2.0 if wrong else 1.0) * paths.paths, ends[0] - ends[1], scale=ends[0] + ends[1])


@identity(
    "Divergence of paths: scores, drifts and two processes with matrices",
    topic=TOPIC,
    formula=r"\tfrac12 \mathbb{E} \int |\hat b - b|^2_{(k^2 D)^+} du"
    r" = \tfrac{(1 + k^2)^2}{8 k^2} \mathbb{E} \int |\hat s - s|^2_D\, du;\quad \hat s = \nabla \log q_t,\ k = 1:\ "
    r"\mathrm{KL}(P \| Q) = \mathrm{KL}(p_s \| q_s)",
    covers=["PODD-91"],
    over="once",
    evidence=QUADRATURE,
    control="the factor 1/2 for every k, which holds for the reverse equation only",
)
def drifts_and_scores(case: Case, wrong: bool) -> list[Sides]:
    """Langevin's process with singular noise; a StochasticEquation by quadrature against the closed form of scores."""
    rng = case.rng
    process = matrix_process(rng)
    p, q = (ExactModel(gaussian(rng, 4), process) for _ in range(2))
    whole = path_kl(p, q, start=0.4, prior=q.marginal(1.0))
    data = [Gaussian(one.marginal(0.4).mean(), one.marginal(0.4).cov()) for one in (p, q)]
    found = [Sides(whole.value, kl_divergence(*data))]
    small = LinearProcess([[0.0, 1.0], [-1.0, -2.0]], [[0.0], [1.5]])
    p = ExactModel(gaussian(rng, 2), small)
    score, k = off_by(p, rng), 0.5
    closed = path_kl(p, score, start=0.9, stochasticity=k)
    share = (1 + k * k) / 2
    base, d = forward_equation(small, 2), small.diffusion(0.0)

    def drift(x: Array, t: float) -> Array:
        return base.drift_at(x, t) - share * operators.apply(d, score.at(x, t))

    equation = StochasticEquation(drift, lambda t: k * small.noise(t), 2, motions=1)
    by_drifts = path_kl(p, equation, start=0.9, stochasticity=k, route=Quadrature(1e-7))
    factor = 0.5 / ((1 + k * k) ** 2 / (8 * k * k)) if wrong else 1.0
    return [*found, Sides(by_drifts.paths, factor * closed.paths)]


@identity(
    "Divergence of chains tends to that of paths",
    topic=TOPIC,
    formula=r"\sum_i \mathbb{E}\, \mathrm{KL}\big(q(x_{i+1} | x_i)\, \|\, \mathcal{N}(x_i + \hat b h,\, g^2 |h|)\big)"
    r" = \tfrac12 \mathbb{E} \int g^2 |\hat s - s|^2 du + O(h)",
    covers=["PODD-91"],
    over="processes",
    evidence=ORDER,
    control="the drift of the probability flow's score, g^2 / 2, in the energy",
    needs=smooth,
    most=4,
)
def chains_to_paths(case: ProcessCase, wrong: bool) -> Sides:
    """Exact reverse kernels against Euler-Maruyama steps, extrapolated in the steps."""
    model = with_gaussian_data(case, 1).model
    start = case.t - 0.2 * (case.t - case.s)
    score = off_by(model, case.rng, 0.5)
    limit = path_kl(model, score, start=start, end=case.t).paths
    chains = [np.array(chain_kl(model, score, np.linspace(case.t, start, 2**j + 1)).paths) for j in range(2, 6)]
    return Sides(numeric.extrapolate(chains), (0.25 if wrong else 1.0) * limit)


@identity(
    "Divergence of chains by sampled paths",
    topic=TOPIC,
    formula=r"\mathrm{KL}(P \| Q) = \mathbb{E}_P \log\frac{dP}{dQ} \approx \tfrac1n \sum_j \log\frac{dP}{dQ}(x^{(j)})",
    covers=["PODD-91"],
    over="once",
    evidence=MONTE_CARLO,
    tolerance=4.5,  # in standard errors: a false alarm in 7e-6 of the comparisons, of which there are three
    control="the logarithm of the inverse ratio, whose mean under P is -KL",
)
def sampled(case: Case, wrong: bool) -> Sides:
    """Gaussian data on three axes of different rates: the closed form, and exact paths with the same kernels."""
    rng = case.rng
    process = LinearProcess(-np.diag(rng.uniform(0.5, 1.5, 3)), np.diag(rng.uniform(0.7, 1.3, 3)))
    model = ExactModel(gaussian(rng, 3), process)
    score, times = off_by(model, rng, 4.0), np.linspace(1.0, 0.4, 5)
    closed = chain_kl(model, score, times)
    drawn = chain_kl(model, score, times, route=MonteCarlo(30_000, case.seed))
    return Sides(-drawn.paths if wrong else drawn.paths, closed.paths, scale=drawn.error)


@identity(
    "Equal marginals, other paths",
    topic=TOPIC,
    formula=r"\mathrm{Cov}_k(x_s, x_t):\quad k = 1:\ \mathrm{Cov}(x_s)\, K^\top,\qquad V_0 = 4,\ \beta = 1:\ "
    r"\alpha_T V_0 = 2.426\ \text{(equation)},\ \sqrt{V_0 V_T} = 2.901\ \text{(flow)}",
    covers=["PODD-90"],
    over="once",
    control="the flow in the place of the stochastic equation: marginals alone",
)
def joint_of_two_times(case: Case, wrong: bool) -> list[Sides]:
    """The reverse equation run from t to s against the forward channel, for matrices, singular noise, axes of rates."""
    rng, k, found = case.rng, 0.0 if wrong else 1.0, []
    turning = LinearProcess(rng.standard_normal((3, 3)) - np.eye(3), rng.standard_normal((3, 3)))
    for process, dim in ((matrix_process(rng), 4), (turning, 3)):
        model = ExactModel(gaussian(rng, dim), process)
        forward, back = forward_joint(model, 0.3, 0.8), reverse_joint(model, 0.3, 0.8, k)
        found += [Sides(back.mean(), forward.mean()), Sides(back.cov(), forward.cov())]
        blocks = block_diag(model.marginal(0.3).cov(), model.marginal(0.8).cov())
        own = reverse_joint(model, 0.3, 0.8, 0.5).cov() * (blocks != 0)
        found.append(Sides(own, blocks))
    ou = ExactModel(Gaussian([0.0], 4.0), LinearProcess([[-0.5]], [[1.0]]))
    both = [reverse_joint(ou, 0.0, 1.0, stochasticity).cov()[0, 1] for stochasticity in (k, 0.0)]
    last = 4 * np.exp(-1.0) + 1 - np.exp(-1.0)
    return [*found, Sides(both, [4 * np.exp(-0.5), np.sqrt(4 * last)])]


@identity(
    "Anderson's reversal of mixtures: how two times belong together",
    topic=TOPIC,
    formula=r"dx = (f - g^2 \nabla \log p)\, dt + g\, dw,\ dt < 0:\quad"
    r" \mathbb{E}\, x_s x_t = K\, \mathbb{E}\, x_s^2 + k\, \mathbb{E}\, x_s",
    covers=["PODD-90"],
    over="once",
    evidence=ORDER,
    tolerance=1e-5,  # 4 to 32 steps leave terms of the order h^4: at most 6e-7 in forty draws
    control="half of the noise and its drift, an equation with the same marginals",
)
def mixture_reversed(case: Case, wrong: bool) -> Sides:
    """Euler-Maruyama's kernels as matrices on a grid of the line, extrapolated in the step, against the channel."""
    rng, (s, t) = case.rng, (0.3, 0.6)
    law = random_mixture(1, 3, rng, "diagonal").affine(0.6)
    model = ExactModel(law, LinearProcess([[-rng.uniform(0.5, 1.0)]], [[1.2]]))
    k2, g2, f = 0.5 if wrong else 1.0, 1.44, float(model.process.drift(0.0)[0, 0])
    first = model.marginal(t)
    std = np.sqrt(first.cov()[0, 0])
    x = np.linspace(first.mean()[0] - 9 * std, first.mean()[0] + 9 * std, 400)
    spacing = x[1] - x[0]

    def mean_product(steps: int) -> Array:
        """E x_s x_t by steps from t to s, of the densities carried along with x_t's weight."""
        carried = x * np.exp(first.logpdf(x[:, None])) * spacing
        h = (t - s) / steps
        for i in range(steps):
            u = t - i * h
            centre = x - h * (f * x - 0.5 * (1 + k2) * g2 * model.score(x[:, None], u)[:, 0])
            kernel = np.exp(-((x[:, None] - centre) ** 2) / (2 * k2 * g2 * h))
            carried = (kernel / kernel.sum(axis=0)) @ carried
        return np.array(x @ carried)

    found = numeric.extrapolate([mean_product(n) for n in (4, 8, 16, 32)])
    start, step = model.marginal(s), model.process.channel(s, t)
    exact = step.gain[0, 0] * (start.cov()[0, 0] + start.mean()[0] ** 2) + step.offset[0] * start.mean()[0]
    return Sides(found, exact, scale=std * np.sqrt(start.cov()[0, 0]))
