r"""Objectives of flow matching: regressions of a target on x_t, with what they can and what they cannot reach.

    marginal      L_FM  = E |f(x_t, t) - E[U | x_t]|^2
    conditional   L_CFM = E |f(x_t, t) - E[U | x_t, given]|^2  =  L_FM + gap
    gap           E |E[U | x_t, given] - E[U | x_t]|^2

U is the velocity dx_t/dt, the score or the noise of a stochastic interpolant, or an end (see `targets`), and `given`
what the training target is made from: the whole pair and its noise ("pair"), or one end ("first", "second"), which
leaves less to chance and the same minimiser. The gap does not know f. For Gaussian pairs and affine f all three are
closed. Else Monte Carlo draws pairs (x_t, U) and asks no density, and quadrature takes sums over x_t, where the mean
over U is known: |f - E[U | x_t]|^2 + tr Cov[U | x_t]; with one end given it takes sums over x_t and that end.
`over_time` integrates what is known at one time, with a weight. Sources: PODB-35, PODB-41, PODB-42, DMI-62, DMI-63,
TOPB-51, TOPB-68; Lipman et al. 2022, "Flow matching for generative modeling".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, answered, one_of, points, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.expectations import FLOOR, Estimate, MonteCarlo, Quadrature, Route, checked, expectation, name_of
from refdiff.interpolants.interpolant import Interpolant
from refdiff.interpolants.model import InterpolantModel
from refdiff.interpolants.targets import ONE, GivenEnd, Regression, dense_law, given_end, target_at
from refdiff.operators import dense, singular

GIVEN = ("pair", "first", "second")

# f: a function of points (n, d) and a time, or at one time a Channel without noise, x -> W x + w
Predictor = Callable[[Array, float], ArrayLike] | Channel


def marginal_loss(
    model: InterpolantModel, predictor: Predictor, t: float, *, target: str = "velocity", route: Route | None = None
) -> Estimate:
    """E |f(x_t, t) - E[U | x_t]|^2 at one time.

    Args:
        model: the exact model.
        predictor: f, a function (x, t) of points (n, d), or a Channel without noise for an affine one.
        t: the time.
        target: U: velocity, first, second, noise or score.
        route: a Quadrature or a MonteCarlo; None for Gaussian pairs and an affine f, for the closed form.

    Raises:
        TypeError: the model is no InterpolantModel, or f neither a function nor a Channel.
        ValueError: an unknown target, one without a variance at t, or no route where there is no closed form.
    """
    found, f = _regression(model, t, target), _Predictor(predictor, t, model.dim)
    if route is None and f.affine and found.law.count == 1:
        gain, offset = found.affine()
        return _quadratic(found.law, f.gain - gain, f.offset - offset)
    return expectation(found.law, lambda x: _squares(f(x) - found.mean(x)), route, found.size)


def conditional_loss(
    model: InterpolantModel,
    predictor: Predictor,
    t: float,
    *,
    target: str = "velocity",
    given: str = "pair",
    route: Route | None = None,
) -> Estimate:
    """E |f(x_t, t) - E[U | x_t, given]|^2 at one time, what training estimates.

    Args:
        model: the exact model.
        predictor: f, as of `marginal_loss`.
        t: the time.
        target: U, as of `marginal_loss`.
        given: pair, first or second: what the target of a training pair is made from.
        route: as of `marginal_loss`.

    Raises:
        TypeError: as of `marginal_loss`.
        ValueError: as of `marginal_loss`, or an unknown `given`, or an end that is neither a point set nor has a
            density.
    """
    found, f = _regression(model, t, target), _Predictor(predictor, t, model.dim)
    parts = _parts(model, found, t, target, given)
    d = model.dim
    if route is None and f.affine and all(part.law.count == 1 for part in parts):
        values = 0.0
        for part in parts:
            known, rest = np.eye(d, part.law.dim), _affine_reading(part, d)
            gap = _quadratic(part.law, f.gain @ known - rest[0], f.offset - rest[1])
            values += part.weight * gap.value
        return Estimate(values, 0.0, name_of(None))

    if parts[0].regression is found and isinstance(route, Quadrature):
        return expectation(found.law, lambda x: _squares(f(x) - found.mean(x)) + found.variance(x), route, found.size)

    def loss(part: GivenEnd) -> Callable[[Array], Array]:
        def function(rows: Array) -> Array:
            x, aim = part.read(rows)
            return _squares(f(x) - aim)

        return function

    return _summed(parts, loss, route, found.size)


def matching_gap(
    model: InterpolantModel, t: float, *, target: str = "velocity", given: str = "pair", route: Route | None = None
) -> Estimate:
    """E |E[U | x_t, given] - E[U | x_t]|^2: the conditional loss less the marginal one, whatever f.

    Args:
        model: the exact model.
        t: the time.
        target: U, as of `marginal_loss`.
        given: as of `conditional_loss`.
        route: as of `marginal_loss`; None for Gaussian pairs.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: as of `conditional_loss`.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.interpolants import InterpolantModel, linear, matching_gap
        >>> from refdiff.transport import independent
        >>> model = InterpolantModel(independent(Gaussian([0.0], 1.0), Gaussian([3.0], 1.0)), linear())
        >>> print(round(float(matching_gap(model, 0.5).value), 6))  # x_t says nothing of x_1 - x_0
        2.0
    """
    found, d = _regression(model, t, target), model.dim
    parts = _parts(model, found, t, target, given)
    if route is None and found.law.count == 1:
        gain, offset = found.affine()
        read, shift = _affine_reading(parts[0], d)
        return _quadratic(parts[0].law, read - gain @ np.eye(d, parts[0].law.dim), shift - offset)
    if parts[0].regression is found:
        return expectation(found.law, found.variance, route, found.size)

    def excess(part: GivenEnd) -> Callable[[Array], Array]:
        def function(rows: Array) -> Array:
            x, aim = part.read(rows)
            return _squares(aim - found.mean(x))

        return function

    return _summed(parts, excess, route, found.size)


def posterior_variance(model: InterpolantModel, x: ArrayLike, t: float, *, target: str = "velocity") -> Array:
    """tr Cov[U | x_t = x], shape (...): what a perfect network leaves of the loss at x.

    Args:
        model: the exact model.
        x: points, shape (..., d).
        t: the time.
        target: U, as of `marginal_loss`.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: an unknown target, or x_t has no density.
    """
    found = _regression(model, t, target)
    rows, restore = points("x", x, model.dim)
    return restore(found.variance(rows))


def over_time(
    function: Callable[[float], Estimate],
    T: float = 1.0,
    *,
    weight: Callable[[float], float] = lambda t: 1.0,
    tolerance: float = 1e-9,
    scale: float = 0.0,
    most: int = 1024,
) -> Estimate:
    """int_0^T w(t) f(t) dt by Gauss-Legendre rules, doubled until two of them agree.

    Args:
        function: t -> an Estimate at that time, asked for inside (0, T) only.
        T: the final time.
        weight: w.
        tolerance: relative, on the difference of two rules; the finer one is far better than that.
        scale: the size of what f is a difference of; rounding of that is as good as nothing.
        most: nodes that may be needed.

    Returns:
        The error is the difference plus the weighted sum of the errors at the nodes: those of Monte Carlo use the
        same draws at all times, and may all err to one side.

    Raises:
        ValueError: T or the tolerance is not positive, or the tolerance is not met, as where the integral is infinite.
    """
    end = real_scalar("T", T, low=0, open_low=True)
    tolerance = real_scalar("tolerance", tolerance, low=0, high=1, open_low=True)
    before, count, route = None, 8, ""
    while count <= most:
        nodes, shares = np.polynomial.legendre.leggauss(count)
        total = error = size = 0.0
        for t, share in zip((end * (nodes + 1) / 2).tolist(), (end * shares / 2).tolist(), strict=True):
            one, part = function(t), share * float(weight(t))
            route, total, error = one.route, total + part * one.value, error + abs(part * one.error)
            size += abs(part * one.value)
        # two rules with the same draws differ by less than the draws do
        slack = max(tolerance * size, FLOOR * scale * end, 0.1 * error if route == MC else 0.0)
        if before is not None and abs(total - before) <= slack:
            return Estimate(float(total), float(error + abs(total - before)), route)
        before, count = total, 2 * count
    raise ValueError(f"function must be smooth and have an integral, got no agreement to {tolerance} of {most} nodes")


MC = name_of(MonteCarlo(2, 0))


def refuse_endless(interpolant: Interpolant) -> None:
    """Refuse an `interpolant` whose noise comes from nothing or goes to it at a rate, V ~ 2 S t: S V^-1 S ~ S / 2 t.

    Raises:
        ValueError: it is such a one, like a Brownian bridge.
    """
    for t in (0.0, interpolant.T):
        now = interpolant.at(t)
        if now.spread.any() and not now.noise.any():
            raise ValueError("model must have noise whose rate has a finite square, got a spread and no noise at "
                             f"t = {t}: the integral is infinite")  # fmt: skip


# ---------------------------------------------------------------------- parts


@dataclass(frozen=True, eq=False)
class _Predictor:
    """f at one time."""

    given: Predictor
    t: float
    dim: int

    def __post_init__(self) -> None:
        if isinstance(self.given, Channel):
            if self.given.noise.any():
                raise ValueError(f"predictor must have no noise, got {self.given.noise}")
            if dense(self.given.gain, self.dim).shape != (self.dim, self.dim):
                raise ValueError(f"predictor must act on R^{self.dim}, got a gain of shape {self.given.gain.shape}")
        elif not callable(self.given):
            raise TypeError(f"predictor must be a function (x, t) or a Channel, got {self.given!r}")

    @property
    def affine(self) -> bool:
        return isinstance(self.given, Channel)

    @property
    def gain(self) -> Array:
        assert isinstance(self.given, Channel)
        return dense(self.given.gain, self.dim)

    @property
    def offset(self) -> Array:
        assert isinstance(self.given, Channel)
        return np.broadcast_to(self.given.offset, (self.dim,))

    def __call__(self, x: Array) -> Array:
        if isinstance(self.given, Channel):
            return np.asarray(x @ self.gain.T + self.offset)
        return answered("predictor", self.given(x, self.t), x.shape, finite=True)


def _regression(model: InterpolantModel, t: float, target: str) -> Regression:
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"model must be an InterpolantModel, got {model!r}")
    now = model.interpolant.at(t)
    return Regression(model.pairs, now, target_at(target, now))


def _parts(model: InterpolantModel, found: Regression, t: float, target: str, given: str) -> list[GivenEnd]:
    """What is known of a training pair, with the mean of U given that."""
    d = model.dim
    now = model.interpolant.at(t)
    other = {"pair": ONE, "first": now.second, "second": now.first}[one_of("given", given, GIVEN)]
    # without noise x_t and one end say the other one
    if given == "pair" or not (now.noise.any() or singular(other)):
        return [GivenEnd(1.0, found.joint(), lambda rows: (rows[:, :d], rows[:, d:]), found)]
    return given_end(model.pairs, now, target_at(target, now), first=given == "first")


def _affine_reading(part: GivenEnd, d: int) -> tuple[Array, Array]:
    """W and w with E[U | rows] = W rows + w, of a part of one component."""
    if part.law.dim == part.regression.dim:
        gain, offset = part.regression.affine()
        return gain[:d], offset[:d]
    return np.eye(d, 2 * d, d), np.zeros(d)


def _quadratic(law: GaussianMixture, gain: Array, offset: Array) -> Estimate:
    """E |W y + w|^2 of a Gaussian y."""
    mean, covariance = dense_law(law)
    value = float(((gain @ mean + offset) ** 2).sum() + np.einsum("ij,jk,ik->", gain, covariance, gain))
    return Estimate(value, 0.0, name_of(None))


def _summed(
    parts: list[GivenEnd],
    function: Callable[[GivenEnd], Callable[[Array], Array]],
    route: Route | None,
    scale: float,
) -> Estimate:
    """The sum over parts of weighted expectations; Monte Carlo shares its draws among them."""
    way = checked(route)
    value = square = plain = 0.0
    for j, part in enumerate(parts):
        one_way = way
        if isinstance(way, MonteCarlo) and len(parts) > 1:
            one_way = MonteCarlo(max(2, round(way.samples * part.weight)), way.seed + j)
        one = expectation(part.law, function(part), one_way, scale)
        value += part.weight * float(one.value)
        square, plain = square + (part.weight * float(one.error)) ** 2, plain + part.weight * float(one.error)
    return Estimate(value, float(np.sqrt(square)) if isinstance(way, MonteCarlo) else plain, name_of(way))


def _squares(u: Array) -> Array:
    return np.asarray((u**2).sum(axis=1))
