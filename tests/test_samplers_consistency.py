"""Sampling with flow maps: exact laws for exact maps, and the tables against the algorithms written out on numbers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import GAUSSIAN

from refdiff import (
    AffineProcess,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
)
from refdiff.samplers.consistency import (
    FAMILIES,
    consistency_boundary,
    consistency_function,
    flow_map,
    gamma_sampling,
    lcm_boundary,
    sample_flow_map,
)
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.propagation import propagate
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run

MIXTURE = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
GRID = np.array([0.95, 0.6, 0.3, 0.1])
SCHEDULES = [VPLinear(), VPCosine(), FlowMatching(), VEPower()]
gammas = st.floats(0, 1)


def test_multistep_sampling_is_the_algorithm_written_out_on_numbers():
    # x <- f(x, T); then at each tau: noise to tau, f again
    schedule, rng = FlowMatching(), np.random.default_rng(0)
    model = ExactModel(MIXTURE, schedule)
    z, x = rng.standard_normal((2, 4, 1)), rng.standard_normal((4, 1))
    clean = model.denoiser(x, 1.0)
    for tau, noise in zip((0.6, 0.3), z, strict=True):
        clean = model.denoiser(schedule.alpha(tau) * clean + schedule.sigma(tau) * noise, tau)
    table = gamma_sampling(schedule, [1.0, 0.6, 0.3, 0.0])
    assert table.draws == 2
    assert np.abs(run(table, model, x, normals=z) - clean).max() < 1e-14


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_impulses_through_the_trajectory_algorithm_give_the_table(gamma):
    # jump to the level sqrt(1 - gamma^2) rho_t by the parameterization of the trajectory model, then noise
    schedule = VEPower()

    def sampler(model, x, normal):
        for s, t in ((0.9, 0.5), (0.5, 0.2)):
            m = np.sqrt(1 - gamma**2) * t
            g = model(x, s)
            x = m / s * x + (1 - m / s) * g
            if gamma:
                x = x + np.sqrt(t**2 - m**2) * normal()
        return x

    read = impulse_response(sampler, schedule, start_time=0.9, end_time=0.2)
    assert read.difference(gamma_sampling(schedule, [0.9, 0.5, 0.2], gamma=gamma)) < 1e-12


@given(gammas, st.sampled_from(SCHEDULES))
def test_with_a_denoiser_gamma_sampling_is_the_ddim_member_of_noise_gamma_sigma(gamma, schedule):
    times = schedule.T * GRID
    rec = Recorder("member", schedule, times)
    x = rec.start
    for s, t in rec.steps:
        d, c = rec.evaluate(x, s), gamma * t.sigma
        x = t.alpha * d + np.sqrt(t.sigma**2 - c**2) * (x - s.alpha * d) / s.sigma + rec.noise(c)
    assert gamma_sampling(schedule, times, gamma=gamma).difference(rec.finish(x)) < 1e-12


def test_gamma_zero_is_ddim():
    assert gamma_sampling(VPLinear(), GRID, gamma=0.0).close(ddim(VPLinear(), GRID), 1e-14)


@given(gammas, st.sampled_from(SCHEDULES))
def test_an_exact_flow_map_keeps_the_law_for_every_gamma(gamma, schedule):
    # the steps are affine: two starts and a run without noise give the gain, unit normals the rest
    times, carry = schedule.T * GRID, flow_map(ExactModel(GAUSSIAN, schedule))
    process = AffineProcess(schedule)
    start = process.kernel(times[0]).push(GAUSSIAN)
    mean, variance = start.means[0, 0], start.cov()[0, 0]
    for s, t in pairwise(times):

        def step(x, z, s=s, t=t):
            return sample_flow_map(carry, schedule, [s, t], [[x]], Fixed(z), gamma=gamma)[0, 0]

        rest = step(0.0, 0.0)
        gain, noise = step(1.0, 0.0) - rest, step(0.0, 1.0) - rest
        mean, variance = gain * mean + rest, gain**2 * variance + noise**2
        target = process.kernel(t).push(GAUSSIAN)
        assert abs(mean - target.means[0, 0]) < 1e-12
        assert abs(variance - target.cov()[0, 0]) < 1e-12 * max(1, variance)


class Fixed(np.random.Generator):
    """A generator whose normals are all one number."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def standard_normal(self, shape):
        return np.full(shape, self.value)


