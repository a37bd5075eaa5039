r"""Divergences of laws of paths: what an approximate score costs over the whole way to data.

    KL(P || Q) = KL(p_T || q_T) + (1 + k^2)^2 / (8 k^2) int E_{p_t} (s^ - s)' D (s^ - s) dt             `path_kl`

of the equations dx = [F x + u - (1 + k^2)/2 D s] dt + k G dw, dt < 0, with the exact score s = grad log p_t from p_T
and with s^ from a prior q_T: 1/2 E int |theta|^2 dt of Girsanov, since the integral against the noise of P has mean 0.
The factor is least at k = 1, where it is 1/2, and infinite at k = 0: two flows share no paths. In general

    KL(P || Q) = KL(p_T || q_T) + 1/2 int E_{p_t} |b^ - b|^2_{(k^2 D)^+} dt.

As the laws of their ends, KL(p_0 || q_0) <= KL(P || Q), and what is left is the divergence of the paths given x_0,

    KL(P || Q) = KL(p_0 || q_0) + (k^2 / 2) int E_{p_t} |D^(1/2) [(1 + k^2)/(2 k^2) s^ + (k^2 - 1)/(2 k^2) s
                 - grad log q_t]|^2 dt                                                           `conditional_kl`

from the two equations run to noise. If s^ = grad log q_t is the score of other data under the same process, k = 1 and
q_T is their law, then Q is that process: the divergence is that of the data, and the conditional one is 0.
The chain of Euler-Maruyama steps against the exact reverse kernels costs this to first order in the steps, `chain_kl`.
Sources: PODD-91, PODD-90; Song, Durkan, Murray and Ermon 2021, "Maximum likelihood training of score-based models".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.integrate import quad_vec, solve_ivp

from refdiff import operators
from refdiff.arguments import Array, answered, real_scalar
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence
from refdiff.expectations import START, MonteCarlo, Quadrature, Route, checked, draws, integral, name_of
from refdiff.model import ExactModel
from refdiff.objectives.errors import coloured, form, trace
from refdiff.operators import Operator
from refdiff.path_measures.affine import affine_reverse
from refdiff.path_measures.girsanov import noise_of, pseudo_products, same_noise
from refdiff.path_measures.scores import AffineScore
from refdiff.processes import AffineProcess, BetaTable
from refdiff.random import normals
from refdiff.stochastic.equation import StochasticEquation
from refdiff.stochastic.families import marginal_family

Approximation = Any  # an AffineScore, an ExactModel, a score with `at`, a function (x, t) -> score, an equation
TOLERANCE, DRAWN = 1e-11, 1e-4  # of integrals over time, and of those of each draw, relative
NOTHING = 1e-15  # nats
STEPS = 1e-11  # of the moments of q_t and their energy, relative, of each step
MOST = 60  # panels of time; an integral that needs more is infinite, or nearly so


@dataclass(frozen=True, eq=False)
class PathDivergence:
    """KL(P || Q) of two laws of paths, in nats.

    Attributes:
        prior: KL of the laws that the paths begin with.
        paths: what the drifts add.
        error: of their sum: 0 or what the integral over time may err by in closed form, the change of the last
            refinement by quadrature, a standard error by Monte Carlo.
        route: "closed", "quadrature" or "monte carlo".
    """

    prior: float
    paths: float
    error: float
    route: str

    @property
    def value(self) -> float:
        """The sum of both."""
        return self.prior + self.paths


def path_kl(
    model: ExactModel,
    approximate: Approximation,
    *,
    start: float = 0.0,
    end: float | None = None,
    stochasticity: float = 1.0,
    prior: GaussianMixture | None = None,
    route: Route | None = None,
) -> PathDivergence:
    """KL(P || Q) over paths from `end` to `start`, with the exact score (P) and with an approximation (Q).

    Args:
        model: the data and their noising, of any process.
        approximate: the score s^: an AffineScore, an ExactModel, an object with `at(x, t)` or a function of points
            (n, d) and t; or a StochasticEquation to data with the noise k G.
        start: the time nearer to data.
        end: the time where paths begin, T unless given.
        stochasticity: k >= 0; at 0 the divergence is infinite, unless nothing differs.
        prior: the law that Q begins with, p_end unless given.
        route: how expectations over x are taken; None in closed form, for Gaussian data and an AffineScore or an
            ExactModel of Gaussian data.

    Raises:
        TypeError: the model is no ExactModel, or the approximation is nothing of these.
        ValueError: times out of order, dimensions that differ, no route where one is needed, or an integral over time
            that does not converge.
    """
    first, last = _times(model, start, end)
    same_dimension(model, approximate=approximate, prior=prior)
    k = real_scalar("stochasticity", stochasticity, low=0)
    wrong = affine_score(approximate)
    closed = model.distribution.count == 1 and wrong is not None
    way = None if closed and route is None else checked(route)
    head, head_error = prior_kl(model.marginal(last), prior, way)
    if wrong is not None and closed and way is None:
        body, error = _over_time(model, partial(_closed_rate, model, wrong), first, last, way)
    else:
        energies = _energies(model, approximate, k)
        known = _drawn(model, way) if isinstance(way, MonteCarlo) else None
        try:
            body, error = _over_time(model, partial(_rate, model, energies, way, known), first, last, way)
        except _Apart:
            return PathDivergence(head, np.inf, 0.0, name_of(way))
    scale = 0.5
    if not isinstance(approximate, StochasticEquation):
        scale = (1 + k * k) ** 2 / (8 * k * k) if k else np.inf
    if not body.any():
        return PathDivergence(head, 0.0, head_error, name_of(way))
    spread = float(body.std(ddof=1) / np.sqrt(len(body))) if isinstance(way, MonteCarlo) else 0.0
    slack = scale * float(np.hypot(spread, error))
    return PathDivergence(head, scale * float(body.mean()), head_error + slack, name_of(way))


def conditional_kl(
    model: ExactModel,
    score: AffineScore,
    *,
    start: float = 0.0,
    end: float | None = None,
    stochasticity: float = 1.0,
    prior: Gaussian | None = None,
) -> float:
    """E KL(P(paths | x_start) || Q(paths | x_start)): what `path_kl` has beyond KL(p_start || q_start).

    Args:
        model: Gaussian data and their noising.
        score: s^.
        start: the time nearer to data.
        end: the time where paths begin, T unless given.
        stochasticity: k > 0.
        prior: the Gaussian law that Q begins with, p_end unless given.

    Raises:
        TypeError: the model is no ExactModel, the score not affine, or the prior no Gaussian.
        ValueError: times out of order, dimensions that differ, data that are a mixture, or an integral over time that
            does not converge.
    """
    first, last = _times(model, start, end)
    k = real_scalar("stochasticity", stochasticity, low=0, open_low=True)
    exact, dim = AffineScore.exact(model), model.dim
    begin = model.marginal(last) if prior is None else prior
    if not isinstance(begin, GaussianMixture) or begin.count != 1:
        raise TypeError(f"prior must be a Gaussian, got {prior!r}")
    same_dimension(model, score=score, prior=prior)
    back = affine_reverse(model.process, score, k)
    start_moments = np.append(begin.means[0], operators.dense(begin.covariances.operator(), dim).ravel())

    def rates(t: float, state: Array) -> Array:
        """Of the mean and covariance of q_t, and of the energy, as time runs backwards."""
        law, diffusion = model.marginal(t), model.process.diffusion(t)
        mean, cov = state[:dim], state[dim:-1].reshape(dim, dim)
        moved = operators.dense(back.linear_at(t), dim) @ cov
        grown = moved + moved.T - k * k * operators.dense(diffusion, dim)
        parts: tuple[tuple[float, Operator, Array], ...] = (
            (-(1 + k * k) / 2, score.precision_at(t), score.centre_at(t)),
            ((1 - k * k) / 2, exact.precision_at(t), law.means[0]),
            (k * k, operators.inverse(cov), mean),
        )
        gain: Operator = np.zeros(())
        shift: Array = np.zeros(dim)
        for share, precision, centre in parts:
            gain = operators.add(gain, np.asarray(share * precision))
            shift = np.asarray(shift + share * operators.apply(precision, law.means[0] - centre))
        energy = -_affine_energy(gain, shift, law, diffusion)
        return np.concatenate([operators.apply(back.linear_at(t), mean) + back.force_at(t), grown.ravel(), [energy]])

    if first == last:
        return 0.0
    found = solve_ivp(rates, (last, first), np.append(start_moments, 0.0), "DOP853", rtol=STEPS, atol=STEPS * 1e-3)
    if not found.success:
        raise ValueError(
            f"start and end must be such that the energy between them is integrable, got {start} and {end}"
        )
    return float(found.y[-1, -1] / (2 * k * k))


# ---------------------------------------------------------------------- what is approximated, and by how much


class _Apart(Exception):
    """Two drifts differ where there is no noise: no path belongs to both."""


def score_function(approximate: Any) -> Callable[[Array, float], Array]:
    """(x, t) -> s^ (n, d) at points x (n, d) of an `approximate` score: an object with `at`, a model, a function.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(approximate, ExactModel):
        return lambda x, t: np.asarray(approximate.score(x, t))
    at = getattr(approximate, "at", approximate)
    if not callable(at):
        raise TypeError("approximate must be a score with `at`, an ExactModel, a function or a StochasticEquation, "
                        f"got {approximate!r}")  # fmt: skip
    return lambda x, t: answered("approximate", at(x, t), x.shape, finite=True)


