r"""gDDIM and its multistep form for any process: exponential integrators of the probability flow with matrix weights.

    eps = V^-1 (x - A D) = -V' grad log p
    x_t = K x + sum_j W_j eps_j,      W_j = 1/2 int K(t, u) D_u V_u^-T l_j(u) du

A polynomial goes through the newest eps_j in time. Degree 0 is gDDIM's step, the exact flow of a point mass whatever
the step, and DDIM where alpha and sigma are numbers; there higher degrees are DEIS in t. The step of the texts with
V U^-1 in place of U^-1 V is none of them: it does not converge unless U and V commute. Cholesky's frame converges too,
with errors some 20 times larger on critically damped Langevin noise, because L does not move with the flow.
Sources: RDX-19, RDX-20, RDX-20b; Zhang, Tao and Chen 2022 (gDDIM).
"""

from __future__ import annotations

from types import MappingProxyType

from numpy.typing import ArrayLike

from refdiff.arguments import one_of, whole_number
from refdiff.processes import AffineProcess, Process
from refdiff.samplers.matrix_steps import CLOCKS, backward_gain, cholesky_weights, frozen_step, noise_weights
from refdiff.samplers.recorder import Recorder, State
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Schedule

FRAMES = MappingProxyType({"turning": noise_weights, "cholesky": cholesky_weights})


def matrix_deis(
    process: Process | Schedule, times: ArrayLike, *, degree: int = 0, clock: str = "t", frame: str = "turning"
) -> Tableau:
    """gDDIM with polynomials of a given degree, for any process.

    Args:
        process, times: the process and the decreasing grid (n + 1,). It may end at t = 0, where the last step puts the
            denoiser, and start where alpha = 0 (a gain has no inverse) in the frame that turns.
        degree: of the polynomial through eps, n >= 0; the first steps use the degrees there are.
        clock: t or "log t", what the polynomial is in.
        frame: turning, V, the frame of the flow; or cholesky, L.

    Raises:
        ValueError: an unknown clock or frame, a degree below 0, or a start at alpha = 0 in Cholesky's frame.
    """
    degree = whole_number("degree", degree)
    one_of("clock", clock, tuple(CLOCKS))
    one_of("frame", frame, tuple(FRAMES))
    noising: Process = AffineProcess(process) if isinstance(process, Schedule) else process
    rec = Recorder(f"gDDIM, degree {degree}, {frame} frame", noising, times, "denoiser")
    if frame == "cholesky":
        rec.finite_log_snr("what is carried is divided by alpha", last=False)
    x, rests, nodes = rec.start, list[State](), list[float]()
    for s, t in rec.steps:
        clean = rec.evaluate(x, s)
        rests, nodes = [x - s.motion.gain * clean, *rests[:degree]], [s.t, *nodes[:degree]]
        if t.t == 0 or (len(nodes) == 1 and frame == "turning"):
            carried, of_clean, _ = frozen_step(rec.process, s, t, 0.0, "denoiser")
            x = carried * x + of_clean * clean
            continue
        weights = FRAMES[frame](rec.process, nodes, t.t, clock)
        x = backward_gain(rec.process, s.t, t.t) * x
        for weight, rest in zip(weights, rests, strict=True):
            x = x + weight * rest
    return rec.finish(x)
