r"""Noising as physics out of equilibrium: what becomes of entropy, at every time of an exact model.

    dx = f dt + G dw,   f = F x + u,   v = f - (D/2) grad log p,   |a|^2_W = a' W a,   k_B = 1

    entropy          S  = -E log p                     dS/dt = E div v = tr F + tr(D I) / 2,  I = E s s'
    production       Pi = E |v|^2_(D/2)^-1 >= 0        the second law; 0 where nothing flows
    heat             Q  = E f' (D/2)^-1 v              entropy given to the bath:  dS/dt = Pi - Q
    excess           E |grad log(p / pi)|^2_(D/2)      what relaxes: -d KL(p | pi) / dt where pi stays
    housekeeping     E |v_pi|^2_(D/2)^-1               what keeps pi turning, v_pi = f - (D/2) grad log pi
    Pi = excess + housekeeping                         both >= 0, as v_pi and grad log(p / pi) are orthogonal

pi is the law that F, u and D of the time t would lead to; nothing that spreads without end (VE) has one. Detailed
balance, v_pi = 0, holds for every scalar process that has one; matrices may turn (`equilibrium`). Let p_G be the
Gaussian with the mean and covariance of p. As v is affine but for (D/2) grad log(p / p_G), and E s and E s x' are the
same for both, all of it is that of p_G but for one term,

    n = E |grad log(p / p_G)|^2_D / 2:    S = S_G - KL(p | p_G),  dS/dt = dS_G/dt + n,  Pi = Pi_G + n

and excess = excess_G + n, while heat and housekeeping are those of p_G. The Gaussian parts are closed (`Relaxation`);
KL and n are what a route is needed for. n is also the rate at which p becomes Gaussian, n = -d KL(p | p_G) / dt, under
any linear process. On the way back to data (a control at the rate r, see `controls`) v becomes r v: Pi turns to r^2 Pi
and dS/dt to r dS/dt, so that generating, r = -1, heats the bath by Q + 2 dS/dt.
Sources: RDX-44, RDX-46, RDX-48, PHY-82, PHY-85; Esposito and Van den Broeck 2010, Spinney and Ford 2012 (parity).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import quad_vec

from refdiff import operators
from refdiff.arguments import Array, real_scalar
from refdiff.distributions import Gaussian, GaussianMixture, entropy
from refdiff.distributions.covariances import NO_DENSITY
from refdiff.dynamics import Relaxation
from refdiff.dynamics.equilibrium import signs_of
from refdiff.expectations import Estimate, Route
from refdiff.metrics import divergence, fisher_divergence
from refdiff.model import ExactModel

TOLERANCE = 1e-10  # of integrals over time, relative
SAME = 1e-10  # what rounding of a Lyapunov equation leaves of an equality


@dataclass(frozen=True, eq=False)
class EntropyBalance:
    """The entropy of p_t and its rates, in nats and nats per unit of time.

    Attributes:
        entropy: S.
        rate: dS/dt = production - heat.
        production: Pi.
        heat: Q, what goes to the bath, in closed form for every law.
        housekeeping: what keeps a current going in the stationary law, in closed form for every law; None where
            there is no such law.
        excess: what the relaxation to it produces; None where there is none.
        non_gaussian: n, the rate at which p becomes Gaussian.
    """

    entropy: Estimate
    rate: Estimate
    production: Estimate
    heat: Estimate
    housekeeping: Estimate | None
    excess: Estimate | None
    non_gaussian: Estimate

    def under_control(self, rate: float) -> tuple[Estimate, Estimate, Estimate]:
        """Production, rate of entropy and heat where a control carries the density at the `rate` r of its clock.

        r^2 Pi, r dS/dt and r^2 Pi - r dS/dt, with the same noise; nothing is produced while it is stopped. Not for a
        balance with a parity, whose Pi counts a part of v only.
        """
        r = real_scalar("rate", rate)
        made, gained = self.production, self.rate
        return (
            Estimate(r * r * made.value, r * r * made.error, made.route),
            Estimate(r * gained.value, abs(r) * gained.error, gained.route),
            # both err by what n errs
            Estimate(r * r * made.value - r * gained.value, abs(r * r - r) * made.error, made.route),
        )


def frozen(model: ExactModel, t: float) -> Relaxation:
    """The equation with the constant coefficients F, u and D that the process of the `model` has at a time t.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: t is outside [0, T], or a coefficient is infinite there.
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    process, dim = model.process, model.dim
    drift, diffusion = (operators.dense(part, dim) for part in (process.drift(t), process.diffusion(t)))
    return Relaxation(drift, diffusion, np.broadcast_to(process.force(t), (dim,)))


