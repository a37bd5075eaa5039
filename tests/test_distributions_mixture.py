"""Mixtures against scipy.stats, brute-force sums, stencils and Bayes' rule; extremes, shapes and memory."""

import contextlib
import tracemalloc

import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, Gaussian, GaussianMixture, testing
from refdiff.distributions import covariances, mixture, random_mixture, ring

LAWS = testing.distributions(kinds=testing.WITH_DENSITY, spread=3.0)
STORAGES = ("isotropic", "diagonal", "shared", "full")


def draws(law, seed, n=4):
    return law.sample(n, seed)


@given(LAWS, st.integers(0, 2**32))
def test_logpdf_is_the_logsumexp_of_scipys_component_densities(law, seed):
    x = draws(law, seed)
    plain.close(law.logpdf(x), plain.logpdf(law, x), plain.rounding(law, x))


@given(LAWS, st.integers(0, 2**32))
def test_responsibilities_are_the_posterior_of_the_component_and_sum_to_one(law, seed):
    x = draws(law, seed)
    r = law.responsibilities(x)
    plain.close(r, plain.responsibilities(law, x), plain.rounding(law, x))
    np.testing.assert_allclose(r.sum(axis=-1), 1, rtol=law.count * plain.EPS)


@given(LAWS, st.integers(0, 2**32))
def test_score_is_the_weighted_sum_of_component_gradients(law, seed):
    x = draws(law, seed)
    size = max(np.abs(plain.gradients(law, x)).max() / max(np.abs(plain.score(law, x)).max(), 1e-30), 1)
    plain.close(law.score(x), plain.score(law, x), plain.rounding(law, x) * size)


@given(LAWS, st.integers(0, 2**32))
def test_score_is_the_gradient_of_logpdf_by_central_differences(law, seed):
    x = draws(law, seed, 2)
    h = 1e-3 * np.sqrt(min(np.linalg.eigvalsh(s)[0] for s in plain.parts(law)[2]))
    steps = h * np.eye(law.dim)
    # Richardson on two central differences: truncation (h/std)^4 = 1e-12 of the third power of the largest gradient
    coarse = np.stack([law.logpdf(x + 2 * e) - law.logpdf(x - 2 * e) for e in steps], axis=-1) / (4 * h)
    fine = np.stack([law.logpdf(x + e) - law.logpdf(x - e) for e in steps], axis=-1) / (2 * h)
    noise = plain.rounding(law, x) * (1 + np.abs(law.logpdf(x)).max()) / h
    size = np.abs(plain.gradients(law, x)).max() + 1e3 * h
    np.testing.assert_allclose((4 * fine - coarse) / 3, law.score(x), rtol=0, atol=noise + 1e-6 * size)


@given(LAWS, st.integers(0, 2**32))
def test_hessian_is_the_brute_force_second_moment_of_the_gradients(law, seed):
    x = draws(law, seed)
    terms = np.abs(plain.gradients(law, x)).max() ** 2 + np.abs(np.linalg.inv(plain.parts(law)[2])).max()
    difference = np.abs(law.hessian(x) - plain.hessian(law, x)).max()
    assert difference <= 4 * plain.rounding(law, x) * terms


@given(LAWS, st.integers(0, 2**32))
def test_laplacian_is_the_trace_of_the_hessian(law, seed):
    x = draws(law, seed)
    hessian = law.hessian(x)
    size = np.abs(plain.gradients(law, x)).max() ** 2 + np.abs(np.linalg.inv(plain.parts(law)[2])).max()
    np.testing.assert_allclose(
        law.laplacian(x), np.trace(hessian, axis1=1, axis2=2), rtol=0, atol=plain.rounding(law, x) * size
    )


@given(testing.distributions(), st.integers(0, 2**32))
def test_hessian_is_symmetric(law, seed):
    law = law.convolve(0.5)
    hessian = law.hessian(draws(law, seed))
    np.testing.assert_allclose(hessian, np.swapaxes(hessian, 1, 2), atol=1e-12 * np.abs(hessian).max())


@given(testing.distributions())
def test_mean_and_cov_are_the_moments_of_the_components(law):
    w, m, s = plain.parts(law)
    mean = sum(wk * mk for wk, mk in zip(w, m, strict=True))
    second = sum(wk * (sk + np.outer(mk, mk)) for wk, mk, sk in zip(w, m, s, strict=True))
    size = np.abs(m).max() + 1
    np.testing.assert_allclose(law.mean(), mean, atol=1e-14 * size)
    # the second moment minus the square of the mean loses what size^2 says
    np.testing.assert_allclose(law.cov(), second - np.outer(mean, mean), atol=1e-13 * (size**2 + np.abs(s).max()))


