r"""Steps of Jordan, Kinderlehrer and Otto: the implicit Euler steps of a gradient flow in Wasserstein's geometry.

    J(q) = argmin_r { F(r) + W_2(q, r)^2 / (2 tau) },     x = y + tau grad (dF/dr)(y)   for the optimal pairs (x, y)

F = KL(. || p) gives the flow of generators' particles, dx = grad log p/q_t dt, whose explicit Euler steps are x + tau
grad log p/q (x). Both are of order 1, with errors of opposite sign. Sources: TOPB-77, TOPB-79.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.metrics import wasserstein
from refdiff.path_measures import kl_gradient_flow
from refdiff.transport import FreeEnergy
from refdiff.validation.cases import Case
from refdiff.validation.identities.displacements import printed_map
from refdiff.validation.identities.metrics_transport import at_most
from refdiff.validation.identity import DERIVATIVE, ORDER, Sides, identity
from refdiff.validation.laws import gaussian
from refdiff.validation.numeric import derivative, extrapolate

TOPIC = "Gradient flows"


@identity(
    "The proximal step of KL is the implicit Euler step of its particles",
    topic=TOPIC,
    formula=r"y + \tau\, \nabla \log \tfrac{r}{p}(y) = x,\quad r = \operatorname{argmin}\ \mathrm{KL}(r \| p) +"
    r" \tfrac{1}{2 \tau} \mathcal{W}_2(q, r)^2 = T_\sharp q,\quad y = T(x)",
    covers=["TOPB-77", "TOPB-79"],
    over="once",
    tolerance=1e-10,  # maps of covariances whose condition is up to some hundreds
    control="the explicit step, y = x - tau grad log (q/p)(x)",
)
def implicit(case: Case, wrong: bool) -> list[Sides]:
    """Any dimension, covariances that do not commute: the printed map from q to the step, and laws that are near it."""
    rng, sides = case.rng, []
    for dim in (1, 2, 5):
        p, q, tau = gaussian(rng, dim), gaussian(rng, dim), float(rng.uniform(0.05, 0.5))
        energy = FreeEnergy.divergence(p)
        step, x = energy.step(q, tau), q.sample(5, rng)
        y = step.mean() + (x - q.mean()) @ printed_map(q, step)
        pull = q.score(x) - p.score(x) if wrong else step.score(y) - p.score(y)
        sides.append(Sides(y + tau * pull, x))
        least = _objective(energy, q, step, tau)
        near = Gaussian(step.mean() + 0.01 * rng.standard_normal(dim), step.cov()).affine(1 + 0.01 * rng.uniform())
        sides += [Sides(energy.value(step), kl_divergence(step, p)), at_most(least, _objective(energy, q, near, tau))]
    return sides


def _objective(energy: FreeEnergy, q: Gaussian, r: object, tau: float) -> float:
    assert isinstance(r, Gaussian)
    return energy.value(r) + float(wasserstein(q, r).value ** 2) / (2 * tau)


@identity(
    "Proximal steps reach the gradient flow at order 1, from the other side than explicit ones",
    topic=TOPIC,
    formula=r"J_{T/n}^n q = q_T + \tfrac{T}{n} e(T) + O(n^{-2}),\quad \dot e = f'(y)\, e + \tfrac12 f'(y) f(y),\quad"
    r" \dot y = f(y)",
    covers=["TOPB-77", "TOPB-79"],
    over="once",
    evidence=ORDER,
    control="the error of explicit steps, of the opposite sign",
)
def order(case: Case, wrong: bool) -> list[Sides]:
    """Mean and deviation on the line, f = ((m - a)/S, 1/b - b/S): the error by its own equation, steps extrapolated."""
    rng, sign = case.rng, -0.5 if wrong else 0.5
    m, s, a, b = rng.uniform(-1, 1), rng.uniform(0.5, 2), rng.uniform(-2, 2), rng.uniform(0.3, 2)
    p, q = Gaussian([m], s), Gaussian([a], b * b)
    energy = FreeEnergy.divergence(p)

    def rates(_: float, state: Array) -> Array:
        y, e = state[:2], state[2:]
        f = np.array([(m - y[0]) / s, 1 / y[1] - y[1] / s])
        slope = np.array([-1 / s, -1 / y[1] ** 2 - 1 / s])
        return np.concatenate([f, slope * (e + sign * f)])

    end = solve_ivp(rates, (0.0, 1.0), [a, b, 0.0, 0.0], "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    flow = energy.flow(q, 1.0)
    known = kl_gradient_flow(p, q).marginal(1.0)
    errors = []
    for n in (20, 40, 80, 160):
        last = energy.steps(q, 1 / n, n)[-1]
        here = np.array([last.mean()[0], np.sqrt(last.cov()[0, 0])])
        errors.append(n * (here - np.array([flow.mean()[0], np.sqrt(flow.cov()[0, 0])])))
    return [
        Sides(extrapolate(errors), end[2:]),
        Sides([flow.mean()[0], flow.cov()[0, 0]], [end[0], end[1] ** 2]),
        Sides([flow.mean()[0], flow.cov()[0, 0]], [known.mean()[0], known.cov()[0, 0]]),
    ]


@identity(
    "The variational inequality of a gradient flow, and what it bounds",
    topic=TOPIC,
    formula=r"\tfrac{1 + \lambda\tau}{2} \mathcal{W}_2(J q, r)^2 - \tfrac12 \mathcal{W}_2(q, r)^2 \le \tau \big(F(r) -"
    r" F(J q)\big) - \tfrac12 \mathcal{W}_2(q, J q)^2,\quad \mathrm{KL} \le \mathcal{W}_2 \sqrt{I} - \tfrac{\lambda}{2}"
    r" \mathcal{W}_2^2,\ \mathcal{W}_2^2 \le \tfrac{2}{\lambda} \mathrm{KL} \le \tfrac{1}{\lambda^2} I",
    covers=["TOPB-77"],
    over="once",
    evidence=DERIVATIVE,
    control="the largest eigenvalue of the inverse covariance for lambda, the least",
)
def inequality(case: Case, wrong: bool) -> list[Sides]:
    """F = KL(. || p), I its Fisher divergence; the rate of F by a stencil; distances shrink at the rate lambda."""
    rng, sides = case.rng, []
    for dim in (2, 4):
        p, q, tau = gaussian(rng, dim), gaussian(rng, dim), 0.4
        energy, values = FreeEnergy.divergence(p), 1 / np.linalg.eigvalsh(p.cov())
        rate = float(values.max() if wrong else values.min())
        fall = derivative(lambda t, q=q, energy=energy: np.asarray(energy.value(energy.flow(q, t))), 0.3, 0.005)  # type: ignore[misc]
        sides.append(Sides(-fall, energy.dissipation(energy.flow(q, 0.3))))
        step = energy.step(q, tau)
        # p moved along its longest axis: there the bounds are met
        axis = np.linalg.eigh(p.cov())[1][:, -1]
        for r in (gaussian(rng, dim), p.affine(1.0, 0.7 * axis), p):
            left = 0.5 * (1 + rate * tau) * _square(step, r) - 0.5 * _square(q, r)
            sides.append(at_most(left, tau * (energy.value(r) - energy.value(step)) - 0.5 * _square(q, step)))
            if r is p:
                continue
            kl, fisher, square = energy.value(r), energy.dissipation(r), _square(r, p)
            sides += [
                at_most(kl, np.sqrt(square * fisher) - 0.5 * rate * square),
                at_most(square, 2 / rate * kl),
                at_most(2 * rate * kl, fisher),
                at_most(_square(energy.flow(q, 0.5), energy.flow(r, 0.5)), np.exp(-rate) * _square(q, r)),
            ]
    return sides


def _square(p: object, q: object) -> float:
    assert isinstance(p, Gaussian)
    assert isinstance(q, Gaussian)
    return float(wasserstein(p, q).value ** 2)
