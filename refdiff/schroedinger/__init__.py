"""Schroedinger bridges: of all processes with two given marginals the nearest to a reference.

references          a Process, a Schedule or eps of sqrt(eps) w (`BrownianReference`); their bridges: `ReferenceBridges`
"""

from refdiff.schroedinger.reference import BrownianReference, ReferenceBridges, reference_process

__all__ = [
    "BrownianReference",
    "ReferenceBridges",
    "reference_process",
]
