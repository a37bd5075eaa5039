"""Stability of samplers: the bound holds and is attained, for every kind of process; what it is made of is right."""

import numpy as np
import pytest
from scipy.integrate import quad

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPLinear,
)
from refdiff.distributions import wasserstein
from refdiff.expectations import MonteCarlo, Quadrature
from refdiff.path_measures import (
    AffineScore,
    LipschitzScore,
    coupled_law,
    coupled_paths,
    growth_rate,
    score_error,
    score_rate,
    wasserstein_bound,
)
from refdiff.processes import LinearProcess, beta_table, critically_damped_langevin

TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])
LAW = Gaussian([1.0, -1.0], [[1.0, 0.3], [0.3, 0.2]])
PROCESSES = {
    "scalar": (AffineProcess(VPLinear()), 1.0),
    "singular end": (AffineProcess(FlowMatching()), 0.98),
    "per axis": (AffineProcess([VPLinear(), FlowMatching()]), 0.9),
    "Langevin": (critically_damped_langevin(1), 1.0),
    "table": (beta_table.linear(3, 0.1, 0.4), 3.0),
}
PEAKS = GaussianMixture.isotropic([[-1.0], [1.0]], 0.4, [0.4, 0.6])


def example(a, b):
    """VE with sigma = t, data N(0, 1/4) and s^ = -a (x - b) / (1/4 + t^2): the spec's example."""
    model = ExactModel(Gaussian([0.0], 0.25), VEPower(1.0, T=5.0))
    return model, AffineScore(lambda t: a / (0.25 + t * t), lambda _: b, 1)


def wrong_score(model):
    """The exact score with a curl, too steep and off its centre."""
    exact = AffineScore.exact(model)
    return AffineScore(
        lambda t: (
            np.eye(model.dim) + 0.2 * TURN + 1.1 * np.asarray(exact.precision_at(t)) * np.eye(model.dim)
            if np.ndim(exact.precision_at(t)) < 2
            else 0.2 * TURN + 1.1 * exact.precision_at(t)
        ),
        lambda t: exact.centre_at(t) + 0.1,
        model.dim,
    )


@pytest.mark.parametrize(("k", "pair", "printed"), [
    (1, (1.0, 0.3), (0.297030, 0.297030)),
    (1, (1.2, 0.0), (0.0773, 0.1372)),
    (1, (0.8, 0.2), (0.2385, 0.3276)),
    (1, (1.1, -0.4), (0.3999, 0.4075)),
    (0, (1.0, 0.3), (0.270149, 0.270149)),
    (0, (1.2, 0.0), (0.1848, 0.1848)),
    (0, (0.8, 0.2), (0.33816, 0.3505)),
    (0, (1.1, -0.4), (0.3825, 0.3885)),
])  # fmt: skip
def test_the_values_of_topb_56_and_63(k, pair, printed):
    model, score = example(*pair)
    both = (
        coupled_law(model, score, stochasticity=k).wasserstein,
        wasserstein_bound(model, score, stochasticity=k).value,
    )
    for value, digits in zip(both, printed, strict=True):
        assert abs(value - digits) < 0.51 * 10.0 ** -len(str(digits).split(".")[1])


@pytest.mark.parametrize(("name", "k"), list(zip(PROCESSES, (0.0, 0.8, 1.0, 0.6, 0.0), strict=True)))
def test_distance_is_below_the_coupling_is_below_the_bound_for_every_process(name, k):
    process, end = PROCESSES[name]
    model = ExactModel(LAW, process)
    score, prior = wrong_score(model), Gaussian([0.1, 0.0], [[1.1, -0.2], [-0.2, 0.9]])
    pair = coupled_law(model, score, stochasticity=k, prior=prior, end=end)
    bound = wasserstein_bound(model, score, stochasticity=k, prior=prior, end=end, tolerance=1e-3)
    np.testing.assert_allclose(pair.exact.cov(), LAW.cov(), atol=1e-9)  # rounding times what the flow stretches
    assert 0.01 < pair.wasserstein <= pair.distance <= bound.value
    assert bound.value == bound.matching + bound.prior
    if k == 0:
        # a flow is invertible; without noise x and y are still functions of one normal
        assert np.linalg.matrix_rank(pair.root @ pair.root.T, tol=1e-6) == 2


