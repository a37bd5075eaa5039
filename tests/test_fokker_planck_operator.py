"""Rates between cells: a generator of a Markov chain, of second order, in every sense of a diffusion of the state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import expm_multiply
from scipy.stats import gamma

from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.fokker_planck import FokkerPlanck, Grid, stationary
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, LinearProcess, ornstein_uhlenbeck
from refdiff.schedules import FlowMatching, VPLinear
from refdiff.stochastic import StochasticEquation, forward_equation, marginal_family

TURNING = np.array([[1.0, 2.0], [-2.0, 1.0]])
CORRELATED = np.array([[1.0, 0.0], [0.5, 0.8]])
LAW = GaussianMixture.isotropic([[-1.0, 0.0], [2.0, 1.0]], [0.3, 0.5])


def dense(operator, t=0.1, **how):
    return operator.matrix(t, **how).toarray()


@given(
    seed=st.integers(0, 2**32 - 1),
    boundary=st.tuples(*[st.sampled_from(["no-flux", "periodic", "absorbing"])] * 2),
    sense=st.sampled_from(["ito", "fick"]),
    strength=st.floats(1e-3, 1e3),
)
def test_rates_are_those_of_a_markov_chain_for_every_drift_and_noise(seed, boundary, sense, strength):
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, 2))

    def drift(x, t):
        return strength * np.stack([np.sin(x @ a + t), np.cos(x @ b)], axis=-1)

    def diffusion(x, _):
        own = 1.5 + np.stack([np.sin(x @ b), np.cos(x @ c)], axis=-1)
        mixed = 0.45 * np.sin(x @ a)
        return np.stack([np.stack([own[:, 0], mixed], -1), np.stack([mixed, own[:, 1]], -1)], -2)

    matrix = dense(FokkerPlanck(Grid([0, 0], [5, 4], (5, 4)), drift, diffusion, sense, boundary))
    outside = matrix - np.diag(np.diag(matrix))
    sums = matrix.sum(axis=0)
    size = np.abs(matrix).max()
    assert (outside >= 0).all()
    assert (sums <= 1e-13 * size).all()
    if "absorbing" not in boundary:
        assert np.abs(sums).max() <= 1e-13 * size


def truncation(make, law, after, counts):
    """Errors of e^(t A) p_0 in the largest density, with cells made smaller."""
    found = []
    for n in counts:
        grid = Grid.around([law, after], n)
        p = expm_multiply(make(grid), grid.averages(law).ravel()).reshape(grid.shape)
        q = grid.averages(after)
        found.append(np.abs(p - q).max() / q.max())
    return np.array(found)


@pytest.mark.parametrize("fit", ["fitted", "hybrid"])
@pytest.mark.parametrize(
    ("noise", "counts"), [(np.eye(2), (48, 96)), (CORRELATED, (64, 128))], ids=["rotating", "correlated"]
)
def test_matrix_processes_are_solved_to_second_order(noise, counts, fit):
    process = ornstein_uhlenbeck(TURNING / 2, noise=noise, T=3.0)
    after = ExactModel(LAW, process).marginal(0.6)
    errors = truncation(lambda grid: 0.6 * FokkerPlanck.of(process, grid, fit=fit).matrix(0.1), LAW, after, counts)
    assert 1.7 < np.log2(errors[0] / errors[1]) < 2.5
    assert errors[1] < 0.02


def test_an_upwind_fit_is_of_first_order_and_so_is_a_drift_without_noise():
    law, process = Gaussian([1.0], 0.3), VPLinear(2.0, 2.0, T=3.0)
    after = ExactModel(law, process).marginal(0.5)
    upwind = truncation(lambda g: 0.5 * FokkerPlanck.of(process, g, fit="upwind").matrix(0.1), law, after, (100, 200))
    assert 0.8 < np.log2(upwind[0] / upwind[1]) < 1.2
    shrunk = law.affine(np.exp(-0.5))
    drift = truncation(
        lambda g: 0.5 * FokkerPlanck(g, lambda x, _: -x, lambda *_: 0.0).matrix(0.0), law, shrunk, (400, 800)
    )
    assert 0.8 < np.log2(drift[0] / drift[1]) < 1.1


@pytest.mark.parametrize(("sense", "theta"), [("ito", 1.0), ("stratonovich", 0.5), ("fick", 0.0)])
def test_the_sense_of_a_noise_of_the_state_decides_what_is_stationary(sense, theta):
    # dx = k (m - x) dt + s sqrt(x) dw: p ~ x^(2 k m / s^2 - theta) e^(-2 k x / s^2)
    k, m, s = 2.0, 1.5, 0.8
    exact = gamma(2 * k * m / s**2 + 1 - theta, scale=s**2 / (2 * k))
    errors = []
    for n in (100, 200):
        grid = Grid(0, 12, n)
        p = stationary(FokkerPlanck(grid, lambda x, _: k * (m - x), lambda x, _: s**2 * x, sense))
        q = np.diff(exact.cdf(grid.faces(0))) / grid.volume
        errors.append(np.abs(p - q).max() / q.max())
    # the other senses are off by a tenth and more
    assert errors[1] < 2e-3
    assert 1.8 < np.log2(errors[0] / errors[1]) < 2.2


def test_a_fick_flux_of_pure_noise_keeps_the_uniform_density_and_ito_the_inverse_of_the_noise():
    grid = Grid([0, 0], [1, 2], (12, 12))
    spread = 1 + grid.points[..., 0] ** 2 + 0.5 * grid.points[..., 1]

    def diffusion(x, _):
        return np.repeat((1 + x[:, :1] ** 2 + 0.5 * x[:, 1:]), 2, axis=1)

    still = {sense: stationary(FokkerPlanck(grid, lambda x, _: 0 * x, diffusion, sense)) for sense in ("fick", "ito")}
    assert np.allclose(still["fick"], 0.5, rtol=1e-12)
    assert np.ptp(still["ito"] * spread) < 1e-12 * (still["ito"] * spread).max()


@pytest.mark.parametrize("dim", [1, 2])
def test_processes_equations_and_functions_make_one_matrix(dim):
    grid = Grid(*([[-3.0] * dim, [4.0] * dim]), 9)
    process = AffineProcess(VPLinear(0.1, 8.0), offset=lambda t: (0.3 * t * np.ones(dim), 0.3 * np.ones(dim), 0.0))
    direct = dense(FokkerPlanck.of(process, grid), 0.4)
    equation = forward_equation(process, dim)
    assert np.allclose(dense(FokkerPlanck.of_equation(equation, grid), 0.4), direct, rtol=1e-13)
    if dim == 2:
        rate = np.diag([1.0, 2.0])
        both = [
            LinearProcess(-rate, np.eye(2), 1.0),
            LinearProcess(lambda _: -rate, lambda _: np.eye(2), 1.0),
        ]
        assert np.array_equal(*[dense(FokkerPlanck.of(one, grid)) for one in both])


def test_a_matrix_without_correlation_is_its_diagonal():
    grid = Grid([-3, -3], [4, 3], (8, 9))
    one = FokkerPlanck(grid, lambda x, _: -x, lambda *_: np.diag([1.0, 2.0]))
    other = FokkerPlanck(grid, lambda x, _: -x, lambda *_: np.array([1.0, 2.0]), separable=True)
    each = FokkerPlanck(grid, lambda x, _: -x, lambda x, _: np.tile(np.diag([1.0, 2.0]), (len(x), 1, 1)))
    assert np.allclose(dense(one), dense(other), rtol=1e-14)
    assert np.allclose(dense(one), dense(each), rtol=1e-14)


def test_a_reversal_turns_the_drift_and_not_the_noise():
    model = ExactModel(LAW, FlowMatching())
    grid = Grid.around(LAW, 20)
    back = FokkerPlanck.of_equation(marginal_family(model, 1.0), grid)
    forth = FokkerPlanck(grid, lambda x, t: -back.drift(x, t), back.diffusion)
    assert np.allclose(dense(back, 0.5, to_data=True), dense(forth, 0.5), rtol=1e-13)


def test_noise_too_correlated_for_the_cells_is_refused_and_the_right_aspect_named():
    covariance = np.array([[1.0, 1.9], [1.9, 4.0]])
    equation = StochasticEquation(lambda x, _: -x, lambda _: np.linalg.cholesky(covariance), 2)
    with pytest.raises(ValueError, match=r"h_2 / h_1 in \[1.9, 2.10526\], got 1$"):
        FokkerPlanck.of_equation(equation, Grid([-4, -4], [4, 4], 16)).matrix(0.0)
    matrix = dense(FokkerPlanck.of_equation(equation, Grid([-4, -8], [4, 8], 16)))
    assert (matrix - np.diag(np.diag(matrix)) >= 0).all()


def test_noise_along_a_diagonal_alone_is_taken():
    root = np.array([[1.0], [1.0]])
    operator = FokkerPlanck(Grid([-3, -3], [3, 3], 6), lambda x, _: x[:, ::-1] - x, lambda *_: root @ root.T)
    matrix = dense(operator)
    assert (matrix - np.diag(np.diag(matrix)) >= 0).all()
    assert np.abs(matrix.sum(axis=0)).max() < 1e-13


@pytest.mark.parametrize("noise", [np.ones((2, 2)), np.array([[1.0, -1.0], [-1.0, 1.0]]), np.diag([1.0, 0.0])])
def test_cells_move_with_the_drift_also_where_there_is_no_noise(noise):
    grid, b = Grid([-1, -1], [1, 1], 5), np.array([0.3, -0.7])
    operator = FokkerPlanck(grid, lambda x, _: np.broadcast_to(b, x.shape), lambda *_: noise)
    moved = (operator.matrix(0.0).T @ grid.points.reshape(-1, 2)).reshape(5, 5, 2)
    assert np.allclose(moved[1:-1, 1:-1], b, rtol=1e-12)


def test_steady_rates_are_made_once():
    calls = []

    def drift(x, t):
        calls.append(t)
        return -x

    operator = FokkerPlanck(Grid(-1, 1, 5), drift, lambda *_: 1.0, steady=True)
    assert operator.rates(0.1) is not None
    assert np.array_equal(dense(operator, 0.2), dense(operator, 0.3))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda g: FokkerPlanck(1, abs, abs), TypeError, "grid"),
        (lambda g: FokkerPlanck(g, 1, abs), TypeError, "drift"),
        (lambda g: FokkerPlanck(g, abs, 1), TypeError, "diffusion"),
        (lambda g: FokkerPlanck(g, abs, abs, "itoh"), ValueError, "sense"),
        (lambda g: FokkerPlanck(g, abs, abs, fit="best"), ValueError, "fit"),
        (lambda g: FokkerPlanck(g, abs, abs, boundary="wall"), ValueError, "boundary"),
        (lambda g: FokkerPlanck(g, abs, abs, boundary=["no-flux"]), ValueError, "boundary"),
        (lambda g: FokkerPlanck.of("VP", g), TypeError, "process"),
        (lambda g: FokkerPlanck.of(LinearProcess([[-1.0]], [[1.0]]), g), ValueError, "process must have 2 axes|got 1"),
        (lambda g: FokkerPlanck.of_equation("dx", g), TypeError, "equation"),
        (lambda g: FokkerPlanck.of_equation(forward_equation(VPLinear(), 1), g), ValueError, "2 dimensions"),
        (lambda g: FokkerPlanck(g, lambda x, _: x[0], lambda *_: 1.0).rates(0.0), ValueError, "drift"),
        (lambda g: FokkerPlanck(g, lambda x, _: x, lambda *_: -1.0).rates(0.0), ValueError, "diffusion must not be"),
        (
            lambda g: FokkerPlanck(g, lambda x, _: x, lambda *_: [[1.0, 0.0], [0.5, 0.8]]).rates(0.0),
            ValueError,
            "diffusion must be symmetric",
        ),
        (
            lambda g: FokkerPlanck(g, lambda x, _: x, lambda *_: [[-1.0, 0.5], [0.5, 1.0]]).rates(0.0),
            ValueError,
            "diffusion must not be negative",
        ),
        (
            lambda g: FokkerPlanck(g, lambda x, _: x, lambda x, _: x[0, :1]).rates(0.0),
            ValueError,
            "diffusion must answ",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make(Grid([-1, -1], [1, 1], 4))


def test_a_stratonovich_noise_needs_its_root():
    def diffusion(x, _):
        return (1 + x[:, :1, None] ** 2) * np.array([[1.0, 0.5], [0.5, 1.0]])

    operator = FokkerPlanck(Grid([-1, -1], [1, 1], 4), lambda x, _: x, diffusion, "stratonovich")
    with pytest.raises(ValueError, match="depends on the root"):
        operator.rates(0.0)
