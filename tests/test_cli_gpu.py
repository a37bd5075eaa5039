"""What `refdiff info` says of GPUs, asked of stand-ins for the driver, for NVML and for what is installed."""

import ctypes

import pytest

from refdiff.cli import gpu

A100 = ("NVIDIA A100-SXM4-80GB", (8, 0), 80 * 2**30)
PASCAL = ("Tesla P100", (6, 0), 16 * 2**30)
PLACE = b"0000:65:00.0"


class Library:
    """A driver and NVML together: C functions that write where they are pointed to."""

    def __init__(self, devices=(A100,), cuda=12040, status=0, version=b"550.54.15"):
        self.devices, self.cuda, self.status, self.version = devices, cuda, status, version

    def cuInit(self, flags):  # noqa: ARG002
        return self.status

    def cuDriverGetVersion(self, out):
        out._obj.value = self.cuda

    def cuDeviceGetCount(self, out):
        out._obj.value = len(self.devices)
        return 0

    def cuDeviceGet(self, out, number):
        out._obj.value = 100 + number

    def cuDeviceGetName(self, text, size, handle):
        text.value = self.devices[handle.value - 100][0].encode()
        assert len(text.value) < size

    def cuDeviceTotalMem_v2(self, out, handle):
        out._obj.value = self.devices[handle.value - 100][2]

    def cuDeviceGetAttribute(self, out, attribute, handle):
        out._obj.value = self.devices[handle.value - 100][1][{75: 0, 76: 1}[attribute]]

    def cuDeviceGetPCIBusId(self, text, size, handle):  # noqa: ARG002
        text.value = PLACE

    def nvmlInit_v2(self):
        return 0

    def nvmlSystemGetDriverVersion(self, text, size):  # noqa: ARG002
        text.value = self.version
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, place, out):
        out._obj.value = 7
        return 0 if place == PLACE else 6

    def nvmlDeviceGetMemoryInfo(self, handle, out):
        assert handle.value == 7
        out._obj[0], out._obj[1], out._obj[2] = 80 * 2**30, 79 * 2**30, 2**30
        return 0


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU, CuPy and NVRTC, each of which may be otherwise."""

    def have(library=None, cupy=None, nvrtc="nvidia-cuda-nvrtc-cu12 12.9.86", nvml=True, module="a module"):
        here = Library() if library is None else library
        answers = {gpu.DRIVER: here or None, gpu.NVML: here if nvml else None}
        monkeypatch.setattr(gpu, "_library", answers.get)
        monkeypatch.setattr(gpu, "installed", lambda: {"cupy-cuda12x": "14.2.0"} if cupy is None else cupy)
        monkeypatch.setattr(gpu, "found_nvrtc", lambda cuda: nvrtc)
        monkeypatch.setattr(gpu, "find_spec", lambda _: module)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return gpu.look

    return have


def test_a_machine_with_everything_is_ready_and_says_what_it_has(machine):
    found = machine()()
    assert found.reasons == []
    assert found.verdict == "ready (cupy-cuda12x 14.2.0, NVIDIA A100-SXM4-80GB)"
    assert found.rows() == {
        "driver": "550.54.15, CUDA up to 12.4",
        "CuPy": "cupy-cuda12x 14.2.0",
        "NVRTC": "nvidia-cuda-nvrtc-cu12 12.9.86",
        "device 0": "NVIDIA A100-SXM4-80GB, compute capability 8.0, 80.0 GiB, 79.0 GiB free",
    }


def test_without_nvml_the_free_memory_and_the_driver_s_version_are_not_said(machine):
    rows = machine(nvml=False)().rows()
    assert rows["driver"] == "CUDA up to 12.4"
    assert rows["device 0"].endswith("80.0 GiB")


@pytest.mark.parametrize(
    ("having", "said"),
    [
        ({"library": False}, "no CUDA driver (libcuda.so.1 is not found): install NVIDIA's driver"),
        ({"library": Library(devices=())}, "finds no device (status 0): nvidia-smi should list one"),
        ({"library": Library(status=100)}, "finds no device (status 100)"),
        ({"library": Library(devices=(PASCAL,))}, "has compute capability 6.0, and kernels need 7.5"),
        ({"library": Library(cuda=11080)}, "the driver knows CUDA 11.8, and cupy-cuda12x needs 12.0: update the"),
        ({"cupy": {"cupy-cuda13x": "14"}}, "the driver knows CUDA 12.4, and cupy-cuda13x needs 13.0"),
        ({"cupy": {}, "nvrtc": ""}, "CuPy is not installed: pip install 'refdiff[gpu-cuda12]'"),
        ({"cupy": {"cupy": "14", "cupy-cuda12x": "14"}}, "share one folder: uninstall all of them"),
        ({"nvrtc": ""}, "pip install 'cupy-cuda12x[ctk]' brings it with cuBLAS"),
        ({"module": None}, "CuPy's distribution is there without its module"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_each_thing_that_stands_in_the_way_is_one_sentence_that_says_what_to_do(machine, having, said):
    found = machine(**having)()
    (reason,) = found.reasons
    assert said in reason.replace("nvcuda.dll", "libcuda.so.1")
    assert found.rows()["not used"] == reason
    assert found.verdict == "not available, see GPU"


def test_all_that_stands_in_the_way_is_said_at_once(machine):
    found = machine(library=False, nvrtc="")()
    assert len(found.reasons) == 2
    assert "NVRTC" in found.rows()["not used (2)"]


def test_a_hidden_device_names_the_variable_that_may_hide_it(machine, monkeypatch):
    look = machine(library=Library(devices=()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES='-1' may hide it" in look().reasons[0]


def test_a_driver_without_a_function_is_said_to_be_broken(machine):
    class Old:
        pass

    assert "too old or broken" in machine(library=Old())().reasons[0]


def test_nvrtc_is_found_in_the_folder_of_a_toolkit(monkeypatch, tmp_path):
    def absent(name):
        raise gpu.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gpu.metadata, "version", absent)
    monkeypatch.setattr(gpu, "_library", lambda _: None)
    monkeypatch.setattr(gpu.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(gpu, "WINDOWS", False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "cuda"))
    (tmp_path / "cuda" / "lib64").mkdir(parents=True)
    (tmp_path / "cuda" / "lib64" / "libnvrtc.so.12.4.127").touch()
    assert gpu.found_nvrtc(12) == f"of the toolkit in {tmp_path / 'cuda'}"
    (tmp_path / "cuda" / "lib64" / "libnvrtc.so.12.4.127").unlink()
    monkeypatch.setattr(gpu, "_library", lambda name: ctypes if name == "libnvrtc.so.12" else None)
    assert gpu.found_nvrtc(12) == "libnvrtc.so.12, on the loader's path"


def test_what_is_installed_is_named_with_versions(monkeypatch):
    def version(name):
        if name == "cupy-cuda13x":
            return "14.2.0"
        raise gpu.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gpu.metadata, "version", version)
    assert gpu.installed() == {"cupy-cuda13x": "14.2.0"}
