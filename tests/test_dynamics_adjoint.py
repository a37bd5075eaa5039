"""Gradients along ODEs against matrix exponentials, forward sensitivities, differences and closed likelihoods."""

from functools import cache, partial

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm, expm_frechet

from refdiff import Gaussian, GaussianMixture
from refdiff.dynamics import (
    Integrand,
    ParametricField,
    adjoint,
    discrete_adjoint,
    linear_field,
    node_likelihood,
    tanh_field,
)
from refdiff.validation.numeric import derivative, extrapolate

DIM, WIDTH, START, END = 3, 4, 0.2, 1.3
STATES = ("stored", "again")
RNG = np.random.default_rng(11)
MATRIX, OFFSET = RNG.normal(size=(DIM, DIM)), RNG.normal(size=DIM)
LINEAR = linear_field(MATRIX, OFFSET)
X = RNG.normal(size=(5, DIM))


def half_square(x):
    """The gradient of |x|^2 / 2."""
    return x


def exponential(matrix, offset, time):
    """e^(t M) of the affine flow as one linear map of (x, 1), M = [[W, b], [0, 0]], and t M."""
    block = time * np.block([[matrix, offset[:, None]], [np.zeros((1, DIM + 1))]])
    return expm(block), block


def linear_gradients(time):
    """dL/dx and dL/dtheta of |x(t)|^2 / 2 for the linear field, by the derivative of the matrix exponential."""
    whole, block = exponential(MATRIX, OFFSET, time)
    ends = np.append(X, np.ones((len(X), 1)), axis=1)
    reached = (ends @ whole.T)[:, :DIM]
    in_theta = []
    for i, j in [(i, j) for i in range(DIM) for j in range(DIM)] + [(i, DIM) for i in range(DIM)]:
        direction = np.zeros_like(block)
        direction[i, j] = time
        moved = (ends @ expm_frechet(block, direction, compute_expm=False).T)[:, :DIM]
        in_theta.append((moved * reached).sum(axis=1))
    return reached, reached @ whole[:DIM, :DIM], np.stack(in_theta, axis=1)


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize(("start", "end"), [(START, END), (END, START), (0.0, 3.0)])
def test_a_linear_field_has_the_gradient_of_its_matrix_exponential(start, end, states):
    found = adjoint(LINEAR, X, start, end, half_square, states=states, rtol=1e-12, atol=1e-13)
    reached, in_x, in_theta = linear_gradients(end - start)
    # steps of 1e-12 each, some tens of them, stretched by the flow as distances are
    stretch = np.linalg.cond(exponential(MATRIX, OFFSET, end - start)[0])
    for value, expected in ((found.x, reached), (found.point, in_x), (found.parameters, in_theta)):
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12 * stretch * max(1, np.abs(expected).max()))
    v = LINEAR.velocity
    np.testing.assert_allclose(found.end, (reached * v(reached, end)).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.start, -(in_x * v(X, start)).sum(axis=1), rtol=1e-9, atol=1e-9)
    # an autonomous field: only the duration matters
    np.testing.assert_allclose(found.start, -found.end, rtol=1e-9, atol=1e-9)
    assert (found.drift > 0).any() == (states == "again")
    assert (found.drift < 1e-11 * stretch * max(1, np.abs(X).max())).all()


def parts(theta):
    found = np.split(theta, np.cumsum([DIM * WIDTH, DIM * WIDTH, WIDTH]))
    return found[0].reshape(DIM, WIDTH), found[1].reshape(WIDTH, DIM), *found[2:]


THETA = RNG.normal(size=2 * DIM * WIDTH + 2 * WIDTH)
FIELD = tanh_field(*parts(THETA))


