r"""Reverse kernels of a chain: the Gaussian ones of DDPM, and the exact ones of mixtures.

Given x_0 a step back from t to s is Gaussian, for any linear process, affine in x_0 and x_t:

    q(x_s | x_t, x_0) = N(A x_0 + B x_t + c, V)

with (B, V) from Bayes' rule for x_s ~ N(A_s x_0 + b_s, C_s) seen through the channel (F, b, N) from s to t:
B = C_s F' T^-1, T = F C_s F' + N, A = (I - B F) A_s; I - B F = F^-1 N T^-1 F does not cancel for close times.
DDPM puts the denoiser in the place of x_0 and a covariance W of choice in that of V:

    small     W = V                                 the posterior's: exact for one point
    large     W = N                                 that of the step forwards, beta_t: exact for N(0, I) data under VP
    matched   W = V + A E Cov[x_0 | x_t] A'         exact for Gaussian data, of all constant ones the best for any

Without x_0 the kernel is q(x_s | x_t) = q(x_t | x_s) p_s(x_s) / p_t(x_t): a mixture for data that are one.
Sources: PODB-07, PODB-08, PODA-213, PODA-215, DMI-26, DMI-38.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, one_of, real_array
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import tiles
from refdiff.distributions.mixture import posterior_means
from refdiff.distributions.moments import log_total
from refdiff.expectations import Route
from refdiff.model import ExactModel
from refdiff.objectives.errors import identity, mean_covariance
from refdiff.operators import Operator
from refdiff.processes import AffineProcess, Process
from refdiff.schedules import Schedule

VARIANCES = ("small", "large", "matched")
Variances = str | Sequence[ArrayLike]


@dataclass(frozen=True, eq=False)
class ReverseStep:
    """q(x_s | x_t, x_0) = N(A x_0 + B x_t + c, V), and the model p(x_s | x_t) = N(A D(x_t, t) + B x_t + c, W).

    Attributes:
        t: the time it leaves.
        of_x0, of_xt: the operators A and B.
        offset: c, a scalar or (d,).
        posterior: V.
        noise: W.
    """

    t: float
    of_x0: Operator
    of_xt: Operator
    offset: Array
    posterior: Operator
    noise: Operator

    def mean(self, denoised: Array, x: Array) -> Array:
        """A D + B x + c for `denoised` D (..., d) at x (..., d), shape (..., d)."""
        return operators.apply(self.of_x0, denoised) + operators.apply(self.of_xt, x) + self.offset


def grid_of_times(times: ArrayLike, process: Process, least: int = 1, name: str = "times") -> Array:
    """The times t_1 < ... < t_T of a process's chain, shape (T,), at least so many (`least`); `name` is for messages.

    Raises:
        ValueError: they do not increase, lie outside [0, T], or are fewer.
    """
    found = real_array(name, times, ndim=(1,))
    if len(found) < least:
        raise ValueError(f"{name} must be at least {least}, got {len(found)}")
    if (np.diff(found) <= 0).any() or found[0] < 0 or found[-1] > process.T:
        raise ValueError(f"{name} must increase within [0, {process.T}], got {found}")
    return found


def noisy_times(times: ArrayLike, process: Process, dim: int, least: int = 1, name: str = "times") -> Array:
    """`grid_of_times` of a process on R^dim (`dim`), shape (T,), for its `least` and `name`, all of them with noise.

    Raises:
        ValueError: times that are no grid, or a first one at which some direction has no noise.
    """
    found = grid_of_times(times, process, least, name)
    if Gaussian(np.zeros(dim), process.kernel(found[0]).noise).covariances.singular:
        raise ValueError(f"{name} must begin where there is noise in every direction, got {found[0]}")
    return found


def whole(process: Process | Schedule) -> Process:
    """The process, or the scalar one of a schedule.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(process, Schedule):
        return AffineProcess(process)
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process or a Schedule, got {process!r}")
    return process


def posterior_step(process: Process | Schedule, s: float, t: float, dim: int) -> ReverseStep:
    """The posterior kernel of one step from t to s, 0 <= s < t, on R^dim (`dim`), with W = V.

    Raises:
        TypeError: no process.
        ValueError: times that do not increase, or x_t given x_0 has no density.
    """
    process = whole(process)
    s, t = grid_of_times([s, t], process, least=2).tolist()
    kernel, between = process.kernel(s), process.channel(s, t)
    back = between.reverse(Gaussian(np.zeros(dim), kernel.noise))
    kept = _complement(back.gain, between, kernel.noise, dim)
    offset = operators.apply(kept, np.broadcast_to(kernel.offset, (dim,))) + back.offset
    of_x0 = operators.product(kept, kernel.gain)
    return ReverseStep(t, of_x0, back.gain, offset, back.noise, back.noise)


