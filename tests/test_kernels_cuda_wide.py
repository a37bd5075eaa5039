"""Mixtures in many axes on the device against long doubles, in units of what rounding may do to them.

With u = eps / 2, a logit may be off by u delta_k: a square in d axes by d + 16 roundings of 16 times itself (screened),
or of twice itself and 8 d T_k (products, where they serve), and other terms by d + 16 of themselves. An output is then
off by u sum_k r_k (c |terms of o_k| + delta_k |o_k - o|), c = d + K + 16 counting what is summed, and a divergence so,
to which what o and g are off by is added.
"""

from collections import namedtuple
from fractions import Fraction

import numpy as np
import pytest
from emulator import cupy as stand_in
from mixtures import allowance, law, on_device

from refdiff import ExactModel, FlowMatching, backends, compiled
from refdiff.kernels.cuda import wide, wide_full, wide_tiles
from refdiff.kernels.cuda.mixture import Mixture

Exact = namedtuple("Exact", "out logp div")
NUMBERS = np.array([0.8, 0.36, 1.1, -0.4, 0.7])  # a, q, mu, beta, gamma
# variances of each component, of each axis, bases (-1: one for each component), times for each axis
STORAGES = {
    "isotropic": (True, False, 0, False),
    "one variance": (False, False, 0, False),
    "one variance, times": (False, False, 0, True),
    "isotropic, times": (True, False, 0, True),
    "diagonal": (True, True, 0, False),
    "one diagonal": (False, True, 0, True),
    "shared": (False, True, 1, False),
    "one basis": (True, True, 1, False),
    "full": (True, True, -1, False),
    "turned": (False, True, -1, False),
}


def some(storage, dim, count, kind="f8", seed=0, scale=1.0, variance=None):
    """A mixture as arrays of NumPy, and numbers of a time."""
    own, axes, bases, times = STORAGES[storage]
    rng = np.random.default_rng([seed, dim, count])
    shape = (count if own else 1, dim if axes else 1)
    variances = 10 ** -rng.random(shape) if variance is None else np.full(shape, variance)
    bases = np.linalg.qr(rng.standard_normal((count if bases < 0 else bases, dim, dim)))[0]
    parts = scale * rng.standard_normal((count, dim)), variances, np.log(rng.dirichlet(np.ones(count))), bases
    at = NUMBERS[:, None] * (10 ** (0.1 * rng.random((5, dim))) if times else 1)
    return Mixture(*(part.astype(kind) for part in parts)), at


def noised(mixture, at, n, seed=1):
    """Points of a mixture at a time, more or less."""
    rng = np.random.default_rng(seed)
    rows, dim = rng.integers(len(mixture.means), size=n), mixture.means.shape[1]
    spread = np.sqrt(at[0] ** 2 * mixture.variances[rows % len(mixture.variances)] + at[1])
    x = at[0] * mixture.means[rows] + spread * rng.standard_normal((n, dim))
    if len(mixture.bases) == 1:
        x = x @ mixture.bases[0].T
    return x.astype(mixture.means.dtype)


