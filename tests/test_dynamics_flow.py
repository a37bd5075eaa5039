"""Flow maps against closed ones, quantiles, densities and each other, on both backends."""

import numpy as np
import pytest
from numba import config
from scipy.special import ndtr

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    GaussianMixture,
    SubVP,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
    backends,
)
from refdiff.dynamics import Unfinished, flow
from refdiff.dynamics.stepping import MOST
from refdiff.kernels.numba.tiles import LANES

RNG = np.random.default_rng(20)
if config.DISABLE_JIT:
    pytest.skip("hours without compilation; tests/test_kernels_adaptive.py runs the kernel", allow_module_level=True)

# schedule, start, end: both directions, both ends, EDM's range
WAYS = {
    "EDM down": (VEPower(T=80.0), 80.0, 0.002),
    "EDM up": (VEPower(T=80.0), 0.002, 80.0),
    "VP to data": (VPLinear(), 1.0, 0.0),
    "VP from data": (VPLinear(), 0.0, 1.0),
    "cosine from pure noise": (VPCosine(), 1.0, 0.3),
    "straight, all of it": (FlowMatching(), 1.0, 0.0),
    "sub-VP, inside": (SubVP(), 0.7, 0.2),
    "VE": (VEGeometric(), 1.0, 0.0),
}
BACKENDS = ("numpy", "numba")


def rotated(dim, rng):
    """Covariances with variances between 0.01 and 1."""
    q = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return q * 10 ** rng.uniform(-2, 0, dim) @ q.T


def laws(dim=3, count=4):
    rng = np.random.default_rng(dim)
    means = rng.normal(size=(count, dim))
    weights = rng.uniform(0.5, 1.5, count)
    return {
        "one variance": GaussianMixture.isotropic(means, 0.04, weights),
        "variances": GaussianMixture.isotropic(means, rng.uniform(0.02, 0.2, count), weights),
        "shared axes": GaussianMixture.diagonal(means, rng.uniform(0.02, 0.2, dim), weights),
        "axes": GaussianMixture.diagonal(means, rng.uniform(0.02, 0.2, (count, dim)), weights),
        "shared matrix": GaussianMixture.shared(means, rotated(dim, rng), weights),
        "matrices": GaussianMixture.full(means, [rotated(dim, rng) for _ in range(count)], weights),
    }


def affine(law, schedule, x, start, end):
    """The flow of a Gaussian law and its change of log p, on the axes of the covariance."""
    values, axes = np.linalg.eigh(law.cov())
    a, b = schedule.coefficients(start), schedule.coefficients(end)
    ratio = (b.alpha**2 * values + b.sigma**2) / (a.alpha**2 * values + a.sigma**2)
    moved = b.alpha * law.mean() + (x - a.alpha * law.mean()) @ axes * np.sqrt(ratio) @ axes.T
    return moved, -np.log(ratio).sum() / 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("method", ["dop853", "dopri5"])
