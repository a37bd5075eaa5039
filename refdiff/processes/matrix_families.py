r"""Matrix processes that have a name.

    Ornstein-Uhlenbeck            dx = -B (x - m) dt + G dw                    stationary S:  B S + S B' = G G'
    critically damped Langevin    dx = beta v / M dt
                                  dv = -beta (x + Gamma v / M) dt + sqrt(2 Gamma beta) dw,   Gamma^2 = 4 M
    variance-preserving           F = -G G' / 2, any G(t):  C = I - A A'
    paDDIM                        sigma_m / alpha_m = s_m rho(t) along the data's axes, whose deviations are s_m

Langevin's velocities start with a law of their own, `with_velocity`, also all at 0, and the data are `positions` of
what comes back. Its stationary law is N(0, I) in x and N(0, M I) in v. With paDDIM all axes are as hard as each
other: it is the process of `rho`, the same on all axes, for data of covariance I.
Sources: RDX-31, RDX-33, RDX-45, RDX-53, PHY-60; Dockhorn, Vahdat and Kreis 2022 (Langevin).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture, pca
from refdiff.processes.affine import AffineProcess
from refdiff.processes.coefficients import Coefficient
from refdiff.processes.linear_sde import LinearProcess
from refdiff.processes.principal_axes import PrincipalAxes
from refdiff.schedules import Amplified, Schedule, Transformed

# the least eigenvalue of B S + S B', beside its largest, that counts as no noise: rounding of products
NO_NOISE = 1e-12

Rate = Callable[[float], float]


def ornstein_uhlenbeck(
    rate: ArrayLike,
    *,
    noise: ArrayLike | None = None,
    stationary: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    T: float = 1.0,
) -> LinearProcess:
    """The process dx = -B (x - m) dt + G dw, of a noise or of the covariance that it keeps.

    Args:
        rate: B, shape (d, d).
        noise: G, shape (d, m).
        stationary: S with B S + S B' = G G', a variance, variances (d,) or a covariance (d, d); this or `noise`.
        mean: m, shape (d,), 0 unless given.
        T: the final time.

    Raises:
        ValueError: both or neither of noise and stationary, shapes that do not fit each other, or a covariance that no
            noise keeps: B S + S B' has a negative eigenvalue.

    Examples:
        >>> from refdiff.processes import ornstein_uhlenbeck
        >>> process = ornstein_uhlenbeck([[2.0]], stationary=3.0)
        >>> print(process.diffusion(0.0).round(6))  # G G' = B S + S B'
        [[12.]]
    """
    b = real_array("rate", rate, ndim=(2,))
    if b.shape[0] != b.shape[1] or b.size == 0:
        raise ValueError(f"rate must be square, got shape {b.shape}")
    if (noise is None) == (stationary is None):
        raise ValueError("noise or stationary must be given, and not both")
    root = real_array("noise", noise, ndim=(2,)) if noise is not None else _keeping(b, stationary)
    if mean is None:
        return LinearProcess(-b, root, T)
    centre = real_array("mean", mean, ndim=(1,))
    operators.fits("mean", centre, len(b))
    return LinearProcess(-b, root, T, force=b @ centre)


def _keeping(rate: Array, stationary: ArrayLike | None) -> Array:
    """G (d, m) with G G' = B S + S B'."""
    s = operators.covariance("stationary", 0.0 if stationary is None else stationary)
    operators.fits("stationary", s, len(rate))
    flow = rate @ operators.dense(s, len(rate))
    values, axes = np.linalg.eigh(flow + flow.T)
    if values[0] < -NO_NOISE * np.abs(values).max():
        raise ValueError(f"stationary must be kept by some noise: B S + S B' has the eigenvalue {values[0]}")
    kept = values > NO_NOISE * np.abs(values).max()
    if not kept.any():
        return np.zeros((len(rate), 1))
    return np.asarray(axes[:, kept] * np.sqrt(values[kept]))


# ---------------------------------------------------------------------- positions and velocities


def critically_damped_langevin(
    dim: int,
    beta: float | Rate = 4.0,
    *,
    mass: float = 0.25,
    friction: float | None = None,
    beta_rate: Rate | None = None,
    T: float = 1.0,
) -> LinearProcess:
    """Langevin dynamics of d positions and d velocities, the positions first.

    Args:
        dim: d, the dimension of the data.
        beta: the rate of its clock, >= 0, or a function of t.
        mass: M > 0.
        friction: Gamma > 0, critical damping 2 sqrt(M) unless given; less oscillates, more is slower.
        beta_rate: beta'(t), for accelerations where beta is a function.
        T: the final time.

    Raises:
        TypeError: beta_rate is no function.
        ValueError: a parameter out of its range, or beta_rate beside a number.

    Examples:
        >>> from refdiff.processes import critically_damped_langevin
        >>> process = critically_damped_langevin(1, mass=0.25, T=50.0)
        >>> print(process.kernel(50.0).noise.round(6) + 0.0)  # what it forgets its start for: N(0, 1) x N(0, mass)
        [[1.   0.  ]
         [0.   0.25]]
    """
    d, m = whole_number("dim", dim, low=1), real_scalar("mass", mass, low=0, open_low=True)
    gamma = 2 * np.sqrt(m) if friction is None else real_scalar("friction", friction, low=0, open_low=True)
    drift = np.kron(np.array([[0.0, 1 / m], [-1.0, -gamma / m]]), np.eye(d))
    noise = np.kron(np.array([[0.0], [np.sqrt(2 * gamma)]]), np.eye(d))
    if not callable(beta):
        if beta_rate is not None:
            raise ValueError(f"beta_rate must be left out where beta is a number, got beta = {beta!r}")
        rate = real_scalar("beta", beta, low=0)
        return LinearProcess(rate * drift, np.sqrt(rate) * noise, T)
    if beta_rate is not None and not callable(beta_rate):
        raise TypeError(f"beta_rate must be a function of time, got {beta_rate!r}")
    # no closures, which do not pickle
    known = None if beta_rate is None else partial(_langevin_rates, beta_rate, drift, noise)
    return LinearProcess(partial(_at_pace, beta, drift, 1.0), partial(_at_pace, beta, noise, 0.5), T, rates=known)


def _at_pace(beta: Rate, matrix: Array, power: float, t: float) -> Array:
    """beta(t)^power times a matrix."""
    return np.asarray(real_scalar("beta", beta(t), low=0) ** power * matrix)


def _langevin_rates(slope: Rate, drift: Array, noise: Array, t: float) -> tuple[Array, Array, Array]:
    """F', u' and D' of a clock with this slope."""
    return slope(t) * drift, np.zeros(len(drift)), slope(t) * noise @ noise.T


