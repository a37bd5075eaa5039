"""Entropy, divergence and information of grids: second order with known constants, and the H-theorem exactly."""

import numpy as np
import pytest

from refdiff.distributions import GaussianMixture, random_mixture
from refdiff.dynamics import differential_entropy, divergence_rate, fisher_information
from refdiff.expectations import Quadrature
from refdiff.fokker_planck import (
    FokkerPlanck,
    Grid,
    divergence_loss,
    evolve,
    grid_entropy,
    grid_information,
    grid_relative_entropy,
)
from refdiff.metrics import divergence
from refdiff.model import ExactModel
from refdiff.processes import LinearProcess
from refdiff.schedules import VPLinear
from refdiff.validation.numeric import derivative

RULE = Quadrature(1e-10)
LINE = GaussianMixture.isotropic([[-1.0], [1.5]], [0.4, 0.6], [0.4, 0.6])
OTHER = GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.5], [0.3, 0.7])
PLANE, BESIDE = (random_mixture(2, 2, seed, "full").affine(0.5).convolve(0.3) for seed in (3, 4))
TURNING = LinearProcess([[-1.0, 0.6], [-0.6, -0.5]], [[0.8, 0.0], [0.2, 0.7]], T=1.0)
SIZES = (40, 80, 160)


def orders(errors):
    return np.log2(np.abs(np.array(errors)[:-1]) / np.abs(np.array(errors)[1:]))


@pytest.mark.parametrize(("p", "q"), [(LINE, OTHER), (PLANE, BESIDE)], ids=["line", "plane"])
def test_means_over_cells_lose_entropy_and_divergence_by_their_information(p, q):
    grid = Grid.around([p, q], 60 if p.dim == 1 else 50)
    a, b = grid.averages(p), grid.averages(q)
    h2 = np.diag(grid.spacing**2) / 24
    found = grid_entropy(grid, a) - differential_entropy(p, RULE).value
    # a mean over cells is blurred by a uniform law of variance h^2 / 12, de Bruijn's identity to first order in it
    np.testing.assert_allclose(found, np.trace(h2 @ fisher_information(p, RULE).value), rtol=0.03)
    lost = divergence(p, q, "kl", RULE).value - grid_relative_entropy(grid, a, b)
    np.testing.assert_allclose(lost, np.trace(h2 @ grid_information(grid, a, b)), rtol=0.1)


@pytest.mark.parametrize(("p", "q"), [(LINE, OTHER), (PLANE, BESIDE)], ids=["line", "plane"])
def test_information_is_of_second_order(p, q):
    own, between = [], []
    x = p.sample(20_000, 0)
    gap = p.score(x) - q.score(x)
    for cells in SIZES:
        grid = Grid.around([p, q], cells)
        a, b = grid.averages(p), grid.averages(q)
        own.append(grid_information(grid, a) - fisher_information(p, RULE).value)
        between.append(grid_information(grid, a, b))
    assert (np.abs(orders(own)[-1] - 2) < 0.1).all(), orders(own)
    steps = np.diff(between, axis=0)
    assert (np.abs(np.log2(np.abs(steps[0] / steps[1])) - 2) < 0.2).all()
    limit = (4 * between[-1] - between[-2]) / 3
    z = (gap.T @ gap / len(x) - limit) / (((gap**2).T @ gap**2) / len(x)) ** 0.5 * len(x) ** 0.5
    assert np.abs(z).max() < 4.5  # at most three numbers: a false alarm in 5e4 seeds


def test_information_of_a_density_with_empty_cells_is_finite():
    grid = Grid([0.0], [1.0], 10)
    p = np.zeros(10)
    p[4:6] = 5.0
    assert grid_information(grid, p)[0, 0] == pytest.approx(4 * 2 * 5 / 0.1**2 * 0.1)
    assert grid_information(grid, np.ones(10))[0, 0] == 0


