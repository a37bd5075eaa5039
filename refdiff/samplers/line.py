r"""The law of a sampler's output on the line, for any mixture or point set as data, by quadrature.

A deterministic stretch is a map y = phi(x), and carries density along: with nodes x_i and weights w_i = p(x_i) h of the
trapezoidal rule, which is exact to rounding for a smooth density that has decayed at both ends,

    y_i = phi(x_i),    weight w_i,    density p(x_i) / phi'(x_i),    distribution function P(x_i)    (phi increasing)

A step with fresh noise y = phi(x) + s z turns the nodes into a mixture of Gaussians N(phi(x_i), s^2), with nodes of
its own. Distances to the target q with distribution function Q are sums over the nodes:

    W2^2 = sum w_i (y_i - Q^-1(P_i))^2,   KL(law || target) = sum w_i log(p_i / q_i),   TV = sum w_i |1 - q_i / p_i| / 2

Sources: PODC9-12, TOPA-52, TOPA-90.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize.elementwise import find_root
from scipy.special import log_ndtr

from refdiff.arguments import Array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.predictions import weights as prediction_weights
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients

# Nodes reach so many standard deviations beyond the outermost means: the density there is e^-72 of its peak.
REACH = 12.0

# Nodes of less than this share of the largest density are left out: all of them together weigh less than rounding.
NEGLIGIBLE = 1e-30


@dataclass(frozen=True, eq=False)
class LineLaw:
    """A law on the line as nodes of a quadrature rule.

    Attributes:
        y: the nodes.   weights: sum_i weights_i h(y_i) = E h(y).   density: p at the nodes.
        source, x: the nodes are images of x, which follows this mixture, under an increasing map.
        target: the law it should be.
    """

    y: Array
    weights: Array
    density: Array
    source: GaussianMixture
    x: Array
    target: GaussianMixture

    def mean(self) -> float:
        """E y."""
        return float(self.weights @ self.y)

    def variance(self) -> float:
        """Var y."""
        return float(self.weights @ (self.y - self.mean()) ** 2)

    @cached_property
    def monotone(self) -> bool:
        """Whether the nodes kept their order: where they did not, the density folds and has no single branch."""
        return bool((np.diff(self.y) > 0).all() and (self.density > 0).all())

    def wasserstein(self) -> float:
        """The 2-Wasserstein distance to the target: both quantile functions at the same probabilities."""
        self._check()
        log_below, log_above = (log_probability(self.source, self.x, above=above) for above in (False, True))
        return float(np.sqrt(self.weights @ (self.y - quantile(self.target, log_below, log_above)) ** 2))

    def kl(self) -> float:
        """KL(law || target), in nats."""
        ratio = self._log_ratio()
        return float(self.weights @ ratio)

    def total_variation(self) -> float:
        """sup |P(A) - Q(A)|."""
        return float(0.5 * self.weights @ np.abs(np.expm1(-self._log_ratio())))

    def _log_ratio(self) -> Array:
        self._check()
        if self.target.covariances.singular:
            raise ValueError("target must have a density: end the grid where sigma > 0")
        return np.asarray(np.log(self.density) - self.target.logpdf(self.y[:, None]))

    def _check(self) -> None:
        if not self.monotone:
            raise ValueError("tableau must be an increasing map for distances on the line: its output folds over")


def propagate_line(tableau: Tableau, law: GaussianMixture, nodes: int = 2000) -> LineLaw:
    """The law of the output for data on the line, by quadrature through the sampler.

    Args:
        tableau: the sampler: deterministic, or with noise that is added at the end of a step (not inside one).
        law: the data, one-dimensional: a Gaussian, mixture or point set. x is drawn from p_t at the first time.
        nodes: of the quadrature, over 12 standard deviations to either side; a noisy step costs nodes^2.

    Raises:
        ValueError: another dimension, a start without a density, noise inside a step, or a step with noise so small
            that the quadrature needs more nodes (the message says how many).
    """
    if law.dim != 1:
        raise ValueError(f"law must have dimension 1, got {law.dim}")
    count = whole_number("nodes", nodes, low=16)
    table = to_coordinate(tableau, "x")
    c = table.coefficients
    start, target = (Channel(c.alpha[k], 0.0, c.sigma[k] ** 2).push(law) for k in (0, -1))
    if start.covariances.singular:
        raise ValueError(f"tableau must start where p_t has a density, got t = {table.times[0]}")
    here = _nodes(start, target, count)
    stage, stop = 0, table.stages - 1
    while stage < stop:
        end = _stretch(table, stage)
        y, slope, noise = _carried(table, law, stage, end, here.y)
        density = here.density / np.where(slope > 0, slope, np.nan)
        here = LineLaw(y, here.weights, np.nan_to_num(density), here.source, here.x, target)
        if noise > 0:
            _check_resolution(here, float(np.sqrt(noise)), count)
            blurred = GaussianMixture.isotropic(here.y[:, None], np.full(len(y), noise), here.weights)
            here = _nodes(blurred, target, count)
        stage = end
    return here


def quantile(law: GaussianMixture, log_below: Array, log_above: Array) -> Array:
    """Where a law on the line has these log probabilities below and above; the smaller one of the two is used."""
    left = log_below <= log_above
    low, high = _ends(law)

    def excess(y: Array, wanted: Array, left: Array) -> Array:
        found = np.where(left, log_probability(law, y), log_probability(law, y, above=True))
        return np.where(left, found - wanted, wanted - found)

    bracket = np.full(left.shape, low - (high - low)), np.full(left.shape, high + (high - low))
    return np.asarray(find_root(excess, bracket, args=(np.where(left, log_below, log_above), left)).x)


def log_probability(law: GaussianMixture, y: Array, *, above: bool = False) -> Array:
    """log P(x < y) on the line, or log P(x > y)."""
    m, s, log_w = _components(law)
    u = (y[..., None] - m) / s
    terms = log_w + log_ndtr(-u if above else u)
    return np.asarray(np.logaddexp.reduce(terms, axis=-1))


def _components(law: GaussianMixture) -> tuple[Array, Array, Array]:
    """Means, standard deviations and log weights (K,)."""
    s = np.sqrt(np.ravel(law.covariances.dense(1)))
    return law.means[:, 0], np.broadcast_to(s, law.count), law.log_weights


def _ends(law: GaussianMixture) -> tuple[float, float]:
    m, s, log_w = _components(law)
    seen = log_w > log_w.max() + np.log(NEGLIGIBLE)
    return float((m - REACH * s)[seen].min()), float((m + REACH * s)[seen].max())


def _nodes(law: GaussianMixture, target: GaussianMixture, count: int) -> LineLaw:
    """Equally spaced nodes for a law with a density."""
    low, high = _ends(law)
    y = np.linspace(low, high, count)
    density = np.exp(law.logpdf(y[:, None]))
    seen = density > NEGLIGIBLE * density.max()
    y, density = y[seen], density[seen]
    return LineLaw(y, density * (high - low) / (count - 1), density, law, y, target)


def _check_resolution(law: LineLaw, std: float, count: int) -> None:
    """The rule's error e^(-2 pi^2 (std / gap)^2) is below 1e-13 where the gaps between the nodes are std / 1.25."""
    gap = np.abs(np.diff(law.y)).max()
    if gap > std / 1.25:
        raise ValueError(f"nodes must be at least {int(np.ceil(1.25 * count * gap / std))} for a step with noise "
                         f"{std:.3g}, got {count}")  # fmt: skip


