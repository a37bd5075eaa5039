r"""Discrete linear Gaussian chains: x_i = A_i x_{i-1} + b_i + N(0, C_i), i = 1..N.

    x_j | x_i          composed links, whose noises add up as terms that are not negative         `channel(i, j)`
    x_i | x_j, x_h     x_i = P x_j + Q x_h + c + N(0, V), Bayes' rule from any x_h, h <= i <= j     `bridge(i, j, h)`
                       with (G, N) from i to j, (A, C) from h to i:  P = C G' (G C G' + N)^-1,  Q = (I - P G) A
    Cov(x_i, x_j)      Cov(x_i) G',  given x_0 or for any Cov(x_0)                                   `covariance(i, j)`
    all x_i together   one Gaussian, whose precision is block tridiagonal: x_{i-1}, x_{i+1} are independent given x_i
    x_i | x_j          again a channel if x_0 is Gaussian, a mixture if it is one              `reverse`, `posterior`
    S = A S A' + C     the law that the links keep; Cov(x_i) - S = G (Cov(x_0) - S) G' is what is left of the data

Links are channels, so A_i and C_i are scalars, diagonals or matrices, and a chain of scalars acts on any dimension.
Su's chain is x_t = alpha_t x_{t-1} + beta_t eps: alpha^2 + beta^2 = 1 is what makes variance 1 its stationary one, and
then the noise of x_t given x_0 is 1 - (alpha_1 .. alpha_t)^2; nothing else needs it. Noh and Lee's chain is
x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(scale^2 beta_t) eps. With scale 1 it is that of a `BetaTable`, which has its
products in closed form and times between the indices: a schedule for models and samplers, where a chain is for what
is said about several x_i at once. Sources: PHY-10, PHY-11, PHY-21..26, PHY-51, PHY-60, TOPA-02, TOPA-18, TOPA-24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, generator, real_array, real_scalar, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.covariances import NO_DENSITY, Dense
from refdiff.operators import Operator
from refdiff.processes.bridge import Bridge, dimension
from refdiff.processes.motion import Process
from refdiff.processes.stationary import Moments, common


class Tridiagonal(NamedTuple):
    """A symmetric block tridiagonal matrix: blocks `diagonal` (n, d, d), and `below` it (n - 1, d, d)."""

    diagonal: Array
    below: Array

    def dense(self) -> Array:
        """The matrix (n d, n d)."""
        n, d, _ = self.diagonal.shape
        blocks, row = np.zeros((n, n, d, d)), np.arange(n - 1)
        blocks[np.arange(n), np.arange(n)] = self.diagonal
        blocks[row + 1, row], blocks[row, row + 1] = self.below, np.swapaxes(self.below, 1, 2)
        return _flat(blocks)


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain of links, each a channel from x_{i-1} to x_i.

    Args:
        links: N channels, at least one, that act on one dimension; scalars act on any.

    Raises:
        TypeError: a link is no Channel.
        ValueError: there is none, one is not square, or two act on different dimensions.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.processes import Chain
        >>> chain = Chain.noh_lee([0.36, 0.36])  # x_i = 0.8 x_{i-1} + 0.6 eps
        >>> print(chain.kernel(2).gain.round(6), chain.kernel(2).noise.round(6))  # 0.64, 1 - 0.64^2
        0.64 0.5904
        >>> print(chain.joint(Gaussian([0.0], 1.0)).cov().round(6))  # correlations 0.8^|i - j|
        [[1.   0.8  0.64]
         [0.8  1.   0.8 ]
         [0.64 0.8  1.  ]]
    """

    links: tuple[Channel, ...]

    def __init__(self, links: Sequence[Channel]) -> None:
        found = tuple(links)
        if not found:
            raise ValueError("links must not be empty")
        for link in found:
            if not isinstance(link, Channel):
                raise TypeError(f"links must be Channel objects, got {link!r}")
        dimension("links", found)
        object.__setattr__(self, "links", found)

    # ------------------------------------------------------------------ made from numbers, or from a process

    @staticmethod
    def su(alphas: ArrayLike, betas: ArrayLike) -> Chain:
        """Su's chain x_t = alpha_t x_{t-1} + beta_t eps: `alphas`, and standard deviations `betas`, (N,) or (N, d).

        Raises:
            ValueError: they have different shapes, or a beta is negative.
        """
        gains, stds = (real_array(n, v, ndim=(1, 2)) for n, v in (("alphas", alphas), ("betas", betas)))
        if gains.shape != stds.shape:
            raise ValueError(f"betas must have the shape of alphas, {gains.shape}, got {stds.shape}")
        if (stds < 0).any():
            raise ValueError(f"betas must not be negative, got {stds.min()}")
        return Chain([Channel(gain, 0.0, std**2) for gain, std in zip(gains, stds, strict=True)])

    @staticmethod
    def noh_lee(betas: ArrayLike, scale: float = 1.0) -> Chain:
        """Noh and Lee's chain x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(scale^2 beta_t) eps.

        Args:
            betas: beta_1..beta_N, shape (N,), in [0, 1].
            scale: the standard deviation that the chain tends to.

        Raises:
            ValueError: a beta lies elsewhere, or scale is not positive.
        """
        table, scale = real_array("betas", betas, ndim=(1,)), real_scalar("scale", scale, low=0, open_low=True)
        if ((table < 0) | (table > 1)).any():
            raise ValueError(f"betas must lie in [0, 1], got {table}")
        return Chain([Channel(np.sqrt(1 - beta), 0.0, scale**2 * beta) for beta in table])

    @staticmethod
    def of(process: Process, times: ArrayLike, *, from_data: bool = False) -> Chain:
        """A process at some times.

        Args:
            process: anything with `channel(s, t)`, scalar, per axis or of matrices.
            times: increasing, shape (n,), at least two, or one after the data.
            from_data: x_0 is clean data and x_1 the state at times[0]; else x_0 is the state at times[0].

        Raises:
            ValueError: too few times, or they do not increase.
        """
        grid = real_array("times", times, ndim=(1,))
        if len(grid) < 2 - from_data or (np.diff(grid) <= 0).any():
            raise ValueError(f"times must increase, at least {2 - from_data} of them, got {grid}")
        first = [process.kernel(float(grid[0]))] if from_data else []
        return Chain(first + [process.channel(float(s), float(t)) for s, t in pairwise(grid)])

    def respaced(self, indices: ArrayLike) -> Chain:
        """The chain of the states at increasing `indices`, shape (n,), at least two."""
        kept = [self._index("indices", i) for i in np.atleast_1d(np.asarray(indices)).ravel()]
        if len(kept) < 2 or any(i >= j for i, j in pairwise(kept)):
            raise ValueError(f"indices must increase, at least two of them, got {kept}")
        return Chain([self.channel(i, j) for i, j in pairwise(kept)])

    # ------------------------------------------------------------------ forward

    @property
    def steps(self) -> int:
        """N, the number of links."""
        return len(self.links)

    @cached_property
    def dim(self) -> int | None:
        """d, or None where all links are scalars."""
        return dimension("links", self.links)

    @cached_property
    def _kernels(self) -> tuple[Channel, ...]:
        """The channels from x_0 to x_0..x_N."""
        found = [Channel()]
        for link in self.links:
            found.append(link.compose(found[-1]))
        return tuple(found)

    def kernel(self, i: int) -> Channel:
        """The channel from x_0 to x_i."""
        return self._kernels[self._index("i", i)]

    def channel(self, i: int, j: int) -> Channel:
        """The channel from x_i to x_j, i <= j: the noises of the links between, each carried by the links after it."""
        i, j = self._ordered(i=i, j=j)
        return self.kernel(j) if i == 0 else reduce(lambda done, link: link.compose(done), self.links[i:j], Channel())

    def marginal(self, i: int, law: GaussianMixture) -> GaussianMixture:
        """The law of x_i when x_0 follows `law`."""
        return self.kernel(i).push(law)

    def sample(self, x0: ArrayLike, seed: int | np.random.Generator) -> Array:
        """One path x_0..x_N from each x_0 in `x0` of shape (n, d), shape (N + 1, n, d)."""
        path, rng = [real_array("x0", x0, ndim=(2,))], generator(seed)
        for link in self.links:
            path.append(link.sample(path[-1], rng))
        return np.stack(path)

    def logpdf(self, path: ArrayLike) -> Any:
        """log p(x_1..x_N | x_0) of paths x_0..x_N of shape (..., N + 1, d), shape (...).

        Raises:
            ValueError: a path has another number of states, or a link has no noise.
        """
        states = real_array("path", path)
        if states.ndim < 2 or states.shape[-2] != self.steps + 1:
            raise ValueError(f"path must have shape (..., {self.steps + 1}, d), got {states.shape}")
        return sum(link.logpdf(states[..., i, :], states[..., i - 1, :]) for i, link in enumerate(self.links, 1))

    # ------------------------------------------------------------------ several states at once

    def covariance(self, i: int, j: int, start: ArrayLike = 0.0) -> Operator:
        """Cov(x_i, x_j) in the storage of the links when Cov(x_0) is `start`, a variance, (d,) or (d, d).

        Left out it is 0: the covariance given x_0.
        """
        first, (i, j) = operators.covariance("start", start), (self._index("i", i), self._index("j", j))
        early, late = min(i, j), max(i, j)
        kernel = self.kernel(early)
        own = operators.add(operators.sandwich(kernel.gain, first), kernel.noise)
        found = operators.product(self.channel(early, late).gain, own)  # Cov(x_late, x_early)
        return found.T if i < j else found

    def joint(self, start: Gaussian) -> Gaussian:
        """The law of (x_0, .., x_N) in R^((N + 1) d) when x_0 follows `start`; a Gaussian without spread gives x_0."""
        _gaussian("start", start)
        laws = [self.marginal(i, start) for i in range(self.steps + 1)]
        dim = start.dim
        blocks = np.zeros((self.steps + 1, self.steps + 1, dim, dim))
        for i, law in enumerate(laws):
            blocks[i, i] = law.covariances.dense(dim)[0]
            if i:
                blocks[i, :i] = operators.dense(self.links[i - 1].gain, dim) @ blocks[i - 1, :i]
                blocks[:i, i] = np.swapaxes(blocks[i, :i], 1, 2)
        return Gaussian(np.concatenate([law.means[0] for law in laws]), _flat(blocks))

    def precision(self, start: Gaussian | None = None) -> Tridiagonal:
        """The inverse covariance of (x_1, .., x_N) given x_0, or of (x_0, .., x_N) when x_0 follows `start`.

        It is made of the links alone: C_i^-1 + A_{i+1}' C_{i+1}^-1 A_{i+1} on the diagonal, -C_i^-1 A_i below it. For
        links that are scalars, and no start, it is that of one coordinate, d = 1.

        Raises:
            ValueError: a link has no noise along some direction, or start is singular.
        """
        dim = (self.dim or 1) if start is None else _gaussian("start", start).dim
        noises = [operators.dense(link.noise, dim) for link in self.links]
        inverses = np.stack([_inverse(f"the noise of link {i}", c) for i, c in enumerate(noises, 1)])
        gains = np.stack([operators.dense(link.gain, dim) for link in self.links])
        pulled = inverses @ gains
        diagonal = np.concatenate([np.zeros((1, dim, dim)), inverses])
        diagonal[:-1] += np.swapaxes(gains, 1, 2) @ pulled
        if start is None:
            return Tridiagonal(diagonal[1:], -pulled[1:])
        diagonal[0] += _inverse("the covariance of start", start.covariances.dense(dim)[0])
        return Tridiagonal(diagonal, -pulled)

    # ------------------------------------------------------------------ backward

    def bridge(self, i: int, j: int, h: int = 0) -> Bridge:
        """x_i given x_j and x_h, h <= i <= j; the stride-l posterior of the texts is i = j - l, h = 0.

        Q is exact to rounding of itself for scalars and diagonals, to rounding of A for matrices. Where x_h alone
        determines x_i (i = h, or no noise between), x_j adds nothing.

        Raises:
            ValueError: indices in another order, or the law of x_j given x_h is singular although that of x_i is not.

        Examples:
            >>> from refdiff import Channel
            >>> from refdiff.processes import Chain
            >>> walk = Chain([Channel(noise=1.0), Channel(noise=1.0)])  # a random walk of two steps
            >>> found = walk.bridge(1, 2)  # x_1 given x_2 and x_0: their mean, and half of a step's variance
            >>> print(found.of_end, found.of_start, found.noise)
            0.5 0.5 0.5
        """
        h, i, j = self._ordered(h=h, i=i, j=j)
        if i == j:
            one, zero = np.ones(()), np.zeros(())
            return Bridge(one, zero, zero, zero)
        return Bridge.between(self.channel(h, i), self.channel(i, j))

    def reverse(self, i: int, j: int, law: Gaussian) -> Channel:
        """The exact channel x_j -> x_i, i <= j, when x_0 follows the Gaussian `law`."""
        i, j = self._ordered(i=i, j=j)
        return self.channel(i, j).reverse(self.marginal(i, law))

    def reversed(self, law: Gaussian) -> Chain:
        """The chain x_N -> x_{N-1} -> .. -> x_0 of exact reverse kernels when x_0 follows the Gaussian `law`."""
        return Chain([self.reverse(i - 1, i, law) for i in range(self.steps, 0, -1)])

    def posterior(self, i: int, j: int, law: GaussianMixture, y: ArrayLike) -> GaussianMixture:
        """The law of x_i given one x_j = y, shape (d,), when x_0 follows `law`: a mixture if that is one."""
        i, j = self._ordered(i=i, j=j)
        return self.channel(i, j).posterior(self.marginal(i, law), y)

    # ------------------------------------------------------------------ far along the chain

    def stationary(self) -> Moments:
        """The mean and covariance that every link keeps: m = A m + b, S = A S A' + C, as `common` finds them.

        Raises:
            ValueError: no link forgets (a gain of spectral radius below 1), or links keep different laws.
        """
        return common(self.links)

    def remainder(self, i: int, law: Gaussian) -> Moments:
        """The mean and covariance of x_i less those that the links keep, when x_0 follows the Gaussian `law`.

        G (m_0 - m) and G (S_0 - S) G': not by subtraction at x_i, where they may be far below rounding.
        """
        settled, gain, start = self.stationary(), self.kernel(i).gain, _gaussian("law", law)
        difference = operators.add(start.covariance, -settled.covariance)
        return Moments(operators.apply(gain, start.means[0] - settled.mean), operators.sandwich(gain, difference))

    def _index(self, name: str, value: Any) -> int:
        return whole_number(name, value, low=0, high=self.steps)

    def _ordered(self, **indices: int) -> list[int]:
        found = [self._index(name, value) for name, value in indices.items()]
        if any(i > j for i, j in pairwise(found)):
            raise ValueError(f"{' <= '.join(indices)} must hold, got {found}")
        return found


def _gaussian(name: str, law: Any) -> Gaussian:
    if not isinstance(law, Gaussian):
        raise TypeError(f"{name} must be a Gaussian, got {law!r}")
    return law


def _inverse(what: str, matrix: Array) -> Array:
    """S^-1 of a covariance (d, d)."""
    covariance = Dense(matrix[None])
    if covariance.singular:
        raise ValueError(NO_DENSITY.format(what=what))
    found: Array = covariance.inverse().matrices[0]
    return found


def _flat(blocks: Array) -> Array:
    """Blocks (n, n, d, d) as a matrix (n d, n d)."""
    n, _, d, _ = blocks.shape
    return blocks.swapaxes(1, 2).reshape(n * d, n * d)
