"""`testing.audit`: findings, error curves and a page from a call."""

import numpy as np
import pytest

from refdiff.testing import audit

SOURCE = """
def my_euler(model, x, sigmas):
    for s, t in zip(sigmas[:-1], sigmas[1:]):
        x = x + (t - s) * (x - model(x, s)) / s
    return x


def my_slip(model, x, sigmas):
    for s, t in zip(sigmas[:-1], sigmas[1:]):
        x = x + 0.9 * (t - s) * (x - model(x, s)) / s
    return x
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
    (curve,) = right.curves.values()
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


def test_what_cannot_be_audited_is_said(place):
    with pytest.raises(ValueError, match="protocol must be one of"):
        audit(f"{place}:my_euler", protocol="plane", family="edm-euler")
    with pytest.raises(ValueError, match="nothing"):
        audit(f"{place}:nothing", **CLAIMED)
    with pytest.raises(ValueError, match="is no library that can be audited"):
        audit("difusers")
    with pytest.raises(ValueError, match="jobs must be"):
        audit("diffusers", jobs=0)