@given(testing.distributions())
def test_weights_are_a_probability(law):
    assert (law.weights >= 0).all()
    assert abs(law.weights.sum() - 1) <= 4 * law.count * plain.EPS


# ---------------------------------------------------------------------- laws made from laws


@given(LAWS, st.integers(0, 2**32))
def test_affine_with_an_invertible_matrix_changes_the_density_by_its_determinant(law, seed):
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((law.dim, law.dim)))
    a, b, x = axes * 2.0 ** rng.integers(-1, 2, law.dim), rng.standard_normal(law.dim), draws(law, seed)
    moved = law.affine(a, b)
    y = x @ a.T + b
    expected = law.logpdf(x) - np.linalg.slogdet(a)[1]
    blur = plain.rounding(moved, y) * (1 + np.abs(expected).max())
    # y itself is rounded, which its score turns into a change of log density
    shift = np.abs(moved.score(y)).sum(axis=1).max() * 8 * plain.EPS * (1 + np.abs(y).max()) * law.dim
    np.testing.assert_allclose(moved.logpdf(y), expected, rtol=0, atol=blur + shift)


@given(testing.distributions(), st.floats(0.01, 10.0))
def test_affine_and_convolve_move_the_parts(law, variance):
    a = np.arange(1.0, 2 * law.dim + 1).reshape(2, law.dim)
    w, m, s = plain.parts(law)
    moved = law.affine(a, [1.0, -1.0]).convolve(variance)
    found_w, found_m, found_s = plain.parts(moved)
    np.testing.assert_allclose(found_w, w, rtol=1e-14)
    np.testing.assert_allclose(found_m, m @ a.T + [1.0, -1.0], rtol=1e-13, atol=1e-13 * (1 + np.abs(m).max()) * a.max())
    expected = a @ s @ a.T + variance * np.eye(2)
    np.testing.assert_allclose(found_s, expected, rtol=1e-13, atol=1e-14 * np.abs(expected).max())


@given(testing.distributions(kinds=testing.WITH_DENSITY, dim=3, spread=3.0), st.integers(0, 2**32))
def test_marginal_times_conditional_is_the_joint_density(law, seed):
    x = draws(law, seed, 1)[0]
    given_part, rest = law.marginal([2, 0]), law.conditional([2, 0], x[[2, 0]])
    joint = given_part.logpdf(x[[2, 0]]) + rest.logpdf(x[[1]])
    slack = 8 * plain.rounding(law, x[None]) * (1 + np.abs(plain.logits(law, x[None])).max())
    assert abs(joint - law.logpdf(x)) <= slack


