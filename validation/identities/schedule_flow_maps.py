r"""Flow maps: where the probability flow takes a point from one time to another, and that no schedule changes it.

For Gaussian data N(m, S) the map is closed, with V = alpha^2 S + sigma^2 I,

    Psi_{t->s}(x) = alpha_s m + V_s^(1/2) V_t^(-1/2) (x - alpha_t m),

and on the line every map is the one that moves quantiles to quantiles, F_t(x) = F_s(Psi(x)). Both are routes that
know no differential equation. On the straight path run at any speed, rho(t) with rho(0) = 0,

    u_t(x) = rho' E[Z - X_0 | x] = -kappa (x + rho s(x)),   kappa = rho' / (1 - rho),

the clock -log(1 - rho) makes it the rectified velocity -(x - E[Z | x]).
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.model import ExactModel
from refdiff.samplers.consistency import flow_map
from refdiff.schedules import Alignment, FlowMatching, Transformed
from refdiff.validation.cases import ModelCase, ProcessCase, with_gaussian_data
from refdiff.validation.conditions import one_gaussian, preserving, scalar, smooth
from refdiff.validation.identities.parameterizations import from_denoiser, sizes
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian_flow
from refdiff.validation.numeric import derivative, legendre

TOPIC = "Equivalence of schedules"


@identity(
    "Flow maps between two signal-to-noise ratios do not depend on the schedule",
    topic=TOPIC,
    formula=r"\Psi_{t\to s}(x) = c_s\,\Psi^{\mathrm{FM}}_{\tau(t)\to\tau(s)}(x / c_t)",
    covers=["PODB-58", "PODC9-55"],
    control="the straight path run between the same times instead of the same ratios",
    needs=one_gaussian,
)
def same_map(case: ModelCase, wrong: bool) -> Sides:
    """The library's flow map under the case's schedule against the closed map (`laws`) under flow matching."""
    alignment = Alignment(FlowMatching(), case.process.schedules[0])
    s, t = (when / case.process.T if wrong else alignment.tau(when) for when in (case.s, case.t))
    straight = gaussian_flow(case.law, FlowMatching(), t, s, case.x / alignment.scale(case.t))
    return Sides(
        flow_map(case.model)(case.x, case.t, case.s),
        alignment.scale(case.s) * straight,
        np.abs(case.x).max() + np.abs(straight).max() * alignment.scale(case.s),
    )


@identity(
    "Sampling as an integral of the velocity",
    topic=TOPIC,
    formula=r"x_s = x_t + \int_t^s v^*(x_\tau, \tau)\,d\tau,\qquad s < t",
    covers=["PODC8-01", "PODC9-01", "PODD-56"],
    refutes=["PODC8-01"],
    control="the limits of the integral as printed, from the clean end up",
    over="processes",
    evidence=QUADRATURE,
    needs=smooth,
    most=13,
)
def velocity_integral(process: ProcessCase, wrong: bool) -> Sides:
    """The exact velocity along the closed trajectory of Gaussian data, by Gauss-Legendre."""
    case = with_gaussian_data(process)
    u, w = legendre(32)
    schedule = case.process.schedules[0]
    step = (case.t - case.s) if wrong else (case.s - case.t)

    def along(when: float) -> Array:
        return np.asarray(case.model.velocity(gaussian_flow(case.law, schedule, case.t, when, case.x), when))

    passed = step * sum(weight * along(case.t + (case.s - case.t) * node) for node, weight in zip(u, w, strict=True))
    end = gaussian_flow(case.law, schedule, case.t, case.s, case.x)
    return Sides(case.x + passed, end, np.abs(case.x).max() + np.abs(passed).max())


# ---------------------------------------------------------------------- the straight path


def place(case: ModelCase) -> tuple[float, float, Array]:
    """rho and the speed of the clock rho = sin^2(pi t / 2) at the case's ratio; points (n, d) of the straight path."""
    c = case.process.coefficients(case.t)
    rho = float(c.sigma / (c.alpha + c.sigma))
    return rho, float(np.pi * np.sqrt(rho * (1 - rho))), case.x / (c.alpha + c.sigma)


