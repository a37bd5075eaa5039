r"""Adjoint sensitivity: the gradient of a loss at the end of an ODE by one more ODE, backwards.

    dx/dt = v(x, t; theta),     L = l_1(x(t_1)) + int_{t_0}^{t_1} l(x, t; theta) dt

    a(t_1) = grad l_1,    da/dt = -(dv/dx)' a - dl/dx
    dL/dx_0 = a(t_0),     dL/dtheta = int_{t_0}^{t_1} (dv/dtheta)' a + dl/dtheta dt
    dL/dt_1 = a.v + l at t_1,     dL/dt_0 = -(a.v + l) at t_0

a.v + l is the Hamiltonian: constant where v and l do not depend on time. Times run in either direction. The state that
the products need comes from the dense output of the way there, or back together with a in constant memory (Chen et
al.): backwards the errors of a flow that contracts by e^(-c) grow by e^c, and beyond c = 30 nothing is left of it.

Along a Runge-Kutta method the same recursion, step by step, is the exact gradient of what the method computes
(discretise, then differentiate), and tends to the continuous one with the order of the method: one for Euler's.

A neural ODE's likelihood is such a loss: log p(x) = log p_base(z) - int div v dt with z found backwards from x.
Sources: PODB-26, PODB-22, PODB-18; Pontryagin 1962, Chen et al. 2018, Hager 2000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from refdiff.arguments import Array, answered, one_of, points, real_scalar, whole_number
from refdiff.dynamics.parametric import Integrand, ParametricField, both, check_field
from refdiff.dynamics.stepping import GROUP, LEAST_RTOL

Function = Callable[[Array], ArrayLike]

# Explicit Runge-Kutta methods: the rows a_ij, the weights b_i, the nodes c_i
METHODS = MappingProxyType(
    {
        "euler": (((),), (1.0,), (0.0,)),
        "midpoint": (((), (0.5,)), (0.0, 1.0), (0.0, 0.5)),
        "heun": (((), (1.0,)), (0.5, 0.5), (0.0, 1.0)),
        "rk4": (((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.5, 0.5, 1.0)),
    }
)


class HasScore(Protocol):
    """A law with a log density and its gradient."""

    @property
    def dim(self) -> int:
        """d."""

    def logpdf(self, x: ArrayLike) -> Any:
        """log p(x) for x of shape (..., d), shape (...)."""

    def score(self, x: ArrayLike) -> Any:
        """grad log p(x) for x of shape (..., d), shape (..., d)."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Where the points went, what they met, and the gradient of each point's loss.

    Attributes:
        x: x(t_1), shape (..., d).
        running: int l dt, shape (...); 0 without a running loss.
        point: dL/dx_0, shape (..., d).
        parameters: dL/dtheta of each point's loss, shape (..., p): the gradient of their mean is its mean.
        start, end: dL/dt_0 and dL/dt_1, shape (...); None from discretised flows.
        drift: how far from x_0 the state came back, |.|, shape (...); 0 from stored states and discretised flows.
    """

    x: Any
    running: Any
    point: Any
    parameters: Any
    start: Any
    end: Any
    drift: Any


def adjoint(
    field: ParametricField,
    x: ArrayLike,
    start: float,
    end: float,
    terminal: Function | None = None,
    running: Integrand | None = None,
    *,
    states: str = "stored",
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> Gradients:
    """The gradient of l_1(x(end)) + int l dt in x = x(start), theta and both times, by DOP853.

    Args:
        field: v, with its vector-Jacobian products.
        x: points at the time `start`, shape (..., d).
        start, end: t_0 and t_1, in either order.
        terminal: the gradient of l_1, from (n, d) to (n, d); zero when left out.
        running: l with its gradients, at the same parameters as the field.
        states: where the way back takes x from: "stored" in the dense output of the way there, or "again" by
            integrating v backwards with the adjoint, which needs no memory and no contraction.
        rtol, atol: of each step, for every point, in units of x; for a and the integrals, in units of the largest
            entry of grad l_1.

    Raises:
        TypeError: the field is no ParametricField.
        ValueError: an unknown way to take states, a tolerance too small, or an answer of the wrong shape.
        RuntimeError: the solver finds no step short enough.

    Examples:
        >>> import numpy as np
        >>> from refdiff.dynamics import adjoint, linear_field
        >>> decay = linear_field([[-1.0]], [0.0])  # x(t) = e^(wt) x + (e^(wt) - 1) b / w at w = -1, b = 0
        >>> found = adjoint(decay, [[2.0]], 0.0, np.log(2), terminal=np.ones_like)  # of x(log 2): in x, and in w and b
        >>> print(found.point.round(6), found.parameters.round(6))  # e^-t, then t e^-t x and 1 - e^-t
        [[0.5]] [[0.693147 0.5     ]]
    """
    check_field(field)
    one_of("states", states, ("stored", "again"))
    rows, restore = points("x", x, field.dim)
    first, last = real_scalar("start", start), real_scalar("end", end)
    tolerances = real_scalar("rtol", rtol, low=LEAST_RTOL), real_scalar("atol", atol, low=0, open_low=True)
    way = _Way(field, running, first, last, tolerances)
    found = [way.both_ways(rows[group], terminal, states == "stored") for group in _groups(len(rows))]
    return Gradients(*(restore(np.concatenate(part)) for part in zip(*found, strict=True)))


def _groups(count: int) -> Iterator[slice]:
    """All points in groups, one empty group where there are none."""
    return (slice(k, k + GROUP) for k in range(0, max(count, 1), GROUP))


@dataclass(frozen=True, eq=False)
class _Way:
    """One way there and back for a group of n points."""

    field: ParametricField
    running: Integrand | None
    start: float
    end: float
    tolerances: tuple[float, float]

    def rate(self, x: Array, t: float) -> Array:
        """l at x (n, d)."""
        return np.zeros(len(x)) if self.running is None else answered("running", self.running.value(x, t), (len(x),))

    def forces(self, x: Array, t: float, a: Array) -> tuple[Array, Array]:
        """(dv/dx)' a + dl/dx and (dv/dtheta)' a + dl/dtheta."""
        in_x, in_theta = self.field.pulled(x, t, a)
        if self.running is not None:
            more_x, more_theta = both("running", self.running.gradient(x, t), x.shape, self.field.parameters)
            in_x, in_theta = in_x + more_x, in_theta + more_theta
        return in_x, in_theta

    def solve(self, slope: Any, state: Array, way: tuple[float, float], points: int, unit: Array, dense: bool) -> Any:
        """A solution, with errors of every point below the tolerances: SciPy takes the RMS over all numbers.

        Raises:
            RuntimeError: no step is short enough.
        """
        if way[0] == way[1] or not state.size:  # SciPy's dense output would have no step to stand on
            return None
        stricter = np.sqrt(max(points, 1))
        rtol, atol = max(self.tolerances[0] / stricter, LEAST_RTOL), self.tolerances[1] / stricter * unit
        found = solve_ivp(slope, way, state, method="DOP853", rtol=rtol, atol=atol, dense_output=dense)
        if not found.success:
            raise RuntimeError(f"the solution does not reach t = {way[1]} from {way[0]}: {found.message}")
        return found

    def both_ways(self, x: Array, terminal: Function | None, stored: bool) -> tuple[Array, ...]:
        """The fields of Gradients for points x (n, d)."""
        n, d = x.shape
        shapes: list[tuple[int, ...]] = [(n, d), (n,)]

        def there(t: float, state: Array) -> Array:
            at = _parts(state, shapes)[0]
            return np.append(self.field.slope(at, t).ravel(), self.rate(at, t))

        ahead = np.append(x.ravel(), np.zeros(n))
        way = self.solve(there, ahead, (self.start, self.end), n, np.ones(ahead.size), stored)
        reached, integral = _parts(ahead if way is None else way.y[:, -1], shapes)
        a = np.zeros_like(x) if terminal is None else answered("terminal", terminal(reached), x.shape)
        shapes_back: list[tuple[int, ...]] = [(0 if stored else n, d), (n, d), (n, self.field.parameters)]

        def back(t: float, state: Array) -> Array:
            came, left, _ = _parts(state, shapes_back)
            at = _parts(way.sol(t), shapes)[0] if stored else came
            in_x, in_theta = self.forces(at, t, left)
            moved = came if stored else self.field.slope(at, t)  # of stored states, nothing
            return np.concatenate([moved.ravel(), -in_x.ravel(), -in_theta.ravel()])

        state = np.concatenate([reached[: shapes_back[0][0]].ravel(), a.ravel(), np.zeros(n * self.field.parameters)])
        size = float(np.abs(a).max(initial=0.0)) or 1.0  # the adjoint is linear in grad l_1
        unit = np.where(np.arange(state.size) < (0 if stored else x.size), 1.0, size)
        returned = self.solve(back, state, (self.end, self.start), n, unit, False)
        came, left, in_theta = _parts(state if returned is None else returned.y[:, -1], shapes_back)
        start = -((left * self.field.slope(x, self.start)).sum(axis=1) + self.rate(x, self.start))
        end = (a * self.field.slope(reached, self.end)).sum(axis=1) + self.rate(reached, self.end)
        drift = np.zeros(n) if stored else np.linalg.norm(came - x, axis=1)
        return reached, integral, left, in_theta, start, end, drift


def _parts(state: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """A flat state as arrays of these shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(state, ends[:-1]), shapes, strict=True)]


