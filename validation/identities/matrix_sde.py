r"""Linear SDEs with matrix coefficients: propagator, covariance, transition density.

    dx = F(t) x dt + G(t) dw,   D = G G'
    K(t, s) = U(t) U(s)^-1,   U' = F U,   U(0) = I;   K(t, u) K(u, s) = K(t, s),   d_t K = F K,   d_s K = -K F(s)
    Sigma(t | s) = int_s^t K(t, u) D(u) K(t, u)' du,   Sigma' = F Sigma + Sigma F' + D
    p(x_t | x_s) = N(K x_s, Sigma):   a `Channel`;   score = -Sigma^-1 (x - K x_s)

The example has a closed propagator although its coefficients do not commute in time: U(t) = e^(tA) e^(tB) solves
U' = F U with F(t) = A + e^(tA) B e^(-tA). Its D(t) = G G' with G = G_0 + sin(t) G_1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise

import numpy as np
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, extrapolate, jacobian, legendre

TOPIC = "Matrix SDEs"
DIM = 3
STEPS = 8 * 2 ** np.arange(5)


@dataclass(frozen=True, eq=False)
class Turning:
    """The example: matrices A, B, G_0, G_1 from a case's random numbers."""

    case: Case

    @cached_property
    def matrices(self) -> Array:
        """A, B, G_0, G_1, shape (4, d, d)."""
        sizes = np.array([0.5, 0.5, 0.6, 0.3])[:, None, None]
        return np.asarray(self.case.rng.standard_normal((4, DIM, DIM)) * sizes)

    def evolution(self, t: Array | float) -> Array:
        """U(t), shape (..., d, d)."""
        time = np.asarray(t)[..., None, None]
        result: Array = expm(time * self.matrices[0]) @ expm(time * self.matrices[1])
        return result

    def drift(self, t: Array | float) -> Array:
        """F(t), shape (..., d, d)."""
        a, b = self.matrices[:2]
        time = np.asarray(t)[..., None, None]
        result: Array = a + expm(time * a) @ b @ expm(-time * a)
        return result

    def drift_rate(self, t: Array | float) -> Array:
        """F'(t) = e^(tA) (A B - B A) e^(-tA), shape (..., d, d)."""
        a, b = self.matrices[:2]
        time = np.asarray(t)[..., None, None]
        result: Array = expm(time * a) @ (a @ b - b @ a) @ expm(-time * a)
        return result

    def noise_map(self, t: Array | float) -> Array:
        """G(t), shape (..., d, d)."""
        return np.asarray(self.matrices[2] + np.sin(np.asarray(t))[..., None, None] * self.matrices[3])

    def diffusion(self, t: Array | float) -> Array:
        """D(t) = G G', shape (..., d, d)."""
        g = self.noise_map(t)
        return g @ np.swapaxes(g, -1, -2)

    def propagator(self, t: Array | float, s: Array | float) -> Array:
        """K(t, s), shape (..., d, d)."""
        return self.evolution(t) @ np.linalg.inv(self.evolution(s))

    def covariance(self, t: float, s: float = 0.0, diffusion: Callable[[Array], Array] | None = None) -> Array:
        """Sigma(t | s) (d, d) by Gauss-Legendre quadrature, of another diffusion D(t) (..., d, d) if one is given."""
        nodes, weights = (part * (t - s) for part in legendre(24))
        k = self.propagator(t, s + nodes)
        return np.asarray(np.einsum("n,nij,njk,nlk->il", weights, k, (diffusion or self.diffusion)(s + nodes), k))

    def channel(self, s: float, t: float) -> Channel:
        """The transition from s to t."""
        return Channel(self.propagator(t, s), np.zeros(DIM), self.covariance(t, s))


def compose(steps: list[Channel]) -> Channel:
    """All steps as one, the first acting first."""
    return reduce(lambda done, step: step.compose(done), steps)


