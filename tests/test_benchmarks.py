"""The benchmarks at tiny sizes with refdiff, NumPy and SciPy: answers, disagreements, formats; no speed is asserted."""

import json
from functools import cache

import numpy as np
import pytest
from scipy.special import logsumexp

from refdiff.distributions import GaussianMixture
from refdiff.model import ExactModel
from refdiff.schedules import VEPower
from refdiff.validation.benchmarks import agreement, contenders, formulas, own, peers_grid, peers_numpy, report, suite
from refdiff.validation.benchmarks.contenders import CONTENDERS, HERE, OWN, Contender
from refdiff.validation.benchmarks.formulas import Arrays
from refdiff.validation.benchmarks.limits import Limits
from refdiff.validation.benchmarks.makers import MAKERS, make
from refdiff.validation.benchmarks.measuring import Candidate, Rounds
from refdiff.validation.benchmarks.problems import kind
from refdiff.validation.benchmarks.suite import Plan, measure
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


@cache
def measured(name):
    """A workload at its tiny sizes."""
    return measure(BY_NAME[name], TINY, limits)


# ---------------------------------------------------------------------- workloads


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name)
def test_refdiff_and_its_references_agree_in_every_workload(workload):
    found = measured(workload.name)
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
    on_gpus_only = {"ancestral", "denoiser", "discrepancy", "divergence", "multistep"}
    assert {one.kind for one in WORKLOADS} == set(MAKERS) - on_gpus_only
    assert {kind for one in CONTENDERS for kind in one.kinds} == set(MAKERS) - on_gpus_only


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


def test_a_way_that_is_run_on_some_points_has_the_seconds_of_all(monkeypatch):
    ran, true = [], peers_numpy.reference
    monkeypatch.setattr(peers_numpy, "reference", lambda *problem: true(*problem)[:50])
    rounds = Rounds({"refdiff": [1.0, 1.0], "some": [2.0, 4.0]}, [limits()] * 2)
    monkeypatch.setattr("refdiff.validation.benchmarks.measuring.alternate", lambda *_: rounds)

    def some(problem, threads):
        one = peers_numpy.candidates(problem, threads)[0]
        return [Candidate("", lambda n: ran.append(n) or one.run(n), most=100)]

    found = measure(BY_NAME["log_density"], PEERS, limits, field=against(monkeypatch, "some", some)).entries[1]
    assert set(ran) == {100}  # of 300
    assert found.agreement.holds
    assert found.seconds == [6.0, 12.0]
    assert found.ratio == 9.0


def test_refdiff_without_kernels_gives_the_same_flow_map_and_runs_some_of_many_points():
    problem = make("flow_map", n=2, K=3, d=2)
    (one,) = own.numpy_candidates(problem, 1)
    (kernel,) = own.candidates(problem, 1)
    np.testing.assert_allclose(one.run(2), kernel.run(2), atol=1e-8)  # of size 1; 100 rtol, as the workload allows
    assert (one.label, one.share(2)) == ("", 2)
    (many,) = own.numpy_candidates(make("flow_map", n=1000, K=3, d=2), 1)
    assert (many.label, many.share(1000)) == ("320 points, seconds scaled", 320)


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


def test_densities_in_the_plane_have_the_error_that_is_asked_for_and_what_it_is_of():
    problem = make("grid_density", cells=96, K=3, error=0.04)
    exact = peers_grid.closed(problem)
    # 6 cells in a deviation, where the workload has 16: second order makes its 0.2% seven times as much
    (ours,), (theirs,) = own.candidates(problem, 1), peers_grid.scipy_candidates(problem, 1)
    for answer in (ours.run(len(problem.x)), theirs.run(len(problem.x))):
        assert answer.shape == exact.shape
        assert np.abs(answer / exact - 1).max() < 0.15  # at a hundredth of the peak
        assert agreement.of_numbers(answer, exact, problem.allowed).holds
    assert problem.sizes == {"cells": 96, "K": 3}
    assert exact.min() >= 0.01 * exact.max()


# ---------------------------------------------------------------------- for machines


def test_the_results_are_json_with_every_number_that_is_shown():
    found = [measured("pf_ode_small"), measured("flow_map")]
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
