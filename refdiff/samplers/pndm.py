r"""PNDM: pseudo numerical methods, a combination of noise predictions carried from s to t by DDIM's transfer.

    phi(x, e; s, t) = (alpha_t / alpha_s) x + alpha_t (rho_t - rho_s) e,      rho = sigma / alpha
    linear multistep  e' = (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24,  (23 e_0 - 16 e_1 + 5 e_2) / 12,  (3 e_0 - e_1) / 2
    Runge-Kutta       e' = (e_1 + 2 e_2 + 2 e_3 + e_4) / 6,  e_2 and e_3 at the middle time m = (s + t) / 2:
                      e_1 at x, e_2 at phi(x, e_1; s, m), e_3 at phi(x, e_2; s, m), e_4 at phi(x, e_3; s, t)
    improved Euler    e' = (e_1 + e_2) / 2,  e_2 at phi(x, e_1; s, t)

The weights are those of equal steps. In equal steps of t, e' is the mean of eps over the step up to h^k, but the flow
wants its mean under drho: they differ by the covariance of eps and rho' within the step, h^3 eps' rho'' / 12 in x, so
every member is of global order 2 for k >= 2, as Liu et al. prove, and no start lowers it: Runge-Kutta and improved
Euler leave h^3, DDIM a single h^2. In equal steps of rho the method is the Adams-Bashforth method of order k, and then
the starts count: DDIM caps it at 2, improved Euler at 3, the Runge-Kutta form at 3 too (h^3, as its middle is that of
t) unless rho is affine in t, as in EDM, where it is the classical method of order 4.

Indices of a table: diffusers' timestep j (its alphas_cumprod[j]) is t = j + 1 here, and t = 0 is clean data
(set_alpha_to_one). Its half steps round down to an index, here the middle may lie between two.
Sources: Liu et al. 2022 (PNDM); Zhang and Chen 2023 (iPNDM); PODC9-18, PODC9-55.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from refdiff.arguments import whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.adams import EARLY, History
from refdiff.samplers.ddim import flow_step, frozen_noise, noise_of
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, lagrange_integrals
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.runge_kutta import combined
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

# Adams-Bashforth with equal steps, the newest first
WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class _Look:
    """The model's answer at a stage, from which a transfer starts: x, the denoiser d and the noise e there."""

    def __init__(self, rec: Recorder, x: State, s: Point) -> None:
        self.s, self.x, self.denoiser = s, x, rec.evaluate(x, s)
        self.noise = noise_of(x, self.denoiser, s)

    def transfer(self, t: Point, noise: State | None = None) -> State:
        """phi(x, e; s, t): DDIM's step, with the noise of s itself, and alpha_t (rho_t - rho_s) (e - e_s) more.

        Written so, it is finite where alpha_s = 0 for the noise of s itself, which is what is used when none is given.
        """
        step = flow_step(self.x, self.denoiser, self.s, t, t.sigma)
        return step if noise is None else step + frozen_noise(self.s, t, t.sigma)[1] * (noise - self.noise)


def pndm(
    process: AffineProcess | Schedule, times: ArrayLike, *, order: int = 4, skip_prk_steps: bool = False
) -> Tableau:
    """PNDM: pseudo Runge-Kutta for the first steps, then pseudo linear multistep; skip_prk_steps gives PLMS.

    Args:
        process, times: the process and the decreasing grid (n + 1,), meant for equal steps; it may start where alpha =
            0 (by a DDIM step) and end where sigma = 0 (a starting step that would look there takes the history it has).
        order: of the linear multistep weights, 1 to 4: 4 is F-PNDM, and 2 with skip_prk_steps is S-PNDM.
        skip_prk_steps: start by one improved Euler step, then orders 2, 3, ..., as latent diffusion does, in place of
            order - 1 Runge-Kutta steps of four evaluations.

    Raises:
        ValueError: an order outside 1..4.
    """
    order = whole_number("order", order, low=1, high=4)
    rec = Recorder(f"{'PLMS' if skip_prk_steps else 'PNDM'} {order}", process, times, "denoiser")
    x, history = rec.start, History(order)
    for i, (s, t) in enumerate(rec.steps):
        here = _Look(rec, x, s)
        history.add(s.t, here.noise)
        starting = i < (1 if skip_prk_steps and order > 1 else order - 1)
        if s.pure_noise:
            x = here.transfer(t)
        elif starting and not t.clean:
            x = (_improved_euler if skip_prk_steps else _pseudo_runge_kutta)(rec, here, t)
        else:
            x = here.transfer(t, combined(WEIGHTS[len(history.nodes)], history.values))
    return rec.finish(x)


