"""Where the code of what is audited and of the claimed method is: read again, the line defines it."""

import linecache
import sys
from pathlib import Path

import audited
import numpy as np
import pytest

import refdiff
from refdiff.samplers import conversions
from refdiff.samplers.ddim import ddim
from refdiff.samplers.families import families
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.times import karras
from refdiff.schedules import VPLinear
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.sources import Source, method_of, source_of
from refdiff.validation.audits.subject import Claim
from refdiff.validation.audits.targets import Target
from refdiff.validation.audits.targets import audited as audited_thing

ROOT = Path(refdiff.__file__).parents[1]
GRID = np.append(np.geomspace(80.0, 0.02, 4), 0.0)


def written(source):
    """The line that a place says."""
    file, _, line = source.place.rpartition(":")
    return linecache.getline(str(ROOT / file), int(line))


def claim(build):
    return Claim(build, GRID, EXPLODING, "denoiser")


@pytest.mark.parametrize("name", ["ddim", "edm-heun", "unipc-2", "dpmpp-2m", "lms4", "dpmpp-3m-sde", "fm-rk4"])
def test_a_claim_is_the_function_of_its_family_whatever_it_is_wrapped_in(name):
    family = next(one for key, one in families().items() if key.startswith(name))
    found = method_of(claim(lambda grid: (lambda times: family(EXPLODING, times))(grid)))
    assert found.name == f"{family.build.__module__}:{family.build.__qualname__}"
    assert f"def {found.title}(" in written(found)


def test_a_table_that_is_turned_afterwards_is_still_of_its_family():
    plain = method_of(claim(lambda grid: ddim(EXPLODING, grid)))
    turned = method_of(claim(lambda grid: conversions.to_prediction(ddim(EXPLODING, grid), "noise")))
    assert plain == turned
    assert plain.title == "ddim"


def test_a_claim_that_makes_no_table_has_no_method_and_what_watched_is_gone():
    def broken(_):
        raise ValueError("no such grid")

    assert method_of(claim(broken)) is None
    assert sys.getprofile() is None
    assert method_of(claim(lambda grid: ddim(EXPLODING, grid))) is not None
    assert sys.getprofile() is None


@pytest.mark.parametrize("thing", [ddim, karras, VPLinear, Source])
def test_classes_and_functions_are_where_their_line_defines_them(thing):
    found = source_of(thing)
    assert found.title == thing.__qualname__
    assert written(found).startswith((f"def {thing.__name__}(", f"class {thing.__name__}(", "@dataclass"))


def test_a_table_that_no_family_makes_is_of_the_function_that_finishes_it():
    def own(grid):
        rec = Recorder("own", EXPLODING, grid, "denoiser")
        return rec.finish(rec.start)

    found = method_of(claim(lambda grid: own(grid)))
    assert found.title.endswith("finishes_it.own")
    file, _, line = found.place.partition(":")  # of a module in no package: beside it
    assert "def own(grid):" in linecache.getline(str(Path(__file__).parent / file), int(line))


def test_what_has_no_source_has_no_place():
    assert source_of(len) is None
    assert source_of(3) is None
    assert source_of(None) is None


def test_only_modules_of_refdiff_say_what_they_are():
    assert source_of(ddim).text.startswith(sys.modules[ddim.__module__].__doc__.strip().partition("\n")[0])
    assert Source("json:loads", "json/__init__.py:1").text == ""


def test_a_target_that_is_not_there_is_no_thing(monkeypatch):
    audited.install(monkeypatch, audited.toy(audited.right))
    assert audited_thing(Target("toy", "right", "audited")) is audited.right
    assert audited_thing(Target("toy", "missing", "audited")) is None
    assert audited_thing(Target("toy", "missing")) is None
