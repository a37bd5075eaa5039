"""Fixed steps along a velocity: orders against quantile maps, moments in the plane, both directions, refusals."""

import mixtures
import numpy as np
import pytest

from refdiff import Gaussian
from refdiff.distributions.quantiles import monotone_map
from refdiff.dynamics import VelocityField
from refdiff.interpolants import InterpolantModel, carry, linear, trigonometric
from refdiff.samplers.runge_kutta import METHODS
from refdiff.transport import independent
from refdiff.validation.numeric import hermite, product_rule

P, Q = mixtures.law("full", 1, 2), mixtures.law("isotropic", 1, 3)
MODEL = InterpolantModel(independent(P, Q), linear())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)])
@pytest.mark.parametrize("backward", [False, True])
def test_points_on_the_line_go_to_their_quantiles_with_the_order_of_the_method(method, order, backward):
    x, there = P.sample(10, 0), None
    there = monotone_map(P, Q, x)
    x, there, ends = (there, x, (1, 0)) if backward else (x, there, (0, 1))
    errors = [np.abs(carry(MODEL, x, np.linspace(*ends, n + 1), method=method) - there).max() for n in (32, 64)]
    assert METHODS[method].order == order
    # of two step sizes, both with a term of the next order beside the leading one
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_gaussians_in_the_plane_arrive_with_their_moments():
    model = InterpolantModel(independent(Gaussian([0.0, 0.0], [1.0, 0.5]), Gaussian([1.0, 2.0], 0.3)), trigonometric())
    nodes, weights = product_rule(hermite(3), 2)
    moved = carry(model, nodes * np.sqrt([1.0, 0.5]), np.linspace(0, 1, 65))
    mean = weights @ moved
    np.testing.assert_allclose(mean, [1.0, 2.0], atol=1e-7)
    np.testing.assert_allclose(np.cov(moved.T, aweights=weights, bias=True), 0.3 * np.eye(2), atol=1e-7)


def test_grids_need_not_be_even_and_shapes_are_kept():
    x = np.zeros((2, 3, 1), dtype=np.float32)
    found = carry(MODEL, x, np.linspace(0, 1, 40) ** 1.5)
    assert (found.shape, found.dtype) == ((2, 3, 1), np.float32)
    np.testing.assert_array_equal(carry(MODEL, x, [0.3]), x)
    spiral = VelocityField(lambda y, t: y @ np.array([[0.0, 1.0], [-1.0, 0.0]]), 2)
    np.testing.assert_allclose(carry(spiral, [1.0, 0.0], np.linspace(0, np.pi / 2, 100)), [0, 1], atol=1e-7)
    np.testing.assert_array_equal(
        carry(spiral.velocity, [1.0, 0.0], [0, 1, 2]), carry(spiral, [1.0, 0.0], [0, 1, 2]), strict=True
    )
    by_name, own = (carry(spiral, [1.0, 0.0], [0, 1], method=method) for method in ("rk38", METHODS["rk38"]))
    np.testing.assert_array_equal(by_name, own)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: carry(P, [0.0], [0, 1]), TypeError, "model must be an InterpolantModel, a VelocityField or"),
        (lambda: carry(MODEL, [0.0], []), ValueError, "times must be at least one"),
        (lambda: carry(MODEL, [0.0], [0.0, 1.0, 0.5]), ValueError, "times must be at least one, incr"),
        (lambda: carry(MODEL, [0.0], [0.0, 2.0]), ValueError, "t must lie in"),
        (lambda: carry(MODEL, [0.0], [0.0, 1.0], method="rk5"), ValueError, "method must be one of"),
        (lambda: carry(MODEL, [0.0, 1.0], [0.0, 1.0]), ValueError, "x must have shape"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
