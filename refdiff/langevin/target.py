r"""What Langevin's methods sample: a law known by its score, and where they accept or reject by its density too.

    Target(score, dim, log_density)        functions of one's own, the density up to a factor
    target_of(law), target_of(model, t)    a mixture; the marginal p_t of an exact model

A density may vanish (log density -inf) where Metropolis' rule asks, which then refuses the point; a score has to be
finite where a step starts. Sources: PODA-301, PODA-303, PODA-306.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.model import ExactModel


@dataclass(frozen=True, eq=False)
class Target:
    """A law on R^d as functions.

    Args:
        score: x (n, d) -> grad log p, shape (n, d).
        dim: d.
        log_density: x (n, d) -> log p up to a constant, shape (n,), or None where only the score is known.

    Raises:
        TypeError: score or log_density is no function.
        ValueError: dim is less than 1.
    """

    score: Callable[[Array], ArrayLike]
    dim: int
    log_density: Callable[[Array], ArrayLike] | None = None

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        for name in ("score", "log_density"):
            given = getattr(self, name)
            if not callable(given) and (name == "score" or given is not None):
                raise TypeError(f"{name} must be a function, got {given!r}")

    def score_at(self, x: Array) -> Array:
        """grad log p at points x (n, d), shape (n, d).

        Raises:
            ValueError: the answer has another shape or is not finite: a chain has run away, or started outside.
        """
        return answered("score", self.score(x), x.shape, finite=True)

    def log_density_at(self, x: Array) -> Array:
        """log p at points x (n, d), shape (n,), -inf where p = 0.

        Raises:
            ValueError: no density is known, or the answer has another shape, is not a number or infinite.
        """
        if self.log_density is None:
            raise ValueError("target must have a log_density to accept or reject by, got a score alone")
        found = answered("log_density", self.log_density(x), x.shape[:1])
        if np.isnan(found).any() or np.isposinf(found).any():
            raise ValueError("log_density must answer with numbers below infinity, got "
                             f"{found[np.isnan(found) | np.isposinf(found)][0]}")  # fmt: skip
        return found


def target_of(source: Target | GaussianMixture | ExactModel, t: float | None = None) -> Target:
    """A target from a law, from an exact model at a time, or as it is.

    Args:
        source: a Target, a GaussianMixture with a density, or an ExactModel.
        t: the time in [0, T], of a model only.

    Raises:
        TypeError: the source is none of these.
        ValueError: a model without a time, a law with one, or a law without a density.
    """
    if isinstance(source, ExactModel):
        if t is None:
            raise ValueError("t must be given for a model, got None")
        law = source.marginal(real_scalar("t", t, low=0, high=source.process.T))
        if law.covariances.singular:
            raise ValueError(NO_DENSITY.format(what=f"the law at t = {t}"))
        return Target(lambda x: source.score(x, t), source.dim, lambda x: source.log_density(x, t))
    if t is not None:
        raise ValueError(f"t must be left out where no process is, got {t!r}")
    if isinstance(source, Target):
        return source
    if not isinstance(source, GaussianMixture):
        raise TypeError(f"target must be a Target, a GaussianMixture or an ExactModel with a time, got {source!r}")
    if source.covariances.singular:
        raise ValueError(NO_DENSITY.format(what="the target"))
    return Target(source.score, source.dim, source.logpdf)
