"""The two storages of covariances against dense linear algebra."""

import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Channel, Gaussian, operators, testing
from refdiff.distributions.covariances import TILE, Dense, Diagonal, tiles
from refdiff.validation.vectors import exact


@st.composite
def storages(draw):
    """(storage, its matrices (K, 3, 3)) with K = 2 or one shared."""
    count = draw(st.sampled_from([1, 2]))
    if draw(st.booleans()):
        matrices = np.stack([draw(testing.covariances(3)) for _ in range(count)])
        return Dense(matrices), matrices
    width = draw(st.sampled_from([1, 3]))
    variances = 10 ** draw(testing.points(width, count, 2.0))
    return Diagonal(variances), np.eye(3) * np.broadcast_to(variances, (count, 3))[:, None, :]


def bound(matrices):
    """32 d eps times the condition: what an inverse may lose."""
    return 96 * plain.EPS * max(np.linalg.cond(m) for m in matrices)


@given(storages(), testing.points(3, 4, 3.0))
def test_multiply_and_solve_are_the_product_and_the_linear_solve(pair, x):
    storage, matrices = pair
    field = np.broadcast_to(x[:, None, :], (4, 2, 3))
    each = np.broadcast_to(matrices, (2, 3, 3))
    product = np.einsum("kij,nkj->nki", each, field)
    np.testing.assert_allclose(
        storage.multiply(field, slice(0, 2)), product, rtol=0, atol=1e-12 * (1 + np.abs(product).max())
    )
    solved = np.linalg.solve(each[None], field[..., None])[..., 0]
    np.testing.assert_allclose(
        storage.solve(field, slice(0, 2)), solved, rtol=0, atol=bound(matrices) * np.abs(solved).max() + 1e-300
    )


@given(storages(), testing.points(3, 4, 3.0), testing.points(3, 2, 3.0))
def test_log_det_and_squared_distance_are_those_of_the_matrices(pair, x, means):
    storage, matrices = pair
    each = np.broadcast_to(matrices, (2, 3, 3))
    np.testing.assert_allclose(storage.log_det(3), np.linalg.slogdet(matrices)[1], rtol=0, atol=bound(matrices) * 20)
    delta = x[:, None, :] - means
    expected = np.einsum("nki,kij,nkj->nk", delta, np.linalg.inv(each), delta)
    np.testing.assert_allclose(
        storage.squared_distance(x, means), expected, rtol=0, atol=bound(matrices) * (1 + np.abs(expected).max())
    )


@given(storages())
def test_dense_inverse_average_and_marginal_are_those_of_the_matrices(pair):
    storage, matrices = pair
    np.testing.assert_array_equal(storage.dense(3), matrices)
    inverse = np.linalg.inv(matrices)
    np.testing.assert_allclose(
        storage.inverse().dense(3), inverse, rtol=0, atol=bound(matrices) * np.abs(inverse).max()
    )
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])[:, :2]
    each = np.broadcast_to(matrices, (2, 3, 3))
    mean = np.einsum("nk,kij->nij", weights, each)
    np.testing.assert_allclose(storage.average(weights, 3), mean, rtol=1e-14, atol=1e-15 * mean.max())
    np.testing.assert_allclose(storage.average_trace(weights, 3), np.trace(mean, axis1=1, axis2=2), rtol=1e-14)
    np.testing.assert_array_equal(storage.marginal(np.array([2, 0])).dense(2), matrices[:, [[2], [0]], [[2, 0]]])


@given(storages(), st.sampled_from(["scalar", "diagonal", "matrix"]), st.floats(0.01, 2.0))
def test_gain_and_after_are_the_kalman_gain_and_the_schur_complement(pair, kind, noise):
    storage, matrices = pair
    a = {
        "scalar": np.array(0.7),
        "diagonal": np.array([0.7, -0.2, 1.5]),
        "matrix": np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]]),
    }[kind]
    dense, c = operators.dense(a, 3), np.array(noise)
    total = dense @ matrices @ dense.T + noise * np.eye(len(dense))
    gain = matrices @ dense.T @ np.linalg.inv(total)
    observed = storage.sandwich(a).plus(c, len(dense))
    slack = bound(total)
    np.testing.assert_allclose(observed.dense(len(dense)), total, rtol=1e-13, atol=1e-13 * np.abs(total).max())
    found = storage.gain(a, observed, 3)
    np.testing.assert_allclose(
        found.dense(3) if kind != "matrix" else found.matrices, gain, rtol=0, atol=slack * (1 + np.abs(gain).max())
    )
    expected = matrices - gain @ total @ np.swapaxes(gain, 1, 2)
    for made in (storage.after(a, c, 3).dense(3), *([observed.dense(2)] if kind == "matrix" else [])):
        np.testing.assert_array_equal(made, np.swapaxes(made, 1, 2))  # not only up to rounding
    np.testing.assert_allclose(storage.after(a, c, 3).dense(3), expected, rtol=0, atol=slack * np.abs(matrices).max())


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(-3, 3))
def test_the_variance_left_after_an_observation_keeps_every_digit(prior, noise, gain):
    v, c, a = 10.0**prior, 10.0**noise, 10.0**gain
    left = Diagonal(np.array([[v]])).after(np.array(a), np.array(c), 1).variances[0, 0]
    with mp.workdps(100):
        expected = float(mp.mpf(v) * mp.mpf(c) / (mp.mpf(a) ** 2 * mp.mpf(v) + mp.mpf(c)))
    np.testing.assert_allclose(left, expected, rtol=8 * plain.EPS)