@identity(
    "The propagator composes and solves both equations",
    topic=TOPIC,
    formula=r"K(t, s) = K(t, u) K(u, s),\quad \partial_t K = F(t) K,\quad \partial_s K = -K F(s),"
    r"\quad \det U = e^{\int \operatorname{tr} F}",
    covers=["RDX-03", "RDX-04"],
    over="once",
    evidence=DERIVATIVE,
    control="d_s K = -F(s) K, on the wrong side",
)
def propagator(case: Case, wrong: bool) -> list[Sides]:
    """Stencils of K in both times against F; Liouville's determinant."""
    sde, (s, u, t) = Turning(case), np.sort(case.rng.uniform(0.1, 1.2, 3))
    k, h = sde.propagator(t, s), 0.02
    size = np.abs(k).max() * np.abs(sde.drift(np.array([s, t]))).max()
    by_start = -(sde.drift(s) @ k if wrong else k @ sde.drift(s))
    a, b = sde.matrices[:2]
    back = np.linalg.inv(sde.evolution(t))
    return [
        Sides(compose([Channel(sde.propagator(u, s)), Channel(sde.propagator(t, u))]).gain, k),
        Sides(derivative(lambda time: sde.propagator(time, s), t, h), sde.drift(t) @ k, scale=size),
        Sides(derivative(lambda time: sde.propagator(t, time), s, h), by_start, scale=size),
        Sides(np.linalg.det(sde.evolution(t)), np.exp(t * np.trace(a + b))),
        Sides(derivative(lambda time: np.asarray(np.linalg.inv(sde.evolution(time))), t, h), -back @ sde.drift(t)),
    ]


@identity(
    "The time-ordered product, later times on the left",
    topic=TOPIC,
    formula=r"\frac1h \Big( \prod_{i=M}^{1} e^{F(ih) h} - U(t) \Big) \to \tfrac12 \int_0^t K(t, u) F'(u) K(u, 0)\, du",
    covers=["RDX-04"],
    over="once",
    evidence=ORDER,
    control="the order of the factors reversed",
)
def ordered_product(case: Case, wrong: bool) -> list[Sides]:
    """Noise-free channels composed at five step sizes against the closed U; products of inverses undo them exactly."""
    sde, t = Turning(case), 1.0
    remainders = []
    for count in STEPS:
        factors = expm(sde.drift(np.arange(1, count + 1) * t / count) * (t / count))
        product = compose([Channel(factor) for factor in (factors[::-1] if wrong else factors)]).gain
        remainders.append((product - sde.evolution(t)) * count / t)
    nodes, weights = legendre(24)
    constant = 0.5 * np.einsum(
        "n,nij,njk,nkl->il", weights, sde.propagator(t, nodes), sde.drift_rate(nodes), sde.evolution(nodes)
    )
    inverses = reduce(np.matmul, np.linalg.inv(factors))
    return [
        Sides(extrapolate(remainders), constant),
        Sides(product @ inverses if not wrong else np.eye(DIM), np.eye(DIM)),
    ]


@identity(
    "Transitions compose as channels",
    topic=TOPIC,
    formula=r"x_t = K(t, s) x_s + \int_s^t K(t, u) G(u)\, dw_u:\quad"
    r" \Sigma(t) = K(t, u) \Sigma(u) K(t, u)^{\mathsf T} + \Sigma(t \mid u)",
    covers=["RDX-02", "RDX-05", "RDX-03", "PODB-06"],
    over="once",
    evidence=QUADRATURE,
    control="Sigma(u) carried by K Sigma, without the transpose on the right",
)
def transitions(case: Case, wrong: bool) -> list[Sides]:
    """Channels with quadrature covariances composed over a grid, against one transition and the second form of it."""
    sde, grid = Turning(case), np.linspace(0.0, 1.4, 5)
    steps = [sde.channel(s, t) for s, t in pairwise(grid)]
    chain = compose(steps)
    whole = sde.covariance(grid[-1])
    if wrong:
        chain_noise = steps[-1].gain @ sde.covariance(grid[-2]) + steps[-1].noise
        return [Sides(chain_noise, whole)]
    nodes, weights = (part * grid[-1] for part in legendre(24))
    back, u = np.linalg.inv(sde.evolution(nodes)), sde.evolution(grid[-1])
    inner = np.einsum("n,nij,njk,nlk->il", weights, back, sde.diffusion(nodes), back)
    return [Sides(chain.gain, u), Sides(chain.noise, whole), Sides(u @ inner @ u.T, whole)]


