r"""Hypothesis strategies for laws, schedules, processes, tables, times and points.

Laws come in every storage (isotropic, diagonal, shared and full covariances, point sets, covariances without full
rank) with eigenvalues in [1e-3, 10] and means in [-spread, spread]^d; schedules in every family with its parameters.
Hypothesis shrinks a failure to few components, few dimensions and round numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from hypothesis import strategies as st
    from hypothesis.extra.numpy import arrays
except ImportError as missing:
    raise ImportError(
        "strategies of refdiff.testing need hypothesis: install refdiff with its test extra, refdiff[test]"
    ) from missing

from refdiff.arguments import Array, real_scalar, whole_number
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, BetaTable, LinearProcess, Process
from refdiff.schedules import (
    FlowMatching,
    FunctionSchedule,
    Schedule,
    SubVP,
    Trigonometric,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
)

# `degenerate` has a covariance without full rank, `points` none at all: neither has a density of its own.
KINDS = ("gaussian", "isotropic", "diagonal", "shared", "full", "points", "degenerate")
WITH_DENSITY = KINDS[:5]


def _floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


def _matrix(shape: tuple[int, ...], low: float, high: float) -> st.SearchStrategy[Array]:
    return arrays(np.float64, shape, elements=_floats(low, high))


@st.composite
def covariances(draw: st.DrawFn, dim: int, rank: int | None = None) -> Array:
    """Matrices (dim, dim) with `rank` eigenvalues (all when left out) in [1e-3, 10] along drawn axes."""
    axes, _ = np.linalg.qr(draw(_matrix((dim, dim), -1.0, 1.0)))
    variances = 10 ** draw(_matrix((dim,), -3.0, 1.0))
    variances[dim if rank is None else rank :] = 0.0
    matrix: Array = (axes * variances) @ axes.T
    return 0.5 * (matrix + matrix.T)


@st.composite
def distributions(
    draw: st.DrawFn,
    dim: int | None = None,
    *,
    max_dim: int = 4,
    max_count: int = 5,
    kinds: Sequence[str] = KINDS,
    spread: float = 5.0,
) -> GaussianMixture:
    """Laws of every storage.

    Args:
        dim: d, drawn from 1..max_dim when left out.
        max_count: the largest number of components.
        kinds: some of `KINDS`; `WITH_DENSITY` leaves out the laws without a density.
        spread: means lie in [-spread, spread]^d.

    Raises:
        ValueError: `kinds` names none, or one that there is not.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown or not kinds:
        raise ValueError(f"kinds must be some of {KINDS}, got {tuple(kinds)}")
    d = draw(st.integers(1, max_dim)) if dim is None else whole_number("dim", dim, low=1)
    kind, count = draw(st.sampled_from(kinds)), draw(st.integers(1, max_count))
    means = draw(_matrix((count, d), -spread, spread))
    weights = draw(_matrix((count,), 1e-3, 1.0))
    if kind == "gaussian":
        shape = draw(st.sampled_from([(), (d,), (d, d)]))
        return Gaussian(means[0], draw(covariances(d)) if len(shape) == 2 else 10 ** draw(_matrix(shape, -3.0, 1.0)))
    if kind == "isotropic":
        return GaussianMixture.isotropic(means, 10 ** draw(_matrix((count,), -3.0, 1.0)), weights)
    if kind == "diagonal":
        shape = draw(st.sampled_from([(d,), (count, d)]))
        return GaussianMixture.diagonal(means, 10 ** draw(_matrix(shape, -3.0, 1.0)), weights)
    if kind == "points":
        return Empirical(means, weights)
    if kind in ("shared", "degenerate"):
        rank = None if kind == "shared" else draw(st.integers(0, d - 1))
        return GaussianMixture.shared(means, draw(covariances(d, rank)), weights)
    return GaussianMixture.full(means, np.stack([draw(covariances(d)) for _ in range(count)]), weights)


