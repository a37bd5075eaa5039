r"""Entropy and Fisher information of laws, and the rates of entropy and of divergences under a noising process.

    H(p) = -E log p  in nats,      J(p) = E s s',  s = grad log p,  Fisher's, of location

    dH(p_t)/dt          = E div v = tr F + tr(D J) / 2         v the probability flow of dx = (F x + u) dt + G dw
    dKL(p_t | q_t)/dt   = -E_p |grad log p_t/q_t|^2_D / 2,  D = G G'     p, q any two laws under one process

Pure noise (F = 0, D = I) makes the first de Bruijn's identity. E div v is finite wherever p_t has a density, also where
F and D are not (flow matching at its end). Gaussians have closed forms; everything else is an expectation by a `Route`.
Sources: DMI-56, PODA-101, PODA-103, RDX-46, PODD-107.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, real_scalar
from refdiff.distributions import Gaussian, GaussianMixture, entropy
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.expectations import Estimate, MonteCarlo, Route, draws, expectation, name_of
from refdiff.metrics import fisher_divergence
from refdiff.model import ExactModel


def differential_entropy(law: GaussianMixture, route: Route | None = None) -> Estimate:
    """H(p) = -E log p in nats.

    Args:
        law: p.
        route: how the expectation is taken; None in closed form, which only Gaussians have.

    Raises:
        TypeError: the law is none of this library's, or no such route.
        ValueError: a singular covariance, or no route for a mixture.
    """
    p = _with_density("law", law)
    if route is None and (alone := _gaussian(p)) is not None:
        return _closed(entropy(alone))
    return expectation(p, lambda x: -p.logpdf(x), route, _size(p))


def fisher_information(law: GaussianMixture, route: Route | None = None) -> Estimate:
    """J(p) = E s s', shape (d, d), with s the score of the law p.

    Args:
        law: p.
        route: how the expectation is taken; None in closed form, which only Gaussians have.

    Raises:
        TypeError: the law is none of this library's, or no such route.
        ValueError: a singular covariance, or no route for a mixture.
    """
    p = _with_density("law", law)
    if route is None and _gaussian(p) is not None:
        return _closed(p.covariances.inverse().dense(p.dim)[0])
    if isinstance(route, MonteCarlo):  # without the array of all draws' squares
        s = p.score(draws(p, route.samples, route.seed))
        mean, square = s.T @ s / len(s), (s**2).T @ s**2 / len(s)
        return Estimate(mean, np.sqrt(np.maximum(square - mean**2, 0.0) / (len(s) - 1)), name_of(route))
    return expectation(p, lambda x: _outer(p.score(x)), route, _stiffness(p))


def entropy_rate(model: ExactModel, t: float, route: Route | None = None) -> Estimate:
    """dH(p_t)/dt = E div v(x_t, t) in nats per unit of time.

    Args:
        model: the data and their noising.
        t: a time at which p_t has a density.
        route: how the expectation is taken; None in closed form, for Gaussian data.

    Raises:
        TypeError: the model is no ExactModel, or no such route.
        ValueError: p_t has no density, or no route for data that are not Gaussian.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.dynamics import entropy_rate
        >>> heat = ExactModel(Gaussian([0.0], 1.0), VEPower(power=0.5))  # H = log(1 + t) / 2 + const
        >>> print(round(float(entropy_rate(heat, 1.0).value), 6))
        0.25
    """
    when, pushed = _at(model, t)
    if route is None and _gaussian(pushed) is not None:  # the divergence is the same everywhere
        return _closed(model.velocity_divergence(pushed.means[0], when))
    motion = model.process.motion(when)
    size = np.abs(motion.spread).max() * _stiffness(pushed) + np.abs(motion.dgain).max()
    return expectation(pushed, lambda x: model.velocity_divergence(x, when), route, float(size))


def divergence_rate(model: ExactModel, other: GaussianMixture, t: float, route: Route | None = None) -> Estimate:
    """dKL(p_t | q_t)/dt = -E |grad log p_t/q_t|^2_D / 2, never positive.

    Args:
        model: the law of x_0 under p, and the process.
        other: the law of x_0 under q.
        t: a time at which both have a density.
        route: how the expectation is taken; None in closed form, for Gaussian data of both.

    Raises:
        TypeError: the model is no ExactModel, `other` is none of this library's laws, or no such route.
        ValueError: p_t or q_t has no density, different dimensions, or no route for data that are not Gaussian.
    """
    when, pushed = _at(model, t)
    _with_density("other", other, density=False)
    target = model.process.kernel(when).push(other)
    found = fisher_divergence(pushed, target, route, weight=model.process.diffusion(when))
    return Estimate(-0.5 * found.value, 0.5 * found.error, found.route)


# ---------------------------------------------------------------------- parts


def _at(model: ExactModel, t: float) -> tuple[float, GaussianMixture]:
    """The time, checked, and p_t."""
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    when = real_scalar("t", t, low=0, high=model.process.T)
    return when, _with_density(f"the law at t = {when}", model.marginal(when))


def _with_density(name: str, law: GaussianMixture, *, density: bool = True) -> GaussianMixture:
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"{name} must be a Gaussian or GaussianMixture, got {law!r}")
    if density and law.covariances.singular:
        raise ValueError(NO_DENSITY.format(what=name))
    return law


def _gaussian(law: GaussianMixture) -> Gaussian | None:
    return Gaussian(law.means[0], law.covariances.operator()) if law.count == 1 else None


def _closed(value: ArrayLike) -> Estimate:
    found = np.asarray(value, dtype=np.float64)
    return Estimate(found[()], np.zeros_like(found)[()], name_of(None))


def _outer(s: Array) -> Array:
    return np.asarray(s[:, :, None] * s[:, None, :])


def _stiffness(law: GaussianMixture) -> float:
    """The trace of the largest inverse covariance of a component, which the square of a score is of the size of."""
    return float(np.trace(law.covariances.inverse().dense(law.dim), axis1=-2, axis2=-1).max())


def _size(law: GaussianMixture) -> float:
    """What log p is of the size of."""
    return law.dim + float(np.abs(law.covariances.log_det(law.dim)).max()) / 2