def plms(process: AffineProcess | Schedule, times: ArrayLike, *, order: int = 4) -> Tableau:
    """PLMS: `pndm` with skip_prk_steps."""
    return pndm(process, times, order=order, skip_prk_steps=True)


def ipndm(process: AffineProcess | Schedule, times: ArrayLike, *, order: int = 4, variable: bool = False) -> Tableau:
    """iPNDM: the multistep weights from the first step on, orders 1, 2, ..., order.

    Args:
        process, times: the process and the decreasing grid (n + 1,); it may start where alpha = 0 (by a DDIM step) and
            end where sigma = 0.
        order: 1 to 4.
        variable: weights for the grid's own steps of rho (iPNDM-v), which makes it the linear multistep method:
            order k on any smooth grid. A first node with infinite rho takes no part.

    Raises:
        ValueError: an order outside 1..4.
    """
    order = whole_number("order", order, low=1, high=4)
    rec = Recorder(f"iPNDM{'-v' if variable else ''} {order}", process, times, "denoiser")
    x, history = rec.start, History(order)
    for s, t in rec.steps:
        here = _Look(rec, x, s)
        if not (variable and s.pure_noise):
            history.add(s.rho, here.noise)
        if s.pure_noise:
            x = here.transfer(t)
        else:
            weights = _mean_weights(history.nodes, t.rho) if variable else WEIGHTS[len(history.nodes)]
            x = here.transfer(t, combined(weights, history.values))
    return rec.finish(x)


def _mean_weights(nodes: list[Number], end: Number) -> list[Number]:
    """The weights of the mean over [nodes_0, end] of the polynomial through values at the nodes."""
    return [weight / (end - nodes[0]) for weight in lagrange_integrals(nodes, nodes[0], end)]


def _pseudo_runge_kutta(rec: Recorder, one: _Look, t: Point) -> State:
    middle = rec.at((one.s.t + t.t) / 2)
    two = _Look(rec, one.transfer(middle), middle)
    three = _Look(rec, one.transfer(middle, two.noise), middle)
    four = _Look(rec, one.transfer(t, three.noise), t)
    return one.transfer(t, (one.noise + 2 * two.noise + 2 * three.noise + four.noise) / 6)


def _improved_euler(rec: Recorder, one: _Look, t: Point) -> State:
    two = _Look(rec, one.transfer(t), t)
    return one.transfer(t, (one.noise + two.noise) / 2)


_PNDM, _IPNDM = "PODC9-55 (Liu et al. 2022)", "PODC9-18, PODC9-55 (Zhang and Chen 2023)"

# In t: order min(k, 2), for the transfer takes the mean in t where the flow takes it in rho. Starts do not lower it.
FAMILIES = (
    Family("pndm", pndm, 2, "n + 9", _PNDM, clock="t", starts_pure=True),
    Family("plms", plms, 2, "n + 1", _PNDM, clock="t", starts_pure=True),
    Family("s-pndm", plms, 2, "n + 1", _PNDM, {"order": 2}, clock="t", starts_pure=True),
    *(
        Family(f"ipndm{k}", ipndm, min(k, 2), "n", _IPNDM, {"order": k}, clock="t", starts_pure=True)
        for k in (1, 2, 3, 4)
    ),
    *(
        Family(
            f"ipndm-v{k}",
            ipndm,
            k,
            "n",
            _IPNDM,
            {"order": k, "variable": True},
            startup=2,  # the first step is DDIM's, h^2
            exact_steps=k - 1,
            clock="rho",
            starts_pure=True,
            measure=EARLY,
        )
        for k in (2, 3, 4)
    ),
)
