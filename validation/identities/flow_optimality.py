r"""The probability flow of dx = -x dt + sqrt(2) dw beside optimal transport: Lavenant and Santambrogio's argument.

    v_t = -x - grad log p_t,   S_t # p_0 = p_t,   S_inf # p_0 = N(0, I),       d/dt D(S_t o S_inf^-1) = Dv_t DS_inf^-1

S_inf is the optimal map for Gaussian data and on the line, and for a mixture of three components it is not: its
derivative is not symmetric. The text's own counterexample, u = |x|^2/2 + e phi, is a law whose optimal map is grad u;
that its flow is not optimal from some time on is seen here from the flow itself. Sources: PODB-93, PODB-94, PODB-95.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, cdf
from refdiff.dynamics import FlowJacobian, FlowMap, flow_jacobian
from refdiff.model import ExactModel
from refdiff.schedules import VPLinear
from refdiff.transport import PerturbedGaussian
from refdiff.validation.cases import Case
from refdiff.validation.identities.displacements import TOPIC
from refdiff.validation.identity import DERIVATIVE, Sides, identity
from refdiff.validation.laws import gaussian, log_normal, square_root
from refdiff.validation.numeric import FIRST, derivative, jacobian, lattice

FLOWS = 1e-6  # paths at rtol = 1e-7, and differences of them
END = 19.0  # e^-t = 6e-9
THREE = GaussianMixture.isotropic([[1.5, 0.0], [-0.8, 1.2], [-0.5, -1.4]], [0.3, 0.5, 0.2], [0.4, 0.35, 0.25])


def _noised(law: GaussianMixture) -> ExactModel:
    """A law carried by dx = -x dt + sqrt(2) dw up to t = 19: beta = 2."""
    return ExactModel(law, VPLinear(2.0, 2.0, T=END))


def _to_noise(law: GaussianMixture, x: Array, start: float = 0.0) -> FlowJacobian:
    """S_inf of a law, or from its p_start on, at points x (n, d), with its derivative."""
    return flow_jacobian(_noised(law), x, start, END, rtol=1e-7, atol=1e-9)


def _images(law: GaussianMixture, x: Array) -> Array:
    """S_inf of a law at points x (n, d), without the equation of its derivative."""
    return np.asarray(FlowMap(_noised(law), 0.0, END, rtol=1e-7, atol=1e-9).forward(x))


def _commutator(a: Array, b: Array) -> Array:
    """A B - B A of matrices (..., d, d): symmetric A and B have a symmetric product where it is 0."""
    return np.asarray(a @ b - b @ a)


@cache
def of_three() -> tuple[FlowJacobian, Array]:
    """The flow map of THREE at one point, and its Jacobian (2, 2) by stencils, all of whose points flow at once."""
    x, h, reach = np.array([0.3, 0.2]), 0.05, np.arange(1, len(FIRST) + 1)
    offsets = h * reach[:, None, None] * np.eye(2)
    moved = _images(THREE, np.concatenate([x + offsets, x - offsets]).reshape(-1, 2)).reshape(2, len(FIRST), 2, 2)
    return _to_noise(THREE, x[None]), np.einsum("k,kji->ij", FIRST, moved[0] - moved[1]) / h


@cache
def of_counterexample(spacing: float) -> tuple[Array, float]:
    """DT at the origin (2, 2) of the flow from t_0 = 0.1 on for e = 0.3, p_t0 summed at a `spacing`, and log det."""
    law, t0, x = PerturbedGaussian(0.3), 0.1, np.zeros((1, 2))
    axis = spacing * np.arange(-int(6 / spacing), int(6 / spacing) + 1)
    nodes = lattice(axis, axis)
    points = Empirical(law.inverse(nodes), np.exp(-0.5 * (nodes**2).sum(axis=1)))
    found = _to_noise(points, x, t0)
    volume = _noised(points).marginal(t0).logpdf(x) - log_normal(found.x, np.zeros(2), np.eye(2))
    return found.jacobian[0], float(volume[0])


@identity(
    "The Ornstein-Uhlenbeck process and its probability flow",
    topic=TOPIC,
    formula=r"dx = -x\,dt + \sqrt2\,dw:\quad \partial_t p_t = \nabla\!\cdot(x p_t) + \Delta p_t,\quad v_t = -x -"
    r" \nabla \log p_t",
    covers=["PODB-93"],
    over="once",
    evidence=DERIVATIVE,
    control="a noise of 1 for sqrt(2)",
)
def setup(case: Case, wrong: bool) -> list[Sides]:
    """Mixtures noised by alpha = e^-t, by hand: the rate of the density by a stencil in time, and the library's v."""
    rng, sides, noise = case.rng, [], 0.5 if wrong else 1.0
    for law in (THREE, gaussian(rng, 3), GaussianMixture.isotropic(rng.uniform(-1, 1, (2, 1)), 0.4)):
        t, x = float(rng.uniform(0.2, 1.5)), law.sample(4, rng)

        def at(u: float, law: GaussianMixture = law) -> GaussianMixture:
            return law.affine(np.exp(-u)).convolve(-np.expm1(-2 * u))

        here = at(t)
        score, bend = here.score(x), here.laplacian(x)
        rate = derivative(lambda u, x=x, at=at: np.asarray(at(u).logpdf(x)), t, 0.01)  # type: ignore[misc]
        drift = law.dim + (x * score).sum(axis=1)
        spread = noise * (bend + (score**2).sum(axis=1))
        size = np.abs(drift).max() + np.abs(spread).max()
        velocity = _noised(law).velocity(x, t)
        sides += [Sides(rate, drift + spread, scale=size), Sides(velocity, -x - noise * score, scale=size)]
    return sides


