"""Foreign samplers are read step by step: right ones are right, and a wrong weight is named by its step and term."""

from dataclasses import replace

import numpy as np
import pytest
from audit_tables import VE, VP, of_family, plain, with_weight

from refdiff.samplers import NotLinear, families
from refdiff.validation.audits.checks.orders import trajectory
from refdiff.validation.audits.findings import Verdict, worst
from refdiff.validation.audits.steps import Mismatch, compare, perturbed
from refdiff.validation.audits.subject import Subject
from refdiff.validation.audits.terms import Term
from refdiff.validation.audits.words import Words

DOUBLE, SINGLE = np.float64, np.float32


@pytest.mark.slow
@pytest.mark.parametrize(("process", "dtype"), [(VP, DOUBLE), (VE, SINGLE)], ids=["VP-float64", "VE-float32"])
def test_every_family_presented_as_a_foreign_sampler_is_right(process, dtype):
    for name in families():
        comparison = compare(of_family(name, process, dtype=dtype, steps=5))  # the fourth is the first of full order 4
        assert not comparison.wrong, (name, str(comparison.wrong[0]))


@pytest.mark.parametrize("name", ["ddim-eta1", "edm-heun-churn", "dpmpp-2m", "unipc", "sa-solver", "fm-rk4"])
@pytest.mark.parametrize(
    ("process", "dtype", "coordinate"),
    [(VP, SINGLE, "x"), (VP, SINGLE, "x/alpha"), (VE, DOUBLE, "x")],  # alpha is 1 in VE
    ids=["VP-float32-x", "VP-float32-x/alpha", "VE-float64"],
)
@pytest.mark.parametrize("prediction", ["noise", "denoiser", "v_prediction"])
def test_predictions_and_coordinates_do_not_matter(name, process, dtype, prediction, coordinate):
    sampler = of_family(name, process, 4, dtype=dtype, prediction=prediction, coordinate=coordinate)
    assert not compare(sampler).wrong


def wrong(name, mutate, steps=8, **options):
    return compare(of_family(name, steps=steps, mutate=mutate, **options)).wrong


def scaled(part, stage, place, factor):
    return lambda table: with_weight(table, part, stage, place, lambda w: factor * w)


# the family, the weight that is changed, the step and the term that must be named, and what it was multiplied by
CHANGES = [
    ("ddim", "outputs", 4, 0, 0.5, 4, Term("o", 3), "half of it"),
    ("ddim", "outputs", 8, 0, -1.0, 8, Term("o", 7), "minus it"),
    ("ddim", "states", 2, 0, 2.0, 2, Term("y", 1), "twice it"),
    ("ddim-eta1", "noise", 3, 0, 0.5, 3, Term("z", 2), "half of it"),
    ("ddim-eta1", "noise", 1, 0, 0.0, 1, Term("z", 0), "left out"),
    ("dpmpp-2m", "outputs", 5, 1, 2.0, 5, Term("o", 3), "twice it"),
    ("dpmpp-2m", "outputs", 2, 1, 0.0, 2, Term("o", 0), "left out"),
    ("edm-heun", "outputs", 6, 0, 1.25, 3, Term("o", 5), ""),
    ("edm-heun", "outputs", 5, 0, 0.5, 3, Term("o", 4), "half of it"),
    ("fm-rk4", "outputs", 8, 2, 0.5, 2, Term("o", 5), "half of it"),
    ("euler-ancestral", "noise", 6, 0, 1.001, 6, Term("z", 5), ""),
    ("lms4", "outputs", 7, 3, -1.0, 7, Term("o", 3), "minus it"),
    ("unip-3", "outputs", 1, 0, 0.5, 1, Term("o", 0), "half of it"),
]


@pytest.mark.parametrize(("name", "part", "stage", "place", "factor", "step", "term", "said"), CHANGES)
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
def test_one_changed_weight_is_named_and_no_other_step(name, part, stage, place, factor, step, term, said, dtype):
    found = wrong(name, scaled(part, stage, place, factor), dtype=dtype)
    assert [s.stage for s in found] == [stage]
    assert found[0].number == step
    (off, right, weight), *others = found[0].off
    assert not others
    assert off == term
    np.testing.assert_allclose(weight, factor * right, rtol=1e-4, atol=1e-9)
    assert said in str(found[0])
    assert f"step {step}" in str(found[0])


