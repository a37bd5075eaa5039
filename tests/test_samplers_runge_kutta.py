"""Runge-Kutta samplers against methods written out on numbers, against SciPy's, and against algebra."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import GAUSSIAN, flow_order, order_of
from scipy.integrate import solve_ivp

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, GaussianMixture, VEPower, VPCosine, VPLinear
from refdiff.samplers.clocks import CLOCKS
from refdiff.samplers.conversions import butcher
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.propagation import propagate
from refdiff.samplers.runge_kutta import METHODS, Method, defect, nodes, rooted_trees, runge_kutta
from refdiff.samplers.running import run

MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
GRID = np.array([0.9, 0.75, 0.5, 0.2, 0.1])


def in_clock(schedule, clock):
    """Clock and coordinate as functions of t, the time of a clock, and dy/du from the model's predictions."""
    a, s = schedule.alpha, schedule.sigma
    inverse = schedule.time_of_log_snr
    return {
        "t": (lambda t: t, lambda t: 1.0, lambda u: u, lambda m, x, t: m.velocity(x, t)),
        "rho": (lambda t: s(t) / a(t), a, lambda u: inverse(-np.log(u)), lambda m, x, t: m.noise(x, t)),
        "1/rho": (lambda t: a(t) / s(t), s, lambda u: inverse(np.log(u)), lambda m, x, t: m.denoiser(x, t)),
        "ratio": (
            lambda t: s(t) / (a(t) + s(t)),
            lambda t: a(t) + s(t),
            lambda u: inverse(np.log((1 - u) / u)),
            lambda m, x, t: m.noise(x, t) - m.denoiser(x, t),
        ),
        "angle": (
            lambda t: np.arctan(s(t) / a(t)),
            lambda t: np.hypot(a(t), s(t)),
            lambda u: inverse(-np.log(np.tan(u))),
            lambda m, x, t: (a(t) * m.noise(x, t) - s(t) * m.denoiser(x, t)) / np.hypot(a(t), s(t)),
        ),
        "log_snr": (
            schedule.log_snr,
            lambda t: 1.0,
            inverse,
            lambda m, x, t: schedule.f(t) / schedule.dlog_snr(t) * x - s(t) * m.noise(x, t),
        ),
    }[clock]


def euler(f, u, y, h):
    return y + h * f(u, y)


def midpoint(f, u, y, h):
    return y + h * f(u + h / 2, y + h / 2 * f(u, y))


def heun(f, u, y, h):
    k = f(u, y)
    return y + h / 2 * (k + f(u + h, y + h * k))


def rk4(f, u, y, h):
    k1 = f(u, y)
    k2 = f(u + h / 2, y + h / 2 * k1)
    k3 = f(u + h / 2, y + h / 2 * k2)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(u + h, y + h * k3))


def scipy_step(name):
    def step(f, u, y, h):
        # one accepted step of the whole length
        found = solve_ivp(
            lambda v, z: f(v, z[:, None])[:, 0], (u, u + h), y[:, 0], method=name, first_step=abs(h), rtol=1e6, atol=1e6
        )
        assert len(found.t) == 2
        return found.y[:, -1:]

    return step


PLAIN = {
    "euler": euler,
    "midpoint": midpoint,
    "heun": heun,
    "rk4": rk4,
    "bogacki-shampine": scipy_step("RK23"),
    "dormand-prince": scipy_step("RK45"),
    "dop853": scipy_step("DOP853"),
}


