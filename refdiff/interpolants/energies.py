r"""Kinetic energies of interpolants, and the clock that spends least.

    conditional   int_0^T E |dx_t/dt|^2 dt               of the paths that join pairs
    marginal      int_0^T k(t) dt,  k = E |v(x_t, t)|^2  of the flow: less by what no v can follow, the gap in time

At the times rho(t) the flow has the energy int k(rho) rho'^2 dt, and the least of all clocks is that of even speed,

    (sqrt(k(rho)) rho')' = 0:     rho' ~ k^(-1/2),     (int sqrt(k) drho)^2 / T     whatever the first clock was

For rho' ~ k^(-p) it is int k^p drho int k^(1-p) drho / T: the printed rule p = 1 spends exactly what rho = t does. By
Benamou and Brenier no flow between the two laws spends less than W_2^2 / T, so that

    W_2^2 / T  <=  least  <=  marginal  <=  conditional

Sources: PODB-63, PODB-64, PODB-97; Shaul et al. 2023, "On kinetic optimal probability paths for generative models".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from refdiff.arguments import real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian
from refdiff.expectations import FLOOR, Estimate, Quadrature, Route, name_of
from refdiff.interpolants.model import InterpolantModel
from refdiff.interpolants.objectives import MC, marginal_loss, over_time, refuse_endless
from refdiff.interpolants.retiming import Retiming
from refdiff.interpolants.targets import Regression, target_at
from refdiff.metrics import wasserstein

STILL = Channel(0.0, 0.0, 0.0)
MOST = 1025  # coefficients of a density in time; each asks for an expectation


def conditional_energy(model: InterpolantModel, *, tolerance: float = 1e-9) -> Estimate:
    """int E |dx_t/dt|^2 dt along the paths of the pairs and their noise.

    Args:
        model: the exact model.
        tolerance: of the integral in time, relative.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: the integral is infinite, as along Brownian bridges.

    Examples:
        >>> from refdiff import Gaussian
        >>> from refdiff.interpolants import InterpolantModel, conditional_energy, linear
        >>> from refdiff.transport import independent
        >>> model = InterpolantModel(independent(Gaussian([0.0], 1.0), Gaussian([3.0], 4.0)), linear())
        >>> print(round(float(conditional_energy(model).value), 6))  # E |x_1 - x_0|^2
        14.0
    """
    _model(model)
    refuse_endless(model.interpolant)
    return over_time(lambda t: Estimate(_second_moment(model, t), 0.0, name_of(None)), model.T, tolerance=tolerance,
                     scale=_scale(model))  # fmt: skip


def energy_density(model: InterpolantModel, t: float, route: Route | None = None) -> Estimate:
    """k(t) = E |v(x_t, t)|^2.

    Args:
        model: the exact model.
        t: the time.
        route: a Quadrature or a MonteCarlo; None for Gaussian pairs, for the closed form.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: no route where one is needed, or x_t has no density.
    """
    return marginal_loss(model, STILL, t, route=route)


def marginal_energy(model: InterpolantModel, route: Route | None = None, *, tolerance: float = 1e-9) -> Estimate:
    """int k(t) dt, the energy of the flow at the times of the model's interpolant.

    Args:
        model: the exact model.
        route: as of `energy_density`.
        tolerance: of the integral in time, relative.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: as of `energy_density`.
    """
    _model(model)
    return over_time(lambda t: energy_density(model, t, route), model.T, tolerance=tolerance, scale=_scale(model))


def optimal_schedule(
    model: InterpolantModel, route: Route | None = None, *, power: float = 0.5, tolerance: float = 1e-10
) -> Retiming:
    """The clock rho' ~ k(rho)^(-p): with p = 1/2 the one of least energy.

    `model.interpolant.retimed(found.clock, model.T)` is the interpolant at its times, of an interpolant of numbers.

    Args:
        model: the exact model.
        route: as of `energy_density`, asked for inside (0, T) only.
        power: p in (0, 1].
        tolerance: on the last of the polynomials that k is written in, relative.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: as of `energy_density`, a velocity that vanishes at all times, or a density that is not smooth.
    """
    _model(model)
    p, T = real_scalar("power", power, low=0, high=1, open_low=True), float(model.T)
    tolerance = real_scalar("tolerance", tolerance, low=0, high=1, open_low=True)
    floor, count = FLOOR * _scale(model), 17
    while count <= MOST:
        nodes = np.cos(np.pi * (np.arange(count) + 0.5) / count)
        found = [energy_density(model, float(T * (u + 1) / 2), route) for u in nodes]
        k = np.array([float(one.value) for one in found])
        if k.max() <= floor:
            raise ValueError("model must have a velocity, got none at any time")
        terms = np.asarray(chebyshev.chebfit(nodes, k, count - 1), dtype=np.float64)
        tail = float(np.abs(terms[-3:]).max() / np.abs(terms).max())
        noise = max(float(one.error) for one in found)
        # draws that move with t make k rough, by less than they err
        if tail <= tolerance or (found[0].route == MC and tail * float(k.max()) <= 0.1 * noise):
            slack = noise + tail * float(k.max())
            kept = np.asarray(chebyshev.chebtrim(terms, 1e-15 * np.abs(terms).max()), dtype=np.float64)
            return Retiming.of(kept, p, T, slack, found[0].route)
        count = 2 * count - 1
    raise ValueError(
        f"model must have an energy density that is smooth in time, got none to {tolerance} of {MOST} terms"
    )


@dataclass(frozen=True, eq=False)
class EnergyBounds:
    """What flows between two laws spend in the time T, from the least of all to the paths of the pairs.

    Attributes:
        transport: W_2^2 / T, by Benamou and Brenier the least of all flows; None where no distance is known.
        retimed: the flow of the interpolant at the times of `optimal_schedule`.
        marginal: the flow at its own times.
        conditional: the paths of the pairs; None where it is infinite.
    """

    transport: Estimate | None
    retimed: Estimate
    marginal: Estimate
    conditional: Estimate | None


def energy_bounds(model: InterpolantModel, route: Route | None = None) -> EnergyBounds:
    """The four energies of one interpolant, in their order.

    Args:
        model: the exact model.
        route: as of `energy_density`; a Quadrature serves W_2 of mixtures on the line too.

    Raises:
        TypeError: the model is no InterpolantModel.
        ValueError: as of `energy_density`.
    """
    _model(model)
    ends = model.marginal(0.0), model.marginal(model.T)
    transport = None
    if model.dim == 1 or all(isinstance(end, (Gaussian, Empirical)) for end in ends):
        rule = route if isinstance(route, Quadrature) else Quadrature()
        distance = wasserstein(*ends, route=rule)
        value, error = float(distance.value), float(distance.error)
        transport = Estimate(value**2 / model.T, 2 * value * error / model.T, distance.route)
    try:
        conditional = conditional_energy(model)
    except ValueError:  # the noise of bridges moves infinitely fast
        conditional = None
    marginal = marginal_energy(model, route)
    if float(marginal.value) <= FLOOR * _scale(model) * model.T:
        return EnergyBounds(transport, marginal, marginal, conditional)  # nothing moves, by any clock
    # a closed form is smooth to rounding
    retimed = optimal_schedule(model, route, tolerance=1e-13 if route is None else 1e-10)
    return EnergyBounds(transport, retimed.energy, marginal, conditional)


def _second_moment(model: InterpolantModel, t: float) -> float:
    """E |dx_t/dt|^2."""
    now = model.interpolant.at(t)
    return Regression(model.pairs, now, target_at("velocity", now)).size


def _scale(model: InterpolantModel) -> float:
    """The size of what velocities are differences of: E |dx_t/dt|^2 half way, and of places as far as they round."""
    far = sum(
        float((half.mean() ** 2).sum() + np.trace(half.cov())) for half in (model.pairs.first, model.pairs.second)
    )
    return _second_moment(model, 0.5 * model.T) + float(np.finfo(float).eps) * far / model.T**2


def _model(model: InterpolantModel) -> None:
    if not isinstance(model, InterpolantModel):
        raise TypeError(f"model must be an InterpolantModel, got {model!r}")
