r"""What a regression loss keeps at its optimum, and what a sum of such losses measures.

For every target tau = A x_0 + B eps and every field phi,

    E |phi(x_t) - tau|^2  =  E |phi(x_t) - E[tau | x_t]|^2  +  (A - B alpha / sigma)^2 E tr Cov[x_0 | x_t]

so conditional flow matching is flow matching plus a constant, the minimiser is the posterior mean, and no weight in
time moves it. Integrated over the signal-to-noise ratio the constant of the clean data is information,

    -1/2 int_s^t SNR' mmse dtau  =  I(x_0; x_s) - I(x_0; x_t)  =  h(x_s) - h(x_t) - d log(sigma_s / sigma_t)

for Gaussian data 1/2 sum_i log (1 + s_i^2 SNR_s) / (1 + s_i^2 SNR_t), whatever the schedule between the two ends.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching, Schedule, Trigonometric, VPCosine
from refdiff.validation.cases import LawCase, ModelCase, ProcessCase
from refdiff.validation.conditions import one_gaussian, smooth
from refdiff.validation.expectations import cubics, grid, joint, normal_nodes, small
from refdiff.validation.identities.posterior_scores import targets
from refdiff.validation.identities.tweedie import diagonals
from refdiff.validation.identity import ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import extrapolate, legendre

TOPIC = "Regression losses"


def kept(case: ModelCase, of_x0: Array, of_eps: Array) -> Array:
    """(A - B alpha / sigma)^2 (d,): Cov[A x_0 + B eps | x_t] in units of Cov[x_0 | x_t]; of_x0 is A and of_eps B."""
    a, v = diagonals(case)
    return np.asarray((of_x0 - of_eps * a / np.sqrt(v)) ** 2)


@identity(
    "A conditional regression is the marginal one plus a constant",
    topic=TOPIC,
    formula=r"\mathbb{E}\|\phi - \tau\|^2 = \mathbb{E}\|\phi - \mathbb{E}[\tau \mid x_t]\|^2 "
    r"+ \mathbb{E}\,\mathrm{tr}\,\mathrm{Cov}[\tau \mid x_t], \tau = x_0, \epsilon, \alpha' x_0 + \sigma' \epsilon, v",
    covers=["DMI-62", "DMI-63", "PODB-35", "PODB-54", "PODA-219", "PODB-53", "TOPA-68", "TOPB-51"],
    evidence=QUADRATURE,
    control="the variance of the target for its posterior variance",
    needs=small,
)
def conditional(case: ModelCase, wrong: bool) -> list[Sides]:
    """Moments of (x_0, eps) against sums over x_t with the model's optimum and Bayes' variance."""
    g, j = grid(case, case.t), joint(case, case.t)
    variance = case.law.cov().diagonal() if wrong else g.mean(g.variance)
    sides = []
    for name, (of_x0, of_eps) in targets(case, case.t).items():
        if name == "score":  # has its own check, with the halves and constants of score matching
            continue
        target, optimum = of_x0 * j.x0 + of_eps * j.eps, g.answer(name)
        constant = kept(case, of_x0, of_eps) @ variance
        for phi in cubics(case, float(np.sqrt(j.mean((target**2).sum(axis=1))))):
            left = j.mean(((phi(j.xt) - target) ** 2).sum(axis=1))
            right = g.mean(((phi(g.x) - optimum) ** 2).sum(axis=1)) + constant
            sides.append(Sides(left, right, scale=left + j.mean((target**2).sum(axis=1))))
    return sides


@identity(
    "Irreducible losses by orthogonality",
    topic=TOPIC,
    formula=r"\left(A - \frac{B \alpha}{\sigma}\right)^2 \mathbb{E}\,\mathrm{tr}\,\mathrm{Cov}[x_0 \mid x_t] "
    r"= \mathbb{E}\|\tau\|^2 - \mathbb{E}\|\tau^*\|^2, \quad \mathbb{E}\|\epsilon\|^2 = d",
    covers=["PODB-54", "PODC9-03", "PODA-219", "PODA-314", "PODA-315", "PODB-31", "TOPA-69"],
    evidence=QUADRATURE,
    control="alpha / sigma to the first power",
    needs=small,
    most=8,
)
def irreducible(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' variance on the grid against the second moment of the data less that of the model's optimum."""
    g, law, d = grid(case, case.t), case.law, case.law.dim
    second = law.cov().diagonal() + law.mean() ** 2
    sides = []
    for name, (of_x0, of_eps) in targets(case, case.t).items():
        optimum = g.answer(name)
        whole = (of_x0**2 * second + of_eps**2 * np.ones(d)).sum()
        factor = kept(case, of_x0, of_eps)
        left = (np.sqrt(factor) if wrong else factor) @ g.mean(g.variance)
        sides.append(Sides(left, whole - g.mean((optimum**2).sum(axis=1)), scale=whole))
    return sides


