"""Adaptive steps against the exact flow, SciPy's solvers, their own replay as tables, and counts by hand."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.samplers.adaptive import PAIRS, adaptive
from refdiff.samplers.clocks import CLOCKS
from refdiff.samplers.consistency import flow_map
from refdiff.samplers.order import reference_flow
from refdiff.samplers.runge_kutta import runge_kutta
from refdiff.samplers.running import run

GAUSSIAN = Gaussian([0.7], 0.25)
MIXTURE = GaussianMixture.isotropic([[-1.0], [1.5]], 0.25, [0.4, 0.6])
X = np.array([[0.3], [-1.0], [2.0]])


def test_embedded_methods_have_the_orders_of_their_pairs():
    assert {name: PAIRS[name].order for name in PAIRS} == {
        "heun-euler": 1,
        "bogacki-shampine": 2,
        "dormand-prince": 4,
        "dpm-solver-12": 1,
        "dpm-solver-23": 2,
    }


@pytest.mark.parametrize("pair", PAIRS)
def test_the_error_follows_the_tolerance_down_to_the_exact_flow(pair):
    schedule = VPLinear()
    model = ExactModel(GAUSSIAN, schedule)
    exact = flow_map(model)(X, 0.9, 0.1)
    errors = []
    for tolerance in (1e-3, 1e-5) if PAIRS[pair].order > 1 else (1e-2, 1e-4):
        found = adaptive(schedule, model, X, pair=pair, start=0.9, end=0.1, rtol=tolerance, atol=tolerance)
        errors.append(np.abs(found.x - exact).max())
        assert errors[-1] < 30 * tolerance
        assert found.accepted == len(found.times) - 1 == len(found.errors)
        assert found.errors.max() <= 1
        assert (found.times[0], found.times[-1]) == (0.9, 0.1)
    assert errors[1] < errors[0] / 5


@pytest.fixture(scope="module")
def flowed():
    """Where the straight path's flow takes X from t = 0.9 to 0.2."""
    return reference_flow(ExactModel(MIXTURE, FlowMatching()), X, 0.9, 0.2)


@pytest.mark.parametrize(
    ("pair", "clock"),
    [*(("bogacki-shampine", clock) for clock in CLOCKS), ("heun-euler", "t"), ("dormand-prince", "log_snr")],
)
def test_an_accepted_grid_replayed_as_a_table_gives_the_same_points(pair, clock, flowed):
    schedule = FlowMatching()
    model = ExactModel(MIXTURE, schedule)
    found = adaptive(schedule, model, X, pair=pair, clock=clock, start=0.9, end=0.2, rtol=1e-3, atol=1e-3)
    method = {"heun-euler": "heun"}.get(pair, pair)
    again = run(runge_kutta(schedule, found.times, method=method, clock=clock), model, X)
    assert np.abs(found.x - again).max() < 1e-12
    assert np.abs(found.x - flowed).max() < 0.05


@pytest.mark.parametrize(("pair", "per_step"), [("heun-euler", 2), ("bogacki-shampine", 3), ("dormand-prince", 6)])
def test_evaluations_are_shared(pair, per_step):
    # a rejected step is tried again from its first evaluation, and Heun's second is not the next step's first
    schedule, asked = VPLinear(), []
    model = ExactModel(MIXTURE, schedule)

    def velocity(x, t):
        asked.append(t)
        return model.velocity(x, t)

    found = adaptive(schedule, velocity, X, pair=pair, start=0.9, end=0.01, rtol=1e-3, atol=1e-3, first_step=0.5)
    assert found.rejected > 0
    first = 0 if pair == "heun-euler" else 1
    expected = first + per_step * found.accepted + (per_step - (1 - first)) * found.rejected
    assert found.nfe == len(asked) == expected


def test_dpm_solver_pairs_share_their_inner_stages():
    model = ExactModel(MIXTURE, VPLinear())
    for pair, stages in (("dpm-solver-12", 2), ("dpm-solver-23", 3)):
        found = adaptive(VPLinear(), model, X, pair=pair, start=0.9, end=0.05, rtol=1e-2, atol=1e-2, first_step=0.4)
        assert found.nfe == stages * found.accepted + (stages - 1) * found.rejected


def test_dpm_solver_12_is_the_algorithm_written_out_on_numbers():
    # Lu et al. 2022, appendix C: x_low by DPM-Solver-1, x_high by DPM-Solver-2, h <- theta h E^(-1/2)
    schedule, rtol, atol = VPLinear(), 0.05, 0.0078
    model, x = ExactModel(MIXTURE, schedule), X
    first, last = schedule.log_snr(0.9), schedule.log_snr(0.02)
    step, now, grid, refused = 0.05 * (last - first), first, [0.9], False
    while True:
        final = last - now <= 1.01 * step
        after = last if final else now + step
        h = after - now
        s, m, t = (schedule.time_of_log_snr(lam) for lam in (now, now + h / 2, after))
        eps = model.noise(x, s)
        low = schedule.alpha(t) / schedule.alpha(s) * x - schedule.sigma(t) * np.expm1(h) * eps
        u = schedule.alpha(m) / schedule.alpha(s) * x - schedule.sigma(m) * np.expm1(h / 2) * eps
        high = low - schedule.sigma(t) * np.expm1(h) * (model.noise(u, m) - eps)
        scale = atol + rtol * np.maximum(np.abs(x), np.abs(high))
        error = np.abs((high - low) / scale).max()
        growth = min(5 if error <= 1 and not refused else 1, max(0.2, 0.9 * error**-0.5))
        step, refused = step * growth, error > 1
        if error <= 1:
            x, now = high, after
            grid.append(t)
            if final:
                break
    found = adaptive(
        schedule,
        model,
        X,
        pair="dpm-solver-12",
        start=0.9,
        end=0.02,
        rtol=rtol,
        atol=atol,
        first_step=0.05,
        pi=(1.0, 0.0),
    )
    assert found.rejected == 2
    assert len(found.times) == len(grid)
    assert np.abs(found.times - grid).max() < 1e-9
    assert np.abs(found.x - x).max() < 1e-8