# ---------------------------------------------------------------------- discretise, then differentiate


def _stages(field: ParametricField, method: str, x: Array, t: float, h: float) -> tuple[list[Array], list[Array]]:
    """X_i and k_i of one step h from x (n, d) at t."""
    rows, _, nodes = METHODS[method]
    places: list[Array] = []
    slopes: list[Array] = []
    for row, c in zip(rows, nodes, strict=True):
        places.append(x + h * sum((f * k for f, k in zip(row, slopes, strict=True)), np.zeros_like(x)))
        slopes.append(field.slope(places[-1], t + c * h))
    return places, slopes


def discrete_adjoint(
    field: ParametricField,
    x: ArrayLike,
    start: float,
    end: float,
    steps: int,
    terminal: Function | None = None,
    running: Integrand | None = None,
    *,
    method: str = "euler",
) -> Gradients:
    """The exact gradient of the loss that a Runge-Kutta method of equal steps computes, by the reverse recursion.

    With stages X_i = x + h sum_j a_ij k_j, k_i = v(X_i), and x+ = x + h sum_i b_i k_i:

        w_i = (dv/dx)' u_i + h b_i dl/dx  at X_i,    u_i = h b_i a+ + h sum_{j > i} a_ji w_j,    a = a+ + sum_i w_i

    Args:
        field: v, with its vector-Jacobian products.
        x: points at the time `start`, shape (..., d).
        start, end: in either order.
        steps: how many.
        terminal: the gradient of l_1, from (n, d) to (n, d); zero when left out.
        running: l with its gradients; its integral is the method's sum h sum_i b_i l(X_i).
        method: euler, midpoint, heun or rk4.

    Raises:
        TypeError: the field is no ParametricField.
        ValueError: an unknown method, no steps, or an answer of the wrong shape.
    """
    check_field(field)
    rows, weights, nodes = METHODS[one_of("method", method, METHODS)]
    at, restore = points("x", x, field.dim)
    first, last = real_scalar("start", start), real_scalar("end", end)
    way = _Way(field, running, first, last, (LEAST_RTOL, 1.0))
    h = (last - first) / whole_number("steps", steps, low=1)

    path, integral = [at], np.zeros(len(at))
    for k in range(steps):
        t = first + k * h
        places, slopes = _stages(field, method, path[-1], t, h)
        path.append(path[-1] + h * sum(b * slope for b, slope in zip(weights, slopes, strict=True)))
        for b, c, place in zip(weights, nodes, places, strict=True):
            integral += h * b * way.rate(place, t + c * h)
    a = np.zeros_like(at) if terminal is None else answered("terminal", terminal(path[-1]), at.shape)
    in_theta = np.zeros((len(at), field.parameters))
    for k in reversed(range(steps)):
        t = first + k * h
        places, _ = _stages(field, method, path[k], t, h)
        pulled: dict[int, Array] = {}
        for i in reversed(range(len(weights))):
            u = h * weights[i] * a
            for j, w in pulled.items():
                u = u + h * rows[j][i] * w
            w_x, w_theta = field.pulled(places[i], t + nodes[i] * h, u)
            if running is not None:
                l_x, l_theta = both(
                    "running", running.gradient(places[i], t + nodes[i] * h), at.shape, field.parameters
                )
                w_x, w_theta = w_x + h * weights[i] * l_x, w_theta + h * weights[i] * l_theta
            pulled[i] = w_x
            in_theta += w_theta
        a = a + sum(pulled.values())
    return Gradients(
        x=restore(path[-1]),
        running=restore(integral),
        point=restore(a),
        parameters=restore(in_theta),
        start=None,
        end=None,
        drift=restore(np.zeros(len(at))),
    )


# ---------------------------------------------------------------------- the likelihood of a neural ODE


def node_likelihood(
    field: ParametricField, base: HasScore, x: ArrayLike, start: float, end: float, **options: Any
) -> tuple[Any, Gradients]:
    """log p(x) of x = x(end) for x(start) ~ base under dx/dt = v, with its gradients in x, theta and both times.

    Args:
        field: v, with its divergence.
        base: the law at the time `start`, a Gaussian or mixture.
        x: data at the time `end`, shape (..., d).
        start, end: in either order.
        options: of `adjoint`: states, rtol, atol.

    Returns:
        log p(x), shape (...), and Gradients of it: `x` is z, the base's point; `start` belongs to the time end.

    Raises:
        TypeError: the field is no ParametricField.
        ValueError: the field has no divergence, or base another dimension.
    """
    check_field(field)
    if field.divergence is None:
        raise ValueError("field must have a divergence for a likelihood, got None")
    if base.dim != field.dim:
        raise ValueError(f"base must have the dimension {field.dim} of field, got {base.dim}")
    # int_start^end div v dt = -int_end^start: what is met on the way from x to z adds to log p
    found = adjoint(field, x, end, start, base.score, field.divergence, **options)
    return base.logpdf(found.x) + found.running, found
