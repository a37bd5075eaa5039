"""The adaptive kernels of the device against the kernel of the CPU, step by step, and against closed flows."""

from weakref import ref

import numpy as np
import pytest
from emulator.cupy import standing_in
from numba import config

from refdiff.dynamics import circle
from refdiff.dynamics.stepping import Steps
from refdiff.kernels.cuda import adaptive, device, stepping
from refdiff.kernels.cuda.mixture import Mixture
from refdiff.kernels.numba import adaptive as on_cpu
from refdiff.kernels.numba import laws
from refdiff.kernels.numba.compiling import blocks
from refdiff.kernels.numba.tiles import LANES

jitted = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="the CPU's kernel takes hours without compilation")
NOISE, DATA = np.pi / 2, 0.0  # angles of the circle
RTOL = 1e-6
# How far two runs with the same steps are apart, in rtol: rounding errors of slopes, some 50 units for logits of that
# size, are a relative 1e-8 of a step's estimated error, and so of its length to the eighth power; what a run misses the
# flow by, up to 300 rtol, changes by as much; log p is steeper than the points by 1 over the least scale, 10 to 100.
APART = 1e-3


def law(kind, dim, count=5):
    rng = np.random.default_rng(dim)
    parts = {"one": (1, 1), "isotropic": (count, 1), "axes": (count, dim), "turned": (1, dim), "full": (count, dim)}
    turns = {"turned": 1, "full": count}.get(kind, 0)
    bases = np.array([np.linalg.qr(rng.normal(size=(dim, dim)))[0] for _ in range(turns)]).reshape(turns, dim, dim)
    means, variances = rng.normal(size=(count, dim)), 10 ** rng.uniform(-1.5, 0, parts[kind])
    return laws.Mixture(means, variances, np.log(rng.dirichlet(np.full(count, 5.0))), bases)


def place(angle):
    return np.cos(angle), 2 * np.sin(angle / 2) ** 2, 1.0


def way(parts, start, end, rtol=RTOL, attempts=1000):
    return circle.way(parts, place(start), place(end), Steps("dop853", rtol, 1e-2 * rtol, attempts))


def there(cupy, y, parts, where, method="dop853", log=False, kind="f8", pair=None):
    """On the device: y, the change of log p, counts of groups, and the u that they reached; NumPy's."""
    sent = Mixture(*(cupy.asarray(part.astype(kind)) for part in parts))
    found = adaptive.flow(cupy.asarray(y.astype(kind)), pair or circle.pair(method), where, sent, log)
    return found.y.get(), found.change.get() if log else None, found.counts, found.reached


def here(y, parts, where, method="dop853", log=False):
    """On the CPU."""
    count = -(-len(y) // LANES)
    out, change = np.full_like(y, np.nan), np.full(len(y), np.nan) if log else None
    counts, reached = np.full((count, 4), -1), np.full(count, np.nan)
    blocks(on_cpu.flow, count, y, circle.pair(method), where, parts, out, change, counts, reached)
    return out, change, counts, reached


def points(n, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim))


def assert_same_run(found, expected):
    assert np.array_equal(found[2], expected[2])
    assert np.array_equal(found[3], expected[3])
    for one, other in zip(found[:2], expected[:2], strict=True):
        if other is not None:
            assert abs(one - other).max() <= APART * RTOL * max(1.0, abs(other).max())


CASES = [
    ("isotropic", 1, 1, "dopri5", False),
    ("isotropic", 2, 300, "dop853", True),
    ("one", 2, 129, "dopri5", True),
    ("axes", 3, 128, "dop853", False),
    ("turned", 3, 5, "dopri5", True),
    ("full", 2, 7, "dop853", True),
    ("one", 16, 3, "dop853", False),
    ("isotropic", 40, 5, "dopri5", True),  # more axes than a warp has threads, which sum them
    ("full", 17, 3, "dop853", False),
]


