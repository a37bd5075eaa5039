"""Every bug that is sown in a kernel is found by the test that it names, on the emulator."""

import importlib
import inspect
from functools import cache

import numpy as np
import pytest
from cuda_mutations import BUGS
from cuda_registers import FOLDER
from emulator.building import COMPILER, CompileError
from emulator.cupy import standing_in

from refdiff.kernels.cuda import device, sinkhorn

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no emulator: neither g++ nor clang++ is installed")
SOURCE = device.source
PARTICLES = np.array([0, 1, 2**32 - 1, 2**32, 2**64 - 1, *range(10**6, 10**6 + 30)], dtype=np.uint64)


def run(bug, source):
    """The test of a bug, with sources read by `source`."""
    module, function = bug.test.split(".")
    test = getattr(importlib.import_module(f"test_kernels_cuda_{module}"), f"test_{function}")
    with standing_in() as cupy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_modules", {})
        patch.setattr(device, "source", source)
        if module == "sinkhorn":  # as its tests have it
            patch.setattr(sinkhorn, "PARTS", 2)
            patch.setattr(device, "WAVES", 1)
        fixtures = {"cupy": cupy, "monkeypatch": patch, "particles": PARTICLES}
        wanted = inspect.signature(test).parameters
        test(**{name: value for name, value in fixtures.items() if name in wanted}, **bug.given)


@cache
def passes(place):
    """Whether the test of a bug passes without it, found out once for all that share it."""
    run(BUGS[place], SOURCE)
    return True


def first_alike(bug):
    return next(i for i, one in enumerate(BUGS) if (one.test, one.given) == (bug.test, bug.given))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.file}: {bug.name}")
def test_a_bug_is_found(bug):
    assert (FOLDER / bug.file).read_text(encoding="utf-8").count(bug.was) == 1
    sown = []

    def source(name):
        text = SOURCE(name)
        if bug.was in text:
            sown.append(name)
        return text.replace(bug.was, bug.wrong)

    assert passes(first_alike(bug))
    with pytest.raises((AssertionError, RuntimeError, ValueError)) as found:  # of tests, emulator and host
        run(bug, source)
    assert not isinstance(found.value, CompileError)
    assert sown


def test_every_source_has_bugs_that_are_found():
    for path in sorted(FOLDER.glob("*.cu*")):
        if path.name != "common.cuh":
            assert any(bug.file == path.name for bug in BUGS), path.name
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 15
