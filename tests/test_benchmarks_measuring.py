"""What benchmarks are made of: agreement, clocks that alternate, teams, fits of growth. No speed is asserted."""

import itertools
import math

import numpy as np
import pytest

from refdiff.validation.benchmarks import agreement, growth
from refdiff.validation.benchmarks.limits import Machine
from refdiff.validation.benchmarks.measuring import Candidate, alternate, fastest, peak_extra_bytes
from refdiff.validation.benchmarks.teams import chunk_sizes, chunks, combinations, in_team


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """No speed is asserted, so nothing has to come to rest."""
    monkeypatch.setattr("refdiff.validation.benchmarks.measuring.REST", 0.0)


# ---------------------------------------------------------------------- agreement


def test_numbers_agree_relative_to_themselves_or_to_a_usual_one():
    b = np.array([1.0, 2.0, 1e-9])
    assert agreement.of_numbers(b * (1 + 1e-12), b, 1e-10).holds
    assert not agreement.of_numbers(b + np.array([0, 0, 1e-9]), b, 1e-10).holds
    assert agreement.of_numbers(b + np.array([0, 0, 1e-11]), b, 1e-10).holds
    assert agreement.of_numbers(np.zeros(3), np.zeros(3), 0.0).error == 0


def test_an_answer_that_is_no_number_does_not_agree():
    assert not agreement.of_numbers([np.nan, 1.0], [1.0, 1.0], 1e-10).holds
    assert not agreement.of_samples(np.full((10, 2), np.nan), np.ones((10, 2))).holds


def test_a_reference_may_have_only_the_first_answers_and_shapes_must_fit():
    assert agreement.of_numbers([1.0, 2.0, 3.0], [1.0, 2.0], 0.0).holds
    for answer in ([1.0], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="shape of the reference"):
            agreement.of_numbers(answer, [1.0, 2.0], 0.0)


@pytest.mark.statistical
def test_samples_of_one_law_agree_and_of_another_do_not():
    # fixed seeds; a false alarm of the first assertion would have had probability 1e-6
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 20_000, 2))
    assert agreement.of_samples(a, b).holds
    assert not agreement.of_samples(a + 0.1, b).holds  # ten standard errors of the mean
    assert not agreement.of_samples(1.1 * a, b).holds  # fourteen of the variance
    # the same mean and variance, another shape: E cos 2y = cos 2 against e^-2
    assert not agreement.of_samples(np.sign(a), b).holds


# ---------------------------------------------------------------------- measuring


def ticking(costs):
    """A clock that the contenders move on."""
    now = [0.0]

    def spend(name):
        now[0] += next(costs[name])

    return spend, lambda: now[0]


def test_contenders_take_turns_and_ratios_are_within_rounds():
    # refdiff slows down threefold from round to round, and so does the other: the ratio is 2 in each
    spend, clock = ticking({"a": iter([1.0, 3.0, 9.0]), "b": iter([2.0, 6.0, 18.0])})
    order = []
    runs = {name: lambda name=name: (order.append(name), spend(name)) for name in "ab"}
    found = alternate(runs, lambda: len(order), rounds=3, budget=100.0, clock=clock, rest=lambda: None)
    assert order == list("ababab")
    assert found.seconds == {"a": [1.0, 3.0, 9.0], "b": [2.0, 6.0, 18.0]}
    assert found.before == [0, 2, 4]
    assert found.ratio("b", "a") == 2.0
    assert found.median("b") == 6.0


def test_a_slow_contender_drops_out_and_the_first_stays():
    spend, clock = ticking({"a": itertools.repeat(1.0), "b": itertools.repeat(10.0), "c": itertools.repeat(2.0)})
    runs = {name: lambda name=name: spend(name) for name in "abc"}
    found = alternate(runs, lambda: None, rounds=5, budget=6.0, clock=clock, rest=lambda: None)
    assert {name: len(seconds) for name, seconds in found.seconds.items()} == {"a": 3, "b": 1, "c": 3}
    assert found.ratio("b", "a") == 10.0


def test_the_fastest_is_found_among_families_and_then_among_sizes_of_chunks():
    cost = {("x", 1): 5, ("x", 2): 4, ("x", 3): 1, ("y", 1): 2, ("y", 2): 3, ("y", 3): 9}
    now, ran = [0.0], []

    def candidate(family, size):
        def run(points):
            now[0] += points * cost[family, size] * (100 if (family, size) not in ran else 1)  # compiles at first
            ran.append((family, size))

        return Candidate(f"{family}{size}", run, family=family, size=size)

    best, seconds, first = fastest([candidate(*key) for key in cost], 800, clock=lambda: now[0])
    assert best.label == "y1"  # y is better at the middle size, and its own best is 1
    assert seconds == {"x2": 4, "y2": 3, "y1": 2, "y3": 9}
    assert first == {label: 100 * 100 * each for label, each in seconds.items()}  # of 100 points, with compiling
    with pytest.raises(ValueError, match="candidates must hold at least one"):
        fastest([], 1)


def test_peak_memory_sees_a_temporary_array_and_forgets_it():
    def use():
        np.ones(4_000_000).sum()  # 32 MB

    use()
    found = peak_extra_bytes(use)
    if found is None:
        pytest.skip("this system does not say what is resident")
    assert 30e6 < found < 60e6
    assert peak_extra_bytes(lambda: None) < 10e6  # not the peak of before


def test_chunks_cover_all_points_in_order():
    assert chunk_sizes(100, 2**14, (2**14, 2**16, 2**30)) == [1, 4, 100]
    assert [*chunks(10, 4)] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    for team in (1, 3):
        parts = in_team(lambda part: list(range(part.start, part.stop)), 10, 3, team)
        assert [*itertools.chain(*parts)] == [*range(10)]


def test_a_team_is_tried_where_there_are_chunks_for_it():
    labels = [one.label for one in combinations(lambda *_: len, ["f"], [4, 8], (1, 2), 8)]
    assert labels == ["f, chunks of 4", "f, team of 2, chunks of 4", "f, chunks of 8"]


def test_the_limits_are_positive_numbers():
    assert all(0 < rate < math.inf for rate in Machine(2, scale=0.02)())


# ---------------------------------------------------------------------- growth


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_the_exponent_of_a_power_law_is_found(exponent):
    found = growth.fit([10, 20, 40, 80], [3e-4 * n**exponent for n in (10, 20, 40, 80)])
    assert found.exponent == pytest.approx(exponent, abs=1e-12)
    assert found.factor == pytest.approx(3e-4, rel=1e-12)
    assert found.residual < 1e-12


def test_the_exponent_is_the_least_squares_one_and_the_residual_tells_of_a_bend():
    sizes, seconds = [10, 20, 40, 80], [1 + n / 40 for n in (10, 20, 40, 80)]
    found = growth.fit(sizes, seconds)
    slope, level = np.polyfit(np.log(sizes), np.log(seconds), 1)
    assert found.exponent == pytest.approx(slope, rel=1e-12)
    assert found.factor == pytest.approx(np.exp(level), rel=1e-12)
    assert 0 < found.exponent < 1
    assert found.residual > 0.02


def test_no_exponent_without_two_positive_sizes():
    for sizes, seconds in (([5, 5], [1, 1]), ([1, 2], [1]), ([1, 2], [0, 1]), ([0, 2], [1, 1])):
        with pytest.raises(ValueError, match="sizes"):
            growth.fit(sizes, seconds)
