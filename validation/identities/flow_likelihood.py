r"""Likelihood by the probability flow: the algorithm, its prior, and what one step of Euler's does to a density.

    algorithm      x' = v, delta' = div v from data to noise:  log p(x_0) = log prior(x_T) + delta(T);  back again: x_0
    prior          E log p(x_0) = -H(p_0) - KL(p_T || prior): 0 for the model's own marginal, and only for that
                   sigma_T eps for x_0 + sigma_T eps: near in total variation, |m| / (sqrt(2 pi) sigma_T), and at a
                   2-Wasserstein distance that tends to |m|, the mean of the data, and not to 0
    Euler          log p_{t+h}(x + h v) = log p_t(x) - log det(I + h grad v) - h^2 div(p a) / (2 p) + O(h^3)
                   with a = dv/dt + (grad v) v, the acceleration: exact of order h only, as the proofs need
    determinant    det(I + h A) = 1 + h tr A + h^2 ((tr A)^2 - tr A^2) / 2 + O(h^3)
    continuity     d_t log p = -div v - v . s, times p: d_t p = -div(p v)

The densities on the left are closed; flows, Jacobians and accelerations come from the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from scipy.special import erf

from refdiff.arguments import Array
from refdiff.distributions import (
    Gaussian,
    GaussianMixture,
    entropy,
    kl_divergence,
    random_mixture,
    total_variation,
    wasserstein,
)
from refdiff.dynamics import FlowLikelihood, flow, log_likelihood
from refdiff.model import ExactModel
from refdiff.schedules import FlowMatching, Schedule, VEPower, VPLinear
from refdiff.validation import numeric
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import differentiable
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import cubature, smallest_std
from refdiff.validation.numeric import dot
from refdiff.validation.steps import FINE, relative_density, relative_rate, time_scale

TOPIC = "Flow maps and likelihood"
SCHEDULES: tuple[Schedule, ...] = (VPLinear(0.1, 8.0), FlowMatching(), VEPower(T=8.0))


@identity(
    "Likelihood from data to noise, and back",
    topic=TOPIC,
    formula=r"\dot x = v,\ \dot\delta = \nabla \cdot v:\quad \log p_0(x_0) = \log p_T(x_T) + \delta(T),"
    r"\quad \Psi_{T \to 0}(x_T) = x_0",
    covers=["PODB-23", "PODB-24", "PODA-421", "PODD-111", "TOPB-19"],
    over="once",
    evidence=QUADRATURE,
    control="delta taken away, the sign of the other direction of time",
)
def there_and_back(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's algorithm over all of [0, T] under a schedule a draw, against the mixture's own density."""
    law, x, found, back = journey(case)
    yield Sides(found.log_prior + (-1 if wrong else 1) * found.volume, law.logpdf(x), scale=1 + np.abs(found.volume))
    # what the flow stretches on its way back, an error is stretched with
    stretch = np.ptp(x, axis=0).max() / np.ptp(found.encoded, axis=0).min()
    yield Sides(back, x, scale=np.abs(x).max() + np.abs(found.encoded).max() * stretch)


@lru_cache(maxsize=4)
def journey(case: Case) -> tuple[GaussianMixture, Array, FlowLikelihood, Array]:
    """A mixture, data of it, their likelihood, and the way back of what they are encoded as, all (n, d)."""
    law = random_mixture(2, 2, case.rng, "full")
    model, x = ExactModel(law, SCHEDULES[case.seed % 3]), law.sample(2, case.rng)
    found = log_likelihood(model, x, rtol=1e-10)
    return law, x, found, flow(model, found.encoded, model.process.T, 0.0, rtol=1e-10).x


@identity(
    "What a prior costs",
    topic=TOPIC,
    formula=r"\mathbb{E}_{p_0} \log p^{\mathrm{ODE}}(x_0) = -H(p_0) - \mathrm{KL}(p_T \| \text{prior})",
    covers=["PODB-24", "PODA-421", "TOPB-24"],
    over="once",
    evidence=QUADRATURE,
    control="-H(p_0) alone: the likelihood of the data's own law",
)
def cost_of_a_prior(case: Case, wrong: bool) -> Iterator[Sides]:
    """Gaussian data: every log density is a quadratic, whose mean over the data is exact by cubature."""
    law, schedule, last, own, w = nodes_on_their_way(case)
    size = entropy(law) + np.abs(own.volume).max() + 1
    yield Sides(w @ own.log_likelihood, -entropy(law), scale=size)
    # sigma_T eps, and another one that no schedule would make better
    noise = Gaussian(np.zeros(2), schedule.sigma(schedule.T) ** 2)
    for prior in (noise, Gaussian(last.mean() + 0.3, 1.5 * last.cov())):
        cost = 0.0 if wrong else kl_divergence(Gaussian(last.mean(), last.cov()), prior)
        found = w @ (prior.logpdf(own.encoded) + own.volume)
        yield Sides(found, -entropy(law) - cost, scale=size + abs(found))


