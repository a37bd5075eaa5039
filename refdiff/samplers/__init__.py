"""Samplers as tables of numbers: families, running, exact output laws, orders, and reading foreign samplers.

    tableau.py       what a table is                       recorder.py     writing an algorithm that becomes one
    running.py       the NumPy loop                        propagation.py  the exact law of every stage, Gaussian data
    conversions.py   predictions, coordinates, composing   line.py         the exact output law of mixtures on the line
    impulse.py       the table of a foreign sampler        order.py        measured orders; extended.py in more digits
    times.py         grids                                 storage.py      JSON and npz
    families.py      the list of all families              compare.py      exact distance against evaluations

and one file for each family (`from refdiff.samplers.ddim import ddim`), whose members `families()` has by name. Beside
the tables stand the samplers that look at the data they meet: adaptive.py, picard.py (ParaDiGMS), norm_corrector.py,
the state-dependent part of analytic.py, and flow maps and statistics that are functions in consistency.py and
dpm_solver_v3.py.
"""

from refdiff.samplers.compare import work_precision
from refdiff.samplers.conversions import butcher, compose, to_coordinate, to_prediction, truncate
from refdiff.samplers.families import Family, families
from refdiff.samplers.impulse import NotLinear, impulse_response
from refdiff.samplers.line import propagate_line
from refdiff.samplers.order import measure_order
from refdiff.samplers.propagation import propagate
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run
from refdiff.samplers.storage import load, save
from refdiff.samplers.tableau import Tableau

__all__ = [
    "Family",
    "NotLinear",
    "Recorder",
    "Tableau",
    "butcher",
    "compose",
    "families",
    "impulse_response",
    "load",
    "measure_order",
    "propagate",
    "propagate_line",
    "run",
    "save",
    "to_coordinate",
    "to_prediction",
    "truncate",
    "work_precision",
]
