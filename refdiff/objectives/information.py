r"""The losses of variational diffusion models (VDM) at their optimum: information, in nats.

With the signal-to-noise ratio J = A' C^-1 A of the kernel (A, b, C), a number, one per axis or a matrix,

    discrete     1/2 sum_i E (x_0 - D)' (J_{i-1} - J_i) (x_0 - D)  at t_i          `discrete_loss`
    continuous  -1/2 int E (x_0 - D)' J' (x_0 - D) dt,   J' = -A' C^-1 D C^-1 A    `continuous_loss`

(the D in J' is the diffusion G G'). Averaged over the data the continuous one is I(x_0; x_s) - I(x_0; x_t) (I-MMSE):
it depends on the two ends only, whatever the process does in between, and for data N(m, S) it is the difference of

    1/2 log det(I + S J)                                                           on average
    1/2 [log det(I + S J) + tr(((x_0 - m)(x_0 - m)' - S) J (I + S J)^-1)]          at a data point

The discrete loss is the sum of the steps of DDPM's bound with small variances; it is larger than the continuous one
and tends to it at first order in the steps. A weight w(lambda) of lambda = log(alpha / sigma) multiplies each step, or
J': with w = 1 it is the bound, int E |eps - eps*|^2 |dlambda|; w = 1 / SNR leaves int E |x_0 - D|^2 |dlambda|.
Sources: PODB-09, PODB-10, PODA-217; Kingma and Gao 2023, "Understanding diffusion objectives as the ELBO".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import quad_vec

from refdiff import operators
from refdiff.arguments import Array, points, real_array, real_scalar
from refdiff.distributions import GaussianMixture
from refdiff.expectations import Estimate, Quadrature, Route
from refdiff.model import ExactModel
from refdiff.objectives.errors import Errors, estimate, form, pulled
from refdiff.objectives.reverse import noisy_times, whole
from refdiff.operators import Operator
from refdiff.processes import AffineProcess, BetaTable, Process
from refdiff.processes.principal_axes import PrincipalAxes
from refdiff.schedules import Schedule

Weight = Callable[[Any], Any]
TOLERANCE = 1e-11  # of integrals over time, relative: what is left of float64 after sums over some thousand nodes
DRAWN = 1e-6  # and of those of each draw of Monte Carlo, of which there are not so many that this could be seen


def signal_to_noise(process: Process | Schedule, t: float) -> Operator:
    """J = A' C^-1 A at a time t: alpha^2 / sigma^2 as a scalar, (d,) per axis, or a matrix (d, d).

    Raises:
        TypeError: no process.
        ValueError: there is no noise at that time.
    """
    kernel = whole(process).kernel(real_scalar("t", t))
    return pulled(kernel.gain, kernel.noise, f"the noise at t = {t}")


def mean_squared_error(
    model: ExactModel, t: float, x0: ArrayLike | None = None, *, route: Route | None = None
) -> Estimate:
    """E |x_0 - D(x_t)|^2 at a time t, for points x0 (..., d) or on average over the data, by a `route`.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: the data are not Gaussian and there is no route.

    Examples:
        >>> from refdiff import ExactModel, FlowMatching, Gaussian
        >>> from refdiff.objectives import mean_squared_error
        >>> model = ExactModel(Gaussian([0.0], 1.0), FlowMatching())
        >>> print(round(float(mean_squared_error(model, 0.5).value), 6))  # 1 / (1 + snr)
        0.5
    """
    errors, restore = _errors(model, x0, route)
    values, slack = estimate(*errors.weighted(real_scalar("t", t, low=0, high=model.process.T), np.ones(())))
    return Estimate(restore(values), restore(slack), errors.name)


def discrete_loss(
    model: ExactModel,
    times: ArrayLike,
    x0: ArrayLike | None = None,
    *,
    weight: Weight | None = None,
    route: Route | None = None,
) -> Estimate:
    """1/2 sum_i w(lambda_i) E (x_0 - D)' (J_{i-1} - J_i) (x_0 - D) over the steps from t_i to t_{i-1}.

    Args:
        model: the data and their noising.
        times: t_1 < ... < t_T with noise at t_1, shape (T,), T > 1.
        x0: points of shape (..., d), or None for the average.
        weight: w, of lambda = log(alpha / sigma) at the noisier end of a step; of (d,) of them per axis.
        route: how expectations are taken; None in closed form, which only Gaussian data have.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: times that do not increase or have no noise, a weight where there is no lambda, no route.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.objectives import discrete_loss
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> print(round(float(discrete_loss(model, [1.0, 2.0]).value), 6))  # (1 - 1/4) / 2 times the error 4/5
        0.3
    """
    errors, restore = _errors(model, x0, route)
    when = noisy_times(times, model.process, model.dim, least=2)
    process, law = model.process, model.distribution
    if isinstance(process, AffineProcess) and not process.per_axis and errors.route is None:
        lam = process.schedules[0].log_snr(when)
        ratio = np.exp(2 * lam)
        drops = -np.diff(ratio) * (1.0 if weight is None else np.array([weight(one) for one in lam[1:]]))
        found = _isotropic(law, errors.x0, drops, ratio[1:])
        return Estimate(restore(found), restore(np.zeros_like(found)), errors.name)
    total: Any = 0.0
    slack: Any = 0.0
    before = signal_to_noise(process, float(when[0]))
    for t in when[1:].tolist():
        after = signal_to_noise(process, t)
        drop = operators.add(before, -after) * _weight(process, t, weight)
        values, more = errors.weighted(t, 0.5 * drop)
        total, slack, before = total + values, slack + more, after
    values, error = estimate(total, slack)
    return Estimate(restore(values), restore(error), errors.name)


def continuous_loss(
    model: ExactModel,
    start: float,
    end: float,
    x0: ArrayLike | None = None,
    *,
    weight: Weight | None = None,
    route: Route | None = None,
) -> Estimate:
    """-1/2 int_start^end w(lambda) E (x_0 - D)' J' (x_0 - D) dt.

    Args:
        model: the data and their noising.
        start, end: times with noise, start < end.
        x0: points of shape (..., d), or None for the average.
        weight: w, of lambda = log(alpha / sigma), of (d,) of them per axis.
        route: how expectations over x_t are taken; None for Gaussian data. Without a weight those have a closed form;
            all else is integrated over time by SciPy's adaptive rule.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: times that do not increase or have no noise, a weight where there is no lambda, no route, or a
            signal-to-noise ratio that jumps.

    Examples:
        >>> import numpy as np
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.objectives import continuous_loss
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> loss = continuous_loss(model, 1.0, 2.0)  # information: log(1 + snr) / 2 at sigma = 1, less that at 2
        >>> np.allclose(loss.value, np.log((1 + 1) / (1 + 0.25)) / 2)
        True
    """
    errors, restore = _errors(model, x0, route)
    process = model.process
    first, last = noisy_times([start, end], process, model.dim, 2, "start, end").tolist()
    if errors.x0 is not None and not len(errors.x0):
        return Estimate(restore(np.zeros(0)), restore(np.zeros(0)), errors.name)
    ends = [signal_to_noise(process, t) for t in (first, last)]
    if errors.route is None and weight is None:
        found = _information(model, ends[0], errors.x0) - _information(model, ends[1], errors.x0)
        return Estimate(restore(found), restore(np.zeros_like(found)), errors.name)

    def rate(t: float) -> Array:
        return errors.weighted(t, 0.5 * _fall(process, t) * _weight(process, t, weight))[0]

    with np.errstate(invalid="ignore"):
        kinks = _kinks(process, first, last)
        values, error = quad_vec(rate, first, last, epsabs=0.0, epsrel=_tolerance(route), norm="max", points=kinks)
    if not np.isfinite(values).all():
        raise ValueError(f"end must be such that the signal-to-noise ratio does not jump before it, got {last}")
    found, spread = estimate(values, error)
    return Estimate(restore(found), restore(np.hypot(spread, error)), errors.name)


def _errors(model: ExactModel, x0: ArrayLike | None, route: Route | None) -> tuple[Errors, Callable[[Array], Array]]:
    """The errors at points or on average, and the way back to the shape of the points."""
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    rows, restore = points("x0", np.zeros(model.dim) if x0 is None else x0, model.dim)
    return Errors(model, None if x0 is None else rows, route), restore


def _tolerance(route: Route | None) -> float:
    """Of an integral over time, relative: no better than its integrand is known."""
    if isinstance(route, Quadrature):
        return max(TOLERANCE, route.tolerance)
    return TOLERANCE if route is None else DRAWN


def _weight(process: Process, t: float, weight: Weight | None) -> Any:
    if weight is None:
        return 1.0
    if not isinstance(process, AffineProcess):
        raise ValueError(f"weight must be None: there is no log(alpha / sigma) of {process!r}")
    return real_array("weight", weight(process.log_snr(t)), ndim=(0, 1))


def _fall(process: Process, t: float) -> Operator:
    """-J' = (C^-1 A)' D (C^-1 A)."""
    kernel, noise = process.kernel(t), np.asarray(process.diffusion(t))
    if max(kernel.gain.ndim, kernel.noise.ndim, noise.ndim) < 2:
        return np.asarray((kernel.gain / kernel.noise) ** 2 * noise)
    dim = max(len(part) for part in (kernel.gain, kernel.noise, noise) if part.ndim)
    white = np.linalg.solve(operators.dense(kernel.noise, dim), operators.dense(kernel.gain, dim))
    return np.asarray(white.T @ operators.dense(noise, dim) @ white)


def _isotropic(law: GaussianMixture, x0: Array | None, drops: Array, ratio: Array) -> Array:
    """1/2 sum_i drop_i E |x_0 - D|^2 for Gaussian data under ratios SNR_i (m,), on the principal axes."""
    values, axes = np.linalg.eigh(law.cov())
    values = np.maximum(values, 0.0)
    left = 1 / (1 + np.multiply.outer(ratio, values))
    if x0 is None:
        return np.array([0.5 * float((drops @ left) @ values)])
    deviation = ((x0 - law.means[0]) @ axes) ** 2
    noise = (drops * ratio) @ left**2 @ values**2
    return np.asarray(0.5 * (deviation @ (drops @ left**2) + noise))


def _information(model: ExactModel, ratio: Operator, x0: Array | None) -> Array:
    """1/2 [log det(I + S J) + tr((dd' - S) J (I + S J)^-1)], d = x_0 - m, shape (m,); without the trace on average."""
    law, dim = model.distribution, model.dim
    values, axes = np.linalg.eigh(law.cov())
    root = axes * np.sqrt(np.maximum(values, 0.0))
    inner = root.T @ operators.dense(ratio, dim) @ root
    determinant = np.log1p(np.maximum(np.linalg.eigvalsh(inner), 0.0)).sum()
    if x0 is None:
        return np.array([0.5 * determinant])
    # J (I + S J)^-1 = J - J R (I + R'JR)^-1 R'J with S = R R', and tr(S J (I + S J)^-1) = tr(R'JR (I + R'JR)^-1)
    right = root.T @ operators.dense(ratio, dim)
    kept = operators.dense(ratio, dim) - right.T @ np.linalg.solve(np.eye(dim) + inner, right)
    known = np.trace(np.linalg.solve(np.eye(dim) + inner, inner))
    return np.asarray(0.5 * (determinant + form(kept, x0 - law.means[0]) - known))


def _kinks(process: Process, start: float, end: float) -> list[float] | None:
    """Times inside at which the rate of a table of betas jumps."""
    affine = process.along if isinstance(process, PrincipalAxes) else process
    schedules = affine.schedules if isinstance(affine, AffineProcess) else ()
    if not any(isinstance(schedule, BetaTable) for schedule in schedules):
        return None
    return [float(t) for t in range(int(start) + 1, int(np.ceil(end)))]
