"""The runner of audits: every subject, every check, nothing that foreign code does ends it, jobs change nothing."""

import importlib.util
import json
import logging
import re
import warnings

import audited
import numpy as np
import pytest

from refdiff.schedules import VEPower
from refdiff.validation.audits import audit
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols.protocol import Request
from refdiff.validation.audits.targets import Target


@pytest.fixture
def toys(monkeypatch):
    audited.install(monkeypatch, audited.toy(audited.right, audited.halved))
    monkeypatch.setattr(audit, "_listed", {})


def toy(*names, **more):
    return [Target("toy", name, **more) for name in names]


def run(chosen, **more):
    return [one for _, one in sorted(audit.results(chosen, **more))]


def test_every_subject_has_a_result_with_what_it_is_and_the_steps_that_ran(toys):  # noqa: ARG001
    found = run(audit.units(toy("right", "halved")))
    assert [one.name for one in found] == ["right()", "right(again)", "halved()", "halved(again)"]
    assert {(one.library, one.version, one.protocol) for one in found} == {("numpy", "1.2", "toy")}
    assert all(set(one.steps) >= {1, 2, 3, 5, 10, 20} for one in found)
    verdicts = [{f.verdict for f in one.findings} for one in found]
    assert verdicts[:2] == [{Verdict.OK}] * 2
    assert all(Verdict.WRONG in one for one in verdicts[2:])


def test_quick_runs_fewer_steps(toys):  # noqa: ARG001
    (one, _) = run(audit.units(toy("right")), quick=True)
    assert one.steps == (5,)


def broken_check(subject, quick):  # noqa: ARG001
    yield Finding(subject.name, "something", Verdict.OK, "fine")
    raise ZeroDivisionError("by the check")


def loud_check(subject, quick):  # noqa: ARG001
    warnings.warn("foreign code warns", stacklevel=1)
    logging.getLogger("foreign").warning("and logs")
    yield Finding(subject.name, "loud", Verdict.OK, "fine", details={"a": np.arange(2), "v": Verdict.OK, "f": run})


def test_a_check_that_breaks_is_a_finding_and_the_others_still_run(toys, monkeypatch, caplog, recwarn):  # noqa: ARG001
    monkeypatch.setattr(audit, "common", lambda: (broken_check, loud_check))
    (one, _) = run(audit.units(toy("right")))
    assert [(f.question, f.verdict) for f in one.findings] == [
        ("something", Verdict.OK),
        ("broken check", Verdict.WRONG),
        ("loud", Verdict.OK),
    ]
    assert one.findings[1].text == "breaks: ZeroDivisionError: by the check"
    assert caplog.text == ""
    assert not recwarn


def test_details_become_plain_values(toys, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(audit, "common", lambda: (loud_check,))
    (one, _) = run(audit.units(toy("right")))
    details = json.loads(json.dumps(one.findings[0].details))
    assert details["a"] == [0, 1]
    assert details["v"] == "ok"
    assert details["f"].startswith("<function run")


def test_a_class_whose_options_cannot_be_listed_is_a_finding(toys, monkeypatch):  # noqa: ARG001
    def subjects(self):  # noqa: ARG001
        raise OSError("no such file")
        yield

    monkeypatch.setattr(Target, "subjects", subjects)
    (one,) = run(audit.units(toy("right")))
    assert one.findings[0].verdict is Verdict.WRONG
    assert one.findings[0].text == "its options cannot be listed: OSError: no such file"


def test_only_the_checks_that_are_asked_for_run(toys, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(audit, "common", lambda: (broken_check, loud_check))
    (one, _) = run(audit.units(toy("right")), questions=re.compile(r"\Aloud"))
    assert [f.question for f in one.findings] == ["loud"]


def test_a_check_is_known_by_its_function_its_file_and_its_question():
    from refdiff.validation.audits.checks.coefficients import coefficients

    assert audit.names(coefficients) == ("coefficients",)
    assert audit.names(broken_check) == ("broken check", "test_audits_audit")


def test_processes_find_what_one_process_finds(tmp_path):
    """The functions are in a file and the protocol is a real one, since workers know nothing of a test's own."""
    (tmp_path / "mine.py").write_text(
        "from refdiff.schedules import VPLinear\n"
        "def good(model, x, times):\n"
        "    c = VPLinear().coefficients(times)\n"
        "    for i in range(len(times) - 1):\n"
        "        d = model(x, times[i])\n"
        "        x = c.alpha[i + 1] * d + c.sigma[i + 1] / c.sigma[i] * (x - c.alpha[i] * d)\n"
        "    return x\n"
        "def bad(model, x, times):\n"
        "    return good(model, x, times) * 1.5\n"
        "good.prediction = bad.prediction = 'denoiser'\n"
    )
    where = str(tmp_path / "mine.py")
    targets = [Target("plain", name, where, "ddim", quick=True) for name in ("good", "bad")]
    questions = re.compile(r"\Acoefficients\Z")
    one, two = (run(audit.units(targets), quick=True, questions=questions, jobs=jobs) for jobs in (1, 2))
    assert [r.findings for r in one] == [r.findings for r in two]
    assert [r.findings[0].verdict for r in one] == [Verdict.OK, Verdict.WRONG]


def test_what_a_request_says_reaches_the_protocol(monkeypatch):
    seen = []
    wrap = lambda found, request: seen.append(request) or audited.wrap(found, Request())  # noqa: E731
    audited.install(monkeypatch, audited.Protocol("toy", "f", wrap))
    target = Target("toy", "right", audited.__file__, "edm-heun", (("a", 1),), (("s_churn", 2),), "float32", True)
    list(target.subjects())
    (request,) = seen
    assert request == Request("edm-heun", {"a": 1}, {"s_churn": 2}, "float32")


def refdiffs_own_error(subject, quick):  # noqa: ARG001
    yield Finding(subject.name, "something", Verdict.OK, "fine")
    VEPower().coefficients(-1.0)  # refused inside refdiff, called by it as well


def test_an_error_of_refdiffs_own_lines_blames_nobody(toys, monkeypatch):  # noqa: ARG001
    own = importlib.util.spec_from_loader("refdiffs_own", loader=None)
    module = importlib.util.module_from_spec(own)
    home = str(audit.OWN[1] / "some_check.py")
    exec(
        compile("def check(subject, quick):\n    yield from ()\n    raise KeyError('ours')", home, "exec"), vars(module)
    )
    (one,) = audit._guarded(module.check, next(iter(toy("right")[0].subjects())), True)
    assert one.verdict is Verdict.NOT_APPLICABLE
    assert "refdiff's check broke" in one.text
    (_, two) = audit._guarded(refdiffs_own_error, next(iter(toy("right")[0].subjects())), True)
    assert two.verdict is Verdict.WRONG  # a line of the tests, which are not refdiff, led to it


def leaving_check(subject, quick):  # noqa: ARG001
    yield Finding(subject.name, "leaving", Verdict.OK, "fine")
    raise SystemExit(0)


def test_foreign_code_that_leaves_ends_nothing(toys, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(audit, "common", lambda: (leaving_check, loud_check))
    (one, two) = run(audit.units(toy("right")))
    for found in (one, two):
        assert [f.verdict for f in found.findings] == [Verdict.OK, Verdict.WRONG, Verdict.OK]
        assert "SystemExit" in found.findings[1].text