@jitted
@pytest.mark.parametrize(("kind", "dim", "n", "method", "log"), CASES)
def test_steps_are_those_of_the_cpu_and_points_to_rounding(cupy, kind, dim, n, method, log):
    parts, y = law(kind, dim), points(n, dim)
    start, end = (NOISE, DATA) if dim < 17 else (1.0, 0.6)  # whose kernels the emulator takes longer for
    where = way(parts, start, end)
    found = there(cupy, y, parts, where, method, log)
    assert_same_run(found, here(y, parts, where, method, log))
    assert (found[3] == where.end).all()
    assert (found[2][:, on_cpu.STEPS] > 2).all()
    # the control: another tolerance by a tenth, which leads to about as many steps elsewhere
    with pytest.raises(AssertionError):
        assert_same_run(found, here(y, parts, way(parts, start, end, 1.1 * RTOL), method, log))


@jitted
@pytest.mark.parametrize(
    ("was", "wrong"),
    [
        ("rate * c : -rate * c)", "rate * c : rate * c)"),
        ("real(0.01) * third", "real(0.1) * third"),
        ("sums.axes /= DIM;", ""),
        ("fma(nodes[slot], walk.h, walk.u)", "walk.u"),
    ],
)
def test_a_wrong_line_of_the_kernel_is_told_apart(cupy, monkeypatch, was, wrong):
    parts, y = law("isotropic", 2), points(3, 2)
    where = way(parts, 1.0, 0.5)
    expected = here(y, parts, where)
    source = device.source("adaptive")
    assert source.count(was) == 1
    assert_same_run(there(cupy, y, parts, where), expected)
    monkeypatch.setattr(device, "_modules", {})
    monkeypatch.setattr(device, "source", lambda _: source.replace(was, wrong))
    with pytest.raises(AssertionError):
        assert_same_run(there(cupy, y, parts, where), expected)


@jitted
@pytest.mark.parametrize("dim", [2, 17])
def test_a_wrong_coefficient_of_the_pair_is_told_apart(cupy, dim):
    parts, y, right = law("isotropic", dim), points(3, dim), circle.pair("dopri5")
    where = way(parts, 1.0, 0.9)
    expected = here(y, parts, where, "dopri5")
    assert_same_run(there(cupy, y, parts, where, pair=right), expected)
    for part in ("nodes", "rows", "errors"):
        table = getattr(right, part).copy()
        table.flat[np.flatnonzero(table)[1]] *= 1 + 1e-3
        with pytest.raises(AssertionError):
            assert_same_run(there(cupy, y, parts, where, pair=right._replace(**{part: table})), expected)


@pytest.mark.parametrize("ends", [(NOISE, DATA), (DATA, NOISE)])
@pytest.mark.parametrize(("dim", "method"), [(1, "dopri5"), (2, "dop853"), (17, "dopri5")])
def test_flow_of_one_gaussian_is_affine_from_end_to_end(cupy, dim, method, ends):
    parts = law("isotropic", dim, count=1)
    before, after = (np.cos(a) ** 2 * parts.variances + np.sin(a) ** 2 for a in ends)
    centre = [np.cos(a) * parts.means for a in ends]
    y = centre[0] + np.sqrt(before) * points(4, dim)
    found, change, counts, _ = there(cupy, y, parts, way(parts, *ends), method, log=True)
    expected, exact = centre[1] + np.sqrt(after / before) * (y - centre[0]), -dim * np.log(after / before).item() / 2
    assert (counts[:, on_cpu.ENDED] == on_cpu.DONE).all()
    # as the CPU's kernel: a tolerance for each of some steps, stretched as distances are
    stretch = max(1.0, np.sqrt(after / before).max())
    bound = 30 * RTOL * stretch * max(1.0, abs(y).max(), abs(expected).max())
    assert abs(found - expected).max() <= bound
    assert abs(change - exact).max() <= 30 * RTOL * max(1.0, abs(exact))
    # the control: half the variance
    assert abs(change - exact).max() < abs(dim * np.log(2) / 4)
    assert abs(np.sqrt(0.5) * expected - found).max() > bound


