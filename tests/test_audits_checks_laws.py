"""Laws of outputs without Monte Carlo, and random numbers that are not what they should be."""

from dataclasses import replace

import numpy as np
import pytest
from audit_tables import VE, VP, of_family, subject, with_weight

from refdiff.validation.audits.checks.laws import ALARM, law, least_likely, random_numbers
from refdiff.validation.audits.findings import Verdict, worst
from refdiff.validation.audits.subject import Subject

NAMES = ["ddim-eta1", "ddpm-beta", "euler-ancestral", "dpmpp-sde", "dpmpp-2m-sde", "dpm2-ancestral", "sa-solver"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("process", "dtype", "coordinate"),
    [(VP, np.float32, "x"), (VP, np.float32, "x/alpha"), (VE, np.float64, "x")],  # alpha is 1 in VE
    ids=["VP-float32-x", "VP-float32-x/alpha", "VE-float64"],
)
def test_right_samplers_have_the_law_of_their_method(name, process, dtype, coordinate):
    found = list(law(subject(name, process, dtype=dtype, coordinate=coordinate), True))
    assert {f.verdict for f in found} == {Verdict.OK}


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.01])
def test_noise_of_another_size_has_another_variance(factor):
    found = law(subject("ddim-eta1", mutate=lambda t: with_weight(t, "noise", 4, 0, lambda w: factor * w)), True)
    assert all(f.verdict is Verdict.WRONG and "the variance of the output" in f.text for f in found)


def test_a_deterministic_sampler_has_no_law_of_its_own():
    for check in (law, random_numbers):
        assert worst(check(subject("ddim"), True)) is Verdict.NOT_APPLICABLE


# ---------------------------------------------------------------------- random numbers


@pytest.mark.statistical
@pytest.mark.parametrize("name", NAMES)
def test_numpys_normals_are_normals(name):
    """False alarm: 1e-9 for each family, with a fixed seed."""
    assert worst(random_numbers(subject(name), True)) is Verdict.OK


def drawing(draw, name="ddim-eta1"):
    """A sampler whose own normals are draw(generator, shape, number of the draw)."""
    sampler = of_family(name, steps=5)

    def seeded(model, x, seed):
        rng, counter = np.random.default_rng(seed), iter(range(1000))
        return sampler.play(model, x, lambda: draw(rng, x.shape, next(counter)))

    return Subject("own normals", lambda _: replace(sampler, seeded=seeded), steps=(5,))


BROKEN = {
    "reused in the next step": (
        lambda rng, shape, number: np.random.default_rng(number // 2).standard_normal(shape),
        "normal 1 and normal 2 have correlation 1",
    ),
    "the same seed in every step": (
        lambda rng, shape, number: np.random.default_rng(0).standard_normal(shape),
        "have correlation 1",
    ),
    "the same for all points": (
        lambda rng, shape, number: np.broadcast_to(rng.standard_normal(shape[1]), shape),
        "normal",
    ),
    "the same for pairs of points": (
        lambda rng, shape, number: np.repeat(rng.standard_normal((shape[0] // 2, shape[1])), 2, axis=0),
        "related, for two points",
    ),
    "the same on both axes": (
        lambda rng, shape, number: np.broadcast_to(rng.standard_normal((shape[0], 1)), shape),
        "between two axes",
    ),
    "uniform": (lambda rng, shape, number: rng.uniform(-1, 1, shape), "variance 0.33"),
    "two values, of unit variance": (lambda rng, shape, number: rng.choice([-1.0, 1.0], shape), "is no normal"),
    "uniform, of unit variance": (lambda rng, shape, number: rng.uniform(-(3**0.5), 3**0.5, shape), "is no normal"),
    "two-sided exponential, of unit variance": (
        lambda rng, shape, number: rng.laplace(0, 0.5**0.5, shape),
        "is no normal",
    ),
    "the same for both halves of the points": (
        lambda rng, shape, number: np.tile(rng.standard_normal((shape[0] // 2, shape[1])), (2, 1)),
        "related, for two points",
    ),
    "positive": (lambda rng, shape, number: np.abs(rng.standard_normal(shape)), "mean 0.79"),
    "too wide by a tenth": (lambda rng, shape, number: 1.1 * rng.standard_normal(shape), "variance 1.2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_random_numbers_are_recognized(name):
    draw, said = BROKEN[name]
    (found,) = random_numbers(drawing(draw), True)
    assert found.verdict is Verdict.WRONG
    assert said in found.text


def test_the_bound_is_the_stated_probability_of_a_false_alarm():
    (found,) = random_numbers(subject("ddim-eta1"), True)
    assert found.bound == pytest.approx(-np.log10(ALARM))
    assert "1e-09" in found.rule


def test_probabilities_are_those_of_independent_normals():
    """Four hundred small sets of true normals: a hundredth of them or less may have a probability below a hundredth.

    False alarm of the test itself: the count is at most Poisson(4), above 20 with probability 1e-9; fixed seed.
    """
    rng = np.random.default_rng(3)
    low = sum(least_likely(rng.standard_normal((2, 16, 2)), ["a", "b"])[0] < 1e-2 for _ in range(400))
    assert low <= 20