@identity(
    "Constant coefficients: one block exponential",
    topic=TOPIC,
    formula=r"\exp\!\Big( t \begin{pmatrix} -F & D\\ 0 & F^{\mathsf T} \end{pmatrix} \Big)"
    r" = \begin{pmatrix} \cdot & K^{-1} \Sigma\\ 0 & K^{\mathsf T} \end{pmatrix},"
    r"\quad \Sigma = \int_0^t K D K^{\mathsf T}",
    covers=["RDX-05", "RDX-02"],
    over="once",
    evidence=QUADRATURE,
    control="G in place of D = G G'",
)
def van_loan(case: Case, wrong: bool) -> list[Sides]:
    """Van Loan's exponential against quadrature of K D K', and at twice the time against two transitions composed."""
    f, root = case.rng.standard_normal((2, DIM, DIM)) * 0.7
    t, d = case.rng.uniform(0.5, 1.5), root @ root.T
    generator = np.block([[-f, root if wrong else d], [np.zeros((DIM, DIM)), f.T]])
    block, later = expm(t * generator), expm(2 * t * generator)
    k, farther = block[DIM:, DIM:].T, later[DIM:, DIM:].T
    nodes, weights = (part * t for part in legendre(24))
    moved = expm((t - nodes)[:, None, None] * f)
    sigma = np.einsum("n,nij,jk,nlk->il", weights, moved, d, moved)
    step = Channel(k, np.zeros(DIM), sigma)
    twice = compose([step, step])
    return [
        Sides(k, expm(t * f)),
        Sides(k @ block[:DIM, DIM:], sigma),
        Sides(farther, twice.gain),
        Sides(farther @ later[:DIM, DIM:], twice.noise),
    ]


@identity(
    "The covariance solves Lyapunov's equation",
    topic=TOPIC,
    formula=r"\dot\Sigma = F \Sigma + \Sigma F^{\mathsf T} + D,\quad D = G G^{\mathsf T} = (G O)(G O)^{\mathsf T}",
    covers=["RDX-05", "RDX-06"],
    over="once",
    evidence=DERIVATIVE,
    control="2 D, the diffusion constant of physics read as D",
)
def lyapunov(case: Case, wrong: bool) -> list[Sides]:
    """A stencil of the quadrature against F, D; noise entering through turned axes leaves Sigma as it is."""
    sde, t = Turning(case), case.rng.uniform(0.5, 1.2)
    turn = np.linalg.qr(sde.matrices[2])[0]
    sigma, f, d = sde.covariance(t), sde.drift(t), sde.diffusion(t)
    turned = sde.covariance(t, 0.0, lambda u: (sde.noise_map(u) @ turn) @ np.swapaxes(sde.noise_map(u) @ turn, -1, -2))
    rate = f @ sigma + sigma @ f.T + (2 * d if wrong else d)
    return [
        Sides(derivative(sde.covariance, t, 0.02), rate),
        Sides(turned, sigma),
        Sides(np.linalg.eigvalsh(d).min() >= 0, 1.0),
    ]