@given(testing.distributions(dim=3, max_count=3))
def test_marginal_keeps_the_order_asked_for(law):
    np.testing.assert_array_equal(law.marginal([2, 0]).means, law.means[:, [2, 0]])
    np.testing.assert_array_equal(plain.parts(law.marginal([2, 0]))[2], plain.parts(law)[2][:, [[2], [0]], [[2, 0]]])
    np.testing.assert_array_equal(law.marginal(-1).means, law.means[:, [2]])


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_of_one_law_gives_the_same_answers(storage):
    means, weights = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]), [0.2, 0.5, 0.3]
    variance = {"isotropic": 0.7, "diagonal": [0.7, 0.7], "shared": 0.7 * np.eye(2), "full": [0.7 * np.eye(2)] * 3}
    law = getattr(GaussianMixture, storage)(means, variance[storage], weights)
    other = GaussianMixture.isotropic(means, [0.7] * 3, weights)
    x = other.sample(5, 0)
    for question in ("logpdf", "score", "hessian", "laplacian", "responsibilities"):
        # d = 2 and unit scale: a handful of roundings apart
        np.testing.assert_allclose(getattr(law, question)(x), getattr(other, question)(x), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(law.cov(), other.cov(), rtol=1e-14)
    np.testing.assert_allclose(law.conditional([0], [0.3]).cov(), other.conditional([0], [0.3]).cov(), rtol=1e-13)


def test_laws_are_the_most_special_class_they_belong_to():
    assert type(GaussianMixture.isotropic([[0.0]], 1.0)) is Gaussian
    assert type(GaussianMixture.isotropic([[0.0], [1.0]], 0.0)) is Empirical
    assert type(Empirical([[0.0], [1.0]]).convolve(0.1)) is GaussianMixture
    assert type(ring().affine(0.0)) is Empirical


# ---------------------------------------------------------------------- samples


@given(testing.distributions(), st.integers(0, 2**32))
def test_samples_are_the_same_for_the_same_seed(law, seed):
    np.testing.assert_array_equal(law.sample(5, seed), law.sample(5, np.random.default_rng(seed)))
    assert law.sample(0, seed).shape == (0, law.dim)


@pytest.mark.statistical
@pytest.mark.parametrize("storage", STORAGES)
def test_samples_have_the_mean_and_covariance_of_the_law(storage):
    law, n = random_mixture(3, 4, 5, storage), 40_000
    x = law.sample(n, 1)
    centred = x - law.mean()
    products = centred[:, :, None] * centred[:, None, :]
    # 6 standard errors: a false alarm in 1e-8 of the seeds, for 9 + 3 comparisons; the seed is fixed
    assert (np.abs(centred.mean(axis=0)) <= 6 * centred.std(axis=0) / np.sqrt(n)).all()
    assert (np.abs(products.mean(axis=0) - law.cov()) <= 6 * products.std(axis=0) / np.sqrt(n)).all()


def test_samples_of_a_degenerate_covariance_stay_in_its_plane():
    law = Gaussian([1.0, 2.0, 3.0], np.ones((3, 3)))
    x = law.sample(100, 0) - [1.0, 2.0, 3.0]
    # eigenvectors are orthogonal to eps, eigenvalues zero to d eps: their roots are 3e-8
    np.testing.assert_allclose(x, x[:, :1] * np.ones(3), atol=1e-6)
    assert x.std() > 0.5


# ---------------------------------------------------------------------- extremes


def test_a_weight_of_1e_300_decides_where_its_component_is_alone():
    law = GaussianMixture.isotropic([[0.0], [1e8]], 1.0, [1.0, 1e-300])
    np.testing.assert_allclose(law.score([[1e8 + 2.0], [1.5]]), [[-2.0], [-1.5]], rtol=1e-15)
    np.testing.assert_allclose(law.logpdf([1e8]), np.log(1e-300) - 0.5 * np.log(2 * np.pi), rtol=1e-15)
    np.testing.assert_allclose(law.responsibilities([1e8]), [0, 1])


def test_a_weight_of_zero_changes_nothing():
    law, other = GaussianMixture.isotropic([[0.0], [1.0]], 1.0, [1, 0]), Gaussian([0.0], 1.0)
    x = np.linspace(-50, 50, 7)[:, None]
    np.testing.assert_allclose(law.score(x), other.score(x), rtol=1e-15)
    np.testing.assert_allclose(law.logpdf(x), other.logpdf(x), rtol=1e-15)
    assert np.abs(GaussianMixture.isotropic([[0.0], [1e6]], 1.0, [1, 0]).sample(1000, 0)).max() < 10


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(-3, 3), st.integers(1, 4))
def test_variances_from_1e_30_to_1e30_lose_nothing(low, high, z, dim):
    variances = np.geomspace(10**low, 10**high, dim)
    x = z * np.sqrt(variances)
    for law in (Gaussian(np.zeros(dim), variances), Gaussian(np.zeros(dim), np.diag(variances))):
        expected = [-mp.mpf(float(u)) / mp.mpf(float(v)) for u, v in zip(x, variances, strict=True)]
        np.testing.assert_allclose(law.score(x), np.array(expected, dtype=float), rtol=8 * plain.EPS)
        log_density = sum(
            -(mp.mpf(float(u)) ** 2) / (2 * mp.mpf(float(v))) - mp.log(2 * mp.pi * mp.mpf(float(v))) / 2
            for u, v in zip(x, variances, strict=True)
        )
        np.testing.assert_allclose(law.logpdf(x), float(log_density), rtol=1e-14, atol=1e-13)


@given(st.integers(1, 6), st.floats(0.0, 1e8), st.integers(0, 2**32))
def test_a_mixture_far_from_the_origin_has_the_score_of_the_centred_one(dim, shift, seed):
    law = random_mixture(dim, 3, seed, "diagonal")
    shift = float(np.round(shift))  # so that adding it to points on a grid of 2^-20 is exact
    means = np.round(law.means * 2**20) / 2**20
    near = GaussianMixture.diagonal(means, law.covariances.variances, law.weights)
    far = GaussianMixture.diagonal(means + shift, law.covariances.variances, law.weights)
    x = np.round(near.sample(3, seed) * 2**20) / 2**20
    np.testing.assert_allclose(far.score(x + shift), near.score(x), rtol=1e-14, atol=1e-14)


def test_a_point_too_far_for_float64_is_answered_or_refused_without_a_warning():
    law = GaussianMixture.isotropic([[0.0], [1.0]], 1.0)
    with contextlib.suppress(ValueError):
        np.testing.assert_allclose(law.score([1e200]), [-1e200])


