r"""Steps of any length with matrix noise, exact for one clean point and, with the data's covariance, for Gaussians.

    x(t) = U x_0 + V eps                                            eps = V(T)^-1 [x(T) - U(T) x_0]
    x(t) = K(t, s) x(s) + [V(t) - K(t, s) V(s)] eps                 whatever the rotation of V
         = K(t, s) x(s) - [Psi - K(t, s)] Sigma(s) score            without any frame: Psi = V(t) V(s)^-1

The source prints eps = V(T)^-1 x(T), and V U^-1 for U^-1 V in the second line, and calls both exact: the first errs by
what is left of x_0 at T, the second by as much as everything is. With the data's covariance S, P = U S U' + Sigma in
the place of Sigma leaves no singularity at t = 0 and makes one step exact for all Gaussian data.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, random_mixture
from refdiff.dynamics import flow
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess
from refdiff.schedules import VPLinear
from refdiff.validation.cases import Case
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.linear_systems import ATOL, END, NODES, RTOL, START, System, systems
from refdiff.validation.numeric import legendre

TOPIC = "Steps with matrix noise"
TIMES = (0.9, 0.6, 0.4, 0.2, 0.05)


class Walk(NamedTuple):
    """A path of DOP853 of one clean point, and the library's matrices (d, d) along it.

    before and after are x (d,) at START and END; u and v are U and V at both, k is K(END, START).
    """

    before: Array
    after: Array
    u: tuple[Array, Array]
    v: tuple[Array, Array]
    k: Array


@cache
def walk(system: System, turned: bool = False) -> Walk:
    """The path from U x_0 + V eps at START, V Cholesky's root there, turned by the system's rotation if asked."""
    process = system.process
    first = process.frame(START) @ (system.turn if turned else np.eye(system.dim))
    u = process.kernel(START).gain, process.kernel(END).gain
    before = u[0] @ system.x0 + first @ system.eps
    v = first, process.noise_channel(START, END).gain @ first
    return Walk(before, system.path(before, START, END), u, v, process.channel(START, END).gain)


@identity(
    "The way back from the endpoint needs the clean point twice",
    topic=TOPIC,
    formula=r"x(t) = U(t) x_0 + V(t) V(T)^{-1} [x(T) - U(T) x_0]",
    covers=["RDX-17", "RDX-16"],
    refutes=["RDX-17"],
    over="once",
    evidence=QUADRATURE,
    control="eps = V(T)^-1 x(T), as (2.17) prints it",
)
def from_the_endpoint(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's Psi backwards on the end of DOP853's path against its start; what is left of x_0 under VP."""
    for system in systems(case):
        path, process = walk(system), system.process
        psi = process.noise_channel(END, START).gain
        rest = path.after if wrong else path.after - path.u[1] @ system.x0
        size = np.abs(path.before).max() + np.linalg.norm(psi, 2) * np.abs(path.after).max()
        yield Sides(path.u[0] @ system.x0 + psi @ rest, path.before, scale=size)
        # a combination of both ends, which is all that "a straight line" can mean
        weights = path.u[0] - psi @ path.u[1], psi
        if not wrong:
            yield Sides(weights[0] @ system.x0 + weights[1] @ path.after, path.before, scale=size)
    schedule = VPLinear()
    one = LinearProcess(lambda t: [[schedule.f(t)]], lambda t: [[np.sqrt(schedule.g2(t))]])
    yield Sides(one.kernel(1.0).gain, [[np.exp(-5.025)]])


@identity(
    "A trajectory is straight in x / alpha over sigma / alpha",
    topic=TOPIC,
    formula=r"\frac{x(t)}{\alpha_t} = x_0 + \frac{\sigma_t}{\alpha_t}\, \epsilon,\quad"
    r" x(t) = \cos\theta\, x_0 + \sin\theta\, \epsilon\ \text{an elliptic arc}",
    covers=["RDX-18"],
    over="once",
    evidence=QUADRATURE,
    control="x itself over sigma",
)
def straight_line(case: Case, wrong: bool) -> list[Sides]:
    """DOP853's flow of one clean point at five times: slopes of chords; the conic through x_0 and eps."""
    rng, schedule = case.rng, VPLinear()
    x0, eps = rng.standard_normal((2, 3))
    model = ExactModel(Gaussian(x0, 0.0), schedule)
    c = schedule.coefficients(np.array(TIMES))
    path = [(c.alpha[0] * x0 + c.sigma[0] * eps)[None]]
    for start, end in pairwise(TIMES):
        path.append(flow(model, path[-1], start, end, rtol=1e-12, atol=1e-14).x)
    x = np.concatenate(path)
    along, over = (x, c.sigma) if wrong else (x / c.alpha[:, None], c.sigma / c.alpha)
    slopes = np.diff(along, axis=0) / np.diff(over)[:, None]
    coordinates = np.linalg.lstsq(np.stack([x0, eps]).T, x.T)[0]
    return [
        Sides(slopes, np.broadcast_to(eps, slopes.shape)),
        Sides((coordinates**2).sum(axis=0), np.ones(len(TIMES))),
    ]


