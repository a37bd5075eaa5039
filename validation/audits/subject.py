r"""A foreign sampler as refdiff sees it, and what it claims to be.

A sampler is played: called with a model, a start and a source of normals, all in NumPy, while the protocol it came by
translates both ways. What the model is shown and told is the sampler's own:

    shown   scale_k y_k, a state as the sampler hands it to its network
    told    t, from which a network knows its noise level, and by which an exact model answers

The claim is the table that the sampler's name and options stand for, on its own grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refdiff.arguments import Array
from refdiff.model import ExactModel
from refdiff.samplers import Tableau, to_coordinate, to_prediction
from refdiff.samplers.impulse import Sampler as Play
from refdiff.schedules import Schedule
from refdiff.validation.audits.findings import Verdict


@dataclass(frozen=True)
class Variant:
    """Another table that a sampler may turn out to be: a known slip, or a known choice.

    Args:
        name: what it is, as a clause: "takes half of the interpolant's second derivative".
        build: grid -> Tableau.
        verdict: what it is worth: WRONG for a slip, CONVENTION for a choice.
    """

    name: str
    build: Callable[[Array], Tableau]
    verdict: Verdict = Verdict.WRONG


def multiplied(grid: Array, errors: Array) -> Array:
    """Times that are numbers of the sampler's own, with a relative error each."""
    return grid * (1 + errors)


@dataclass(frozen=True)
class Claim:
    """What a sampler is by its name and options.

    Args:
        build: grid -> Tableau, in any prediction and coordinate.
        grid: decreasing times of the process, as the sampler has them.
        process: what the grid's times mean.
        prediction: what the sampler takes its model's answers for.
        coordinate: what its states are: x, x/alpha (of noise level sigma/alpha) or x/sigma.
        shown: what a state is multiplied by before the network sees it, by noise level rho = sigma/alpha.
        order: the global order that it is known by, or None.
        source: the paper or the class that says so.
        conventions: choices that differ from the paper and are made here too, each a short sentence.
        variants: tables that it is known to be in place of this one, in some versions.
        moved: (grid, errors) -> the grid, where the numbers that the sampler makes its levels from have these
            relative errors; the ends of time must stay.
    """

    build: Callable[[Array], Tableau]
    grid: Array
    process: Schedule
    prediction: str
    coordinate: str = "x"
    shown: Callable[[Array], ArrayLike] = np.ones_like
    order: float | None = None
    source: str = ""
    conventions: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    moved: Callable[[Array, Array], Array] = multiplied

    def table(self, grid: Array | None = None) -> Tableau:
        """The table in the sampler's own coordinate, on its grid or on another, in the method's own prediction."""
        return to_coordinate(self.build(self.grid if grid is None else grid), self.coordinate)

    def answered(self, grid: Array | None = None) -> Tableau:
        """The table in the sampler's own coordinate and for what the sampler takes its model's answers for."""
        return to_prediction(self.table(grid), self.prediction)

    def scales(self, table: Tableau) -> Array:
        """What each evaluated stage of the table is multiplied by before the network sees it."""
        c = table.scalars
        at = np.flatnonzero(table.evaluated)
        with np.errstate(divide="ignore"):  # the level of pure noise
            levels = c.sigma[at] / c.alpha[at]
        return np.broadcast_to(np.asarray(self.shown(levels), dtype=float), at.shape)


@dataclass(frozen=True)
class Sampler:
    """A foreign sampler with its options and its number of steps fixed.

    Args:
        name: the library's name for it, with the options that are not the default.
        play: (model, x, normal) -> output, for x of shape (n, d) at the sampler's own start.
        dtype: of the arithmetic that its coefficients are made in.
        claim: what it should be, or None where nothing is known.
        told: t as the sampler passes it -> the time of `trained` that a network takes it for.
        trained: the process in which the network was trained, and in which an exact model is asked.
        script: lines of a program that makes the sampler and calls it, for reproductions.
        seeded: (model, x, seed) -> output, with the normals that the sampler draws by itself; None where it has none.
        told_within: by how much a time that it passes may be off by its own design, in the unit in which it passes it:
            0.5 where times are rounded to whole numbers.
    """

    name: str
    play: Play
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    claim: Claim | None = None
    told: Callable[[Any], float] | None = None
    trained: Schedule | None = None
    script: str = ""
    seeded: Callable[[Callable[[Array, Any], Array], Array, int], Array] | None = None
    told_within: float = 0.0

    @property
    def eps(self) -> float:
        """The spacing of numbers in its arithmetic."""
        return float(np.finfo(self.dtype).eps)

    def network(self, model: ExactModel) -> Callable[[Array, Any], Array]:
        """The perfect network for this sampler: the claimed prediction of an exact model, where it is told to be.

        The model's process must be `trained`.

        Raises:
            ValueError: no prediction is claimed, or nothing says what times mean.
        """
        claim, told = self.claim, self.told
        if claim is None or told is None:
            raise ValueError(f"{self.name} must claim a prediction and say what its times mean to have a network")
        prediction = claim.prediction

        def answer(x: Array, t: Any) -> Array:
            return np.asarray(model.predict(np.asarray(x, dtype=float), told(np.ravel(np.asarray(t))[0]), prediction))

        return answer


def no_sampler(steps: int) -> Sampler:
    """What is no sampler has no steps.

    Raises:
        TypeError: always, with the number of steps that was asked for.
    """
    raise TypeError(f"this is no sampler, and cannot be built with {steps} steps")


@dataclass(frozen=True)
class Subject:
    """What an audit is about: a sampler for every number of steps.

    Args:
        name: as in reports.
        build: steps -> Sampler; raises what the library raises.
        library, version: whose it is.
        steps: numbers of steps that it is meant for; anything from 1 where it is empty.
        protocol: the name of the protocol.
        options: what was set.
        checks: the names of the checks that it is put to; all of them where it is empty.
        source: what the protocol's own checks make their schedulers or functions from.
        on_grid: (grid) -> Sampler on any decreasing times of the claim's process, or None where grids cannot be given.
        memory: what was read of it, by number of steps: see `reading`.
    """

    name: str
    build: Callable[[int], Sampler]
    library: str = ""
    version: str = ""
    protocol: str = ""
    steps: tuple[int, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    checks: tuple[str, ...] = ()
    source: Any = None
    on_grid: Callable[[Array], Sampler] | None = None
    memory: dict[int, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
