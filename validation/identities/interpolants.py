r"""Interpolants: paths between two laws that need not be a noising process.

A coupling pi(x_0, x_1) and coefficients a, b, gamma make  x_t = a x_0 + b x_1 + gamma z.  With a mixture as the
coupling (any cross-covariance), (x_0, x_1) -> x_t is a Gaussian channel [a I, b I] with noise gamma^2, so that

    p_t = push of pi,  v_t(x) = E[a' x_0 + b' x_1 + gamma' z | x] = [a' I, b' I] E[(x_0, x_1) | x] - gamma gamma' s_t

come from Bayes' rule, and the continuity equation d log p_t / dt + v . grad log p_t + div v = 0 from derivatives.
Here t runs from the source at 0 to the target at 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching, Schedule, Trigonometric, VEPower, VPLinear
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import DERIVATIVE, Sides, identity
from refdiff.validation.laws import covariances
from refdiff.validation.numeric import derivative, divergence, jacobian

TOPIC = "Interpolants and flow-first paths"

# Step of the stencils in x and t. Between components D apart of variance s^2 the log density turns over a distance
# s^2 / D, with its nearest pole pi times as far: with s^2 >= 0.3 and D about 2 the step is a fortieth of that.
STEP = 0.01


@dataclass(frozen=True)
class Interpolant:
    """x_t = a x_0 + b x_1 + gamma z for a coupling on R^2d: a, b, gamma and their rates, as functions of t."""

    coupling: GaussianMixture
    coefficients: Callable[[float], tuple[float, float, float]]
    rates: Callable[[float], tuple[float, float, float]]

    @property
    def dim(self) -> int:
        """d."""
        return self.coupling.dim // 2

    def channel(self, t: float) -> Channel:
        """(x_0, x_1) -> x_t."""
        a, b, gamma = self.coefficients(t)
        eye = np.eye(self.dim)
        return Channel(np.hstack([a * eye, b * eye]), np.zeros(self.dim), gamma**2 * eye)

    def law(self, t: float) -> GaussianMixture:
        """p_t."""
        return self.channel(t).push(self.coupling)

    def velocity(self, x: Array, t: float) -> Array:
        """E[dx_t/dt | x_t = x] (n, d) by Bayes' rule on the coupling; E[gamma z | x] = -gamma^2 s_t."""
        _, _, gamma = self.coefficients(t)
        da, db, dgamma = self.rates(t)
        pair = self.channel(t).posterior_mean(self.coupling, x)
        moved = da * pair[:, : self.dim] + db * pair[:, self.dim :]
        return np.asarray(moved - (gamma * dgamma * self.law(t).score(x) if gamma else 0.0))


def straight(coupling: GaussianMixture, gamma: float = 0.0) -> Interpolant:
    """a = 1 - t, b = t, constant gamma."""
    return Interpolant(coupling, lambda t: (1 - t, t, gamma), lambda t: (-1.0, 1.0, 0.0))


def bent(coupling: GaussianMixture) -> Interpolant:
    """a = cos(pi t / 2), b = sin(pi t / 2), gamma = sin(pi t) / 2: a bridge with noise in the middle."""
    quarter = np.pi / 2
    return Interpolant(
        coupling,
        lambda t: (np.cos(quarter * t), np.sin(quarter * t), np.sin(np.pi * t) / 2),
        lambda t: (-quarter * np.sin(quarter * t), quarter * np.cos(quarter * t), np.pi / 2 * np.cos(np.pi * t)),
    )


def product(first: GaussianMixture, second: GaussianMixture) -> GaussianMixture:
    """The independent coupling of two laws."""
    means = [np.concatenate([m, n]) for m in first.means for n in second.means]
    return GaussianMixture.full(
        np.array(means),
        np.array([block_diag(s, r) for s in covariances(first) for r in covariances(second)]),
        np.outer(first.weights, second.weights).ravel(),
    )


def continuity(
    log_density: Callable[[Array, float], Array], velocity: Callable[[Array, float], Array], x: Array, t: float
) -> Sides:
    """-d log p / dt at fixed x (n, d) against v . grad log p + div v, log_density and velocity v by stencils."""
    gradient = jacobian(lambda y: log_density(y, t), x, STEP)
    v = velocity(x, t)
    carried = np.einsum("nd,nd->n", v, gradient)
    spread = divergence(lambda y: velocity(y, t), x, STEP)
    rate = derivative(lambda u: log_density(x, u), t, STEP)
    return Sides(-rate, carried + spread, np.abs(carried).max() + np.abs(spread).max() + np.abs(rate).max())


# ---------------------------------------------------------------------- two ends


