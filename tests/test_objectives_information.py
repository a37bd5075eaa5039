"""VDM's losses: printed values, closed forms, invariance to the process, convergence, weights."""

import numpy as np
import pytest
from scipy.integrate import quad

from refdiff import (
    AffineProcess,
    BetaTable,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPCosine,
    VPLinear,
)
from refdiff.objectives import (
    MonteCarlo,
    Quadrature,
    continuous_loss,
    discrete_loss,
    mean_squared_error,
    signal_to_noise,
    variational_bound,
)
from refdiff.processes import LinearProcess
from refdiff.validation.numeric import hermite

FULL = Gaussian([0.3, -0.1], [[1.0, 0.4], [0.4, 0.6]])
PEAKS = GaussianMixture.isotropic([[-1.5], [1.0]], [0.2, 0.05], [0.3, 0.7])
LANGEVIN = LinearProcess([[0.0, 4.0], [-1.0, -4.0]], [[0.0], [np.sqrt(8.0)]], T=1.5, force=lambda t: [np.sin(t), 1.0])
SCHEDULES = [VPLinear(), VPCosine(), FlowMatching(), VEPower(T=100.0), BetaTable(np.linspace(0.01, 0.3, 30))]


def test_the_values_of_podb_10():
    # s^2 = 4, SNR from 1e4 to 1e-4: for this process SNR = 1 / t^2, and the grids are geometric
    model = ExactModel(Gaussian([0.0], 4.0), VEPower(T=100.0))
    printed = {10: (13.944, 3), 100: (5.7670, 4), 1000: (5.3426, 4), 10_000: (5.30255, 5), 100_000: (5.298572, 6)}
    for steps, (value, digits) in printed.items():
        found = discrete_loss(model, np.geomspace(0.01, 100, steps + 1))
        assert abs(found.value - value) < 0.5001 * 10.0**-digits, steps
        assert found.error == 0
    limit = continuous_loss(model, 0.01, 100).value
    assert abs(limit - 5.298130) < 0.5e-6
    assert abs(limit - 0.5 * np.log((1 + 4e4) / (1 + 4e-4))) < 1e-14 * limit


def test_discrete_losses_decrease_to_the_continuous_one_at_first_order():
    for law, route in ((FULL, None), (PEAKS, Quadrature(1e-12))):
        model, ends = ExactModel(law, VPLinear()), (0.2, 0.7)
        limit = continuous_loss(model, *ends, route=route).value
        gaps = (
            np.array([discrete_loss(model, np.linspace(*ends, n + 1), route=route).value for n in (16, 32, 64)]) - limit
        )
        assert (gaps > 0).all()
        error = discrete_loss(model, np.linspace(*ends, 9), route=route).error
        assert 0 <= error < 1e-11  # closed, or the tolerance of quadrature times a loss near 1
        np.testing.assert_allclose(gaps[:-1] / gaps[1:], 2, atol=0.2)
        # and what extrapolation leaves is of second order
        np.testing.assert_allclose((2 * gaps[2] - gaps[1]) / (2 * gaps[1] - gaps[0]), 1 / 4, atol=0.02)


def times_of_snr(process, low, high):
    """Where SNR is `high` and `low`: of one schedule."""
    return [float(process.time_of_log_snr(np.log(value) / 2)) for value in (high, low)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: type(one).__name__)
def test_loss_is_the_same_for_every_schedule_between_the_same_ratios(schedule):
    ends, x0 = times_of_snr(schedule, 0.1, 50), [0.4, -1.0]
    # the closed form of the mean, and its rate by quadrature over time, of which no schedule is left
    model = ExactModel(FULL, schedule)
    values = np.linalg.eigvalsh(FULL.cov())
    mean = 0.5 * np.log((1 + 50 * values) / (1 + 0.1 * values)).sum()
    np.testing.assert_allclose(continuous_loss(model, *ends).value, mean, rtol=1e-12)
    integrated = continuous_loss(model, *ends, weight=lambda lam: 1.0)
    np.testing.assert_allclose(integrated.value, mean, rtol=1e-10)
    # at a point, 1/2 int (d^2 + s^4 g) / (1 + s^2 g)^2 dg along every principal axis
    axes = np.linalg.eigh(FULL.cov())[1]
    square = ((np.array(x0) - FULL.mean()) @ axes) ** 2

    def rate(g):
        return 0.5 * ((square + values**2 * g) / (1 + values * g) ** 2).sum()

    np.testing.assert_allclose(continuous_loss(model, *ends, x0).value, quad(rate, 0.1, 50)[0], rtol=1e-8)


