r"""From one law to another through common noise: dual encoders, and noise followed by another model's flow.

    dual encoders  y = Psi^1_{T->0}(Psi^0_{0->T}(x)):  Gaussians S_1^(1/2) S_0^(-1/2), on the line F_1^-1(F_0(x))
    SDEdit         y = Psi^1_{t->0}(alpha x + sigma eps):  N(m_1 + alpha M (m_0 - m_1), M (alpha^2 S_0 + sigma^2) M')
                   for Gaussians, M = S_1^(1/2) (alpha^2 S_1 + sigma^2)^(-1/2)

The first map is the optimal one where S_0 and S_1 commute, and the monotone one on the line; the second has the law of
the target for alpha_t = 0 and that of the source for sigma_t = 0.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import sqrtm

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture, wasserstein
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.dynamics.translation import gaussian_translation, translate
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.schedules import FlowMatching, Trigonometric
from refdiff.validation.cases import Case
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import cdf, gaussian

TOPIC = "Flow maps"


def root(matrix: Array) -> Array:
    """The symmetric root of a `matrix` (d, d), a covariance, by Schur's form."""
    return np.asarray(np.real(sqrtm(matrix)))


@identity(
    "Dual encoders of Gaussians",
    topic=TOPIC,
    formula=r"\alpha_T = 0:\ y = m_1 + S_1^{1/2} S_0^{-1/2}(x - m_0);\qquad W_2^2 \le \mathbb{E}|y - x|^2"
    r" = |m_1 - m_0|^2 + \|S_1^{1/2} - S_0^{1/2}\|_F^2,\ \text{equal where } S_0 S_1 = S_1 S_0",
    covers=["PODB-69"],
    control="the optimal map, which the two flows make only where the covariances commute",
    over="once",
)
def dual_encoders(case: Case, wrong: bool) -> list[Sides]:
    """The library's channel under two schedules against products of roots, and its cost against the distance."""
    rng, dim, sides = case.rng, 3, []
    first = gaussian(rng, dim)
    axes = np.linalg.eigh(first.cov())[1]
    commuting = (axes * rng.uniform(0.2, 1.0, dim)) @ axes.T
    for second, commutes in ((gaussian(rng, dim), False), (Gaussian(rng.standard_normal(dim), commuting), True)):
        for schedule in (FlowMatching(), Trigonometric()):
            source, target = (ExactModel(law, AffineProcess(schedule)) for law in (first, second))
            a, b = root(first.cov()), root(second.cov())
            expected = b @ np.linalg.inv(a)
            if wrong:
                expected = np.linalg.solve(a, root(a @ second.cov() @ a)) @ np.linalg.inv(a)
            channel = gaussian_translation(source, target)
            sides.append(Sides(channel.gain, expected))
            sides.append(Sides(channel.push(first).mean(), second.mean(), 1.0 + np.abs(second.mean()).max()))
            moved = np.asarray(channel.gain) - np.eye(dim)
            cost = np.trace(moved @ first.cov() @ moved.T) + ((first.mean() - second.mean()) ** 2).sum()
            closed = ((first.mean() - second.mean()) ** 2).sum() + ((b - a) ** 2).sum()
            least = wasserstein(first, second) ** 2
            sides += [Sides(cost, closed), Sides(max(least - cost, 0.0) if not commutes else least - cost, 0.0, cost)]
    return sides


@identity(
    "Dual encoders on the line, and their cycle",
    topic=TOPIC,
    formula=r"F_1(y) = F_0(x),\qquad \Psi^0_{T\to0}\Psi^1_{0\to T}\,y = x",
    covers=["PODB-69", "TOPB-55"],
    control="the encoders stopped at 0.8 T, where the two laws of the noise differ",
    over="once",
    evidence=QUADRATURE,
)
def monotone_translation(case: Case, wrong: bool) -> list[Sides]:
    """Two integrations between mixtures on the line against distribution functions, and there and back."""
    rng = case.rng
    laws = [random_mixture(1, 3, rng, "isotropic") for _ in range(2)]
    source, target = (ExactModel(law, FlowMatching()) for law in laws)
    x, noisy = source.sample(2, 0.0, rng), 0.8 if wrong else None
    there = translate(source, target, x, noisy)
    sides = [Sides(cdf(laws[1], there.x), cdf(laws[0], x), 1.0)]
    # the way back is there from any time
    return sides if wrong else [*sides, Sides(translate(target, source, there.x).x, x)]


@identity(
    "Noise, then another model's flow",
    topic=TOPIC,
    formula=r"y = \Psi^1_{t\to0}(\alpha_t x + \sigma_t\epsilon) \sim \mathcal{N}\big(m_1 + \alpha_t M(m_0 - m_1),\ M"
    r"(\alpha_t^2 S_0 + \sigma_t^2)M^\top\big),\quad M = S_1^{1/2}(\alpha_t^2 S_1 + \sigma_t^2)^{-1/2}",
    covers=["PODB-69"],
    control="the law of the target, which it has at alpha = 0 only",
    over="once",
)
def noise_and_denoise(case: Case, wrong: bool) -> list[Sides]:
    """SDEdit between Gaussians: channels of the library against roots, at times from data to noise."""
    rng, sides = case.rng, []
    first, second = gaussian(rng, 3), gaussian(rng, 3)
    process = AffineProcess(FlowMatching())
    for t in (0.0, 0.3, 0.7, 1.0):
        made = gaussian_flow(second, process, t, 0.0).push(process.kernel(t).push(first))
        alpha, sigma, eye = 1 - t, t, np.eye(3)
        m = root(second.cov()) @ np.linalg.inv(root(alpha**2 * second.cov() + sigma**2 * eye))
        mean = second.mean() + alpha * m @ (first.mean() - second.mean())
        covariance = m @ (alpha**2 * first.cov() + sigma**2 * eye) @ m.T
        if wrong:
            mean, covariance = second.mean(), second.cov()
        sides += [Sides(made.mean(), mean, 1 + np.abs(mean).max()), Sides(made.cov(), covariance)]
        if t in (0.0, 1.0) and not wrong:
            law: GaussianMixture = second if t else first
            sides += [Sides(made.mean(), law.mean(), 1 + np.abs(mean).max()), Sides(made.cov(), law.cov())]
    return sides
