r"""Schroedinger bridges of Gaussians: the nearest law of paths, its system of potentials, its drifts both ways.

    KL(pi || R_0T) = KL(pi || gamma) + KL(gamma || R_0T)       for every coupling pi of p and q
    P is R steered by G' grad log Psi forwards and by -G' grad log Psihat backwards

for Brownian motion and for linear references of every kind, singular noise among them. The sides are closed forms here,
and moments of equations, integrals over kernels, stencils and divergences of joint laws there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.path_measures import AffineControl, EndLaw, Quadratic, affine_forward, linear_cost
from refdiff.processes import Chain, Process
from refdiff.schroedinger import GaussianBridge
from refdiff.stochastic import StochasticEquation, exact_moments
from refdiff.transport import GaussianPlan, PairLaw, gaussian_pairs
from refdiff.validation import numeric
from refdiff.validation.cases import Case
from refdiff.validation.identities.bridges_pinned import references
from refdiff.validation.identity import DERIVATIVE, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, square_root

TOPIC = "Schroedinger bridges"
LENGTHS = 0.01  # of stencils in time, for processes on [0, 1] whose rates are of order 1


def bridges(rng: np.random.Generator) -> dict[str, GaussianBridge]:
    """Bridges on the plane, of each kind of reference."""
    found = references(rng)
    p, q = gaussian(rng, 2), gaussian(rng, 2)
    return {name: GaussianBridge(p, q, process) for name, process in found.items()}


def some(rng: np.random.Generator) -> dict[str, GaussianBridge]:
    """One of the bridges on the plane that are not of Brownian motion, and that one, for what takes time."""
    found = bridges(rng)
    name = str(rng.choice(list(found)[1:]))
    return {one: found[one] for one in ("Brownian motion", name)}


def any_coupling(p: Gaussian, q: Gaussian, rng: np.random.Generator) -> PairLaw:
    """Two Gaussians with random correlations of half of what is possible."""
    matrix = rng.standard_normal((p.dim, p.dim))
    matrix *= 0.5 / np.linalg.norm(matrix, 2)
    return gaussian_pairs(p, q, square_root(p.cov()) @ matrix @ square_root(q.cov()))


def pair(law: PairLaw) -> Gaussian:
    """A Gaussian coupling on R^2d."""
    joint = law.mixture()
    return Gaussian(joint.means[0], joint.cov())


def free_ends(bridge: GaussianBridge, start: Gaussian) -> Gaussian:
    """The law of (x_0, x_T) of the reference of a bridge from a law of x_0."""
    return Chain([bridge.process.channel(0.0, bridge.T)]).joint(start)


@identity(
    "The Schroedinger coupling is the nearest of all couplings",
    topic=TOPIC,
    formula=r"\min_{P_0 = p, P_T = q} \mathrm{KL}(P \| R) = \mathrm{KL}(\gamma \| R_{0T}):\quad"
    r" \mathrm{KL}(\pi \| R_{0T}) = \mathrm{KL}(\pi \| \gamma) + \mathrm{KL}(\gamma \| R_{0T}),\ \pi \in \Pi(p, q)",
    covers=["PODB-76", "PODB-82"],
    over="once",
    control="the coupling of twice the noise",
)
def nearest_coupling(case: Case, wrong: bool) -> list[Sides]:
    """Divergences of Gaussians on R^4: for random couplings, and for the bridge's own cost."""
    rng, found = case.rng, []
    for bridge in bridges(rng).values():
        free = free_ends(bridge, bridge.p)
        best = pair(GaussianPlan(bridge.p, bridge.q, 2.0 if wrong else 1.0, bridge.interpolant.overall).pairs())
        other = pair(any_coupling(bridge.p, bridge.q, rng))
        found += [
            Sides(kl_divergence(other, free), kl_divergence(other, best) + kl_divergence(best, free)),
            Sides(kl_divergence(best, free), bridge.cost),
        ]
    return found


