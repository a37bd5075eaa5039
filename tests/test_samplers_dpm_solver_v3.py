"""DPM-Solver-v3 against its differential equation with a polynomial for N_new, and its statistics against sums."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from refdiff import AffineProcess, ExactModel, FlowMatching, Gaussian, GaussianMixture, VEPower, VPCosine, VPLinear
from refdiff.samplers.consistency import flow_map
from refdiff.samplers.conversions import to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.dpm_solver_v3 import Statistics, dpm_solver_v3, sample_dpm_solver_v3
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.order import fit, measure_order, reference_flow
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_log_snr
from refdiff.samplers.v3_statistics import (
    denoiser_statistics,
    gaussian_statistics,
    noise_statistics,
    nonlinear_part,
    optimal_statistics,
)

MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
SCHEDULES = [VPLinear(), VPCosine(), FlowMatching(), VEPower()]
X = np.array([[0.3], [-1.0], [2.0]])
ANY = Statistics(
    lambda lams: 0.4 + 0.2 * np.sin(lams)[:, None],
    lambda lams: 0.3 * np.cos(lams)[:, None],
    lambda lams: 0.5 * np.exp(-(lams**2))[:, None],
    lambda lams: (0.4 * lams - 0.2 * np.cos(lams))[:, None],
    lambda lams: 0.3 * np.sin(lams)[:, None],
)
LINEAR = Statistics(ANY.linear, ANY.scaling, lambda lams: 0 * lams[:, None], ANY.linear_integral, ANY.scaling_integral)


def plain(schedule, noise, x, times, s, order):
    """Each step as a differential equation for (A, B, x) in lambda, with Newton's polynomial for N_new."""
    lams = schedule.log_snr(times)
    at = lambda curve, lam: curve(np.array([lam]))[0, 0]  # noqa: E731
    known = []
    for k, (lam, end) in enumerate(pairwise(lams)):
        t = times[k]
        n = schedule.sigma(t) * noise(x, t) - at(s.linear, lam) * x
        known = [(lam, n), *known][:order]
        points = []
        for other, value in known:  # N_new = e^-A N - B at the evaluations
            solved = integrate(lambda u, y: [at(s.scaling, u), np.exp(-y[0]) * at(s.bias, u)], lam, other, [0.0, 0.0])
            points.append((other, np.exp(-solved[0]) * value - solved[1]))

        def slope(u, y, points=points):
            new = sum(
                v * np.prod([(u - q) / (p - q) for q, _ in points if q != p]) for p, v in points
            )  # Lagrange's polynomial
            when = schedule.time_of_log_snr(u)
            rate = schedule.f(when) / schedule.dlog_snr(when) - at(s.linear, u)
            moved = rate * y[2:] - np.exp(y[0]) * (new[:, 0] + y[1])
            return np.concatenate([[at(s.scaling, u), np.exp(-y[0]) * at(s.bias, u)], moved])

        x = integrate(slope, lam, end, np.concatenate([[0.0, 0.0], x[:, 0]]))[2:, None]
    return x


def integrate(slope, start, end, y):
    if start == end:
        return np.asarray(y)
    return solve_ivp(slope, (start, end), y, method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1]


@pytest.mark.parametrize(
    ("schedule", "order"), [(VPLinear(), 1), (VPLinear(), 2), (FlowMatching(), 3)], ids=["VP-1", "VP-2", "FM-3"]
)
def test_steps_solve_the_equation_with_a_polynomial_for_the_new_parameterization(order, schedule):
    times, model = np.array([0.8, 0.6, 0.45, 0.3]), ExactModel(MIXTURE, schedule)
    found = sample_dpm_solver_v3(schedule, model, X, times, statistics=ANY, order=order)
    assert np.abs(found - plain(schedule, model.noise, X, times, ANY, order)).max() < 1e-11


@pytest.mark.parametrize("order", [1, 3])
def test_impulses_through_the_equation_give_the_table(order):
    schedule, times = VPLinear(), np.array([0.8, 0.6, 0.45, 0.3])

    def sampler(model, x, _normal):
        return plain(schedule, model, x, times, LINEAR, order)

    read = impulse_response(sampler, schedule, prediction="noise", start_time=0.8, end_time=0.3)
    assert read.difference(dpm_solver_v3(schedule, times, statistics=LINEAR, order=order)) < 1e-11


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_table_and_the_loop_on_numbers_agree(order):
    times, model = np.linspace(0.9, 0.2, 8), ExactModel(MIXTURE, VPLinear())
    table = run(dpm_solver_v3(VPLinear(), times, statistics=LINEAR, order=order), model, X)
    loop = sample_dpm_solver_v3(VPLinear(), model, X, times, statistics=LINEAR, order=order)
    assert np.abs(table - loop).max() < 1e-13


