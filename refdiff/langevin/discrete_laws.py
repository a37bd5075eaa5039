r"""The exact law that a Langevin scheme keeps on Gaussian data, for every step at which it keeps one.

A step is y <- m + (I + D)(y - m) + N(0, C) then, with y = x or y = (x, p). Its stationary covariance solves

    P = (I + D) P (I + D)' + C      <=>      W^-1 D P + P D' W^-T = -W^-1 C W^-T,   W = I + D / 2

The second form is Lyapunov's equation in continuous time, and nothing in it cancels where the step is small and both D
and C are O(h). With K = S^-1 the precision of the data:

    unadjusted Langevin       P = (K - h K M K / 2)^-1 for Q = 0;  stable for h < min 2 Re mu / |mu|^2, mu of (M + Q) K
    BAOAB, ABOBA              Cov x = S: no error at all in the positions;  Cov p = M - h^2 K / 4 for BAOAB
    OBABO                     Cov x = (K - h^2 K M^-1 K / 4)^-1,  Cov p = M

The last three hold for every friction, stable for h < 2 / sqrt(max eig M^-1 K). Sources: PODA-306, PODA-317, RDX-41;
Leimkuhler and Matthews 2013.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture, kl_divergence, wasserstein
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.dynamics.equilibrium import stationary_covariance
from refdiff.langevin.kinetic import Kinetics, letters
from refdiff.langevin.preconditioner import Preconditioner, constant, preconditioner_of

UNSTABLE = "step must make all distances shrink to keep a law, got one with a spectral radius of {radius:.6g}"
MOST_STEPS = 2**40


@dataclass(frozen=True, eq=False)
class AffineStep:
    """A step y <- m + (I + D)(y - m) + N(0, C) of a scheme on Gaussian data.

    Args:
        centre: m, shape (k,).
        deviation: D, shape (k, k): what the step adds.
        noise: C, shape (k, k).
        target: the law that the scheme is for, of the first d coordinates, the positions.
    """

    centre: Array
    deviation: Array
    noise: Array
    target: Gaussian

    @property
    def channel(self) -> Channel:
        """The step as a channel."""
        gain = np.eye(len(self.centre)) + self.deviation
        return Channel(gain, -self.deviation @ self.centre, self.noise)

    @cached_property
    def spectral_radius(self) -> float:
        """The largest |1 + eigenvalue of D|: what is left of a distance after one step of many."""
        return float(np.abs(1 + np.linalg.eigvals(self.deviation)).max())

    def then(self, other: AffineStep) -> AffineStep:
        """This step and the `other` one after it."""
        d = self.deviation + other.deviation + other.deviation @ self.deviation
        moved = self.noise + other.deviation @ self.noise
        noise = moved + moved @ other.deviation.T + other.noise
        return AffineStep(self.centre, d, (noise + noise.T) / 2, self.target)

    def power(self, steps: int) -> AffineStep:
        """So many `steps`, by squaring."""
        count = whole_number("steps", steps)
        found = AffineStep(self.centre, 0 * self.deviation, 0 * self.noise, self.target)
        square = self
        while count:
            found = found.then(square) if count & 1 else found
            count >>= 1
            square = square.then(square) if count else square
        return found

    @cached_property
    def stationary(self) -> Gaussian:
        """The law that the step keeps, on all coordinates.

        Raises:
            ValueError: the step is not stable, or turns for ever where there is no friction, and keeps none.
        """
        problem = UNSTABLE.format(radius=self.spectral_radius)
        if not self.spectral_radius < 1:
            raise ValueError(problem)
        w = np.eye(len(self.centre)) + self.deviation / 2
        drift = np.linalg.solve(w, self.deviation)
        noise = np.linalg.solve(w, np.linalg.solve(w, self.noise).T)
        try:
            found = stationary_covariance(drift, (noise + noise.T) / 2)
        except ValueError:  # a radius of 1 up to rounding
            raise ValueError(problem) from None
        return Gaussian(self.centre, found)

    @cached_property
    def positions(self) -> Gaussian:
        """The law that the step keeps, of the positions."""
        return self._positions(self.stationary)

    @property
    def wasserstein(self) -> float:
        """The 2-Wasserstein distance of the positions' stationary law to the target."""
        return wasserstein(self.positions, self.target)

    @property
    def kl(self) -> float:
        """KL(stationary law of the positions || target), in nats."""
        return kl_divergence(self.positions, self.target)

    def after(self, steps: int, start: GaussianMixture) -> GaussianMixture:
        """The law after so many `steps` from the law `start`, on all coordinates.

        Raises:
            ValueError: the start is on the positions alone, or on another dimension.
        """
        if start.dim != len(self.centre):
            raise ValueError(f"start must be a law on all {len(self.centre)} coordinates of the step, got {start.dim}")
        return self.power(steps).channel.push(start)

    def steps_to(self, distance: float, start: GaussianMixture) -> int:
        """The least number of steps after which the positions are within a W2 `distance` of the target.

        The distance falls with the steps once a chain has forgotten its start: the least number is found by doubling
        and halving, which takes for granted that it does so all along.

        Args:
            distance: > 0, above the bias of the stationary law.
            start: a Gaussian on all coordinates.

        Raises:
            TypeError: the start is no Gaussian.
            ValueError: the bias alone is as large, or 2^40 steps do not do.
        """
        if not isinstance(start, Gaussian):
            raise TypeError(f"start must be a Gaussian, whose distances have a closed form, got {start!r}")
        goal = real_scalar("distance", distance, low=0, open_low=True)
        if self.wasserstein >= goal:
            raise ValueError(f"distance must be above the stationary law's {self.wasserstein:.6g}, got {goal}")

        def there(count: int) -> bool:
            return wasserstein(self._positions(self.after(count, start)), self.target) <= goal

        if there(0):
            return 0
        low, high = 0, 1
        while not there(high):
            low, high = high, 2 * high
            if high > MOST_STEPS:
                raise ValueError(f"distance must be reached within {MOST_STEPS} steps, got {goal}")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if there(middle) else (middle, high)
        return high

    def _positions(self, law: GaussianMixture) -> Gaussian:
        found = law.marginal(np.arange(self.target.dim))
        assert isinstance(found, Gaussian)  # of a Gaussian
        return found


