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

from refdiff import ExactModel, GaussianMixture, VPLinear
from refdiff.distributions import quantile
from refdiff.dynamics import path
from refdiff.plotting import PALETTE, density_in_time, save, scores, style, trajectories
from refdiff.validation.runner import registry, run_all


def flow(axes: plt.Axes) -> None:
    """The density over time as an image, twelve flow trajectories on top."""
    law = GaussianMixture.isotropic([[-2.0], [0.5], [2.5]], [0.04, 0.09, 0.02], [0.4, 0.25, 0.35])
    model = ExactModel(law, VPLinear())
    clock = np.linspace(1.0, 1e-3, 500)
    starts = quantile(model.marginal(1.0), (np.arange(12) + 0.5) / 12)
    density_in_time(axes, model.log_density, clock[::-1], np.linspace(-3.5, 3.5, 500))
    curves = path(model, starts, clock, rtol=1e-9, atol=1e-9, interpolate=True).x
    trajectories(axes, curves, clock, color=PALETTE[1], first=PALETTE[1], last=PALETTE[1], alpha=1.0)
    axes.set(xlabel="t   (0: data, T: noise)", title=r"$p_t$ and the exact probability flow", xlim=(0, 1))


def main(target: Path) -> None:
    """Draw both panels into `target`."""
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
        flow(left)
        outcomes = list(run_all(registry().values(), "quick"))
        scores(right, outcomes).set_title(f"{len(outcomes)} identities, each with a negative control")
        save(figure, target, dpi=120, colors=256 if target.suffix == ".png" else None)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("readme.png"))
