r"""Flow maps between laws: composition, change of variables, and how little the densities say about the paths.

    Psi_{s->t} o Psi_{u->s} = Psi_{u->t},       Psi_{s->t} depends on the schedule by its scale alone
    p_t(x) = p_s(Psi_{t->s}(x)) |det dPsi_{t->s}(x)| = int delta(x - Psi_{s->t}(y)) p_s(y) dy
    div(p w) = 0  =>  v + w carries p_s to p_t as v does;   w = A grad log p with A antisymmetric is one such field

For w = A s, p w = A grad p, and div(A grad p) = tr(A Hess p) = 0. With data N(m, c^2 I) and V = alpha^2 c^2 + sigma^2
the paths of v + k w are known: the matrix is that of v times the rotation exp(-k A int V^-1 dt). The maps are the
library's: the flow, its Jacobian, quantiles and the closed channel.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.dynamics.flow import flow
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.dynamics.jacobians import flow_jacobian
from refdiff.dynamics.quantiles import quantile_flow
from refdiff.dynamics.stepping import Flow
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.schedules import Alignment, FlowMatching, VPLinear
from refdiff.validation.cases import Case, ModelCase, ProcessCase, per_axis, with_gaussian_data
from refdiff.validation.conditions import smooth
from refdiff.validation.identities.line_flows import on_the_line
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian, line
from refdiff.validation.numeric import legendre

TOPIC = "Flow maps"


def few_axes(case: ModelCase) -> bool:
    """Cases that integrate in milliseconds: mixtures in at most five axes, with rates that do not jump."""
    return smooth(case) and 1 < case.law.count <= 25 and case.law.dim <= 5


@identity(
    "Flow maps compose and return",
    topic=TOPIC,
    formula=r"\Psi_{u\to s}\circ\Psi_{t\to u} = \Psi_{t\to s},\qquad \Psi_{t\to s} = \Psi_{s\to t}^{-1}",
    covers=["PODD-04", "PODC9-01"],
    control="the same two lengths of time in the other order: the field depends on time",
    evidence=QUADRATURE,
    needs=few_axes,
    most=4,
)
def composition(case: ModelCase, wrong: bool) -> list[Sides]:
    """The library's flow of mixtures in two steps, in one, and there and back."""
    middle, x = case.s + 0.3 * (case.t - case.s), case.x[:2]
    half = _moved(case, x, case.t, case.s + case.t - middle if wrong else middle)
    whole, both = whole_way(case), _moved(case, half, middle, case.s)
    size = np.abs(x).max() + np.abs(whole).max()
    sides = [Sides(both, whole, size)]
    return sides if wrong else [*sides, Sides(_moved(case, whole, case.s, case.t), x, size)]


def _moved(case: ModelCase, x: Array, start: float, end: float) -> Array:
    return flow(case.model, x, start, end, rtol=1e-11, atol=1e-13).x


@lru_cache(maxsize=1)
def whole_way(case: ModelCase) -> Array:
    """Where the flow takes the first two points of a case from its t to its s, shape (2, d)."""
    return _moved(case, case.x[:2], case.t, case.s)


@identity(
    "Flow maps of mixtures between two signal-to-noise ratios",
    topic=TOPIC,
    formula=r"\Psi_{t\to s}(x) = c_s\,\Psi^{\mathrm{FM}}_{\tau(t)\to\tau(s)}(x / c_t)",
    covers=["PODB-58", "PODC9-55"],
    control="the straight path run between the same times instead of the same ratios",
    evidence=QUADRATURE,
    # 40 steps of 1e-11 on both sides, of which 4e-13 are seen, magnified by the flow
    tolerance=1e-10,
    needs=few_axes,
    most=4,
)
def schedule_independence(case: ModelCase, wrong: bool) -> Sides:
    """Two integrations, each in its own time, in as many axes as the data have."""
    alignment = Alignment(FlowMatching(), case.process.schedules[0])
    start, end = (when / case.process.T if wrong else float(alignment.tau(when)) for when in (case.t, case.s))
    x, own = case.x[:2], whole_way(case)
    straight = ModelCase(case.name, case.seed, case.law, AffineProcess(FlowMatching()), end, start)
    other = _moved(straight, x / alignment.scale(case.t), start, end)
    return Sides(own, alignment.scale(case.s) * other, np.abs(x).max() + np.abs(own).max())


@identity(
    "A mixture in fifty axes, there and back",
    topic=TOPIC,
    formula=r"\log p_s(x_s) = \log p_t(x_t) + \int_s^t \nabla\cdot v\,du,\qquad \Psi_{s\to t}(\Psi_{t\to s}(x)) = x",
    covers=["PODC9-01", "TOPB-19", "PODD-04"],
    control="the divergence of one component, f d + g^2 d / (2 V), along the same paths",
    over="once",
    evidence=QUADRATURE,
)
def fifty_axes(case: Case, wrong: bool) -> list[Sides]:
    """Twenty components, whose distances are of the size of their widths: all of them are felt on the way."""
    model, x, data, back = crossing(case)
    change = data.log_density_change
    if wrong:
        first, last = (float(np.trace(model.marginal(t).cov())) for t in (1.0, 0.0))
        change = np.full(2, 0.5 * x.shape[1] * np.log(first / last))
    closed = model.log_density(data.x, 0.0) - model.log_density(x, 1.0)
    return [Sides(change, closed, np.abs(closed).max()), Sides(back, x)]