def same_dimension(model: ExactModel, **others: Any) -> None:
    """Check that `others`, arguments by their names, have the dimension of a model, where they say which they have.

    Raises:
        ValueError: one has another.
    """
    for name, one in others.items():
        dim = getattr(one, "dim", model.dim)
        if dim != model.dim:
            raise ValueError(f"{name} must have the dimension {model.dim} of the model, got {dim}")


def affine_score(approximate: Any) -> AffineScore | None:
    """The `approximate` score, where it is affine; else None."""
    if isinstance(approximate, ExactModel) and approximate.distribution.count == 1:
        return AffineScore.exact(approximate)
    return approximate if isinstance(approximate, AffineScore) else None


def _energies(model: ExactModel, approximate: Any, k: float) -> Callable[[Array, float], Array]:
    """(x, t) -> (s^ - s)' D (s^ - s), or of drifts |b^ - b|^2 in (k^2 D)^+, which are apart out of its range."""
    if not isinstance(approximate, StochasticEquation):
        s = score_function(approximate)
        return lambda x, t: form(model.process.diffusion(t), s(x, t) - model.score(x, t))
    exact = marginal_family(model, k)

    def squares(x: Array, t: float) -> Array:
        b, c = approximate.drift_at(x, t), exact.drift_at(x, t)
        d = noise_of(exact, x, t)
        same_noise(d, noise_of(approximate, x, t), t)
        _, square, off = pseudo_products(d, b - c, (np.abs(b) + np.abs(c)).max(axis=-1))
        if off.any():
            raise _Apart
        return square

    return squares


