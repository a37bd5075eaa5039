"""The mixture kernel against NumPy's two routes and against mpmath, in units of the rounding that the formula allows.

`mixtures.allowance` says how much that is; NumPy and a kernel may each err so much. Other inputs, other blocks, other
threads: the same bits.
"""

import itertools

import mpmath as mp
import numpy as np
import plain
import pytest
from mixtures import KINDS, U, allowance, law
from numba import config

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    GaussianMixture,
    VEPower,
    VPLinear,
    backends,
    compiled,
)
from refdiff.kernels.numba import mixture as kernels
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.laws import Mixture
from refdiff.kernels.numba.tiles import LANES
from refdiff.predictions import PREDICTIONS

INTERPRETED = bool(config.DISABLE_JIT)
# (d, K, n): around the tiles of components (32), the rows of a tile (1, 2, 4) and the lanes of a block (128)
SIZES = [(1, 1, 1), (1, 3, 3), (2, 5, 2)] if INTERPRETED else [
    (1, 1, 1), (1, 3, 129), (2, 33, 128), (3, 4, 127), (4, 32, 2), (5, 130, 258), (9, 7, 5), (16, 3, 3), (12, 40, 3),
]  # fmt: skip
PROCESSES = {"VP": VPLinear(), "FM": FlowMatching(), "VE": VEPower()}


def times(process):
    return [0.03 * process.T, 0.4 * process.T, process.T]


def both(question):
    """What the two backends answer."""
    answers = []
    for name in ("numba", "numpy"):
        with backends.use(name):
            answers.append(question())
    return answers


def far(model, x, t, prediction):
    """The largest difference of the backends, in allowances for both."""
    found, expected = both(lambda: model.predict(x, t, prediction))
    when = compiled.at(model.process.coefficients(t), prediction)
    assert found.shape == x.shape
    assert np.isfinite(expected).all()
    allowed = 2 * U * allowance(model.distribution, x, when)[0] + np.finfo(float).tiny
    return np.nan_to_num(np.abs(found - expected) / allowed, nan=np.inf).max()


# ---------------------------------------------------------------------- against NumPy


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_numpy(kind):
    for i, (dim, count, n) in enumerate(SIZES):
        process = list(PROCESSES.values())[i % 3]
        model = ExactModel(law(kind, dim, count), process)
        for j, prediction in enumerate(PREDICTIONS):  # the sizes take turns at the times
            t = times(process)[(i // 3 + j) % 3]
            assert far(model, model.sample(n, t, 3), t, prediction) < 1, (dim, count, n, process, t, prediction)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("shared", "full")])
def test_predictions_under_a_process_of_its_own_for_each_axis_are_those_of_numpy(kind):
    for i, (dim, count, n) in enumerate(SIZES):
        process = AffineProcess([VPLinear(0.1, 10.0 + j) if j % 2 else FlowMatching() for j in range(dim)])
        model = ExactModel(law(kind, dim, count), process)
        assert compiled.applies(model.distribution, compiled.at(model.process.coefficients(0.5), "score"))
        for j, prediction in enumerate(PREDICTIONS):
            t = (0.03, 0.5)[(i + j) % 2]
            assert far(model, model.sample(n, t, 3), t, prediction) < 1, (dim, count, n, t, prediction)


@pytest.mark.parametrize("kind", KINDS)
def test_log_densities_are_those_of_numpy(kind):
    for dim, count, n in SIZES:
        model = ExactModel(law(kind, dim, count), FlowMatching())
        for t in (0.03, 0.4, 1.0):
            marginal, x = model.marginal(t), model.sample(n, t, 3)
            found, expected = both(lambda marginal=marginal, x=x: marginal.logpdf(x))
            allowed = allowance(marginal, x, compiled.STATIC)[1]
            assert found.shape == (n,)
            assert (np.abs(found - expected) <= 2 * U * allowed).all()