@identity(
    "For Gaussian data and on the line the probability flow ends at the optimal map",
    topic=TOPIC,
    formula=r"S_\infty(x) = \Sigma^{-1/2} (x - m),\quad d = 1: S_\infty = \Phi^{-1} \circ F_0,\quad S_{\infty\sharp}"
    r" p_0 = \mathcal{N}(0, I)",
    covers=["PODB-93", "PODB-94"],
    over="once",
    tolerance=FLOWS,
    control="L^-1 (x - m) with Cholesky's root, which carries to N(0, I) as well",
    most=1,
)
def ends(case: Case, wrong: bool) -> list[Sides]:
    """Flows to t = 19, where e^-t = 6e-9 is left of the mean, against the printed root and distribution functions."""
    rng = case.rng
    p, line = gaussian(rng, 2), GaussianMixture.isotropic(rng.uniform(-1, 1, (2, 1)), 0.4, [0.3, 0.7])
    x, y = p.sample(3, rng), line.sample(2, rng)  # three points are the whole of an affine map
    root = np.linalg.inv(np.linalg.cholesky(p.cov()) if wrong else square_root(p.cov()))
    standard = Gaussian([0.0], 1.0)
    return [
        Sides(_images(p, x), (x - p.mean()) @ root.T),
        Sides(cdf(standard, _images(line, y)), cdf(line, y)),
    ]


@identity(
    "The probability flow of three components is no gradient",
    topic=TOPIC,
    formula=r"D S_\infty = \lim_t D S_t,\ \partial_t D S_t = (-I - D^2 \log p_t(S_t))\, D S_t:\quad D S_\infty \ne D"
    r" S_\infty^\top",
    covers=["PODB-94"],
    over="once",
    tolerance=FLOWS,
    control="the symmetric part, as an optimal map would have it",
    most=1,
)
def no_gradient(case: Case, wrong: bool) -> list[Sides]:  # noqa: ARG001
    """The variational equation against stencils of the flow; volumes are right and the off-diagonals apart."""
    found, stencil = of_three()
    slope = found.jacobian
    if wrong:
        slope = 0.5 * (slope + np.swapaxes(slope, 1, 2))
    image = log_normal(found.x, np.zeros(2), np.eye(2))
    return [
        Sides(slope, stencil),
        Sides(np.linalg.slogdet(found.jacobian)[1], THREE.logpdf([[0.3, 0.2]]) - image, scale=10.0),
        Sides(np.round([slope[0, 0, 1], slope[0, 1, 0]], 5), [0.1853, 0.17967]),
    ]


@identity(
    "Maps to one end stay symmetric only where a Hessian commutes with them",
    topic=TOPIC,
    formula=r"\tfrac{\partial}{\partial t} D S_{s \to t} \big|_{t = s} = -I - D^2 \log p_s;\quad H M^{-1} - M^{-1} H ="
    r" M^{-1} [M, H] M^{-1},\ H = D^2 \log p,\ M = D S_\infty = M^\top",
    covers=["PODB-94", "PODB-95"],
    over="once",
    evidence=DERIVATIVE,
    control="the Hessian with the opposite sign, as where the score is added",
    most=2,
)
def commutes(case: Case, wrong: bool) -> list[Sides]:
    """The rate by stencils of flows about s = 0.4; the algebra for the counterexample and Gaussian data."""
    rng, sign = case.rng, -1.0 if wrong else 1.0
    model, x = _noised(THREE), rng.uniform(-1, 1, (2, 2))

    def slope(t: float) -> Array:
        if t == 0.4:
            return np.broadcast_to(np.eye(2), (2, 2, 2))
        return np.asarray(flow_jacobian(model, x, 0.4, t, rtol=1e-11, atol=1e-13).jacobian)

    bent = model.marginal(0.4).hessian(x)
    law = PerturbedGaussian(float(rng.uniform(0.05, 0.5)))
    z = law.sample(4, rng)
    h, m = law.hessian(z), law.jacobian(z)
    back, p = np.linalg.inv(m), gaussian(rng, 3)
    h3, m3 = np.asarray(p.hessian(p.mean())), square_root(np.asarray(np.linalg.inv(p.cov())))
    turned = h @ back - back @ h
    size = np.abs(h).max() * np.abs(back).max()
    return [
        Sides(derivative(slope, 0.4, 0.01), -np.eye(2) - sign * bent),
        Sides(turned, sign * back @ (m @ h - h @ m) @ back, scale=size),
        Sides(turned[:, 0, 1], -turned[:, 1, 0], scale=size),
        Sides(_commutator(h3, m3), 0.0, scale=np.abs(h3).max() * np.abs(m3).max()),
    ]


