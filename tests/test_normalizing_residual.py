"""Residual flows: the inverse and its rate, four ways to a log determinant, and the flow of an ODE as their limit."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.dynamics import flow
from refdiff.normalizing import PushForward, Residual, Roulette, euler_layers, tanh_residual
from refdiff.validation.numeric import extrapolate

SEEDS = st.integers(0, 2**32 - 1)


def network(dim, norm, rng, width=6):
    """A tanh residual whose norms multiply to this."""
    a, w = rng.normal(size=(dim, width)), rng.normal(size=(width, dim))
    return tanh_residual(a / np.linalg.norm(a, 2), norm * w / np.linalg.norm(w, 2), rng.normal(size=width))


@given(seed=SEEDS, dim=st.integers(1, 6), norm=st.floats(0.0, 0.99))
def test_the_inverse_is_exact_up_to_rounding(seed, dim, norm):
    rng = np.random.default_rng(seed)
    f = network(dim, norm, rng)
    z = 3 * rng.normal(size=(5, dim))
    x = f.forward(z)
    # the iteration ends within some eps of its terms, and f^-1 stretches that by 1 / (1 - q)
    size = np.abs(x).max() + np.sqrt(6)
    np.testing.assert_allclose(f.inverse(x), z, rtol=0, atol=2e-14 * size / (1 - norm))
    np.testing.assert_allclose(f.inverse(x)[2], f.inverse(x[2]), rtol=0, atol=1e-14 * size / (1 - norm))


def test_iterates_stay_within_the_bound_and_a_linear_field_reaches_its_rate():
    rng = np.random.default_rng(1)
    f, x = network(4, 0.7, rng), rng.normal(size=(5, 4))
    z, path = f.inverse(x), f.iterates(x, 25)
    assert path.shape == (26, 5, 4)
    first = np.linalg.norm(path[1] - path[0], axis=1)
    for k, at in enumerate(path):
        assert (np.linalg.norm(at - z, axis=1) <= f.inverse_error(first, k) + 1e-14).all()
    line = Residual(2, lambda z: -0.7 * z, lambda z: np.tile(-0.7 * np.eye(2), (len(z), 1, 1)), 0.7)
    gaps = np.linalg.norm(line.iterates(x[:, :2], 25) - x[:, :2] / 0.3, axis=2)
    np.testing.assert_allclose(gaps[1:] / gaps[:-1], 0.7, rtol=1e-9)
    # and there the bound is an equality
    first = np.linalg.norm(0.7 * x[:, :2], axis=1)
    np.testing.assert_allclose(gaps[25], line.inverse_error(first, 25), rtol=1e-9)


@given(seed=SEEDS, dim=st.integers(1, 5), norm=st.floats(0.0, 0.9))
def test_the_series_is_the_log_determinant_within_its_bound(seed, dim, norm):
    rng = np.random.default_rng(seed)
    f, z = network(dim, norm, rng), rng.normal(size=(4, dim))
    exact = f.log_det(z)
    for terms in (0, 1, 5, 60):
        assert (np.abs(f.log_det_series(z, terms) - exact) <= f.series_error(terms) * (1 + 1e-12) + 1e-14 * dim).all()


def test_probes_that_resolve_the_identity_leave_no_variance():
    rng = np.random.default_rng(2)
    f, z = network(3, 0.6, rng), rng.normal(size=(2, 4, 3))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    for probes in (signs, np.sqrt(3) * np.eye(3)):
        np.testing.assert_allclose(f.log_det_probes(z, probes, 60), f.log_det(z), rtol=0, atol=1e-14)
        np.testing.assert_allclose(f.log_det_probes(z, probes, 4), f.log_det_series(z, 4), rtol=0, atol=1e-14)


def test_random_lengths_are_unbiased_where_a_cut_off_series_is_not():
    rng = np.random.default_rng(3)
    f, z = network(2, 0.6, rng), rng.normal(size=2)
    roulette, count = Roulette(0.6, 1), 40_000
    axes = np.sqrt(2) * np.eye(2)
    found = f.log_det_roulette(np.tile(z, (count, 1)), axes, roulette, 5)
    error = found.std() / np.sqrt(count)
    exact = f.log_det(z)
    # 5 standard errors are a false alarm in 6e-7 at this fixed seed; the variance is finite: 0.36 < 0.6
    assert abs(found.mean() - exact) < 5 * error
    assert abs(f.log_det_series(z, 1) - exact) > 20 * error
    # lengths of the two axes are drawn apart: an average of two independent estimates
    slopes = f.jacobian(z) - np.eye(2)
    powers = [np.linalg.matrix_power(slopes, k) for k in range(1, 60)]
    terms = np.array([[(-1) ** (k + 1) * 2 * p[i, i] / k for k, p in enumerate(powers, 1)] for i in range(2)])
    expected = roulette.variance(terms).sum() / 4
    # of n squares with the kurtosis that they have
    spread = np.sqrt(((found - found.mean()) ** 4).mean() / count)
    assert abs(found.var() - expected) < 6 * spread


def test_a_wrong_lipschitz_constant_is_found_out():
    f = Residual(1, lambda z: -0.9 * z, lambda z: np.full((len(z), 1, 1), -0.9), 0.5)
    with pytest.raises(ValueError, match="lipschitz must bound"):
        f.inverse([[1.0]])
    far = Residual(1, lambda z: -1.5 * np.sin(z), lambda z: -1.5 * np.cos(z)[:, :, None], 0.9)
    with pytest.raises(ValueError, match="lipschitz must bound"):
        far.inverse([[0.3]])


def test_no_constant_is_needed_where_z_is_known():
    f = Residual(2, lambda z: 2 * z, lambda z: np.tile(2 * np.eye(2), (len(z), 1, 1)), None)
    x, log_p = PushForward(Gaussian([0.0, 0.0], 1.0), f).carried([[1.0, -0.5]])
    np.testing.assert_allclose(log_p, Gaussian([0.0, 0.0], 9.0).logpdf(x), rtol=1e-14)
    for ask in (f.inverse, lambda z: f.log_det_probes(z, np.eye(2), 3)):
        with pytest.raises(ValueError, match="lipschitz must be below 1"):
            ask([[1.0, 1.0]])


def test_residual_layers_keep_shape_and_precision():
    rng = np.random.default_rng(4)
    f, z = network(3, 0.5, rng), rng.normal(size=(2, 2, 3)).astype(np.float32)
    probes = rng.choice([-1.0, 1.0], size=(4, 3))
    for found, tail in (
        (f.log_det_series(z, 5), ()),
        (f.log_det_probes(z, probes, 5), ()),
        (f.log_det_roulette(z, probes, Roulette(), 1), ()),
        (f.inverse(z), (3,)),
    ):
        assert found.dtype == np.float32
        assert found.shape == (2, 2, *tail)
    assert f.log_det_roulette(z[:0], probes, Roulette(), 1).shape == (0, 2)
    assert f.inverse(z[:0]).shape == (0, 2, 3)


# ---------------------------------------------------------------------- the limit of many layers


def euler(model, start, end, steps, lipschitz=None):
    times = np.linspace(start, end, steps + 1)
    return euler_layers(model.velocity, model.velocity_jacobian, times, model.dim, lipschitz)


def test_euler_layers_of_gaussian_data_are_the_affine_map_that_they_are():
    law, schedule = Gaussian([0.5, -1.0], [1.0, 0.25]), VPLinear()
    model = ExactModel(law, schedule)
    layers = euler(model, 1.0, 0.1, 30, lipschitz=25.0)
    z = model.sample(6, 1.0, 1)
    values, gain = np.array([1.0, 0.25]), np.ones(2)
    for s, t in itertools.pairwise(np.linspace(1.0, 0.1, 31)):
        c = schedule.coefficients(s)
        v = c.alpha**2 * values + c.sigma**2
        gain = gain * (1 + (t - s) * (c.alpha * c.dalpha * values + c.dvariance / 2) / v)
    x = layers.forward(z)
    np.testing.assert_allclose(layers.log_det(z), np.log(gain).sum(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.diff(x, axis=0), gain * np.diff(z, axis=0), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(layers.inverse(x), z, rtol=0, atol=1e-11)


def test_the_flow_of_an_ode_is_the_limit_of_the_first_order():
    law = GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.5]], 0.3, [0.4, 0.6])
    model = ExactModel(law, FlowMatching())
    z = model.sample(4, 0.9, 2)
    exact = flow(model, z, 0.9, 0.2, log_density=True, rtol=1e-12)
    points, volumes = [], []
    for steps in (16, 32, 64, 128):
        layers = euler(model, 0.9, 0.2, steps)
        points.append(layers.forward(z))
        volumes.append(layers.log_det(z))
    for found, limit in ((points, exact.x), (volumes, -exact.log_density_change)):
        errors = np.array([np.abs(one - limit).max() for one in found])
        orders = np.log2(errors[:-1] / errors[1:])
        assert abs(orders[-1] - 1) < 0.05, orders
        # and without its powers of h what is left is far smaller: h^4 of some hundreds
        assert np.abs(extrapolate(found) - limit).max() < 1e-4 * errors[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Residual(1, np.sin, np.cos, 1.0), "lipschitz must lie"),
        (lambda: Residual(1, np.sin, np.cos, -0.1), "lipschitz must lie"),
        (lambda: Residual(0, np.sin, np.cos, 0.1), "dim must be"),
        (lambda: Residual(2, np.sum, np.cos, 0.1).forward([1.0, 2.0]), "function must answer"),
        (lambda: Residual(2, np.sin, np.cos, 0.1).log_det([1.0, 2.0]), "differential must answer"),
        (lambda: tanh_residual([[1.0]], [[1.0]], [0.0]), "norms whose product is below 1"),
        (lambda: tanh_residual([[1.0]], [[1.0, 2.0]], [0.0]), "outer, inner and bias"),
        (lambda: network(2, 0.5, np.random.default_rng(0)).log_det_probes([0.0, 0.0], [[1.0]], 3), "probes must have"),
        (lambda: euler_layers(np.multiply, np.multiply, [0.0], 1), "times must be at least two"),
        (lambda: euler_layers(np.multiply, np.multiply, [0.0, 0.5], 1, 2.0), "steps shorter than"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
