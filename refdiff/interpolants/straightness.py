r"""How straight a flow is, and what becomes of the cost when pairs are rectified.

    S = int_0^1 E |z_1 - z_0 - dz_t/dt|^2 dt      0 exactly where every path is a line of even speed
    V = int_0^1 E |dx_t/dt - v(x_t, t)|^2 dt      0 exactly where no two paths of pairs cross

With lines between the pairs, dx_t/dt = x_1 - x_0, both are what the cost falls by, no more and no less:

    E |x_1 - x_0|^2  =  int E |v|^2 dt + V,       int E |v|^2 dt  =  E |z_1 - z_0|^2 + S

and so over all rectifications sum_k (S_k + V_k) = cost_0 - cost_{K+1}, min S_k <= cost_0 / (K + 1), k = 0..K. For other
convex costs c two steps of Jensen's inequality remain,

    E c(z_1 - z_0) = E c(int v dt) <= int E c(v(x_t, t)) dt <= E c(x_1 - x_0)

for lines, and for every path a x_0 + b x_1 of numbers a, b >= 0, which has the same flow coupling. With noise on the
way neither need hold. A flow that is straight is followed by Euler's method in one step. Times run from 0 to 1 here:
of an interpolant on [0, T] they are t / T. Sources: PODB-44, PODB-50, PODB-51; Liu, Gong and Liu 2022, "Flow straight
and fast", section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refdiff import operators
from refdiff.arguments import Array, answered, whole_number
from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.dynamics import VelocityField, field_flow
from refdiff.expectations import Estimate, Quadrature, Route, expectation, name_of
from refdiff.interpolants.affine_flows import affine_image, affine_speed, plain
from refdiff.interpolants.model import InterpolantModel
from refdiff.interpolants.objectives import marginal_loss, matching_gap, over_time, refuse_endless
from refdiff.interpolants.rectified import FlowCoupling, rectify
from refdiff.interpolants.reflow import MapCoupling, StraightFlow
from refdiff.transport import PairLaw

EPS = float(np.finfo(float).eps)
STILL = Channel(0.0, 0.0, 0.0)
NOTHING = Estimate(0.0, 0.0, name_of(None))


@dataclass(frozen=True, eq=False)
class Account:
    """The costs of pairs before and after they are rectified, and what the difference went into.

    Attributes:
        before: E |x_1 - x_0|^2.
        after: E |z_1 - z_0|^2.
        straightness: S.
        variance: V.
    """

    before: Estimate
    after: Estimate
    straightness: Estimate
    variance: Estimate

    @property
    def residual(self) -> float:
        """before - after - S - V: 0 for lines, up to the errors of the four."""
        return float(self.before.value - self.after.value - self.straightness.value - self.variance.value)

    @property
    def error(self) -> float:
        """The sum of the errors of the four."""
        return float(sum(part.error for part in (self.before, self.after, self.straightness, self.variance)))


def account(given: MapCoupling | InterpolantModel | PairLaw, route: Route | None = None) -> Account:
    """The four numbers of one rectification.

    Args:
        given: a FlowCoupling, or what `rectify` takes; of a StraightFlow nothing is left.
        route: of the expectations; None where the flow is affine.

    Raises:
        TypeError: given is none of these.
        ValueError: no route where one is needed, or what `rectify` refuses.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.interpolants import account
        >>> from refdiff.transport import independent
        >>> costs = account(independent(Gaussian([0.0], 1.0), Gaussian([3.0], 4.0)))
        >>> print(round(costs.before.value, 6), round(costs.after.value, 6))  # 3^2 + 1 + 4, and W_2^2 = 3^2 + (2 - 1)^2
        14.0 10.0
    """
    flow = _flow(given)
    after = displacement_cost(flow, route=route)
    if isinstance(flow, StraightFlow):
        return Account(after, after, NOTHING, NOTHING)
    if not isinstance(flow, FlowCoupling):
        raise TypeError(
            f"given must be a FlowCoupling, a StraightFlow, an InterpolantModel or a PairLaw, got {given!r}"
        )
    return Account(closed(flow.model.pairs.cost()), after, straightness(flow, route), unexplained(flow.model, route))


def straightness(given: MapCoupling | InterpolantModel | PairLaw, route: Route | None = None) -> Estimate:
    """S of the flow of a coupling.

    Args:
        given: a FlowCoupling, or what `rectify` takes; of a StraightFlow it is 0.
        route: of the expectation over z_0; None where the flow is affine.

    Raises:
        TypeError: given is none of these.
        ValueError: no route where one is needed, or what `rectify` refuses.
    """
    flow = _flow(given)
    if isinstance(flow, StraightFlow):
        return NOTHING
    if not isinstance(flow, FlowCoupling):
        raise TypeError(
            f"given must be a FlowCoupling, a StraightFlow, an InterpolantModel or a PairLaw, got {given!r}"
        )
    model, end, source = flow.model, flow.T, flow.source
    if flow.is_affine:
        if not plain(model.interpolant) or (model.pairs.cross_covariance().any() and affine_image(model.pairs) is None):
            # without a closed flow: v integrates to z_T - z_0, so that S is the energy less the cost
            energy = over_time(lambda t: marginal_loss(model, STILL, t), end)
            after = displacement_cost(flow).value
            return Estimate(end * energy.value - after, end * energy.error + 4 * EPS * after, energy.route)
        return _of_closed_flow(flow)
    if flow.dim == 1:

        def bend(z: Array, t: float) -> Array:
            chord, now = (flow.forward(z) - z) / end, flow.velocity(flow.forward(z, t), t)
            return _squares(chord - now)

        size = displacement_cost(flow, route=route).value / end**2
        found = over_time(
            lambda t: expectation(source, lambda z: bend(z, t), route, size), end, tolerance=_tolerance(route)
        )
        return _scaled(found, end)
    return expectation(source, lambda z: end * _energies(flow, z) - _squares(flow.forward(z) - z), route)


def unexplained(model: InterpolantModel, route: Route | None = None) -> Estimate:
    """V, what no velocity can follow of the paths of pairs.

    Args:
        model: an InterpolantModel.
        route: of the expectations over x_t; None for Gaussian pairs.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: no route where one is needed, or an infinite integral.
    """
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"model must be an InterpolantModel, got {model!r}")
    if plain(model.interpolant) and affine_image(model.pairs) is not None:
        return NOTHING
    refuse_endless(model.interpolant)
    found = over_time(lambda t: matching_gap(model, t, route=route), model.T, tolerance=_tolerance(route))
    return _scaled(found, model.T)


def displacement_cost(
    given: MapCoupling | PairLaw, cost: Callable[[Array], Array] | None = None, route: Route | None = None
) -> Estimate:
    """E c(z_1 - z_0) of a coupling.

    Args:
        given: a PairLaw, or a coupling that is a map.
        cost: c from (n, d) to (n,), the squared length where left out.
        route: of the expectation; None for the squared length of a law of pairs, or of an affine flow.

    Raises:
        TypeError: given is neither.
        ValueError: no route where one is needed, or a cost that answers with another shape.
    """
    if isinstance(given, StraightFlow):
        return displacement_cost(given.coupling, cost, route)  # lines end where their map does
    known = given.pairs() if isinstance(given, FlowCoupling) and given.is_affine else given
    if isinstance(known, PairLaw) and cost is None:
        return closed(known.cost())
    length = _squares if cost is None else cost

    def paid(gap: Array) -> Array:
        return answered("cost", length(gap), gap.shape[:1], finite=True)

    if isinstance(known, PairLaw):
        return expectation(known.blend(-1.0, 1.0), paid, route)
    if not isinstance(known, MapCoupling):
        raise TypeError(f"given must be a PairLaw or a MapCoupling, got {given!r}")
    coupling = known
    return expectation(coupling.source, lambda z: paid(coupling.forward(z) - z), route)


def euler_error(given: MapCoupling | InterpolantModel | PairLaw, steps: int, route: Route | None = None) -> Estimate:
    """E |z^ - z_1|^2 of Euler's method from z_0 in even steps: 0 for a flow that is straight, in one step too.

    Args:
        given: a FlowCoupling or another MapCoupling, or what `rectify` takes.
        steps: how many.
        route: of the expectation over z_0; None where the flow is affine.

    Raises:
        TypeError: given is none of these.
        ValueError: steps is less than 1, no route where one is needed, or what `rectify` refuses.
    """
    flow, count = _flow(given), whole_number("steps", steps, low=1)
    h = flow.T / count
    if isinstance(flow, FlowCoupling) and (speed := affine_speed(flow.model)) is not None:
        made, d = Channel(np.eye(flow.dim)), flow.dim
        for k in range(count):
            now, there = speed(k * h), flow.channel(k * h)  # v(z_t, t), and the way back from z_t
            gain = now.gain @ np.linalg.pinv(operators.dense(there.gain, d))
            made = Channel(np.eye(d) + h * gain, h * (now.offset - gain @ there.offset)).compose(made)
        end = flow.channel()
        return _mean_square(flow.source, made.gain - operators.dense(end.gain, d), made.offset - end.offset)

    def missed(z: Array) -> Array:
        x = z
        for k in range(count):
            x = x + h * flow.velocity(x, k * h)
        return _squares(x - flow.forward(z))

    return expectation(flow.source, missed, route)


# ---------------------------------------------------------------------- parts


def _flow(given: MapCoupling | InterpolantModel | PairLaw) -> MapCoupling:
    flow = rectify(given) if isinstance(given, (InterpolantModel, PairLaw)) else given
    if not isinstance(flow, MapCoupling):
        raise TypeError(f"given must be a MapCoupling, an InterpolantModel or a PairLaw, got {given!r}")
    return flow


def _of_closed_flow(flow: FlowCoupling) -> Estimate:
    """S of an affine flow by its paths, of a law of any components."""
    channel, d, end, source = flow.channel(), flow.dim, flow.T, flow.source
    speed = affine_speed(flow.model)
    gain, offset = (operators.dense(channel.gain, d) - np.eye(d)) / end, channel.offset / end
    # squares of rounding errors are 0, so that two rules for them agree
    least = (64 * EPS) ** 2 * float(_mean_square(source, gain, offset).value)

    def bend(t: float) -> Estimate:
        now = speed(t) if speed is not None else channel
        found = _mean_square(source, gain - now.gain, offset - now.offset)
        return found if found.value > least else NOTHING

    return _scaled(over_time(bend, end), end)


def _energies(flow: FlowCoupling, z: Array) -> Array:
    """int |v|^2 dt along the path of each z (n, d), shape (n,), by the steps of the flow."""

    def rates(state: Array, t: float) -> Array:
        v = flow.velocity(state[:, :-1], t)
        return np.hstack([v, _squares(v)[:, None]])

    start = np.hstack([z, np.zeros((len(z), 1))])
    field = VelocityField(rates, flow.dim + 1)
    return field_flow(field, start, 0.0, flow.T, method=flow.method, rtol=flow.rtol, atol=flow.atol).x[:, -1]


def _mean_square(source: GaussianMixture, gain: Array, offset: Array) -> Estimate:
    """E |G z + g|^2."""
    mean = gain @ source.mean() + offset
    return closed(float(mean @ mean + np.trace(gain @ source.cov() @ gain.T)))


def closed(value: float) -> Estimate:
    """A value in closed form."""
    return Estimate(value, 0.0, name_of(None))


def _squares(u: Array) -> Array:
    return np.asarray((u**2).sum(axis=1))


def _tolerance(route: Route | None) -> float:
    """Of integrals over time: that of the expectations inside."""
    return route.tolerance if isinstance(route, Quadrature) else 1e-9


def _scaled(found: Estimate, factor: float) -> Estimate:
    return Estimate(factor * found.value, factor * found.error, found.route)
