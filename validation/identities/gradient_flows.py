r"""The gradient flow of KL(q || p), and adversarial training as its steps.

    dx/dt = grad log p/q_t,     dKL(q_t || p)/dt = -E_q |grad log p/q|^2
    discriminator D = log p/q:  x + eps grad D is an Euler step, projected on a generator g_theta by least squares

On the line integrals are sums over a fine grid; the pushed KL is E_q [log q - log(1 + eps v') - log p(x + eps v)].
Sources: TOPB-77..84.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import expit, log_expit

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence
from refdiff.dynamics import flow
from refdiff.expectations import Quadrature
from refdiff.model import ExactModel
from refdiff.path_measures import dissipation, kl_gradient_flow
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.wasserstein_bounds import below
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, half_and_half, line, well_conditioned

TOPIC = "Gradient flows"


def pair(rng: np.random.Generator) -> tuple[GaussianMixture, GaussianMixture]:
    """Two mixtures on the line that overlap, drawn from `rng`."""
    p, q = (
        GaussianMixture.isotropic(rng.uniform(-1, 1, (2, 1)), rng.uniform(0.4, 0.9, 2), rng.dirichlet([9, 9]))
        for _ in range(2)
    )
    return p, q


def pushed_kl(q: GaussianMixture, p: GaussianMixture, eps: float, slope: float = 1.0) -> float:
    """KL of x + eps v(x), x ~ q, to p, for v = grad h(log p/q) with h' = sigma(slope log p/q), or 1 where slope = 0."""
    x, step = line(p, q)
    weight = np.exp(q.logpdf(x)) * step
    ratio, u = p.logpdf(x) - q.logpdf(x), (p.score(x) - q.score(x))[:, 0]
    bend = (p.hessian(x) - q.hessian(x))[:, 0, 0]
    first = expit(slope * ratio) if slope else np.ones_like(ratio)
    second = slope * first * (1 - first) if slope else np.zeros_like(ratio)
    v, dv = first * u, first * bend + second * u**2
    moved = x + eps * v[:, None]
    return float(weight @ (q.logpdf(x) - np.log1p(eps * dv) - p.logpdf(moved)))


def falling(q: GaussianMixture, p: GaussianMixture, slope: float) -> Array:
    """d/d eps of `pushed_kl` of two laws at eps = 0, a scalar, with its `slope`."""
    return numeric.derivative(lambda eps: np.asarray(pushed_kl(q, p, eps, slope)), 0.0, 0.01)


