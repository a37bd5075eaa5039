"""Which GPU would be used, and why not: asked of the driver and of what is installed, without importing CuPy.

CuPy that is broken breaks no question here, and no context is made on a device: free memory is told by NVML, which
stands beside the driver. What stands in the way are sentences that say what to do.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"
DRIVER, NVML = ("nvcuda.dll", "nvml.dll") if WINDOWS else ("libcuda.so.1", "libnvidia-ml.so.1")
# CuPy's wheels by the CUDA they are built for, and who has NVRTC of each
CUPY = {12: "cupy-cuda12x", 13: "cupy-cuda13x"}
NVRTC = {12: "nvidia-cuda-nvrtc-cu12", 13: "nvidia-cuda-nvrtc"}
TESTED = (7, 5)  # the least compute capability that kernels are compiled for in tests, and CUDA 13's compiler takes
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
NO_CUPY = "CuPy is not installed: pip install 'refdiff[gpu-cuda12]', or 'refdiff[gpu-cuda13]' for CUDA 13"


@dataclass(frozen=True)
class Device:
    """One device: its name, compute capability, and bytes of memory, of which `free` where NVML says it."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int | None = None

    def __str__(self) -> str:
        memory = f"{self.total / 2**30:.1f} GiB"
        left = "" if self.free is None else f", {self.free / 2**30:.1f} GiB free"
        return f"{self.name}, compute capability {self.capability[0]}.{self.capability[1]}, {memory}{left}"


@dataclass(frozen=True)
class Driver:
    """What the CUDA driver says: the CUDA it knows, its own version where NVML says it, devices, and what is wrong."""

    cuda: tuple[int, int] | None = None
    version: str = ""
    devices: Sequence[Device] = ()
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """All that was found, and what stands in the way: where nothing does, a GPU is ready."""

    driver: Driver
    cupy: dict[str, str] = field(default_factory=dict)
    nvrtc: str = ""
    reasons: Sequence[str] = ()

    def rows(self) -> dict[str, str]:
        """Lines for people."""
        driver = self.driver
        cuda = "" if driver.cuda is None else f"CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"
        rows = {
            "driver": ", ".join(part for part in (driver.version, cuda) if part) or "none",
            "CuPy": ", ".join(f"{name} {version}" for name, version in self.cupy.items()) or "not installed",
            "NVRTC": self.nvrtc or "not found",
        }
        rows |= {f"device {number}": str(one) for number, one in enumerate(driver.devices)}
        return rows | {f"not used{f' ({i})' if i > 1 else ''}": reason for i, reason in enumerate(self.reasons, 1)}

    @property
    def verdict(self) -> str:
        """One line: ready, or not."""
        if self.reasons:
            return "not available, see GPU"
        return f"ready ({', '.join(map(' '.join, self.cupy.items()))}, {self.driver.devices[0].name})"


def look() -> Found:
    """What is here."""
    driver, cupy = asked_driver(), installed()
    built = next((cuda for cuda, name in CUPY.items() if name in cupy), None)
    nvrtc = found_nvrtc(built or 12)
    return Found(driver, cupy, nvrtc, [*_of_driver(driver), *_of_cupy(cupy, driver), *_of_nvrtc(cupy, built, nvrtc)])


def installed() -> dict[str, str]:
    """Versions of CuPy's distributions that are installed, which should be one."""
    found = {}
    for name in ("cupy", *CUPY.values()):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def found_nvrtc(cuda: int) -> str:
    """The NVRTC of this CUDA that CuPy would find, of PyPI's packages or of a toolkit; nothing where there is none."""
    with suppress(metadata.PackageNotFoundError):
        return f"{NVRTC[cuda]} {metadata.version(NVRTC[cuda])}"
    pattern = f"nvrtc64_{cuda}*.dll" if WINDOWS else f"libnvrtc.so.{cuda}*"
    roots = [os.environ.get("CUDA_PATH", ""), os.environ.get("CUDA_HOME", ""), sys.prefix, "/usr/local/cuda"]
    for folder in (Path(root) / part for root in roots if root for part in ("lib64", "lib", "bin", "bin/x64")):
        if folder.is_dir() and next(iter(sorted(folder.glob(pattern))), None):
            return f"of the toolkit in {folder.parent}"
    library = f"nvrtc64_{cuda}0_0.dll" if WINDOWS else f"libnvrtc.so.{cuda}"
    return "" if _library(library) is None else f"{library}, on the loader's path"


