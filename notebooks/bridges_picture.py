r"""README's picture of ways between two laws: flow matching, optimal transport and a Schroedinger bridge.

Above, two mixtures in the plane. Left, the exact flow of x_t = (1 - t) x_0 + t x_1 with independent ends: smooth curves
that bend where others are on the way. Middle, the optimal coupling of 150 points of each: straight lines. Right, paths
of the Schroedinger bridge of sqrt(eps) w, whose ends these two laws exactly are. Then the same on the line, with the
densities in between. Below, a flow that is rectified once more: its curves become straight, and the cost of the pairs
that it falls by was in their bends, S, and in pairs whose lines cross, V.

    python notebooks/bridges_picture.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from refdiff import Empirical, GaussianMixture
from refdiff.distributions import grid, monotone_map, ring
from refdiff.dynamics import path
from refdiff.expectations import MonteCarlo
from refdiff.interpolants import InterpolantModel, account, linear, rectify, reflow
from refdiff.plotting import PALETTE, density, density_in_time, pairs, save, style, trajectories
from refdiff.schroedinger import MixtureBridge
from refdiff.transport import independent, optimal_pairs

TIMES = np.linspace(0.0, 1.0, 81)
EPSILON = 0.5
LOOSE = {"rtol": 1e-6, "atol": 1e-6, "interpolate": True}


def in_the_plane(axes: np.ndarray) -> None:
    """Curves between two mixtures in the plane, over the regions of highest density of both."""
    outer = GaussianMixture.isotropic(ring(8, 4.5).means, 0.35**2, [6.0, 1.0] * 4)  # heavier where it is farther
    bridge = MixtureBridge(grid(2, 2.0, 0.35), outer, EPSILON)
    p, q = bridge.marginal(0.0), bridge.marginal(1.0)
    for one in axes:
        density(one, p, color=PALETTE[0])
        density(one, q, color=PALETTE[1])
        one.set(aspect="equal")
        one.set_axis_off()
    model = InterpolantModel(independent(p, q), linear())
    trajectories(axes[0], path(model.field(), p.sample(150, 0), TIMES, **LOOSE).x)
    best = optimal_pairs(Empirical(p.sample(150, 1)), Empirical(q.sample(150, 2)))
    pairs(axes[1], best.first.means, best.second.means)
    trajectories(axes[2], bridge.sample(TIMES, 60, 3))


def on_the_line(axes: np.ndarray) -> None:
    """Densities between two mixtures on the line, with curves from equally probable starts."""
    bridge = MixtureBridge(
        GaussianMixture.isotropic([[-1.0], [1.0]], 0.05),
        GaussianMixture.isotropic([[-2.5], [0.0], [2.5]], 0.05, [3.0, 1.0, 3.0]),
        0.3,
    )
    p, q = bridge.marginal(0.0), bridge.marginal(1.0)
    model = InterpolantModel(independent(p, q), linear())
    x = np.linspace(-3.6, 3.6, 300)
    even = np.linspace(-3.6, 3.6, 1000)[:, None]
    z = np.sort(np.concatenate([even, monotone_map(q, p, even)]), axis=0)  # dense among the images too
    images = monotone_map(p, q, z)
    slopes = np.exp(p.logpdf(z) - q.logpdf(images))

    def moved(at: np.ndarray, t: float) -> np.ndarray:  # the density of (1 - t) z + t T(z), where lines do not cross
        places = ((1 - t) * z + t * images)[:, 0]
        return np.interp(at[:, 0], places, p.logpdf(z) - np.log(1 - t + t * slopes))

    starts = np.sort(p.sample(30, 0), axis=0)
    straight = (1 - TIMES[:, None, None]) * starts + TIMES[:, None, None] * monotone_map(p, q, starts)
    ways = (
        (model.log_density, path(model.field(), starts, TIMES, **LOOSE).x),
        (moved, straight),
        (bridge.log_density, bridge.sample(TIMES, 15, 4)),
    )
    for one, (log_density, paths) in zip(axes, ways, strict=True):
        density_in_time(one, log_density, TIMES, x)
        trajectories(one, paths, TIMES, color=PALETTE[1], first="0.2", last="0.2", alpha=0.9)
        one.set(ylim=(x[0], x[-1]), xlim=(0, 1))


def straightened(axes: np.ndarray) -> None:
    """A flow, its reflow, and the account of costs."""
    p = GaussianMixture.isotropic([[-2.0, -1.0], [-2.0, 1.0]], 0.09, [0.6, 0.4])
    q = GaussianMixture.isotropic([[2.0, -2.0], [2.0, 0.0], [2.0, 2.0]], 0.09)
    pairing = independent(p, q)
    flow = rectify(pairing, rtol=1e-6, atol=1e-6)
    starts = p.sample(80, 0)
    curves = path(flow.model.field(), starts, TIMES, **LOOSE).x
    lines = np.stack([reflow(flow).forward(starts, t) for t in (0.0, 1.0)])
    for one, paths, title in zip(axes, (curves, lines), ("rectified flow", "... and once more"), strict=False):
        density(one, p, color=PALETTE[0])
        density(one, q, color=PALETTE[1])
        trajectories(one, paths)
        one.set(aspect="equal", title=title)
        one.set_axis_off()
    costs = account(flow, MonteCarlo(400, 1))
    parts = {"after": costs.after, "S": costs.straightness, "V": costs.variance}
    axes[2].bar("before", costs.before.value, color="0.4", width=0.7)
    floor = 0.0
    for (name, part), color in zip(parts.items(), (PALETTE[0], PALETTE[1], "#882255"), strict=True):
        axes[2].bar("after + S + V", part.value, bottom=floor, color=color, width=0.7)
        axes[2].text(1, floor + part.value / 2, f"{name}  {part.value:.2f}", ha="center", va="center", color="white")
        floor += float(part.value)
    axes[2].text(0, costs.before.value / 2, f"{costs.before.value:.2f}", ha="center", va="center", color="white")
    axes[2].set(title=r"$E\,|x_1 - x_0|^2$", yticks=[], xlim=(-0.6, 1.6))
    axes[2].spines["left"].set_visible(False)


def main(target: Path) -> None:
    """Draw all panels into `target`."""
    with style():
        figure, axes = plt.subplots(3, 3, figsize=(11, 10.2), height_ratios=[1.05, 1.0, 0.85])
        in_the_plane(axes[0])
        on_the_line(axes[1])
        straightened(axes[2])
        for one, title in zip(axes[0], ("flow matching", "optimal transport", "Schroedinger bridge"), strict=True):
            one.set_title(title)
        save(figure, target, dpi=100, colors=256 if target.suffix == ".png" else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("bridges.png"))
