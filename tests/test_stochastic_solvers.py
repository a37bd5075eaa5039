"""Solvers against samplers' tables on the same normals, against algorithms written out, and against exact solutions."""

from __future__ import annotations

import numpy as np
import pytest

from refdiff import ExactModel, FlowMatching, VPLinear, operators
from refdiff.distributions import random_mixture
from refdiff.processes import AffineProcess, critically_damped_langevin
from refdiff.samplers.reverse_sde import euler_maruyama, stochastic_runge_kutta
from refdiff.samplers.running import run
from refdiff.stochastic import (
    BrownianPath,
    StochasticEquation,
    forward_equation,
    linear_moments,
    marginal_family,
    solve,
    tabled,
)
from refdiff.stochastic.solvers import METHODS
from refdiff.stochastic.solvers_noise import noise_kind
from refdiff.stochastic.solvers_steps import exponentials

LAW = random_mixture(2, 3, 5)
X = np.random.default_rng(1).standard_normal((6, 2))
PROCESSES = {
    "scalar": AffineProcess(VPLinear()),
    "each axis its own": AffineProcess([VPLinear(), FlowMatching()]),
    "Langevin": critically_damped_langevin(1),
}
GRID = np.array([0.9, 0.8, 0.55, 0.5, 0.2])


def drift(x, t):
    return np.stack([np.sin(x[:, 1]) - x[:, 0] * t, x[:, 0] * x[:, 1] * 0.3 + t], axis=1)


EQUATIONS = {
    "additive": StochasticEquation(
        drift, lambda t: np.array([[1 + t, 0.3, 0.2], [0, np.cos(3 * t), 0.4]]), 2, motions=3
    ),
    "diagonal": StochasticEquation(drift, lambda x, t: 0.5 + 0.3 * np.sin(x + t), 2, additive=False),
    "scalar": StochasticEquation(
        drift, lambda x, t: np.stack([x[:, 1] + t, np.cos(x[:, 0])], axis=1)[:, :, None], 2, False, 1
    ),
    "commutative": StochasticEquation(
        drift, lambda x, t: np.stack([x, x**2 * 0.3], axis=2) * np.array([1.0, 0]) + np.array([0, 0.0]), 2, False, 2
    ),
    "general": StochasticEquation(
        drift, lambda x, t: np.stack([x, x[:, ::-1] + 1.0], axis=2) * np.array([0.5, 0.3]), 2, False, 2
    ),
}


@pytest.mark.parametrize("kind", EQUATIONS)
def test_the_kind_of_noise_is_found(kind):
    assert noise_kind(EQUATIONS[kind], X, 0.4) == kind


def test_noise_that_commutes_where_chains_start_and_not_beside_it_is_general():
    """G_1 = (1, 0), G_2 = (0, x_1^2): L^1 G_2 = (0, 2 x_1), which is 0 on one axis alone, where Milstein starts."""
    turning = StochasticEquation(
        lambda x, t: 0 * x,
        lambda x, t: np.stack([np.ones_like(x[:, 0]), x[:, 0] ** 2], 1)[:, :, None] * np.eye(2),
        2,
        False,
    )
    assert noise_kind(turning, np.zeros((3, 2)), 0.0) == "general"


def test_noise_that_ends_where_points_may_not_go_is_probed_near_them():
    """sqrt(x (1 - x)) of both axes, as a diagonal and as matrices."""

    def root(x, t):  # noqa: ARG001
        return np.sqrt(x * (1 - x))

    for noise in (root, lambda x, t: root(x, t)[:, :, None] * np.eye(2)):
        equation = StochasticEquation(lambda x, t: 0.5 - x, noise, 2, additive=False)
        assert noise_kind(equation, np.array([[0.02, 0.98]]), 0.0) in ("diagonal", "commutative")


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_the_kind_of_noise_does_not_depend_on_its_size(size):
    for kind in ("commutative", "general"):
        whole = EQUATIONS[kind]
        scaled = StochasticEquation(drift, lambda x, t, e=whole: size * e.noise_at(x, t), 2, False, 2)
        assert noise_kind(scaled, X, 0.4) == kind
    still = StochasticEquation(
        drift, lambda x, t: size * np.broadcast_to([[1.0, 2.0], [0.0, 1.0]], (len(x), 2, 2)), 2, False
    )
    assert noise_kind(still, X, 0.4) == "commutative"


