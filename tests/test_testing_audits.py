"""`testing.audit`: findings, error curves and a page from a call."""

from dataclasses import replace

import numpy as np
import pytest

from refdiff.testing import Audit, audit

SOURCE = """
import warnings

def my_euler(model, x, sigmas):
    for s, t in zip(sigmas[:-1], sigmas[1:]):
        x = x + (t - s) * (x - model(x, s)) / s
    return x


def my_slip(model, x, sigmas):
    for s, t in zip(sigmas[:-1], sigmas[1:]):
        x = x + 0.9 * (t - s) * (x - model(x, s)) / s
    return x


def my_halt(model, x, sigmas):
    warnings.warn("of foreign code")
    raise RuntimeError("halted")
"""
CLAIMED = {"protocol": "plain", "family": "edm-euler", "claim": {"process": "ve-levels"}, "quick": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A file with two samplers, and what was found about each."""
    path = tmp_path_factory.mktemp("samplers") / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def right(place):
    return audit(f"{place}:my_euler", **CLAIMED)


@pytest.fixture(scope="module")
def slipped(place):
    return audit(f"{place}:my_slip", **CLAIMED)


def test_a_right_sampler_has_no_wrong_finding_and_a_slip_is_told(right, slipped):
    assert not right.wrong
    assert str(right).startswith("Nothing is wrong")
    assert slipped.wrong
    assert "0.9" in str(slipped) or "weight" in str(slipped)
    assert {one.verdict.value for one in slipped.wrong} == {"wrong"}


def test_curves_are_those_of_the_method_where_the_sampler_is_and_no_other_where_it_is_not(right, slipped):
    curve = right.curve
    assert [*right.curves] == ["my_euler"]
    assert (np.diff(curve.steps) > 0).all()
    assert (np.diff(curve.errors) < 0).all()
    # two runs of one method, by the sampler's own sums and by its table: some tens of float64 roundings, of errors
    # that are a hundredth of the points or more
    np.testing.assert_allclose(curve.errors, curve.method, rtol=1e-10)
    (wrong,) = slipped.curves.values()
    np.testing.assert_allclose(wrong.method, curve.method, rtol=1e-10)
    assert (abs(wrong.errors - wrong.method) > 0.1 * wrong.method).all()  # a tenth of every step is missing


def test_the_page_of_the_command_line_is_written(right, tmp_path):
    right.save(tmp_path / "page.html")
    assert "my_euler" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_where_there_is_no_curve_or_several_it_is_said_why(place, right, slipped, capfd):
    halted = audit(f"{place}:my_halt", **CLAIMED)
    assert capfd.readouterr().err == ""
    assert halted.curves == {}
    with pytest.raises(ValueError, match="no error curve was measured; my_halt: RuntimeError: halted"):
        halted.curve  # noqa: B018
    both = Audit(replace(right.run, results=(*right.run.results, *slipped.run.results)))
    with pytest.raises(ValueError, match="got 2: choose one of curves, my_euler, my_slip"):
        both.curve  # noqa: B018
    with pytest.raises(ValueError, match="nothing was asked that measures one"):
        Audit(replace(right.run, results=())).curve  # noqa: B018


def test_what_cannot_be_audited_is_said(place):
    with pytest.raises(ValueError, match="protocol must be one of"):
        audit(f"{place}:my_euler", protocol="plane", family="edm-euler")
    with pytest.raises(ValueError, match="nothing"):
        audit(f"{place}:nothing", **CLAIMED)
    with pytest.raises(ValueError, match="is no library that can be audited"):
        audit("difusers")
    with pytest.raises(ValueError, match="jobs must be"):
        audit("diffusers", jobs=0)
    with pytest.raises(ValueError, match="dtype must be one of float64, float32, got 'float16'"):
        audit(f"{place}:my_euler", **CLAIMED, dtype="float16")
    with pytest.raises(TypeError, match="target must be text"):
        audit(np.sum)
    with pytest.raises(TypeError, match=r"options must be a table of names and values, got \['order'\]"):
        audit("diffusers:DDIMScheduler", ["order"])
    with pytest.raises(TypeError, match="claim must be a table of names and values"):
        audit(f"{place}:my_euler", **{**CLAIMED, "claim": "process"})
