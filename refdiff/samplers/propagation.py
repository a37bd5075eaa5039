r"""The exact law of every stage for Gaussian data: no Monte Carlo, for any number of steps.

For data N(m, S) every prediction is affine, o = K (x - alpha m) + k m with P = (alpha^2 S + sigma^2)^-1 and

    denoiser  K = alpha S P,  k = 1        noise  K = sigma P,  k = 0        score  K = -P,  k = 0
    velocity  K = alpha' alpha S P + (sigma^2)' P / 2,  k = alpha'          v      K = (alpha sigma - sigma alpha S) P,  k = -sigma

so with x the start and w, v the window, a stage is  y_k = G_k x + b_k + n_k: G_k and b_k follow by substitution, and
the covariance of n_k by carrying that of the last w stages and v normals. The part of the start stays apart from the
part of the noise, so a deterministic sampler is known as a map, not only through its variance.

Where the weights are numbers and S is full, everything happens in the eigenbasis of S. Sources: PODC9-11, PODC9-16,
PODB-11, DMI-23, PODA-225.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, whole_number
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.distributions.divergences import kl_divergence, total_variation, wasserstein
from refdiff.operators import Operator
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients


@dataclass(frozen=True, eq=False)
class Propagation:
    """The joint law of the start and every stage of a sampler, for Gaussian data.

    Attributes:
        tableau: the sampler, its stages in x.
        data: the law of x_0.   start: the law that x is drawn from.
        gains: G_k, each an operator (a number, (d,) or (d, d)) in the basis.
        offsets: b_k, each (d,), in the basis.
        spreads: the covariances of n_k, operators in the basis.
        basis: the orthonormal eigenvectors (d, d) of the data's covariance as columns, or None for the axes themselves.
    """

    tableau: Tableau
    data: GaussianMixture
    start: GaussianMixture
    gains: tuple[Operator, ...]
    offsets: tuple[Array, ...]
    spreads: tuple[Operator, ...]
    basis: Array | None

    def channel(self, stage: int = -1) -> Channel:
        """x -> y_k as a channel: y_k = G_k x + b_k + N(0, the spread). The output unless a stage is given."""
        k = self._stage(stage)
        gain, offset, spread = self.gains[k], self.offsets[k], self.spreads[k]
        if self.basis is None:
            return Channel(gain, offset, spread)
        u = self.basis
        return Channel(_rotated(gain, u), u @ offset, _rotated(spread, u))

    def law(self, stage: int = -1) -> GaussianMixture:
        """The law of y_k, the output unless a stage is given."""
        return self.channel(stage).push(self.start)

    def cross_covariance(self, stage: int = -1) -> Operator:
        """Cov(y_k, x) = G_k Cov(x)."""
        return operators.product(self.channel(stage).gain, self.start.covariance)

    @cached_property
    def output(self) -> GaussianMixture:
        """The law of the output."""
        return self.law()

    def target(self, stage: int = -1) -> GaussianMixture:
        """What the law of y_k should be: p_t at its time."""
        k = self._stage(stage)
        c = self.tableau.coefficients
        return Channel(c.alpha[k], 0.0, c.sigma[k] ** 2).push(self.data)

    def wasserstein(self, stage: int = -1) -> float:
        """The 2-Wasserstein distance of a stage's law to its target; the output's unless a stage is given."""
        return wasserstein(self.law(stage), self.target(stage))

    def kl(self, stage: int = -1) -> float:
        """KL(target || law of the stage), in nats."""
        return kl_divergence(self.target(stage), self.law(stage))

    def total_variation(self, stage: int = -1) -> float:
        """The total variation between a stage's law and its target, in one dimension."""
        return total_variation(self.law(stage), self.target(stage))

    def _stage(self, stage: int) -> int:
        return (
            whole_number("stage", stage, low=-self.tableau.stages, high=self.tableau.stages - 1) % self.tableau.stages
        )