def exact(x, mixture, at):
    """Outputs, log densities and divergences in long doubles, and what rounding may do to each in units of u."""
    most = 2 / np.finfo(x.dtype).eps  # a logit that is off by 1 may be off by anything
    x, means, variances, log_weights, bases, at = (np.asarray(one, np.longdouble) for one in (x, *mixture, at))
    (count, dim), turns = means.shape, len(bases)
    a, q, mu, beta, gamma = np.broadcast_to(at, (5, dim))
    total = np.broadcast_to(a * a * variances + q, means.shape)
    slopes = np.broadcast_to((beta * variances + gamma) / (a * a * variances + q), means.shape)
    y = x @ bases[0] if turns == 1 else x
    t, size = y[:, None] - a * means, np.abs(y)[:, None] + np.abs(a * means)
    if turns:  # by a product with a basis, of which `steps` are errors
        size = np.broadcast_to(np.sqrt((size * size).sum(axis=2, keepdims=True)), t.shape)
    turned = np.einsum("nkj,kje->nke", t, bases) if turns > 1 else t
    half = (turned * turned / total).sum(axis=2) / 2
    logs = np.log(total).sum(axis=1) / 2
    logits = log_weights - logs - half
    r = np.exp(logits - logits.max(axis=1, keepdims=True))
    logp = logits.max(axis=1) + np.log(r.sum(axis=1)) - dim * np.log(2 * np.longdouble(np.pi)) / 2
    r /= r.sum(axis=1, keepdims=True)
    steps, fixed = dim + 16, np.abs(log_weights) + np.abs(np.log(total)).sum(axis=1) / 2
    delta = steps * (np.maximum(16 * half, 2 * half + 4 * dim) + fixed) + 128
    whole = delta + 2 * (dim if turns else 1) * (np.abs(turned) * size / total).sum(axis=2)
    delta = np.minimum(whole, most)
    lefts, rights = slopes * turned, -turned / total
    if turns > 1:
        lefts, rights = (np.einsum("nke,kje->nkj", one, bases) for one in (lefts, rights))
    values, roughs = mu * means + lefts, np.abs(slopes).sum(axis=1)

    def average(each, terms):
        mean = np.einsum("nk,nkj->nj", r, each)
        moved = (steps + count) * terms + delta[..., None] * np.abs(each - mean[:, None])
        return mean, np.einsum("nk,nkj->nj", r, moved)

    ends = (values, np.abs(mu * means) + np.abs(slopes) * size), (rights, size / total)
    (out, off), (g, off_g) = (average(each, terms) for each, terms in ends)
    left, right = values - out[:, None], rights - g[:, None]
    rough, rough_g = off[:, None] + steps * ends[0][1], off_g[:, None] + steps * ends[1][1]
    shifts = np.abs(left) * rough_g + np.abs(right) * rough + rough * rough_g / most
    products = (slopes.sum(axis=1) + (left * right).sum(axis=2))[..., None]
    roughs = (roughs + (np.abs(left * right) + shifts / (steps + count)).sum(axis=2))[..., None]
    div, off_div = (one[:, 0] for one in average(products, roughs))
    if turns == 1:
        out, off = out @ bases[0].T, np.sqrt((off * off).sum(axis=1, keepdims=True))
    return Exact(out, logp, div), Exact(off, (r * whole).sum(axis=1) + count + np.abs(logp), off_div)


def errors(cupy, x, mixture, at, route=None, wanted=None):
    """The largest errors of outputs, log densities and divergences, of what is allowed."""
    u, sent = np.finfo(x.dtype).eps / 2, Mixture(*map(cupy.asarray, mixture))
    (out, logp), (again, div) = (one(cupy.asarray(x), sent, at, route) for one in (wide.predict, wide.divergence))
    right, allowed = wanted or exact(x, mixture, at.astype(x.dtype))
    assert {one.dtype for one in (out, logp, again, div)} == {x.dtype}
    pairs = zip((out, logp, div, again), (*right, right.out), (*allowed, allowed.out), strict=True)
    return [np.nan_to_num(np.abs(got.get() - one) / (u * bound), nan=np.inf).max() for got, one, bound in pairs]


# ---------------------------------------------------------------------- values

# beyond tiles of 64 or 128 pairs and 16 axes, and neither
CASES = [
    *((storage, 17, 65, 3, kind) for storage in STORAGES for kind in ("f8", "f4") if STORAGES[storage][2] >= 0),
    ("isotropic", 40, 300, 2, "f8"),
    ("isotropic", 18, 66, 65, "f4"),
    ("one variance", 130, 64, 2, "f4"),
    ("one diagonal", 17, 129, 130, "f4"),
    ("diagonal", 130, 63, 3, "f8"),
    ("shared", 40, 1, 1, "f8"),
    ("isotropic", 17, 1, 1, "f4"),
    ("full", 17, 5, 65, "f8"),
    ("full", 40, 3, 2, "f4"),
    ("turned", 17, 2, 2, "f8"),
]


