"""The page of an audit: every finding is on it once, by its kind, escaped and well-formed; it fetches nothing."""

import re
from collections import Counter
from dataclasses import replace

import audited
import pytest
from audit_runs import NA, OK, C, W, finding, known, result, run, some
from reported import Page

from refdiff.validation.audits import audit, page
from refdiff.validation.audits.report import head
from refdiff.validation.audits.targets import Target


@pytest.fixture(scope="module")
def shown():
    return Page(page.page(run()))


def rows(shown):
    return [attrs for _, attrs in shown.tags if "data-row" in attrs]


def test_the_page_is_whole_and_fetches_nothing(shown):
    assert shown.open == []
    assert {"link", "img", "iframe", "object"}.isdisjoint(name for name, _ in shown.tags)
    assert not any({"src", "srcset", "data", "action"} & set(attrs) for _, attrs in shown.tags)
    assert all(attrs["href"].startswith("#") for attrs in shown.named("a"))
    assert not any("url(" in words or "@import" in words for words in shown.words)


def test_a_finding_says_its_place_where_its_sentence_does_not():
    found = result(
        "A()", finding("A()", "q", W, "2 steps: off", place="2 steps"), finding("A()", "r", W, "off", place="x=3")
    )
    html = page.page(run((found,)))
    assert '<p class="facts">x=3</p>' in html
    assert '<p class="facts">2 steps</p>' not in html


def test_every_link_leads_to_one_place_or_to_a_choice(shown):
    ids = Counter(attrs["id"] for _, attrs in shown.tags if "id" in attrs)
    assert set(ids.values()) == {1}
    leads = {attrs["href"][1:] for attrs in shown.named("a")}
    assert {one for one in leads if "=" not in one} <= set(ids)
    assert {"a-coefficients", "a-law", "b-order"} <= leads


def test_rows_stand_for_every_finding_once(shown):
    assert sum(int(one.get("data-weight", 1)) for one in rows(shown)) == len(run().findings)
    assert [one for one in rows(shown) if "data-weight" in one] == [
        {"data-row": None, "data-question": "coefficients", "data-weight": "2"}
    ]
    assert Counter(one.get("data-state") for one in rows(shown)) == {"new": 3, None: 6}


def test_what_a_finding_says_is_no_markup():
    bad = '<script>alert(1)</script> "quoted" <img src=x onerror=alert(2)>'
    found = result(bad, finding(bad, bad, W, bad, 1.0, 0.5, bad, source=bad, conventions=[bad]), member=bad)
    html = page.page(run((found, result("A()", finding("A()", bad, OK, bad)))))
    shown = Page(html)
    assert shown.open == []
    assert "<script>alert" not in html
    assert not any({"onerror", "src"} & set(attrs) for _, attrs in shown.tags)
    assert bad in [attrs.get("data-name") for _, attrs in shown.tags]
    assert "print(1 &lt; 2)" in html


def test_the_page_says_what_is_claimed_and_what_is_taken_as_it_is():
    details = {"source": "a paper", "conventions": ["the run ends at sigma_min"]}
    html = page.page(run((result("A()", finding("A()", "coefficients", W, **details)),)))
    assert "claimed: a paper<" in html
    assert "taken as it is: the run ends at sigma_min<" in html


def test_the_page_says_where_the_code_is_and_what_the_method_says_of_itself(shown):
    text = " ".join(shown.words)
    assert "lib/b.py:7" in text
    assert "refdiff/samplers/unipc.py:37" in text
    assert "UniP" in text
    assert "refdiff samplers" in text


def test_the_matrix_has_the_worst_verdict_of_every_class_and_question():
    cells = page.matrix(run())
    assert cells["A"]["coefficients"] == (W, 1, 1, False)
    assert cells["A"]["order"] == (W, 1, 2, False)
    assert cells["A"]["end"] == (C, 2, 2, False)
    assert cells["B"] == {"order": (OK, 1, 1, False)}
    one_known = page.matrix(run(baseline=known(some()[1].findings[0])))
    assert one_known["A"]["order"] == (W, 1, 2, True)
    assert one_known["A"]["coefficients"] == (W, 1, 1, False)


def test_questions_and_classes_with_something_wrong_come_first():
    assert page.questions(run()) == ["order", "coefficients", "end", "law"]
    reversed_run = run(some()[::-1])
    listed = [one["data-name"] for _, one in Page(page.page(reversed_run)).tags if "data-name" in one]
    assert listed == ["A", "B"]


