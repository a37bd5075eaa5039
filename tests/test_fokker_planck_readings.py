"""What is read off a density: scores to second order, fluxes whose divergence is the rate, densities that stay."""

import numpy as np
import pytest

from refdiff.distributions import Gaussian, GaussianMixture, random_mixture
from refdiff.dynamics.equilibrium import stationary_covariance
from refdiff.fokker_planck import FokkerPlanck, Grid, face_fluxes, grid_score, stationary
from refdiff.processes import ornstein_uhlenbeck
from refdiff.schedules import VPLinear

TURNING = np.array([[1.0, 2.0], [-2.0, 1.0]])
NOISE = np.array([[1.0, 0.0], [0.5, 0.8]])


@pytest.mark.parametrize("dim", [1, 2])
def test_scores_of_grids_are_of_second_order_ends_included(dim):
    law = random_mixture(dim, 3, 8, "full")
    errors = []
    for n in (40, 80):
        grid = Grid.around(law, n, 1e-3)
        found = grid_score(grid, grid.averages(law))
        assert found.shape == (*grid.shape, dim)
        errors.append(np.abs(found - law.score(grid.points)).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.35)


def test_the_score_of_values_of_a_gaussian_is_exact():
    law, grid = Gaussian([0.3, -0.2], [[1.0, 0.4], [0.4, 0.5]]), Grid([-6, -4], [6, 4], (12, 11))
    values = np.exp(law.logpdf(grid.points))
    exact = law.score(grid.points)
    assert np.allclose(grid_score(grid, np.stack([values, 2 * values])), exact, atol=1e-12 * np.abs(exact).max())
    assert grid_score(grid, values.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    "boundary", ["no-flux", "absorbing", "periodic", ("periodic", "absorbing"), ("absorbing", "no-flux")], ids=str
)
@pytest.mark.parametrize("to_data", [False, True])
def test_the_divergence_of_the_fluxes_is_the_rate_of_the_density(boundary, to_data):
    process = ornstein_uhlenbeck(TURNING, noise=NOISE, T=3.0)
    operator = FokkerPlanck.of(process, Grid([-3, -3], [3, 3], (7, 7)), boundary=boundary)
    p = np.random.default_rng(0).random((7, 7))
    across, along = face_fluxes(operator, p, 0.1, to_data=to_data)
    h = operator.grid.spacing
    divergence = np.diff(across, axis=0) / h[0] + np.diff(along, axis=1) / h[1]
    rate = (operator.matrix(0.1, to_data=to_data) @ p.ravel()).reshape(p.shape)
    assert np.allclose(divergence, -rate, atol=1e-13 * np.abs(rate).max())
    walls = [
        np.abs(flux).max() for axis, part in enumerate((across, along)) for flux in np.moveaxis(part, axis, 0)[[0, -1]]
    ]
    for axis, kind in enumerate(operator.boundary):
        if kind == "no-flux":
            assert max(walls[2 * axis : 2 * axis + 2]) == 0


@pytest.mark.parametrize("noise", [np.eye(2), NOISE], ids=["independent", "correlated"])
def test_fluxes_are_the_current_of_the_density_to_second_order(noise):
    law = GaussianMixture.isotropic([[-1.0, 0.0], [1.5, 1.0]], [0.6, 0.8])
    process = ornstein_uhlenbeck(TURNING, noise=noise, T=3.0)
    errors = []
    for n in (70, 140):
        grid = Grid([-5, -5], [5, 5], n)
        found = face_fluxes(FokkerPlanck.of(process, grid), grid.averages(law), 0.1)
        worst = []
        for axis, fluxes in enumerate(found):
            places = [grid.faces(k)[1:-1] if k == axis else grid.centres(k) for k in range(2)]
            x = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1)
            speed = -x @ TURNING.T - law.score(x) @ (noise @ noise.T) / 2
            current = np.exp(law.logpdf(x)) * speed[..., axis]
            inner = np.moveaxis(np.moveaxis(fluxes, axis, 0)[1:-1], 0, axis)
            worst.append(np.abs(inner - current).max() / np.abs(current).max())
        errors.append(max(worst))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.25)
    assert errors[1] < 0.05


def test_a_gradient_drift_keeps_its_gibbs_density_exactly_with_correlated_noise_too():
    covariance = np.array([[1.0, 0.3], [0.3, 0.5]])
    process = ornstein_uhlenbeck(NOISE @ NOISE.T / 2 @ np.linalg.inv(covariance), noise=NOISE, T=3.0)
    grid = Grid([-4, -3], [4, 3], 20)
    operator = FokkerPlanck.of(process, grid)
    gibbs = np.exp(Gaussian([0.0, 0.0], covariance).logpdf(grid.points))
    found = stationary(operator)
    # of second order anywhere else, to rounding here; and no flux at all: detailed balance
    assert np.allclose(found, gibbs / grid.mass(gibbs), rtol=1e-11, atol=0)
    fluxes = face_fluxes(operator, found, 0.0)
    assert max(np.abs(part).max() for part in fluxes) < 1e-13
    upwind = stationary(FokkerPlanck.of(process, grid, fit="upwind"))
    assert np.abs(upwind - found).max() > 0.01 * found.max()


def test_what_circulates_is_stationary_to_second_order():
    process = ornstein_uhlenbeck(TURNING, noise=NOISE, T=3.0)
    law = Gaussian([0.0, 0.0], stationary_covariance(-TURNING, NOISE @ NOISE.T))
    errors = []
    for n in (32, 64):
        grid = Grid([-4, -4], [4, 4], n)
        found = stationary(FokkerPlanck.of(process, grid))
        assert (found >= 0).all()
        assert grid.mass(found) == pytest.approx(1, abs=1e-13)
        q = grid.averages(law)
        errors.append(np.abs(found - q).max() / q.max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_on_a_ring_what_stays_may_flow():
    # dx = (1 + sin) dt + sqrt(D) dw on a ring: one flux through all faces
    operator = FokkerPlanck(Grid(0, 2 * np.pi, 40), lambda x, _: 1 + np.sin(x), lambda *_: 0.5, boundary="periodic")
    (fluxes,) = face_fluxes(operator, stationary(operator), 0.0)
    assert fluxes[0] > 0.05
    assert np.allclose(fluxes, fluxes[0], rtol=1e-12)


def test_bad_input_is_refused_by_name():
    grid = Grid(-1, 1, 5)
    operator = FokkerPlanck(grid, lambda x, _: -x, lambda *_: 1.0, boundary="absorbing")
    with pytest.raises(ValueError, match="density must be positive"):
        grid_score(grid, np.zeros(5))
    with pytest.raises(ValueError, match="density"):
        face_fluxes(operator, np.ones((2, 5)), 0.0)
    with pytest.raises(ValueError, match="must keep the mass"):
        stationary(operator)
    for ask in (stationary, lambda given: face_fluxes(given, np.ones(10), 0.0)):
        with pytest.raises(TypeError, match="operator must be a FokkerPlanck"):
            ask(VPLinear(0.1, 8.0))
    with pytest.raises(ValueError, match="connect all cells"):
        stationary(FokkerPlanck(grid, lambda x, _: 0 * x, lambda *_: 0.0))