def with_velocity(law: GaussianMixture, variance: float = 0.0) -> GaussianMixture:
    """The law of positions from `law` (d axes) and independent velocities N(0, variance I): 2 d axes.

    Args:
        law: the data.
        variance: of the velocities; 0 starts them all at rest, and keeps a point set one.

    Raises:
        TypeError: the law is none.
        ValueError: a negative variance.
    """
    _check_law(law)
    spread = real_scalar("variance", variance, low=0)
    eye, still = np.eye(law.dim), np.zeros((law.dim, law.dim))
    return Channel(np.vstack([eye, still]), 0.0, np.repeat([0.0, spread], law.dim)).push(law)


def positions(law: GaussianMixture) -> GaussianMixture:
    """The law of the first half of the axes: what is left of `with_velocity` when nobody asks for the velocities.

    Raises:
        TypeError: the law is none: of points (..., 2 d) the positions are x[..., :d].
        ValueError: an odd number of axes.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.processes import positions, with_velocity
        >>> law = with_velocity(Gaussian([1.0], 2.0), variance=0.25)
        >>> print(law.cov().diagonal(), positions(law).mean())
        [2.   0.25] [1.]
    """
    _check_law(law)
    if law.dim % 2:
        raise ValueError(f"law must have positions and velocities, as many of each, got {law.dim} axes")
    return law.affine(np.eye(law.dim // 2, law.dim))


def _check_law(law: GaussianMixture) -> None:
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a GaussianMixture, got {type(law).__name__}")


# ---------------------------------------------------------------------- noise that says the drift; the axes of data


def variance_preserving(noise: Coefficient, T: float = 1.0, *, noise_rate: Coefficient | None = None) -> LinearProcess:
    """The process with F = -G G' / 2, which keeps N(0, I), whether G(t) commutes in time or not.

    Args:
        noise: G, a (d, m) matrix or a function of t.
        T: the final time.
        noise_rate: t -> G'(t), shape (d, m), for accelerations where G is a function.

    Raises:
        TypeError: noise_rate is no function.
        ValueError: shapes that do not fit, numbers that are not finite, or noise_rate beside a matrix.

    Examples:
        >>> import numpy as np
        >>> from refdiff import Gaussian
        >>> from refdiff.processes import variance_preserving
        >>> process = variance_preserving([[1.0, 0.0], [2.0, 1.0]])
        >>> np.allclose(process.kernel(0.7).push(Gaussian([0.0, 0.0], 1.0)).cov(), np.eye(2))
        True
    """
    if not callable(noise):
        if noise_rate is not None:
            raise ValueError("noise_rate must be left out where noise is a matrix")
        g = real_array("noise", noise, ndim=(2,))
        return LinearProcess(-g @ g.T / 2, g, T)
    if noise_rate is not None and not callable(noise_rate):
        raise TypeError(f"noise_rate must be a function of time, got {noise_rate!r}")
    known = None if noise_rate is None else partial(_preserving_rates, noise, noise_rate)
    return LinearProcess(partial(_preserving_drift, noise), noise, T, rates=known)


def _preserving_drift(noise: Callable[[float], ArrayLike], t: float) -> Array:
    """-G G' / 2."""
    g = real_array("noise", noise(t), ndim=(2,))
    return np.asarray(-g @ g.T / 2)


def _preserving_rates(
    noise: Callable[[float], ArrayLike], slope: Callable[[float], ArrayLike], t: float
) -> tuple[Array, Array, Array]:
    """F', u' and D' of a noise with this slope."""
    half = real_array("noise_rate", slope(t), ndim=(2,)) @ real_array("noise", noise(t), ndim=(2,)).T
    return -(half + half.T) / 2, np.zeros(len(half)), half + half.T


def data_axes(law: GaussianMixture, schedule: Schedule, *, preserving: bool = False) -> PrincipalAxes:
    """Noise along the principal axes of `law`, on each in units of its own standard deviation s_m.

    Args:
        law: the data, with d axes.
        schedule: alpha and sigma of data of covariance I, rho = sigma / alpha.
        preserving: scale every axis to alpha_m^2 + sigma_m^2 = 1; else alpha_m = alpha and sigma_m = s_m sigma.

    Raises:
        TypeError: what is no schedule.
        ValueError: data that do not vary along every axis: `pca(law, count).project(law)` has those that they do.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be a Schedule, got {schedule!r}")
    found = pca(law)
    # variances of directions that the data lack are rounding of the largest
    if found.variances[-1] <= law.dim * np.finfo(float).eps * found.variances[0]:
        raise ValueError(f"law must vary along every axis, got the variances {found.variances}")
    scaled: list[Schedule] = [Amplified(schedule, float(std)) for std in np.sqrt(found.variances)]
    return PrincipalAxes(AffineProcess([_unit(one) for one in scaled] if preserving else scaled), found.axes)


def _unit(schedule: Schedule) -> Schedule:
    """The schedule scaled to alpha^2 + sigma^2 = 1."""

    def clock(t: Array) -> tuple[Array, Array, Array]:
        return t, np.ones_like(t), np.zeros_like(t)

    def scale(t: Array) -> tuple[Array, Array, Array]:
        c = schedule.coefficients(t)
        total, slope = c.alpha**2 + c.sigma**2, 2 * c.alpha * c.dalpha + c.dvariance
        bend = 2 * (c.dalpha**2 + c.alpha * c.d2alpha) + c.d2variance
        size = total**-0.5
        return size, -size * slope / (2 * total), size * (0.75 * (slope / total) ** 2 - bend / (2 * total))

    return Transformed(schedule, clock, scale, schedule.T)
