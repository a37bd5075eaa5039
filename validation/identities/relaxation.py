r"""The way to equilibrium: currents, the loss of divergence, the production of entropy.

    J = p v,   v = F x + u - (D/2) grad log p = -(D/2) grad log(p / pi) + Q grad log pi
    d KL(p | pi) / dt = -E |grad log(p / pi)|^2_(D/2),    d H / dt = tr F + tr(D P^-1) / 2
    KL(path | reversed path) / h -> E |v|^2_(D/2)^-1 = -d KL / dt + E |Q grad log pi|^2_(D/2)^-1

Closed forms on one side; on the other stencils in time of laws that channels carry, divergences of two times of a path
from the same two of its reversal, and short steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, entropy, kl_divergence, random_mixture
from refdiff.dynamics import Relaxation, equilibrium
from refdiff.processes import Rotating
from refdiff.validation import laws
from refdiff.validation.cases import Case
from refdiff.validation.identities.equilibrium import TOPIC, langevin, parts, systems, turns
from refdiff.validation.identity import DERIVATIVE, ORDER, Sides, identity
from refdiff.validation.numeric import derivative, divergence, extrapolate
from refdiff.validation.steps import FINE, relative_density, relative_rate


def pace(motion: Relaxation, law: GaussianMixture) -> float:
    """The rate at which the density of `law` bends in time under `motion`."""
    std = laws.smallest_std(law)
    drift = np.linalg.norm(motion.drift, 2) * (1 + np.abs(law.means).max() / std)
    return float(drift + np.linalg.norm(motion.diffusion, 2) / std**2 + np.linalg.norm(motion.offset) / std)


def normal(law: GaussianMixture) -> Gaussian:
    """The Gaussian with the moments of a law."""
    return Gaussian(law.mean(), law.cov())


@identity(
    "The probability current carries the density",
    topic=TOPIC,
    formula=r"\partial_t p = -\nabla \cdot J,\quad J = p \big( F x + u - \tfrac12 D \nabla \log p \big)",
    covers=["RDX-44"],
    over="once",
    evidence=DERIVATIVE,
    control="D in place of D / 2, the diffusion constant of physics",
)
def current(case: Case, wrong: bool) -> Iterator[Sides]:
    """A stencil in time of a mixture that channels carry, against a stencil in space of its current."""
    rng = case.rng
    for f, d in [*systems(case)[:4], langevin()]:
        start = random_mixture(len(f), 3, rng, "full")
        yield _carried(Relaxation(f, d, rng.standard_normal(len(f))), start, 2.0 if wrong else 1.0, rng)


def _carried(motion: Relaxation, start: GaussianMixture, factor: float, rng: np.random.Generator) -> Sides:
    """d_t p / p and -div J / p at draws of `rng` from a law a little after `start`, the noise in J times a `factor`."""
    h = FINE / pace(motion, start)
    law = motion.channel(5 * h).push(start)
    x, std = law.sample(4, rng), laws.smallest_std(law)
    rate = relative_rate(lambda u: motion.channel(5 * h + u).push(start).logpdf(x), h)
    carrier, ratio = Relaxation(motion.drift, factor * motion.diffusion, motion.offset), relative_density(law, x)
    change = divergence(lambda y: ratio(y)[:, None] * carrier.velocity(law, y), x, FINE / 2 * std)
    size = np.abs(motion.velocity(law, x)).max() / std + np.linalg.norm(motion.drift, 2)
    return Sides(rate, -change, scale=motion.dim * size)


@identity(
    "The current of variance-preserving noise on its way",
    topic=TOPIC,
    formula=r"J = -\tfrac12\, p\, D \big[ (I - \Sigma^{-1}) x + \Sigma^{-1} K x_0 \big] \to 0",
    covers=["RDX-48"],
    over="once",
    control="the term of the start with the other sign",
)
def transient_current(case: Case, wrong: bool) -> Iterator[Sides]:
    """A point noised by a D that turns: F x - D grad log p / 2 by the channel's law; nothing is left at late times."""
    rng = case.rng
    for dim in range(1, 6):
        # rates above 0.5, so that no axis turns by so many radians that rounding of the angle is seen
        closed = Rotating(2 * turns(rng, dim), laws.covariances(laws.gaussian(rng, dim))[0] + 0.5 * np.eye(dim))
        start, t = rng.standard_normal(dim), rng.uniform(0.5, 2.0)
        link, d = closed.kernel(t), closed.diffusion(t)
        law, inverse = link.at(start), np.linalg.inv(link.noise)
        x = law.sample(5, rng)
        pulled = (-1 if wrong else 1) * inverse @ link.gain @ start
        bracket = x @ (np.eye(dim) - inverse) + pulled
        size = np.linalg.norm(inverse, 2) * np.linalg.norm(d, 2) * (np.abs(x).max() + np.abs(start).max())
        found = Relaxation(closed.drift(t), d).velocity(law, x)
        yield Sides(found, -bracket @ d / 2, scale=size)
        late = 80 / np.linalg.eigvalsh(closed.frame_diffusion)[0]  # |K| <= e^(-lambda_1 t / 2) < 1e-17
        end = closed.kernel(late)
        left = Relaxation(closed.drift(late), closed.diffusion(late)).velocity(end.at(start), x)
        yield Sides(left, 0.0, scale=np.abs(x).max() * np.linalg.norm(d, 2))