def reverse_steps(
    model: ExactModel, times: Array, variances: Variances, decoder: str | ArrayLike, route: Route | None
) -> list[ReverseStep]:
    """The decoder p(x_0 | x_{t_1}) = N(D, W), then the steps t_2 -> t_1, ..., t_T -> t_{T-1}.

    Args:
        model: the data and their noising.
        times: t_1 < ... < t_T, shape (T,).
        variances: of the steps, a word of VARIANCES, or T - 1 covariances (scalars, (d,) or (d, d)).
        decoder: W of the decoder, likewise, or the word matched.
        route: by which expectations are taken where they have no closed form.

    Raises:
        ValueError: an unknown word, or another number of covariances.
    """
    dim = model.dim
    given = _given(variances, len(times) - 1)
    if isinstance(decoder, str):
        one_of("decoder", decoder, ("matched",))
        spread = mean_covariance(model, times[0], route)
    else:
        spread = operators.covariance("decoder", decoder)
        operators.fits("decoder", spread, dim)
    one, zero = np.ones(()), np.zeros(())
    steps = [ReverseStep(times[0], one, zero, zero, zero, spread)]
    for i, (s, t) in enumerate(pairwise(times.tolist())):
        step = posterior_step(model.process, s, t, dim)
        if given is not None:
            operators.fits("variances", given[i], dim)
            noise = given[i]
        elif variances == "large":
            noise = model.process.channel(s, t).noise
        elif variances == "small":
            noise = step.posterior
        else:
            known = operators.sandwich(step.of_x0, mean_covariance(model, t, route))
            noise = operators.add(step.posterior, known)
        steps.append(ReverseStep(t, step.of_x0, step.of_xt, step.offset, step.posterior, noise))
    return steps


def posterior_logpdf(channel: Channel, law: GaussianMixture, x: Array, y: Array) -> Array:
    """log p(x | y) for rows x (n, d) and y (n, k), x of this law and y = A x + b + N(0, C), shape (n,).

    sum_k r_k(y) N(x; m_k + G_k (y - A m_k - b), V_k), every component of every row.

    Raises:
        ValueError: y, or x given y, has no density.
    """
    pushed = channel.push(law)
    left = law.covariances.after(channel.gain, channel.noise, law.dim)
    if left.singular:
        raise ValueError("law must have a density given what is seen, got a singular posterior")
    constant = left.log_det(law.dim) + law.dim * np.log(2 * np.pi)

    def one(rows: slice) -> Array:
        part = pushed.posterior_weights(y[rows])
        with np.errstate(divide="ignore"):  # a component may be too far to have any part in it
            logits = np.log(part) - 0.5 * constant
        means = posterior_means(law, pushed, channel.gain, y[rows])
        for ks in tiles(len(part), law.count, law.dim):
            gap = x[rows, None, :] - means(ks)
            logits[:, ks] -= 0.5 * np.einsum("nkd,nkd->nk", gap, left.solve(gap, ks))
        return log_total(logits)

    sizes = [len(part) for part in pushed.parts(y)]
    ends = np.cumsum(sizes)
    return np.concatenate([one(slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)])


def _given(variances: Variances, count: int) -> list[Operator] | None:
    if isinstance(variances, str):
        one_of("variances", variances, VARIANCES)
        return None
    if len(variances) != count:
        raise ValueError(f"variances must be one for each of the {count} steps, got {len(variances)}")
    return [operators.covariance("variances", one) for one in variances]


def _complement(gain: Operator, between: Channel, before: Operator, dim: int) -> Operator:
    """I - B F for the gain B of Bayes' rule, with F and N of the channel `between` and C_s = `before`."""
    f, n = between.gain, between.noise
    if max(gain.ndim, f.ndim, n.ndim) < 2:
        return np.asarray(n / (f * f * before + n))
    seen = operators.dense(operators.product(gain, f), dim)
    kept = identity(gain, f, dim) - seen
    matrix = operators.dense(f, dim)
    # rounding of the difference is that of B F; of the product, the condition of F times its size
    if np.linalg.cond(matrix) * np.abs(kept).max() > np.abs(seen).max():
        return kept
    noise = operators.dense(n, dim)
    total = matrix @ operators.dense(before, dim) @ matrix.T + noise
    return np.asarray(np.linalg.solve(matrix, noise @ np.linalg.solve(total, matrix)))