# ---------------------------------------------------------------------- what stands in the way


def _of_driver(driver: Driver) -> list[str]:
    if driver.problem:
        return [driver.problem]
    old = [one for one in driver.devices[:1] if one.capability < TESTED]
    return [
        f"device 0, {one.name}, has compute capability {one.capability[0]}.{one.capability[1]}, and kernels need "
        f"{TESTED[0]}.{TESTED[1]}: choose a newer device by CUDA_VISIBLE_DEVICES"
        for one in old
    ]


def _of_cupy(cupy: dict[str, str], driver: Driver) -> list[str]:
    if not cupy:
        return [NO_CUPY]
    if len(cupy) > 1:
        return [
            f"{' and '.join(cupy)} are installed and share one folder: uninstall all of them, then install the one "
            "for your CUDA"
        ]
    reasons = [] if find_spec("cupy") else ["CuPy's distribution is there without its module: install it again"]
    for cuda, name in CUPY.items():
        if name in cupy and driver.cuda is not None and driver.cuda < (cuda, 0):
            reasons.append(
                f"the driver knows CUDA {driver.cuda[0]}.{driver.cuda[1]}, and {name} needs {cuda}.0: update the "
                f"driver, or install the CuPy of an older CUDA"
            )
    return reasons


def _of_nvrtc(cupy: dict[str, str], built: int | None, nvrtc: str) -> list[str]:
    if nvrtc or not cupy or built is None:  # a CuPy that is built here brings its toolkit's
        return []
    return [
        f"NVRTC, which compiles kernels, is not found: pip install '{CUPY[built]}[ctk]' brings it with cuBLAS, "
        f"{NVRTC[built]} is the package, and a CUDA {built} toolkit has it (CUDA_PATH says where)"
    ]


# ---------------------------------------------------------------------- the driver


def _library(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def asked_driver() -> Driver:
    """The devices of the CUDA driver, without a context on any of them."""
    cuda = _library(DRIVER)
    if cuda is None:
        return Driver(problem=f"no CUDA driver ({DRIVER} is not found): install NVIDIA's driver of the GPU")
    nvml = _library(NVML)
    version = _nvml_version(nvml)
    try:
        return _asked(cuda, nvml, version)
    except AttributeError as missing:
        return Driver(version=version, problem=f"the CUDA driver is too old or broken ({missing}): update it")


def _asked(cuda: Any, nvml: Any, version: str) -> Driver:
    status, known, count = cuda.cuInit(0), ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(known))
    api = (known.value // 1000, known.value % 1000 // 10) if known.value else None
    status = status or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if visible is None else f"; CUDA_VISIBLE_DEVICES={visible!r} may hide it"
        words = f"the CUDA driver finds no device (status {status}): nvidia-smi should list one{hint}"
        return Driver(api, version, problem=words)
    return Driver(api, version, [_device(cuda, nvml, number) for number in range(count.value)])


def _device(cuda: Any, nvml: Any, number: int) -> Device:
    handle, text, total = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    cuda.cuDeviceGet(ctypes.byref(handle), number)
    cuda.cuDeviceGetName(text, len(text), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    sides = [ctypes.c_int(0), ctypes.c_int(0)]
    for side, attribute in zip(sides, (MAJOR, MINOR), strict=True):
        cuda.cuDeviceGetAttribute(ctypes.byref(side), attribute, handle)
    place = ctypes.create_string_buffer(64)
    cuda.cuDeviceGetPCIBusId(place, len(place), handle)
    name = text.value.decode(errors="replace")
    return Device(name, (sides[0].value, sides[1].value), total.value, _nvml_free(nvml, place.value))


def _nvml_version(nvml: Any) -> str:
    """The driver's own version, as 550.54.15."""
    text = ctypes.create_string_buffer(96)
    with suppress(AttributeError):
        if nvml is not None and nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0:
            found = text.value.decode(errors="replace")
            return found if re.fullmatch(r"[\w.]+", found) else ""
    return ""


def _nvml_free(nvml: Any, place: bytes) -> int | None:
    """Free bytes of the device at a place of the bus: NVML numbers devices otherwise than the driver."""
    handle, memory = ctypes.c_void_p(None), (ctypes.c_ulonglong * 3)()  # total, free, used
    with suppress(AttributeError):
        if (
            nvml is not None
            and nvml.nvmlDeviceGetHandleByPciBusId_v2(place, ctypes.byref(handle)) == 0
            and nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
        ):
            return int(memory[1])
    return None
