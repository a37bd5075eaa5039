r"""The Gaussian toolbox: density, quadratic forms, affine maps and sampling.

    log N(x; m, S)             = -((x - m)' S^-1 (x - m) + log det 2 pi S) / 2
    E (x - m)' A (x - m)       = tr A S
    mu + A z                   ~ N(mu, A A'),   z ~ N(0, I)

The library works with Cholesky factors. The second routes here work with eigenvectors, characteristic functions and
cubature (`laws`).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian
from refdiff.validation.cases import Case, LawCase
from refdiff.validation.identity import Sides, identity
from refdiff.validation.laws import box, covariances, cubature, gaussian, log_normal
from refdiff.validation.numeric import Function, hermite, product_rule

TOPIC = "Gaussian toolbox"


# ---------------------------------------------------------------------- density


@identity(
    "Gaussian density",
    topic=TOPIC,
    formula=r"\log \mathcal{N}(x; \mu, \Sigma)"
    r" = -\tfrac12 (x - \mu)^\top \Sigma^{-1} (x - \mu) - \tfrac12 \log\det 2\pi\Sigma,\quad \int p = 1",
    covers=["DMI-01"],
    over="laws",
    control="det Sigma without its square root",
)
def density(case: LawCase, wrong: bool) -> list[Sides]:
    """The library's density against eigenvectors, component by component; in the plane it also integrates to 1."""
    law, found = case.law, []
    for k in range(min(law.count, 8)):
        mean, s = law.means[k], covariances(law)[k]
        component = law if law.count == 1 else Gaussian(mean, s)
        slip = 0.5 * np.linalg.slogdet(s)[1] if wrong else 0.0
        right = log_normal(case.x, mean, s) - slip
        found.append(Sides(component.logpdf(case.x), right, scale=np.abs(right) + law.dim))
    if law.dim == 2:
        nodes, area = box(component)
        found.append(Sides(np.exp(component.logpdf(nodes)).sum() * area, 1.0))
    return found


@identity(
    "Gaussian density, isotropic",
    topic=TOPIC,
    formula=r"p(x) = (2\pi\sigma^2)^{-d/2} e^{-\|x - \mu\|^2 / 2\sigma^2}",
    covers=["DMI-02"],
    over="once",
    control="(2 pi sigma^2)^{-1/2}, as in one dimension",
)
def isotropic_density(case: Case, wrong: bool) -> list[Sides]:
    """The formula against the general density of sigma^2 I, and against the library's isotropic storage."""
    rng, found = case.rng, []
    for d in (1, 2, 7, 64):
        mean, variance, x = rng.standard_normal(d), rng.uniform(0.1, 3.0), rng.standard_normal((5, d))
        power = 1 if wrong else d
        right = -0.5 * (power * np.log(2 * np.pi * variance) + np.square(x - mean).sum(axis=1) / variance)
        for law in (Gaussian(mean, variance), Gaussian(mean, variance * np.eye(d))):
            found.append(Sides(law.logpdf(x), right, scale=np.abs(right) + d))
    return found


@identity(
    "Trace identities and the trace trick",
    topic=TOPIC,
    formula=r"\operatorname{tr} AB = \operatorname{tr} BA,\quad v^\top A u = \operatorname{tr}(A u v^\top)",
    covers=["DMI-03", "DMI-04"],
    over="once",
    control="u and v exchanged in the outer product",
)
def traces(case: Case, wrong: bool) -> list[Sides]:
    """Traces of products against sums over entries, for rectangular A and B."""
    rng = case.rng
    a, b, c = rng.standard_normal((4, 6)), rng.standard_normal((6, 4)), rng.standard_normal((6, 6))
    u, v, (s, t) = rng.standard_normal(6), rng.standard_normal(6), rng.standard_normal(2)
    entries = (a * b.T).sum()
    outer = np.outer(v, u) if wrong else np.outer(u, v)
    return [
        Sides(np.trace(a @ b), entries, scale=np.abs(a * b.T).sum()),
        Sides(np.trace(b @ a), entries, scale=np.abs(a * b.T).sum()),
        Sides(np.trace(s * c + t * b @ a), s * np.diag(c).sum() + t * entries, scale=np.abs(c).sum()),
        Sides(v @ c @ u, np.trace(c @ outer), scale=np.abs(v) @ np.abs(c) @ np.abs(u)),
        Sides(u @ v, np.trace(np.outer(u, v)), scale=np.abs(u) @ np.abs(v)),
    ]


@identity(
    "Mean of a quadratic form",
    topic=TOPIC,
    formula=r"\mathbb{E}[(x - \mu)^\top A (x - \mu)] = \operatorname{tr}(A \Sigma)",
    covers=["DMI-05"],
    over="laws",
    control="the form is not centred",
    needs=lambda case: case.law.dim <= 16,
)
def quadratic_form(case: LawCase, wrong: bool) -> Sides:
    """Cubature over the components against the covariance of the whole law, for an A that is not symmetric."""
    law = case.law
    a = case.rng.standard_normal((law.dim, law.dim))
    points, weights = cubature(law)
    y = points if wrong else points - law.mean()
    scale = weights @ np.einsum("ni,ij,nj->n", np.abs(y), np.abs(a), np.abs(y))
    return Sides(weights @ np.einsum("ni,ij,nj->n", y, a, y), np.trace(a @ law.cov()), scale=scale)


# ---------------------------------------------------------------------- affine maps and sampling


