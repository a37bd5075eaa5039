"""Currents on grids are those of the exact model to second order; what flows out of a box is the integral of div."""

import numpy as np
import pytest

from refdiff.distributions import GaussianMixture, random_mixture
from refdiff.fokker_planck import flow_velocity, grid_divergence, outflow, probability_current
from refdiff.fokker_planck.grid import Grid
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, critically_damped_langevin
from refdiff.schedules import FlowMatching, VPLinear

LINE = GaussianMixture.isotropic([[-1.0], [1.5]], [0.3, 0.5], [0.4, 0.6])
PLANE = random_mixture(2, 3, 3, "full").convolve(0.5)


def on_a_grid(model, t, cells):
    """Density, drift and diffusion on a grid, and the points within 3 deviations, away from its ends."""
    here, process = model.marginal(t), model.process
    spread = 4 * np.sqrt(np.diag(here.cov()))
    grid = Grid(here.mean() - spread, here.mean() + spread, cells)
    x = grid.points
    dense = np.asarray(process.drift(t)) * np.eye(model.dim) if np.ndim(process.drift(t)) < 2 else process.drift(t)
    inside = (np.abs((x - here.mean()) / spread) < 0.7).all(axis=-1)
    return grid, np.exp(here.logpdf(x)), x @ np.asarray(dense).T, process.diffusion(t), inside


CASES = [
    pytest.param(ExactModel(LINE, VPLinear()), id="line"),
    pytest.param(ExactModel(PLANE, VPLinear()), id="scalar"),
    pytest.param(ExactModel(PLANE, AffineProcess([VPLinear(), FlowMatching()])), id="per axis"),
    pytest.param(ExactModel(PLANE, critically_damped_langevin(1)), id="matrix"),
]


@pytest.mark.parametrize("model", CASES)
def test_the_flow_velocity_of_a_grid_is_the_models_to_second_order(model):
    t, errors = 0.4, []
    for every in (1, 3, 9):  # with thrice the cells every third has the centre of an old one
        grid, p, b, d, inside = on_a_grid(model, t, 40 * every)
        kept = (slice(every // 2, None, every),) * model.dim
        x, inside = grid.points[kept], inside[kept]
        x, density = x[inside], p[kept][inside]
        v, j = flow_velocity(grid, p, b, d), probability_current(grid, p, b, d)
        exact = model.velocity(x, t)
        misses = [
            v[kept][inside] - exact,
            j[kept][inside] - density[:, None] * exact,
            grid_divergence(grid, v)[kept][inside] - model.velocity_divergence(x, t),
            grid_divergence(grid, j)[kept][inside] + density * model.log_density_rate(x, t),
        ]
        errors.append([np.abs(miss).max() for miss in misses])
    orders = np.log(np.array(errors)[:-1] / np.array(errors)[1:]) / np.log(3)
    assert (np.abs(orders[-1] - 2) < 0.1).all(), orders


def test_state_dependent_diffusion_has_the_current_of_ito():
    # D = (1 + x^2), b = 0: j = -(D p)' / 2
    grid = Grid([-3.0], [3.0], 400)
    x = grid.points[:, 0]
    p, d = np.exp(-(x**2)), 1 + x**2
    exact = -0.5 * (2 * x - 2 * x * d) * p
    for given in (d[:, None], d[:, None, None]):
        found = probability_current(grid, p, np.zeros(1), given)[:, 0]
        # h^2 f''' / 6 inside, and twice that at the ends
        np.testing.assert_allclose(found, exact, atol=2e-3)
        np.testing.assert_allclose(flow_velocity(grid, p, np.zeros(1), given)[:, 0], exact / p, atol=2e-3)


def test_the_velocity_where_nothing_is_known_is_no_number():
    grid = Grid([0.0], [1.0], 8)
    p = np.array([0.0, 0.0, 1, 2, 2, 1, 1, 1])
    v = flow_velocity(grid, p, np.ones(1), 1.0)[:, 0]
    assert np.isnan(v).tolist() == [True, True, True] + [False] * 5
    assert np.isfinite(probability_current(grid, p, np.ones(1), 1.0)).all()


def test_many_densities_at_once_have_the_currents_of_each():
    grid = Grid([-1.0, -1.0], [1.0, 2.0], [6, 5])
    p = np.random.default_rng(0).uniform(1, 2, (3, 6, 5))
    b, d = np.random.default_rng(1).standard_normal((6, 5, 2)), np.array([[2.0, 0.5], [0.5, 1.0]])
    for ask in (probability_current, flow_velocity):
        together = ask(grid, p, b, d)
        for one, whole in zip(p, together, strict=True):
            np.testing.assert_array_equal(ask(grid, one, b, d), whole)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_outflow_is_the_integral_of_the_divergence(dim):
    rng = np.random.default_rng(dim)
    a, low = rng.standard_normal((dim, dim)), rng.standard_normal(dim)
    high = low + rng.uniform(0.5, 2, dim)
    volume = np.prod(high - low)
    middle = (high + low) / 2

    def field(x):  # div = tr A + 2 sum_i x_i
        return x @ a.T + x**2

    np.testing.assert_allclose(outflow(field, low, high, 2), volume * (np.trace(a) + 2 * middle.sum()), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: outflow(lambda x: x, [0.0, 1.0], [1.0, 1.0]), "low < high"),
        (lambda g: outflow(lambda x: x[:, :1], [0.0, 0.0], [1.0, 1.0]), "field must answer"),
        (lambda g: probability_current(g, np.ones(3), np.ones(1), 1.0), "density"),
        (lambda g: probability_current(g, np.ones(4), np.ones(3), 1.0), "drift"),
        (lambda g: probability_current(g, np.ones(4), np.ones(1), np.ones(3)), "diffusion"),
        (lambda g: flow_velocity(g, -np.ones(4), np.ones(1), 1.0), "negative"),
        (lambda g: grid_divergence(g, np.ones(4)), "field"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(Grid([0.0], [1.0], 4))
