"""Reports: nothing is lost or invented between an outcome and the file that tells of it."""

import dataclasses
import json
import math
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from refdiff.validation import ledger, report, terminal
from refdiff.validation.identity import ROUNDING, Identity, Sides
from refdiff.validation.runner import Outcome, registry


def outcome(name="a = b", error=1e-15, control=1e12, cases=3, raised="", topic="letters", formula="a = b"):
    """An outcome of an identity that was never run."""
    one = Identity(
        name,
        topic,
        formula,
        ("RDX-01",),
        ("DMI-02",),
        "once",
        ROUNDING,
        1e-12,
        "b + 1",
        lambda _: True,
        None,
        lambda *_: Sides(1, 1),
    )
    return Outcome(one, error, "draw <0>", control, cases, 0.25, raised)


def run(*outcomes, asked=None, data=""):
    """A run with these outcomes."""
    return report.Run(outcomes, asked or len(outcomes), "quick", 5, data, 1.5)


GOOD = outcome()
FAILED = outcome("fails", error=3e-9)
BLIND = outcome("sees nothing", control=3.0)
BROKEN = outcome("breaks", error=np.inf, raised="ValueError('no')")
ENDLESS = outcome("is not a number", error=np.inf)
IDLE = outcome("applies nowhere", error=0.0, control=0.0, cases=0)
OVERSHOT = outcome("control is infinite", control=np.inf)
EVERY_KIND = (GOOD, FAILED, BLIND, BROKEN, ENDLESS, IDLE, OVERSHOT)


# ---------------------------------------------------------------------- JSON


def test_json_has_no_number_that_json_does_not_know():
    text = json.dumps(report.as_json(run(*EVERY_KIND)), allow_nan=False)
    found = {one["name"]: one for one in json.loads(text)["identities"]}
    assert found["a = b"]["error"] == 1e-15
    assert found["a = b"]["control_score"] == 1e12
    assert found["is not a number"]["error"] is None
    assert found["is not a number"]["verdict"] == "FAILED"
    assert "not a finite number, in draw <0>" in found["is not a number"]["remark"]
    assert found["control is infinite"]["control_score"] is None
    assert found["control is infinite"]["verdict"] == "ok"
    assert "control gave a value that is not a finite number" in found["control is infinite"]["remark"]
    assert "ValueError('no')" in found["breaks"]["remark"]
    assert found["applies nowhere"]["error"] is None
    assert found["applies nowhere"]["verdict"] == "n/a"


def test_json_says_what_was_run_where():
    found = report.as_json(run(GOOD, data="points.npy: 3 points in 2-d"))
    assert (found["version"], found["seed"], found["level"]) == (report.environment()["refdiff"], 5, "quick")
    assert found["data"] == "points.npy: 3 points in 2-d"
    assert {"python", "numpy", "scipy", "system", "machine", "processors"} <= set(found["platform"])
    one = found["identities"][0]
    assert (one["covers"], one["refutes"], one["topic"]) == (["RDX-01"], ["DMI-02"], "letters")
    assert found["passed"] is True


@pytest.mark.parametrize("bad", [FAILED, BLIND, BROKEN, ENDLESS])
def test_one_failure_of_any_kind_means_that_the_run_did_not_pass(bad):
    assert report.as_json(run(GOOD, bad))["passed"] is False
    assert bad.identity.name in run(GOOD, bad).verdict


def test_an_interrupted_run_did_not_pass():
    found = report.as_json(run(GOOD, asked=3))
    assert found["interrupted"]
    assert not found["passed"]
    assert "INTERRUPTED after 1 of 3" in found["verdict"]


def test_the_verdict_names_the_worst_rounding_case():
    worst = dataclasses.replace(GOOD, error=7e-13, worst="a bad day")
    text = run(GOOD, worst, IDLE).verdict
    assert "2 identities hold on 6 cases" in text
    assert "1 do not apply" in text
    assert "worst rounding error 7e-13 of tolerance 1e-12 in 'a = b' (a bad day)" in text
    assert "\n" not in text


