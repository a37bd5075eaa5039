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

Examples:
    One step of DDIM from sigma = 3 to data of variance 1 sends x to x / 10: a variance of 0.1, W2 = 1 - sqrt(0.1).

    >>> from refdiff import Gaussian, VEPower
    >>> from refdiff.samplers import families, propagate, times
    >>> ddim = families()["ddim"]
    >>> law = propagate(ddim(VEPower(), [3.0, 0.0]), Gaussian([0.0], 1.0))
    >>> print(law.output.cov().round(6), round(float(law.wasserstein()), 6))
    [[0.1]] 0.683772
    >>> print(times.uniform_log_snr(VEPower(), 2, start=80.0, end=0.2).round(6))  # a geometric mean
    [80.   4.   0.2]

    An algorithm that runs on a `Recorder` becomes its table: this one is DDIM.

    >>> from refdiff.samplers import Recorder
    >>> grid = [3.0, 2.0, 1.0]
    >>> mine = Recorder("mine", VEPower(), grid)
    >>> x = mine.start
    >>> for s, t in mine.steps:
    ...     denoised = mine.evaluate(x, s)
    ...     x = t.alpha * denoised + t.sigma / s.sigma * (x - s.alpha * denoised)
    >>> print(mine.finish(x).close(ddim(VEPower(), grid), 1e-12))
    True
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
