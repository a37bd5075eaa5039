r"""What the drawings of noising processes and flows show, as numbers, and the recipe they stand for.

    4.1   one step has the mean and the noise of the kernel to first order
    4.2   the flow's lines are quantiles, not the means of the noisy paths from where they start
    4.3..4.5   f = 0, g = sqrt(2 t): p_t has S_k + t^2 I; from the prior N(0, T^2) both ways end a known distance away
    6.1   v = alpha' x + sigma' eps;   6.2   flow, equations of any noise and ancestral steps share their marginals
    B.1, B.2   one map, two in turn, a flow and an equation move one density; cells stretch by the Jacobian

Sources: PODA-417, PODB-68, PODD-78, TOPA-60, TOPA-70.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, cdf, quantile, ring, wasserstein
from refdiff.dynamics import flow, flow_jacobian, gaussian_flow
from refdiff.model import ExactModel
from refdiff.path_measures import AffineScore, coupled_law, wasserstein_bound
from refdiff.processes import Chain
from refdiff.schedules import VEPower, VPLinear
from refdiff.stochastic import forward_equation
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase, ProcessCase, with_gaussian_data
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.wasserstein_bounds import below
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import line, smallest_std

TOPIC = "Figures of processes"
PEAKS = GaussianMixture.isotropic([[-1.5], [1.0]], [0.1, 0.2], [0.4, 0.6])


@identity(
    "One noising step, as it is drawn",
    topic=TOPIC,
    formula=r"x_{t + h} = x_t + f x_t h + g \sqrt{h}\, \epsilon:\quad \frac{K - 1}{h} \to f,\ \frac{\Sigma}{h} \to g^2",
    covers=["PODA-417"],
    over="processes",
    evidence=ORDER,
    control="noise of the deviation g h",
    needs=smooth,
    most=12,
)
def one_step(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Figure 4.1: exact kernels over shorter and shorter steps against the equation's drift and noise."""
    process, t = case.process, case.t
    equation = forward_equation(process, 1)
    drift = float(equation.drift_at(np.ones((1, 1)), t)[0, 0])
    noise = float(np.asarray(equation.covariance_rate(np.ones((1, 1)), t)))
    steps = 0.02 * min(t, process.T - t) / 2.0 ** np.arange(4)
    found = [process.channel(t, t + h) for h in steps]
    slope = numeric.extrapolate([np.asarray((float(one.gain) - 1) / h) for one, h in zip(found, steps, strict=True)])
    power = 2 if wrong else 1
    spread = numeric.extrapolate([np.asarray(float(one.noise) / h**power) for one, h in zip(found, steps, strict=True)])
    return [Sides(slope, drift, scale=abs(drift) + 1 / t), Sides(spread, noise)]


@identity(
    "The flow's lines are quantiles, and no means of paths",
    topic=TOPIC,
    formula=r"F_t(\Psi_{0 \to t}(x)) = F_0(x);\qquad \mathbb{E}[x_t | x_0] = \alpha_t x_0 \ne \Psi_{0 \to t}(x_0)",
    covers=["PODA-417"],
    over="once",
    evidence=QUADRATURE,
    control="the mean of the paths that start at the point",
    most=2,
)
def lines_of_the_flow(case: Case, wrong: bool) -> list[Sides]:
    """Figure 4.2: a bimodal law on the line; at T all lines have gone to one normal."""
    model = ExactModel(PEAKS, VPLinear())
    x = PEAKS.sample(4, case.rng)
    t = 0.4
    end, law = flow(model, x, 0.0, t).x, model.marginal(t)
    mean = np.stack([model.process.kernel(t).at(point).mean() for point in x])
    alpha = model.affine.coefficients(1.0).alpha
    # what is left of the two modes at T
    spread = np.abs(model.marginal(1.0).logpdf(x) - Gaussian([0.0], 1.0).logpdf(x)).max()
    return [
        Sides(cdf(law, mean if wrong else end), cdf(PEAKS, x), scale=1.0),
        below(float(spread), 20 * float(alpha) * float(np.abs(x).max() + 1)),
    ]


