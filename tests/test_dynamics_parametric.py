"""Closed derivatives of fields against differences of the fields."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import ExactModel, Gaussian, VPLinear
from refdiff.dynamics import ParametricField, adjoint, discrete_adjoint, linear_field, node_likelihood, tanh_field
from refdiff.validation.numeric import derivative, jacobian

SEEDS = st.integers(0, 2**32 - 1)
WIDTH = 3


def field(kind, dim, theta):
    """The field of this kind at parameters theta (p,)."""
    if kind == "linear":
        return linear_field(theta[: dim * dim].reshape(dim, dim), theta[dim * dim :])
    parts = np.split(theta, np.cumsum([dim * WIDTH, dim * WIDTH, WIDTH]))
    return tanh_field(parts[0].reshape(dim, WIDTH), parts[1].reshape(WIDTH, dim), *parts[2:])


def random_theta(kind, dim, rng):
    return rng.normal(size=dim * dim + dim if kind == "linear" else 2 * dim * WIDTH + 2 * WIDTH)


def in_parameters(function, theta):
    """d function / dtheta, parameters last."""

    def along(direction):
        return lambda u: function(theta + u * direction)

    return np.stack([derivative(along(e), 0.0, 0.01) for e in np.eye(len(theta))], axis=-1)


@pytest.mark.parametrize("kind", ["linear", "tanh"])
@given(seed=SEEDS, dim=st.integers(1, 4))
def test_products_and_divergences_are_those_of_the_field(kind, dim, seed):
    rng = np.random.default_rng(seed)
    theta, x, a, t = random_theta(kind, dim, rng), rng.normal(size=(2, dim)), rng.normal(size=(2, dim)), rng.normal()
    f = field(kind, dim, theta)
    in_x = jacobian(lambda y: f.slope(y, t), x, 0.01)
    in_theta = in_parameters(lambda at: field(kind, dim, at).slope(x, t), theta)
    size = max(1.0, np.abs(in_x).max(), np.abs(in_theta).max()) ** 2
    # the 8th-order stencil: h^8 = 1e-16 times a ninth derivative of tanh(k u), below 3e4 k^9 for slopes k < 5
    tolerance = 1e-10 * max(1.0, np.abs(theta).max()) ** 9 * size
    pulled_x, pulled_theta = f.pulled(x, t, a)
    np.testing.assert_allclose(pulled_x, np.einsum("ni,nij->nj", a, in_x), rtol=0, atol=tolerance)
    np.testing.assert_allclose(pulled_theta, np.einsum("ni,nip->np", a, in_theta), rtol=0, atol=tolerance)
    whole_x, whole_theta = f.jacobians(x, t)
    np.testing.assert_allclose(whole_x, in_x, rtol=0, atol=tolerance)
    np.testing.assert_allclose(whole_theta, in_theta, rtol=0, atol=tolerance)
    np.testing.assert_allclose(f.divergence.value(x, t), np.einsum("nii->n", whole_x), rtol=0, atol=1e-13 * size)
    div_x, div_theta = f.divergence.gradient(x, t)
    np.testing.assert_allclose(div_x, jacobian(lambda y: f.divergence.value(y, t), x, 0.01), rtol=0, atol=tolerance)
    moved = in_parameters(lambda at: field(kind, dim, at).divergence.value(x, t), theta)
    np.testing.assert_allclose(div_theta, moved, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_field([[1.0, 2.0]], [1.0]), "matrix must be"),
        (lambda: linear_field(np.zeros((0, 0)), []), "matrix must be"),
        (lambda: tanh_field([[1.0]], [[1.0, 2.0]], [0.0], [0.0]), "outer, inner, slope, bias"),
        (lambda: ParametricField(0, 0, np.add, np.add), "dim must be"),
        (lambda: ParametricField(1, 0, lambda x, t: x[0], np.add).slope(np.zeros((2, 1)), 0.0), "velocity must answer"),
        (
            lambda: ParametricField(1, 2, np.add, lambda x, t, a: (a, a)).pulled(*np.zeros((3, 2, 1))),
            r"pull must answer with shape \(2, 2\)",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_gradients_of_what_has_no_parameters_are_refused():
    law, x = Gaussian([0.0], 1.0), np.zeros((2, 1))
    model = ExactModel(law, VPLinear())
    for ask in (
        lambda: adjoint(model, x, 0.0, 1.0),
        lambda: discrete_adjoint(model, x, 0.0, 1.0, 3),
        lambda: node_likelihood(model, law, x, 0.0, 1.0),
    ):
        with pytest.raises(TypeError, match="field must be a ParametricField, got ExactModel"):
            ask()
