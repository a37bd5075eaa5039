"""How kernels are kept, announced and called in threads."""

import os
import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np
import pytest
from numba import config

from refdiff.kernels.numba import compiling
from refdiff.kernels.numba.compiling import blocks, compiled, inlined, shared

INTERPRETED = bool(config.DISABLE_JIT)


@inlined
def doubled(x):
    return 2 * x


@shared
def half_of_the_square(x):
    return x * x / 2


@compiled
def count(first, last, visits, starts):
    for block in range(first, last):
        visits[block] += half_of_the_square(doubled(1.0)) / 2
        starts[block] = first


@compiled
def stumble(first, last, visits, bad):
    for block in range(first, last):
        if block == bad:
            raise ValueError("this block has no answer")
        visits[block] += 1


# ---------------------------------------------------------------------- blocks


def test_every_block_is_done_once_whatever_the_threads():
    for threads in (1, 2, 3, 7, 64):
        for blocks_ in (0, 1, 2, 3, 5, 8, 17, 64, 100):
            visits, starts, seen = np.zeros(blocks_), np.zeros(blocks_, np.int64), []
            blocks(count, blocks_, visits, starts, threads=threads, progress=lambda *pair, seen=seen: seen.append(pair))
            assert np.array_equal(visits, np.ones(blocks_))
            done = [number for number, _ in seen]
            assert {total for _, total in seen} <= {blocks_}
            assert done == sorted(set(done))
            assert done[-1:] == [blocks_] * (blocks_ > 0)
            # so many shares that threads end together: at least 8 each where there are as many blocks
            assert len(set(starts.tolist())) >= min(blocks_, 8 * min(threads, max(blocks_, 1)))


def test_without_a_number_of_threads_numbas_number_is_taken(monkeypatch):
    assert compiling.thread_count() >= 1
    assert compiling.thread_count(5) == 5
    asked = []
    monkeypatch.setattr(compiling, "thread_count", lambda threads: asked.append(threads) or 2)
    visits, starts = np.zeros(9), np.zeros(9, np.int64)
    blocks(count, 9, visits, starts)
    assert asked == [None]
    assert np.array_equal(visits, np.ones(9))


def test_odd_numbers_of_threads_are_one():
    for threads in (0, -3):
        visits, starts = np.zeros(5), np.zeros(5, np.int64)
        blocks(count, 5, visits, starts, threads=threads)
        assert np.array_equal(visits, np.ones(5))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("bad", [0, 13, 39])
