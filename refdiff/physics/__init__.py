"""Diffusion as physics: currents and controls, heat and entropy, potentials between classes.

flux          Fick's law for laws: `diffusive_velocity`, `flux`, `spreading_rate`
controls      of exact models of any process, stopping and reversing: `control`, `controlled_equation` on a `Clock`
expansion     from a point, at no rate in particular: `point_velocity`, `expansion_velocity` of any law
entropy       `entropy_balance` and `total_production`: production, heat, housekeeping, excess
"""

from refdiff.physics.controls import (
    Clock,
    control,
    controlled_equation,
    controlled_flux,
    reversing_control,
    stopping_control,
)
from refdiff.physics.expansion import expansion_velocity, point_law, point_path, point_velocity
from refdiff.physics.fick import diffusive_velocity, flux, spreading_rate
from refdiff.physics.thermodynamics import EntropyBalance, entropy_balance, frozen, total_production

__all__ = [
    "Clock",
    "EntropyBalance",
    "control",
    "controlled_equation",
    "controlled_flux",
    "diffusive_velocity",
    "entropy_balance",
    "expansion_velocity",
    "flux",
    "frozen",
    "point_law",
    "point_path",
    "point_velocity",
    "reversing_control",
    "spreading_rate",
    "stopping_control",
    "total_production",
]
