"""One step of a sampler beside the claimed one, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from refdiff.arguments import Array
from refdiff.validation.audits.explained import Explanation, ratio
from refdiff.validation.audits.terms import Term
from refdiff.validation.audits.words import Words


@dataclass(frozen=True)
class Step:
    """A step of the sampler beside the claimed one.

    Attributes:
        stage: of the table; stage 0 is the start.
        error: what is left over, and `bound`, what rounding may leave, relative to the largest weight of the step.
        factor: what the state shown to the network was multiplied by, where that is all that is wrong; else None.
        words: how terms are called.
        row, right: the weights of (start, answers, normals as in `Comparison.drawn`) in what is seen of this step, at
            the stage `seen`, and what the claimed step makes of the sampler's own earlier states.
        explained: what finds the weights that it has, asked only where they are wanted; None where it is right.
        likened: for terms that are off, the step whose weight each has in place of its own.
    """

    stage: int
    error: float
    bound: float
    words: Words
    row: Array = field(compare=False, repr=False)
    right: Array = field(compare=False, repr=False)
    seen: int
    factor: float | None = None
    explained: Callable[[], Explanation | None] | None = field(default=None, compare=False, repr=False)
    likened: Callable[[Step], Iterator[tuple[Term, int]]] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def explanation(self) -> Explanation | None:
        """The weights that it has; None where it is right, or no weights make it."""
        return None if self.explained is None else self.explained()

    @cached_property
    def like(self) -> tuple[tuple[Term, int], ...]:
        """For a term that is off, the step whose weight it has in place of its own."""
        return () if self.likened is None else tuple(self.likened(self))

    @property
    def wrong(self) -> bool:
        """Whether more is left over than rounding leaves."""
        return not self.error <= self.bound

    @property
    def off(self) -> tuple[tuple[Term, float, float], ...]:
        """The terms that are off, the worst first: (term, right, found); what should not be there has right = 0."""
        if self.explanation is None:
            return ()
        terms = [*self.explanation.weights, *((t, 0.0, w) for t, w in self.explanation.extra)]
        wrong = [w for w in terms if abs(w[1] - w[2]) > max(self.bound, 1e-3 * self.error) * max(1.0, abs(w[1]))]
        return tuple(sorted(wrong, key=lambda w: -abs(w[1] - w[2])))

    @property
    def number(self) -> int:
        """The step of the grid, counted from 1; 0 for the start."""
        return self.words.number(self.stage, self.off[0][0] if self.off else None)

    @property
    def place(self) -> str:
        """The same in words, with the noise level and the evaluation that it is shown to."""
        return self.words.place(self.stage, self.off[0][0] if self.off else None)

    def __str__(self) -> str:
        if not self.wrong:
            return f"{self.place}: right"
        if self.factor is not None:
            return f"{self.place}: the network is shown {self.factor:.8g} times what it should see"
        said = [self._said(*found) for found in self.off[:3]]
        return f"{self.place}: " + (
            "; ".join(said) or f"off by {self.error:.3g}, whatever the weights of its terms are"
        )

    def _said(self, term: Term, right: float, found: float) -> str:
        assert self.explanation is not None
        name = self.words.term(term, self.explanation.prediction)
        if all(term != t for t, _, _ in self.explanation.weights):
            return f"it has {found:.8g} of {name}, which the method does not use there"
        like = {t: f" (the weight of step {n})" for t, n in self.like}.get(term, "")
        return f"the weight of {name} is {found:.8g}, should be {right:.8g}{ratio(found, right) or like}"
