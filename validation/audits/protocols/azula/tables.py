r"""What azula's samplers are: tables in y = x / alpha and rho = sigma / alpha, whatever the schedule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers import to_prediction
from refdiff.samplers.adams import adams_bashforth, lms
from refdiff.samplers.ddim import ddim
from refdiff.samplers.deis import deis
from refdiff.samplers.edm import edm_euler, edm_heun, noise_prediction
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.sa_solver import sa_solver
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.subject import multiplied


def ito(grid: Array, *, eta: float = 1.0, temperature: float = 1.0) -> Tableau:
    """y + (1 + eta^2) / temperature (rho_s - rho_t) eps + eta sqrt(rho_t^2 - rho_s^2) z: Euler-Maruyama in rho."""
    rec = Recorder("Ito SDE in rho", EXPLODING, grid, "denoiser")
    x = rec.start
    for t, s in rec.steps:
        eps = noise_prediction(rec, x, t)
        drift = (1 + eta**2) / temperature * (s.sigma - t.sigma)
        x = x + drift * eps + rec.noise(eta * np.sqrt((t.sigma - s.sigma) * (t.sigma + s.sigma)))
    return rec.finish(x)


def predictor_corrector(grid: Array, *, corrections: int = 1, delta: float = 0.01) -> Tableau:
    """D + sqrt(1 - delta) (y - D) + sqrt(delta) rho z, so many times at each level, then a step of DDIM."""
    rec = Recorder("Predictor-corrector", EXPLODING, grid, "denoiser")
    x = rec.start
    for t, s in rec.steps:
        for _ in range(corrections):
            clean = rec.evaluate(x, t)
            x = clean + np.sqrt(1 - delta) * (x - clean) + rec.noise(np.sqrt(delta) * t.sigma)
        clean = rec.evaluate(x, t)
        x = clean + s.sigma / t.sigma * (x - clean)
    return rec.finish(x)


PANELS = 256


def rosenbrock(grid: Array, *, order: int = 2, swapped: Array | None = None) -> Tableau:
    r"""The exponential Adams-Bashforth step of azula's documentation.

    For f = ((1 - a) y - D) / b, a = b^2 = rho^2 / (1 + rho^2), in u = log rho,

        y_s = sqrt((1 + rho_s^2) / (1 + rho_t^2)) y_t + sqrt(1 + rho_s^2) sum_i f_i int e^u / (1 + e^2u) l_i(u) du

    with integrals by trapezoids on 256 panels. With `swapped`, the alphas of the grid, the last root is
    sqrt(alpha_s^2 + sigma_t^2) / alpha_s in place of sqrt(alpha_s^2 + sigma_s^2) / alpha_s.
    """
    rec = Recorder("REAB", EXPLODING, grid, "denoiser")
    x = rec.start
    nodes: list[float] = []
    values: list[Any] = []
    for i, (t, s) in enumerate(rec.steps):
        a = t.sigma**2 / (1 + t.sigma**2)
        clean = rec.evaluate(x, t)
        nodes, values = (
            [*nodes, float(np.log(t.sigma))][-order:],
            [*values, ((1 - a) * x - clean) / np.sqrt(a)][-order:],
        )
        u = np.linspace(nodes[-1], float(np.log(s.sigma)), PANELS + 1)
        density = 1 / (2 * np.cosh(u))
        last = s.sigma if swapped is None else t.sigma * swapped[i] / swapped[i + 1]
        x = np.sqrt((1 + s.sigma**2) / (1 + t.sigma**2)) * x
        for j, value in enumerate(values):
            basis = np.prod([(u - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j], axis=0)
            x = x + np.sqrt(1 + last**2) * float(np.trapezoid(density * basis, u)) * value
    return rec.finish(x)


@dataclass(frozen=True)
class Known:
    """What a class stands for: (grid, **options) -> Tableau, its order as run, options that are tried, conventions."""

    build: Callable[..., Tableau]
    order: float
    options: Sequence[Mapping[str, Any]] = ()
    conventions: tuple[str, ...] = ()
    moved: Callable[[Array, Array], Array] = multiplied


def _noise(build: Callable[..., Tableau], **fixed: Any) -> Callable[..., Tableau]:
    """The same table for the noise, from which these samplers make their steps: what x - D cancels is rounding."""
    return lambda grid, **options: to_prediction(build(EXPLODING, grid, **fixed, **options), "noise")


def in_ratio(grid: Array, errors: Array) -> Array:
    """Levels made from sigma / (alpha + sigma), which has these relative errors."""
    u = grid / (1 + grid) * (1 + errors)
    return np.asarray(u / (1 - u))


def in_log(grid: Array, errors: Array) -> Array:
    """Levels made from log sigma - log alpha: alpha, sigma and the logarithms have these relative errors."""
    u = np.log(grid)
    return np.asarray(np.exp(u + errors * (1 + np.abs(u))))


def _multistep(name: str) -> Callable[..., Tableau]:
    kinds: Mapping[str, Callable[[Array, int], Tableau]] = {
        "zAB": lambda grid, order: to_prediction(lms(EXPLODING, grid, order=order), "noise"),
        "vAB": lambda grid, order: adams_bashforth(EXPLODING, grid, order=order, clock="ratio"),
        "zEAB": lambda grid, order: to_prediction(deis(EXPLODING, grid, degree=order - 1, clock="log_snr"), "noise"),
        "xEAB": lambda grid, order: sa_solver(EXPLODING, grid, predictor_order=order, corrector_order=0, tau=0.0),
    }
    return lambda grid, order=2: kinds[name](grid, order)


_ORDERS = ({"order": 1}, {"order": 3}, {"order": 4})
TRAPEZOIDS = "its integrals are those of 256 trapezoids"
SHARE = "eta is the share of the variance, the square of the eta of Song et al."
KNOWN: Mapping[str, Known] = {
    "DDPMSampler": Known(lambda grid: ddim(EXPLODING, grid, eta=1.0), 1),
    "DDIMSampler": Known(
        lambda grid, eta=0.0: ddim(EXPLODING, grid, eta=float(np.sqrt(eta))), 1, ({"eta": 0.5}, {"eta": 1.0}), (SHARE,)
    ),
    "EulerSampler": Known(_noise(edm_euler), 1),
    "HeunSampler": Known(_noise(edm_heun), 2),
    "ItoSampler": Known(ito, 1, ({"eta": 0.0}, {"eta": 0.5}, {"temperature": 0.5}, {"eta": 0.5, "temperature": 2.0})),
    "zABSampler": Known(_multistep("zAB"), 2, _ORDERS),
    "vABSampler": Known(_multistep("vAB"), 2, _ORDERS, moved=in_ratio),
    "zEABSampler": Known(_multistep("zEAB"), 2, _ORDERS, moved=in_log),
    "xEABSampler": Known(_multistep("xEAB"), 2, _ORDERS, moved=in_log),
    "REABSampler": Known(rosenbrock, 2, ({"order": 1}, {"order": 3}), (TRAPEZOIDS,), in_log),
    "PCSampler": Known(predictor_corrector, 1, ({"corrections": 2, "delta": 0.1}, {"corrections": 0})),
}
SWAPPED = "takes sigma of the step's start for that of its end in the weight of the integral, so that its order is 1"