@pytest.mark.parametrize("k", [0.0, 1.0])
def test_bound_is_attained_by_a_shifted_score_of_isotropic_data(k):
    model = ExactModel(Gaussian([0.3, -1.0], 0.4), VPLinear())
    exact = AffineScore.exact(model)
    score = AffineScore(exact.precision_at, lambda t: exact.centre_at(t) + np.array([0.3, 0.4]), 2)
    pair, bound = coupled_law(model, score, stochasticity=k), wasserstein_bound(model, score, stochasticity=k)
    np.testing.assert_allclose([pair.wasserstein, pair.distance], bound.value, rtol=1e-9)


def test_bounds_over_times_compose():
    model, score = example(1.1, -0.4)
    for k in (0.0, 0.5):
        near, far = (
            wasserstein_bound(model, score, stochasticity=k, start=a, end=b) for a, b in ((0.0, 1.3), (1.3, 5.0))
        )
        whole = wasserstein_bound(model, score, stochasticity=k, prior=0.7)
        np.testing.assert_allclose(whole.value, near.value + near.growth * (far.value + far.growth * 0.7), rtol=1e-9)
        np.testing.assert_allclose(whole.growth, near.growth * far.growth, rtol=1e-9)


@pytest.mark.parametrize(("k", "metric"), [(0.0, [[0.27, -0.05], [-0.05, 1.0]]), (1.0, [[1.15, -0.87], [-0.87, 1.66]])])
def test_a_metric_is_a_change_of_coordinates_and_suits_langevin_dynamics(k, metric):
    model = ExactModel(LAW, critically_damped_langevin(1))
    score, prior = wrong_score(model), Gaussian([0.1, 0.0], 0.4)
    how = {"stochasticity": k, "tolerance": 1e-5}
    plain = wasserstein_bound(model, score, prior=prior, stochasticity=k, tolerance=1e-2)
    own = wasserstein_bound(model, score, prior=prior, metric=metric, **how)
    pair = coupled_law(model, score, stochasticity=k, prior=prior)
    values, axes = np.linalg.eigh(metric)
    root = (axes * np.sqrt(values)) @ axes.T
    assert pair.wasserstein < own.euclidean < 0.4 * plain.euclidean
    assert plain.value == plain.euclidean
    np.testing.assert_allclose(own.euclidean, own.value / np.sqrt(values[0]), rtol=1e-12)
    apart = wasserstein(pair.exact.affine(root), pair.generated.affine(root))
    assert apart < own.value
    # the same process, data and score in y = R x
    inverse, process = np.linalg.inv(root), model.process
    turned = ExactModel(LAW.affine(root), LinearProcess(root @ process.drift(0.0) @ inverse, root @ process.noise(0.0)))
    there = AffineScore(lambda t: inverse @ score.precision_at(t) @ inverse, lambda t: root @ score.centre_at(t), 2)
    again = wasserstein_bound(turned, there, prior=prior.affine(root), **how)
    np.testing.assert_allclose([again.value, again.growth], [own.value, own.growth], rtol=1e-4)


def test_growth_is_the_integral_of_the_largest_eigenvalue():
    model = ExactModel(LAW, VPLinear())
    score = wrong_score(model)

    def rate(t):
        return growth_rate(model, score, t, stochasticity=0.5)

    t, drift, g2 = 0.4, model.process.drift(0.4), model.process.diffusion(0.4)
    slope = -drift * np.eye(2) - 0.625 * g2 * score.precision_at(t)
    assert abs(rate(t) - np.linalg.eigvalsh((slope + slope.T) / 2)[-1]) < 1e-12
    bound = wasserstein_bound(model, score, stochasticity=0.5)
    np.testing.assert_allclose(np.log(bound.growth), quad(rate, 0, 1, epsabs=1e-11)[0], rtol=1e-9)


def test_score_errors_agree_by_three_routes():
    model = ExactModel(LAW, AffineProcess([VPLinear(), FlowMatching()]))
    score = wrong_score(model)
    for weighted in (False, True):
        closed = score_error(model, score, 0.4, weighted=weighted)
        again = LipschitzScore(score.at, lambda _: 1.0, 2)
        by_sum = score_error(model, again, 0.4, weighted=weighted, route=Quadrature())
        drawn = score_error(model, again, 0.4, weighted=weighted, route=MonteCarlo(4000, 1))
        np.testing.assert_allclose(by_sum.value, closed.value, rtol=1e-9)
        assert abs(drawn.value - closed.value) < 4.5 * drawn.error


