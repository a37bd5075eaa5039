r"""Editing by noise (SDEdit): points of one law noised to a time, and denoised with the model of another.

    x ~ source,    x_t = A x + b + R eps by the forward kernel,    y from x_t down to data with the target's model

by dx = [F x + u - (1 + k^2)/2 D grad log p_t] dt + k G dw, dt < 0: the probability flow for k = 0, Anderson's reverse
equation for k = 1. A small t keeps x, a large one makes y look like the target:

    faithfulness   E|y - x|^2,                   0 at t = 0 and k = 0
    realism        KL(y || target), W_2,         KL(y || target) = KL(q_t || p_t) for k = 0, less for k > 0

with q_t the noised source and p_t the noised target, for all laws: the flow is one to one, and what noise does besides
only loses. Both fall in t. For a Gaussian target the whole of it is a channel. With one schedule, along an axis of the
target's covariance of variance s, P_t = alpha^2 s + sigma^2,

    y = m + g alpha (x - m) + N(0, g^2 sigma^2 + s - g^2 P_t),      g = alpha^(k^2) (s / P_t)^((1 + k^2) / 2)

For k -> inf nothing is left of x. DDIB, which noises by a flow too, is `dynamics.translate`. Sources: PODB-69; Meng,
He, Song, Song, Wu, Zhu and Ermon 2022, "SDEdit".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, points, real_array, real_scalar
from refdiff.channels import Channel
from refdiff.distributions import Gaussian, kl_divergence, wasserstein
from refdiff.dynamics.gaussian_flow import gaussian_flow
from refdiff.model import ExactModel
from refdiff.objectives.reverse import whole
from refdiff.path_measures import reverse_kernel
from refdiff.processes import Process
from refdiff.random import seed_key
from refdiff.samplers import Tableau, run
from refdiff.schedules import Schedule
from refdiff.transport import image_pairs


@dataclass(frozen=True, eq=False)
class EditCurve:
    """What edits cost and win, as functions of the time that points are noised to.

    Attributes:
        times: t, shape (n,).
        faithfulness: E|y - x|^2, shape (n,).
        wasserstein: W_2(law of y, target), shape (n,).
        kl: KL(law of y || target), shape (n,).
    """

    times: Array
    faithfulness: Array
    wasserstein: Array
    kl: Array


def edit_channel(target: ExactModel, t: float, stochasticity: float = 0.0) -> Channel:
    """x -> y for a Gaussian target, in closed form.

    Args:
        target: the model of Gaussian data that denoises; its process noises.
        t: the time that x is noised to, where there is a density.
        stochasticity: k >= 0; 0 the probability flow, 1 the exact reverse kernel.

    Raises:
        TypeError: the target is no ExactModel of Gaussian data.
        ValueError: a time outside [0, T], a negative k, or no density.

    Examples:
        >>> from refdiff import ExactModel, Gaussian, VEPower
        >>> from refdiff.schroedinger import edit_channel
        >>> model = ExactModel(Gaussian([0.0], 1.0), VEPower())
        >>> edited = edit_channel(model, 1.0)  # noise of variance 1, then the flow's 1 / sqrt(2)
        >>> print(edited.gain.round(6), edited.noise.round(6))
        0.707107 0.5
    """
    law = _gaussian("target", target.distribution if isinstance(target, ExactModel) else target)
    now = real_scalar("t", t, low=0, high=target.process.T)
    k = real_scalar("stochasticity", stochasticity, low=0)
    if now == 0:
        return Channel()
    back = reverse_kernel(target, now, 0.0, k) if k else gaussian_flow(law, target.process, now, 0.0)
    return back.compose(target.process.kernel(now))


def edit_curve(source: Gaussian, target: ExactModel, times: ArrayLike, stochasticity: float = 0.0) -> EditCurve:
    """Faithfulness and realism of edits of Gaussians, in closed form.

    Args:
        source: the law of x, a Gaussian; without a density the KL at k = 0 is infinite at t = 0.
        target: the model of Gaussian data that denoises.
        times: those that x is noised to, shape (n,).
        stochasticity: k >= 0.

    Raises:
        TypeError: the source is no Gaussian, or the target no ExactModel of Gaussian data.
        ValueError: dimensions that differ, a time outside [0, T], a negative k, or a target without a density.
    """
    law = _gaussian("source", source)
    goal = _gaussian("target", target.distribution if isinstance(target, ExactModel) else target)
    if law.dim != goal.dim:
        raise ValueError(f"source must have dimension {goal.dim} like the target, got {law.dim}")
    when = real_array("times", times, ndim=(1,))
    rows = []
    for t in when.tolist():
        channel = edit_channel(target, t, stochasticity)
        made = _gaussian("source", channel.push(law))
        kl = np.inf if made.covariances.singular else kl_divergence(made, goal)
        rows.append((image_pairs(law, channel).cost(), wasserstein(made, goal), kl))
    return EditCurve(when, *np.array(rows).reshape(-1, 3).T)


def edit(
    tableau: Tableau,
    target: ExactModel | Callable[[Array, float], ArrayLike],
    x: ArrayLike,
    seed: int | np.random.Generator,
    *,
    process: Process | Schedule | None = None,
) -> Any:
    """Points noised to the first time of a sampler's table and denoised by it, for any target: SDEdit.

    Args:
        tableau: the sampler, in the coordinate x, made for the process of the target.
        target: the model that denoises; or a network, as a function (x, t) -> the tableau's prediction at x (n, d).
        x: points of the source, shape (..., d).
        seed: of the noise, and of the sampler's where it draws any.
        process: what noises; the target's unless given, and needed beside a function.

    Returns:
        y, shape (..., d), as float32 where x is float32.

    Raises:
        TypeError: what is no tableau, or neither a model nor a function beside a process.
        ValueError: the tableau holds another coordinate than x, or begins after the process's end.
    """
    if not isinstance(tableau, Tableau):
        raise TypeError(f"tableau must be a Tableau, got {tableau!r}")
    if tableau.coordinate != "x":
        raise ValueError(f"tableau must be in the coordinate x, got {tableau.coordinate!r}")
    if isinstance(target, ExactModel):
        process, dim = target.process if process is None else process, target.dim
    elif callable(target):
        dim = np.atleast_1d(x).shape[-1]
    else:
        raise TypeError(f"target must be an ExactModel or a function, got {target!r}")
    noising = whole(process)  # type: ignore[arg-type]  # refuses None
    rows, restore = points("x", x, dim)
    rng = generator(seed)
    noisy = noising.kernel(float(tableau.times[0])).sample(rows, rng)
    return restore(run(tableau, target, noisy, seed_key(rng) if tableau.draws else None))


def _gaussian(name: str, law: Any) -> Gaussian:
    if not isinstance(law, Gaussian):
        raise TypeError(f"{name} must be Gaussian, got {law!r}")
    return law
