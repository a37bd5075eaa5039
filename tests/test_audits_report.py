"""Reports of audits: what is wrong is told first and once, and every number survives JSON and the page."""

import json
import math
import re
from html.parser import HTMLParser

import audited
import pytest

from refdiff.validation.audits import audit, page
from refdiff.validation.audits.audit import Result
from refdiff.validation.audits.baseline import Baseline
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.report import Run, as_json, head, shown
from refdiff.validation.audits.targets import Target

W, C, OK, NA = Verdict.WRONG, Verdict.CONVENTION, Verdict.OK, Verdict.NOT_APPLICABLE


def finding(subject, question, verdict, text="text", number=None, bound=None, place="", **details):
    return Finding(subject, question, verdict, text, number, bound, place, "a rule", "print(1 < 2)\n", details)


def result(name, *findings, member="A", steps=(1, 5)):
    return Result(name, member, "toy", "lib", "1.2", {}, tuple(findings), steps, 0.5)


def some():
    return (
        result("A()", finding("A()", "order", OK, counts=[10, 20, 40], errors=[1e-2, 2.5e-3, 6e-4]),
               finding("A()", "law", NA, "no noise")),
        result("A(x=1)", finding("A(x=1)", "order", W, "falls <slowly>", 2.0, 1.0, "sweep", counts=[10, 20],
                                 errors=[1e-2, 5e-3], method=[1e-3, 1e-4]),
               finding("A(x=1)", "coefficients", W, "1 steps: small", 1e-3, 1e-6, "1 steps"),
               finding("A(x=1)", "coefficients", W, "5 steps: large", 1e-1, 1e-6, "5 steps",
                       steps=[[0, 0.0, 1e-6], [1, 1e-1, 1e-6], [2, math.nan, 1e-6]]),
               finding("A(x=1)", "coefficients", OK, "2 steps: right", 1e-9, 1e-6, "2 steps")),
        result("A(x=2)", finding("A(x=2)", "end", C, "no noise in the last step")),
        result("A(x=3)", finding("A(x=3)", "end", C, "no noise in the last step")),
        result("B()", finding("B()", "order", OK), member="B", steps=()),
    )  # fmt: skip


def run(results=None, asked=None, baseline=None):
    results = some() if results is None else results
    return Run(results, len(results) if asked is None else asked, False, 2.5, baseline or Baseline())


def text(run, **more):
    return "\n".join(str(one) for one in shown(run, **more))


def test_a_question_is_one_line_with_its_worst_finding_and_how_often():
    said = text(run())
    assert said.count("coefficients") == 1
    assert "wrong       coefficients  (x=1) 5 steps: large (2 of 3 places) [0.1, bound 1e-6]" in said
    assert "\nB" not in said  # nothing to say
    assert "no noise\n" not in said


def test_a_convention_of_many_sets_of_options_is_one_line():
    assert "convention  end           (x=2) and 1 other set no noise in the last step" in text(run())
    assert "(x=3)" not in text(run())
    assert "(x=3)" in text(run(), verbose=True)


def test_verbose_says_everything():
    said = text(run(), verbose=True)
    assert "n/a         law           no noise" in said
    assert "B\n  ok          order" in said


def test_the_verdict_counts_findings_names_options_and_samplers():
    assert run().verdict == (
        "3 findings are wrong; 2 by convention; 3 ok; 1 not applicable; "
        "2 names, 5 sets of options, 8 samplers in 2.5 s."
    )
    assert run(some()[:1]).verdict.startswith("Nothing is wrong; 1 ok; ")
    assert run(asked=9).verdict.startswith("INTERRUPTED after 5 of 9. 3 findings")


def test_of_several_that_are_wrong_a_new_one_speaks():
    base = Baseline().updated([result("A(x=1)", *some()[1].findings[2:3])], False)
    known = run(baseline=base)
    assert [one.place for one in known.new] == ["sweep", "1 steps"]
    assert "wrong       coefficients  (x=1) 1 steps: small" in text(known)
    assert "of which 1 is known" in known.verdict


def test_what_is_fixed_is_said():
    base = Baseline().updated([result("B()", finding("B()", "order", W, "was bad"))], False)
    assert "fixed       B() order: was: was bad" in text(run(baseline=base))
    assert run(baseline=base).verdict.endswith(" 1 known finding is fixed.")
    assert as_json(run(baseline=base))["fixed"] == [{"key": "B() | order | ", "was": "was bad"}]


def test_json_has_words_for_numbers_that_it_has_not():
    content = json.loads(json.dumps(as_json(run()), allow_nan=False))
    assert content["counts"] == {"wrong": 3, "differs by convention": 2, "ok": 3, "not applicable": 1}
    assert content["subjects"][1]["findings"][2]["details"]["steps"][2] == [2, "nan", 1e-6]
    assert content["libraries"] == {"lib": "1.2"}


class Tags(HTMLParser):
    """Every tag is closed, in order."""

    VOID = ("meta", "br", "hr", "link", "img", "input")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_escapes_what_it_is_given_and_fetches_nothing():
    html = page.page(run())
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert "falls &lt;slowly&gt;" in html
    assert "print(1 &lt; 2)" in html
    assert not re.search(r"(src|href)=\"(?!#)", html)
    assert html.count("<polyline") == 3  # two sets of options, and the method of one
    bars = [attrs for tag, attrs in tags.seen if tag == "rect"]
    assert [one["class"] for one in bars] == ["bar", "bar over", "bar over"]


def test_the_page_says_what_is_claimed_and_what_is_taken_as_it_is():
    details = {"source": "a paper", "conventions": ["the run ends at sigma_min"]}
    html = page.page(run((result("A()", finding("A()", "coefficients", W, **details)),)))
    assert "claimed: a paper<" in html
    assert "taken as it is: the run ends at sigma_min<" in html


def test_the_matrix_has_the_worst_verdict_of_every_class_and_question():
    cells = page.matrix(run())
    assert cells["A"]["coefficients"] == (W, 1, 1)
    assert cells["A"]["order"] == (W, 1, 2)
    assert cells["A"]["end"] == (C, 2, 2)
    assert cells["B"] == {"order": (OK, 1, 1)}


def test_slopes_in_the_picture_are_orders():
    drawn = page.work(run().lines["A"])
    assert [one["name"] for one in drawn["curves"]] == ["x=1", "default"]
    axis = page.axis([1e-3, 5.0], 300.0)
    assert axis == (-3, 1, 300.0)
    assert axis.at(1e-1) - axis.at(1e-2) == pytest.approx(axis.at(1.0) - axis.at(1e-1)) == 75.0
    assert (axis.at(0.0), axis.at(math.inf), axis.at(math.nan)) == (0.0, 300.0, 300.0)


def test_details_that_mean_something_else_are_no_picture():
    assert page.steps(finding("A", "step counts", W, steps=[1, 2, 3])) is None
    assert page.curve({"counts": [1, 2], "errors": 3}, "errors") == []


def test_a_run_of_real_results_makes_a_page(monkeypatch):
    audited.install(monkeypatch, audited.toy(audited.right, audited.halved))
    units = audit.units([Target("toy", "right"), Target("toy", "halved")])
    assert re.match(r"refdiff \S+, numpy \S+, 2 names, 4 sets of options$", next(head(units, False)))
    results = tuple(one for _, one in audit.results(units))
    tags = Tags()
    tags.feed(page.page(run(results)))
    assert tags.open == []
    assert any(attrs.get("class") == "bar over" for _, attrs in tags.seen)