def _affine_energy(gain: Operator, shift: Array, law: GaussianMixture, weight: Operator) -> float:
    """E u' W u for u = K (x - m) + shift and x ~ N(m, P)."""
    spread = operators.sandwich(gain, law.covariances.operator())
    return trace(weight, spread, law.dim) + float(form(weight, shift))


def _closed_rate(model: ExactModel, score: AffineScore, t: float) -> Array:
    """E (s^ - s)' D (s^ - s), shape (1,)."""
    law = model.marginal(t)
    a = score.precision_at(t)
    gain = operators.add(operators.inverse(law.covariances.operator()), -a)
    shift = -operators.apply(a, law.means[0] - score.centre_at(t))
    return np.array([_affine_energy(gain, shift, law, model.process.diffusion(t))])


def _drawn(model: ExactModel, way: MonteCarlo) -> tuple[Array, Array]:
    """Data and unit normals of the draws, each (n, d): one set for all times."""
    start = draws(model.distribution, way.samples, way.seed)
    return start, normals(way.seed, way.samples, START + 1, model.dim)


def _rate(
    model: ExactModel,
    energies: Callable[[Array, float], Array],
    way: Route | None,
    known: tuple[Array, Array] | None,
    t: float,
) -> Array:
    """The mean of energies at a time, shape (1,), or those of the draws, shape (n,)."""
    if known is not None:
        kernel = model.process.kernel(t)
        return energies(operators.apply(kernel.gain, known[0]) + kernel.offset + coloured(kernel, known[1]), t)
    assert isinstance(way, Quadrature)
    law = model.marginal(t)
    size = trace(model.process.diffusion(t), np.ones(()), model.dim) * model.dim / float(np.trace(law.cov()))
    return integral(law, lambda x: energies(x, t), way, size)[0].reshape(1)


