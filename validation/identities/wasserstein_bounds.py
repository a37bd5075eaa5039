r"""W2 <= score matching, for the flow and for the equations with noise, and what its constants are.

The example of the spec: data N(0, s^2) under VE noise sigma = t, V = s^2 + t^2, and s^ = -a (x - b) / V. With
c = a (1 + k^2)/2 everything is closed in V, as g^2 dt = dV:

    I_t = (V_0 / V_t)^c,   E y_0 = b (1 - I_T),   Var y_0 = I_T^2 V_T + k^2 int (V_0 / V)^(2 c) dV
    bound = (1 + k^2)/2 int (V_0 / V)^c [(a - 1)^2 / V + a^2 b^2 / V^2]^(1/2) dV

The bound printed for the flow has twice the weight. Sources: TOPB-56, TOPB-58, TOPB-61, TOPB-63, TOPB-64, TOPB-66.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import quad, solve_ivp

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, wasserstein
from refdiff.expectations import Quadrature
from refdiff.model import ExactModel
from refdiff.path_measures import (
    AffineScore,
    LipschitzScore,
    coupled_law,
    score_error,
    wasserstein_bound,
)
from refdiff.processes import AffineProcess, LinearProcess
from refdiff.schedules import FlowMatching, VEPower, VPLinear
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, well_conditioned

TOPIC = "Stability of samplers"


def below(less: float, more: float) -> Sides:
    """That one number, `less`, is at most another one, `more`: by how much it is not, beside their sizes."""
    return Sides(min(more - less, 0.0), 0.0, scale=abs(less) + abs(more))


def scaled(std: float, a: float, b: float) -> AffineScore:
    """s^ = -a (x - b) / (s^2 + t^2) on the line, of data of the deviation `std`, shape (n, 1)."""
    return AffineScore(lambda t: a / (std**2 + t * t), lambda _: b, 1)


@identity(
    "The Wasserstein bound in closed form, for flow and equation",
    topic=TOPIC,
    formula=r"\mathcal{W}_2[p_0, q_0] \le \tfrac{1 + k^2}{2} \int_0^T g_t^2 I_t \sqrt{\mathrm{SM}_t}\,dt,\quad"
    r" I_t = \left(V_0 / V_t\right)^{a (1 + k^2) / 2},\quad a = 1:\ \text{equality}",
    covers=["TOPB-56", "TOPB-63"],
    refutes=["TOPB-63"],
    over="once",
    evidence=QUADRATURE,
    control="the printed weight g^2, which is that of k = 1, for the flow k = 0",
    most=1,
)
def closed_bound(case: Case, wrong: bool) -> list[Sides]:
    """The library's law and bound against the closed forms; a shift alone is followed exactly, so the bound is W2."""
    rng, sides = case.rng, []
    for k, a in ((0.0, 1.0), (1.0, 1.0), (0.0, rng.uniform(0.7, 1.4)), (rng.uniform(0.3, 1.2), rng.uniform(0.7, 1.4))):
        std, end, b = rng.uniform(0.3, 1.0), rng.uniform(2.0, 6.0), rng.uniform(0.2, 0.6)
        model = ExactModel(Gaussian([0.0], std**2), VEPower(1.0, T=end))
        score = scaled(std, a, b)
        v0, vt, half = std**2, std**2 + end**2, (1 + k * k) / 2
        grown = (v0 / vt) ** (a * half)
        noise = quad(lambda v, a=a, k=k, v0=v0, half=half: k * k * (v0 / v) ** (2 * a * half), v0, vt)[0]
        size = quad(
            lambda v, a=a, b=b, v0=v0, half=half: (v0 / v) ** (a * half) * np.hypot((a - 1) / v**0.5, a * b / v),
            v0,
            vt,
            epsabs=1e-13,
        )[0]
        found, bound = coupled_law(model, score, stochasticity=k), wasserstein_bound(model, score, stochasticity=k)
        sides += [
            Sides(found.generated.mean()[0], b * (1 - grown)),
            Sides(found.generated.cov()[0, 0], grown**2 * vt + noise),
            Sides(bound.growth, grown),
            Sides(bound.value, (1.0 if wrong else half) * size),
            below(found.wasserstein, bound.value),
        ]
        if a == 1:
            sides.append(Sides(found.wasserstein, (1.0 if wrong else half) * size))
    return sides