@identity(
    "Divergence is lost as fast with circulation as without",
    topic=TOPIC,
    formula=r"\frac{d}{dt} \mathrm{KL}(p \| \pi) = -\tfrac12\, \mathbb{E}\, \nabla \log \tfrac{p}{\pi} \cdot"
    r" D \nabla \log \tfrac{p}{\pi},\qquad \dot H = \operatorname{tr} F + \tfrac12 \operatorname{tr} D P^{-1}",
    covers=["RDX-46"],
    over="once",
    evidence=DERIVATIVE,
    control="D in place of D / 2",
)
def lost_divergence(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils in time of the closed divergence and entropy; the rates of two drifts with one equilibrium."""
    rng = case.rng
    for f, d in systems(case):
        motion, start = Relaxation(f, d, rng.standard_normal(len(f))), laws.gaussian(rng, len(f))
        yield from _on_the_way(motion, start, 2.0 if wrong else 1.0)
    for d, q, sigma in parts(case):
        drifts = [equilibrium.equilibrating_drift(d, part, sigma) for part in (q, 0 * q)]
        start, turning = laws.gaussian(rng, len(d)), Relaxation(drifts[0], d)
        yield Sides(*(Relaxation(f, d).divergence_rate(start) for f in drifts))
        # the rate without circulation bounds the loss with any: KL(t) <= e^(-2 r t) KL(0)
        slowest, before = -equilibrium.numerical_abscissa(drifts[1], sigma), kl_divergence(start, turning.stationary)
        for t in (0.1, 1.0, 5.0):
            left = kl_divergence(normal(turning.channel(t).push(start)), turning.stationary)
            yield Sides(max(left - np.exp(-2 * slowest * t) * before, 0.0), 0.0, scale=before)


def _on_the_way(motion: Relaxation, start: Gaussian, factor: float) -> Iterator[Sides]:
    """The rates of divergence, times a `factor`, and entropy a little after `start`, beside their stencils in time."""
    h, end = FINE / pace(motion, start), motion.stationary

    def law(u: float) -> Gaussian:
        return normal(motion.channel(5 * h + u).push(start))

    told = derivative(lambda u: np.asarray(kl_divergence(law(u), end)), 0.0, h)
    known = derivative(lambda u: np.asarray(entropy(law(u))), 0.0, h)
    here = law(0.0)
    yield Sides(told, factor * motion.divergence_rate(here), scale=(kl_divergence(here, end) + motion.dim) / h)
    yield Sides(known, motion.entropy_rate(here), scale=(abs(entropy(here)) + motion.dim) / h)


def told_apart(motion: Relaxation, law: Gaussian, h: float, parity: Array) -> float:
    """KL(x_0, x_h | P x_h', P x_0') / h of a `motion`, the primed path starting where the other ended.

    P = diag(parity), of shape (d,).
    """
    dim, link, signs = motion.dim, motion.channel(h), np.diag(parity)
    still, identity_ = np.zeros((dim, dim)), np.eye(dim)
    both = Channel(
        np.vstack([identity_, link.gain]),
        np.append(np.zeros(dim), link.offset),
        np.block([[still, still], [still, link.noise]]),
    )
    swap = np.block([[still, signs], [signs, still]])
    back = both.push(link.push(law).affine(signs)).affine(swap)
    return kl_divergence(normal(both.push(law)), normal(back)) / h


@identity(
    "Entropy production is how fast a path is told from its reversal",
    topic=TOPIC,
    formula=r"\lim_{h \to 0} \tfrac1h \mathrm{KL}(x_0, x_h \,\|\, \text{reversed}) = 2\, \mathbb{E}\, v \cdot D^{-1} v"
    r" = -\tfrac{d}{dt} \mathrm{KL}(p \| \pi) + 2\, \mathbb{E}\, Q \nabla \log \pi \cdot D^{-1} Q \nabla \log \pi",
    covers=["RDX-45", "RDX-46"],
    over="once",
    evidence=ORDER,
    control="without the circulation, -dKL/dt alone",
)
def production(case: Case, wrong: bool) -> Iterator[Sides]:
    """Two times of a path against those of its reversal, of Langevin's with velocities that turn back."""
    rng = case.rng
    for f, d in systems(case)[1:4]:
        d = d + 0.2 * np.eye(len(d))
        motion, law = Relaxation(f, d, rng.standard_normal(len(f))), laws.gaussian(rng, len(f))
        steps = 0.1 / pace(motion, law) / 2.0 ** np.arange(4)
        told = [np.asarray(told_apart(motion, law, h, np.ones(len(f)))) for h in steps]
        kept = 0.0 if wrong else motion.housekeeping(law)
        yield Sides(extrapolate(told), kept - motion.divergence_rate(law))
        yield Sides(motion.entropy_production(law), kept - motion.divergence_rate(law))
    motion, law = Relaxation(*langevin()), laws.gaussian(rng, 2)
    told = [np.asarray(told_apart(motion, law, h, np.array([1.0, -1.0]))) for h in 4e-3 / 2.0 ** np.arange(5)]
    yield Sides(extrapolate(told), -motion.divergence_rate(law))
    yield Sides(motion.entropy_production(law, parity=[1, -1]), -motion.divergence_rate(law))


@identity(
    "A step has a mean velocity on either side, and none with its noise",
    topic=TOPIC,
    formula=r"\tfrac1h \mathbb{E}[x_{t+h} - x_t | x_t] \to -\tfrac{\beta}{2} x,\quad"
    r" \tfrac1h \mathbb{E}[x_t - x_{t-h} | x_t] \to -\tfrac{\beta}{2} x - \sigma^2 \beta \nabla \log \rho,\quad"
    r" \tfrac1h \mathrm{Cov} \to \sigma^2 \beta I",
    covers=["PHY-62", "PHY-82"],
    refutes=["PHY-62"],
    over="once",
    evidence=ORDER,
    control="the limit of (62) with its noise, as printed: the variance of (x_(t+h) - x_t) / h",
)
def step_velocity(case: Case, wrong: bool) -> list[Sides]:
    """Steps (54) as channels, forth and by Bayes' rule back; the mean of both velocities is (82)."""
    rng, dim = case.rng, 3
    beta, variance = rng.uniform(0.5, 2.0, 2)
    law = laws.gaussian(rng, dim)
    x, forth, back, noises = law.sample(4, rng), [], [], []
    for h in 0.01 / 2.0 ** np.arange(5):
        link = Channel(np.sqrt(1 - beta * h), 0.0, variance * beta * h)
        # the law that the step brings to `law`
        before = Gaussian(law.mean() / link.gain, (law.cov() - link.noise * np.eye(dim)) / link.gain**2)
        undone = link.reverse(before)
        forth.append((link.gain - 1) * x / h)
        back.append((x - x @ np.asarray(undone.gain).T - undone.offset) / h)
        noises.append(link.noise / (h**2 if wrong else h))
    first, last, score = extrapolate(forth), extrapolate(back), law.score(x)
    return [
        Sides(extrapolate(noises), variance * beta),
        Sides(first, -beta / 2 * x),
        Sides(last, -beta / 2 * x - variance * beta * score),
        Sides((first + last) / 2, -beta / 2 * (x + variance * score)),
    ]