@identity(
    "Irreducible losses of Gaussian data",
    topic=TOPIC,
    formula=r"L(\phi) - \mathbb{E}\|\phi - \tau^*\|^2 = \left(A - \frac{B \alpha}{\sigma}\right)^2 "
    r"\sum_i \frac{s_i^2 \sigma^2}{\alpha^2 s_i^2 + \sigma^2}: \quad \text{straight line } \sum_i s_i^2 / V_i",
    covers=["DMI-63", "PODA-219", "PODB-31", "PODB-54", "PODD-103", "TOPB-75"],
    control="sigma for sigma^2 in the posterior variance",
    needs=one_gaussian,
)
def gaussian_data(case: ModelCase, wrong: bool) -> list[Sides]:
    """Moments of (x_0, eps) for linear fields, with the model's optimum, against eigenvalues, in any dimension."""
    c, j = case.process.coefficients(case.t), joint(case, case.t)
    values = np.maximum(np.linalg.eigvalsh(case.law.cov()), 0.0)
    left = (values * (c.sigma if wrong else c.sigma**2) / (c.alpha**2 * values + c.sigma**2)).sum()
    sides = []
    for name, (of_x0, of_eps) in targets(case, case.t).items():
        target, optimum = of_x0 * j.x0 + of_eps * j.eps, getattr(case.model, name)(j.xt, case.t)
        for phi in cubics(case, float(np.sqrt(j.mean((target**2).sum(axis=1)))), degree=1):
            losses = [j.mean(((phi(j.xt) - aim) ** 2).sum(axis=1)) for aim in (target, optimum)]
            constant = (of_x0 - of_eps * c.alpha / c.sigma) ** 2 * left
            sides.append(Sides(losses[0] - losses[1], constant, scale=losses[0] + j.mean((target**2).sum(axis=1))))
    if isinstance(case.process.schedules[0], FlowMatching):
        velocity = case.model.velocity(j.xt, case.t) - (j.eps - j.x0)
        whole = (1 - case.t) ** 2 * values + case.t**2
        sides.append(Sides(j.mean((velocity**2).sum(axis=1)), (values / whole).sum()))
    return sides


@identity(
    "From pure noise the denoiser answers the mean",
    topic=TOPIC,
    formula=r"\alpha_T = 0: \quad \mathbb{E}[x_0 \mid x_T = x] = \mathbb{E} x_0 \ \forall x",
    covers=["PODC10-01"],
    over="laws",
    control="at 0.9 T",
)
def at_pure_noise(case: LawCase, wrong: bool) -> list[Sides]:
    """Bayes' posterior mean at the end of three schedules against the mean of the data."""
    schedules: list[Schedule] = [FlowMatching(), VPCosine(), Trigonometric()]
    mean, sides = np.broadcast_to(case.law.mean(), case.x.shape), []
    for schedule in schedules:
        t = (0.9 if wrong else 1.0) * schedule.T
        sides.append(
            Sides(ExactModel(case.law, schedule).denoiser(case.x, t), mean, scale=np.abs(case.law.means).max())
        )
    return sides


@identity(
    "The mean is the least-squares constant",
    topic=TOPIC,
    formula=r"\mathbb{E}\|x - c\|^2 = \mathrm{tr}\,\mathrm{Cov}\,x + \|c - \mathbb{E} x\|^2",
    covers=["TOPA-68"],
    over="laws",
    control="|c| in place of |c - E x|",
    needs=lambda case: case.law.count * case.law.dim < 10000,
)
def least_squares(case: LawCase, wrong: bool) -> Sides:
    """An exact sum of squares over nodes of every component, against the mean and covariance of the law."""
    law = case.law
    z, w = normal_nodes(law.dim)
    labels = np.repeat(np.arange(law.count), len(z))
    nodes = law.means[labels] + law.covariances.colour(np.tile(z, (law.count, 1)), labels)
    c = law.mean() + case.rng.standard_normal((3, law.dim))
    squares = ((nodes[:, None, :] - c) ** 2).sum(axis=2)
    gap = c if wrong else c - law.mean()
    return Sides((np.tile(w, law.count) * law.weights[labels]) @ squares, np.trace(law.cov()) + (gap**2).sum(axis=1))


