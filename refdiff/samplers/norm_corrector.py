r"""Score-SDE's corrector with measured norms: a Langevin step whose size depends on the points themselves.

    eps = 2 a (r |z| / |S|)^2,      x <- x + eps S + sqrt(2 eps) z,      S = grad log p_t(x),  z ~ N(0, 1)

r is the signal-to-noise ratio of the step and a = 1 for an exploding variance, alpha_s^2 / alpha_t^2 = 1 - beta of the
step for a preserved one. The norms are means over the batch, or each point's own. No table of numbers can hold it: the
size of a step is not linear in x. Where |S| is 1 / sigma times |z|, as for a spread out p_t, eps = 2 a (r sigma)^2,
which is what `predictor_corrector(snr=r)` takes. Source: Song et al. 2021 (appendix G, Algorithms 4 and 5).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, one_of, points, real_array, real_scalar, whole_number
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers import reverse_sde
from refdiff.samplers.langevin import PREDICTORS
from refdiff.samplers.recorder import decreasing
from refdiff.samplers.running import run
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

Model = ExactModel | Callable[[Array, float], ArrayLike]

NORMS = ("batch", "sample")
SAMPLERS: dict[str, Callable[..., Tableau]] = {
    "euler-maruyama": reverse_sde.euler_maruyama,
    "reverse-diffusion": reverse_sde.reverse_diffusion,
    "ancestral": reverse_sde.ancestral,
    "exponential": reverse_sde.exponential_euler_maruyama,
}


def norm_step_size(
    score: ArrayLike, normals: ArrayLike, *, snr: float, scale: float = 1.0, norm: str = "batch"
) -> Array:
    """eps = 2 scale (snr |z| / |S|)^2: one number for all points, or (n, 1) for each point its own.

    Args:
        score, normals: S and z, shape (n, d).
        snr: r >= 0.
        scale: the factor a.
        norm: batch, the mean norms of all points (score-SDE); or sample.

    Raises:
        ValueError: scores that vanish, for which no step has the ratio; or shapes that do not fit.
    """
    ratio, factor = real_scalar("snr", snr, low=0), real_scalar("scale", scale, low=0)
    one_of("norm", norm, NORMS)
    s, z = real_array("score", score, ndim=(2,)), real_array("normals", normals, ndim=(2,))
    if s.shape != z.shape or not len(s):
        raise ValueError(f"normals must have the shape of score (n, d), n >= 1, got {z.shape} and {s.shape}")
    lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in (z, s)]
    drawn, pull = (length.mean() for length in lengths) if norm == "batch" else lengths
    if not np.all(pull > 0):
        raise ValueError("score must not vanish: the step size is relative to its norm, got 0")
    return np.asarray(2 * factor * (ratio * drawn / pull) ** 2)


def norm_corrector(
    model: Model,
    x: ArrayLike,
    t: float,
    *,
    snr: float = 0.16,
    steps: int = 1,
    scale: float = 1.0,
    norm: str = "batch",
    seed: int | np.random.Generator,
) -> Array:
    """Langevin steps at one time with sizes from the norms of scores and normals.

    Args:
        model: an ExactModel, or a function (x, t) -> the score at points (n, d).
        x: points (..., d).
        t: the time.
        snr, scale, norm: see `norm_step_size`.
        steps: how many.
        seed: an int or a generator.

    Returns:
        The corrected points, in the shape of x.
    """
    count, rng = whole_number("steps", steps), generator(seed)
    start = real_array("x", x)
    if start.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    rows, restore = points("x", x, start.shape[-1])
    for _ in range(count):
        score = _score(model, rows, t)
        z = rng.standard_normal(rows.shape)
        eps = norm_step_size(score, z, snr=snr, scale=scale, norm=norm)
        rows = rows + eps * score + np.sqrt(2 * eps) * z
    return restore(rows)


def norm_predictor_corrector(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    model: Model,
    x: ArrayLike,
    *,
    predictor: str = "reverse-diffusion",
    corrector_steps: int = 1,
    snr: float = 0.16,
    norm: str = "batch",
    first: str = "predictor",
    final: str = "noisy",
    seed: int | np.random.Generator,
) -> Array:
    """Score-SDE's predictor-corrector sampler with measured norms.

    Args:
        process, times: the process, the same on all axes, and the decreasing grid, as the predictor needs it.
        model: an ExactModel, or a function (x, t) -> the score at points (n, d).
        x: where to start, shape (..., d).
        predictor: euler-maruyama, reverse-diffusion, ancestral or exponential.
        corrector_steps, snr, norm: the corrector; its factor a is alpha_s^2 / alpha_t^2 of the step from s to t.
        first: predictor (the paper's Algorithm 1) or corrector (its code); nothing is corrected where sigma = 0.
        final: noisy, or mean, which leaves out the noise of the last prediction where nothing corrects after it.
        seed: an int or a generator.

    Raises:
        ValueError: final = "mean" with a corrector after the last prediction; see also the predictors.
    """
    one_of("predictor", predictor, tuple(PREDICTORS))
    one_of("first", first, ("predictor", "corrector"))
    one_of("final", final, ("noisy", "mean"))
    if isinstance(process, Schedule):
        process = AffineProcess(process)
    if process.per_axis:
        raise ValueError("process must be the same on all axes for norms over axes, got one schedule for each axis")
    grid, rng, build = decreasing(times, process.T), generator(seed), SAMPLERS[predictor]
    build(process, grid)  # the predictor's own errors, before any work
    c = [process.coefficients(float(t)) for t in grid]
    closes = first == "corrector" or c[-1].sigma == 0 or corrector_steps == 0
    if final == "mean" and not closes:
        raise ValueError("final must be noisy where a corrector with fresh noise comes last, got 'mean'")
    y = x
    for i in range(len(grid) - 1):
        at = i if first == "corrector" else i + 1
        count = 0 if c[at].sigma == 0 else corrector_steps
        scale = float((c[i].alpha / c[i + 1].alpha) ** 2)

        def correct(points: ArrayLike, t: float = float(grid[at]), n: int = count, a: float = scale) -> Array:
            return norm_corrector(model, points, t, snr=snr, steps=n, scale=a, norm=norm, seed=rng)

        last = final if i == len(grid) - 2 else "noisy"
        y = correct(y) if first == "corrector" else y
        y = run(build(process, grid[i : i + 2], final=last), model, y, rng)
        y = correct(y) if first == "predictor" else y
    return np.asarray(y)


def _score(model: Model, x: Array, t: float) -> Array:
    if isinstance(model, ExactModel):
        return np.asarray(model.score(x, t))
    if not callable(model):
        raise TypeError(f"model must be an ExactModel or a function of x and t, got {model!r}")
    return real_array("model's answer", model(x, t))
