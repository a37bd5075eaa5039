r"""Variance-preserving noise in its own axes: D = sum_m lambda_m d_m d_m', U = sum_mn u_mn d_m d_n', F = -D/2.

    u_mn' = -lambda_m u_mn / 2 + sum_p (e_mp u_pn - u_mp e_pn),    e_mn = d_n . d_m'
    at rest:      u_mn = delta_mn u_m,  u_m = exp(-int lambda_m / 2),  Sigma = sum (1 - u_m^2) d_m d_m'
    turning by a small angle eta:   u = u^0 + u^1 + O(eta^2),
        u^1_ab = int_0^t exp(-int_s^t lambda_a / 2) (u^0_b - u^0_a) e_ab ds,   not symmetric

The source's Appendix F drops the decay from the equation of u^1, and finds it symmetric. Second routes: Gauss steps of
the equation in fixed coordinates, Frechet derivatives of matrix exponentials, stencils.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
from scipy.linalg import expm, expm_frechet

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.processes import Rotating
from refdiff.processes.transition import Linear, step
from refdiff.validation import laws
from refdiff.validation.cases import Case
from refdiff.validation.identities.equilibrium import turns
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.numeric import derivative, extrapolate, integral, legendre

TOPIC = "Axes of the noise"
T = 1.0


@dataclass(frozen=True, eq=False)
class Swinging:
    """lambda_m(t) = a_m + b_m t on axes that turn by the angle eta (t + t^2 / 2): e^(angle W) E_0.

    Attributes:
        base, slope: a and b, shape (d,).
        turning: W, antisymmetric, shape (d, d).
        first: E_0, orthogonal, shape (d, d).
        eta: the size of the angle.
    """

    base: Array
    slope: Array
    turning: Array
    first: Array
    eta: float = 0.0

    def rates(self, t: Array | float) -> Array:
        """lambda_m, shape (..., d)."""
        return np.asarray(self.base + self.slope * np.asarray(t)[..., None])

    def decay(self, t: Array | float) -> Array:
        """u_m = exp(-int lambda_m / 2), shape (..., d)."""
        time = np.asarray(t)[..., None]
        return np.asarray(np.exp(-(self.base * time + self.slope * time**2 / 2) / 2))

    def axes(self, t: float) -> Array:
        """d_m as columns, shape (d, d)."""
        return np.asarray(expm(self.eta * (t + t * t / 2) * self.turning) @ self.first)

    def connection(self, t: Array | float) -> Array:
        """e_mn / eta = d_n . d_m' / eta, shape (..., d, d)."""
        inner: Array = self.first.T @ self.turning.T @ self.first
        return (1 + np.asarray(t))[..., None, None] * inner

    def drift(self, t: float) -> Array:
        """F = -D / 2 in fixed coordinates, shape (d, d)."""
        e = self.axes(t)
        return np.asarray(-(e * self.rates(t) @ e.T) / 2)

    def kernel(self, t: float) -> Channel:
        """The channel from 0 to t in fixed coordinates, by eight steps of order 16 with |F| h <= 1 / 2."""
        still = np.zeros(len(self.base))
        equation = Linear(self.drift, lambda _: still, lambda t: self.axes(t) * np.sqrt(self.rates(t)))
        parts = [step(equation, a, b) for a, b in pairwise(np.linspace(0, t, 9))]
        return reduce(lambda done, part: part.after(done), parts).channel

    def turned(self, eta: float) -> Swinging:
        """The same with another angle."""
        return Swinging(self.base, self.slope, self.turning, self.first, eta)


def swinging(case: Case) -> Iterator[Swinging]:
    """d = 2..5, and the source's smallest case: rates 1 and 3 in the plane."""
    rng = case.rng
    for dim in range(2, 6):
        first = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        yield Swinging(rng.uniform(0.2, 4.0, dim), rng.uniform(0, 2.0, dim), turns(rng, dim), first)
    yield Swinging(np.array([1.0, 3.0]), np.zeros(2), np.array([[0.0, -1.0], [1.0, 0.0]]), np.eye(2))