@lru_cache(maxsize=4)
def crossing(case: Case) -> tuple[ExactModel, Array, Flow, Array]:
    """The mixture\'s model, points of its noise (2, 50), where they are in the data, and the way back of those."""
    rng, dim = case.rng, 50
    law = GaussianMixture.isotropic(0.7 * rng.standard_normal((20, dim)), rng.uniform(0.5, 1.5, 20))
    model = ExactModel(law, VPLinear())
    x = model.sample(2, 1.0, rng)
    data = flow(model, x, 1.0, 0.0, log_density=True)
    return model, x, data, flow(model, data.x, 0.0, 1.0).x


# ---------------------------------------------------------------------- change of variables


@identity(
    "Densities follow the points, and which map stands in the integral",
    topic=TOPIC,
    formula=r"p_t = (\Psi_{s\to t})_\sharp p_s:\quad p_t(x) = p_s(\Psi_{t\to s}(x))\,|\det \partial\Psi_{t\to s}(x)|,"
    r"\quad \int f p_t = \int f(\Psi_{s\to t}(y))\,p_s(y)\,dy;\qquad v = \mathbb{E}[v(x|z) \mid x]",
    covers=["PODD-75"],
    refutes=["PODD-75"],
    control="the printed delta function, with the map from t back to s inside it",
    evidence=QUADRATURE,
    needs=lambda case: on_the_line(case) and not case.law.covariances.singular,
)
def push_forward(case: ModelCase, wrong: bool) -> list[Sides]:
    """Test functions integrated over p_t, and over p_s after the map; components as the condition z."""
    model, s, t = case.model, case.s, case.t
    before, after = model.marginal(s), model.marginal(t)
    y, cell = line(before)
    x, other = line(after)
    p, q = (np.exp(law.logpdf(at)) for law, at in ((before, y), (after, x)))
    mean, std = after.mean(), np.sqrt(after.cov()[0])
    moved = quantile_flow(model, y, t, s) if wrong else quantile_flow(model, y, s, t)
    sides = []
    for power in (1, 2, 3):

        def test(u: Array, power: int = power) -> Array:
            return np.asarray(np.tanh((u[:, 0] - mean) / std) ** power)

        sides.append(Sides(other * (q @ test(x)), cell * (p @ test(moved)), 1.0))
    if wrong:
        return sides
    found = flow_jacobian(model, case.x[:1], t, s, rtol=1e-11, atol=1e-13)
    volume = np.abs(np.linalg.det(found.jacobian))
    sides.append(Sides(np.exp(before.logpdf(found.x)) * volume, np.exp(after.logpdf(case.x[:1]))))
    parts = [Gaussian(m, v) for m, v in zip(case.law.means, case.law.covariances.dense(1), strict=False)]
    if len(parts) == case.law.count:
        each = np.stack([ExactModel(part, case.process).velocity(case.x, t) for part in parts])
        average = np.einsum("nk,kni->ni", after.responsibilities(case.x), each)
        sides.append(Sides(average, model.velocity(case.x, t), np.abs(each).max()))
    return sides


