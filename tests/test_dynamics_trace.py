"""Hutchinson's estimator: its moments enumerated, its probes drawn, its errors as it says."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from refdiff.dynamics.trace import PROBES, TraceEstimate, draw_probes, hutchinson, trace_variance

KINDS = tuple(PROBES)
GOLDEN = (1 + np.sqrt(5)) / 2


def matrices(dim, count=3, seed=0):
    """Random ones, not symmetric."""
    return np.random.default_rng([dim, seed]).standard_normal((count, dim, dim))


def icosahedron():
    """Its 12 corners on the sphere of radius sqrt(3), on which polynomials of degree 5 have the mean of the sphere."""
    corners = [(0, a, b * GOLDEN) for a in (-1, 1) for b in (-1, 1)]
    turned = np.array([np.roll(corner, k) for corner in corners for k in range(3)])
    return np.sqrt(3) * turned / np.linalg.norm(turned, axis=1, keepdims=True)


def moments(u, weights, a):
    forms = np.einsum("ui,nij,uj->nu", u, a, u)
    mean = forms @ weights
    return mean, (forms - mean[:, None]) ** 2 @ weights


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_variance_over_all_signs(dim):
    a, u = matrices(dim), np.array(list(itertools.product((-1.0, 1.0), repeat=dim)))
    mean, variance = moments(u, np.full(len(u), 2.0**-dim), a)
    np.testing.assert_allclose(mean, np.trace(a, axis1=1, axis2=2), atol=1e-13)
    np.testing.assert_allclose(variance, trace_variance(a, "rademacher"), rtol=1e-12, atol=1e-25)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_variance_over_normals_by_quadrature(dim):
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)  # exact to degree 5, and a form squared has 4
    u = np.array(list(itertools.product(nodes, repeat=dim)))
    w = np.array([np.prod(pick) for pick in itertools.product(weights / weights.sum(), repeat=dim)])
    mean, variance = moments(u, w, matrices(dim))
    np.testing.assert_allclose(mean, np.trace(matrices(dim), axis1=1, axis2=2), atol=1e-13)
    np.testing.assert_allclose(variance, trace_variance(matrices(dim), "gaussian"), rtol=1e-12)


def test_variance_on_the_sphere_by_a_design():
    u, a = icosahedron(), matrices(3)
    mean, variance = moments(u, np.full(12, 1 / 12), a)
    np.testing.assert_allclose(mean, np.trace(a, axis1=1, axis2=2), atol=1e-13)
    np.testing.assert_allclose(variance, trace_variance(a, "sphere"), rtol=1e-12)
    # two axes of a frame are what the third leaves of the trace
    pairs = (3 * np.trace(a, axis1=1, axis2=2)[:, None] - np.einsum("ui,nij,uj->nu", u, a, u)) / 2
    np.testing.assert_allclose(pairs.var(axis=1), trace_variance(a, "orthogonal", 2), rtol=1e-12)


@pytest.mark.parametrize("probe", KINDS)
def test_only_the_symmetric_part_counts(probe):
    a = matrices(5)
    skew = a - np.swapaxes(a, 1, 2)
    assert not trace_variance(skew, probe, 2).any()
    np.testing.assert_allclose(trace_variance(a, probe, 2), trace_variance(a + 3 * skew, probe, 2), rtol=1e-12)
    # the control: the whole matrix
    assert ((a**2).sum(axis=(1, 2)) > 1.1 * (((a + np.swapaxes(a, 1, 2)) / 2) ** 2).sum(axis=(1, 2))).all()


@given(dim=st.integers(1, 12), scale=st.floats(-5, 5))
def test_what_each_probe_is_exact_for(dim, scale):
    diagonal, even = np.diag(scale * np.arange(dim)), scale * np.eye(dim)
    assert trace_variance(diagonal, "rademacher") == 0
    assert trace_variance(even, "sphere") <= 1e-30 * dim * scale**2
    assert trace_variance(diagonal, "orthogonal", dim) == 0
    assert trace_variance(even, "gaussian") == pytest.approx(2 * dim * scale**2)


@given(dim=st.integers(1, 8), seed=st.integers(0, 1000))
def test_normals_are_never_the_better_probes(dim, seed):
    a = matrices(dim, seed=seed)
    worst = trace_variance(a, "gaussian") * (1 + 1e-12)
    for probe in KINDS:
        assert (trace_variance(a, probe) <= worst).all()
    assert (trace_variance(a, "orthogonal", dim) <= trace_variance(a, "sphere", dim)).all()


# ---------------------------------------------------------------------- what is drawn


@pytest.mark.statistical
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("probe", KINDS)
def test_drawn_probes_have_the_exact_variance_and_say_their_error(probe, count):
    """40000 estimates for one matrix. 3 comparisons in each of 8 runs, at 1e-9 together false in 4e-11 each."""
    a, draws = matrices(4, 1)[0], 40_000
    found = hutchinson(np.broadcast_to(a, (draws, 4, 4)), count, seed=11, probe=probe)
    exact, limit = trace_variance(a, probe, count), -ndtri(2e-11)
    assert abs(found.value.mean() - np.trace(a)) < limit * np.sqrt(exact / draws)
    squares = (found.value - np.trace(a)) ** 2
    assert abs(squares.mean() - exact) < limit * squares.std() / np.sqrt(draws)
    if count == 1:
        assert np.isnan(found.standard_error).all()
    else:
        said = found.standard_error**2
        assert abs(said.mean() - exact) < limit * said.std() / np.sqrt(draws)
        # the control: the error of independent probes, for a frame of which 3 in 4 are taken
        if probe == "orthogonal":
            assert abs(4 * said.mean() - exact) > 100 * said.std() / np.sqrt(draws)


@pytest.mark.statistical
@pytest.mark.parametrize("probe", KINDS)
def test_drawn_probes_have_mean_zero_and_unit_covariance(probe):
    """Sums of 10^5 terms and more: one of 24 is beyond 6.5 deviations for one seed in 5 10^8."""
    u = draw_probes(probe, 100_000, 2, 4, 17)
    assert (np.abs(u.mean(axis=(0, 1))) < 6.5 / np.sqrt(200_000)).all()
    squares = u[:, 0, :, None] * u[:, 0, None, :]
    spread = np.maximum(squares.std(axis=0), 1e-6)  # squares of signs do not vary
    assert (np.abs(squares.mean(axis=0) - np.eye(4)) < 6.5 * spread / np.sqrt(100_000)).all()


def test_a_whole_frame_is_exact_for_every_matrix():
    a = matrices(7, 20).reshape(4, 5, 7, 7)
    found = hutchinson(a, 7, seed=0, probe="orthogonal")
    np.testing.assert_allclose(found.value, np.trace(a, axis1=-2, axis2=-1), atol=1e-12)
    assert found.value.shape == (4, 5)
    assert not found.standard_error.any()
    u = draw_probes("orthogonal", 3, 5, 7, 1)
    np.testing.assert_allclose(u @ np.swapaxes(u, 1, 2), np.broadcast_to(7 * np.eye(5), (3, 5, 5)), atol=1e-13)


@pytest.mark.parametrize("probe", KINDS)
def test_probes_belong_to_their_point_and_to_the_seed(probe):
    everything = draw_probes(probe, 6, 2, 3, 5)
    np.testing.assert_array_equal(draw_probes(probe, range(2, 5), 2, 3, 5), everything[2:5])
    np.testing.assert_array_equal(draw_probes(probe, 6, 3, 3, 5)[:, :2], everything)
    assert (everything != draw_probes(probe, 6, 2, 3, 6)).any()
    rng = np.random.default_rng(0)
    assert (draw_probes(probe, 40, 1, 3, rng) != draw_probes(probe, 40, 1, 3, rng)).any()


@pytest.mark.parametrize("probe", KINDS)
def test_products_are_all_that_is_needed(probe):
    a = matrices(3, 10).reshape(5, 2, 3, 3)
    by_matrix = hutchinson(a, 2, seed=3, probe=probe)
    by_product = hutchinson(lambda u: (a @ u[..., None])[..., 0], 2, seed=3, probe=probe, shape=(5, 2, 3))
    np.testing.assert_allclose(by_matrix.forms, by_product.forms, rtol=1e-13, atol=1e-13)
    assert by_matrix.forms.shape == (2, 5, 2)
    np.testing.assert_allclose(by_matrix.value, by_matrix.forms.mean(axis=0), rtol=1e-13)


def test_single_precision_and_single_matrices():
    a = matrices(3, 1)[0]
    found = hutchinson(a.astype(np.float32), 4, seed=2)
    assert found.value.dtype == found.forms.dtype == found.standard_error.dtype == np.float32
    assert np.shape(found.value) == () == np.shape(trace_variance(a, "sphere"))
    assert trace_variance(a.astype(np.float32), "sphere").dtype == np.float32
    # entries rounded to 24 bits, 9 of them in a form
    assert found.value == pytest.approx(hutchinson(a, 4, seed=2).value, abs=9 * 2.0**-24 * np.abs(a).max())


def test_one_axis_has_one_form():
    for probe in ("rademacher", "sphere", "orthogonal"):
        found = hutchinson([[3.0]], 1, seed=0, probe=probe)
        assert found.value == pytest.approx(3.0, rel=1e-15)
        assert trace_variance([[3.0]], probe) == 0
    assert trace_variance([[3.0]], "gaussian") == 18


def test_a_normal_of_length_zero_is_still_a_point_of_the_sphere():
    assert (np.abs(PROBES["sphere"](np.zeros((2, 1, 1)))) == 1).all()


def test_no_points_have_no_traces():
    assert hutchinson(np.zeros((0, 3, 3)), 2, seed=0).value.shape == (0,)


@pytest.mark.parametrize(
    ("error", "said", "call"),
    [
        (ValueError, "operator must have shape", lambda: hutchinson(np.ones((2, 3)), 1, seed=0)),
        (ValueError, "probes must be at most 2", lambda: hutchinson(np.eye(2), 3, seed=0, probe="orthogonal")),
        (ValueError, "probes must be at most 2", lambda: trace_variance(np.eye(2), "orthogonal", 3)),
        (ValueError, "probe must be one of", lambda: hutchinson(np.eye(2), 3, seed=0, probe="uniform")),
        (ValueError, "probe must be one of", lambda: trace_variance(np.eye(2), "uniform")),
        (ValueError, "probes must be at least 1", lambda: hutchinson(np.eye(2), 0, seed=0)),
        (TypeError, "shape must be", lambda: hutchinson(lambda u: u, 1, seed=0)),
        (ValueError, "operator must answer with shape", lambda: hutchinson(lambda u: u[:1], 1, seed=0, shape=(3, 2))),
        (ValueError, "operator must be finite", lambda: hutchinson(lambda u: u * np.nan, 1, seed=0, shape=(3, 2))),
        (TypeError, "seed must be a whole number", lambda: hutchinson(np.eye(2), 1, seed=None)),
        (ValueError, "matrix must have shape", lambda: trace_variance(np.zeros((2, 0, 0)), "sphere")),
    ],
)
def test_bad_input_is_refused_by_name(error, said, call):
    with pytest.raises(error, match=said):
        call()


def test_an_estimate_of_forms_is_their_mean():
    found = TraceEstimate.of(np.array([[1.0, 2.0], [3.0, 2.0]]), "gaussian", 5)
    np.testing.assert_array_equal(found.value, [2.0, 2.0])
    np.testing.assert_allclose(found.standard_error, [1.0, 0.0])
