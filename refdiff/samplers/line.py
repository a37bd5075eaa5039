r"""The law of a sampler's output on the line, for any mixture or point set as data, by quadrature.

A deterministic stretch is a map y = phi(x), and carries density along: with nodes x_i and weights w_i = p(x_i) h_i,

    y_i = phi(x_i),    weight w_i,    density p(x_i) / phi'(x_i),    distribution function P(x_i)    (phi increasing)

A step with fresh noise y = phi(x) + s z turns the nodes into a mixture of Gaussians N(phi(x_i), s^2), with nodes of
its own. Distances to the target q with distribution function Q are sums over the nodes:

    W2^2 = sum w_i (y_i - Q^-1(P_i))^2,   KL(law || target) = sum w_i log(p_i / q_i),   TV = sum w_i |1 - q_i / p_i| / 2

Before a noisy step the nodes are those of the trapezoidal rule, which is exact to rounding for what is smooth at its
step. Between separated modes phi and Q^-1 o P are steep, though: the last nodes are of Gauss-Legendre panels, which
are halved until they resolve both. Sources: PODC9-12, TOPA-52, TOPA-90.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refdiff.arguments import Array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.distributions.quantiles import monotone_map
from refdiff.predictions import weights as prediction_weights
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.numbers import gauss_legendre
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients

# Nodes reach so many standard deviations beyond the outermost means: the density there is e^-72 of its peak.
REACH = 12.0

# Nodes of less than this share of the largest density are left out: all of them together weigh less than rounding.
NEGLIGIBLE = 1e-30

# Nodes in a panel; it is halved, so many times at most, while the last two coefficients of a polynomial through them
# weigh more than this share of the whole integral. After 40 halvings a jump weighs 1e-12.
ORDER, HALVINGS, RESOLVED = 16, 40, 1e-11


@dataclass(frozen=True, eq=False)
class LineLaw:
    """A law on the line as nodes of a quadrature rule.

    Attributes:
        y: the nodes (m,).   weights: sum_i weights_i h(y_i) = E h(y).   density: p at the nodes.
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
        """The mean, E y."""
        return float(self.weights @ self.y)

    def variance(self) -> float:
        """The variance, E (y - E y)^2."""
        return float(self.weights @ (self.y - self.mean()) ** 2)

    @cached_property
    def monotone(self) -> bool:
        """Whether the nodes kept their order: where they did not, the density folds and has no single branch."""
        rounding = 1e-12 * np.abs(self.y).max()
        return bool((np.diff(self.y) >= -rounding).all() and not np.isnan(self.density).any())

    def wasserstein(self) -> float:
        """The 2-Wasserstein distance to the target: both quantile functions at the same probabilities.

        Raises:
            ValueError: the output folds over.
        """
        self._check()
        return float(
            np.sqrt(self.weights @ (self.y - monotone_map(self.source, self.target, self.x[:, None])[:, 0]) ** 2)
        )

    def kl(self) -> float:
        """KL(law || target), in nats.

        Raises:
            ValueError: the output folds over, or the target has no density.
        """
        return float(self.weights @ self._log_ratio())

    def total_variation(self) -> float:
        """The total variation, sup |P(A) - Q(A)|, to four digits: the nodes know no kinks.

        Raises:
            ValueError: the output folds over, or the target has no density.
        """
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
        nodes: to begin with, over 12 standard deviations to either side; a noisy step costs nodes^2.

    Raises:
        TypeError: a law that is no mixture.
        ValueError: another dimension, a start without a density, noise inside a step, or a step with noise so small
            that the quadrature needs more nodes (the message says how many).

    Examples:
        >>> from refdiff import GaussianMixture, VEPower
        >>> from refdiff.samplers import propagate_line
        >>> from refdiff.samplers.ddim import ddim
        >>> law = GaussianMixture.isotropic([[-1.0], [1.0]], 0.04)
        >>> found = propagate_line(ddim(VEPower(), [3.0, 0.0]), law)  # of E[x_0 | x_t], less spread than x_0
        >>> print(abs(found.mean()) < 1e-9, 0 < found.variance() < 1.04)
        True True
    """
    if not isinstance(law, GaussianMixture):
        raise TypeError(f"law must be a Gaussian, a mixture or a point set, got {law!r}")
    if law.dim != 1:
        raise ValueError(f"law must have dimension 1, got {law.dim}")
    count = whole_number("nodes", nodes, low=16)
    table = to_coordinate(tableau, "x")
    c = table.scalars
    source, target = (Channel(c.alpha[k], 0.0, c.sigma[k] ** 2).push(law) for k in (0, -1))
    if source.covariances.singular:
        raise ValueError(f"tableau must start where p_t has a density, got t = {table.times[0]}")
    stage = 0
    for end in _noisy_ends(table):
        x, weights = _trapezoid(source, count)
        y, _, noise = _carried(table, law, stage, end, x)
        _check_resolution(y, float(np.sqrt(noise)), count)
        source, stage = GaussianMixture.isotropic(y[:, None], np.full(len(y), noise), weights), end
    return _resolved(source, target, lambda x: _carried(table, law, stage, table.stages - 1, x)[:2], count)


def _components(law: GaussianMixture) -> tuple[Array, Array, Array]:
    """Means, standard deviations and log weights (K,)."""
    s = np.sqrt(np.ravel(law.covariances.dense(1)))
    return law.means[:, 0], np.broadcast_to(s, law.count), law.log_weights


def _ends(law: GaussianMixture) -> tuple[float, float]:
    m, s, log_w = _components(law)
    seen = log_w > log_w.max() + np.log(NEGLIGIBLE)
    return float((m - REACH * s)[seen].min()), float((m + REACH * s)[seen].max())


def _trapezoid(law: GaussianMixture, count: int) -> tuple[Array, Array]:
    """Equally spaced nodes for a law with a density, and their weights."""
    low, high = _ends(law)
    x = np.linspace(low, high, count)
    density = np.exp(law.logpdf(x[:, None]))
    seen = density > NEGLIGIBLE * density.max()
    return x[seen], density[seen] * (high - low) / (count - 1)


def _check_resolution(y: Array, std: float, count: int) -> None:
    """The rule's error e^(-2 pi^2 (std / gap)^2) is below 1e-13 where the gaps between the nodes are std / 1.25."""
    gap = np.abs(np.diff(y)).max()
    if gap > std / 1.25:
        raise ValueError(f"nodes must be at least {int(np.ceil(1.25 * count * gap / std))} for a step with noise "
                         f"{std:.3g}, got {count}")  # fmt: skip


