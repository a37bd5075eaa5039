r"""What the drawings and the table about scores show, as numbers.

    3.1   energy is pushed up where the model draws and down at the data, by the same amount once they agree
    3.2   along the score the density rises fastest;   3.3   Langevin's arrows go there, and their law stays
    3.4, 3.5   the score fitted to differences from the noised point's own centre is that of the noised density
    3.6   a score from samples is worst where there are few; the exact one does not vanish there, it is largest
    3.7   one level hands its draws to the next, L K evaluations in sequence;   table 3.1   the two chains

Sources: PODA-330, PODA-332, PODA-333, PODA-334.
"""

from __future__ import annotations

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.langevin import unadjusted_step
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, BetaTable, Chain
from refdiff.samplers.langevin import annealed_langevin
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.schedules import VEPower
from refdiff.validation import numeric
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identities.wasserstein_bounds import below
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import line, smallest_std

TOPIC = "Figures of scores"


@identity(
    "The score does not vanish where the density does",
    topic=TOPIC,
    formula=r"\nabla \log p(x) = \frac{\mu \tanh(\mu x / \sigma^2) - x}{\sigma^2}:\quad |\nabla \log p| = 95, 50, 300"
    r"\ \text{at}\ .05, .5, -4,\quad \big(\mathbb{E}_p |\nabla \log p|^2\big)^{1/2} = 10",
    covers=["PODA-330"],
    refutes=["PODA-330"],
    over="once",
    evidence=QUADRATURE,
    control="gradients that vanish in regions of low density, as printed",
)
def low_density(case: Case, wrong: bool) -> list[Sides]:
    """Two modes at +-1 with deviation .1: what vanishes there is the share of the loss, and the score at a saddle."""
    del case
    std, law = 0.1, GaussianMixture.isotropic([[-1.0], [1.0]], 0.01)
    x = np.array([0.05, 0.5, -4.0])
    exact = (np.tanh(x / std**2) - x) / std**2
    nodes, step = line(law)
    weight, square = np.exp(law.logpdf(nodes)) * step, law.score(nodes)[:, 0] ** 2
    between = np.abs(nodes[:, 0]) < 0.5
    found = law.score(x[:, None])[:, 0]
    return [
        Sides(found, 0.0 * exact if wrong else exact),
        Sides(np.round(np.abs(found)), [95, 50, 300]),
        Sides(weight @ square, 100.0),
        Sides(law.score(np.zeros(1)), 0.0, scale=1.0),
        # of the loss less than 1e-5 comes from between the modes, where the score is up to ten times as large
        below(float(weight[between] @ square[between]), 1e-5 * 100),
        below(9 * np.sqrt(100.0), float(np.abs(found[0]))),
    ]


@identity(
    "A score from samples is worst where there are few",
    topic=TOPIC,
    formula=r"\hat p = \tfrac1n \sum_i \mathcal{N}(x_i, h^2):\quad \big|\nabla \log \hat p - \nabla \log p\big|"
    r"\ \text{between the modes} > 10 \times \text{within them}",
    covers=["PODA-330", "PODA-334"],
    over="once",
    control="the two regions exchanged",
)
def few_samples(case: Case, wrong: bool) -> list[Sides]:
    """Figure 3.6: n samples blurred by h, beside the law of all samples blurred alike."""
    std, blur = case.rng.uniform(0.2, 0.3), 0.15
    law = GaussianMixture.isotropic([[-1.5], [1.5]], std**2)
    samples = law.sample(200, case.rng)
    estimate = GaussianMixture.isotropic(samples, blur**2)
    exact = law.convolve(blur**2)
    u = np.linspace(-1, 1, 41)[:, None]
    modes, gap = np.concatenate([-1.5 + std * u, 1.5 + std * u]), 0.5 * u
    inside, between = (float(np.sqrt(np.mean((estimate.score(x) - exact.score(x)) ** 2))) for x in (modes, gap))
    return [below(10 * (between if wrong else inside), inside if wrong else between)]


def slope(law: GaussianMixture, x: Array, e: Array, h: float) -> Array:
    """d/du log p(x + u e) at points x (n, d) along e (n, d) by a stencil of width h, shape (n,)."""
    return numeric.derivative(lambda u: law.logpdf(x + u * e), 0.0, h)


