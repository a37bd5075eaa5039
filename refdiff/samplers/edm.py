r"""EDM: Euler and second-order Runge-Kutta in sigma / alpha, with churn.

With y = x / alpha and rho = sigma / alpha the probability flow is dy / d rho = eps*(x). A step from s to t < s:

    churn     rho_hat = rho_s (1 + gamma),  y_hat = y + S_noise sqrt(rho_hat^2 - rho_s^2) z
              gamma = min(S_churn / n, sqrt 2 - 1) where S_tmin <= rho_s <= S_tmax, else 0
    Euler     y_t = y_hat + (rho_t - rho_hat) d,          d = eps* at y_hat, rho_hat
    Heun      y_t = y_hat + (rho_t - rho_hat) (d + d') / 2,   d' = eps* at Euler's y_t, rho_t
    node c    rho' = rho_hat + c (rho_t - rho_hat),  d' = eps* at y_hat + (rho' - rho_hat) d, rho',
              y_t = y_hat + (rho_t - rho_hat) ((1 - 1 / 2c) d + d' / 2c)

c = 1 is Heun, 1/2 the midpoint rule, 2/3 Ralston's. On alpha = 1, sigma = t these are the published algorithms to the
letter; on any other process they are the same map seen through x = alpha y, and Euler is DDIM. With S_noise = 1 the
churn is the process's own kernel from s to hat, which keeps p_t: a churned step is as exact in law as the solver that
follows it, and because gamma is of the size of a step, the weak order is the order of the solver.
Sources: PODC9-10, PODC9-55, DMI-76 (Karras et al. 2022, Algorithms 1 to 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import real_array, real_scalar
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import flow_step, frozen_noise, noise_of, step_variance
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, log, root
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

# ---------------------------------------------------------------------- steps in (x / alpha, sigma / alpha)


def noise_prediction(rec: Recorder, x: State, point: Point) -> State:
    """eps* = (x - alpha D) / sigma at a point, one evaluation of the denoiser."""
    clean = rec.evaluate(x, point)
    return noise_of(x, clean, point)


def moved(x: State, eps: State, s: Point, t: Point) -> State:
    """y_s + (rho_t - rho_s) eps as an x at t."""
    carried, weight = frozen_noise(s, t, t.sigma)
    result: State = carried * x + weight * eps
    return result


def euler_step(rec: Recorder, x: State, s: Point, t: Point) -> State:
    """Euler's step in rho, written with the denoiser: it has a limit at alpha_s = 0 and at sigma_t = 0."""
    clean = rec.evaluate(x, s)
    return flow_step(x, clean, s, t, t.sigma)


def second_order_step(rec: Recorder, x: State, s: Point, t: Point, node: float = 1.0) -> State:
    """The step of the second-order family; Euler's from alpha_s = 0, and with node 1 to sigma_t = 0."""
    if s.pure_noise or (t.clean and node == 1):
        return euler_step(rec, x, s, t)
    first = noise_prediction(rec, x, s)
    inside = t if node == 1 else at_rho(rec, s.rho + node * (t.rho - s.rho))
    second = noise_prediction(rec, moved(x, first, s, inside), inside)
    return moved(x, first * (1 - 1 / (2 * node)) + second * (1 / (2 * node)), s, t)


def raised(rec: Recorder, x: State, s: Point, t: Point, s_noise: float = 1.0) -> State:
    """Noise added from s to a noisier t, y_s + s_noise sqrt(rho_t^2 - rho_s^2) z: the kernel of the process."""
    result: State = (t.alpha / s.alpha) * x + rec.noise(s_noise * root(step_variance(t, s)))
    return result


def at_rho(rec: Recorder, rho: Number) -> Point:
    """The Point where sigma / alpha has this value."""
    return rec.at_log_snr(-log(rho))


# ---------------------------------------------------------------------- churn


@dataclass(frozen=True)
class Churn:
    """When and how much the noise is raised before a step.

    Args:
        s_churn: S_churn >= 0, the amount over all steps; 0 is deterministic.
        s_tmin, s_tmax: the range of sigma / alpha in which there is churn; s_tmax may be infinite.
        s_noise: S_noise >= 0, the inflation of the added noise; 1 keeps the marginals.

    Raises:
        ValueError: a number out of its range.
    """

    s_churn: float
    s_tmin: float
    s_tmax: float
    s_noise: float

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_tmin", "s_noise"):
            object.__setattr__(self, name, real_scalar(name, getattr(self, name), low=0))
        top = real_array("s_tmax", self.s_tmax, ndim=(0,), finite=False)
        if not top >= self.s_tmin:
            raise ValueError(f"s_tmax must be at least s_tmin = {self.s_tmin}, got {top}")
        object.__setattr__(self, "s_tmax", float(top))

    def points(self, rec: Recorder) -> list[Point]:
        """The Point that each step is taken from: its own start, or a noisier one.

        Raises:
            ValueError: there is no such point, since the process ends before that noise level.
        """
        if self.s_churn == 0:
            return [s for s, _ in rec.steps]
        rec.scalar("churn")
        gamma = min(self.s_churn / len(rec.steps), np.sqrt(2) - 1)
        last = rec.at(rec.process.T)
        found = []
        for i, (s, _) in enumerate(rec.steps):
            if not self.s_tmin <= s.rho <= self.s_tmax:
                found.append(s)
                continue
            if s.pure_noise or s.log_snr - np.log1p(gamma) < last.log_snr:
                raise ValueError(
                    f"s_tmax must keep the churned noise within the process, whose sigma / alpha ends at {last.rho}: "
                    f"got sigma / alpha = {s.rho * (1 + gamma)} in step {i}, from t = {s.t}"
                )
            found.append(rec.at_log_snr(s.log_snr - np.log1p(gamma)))
        return found

    def __call__(self, rec: Recorder, x: State, s: Point, hat: Point) -> State:
        """x with its noise raised from s to hat."""
        return x if hat is s else raised(rec, x, s, hat, self.s_noise)

    def __str__(self) -> str:
        return f", S_churn = {self.s_churn:g}" if self.s_churn else ""


