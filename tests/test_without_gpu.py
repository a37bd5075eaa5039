"""Where there is no GPU, tests marked gpu are left out, and whoever runs tests is told so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOME = Path(__file__).with_name("test_kernels_cuda_philox.py")
SAID = "tests marked gpu that were not run: "


def run(*asked):
    """Tests of kernels where no GPU can be seen."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", str(SOME), *asked]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    kept = {name: value for name, value in hidden.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept)


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_asking_for_a_gpu_that_is_not_there_says_so_and_is_no_failure(workers):
    done = run("-m", "gpu", *workers)
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert len(re.findall(SAID + r"\d+ \(no GPU: ", done.stdout)) == 1
    assert " passed" not in done.stdout


def test_asking_for_tests_that_do_not_exist_is_a_failure():
    done = run("-m", "gpu", "-k", "no_such_test")
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert SAID not in done.stdout


def test_other_tests_run_beside_those_that_are_left_out():
    done = run("-k", "no_particle")
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert f"{SAID}1 (no GPU: " in done.stdout
    assert "1 passed" in done.stdout
