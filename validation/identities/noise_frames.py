r"""The frame of the noise: V V' = Sigma, of which there are many, and the one in which a trajectory stands still.

    x = U x_0 + V y,   V' = (F + D Sigma^-1 / 2) V       dy = 0 along the flow of one clean point
    V = L Z:  L Cholesky's root, Z turning                                          `LinearProcess.turning`
    V_t = Psi(t, s) V_s,  Psi the same for every V                                  `LinearProcess.noise_channel`

Printed twice in the source and refuted here: V U^-1 for U^-1 V in the integral of V, and that V(0) = 0 picks one of
the frames. Every V has rotations of it beside it; and where noise comes in through velocities alone, V turns for ever
on its way to 0. One side is the library's Gauss steps, the other DOP853, which asks for F and D alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
from scipy.linalg import sqrtm
from scipy.special import logsumexp

from refdiff.arguments import Array
from refdiff.distributions import Empirical, random_mixture
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess
from refdiff.validation.cases import Case
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.linear_systems import END, NODES, START, System, systems
from refdiff.validation.numeric import derivative, jacobian, legendre

TOPIC = "The frame of matrix noise"


def frame(system: System, t: float, start: float = START) -> Array:
    """V(t) (d, d) of a system by the library, Cholesky's root at `start`."""
    process = system.process
    return np.asarray(process.noise_channel(start, t).gain @ process.frame(start))