@identity(
    "Velocity of the straight path",
    topic=TOPIC,
    formula=r"u_t(x) = \dot\rho\,\mathbb{E}[Z - X_0 \mid x] = -\kappa\,(x + \rho s_t(x)),"
    r"\quad \kappa = \frac{\dot\rho}{1 - \rho},\qquad \tilde u = u / \kappa = -(x - \epsilon^*)",
    covers=["DMI-67", "DMI-69", "DMI-70", "DMI-73", "DMI-65"],
    control="the score weighted by rho^2",
    needs=scalar,
)
def straight_velocity(case: ModelCase, wrong: bool) -> list[Sides]:
    """The model on the clock sin^2 against Bayes' rule and against the score on flow matching's own clock."""
    rho, speed, x = place(case)

    def clock(t: Array) -> tuple[Array, Array, Array]:
        return np.sin(np.pi * t / 2) ** 2, np.pi / 2 * np.sin(np.pi * t), np.pi**2 / 2 * np.cos(np.pi * t)

    model = ExactModel(case.law, FlowMatching())
    c = model.affine.coefficients(rho)
    velocity = ExactModel(case.law, Transformed(FlowMatching(), clock)).velocity(x, 2 / np.pi * np.arcsin(np.sqrt(rho)))
    bayes = from_denoiser(c, x, model.denoiser(x, rho))
    kappa, size = speed / (1 - rho), sizes(c, x, bayes.denoiser).velocity
    score = (rho if wrong else 1) * rho * model.score(x, rho)
    return [
        Sides(velocity, speed * (bayes.noise - bayes.denoiser), speed * size),
        Sides(velocity, -kappa * (x + score), speed * size),
        Sides(velocity / kappa, -(x - bayes.noise), size),
        Sides(velocity / speed, model.velocity(x, rho), size),
    ]


@identity(
    "The rectified velocity in its own clock",
    topic=TOPIC,
    formula=r"\frac{dY}{ds} = -(Y - \epsilon^*(Y)),\quad s = -\log(1 - \rho):\qquad Y_s = X_{\rho(s)}",
    covers=["DMI-68", "DMI-69"],
    control="the clock s = -log rho",
    evidence=DERIVATIVE,
    needs=one_gaussian,
)
def rectified_clock(case: ModelCase, wrong: bool) -> Sides:
    """The closed flow map of Gaussian data, read in the clock s and differentiated, against x - E[Z | x]."""
    rho, _, x = place(case)
    model = ExactModel(case.law, FlowMatching())

    def flow(s: float) -> Array:
        return gaussian_flow(case.law, FlowMatching(), rho, np.exp(-s) if wrong else -np.expm1(-s), x)

    # steps of 1/50 of the distance to the ends of the clock, 0 and infinity
    s = -np.log(rho) if wrong else -np.log1p(-rho)
    noise = from_denoiser(model.affine.coefficients(rho), x, model.denoiser(x, rho)).noise
    return Sides(derivative(flow, s, 0.02 * min(s, 1.0)), -(x - noise), np.abs(x).max() * (1 + 1 / s))


@identity(
    "Which velocity transports the variance",
    topic=TOPIC,
    formula=r"\dot V = A V + V A^{\mathsf{T}},\quad A = \nabla v_{\mathrm{PF}}"
    r" = \frac{\dot{\bar\alpha}}{2\bar\alpha}(I - V^{-1})",
    covers=["DMI-72"],
    refutes=["DMI-72"],
    control="the velocity claimed to have the same curves, -(alpha_bar' / 2 alpha_bar) (x + sqrt(1 - alpha_bar) s)",
    needs=lambda case: one_gaussian(case) and preserving(case),
)
def variance_transport(case: ModelCase, wrong: bool) -> Sides:
    """V' from the schedule's derivatives against the Jacobian of a velocity with the Hessian of the log density."""
    c, model = case.process.coefficients(case.t), case.model
    cov, eye = case.law.cov(), np.eye(case.law.dim)
    half = c.dalpha / c.alpha  # alpha_bar' / (2 alpha_bar)
    hessian = model.hessian(case.x[0], case.t)
    slope = -half * (eye + c.sigma * hessian) if wrong else half * (eye + hessian)
    v = model.marginal(case.t).cov()
    rate = 2 * c.alpha * c.dalpha * cov + c.dvariance * eye
    return Sides(slope @ v + v @ slope.T, rate, np.abs(half) * (np.abs(v).max() + 1) + np.abs(rate).max())
