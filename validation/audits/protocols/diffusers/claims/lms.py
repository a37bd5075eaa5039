"""Linear multistep methods: LMS in sigma with weights for the grid's own steps, iPNDM with those of equal steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from refdiff.arguments import Array
from refdiff.samplers.adams import lms
from refdiff.samplers.pndm import ipndm
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Trigonometric
from refdiff.validation.audits.levels import PRESERVING
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.protocols.diffusers.claims.euler import in_sigma
from refdiff.validation.audits.protocols.diffusers.playing import Made, play
from refdiff.validation.audits.subject import Claim, Sampler, Variant

ARC = Trigonometric()


def discrete(made: Made) -> Sampler:
    """LMSDiscreteScheduler, of the order that step is given, 4 by default."""
    order = made.at_step.get("order", 4)
    return in_sigma(made, lambda grid: lms(PRESERVING, grid, order=order), order)


def pseudo(made: Made) -> Sampler:
    r"""IPNDMScheduler: a network of v on the arc alpha = cos phi, sigma = sin phi, told t = 2 phi / pi.

    sigma is sin^2 of an equal grid, or `trained_betas`. The start is noise alone, alpha = 0, where x_0 is -v.
    """
    scheduler = made.scheduler
    angles = np.arctan2(*(to_numpy(part).astype(float) for part in (scheduler.betas, scheduler.alphas)))

    def build(grid: Array) -> Tableau:
        return ipndm(ARC, np.minimum(grid, ARC.T), order=scheduler.pndm_order)

    claim = Claim(
        build=build,
        grid=angles,
        process=ARC,
        prediction="v_prediction",
        order=2,
        source=made.kind.__name__,
        variants=(
            Variant(
                "divides x - sigma e = 0 by alpha = 0 at the start, and so loses its network's first answer",
                lambda grid: _first_answer_lost(build(grid)),
            ),
        ),
    )
    return Sampler(
        name=made.name,
        play=play(made),
        dtype=np.dtype(np.float32),
        claim=claim,
        told=lambda t: min(float(t), 1.0) * np.pi / 2,
        trained=ARC,
        script=made.script(),
    )


def _first_answer_lost(table: Tableau) -> Tableau:
    """The table whose first step has no weight on the denoiser; later ones take only the noise from there."""
    outputs = table.outputs.copy()
    outputs[1] = 0.0
    return replace(table, outputs=outputs)


CLASSES: dict[str, Callable[[Made], Sampler]] = {"LMSDiscreteScheduler": discrete, "IPNDMScheduler": pseudo}
