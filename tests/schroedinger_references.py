"""The references on the plane that tests of Gaussian bridges share."""

import numpy as np

from refdiff import AffineProcess, VEPower, VPLinear
from refdiff.processes import LinearProcess

LANGEVIN = LinearProcess([[0.0, 2.0], [-1.0, -2.0]], [[0.0], [1.7]], force=[0.1, -0.4])
REFERENCES = {
    "Brownian": 0.5,
    "VP": VPLinear(0.5, 3.0),
    "axes": AffineProcess([VPLinear(0.5, 3.0), VEPower(0.5, T=1.0)]),
    "turning": LinearProcess(
        lambda t: np.array([[-0.5, 1.0 + t], [-1.0, -0.3]]), [[1.0, 0.3], [0.0, 0.8]], force=[0.3, 0.5]
    ),
    "Langevin": LANGEVIN,
}
