"""Divergences on the device against NumPy's matrices and 60 digits, in units of what rounding of the inputs does.

`derivatives` says how much that is, and `mixtures` for the outputs that come with them. Controls: what is left out,
moved or not centred breaks the same bounds. Other batches, other orders of threads, less memory: the same bits.
"""

from functools import partial

import mpmath as mp
import numpy as np
import pytest
from bits import assert_no_neighbour_matters, assert_no_order_matters
from derivatives import bound, case, exact
from emulator import cupy as stand_in
from mixtures import KINDS, allowance, law, on_device

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
from refdiff.kernels.cuda import mixture, second_order

PROCESSES = {"VP": (VPLinear(), 0.3), "VE": (VEPower(), 0.7)}
PREDICTIONS = ("velocity", "score", "denoiser")
# Covariances, axes, components, points, numbers: tiles and parts as in the tests of the mixture.
CASES = [
    ("isotropic", 1, 1, 1, "f8"),
    ("isotropic", 3, 129, 130, "f8"),
    ("isotropic", 5, 513, 2, "f4"),
    ("one variance", 2, 300, 3, "f8"),
    ("points", 3, 127, 128, "f4"),
    ("diagonal", 2, 300, 127, "f8"),
    ("diagonal", 16, 78, 3, "f8"),
    ("one diagonal", 5, 9, 2, "f8"),
    ("shared", 3, 300, 129, "f8"),
    ("full", 2, 129, 3, "f8"),
    ("full", 3, 11, 5, "f4"),
    ("full", 8, 57, 3, "f8"),
    ("full", 16, 17, 3, "f8"),
    ("full", 2, 300, 3, "f8"),
    ("diagonal", 17, 5, 2, "f8"),  # the first that goes to kernels.cuda.wide
]


def answers(cupy, data, x, when, kind="f8"):
    """Outputs and divergences of the kernel."""
    found = second_order.divergence(cupy.asarray(x.astype(kind)), on_device(cupy, data, kind), when)
    return [one.get() for one in found]


def parameters(make, t, prediction):
    return compiled.at(make(0.0).process.coefficients(t), prediction)


def off(cupy, make, x, t, prediction, kind="f8", wrong=None):
    """The largest differences of output and divergence from NumPy's, in bounds; `wrong` rows of the time moved."""
    model, when = make(0.0), parameters(make, t, prediction)
    want, allowed = bound("divergence", make, x, t, kind, prediction=prediction)
    with backends.use("numpy"):
        output = model.predict(x, t, prediction)
    allowed_output = np.finfo(kind).eps * allowance(model.distribution, x, when)[0] + np.finfo(kind).tiny
    if wrong is not None:
        when[wrong] *= 1 + 1e-9
    out, div = answers(cupy, model.distribution, x, when, kind)
    assert (out.dtype, div.dtype, out.shape, div.shape) == (kind, kind, x.shape, (len(x),))
    pairs = (out, output, allowed_output), (div, want, allowed)
    return [np.nan_to_num(np.abs(got - right) / most, nan=np.inf).max() for got, right, most in pairs]


@pytest.mark.parametrize(("storage", "dim", "count", "n", "kind"), CASES)
def test_divergences_and_their_outputs_are_those_of_numpy(cupy, storage, dim, count, n, kind):
    for process, t in PROCESSES.values():
        make, x, _ = case(storage, dim, count, n, process, t)
        x = x.astype(kind).astype(float)
        for prediction in PREDICTIONS:
            assert max(off(cupy, make, x, t, prediction, kind)) < 1, (process, prediction)


@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "one diagonal", "points"])
def test_a_process_that_differs_on_the_axes(cupy, storage):
    process, t = AffineProcess((VPLinear(), FlowMatching(), VPLinear(beta_max=5.0))), 0.4
    make, x, _ = case(storage, 3, 11, 5, process, t)
    for prediction in PREDICTIONS:
        assert max(off(cupy, make, x, t, prediction)) < 1, prediction


