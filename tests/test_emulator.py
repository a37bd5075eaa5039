"""The emulator runs kernels that are right, and finds each kind of defect in others that are wrong."""

import ctypes
import faulthandler
import mmap
from pathlib import Path

import numpy as np
import pytest
from emulator import building
from emulator.building import COMPILER, patterns
from emulator.cupy import standing_in
from emulator.memory import protect

from refdiff.kernels.cuda import device

FOLDER = Path(device.__file__).parent
TOYS = Path(__file__).with_name("emulator") / "toys.cu"
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no emulator: neither g++ nor clang++ is installed")


@pytest.fixture
def cp():
    with standing_in() as module:
        yield module


@pytest.fixture
def toy(cp):
    """A toy by its name, called with arguments, in one block of 64 threads with shared memory of a double for each."""
    common = device.source("philox").split("struct Words")[0]
    module = cp.RawModule(code=common + TOYS.read_text(), options=device.options(np.float64))

    def run(name, *arguments, grid=1, block=64, shared=None):
        module.get_function(name)((grid,), (block,), arguments, shared_mem=8 * block if shared is None else shared)

    return run


# ---------------------------------------------------------------------- what is right


@pytest.mark.parametrize("order", ["random", "forward", "backward"])
@pytest.mark.parametrize("block", [1, 7, 64, 1024])
def test_blocks_sum_whatever_the_order_and_the_number_of_threads(cp, toy, order, block):
    cp.state.order = order
    x, out = np.arange(1.0, 2001), cp.empty(-(-2000 // block))
    toy("block_sums", cp.asarray(x), np.int32(2000), out, grid=out.size, block=block)
    padded = np.pad(x, (0, out.size * block - 2000)).reshape(-1, block)
    assert (out.get() == padded.sum(axis=1)).all()


def test_two_barriers_a_step_make_a_scan(cp, toy):
    x, out = np.arange(100, dtype=np.int32) ** 2, cp.empty(100, np.int32)
    toy("scan", cp.asarray(x), out, block=100)
    assert (out.get() == x.cumsum()).all()


def test_warps_sum_by_shuffles_and_who_is_not_there_is_no_number(cp, toy):
    x, out = np.arange(72.0), cp.empty(72)
    toy("warp_sums", cp.asarray(x), out, block=72)
    expected = np.repeat([x[:32].sum(), x[32:64].sum()], 32)
    assert (out.get()[:64] == expected).all()
    assert np.isnan(out.get()[64:]).all()


def test_shuffles_and_votes_of_warps_keep_to_their_groups(cp, toy):
    out = cp.empty((80, 6), np.int32)
    toy("shuffles", out, block=80)
    t = np.arange(80)
    lane = t % 32
    up, down, first, ballot, some, every = out.get().T
    assert (up == np.where(lane >= 3, t - 3, t)).all()
    assert (down == np.where(t % 8 < 5, t + 3, t)).all()
    assert (first == t // 8 * 8 + 5).all()
    assert (
        ballot.astype(np.uint32) == [sum(1 << k % 32 for k in t if k // 32 == i // 32 and k % 3 == 0) for i in t]
    ).all()
    assert (some == ((lane >= 16) & (t < 64))).all()  # there is no lane 20 in a warp of 16
    assert (every == (t < 32)).all()


@pytest.mark.parametrize("yes", [0, 1, 63, 64])
def test_barriers_count_votes(cp, toy, yes):
    out = cp.empty(64, np.int32)
    toy("votes", cp.asarray((np.arange(64) < yes).astype(np.int32)), out)
    assert (out.get() == yes * 4 + (yes > 0) * 2 + (yes == 64)).all()


def test_orders_are_what_they_are_called_and_seeds_differ(cp, toy):
    def turns(order, seed):
        cp.state.order, cp.state.seed = order, seed
        out = cp.empty(192, np.int32)
        toy("turns", cp.zeros(1, dtype=np.int32), out, grid=3)
        return out.get()

    assert (turns("forward", 1) == np.arange(192)).all()
    assert (turns("backward", 1) == np.arange(191, -1, -1)).all()
    first, again, other = turns("random", 1), turns("random", 1), turns("random", 2)
    assert (np.sort(first) == np.arange(192)).all()
    assert (first == again).all()
    assert (first != other).any()


def test_a_fence_of_a_warp_orders_its_memory_and_a_shuffle_or_nothing_does_not(cp, toy):
    out = cp.empty(64, np.int32)
    toy("neighbours", np.int32(1), out)
    assert (out.get() == (np.arange(64) ^ 1)).all()
    with pytest.raises(RuntimeError, match=r"race|before it is written"):
        toy("neighbours", np.int32(0), out)


def test_what_no_kernel_wrote_is_no_number(cp, toy):
    out = cp.empty(10)
    toy("fill", out, np.int32(7), np.float64(2))
    assert (out.get()[:7] == 2).all()
    assert np.isnan(out.get()[7:]).all()


# ---------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("order", ["random", "forward", "backward"])
def test_races_are_found_in_every_order(cp, toy, order):
    cp.state.order = order
    x, out = cp.asarray(np.arange(256.0)), cp.empty(256)
    with pytest.raises(RuntimeError, match=r"a race for byte .* of shared memory 0: thread .* of the same block"):
        toy("reversed_without_barrier", x)
    with pytest.raises(
        RuntimeError, match=r"a race for byte .* of shared memory 0: thread .* (writes|reads) what .* (reads|writes)"
    ):
        toy("tiles_without_second_barrier", x, np.int32(256), out)
    with pytest.raises(RuntimeError, match=r"a race for byte 0 of shared memory 0: thread .* writes what .* writes"):
        toy("same_word_of_all", out, np.int32(1))
    with pytest.raises(RuntimeError, match=r"a race for byte 0 of argument 0: thread .* of the same block"):
        toy("same_word_of_all", out, np.int32(0))
    with pytest.raises(RuntimeError, match=r"a race for byte 0 of argument 0: thread .* of another block"):
        toy("same_word_of_all", out, np.int32(0), grid=2, block=1)
    with pytest.raises(RuntimeError, match="a race for byte 0 of argument 0"):
        toy("sum_without_atomics", cp.zeros(1), grid=2, block=1)


def test_one_thread_does_not_race_and_one_tile_needs_no_second_barrier(cp, toy):
    out = cp.zeros(64)
    toy("sum_without_atomics", out, block=1)
    toy("sum_without_atomics", out, block=1)  # kernels in one stream run after each other
    assert out.get()[0] == 2
    toy("tiles_without_second_barrier", cp.asarray(np.arange(64.0)), np.int32(64), out)
    assert (out.get() == 64 * 63 / 2).all()


@pytest.mark.parametrize("place", [-1, 5, 6, 600, 10**9])
def test_nothing_is_read_or_written_beside_an_array(cp, toy, place):
    long = cp.asarray(np.arange(20.0))
    for x in (cp.zeros(5), long[5:10]):  # memory of its own, and a part of another array's
        for name, arguments in [("touch", (cp.empty(64),)), ("touch_written", ())]:
            with pytest.raises(
                RuntimeError, match=r"argument 0, an array of 40 bytes, is touched|no argument's is touched"
            ):
                toy(name, x, np.int32(place), *arguments)
    toy("touch", long[5:10], np.int32(4), out := cp.empty(64))
    assert (out.get() == 9).all()
    assert (long.get() == np.arange(20)).all()


@pytest.mark.parametrize("place", [-1, 64, 65, 10**5, 10**8])
def test_nothing_is_read_or_written_beside_shared_memory(cp, toy, place):
    for write in (0, 1):
        with pytest.raises(RuntimeError, match=r"shared memory of 512 bytes is touched|no argument's is touched"):
            toy("touch_shared", np.int32(place), np.int32(write), cp.empty(64))
    toy("touch_shared", np.int32(0), np.int32(0), cp.empty(64), block=1)


def test_what_was_not_set_is_not_taken_for_nothing(cp, toy):
    out = cp.empty(64)
    with pytest.raises(RuntimeError, match="shared memory is read at byte 0 before it is written"):
        toy("shared_not_set", out)
    if patterns():
        toy("local_not_set", cp.asarray(np.ones(64)), out)
        assert (abs(out.get()) > 1e100).all()


def test_what_does_not_fit_in_a_threads_stack_is_found_and_nothing_beneath_it_is_touched(cp, monkeypatch):
    pool = mmap.mmap(-1, 5 * building.STACK)  # zeros; one stack, and more beneath it than the frame is long
    building._kept.append(pool)
    own = ctypes.addressof(ctypes.c_char.from_buffer(pool)) + 4 * building.STACK
    protect(own)
    monkeypatch.setattr(building, "stacks", lambda: own)
    code = device.source("philox").split("struct Words")[0] + TOYS.read_text()
    module = cp.RawModule(code=code, options=(*device.options(np.float64), "-DONE_STACK"))  # a library of its own
    with pytest.raises(RuntimeError, match="memory that is no argument's is touched"):
        module.get_function("too_much_of_its_own")((1,), (1,), (cp.zeros(64), np.int32(10**5), cp.empty(64)))
    assert not any(pool[: 4 * building.STACK])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("barrier_for_some", (np.int32(63),), "threads ended where others wait at a barrier"),
        ("barriers_apart", (), "threads wait for each other at different places"),
        ("warp_for_some", (), "threads of a warp ended where others wait for them"),
        ("not_in_its_mask", (), "a thread is not in its own mask"),
    ],
)
def test_threads_that_wait_in_vain_are_found(toy, name, arguments, said):
    with pytest.raises(RuntimeError, match=f"{said}, line"):
        toy(name, *arguments)


def test_a_warp_that_ends_leaves_others_waiting_at_a_barrier(cp, toy):
    with pytest.raises(RuntimeError, match="threads ended where others wait at a barrier"):
        toy("barrier_and_shuffle", cp.empty(64, np.int32))


def test_arguments_have_the_number_and_sizes_that_kernels_want(cp, toy):
    out = cp.empty(10)
    with pytest.raises(RuntimeError, match="2 arguments are given, and 3 wanted"):
        toy("fill", out, np.int32(7))
    with pytest.raises(RuntimeError, match="argument 1 has 8 bytes, and 4 are wanted"):
        toy("fill", out, 7, np.float64(2))  # a Python integer has 8
    with pytest.raises(RuntimeError, match="argument 2 has 4 bytes, and 8 are wanted"):
        toy("fill", out, np.int32(7), np.float32(2))
    with pytest.raises(ValueError, match="contiguous"):
        toy("fill", out[::2], np.int32(5), np.float64(2))
    with pytest.raises(AttributeError, match="no kernel nothing"):
        toy("nothing")


def test_launches_have_the_limits_of_devices(cp, toy):
    out = cp.empty(10)
    arguments = out, np.int32(7), np.float64(2)
    with pytest.raises(RuntimeError, match="a block has 1 to 1024 threads"):
        toy("fill", *arguments, block=1025, shared=0)
    with pytest.raises(ValueError, match="at most 49152 bytes"):
        toy("fill", *arguments, shared=49153)
    with pytest.raises(ValueError, match="InvalidConfiguration"):
        toy("fill", *arguments, grid=0)
    toy("bounded", some := cp.zeros(48, np.int32), block=48)
    assert (some.get() == 1).all()
    with pytest.raises(ValueError, match="bounded is compiled for blocks of at most 48 threads"):
        toy("bounded", cp.zeros(49, np.int32), block=49)


@pytest.mark.parametrize("place", [1, 3])
def test_numbers_are_at_multiples_of_their_size(toy, place):
    toy("not_aligned", np.int32(place - 1), block=1, shared=32)
    with pytest.raises(RuntimeError, match="a number of 8 bytes is not at a multiple of them"):
        toy("not_aligned", np.int32(place), block=1, shared=32)


def test_no_kernel_has_atomics_for_their_order_is_not_looked_at():
    assert "atomic" in TOYS.read_text()
    for path in FOLDER.glob("*.cu*"):
        assert "atomic" not in path.read_text(encoding="utf-8"), path.name


def test_after_an_error_the_next_launch_is_as_good_as_new(cp, toy):
    out, x = cp.empty(1), cp.asarray(np.ones(64))
    before = faulthandler.is_enabled()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="touched"):
            toy("touch_written", x, np.int32(10**9))
        with pytest.raises(RuntimeError, match="ended"):
            toy("barrier_for_some", np.int32(3))
        toy("block_sums", x, np.int32(64), out)
        assert out.get()[0] == 64
    assert faulthandler.is_enabled() == before