def test_a_diagonal_whose_entries_see_other_axes_is_refused_whichever_they_are():
    dim = 5
    for own in range(dim):
        for other in set(range(dim)) - {own}:
            mixed = StochasticEquation(
                lambda x, t: x,
                lambda x, t, own=own, other=other: 1 + np.eye(dim)[own] * np.sin(x[:, [other]]),
                dim,
                additive=False,
            )
            with pytest.raises(ValueError, match="noise must answer with matrices"):
                noise_kind(mixed, np.ones((2, dim)), 0.0)


# ---------------------------------------------------------------------- against the tables


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 2.0])
def test_euler_maruyama_is_the_table_s_on_the_same_normals(name, k):
    model = ExactModel(LAW, PROCESSES[name])
    family, path = marginal_family(model, k), BrownianPath(7, GRID, 2)
    mine = solve(family, X, GRID, path=path, trajectory=True)
    normals = path.increments(GRID, len(X)).unit if k else None
    theirs = run(euler_maruyama(model.process, GRID, noise=k), model, X, normals=normals, trajectory=True)
    np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-11)
    # and a seed says the same path, by the table
    np.testing.assert_allclose(solve(family, X, GRID, seed=7, trajectory=True), theirs, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(solve(family, X, GRID, seed=7), theirs[-1], rtol=1e-11, atol=1e-11)


def test_under_an_offset_a_seed_and_its_path_are_one_run_and_tables_take_the_offset_exactly():
    process = AffineProcess(VPLinear(), offset=lambda t: (t * t, 2 * t, 2.0))
    model, path = ExactModel(LAW, process), BrownianPath(7, GRID, 2)
    family, centred = marginal_family(model), marginal_family(model.centred)
    np.testing.assert_array_equal(solve(family, X, GRID, seed=7), solve(family, X, GRID, path=path))
    normals = path.increments(GRID, len(X)).unit
    table = run(euler_maruyama(process, GRID), model, X, normals=normals)
    start, end = GRID[0] ** 2, GRID[-1] ** 2
    np.testing.assert_allclose(solve(centred, X - start, GRID, path=path) + end, table, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", PROCESSES)
def test_sra1_is_the_table_s_on_the_same_path(name):
    model, path = ExactModel(LAW, PROCESSES[name]), BrownianPath(7, [0.9, 0.2], 2).increments(GRID, len(X))
    follow = tabled(lambda times: stochastic_runge_kutta(model.process, times, method="sra1"), model, X)
    np.testing.assert_allclose(solve(marginal_family(model), X, GRID, "sra1", path=path), follow(path), rtol=1e-10)


def test_many_points_go_through_the_kernel_and_stay_what_they_are():
    model, many = ExactModel(LAW, VPLinear()), np.random.default_rng(3).standard_normal((3000, 2))
    family = marginal_family(model)
    fast, plain = solve(family, many, GRID, seed=5), solve(family, many, GRID, path=BrownianPath(5, GRID, 2))
    np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-9)
    part = solve(family, many[1000:], GRID, seed=5, particle=1000)
    np.testing.assert_allclose(part, fast[1000:], rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- against algorithms written out


@pytest.mark.parametrize("kind", ["diagonal", "scalar", "commutative", "general"])
def test_without_noise_every_method_is_one_for_ordinary_equations(kind):
    """G = 0: one step of each is Euler's, Heun's or a Runge-Kutta method's of order 2 or 3."""
    quiet = StochasticEquation(
        drift, lambda x, t: 0 * EQUATIONS[kind].noise_at(x, t), 2, False, EQUATIONS[kind].motions
    )
    start, end = 0.3, 0.1
    h, a = end - start, drift(X, start)
    euler = X + h * a
    heun = X + h / 2 * (a + drift(euler, end))
    three = X + h / 3 * (a + 2 * drift(X + 0.75 * h * a, start + 0.75 * h))
    middle = start + 0.5 * h
    third = X + h / 6 * (a + drift(euler, end) + 4 * drift(X + h / 4 * (a + drift(euler, end)), middle))
    wanted = {"euler-maruyama": euler, "milstein": euler, "explicit-milstein": euler, "sri1": three, "sri2": third}
    for name, method in METHODS.items():
        if noise_kind(quiet, X, start) in method.strong:
            found = solve(quiet, X, [start, end], name, seed=1)
            np.testing.assert_allclose(found, wanted.get(name, heun), rtol=1e-13, atol=1e-14)


def test_diagonal_noise_as_matrices_is_the_same_noise():
    whole = EQUATIONS["diagonal"]
    dense = StochasticEquation(drift, lambda x, t: whole.noise_at(x, t)[:, :, None] * np.eye(2), 2, additive=False)
    path = BrownianPath(3, [0.0, 1.0], 2)
    for method in ("euler-maruyama", "milstein", "explicit-milstein", "heun", "platen"):
        one, two = (solve(e, X, np.linspace(0, 1, 9), method, path=path) for e in (whole, dense))
        # slopes by differences along one axis or along all: ten digits
        np.testing.assert_allclose(one, two, rtol=1e-8, atol=1e-8)


def test_slopes_that_are_given_and_those_by_differences_agree():
    for kind in ("diagonal", "general"):
        plain = EQUATIONS[kind]
        slope = plain.noise_slope(X, 0.3)
        given = StochasticEquation(plain.drift, plain.noise, 2, False, 2, slope=lambda x, t, s=slope: s)
        np.testing.assert_array_equal(given.noise_slope(X, 0.3), slope)
    exact = 0.3 * np.cos(X + 0.3)
    np.testing.assert_allclose(EQUATIONS["diagonal"].noise_slope(X, 0.3), exact, rtol=0, atol=1e-9)
    for axis, column in enumerate(np.eye(2)):
        change = np.stack([column, column[::-1]], axis=1) * np.array([0.5, 0.3])
        np.testing.assert_allclose(EQUATIONS["general"].noise_slope(X, 0.3)[..., axis], [change] * len(X), atol=1e-9)


@pytest.mark.parametrize("name", ["scalar", "Langevin"])
def test_the_exponential_method_takes_a_linear_equation_but_for_a_variance_of_fourth_order(name):
    process, start = PROCESSES[name], ([1.0, 0.2], [0.3, 0.1])
    forward, channel = forward_equation(process, 2), process.channel(0.1, 0.9)
    mean, covariance = (
        operators.apply(channel.gain, np.array(start[0])),
        operators.sandwich(channel.gain, np.diag(start[1])),
    )
    errors = []
    for n in (16, 32):
        found = linear_moments(forward, "exponential", np.linspace(0.1, 0.9, n + 1), *start)
        np.testing.assert_allclose(found[0], mean, rtol=1e-12)
        errors.append(np.abs(found[1] - operators.dense(operators.add(covariance, channel.noise), 2)).max())
    assert abs(np.log2(errors[0] / errors[1]) - 4) < 0.1


def test_exponentials_of_diagonals_are_those_of_their_matrices():
    z = np.array([-3.0, 1e-9, 0.0, 4.0])
    for one, two in zip(exponentials(z), exponentials(np.diag(z)), strict=True):
        # scaling and squaring of one matrix for all: e^4 rounded at 5e-13 of it
        np.testing.assert_allclose(np.diag(one), two, rtol=0, atol=1e-12 * one.max())


def test_on_black_and_scholes_equation_ito_and_stratonovich_are_what_they_should_be():
    """dx = mu x dt + s x dw: exp((mu - s^2/2) T + s w) in Ito's sense, exp(mu T + s w) in Stratonovich's."""
    mu, s, path = 0.3, 0.6, BrownianPath(4, [0.0, 1.0]).increments(np.linspace(0, 1, 1025), 200)
    scaled = StochasticEquation(lambda x, t: mu * x, lambda x, t: s * x, 1, additive=False)
    for method, shift in (("heun", -0.5 * s * s), ("stratonovich-heun", 0.0)):
        found = solve(scaled, np.ones((200, 1)), path.times, method, path=path)
        np.testing.assert_allclose(found, np.exp(mu + shift + s * path.dw.sum(axis=0)), rtol=5e-3)


# ---------------------------------------------------------------------- the door


def test_float32_comes_back_as_float32_and_batches_keep_their_shape():
    family = marginal_family(ExactModel(LAW, VPLinear()))
    x = X.reshape(2, 3, 2).astype(np.float32)
    for how in ({"seed": 1}, {"path": BrownianPath(1, GRID, 2)}):
        found = solve(family, x, GRID, trajectory=True, **how)
        assert found.dtype == np.float32
        assert found.shape == (5, 2, 3, 2)
        np.testing.assert_allclose(found[-1], solve(family, x, GRID, **how), rtol=1e-6)
        np.testing.assert_array_equal(found[0], x)


def test_no_points_are_no_trouble():
    assert solve(EQUATIONS["additive"], np.zeros((0, 2)), GRID, seed=1).shape == (0, 2)
    assert solve(EQUATIONS["diagonal"], np.zeros((0, 2)), GRID, seed=1).shape == (0, 2)


@pytest.mark.parametrize(
    ("method", "kind"),
    [("sra1", "diagonal"), ("sra3", "general"), ("sri1", "additive"), ("sri1", "commutative"), ("milstein", "general")],
)
def test_methods_are_refused_where_theory_gives_them_no_order(method, kind):
    with pytest.raises(ValueError, match=f"method must be one for {kind} noise, got '{method}'"):
        solve(EQUATIONS[kind], X, GRID, method, seed=1)


def test_what_cannot_be_solved_is_refused():
    equation = EQUATIONS["diagonal"]
    for arguments, words in (
        ({"seed": 1, "path": BrownianPath(0, GRID, 2)}, "seed or path must be given, and not both"),
        ({}, "seed or path must be given"),
        ({"seed": 1, "method": "euler"}, "method must be one of euler-maruyama"),
        ({"path": BrownianPath(0, GRID, 3)}, "path must have the 2 motions"),
        ({"path": BrownianPath(0, GRID[:3], 2)}, "times must lie between"),
    ):
        with pytest.raises(ValueError, match=words):
            solve(equation, X, GRID, **arguments)
    with pytest.raises(TypeError, match="equation must be a StochasticEquation"):
        solve(drift, X, GRID, seed=1)
    with pytest.raises(TypeError, match="path must be a BrownianPath or Increments"):
        solve(equation, X, GRID, path=7)
    wild = StochasticEquation(lambda x, t: x**3 * 1e200, lambda x, t: x, 2, additive=False)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="finite"):
        solve(wild, X + 1, GRID, seed=1)
    with pytest.raises(ValueError, match="noise must depend on x to have a slope"):
        EQUATIONS["additive"].noise_slope(X, 0.1)
    with pytest.raises(ValueError, match=r"linear must answer with an operator on R\^2, got shape \(3,\)"):
        StochasticEquation(drift, lambda t: 1.0, 2, linear=lambda t: np.ones(3)).linear_at(0.5)
    with pytest.raises(TypeError, match="slope must be a function"):
        StochasticEquation(drift, lambda t: 1.0, 2, slope=3)
