"""Fields of a user's own: their flows against matrix exponentials and closed maps, and what they must answer."""

import numpy as np
import pytest
from scipy.linalg import expm

from refdiff.dynamics import Unfinished, VelocityField, field_flow

RNG = np.random.default_rng(3)
A = RNG.standard_normal((4, 4))  # not normal
X = RNG.standard_normal((3, 5, 4))


def linear(**known):
    given = {"divergence": lambda x, t: np.full(len(x), np.trace(A)), "jvp": lambda x, t, u: u @ A.T}
    return VelocityField(lambda x, t: x @ A.T, 4, **{name: given[name] for name in known})


@pytest.mark.parametrize("method", ["dop853", "dopri5"])
@pytest.mark.parametrize("ends", [(0.2, 0.9), (0.9, 0.2), (-3.0, -2.5), (0.4, 0.4)])
@pytest.mark.parametrize("known", [("divergence",), ("jvp",), ("divergence", "jvp")])
def test_linear_field_is_a_matrix_exponential(known, ends, method):
    start, end = ends
    rtol = 1e-11 if method == "dop853" else 1e-8
    found = field_flow(
        linear(**dict.fromkeys(known)), X, start, end, log_density=True, method=method, rtol=rtol, atol=rtol
    )
    expected = X @ expm((end - start) * A).T
    # fewer than 100 steps of a tolerance each, which grow as the flow stretches
    size = 100 * rtol * np.linalg.norm(expm(abs(end - start) * A), 2) ** 2 * np.abs(X).max()
    np.testing.assert_allclose(found.x, expected, rtol=0, atol=size)
    np.testing.assert_allclose(found.log_density_change, -(end - start) * np.trace(A), rtol=0, atol=100 * rtol)
    assert found.x.shape == X.shape
    assert found.steps.shape == X.shape[:-1]
    # the control: the other sign
    if start != end:
        assert np.abs(found.log_density_change - (end - start) * np.trace(A)).max() > 1e-2


@pytest.mark.parametrize("method", ["dop853", "dopri5"])
def test_how_well_a_log_density_is_followed_does_not_depend_on_how_many_axes_and_points_rest(method):
    """One number beside d that do not move: its error is no mean over all of them."""
    found = []
    for count, dim in ((1, 1), (1, 64), (5, 3)):
        field = VelocityField(lambda x, t: 0 * x, dim, divergence=lambda x, t: np.full(len(x), 30 * np.cos(40 * t)))
        run = field_flow(field, np.zeros((count, dim)), 0.0, 3.0, log_density=True, rtol=1e-6, method=method)
        # at most as many steps, each with an error of 1e-6 (1 + 3/4)
        np.testing.assert_allclose(run.log_density_change, -0.75 * np.sin(120), rtol=0, atol=2e-6 * run.steps.max())
        found.append(run)
    for run in found[:2]:
        assert run.steps[0] == found[0].steps[0]
        np.testing.assert_allclose(run.log_density_change, found[0].log_density_change, rtol=0, atol=1e-10)
    # as many equal numbers are as if one: never fewer steps
    assert found[2].steps[0] >= found[0].steps[0]


def test_curved_field_with_its_density():
    """x' = -x^3 in every axis: x_t = x / sqrt(1 + 2 t x^2), log det = -3/2 sum log(1 + 2 t x^2)."""
    field = VelocityField(lambda x, t: -(x**3), 4, jvp=lambda x, t, u: -3 * x**2 * u)
    found = field_flow(field, X, 0.0, 2.0, log_density=True)
    growth = 1 + 4 * X**2
    np.testing.assert_allclose(found.x, X / np.sqrt(growth), rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.log_density_change, 1.5 * np.log(growth).sum(axis=-1), rtol=1e-8)


def test_time_is_the_fields_own():
    field = VelocityField(lambda x, t: np.full_like(x, np.cos(t)), 4)
    found = field_flow(field, X, 1.0, 4.0)
    np.testing.assert_allclose(found.x, X + np.sin(4) - np.sin(1), atol=1e-8)
    assert found.log_density_change is None