@pytest.mark.parametrize("storage", KINDS)
@pytest.mark.parametrize("t", [1e-6, 1e-2, 80.0])
def test_small_and_large_noise(cupy, storage, t):
    make, x, _ = case(storage, 3, 9, 3, PROCESSES["VE"][0], t)
    assert max(off(cupy, make, x, t, "velocity")) < 1


@pytest.mark.parametrize("storage", KINDS)
def test_points_far_away_and_between_components(cupy, storage):
    t = 1e-3
    make, _, _ = case(storage, 3, 9, 3, PROCESSES["VE"][0], t, spread=1e-6)
    means = make(0.0).distribution.means
    x = np.array([[1e4, -3e3, 1.0], 0.5 * (means[0] + means[1]), means[2] + 1e-3])
    assert off(cupy, make, x, t, "velocity")[1] < 1


@pytest.mark.parametrize("storage", KINDS)
@pytest.mark.parametrize("count", [4, 260])
def test_a_point_without_density_has_no_divergence_and_spoils_no_other(cupy, storage, count):
    data, when = law(storage, 3, count), compiled.at(FlowMatching().coefficients(0.3), "velocity")
    points = np.random.default_rng(0).standard_normal((3, 3))
    out, div = answers(cupy, data, points, when)
    for beyond in (1e160, np.inf, np.nan):
        x = points.copy()
        x[1, 2] = beyond
        found, value = answers(cupy, data, x, when)
        assert np.isnan(found[1]).all()
        assert np.isnan(value[1])
        assert np.array_equal(found[[0, 2]], out[[0, 2]])
        assert np.array_equal(value[[0, 2]], div[[0, 2]])


@pytest.mark.parametrize("storage", KINDS)
@pytest.mark.parametrize("t", [1e-4, 0.5])
def test_formulas_in_60_digits(cupy, storage, t):
    make, x, _ = case(storage, 3, 3, 3, PROCESSES["VE"][0], t)
    data, x = make(0.0).distribution, x.copy()
    x[0] = 0.5 * (data.means[0] + data.means[1])
    when = parameters(make, t, "velocity")
    with mp.workdps(60):
        want = np.array([np.trace(exact(data, point, when)[0]) for point in x])
    _, allowed = bound("divergence", make, x, t)
    assert (np.abs(answers(cupy, data, x, when)[1] - want) <= allowed).all()


# ---------------------------------------------------------------------- controls


@pytest.mark.parametrize("storage", ["isotropic", "one variance", "diagonal", "shared", "full"])
def test_a_number_that_is_a_little_wrong_is_seen(cupy, storage):
    make, x, _ = case(storage, 3, 9, 5, *PROCESSES["VP"])
    for row in range(5):
        wrong = off(cupy, make, x, PROCESSES["VP"][1], "velocity", wrong=row)
        assert wrong[0] > 100  # mu is in the divergence only as far as components differ
        assert wrong[1] > (1 if row == 2 else 100), row


@pytest.mark.parametrize("storage", KINDS)
def test_without_the_turning_of_responsibilities_it_would_be_seen(cupy, storage):
    """What is left of the divergence without sum_k r_k (o_k - o).(g_k - g) breaks the bound."""
    make, x, _ = case(storage, 3, 9, 3, *PROCESSES["VE"])
    t, model = PROCESSES["VE"][1], make(0.0)
    _, allowed = bound("divergence", make, x, t)
    a, q, _, beta, gamma = (when := parameters(make, t, "velocity"))[:, 0]
    v = np.linalg.eigvalsh(model.distribution.covariances.average(np.eye(9), 3))
    rest = model.marginal(t).responsibilities(x) @ ((beta * v + gamma) / (a * a * v + q)).sum(axis=1)
    assert (np.abs(answers(cupy, model.distribution, x, when)[1] - rest) > 100 * allowed).all()