@identity(
    "The velocity of an interpolant moves its law, whatever the coupling",
    topic=TOPIC,
    formula=r"x_t = a x_0 + b x_1 + \gamma z:\quad u_t(x) = \mathbb{E}[\dot x_t \mid x_t = x],\quad \partial_t p_t +"
    r" \nabla\!\cdot(p_t u_t) = 0",
    covers=["DMI-60", "DMI-61", "PODB-40"],
    over="once",
    control="a' x_0 - b' x_1",
    evidence=DERIVATIVE,
)
def coupled(case: Case, wrong: bool) -> list[Sides]:
    """Bayes' rule on a coupling with cross-covariance against derivatives of the log density of the pushed law."""
    coupling, t = random_mixture(4, 3, case.rng, "full", spread=0.8).convolve(0.5), 0.3 + 0.4 * case.rng.random()
    paths = (straight(coupling), straight(coupling, 0.4), bent(coupling), straight(_independent(case)))

    def residual(path: Interpolant) -> Sides:
        used = Interpolant(path.coupling, path.coefficients, lambda u: _flipped(path.rates(u))) if wrong else path
        return continuity(lambda y, u: path.law(u).logpdf(y), used.velocity, path.law(t).sample(3, case.rng), t)

    return [residual(path) for path in paths]


def _flipped(rates: tuple[float, float, float]) -> tuple[float, float, float]:
    return rates[0], -rates[1], rates[2]


def _independent(case: Case) -> GaussianMixture:
    first, second = (
        random_mixture(2, 3, case.rng, "full", spread=0.8),
        random_mixture(2, 2, case.rng, "diagonal", spread=0.8),
    )
    return product(first.convolve(0.5), second.convolve(0.5))


@identity(
    "Ends and moments of an interpolant",
    topic=TOPIC,
    formula=r"\operatorname{Cov} x_t = a^2 C_{00} + ab(C_{01} + C_{10}) + b^2 C_{11} + \gamma^2 I;\qquad"
    r" p_0 = p_{\mathrm{src}} * \mathcal{N}(0, \gamma^2 I),\ p_1 = p_{\mathrm{tgt}} * \mathcal{N}(0, \gamma^2 I)",
    covers=["DMI-60", "PODB-40"],
    refutes=["PODB-40"],
    over="once",
    control="ends without blur at constant gamma > 0",
)
def ends(case: Case, wrong: bool) -> list[Sides]:
    """The pushed law against the blocks of the coupling's covariance and against its two marginals."""
    coupling, t, gamma = random_mixture(4, 3, case.rng, "full"), case.rng.random(), 0.4
    path, cov = straight(coupling, gamma), coupling.cov()
    blocks = (1 - t) ** 2 * cov[:2, :2] + t * (1 - t) * (cov[:2, 2:] + cov[2:, :2]) + t**2 * cov[2:, 2:]
    sides = [Sides(path.law(t).cov(), blocks + gamma**2 * np.eye(2))]
    for when, kept in ((0.0, [0, 1]), (1.0, [2, 3])):
        end = coupling.marginal(kept) if wrong else coupling.marginal(kept).convolve(gamma**2)
        x = end.sample(4, case.rng)
        sides.append(Sides(path.law(when).logpdf(x), end.logpdf(x), 1 + np.abs(end.logpdf(x)).max()))
    return sides


@identity(
    "Gaussian coupling: a linear velocity",
    topic=TOPIC,
    formula=r"u_t(x) = \dot m_t + A_t(x - m_t),\quad A_t = \operatorname{Cov}(\dot x_t, x_t) V_t^{-1}:\qquad \dot V"
    r" = A V + V A^{\mathsf{T}}",
    covers=["DMI-61"],
    over="once",
    control="an independent coupling: the cross-covariance dropped",
)
def linear_velocity(case: Case, wrong: bool) -> list[Sides]:
    """Regression of the velocity on the state from the coupling's blocks, against Bayes' rule and against V'."""
    coupling, t = random_mixture(4, 1, case.rng, "full"), case.rng.random()
    a, b, mean = 1 - t, t, coupling.mean()
    path, cov = straight(coupling), coupling.cov()
    s00, s01, s11 = cov[:2, :2], (0 if wrong else 1) * cov[:2, 2:], cov[2:, 2:]
    v = a * a * s00 + a * b * (s01 + s01.T) + b * b * s11
    with_state = -(a * s00 + b * s01) + (a * s01.T + b * s11)  # Cov(x_1 - x_0, x_t)
    slope = np.linalg.solve(v, with_state.T).T
    x = path.law(t).sample(4, case.rng)
    rate = -2 * a * cov[:2, :2] + (a - b) * (cov[:2, 2:] + cov[2:, :2]) + 2 * b * cov[2:, 2:]
    centre = a * mean[:2] + b * mean[2:]
    linear = mean[2:] - mean[:2] + (x - centre) @ slope.T
    size = np.abs(slope).max() * (np.abs(x).max() + np.abs(centre).max()) + np.abs(mean).max()
    return [Sides(path.velocity(x, t), linear, size), Sides(slope @ v + v @ slope.T, rate, np.abs(slope @ v).max() * 2)]


# ---------------------------------------------------------------------- one Gaussian end


