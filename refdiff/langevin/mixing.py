r"""How fast Langevin mixes on the line: the spectrum of its generator, exactly to rounding also where it is tiny.

    L f = (M p f')' / p,      -L f = lambda f,      |e^(tL) f|_p <= e^(-lambda_1 t) |f|_p  for E f = 0

lambda_1 is the spectral gap, the best constant of Poincare's inequality, 1 / lambda_1 the relaxation time. Behind a
barrier of height B it is of the order e^-B: no solver of eigenvalues sees it beside its others, 1 / s^2 and more. But
the currents g = M p f' obey -(g' / p)' = lambda g / (M p) with g = 0 at both ends, whose Green's function is known,

    g(x) / lambda = int F(min(x, y)) (1 - F(max(x, y))) g(y) / (M p(y)) dy

with F the distribution function: a positive operator, of which 1 / lambda_1 is the *largest* eigenvalue, without a
digit lost. It lies between B / 2 and 4 B of Muckenhoupt. Sources: PODA-307, PODA-309;
Muckenhoupt 1972; Bobkov and Goetze 1999.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import eigs

from refdiff.arguments import Array, real_array, whole_number
from refdiff.distributions import GaussianMixture, log_cdf, quantile
from refdiff.langevin.line import ORDER, Mobility, cumulative, mobilities, panels, stds
from refdiff.model import ExactModel

MOST = 6000  # nodes: a matrix of 288 MB
LEAST = 1e-9  # what rounding of the largest eigenvalue leaves of a smaller one: a part in a million


def relaxation_rates(law: GaussianMixture, count: int = 1, mobility: Mobility = 1.0) -> Array:
    """The smallest nonzero eigenvalues lambda_1 <= ... of -L, shape (count,), the first to some twelve digits.

    Args:
        law: p, a mixture with a density, d = 1.
        count: how many, at most 20. A rate that is a thousand times the first has three digits less.
        mobility: M > 0, a number or a function of x (n, 1) with values (n, 1), no rougher than log p.

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, has no density, M is not positive, it needs too many nodes, or a rate is
            1e9 times the first.
    """
    x, weights, edges = _nodes(law)
    wanted = whole_number("count", count, low=1, high=20)
    half = 0.5 * (law.logpdf(x) + np.log(mobilities(mobility, x)))
    panel = np.arange(len(x)) // ORDER
    logs = (log_cdf(law, x) - half)[:, None] + (log_cdf(law, x, upper=True) - half)
    logs = np.where(panel[:, None] <= panel, logs, -np.inf)
    peak = float(logs.max())
    kernel = np.exp(logs - peak)  # F(x_i) (1 - F(x_j)) / sqrt(...) for i left of j
    up_to = cumulative(weights, edges)
    # y < x: F(y) (1 - F(x));  y > x: F(x) (1 - F(y))
    matrix = kernel.T * up_to + kernel * (weights - up_to)
    found = eigs(matrix, wanted, v0=np.ones(len(x)), return_eigenvectors=False, tol=0)
    values = np.sort(found.real)[::-1]
    if values[-1] < LEAST * values[0]:
        raise ValueError(
            f"count must ask for rates below {1 / LEAST:g} times the first, got {wanted}: only "
            f"{int((values >= LEAST * values[0]).sum())} of them are told from rounding"
        )
    return np.asarray(np.exp(-peak) / values)


def spectral_gap(law: GaussianMixture, mobility: Mobility = 1.0) -> float:
    """lambda_1 of -L for a `law` on the line and a `mobility` M (see `relaxation_rates`).

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.langevin import spectral_gap
        >>> print(round(float(spectral_gap(Gaussian([3.0], 4.0))), 9))  # 1 / variance
        0.25
    """
    return float(relaxation_rates(law, 1, mobility)[0])


def relaxation_times(model: ExactModel, times: ArrayLike, mobility: float = 1.0) -> Array:
    """1 / lambda_1 of Langevin at each noise level of a model on the line: what annealing saves.

    Args:
        model: an ExactModel with d = 1.
        times: in [0, T], any shape (...), at each of which there is a density.
        mobility: M > 0.

    Returns:
        shape (...).

    Raises:
        TypeError: no model.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.langevin import relaxation_times
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> print(relaxation_times(model, [0.0, 2.0]).round(6))  # the variance 1 + sigma^2
        [1. 5.]
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    when = real_array("times", times)
    gaps = np.array([spectral_gap(model.marginal(float(t)), mobility) for t in when.flat]).reshape(when.shape)
    with np.errstate(divide="ignore"):  # a gap below the range of numbers is 0, and its time infinite
        return np.asarray(1 / gaps)


def muckenhoupt(law: GaussianMixture, mobility: Mobility = 1.0) -> tuple[float, float]:
    """Bounds B / 2 <= 1 / lambda_1 <= 4 B of the relaxation time on the line, as (B / 2, 4 B).

    B is the larger one of sup_x (1 - F(x)) int_m^x dy / (M p(y)) right of the median m and its like on the left, over
    the nodes of a quadrature.

    Args:
        law: p, a mixture with a density, d = 1.
        mobility: M > 0, a number or a function of x (n, 1) with values (n, 1), no rougher than log p.

    Raises:
        TypeError: no law.
        ValueError: it is not on the line, has no density, M is not positive, or it needs too many nodes.
    """
    stds(law)
    median, sides = float(quantile(law, 0.5)[0]), []
    for right in (True, False):
        x, weights, edges = _nodes(law, median, None) if right else _nodes(law, None, median)
        logs = -law.logpdf(x) - np.log(mobilities(mobility, x))
        peak, inner = float(logs.max()), cumulative(weights, edges)
        found = (inner if right else weights - inner) @ np.exp(logs - peak)
        with np.errstate(divide="ignore", over="ignore"):  # bounds beyond the range of numbers are infinite
            sides.append(float(np.exp(np.max(np.log(np.maximum(found, 0.0)) + peak + log_cdf(law, x, upper=right)))))
    return max(sides) / 2, 4 * max(sides)


def _nodes(law: GaussianMixture, low: float | None = None, high: float | None = None) -> tuple[Array, Array, Array]:
    """Panels of which a matrix can be made."""
    x, weights, edges = panels(law, low, high)
    if len(x) > MOST:
        raise ValueError(f"law must need at most {MOST} nodes, got one that needs {len(x)}")
    return x, weights, edges