@identity(
    "The transition density solves the Fokker-Planck equation",
    topic=TOPIC,
    formula=r"\partial_t \log p + \operatorname{tr} F + F x \cdot s ="
    r" \tfrac12 \big( \operatorname{tr} D \nabla s + s \cdot D s \big),"
    r"\quad s = \nabla \log p = -\Sigma^{-1} (x - K x_0)",
    covers=["RDX-07", "RDX-08", "RDX-06"],
    over="once",
    evidence=DERIVATIVE,
    control="D in place of D / 2",
)
def transition_density(case: Case, wrong: bool) -> list[Sides]:
    """Stencils in time and space of the channel's log density; the score against them and against its formula."""
    sde, t, x0 = Turning(case), case.rng.uniform(0.6, 1.2), case.rng.standard_normal(DIM)
    law = sde.channel(0.0, t).at(x0)
    f, d, narrowest = sde.drift(t), sde.diffusion(t), np.linalg.eigvalsh(law.cov()).min()
    x, h = law.sample(5, case.rng), 0.02 * np.sqrt(narrowest)
    # the density bends in time as Sigma changes by its smallest eigenvalue
    pace = np.linalg.norm(f @ law.cov() + law.cov() @ f.T + d, 2) / narrowest
    rate = derivative(lambda time: sde.channel(0.0, time).logpdf(x, x0), t, 0.05 / pace)
    score = jacobian(law.logpdf, x, h)
    curvature = jacobian(law.score, x, h)
    carried = np.trace(f) + np.einsum("ij,nj,ni->n", f, x, score)
    spreading = np.einsum("ij,nji->n", d, curvature) + np.einsum("ni,ij,nj->n", score, d, score)
    size = np.abs(rate) + np.abs(carried) + np.einsum("ni,ij,nj->n", score, d, score)
    formula = -np.linalg.solve(sde.covariance(t), (x - sde.propagator(t, 0.0) @ x0).T).T
    back = np.linalg.inv(sde.evolution(t))  # Tweedie's formula for a matrix kernel: the data are the one point x_0
    return [
        Sides(rate + carried, spreading * (1.0 if wrong else 0.5), scale=size),
        Sides(score, formula),
        Sides(score, law.score(x)),
        Sides((x + score @ sde.covariance(t)) @ back.T, x0, scale=np.abs(back).max() * np.abs(x).max()),
    ]


@identity(
    "Euler-Maruyama of a matrix SDE converges with order 1",
    topic=TOPIC,
    formula=r"\frac{K_h - K}{h} \to -\tfrac12 \int K (F' + F^2) K,\qquad"
    r" \frac{\Sigma_h - \Sigma}{h} \to \int K \big( F \Sigma F^{\mathsf T} - \tfrac12 \ddot\Sigma \big) K^{\mathsf T}",
    covers=["RDX-01", "RDX-02"],
    refutes=["RDX-01"],
    over="once",
    evidence=ORDER,
    control="increments of variance 1 in place of h, as L43 says of w",
)
def euler_maruyama_matrix(case: Case, wrong: bool) -> list[Sides]:
    """Euler-Maruyama's steps composed as channels at five step sizes, against their leading constants."""
    sde, t = Turning(case), 1.0
    end, final = sde.evolution(t), sde.covariance(t)
    means, covariances = [], []
    for count in STEPS:
        h = t / count
        factors, noises = np.eye(DIM) + h * sde.drift(h * np.arange(count)), sde.diffusion(h * np.arange(count))
        noises = noises if wrong else h * noises
        chain = compose([Channel(step, np.zeros(DIM), noise) for step, noise in zip(factors, noises, strict=True)])
        means.append((chain.gain - end) / h)
        covariances.append((chain.noise - final) / h)
    u, weights = legendre(16)
    f, df, g = sde.drift(u), sde.drift_rate(u), sde.noise_map(u)
    turned = np.swapaxes
    to_end, from_start = sde.propagator(t, u), sde.evolution(u)
    sigma = np.array([sde.covariance(time) for time in u])
    dg = g @ turned(np.cos(u)[:, None, None] * sde.matrices[3], 1, 2)
    half = f @ (f @ sigma + sigma @ turned(f, 1, 2) + sde.diffusion(u)) + df @ sigma + dg
    local = f @ sigma @ turned(f, 1, 2) - 0.5 * (half + turned(half, 1, 2))
    return [
        Sides(extrapolate(means), -0.5 * np.einsum("n,nij->ij", weights, to_end @ (df + f @ f) @ from_start)),
        Sides(extrapolate(covariances), np.einsum("n,nij->ij", weights, to_end @ local @ turned(to_end, 1, 2))),
    ]
