r"""The balance of entropy on the way to noise: what is produced, what goes to the bath, what keeps house.

    v = f - (D/2) grad log p,   dS/dt = E div v,   Pi = E |v|^2_(D/2)^-1,   Q = E f'(D/2)^-1 v
    dS/dt = Pi - Q,             Pi = E |grad log(p / pi)|^2_(D/2) + E |f - (D/2) grad log pi|^2_(D/2)^-1

The library has all of this from the Gaussian with the same moments, and one expectation more; here every term is summed
over a grid as it is defined, or differenced in time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.dynamics import equilibrium
from refdiff.expectations import Quadrature
from refdiff.metrics import divergence
from refdiff.model import ExactModel
from refdiff.physics import Clock, controlled_equation, entropy_balance, frozen, total_production
from refdiff.processes import LinearProcess
from refdiff.schedules import VPLinear
from refdiff.validation import laws
from refdiff.validation.cases import Case, ModelCase
from refdiff.validation.conditions import differentiable
from refdiff.validation.expectations import grid
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, lattice, ticks
from refdiff.validation.steps import FINE, time_scale

TOPIC = "Approach to equilibrium"
# In the plane a sum gains as many digits with the last halving as it had: 1e-6 is what changes, 1e-12 is left.
RULE, IN_THE_PLANE = Quadrature(1e-11), Quadrature(1e-6)


@identity(
    "Entropy is produced and goes to the bath",
    topic=TOPIC,
    formula=r"\dot S = \Pi - Q,\quad \Pi = \mathbb{E}\, v^\top (D/2)^{-1} v \ge 0,"
    r"\quad Q = \mathbb{E}\, f^\top (D/2)^{-1} v,\quad v = f - \tfrac12 D \nabla \log p",
    covers=["PHY-82", "RDX-44"],
    evidence=QUADRATURE,
    control="the diffusivity D in place of D / 2",
    needs=lambda case: case.law.dim == 1 and bool(np.all(case.process.coefficients(case.t).g2 > 0)),
    most=6,
)
def balance(case: ModelCase, wrong: bool) -> list[Sides]:
    """Production, heat and the rate of entropy as they are defined, over a grid of p_t."""
    c, model, t = case.process.coefficients(case.t), case.model, case.t
    found, nodes = entropy_balance(model, t, RULE), grid(case, t)
    x, v = nodes.x, nodes.answer("velocity")
    mobility = np.broadcast_to((1.0 if wrong else 2.0) / c.g2, model.dim)
    drift = np.broadcast_to(c.f, model.dim) * x
    made, given = nodes.mean((mobility * v**2).sum(axis=1)), nodes.mean((mobility * drift * v).sum(axis=1))
    rate = nodes.mean(np.asarray(model.velocity_divergence(x, t)))
    # the two terms of v, before they cancel
    size = nodes.mean((2 / c.g2 * (np.abs(drift) + 0.5 * c.g2 * np.abs(nodes.score)) ** 2).sum(axis=1))
    return [
        Sides(found.production.value, made, scale=size),
        Sides(found.heat.value, given, scale=size),
        Sides(found.rate.value, rate, scale=size),
    ]


def turning(rng: np.random.Generator, dim: int = 2) -> LinearProcess:
    """A process that turns in its equilibrium, from `rng` on `dim` axes, with a force."""
    sigma, root = laws.covariances(laws.gaussian(rng, dim))[0] + 0.2 * np.eye(dim), laws.well_conditioned(rng, dim)
    q = rng.standard_normal((dim, dim))
    f = equilibrium.equilibrating_drift(root @ root.T, q - q.T, sigma)
    return LinearProcess(f, root, 1.0, force=rng.standard_normal(dim))


@identity(
    "Production relaxes and keeps house",
    topic=TOPIC,
    formula=r"\Pi = \mathbb{E}\, |\nabla \log \tfrac{p}{\pi}|^2_{D/2} + \mathbb{E}\, |v_\pi|^2_{(D/2)^{-1}},\quad"
    r" v_\pi = f - \tfrac12 D \nabla \log \pi,\quad \mathbb{E}\, v_\pi \cdot \nabla \log \tfrac{p}{\pi} = 0",
    covers=["RDX-44", "RDX-46"],
    over="once",
    evidence=QUADRATURE,
    control="the current of detailed balance: nothing to keep house for",
)
def split(case: Case, wrong: bool) -> Iterator[Sides]:
    """Mixtures under processes that turn, each term over a grid of p_t."""
    rng, t = case.rng, 0.3
    model = ExactModel(random_mixture(2, 2, rng, "full", 0.7), turning(rng))
    law, end, d = model.marginal(t), frozen(model, t).stationary, np.asarray(model.process.diffusion(t))
    x, cell = plane(law)
    weights = np.exp(law.logpdf(x)) * cell
    inverse, pull = np.linalg.inv(d / 2), law.score(x) - end.score(x)
    offset = model.process.offset(t)
    drift = operators.apply(model.process.drift(t), x - offset.value) + offset.rate
    kept = drift - end.score(x) @ d / 2
    terms = [weights @ np.einsum("ni,ij,nj->n", a, w, a) for a, w in ((pull, d / 2), (kept, inverse))]
    found = entropy_balance(model, t, IN_THE_PLANE)
    assert found.excess is not None
    assert found.housekeeping is not None
    size = sum(terms)
    yield Sides(found.excess.value, terms[0], scale=size)
    yield Sides(found.housekeeping.value, terms[1], scale=size)
    yield Sides(found.production.value, terms[0] if wrong else sum(terms), scale=size)
    yield Sides(weights @ (kept * pull).sum(axis=1), 0.0, scale=size)


def plane(law: GaussianMixture) -> tuple[Array, float]:
    """A grid (n, 2) and its cell for a mixture in the plane, four nodes in its least deviation."""
    step, reach = laws.smallest_std(law) / 4, 8.5 * np.sqrt(np.linalg.eigvalsh(laws.covariances(law)).max())
    low, high = law.means.min(axis=0) - reach, law.means.max(axis=0) + reach
    return lattice(*(ticks(a, b, step) for a, b in zip(low, high, strict=True))), step**2


@identity(
    "In detailed balance the production is the divergence that is lost",
    topic=TOPIC,
    formula=r"\int_s^t \Pi\, du = \mathrm{KL}(p_s \| \pi) - \mathrm{KL}(p_t \| \pi),\quad"
    r" \Pi = \mathbb{E}\, |\nabla \log \tfrac{p}{\pi}|^2_{D/2}",
    covers=["RDX-46", "PHY-85"],
    over="once",
    evidence=QUADRATURE,
    control="the loss of entropy in place of that of divergence: without the heat",
    most=1,
)
def lost(case: Case, wrong: bool) -> Iterator[Sides]:
    """Production over time by an adaptive rule against divergences at both ends, of a Gaussian and of a mixture."""
    rng = case.rng
    schedule, (s, t) = VPLinear(*np.sort(rng.uniform(0.5, 4.0, 2))), (0.1, 0.7)
    for law in (laws.gaussian(rng, 3), random_mixture(1, 2, rng, spread=1.0)):
        model, end = ExactModel(law, schedule), Gaussian(np.zeros(law.dim), 1.0)
        route = None if law.count == 1 else RULE
        made = total_production(model, s, t, route).value
        if wrong:
            told = [-entropy_balance(model, u, route).entropy.value for u in (s, t)]
        else:
            told = [divergence(model.marginal(u), end, "kl", route).value for u in (s, t)]
        yield Sides(made, told[0] - told[1])


@identity(
    "A law becomes Gaussian at the rate that its entropy gains on that of a Gaussian",
    topic=TOPIC,
    formula=r"\dot S(p) - \dot S(p_G) = -\tfrac{d}{dt} \mathrm{KL}(p \| p_G)"
    r" = \tfrac12\, \mathbb{E}\, |\nabla \log \tfrac{p}{p_G}|^2_D \ge 0",
    covers=["RDX-46"],
    evidence=DERIVATIVE,
    control="D in place of D / 2",
    needs=lambda case: case.law.dim == 1 and differentiable(case) and case.law.count > 1,
    most=6,
)
def becoming_gaussian(case: ModelCase, wrong: bool) -> Sides:
    """The divergence from the Gaussian with the moments, over a grid of p_t that moves, against the library's rate."""
    model, t, h = case.model, case.t, FINE / 2 * time_scale(case)
    here, step = laws.line(model.marginal(t))

    def apart(u: float) -> Array:
        law = model.marginal(t + u)
        near, logs = Gaussian(law.mean(), law.cov()), law.logpdf(here)
        return np.asarray((np.exp(logs) * (logs - near.logpdf(here))).sum() * step)

    found = entropy_balance(model, t, RULE).non_gaussian.value
    # a divergence of order 1 on that time scale; late, what is left of it counts as nothing beside a thousandth
    return Sides(-derivative(apart, 0.0, h), (2.0 if wrong else 1.0) * found, scale=found + 1e-3 * FINE / h)


