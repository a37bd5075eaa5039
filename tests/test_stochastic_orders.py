"""Orders as theory has them: strong ones on shared paths, weak ones by exact moments and on common noise.

A strong order is held to 0.1 and to 4.5 of its standard errors, with fixed seeds.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.linalg import expm

from refdiff import ExactModel, VPLinear
from refdiff.distributions import Gaussian, GaussianMixture
from refdiff.processes import critically_damped_langevin
from refdiff.samplers.dpm_sde import dpmpp_sde
from refdiff.samplers.propagation import propagate
from refdiff.samplers.reverse_sde import (
    ancestral,
    euler_maruyama,
    exponential_euler_maruyama,
    reverse_diffusion,
    stochastic_runge_kutta,
)
from refdiff.stochastic import (
    BrownianPath,
    StochasticEquation,
    exact_moments,
    followed,
    linear_moments,
    marginal_family,
    solve,
    strong_order,
    tabled,
    weak_limit,
    weak_order,
)
from refdiff.stochastic.solvers import METHODS
from refdiff.stochastic.solvers_noise import noise_kind

MU, S = 0.4, 0.5
SCALED = StochasticEquation(lambda x, t: MU * x, lambda x, t: S * x, 1, additive=False)
WAVES = StochasticEquation(
    lambda x, t: np.sin(2 * x) * (1 + t), lambda t: 1.0 + 0.5 * np.cos(3 * t), 1, linear=lambda t: -0.5 * t
)
TURNED = StochasticEquation(
    lambda x, t: np.stack([np.sin(x[:, 1]), x[:, 0] - t * x[:, 1]], axis=1),
    lambda x, t: np.stack([x[:, 1], 0.5 - x[:, 0]], axis=1)[:, :, None],
    2,
    additive=False,
    motions=1,
)
GENERAL = StochasticEquation(
    lambda x, t: np.stack([x[:, 1], -x[:, 0]], axis=1),
    lambda x, t: 0.5 * np.stack([x * np.array([1.0, -1.0]), x[:, ::-1]], axis=2),
    2,
    additive=False,
)
LAW = GaussianMixture.isotropic([[-1.0], [1.2]], [0.3, 0.25], [0.4, 0.6])
REVERSE = ExactModel(LAW, VPLinear())
SPAN = tuple(float(VPLinear().time_of_log_snr(lam)) for lam in (-0.8, 0.5))


def assert_order(found, wanted):
    assert abs(found.order - wanted) < 0.1, found
    assert abs(found.order - wanted) < 4.5 * found.error + 0.02, found  # what the next power of h leaves


# ---------------------------------------------------------------------- strong


@pytest.fixture(scope="module")
def line():
    """A path of one motion."""
    return BrownianPath(1, [0.0, 1.0]).increments(np.linspace(0, 1, 257), 800)


def starts(path, dim):
    return np.full((path.dw.shape[1], dim), 0.7)


@pytest.mark.parametrize(
    "method", ["euler-maruyama", "milstein", "explicit-milstein", "heun", "sri1", "sri2", "platen"]
)
def test_strong_orders_on_an_equation_with_a_solution(method, line):
    """Black and Scholes': x = exp((mu - s^2 / 2) T + s w_T) x_0."""
    exact = np.exp(MU - S * S / 2 + S * line.dw.sum(axis=0)) * starts(line, 1)
    found = strong_order(followed(SCALED, starts(line, 1), method), line, (16, 32, 64), exact)
    assert_order(found, METHODS[method].strong["diagonal"])


@pytest.mark.parametrize("method", ["euler-maruyama", "exponential", "heun", "sra1", "sra3"])
@pytest.mark.parametrize("back", [False, True], ids=["forth", "back"])
def test_strong_orders_with_additive_noise(method, back, line):
    path = line.reversed() if back else line
    found = strong_order(followed(WAVES, starts(path, 1), method), path, (32, 64, 128))
    assert_order(found, METHODS[method].strong["additive"])


@pytest.mark.parametrize("method", ["milstein", "heun", "sri1", "sri2"])
def test_strong_orders_with_one_motion_that_moves_two_axes(method, line):
    path = line.reversed()
    found = strong_order(followed(TURNED, starts(path, 2), method), path, (8, 16, 32))
    assert_order(found, METHODS[method].strong["scalar"])


@pytest.mark.parametrize("method", ["euler-maruyama", "heun"])
def test_general_noise_costs_half_an_order(method):
    assert noise_kind(GENERAL, np.ones((1, 2)), 0.0) == "general"
    path = BrownianPath(4, [0.0, 1.0], 2).increments(np.linspace(0, 1, 65), 1000)
    assert_order(strong_order(followed(GENERAL, starts(path, 2), method), path, (8, 16, 32)), 0.5)


