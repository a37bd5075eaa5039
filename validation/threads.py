"""One thread of linear algebra a process: the matrices of the checks are small, and threads change the last bits.

Read by the libraries below NumPy when they are loaded, so nothing here imports NumPy.
"""

import os
import sys

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def limit() -> None:
    """Ask for one thread in this process, if it is not too late for that."""
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(VARIABLES, "1"))


def limited() -> bool:
    """Whether this process has been asked for one thread."""
    return any(os.environ.get(name) == "1" for name in VARIABLES[:2])
