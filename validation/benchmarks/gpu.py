r"""One GPU as a place of benchmarks: refdiff's kernels, arrays of CuPy, PyTorch and JAX on the same device.

Seconds are those between events of the device: each is recorded on CuPy's current stream when all before it is done,
and libraries with streams of their own end their work before they answer. Data is on the device before a run begins,
and answers stay there. Reference answers are refdiff's by NumPy, of the first points where all take too long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from refdiff import backends
from refdiff.arguments import Array
from refdiff.kernels.cuda.device import cupy
from refdiff.validation.benchmarks import agreement, own, peers_numpy, peers_transport
from refdiff.validation.benchmarks.agreement import Agreement
from refdiff.validation.benchmarks.contenders import Contender
from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.places import Place
from refdiff.validation.benchmarks.problems import (
    Discrepancy,
    EntropicPlans,
    FlowMap,
    Problem,
    kind,
)
from refdiff.validation.benchmarks.workloads import Workload

SAMPLERS = ("probability_flow", "multistep", "reverse_diffusion", "ancestral")
KINDS = ("denoiser", "divergence", "log_density", "point_set_score", *SAMPLERS)
PAIRS, PLANS, MAP = "discrepancy", "entropic_plans", "flow_map"
CONTENDERS = (
    Contender("refdiff", (), "gpu:candidates", (*KINDS, PAIRS, PLANS, MAP), peer=False),
    Contender("CuPy arrays", (), "gpu_cupy:candidates", (*KINDS, PAIRS, PLANS), peer=False),
    Contender("PyTorch", ("torch",), "gpu_torch:eager", (*KINDS, PAIRS)),
    Contender("PyTorch compiled", ("torch",), "gpu_torch:compiled", (*KINDS, PAIRS)),
    Contender("JAX", ("jax",), "gpu_jax:plain", tuple(one for one in KINDS if one != "point_set_score")),
    Contender("diffrax", ("jax", "diffrax"), "gpu_jax:diffrax", (MAP,)),
)

POINTS, SAMPLE = 64, 4096  # of reference answers: numbers, and draws whose moments are compared
WORK = 10**9  # components times axes times evaluations of NumPy's, some ten seconds
LARGE = 8192  # points of a plan from which it is checked by itself
SINGLE = 2.0**29  # a rounding of float32 over one of float64: answers agree to as many roundings

DEFINITIONS = {
    "seconds": "median over alternating rounds, warm, between events of the device",
    "limits": "two operations for each fused multiply-add in registers; exp2 in registers; bytes read and written by a "
    "copy; a product of matrices by cuBLAS",
    "memory": "by how much the free memory of the device shrinks during one warm run; JAX keeps what it ever took, and "
    "shows what it takes beyond that",
}


def broken() -> str:
    """What goes wrong on the device, or nothing: an array is made, a kernel is compiled and run."""
    try:
        xp = import_module("cupy")
        xp.cuda.runtime.getDeviceCount()
        from refdiff.kernels.cuda import philox

        found = philox.normals(0, xp.zeros(1, dtype=np.uint64), 0, 1).get()
    except Exception as error:  # of CuPy, of the driver, of the compiler
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return "" if np.isfinite(found).all() else "a kernel answers with what is no number"


def place(dtype: Any = np.float64) -> Place:
    """The current device, in float64 or float32."""
    chosen = np.dtype(dtype)
    clock = EventClock()
    return Place(
        CONTENDERS,
        check,
        clock,
        clock.wait,
        extra_bytes,
        lambda problem: in_type(problem, chosen),
        chosen.name,
        about(),
        DEFINITIONS,
    )


def about() -> str:
    """The device in words."""
    runtime = cupy().cuda.runtime
    found = runtime.getDeviceProperties(cupy().cuda.Device().id)
    name = found["name"].decode() if isinstance(found["name"], bytes) else found["name"]
    cuda = [f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.driverGetVersion(), runtime.runtimeGetVersion())]
    versions = f"driver for CUDA {cuda[0]}, runtime {cuda[1]}"
    return (
        f"{name}, compute capability {found['major']}.{found['minor']}, {found['multiProcessorCount']} "
        f"multiprocessors, {found['totalGlobalMem'] / 2**30:.1f} GiB; {versions}, CuPy {cupy().__version__}"
    )


class EventClock:
    """Seconds by events: the time between each two is added up, which float32's milliseconds hold when it is short."""

    def __init__(self) -> None:
        self._last: Any = None
        self._seconds = 0.0

    def __call__(self) -> float:
        """Seconds since the first call, when all that was asked of the stream is done."""
        event = cupy().cuda.Event()
        event.record()
        event.synchronize()
        if self._last is not None:
            self._seconds += cupy().cuda.get_elapsed_time(self._last, event) / 1e3
        self._last = event
        return self._seconds

    @staticmethod
    def wait() -> None:
        """Until the device has nothing to do, on any stream."""
        cupy().cuda.Device().synchronize()


