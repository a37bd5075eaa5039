"""What an audit can do: slips in loops written by hand are named by their step and term, right loops raise no alarm."""

from functools import cache

import numpy as np
import pytest
from audit_loops import BY_NAME, LOOPS
from audit_slips import SLIPS

from refdiff.validation.audits.checks.coefficients import coefficients, told_level
from refdiff.validation.audits.checks.exactness import exactness
from refdiff.validation.audits.checks.laws import law, random_numbers
from refdiff.validation.audits.checks.orders import trajectory
from refdiff.validation.audits.findings import Verdict, worst

CHECKS = {"coefficients": coefficients, "told level": told_level}


ALL = (coefficients, told_level, exactness, law, random_numbers, trajectory)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_a_right_loop_raises_no_alarm(loop):
    subject = loop.subject()
    found = {check: list(check(subject, True)) for check in ALL}
    for check, findings in found.items():
        assert worst(findings) in (Verdict.OK, Verdict.NOT_APPLICABLE), findings
        if check in (coefficients, trajectory):
            assert worst(findings) is Verdict.OK


@cache
def audited(slip):
    """The slip as the subject of an audit, which keeps what is read of it."""
    return BY_NAME[slip.loop].subject(slip.source)


def named(slip):
    """Whether the audit says wrong and names the slip's step and term."""
    found = CHECKS[slip.question](audited(slip), True)
    return any(f.verdict is Verdict.WRONG and all(word in f.text for word in slip.said) for f in found)


def test_slips_are_flagged_with_the_right_step_or_term():
    missed = [(slip.loop, slip.old, slip.new) for slip in SLIPS if not named(slip)]
    assert len(SLIPS) >= 60
    assert not missed


@pytest.mark.parametrize("slip", [s for s in SLIPS if s.question == "coefficients"][::6], ids=lambda s: s.new.strip())
def test_runs_with_the_perfect_network_show_the_same_slips(slip):
    assert worst(trajectory(audited(slip), True)) is Verdict.WRONG


def test_slips_differ_from_the_loops_they_are_made_in():
    x = np.array([[0.3], [1.0], [-2.0]])
    for slip in SLIPS:
        ends = []
        for subject in (BY_NAME[slip.loop].subject(), audited(slip)):
            rng = np.random.default_rng(0)
            play = subject.build(6).play
            ends.append(play(lambda y, t: np.sin(y + float(t)), x, lambda rng=rng: rng.standard_normal(x.shape)))
        assert np.abs(ends[0] - ends[1]).max() > 1e-6, slip
