r"""Who takes part in which problem: refdiff, NumPy and SciPy always, other libraries where they are installed.

A library is imported when it is first asked for its candidates, and never where it is not wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from types import MappingProxyType

from refdiff.validation.benchmarks.measuring import Candidate
from refdiff.validation.benchmarks.problems import Problem

HERE = "refdiff.validation.benchmarks"
FLOW, MAP, SDE, POINTS, DENSITY, PAIRS, PLANS, GRID = (
    "probability_flow",
    "flow_map",
    "reverse_diffusion",
    "point_set_score",
    "log_density",
    "pair_sums",
    "entropic_plans",
    "grid_density",
)


@dataclass(frozen=True)
class Contender:
    """One way to solve some kinds of problems.

    Attributes:
        name: what it is called in results.
        requires: what must be installed, as distributions.
        function: `module:function` in this package, (problem, threads) -> candidates.
        kinds: the kinds of problems, as in `makers.MAKERS`.
        peer: it takes part only where peers are wanted, as what takes minutes does.
    """

    name: str
    requires: tuple[str, ...]
    function: str
    kinds: tuple[str, ...]
    peer: bool = True

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of the distributions are not installed."""
        return tuple(name for name in self.requires if find_spec(IMPORTED.get(name, name)) is None)

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what is required."""
        return {name: metadata.version(name) for name in self.requires if name not in self.missing}

    def candidates(self, problem: Problem, threads: int) -> Sequence[Candidate]:
        """Its ways to do a problem."""
        module, function = self.function.split(":")
        build: Callable[[Problem, int], Sequence[Candidate]] = getattr(import_module(f"{HERE}.{module}"), function)
        return build(problem, threads)


IMPORTED: Mapping[str, str] = MappingProxyType(
    {"scikit-learn": "sklearn", "py-pde": "pde", "POT": "ot", "ott-jax": "ott"}
)

OWN = Contender("refdiff", (), "own:candidates", (FLOW, MAP, SDE, POINTS, DENSITY, PAIRS, PLANS, GRID), peer=False)

CONTENDERS: Sequence[Contender] = (
    OWN,
    Contender("NumPy", (), "peers_numpy:candidates", (FLOW, SDE, POINTS, DENSITY, PAIRS), peer=False),
    Contender("SciPy", (), "peers_numpy:scipy_candidates", (MAP, DENSITY, PAIRS), peer=False),
    Contender("SciPy, banded matrices", (), "peers_grid:scipy_candidates", (GRID,), peer=False),
    Contender("SciPy, a matrix held", (), "peers_transport:scipy_candidates", (PLANS,), peer=False),
    Contender("refdiff, NumPy only", (), "own:numpy_candidates", (MAP,)),
    Contender("JAX", ("jax",), "peers_jax:plain", (FLOW, SDE, DENSITY)),
    Contender("diffrax", ("jax", "diffrax"), "peers_jax:diffrax", (MAP, SDE)),
    Contender("PyTorch", ("torch",), "peers_torch:eager", (FLOW, SDE, POINTS, DENSITY, PAIRS)),
    Contender("PyTorch compiled", ("torch",), "peers_torch:compiled", (FLOW, SDE, DENSITY, PAIRS)),
    Contender("k-diffusion style", ("torch",), "peers_torch:kdiffusion_style", (FLOW,)),
    Contender("azula", ("torch", "azula"), "peers_torch:azula", (FLOW,)),
    Contender("torchsde", ("torch", "torchsde"), "peers_torch:torchsde", (SDE,)),
    Contender("pykeops", ("pykeops",), "peers_keops:candidates", (POINTS, PAIRS)),
    Contender("scikit-learn", ("scikit-learn",), "peers_sklearn:candidates", (DENSITY,)),
    Contender("POT", ("POT",), "peers_transport:pot", (PLANS,)),
    Contender("OTT", ("jax", "ott-jax"), "peers_transport:ott", (PLANS,)),
    Contender("geomloss", ("torch", "geomloss", "pykeops"), "peers_transport:geomloss", (PLANS,)),
    Contender("py-pde", ("py-pde",), "peers_grid:pde_candidates", (GRID,)),
)


def of_kind(kind: str, among: Sequence[Contender] = CONTENDERS) -> list[Contender]:
    """Those that solve problems of a kind, refdiff first."""
    return [one for one in among if kind in one.kinds]
