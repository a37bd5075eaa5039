"""The page of a run: every outcome is on it, escaped and well-formed, and it fetches nothing."""

import ast
import dataclasses
import math
import re
from collections import Counter
from email.message import Message
from itertools import pairwise
from urllib.parse import parse_qsl

import numpy as np
import pytest
from house import ROOT
from hypothesis import given
from hypothesis import strategies as st
from reported import EVERY_KIND, FAILED, GOOD, IDLE, NASTY, Page, everything, outcome, run

from refdiff.validation import ledger, page
from refdiff.validation.runner import registry


@pytest.fixture(scope="module")
def shown():
    return Page(page.page(run(*EVERY_KIND, outcome("a <script> & b", topic="<i>topic</i>"))))


def test_the_page_is_well_formed_and_fetches_nothing(shown):
    assert shown.open == []
    assert len(shown.named("script")) == 1  # the house's own, within the page
    assert {"link", "img", "iframe", "object", "i"}.isdisjoint(name for name, _ in shown.tags)
    fetching = [attrs for _, attrs in shown.tags if {"src", "srcset", "data", "action", "poster"} & set(attrs)]
    assert fetching == []
    assert all(attrs["href"].startswith("#") for attrs in shown.named("a"))
    assert not any("url(" in words or "@import" in words for words in shown.words)


def assert_one_place_each(tags):
    """Every id is there once, and what is linked within the page is there."""
    ids = Counter(attrs["id"] for _, attrs in tags if "id" in attrs)
    assert [one for one, count in ids.items() if count > 1] == []
    links = {attrs["href"][1:] for _, attrs in tags if attrs.get("href", "").startswith("#")}
    assert {one for one in links if "=" not in one} <= set(ids)


def test_ids_are_unique_and_links_lead_somewhere(shown):
    assert_one_place_each(shown.tags)
    for wrong in [("p", {"id": "ledger"}), ("a", {"href": "#nowhere"})]:
        with pytest.raises(AssertionError):
            assert_one_place_each([*shown.tags, wrong])


def test_links_that_filter_name_a_field_and_a_value_that_it_offers(shown):
    offered, name = set(), ""
    for tag, attrs in shown.tags:
        name = attrs["name"] if tag == "select" else name
        offered |= {(name, attrs["value"])} if tag == "option" else set()
    asked = {pair for attrs in shown.named("a") if "=" in attrs["href"] for pair in parse_qsl(attrs["href"][1:])}
    assert asked
    assert asked <= offered


def test_headings_go_down_one_by_one_and_every_field_has_a_label(shown):
    levels = [int(tag[1]) for tag, _ in shown.tags if tag in {"h1", "h2", "h3", "h4"}]
    assert levels.count(1) == 1
    assert all(lower <= upper + 1 for upper, lower in pairwise(levels))
    fields = [attrs for tag, attrs in shown.tags if tag in {"input", "select"}]
    assert len(fields) == len(shown.named("label")) == len({attrs["name"] for attrs in fields})


def test_the_page_shows_every_outcome_with_its_picture_and_formula(shown):
    articles = shown.named("article")
    assert len(articles) == len(EVERY_KIND) + 1
    assert len(shown.named("math")) == len(articles)
    pictures = [attrs for attrs in shown.named("svg") if attrs.get("role") == "img"]
    assert len(pictures) == len(articles) - 1  # none for what ran on no case
    assert all(attrs["aria-label"] for attrs in pictures)


def test_failures_come_first_with_what_was_expected(shown):
    states = [attrs["data-state"].split("|")[0] for attrs in shown.named("article")]
    bad = [state in {"failed", "blind"} for state in states]
    assert bad[:4] == [True] * 4
    assert sum(bad) == 4
    text = " ".join(shown.words)
    for said in ("3e-9 apart, 3e3 tolerances", "the two sides at most 1e-12 apart", "misses by 3 tolerances",
                 "at least 100 tolerances", "ValueError('no')", "a value that is not a finite number"):  # fmt: skip
        assert said in text
    good = " ".join(Page(page.page(run(GOOD))).words)
    assert "What fails" in text
    assert "What fails" not in good


