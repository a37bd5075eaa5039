"""Divergences of laws of paths: the printed numbers, limits in k, routes that agree, what is infinite, refusals."""

import numpy as np
import pytest

from refdiff import BetaTable, ExactModel, Gaussian, GaussianMixture
from refdiff.distributions import kl_divergence
from refdiff.expectations import MonteCarlo, Quadrature, draws
from refdiff.path_measures import AffineScore, affine_reverse, conditional_kl, divergences, log_ratio, path_kl
from refdiff.processes import AffineProcess, LinearProcess
from refdiff.schedules import FlowMatching, VPLinear
from refdiff.stochastic import StochasticEquation, marginal_family, solve

MODEL = ExactModel(Gaussian([0.0], 4.0), VPLinear(1.0, 1.0, T=2.0))
UNIT = Gaussian([0.0], 1.0)
WIDE = AffineScore(lambda t: 1 / (1.15 * (1 + 3 * np.exp(-t))), lambda t: 0.0, 1)  # of V_t = 1 + 3 e^-t
PEAKS = GaussianMixture.isotropic([[-1.0], [1.5]], [0.3, 0.2], [0.4, 0.6])


def test_the_printed_number():
    # PODD-91: V_0 = 4, s^ = -x / (1.15 V_t), prior N(0, 1), T = 2
    found = path_kl(MODEL, WIDE, prior=UNIT)
    assert abs(found.value - 0.0407457) < 0.5e-7
    last = 1 + 3 * np.exp(-2)
    assert abs(found.prior - 0.5 * (last - 1 - np.log(last))) < 1e-15
    # 1/2 int g^2 (1 - 1/1.15)^2 / V dt, with int dt / (1 + 3 e^-t) = log (e^t + 3)
    exact = 0.5 * (1 - 1 / 1.15) ** 2 * (np.log(np.exp(2) + 3) - np.log(4))
    assert abs(found.paths - exact) < 1e-15
    assert found.route == "closed"


def test_the_gap_to_the_marginals_is_the_divergence_given_the_data():
    made = affine_reverse(MODEL.process, WIDE).transition(2.0, 0.0).push(UNIT)
    ends = kl_divergence(Gaussian([0.0], 4.0), Gaussian(made.mean(), made.cov()))
    gap = conditional_kl(MODEL, WIDE, prior=UNIT)
    assert 0 < ends < gap
    np.testing.assert_allclose(path_kl(MODEL, WIDE, prior=UNIT).value, ends + gap, rtol=1e-9)


@pytest.mark.parametrize("k", [0.1, 0.5, 1.0, 2.0])
def test_the_factor_of_the_noise_is_least_for_the_reversal(k):
    base = path_kl(MODEL, WIDE).paths
    np.testing.assert_allclose(path_kl(MODEL, WIDE, stochasticity=k).paths, ((k + 1 / k) / 2) ** 2 * base, rtol=1e-13)


def test_flows_share_no_paths_unless_they_are_one():
    assert path_kl(MODEL, WIDE, stochasticity=0.0).value == np.inf
    assert path_kl(MODEL, MODEL, stochasticity=0.0).value == 0
    assert path_kl(MODEL, MODEL).value == 0


def test_routes_agree_with_the_closed_form():
    exact = path_kl(MODEL, WIDE, prior=UNIT)
    lattice = path_kl(MODEL, WIDE, prior=UNIT, route=Quadrature())
    np.testing.assert_allclose(lattice.value, exact.value, rtol=1e-12)
    drawn = path_kl(MODEL, WIDE, prior=UNIT, route=MonteCarlo(2000, 3))
    # 4.5 standard errors: a false alarm in 7e-6 of seeds, and this one is fixed
    assert abs(drawn.value - exact.value) < 4.5 * drawn.error
    assert drawn.error < 0.1 * exact.paths
    a_function = path_kl(MODEL, lambda x, t: WIDE.at(x, t), prior=UNIT, route=Quadrature())
    np.testing.assert_allclose(a_function.value, exact.value, rtol=1e-12)


