r"""The variational bound of DDPM, in nats, with the exact denoiser for the network.

For latents at times t_1 < ... < t_T, the reverse kernels and the decoder of `reverse`, and a Gaussian prior:

    -log p(x_0)  <=  KL(q(x_T | x_0) || prior)                                                       prior
                  +  E[-log p(x_0 | x_{t_1})]                                                        reconstruction
                  +  sum_{i=2}^T E KL(q(x_{t_{i-1}} | x_{t_i}, x_0) || p(x_{t_{i-1}} | x_{t_i}))     steps

The sum starts at i = 2: the posterior of the step to the data is a point, and its divergence is infinite. Each term is
the divergence of two covariances plus an error of the denoiser under a weight,

    KL(N(mu, V) || N(mu', W)) = KL(N(0, V) || N(0, W)) + (x_0 - D)' A' W^-1 A (x_0 - D) / 2

so all is closed but E (x_0 - D)(x_0 - D)', and that too for Gaussian data (`errors`). Sources: PODA-217, PODA-223,
PODD-101, DMI-24..26, PODB-08.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, points
from refdiff.distributions import Gaussian, kl_divergence
from refdiff.expectations import MonteCarlo, Route
from refdiff.model import ExactModel
from refdiff.objectives.errors import Errors, estimate, form, pulled, trace
from refdiff.objectives.reverse import ReverseStep, Variances, noisy_times, reverse_steps, whole
from refdiff.operators import Operator
from refdiff.processes import Process
from refdiff.schedules import Schedule


@dataclass(frozen=True, eq=False)
class Bound:
    """The terms of a bound in nats, of each data point or of the average one.

    Attributes:
        prior: shape (...).
        reconstruction: shape (...).
        steps: of the steps t_2 -> t_1, ..., t_T -> t_{T-1}, shape (..., T - 1).
        error: of the total, shape (...): 0 in closed form, what quadrature may err by, or a standard error.
        route: "closed", "quadrature" or "monte carlo".
    """

    prior: Any
    reconstruction: Any
    steps: Array
    error: Any
    route: str

    @property
    def diffusion(self) -> Any:
        """The sum over the steps, shape (...)."""
        return self.steps.sum(axis=-1)

    @property
    def total(self) -> Any:
        """The bound on -log p(x_0), shape (...)."""
        return self.prior + self.reconstruction + self.diffusion


def standard_prior(process: Process | Schedule, dim: int) -> Gaussian:
    """The law of x_T for data N(0, I) on R^dim (`dim`): N(0, I) itself where variance is preserved."""
    process = whole(process)
    last = process.kernel(process.T).push(Gaussian(np.zeros(dim), 1.0))
    return Gaussian(last.means[0], last.covariances.operator())


def variational_bound(
    model: ExactModel,
    times: ArrayLike,
    x0: ArrayLike | None = None,
    *,
    variances: Variances = "small",
    decoder: str | ArrayLike = "matched",
    prior: Gaussian | None = None,
    route: Route | None = None,
) -> Bound:
    """The bound at data points, or on average over the data.

    Args:
        model: the data and their noising; its denoiser is the network.
        times: t_1 < ... < t_T of the latents, shape (T,), with noise at t_1: 1..N for a table of betas.
        x0: points of shape (..., d), or None for the average.
        variances: of the steps: small, large or matched, or T - 1 covariances (scalars, (d,) or (d, d)) in order.
        decoder: the covariance of p(x_0 | x_{t_1}) = N(D, W), or matched, for E Cov[x_0 | x_{t_1}].
        prior: a Gaussian; the law of x_T for data N(0, I) when left out.
        route: how expectations over x_t are taken; None in closed form, which only Gaussian data have.

    Returns:
        The terms, float32 for float32 points.

    Raises:
        TypeError: the model is no ExactModel, or the prior no Gaussian.
        ValueError: times, covariances or a route that do not fit, or a covariance without full rank.

    Examples:
        >>> import numpy as np
        >>> from refdiff import ExactModel, Gaussian, VPLinear
        >>> from refdiff.objectives import variational_bound
        >>> model = ExactModel(Gaussian([0.0], 1.0), VPLinear())
        >>> bound = variational_bound(model, [0.1, 0.5, 1.0], variances="matched")  # exact reverse kernels: no gap
        >>> np.allclose(bound.total, (1 + np.log(2 * np.pi)) / 2)  # the entropy of N(0, 1)
        True
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    if prior is not None and not isinstance(prior, Gaussian):
        raise TypeError(f"prior must be a Gaussian, got {prior!r}")
    when = noisy_times(times, model.process, model.dim)
    rows, restore = points("x0", np.zeros(model.dim) if x0 is None else x0, model.dim)
    errors = Errors(model, None if x0 is None else rows, route)
    chain = reverse_steps(model, when, variances, decoder, route)
    last = standard_prior(model.process, model.dim) if prior is None else prior
    first = _prior(model, float(when[-1]), None if x0 is None else rows, last)
    sums, parts, slack = _steps(errors, chain)
    # a standard error of the whole, not of its parts
    error = estimate(sums, slack)[1] if isinstance(route, MonteCarlo) else slack
    return Bound(restore(first), restore(parts[:, 0]), restore(parts[:, 1:]), restore(error), errors.name)


def _prior(model: ExactModel, t: float, x0: Array | None, prior: Gaussian) -> Array:
    """KL(q(x_t | x_0) || prior), shape (m,): the mean of a quadratic needs two moments of any data."""
    kernel = model.process.kernel(t)
    spread, where = prior.covariance, prior.means[0]
    unit = np.ones(())
    inverse = pulled(unit, spread, "prior")
    covariances = kl_divergence(Gaussian(np.zeros(prior.dim), kernel.noise), Gaussian(np.zeros(prior.dim), spread))
    data = model.distribution.mean()[None] if x0 is None else x0
    distance = form(inverse, operators.apply(kernel.gain, data) + kernel.offset - where)
    if x0 is None:
        distance = distance + trace(pulled(kernel.gain, spread, "prior"), model.distribution.cov(), model.dim)
    return np.asarray(covariances + 0.5 * distance)


def _steps(errors: Errors, chain: list[ReverseStep]) -> tuple[Array, Array, Array]:
    """Sums over the steps (m, ...) with the draws of Monte Carlo, terms (m, T), and what quadrature may err by (m,)."""
    dim = errors.model.dim
    total: Array = np.zeros((1, 1))
    terms, slack = [], np.zeros(1)
    for i, step in enumerate(chain):
        name = f"variances of the step from t = {step.t}" if i else "decoder"
        values, more = errors.weighted(step.t, pulled(step.of_x0, step.noise, name))
        constant = _surprise(step.noise, dim) if i == 0 else _divergence(step, dim)
        values = constant + 0.5 * values
        total = total + (values[:, None] if values.ndim == 1 else values)
        terms.append(values if values.ndim == 1 else values.mean(axis=1))
        slack = slack + 0.5 * more
    return total, np.stack(terms, axis=1), np.broadcast_to(slack, (len(terms[0]),))


def _surprise(noise: Operator, dim: int) -> float:
    """log det(2 pi W) / 2."""
    return -float(Gaussian(np.zeros(dim), noise).logpdf(np.zeros(dim)))


def _divergence(step: ReverseStep, dim: int) -> float:
    """KL(N(0, V) || N(0, W))."""
    if step.noise is step.posterior:
        return 0.0
    return kl_divergence(Gaussian(np.zeros(dim), step.posterior), Gaussian(np.zeros(dim), step.noise))
