"""`refdiff samplers` and `refdiff compare` as their users meet them."""

import json
import re
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from refdiff import Gaussian, VEGeometric, VPCosine, VPLinear
from refdiff.cli import main
from refdiff.samplers.compare import Measured, default_span, work_precision
from refdiff.samplers.ddim import ddim
from refdiff.samplers.families import families
from refdiff.samplers.propagation import propagate
from refdiff.samplers.storage import load
from refdiff.samplers.times import uniform_log_snr


def refdiff(*arguments):
    """What the command gives back."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_list_names_every_family_and_its_stated_order():
    lines = refdiff("samplers", "--no-measure").output.splitlines()
    shown = {line.split()[0]: line.split()[1] for line in lines[1:]}
    assert set(shown) == set(families())
    assert all(shown[name] == ("-" if f.order is None else f"{f.order:g}") for name, f in families().items())


def test_the_list_measures_orders_with_and_without_start_up():
    lines = refdiff("samplers", "--only", "^dpmpp-3m$|^ddim-eta1$").output.splitlines()
    assert lines[0].split() == ["sampler", "order", "measured", "as", "run", "nfe", "noise", "source"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert rows["dpmpp-3m"][:4] == ["3", "3.00", "2.00", "n"]
    assert rows["ddim-eta1"][:4] == ["1", "1.00", "n", "yes"]


def test_a_table_is_shown_and_saved(tmp_path):
    result = refdiff("samplers", "ddim", "--steps", 3, "--set", "eta=0.5", "--save", tmp_path / "t.json")
    assert "eta = 0.5" in result.output
    assert "3 evaluations of the denoiser, 4 stages, 3 normals" in result.output
    process = VPLinear()
    first, last = default_span(process)
    expected = ddim(process, uniform_log_snr(process, 3, start=first, end=last), eta=0.5)
    assert load(tmp_path / "t.json").close(expected, 0.0)


def test_a_table_is_shown_for_another_prediction_and_coordinate():
    result = refdiff("samplers", "ddim", "--prediction", "noise", "--coordinate", "x/alpha", "--process", "edm")
    assert "coordinate x/alpha; D_j is the noise" in result.output
    assert result.output.count("+1 y") == 5  # x/alpha moves by multiples of the noise


def test_the_comparison_is_exact_propagation(tmp_path):
    result = refdiff("compare", "ddim", "dpmpp-2m", "--steps", "5,10", "--json", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["sampler"], row["steps"], row["nfe"]) for row in rows] == [
        ("ddim", 5, 5), ("ddim", 10, 10), ("dpmpp-2m", 5, 5), ("dpmpp-2m", 10, 10)]  # fmt: skip
    process = VPLinear()
    first, last = default_span(process)
    expected = propagate(ddim(process, uniform_log_snr(process, 10, start=first, end=last)), Gaussian([0.7], 0.25))
    assert rows[1]["wasserstein"] == expected.wasserstein()
    assert f"{rows[1]['wasserstein']:.2e} (10)" in result.output


def test_a_comparison_is_drawn(tmp_path):
    refdiff("compare", "ddim", "dpmpp-2m", "--law", "mixture", "--steps", "5,10", "--plot", tmp_path / "wp.png")
    assert (tmp_path / "wp.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["wp.png"]


def test_a_drawn_comparison_says_what_is_compared_and_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    refdiff("compare", "ddim", "dpmpp-2m", "--steps", "5,10", "--plot", tmp_path / "wp.svg")
    words = re.findall(r"<text[^>]*>(.*?)</text>", (tmp_path / "wp.svg").read_text())
    assert {"ddim", "dpmpp-2m", "5", "10", "function evaluations"} <= set(words)
    assert "gaussian data, process vp-linear, grid uniform-log-snr" in words
    assert "edm-heun" not in words
    assert dict(matplotlib.rcParams) == before


def test_a_comparison_without_distances_is_not_drawn_and_says_so(tmp_path, monkeypatch):
    rows = [Measured("ddim", 5, 0, None, "no table here")]
    monkeypatch.setattr("refdiff.samplers.compare.work_precision", lambda *_, **__: rows)
    result = refdiff("compare", "ddim", "--steps", "5", "--plot", tmp_path / "wp.svg")
    assert result.exit_code == 1
    assert "was not drawn: rows must hold at least one distance above 0" in result.output
    assert not list(tmp_path.iterdir())


def test_points_of_ones_own_stand_for_a_gaussian(tmp_path):
    points = np.random.default_rng(0).standard_normal((50, 3)) @ np.diag([1.0, 0.5, 0.2])
    np.save(tmp_path / "points.npy", points)
    refdiff("compare", "ddim", "--steps", "5", "--data", tmp_path / "points.npy", "--json", tmp_path / "rows.json")
    process = VPLinear()
    first, last = default_span(process)
    law = Gaussian(points.mean(axis=0), np.cov(points.T, bias=True))
    expected = propagate(ddim(process, uniform_log_snr(process, 5, start=first, end=last)), law).wasserstein()
    np.testing.assert_allclose(json.loads((tmp_path / "rows.json").read_text())[0]["wasserstein"], expected, rtol=1e-10)


def test_a_sampler_that_cannot_run_there_does_not_stop_the_others():
    result = refdiff("compare", "exponential-heun-noise", "ddim", "--steps", "4", "--end", "0", "--grid", "uniform")
    assert result.exit_code == 0
    assert "exponential-heun-noise: times must end where sigma > 0" in result.output
    assert "(4)" in result.output


def test_a_refusal_is_said_once():
    text = refdiff("compare", "dpmpp-2m-sde", "ddim", "--law", "mixture", "--steps", "4,5").output
    assert text.count("dpmpp-2m-sde: tableau must add noise only at the end of a step") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samplers", "dimm"], "'dimm' is no sampler; did you mean"),
        (["samplers", "ddim", "--process", "x"], "'x' must be a process: "),
        (["samplers", "ddim", "--grid", "x"], "'x' must be a grid: uniform,"),
        (["samplers", "ddim", "--set", "eta"], "'eta' must be KEY=VALUE"),
        (["samplers", "ddim", "--set", "eta=-1"], "eta must lie in"),
        (["samplers", "ddim", "--set", "theta=1"], "'theta' must be an option of ddim: eta, noise"),
        (["samplers", "ddim", "--set", "process=1"], "'process' must be an option of ddim: eta, noise"),
        (["samplers", "ddim", "--only", "ddim"], "NAME and --only exclude each other"),
        (["samplers", "ddim", "--grid", "leading"], "process must be a"),
        (
            ["samplers", "ddim", "--grid", "leading", "--process", "ddpm", "--end", "9"],
            "must not be given with grid leading",
        ),
        (["samplers", "ddim", "--prediction", "x0"], "prediction must be one of"),
        (["samplers", "ddim", "--start", "0"], "start must be noisier (later) than end"),
        (["samplers", "ddim", "--start", "7"], "start must lie in [0, 1.0], got 7.0"),
        (["samplers", "ddim", "--save", "t.txt"], "path must end in .json or .npz"),
        (["samplers", "--only", "("], "must be a regular expression"),
        (["samplers", "--only", "nothing like it"], "no sampler matches"),
        (["compare", "ddim", "--steps", "five"], "'five' must be whole numbers"),
        (["compare", "ddim", "--steps", "0"], "steps must be at least 1, got 0"),
        (["compare", "ddim", "--law", "x"], "'x' must be a law: gaussian,"),
        (["compare", "ddim", "--data", "missing.npy"], "missing.npy"),
        (["compare", "ddim", "--plot", "missing/plot.png"], "is in a folder that does not exist"),
        (["compare", "ddim", "--steps", "5", "--plot", "plot.xyz"], "path must end in one of"),
    ],
)
def test_what_is_not_understood_is_said(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = refdiff(*arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_help_names_what_can_be_chosen():
    text = "".join(refdiff("compare", "--help").output.split())
    for names in ("vp-linear|vp-cosine", "gaussian|normal", "uniform|quadratic"):
        assert names in text


def test_grids_of_a_table_run_through_it():
    text = refdiff("samplers", "ddim", "--process", "ddpm", "--grid", "trailing", "--steps", 4).output
    assert [line.split()[3] for line in text.splitlines()[-5:]] == ["1000", "750", "500", "250", "0"]


def test_narrow_consoles_cut_the_source_and_no_number(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    row = refdiff("samplers", "--only", "^dpmpp-3m$").output.splitlines()[1].split()
    assert row[:5] == ["dpmpp-3m", "3", "3.00", "2.00", "n"]


def test_default_spans_stop_where_the_process_does():
    assert default_span(VPCosine()) == pytest.approx(
        (VPCosine().time_of_log_snr(-5.0), VPCosine().time_of_log_snr(4.0))
    )
    narrow = VEGeometric(0.1, 10.0)  # sigma / alpha from 0.1 to 10: inside of lambda = -5 to 4
    assert default_span(narrow) == (narrow.T, 0.0)


def test_a_plot_without_matplotlib_is_refused_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    result = refdiff("compare", "ddim", "--plot", tmp_path / "p.png")
    assert "pictures need matplotlib: pip install 'refdiff[plot]'" in result.output
    assert "W2" not in result.output


def test_a_mixture_in_the_plane_has_no_exact_distance():
    from refdiff.distributions import ring

    with pytest.raises(ValueError, match="law must be Gaussian, or on the line"):
        work_precision({"ddim": families()["ddim"]}, VPLinear(), ring(), [5])