def test_mixture_loss_is_the_same_for_two_schedules_and_the_difference_of_entropies():
    found = []
    for schedule in (VPLinear(), VEPower(T=100.0)):
        model, ends = ExactModel(PEAKS, schedule), times_of_snr(schedule, 0.5, 20)
        found.append(continuous_loss(model, *ends, route=Quadrature(1e-10)).value)
        grid = np.linspace(-40, 40, 40001)[:, None]
        logs = [model.log_density(grid, t) for t in ends]
        entropies = [-(np.exp(log) @ log) * (grid[1, 0] - grid[0, 0]) for log in logs]
        known = entropies[0] - entropies[1] - np.log(schedule.sigma(ends[0]) / schedule.sigma(ends[1]))
        np.testing.assert_allclose(found[-1], known, rtol=1e-8)
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_two_points_lose_what_gauss_hermite_says():
    model, t = ExactModel(Empirical([[-1.0], [1.0]]), VPLinear()), 0.45
    z, w = hermite(64)
    ratio = float(signal_to_noise(VPLinear(), t))
    # E sech^2 by 1 - E tanh(g + sqrt(g) z), with g the ratio
    exact = 1 - w @ np.tanh(ratio + np.sqrt(ratio) * z)
    np.testing.assert_allclose(mean_squared_error(model, t, route=Quadrature(1e-12)).value, exact, rtol=1e-9)
    drawn = mean_squared_error(model, t, route=MonteCarlo(4000, 1))
    assert abs(drawn.value - exact) < 6 * drawn.error  # a false alarm in 2e-9 of seeds


def test_errors_at_points_average_to_those_of_the_data():
    model, t = ExactModel(PEAKS, VPLinear()), 0.4
    z, w = hermite(48)
    nodes = np.concatenate([m + np.sqrt(v) * z for m, v in zip((-1.5, 1.0), (0.2, 0.05), strict=True)])[:, None]
    at = mean_squared_error(model, t, nodes, route=Quadrature(1e-10)).value
    mean = mean_squared_error(model, t, route=Quadrature(1e-10)).value
    np.testing.assert_allclose(np.concatenate([0.3 * w, 0.7 * w]) @ at, mean, rtol=1e-8)


@pytest.mark.parametrize("process", [LANGEVIN, AffineProcess([VPLinear(), FlowMatching()])], ids=["matrix", "axes"])
def test_matrix_processes_have_one_loss_by_three_routes(process):
    model, times, x0 = ExactModel(FULL, process), np.linspace(0.2, 0.9, 5) * process.T, [[0.4, 0.1], [-1.0, 2.0]]
    for points in (None, x0):
        discrete = discrete_loss(model, times, points)
        np.testing.assert_allclose(discrete.value, variational_bound(model, times, points).diffusion, rtol=1e-11)
        continuous = continuous_loss(model, times[0], times[-1], points)
        assert (discrete.value > continuous.value).all()
        assert (discrete.error == 0).all()
        assert (continuous.error == 0).all()
    drawn = continuous_loss(model, times[0], times[-1], x0, route=MonteCarlo(400, 3))
    assert (np.abs(drawn.value - continuous_loss(model, times[0], times[-1], x0).value) < 6 * drawn.error).all()
    ratio = signal_to_noise(process, times[0])
    kernel = process.kernel(times[0])
    dense = [
        np.diag(np.broadcast_to(part, 2)) if part.ndim < 2 else part for part in (kernel.gain, kernel.noise, ratio)
    ]
    np.testing.assert_allclose(dense[2], dense[0].T @ np.linalg.inv(dense[1]) @ dense[0], rtol=1e-12)


