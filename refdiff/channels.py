r"""Affine Gaussian channels.

A channel sends x to y = A x + b + xi with xi ~ N(0, C), independent of x. Three facts are enough:

    push        N(m, S)            ->  N(A m + b, A S A' + C)
    compose     (A2, b2, C2) o (A1, b1, C1) = (A2 A1, A2 b1 + b2, A2 C1 A2' + C2)
    posterior   N(m, S) given y    ->  N(m + G (y - A m - b), (I - G A) S),  G = S A' (A S A' + C)^-1

Mixtures and point sets push and condition component by component. The forward process, the DDPM posterior,
Tweedie's denoiser, linear inverse problems are all one of these. Sources: DMI-10, PODB-07, RDX-05, PHY-25.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, points, real_array
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.distributions.mixture import Gaussian, GaussianMixture, posterior_means
from refdiff.distributions.moments import Field, average, cross, cross_trace, gather, twice
from refdiff.operators import Operator


@dataclass(frozen=True, eq=False)
class Channel:
    """The map y = A x + b + N(0, C).

    Args:
        gain: A, a scalar, a (d,) diagonal or a (k, d) matrix.
        offset: b, a scalar or shape (k,).
        noise: C, a variance, (k,) variances or a (k, k) covariance.

    Raises:
        ValueError: noise has a negative eigenvalue, or the shapes do not fit.
    """

    gain: Operator
    offset: Array
    noise: Operator

    def __init__(self, gain: ArrayLike = 1.0, offset: ArrayLike = 0.0, noise: ArrayLike = 0.0) -> None:
        parts = {
            "gain": operators.operator("gain", gain),
            "offset": real_array("offset", offset, ndim=(0, 1)),
            "noise": operators.covariance("noise", noise),
        }
        # A's rows, b's entries and C's rows are all k; a scalar fits any k
        sizes = {name: part.shape[0] for name, part in parts.items() if part.ndim}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"gain, offset and noise must have the same output dimension, got {sizes}")
        for name, part in parts.items():
            object.__setattr__(self, name, part)

    def _outputs(self) -> int | None:
        """k, or None where only scalars were given: such a channel acts on any dimension."""
        return next((len(part) for part in (self.gain, self.offset, self.noise) if part.ndim), None)

    def push(self, law: GaussianMixture) -> GaussianMixture:
        """The law of y when x follows `law`.

        Raises:
            TypeError: the law is none of this library's.

        Examples:
            >>> from refdiff import Channel, Gaussian
            >>> law = Channel(gain=2.0, offset=3.0, noise=1.0).push(Gaussian([1.0], 4.0))  # N(2 + 3, 4 * 4 + 1)
            >>> print(law.mean(), law.cov())
            [5.] [[17.]]
        """
        if not isinstance(law, GaussianMixture):
            raise TypeError(f"law must be a Gaussian, GaussianMixture or Empirical, got {law!r}")
        return law.affine(self.gain, self.offset).convolve(self.noise)

    def compose(self, earlier: Channel) -> Channel:
        """This channel after `earlier`: x -> earlier -> self.

        Raises:
            TypeError: earlier is not a Channel.
            ValueError: its outputs are not this channel's inputs.

        Examples:
            >>> from refdiff import Channel
            >>> both = Channel(2.0, 3.0, 1.0).compose(Channel(0.5, 1.0, 0.25))
            >>> print(both.gain, both.offset, both.noise)  # 2 * 0.5, 2 * 1 + 3, 4 * 0.25 + 1
            1.0 5.0 2.0
        """
        if not isinstance(earlier, Channel):
            raise TypeError(f"earlier must be a Channel, got {earlier!r}")
        inputs, outputs = self.gain.shape[-1] if self.gain.ndim else self._outputs(), earlier._outputs()
        if None not in (inputs, outputs) and inputs != outputs:
            raise ValueError(f"earlier must have {inputs} outputs, got {outputs}")
        inner = earlier.offset if self.gain.ndim < 2 else np.broadcast_to(earlier.offset, self.gain.shape[1])
        return Channel(
            operators.product(self.gain, earlier.gain),
            operators.apply(self.gain, inner) + self.offset,
            operators.add(operators.sandwich(self.gain, earlier.noise), self.noise),
        )

    def posterior(self, law: GaussianMixture, y: ArrayLike) -> GaussianMixture:
        """The law of x given one observation y, shape (k,), when x follows `law`.

        Raises:
            ValueError: y has another dimension, or y has no density (no noise on a singular law).

        Examples:
            >>> from refdiff import Channel, Gaussian
            >>> left = Channel(0.8, 0.0, 0.36).posterior(Gaussian([0.0], 1.0), [1.0])  # N(0.8 y, 1 - 0.8^2)
            >>> print(left.mean().round(6), left.cov().round(6))
            [0.8] [[0.36]]
        """
        rows, _ = points("y", y, self.push(law).dim)
        return law.observe(self.gain, self.offset, self.noise, rows)

    def posterior_mean(self, law: GaussianMixture, y: ArrayLike) -> Any:
        """E[x | y] for y of shape (..., k), shape (..., d): sum_k r_k(y) E[x | y, component k]."""
        return self._condition(law, y, lambda r, means: average(r, means, law.dim))

    def posterior_cov(self, law: GaussianMixture, y: ArrayLike) -> Any:
        """Cov[x | y] for y of shape (..., k), shape (..., d, d): spread within the components plus between them."""
        left = law.covariances.after(self.gain, self.noise, law.dim)
        return self._condition(law, y, lambda r, means: left.average(r, law.dim) + cross(r, twice(means), law.dim))

    def posterior_variance(self, law: GaussianMixture, y: ArrayLike) -> Any:
        """tr Cov[x | y], shape (...): the Bayes mean squared error at y, without forming a matrix."""
        left = law.covariances.after(self.gain, self.noise, law.dim)
        return self._condition(
            law, y, lambda r, means: left.average_trace(r, law.dim) + cross_trace(r, twice(means), law.dim)
        )

    def _condition(self, law: GaussianMixture, y: ArrayLike, moment: Callable[[Array, Field], Array]) -> Array:
        """A posterior moment, from responsibilities and the field of posterior means, a part of y at a time."""
        pushed = self._observed(law)
        rows, restore = points("y", y, pushed.dim)
        parts = pushed.parts(rows)
        return restore(
            gather(moment(pushed.posterior_weights(p), posterior_means(law, pushed, self.gain, p)) for p in parts)
        )

    def reverse(self, law: GaussianMixture) -> Channel:
        """The channel y -> x of Bayes' rule when x follows the Gaussian `law`: x = G y + (m - G (A m + b)) + N(0, V).

        Raises:
            TypeError: law is not a Gaussian (the reverse of a mixture is not an affine channel).

        Examples:
            >>> from refdiff import Channel, Gaussian
            >>> back = Channel(0.8, 0.0, 0.36).reverse(Gaussian([0.0], 1.0))  # stationary: the same both ways
            >>> print(back.gain.round(6), back.noise.round(6))
            0.8 0.36
        """
        if not isinstance(law, Gaussian):
            raise TypeError(f"law must be a Gaussian, got {law!r}")
        pushed = self._observed(law)
        gain = law.covariances.gain(self.gain, pushed.covariances, law.dim).operator()
        left = law.covariances.after(self.gain, self.noise, law.dim)
        return Channel(gain, law.means[0] - operators.apply(gain, pushed.means[0]), left.operator())

    def logpdf(self, y: ArrayLike, x: ArrayLike) -> Any:
        """log p(y | x) = log N(y; A x + b, C) for x (..., d) and y (..., k), paired by broadcasting."""
        where = real_array("x", x)
        if where.ndim == 0:
            raise ValueError("x must have shape (..., d), got one number")
        mean = self._mean(where)
        rows, _ = points("y", y, mean.shape[-1])
        return Gaussian(np.zeros(mean.shape[-1]), self.noise).logpdf(rows.reshape(np.shape(y)) - mean)

    def at(self, x: ArrayLike) -> Gaussian:
        """The law N(A x + b, C) of y given one x of shape (d,)."""
        point = real_array("x", x, ndim=(1,))
        return Gaussian(self._mean(point), self.noise)

    def sample(self, x: ArrayLike, seed: int | np.random.Generator) -> Array:
        """One draw of y for each x of shape (n, d), shape (n, k)."""
        where = real_array("x", x, ndim=(2,))
        mean = self._mean(where)
        return mean + Gaussian(np.zeros(mean.shape[1]), self.noise).sample(len(mean), generator(seed))

    def _mean(self, x: Array) -> Array:
        """A x + b, after a check that the parts act on x."""
        operators.fits("gain", self.gain, x.shape[-1])
        height = operators.rows(self.gain, x.shape[-1])
        operators.fits("offset", self.offset, height)
        operators.fits("noise", self.noise, height)
        return operators.apply(self.gain, x) + self.offset

    def _observed(self, law: GaussianMixture) -> GaussianMixture:
        """The law of y, refused where it has no density to condition on."""
        pushed = self.push(law)
        if pushed.covariances.singular:
            raise ValueError(NO_DENSITY.format(what="the law of y"))
        return pushed
