r"""README's picture: an exact probability flow, and what `refdiff validate --quick` scores.

Left, the density p_t(x) of a three-component mixture under the variance-preserving process, with trajectories of the
probability flow dx/dt = v(x, t) from equally probable starts at t = T: exact, so they end on the data's quantiles.
Right, one line an identity: its worst error, its tolerance, and what its negative control scored.

    python notebooks/readme_picture.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import ndtri

from refdiff import ExactModel, GaussianMixture, VPLinear
from refdiff.validation.runner import registry, run_all


def flow(axes: plt.Axes) -> None:
    """The density over time as an image, twelve flow trajectories on top."""
    model = ExactModel(
        GaussianMixture.isotropic([[-2.0], [0.5], [2.5]], [0.04, 0.09, 0.02], [0.4, 0.25, 0.35]), VPLinear()
    )
    x, times = np.linspace(-3.5, 3.5, 500), np.linspace(1e-3, 1.0, 400)
    density = np.exp([model.log_density(x[:, None], t) for t in times]).T
    axes.imshow(density**0.5, extent=(0, 1, -3.5, 3.5), origin="lower", aspect="auto", cmap="Blues", vmax=1)
    start = ndtri((np.arange(12) + 0.5) / 12)
    path = solve_ivp(
        lambda t, y: model.velocity(y[:, None], t)[:, 0], (1.0, 0.0), start, rtol=1e-9, atol=1e-9, dense_output=True
    )
    clock = np.linspace(0, 1, 500)
    axes.plot(clock, path.sol(clock).T, color="#d55e00", lw=0.9)
    axes.set(
        xlabel="t   (0: data, T: noise)", ylabel="x", title=r"$p_t$ and the exact probability flow", ylim=(-3.5, 3.5)
    )


def scores(axes: plt.Axes) -> None:
    """Error, tolerance and control of every identity, by kind of evidence."""
    outcomes = sorted(
        run_all(registry().values(), "quick"), key=lambda o: (o.identity.evidence.name, o.identity.tolerance, o.error)
    )
    rows = np.arange(len(outcomes))
    tolerance = np.array([o.identity.tolerance for o in outcomes])
    error = np.maximum([o.error for o in outcomes], 1e-17)
    control = np.array([o.control for o in outcomes]) * tolerance
    axes.hlines(rows, error, control, color="0.88", lw=1)
    axes.plot(error, rows, "o", ms=3, color="#0072b2", label="worst error")
    axes.plot(tolerance, rows, "|", ms=4, color="black", label="tolerance")
    axes.plot(control, rows, "x", ms=3, color="#d55e00", label="negative control")
    for kind in {o.identity.evidence for o in outcomes}:
        middle = np.mean([row for row, o in zip(rows, outcomes, strict=True) if o.identity.evidence is kind])
        axes.text(1.6 * kind.tolerance, middle, kind.name, va="center", fontsize=9)
    axes.set(
        xscale="log",
        xlim=(5e-18, 1e6),
        yticks=[],
        xlabel="scaled error",
        title=f"{len(outcomes)} identities, each with a negative control",
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)


def main(target: Path) -> None:
    """Draw both panels into `target`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    flow(left)
    scores(right)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("readme.png"))
