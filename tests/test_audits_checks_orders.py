"""Whole runs with the perfect network: the same ends as the method, the same order, and what happens to wrong ones."""

from dataclasses import replace

import numpy as np
import pytest
from audit_tables import VE, VP, of_family, subject, with_weight

from refdiff import ExactModel, Gaussian
from refdiff.samplers.propagation import propagate
from refdiff.validation.audits.checks import orders
from refdiff.validation.audits.checks.orders import order, trajectory
from refdiff.validation.audits.findings import Verdict, worst
from refdiff.validation.audits.subject import Subject


@pytest.mark.parametrize("name", ["ddim", "edm-heun", "dpmpp-2m", "unipc", "fm-rk4", "ddim-eta1", "dpmpp-sde"])
@pytest.mark.parametrize(
    ("process", "dtype", "coordinate"),
    [(VP, np.float32, "x/alpha"), (VE, np.float64, "x")],
    ids=["VP-float32", "VE-float64"],
)
def test_right_samplers_end_where_their_method_ends(name, process, dtype, coordinate):
    found = list(trajectory(subject(name, process, dtype=dtype, coordinate=coordinate), True))
    assert len(found) == 2
    assert worst(found) is Verdict.OK
    assert all(f.bound < 0.01 for f in found)


def test_the_error_of_a_map_is_that_of_propagation():
    """The Gaussian error of DDIM at the points of the run, by the closed forms of both maps."""
    (gaussian, _) = trajectory(subject("ddim"), True)
    table = of_family("ddim", steps=5).claim.table()
    law = Gaussian([0.7, -0.3], [0.25, 1.5])
    channel = propagate(table, law).channel()
    x = ExactModel(law, VP).sample(6, float(table.times[0]), 7)
    c = table.coefficients
    first, last = (np.sqrt(c.alpha[k] ** 2 * law.covariance + c.sigma[k] ** 2) for k in (0, -1))
    exact = c.alpha[-1] * law.mean() + last / first * (x - c.alpha[0] * law.mean())
    end = x * channel.gain + channel.offset
    size = np.sqrt(np.mean(end**2))
    np.testing.assert_allclose(gaussian.details["error"], np.abs(end - exact).max() / size, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "ddim-eta1"])
def test_a_wrong_weight_ends_elsewhere(name, dtype):
    def changed(table):
        return with_weight(table, "outputs", 3, 0, lambda w: 1.02 * w)

    assert {f.verdict for f in trajectory(subject(name, mutate=changed, dtype=dtype), True)} == {Verdict.WRONG}


def told_otherwise(change, name="dpmpp-2m", **options):
    """The network hears another time than that of its state."""

    def build(steps):
        sampler = of_family(name, steps=steps, **options)
        return replace(
            sampler,
            play=lambda model, x, normal: sampler.play(lambda y, t: model(y, change(t)), x, normal),
        )

    return Subject("told otherwise", build)


def test_a_wrong_level_ends_elsewhere():
    found = list(trajectory(told_otherwise(lambda t: 0.97 * t), True))
    assert {f.verdict for f in found} == {Verdict.WRONG}
    assert "its error against the exact flow" in found[0].text


def test_times_that_are_rounded_by_design_are_taken_as_they_are():
    rounding = told_otherwise(lambda t: round(t * 100) / 100)

    def build(steps):
        return replace(rounding.build(steps), told_within=0.005)

    assert worst(trajectory(Subject("rounding", build), True)) is Verdict.OK
    assert worst(trajectory(rounding, True)) is Verdict.WRONG


def test_a_sampler_whose_times_mean_nothing_gets_its_answers_by_their_order():
    sampler = replace(of_family("edm-heun", steps=5), told=None)
    assert worst(trajectory(Subject("mute", lambda _: sampler, steps=(5,)), True)) is Verdict.OK


# ---------------------------------------------------------------------- orders


