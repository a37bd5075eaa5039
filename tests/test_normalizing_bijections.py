"""Densities made by bijections against laws in closed form, integrals, and differences of the maps themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Gaussian, GaussianMixture
from refdiff.distributions import entropy, kl_divergence
from refdiff.normalizing import Affine, Composition, Entrywise, Inverse, Planar, PushForward, Triangular, tanh_residual
from refdiff.validation.numeric import jacobian

SEEDS = st.integers(0, 2**32 - 1)


def coupling(dim, rng):
    """The first half of the axes kept, the others stretched and moved by functions of them."""
    half = dim // 2
    keep, change = np.arange(dim) < half, np.arange(dim) >= half
    a, b = (rng.normal(size=(dim, dim)) * np.outer(change, keep) for _ in range(2))

    def conditioner(z):
        return np.sin(z @ a.T) * change, (z**2) @ b.T

    def differential(z):
        return np.cos(z @ a.T)[:, :, None] * a * change[:, None], 2 * b * z[:, None, :]

    return Triangular(dim, conditioner, 2, differential)


def autoregressive(dim, rng):
    """Every axis stretched and moved by functions of the ones before."""
    a, b = (np.tril(rng.normal(size=(dim, dim)), -1) for _ in range(2))
    return Triangular(
        dim,
        lambda z: (0.5 * np.tanh(z @ a.T), z @ b.T),
        dim,
        lambda z: (0.5 * a / np.cosh(z @ a.T)[:, :, None] ** 2, np.tile(b, (len(z), 1, 1))),
    )


def bijections(dim, seed=0):
    rng = np.random.default_rng([dim, seed])
    matrix = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * rng.uniform(0.5, 2, dim)
    offset, u, w = rng.normal(size=(3, dim))
    found = {
        "scalar": Affine(-0.7, offset),
        "diagonal": Affine(rng.uniform(0.5, 2, dim), offset),
        "matrix": Affine(matrix, offset),
        "sinh": Entrywise(dim, np.sinh, np.arcsinh, np.cosh),
        "planar": Planar.constrained(u, w, 0.3),
        "residual": tanh_residual(0.2 * rng.normal(size=(dim, 4)), 0.2 * rng.normal(size=(4, dim)), rng.normal(size=4)),
        "autoregressive": autoregressive(dim, rng),
    }
    if dim > 1:
        found["coupling"] = coupling(dim, rng)
    found["inverse"] = Inverse(found["planar"])
    # entries of exp(exp(..)) leave no digits: each kind of layer once
    found["composition"] = Composition([found[name] for name in ("planar", "matrix", "residual", "autoregressive")])
    return found


KINDS = [(dim, name) for dim in (1, 2, 5) for name in bijections(dim)]


@pytest.mark.parametrize(("dim", "name"), KINDS)
def test_a_bijection_comes_back_and_its_volume_is_that_of_its_jacobian(dim, name):
    f, z = bijections(dim)[name], np.random.default_rng(5).normal(size=(7, dim))
    x = f.forward(z)
    stretch = np.linalg.cond(f.jacobian(z)).max()
    np.testing.assert_allclose(f.inverse(x), z, rtol=0, atol=1e-13 * stretch * np.abs(z).max())
    np.testing.assert_allclose(f.log_det(z), np.linalg.slogdet(f.jacobian(z))[1], rtol=0, atol=1e-13 * stretch)
    np.testing.assert_allclose(Inverse(f).log_det(x), -f.log_det(z), rtol=0, atol=1e-12 * stretch)
    # an 8th-order stencil: 5e-3^8 = 4e-19 times an eighth derivative, and eps / 5e-3
    size = np.abs(f.jacobian(z)).max()
    np.testing.assert_allclose(jacobian(f.forward, z, 5e-3), f.jacobian(z), rtol=0, atol=1e-9 * max(size, stretch))


@pytest.mark.parametrize(("dim", "name"), KINDS)
def test_batches_keep_their_shape_and_precision(dim, name):
    f, z = bijections(dim)[name], np.random.default_rng(6).normal(size=(2, 3, dim))
    for method, tail in (("forward", (dim,)), ("inverse", (dim,)), ("log_det", ()), ("jacobian", (dim, dim))):
        whole = getattr(f, method)(z)
        assert whole.shape == (2, 3, *tail)
        np.testing.assert_allclose(whole[1, 2], getattr(f, method)(z[1, 2]), rtol=1e-12, atol=1e-12)
        single = getattr(f, method)(z.astype(np.float32))
        assert single.dtype == np.float32
        exact = np.asarray(getattr(f, method)(z.astype(np.float32).astype(float)))
        np.testing.assert_array_equal(single, exact.astype(np.float32))
        assert getattr(f, method)(z[:0]).shape == (0, 3, *tail)


@given(seed=SEEDS, dim=st.integers(1, 6))
def test_an_affine_flow_of_a_mixture_is_the_mixture_moved(seed, dim):
    rng = np.random.default_rng(seed)
    law = GaussianMixture.isotropic(rng.normal(size=(3, dim)), rng.uniform(0.1, 1, 3))
    matrix = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * rng.uniform(0.5, 2, dim)
    offset = rng.normal(size=dim)
    moved, flow = law.affine(matrix, offset), PushForward(law, Affine(matrix, offset))
    x = moved.sample(5, rng)
    expected = moved.logpdf(x)
    # densities of 6 axes with variances from 0.02: |log p| is of the size of squares times their condition, 50
    np.testing.assert_allclose(flow.logpdf(x), expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(flow.sample(4, 7), law.sample(4, 7) @ matrix.T + offset)
    there, log_p = flow.carried(law.sample(4, 7))
    np.testing.assert_allclose(log_p, moved.logpdf(there), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["sinh", "planar", "residual", "composition"])
def test_a_density_on_the_line_integrates_to_one(name):
    flow = PushForward(Gaussian([0.3], 0.5), bijections(1)[name])
    # panels whose lengths in x follow the map; 20 nodes resolve a seventh of a deviation of the base to rounding
    edges = flow.bijection.forward(np.linspace(-6.5, 7.1, 97)[:, None])[:, 0]
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (1 + nodes)
    total = (np.abs(half) * np.exp(flow.logpdf(x.reshape(-1, 1)).reshape(x.shape))).sum(axis=0) @ weights
    assert abs(total - 1) < 1e-12  # 9.6 deviations: 1e-21 is left out


def test_the_likelihood_is_minus_entropy_and_divergence_and_splits_into_its_parts():
    rng = np.random.default_rng(3)
    data, base = Gaussian([0.2, -1.0], [[1.0, 0.3], [0.3, 0.5]]), Gaussian([0.0, 0.0], 1.0)
    f = Affine(rng.normal(size=(2, 2)), rng.normal(size=2))
    roots = np.sqrt(2) * np.linalg.cholesky(data.cov())
    nodes = data.mean() + np.concatenate([roots.T, -roots.T])  # their averages of quadratics are exact
    found = PushForward(base, f).likelihood(nodes)
    model = base.affine(f.gain, f.offset)
    np.testing.assert_allclose(found.value, -entropy(data) - kl_divergence(data, model), rtol=1e-12)
    np.testing.assert_allclose(found.volume, -np.log(abs(np.linalg.det(f.gain))), rtol=1e-12)
    assert found.loss == -found.value == -(found.base + found.volume)
    uneven = PushForward(base, f).likelihood(nodes[None, :2], [[0.25, 0.75]])
    np.testing.assert_allclose(uneven.value, [0.25, 0.75] @ model.logpdf(nodes[:2]), rtol=1e-12)


def test_maximum_likelihood_over_affine_flows_fits_the_moments():
    rng = np.random.default_rng(4)
    x, base = rng.gamma(2.0, size=(50, 3)), Gaussian(np.zeros(3), 1.0)
    best = Affine(np.linalg.cholesky(np.cov(x.T, bias=True)), x.mean(axis=0))
    top = PushForward(base, best).likelihood(x)
    np.testing.assert_allclose(top.base, -1.5 * (1 + np.log(2 * np.pi)), rtol=1e-12)
    for size in (1e-3, 0.3):
        for _ in range(20):
            near = Affine(best.gain + size * rng.normal(size=(3, 3)), best.offset + size * rng.normal(size=3))
            assert PushForward(base, near).likelihood(x).loss > top.loss


def test_log_dets_of_layers_are_listed_in_the_order_they_act():
    layers = [bijections(3)[name] for name in ("planar", "sinh", "matrix")]
    z = np.random.default_rng(8).normal(size=(4, 3))
    found = Composition(layers).log_dets(z)
    middle = layers[0].forward(z)
    expected = [layers[0].log_det(z), layers[1].log_det(middle), layers[2].log_det(layers[1].forward(middle))]
    np.testing.assert_array_equal(found, np.stack(expected, axis=-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(0.0, [1.0]), "gain must have an inverse"),
        (lambda: Affine([[1.0, 2.0], [2.0, 4.0]], [0.0, 0.0]), "gain must have an inverse"),
        (lambda: Affine([[1.0, 2.0]], [0.0, 0.0]), "gain must be square"),
        (lambda: Affine([1.0, 2.0], [0.0]), "gain of shape"),
        (lambda: Affine(1.0, []), "the length of offset must be at least 1"),
        (lambda: Composition([]), "layers must be"),
        (lambda: Composition([Affine(1.0, [0.0]), Affine(1.0, [0.0, 0.0])]), "layers must be"),
        (lambda: PushForward(Gaussian([0.0], 1.0), Affine(1.0, [0.0, 0.0])), "dimension 1 of base"),
        (lambda: PushForward(Gaussian([0.0], 1.0), Affine(1.0, [0.0])).likelihood(np.zeros((0, 1))), "at least one"),
        (lambda: PushForward(Gaussian([0.0], 1.0), Affine(1.0, [0.0])).likelihood([[0.0]], [2.0]), "sum to 1"),
        (lambda: PushForward(Gaussian([0.0], 1.0), Affine(1.0, [0.0])).likelihood([[0.0]], [[1.0]]), "weights must"),
        (lambda: Triangular(2, lambda z: (z, z), 3), "depth must be"),
        (lambda: Triangular(2, lambda z: (z[:, :1], z), 1).forward([0.0, 0.0]), "conditioner must answer"),
        (lambda: Triangular(2, lambda z: (0 * z, 0.5 * z + 1), 2).inverse([1.0, 2.0]), "only at earlier blocks"),
        (lambda: Triangular(2, lambda z: (0 * z, 0 * z), 1).jacobian([1.0, 2.0]), "differential must be given"),
        (lambda: Entrywise(2, np.sum, np.sum, np.sum).forward([1.0, 2.0]), "function must answer"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inverse(np.sinh), "of must have dim, forward, inverse"),
        (lambda: Composition([Affine(1.0, [0.0]), np.sinh]), "layers must have dim, forward, inverse"),
        (lambda: PushForward(Gaussian([0.0], 1.0), 2.0), "bijection must have dim, forward, inverse"),
        (lambda: PushForward(None, Affine(1.0, [0.0])), "base must have dim, logpdf and sample, got None"),
    ],
)
def test_what_is_no_bijection_and_no_law_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_volume_that_vanishes_is_an_infinite_density():
    cube = Entrywise(2, lambda z: z**3, np.cbrt, lambda z: 3 * z**2)
    z = np.array([[0.0, 1.0], [2.0, 1.0]])
    np.testing.assert_allclose(cube.log_det(z), [-np.inf, np.log(36)])
    base = Gaussian([0.0, 0.0], 1.0)
    np.testing.assert_allclose(PushForward(base, cube).logpdf(z**3), [np.inf, base.logpdf(z[1]) - np.log(36)])