def propagate(
    tableau: Tableau,
    gaussian: GaussianMixture,
    start: GaussianMixture | None = None,
    *,
    exact_until: float | None = None,
) -> Propagation:
    """The exact law of every stage of a sampler with the exact model of Gaussian data.

    Args:
        tableau: the sampler.
        gaussian: the law of the data, a Gaussian (possibly degenerate).
        start: the Gaussian law of x; p_t at the first time unless given.
        exact_until: stages at this time and noisier ones are put on the exact probability flow from x, so that a
            multistep method has an exact history, or its last step stands alone.

    Raises:
        TypeError: a law that is not Gaussian.
        ValueError: a law of another dimension than the weights, or a stage evaluated where p_t has no density.
    """
    for name, law in (("gaussian", gaussian), ("start", start)):
        if law is not None and not (isinstance(law, GaussianMixture) and law.count == 1):
            raise TypeError(f"{name} must be a Gaussian, got {law!r}")
    table = to_coordinate(tableau, "x")
    dim, c = gaussian.dim, table.coefficients
    for axes in (table.axes, table.noise.shape[2:], c.alpha.shape[1:]):
        if axes and axes[0] != dim:
            raise ValueError(f"gaussian must have {axes[0]} axes like the tableau, got {dim}")
    first = Channel(c.alpha[0], 0.0, c.sigma[0] ** 2).push(gaussian) if start is None else start
    if first.dim != dim:
        raise ValueError(f"start must have dimension {dim}, got {first.dim}")
    covariance, basis = gaussian.covariance, None
    if covariance.ndim == 2 and not table.axes and table.noise.ndim == 2 and c.alpha.ndim == 1:
        values, basis = np.linalg.eigh(covariance)
        covariance = np.maximum(values, 0.0)
    mean = gaussian.means[0] if basis is None else basis.T @ gaussian.means[0]
    fixed = {} if exact_until is None else _on_the_flow(table, mean, covariance, exact_until)
    gains, offsets, spreads = _substitute(table, mean, covariance, fixed)
    return Propagation(table, gaussian, Gaussian(first.means[0], first.covariance), gains, offsets, spreads, basis)


def affine(prediction: str, c: Coefficients, covariance: Operator, dim: int) -> tuple[Operator, Operator]:
    """(K, k) with the exact prediction K (x - alpha m) + k m for data N(m, covariance).

    Raises:
        ValueError: p_t has no density.
    """
    noised = operators.add(operators.sandwich(c.alpha, covariance), c.sigma**2 * np.ones(dim))
    if noised.ndim < 2:
        if (noised == 0).any():
            raise ValueError(f"tableau must be evaluated where p_t has a density, got alpha = {c.alpha}, "
                             f"sigma = {c.sigma}")  # fmt: skip
        precision = 1 / noised
    else:
        precision = np.linalg.inv(noised)
    zero = np.zeros_like(c.alpha)
    # a x with a = alpha: the covariance of x_0 and x is S a
    clean = operators.product(operators.product(covariance, c.alpha), precision)
    found = {
        "denoiser": lambda: (clean, zero + 1.0),
        "noise": lambda: (operators.product(c.sigma, precision), zero),
        "score": lambda: (-precision, zero),
        "velocity": lambda: (
            operators.add(operators.product(c.dalpha, clean), operators.product(0.5 * c.dvariance, precision)),
            c.dalpha,
        ),
        "v_prediction": lambda: (
            operators.add(operators.product(c.alpha * c.sigma, precision), -operators.product(c.sigma, clean)),
            -c.sigma,
        ),
    }
    return found[prediction]()


def flow(start: Coefficients, end: Coefficients, mean: Array, variances: Operator) -> tuple[Operator, Array]:
    """The exact probability flow x -> G x + b between two times for data N(m, diag v): G = sqrt(V_end / V_start)."""
    one, two = (c.alpha**2 * variances + c.sigma**2 for c in (start, end))
    gain = np.sqrt(two / one)
    return gain, end.alpha * mean - gain * start.alpha * mean


def _on_the_flow(table: Tableau, mean: Array, covariance: Operator, until: float) -> dict[int, tuple[Operator, Array]]:
    if covariance.ndim == 2:
        raise ValueError("gaussian must have a covariance along the axes of the tableau to have a flow in closed form")
    at = [Coefficients(*(part[k] for part in table.coefficients)) for k in range(table.stages)]
    return {k: flow(at[0], at[k], mean, covariance) for k in range(1, table.stages) if table.times[k] >= until}


