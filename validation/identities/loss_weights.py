r"""What a loss on one prediction weighs on another, and what no network can push below.

An error of a head turns into errors of the other heads by linear maps (W = alpha' sigma - alpha sigma'):

    |s_phi - s*|^2 = |eps_phi - eps*|^2 / sigma^2 = (alpha^2 / sigma^4) |x_phi - x*|^2
                   = (alpha / (sigma W))^2 |v_phi - v*|^2

so two losses differ by a factor of time alone. The optimum is the conditional mean of the target: what is left over
is uncorrelated with every function of x_t, at each time for itself, which is why positive weights of time cannot
move it.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.schedules import FlowMatching
from refdiff.validation.cases import ModelCase, ProcessCase
from refdiff.validation.conditions import scalar, smooth
from refdiff.validation.expectations import grid, small
from refdiff.validation.identities.parameterizations import Heads, from_denoiser, from_score, gap, sizes
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.numeric import legendre

TOPIC = "Regression losses"


@identity(
    "Squared errors of two heads differ by a factor of time",
    topic=TOPIC,
    formula=r"\|s_\phi - s^*\|^2 = \sigma^{-2}\|\epsilon_\phi - \epsilon^*\|^2"
    r" = \frac{\alpha^2}{\sigma^4}\|x_\phi - x^*\|^2 = \Big(\frac{\alpha}{\sigma W}\Big)^2\|v_\phi - v^*\|^2",
    covers=["PODB-60", "DMI-28"],
    control="sigma^2 in place of sigma^4 in the weight of the denoiser",
    needs=scalar,
)
def loss_weights(case: ModelCase, wrong: bool) -> list[Sides]:
    """A denoiser off by a random vector is converted by the definitions; every target is the model's own answer.

    Those come from Bayes' rule, from the log density or from both, so that the factors hold for no other targets.
    """
    c, x = case.process.coefficients(case.t), case.x
    exact = Heads(*(getattr(case.model, name)(x, case.t) for name in Heads._fields))
    size = sizes(c, x, exact.denoiser)
    # an error as large as the terms it hides among, so that the differences do not cancel
    off = size.denoiser * case.rng.standard_normal(x.shape)
    heads = from_denoiser(c, x, exact.denoiser + off)
    square = Heads(*(((a - b) ** 2).sum(axis=1) for a, b in zip(heads, exact, strict=True)))
    w = gap(c)
    straight = (c.alpha * c.dsigma - c.sigma * c.dalpha) / (c.alpha + c.sigma)  # c tau' of the straight path
    largest = square.score.max() + case.model.dim * size.score**2
    return [
        Sides(square.noise / c.sigma**2, square.score, largest),
        Sides(square.denoiser * c.alpha**2 / c.sigma ** (2 if wrong else 4), square.score, largest),
        Sides(square.velocity * (c.alpha / (c.sigma * w)) ** 2, square.score, largest),
        # the velocity on the straight path of the same signal-to-noise ratio is eps - x_0
        Sides(
            square.velocity,
            straight**2 * ((heads.noise - heads.denoiser - exact.noise + exact.denoiser) ** 2).sum(axis=1),
            (w / c.alpha * c.sigma) ** 2 * largest,
        ),
    ]


@identity(
    "Noise error as rectified-velocity error",
    topic=TOPIC,
    formula=r"\tilde u = -(x - \epsilon^*),\quad \|\tilde u_\theta - \tilde u\| = \|\hat\epsilon_\theta - \epsilon^*\|",
    covers=["DMI-78"],
    control="the rectified velocity with the score in place of rho times the score",
    needs=lambda case: scalar(case) and isinstance(case.process.schedules[0], FlowMatching),
)
def rectified_error(case: ModelCase, wrong: bool) -> Sides:
    """On the straight path: a perturbed Bayes noise prediction against the velocity written with the score."""
    c, x, model = case.process.coefficients(case.t), case.x, case.model
    noise = from_denoiser(c, x, model.denoiser(x, case.t)).noise
    head = noise + np.abs(noise).max() * case.rng.standard_normal(x.shape)
    rectified = -(x + (1 if wrong else c.sigma) * model.score(x, case.t))
    size = np.abs(x).max() + sizes(c, x, model.denoiser(x, case.t)).noise + np.abs(head).max()
    return Sides(-(x - head) - rectified, head - noise, size)


@identity(
    "Every regression target has its conditional mean as optimum",
    topic=TOPIC,
    formula=r"\mathbb{E}[(A x_0 + B\epsilon - \mathrm{NN}^*(x_t))\, e^{i\omega x_t}] = 0\ \forall\omega:\quad"
    r" (A, B) = (1, 0), (0, 1), (0, -1/\sigma), (\alpha', \sigma')",
    covers=["PODB-55", "DMI-77"],
    control="B = -sigma for the score",
    evidence=QUADRATURE,
    needs=lambda case: case.law.dim == 1 and scalar(case) and small(case),
)
def orthogonality(case: ModelCase, wrong: bool) -> list[Sides]:
    """E[target e^(i omega x_t)] from characteristic functions, against the exact head integrated over p_t.

    With no correlation to any function of x_t left, the head is optimal at each time: no weight of time can move it.
    """
    c, g, law = case.process.coefficients(case.t), grid(case, case.t), case.law
    heads = from_score(c, g.x, g.score)
    pairs = np.array([(1, 0), (0, 1), (0, -c.sigma if wrong else -1 / c.sigma), (c.dalpha, c.dsigma)])
    omega = np.array([0.0, 0.4, 1.3, 2.5]) / np.sqrt(case.model.marginal(case.t).cov()[0, 0])
    wave = np.exp(1j * g.x * omega)
    u, m, v = c.alpha * omega[:, None], law.means[:, 0], law.covariances.dense(1)[:, 0, 0]
    each = law.weights * np.exp(1j * u * m - u * u * v / 2 - (omega[:, None] * c.sigma) ** 2 / 2)
    of_clean = (each * (m + 1j * u * v)).sum(axis=1)
    of_noise = 1j * omega * c.sigma * each.sum(axis=1)
    sides = []
    for (a, b), head in zip(pairs, heads, strict=True):
        seen, meant = g.mean(head * wave), a * of_clean + b * of_noise
        size = np.sqrt(g.mean(head[:, 0] ** 2)) + np.abs(a) * np.abs(m).max() + np.abs(b)
        sides += [Sides(seen.real, meant.real, size), Sides(seen.imag, meant.imag, size)]
    return sides


@identity(
    "Importance weights of the training times",
    topic=TOPIC,
    formula=r"\int_s^t \omega\,\mathrm{mse}\,d\tau = \mathbb{E}_{\tau\sim p}\Big[\frac{\omega}{p}\,\mathrm{mse}\Big],"
    r"\qquad p \propto |\lambda'|:\ \text{uniform in the log signal-to-noise ratio}",
    covers=["PODB-55"],
    over="processes",
    control="the weights 1/p left out",
    evidence=QUADRATURE,
    needs=smooth,
)
def importance(case: ProcessCase, wrong: bool) -> Sides:
    """The noise loss of N(0, 1) data with weight g^2: nodes uniform in t against nodes uniform in lambda."""
    u, w = legendre(64)
    length, low = case.t - case.s, case.schedule.log_snr(case.t)
    width = case.schedule.log_snr(case.s) - low

    def loss(t: Array) -> Array:
        c = case.schedule.coefficients(t)
        return np.asarray(c.g2 * c.alpha**2 / (c.alpha**2 + c.sigma**2))

    times = case.schedule.time_of_log_snr(low + width * u)
    density = -case.schedule.dlog_snr(times) / width
    return Sides(length * w @ loss(case.s + length * u), w @ (loss(times) / (1 / length if wrong else density)))


@identity(
    "Second moment of a velocity target",
    topic=TOPIC,
    formula=r"\mathbb{E}\|\alpha' x_0 + \sigma'\epsilon\|^2 = \alpha'^2(\operatorname{tr}\operatorname{Cov} x_0 +"
    r" \|\mathbb{E} x_0\|^2) + \sigma'^2 d;\quad"
    r" \text{straight path: } d + \operatorname{tr}\operatorname{Cov} x_0 + \|\mathbb{E}x_0\|^2",
    covers=["PODB-61"],
    control="the mean of the data left out",
    needs=scalar,
)
def target_scale(case: ModelCase, wrong: bool) -> list[Sides]:
    """Moments of the pushed law against the formula, for the case's own schedule and for the straight path."""
    c, law = case.process.coefficients(case.t), case.law
    mean, spread = (0.0 if wrong else law.mean() @ law.mean()), np.trace(law.cov())
    own, straight = (law.affine(a).convolve(b**2) for a, b in ((c.dalpha, c.dsigma), (-1.0, 1.0)))
    return [
        Sides(np.trace(one.cov()) + one.mean() @ one.mean(), a**2 * (spread + mean) + b**2 * law.dim)
        for one, a, b in ((own, c.dalpha, c.dsigma), (straight, 1.0, 1.0))
    ]