@identity(
    "One-sided and two-sided targets have one optimum and one constant",
    topic=TOPIC,
    formula=r"\mathbb{E}\Big[b' x_1 + \frac{a'}{a}(x - b x_1)\Big|x\Big] = \mathbb{E}[a' x_0 + b' x_1 | x] ="
    r" -v^{\mathrm{diffusion}}_{1-t}(x),\quad"
    r" \operatorname{Cov}\text{ equal}",
    covers=["PODB-41", "PODB-42"],
    over="laws",
    control="the target of a diffusion text: eps - x_0, noise minus data",
    needs=lambda case: case.law.dim <= 5,
)
def one_sided(case: LawCase, wrong: bool) -> list[Sides]:
    """Posterior of x_1 alone against the posterior of the pair (x_0, x_1), and against the flow-matching model."""
    law, t, d = case.law, 0.2 + 0.6 * case.rng.random(), case.law.dim
    a, b = 1 - t, t
    path = straight(product(Gaussian(np.zeros(d), 1.0), law))
    x = path.law(t).sample(4, case.rng)
    kernel, weight = Channel(b, 0.0, a**2), 1 + b / a  # b' - a' b / a
    denoised = kernel.posterior_mean(law, x)
    single = -x / a + weight * denoised
    size = np.abs(x).max() / a + weight * np.abs(law.means).max() + np.abs(single).max()
    turn = np.hstack([-np.eye(d), np.eye(d)])
    pair = path.channel(t).posterior_cov(path.coupling, x)
    # conditioning takes the explained part from the spread of the pair
    whole = np.abs(turn) @ np.abs(path.coupling.cov()) @ np.abs(turn).T
    return [
        Sides((-1 if wrong else 1) * single, path.velocity(x, t), size),
        Sides(single, -ExactModel(law, FlowMatching()).velocity(x, 1 - t), size),
        Sides(weight**2 * kernel.posterior_cov(law, x), turn @ pair @ turn.T, whole.max()),
    ]


@identity(
    "Every interpolant of the table ends in the data",
    topic=TOPIC,
    formula=r"x_t = a_t\epsilon + b_t x_1,\ t = 1 \text{ data}:\quad \text{VE } (\sigma_{\max}(1 - t), 1),\ \text{VP"
    r" } (\sqrt{1 - b^2}, b),"
    r"\ \text{FM } (1 - t, t),\ \text{trig } (\cos\tfrac{\pi t}{2}, \sin\tfrac{\pi t}{2})",
    covers=["PODB-43"],
    refutes=["PODB-43"],
    over="laws",
    control="the columns of VE and VP as printed, in diffusion time: a_0 = 0",
    needs=lambda case: case.law.dim <= 16,
)
def table(case: LawCase, wrong: bool) -> list[Sides]:
    """Laws at both ends against the data and the prior, rows against the schedules of diffusion time 1 - t.

    And the drift and diffusion of the trigonometric row.
    """
    law, d, largest, reach = case.law, case.law.dim, 20.0, 40.0
    schedules: dict[str, Schedule] = {
        "VE": VEPower(T=largest),
        "VP": VPLinear(reach, reach),
        "FM": FlowMatching(),
        "trig": Trigonometric(),
    }
    when = 0.2 + 0.6 * case.rng.random()
    rows: dict[str, Callable[[float], tuple[float, float]]] = {
        "VE": lambda t: (largest * (1 - t), 1.0),
        "VP": lambda t: (np.sqrt(-np.expm1(-reach * (1 - t))), np.exp(-reach * (1 - t) / 2)),
        "FM": lambda t: (1 - t, t),
        "trig": lambda t: (np.sin(np.pi / 2 * (1 - t)), np.sin(np.pi * t / 2)),
    }
    sides = []
    for name, row in rows.items():
        late = (name in ("VE", "VP")) and wrong
        (a1, b1), (a0, b0) = row(0.0 if late else 1.0), row(1.0 if late else 0.0)
        end, start = Channel(b1, 0.0, a1**2).push(law), Channel(b0, 0.0, a0**2).push(law)
        prior = law.convolve(largest**2) if name == "VE" else Gaussian(np.zeros(d), 1.0)
        size = np.abs(law.cov()).max() + np.abs(law.means).max() ** 2
        sides += [Sides(end.mean(), law.mean(), 1 + np.abs(law.means).max()), Sides(end.cov(), law.cov(), 1 + size)]
        # the rate-driven row is at its prior only up to alpha_bar = e^-40
        sides += [Sides(start.cov(), prior.cov())]
        c = schedules[name].coefficients(when * schedules[name].T)
        sides += [Sides(row(1 - when), [c.sigma, c.alpha])]
    u = 1.2 * case.rng.random()
    c = Trigonometric(0.7).coefficients(u)
    return [*sides, Sides(c.f, -np.tan(u)), Sides(c.g2, 2 * 0.7**2 * np.tan(u))]
