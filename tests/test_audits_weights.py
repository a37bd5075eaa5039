"""Weights of a finding: the sampler's are what impulses leave of it, and differ from the claimed in its wrong step."""

from dataclasses import replace

import audited
import numpy as np
import pytest

from refdiff.validation.audits.reading import read
from refdiff.validation.audits.subject import Subject
from refdiff.validation.audits.weights import MOST, weights


def told(function, steps):
    return weights(read(Subject("toy", audited.build(function)), steps).comparison)


def played(function, steps, column):
    """The states that a model is shown, and the output, for a 1 in this column of (start, answers)."""
    shown = []

    def model(x, _):
        shown.append(float(x[0]))
        return np.array([float(len(shown) == column)])

    end = function(model, np.array([float(column == 0)]), audited.levels(steps))
    return [*shown, float(end[0])]


@pytest.mark.parametrize("function", [audited.right, audited.halved])
def test_they_are_what_impulses_leave(function):
    found = told(function, 4)
    assert found["rows"] == ["evaluation 1", "evaluation 2", "evaluation 3", "evaluation 4", "output"]
    assert found["columns"] == ["start", "answer 1", "answer 2", "answer 3", "answer 4"]
    right = np.array([played(function, 4, column) for column in range(5)]).T
    # answers are of EDM's levels, up to 80: a rounding of the largest weight
    np.testing.assert_allclose(found["found"], right, atol=1e-12)
    other = np.array([played(audited.halved, 4, column) for column in range(5)]).T
    assert (function is audited.halved) == np.allclose(found["found"], other, atol=1e-12)


def test_only_the_row_of_the_wrong_step_differs():
    found = told(audited.halved, 4)
    off = np.abs(np.subtract(found["found"], found["claimed"])).max(axis=1)
    assert off[2] > 0.1  # the second step ends at the third evaluation
    assert np.delete(off, 2).max() < 1e-12
    assert np.abs(np.subtract(told(audited.right, 4)["found"], told(audited.right, 4)["claimed"])).max() < 1e-12


def test_of_many_rows_those_around_the_first_wrong_one_are_kept():
    found = told(audited.halved, 40)
    assert (len(found["rows"]), found["rows"][2]) == (MOST[0], "evaluation 3")
    assert found["left_out"][0] == 41 - MOST[0]
    late = replace(
        read(Subject("toy", audited.build(audited.right)), 40).comparison, steps=_wrong_at(audited.right, 40, 39)
    )
    assert weights(late)["rows"][-1] == "output"
    assert len(weights(late)["columns"]) <= MOST[1]


def _wrong_at(function, steps, place):
    """The steps of a sampler, of which one is said to be off."""
    listed = list(read(Subject("toy", audited.build(function)), steps).comparison.steps)
    listed[place] = replace(listed[place], error=1.0)
    return tuple(listed)