@identity(
    "Generating heats the bath by what noising gained, twice",
    topic=TOPIC,
    formula=r"dx = (f + (r - 1) v)\, dt' + G\, dw:\quad \Pi_r = r^2\, \Pi,\quad Q_r = r^2\, \Pi - r\, \dot S,\quad"
    r" Q_{-1} = Q + 2\, \dot S",
    covers=["PHY-06", "PHY-07"],
    over="once",
    evidence=QUADRATURE,
    control="the heat of the noising",
)
def generated_heat(case: Case, wrong: bool) -> Iterator[Sides]:
    """Production and heat of controlled equations, from their drift and the score, over a grid of p_t."""
    rng, t = case.rng, 0.3
    model = ExactModel(random_mixture(2, 2, rng, "full", 0.7), turning(rng))
    law, d = model.marginal(t), np.asarray(model.process.diffusion(t))
    x, cell = plane(law)
    weights, inverse, found = (
        np.exp(law.logpdf(x)) * cell,
        np.linalg.inv(d / 2),
        entropy_balance(model, t, IN_THE_PLANE),
    )
    for rate in (0.0, -1.0, -2.0):
        drift = controlled_equation(model, Clock(t, rate)).drift_at(x, 0.0)
        flow = drift - law.score(x) @ d / 2
        made, heat = (weights @ np.einsum("ni,ij,nj->n", a, inverse, flow) for a in (flow, drift))
        size = weights @ np.einsum("ni,ij,nj->n", drift, inverse, drift)
        told = found.under_control(rate)
        yield Sides(told[0].value, made, scale=size)
        yield Sides(found.heat.value if wrong else told[2].value, heat, scale=size)