TURN = np.array([[0.2, -0.5], [0.5, 0.2]])
SHEAR = np.array([[0.4, 0.3], [-0.3, 0.4]])  # they commute, and neither is symmetric
COMMUTING = StochasticEquation(
    lambda x, t: -0.3 * x, lambda x, t: np.stack([x @ TURN.T, x @ SHEAR.T], axis=2), 2, additive=False
)


@pytest.mark.parametrize("method", ["milstein", "explicit-milstein", "heun", "stratonovich-heun"])
def test_noise_of_two_motions_that_commute_has_a_solution_and_order_one(method):
    """x = exp(F T + A w + B w') x_0, F the drift in Stratonovich's sense: -(A^2 + B^2) / 2 more where it is Ito's."""
    assert noise_kind(COMMUTING, np.ones((1, 2)), 0.0) == "commutative"
    path = BrownianPath(4, [0.0, 1.0], 2).increments(np.linspace(0, 1, 33), 400)
    drift = -0.3 * np.eye(2)
    if METHODS[method].sense == "ito":
        drift = drift - (TURN @ TURN + SHEAR @ SHEAR) / 2
    w = path.dw.sum(axis=0)
    exact = expm(drift + w[:, 0, None, None] * TURN + w[:, 1, None, None] * SHEAR) @ np.full(2, 0.7)
    found = strong_order(followed(COMMUTING, starts(path, 2), method), path, (8, 16, 32), exact)
    assert_order(found, METHODS[method].strong["commutative"])


TABLES = {
    "euler-maruyama": (euler_maruyama, 1.0),
    "reverse-diffusion": (reverse_diffusion, 1.0),
    "ancestral": (partial(ancestral, variance="large"), 1.0),
    "exponential": (exponential_euler_maruyama, 1.0),
    "heun": (stochastic_runge_kutta, 1.0),
    "sra1": (partial(stochastic_runge_kutta, method="sra1"), 1.5),
}


@pytest.fixture(scope="module")
def reverse():
    """Starts, their fine path and where the reverse equation takes them."""
    x = REVERSE.sample(200, SPAN[0], 1)
    path = BrownianPath(6, SPAN).increments(np.linspace(*SPAN, 129), len(x))
    return x, path, solve(marginal_family(REVERSE), x, path.times, "sra3", path=path)


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_samplers_have_the_strong_orders_of_their_noise(name, reverse):
    (build, wanted), (x, path, ends) = TABLES[name], reverse
    found = strong_order(tabled(lambda times: build(REVERSE.process, times), REVERSE, x), path, (8, 16, 32), ends)
    assert_order(found, wanted)


def test_dpmpp_sde_follows_a_path_where_its_parts_do():
    x = REVERSE.sample(300, SPAN[0], 1)
    grid = VPLinear().time_of_log_snr(np.linspace(-0.8, 0.5, 257))
    path = BrownianPath(7, grid).increments(grid, len(x))
    ends = solve(marginal_family(REVERSE), x, grid, "sra3", path=path)
    run = tabled(lambda times: dpmpp_sde(REVERSE.process, times[::2], path="snr"), REVERSE, x)
    assert_order(strong_order(run, path, (16, 32, 64), ends), 1.0)


# ---------------------------------------------------------------------- weak, exactly


def exact_order(equation, method, span, start, wanted, counts=(32, 64)):
    """The orders of the mean's and of the covariance's error, over one doubling."""
    errors = []
    for n in counts:
        found = linear_moments(equation, method, np.linspace(*span, n + 1), *start)
        errors.append([np.abs(a - b).max() for a, b in zip(found, wanted, strict=True)])
    return np.log2(np.divide(*errors))


@pytest.mark.parametrize("method", ["euler-maruyama", "milstein", "explicit-milstein", "heun", "sri1", "platen"])
def test_weak_orders_on_a_linear_equation_without_sampling(method):
    start = ([1.0], 0.2)
    found = exact_order(SCALED, method, (0.0, 1.0), start, exact_moments(SCALED, 0.0, 1.0, *start))
    np.testing.assert_allclose(found, METHODS[method].weak["diagonal"], atol=0.06)


@pytest.mark.parametrize("method", ["euler-maruyama", "heun", "platen"])
def test_weak_orders_under_general_noise(method):
    start = ([1.0, 0.4], 0.2)
    found = exact_order(GENERAL, method, (1.0, 0.0), start, exact_moments(GENERAL, 1.0, 0.0, *start), (64, 128))
    np.testing.assert_allclose(found, METHODS[method].weak["general"], atol=0.12)


PHASE = critically_damped_langevin(1)
MOVED = ExactModel(Gaussian([0.3, 0.0], np.diag([0.5, 0.2])), PHASE)
BEFORE, AFTER = ((MOVED.marginal(t).mean(), MOVED.marginal(t).cov()) for t in (0.7, 0.4))


