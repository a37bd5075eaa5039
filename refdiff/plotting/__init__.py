"""Pictures, for matplotlib (pip install 'refdiff[plot]'): each is drawn on axes that are given, which it returns.

laws        `density` in the plane, `density_in_time` on the line
points      `trajectories` of a flow or an equation, `pairs` of a coupling
samplers    `work_precision`, which writes a file; `drawable` says whether one can be written
"""

from refdiff.plotting.laws import density, density_in_time
from refdiff.plotting.points import pairs, trajectories
from refdiff.plotting.samplers import drawable, work_precision

__all__ = [
    "density",
    "density_in_time",
    "drawable",
    "pairs",
    "trajectories",
    "work_precision",
]
