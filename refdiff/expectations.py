r"""Expectations over a law, by a stated route and with a stated error.

    Quadrature   E f(x) = sum_k w_k sum_z h^d phi(z) f(m_k + L_k z),  S_k = L_k L_k',  z on the lattice h Z^d
    MonteCarlo   the mean over n draws, with its standard error; a draw depends on seed and its number alone

h is halved until two sums agree. Sums over a lattice of what is analytic within a strip of half-width a err by
e^(-2 pi a / h): they gain as many digits with every halving as they had, where Gauss-Hermite with n nodes errs by
e^(-2 a sqrt(2 n)) only. Posterior moments of mixtures have their poles near the line, where two components change
places. Sources: PODB-10 and DMI-27, whose losses these expectations are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refdiff.arguments import Array, real_scalar, whole_number
from refdiff.distributions import GaussianMixture
from refdiff.random import normals, seed_key, uniforms

REACH = 8.5  # 2e-17 of a normal's mass lies beyond
FLOOR = 1e-15  # with the rounding of a sum of weights that is 1
LABELS, START = 0, 1  # which draw of a counter is which: of the component, of the data; noises follow


@dataclass(frozen=True)
class Quadrature:
    """Sums over a lattice along the axes of every component: for few dimensions.

    Args:
        tolerance: relative, on the difference of the sums of h and h / 2; the finer sum is far better than that.
        most: nodes that may be needed, for all components together.

    Raises:
        ValueError: the tolerance is not in (0, 1), or `most` not positive.
    """

    tolerance: float = 1e-9
    most: int = 2**22

    def __post_init__(self) -> None:
        real_scalar("tolerance", self.tolerance, low=0, high=1, open_low=True)
        whole_number("most", self.most, low=1)


@dataclass(frozen=True)
class MonteCarlo:
    """Means over draws by counter (see `refdiff.random`): the first draws are the same whatever their number.

    Args:
        samples: n, how many, at least 2.
        seed: an int in [0, 2^64).

    Raises:
        ValueError: fewer than 2 samples, or a seed that is none.
    """

    samples: int
    seed: int

    def __post_init__(self) -> None:
        whole_number("samples", self.samples, low=2)
        seed_key(whole_number("seed", self.seed))


Route = Quadrature | MonteCarlo


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value by a route.

    Attributes:
        value: shape (...).
        error: shape (...); 0 in closed form, the difference of two sums by quadrature, a standard error by Monte Carlo.
        route: "closed", "quadrature" or "monte carlo".
    """

    value: Any
    error: Any
    route: str


def checked(route: Route | None) -> Route:
    """The route, where one is needed.

    Raises:
        ValueError: there is none.
        TypeError: it is something else.
    """
    if route is None:
        raise ValueError("route must be a Quadrature or a MonteCarlo here, got None: there is no closed form")
    if not isinstance(route, (Quadrature, MonteCarlo)):
        raise TypeError(f"route must be a Quadrature, a MonteCarlo or None, got {route!r}")
    return route


def name_of(route: Route | None) -> str:
    """closed, quadrature or monte carlo."""
    return {Quadrature: "quadrature", MonteCarlo: "monte carlo", type(None): "closed"}[type(route)]


def draws(law: GaussianMixture, samples: int, key: int) -> Array:
    """Draws of a law by counter, shape (samples, d); `key` is a seed."""
    ladder = np.cumsum(law.weights)
    labels = np.searchsorted(ladder / ladder[-1], uniforms(key, samples, LABELS, 1)[:, 0])
    return np.asarray(law.means[labels] + law.covariances.colour(normals(key, samples, START, law.dim), labels))


def expectation(
    law: GaussianMixture, function: Callable[[Array], Array], route: Route | None, scale: float = 1.0
) -> Estimate:
    """E f(x) over a law for f from (n, d) to (n, ...), with its error, both of shape (...).

    Args:
        law: of x.
        function: f.
        route: how it is taken.
        scale: the size of f, as of `integral`.

    Raises:
        ValueError: there is no route, or its tolerance is not met within the nodes that may be taken.
        TypeError: the route is something else.
    """
    way = checked(route)
    if isinstance(way, Quadrature):
        value, change = integral(law, function, way, scale)
        return Estimate(value[()], np.full(value.shape, change)[()], name_of(way))
    values = function(draws(law, way.samples, way.seed))
    return Estimate(values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(way.samples), name_of(way))


def integral(
    law: GaussianMixture, function: Callable[[Array], Array], rule: Quadrature, scale: float
) -> tuple[Array, float]:
    """E f(x) over a law (singular or not) for f from (n, d) to (n, ...), and the largest last change of it.

    Args:
        law: of x.
        function: f.
        rule: the tolerance, and how many nodes may be taken.
        scale: what is as good as nothing beside FLOOR of it: where f is of that size, so is the mass beyond REACH.

    Raises:
        ValueError: the tolerance is not met within the nodes that may be taken.
    """
    h, before = _first_spacing(law), None
    while True:
        nodes, weights = _lattice(law, h, rule)
        found = np.tensordot(weights, function(nodes), axes=1)
        if before is not None:
            change = float(np.abs(found - before).max())
            if change <= rule.tolerance * np.abs(found).max() + FLOOR * scale:
                return found, change
        h, before = h / 2, found


def _first_spacing(law: GaussianMixture) -> float:
    """Half of the least over the largest deviation: a lattice of one component that sees where another one begins."""
    values = np.linalg.eigvalsh(law.covariances.dense(law.dim))
    largest = float(values.max())
    least = float(values[values > largest * 1e-14].min()) if largest else 1.0  # an axis without spread has no scale
    return 0.5 * float(np.sqrt(least / largest)) if largest else 0.5


def _lattice(law: GaussianMixture, h: float, rule: Quadrature) -> tuple[Array, Array]:
    """Nodes (n, d) and weights (n,) of every component that has a weight."""
    steps = int(REACH / h)
    kept: NDArray[np.intp] = np.flatnonzero(law.weights)
    if len(kept) * float(2 * steps + 1) ** law.dim > rule.most:
        raise ValueError(
            f"route must be a MonteCarlo, or a Quadrature with more nodes, got {rule} for {law.dim} dimensions and "
            f"{len(kept)} components: a lattice of spacing {h:.3g} has too many"
        )
    line = h * np.arange(-steps, steps + 1, dtype=np.float64)
    density = np.exp(-0.5 * line**2)
    density /= density.sum()
    z = np.stack(np.meshgrid(*[line] * law.dim, indexing="ij"), axis=-1).reshape(-1, law.dim)
    w = np.stack(np.meshgrid(*[density] * law.dim, indexing="ij"), axis=-1).reshape(-1, law.dim).prod(axis=1)
    labels = np.repeat(kept, len(z))
    nodes = law.means[labels] + law.covariances.colour(np.tile(z, (len(kept), 1)), labels)
    return nodes, np.tile(w, len(kept)) * law.weights[labels]
