r"""What a step that is off has in place of its weights: the fewest other weights that make it.

Rows are vectors over (start, answers, normals). With the rows of the earlier stages as they are, a step is a sum of
terms, and an error is made of changes of some of them. Which ones depends on what outputs are called: a slip in the
noise prediction shows in two weights of the denoiser. So the error is explained in several predictions, and the
explanation that changes the fewest weights is taken, other terms than the method's last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from refdiff.arguments import Array
from refdiff.validation.audits.terms import Term

MANY = 40  # terms; of more, only pairs with one of the method's own are tried


@dataclass(frozen=True)
class Language:
    """A step written in one prediction.

    Attributes:
        prediction: what its outputs are.
        claimed: its terms and their weights.
        vectors: the rows of these terms and of all others that the step could have.
    """

    prediction: str
    claimed: Mapping[Term, float]
    vectors: Mapping[Term, Array]


@dataclass(frozen=True)
class Explanation:
    """A step as it is.

    Attributes:
        prediction: what its outputs are.
        weights: each of the method's terms with the claimed weight and the one that the sampler has.
        extra: terms that the method does not have there, with their weights.
    """

    prediction: str
    weights: tuple[tuple[Term, float, float], ...]
    extra: tuple[tuple[Term, float], ...] = ()


def explain(left: Array, languages: list[Language], allowed: float) -> Explanation | None:
    """The smallest change of weights that is `left` up to `allowed`; None where no terms make it.

    Args:
        left: the sampler's row less the claimed one.
        languages: the step in several predictions, the preferred first.
        allowed: how much may stay unexplained.
    """
    if not np.isfinite(left).all():
        return None
    for size in range(1, 4):
        for foreign in range(size + 1):
            for language in languages:
                for terms in _choices(language, size, foreign):
                    if (found := _changes(left, [language.vectors[t] for t in terms], allowed)) is not None:
                        return _explanation(language, dict(zip(terms, found, strict=True)), allowed)
    language = languages[0]
    own, others = tuple(language.claimed), [t for t in language.vectors if t not in language.claimed]
    for terms in [own, *((*own, t) for t in others), (*own, *others)]:
        if terms and (found := _changes(left, [language.vectors[t] for t in terms], allowed)) is not None:
            return _explanation(language, dict(zip(terms, found, strict=True)), allowed)
    return None


def _choices(language: Language, size: int, foreign: int) -> Iterator[tuple[Term, ...]]:
    """Sets of `size` terms, of which `foreign` are not the method's; more than two only of the method's own."""
    own = list(language.claimed)
    others = [t for t in language.vectors if t not in language.claimed]
    if (size > 2 and foreign > 1) or (foreign > 1 and len(others) > MANY):
        return
    for kept in combinations(own, size - foreign):
        for added in combinations(others, foreign):
            yield (*kept, *added)


def _changes(left: Array, vectors: list[Array], allowed: float) -> list[float] | None:
    """Weights with which the vectors make what is left, or None."""
    basis = np.stack(vectors, axis=1)
    found = np.linalg.lstsq(basis, left)[0]
    return found.tolist() if np.abs(basis @ found - left).max() <= allowed else None


def _explanation(language: Language, changes: dict[Term, float], allowed: float) -> Explanation:
    claimed = language.claimed
    weights = tuple((t, w, w + changes.get(t, 0.0)) for t, w in claimed.items())
    extra = [(t, change) for t, change in changes.items() if t not in claimed and abs(change) > allowed]
    return Explanation(language.prediction, weights, tuple(sorted(extra, key=lambda e: -abs(e[1]))))


def ratio(found: float, right: float) -> str:
    """What a weight was multiplied by, where that is a simple number."""
    if right == 0 or not np.isfinite(found):
        return ""
    for name, value in {"half of it": 0.5, "twice it": 2.0, "minus it": -1.0, "left out": 0.0}.items():
        if abs(found / right - value) < 1e-4:
            return f" ({name})"
    return ""