def test_at_length_is_the_finding_of_the_fewest_weights_and_one_sentence_of_many_sets_is_told_once():
    lines = run().lines["A"]
    (coefficients,) = (one for one in lines if one.question == "coefficients")
    assert [one.place for one in page.shown(coefficients)] == ["1 steps", "5 steps"]
    (told, *_) = page.members(run(baseline=known(some()[1].findings[0])))
    assert [[one.label for one in same] for same in told.lines] == [["wrong"], ["known"], ["convention"] * 2]
    assert [same[0].question for same in told.lines] == ["coefficients", "order", "end"]


def test_what_links_ask_for_can_be_chosen_also_where_no_finding_has_it():
    with_baseline = {key: choices for key, _, choices in page.fields(run(baseline=known(some()[1].findings[0])))}
    assert with_baseline["state"] == [("new", "new", 2), ("known", "known", 1)]
    fields = {key: choices for key, _, choices in page.fields(run(some()[:1]))}
    assert [(name, count) for name, _, count in fields["verdict"]] == [
        ("wrong", 0), ("convention", 0), ("ok", 1), ("n/a", 1),
    ]  # fmt: skip
    assert list(fields) == ["name", "question", "verdict"]


@pytest.mark.parametrize(
    ("found", "said", "bad"),
    [
        (run(some()[:1]), "Nothing is wrong", False),
        (run(some()[:1], asked=2), "INTERRUPTED after 1 of 2", True),
        (run((), asked=2), "INTERRUPTED after 0 of 2", True),
        (run((result("A()", finding("A()", "law", NA)),)), "Nothing could be examined", True),
        (run(some()[1:2], baseline=known(*some()[1].findings[:3])), "of which 3 are known", False),
    ],
)
def test_the_verdict_comes_first_and_is_bad_where_the_audit_fails(found, said, bad):
    html = page.page(found)
    assert Page(html).open == []
    (lead,) = re.findall(r'<p class="(lead[^"]*)">([^<]*)</p>', html)
    assert said in lead[1]
    assert lead[0] == ("lead bad" if bad else "lead")


def test_the_page_says_of_what_it_is_and_how_many_names_have_something_wrong():
    found = page.page(run())
    assert "lib 1.2, audited against the exact model</h1>" in found
    assert "<title>refdiff audit of lib: 3 wrong</title>" in found
    assert "Something is wrong in 1 of the 2 names." in found
    known_too = page.page(run(baseline=known(some()[1].findings[0])))
    assert "<title>refdiff audit of lib: 3 wrong, 2 new</title>" in known_too
    assert "Something is wrong in" not in page.page(run(some()[:1]))
    own = replace(some()[1], library="", version="")
    assert "An audit against the exact model</h1>" in page.page(run((own,)))


def test_numbers_are_told_in_units_of_their_bound():
    assert page.times(finding("A", "q", W, number=3.0, bound=1.5)) == "2 times the bound"
    assert page.times(finding("A", "q", OK, number=1.0, bound=4.0)) == "0.25 of the bound"
    assert page.times(finding("A", "q", W, number=float("inf"), bound=1.0)) == ""
    shares = [page.share(finding("A", "q", OK, number=n, bound=1.0)) for n in (0.0, 1e-9, 1e-2, 1.0, 7.0)]
    assert shares == [0, 0, 50, 100, 100]


def test_a_run_of_real_results_makes_a_page(monkeypatch):
    audited.install(monkeypatch, audited.toy(audited.right, audited.halved))
    units = audit.units([Target("toy", "right"), Target("toy", "halved")])
    assert re.match(r"refdiff \S+, numpy \S+, 2 names, 4 sets of options$", next(head(units, False)))
    found = run(tuple(one for _, one in audit.results(units)))
    shown = Page(page.page(found))
    assert shown.open == []
    assert sum(int(one.get("data-weight", 1)) for one in rows(shown)) == len(found.findings)
    assert any(attrs.get("class") == "stage over" for _, attrs in shown.tags)
    assert [attrs.get("class") for attrs in shown.named("figure")].count("weights") == 2
    assert {one.method.name for one in found.results} == {"refdiff.samplers.edm:edm_euler"}


def test_of_very_many_findings_what_is_ok_is_told_in_numbers(monkeypatch):
    assert "2 steps: right" not in page.page(run())  # the nearest to its bound speaks for two
    assert "3 steps: right" in page.page(run())
    monkeypatch.setattr(page, "MANY", 3)
    html = page.page(run())
    assert "3 steps: right" not in html
    assert "1e-8 of 1e-6" in html
    assert all(text in html for text in ("5 steps: large", "no noise in the last step", "<b>law</b> no noise"))