@pytest.mark.parametrize("method", ["euler-maruyama", "heun", "sra1", "sra3", "platen"])
def test_weak_orders_on_the_reversal_of_positions_and_velocities(method):
    """A process of matrices; SRA3 has the order 3 for the mean, which is its order without noise."""
    family = marginal_family(MOVED)
    mean, covariance = exact_order(family, method, (0.7, 0.4), BEFORE, AFTER, (32, 64))
    wanted = METHODS[method].weak["additive"]
    assert abs(mean - (3 if method == "sra3" else wanted)) < 0.2
    assert abs(covariance - wanted) < 0.2


@pytest.mark.parametrize(("name", "method"), [("euler-maruyama", "euler-maruyama"), ("sra1", "sra1")])
def test_moments_of_a_method_are_those_that_its_table_propagates(name, method):
    grid = np.linspace(0.7, 0.4, 4)
    mean, covariance = linear_moments(marginal_family(MOVED), method, grid, *BEFORE)
    law = propagate(TABLES[name][0](PHASE, grid), MOVED.distribution).output
    np.testing.assert_allclose(mean, law.mean(), rtol=1e-10)
    np.testing.assert_allclose(covariance, law.cov(), rtol=1e-10)


@pytest.mark.parametrize("k", [0.0, 0.5, 2.0])
def test_exact_moments_of_the_family_are_the_process_s(k):
    schedule = VPLinear()
    model = ExactModel(Gaussian([0.3, -0.2], [[0.5, 0.1], [0.1, 0.2]]), schedule)
    for start, end in ((0.5, 0.4), (0.4, 0.5)):
        before, after = model.marginal(start), model.marginal(end)
        family = marginal_family(model, k, to_data=end < start)
        mean, covariance = exact_moments(family, start, end, before.mean(), before.cov())
        np.testing.assert_allclose(mean, after.mean(), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(covariance, after.cov(), rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------------- weak, on common noise


@pytest.mark.parametrize(
    ("method", "statistic"),
    [("euler-maruyama", lambda y: np.cos(2 * y[:, 0])), ("sra1", lambda y: y[:, 0])],
    ids=["euler-maruyama", "sra1"],
)
def test_weak_orders_on_common_noise(method, statistic):
    """Steps of 1/4 to 1/16 are coarse: a quarter for the next power of h, and less than half for the noise."""
    path = BrownianPath(8, [0.0, 1.0]).increments(np.linspace(0, 1, 33), 8000)
    found = weak_order(followed(WAVES, starts(path, 1), method), path, (4, 8, 16), statistic)
    assert abs(found.order - METHODS[method].weak["additive"]) < 0.3
    assert found.error < 0.1


def test_weak_limits_are_the_marginals_of_a_mixture():
    x = REVERSE.sample(3000, SPAN[0], 2)
    path = BrownianPath(8, SPAN).increments(np.linspace(*SPAN, 17), len(x))
    limit = weak_limit(followed(marginal_family(REVERSE), x, "heun"), path, 2.0, lambda y: y**2)
    wanted = REVERSE.marginal(SPAN[1])
    np.testing.assert_allclose(limit.value, np.diag(wanted.cov()) + wanted.mean() ** 2, atol=4.5 * limit.error[0])


# ---------------------------------------------------------------------- the door


def test_what_has_no_order_is_refused():
    path = BrownianPath(1, [0.0, 1.0]).increments(np.linspace(0, 1, 9), 4)
    run = followed(WAVES, np.zeros((4, 1)))
    for counts, words in (((4,), "at least two numbers"), ((3, 6), "divide the path's 8 steps"), ((4, 8), "8 steps")):
        with pytest.raises(ValueError, match=words):
            strong_order(run, path, counts)
    with pytest.raises(ValueError, match="error to measure"):
        strong_order(lambda path: np.zeros((4, 1)), path, (2, 4))
    with pytest.raises(ValueError, match="at least two particles"):
        strong_order(lambda path: path.dw[0], BrownianPath(1, [0.0, 1.0]).increments(np.linspace(0, 1, 9), 1), (2, 4))
    with pytest.raises(ValueError, match="differences above their noise"):
        weak_order(run, path, (2, 4), lambda y: y[:, 0])
    with pytest.raises(ValueError, match="one or two normals"):
        tabled(lambda times: euler_maruyama(REVERSE.process, times[::4]), REVERSE, np.zeros((4, 1)))(path.reversed())
    with pytest.raises(ValueError, match="equation must be linear"):
        linear_moments(WAVES, "heun", [0.0, 1.0], [0.3], 1.0)
    many = StochasticEquation(lambda x, t: x, lambda x, t: x, 3, additive=False)
    with pytest.raises(ValueError, match="at most two motions"):
        linear_moments(many, "heun", [0.0, 1.0], np.ones(3), 1.0)
    with pytest.raises(ValueError, match="mean must have shape"):
        exact_moments(SCALED, 0.0, 1.0, [1.0, 2.0], 1.0)
