r"""Reverse-time equations with a score: Euler-Maruyama, score-SDE's samplers, exponential and Runge-Kutta methods.

    dx = [f x - (1 + k^2) / 2 g^2 S] dt + k g dw,     S = grad log p_t,  backward from s to t < s,  h = s - t

k = 1 is the reverse equation, k = 0 the probability flow; every k has the same marginals. One step is mean + std z:

    Euler-Maruyama      x - h [f x - (1 + k^2) / 2 g^2 S]                    k g sqrt(h)              f, g at s
    reverse diffusion   (2 - a) x + (1 + k^2) / 2 b^2 S                      k b
    ancestral           (x + b^2 S) / a                                      b sigma_t / sigma_s,  or b
    exponential         x / a + (1 + k^2) / 2 S int_t^s alpha_t / alpha_u g_u^2 du    k b / a

with the forward step x_s = a x_t + b z: a = alpha_s / alpha_t, b^2 = sigma_s^2 - a^2 sigma_t^2. With a = sqrt(1 - beta)
and b^2 = beta these are score-SDE's formulas for a variance-preserving process, with a = 1 for an exploding one.
Two evaluations in a step reach weak order 2, because the noise does not multiply x (`stochastic_runge_kutta`).
Sources: PODA-419, PODA-420, PODB-18, TOPA-77, PODD-62; Song et al. 2021 (appendices D, F and G), Anderson 1982.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from refdiff import operators
from refdiff.arguments import one_of, real_scalar
from refdiff.processes import Process
from refdiff.samplers.ddim import posterior_std, step_variance
from refdiff.samplers.families import Family
from refdiff.samplers.frozen_scores import frozen_score_weight
from refdiff.samplers.numbers import Number, sqrt
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

# (recorder, x at s, s, t) -> the mean at t and the standard deviation of the noise
Step = Callable[[Recorder, State, Point, Point], tuple[State, Number]]

FINALS = ("noisy", "mean", "tweedie")
VARIANCES = ("small", "large")
METHODS = ("heun", "sra1")


# ---------------------------------------------------------------------- one evaluation in a step


def euler_maruyama(
    process: Process | Schedule, times: ArrayLike, *, noise: float = 1.0, final: str = "noisy"
) -> Tableau:
    """Euler-Maruyama for the reverse equation; with noise = 0 Euler's method for the probability flow.

    Args:
        process, times: the process and the decreasing grid (n + 1,), where f and g are finite; it may end where sigma =
            0.
        noise: k >= 0, the share of noise in the family of equations with the same marginals.
        final: noisy; mean, which leaves out the last step's noise (score-SDE's `denoise`); or tweedie, which puts
            E[x_0 | x] of the last x as output, for one evaluation more (Jolicoeur-Martineau et al. 2021).

    Raises:
        ValueError: f or g infinite at a time of the grid but the last, or Tweedie's step from sigma = 0.
    """
    return _sampler("Euler-Maruyama", process, times, euler_maruyama_step(noise), final, finite_rates)


def reverse_diffusion(
    process: Process | Schedule, times: ArrayLike, *, noise: float = 1.0, final: str = "noisy"
) -> Tableau:
    """Score-SDE's reverse-diffusion sampler: the forward step's own discretization, reversed.

    Args:
        process, times: the process and the decreasing grid (n + 1,); its ends may be alpha = 0 and sigma = 0.
        noise: k >= 0; 0 is score-SDE's `probability_flow`.
        final: noisy, mean or tweedie, see `euler_maruyama`.
    """
    return _sampler("reverse diffusion", process, times, reverse_diffusion_step(noise), final)


def ancestral(
    process: Process | Schedule, times: ArrayLike, *, variance: str = "small", final: str = "noisy"
) -> Tableau:
    """Score-SDE's ancestral sampler: the exact mean of x_t given x_s, with a fixed variance.

    In terms of the denoiser it is `ddpm` with the variance posterior or (and `final_noise`) beta.

    Args:
        process, times: the process and the decreasing grid (n + 1,), alpha > 0 at its start; it may end where sigma =
            0.
        variance: small, that of x_t given x_s and x_0 (score-SDE for an exploding variance); or large, b^2 (beta,
            score-SDE for a preserved variance).
        final: noisy, mean or tweedie, see `euler_maruyama`.

    Raises:
        ValueError: alpha = 0 at the start, where the score says nothing about the data.
    """
    return _sampler("ancestral", process, times, ancestral_step(variance), final, alpha_divides)


def exponential_euler_maruyama(
    process: Process | Schedule, times: ArrayLike, *, noise: float = 1.0, final: str = "noisy"
) -> Tableau:
    """Exponential Euler-Maruyama: the linear part and the noise exact over a step, the score frozen.

    Args:
        process, times: the process and the decreasing grid (n + 1,), alpha > 0 at its start; it may end where sigma =
            0.
        noise: k >= 0; 0 is the exponential Euler method of the probability flow with a frozen score, not DDIM.
        final: noisy, mean or tweedie, see `euler_maruyama`.

    Raises:
        ValueError: alpha = 0 at the start, where the linear part is infinite.
    """
    return _sampler(
        "exponential Euler-Maruyama", process, times, exponential_euler_maruyama_step(noise), final, alpha_divides
    )


def _sampler(
    name: str,
    process: Process | Schedule,
    times: ArrayLike,
    step: Step,
    final: str,
    check: Callable[[Recorder], None] | None = None,
) -> Tableau:
    one_of("final", final, FINALS)
    rec = Recorder(name if final == "noisy" else f"{name}, final {final}", process, times, "score")
    if check is not None:
        check(rec)
    x = rec.start
    for s, t in rec.steps:
        mean, std = step(rec, x, s, t)
        x = mean if final == "mean" and t is rec.points[-1] else mean + rec.noise(std)
    return finish(rec, x, final)


def finish(rec: Recorder, x: State, final: str, point: Point | None = None) -> Tableau:
    """The table that ends with x at the last time, or with E[x_0 | x] = (x + sigma^2 S) / alpha by one more call.

    The call is made where `final` is tweedie, at the last time unless another point is given.

    Raises:
        ValueError: Tweedie's step where alpha or sigma is 0.
    """
    p = rec.points[-1] if point is None else point
    if final != "tweedie":
        return rec.finish(x, p)
    if p.clean or p.pure_noise:
        raise ValueError(f"times must end where alpha and sigma > 0 for Tweedie's step, got {p.t}")
    score = rec.evaluate(x, p)
    return rec.finish((x + p.motion.noise * score) / p.motion.gain, rec.at(0.0))


# ---------------------------------------------------------------------- the steps


def euler_maruyama_step(noise: float = 1.0) -> Step:
    """x - h [f x - (1 + k^2) / 2 g^2 S] + k g sqrt(h) z."""
    k = real_scalar("noise", noise, low=0)

    def step(rec: Recorder, x: State, s: Point, t: Point) -> tuple[State, Number]:
        h, score = s.t - t.t, rec.evaluate(x, s)
        return x - h * reverse_drift(rec, x, score, s, k), k * amplitude(rec.rates(s)[1] * h)

    return step


def reverse_diffusion_step(noise: float = 1.0) -> Step:
    """(2 - a) x + (1 + k^2) / 2 b^2 S + k b z."""
    k = real_scalar("noise", noise, low=0)

    def step(rec: Recorder, x: State, s: Point, t: Point) -> tuple[State, Number]:
        (a, b2), score = forward(rec, s, t), rec.evaluate(x, s)
        return 2 * x - a * x + ((1 + k**2) / 2 * b2) * score, k * amplitude(b2)

    return step


def ancestral_step(variance: str = "small") -> Step:
    """(x + b^2 S) / a + c z, with c the posterior's standard deviation or b."""
    one_of("variance", variance, VARIANCES)

    def step(rec: Recorder, x: State, s: Point, t: Point) -> tuple[State, Number]:
        (a, b2), score = forward(rec, s, t), rec.evaluate(x, s)
        if variance == "large":
            return (x + b2 * score) / a, amplitude(b2)
        if rec.matrices:
            return (x + b2 * score) / a, amplitude(rec.process.noise_channel(s.t, t.t, 1.0).noise)
        return (x + b2 * score) / a, posterior_std(s, t)

    return step


