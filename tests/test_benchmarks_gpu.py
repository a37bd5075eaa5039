"""The benchmarks of a GPU at tiny sizes, on a GPU and on the emulator: answers and limits; no speed is asserted."""

import json
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from click.testing import CliRunner

from refdiff.cli import gpu as found_gpu
from refdiff.cli import main
from refdiff.model import ExactModel
from refdiff.samplers.ancestral import ddpm
from refdiff.samplers.running import run
from refdiff.schedules import VPLinear
from refdiff.validation.benchmarks import gpu, gpu_cupy, gpu_machine, own, peers_numpy, suite
from refdiff.validation.benchmarks.contenders import HERE
from refdiff.validation.benchmarks.gpu_machine import DeviceLimits, DeviceMachine
from refdiff.validation.benchmarks.gpu_workloads import DOUBLE, WORKLOADS
from refdiff.validation.benchmarks.makers import make
from refdiff.validation.benchmarks.suite import Plan, measure

PLAN = Plan("tiny", rounds=1, budget=1.0)
BY_NAME = {one.name: one for one in WORKLOADS}
# one of each kind and number of axes: with tiny sizes the others are the same
TELLING = list({(one.kind, one.tiny.get("d", one.sizes["d"]), one.title): one for one in WORKLOADS}.values())


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """Nothing is timed here, so nothing has to come to rest."""
    monkeypatch.setattr("refdiff.validation.benchmarks.measuring.REST", 0.0)


def limits():
    """A device that needs no measuring."""
    return DeviceLimits(1e12, 1e11, 1e12, 1e13)


def measured(name, dtype="float64"):
    """A workload on the device."""
    return measure(BY_NAME[name], PLAN, limits, place=gpu.place(dtype))


# ---------------------------------------------------------------------- workloads


@pytest.mark.parametrize("workload", TELLING, ids=lambda one: one.name)
def test_kernels_and_arrays_of_cupy_answer_as_numpy_does(cupy, workload):  # noqa: ARG001
    found = measured(workload.name)
    for one in found.entries:
        assert not one.problem
        assert one.agreement.holds, one
        assert all(s > 0 for s in one.seconds)
    assert found.entries[0].name == "refdiff"
    assert found.entries[0].ratio == 1.0
    assert not found.failed


@pytest.mark.parametrize("name", ["denoiser_d2_K16", "pf_ode_d2_K32", "dpmpp_2m", "mmd_d2", "point_set_near"])
def test_single_precision_is_computed_in_it_and_agrees_to_as_many_roundings(cupy, name):  # noqa: ARG001
    found = measured(name, "float32")
    for one in found.entries:
        assert one.agreement.holds, one
        assert 1e-9 < one.agreement.error < 1e-3  # of one who computes in double it is 1e-8 at least a rounding less
        assert one.agreement.allowed == 1e-10 * 2.0**29


def test_fractions_are_of_every_limit_products_by_cublas_among_them(cupy):  # noqa: ARG001
    found = measured("point_set_far")
    seconds, work = found.entries[0].median, BY_NAME["point_set_far"].problem("tiny").work
    expected = {"flops": work.flops / 1e12, "exponentials": work.exponentials / 1e11, "bytes": work.bytes / 1e12}
    expected["products"] = work.flops / 1e13
    assert found.fractions == pytest.approx({name: value / seconds for name, value in expected.items()})


def test_workloads_have_names_of_their_own_and_kinds_that_contenders_have():
    assert len(BY_NAME) == len(WORKLOADS)
    assert {one.kind for one in WORKLOADS} == set(gpu.CONTENDERS[0].kinds)
    assert {kind for one in gpu.CONTENDERS for kind in one.kinds} == set(gpu.CONTENDERS[0].kinds)
    assert set(DOUBLE) < set(gpu.CONTENDERS[0].kinds)


def test_ancestral_steps_are_those_of_ddpm_s_table_but_for_their_normals():
    problem = make("ancestral", n=20, K=3, d=2, steps=6)
    table, model = ddpm(VPLinear(), problem.times), ExactModel(own.law(problem.mixture), VPLinear())
    expected = run(table, model, problem.x, normals=np.zeros((table.draws, 20, 2)))

    def apart(one):
        found = peers_numpy.ancestral(replace(one, added=0 * one.added), slice(0, 20), "axes")
        return np.max(np.abs(found - expected)) / np.max(np.abs(expected))

    assert apart(problem) < 1e-12  # roundings of six steps, the first of which divides by alpha = 0.007
    assert apart(replace(problem, moved=problem.moved * (1 + 1e-9))) > 1e-11
    drawn = [weight for k in range(table.stages) for _, weight in table.row(k)[2]]
    assert np.allclose(problem.added, drawn, rtol=1e-12)


# ---------------------------------------------------------------------- a contender that is wrong, or breaks


