"""`refdiff.testing.assert_sampler`: right samplers pass, wrong ones are refused with the step and the term."""

import audited
import pytest

from refdiff.testing import assert_sampler


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    audited.install(monkeypatch, audited.toy(audited.right, audited.halved))


def test_a_right_sampler_passes():
    assert_sampler(audited.right, protocol="toy", family="edm-euler")
    assert_sampler(
        audited.right, protocol="toy", family="edm-euler", steps=(4, 7), dtype="float32", claim={"s_churn": 0}
    )


def test_a_wrong_one_is_refused_with_the_step_and_what_its_weight_should_be():
    with pytest.raises(
        AssertionError, match=r"halved\(\) is wrong, as edm-euler:\n  coefficients: 4 steps: .*step 2"
    ) as e:
        assert_sampler(audited.halved, protocol="toy", family="edm-euler", steps=[4])
    assert "half of it" in str(e.value)
    assert "3 steps" not in str(e.value)


def test_another_family_is_refused():
    with pytest.raises(AssertionError, match="asks its network 4 times, the method 7 times"):
        assert_sampler(audited.right, protocol="toy", family="edm-heun", steps=[4])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocol": "tpy"}, "protocol must be one such as toy; got 'tpy'"),
        ({"family": "edm-hein"}, "did you mean edm-heun"),
        ({"options": {"etta": 1}}, "'etta' is no option of right"),
        ({"claim": {"s_chrun": 1}}, "'s_chrun' is no option of the family edm-euler; did you mean s_churn"),
    ],
)
def test_what_does_not_exist_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        assert_sampler(audited.right, **{"protocol": "toy", "family": "edm-euler", **given})


def test_what_cannot_be_called_or_examined_does_not_pass(monkeypatch):
    with pytest.raises(ValueError, match=r"levels cannot be called as toy calls it, f\(model, x, sigmas\)"):
        assert_sampler(audited.levels, protocol="toy", family="edm-euler")
    monkeypatch.setattr("refdiff.validation.audits.audit.common", lambda: ())
    with pytest.raises(ValueError, match="nothing about right"):
        assert_sampler(audited.right, protocol="toy", family="edm-euler")
