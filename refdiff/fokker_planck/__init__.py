"""Densities on grids: the Fokker-Planck and the backward equation by finite volumes, and what is read off them.

grids        `Grid`, cells of a box on the line or in the plane, and the mean densities of laws on them
operators    `FokkerPlanck`: rates between cells, of a process, a stochastic equation or functions of one's own
evolution    `evolve`, positive and of second order in space and time unless asked otherwise, gives an `Evolution`
readings     `grid_score`, `face_fluxes` and the `stationary` density
backward     `expectation` of what is paid later, `hitting_probability` and `mean_hitting_time`, of every start
currents     `probability_current`, `flow_velocity` and `grid_divergence` on grids; `outflow` of a box
functionals  `grid_entropy`, `grid_relative_entropy`, `grid_information`; `divergence_loss`, the H-theorem of cells
"""

from refdiff.fokker_planck.backward import expectation, hitting_probability, mean_hitting_time
from refdiff.fokker_planck.currents import flow_velocity, grid_divergence, outflow, probability_current
from refdiff.fokker_planck.evolution import Evolution, evolve
from refdiff.fokker_planck.functionals import (
    divergence_loss,
    grid_entropy,
    grid_information,
    grid_relative_entropy,
)
from refdiff.fokker_planck.grid import Grid
from refdiff.fokker_planck.operator import FokkerPlanck
from refdiff.fokker_planck.readings import face_fluxes, grid_score, stationary

__all__ = [
    "Evolution",
    "FokkerPlanck",
    "Grid",
    "divergence_loss",
    "evolve",
    "expectation",
    "face_fluxes",
    "flow_velocity",
    "grid_divergence",
    "grid_entropy",
    "grid_information",
    "grid_relative_entropy",
    "grid_score",
    "hitting_probability",
    "mean_hitting_time",
    "outflow",
    "probability_current",
    "stationary",
]
