r"""The workloads: a kind of problem, its sizes, what is asked for, and along which sizes refdiff's cost is fitted.

A goal is a ratio: how many times faster refdiff is to be than the fastest of some contenders that took part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from refdiff.validation.benchmarks.makers import make
from refdiff.validation.benchmarks.problems import Problem

# Answers agree to this relative error; a flow map to what its own tolerance allows.
AGREEMENT = 1e-10


@dataclass(frozen=True)
class Goal:
    """At least so many times faster than the fastest of these contenders."""

    least: float
    against: tuple[str, ...]

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.least:g}x against {' or '.join(self.against)}"


@dataclass(frozen=True)
class Workload:
    """One line of the table of workloads.

    Attributes:
        name, title: short, and in words.
        kind: of `makers.MAKERS`.
        sizes: what the maker takes; `quick` the sizes that differ in a quick run, `tiny` in a test.
        goals: ratios asked for.
        allowed: relative error within which answers agree; None for samples, which agree by their moments.
        grows: values of a size to fit an exponent of cost to, other sizes as in `base`.
        limit: goal for the achieved fraction of a limit, by the limit's name in `limits.Limits`.
        memory: goal for the peak extra memory in bytes.
    """

    name: str
    title: str
    kind: str
    sizes: Mapping[str, Any]
    quick: Mapping[str, Any]
    tiny: Mapping[str, Any]
    goals: Sequence[Goal] = ()
    allowed: float | None = AGREEMENT
    base: Mapping[str, Any] = field(default_factory=dict)
    grows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    limit: Mapping[str, float] = field(default_factory=dict)
    memory: float | None = None

    def problem(self, level: str = "full", **changes: Any) -> Problem:
        """The problem at its full, quick or tiny sizes."""
        smaller = {"full": {}, "quick": self.quick, "tiny": self.tiny}[level]
        return make(self.kind, **{**self.sizes, **smaller, **changes})


JAX, TORCH = ("JAX",), ("PyTorch", "PyTorch compiled", "k-diffusion style", "azula")
SOLVERS = ("JAX", "diffrax", "PyTorch", "PyTorch compiled", "torchsde")
TINY = {"n": 300, "K": 5}


def _point_set(name: str, sigma: float, words: str) -> Workload:
    return Workload(
        f"point_set_{name}",
        f"exact score of a point set at sigma = {sigma:g}, where {words}",
        "point_set_score",
        {"n": 256, "K": 50_000, "d": 3072, "sigma": sigma},
        {"n": 64, "K": 5_000},
        {"n": 7, "K": 50, "d": 40},
        goals=(Goal(1.3, ("PyTorch",)), Goal(1.3, ("pykeops",))),
        base={"n": 64, "K": 4000, "d": 256},
        grows={"n": (64, 128, 256), "K": (2000, 4000, 8000), "d": (128, 256, 512)} if name == "far" else {},
        memory=200e6,
    )


# How much a relative change of a state on the way changes the end of its flow, at most: the flow separates points that
# are near each other at sigma = 10 or so. Measured by small changes in random directions at 13 noise levels on the 64
# points that answers are compared on; one of those in 8 dimensions passes between two components. A local error of
# rtol may become so many times rtol.
SEPARATES = {2: 60, 8: 2400, 32: 150}


def _flow_map(name: str, dim: int, **more: Any) -> Workload:
    return Workload(
        name,
        "adaptive flow map to 1e-10",
        "flow_map",
        {"n": 10_000, "K": 32, "d": dim},
        {"n": 500},
        {"n": 16, "K": 3},
        allowed=max(1e-8, SEPARATES[dim] * 1e-10),  # 100 rtol: local errors add up over some hundred steps
        **more,
    )


WORKLOADS: Sequence[Workload] = (
    Workload(
        "pf_ode_small",
        "probability flow, Heun",
        "probability_flow",
        {"n": 100_000, "K": 32, "d": 2, "steps": 40},
        {"n": 10_000},
        {**TINY, "steps": 6},
        goals=(Goal(4, JAX), Goal(4, TORCH)),
        base={"n": 8000, "K": 64, "d": 4, "steps": 20},
        grows={
            "n": (4000, 8000, 16000, 32000),
            "K": (16, 32, 64, 128, 256),
            "d": (2, 4, 8, 16, 32),
            "steps": (10, 20, 40, 80),
        },
        limit={"exponentials": 0.5},
    ),
    Workload(
        "pf_ode_many",
        "probability flow, Heun",
        "probability_flow",
        {"n": 10_000, "K": 1000, "d": 2, "steps": 40},
        {"n": 1000},
        {"n": 40, "K": 70, "steps": 6},
        goals=(Goal(3, JAX), Goal(6, TORCH)),
    ),
    Workload(
        "pf_ode_d64",
        "probability flow, Heun",
        "probability_flow",
        {"n": 20_000, "K": 64, "d": 64, "steps": 40},
        {"n": 2000},
        {**TINY, "d": 20, "steps": 6},
        goals=(Goal(2, JAX + TORCH),),
        limit={"flops": 0.6},
    ),
    Workload(
        "pf_ode_d16",
        "probability flow, Heun",
        "probability_flow",
        {"n": 10_000, "K": 256, "d": 16, "steps": 40},
        {"n": 1000},
        {**TINY, "d": 3, "steps": 6},
        goals=(Goal(2, JAX + TORCH),),
    ),
    _point_set("far", 20.0, "all points share the weight"),
    _point_set("middle", 2.0, "some points share the weight"),
    _point_set("near", 0.5, "one point takes the weight"),
    Workload(
        "reverse_sde",
        "reverse SDE, Euler-Maruyama, noise drawn inside",
        "reverse_diffusion",
        {"n": 100_000, "K": 32, "d": 2, "steps": 500},
        {"n": 5000, "steps": 100},
        {**TINY, "n": 2000, "steps": 20},
        goals=(Goal(5, SOLVERS),),
        allowed=None,
        base={"n": 4000, "K": 32, "d": 2, "steps": 100},
        grows={"n": (4000, 8000, 16000), "K": (8, 32, 128), "d": (2, 4, 8), "steps": (50, 100, 200)},
    ),
    _flow_map(
        "flow_map",
        2,
        goals=(Goal(100, ("SciPy",)), Goal(4, ("diffrax",))),
        base={"n": 1000, "K": 32, "d": 2},
        grows={"n": (1000, 2000, 4000), "K": (16, 32, 64, 128), "d": (2, 4, 8)},
    ),
    _flow_map("flow_map_d8", 8),
    _flow_map("flow_map_d32", 32),
    Workload(
        "log_density",
        "log density of a mixture",
        "log_density",
        {"n": 1_000_000, "K": 64, "d": 8},
        {"n": 50_000},
        TINY,
        goals=(Goal(8, ("scikit-learn",)),),
        base={"n": 50_000, "K": 64, "d": 8},
        grows={"n": (50_000, 100_000, 200_000), "K": (32, 64, 128, 256), "d": (2, 4, 8, 16)},
    ),
    *(
        Workload(
            f"pair_sums_d{dim}",
            "sums of a Gaussian kernel over all pairs",
            "pair_sums",
            {"n": 20_000, "d": dim},
            {"n": 3000},
            {"n": 150},
            goals=(Goal(least, ("NumPy", "SciPy", "PyTorch", "PyTorch compiled")), Goal(3, ("pykeops",))),
            limit=limit,
        )
        for dim, least, limit in ((2, 2, {"exponentials": 0.5}), (64, 1.5, {"flops": 0.5}))
    ),
    *(
        Workload(
            f"sinkhorn_d{dim}",
            f"entropic plan of points, eps = {epsilon:g}, to a marginal error of 1e-6",
            "entropic_plans",
            {"n": 4096, "d": dim, "epsilon": epsilon},
            {"n": 1024},
            {"n": 60, "epsilon": 1.0},
            goals=(Goal(3, ("POT",)), Goal(1.5, ("OTT", "geomloss"))),
            # all of a marginal error may be one point's, whose potential is then off by eps n 1e-6, a few 1e-4 of a
            # usual one, and more where convergence is slow
            allowed=1e-3,
            memory=50e6,
        )
        for dim, epsilon in ((2, 0.1), (64, 1.0))
    ),
    Workload(
        "fokker_planck",
        "Fokker-Planck equation in the plane, a drift that turns, to 0.2% of the density or of a usual one",
        "grid_density",
        {"cells": 512, "K": 5, "error": 0.002},
        {"cells": 256, "error": 0.008},
        # with 48 cells a component's deviation is that of 1.5 of them
        {"cells": 48, "error": 0.5},
        goals=(Goal(10, ("py-pde",)),),
    ),
)
