r"""Divergences of chains: Euler-Maruyama steps of an approximate score against the exact reverse kernels.

    P: q(x_{i+1} | x_i) exact      Q: N(x_i + b^(x_i, t_i) h, k^2 D |h|),  h = t_{i+1} - t_i < 0

    KL(P || Q) = KL(p_{t_0} || q_{t_0}) + sum_i E KL(q(x_{i+1} | x_i) || N(x_i + b^ h, k^2 D |h|))

For Gaussian data and affine scores each term is in closed form: with R x + r + N(0, V) the exact kernel, E x + e the
mean of the step and C its covariance

    KL(N(0, V) || N(0, C)) + 1/2 E |(R - E) x + r - e|^2_{C^-1}

For other data and k = 1 it is the mean over exact paths of log q(x_{i+1} | x_i) - log N, a mixture against a Gaussian.
As the steps tend to 0 it tends to the divergence of paths at first order: the number of steps is what the error of
discretisation is paid in. It is infinite where D is singular: an exact kernel has a density there, a step has none.
Sources: PODD-91, PODD-100; Chen, Lee and Lu 2023, "Improved analysis of score-based generative modeling".
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence
from refdiff.expectations import START, MonteCarlo, checked, draws, name_of
from refdiff.model import ExactModel
from refdiff.objectives.errors import coloured, form, trace
from refdiff.objectives.reverse import posterior_logpdf
from refdiff.path_measures.affine import affine_reverse
from refdiff.path_measures.divergences import PathDivergence, affine_score, prior_kl, same_dimension, score_function
from refdiff.path_measures.scores import AffineScore
from refdiff.random import normals
from refdiff.stochastic.families import forward_equation


def chain_kl(
    model: ExactModel,
    approximate: Any,
    times: ArrayLike,
    *,
    stochasticity: float = 1.0,
    prior: GaussianMixture | None = None,
    route: MonteCarlo | None = None,
) -> PathDivergence:
    """KL(P || Q) of the states at some times: exact reverse kernels (P), Euler-Maruyama steps of a score (Q).

    Args:
        model: the data and their noising, of any process.
        approximate: the score s^: an AffineScore, an ExactModel, an object with `at(x, t)` or a function of points
            (n, d) and t.
        times: decreasing, shape (N + 1,).
        stochasticity: k > 0; 1 where the data are not Gaussian.
        prior: the law that Q begins with, p at the first time unless given.
        route: a MonteCarlo; None in closed form, for Gaussian data and an affine score.

    Raises:
        TypeError: the model is no ExactModel, or the route no MonteCarlo.
        ValueError: times that do not decrease, dimensions that differ, or no closed form and no route.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    when = real_array("times", times, ndim=(1,))
    if len(when) < 2 or (np.diff(when) >= 0).any() or when[-1] < 0 or when[0] > model.process.T:
        raise ValueError(f"times must decrease within [0, {model.process.T}], at least two of them, got {when}")
    same_dimension(model, approximate=approximate, prior=prior)
    k = real_scalar("stochasticity", stochasticity, low=0, open_low=True)
    affine = affine_score(approximate)
    head, head_error = prior_kl(model.marginal(float(when[0])), prior, route)
    if route is None:
        if affine is None or model.distribution.count != 1:
            checked(route)
        assert affine is not None
        total = _closed(model, affine, when, k)
        return PathDivergence(head, total, head_error, name_of(route))
    if not isinstance(route, MonteCarlo):
        raise TypeError(f"route must be a MonteCarlo or None, got {route!r}")
    if k != 1:
        raise ValueError(f"stochasticity must be 1 for a mean over paths, whose exact kernels are Bayes' rule, got {k}")
    ratios = _drawn(model, approximate, when, route)
    if not np.isfinite(ratios).all():
        return PathDivergence(head, np.inf, 0.0, name_of(route))
    return PathDivergence(
        head,
        float(ratios.mean()),
        head_error + float(ratios.std(ddof=1) / np.sqrt(route.samples)),
        name_of(route),
    )


def reverse_kernel(model: ExactModel, t: float, s: float, stochasticity: float = 1.0) -> Channel:
    """The exact channel from x_t to x_s, s < t, of the equations with the marginals of Gaussian data.

    Args:
        model: Gaussian data and their noising.
        t: the time it leaves.
        s: the time it leads to, at most t, at which there is a density unless k = 1.
        stochasticity: k >= 0; 1 is Bayes' rule.

    Raises:
        ValueError: the data are a mixture, or s is no time before t.
    """
    exact = AffineScore.exact(model)
    t = real_scalar("t", t, low=0, high=model.process.T)
    s = real_scalar("s", s, low=0, high=t)
    if stochasticity == 1:
        law = model.marginal(s)
        return model.process.channel(s, t).reverse(Gaussian(law.means[0], law.covariances.operator()))
    return affine_reverse(model.process, exact, stochasticity).transition(t, s)


def _closed(model: ExactModel, score: AffineScore, when: Array, k: float) -> float:
    """The sum over the steps, in closed form."""
    back, dim = affine_reverse(model.process, score, k), model.dim
    total = 0.0
    for t, s in pairwise(when.tolist()):
        exact, law = reverse_kernel(model, t, s, k), model.marginal(t)
        h = s - t
        noise = operators.add(np.abs(h) * back.diffusion_at(t), np.zeros(dim))
        if Gaussian(np.zeros(dim), noise).covariances.singular:
            return np.inf
        gain = operators.add(exact.gain, -operators.add(np.ones(dim), h * back.linear_at(t)))
        shift = operators.apply(gain, law.means[0]) + exact.offset - h * back.force_at(t)
        precision = operators.inverse(noise)
        spread = operators.sandwich(gain, law.covariances.operator())
        total += kl_divergence(Gaussian(np.zeros(dim), exact.noise), Gaussian(np.zeros(dim), noise))
        total += 0.5 * (trace(precision, spread, dim) + float(form(precision, shift)))
    return total


def _drawn(model: ExactModel, approximate: Any, when: Array, route: MonteCarlo) -> Array:
    """sum_i log q(x_{i+1} | x_i) - log N(x_{i+1}; x_i + b^ h, D |h|) of exact paths, shape (n,)."""
    process, score, dim = model.process, score_function(approximate), model.dim
    forward = forward_equation(process, dim)
    first = process.kernel(float(when[-1]))
    start = draws(model.distribution, route.samples, route.seed)
    x = operators.apply(first.gain, start) + first.offset
    x = x + coloured(first, normals(route.seed, route.samples, START + 1, dim))
    total = np.zeros(route.samples)
    for draw, (s, t) in enumerate(pairwise(when[::-1].tolist()), START + 2):
        channel, h = process.channel(s, t), s - t
        noise = Gaussian(np.zeros(dim), operators.add(np.abs(h) * process.diffusion(t), np.zeros(dim)))
        if noise.covariances.singular:
            return np.full(route.samples, np.inf)
        y = operators.apply(channel.gain, x) + channel.offset
        y = y + coloured(channel, normals(route.seed, route.samples, draw, dim))
        mean = y + h * (forward.drift_at(y, t) - operators.apply(process.diffusion(t), score(y, t)))
        total += posterior_logpdf(channel, model.marginal(s), x, y) - noise.logpdf(x - mean)
        x = y
    return total