def extra_bytes(run: Callable[[], object]) -> int | None:
    """By how much the free memory shrinks: CuPy and PyTorch keep what they took, and give it back before."""
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()
    cupy().get_default_memory_pool().free_all_blocks()
    before = cupy().cuda.runtime.memGetInfo()[0]
    run()
    return max(0, int(before - cupy().cuda.runtime.memGetInfo()[0]))


def in_type(problem: Problem, dtype: Any) -> Problem:
    """The problem with its numbers in another type."""

    def cast(value: Any) -> Any:
        return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    mixture = type(problem.mixture)(*(cast(value) for value in vars(problem.mixture).values()))
    names = [one.name for one in fields(problem) if one.name != "mixture"]
    return replace(problem, mixture=mixture, **{name: cast(getattr(problem, name)) for name in names})


# ---------------------------------------------------------------------- refdiff


def candidates(problem: Problem, threads: int) -> list[Candidate]:  # noqa: ARG001
    """One: the public calls, on arrays of CuPy; laws are given in float64, as always."""

    def there(points: Array) -> Any:
        return cupy().asarray(points.astype(problem.x.dtype))

    x, exact = there(problem.x), in_type(problem, np.float64)
    make: Callable[..., Any] = own.SOLVE[kind(problem)]
    solve = make(exact, there) if isinstance(problem, (Discrepancy, EntropicPlans)) else make(exact)
    return [Candidate("", lambda points: solve(x[:points]))]


# ---------------------------------------------------------------------- whether answers agree


def on_host(answer: Any) -> Array:
    """An array of any library as NumPy's."""
    if hasattr(answer, "get"):
        return np.asarray(answer.get(), dtype=float)
    return np.asarray(answer.cpu() if hasattr(answer, "cpu") else answer, dtype=float)


def check(workload: Workload, problem: Problem, threads: int) -> Callable[[Any], Agreement]:
    """What compares an answer with refdiff's by NumPy, on the first points."""
    exact = in_type(problem, np.float64)
    if workload.allowed is None:
        drawn = peers_numpy.reference(exact.part(SAMPLE), threads)
        return lambda answer: agreement.of_samples(on_host(answer), drawn)
    allowed = workload.allowed * (SINGLE if problem.x.dtype == np.float32 else 1.0)
    if isinstance(exact, EntropicPlans) and len(exact.x) > LARGE:
        return lambda answer: agreement.of_numbers(on_host(answer), turned(exact, on_host(answer)), allowed)
    reference = answers(exact, threads)
    return lambda answer: agreement.of_numbers(on_host(answer), reference, allowed)


def answers(exact: Problem, threads: int) -> Array:
    """Reference answers of the first points; of all together where it takes all."""
    if isinstance(exact, FlowMap):
        return peers_numpy.reference(exact, threads)
    if isinstance(exact, EntropicPlans):
        return peers_transport.reference(exact)
    solve: Callable[[Array], Array] = own.SOLVE[kind(exact)](exact)
    if isinstance(exact, Discrepancy):  # of all pairs: on this machine's kernels where NumPy takes long
        return solve(exact.x)
    one = exact.mixture.count * exact.mixture.dim * (exact.evaluations or 1)
    with backends.use("numpy"):
        return np.asarray(solve(exact.x[: max(4, min(POINTS, WORK // one))]))


def turned(problem: EntropicPlans, f: Array) -> Array:
    """One turn f -> g -> f of Sinkhorn's on the first points, from which converged potentials do not move.

    A constant that is added to f comes back: it is not seen.
    """
    x, y, epsilon = problem.x, problem.mixture.means, problem.epsilon
    g = np.concatenate([_soft(part, x, f, epsilon) for part in np.array_split(y, max(1, len(y) // 256))])
    return _soft(x[:POINTS], y, g, epsilon)


def _soft(x: Array, y: Array, g: Array, epsilon: float) -> Array:
    """-eps log mean_j exp((g_j - c_ij) / eps)."""
    logits = (g - 0.5 * cdist(x, y, "sqeuclidean")) / epsilon
    return np.asarray(-epsilon * (logsumexp(logits, axis=1) - np.log(len(y))))
