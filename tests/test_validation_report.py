"""Reports: nothing is lost or invented between an outcome and the file that tells of it."""

import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported import BLIND, BROKEN, ENDLESS, EVERY_KIND, FAILED, GOOD, IDLE, outcome, run
from rich.console import Console

from refdiff.validation import report, terminal

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