@identity(
    "The spectral form and its connection",
    topic=TOPIC,
    formula=r"\dot u_{mn} = -\tfrac12 \lambda_m u_{mn} + \sum_p (e_{mp} u_{pn} - u_{mp} e_{pn}),\quad"
    r" e_{mn} = d_n \cdot \dot d_m = -e_{nm}",
    covers=["RDX-49"],
    refutes=["RDX-49"],
    over="once",
    evidence=DERIVATIVE,
    control="e_mn = d_n . d_m without the dot, as L283 prints",
)
def spectral_form(case: Case, wrong: bool) -> Iterator[Sides]:
    """Stencils of the axes, of u and of U in closed form, for d = 2..6 and axes that turn faster and faster."""
    rng = case.rng
    for dim in range(2, 7):
        start = laws.covariances(laws.gaussian(rng, dim))[0]
        closed = Rotating(turns(rng, dim), start, clock=lambda t: (t + t * t / 2, 1 + t, 1.0))
        yield from _spectral_sides(closed, rng.uniform(0.3, 1.0), wrong)


def _spectral_sides(closed: Rotating, t: float, wrong: bool) -> list[Sides]:
    """u' and e_mn of one process at one time."""
    h, (lam, axes, u, e) = 0.02, closed.spectral(t)
    found = derivative(lambda s: closed.spectral(s).axes, t, h).T @ axes
    used = axes.T @ axes if wrong else found
    whole = closed.propagator(0.0, t)
    return [
        Sides(derivative(lambda s: closed.spectral(s).evolution, t, h), -lam[:, None] / 2 * u + used @ u - u @ used),
        Sides(e, found),
        Sides(derivative(lambda s: closed.propagator(0.0, s), t, h), closed.drift(t) @ whole),
        Sides(axes @ u @ axes.T, whole),
    ]


@identity(
    "Axes at rest evolve on their own",
    topic=TOPIC,
    formula=r"u_{mn} = \delta_{mn} \exp\!\Big( -\tfrac12 \int_0^t \lambda_m \Big)",
    covers=["RDX-50"],
    over="once",
    control="without the half",
)
def rigid_evolution(case: Case, wrong: bool) -> Iterator[Sides]:
    """Gauss steps in fixed coordinates against the exponentials of the integrals."""
    for example in swinging(case):
        for t in (0.2, T):
            gain = example.kernel(t).gain
            yield Sides(example.first.T @ gain @ example.first, np.diag(example.decay(t) ** (2 if wrong else 1)))


@identity(
    "Axes at rest have a covariance of their own, and F Sigma",
    topic=TOPIC,
    formula=r"\Sigma = \sum_m (1 - u_m^2)\, d_m d_m^{\mathsf T},\quad"
    r" F \Sigma = -\tfrac12 \sum_m \lambda_m (1 - u_m^2)\, d_m d_m^{\mathsf T}",
    covers=["RDX-51"],
    refutes=["RDX-51"],
    over="once",
    control="F Sigma without its -1/2, as (4.10) prints: that is D Sigma",
)
def rigid_covariance(case: Case, wrong: bool) -> Iterator[Sides]:
    """Gauss steps in fixed coordinates against the formulas."""
    for example in swinging(case):
        for t in (0.2, T):
            e, left = example.first, 1 - example.decay(t) ** 2
            sigma = example.kernel(t).noise
            yield Sides(sigma, e * left @ e.T)
            yield Sides(example.drift(t) @ sigma, (1 if wrong else -0.5) * (e * (example.rates(t) * left)) @ e.T)


@identity(
    "The equation of a deviation along one axis",
    topic=TOPIC,
    formula=r"v_m = \tfrac12 u_m \int_0^t \frac{\lambda_m}{u_m v_m},\quad \lambda_m = -\tfrac{d}{dt} \log \alpha_m:"
    r"\quad u_m = \sqrt{\alpha_m},\ v_m = \sqrt{1 - \alpha_m}",
    covers=["RDX-52"],
    over="once",
    evidence=QUADRATURE,
    control="without the half",
)
def deviation(case: Case, wrong: bool) -> Iterator[Sides]:
    """Quadrature in the root of time, where the integrand is smooth: rates linear in time, cosines, straight lines."""
    rng = case.rng
    a, b, c, t = rng.uniform(0.2, 3.0), rng.uniform(0.0, 4.0), rng.uniform(0.5, 1.4), rng.uniform(0.3, 0.9)
    # -log alpha and lambda; cos x = 1 - 2 sin^2 (x / 2), whose logarithm keeps its digits near 0
    yield _deviation_sides(lambda s: a * s + b * s * s / 2, lambda s: a + b * s, t, wrong)
    yield _deviation_sides(
        lambda s: -2 * np.log1p(-2 * np.sin(c * s / 2) ** 2), lambda s: 2 * c * np.tan(c * s), t, wrong
    )
    yield _deviation_sides(lambda s: -2 * np.log1p(-s), lambda s: 2 / (1 - s), t, wrong)


