r"""The DDIM family: all Gaussian reverse kernels given x_0 that keep the marginals.

    q_sigma(x_s | x_t, x_0) = N( kappa x_t + lambda x_0, sigma^2 I ),
    kappa = sqrt(sigma_s^2 - sigma^2) / sigma_t,   lambda = alpha_s - kappa alpha_t,   0 <= sigma^2 <= sigma_s^2

solves alpha_s = kappa alpha_t + lambda and sigma_s^2 = kappa^2 sigma_t^2 + sigma^2 for every sigma. The DDPM posterior
is the member sigma^2 = beta-tilde; sigma = 0 is DDIM. With D = E[x_0 | x_t] and eps* = E[eps | x_t] in place of x_0,

    kappa x + lambda D = alpha_s D + w eps* = (x - (sigma_t - r w) eps*) / r,   w = sqrt(sigma_s^2 - sigma^2)

with r = alpha_t / alpha_s. The marginals are kept when x_0 is drawn from the posterior; with its mean in place of it
the covariance is short by lambda^2 Cov[x_0 | x_t] at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from scipy.linalg import block_diag

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, BetaTable, beta_table
from refdiff.validation.cases import Case, ModelCase, TableCase
from refdiff.validation.conditions import one_gaussian
from refdiff.validation.identities.ddpm_posterior import long
from refdiff.validation.identities.forward_kernels import moments_of_chain, signal_and_noise
from refdiff.validation.identities.reverse_kernels import Step
from refdiff.validation.identity import Sides, identity

TOPIC = "DDIM family"


def member(step: Step, share: float | Array, rest: float | Array | None = None) -> tuple[Array, Array, Array]:
    """kappa, lambda, sigma^2, scalars or (d,), of the member with sigma^2 = share sigma_s^2.

    `rest` is 1 - share, for where that cancels.
    """
    kappa = np.sqrt((1 - share if rest is None else rest) * step.v_s / step.v_t)
    return kappa, step.alpha_s - kappa * step.alpha_t, np.asarray(share * step.v_s)


def table_steps(case: TableCase, moments: Callable[[BetaTable], tuple[Array, Array]] = signal_and_noise) -> Step:
    """All N steps of a table at once, letters (N,), with the schedule's alpha and sigma^2 or other `moments`."""
    signal, noise = moments(case.table)
    return Step(signal[:-1], signal[1:], noise[:-1], noise[1:])


# ---------------------------------------------------------------------- given x_0