def plain(name, schedule, clock, times, model, x):
    value, scale, time, rate = in_clock(schedule, clock)
    known = [(value(t), t) for t in times]

    def slope(u, y):
        # the ends of a step are the grid's own times: inverting the clock there would round past 0 or T
        at, t = min(known, key=lambda pair: abs(pair[0] - u))
        t = t if abs(at - u) < 1e-9 else float(time(u))
        return rate(model, scale(t) * y, t)

    for s, t in pairwise(times):
        x = scale(t) * PLAIN[name](slope, value(s), x / scale(s), value(t) - value(s))
    return x


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", PLAIN)
def test_a_table_is_the_method_written_out_on_numbers(name, clock):
    for schedule in (VPLinear(), FlowMatching()) if name == "rk4" else (VPLinear(),):  # the clocks on both
        model = ExactModel(MIXTURE, schedule)
        x = model.sample(5, 0.9, 1)
        table = runge_kutta(schedule, GRID, method=name, clock=clock)
        expected = plain(name, schedule, clock, GRID, model, x)
        assert np.abs(run(table, model, x) - expected).max() < 2e-13 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "rk4"])
def test_impulses_through_the_method_on_numbers_give_the_table(name):
    schedule = VPLinear()
    for clock in ("t", "rho", "1/rho"):
        value, scale, time, _ = in_clock(schedule, clock)

        def sampler(model, x, _normal, value=value, scale=scale, time=time):
            for s, t in pairwise(GRID):
                at = {value(s): s, value(t): t}

                def slope(u, y, at=at, scale=scale, time=time):
                    when = at[u] if u in at else next((at[v] for v in at if abs(v - u) < 1e-9), None) or float(time(u))
                    return model(scale(when) * y, when)

                x = scale(t) * PLAIN[name](slope, value(s), x / scale(s), value(t) - value(s))
            return x

        read = impulse_response(sampler, schedule, prediction=CLOCKS[clock].prediction, start_time=0.9, end_time=0.1)
        assert read.difference(runge_kutta(schedule, GRID, method=name, clock=clock)) < 1e-12


@pytest.mark.parametrize("name", METHODS)
def test_butchers_view_of_one_step_is_the_method(name):
    rule = METHODS[name]
    for clock, coordinate in (("t", "x"), ("rho", "x/alpha"), ("1/rho", "x/sigma")):
        found = butcher(runge_kutta(VPLinear(), [0.6, 0.4], method=name, clock=clock), coordinate)
        assert np.abs(found.A - rule.A).max() < 1e-12 * max(1, np.abs(rule.A).max())
        assert np.abs(found.b - rule.b).max() < 1e-12 * max(1, np.abs(rule.b).max())
        assert np.abs(found.c - rule.c).max() < 1e-11


ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "ralston": 2, "heun3": 3, "kutta3": 3, "ssprk3": 3}
ORDERS |= {"rk4": 4, "rk38": 4, "bogacki-shampine": 3, "dormand-prince": 5, "dop853": 8}


