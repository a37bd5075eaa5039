r"""Score-SDE's corrector with measured norms: a Langevin step whose size depends on the points themselves.

    eps = 2 a (r |z| / |S|)^2,      x <- x + eps S + sqrt(2 eps) z,      S = grad log p_t(x),  z ~ N(0, 1)

r is the signal-to-noise ratio of the step, and a = 1 for an exploding variance, 1 - beta_i at level i for a preserved
one: (alpha_i / alpha_{i-1})^2, of the corrected time and the next cleaner one. The norms are means over the batch, or
each point's own. No table of numbers can hold it: the size of a step is not linear in x. Where |S| is 1 / sigma times
|z|, as for a spread out p_t, eps = 2 a (r sigma)^2, which (with a = 1) is what `predictor_corrector(snr=r)` takes.
Source: Song et al. 2021 (appendix G, Algorithms 4 and 5).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array, generator, one_of, points, real_array, real_scalar, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.langevin import PREDICTORS, predictor_corrector
from refdiff.samplers.recorder import Point, Recorder
from refdiff.samplers.running import Model, asking, run
from refdiff.schedules import Schedule

NORMS = ("batch", "sample")


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
    count, rng, t = whole_number("steps", steps), generator(seed), real_scalar("t", t, low=0)
    one_of("norm", norm, NORMS)
    start = real_array("x", x)
    if start.ndim == 0:
        raise ValueError("x must have shape (..., d), got one number")
    rows, restore = points("x", x, start.shape[-1])
    ask = asking(model, "score")
    for _ in range(count):
        score = ask(rows, t)
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
        process, times: the process, the same on all axes, and the decreasing grid (n + 1,), as the predictor needs it.
        model: an ExactModel, or a function (x, t) -> the score at points (n, d).
        x: where to start, shape (..., d).
        predictor: euler-maruyama, reverse-diffusion, ancestral or exponential.
        corrector_steps, snr, norm: the corrector; its factor a is (alpha_p / alpha_q)^2, with p the corrected time and
            q the next one of the grid, 0 after the last.
        first: predictor (the paper's Algorithm 1) or corrector (its code); nothing is corrected where sigma = 0.
        final: noisy, or mean, which leaves out the noise of the last prediction where nothing corrects after it.
        seed: an int or a generator.

    Raises:
        ValueError: final = "mean" with a corrector after the last prediction; see also the predictors.
    """
    one_of("predictor", predictor, tuple(PREDICTORS))
    one_of("first", first, ("predictor", "corrector"))
    one_of("final", final, ("noisy", "mean"))
    one_of("norm", norm, NORMS)
    count, snr, rng = whole_number("corrector_steps", corrector_steps), real_scalar("snr", snr, low=0), generator(seed)
    build = partial(predictor_corrector, predictor=predictor, corrector_steps=0)
    build(process, times)  # the predictor's own errors, before any work
    rec = Recorder("norm corrector", process, times, "score")
    rec.scalar("norms over axes")
    if final == "mean" and first == "predictor" and count and not rec.points[-1].clean:
        raise ValueError("final must be noisy where a corrector with fresh noise comes last, got 'mean'")

    def correct(y: ArrayLike, p: Point, q: Point) -> ArrayLike:
        if p.clean:
            return y
        scale = float((p.alpha / q.alpha) ** 2)
        return norm_corrector(model, y, p.t, snr=snr, steps=count, scale=scale, norm=norm, seed=rng)

    y, cleaner = x, [*rec.points[2:], rec.at(0.0)]
    for (s, t), after in zip(rec.steps, cleaner, strict=True):
        y = correct(y, s, t) if first == "corrector" else y
        y = run(build(rec.affine, [s.t, t.t], final=final if t is rec.points[-1] else "noisy"), model, y, rng)
        y = correct(y, t, after) if first == "predictor" else y
    return np.asarray(y)