def test_nothing_to_say_is_said():
    assert run(IDLE).verdict.startswith("Nothing ran; 1 do not apply")
    assert report.as_json(run(IDLE))["passed"] is True


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_brief_numbers_keep_two_digits(value):
    text = report.brief(value)
    assert float(text) == pytest.approx(value, rel=0.051)
    assert len(text) <= 8


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (np.inf, "inf"), (1e-12, "1e-12"), (3.14e-15, "3.1e-15"), (7, "7")]
)
def test_brief_numbers_are_written_as_people_do(value, text):
    assert report.brief(value) == text


# ---------------------------------------------------------------------- the page


class Page(HTMLParser):
    """Tags with their attributes, and whether they close in the order they opened."""

    EMPTY = frozenset(("meta", "rect", "line", "path", "circle", "br"))

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page():
    return Page(report.page(run(*EVERY_KIND, outcome("a <script> & b", topic="<i>topic</i>"))))


def test_the_page_is_well_formed_and_fetches_nothing(page):
    assert page.open == []
    assert {"script", "link", "img", "iframe", "object", "i"}.isdisjoint(name for name, _ in page.tags)
    fetching = [attrs for _, attrs in page.tags if {"src", "srcset", "data", "action", "poster"} & set(attrs)]
    assert fetching == []
    assert all(attrs["href"].startswith("#") for attrs in page.named("a"))
    assert not any("url(" in words or "@import" in words for words in page.words)


def test_the_page_shows_every_outcome_with_its_picture_and_formula(page):
    articles = page.named("article")
    assert len(articles) == len(EVERY_KIND) + 1
    assert len(page.named("math")) == len(articles)
    pictures = [attrs for attrs in page.named("svg") if attrs.get("role") == "img"]
    assert len(pictures) == len(articles) - 1  # none for what ran on no case
    assert all(attrs["aria-label"] for attrs in pictures)


def test_the_page_counts_the_ledger(page):
    text = " ".join(page.words)
    assert f"The ledger: {len(ledger.rows())} numbered items" in text
    assert all(name in text for name in ledger.SOURCES)
    assert len([1 for tag, _ in page.tags if tag == "tr"]) == len(ledger.rows()) + len(ledger.SOURCES) + 3


@given(st.floats(min_value=0, allow_nan=False), st.floats(min_value=0, allow_nan=False))
def test_places_on_the_axis_keep_the_order_of_the_errors(a, b):
    assert 0 <= report.place(a) <= report.WIDTH
    assert (report.place(a) <= report.place(b)) or a > b


def test_the_axis_is_logarithmic():
    steps = np.diff([report.place(10.0**k) for k in range(-6, 17)])
    np.testing.assert_allclose(steps, report.WIDTH / 22, atol=0.11)
    assert math.isclose(report.place(1.0), report.WIDTH * 6 / 22, abs_tol=0.1)


def test_a_formula_that_cannot_be_converted_is_shown_as_it_is():
    assert str(report.formula(r"\left( <b>")).startswith("<code>")
    assert "<b>" not in str(report.formula(r"\left( <b>"))


def test_every_formula_of_the_registry_becomes_mathml_without_unknown_commands():
    pages = {one.name: report.formula(one.formula) for one in registry().values()}
    assert [name for name, page in pages.items() if "\\" in page or "<code" in page] == []


# ---------------------------------------------------------------------- the terminal


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_fits_the_terminal_and_names_everything(width):
    console = Console(width=width, record=True, markup=False, file=open(os.devnull, "w"))  # noqa: SIM115
    for part in terminal.table(run(*EVERY_KIND, outcome("[bold]not markup[/bold]", topic="[red]t")), width):
        console.print(part)
    console.file.close()
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for word in ("FAILED", "BLIND", "n/a", "3e-9", "1e12", "inf", "[bold]not", "[red]t", "letters"):
        assert word in text