def test_rooted_trees_are_counted_and_of_their_size():
    assert [len(rooted_trees(k)) for k in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert all(nodes(tree) == 5 and len(set(rooted_trees(5))) == 9 for tree in rooted_trees(5))


@pytest.mark.parametrize("name", METHODS)
def test_order_conditions_hold_up_to_the_order_and_fail_beyond(name):
    rule, p = METHODS[name], ORDERS[name]
    assert rule.order == p
    if p < 8:
        assert max(abs(defect(rule, tree)) for tree in rooted_trees(p + 1)) > 1e-5


def test_order_conditions_are_those_of_the_textbook_up_to_order_4():
    rule = METHODS["rk38"]
    A, b, c = rule.A, rule.b, rule.c
    known = [b.sum() - 1, b @ c - 1 / 2, b @ c**2 - 1 / 3, b @ A @ c - 1 / 6]
    known += [b @ c**3 - 1 / 4, (b * c) @ A @ c - 1 / 8, b @ A @ c**2 - 1 / 12, b @ A @ A @ c - 1 / 24]
    broken = Method(A, b + np.array([0.1, -0.1, 0.05, -0.05]))
    A, b, c = broken.A, broken.b, broken.c
    off = [b.sum() - 1, b @ c - 1 / 2, b @ c**2 - 1 / 3, b @ A @ c - 1 / 6]
    off += [b @ c**3 - 1 / 4, (b * c) @ A @ c - 1 / 8, b @ A @ c**2 - 1 / 12, b @ A @ A @ c - 1 / 24]
    assert np.abs(known).max() < 1e-15
    trees = [tree for size in range(1, 5) for tree in rooted_trees(size)]
    assert np.allclose(sorted(off), sorted(defect(broken, tree) for tree in trees), atol=1e-15)


@pytest.mark.parametrize("name", ["midpoint", "rk4"])
def test_measured_order_on_a_mixture(name):
    schedule, law = FlowMatching(), GaussianMixture.isotropic([[-1.0], [1.5]], 0.25, [0.4, 0.6])
    build = partial(runge_kutta, method=name)
    found = flow_order(build, schedule, lambda n: np.linspace(0.9, 0.1, n + 1), law=law)
    assert abs(found - ORDERS[name]) < 0.1


def test_midpoint_gains_an_order_on_gaussian_data_where_the_variance_is_quadratic_in_the_clock():
    # x - alpha m = sqrt(V): with V = v0 + v1 h + v2 h^2 both sides have -v1 v2 / 4 + v1^3 / 16 at h^3 (v0 = 1)
    for schedule, clock, ends in ((FlowMatching(), "t", (0.9, 0.1)), (VEPower(), "rho", (2.0, 0.1))):
        build = partial(runge_kutta, method="midpoint", clock=clock)
        found = order_of(build, schedule, lambda n, ends=ends: np.linspace(*ends, n + 1), counts=(64, 128))
        assert abs(found - 3) < 0.05


@given(st.floats(0.05, 0.9), st.floats(0.01, 1.0), st.sampled_from([VPLinear(), VPCosine(), FlowMatching(), VEPower()]))
def test_eulers_method_is_ddim_in_rho_and_its_inverse_and_on_the_straight_path(start, part, schedule):
    grid = schedule.T * np.array([start, start * (1 - part / 2), start * (1 - 0.9 * part)])
    reference = propagate(ddim(schedule, grid), GAUSSIAN)
    for clock in ("rho", "1/rho", "ratio"):
        found = propagate(runge_kutta(schedule, grid, method="euler", clock=clock), GAUSSIAN)
        assert abs(found.gains[-1] - reference.gains[-1]) < 1e-11
        assert np.abs(found.offsets[-1] - reference.offsets[-1]).max() < 1e-11


def test_a_trajectory_in_x_over_alpha_and_rho_is_the_same_for_every_schedule():
    rhos = np.array([3.0, 1.2, 0.4, 0.1])
    outputs = []
    for schedule in (VPLinear(), VPCosine(), FlowMatching(), VEPower()):
        times = schedule.time_of_log_snr(-np.log(rhos))
        x = schedule.alpha(times[0]) * np.array([[1.0], [-2.0]])
        table = runge_kutta(schedule, times, clock="rho")
        outputs.append(run(table, ExactModel(MIXTURE, schedule), x) / schedule.alpha(times[-1]))
    assert np.ptp(outputs, axis=0).max() < 1e-12


class TestEnds:
    @pytest.mark.parametrize("name", METHODS)
    @pytest.mark.parametrize("clock", ["t", "rho", "1/rho", "ratio", "angle"])
    def test_the_last_step_may_end_at_sigma_zero(self, name, clock):
        for schedule in (FlowMatching(), VPLinear(), VEPower()):
            table = runge_kutta(schedule, schedule.T * np.array([0.7, 0.3, 0.0]), method=name, clock=clock)
            out = run(table, ExactModel(GAUSSIAN, schedule), [[0.3], [2.0]])
            assert all(np.isfinite(part).all() for part in (table.states, table.outputs, out))

    @pytest.mark.parametrize("clock", ["t", "1/rho", "ratio", "angle"])
    def test_the_first_step_may_start_at_alpha_zero(self, clock):
        for name in METHODS:
            table = runge_kutta(FlowMatching(), [1.0, 0.6, 0.2], method=name, clock=clock)
            assert np.isfinite(run(table, ExactModel(GAUSSIAN, FlowMatching()), [[0.3]])).all()

    def test_the_steps_to_sigma_zero_are_those_documented(self):
        times = [0.6, 0.3, 0.0]
        model, x = ExactModel(MIXTURE, VPLinear()), np.array([[0.4], [-1.0]])
        heun = run(runge_kutta(VPLinear(), times, method="heun", clock="rho"), model, x)
        first = run(runge_kutta(VPLinear(), times[:2], method="heun", clock="rho"), model, x)
        assert np.abs(heun - model.denoiser(first, 0.3)).max() < 1e-13
        inverse = run(runge_kutta(VPLinear(), times, method="rk4", clock="1/rho"), model, x)
        first = run(runge_kutta(VPLinear(), times[:2], method="rk4", clock="1/rho"), model, x)
        assert np.abs(inverse - model.denoiser(first, 0.3)).max() < 1e-13

    def test_the_velocity_is_asked_for_at_zero_only_where_a_stage_lies_there(self):
        def asked(name):
            table = runge_kutta(FlowMatching(), [0.5, 0.0], method=name)
            return 0.0 in table.times[table.evaluated]

        assert {name: asked(name) for name in ("euler", "midpoint", "ralston", "heun", "rk4")} == {
            "euler": False,
            "midpoint": False,
            "ralston": False,
            "heun": True,
            "rk4": True,
        }

    def test_order_three_holds_from_alpha_zero_down_to_sigma_zero_in_t(self):
        build = partial(runge_kutta, method="heun3")
        assert abs(order_of(build, FlowMatching(), lambda n: np.linspace(1.0, 0.0, n + 1)) - 3) < 0.1


class TestPerAxis:
    PROCESS = AffineProcess([VPLinear(), FlowMatching()])

    @pytest.mark.parametrize(
        ("clock", "name"), [("t", "rk4"), ("rho", "heun"), ("1/rho", "euler"), ("ratio", "heun"), ("angle", "heun")]
    )
    def test_axes_are_sampled_as_if_alone(self, clock, name):
        law = Gaussian([0.7, -0.2], np.array([0.25, 1.5]))
        x = np.array([[0.3, 1.1], [-1.0, 0.2]])
        both = run(runge_kutta(self.PROCESS, GRID, method=name, clock=clock), ExactModel(law, self.PROCESS), x)
        for j, schedule in enumerate(self.PROCESS.schedules):
            alone = ExactModel(Gaussian(law.means[0, j : j + 1], law.covariance[j]), schedule)
            one = run(runge_kutta(schedule, GRID, method=name, clock=clock), alone, x[:, j : j + 1])
            assert np.abs(both[:, j : j + 1] - one).max() < 1e-13

    def test_stages_inside_a_step_need_one_clock(self):
        with pytest.raises(ValueError, match="process must be the same on all axes"):
            runge_kutta(self.PROCESS, GRID, method="midpoint", clock="rho")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: runge_kutta(VPLinear(), GRID, method="rk5"), "method must be"),
        (lambda: runge_kutta(VPLinear(), GRID, clock="s"), "clock must be one of"),
        (lambda: runge_kutta(FlowMatching(), [1.0, 0.5], clock="rho"), "times must start where alpha > 0"),
        (lambda: runge_kutta(FlowMatching(), [0.5, 0.0], clock="log_snr"), "times must end where sigma > 0"),
        (lambda: Method(np.ones((2, 2)), np.ones(2) / 2), "strictly lower triangular"),
        (lambda: Method(np.zeros((2, 2)), np.ones(2)), "b must have sum 1"),
        (lambda: Method(np.zeros((2, 3)), np.ones(2) / 2), "A must have shape"),
        (lambda: Method(np.array([[0, 0], [1.5, 0]]), np.ones(2) / 2), r"row sums in \[0, 1\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
