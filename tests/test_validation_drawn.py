"""The picture of all identities is part of a page, in the page's colours, or is left out."""

import re
import sys

import numpy as np
import pytest
from reported import BROKEN, EVERY_KIND, GOOD, IDLE, Page, everything, outcome

from refdiff.validation import drawn


@pytest.fixture(scope="module")
def picture():
    return str(drawn.summary(everything().outcomes))


def test_the_picture_is_well_formed_and_names_no_colour_of_its_own(picture):
    found = Page(picture)
    assert found.open == []
    assert found.tags[0][0] == "svg"
    assert "width" not in found.tags[0][1]
    assert re.findall(r"#[0-9a-f]{6}\b", picture) == []
    assert {"var(--blue)", "var(--orange)", "currentColor"} <= set(re.findall(r"var\([^)]*\)|currentColor", picture))


def test_the_picture_styles_and_names_nothing_outside_of_itself(picture):
    found = Page(picture)
    assert {"style", "script", "metadata"}.isdisjoint(tag for tag, _ in found.tags)
    ids = {attrs["id"] for _, attrs in found.tags if "id" in attrs}
    assert all(one.startswith("scores-") for one in ids)
    used = {attrs["href"] for tag, attrs in found.tags if tag == "use"} | set(re.findall(r"url\((#[^)]*)\)", picture))
    assert {one[1:] for one in used} <= ids


def test_every_identity_that_ran_is_in_the_picture():
    marks = [len(Page(str(drawn.summary([GOOD] * n))).named("use")) for n in (3, 8)]
    assert marks[1] - marks[0] == 3 * 5  # error, tolerance and control
    assert drawn.summary([GOOD, IDLE]) == drawn.summary([GOOD])


def test_scores_that_are_no_numbers_do_not_stop_it():
    assert drawn.summary([*EVERY_KIND, outcome("none", error=np.nan, control=np.nan)]) is not None


def test_a_check_that_broke_is_a_row_of_the_picture_too():
    assert drawn.summary([GOOD, BROKEN]) not in (None, drawn.summary([GOOD]))


def test_few_identities_make_a_low_picture():
    low, high = (float(Page(str(drawn.summary([GOOD] * n))).tags[0][1]["viewbox"].split()[3]) for n in (1, 100))
    assert low < high / 2


def test_nothing_to_draw_or_nothing_to_draw_with_is_no_picture(monkeypatch):
    assert drawn.summary([IDLE]) is None
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert drawn.summary([GOOD]) is None
