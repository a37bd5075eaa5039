"""Overdamped Langevin: the equation keeps its target for every preconditioner, the step is the printed one."""

import numpy as np
import pytest

from refdiff import ExactModel, VPLinear
from refdiff.distributions import Empirical, Gaussian, random_mixture
from refdiff.langevin import Preconditioner, Target, langevin_equation, target_of, unadjusted_langevin
from refdiff.random import normals
from refdiff.validation.numeric import divergence, jacobian

LAW = random_mixture(2, 3, 4, "full")
TURN = np.array([[0.0, 0.7], [-0.7, 0.0]])
MATRIX = np.array([[1.0, 0.4], [0.4, 0.8]])


def bent(x):
    """A matrix M(x), symmetric positive definite, that changes along both axes."""
    c, s = np.cos(x[:, 0]), np.sin(x[:, 1])
    return np.stack([np.stack([2 + c, 0.3 * s], axis=1), np.stack([0.3 * s, 1.5 + 0.5 * s], axis=1)], axis=1)


def bent_divergence(x):
    return np.stack([-np.sin(x[:, 0]) + 0.3 * np.cos(x[:, 1]), 0.5 * np.cos(x[:, 1])], axis=1)


def turning(x):
    return np.sin(x[:, 0] + 2 * x[:, 1])[:, None, None] * TURN


def turning_divergence(x):
    slope = np.cos(x[:, 0] + 2 * x[:, 1])
    return np.stack([2 * 0.7 * slope, -0.7 * slope], axis=1)


PRECONDITIONERS = {
    "none": Preconditioner(),
    "diagonal": Preconditioner([0.5, 2.0]),
    "matrix": Preconditioner(MATRIX),
    "skew": Preconditioner(MATRIX, TURN),
    "singular and skew": Preconditioner(np.diag([1.0, 0.0]), TURN),
    "diagonal that varies": Preconditioner(lambda x: 1.5 + np.sin(x), 0.0, lambda x: np.cos(x)),
    "matrix that varies": Preconditioner(bent, 0.0, bent_divergence),
    "all varies": Preconditioner(bent, turning, lambda x: bent_divergence(x) + turning_divergence(x)),
    "skew alone varies": Preconditioner(MATRIX, turning, turning_divergence),
    "singular and a skew that varies": Preconditioner([1.0, 0.0], turning, turning_divergence),
}


def rate_of_change(equation, x):
    """d_t p / p under the equation where the density is the target's, by stencils of p alone."""
    here = LAW.logpdf(x)

    def p(y):
        return np.exp(LAW.logpdf(y) - here)[:, None]

    def spread(y):
        d = equation.covariance_rate(y, 0.0)
        if d.ndim < 2:
            d = np.broadcast_to(d, 2)
        full = np.broadcast_to(np.diag(d) if d.ndim == 1 else d, (len(y), 2, 2)) if equation.additive else d
        full = np.einsum("ni,ij->nij", full, np.eye(2)) if full.ndim == 2 else full
        return full * p(y)[:, :, None] / 2

    def flux(y):
        return equation.drift_at(y, 0.0) * p(y) - np.einsum("nijj->ni", jacobian(spread, y, 0.01))

    return divergence(flux, x, 0.01)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_the_target_does_not_change_under_the_equation(name):
    x = LAW.sample(4, 1)
    # two stencils of the eighth order with h = .01: rounding 1e-16 / h^2
    assert np.abs(rate_of_change(langevin_equation(LAW, PRECONDITIONERS[name]), x)).max() < 2e-8


@pytest.mark.parametrize("name", ["diagonal that varies", "matrix that varies", "all varies"])
def test_without_the_divergence_it_does(name):
    given = PRECONDITIONERS[name]
    dropped = Preconditioner(given.matrix, given.skew, np.zeros_like)
    assert np.abs(rate_of_change(langevin_equation(LAW, dropped), LAW.sample(4, 1))).max() > 1e-3


@pytest.mark.parametrize("name", ["none", "diagonal", "matrix", "skew", "diagonal that varies", "matrix that varies",
                                  "skew alone varies", "singular and a skew that varies"])  # fmt: skip
