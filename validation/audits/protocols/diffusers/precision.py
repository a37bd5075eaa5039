"""The precision of what schedulers keep: tables, levels and times of float32."""

import numpy as np

from refdiff.validation.audits.rounding import OPERATIONS

EPS = float(np.finfo(np.float32).eps)
OF_A_NUMBER = f"{OPERATIONS} roundings of float32 in the terms of a number"
