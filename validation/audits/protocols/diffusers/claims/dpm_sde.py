r"""DPM++ SDE: two stochastic steps from the same point, whose noises belong to one Brownian path in sigma.

`scheduler.sigmas` has every level but the first and the last twice, for the step to the middle and the whole one; the
levels between are not in it. The noises of both, W(s) - W(m) and W(s) - W(t) of the path over their lengths' roots,
share what lies between s and m, with a weight sqrt((s - m) / (s - t)) in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.dpm_sde import dpmpp_sde
from refdiff.samplers.tableau import Tableau
from refdiff.validation.audits.levels import PRESERVING, falling, strictly
from refdiff.validation.audits.protocols.diffusers.claims import PREDICTIONS
from refdiff.validation.audits.protocols.diffusers.claims.euler import levels_of, shown_by_level
from refdiff.validation.audits.protocols.diffusers.claims.exponential import rounded
from refdiff.validation.audits.protocols.diffusers.playing import Made, play, told_level
from refdiff.validation.audits.subject import Claim, Sampler


def sde(made: Made) -> Sampler:
    """DPMSolverSDEScheduler."""
    scheduler = made.scheduler
    sigmas = levels_of(scheduler)
    s_noise = float(made.at_step.get("s_noise", 1.0))

    def build(levels: Array) -> Tableau:
        return dpmpp_sde(PRESERVING, strictly(levels), s_noise=s_noise)

    claim = Claim(
        build=build,
        grid=falling(np.append(sigmas[:-1:2], sigmas[-1])),
        process=PRESERVING,
        prediction=PREDICTIONS[scheduler.config.prediction_type],
        coordinate="x/alpha",
        shown=shown_by_level,
        order=2,
        source=made.kind.__name__,
        moved=rounded(PRESERVING),
    )
    return Sampler(
        name=made.name,
        play=play(made),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=told_level(scheduler),
        trained=PRESERVING,
        told_within=0.01,  # of an index: linear and logarithmic interpolation between two entries differ by less
        script=made.script(),
    )


CLASSES: Mapping[str, Callable[[Made], Sampler]] = {"DPMSolverSDEScheduler": sde}