@given(st.sampled_from(SCHEDULES), st.floats(0.3, 0.95), st.floats(0.05, 0.9))
def test_frozen_noise_and_frozen_denoiser_are_ddim(schedule, start, part):
    times = schedule.T * start * np.array([1.0, 1 - part / 2, 1 - part])
    reference = to_prediction(ddim(schedule, times), "noise")
    for statistics in (noise_statistics(schedule), denoiser_statistics(schedule)):
        assert dpm_solver_v3(schedule, times, statistics=statistics, order=1).difference(reference) < 1e-11


@given(st.sampled_from(SCHEDULES), st.integers(1, 3), st.integers(1, 5))
def test_gaussian_data_are_sampled_exactly_in_any_number_of_steps(schedule, order, steps):
    law = Gaussian([0.7, -1.0], np.array([0.25, 2.0]))
    model, times = ExactModel(law, schedule), np.linspace(0.9, 0.1, steps + 1) * schedule.T
    x = np.array([[0.3, 1.0], [-2.0, 0.5]])
    found = sample_dpm_solver_v3(schedule, model, x, times, statistics=gaussian_statistics(law, schedule), order=order)
    assert np.abs(found - flow_map(model)(x, times[0], times[-1])).max() < 2e-14 * max(1, schedule.T)


def test_a_point_is_a_gaussian_too():
    law = Gaussian([0.7], 0.0)
    found = sample_dpm_solver_v3(
        VPLinear(), ExactModel(law, VPLinear()), X, [0.9, 0.1], statistics=gaussian_statistics(law, VPLinear())
    )
    assert np.abs(found - flow_map(ExactModel(law, VPLinear()))(X, 0.9, 0.1)).max() < 1e-14


@pytest.mark.parametrize(("order", "startup"), [(1, 1), (2, 2), (3, 2), (4, 2)])
def test_orders_with_an_exact_history_and_as_run(order, startup):
    schedule = VPLinear()

    def measured(exact_steps):
        return measure_order(
            lambda times: dpm_solver_v3(schedule, times, statistics=LINEAR, order=order),
            Gaussian([0.7], 0.25),
            schedule,
            lambda n: uniform_log_snr(schedule, n, start=0.7, end=0.2),
            counts=(16, 32, 64) if order < 4 else (32, 64, 128),
            exact_steps=exact_steps,
        ).order

    assert abs(measured(order - 1) - order) < 0.1
    if order > 1:
        assert abs(measured(0) - startup) < 0.1


def test_orders_on_a_mixture_and_smaller_errors_with_the_best_statistics_near_a_gaussian():
    schedule, law = FlowMatching(), GaussianMixture.isotropic([[-0.3], [0.4]], 0.25, [0.4, 0.6])
    model = ExactModel(law, schedule)
    exact, errors = reference_flow(model, X, 0.9, 0.1), {}
    best = optimal_statistics(model, 0.9, 0.1, count=32)
    for name, statistics in (("best", best), ("noise", noise_statistics(schedule))):
        for order in (1, 2):
            errors[name, order] = [
                np.abs(
                    sample_dpm_solver_v3(
                        schedule,
                        model,
                        X,
                        uniform_log_snr(schedule, n, start=0.9, end=0.1),
                        statistics=statistics,
                        order=order,
                    )
                    - exact
                ).max()
                for n in (16, 32)
            ]
            assert abs(fit((16, 32), errors[name, order], 1e-12, 2).order - order) < 0.15
    assert errors["best", 1][0] < errors["noise", 1][0] / 2