def systems(rng: np.random.Generator) -> list[tuple[ExactModel, AffineScore, Gaussian, float]]:
    """Gaussian data in the plane under a scalar process, one per axis and a matrix one; scores with a shear; priors."""
    processes = (
        (AffineProcess(VPLinear(0.1, 6.0)), 1.0),
        (AffineProcess([VPLinear(0.1, 5.0), FlowMatching()]), 0.9),
        (LinearProcess(-well_conditioned(rng, 2), well_conditioned(rng, 2), 1.0, force=rng.standard_normal(2)), 1.0),
    )
    found = []
    for process, end in processes:
        model = ExactModel(gaussian(rng, 2), process)
        score = sheared(AffineScore.exact(model), rng.standard_normal((2, 2)), rng.standard_normal(2))
        found.append((model, score, gaussian(rng, 2), end))
    return found


def sheared(exact: AffineScore, shear: Array, shift: Array) -> AffineScore:
    """An affine score in the plane, `exact` but for a shear (2, 2) and a shift (2,) of its centre."""

    def steep(t: float) -> Array:
        return np.asarray(operators.dense(exact.precision_at(t), 2) + 0.5 * shear)

    return AffineScore(steep, lambda t: exact.centre_at(t) + 0.2 * shift, 2)


@identity(
    "Any process: W2, the coupling by one noise, and the bound",
    topic=TOPIC,
    formula=r"\mathcal{W}_2[p_0, q_0] \le \big(\mathbb{E} \|x_0 - y_0\|^2\big)^{1/2}"
    r" \le \tfrac{1 + k^2}{2} \int_0^T I_t \big(\mathbb{E}_{p_t} \|D(s - \hat s)\|^2\big)^{1/2} dt"
    r" + I_T \mathcal{W}_2[p_T, q_T],\quad"
    r" \mathcal{L}_t = \lambda_{\max} \operatorname{sym}\big(-F + \tfrac{1 + k^2}{2} D\, \partial \hat s\big)",
    covers=["TOPB-61", "TOPB-66"],
    over="once",
    evidence=QUADRATURE,
    control="the priors taken for equal, as in practice is said to be: their term left out",
    most=1,
)
def shared_noise(case: Case, wrong: bool) -> list[Sides]:
    """Scalar, per-axis and matrix processes: moments of y integrated by DOP853 against the library's law."""
    sides = []
    for (model, score, prior, end), k in zip(systems(case.rng), (1.0, 0.0, 0.7), strict=True):
        found = coupled_law(model, score, stochasticity=k, prior=prior, end=end)
        bound = wasserstein_bound(model, score, stochasticity=k, prior=prior, end=end, tolerance=1e-5)
        mean, cov = generated_moments(model, score, prior, k, end)
        sides += [
            Sides(found.generated.mean(), mean),
            Sides(found.generated.cov(), cov),
            below(found.wasserstein, found.distance),
            below(found.distance, bound.value),
        ]
    model, _, prior, _ = systems(case.rng)[0]
    exact = AffineScore.exact(model)
    kept = coupled_law(model, exact, stochasticity=1.0, prior=prior)
    alone = wasserstein_bound(model, exact, stochasticity=1.0, prior=prior, tolerance=1e-5)
    return [*sides, below(kept.distance, alone.matching if wrong else alone.value)]