def test_the_table_on_the_consistency_function_is_sampling_with_the_flow_map():
    schedule = FlowMatching()
    model = ExactModel(GAUSSIAN, schedule)
    x, z = np.array([[0.3], [-1.0]]), 0.4
    table = gamma_sampling(schedule, GRID)
    found = run(table, consistency_function(model), x, normals=np.full((3, 2, 1), z))
    assert np.abs(found - sample_flow_map(flow_map(model), schedule, GRID, x, Fixed(z))).max() < 1e-12


@pytest.mark.parametrize("gamma", [0.0, 0.4])
def test_the_table_on_the_trajectory_models_estimate_is_sampling_with_the_flow_map(gamma):
    # g of G_{s->m} = alpha_m g + sigma_m (x - alpha_s g) / sigma_s, with m the level sqrt(1 - gamma^2) rho_t
    schedule = VPLinear()
    model = ExactModel(GAUSSIAN, schedule)
    carry, target = flow_map(model), dict(zip(GRID[:-1].tolist(), GRID[1:].tolist(), strict=True))

    def estimate(x, s):
        m = schedule.time_of_log_snr(schedule.log_snr(target[s]) - np.log(np.sqrt(1 - gamma**2)))
        ratio = schedule.sigma(m) / schedule.sigma(s)
        return (carry(x, s, m) - ratio * x) / (schedule.alpha(m) - ratio * schedule.alpha(s))

    x, z = np.array([[0.3], [-1.0]]), -0.7
    table = gamma_sampling(schedule, GRID, gamma=gamma)
    found = run(table, estimate, x, normals=np.full((table.draws, 2, 1), z))
    assert np.abs(found - sample_flow_map(carry, schedule, GRID, x, Fixed(z), gamma=gamma)).max() < 1e-11


def test_flow_maps_compose_and_a_full_covariance_is_carried_in_its_eigenbasis():
    law = Gaussian([0.7, -0.2], np.array([[1.0, 0.6], [0.6, 0.8]]))
    x = np.array([[0.3, 1.0], [-1.0, 0.4]])
    exact = flow_map(ExactModel(law, VPLinear()))
    assert np.abs(exact(exact(x, 0.9, 0.5), 0.5, 0.1) - exact(x, 0.9, 0.1)).max() < 1e-13
    # the same law as a mixture of two equal halves, by integration
    halves = GaussianMixture.full([law.means[0]] * 2, [law.covariance] * 2, [0.5, 0.5])
    assert np.abs(exact(x, 0.9, 0.1) - flow_map(ExactModel(halves, VPLinear()))(x, 0.9, 0.1)).max() < 1e-10
    assert np.array_equal(flow_map(ExactModel(MIXTURE, VPLinear()))(x[:, :1], 0.5, 0.5), x[:, :1])


def test_a_consistency_function_is_the_identity_where_its_network_starts():
    schedule = VEPower(T=80.0)
    point = Recorder("", schedule, [1.0, 0.002]).at(0.002)
    assert consistency_boundary()(point) == (1.0, 0.0)
    assert lcm_boundary()(Recorder("", VPLinear(), [1.0, 0.5]).at(0.0)) == (1.0, 0.0)


def test_the_boundary_of_latent_consistency_models_is_relative_to_scaled_timesteps():
    point = Recorder("", VPLinear(), [1.0, 0.3]).points[1]
    tau = 10 * 300
    expected = (0.25 / (tau**2 + 0.25), tau / np.sqrt(tau**2 + 0.25))
    np.testing.assert_allclose(lcm_boundary(timesteps=1000)(point), expected, rtol=1e-14)


def test_a_boundary_at_pure_noise_is_its_limit():
    near, pure = Recorder("", FlowMatching(), [1.0, 0.5]).at(1 - 1e-9), Recorder("", FlowMatching(), [1.0, 0.5]).at(1.0)
    skip, out = consistency_boundary()(pure)
    assert (skip, out) == (0.0, 0.5)
    np.testing.assert_allclose(consistency_boundary()(near), (skip, out), atol=1e-8)
    c = FlowMatching().coefficients(0.7)
    rho = c.sigma / c.alpha - 0.002
    np.testing.assert_allclose(
        consistency_boundary()(Recorder("", FlowMatching(), [1.0, 0.7]).points[1]),
        (0.25 / (rho**2 + 0.25) / c.alpha, 0.5 * rho / np.sqrt((rho + 0.002) ** 2 + 0.25)),
        rtol=1e-14,
    )
    table = gamma_sampling(FlowMatching(), [1.0, 0.5, 0.1], boundary=consistency_boundary())
    assert np.isfinite(table.outputs).all()