def test_rates_that_are_brought_are_those_of_the_metric():
    model, metric = ExactModel(LAW, critically_damped_langevin(1)), np.array([[1.15, -0.87], [-0.87, 1.66]])
    values, axes = np.linalg.eigh(metric)
    root, inverse = (axes * values**0.5) @ axes.T, (axes * values**-0.5) @ axes.T
    brought = LipschitzScore(lambda x, t: -x, lambda t: 0.3, 2)
    turned = -root @ model.process.drift(0.0) @ inverse
    rate = np.linalg.eigvalsh((turned + turned.T) / 2)[-1] + 0.3  # k = 1
    found = wasserstein_bound(
        model, brought, stochasticity=1.0, start=0.9, metric=metric, route=MonteCarlo(10, 1), tolerance=1e-3
    )
    np.testing.assert_allclose(found.growth, np.exp(0.1 * rate), rtol=1e-12)


def test_errors_over_times_compose_as_bounds_do():
    model, score = example(1.1, -0.4)
    brought = LipschitzScore(score.at, lambda t: -2 * t * 1.1 / (0.25 + t * t), 1)
    near, far, whole = (
        wasserstein_bound(model, brought, start=a, end=b, route=MonteCarlo(100, 1), tolerance=1e-4)
        for a, b in ((0.0, 1.3), (1.3, 5.0), (0.0, 5.0))
    )
    for part in ("matching", "error"):
        one, other = getattr(near, part), near.growth * getattr(far, part)
        np.testing.assert_allclose(getattr(whole, part), one + other, rtol=1e-3)
        assert abs(other - getattr(far, part)) > 0.1 * one


def test_an_exact_score_and_one_time_leave_nothing():
    model = ExactModel(LAW, VPLinear())
    bound = wasserstein_bound(model, AffineScore.exact(model))
    assert bound.value < 1e-12
    assert coupled_law(model, AffineScore.exact(model)).distance < 1e-12
    prior = Gaussian([0.0, 0.0], 0.0)  # a point: the coupling is still optimal
    at_end = coupled_law(model, AffineScore.exact(model), prior=prior, start=1.0)
    moved = np.sqrt(np.trace(model.marginal(1.0).cov()) + (model.marginal(1.0).mean() ** 2).sum())
    np.testing.assert_allclose([at_end.distance, at_end.wasserstein], moved, rtol=1e-12)


@pytest.mark.parametrize(("call", "message"), [
    (lambda m, s: wasserstein_bound(m, s, stochasticity=-1), "stochasticity"),
    (lambda m, s: wasserstein_bound(m, s, start=2, end=1), "start"),
    (lambda m, s: wasserstein_bound(m, s, prior=-1.0), "prior"),
    (lambda m, s: wasserstein_bound(m, s, metric=0.0), "metric"),
    (lambda m, s: wasserstein_bound(m, s, metric=np.eye(2)), "metric"),
    (lambda m, s: wasserstein_bound(m, s, prior=LAW), "prior"),
    (lambda m, _: wasserstein_bound(m, AffineScore(lambda _: 1.0, lambda _: 0.0, 3)), "score"),
    (lambda m, _: wasserstein_bound(m, AffineScore(lambda _: np.eye(2), lambda _: 0.0, 1)), "precision"),
    (lambda m, _: wasserstein_bound(m, AffineScore(lambda _: 1.0, lambda _: np.zeros(2), 1)), "centre"),
    (lambda m, _: score_error(m, LipschitzScore(m.score, lambda _: 1.0, 1), 1.0), "route"),
    (lambda m, s: coupled_law(m, s, prior=PEAKS), "model"),
    (lambda m, s: coupled_law(m, s, prior=LAW), "prior"),
    (lambda m, s: coupled_paths(m, s, MonteCarlo(9, 1), [0.0, 1.0]), "times"),
    (lambda _, s: wasserstein_bound(ExactModel(Gaussian([0.0], 1.0), FlowMatching()), s), "end"),
    (lambda *_: LipschitzScore.exact(ExactModel(GaussianMixture.isotropic([[0.0], [1.0]], [1, 2]), VPLinear())), "law"),
    (lambda *_: score_rate(Empirical([[0.0], [1.0]])), "law"),
])  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(*example(1.1, 0.2))


def test_what_is_no_model_or_function_is_a_type_error():
    model, score = example(1.1, 0.2)
    for call in (
        lambda: wasserstein_bound(LAW, score),
        lambda: coupled_law(model, LipschitzScore(model.score, lambda _: 1.0, 1)),
        lambda: coupled_paths(model, score, Quadrature(), [1.0, 0.0]),
        lambda: AffineScore(1.0, lambda _: 0.0, 1),
        lambda: LipschitzScore(model.score, 1.0, 1),
    ):
        with pytest.raises(TypeError):
            call()
