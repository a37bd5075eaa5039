"""Sources of kernels, compiled by the system's compiler for the processor; kept in a folder of the temporary files."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HEADER = Path(__file__).with_name("emulator.h")
FLAGS = ("-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-w")
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


class CompileError(RuntimeError):
    """What the compiler said."""


@cache
def library(source: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels of a source, compiled with options of NVRTC, of which definitions are heeded."""
    if COMPILER is None:
        raise CompileError("no C++ compiler: neither g++ nor clang++ is there")
    defined = tuple(option for option in options if option.startswith("-D"))
    names = KERNEL.findall(source)
    text = "\n".join([f'#include "{HEADER}"', source, *(f"EMULATE({name})" for name in names), ""])
    told = "\0".join([COMPILER, text, HEADER.read_text(), *FLAGS, *defined])
    folder = Path(tempfile.gettempdir()) / f"refdiff-emulator-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    made = folder / f"{hashlib.sha256(told.encode()).hexdigest()}.so"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            code, out = Path(place) / "kernels.cpp", Path(place) / "kernels.so"
            code.write_text(text)
            command = [COMPILER, *FLAGS, *defined, str(code), "-o", str(out)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode != 0:
                raise CompileError(run.stderr)
            out.replace(made)  # at once: other processes may be about to do the same
    found = ctypes.CDLL(str(made))
    for name in names:
        getattr(found, f"emulate_{name}").restype = ctypes.c_char_p
    return found
