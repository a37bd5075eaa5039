r"""Plans of bridges: what a potential at the end makes of x_0, and pairs put together from its terms.

    gamma(y | x) = p(y | x) Psi_T(y) / Psi(x, 0) = sum_j w_j(x) N(y; G_j x + h_j, W_j),    w_j term j's share of Psi

Each term of Psi_T gives a channel from x_0 to x_T and, with Psihat_0, a mass and a law of x_0 (`meetings`). With
p(x | y) in the place of p(y | x), as a density of x, the same makes x_0 from x_T.
Sources: PODB-74, PODB-83; Gushchin et al. 2023, "Building the bridge of Schroedinger".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.distributions.covariances import Covariances, Dense, Diagonal
from refdiff.distributions.mixture import law
from refdiff.distributions.moments import log_total
from refdiff.operators import Operator
from refdiff.schroedinger.potentials import ExponentialSum, Potential
from refdiff.transport import PairLaw
from refdiff.transport.pairs import NOTHING, image_pairs


def meetings(first: Potential, step: Channel, second: Potential) -> Iterator[tuple[float, GaussianMixture]]:
    """first(x) int p(y | x) second(y) dy of each term of `second`: the logarithm of its mass, and its law of x.

    Terms of `first` run fastest; a point set in the place of `second` needs noise in the `step`.
    """
    if isinstance(first, GaussianMixture) and isinstance(second, GaussianMixture):
        for log_weight, centre, j in zip(second.log_weights, second.means, range(second.count), strict=True):
            if np.isneginf(log_weight):
                continue
            noise = operators.add(step.noise, second.covariances[j : j + 1].operator())
            seen = first.affine(step.gain, step.offset).convolve(noise)
            mass = float(log_weight + np.asarray(seen.logpdf(centre)))
            yield mass, first.observe(step.gain, step.offset, noise, centre[None])
        return
    if isinstance(second, GaussianMixture):
        second = ExponentialSum.density(second.convolve(step.noise)).before(Channel(step.gain, step.offset))
    else:
        second = second.before(step)
    for j in range(second.count):
        one = second[j : j + 1]
        yield first.times(one).law() if isinstance(first, ExponentialSum) else one.tilted(first)


def ends_given(step: Channel, second: Potential) -> list[Channel]:
    """x -> y of each term of `second` that has a weight, for a channel x -> y, the `step`, weighted by that term."""
    if isinstance(second, ExponentialSum):
        return second.given(step)
    found = []
    for j in np.flatnonzero(np.isfinite(second.log_weights)):
        spread, centre = second.covariances[j : j + 1].operator(), second.means[j]
        if not spread.any():
            found.append(Channel(0.0, centre, 0.0))
            continue
        total = operators.add(step.noise, spread)
        # B (N + B)^-1, and not 1 minus the rest
        kept = _quotient(spread, total)
        shift = operators.apply(kept, np.broadcast_to(step.offset, centre.shape))
        shift = shift + operators.apply(_quotient(step.noise, total), centre)
        left = operators.product(kept, step.noise)
        left = 0.5 * (left + left.T) if left.ndim == 2 else left
        found.append(Channel(operators.product(kept, step.gain), shift, left))
    return found


def joined(parts: list[tuple[float, GaussianMixture]]) -> GaussianMixture:
    """The mixture of laws with the logarithms of their masses, the `parts`, whatever the masses sum to."""
    masses = np.array([mass for mass, _ in parts])
    masses -= log_total(masses[None])[0]
    logs = np.concatenate([mass + one.log_weights for mass, (_, one) in zip(masses, parts, strict=True)])
    means = np.concatenate([one.means for _, one in parts])
    blocks, counts = [one.covariances for _, one in parts], [one.count for _, one in parts]
    return law(logs, means, _in_one(blocks, counts, means.shape[1]))


def stacked(parts: list[tuple[float, GaussianMixture]], channels: list[Channel]) -> PairLaw:
    """The law of pairs of the `parts`, laws of x_0 with the logarithms of their masses, and the `channels` to x_T."""
    each = [image_pairs(one, channel) for (_, one), channel in zip(parts, channels, strict=True)]
    first = joined(parts)
    means = np.concatenate([one.second.means for one in each])
    counts = [one.count for one in each]
    second = _in_one([one.second.covariances for one in each], counts, first.dim)
    cross = _in_one([one.cross for one in each], counts, first.dim)
    if isinstance(cross, Diagonal) and not cross.variances.any():
        cross = NOTHING
    return PairLaw(first, law(first.log_weights, means, second), cross)


def plan_given(step: Channel, second: Potential, x: Array) -> GaussianMixture:
    """The law of x_T given one x_0 = x (1, d), for the potential `second` at the end of a `step`.

    Raises:
        ValueError: x is not one point.
    """
    if len(x) != 1:
        raise ValueError(f"x must be one point, got {len(x)}")
    if isinstance(second, GaussianMixture):
        seen = Channel(1.0, 0.0, step.noise)
        return seen.posterior(second, (operators.apply(step.gain, x) + step.offset)[0])
    logs = second.before(step).terms(x)[0]
    images = [channel.at(x[0]) for channel in second.given(step)]
    return joined([(float(log), one) for log, one in zip(logs, images, strict=True)])


def ends_drawn(step: Channel, second: Potential, x: Array, rng: np.random.Generator) -> Array:
    """x_T drawn for each x_0 of x (n, d), for the potential `second` at the end of a `step`, shape (n, d)."""
    channels = ends_given(step, second)
    if isinstance(second, GaussianMixture):
        kept = np.flatnonzero(np.isfinite(second.log_weights))
        blurred = second.convolve(step.noise)
        share = np.asarray(blurred.responsibilities(operators.apply(step.gain, x) + step.offset))[:, kept]
    else:
        terms = second.before(step).terms(x)
        share = np.exp(terms - log_total(terms)[:, None])
    ladder = np.cumsum(share, axis=1)
    labels = (rng.random((len(x), 1)) * ladder[:, -1:] > ladder).sum(axis=1)
    found, z = np.empty_like(x), rng.standard_normal(x.shape)
    for k in np.unique(labels):
        chosen, channel = labels == k, channels[k]
        moved = operators.apply(channel.gain, x[chosen]) + channel.offset
        found[chosen] = moved + operators.apply(operators.root(channel.noise), z[chosen])
    return found


def turned(step: Channel, dim: int) -> Channel:
    """p(y | x) of a `step` x -> y on R^d, d = `dim`, as a density of x up to a factor: N(x; A^-1 (y - b), A^-1 C A^-T).

    Raises:
        ValueError: A is singular.
    """
    if operators.singular(step.gain):
        raise ValueError(f"process must keep x_0 in mind until T for a law of x_T, got the gain {step.gain}")
    back = operators.inverse(step.gain)
    shift = np.broadcast_to(step.offset, (dim,)) if back.ndim == 2 else step.offset
    return Channel(back, -operators.apply(back, shift), operators.sandwich(back, step.noise))


def _quotient(a: Operator, b: Operator) -> Operator:
    """A B^-1 of symmetric operators, B positive."""
    if max(a.ndim, b.ndim) < 2:
        return np.asarray(a / b)
    dim = len(b) if b.ndim == 2 else len(a)
    return np.asarray(np.linalg.solve(operators.dense(b, dim), operators.dense(a, dim)).T)


def _in_one(blocks: list[Covariances], counts: list[int], dim: int) -> Covariances:
    """The blocks of several lists of components one after the other."""
    diagonals = [block.variances for block in blocks if isinstance(block, Diagonal)]
    if len(diagonals) == len(blocks):
        width = max(one.shape[1] for one in diagonals)
        wide = [np.broadcast_to(one, (count, width)) for one, count in zip(diagonals, counts, strict=True)]
        return Diagonal(np.concatenate(wide))
    each = zip(blocks, counts, strict=True)
    found = np.concatenate([np.broadcast_to(block.dense(dim), (count, dim, dim)) for block, count in each])
    return Dense(found) if found.any() else Diagonal(np.zeros((1, 1)))
