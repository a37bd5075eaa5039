r"""What a perfect network would answer, for data with a closed form.

With x_t = alpha x_0 + b + sigma eps, the exact posterior of x_0 and the exact density p_t of x_t:

    denoiser     D = E[x_0 | x_t]                      by Bayes, component by component
    score        s = grad log p_t(x_t)                 by differentiating the log density of the pushed law
    noise        E[eps | x_t] = -sigma s
    velocity     E[alpha' x_0 + b' + sigma' eps | x_t] = alpha' D + b' - (sigma^2)' s / 2   (the probability-flow drift)
    v            E[alpha eps - sigma x_0 | x_t] = -alpha sigma s - sigma D           (Salimans and Ho)

Of a matrix process x_t = A x_0 + b + R eps the noise is -R' s and the velocity A' D + b' - S s, S + S' = C' (`Motion`).
The two routes, Bayes and log density, never call each other: Tweedie's formula compares them. No answer divides by
alpha or sigma, so both ends of time are ordinary points wherever p_t has a density; the velocity is written with
(sigma^2)', which stays finite where sigma' does not. Sources: PODB-54..57, PODC9-08, DMI-28, TOPA-67, RDX-08, RDX-23.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, one_of, points, real_array, single_precision
from refdiff.backends import numba_pays, on_device
from refdiff.distributions.mixture import GaussianMixture, posterior_means
from refdiff.distributions.moments import cross, gather
from refdiff.moving import Moving
from refdiff.predictions import PREDICTIONS
from refdiff.processes.affine import AffineProcess
from refdiff.processes.motion import Process
from refdiff.schedules import Schedule

Method = Callable[["ExactModel", ArrayLike, float], Any]


def _or_compiled(question: str, prediction: str) -> Callable[[Method], Method]:
    """A method whose answer kernels give where `backends` says so, and always for x on a GPU.

    The question is a prediction, its jacobian or its divergence, or the log density.
    """

    def decorated(method: Method) -> Method:
        @wraps(method)
        def answer(self: ExactModel, x: ArrayLike, t: float) -> Any:
            if on_device(x):
                return self._on_device(question, prediction, x, t)
            rows, restore = points("x", x, self.dim)
            axes = self.dim * (self.dim if question == "jacobian" else 1)
            process = self.process
            if isinstance(process, AffineProcess) and numba_pays(len(rows), self.distribution.count, axes):
                from refdiff import compiled  # late: Numba takes a third of a second to import

                when = compiled.at(process.coefficients(t), prediction)
                if compiled.applies(self.distribution, when):
                    found = getattr(compiled, question)(self.distribution, self._from_centre(rows, t), when)
                    if (question, prediction) == ("prediction", "velocity"):
                        found += process.offset(t).rate
                    return restore(found)
            return method(self, x, t)

        return answer

    return decorated


@dataclass(frozen=True, eq=False)
class ExactModel:
    """The exact predictions for data from `distribution` noised by `process`.

    Points x have shape (..., d) and results follow their leading shape (float32 in, float32 out); t is one time.
    Predictions, log densities and divergences of points that are CuPy's are computed on their GPU, in their precision.

    Args:
        distribution: the law of x_0.
        process: a Process (AffineProcess, LinearProcess, PrincipalAxes), or a Schedule, which is taken as the scalar
            process with it.

    Raises:
        TypeError: not a distribution, or not a process.
        ValueError: a process on another number of axes than the data.

    Examples:
        >>> from refdiff import ExactModel, FlowMatching, Gaussian
        >>> model = ExactModel(Gaussian([0.0], 1.0), FlowMatching())  # x_t ~ N(0, (1 - t)^2 + t^2)
        >>> print(model.denoiser([1.0], 0.5), model.noise([1.0], 0.5), model.velocity([1.0], 0.25))
        [1.] [1.] [-0.8]
        >>> print(model.posterior_covariance([1.0], 0.5))  # half of the variance 1 is known
        [[0.5]]
    """

    distribution: GaussianMixture
    process: Process

    def __init__(self, distribution: GaussianMixture, process: Process | Schedule) -> None:
        if not isinstance(distribution, GaussianMixture):
            raise TypeError(f"distribution must be a Gaussian, GaussianMixture or Empirical, got {distribution!r}")
        if isinstance(process, Schedule):
            process = AffineProcess(process)
        if not isinstance(process, Process):
            raise TypeError(f"process must be a Process or a Schedule, got {process!r}")
        if process.axes not in (None, distribution.dim):
            raise ValueError(f"process must have {distribution.dim} axes like the data, got {process.axes}")
        shapes = [part.shape for part in process.offset(process.T)]
        if not {(), (distribution.dim,)}.issuperset(shapes):
            raise ValueError(f"process must have an offset of {distribution.dim} axes like the data, got {shapes}")
        object.__setattr__(self, "distribution", distribution)
        object.__setattr__(self, "process", process)

    @property
    def dim(self) -> int:
        """d, the dimension of the data."""
        return self.distribution.dim

    @property
    def affine(self) -> AffineProcess:
        """The process, where it has one alpha and sigma or one for each axis.

        Raises:
            ValueError: it has matrices in their place.
        """
        if not isinstance(self.process, AffineProcess):
            raise ValueError("process must be an AffineProcess here, with one alpha and sigma or one for each axis, "
                             f"got {self.process!r}")  # fmt: skip
        return self.process

    @property
    def centred(self) -> ExactModel:
        """The model of x - b_t: the same data under the process without its offset."""
        process = self.process.centred
        return self if process is self.process else ExactModel(self.distribution, process)

    def _from_centre(self, rows: Array, t: float) -> Array:
        """x - b_t of rows (n, d), which are not copied where there is no offset."""
        return rows if self.process is self.process.centred else rows - self.process.offset(t).value

    def _on_device(self, question: str, prediction: str, x: Any, t: float) -> Any:
        """What `_or_compiled` asks, for points x of CuPy: an array of CuPy."""
        from refdiff import compiled, cuda  # late: Numba takes a third of a second to import

        when, offset = compiled.at(self.affine.coefficients(t), prediction), self.process.offset(t)
        rate = offset.rate if (question, prediction) == ("prediction", "velocity") else 0.0
        return cuda.ask(question, self.distribution, x, when, offset.value, rate)

    # ------------------------------------------------------------------ laws

    def marginal(self, t: float) -> GaussianMixture:
        """p_t, the law of x_t."""
        return self.process.kernel(t).push(self.distribution)

    def posterior(self, x: ArrayLike, t: float) -> GaussianMixture:
        """The law of x_0 given one x_t = x, shape (d,)."""
        points("x", x, self.dim)
        return self.process.kernel(t).posterior(self.distribution, x)

    def sample(self, n: int, t: float, seed: int | np.random.Generator) -> Array:
        """`n` draws of x_t, shape (n, d)."""
        return self.marginal(t).sample(n, seed)

    # ------------------------------------------------------------------ predictions

    @_or_compiled("log_density", "score")
    def log_density(self, x: ArrayLike, t: float) -> Any:
        """log p_t(x), shape (...)."""
        return self.marginal(t).logpdf(x)

    @_or_compiled("prediction", "score")
    def score(self, x: ArrayLike, t: float) -> Any:
        """grad log p_t(x), shape (..., d)."""
        return self.marginal(t).score(x)

    @_or_compiled("prediction", "denoiser")
    def denoiser(self, x: ArrayLike, t: float) -> Any:
        """E[x_0 | x_t = x], shape (..., d), by Bayes' rule.

        Examples:
            >>> from refdiff import Empirical, ExactModel, VEPower
            >>> model = ExactModel(Empirical([[-1.0], [1.0]]), VEPower())
            >>> print(model.denoiser([[0.5]], 0.7).round(6))  # tanh(x / sigma^2)
            [[0.770033]]
        """
        return self.process.kernel(t).posterior_mean(self.distribution, x)

    @_or_compiled("prediction", "noise")
    def noise(self, x: ArrayLike, t: float) -> Any:
        """E[eps | x_t = x] = -R' score, R = sigma of a scalar process, shape (..., d)."""
        return _like(x, -operators.apply(self.process.motion(t).root.T, self.score(_double(x), t)))

    @_or_compiled("prediction", "velocity")
    def velocity(self, x: ArrayLike, t: float) -> Any:
        """The probability-flow velocity E[dx_t/dt | x_t = x] = A' D + b' - S score, shape (..., d)."""
        m, x64 = self.process.motion(t), _double(x)
        carried = operators.apply(m.dgain, self.denoiser(x64, t)) + m.offset.rate
        return _like(x, carried - operators.apply(m.spread, self.score(x64, t)))

    @_or_compiled("prediction", "v_prediction")
    def v_prediction(self, x: ArrayLike, t: float) -> Any:
        """E[alpha eps - sigma x_0 | x_t = x], shape (..., d): the v of Salimans and Ho.

        Raises:
            ValueError: a process without an alpha and a sigma.
        """
        c = self.affine.coefficients(t)
        return _like(x, -c.sigma * (c.alpha * self.score(_double(x), t) + self.denoiser(_double(x), t)))

    def predict(self, x: ArrayLike, t: float, prediction: str) -> Any:
        """The prediction of this name: denoiser, noise, score, velocity or v_prediction."""
        one_of("prediction", prediction, PREDICTIONS)
        return getattr(self, prediction)(x, t)

    # ------------------------------------------------------------------ second order

    def posterior_covariance(self, x: ArrayLike, t: float) -> Any:
        """Cov[x_0 | x_t = x], shape (..., d, d), by Bayes' rule."""
        points("x", x, self.dim)
        return self.process.kernel(t).posterior_cov(self.distribution, x)

    def covariance_times(self, x: ArrayLike, vectors: ArrayLike, t: float) -> Any:
        """Cov[x_0 | x_t = x] u for x and vectors u of one shape (..., d), shape (..., d)."""
        rows, restore = points("x", x, self.dim)
        u, _ = points("vectors", vectors, self.dim)
        if np.shape(vectors) != np.shape(x):
            raise ValueError(f"vectors must have the shape of x, {np.shape(x)}, got {np.shape(vectors)}")
        process = self.process
        if isinstance(process, AffineProcess) and numba_pays(len(rows), self.distribution.count, self.dim):
            from refdiff import compiled  # late: Numba takes a third of a second to import

            when = compiled.at(process.coefficients(t), "denoiser")
            if compiled.applies(self.distribution, when):
                return restore(compiled.covariance_times(self.distribution, self._from_centre(rows, t), u, when))
        return restore(np.einsum("nij,nj->ni", self.posterior_covariance(rows, t), u))

    @_or_compiled("jacobian", "score")
    def hessian(self, x: ArrayLike, t: float) -> Any:
        """The Hessian of log p_t, shape (..., d, d)."""
        return self.marginal(t).hessian(x)

    @_or_compiled("jacobian", "denoiser")
    def denoiser_jacobian(self, x: ArrayLike, t: float) -> Any:
        """dD/dx, shape (..., d, d): <dmu_k/dx> + Cov_r(mu_k, g_k) with the component denoisers mu_k and gradients g_k.

        Finite at both ends of time, where alpha Cov[x_0 | x] / sigma^2 and (I + sigma^2 H) / alpha are 0/0.
        """
        kernel, law = self.process.kernel(t), self.distribution
        pushed = self.marginal(t)
        gain = law.covariances.gain(kernel.gain, pushed.covariances, self.dim)
        rows, restore = points("x", x, self.dim)

        def one(part: Array) -> Array:
            r, mu = pushed.posterior_weights(part), posterior_means(law, pushed, kernel.gain, part)
            g = pushed.gradients(part)
            return gain.average(r, self.dim) + cross(r, lambda ks: (mu(ks), g(ks)), self.dim)

        return restore(gather(one(part) for part in pushed.parts(rows)))

    def velocity_jacobian(self, x: ArrayLike, t: float) -> Any:
        """dv/dx = A' dD/dx - S H, shape (..., d, d)."""
        m, x64 = self.process.motion(t), _double(x)
        carried = operators.product(m.dgain, self.denoiser_jacobian(x64, t))
        return _like(x, carried - operators.product(m.spread, self.hessian(x64, t)))

    @_or_compiled("divergence", "velocity")
    def velocity_divergence(self, x: ArrayLike, t: float) -> Any:
        """div v, shape (...), without forming a matrix: along the flow, d log p / dt = -div v."""
        rows, restore = points("x", x, self.dim)
        return restore(Moving.under(self.distribution, self.process, t).divergence(rows))

    # ------------------------------------------------------------------ rates in time, at a fixed point

    def log_density_rate(self, x: ArrayLike, t: float) -> Any:
        """d/dt log p_t(x) at fixed x, shape (...): the average of the component rates."""
        rows, restore = points("x", x, self.dim)
        return restore(Moving.under(self.distribution, self.process, t).log_density_rate(rows))

    def velocity_rate(self, x: ArrayLike, t: float) -> Any:
        """dv/dt at fixed x, shape (..., d): <dv_k/dt> + Cov_r(v_k, d log N_k / dt).

        Raises:
            ValueError: the process does not know the rates of its coefficients.
        """
        rows, restore = points("x", x, self.dim)
        return restore(Moving.under(self.distribution, self.process, t).velocity_rate(rows))

    def acceleration(self, x: ArrayLike, t: float) -> Any:
        """The rate of the velocity along the flow, dv/dt + (dv/dx) v, shape (..., d)."""
        x64 = _double(x)
        carried = np.einsum("...ij,...j->...i", self.velocity_jacobian(x64, t), self.velocity(x64, t))
        return _like(x, self.velocity_rate(x64, t) + carried)


def without_offset(model: ExactModel) -> ExactModel:
    """The model, for an algorithm in alpha and sigma alone, whose points are x - b_t.

    Raises:
        ValueError: its process has an offset.
    """
    if model is not model.centred:
        raise ValueError("model must have no offset here: take model.centred, and x - process.offset(t).value for x")
    return model


def _double(x: ArrayLike) -> Array:
    """x in float64, so that intermediate answers are not rounded to the caller's precision."""
    return real_array("x", x)


def _like(x: ArrayLike, result: Any) -> Any:
    """A result in the precision of x."""
    return single_precision(result) if getattr(x, "dtype", None) == np.float32 else result