def unadjusted_step(
    gaussian: GaussianMixture, step_size: float, preconditioner: Preconditioner | ArrayLike = 1.0
) -> AffineStep:
    """One step of the unadjusted Langevin algorithm for a Gaussian target.

    Args:
        gaussian: N(m, S) with a density.
        step_size: h > 0.
        preconditioner: a constant Preconditioner, or M: a number, (d,) or (d, d).

    Raises:
        TypeError: no Gaussian.
        ValueError: S is singular, or the preconditioner does not fit.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.langevin import unadjusted_step
        >>> step = unadjusted_step(Gaussian([0.0], 1.0), 0.5)  # x <- x / 2 + N(0, 1): keeps the variance 1 / (1 - 1/4)
        >>> print(step.stationary.cov().round(6))
        [[1.333333]]
    """
    law, h = _gaussian(gaussian), real_scalar("step_size", step_size, low=0, open_low=True)
    moved, matrix = _pulled(law, preconditioner)
    return AffineStep(law.mean(), -h * moved, 2 * h * operators.dense(matrix, law.dim), law)


def largest_unadjusted_step(gaussian: GaussianMixture, preconditioner: Preconditioner | ArrayLike = 1.0) -> float:
    """The step size below which the unadjusted Langevin algorithm is stable on a Gaussian target.

    Args:
        gaussian: N(m, S) with a density.
        preconditioner: a constant Preconditioner, or M: a number, (d,) or (d, d).

    Returns:
        min 2 Re mu / |mu|^2 over the eigenvalues mu of (M + Q) S^-1; 0 where one has no positive real part.

    Raises:
        TypeError: no Gaussian.
        ValueError: S is singular, or the preconditioner does not fit.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.langevin import largest_unadjusted_step
        >>> law = Gaussian([0.0, 0.0], [1.0, 0.01])
        >>> print(round(float(largest_unadjusted_step(law)), 6))  # twice the least variance
        0.02
    """
    law = _gaussian(gaussian)
    mu = np.linalg.eigvals(_pulled(law, preconditioner)[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = np.where(mu.real > 0, 2 * mu.real / np.abs(mu) ** 2, 0.0)
    return float(limits.min())


def kinetic_step(
    gaussian: GaussianMixture, step_size: float, scheme: str = "BAOAB", kinetics: Kinetics | None = None
) -> AffineStep:
    """One step of an underdamped scheme for a Gaussian target, on positions and momenta.

    Args:
        gaussian: N(m, S) with a density.
        step_size: h > 0.
        scheme: a word as of `underdamped_langevin`.
        kinetics: mass and friction, 1 and 1 where left out.

    Raises:
        TypeError: no Gaussian.
        ValueError: S is singular, the scheme is none, or the kinetics do not fit.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.langevin import kinetic_step
        >>> law = Gaussian([0.0], 1.0)  # BAOAB keeps the positions of Gaussian data, OBABO does not
        >>> print([kinetic_step(law, 0.5, word).wasserstein < 1e-12 for word in ("BAOAB", "OBABO")])
        [True, False]
    """
    law, h = _gaussian(gaussian), real_scalar("step_size", step_size, low=0, open_low=True)
    by = (kinetics or Kinetics()).fits(law.dim)
    precision = operators.dense(operators.inverse(law.covariance), law.dim)
    parts = {place: _flow(by, place[0], place[1] * h, precision) for place in set(letters(scheme))}
    centre = np.concatenate([law.mean(), np.zeros(law.dim)])
    steps = (AffineStep(centre, *parts[place], law) for place in letters(scheme))
    return reduce(lambda one, other: one.then(other), steps)


def largest_step(step: Callable[[float], AffineStep], start: float = 1e-3) -> float:
    """The step size up to which a scheme is stable, to eight digits.

    Args:
        step: h -> the step, as `lambda h: kinetic_step(law, h)`.
        start: a step size that is stable; from it on they are doubled, and the last interval is halved.

    Raises:
        ValueError: the start is not stable, or all step sizes up to 2^60 times it are.
    """
    low = real_scalar("start", start, low=0, open_low=True)
    if not step(low).spectral_radius < 1:
        raise ValueError(f"start must be a stable step size, got {low}")
    high, tries = 2 * low, 0
    while step(high).spectral_radius < 1:
        low, high, tries = high, 2 * high, tries + 1
        if tries > 60:
            raise ValueError("step must have a largest stable size, got one that is stable at all sizes")
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if step(middle).spectral_radius < 1 else (low, middle)
    return low


def _flow(by: Kinetics, letter: str, h: float, precision: Array) -> tuple[Array, Array]:
    """D and C of one flow over h, shape (2d, 2d), where the force is -precision (x - m)."""
    dim = len(precision)
    deviation, noise = np.zeros((2, 2 * dim, 2 * dim))
    at_x, at_p = slice(0, dim), slice(dim, 2 * dim)

    def dense(a: Array) -> Array:
        return operators.dense(a, dim)

    if letter == "A":
        deviation[at_x, at_p] = h * dense(by.inverse)
    elif letter == "B":
        deviation[at_p, at_x] = -h * precision
    elif letter == "O":
        decay, spread = (dense(part) for part in by.ornstein_uhlenbeck(h))
        deviation[at_p, at_p], noise[at_p, at_p] = decay - np.eye(dim), spread @ spread.T
    else:
        f = by.flight(h)
        deviation[at_x, at_p], deviation[at_p, at_p] = dense(f.drift), dense(f.decay) - np.eye(dim)
        if letter == "E":
            deviation[at_x, at_x], deviation[at_p, at_x] = -dense(f.far) @ precision, -dense(f.near) @ precision
        cross, apart, spread = dense(f.cross), dense(f.apart), dense(f.spread)
        noise[at_x, at_x], noise[at_p, at_p] = cross @ cross.T + apart @ apart.T, spread @ spread.T
        noise[at_x, at_p] = cross @ spread.T
        noise[at_p, at_x] = noise[at_x, at_p].T
    return deviation, noise


def _pulled(law: Gaussian, preconditioner: Preconditioner | ArrayLike) -> tuple[Array, Array]:
    """(M + Q) S^-1 as a matrix, and M."""
    matrix, skew = constant(preconditioner_of(preconditioner, law.dim))
    moving = operators.dense(matrix, law.dim) + operators.dense(skew, law.dim)
    return operators.product(moving, operators.dense(operators.inverse(law.covariance), law.dim)), matrix


def _gaussian(law: GaussianMixture) -> Gaussian:
    if not isinstance(law, Gaussian):
        raise TypeError(f"gaussian must be a Gaussian, got {law!r}")
    if law.covariances.singular:
        raise ValueError(NO_DENSITY.format(what="the target"))
    return law
