"""Sources of kernels, compiled by the system's compiler for the processor; kept in a folder of the temporary files."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from emulator.memory import protect

HERE = Path(__file__).parent
THREADS, STACK = 1024, 256 * 1024  # as of fibers.h
_kept: list[mmap.mmap] = []
FLAGS = ("-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-w")
FLAGS += ("-U_FORTIFY_SOURCE",)  # its longjmp does not leave a stack
FLAGS += ("-fstack-clash-protection",)  # a frame that does not fit meets its stack's first page, not what lies beneath
TELL = "-fsanitize=thread"  # of each access to memory, as a sanitizer is told
PATTERN = "-ftrivial-auto-var-init=pattern"  # what is not set is huge, not what was there: GCC has it from 12 on
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')
BOUND = re.compile(r"__launch_bounds__\((\w+)[^)]*\)\s*(\w+)\s*\(")  # the most threads of a block, and the kernel
SHOWN = 'extern "C" __attribute__((visibility("default")))'

LINUX = sys.platform == "linux"  # whose pages and signals are used
COMPILER = (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")) if LINUX else None


class CompileError(RuntimeError):
    """What the compiler said."""


@cache
def patterns() -> bool:
    """Whether the compiler has PATTERN."""
    asked = [str(COMPILER), PATTERN, "-E", "-xc++", os.devnull]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


@cache
def library(source: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels of a source, compiled with options of NVRTC, of which definitions are heeded.

    Raises:
        CompileError: as of `compiled`.
    """
    names = KERNEL.findall(source)
    after = [f"EMULATE({name})" for name in names]
    after += [f"{SHOWN} const int most_threads_{name} = {most};" for most, name in BOUND.findall(source)]
    text = "\n".join([f'#include "{HERE}/emulator.h"', "#line 1", source, *after, ""])
    defined = tuple(option for option in options if option.startswith("-D"))
    kernels = compiled(text, (*FLAGS, TELL, *[PATTERN] * patterns(), *defined, "-c"), ".o")
    runtime = compiled(f'#include "{HERE}/runtime.cpp"\n', (*FLAGS, "-O2", "-c"), ".o")
    found = ctypes.CDLL(str(compiled("", ("-shared", str(kernels), str(runtime)), ".so")))
    found.emulator_stacks(ctypes.c_void_p(stacks()))
    for name in names:
        getattr(found, f"emulate_{name}").restype = ctypes.c_char_p
    return found


@cache
def stacks() -> int:
    """Where the stacks of threads are, whose first pages must not be touched: a process has only so many of them."""
    kept = mmap.mmap(-1, THREADS * STACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _kept.append(kept)
    base = ctypes.addressof(ctypes.c_char.from_buffer(kept))
    for thread in range(THREADS):
        protect(base + thread * STACK)
    return base


def compiled(text: str, flags: tuple[str, ...], suffix: str) -> Path:
    """What the compiler makes of a text, or made of it before.

    Raises:
        CompileError: there is no compiler, the text is not to its mind, or the folder is another user's.
    """
    if COMPILER is None:
        raise CompileError("no C++ compiler: neither g++ nor clang++ is there, or this is not Linux")
    read = [(HERE / name).read_text() for name in ("emulator.h", "fibers.h", "accesses.h", "runtime.cpp")]
    key = hashlib.sha256("\0".join([COMPILER, text, *read, *flags]).encode()).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"refdiff-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # what is there would be run
        raise CompileError(f"{folder} is somebody else's")
    made = folder / f"{key}{suffix}"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            code, out = Path(place) / "code.cpp", Path(place) / "out"
            code.write_text(text)
            given = [str(code)] if text else []
            run = subprocess.run(
                [COMPILER, *flags, *given, "-o", str(out)], capture_output=True, text=True, check=False
            )
            if run.returncode != 0:
                raise CompileError(run.stderr)
            out.replace(made)  # at once: other processes may be about to do the same
    return made
