r"""README's gallery: six pictures, each of exact quantities and in few lines; the notebooks explain them.

marginals   one density in time, two dynamics: the probability flow and the reverse SDE (notebook 05)
score       the score of a mixture and where it leads (03)
tables      samplers as tables of weights (06)
orders      their exact errors, with the triangles of their orders (06)
plans       entropic plans, from spread out to the monotone map (08)
errors      where in the plane ten steps of two samplers leave the exact flow (05, 06)

python notebooks/gallery.py [FOLDER]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from refdiff import Empirical, ExactModel, Gaussian, GaussianMixture, VPLinear, plotting
from refdiff.distributions import quantile, ring
from refdiff.dynamics import flow, path
from refdiff.samplers import families, propagate, run, times
from refdiff.stochastic import marginal_family, solve
from refdiff.transport import sinkhorn

SIZE = (6.0, 3.6)


def marginals() -> Figure:
    """p_t of three components, the flow from equally probable starts, and three paths of the reverse SDE."""
    law = GaussianMixture.isotropic([[-2.0], [0.5], [2.5]], [0.04, 0.09, 0.02], [0.4, 0.25, 0.35])
    model = ExactModel(law, VPLinear())
    down = np.linspace(1.0, 1e-3, 801)
    starts = quantile(model.marginal(1.0), (np.arange(12) + 0.5) / 12)
    curves = path(model, starts, down, rtol=1e-8, interpolate=True).x
    noisy = solve(marginal_family(model, 1.0), model.sample(3, 1.0, seed=5), down, seed=6, trajectory=True)
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    plotting.density_in_time(axes, model.log_density, np.linspace(1e-3, 1.0, 300), np.linspace(-3.6, 3.6, 300))
    plotting.trajectories(axes, noisy, down, color="0.25", alpha=0.9)
    plotting.trajectories(axes, curves, down, color=plotting.PALETTE[1], alpha=1.0)
    axes.set(title="one density, two dynamics", xlabel="t   (0: data, T: noise)", xlim=(0, 1), ylim=(-3.6, 3.6))
    return figure


def score() -> Figure:
    """The score of a noised ring, over its regions of highest density."""
    model = ExactModel(ring(6, 2.0, 0.25), VPLinear())
    places = np.linspace(-2.2, 2.2, 40)
    figure, several = plt.subplots(1, 2, figsize=SIZE, sharey=True, layout="constrained")
    for axes, t in zip(several, (0.05, 0.2), strict=True):
        plotting.density(axes, model.marginal(t))
        plotting.streamlines(axes, lambda at, t=t: model.score(at, t), places, places, density=0.9)
        axes.set(title=rf"$\nabla \log p_t$,  t = {t}", aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    return figure


def tables() -> Figure:
    """Weights of outputs in every stage of two samplers on one grid."""
    process = VPLinear()
    grid = times.uniform_log_snr(process, 5, end=1e-2)
    figure, several = plt.subplots(1, 2, figsize=SIZE, layout="constrained")
    for axes, name in zip(several, ("dpmpp-3m", "unipc-3"), strict=True):
        plotting.tableau(axes, families()[name](process, grid))
        axes.set_title(name)
    return figure


def orders() -> Figure:
    """Exact W2 distances of output laws for Gaussian data, and the orders that they show."""
    process, law = VPLinear(), Gaussian([0.7], 0.25)
    counts = np.array([8, 16, 32, 64, 128])
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for name, order in (("ddim", 1), ("edm-heun", 2), ("dpmpp-3m", 3)):
        grids = (times.uniform_log_snr(process, n, start=0.9, end=0.1) for n in counts)
        errors = [propagate(families()[name](process, grid), law).wasserstein() for grid in grids]
        plotting.convergence(axes, counts, errors, label=name, order=order)
    axes.set(title="exact errors, no Monte Carlo", ylabel=r"$W_2$ to the exact law")
    axes.legend()
    return figure


def plans() -> Figure:
    """Entropic plans between two laws on the line as the entropy's weight falls."""
    p = GaussianMixture.isotropic([[-1.0], [1.0]], 0.1)
    q = GaussianMixture.isotropic([[-1.5], [0.0], [1.5]], 0.05)
    x, y = np.linspace(-2.2, 2.2, 150)[:, None], np.linspace(-2.4, 2.4, 150)[:, None]
    first, second = (Empirical(at, np.exp(law.logpdf(at))) for law, at in ((p, x), (q, y)))
    figure, several = plt.subplots(1, 3, figsize=SIZE, sharey=True, layout="constrained")
    for axes, epsilon in zip(several, (2.0, 0.2, 0.02), strict=True):
        plotting.plan(axes, sinkhorn(first, second, epsilon).coupling(), x, y)
        axes.set(title=rf"$\varepsilon = {epsilon}$")
        axes.label_outer()
    return figure


def errors() -> Figure:
    """The distance of two samplers' ends from the exact flow's, for every start in the plane."""
    model = ExactModel(ring(5, 2.0, 0.2), VPLinear())
    x, y = np.linspace(-2.6, 2.6, 105), np.linspace(-3.2, 3.2, 129)
    starts = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    figure, several = plt.subplots(1, 2, figsize=SIZE, sharey=True, layout="constrained")
    grid = times.uniform_log_snr(model.process, 10, start=1.0, end=0.02)
    exact = flow(model, starts, 1.0, 0.02, rtol=1e-8).x
    for axes, name, bar in zip(several, ("ddim", "dpmpp-3m"), (None, "distance at the end"), strict=True):
        ended = run(families()[name](model.process, grid), model, starts)
        off = np.linalg.norm(ended - exact, axis=1).reshape(len(y), len(x))
        plotting.error_map(axes, off, x, y, floor=1e-3, ceiling=1.0, label=bar)
        axes.set(title=f"{name}, 10 steps", xlabel="start at T", aspect="equal")
    return figure


def main(folder: Path) -> None:
    """Draw all six into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with plotting.style("screen"):
        for draw in (marginals, score, tables, orders, plans, errors):
            figure = draw()
            plotting.save(figure, folder / f"{draw.__name__}.png", dpi=110, colors=256)
            plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("gallery"))
