r"""Processes and pytest for mutation testing: forked children, collected tests that run in them, changed modules.

`mutants.py` is the command. Hypothesis stops at its first failing example, and nothing is formatted: all that is
asked of a test here is whether it fails.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

MEMORY = 8 * 2**30  # of one child


@dataclass
class Changed:
    """Finds the changed module before anyone else does, and makes it from its syntax tree."""

    name: str
    path: str
    code: CodeType

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """The module's own specification, None for all others."""
        return spec_from_file_location(self.name, self.path, loader=self) if fullname == self.name else None

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Runs the changed code."""
        exec(self.code, module.__dict__)


@dataclass
class Listener:
    """The plugin of a run: chooses and orders tests, does not shrink examples, records who fails and what it costs."""

    chosen: list[str] | None = None  # None: all
    instead: Callable[[list[Any]], object] | None = None  # called with the collected tests, which then do not run
    watch: Any = None  # coverage whose context changes with the test
    failed: str = ""
    seconds: Counter[str] = field(default_factory=Counter)

    def pytest_collection(self) -> None:
        """After conftest.py has chosen its profile, before a test module is imported."""
        from hypothesis import Phase, settings

        settings.register_profile("mutants", settings(), phases=(Phase.explicit, Phase.generate))
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """The chosen tests in their order."""
        if self.chosen is not None:
            items[:] = ordered(items, self.chosen)

    def pytest_runtestloop(self, session: Any) -> object:
        """Something else than running the tests, where that is asked for."""
        return self.instead and (self.instead(session.items), True)[1]

    def pytest_fixture_setup(self, fixturedef: Any) -> None:
        """From here on lines belong to all who use the fixture."""
        if self.watch:
            self.watch.switch_context(f"fixture {fixturedef.argname}")

    def pytest_runtest_call(self, item: Any) -> None:
        """From here on lines belong to this test."""
        if self.watch:
            self.watch.switch_context(item.nodeid)

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """How long each test takes; a test of a mutant that fails ends its child, before anything is formatted."""
        self.seconds[item.nodeid] += call.duration
        if call.excinfo and type(call.excinfo.value).__name__ != "Skipped":
            self.failed = self.failed or item.nodeid
            if not self.watch:
                fail(item.nodeid)


def ordered(items: list[Any], chosen: list[str]) -> list[Any]:
    """The chosen ones of these tests, in the order of the choice."""
    known = {item.nodeid: item for item in items}
    return [known[name] for name in chosen if name in known]


def run(files: list[str], listener: Listener) -> int:
    """Runs or collects tests in this process, in the copy; pytest's exit status."""
    import pytest

    told = ["-q", "-x", "--rootdir=.", "-c", "pyproject.toml", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*told, *files], plugins=[listener]))


def fail(name: str) -> NoReturn:
    """Ends the child of a mutant with a note of the test that failed."""
    Path(f"noticed-{os.getpid()}").write_text(name)
    os._exit(1)


def guarded(name: str, test: Callable[..., object]) -> Callable[..., object]:
    """A test of hypothesis whose first failing example is enough."""

    @wraps(test)
    def call(*args: object, **kwargs: object) -> object:
        from hypothesis.errors import HypothesisException

        try:
            return test(*args, **kwargs)
        except Exception as error:
            if isinstance(error, HypothesisException):
                raise
            fail(name)

    return call


def ask(items: list[Any]) -> int:
    """Runs collected tests."""
    for item, after in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
    return 0


def child(work: Callable[[], int], limit: float) -> int:
    """The id of a forked process that does this work in silence and is stopped after `limit` seconds."""
    if pid := os.fork():
        return pid
    status = 99
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        said = os.open(f"said-{os.getpid()}", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def awaited(pid: int) -> None:
    """Waits for a child; ends with what it said where it did not succeed."""
    if os.waitpid(pid, 0)[1]:
        sys.exit(Path(f"said-{pid}").read_text())
