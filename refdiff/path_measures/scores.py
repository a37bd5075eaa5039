r"""Approximate scores with what a stability bound asks of them: a one-sided Lipschitz rate.

    s(x, t) = -A(t) (x - c(t))                             `AffineScore`: the rate is an eigenvalue
    (D s(x) - D s(y)).(x - y) <= Lambda_t |x - y|^2        `LipschitzScore`: whoever brings s brings Lambda

D = G G' is the diffusion of the process. The exact score of a mixture of components of one covariance P_t is one-sided
Lipschitz at every time: its derivative is -P^-1 + Cov_r(P^-1 m_k), and the variance of what lies in an interval is at
most a quarter of its length squared (Popoviciu), so that the largest eigenvalue of the derivative is at most

    max_jk lambda_max(-P^-1 + v v' / 4),      v = P^-1 (m_j - m_k),

and for two components it is attained. A point set under noise is such a mixture. Components whose precisions differ by
an indefinite matrix have no such rate: far out, where they weigh the same, their gradients differ without bound.
Sources: TOPB-59, TOPB-65.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, answered, real_array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.operators import Operator
from refdiff.processes import AffineProcess, BetaTable, Process

# what covariances may differ by after a channel that does the same to all of them, relative
SAME = 1e-14


class ApproximateScore(Protocol):
    """A score s(x, t) in place of the exact one."""

    @property
    def dim(self) -> int:
        """d, the dimension of its points."""

    def at(self, x: Array, t: float) -> Array:
        """s at points x (n, d), shape (n, d)."""

    def growth(self, against: Operator, pull: float, diffusion: Operator, root: Operator, t: float) -> float:
        """A one-sided Lipschitz rate of M x + N D s(x, t), `against` M, `pull` N, `diffusion` D, in the norm |R x|.

        R is the `root` of a metric; M, D and R are numbers, (d,) or (d, d).
        """


@dataclass(frozen=True, eq=False)
class AffineScore:
    """s(x, t) = -A(t) (x - c(t)).

    Args:
        precision: t -> A, a number, (d,) or a matrix (d, d), symmetric or not.
        centre: t -> c, a number or (d,).
        dim: d.

    Raises:
        TypeError: precision or centre is no function.
        ValueError: dim is less than 1.
    """

    precision: Callable[[float], ArrayLike]
    centre: Callable[[float], ArrayLike]
    dim: int

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        for name in ("precision", "centre"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {getattr(self, name)!r}")

    @staticmethod
    def exact(model: ExactModel) -> AffineScore:
        """The score -P_t^-1 (x - m_t) of a model of Gaussian data.

        Raises:
            ValueError: the data are a mixture.
        """
        if not isinstance(model, ExactModel) or model.distribution.count != 1:
            raise ValueError(f"model must be an ExactModel of Gaussian data, got {model!r}")
        law = lru_cache(maxsize=16)(model.marginal)  # both parts are asked for at one time after the other
        return AffineScore(
            lambda t: operators.inverse(law(t).covariances.operator()), lambda t: law(t).means[0], model.dim
        )

    def precision_at(self, t: float) -> Operator:
        """A at a time t.

        Raises:
            ValueError: it does not act on R^d.
        """
        a = operators.operator("precision", self.precision(t))
        if a.shape not in ((), (self.dim,), (self.dim, self.dim)):
            raise ValueError(f"precision must act on dimension {self.dim}, got shape {a.shape}")
        return a

    def centre_at(self, t: float) -> Array:
        """c at a time t, shape (d,).

        Raises:
            ValueError: it has another shape.
        """
        c = real_array("centre", self.centre(t))
        if c.shape not in ((), (self.dim,)):
            raise ValueError(f"centre must answer with a number or shape {(self.dim,)}, got {c.shape}")
        return np.broadcast_to(c, (self.dim,))

    def at(self, x: Array, t: float) -> Array:
        """s at points x (n, d), shape (n, d)."""
        return -operators.apply(self.precision_at(t), x - self.centre_at(t))

    def growth(self, against: Operator, pull: float, diffusion: Operator, root: Operator, t: float) -> float:
        """The largest eigenvalue of sym R (M - N D A) R^-1, `against` M, `pull` N, `diffusion` D at t, `root` R.

        M, D and R are numbers, (d,) or (d, d).
        """
        pulled = operators.product(np.asarray(pull * diffusion), self.precision_at(t))
        return largest(turned(operators.add(against, -pulled), root))


@dataclass(frozen=True, eq=False)
class LipschitzScore:
    """Any score, with a one-sided Lipschitz rate of D s.

    Args:
        score: (x, t) -> s at points x (n, d), shape (n, d).
        rate: t -> Lambda with (D s(x) - D s(y)).(x - y) <= Lambda |x - y|^2; where D = g^2, g^2 times that of s. In
            another metric than Euclid's both sides are in that metric.
        dim: d.

    Raises:
        TypeError: score or rate is no function.
        ValueError: dim is less than 1.
    """

    score: Callable[[Array, float], ArrayLike]
    rate: Callable[[float], float]
    dim: int

    def __post_init__(self) -> None:
        whole_number("dim", self.dim, low=1)
        for name in ("score", "rate"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {getattr(self, name)!r}")

    @staticmethod
    def exact(model: ExactModel) -> LipschitzScore:
        """The exact score of a model whose components have one covariance, with `score_rate` for its rate.

        Raises:
            TypeError: the model is no ExactModel.
            ValueError: its components have different covariances.
        """
        if not isinstance(model, ExactModel):
            raise TypeError(f"model must be an ExactModel, got {model!r}")
        _one_covariance(model.distribution)
        return LipschitzScore(
            lambda x, t: model.score(x, t),
            lambda t: score_rate(model.marginal(t), model.process.diffusion(t)),
            model.dim,
        )

    def at(self, x: Array, t: float) -> Array:
        """s at points x (n, d), shape (n, d).

        Raises:
            ValueError: the answer has another shape, or is not finite.
        """
        return answered("score", self.score(x, t), x.shape, finite=True)

    def growth(self, against: Operator, pull: float, diffusion: Operator, root: Operator, t: float) -> float:  # noqa: ARG002
        """The largest eigenvalue of sym R M R^-1, `against` M, `root` R, and `pull` times the rate at t.

        M and R are numbers, (d,) or (d, d); the `diffusion` is in the rate.
        """
        return largest(turned(against, root)) + pull * real_scalar("rate", self.rate(t))


def score_rate(law: GaussianMixture, diffusion: ArrayLike = 1.0) -> float:
    """A one-sided Lipschitz rate of D grad log p, for a mixture of components of one covariance with a density.

    The least one for one component or, where D is a number, for two; an upper bound for more. Where D is an axis' own
    or a matrix, the variance of the gradients enters with the largest eigenvalue of D.

    Args:
        law: p, in any dimension.
        diffusion: D, a number, (d,) or (d, d).

    Raises:
        ValueError: components of different covariances, a singular covariance, or a diffusion that does not fit.
    """
    d = operators.covariance("diffusion", diffusion)
    operators.fits("diffusion", d, law.dim)
    covariance = _one_covariance(law)
    if operators.singular(covariance):
        raise ValueError("law must have a density, got a singular covariance")
    precision = operators.inverse(covariance)
    means = law.means[law.weights > 0]
    gaps = [operators.apply(precision, one - other) for one, other in combinations(means, 2)]
    within = -operators.product(d, precision)
    if not gaps:
        return largest(within)
    if d.ndim:
        return largest(within) + largest(d) * max(float(v @ v) for v in gaps) / 4
    if precision.ndim == 0:
        return float(within + d * max(float(v @ v) for v in gaps) / 4)
    return max(largest(operators.add(within, d * np.outer(v, v) / 4)) for v in gaps)


def interval(model: ExactModel, score: ApproximateScore, start: float, end: float | None) -> tuple[float, float]:
    """The times `start` and `end` (T for None) between which a model's and a score's samplers are compared.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: dimensions that differ, times out of order or outside [0, T], or an end at which drift or diffusion
            of the process is infinite.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    if score.dim != model.dim:
        raise ValueError(f"score must have the dimension {model.dim} of the data, got {score.dim}")
    process = model.process
    last = real_scalar("end", process.T if end is None else end, low=0, high=process.T)
    if not all(np.isfinite(part).all() for part in (process.drift(last), process.diffusion(last))):
        raise ValueError(f"end must be a time at which drift and diffusion are finite, got {last}")
    return real_scalar("start", start, low=0, high=last), last