# ---------------------------------------------------------------------- the samplers


def edm_euler(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
) -> Tableau:
    """EDM's Euler sampler (Karras et al. 2022, Algorithm 2 without its correction; k-diffusion's sample_euler).

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        s_churn, s_tmin, s_tmax, s_noise: see `Churn`; sigma / alpha is the noise level that they speak of. With
            churn the process must be the same on all axes and reach above the levels that are churned: a process
            with alpha = 1 is made longer (`VEPower(T=120)` for a start at 80), with any other s_tmax is lowered.

    Raises:
        ValueError: an option outside its range, or churn beyond the end of the process.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    rec = Recorder(f"EDM Euler{churn}", process, times, "denoiser")
    x = rec.start
    for (s, t), hat in zip(rec.steps, churn.points(rec), strict=True):
        x = euler_step(rec, churn(rec, x, s, hat), hat, t)
    return rec.finish(x)


def edm_heun(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    node: float = 1.0,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
) -> Tableau:
    """EDM's Heun sampler and its second-order family (Karras et al. 2022, Algorithms 2 and 3; sample_heun).

    Args:
        process, times: the process and the decreasing grid (n + 1,). A step to sigma = 0 is Euler's for node 1; a step
            from alpha = 0 is Euler's for every node.
        node: in (0, 1]: 1 Heun, 1/2 the midpoint rule, 2/3 Ralston's; below 1 the process must be the same on all axes.
        s_churn, s_tmin, s_tmax, s_noise: as in `edm_euler`.

    Raises:
        ValueError: an option outside its range, or churn beyond the end of the process.

    Examples:
        >>> from refdiff import Gaussian, VEPower
        >>> from refdiff.samplers import propagate
        >>> from refdiff.samplers.edm import edm_heun
        >>> law = propagate(edm_heun(VEPower(), [1.0, 0.5]), Gaussian([0.0], 0.0))  # all data at 0: flows are lines
        >>> print(law.output.cov().round(6))  # exact: sigma^2
        [[0.25]]
    """
    node = real_scalar("node", node, low=0, high=1, open_low=True)
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    name = {1.0: "EDM Heun", 0.5: "EDM midpoint"}.get(node, f"EDM, node {node:g}")
    rec = Recorder(f"{name}{churn}", process, times, "denoiser")
    if node < 1:
        rec.scalar("a node inside the step")
    x = rec.start
    for (s, t), hat in zip(rec.steps, churn.points(rec), strict=True):
        x = second_order_step(rec, churn(rec, x, s, hat), hat, t, node)
    return rec.finish(x)


_PAPER = "PODC9-55 (Karras et al. 2022)"
# Churn below sigma / alpha = 1 stays within every process. Its noise is exact, and the solver's steps, from rho_hat,
# are of size O(1/n) as long as gamma is S_churn / n: the weak order is the solver's.
# On Gaussian data of variance v a step of node c errs by (1/2 - c) rho v / (v + rho^2)^3 times its cube (per unit of
# y less the mean): the two terms of the midpoint rule's local error cancel, and its order there is 3.
_CHURN = {"s_churn": 4.0, "s_tmax": 1.0}

FAMILIES = (
    Family("edm-euler", edm_euler, 1, "n", f"PODC9-10, DMI-76, {_PAPER}", starts_pure=True),
    Family("edm-euler-churn", edm_euler, 1, "n", _PAPER, _CHURN, starts_pure=True),
    Family("edm-heun", edm_heun, 2, "2n", _PAPER, starts_pure=True),
    Family("edm-midpoint", edm_heun, 2, "2n", _PAPER, {"node": 0.5}, starts_pure=True, on_gaussians=3),
    Family("edm-ralston", edm_heun, 2, "2n", _PAPER, {"node": 2 / 3}, starts_pure=True),
    Family("edm-heun-churn", edm_heun, 2, "2n", _PAPER, _CHURN, starts_pure=True),
)