@pytest.mark.parametrize(
    ("pair", "name", "tolerance"), [("bogacki-shampine", "RK23", 1e-5), ("dormand-prince", "RK45", 1e-6)]
)
def test_as_accurate_and_as_cheap_as_scipys_solver_of_the_same_pair(pair, name, tolerance):
    schedule = VPLinear()
    model, x = ExactModel(MIXTURE, schedule), X[:1]
    exact = reference_flow(model, x, 0.95, 0.01)
    theirs = solve_ivp(
        lambda t, y: model.velocity(y[None], t)[0], (0.95, 0.01), x[0], method=name, rtol=tolerance, atol=tolerance
    )
    ours = adaptive(schedule, model, x, pair=pair, start=0.95, end=0.01, rtol=tolerance, atol=tolerance)
    assert np.abs(ours.x - exact).max() < 3 * max(np.abs(theirs.y[:, -1] - exact).max(), 1e-6)
    assert ours.nfe < 1.3 * theirs.nfev


def test_the_flow_is_followed_from_alpha_zero_to_sigma_zero():
    straight = FlowMatching()
    for schedule, clock in (*((straight, clock) for clock in ("t", "ratio", "angle")), (VPLinear(), "angle")):
        model = ExactModel(GAUSSIAN, schedule)
        found = adaptive(schedule, model, X, clock=clock, rtol=1e-7, atol=1e-7)
        assert np.abs(found.x - flow_map(model)(X, schedule.T, 0.0)).max() < 1e-6


def test_a_batch_keeps_its_shape_and_its_precision():
    model = ExactModel(Gaussian([0.7, 0.1], 0.25), VPLinear())
    x = np.ones((2, 3, 2), dtype=np.float32)
    found = adaptive(VPLinear(), model, x, rtol=1e-2, atol=1e-2)
    assert found.x.shape == x.shape
    assert found.x.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pair": "rk45"}, "pair must be one of"),
        ({"pair": "dpm-solver-12", "clock": "t", "end": 0.1}, "clock must be log_snr"),
        ({"clock": "rho"}, "end must have sigma > 0 in rho"),
        ({"pair": "dpm-solver-23"}, "end must have sigma > 0 in log_snr"),
        ({"clock": "time"}, "clock must be one of"),
        ({"rtol": 0, "atol": 0}, "must not both be 0"),
        ({"rtol": -1.0}, "rtol must lie in"),
        ({"first_step": 0}, "first_step must lie in"),
        ({"start": 0.1, "end": 0.2}, "end must lie in"),
        ({"start": 1.5}, "start must lie in"),
        ({"pi": (0.7,)}, "pi must be two numbers"),
        ({"pi": (0.7, -0.4)}, "pi must be two numbers"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        adaptive(VPLinear(), ExactModel(GAUSSIAN, VPLinear()), X, **options)


def test_the_lower_methods_have_their_published_weights():
    published = {
        "bogacki-shampine": [7 / 24, 1 / 4, 1 / 3, 1 / 8],
        "dormand-prince": [5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40],
    }
    for name, weights in published.items():
        np.testing.assert_allclose(PAIRS[name].low.keywords["method"].b, weights, rtol=0, atol=1e-15)


@pytest.mark.parametrize("pi", [(0.7, 0.4), (0.5, 0.2)])
def test_steps_follow_the_errors_of_the_last_two(pi):
    model = ExactModel(GAUSSIAN, FlowMatching())
    found = adaptive(FlowMatching(), model, X, pair="bogacki-shampine", pi=pi, end=0.1, first_step=0.002, safety=0.8)
    assert found.rejected == 0
    before = np.append(1.0, found.errors[:-2])
    factors = 0.8 * found.errors[:-1] ** (-pi[0] / 3) * before ** (pi[1] / 3)
    # the last step goes to the end
    steps = np.diff(found.times)
    np.testing.assert_allclose(steps[1:-1] / steps[:-2], np.clip(factors, 0.2, 5.0)[:-1], rtol=1e-9)


def test_a_model_that_no_step_follows_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(RuntimeError, match=r"no step from t = 1\.0 meets rtol"):
        adaptive(FlowMatching(), lambda x, t: 1e300 * rng.standard_normal(x.shape), X, end=0.1)


def test_more_bad_input():
    with pytest.raises(ValueError, match="x must have shape"):
        adaptive(VPLinear(), ExactModel(GAUSSIAN, VPLinear()), 0.3)
    with pytest.raises(TypeError, match="process must be a Process or a Schedule"):
        adaptive(0.3, ExactModel(GAUSSIAN, VPLinear()), X)
    model = ExactModel(GAUSSIAN, FlowMatching())
    with pytest.raises(ValueError, match="start must have alpha > 0 in rho"):
        adaptive(FlowMatching(), model, X, clock="rho", end=0.1)
    with pytest.raises(RuntimeError, match="max_steps must be larger"):
        adaptive(FlowMatching(), model, X, max_steps=3)
    with pytest.raises(ValueError, match="process must be the same on all axes"):
        adaptive(AffineProcess([FlowMatching()]), model, X)