@identity(
    "Weights in time leave the optimum where it is",
    topic=TOPIC,
    formula=r"\arg\min_v \sum_t w(t) \mathbb{E}\|v(x_t, t) - U_t\|^2 = \mathbb{E}[U_t \mid x_t] \ \forall w > 0",
    covers=["DMI-77", "DMI-64"],
    control="one set of coefficients for both times: the class is restricted and its optimum moves with w",
    needs=one_gaussian,
)
def weights_in_time(case: ModelCase, wrong: bool) -> list[Sides]:
    """Weighted least squares over exact nodes at two times, features (x_t, 1) at each, against the model's velocity."""
    times = (case.s, case.t)
    blocks, right, roots = [], [], []
    for k, t in enumerate(times):
        j, c = joint(case, t), case.process.coefficients(t)
        scale = np.sqrt(np.diagonal(case.model.marginal(t).cov()))
        features = np.concatenate([(j.xt - case.model.marginal(t).mean()) / scale, np.ones((len(j.xt), 1))], axis=1)
        empty = np.zeros_like(features)
        blocks.append(features if wrong else np.concatenate([features, empty][:: 1 - 2 * k], axis=1))
        right.append((c.dalpha * j.x0 + c.dsigma * j.eps) / np.abs(c.dsigma))
        roots.append(np.sqrt(j.weights))
    sides = []
    for weights in case.rng.uniform(0.1, 2.0, (2, 2)):
        root = np.concatenate([r * np.sqrt(w) for r, w in zip(roots, weights, strict=True)])[:, None]
        optimum = np.linalg.lstsq(root * np.concatenate(blocks), root * np.concatenate(right), rcond=None)[0]
        for t, features in zip(times, blocks, strict=True):
            nodes = joint(case, t).xt
            fitted = features @ optimum * np.abs(case.process.coefficients(t).dsigma)
            sides.append(Sides(fitted, case.model.velocity(nodes, t)))
    return sides