@pytest.mark.parametrize(("storage", "dim", "count", "n", "kind"), CASES)
def test_every_route_is_exact_to_roundings(cupy, storage, dim, count, n, kind):
    mixture, at = some(storage, dim, count, kind)
    x = noised(mixture, at, n)
    wanted = exact(x, mixture, at.astype(kind))
    for route in wide_tiles.ROUTES if len(mixture.bases) < 2 else (None,):
        assert max(errors(cupy, x, mixture, at, route, wanted)) < 1, route


@pytest.mark.parametrize("storage", ["isotropic", "one diagonal", "diagonal", "shared", "full"])
def test_a_number_of_the_time_that_is_a_little_wrong_is_seen(cupy, storage):
    mixture, at = some(storage, 17, 5)
    x = noised(mixture, at, 4)
    wanted = exact(x, mixture, at)
    for row in range(5):
        wrong = at.copy()
        wrong[row] *= 1 + 1e-9
        assert max(errors(cupy, x, mixture, wrong, None, wanted)[::2]) > 50, row


@pytest.mark.parametrize("storage", ["isotropic", "points", "one diagonal", "shared", "full"])
def test_predictions_are_those_of_numpy(cupy, storage):
    model = ExactModel(law(storage, 20, 9), FlowMatching())
    data = model.distribution
    for t, prediction in ((0.05, "denoiser"), (0.4, "velocity"), (0.9, "score")):
        x, when = model.sample(3, t, 3), compiled.at(model.process.coefficients(t), prediction)
        with backends.use("numpy"):
            right = model.predict(x, t, prediction), model.marginal(t).logpdf(x)
        found = wide.predict(cupy.asarray(x), on_device(cupy, data), when)
        for one, expected, allowed in zip(found, right, allowance(data, x, when), strict=True):
            # NumPy errs as much; squares of products 16 times
            assert (np.abs(one.get() - expected) <= 17 * np.finfo(float).eps / 2 * allowed).all(), (t, prediction)


# ---------------------------------------------------------------------- products where they are harmless


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("storage", ["isotropic", "one variance", "one diagonal", "diagonal"])
def test_products_of_little_noise_are_seen_to_fail_and_are_not_taken(cupy, storage, kind):
    mixture, at = some(storage, 17, 65, kind, scale=4, variance=1e-8)
    at[1], at[4] = 1e-5, -1.0
    mixture.means[1::2] = mixture.means[:-1:2] + 1e-3  # two are felt
    x = noised(mixture, at, 3)
    wanted = exact(x, mixture, at.astype(kind))
    assert max(errors(cupy, x, mixture, at, None, wanted)) < 1
    assert max(errors(cupy, x, mixture, at, "differences", wanted)) < 1
    assert errors(cupy, x, mixture, at, "products", wanted)[1] > 3


@pytest.mark.parametrize("storage", ["isotropic", "one diagonal", "diagonal"])
def test_products_are_taken_up_to_their_bound(cupy, storage):
    mixture, at = some(storage, 17, 65)
    total = np.broadcast_to(at[0] ** 2 * mixture.variances + at[1], mixture.means.shape)
    for factor, route in ((0.999, "products"), (1.001, "screened")):
        means = np.zeros_like(mixture.means)
        means[0] = (np.sqrt(factor * total[0]) / at[0]).ravel()  # |Y|^2 / T is d of these, about a mean of 0
        means[1] = -means[0]
        sent = Mixture(*map(cupy.asarray, mixture._replace(means=means)))
        assert wide_tiles.problem(sent, at, None, False).routes == (route,)


def logits(cupy, x, mixture, at, route):
    """Logits (n, K) of one tile of points and components."""
    p = wide_tiles.problem(Mixture(*map(cupy.asarray, mixture)), at, route, False)
    tops = cupy.full(len(x), float(np.finfo(x.dtype).min), x.dtype)
    ((_, _, found),) = wide_tiles.sweep(p, cupy.asarray(x), wide_tiles.room(p, False), tops)
    return found.get().reshape(-1, len(mixture.means))[: len(x)]


