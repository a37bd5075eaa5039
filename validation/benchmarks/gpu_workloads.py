"""The workloads of a GPU: the kinds of `workloads` at sizes that fill one, and single evaluations of mixtures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refdiff.validation.benchmarks.workloads import SEPARATES, Workload

# What asks for more digits than float32 has.
DOUBLE = ("flow_map", "entropic_plans")
TINY = {"n": 70, "K": 5}


def _mixtures() -> Iterator[Workload]:
    """Few, many and very many components; points so that all need about the same time."""
    for dim in (2, 16):
        for count, n in ((16, 1 << 23), (256, 1 << 20), (4096, 1 << 17)):
            yield Workload(
                f"denoiser_d{dim}_K{count}",
                "denoiser of a mixture at one noise level",
                "denoiser",
                {"n": n, "K": count, "d": dim, "sigma": 1.0},
                {"n": n // 16},
                {**TINY, "d": min(dim, 3)},
            )
        same: Mapping[str, Any] = {"n": 1 << 20, "K": 256, "d": dim}
        yield Workload(
            f"log_density_d{dim}",
            "log density of a mixture",
            "log_density",
            same,
            {"n": 1 << 16},
            {**TINY, "d": min(dim, 3)},
        )
        yield Workload(
            f"divergence_d{dim}",
            "divergence of the probability flow at one noise level",
            "divergence",
            {**same, "sigma": 1.0},
            {"n": 1 << 16},
            {**TINY, "d": min(dim, 3)},
        )


def _point_sets() -> Iterator[Workload]:
    for name, sigma, words in (("far", 20.0, "all points share the weight"), ("near", 0.5, "one takes it")):
        yield Workload(
            f"point_set_{name}",
            f"exact score of a point set at sigma = {sigma:g}, where {words}",
            "point_set_score",
            {"n": 1024, "K": 50_000, "d": 3072, "sigma": sigma},
            {"n": 256, "K": 10_000},
            {"n": 7, "K": 50, "d": 40},
        )


def _samplers() -> Iterator[Workload]:
    for dim, count, n in ((2, 32, 1 << 20), (2, 1000, 1 << 17), (16, 256, 1 << 17)):
        yield Workload(
            f"pf_ode_d{dim}_K{count}",
            "a sampler as one kernel: probability flow, Heun",
            "probability_flow",
            {"n": n, "K": count, "d": dim, "steps": 20},
            {"n": n // 16},
            {"n": 40, "K": 5, "d": min(dim, 3), "steps": 4},
        )
    yield Workload(
        "dpmpp_2m",
        "a sampler as one kernel: DPM-Solver++(2M)",
        "multistep",
        {"n": 1 << 20, "K": 32, "d": 2, "steps": 20},
        {"n": 1 << 16},
        {"n": 40, "K": 5, "steps": 5},
    )
    yield Workload(
        "ddpm",
        "a stochastic sampler as one kernel: DDPM's, with a thousand steps",
        "ancestral",
        {"n": 1 << 18, "K": 32, "d": 2, "steps": 1000},
        {"n": 1 << 15, "steps": 100},
        {"n": 400, "K": 3, "steps": 5},
        allowed=None,
    )
    yield Workload(
        "reverse_sde",
        "a stochastic sampler as one kernel: reverse SDE, noise drawn inside by Philox",
        "reverse_diffusion",
        {"n": 1 << 20, "K": 32, "d": 2, "steps": 200},
        {"n": 1 << 16, "steps": 50},
        {"n": 400, "K": 3, "steps": 5},
        allowed=None,
    )
    for dim in (2, 8):
        yield Workload(
            f"flow_map_d{dim}",
            "adaptive flow map to 1e-10",
            "flow_map",
            {"n": 1 << 17, "K": 32, "d": dim},
            {"n": 1 << 13},
            {"n": 8, "K": 3},
            allowed=max(1e-8, SEPARATES[dim] * 1e-10),
        )


def _pairs() -> Iterator[Workload]:
    for n in (4096, 65536):
        yield Workload(
            f"sinkhorn_{n}",
            "entropic plan of points, eps = 0.1, to a marginal error of 1e-6",
            "entropic_plans",
            {"n": n, "d": 2, "epsilon": 0.1},
            {"n": n // 4},
            {"n": 40, "epsilon": 1.0},
            allowed=1e-3,  # as in `workloads`
        )
    for name, dim, energy in (("mmd_d2", 2, False), ("mmd_d64", 64, False), ("energy_d2", 2, True)):
        yield Workload(
            name,
            "energy distance of two samples" if energy else "MMD of two samples under a Gaussian kernel",
            "discrepancy",
            {"n": 1 << 16, "d": dim, "energy": energy},
            {"n": 1 << 13},
            {"n": 60, "d": min(dim, 20)},
        )


WORKLOADS: Sequence[Workload] = (*_mixtures(), *_point_sets(), *_samplers(), *_pairs())
