"""Feynman and Kac's formula: known closed forms, sums of terms, paths with errors, infinite expectations, refusals."""

import numpy as np
import pytest

from refdiff import Gaussian, GaussianMixture
from refdiff.objectives import log_mean_exp
from refdiff.path_measures import AffineEquation, EndWeight, FeynmanKac, Quadratic, affine_forward, path_log_weights
from refdiff.processes import AffineProcess, Chain, LinearProcess
from refdiff.schedules import VPLinear

BROWNIAN = AffineEquation(lambda t: 0.0, lambda t: 0.0, lambda t: 1.0, 1)
ONE = Quadratic([[0.0]])
TURNING = LinearProcess([[0.0, 2.0], [-1.0, -1.0]], [[0.4, 0.0], [0.3, 1.1]], force=[0.3, -0.2])
V = Quadratic([[1.0, 0.3], [0.3, 0.5]], [0.2, -0.1], 0.4)
PHI = Quadratic([[0.5, 0.0], [0.0, 1.0]], [0.3, 0.2], -0.2)


def test_cameron_and_martins_cosines():
    # E exp(-l^2/2 int w^2) = cosh(l T)^(-1/2) exp(-l/2 tanh(l T) x^2), at any time
    l = 1.3
    formula = FeynmanKac(BROWNIAN, Quadratic([[l * l]]), ONE, 0.0, 2.0)
    for t in (0.0, 0.7, 1.99, 2.0):
        left = 2.0 - t
        for x in (0.0, 0.8):
            exact = -0.5 * np.log(np.cosh(l * left)) - 0.5 * l * np.tanh(l * left) * x * x
            assert abs(formula.log_h([x], t) - exact) < 1e-13
        np.testing.assert_allclose(formula.gradient([[0.8]], t), [[-l * np.tanh(l * left) * 0.8]], atol=1e-13)


def test_a_rewarded_spread_is_infinite_after_a_quarter_turn():
    # E exp(+1/2 int w^2) = cos(T)^(-1/2) for T < pi / 2
    formula = FeynmanKac(BROWNIAN, Quadratic([[-1.0]]), ONE, 0.0, 1.5)
    assert abs(formula.log_h([0.0], 0.0) + 0.5 * np.log(np.cos(1.5))) < 1e-10
    with pytest.raises(ValueError, match=r"infinite before t = 0\.429"):  # 2 - pi / 2
        FeynmanKac(BROWNIAN, Quadratic([[-1.0]]), ONE, 0.0, 2.0)
    with pytest.raises(ValueError, match="finite expectation"):  # E exp(w^2 / 2) over time 1
        FeynmanKac(BROWNIAN, ONE, Quadratic([[-1.01]]), 0.0, 1.0)


def test_constants_and_slopes_along_a_line():
    # E exp(int (a w + r)) = exp(a x T + a^2 T^3 / 6 + r T)
    formula = FeynmanKac(BROWNIAN, Quadratic([[0.0]], [0.7], -0.2), ONE, 0.0, 1.5)
    assert abs(formula.log_h([0.4], 0.0) - (0.7 * 0.4 * 1.5 + 0.49 * 1.5**3 / 6 - 0.3)) < 1e-13


@pytest.mark.parametrize(
    "process", [TURNING, AffineProcess([VPLinear(), VPLinear(0.5, 3.0)])], ids=["matrices", "axes"]
)
def test_without_a_potential_it_is_doobs_function(process):
    ends = GaussianMixture.full([[1.0, 0.0], [-1.0, 0.5]], [0.2 * np.eye(2), [[0.3, 0.1], [0.1, 0.2]]], [0.4, 0.6])
    terms = Quadratic.log_densities(ends)
    formula = FeynmanKac(affine_forward(process, 2), Quadratic(np.zeros((2, 2))), terms, 0.6, 1.0)
    weight, x = EndWeight(process, ends), np.random.default_rng(0).standard_normal((5, 2))
    np.testing.assert_allclose(formula.log_h(x, 0.7), weight.log_h(x, 0.7), rtol=1e-10)
    np.testing.assert_allclose(formula.gradient(x, 0.7), weight.gradient(x, 0.7), rtol=1e-10)
    np.testing.assert_allclose(formula.log_h(x, 1.0), ends.logpdf(x), rtol=1e-12)