@pytest.mark.parametrize("k", [0.7, 1.0])
def test_paths_of_the_exact_equation_have_it_for_their_mean_ratio(k):
    # Girsanov along Euler-Maruyama's paths from p_T: 4.5 standard errors, and the first order of 100 steps
    half = AffineScore(lambda t: 0.5 / (1 + 3 * np.exp(-t)), lambda t: 0.0, 1)
    exact = path_kl(MODEL, half, stochasticity=k).paths
    times = np.linspace(2.0, 0.0, 101)
    reverse, other = marginal_family(MODEL, k), affine_reverse(MODEL.process, half, k).equation()
    paths = solve(reverse, MODEL.sample(4000, 2.0, 1), times, seed=2, trajectory=True)
    logs = log_ratio(reverse, other, paths, times)
    error = logs.std() / np.sqrt(len(logs))
    assert abs(logs.mean() - exact) < 4.5 * error + 0.03 * exact
    assert error < 0.1 * exact


@pytest.mark.parametrize("k", [0.5, 1.0])
def test_an_equation_counts_as_its_score_does(k):
    share = (1 + k * k) / 2
    drift = StochasticEquation(lambda x, t: -x / 2 - share * WIDE.at(x, t), lambda t: k, 1)
    by_drift = path_kl(MODEL, drift, stochasticity=k, route=Quadrature())
    np.testing.assert_allclose(by_drift.paths, path_kl(MODEL, WIDE, stochasticity=k).paths, rtol=1e-11)


@pytest.mark.parametrize(("push", "exact"), [([0.0, 0.1], 0.1 * (0.1 / 1.5) ** 2), ([0.1, 0.0], np.inf)])
def test_a_drift_that_noise_cannot_make_up_for_is_infinitely_far(push, exact):
    # 1/2 |push / g|^2 over a length .2, where the noise reaches it
    model = ExactModel(Gaussian([0.0, 0.0], 1.0), LinearProcess([[0.0, 1.0], [-1.0, -2.0]], [[0.0], [1.5]]))
    reverse = marginal_family(model)
    pushed = StochasticEquation(lambda x, t: reverse.drift_at(x, t) + np.array(push), reverse.noise, 2)
    found = path_kl(model, pushed, start=0.8, route=MonteCarlo(10, 1))
    np.testing.assert_allclose(found.paths, exact, rtol=1e-12)


@pytest.mark.parametrize(
    "process",
    [
        VPLinear(0.1, 12.0),
        BetaTable(np.linspace(0.01, 0.3, 6)),
    ],
    ids=["smooth", "table"],
)
def test_two_models_of_one_process_differ_by_their_data(process):
    one, other = Gaussian([0.3], 0.5), Gaussian([-0.2], 0.8)
    p, q = ExactModel(one, process), ExactModel(other, process)
    last = p.process.T
    found = path_kl(p, q, prior=q.marginal(last))
    np.testing.assert_allclose(found.value, kl_divergence(one, other), rtol=1e-10)


AXES = AffineProcess([VPLinear(0.5, 4.0), VPLinear(1.0, 9.0)])


@pytest.mark.parametrize(
    "process",
    [AXES, LinearProcess([[0.0, 1.0], [-1.0, -2.0]], [[0.0], [1.5]], force=[0.2, -0.1])],
    ids=["axes", "singular noise and a force"],
)
def test_every_kind_of_process_has_its_own_norm(process):
    one, other = Gaussian([0.3, 0.1], [[0.5, 0.1], [0.1, 0.4]]), Gaussian([-0.2, 0.0], [[0.8, -0.2], [-0.2, 0.5]])
    p, q = ExactModel(one, process), ExactModel(other, process)
    exact = path_kl(p, q, prior=q.marginal(1.0))
    np.testing.assert_allclose(exact.value, kl_divergence(one, other), rtol=1e-10)
    late, drawn = (path_kl(p, q, start=0.7, prior=q.marginal(1.0), route=way) for way in (None, MonteCarlo(200, 5)))
    assert abs(drawn.value - late.value) < 4.5 * drawn.error
    # with a score that is not of any data: from both ends
    score, k = AffineScore(lambda t: [[1.5, 0.3], [0.1, 1.2]], lambda t: [0.1, 0.2], 2), 0.7
    made = affine_reverse(p.process, score, k).transition(1.0, 0.4).push(q.marginal(1.0))
    here = p.marginal(0.4)
    ends = kl_divergence(Gaussian(here.mean(), here.cov()), Gaussian(made.mean(), made.cov()))
    prior = Gaussian(q.marginal(1.0).mean(), q.marginal(1.0).cov())
    given = conditional_kl(p, score, start=0.4, stochasticity=k, prior=prior)
    whole = path_kl(p, score, start=0.4, stochasticity=k, prior=prior).value
    np.testing.assert_allclose(whole, ends + given, rtol=1e-8)