@identity(
    "The divergence of paths is that of their ends",
    topic=TOPIC,
    formula=r"\mathrm{KL}(P_{t_1..t_n} \| R_{t_1..t_n}) = \mathrm{KL}(\gamma \| R_{0T}) = \mathrm{KL}(p \| R_0)"
    r" + \tfrac12 \mathbb{E} \int_0^T |\nabla \log \Psi|_D^2\, dt,\quad t_1 = 0,\ t_n = T",
    covers=["PODB-76", "PODB-77"],
    refutes=["PODB-77"],
    over="once",
    control="the cost of steering alone, for a reference that starts with another law",
)
def path_divergence(case: Case, wrong: bool) -> list[Sides]:
    """Joint laws at five times, of the bridge by its transitions and of the reference by its own, on R^10."""
    rng, found, times = case.rng, [], [0.0, 0.2, 0.5, 0.8, 1.0]
    start = gaussian(rng, 2)
    for bridge in bridges(rng).values():
        free = Chain.of(bridge.process, times).joint(start)
        whole = kl_divergence(bridge.joint(times), free)
        found.append(Sides(whole, bridge.cost if wrong else bridge.divergence(start)))
        found.append(Sides(whole, kl_divergence(pair(bridge.pairs), free_ends(bridge, start))))
    return found


def steering(bridge: GaussianBridge) -> AffineControl:
    """u = G' grad log Psi of a bridge."""

    def parts(t: float) -> tuple[Array, Array, Array]:
        """G', Gamma and the mean of grad log Psi."""
        gain, shift = bridge.system.forward(t)
        root = operators.dense(operators.root(bridge.process.diffusion(t)), bridge.dim)
        return root, operators.dense(gain, bridge.dim), np.broadcast_to(shift, (bridge.dim,))

    def offset(t: float) -> Array:
        root, gain, shift = parts(t)
        return np.asarray(root @ (shift + gain @ bridge.system.mean(t)))

    return AffineControl(lambda t: -parts(t)[0] @ parts(t)[1], offset)


@identity(
    "What a bridge's control costs",
    topic=TOPIC,
    formula=r"dx = (f + G u)\, dt + G\, dw,\ u = G^\top \nabla \log \Psi:\quad \tfrac12 \mathbb{E} \int_0^T |u|^2\, dt"
    r" = \mathrm{KL}(\gamma \| R_{0T}),\quad \mathcal{N}(0, 1) \to \mathcal{N}(2, \tfrac14),\ \varepsilon = \tfrac12:\ "
    r"4.71914551405988",
    covers=["PODB-77", "PODB-78", "PODB-80"],
    over="once",
    evidence=QUADRATURE,
    control="without the factor 1/2",
)
def control_value(case: Case, wrong: bool) -> list[Sides]:
    """Moments of the steered equation and its effort, integrated together, against divergences of Gaussians."""
    rng, found = case.rng, []
    golden = GaussianBridge(Gaussian([0.0], 1.0), Gaussian([2.0], 0.25), 0.5)
    for bridge in [golden, list(some(rng).values())[1]]:
        zero = Quadratic(np.zeros((bridge.dim, bridge.dim)))
        forward = affine_forward(bridge.process, bridge.dim)
        effort = linear_cost(forward, steering(bridge), zero, zero, bridge.p, 0.0, bridge.T).effort
        ends = kl_divergence(pair(bridge.pairs), free_ends(bridge, bridge.p))
        found.append(Sides(2 * effort if wrong else effort, ends))
        if bridge is golden:
            found.append(Sides(effort, 4.719145514059879))
    return found


@identity(
    "Steered Brownian motion reaches its end",
    topic=TOPIC,
    formula=r"dx = v\, dt + \sqrt{\varepsilon}\, dw,\ v = \varepsilon \nabla \log \Psi:\quad x_0 \sim p \Rightarrow"
    r" x_t \sim p_t,\ x_T \sim q",
    covers=["PODB-78", "PODB-80"],
    refutes=["PODB-78"],
    over="once",
    evidence=QUADRATURE,
    control="the constraint as printed, dx = sqrt(eps) dw, without the term v dt",
)
def steered_motion(case: Case, wrong: bool) -> list[Sides]:
    """Moments of the equation by their own equations, to 1e-12."""
    rng = case.rng
    p, q, epsilon, end = gaussian(rng, 2), gaussian(rng, 2), 0.7, 1.5
    bridge = GaussianBridge(p, q, epsilon, end)

    def drift(x: Array, t: float) -> Array:
        return np.zeros_like(x) if wrong else epsilon * np.asarray(bridge.forward_pull(x, t))

    equation, found = StochasticEquation(drift, lambda _: np.sqrt(epsilon), 2), []
    for t in (0.6, end):
        law = bridge.marginal(t)
        mean, cov = exact_moments(equation, 0.0, t, p.mean(), p.cov())
        found += [Sides(mean, law.mean()), Sides(cov, law.cov())]
    return [*found, Sides(bridge.marginal(end).cov(), q.cov()), Sides(bridge.marginal(end).mean(), q.mean())]


