r"""Analytic-DPM and its relatives: tables and moments of the sampler against exact laws, and against the regressions
that the papers fit.

    x_t = kappa x_s + gamma D + (c^2 + gamma^2 V)^(1/2) z

With the exact V a step from p_s has the mean and the (averaged) covariance of p_t, for every share c of the posterior's
noise. V comes from `averaged_covariance` (Bayes' covariances summed over the components of p_s) or, for a state, from
`conditional_variance`; the other side from the noise prediction on a grid over p_s, from exact cubature over (x_0, eps)
with a polynomial D, or from raw moments of the posterior law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian
from refdiff.samplers.analytic import analytic_dpm, state_dependent_dpm
from refdiff.samplers.analytic_moments import averaged_covariance, conditional_variance
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.propagation import propagate
from refdiff.validation.cases import ModelCase, ProcessCase
from refdiff.validation.expectations import cubics, grid, joint, small
from refdiff.validation.identities.ancestral_samplers import PARTS, descending
from refdiff.validation.identity import QUADRATURE, Sides, identity

TOPIC = "Analytic-DPM as a sampler"
SHARES = (0.0, 0.6, 1.0)

Denoiser = Callable[[Array, float], Array]


def reduced(matrix: Array, shape: str) -> Array:
    """The average variance, the variances (d,), or the whole matrix (d, d), for shape isotropic, diagonal or full."""
    variances = np.diagonal(matrix)
    return np.asarray({"isotropic": variances.mean(), "diagonal": variances, "full": matrix}[shape])


@identity(
    "A step of Analytic-DPM keeps the covariance of the marginals",
    topic=TOPIC,
    formula=r"\mathrm{Cov}(\kappa x_s + \gamma D) + c^2 + \gamma^2 \Sigma_s = \mathrm{Cov}\,x_t,\quad"
    r"\Sigma_s = \mathbb{E}\,\mathrm{Cov}[x_0 \mid x_s]:\ \text{in full, on the diagonal, in the mean}",
    covers=["TOPA-90", "TOPA-91", "TOPA-101", "TOPA-102", "TOPA-103", "PODC9-16"],
    evidence=QUADRATURE,
    control="the plug-in sampler, without gamma^2 times what D leaves unknown",
    needs=small,
    most=6,
)
def kept_covariance(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """The weights of the tables on a grid over p_s, their noise added, against the exact law of x_t."""
    nodes, dim, target = grid(case, case.t), case.law.dim, case.model.marginal(case.s)
    left = averaged_covariance(case.model, case.t)
    denoised = nodes.answer("denoiser")
    for eta in SHARES:
        for shape in ("isotropic", "diagonal", "full"):
            given = reduced(left, shape) * (0.0 if wrong else 1.0)
            table = analytic_dpm(case.process, [case.t, case.s], moments=given[None], eta=eta)
            moved = table.states[1, 0] * nodes.x + table.outputs[1, 0] * denoised
            centred = moved - target.mean()
            spread = nodes.square(centred)
            root = table.noise[1, 0] if table.stochastic else np.zeros(())
            noise = root @ root.T if root.ndim == 2 else np.diag(np.broadcast_to(root**2, (dim,)))
            yield Sides(nodes.mean(centred), np.zeros(dim), scale=np.abs(centred).max())
            if shape != "isotropic" or not case.process.per_axis:  # axes of their own do not share one average
                size = np.abs(target.cov()).max()
                yield Sides(reduced(spread + noise, shape), reduced(target.cov(), shape), scale=size)


@identity(
    "Averaged covariance of the sampler, from noise predictions",
    topic=TOPIC,
    formula=r"\Sigma_t = \tfrac{\sigma_t^2}{\alpha_t^2} (I - \mathbb{E}\,\epsilon^* \epsilon^{*\top}),\quad"
    r" \mathrm{diag}:\ 1 - \mathbb{E}\,\epsilon^{*2}\ \text{axis by axis}"
    r" = \mathrm{Cov}\,x_0 - \mathrm{Cov}\,D(x_t)",
    covers=["TOPA-95", "TOPA-98", "TOPA-99", "TOPA-101", "TOPA-102"],
    evidence=QUADRATURE,
    control="sigma^2 in place of sigma^2 / alpha^2",
    needs=small,
    most=6,
)
def from_noise(case: ModelCase, wrong: bool) -> list[Sides]:
    """Bayes' covariances summed by `averaged_covariance`, against the noise and the denoiser on a grid over p_t."""
    nodes, c, d = grid(case, case.t), case.process.coefficients(case.t), case.law.dim
    found = averaged_covariance(case.model, case.t)
    ratio = np.broadcast_to(c.sigma / (1.0 if wrong else c.alpha), (d,))
    eps, centred = nodes.answer("noise"), nodes.answer("denoiser") - case.law.mean()
    second = nodes.square(eps)
    explained = nodes.square(centred)
    return [
        Sides(found, np.outer(ratio, ratio) * (np.eye(d) - second), scale=ratio.max() ** 2),
        Sides(np.diagonal(found), ratio**2 * (1 - nodes.mean(eps**2)), scale=ratio.max() ** 2),
        Sides(found, case.law.cov() - explained, scale=np.abs(case.law.cov()).max()),
    ]