@pytest.mark.parametrize("corrected", [4, 8])
def test_a_wrong_corrector_is_named_though_its_state_is_never_shown(corrected):
    """Stage 4 of UniPC is the corrected state of step 2, which only step 3 shows."""
    found = wrong("unipc-2", scaled("outputs", corrected, 0, 0.5), steps=8)
    assert [s.stage for s in found] == [corrected]
    assert found[0].off[0][0] == Term("o", corrected - 1)
    assert "never shown" in str(found[0])
    assert found[0].number == corrected // 2


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
def test_a_wrong_hidden_state_hides_no_later_step_that_is_less_wrong(dtype):
    """Grids that are off by a rounding start from the hidden state that the sampler has, too."""
    first, second = scaled("outputs", 4, 0, 0.5), scaled("outputs", 6, 0, 1.01)
    found = compare(of_family("unipc-2", steps=8, mutate=lambda table: second(first(table)), dtype=dtype))
    right = compare(of_family("unipc-2", steps=8, dtype=dtype))
    assert [s.stage for s in found.wrong] == [4, 6]
    for one, other in zip(found.steps, right.steps, strict=True):
        assert one.bound < 2 * other.bound, one.stage  # of numbers of nearly the same size


def test_a_wrong_predictor_after_a_hidden_state_is_not_blamed_on_that_state():
    found = wrong("unipc-3", scaled("outputs", 7, 3, 0.5), steps=8)
    assert [s.stage for s in found] == [7]
    assert found[0].off[0][0].kind == "o"


def test_an_index_off_by_one_names_the_output_that_is_used_instead():
    def older(table):
        outputs = table.outputs.copy()
        outputs[5, 2], outputs[5, 1] = outputs[5, 1], 0.0
        return replace(table, outputs=outputs)

    (step,) = wrong("lms3", lambda table: older(table), steps=8)
    assert {term for term, _, _ in step.off} >= {Term("o", 3), Term("o", 2)}
    assert step.number == 5


def test_the_weights_of_another_step_are_recognized():
    def shifted(table):
        states, outputs = table.states.copy(), table.outputs.copy()
        states[4], outputs[4] = states[3], outputs[3]
        return replace(table, states=states, outputs=outputs)

    (step,) = wrong("dpmpp-2m", shifted)
    assert "the weight of step 3" in str(step)


def test_order_lost_at_start_up_is_seen_in_the_second_step():
    def first_order(table):
        other = of_family("dpmpp-2m", steps=8, order=1).claim.table()
        outputs, states = table.outputs.copy(), table.states.copy()
        outputs[2], states[2] = 0, 0
        outputs[2, :1], states[2, :1] = other.outputs[2, :1], other.states[2, :1]
        return replace(table, outputs=outputs, states=states)

    (step,) = wrong("dpmpp-2m", first_order)
    assert step.number == 2
    assert "evaluation 1" in str(step)
    assert "left out" in str(step)


def test_what_is_shown_wrongly_is_told_from_a_state_that_is_wrong():
    right = of_family("ddim", steps=6)

    def shown(model, x, normal):
        calls = iter(range(6))
        return right.play(lambda y, t: model(y * (1.5 if next(calls) == 2 else 1.0), t), x, normal)

    (step,) = compare(replace(right, play=shown)).wrong
    assert step.factor == pytest.approx(1.5)
    assert "evaluation 3" in str(step)
    assert "shown 1.5 times" in str(step)
    # and a start that is scaled, as by a forgotten initial noise scale, is the start's
    (step,) = compare(replace(right, play=lambda model, x, normal: right.play(model, 2.0 * x, normal))).wrong
    assert step.number == 0


def test_a_normal_that_is_used_twice_or_is_too_many_is_named_with_its_step():
    def repeated(table):
        noise = np.concatenate([table.noise, np.zeros_like(table.noise)], axis=1)
        noise[5, 1], noise[5, 0] = noise[5, 0], 0.0
        return replace(table, noise=noise)

    (step,) = wrong("ddim-eta1", repeated)
    assert {term for term, _, _ in step.off} == {Term("z", 3), Term("z", 4)}

    right = of_family("ddim", steps=6)

    def noisy(model, x, normal):
        return right.play(model, x, normal) + 0.25 * normal()

    (step,) = compare(replace(right, play=noisy)).wrong
    assert "0.25 of a normal that the method does not draw" in str(step)
    assert "step 6, the output" in str(step)