@identity(
    "Gradient flow of KL between Gaussians, particles and all",
    topic=TOPIC,
    formula=r"\dot x = M \nabla \log \tfrac{p}{q_t}:\quad a_t = \mu + K (a_0 - \mu),\ B_t = S + K (B_0 - S) K^\top,"
    r"\ K = e^{-t M S^{-1}},\quad \tfrac{d}{dt} \mathrm{KL}(q_t \| p) = -\mathbb{E}_{q_t} \big\|\nabla \log"
    r" \tfrac{p}{q_t}\big\|_M^2",
    covers=["TOPB-77"],
    over="once",
    evidence=DERIVATIVE,
    control="KL(p || q_t), as the text does not say which of the two falls at this rate",
    most=1,
)
def gaussian_flow(case: Case, wrong: bool) -> list[Sides]:
    """Covariances and mobilities that do not commute: moments by DOP853, points by the flow, the rate by a stencil."""
    rng, sides = case.rng, []
    for d in (1, 2, 3):
        p, q, root = gaussian(rng, d), gaussian(rng, d), well_conditioned(rng, d)
        mobility = 0.3 * root @ root.T
        model = kl_gradient_flow(p, q, mobility=mobility)
        precision, t = np.linalg.inv(p.cov()), 0.5
        kept = expm(-t * mobility @ precision)
        here = model.marginal(t)

        def rate(_: float, state: Array, d: int = d, slope: Array = mobility @ precision, m: Array = mobility) -> Array:
            cov = state.reshape(d, d)
            return np.asarray((-slope @ cov - cov @ slope.T + 2 * m).ravel())

        moved = solve_ivp(rate, (0, t), q.cov().ravel(), "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
        x = q.sample(5, rng)
        velocity = (here.score(x) - p.score(x)) @ -mobility

        def falls(u: float, model: ExactModel = model, p: Gaussian = p) -> Array:
            law = model.marginal(0.5 + u)
            one = Gaussian(law.means[0], law.cov())
            return np.asarray(kl_divergence(p, one) if wrong else kl_divergence(one, p))

        square = dissipation(p, here, mobility=mobility).value
        ends = flow(model, q.mean() + np.vstack([np.zeros(d), np.eye(d)]), 0.0, t).x
        gain = (ends[1:] - ends[0]).T
        sides += [
            Sides(here.mean() - p.mean(), kept @ (q.mean() - p.mean())),
            Sides(here.cov(), p.cov() + kept @ (q.cov() - p.cov()) @ kept.T),
            Sides(here.cov(), moved.reshape(d, d)),
            Sides(gain @ q.cov() @ gain.T, here.cov()),
            Sides(model.velocity(x, t), velocity, scale=np.abs(velocity).max() + 1),
            Sides(numeric.derivative(falls, 0.0, 0.01), -square),
        ]
    return sides


@identity(
    "KL falls by the Fisher divergence along its flow, between mixtures",
    topic=TOPIC,
    formula=r"\tfrac{d}{dt} \mathrm{KL}(q_t \| p) = -\mathbb{E}_{q_t} \|\nabla \log \tfrac{p}{q_t}\|^2,\quad"
    r" -\nabla \cdot (q \nabla \log \tfrac{p}{q}) = -\nabla \cdot (q \nabla \log p) + \Delta q",
    covers=["TOPB-77"],
    over="once",
    evidence=DERIVATIVE,
    control="the velocity of Langevin's drift alone, without that of the noise",
)
def mixture_flow(case: Case, wrong: bool) -> list[Sides]:
    """A stencil of the KL of pushed points against quadrature; and q_t of Langevin's equation, whose flow it is."""
    rng = case.rng
    p, q = pair(rng)
    square = dissipation(p, q, route=Quadrature()).value
    x, step = line(p, q)
    weight = np.exp(q.logpdf(x)) * step
    if wrong:
        square = float(weight @ ((p.score(x) - q.score(x)) * p.score(x))[:, 0])
    target = Gaussian([rng.uniform(-1, 1)], 0.6)
    model = kl_gradient_flow(target, q)

    def falls(u: float) -> Array:
        law = model.marginal(0.3 + u)
        at, cell = line(law, target)
        return np.asarray(cell * np.exp(law.logpdf(at)) @ (law.logpdf(at) - target.logpdf(at)))

    here, at = model.marginal(0.3), q.sample(4, rng)
    u = target.score(at) - (0 if wrong else 1) * here.score(at)
    bend = (target.hessian(at) - (0 if wrong else 1) * here.hessian(at))[:, 0, 0]
    flux = -bend - (here.score(at) * u)[:, 0]  # -div(q u) / q
    rate = model.log_density_rate(at, 0.3)
    return [
        Sides(falling(q, p, 0.0), -square),
        Sides(numeric.derivative(falls, 0.0, 0.01), -dissipation(target, here, route=Quadrature()).value),
        Sides(rate, flux, scale=np.abs(bend) + np.abs(rate) + 1),
    ]


@identity(
    "The best discriminator, and what the generator then minimises",
    topic=TOPIC,
    formula=r"D = \log \tfrac{p}{q}:\quad \mathbb{E}_p \log \sigma(D) + \mathbb{E}_q \log(1 - \sigma(D))"
    r" = -\log 4 + 2 \mathrm{JS}(p, q),\qquad \mathbb{E}_q[-D] = \mathrm{KL}(q \| p)",
    covers=["TOPB-78", "TOPB-84"],
    over="once",
    evidence=QUADRATURE,
    control="D = p/q without the logarithm",
)
def discriminator(case: Case, wrong: bool) -> list[Sides]:
    """Sums over a grid; the value is stationary in every direction; with D kept, the generator's gradient is KL's."""
    rng, (p, q) = case.rng, pair(case.rng)
    x, step = line(p, q)
    one, other, both = (np.exp(law.logpdf(x)) * step for law in (p, q, half_and_half(p, q)))
    d = np.exp(p.logpdf(x) - q.logpdf(x)) if wrong else p.logpdf(x) - q.logpdf(x)
    value = one @ log_expit(d) + other @ log_expit(-d)
    js = 0.5 * sum(w @ (law.logpdf(x) - np.log(both / step)) for w, law in ((one, p), (other, q)))
    directions = np.stack([np.sin(x[:, 0] * k + rng.uniform(0, 6)) for k in (1, 2, 3)])
    slopes = directions @ (one * expit(-d) - other * expit(d))
    # E_q of the score of q in any parameter is 0: D may be kept; here q moves by its mean
    moved = other * q.score(x)[:, 0]
    target, law = Gaussian([0.4], 0.7), Gaussian([-0.5], 0.3)
    at, cell = line(target, law)
    kept = cell * np.exp(law.logpdf(at)) @ (law.score(at) - target.score(at))[:, 0]
    return [
        Sides(value, -np.log(4) + 2 * js),
        Sides(slopes, 0.0, scale=1.0),
        Sides(-other @ d, other @ (q.logpdf(x) - p.logpdf(x)), scale=1.0),
        Sides(moved.sum(), 0.0, scale=1.0),
        Sides(kept, (-0.5 - 0.4) / 0.7),  # d KL / d a = (a - mu) / S^2
    ]


@identity(
    "An Euler step by the discriminator, projected on the generator",
    topic=TOPIC,
    formula=r"\theta' = \theta + \epsilon\, G^{-1} \mathbb{E}[\partial_\theta g \cdot \nabla D],\ G = \mathbb{E}"
    r" [\partial_\theta g\, \partial_\theta g^\top];\quad \nabla_\theta (19.8) = -2 \epsilon \nabla_\theta"
    r" \mathbb{E} D(g)"
    r" = 2 \epsilon \nabla_\theta \mathrm{KL}(q_\theta \| p)",
    covers=["TOPB-79", "TOPB-80", "TOPB-81"],
    over="once",
    evidence=DERIVATIVE,
    control="argmin (19.8) = argmin (19.11), which holds for one gradient step and where G = I only",
)
def projected_step(case: Case, wrong: bool) -> list[Sides]:
    """g = a + b z + c z^3 by Gauss-Hermite: least squares, its gradient and KL's; the affine recursion is closed."""
    rng = case.rng
    z, w = numeric.hermite(48)
    mean, std, eps = rng.uniform(-1, 1), rng.uniform(0.6, 1.2), 0.05
    theta = np.array([rng.uniform(-0.5, 0.5), rng.uniform(0.8, 1.2), rng.uniform(0.02, 0.05)])
    basis = np.stack([np.ones_like(z), z, z**3])
    sides = []
    for kinds, parameters in (((0, 1), theta[:2]), ((0, 1, 2), theta)):
        part = basis[list(kinds)]
        steep = np.stack([np.ones_like(z), 3 * z**2])[: len(kinds) - 1]
        x, slope = parameters @ part, parameters[1:] @ steep
        # log q(g(z)) = log phi(z) - log g'(z), so grad log q = [-z - g''/g'] / g'
        bend = 6 * z * parameters[2] if len(kinds) == 3 else 0 * z
        pull = -(x - mean) / std**2 - (-z - bend / slope) / slope
        gram, force = (part * w) @ part.T, part @ (w * pull)
        root = np.sqrt(w)
        least = np.linalg.lstsq((part * root).T, root * (x + eps * pull), rcond=None)[0]
        expected = parameters + eps * (force if wrong else np.linalg.solve(gram, force))

        def kl(q: Array, part: Array = part, steep: Array = steep) -> Array:
            """But for constants, at parameters (n, k)."""
            return np.asarray((-np.log(q[:, 1:] @ steep) + (q @ part - mean) ** 2 / (2 * std**2)) @ w)

        gradient = numeric.jacobian(kl, parameters[None], 3e-3)[0]
        sides += [Sides(least, expected), Sides(-2 * eps * force, 2 * eps * gradient)]
        if len(kinds) == 2:
            a, b = parameters
            sides.append(Sides(least, [a + eps * (mean - a) / std**2, b + eps * (1 / b - b / std**2)]))
    return sides


@identity(
    "A monotone function of the discriminator still makes KL fall",
    topic=TOPIC,
    formula=r"v = \nabla h(\log r):\quad \tfrac{d}{dt} \mathrm{KL}(q_t \| p) = -\mathbb{E}_q \big[h'(\log r)"
    r" \|\nabla \log r\|^2\big] < 0",
    covers=["TOPB-82"],
    over="once",
    evidence=DERIVATIVE,
    control="h' left out of the rate",
)
def monotone_functions(case: Case, wrong: bool) -> list[Sides]:
    """h = softplus(k log r) / k by a stencil of the pushed KL; the spec's Gaussians for tanh and softplus."""
    p, q = pair(case.rng)
    x, step = line(p, q)
    weight, ratio = np.exp(q.logpdf(x)) * step, p.logpdf(x) - q.logpdf(x)
    square = (p.score(x) - q.score(x))[:, 0] ** 2
    sides = []
    for k in (0.5, 1.0, 3.0):
        rate = -weight @ (square if wrong else expit(k * ratio) * square)
        sides += [Sides(falling(q, p, k), rate), below(float(rate), 0.0)]
    q, p = Gaussian([-2.0], 1.7**2), Gaussian([1.0], 0.8**2)
    x, step = line(p, q)
    weight, ratio = np.exp(q.logpdf(x)) * step, p.logpdf(x) - q.logpdf(x)
    square = (p.score(x) - q.score(x))[:, 0] ** 2
    slopes = (np.ones_like(ratio), np.cosh(np.clip(ratio, -300, 300)) ** -2.0, expit(ratio))
    rates = [float(-weight @ (one * square)) for one in slopes]
    # as the spec prints them
    return [*sides, Sides(np.round(rates[0], 2), -26.25), Sides(np.round(rates[1:], 3), [-0.733, -0.706])]


@identity(
    "The alternating loop is Euler's method for the flow",
    topic=TOPIC,
    formula=r"a' = a + \epsilon \frac{\mu - a}{S^2},\ b' = b + \epsilon \Big(\frac1b - \frac{b}{S^2}\Big):"
    r"\quad \frac{b_{t/\epsilon} - b(t)}{\epsilon} \to \text{const},\quad \mathrm{KL}\ \text{falls to}\ 0",
    covers=["TOPB-79", "TOPB-83"],
    over="once",
    evidence=ORDER,
    control="a step along D in the place of its gradient's sign: x - eps grad D",
    most=1,
)
def alternating_loop(case: Case, wrong: bool) -> list[Sides]:
    """Of affine generators, each step the recursion that `projected_step` proves: against the closed flow."""
    rng = case.rng
    mean, std, a0, b0, t = *rng.uniform(0.5, 1.0, 2), rng.uniform(-1, 0), rng.uniform(1.2, 1.6), 0.5
    sign = -1.0 if wrong else 1.0

    def loop(steps: int, eps: float) -> tuple[Array, list[float]]:
        a, b, kl = a0, b0, []
        for _ in range(steps):
            kl.append(kl_divergence(Gaussian([a], b * b), Gaussian([mean], std**2)))
            a, b = a + sign * eps * (mean - a) / std**2, b + sign * eps * (1 / b - b / std**2)
        return np.array([a, b]), kl

    exact = kl_gradient_flow(Gaussian([mean], std**2), Gaussian([a0], b0 * b0)).marginal(t)
    closed = np.array([exact.mean()[0], np.sqrt(exact.cov()[0, 0])])
    found = numeric.extrapolate([loop(n, t / n)[0] for n in (64, 128, 256, 512)])
    _, falling = loop(100, 0.03)
    last, _ = loop(2000, 0.02)
    return [
        Sides(found, closed),
        Sides(np.minimum(-np.diff(falling), 0.0), 0.0, scale=falling[0]),
        Sides(0.0 if wrong else last, 0.0 if wrong else [mean, std]),
    ]