def entropy_balance(
    model: ExactModel, t: float, route: Route | None = None, *, parity: ArrayLike | None = None
) -> EntropyBalance:
    """S and its rates at a time t.

    Args:
        model: an ExactModel of any process.
        t: a time at which there is a density.
        route: how the two expectations are taken; None in closed form, which only Gaussian data have.
        parity: +1 or -1 for each coordinate, shape (d,): those of -1 (velocities) change their sign in reversed time.

    Raises:
        TypeError: the model is no ExactModel, or route is none.
        ValueError: no density at t, no route for what is no Gaussian, a current outside the range of D (infinite
            production), or a stationary law that is not even under the parity.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.physics import entropy_balance
        >>> heat = ExactModel(Gaussian([0.0], 1.0), VEPower(power=0.5))  # S = log(1 + t) / 2 + const, no heat
        >>> found = entropy_balance(heat, 1.0)
        >>> print(round(float(found.rate.value), 6), round(float(found.production.value), 6))
        0.25 0.25
    """
    motion, law, near = _state(model, t)
    gap, n = _beyond_gaussian(model, t, law, near, route)
    made, gained = motion.entropy_production(near, parity), motion.entropy_rate(near)

    def and_n(value: float) -> Estimate:
        return Estimate(value + n.value, n.error, n.route)

    keeping, losing = _split(motion, law, near, made, parity)
    return EntropyBalance(
        Estimate(entropy(near) - gap.value, gap.error, gap.route),
        and_n(gained),
        and_n(made),
        Estimate(made - gained, 0.0, "closed"),
        None if keeping is None else Estimate(keeping, 0.0, "closed"),
        None if losing is None else and_n(losing),
        n,
    )


def total_production(
    model: ExactModel, start: float, end: float, route: Route | None = None, *, parity: ArrayLike | None = None
) -> Estimate:
    """int_start^end Pi dt >= 0, by SciPy's adaptive rule: how much the way from data to noise cannot be undone.

    Args:
        model: an ExactModel of any process.
        start, end: times with densities, start < end.
        route: how expectations are taken; None for Gaussian data.
        parity: as of `entropy_balance`.

    Raises:
        TypeError: the model is no ExactModel, or route is none.
        ValueError: times that do not increase, or what `entropy_balance` refuses.
    """
    first, last = real_scalar("start", start), real_scalar("end", end)
    if first >= last:
        raise ValueError(f"end must be later than start, got {first} and {last}")
    names = []

    def rate(t: float) -> Array:
        made = _production(model, t, route, parity)
        names.append(made.route)
        return np.array([made.value, made.error])

    (value, spread), error = quad_vec(rate, first, last, epsabs=0.0, epsrel=TOLERANCE, norm="max")
    return Estimate(float(value), float(np.hypot(spread, error)), names[0])


def _production(model: ExactModel, t: float, route: Route | None, parity: ArrayLike | None) -> Estimate:
    """Pi alone: no stationary law is asked for."""
    motion, law, near = _state(model, t)
    n = _beyond_gaussian(model, t, law, near, route)[1]
    return Estimate(motion.entropy_production(near, parity) + n.value, n.error, n.route)


def _state(model: ExactModel, t: float) -> tuple[Relaxation, GaussianMixture, Gaussian]:
    """The equation of a time t, p_t, and the Gaussian with its moments."""
    motion, law = frozen(model, t), model.marginal(t)
    if law.covariances.singular:
        raise ValueError(NO_DENSITY.format(what=f"the covariance at t = {t}"))
    return motion, law, Gaussian(law.mean(), law.cov())


def _beyond_gaussian(
    model: ExactModel, t: float, law: GaussianMixture, near: Gaussian, route: Route | None
) -> tuple[Estimate, Estimate]:
    """KL(p | p_G) and n = E |grad log(p / p_G)|^2_D / 2."""
    if isinstance(law, Gaussian):
        return Estimate(0.0, 0.0, "closed"), Estimate(0.0, 0.0, "closed")
    gap = divergence(law, near, "kl", route)
    return gap, _halved(fisher_divergence(law, near, route, weight=model.process.diffusion(t)))


def _halved(found: Estimate) -> Estimate:
    return Estimate(found.value / 2, found.error / 2, found.route)


def _split(
    motion: Relaxation, law: GaussianMixture, near: Gaussian, made: float, parity: ArrayLike | None
) -> tuple[float | None, float | None]:
    """Housekeeping, and the excess of the Gaussian near the law; None where no law is stationary."""
    if np.linalg.eigvals(motion.drift).real.max() >= -motion.dim * np.finfo(float).eps * np.abs(motion.drift).max():
        return None, None
    if motion.stationary.covariances.singular:
        return None, None
    losing = -motion.divergence_rate(near)
    if parity is None:
        return motion.housekeeping(law), losing
    end, signs = motion.stationary, signs_of(parity, motion.dim)
    odd = np.abs(end.cov() * (1 - np.outer(signs, signs))).max(), np.abs(end.mean() * (1 - signs)).max()
    size = np.abs(end.cov()).max()
    if odd[0] > SAME * size or odd[1] > SAME * (size**0.5 + np.abs(end.mean()).max()):
        raise ValueError(f"parity must leave the stationary law as it is, got {np.asarray(parity).tolist()}")
    # with an even pi the same two parts of v are orthogonal: what is left of the production keeps house
    return max(made - losing, 0.0), losing