@identity(
    "What the arrows of scores and of Langevin's steps mean",
    topic=TOPIC,
    formula=r"\tfrac{d}{du} \log p\Big(x + u \tfrac{s}{|s|}\Big) = |s| \ge \tfrac{d}{du} \log p(x + u e),\quad |e| = 1",
    covers=["PODA-334"],
    over="laws",
    evidence=DERIVATIVE,
    control="arrows in the direction of the points themselves",
    needs=lambda case: case.law.dim <= 5,
)
def arrows(case: LawCase, wrong: bool) -> list[Sides]:
    """Figures 3.2 and 3.3: stencils of log p along the score and along random directions."""
    law, x, rng = case.law, case.x, case.rng
    s = law.score(x)
    size = np.linalg.norm(s, axis=1)
    ahead = (x if wrong else s) / np.linalg.norm(x if wrong else s, axis=1, keepdims=True)
    other = rng.standard_normal(x.shape)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    h = 0.02 * smallest_std(law)
    along, aside = (slope(law, x, e, h) for e in (ahead, other))
    # rounding of log p over the step, beside the slopes themselves
    scale = size + np.abs(law.logpdf(x)) + 1 / smallest_std(law)
    return [Sides(along, size, scale=scale), Sides(np.minimum(size - aside, 0), 0.0, scale=scale)]


@identity(
    "Energies fall at the data and rise at the model's draws",
    topic=TOPIC,
    formula=r"-\nabla_\phi \mathbb{E}_{\mathrm{data}} \log p_\phi = \mathbb{E}_{\mathrm{data}} \nabla_\phi E_\phi"
    r" - \mathbb{E}_{p_\phi} \nabla_\phi E_\phi,\quad E_\phi(x) = \sum_k \phi_k x^k",
    covers=["PODA-334"],
    over="once",
    evidence=DERIVATIVE,
    control="the data's part alone, which lowers the energy everywhere",
)
def energies(case: Case, wrong: bool) -> list[Sides]:
    """Figure 3.1: a polynomial energy of degree 4, its partition function by a sum, and a stencil in its parameters."""
    rng = case.rng
    phi = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1), 0.2, 0.4])
    x = np.linspace(-6, 6, 2401)
    powers = np.stack([x**k for k in (1, 2, 3, 4)])
    data = GaussianMixture.isotropic([[-0.8], [1.1]], [0.2, 0.3])
    weight = np.exp(data.logpdf(x[:, None])) * (x[1] - x[0])

    def loss(parameters: Array) -> Array:
        energy = parameters @ powers
        partition = np.log(np.exp(-energy).sum(axis=1) * (x[1] - x[0]))
        return np.asarray(energy @ weight + partition)

    model = np.exp(-phi @ powers)
    model /= model.sum()
    at_data, at_model = powers @ weight, powers @ model
    right = at_data - (0.0 if wrong else 1.0) * at_model
    left = numeric.jacobian(loss, phi[None], 0.01)[0]
    return [Sides(left, right, scale=np.abs(at_data).max() + np.abs(at_model).max())]


@identity(
    "Noised pairs have the score of the noised density on average",
    topic=TOPIC,
    formula=r"\nabla \log p_\sigma(\tilde x) = \mathbb{E}\big[-(\tilde x - x) / \sigma^2 \,\big|\, \tilde x\big];"
    r"\qquad \text{Langevin: } V = \frac{T}{1 - \eta / 2 T}\ \text{stays}",
    covers=["PODA-334"],
    over="laws",
    control="-(x~ - x) / sigma",
    needs=lambda case: case.law.dim <= 16,
)
def noised_pairs(case: LawCase, wrong: bool) -> list[Sides]:
    """Figures 3.4, 3.5 and 3.3: Bayes' posterior mean against the score; and the law that Langevin's step keeps."""
    law, sigma, eta = case.law, 0.6, 0.3
    noised = law.convolve(sigma**2)
    mean = Channel(1.0, 0.0, sigma**2).posterior_mean(law, case.x)
    left = (mean - case.x) / (sigma if wrong else sigma**2)
    target = Gaussian(np.zeros(1), 0.9)
    step = unadjusted_step(target, eta)
    kept = Gaussian(np.zeros(1), 0.9 / (1 - eta / 1.8))
    return [
        Sides(left, noised.score(case.x), scale=np.abs(case.x).max() / sigma**2),
        Sides(step.channel.push(kept).cov(), kept.cov()),
    ]