def test_increasing_weights_are_mixtures_of_bounds():
    # by parts: int w dL = w(end) L(end) - int L dw, with L(t) the loss from t on: Kingma and Gao's augmented bounds
    model, (s, t), schedule = ExactModel(FULL, VPLinear()), (0.1, 0.8), VPLinear()

    def weight(lam):
        return 1 / (1 + np.exp(-2 * lam))

    left = continuous_loss(model, s, t, weight=weight).value
    whole = continuous_loss(model, s, t).value

    def inner(u):
        lam = schedule.log_snr(u)
        slope = 2 * weight(lam) * (1 - weight(lam)) * schedule.dlog_snr(u)
        return slope * continuous_loss(model, u, t).value if u < t else 0.0

    right = weight(schedule.log_snr(s)) * whole + quad(inner, s, t)[0]
    np.testing.assert_allclose(left, right, rtol=1e-8)
    # and discrete losses tend to it
    gap = [discrete_loss(model, np.linspace(s, t, n + 1), weight=weight).value - left for n in (200, 400)]
    np.testing.assert_allclose(gap[0] / gap[1], 2, atol=0.05)


def test_noise_to_its_end_is_all_the_information_there_is():
    values = np.linalg.eigvalsh(FULL.cov())
    for schedule in (VPCosine(), FlowMatching()):
        ratio = float(signal_to_noise(schedule, 0.3))
        assert signal_to_noise(schedule, 1.0) == 0
        found = continuous_loss(ExactModel(FULL, schedule), 0.3, 1.0)
        np.testing.assert_allclose(found.value, 0.5 * np.log1p(ratio * values).sum(), rtol=1e-13)


def test_one_point_has_nothing_to_lose():
    model = ExactModel(Empirical([[1.0, 2.0]]), VPLinear())
    assert continuous_loss(model, 0.1, 0.9).value == 0
    assert discrete_loss(model, [0.1, 0.5, 0.9], [1.0, 2.0]).value == 0
    # a point that is none of the data: 1/2 (SNR_s - SNR_t) |x - m|^2
    drop = float(signal_to_noise(VPLinear(), 0.1) - signal_to_noise(VPLinear(), 0.9))
    np.testing.assert_allclose(continuous_loss(model, 0.1, 0.9, [1.0, 4.0]).value, 2 * drop, rtol=1e-13)


def test_close_times_do_not_cancel():
    model = ExactModel(FULL, VPLinear())
    many = discrete_loss(model, np.linspace(0.3, 0.3001, 3000)).value
    np.testing.assert_allclose(many, continuous_loss(model, 0.3, 0.3001).value, rtol=1e-6)


def test_shape_and_precision_follow_the_points():
    model, x0 = ExactModel(FULL, VPLinear()), np.zeros((2, 3, 2), dtype=np.float32)
    for found in (
        discrete_loss(model, [0.1, 0.5], x0),
        continuous_loss(model, 0.1, 0.5, x0),
        mean_squared_error(model, 0.5, x0),
    ):
        assert found.value.shape == (2, 3)
        assert found.value.dtype == np.float32
    assert np.shape(mean_squared_error(model, 0.5).value) == ()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: discrete_loss(VPLinear(), [0.1, 0.2]), TypeError, "model must be an ExactModel"),
        (lambda m: discrete_loss(m, [0.1]), ValueError, "times must be at least 2"),
        (lambda m: discrete_loss(m, [0.0, 0.1]), ValueError, "where there is noise"),
        (lambda m: continuous_loss(m, 0.5, 0.1), ValueError, "start, end must increase"),
        (lambda m: continuous_loss(m, 0.0, 0.1), ValueError, "start, end must begin where there is noise"),
        (lambda m: continuous_loss(m, 0.1, 1.5), ValueError, r"within \[0, 1.0\]"),
        (lambda m: mean_squared_error(m, 2.0), ValueError, "t must lie in"),
        (lambda m: mean_squared_error(m, 0.5, [1.0]), ValueError, "x0 must have shape"),
        (lambda m: mean_squared_error(ExactModel(PEAKS, VPLinear()), 0.5), ValueError, "there is no closed form"),
        (lambda m: signal_to_noise(VPLinear(), 0.0), ValueError, "the noise at t = 0.0 must have full rank"),
        (lambda m: signal_to_noise(3.0, 0.5), TypeError, "process must be a Process or a Schedule"),
        (
            lambda m: continuous_loss(ExactModel(FULL, LANGEVIN), 0.1, 0.5, weight=abs),
            ValueError,
            "weight must be None",
        ),
        (
            lambda m: continuous_loss(ExactModel(FULL, BetaTable(np.array([0.1, 1.0]))), 1, 2, weight=lambda lam: 1.0),
            ValueError,
            "signal-to-noise ratio does not jump",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(ExactModel(FULL, VPLinear()))
