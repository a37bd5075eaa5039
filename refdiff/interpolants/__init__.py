"""Paths between two laws: interpolants of pairs, their exact velocities and scores, and flows that follow them.

joining a pair      `linear`, `trigonometric`, `brownian`, `from_schedule`, or any `ScalarInterpolant`
what is learnt      `InterpolantModel`: velocity, score, density, posteriors, equations with any noise
rectified flow      `rectify` -> `FlowCoupling`: the coupling by the exact flow, closed where it has a closed form
once more           `reflow` -> `StraightFlow`: the rectified flow of a map, by Newton's steps; where lines cross
"""

from refdiff.interpolants.interpolant import (
    Blend,
    Curve,
    Interpolant,
    ScalarInterpolant,
    brownian,
    from_schedule,
    linear,
    trigonometric,
)
from refdiff.interpolants.model import InterpolantModel
from refdiff.interpolants.rectified import FlowCoupling, rectify
from refdiff.interpolants.reflow import MapCoupling, StraightFlow, reflow

__all__ = [
    "Blend",
    "Curve",
    "FlowCoupling",
    "Interpolant",
    "InterpolantModel",
    "MapCoupling",
    "ScalarInterpolant",
    "StraightFlow",
    "brownian",
    "from_schedule",
    "linear",
    "rectify",
    "reflow",
    "trigonometric",
]
