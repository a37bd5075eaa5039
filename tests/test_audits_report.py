"""Reports of audits: what is wrong is told first and once, and every number survives JSON."""

import json

from audit_runs import W, finding, known, run, some

from refdiff.validation.audits.report import as_json, shown


def text(run, **more):
    return "\n".join(str(one) for one in shown(run, **more))


def test_a_question_is_one_line_with_its_worst_finding_and_how_often():
    said = text(run())
    assert said.count("coefficients") == 1
    assert "wrong       coefficients  (x=1) 5 steps: large; a weight is 1 (2 of 4 places) [0.1, bound 1e-6]" in said
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
        "3 findings are wrong; 2 by convention; 4 ok; 1 not applicable; "
        "2 names, 5 sets of options, 8 samplers in 2.5 s."
    )
    assert run(some()[:1]).verdict.startswith("Nothing is wrong; 1 ok; ")
    assert run(asked=9).verdict.startswith("INTERRUPTED after 5 of 9. 3 findings")


def test_of_several_that_are_wrong_a_new_one_speaks():
    found = run(baseline=known(some()[1].findings[2]))
    assert [one.place for one in found.new] == ["sweep", "1 steps"]
    assert "wrong       coefficients  (x=1) 1 steps: small" in text(found)
    assert "of which 1 is known" in found.verdict


def test_what_is_fixed_is_said():
    base = known(finding("B()", "order", W, "was bad"))
    assert "fixed       B() order: was: was bad" in text(run(baseline=base))
    assert run(baseline=base).verdict.endswith(" 1 known finding is fixed.")
    assert as_json(run(baseline=base))["fixed"] == [{"key": "B() | order | ", "was": "was bad"}]


def test_json_has_words_for_numbers_that_it_has_not():
    content = json.loads(json.dumps(as_json(run()), allow_nan=False))
    assert content["counts"] == {"wrong": 3, "differs by convention": 2, "ok": 4, "not applicable": 1}
    assert content["subjects"][1]["findings"][2]["details"]["steps"][2] == [2, "nan", 1e-6]
    assert content["libraries"] == {"lib": "1.2"}


def test_json_says_where_the_code_is():
    first, *_, last = as_json(run())["subjects"]
    assert (first["audited"], first["method"]) == (None, None)
    assert last["audited"] == {"name": "lib.b:B", "place": "lib/b.py:7"}
    assert last["method"] == {"name": "refdiff.samplers.unipc:unipc", "place": "refdiff/samplers/unipc.py:37"}
