"""Pictures of tables: cells are the weights written out, their numbers fit and say them."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from refdiff import AffineProcess, VPLinear
from refdiff.plotting import style, tableau
from refdiff.plotting.colours import luminance
from refdiff.plotting.styles import MEDIA
from refdiff.plotting.tables import MINUS
from refdiff.processes import critically_damped_langevin
from refdiff.samplers import families, times
from refdiff.samplers.ddim import ddim, gddim
from refdiff.samplers.matrix_deis import matrix_deis

PROCESS = VPLinear()


def grid(steps):
    return times.uniform_log_snr(PROCESS, steps, end=1e-3)


def axes(**size):
    return Figure(**size).subplots()


def cells(drawn):
    return np.asarray(drawn.images[0].get_array())


def written(drawn):
    """Every number in a cell, by stage and column."""
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in drawn.texts}


def ddim_by_hand(when, eta=0.0):
    """Weights of the outputs and normals at every stage: x_t = a_t D + (noise direction) + noise, multiplied out."""
    found = [PROCESS.coefficients(t) for t in when]
    outputs, noise = (np.zeros((len(when), len(when) - 1)) for _ in range(2))
    for k in range(1, len(when)):
        s, t = found[k - 1], found[k]
        spread = eta * t.sigma / s.sigma * np.sqrt(s.sigma**2 - (s.alpha / t.alpha) ** 2 * t.sigma**2)
        kept = np.sqrt(t.sigma**2 - spread**2) / s.sigma
        outputs[k], noise[k] = kept * outputs[k - 1], kept * noise[k - 1]
        outputs[k, k - 1] = t.alpha - kept * s.alpha
        noise[k, k - 1] = spread
    return outputs[1:], noise[1:]


def test_outputs_are_the_weights_of_ddim_multiplied_out():
    when = grid(6)
    found = cells(tableau(axes(), ddim(PROCESS, when)))
    assert_allclose(found, ddim_by_hand(when)[0], rtol=1e-10, atol=1e-13)
    assert not np.allclose(found, ddim_by_hand(when, eta=0.5)[0], rtol=1e-3)


def test_noise_is_the_weights_of_normals_multiplied_out():
    when = grid(6)
    found = cells(tableau(axes(), ddim(PROCESS, when, eta=0.7), "noise"))
    assert_allclose(found, ddim_by_hand(when, eta=0.7)[1], rtol=1e-6, atol=1e-9)  # spread is a difference of squares
    assert not np.allclose(found, ddim_by_hand(when, eta=0.6)[1], rtol=1e-2)


def test_states_are_the_weights_of_earlier_stages():
    table = families()["unipc-3"](PROCESS, grid(4))
    found = cells(tableau(axes(), table, "states"))
    assert found.shape == (table.stages - 1, table.stages - 1)
    for k in range(1, table.stages):
        expected = np.zeros(table.stages - 1)
        for i, weight in enumerate(table.states[k][:k]):
            expected[k - 1 - i] = weight
        assert_allclose(found[k - 1], expected)


def test_columns_are_the_stages_that_are_evaluated():
    table = families()["unipc-3"](PROCESS, grid(4))
    drawn = tableau(axes(figsize=(9, 6)), table)
    assert cells(drawn).shape == (table.stages - 1, table.nfe) != (table.stages - 1, table.stages - 1)
    names = [label.get_text() for label in drawn.get_xticklabels()]
    assert names == [f"$D_{{{j}}}$" for j in np.flatnonzero(table.evaluated)]
    assert drawn.get_yticklabels()[0].get_text() == "$y_{1}$"
    assert drawn.get_xlabel() == "denoiser at stage"


def test_opposite_weights_have_opposite_colours_and_nothing_is_white():
    drawn = tableau(axes(), families()["dpmpp-3m"](PROCESS, grid(6)))
    (image,) = drawn.images
    colors = image.to_rgba([-0.5, 0.0, 0.5])[:, :3]
    assert_allclose(colors[1], 1.0, atol=1e-6)
    assert colors[0, 2] > colors[0, 0]  # blue
    assert colors[2, 0] > colors[2, 2]
    assert image.norm.vmin == -image.norm.vmax == -np.abs(cells(drawn)).max()
    shades = luminance(image.to_rgba(np.geomspace(1e-4, 1.0, 30) * image.norm.vmax)[:, :3])
    assert (np.diff(shades) < 0).all()  # over four decades


@pytest.mark.parametrize("name", ["dpmpp-3m", "dpm-solver-2"])  # one answers the data, one the noise: below 0
def test_colour_bars_name_powers_of_ten_up_to_the_largest_weight(name):
    drawn = tableau(axes(), families()[name](PROCESS, grid(6)))
    (image,), peak = drawn.images, np.abs(cells(drawn)).max()
    assert image.norm.vmax == peak
    ticks = image.colorbar.get_ticks()
    said = [label.get_text().strip("$").replace("}", "") for label in image.colorbar.ax.get_yticklabels()]
    assert_allclose(ticks, [0.0 if one == "0" else float(one.replace("10^{", "1e")) for one in said])
    assert_allclose(ticks, -ticks[::-1])
    assert peak / 10 < ticks[-1] <= peak
    assert len(ticks) in (5, 7)  # 0, and two or three decades each way


@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("layout", ["constrained", None])
def test_numbers_fit_into_their_cells_are_readable_and_true(medium, shape, layout):
    count = 0
    with style(medium):
        wide, tall = MEDIA[medium]["size"]
        figure = Figure(figsize=(wide * shape[1], tall * shape[0]), layout=layout or "none")
        for drawn, steps in zip(np.ravel(figure.subplots(*shape)), (4, 7, 10, 14), strict=False):
            tableau(drawn, families()["dpmpp-3m"](PROCESS, grid(steps)))
            drawn.set_title("DPM-Solver++")
        figure.draw_without_rendering()
        for drawn in [one for one in figure.axes if one.images]:
            count += assert_numbers_fit(drawn)
    assert count > 0


def assert_numbers_fit(drawn):
    """How many there are; all inside of their cells, of contrast 4.5 (WCAG AA), and their weights but for rounding."""
    image, weights = drawn.images[0], cells(drawn)
    for (k, j), text in (found := written(drawn)).items():
        box = text.get_window_extent()
        (left, low), (right, high) = drawn.transData.transform([(j - 0.5, k + 0.5), (j + 0.5, k - 0.5)])
        assert left <= box.x0 < box.x1 <= right
        assert low <= box.y0 + 0.25 * box.height < box.y1 - 0.25 * box.height <= high  # boxes have room for descenders
        y = sorted(float(luminance(to_rgb(c))) for c in (text.get_color(), image.to_rgba(weights[k, j])[:3]))
        assert (y[1] + 0.05) / (y[0] + 0.05) > 4.5
        said = text.get_text().replace(MINUS, "-")
        if said in "+-":
            assert np.sign(weights[k, j]) == float(said + "1")
        else:  # one digit or more: half a unit of the first is 1/2 of the number at most, of 1
            digits = len(said.lstrip("-0.").split("e")[0].replace(".", ""))
            assert float(said) == pytest.approx(weights[k, j], rel=0.5 * 10.0 ** (1 - digits))
    return len(found)


def test_numbers_that_stand_over_are_found(monkeypatch):
    monkeypatch.setattr("refdiff.plotting.tables.ROOM", 3.0)
    drawn = tableau(axes(), families()["dpmpp-3m"](PROCESS, grid(14)))
    drawn.figure.draw_without_rendering()
    with pytest.raises(AssertionError):
        assert_numbers_fit(drawn)


def test_cells_of_no_weight_have_no_numbers():
    drawn = tableau(axes(figsize=(9, 6)), families()["dpmpp-3m"](PROCESS, grid(6)))
    assert set(written(drawn)) == {(k, j) for k in range(6) for j in range(k + 1)}


def test_weights_that_are_exactly_zero_are_white():
    drawn = tableau(axes(), ddim(PROCESS, np.linspace(1.0, 0.0, 6)))
    assert not cells(drawn)[-1, :-1].any()  # sigma = 0 at the end: all of the data is the last answer
    assert not [j for k, j in written(drawn) if k == 4 and j < 4]


def test_a_hundred_stages_are_drawn_without_numbers_and_with_names_apart():
    drawn = tableau(axes(), families()["dpmpp-3m"](PROCESS, grid(100)))
    assert cells(drawn).shape == (100, 100)
    assert not drawn.texts
    drawn.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in drawn.get_xticklabels()]
    assert 5 < len(boxes)
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    boxes = [label.get_window_extent() for label in drawn.get_yticklabels()]
    assert all(a.y0 > b.y1 for a, b in pairwise(boxes))


def test_one_step_is_one_cell():
    drawn = tableau(axes(), ddim(PROCESS, grid(1)))
    assert cells(drawn).shape == (1, 1)
    drawn.figure.draw_without_rendering()


def test_weights_that_are_matrices_are_drawn_by_their_norms():
    table = matrix_deis(critically_damped_langevin(2), np.geomspace(1.0, 1e-3, 4), degree=1, clock="log t")
    drawn = tableau(axes(), table)
    rolled = table.unroll().outputs[1:, table.evaluated]
    largest = [[np.sqrt(np.linalg.eigvalsh(one.T @ one)[-1]) for one in row] for row in rolled]
    assert_allclose(cells(drawn), largest, rtol=1e-10)
    frobenius = np.linalg.norm(rolled, axis=(2, 3))
    assert not np.allclose(cells(drawn), frobenius, rtol=1e-3)
    bar = drawn.images[0].colorbar
    assert (bar.ax.get_ylabel(), drawn.images[0].norm.vmin) == ("norm of the weight", 0.0)


def test_weights_of_axes_are_drawn_by_the_largest_and_equal_ones_by_themselves():
    unequal = AffineProcess([VPLinear(), VPLinear(0.1, 10.0)])
    drawn = tableau(axes(), ddim(unequal, np.array([0.9, 0.5, 0.1])))
    rolled = ddim(unequal, np.array([0.9, 0.5, 0.1])).unroll().outputs[1:, :2]
    assert_allclose(cells(drawn), np.abs(rolled).max(axis=2))
    equal = AffineProcess([VPLinear(), VPLinear()])
    same = tableau(axes(), ddim(equal, np.array([0.9, 0.5, 0.1])))
    assert_allclose(cells(same), cells(tableau(axes(), ddim(PROCESS, np.array([0.9, 0.5, 0.1])))))
    assert same.images[0].norm.vmin < 0


def test_noise_may_be_matrices_where_outputs_are_too():
    table = gddim(critically_damped_langevin(1), np.array([0.9, 0.5, 0.1]), stochasticity=0.5)
    found = cells(tableau(axes(), table, "noise"))
    assert found.shape == (2, table.draws)
    assert_allclose(found[0, 0], np.linalg.norm(table.unroll().noise[1, 0], 2))


def test_tables_in_extended_precision_are_drawn():
    import mpmath

    from refdiff.samplers.extended import ExtendedProcess

    with mpmath.workdps(30):
        table = ddim(ExtendedProcess(PROCESS), grid(3))
        assert table.outputs.dtype == object
        found = cells(tableau(axes(), table))
    assert_allclose(found, ddim_by_hand(grid(3))[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tableau(axes(), ddim(PROCESS, grid(3)), "noise"), "table must be stochastic to have weights of noise"),
        (lambda: tableau(axes(), ddim(PROCESS, grid(3)), "inputs"), "part must be one of states, outputs, noise"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
