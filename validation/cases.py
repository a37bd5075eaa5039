r"""The cases an identity runs on: laws x processes x times x dimensions, from a seed.

    models     a law, a process, times s < t inside (0, T), points x drawn from p_t          `ModelCase`
    processes  a process and times                                                          `ProcessCase`
    laws       a law with a density and points                                              `LawCase`
    tables     a table of betas                                                             `TableCase`
    once       random numbers only                                                          `Case`

The default matrix pairs laws and processes so that every law meets at least three processes and every process
several laws of different dimension; `thorough` takes all pairs at four times.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from refdiff.arguments import Array
from refdiff.distributions import Empirical, Gaussian, GaussianMixture, grid, random_mixture, ring, two_moons
from refdiff.model import ExactModel
from refdiff.processes import AffineProcess, BetaTable, beta_table, catalogue
from refdiff.schedules import FlowMatching, FunctionSchedule, Schedule, VEGeometric, VEPower, VPLinear

LEVELS = ("quick", "default", "thorough")
POINTS = 6


@dataclass(frozen=True, eq=False)
class Case:
    """A named source of random numbers: the same name and seed give the same numbers."""

    name: str
    seed: int

    @cached_property
    def rng(self) -> np.random.Generator:
        """Random numbers of a check's own: every run of one begins with the same."""
        return self.stream(1)

    def stream(self, number: int) -> np.random.Generator:
        """The case's stream of random numbers of this `number`, from its beginning."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number])


@dataclass(frozen=True, eq=False)
class LawCase(Case):
    """A law with a density, and points (n, d) drawn from it."""

    law: GaussianMixture

    @cached_property
    def x(self) -> Array:
        """Draws from the law."""
        return self.law.sample(POINTS, self.stream(0))


@dataclass(frozen=True, eq=False)
class ProcessCase(Case):
    """A scalar process and two times 0 < s < t < T."""

    process: AffineProcess
    s: float
    t: float

    @property
    def schedule(self) -> Schedule:
        """The schedule of the process."""
        return self.process.schedules[0]


@dataclass(frozen=True, eq=False)
class ModelCase(Case):
    """A law, a process, two times 0 < s < t < T, and points x (n, d) drawn from p_t."""

    law: GaussianMixture
    process: AffineProcess
    s: float
    t: float

    @cached_property
    def model(self) -> ExactModel:
        """The exact model of the law under the process."""
        return ExactModel(self.law, self.process)

    @cached_property
    def x(self) -> Array:
        """Draws from p_t."""
        return self.model.sample(POINTS, self.t, self.stream(0))


def with_gaussian_data(case: ProcessCase, dim: int = 3) -> ModelCase:
    """The process and times of a case with Gaussian data in `dim` axes, of variances between its two noises / alpha."""
    c, drawn = case.schedule.coefficients([case.s, case.t]), random_mixture(dim, 1, case.rng, "full")
    law = Gaussian(drawn.means[0], drawn.cov()).affine(np.sqrt(np.prod(c.sigma / c.alpha)))
    return ModelCase(f"{case.name}, Gaussian", case.seed, law, case.process, case.s, case.t)


@dataclass(frozen=True, eq=False)
class TableCase(Case):
    """A table of betas."""

    table: BetaTable


def laws() -> dict[str, GaussianMixture]:
    """The default laws: every storage, d from 1 to 64, a degenerate Gaussian, point sets, one component."""
    found = {
        "Gaussian 1-d": Gaussian([0.7], 0.25),
        "Gaussian 3-d full": random_mixture(3, 1, 1, "full"),
        "Gaussian 5-d rank 2": Gaussian(np.zeros(5), 1.0).affine(_projector(5, 2), np.arange(5.0)),
        "mixture 1-d": GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2]),
        "ring of 8": ring(),
        "grid 5 x 5": grid(),
        "mixture 4-d isotropic": random_mixture(4, 6, 2, "isotropic"),
        "mixture 3-d diagonal": random_mixture(3, 5, 3, "diagonal"),
        "mixture 5-d shared": random_mixture(5, 4, 4, "shared"),
        "mixture 3-d full": random_mixture(3, 4, 5, "full"),
        "mixture 16-d full": random_mixture(16, 3, 6, "full"),
        "two moons, 64 points": two_moons(64, 7),
        "two points +-1": Empirical([[-1.0], [1.0]]),
        "mixture 64-d isotropic": random_mixture(64, 8, 8, "isotropic"),
    }
    digits = _digits()
    return found if digits is None else {**found, "digits, 1797 points in 64-d": digits}


def processes() -> dict[str, AffineProcess]:
    """The default scalar processes: the catalogue's without an offset, and some at limits of their families."""
    named = {name: build() for name, build in catalogue().items()}
    found = {name: p if isinstance(p, AffineProcess) else AffineProcess(p) for name, p in named.items()}
    ou = VPLinear(2.0, 2.0, T=3.0)
    more: dict[str, Schedule] = {
        "VE of sqrt(t)": VEPower(0.5, T=10.0),
        "VE geometric, clean start": VEGeometric(0.05, 20.0, clean_start=True),
        "OU as functions": FunctionSchedule(
            ou.alpha, ou.sigma, ou.T, ou.dalpha, ou.dsigma, *(partial(_second, ou, k) for k in ("d2alpha", "d2sigma"))
        ),
    }
    plain = {name: process for name, process in found.items() if process is process.centred and not process.per_axis}
    return plain | {name: AffineProcess(schedule) for name, schedule in more.items()}


