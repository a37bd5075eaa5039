"""Second-order kernels against NumPy's matrices and against 60 digits, in units of what rounding of the inputs does.

`derivatives` says how much that is. Controls: terms left out, turned or not centred break the same bound.
"""

import mpmath as mp
import numpy as np
import pytest
from derivatives import bound, case, exact, largest
from mixtures import KINDS
from numba import config

from refdiff import AffineProcess, Empirical, ExactModel, FlowMatching, VEPower, VPLinear, compiled
from refdiff.kernels.numba import mixture as mixture_kernel
from refdiff.kernels.numba import second_order as kernels
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.tiles import LANES

INTERPRETED = bool(config.DISABLE_JIT)
# (d, K, n): one of each, several tiles of components (32) and groups (4), no whole block (128)
SIZES = [(1, 1, 2), (2, 9, 3), (3, 1, 1)] if INTERPRETED else [
    (1, 1, 1), (1, 300, 65), (2, 9, 258), (3, 1, 3), (5, 300, 134), (64, 20, 66),
]  # fmt: skip
PROCESSES = {"VP": (VPLinear(), 0.3), "VE": (VEPower(), 0.7)}
KERNELS = ("divergence", "jacobian", "covariance_times", "responsibilities")


def kernel(name, data, x, when, threads=1, vectors=None):
    """What a kernel of this name answers."""
    parts = compiled.mixture(data)
    n, dim = x.shape
    shapes = {"jacobian": (n, dim, dim), "covariance_times": (n, dim), "responsibilities": (n, len(parts.means))}
    out = np.full(shapes.get(name, (n,)), np.nan)
    between = {"covariance_times": (vectors,)}.get(name, ())
    after = (np.empty((0, dim)),) if name == "divergence" else ()
    arguments = (x, *between, parts, when, out, *after)
    blocks(getattr(kernels, name), -(-n // LANES), *arguments, threads=threads)
    return out


def options(name, vectors, prediction="velocity"):
    if name == "covariance_times":
        return {"vectors": vectors}
    return {"prediction": prediction} if name in ("divergence", "jacobian") else {}


def check(name, make, x, t, vectors, prediction="velocity"):
    """The kernel within the bound; the answer, the reference and the bound."""
    given = options(name, vectors, prediction)
    want, allowed = bound(name, make, x, t, **given)
    model = make(0.0)
    when = compiled.at(model.process.coefficients(t), prediction)
    got = kernel(name, model.distribution, x, when, vectors=vectors)
    assert (largest(got - want) <= allowed).all(), (name, (largest(got - want) / allowed).max())
    return got, want, allowed


# ---------------------------------------------------------------------- against NumPy


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_is_numpys_answer(name, kind, size):
    process, t = list(PROCESSES.values())[SIZES.index(size) % 2]
    make, x, vectors = case(kind, *size, process, t)
    check(name, make, x, t, vectors)


@pytest.mark.parametrize("prediction", ["score", "denoiser"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["divergence", "jacobian"])
def test_every_prediction_has_its_derivative(name, kind, prediction):
    make, x, vectors = case(kind, 3, 11, 5, *PROCESSES["VE"])
    check(name, make, x, PROCESSES["VE"][1], vectors, prediction=prediction)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("t", [1e-6, 1e-2, 80.0])
def test_small_and_large_noise(name, kind, t):
    make, x, vectors = case(kind, 2, 9, 3, PROCESSES["VE"][0], t)
    check(name, make, x, t, vectors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KERNELS)
def test_points_far_away_and_between_components(name, kind):
    t = 1e-3
    make, _, vectors = case(kind, 2, 9, 3, PROCESSES["VE"][0], t, spread=1e-6)
    means = make(0.0).distribution.means
    x = np.array([[1e4, -3e3], 0.5 * (means[0] + means[1]), means[2] + 1e-3])
    check(name, make, x, t, vectors)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "one diagonal", "points"])
def test_process_that_differs_on_the_axes(kind):
    process, t = AffineProcess((VPLinear(), FlowMatching(), VPLinear(beta_max=5.0))), 0.4
    make, x, vectors = case(kind, 3, 11, 5, process, t)
    for name in KERNELS:
        _, want, allowed = check(name, make, x, t, vectors)
    got, want, allowed = check("jacobian", make, x, t, vectors)
    turned = want.swapaxes(1, 2)
    assert (largest(got - turned) > allowed).any()  # control: rows are for o, columns for x


# ---------------------------------------------------------------------- against 60 digits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1e-4, 0.5])
def test_formulas_in_60_digits(kind, t):
    make, x, vectors = case(kind, 2, 3, 3, PROCESSES["VE"][0], t)
    data = make(0.0).distribution
    x = x.copy()
    x[0] = 0.5 * (data.means[0] + data.means[1])
    when = compiled.at(make(0.0).process.coefficients(t), "velocity")
    with mp.workdps(60):
        jacobians, covariances = (np.array(part) for part in zip(*(exact(data, p, when) for p in x), strict=True))
    answers = {
        "jacobian": jacobians,
        "divergence": np.trace(jacobians, axis1=1, axis2=2),
        "covariance_times": np.einsum("nij,nj->ni", covariances, vectors),
    }
    for name, want in answers.items():
        got, _, allowed = check(name, make, x, t, vectors)
        assert (largest(got - want) <= allowed).all(), name


# ---------------------------------------------------------------------- controls and bits


@pytest.mark.parametrize("kind", KINDS)
def test_control_without_the_turning_of_responsibilities(kind):
    """What is left of the divergence without sum_k r_k (o_k - o).(g_k - g) breaks the bound."""
    make, x, vectors = case(kind, 2, 9, 3, *PROCESSES["VE"])
    got, _, allowed = check("divergence", make, x, PROCESSES["VE"][1], vectors)
    model = make(0.0)
    when = compiled.at(model.process.coefficients(PROCESSES["VE"][1]), "velocity")
    a, q, _, beta, gamma = when[:, 0]
    v = np.linalg.eigvalsh(model.distribution.covariances.average(np.eye(9), 2))
    r = model.marginal(PROCESSES["VE"][1]).responsibilities(x)
    assert (np.abs(got - r @ ((beta * v + gamma) / (a * a * v + q)).sum(axis=1)) > 100 * allowed).all()


def test_control_moments_that_are_not_centred():
    """<|m|^2> - |<m>|^2 loses what the kernel keeps: two points at a distance, and noise that is smaller."""
    data, t = Empirical([[1e8], [1e8 + 1]]), 0.5
    model = ExactModel(data, VEPower())
    x = np.array([[1e8 + 0.5], [1e8 + 0.25]])
    when = compiled.at(model.process.coefficients(t), "score")
    got, want = kernel("divergence", data, x, when), model.hessian(x, t)[:, 0, 0]
    r, m = model.marginal(t).responsibilities(x), data.means[:, 0]
    apart = r @ (m * m) - (r @ m) ** 2
    naive = -1 / t**2 + apart / t**4
    # all numbers are exact but r, whose errors (some eps of a logit below 4) are what is left
    tolerance = 50 * np.finfo(float).eps * np.abs(want).max()
    assert np.abs(got - want).max() <= tolerance
    assert np.abs(naive - want).max() > 100 * tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_comes_with_the_output(kind):
    """The output beside the divergence is that of the mixture kernel, up to the rounding of one more form of it."""
    make, x, _ = case(kind, 3, 11, 5, *PROCESSES["VP"])
    model = make(0.0)
    when = compiled.at(model.process.coefficients(PROCESSES["VP"][1]), "velocity")
    outputs, want, rest = np.empty_like(x), np.empty_like(x), np.empty(len(x))
    parts = compiled.mixture(model.distribution)
    blocks(kernels.divergence, 1, x, parts, when, rest, outputs)
    blocks(mixture_kernel.predict, 1, x, parts, when, want, rest)
    a, q, mu, beta, gamma = np.abs(when[:, 0])
    # terms of o_k: mu m and b (x - a m), b at most the largest beta v + gamma over the least T
    least = q if kind == "points" else q + a * a * 0.05
    terms = mu * np.abs(parts.means).max() + (beta + gamma) / least * (np.abs(x).max() + a * np.abs(parts.means).max())
    assert np.abs(outputs - want).max() <= np.finfo(float).eps * (11 + 3 + 20) * terms


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_and_threads_change_no_bit(kind):
    n = 5 if INTERPRETED else 200
    make, x, vectors = case(kind, 2, 9, n, *PROCESSES["VP"])
    model = make(0.0)
    when = compiled.at(model.process.coefficients(PROCESSES["VP"][1]), "velocity")
    for name in KERNELS:
        whole = kernel(name, model.distribution, x, when, vectors=vectors)
        np.testing.assert_array_equal(kernel(name, model.distribution, x, when, threads=2, vectors=vectors), whole)
        for i in (1, n - 1):
            alone = kernel(name, model.distribution, x[i : i + 1], when, vectors=vectors[i : i + 1])
            np.testing.assert_array_equal(alone[0], whole[i])