@pytest.mark.parametrize("storage", ["isotropic", "one diagonal", "diagonal"])
def test_differences_repair_what_is_felt_and_nothing_else(cupy, storage):
    mixture, at = some(storage, 17, 65, variance=1e-8)
    at[1] = 1e-5
    mixture.means[1::2] = mixture.means[:-1:2] + 1e-3
    x = noised(mixture, at, 3)
    screened, products, differences = (
        logits(cupy, x, mixture, at, route) for route in ("screened", "products", "differences")
    )
    felt = differences > differences.max(axis=1, keepdims=True) - 90  # bits: 52, 40 less of K and what products err
    assert (felt.sum(axis=1) == 2).all()
    assert (screened[felt] == differences[felt]).all()
    assert (products[felt] != differences[felt]).any()
    assert (screened[~felt] == products[~felt]).all()
    assert (screened[~felt] != differences[~felt]).any()


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("storage", ["isotropic", "one diagonal", "diagonal", "shared", "full"])
def test_far_points_have_no_density_and_no_numbers_stay_so_and_others_do_not_mind(cupy, storage, kind):
    mixture, at = some(storage, 17, 5, kind)
    x, sent = noised(mixture, at, 3), Mixture(*map(cupy.asarray, mixture))
    for route in wide_tiles.ROUTES if storage != "full" else (None,):
        near, near_density = (one.get() for one in wide.predict(cupy.asarray(x), sent, at, route))
        for beyond in (1e160 if kind == "f8" else 1e25, np.inf, -np.inf, np.nan):
            y = x.copy()
            y[1, 2] = beyond
            out, logp = (one.get() for one in wide.predict(cupy.asarray(y), sent, at, route))
            div = wide.divergence(cupy.asarray(y), sent, at, route)[1].get()
            assert np.isnan(out[1]).all()
            assert np.isnan(div[1])
            assert np.isnan(logp[1]) if np.isnan(beyond) else logp[1] == -np.inf
            assert (out[[0, 2]] == near[[0, 2]]).all()
            assert (logp[[0, 2]] == near_density[[0, 2]]).all()


@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "shared"])
def test_points_some_way_off_are_exact_too(cupy, storage):
    mixture, at = some(storage, 17, 65)
    for distance in (1e3, 1e8, 1e50):
        x = distance * np.random.default_rng(0).standard_normal((2, 17))
        for route in wide_tiles.ROUTES:
            assert max(errors(cupy, x, mixture, at, route)) < 1, (distance, route)


@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "full"])
def test_a_component_that_is_not_felt_may_have_fields_beyond_all_numbers(cupy, storage):
    mixture, at = some(storage, 17, 2)
    mixture.variances[1], at[1], at[4] = 1e-160, 0.0, -1.0
    x = noised(mixture, at, 3)
    x[:] += 10 - x.min()  # away from the narrow one, whose o.g is some 1e320
    assert max(errors(cupy, x, mixture, at)) < 1


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("storage", ["isotropic", "one diagonal", "diagonal", "shared"])
def test_a_component_that_is_far_off_takes_no_digits_from_others(cupy, storage, kind):
    mixture, at = some(storage, 17, 10, kind)
    x = noised(mixture, at, 3)
    mixture.means[9] *= 1e9 if kind == "f8" else 1e4  # about a mean, outputs would be off by 1e8 roundings
    assert max(errors(cupy, x, mixture, at)) < 1


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("storage", ["isotropic", "one diagonal", "diagonal"])
def test_a_score_of_little_noise_is_of_differences_where_few_are_felt(cupy, storage, kind):
    mixture, at = some(storage, 17, 65, kind, variance=0, seed=2)
    at = np.array([[0.8], [1e-8], [0.0], [0.0], [-1.0]])
    found = answers(cupy, x := noised(mixture, at, 3), mixture, at)[0]
    felt = mixture.means[((x[:, None] - at[0] * mixture.means) ** 2).sum(axis=2).argmin(axis=1)]
    a, q = map(Fraction, at.astype(kind)[:2, 0].tolist())
    for score, here, mean in zip(*(map(Fraction, one.ravel().tolist()) for one in (found, x, felt)), strict=True):
        # x - a m, 1 / q and what they make: a rounding each. By products it is off by |x| / 1e-4 of them
        assert abs(score - (a * mean - here) / q) <= 2 * np.finfo(kind).eps * abs(score)