def exponential_euler_maruyama_step(noise: float = 1.0) -> Step:
    """x / a + (1 + k^2) / 2 S int alpha_t / alpha g^2 + k b / a z."""
    k = real_scalar("noise", noise, low=0)

    def step(rec: Recorder, x: State, s: Point, t: Point) -> tuple[State, Number]:
        (a, b2), weight, score = forward(rec, s, t), frozen_score_weight(rec.process, s.t, t.t), rec.evaluate(x, s)
        std = operators.product(operators.inverse(a), amplitude(b2)) if rec.matrices else sqrt(b2) / a
        return x / a + ((1 + k**2) / 2 * weight) * score, k * std

    return step


def reverse_drift(rec: Recorder, x: State, score: State, p: Point, noise: float) -> State:
    """f x - (1 + k^2) / 2 g^2 S at a point, k = noise, with the process of `rec`."""
    f, g2 = rec.rates(p)
    drift: State = f * x - ((1 + noise**2) / 2 * g2) * score
    return drift


def forward(rec: Recorder, s: Point, t: Point) -> tuple[Number, Number]:
    """a and b^2 of the step x_s = a x_t + b z of the process, t < s: numbers, (d,) or (d, d)."""
    if rec.matrices:
        channel = rec.process.channel(t.t, s.t)
        return channel.gain, channel.noise
    return s.alpha / t.alpha, step_variance(s, t)