class TestStatistics:
    def test_a_table_by_quadrature_is_the_closed_form_of_a_gaussian(self):
        for schedule in (VPLinear(), FlowMatching()):
            law = Gaussian([0.7], 0.25)
            exact = gaussian_statistics(law, schedule)
            found = optimal_statistics(ExactModel(law, schedule), 0.9, 0.1, count=48)
            lams = np.linspace(schedule.log_snr(0.9), schedule.log_snr(0.1), 9)
            assert np.abs(found.linear(lams) - exact.linear(lams)).max() < 1e-12
            assert not found.scaling(lams).any()
            assert np.abs(found.bias(lams) - exact.bias(lams)).max() < 1e-9
            gap = found.linear_integral(lams) - exact.linear_integral(lams)
            assert np.ptp(gap) < 1e-12

    def test_the_rate_of_the_nonlinear_part_along_the_flow_is_its_derivative(self):
        schedule, h = VPCosine(), 1e-3
        model, lam = ExactModel(MIXTURE, schedule), float(VPCosine().log_snr(0.5))

        def n(step):
            t = float(schedule.time_of_log_snr(lam + step))
            x = reference_flow(model, X, 0.5, t) if step else X
            return nonlinear_part(model, x, t, 0.3 + 0.2 * step, 0.2)[0]

        slope = (8 * (n(h) - n(-h)) - (n(2 * h) - n(-2 * h))) / (12 * h)
        assert np.abs(nonlinear_part(model, X, 0.5, 0.3, 0.2)[1] - slope).max() < 1e-8

    def test_draws_give_the_table_within_their_standard_errors(self):
        schedule = FlowMatching()
        model, lam = ExactModel(MIXTURE, schedule), np.array([0.3])
        exact = optimal_statistics(model, 0.9, 0.1, count=16).linear(lam)
        found = optimal_statistics(model, 0.9, 0.1, count=16, samples=4096).linear(lam)
        t = float(schedule.time_of_log_snr(0.3))
        values = schedule.sigma(t) ** 2 * model.hessian(model.sample(4096, t, 1), t)[:, 0, 0]
        assert 0 < abs(found - exact)[0, 0] < 4.5 * values.std() / 64

    def test_the_linear_part_lies_between_0_and_1_and_draws_serve_more_dimensions(self):
        law = GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.5]], 0.1)
        found = optimal_statistics(ExactModel(law, VPLinear()), 0.9, 0.1, count=16, samples=500, seed=3)
        values = found.linear(np.linspace(*VPLinear().log_snr(np.array([0.9, 0.1])), 5))
        assert values.shape == (5, 2)
        assert (values > 0).all()
        assert (values < 1).all()
        out = sample_dpm_solver_v3(
            VPLinear(), ExactModel(law, VPLinear()), np.ones((3, 2)), [0.9, 0.5, 0.1], statistics=found
        )
        assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dpm_solver_v3(VPLinear(), [0.9, 0.1], statistics=ANY), "statistics must have b = 0"),
        (lambda: dpm_solver_v3(VPLinear(), [0.9, 0.0], statistics=LINEAR), "times must end where sigma > 0"),
        (lambda: dpm_solver_v3(FlowMatching(), [1.0, 0.1], statistics=LINEAR), "times must start where alpha > 0"),
        (lambda: dpm_solver_v3(VPLinear(), [0.9, 0.1], statistics=LINEAR, order=0), "order must be at least 1"),
        (lambda: dpm_solver_v3(AffineProcess([VPLinear()]), [0.9, 0.1], statistics=LINEAR), "same on all axes"),
        (lambda: gaussian_statistics(MIXTURE, VPLinear()), "law must be a Gaussian with a diagonal"),
        (lambda: optimal_statistics(ExactModel(MIXTURE, VPLinear()), 0.1, 0.9), "start must be noisier than end"),
        (lambda: optimal_statistics(ExactModel(MIXTURE, VPLinear()), 0.9, 0.0), "both of finite lambda"),
        (
            lambda: optimal_statistics(ExactModel(Gaussian([0.0, 0.0], 1.0), VPLinear()), 0.9, 0.1),
            "samples must be given",
        ),
        (
            lambda: dpm_solver_v3(
                VPLinear(),
                [0.95, 0.1],
                statistics=optimal_statistics(ExactModel(Gaussian([0.0], 1.0), VPLinear()), 0.9, 0.1, count=4),
            ),
            "times must have lambda in",
        ),
        (
            lambda: sample_dpm_solver_v3(
                VPLinear(),
                ExactModel(MIXTURE, VPLinear()),
                X,
                [0.9, 0.1],
                statistics=gaussian_statistics(Gaussian([0.0, 0.0], 1.0), VPLinear()),
            ),
            "statistics must have 1 or 1 axes",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dpm_solver_v3(VPLinear(), [0.9, 0.1], statistics=None), "statistics must be Statistics"),
        (lambda: noise_statistics(0.5), "process must be a Process or a Schedule"),
        (lambda: gaussian_statistics(0.5, VPLinear()), "law must be a Gaussian"),
        (lambda: optimal_statistics(Gaussian([0.0], 1.0), 0.9, 0.1), "model must be an ExactModel"),
    ],
)
def test_arguments_of_another_kind_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()
