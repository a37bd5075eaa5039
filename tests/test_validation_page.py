"""The page of a run: every outcome is on it, escaped and well-formed, and it fetches nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported import EVERY_KIND, Page, outcome, run

from refdiff.validation import ledger, page, pages
from refdiff.validation.runner import registry


@pytest.fixture(scope="module")
def shown():
    return Page(page.page(run(*EVERY_KIND, outcome("a <script> & b", topic="<i>topic</i>"))))


def test_the_page_is_well_formed_and_fetches_nothing(shown):
    assert shown.open == []
    assert {"script", "link", "img", "iframe", "object", "i"}.isdisjoint(name for name, _ in shown.tags)
    fetching = [attrs for _, attrs in shown.tags if {"src", "srcset", "data", "action", "poster"} & set(attrs)]
    assert fetching == []
    assert all(attrs["href"].startswith("#") for attrs in shown.named("a"))
    assert not any("url(" in words or "@import" in words for words in shown.words)


def test_the_page_shows_every_outcome_with_its_picture_and_formula(shown):
    articles = shown.named("article")
    assert len(articles) == len(EVERY_KIND) + 1
    assert len(shown.named("math")) == len(articles)
    pictures = [attrs for attrs in shown.named("svg") if attrs.get("role") == "img"]
    assert len(pictures) == len(articles) - 1  # none for what ran on no case
    assert all(attrs["aria-label"] for attrs in pictures)


def test_the_page_counts_the_ledger(shown):
    text = " ".join(shown.words)
    assert f"The ledger: {len(ledger.rows())} numbered items" in text
    assert all(name in text for name in ledger.SOURCES)
    assert len([1 for tag, _ in shown.tags if tag == "tr"]) == len(ledger.rows()) + len(ledger.SOURCES) + 3


@given(st.floats(min_value=0, allow_nan=False), st.floats(min_value=0, allow_nan=False))
def test_places_on_the_axis_keep_the_order_of_the_errors(a, b):
    assert 0 <= page.place(a) <= page.WIDTH
    assert (page.place(a) <= page.place(b)) or a > b


def test_the_axis_is_logarithmic():
    steps = np.diff([page.place(10.0**k) for k in range(-6, 17)])
    np.testing.assert_allclose(steps, page.WIDTH / 22, atol=0.11)
    assert math.isclose(page.place(1.0), page.WIDTH * 6 / 22, abs_tol=0.1)


def test_a_formula_that_cannot_be_converted_is_shown_as_it_is():
    assert str(pages.formula(r"\left( <b>")).startswith("<code>")
    assert "<b>" not in str(pages.formula(r"\left( <b>"))


def test_every_formula_of_the_registry_becomes_mathml_without_unknown_commands():
    found = {one.name: pages.formula(one.formula) for one in registry().values()}
    assert [name for name, markup in found.items() if "\\" in markup or "<code" in markup] == []
