"""Barycentres of Gaussians for entropic costs: stationary, of known width for one law, Wasserstein's without noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refdiff import Gaussian, GaussianMixture
from refdiff.distributions import entropy
from refdiff.transport import entropic_barycentre, entropic_cost, gaussian_barycentre, sinkhorn_divergence

SEEDS = st.integers(0, 2**32 - 1)
KINDS = ("debiased", "product", "entropy")


def laws(seed, n=3, d=3):
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((n, d, d))
    return [Gaussian(rng.standard_normal(d), a @ a.T + 0.2 * np.eye(d)) for a in roots], rng.dirichlet(np.ones(n))


def objective(kind, given, w, epsilon, q):
    if kind == "debiased":
        return sum(a * sinkhorn_divergence(p, q, epsilon) for a, p in zip(w, given, strict=True))
    found = sum(a * entropic_cost(p, q, epsilon) for a, p in zip(w, given, strict=True))
    return found - (epsilon * entropy(q) if kind == "entropy" else 0.0)


@given(SEEDS, st.sampled_from(KINDS), st.sampled_from([0.01, 0.1, 5.0]))
def test_nothing_near_is_better(seed, kind, epsilon):
    given_laws, w = laws(seed)
    q = entropic_barycentre(given_laws, epsilon, w, kind=kind)
    best = objective(kind, given_laws, w, epsilon, q)
    np.testing.assert_allclose(q.mean(), sum(a * p.mean() for a, p in zip(w, given_laws, strict=True)), atol=1e-13)
    rng = np.random.default_rng(seed)
    turn, push = rng.standard_normal((3, 3)), rng.standard_normal(3)
    near = [objective(kind, given_laws, w, epsilon, q.affine(np.eye(3) + h * turn, h * push)) for h in (1e-3, -1e-3)]
    assert min(near) > best
    bend = near[0] + near[1] - 2 * best
    assert abs(near[0] - near[1]) < 0.02 * bend + 1e-12 * abs(best)  # no slope


@pytest.mark.parametrize("kind", KINDS)
def test_mean_of_one_law_has_a_known_width(kind):
    one = Gaussian([1.0, 0.0, 2.0], [[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.1]])
    q = entropic_barycentre([one, one], 0.3, kind=kind)
    values, axes = np.linalg.eigh(one.cov())
    wanted = {"debiased": values, "product": np.maximum(values - 0.3, 0), "entropy": values + 0.3}[kind]
    np.testing.assert_allclose(q.cov(), (axes * wanted) @ axes.T, atol=1e-12)


@given(SEEDS)
@settings(max_examples=6)
def test_without_noise_all_are_the_wasserstein_barycentre(seed):
    given_laws, w = laws(seed)
    wanted = gaussian_barycentre(given_laws, w).law.cov()
    for kind in KINDS:
        np.testing.assert_allclose(entropic_barycentre(given_laws, 0.0, w, kind=kind).cov(), wanted, atol=1e-5)


def test_much_noise_averages_covariances_or_leaves_a_point():
    given_laws, w = laws(3)
    mean = sum(a * p.cov() for a, p in zip(w, given_laws, strict=True))
    e = 1e6
    np.testing.assert_allclose(entropic_barycentre(given_laws, e, w).cov(), mean, rtol=1e-5, atol=1e-5)
    assert not entropic_barycentre(given_laws, e, w, kind="product").cov().round(12).any()
    np.testing.assert_allclose(entropic_barycentre(given_laws, e, w, kind="entropy").cov() - e * np.eye(3), mean,
                               rtol=1e-4, atol=1e-4)  # fmt: skip


def test_points_diagonals_and_singular_laws():
    points = [Gaussian([0.0, 1.0], 0.0), Gaussian([2.0, 1.0], 0.0)]
    q = entropic_barycentre(points, 0.5)
    np.testing.assert_array_equal(q.mean(), [1.0, 1.0])
    assert not q.cov().any()
    np.testing.assert_allclose(entropic_barycentre(points, 0.5, kind="entropy").cov(), 0.5 * np.eye(2))
    diagonal = entropic_barycentre([Gaussian([0.0, 1.0], 1.0), Gaussian([2.0, 1.0], [2.0, 0.0])], 0.5)
    assert diagonal.covariance.ndim == 1


def test_refusals():
    given_laws, _ = laws(0)
    two = GaussianMixture.isotropic([[0.0], [1.0]], 1.0)
    for error, match, make in [
        (ValueError, "at least one", lambda: entropic_barycentre([], 1.0)),
        (
            TypeError,
            "must be Gaussians",
            lambda: entropic_barycentre([two], 1.0),
        ),
        (ValueError, "weights must be 3", lambda: entropic_barycentre(given_laws, 1.0, [1.0])),
        (ValueError, "kind must be one of", lambda: entropic_barycentre(given_laws, 1.0, kind="sharp")),
        (ValueError, "epsilon", lambda: entropic_barycentre(given_laws, -1.0)),
        (ValueError, "most must be more", lambda: entropic_barycentre(given_laws, 1.0, most=2)),
    ]:
        with pytest.raises(error, match=match):
            make()