@identity(
    "The Schroedinger system of Gaussians",
    topic=TOPIC,
    formula=r"p_t = \Psi \hat\Psi:\quad \partial_t \Psi = -f \cdot \nabla \Psi - \tfrac12 \mathrm{tr}(D \nabla^2 \Psi),"
    r"\quad \partial_t \hat\Psi = -\nabla \cdot (\hat\Psi f) + \tfrac12 \mathrm{tr}(D \nabla^2 \hat\Psi)",
    covers=["PODB-79", "PODB-82"],
    over="once",
    evidence=DERIVATIVE,
    control="the second equation's sign of the Laplacian in the first",
)
def system_equations(case: Case, wrong: bool) -> list[Sides]:
    """Stencils in time and space of both logarithms, at points of p_t, divided by the potentials themselves."""
    rng, t, found = case.rng, 0.55, []
    for bridge in bridges(rng).values():
        process, x = bridge.process, bridge.marginal(t).sample(3, rng)
        f, d = (operators.dense(part, 2) for part in (process.drift(t), process.diffusion(t)))
        free = x @ f.T + process.force(t)
        for i, sign in ((0, -1.0), (1, 1.0)):
            terms = _terms(bridge, x, t, i, free, d)
            spread = -sign if wrong and i == 0 else sign
            volume = np.full(len(x), np.trace(f) if i else 0.0)
            both = np.stack([terms[0], terms[1], volume, -spread * terms[2], -spread * terms[3]])
            found.append(Sides(both.sum(axis=0), 0.0, scale=np.abs(both).sum(axis=0)))
        if wrong:
            return found
    return found


def _terms(bridge: GaussianBridge, x: Array, t: float, which: int, free: Array, d: Array) -> list[Array]:
    """d_t log, f . grad log and half of tr(D Hess log) and |grad log|_D^2 of a potential at points x (n, 2)."""

    def log(y: Array, u: float) -> Array:
        return np.asarray(bridge.log_potentials(y, u)[which])

    def along(axis: Array) -> Callable[[float], Array]:
        return lambda u: log(x + u * axis, t)

    # the columns of a root of D, which may have fewer directions than the plane
    axes = [axis for axis in square_root(d).T if axis.any()]
    ahead = np.stack([numeric.derivative(along(axis), 0.0, 0.05) for axis in axes])
    return [
        numeric.derivative(lambda u: log(x, u), t, LENGTHS),
        (free * numeric.jacobian(lambda y: log(y, t), x, 0.05)).sum(axis=1),
        0.5 * np.asarray(sum(numeric.second_derivative(along(axis), 0.0, 0.05) for axis in axes)),
        0.5 * (ahead**2).sum(axis=0),
    ]


# of a quadratic in the plane, whose values here say all
SIX = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1]])


def log_integral(values: Array, root: Array) -> float:
    """log of the integral over the plane of the exponential of a quadratic.

    Args:
        values: of the quadratic at SIX R' + a centre, shape (6,).
        root: R, shape (2, 2).
    """
    level, right, left, up, down, both = values
    slope = 0.5 * np.array([right - left, up - down])
    mixed = both - right - up + level
    precision = -np.array([[right + left - 2 * level, mixed], [mixed, up + down - 2 * level]])
    height = level + 0.5 * slope @ np.linalg.solve(precision, slope)
    return float(height + np.log(2 * np.pi) + 0.5 * np.log(np.linalg.det(root) ** 2 / np.linalg.det(precision)))


