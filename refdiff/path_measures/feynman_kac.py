r"""The formula of Feynman and Kac, in closed form where everything is quadratic.

    u(x, t) = E[exp(int_t^e V(x_s, s) ds) phi(x_e) | x_t = x],      d_t u + b . grad u + 1/2 tr(D Hess u) + V u = 0

For dx = [M x + c] dt + G dw, V = -1/2 x' Q x + q . x + r and phi = exp(-1/2 x' L x + l . x + z) the logarithm stays
quadratic, log u = -1/2 x' Pi x + p . x + z, and its parts obey a Riccati equation, from the end backwards:

    Pi' = Pi D Pi - Pi M - M' Pi - Q
    p'  = (Pi D - M') p + Pi c - q,        z' = 1/2 tr(D Pi) - c . p - 1/2 p' D p - r

A terminal weight that is a sum of such terms, as a mixture density is, gives a sum. Q may have any sign: where it
makes the expectation infinite before t the equation has no solution. With V = 0 it is Doob's function of that weight;
with V = -l and phi = e^-g it is e^-(least cost), see `control`. Sources: PODD-84, PODD-89; Kac 1949; Cameron and
Martin 1945.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import OdeSolution, solve_ivp
from scipy.special import logsumexp, softmax

from refdiff import operators
from refdiff.arguments import Array, answered, points, precise_as, real_array, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.path_measures.affine import AffineEquation
from refdiff.path_measures.girsanov import steps_of

RTOL, ATOL = 1e-12, 1e-14  # of each step of the Riccati equation
STEPS = 40  # at least
DEEPEST = 1e10  # a curvature below minus this, relative to that of the end, is on its way to minus infinity


@dataclass(frozen=True, eq=False)
class Quadratic:
    """-1/2 x' Q x + q . x + r.

    Args:
        curvature: Q, a symmetric (d, d) matrix of any sign.
        slope: q, shape (d,); 0 unless given.
        constant: r.

    Raises:
        ValueError: shapes that do not fit, or a matrix that is not symmetric.
    """

    curvature: Array
    slope: Array
    constant: float

    def __init__(self, curvature: ArrayLike, slope: ArrayLike | None = None, constant: float = 0.0) -> None:
        q = real_array("curvature", curvature, ndim=(2,))
        if q.shape[0] != q.shape[1] or not q.size or np.abs(q - q.T).max() > 1e-8 * np.abs(q).max():
            raise ValueError(f"curvature must be a symmetric (d, d) matrix, got shape {q.shape}")
        linear = real_array("slope", np.zeros(len(q)) if slope is None else slope, ndim=(1,))
        if len(linear) != len(q):
            raise ValueError(f"slope must have shape ({len(q)},) like the curvature, got {linear.shape}")
        object.__setattr__(self, "curvature", 0.5 * (q + q.T))
        object.__setattr__(self, "slope", linear)
        object.__setattr__(self, "constant", real_scalar("constant", constant))

    @property
    def dim(self) -> int:
        """d, the dimension."""
        return len(self.slope)

    def at(self, x: Array) -> Array:
        """Its values at points x (n, d), shape (n,)."""
        return np.asarray(-0.5 * np.einsum("ni,ij,nj->n", x, self.curvature, x) + x @ self.slope + self.constant)

    def gradient(self, x: Array) -> Array:
        """-Q x + q at points x (n, d), shape (n, d)."""
        return self.slope - x @ self.curvature

    def mean(self, centre: Array, covariance: Array) -> float:
        """Its mean over a law with this centre (d,) and covariance (d, d)."""
        return float(self.at(centre[None])[0] - 0.5 * (self.curvature * covariance).sum())

    @staticmethod
    def log_densities(law: GaussianMixture) -> list[Quadratic]:
        """log w_k N(x; m_k, S_k) of the components of a law with a density.

        Raises:
            ValueError: a covariance is singular.
        """
        if law.covariances.singular:
            raise ValueError("law must have a density, got a singular covariance")
        found = []
        for weight, mean, cov in zip(law.weights, law.means, law.covariances.dense(law.dim), strict=False):
            if weight > 0:
                found.append(_log_density(float(weight), mean, cov))
        return found


@dataclass(frozen=True, eq=False)
class FeynmanKac:
    """u(x, t) of an affine equation, a quadratic potential and a terminal weight that is a sum of e^quadratic.

    Args:
        equation: dx = [M x + c] dt + G dw, time increasing.
        potential: t -> V, a Quadratic; or one Quadratic for all times.
        terminal: log phi, a Quadratic, or several whose exponentials are added.
        start, end: the times between which it is wanted.

    Raises:
        TypeError: no equation, or no Quadratic.
        ValueError: times out of order, dimensions that do not fit, or an expectation that is infinite.

    Examples:
        >>> from refdiff.path_measures import AffineEquation, FeynmanKac, Quadratic
        >>> free = AffineEquation(lambda t: 0.0, lambda t: 0.0, lambda t: 1.0, 1)
        >>> mean = FeynmanKac(free, Quadratic([[0.0]]), Quadratic([[0.0]], [1.0]), 0.0, 1.0)  # E e^w = e^(x + 1/2)
        >>> print(mean.log_h([[2.0]], 0.0).round(6), mean.gradient([[2.0]], 0.0).round(6))
        [2.5] [[1.]]
    """

    equation: AffineEquation
    potential: Callable[[float], Quadratic]
    terminal: tuple[Quadratic, ...]
    start: float
    end: float

    def __init__(
        self,
        equation: AffineEquation,
        potential: Quadratic | Callable[[float], Quadratic],
        terminal: Quadratic | Sequence[Quadratic],
        start: float,
        end: float,
    ) -> None:
        if not isinstance(equation, AffineEquation):
            raise TypeError(f"equation must be an AffineEquation, got {equation!r}")
        ends = (terminal,) if isinstance(terminal, Quadratic) else tuple(terminal)
        rate = (lambda _: potential) if isinstance(potential, Quadratic) else potential
        for name, given in (("terminal", ends), ("potential", (rate(end),))):
            for one in given:
                if not isinstance(one, Quadratic):
                    raise TypeError(f"{name} must be made of Quadratics, got {one!r}")
                if one.dim != equation.dim:
                    raise ValueError(f"{name} must have dimension {equation.dim} like the equation, got {one.dim}")
        if not ends:
            raise ValueError("terminal must hold at least one Quadratic")
        late = real_scalar("end", end)
        early = real_scalar("start", start, high=late)
        for name, value in (("equation", equation), ("potential", rate), ("terminal", ends)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "start", early)
        object.__setattr__(self, "end", late)
        _ = self._known  # an infinite expectation is found here, and not when it is asked for

    @cached_property
    def _known(self) -> list[OdeSolution]:
        """The parts of log u of each term as functions of time."""
        packed = (np.concatenate([one.curvature.ravel(), one.slope, [one.constant]]) for one in self.terminal)
        return [self._solved(state) for state in packed] if self.start < self.end else []

    def quadratics(self, t: float) -> list[Quadratic]:
        """log u of each term of the terminal weight at a time t."""
        now = real_scalar("t", t, low=self.start, high=self.end)
        return [self._unpacked(one(now)) for one in self._known] if now < self.end else list(self.terminal)

    def log_h(self, x: ArrayLike, t: float) -> Any:
        """log u at points x (..., d) of a time t, shape (...)."""
        rows, restore = points("x", x, self.equation.dim)
        return restore(logsumexp([one.at(rows) for one in self.quadratics(t)], axis=0))

    def gradient(self, x: ArrayLike, t: float) -> Any:
        """grad log u at points x (..., d) of a time t, shape (..., d)."""
        rows, restore = points("x", x, self.equation.dim)
        terms = self.quadratics(t)
        share = softmax([one.at(rows) for one in terms], axis=0)
        return restore(np.einsum("kn,knd->nd", share, [one.gradient(rows) for one in terms]))

    def _solved(self, state: Array) -> OdeSolution:
        """The Riccati equation from the end backwards, in steps so short that what is between them is as good."""
        longest, d = (self.end - self.start) / STEPS, self.equation.dim
        deepest = DEEPEST * (1 + np.abs(state[: d * d]).max())

        def left(t: float, now: Array) -> float:  # noqa: ARG001
            """How far the curvature is from what an infinite expectation makes of it."""
            return float(np.linalg.eigvalsh(now[: d * d].reshape(d, d))[0] + deepest)

        left.terminal = True  # type: ignore[attr-defined]
        with np.errstate(over="ignore", invalid="ignore"):
            found = solve_ivp(
                self._rates,
                (self.end, self.start),
                state,
                "DOP853",
                rtol=RTOL,
                atol=ATOL,
                max_step=longest,
                dense_output=True,
                events=left,
            )
        if not found.success or found.status == 1 or not np.isfinite(found.y).all():
            raise ValueError(f"potential and terminal must have a finite expectation: from {self.end} back it is "
                             f"infinite before t = {found.t[-1]}")  # fmt: skip
        return found.sol

    def _unpacked(self, state: Array) -> Quadratic:
        d = self.equation.dim
        pi = state[: d * d].reshape(d, d)
        return Quadratic(0.5 * (pi + pi.T), state[d * d : -1], float(state[-1]))

    def _rates(self, t: float, state: Array) -> Array:
        d = self.equation.dim
        pi, slope = state[: d * d].reshape(d, d), state[d * d : -1]
        m, diffusion = (
            operators.dense(part, d) for part in (self.equation.linear_at(t), self.equation.diffusion_at(t))
        )
        c, v = self.equation.force_at(t), self.potential(t)
        moved = pi @ m
        return np.concatenate(
            [
                (pi @ diffusion @ pi - moved - moved.T - v.curvature).ravel(),
                (pi @ diffusion - m.T) @ slope + pi @ c - v.slope,
                [0.5 * (diffusion * pi).sum() - c @ slope - 0.5 * slope @ diffusion @ slope - v.constant],
            ]
        )


def path_log_weights(
    paths: ArrayLike,
    times: ArrayLike,
    potential: Callable[[Array, float], ArrayLike],
    log_terminal: Callable[[Array], ArrayLike],
) -> Any:
    """int V dt + log phi(x_e) of each path, the integral by the trapezoidal rule, shape (...): for `log_mean_exp`.

    Args:
        paths: x at the times, shape (N + 1, ..., d).
        times: increasing, shape (N + 1,).
        potential: (x, t) -> V at points (n, d), shape (n,).
        log_terminal: log phi of points (n, d), shape (n,).

    Raises:
        ValueError: times that do not increase, or shapes that do not fit.
    """
    shape = np.shape(paths)
    when, states, lead = steps_of(paths, times, shape[-1] if shape else 1)
    if when[-1] < when[0]:
        raise ValueError(f"times must increase, got {when}")
    count = states.shape[1]
    values = np.stack(
        [answered("potential", potential(x, float(t)), (count,)) for x, t in zip(states, when, strict=True)]
    )
    total = np.trapezoid(values, when, axis=0) + answered("log_terminal", log_terminal(states[-1]), (count,))
    return precise_as(paths, total.reshape(lead))


def _log_density(weight: float, mean: Array, cov: Array) -> Quadratic:
    precision = np.linalg.inv(cov)
    slope = precision @ mean
    constant = np.log(weight) - 0.5 * (mean @ slope + len(mean) * np.log(2 * np.pi) + np.linalg.slogdet(cov)[1])
    return Quadratic(precision, slope, float(constant))