@pytest.mark.parametrize("noise", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("correlation", [0.5, 0.999999])
def test_the_posterior_of_a_correlated_gaussian_keeps_its_digits_at_small_noise(noise, correlation):
    matrix = np.array([[1.0, correlation], [correlation, 1.0]])
    y = np.array([0.3, 0.2])
    value = exact.Observed([1.0], [[0.0, 0.0]], [matrix], y, 0.9, noise).values()["posterior covariance"]
    found = Channel(0.9, 0.0, noise).posterior_cov(Gaussian([0.0, 0.0], matrix), y).ravel()
    # sizes hold the rounding of the inputs
    for got, entry, size in zip(found, value.entries, value.sizes, strict=True):
        assert abs(got - float(entry)) <= 32 * plain.EPS * float(size)


@given(
    testing.distributions(dim=3, kinds=["full"], max_count=2),
    st.sampled_from([0.7, np.array([1.0, 2.0, 3.0]), np.eye(3)]),
)
def test_a_noise_free_observation_leaves_no_density(law, gain):
    left = Channel(gain).posterior(law, np.zeros(3))
    # what is left is rounding: 1 - 1, squared
    np.testing.assert_allclose(
        left.covariances.dense(3), 0, atol=1e-20 * np.linalg.cond(plain.parts(law)[2]).max() ** 2
    )
    assert left.covariances.singular
    with pytest.raises(ValueError, match="no density"):
        left.logpdf(np.zeros(3))


@pytest.mark.parametrize("sizes", [[1.0, 1.0, 1.0], [1e2, 1.0, 1e-2], [1e4, 1.0, 1e-4]])
def test_what_rounding_leaves_of_a_noise_free_observation_is_zero_at_every_size_of_the_coordinates(sizes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        root, gain = rng.standard_normal((2, 3, 3))
        prior = Dense((np.diag(sizes) @ (root @ root.T + 0.1 * np.eye(3)) @ np.diag(sizes))[None])
        assert not prior.after(gain / np.array(sizes), np.zeros(()), 3).matrices.any()


@given(testing.covariances(4, 2), st.integers(-30, 30))
def test_a_matrix_without_full_rank_is_singular_at_every_scale(matrix, exponent):
    assert Dense(10.0**exponent * matrix[None]).singular


@given(testing.covariances(4), st.integers(-30, 30))
def test_a_matrix_of_moderate_condition_is_regular_at_every_scale(matrix, exponent):
    assert not Dense(10.0**exponent * matrix[None]).singular


@pytest.mark.parametrize("count", [1, 5])
def test_a_pivot_of_d_eps_of_its_variance_is_rounding(count):
    # powers of 2, whose roots and squares are exact: with d = 4 the bound is 4 eps
    def storage(units):
        return Dense(np.tile(np.diag([1.0, 1.0, 1.0, 1.0]) + 0.0, (count, 1, 1)) * units)

    assert not storage(1e-300).singular
    for pivot, singular in ((4 * plain.EPS, True), (16 * plain.EPS, False)):
        # S = L L' with the last pivot sqrt(pivot) beside an entry of 1
        lower = np.eye(4)
        lower[3, 0], lower[3, 3] = np.sqrt(1 - pivot), np.sqrt(pivot)
        assert Dense(np.tile(lower @ lower.T, (count, 1, 1))).singular == singular


def test_the_covariances_of_chosen_components_are_theirs():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((3, 2, 2))
    chosen = np.array([2, 0])
    for storage in (Dense(factors @ np.swapaxes(factors, 1, 2)), Diagonal(rng.random((3, 2)))):
        np.testing.assert_array_equal(storage[chosen].dense(2), storage.dense(2)[chosen])
        np.testing.assert_array_equal(storage[1:].dense(2), storage.dense(2)[1:])
    for shared in (Dense(factors[:1] @ np.swapaxes(factors[:1], 1, 2)), Diagonal(rng.random((1, 2)))):
        assert shared[chosen] is shared


@given(st.integers(0, 3000), st.integers(1, 100_000), st.integers(1, 3072))
def test_tiles_cover_the_components_once_and_stay_within_their_size(rows, count, dim):
    slices = [*tiles(rows, count, dim)] if count * max(rows * dim, 1) < TILE * 10_000 else []
    covered = 0
    for piece in slices:
        assert piece.start == covered
        assert (piece.stop - piece.start) * rows * dim <= max(TILE, rows * dim)
        covered = piece.stop
    assert covered == count or not slices