def beta_tables(max_steps: int = 40, *, zero_terminal: bool = True) -> st.SearchStrategy[BetaTable]:
    """Tables of 1..max_steps betas in [1e-5, 0.99], with `zero_terminal` some of them ending in beta_N = 1."""
    betas = st.integers(1, max_steps).flatmap(lambda n: _matrix((n,), 1e-5, 0.99))
    plain = betas.map(BetaTable)
    return plain | betas.map(lambda b: BetaTable(np.append(b, 1.0))) if zero_terminal else plain


def schedules(T: float | None = None) -> st.SearchStrategy[Schedule]:
    """Schedules of every family with their parameters; with T only the families that can end there."""
    end = _floats(0.1, 10.0) if T is None else st.just(real_scalar("T", T, low=0, open_low=True))
    free: list[st.SearchStrategy[Schedule]] = [
        st.builds(VPLinear, _floats(0.01, 1.0), _floats(1.0, 30.0), end),
        st.builds(VPCosine, _floats(0.001, 0.1), end),
        st.builds(SubVP, _floats(0.01, 1.0), _floats(1.0, 30.0), end),
        st.builds(VEGeometric, _floats(1e-3, 0.1), _floats(1.0, 100.0), end, st.booleans()),
        st.builds(VEPower, st.sampled_from([0.5, 1.0, 2.0]), end),
        st.builds(_as_functions, _floats(0.1, 5.0), end),
    ]
    if T is None:
        free += [st.builds(Trigonometric, _floats(0.1, 3.0)), beta_tables()]
    return st.one_of(*free, st.just(FlowMatching())) if T in (None, 1) else st.one_of(*free)


def _as_functions(rate: float, T: float) -> FunctionSchedule:
    """The Ornstein-Uhlenbeck process, given as functions with first derivatives."""
    ou = VPLinear(2 * rate, 2 * rate, T)
    return FunctionSchedule(ou.alpha, ou.sigma, T, ou.dalpha, ou.dsigma)


def processes(dim: int | None = None) -> st.SearchStrategy[AffineProcess]:
    """Scalar processes, and with `dim` also per-axis processes on R^dim."""
    scalar = schedules().map(AffineProcess)
    return scalar if dim is None else scalar | st.lists(schedules(1.0), min_size=dim, max_size=dim).map(AffineProcess)


def matrix_processes(dim: int) -> st.SearchStrategy[LinearProcess]:
    """Linear SDEs on R^dim, F(t) = A + sin(6 t / T) B and G(t) = L + cos(6 t / T) C, that need not commute.

    Entries of A, B lie in [-1, 1] and of C in [-0.1, 0.1]; L is lower triangular with a diagonal in [0.5, 1.5], so that
    noise reaches every direction.
    """
    square = _matrix((dim, dim), -1.0, 1.0)
    return st.builds(_linear, square, square, square, _matrix((dim,), 0.5, 1.5), square, _floats(0.3, 2.0))


def _linear(drift: Array, turned: Array, noise: Array, diagonal: Array, varied: Array, T: float) -> LinearProcess:
    lower = np.tril(noise, -1) + np.diag(diagonal)
    return LinearProcess(
        lambda t: drift + np.sin(6 * t / T) * turned, lambda t: lower + 0.1 * np.cos(6 * t / T) * varied, T
    )


def models(dim: int | None = None, **options: Any) -> st.SearchStrategy[ExactModel]:
    """Exact models of `distributions(dim, **options)` under `processes`."""
    laws = distributions(dim, **options)
    return laws.flatmap(lambda law: processes(law.dim).map(lambda process: ExactModel(law, process)))


def times(process: Process | Schedule, low: float = 0.05, high: float = 0.95) -> st.SearchStrategy[float]:
    """Times from low T to high T; 0 and 1 are allowed, and are the ends exactly."""
    return _floats(low, high).map(lambda u: process.T if u == 1 else u * process.T)


def points(dim: int, count: int = 3, spread: float = 10.0) -> st.SearchStrategy[Array]:
    """Points (count, dim) in [-spread, spread]^dim."""
    return _matrix((count, dim), -spread, spread)
