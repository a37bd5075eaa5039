"""Findings about coefficients and told levels: right and wrong ones, known choices, rounded times."""

from dataclasses import replace

import numpy as np
import pytest
from audit_tables import VE, VP, of_family, subject, with_weight

from refdiff.samplers.ddim import ddim
from refdiff.validation.audits.checks.coefficients import coefficients, told_level
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.subject import Claim, Sampler, Subject, Variant
from refdiff.validation.audits.told import Told


def only(findings):
    (found,) = findings
    return found


def changed(table):
    return with_weight(table, "outputs", 3, 0, lambda w: 0.5 * w)


def test_a_right_sampler_is_ok_at_every_number_of_steps():
    found = list(coefficients(subject("ddim"), False))
    assert [f.verdict for f in found] == [Verdict.OK] * 6
    assert all(f.number <= f.bound < 1e-13 for f in found)


def test_a_wrong_weight_is_named_with_the_number_of_steps():
    found = only(coefficients(subject("ddim", mutate=changed), True))
    assert found.verdict is Verdict.WRONG
    assert found.place == "5 steps"
    assert "5 steps: 1 of 6 stages is off; step 3" in found.text
    assert "half of it" in found.text


def as_variant(verdict, mutate):
    sampler = of_family("ddim", steps=5, mutate=mutate)
    claim = replace(sampler.claim, variants=(
        Variant("is DDPM", lambda grid: ddim(VP, grid, eta=1.0), verdict),
        Variant("halves its third step", lambda grid: changed(ddim(VP, grid)), verdict),
    ))  # fmt: skip
    return Subject("variant", lambda _: replace(sampler, claim=claim), steps=(5,))


def test_a_known_choice_is_a_convention_and_a_known_slip_is_wrong():
    for verdict in (Verdict.CONVENTION, Verdict.WRONG):
        found = only(coefficients(as_variant(verdict, changed), True))
        assert found.verdict is verdict
        assert "it halves its third step" in found.text
    other = as_variant(Verdict.CONVENTION, lambda t: with_weight(t, "outputs", 2, 0, lambda w: 0.5 * w))
    assert only(coefficients(other, True)).verdict is Verdict.WRONG


def test_what_the_foreign_code_raises_is_a_finding():
    def broken(steps):  # noqa: ARG001
        raise ZeroDivisionError("division by zero")

    found = only(coefficients(Subject("broken", broken), True))
    assert found.verdict is Verdict.WRONG
    assert "ZeroDivisionError: division by zero" in found.text

    def stops(model, x, normal):  # noqa: ARG001
        raise IndexError("index 5 is out of bounds")

    sampler = replace(of_family("ddim", steps=5), play=stops)
    assert "IndexError: index 5" in only(coefficients(Subject("stops", lambda _: sampler), True)).text
    assert only(told_level(Subject("stops", lambda _: sampler), True)).verdict is Verdict.NOT_APPLICABLE


def test_a_sampler_without_claim_or_table_is_not_applicable():
    sampler = of_family("ddim", steps=5)
    clipped = replace(sampler, play=lambda model, x, normal: np.clip(sampler.play(model, x, normal), -1, 1))
    for one in (replace(sampler, claim=None), clipped):
        assert only(coefficients(Subject("none", lambda _, one=one: one), True)).verdict is Verdict.NOT_APPLICABLE


def test_a_claim_that_breaks_blames_nobody_and_a_grid_that_the_method_refuses_is_the_samplers():
    sampler = of_family("ddim", steps=5)

    def claiming(build):
        return Subject("claiming", lambda _: replace(sampler, claim=replace(sampler.claim, build=build)))

    broken = only(coefficients(claiming(lambda grid: {}[len(grid)]), True))
    assert broken.verdict is Verdict.NOT_APPLICABLE
    assert "refdiff's claim breaks, which says nothing: KeyError: 6" in broken.text
    refused = only(coefficients(claiming(lambda grid: ddim(VP, grid[::-1])), True))
    assert refused.verdict is Verdict.WRONG
    assert "ValueError: times must" in refused.text


def test_the_source_and_the_conventions_of_a_claim_are_told():
    sampler = of_family("ddim", steps=5)
    claim = replace(sampler.claim, source="a paper", conventions=("it ends early",))
    found = only(coefficients(Subject("ddim", lambda _: replace(sampler, claim=claim)), True))
    assert (found.details["source"], found.details["conventions"]) == ("a paper", ["it ends early"])


# ---------------------------------------------------------------------- what a network is told


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("process", [VP, VE], ids=["VP", "VE"])
@pytest.mark.parametrize("name", ["ddim", "edm-heun-churn", "fm-rk4"])
def test_right_levels_are_ok(name, process, dtype):
    assert {f.verdict for f in told_level(subject(name, process, dtype=dtype), True)} == {Verdict.OK}