@lru_cache(maxsize=4)
def nodes_on_their_way(case: Case) -> tuple[Gaussian, Schedule, GaussianMixture, FlowLikelihood, Array]:
    """A Gaussian, its schedule and law at T, the likelihood of the nodes of its cubature, and their weights (n,)."""
    drawn = random_mixture(2, 1, case.rng, "full")
    law, schedule = Gaussian(drawn.mean(), drawn.cov()), SCHEDULES[case.seed % 3]
    model, (x, w) = ExactModel(law, schedule), cubature(law)
    return law, schedule, model.marginal(schedule.T), log_likelihood(model, x, rtol=1e-10), w


@identity(
    "A Gaussian prior is near in total variation, not in distance",
    topic=TOPIC,
    formula=r"\mathrm{TV}(N(m, \sigma_T^2), N(0, \sigma_T^2)) = \mathrm{erf}\, \tfrac{|m|}{2\sqrt2 \sigma_T},\quad"
    r" W_2^2(N(m, s^2 + \sigma_T^2), N(0, \sigma_T^2)) = m^2 + \bigl(\sqrt{s^2 + \sigma_T^2} - \sigma_T\bigr)^2"
    r" \to m^2",
    covers=["TOPB-24"],
    over="once",
    evidence=QUADRATURE,
    control="without the mean of the data: a distance that vanishes",
)
def gaussian_prior(case: Case, wrong: bool) -> Iterator[Sides]:
    """Integrals of |p - q| and of squared differences of quantiles, against closed forms and the library's."""
    m, s = case.rng.uniform(0.5, 2.0), case.rng.uniform(0.2, 1.5)
    for sigma in (5.0, 40.0, 80.0):
        prior = Gaussian([0.0], sigma**2)
        point, data = Gaussian([m], sigma**2), Gaussian([m], s**2 + sigma**2)
        # the densities of the point's law and of the prior cross once, half way

        def gap(x: Array, point: Gaussian = point, prior: Gaussian = prior) -> Array:
            return np.exp(point.logpdf(x[:, None])) - np.exp(prior.logpdf(x[:, None]))

        pieces = [numeric.integral(gap, m / 2 + a * sigma, m / 2 + (a + 2) * sigma) for a in range(0, 10, 2)]
        variation = erf(m / (2 * np.sqrt(2) * sigma))
        yield Sides(sum(pieces), variation)
        yield Sides(total_variation(point, prior), variation)
        # on the line the optimal coupling pairs quantiles, which are m + tau z and sigma z
        (z, w), tau = numeric.hermite(8), np.sqrt(s**2 + sigma**2)
        distance = (0.0 if wrong else m**2) + (tau - sigma) ** 2
        yield Sides(w @ (m + tau * z - sigma * z) ** 2, distance)
        yield Sides(wasserstein(data, prior) ** 2, distance)
        # the flow back to data keeps the one, and divides the other by its stretch tau / s: there it vanishes
        made, clean = prior.affine(s / tau, m - s / tau * m), Gaussian([m], s**2)
        generated = Gaussian(made.mean(), made.cov())
        yield Sides(total_variation(generated, clean), total_variation(prior, data))
        yield Sides(wasserstein(generated, clean) ** 2, (s / tau) ** 2 * distance)


# ---------------------------------------------------------------------- one step