def _deviation_sides(spent: Callable[[Array], Array], rate: Callable[[Array], Array], t: float, wrong: bool) -> Sides:
    """The equation of v_m for one -log alpha and its rate lambda; -v solves it where v does."""

    def uv(s: Array) -> tuple[Array, Array]:
        """sqrt(alpha) and sqrt(1 - alpha)."""
        gone = spent(s)
        return np.exp(-gone / 2), np.sqrt(-np.expm1(-gone))

    def integrand(q: Array) -> Array:
        u, v = uv(q * q)
        return np.asarray(rate(q * q) * 2 * q / (u * v))

    u, v = uv(np.asarray(t))
    found = (1.0 if wrong else 0.5) * u * integral(integrand, 0.0, np.sqrt(t))
    return Sides(found, v)


def first_order(example: Swinging, t: float, decays: bool = True) -> Array:
    """u^1 / eta of an `example` at t, shape (d, d), by quadrature; without what `decays` since s it is the source's."""
    nodes, weights = legendre(48)
    s = t * nodes
    u = example.decay(s)
    gap = u[:, None, :] - u[:, :, None]  # u_b - u_a
    left = example.decay(t) / u if decays else np.ones_like(u)
    return np.asarray(np.einsum("n,na,nab,nab->ab", t * weights, left, gap, example.connection(s)))


@identity(
    "Axes that turn slowly: the evolution to first order",
    topic=TOPIC,
    formula=r"u^1_{ab} = \int_0^t e^{-\frac12 \int_s^t \lambda_a} (u^0_b - u^0_a)\, e_{ab}\, ds \ne u^1_{ba}",
    covers=["RDX-F1"],
    refutes=["RDX-F1"],
    over="once",
    evidence=QUADRATURE,
    control="(F3), (F4): no decay, and so a symmetric u^1",
)
def slow_evolution(case: Case, wrong: bool) -> Iterator[Sides]:
    """Quadrature against the Frechet derivative, in the speed of turning, of the closed U at constant rates."""
    rng = case.rng
    for dim in range(2, 6):
        first, lam, w = np.linalg.qr(rng.standard_normal((dim, dim)))[0], rng.uniform(0.2, 4, dim), turns(rng, dim)
        # u = E_0' e^(-t (D_0 / 2 + eta W)) e^(t eta W) E_0, with E_0 and D_0 of the frame
        t, still = rng.uniform(0.5, 1.5), (first * lam) @ first.T / 2
        moved = expm(-t * still) @ (t * w) - expm_frechet(-t * still, t * w, compute_expm=False)
        nodes, weights = legendre(48)
        s = t * nodes[:, None]
        left = np.ones((48, dim)) if wrong else np.exp(-(t - s) * lam / 2)
        u = np.exp(-s * lam / 2)
        formula = np.einsum("n,na,nab->ab", t * weights, left, u[:, None, :] - u[:, :, None]) * (first.T @ w.T @ first)
        yield Sides(first.T @ moved @ first, formula)


@identity(
    "Axes that turn slowly: covariance and commutator to first order",
    topic=TOPIC,
    formula=r"\Sigma_{ab} = (1 - u_a^2) \delta_{ab} - u_a u^1_{ba} - u_b u^1_{ab},\quad"
    r" [D, \Sigma]_{ab} = (\lambda_a - \lambda_b) \Sigma_{ab}",
    covers=["RDX-F1"],
    refutes=["RDX-F1"],
    over="once",
    evidence=ORDER,
    control="(F5), (F7): -(u_a + u_b) u^1_ab with the printed u^1",
)
def slow_covariance(case: Case, wrong: bool) -> Iterator[Sides]:
    """Gauss steps with rates and turning that vary, in the axes of the time t, over eta and extrapolated."""
    for example in swinging(case):
        t, u, e_1 = T, example.decay(T), first_order(example, T, decays=not wrong)
        spread = -(u[:, None] * e_1.T + u * e_1)
        lam = example.rates(t)
        rest = np.diag(1 - u**2)
        gains, spreads, commutators = [], [], []
        for eta in 0.1 / 2.0 ** np.arange(4):
            turned = example.turned(eta)
            link, e = turned.kernel(t), turned.axes(t)
            own = e.T @ link.noise @ e
            d = np.diag(lam)
            gains.append((e.T @ link.gain @ e - np.diag(u)) / eta)
            spreads.append((own - rest) / eta)
            commutators.append((d @ own - own @ d) / eta)
        yield Sides(extrapolate(gains), e_1)
        yield Sides(extrapolate(spreads), spread)
        yield Sides(extrapolate(commutators), (lam[:, None] - lam) * spread)
