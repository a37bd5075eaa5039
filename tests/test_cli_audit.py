"""`refdiff audit` as its users meet it."""

import json
import os
import re
import signal

import audited
import pytest
from click.testing import CliRunner

from refdiff.cli import main
from refdiff.validation.audits import audit

HERE = os.path.dirname(__file__)
FILE = os.path.join(HERE, "audited.py")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    gone = audited.Protocol("gone", "f(x)", audited.wrap, "no_such_library", audited.members(()))
    bare = audited.Protocol("bare", "f(model, x, sigmas)", audited.wrap)
    audited.install(monkeypatch, audited.toy(audited.right, audited.halved), gone, bare)


def refdiff(*arguments):
    """What the command gives back."""
    result = CliRunner().invoke(main, ["audit", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_list_names_protocols_libraries_members_and_what_to_install(monkeypatch):
    monkeypatch.setattr(audit, "result", None)
    result = refdiff("--list")
    assert result.exit_code == 0
    assert re.search(r"^toy: f\(model, x, sigmas\)\n    numpy 2\.\S+\n    right, halved", result.output)
    assert "gone: f(x)\n    no_such_library is not installed: pip install no-such-library" in result.output
    assert "bare: f(model, x, sigmas)" in result.output


def test_what_is_wrong_is_one_line_for_a_subject_and_question_and_exit_status_1():
    result = refdiff("toy", "--quick")
    assert result.exit_code == 1
    assert result.output.count("  wrong       coefficients") == 2
    assert "(half of it)" in result.output
    assert "right" not in result.output  # what is ok is counted
    assert result.output.splitlines()[-1].startswith("2 findings are wrong; ")


def test_what_is_right_is_exit_status_0_and_shown_when_asked_for():
    result = refdiff("toy:right", "--quick", "-v")
    assert result.exit_code == 0, result.output
    assert result.output.count("  ok          coefficients") == 2
    assert "Nothing is wrong; " in result.output


def test_only_chooses_subjects_or_questions():
    assert refdiff("toy", "--quick", "--only", "^RIGHT").exit_code == 0
    result = refdiff("toy", "--quick", "--only", "halved.again", "--only", "coefficients", "-v")
    assert "1 name, 1 set of options" in result.output
    assert re.findall(r"^  \w+ +(\w+)", result.output, re.MULTILINE) == ["coefficients"]


def test_a_callable_of_ones_own_is_audited_from_a_file_and_from_a_module(monkeypatch, tmp_path):
    result = refdiff(f"{FILE}:halved", "--protocol", "bare", "--quick")
    assert result.exit_code == 1
    assert "half of it" in result.output
    (tmp_path / "mine_for_audit.py").write_text("from audited import right as my_own\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    assert refdiff("mine_for_audit:my_own", "--protocol", "bare", "--family", "edm-euler", "--quick").exit_code == 0
    assert refdiff("mine_for_audit:my_own", "--protocol", "bare", "--family", "edm-heun", "--quick").exit_code == 1


def test_options_of_a_member_are_passed_on(monkeypatch):
    seen = []
    monkeypatch.setattr(audit, "result", lambda *a: seen.append(a) or audit._broken(a[0], "not run"))
    monkeypatch.setattr(audited.np, "of_numpy", lambda a=0, b=0, c=None, **rest: a, raising=False)

    def wrap(function, request):
        return audited.Subject(repr(dict(request.options)), audited.build(function))

    toy = audited.Protocol("toy", "f(a)", wrap, "numpy", lambda quick: {"of_numpy": None})
    with pytest.MonkeyPatch.context() as patch:
        audited.install(patch, toy)
        settings = ("a=3", "b=true", "c=None", "d=karras", "e=[1, 2.5]", "f='x'")
        refdiff("toy:of_numpy", *(word for text in settings for word in ("--set", text)))
    assert seen[0][0].name == "{'a': 3, 'b': True, 'c': None, 'd': 'karras', 'e': [1, 2.5], 'f': 'x'}"


BAD = {
    "nothing asked": ([], "what is to be audited"),
    "no such library": (["tou"], "'tou' is no library that can be audited .* did you mean toy"),
    "no such member": (["toy:rihgt"], "toy has no 'rihgt'; did you mean right"),
    "not installed": (["gone"], "no_such_library is not installed: pip install no-such-library"),
    "no protocol": ([f"{FILE}:right"], "how is right called.*protocol= or --protocol must be one of toy, gone, bare"),
    "no such protocol": ([f"{FILE}:right", "--protocol", "bear"], "got 'bear'; did you mean bare"),
    "no such file": (["none.py:f", "--protocol", "bare"], "none.py is not there"),
    "no such module": (["no.module:f", "--protocol", "bare"], "no.module cannot be imported: ModuleNotFoundError"),
    "no such function": ([f"{FILE}:rigth", "--protocol", "bare"], "has no 'rigth'; did you mean right"),
    "broken file": (["broken.py:f", "--protocol", "bare"], "broken.py cannot be imported: ZeroDivisionError"),
    "no function": ([f"{FILE}:np", "--protocol", "bare"], "must be a function or a class, got module"),
    "wrong signature": (
        [f"{FILE}:levels", "--protocol", "bare"],
        r"levels cannot be called as bare calls it, f\(model, x, sigmas\): levels\(\) takes 1 positional",
    ),
    "no such family": (
        [f"{FILE}:right", "--protocol", "bare", "--family", "edm-hein"],
        "'edm-hein' is no family .* did you mean edm-heun",
    ),
    "claim alone": ([f"{FILE}:right", "--protocol", "bare", "--claim", "a=1"], "--family NAME"),
    "no such claim": (
        [f"{FILE}:right", "--protocol", "bare", "--family", "edm-heun", "--claim", "s_chrun=1"],
        "'s_chrun' is no option of the family edm-heun; did you mean s_churn",
    ),
    "no such process": (
        [f"{FILE}:right", "--protocol", "bare", "--claim", "process=vpp"],
        "process must be a Schedule or one of vp-linear, .*, got 'vpp'",
    ),
    "no such prediction": (
        [f"{FILE}:right", "--protocol", "bare", "--claim", "prediction_type=epsilom"],
        "prediction_type must be one of denoiser, noise, .*, got 'epsilom'",
    ),
    "claim of no use": (
        [f"{FILE}:right", "--protocol", "bare", "--family", "edm-heun", "--claim", "process=edm"],
        "process is no claim that protocol bare looks at",
    ),
    "no such option": (
        [f"{FILE}:right", "--protocol", "bare", "--set", "sigmsa=1"],
        "'sigmsa' is no option of right; did you mean sigmas",
    ),
    "options of a library": (["toy", "--set", "a=1"], "those of one member: toy:NAME"),
    "no pair": (["toy", "--set", "a"], "'a' must be KEY=VALUE"),
    "twice": (["toy", "--set", "a=1", "--set", "a=2"], "a is given twice"),
    "no match": (["toy", "--only", "zzz"], "no subject matches --only 'zzz', nor a question: .*coefficients"),
    "no pattern": (["toy", "--only", "("], "must be a regular expression"),
    "jobs": (["toy", "--jobs", "0"], "--jobs"),
    "json in no folder": (["toy", "--json", "no/where.json"], "a folder that does not exist"),
    "one file for two": (["toy", "--json", "x", "--html", "x"], "must be different files"),
    "no baseline": (["toy", "--baseline", "gone.json"], "gone.json is not there; --update-baseline writes it"),
    "bad baseline": (["toy", "--baseline", "bad.json"], "must be a file that --update-baseline wrote"),
    "update nothing": (["toy", "--update-baseline"], "needs to know the file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_command_not_understood_ends_with_2_before_anything_runs(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audit, "result", None)
    (tmp_path / "bad.json").write_text("[1]")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    arguments, message = BAD[case]
    result = refdiff(*arguments)
    assert result.exit_code == 2, result.output
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert result.stdout == ""
    assert {*os.listdir()} - {"__pycache__"} == {"bad.json", "broken.py"}  # what Python compiled may stay


def test_json_holds_every_finding_by_a_stable_key(tmp_path):
    assert refdiff("toy", "--quick", "--json", tmp_path / "a").exit_code == 1
    assert refdiff("toy", "--quick", "--json", tmp_path / "b").exit_code == 1
    first, second = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert first["coverage"] == {"members": 2, "subjects": 4, "samplers": first["coverage"]["samplers"],
                                 "findings": sum(first["counts"].values())}  # fmt: skip
    assert first["passed"] is False
    assert first["new"] == first["counts"]["wrong"] == 2
    keys = [[one["key"] for one in subject["findings"]] for subject in first["subjects"]]
    assert keys == [[one["key"] for one in subject["findings"]] for subject in second["subjects"]]
    assert "halved(again) | coefficients | 5 steps" in keys[3]


def test_an_interrupt_keeps_what_was_found(monkeypatch, tmp_path):
    true_result = audit.result

    def result(unit, *rest):
        if unit.name == "halved()":
            raise KeyboardInterrupt
        return true_result(unit, *rest)

    monkeypatch.setattr(audit, "result", result)
    answer = refdiff("toy", "--quick", "--jobs", 1, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert answer.exit_code == 130
    assert "INTERRUPTED after 2 of 4" in answer.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["interrupted"] is True
    assert [one["name"] for one in found["subjects"]] == ["right()", "right(again)"]
    assert "INTERRUPTED after 2 of 4" in (tmp_path / "a.html").read_text()


def test_an_interrupt_while_a_library_is_imported_is_130_too(monkeypatch, tmp_path):
    def units(found):  # noqa: ARG001
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "units", units)
    result = refdiff("toy", "--json", tmp_path / "a.json")
    assert result.exit_code == 130
    assert "Interrupted before anything was examined" in result.stderr


def test_a_baseline_makes_known_findings_pass_and_only_new_ones_fail(tmp_path):
    known = tmp_path / "known.json"
    assert refdiff("toy", "--quick", "--only", "halved..$", "--baseline", known, "--update-baseline").exit_code == 0
    same = refdiff("toy", "--quick", "--only", "halved..$", "--baseline", known)
    assert same.exit_code == 0, same.output
    assert "  known       coefficients" in same.output
    assert "1 finding is wrong, of which 1 is known" in same.output
    more = refdiff("toy", "--quick", "--baseline", known)
    assert more.exit_code == 1
    assert "2 findings are wrong, of which 1 is known" in more.output


def test_a_baseline_of_one_file_knows_nothing_of_another_or_of_another_claim(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(
            f"import sys\nsys.path.append({HERE!r})\nfrom audited import halved as f\n"
        )
    alone = ("--protocol", "bare", "--quick", "--baseline", "known.json")
    assert refdiff("a.py:f", *alone, "--update-baseline").exit_code == 0
    assert refdiff("a.py:f", *alone).exit_code == 0
    assert refdiff("./a.py:f", *alone).exit_code == 0
    assert refdiff("b.py:f", *alone).exit_code == 1
    assert refdiff("a.py:f", *alone, "--family", "edm-euler").exit_code == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_sigterm_keeps_what_was_found_as_ctrl_c_does(monkeypatch, tmp_path):
    true_result = audit.result

    def result(unit, *rest):
        if unit.name == "halved()":
            signal.raise_signal(signal.SIGTERM)
        return true_result(unit, *rest)

    monkeypatch.setattr(audit, "result", result)
    before = signal.getsignal(signal.SIGTERM)
    answer = refdiff("toy", "--quick", "--jobs", 1, "--json", tmp_path / "a.json")
    assert answer.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert [one["name"] for one in json.loads((tmp_path / "a.json").read_text())["subjects"]] == [
        "right()",
        "right(again)",
    ]


def test_a_file_that_cannot_be_written_is_said_and_the_other_is_written(monkeypatch, tmp_path):
    def broken(run):  # noqa: ARG001
        raise ValueError("no template")

    monkeypatch.setattr("refdiff.validation.audits.page.page", broken)
    result = refdiff("toy:right", "--quick", "--html", tmp_path / "a.html", "--json", tmp_path / "a.json")
    assert result.exit_code == 1
    assert "a.html was not written: ValueError('no template')" in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.json"]
