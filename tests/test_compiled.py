"""Laws, times and tables as the arrays that kernels take."""

import gc
import itertools

import mixtures
import numpy as np
import pytest

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPLinear,
    backends,
    compiled,
    random,
)
from refdiff.distributions.covariances import Dense, Diagonal
from refdiff.predictions import PREDICTIONS
from refdiff.samplers import fused
from refdiff.samplers.ddim import ddim

EPS = np.finfo(float).eps
RNG = np.random.default_rng(0)
MEANS = RNG.standard_normal((4, 3))
MATRICES = np.array([m @ m.T + 0.1 * np.eye(3) for m in RNG.standard_normal((4, 3, 3))])


def test_a_law_is_made_into_arrays_once_and_forgotten_with_it():
    law = GaussianMixture.isotropic(MEANS, 0.1)
    parts = compiled.mixture(law)
    assert compiled.mixture(law) is parts
    assert law in compiled._mixtures
    count = len(compiled._mixtures)
    del law
    gc.collect()
    assert len(compiled._mixtures) < count


@pytest.mark.parametrize(
    "law",
    [
        GaussianMixture.isotropic(MEANS, [0.1, 0.2, 0.3, 0.4]),
        GaussianMixture.isotropic(MEANS, 0.1),
        GaussianMixture.diagonal(MEANS, RNG.uniform(0.1, 1, (4, 3))),
        GaussianMixture.diagonal(MEANS[:, ::-1], [0.1, 0.2, 0.3]),
        GaussianMixture.shared(MEANS, MATRICES[0]),
        GaussianMixture.full(MEANS, MATRICES, [0.5, 0.0, 0.3, 0.2]),
        GaussianMixture.full(MEANS, MATRICES, [0.0, 0.0, 1.0, 0.0]),
        Empirical(MEANS.T.copy().T, [0.5, 0.0, 0.3, 0.2]),
        Gaussian([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]]),
        Gaussian([1.0], 0.5),
    ],
    ids=repr,
)
def test_the_arrays_hold_the_law(law):
    parts = compiled.mixture(law)
    for part in parts:
        assert part.flags.c_contiguous
        assert part.flags.writeable  # else Numba takes it for another type
        assert np.isfinite(part).all()
    drawn = law.weights > 0
    assert np.array_equal(np.exp(parts.log_weights), law.weights[drawn])
    bases = parts.bases if len(parts.bases) else np.eye(law.dim)[None]
    if len(parts.bases):
        np.testing.assert_allclose(
            bases @ np.swapaxes(bases, 1, 2), np.broadcast_to(np.eye(law.dim), bases.shape), atol=9 * EPS
        )
    means = parts.means @ bases[0].T if len(parts.bases) == 1 else parts.means
    np.testing.assert_allclose(means, law.means[drawn], rtol=0, atol=9 * EPS)
    found = (bases * parts.variances[:, None, :]) @ np.swapaxes(bases, 1, 2)
    expected = law.covariances[drawn].dense(law.dim)
    np.testing.assert_allclose(np.broadcast_to(found, expected.shape), expected, rtol=0, atol=50 * EPS)


def test_one_algebra_gives_every_prediction():
    """mu m + B (x - a m) with the numbers of `at` for one Gaussian, against the model in NumPy."""
    law, per_axis = Gaussian([0.7, -0.3], [0.25, 1.5]), AffineProcess([VPLinear(), FlowMatching()])
    x = RNG.standard_normal((5, 2))
    for process, t in itertools.product((VPLinear(), FlowMatching(), VEPower(T=1.0), per_axis), (0.1, 0.6, 1.0)):
        model = ExactModel(law, process)
        for prediction in PREDICTIONS:
            when = compiled.at(model.process.coefficients(t), prediction)
            assert when.shape == (5, 2 if process is per_axis else 1)
            a, q, mu, beta, gamma = when
            found = mu * law.mean() + (beta * law.covariance + gamma) / (a * a * law.covariance + q) * (
                x - a * law.mean()
            )
            with backends.use("numpy"):
                expected = model.predict(x, t, prediction)
            # a dozen roundings of terms, of which none is more than some ten times the largest answer here
            np.testing.assert_allclose(found, expected, rtol=0, atol=200 * EPS * np.abs(expected).max())
    assert compiled.at(AffineProcess([VPLinear()]).coefficients(0.5), "score").shape == (5, 1)


@pytest.mark.parametrize(
    ("law", "when", "refused"),
    [
        (Empirical(MEANS), [1.0, 0.0], True),
        (Empirical(MEANS), [1.0, 1e-300], False),
        (GaussianMixture.isotropic(MEANS, 0.1), [1.0, 0.0], False),
        (GaussianMixture.isotropic(MEANS, 0.1), [0.0, 0.0], True),
        (GaussianMixture.isotropic(MEANS, 0.1), [1e-200, 0.0], True),  # underflows, in NumPy too
        (GaussianMixture.diagonal(MEANS, [1.0, 1e-300, 1e300]), [1.0, 0.0], False),
        (GaussianMixture.shared(MEANS, np.ones((3, 3))), [1.0, 0.0], True),
        (GaussianMixture.shared(MEANS, np.ones((3, 3))), [1.0, 1e-3], False),
        (GaussianMixture.full(MEANS, np.repeat(np.diag([1.0, 1.0, 0.0])[None], 4, axis=0)), [1.0, 0.0], True),
    ],
)
def test_a_law_without_a_density_is_refused_where_numpy_refuses_it(law, when, refused):
    moment = np.array(when)[:, None]
    assert law.affine(when[0]).convolve(when[1]).covariances.singular == refused
    if refused and isinstance(law.covariances, Diagonal):
        with pytest.raises(ValueError, match="is singular, so the law has no density"):
            compiled.applies(law, moment)
    else:  # a singular matrix is left to NumPy, which refuses it
        assert compiled.applies(law, moment) != refused