def with_grids(name, process=VP, **options):
    one = subject(name, process, **options)
    return replace(one, on_grid=lambda grid: of_family(name, process, grid=grid, **options))


@pytest.mark.parametrize(
    ("name", "expected"), [("ddim", 1), ("dpmpp-2m", 2), ("edm-heun", 2), ("fm-rk4", 4), ("ddim-eta1", 1)]
)
def test_the_order_is_measured_on_grids_that_can_be_given(name, expected, monkeypatch):
    whole = name == "dpmpp-2m"  # the whole sweep for one of them
    if name in ("edm-heun", "fm-rk4"):  # of several evaluations in a step
        monkeypatch.setattr(orders, "SWEEP_QUICK", (4, 8, 16))
    (found,) = order(with_grids(name), not whole)
    assert found.verdict is Verdict.OK
    measured = float(found.text.split("order ")[1].split(",")[0])
    assert abs(measured - expected) < 0.4
    assert f"(order {expected} is meant)" in found.text
    assert found.details["counts"] == (orders.SWEEP if whole else orders.SWEEP_QUICK)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "ddim-eta1"])
def test_right_samplers_have_the_order_of_their_method_on_their_own_grids(name):
    (found,) = order(subject(name), True)
    assert found.verdict is Verdict.OK


def test_an_order_that_is_lost_is_seen():
    def first_order(grid):
        """DPM-Solver++(2M) of order 1 that claims order 2."""
        right, low = of_family("dpmpp-2m", grid=grid), of_family("dpmpp-2m", grid=grid, order=1)
        return replace(low, claim=right.claim)

    one = replace(subject("dpmpp-2m"), on_grid=first_order)
    (found,) = order(one, False)
    assert found.verdict is Verdict.WRONG
    assert found.number > 0.7
    assert "the method's on the same grids with 1.86" in found.text


def test_an_error_that_stagnates_is_said_to():
    def off(table):
        return with_weight(table, "outputs", table.stages - 1, 0, lambda w: w + 0.05)

    one = replace(with_grids("ddim"), on_grid=lambda grid: of_family("ddim", grid=grid, mutate=off))
    (found,) = order(one, True)
    assert found.verdict is Verdict.WRONG
    assert "stagnates at" in found.text


def test_a_fall_that_a_fit_only_foresees_is_none(monkeypatch):
    """Errors of a released scheduler, fitted with 2.2 up to 32 steps and its method with 2.4; they fall with 1.2."""
    method = (0.4543, 0.03596, 0.004453, 0.0007221)
    for errors, verdict in (((0.1056, 0.09799, 0.04361, 0.01844), Verdict.WRONG), (method, Verdict.OK)):
        pairs = iter(zip(errors, method, strict=True))
        measured = lambda found, pairs=pairs: orders.Measured(orders.Errors(*next(pairs)), lambda: 1e-4)  # noqa: E731
        monkeypatch.setattr(orders, "_measured", measured)
        (found,) = order(with_grids("dpmpp-2m"), False)
        assert found.verdict is verdict
        assert ("at the last numbers of steps with 1.17, the method's with 3.01" in found.text) == (errors != method)


def test_an_order_needs_several_numbers_of_steps():
    one = Subject("few", lambda steps: of_family("ddim", steps=steps), steps=(4, 8))
    (found,) = order(one, False)
    assert found.verdict is Verdict.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("name", "value", "said"), [("LEAST", 9.0, "does not fall as a power"), ("ABOVE", 1e300, "above the floor")]
)
def test_errors_that_say_nothing_of_an_order_are_measured_all_the_same(name, value, said, monkeypatch):
    one = with_grids("ddim")
    (judged,) = order(one, True)
    monkeypatch.setattr(orders, name, value)
    (found,) = order(one, True)
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert said in found.text
    assert found.details == {key: value for key, value in judged.details.items() if key != "orders"}
    assert len(found.details["errors"]) == len(found.details["method"]) == len(orders.SWEEP_QUICK)