@identity(
    "The densities do not determine the flow",
    topic=TOPIC,
    formula=r"\nabla\cdot(p_t w_t) = 0:\ v + w \text{ keeps } p_t,\qquad w = A\nabla\log p_t,\ A^\top = -A:\quad"
    r" \log p_s(x_s) - \log p_t(x_t) = -\int \nabla\cdot(v + w),\quad x_s \ne \Psi_{t\to s}(x_t)",
    covers=["PODD-74"],
    control="a symmetric A, whose flux has a divergence",
    evidence=QUADRATURE,
    needs=lambda case: few_axes(case) and 1 < case.law.dim <= 3,
    most=1,
)
def other_flows(case: ModelCase, wrong: bool) -> list[Sides]:
    """Densities along paths of v + w by SciPy's steps, with the divergence of both; how far the paths part."""
    model, dim, x = case.model, case.law.dim, case.x[:1]
    drawn = case.rng.standard_normal((dim, dim))
    # so that paths part by some tenth of their length
    turn = 0.1 * float(np.trace(model.marginal(case.s).cov())) / dim / abs(case.t - case.s)
    a = turn * (drawn + drawn.T if wrong else drawn - drawn.T)

    def rates(t: float, state: Array) -> Array:
        at = state[None, :dim]
        moved = model.velocity(at, t) + model.score(at, t) @ a.T
        divergence = model.velocity_divergence(at, t) + np.einsum("ij,nji->n", a, model.hessian(at, t))
        return np.append(moved[0], divergence[0])

    found = solve_ivp(rates, (case.t, case.s), np.append(x[0], 0.0), "DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    end, total = found[None, :dim], found[dim]
    change = model.log_density(end, case.s)[0] - model.log_density(x, case.t)[0]
    apart = np.abs(end - flow(model, x, case.t, case.s, rtol=1e-8).x).max() / np.abs(x).max()
    return [Sides(change, -total, 1 + abs(total)), Sides(float(apart > 1e-3), 1.0)]


@identity(
    "Other flows of Gaussian data in closed form",
    topic=TOPIC,
    formula=r"\mathcal{N}(m, c^2 I),\ w = kA\nabla\log p_t:\quad x_s = \alpha_s m + \sqrt{V_s / V_t}\;"
    r"e^{-kA\int_t^s V_u^{-1}du}\,(x_t - \alpha_t m)",
    covers=["PODD-74", "PODD-118"],
    control="the flow of v alone: another coupling of the same two laws",
    over="processes",
    evidence=QUADRATURE,
    needs=smooth,
    most=8,
)
def rotated_coupling(case: ProcessCase, wrong: bool) -> list[Sides]:
    """SciPy's steps along v + w with the model's score against the rotation; the laws at the end are equal."""
    mean, spread = case.rng.standard_normal(2), 0.6
    model = ExactModel(Gaussian(mean, spread), case.process)
    a = np.array([[0.0, 1.0], [-1.0, 0.0]])
    u, w = legendre(48)
    # in t^(1/2), as sigma may start like t^(1/2)
    roots = np.sqrt(case.t) + (np.sqrt(case.s) - np.sqrt(case.t)) * u
    inverse = [2 * r / float(model.marginal(float(r**2)).cov()[0, 0]) for r in roots]
    k = 1.0 / abs((np.sqrt(case.s) - np.sqrt(case.t)) * (w @ inverse))

    def rates(t: float, state: Array) -> Array:
        at = state.reshape(-1, 2)
        return np.asarray(model.velocity(at, t) + k * model.score(at, t) @ a.T).ravel()

    x = model.sample(2, case.t, case.rng)
    found = solve_ivp(rates, (case.t, case.s), x.ravel(), "DOP853", rtol=1e-12, atol=1e-14).y[:, -1].reshape(-1, 2)
    angle = k * (np.sqrt(case.s) - np.sqrt(case.t)) * (w @ inverse)
    early, late = (model.marginal(when) for when in (case.s, case.t))
    stretch = np.sqrt(early.cov()[0, 0] / late.cov()[0, 0])
    turned = stretch * (np.eye(2) if wrong else expm(-angle * a))
    pushed = turned @ late.cov() @ turned.T
    size = np.abs(x).max() + np.abs(found).max()
    return [
        Sides(found, early.mean() + (x - late.mean()) @ turned.T, size),
        Sides(pushed, early.cov(), np.abs(early.cov()).max()),
    ]


@identity(
    "The flow of Gaussian data is two roots and a rotation",
    topic=TOPIC,
    formula=r"\Psi_{t\to s}(x) = \mu_s + P_s^{1/2}\,U\,P_t^{-1/2}(x - \mu_t),\quad U^\top U = I,\qquad"
    r" U = I \text{ for one schedule},\quad \log|\det\partial\Psi| = \tfrac12\log\frac{\det P_s}{\det P_t}",
    covers=["PODD-118", "PODD-02"],
    control="the two roots without the rotation, which is the map for one schedule on all axes",
    over="processes",
    evidence=QUADRATURE,
    needs=smooth,
    most=3,
)
def roots_and_rotation(process: ProcessCase, wrong: bool) -> list[Sides]:
    """The closed channel under one schedule, and under axes of their own that the data cross, against the flow."""
    case, sides = with_gaussian_data(process), []
    law = gaussian(case.rng, 3)
    axes = per_axis(3)
    for data, chosen, s, t in (
        (Gaussian(case.law.mean(), case.law.cov()), case.process, case.s, case.t),
        (law, axes, case.s / case.process.T, case.t / case.process.T),
    ):
        model = ExactModel(data, chosen)
        x = model.sample(1, t, case.rng)
        channel = gaussian_flow(data, chosen, t, s)
        before, after = model.marginal(t), model.marginal(s)
        gain = _root(after.cov()) @ np.linalg.inv(_root(before.cov())) if wrong else np.asarray(channel.gain)
        found = flow(model, x, t, s, rtol=1e-11, atol=1e-13, log_density=True)
        volume = -np.linalg.slogdet(gain)[1]
        size = np.abs(x).max() + np.abs(found.x).max()
        sides += [
            Sides(found.x, after.mean() + (x - before.mean()) @ gain.T, size),
            Sides(found.log_density_change, [volume], 1 + abs(volume)),
            Sides(gain @ before.cov() @ gain.T, after.cov(), np.abs(after.cov()).max()),
        ]
    return sides


def _root(matrix: Array) -> Array:
    values, axes = np.linalg.eigh(matrix)
    return np.asarray((axes * np.sqrt(values)) @ axes.T)
