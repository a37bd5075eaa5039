"""Planar flows: where they have an inverse, to what precision it is found, and the form that is always invertible."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from refdiff.normalizing import Activation, Planar
from refdiff.normalizing.planar import TANH

SOFTPLUS = Activation(lambda y: np.logaddexp(0, y), expit, (0.0, 1.0))
LEAKY = Activation(lambda y: y + np.sqrt(1 + y**2), lambda y: 1 + y / np.sqrt(1 + y**2), (0.0, 2.0))
LINE = Activation(lambda y: y, np.ones_like, (1.0, 1.0))
SINE = Activation(np.sin, np.cos, (-1.0, 1.0), (-1.0, 1.0), isolated=True)
SEEDS = st.integers(0, 2**32 - 1)


def planar(product, dim, rng, h=TANH):
    """A random planar flow with w.u = product up to rounding."""
    u, w = rng.normal(size=(2, dim))
    return Planar(u + (product - w @ u) * w / (w @ w), w, rng.normal(), h)


@given(seed=SEEDS, dim=st.integers(1, 8), product=st.floats(-0.99, 1e6), scale=st.floats(0.1, 100.0))
def test_the_inverse_is_exact_up_to_rounding_for_every_length_of_u(seed, dim, product, scale):
    rng = np.random.default_rng(seed)
    f = planar(product, dim, rng)
    z = scale * rng.normal(size=(20, dim))
    x = f.forward(z)
    # roundings of the terms of y = w.z + b, which f stretches by up to 1 + w.u along w, and of those of f
    size = np.abs(z).max() * np.linalg.norm(f.w) + abs(f.b) + 1
    terms = np.abs(x).max() + np.linalg.norm(f.u) * (1 + size) + size / np.linalg.norm(f.w)
    np.testing.assert_allclose(f.forward(f.inverse(x)), x, rtol=0, atol=1e-14 * dim * terms)


@pytest.mark.parametrize("dim", [1, 3])
def test_at_the_boundary_the_map_is_one_to_one_and_its_volume_vanishes_on_a_plane(dim):
    u, w = -np.eye(dim)[0], np.eye(dim)[0]
    f = Planar(u, w)
    z = np.random.default_rng(1).normal(size=(50, dim))
    np.testing.assert_allclose(f.forward(f.inverse(z)), z, rtol=0, atol=1e-14)
    assert f.log_det(np.zeros(dim)) == -np.inf
    # y - tanh y = r has y = (3 r)^(1/3) (1 + y^2 2/15 + ...), which rounding of r moves by eps^(1/3) r^(-2/3)
    r = 1e-6
    expected = float(mpmath.findroot(lambda y: y - mpmath.tanh(y) - r, (3 * r) ** (1 / 3)))
    np.testing.assert_allclose(f.inverse(r * w)[0], expected, rtol=1e-9)
    far = np.array([1e300, -1e300, 40.0, 1e-300])[:, None] * w
    assert np.isfinite(f.inverse(far)).all()
    np.testing.assert_allclose(f.inverse(far)[:3, 0], [1e300, -1e300, 41.0], rtol=1e-15)


def test_just_beyond_the_boundary_two_points_meet():
    # y + c tanh y with c < -1 has slope 1 + c < 0 at 0 and rises at infinity: 0 is reached from three points
    c = -1.01
    y = float(mpmath.findroot(lambda y: y + c * mpmath.tanh(y), 0.2))
    assert y > 0.1
    assert abs(y + c * np.tanh(y)) < 1e-15
    with pytest.raises(ValueError, match=r"w.u must leave"):
        Planar([c], [1.0])
    Planar([-1.0], [1.0])


@pytest.mark.parametrize(
    ("h", "inside", "outside"),
    [
        (TANH, (-1.0, 0.0, 7.0), (-1.0000001, -30.0)),
        # not -1: y - softplus(y) = -softplus(-y) stays below 0
        (SOFTPLUS, (-0.999, 5.0), (-1.0, -2.0)),
        (LEAKY, (-0.499, 5.0), (-0.5, -2.0)),
        # any line but the constant one, also falling ones
        (LINE, (-3.0, -0.9, 2.0), (-1.0,)),
        (SINE, (-1.0, 0.5, 1.0), (-1.01, 1.01)),
    ],
    ids=["tanh", "softplus", "leaky", "line", "sine"],
)
def test_where_an_activation_has_an_inverse(h, inside, outside):
    z = np.linspace(-4, 4, 9)[:, None]
    for c in inside:
        f = Planar([c], [1.0], 0.2, h)
        x = f.forward(z)
        np.testing.assert_allclose(f.forward(f.inverse(x)), x, rtol=0, atol=1e-13 * np.abs(x).max())
        slopes = np.diff(x[:, 0])
        assert (slopes > 0).all() or (slopes < 0).all()
        with np.errstate(divide="ignore"):
            expected = np.log(np.abs(1 + c * h.derivative(z[:, 0] + 0.2)))
        np.testing.assert_allclose(f.log_det(z), expected, rtol=0, atol=1e-12)
    for c in outside:
        with pytest.raises(ValueError, match=r"w.u must leave"):
            Planar([c], [1.0], 0.2, h)


@given(seed=SEEDS, dim=st.integers(1, 6), size=st.floats(0.01, 300.0))
def test_the_constrained_form_of_any_vectors_is_invertible(seed, dim, size):
    rng = np.random.default_rng(seed)
    u, w = size * rng.normal(size=(2, dim))
    f, product = Planar.constrained(u, w), w @ u
    # |w| |u| eps is what w.u is rounded by
    slack = 1e-14 * dim * (np.linalg.norm(w) * np.linalg.norm(u) + 1)
    np.testing.assert_allclose(f.product, np.logaddexp(0, product) - 1, rtol=1e-14, atol=slack)
    assert f.product > -1
    moved = f.u - u
    size = np.abs(u).max() + np.abs(f.u).max()
    np.testing.assert_allclose(moved - (moved @ w) / (w @ w) * w, 0, atol=1e-14 * size)


def test_the_constrained_form_changes_also_what_needs_no_change():
    assert abs(Planar.constrained([0.0, 0.0], [2.0, 0.0]).product - (np.log(2) - 1)) < 1e-15
    shift = Planar.constrained([3.0, 1.0], [0.0, 0.0], 0.5)
    np.testing.assert_array_equal(shift.u, [3.0, 1.0])
    np.testing.assert_allclose(shift.inverse(shift.forward([1.0, 2.0])), [1.0, 2.0], rtol=1e-15)
    assert Planar.constrained([-50.0], [1.0], 0.0, LEAKY).product > -0.5


def test_the_slope_of_tanh_has_its_digits_far_out():
    y = np.array([0.0, 1e-8, 0.5, 5.0, 20.0, 300.0])
    with mpmath.workdps(40):
        expected = [float(mpmath.sech(v) ** 2) for v in y]
    np.testing.assert_allclose(TANH.derivative(y), expected, rtol=1e-15 * 300)  # eps times the exponent 2 y


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Planar([1.0, 2.0], [1.0]), "w must have the shape of u"),
        (lambda: Planar([], []), "at least"),
        (lambda: Planar([np.nan], [1.0]), "u must be finite"),
        (lambda: Planar.constrained([1.0], [1.0], 0.0, SINE), "h must increase"),
        (lambda: Activation(np.tanh, np.tanh, (1.0, 0.0)), "slopes must be"),
        (lambda: Activation(np.tanh, np.tanh, (0.0, 1.0), (1.0, -1.0)), "values must be"),
        (lambda: Planar([1.0], [1.0], 0.0, Activation(np.sum, np.sum, (0.0, 1.0))).forward([1.0]), "function must"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
