"""The command line, as its users meet it: exit status, messages, files, and what happens when it is stopped."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from refdiff import __version__
from refdiff.cli import main
from refdiff.validation.identity import REGISTRY, Sides
from refdiff.validation.runner import registry

ONE = ["validate", "--quick", "--only", "^Tweedie, first order$"]


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """One job is done in this process, where tests may add identities."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def refdiff(*arguments):
    """What the command gives back."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def register(monkeypatch):
    """Add identities called `test: ...` for one test."""

    def add(name, check, **changes):
        one = registry()["Tweedie, first order"]
        changed = {"name": f"test: {name}", "check": check, "topic": "tests", "over": "once", **changes}
        monkeypatch.setitem(REGISTRY, f"test: {name}", replace(one, **changed))

    return add


def shifted(by, control=1.0):
    """A check whose sides are `by` apart, and `control` apart in its negative control."""
    return lambda case, wrong: Sides(1.0, 1.0 + (control if wrong else by))


def interrupt(*_):
    raise KeyboardInterrupt


# ---------------------------------------------------------------------- exit status


def test_an_identity_that_holds_ends_with_0_and_a_verdict():
    result = refdiff(*ONE)
    assert result.exit_code == 0
    assert re.search(r"Tweedie, first order +rounding +\S+ +1e-12 +\S+ +\d+ +\S+ ok", result.stdout)
    assert result.stdout.splitlines()[-1].startswith("1 identity holds on")
    assert result.stderr == ""  # no progress bar where nobody watches


BAD_CHECKS = {
    "too far apart": (shifted(1e-9), "FAILED", "1e3 tolerances apart, in draw 0"),
    "control not rejected": (shifted(0.0, 1e-11), "BLIND", "the negative control missed by 10 tolerances only"),
    "not a number": (shifted(np.nan), "FAILED", "a value that is not a finite number, in draw 0"),
    "broken": (lambda case, wrong: case.nothing, "FAILED", "the check broke: AttributeError"),
}


@pytest.mark.parametrize("name", BAD_CHECKS)
def test_an_identity_that_does_not_hold_ends_with_1_and_says_why(register, tmp_path, name):
    check, verdict, reason = BAD_CHECKS[name]
    register(name, check)
    result = refdiff("validate", "--quick", "--only", f"^Tweedie, first order$|^test: {name}", "--json", tmp_path / "a")
    assert result.exit_code == 1
    assert f"{verdict} test: {name}: {reason}" in result.stdout
    assert f"1 of 2 identities fails: 'test: {name}'" in result.stdout
    found = json.loads((tmp_path / "a").read_text())
    assert not found["passed"]
    assert found["counts"] == {"ok": 1, verdict: 1}


USAGE = {
    "no such option": (["--nothing"], "No such option"),
    "no match": (["--only", "no such thing"], "no identity matches --only 'no such thing'"),
    "no match in a source": (["--only", "Tweedie", "--source", "PHY"], "no identity matches .* and --source PHY"),
    "not a pattern": (["--only", "(a"], r"'--only': '\(a' must be a regular expression"),
    "no such source": (["--source", "bible"], "'--source': 'bible' must be one of ddim-redux, mathintro, .*RDX, DMI"),
    "empty source": (["--source", ""], "'--source': '' must be one of"),
    "both levels": (["--quick", "--thorough"], "--quick and --thorough exclude each other"),
    "seed": (["--seed", "-1"], "'--seed': -1 is not in the range x>=0"),
    "seed in words": (["--seed", "x"], "'--seed': 'x' is not a valid int"),
    "jobs": (["--jobs", "0"], "'--jobs': 0 is not in the range"),
    "weights alone": (["--weights", "w.npy"], "--weights says something about the points in --data"),
    "bandwidth alone": (["--bandwidth", "1"], "--bandwidth says something about the points in --data"),
    "no data": (["--data", "gone.npy"], "'--data': gone.npy is not there"),
    "bad data": (["--data", "nan.npy"], "'--data': 1 of the 2 points in nan.npy hold .*: row 1"),
    "bad bandwidth": (["--data", "good.npy", "--bandwidth", "-1"], "'--bandwidth': bandwidth must be .* got -1"),
    "no weights": (["--data", "good.npy", "--weights", "w.npy"], "'--weights': w.npy is not there"),
    "few weights": (
        ["--data", "good.npy", "--weights", "three.npy"],
        "'--weights': weights must be one number for each of the 2 points, got 3",
    ),
    "json in no folder": (["--json", "no/where.json"], "'--json': no/where.json is in a folder that does not exist"),
    "html in no folder": (["--html", "no/where.html"], "'--html': no/where.html is in a folder that does not exist"),
    "json is a folder": (["--json", "."], "'--json': File '.' is a directory"),
    "one file for both": (["--json", "x", "--html", "x"], "must be different files"),
    "data overwritten": (["--data", "good.npy", "--json", "good.npy"], "must be different files"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_command_not_understood_ends_with_2_before_anything_runs(tmp_path, monkeypatch, register, case):
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", np.eye(2))
    np.save("three.npy", np.ones(3))
    np.save("nan.npy", np.array([[0.0], [np.nan]]))
    register("never run", interrupt)
    arguments, message = USAGE[case]
    result = refdiff("validate", *arguments)
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.stderr.split()))
    assert result.stdout == ""
    assert sorted(os.listdir()) == ["good.npy", "nan.npy", "three.npy"]


# ---------------------------------------------------------------------- choosing


def listed(*arguments):
    """The lines of --list, without spaces."""
    result = refdiff("validate", "--list", *arguments)
    assert result.exit_code == 0
    return [line.strip() for line in result.stdout.splitlines()]


def test_the_list_has_every_identity_and_its_items_and_runs_nothing(register):
    register("never run", interrupt)
    text = " ".join(" ".join(listed()).split())
    for one in registry().values():
        assert " ".join(one.name.split()) in text
        assert all(item in text for item in one.covers + one.refutes)


def test_only_searches_names_topics_and_ids_without_case():
    assert "Tweedie, first order" in listed("--only", "tWEEdie, FIRST")
    assert "Tweedie, first order" in listed("--only", "stein and SCORE")
    assert "Tweedie, first order" in listed("--only", "poda-318")


@pytest.mark.parametrize(
    ("source", "prefix"), [("topics", "TOP"), ("TOPA", "TOPA"), ("poda", "PODA"), ("Physics", "PHY")]
)
def test_source_chooses_by_the_text_an_item_is_from(source, prefix):
    lines = listed("--source", source)
    for one in registry().values():
        expected = any(item.startswith(prefix) for item in one.covers + one.refutes)
        assert (one.name in lines) == expected or len(one.name) > 100


# ---------------------------------------------------------------------- results


def results(path):
    """The identities of a JSON report without their times."""
    return [{**one, "seconds": 0} for one in json.loads(path.read_text())["identities"]]


def test_the_seed_decides_and_jobs_do_not(tmp_path):
    some = ["validate", "--quick", "--only", "Tweedie, (first|second) order$"]
    for name, more in {"a": [], "b": ["--jobs", 2], "c": ["--seed", 1]}.items():
        assert refdiff(*some, "--json", tmp_path / name, *more).exit_code == 0
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert [one["name"] for one in results(tmp_path / "a")] == ["Tweedie, first order", "Tweedie, second order"]
    assert results(tmp_path / "a") != results(tmp_path / "c")


def test_points_of_ones_own_replace_the_laws(tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((40, 3)))
    result = refdiff(*ONE, "--data", tmp_path / "mine.npy", "--bandwidth", 0.5, "--json", tmp_path / "a.json")
    assert result.exit_code == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["data"] == "mine.npy: 40 points in 3-d, bandwidth 0.5"
    assert found["identities"][0]["worst_case"].startswith("mine.npy, ")


def test_points_to_which_no_identity_applies_are_no_failure(tmp_path, register):
    np.save(tmp_path / "mine.npy", np.eye(3))
    register("for no law", shifted(1.0), over="models", needs=lambda case: False)
    result = refdiff("validate", "--only", "test: for no law", "--data", tmp_path / "mine.npy")
    assert result.exit_code == 0
    assert "n/a" in result.stdout


def test_a_control_that_cannot_differ_on_given_points_is_judged_on_the_built_in_laws(tmp_path, register):
    np.save(tmp_path / "mine.npy", np.eye(3))

    def weighs(case, wrong):
        return Sides(case.law.weights, case.law.weights[::-1] if wrong else case.law.weights)

    register("equal weights", weighs, over="models")
    assert refdiff("validate", "--only", "test: equal", "--data", tmp_path / "mine.npy").exit_code == 0
    register("sees nothing anywhere", shifted(0.0, 0.0), over="models")
    assert refdiff("validate", "--only", "test: sees", "--data", tmp_path / "mine.npy").exit_code == 1


def test_both_reports_are_written_and_no_other_file(tmp_path):
    assert refdiff(*ONE, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json"]
    assert "<math" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_json_is_written_even_if_the_page_cannot_be(tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("no template")

    monkeypatch.setattr("refdiff.validation.page.page", broken)
    result = refdiff(*ONE, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert result.exit_code == 1
    assert "a.html was not written: RuntimeError('no template')" in result.stderr
    assert "1 identity holds" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# ---------------------------------------------------------------------- stopping


def test_an_interrupt_ends_with_130_and_keeps_what_is_there(tmp_path, register):
    register("stops the run", interrupt)
    some = ["validate", "--quick", "--only", "^Tweedie, first order$|^test:"]
    result = refdiff(*some, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert result.exit_code == 130
    assert "INTERRUPTED after 1 of 2" in result.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["interrupted"]
    assert [one["name"] for one in found["identities"]] == ["Tweedie, first order"]
    assert (tmp_path / "a.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_stops_all_processes_at_once(tmp_path, jobs):
    command = [sys.executable, "-m", "refdiff", "validate", "--thorough", "--jobs", jobs, "--json", tmp_path / "a.json"]

    def listen():  # a shell starts its background jobs deaf to SIGINT, and these tests may run in one
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listen
    ) as process:
        try:
            assert "identities, level thorough" in process.stdout.readline()
            os.killpg(process.pid, signal.SIGINT)  # a terminal tells every process of the group
            output, errors = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):  # a run that did not stop must not outlive the test
                os.killpg(process.pid, signal.SIGKILL)
    # a shell calls both 130; where Ctrl-C comes amid exec of a text, as dataclasses do, CPython ends by the signal
    assert process.returncode in (130, -signal.SIGINT)
    assert errors == ""
    assert "INTERRUPTED" in output
    assert json.loads((tmp_path / "a.json").read_text())["interrupted"]


# ---------------------------------------------------------------------- the rest


def test_versions_are_told_in_both_ways():
    done = subprocess.run([sys.executable, "-m", "refdiff", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"refdiff {__version__}"
    assert refdiff("--version").stdout.strip() == f"refdiff {__version__}"


def test_info_tells_versions_and_why_a_backend_is_missing(monkeypatch):
    monkeypatch.setattr("refdiff.cli.gpu.installed", dict)
    monkeypatch.setattr("refdiff.cli.gpu._library", lambda _: None)
    monkeypatch.setattr("refdiff.cli.info._version", lambda *names: "not installed" if "cupy" in names else "1.0")
    text = " ".join(refdiff("info").stdout.split())
    assert f"refdiff {__version__}" in text
    assert f"numpy {np.__version__}" in text
    assert "cupy not installed" in text
    assert "CUDA not available, see GPU" in text
    assert "not used (2) CuPy is not installed: pip install 'refdiff[gpu-cuda12]'" in text
    assert "OMP_NUM_THREADS=1" in text


def test_asking_for_help_or_information_loads_nothing_large():
    code = "import sys; from refdiff.cli import main; main(['info'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for module in ("numba", "matplotlib", "sklearn", "torch", "cupy", "jinja2", "latex2mathml"):
        assert f"'{module}'" not in done.stdout