def _over_time(
    model: ExactModel, rate: Callable[[float], Array], start: float, end: float, way: Route | None
) -> tuple[Array, float]:
    """int rate dt, shape (m,), and its error.

    Raises:
        ValueError: it does not converge.
    """
    relative = max(TOLERANCE, way.tolerance) if isinstance(way, Quadrature) else TOLERANCE
    schedules = model.process.schedules if isinstance(model.process, AffineProcess) else ()
    jumps = [float(t) for t in range(int(start) + 1, int(np.ceil(end)))]
    tables = any(isinstance(schedule, BetaTable) for schedule in schedules)
    found, error, info = quad_vec(
        rate,
        start,
        end,
        epsabs=NOTHING,
        epsrel=DRAWN if isinstance(way, MonteCarlo) else relative,
        norm="max",
        limit=MOST + len(jumps) * tables,
        points=jumps if tables else None,
        full_output=True,
    )
    if not info.success or not np.isfinite(found).all():
        raise ValueError(f"start and end must be such that the energy between them is integrable, got {start}, {end} "
                         f"and the integral {found.mean()} with an error of {error}")  # fmt: skip
    return found, float(error)


def prior_kl(law: GaussianMixture, prior: GaussianMixture | None, way: Route | None) -> tuple[float, float]:
    """KL(p_T || q_T) of a law and a prior, by a route (`way`) where it has no closed form, and its error.

    Raises:
        TypeError: the prior is no law.
        ValueError: there is neither.
    """
    if prior is None or prior is law:
        return 0.0, 0.0
    if not isinstance(prior, GaussianMixture):
        raise TypeError(f"prior must be a Gaussian, GaussianMixture or None, got {prior!r}")
    if law.count == prior.count == 1:
        one, other = (Gaussian(each.means[0], each.covariances.operator()) for each in (law, prior))
        return kl_divergence(one, other), 0.0
    how = checked(way)
    if isinstance(how, Quadrature):
        value, error = integral(law, lambda x: law.logpdf(x) - prior.logpdf(x), how, 1.0)
        return float(value), error
    x = draws(law, how.samples, how.seed)
    ratios = law.logpdf(x) - prior.logpdf(x)
    return float(ratios.mean()), float(ratios.std(ddof=1) / np.sqrt(how.samples))


def _times(model: ExactModel, start: float, end: float | None) -> tuple[float, float]:
    """The times between which paths run, checked."""
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    last = model.process.T if end is None else real_scalar("end", end, low=0, high=model.process.T)
    return real_scalar("start", start, low=0, high=last), last