@identity(
    "The frame of the noise is a root of its covariance",
    topic=TOPIC,
    formula=r"\dot V = (F + \tfrac12 D \Sigma^{-1}) V = \tfrac12 D V^{-\mathsf T} + F V,\quad"
    r" V V^{\mathsf T} = \Sigma = V R\, (V R)^{\mathsf T}",
    covers=["RDX-12", "RDX-13"],
    over="once",
    evidence=DERIVATIVE,
    control="Cholesky's root at every time in place of V",
)
def covariance_root(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's V against DOP853's, its square against Sigma, its stencil against both forms of the equation."""
    for system in systems(case):
        process, found = system.process, system.along
        v, t = process.frame(END) if wrong else frame(system, END), 0.5 * (START + END)
        yield Sides(v, found.frame[-1])
        yield Sides(v @ v.T, found.covariance[-1])
        turned = v @ system.turn
        yield Sides(turned @ turned.T, process.kernel(END).noise)
        if system.kind in ("random 3 x 3", "Langevin"):
            here = frame(system, t)
            rate = derivative(partial(frame, system), t, 0.01)
            f, d = process.drift(t), process.diffusion(t)
            yield Sides(rate, f @ here + np.linalg.solve(here, d).T / 2)
            yield Sides(rate, (f + np.linalg.solve(process.kernel(t).noise, d).T / 2) @ here)


@identity(
    "In the frame of the noise a trajectory stands still",
    topic=TOPIC,
    formula=r"x = U x_0 + V y:\quad \dot y = 0,\qquad y \sim \mathcal N(0, I)\ \text{at every time}",
    covers=["RDX-11", "RDX-10", "RDX-16", "RDX-21"],
    over="once",
    evidence=QUADRATURE,
    control="Cholesky's root at every time in place of V, in which the same y moves",
)
def standing_still(case: Case, wrong: bool) -> Iterator[Sides]:
    """DOP853's path of one clean point in the library's frame; its channel pushed through V^-1."""
    for system in systems(case):
        process = system.process
        first = process.frame(START)
        x = process.kernel(START).gain @ system.x0 + first @ system.eps
        v = process.frame(END) if wrong else frame(system, END)
        kernel = process.kernel(END)
        there = system.path(x, START, END)
        yield Sides(np.linalg.solve(v, there - kernel.gain @ system.x0), system.eps)
        yield Sides(there, kernel.gain @ system.x0 + v @ system.eps)
        inverse = np.linalg.inv(v)
        law = kernel.at(system.x0).affine(inverse, -inverse @ kernel.gain @ system.x0)
        yield Sides(law.cov(), np.eye(system.dim))
        yield Sides(law.mean(), np.zeros(system.dim), scale=np.linalg.norm(inverse) * np.abs(there).max())


@identity(
    "The frame as an integral: U^-1 V, not V U^-1",
    topic=TOPIC,
    formula=r"V(t) - K(t, s) V(s) = \tfrac12 \int_s^t K(t, u) D V^{-\mathsf T} du,\quad"
    r" U^{-1} V \Big|_s^t = \tfrac12 \int_s^t U^{-1} D V^{-\mathsf T} du",
    covers=["RDX-14", "RDX-15"],
    refutes=["RDX-15"],
    over="once",
    evidence=QUADRATURE,
    control="V U^-1, as (2.15) prints it",
)
def integral_forms(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's V, in two gauges, against quadrature over DOP853's U and V."""
    _, weights = legendre(NODES)
    for system in systems(case):
        process, found = system.process, system.along
        u, v = found.evolution[1:-1], found.frame[1:-1]
        times = START + (END - START) * legendre(NODES)[0]
        d = np.stack([process.diffusion(t) for t in times])
        before, after = process.kernel(START).gain, process.kernel(END).gain
        for turn in (np.eye(system.dim), system.turn):
            first, last = process.frame(START) @ turn, frame(system, END) @ turn
            forced = np.linalg.solve(u, d @ np.swapaxes(np.linalg.inv(v @ turn), 1, 2))
            integral = (END - START) / 2 * np.einsum("n,nij->ij", weights, forced)
            inverse = np.linalg.inv(before), np.linalg.inv(after)
            moved = last @ inverse[1] - first @ inverse[0] if wrong else inverse[1] @ last - inverse[0] @ first
            size = max(np.abs(one).max() for one in (*inverse, integral)) * max(1.0, np.abs(last).max())
            yield Sides(moved, integral, scale=size)
            if not wrong:
                yield Sides(last - process.channel(START, END).gain @ first, after @ integral,
                            scale=np.abs(after).max() * size)  # fmt: skip


@identity(
    "V(0) = 0 picks none of the frames",
    topic=TOPIC,
    formula=r"V R = \tfrac12 \int_0^t K D (V R)^{-\mathsf T} du\ \text{ for every orthogonal } R,\quad V(0) R = 0",
    covers=["RDX-14"],
    refutes=["RDX-14"],
    over="once",
    evidence=QUADRATURE,
    control="the two solutions of the same integral equation taken as one, as the text says",
)
def spare_rotation(case: Case, wrong: bool) -> Iterator[Sides]:
    """The whole integral from 0, u = q^2 over V ~ q, for a frame and a rotation of it; both vanish at 0."""
    nodes, weights = legendre(16)
    for system in systems(case, "random 2 x 2"):
        process, t = system.process, 0.1
        q = np.sqrt(t) * nodes
        pushed = [process.channel(u, t).gain @ process.diffusion(u) for u in q**2]
        v = [process.noise_channel(t, u).gain @ process.frame(t) for u in q**2]
        solutions = []
        for turn in (np.eye(system.dim), system.turn):
            terms = np.stack([kd @ np.linalg.inv(one @ turn).T for kd, one in zip(pushed, v, strict=True)])
            solutions.append(process.frame(t) @ turn)
            yield Sides(solutions[-1], np.sqrt(t) * np.einsum("n,n,nij->ij", weights, q, terms))
            yield Sides(process.noise_channel(t, 0.0).gain @ solutions[-1], 0 * turn)
        if wrong:
            yield Sides(*solutions)


@identity(
    "Noise through velocities turns its frame for ever",
    topic=TOPIC,
    formula=r"F = \begin{pmatrix} 0 & 1\\ 0 & 0 \end{pmatrix},\ D = \begin{pmatrix} 0 & 0\\ 0 & 1 \end{pmatrix}:\quad"
    r" V = L Z,\ \dot\theta = \tfrac{\sqrt 3}{2}\ \text{per e-fold of } t",
    covers=["RDX-14"],
    over="once",
    control="a frame with a limit at t = 0",
)
def endless_turning(case: Case, wrong: bool) -> Iterator[Sides]:
    """The angles of Z between times far apart, from the library's Psi, against a straight line in log t."""
    process = LinearProcess([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]])
    times = np.exp(-np.arange(0.0, 13.0, 3.0) - case.rng.uniform())
    for s, t in pairwise(times):
        turn = np.linalg.solve(process.frame(t), process.noise_channel(s, t).gain @ process.frame(s))
        angle = 0.0 if wrong else np.sqrt(3) / 2 * np.log(s / t)
        cos, sin = np.cos(angle), np.sin(angle)
        yield Sides(turn, [[cos, -sin], [sin, cos]])


