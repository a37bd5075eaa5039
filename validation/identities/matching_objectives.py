r"""Flow-matching objectives between any two laws: the constant between them, by whom it is made and what it is.

    L_CFM = L_FM + C,     C = E |E[U | x_t, given] - E[U | x_t]|^2

does not know what is trained. It does know what the training target is made from: without noise on the way one end and
x_t say the other end, and all targets leave the same to chance; with noise the one-sided one leaves less. It knows the
coupling: on the line two Gaussians with correlation r leave

    int_0^1 C dt = s_0 s_1 sqrt(1 - r^2) arccos r

from pi s_0 s_1 / 2 of independent pairs down to nothing of the optimal ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, random_mixture
from refdiff.expectations import Quadrature
from refdiff.interpolants import (
    InterpolantModel,
    ScalarInterpolant,
    conditional_loss,
    from_schedule,
    linear,
    marginal_loss,
    matching_gap,
    over_time,
    trigonometric,
)
from refdiff.schedules import VPLinear
from refdiff.transport import component_pairs, entropic_pairs, gaussian_pairs, independent
from refdiff.validation.cases import Case
from refdiff.validation.identity import QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian
from refdiff.validation.numeric import legendre
from refdiff.validation.pairs import line, nodes, several

TOPIC = "Flow matching"


def cubic(rng: np.random.Generator) -> Callable[[Array, float], Array]:
    """A random cubic field on the line, x (n, 1) to (n, 1), drawn from `rng`."""
    a = rng.standard_normal(4) * [1.0, 1.0, 0.3, 0.1]
    return lambda x, _: a[0] + a[1] * x + a[2] * x**2 + a[3] * x**3


@identity(
    "Conditional flow matching between any two laws is flow matching plus a constant",
    topic=TOPIC,
    formula=r"\mathbb{E}\|f(x_t) - \dot x_t\|^2 = \mathbb{E}\|f(x_t) - v_t(x_t)\|^2 + \mathbb{E}\operatorname{tr}"
    r"\operatorname{Cov}[\dot x_t \mid x_t]",
    covers=["PODB-35", "DMI-62", "DMI-63", "TOPB-51", "TOPB-68"],
    over="once",
    control="the variance of the target for its variance given x_t",
    evidence=QUADRATURE,
)
def plus_constant(case: Case, wrong: bool) -> list[Sides]:
    """Sums over pairs and noise, exact for a cubic f, against sums over x_t with the model's v and Bayes' variance."""
    rng = case.rng
    sides, rule = [], Quadrature()
    for pairs in several(rng, 1).values():
        way = trigonometric(0.4)
        model, t, f, found = InterpolantModel(pairs, way), 0.3 + 0.4 * rng.random(), cubic(rng), nodes(pairs)
        x, rates = found.joined(way, t), found.rates(way, t)
        left = found.weights @ ((f(x, t) - rates) ** 2).sum(axis=1)
        on, share = line(model.marginal(t))
        gap = float(matching_gap(model, t, route=rule).value)
        if wrong:
            gap = float(found.weights @ ((rates - found.weights @ rates) ** 2).sum(axis=1))
        right = share @ ((f(on, t) - model.velocity(on, t)) ** 2).sum(axis=1) + gap
        sides.append(Sides(left, right, left + right))
        sides.append(Sides(left, conditional_loss(model, f, t, route=rule).value, left))
    return sides


@identity(
    "One end given: another constant, the same minimiser",
    topic=TOPIC,
    formula=r"C_{\mathrm{pair}} - C_{\mathrm{one\ end}} = \mathbb{E}\operatorname{tr}\operatorname{Cov}[\dot x_t \mid"
    r" x_t, x_1] \to 0 \text{ without noise};\qquad L_{\mathrm{CFM}} - L_{\mathrm{FM}} \text{ free of } f",
    covers=["PODB-41", "PODB-42"],
    over="once",
    control="equal constants with noise on the way too",
)
def one_end(case: Case, wrong: bool) -> list[Sides]:
    """Conditional covariances of Gaussians by Schur complements, against the gaps, for matrices and affine f."""
    rng = case.rng
    sides = []
    p, q, t = gaussian(rng, 3), gaussian(rng, 3), 0.3 + 0.4 * rng.random()
    root = [np.linalg.cholesky(one.cov()) for one in (p, q)]
    pairs = gaussian_pairs(p, q, 0.5 * root[0] @ root[1].T)
    f = Channel(rng.standard_normal((3, 3)), rng.standard_normal(3), 0.0)
    for noise in (0.0, 0.5):
        model = InterpolantModel(pairs, trigonometric(noise))
        gaps = {given: float(matching_gap(model, t, given=given).value) for given in ("pair", "first", "second")}
        base = float(marginal_loss(model, f, t).value)
        now, joint = model.interpolant.at(t), np.zeros((9, 9))
        joint[:6, :6], joint[6:, 6:] = pairs.mixture().cov(), np.eye(3)
        eye = np.eye(3)
        u = np.hstack([now.dfirst * eye, now.dsecond * eye, 0 * eye])  # the noise is constant on the way
        x = np.hstack([now.first * eye, now.second * eye, noise * eye])
        for given, end in (("first", 0), ("second", 3)):
            known = np.vstack([x, np.eye(9)[end : end + 3]])
            inner, cross = known @ joint @ known.T, u @ joint @ known.T
            left = np.trace(u @ joint @ u.T - cross @ np.linalg.solve(inner, cross.T))
            size = np.trace(u @ joint @ u.T)
            sides.append(Sides(gaps["pair"] - gaps[given], 0.0 if wrong else left, size))
        for given, gap in gaps.items():
            loss = float(conditional_loss(model, f, t, given=given).value)
            sides.append(Sides(loss, base + gap, loss + size))
    return sides


@identity(
    "What a coupling of Gaussians leaves to chance",
    topic=TOPIC,
    formula=r"C_t = \frac{s_0^2 s_1^2 (1 - r^2)}{V_t},\qquad \int_0^1 C_t\,dt = s_0 s_1 \sqrt{1 - r^2}\,\arccos r:"
    r"\quad r = 0 \text{ independent},\ 1 \text{ optimal}",
    covers=["DMI-63", "PODB-35"],
    over="once",
    control="(1 - r^2) without its root",
    evidence=QUADRATURE,
)
def correlation(case: Case, wrong: bool) -> list[Sides]:
    """Closed gaps by regression, integrated, for given correlations and those of entropic plans, axis by axis."""
    rng = case.rng
    sides, t = [], 0.2 + 0.6 * rng.random()
    first, second = 0.3 + rng.random((2, 2))
    p, q = Gaussian(rng.standard_normal(2), first**2), Gaussian(rng.standard_normal(2), second**2)
    plans = [gaussian_pairs(p, q, r * first * second) for r in (0.0, 0.4, -0.7)]
    plans += [entropic_pairs(p, q, epsilon) for epsilon in (0.1, 1.0, 30.0)]
    for pairs in plans:
        r = np.diag(pairs.cross_covariance()) / (first * second)
        model = InterpolantModel(pairs, linear())
        gap, whole = matching_gap(model, t), over_time(partial(matching_gap, model), scale=1.0)
        v = (1 - t) ** 2 * first**2 + t**2 * second**2 + 2 * t * (1 - t) * r * first * second
        sides.append(Sides(gap.value, ((first * second) ** 2 * (1 - r**2) / v).sum()))
        factor = 1 - r**2 if wrong else np.sqrt(1 - r**2)
        sides.append(Sides(whole.value, (first * second * factor * np.arccos(r)).sum()))
    return sides


@identity(
    "Matched components leave less to chance than independent ones",
    topic=TOPIC,
    formula=r"\int_0^1 \mathbb{E}\|\dot x_t\|^2\,dt = \int_0^1 \mathbb{E}\|v_t\|^2\,dt + \int_0^1 C_t\,dt:\qquad"
    r" C^{\mathrm{matched}} < C^{\mathrm{independent}}",
    covers=["PODB-35", "TOPB-51"],
    over="once",
    control="the energy of the flow of independent pairs for both",
    evidence=QUADRATURE,
)
def matched(case: Case, wrong: bool) -> list[Sides]:
    """Costs of pairs of mixtures by sums over pairs, against energies and gaps by quadrature in space and time."""
    rng = case.rng
    p, q = (random_mixture(1, 2, rng, "full", spread=1.0).convolve(0.3) for _ in range(2))
    p, q = (type(p).isotropic(one.means, one.covariances.dense(1)[:, 0, 0]) for one in (p, q))
    order = np.argsort(p.means[:, 0])[np.argsort(np.argsort(q.means[:, 0]))]
    masses = np.zeros((2, 2))
    masses[order, [0, 1]] = 0.5
    plans = {"independent": independent(p, q), "matched": component_pairs(p, q, masses)}
    u, w = legendre(48)
    found = {}
    for name, pairs in plans.items():
        model, energy, gap = InterpolantModel(pairs, linear()), 0.0, 0.0
        for t, share in zip(u.tolist(), w.tolist(), strict=True):
            x, weight = line(model.marginal(t))
            energy += share * float(weight @ model.velocity(x, t)[:, 0] ** 2)
            gap += share * float(matching_gap(model, t, route=Quadrature()).value)
        drawn = nodes(pairs, 2)
        found[name] = (energy, gap, float(drawn.weights @ ((drawn.x1 - drawn.x0) ** 2).sum(axis=1)))
    sides = []
    for energy, gap, cost in found.values():
        sides.append(Sides((found["independent"][0] if wrong else energy) + gap, cost))
    less = found["independent"][1] - found["matched"][1]
    return [*sides, Sides(min(less, 0.0), 0.0, 1.0)]


@identity(
    "Diffusion and general flow matching, row by row",
    topic=TOPIC,
    formula=r"\begin{matrix} p_t(x|x_0) & v_t = f x - \tfrac{1}{2} g^2 \nabla\log p_t & L_{SM} = L_{DSM} + C \\"
    r" p_t(x|z) & v_t = \mathbb{E}[\dot x_t \mid x_t = x] & L_{FM} = L_{CFM} + C \end{matrix}",
    covers=["PODB-38", "PODB-28"],
    over="once",
    control="the constant of flow matching for that of score matching",
)
def table(case: Case, wrong: bool) -> list[Sides]:
    """Table 5.1 for Gaussian data and affine f: sources, conditional and marginal laws, velocities, losses, rules."""
    rng = case.rng
    data, process = gaussian(rng, 2), VPLinear()
    t = 0.2 + 0.5 * rng.random()
    c, x = process.coefficients(t), rng.standard_normal((4, 2))
    f = Channel(rng.standard_normal((2, 2)), rng.standard_normal(2), 0.0)
    # the left column: a source that is data, noise on the way; the right one: any source, and a latent pair
    diffusion = InterpolantModel(
        independent(data, data),
        ScalarInterpolant(from_schedule(process).first, lambda _: (0.0, 0.0, 0.0), lambda u: _variance(process, u)),
    )
    general = InterpolantModel(independent(gaussian(rng, 2), data), linear())
    law = data.affine(c.alpha).convolve(c.sigma**2)
    middle = general.pairs.first.affine(1 - t).cov() + t**2 * data.cov()
    score = law.score(x)
    sides = [
        Sides(diffusion.marginal(t).cov(), law.cov()),
        Sides(general.marginal(t).cov(), middle),
        Sides(diffusion.velocity(x, t), c.f * x - c.g2 / 2 * score, np.abs(c.f * x).max() + c.g2 * np.abs(score).max()),
    ]
    for model, target in ((diffusion, "score"), (general, "velocity")):
        other = "velocity" if wrong and target == "score" else target
        gap = float(matching_gap(model, t, target=other).value)
        loss = [float(one(model, f, t, target=target).value) for one in (conditional_loss, marginal_loss)]
        sides.append(Sides(loss[0] - loss[1], gap, sum(loss)))
    # the rules: Fokker-Planck for the one, the continuity equation for both
    bent = law.laplacian(x) + (score**2).sum(axis=1)
    planck = -2 * c.f - c.f * (x * score).sum(axis=1) + c.g2 / 2 * bent
    size = np.abs(planck).max() + c.g2 * np.abs(bent).max() + 2 * abs(c.f)
    sides.append(Sides(diffusion.log_density_rate(x, t), planck, size))
    for model in (diffusion, general):
        carried = (model.velocity(x, t) * model.score(x, t)).sum(axis=1) + model.velocity_divergence(x, t)
        scale = np.abs(carried).max() + np.abs(model.velocity(x, t)).max() * np.abs(model.score(x, t)).max()
        sides.append(Sides(model.log_density_rate(x, t), -carried, scale))
    return sides


def _variance(process: VPLinear, t: float) -> tuple[float, float, float]:
    c = process.coefficients(t)
    return float(c.sigma**2), float(c.dvariance), float(2 * (c.dsigma**2 + c.sigma * c.d2sigma))