@identity(
    "From the prior to the data: how far the drawn samplers end from it",
    topic=TOPIC,
    formula=r"f = 0,\ g = \sqrt{2 t}:\quad p_t = \sum_k w_k \mathcal{N}(m_k, S_k + t^2 I),\quad"
    r" \mathcal{W}_2[p_0, q_0] \le I_T\, \mathcal{W}_2[p_T, \mathcal{N}(0, T^2 I)]",
    covers=["PODA-417"],
    over="once",
    evidence=QUADRATURE,
    control="p_T taken for the prior: nothing is said to be left out",
    most=1,
)
def from_the_prior(case: Case, wrong: bool) -> list[Sides]:
    """Figures 4.3 to 4.5: the flow of prior points against quantiles; and Gaussian data, where both ways are closed."""
    end = case.rng.uniform(4.0, 6.0)
    model = ExactModel(PEAKS, VEPower(1.0, T=end))
    law = model.marginal(end)
    share = case.rng.uniform(0.05, 0.95, (3, 1))
    prior = Gaussian([0.0], end**2)
    start = quantile(prior, share[:, 0])
    ended = flow(model, start, end, 0.0).x
    levels = np.asarray(cdf(prior if wrong else law, start)).reshape(-1)
    expected = quantile(PEAKS, levels)
    if wrong:
        return [Sides(ended, expected, scale=1.0)]
    one = ExactModel(Gaussian([0.7, -0.4], [0.2, 0.5]), VEPower(1.0, T=end))
    exact, wide = AffineScore.exact(one), Gaussian([0.0, 0.0], end**2)
    apart = wasserstein(one.marginal(end), wide)
    found = [coupled_law(one, exact, stochasticity=k, prior=wide) for k in (0.0, 1.0)]
    bounds = [wasserstein_bound(one, exact, stochasticity=k, prior=wide) for k in (0.0, 1.0)]
    return [
        Sides(law.covariances.dense(1)[:, 0, 0], np.array([0.1, 0.2]) + end**2),
        Sides(ended, expected, scale=1.0),
        *(below(pair.wasserstein, bound.value) for pair, bound in zip(found, bounds, strict=True)),
        # along the noisier axis I_T is sqrt((S + 0) / (S + T^2)) to the power 1 + k^2
        Sides([b.growth for b in bounds], [np.sqrt(0.5 / (0.5 + end**2)), 0.5 / (0.5 + end**2)]),
        Sides(bounds[0].prior, bounds[0].growth * apart),
    ]


@identity(
    "The diamond of predictions, with rates for the velocity",
    topic=TOPIC,
    formula=r"v^* = \alpha_t' x^* + \sigma_t' \epsilon^*,\quad x_t = \alpha_t x^* + \sigma_t \epsilon^*,\quad"
    r" \epsilon^* = -\sigma_t s^*",
    covers=["PODB-68"],
    refutes=["PODB-68"],
    control="v = alpha x + sigma eps, as captioned, which is x_t",
    needs=lambda case: not case.process.per_axis,
)
def diamond(case: ModelCase, wrong: bool) -> list[Sides]:
    """Figure 6.1: the model's velocity from Bayes' denoiser, and back from velocity and x_t to both ends."""
    c, model, x = case.process.coefficients(case.t), case.model, case.x
    clean = model.denoiser(x, case.t)
    noise, v = (x - c.alpha * clean) / c.sigma, model.velocity(x, case.t)
    guess = c.alpha * clean + c.sigma * noise if wrong else c.dalpha * clean + c.dsigma * noise
    size = np.abs(c.dalpha * clean).max() + np.abs(c.dsigma / c.sigma) * (np.abs(x).max() + np.abs(clean).max())
    # two equations for two unknowns, of determinant alpha' sigma - alpha sigma'
    turn = c.dalpha * c.sigma - c.alpha * c.dsigma
    back = (c.sigma * v - c.dsigma * x) / turn
    return [
        Sides(v, guess, scale=size),
        Sides(back, clean, scale=np.abs(c.sigma / turn) * size + np.abs(c.dsigma / turn) * np.abs(x).max()),
    ]


