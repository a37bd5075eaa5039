r"""The library against arithmetic of 50 digits and more, in ulps:   python -m refdiff.validation.vectors.ulps

An ulp is the spacing of float64 at a number. Two are counted for every entry of every result:

    of the result   |computed - exact| / ulp(exact rounded to float64)
    of the size     |computed - exact| / ulp(size)

The size of a sum is the sum of its absolute terms (`exact.Observed`), the size of a function of time is
|value| + |t d value / dt|, and of a time found from lambda |t| + |lambda dt / dlambda|: what one rounding of the input
already changes. Where terms cancel, only the second count says something about the implementation.
The grid holds ordinary inputs and weights of 1e-300, separations of 1e8, variances of 1e-30 and 1e30, times of 1e-12.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mpmath as mp
import numpy as np
from numpy.typing import ArrayLike

from refdiff.channels import Channel
from refdiff.distributions import GaussianMixture
from refdiff.processes import beta_table
from refdiff.schedules import (
    FlowMatching,
    Schedule,
    SubVP,
    Trigonometric,
    VEGeometric,
    VEPower,
    VPCosine,
    VPLinear,
)
from refdiff.validation.vectors import exact
from refdiff.validation.vectors.exact import Observed, Path, Value

Comparison = tuple[str, str, ArrayLike, Value]  # function, case, computed, exact


@dataclass(frozen=True)
class Worst:
    """A function's largest errors: of_result (result_case) in ulps of the result, of_size (size_case) of its size."""

    of_result: float = 0.0
    result_case: str = ""
    of_size: float = 0.0
    size_case: str = ""

    def including(self, case: str, computed: ArrayLike, value: Value) -> Worst:
        """These errors, or those of what was computed for another value, both of any shape, where they are larger."""
        result, size = _ulps(computed, value.entries), _ulps(computed, value.entries, value.sizes)
        return Worst(
            max(self.of_result, result),
            case if result > self.of_result else self.result_case,
            max(self.of_size, size),
            case if size > self.of_size else self.size_case,
        )


def _ulps(computed: ArrayLike, entries: list[object], sizes: list[object] | None = None) -> float:
    """The largest error of an entry in ulps of the exact entry, or of its size."""
    worst = 0.0
    with mp.workdps(exact.DIGITS):
        for got, true, size in zip(np.ravel(computed), entries, sizes or entries, strict=True):
            if not np.isfinite(got):
                return np.inf
            unit = np.spacing(abs(float(size)))  # type: ignore[arg-type]
            worst = max(worst, float(abs(mp.mpf(float(got)) - true) / mp.mpf(float(unit))))
    return worst


# ---------------------------------------------------------------------- laws


def _laws() -> Iterator[tuple[str, str, Observed]]:
    """Case name, storage, and the mixture with its observation."""
    rng = np.random.default_rng(0)
    for d, count in ((1, 1), (1, 3), (2, 4), (3, 2)):
        for storage in ("isotropic", "diagonal", "full"):
            means, y = 2 * rng.standard_normal((count, d)), rng.standard_normal(d)
            spread = 10 ** -rng.random((count, 1 if storage == "isotropic" else d)) * np.ones((count, d))
            axes, _ = np.linalg.qr(rng.standard_normal((count, d, d)))
            axes = axes if storage == "full" else np.broadcast_to(np.eye(d), (count, d, d))
            matrices = (axes * spread[:, None, :]) @ np.swapaxes(axes, 1, 2)
            matrices = 0.5 * (matrices + np.swapaxes(matrices, 1, 2))
            weights = rng.dirichlet(np.ones(count))
            for a, q in ((0.8, 0.36), (1e-3, 1.0), (1.0, 1e-10)):
                name = f"{storage}, d {d}, K {count}, a {a:g}, q {q:g}"
                yield name, storage, Observed(weights, means, matrices, y, a, q)
    one, two = np.eye(1), np.eye(2)
    far = [[-1e8, 0.0], [1e8, 0.5]]
    yield "weight 1e-300", "isotropic", Observed([1.0, 1e-300], [[0.0], [38.0]], [one, one], [37.0], 1.0, 0.1)
    yield "separation 1e8", "isotropic", Observed([0.3, 0.7], far, [two, two], [1e8 + 0.75, 0.25], 1.0, 0.5)
    yield (
        "variances 1e-30 and 1e30",
        "isotropic",
        Observed([0.5, 0.5], [[0.0], [1.0]], [1e-30 * one, 1e30 * one], [1e-15]),
    )
    yield "variance 1e-30, noise 1e-30", "isotropic", Observed([1.0], [[0.25]], [1e-30 * one], [0.25], 1.0, 1e-30)
    yield "variance 1e30, noise 1e-30", "isotropic", Observed([1.0], [[0.0]], [1e30 * one], [1e14], 1.0, 1e-30)
    yield (
        "axes 1e-30 and 1e30",
        "diagonal",
        Observed([1.0], [[1.0, -1.0]], [np.diag([1e-30, 1e30])], [1.0, 3e14], 0.5, 1e-3),
    )
    close = [[0.0, 1.0], [1.0, 0.0], [2.0, 3.0]]
    yield "three points, q 1e-8", "isotropic", Observed([1, 1, 1], close, [0 * two] * 3, [0.5, 0.5001], 1.0, 1e-8)
    yield "three points, q 1e12", "isotropic", Observed([1, 1, 1], close, [0 * two] * 3, [2e6, -1e6], 1.0, 1e12)
    bent = np.array([[1.0, 1 - 1e-8], [1 - 1e-8, 1.0]])
    yield "correlation 1 - 1e-8", "full", Observed([1.0], [[0.0, 0.0]], [bent], [1.0, 0.9999], 0.9, 1e-9)
    yield "rank 1 and noise 1e-6", "full", Observed([1.0], [[0.0, 1.0]], [np.ones((2, 2))], [0.5, 1.4995], 1.0, 1e-6)
    yield "density near 1", "isotropic", Observed([1.0], [[0.0]], [one / (2 * np.pi)], [1e-3], 1.0, 0.0)