def test_signs_of_normals_do_not_matter():
    sampler = of_family("ddim-eta1")

    def turned(model, x, normal):
        return sampler.play(model, x, lambda: -normal())

    comparison = compare(replace(sampler, play=turned))
    assert not comparison.wrong
    assert {drawn.sign for drawn in comparison.drawn} == {-1.0}


def recombined(second):
    """DPM++ SDE whose two normals of a step are combined otherwise, the second with these weights."""
    sampler = of_family("dpmpp-sde", steps=5)

    def play(model, x, normal):
        kept = []

        def other():
            if not kept:
                a, b = normal(), normal()
                kept[:] = [0.6 * a + 0.8 * b, second[0] * a + second[1] * b]
            return kept.pop(0)

        return sampler.play(model, x, other)

    return replace(sampler, play=play)


def test_rotated_normals_are_the_same_sampler():
    comparison = compare(recombined((0.8, -0.6)))
    assert not comparison.wrong
    assert comparison.rotation is not None
    assert worst(trajectory(Subject("rotated", lambda _: recombined((0.8, -0.6)), steps=(5,)), True)) is Verdict.OK
    # but not where their combinations are correlated, or one is lost
    assert compare(recombined((0.6, 0.8))).wrong
    assert compare(recombined((0.8, -0.5))).wrong


def test_another_number_of_evaluations_says_where_they_part():
    heun, euler = of_family("edm-heun", steps=5), of_family("edm-euler", steps=5)
    with pytest.raises(Mismatch, match=r"5 times, the method 10 times: evaluation 3 .* \(in step 2\)"):
        compare(replace(euler, claim=heun.claim))


def test_a_sampler_that_is_no_table_is_refused():
    sampler = of_family("ddim")
    clipped = replace(sampler, play=lambda model, x, normal: np.clip(sampler.play(model, x, normal), -1, 1))
    with pytest.raises(NotLinear):
        compare(clipped)


def test_rounding_of_the_grid_stays_within_time():
    claim = of_family("ddim", grid=np.linspace(VP.T, 0.0, 5)).claim
    for grid in perturbed(claim, 1e-7):
        assert grid.max() <= VP.T
        assert grid[-1] == 0
        assert 0 < np.abs(grid - claim.grid).max() <= 1.1e-7


def test_a_bound_follows_the_number_type():
    bounds = [max(s.bound for s in compare(of_family("dpmpp-2m", dtype=dtype)).steps) for dtype in (DOUBLE, SINGLE)]
    assert 1e7 < bounds[1] / bounds[0] < 1e10
    assert bounds[0] < 1e-13


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("ddim", [0, 1, 2, 3, 4]),
        ("edm-heun", [0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ("edm-heun-churn", [0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ("fm-ssprk3", [0, *[1] * 3, *[2] * 3, *[3] * 3, *[4] * 3]),
        ("fm-rk4", [0, *[1] * 4, *[2] * 4, *[3] * 4, *[4] * 4]),
        ("unipc-2", [0, 1, 1, 2, 2, 3, 3, 4]),
        ("dpm2", [0, 1, 1, 2, 2, 3, 3, 4, 4]),
    ],
)
def test_stages_are_counted_by_the_steps_of_the_grid(name, steps):
    claim = of_family(name, steps=4).claim
    words = Words(claim.table(), claim.grid, claim.table)
    assert words.steps == steps


def test_churn_belongs_to_the_step_that_it_begins():
    def churned(part, place):
        return wrong(
            "edm-euler-churn", scaled(part, 6, place, 0.5), steps=8, s_tmax=np.inf, grid=np.geomspace(0.4, 0.04, 9)
        )

    (noise,), (output,) = churned("noise", 0), churned("outputs", 0)
    assert (noise.off[0][0], noise.number) == (Term("z", 5), 6)
    assert (output.off[0][0], output.number) == (Term("o", 5), 5)


def test_a_plain_loop_is_its_table():
    table = of_family("dpmpp-sde", steps=4).claim.table()
    x, normals = np.ones((3, 2)), np.random.default_rng(0).standard_normal((table.draws, 3, 2))
    from refdiff.samplers import run

    drawn = iter(normals)
    found = plain(table)(lambda y, t: np.tanh(y + t), x, lambda: next(drawn))
    np.testing.assert_allclose(found, run(table, lambda y, t: np.tanh(y + t), x, normals=normals), rtol=1e-13)