def _substitute(
    table: Tableau, mean: Array, covariance: Operator, fixed: dict[int, tuple[Operator, Array]]
) -> tuple[tuple[Operator, ...], tuple[Array, ...], tuple[Operator, ...]]:
    """Gain, offset and noise covariance of every stage, in the basis."""
    dim, c = len(mean), table.coefficients
    gains: list[Operator] = [np.asarray(1.0)]
    offsets: list[Array] = [np.zeros(dim)]
    spreads: list[Operator] = [np.zeros(dim)]
    outputs: dict[int, tuple[Operator, Array]] = {}  # o_j = K y_j + shift
    covariances = _Covariances(table)
    for k in range(table.stages):
        if k in fixed:
            gains.append(fixed[k][0])
            offsets.append(fixed[k][1])
            spreads.append(np.zeros(dim))
        elif k > 0:
            states, own, drawn = table.row(k)
            # every output is a multiple of its stage and a constant
            weights: dict[int, Operator] = dict(states)
            offset = np.zeros(dim)
            for j, w in own:
                of_state, shift = outputs[j]
                term = operators.product(w, of_state)
                weights[j] = operators.add(weights[j], term) if j in weights else term
                offset = offset + operators.apply(w, shift)
            gain: Operator = np.asarray(0.0)
            for j, w in weights.items():
                gain = operators.add(gain, operators.product(w, gains[j]))
                offset = offset + operators.apply(w, offsets[j])
            gains.append(gain)
            offsets.append(offset)
            spreads.append(covariances.stage(k, weights, dict(drawn)) if table.stochastic else np.zeros(dim))
        if table.evaluated[k]:
            here = Coefficients(*(part[k] for part in c))
            of_state, of_mean = affine(table.prediction, here, covariance, dim)
            outputs[k] = of_state, operators.apply(of_mean, mean) - operators.apply(of_state, here.alpha * mean)
    return tuple(gains), tuple(offsets), tuple(spreads)


class _Covariances:
    """Covariances of the noise in the stages of the window, and of these stages with the normals of the window."""

    def __init__(self, table: Tableau) -> None:
        self.reach, self.table = max(table.window[:2]), table
        self.between: dict[tuple[int, int], Operator] = {}  # Cov(y_i, y_j), i >= j
        self.with_normal: dict[tuple[int, int], Operator] = {}  # Cov(y_i, z_m)
        self.noisy: list[int] = []  # stages of the window with any noise in them

    def stage(self, k: int, weights: dict[int, Operator], drawn: dict[int, Operator]) -> Operator:
        """Take in stage k = sum weights y_j + sum drawn z_m; its own covariance."""
        oldest, newest = k - self.reach, int(self.table.normals[k])
        first_normal = newest - self.table.window[2]
        self.noisy = [j for j in self.noisy if j >= oldest]
        normals = range(max(first_normal, 0), newest)
        own: dict[int, Operator] = {}  # Cov(y_k, z_m)
        for m in normals:
            terms = [
                operators.product(w, self.with_normal[j, m]) for j, w in weights.items() if (j, m) in self.with_normal
            ]
            terms += [drawn[m]] if m in drawn else []
            if terms:
                own[m] = _sum(terms)
        crosses: dict[int, Operator] = {}  # Cov(y_k, y_i)
        for i in self.noisy:
            terms = [operators.product(w, self._pair(j, i)) for j, w in weights.items() if j in self.noisy]
            terms += [
                operators.product(w, self.with_normal[i, m].T) for m, w in drawn.items() if (i, m) in self.with_normal
            ]
            crosses[i] = _sum(terms)
        terms = [operators.product(crosses[j], w.T) for j, w in weights.items() if j in crosses]
        terms += [operators.product(own[m], w.T) for m, w in drawn.items()]
        variance = _sum(terms)
        if terms:
            self.noisy.append(k)
            self.between |= {(k, i): cross for i, cross in crosses.items()} | {(k, k): variance}
            self.with_normal |= {(k, m): cross for m, cross in own.items()}
        for known in (self.between, self.with_normal):
            for pair in [pair for pair in known if pair[0] < oldest + 1 and pair[0] != k]:
                del known[pair]
        for pair in [p for p in self.between if p[1] < oldest + 1 and p[1] != k]:
            del self.between[pair]
        for pair in [p for p in self.with_normal if p[1] < first_normal]:
            del self.with_normal[pair]
        return variance

    def _pair(self, i: int, j: int) -> Operator:
        return self.between[i, j] if i >= j else self.between[j, i].T


def _sum(terms: list[Operator]) -> Operator:
    total: Operator = np.asarray(0.0)
    for term in terms:
        total = operators.add(total, term)
    return total


def _rotated(a: Operator, basis: Array) -> Operator:
    """A in the basis, written in the axes."""
    return a if a.ndim == 0 else np.asarray((basis * a) @ basis.T)