# ---------------------------------------------------------------------- tiles, orders, memory


def answers(cupy, x, mixture, at):
    sent, x = Mixture(*map(cupy.asarray, mixture)), cupy.asarray(x)
    found = *wide.predict(x, sent, at), wide.divergence(x, sent, at)[1]
    return [one.get() for one in found]


@pytest.mark.parametrize("storage", ["isotropic", "diagonal", "shared", "full"])
def test_a_point_depends_bit_by_bit_on_neither_its_neighbours_nor_its_place(cupy, storage, monkeypatch):
    monkeypatch.setattr(wide_tiles, "TALL", ((np.inf, 64),))  # points of a tile
    monkeypatch.setattr(wide_full, "HEIGHT", 64)
    mixture, at = some(storage, 17, 5)
    x = noised(mixture, at, 130)
    whole, order = answers(cupy, x, mixture, at), np.random.default_rng(0).permutation(len(x))
    for rows in (order, order[:65], order[:1]):
        for found, expected in zip(answers(cupy, x[rows], mixture, at), whole, strict=True):
            assert np.array_equal(found, expected[rows])
    assert [one.shape for one in answers(cupy, x[:0], mixture, at)] == [(0, 17), (0,), (0,)]


@pytest.mark.parametrize("storage", ["isotropic", "one diagonal", "diagonal", "full"])
def test_orders_of_threads_change_no_bit_and_less_memory_takes_more_tiles(storage, monkeypatch):
    monkeypatch.setattr(wide_tiles, "TALL", ((np.inf, 64),))
    monkeypatch.setattr(wide_full, "HEIGHT", 64)
    mixture, at = some(storage, 17, 130 if storage != "full" else 5)
    x = noised(mixture, at, 3)
    with stand_in.standing_in() as cupy:
        whole = answers(cupy, x, mixture, at)
        for order, seed in (("forward", 1), ("backward", 1), ("random", 7)):
            cupy.state.order, cupy.state.seed = order, seed
            assert all(map(np.array_equal, answers(cupy, x, mixture, at), whole))
        many = len(cupy.state.launches) // 4
        cupy.state.total = 10**5 if storage == "full" else 2 * 10**5 if storage != "diagonal" else 4 * 10**5
        before = len(cupy.state.launches)
        assert max(errors(cupy, x, mixture, at)) < 1
        assert len(cupy.state.launches) - before > many


@pytest.mark.parametrize("storage", ["isotropic", "full"])
def test_memory_that_does_not_suffice_is_refused_with_what_it_needs(storage):
    mixture, at = some(storage, 17, 5)
    with stand_in.standing_in() as cupy:
        cupy.state.total = 10**5
        with pytest.raises(MemoryError, match=r"a tile of \d+ points in 17 axes.* needs \d+ bytes on the GPU"):
            answers(cupy, np.zeros((2, 17)), mixture, at)


def test_a_group_leaves_room_for_transposed_matrices(monkeypatch):
    monkeypatch.setattr(wide_full, "HEIGHT", 4)
    mixture, _ = some("full", 40, 20)
    with stand_in.standing_in() as cupy:
        sent = Mixture(*map(cupy.asarray, mixture))
        cupy.state.total = 4 * 10**5
        size = wide_full._tiles(sent, 2).size
    assert 1 < size <= 2 * 10**5 // (8 * 40 * (40 + 2 * 4))


def test_single_precision_is_not_that_of_tf32(cupy, monkeypatch):
    monkeypatch.setenv("CUPY_TF32", "1")
    for storage in ("isotropic", "full"):
        mixture, at = some(storage, 17, 2, "f4")
        with pytest.raises(ValueError, match="CUPY_TF32 must not be set"):
            answers(cupy, np.zeros((2, 17), "f4"), mixture, at)
    mixture, at = some("isotropic", 17, 2)
    assert max(errors(cupy, noised(mixture, at, 2), mixture, at)) < 1
