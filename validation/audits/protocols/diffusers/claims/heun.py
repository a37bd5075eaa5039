"""Heun's method of EDM, in which the scheduler lists every level between the ends twice: s_0, s_1, s_1, ..., 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refdiff.samplers.edm import edm_heun
from refdiff.validation.audits.levels import PRESERVING
from refdiff.validation.audits.protocols.diffusers.claims.euler import in_sigma, levels_of
from refdiff.validation.audits.protocols.diffusers.playing import Made
from refdiff.validation.audits.subject import Sampler


def heun(made: Made) -> Sampler:
    """HeunDiscreteScheduler; its last step, to 0, is Euler's, as EDM has it."""
    sigmas = levels_of(made.scheduler)
    grid = np.concatenate([sigmas[:1], sigmas[1::2]])
    return in_sigma(made, lambda levels: edm_heun(PRESERVING, levels), 2, grid)


CLASSES: dict[str, Callable[[Made], Sampler]] = {"HeunDiscreteScheduler": heun}