@pytest.mark.parametrize("storage", mixtures.KINDS)
@pytest.mark.parametrize("when", [[1.0, 0.0], [0.5, 1e-3], [1e-3, 2.0], [1e3, 1e-9], [0.0, 1.0]])
def test_the_least_variance_is_that_of_numpys_matrices(storage, when):
    """And the part of the largest that is taken off; to rounding of an eigenvalue, which is of the largest."""
    law = mixtures.law(storage, 3, 5)
    pushed = [np.linalg.eigvalsh(one) for one in law.affine(when[0]).convolve(when[1]).covariances.dense(3)]
    for part in (0.0, 0.25) if isinstance(law.covariances, Dense) else (0.0,):
        found = compiled.least(law, np.array(when)[:, None], part).min()
        expected = min(low[0] - part * low[-1] for low in pushed)
        assert abs(found - expected) <= 20 * np.finfo(float).eps * np.max(pushed)
        if len(pushed) > 1 and when[0] > 1e-2:  # those of another component would be seen
            assert abs(found - max(low[0] - part * low[-1] for low in pushed)) > 1e-6 * np.max(pushed)


def test_covariances_of_rank_one_are_left_to_numpy_whatever_rounding_leaves_of_zero():
    """In 400 random planes and spaces; eigenvalues that should be 0 come out as some eps of the largest."""
    rng = np.random.default_rng(0)
    for dim in (2, 3) * 200:
        root = rng.standard_normal(dim)
        law = GaussianMixture.shared(np.zeros((2, dim)), np.outer(root, root))
        assert not compiled.applies(law, compiled.STATIC)


def test_graded_matrices_whose_small_eigenvalues_eigenvectors_lose_are_left_to_numpy():
    law = GaussianMixture.full(np.zeros((2, 2)), np.repeat(np.diag([1.0, 1e-18])[None], 2, axis=0))
    assert not compiled.applies(law, compiled.STATIC)
    with backends.use("numba"):
        np.testing.assert_allclose(law.score([[0.5, 1e-9]]), [[-0.5, -1e9]], rtol=1e-12)


def test_kernels_apply_to_all_but_matrices_under_axes_of_their_own():
    for law, process in itertools.product(
        (Gaussian([0.0, 1.0], 1.0), Gaussian([0.0, 1.0], [[1.0, 0.5], [0.5, 1.0]]), Empirical([[0.0, 1.0]])),
        (VPLinear(), AffineProcess([VPLinear(), VPLinear()])),
    ):
        matrices = law.covariances.dense(2)[0, 0, 1] != 0
        model = ExactModel(law, process)
        when = compiled.at(model.process.coefficients(0.5), "score")
        assert compiled.applies(law, when) == (not matrices or not model.process.per_axis)


def test_normals_are_those_of_numpy_for_any_particles():
    for seed, particles, draw, dim in (
        (0, 0, 0, 1),
        (3, 5, 2**32 - 1, 3),
        (2**64 - 1, range(2**32 - 2, 2**32 + 70), 0, 2),
        (7, np.array([2**64 - 1, 0, 5], dtype=np.uint64), 4, 5),
        (7, np.arange(6)[::-2], 4, 5),
        (7, [], 4, 5),
    ):
        answers = []
        for name in ("numba", "numpy"):
            with backends.use(name):
                answers.append(random.normals(seed, particles, draw, dim))
        # tests/test_kernels_philox.py derives 14 ulps
        np.testing.assert_allclose(*answers, rtol=14 * EPS)
        assert answers[0].shape == answers[1].shape
    with backends.use("numba"):
        first, second = np.random.default_rng(3), np.random.default_rng(3)
        drawn = random.normals(first, 4, 0, 2)
        key = int(second.integers(2**64, dtype=np.uint64))
        assert np.array_equal(drawn, random.normals(key, 4, 0, 2))
        for wrong in ({"draw": -1}, {"draw": 2**32}, {"dim": 0}, {"particles": -1}, {"seed": 2**64}):
            with pytest.raises(ValueError, match="must"):
                random.normals(**({"seed": 0, "particles": 1, "draw": 0, "dim": 1} | wrong))


def test_a_table_becomes_a_list_of_terms_within_its_window():
    tableau = ddim(VPLinear(), np.linspace(0.9, 0.1, 6), eta=0.5)
    model = ExactModel(GaussianMixture.isotropic(MEANS, 0.1), VPLinear())
    table = fused._table(tableau, model)
    assert table.starts[0] == 0
    assert table.starts[-1] == len(table.kinds) == len(table.places) == len(table.weights)
    assert table.window[0] > max(tableau.window[:2])
    for k in range(tableau.stages):
        terms = range(table.starts[k], table.starts[k + 1])
        expected = [
            (kind, j % table.window[min(kind, 2) // 2], float(w))
            for kind, part in enumerate(tableau.row(k))
            for j, w in part
        ]
        assert [(table.kinds[e], table.places[e], table.weights[e, 0]) for e in terms] == expected
        if tableau.evaluated[k]:
            c = model.process.coefficients(float(tableau.times[k]))
            assert np.array_equal(table.at[k], compiled.at(c, tableau.prediction))