def _second(schedule: Schedule, name: str, t: Array) -> Array:
    return np.asarray(getattr(schedule.coefficients(t), name))


def per_axis(dim: int) -> AffineProcess:
    """A process on R^dim whose axes are noised at different rates."""
    return AffineProcess([VPLinear(0.1, 10.0 + 10.0 * j / dim) if j % 2 else FlowMatching() for j in range(dim)])


def tables() -> dict[str, BetaTable]:
    """The default tables of betas, with one step and zero terminal signal-to-noise ratio among them."""
    found = {name: build() for name, build in beta_table.TABLES.items()}
    found["linear, 20 steps"] = beta_table.linear(20, 0.01, 0.6)
    found["one step"] = BetaTable(np.array([0.4]))
    found["zero terminal SNR"] = beta_table.scaled_linear().zero_terminal_snr()
    return found


# Fractions of T for (s, t): early, middle, late.
TIMES = ((0.23, 0.41), (0.04, 0.11), (0.55, 0.87), (0.31, 0.97))


def model_cases(level: str, seed: int, given: dict[str, GaussianMixture] | None = None) -> Iterator[ModelCase]:
    """Laws x processes x times at a level of LEVELS; `given` laws replace the default ones."""
    named = laws() if given is None else given
    noisings: list[tuple[str, AffineProcess | None]] = [*processes().items(), ("per axis", None)]
    everything = len(noisings)
    stride = next(step for step in range(5, everything + 7) if math.gcd(step, everything) == 1)
    # a single given law meets every process; the default laws share the processes among them
    share = {"quick": 1, "default": 3}.get(level, everything) if given is None else {"quick": 3}.get(level, everything)
    for i, (law_name, law) in enumerate(named.items()):
        for j in range(share):
            # with a stride coprime to the number of processes successive laws meet all of them in turn
            process_name, process = noisings[(i + stride * j) % len(noisings)]
            process = per_axis(law.dim) if process is None else process
            for k, (s, t) in enumerate(TIMES if level == "thorough" else [TIMES[(i + j) % len(TIMES)]]):
                name = f"{law_name}, {process_name}, t = {t:g} T"
                yield ModelCase(name, seed + k, law, process, s * process.T, t * process.T)


def process_cases(level: str, seed: int, given: dict[str, GaussianMixture] | None = None) -> Iterator[ProcessCase]:  # noqa: ARG001
    """Every scalar process at one time, three or all, as the level says."""
    for name, process in processes().items():
        for s, t in TIMES[: {"quick": 1, "default": 3}.get(level)]:
            yield ProcessCase(f"{name}, t = {t:g} T", seed, process, s * process.T, t * process.T)


def law_cases(level: str, seed: int, given: dict[str, GaussianMixture] | None = None) -> Iterator[LawCase]:
    """Every law, or every second one at level quick, blurred where it has no density of its own."""
    named = laws() if given is None else given
    for i, (name, law) in enumerate(named.items()):
        if level == "quick" and i % 2 and given is None:
            continue
        if law.covariances.singular:
            name, law = f"{name}, blurred", law.convolve(0.25)
        yield LawCase(name, seed, law)


def table_cases(level: str, seed: int, given: dict[str, GaussianMixture] | None = None) -> Iterator[TableCase]:  # noqa: ARG001
    """Every table of betas, at every level."""
    return (TableCase(name, seed, table) for name, table in tables().items())


def once(level: str, seed: int, given: dict[str, GaussianMixture] | None = None) -> Iterator[Case]:  # noqa: ARG001
    """Random numbers for checks that make their own objects: one at level quick, three by default, ten thorough."""
    return (Case(f"draw {i}", seed + i) for i in range({"quick": 1, "default": 3, "thorough": 10}[level]))


KINDS: dict[str, Callable[..., Iterator[Case]]] = {
    "models": model_cases,
    "processes": process_cases,
    "laws": law_cases,
    "tables": table_cases,
    "once": once,
}


def _projector(dim: int, rank: int) -> Array:
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, rank)))
    return np.asarray(basis @ basis.T)


def _digits() -> GaussianMixture | None:
    """scikit-learn's handwritten digits, centred and scaled to [-1, 1], where scikit-learn is installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    return Empirical(load_digits().data / 8 - 1)