@identity(
    "Every member keeps the marginals of a table",
    topic=TOPIC,
    formula=r"\sqrt{\bar\alpha_{t-1}} = \kappa_t \sqrt{\bar\alpha_t} + \lambda_t,\quad"
    r"1-\bar\alpha_{t-1} = \kappa_t^2 (1-\bar\alpha_t) + \sigma_t^2",
    covers=["DMI-32", "DMI-34", "TOPA-40", "TOPA-41", "TOPA-42", "TOPA-89"],
    refutes=["TOPA-42"],
    over="tables",
    control="kappa and lambda of (4.6), divided by beta-bar_{t-1} and by beta-bar_t^2",
    needs=lambda case: case.table.steps > 1,
)
def marginals_kept(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """Kernels made from the chain's own moments run back from the table's end to t = 1, against its alpha and sigma."""
    step, table = table_steps(case, moments_of_chain), table_steps(case)
    for share in (0.0, 0.3, 1.0, step.fresh / step.v_t):
        kappa, lam, noise = member(step, share)
        if wrong:
            root = np.sqrt((1 - share) * step.v_s)
            kappa, lam = root / np.sqrt(step.v_s), step.alpha_s - step.alpha_t * root / step.v_t
        mean, variance = [table.alpha_t[-1]], [table.v_t[-1]]
        for i in reversed(range(1, case.table.steps)):
            mean.append(kappa[i] * mean[-1] + lam[i])
            variance.append(kappa[i] ** 2 * variance[-1] + noise[i])
        yield Sides(mean[::-1], table.alpha_t, scale=1.0)
        yield Sides(variance[::-1], table.v_t, scale=table.v_t)


@identity(
    "Forward kernel that a member implies",
    topic=TOPIC,
    formula=r"q_\sigma(x_t \mid x_s, x_0) = N\left(\alpha_t x_0"
    r" + \frac{\sigma_t \sqrt{\sigma_s^2-\sigma^2}}{\sigma_s^2} (x_s - \alpha_s x_0),"
    r"\ \frac{\sigma^2 \sigma_t^2}{\sigma_s^2}\right)",
    covers=["TOPA-43", "TOPA-40", "DMI-32", "DMI-34"],
    control="the Markov kernel from s to t for every member, not only for DDPM's",
    most=12,
)
def implied_forward(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """Marginal and reversal of the kernel as a channel, for three sigma and for DDPM's, where x_0 drops out."""
    step, x0 = Step.of(case), case.law.sample(1, case.rng)[0]
    to_s, to_t = case.process.kernel(case.s).at(x0), case.process.kernel(case.t).at(x0)
    markov = case.process.channel(case.s, case.t)
    ddpm = step.fresh / step.v_t, step.ratio**2 * step.v_s / step.v_t
    for share, rest in ((0.0, 1.0), (0.3, 0.7), (1.0, 0.0), ddpm):
        kappa, lam, noise = member(step, share, rest)
        kernel = Channel(kappa, lam * x0, noise)
        law, back = kernel.push(to_t), kernel.reverse(to_t)
        gain = np.sqrt(step.v_t * rest / step.v_s)
        offset, spread = (step.alpha_t - gain * step.alpha_s) * x0, share * step.v_t
        if wrong or share is ddpm[0]:
            gain, offset, spread = markov.gain, 0 * x0, markov.noise
        size = np.abs(step.alpha_s * x0).max() + np.abs(gain * step.alpha_s * x0).max()
        yield Sides(law.mean(), to_s.mean(), scale=size)
        yield Sides(law.cov(), to_s.cov())
        yield Sides(back.gain, gain)
        yield Sides(back.offset, offset, scale=size)
        yield Sides(back.noise, spread, scale=np.max(step.v_t))


@identity(
    "DDPM is the member with the posterior variance",
    topic=TOPIC,
    formula=r"1-\bar\alpha_{t-1}-\tilde\beta_t = \frac{\alpha_t (1-\bar\alpha_{t-1})^2}{1-\bar\alpha_t},\quad"
    r"\kappa_t = \frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t},\quad"
    r"\lambda_t = \frac{\sqrt{\bar\alpha_{t-1}}\beta_t}{1-\bar\alpha_t}",
    covers=["DMI-33", "DMI-36", "DMI-31", "TOPA-45"],
    over="tables",
    control="beta-tilde taken for a standard deviation: sigma^2 = beta-tilde^2",
    needs=lambda case: case.table.steps > 1,
)
def ddpm_member(case: TableCase, wrong: bool) -> list[Sides]:
    """kappa^2 sigma_t^2 = sigma_s^2 - sigma^2 and lambda = alpha_s - kappa alpha_t of the posterior's coefficients."""
    step, posterior = table_steps(case), case.table.posterior()
    variance = posterior.variance**2 if wrong else posterior.variance
    return [
        Sides(posterior.of_xt**2 * step.v_t, step.v_s - variance, scale=step.v_t),
        Sides(posterior.of_x0, step.alpha_s - posterior.of_xt * step.alpha_t, scale=step.alpha_s),
    ]


@identity(
    "The choice sigma_t = beta_t leaves the family at the first steps",
    topic=TOPIC,
    formula=r"1-\bar\alpha_{t-1} < \beta_t \text{ at } t = 1, 2, 3 \text{ (Su's table)},\ t = 1, 2 \text{ (linear)}",
    covers=["TOPA-46", "DMI-32"],
    refutes=["TOPA-46"],
    over="once",
    control="sigma_t = beta_t admissible at every step, as the text has it",
)
def inadmissible(case: Case, wrong: bool) -> Iterator[Sides]:  # noqa: ARG001
    """The tables against exact rational arithmetic; the second entry is beta_1 - beta_2 on every table."""
    linear = [Fraction(1, 10**4) + Fraction(199, 10**4) * i / 999 for i in range(8)]
    su = [Fraction(2, 10**5) * i for i in range(1, 9)]
    for table, betas, count in ((beta_table.linear(), linear, 2), (beta_table.su(), su, 3)):
        room, kept = [], Fraction(1)
        for beta in betas:
            room.append(1 - kept - beta)
            kept *= 1 - beta
        found = -np.expm1(-table.total[:-1]) - table.betas
        yield Sides(found[:8], [float(value) for value in room], scale=table.betas[:8])
        yield Sides(float(room[1]), float(betas[0] - betas[1]))
        yield Sides((found < 0).sum(), 0 if wrong else count)
    # the same on grids of 10 and 50 of the 1000 steps: the first three steps
    for stride in (100, 20):
        sub = beta_table.from_alpha_bar(beta_table.su().alpha_bar[stride - 1 :: stride])
        yield Sides((-np.expm1(-sub.total[:-1]) < sub.betas).sum(), 0 if wrong else 3)


# ---------------------------------------------------------------------- x_0 predicted, or averaged out


@identity(
    "DDIM step in three forms",
    topic=TOPIC,
    formula=r"\kappa x_t + \lambda D = \alpha_s D + \sqrt{\sigma_s^2 - \sigma^2}\,\epsilon^*"
    r" = \tfrac{1}{r}\left(x_t - (\sigma_t - r \sqrt{\sigma_s^2-\sigma^2})\,\epsilon^*\right),"
    r"\quad r = \alpha_t / \alpha_s",
    covers=["DMI-22", "DMI-35", "DMI-36", "PODA-221", "TOPA-31", "TOPA-44", "TOPA-45", "TOPA-47", "TOPA-49"],
    refutes=["TOPA-49"],
    control="the bracket of (4.13): eps multiplies the root only",
    most=12,
)
def step_forms(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """The denoiser from Bayes' rule against the noise from the score, for sigma from DDIM's to the largest."""
    step, x = Step.of(case), case.x
    denoised, noise = case.model.denoiser(x, case.t), case.model.noise(x, case.t)
    sigma = np.sqrt(step.v_t)
    for share in (0.0, 0.25 * step.fresh / step.v_t, step.fresh / step.v_t, 1.0):
        kappa, lam, _ = member(step, share)
        root = np.sqrt((1 - share) * step.v_s)
        bracket = sigma - step.ratio * root * noise if wrong else (sigma - step.ratio * root) * noise
        size = (np.abs(x).max() + np.abs(sigma * noise).max()) / np.min(step.ratio)
        yield Sides(kappa * x + lam * denoised, (x - bracket) / step.ratio, scale=size)
        yield Sides(kappa * x + lam * denoised, step.alpha_s * denoised + root * noise, scale=size)


@identity(
    "Every member keeps the marginals of every law",
    topic=TOPIC,
    formula=r"\int q_\sigma(x_s \mid x_t, x_0)\, p(x_0 \mid x_t)\, p_t(x_t)\, dx_0\, dx_t = p_s(x_s)",
    covers=["TOPA-40", "TOPA-90", "DMI-34"],
    control="x_0 drawn anew from the data, not from its posterior given x_t",
    needs=lambda case: case.law.dim <= 5,
    most=12,
)
def law_kept(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """The joint law of (x_0, x_t) pushed through one channel, against p_s: densities at points, mean, covariance."""
    step, dim = Step.of(case), case.law.dim
    alpha = np.diag(np.broadcast_to(step.alpha_t, (dim,)))
    joint = case.law.affine(np.vstack([np.eye(dim), alpha]))
    joint = joint.convolve(block_diag(np.zeros((dim, dim)), step.v_t * np.eye(dim)))
    expected = case.model.marginal(case.s)
    x = expected.sample(4, case.rng)
    for share in (0.0, 0.4, 1.0):
        kappa, lam, noise = member(step, share)
        gain = np.hstack([np.diag(np.broadcast_to(value, (dim,))) for value in (lam, kappa)])
        law = Channel(gain, 0.0, noise).push(joint)
        if wrong:
            law = Channel(kappa, lam * case.law.mean(), noise + lam**2 * np.diag(case.law.cov())).push(
                case.model.marginal(case.t)
            )
        logs = expected.logpdf(x)
        yield Sides(law.logpdf(x), logs, scale=np.abs(logs) + dim)
        yield Sides(
            law.cov(), expected.cov(), scale=np.abs(expected.cov()).max() + np.max(lam**2) * case.law.cov().max()
        )


@identity(
    "What the plug-in of the denoiser loses",
    topic=TOPIC,
    formula=r"M\,\mathrm{Cov}(x_t) M^\top + \sigma^2 I = \mathrm{Cov}(x_s) - \lambda^2\,\mathrm{Cov}[x_0 \mid x_t],"
    r"\quad M = \kappa + \lambda\,\partial D / \partial x",
    covers=["DMI-34", "DMI-37", "TOPA-91", "PODC9-16"],
    refutes=["DMI-37"],
    control="marginals kept with a predicted x_0, as the reduced chain's 'remains consistent' reads",
    needs=one_gaussian,
)
def plug_in_deficit(case: ModelCase, wrong: bool) -> Iterator[Sides]:
    """On Gaussian data the step is affine: the denoiser at unit vectors, its Jacobian, and the covariances."""
    step, dim, eye = Step.of(case), case.law.dim, np.eye(case.law.dim)
    ddpm = float(step.fresh / step.v_t)  # eta = 1, of which eta = 1/2 is a quarter
    slope = (case.model.denoiser(eye, case.t) - case.model.denoiser(0 * eye, case.t)).T
    before, after = case.model.marginal(case.t).cov(), case.model.marginal(case.s).cov()
    yield Sides(slope, case.model.denoiser_jacobian(np.zeros(dim), case.t), scale=np.abs(slope).max() + 1)
    for share in (0.0, ddpm / 4, ddpm, 1.0):
        kappa, lam, noise = member(step, share)
        left = (kappa * eye + lam * slope) @ before @ (kappa * eye + lam * slope).T + noise * eye
        deficit = lam**2 * case.model.posterior_covariance(np.zeros(dim), case.t)
        # slopes are differences of denoised points, which keep their offset
        size = np.abs(after).max() * (1 + np.abs(lam * case.law.mean()).max())
        yield Sides(left, after - (0.0 if wrong else deficit), scale=size + np.abs(deficit).max())


@identity(
    "Noise-free DDPM is not DDIM",
    topic=TOPIC,
    formula=r"\prod_t \frac{1 - \beta_t / V_t}{\sqrt{1-\beta_t}} = \frac{\sqrt{\bar\alpha_T}\,c}{V_T},\quad"
    r" V_t = \bar\alpha_t c + 1 - \bar\alpha_t",
    covers=["TOPA-11"],
    refutes=["DMI-23", "DMI-52"],
    over="tables",
    control="DDIM's own slopes: sigma_t = 0 in the DDPM kernel called DDIM",
    needs=long,
)
def greedy_chain(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """The product of the DDPM mean's slopes on Gaussian data against one conditional mean, by the tower property."""
    step, beta = table_steps(case), case.table.betas
    for data in (0.25, 1.0, 4.0):
        true = step.alpha_t**2 * data + step.v_t
        slopes = (1 - beta / true) / np.sqrt(1 - beta)
        if wrong:
            kappa, lam, _ = member(step, 0.0)
            slopes = kappa + lam * step.alpha_t * data / true
        kernel = Channel(step.alpha_t[-1], 0.0, step.v_t[-1])
        yield Sides(np.prod(slopes), kernel.reverse(Gaussian([0.0], data)).gain)


@identity(
    "DDIM turns the standard normal by an angle",
    topic=TOPIC,
    formula=r"\kappa + \lambda \sqrt{\bar\alpha_t} = \cos(\theta_t - \theta_{t-1}),"
    r"\quad \cos\theta_t = \sqrt{\bar\alpha_t}",
    covers=["DMI-35", "TOPA-47"],
    over="tables",
    control="the DDPM mean's slope sqrt(1 - beta)",
)
def angle_step(case: TableCase, wrong: bool) -> Sides:
    """For N(0, I) data E[x_0 | x_t] = sqrt(alpha_bar) x_t, so a step multiplies by one number."""
    step = table_steps(case)
    kappa, lam, _ = member(step, 0.0)
    signal, noise = moments_of_chain(case.table)
    angle = np.arctan2(np.sqrt(noise), signal)
    slope = np.sqrt(1 - case.table.betas) if wrong else kappa + lam * step.alpha_t
    return Sides(slope, np.cos(np.diff(angle)))


@identity(
    "Reduced grids",
    topic=TOPIC,
    formula=r"\tilde\sigma_{\tau_i}^2 = \frac{1-\bar\alpha_{\tau_{i-1}}}{1-\bar\alpha_{\tau_i}}"
    r"\left(1 - \frac{\bar\alpha_{\tau_i}}{\bar\alpha_{\tau_{i-1}}}\right)",
    covers=["DMI-37", "TOPA-48", "TOPA-50", "PHY-26"],
    over="tables",
    control="the stored one-step beta at the visited index in place of 1 - alpha_bar ratio",
    needs=lambda case: case.table.steps >= 20,
)
def reduced_grid(case: TableCase, wrong: bool) -> Iterator[Sides]:
    """The table of a sub-grid against the full table's channels reversed; the exact network is the same function."""
    table, process = case.table, AffineProcess(case.table)
    visited = np.sort(case.rng.choice(np.arange(1, table.steps), 4, replace=False)) + 1
    sub = beta_table.from_alpha_bar(table.alpha_bar[visited - 1])
    posterior, x0 = sub.posterior(), 0.8
    for k in range(1, len(visited)):
        early, late = float(visited[k - 1]), float(visited[k])
        back = process.channel(early, late).reverse(process.kernel(early).at([x0]))
        noise = -np.expm1(-table.total[visited[k - 1 : k + 1]])
        jump = -np.expm1(table.total[visited[k - 1]] - table.total[visited[k]])
        jump = table.betas[visited[k] - 1] if wrong else jump
        # a beta of the sub-grid is a ratio of two alpha_bar, exact to rounding of 1
        yield Sides(posterior.variance[k], noise[0] / noise[1] * jump, scale=noise[0] / noise[1])
        yield Sides(posterior.variance[k], back.noise, scale=noise[0] / noise[1])
        yield Sides(posterior.of_xt[k], back.gain, scale=1.0)
        yield Sides(posterior.of_x0[k] * x0, back.offset, scale=1.0 / noise[1])
    law = GaussianMixture.isotropic([[-1.0], [2.0]], [0.1, 0.3], [0.4, 0.6])
    x = case.rng.standard_normal((5, 1))
    full, small = ExactModel(law, table), ExactModel(law, sub)
    yield Sides(full.noise(x, float(visited[2])), small.noise(x, 3.0))