def test_where_no_time_is_as_clean_as_the_middle_the_map_goes_to_time_zero():
    schedule, z = VEGeometric(0.1, 10.0), 0.7
    carry, x = flow_map(ExactModel(GAUSSIAN, schedule)), np.array([[0.3]])
    found = sample_flow_map(carry, schedule, [0.5, 0.1], x, Fixed(z), gamma=0.9)
    least, level = schedule.sigma(0.0), schedule.sigma(0.1)
    assert np.sqrt(1 - 0.9**2) * level < least
    np.testing.assert_allclose(found, carry(x, 0.5, 0.0) + np.sqrt(level**2 - least**2) * z, rtol=1e-14)
    np.testing.assert_array_equal(sample_flow_map(carry, schedule, [0.5, 0.0], x, 0, gamma=0.9), carry(x, 0.5, 0.0))


@pytest.mark.parametrize("boundary", [consistency_boundary(), lcm_boundary(timesteps=1000)])
def test_a_boundary_turns_a_network_into_the_consistency_function(boundary):
    schedule = VEPower()
    model = ExactModel(MIXTURE, schedule)
    rec = Recorder("", schedule, [0.9, 0.1])

    def network(x, t):
        skip, out = boundary(rec.at(t))
        return (model.denoiser(x, t) - skip * x) / out

    x, z = np.array([[0.3], [-1.0]]), np.ones((2, 2, 1))
    plain = run(gamma_sampling(schedule, [0.9, 0.5, 0.2]), model, x, normals=z)
    found = run(gamma_sampling(schedule, [0.9, 0.5, 0.2], boundary=boundary), network, x, normals=z)
    assert np.abs(found - plain).max() < 1e-13


def test_one_step_with_a_denoiser_collapses_and_with_a_flow_map_does_not():
    schedule = FlowMatching()
    denoised = propagate(gamma_sampling(schedule, [1.0, 0.0]), GAUSSIAN)
    assert denoised.output.cov()[0, 0] == 0
    model = ExactModel(GAUSSIAN, schedule)
    two = run(gamma_sampling(schedule, [1.0, 0.0]), consistency_function(model), [[-1.0], [1.0]])
    assert abs((two[1, 0] - two[0, 0]) / 2 - 0.5) < 1e-14


def test_tables_hold_for_each_axis_and_at_both_ends():
    process = AffineProcess([VPLinear(), FlowMatching()])
    law = Gaussian([0.7, -0.2], np.array([0.25, 1.5]))
    for family in FAMILIES:
        table = family(process, [0.9, 0.5, 0.2])
        x, z = np.array([[0.3, 1.1]]), np.random.default_rng(0).standard_normal((2, 1, 2))
        both = run(table, ExactModel(law, process), x, normals=z)
        for j, schedule in enumerate(process.schedules):
            alone = ExactModel(Gaussian(law.means[0, j : j + 1], law.covariance[j]), schedule)
            one = run(family(schedule, [0.9, 0.5, 0.2]), alone, x[:, j : j + 1], normals=z[..., j : j + 1])
            assert abs(both[0, j] - one[0, 0]) < 1e-14
        whole = family(FlowMatching(), [1.0, 0.0])
        assert whole.draws == 0
        assert np.isfinite(whole.outputs).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gamma_sampling(VPLinear(), GRID, gamma=1.1), "gamma must lie in"),
        (lambda: consistency_boundary(sigma_data=0), "sigma_data must lie in"),
        (lambda: sample_flow_map(lambda x, s, t: x[0], VPLinear(), GRID, [[0.0]]), "carry must answer"),
        (lambda: sample_flow_map(lambda x, s, t: x, VPLinear(), GRID[::-1], [[0.0]]), "times must decrease"),
        (lambda: sample_flow_map(lambda x, s, t: x, VPLinear(), GRID, 0.0), "x must have shape"),
        (
            lambda: sample_flow_map(lambda x, s, t: x, AffineProcess([VPLinear()]), GRID, [[0.0]]),
            "process must be the same on all axes",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_function_or_process_is_refused():
    with pytest.raises(TypeError, match="boundary must be a function"):
        gamma_sampling(VPLinear(), GRID, boundary=0.5)
    with pytest.raises(TypeError, match="process must be"):
        sample_flow_map(lambda x, s, t: x, 3, GRID, [[0.0]])
