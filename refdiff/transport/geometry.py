r"""The geometry of Gaussians under W_2: tangent vectors, the least energy of a curve, and its curvature.

    d_t m and d_t S of a curve N(m, S) are those of the gradient field v = d_t m + L (x - m),  L S + S L = d_t S,
    and E |v|^2 = |d_t m|^2 + tr L S L is the least of all fields that move the laws so:     `least_velocity`

The length of that velocity is Bures' metric: int E |v|^2 dt >= W_2^2, with equality along the shortest way only, on
which x + t v(x) goes on, `exponential_map`. The curvature is not negative: along the shortest way p_t from p to q

    W_2(p_t, r)^2 >= (1 - t) W_2(p, r)^2 + t W_2(q, r)^2 - t (1 - t) W_2(p, q)^2                 for every r

with equality on the line, where quantiles make it flat, and for covariances that commute. Seen from r squares are
convex along another way, p_t^r = law of (1 - t) T_rp(z) + t T_rq(z) with z ~ r, `generalized_geodesic`, along which

    W_2(p_t^r, r)^2 = (1 - t) W_2(p, r)^2 + t W_2(q, r)^2 - t (1 - t) E_r |T_rp - T_rq|^2

Sources: PODB-71, PODB-72; Takatsu 2011, "Wasserstein geometry of Gaussian measures"; Ambrosio, Gigli and Savare 2008.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import real_array, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.operators import Operator
from refdiff.transport.gaussian_maps import optimal_map


def least_velocity(law: GaussianMixture, mean_rate: ArrayLike, covariance_rate: ArrayLike) -> Channel:
    """The gradient field x -> d_t m + L (x - m) that moves a Gaussian at these rates, with the least E |v|^2.

    Args:
        law: N(m, S); where it is singular the rate of S must not lead out of its range.
        mean_rate: d_t m, shape (d,).
        covariance_rate: d_t S, a number, (d,) or a symmetric (d, d).

    Raises:
        TypeError: the law is no Gaussian.
        ValueError: shapes that do not fit, a rate that is not symmetric, or one that gives a variance to a direction
            without one, at which no field of finite energy can.
    """
    if not isinstance(law, GaussianMixture) or law.count != 1:
        raise TypeError(f"law must be a Gaussian, got {law!r}")
    dm = real_array("mean_rate", mean_rate, ndim=(1,))
    ds = operators.operator("covariance_rate", covariance_rate)
    for name, part in (("mean_rate", dm), ("covariance_rate", ds)):
        operators.fits(name, part, law.dim)
    if ds.ndim == 2 and (ds.shape[0] != ds.shape[1] or np.abs(ds - ds.T).max() > 1e-8 * np.abs(ds).max()):
        raise ValueError(f"covariance_rate must be symmetric, got {ds.tolist()}")
    gain = _lyapunov(np.asarray(law.covariances.operator()), ds, law.dim)
    return Channel(gain, dm - operators.apply(gain, law.means[0]))


def kinetic_energy(law: GaussianMixture, velocity: Channel) -> float:
    """E |v(x)|^2 of an affine field, a channel without noise, at a `law`.

    Args:
        law: of x.
        velocity: v.

    Raises:
        TypeError: the velocity is no Channel.
        ValueError: it has noise, or another dimension.
    """
    moved = _field(velocity).push(law)
    squares = (moved.means**2).sum(axis=1)
    return float(moved.weights @ squares + moved.covariances.average_trace(moved.weights[None], moved.dim)[0])


def exponential_map(law: GaussianMixture, velocity: Channel, t: float = 1.0) -> GaussianMixture:
    """The law of x + t v(x), x ~ `law`: where v is a gradient, the shortest way that starts with this velocity.

    The way is shortest while the derivative of x + t v(x) has no negative eigenvalue.

    Args:
        law: of x.
        velocity: v, a channel without noise, as `least_velocity` and `FreeEnergy.gradient` return.
        t: any number.

    Raises:
        TypeError: the velocity is no Channel.
        ValueError: it has noise, or another dimension.
    """
    now, v = real_scalar("t", t), _field(velocity)
    one = operators.dense(np.ones(()), law.dim) if v.gain.ndim == 2 else np.ones(())
    return Channel(operators.add(one, now * v.gain), now * v.offset).push(law)


def generalized_geodesic(base: GaussianMixture, p: GaussianMixture, q: GaussianMixture, t: float) -> GaussianMixture:
    """The law of (1 - t) T_p(z) + t T_q(z) for z ~ `base`, with the optimal maps of the base to p and to q, Gaussians.

    Args:
        base: r, of z, with maps to both.
        p, q: the laws at t = 0 and t = 1.
        t: in [0, 1].

    Raises:
        TypeError: one is no Gaussian.
        ValueError: there is no map, or t is outside.
    """
    now = real_scalar("t", t, low=0, high=1)
    first, second = optimal_map(base, p), optimal_map(base, q)
    gain = operators.add((1 - now) * first.gain, now * second.gain)
    return Channel(gain, (1 - now) * first.offset + now * second.offset).push(base)


def _field(velocity: Channel) -> Channel:
    if not isinstance(velocity, Channel):
        raise TypeError(f"velocity must be a Channel, got {velocity!r}")
    if velocity.noise.any():
        raise ValueError(f"velocity must have no noise, got {velocity.noise}")
    return velocity


def _lyapunov(s: Operator, ds: Operator, dim: int) -> Operator:
    """The symmetric L with L S + S L = ds, 0 where S is."""
    if max(s.ndim, ds.ndim) < 2:
        one, two = np.broadcast_arrays(s, ds)
        if ((one == 0) & (two != 0)).any():
            raise _spread()
        return np.asarray(0.5 * np.divide(two, one, out=np.zeros(one.shape), where=one > 0))
    values, axes = np.linalg.eigh(operators.dense(s, dim))
    values = np.where(values > 8 * dim * np.finfo(float).eps * values[-1], values, 0.0)
    turned = axes.T @ operators.dense(ds, dim) @ axes
    sums = values[:, None] + values
    if (np.abs(turned[sums == 0]) > 1e-12 * np.abs(turned).max()).any():
        raise _spread()
    inner = np.divide(turned, sums, out=np.zeros(turned.shape), where=sums > 0)
    return np.asarray(axes @ inner @ axes.T)


def _spread() -> ValueError:
    return ValueError("covariance_rate must be 0 between directions in which law has no variance")