def test_there_and_back(cupy):
    parts, y = law("isotropic", 2), points(3, 2)
    at_data, change, *_ = there(cupy, y, parts, way(parts, NOISE, DATA, 1e-9), log=True)
    back, undone, *_ = there(cupy, at_data, parts, way(parts, DATA, NOISE, 1e-9), log=True)
    # a tolerance for each of 50 steps, grown by a hundred between modes
    assert abs(back - y).max() < 5e-6
    assert abs(change + undone).max() < 5e-6
    assert abs(at_data - y).max() > 0.1


@pytest.mark.parametrize("dim", [2, 17])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_a_point_without_a_density_ends_its_group_before_the_first_step(cupy, dim, bad):
    parts, y = law("isotropic", dim), points(LANES + 1, dim)
    y[5, 0] = bad
    for log in (False, True):
        where = way(parts, 1.5, 1.2, 1e-3)
        out, _, counts, reached = there(cupy, y, parts, where, log=log)
        assert counts[0].tolist() == [on_cpu.TOO_SHORT, 0, 0, 2]
        assert reached[0] == where.start
        if dim == 2:
            assert counts[1, on_cpu.ENDED] == on_cpu.DONE
            assert np.isfinite(out[LANES:]).all()
            assert reached[1] == where.end


@jitted
@pytest.mark.parametrize("dim", [2, 17])
def test_a_group_whose_attempts_are_used_up_is_where_that_of_the_cpu_is(cupy, dim):
    parts, y = law("isotropic", dim), points(3, dim)
    where = way(parts, NOISE, DATA, attempts=5)
    found, expected = there(cupy, y, parts, where), here(y, parts, where)
    assert np.array_equal(found[2], expected[2])
    assert found[2][0, on_cpu.ENDED] == on_cpu.TOO_MANY
    assert where.end < found[3][0] < where.start
    # lengths of steps have eight digits, the first seven; and dy/du is a few units
    assert abs(found[3] - expected[3]).max() < 1e-6
    assert abs(found[0] - expected[0]).max() < 1e-5


@pytest.mark.parametrize(("dim", "log", "start", "end"), [(2, True, NOISE, DATA), (17, False, 1.0, 0.3)])
def test_in_single_precision_errors_are_those_of_the_steps(cupy, dim, log, start, end):
    parts, y = law("isotropic", dim), points(3, dim).astype("f4").astype(float)
    exact = there(cupy, y, parts, way(parts, start, end, 1e-8), log=log)
    errors = []
    for rtol in (1e-2, 1e-4):
        found = there(cupy, y, parts, way(parts, start, end, rtol), log=log, kind="f4")
        assert found[0].dtype == np.float32
        assert (found[2][:, on_cpu.ENDED] == on_cpu.DONE).all()
        errors.append(max(abs(a - b).max() for a, b in zip(found[:2], exact[:2], strict=True) if a is not None))
        # as errors follow tolerances on the CPU
        assert errors[-1] < 300 * rtol
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("dim", [2, 17])
def test_the_order_of_threads_changes_no_bit(dim, kind):
    parts, y, answers = law("isotropic", dim), points(LANES + 3 if dim == 2 else 3, dim), []
    for order in ("forward", "backward", "random"):
        with standing_in() as module:
            module.state.order = order
            answers.append(there(module, y, parts, way(parts, 1.0, 0.8, 1e-3), "dopri5", True, kind))
    for other in answers[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(answers[0], other, strict=True))


def test_the_room_for_slopes_bounds_the_grid_and_changes_no_bit():
    parts, y = law("isotropic", 2), points(2 * LANES + 3, 2)
    answers, grids = [], []
    for total in (10**9, 2 * LANES * 14 * 3 * 8):  # of which half may be used: one group's
        with standing_in() as module:
            module.state.total = total
            answers.append(there(module, y, parts, way(parts, 1.0, 0.3, 1e-3), log=True))
            grids += [grid[0] for name, grid, *_ in module.state.launches if name == "flow"]
    assert grids == [3, 1]
    assert all(np.array_equal(one, two) for one, two in zip(*answers, strict=True))


def test_memory_that_does_not_suffice_is_said():
    parts = law("isotropic", 2)
    with standing_in() as module:
        module.state.total = 1000
        with pytest.raises(MemoryError, match=r"the adaptive flow needs \d+ bytes"):
            there(module, points(2, 2), parts, way(parts, 1.0, 0.5))


