"""Hypothesis profiles: `ci` (the default) draws few and always the same examples, `thorough` many and fresh ones.

Chosen by the environment variable HYPOTHESIS_PROFILE; under CI always `ci`.
"""

import gc
import os

import pytest
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
