"""EDM's samplers against their published algorithm on numbers, their orders, their churn, and the ends of the grid."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import (
    GAUSSIAN,
    SCHEDULES,
    SIGMA_LAW,
    flow_order,
    heard_in_sigma,
    in_log_snr,
    levels,
    order_of,
    seen_through_alpha,
    sigma_grid,
)

from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess
from refdiff.samplers.edm import FAMILIES, edm_euler, edm_heun
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, VPLinear

NAMED = {family.name: family for family in FAMILIES}


def published(denoiser, x, sigmas, normal, node=None, s_churn=0.0, s_tmin=0.0, s_tmax=np.inf, s_noise=1.0):
    """Karras et al. 2022: Algorithm 2 with the second-order step of Algorithm 3, or Euler's where node is None."""
    n = len(sigmas) - 1
    for sigma, target in pairwise(sigmas):
        gamma = min(s_churn / n, np.sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 0.0
        hat = sigma + gamma * sigma
        if gamma > 0:
            x = x + np.sqrt(hat**2 - sigma**2) * s_noise * normal()
        h, d = target - hat, (x - denoiser(x, hat)) / hat
        inside = hat + (node or 0) * h
        if node is None or inside == 0:
            x = x + h * d
        else:
            middle = x + node * h * d
            d2 = (middle - denoiser(middle, inside)) / inside
            x = x + h * ((1 - 1 / (2 * node)) * d + d2 / (2 * node))
    return x


MEMBERS = {
    "Euler": (edm_euler, {}, None),
    "Heun": (edm_heun, {}, 1.0),
    "midpoint": (edm_heun, {"node": 0.5}, 0.5),
    "Ralston": (edm_heun, {"node": 2 / 3}, 2 / 3),
}
CHURNS = [
    {},
    {"s_churn": 2.0, "s_tmin": 0.05, "s_tmax": 5.0, "s_noise": 1.01},
    {"s_churn": 100.0, "s_tmax": 20.0},
]


@pytest.mark.parametrize("churn", CHURNS, ids=["no churn", "churn", "clamped churn"])
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_map_is_the_published_algorithm_seen_through_x_over_alpha(schedule, member, churn):
    build, options, node = MEMBERS[member]
    times = sigma_grid(schedule, 7, clean=True)
    plain = partial(published, node=node, **churn)
    seen_through_alpha(plain, build(schedule, times, **options, **churn), schedule, times)


@pytest.mark.parametrize("churn", CHURNS, ids=["no churn", "churn", "clamped churn"])
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_impulses_through_the_published_algorithm_read_the_table(schedule, member, churn):
    build, options, node = MEMBERS[member]
    times = sigma_grid(schedule, 5)
    found = heard_in_sigma(partial(published, node=node, **churn), schedule, times)
    assert found.difference(build(schedule, times, **options, **churn)) < 1e-12


# ---------------------------------------------------------------------- orders


@pytest.mark.parametrize("name", ["edm-euler", "edm-heun", "edm-midpoint", "edm-ralston"])
def test_the_order_is_measured_on_a_mixture(name):
    law = GaussianMixture.isotropic([[-1.0], [1.0]], [0.09, 0.09], [0.4, 0.6])
    found = flow_order(NAMED[name], VPLinear(), in_log_snr(VPLinear(), 0.5, 0.2), law=law, counts=(32, 64, 128))
    assert abs(found - NAMED[name].order) < 0.1


@pytest.mark.parametrize(("build", "expected"), [(edm_euler, 1), (edm_heun, 2)])
@pytest.mark.parametrize("ends", [(1.0, 0.1), (0.9, 0.0)], ids=["from alpha = 0", "to sigma = 0"])
def test_the_euler_step_at_an_end_costs_no_order(build, expected, ends):
    found = order_of(build, FlowMatching(), lambda n: np.linspace(*ends, n + 1), counts=(32, 64, 128))
    assert abs(found - expected) < 0.1


# ---------------------------------------------------------------------- churn


@given(st.floats(0.01, 10.0), st.floats(0.0, 2.0), st.integers(1, 5))
def test_churn_keeps_the_marginal_and_inflation_adds_its_own_variance(s_churn, s_noise, n):
    schedule = VPLinear()
    times = sigma_grid(schedule, n)
    top = levels(schedule, times)[0]
    law = propagate(edm_euler(schedule, times, s_churn=s_churn, s_noise=s_noise), GAUSSIAN)
    gamma = min(s_churn / n, np.sqrt(2) - 1)
    alpha = law.tableau.coefficients.alpha[1]
    assert np.isclose(
        law.tableau.coefficients.sigma[1] / alpha, top * (1 + gamma), rtol=1e-12
    )  # stage 1 is the churned start
    extra = (s_noise**2 - 1) * (alpha * top) ** 2 * gamma * (2 + gamma)
    np.testing.assert_allclose(law.law(1).cov(), law.target(1).cov() + extra, rtol=1e-11)
    np.testing.assert_allclose(law.law(1).mean(), law.target(1).mean(), rtol=1e-11)


def test_churn_is_clamped_where_the_noise_would_grow_by_more_than_the_root_of_two():
    schedule, n = VPLinear(), 6
    clamped = edm_heun(schedule, sigma_grid(schedule, n), s_churn=1e9, s_tmax=10.0)
    assert clamped.close(edm_heun(schedule, sigma_grid(schedule, n), s_churn=n * (np.sqrt(2) - 1), s_tmax=10.0))


def test_churn_outside_its_range_of_noise_levels_does_nothing():
    schedule = VPLinear()
    times = sigma_grid(schedule, 6)
    low, high = levels(schedule, times)[[3, 2]]
    table = edm_euler(schedule, times, s_churn=1.0, s_tmin=low, s_tmax=high)
    assert table.draws == 2
    assert edm_euler(schedule, times, s_churn=1.0, s_tmin=high + 1e-6, s_tmax=high + 2e-6).draws == 0
    assert edm_euler(schedule, times, s_churn=1.0, s_tmin=high + 1e-6, s_tmax=high + 1e-6).draws == 0


@pytest.mark.parametrize("build", [edm_euler, edm_heun])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_churn_beyond_the_end_of_the_process_names_the_step(build, schedule):
    start = schedule.T
    with pytest.raises(ValueError, match=r"s_tmax must keep the churned noise .* in step 0, from t = "):
        build(schedule, np.linspace(start, 0.1 * start, 4), s_churn=1.0)
    build(schedule, np.linspace(start, 0.1 * start, 4), s_churn=1.0, s_tmax=1.0)


# ---------------------------------------------------------------------- ends of the grid, axes, bad input


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("member", MEMBERS)
def test_grids_from_alpha_zero_to_sigma_zero_give_finite_tables(member, n):
    build, options, node = MEMBERS[member]
    table = build(FlowMatching(), np.linspace(1.0, 0.0, n + 1), **options)
    assert table.nfe == {None: n, 1.0: max(2 * n - 2, 1)}.get(node, 2 * n - 1)
    x = np.random.default_rng(0).standard_normal((4, 1))
    first = run(table, ExactModel(SIGMA_LAW, FlowMatching()), x, trajectory=True)
    assert np.isfinite(first).all()
    if n == 1:  # the denoiser at pure noise is the mean
        np.testing.assert_allclose(first[-1], np.broadcast_to(SIGMA_LAW.mean(), x.shape), atol=1e-14)


@pytest.mark.parametrize("member", ["Euler", "Heun"])
def test_each_axis_of_a_per_axis_process_is_sampled_on_its_own(member):
    build, options, _ = MEMBERS[member]
    schedules = [VPLinear(), FlowMatching()]
    times = np.linspace(0.9, 0.05, 5)
    table = build(AffineProcess(schedules), times, **options)
    law = Gaussian([0.3, -0.4], [0.5, 2.0])
    x = np.random.default_rng(3).standard_normal((6, 2))
    found = run(table, ExactModel(law, AffineProcess(schedules)), x)
    for j, schedule in enumerate(schedules):
        one = ExactModel(Gaussian(law.mean()[j : j + 1], law.cov()[j, j]), schedule)
        alone = run(build(schedule, times, **options), one, x[:, j : j + 1])
        np.testing.assert_allclose(found[:, j : j + 1], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (edm_euler, {"s_churn": -1.0}, "s_churn"),
        (edm_euler, {"s_noise": np.nan}, "s_noise"),
        (edm_heun, {"s_tmin": 2.0, "s_tmax": 1.0}, "s_tmax must be at least s_tmin"),
        (edm_heun, {"s_tmax": np.nan}, "s_tmax"),
        (edm_heun, {"node": 0.0}, "node"),
        (edm_heun, {"node": 1.5}, "node"),
    ],
)
def test_options_out_of_range_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(VPLinear(), [0.9, 0.5, 0.1], **options)


@pytest.mark.parametrize("options", [{"node": 0.5}, {"s_churn": 1.0}])
def test_what_needs_a_clock_refuses_a_process_for_each_axis(options):
    with pytest.raises(ValueError, match="same on all axes"):
        edm_heun(AffineProcess([VPLinear(), FlowMatching()]), [0.9, 0.5, 0.1], **options)
