r"""What an identity is, and the registry that every check joins by decorator.

A check is a function of a case with two sides, computed by two different routes:

    @identity("Tweedie's formula", topic="Tweedie", formula=r"E[x_0|x] = (x + \sigma^2 \nabla \log p) / \alpha",
              covers=["PODA-318"], over="models", control="sigma in place of sigma^2")
    def tweedie(case, wrong):
        c = case.process.coefficients(case.t)
        noise = c.sigma if wrong else c.sigma**2
        return Sides(case.model.denoiser(case.x, case.t), (case.x + noise * case.model.score(case.x, case.t)) / c.alpha)

Run with `wrong=True` it is its own negative control: a corrupted version, the misprint of a source where there is
one, that the same comparison must reject on at least one case by REJECTION times the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# How many tolerances a negative control must miss by.
REJECTION = 100.0


@dataclass(frozen=True)
class Evidence:
    """A kind of evidence by name, its tolerance on the scaled error, and the rule the tolerance follows from."""

    name: str
    tolerance: float
    rule: str


ROUNDING = Evidence(
    "rounding", 1e-12, "both sides in closed form: 4500 eps of the largest term, for sums of up to some thousand terms"
)
QUADRATURE = Evidence("quadrature", 1e-9, "one side is an integral computed to 1e-11 or better of its integrand's size")
DERIVATIVE = Evidence(
    "derivative", 1e-7, "one side is an 8th-order central difference: rounding eps/h or eps/h^2 plus truncation h^8"
)
ORDER = Evidence("order", 1e-3, "a remainder divided by its power of h, extrapolated to h = 0, against its constant")
MONTE_CARLO = Evidence(
    "Monte Carlo", 7.0, "in standard errors: a false alarm in 3e-12 of the comparisons, the seed is fixed"
)


@dataclass(frozen=True, eq=False)
class Sides:
    """Two values of one quantity by two routes.

    Args:
        left, right: arrays of shapes that broadcast against each other.
        scale: the size of the terms that were added up (array or number), what a rounding error is relative to;
            the largest entry of either side when left out.
    """

    left: ArrayLike
    right: ArrayLike
    scale: ArrayLike | None = None

    def error(self) -> float:
        """max |left - right| / scale; 0 where both sides are 0, inf where either is not a number or infinite.

        Examples:
            >>> from refdiff.validation.identity import Sides
            >>> print(Sides([1.0, 4.0], [1.0, 3.0]).error())  # relative to the largest entry
            0.25
        """
        left, right = np.asarray(self.left, dtype=float), np.asarray(self.right, dtype=float)
        with np.errstate(invalid="ignore"):
            difference = np.abs(left - right)
        if difference.size == 0 or not np.isfinite(difference).all():
            return np.inf
        scale = max(np.abs(left).max(), np.abs(right).max()) if self.scale is None else np.asarray(self.scale, float)
        if not (np.isfinite(scale) & (scale >= 0)).all():  # no error is small beside an infinite term
            return np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(difference == 0, 0.0, difference / scale)
        return float(relative.max()) if not np.isnan(relative).any() else np.inf


Check = Callable[[Any, bool], "Sides | Iterable[Sides]"]


@dataclass(frozen=True, eq=False)
class Identity:
    """A registered check.

    Attributes:
        name: unique, in words.   topic: the heading it is listed under.
        formula: LaTeX of what is compared.
        covers: spec items that the check proves as they should stand.
        refutes: spec items whose printed form is what the negative control computes, and is rejected.
        over: the kind of cases it runs on (`cases.KINDS`).
        evidence: the kind of evidence; `tolerance` is its tolerance unless the check states another, with a reason.
        control: what the negative control changes, in words.
        needs: which cases the check applies to.
        most: a costly check runs on at most so many of them, evenly spread (half as many in a quick run, all in a
            thorough one).
    """

    name: str
    topic: str
    formula: str
    covers: tuple[str, ...]
    refutes: tuple[str, ...]
    over: str
    evidence: Evidence
    tolerance: float
    control: str
    needs: Callable[[Any], bool]
    most: int | None
    check: Check

    def error(self, case: Any, wrong: bool = False) -> float:
        """The largest scaled error of the check on one case, whose random numbers it begins with."""
        case = copy(case)
        vars(case).pop("rng", None)
        with np.errstate(all="ignore"):
            sides = self.check(case, wrong)
            return max(side.error() for side in ([sides] if isinstance(sides, Sides) else sides))


REGISTRY: dict[str, Identity] = {}


def identity(
    name: str,
    *,
    topic: str,
    formula: str,
    covers: Iterable[str],
    control: str,
    over: str = "models",
    evidence: Evidence = ROUNDING,
    tolerance: float | None = None,
    refutes: Iterable[str] = (),
    needs: Callable[[Any], bool] = lambda _: True,
    most: int | None = None,
) -> Callable[[Check], Check]:
    """Register a check: name, topic, formula, covers, refutes, over, evidence, control, needs, most as in `Identity`.

    Args:
        tolerance: that of the evidence when left out.

    Raises:
        ValueError: the name is taken.
    """

    def register(check: Check) -> Check:
        if name in REGISTRY:
            raise ValueError(f"name must be unique, got {name!r} twice")
        REGISTRY[name] = Identity(
            name,
            topic,
            formula,
            tuple(covers),
            tuple(refutes),
            over,
            evidence,
            evidence.tolerance if tolerance is None else tolerance,
            control,
            needs,
            most,
            check,
        )
        return check

    return register