def pieces(process: Process, start: float, end: float) -> list[float]:
    """`start`, the times between at which the rates of a process jump, as those of a table of betas do, and `end`."""
    schedules = process.schedules if isinstance(process, AffineProcess) else ()
    if not any(isinstance(schedule, BetaTable) for schedule in schedules):
        return [start, end]
    return [start, *(float(t) for t in range(int(start) + 1, int(np.ceil(end)))), end]


def turned(a: Operator, root: Operator) -> Operator:
    """R A R^-1 of operators a and `root`: A as it acts on R x."""
    if max(a.ndim, root.ndim) < 2:
        return a
    dim = len(a) if a.ndim == 2 else len(root)
    r = operators.dense(root, dim)
    return np.asarray(np.linalg.solve(r.T, (r @ operators.dense(a, dim)).T).T)


def largest(a: Operator) -> float:
    """The largest eigenvalue of the symmetric part of an operator a, the logarithmic norm of the Euclidean one."""
    return float(np.linalg.eigvalsh((a + a.T) / 2)[-1]) if a.ndim == 2 else float(a.max())


def _one_covariance(law: GaussianMixture) -> Operator:
    """The covariance of all components of a law, an operator.

    Raises:
        ValueError: they have different ones.
    """
    dense = law.covariances.dense(law.dim)
    if np.abs(dense - dense[0]).max() > SAME * np.abs(dense[0]).max():
        raise ValueError("law must have components of one covariance, got different ones: the score of such a mixture "
                         "need not be one-sided Lipschitz")  # fmt: skip
    return np.asarray(law.covariances.operator())
