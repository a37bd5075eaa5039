"""Where there is no browser, tests marked so are left out, and whoever runs tests is told so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOME = Path(__file__).with_name("test_browser.py")
OTHERS = Path(__file__).with_name("test_ulps.py")


def outcome_of(*asked, **variables):
    """A run of tests, with these variables of the environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *map(str, asked)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept | variables)


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_asking_for_a_browser_that_is_not_there_says_so_and_is_no_failure(workers, tmp_path):
    done = outcome_of(SOME, *workers, REFDIFF_CHROMIUM=str(tmp_path / "none"))
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert len(re.findall(r"tests marked browser that were not run: \d+ \(no browser: ", done.stdout)) == 1
    assert " passed" not in done.stdout


def test_without_playwright_other_tests_run(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['playwright'] = None")
    done = outcome_of(SOME, OTHERS, PYTHONPATH=str(tmp_path))
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert "(no browser: playwright is not installed)" in done.stdout
    assert " passed" in done.stdout