@pytest.mark.parametrize("dim", [1, 3072])
def test_dimensions_1_and_3072(dim):
    law = random_mixture(dim, 3, 0, "isotropic", spread=0.1)
    x = law.sample(4, 1)
    w, m, v = law.weights, law.means, law.covariances.variances[:, 0]
    logit = np.log(w) - 0.5 * (((x[:, None] - m) ** 2).sum(axis=2) / v + dim * np.log(2 * np.pi * v))
    peak = logit.max(axis=1, keepdims=True)
    expected = (peak + np.log(np.exp(logit - peak).sum(axis=1, keepdims=True)))[:, 0]
    np.testing.assert_allclose(law.logpdf(x), expected, rtol=1e-13)
    r = np.exp(logit - expected[:, None])
    np.testing.assert_allclose(
        law.score(x), (r[:, :, None] * (m - x[:, None]) / v[:, None]).sum(axis=1), rtol=1e-9, atol=1e-11
    )
    assert law.laplacian(x).shape == (4,)


def test_a_component_that_is_never_drawn_does_not_keep_others_from_being_observed():
    law = GaussianMixture.isotropic([[0.0, 0.0], [3.0, 1.0]], 1.0, [1.0, 0.0])
    left = law.conditional([0], [0.5])
    np.testing.assert_array_equal(left.weights, [1.0, 0.0])
    with pytest.raises(ValueError, match="near enough to a component"):
        law.conditional([0], [1e200])


@pytest.mark.parametrize(("dim", "count", "n"), [(3072, 25, 32), (2, 4000, 128)])
def test_memory_stays_linear_in_points_and_components(dim, count, n, monkeypatch):
    assert covariances.TILE == mixture.TILE == 2**20
    for module in (covariances, mixture):  # smaller tiles show the same with less work
        monkeypatch.setattr(module, "TILE", 2**14)
    rng = np.random.default_rng(0)
    law = GaussianMixture.isotropic(rng.standard_normal((count, dim)), 0.5)
    x = rng.standard_normal((n, dim))
    tracemalloc.start()
    law.logpdf(x)
    law.score(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # arrays like the points and the means, and ten tiles of 2^14 float64, 1.3 MB; n K d float64 would be 20 and 8 MB
    assert peak <= 8 * (4 * (n + count) * dim + 10 * 2**14)


# ---------------------------------------------------------------------- shapes and precision

QUESTIONS = {"logpdf": (), "score": ("d",), "hessian": ("d", "d"), "laplacian": (), "responsibilities": ("K",)}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("lead", [(), (0,), (1,), (5,), (2, 3), (2, 0, 3)])
def test_results_follow_the_leading_shape_of_the_points(storage, lead):
    law = random_mixture(3, 4, 0, storage)
    x = np.random.default_rng(0).standard_normal((*lead, 3))
    for question, tail in QUESTIONS.items():
        result = getattr(law, question)(x)
        assert np.shape(result) == (*lead, *({"d": 3, "K": 4}[name] for name in tail))
        rows = getattr(law, question)(x.reshape(-1, 3))
        np.testing.assert_allclose(np.reshape(result, rows.shape), rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_float32_in_is_float32_out_computed_in_float64(storage, shape):
    law = random_mixture(3, 4, 0, storage)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for question in QUESTIONS:
        result, double = getattr(law, question)(x), getattr(law, question)(x.astype(np.float64))
        assert result.dtype == np.float32
        assert np.asarray(double).dtype == np.float64
        np.testing.assert_array_equal(result, np.asarray(double).astype(np.float32))


def test_float32_results_beyond_its_range_are_infinite_without_a_warning():
    assert Gaussian([0.0], 1e-30).logpdf(np.array([1e8], dtype=np.float32)) == -np.inf


# ---------------------------------------------------------------------- laws without density


@given(testing.distributions(kinds=("points", "degenerate")), st.integers(0, 2**32))
def test_a_singular_law_moves_and_samples_but_refuses_a_density(law, seed):
    x = law.sample(3, seed)
    with pytest.raises(ValueError, match="no density"):
        law.logpdf(x)
    with pytest.raises(ValueError, match="no density"):
        law.score(x)
    assert np.isfinite(law.convolve(0.1).score(x)).all()
    assert np.isfinite(law.affine(2.0, 1.0).sample(3, seed)).all()


def test_conditioning_on_everything_random_leaves_a_point():
    law = Gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]).conditional([0], [2.0])
    np.testing.assert_allclose(law.mean(), [2.0], rtol=1e-15)
    # 1 - 1 * 1 / 1 up to rounding
    np.testing.assert_allclose(law.cov(), [[0.0]], atol=4 * plain.EPS)