@identity(
    "Determinant of a short step",
    topic=TOPIC,
    formula=r"\det(I + h A) = 1 + h\,\mathrm{tr} A + \tfrac{h^2}{2} [(\mathrm{tr} A)^2 - \mathrm{tr} A^2] + O(h^3)",
    covers=["PODD-73", "TOPB-19"],
    over="once",
    evidence=ORDER,
    control="-h^2 tr A^2 / 2, as in the logarithm of the determinant",
)
def determinant(case: Case, wrong: bool) -> Iterator[Sides]:
    """Determinants by elimination at four steps, extrapolated, against traces; exact beyond h^2 in the plane."""
    for d in (1, 2, 5):
        a = case.rng.standard_normal((d, d)) + 0.5 * np.eye(d)
        h = 0.05 / np.linalg.norm(a, 2) / 2.0 ** np.arange(4)
        remainders = [(np.linalg.det(np.eye(d) + step * a) - 1 - step * np.trace(a)) / step**2 for step in h]
        second = (0.0 if wrong else np.trace(a) ** 2) - np.trace(a @ a)
        yield Sides(numeric.extrapolate(remainders), second / 2, scale=d * np.linalg.norm(a, 2) ** 2)


@identity(
    "What Euler's map makes of a density",
    topic=TOPIC,
    formula=r"\log p_{t+h}(x + h v) = \log p_t(x) - \log\det(I + h \nabla v)"
    r" - \tfrac{h^2}{2p} \nabla \cdot (p\,a) + O(h^3),\quad a = \partial_t v + (\nabla v) v",
    covers=["PODD-111", "PODD-73", "TOPB-19"],
    evidence=ORDER,
    control="the volume of the backward step, -log det(I - h grad v), which is equal to first order only",
    needs=lambda case: differentiable(case, 3),
    most=8,
)
def step_of_euler(case: ModelCase, wrong: bool) -> Sides:
    """Closed densities at both ends of four short steps, extrapolated, against a stencil of the acceleration's flux."""
    model, x, t, d = case.model, case.x[:3], case.t, case.law.dim
    v, jacobian = model.velocity(x, t), model.velocity_jacobian(x, t)
    here, at_x = model.marginal(t), model.log_density(x, t)
    ratio, scale = relative_density(here, x), smallest_std(here)

    def defect(h: float) -> Array:
        sign = -1 if wrong else 1
        volume = sign * np.linalg.slogdet(np.eye(d) + sign * h * jacobian)[1]
        return np.asarray((model.log_density(x + h * v, t + h) - at_x + volume) / h**2)

    flux = numeric.divergence(lambda y: ratio(y)[:, None] * model.acceleration(y, t), x, FINE / 2 * scale)
    # what is added up at second order, before it cancels
    bend = np.einsum("ni,nij,nj->n", v, model.hessian(x, t), v)
    size = (jacobian**2).sum(axis=(1, 2)) + np.abs(bend) + np.abs(flux)
    size += np.abs(dot(model.acceleration(x, t), model.score(x, t)))
    steps = 0.05 * time_scale(case) / 2.0 ** np.arange(4)
    return Sides(numeric.extrapolate([defect(h) for h in steps]), -flux / 2, scale=size.max())


@identity(
    "From the rate of the log density to the continuity equation",
    topic=TOPIC,
    formula=r"\partial_t \log p = -\nabla \cdot v - v \cdot \nabla \log p \;\times p:\quad"
    r" \partial_t p = -\nabla \cdot (p v)",
    covers=["PODD-73"],
    refutes=["PODD-73"],
    evidence=DERIVATIVE,
    control="exponentiating, as the source says, in place of multiplying by p",
    needs=lambda case: differentiable(case, 2),
    most=12,
)
def continuity(case: ModelCase, wrong: bool) -> list[Sides]:
    """The rate of p by a stencil in time, against the model's divergence and score, and a stencil of the flux."""
    model, x, t = case.model, case.x[:3], case.t
    here, at_x = model.marginal(t), model.log_density(x, t)
    h, ratio = FINE * smallest_std(here), relative_density(here, x)
    v, s, p = model.velocity(x, t), model.score(x, t), np.exp(at_x)
    of_log = -model.velocity_divergence(x, t) - dot(v, s)
    rate = p * relative_rate(lambda u: model.log_density(x, t + u), FINE * time_scale(case))
    flux = numeric.divergence(lambda y: ratio(y)[:, None] * model.velocity(y, t), x, h)
    c = case.process.coefficients(t)
    parts = np.abs(c.dalpha * model.denoiser(x, t)) + 0.5 * np.abs(c.dvariance * s)
    size = p * (dot(parts, np.abs(s) + FINE / h) + np.abs(of_log))
    return [
        Sides(rate, np.exp(of_log) if wrong else p * of_log, scale=size),
        Sides(rate, -p * flux, scale=size),
    ]
