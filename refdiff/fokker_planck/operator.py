r"""The Fokker-Planck equation of a stochastic equation on a grid, by finite volumes.

    d p_i / dt = sum_e  k+_(i-e) p_(i-e) + k-_(i+e) p_(i+e) - (k+_i + k-_i) p_i  =  (A p)_i

with the rates of `fluxes`: entries of A off its diagonal are not negative, and its columns sum to zero but for what
absorbing walls take. So e^(t A), and (1 - t A)^-1, keep p >= 0 and its mass for every t.

Time may run either way, as in a stochastic equation: from noise to data the drift is reversed and the noise is not,
d p / ds = div(b p) + 1/2 sum_ij d_i d_j (D_ij p) in the elapsed time s. Sources: PODD-76, PODD-77, DMI-59, PODD-108.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

from refdiff import operators
from refdiff.arguments import Array, answered, one_of, real_array
from refdiff.fokker_planck.fluxes import (
    BOUNDARIES,
    FITS,
    ROUNDING,
    THETA,
    Rates,
    Step,
    across,
    drift_along,
    fitted,
    links,
    steps,
    weights,
)
from refdiff.fokker_planck.grid import Grid
from refdiff.processes import AffineProcess, LinearProcess, Process
from refdiff.schedules import Schedule
from refdiff.stochastic import StochasticEquation


@dataclass(frozen=True, eq=False)
class FokkerPlanck:
    """d_t p = -div(b p) + 1/2 sum_ij d_i d_j (D_ij p) on a grid, or with D in another sense.

    Args:
        grid: of one or two dimensions.
        drift: (x, t) -> b at points x (n, d), shape (n, d).
        diffusion: (x, t) -> D at points x (n, d): for all points a number, variances (d,) or a matrix (d, d); or one
            for each, (n, d) or (n, d, d).
        sense: ito, stratonovich or fick, which differ where D depends on x; stratonovich for a diagonal D, as it
            depends on the root of any other.
        boundary: no-flux, periodic or absorbing, for all axes or one for each.
        steady: whether b and D do not depend on t: what is made of them is then made once.
        separable: whether b_i and D_ii depend on x_i and t alone, and D is diagonal: then all lines are alike.
        fit: fitted, hybrid, or limited, which is of second order without noise too (`evolve` with patankar, in NumPy;
            `matrix` has its linear part); for comparison upwind, of first order, and central, negative for |b| h > D.

    Raises:
        TypeError: no grid, or no functions.
        ValueError: an unknown sense, boundary or fit, or boundaries of another number of axes.
    """

    grid: Grid
    drift: Callable[[Array, float], ArrayLike]
    diffusion: Callable[[Array, float], ArrayLike]
    sense: str = "ito"
    boundary: str | Sequence[str] = "no-flux"
    steady: bool = False
    separable: bool = False
    fit: str = "fitted"
    _kept: dict[tuple[Step, bool], Rates | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.grid, Grid):
            raise TypeError(f"grid must be a Grid, got {self.grid!r}")
        for name in ("drift", "diffusion"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {getattr(self, name)!r}")
        one_of("sense", self.sense, THETA)
        one_of("fit", self.fit, FITS)
        given = [self.boundary] * self.grid.dim if isinstance(self.boundary, str) else list(self.boundary)
        if len(given) != self.grid.dim:
            raise ValueError(f"boundary must be one or one for each of {self.grid.dim} axes, got {given}")
        object.__setattr__(self, "boundary", tuple(one_of("boundary", each, BOUNDARIES) for each in given))

    @staticmethod
    def of(
        process: Process | Schedule, grid: Grid, *, boundary: str | Sequence[str] = "no-flux", fit: str = "fitted"
    ) -> FokkerPlanck:
        """The equation of a noising process, dx = [F x + u] dt + dw with the covariance D dt.

        Args:
            process: a Process or a Schedule.
            grid: in the process's number of dimensions.
            boundary: as of a FokkerPlanck.
            fit: as of a FokkerPlanck.

        Raises:
            TypeError: no process.
            ValueError: a process on another number of axes.
        """
        process = AffineProcess(process) if isinstance(process, Schedule) else process
        if not isinstance(process, Process):
            raise TypeError(f"process must be a Process or a Schedule, got {process!r}")
        if process.axes not in (None, grid.dim):
            raise ValueError(f"process must have {grid.dim} axes like the grid, got {process.axes}")

        def drift(x: Array, t: float) -> Array:
            return np.asarray(operators.apply(process.drift(t), x) + process.force(t))

        steady = isinstance(process, LinearProcess) and process.steady
        separable = isinstance(process, AffineProcess) or grid.dim == 1
        if steady:
            f, d = process.drift(0.0), process.diffusion(0.0)
            separable = not (f - np.diag(np.diag(f))).any() and not (d - np.diag(np.diag(d))).any()
        return FokkerPlanck(
            grid,
            drift,
            lambda _, t: process.diffusion(t),
            boundary=boundary,
            steady=steady,
            separable=separable,
            fit=fit,
        )

    @staticmethod
    def of_equation(
        equation: StochasticEquation,
        grid: Grid,
        *,
        boundary: str | Sequence[str] = "no-flux",
        steady: bool = False,
        separable: bool = False,
        fit: str = "fitted",
    ) -> FokkerPlanck:
        """The equation of a StochasticEquation, which is Ito's; that of a reversal where times decrease.

        Args:
            equation: of Ito, in the time that its own coefficients have.
            grid: in the equation's dimension.
            boundary: as of a FokkerPlanck.
            steady: as of a FokkerPlanck.
            separable: as of a FokkerPlanck.
            fit: as of a FokkerPlanck.

        Raises:
            TypeError: no StochasticEquation.
            ValueError: an equation of another dimension.
        """
        if not isinstance(equation, StochasticEquation):
            raise TypeError(f"equation must be a StochasticEquation, got {equation!r}")
        if equation.dim != grid.dim:
            raise ValueError(f"equation must have {grid.dim} dimensions like the grid, got {equation.dim}")
        drift, diffusion = equation.drift_at, equation.covariance_rate
        return FokkerPlanck(grid, drift, diffusion, boundary=boundary, steady=steady, separable=separable, fit=fit)

    # ------------------------------------------------------------------ rates

    def rates(self, t: float, *, to_data: bool = False) -> tuple[Rates, ...]:
        """The rates of all jumps at time t, in shapes that broadcast to the cells.

        Args:
            t: the time, a scalar.
            to_data: whether time runs from noise to data, which turns the drift round.

        Raises:
            ValueError: the drift or the diffusion answers with a wrong shape, a matrix that is not symmetric, a
                negative variance, or noise too correlated for the aspect of the cells.
        """
        found = (self.rates_along(step, t, to_data=to_data) for step in self.steps(t))
        return tuple(one for one in found if one is not None)

    def steps(self, t: float) -> tuple[Step, ...]:
        """The steps between neighbours along which something moves at time t, in units of the cells."""
        # three points: answers for all of them have another shape than one for each
        few = np.stack([np.full(3, self.grid.centres(axis)[0]) for axis in range(self.grid.dim)], axis=-1)
        few[:, -1] = self.grid.centres(self.grid.dim - 1)[:3]
        probe = np.asarray(self.diffusion(few, t))
        mixed = probe.ndim == 3 or (probe.shape == (2, 2) and probe[0, 1] != 0)
        return steps(self.grid.dim, bool(mixed))

    def rates_along(self, step: Step, t: float, *, to_data: bool = False) -> Rates | None:
        """The rates along one of the steps at time t, or None where there are none.

        Args:
            step: one of `steps(t)`.
            t: the time, a scalar.
            to_data: whether time runs from noise to data.
        """
        key = (step, to_data)
        if self.steady and key in self._kept:
            return self._kept[key]
        found = self._rates(step, t, -1.0 if to_data else 1.0)
        if self.steady:
            self._kept[key] = found
        return found

    def _rates(self, step: Step, t: float, sign: float) -> Rates | None:
        along = links(self.grid, step, self.boundary, self.separable)
        starts, ends = self._spreading(along.start, t), self._spreading(along.end, t)
        ends_weights = weights(starts, step), weights(ends, step)
        if sum(map(abs, step)) == 2 and not any(weight.any() for weight in ends_weights):
            return None
        drift = sign * answered("drift", self.drift(along.middle, t), along.middle.shape, finite=True)
        drift = drift / self.grid.spacing
        if starts.ndim == 2:
            moved = drift_along(drift, starts, ends_weights[0], step)
        else:
            between = self._spreading(along.middle, t)
            moved = drift_along(drift, between, weights(between, step), step)
        shaped = [part.reshape(along.shape) if len(part) > 1 else part for part in (moved, *ends_weights)]
        if self.sense == "stratonovich" and starts.ndim == 3 and np.ptp(starts, axis=0).any():
            raise ValueError(
                "sense must be ito or fick where D(x) is a matrix, got stratonovich: it depends on the root"
            )
        theta = THETA[self.sense]
        found = fitted(shaped[0], (shaped[1], shaped[2]), along.length, theta, self.fit)
        # up, down, and so on in turns
        cells = (along.up, along.down) * 2
        return Rates(step, *(np.where(along.alive, one, 0.0)[part] for one, part in zip(found, cells, strict=False)))

    def _spreading(self, x: Array, t: float) -> Array:
        """a = D / 2 in units of the sides at points x (n, d): (n, d) or (n, 2, 2), or with one row for all points."""
        n, d = x.shape
        found = real_array("diffusion", self.diffusion(x, t))
        if found.shape in ((), (d,)):
            found = np.broadcast_to(found, (1, d))
        elif found.shape == (d, d):
            found = found[None]
        elif found.shape not in ((n, d), (n, d, d)):
            raise ValueError(f"diffusion must answer for {n} points in {d} dimensions, got shape {found.shape}")
        h = self.grid.spacing
        if found.shape[1:] == (2, 2):
            uneven = np.abs(found[:, 0, 1] - found[:, 1, 0])
            if (uneven > ROUNDING * np.abs(found).max(axis=(1, 2))).any():
                raise ValueError(
                    f"diffusion must be symmetric, D and not its root, got {found[uneven.argmax()].tolist()}"
                )
        if found.ndim == 3 and (d == 1 or (len(found) == 1 and found[0, 0, 1] == 0)):
            found = np.einsum("nii->ni", found)
        if found.ndim == 2:
            if (found < 0).any():
                raise ValueError(f"diffusion must not be negative, got {found.min()}")
            return np.asarray(found / (2 * h**2))
        own, mixed = np.einsum("nii->ni", found), np.abs(found[:, 0, 1])
        if (own < 0).any():
            raise ValueError(f"diffusion must not be negative, got {own.min()}")
        if (mixed[:, None] * h > own * h[::-1] * (1 + ROUNDING)).any():
            with np.errstate(divide="ignore", invalid="ignore"):
                low, high = np.nanmax(mixed / own[:, 0]), np.nanmin(own[:, 1] / mixed)
            raise ValueError(
                "diffusion must not be so correlated for the sides of the cells: |D_12| / D_11 <= h_2 / h_1 <= D_22 / "
                f"|D_12| asks for h_2 / h_1 in [{low:.6g}, {high:.6g}], got {h[1] / h[0]:.6g}"
            )
        return np.asarray(found / (2 * np.outer(h, h)))

    # ------------------------------------------------------------------ the matrix

    def matrix(self, t: float, *, to_data: bool = False) -> csr_array:
        """A of d p / dt = A p for densities p of all cells, flat in C order: sparse, shape (N, N).

        Its transpose is the generator of the backward equation, d_t u + A' u = 0.

        Args:
            t: the time, a scalar.
            to_data: whether time runs from noise to data: then d p / ds = A p in the elapsed time s.

        Examples:
            >>> from refdiff.fokker_planck import FokkerPlanck, Grid
            >>> heat = FokkerPlanck(Grid(0.0, 3.0, 3), lambda x, t: 0 * x, lambda x, t: 2.0)  # d_t p = p''
            >>> print(heat.matrix(0.0).toarray().round(6) + 0.0)
            [[-1.  1.  0.]
             [ 1. -2.  1.]
             [ 0.  1. -1.]]
        """
        entries = [part for rates in self.rates(t, to_data=to_data) for part in self._entries(rates)]
        rows, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
        size = int(np.prod(self.grid.shape))
        return csr_array(coo_array((values, (rows, columns)), shape=(size, size)))

    def _entries(self, rates: Rates) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """Rows, columns and values of the entries that the rates along one step make."""
        shape = self.grid.shape
        cells = np.arange(int(np.prod(shape))).reshape(shape)
        for way, given in ((1, rates.up), (-1, rates.down)):
            rate = np.broadcast_to(given, shape)
            yield cells.ravel(), cells.ravel(), -rate.ravel()
            places, inside = [], []
            for axis, move in enumerate(rates.step):
                place = np.arange(shape[axis]) + way * move
                places.append(place % shape[axis])
                inside.append((places[-1] == place) | (self.boundary[axis] == "periodic"))
            kept = np.broadcast_to(reduce(np.logical_and, across(inside)), shape)
            yield cells[np.ix_(*places)][kept], cells[kept], rate[kept]


def known(operator: Any) -> FokkerPlanck:
    """`operator`, if it is one.

    Raises:
        TypeError: no FokkerPlanck.
    """
    if not isinstance(operator, FokkerPlanck):
        raise TypeError(f"operator must be a FokkerPlanck, got {operator!r}")
    return operator
