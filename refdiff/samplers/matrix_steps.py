r"""Steps of any process, with matrices in place of alpha and sigma: what is carried, what a frozen prediction adds.

From s to t < s, with K = K(t, s) = K(s, t)^-1 the propagator backwards, y = x - A D the rest beside the denoiser, and
Psi_k, P_k gain and noise of `noise_channel(s, t, k)`:

    denoiser frozen     x_t = A_t D + Psi_k y + N(0, P_k)
    noise frozen        x_t = K x + (1 + k^2) (Psi_0 - K) y + N(0, k^2 K Sigma(s | t) K')

At k = 0 the two are one step, gDDIM's: (Psi_0 - K) y = [V_t - K V_s] eps with eps = V_s^-1 y, whatever the frame V.
A table of numbers is `ddim.frozen_step`. Multistep methods put a polynomial through earlier eps in the frame V, which
turns, or in Cholesky's frame L, which does not and is no frame of the flow:

    x_t = K x + sum_j W_j eps_j,      W_j = 1/2 int_s^t K(t, u) D_u V_u^-T l_j(u) du

Sources: RDX-19..20b, RDX-B16, PODC9-09; Zhang, Tao and Chen 2022 (gDDIM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.polynomial import Polynomial
from scipy.integrate import quad_vec

from refdiff import operators
from refdiff.arguments import Array
from refdiff.operators import Operator
from refdiff.processes import Process
from refdiff.samplers.numbers import gauss_legendre
from refdiff.samplers.recorder import Point

# quadrature of smooth integrands: relative, below it is rounding
RTOL = 1e-13
# of the part by parts, whose integrand has the smoothness of K and Psi
NODES = 12
# the variables that polynomials are in, with their inverses
CLOCKS: Mapping[str, tuple[Callable[[float], float], Callable[[float], float]]] = MappingProxyType(
    {"t": (float, float), "log t": (lambda t: float(np.log(t)), lambda u: float(np.exp(u)))}
)


def backward_gain(process: Process, s: float, t: float) -> Operator:
    """K(t, s) = K(s, t)^-1, an operator, t < s: the propagator of `process` from s back to t."""
    return operators.inverse(process.channel(t, s).gain)


def backward(process: Process, s: float, t: float) -> tuple[Operator, Operator]:
    """K(t, s) and K Sigma(s | t) K', operators: the transition of `process` from t to s > t undone."""
    back = backward_gain(process, s, t)
    return back, operators.sandwich(back, process.channel(t, s).noise)


def frozen_step(process: Process, s: Point, t: Point, k: float, frozen: str) -> tuple[Operator, Operator, Operator]:
    """The weights (operators) of x, of the denoiser and of a unit normal, with the denoiser or the noise frozen.

    Args:
        process, s, t: the process and the step from s to t.
        k: the stochasticity.
        frozen: denoiser or noise.
    """
    way = process.noise_channel(s.t, t.t, k if frozen == "denoiser" else 0.0)
    before, after = s.motion.gain, t.motion.gain
    if frozen == "denoiser":
        of_clean = operators.add(after, -operators.product(way.gain, before))
        return way.gain, of_clean, operators.root(way.noise)
    back, noise = backward(process, s.t, t.t)
    of_rest = (1 + k * k) * operators.add(way.gain, -back)
    return operators.add(back, of_rest), -operators.product(of_rest, before), k * operators.root(noise)


def noise_weights(process: Process, nodes: list[float], t: float, clock: str) -> list[Operator]:
    """W_j V_j^-1 of `process` for the rests y_j at the times `nodes` > 0, newest first, each an operator.

    W_j V_j^-1 = int l_j dM Psi(s, s_j) with M(u) = K(t, u) Psi(u, s), which needs no V; by parts it is smooth.

    Args:
        process, nodes, t: the step from nodes[0] to t > 0, and where the polynomial goes through eps_j.
        clock: t or log t, what the polynomial is in.
    """
    s, value, time = nodes[0], *CLOCKS[clock]
    basis, last = _basis(nodes, value), value(t)
    psi = process.noise_channel(s, t).gain
    found = [one(last) * psi for one in basis]
    found[0] = operators.add(found[0], -backward_gain(process, s, t))
    at, weights = gauss_legendre(NODES)
    for part, weight in zip(value(s) + (last - value(s)) * at, (last - value(s)) * weights, strict=True):
        u = time(part)
        moved = operators.product(backward_gain(process, u, t), process.noise_channel(s, u).gain)
        found = [total - weight * one.deriv()(part) * moved for total, one in zip(found, basis, strict=True)]
    turned = [process.noise_channel(node, s).gain for node in nodes]
    return [operators.product(total, gain) for total, gain in zip(found, turned, strict=True)]


def cholesky_weights(process: Process, nodes: list[float], t: float, clock: str) -> list[Operator]:
    """W_j L_j^-1, operators, with Cholesky's L for V, by quadrature: process, nodes, t, clock as in `noise_weights`."""
    value = CLOCKS[clock][0]
    basis = _basis(nodes, value)

    def rate(u: float) -> Array:
        turned = operators.product(process.diffusion(u), operators.inverse(_factor(process, u)).T)
        moved = operators.product(backward_gain(process, u, t), turned) / 2
        return np.stack([moved * one(value(u)) for one in basis])

    parts = quad_vec(rate, nodes[0], t, epsrel=RTOL, epsabs=0)[0]
    inverses = [operators.inverse(_factor(process, node)) for node in nodes]
    return [operators.product(part, inverse) for part, inverse in zip(parts, inverses, strict=True)]


def _basis(nodes: list[float], value: Callable[[float], float]) -> list[Polynomial]:
    """The polynomials l_j in the clock `value`, 1 at the j-th node and 0 at the others."""
    return [_lagrange([value(node) for node in nodes], j) for j in range(len(nodes))]


def _lagrange(nodes: list[float], j: int) -> Polynomial:
    """l_j, 1 at the j-th node and 0 at the others."""
    others = [node for i, node in enumerate(nodes) if i != j]
    product = Polynomial.fromroots(others) if others else Polynomial([1.0])
    return product / product(nodes[j])


def _factor(process: Process, u: float) -> Operator:
    """L with L L' = C_u, lower triangular where it is a matrix."""
    noise = process.kernel(u).noise
    return np.asarray(np.linalg.cholesky(noise) if noise.ndim == 2 else np.sqrt(noise))
