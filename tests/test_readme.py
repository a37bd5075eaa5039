"""What README promises runs as it stands."""

import ast
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import Phase, settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


# what a reader runs one after the other; the other blocks are tests and an identity
RUN = (
    "ring(count",
    "step = model",
    "impulse_response",
    "LinearProcess",
    "import flow",
    "log_likelihood",
    "objectives",
    "marginal_family",
    "path_kl",
    "MixtureBridge",
)


@pytest.fixture(scope="module")
def reader():
    """The names that the blocks leave, and what they print, run in their order."""
    names: dict[str, object] = {}
    blocks = [block for block in BLOCKS if any(mark in block for mark in RUN)]
    assert len(blocks) == len(RUN)
    with redirect_stdout(StringIO()) as printed:
        for block in blocks:
            exec(block, names)
    return names, printed.getvalue()


def test_the_tour_runs_and_prints_a_posterior(reader):
    assert "GaussianMixture(8 x R^2" in reader[1]


def test_the_samplers_run_and_somebody_elses_is_recognised(reader):
    names, printed = reader
    assert names["points"].shape == (1000, 2)
    assert "DDIM, eta = 0.5: 10 evaluations" in printed


def test_flow_maps_and_likelihoods_run_and_probes_err_as_they_say(reader):
    names, _ = reader
    error = names["probed"].log_likelihood - names["data"].logpdf(names["x"])
    # 5 errors, t-distributed with 15 degrees of freedom: beyond 8 once in 2 10^5 seeds, and there is one
    assert (abs(error) < 8 * names["probed"].standard_error).all()
    # a prior that is almost the law at the end: the signal that is left is 0.0066 of the data
    assert abs(names["found"].log_likelihood - names["data"].logpdf(names["x"])).max() < 0.1


def test_processes_with_matrices_are_sampled_and_objectives_hold_what_they_say(reader):
    names, _ = reader
    radius = (names["moved"][:, :2] ** 2).sum(axis=1) ** 0.5
    assert abs(radius - 4.0).max() < 2.0  # a ring of radius 4 and std 0.3, after 12 steps
    assert abs(names["weights"].log_density.value - names["data"].logpdf(names["x"])).max() < 1e-10
    assert names["gap"] > 0
    assert (names["bound"].total > -names["data"].logpdf(names["x"])).all()


def test_equations_densities_and_paths_hold_what_they_say(reader):
    names, _ = reader
    # a third of a standard error is the error of the steps; a normal is beyond 5 once in 10^6 seeds, and there is one
    assert abs(names["apart"].value) < 5 * names["apart"].error
    exact = names["cells"].averages(names["model"].marginal(0.1))
    assert abs(names["grown"].densities[-1] - exact).max() < 0.05 * exact.max()  # steps and cells of this size
    assert 0.01 < names["ends"].wasserstein < 1  # a score of 1.1 the size ends with less variance, by some hundredths


def test_ways_between_two_laws_hold_what_they_say(reader):
    names, printed = reader
    assert "Gaussian(1 x R^2, dense)" in printed
    assert abs((names["carried"] ** 2).sum(axis=1) ** 0.5 - 4.0).max() < 2.0  # on the ring of radius 4 and std 0.3
    assert names["costs"].straightness.value > 0.1
    assert names["plan"].marginal_error < 1e-6
    # a normal is beyond 5 once in 10^6 seeds, and there are two
    error = (names["end"].cov().diagonal() / 200) ** 0.5
    assert (abs(names["drawn"][1].mean(axis=0) - names["end"].mean()) < 5 * error).all()


def test_the_block_for_a_gpu_runs_and_its_answers_stay_on_the_device(reader, cupy):
    (block,) = [block for block in BLOCKS if "import cupy" in block]
    names = dict(reader[0])
    exec(block, names)
    for name in ("denoised", "log_p", "there", "down", "pulls"):
        assert isinstance(names[name], cupy.ndarray)
    found = names["model"].denoiser(names["x"].get(), 0.4)
    assert abs(names["denoised"].get() - found).max() < 1e-12 * abs(found).max()


def test_the_property_test_of_a_score_of_ones_own_passes_the_exact_one_and_refuses_its_negative():
    block = next(block for block in BLOCKS if "assert_score" in block)
    for sign in (1, -1):
        names = {"my_score": lambda model, x, t, sign=sign: sign * model.score(x, t)}
        exec(block, names)
        check = settings(max_examples=5, phases=[Phase.generate])(names["test_score"])
        if sign == 1:
            check()
        else:
            with pytest.raises(AssertionError, match=r"score is wrong[\s\S]*minus the score"):
                check()


def test_the_audit_of_a_sampler_of_ones_own_passes_and_refuses_a_model_that_is_asked_at_the_next_level():
    block = next(block for block in BLOCKS if "assert_sampler" in block)
    names: dict[str, object] = {}
    exec(block, names)
    names["test_my_euler"]()
    exec(block.replace("model(x, s)", "model(x, t)"), names)
    with pytest.raises(AssertionError, match=r"my_euler is wrong, as edm-euler:\n  told level: 1 steps: evaluation 1"):
        names["test_my_euler"]()


def test_a_scheduler_is_audited_and_its_curve_is_drawn_in_less_than_ten_lines(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in BLOCKS if "from refdiff.testing import audit" in block]
    assert sum(map(bool, block.splitlines())) == len(ast.parse(block).body) < 10
    names: dict[str, object] = {}
    with redirect_stdout(StringIO()) as printed:
        exec(block, names)
    found, curve = names["found"], names["found"].curve
    assert {"coefficients", "law", "order"} <= {one.question for one in found.wrong}
    assert "draws the noise of a step anew" in printed.getvalue()
    assert (tmp_path / "audited.png").stat().st_size > 10_000
    # of orders 2 and 1: from 8 to 64 steps a factor of 8 comes between them, of which pre-asymptotic errors show 2
    assert (curve.errors[-1] / curve.method[-1]) > 2 * curve.errors[0] / curve.method[0]
    said = re.search(r"falls with order (\S+), the method's with (\S+)\. ", README)
    assert f"errors fall with order {said[1]}, the method's on the same grids with {said[2]} " in printed.getvalue()