def test_the_page_of_some_says_of_how_many_and_counts_the_items_of_these():
    text = re.sub(r"\s+", " ", " ".join(Page(page.page(run(GOOD))).words))
    assert f"1 of its {len(registry())} identities" in text
    assert f"2 of {len(ledger.rows())} items checked" in text
    assert "1 refutes a printed formula" in text
    failing = re.sub(r"\s+", " ", " ".join(Page(page.page(run(FAILED))).words))
    assert "a printed formula" not in failing.partition("Each identity")[0]  # what fails refutes nothing


def test_a_run_of_nothing_counts_nothing():
    text = " ".join(Page(page.page(run(IDLE))).words)
    assert not {"nan", "None", "inf"} & set(text.split())
    assert "Nearest" not in text


def test_items_name_all_their_identities_and_link_those_of_the_run():
    name = "Tweedie, first order"
    held = dataclasses.replace(GOOD, identity=registry()[name])
    item = next(row for row in ledger.rows() if {name} < set(row.by.split("; ")))  # others speak of it too
    (row,) = re.findall(f'<tr id="{item.id}".*?</tr>', page.page(run(held)), flags=re.DOTALL)
    assert f'href="#tweedie-first-order">{name}</a>' in row
    assert row.count("href") == 1
    assert all(one in " ".join(Page(row).words) for one in item.by.split("; "))


def test_the_page_counts_the_ledger(shown):
    text = " ".join(shown.words)
    assert f"The ledger: {len(ledger.rows())} numbered items" in text
    assert all(name in text for name in ledger.SOURCES)
    rows = [attrs["id"] for attrs in shown.named("tr") if "data-row" in attrs]
    assert rows == [row.id for row in ledger.rows()]


def test_a_page_of_everything_is_well_formed_too_and_escapes_what_it_is_told():
    text = page.page(everything())
    found = Page(text)
    assert found.open == []
    assert_one_place_each(found.tags)
    assert len(found.named("script")) == 1
    assert NASTY not in text
    assert sum(NASTY in words for words in found.words) > 2
    assert len(text.encode()) < 4e6


# ---------------------------------------------------------------------- code


def test_a_check_is_shown_as_it_is_written():
    one = registry()["Tweedie, first order"]
    found = page.code(one.check)
    lines = (ROOT / found.path).read_text(encoding="utf-8").splitlines()
    assert lines[found.first - 1].startswith(f"def {one.check.__name__}(")
    assert found.text == "\n".join(lines[found.first - 1 : found.last])
    assert "return" in lines[found.last - 1]


def test_the_code_of_every_check_is_found_and_compiles():
    for one in registry().values():
        found = page.code(one.check)
        assert ast.parse(found.text).body[0].name == one.check.__name__, one.name


def test_a_check_without_a_file_has_no_code():
    known = {}
    exec("def check(case, wrong): return None", known)
    assert page.code(known["check"]) is None


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (["Homepage, https://x.org", "Repository, https://host.org/refdiff/"], "https://host.org/refdiff"),
        (["Source, https://host.org/refdiff"], "https://host.org/refdiff"),
        (["Repository, javascript:alert(1)"], ""),
        (None, ""),
    ],
)
def test_code_is_linked_where_the_metadata_name_a_repository(monkeypatch, urls, said):
    found = Message()
    for url in urls or []:
        found["Project-URL"] = url
    monkeypatch.setattr(page.metadata, "metadata", lambda name: found if name == "refdiff" else None)
    assert page.repository() == said
    known = page.code.__wrapped__(registry()["Tweedie, first order"].check)
    place = f"{known.path}#L{known.first}-L{known.last}"
    assert known.link == (f"https://host.org/refdiff/blob/HEAD/{place}" if said else "")


# ---------------------------------------------------------------------- pictures


@given(st.floats(min_value=0, allow_nan=False), st.floats(min_value=0, allow_nan=False))
def test_places_on_the_axis_keep_the_order_of_the_errors(a, b):
    assert 0 <= page.place(a) <= page.WIDTH
    assert (page.place(a) <= page.place(b)) or a > b


def test_the_axis_is_logarithmic():
    steps = np.diff([page.place(10.0**k) for k in range(-6, 17)])
    np.testing.assert_allclose(steps, page.WIDTH / 22, atol=0.11)
    assert math.isclose(page.place(1.0), page.WIDTH * 6 / 22, abs_tol=0.1)