def test_potentials_of_time_add_up():
    # V = r(t) alone multiplies by e^(int r)
    formula = FeynmanKac(BROWNIAN, lambda t: Quadratic([[0.0]], None, np.cos(t)), Quadratic([[1.0]]), 0.2, 1.7)
    plain = FeynmanKac(BROWNIAN, ONE, Quadratic([[1.0]]), 0.2, 1.7)
    found = formula.log_h([0.3], 0.2) - plain.log_h([0.3], 0.2)
    assert abs(found - (np.sin(1.7) - np.sin(0.2))) < 1e-12


def test_paths_give_the_same_within_their_errors():
    times, start = np.linspace(0.0, 1.0, 33), np.array([0.4, -0.5])
    exact = FeynmanKac(affine_forward(TURNING, 2), V, PHI, 0.0, 1.0).log_h(start, 0.0)
    paths = Chain.of(TURNING, times).sample(np.tile(start, (8000, 1)), 3)
    logs = path_log_weights(paths, times, lambda x, t: V.at(x), PHI.at)
    found = log_mean_exp(logs)
    # 4.5 standard errors: a false alarm in 7e-6 of seeds, and this one is fixed; the trapezoidal rule errs by 1e-4
    assert abs(found.value - exact) < 4.5 * found.error + 1e-3
    assert found.error < 0.02
    assert found.effective > 1000


def test_batches_of_paths_and_their_precision():
    times = np.array([0.0, 0.5, 1.0])
    paths = np.ones((3, 2, 4, 1), dtype=np.float32)
    logs = path_log_weights(paths, times, lambda x, t: t * x[:, 0], lambda x: np.zeros(len(x)))
    assert logs.shape == (2, 4)
    assert logs.dtype == np.float32
    np.testing.assert_allclose(logs, 0.5)  # the trapezoidal rule is exact for lines
    formula = FeynmanKac(BROWNIAN, ONE, Quadratic([[1.0]]), 0.0, 1.0)
    assert formula.log_h(np.zeros((2, 3, 1), dtype=np.float32), 0.2).dtype == np.float32
    assert formula.gradient(np.zeros((2, 3, 1)), 0.2).shape == (2, 3, 1)


def test_quadratics_have_values_gradients_and_means():
    x, law = np.random.default_rng(1).standard_normal((4, 2)), Gaussian([0.3, -0.4], [[0.5, 0.1], [0.1, 0.3]])
    density = Quadratic.log_densities(law)[0]
    np.testing.assert_allclose(density.at(x), law.logpdf(x), rtol=1e-13)
    np.testing.assert_allclose(density.gradient(x), law.score(x), rtol=1e-12)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * law.cov())[1]
    np.testing.assert_allclose(density.mean(law.mean(), law.cov()), -entropy, rtol=1e-13)


def test_refusals():
    for bad, name in (
        (lambda: Quadratic([[1.0, 0.0]]), "curvature"),
        (lambda: Quadratic([[1.0, 0.5], [0.0, 1.0]]), "curvature"),
        (lambda: Quadratic([[1.0]], [1.0, 2.0]), "slope"),
        (lambda: FeynmanKac(BROWNIAN, Quadratic(np.eye(2)), ONE, 0.0, 1.0), "potential"),
        (lambda: FeynmanKac(BROWNIAN, ONE, [], 0.0, 1.0), "terminal"),
        (lambda: FeynmanKac(BROWNIAN, ONE, ONE, 1.0, 0.0), "start"),
        (lambda: FeynmanKac(BROWNIAN, ONE, ONE, 0.0, 1.0).log_h([0.0], 1.5), "t must"),
        (lambda: Quadratic.log_densities(Gaussian([0.0], 0.0)), "law"),
        (lambda: path_log_weights(np.zeros((2, 3, 1)), [1.0, 0.0], lambda x, t: x[:, 0], lambda x: x[:, 0]), "times"),
        (lambda: path_log_weights(np.zeros((2, 3, 1)), [0.0, 1.0], lambda x, t: x, lambda x: x[:, 0]), "potential"),
    ):
        with pytest.raises(ValueError, match=name):
            bad()
    with pytest.raises(TypeError, match="equation"):
        FeynmanKac(TURNING, ONE, ONE, 0.0, 1.0)
    with pytest.raises(TypeError, match="terminal"):
        FeynmanKac(BROWNIAN, ONE, [1.0], 0.0, 1.0)
