"""What holds for every picture: it is drawn on the axes that are given, changes nothing else, and is a vector file."""

import inspect
import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from refdiff import Gaussian, VPLinear, plotting
from refdiff.distributions import ring
from refdiff.plotting import save, style
from refdiff.samplers import families, times
from refdiff.samplers.compare import Measured

PLACES = np.linspace(-1, 1, 60)
POINTS = np.random.default_rng(0).standard_normal((400, 40, 2))
TABLE = families()["dpmpp-3m"](VPLinear(), times.uniform_log_snr(VPLinear(), 30, end=1e-3))
OUTCOME = SimpleNamespace(
    identity=SimpleNamespace(evidence=SimpleNamespace(name="rounding"), tolerance=1e-12), error=1e-15, control=1e9
)


def swirl(x):
    return np.stack([-x[:, 1], x[:, 0]], axis=1)


# every function that draws, on something large enough that it could be a large file
DRAWN = {
    "arrows": lambda axes: plotting.arrows(axes, swirl, PLACES[::3], PLACES[::3]),
    "carried_grid": lambda axes: plotting.carried_grid(axes, np.sin, PLACES[::3], PLACES[::3]),
    "convergence": lambda axes: plotting.convergence(axes, [1, 2, 4], [1.0, 0.5, 0.2], order=1),
    "density": lambda axes: plotting.density(axes, ring()),
    "density_in_time": lambda axes: plotting.density_in_time(
        axes, lambda x, t: Gaussian([0.0], 1 + t).logpdf(x), np.linspace(0, 1, 400), np.linspace(-1, 1, 400)
    ),
    "error_map": lambda axes: plotting.error_map(axes, np.outer(PLACES, PLACES), PLACES, PLACES),
    "pairs": lambda axes: plotting.pairs(axes, POINTS[0], POINTS[1]),
    "plan": lambda axes: plotting.plan(axes, np.outer(PLACES, PLACES) ** 2, PLACES, PLACES),
    "scores": lambda axes: plotting.scores(axes, [OUTCOME] * 800),
    "streamlines": lambda axes: plotting.streamlines(axes, swirl, PLACES, PLACES),
    "tableau": lambda axes: plotting.tableau(axes, TABLE),
    "trajectories": lambda axes: plotting.trajectories(axes, POINTS),
    "work_precision": lambda axes: plotting.work_precision(axes, [Measured("ddim", 5, 5, 0.1)]),
}
LARGEST = 1.5e6  # bytes of a vector file: what a page or a notebook bears


def test_every_function_that_draws_is_here():
    found = {name for name in plotting.__all__ if callable(getattr(plotting, name))
             and next(iter(inspect.signature(getattr(plotting, name)).parameters), "") == "axes"}  # fmt: skip
    assert found == DRAWN.keys()


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_is_drawn_on_its_axes_and_changes_nothing_else(name):
    settings, figures = dict(matplotlib.rcParams), pyplot.get_fignums()
    figure = Figure()
    other, axes = figure.subplots(1, 2)
    assert DRAWN[name](axes) is axes
    assert axes.has_data()
    assert not other.has_data()
    assert dict(matplotlib.rcParams) == settings
    assert pyplot.get_fignums() == figures


@pytest.mark.parametrize("name", DRAWN)
def test_a_vector_file_has_lines_and_text_and_a_bounded_size(name, tmp_path):
    with style("print"):
        figure = Figure()
        axes = DRAWN[name](figure.subplots())
        axes.set_title("what is seen")
        path = save(figure, tmp_path / "p.svg")
    text = path.read_text()
    assert re.search(r"<text[^>]*>what is seen</text>", text)
    assert "<path" in text
    assert len(text) < LARGEST


def test_dense_images_are_what_bounds_sizes(tmp_path):
    figure = Figure()
    axes = DRAWN["density_in_time"](figure.subplots())
    small = len(save(figure, tmp_path / "p.pdf").read_bytes())
    axes.collections[0].set_rasterized(False)
    assert len(save(figure, tmp_path / "p.pdf").read_bytes()) > 3 * small


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_drawn_beside_a_constrained_layout_and_in_parts_of_figures(name):
    with style("projector"):
        figure = Figure()
        left, right = figure.subfigures(1, 2)
        DRAWN[name](left.subplots())
        figure.draw_without_rendering()
    assert {one.figure for one in figure.axes} == {left}  # colour bars too
    assert not right.axes


def test_matplotlib_is_imported_by_what_draws_alone():
    code = "import sys, refdiff.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