def _stretch(table: Tableau, stage: int) -> int:
    """The end of the shortest stretch from `stage` after which only its end matters; noise enters at the end only."""
    for end in range(stage + 1, table.stages):
        closed = True
        for later in range(end + 1, table.stages):
            states, outputs, drawn = table.row(later)
            closed &= all(j >= end for j, _ in states + outputs) and all(m >= table.normals[end] for m, _ in drawn)
            if later > end + max(table.window) or not closed:
                break
        if closed:
            break
    if any(table.row(k)[2] for k in range(stage + 1, end)):
        raise ValueError(f"tableau must add noise only at the end of a step, got some before stage {end}: its output "
                         "law has no quadrature on the line")  # fmt: skip
    return end


def _carried(table: Tableau, law: GaussianMixture, first: int, last: int, x: Array) -> tuple[Array, Array, float]:
    """The nodes, their slopes and the variance of the noise after the stages first+1..last."""
    values, slopes = {first: x}, {first: np.ones_like(x)}
    outputs: dict[int, tuple[Array, Array]] = {}
    for k in range(first, last + 1):
        states, own, drawn = table.row(k)
        if k > first:
            values[k] = sum((w * values[j] for j, w in states), np.zeros_like(x)) + sum(
                w * outputs[j][0] for j, w in own
            )
            slopes[k] = sum((w * slopes[j] for j, w in states), np.zeros_like(x)) + sum(
                w * outputs[j][1] for j, w in own
            )
        if table.evaluated[k] and k < last:
            value, slope = _predicted(table, law, k, values[k])
            outputs[k] = value, slope * slopes[k]
    return values[last], slopes[last], float(sum(np.ravel(w)[0] ** 2 for _, w in drawn))


def _predicted(table: Tableau, law: GaussianMixture, k: int, y: Array) -> tuple[Array, Array]:
    """The exact prediction at the nodes of stage k, and its slope."""
    c = Coefficients(*(part[k] for part in table.coefficients))
    a, b = prediction_weights(c, "denoiser", table.prediction)
    kernel = Channel(c.alpha, 0.0, c.sigma**2)
    clean = kernel.posterior_mean(law, y[:, None])[:, 0]
    # dD/dx = alpha Var(x_0 | x) / sigma^2, and 1 / alpha where there is no noise
    spread = kernel.posterior_cov(law, y[:, None])[:, 0, 0] * c.alpha / c.sigma**2 if c.sigma > 0 else 1 / c.alpha
    return a * y + b * clean, a + b * spread
