"""Hypothesis profiles: `ci` (the default) draws few and always the same examples, `thorough` many and fresh ones.

Chosen by the environment variable HYPOTHESIS_PROFILE; under CI always `ci`.
"""

import gc
import os
import warnings

import pytest
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


def no_gpu():
    """Why nothing can run on a GPU here, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of CuPy, about what it does not find
            import cupy
        cupy.zeros(1)
    except ImportError as error:
        return f"no GPU: CuPy is not installed ({error})"
    except Exception as error:  # CuPy's own, which cannot be named where it is not installed
        return f"no GPU: {error}"
    return None


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy on a GPU, and its stand-in on the emulator: kernels and host code pass the same tests on both."""
    if request.param == "gpu":
        if reason := no_gpu():
            pytest.skip(reason)
        import cupy

        yield cupy
    elif COMPILER is None:
        pytest.skip("no emulator: neither g++ nor clang++ is installed")
    else:
        with standing_in() as module:
            yield module
