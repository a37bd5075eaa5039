"""Looks: styles end where their blocks end, sizes follow the medium, files are whole, text in them is text."""

import re

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from refdiff.plotting import PALETTE, drawable, save, style, trajectories, use_style
from refdiff.plotting.colours import luminance
from refdiff.plotting.styles import MEDIA, thin


def picture(label="a label of t"):
    figure = Figure()
    figure.subplots().set_xlabel(label)
    return figure


@pytest.mark.parametrize("medium", MEDIA)
def test_a_style_ends_with_its_block(medium):
    before = dict(matplotlib.rcParams)
    with style(medium):
        assert [one["color"] for one in matplotlib.rcParams["axes.prop_cycle"]] == list(PALETTE)
        assert dict(matplotlib.rcParams) != before
    assert dict(matplotlib.rcParams) == before


def test_a_style_ends_with_an_error_too():
    before = dict(matplotlib.rcParams)
    with pytest.raises(KeyError), style():
        raise KeyError
    assert dict(matplotlib.rcParams) == before


def test_use_style_stays():
    with matplotlib.rc_context():
        use_style("projector")
        assert matplotlib.rcParams["font.size"] == MEDIA["projector"]["font"]
        with style("projector"):
            inside = dict(matplotlib.rcParams)
        assert dict(matplotlib.rcParams) == inside  # both are one style


def test_lines_and_letters_grow_with_the_distance_of_readers():
    found = {}
    for medium in ("print", "screen", "projector"):
        with style(medium):
            axes = Figure().subplots()
            axes.set_xlabel("t")
            trajectories(axes, np.zeros((2, 1, 2)))
            (curves,) = axes.collections
            found[medium] = (axes.xaxis.label.get_size(), curves.get_linewidths()[0], axes.lines[0].get_markersize())
    for small, large in (("print", "screen"), ("screen", "projector")):
        assert all(a < b for a, b in zip(found[small], found[large], strict=True))


def test_printed_lines_differ_without_colours():
    dashes = {}
    for medium in MEDIA:
        with style(medium):
            dashes[medium] = {str(one.get("linestyle")) for one in matplotlib.rcParams["axes.prop_cycle"]}
    assert len(dashes["print"]) == len(PALETTE)
    assert len(dashes["screen"]) == 1


@pytest.mark.parametrize("medium", MEDIA)
def test_words_have_contrast(medium):
    with style(medium):
        settings = matplotlib.rcParams
        paper = float(luminance(to_rgb(settings["figure.facecolor"])))
        for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"):
            assert (paper + 0.05) / (float(luminance(to_rgb(settings[name]))) + 0.05) >= 7  # WCAG 2.2 AAA


def test_a_style_holds_within_a_dark_one(tmp_path):
    def drawn(name):
        figure = Figure()
        axes = figure.subplots()
        axes.set_title("title")
        axes.axhline(0.5)
        axes.bar([0.0], [1.0], hatch="/")
        axes.legend(axes.plot([0.0, 1.0]), ["line"])
        axes.grid(True)
        return save(figure, tmp_path / name).read_bytes()

    with style():
        light = drawn("light.png")
    with pyplot.style.context("dark_background"):
        with style():
            assert drawn("both.png") == light
        assert drawn("dark.png") != light


def test_few_lines_are_as_thick_as_one_and_many_half_as_thick():
    with matplotlib.rc_context({"lines.linewidth": 3.0}):
        assert_allclose([thin(n) for n in (1, 16, 36, 64, 10**6)], [3.0, 3.0, 2.0, 1.5, 1.5])
        for count in (4, 36):
            (curves,) = trajectories(Figure().subplots(), np.zeros((2, count, 2))).collections
            assert_allclose(curves.get_linewidths(), thin(count))


def test_text_in_files_is_text(tmp_path):
    svg = save(picture(), tmp_path / "p.svg").read_text()
    assert re.search(r"<text[^>]*>a label of t</text>", svg)
    assert b"/Type3" not in save(picture(), tmp_path / "p.pdf").read_bytes()
    with matplotlib.rc_context({"pdf.fonttype": 3, "svg.fonttype": "path"}):  # as matplotlib does by itself
        picture().savefig(tmp_path / "drawn.svg")
        picture().savefig(tmp_path / "drawn.pdf")
    assert "<text" not in (tmp_path / "drawn.svg").read_text()
    assert b"/Type3" in (tmp_path / "drawn.pdf").read_bytes()


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_one_picture_is_one_sequence_of_bytes(tmp_path, kind):
    first, second = (save(picture(), tmp_path / f"{i}.{kind}").read_bytes() for i in range(2))
    assert first == second
    assert first != save(picture("another label"), tmp_path / f"other.{kind}").read_bytes()


def test_a_file_is_whole_or_what_was_there(tmp_path):
    path = tmp_path / "p.svg"
    path.write_text("what was there")
    broken = picture()
    broken.axes[0].text(0.5, 0.5, r"$\nosuchsymbol$")
    with pytest.raises(ValueError, match="nosuchsymbol"):
        save(broken, path)
    assert path.read_text() == "what was there"
    assert [one.name for one in tmp_path.iterdir()] == ["p.svg"]
    assert "<svg" in save(picture(), path).read_text()


def test_dpi_are_the_dots_of_an_inch(tmp_path):
    from matplotlib.image import imread

    figure = Figure(figsize=(2.0, 1.0))
    assert imread(save(figure, tmp_path / "p.png", dpi=50)).shape[:2] == (50, 100)


def test_few_colours_are_near_those_of_all_in_fewer_bytes(tmp_path):
    from matplotlib.image import imread

    figure = Figure()
    figure.subplots().imshow(np.add.outer(np.arange(60.0), np.arange(50.0) ** 2))
    whole, few, one = (save(figure, tmp_path / f"{n}.png", colors=n) for n in (None, 256, 2))
    pixels = [imread(path)[..., :3] for path in (whole, few, one)]
    assert few.stat().st_size < 0.6 * whole.stat().st_size
    # median cut: the map has 256 colours itself, and the edges of letters are greys
    assert np.abs(pixels[1] - pixels[0]).mean() < 1 / 255
    assert np.abs(pixels[2] - pixels[0]).mean() > 10 / 255
    assert len(np.unique(pixels[1].reshape(-1, 3), axis=0)) <= 256


def test_saving_leaves_the_settings(tmp_path):
    before = dict(matplotlib.rcParams)
    save(picture(), tmp_path / "p.svg")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: use_style("poster"), "medium must be one of screen, print, projector, got 'poster'"),
        (lambda path: save(Figure(), path / "p.xyz"), "path must end in one of"),
        (lambda path: save(Figure(), path / "p"), "path must end in one of"),
        (lambda path: save(Figure(), path / "p.png", dpi=0), "dpi must lie in"),
        (lambda path: save(Figure(), path / "p.png", colors=257), "colors must be in 1..256, got 257"),
        (lambda path: save(Figure(), path / "p.svg", colors=8), "colors must be left out"),
        (lambda path: drawable("p.docx"), r"must end in one of .*\.pdf.*got 'p.docx'"),
    ],
)
def test_what_is_no_look_or_file_is_said(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
