r"""Which cases a check applies to: what is asked of the process and of the law of a case.

    scalar          one schedule for all axes
    smooth          one schedule whose rates do not jump, as those of a table of betas do at its indices
    differentiable  rates that do not jump, and so few dimensions that stencils are cheap
    preserving      one schedule with alpha^2 + sigma^2 = 1
    one_gaussian    a Gaussian under one schedule, where the probability flow is a closed map
    whole_process   one case of every process

Conditions on what a sum over p_t costs are in `expectations` (`small`).
"""

from __future__ import annotations

from typing import Any

from refdiff.processes import AffineProcess, BetaTable
from refdiff.validation.cases import TIMES, ModelCase, ProcessCase


def tabulated(process: AffineProcess) -> bool:
    """Whether the rates of the process jump, as those of a table do at its indices."""
    return any(isinstance(schedule, BetaTable) for schedule in process.schedules)


def scalar(case: Any) -> bool:
    """Whether all axes of a model's or process's case have one schedule."""
    return not case.process.per_axis


def smooth(case: Any) -> bool:
    """Whether a model's or process's case has one schedule, and its rates do not jump."""
    return scalar(case) and not tabulated(case.process)


def differentiable(case: ModelCase, dim: int = 5) -> bool:
    """Cases for stencils: at most `dim` dimensions, and coefficients without jumps."""
    return case.law.dim <= dim and not tabulated(case.process)


def preserving(case: Any) -> bool:
    """Whether the process of a case is a scalar one with alpha^2 + sigma^2 = 1."""
    if not scalar(case):
        return False
    c = case.process.coefficients(case.t)
    return bool(abs(c.alpha**2 + c.sigma**2 - 1) < 1e-12)


def one_gaussian(case: ModelCase) -> bool:
    """Whether the data of a case are a Gaussian, and all axes have one schedule."""
    return case.law.count == 1 and scalar(case)


def spread_out(case: ModelCase) -> bool:
    """Whether the data of a case are more than one point, whose deviation of 0 is no length."""
    return bool(case.law.cov().any())


def whole_process(case: ProcessCase) -> bool:
    """One case of every process, for checks on all of [0, T]: the first of its times."""
    return abs(case.s - TIMES[0][0] * case.process.T) < 1e-8 * case.process.T
