r"""The stochastic equations of an exact model: forward, and all that share its marginals.

    forward       dx = [F x + u] dt + G dw                           D = G G'
    to data       dx = [v - H H' s / 2] dt + H dw,   dt < 0          v the probability flow, s = grad log p_t
    to noise      dx = [v + H H' s / 2] dt + H dw,   dt > 0

H = 0 is the probability flow, H = G to data Anderson's reversal, H = G to noise the forward equation itself; any
H(t) whatever has the marginals p_t. Sources: PODB-67, PODA-407, PODA-413, TOPA-64, TOPB-62, RDX-09, PODD-108.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import Array, real_scalar, whole_number
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, Process
from refdiff.samplers.reverse_sde import euler_maruyama
from refdiff.samplers.running import run
from refdiff.schedules import Schedule
from refdiff.stochastic.equation import StochasticEquation


def forward_equation(process: Process | Schedule, dim: int) -> StochasticEquation:
    """dx = [F x + u] dt + G dw of a process, with the symmetric root of D for G.

    Args:
        process: a Process or a Schedule.
        dim: d, the dimension of x.

    Raises:
        TypeError: no process.
        ValueError: a process on another number of axes.

    Examples:
        >>> import numpy as np
        >>> from refdiff import VPLinear
        >>> from refdiff.stochastic import forward_equation
        >>> equation = forward_equation(VPLinear(beta_min=2.0, beta_max=2.0), 1)  # dx = -beta x / 2 dt + sqrt(beta) dw
        >>> print(equation.drift_at(np.array([[3.0]]), 0.5), round(float(equation.noise(0.5)), 6))
        [[-3.]] 1.414214
    """
    process = AffineProcess(process) if isinstance(process, Schedule) else process
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process or a Schedule, got {process!r}")
    if process.axes not in (None, whole_number("dim", dim, low=1)):
        raise ValueError(f"dim must be the process's number of axes {process.axes}, got {dim}")

    def drift(x: Array, t: float) -> Array:
        return np.asarray(operators.apply(process.drift(t), x) + process.force(t))

    return StochasticEquation(drift, lambda t: operators.root(process.diffusion(t)), dim, linear=process.drift)


def marginal_family(
    model: ExactModel,
    stochasticity: float = 1.0,
    *,
    noise: Callable[[float], ArrayLike] | None = None,
    to_data: bool = True,
) -> StochasticEquation:
    """A stochastic equation with the marginals of an exact model.

    To data, with k and no noise of one's own, `solve` runs Euler-Maruyama from a seed as a table of the samplers, in
    one kernel where that pays. Not so under an offset: a table takes it exactly, and Euler's steps of x do not.

    Args:
        model: an ExactModel of any process.
        stochasticity: k >= 0, H = k G.
        noise: t -> H itself, a scalar, (d,) or (d, m), in place of k.
        to_data: whether time runs from noise to data (dt < 0) or from data to noise.

    Raises:
        TypeError: the model is no ExactModel.
        ValueError: stochasticity is negative.

    Examples:
        >>> import numpy as np
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.stochastic import marginal_family
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> flow, reversal = marginal_family(model, 0.0), marginal_family(model, 1.0)
        >>> print(flow.drift_at(np.array([[10.0]]), 3.0))  # the probability flow: t x / (1 + t^2)
        [[3.]]
        >>> print(reversal.drift_at(np.array([[10.0]]), 3.0))  # -g^2 score, twice that
        [[6.]]
    """
    if not isinstance(model, ExactModel):
        raise TypeError(f"model must be an ExactModel, got {model!r}")
    k, sign = real_scalar("stochasticity", stochasticity, low=0), -0.5 if to_data else 0.5

    def root(t: float) -> Array:
        if noise is not None:
            return operators.operator("noise", noise(t))
        # D may have no limit at T, where the probability flow has one
        return k * operators.root(model.process.diffusion(t)) if k else np.zeros(())

    def drift(x: Array, t: float) -> Array:
        h = root(t)
        spread = h @ h.T if h.ndim == 2 else h * h
        if not spread.any():
            return np.asarray(model.velocity(x, t))
        # v = A' D + b' - S s has the score in it: asked for once
        m = model.process.motion(t)
        carried = operators.apply(m.dgain, model.denoiser(x, t)) + m.offset.rate
        pull = operators.add(m.spread, -sign * spread)
        return np.asarray(carried - operators.apply(pull, model.score(x, t)))

    def euler(x: Array, times: Array, seed: int, particle: int, trajectory: bool) -> Array:
        table = euler_maruyama(model.process, times, noise=k)
        return run(table, model, x, seed if k else None, particle=particle, trajectory=trajectory)

    columns = () if noise is None else root(0.5 * model.process.T).shape[1:]
    motions = columns[0] if columns else model.dim
    fast = euler if to_data and noise is None and model is model.centred else None
    return StochasticEquation(drift, root, model.dim, motions=motions, linear=model.process.drift, euler=fast)