def amplitude(variance: Number) -> Number:
    """The standard deviation of a variance, or the symmetric root of a covariance (d, d)."""
    return operators.root(variance) if np.ndim(variance) == 2 else sqrt(variance)


# ---------------------------------------------------------------------- two evaluations in a step


def stochastic_runge_kutta(
    process: Process | Schedule,
    times: ArrayLike,
    *,
    method: str = "heun",
    noise: float = 1.0,
    final: str = "noisy",
) -> Tableau:
    r"""A Runge-Kutta method of weak order 2 for the reverse equation, whose noise is additive.

    With F the drift backward in time, G = k g and unit normals z, z':

        heun    y = x + h F_s(x) + N,   x + h / 2 [F_s(x) + F_t(y)] + N,   N = sqrt(h (G_s^2 + G_t^2) / 2) z
        sra1    y = x + 3/4 h F_s(x) + 3/2 G_t chi,   x + h / 3 [F_s(x) + 2 F_m(y)] + G_t sqrt(h) z + (G_s - G_t) chi,
                chi = sqrt(h) (z + z' / sqrt(3)) / 2,   m = s - 3/4 h

    chi is int (w_u - w_s) du / h over the step; sra1 also has strong order 3/2.

    Args:
        process, times: the process and the decreasing grid (n + 1,), where f and g are finite. Where heun would
            evaluate the score at sigma = 0 its last step is Euler-Maruyama's.
        method: heun (Platen's method for additive noise) or sra1.
        noise: k >= 0, 0 for the deterministic method.
        final: noisy, mean or tweedie, see `euler_maruyama`; mean leaves out the last step's noise.

    Raises:
        ValueError: f or g infinite on the grid, or an unknown method.

    Source: Kloeden and Platen 1992 (section 15.1), Roessler 2010 (SRA1).
    """
    one_of("method", method, METHODS)
    one_of("final", final, FINALS)
    k = real_scalar("noise", noise, low=0)
    name = f"stochastic Runge-Kutta, {method}"
    rec = Recorder(name if final == "noisy" else f"{name}, final {final}", process, times, "score")
    finite_rates(rec, rec.points)
    x = rec.start
    for s, t in rec.steps:
        quiet = final == "mean" and t is rec.points[-1]
        x = (_heun if method == "heun" else _sra1)(rec, x, s, t, k, k * (not quiet))
    return finish(rec, x, final)


