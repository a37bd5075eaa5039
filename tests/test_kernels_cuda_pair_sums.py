"""Pair sums on the device: against long double, the same bits whatever else is computed, and no NaN but its own.

Tolerances are what rounding can do. With u half a unit in the last place and l = p r^2, squares of d differences, their
sum and p make l wrong by (d + 5) u of it, and k by d log k / d log l times that and by its own functions; a sum adds
RUN + 3 roundings, of its runs, the weights and its answer.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from emulator.cupy import standing_in

from refdiff.kernels.cuda import device, pair_sums
from refdiff.kernels.cuda.pair_sums import CHUNK, DISTANCE, GAUSSIAN, INVERSE, LAPLACE, POWER, PULL, RUN

LOG_2 = np.log(2)


def apart(function, l):
    return np.where(l == 0, 0, function(np.where(l == 0, 1, l)))


def multiplied(a):
    """Roundings of a power that products make; all others are of exponents."""
    return 8 * a if 2 * a == int(2 * a) <= pair_sums.MOST_HALVES else 0


# k of l and a; |d log k / d log l|; roundings of k that its functions make, by which exponents and powers are off
FUNCTIONS = {
    GAUSSIAN: (lambda l, a: np.exp2(l), lambda l, a: -l * LOG_2, lambda l, a: 4),
    LAPLACE: (lambda l, a: np.exp2(-np.sqrt(l)), lambda l, a: np.sqrt(l) / 2, lambda l, a: 4 + 2 * np.sqrt(l)),
    POWER: (
        lambda l, a: (1 + l) ** -a,
        lambda l, a: a * l / (1 + l),
        lambda l, a: 4 + multiplied(a) + 6 * a * np.log1p(l),
    ),
    DISTANCE: (lambda l, a: np.sqrt(l), lambda l, a: 0.5, lambda l, a: 2),
    PULL: (
        lambda l, a: apart(lambda l: np.exp2(-np.sqrt(l)) / np.sqrt(l), l),
        lambda l, a: (1 + np.sqrt(l)) / 2,
        lambda l, a: 8 + 2 * np.sqrt(l),
    ),
    INVERSE: (
        lambda l, a: apart(lambda l: l**-a, l),
        lambda l, a: a,
        lambda l, a: 4 + multiplied(a) + 6 * a * abs(np.log(np.where(l == 0, 1, l))),
    ),
}


@dataclass
class Case:
    """Points, weights and a function, and its sums in long double with what rounding may change."""

    kind: int
    scale: float
    power: float
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray

    def __post_init__(self):
        dim, wide = self.x.shape[1], np.longdouble
        self.unit = np.finfo(self.x.dtype).eps / 2
        self.away = self.x.astype(wide)[:, None] - self.y.astype(wide)
        l = wide(self.scale) * (self.away**2).sum(axis=2)
        function, slope, own = FUNCTIONS[self.kind]
        self.k = function(l, wide(self.power))
        self.off = ((dim + 5) * slope(l, self.power) + own(l, self.power)) * self.unit

    def on(self, cupy):
        return self.kind, self.scale, self.power, *(cupy.asarray(part) for part in (self.x, self.y, self.w))

    def sums(self):
        """S and T, and what they may be off by."""
        parts = [(self.w * self.k**q, q * self.off + (RUN + 3) * self.unit) for q in (1, 2)]
        sums = np.stack([part.sum(axis=1) for part, _ in parts], axis=1)
        return sums, np.stack([(abs(part) * off).sum(axis=1) for part, off in parts], axis=1)

    def field(self):
        """F, and what it may be off by."""
        pulls = (self.w * self.k)[:, :, None] * self.away
        off = self.off[:, :, None] + (RUN + 4) * self.unit
        return pulls.sum(axis=1), (abs(pulls) * off).sum(axis=1)


def case(kind, scale, power, dim, dtype, n=131, m=133, seed=0):
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=(n, dim)), rng.normal(size=(m, dim)) + 0.3, rng.random(m)
    shared = min(n, m) // 2
    y[:shared] = x[:shared]
    w[1::5] = 0
    return Case(kind, scale, power, *(part.astype(dtype) for part in (x, y, w)))


def assert_within(found, expected, off):
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert (abs(found - expected) <= off).all()


SUMS = {
    "gaussian-1": (GAUSSIAN, -0.5, 1.0, 1, "f8"),
    "laplace-2": (LAPLACE, 0.75, 1.0, 2, "f8"),
    "power-3": (POWER, 0.75, 2.3, 3, "f8"),
    "distance-16": (DISTANCE, 1.0, 1.0, 16, "f8"),
    "root-3-single": (POWER, 0.75, 0.5, 3, "f4"),
    "steep-2-single": (POWER, 2.0**-14, 4e3, 2, "f4"),
    "gaussian-16-single": (GAUSSIAN, -0.0625, 1.0, 16, "f4"),
    "laplace-17": (LAPLACE, 0.75, 1.0, 17, "f8"),
    "gaussian-40-single": (GAUSSIAN, -0.03125, 1.0, 40, "f4"),
    "gaussian-17-single": (GAUSSIAN, -0.03125, 1.0, 17, "f4"),
}
FIELDS = {
    "laplace-2": (PULL, 0.75, 1.0, 2, "f8"),
    "coulomb-3": (INVERSE, 1.0, 1.5, 3, "f8"),
    "power-16-single": (POWER, 0.75, 1.0, 16, "f4"),
    "inverse-3-single": (INVERSE, 1.0, 1.3, 3, "f4"),
    "coulomb-17": (INVERSE, 1.0, 8.5, 17, "f8"),
    "gaussian-40-single": (GAUSSIAN, -0.03125, 1.0, 40, "f4"),
}
SIZES = [(131, 133), (1, 2 * CHUNK + 33), (65, 1)]  # no multiples of tiles, chunks or runs; one of either


def assert_refuted(found, one, question):
    """The same points with one of them, or a part in a thousand of the scale, left out are told apart."""
    for other in (
        Case(one.kind, one.scale, one.power, one.x, one.y[:-1], one.w[:-1]),
        Case(one.kind, 0.999 * one.scale, one.power, one.x, one.y, one.w),
    ):
        with pytest.raises(AssertionError):
            assert_within(found, *getattr(other, question)())


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", SUMS)
def test_sums_are_those_of_long_double_to_roundings(cupy, name, sizes):
    one = case(*SUMS[name], *sizes)
    found = pair_sums.row_sums(*one.on(cupy)).get()
    assert_within(found, *one.sums())
    assert_refuted(found, one, "sums")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_those_of_long_double_to_roundings(cupy, name, sizes):
    one = case(*FIELDS[name], *sizes)
    found = pair_sums.field(*one.on(cupy)).get()
    assert_within(found, *one.field())
    assert_refuted(found, one, "field")


def test_values_of_all_pairs_are_those_of_long_double_to_roundings(cupy):
    one = case(LAPLACE, 0.75, 1.0, 2, "f8", 70, 129)
    kind, scale, power, x, y, _ = one.on(cupy)
    found = pair_sums.values(kind, scale, power, x, y).get()
    assert_within(found, one.k, one.k * one.off)
    square = pair_sums.values(kind, scale, power, x, x).get()
    assert (square == square.T).all()
    assert (np.diag(square) == 1).all()


# ---------------------------------------------------------------------- what nothing depends on


def asked(cupy, name):
    """A sum and a field, narrow or wide, of a case over two chunks."""
    kind, scale, power, dim, dtype = (SUMS | {"wide": SUMS["laplace-17"]})[name]
    one = case(kind, scale, power, dim, dtype, 65 if dim > 16 else 129, CHUNK + 40)
    *settings, x, y, w = one.on(cupy)
    field = PULL if kind == LAPLACE else kind, *settings[1:]
    return lambda rows: (
        pair_sums.row_sums(*settings, x[rows], y, w).get(),
        pair_sums.field(*field, x[rows], y, w).get(),
    )


ALL = slice(None)


@pytest.mark.parametrize("name", ["laplace-2", "root-3-single", "wide"])
def test_no_sum_depends_on_what_is_computed_beside_it(cupy, name):
    sums = asked(cupy, name)
    whole, part = sums(ALL), sums(slice(62, 65))
    for one, few in zip(whole, part, strict=True):
        assert (one[62:65] == few).all()
        assert (one[61:64] != few).any()


@pytest.mark.parametrize(("name", "small"), [("laplace-2", 8_000), ("wide", 1_000_000)])
def test_no_sum_depends_on_the_order_of_threads_the_device_or_its_memory(name, small, monkeypatch):
    monkeypatch.setattr(pair_sums, "FILLED", 1)
    with standing_in() as cupy:
        sums = asked(cupy, name)
        expected = sums(ALL)
        for order in ("forward", "backward"):
            cupy.state.order = order
            assert all((a == b).all() for a, b in zip(sums(ALL), expected, strict=True))
        seen = []
        for processors, total in ((1, 2**33), (500, 2**33), (1, small)):
            monkeypatch.setattr(cupy.cuda.Device, "attributes", {"MultiProcessorCount": processors})
            cupy.state.total, cupy.state.launches[:] = total, []
            assert all((a == b).all() for a, b in zip(sums(ALL), expected, strict=True))
            seen.append((max(grid[1] for _, grid, *_ in cupy.state.launches), len(cupy.state.launches)))
        (one, many), (both, few), (still_one, most) = seen
        assert (one, both, still_one) == (1, 2, 1)  # a chunk after the other, both together, and points in parts
        assert few < many < most
        monkeypatch.setattr(cupy.cuda.Device, "attributes", {"MultiProcessorCount": 500})
        monkeypatch.setattr(pair_sums, "MOST_ROWS", 1)
        cupy.state.total, cupy.state.launches[:] = 2**33, []
        sums(slice(3))
        assert {grid[1] for _, grid, *_ in cupy.state.launches} == {1}


@pytest.mark.parametrize("name", ["laplace-2", "wide"])
def test_blocks_that_take_several_tiles_in_turn_leave_none_out(name, monkeypatch):
    with standing_in() as cupy:
        sums = asked(cupy, name)
        expected = sums(ALL)
        monkeypatch.setattr(device, "WAVES", 1)
        monkeypatch.setattr(cupy.cuda.Device, "attributes", {"MultiProcessorCount": 1})
        cupy.state.launches[:] = []
        assert all((a == b).all() for a, b in zip(sums(ALL), expected, strict=True))
        assert {grid[0] for _, grid, *_ in cupy.state.launches} == {1}


def test_a_device_too_small_for_one_point_says_what_is_needed():
    with standing_in() as cupy:
        one = case(*FIELDS["coulomb-17"], 3, 9).on(cupy)
        cupy.state.total = 1000
        with pytest.raises(MemoryError, match="a sum over 9 pairs needs 1"):
            pair_sums.field(*one)


# ---------------------------------------------------------------------- ends of the range


@pytest.mark.parametrize("name", ["laplace-2", "gaussian-16-single", "laplace-17"])
def test_no_number_in_a_point_spoils_its_own_sums_only(cupy, name):
    one = case(*SUMS[name])
    *settings, x, y, w = one.on(cupy)
    field = PULL if one.kind == LAPLACE else one.kind, *settings[1:]
    clean = pair_sums.row_sums(*settings, x, y, w).get(), pair_sums.field(*field, x, y, w).get()
    one.x[7, -1] = np.nan
    x = cupy.asarray(one.x)
    for found, before in zip(
        (pair_sums.row_sums(*settings, x, y, w), pair_sums.field(*field, x, y, w)), clean, strict=True
    ):
        spoilt = np.isnan(found.get())
        assert spoilt[7].all()
        assert (found.get()[~spoilt] == np.delete(before, 7, axis=0).ravel()).all()
    one.y[5, 0] = np.nan
    assert np.isnan(pair_sums.row_sums(*settings, cupy.asarray(one.x), cupy.asarray(one.y), w).get()).all()


@pytest.mark.parametrize("dim", [2, 18])
def test_near_points_keep_their_distance_and_far_ones_are_nothing_or_infinitely_far(cupy, dim):
    near = np.zeros((2, dim))
    near[:, 0] = 1e8, 1e8 + 2.0**-20
    x, w = cupy.asarray(near), cupy.asarray(np.array([0.0, 1.0]))
    assert pair_sums.row_sums(DISTANCE, 1.0, 1.0, x, x, w).get()[:, 0].tolist() == [2.0**-20, 0.0]
    pulls = pair_sums.field(INVERSE, 1.0, dim / 2, x, x, w).get()
    assert pulls[:, 0].tolist() == [-(2.0 ** (20 * (dim - 1))), 0.0]
    far = np.zeros((3, dim))
    far[:, 0] = 0, 1e3, 1e200
    x, w = cupy.asarray(far), cupy.ones(1)
    assert pair_sums.row_sums(GAUSSIAN, -1.0, 1.0, x, x[:1], w).get()[:, 0].tolist() == [1, 0, 0]
    assert pair_sums.row_sums(DISTANCE, 1.0, 1.0, x, x[:1], w).get()[:, 0].tolist() == [0, 1e3, np.inf]
    assert pair_sums.field(INVERSE, 1.0, dim / 2, x, x[:1], w).get()[2].tolist() == [0] * dim


@pytest.mark.parametrize("dim", [2, 18])
def test_many_terms_of_single_precision_lose_nothing(cupy, dim):
    count = 6_000
    x, y = np.zeros((1, dim), "f4"), np.zeros((count, dim), "f4")
    x[0, 0], w = 3, np.full(count, 0.1, "f4")
    found = pair_sums.row_sums(DISTANCE, 1.0, 1.0, *(cupy.asarray(part) for part in (x, y, w))).get()[0]
    exact = np.float64(w[0]) * count * np.array([3, 9])
    assert (abs(found / exact - 1) <= (RUN + 3) * 2.0**-24).all()
    one_by_one = np.cumsum(np.full(count, 3 * w[0], "f4"), dtype="f4")[-1]
    assert abs(one_by_one / exact[0] - 1) > (RUN + 3) * 2.0**-24
    # runs of ones and of numbers that are nothing beside them, both without rounding: so is their sum
    x[0, 0], w[:] = 1, np.where(np.arange(count) // 64 % 2, 2.0**-30, 1)
    three = [cupy.asarray(part) for part in (x, y, w)]
    exact = float(w.sum(dtype=np.float64))
    assert exact % 1 > 0
    assert pair_sums.row_sums(DISTANCE, 1.0, 1.0, *three).get()[0].tolist() == [exact, exact]
    assert pair_sums.field(INVERSE, 1.0, 1.0, *three).get()[0, :2].tolist() == [exact, 0]


@pytest.mark.parametrize("dim", [3, 20])
def test_no_points_have_no_sums_and_sums_over_none_are_0(cupy, dim):
    some, none, one = (cupy.asarray(np.ones((count, dim))) for count in (5, 0, 1))
    assert pair_sums.row_sums(GAUSSIAN, -1.0, 1.0, none, one, one[:, 0]).shape == (0, 2)
    assert pair_sums.field(GAUSSIAN, -1.0, 1.0, none, one, one[:, 0]).shape == (0, dim)
    assert (pair_sums.row_sums(GAUSSIAN, -1.0, 1.0, some, none, none[:, 0]).get() == np.zeros((5, 2))).all()
    assert (pair_sums.field(GAUSSIAN, -1.0, 1.0, some, none, none[:, 0]).get() == np.zeros((5, dim))).all()