def test_mixtures_differ_by_their_data_too():
    other = GaussianMixture.isotropic([[-1.0], [1.2]], [0.4, 0.2], [0.5, 0.5])
    p, q = ExactModel(PEAKS, VPLinear(1.0, 5.0)), ExactModel(other, VPLinear(1.0, 5.0))
    found = path_kl(p, q, prior=q.marginal(1.0), route=Quadrature())
    x = np.linspace(-8, 8, 4001)[:, None]
    density = np.exp(PEAKS.logpdf(x)) * (x[1, 0] - x[0, 0])
    np.testing.assert_allclose(found.value, density @ (PEAKS.logpdf(x) - other.logpdf(x)), rtol=1e-9)
    drawn = path_kl(p, q, prior=q.marginal(1.0), route=MonteCarlo(300, 1))
    assert abs(drawn.value - found.value) < 4.5 * drawn.error
    # the error of the priors is in it
    x = draws(p.marginal(1.0), 300, 1)
    ratios = p.log_density(x, 1.0) - q.log_density(x, 1.0)
    late, alone = (path_kl(p, q, start=0.9, prior=one, route=MonteCarlo(300, 1)) for one in (q.marginal(1.0), None))
    np.testing.assert_allclose(late.prior, ratios.mean(), rtol=1e-12)
    np.testing.assert_allclose(late.error - alone.error, ratios.std(ddof=1) / np.sqrt(300), rtol=1e-10)


def test_a_divergence_that_is_infinite_at_the_data_is_refused_with_its_times(monkeypatch):
    monkeypatch.setattr(divergences, "MOST", 12)
    point = ExactModel(Gaussian([0.3], 0.0), VPLinear(1.0, 1.0))
    near = AffineScore(lambda t: 1 / -np.expm1(-t), lambda t: 0.0, 1)
    with pytest.raises(ValueError, match="start and end"):
        path_kl(point, near)
    assert np.isfinite(path_kl(point, near, start=0.1).value)


def test_refusals():
    with pytest.raises(TypeError, match="model"):
        path_kl(UNIT, WIDE)
    with pytest.raises(ValueError, match="route"):
        path_kl(ExactModel(PEAKS, VPLinear()), WIDE)
    with pytest.raises(TypeError, match="approximate"):
        path_kl(MODEL, 3.0, route=Quadrature())
    with pytest.raises(ValueError, match="start"):
        path_kl(MODEL, WIDE, start=3.0)
    with pytest.raises(ValueError, match="stochasticity"):
        path_kl(MODEL, WIDE, stochasticity=-1.0)
    flat = AffineScore(lambda t: 1.0, lambda t: 0.0, 2)
    for wide in (flat, ExactModel(Gaussian([0.0, 0.0], 1.0), VPLinear())):
        with pytest.raises(ValueError, match=r"^approximate must have the dimension 1"):
            path_kl(MODEL, wide)
    with pytest.raises(ValueError, match=r"^score must have the dimension 1"):
        conditional_kl(MODEL, flat)
    for ask in (path_kl, conditional_kl):
        with pytest.raises(ValueError, match=r"^prior must have the dimension 1"):
            ask(MODEL, WIDE, prior=Gaussian([0.0, 0.0], 1.0))
    with pytest.raises(TypeError, match="prior"):
        path_kl(MODEL, WIDE, prior=0.0)
    with pytest.raises(TypeError, match="prior"):
        conditional_kl(MODEL, WIDE, prior=PEAKS)
    wrong_noise = StochasticEquation(lambda x, t: -x, lambda t: 2.0, 1)
    with pytest.raises(ValueError, match="denominator"):
        path_kl(MODEL, wrong_noise, route=Quadrature())


def test_a_process_that_ends_without_data_is_taken_up_to_a_time_before():
    model = ExactModel(Gaussian([0.5, 0.0], [[0.5, 0.1], [0.1, 0.3]]), FlowMatching())
    other = ExactModel(Gaussian([0.0, 0.0], 0.5), FlowMatching())
    found = path_kl(model, other, end=0.9, prior=other.marginal(0.9))
    np.testing.assert_allclose(found.value, kl_divergence(model.distribution, other.distribution), rtol=1e-10)