@identity(
    "Potentials are carried by the reference's kernels",
    topic=TOPIC,
    formula=r"\Psi(x, t) = \int \Psi(y, T)\, R(x_T = y | x_t = x)\, dy,\quad"
    r" \hat\Psi(x, t) = \int \hat\Psi(y, 0)\, R(x_t = x | x_0 = y)\, dy,\quad \Psi_T = q\, e^g,\ \hat\Psi_0 = p\, e^f",
    covers=["PODB-79", "PODB-82"],
    over="once",
    evidence=QUADRATURE,
    control="potentials of the static plan exchanged",
)
def carried_potentials(case: Case, wrong: bool) -> list[Sides]:
    """Integrands whose logarithms are quadratics: six values in the plane say which, and so their integrals."""
    rng, t, found = case.rng, 0.4, []
    for bridge in bridges(rng).values():
        x, plan = bridge.marginal(t).sample(3, rng), bridge.plan
        f, g = (plan.g, plan.f) if wrong else (plan.f, plan.g)
        way, past = bridge.process.channel(t, bridge.T), bridge.process.channel(0.0, t)
        later, earlier = [], []
        for one in x:
            ends, starts = way.at(one), past.posterior(bridge.p, one)
            root, other = square_root(ends.cov()), square_root(starts.cov())
            y, z = ends.mean() + SIX @ root.T, starts.mean() + SIX @ other.T
            later.append(log_integral(g(y) + bridge.q.logpdf(y) + way.logpdf(y, one), root))
            earlier.append(log_integral(f(z) + bridge.p.logpdf(z) + past.logpdf(one, z), other))
        for mine, theirs in zip(bridge.log_potentials(x, t), (later, earlier), strict=True):
            found.append(Sides(mine[1:] - mine[0], np.array(theirs)[1:] - theirs[0], scale=np.abs(mine).max() + 1))
    return found


@identity(
    "The bridge run backwards",
    topic=TOPIC,
    formula=r"b^- = f - D \nabla \log \hat\Psi = b^+ - D \nabla \log p_t;\quad y_\tau = x_{T - \tau}:\ dy ="
    r" [-f + D \nabla \log \hat\Psi]\, d\tau + G\, dw,\quad y_0 \sim q,\ y_T \sim p",
    covers=["PODB-81"],
    refutes=["PODB-81"],
    over="once",
    evidence=QUADRATURE,
    control="the control as printed, -D grad log Psihat",
)
def backward_equation(case: Case, wrong: bool) -> list[Sides]:
    """Moments in reversed time from q, the difference of drifts, and E[(x_t - x_0) / t | x_t] of Brownian motion."""
    rng, found, sign = case.rng, [], -1.0 if wrong else 1.0
    for name, bridge in some(rng).items():
        process, end = bridge.process, bridge.T

        def drift(y: Array, u: float, bridge: GaussianBridge = bridge, process: Process = process) -> Array:
            t = bridge.T - u
            pull = operators.apply(process.diffusion(t), np.asarray(bridge.backward_pull(y, t)))
            return np.asarray(sign * pull - operators.apply(process.drift(t), y) - process.force(t))

        noise = lambda u, process=process, end=end: operators.root(process.diffusion(end - u))  # noqa: E731
        mean, cov = exact_moments(StochasticEquation(drift, noise, 2), 0.0, end, bridge.q.mean(), bridge.q.cov())
        found += [Sides(mean, bridge.p.mean(), scale=1.0), Sides(cov, bridge.p.cov())]
        if wrong:
            return found
        t, x = 0.4 * end, rng.standard_normal((3, 2))
        back, score = np.asarray(bridge.backward_drift(x, t)), bridge.marginal(t).score(x)
        ahead = bridge.forward_drift(x, t) - operators.apply(process.diffusion(t), score)
        found.append(Sides(back, ahead))
        if name == "Brownian motion":
            found.append(Sides(back, (x - bridge.model.expected_first(x, t)) / t))
            found.append(Sides(bridge.forward_drift(x, t), (bridge.model.expected_second(x, t) - x) / (end - t)))
    return found


@identity(
    "A bridge from a point is Foellmer's process",
    topic=TOPIC,
    formula=r"p = \delta_a:\quad \Psi = q_t / p(x | a),\quad \mathrm{KL}(P \| R) = \mathrm{KL}(q \| p_T(\cdot | a))",
    covers=["PODB-76", "PODB-80"],
    over="once",
    control="another starting point",
)
def from_a_point(case: Case, wrong: bool) -> list[Sides]:
    """The limit of a singular law, by Doob's transform of paths from one point."""
    rng, t, found = case.rng, 0.45, []
    start, q, x = rng.standard_normal(2), gaussian(rng, 2), rng.standard_normal((3, 2))
    for process in references(rng).values():
        bridge, other = GaussianBridge(Gaussian(start + 0.1 * wrong, 0.0), q, process), EndLaw(process, q, start)
        law = other.marginal(t)
        found += [
            Sides(bridge.marginal(t).cov(), law.cov()),
            Sides(bridge.marginal(t).mean(), law.mean()),
            Sides(bridge.forward_pull(x, t), other.gradient(x, t)),
            Sides(bridge.cost, kl_divergence(q, process.channel(0.0, process.T).at(start))),
        ]
    return found