@identity(
    "Annealing asks L K times, one after the other",
    topic=TOPIC,
    formula=r"\mathrm{NFE} = L K;\qquad x^{\sigma_\ell} \to \text{the start at } \sigma_{\ell - 1}",
    covers=["PODA-332", "PODA-334"],
    over="once",
    control="one evaluation at each level",
)
def cost(case: Case, wrong: bool) -> list[Sides]:
    """Figure 3.7: calls counted, in the order of the levels; the law after all levels from that after the first."""
    rng = case.rng
    process, count, steps = AffineProcess(VEPower(T=20.0)), int(rng.integers(3, 7)), int(rng.integers(2, 6))
    sigmas = np.geomspace(8.0, 0.2, count)
    table = annealed_langevin(process, sigmas, step_size=0.01, steps=steps)
    asked: list[float] = []
    model = ExactModel(Gaussian([0.3], 0.5), process)

    def score(x: Array, t: float) -> Array:
        asked.append(t)
        return np.asarray(model.score(x, t))

    run(table, score, np.zeros((2, 1)), seed=1)
    law, first = model.distribution, Gaussian([0.0], 64.0)
    whole = propagate(table, law, first).output
    half = count // 2
    eta = 0.01 / sigmas[-1] ** 2
    near = annealed_langevin(process, sigmas[half:], step_size=0.01, steps=steps)
    far = annealed_langevin(process, sigmas[:half], step_size=eta * sigmas[half - 1] ** 2, steps=steps)
    handed = propagate(near, law, propagate(far, law, first).output).output
    return [
        Sides(table.nfe, count * (1 if wrong else steps)),
        Sides(len(asked), table.nfe),
        Sides(asked, np.repeat(sigmas, steps)),
        Sides(handed.cov(), whole.cov()),
        Sides(handed.mean(), whole.mean()),
    ]


@identity(
    "The table of the two chains",
    topic=TOPIC,
    formula=r"x_{i+1} = x_i + \sqrt{\sigma_{i+1}^2 - \sigma_i^2}\, \epsilon \iff x_i = x + \sigma_i \epsilon;\qquad"
    r" x_{i+1} = \sqrt{1 - \beta_{i+1}}\, x_i + \sqrt{\beta_{i+1}}\, \epsilon \iff x_i = \bar\alpha_i x"
    r" + \sqrt{1 - \bar\alpha_i^2}\, \epsilon",
    covers=["PODA-333"],
    refutes=["PODA-333"],
    over="once",
    control="sigma_i^2 eps in the second row, as printed: .6225 in place of .81",
)
def two_chains(case: Case, wrong: bool) -> list[Sides]:
    """Both rows by composed links; the priors; and the losses, which differ by sigma^2 where s = -eps / sigma."""
    rng = case.rng
    sigmas = np.sort(rng.uniform(0.2, 2.0, 5))
    steps = Chain([Channel(1.0, 0.0, float(v)) for v in np.diff(sigmas**2)])
    first = sigmas[0] ** (4 if wrong else 2)
    left = [first + float(steps.channel(0, i).noise) for i in range(1, 5)]
    example = 0.5 ** (4 if wrong else 2) + 0.9**2 - 0.5**2
    betas = rng.uniform(0.05, 0.6, 5)
    ddpm, table = Chain([Channel(np.sqrt(1 - b), 0.0, float(b)) for b in betas]), BetaTable(betas)
    gains = np.cumprod(np.sqrt(1 - betas))
    whole = [ddpm.channel(0, i) for i in range(1, 6)]
    t, eps = float(sigmas[2]), rng.standard_normal((4, 1))
    model = ExactModel(GaussianMixture.isotropic(rng.standard_normal((3, 1)), 0.3), VEPower(1.0, T=2.0))
    x = model.distribution.sample(4, rng) + t * eps
    guessed = (x - model.denoiser(x, t)) / t
    prior = Gaussian([0.0], float(rng.uniform(0.5, 2.0)))
    sides = [
        Sides(left, [s**2 for s in sigmas[1:]]),
        Sides(example, 0.81),
        Sides([float(one.gain) for one in whole], gains),
        Sides([float(one.noise) for one in whole], 1 - gains**2),
        Sides([float(table.coefficients(float(i)).alpha) for i in range(1, 6)], gains),
        # the losses, the first by the score of the noised law and the second by Bayes' denoiser
        Sides((model.score(x, t) + eps / t) ** 2, (guessed - eps) ** 2 / t**2),
        # beside its prior N(0, 1) the second chain's last law has gain^2 (S - 1) too much
        Sides(whole[-1].push(prior).cov() - 1, gains[-1] ** 2 * (prior.cov() - 1), scale=1.0),
    ]
    return sides
