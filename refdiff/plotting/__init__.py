"""Pictures, for matplotlib (pip install 'refdiff[plot]'): each is drawn on axes that are given, which it returns.

Default colours are for light paper, as every `style` has.

laws        `density` on the line and in the plane, `density_in_time` on the line
fields      `arrows` and `streamlines` of a vector field, `error_map` of its errors
points      `trajectories` of a flow or an equation, `pairs` of a coupling, an entropic `plan`, a `carried_grid`
samplers    `work_precision` and `convergence` with the triangle of an order, `tableau`: the weights of a table
identities  `scores`: errors, tolerances and negative controls
looks       `style` of a screen, a column or a projector, `use_style` for a session; `PALETTE`, `sequential`,
            `diverging`; `save` writes a file, `drawable` says whether one can be written
"""

from refdiff.plotting.colours import PALETTE, diverging, sequential
from refdiff.plotting.fields import arrows, error_map, streamlines
from refdiff.plotting.identities import scores
from refdiff.plotting.laws import density, density_in_time
from refdiff.plotting.points import carried_grid, pairs, plan, trajectories
from refdiff.plotting.samplers import convergence, work_precision
from refdiff.plotting.styles import drawable, save, style, use_style
from refdiff.plotting.tables import tableau

__all__ = [
    "PALETTE",
    "arrows",
    "carried_grid",
    "convergence",
    "density",
    "density_in_time",
    "diverging",
    "drawable",
    "error_map",
    "pairs",
    "plan",
    "save",
    "scores",
    "sequential",
    "streamlines",
    "style",
    "tableau",
    "trajectories",
    "use_style",
    "work_precision",
]