def generated_moments(
    model: ExactModel, score: AffineScore, prior: Gaussian, k: float, end: float
) -> tuple[Array, Array]:
    """Mean (d,) and covariance (d, d) of y_0 in the plane, from the prior at `end`, by DOP853 in the elapsed time."""
    process = model.process

    def rate(tau: float, state: Array) -> Array:
        t = end - tau
        f, d = (np.asarray(part) * np.eye(2) for part in (process.drift(t), process.diffusion(t)))
        if np.ndim(process.drift(t)) == 2:
            f, d = process.drift(t), process.diffusion(t)
        offset = process.offset(t)
        a, c = score.precision_at(t), score.centre_at(t)
        slope = -(f + 0.5 * (1 + k * k) * d @ a)
        push = -(offset.rate - f @ (offset.value * np.ones(2))) + 0.5 * (1 + k * k) * d @ a @ c
        cov = state[2:].reshape(2, 2)
        return np.concatenate([slope @ state[:2] + push, (slope @ cov + cov @ slope.T + k * k * d).ravel()])

    first = np.concatenate([prior.mean(), prior.cov().ravel()])
    last = solve_ivp(rate, (0, end), first, "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    return last[:2], last[2:].reshape(2, 2)


@identity(
    "The constant is an eigenvalue of the symmetric part",
    topic=TOPIC,
    formula=r"\tfrac{d}{d\tau} \|e\|^2 \le 2 \lambda_{\max}\big(\tfrac12 (B + B^\top)\big) \|e\|^2,"
    r"\quad \dot e = B e",
    covers=["TOPB-59", "TOPB-66"],
    over="once",
    evidence=QUADRATURE,
    control="the largest real part of an eigenvalue of B in its place",
)
def logarithmic_norm(case: Case, wrong: bool) -> list[Sides]:
    """A score with a strong shear: its eigenvalues alone say that errors decay, and the bound would be broken."""
    rng, sides = case.rng, []
    model = ExactModel(Gaussian([0.0, 0.0], 1.0), VPLinear(2.0, 2.0, T=1.0))
    size = rng.uniform(8.0, 12.0)
    slope = np.array([[1.0, -size], [0.0, 1.0]])
    score = AffineScore(lambda _: slope, lambda _: np.array([0.0, 0.5]), 2)
    prior = Gaussian([0.0, 1.0], 1.0)
    for k in (0.0, 1.0):
        found = coupled_law(model, score, stochasticity=k, prior=prior)
        if wrong:  # both eigenvalues of -A are -1, and D is 2
            score_alone = LipschitzScore(score.at, lambda _: -2.0, 2)
            bound = wasserstein_bound(model, score_alone, stochasticity=k, prior=prior, route=Quadrature())
        else:
            bound = wasserstein_bound(model, score, stochasticity=k, prior=prior)
        sides += [below(found.wasserstein, bound.value), below(found.distance, bound.value)]
    return sides


@identity(
    "The weight of the bound in time is not monotone",
    topic=TOPIC,
    formula=r"g_t^2 I_t = \frac{2 t s_0^2}{s_0^2 + t^2},\quad \tfrac{d}{dt} = 0\ \text{at}\ t = s_0;\qquad"
    r" \frac{g_t^2 I_t}{\bar\beta_t} = \frac{2 s_0^2}{s_0^2 + t^2}",
    covers=["TOPB-58"],
    refutes=["TOPB-58"],
    over="once",
    evidence=DERIVATIVE,
    control="g_t^2 I_t increasing, as printed: the largest value is at the end",
    most=1,
)
def weight_in_time(case: Case, wrong: bool) -> list[Sides]:
    """Of the library's I_t: it rises to t = s_0 and falls; on the root of the noise loss the weight falls throughout.

    The loss without its 1 / sigma^2 is weighted by a constant on that root: the bound asks for small t, not for large.
    """
    std, end = case.rng.uniform(0.5, 2.0), 8.0
    model = ExactModel(Gaussian([0.0], std**2), VEPower(1.0, T=end))
    exact = AffineScore.exact(model)

    def weight(t: float) -> Array:
        grown = wasserstein_bound(model, exact, stochasticity=1.0, end=float(t)).growth
        return np.asarray(model.process.diffusion(float(t)) * grown)

    times = std * np.array([0.5, 1.0, 2.0, 3.5])
    found = np.array([float(weight(t)) for t in times])
    at_most = found[-1] if wrong else found[1]
    noise_error = score_error(model, AffineScore(exact.precision_at, lambda _: 1.0, 1), 2.0).value
    return [
        Sides(found, 2 * times * std**2 / (std**2 + times**2)),
        Sides(found.max(), at_most),
        Sides(numeric.derivative(weight, std, 0.05 * std), 0.0, scale=1.0),
        Sides(found / times, 2 * std**2 / (std**2 + times**2)),
        # the loss of the noise is sigma^2 times that of the score
        Sides(4.0 * noise_error, (2.0 / (std**2 + 4.0)) ** 2),
    ]


@identity(
    "The flow that has the marginals of an equation with a wrong score",
    topic=TOPIC,
    formula=r"dy = [f - g^2 \hat s]\,dt + g\,dw \iff \dot y = f - g^2 \hat s + \tfrac12 g^2 \nabla \log q_t",
    covers=["TOPB-64"],
    over="once",
    evidence=QUADRATURE,
    control="the last term with the other sign",
    most=1,
)
def flow_of_a_wrong_score(case: Case, wrong: bool) -> list[Sides]:
    """The affine map of the flow, carried with q_t by DOP853, against the law of the equation by Gauss steps."""
    rng = case.rng
    model = ExactModel(gaussian(rng, 2), VPLinear(0.5, 5.0))
    exact, shear = AffineScore.exact(model), 0.4 * rng.standard_normal((2, 2))
    score = AffineScore(lambda t: exact.precision_at(t) + shear, lambda t: exact.centre_at(t) + 0.3, 2)
    prior, process, sign = gaussian(rng, 2), model.process, (-1.0 if wrong else 1.0)

    def rate(tau: float, state: Array) -> Array:
        t = 1.0 - tau
        f, g2, a, c = float(process.drift(t)), float(process.diffusion(t)), score.precision_at(t), score.centre_at(t)
        mean, cov, gain, point = state[:2], state[2:6].reshape(2, 2), state[6:10].reshape(2, 2), state[10:]
        slope, push = -(f * np.eye(2) + g2 * a), g2 * a @ c
        pull = 0.5 * sign * g2 * np.linalg.inv(cov)  # -g^2/2 grad log q, in the elapsed time
        return np.concatenate([
            slope @ mean + push,
            (slope @ cov + cov @ slope.T + g2 * np.eye(2)).ravel(),
            ((slope + pull) @ gain).ravel(),
            slope @ point + push + pull @ (point - mean),
        ])  # fmt: skip

    first = np.concatenate([prior.mean(), prior.cov().ravel(), np.eye(2).ravel(), prior.mean()])
    last = solve_ivp(rate, (0, 1), first, "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    gain = last[6:10].reshape(2, 2)
    found = coupled_law(model, score, stochasticity=1.0, prior=prior).generated
    return [
        Sides(gain @ prior.cov() @ gain.T, found.cov()),
        Sides(last[10:], found.mean()),
    ]


@identity(
    "The prior of a sampler is not the law that the noise leads to",
    topic=TOPIC,
    formula=r"p_T = \mathcal{N}(\alpha_T m, \alpha_T^2 \Sigma + \sigma_T^2 I) \ne \mathcal{N}(0, I):\quad"
    r" \mathcal{W}_2^2 = \alpha_T^2 \|m\|^2 + \sum_i \big(\sqrt{\alpha_T^2 \lambda_i + \sigma_T^2} - 1\big)^2",
    covers=["TOPB-56"],
    refutes=["TOPB-56"],
    over="once",
    control="W2[p_T, q_T] = 0, as is said of practice",
)
def prior_mismatch(case: Case, wrong: bool) -> list[Sides]:
    """For data of any mean and covariance but 0 and I, under noise that preserves variance."""
    rng = case.rng
    law, schedule = gaussian(rng, 3), VPLinear()
    model, c = ExactModel(law, schedule), schedule.coefficients(1.0)
    values = np.linalg.eigvalsh(c.alpha**2 * law.cov() + c.sigma**2 * np.eye(3))
    square = c.alpha**2 * (law.mean() ** 2).sum() + ((np.sqrt(values) - 1) ** 2).sum()
    prior = Gaussian(np.zeros(3), 1.0)
    found = wasserstein(model.marginal(1.0), prior)
    exact = AffineScore.exact(model)
    bound = wasserstein_bound(model, exact, prior=prior, tolerance=1e-8)
    return [
        Sides(found, 0.0 if wrong else np.sqrt(square), scale=np.sqrt(square) + 1e-3),
        Sides(bound.prior, bound.growth * (0.0 if wrong else np.sqrt(square)), scale=bound.growth * 1e-3 + bound.prior),
    ]
