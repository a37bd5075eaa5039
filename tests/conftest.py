"""Hypothesis profiles: `ci` (the default) draws few and always the same examples, `thorough` many and fresh ones.

Chosen by the environment variable HYPOTHESIS_PROFILE; under CI always `ci`.
"""

import ctypes
import gc
import importlib.util
import os
import sys
import warnings
from functools import cache

import pytest
from browser import chromium, no_browser, visits  # noqa: F401 # fixtures
from emulator.building import COMPILER
from emulator.cupy import standing_in
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """What commands print has refdiff's own width, whatever the terminal of the tests."""
    monkeypatch.delenv("COLUMNS", raising=False)


def pytest_collection_finish():
    """What has been imported by now stays: no collection of garbage, and benchmarks force many, looks at it again."""
    gc.collect()
    gc.freeze()


# ---------------------------------------------------------------------- tests of what may not be there

LEFT_OUT = pytest.StashKey[dict[str, tuple[int, str]]]()  # by marker: how many tests, and why


@cache
def no_gpu():
    """Why nothing can run on a GPU here, or nothing. CuPy is loaded only where the rest is there."""
    if importlib.util.find_spec("cupy") is None:
        return "no GPU: CuPy is not installed"
    try:
        if sys.platform == "linux":
            ctypes.CDLL("libcuda.so.1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of CuPy, about what it does not find
            import cupy
        cupy.zeros(1)
    except OSError as error:
        return f"no GPU: there is no driver ({error})"
    except Exception as error:  # CuPy's own, which cannot be named where it is not installed
        return f"no GPU: {error}"
    return None


MISSING = {"gpu": no_gpu, "browser": no_browser}  # by marker: why its tests cannot run, or nothing


@pytest.hookimpl(trylast=True)  # what was not asked for is gone by now
def pytest_collection_modifyitems(config, items):
    """Tests are not run where what they are marked with is missing. The summary says so.

    Each test of a GPU has its twin on the emulator; what a page says is tested without a browser too.
    """
    for marker, missing in MISSING.items():
        those = [item for item in items if item.get_closest_marker(marker)]
        if those and (reason := missing()):
            items[:] = [item for item in items if not item.get_closest_marker(marker)]
            config.hook.pytest_deselected(items=those)
            config.stash.setdefault(LEFT_OUT, {})[marker] = len(those), reason


def pytest_sessionfinish(session):
    """Nothing but tests that cannot run here was asked for: that is no failure."""
    if LEFT_OUT in session.config.stash:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]
        elif session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):  # noqa: ARG001 # pytest-xdist calls by name
    """Every worker collects all tests: what one of them left out, all did."""
    if found := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[LEFT_OUT] = found


def pytest_terminal_summary(terminalreporter, config):
    for marker, (count, reason) in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.write_line(f"tests marked {marker} that were not run: {count} ({reason})")


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy on a GPU, and its stand-in on the emulator: kernels and host code pass the same tests on both."""
    if request.param == "gpu":
        import cupy

        yield cupy
    elif COMPILER is None:
        pytest.skip("no emulator: neither g++ nor clang++ is installed")
    else:
        with standing_in() as module:
            yield module
        from cuda_registers import assert_listed

        assert_listed()
