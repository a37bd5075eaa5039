"""`refdiff bench` as its users meet it."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from refdiff.cli import main
from refdiff.validation.benchmarks import suite
from refdiff.validation.benchmarks.contenders import CONTENDERS
from refdiff.validation.benchmarks.limits import Machine
from refdiff.validation.benchmarks.workloads import WORKLOADS

TINY = ("bench", "--level", "tiny", "--rounds", "1")


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """Nothing is timed here, so nothing has to come to rest."""
    monkeypatch.setattr("refdiff.validation.benchmarks.measuring.REST", 0.0)


def refdiff(*arguments):
    """What the command gives back."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def outcome():
    """What a run finds, for what the command does with it."""
    (one,) = [one for one in WORKLOADS if one.name == "log_density"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refdiff.validation.benchmarks.measuring.REST", 0.0)
        return suite.measure(one, suite.Plan("tiny", False, 2, 1, 25.0), Machine(2, 0.05))


def test_the_list_names_workloads_contenders_and_goals_and_runs_nothing(monkeypatch):
    monkeypatch.setattr(suite, "measure", None)
    result = refdiff("bench", "--list")
    assert result.exit_code == 0
    assert all(f"\n{one.name}: " in "\n" + result.output for one in WORKLOADS)
    assert all(one.name in result.output for one in CONTENDERS)
    assert "goal  4x against JAX" in result.output
    assert "n = 100,000, K = 32, d = 2, steps = 40" in result.output


def test_a_run_prints_and_writes_what_it_found(tmp_path, monkeypatch, outcome):
    monkeypatch.setattr(suite, "measure", lambda *_, **__: outcome)
    result = refdiff(*TINY, "--only", "LOG_dens", "--json", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    for words in (
        "log_density: ",
        "refdiff",
        "NumPy",
        "SciPy",
        "limits: dgemm",
        "refdiff's cost grows as n^",
        "--peers",
    ):
        assert words in result.output
    for definition in ("useful flops: 4 n K d", "useful exponentials: n K"):
        assert definition in result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["workloads"]] == ["log_density"]
    assert [one["name"] for one in found["workloads"][0]["contenders"]] == ["refdiff", "NumPy", "SciPy"]
    assert found["passed"] is True


def test_quick_is_a_level(monkeypatch):
    plans = []

    def measure(workload, plan, machine, place):  # noqa: ARG001
        plans.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "measure", measure)
    assert refdiff("bench", "--quick", "--threads", 1, "--rounds", 3, "--budget", 5).exit_code == 130
    assert refdiff("bench", "--peers").exit_code == 130
    assert plans == [suite.Plan("quick", False, 1, 3, 5.0), suite.Plan("full", True, 2)]


def test_an_interrupt_keeps_what_was_found(monkeypatch, tmp_path, outcome):
    def measure(workload, plan, machine, place):  # noqa: ARG001
        if workload.name != "pf_ode_small":
            raise KeyboardInterrupt
        return replace(outcome, workload=workload)

    monkeypatch.setattr(suite, "measure", measure)
    result = refdiff(*TINY, "--only", "pf_ode", "--json", tmp_path / "found.json")
    assert result.exit_code == 130
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["interrupted"] is True
    assert found["passed"] is False
    assert [one["name"] for one in found["workloads"]] == ["pf_ode_small"]


def test_a_wrong_answer_is_exit_status_1(monkeypatch):
    from refdiff.validation.benchmarks import own

    def candidates(problem, threads, true=own.candidates):
        (one,) = true(problem, threads)
        return [one._replace(run=lambda n: one.run(n) * (1 + 1e-8))]

    monkeypatch.setattr(own, "candidates", candidates)
    result = refdiff(*TINY, "--only", "log_density")
    assert result.exit_code == 1
    assert "WRONG" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "nothing"), "no workload matches"),
        (("--only", "("), "must be a regular expression"),
        (("--json", "/nowhere/found.json"), "a folder that does not exist"),
        (("--threads", 0), "--threads"),
    ],
)
def test_options_are_checked_before_work(monkeypatch, arguments, message):
    monkeypatch.setattr(suite, "measure", None)
    result = refdiff("bench", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_file_that_cannot_be_written_is_an_error_after_the_results(monkeypatch, tmp_path, outcome):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(suite, "measure", lambda *_, **__: outcome)
    monkeypatch.setattr("refdiff.files.write_text", full)
    result = refdiff(*TINY, "--only", "log_density", "--json", tmp_path / "found.json")
    assert result.exit_code == 1
    assert "log_density: " in result.output
    assert "was not written" in result.output


def test_the_processors_are_given_back():
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not bind processes to processors")
    before = os.sched_getaffinity(0)
    refdiff("bench", "--threads", 1, "--list")
    assert os.sched_getaffinity(0) == before


def test_a_process_of_its_own_is_confined_before_libraries_load():
    code = (
        "import os, sys; from click.testing import CliRunner; from refdiff.cli import main\n"
        "assert 'numpy' not in sys.modules\n"
        "CliRunner().invoke(main, ['bench', '--list', '--threads', '1'])\n"
        "print(os.environ['OPENBLAS_NUM_THREADS'], [m for m in ('torch', 'jax', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["1", "[]\n"]
