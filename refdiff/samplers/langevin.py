r"""Langevin's iteration: at one noise level, annealed over many, and as the corrector of a reverse-time sampler.

    x <- x + eta S_t(x) + sqrt(2 eta) z                        S_t = grad log p_t,  z ~ N(0, 1)

For Gaussian data of variance P at t the variance follows V' = (1 - eta / P)^2 V + 2 eta, with the fixed point
P / (1 - eta / 2P); it is stable for eta < 2 P.

    annealed (NCSN)        from sigma_L to sigma_1:  n iterations with eta_l = delta sigma_l^2 / sigma_1^2, then hand on
    predictor-corrector    a step of a reverse-time sampler, then n iterations at the time it reached

Song and Ermon write alpha_i = eps sigma_i^2 / sigma_1^2 and x + alpha_i / 2 S + sqrt(alpha_i) z, so eta = alpha_i / 2.
Where alpha varies it is x / alpha that is handed on, and sigma / alpha that the steps follow. The start is
N(0, sigma_L^2) and every level is visited, the last one too; both differ from the printed algorithm of PODA-331, whose
loop stops at l = 2 and whose start is N(0, I). Sources: PODA-317, PODA-331; Song and Ermon 2019, Song et al. 2021
(Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable

from numpy.typing import ArrayLike

from refdiff.arguments import one_of, real_scalar, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import per_step
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, sqrt
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.reverse_sde import (
    Step,
    alpha_divides,
    ancestral_step,
    euler_maruyama_step,
    exponential_euler_maruyama_step,
    finish,
    finite_rates,
    reverse_diffusion_step,
)
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

CONVENTIONS = ("eta", "song-ermon")
ENDS = ("noisy", "tweedie")
# the steps of reverse_sde that can predict, each with what it asks of the grid
PREDICTORS: dict[str, tuple[Callable[[], Step], Callable[[Recorder], None]]] = {
    "euler-maruyama": (euler_maruyama_step, finite_rates),
    "reverse-diffusion": (reverse_diffusion_step, lambda _: None),
    "ancestral": (ancestral_step, alpha_divides),
    "exponential": (exponential_euler_maruyama_step, alpha_divides),
}


def langevin_steps(rec: Recorder, x: State, p: Point, eta: Number, steps: int) -> State:
    """x <- x + eta S + sqrt(2 eta) z, so many times at one point."""
    for _ in range(steps):
        score = rec.evaluate(x, p)
        x = x + eta * score + rec.noise(sqrt(2 * eta))
    return x


def langevin(
    process: AffineProcess | Schedule, t: float, *, step_size: float, steps: int, final: str = "noisy"
) -> Tableau:
    """Unadjusted Langevin at one time.

    Args:
        process: the process.
        t: the time, in (0, T].
        step_size: eta > 0.
        steps: how many iterations, one evaluation each.
        final: noisy; or tweedie, which puts E[x_0 | x] as output, for one evaluation more.
    """
    eta, count = real_scalar("step_size", step_size, low=0, open_low=True), whole_number("steps", steps, low=1)
    one_of("final", final, ENDS)
    rec = Recorder("Langevin", process, [real_scalar("t", t, low=0, open_low=True), 0.0], "score")
    p = rec.points[0]
    x = langevin_steps(rec, rec.start, p, eta, count)
    return finish(rec, x, final, p)


def annealed_langevin(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    step_size: float = 1e-3,
    steps: int = 10,
    convention: str = "eta",
    final: str = "noisy",
) -> Tableau:
    """NCSN's sampler: Langevin at every time of the grid, the first and the last included.

    Args:
        process, times: the process and the decreasing noise levels (n,), alpha > 0 and sigma > 0 at all of them.
        step_size: eta at the last level: delta, or eps in Song and Ermon's convention.
        steps: n, iterations at each level.
        convention: eta, x + eta S + sqrt(2 eta) z; or song-ermon, x + eps / 2 S + sqrt(eps) z.
        final: noisy; or tweedie, which puts E[x_0 | x] as output, for one evaluation more (NCSNv2's denoising step).

    Raises:
        ValueError: sigma = 0 at the last time, which the steps are relative to, or alpha = 0 at the first.
    """
    delta, count = real_scalar("step_size", step_size, low=0, open_low=True), whole_number("steps", steps, low=1)
    one_of("convention", convention, CONVENTIONS)
    one_of("final", final, ENDS)
    rec = Recorder("annealed Langevin", process, times, "score")
    rec.finite_log_snr("the step sizes are relative to the last sigma / alpha")
    if convention == "song-ermon":
        delta = delta / 2
    smallest, x = rec.points[-1].rho, rec.start
    for i, p in enumerate(rec.points):
        if i:
            x = p.alpha / rec.points[i - 1].alpha * x
        x = langevin_steps(rec, x, p, delta * (p.sigma / smallest) ** 2, count)
    return finish(rec, x, final)


def predictor_corrector(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    predictor: str = "reverse-diffusion",
    corrector_steps: int = 1,
    snr: float | None = 0.16,
    step_sizes: ArrayLike | None = None,
    first: str = "predictor",
    final: str = "noisy",
) -> Tableau:
    """Predictor-corrector sampling with given step sizes.

    Args:
        process, times: the process and the decreasing grid (n + 1,), as the predictor needs it; it may end where sigma
            = 0.
        predictor: euler-maruyama, reverse-diffusion, ancestral or exponential.
        corrector_steps: Langevin iterations at each corrected time; 0 is the predictor alone.
        snr: eta = 2 (snr sigma_t)^2, score-SDE's corrector with sigma_t in place of the measured norms (its `ald`).
        step_sizes: eta itself, in place of snr: one number, or one for each corrected time.
        first: predictor corrects at times[1:] (the paper's Algorithm 1); corrector at times[:-1], before each
            prediction (its code). Where sigma = 0, at the very end, nothing is corrected.
        final: noisy; mean, which leaves out the last normal, and so returns the mean of the last step (score-SDE's
            `denoise`); or tweedie, E[x_0 | x] by one evaluation more.

    Raises:
        ValueError: both snr and step_sizes or neither, a number of step sizes that does not fit, or a grid that the
            predictor cannot walk.
    """
    one_of("predictor", predictor, tuple(PREDICTORS))
    one_of("first", first, ("predictor", "corrector"))
    one_of("final", final, ("noisy", "mean", "tweedie"))
    count = whole_number("corrector_steps", corrector_steps)
    make, check = PREDICTORS[predictor]
    rec = Recorder(f"{predictor} with corrector", process, times, "score")
    check(rec)
    corrected = rec.points[1:] if first == "predictor" else rec.points[:-1]
    etas = _corrector_sizes(corrected, snr, step_sizes)
    step, x = make(), rec.start
    for (s, t), p, eta in zip(rec.steps, corrected, etas, strict=True):
        last = final == "mean" and t is rec.points[-1]
        corrections = 0 if p.clean else count
        if first == "corrector":
            x = langevin_steps(rec, x, p, eta, corrections)
        mean, std = step(rec, x, s, t)
        closes = first == "corrector" or not corrections
        x = mean if last and closes else mean + rec.noise(std)
        if not closes:
            x = langevin_steps(rec, x, p, eta, corrections - last)
            if last:
                score = rec.evaluate(x, p)
                x = x + eta * score
    return finish(rec, x, final)


def _corrector_sizes(points: list[Point], snr: float | None, step_sizes: ArrayLike | None) -> list[Number]:
    """eta at each corrected time."""
    if step_sizes is None:
        if snr is None:
            raise ValueError("snr or step_sizes must be given, got neither")
        ratio = real_scalar("snr", snr, low=0)
        return [2 * (ratio * p.sigma) ** 2 for p in points]
    if snr is not None:
        raise ValueError("snr and step_sizes exclude each other, got both: pass snr=None")
    return list(per_step("step_sizes", step_sizes, len(points), ndim=(0, 1), negative=False))


FAMILIES = (
    Family("annealed-langevin", annealed_langevin, None, "10n + 10", "PODA-331 (NCSN)", ends_clean=False),
    Family(
        "predictor-corrector",
        predictor_corrector,
        None,  # the corrector's own bias, eta / 2P, does not fall with the number of steps
        "2n",
        "PODA-331, PODA-419 (Song et al. 2021)",
        clock="t",
        starts_pure=True,
    ),
)
