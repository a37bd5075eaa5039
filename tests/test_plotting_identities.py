"""Pictures of scores: every identity is a row with its error, its tolerance and its control."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from refdiff.plotting import scores
from refdiff.plotting.identities import LEAST
from refdiff.validation.runner import registry, run_all


@dataclass
class Scored:
    kind: str
    tolerance: float
    error: float
    control: float

    @property
    def identity(self):
        return SimpleNamespace(evidence=SimpleNamespace(name=self.kind), tolerance=self.tolerance)


OUTCOMES = [
    Scored("rounding", 1e-12, 3e-15, 1e9),
    Scored("derivative", 1e-7, 1e-9, 1e5),
    Scored("rounding", 1e-12, 0.0, 1e11),
    Scored("rounding", 1e-12, 1e-3, 1e8),  # failed
]


def axes():
    return Figure().subplots()


def rows(drawn):
    """Error, tolerance and control by row, shape (n, 3)."""
    lines = {line.get_label(): line.get_xydata() for line in drawn.lines}
    found = [lines[name] for name in ("worst error", "tolerance", "negative control")]
    assert_allclose([line[:, 1] for line in found], np.tile(np.arange(len(found[0])), (3, 1)))
    return np.stack([line[:, 0] for line in found], axis=1)


def test_rows_are_sorted_by_kind_and_error():
    expected = [[1e-9, 1e-7, 1e-2], [LEAST, 1e-12, 1e-1], [3e-15, 1e-12, 1e-3], [1e-3, 1e-12, 1e-4]]
    assert_allclose(rows(scores(axes(), OUTCOMES)), expected)


def test_kinds_are_named_at_their_rows():
    drawn = scores(axes(), OUTCOMES)
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["derivative", "rounding"]
    assert_allclose(drawn.get_yticks(), [0, 2])


def test_what_failed_stands_out():
    drawn = scores(axes(), OUTCOMES)
    failed = [line for line in drawn.lines if line.get_label() == "failed"]
    assert [line.get_xydata().tolist() for line in failed] == [[[1e-3, 3.0]]]
    assert not [line for line in scores(axes(), OUTCOMES[:3]).lines if line.get_label() == "failed"]


def test_an_error_without_bound_is_drawn_at_the_end():
    drawn = scores(axes(), [*OUTCOMES[:2], Scored("rounding", 1e-12, np.inf, 0.0)])
    found = rows(drawn)
    assert np.isfinite(found).all()
    assert found[2, 0] == found.max()
    assert found[2, 2] == LEAST


def test_outcomes_of_identities_are_what_is_drawn():
    chosen = [one for one in registry().values() if one.name.startswith("Tweedie")][:3]
    outcomes = sorted(run_all(chosen, "quick"), key=lambda o: (o.identity.evidence.name, o.identity.tolerance, o.error))
    expected = [[max(o.error, LEAST), o.identity.tolerance, o.control * o.identity.tolerance] for o in outcomes]
    assert_allclose(rows(scores(axes(), outcomes)), expected)
    assert len(outcomes) == 3


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([], "outcomes must hold at least one, got none"),
        ([Scored("rounding", 1e-12, np.nan, 1.0)], "outcomes must hold errors that are numbers, got nan"),
        ([Scored("rounding", 0.0, 1e-15, 1.0)], "outcomes must have tolerances above 0, got 0.0"),
    ],
)
def test_what_cannot_be_drawn_is_said(outcomes, message):
    with pytest.raises(ValueError, match=message):
        scores(axes(), outcomes)
