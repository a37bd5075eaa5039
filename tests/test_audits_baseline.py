"""A baseline: what is known passes, what is new fails, what is gone is said, what was not examined stays."""

import pytest

from refdiff.validation.audits.audit import Result
from refdiff.validation.audits.baseline import BadBaseline, Baseline, Entry, load, save
from refdiff.validation.audits.findings import Finding, Verdict


def result(subject, about="", **verdicts):
    """A result whose findings are of one question, by place: w(rong), o(k) or n(ot applicable)."""
    names = {"w": Verdict.WRONG, "o": Verdict.OK, "n": Verdict.NOT_APPLICABLE}
    findings = tuple(
        Finding(subject, "order", names[v], f"{place} is {v}", place=place, about=about)
        for place, v in verdicts.items()
    )
    return Result(subject, subject, "toy", "lib", "1", {}, findings, (), 0.0)


def known(*results, quick=False):
    return Baseline().updated(results, quick)


def test_only_findings_with_another_key_are_new():
    base = known(result("A", a="w", b="o"))
    assert base.new([result("A", a="w", b="o")]) == []
    assert [one.key for one in base.new([result("A", a="w", b="w"), result("B", a="w")])] == [
        "A | order | b",
        "B | order | a",
    ]


def test_two_callables_of_one_name_are_two():
    base = known(result("f", "plain, a.py", a="w", b="w"))
    assert [one.key for one in base.new([result("f", "plain, b.py", a="w")])] == ["plain, b.py | f | order | a"]
    assert base.fixed([result("f", "plain, b.py", a="o")], False) == {}
    assert set(base.fixed([result("f", "plain, a.py", a="w")], False)) == {"plain, a.py | f | order | b"}


def test_another_sentence_about_the_same_place_is_known():
    base = known(result("A", a="w"))
    changed = Result(
        "A", "A", "toy", "", "", {}, (Finding("A", "order", Verdict.WRONG, "other words", place="a"),), (), 0
    )
    assert base.new([changed]) == []


def test_fixed_is_what_is_examined_again_and_not_wrong():
    base = known(result("A", a="w", b="w"), result("B", a="w"))
    assert set(base.fixed([result("A", a="o", b="w")], False)) == {"A | order | a"}
    assert set(base.fixed([result("A", b="w")], False)) == {"A | order | a"}  # a place that only what is wrong has


def test_a_quick_run_does_not_take_for_fixed_what_it_did_not_look_at():
    full, quick = known(result("A", a="w", b="w")), known(result("A", a="w", b="w"), quick=True)
    assert full.fixed([result("A", a="w")], True) == {}
    assert set(quick.fixed([result("A", a="w")], True)) == {"A | order | b"}
    assert set(full.fixed([result("A", b="o", a="w")], True)) == {"A | order | b"}


def test_an_update_keeps_what_was_not_examined_and_drops_what_is_fixed():
    base = known(result("A", a="w", b="w"), result("B", a="w"))
    assert set(base.updated([result("A", a="o", b="w", c="w")], False).known) == {
        "A | order | b",
        "A | order | c",
        "B | order | a",
    }


def test_what_a_full_run_has_seen_stays_so_when_a_quick_one_sees_it_again():
    base = known(result("A", a="w")).updated([result("A", a="w", b="w")], True)
    assert [entry.quick for entry in base.known.values()] == [False, True]


def test_a_file_reads_back(tmp_path):
    base = known(result("A(β=1)", a="w"), result("B", a="w"))
    save(base, tmp_path / "known.json")
    assert load(tmp_path / "known.json") == base
    assert base.known["B | order | a"] == Entry("B", "order", "a is w")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "other"}', '{"format": "refdiff audit baseline 1", "known": [{"a": 1}]}']
)
def test_another_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "known.json").write_text(text)
    with pytest.raises(BadBaseline, match=r"known\.json must be"):
        load(tmp_path / "known.json")


def test_what_could_not_be_examined_is_not_fixed():
    base = known(result("A", a="w"))
    for found in (result("A", a="n"), result("A", b="n")):
        assert base.fixed([found], False) == {}
        assert base.updated([found], False) == base