def telling(change, name="ddim", steps=5):
    """A sampler whose network is told other times: change(times so far, this one)."""
    sampler = of_family(name, steps=steps)

    def play(model, x, normal):
        times = []

        def other(y, t):
            times.append(t)
            return model(y, change(times, t))

        return sampler.play(other, x, normal)

    return Subject("told", lambda _: replace(sampler, play=play), steps=(steps,))


def test_the_time_of_the_step_before_is_named():
    found = only(told_level(telling(lambda times, t: times[max(len(times) - 2, 0)]), True))
    assert found.verdict is Verdict.WRONG
    assert "evaluation 2 (in step 2)" in found.text
    assert "that of the previous evaluation" in found.text


def test_a_time_that_is_off_by_little_is_wrong_and_one_off_by_a_rounding_is_not():
    assert only(told_level(telling(lambda _, t: t * (1 + 1e-9)), True)).verdict is Verdict.WRONG
    assert only(told_level(telling(lambda _, t: t * (1 + 2.2e-16)), True)).verdict is Verdict.OK


def on_integers(offset=0, noisy=0.0, whole=int, **more):
    """DDIM on levels of a table of 1000 betas between which `noisy` lies, told whole numbers of times."""
    indices = np.array([900.0, 700.0, 450.0, 200.0, 60.0])
    exact = np.append(indices + noisy, 0.0)
    grid = np.interp(exact, np.arange(1001), np.log(_levels()))
    rho = np.append(np.exp(grid[:-1]), 0.0)
    from refdiff.validation.audits.levels import PRESERVING

    claim = Claim(lambda levels: ddim(PRESERVING, levels), rho, PRESERVING, "noise")
    base = of_family("ddim", PRESERVING, grid=rho, prediction="noise")

    def play(model, x, normal):
        times = iter(indices + offset)
        return base.play(lambda y, _: model(y, whole(next(times))), x, normal)

    def told(t):
        return float(np.exp(np.interp(float(t), np.arange(1001), np.log(_levels()))))

    sampler = Sampler("integers", play, np.dtype(np.float64), claim, told, PRESERVING, **more)
    return Subject("integers", lambda _: sampler, steps=(5,))


def _levels():
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1001))
    return np.sqrt((1 - alpha_bar) / alpha_bar)


def test_times_rounded_to_whole_numbers_are_a_convention_and_off_by_one_is_not():
    assert only(told_level(on_integers(), True)).verdict is Verdict.OK
    rounded = only(told_level(on_integers(noisy=0.4), True))
    assert rounded.verdict is Verdict.CONVENTION
    assert "rounded by design" in rounded.text
    assert only(told_level(on_integers(offset=1), True)).verdict is Verdict.WRONG
    assert only(told_level(on_integers(offset=-1), True)).verdict is Verdict.WRONG
    # floats that are rounded by design have to say so
    assert only(told_level(on_integers(noisy=0.4, whole=float), True)).verdict is Verdict.WRONG
    assert only(told_level(on_integers(noisy=0.4, whole=float, told_within=0.5), True)).verdict is Verdict.CONVENTION


def test_pure_noise_is_pure_noise_even_if_alpha_is_a_rounding_below_zero():
    levels = [np.array(part) for part in ([np.inf, 0.0], [np.nan, 0.0], [1e-6] * 2, [0.0] * 2)]
    assert Told(*levels).verdict is Verdict.OK
    assert Told(levels[0], np.array([5.0, 0.0]), *levels[2:]).verdict is Verdict.WRONG


def test_without_a_meaning_of_times_nothing_is_said():
    sampler = replace(of_family("ddim", steps=5), told=None)
    assert only(told_level(Subject("mute", lambda _: sampler), True)).verdict is Verdict.NOT_APPLICABLE


def test_pure_noise_told_for_a_clean_state_is_rejected():
    one, nothing = np.array([1e-6]), np.zeros(1)
    clean, pure = np.array([-np.inf]), np.array([np.inf])
    assert Told(pure, clean, one, nothing).verdict is Verdict.WRONG
    assert Told(clean, clean, one, nothing).verdict is Verdict.OK
    assert Told(pure, pure, one, nothing).verdict is Verdict.OK


@pytest.mark.parametrize("wrong", [lambda t: -t, lambda t: t * np.inf])
def test_times_that_are_none_of_the_process_are_wrong(wrong):
    right = subject("edm-euler", VE)

    def build(steps):
        sampler = right.build(steps)

        def play(model, x, normal):
            return sampler.play(lambda y, t: model(y, wrong(t)), x, normal)

        return replace(sampler, play=play)

    (found,) = told_level(replace(right, build=build), True)
    assert found.verdict is Verdict.WRONG
    assert "t must" in found.text
