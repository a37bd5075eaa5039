r"""SA-Solver: stochastic Adams methods for the reverse SDEs with any amount of noise tau.

    dx = (f x - (1 + tau^2) / 2 g^2 score) dt + tau g dw        with the marginals of the process for every tau(t)

In lambda = log(alpha / sigma), with tau constant over a step, h = lambda_t - lambda_s and H = (1 + tau^2) h, exactly

    x_t = sigma_t / sigma_s e^{-tau^2 h} x_s + alpha_t int_0^1 H e^{-H (1 - u)} D(lambda_s + u h) du
          + sigma_t sqrt(1 - e^{-2 tau^2 h}) z

The predictor (Adams-Bashforth) puts the interpolation polynomial of D at the newest evaluations into the integral, the
corrector (Adams-Moulton) that with the evaluation at the predicted x_t among them, and both add the same z. The weights
w_j of the evaluations at u_j (0 for s, 1 for t, negative before) solve

    sum_j u_j^k w_j = int_0^1 H e^{-H (1 - u)} u^k du = k! H phi_{k+1}(-H),    k = 0, 1, ...

With the noise prediction, alpha_t / alpha_s x_s - sigma_t (1 + tau^2) int_0^1 h e^{h (1 - u)} eps du +
tau sigma_t sqrt(e^{2h} - 1) z. Source: Xue et al. 2023 (SA-Solver).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import one_of, real_scalar, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import frozen_step
from refdiff.samplers.dpm_solver import check_start
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, exponential_moments, vandermonde
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule


def sa_solver(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    predictor_order: int = 2,
    corrector_order: int = 2,
    tau: float | Callable[[float], float] = 1.0,
    prediction: str = "denoiser",
    few_steps: bool = False,
    lower_order_final: bool = False,
) -> Tableau:
    """SA-Solver with a predictor of p and a corrector of q evaluations.

    The i-th step takes min(i, p) evaluations in its predictor and min(i + 1, q) in its corrector, which counts the
    one at the predicted point (the paper's q - 1 steps); this is also what later steps see. Without noise the order
    is min(p + 1, q), or p where q = 0; with noise the weak order is at most 2. The last step has no corrector, which
    would cost an evaluation of its own. A step to sigma = 0 is of order 1 and gives the denoised point. A step from
    alpha = 0 (denoiser only) is of order 1, is not corrected, and its evaluation serves no later step, because its
    lambda is infinite.

    Args:
        process, times: the process and the decreasing grid (n + 1,).
        predictor_order: p >= 1.
        corrector_order: q >= 0; 0 for the predictor alone.
        tau: the noise, a number or a function of time that is read at the start of every step: 0 the probability flow,
            1 the reverse SDE.
        prediction: denoiser or noise: which prediction is interpolated.
        few_steps: the official code's weights where two evaluations are combined: sum_j u_j w_j = H / 2 in place of the
            integral, of the same order.
        lower_order_final: the last steps take fewer evaluations: the k-th from the end k in its predictor and k + 1 in
            the corrector before it.

    Raises:
        ValueError: orders out of their range, a negative or infinite tau, an unknown prediction, a grid that starts
            at alpha = 0 with the noise prediction.
    """
    p, q = whole_number("predictor_order", predictor_order, low=1), whole_number("corrector_order", corrector_order)
    if not callable(tau):
        real_scalar("tau", tau, low=0)
    one_of("prediction", prediction, ("denoiser", "noise"))
    rec = Recorder(f"SA-Solver, predictor {p}, corrector {q}", process, times, prediction)
    steps = len(rec.steps)
    check_start(rec)
    x, known = rec.start, [(rec.points[0], rec.evaluate(rec.start, rec.points[0]))]  # evaluations, newest first
    for i, (s, t) in enumerate(rec.steps):
        most = steps - i if lower_order_final else max(p, q)
        amount = real_scalar("tau", tau(s.t) if callable(tau) else tau, low=0)
        square = amount * amount
        if t.clean:  # the denoised point, on axes where sigma = 0
            share = square * (t.sigma > 0) if prediction == "noise" else square
            carried, weight, std = frozen_step(s, t, share, prediction)
            return rec.finish(carried * x + weight * known[0][1] + rec.noise(std))
        carried, _, std = frozen_step(s, t, square, prediction)
        base, noise = carried * x, rec.noise(std)
        predicted = base + _integral(known[: min(p, most)], s, t, square, prediction, few_steps) + noise
        if i == steps - 1:
            return rec.finish(predicted)
        known = [(t, rec.evaluate(predicted, t)), *([] if s.pure_noise else known)][: max(p, q, 1)]
        x = predicted
        if q and not s.pure_noise:
            correct = base + _integral(known[: min(q, most + 1)], s, t, square, prediction, few_steps) + noise
            x = rec.keep(correct, t)
    raise AssertionError("a grid has at least one step")


def _integral(
    known: Sequence[tuple[Point, State]], s: Point, t: Point, square: float, prediction: str, few_steps: bool
) -> State:
    """The integral over the step with the interpolation polynomial of the known evaluations."""
    h = t.log_snr - s.log_snr
    nodes = [0.0 if point is s else 1.0 if point is t else (point.log_snr - s.log_snr) / h for point, _ in known]
    if prediction == "denoiser":
        scale, k = t.alpha, (1 + square) * h
        weights = adams_weights(nodes, -k, few_steps=few_steps)
    else:
        scale = -(1 + square) * t.sigma
        weights = adams_weights(nodes, h, few_steps=few_steps)
    total = State({})
    for weight, (_, value) in zip(weights, known, strict=True):
        total = total + scale * weight * value
    return total


def adams_weights(nodes: Sequence[Number], k: Number, *, few_steps: bool = False) -> list[Number]:
    """The integrals over [0, 1] of |k| e^{k (1 - u)} l_j(u), with l_j the Lagrange polynomials of the nodes.

    With `few_steps` and two nodes the first moment is |k| / 2 in place of the integral's.
    """
    moments = exponential_moments(k, len(nodes))
    if few_steps and len(nodes) == 2:
        moments[1] = k / 2
    return [weight * np.sign(k) for weight in vandermonde(nodes, moments)]


# Without noise the order is min(p + 1, q), or p for the predictor alone; the first step (predictor of local order 2,
# corrector of local order 3) caps it at 3, or 2. With noise the weak order is at most 2 for any p and q: the polynomial
# meets the first moment of the noise drawn within the step, and not its products.
_XUE = "Xue et al. 2023 (SA-Solver)"


def _orders(p: int, q: int, tau: float) -> dict[str, float]:
    return {"predictor_order": p, "corrector_order": q, "tau": tau}


FAMILIES = (
    Family("sa-solver-p1", sa_solver, 1, "n", _XUE, _orders(1, 0, 1.0), starts_pure=True),
    Family("sa-solver-p2", sa_solver, 2, "n", _XUE, _orders(2, 0, 1.0), starts_pure=True),
    Family("sa-solver-p3", sa_solver, 2, "n", _XUE, _orders(3, 0, 1.0), starts_pure=True),
    # tau = 1/2: for tau = 1 the constant of the second order is so small that it shows after thousands of steps
    Family("sa-solver", sa_solver, 2, "n", _XUE, _orders(2, 2, 0.5), starts_pure=True),
    Family("sa-solver-few-steps", sa_solver, 2, "n", f"{_XUE}, official code", {"few_steps": True}, starts_pure=True),
    Family("sa-solver-noise", sa_solver, 2, "n", f"{_XUE}, noise prediction", {"prediction": "noise"}),
    Family("sa-solver-p3-c3", sa_solver, 2, "n", _XUE, _orders(3, 3, 1.0), starts_pure=True),
    Family("sa-solver-ode-p2-c3", sa_solver, 3, "n", f"{_XUE}, tau = 0", _orders(2, 3, 0.0), starts_pure=True),
    Family(
        "sa-solver-ode-p4-c5",
        sa_solver,
        5,
        "n",
        f"{_XUE}, tau = 0",
        _orders(4, 5, 0.0),
        startup=3,
        exact_steps=3,
        starts_pure=True,
    ),
)
