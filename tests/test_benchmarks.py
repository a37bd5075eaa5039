"""The benchmarks at tiny sizes with refdiff, NumPy and SciPy: answers, disagreements, formats; no speed is asserted."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.schedules import VEPower
from refdiff.validation.benchmarks import agreement, contenders, formulas, growth, peers_numpy, report, suite
from refdiff.validation.benchmarks.contenders import CONTENDERS, HERE, OWN, Contender
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.limits import Limits, Machine
from refdiff.validation.benchmarks.measuring import Candidate, alternate, fastest, peak_extra_bytes
from refdiff.validation.benchmarks.problems import MAKERS, kind, make
from refdiff.validation.benchmarks.suite import Plan, measure
from refdiff.validation.benchmarks.teams import chunk_sizes, chunks, combinations, in_team
from refdiff.validation.benchmarks.workloads import WORKLOADS

TINY = Plan("tiny", threads=2, rounds=2, budget=1.0)
BY_NAME = {one.name: one for one in WORKLOADS}


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """Nothing is timed here, so nothing has to come to rest."""
    monkeypatch.setattr("refdiff.validation.benchmarks.measuring.REST", 0.0)


def limits():
    """A machine that needs no measuring."""
    return Limits(1e9, 1e8, 1e10)


# ---------------------------------------------------------------------- workloads


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name)
def test_refdiff_and_its_references_agree_in_every_workload(workload):
    found = measure(workload, TINY, limits)
    assert [one.name for one in found.entries] == [
        one.name for one in contenders.of_kind(workload.kind) if not one.peer
    ]
    for one in found.entries:
        assert not one.problem
        assert one.agreement.holds, one
        assert all(s > 0 for s in one.seconds)
    assert not found.failed
    assert found.entries[0].ratio == 1.0
    assert set(found.growth) == set(workload.grows)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name)
def test_every_workload_has_the_sizes_and_goals_that_it_says(workload):
    names = {name for one in contenders.of_kind(workload.kind) for name in [one.name]}
    assert {name for goal in workload.goals for name in goal.against} <= names
    problem = workload.problem("tiny")
    assert kind(problem) == workload.kind
    assert set(workload.grows) <= set(problem.sizes)
    assert problem.sizes.items() >= {k: v for k, v in workload.tiny.items() if k in problem.sizes}.items()
    assert workload.quick.keys() <= workload.sizes.keys()


def test_the_workloads_cover_every_kind_of_problem_and_every_contender():
    assert {one.kind for one in WORKLOADS} == set(MAKERS)
    assert {kind for one in CONTENDERS for kind in one.kinds} == set(MAKERS)


def test_useful_work_is_what_the_definition_counts():
    flow = make("probability_flow", n=10, K=3, d=2, steps=5)
    assert flow.evaluations == 9  # two a step, one in the last
    assert flow.work.flops == 4 * 9 * 10 * 3 * 2
    assert flow.work.exponentials == 9 * 10 * 3
    assert make("log_density", n=10, K=3, d=2).work.flops == 2 * 10 * 3 * 2
    assert make("flow_map", n=10, K=3, d=2).work == (None, None, None)


# ---------------------------------------------------------------------- a contender that is wrong, or breaks


PEERS = Plan("tiny", peers=True, rounds=1)


def against(monkeypatch, name, candidates):
    """refdiff, and one more contender of this name."""
    monkeypatch.setattr(peers_numpy, "another", candidates, raising=False)
    return [OWN, Contender(name, (), "peers_numpy:another", ())]


def broken(*_):
    """A library that does not work here."""
    raise RuntimeError("no compiler\nand more")


@pytest.mark.parametrize("name", ["pf_ode_small", "log_density", "reverse_sde"])
def test_a_wrong_peer_is_reported(monkeypatch, name):
    # by 1e-8 of a number where 1e-10 is allowed; by half a standard deviation in a sample of two thousand
    scale, shift = (1.0, 0.5) if name == "reverse_sde" else (1 + 1e-8, 0.0)

    def wrong(problem, threads):
        one = peers_numpy.candidates(problem, threads)[0]
        return [one._replace(run=lambda n: scale * one.run(n) + shift)]

    found = measure(BY_NAME[name], PEERS, limits, field=against(monkeypatch, "wrong", wrong))
    own, other = found.entries
    assert own.agreement.holds
    assert other.wrong
    assert found.failed
    assert "WRONG" in str(list(report._row(other)))
    assert other.seconds  # timed all the same


def test_the_goal_ignores_a_peer_whose_answer_is_wrong(monkeypatch):
    def wrong(problem, threads):  # noqa: ARG001
        return [Candidate("", lambda n: np.zeros((n, problem.mixture.dim)))]

    found = measure(BY_NAME["pf_ode_small"], PEERS, limits, field=against(monkeypatch, "JAX", wrong))
    assert found.entries[1].wrong
    assert found.goals[0].measured is None


def test_a_peer_that_breaks_says_why_and_the_others_go_on(monkeypatch):
    found = measure(BY_NAME["pf_ode_small"], PEERS, limits, field=against(monkeypatch, "broken", broken))
    assert found.entries[1].problem == "RuntimeError: no compiler"
    assert not found.entries[1].seconds
    assert found.entries[0].seconds
    assert not found.failed  # of a peer
    assert any("broken did not run: RuntimeError" in str(part) for part in report.shown(found))


def test_refdiff_breaking_fails_the_run(monkeypatch):
    monkeypatch.setattr(f"{HERE}.own.candidates", broken)
    found = measure(BY_NAME["log_density"], Plan("tiny", rounds=1), limits)
    assert found.failed
    assert found.fractions == {}
    assert found.goals[0].reached is None


def test_what_is_not_installed_is_named():
    absent = Contender("absent", ("scipy", "no-such-distribution"), "nowhere:nothing", ())
    assert absent.missing == ("no-such-distribution",)
    assert set(absent.versions) == {"scipy"}
    found = measure(BY_NAME["log_density"], PEERS, limits, field=[OWN, absent])
    assert [one.name for one in found.entries] == ["refdiff"]
    assert any("absent: not installed: pip install no-such-distribution" in str(part) for part in report.shown(found))


# ---------------------------------------------------------------------- formulas


@pytest.mark.parametrize("form", [*formulas.FORMS, "cdist"])
@pytest.mark.parametrize("sigma", [0.002, 1.0, 80.0])
def test_every_form_of_the_formulas_is_the_exact_model(form, sigma):
    mixture = make("log_density", n=1, K=6, d=3).mixture
    law = GaussianMixture.isotropic(mixture.means, mixture.variances, np.exp(mixture.log_weights))
    model, arrays = ExactModel(law, VEPower()), Arrays.of(mixture, np.asarray)
    x = model.sample(50, sigma, 0)
    # |x|^2 - 2 x.m + |m|^2 loses |x|^2 / T roundings of a logit: 100 at sigma = 0.002, with T = 0.1
    close = {"rtol": 1e-12, "atol": 1e-12}
    d = formulas.denoiser(np, arrays, x.T, sigma, form).T
    assert np.allclose(d, model.denoiser(x, sigma), **close)
    s = formulas.score(np, arrays, x.T, 1.0, sigma**2, form).T
    assert np.allclose(s, model.score(x, sigma), **close)
    assert np.allclose(formulas.log_density(np, arrays, x.T, form), law.logpdf(x), **close)


def test_the_score_of_a_point_set_is_the_derivative_of_its_log_density():
    problem = make("point_set_score", n=3, K=9, d=4, sigma=0.7)
    points = problem.mixture.means

    def log_p(x):
        return logsumexp(-0.5 * ((x[:, None] - points) ** 2).sum(-1) / 0.7**2, axis=1)

    h = 1e-5  # error h^2 f''' / 6 + eps / h, some 1e-10
    steps = h * np.eye(4)
    slope = np.stack([(log_p(problem.x + e) - log_p(problem.x - e)) / (2 * h) for e in steps], axis=1)
    assert np.allclose(peers_numpy.reference(problem, 1), slope, atol=1e-8)


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

    best, seconds = fastest([candidate(*key) for key in cost], 800, clock=lambda: now[0])
    assert best.label == "y1"  # y is better at the middle size, and its own best is 1
    assert seconds == {"x2": 4, "y2": 3, "y1": 2, "y3": 9}
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


# ---------------------------------------------------------------------- for machines


def test_the_results_are_json_with_every_number_that_is_shown():
    found = [measure(BY_NAME["pf_ode_small"], TINY, limits), measure(BY_NAME["flow_map"], TINY, limits)]
    written = json.loads(json.dumps(report.as_json(found, TINY), allow_nan=False))
    assert written["format"] == report.FORMAT
    assert written["passed"] is True
    assert written["plan"] == {"level": "tiny", "peers": False, "threads": 2, "rounds": 2, "budget": 1.0}
    first = written["workloads"][0]
    assert first["sizes"] == {"n": 300, "K": 5, "d": 2, "steps": 6}
    own, numpy = first["contenders"]
    assert own["name"] == "refdiff"
    assert own["ratio"] == 1.0
    assert len(own["seconds"]) <= 2
    assert numpy["answer"]["holds"] is True
    assert numpy["answer"]["allowed"] == 1e-10
    assert set(first["growth"]) == {"n", "K", "d", "steps"}
    assert first["growth"]["n"].keys() == {"exponent", "factor", "residual"}
    work = make("probability_flow", n=300, K=5, d=2, steps=6).work
    assert first["fractions"].keys() == work._asdict().keys()
    assert first["limits_per_second"] == limits()._asdict()
    assert [goal["reached"] for goal in first["goals"]][:2] == [None, None]
    assert written["workloads"][1]["fractions"] == {}  # the solver decides how often it evaluates


def test_the_fraction_is_useful_work_over_the_limit_of_the_same_round():
    problem = make("probability_flow", n=10, K=3, d=2, steps=5)
    noted = [Limits(1e3, 1e3, 1e3), Limits(2e3, 1e3, 1e3)]
    found = suite._fractions(problem, [1.0, 0.5], noted)
    assert found["flops"] == pytest.approx(problem.work.flops / 1e3)
    assert found["exponentials"] == pytest.approx((problem.work.exponentials / 1e3) * 1.5)  # median of 1 and 2