@cache
def forward_sensitivity(start, end):
    """dx(end)/dx, dx(end)/dtheta and those of int div v dt by the variational equations, one point of X at a time."""
    p, d = FIELD.parameters, DIM
    columns = d + p

    def slope(t, state):
        at, moved = state[:d][None], state[d : d + d * columns].reshape(d, columns)
        in_x, in_theta = (part[0] for part in FIELD.jacobians(at, t))
        div_x, div_theta = (part[0] for part in FIELD.divergence.gradient(at, t))
        rate = in_x @ moved
        rate[:, d:] += in_theta
        run = div_x @ moved
        run[d:] += div_theta
        return np.concatenate([FIELD.slope(at, t)[0], rate.ravel(), run, FIELD.divergence.value(at, t)])

    found = []
    for one in X:
        state = np.concatenate([one, np.append(np.eye(d), np.zeros((d, p)), axis=1).ravel(), np.zeros(columns + 1)])
        end_state = solve_ivp(slope, (start, end), state, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        moved, run = end_state[d : d + d * columns].reshape(d, columns), end_state[d + d * columns : -1]
        found.append((end_state[:d], end_state[:d] @ moved + run, end_state[-1]))
    return tuple(np.stack(part) for part in zip(*found, strict=True))


@pytest.mark.parametrize("states", STATES)
def test_terminal_and_running_losses_of_a_network_have_the_gradients_of_forward_sensitivity(states):
    reached, gradient, integral = forward_sensitivity(START, END)
    found = adjoint(FIELD, X, START, END, half_square, FIELD.divergence, states=states, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.x, reached, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.running, integral, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.point, gradient[:, :DIM], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.parameters, gradient[:, DIM:], rtol=0, atol=1e-9)


def loss_by_solution(start, end):
    """|x(end)|^2 / 2 + int div v dt of the points X, forward only."""

    def slope(t, state):
        at = state[: X.size].reshape(X.shape)
        return np.append(FIELD.slope(at, t).ravel(), FIELD.divergence.value(at, t))

    state = np.append(X.ravel(), np.zeros(len(X)))
    state = solve_ivp(slope, (start, end), state, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    return (state[: X.size].reshape(X.shape) ** 2).sum(axis=1) / 2 + state[X.size :]


def test_gradients_in_both_times_are_those_of_the_loss():
    found = adjoint(FIELD, X, START, END, half_square, FIELD.divergence)
    # the stencil has h^8 = 4e-11 times a ninth derivative over 1e4, and rounding 1e-12 / h
    for value, moved in (
        (found.start, derivative(lambda u: loss_by_solution(START + u, END), 0.0, 0.02)),
        (found.end, derivative(lambda u: loss_by_solution(START, END + u), 0.0, 0.02)),
    ):
        np.testing.assert_allclose(value, moved, rtol=0, atol=1e-7)


def test_no_time_moves_nothing_and_no_point_is_no_error():
    found = adjoint(FIELD, X, START, START, half_square, FIELD.divergence)
    np.testing.assert_array_equal(found.x, X)
    np.testing.assert_array_equal(found.point, X)
    np.testing.assert_array_equal(found.parameters, 0)
    expected = (X * FIELD.slope(X, START)).sum(axis=1) + FIELD.divergence.value(X, START)
    np.testing.assert_allclose(found.end, expected, rtol=1e-15)
    np.testing.assert_allclose(found.start, -expected, rtol=1e-15)
    empty = adjoint(FIELD, X[:0], START, END, half_square)
    assert empty.point.shape == (0, DIM)
    assert empty.parameters.shape == (0, FIELD.parameters)


def test_batches_keep_their_shape_and_precision_whatever_their_size():
    many = np.random.default_rng(3).normal(size=(7, 5, DIM))
    whole = adjoint(FIELD, many, START, END, half_square, rtol=1e-11)
    assert whole.parameters.shape == (7, 5, FIELD.parameters)
    alone = adjoint(FIELD, many[6, 2], START, END, half_square, rtol=1e-11)
    assert alone.start.shape == ()
    np.testing.assert_allclose(whole.parameters[6, 2], alone.parameters, rtol=0, atol=1e-8)
    single = adjoint(FIELD, X.astype(np.float32), START, END, half_square)
    assert {np.asarray(part).dtype.name for part in vars(single).values()} == {"float32"}
    constant = ParametricField(1, 0, lambda x, t: np.ones_like(x), lambda x, t, a: (0 * a, np.zeros((len(a), 0))))
    assert adjoint(constant, [[2.0]], 0.0, 1.0, half_square).point == pytest.approx(3.0)


def test_stored_states_survive_a_contraction_that_the_way_back_does_not():
    """dx/dt = -33 tanh(x - 1): sinh(x - 1) shrinks by e^-33, and what is left of it beside 1 has one digit."""

    def pull(x, _, a):
        return -33 / np.cosh(x - 1) ** 2 * a, np.zeros((len(x), 0))

    field = ParametricField(1, 0, lambda x, _: -33 * np.tanh(x - 1), pull)
    stored, again = (
        adjoint(field, [2.5], 0.0, 1.0, np.ones_like, states=states, rtol=1e-9, atol=1e-20) for states in STATES
    )
    np.testing.assert_allclose(stored.point, np.exp(-33) * np.cosh(1.5), rtol=1e-6)
    assert stored.drift == 0
    assert again.drift > 0.1
    assert abs(again.point[0] / stored.point[0] - 1) > 0.1


# ---------------------------------------------------------------------- discretise, then differentiate


def along(function, place, direction, *others):
    """u -> function(place + u direction, *others)."""
    return lambda u: function(place + u * direction, *others)


METHODS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_discrete_adjoint_is_the_gradient_of_the_discrete_loss(method):
    def loss(theta, x):
        field = tanh_field(*parts(theta))
        found = discrete_adjoint(field, x, START, END, 5, None, field.divergence, method=method)
        return (found.x**2).sum(axis=1) / 2 + found.running

    found = discrete_adjoint(FIELD, X[:2], START, END, 5, half_square, FIELD.divergence, method=method)
    in_x = np.stack([derivative(along(partial(loss, THETA), X[:2], e), 0.0, 0.01) for e in np.eye(DIM)], axis=1)
    chosen = np.random.default_rng(1).normal(size=(4, len(THETA)))
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
    in_theta = np.stack([derivative(along(loss, THETA, e, X[:2]), 0.0, 0.01) for e in chosen], axis=1)
    np.testing.assert_allclose(found.point, in_x, rtol=0, atol=1e-9 * max(1, np.abs(in_x).max()))
    np.testing.assert_allclose(
        found.parameters @ chosen.T, in_theta, rtol=0, atol=1e-9 * max(1, np.abs(in_theta).max())
    )
    assert found.start is None


@pytest.mark.parametrize("method", sorted(METHODS))
def test_it_tends_to_the_adjoint_with_the_order_of_its_method(method):
    exact = adjoint(FIELD, X, START, END, half_square, FIELD.divergence, rtol=1e-13, atol=1e-14)
    steps = (16, 32, 64, 128)
    found = [discrete_adjoint(FIELD, X, START, END, n, half_square, FIELD.divergence, method=method) for n in steps]
    for name in ("x", "running", "point", "parameters"):
        values, limit = [getattr(one, name) for one in found], getattr(exact, name)
        errors = np.array([np.abs(value - limit).max() for value in values])
        orders = np.log2(errors[:-1] / errors[1:])
        assert abs(orders[-1] - METHODS[method]) < 0.1, (name, orders)
        best = extrapolate(values, first=METHODS[method])
        assert np.abs(best - limit).max() < 0.02 * errors[-1] + 1e-11, name


def test_discrete_adjoints_keep_shape_and_precision():
    found = discrete_adjoint(FIELD, X.astype(np.float32)[None], START, END, 3, half_square)
    assert found.parameters.shape == (1, 5, FIELD.parameters)
    assert {part.dtype.name for part in vars(found).values() if part is not None} == {"float32"}


# ---------------------------------------------------------------------- likelihoods


def test_the_likelihood_of_a_linear_neural_ode_is_gaussian_and_so_are_its_gradients():
    base = Gaussian(np.zeros(DIM), 1.0)

    def log_p(theta, time):
        whole, _ = exponential(theta[: DIM * DIM].reshape(DIM, DIM), theta[DIM * DIM :], time)
        return base.affine(whole[:DIM, :DIM], whole[:DIM, DIM]).logpdf(X)

    theta = np.append(MATRIX.ravel(), OFFSET)
    value, found = node_likelihood(LINEAR, base, X, 0.0, END, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(value, log_p(theta, END), rtol=1e-9)
    for e in np.random.default_rng(2).normal(size=(4, len(theta))) / 4:
        moved = derivative(along(log_p, theta, e, END), 0.0, 0.02)
        np.testing.assert_allclose(found.parameters @ e, moved, rtol=0, atol=1e-7 * max(1, np.abs(moved).max()))
    whole, _ = exponential(MATRIX, OFFSET, END)
    score = base.affine(whole[:DIM, :DIM], whole[:DIM, DIM]).score(X)
    np.testing.assert_allclose(found.point, score, rtol=0, atol=1e-8 * np.abs(score).max())
    rate = derivative(lambda u: log_p(theta, END + u), 0.0, 0.02)
    np.testing.assert_allclose(found.start, rate, rtol=0, atol=1e-7 * np.abs(rate).max())


def test_the_likelihood_of_a_network_integrates_to_one_and_its_gradient_to_nothing():
    """int p = 1 for every theta, so E d log p / dtheta = 0: a mean over the law itself, on the line."""
    rng = np.random.default_rng(5)
    field = tanh_field(rng.normal(size=(1, 3)), rng.normal(size=(3, 1)), rng.normal(size=3), rng.normal(size=3))
    base = GaussianMixture.isotropic([[-1.0], [1.0]], 0.3)
    x = np.linspace(-7.0, 7.0, 253)[:, None]
    value, found = node_likelihood(field, base, x, 0.0, 1.0)
    mass = np.exp(value) * (x[1, 0] - x[0, 0])
    # sums of a smooth density that vanishes at both ends converge beyond every order
    assert abs(mass.sum() - 1) < 1e-9
    np.testing.assert_allclose(mass @ found.parameters, 0, atol=1e-8)
    np.testing.assert_allclose(mass @ found.point, 0, atol=1e-8)
    assert np.abs(mass @ np.abs(found.parameters)).min() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adjoint(FIELD, X, 0.0, 1.0, states="kept"), "states must be one of"),
        (lambda: adjoint(FIELD, X[:, :2], 0.0, 1.0), "x must have shape"),
        (lambda: adjoint(FIELD, X, 0.0, np.inf), "end must be finite"),
        (lambda: adjoint(FIELD, X, 0.0, 1.0, rtol=1e-15), "rtol must lie"),
        (lambda: adjoint(FIELD, X, 0.0, 1.0, atol=0.0), "atol must lie"),
        (lambda: adjoint(FIELD, X, 0.0, 1.0, np.sum), "terminal must answer"),
        (lambda: adjoint(FIELD, X, 0.0, 1.0, None, Integrand(lambda x, t: x, None)), "running must answer"),
        (lambda: discrete_adjoint(FIELD, X, 0.0, 1.0, 3, method="rk5"), "method must be one of"),
        (lambda: discrete_adjoint(FIELD, X, 0.0, 1.0, 0), "steps must be"),
        (lambda: node_likelihood(FIELD, Gaussian([0.0], 1.0), X, 0.0, 1.0), "base must have the dimension"),
        (
            lambda: node_likelihood(ParametricField(DIM, 0, np.add, np.add), Gaussian(np.zeros(3), 1.0), X, 0.0, 1.0),
            "divergence",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_solution_that_explodes_says_where():
    square = ParametricField(1, 0, lambda x, t: x**2, lambda x, t, a: (2 * x * a, np.zeros((len(a), 0))))
    with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="does not reach t = 2"):
        adjoint(square, [[1.0]], 0.0, 2.0, rtol=1e-3)