def test_a_log_density_is_followed_also_where_no_point_moves():
    field = VelocityField(lambda x, t: 0 * x, 4, divergence=lambda x, t: np.full(len(x), 20 * np.cos(20 * t)))
    found = field_flow(field, X, 0.0, 1.0, log_density=True)
    np.testing.assert_allclose(found.log_density_change, -np.sin(20.0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_points_are_as_exact_in_batches_as_alone(batch):
    found = field_flow(linear(jvp=1), X, 0.0, 1.0, log_density=True, batch=batch)
    np.testing.assert_allclose(found.x, X @ expm(A).T, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.log_density_change, -np.trace(A), rtol=0, atol=1e-8)


def test_single_precision_points_and_answers():
    field = VelocityField(lambda x, t: (x @ A.T).astype(np.float32), 4, jvp=lambda x, t, u: (u @ A.T).tolist())
    found = field_flow(field, X.astype(np.float32), 0.0, 1.0, log_density=True, rtol=1e-4, atol=1e-5)
    assert found.x.dtype == found.log_density_change.dtype == np.float32
    np.testing.assert_allclose(found.x, X @ expm(A).T, rtol=0, atol=1e-2)


def test_a_step_that_goes_too_far_is_shortened():
    """x' = -sqrt(x), refused below zero: it arrives at t = 2 sqrt(x), and a long step would go beyond."""

    def root(x):
        if (x < 0).any():
            raise ValueError("x must not be negative")
        return np.sqrt(x)

    field = VelocityField(lambda x, t: -root(x), 1)
    found = field_flow(field, [[1.0], [4.0]], 0.0, 1.9)
    np.testing.assert_allclose(found.x, [[0.05**2], [1.05**2]], rtol=1e-6)
    with pytest.raises(ValueError, match="must not be negative"):
        field_flow(field, [[-1.0]], 0.0, 1.0)


def test_who_does_not_arrive_is_named_and_the_others_are_kept():
    field = VelocityField(lambda x, t: x**2, 1)  # 1 / (1 / x - t): infinite at t = 1 / x
    with pytest.raises(Unfinished, match=r"for points 1\.\.1") as caught:
        field_flow(field, [[0.1], [2.0]], 0.0, 1.0, batch=1)
    np.testing.assert_allclose(caught.value.flow.x, [[1 / 9], [np.nan]], rtol=1e-8)
    with pytest.raises(Unfinished, match="max_steps = 2 must be larger"):
        field_flow(linear(), X, 0.0, 10.0, max_steps=2)


def test_no_points_go_nowhere():
    assert field_flow(linear(jvp=1), np.zeros((0, 4)), 0.0, 1.0, log_density=True).x.shape == (0, 4)


@pytest.mark.parametrize(
    ("error", "said", "call"),
    [
        (TypeError, "velocity must be a function", lambda: VelocityField(1.0, 2)),
        (TypeError, "jvp must be a function", lambda: VelocityField(np.sin, 2, jvp=3)),
        (ValueError, "dim must be at least 1", lambda: VelocityField(np.sin, 0)),
        (TypeError, "field must be a VelocityField", lambda: field_flow(np.sin, X, 0, 1)),
        (ValueError, r"x must have shape \(\.\.\., 4\)", lambda: field_flow(linear(), X[..., :3], 0, 1)),
        (ValueError, "divergence or jvp must be given", lambda: field_flow(linear(), X, 0, 1, log_density=True)),
        (ValueError, "velocity must answer", lambda: field_flow(VelocityField(lambda x, t: x[:1], 4), X, 0, 1)),
        (ValueError, "velocity must be finite", lambda: field_flow(VelocityField(lambda x, t: x / 0, 4), X, 0, 1)),
        (ValueError, "method must be one of", lambda: field_flow(linear(), X, 0, 1, method="euler")),
        (ValueError, "batch must be at least 1", lambda: field_flow(linear(), X, 0, 1, batch=0)),
        (ValueError, "end must lie in|end must be finite", lambda: field_flow(linear(), X, 0, np.inf)),
    ],
)
def test_bad_input_is_refused_by_name(error, said, call):
    with np.errstate(divide="ignore"), pytest.raises(error, match=said):
        call()


def test_products_are_asked_for_by_name():
    with pytest.raises(ValueError, match="jvp must be given"):
        linear(divergence=1).products(X[0], 0.0, X[:1])