def _gains(rng: np.random.Generator) -> list[Array]:
    """Matrices from the plane: square, tall, and of rank one."""
    return [rng.standard_normal((2, 2)), rng.standard_normal((3, 2)), np.outer(*rng.standard_normal((2, 2)))]


@identity(
    "Law of an affine map of a Gaussian",
    topic=TOPIC,
    formula=r"x = \mu + A z,\ z \sim \mathcal{N}(0, I)"
    r" \ \Rightarrow\ \mathbb{E}\, e^{i \omega^\top x} = e^{i \omega^\top \mu - \frac12 \omega^\top A A^\top \omega}",
    covers=["DMI-06"],
    over="once",
    control="A'A in place of AA' (row vectors multiplied from the left)",
)
def affine_law(case: Case, wrong: bool) -> list[Sides]:
    """The characteristic function by Gauss-Hermite in z against that of the pushed Gaussian, singular ones included.

    The n-point rule errs on e^(i a z) by n! a^(2 n) / (2 n)!: below 1e-65 for |a| <= 3 and n = 64.
    """
    rng, found = case.rng, []
    z, weight = product_rule(hermite(64), 2)
    for a in _gains(rng):
        mean = rng.standard_normal(len(a))
        pushed = Channel(a, mean).push(Gaussian(np.zeros(2), 1.0))
        omega = rng.standard_normal((4, len(a)))
        omega /= np.maximum(1.0, np.linalg.norm(omega @ a, axis=1, keepdims=True) / 3)
        s = a.T @ a if wrong and len(a) == 2 else covariances(pushed)[0]
        left = weight @ np.exp(1j * (mean + z @ a.T) @ omega.T)
        right = np.exp(1j * omega @ pushed.means[0] - 0.5 * np.einsum("ni,ij,nj->n", omega, s, omega))
        found += [Sides(left.real, right.real, scale=1.0), Sides(left.imag, right.imag, scale=1.0)]
    return found


@identity(
    "Reparameterised expectation",
    topic=TOPIC,
    formula=r"\mathbb{E}_{x \sim \mathcal{N}(\mu, AA^\top)} f(x) = \mathbb{E}_{z \sim \mathcal{N}(0, I)} f(\mu + A z)",
    covers=["DMI-08"],
    over="once",
    control="the covariance in place of its square root A",
)
def reparameterised(case: Case, wrong: bool) -> list[Sides]:
    """A sum over a grid of x against Gauss-Hermite in z: polynomial, exponential, wave; and a half-plane."""
    rng = case.rng
    p = gaussian(rng, 2)
    s = covariances(p)[0]
    a = s if wrong else np.linalg.cholesky(s)
    x, area = box(p)
    density = np.exp(p.logpdf(x)) * area
    z, weight = product_rule(hermite(64), 2)
    moved = p.means[0] + z @ a.T
    k = rng.standard_normal(2)
    k /= np.linalg.norm(k)  # e^(k'x / 2) then moves the mass by half a standard deviation at most, well inside the box
    functions: list[Function] = [lambda y: y[:, 0] ** 3 * y[:, 1], lambda y: np.exp(y @ k / 2), lambda y: np.cos(y @ k)]
    found = [
        Sides(density @ f(x), weight @ f(moved), scale=max(density @ np.abs(f(x)), weight @ np.abs(f(moved))))
        for f in functions
    ]
    # the half-plane k'x < c is the half-line z < (c - k'mu) / |A'k| in z
    c = k @ p.means[0] + 0.3
    along = Gaussian([k @ p.means[0]], p.affine(k[None]).cov()[0, 0])
    u, weight = np.polynomial.legendre.leggauss(100)
    reach = 9 * np.sqrt(along.cov()[0, 0])
    half_line = c - reach * (1 - u) / 2
    probability = 0.5 * reach * weight @ np.exp(along.logpdf(half_line[:, None]))
    return [*found, Sides(probability, ndtr(0.3 / np.linalg.norm(a.T @ k)))]


@identity(
    "Sampling a Gaussian by any square root",
    topic=TOPIC,
    formula=r"x = \mu + A U z,\ A A^\top = \Sigma,\ U U^\top = I \ \Rightarrow\ (AU)(AU)^\top = \Sigma",
    covers=["DMI-07"],
    over="once",
    control="the matrix of the sampler is taken to be Sigma itself",
)
def sampling(case: Case, wrong: bool) -> list[Sides]:
    """The matrix A read back from the library's own draws, against the covariance; also rank-deficient and rotated.

    Two laws asked for draws with the same seed colour the same unit normals z, so that x - mu = z A' exactly.
    """
    rng, found = case.rng, []
    for d, rank in ((1, 1), (3, 3), (6, 6), (5, 2)):
        b, mean, seed = rng.standard_normal((d, rank)), rng.standard_normal(d), int(rng.integers(2**31))
        s = b @ b.T
        isotropic = rng.uniform(0.1, 2.0)
        for target, law in ((s, Gaussian(mean, s)), (isotropic * np.eye(d), Gaussian(mean, isotropic))):
            z = Gaussian(np.zeros(d), 1.0).sample(40, seed)
            x = law.sample(40, seed) - mean
            a = np.linalg.lstsq(z, x, rcond=None)[0].T
            u, _ = np.linalg.qr(rng.standard_normal((d, d)))
            turned = (a if not wrong else target) @ u
            # what is left of a zero eigenvalue is eps |S|, and its root is what a draw shows
            found += [Sides(z @ a.T, x, scale=np.abs(x).max()), Sides(turned @ turned.T, target)]
    return found