def _build(storage: str, o: Observed) -> GaussianMixture:
    means, matrices = np.asarray(o.means, float), np.asarray(o.covariances, float)
    diagonals = np.diagonal(matrices, axis1=1, axis2=2)
    if storage == "isotropic":
        return GaussianMixture.isotropic(means, diagonals[:, 0], o.weights)
    if storage == "diagonal":
        return GaussianMixture.diagonal(means, diagonals, o.weights)
    return GaussianMixture.full(means, matrices, o.weights)


def law_comparisons() -> Iterator[Comparison]:
    """Log density, score, denoiser and posterior covariance on the grid of laws."""
    for name, storage, o in _laws():
        values, law, channel = o.values(), _build(storage, o), Channel(o.a, 0.0, o.q)
        pushed = channel.push(law)
        yield "log density", name, pushed.logpdf(o.y), values["log density"]
        yield "score", name, pushed.score(o.y), values["score"]
        if o.q == 0:
            continue  # a noise-free observation leaves nothing to estimate
        yield "denoiser", name, channel.posterior_mean(law, o.y), values["denoiser"]
        yield "posterior covariance", name, channel.posterior_cov(law, o.y), values["posterior covariance"]


# ---------------------------------------------------------------------- schedules


def _schedules() -> dict[str, tuple[Schedule, Path]]:
    ddpm = beta_table.linear()
    return {
        "VP linear": (VPLinear(), exact.vp_linear(0.1, 20.0)),
        "VP linear, beta_min 0": (VPLinear(0.0, 20.0), exact.vp_linear(0.0, 20.0)),
        "sub-VP": (SubVP(), exact.vp_linear(0.1, 20.0, sub=True)),
        "VP cosine": (VPCosine(), exact.vp_cosine(0.008)),
        "VP cosine, s 0": (VPCosine(0.0), exact.vp_cosine(0.0)),
        "VE geometric": (VEGeometric(), exact.ve_geometric(0.01, 50.0, False)),
        "VE geometric, clean start": (VEGeometric(clean_start=True), exact.ve_geometric(0.01, 50.0, True)),
        "EDM": (VEPower(), exact.ve_power(1.0, 80.0)),
        "VE sqrt": (VEPower(0.5, T=10.0), exact.ve_power(0.5, 10.0)),
        "flow matching": (FlowMatching(), exact.straight()),
        "trigonometric": (Trigonometric(0.5), exact.arc(0.5)),
        "DDPM table": (ddpm, exact.table(ddpm.betas)),
    }


FRACTIONS = (1e-12, 1e-6, 0.01, 0.1234, 0.5, 0.87, 0.999, 1 - 2.0**-40)


def schedule_comparisons() -> Iterator[Comparison]:
    """alpha, sigma, lambda, f, g2 and the inverse of lambda on the grid of times."""
    for name, (schedule, path) in _schedules().items():
        for fraction in FRACTIONS:
            t = fraction * schedule.T
            case, c = f"{name}, t = {fraction:.13g} T", schedule.coefficients(t)
            with mp.workdps(exact.DIGITS):
                for label, computed, function in (
                    ("alpha", c.alpha, path.alpha),
                    ("sigma", c.sigma, path.sigma),
                    ("log_snr", schedule.log_snr(t), path.log_snr),
                    ("f", c.f, path.f),
                    ("g2", c.g2, path.g2),
                ):
                    yield label, case, computed, _in_time(function, mp.mpf(t))
                lam = float(path.log_snr(mp.mpf(t)))
                found = path.time(mp.mpf(lam))
                slope = lam / mp.diff(path.log_snr, found, direction=1)
                yield "time_of_log_snr", case, schedule.time_of_log_snr(lam), Value([found], [found + abs(slope)])


def _in_time(function: exact.Formula, t: exact.Real) -> Value:
    value = function(t)
    return Value([value], [abs(value) + abs(t * mp.diff(function, t, direction=1))])


# ---------------------------------------------------------------------- report


def worst_errors() -> dict[str, Worst]:
    """The worst errors of every function over the whole grid."""
    found: dict[str, Worst] = {}
    for comparisons in (law_comparisons(), schedule_comparisons()):
        for function, case, computed, value in comparisons:
            found[function] = found.get(function, Worst()).including(case, computed, value)
    return found


def report(found: dict[str, Worst]) -> str:
    """One line for each function."""
    lines = [f"{'function':22s}{'ulps of the result':>20s}  {'in':44s}{'ulps of the size':>18s}  in"]
    for function, w in found.items():
        lines.append(f"{function:22s}{w.of_result:20.3g}  {w.result_case:44s}{w.of_size:18.3g}  {w.size_case}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(worst_errors()))