@identity(
    "One density, three ways to it",
    topic=TOPIC,
    formula=r"\text{flow, equations of any } \gamma,\ \text{ancestral steps:}\quad p_t \to p_s;\qquad"
    r" F_s(a) = \int p_t(x)\, P(x_s \le a | x_t = x)\, dx",
    covers=["PODB-68", "PODA-417"],
    over="processes",
    evidence=QUADRATURE,
    control="ancestral steps with the posterior's variance alone, which lacks that of the data",
    needs=lambda case: smooth(case) and case.s > 0.1 * case.process.T,
    most=2,
)
def three_ways(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Figures 6.2, 4.3 and 4.5: Gaussian data, all three in closed form; a mixture, the exact kernels by a sum."""
    wide, process, s, t = with_gaussian_data(case, 2), case.process, case.s, case.t
    model = wide.model
    target, exact = model.marginal(s), AffineScore.exact(model)
    data = Gaussian(wide.law.mean(), wide.law.cov())
    laws: list[GaussianMixture] = [gaussian_flow(data, process, t, s).push(model.marginal(t))]
    laws += [coupled_law(model, exact, stochasticity=k, start=s, end=t).generated for k in (0.6, 1.0)]
    line_model = ExactModel(PEAKS, process)
    one, other = line_model.marginal(s), line_model.marginal(t)
    step = process.channel(s, t).reverse(target)
    if wrong:  # what is left of it for one data point
        step = process.channel(s, t).reverse(process.kernel(s).push(Gaussian(wide.law.mean(), 0.0)))
    laws.append(step.push(model.marginal(t)))
    x, cell = line(other)
    x, cell = x[::4], 4 * cell  # steps of an eighth of a deviation
    at = quantile(one, np.array([0.2, 0.5, 0.8]))
    weight = np.exp(other.logpdf(x)) * cell
    channel = process.channel(s, t)
    kernels = [channel.posterior(one, point) for point in x]
    levels = weight @ np.stack([np.asarray(cdf(kernel, at)).reshape(-1) for kernel in kernels])
    return [
        *(Sides(found.cov(), target.cov()) for found in laws),
        *(Sides(found.mean(), target.mean(), scale=np.abs(target.mean()).max() + 1e-3) for found in laws),
        Sides(levels, np.asarray(cdf(one, at)).reshape(-1)),
    ]


@identity(
    "One map, two in turn, a flow and an equation move one density",
    topic=TOPIC,
    formula=r"p_1 = \frac{p_0 \circ \Psi^{-1}}{|\det D\Psi|},\quad \Psi = \Psi_{s \to t} \circ \Psi_{0 \to s},\quad"
    r" \log |\det D\Psi| = \int \nabla \cdot v\, dt,\quad \partial_t p = -\nabla \cdot (f p) + \tfrac12 g^2 \Delta p",
    covers=["PODD-78"],
    over="once",
    evidence=DERIVATIVE,
    control="the density multiplied by the determinant",
    most=1,
)
def moved_density(case: Case, wrong: bool) -> list[Sides]:
    """Figures B.1 and B.2: points, cells and density of a law in the plane; cells by a stencil of the flow."""
    model, s, t = ExactModel(ring(4, 2.0, 0.5), VPLinear()), 0.2, 0.6
    x = model.sample(2, s, case.rng)
    middle = 0.5 * (s + t)
    moved = flow_jacobian(model, x, s, t, rtol=1e-9)
    change = model.log_density(moved.x, t) - model.log_density(x, s)
    volume = np.linalg.slogdet(moved.jacobian)[1]
    if wrong:
        return [Sides(change, volume, scale=np.abs(change).max() + 1)]
    halfway = flow_jacobian(model, x, s, middle, rtol=1e-9)
    onward = flow_jacobian(model, halfway.x, middle, t, rtol=1e-9)
    h = 0.02 * smallest_std(model.marginal(s))
    # the stencil's sixteen neighbours of the first point go with the flow together
    offsets = np.array([k * h * e for e in np.eye(2) for k in (1, 2, 3, 4, -1, -2, -3, -4)])
    ends = flow(model, x[0] + offsets, s, t).x.reshape(2, 2, 4, 2)
    cells = np.einsum("k,jki->ij", numeric.FIRST, ends[:, 0] - ends[:, 1]) / h
    here = model.marginal(s)
    c = model.affine.coefficients(s)
    # the equation: rate / p = -d f - f x.s + g^2/2 (|s|^2 + tr H)
    score = here.score(x)
    curvature = np.trace(here.hessian(x), axis1=1, axis2=2) + (score**2).sum(axis=1)
    rate = -2 * c.f - c.f * (x * score).sum(axis=1) + 0.5 * c.g2 * curvature
    size = np.abs(c.f) * (2 + np.abs(x * score).sum(axis=1)) + c.g2 * np.abs(curvature)
    return [
        Sides(change, -volume, scale=np.abs(change).max() + 1),
        Sides(onward.jacobian @ halfway.jacobian, moved.jacobian),
        Sides(onward.x, moved.x),
        Sides(cells, moved.jacobian[0]),
        Sides(model.log_density_rate(x, s), rate, scale=size),
    ]


@identity(
    "Why the noise of a step is of the size of its root",
    topic=TOPIC,
    formula=r"\operatorname{Var} \sum_{i=1}^{1/h} h^q \epsilon_i = h^{2 q - 1}:\quad q = 1 \to 0,\ q = \tfrac12 \to 1,"
    r"\ q < \tfrac12 \to \infty",
    covers=["TOPA-60"],
    refutes=["TOPA-60"],
    over="once",
    control="noises of the size h^(1/2) that cancel, as printed",
)
def root_of_the_step(case: Case, wrong: bool) -> list[Sides]:
    """Chains of 1/h links composed: exact variances."""
    del case
    sides = []
    for count in (10, 40, 160):
        h = 1 / count
        for power in (1.0, 0.5, 0.25):
            chain = Chain([Channel(1.0, 0.0, h ** (2 * power))] * count)
            limit = h ** (2 * power - 1)
            sides.append(Sides(float(chain.channel(0, count).noise), h if wrong and power == 0.5 else limit))
    return sides


@identity(
    "The recipe: an equation, its kernel, the score, and back",
    topic=TOPIC,
    formula=r"\dot\alpha = f \alpha,\ \dot{\sigma^2} = 2 f \sigma^2 + g^2;\qquad dx = [f x - g^2 \nabla \log p_t]\,dt"
    r" + g\,dw:\quad p_t \to p_s",
    covers=["TOPA-70"],
    over="processes",
    evidence=QUADRATURE,
    control="half of the score's term beside all of the noise",
    needs=lambda case: smooth(case) and case.s < 0.5 * case.process.T,
    most=6,
)
def recipe(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The kernel by DOP853 from f and g alone; the law that the reverse equation with the exact score leads to."""
    wide = with_gaussian_data(case, 2)
    process, model, s, t = case.process, wide.model, case.s, case.t

    def rate(tau: float, state: Array) -> Array:
        u = s * (t / s) ** tau
        f, g2 = float(process.drift(u)), float(process.diffusion(u))
        return np.asarray(u * np.log(t / s) * np.array([f * state[0], 2 * f * state[1] + g2]))

    gain, noise = solve_ivp(rate, (0, 1), [1.0, 0.0], "DOP853", rtol=1e-11, atol=1e-14).y[:, -1]
    step = process.channel(s, t)
    exact = AffineScore.exact(model)
    used = AffineScore(lambda u: 0.5 * exact.precision_at(u), exact.centre_at, 2) if wrong else exact
    found = coupled_law(model, used, stochasticity=1.0, start=s, end=t).generated
    return [
        Sides(gain, step.gain),
        Sides(noise, step.noise),
        Sides(found.cov(), model.marginal(s).cov()),
    ]