@identity(
    "The commutator of the counterexample",
    topic=TOPIC,
    formula=r"u = \tfrac12 \|x\|^2 + \varepsilon (x_1 x_2 + x_1^4):\quad [D^2 \log p_0, D^2 u](0) = \frac{24"
    r" \varepsilon^2}{1 - \varepsilon^2} \begin{pmatrix} 0 & 1 \\ -1 & 0 \end{pmatrix},\quad 0 < \varepsilon < 1",
    covers=["PODB-95"],
    over="once",
    evidence=DERIVATIVE,
    control="the leading order 24 e^2 of a small e, from D^2 phi and D^2 Laplacian phi",
)
def counterexample(case: Case, wrong: bool) -> list[Sides]:
    """Hessians of log det D^2 u - |grad u|^2 / 2 by stencils of the printed formula; u is convex for these e only."""
    rng, sides = case.rng, []
    for e in (0.1, 0.3, float(rng.uniform(0.05, 0.3))):
        law = PerturbedGaussian(e)

        def density(z: Array, e: float = e) -> Array:
            one, two = z.T
            slope = np.stack([one + e * (two + 4 * one**3), two + e * one])
            return np.asarray(np.log(1 + 12 * e * one**2 - e**2) - 0.5 * (slope**2).sum(axis=0))

        x = np.concatenate([np.zeros((1, 2)), rng.uniform(-0.5, 0.5, (3, 2))])
        bent = jacobian(lambda z, density=density: jacobian(density, z, 0.02), x, 0.02)  # type: ignore[misc]
        k = 24 * e**2 / (1 if wrong else 1 - e**2)
        sides += [
            Sides(bent, law.hessian(x), scale=np.abs(bent).max()),
            Sides(law.commutator(x)[0], k * np.array([[0.0, 1.0], [-1.0, 0.0]])),
            Sides(_commutator(bent, law.jacobian(x))[0], law.commutator(x)[0], scale=np.abs(bent).max()),
        ]
        # along x_2 = 0 the determinant with -e for e vanishes at x_1^2 = (1 - e^2) / (12 e)
        edge = np.array([[np.sqrt((1 - e**2) / (12 * e)), 0.0]])
        other = 2 * np.eye(2) - law.jacobian(edge)[0]
        sides += [
            Sides(np.linalg.det(other), 0.0, scale=1.0),
            Sides(np.linalg.det(law.jacobian(edge)[0]), 2 - 2 * e**2),
        ]
    return sides


@identity(
    "From the counterexample's law the probability flow is not optimal, seen from the flow itself",
    topic=TOPIC,
    formula=r"T_{t_0 \to \infty} = S_\infty \circ S_{t_0}^{-1}:\quad D T_{t_0 \to \infty} \ne (D T_{t_0 \to"
    r" \infty})^\top,\quad p_{t_0} \approx \sum_k w_k\, \mathcal{N}(e^{-t_0} (\nabla u)^{-1}(y_k), (1 - e^{-2 t_0}) I)",
    covers=["PODB-95", "PODB-94"],
    over="once",
    tolerance=FLOWS,
    control="the symmetric part",
    most=1,
)
def by_its_flow(case: Case, wrong: bool) -> list[Sides]:  # noqa: ARG001
    """p_t0 as a sum over a lattice of N(0, I), carried back by grad u: sums of two spacings agree."""
    (first, volume), (second, _) = of_counterexample(0.24), of_counterexample(0.27)
    if wrong:
        first = 0.5 * (first + first.T)
    return [
        Sides(first, second),
        Sides(np.linalg.slogdet(second)[1], volume, scale=10.0),
        Sides(round(float(first[0, 1] - first[1, 0]), 5), 0.01983, scale=1.0),
    ]
