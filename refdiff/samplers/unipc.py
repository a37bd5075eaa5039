r"""UniPC: a predictor and a corrector that spends no evaluation of its own.

With h = lambda_t - lambda_s, evaluations m_0 at s and m_i at earlier points, r_i = (lambda_i - lambda_s) / h < 0, and

    data prediction   x_t = sigma_t / sigma_s x_s - alpha_t ((e^k - 1) m_0 + B(k) sum_i a_i (m_i - m_0) / r_i),  k = -h
    noise prediction  x_t = alpha_t / alpha_s x_s - sigma_t ((e^k - 1) m_0 + B(k) sum_i a_i (m_i - m_0) / r_i),  k = h

UniP-p takes p - 1 earlier evaluations, UniC-p also that at the predicted x_t, r = 1. The a_i integrate polynomials
exactly,

    sum_i r_i^{j-1} a_i = j! k phi_{j+1}(k) / B(k),   j = 1, 2, ...

so that B(k) = k (bh1) or e^k - 1 (bh2) cancels; it matters only where the condition is met to first order by
a_1 = 1/2, as in UniP-2 and UniC-1 of the paper. The evaluation at the predicted point serves the corrector and, as m_0,
the next step: one evaluation a step. Source: Zhao et al. 2023 (UniPC).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from numpy.typing import ArrayLike

from refdiff.arguments import one_of, whole_number
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import frozen_step
from refdiff.samplers.dpm_solver import check_start
from refdiff.samplers.families import Family
from refdiff.samplers.numbers import Number, expm1, exponential_moments, vandermonde
from refdiff.samplers.recorder import Point, Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

B: dict[str, Callable[[Number], Number]] = {"bh1": lambda k: k, "bh2": expm1}


def unipc(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    solver_type: str = "bh2",
    prediction: str = "denoiser",
    corrector: bool = True,
    disable_corrector: Collection[int] = (),
    lower_order_final: bool = True,
    halves: bool = True,
) -> Tableau:
    """UniPC of any order p: UniP-p, corrected by UniC-p after every step but the last.

    The i-th step is of order min(i, p), so that an order above the number of steps is not reached. The last step has
    no corrector, as in the official code: it would cost an evaluation of its own. A step to sigma = 0 is of order 1.
    A step from alpha = 0 (data prediction only) is of order 1 and is not corrected, and the evaluation there serves
    no later step, because its lambda is infinite.

    Args:
        process, times: the process and the decreasing grid (n + 1,); it may end where sigma = 0.
        order: p >= 1; UniPC-p has global order p + 1, UniP-p order p.
        solver_type: bh1, B(k) = k, or bh2, B(k) = e^k - 1.
        prediction: denoiser or noise: which prediction is interpolated.
        corrector: False for UniP alone.
        disable_corrector: the steps, from 0, whose results are not corrected.
        lower_order_final: the orders of the last steps fall to 1, as in the official code.
        halves: a_1 = 1/2 in UniP-2 and UniC-1, as in the paper; otherwise the conditions are solved there too,
            which is the variant with varying coefficients (and the exponential Adams method in lambda).

    Raises:
        ValueError: an order below 1, an unknown solver type or prediction, a step in disable_corrector that does not
            exist, noise prediction on a grid that starts at alpha = 0.
        TypeError: disable_corrector is no collection.
    """
    order = whole_number("order", order, low=1)
    one_of("solver_type", solver_type, B)
    one_of("prediction", prediction, ("denoiser", "noise"))
    rec = Recorder(f"Uni{'PC' if corrector else 'P'}-{order}", process, times, prediction)
    steps = len(rec.steps)
    if not isinstance(disable_corrector, Collection):
        raise TypeError(f"disable_corrector must be a collection of steps, got {disable_corrector!r}")
    skipped = {whole_number("disable_corrector", step, high=steps - 1) for step in disable_corrector} | {steps - 1}
    check_start(rec)
    x, m = rec.start, rec.evaluate(rec.start, rec.points[0])
    history: list[tuple[Point, State]] = []  # evaluations before s, newest first
    for i, (s, t) in enumerate(rec.steps):
        p = min(order, steps - i) if lower_order_final else order
        earlier = [] if t.clean else history[: p - 1]
        h = t.log_snr - s.log_snr
        k, scale = (-h, t.alpha) if prediction == "denoiser" else (h, t.sigma)
        carried, weight, _ = frozen_step(s, t, 0, prediction)
        start = carried * x + weight * m
        nodes = [(point.log_snr - s.log_snr) / h for point, _ in earlier]
        changes = [value - m for _, value in earlier]
        predicted = start - scale * correction(nodes, changes, k, solver_type, halves)
        history = [] if s.pure_noise else [(s, m), *history][: order - 1]
        if i == steps - 1:
            return rec.finish(predicted)
        m_t = rec.evaluate(predicted, t)
        x = predicted
        if corrector and i not in skipped and not s.pure_noise:
            both = correction([*nodes, 1.0], [*changes, m_t - m], k, solver_type, halves)
            x = rec.keep(start - scale * both, t)
        m = m_t
    raise AssertionError("a grid has at least one step")


def unip(
    process: AffineProcess | Schedule,
    times: ArrayLike,
    *,
    order: int = 2,
    solver_type: str = "bh2",
    prediction: str = "denoiser",
    lower_order_final: bool = True,
    halves: bool = True,
) -> Tableau:
    """UniP-p, the predictor of UniPC alone; the arguments and errors are those of `unipc`."""
    return unipc(
        process,
        times,
        order=order,
        solver_type=solver_type,
        prediction=prediction,
        corrector=False,
        lower_order_final=lower_order_final,
        halves=halves,
    )


def correction(nodes: Sequence[Number], changes: Sequence[State], k: Number, solver_type: str, halves: bool) -> State:
    """B(k) sum_i a_i (m_i - m_0) / r_i from the nodes r_i and the changes m_i - m_0, with the a_i of `coefficients`."""
    total = State({})
    for a, change, node in zip(coefficients(nodes, k, solver_type, halves=halves), changes, nodes, strict=True):
        total = total + B[solver_type](k) * a / node * change
    return total


def coefficients(nodes: Sequence[Number], k: Number, solver_type: str, *, halves: bool = True) -> list[Number]:
    """a_i with sum_i r_i^{j-1} a_i = j! k phi_{j+1}(k) / B(k) for the nodes r_i; 1/2 for one node with `halves`.

    solver_type says which B.
    """
    if halves and len(nodes) == 1:
        return [0.5]
    scale, (_, *moments) = B[solver_type](k), exponential_moments(k, len(nodes) + 1)
    return vandermonde(nodes, [moment / scale for moment in moments])


# UniPC-p: the history of the first step has one entry, so its predictor is of local order 2 and its corrector of local
# order 3, once: as run, the global order is at most 3 for UniPC and 2 for UniP. With lower_order_final the last
# predictor is of local order 2, which caps the order at 2.
FAMILIES = (
    *(
        Family(
            f"unip-{p}",
            unip,
            p,
            "n",
            "Zhao et al. 2023, UniP",
            {"order": p, "lower_order_final": False},
            startup=min(p, 2),
            exact_steps=p - 1,
            starts_pure=True,
        )
        for p in (1, 2, 3, 4)
    ),
    *(
        Family(
            f"unipc-{p}{suffix}",
            unipc,
            p + 1,
            "n",
            "Zhao et al. 2023, UniPC",
            {"order": p, "lower_order_final": False, **options},
            startup=min(p + 1, 3),
            exact_steps=p - 1,
            starts_pure=options.get("prediction") != "noise",
        )
        for p, suffix, options in (
            (1, "", {}),
            (2, "", {}),
            (2, "-bh1", {"solver_type": "bh1"}),
            (2, "-noise", {"prediction": "noise"}),
            (3, "", {}),
            (4, "", {}),
        )
    ),
    Family(
        "unipc",
        unipc,
        2,
        "n",
        "Zhao et al. 2023, UniPC-2 as in the official code, orders falling to 1 at the end",
        {"order": 2},
        starts_pure=True,
    ),
)
