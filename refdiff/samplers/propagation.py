r"""The exact law of every stage for Gaussian data: no Monte Carlo, for any number of steps.

For data N(m, S) every prediction is affine, o = K (x - alpha m) + k m with P = (alpha^2 S + sigma^2)^-1 and

    denoiser  K = alpha S P,   k = 1          velocity  K = alpha' alpha S P + (sigma^2)' P / 2,   k = alpha'
    noise     K = sigma P,     k = 0          v         K = alpha sigma P - sigma alpha S P,       k = -sigma
    score     K = -P,          k = 0

and, for processes with matrices, A and R in place of alpha and sigma (`Motion`).

so with x the start a stage is  y_k = G_k x + b_k + n_k: G_k and b_k follow by substitution, the covariance of the noise
n_k by carrying that of the stages and normals in the window. The part of the start stays apart from the part of the
noise, so a deterministic sampler is known as a map, not only through its variance.

Where the weights are numbers and S is full, everything happens in the eigenbasis of S. Of a process with an offset b,
these are the laws of x - b. Sources: PODC9-11, PODC9-16,
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
from refdiff.operators import Operator, product
from refdiff.processes import Motion
from refdiff.samplers.conversions import to_coordinate
from refdiff.samplers.numbers import sqrt
from refdiff.samplers.tableau import Tableau


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
    data: Gaussian
    start: Gaussian
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

    def law(self, stage: int = -1) -> Gaussian:
        """The law of y_k, the output unless a stage is given."""
        return as_gaussian("law", self.channel(stage).push(self.start))

    def cross_covariance(self, stage: int = -1) -> Operator:
        """Cov(y_k, x) = G_k Cov(x)."""
        return product(self.channel(stage).gain, self.start.covariance)

    @cached_property
    def output(self) -> Gaussian:
        """The law of the output."""
        return self.law()

    def target(self, stage: int = -1) -> Gaussian:
        """What the law of y_k should be: p_t at its time."""
        m = self.tableau.motion(self._stage(stage))
        return as_gaussian("data", Channel(m.gain, 0.0, m.noise).push(self.data))

    def wasserstein(self, stage: int = -1) -> float:
        """The 2-Wasserstein distance of a stage's law to its target; the output's unless a stage is given."""
        return wasserstein(self.law(stage), self.target(stage))

    def kl(self, stage: int = -1) -> float:
        """KL(law of the stage || target), in nats."""
        return kl_divergence(self.law(stage), self.target(stage))

    def total_variation(self, stage: int = -1) -> float:
        """The total variation between a stage's law and its target, in one dimension."""
        return total_variation(self.law(stage), self.target(stage))

    def _stage(self, stage: int) -> int:
        count = self.tableau.stages
        return whole_number("stage", stage, low=-count, high=count - 1) % count


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
        start: the Gaussian law of x (of x - b, where there is an offset b); p_t at the first time unless given.
        exact_until: stages at this time and noisier ones are put on the exact probability flow from x, so that a
            multistep method has an exact history, or its last step stands alone.

    Raises:
        TypeError: a law that is not Gaussian.
        ValueError: a law of another dimension than the weights, or a stage evaluated where p_t has no density.

    Examples:
        >>> from refdiff import Gaussian, VEPower
        >>> from refdiff.samplers import propagate
        >>> from refdiff.samplers.ddim import ddim
        >>> law = propagate(ddim(VEPower(), [3.0, 0.0]), Gaussian([0.0], 1.0))  # x -> x / 10 of variance 10
        >>> print(law.output.cov().round(6), law.target().cov())
        [[0.1]] [[1.]]
    """
    if not isinstance(tableau, Tableau):
        raise TypeError(f"tableau must be a Tableau, got {tableau!r}")
    data = as_gaussian("gaussian", gaussian)
    table = to_coordinate(tableau, "x")
    dim, m = data.dim, table.motion(0)
    for axes in (table.axes, table.noise.shape[2:], m.gain.shape):
        if axes and axes[0] != dim:
            raise ValueError(f"gaussian must have {axes[0]} axes like the tableau, got {dim}")
    noised = Channel(m.gain, 0.0, m.noise).push(data) if start is None else start
    first = as_gaussian("start", noised)
    if first.dim != dim:
        raise ValueError(f"start must have dimension {dim}, got {first.dim}")
    covariance, basis = data.covariance, None
    if covariance.ndim == 2 and not table.axes and table.noise.ndim == 2 and m.gain.ndim == 0:
        values, basis = np.linalg.eigh(covariance)
        covariance = np.maximum(values, 0.0)
    mean = data.means[0] if basis is None else basis.T @ data.means[0]
    gains, offsets, spreads = substitute(table, mean, covariance, exact_until)
    return Propagation(table, data, first, gains, offsets, spreads, basis)


def as_gaussian(name: str, law: GaussianMixture) -> Gaussian:
    """A law with one component as a Gaussian; the name is that of the argument, for errors.

    Raises:
        TypeError: several components, or no law.
    """
    if not isinstance(law, GaussianMixture) or law.count != 1:
        raise TypeError(f"{name} must be a Gaussian, got {law!r}")
    return law if isinstance(law, Gaussian) else Gaussian(law.means[0], law.covariances.operator())


def exact_prediction(prediction: str, m: Motion, covariance: Operator, dim: int) -> tuple[Operator, Operator]:
    """(K, k) with the exact prediction K (x - A mean) + k mean for data N(mean, covariance).

    m is the motion of the process at the time, dim the dimension of the data.

    Raises:
        ValueError: p_t has no density, or v is asked of a process with matrices.
    """
    noised = operators.add(operators.sandwich(m.gain, covariance), operators.add(m.noise, np.zeros(dim)))
    try:
        with np.errstate(divide="raise"):
            precision: Operator = np.asarray(1 / noised if noised.ndim < 2 else np.linalg.inv(noised))
    except (FloatingPointError, np.linalg.LinAlgError):
        where = f"got the gain {m.gain} and the noise variance {m.noise}"
        raise ValueError(f"tableau must be evaluated where p_t has a density, {where}") from None
    clean, nothing = product(product(covariance, m.gain.T), precision), np.zeros_like(m.gain)  # S A' P
    if prediction == "denoiser":
        return clean, np.ones_like(m.gain) if m.gain.ndim < 2 else np.eye(dim)
    if prediction == "noise":
        return product(m.root.T, precision), nothing
    if prediction == "score":
        return -precision, nothing
    if prediction == "velocity":
        return operators.add(product(m.dgain, clean), product(m.spread, precision)), m.dgain
    if m.gain.ndim == 2:
        raise ValueError("tableau must not ask for v_prediction of a process with matrices")
    return operators.add(product(m.gain * m.root, precision), -product(m.root, clean)), -m.root


def flow(start: Motion, end: Motion, mean: Array, variances: Operator) -> tuple[Operator, Array]:
    """The exact probability flow x -> G x + b between two times for data N(m, diag v): G = sqrt(V_end / V_start).

    mean is m and variances are v, each (d,).
    """
    before, after = (m.gain**2 * variances + m.noise for m in (start, end))
    gain = sqrt(after / before)
    return gain, end.gain * mean - gain * start.gain * mean


def _on_the_flow(table: Tableau, mean: Array, covariance: Operator, until: float) -> dict[int, tuple[Operator, Array]]:
    if covariance.ndim == 2 or table.motion(0).gain.ndim == 2:
        raise ValueError("gaussian must have a covariance along the axes of the tableau to have a flow in closed form")
    late = [k for k in range(1, table.stages) if table.times[k] >= until]
    return {k: flow(table.motion(0), table.motion(k), mean, covariance) for k in late}


def substitute(
    table: Tableau, mean: Array, covariance: Operator, exact_until: float | None = None
) -> tuple[tuple[Operator, ...], tuple[Array, ...], tuple[Operator, ...]]:
    """Gain, offset and noise covariance of every stage in x, for data N(mean, covariance): (d,) or (d, d) each.

    Stages at `exact_until` and noisier ones are put on the exact flow.
    """
    dim = len(mean)
    fixed = {} if exact_until is None else _on_the_flow(table, mean, covariance, exact_until)
    gains: list[Operator] = [np.asarray(1.0)]
    offsets: list[Array] = [np.zeros(dim)]
    spreads: list[Operator] = [np.zeros(dim)]
    outputs: dict[int, tuple[Operator, Array]] = {}  # o_j = K y_j + shift
    noise = _NoiseCovariances(table)
    for k in range(table.stages):
        if k in fixed:
            gain, offset, spread = *fixed[k], np.zeros(dim)
        elif k > 0:
            weights, offset, drawn = _reduced(table, k, outputs, dim)
            gain = np.asarray(0.0)
            for j, w in weights.items():
                gain = operators.add(gain, product(w, gains[j]))
                offset = offset + operators.apply(w, offsets[j])
            spread = noise.stage(k, weights, drawn) if table.stochastic else np.zeros(dim)
        if k > 0:
            gains.append(gain)
            offsets.append(offset)
            spreads.append(spread)
        if table.evaluated[k]:
            here = table.motion(k)
            of_state, of_mean = exact_prediction(table.prediction, here, covariance, dim)
            centre = operators.apply(here.gain, mean)
            outputs[k] = of_state, operators.apply(of_mean, mean) - operators.apply(of_state, centre)
    return tuple(gains), tuple(offsets), tuple(spreads)


def _reduced(
    table: Tableau, k: int, outputs: dict[int, tuple[Operator, Array]], dim: int
) -> tuple[dict[int, Operator], Array, dict[int, Operator]]:
    """Stage k as sum_j w_j y_j + offset + sum_m w_m z_m: every output is a multiple of its stage and a constant."""
    states, own, drawn = table.row(k)
    weights: dict[int, Operator] = dict(states)
    offset = np.zeros(dim)
    for j, w in own:
        of_state, shift = outputs[j]
        term = product(w, of_state)
        weights[j] = operators.add(weights[j], term) if j in weights else term
        offset = offset + operators.apply(w, shift)
    return weights, offset, dict(drawn)


class _NoiseCovariances:
    """Covariances of the noise parts of the stages in the window, and of these with the normals in the window."""

    def __init__(self, table: Tableau) -> None:
        self.table, self.reach = table, max(table.window[:2])
        self.of_stages: dict[tuple[int, int], Operator] = {}  # Cov(n_i, n_j), i >= j
        self.with_normals: dict[tuple[int, int], Operator] = {}  # Cov(n_i, z_m)
        self.noisy: list[int] = []  # the stages of the window that have any noise in them

    def stage(self, k: int, weights: dict[int, Operator], drawn: dict[int, Operator]) -> Operator:
        """Take in n_k = sum_j w_j n_j + sum_m w_m z_m; its covariance."""
        newest = int(self.table.normals[k])
        self._forget(k - self.reach, newest - self.table.window[2])
        own: dict[int, Operator] = {}  # Cov(n_k, z_m)
        for m in {m for _, m in self.with_normals} | set(drawn):
            terms = [product(w, self.with_normals[j, m]) for j, w in weights.items() if (j, m) in self.with_normals]
            own[m] = _sum([*terms, drawn[m]] if m in drawn else terms)
        crosses: dict[int, Operator] = {}  # Cov(n_k, n_i)
        for i in self.noisy:
            terms = [product(w, self._pair(j, i)) for j, w in weights.items() if j in self.noisy]
            known = [(w, self.with_normals[i, m]) for m, w in drawn.items() if (i, m) in self.with_normals]
            crosses[i] = _sum(terms + [product(w, cross.T) for w, cross in known])
        own_terms = [product(own[m], w.T) for m, w in drawn.items()]
        terms = [product(crosses[j], w.T) for j, w in weights.items() if j in crosses] + own_terms
        variance = _sum(terms)
        if terms:
            self.noisy.append(k)
            self.of_stages |= {(k, i): cross for i, cross in crosses.items()} | {(k, k): variance}
            self.with_normals |= {(k, m): cross for m, cross in own.items()}
        return variance

    def _pair(self, i: int, j: int) -> Operator:
        return self.of_stages[i, j] if i >= j else self.of_stages[j, i].T

    def _forget(self, oldest_stage: int, oldest_normal: int) -> None:
        """Drop what no later stage refers to."""
        self.noisy = [j for j in self.noisy if j >= oldest_stage]
        self.of_stages = {pair: c for pair, c in self.of_stages.items() if min(pair) >= oldest_stage}
        self.with_normals = {
            (j, m): c for (j, m), c in self.with_normals.items() if j >= oldest_stage and m >= oldest_normal
        }


def _sum(terms: list[Operator]) -> Operator:
    total: Operator = np.asarray(0.0)
    for term in terms:
        total = operators.add(total, term)
    return total


def _rotated(a: Operator, basis: Array) -> Operator:
    """A in the basis, written in the axes."""
    return a if a.ndim == 0 else np.asarray((basis * a) @ basis.T)
