r"""Numba's kernels give NumPy's answers.

Two programs of one mathematics: NumPy has two routes, Bayes and log density, a component at a time. Kernels have one
algebra for every prediction, on blocks of points,

    o = sum_k r_k (mu m_k + (beta S_k + gamma) (alpha S_k alpha + sigma^2)^-1 (x - alpha m_k))

with a logsumexp that never sees all components, an exponential and a logarithm of their own, covariances in their
eigenvectors and random numbers in other words. What they share is the law, the schedule and the table of a sampler.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refdiff import backends, random
from refdiff.arguments import Array
from refdiff.samplers.ddim import ddim
from refdiff.samplers.running import run
from refdiff.validation.cases import Case, LawCase, ModelCase
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import smallest_std

TOPIC = "Kernels"
STEPS = 5


def sizes(case: ModelCase) -> dict[str, Array | float]:
    """The largest term of each prediction, scalars: data, points, and slopes times their distance."""
    c, least = case.process.coefficients(case.t), smallest_std(case.model.marginal(case.t)) ** 2
    data, points = np.abs(case.law.means).max() + np.sqrt(np.abs(case.law.cov()).max()), np.abs(case.x).max()
    score = (points + np.max(c.alpha) * data) / least
    denoiser = data + np.max(np.abs(case.law.cov())) * score
    sigma = np.max(c.sigma)
    return {
        "score": score,
        "denoiser": denoiser,
        "noise": sigma * score,
        "velocity": np.max(np.abs(c.dalpha)) * denoiser + np.max(np.abs(c.dvariance)) * score,
        "v_prediction": sigma * (score + denoiser),
    }


def spread(case: ModelCase) -> ModelCase:
    """The case with a millionth more variance, which no rounding is."""
    return replace(case, law=case.law.convolve(1e-6 * float(np.abs(case.law.cov()).max())))


@identity(
    "Kernels: predictions",
    topic=TOPIC,
    formula=r"\sum_k r_k\big(\mu m_k + (\beta S_k + \gamma)(\alpha S_k \alpha + \sigma^2)^{-1}(x - \alpha m_k)\big):"
    r"\quad (1, \alpha, 0) \to E[x_0|x],\quad (0, 0, -1) \to \nabla \log p_t,\quad (0, 0, \sigma) \to"
    r" E[\epsilon|x],\quad \ldots",
    covers=["PODB-54", "DMI-28", "TOPA-67"],
    control="data with a millionth more variance",
)
def predictions(case: ModelCase, wrong: bool) -> list[Sides]:
    """All five by NumPy and by kernels."""
    sides = []
    asked = spread(case).model if wrong else case.model
    for prediction, size in sizes(case).items():
        with backends.use("numba"):
            found = asked.predict(case.x, case.t, prediction)
        with backends.use("numpy"):
            sides.append(Sides(found, case.model.predict(case.x, case.t, prediction), size))
    return sides


@identity(
    "Kernels: log densities",
    topic=TOPIC,
    formula=r"\log\sum_k w_k\,\mathcal{N}(x; m_k, S_k)\quad\text{by an online logsumexp in base 2}",
    covers=["TOPA-35"],
    over="laws",
    control="the density without its factor (2 pi)^(-d/2)",
)
def log_densities(case: LawCase, wrong: bool) -> list[Sides]:
    """log p and its gradient by NumPy and by kernels."""
    answers = []
    for name in ("numba", "numpy"):
        with backends.use(name):
            answers.append((case.law.logpdf(case.x), case.law.score(case.x)))
    (found, slope), (expected, gradient) = answers
    if wrong:
        found = found + case.law.dim * np.log(2 * np.pi) / 2
    # the points are draws: d / 2 is their distance, and the largest logit of log det S
    size = np.abs(expected).max() + case.law.dim
    return [Sides(found, expected, size), Sides(slope, gradient)]


@identity(
    "Kernels: samplers",
    topic=TOPIC,
    formula=r"y_k = \sum_{i<k} a_{ki} y_i + \sum_{i<k} b_{ki}\, o_i + \sum_m c_{km} z_m\quad"
    r"\text{block by block, and stage by stage}",
    covers=["TOPA-47"],
    control="the normals of another particle",
    most=12,
)
def samplers(case: ModelCase, wrong: bool) -> list[Sides]:
    """DDIM without noise and with half of it, every stage; and the second half of a batch by its numbers."""
    sides, start = [], case.x
    for eta in (0.0, 0.5):
        tableau = ddim(case.process, np.linspace(case.t, case.s, STEPS + 1), eta=eta)
        with backends.use("numba"):
            found = run(tableau, case.model, start, case.seed, particle=7 + wrong, trajectory=True)
            part = run(tableau, case.model, start[3:], case.seed, particle=10)
        with backends.use("numpy"):
            expected = run(tableau, case.model, start, case.seed, particle=7, trajectory=True)
        size = np.abs(expected).max() + np.abs(case.law.means).max()
        sides += [Sides(found, expected, size), Sides(part, expected[-1][3:], size)]
    return sides


@identity(
    "Kernels: normals",
    topic=TOPIC,
    formula=r"z_{2g} = r\cos 2\pi v,\ z_{2g+1} = r\sin 2\pi v,\ r = \sqrt{-2\log u},\quad (u, v) ="
    r"\text{Philox}_{\text{seed}}(\text{particle}, \text{draw}, g)",
    covers=["DMI-07"],
    over="once",
    control="the next draw",
)
def normals(case: Case, wrong: bool) -> list[Sides]:
    """Normals of any particles by NumPy and by kernels."""
    seed, draw, dim = int(case.rng.integers(2**64, dtype=np.uint64)), int(case.rng.integers(2**31)), 5
    particles = case.rng.integers(2**64, size=100, dtype=np.uint64)
    with backends.use("numba"):
        found = random.normals(seed, particles, draw + wrong, dim)
    with backends.use("numpy"):
        return [Sides(found, random.normals(seed, particles, draw, dim))]