EXTREMES = {
    "means far from 0": {"offset": 1e6},
    "huge variances": {"spread": 1e12},
    "tiny variances": {"spread": 1e-12},
    "huge scale": {"spread": 1e200, "offset": 1e100},
    "weights from 1e-300 to 1, and 0": {"weights": [1.0, 0.0, 1e-300, 1e-20]},
    "one component left": {"weights": [0.0, 1.0, 0.0, 0.0]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_predictions_of_extreme_laws_are_those_of_numpy(kind, extreme):
    data = law(kind, 3, 4, **EXTREMES[extreme])
    for process, t in ((FlowMatching(), 0.3), (VEPower(), 1e-3), (VPLinear(), 1.0)):
        model = ExactModel(data, process)
        x = model.sample(3, t, 1)
        for prediction in PREDICTIONS:
            assert far(model, x, t, prediction) < 1, (process, t, prediction)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [1e3, 1e8, 1e100])
def test_far_points_are_as_good_as_numpys(kind, distance):
    model = ExactModel(law(kind, 3, 4), FlowMatching())
    x = distance * np.random.default_rng(0).standard_normal((3, 3))
    for t, prediction in itertools.product((0.05, 0.7), PREDICTIONS):
        assert far(model, x, t, prediction) < 1, (t, prediction)


@pytest.mark.parametrize("kind", KINDS)
def test_points_whose_density_float64_does_not_hold_are_refused_as_numpy_refuses_them(kind):
    model = ExactModel(law(kind, 3, 4), FlowMatching())
    marginal, x = model.marginal(0.5), np.array([[0.1, 0.2, 0.3], [1e160, 1e170, 1e200]])
    with np.errstate(all="ignore"):
        for question in (marginal.score, lambda x: model.score(x, 0.5), lambda x: model.denoiser(x, 0.5)):
            for name in ("numba", "numpy"):
                with backends.use(name), pytest.raises(ValueError, match="log density of -inf"):
                    question(x)
        found, expected = both(lambda: marginal.logpdf(x))
    assert np.isneginf(expected[1])
    assert np.isneginf(found[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)


def test_a_far_component_adds_nothing_however_large_its_slope():
    """At 0 and 1 under sigma = 1e-150: 1 is 1e150 standard deviations off, and pulls with 1e300."""
    model = ExactModel(Empirical([[0.0], [1.0]]), FlowMatching())
    found, expected = both(lambda: model.score([[1e-150]], 1e-150))
    np.testing.assert_allclose(expected, [[-1e150]], rtol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_point_set_has_no_density_at_sigma_0():
    model = ExactModel(law("points", 2, 5), FlowMatching())
    flat = ExactModel(GaussianMixture.diagonal(np.zeros((2, 2)), [[1.0, 0.0], [1.0, 1.0]]), FlowMatching())
    thin = ExactModel(GaussianMixture.shared(np.zeros((2, 2)), [[1.0, 1.0], [1.0, 1.0]]), FlowMatching())
    for one, prediction, name in itertools.product((model, flat, thin), PREDICTIONS, ("numba", "numpy")):
        with backends.use(name):
            with pytest.raises(ValueError, match="is singular, so the law has no density"):
                one.predict(np.zeros((3, 2)), 0.0, prediction)
            with pytest.raises(ValueError, match="is singular, so the law has no density"):
                one.distribution.logpdf(np.zeros((3, 2)))
            # the least noise helps the first; rounding hides it beside the variance 2 of the third
            assert np.isfinite(model.predict(np.zeros((3, 2)), 1e-9, prediction)).all()


def test_matrix_covariances_under_a_process_of_its_own_for_each_axis_are_left_to_numpy():
    process = AffineProcess([VPLinear(), FlowMatching()])
    for kind in ("shared", "full"):
        model = ExactModel(law(kind, 2, 3), process)
        assert not compiled.applies(model.distribution, compiled.at(model.process.coefficients(0.5), "score"))
        x = model.sample(4, 0.5, 0)
        found, expected = both(lambda model=model, x=x: model.velocity(x, 0.5))
        np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("row", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_a_little_wrong_would_be_seen(kind, row):
    data, t = law(kind, 3, 4), 0.4
    model = ExactModel(data, FlowMatching())
    x = model.sample(5, t, 0)
    when = compiled.at(model.process.coefficients(t), "velocity")
    expected = compiled.evaluate(data, x, when)[0]
    allowed = 2 * U * allowance(data, x, when)[0]
    when[row] *= 1 + 1e-9
    moved = np.abs(compiled.evaluate(data, x, when)[0] - expected) / allowed
    # without variance b = gamma / T
    assert moved.max() > 100 or (kind == "points" and row == 3 and moved.max() == 0)


# ---------------------------------------------------------------------- against mpmath


def exact_answer(data, x, when):
    """The output and the log density at one point, in 40 digits."""
    dim = data.dim
    rows = [[mp.mpf(float(v)) for v in np.broadcast_to(row, (dim,))] for row in when]
    (a, q, mu, beta, gamma), point = rows, [mp.mpf(float(v)) for v in x]
    weights, means, matrices = np.exp(data.log_weights), data.means, plain.parts(data)[2]
    logits, outputs = [], []
    for w, m, s in zip(weights, means, matrices, strict=True):
        spread = mp.matrix(s.tolist())
        total, b = mp.matrix(dim), mp.matrix(dim)
        for i, j in itertools.product(range(dim), range(dim)):
            total[i, j] = a[i] * spread[i, j] * a[j] + (q[i] if i == j else 0)
            b[i, j] = beta[i] * spread[i, j] + (gamma[i] if i == j else 0)
        apart = mp.matrix([p - ai * mp.mpf(float(mi)) for p, ai, mi in zip(point, a, m, strict=True)])
        solved = mp.lu_solve(total, apart)
        logits.append(mp.log(w) - (apart.T * solved)[0] / 2 - mp.log(mp.det(total)) / 2)
        moved = b * solved
        outputs.append([mu[j] * mp.mpf(float(m[j])) + moved[j] for j in range(dim)])
    top = max(logits)
    powers = [mp.exp(l - top) for l in logits]
    total = sum(powers)
    answer = [sum(r * o[j] for r, o in zip(powers, outputs, strict=True)) / total for j in range(dim)]
    return answer, top + mp.log(total) - dim * mp.log(2 * mp.pi) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_log_densities_are_the_exact_ones(kind):
    model = ExactModel(law(kind, 3, 4), VPLinear())
    for t in (0.02, 0.5):
        x = model.sample(2, t, 5)
        for prediction in PREDICTIONS:
            when = compiled.at(model.process.coefficients(t), prediction)
            out, logp = compiled.evaluate(model.distribution, x, when)
            allowed, allowed_logp = allowance(model.distribution, x, when)
            with mp.workdps(40):
                for i in range(len(x)):
                    answer, density = exact_answer(model.distribution, x[i], when)
                    for value, right, bound in zip(out[i], answer, allowed[i], strict=True):
                        assert abs(mp.mpf(float(value)) - right) <= U * bound
                    assert abs(mp.mpf(float(logp[i])) - density) <= U * allowed_logp[i]


# ---------------------------------------------------------------------- single precision, blocks and threads


def predict(data, x, when, kind=np.float64, threads=1):
    """The kernel itself on numbers of this kind."""
    parts = [np.ascontiguousarray(part, kind) if part.dtype == float else part for part in compiled.mixture(data)]
    out, logp = np.full(x.shape, np.nan, kind), np.full(len(x), np.nan, kind)
    count = -(-len(x) // LANES)
    arguments = x.astype(kind), Mixture(*parts), when.astype(kind), out, logp
    blocks(kernels.predict, count, *arguments, threads=threads)
    return out, logp


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_errs_as_single_precision_must(kind):
    u = np.finfo(np.float32).eps / 2
    for i, (dim, count, n) in enumerate(SIZES):
        data = law(kind, dim, count)
        for j, prediction in enumerate(PREDICTIONS):
            t = (0.1, 0.6)[(i + j) % 2]
            model = ExactModel(data, FlowMatching())
            x = model.sample(n, t, 3).astype(np.float32).astype(float)
            when = compiled.at(model.process.coefficients(t), prediction)
            found, logp = predict(data, x, when, np.float32)
            expected, density = compiled.evaluate(data, x, when)
            # the law and the five numbers are rounded too: as many errors again
            allowed, allowed_logp = allowance(data, x, when)
            assert found.dtype == np.float32
            assert (np.abs(found - expected) <= 2 * u * allowed).all()
            assert (np.abs(logp - density) <= 2 * u * allowed_logp).all()
            assert not np.array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_depends_bit_by_bit_on_neither_its_neighbours_nor_its_place_nor_the_threads(kind):
    dim, count, n = (2, 3, 66) if INTERPRETED else (5, 70, 5 * LANES + 7)
    data = law(kind, dim, count)
    rng = np.random.default_rng(0)
    x, when = rng.standard_normal((n, dim)), compiled.at(FlowMatching().coefficients(0.3), "velocity")
    out, logp = predict(data, x, when)
    order = rng.permutation(n)
    for rows in (order, order[:LANES], order[:1], slice(None, None, 3)):
        found, density = predict(data, np.ascontiguousarray(x[rows]), when)
        assert np.array_equal(found, out[rows])
        assert np.array_equal(density, logp[rows])
    for threads in (2, 3, 50):
        found, density = predict(data, x, when, threads=threads)
        assert np.array_equal(found, out)
        assert np.array_equal(density, logp)
    # a neighbour far away, one that overflows, one that is no number
    for other in (1e100, 1e200, np.nan):
        x[1] = other
        with np.errstate(all="ignore"):
            found = predict(data, x, when)[0]
        assert np.array_equal(np.delete(found, 1, axis=0), np.delete(out, 1, axis=0))


def test_points_of_any_shape_order_and_precision():
    model = ExactModel(law("diagonal", 3, 4), FlowMatching())
    x = model.sample(12, 0.5, 0)
    with backends.use("numba"):
        flat = model.denoiser(x, 0.5)
        assert np.array_equal(model.denoiser(x.reshape(3, 4, 3), 0.5), flat.reshape(3, 4, 3))
        assert np.array_equal(model.denoiser(x[5], 0.5), flat[5])
        assert np.array_equal(model.denoiser(np.repeat(x, 2, axis=0)[::2], 0.5), flat)
        assert np.array_equal(model.denoiser(x[::-1], 0.5), flat[::-1])
        assert model.denoiser(np.empty((0, 3)), 0.5).shape == (0, 3)
        assert model.log_density(np.empty((0, 3)), 0.5).shape == (0,)
        assert model.log_density(x[5], 0.5).shape == ()
        single = x.astype(np.float32)
        assert model.denoiser(single, 0.5).dtype == np.float32
        assert np.array_equal(model.denoiser(single, 0.5), model.denoiser(single.astype(float), 0.5).astype(np.float32))
        with pytest.raises(ValueError, match=r"x must have shape \(..., 3\)"):
            model.denoiser(x[:, :2], 0.5)
        with pytest.raises(ValueError, match="x must be finite"):
            model.denoiser(x * np.nan, 0.5)


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_no_order_of_the_points_asks_for_another_compilation():
    model = ExactModel(law("diagonal", 3, 4), FlowMatching())
    x = model.sample(12, 0.5, 0)
    with backends.use("numba"):
        flat = model.denoiser(x, 0.5)
        before = set(kernels.predict.overloads)
        assert np.array_equal(model.denoiser(np.asfortranarray(x), 0.5), flat)
    assert set(kernels.predict.overloads) == before