def _heun(rec: Recorder, x: State, s: Point, t: Point, k: float, share: float) -> State:
    h = s.t - t.t
    before, g2 = reverse_drift(rec, x, rec.evaluate(x, s), s, k), rec.rates(s)[1]
    if t.clean:
        return x - h * before + rec.noise(share * amplitude(h * g2))
    increment = rec.noise(share * amplitude(h * (g2 + rec.rates(t)[1]) / 2))
    y = x - h * before + increment
    after = reverse_drift(rec, y, rec.evaluate(y, t), t, k)
    return x - h / 2 * (before + after) + increment


def _sra1(rec: Recorder, x: State, s: Point, t: Point, k: float, share: float) -> State:
    h, first, last = s.t - t.t, share * amplitude(rec.rates(s)[1]), share * amplitude(rec.rates(t)[1])
    middle = rec.at(s.t - 0.75 * h)
    increment, chi = State({}), State({})
    if share:
        increment = rec.noise(sqrt(h))
        chi = 0.5 * increment + rec.noise(sqrt(h / 12))
    before = reverse_drift(rec, x, rec.evaluate(x, s), s, k)
    y = x - 0.75 * h * before + 1.5 * last * chi
    after = reverse_drift(rec, y, rec.evaluate(y, middle), middle, k)
    total: State = last * increment + (first - last) * chi
    return x - h / 3 * (before + 2 * after) + total


# ---------------------------------------------------------------------- what a grid must allow


def finite_rates(rec: Recorder, points: list[Point] | None = None) -> None:
    """Nothing where f and g^2 are finite at the points, all of the grid but the last unless given.

    Raises:
        ValueError: f or g^2 is infinite.
    """
    for p in rec.points[:-1] if points is None else points:
        for name, value in zip(("f", "g^2"), rec.rates(p), strict=True):
            if not np.isfinite(np.asarray(value, dtype=float)).all():
                raise ValueError(f"times must lie where f and g^2 are finite, got {p.t} where {name} = {value}")


def alpha_divides(rec: Recorder) -> None:
    """ValueError for a start at alpha = 0."""
    rec.finite_log_snr("a step divides by alpha", last=False)


_SONG = "(Song et al. 2021)"

FAMILIES = (
    Family("euler-maruyama", euler_maruyama, 1, "n", f"PODA-419, TOPA-77, PODD-62 {_SONG}", clock="t"),
    Family("score-euler", euler_maruyama, 1, "n", f"PODA-420 {_SONG}", {"noise": 0.0}, clock="t"),
    Family("reverse-diffusion", reverse_diffusion, 1, "n", f"PODA-419 {_SONG}", clock="t", starts_pure=True),
    Family(
        "reverse-diffusion-flow",
        reverse_diffusion,
        1,
        "n",
        f"PODA-420 {_SONG}",
        {"noise": 0.0},
        clock="t",
        starts_pure=True,
    ),
    Family("score-ancestral", ancestral, 1, "n", f"PODA-225 {_SONG}", clock="t"),
    Family("score-ancestral-large", ancestral, 1, "n", f"PODA-225 {_SONG}", {"variance": "large"}, clock="t"),
    Family("exponential-euler-maruyama", exponential_euler_maruyama, 1, "n", "PODB-65, PODC9-09", clock="t"),
    Family("exponential-score-euler", exponential_euler_maruyama, 1, "n", "PODC9-09", {"noise": 0.0}, clock="t"),
    Family("stochastic-heun", stochastic_runge_kutta, 2, "2n", "PODD-58 (Kloeden and Platen 1992)", clock="t"),
    Family("sra1", stochastic_runge_kutta, 2, "2n", "PODD-62 (Roessler 2010)", {"method": "sra1"}, clock="t"),
)