def test_a_step_is_euler_s_of_the_equation_with_the_chain_s_own_normals(name):
    x, equation = LAW.sample(5, 2), langevin_equation(LAW, PRECONDITIONERS[name])
    wanted = x
    for k in range(3):
        z = normals(7, range(10, 15), 4 + k, 2)
        wanted = wanted + 0.02 * equation.drift_at(wanted, 0.0) + equation.scattered(wanted, 0.0, np.sqrt(0.02) * z)
    options = {"step_size": 0.02, "seed": 7, "preconditioner": PRECONDITIONERS[name]}
    found = unadjusted_langevin(LAW, x, steps=3, particle=10, draw=4, **options)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


def test_chains_are_the_same_in_parts_of_a_batch_and_of_a_run():
    x, options = LAW.sample(6, 3), {"step_size": 0.1, "seed": 11}
    whole = unadjusted_langevin(LAW, x, steps=5, trajectory=True, **options)
    assert whole.shape == (6, 6, 2)
    first = unadjusted_langevin(LAW, x[2:], steps=2, particle=2, **options)
    np.testing.assert_array_equal(first, whole[2, 2:])
    np.testing.assert_array_equal(unadjusted_langevin(LAW, first, steps=3, particle=2, draw=2, **options), whole[5, 2:])
    folded = unadjusted_langevin(LAW, x.reshape(2, 3, 2).astype(np.float32), steps=1, **options)
    assert folded.dtype == np.float32
    np.testing.assert_allclose(folded.reshape(6, 2), whole[1], rtol=1e-5, atol=1e-6)


def test_a_model_at_a_time_and_functions_are_targets_too():
    model = ExactModel(Empirical([[-1.0], [1.0]]), VPLinear())
    law, x = model.marginal(0.4), np.array([[0.3], [-1.2]])
    own = Target(law.score, 1)
    found = [unadjusted_langevin(t, x, step_size=0.1, steps=2, seed=3) for t in (law, target_of(model, 0.4), own)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_allclose(target_of(model, 0.4).log_density_at(x), law.logpdf(x), rtol=1e-12)


def test_what_is_no_target_or_preconditioner_is_refused():
    with pytest.raises(TypeError, match="target must be a Target, a GaussianMixture or an ExactModel"):
        unadjusted_langevin(3, [[0.0]], step_size=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="t must be given for a model"):
        target_of(ExactModel(LAW, VPLinear()))
    with pytest.raises(ValueError, match="t must be left out"):
        target_of(LAW, 0.3)
    with pytest.raises(ValueError, match="the law at t = 0"):
        target_of(ExactModel(Empirical([[0.0]]), VPLinear()), 0.0)
    with pytest.raises(ValueError, match="step_size must lie in"):
        unadjusted_langevin(LAW, [[0.0, 0.0]], step_size=0.0, steps=1, seed=0)
    with pytest.raises(ValueError, match="matrix of shape"):
        unadjusted_langevin(Gaussian([0.0], 1.0), [[0.0]], step_size=0.1, steps=1, seed=0, preconditioner=[1.0, 2.0])
    with pytest.raises(ValueError, match="skew must be antisymmetric"):
        Preconditioner(1.0, MATRIX)
    with pytest.raises(ValueError, match="skew must be 0 or a matrix"):
        Preconditioner(1.0, 2.0)
    with pytest.raises(ValueError, match="divergence must be given"):
        Preconditioner(bent)
    with pytest.raises(ValueError, match="divergence must be left out"):
        Preconditioner(1.0, 0.0, bent_divergence)
    with pytest.raises(ValueError, match="score must answer with shape"):
        unadjusted_langevin(Target(lambda x: x[:, 0], 2), [[0.0, 0.0]], step_size=0.1, steps=1, seed=0)
    with pytest.raises(TypeError, match="score must be a function"):
        Target(1.0, 2)
    with pytest.raises(ValueError, match="score must be finite"), np.errstate(all="ignore"):
        unadjusted_langevin(Target(lambda x: -(x**3), 1), [[50.0]], step_size=1.0, steps=30, seed=0)
    for matrix in (lambda x: np.full((len(x), 2), -1.0), lambda x: np.zeros((len(x), 2, 2))):
        with pytest.raises(ValueError, match="matrix must"):
            Preconditioner(matrix, 0.0, np.zeros_like).at(np.zeros((3, 2)))