def test_an_exception_in_a_kernel_is_raised_and_ends_the_work(threads, bad):
    visits = np.zeros(40)
    with pytest.raises(ValueError, match="this block has no answer"):
        blocks(stumble, 40, visits, bad, threads=threads)
    assert visits[bad] == 0
    assert visits.max(initial=0) <= 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    blocks(stumble, 40, visits, -1, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_stops_what_has_not_begun(threads, error):
    """Progress runs in the caller's thread, where an interrupt arrives too."""
    visits, starts, seen = np.zeros(400), np.zeros(400, np.int64), []

    def interrupt(done, _):
        assert threading.current_thread() is threading.main_thread()
        seen.append(done)
        raise error

    with pytest.raises(error):
        blocks(count, 400, visits, starts, threads=threads, progress=interrupt)
    assert len(seen) == 1
    assert visits.sum() >= seen[0]
    assert visits.max() <= 1
    if threads == 1:
        assert visits.sum() == seen[0] < 400


# ---------------------------------------------------------------------- what is kept


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_kernels_release_the_interpreters_lock_and_divide_as_numpy_does():
    assert count.targetoptions["nogil"]
    assert count.targetoptions["error_model"] == "numpy"
    assert count.targetoptions["fastmath"] == {"contract"}
    assert not count.targetoptions.get("parallel")


def package(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_the_folder_is_named_after_the_contents_of_all_sources(tmp_path, monkeypatch):
    files = {"compiling.py": "a", "parts.py": "b", "more.py": "", "notes.txt": "c"}
    package(tmp_path, files)
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    name = compiling._fingerprint()
    assert compiling._fingerprint() == name
    assert len(name) == 12
    changes = [
        {"parts.py": "B"},
        {"more.py": "\n"},
        {"compiling.py": ""},
        {"new.py": ""},
        {"parts.py": "", "more.py": "b"},
    ]
    names = {name}
    for change in changes:
        package(tmp_path, change)
        names.add(compiling._fingerprint())
        for path in tmp_path.glob("*.py"):
            path.unlink()
        package(tmp_path, files)
        assert compiling._fingerprint() == name
    assert len(names) == 1 + len(changes)
    package(tmp_path, {"notes.txt": "other"})  # no source
    assert compiling._fingerprint() == name


def test_kernels_are_kept_below_numbas_folder_or_this_package(tmp_path, monkeypatch):
    name = f"refdiff-{compiling._fingerprint()}"
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    assert compiling._kept() == str(tmp_path / "cache" / name)
    assert (tmp_path / "cache" / name).is_dir()
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(compiling.os, "makedirs", lambda *_, **__: None)
    monkeypatch.setattr(compiling.os, "access", lambda *_: True)
    kept = compiling.Path(compiling._kept())
    assert kept.name == name
    assert kept.parent.parent == compiling.Path(compiling.__file__).parent


def test_without_a_folder_that_can_be_written_nothing_is_kept(tmp_path, monkeypatch):
    """A kernel kept where Numba alone chooses might have parts of another version."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(config, "CACHE_DIR", str(blocked))
    assert compiling._kept() == ""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling.os, "access", lambda *_: False)
    assert compiling._kept() == ""


def test_the_users_cache_serves_where_the_package_cannot_be_written(tmp_path, monkeypatch):
    made = os.makedirs
    here = str(compiling.Path(compiling.__file__).parent)

    def refuse(path, **options):
        if path.startswith(here):
            raise PermissionError(path)
        made(path, **options)

    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling.os, "makedirs", refuse)
    assert compiling.Path(compiling._kept()).parent == tmp_path


def test_decorating_leaves_numbas_folder_as_it_was(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def kernel(first, last, a):
        for block in range(first, last):
            a[block] = 1

    made = compiled(kernel)
    assert str(tmp_path) == config.CACHE_DIR
    if not INTERPRETED:
        assert made._cache.cache_path.startswith(compiling._FOLDER)


# ---------------------------------------------------------------------- what is said


class Clock:
    """In the place of threading.Timer: one that runs out at once, or never."""

    def __init__(self):
        self.impatient, self.started, self.cancelled, self.function = False, [], 0, None

    def __call__(self, seconds, function):
        self.started.append(seconds)
        self.function = function
        return self

    def start(self):
        if self.impatient:
            self.function()

    def cancel(self):
        self.cancelled += 1


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(compiling.threading, "Timer", made)
    monkeypatch.setattr(compiling, "_told", threading.Event())
    return made


def test_only_what_takes_long_is_announced_and_only_on_stderr(clock, capfd):
    with compiling.patience():
        pass
    assert capfd.readouterr() == ("", "")
    clock.impatient = True
    with compiling.patience():
        pass
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("refdiff: compiling kernels")
    assert err.count("\n") == 1
    assert clock.started == [compiling.PATIENCE] * 2
    assert clock.cancelled == 2
    with pytest.raises(RuntimeError), compiling.patience():
        raise RuntimeError
    assert clock.cancelled == 3
    assert capfd.readouterr() == ("", "")  # it has been said


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")
def test_only_a_first_call_is_announced(clock, capfd):
    def kernel(first, last, a):
        for block in range(first, last):
            a[block] += 1

    fresh, a = compiling.numba.njit(kernel), np.zeros(3)
    clock.impatient = True
    blocks(fresh, 3, a)
    assert "compiling kernels" in capfd.readouterr().err
    blocks(fresh, 3, a)
    assert capfd.readouterr().err == ""
    compiling._told.clear()
    blocks(fresh, 3, np.zeros(3, np.float32))
    assert "compiling kernels" in capfd.readouterr().err
    assert np.array_equal(a, [2, 2, 2])
    assert len(clock.started) == 2


KERNEL = """
from refdiff.kernels.numba.compiling import blocks, compiled
import numpy as np

@compiled
def squares(first, last, a):
    for block in range(first, last):
        a[block] = block * block

a = np.zeros(100)
blocks(squares, 100, a, threads=2)
assert np.array_equal(a, np.arange(100.0) ** 2)
if hasattr(squares, "stats"):
    print(sum(squares.stats.cache_hits.values()))
"""


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path):
    """Both find an empty folder: one compiles and writes there, the other waits and reads, and one after them too."""
    (tmp_path / "kernel.py").write_text(KERNEL)
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "kernel.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": variables, "cwd": tmp_path}
    together = [subprocess.Popen(command, **pipes) for _ in range(2)]
    answers = [process.communicate() for process in together]
    assert [process.returncode for process in together] == [0, 0], answers
    if not INTERPRETED and find_spec("fcntl"):  # else each compiles
        assert sorted(out for out, _ in answers) == ["0\n", "1\n"]
    after = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path)
    assert after.returncode == 0, after.stderr
    if not INTERPRETED:
        assert after.stdout == "1\n"
        kept = list((tmp_path / "cache").rglob("*.nbc"))
        assert kept
        assert all(compiling._fingerprint() in str(path) for path in kept)