@identity(
    "Scores in the frame",
    topic=TOPIC,
    formula=r"\nabla_y \log p(y) = V^{\mathsf T} \nabla_x \log p(x),\quad"
    r" -V^{\mathsf T} \nabla_x \log p_t(x) = \mathbb E[V^{-1} (x_t - U x_0) \mid x_t = x]",
    covers=["RDX-22", "RDX-23"],
    over="once",
    evidence=DERIVATIVE,
    control="V in place of its transpose",
)
def scores(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils of the density of y; a softmax over a point set by hand; Bayes' denoiser of a mixture."""
    for system in systems(case, "random 3 x 3", "variance-preserving", "Langevin"):
        process, v = system.process, frame(system, END)
        back = v if wrong else v.T
        kernel, rng = process.kernel(END), case.rng

        def density(y: Array, model: ExactModel, at: Array = kernel.gain @ system.x0, v: Array = v) -> Array:
            return np.asarray(model.log_density(at + y @ v.T, END))

        data = rng.standard_normal((4, system.dim))
        weights = rng.dirichlet(np.ones(4))
        mixture = random_mixture(system.dim, 3, rng, "full")
        for law in (mixture, Empirical(data, weights)):
            model = ExactModel(law, process)
            x = model.sample(4, END, rng)
            y = np.asarray(np.linalg.solve(v, (x - kernel.gain @ system.x0).T).T, dtype=np.float64)
            moved = model.score(x, END) @ back.T
            yield Sides(jacobian(partial(density, model=model), y, 0.02), moved)
            left = np.linalg.solve(v, (x - model.denoiser(x, END) @ kernel.gain.T).T).T
            yield Sides(left, -moved)
        rest = np.linalg.solve(v, (x[:, None] - data @ kernel.gain.T).reshape(-1, system.dim).T).T.reshape(4, 4, -1)
        logits = np.log(weights) - (rest**2).sum(axis=-1) / 2
        softmax = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
        yield Sides(np.einsum("nk,nkd->nd", softmax, rest), -moved)
        yield Sides(model.noise(x, END), -model.score(x, END) @ process.frame(END))


@identity(
    "Variance-preserving frames are no symmetric roots",
    topic=TOPIC,
    formula=r"F = -\tfrac12 D:\ V V^{\mathsf T} = I - U U^{\mathsf T},\qquad"
    r" V = \sqrt{I - U U^{\mathsf T}}\ \text{only where the axes stand still}",
    covers=["RDX-34"],
    over="once",
    evidence=QUADRATURE,
    control="the symmetric root where the axes move",
)
def symmetric_roots(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's Psi on the symmetric root at the start against the root at the end; V V' against DOP853's U."""
    for system in systems(case, "axes that stand still", "variance-preserving"):
        process, u = system.process, system.along.evolution
        roots = [np.real(sqrtm(np.eye(system.dim) - one @ one.T)) for one in (u[0], u[-1])]
        v = process.noise_channel(START, END).gain @ roots[0]
        yield Sides(v @ v.T, np.eye(system.dim) - u[-1] @ u[-1].T)
        yield Sides(process.kernel(END).noise, np.eye(system.dim) - u[-1] @ u[-1].T)
        if wrong or system.kind == "axes that stand still":
            yield Sides(v, roots[1])