@identity(
    "Analytic-DPM is exact on Gaussian data",
    topic=TOPIC,
    formula=r"p_0 = \mathcal{N}(m, S):\quad \text{output of any grid, for any}\ \eta\ = p_t",
    covers=["TOPA-91", "TOPA-103", "PODC9-16"],
    control="the moments of the end of each step in place of those of its start",
    needs=lambda case: case.law.count == 1,
    most=6,
)
def exact_on_gaussians(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """The propagated law of four uneven steps with the full covariance, against p_t."""
    times = case.s + PARTS * (case.t - case.s)
    for eta in SHARES:
        table = analytic_dpm(case.process, times, law=case.law, covariance="full", eta=eta)
        if wrong:
            late = [averaged_covariance(case.model, t) for t in times[1:]]
            table = analytic_dpm(case.process, times, moments=late, eta=eta)
        found = propagate(table, case.law)
        target = found.target()
        yield Sides(found.output.mean(), target.mean(), scale=np.abs(target.mean()).max() + 1)
        yield Sides(found.output.cov(), target.cov())


@identity(
    "Analytic-DPM between its two ends, and clipped",
    topic=TOPIC,
    formula=r"V = 0:\ \tilde\beta;\quad p_0 = \mathcal{N}(0, I):\ \beta\ (\text{VP});\quad "
    r"V = \tfrac{\sigma_s^2}{\alpha_s^2}:\ \tfrac{\sigma_{s|t}^2}{\alpha_{s|t}^2};\quad "
    r"V = \tfrac{(b-a)^2}{4}:\ \tilde\beta + \gamma^2 \tfrac{(b-a)^2}{4}",
    covers=["TOPA-88", "TOPA-91", "TOPA-96", "TOPA-99"],
    over="processes",
    control="beta as the upper end, which only data of variance at most 1 respect",
    most=6,
)
def ends(case: ProcessCase, wrong: bool) -> Iterator[Sides]:
    """Noise of the tables for one point, standard normal data and estimates beyond all bounds."""
    times = descending(case)
    kernel, beta = ddpm(case.process, times), ddpm(case.process, times, variance="beta")
    yield Sides(analytic_dpm(case.process, times, law=Empirical([[0.4]])).noise, kernel.noise)
    c = case.schedule.coefficients(times)
    if np.abs(c.alpha**2 + c.sigma**2 - 1).max() < 1e-12:
        yield Sides(analytic_dpm(case.process, times, law=Gaussian([0.3], 1.0)).noise, beta.noise)
    wild = analytic_dpm(case.process, times, moments=np.full(4, 1e30))
    forward = [case.process.channel(t, s) for s, t in pairwise(times.tolist())]
    ratio = np.array([1.0 if wrong else float(step.gain) for step in forward])
    top = np.array([float(step.noise) for step in forward]) / ratio**2
    yield Sides(wild.noise[1:, 0] ** 2 / top, np.ones(4))
    bound = 0.01 * float(np.min((c.sigma / c.alpha) ** 2))
    ranged = analytic_dpm(case.process, times, moments=np.full(4, 1e30), data_range=(1.0, 1.0 + 2 * np.sqrt(bound)))
    expected = kernel.noise[1:, 0] ** 2 + kernel.outputs[1:, 0] ** 2 * bound
    yield Sides(ranged.noise[1:, 0] ** 2 / expected, np.ones(4))


def polynomial(case: ModelCase, degree: int) -> Denoiser:
    """A denoiser that is a polynomial of degree 1 or 3 on the scale of the law: wrong, and easy to integrate."""
    size = float(np.sqrt(np.trace(case.law.cov()) / case.law.dim))
    field = cubics(case, 0.3 * size, degree)[0]
    return lambda x, _: field(x) + case.law.mean()


@identity(
    "Moments of a denoiser that is not exact",
    topic=TOPIC,
    formula=r"\tfrac{1}{d} \mathbb{E}\|x_0 - \bar\mu_\theta\|^2"
    r" = \tfrac{1}{d} \mathbb{E}\,\mathrm{tr}\,\mathrm{Cov}[x_0|x_t]"
    r" + \tfrac{1}{d} \mathbb{E}\|\bar\mu_\theta - \bar\mu^*\|^2"
    r" = \tfrac{\sigma_t^2}{\alpha_t^2 d}\,\mathbb{E}\|\epsilon - \epsilon_\theta\|^2,\quad"
    r"\bar\sigma^2 = \tfrac{\sigma_t^2}{\alpha_t^2} \mathbb{E} (\epsilon - \epsilon_\theta)^{2}\ \text{axis by axis}",
    covers=["TOPA-104", "TOPA-105", "TOPA-106"],
    refutes=["TOPA-106"],
    evidence=QUADRATURE,
    control="the squared norm in place of the elementwise square, as (8.10) prints: the same in one dimension only",
    needs=lambda case: case.law.dim <= 2 and case.law.count <= 8,
    most=6,
)
def imperfect_mean(case: ModelCase, wrong: bool) -> list[Sides]:
    """`averaged_covariance` with a cubic denoiser, against exact cubature over (x_0, eps) and the likelihood."""
    theta, c, d = polynomial(case, 3), case.process.coefficients(case.t), case.law.dim
    nodes = joint(case, case.t)
    found = averaged_covariance(case.model, case.t, denoiser=theta)
    clean = theta(nodes.xt, case.t)
    residual, eps = nodes.x0 - clean, nodes.eps - (nodes.xt - c.alpha * clean) / c.sigma
    squares = nodes.mean(eps**2)
    ratio = np.broadcast_to((c.sigma / c.alpha) ** 2, (d,))
    size = np.abs(found).max()
    # E[-log N(x_0; mu, v I)] at the best v
    v = np.trace(found) / d
    loss = nodes.mean((residual**2).sum(axis=1)) / (2 * v) + d / 2 * np.log(2 * np.pi * v)
    return [
        Sides(found, nodes.square(residual), scale=size),
        Sides(np.diagonal(found), ratio * (squares.sum() if wrong else squares), scale=size),
        Sides(loss, d / 2 * (1 + np.log(2 * np.pi * v)), scale=d + abs(loss)),
    ]


def shifted(case: ModelCase) -> Denoiser:
    """A denoiser that is ten per cent off."""
    return lambda x, t: 0.9 * case.model.denoiser(x, t) + 0.1 * case.law.mean() + 0.05


@identity(
    "NPR-DPM and SN-DPM: variances given the state",
    topic=TOPIC,
    formula=r"\mathrm{NPR}:\ \tfrac{\sigma^2}{\alpha^2} \mathbb{E}[(\epsilon-\epsilon_\theta)^2 | x_t]"
    r" = \mathbb{E}[(x_0-\bar\mu)^2|x_t],\quad"
    r"\mathrm{SN}:\ \tfrac{\sigma^2}{\alpha^2} (\mathbb{E}[\epsilon^2|x_t] - \epsilon_\theta^2),\quad"
    r"\mathrm{NPR} - \mathrm{SN} = \tfrac{2\sigma^2}{\alpha^2} \epsilon_\theta (\epsilon_\theta - \epsilon^*)",
    covers=["TOPA-107", "TOPA-109"],
    control="each taken for the other, which only an exact mean allows",
    needs=lambda case: case.law.dim <= 16,
    most=11,
)
def state_variances(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """`conditional_variance` against raw second moments of the noise, summed over the posterior's components."""
    c, theta, x = case.process.coefficients(case.t), shifted(case), case.x[:3]
    ratio = (c.sigma / c.alpha) ** 2
    kinds = ("sn", "npr") if wrong else ("npr", "sn")
    npr, sn = (conditional_variance(case.model, x, case.t, kind, denoiser=theta) for kind in kinds)
    guess = (x - c.alpha * theta(x, case.t)) / c.sigma
    best = case.model.noise(x, case.t)
    for n, row in enumerate(x):
        law = case.model.posterior(row, case.t)
        eps = (row - c.alpha * law.means) / c.sigma
        within = np.diagonal(law.covariances.dense(law.dim), axis1=1, axis2=2) / ratio
        residuals, squares = law.weights @ ((eps - guess[n]) ** 2 + within), law.weights @ (eps**2 + within)
        # x - alpha mu is exact to rounding of x, and its square to that times 2 |x - alpha mu|
        size = ratio * (squares + guess[n] ** 2) + np.abs(row).max() * np.sqrt(ratio * squares) / c.alpha
        yield Sides(npr[n], ratio * residuals, scale=size)
        yield Sides(sn[n], ratio * (squares - guess[n] ** 2), scale=size)
        yield Sides(npr[n] - sn[n], 2 * ratio * guess[n] * (guess[n] - best[n]), scale=size)


@identity(
    "The regression of NPR-DPM",
    topic=TOPIC,
    formula=r"\mathbb{E}\|(\epsilon-\epsilon_\theta)^2 - g\|^2 - \mathbb{E}\|(\epsilon-\epsilon_\theta)^2 - h\|^2"
    r" = \mathbb{E}\|g^* - g\|^2 - \mathbb{E}\|g^* - h\|^2,\quad"
    r" g^* = \tfrac{\alpha^2}{\sigma^2} \bar\sigma^2(x_t)",
    covers=["TOPA-107", "TOPA-108"],
    evidence=QUADRATURE,
    control="the optimum of SN-DPM, which differs as the mean is not exact",
    needs=small,
    most=6,
)
def regression(case: ModelCase, wrong: bool) -> Sides:
    """Two losses of cubic fields by exact cubature over (x_0, eps), against their distances from g* on a grid."""
    theta, c = polynomial(case, 1), case.process.coefficients(case.t)
    pairs, nodes = joint(case, case.t), grid(case, case.t)
    fields = cubics(case, 1.0)
    eps = pairs.eps - (pairs.xt - c.alpha * theta(pairs.xt, case.t)) / c.sigma
    kind = "sn" if wrong else "npr"
    variance = conditional_variance(case.model, nodes.x, case.t, kind, denoiser=theta)
    optimum = variance * (c.alpha / c.sigma) ** 2
    # |u - g|^2 - |u - h|^2 = (g - h)(g + h - 2 u): of degree 6, where |u - g|^2 is no longer exact
    losses, distances = (
        (first - second) * (first + second - 2 * target)
        for first, second, target in (
            (*(field(pairs.xt) for field in fields), eps**2),
            (*(field(nodes.x) for field in fields), optimum),
        )
    )
    found, expected = pairs.mean(losses.sum(axis=1)), nodes.mean(distances.sum(axis=1))
    return Sides(found, expected, scale=nodes.mean(np.abs(distances).sum(axis=1)))


@identity(
    "A state-dependent step has the covariance of the true reverse step",
    topic=TOPIC,
    formula=r"x_t = \kappa x_s + \gamma D + (\tilde\beta I + \gamma^2\,\mathrm{Cov}[x_0|x_s])^{1/2} z:\quad"
    r"\mathbb{E}[x_t|x_s],\ \mathrm{Cov}[x_t|x_s]\ \text{of}\ q(x_t|x_s) \propto q(x_s|x_t)\,p_t(x_t)",
    covers=["TOPA-91", "TOPA-103"],
    control="the square root of the matrix left out",
    needs=lambda case: case.law.dim <= 5,
    most=9,
)
def true_covariance(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """The sampler run on unit normals, one for each axis, against Gaussian conditioning of the law of x_t."""
    x, dim = case.x[:3], case.law.dim
    normals = np.concatenate([np.zeros((1, dim)), np.eye(dim)])
    outputs = [
        state_dependent_dpm(
            case.model, [case.t, case.s], x, covariance="full", normals=np.broadcast_to(z, (1, *x.shape))
        )
        for z in normals
    ]
    factor = np.stack([output - outputs[0] for output in outputs[1:]], axis=-1)
    spread = factor if wrong else factor @ np.swapaxes(factor, 1, 2)
    step, marginal = case.process.channel(case.s, case.t), case.model.marginal(case.s)
    size = np.abs(outputs[0]).max() + np.abs(marginal.means).max()
    for n, row in enumerate(x):
        back = step.posterior(marginal, row)
        largest = np.abs(back.cov()).max()
        yield Sides(outputs[0][n], back.mean(), scale=size)
        # a column is a difference of outputs, exact to rounding of their size
        yield Sides(spread[n], back.cov(), scale=largest + size * np.sqrt(largest))
