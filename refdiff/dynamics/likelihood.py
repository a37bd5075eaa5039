r"""Log likelihoods by the probability flow: the instantaneous change of variables from data to noise.

    x' = v(x, t),   delta' = div v(x, t)   from  x(start) = x,  delta(start) = 0   to `end`
    log p_start(x) = log prior(x_end) + delta(end)

The result is the density of what the flow makes of the prior. Where the prior is the model's own marginal at the end,
that is p_start itself. With another one, N(0, I) or N(0, sigma_T^2 I) for one, it is the density of the generative
model, and differs from log p_start(x) by log prior(x_end) - log p_end(x_end), exactly, at every point: on the average
over the data by -KL(p_end || prior), since the flow is a bijection. Between equal ends the encoding has an inverse,
`flow` in the other direction.

The divergence is exact, or estimated along the one trajectory by fixed probes u, as FFJORD and Song's score SDE do:
delta_u = int u'Ju dt = u'Mu with M = int J dt along the path, J = dv/dx. So it is Hutchinson's estimate for the one
matrix M (`volume_matrix`), unbiased, with its variance (`trace_variance`), however long the path. Bits per dimension
are -log p / (d log 2), for data whose unit is one level.
Sources: PODB-24, PODB-25, PODA-421, PODD-111, TOPB-19, TOPB-24; Grathwohl et al. 2018, Song et al. 2020c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refdiff.arguments import Array, answered, one_of, points, real_array, real_scalar, single_precision, whole_number
from refdiff.backends import on_device
from refdiff.distributions import GaussianMixture
from refdiff.dynamics.flow import flow, tolerances
from refdiff.dynamics.stepping import Flow, Run, Steps, times_with_density
from refdiff.dynamics.trace import PROBES, TraceEstimate, draw_probes
from refdiff.dynamics.velocity_field import BATCH, VelocityField, field_flow
from refdiff.model import ExactModel

LogDensity = Callable[[Array], ArrayLike]


@dataclass(frozen=True, eq=False)
class FlowLikelihood:
    """Log likelihoods of points, and how they came about.

    Attributes:
        log_likelihood: log_prior + volume, shape (...).
        encoded: the points at the end, shape (..., d).
        log_prior: the log density of the prior there, shape (...).
        volume: int div v dt from start to end, exact or estimated, shape (...).
        standard_error: of `volume`, and so of `log_likelihood`, by the spread of the probes, shape (...): 0 where the
            divergence is exact, NaN for one probe.
        forms: what each probe says of the volume, shape (m, ...); the volume itself, m = 1, where it is exact.
        evaluations: of the velocity, for the group of the point, shape (...).
    """

    log_likelihood: Any
    encoded: Array
    log_prior: Any
    volume: Any
    standard_error: Any
    forms: Array
    evaluations: NDArray[np.int64]


def log_likelihood(
    model: ExactModel | VelocityField,
    x: ArrayLike,
    *,
    start: float = 0.0,
    end: float | None = None,
    prior: GaussianMixture | LogDensity | None = None,
    divergence: str = "exact",
    probes: int = 16,
    seed: int | np.random.Generator | None = None,
    method: str = "dop853",
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 10_000,
    batch: int = BATCH,
    threads: int | None = None,
) -> FlowLikelihood:
    """log p_start(x) by the instantaneous change of variables along the flow to `end`.

    Args:
        model: an ExactModel, or a VelocityField of the user's own.
        x: points at the time `start`, shape (..., d); of CuPy for an ExactModel and its exact divergence, as `flow` has
            them.
        start: 0, data, unless given.
        end: where the prior is: T unless given. A field may run to either side, and has no T.
        prior: the law at `end`, or its log density (n, d) -> (n,); the model's own marginal unless given. A field has
            none of its own.
        divergence: exact; or the probes of its estimate: gaussian, rademacher, sphere or orthogonal.
        probes: how many, m.
        seed: of the probes, an int or a generator.
        method: dop853, or dopri5 for loose tolerances.
        rtol, atol, max_steps: as of `flow`.
        batch: how many points of a field go through one solver together.
        threads: of the Numba kernel.

    Raises:
        TypeError: no such model or prior, or no seed for probes.
        ValueError: no density at one of the times (a point set where sigma = 0), a time outside [0, T], a field without
            `end`, prior or what its divergence needs, or an argument that `flow` or `draw_probes` refuses.
        Unfinished: some points need more steps, or none is short enough.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VPLinear
        >>> from refdiff.dynamics import log_likelihood
        >>> model = ExactModel(Gaussian([0.0], 1.0), VPLinear())
        >>> print(log_likelihood(model, [[0.0], [2.0]]).log_likelihood.round(6))  # -log(2 pi) / 2 - x^2 / 2
        [-0.918939 -2.918939]
    """
    start, end = _ends(model, start, end)
    one_of("divergence", divergence, ("exact", *PROBES))
    density = _log_density(model, prior, end)
    how = Steps(method, *tolerances(x, rtol, atol), max_steps)
    there = on_device(x) and divergence == "exact" and isinstance(model, ExactModel)
    x64: Any = x if there else real_array("x", x)
    settings: dict[str, Any] = {"method": how.method, "rtol": how.rtol, "atol": how.atol, "max_steps": how.max_steps}
    if divergence != "exact":
        found, estimate = _estimated(model, x64, (start, end), divergence, probes, seed, how, batch)
    else:
        if isinstance(model, ExactModel):
            found = flow(model, x64, start, end, log_density=True, threads=threads, **settings)
        else:
            found = field_flow(model, x64, start, end, log_density=True, batch=batch, **settings)
        volume = -found.log_density_change
        estimate = TraceEstimate(volume, 0 * abs(volume), (volume if there else np.asarray(volume))[None])
    log_prior = density(found.x)
    volume = estimate.value
    error, forms = estimate.standard_error, estimate.forms
    result = FlowLikelihood(log_prior + volume, found.x, log_prior, volume, error, forms, found.evaluations)
    if getattr(x, "dtype", None) == np.float32:
        parts = [name for name in vars(result) if name != "evaluations"]
        rounded: dict[str, Any] = {name: single_precision(getattr(result, name)) for name in parts}
        result = replace(result, **rounded)
    return result


def volume_matrix(
    model: ExactModel | VelocityField,
    x: ArrayLike,
    *,
    start: float = 0.0,
    end: float | None = None,
    method: str = "dop853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_steps: int = 10_000,
    batch: int = BATCH,
) -> Array:
    """M = int dv/dx dt along the path from `start` to `end`, shape (..., d, d).

    Its trace is the volume, and `trace_variance` of it the exact variance of every estimate of it by fixed probes.

    Args:
        model, x, start, end, batch: as of `log_likelihood`; x has shape (..., d).
        method, rtol, atol, max_steps: as of `flow`, with as strict an error for every entry as for log p.

    Raises:
        TypeError: no such model.
        ValueError: as of `log_likelihood`; a field is asked for its products.
        Unfinished: some points need more steps, or none is short enough.
    """
    start, end = _ends(model, start, end)
    rows, restore = points("x", x, model.dim)
    run = Run(rows, np.zeros((len(rows), model.dim, model.dim)), start, end)
    jacobian = model.jacobian if isinstance(model, VelocityField) else model.velocity_jacobian
    velocity = model.at if isinstance(model, VelocityField) else model.velocity
    for group in run.groups(whole_number("batch", batch, low=1)):
        run.together(group, lambda at, t: (velocity(at, t), jacobian(at, t)), Steps(method, rtol, atol, max_steps))
    return np.asarray(run.flow(restore).log_density_change)


def _ends(model: ExactModel | VelocityField, start: float, end: float | None) -> tuple[float, float]:
    """The model and both times, checked: of an exact model, that there is a density."""
    if not isinstance(model, (ExactModel, VelocityField)):
        raise TypeError(f"model must be an ExactModel or a VelocityField, got {model!r}")
    if isinstance(model, VelocityField):
        if end is None:
            raise ValueError("end must be given for a VelocityField, which has no final time, got None")
        return real_scalar("start", start), real_scalar("end", end)
    first, last = times_with_density(model, start=start, end=model.process.T if end is None else end)
    return first, last


def _log_density(
    model: ExactModel | VelocityField, prior: GaussianMixture | LogDensity | None, end: float
) -> Callable[[Array], Any]:
    """The log density of the prior at points (..., d), shape (...)."""
    if prior is None:
        if isinstance(model, VelocityField):
            raise ValueError("prior must be given for a VelocityField, which knows no marginal, got None")
        prior = model.marginal(end)
    if isinstance(prior, GaussianMixture):
        if prior.dim != model.dim:
            raise ValueError(f"prior must have dimension {model.dim} as the points, got {prior.dim}")
        if prior.covariances.singular:
            raise ValueError(f"prior must have a density, got {prior}")
        return prior.logpdf
    if not callable(prior):
        raise TypeError(f"prior must be a Gaussian, a GaussianMixture or a log density, got {prior!r}")
    return partial(_asked, prior)


def _asked(prior: LogDensity, x: Array) -> Array:
    """A user's log density at x (..., d)."""
    rows = x.reshape(-1, x.shape[-1])
    return answered("prior", prior(rows), rows.shape[:1]).reshape(x.shape[:-1])


def _estimated(
    model: ExactModel | VelocityField,
    x: Array,
    ends: tuple[float, float],
    probe: str,
    count: int,
    seed: int | np.random.Generator | None,
    how: Steps,
    batch: int,
) -> tuple[Flow, TraceEstimate]:
    """The flow, and what each of the probes says of the volume along it."""
    if seed is None:
        raise TypeError("seed must be given where probes are drawn, an int or a Generator, got None")
    rows, restore = points("x", x, model.dim)
    drawn = draw_probes(probe, len(rows), count, model.dim, seed)
    run = Run(rows, np.zeros((len(rows), drawn.shape[1])), *ends)
    for group in run.groups(whole_number("batch", batch, low=1)):
        u = drawn[group]

        def field(at: Array, t: float, u: Array = u) -> tuple[Array, Array]:
            if isinstance(model, VelocityField):
                return model.at(at, t), -model.products(at, t, u)
            return model.velocity(at, t), -((u @ model.velocity_jacobian(at, t)) * u).sum(axis=-1)

        run.together(group, field, how)
    found = run.flow(restore)
    return found, TraceEstimate.of(-np.moveaxis(found.log_density_change, -1, 0), probe, model.dim)