def test_moments_that_are_not_centred_would_be_seen(cupy):
    """<|m|^2> - |<m>|^2 loses what the kernel keeps: two points at a distance, and noise that is smaller."""
    data, t = Empirical([[1e8], [1e8 + 1]]), 0.5
    model, x = ExactModel(data, VEPower()), np.array([[1e8 + 0.5], [1e8 + 0.25]])
    got = answers(cupy, data, x, compiled.at(model.process.coefficients(t), "score"))[1]
    with backends.use("numpy"):
        want, r, m = model.hessian(x, t)[:, 0, 0], model.marginal(t).responsibilities(x), data.means[:, 0]
    naive = -1 / t**2 + (r @ (m * m) - (r @ m) ** 2) / t**4
    # all numbers are exact but r, whose errors (some eps of a logit below 4) are what is left
    tolerance = 50 * np.finfo(float).eps * np.abs(want).max()
    assert np.abs(got - want).max() <= tolerance
    assert np.abs(naive - want).max() > 100 * tolerance


@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "full"])
def test_outputs_and_gradients_that_are_not_both_centred_would_be_seen(cupy, storage):
    """A denoiser of 1e8 is off by 1e-8, which the average of g_k, were it not taken off, would carry into its slope."""
    means, t = np.array([[1e8, 0.25], [1e8 + 1, 0.5]]), 0.5
    variances = {"isotropic": [0.25, 0.5], "diagonal": [[0.25, 0.5], [0.5, 0.25]]}
    matrices = [np.diag([0.25, 0.5]), np.diag([0.5, 0.25])]
    data = getattr(GaussianMixture, storage)(means, variances.get(storage, matrices))
    model, x = ExactModel(data, VEPower()), np.array([[1e8 + 2.5, 0.75], [1e8 - 1.75, -0.5]])
    got = answers(cupy, data, x, compiled.at(model.process.coefficients(t), "denoiser"))[1]
    with backends.use("numpy"):
        want = 2 + t**2 * np.trace(model.hessian(x, t), axis1=1, axis2=2)  # Tweedie; no number of size 1e8 in it
    # as above, and an output's rounding, 1e-8, squared
    assert np.abs(got - want).max() <= 50 * np.finfo(float).eps * np.abs(want).max() + 1e-16


def test_a_far_component_adds_nothing_however_large_its_slope(cupy):
    """At 0 and 1 under sigma = 1e-150: 1 is 1e150 standard deviations off, and (o_k - o).(g_k - g) is infinite."""
    data = GaussianMixture.isotropic([[0.0], [1.0]], [0.0, 1e-302])
    when = compiled.at(FlowMatching().coefficients(1e-150), "score")
    out, div = answers(cupy, data, np.array([[1e-150]]), when)
    np.testing.assert_allclose(out, [[-1e150]], rtol=1e-12)
    np.testing.assert_allclose(div, [-1e300], rtol=1e-12)


# ---------------------------------------------------------------------- the same bits

SAME_BITS = [("isotropic", 300), ("diagonal", 20), ("shared", 300), ("full", 300)]


@pytest.mark.parametrize(("storage", "count"), SAME_BITS)
def test_a_point_depends_bit_by_bit_on_neither_its_neighbours_nor_its_place(cupy, storage, count):
    assert_no_neighbour_matters(partial(answers, cupy), law(storage, 3, count))


@pytest.mark.parametrize(("storage", "count"), SAME_BITS)
def test_orders_of_threads_and_less_memory_change_no_bit(storage, count):
    assert_no_order_matters(answers, law(storage, 3, count), 5 if count > mixture.PART else 0)


def test_memory_that_does_not_suffice_for_one_point_is_refused_with_what_it_needs():
    data, when = law("isotropic", 3, 300), compiled.at(FlowMatching().coefficients(0.3), "velocity")
    with stand_in.standing_in() as cupy:
        cupy.state.total = 100
        with pytest.raises(MemoryError, match="a mixture of 300 components needs 192 bytes on the GPU for one row"):
            answers(cupy, data, np.zeros((2, 3)), when)
