r"""Flows of interpolants that are affine: of Gaussian pairs with any cross-covariance, and of every affine image.

    x_t = A x_0 + B x_1 + b + R z,  P_t = Cov(x_t):     v = c_t' + Q_t P_t^-1 (x - c_t),     P' = Q + Q^T
    z_t = c_t + M_t (z_0 - c_0),                        M' = Q P^-1 M,    M_t P_0 M_t' = P_t

M is known but for a rotation, which `covariance_flow` carries to rounding. Closed forms, with x_t = a x_0 + b x_1:

    independent        M_t = S_0^(1/2) (a^2 I + b^2 L)^(1/2) S_0^(-1/2),    L = S_0^(-1/2) S_1 S_0^(-1/2)
                       M_T = (S_1 S_0^-1)^(1/2), symmetric and so optimal only where S_0 and S_1 commute
    x_1 = C x_0 + c    M_t = a I + b C, for mixtures and points too: the lines are the flow where none of them meet
    axis by axis       M_t = (P_t / P_0)^(1/2)

Lines meet where P_t loses a dimension on the way, of an image where C has a negative eigenvalue: there is no flow
through such a time. A flow stays in the span of x_0, and so must x_1. Only b / a enters but for a number: all paths of
numbers a and b >= 0 without noise have the same M_T. Sources: PODB-47, PODB-49, PODB-96, TOPB-71.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff import operators
from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions.blocks import plus
from refdiff.distributions.covariances import Covariances, Diagonal
from refdiff.dynamics import covariance_flow
from refdiff.interpolants.interpolant import ScalarInterpolant
from refdiff.interpolants.model import InterpolantModel
from refdiff.operators import Operator
from refdiff.transport import PairLaw

EPS = float(np.finfo(float).eps)
# a double eigenvalue moves by the root of a rounding error: as near to the axis as this it is on it
ON_AXIS = 4 * float(np.sqrt(EPS))
MEET = "pairs must not meet on the way, got lines that do at b / a = {ratio:.6g}: there is no flow through that time"
SPAN = "pairs must have x_1 in the span of x_0, got variance outside of it: no map adds a dimension"

Gains = Callable[[float], Operator]


def affine_flow(model: InterpolantModel) -> Callable[[float], Channel] | None:
    """t -> the flow of the velocity from the time 0 to t as a channel without noise; None where it is not affine.

    Args:
        model: an InterpolantModel.

    Raises:
        ValueError: x_t loses a dimension on the way, or x_1 has one more than x_0.
    """
    gains = _of_image(model) if plain(model.interpolant) else None
    if gains is None and model.pairs.count == 1:
        gains = _of_gaussians(model)
    if gains is None:
        return None
    known: Gains = gains
    start = model.marginal(0.0).mean()
    return lambda t: Channel(m := known(t), model.marginal(t).mean() - operators.apply(m, start))


def affine_speed(model: InterpolantModel) -> Callable[[float], Channel] | None:
    """t -> dz_t/dt of the flow as a function of z_0, a channel without noise; None where the flow is not affine.

    Args:
        model: an InterpolantModel.

    Raises:
        ValueError: as of `affine_flow`.
    """
    flow = affine_flow(model)
    if flow is None:
        return None
    pairs, d = model.pairs, model.dim
    image, start, along = None, model.marginal(0.0).mean(), flow
    if plain(model.interpolant) and (image := affine_image(pairs)) is not None:
        first = model.interpolant.at(0.0)
        undone = np.linalg.inv(first.first * np.eye(d) + first.second * image.gain)

    def speed(t: float) -> Channel:
        now = model.interpolant.at(t)
        moved = operators.apply(now.dfirst, pairs.first.mean()) + operators.apply(now.dsecond, pairs.second.mean())
        if image is not None:
            gain = (now.dfirst * np.eye(d) + now.dsecond * image.gain) @ undone
        else:  # Q P^+ M
            inverse = np.linalg.pinv(_covariance(model, t), rcond=d * EPS, hermitian=True)
            gain = _rate(model, t).dense(d)[0] @ inverse @ operators.dense(along(t).gain, d)
        return Channel(gain, moved + now.doffset - gain @ start)

    return speed


def plain(interpolant: object) -> bool:
    """Whether an `interpolant` is x_t = a x_0 + b x_1 with numbers a and b, and no noise."""
    return isinstance(interpolant, ScalarInterpolant) and interpolant.variance is None


def affine_image(pairs: PairLaw) -> Channel | None:
    """The channel C x_0 + c that is x_1 for all `pairs`, by regression on x_0; None where there is none."""
    d, root, undone = pairs.dim, *_whitened(pairs.first.cov())
    gain = pairs.cross_covariance().T @ undone.T @ undone
    size = (pairs.second.mean() ** 2).sum() + np.trace(pairs.second.cov())
    if ((gain @ root) ** 2).sum() <= (64 * d * EPS) ** 2 * size:  # one point is an image of all
        gain = np.zeros((d, d))
    offset = pairs.second.mean() - gain @ pairs.first.mean()
    left = pairs.blend(-gain, 1.0, -offset)
    missed = (left.weights @ left.means**2).sum() + left.covariances.average_trace(left.weights[None], d)[0]
    size += ((gain @ pairs.first.mean()) ** 2).sum() + ((gain @ root) ** 2).sum()
    # squares of what a regression leaves are the rounding of their terms
    return Channel(gain, offset) if missed <= 64 * d * EPS * size else None


def meeting(slope: Array) -> Array:
    """b / a at which the lines a z + b C z first meet others nearby, for the `slope` C (..., d, d): inf where none.

    C has the eigenvalue -a / b there. With an eigenvalue 0 they meet at the very end, which is no meeting on the way.
    """
    values = np.linalg.eigvals(slope)
    size = np.abs(values)
    # where C is singular 0 may come out as a little less
    least = ON_AXIS * np.linalg.norm(slope, axis=(-2, -1))[..., None]
    negative = (values.real < -least) & (np.abs(values.imag) <= ON_AXIS * size)
    with np.errstate(divide="ignore"):
        return np.asarray(1 / np.where(negative, size, 0.0).max(axis=-1))


# ---------------------------------------------------------------------- gains


def _of_image(model: InterpolantModel) -> Gains | None:
    """a I + b C, from the start on."""
    image = affine_image(model.pairs)
    if image is None:
        return None
    ratio = float(meeting(image.gain))
    if ratio < np.inf:
        raise ValueError(MEET.format(ratio=ratio))

    def joined(t: float) -> Array:
        now = model.interpolant.at(t)
        return np.asarray(now.first * np.eye(model.dim) + now.second * image.gain)

    start = joined(0.0)
    return lambda t: np.asarray(np.linalg.solve(start.T, joined(t).T).T)


def _of_gaussians(model: InterpolantModel) -> Gains:
    """M_t of one pair of Gaussians."""
    pairs, middle = model.pairs, 0.5 * model.T
    straight = plain(model.interpolant)
    if straight:
        _without_meeting(pairs)
    spreads = [model.marginal(t).covariances for t in (0.0, middle)]
    if all(isinstance(part, Diagonal) for part in (*spreads, _rate(model, middle))):
        return lambda t: _per_axis(model, t)
    # in the units of x_0, on the axes along which it varies
    root, undone = _whitened(_covariance(model, 0.0))
    end = _covariance(model, model.T)
    if np.abs(end - root @ (undone @ end @ undone.T) @ root.T).max() > ON_AXIS * np.abs(end).max():
        raise ValueError(SPAN)
    if straight and not pairs.cross_covariance().any():
        return _independent(model, root, undone)

    d, whole = model.dim, pairs.mixture().covariances.dense(2 * model.dim)[0]

    def rates(t: float) -> tuple[Array, Array]:
        # P = G W G' + V and Q = H W G' + S: asked for too often to build a law each time
        now = model.interpolant.at(t)
        parts = (now.first, now.second, now.dfirst, now.dsecond, now.noise, now.spread)
        a, b, da, db, v, s = (operators.dense(part, d) for part in parts)
        gain, shared = undone @ np.hstack([a, b]), whole @ np.hstack([a, b]).T @ undone.T
        return gain @ shared + undone @ v @ undone.T, undone @ (np.hstack([da, db]) @ shared + s @ undone.T)

    return lambda t: np.asarray(root @ covariance_flow(rates, 0.0, t) @ undone)


def _independent(model: InterpolantModel, root: Array, undone: Array) -> Gains:
    """With P_0 = W W': P_t = W F W' with F = a^2 W^+ S_0 W^+' + b^2 W^+ S_1 W^+', whose two terms commute."""
    first, second = (undone @ half.cov() @ undone.T for half in (model.pairs.first, model.pairs.second))
    axes = np.linalg.eigh(second)[1]  # at the start F = I, so that the first has the axes of the second
    s, e = (np.maximum(np.einsum("ij,ik,kj->j", axes, part, axes), 0.0) for part in (first, second))

    def gain(t: float) -> Array:
        now = model.interpolant.at(t)
        return np.asarray(root @ (axes * np.sqrt(now.first**2 * s + now.second**2 * e)) @ axes.T @ undone)

    return gain


def _per_axis(model: InterpolantModel, t: float) -> Array:
    """(P_t / P_0)^(1/2) where nothing is a matrix."""
    before, after = (np.asarray(model.marginal(when).covariances.operator()) for when in (0.0, t))
    if ((before == 0) & (np.asarray(model.marginal(model.T).covariances.operator()) > 0)).any():
        raise ValueError(SPAN)
    ratio = np.divide(after, before, out=np.zeros(np.broadcast_shapes(after.shape, before.shape)), where=before > 0)
    return np.asarray(np.sqrt(ratio))


def _without_meeting(pairs: PairLaw) -> None:
    """Whether S_0 + r (K + K') + r^2 S_1 is regular for every r > 0, in the span of x_0."""
    cross = pairs.cross_covariance()
    if not cross.any():
        return
    _, undone = _whitened(pairs.first.cov())
    last, shared = (undone @ part @ undone.T for part in (pairs.second.cov(), cross + cross.T))
    n, scale = len(undone), float(np.sqrt(np.abs(last).max(initial=0.0))) or 1.0
    last, shared, unit = last / scale**2, shared / scale, np.eye(n)
    # 1 / r in units of `scale` are the eigenvalues of the quadratic pencil
    for value in np.linalg.eigvals(np.block([[np.zeros((n, n)), unit], [-last, -shared]])):
        u = float(value.real)
        if u > ON_AXIS and abs(value.imag) <= ON_AXIS * max(1.0, u):
            least = np.linalg.eigvalsh(last + u * shared + u * u * unit)[0]
            if least <= 64 * n * EPS * max(1.0, u * u):
                raise ValueError(MEET.format(ratio=1 / (u * scale)))


# ---------------------------------------------------------------------- parts


def _whitened(covariance: Array) -> tuple[Array, Array]:
    """W (d, r) with W W' the covariance of rank r, and W^+."""
    values, axes = np.linalg.eigh(covariance)
    kept = values > len(values) * EPS * values.max(initial=0.0)
    roots, axes = np.sqrt(values[kept]), axes[:, kept]
    return np.asarray(axes * roots), np.asarray((axes / roots).T)


def _covariance(model: InterpolantModel, t: float) -> Array:
    """P_t."""
    return np.asarray(model.marginal(t).covariances.dense(model.dim)[0])


def _rate(model: InterpolantModel, t: float) -> Covariances:
    """Q_t."""
    now = model.interpolant.at(t)
    return plus(model.pairs.regression((now.dfirst, now.dsecond), (now.first, now.second))[1], now.spread)