def test_points_in_many_axes_go_in_groups_of_what_fits(monkeypatch):
    parts, y = law("isotropic", 17), points(5, 17)
    where = way(parts, 1.0, 0.8, 1e-3)
    with standing_in() as module:
        alone = [there(module, y[k : k + 2], parts, where, "dopri5", True) for k in (0, 2, 4)]
        monkeypatch.setattr(adaptive, "rows_at_once", lambda rows, *_: min(rows, 2))
        found = there(module, y, parts, where, "dopri5", True)
    for k, three in enumerate(zip(*alone, strict=True)):
        assert np.array_equal(found[k], np.concatenate(three))


def test_a_group_in_many_axes_lets_its_memory_go_before_the_next(monkeypatch):
    parts, kept, alive = law("isotropic", 17), [], []

    class Watched(stepping.Slots):
        def __init__(self, *arguments):
            alive.append(sum(one() is not None for one in kept))
            super().__init__(*arguments)
            kept.append(ref(self.numbers._block))

    monkeypatch.setattr(stepping, "Slots", Watched)
    monkeypatch.setattr(adaptive, "rows_at_once", lambda rows, *_: min(rows, 2))
    for log in (False, True):
        with standing_in() as module:
            there(module, points(5, 17), parts, way(parts, 1.0, 0.8, 1e-3), "dopri5", log)
    assert alive == [0] * 6


def test_the_table_has_a_row_for_every_purpose():
    for method, stages, errors in (("dop853", 12, 2), ("dopri5", 6, 1)):
        pair, rows = circle.pair(method), stepping.table(circle.pair(method))
        assert rows.shape == (stages + 1 + errors + 4, stages + 2)
        # weights of slopes add up to the nodes, those of errors to nothing
        sums = rows[:, :-1].sum(axis=1)
        np.testing.assert_allclose(sums[: stages + 1], pair.nodes, rtol=0, atol=1e-14)
        np.testing.assert_allclose(sums[stages + 1 : -4], 0, rtol=0, atol=1e-14)
        assert sums[-4:].tolist() == [1, 0, 1, 0]
        assert rows[:, -1].tolist() == [1] * (stages + 1) + [0] * errors + [0, 0, 1, 1]


def test_errors_of_many_axes_are_mean_squares_tempered_by_the_third_orders(cupy):
    n, dim, slopes, h, rtol, atol = 3, 70, 4, 0.3, 1e-3, 1e-5
    rng = np.random.default_rng(8)
    slots = rng.normal(size=(slopes + 2, n * (dim + 1)))
    rows = np.zeros((3, slopes + 1))  # the first is that of another question
    rows[:, :slopes] = rng.normal(size=(3, slopes)) * np.array([[7.0], [1.0], [20.0]])
    out, there = cupy.empty(n), cupy.asarray(slots)
    sizes = np.int64(n), np.int32(dim), np.int32(1), np.int32(slopes)
    asked = np.int32(1), np.int32(2), np.float64(h), np.int32(slopes + 1), np.float64(rtol), np.float64(atol)
    device.launch(device.kernel("stepping", "squares", "f8"), n * 32, there, *sizes, cupy.asarray(rows), *asked, out)

    def expected(factor):
        sizes = np.maximum(abs(slots[slopes]), abs(slots[slopes + 1]))
        sizes[n * dim :] = np.maximum(sizes[n * dim :], 1)
        squares = (h * rows[1:, :slopes] @ slots[:slopes] / (atol + rtol * sizes)) ** 2
        fifth, third = (np.stack([one[: n * dim].reshape(n, dim).mean(axis=1), one[n * dim :]]) for one in squares)
        return (fifth**2 / (fifth + factor * third)).max(axis=0)

    # sums of 70 squares of sums of 4, whatever their order
    np.testing.assert_allclose(out.get(), expected(0.01), rtol=100 * np.finfo(float).eps)
    assert (abs(out.get() / expected(0.011) - 1) > 1e-3).all()