def test_a_ring_has_the_information_of_its_last_face_too():
    grid = Grid([0.0, 0.0], [2 * np.pi, 2 * np.pi], [40, 60])
    x = grid.points
    p = np.exp(np.cos(x[..., 0]) + 0.5 * np.sin(x[..., 0] + x[..., 1]))
    moved = np.roll(p, (7, 11), axis=(0, 1))
    found = [grid_information(grid, part, boundary="periodic") for part in (p, moved)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    # grad log p is closed, and sums over a period of a smooth function are exact
    own, both = -np.sin(x[..., 0]), 0.5 * np.cos(x[..., 0] + x[..., 1])
    score = np.stack([own + both, both], axis=-1)
    exact = np.einsum("xy,xyi,xyj->ij", p, score, score) * grid.volume
    np.testing.assert_allclose(found[0], exact, rtol=0.02)


OPERATORS = [
    pytest.param(FokkerPlanck.of(VPLinear(), Grid([-4.0], [4.0], 30)), id="line"),
    pytest.param(FokkerPlanck.of(TURNING, Grid([-3.0, -3.0], [3.0, 3.0], [9, 10])), id="correlated"),
    pytest.param(
        FokkerPlanck(Grid([-4.0], [4.0], 30), lambda x, _: np.sin(x), lambda x, _: 1 + x**2 / 9, boundary="absorbing"),
        id="absorbing",
    ),
]


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_loss_of_divergence_is_its_derivative(operator):
    rng, grid = np.random.default_rng(2), operator.grid
    p, q = (part / (part.sum() * grid.volume) for part in 0.5 + rng.random((2, *grid.shape)))
    matrix = operator.matrix(0.3)
    h = 0.005 / np.abs(matrix.diagonal()).max()

    def apart(u):
        moved = [evolve_short(matrix, part, u).reshape(grid.shape) for part in (p, q)]
        return grid_relative_entropy(grid, *moved)

    np.testing.assert_allclose(-derivative(apart, 0.0, h), divergence_loss(operator, p, q, 0.3), rtol=1e-8)


def evolve_short(matrix, p, u):
    """e^(u A) p by its series, for short times of either sign."""
    found = term = p.ravel()
    for k in range(1, 12):
        term = u / k * (matrix @ term)
        found = found + term
    return found


@pytest.mark.parametrize("model", [ExactModel(LINE, VPLinear()), ExactModel(PLANE, TURNING)], ids=["line", "plane"])
def test_the_loss_is_the_rate_of_the_equation_to_second_order(model):
    other = OTHER if model.dim == 1 else BESIDE
    t, errors = 0.4, []
    laws = model.marginal(t), ExactModel(other, model.process).marginal(t)
    exact = -divergence_rate(model, other, t, RULE).value
    for cells in (30, 60, 120):
        grid = Grid.around(laws, cells)
        densities = [np.maximum(grid.averages(law), 1e-300) for law in laws]
        errors.append(divergence_loss(FokkerPlanck.of(model.process, grid), *densities, t) - exact)
    assert abs(orders(errors)[-1] - 2) < 0.15, errors


@pytest.mark.parametrize("method", ["euler", "exponential"])
@pytest.mark.parametrize("step", [0.05, 1.0])
def test_exact_and_implicit_steps_never_raise_the_divergence(method, step):
    grid = Grid([-4.0, -3.0], [4.0, 3.0], [12, 10])
    walls = ("periodic", "no-flux")
    operator = FokkerPlanck(
        grid, lambda x, t: np.sin(x[:, ::-1]) - x * t, lambda x, _: 1 + 0.2 * np.cos(x), boundary=walls
    )
    rng, times = np.random.default_rng(0), np.linspace(0, 2, 9)
    p, q = (
        evolve(operator, part, times, step=step, method=method).densities for part in rng.random((2, *grid.shape)) ** 4
    )
    p, q = p / grid.mass(p)[:, None, None], q / grid.mass(q)[:, None, None]
    found = grid_relative_entropy(grid, p, q)
    assert (np.diff(found) < 0).all()
    assert found[-1] < found[0] / 5


def test_a_convex_potential_relaxes_at_least_as_fast_as_bakry_and_emery_say():
    # dx = -V' dx + sqrt(2) dw with V'' >= 1: KL(t) <= e^(-2 t) KL(0), and J(p | pi) as well
    grid = Grid([-5.0], [5.0], 200)
    x = grid.points[:, 0]
    operator = FokkerPlanck(grid, lambda x, _: -x - x**3, lambda *_: 2.0, steady=True)
    rest = np.exp(-(x**2) / 2 - x**4 / 4)
    rest /= grid.mass(rest)
    times = np.linspace(0, 2, 9)
    p = evolve(operator, grid.averages(LINE), times, step=0.25, method="exponential").densities
    kl, information = grid_relative_entropy(grid, p, rest), grid_information(grid, p, rest)[:, 0, 0]
    for found in (kl, information):
        assert (found[1:] <= np.exp(-2 * np.diff(times)) * found[:-1] * (1 + 1e-6)).all()
    assert (2 * kl <= information * (1 + 1e-6)).all()  # the log-Sobolev inequality itself, from the same constant


def test_what_flows_into_an_empty_cell_is_told_apart_at_an_infinite_rate():
    operator = FokkerPlanck.of(VPLinear(), Grid([-4.0], [4.0], 30))
    p = np.where(np.arange(30) < 15, 0.25, 0.0)
    assert divergence_loss(operator, p, np.full(30, 0.125), 0.5) == np.inf
    assert grid_relative_entropy(operator.grid, np.full(30, 0.125), p) == np.inf


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda g: grid_entropy(g, -np.ones(4)), ValueError, "negative"),
        (lambda g: grid_entropy(g, np.ones(5)), ValueError, "density"),
        (lambda g: grid_relative_entropy(g, np.ones(4), np.ones(3)), ValueError, "q must"),
        (lambda g: grid_information(g, np.ones(4), np.zeros(4)), ValueError, "other must be positive"),
        (lambda g: grid_information(g, np.ones(4), boundary="open"), ValueError, "boundary"),
        (lambda g: divergence_loss(g, np.ones(4), np.ones(4)), TypeError, "operator"),
        (lambda g: divergence_loss(FokkerPlanck.of(VPLinear(), g), np.ones(4), np.zeros(4)), ValueError, "q positive"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(Grid([0.0], [1.0], 4))
