"""What an audit can do: slips in loops written by hand are named by their step and term, right loops raise no alarm."""

import numpy as np
import pytest
from audit_loops import BY_NAME, LOOPS, SLIPS

from refdiff.validation.audits.checks.coefficients import coefficients, told_level
from refdiff.validation.audits.checks.exactness import exactness
from refdiff.validation.audits.checks.laws import law, random_numbers
from refdiff.validation.audits.checks.orders import trajectory
from refdiff.validation.audits.findings import Verdict, worst

CHECKS = {"coefficients": coefficients, "told level": told_level}


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_a_right_loop_raises_no_alarm(loop):
    subject = loop.subject()
    for check in (coefficients, told_level, exactness, law, random_numbers, trajectory):
        found = list(check(subject, True))
        assert worst(found) in (Verdict.OK, Verdict.NOT_APPLICABLE), found
    assert worst(coefficients(subject, True)) is Verdict.OK
    assert worst(trajectory(subject, True)) is Verdict.OK


def named(slip):
    """Whether the audit says wrong and names the slip's step and term."""
    found = CHECKS[slip.question](BY_NAME[slip.loop].subject(slip.source), True)
    return any(f.verdict is Verdict.WRONG and all(word in f.text for word in slip.said) for f in found)


def test_slips_are_flagged_with_the_right_step_or_term():
    missed = [(slip.loop, slip.old, slip.new) for slip in SLIPS if not named(slip)]
    assert len(SLIPS) >= 60
    assert not missed


@pytest.mark.parametrize("slip", [s for s in SLIPS if s.question == "coefficients"][::6], ids=lambda s: s.new.strip())
def test_runs_with_the_perfect_network_show_the_same_slips(slip):
    assert worst(trajectory(BY_NAME[slip.loop].subject(slip.source), True)) is Verdict.WRONG


def test_slips_differ_from_the_loops_they_are_made_in():
    x = np.array([[0.3], [1.0], [-2.0]])
    for slip in SLIPS:
        loop = BY_NAME[slip.loop]
        ends = []
        for source in (None, slip.source):
            rng = np.random.default_rng(0)
            play = loop.sampler(source).play
            ends.append(play(lambda y, t: np.sin(y + float(t)), x, lambda rng=rng: rng.standard_normal(x.shape)))
        assert np.abs(ends[0] - ends[1]).max() > 1e-6, slip