@identity(
    "One step of any length, in any frame",
    topic=TOPIC,
    formula=r"x(t) = K x(s) + \tfrac12 \int_s^t K(t, u) D V^{-\mathsf T} du\, \epsilon"
    r" = K x(s) + [V(t) - K(t, s) V(s)]\, \epsilon,\quad \epsilon = V(s)^{-1} (x(s) - U(s) x_0)",
    covers=["RDX-19"],
    refutes=["RDX-19"],
    over="once",
    evidence=QUADRATURE,
    control="U(t) [V U^-1](s to t), as the second line of (2.19) prints it",
)
def one_step(case: Case, wrong: bool) -> Iterator[Sides]:
    """DOP853's path against quadrature over its own frame, and against the library's frame in two rotations."""
    nodes, weights = legendre(NODES)
    for system in systems(case):
        process = system.process
        for turned in (False, True):
            path = walk(system, turned)
            eps = np.linalg.solve(path.v[0], path.before - path.u[0] @ system.x0)
            size = np.abs(path.k @ path.before).max() + np.abs(path.after).max() + np.abs(path.v[1]).max()
            back = [np.linalg.inv(u) for u in path.u]
            weight = path.v[1] - path.k @ path.v[0]
            if wrong:
                weight = path.u[1] @ (path.v[1] @ back[1] - path.v[0] @ back[0])
            yield Sides(path.k @ path.before + weight @ eps, path.after, scale=size)
        found = system.along
        forced = [
            np.linalg.solve(u, process.diffusion(START + (END - START) * node) @ np.linalg.inv(v).T)
            for node, u, v in zip(nodes, found.evolution[1:-1], found.frame[1:-1], strict=True)
        ]
        integral = (END - START) / 2 * found.evolution[-1] @ np.einsum("n,nij->ij", weights, forced)
        path = walk(system)
        yield Sides(path.k @ path.before + integral @ system.eps, path.after)


@identity(
    "The step without a frame",
    topic=TOPIC,
    formula=r"x_t = K x_s - [\Psi - K]\, \Sigma_s \nabla \log p_s(x_s) = K x_s + [V_t R - K V_s R]\, \epsilon_R,\quad"
    r" \epsilon_R = -(V_s R)^{\mathsf T} \nabla \log p_s,\quad \dot\Psi = (F + \tfrac12 D \Sigma^{-1}) \Psi",
    covers=["RDX-20b"],
    over="once",
    evidence=QUADRATURE,
    control="the printed weights, in which the rotation does not cancel",
)
def without_a_frame(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's Psi, K and Sigma on the score of a mixture, down from END, against DOP853's frames, turned."""
    for system in systems(case):
        process, found = system.process, system.along
        law = random_mixture(system.dim, 4, case.rng, "full")
        model = ExactModel(law, process)
        x = model.sample(5, END, case.rng)
        score = model.score(x, END)
        k = np.linalg.inv(process.channel(START, END).gain)
        psi = process.noise_channel(END, START).gain
        step = x @ k.T - score @ process.kernel(END).noise @ (psi - k).T
        u, v = (found.evolution[0], found.evolution[-1]), (found.frame[0], found.frame[-1])
        for turn in (np.eye(system.dim), system.turn):
            there, here = v[0] @ turn, v[1] @ turn
            weight = there - u[0] @ np.linalg.solve(u[1], here)
            if wrong:
                weight = u[0] @ (there @ np.linalg.inv(u[0]) - here @ np.linalg.inv(u[1]))
            yield Sides(x @ k.T - score @ here @ weight.T, step, scale=np.abs(x @ k.T).max() + np.abs(step).max())


@identity(
    "With the covariance of the data one step is exact for Gaussians",
    topic=TOPIC,
    formula=r"V V^{\mathsf T} = P = U S U^{\mathsf T} + \Sigma,\quad \dot V = (F + \tfrac12 D P^{-1}) V,\quad"
    r" V(0) = S^{1/2}:\quad x_0 = m + V(0) V(T)^{-1} (x_T - U(T) m)",
    covers=["RDX-20c"],
    over="once",
    evidence=QUADRATURE,
    control="the noise's covariance alone, Psi in place of V(0) V(T)^-1",
    most=1,
)
def full_covariance(case: Case, wrong: bool) -> Iterator[Sides]:
    """The library's map of Gaussian data from T to data and from END to START against DOP853's V from 0 to T."""
    for system in systems(case, "random 2 x 2", "variance-preserving", "Langevin"):
        process, dim = system.process, system.dim
        law = random_mixture(dim, 1, case.rng, "full")
        law = Gaussian(law.means[0], law.cov())
        model = ExactModel(law, process)
        x = model.sample(4, 1.0, case.rng)
        v, u = data_frames(process, law, (0.0, START, END, 1.0))
        for i, j, start, end in ((3, 0, 1.0, 0.0), (1, 2, START, END)):
            found = gaussian_flow(law, process, start, end)
            psi = process.noise_channel(start, end).gain if wrong else v[j] @ np.linalg.inv(v[i])
            wanted = law.mean() @ u[j].T + (x - law.mean() @ u[i].T) @ psi.T
            yield Sides(operators.apply(found.gain, x) + found.offset, wanted)
            yield Sides(found.push(model.marginal(start)).cov(), model.marginal(end).cov())


def data_frames(process: LinearProcess, law: Gaussian, times: tuple[float, ...]) -> tuple[Array, Array]:
    """V with V V' = P and U, both (m, d, d), at rising times from 0, by DOP853."""
    d = law.dim

    def slope(t: float, flat: Array) -> Array:
        u, p, v = flat.reshape(3, d, d)
        f, noise = process.drift(t), process.diffusion(t)
        moved = f @ p
        return np.stack([f @ u, moved + moved.T + noise, (f + np.linalg.solve(p, noise).T / 2) @ v]).ravel()

    state = np.stack([np.eye(d), law.cov(), np.linalg.cholesky(law.cov())]).ravel()
    found = solve_ivp(slope, (0, times[-1]), state, method="DOP853", rtol=RTOL, atol=ATOL, t_eval=times)
    u, _, v = np.moveaxis(found.y.T.reshape(-1, 3, d, d), 1, 0)
    return v, u