@pytest.mark.parametrize("name", ["divergence_d2", "sinkhorn_4096", "reverse_sde"])
def test_a_wrong_answer_is_noticed(cupy, monkeypatch, name):
    # by 1e-8 of a number where 1e-10 is allowed, a hundredth of a potential, half of a deviation
    scale, shift = {"divergence_d2": (1 + 1e-8, 0.0), "sinkhorn_4096": (1.01, 0.0)}.get(name, (1.0, 0.5))
    right = gpu.candidates

    def wrong(problem, threads):
        (one,) = right(problem, threads)
        return [one._replace(run=lambda n: cupy.asarray(scale * one.run(n).get() + shift))]

    monkeypatch.setattr(gpu, "candidates", wrong)
    found = measured(name)
    assert found.entries[0].wrong
    assert not found.entries[1].wrong
    assert found.failed


def test_large_plans_are_checked_by_a_turn_from_which_they_do_not_move(cupy, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(gpu, "LARGE", 10)
    workload = BY_NAME["sinkhorn_65536"]
    problem = workload.problem("tiny")
    f = own.SOLVE["entropic_plans"](problem)(problem.x)
    check = gpu.check(workload, problem, 1)
    assert check(f).holds
    assert check(f).error < 1e-5  # of a marginal error of 1e-6
    assert not check(f + 0.01 * np.sin(np.arange(len(f)))).holds


def test_a_contender_that_breaks_says_why_and_the_others_go_on(cupy, monkeypatch):  # noqa: ARG001
    def broken(*_):
        raise RuntimeError("cublas is not found\nand more")

    monkeypatch.setattr(gpu_cupy, "candidates", broken)
    found = measured("denoiser_d2_K16")
    assert found.entries[1].problem == "RuntimeError: cublas is not found"
    assert found.entries[0].seconds
    assert not found.failed


def test_a_contender_that_breaks_in_a_round_takes_no_further_part(cupy, monkeypatch):  # noqa: ARG001
    right, ran = gpu_cupy.candidates, []

    def later(problem, threads):
        def run(n):
            ran.append(n)
            if len(ran) > 1:
                raise MemoryError("out of memory")
            return ways[0].run(n)

        ways = right(problem, threads)
        return [ways[0]._replace(run=run)]

    monkeypatch.setattr(gpu_cupy, "candidates", later)
    found = measure(BY_NAME["log_density_d2"], Plan("tiny", rounds=3, budget=1.0), limits, place=gpu.place())
    assert len(ran) == 2
    assert found.entries[1].problem == "MemoryError: out of memory"
    assert found.entries[0].ratio == 1.0


# ---------------------------------------------------------------------- the device


def test_limits_are_work_over_seconds_of_the_device(cupy):
    now = iter(np.arange(1000.0))
    machine = DeviceMachine("float64", lambda: next(now), 0.005)  # each run takes a second
    found = machine()
    threads = machine._blocks * machine._threads
    assert found.flops == 2 * threads * gpu_machine.CHAINS * machine._loops
    assert found.exponentials == threads * gpu_machine.CHAINS * machine._loops
    assert found.bytes == 2 * 8 * machine._copied
    assert found.products == 2 * machine._size**3
    for name, numbers, step in (
        ("multiply_adds", (np.float64(0.999), np.float64(0.5)), lambda x: 0.999 * x + 0.5),
        ("exponentials", (), lambda x: np.exp2(-x)),
    ):
        machine._launch(name, *numbers)
        first = np.arange(machine._threads, dtype=float)[:, None]
        x = first + np.arange(8.0) if numbers else 0 * first + np.arange(8.0) / 8
        for _ in range(machine._loops):
            x = step(x)
        # roundings of a step's, some per step, in 8 numbers that are added
        assert np.allclose(machine._sums.get()[: machine._threads], x.sum(axis=1), rtol=1e-13)
    assert isinstance(machine._sums, cupy.ndarray)


def test_the_clock_adds_short_times_up_so_that_single_precision_holds_them(cupy, monkeypatch):
    asked = []

    def elapsed(start, end):  # an hour has passed: its milliseconds would be rounded to a quarter
        asked.append((start, end))
        return 0.125 if len(asked) > 1 else 3.6e6

    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", elapsed)
    clock = gpu.EventClock()
    assert clock() == 0.0
    assert clock() == 3600.0
    assert clock() - 3600.0 == pytest.approx(0.125e-3, abs=1e-12)
    assert asked[0][1] is asked[1][0]


def test_a_device_that_works_is_not_broken_and_one_that_does_not_says_what_is(cupy, monkeypatch):
    assert gpu.broken() == ""
    monkeypatch.setattr(cupy, "RawModule", lambda **_: {}["no compiler"])
    monkeypatch.setattr("refdiff.kernels.cuda.device._modules", {})
    assert gpu.broken() == "KeyError: 'no compiler'"
    with pytest.MonkeyPatch.context() as patch:  # undone before the stand-in leaves, as `monkeypatch` is not
        patch.setitem(sys.modules, "cupy", None)
        assert gpu.broken().startswith("ModuleNotFoundError: ")


def test_versions_of_cuda_are_written_as_people_write_them(cupy, monkeypatch):
    for name in ("driverGetVersion", "runtimeGetVersion"):
        monkeypatch.setattr(cupy.cuda.runtime, name, lambda: 12040)
    assert "driver for CUDA 12.4, runtime 12.4" in gpu.about()


# ---------------------------------------------------------------------- the command


def bench(*arguments):
    """What the command gives back."""
    return CliRunner().invoke(main, ["bench", "--gpu", *map(str, arguments)])


def test_without_a_gpu_the_command_says_why_and_ends_well(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(found_gpu, "installed", dict)
    monkeypatch.setattr(found_gpu, "_library", lambda _: None)
    monkeypatch.setattr(suite, "measure", None)
    result = bench("--json", tmp_path / "found.json")
    assert result.exit_code == 0
    assert "Nothing was measured" in result.output
    assert "no CUDA driver" in result.output
    assert "CuPy is not installed: pip install" in result.output
    assert not (tmp_path / "found.json").exists()


def test_a_device_with_everything_on_which_kernels_break_says_how(monkeypatch):
    monkeypatch.setattr(gpu, "broken", lambda: "CompileException: nvrtc: error")
    monkeypatch.setattr(found_gpu, "look", lambda: found_gpu.Found(found_gpu.Driver()))
    result = bench()
    assert result.exit_code == 0
    assert "CompileException: nvrtc: error" in result.output


def test_a_run_prints_and_writes_what_it_found_on_which_device(cupy, tmp_path):  # noqa: ARG001
    only = "denoiser_d2_K16|log_density_d2"
    result = bench("--level", "tiny", "--rounds", 1, "--only", only, "--json", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    for words in ("CuPy arrays", "limits: multiply-adds", "cuBLAS", "of exp2", "compute capability", "--peers"):
        assert words in result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["passed"] is True
    assert found["dtype"] == "float64"
    assert "multiprocessors" in found["device"]
    assert [one["name"] for one in found["workloads"]] == ["denoiser_d2_K16", "log_density_d2"]
    assert set(found["workloads"][0]["limits_per_second"]) == set(DeviceLimits._fields)


def test_what_was_found_stays_on_disk_when_the_next_workload_kills_the_run(cupy, tmp_path, monkeypatch):  # noqa: ARG001
    true = suite.measure

    def first_only(workload, *arguments, **options):
        if workload.name != "denoiser_d2_K16":
            raise SystemError("the driver is gone")
        return true(workload, *arguments, **options)

    monkeypatch.setattr(suite, "measure", first_only)
    result = bench("--level", "tiny", "--only", "denoiser_d2", "--json", tmp_path / "found.json")
    assert isinstance(result.exception, SystemError)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["workloads"]] == ["denoiser_d2_K16"]
    assert found["interrupted"] is True


def test_the_list_and_the_options_need_no_gpu():
    listed = bench("--list", "--float32").output
    assert "mmd_d2" in listed
    assert "flow_map" not in listed
    assert "JAX" in listed
    assert bench("--float32", "--only", "sinkhorn").exit_code == 2
    result = CliRunner().invoke(main, ["bench", "--float32"])
    assert result.exit_code == 2
    assert "--float32 goes with --gpu" in result.output


# ---------------------------------------------------------------------- other libraries, on processors


OTHERS = {"PyTorch": ("gpu_torch", "eager"), "JAX": ("gpu_jax", "plain"), "diffrax": ("gpu_jax", "diffrax")}
TAKING_PART = [
    (one, peer) for peer in gpu.CONTENDERS if peer.name in OTHERS for one in TELLING if one.kind in peer.kinds
]


@pytest.mark.parametrize(("workload", "contender"), TAKING_PART, ids=lambda one: one.name)
def test_other_libraries_programs_answer_as_numpy_does(workload, contender):
    if contender.missing:
        pytest.skip(f"{contender.name} is not installed")
    name, build = OTHERS[contender.name]
    module = import_module(f"{HERE}.{name}")
    problem = workload.problem("tiny")
    check = gpu.check(workload, problem, 1)
    ways = getattr(module, build)(problem, 1, "cpu")
    assert ways
    for one in ways:
        assert check(one.run(len(problem.x))).holds, one.label


def test_useful_work_of_a_discrepancy_counts_each_pair_once():
    work = make("discrepancy", n=10, d=3).work
    pairs = 2 * (10 * 9 // 2) + 10 * 10
    assert work.exponentials == pairs
    assert work.flops == 2 * pairs * 3
    assert make("discrepancy", n=10, d=3, energy=True).work.exponentials == 0