def snr(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """alpha^2 / sigma^2 and its rate 2 lambda' SNR at times t (m,)."""
    value = np.exp(2 * schedule.log_snr(t))
    return value, 2 * schedule.dlog_snr(t) * value


@identity(
    "The continuous-time loss is mutual information",
    topic=TOPIC,
    formula=r"-\tfrac12 \int_s^t \mathrm{SNR}'(\tau)\, \mathbb{E}\|x_0 - x^*(x_\tau)\|^2 d\tau "
    r"= h(x_s) - h(x_t) - d \log(\sigma_s / \sigma_t)",
    covers=["PODB-10"],
    evidence=QUADRATURE,
    control="without the 1/2",
    needs=lambda case: case.law.dim == 1 and small(case) and smooth(case),
)
def information(case: ModelCase, wrong: bool) -> Sides:
    """The time integral of Bayes' mean squared error on grids, against differential entropies at the two ends."""
    schedule, (nodes, weights) = case.process.schedules[0], legendre(40)
    times = case.s + (case.t - case.s) * nodes
    _, rate = snr(schedule, times)
    mmse = np.array([(g := grid.__wrapped__(case, float(t))).mean(g.variance)[0] for t in times])
    loss = -(1.0 if wrong else 0.5) * (case.t - case.s) * weights @ (rate * mmse)
    entropies = []
    for t in (case.s, case.t):
        g = grid(case, t)
        entropies.append(-g.mean(case.model.log_density(g.x, t)) - np.log(schedule.sigma(t)))
    return Sides(loss, entropies[0] - entropies[1], scale=abs(loss) + max(map(abs, entropies)))


@identity(
    "The discrete loss tends to the continuous one",
    topic=TOPIC,
    formula=r"n \Big[\tfrac12 \sum_i (\mathrm{SNR}_i - \mathrm{SNR}_{i+1})\, \mathrm{mmse}_{i+1} - L_\infty\Big] "
    r"\to \tfrac{t - s}{4} \int_s^t \mathrm{SNR}'^2 \sum_i \frac{s_i^4}{(1 + s_i^2 \mathrm{SNR})^2} d\tau",
    covers=["PODB-10"],
    over="processes",
    evidence=ORDER,
    control="the mean squared error at the cleaner end of each step",
    needs=smooth,
)
def discrete_loss(case: ProcessCase, wrong: bool) -> Sides:
    """Sums over 64 to 512 equal steps less the closed form, extrapolated in their number, against the integral."""
    values, (nodes, weights) = case.rng.uniform(0.2, 4.0, 3) ** 2, legendre(64)

    def mmse(ratio: Array) -> Array:
        return np.asarray((values / (1 + np.multiply.outer(ratio, values))).sum(axis=-1))

    ratio, rate = snr(case.schedule, case.s + (case.t - case.s) * nodes)
    slopes = ((values / (1 + np.multiply.outer(ratio, values))) ** 2).sum(axis=-1)
    constant = (case.t - case.s) ** 2 / 4 * weights @ (rate**2 * slopes)
    found = []
    for n in (64, 128, 256, 512):
        ratios = snr(case.schedule, np.linspace(case.s, case.t, n + 1))[0]
        total = -0.5 * np.diff(ratios) @ mmse(ratios[:-1] if wrong else ratios[1:])
        exact = np.log((1 + values * ratios[0]) / (1 + values * ratios[-1])).sum() / 2
        found.append(np.asarray(n * (total - exact)))
    return Sides(extrapolate(found), constant)


@identity(
    "The conditional divergence is the marginal one plus information",
    topic=TOPIC,
    formula=r"\mathbb{E}\,KL(p(x_s \mid x_t, x_0) \| p_\phi) - \mathbb{E}\,KL(p(x_s \mid x_t) \| p_\phi) "
    r"= I(x_0; x_s \mid x_t) = I(x_0; x_s) - I(x_0; x_t)",
    covers=["PODB-53"],
    evidence=QUADRATURE,
    control="without the second information",
    needs=lambda case: case.law.dim == 1 and small(case),
)
def divergences(case: ModelCase, wrong: bool) -> list[Sides]:
    """Two Gaussian models: closed divergences over (x_0, eps) and sums over (x_s, x_t), against entropies."""
    g, j, step = grid(case, case.s), joint(case, case.t), case.process.channel(case.s, case.t)
    here, there = case.process.coefficients(case.s), case.process.coefficients(case.t)
    a, b = step.gain, step.noise
    ratio = here.sigma**2 / there.sigma**2
    of_x0, of_xt, variance = here.alpha * b / there.sigma**2, a * ratio, b * ratio
    # x_t = a x_s + sqrt(b) w on its own nodes: sqrt(b) may be far below the width of p_s
    w = np.linspace(-8.5, 8.5, 103)
    normal = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi)
    xs, xt = np.repeat(g.x, len(w), axis=0), (a * g.x + np.sqrt(b) * w).reshape(-1, 1)
    mass = np.multiply.outer(g.weights, normal * (w[1] - w[0])).ravel()
    log_early, log_late = case.model.log_density(xs, case.s), case.model.log_density(xt, case.t)
    log_step = -((xt - a * xs)[:, 0] ** 2) / (2 * b) - np.log(2 * np.pi * b) / 2
    reverse = log_early + log_step - log_late
    entropies = [-(mass @ log_early) - np.log(here.sigma), -(mass @ log_late) - np.log(there.sigma)]
    gap = entropies[0] - (0.0 if wrong else entropies[1])
    sides = []
    for phi in cubics(case, float(np.sqrt(case.model.marginal(case.s).cov()[0, 0]))):
        spread = variance * case.rng.uniform(0.5, 2.0)
        gaussian = -((xs - phi(xt))[:, 0] ** 2) / (2 * spread) - np.log(2 * np.pi * spread) / 2
        closed = (variance / spread - 1 + np.log(spread / variance)) / 2
        error = j.mean((of_x0 * j.x0 + of_xt * j.xt - phi(j.xt))[:, 0] ** 2) / (2 * spread)
        size = np.abs(closed) + error + mass @ np.abs(reverse)
        sides.append(Sides(closed + error - mass @ (reverse - gaussian), gap, scale=size))
    return sides
