r"""Bridges with known answers for solvers, in any dimension: chosen potentials, and weights that keep all components.

    balanced     Psihat_0 = sum_i u_i N(a_i, A_i),  Psi_T = sum_j v_j N(b_j, B_j):   u_i sum_j L_ij v_j = p_i,
                 v_j sum_i u_i L_ij = q_j,   L_ij = N(b_j; K a_i + k, K A_i K' + N + B_j)
    benchmark    x_0 ~ N(0, I),  Psi_T = e^(|y|^2 / 2 eps T) sum_j w_j N(y; b_j, eps T S_j),  |b_j| = radius

The first has mixtures at both ends, every component of which takes part: Sinkhorn's iteration on components; for points
it is their bridge. p_0 and p_T have a component for each pair. The second is made as the pairs of Gushchin et al. are:
p_T is known by draws and by expectations, the drift in closed form, and the plan given x_0 = x has the components
N(b_j + S_j x, eps T S_j). Sources: PODB-74, PODB-83; Gushchin et al. 2023, "Building the bridge of Schroedinger: a
continuous entropic optimal transport benchmark"; Korotin, Gushchin and Burnaev 2024, "Light Schroedinger bridge".
"""

from __future__ import annotations

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, generator, real_scalar, whole_number
from refdiff.distributions import Empirical, Gaussian, GaussianMixture
from refdiff.distributions.mixture import law
from refdiff.processes import Process
from refdiff.schedules import Schedule
from refdiff.schroedinger.mixtures import MixtureBridge
from refdiff.schroedinger.one_sided import OneSidedBridge
from refdiff.schroedinger.potentials import ExponentialSum
from refdiff.schroedinger.reference import reference_process
from refdiff.transport import sinkhorn


def balanced_bridge(
    first: GaussianMixture,
    second: GaussianMixture,
    process: Process | Schedule | float,
    T: float | None = None,
    *,
    tolerance: float = 1e-11,
) -> MixtureBridge:
    """The bridge whose potentials have these components, in which each of them has the mass of its weight.

    Args:
        first: components of Psihat_0, and the mass of each in p_0.
        second: components of Psi_T, and the mass of each in p_T.
        process: the reference: a Process, a Schedule, or eps of Brownian motion sqrt(eps) w.
        T: the end; the process's own unless given, 1 of Brownian motion.
        tolerance: of the masses, of Sinkhorn.

    Raises:
        TypeError: a law or a reference that is none.
        ValueError: dimensions that differ, or a pair of components without a density between them.
        Unconverged: Sinkhorn stays above the tolerance.
    """
    free = MixtureBridge(first, second, process, T)  # checks its arguments
    step = free.process.channel(0.0, free.T)
    logs = np.empty((first.count, second.count))
    for j in range(second.count):
        noise = operators.add(step.noise, second.covariances[j : j + 1].operator())
        for i in range(first.count):
            one = Gaussian(first.means[i], first.covariances[i : i + 1].operator())
            seen = one.affine(step.gain, step.offset).convolve(noise)
            logs[i, j] = float(np.asarray(seen.logpdf(second.means[j])))
    labels = [Empirical(np.arange(float(one.count))[:, None], one.weights) for one in (first, second)]
    plan = sinkhorn(labels[0], labels[1], 1.0, cost=-logs, tolerance=tolerance)
    start = _reweighted(first, first.log_weights + plan.f)
    end = _reweighted(second, second.log_weights + plan.g)
    return MixtureBridge(start, end, free.process, free.T)


def benchmark_bridge(
    dim: int,
    epsilon: float,
    components: int = 5,
    seed: int | np.random.Generator = 0,
    *,
    radius: float = 5.0,
    spread: tuple[float, float] = (0.5, 1.5),
    T: float = 1.0,
) -> OneSidedBridge:
    """A pair of laws from N(0, I) with a known bridge of sqrt(eps) w, as those of Gushchin et al. are made.

    Args:
        dim: d.
        epsilon: eps, the noise rate.
        components: how many terms the potential has.
        seed: of their places and shapes.
        radius: the distance of their centres from 0.
        spread: the least and the largest eigenvalue of S_j, drawn evenly between in random axes.
        T: the end.

    Raises:
        ValueError: a number out of range, or a least eigenvalue above the largest.
    """
    d, count = whole_number("dim", dim, low=1), whole_number("components", components, low=1)
    far, rng = real_scalar("radius", radius, low=0), generator(seed)
    largest = real_scalar("spread", spread[1], low=0, open_low=True)
    least = real_scalar("spread", spread[0], low=0, high=largest, open_low=True)
    process, end = reference_process(epsilon, T)
    noise = float(process.channel(0.0, end).noise)
    places = rng.standard_normal((count, d))
    places *= far / np.linalg.norm(places, axis=1, keepdims=True)
    axes, _ = np.linalg.qr(rng.standard_normal((count, d, d)))
    values = rng.uniform(least, largest, (count, 1, d))
    shapes = noise * (axes * values) @ np.swapaxes(axes, 1, 2)
    terms = GaussianMixture.full(places, 0.5 * (shapes + np.swapaxes(shapes, 1, 2)))
    return OneSidedBridge(Gaussian(np.zeros(d), 1.0), ExponentialSum.adjusted(terms, noise), process, end)


def _reweighted(given: GaussianMixture, logs: Array) -> GaussianMixture:
    """The components of a law with other log weights (K,), made to sum to 1."""
    return law(logs - np.logaddexp.reduce(logs), given.means, given.covariances)