def test_flow_of_gaussian_data_is_the_closed_map(way, method, backend):
    schedule, start, end = WAYS[way]
    law = GaussianMixture.full(RNG.normal(size=(1, 2)), [rotated(2, RNG)])
    model = ExactModel(law, schedule)
    x = model.sample(5, start, 1)
    rtol = 1e-11 if method == "dop853" else 1e-7
    with backends.use(backend):
        found = flow(model, x, start, end, method=method, rtol=rtol, atol=1e-2 * rtol, log_density=True)
    expected, change = affine(law, schedule, x, start, end)
    # at most 500 steps with a tolerance each, errors stretched as distances are: by 8000 from 0.01 to 80
    stretch = max(1.0, np.abs(np.divide(*(np.ptp(y, axis=0) for y in (expected, x)))).max())
    np.testing.assert_allclose(found.x, expected, rtol=0, atol=100 * rtol * stretch * max(1, np.abs(x).max()))
    np.testing.assert_allclose(found.log_density_change, change, rtol=0, atol=100 * rtol * max(1, abs(change)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", sorted(laws()))
def test_density_goes_along_with_the_points(kind, backend):
    """log p at both ends knows no differential equation."""
    ways = ("VP to data", "EDM down", "VP from data")
    # NumPy takes seconds for each: a storage goes one way, and the test below sees that both backends go the others
    for way in ways if backend == "numba" else [ways[sorted(laws()).index(kind) % 3]]:
        schedule, start, end = WAYS[way]
        model = ExactModel(laws()[kind], schedule)
        x = model.sample(2 if backend == "numpy" else 20, start, 2)
        with backends.use(backend):
            found = flow(model, x, start, end, log_density=True)
        before, after = model.log_density(x, start), model.log_density(found.x, end)
        # rtol 1e-10 at each of 50 steps, and what the errors of x do to log p, of slope 10 to 100
        error = np.abs(after - before - found.log_density_change).max()
        assert error < 1e-7
        # the control: the volume of the scale r left out, where it is not 1
        if way == "EDM down":
            assert np.abs(after - before - found.log_density_change - model.dim * np.log(80)).max() > 10


@pytest.mark.parametrize("kind", sorted(laws()))
@pytest.mark.parametrize("way", ["VP to data", "EDM up", "straight, all of it"])
def test_both_backends_reach_the_same_points(kind, way):
    """One in the process's own time with Bayes and log density, the other on the circle in the kernel's clock."""
    schedule, start, end = WAYS[way]
    model = ExactModel(laws()[kind], schedule)
    x = model.sample(3, start, 3)
    found = []
    for backend in BACKENDS:
        with backends.use(backend):
            found.append(flow(model, x, start, end, rtol=1e-12, atol=1e-14, log_density=True))
    size = max(1.0, np.abs(found[0].x).max())
    # 100 steps of 1e-12, magnified by the modes
    np.testing.assert_allclose(found[0].x, found[1].x, rtol=0, atol=1e-9 * size)
    np.testing.assert_allclose(found[0].log_density_change, found[1].log_density_change, rtol=0, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_the_line_quantiles_go_to_quantiles(backend):
    law = laws(1)["variances"]
    model = ExactModel(law, VPLinear())
    x = model.sample(20, 1.0, 4)
    with backends.use(backend):
        found = flow(model, x, 1.0, 0.0).x

    def cdf(law, x):
        return ndtr((x - law.means[:, 0]) / np.sqrt(law.covariances.variances[:, 0])) @ law.weights

    np.testing.assert_allclose(cdf(law, found), cdf(model.marginal(1.0), x), rtol=0, atol=1e-8)
    # the control: a time that is 1e-4 off
    with backends.use(backend):
        early = flow(model, x, 1.0, 1e-3).x
    assert np.abs(cdf(law, early) - cdf(model.marginal(1.0), x)).max() > 1e-6


def test_many_axes_there_and_back():
    rng = np.random.default_rng(5)
    model = ExactModel(GaussianMixture.isotropic(rng.normal(size=(64, 64)), 0.3), VPLinear())
    x = model.sample(70, 1.0, 6)
    with backends.use("numba"):
        data = flow(model, x, 1.0, 0.0, log_density=True)
        back = flow(model, data.x, 0.0, 1.0, log_density=True)
    np.testing.assert_allclose(back.x, x, rtol=0, atol=1e-7)
    np.testing.assert_allclose(back.log_density_change, -data.log_density_change, rtol=0, atol=1e-6)
    rate = model.log_density(data.x, 0.0) - model.log_density(x, 1.0)
    np.testing.assert_allclose(data.log_density_change, rate, rtol=0, atol=1e-6)


def test_axes_with_schedules_of_their_own_are_lines_of_their_own():
    schedules = (VPLinear(), VPCosine())
    means, variances = np.array([[0.3, -0.2]]), np.array([[0.2, 0.5]])
    model = ExactModel(GaussianMixture.diagonal(means, variances), AffineProcess(schedules))
    x = RNG.normal(size=(4, 2))
    with backends.use("numba"):  # which has no kernel for this
        found = flow(model, x, 0.9, 0.1, log_density=True)
    total = 0.0
    for j, schedule in enumerate(schedules):
        law = GaussianMixture.isotropic(means[:, [j]], variances[0, [j]])
        expected, change = affine(law, schedule, x[:, [j]], 0.9, 0.1)
        np.testing.assert_allclose(found.x[:, [j]], expected, rtol=1e-8)
        total += change
    np.testing.assert_allclose(found.log_density_change, total, rtol=1e-8)


def test_a_matrix_that_eigenvectors_lose_is_left_to_numpy():
    # the small variance is 1e-15 of the large one: Cholesky has it, an eigenvalue of a float64 matrix does not
    law = GaussianMixture.shared(np.zeros((1, 2)), np.diag([1e9, 1e-6]))
    model = ExactModel(law, VEPower(T=2.0))
    x = np.array([[3e4, 1e-3]])
    with backends.use("numba"):
        found = flow(model, x, 0.0, 1.0)
    np.testing.assert_allclose(found.x, affine(law, VEPower(T=2.0), x, 0.0, 1.0)[0], rtol=1e-8)
    assert found.evaluations[0] > 0


def test_threads_change_no_bit():
    model = ExactModel(laws()["axes"], VPLinear())
    x = model.sample(200, 1.0, 7)
    with backends.use("numba"):
        one, two = (flow(model, x, 1.0, 0.0, log_density=True, threads=threads) for threads in (1, 2))
    assert np.array_equal(one.x, two.x)
    assert np.array_equal(one.log_density_change, two.log_density_change)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes_types_and_counts_follow_the_points(backend):
    model = ExactModel(laws(2)["variances"], VPLinear())
    x = model.sample(6, 1.0, 8)
    with backends.use(backend):
        double = flow(model, x.reshape(2, 3, 2), 1.0, 0.1, log_density=True)
        single = flow(model, x.reshape(2, 3, 2).astype(np.float32), 1.0, 0.1, log_density=True)
        one = flow(model, x[0], 1.0, 0.1)
        none = flow(model, np.empty((0, 2)), 1.0, 0.1, log_density=True)
        still = flow(model, x, 0.4, 0.4, log_density=True)
    assert double.x.shape == (2, 3, 2)
    assert double.log_density_change.shape == (2, 3)
    assert double.steps.shape == double.rejected.shape == double.evaluations.shape == (2, 3)
    assert (double.evaluations == 2 + 12 * (double.steps + double.rejected)).all()
    assert single.x.dtype == single.log_density_change.dtype == np.float32
    # 32 bits of x at the start are all that is lost, magnified by the flow
    np.testing.assert_allclose(single.x, double.x, rtol=0, atol=1e-4)
    assert one.x.shape == (2,)
    assert np.ndim(one.steps) == 0
    assert one.log_density_change is None
    np.testing.assert_allclose(one.x, double.x[0, 0], rtol=0, atol=1e-8)
    assert none.x.shape == (0, 2)
    assert none.log_density_change.shape == (0,)
    assert np.array_equal(still.x, x)
    assert not still.log_density_change.any()
    assert not still.evaluations.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_point_sets_flow_to_small_noise_and_not_to_none(backend):
    model = ExactModel(Empirical(RNG.normal(size=(5, 2))), VEPower(T=80.0))
    x = model.sample(3, 80.0, 9)
    with backends.use(backend):
        data = flow(model, x, 80.0, 0.002, log_density=True)
        for start, end in ((80.0, 0.0), (0.0, 1.0)):
            with pytest.raises(ValueError, match="at which the data have a density"):
                flow(model, x, start, end)
    far = np.abs(data.x[:, None] - model.distribution.means).max(axis=2).min(axis=1)
    assert far.max() < 0.02  # ten standard deviations
    rate = model.log_density(data.x, 0.002) - model.log_density(x, 80.0)
    # log p is as steep as 1 / 0.002 there
    np.testing.assert_allclose(data.log_density_change, rate, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_that_end_are_kept_when_others_do_not(backend):
    model = ExactModel(GaussianMixture.isotropic(RNG.normal(size=(3, 2)), 1e-6), VPLinear())
    group = MOST if backend == "numpy" else LANES
    x = np.zeros((2 * group, 2)) + model.sample(1, 0.9, 0)
    x[group:] = model.sample(group, 0.9, 10)
    with backends.use(backend):
        full = flow(model, x, 0.9, 0.0, rtol=1e-8)
        few = int((full.steps + full.rejected).max()) - 1
        ends = full.steps + full.rejected <= few
        assert ends.any()
        assert not ends.all()
        with pytest.raises(Unfinished, match=r"points \d+\.\.\d+.*max_steps = \d+ must be larger") as caught:
            flow(model, x, 0.9, 0.0, rtol=1e-8, max_steps=few)
    assert np.array_equal(caught.value.flow.x[ends], full.x[ends])
    assert np.isnan(caught.value.flow.x[~ends]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "euler"}, "method must be one of"),
        ({"rtol": 1e-15}, "rtol must lie in"),
        ({"atol": 0.0}, "atol must lie in"),
        ({"end": 1.5}, "end must lie in"),
        ({"start": -0.1}, "start must lie in"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"x": np.zeros((2, 3))}, "x must have shape"),
        ({"x": np.full((2, 2), 1e200)}, "near enough"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_what_cannot_be_done_is_refused(change, message, backend):
    model = ExactModel(laws(2)["variances"], VPLinear())
    arguments = {"x": np.zeros((2, 2)), "start": 1.0, "end": 0.0} | change
    with backends.use(backend), pytest.raises(ValueError, match=message):
        flow(model, **arguments)
    with pytest.raises(TypeError, match="model must be an ExactModel"):
        flow(VPLinear(), np.zeros((2, 2)), 1.0, 0.0)
