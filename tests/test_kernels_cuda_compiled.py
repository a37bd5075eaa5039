"""Every kernel compiles for every architecture with NVRTC, without a word of complaint, and keeps to its registers."""

import re

import numpy as np
import pytest
from cuda_registers import ARCHITECTURES, FOLDER, TYPES, VARIANTS, compiled, may_spill, nvrtc, of_source

from refdiff.kernels.cuda import device

KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)')


@pytest.fixture(autouse=True)
def _compiler():
    try:
        nvrtc()
    except ImportError as error:
        pytest.skip(f"no NVRTC: {error}")


def test_every_source_is_compiled():
    assert set(VARIANTS) == {path.stem for path in FOLDER.glob("*.cu")}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_kernels_compile_without_complaint_and_keep_to_registers(name, architecture):
    kernels = set(KERNEL.findall(device.source(name)))
    assert kernels
    for kind, numbers, said, found in of_source(name, architecture):
        assert said == "", (kind, numbers)
        assert {used.kernel for used in found} == kernels
        for used in found:
            if not may_spill(name, used.kernel, numbers):
                assert (used.spilled, used.stack) == (0, 0), (kind, numbers, used)


TOY = 'extern "C" __global__ void toy(real* x, int64 n) {{ {body} }}'


def assert_toy(body, **numbers):
    """A kernel of this body, compiled as those of the house: complaints, and what it uses."""
    source = device.source("philox").split('extern "C"')[0] + TOY.format(body=body)
    said, [used] = compiled(source, device.options(np.float64, **numbers), 80)
    return said, used


def test_a_kernel_that_spills_or_keeps_arrays_in_memory_is_seen():
    said, used = assert_toy("x[own()] = n;")
    assert (said, used.spilled, used.stack) == ("", 0, 0)
    assert 0 < used.registers < 32
    many = "real a[400]; for (int i = 0; i < 400; ++i) a[i] = x[i * n]; x[own()] = a[int(x[0])];"
    assert assert_toy(many)[1].stack >= 400 * 8
    full = """real a[N];
        #pragma unroll
        for (int i = 0; i < N; ++i) a[i] = x[i * n];
        for (int k = 0; k < n; ++k) {
        #pragma unroll
            for (int i = 0; i < N; ++i) a[i] = a[i] * a[(i * 7 + 1) % N] + x[k];
        }
        #pragma unroll
        for (int i = 0; i < N; ++i) x[i * n + 1] = a[i];"""
    assert assert_toy(full, N=160)[1].spilled > 0
    assert assert_toy(full, N=16)[1].spilled == 0


def test_a_warning_and_an_error_are_seen():
    said, _ = assert_toy("int forgotten; x[own()] = n;")
    assert "forgotten" in said
    with pytest.raises(RuntimeError, match="unknown_name"):
        assert_toy("x[own()] = unknown_name;")


@pytest.mark.parametrize("kind", TYPES)
def test_types_of_numbers_are_what_the_host_asks_for(kind):
    check = f'static_assert(sizeof(real) == {np.dtype(kind).itemsize}, "real");'
    source = device.source("philox").split('extern "C"')[0] + check + TOY.format(body="x[own()] = n;")
    assert compiled(source, device.options(np.dtype(kind)), 90)[0] == ""