def _resolved(
    source: GaussianMixture, target: GaussianMixture, carry: Callable[[Array], tuple[Array, Array]], count: int
) -> LineLaw:
    """Nodes of the image of a law under a map, on panels that resolve the map and the quantiles of the target."""
    u, w = gauss_legendre(ORDER)
    last_two = np.linalg.inv(np.polynomial.legendre.legvander(2 * u - 1, ORDER - 1))[-2:]
    edges = np.linspace(*_ends(source), max(count // ORDER, 1) + 1)
    left, width = edges[:-1], np.diff(edges)
    found: list[Array] = []
    size: Array | None = None
    for halving in range(HALVINGS + 1):
        x = left[:, None] + width[:, None] * u
        y, slope = (part.reshape(x.shape) for part in carry(x.ravel()))
        density = np.exp(source.logpdf(x[..., None]))
        integrands = np.stack([np.ones_like(x), y, monotone_map(source, target, x[..., None])[..., 0]]) * density
        weights = density * width[:, None] * w
        if size is None:
            size, peak = (np.abs(integrands) * width[:, None] * w).sum(axis=(1, 2)), density.max()
        tails = np.abs(integrands @ last_two.T).max(axis=-1) * width
        rough = (tails > RESOLVED * size[:, None]).any(axis=0) & (halving < HALVINGS)
        kept = ~rough[:, None] & (density > NEGLIGIBLE * peak)
        with np.errstate(divide="ignore", invalid="ignore"):
            image = np.where(slope >= 0, density / slope, np.nan)
        found.append(np.stack([x, y, weights, image])[:, kept])  # a fold has no density
        left, width = np.concatenate([left[rough], (left + width / 2)[rough]]), np.tile(width[rough] / 2, 2)
        if not left.size:
            break
    x, y, weights, image = (nodes := np.concatenate(found, axis=1))[:, nodes[0].argsort()]
    return LineLaw(y, weights, image, source, x, target)


def _noisy_ends(table: Tableau) -> Iterator[int]:
    """The stages that a step with noise ends with, in a table whose noise comes at the end of a step."""
    last = max((k for k in range(table.stages) if table.row(k)[2]), default=0)
    stage = 0
    while stage < last:
        stage = _stretch(table, stage)
        if table.row(stage)[2]:
            yield stage


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
    c = Coefficients(*(part[k] for part in table.scalars))
    a, b = prediction_weights(c, "denoiser", table.prediction)
    kernel = Channel(c.alpha, 0.0, c.sigma**2)
    clean = kernel.posterior_mean(law, y[:, None])[:, 0]
    # dD/dx = alpha Var(x_0 | x) / sigma^2, and 1 / alpha where there is no noise
    spread = kernel.posterior_cov(law, y[:, None])[:, 0, 0] * c.alpha / c.sigma**2 if c.sigma > 0 else 1 / c.alpha
    return a * y + b * clean, a + b * spread
