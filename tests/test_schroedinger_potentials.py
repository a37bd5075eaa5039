"""Sums of exponentials of quadratics: as densities, and their moves against quadrature and Riccati's equation."""

import numpy as np
import pytest
from schroedinger_cases import LAWS, REFERENCES, SECOND

from refdiff import Channel, Empirical, Gaussian
from refdiff.distributions import random_mixture
from refdiff.path_measures import FeynmanKac, Quadratic, affine_forward
from refdiff.schroedinger import ExponentialSum
from refdiff.schroedinger.potentials import earlier, later

GROWING, FULL = SECOND["growing"], LAWS["full"]
STEP = Channel([[0.8, 0.3], [-0.2, 0.9]], [0.1, -0.3], [[0.4, 0.1], [0.1, 0.3]])
X = np.random.default_rng(1).standard_normal((5, 2))
LATTICE = np.stack(np.meshgrid(*[np.arange(-9.0, 9.0, 0.15)] * 2), axis=-1).reshape(-1, 2)


def test_the_density_of_a_law_is_a_potential():
    found = ExponentialSum.density(FULL)
    np.testing.assert_allclose(found.log_value(X), FULL.logpdf(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.gradient(X), FULL.score(X), rtol=1e-12, atol=1e-12)
    total, law = found.law()
    np.testing.assert_allclose([total, *law.mean()], [0.0, *FULL.mean()], atol=1e-13)
    np.testing.assert_allclose(law.cov(), FULL.cov(), rtol=1e-12)


@pytest.mark.parametrize("one", [ExponentialSum.density(FULL), GROWING], ids=["density", "growing"])
def test_moves_are_integrals_over_the_channel(one):
    back = one.before(STEP)
    for x in X[:2]:
        weights = np.exp(STEP.at(x).logpdf(LATTICE) + one.log_value(LATTICE)) * 0.15**2
        np.testing.assert_allclose(back.log_value(x), np.log(weights.sum()), rtol=1e-11, atol=1e-11)
    forth = one.after(STEP)
    weights = np.exp(STEP.logpdf(X[0], LATTICE) + one.log_value(LATTICE)) * 0.15**2
    np.testing.assert_allclose(forth.log_value(X[0]), np.log(weights.sum()), rtol=1e-11, atol=1e-11)


def test_the_past_of_a_potential_solves_riccatis_equation():
    process = REFERENCES["Langevin"]
    known = FeynmanKac(
        affine_forward(process, 2),
        Quadratic(np.zeros((2, 2))),
        [Quadratic(*parts) for parts in zip(GROWING.curvatures, GROWING.slopes, GROWING.constants, strict=True)],
        0.0,
        1.0,
    )
    for t in (0.0, 0.5, 1.0):
        logs, gradients = earlier(GROWING, process.channel(t, 1.0), X)
        np.testing.assert_allclose(logs, known.log_h(X, t), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(gradients, known.gradient(X, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [0.3, [0.3, 0.2], [[0.4, 0.1], [0.1, 0.3]]], ids=["scalar", "diagonal", "matrix"])
def test_laws_move_as_their_densities_do(noise):
    step = Channel(0.7, [0.1, -0.2], noise)
    for one, other in ((FULL, ExponentialSum.density(FULL)),):
        for move in (earlier, later):
            for mine, theirs in zip(move(one, step, X), move(other, step, X), strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-11)


def test_compiled_answers_are_those_of_numpy(monkeypatch):
    points = Empirical(np.random.default_rng(3).standard_normal((300, 3)))
    x, step = np.random.default_rng(4).standard_normal((200, 3)), Channel(0.9, 0.1, [0.2, 0.3, 0.4])
    monkeypatch.setenv("REFDIFF_BACKEND", "numpy")
    plain = [*earlier(points, step, x), *later(points, step, x)]
    monkeypatch.setenv("REFDIFF_BACKEND", "numba")
    for mine, theirs in zip([*earlier(points, step, x), *later(points, step, x)], plain, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "law", [FULL, LAWS["points"], Gaussian([0.2, 0.1], [1.0, 0.0])], ids=["full", "points", "flat"]
)
def test_a_tilted_law_is_weighted_by_the_potential(law):
    total, found = GROWING.tilted(law)
    x = law.sample(200_000, 5)
    weights = np.exp(GROWING.log_value(x))
    # 4.5 standard errors of a ratio of means
    assert abs(np.exp(total) - weights.mean()) < 4.5 * weights.std() / np.sqrt(len(x))
    mean = (weights[:, None] * x).mean(axis=0) / weights.mean()
    spread = (weights[:, None] * (x - mean)).std(axis=0) / weights.mean() / np.sqrt(len(x))
    assert (np.abs(mean - found.mean()) < 4.5 * spread + 1e-12).all()


def test_products_and_tilts_agree():
    total, law = ExponentialSum.density(FULL).times(GROWING).law()
    other, same = GROWING.tilted(FULL)
    np.testing.assert_allclose([total, *law.means.ravel()], [other, *same.means.ravel()], rtol=1e-11, atol=1e-12)


def test_the_constant_stays_constant_and_adjusting_is_multiplying():
    flat = ExponentialSum.flat(2)
    np.testing.assert_allclose(flat.before(STEP).log_value(X), 0.0, atol=1e-15)
    noise = np.array([[0.4, 0.1], [0.1, 0.3]])
    adjusted = ExponentialSum.adjusted(FULL, noise).log_value(X)
    squares = 0.5 * np.einsum("ni,ij,nj->n", X, np.linalg.inv(noise), X)
    np.testing.assert_allclose(adjusted, FULL.logpdf(X) + squares, rtol=1e-11)
    # given x_0 = 0 the plan of an adjusted potential is the law itself
    wide = random_mixture(2, 3, 4, "full")
    step = Channel(1.0, 0.0, 0.01)
    logs = ExponentialSum.adjusted(wide, 0.01).before(step).terms(np.zeros((1, 2)))[0]
    images = [one.at([0.0, 0.0]) for one in ExponentialSum.adjusted(wide, 0.01).given(step)]
    np.testing.assert_allclose(np.exp(logs - np.logaddexp.reduce(logs)), wide.weights, rtol=1e-9)
    np.testing.assert_allclose([one.mean() for one in images], wide.means, rtol=1e-9)
    np.testing.assert_allclose([one.cov() for one in images], wide.covariances.dense(2), rtol=1e-9, atol=1e-12)


def test_shapes_precision_and_refusals():
    x = np.zeros((2, 3, 2), dtype=np.float32)
    assert GROWING.log_value(x).dtype == np.float32
    assert GROWING.gradient(x).shape == (2, 3, 2)
    with pytest.raises(TypeError, match="terms"):
        ExponentialSum.of([np.sin])
    with pytest.raises(ValueError, match="one dimension"):
        ExponentialSum.of([])
    with pytest.raises(ValueError, match="mixture must have a density"):
        ExponentialSum.density(LAWS["points"])
    with pytest.raises(ValueError, match="noise must reach"):
        ExponentialSum.adjusted(FULL, [1.0, 0.0])
    with pytest.raises(ValueError, match="keep every direction"):
        GROWING.after(Channel(0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="grows faster"):
        GROWING.law()
    with pytest.raises(ValueError, match="grows faster"):
        GROWING.tilted(Gaussian([0.0, 0.0], 100.0))
