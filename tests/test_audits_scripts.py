"""Reproductions run by themselves, and print the numbers that the audit found."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from refdiff.samplers.dpm_solver import dpm_solver_multistep
from refdiff.samplers.dpm_solver_pp import dpm_solver_pp_multistep
from refdiff.samplers.edm import edm_euler
from refdiff.validation.audits import scripts
from refdiff.validation.audits.levels import EXPLODING, PRESERVING
from refdiff.validation.audits.protocols.arrays import to_numpy
from refdiff.validation.audits.steps import compare
from refdiff.validation.audits.subject import Claim, Sampler

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers


# A Python that has imported what programs begin with, and nothing of refdiff, and runs each in a process of its own.
RUNNER = """
import json, os, sys, tempfile, traceback, warnings
warnings.simplefilter("ignore")
import torch
try:
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
except ImportError:
    pass
assert not any(name.partition(".")[0] == "refdiff" for name in sys.modules)
for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            try:
                exec(compile(json.loads(line), "<program>", "exec"), {"__name__": "__main__"})
                code = 0
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        print(json.dumps([status, out.read(), err.read()]), flush=True)
"""


@pytest.fixture(scope="module")
def run():
    """script -> (exit status, what it prints, its errors), of a process that has nothing but its own lines."""
    if not hasattr(os, "fork"):
        pytest.skip("programs are run in forks of one process")
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as runner:

        def answer(script):
            runner.stdin.write(json.dumps(script) + "\n")
            runner.stdin.flush()
            return json.loads(runner.stdout.readline())

        yield answer
        runner.stdin.close()


@pytest.fixture
def printed(run):
    """script -> what the program prints."""

    def answer(script):
        assert len(script.splitlines()) <= 24
        assert "refdiff" not in script
        status, out, errors = run(script)
        assert status == 0, errors
        return out

    return answer


@pytest.fixture
def numbers(printed):
    """script -> (found, right)."""
    return lambda script: [float(text) for text in re.search(r"found (\S+) right (\S+)", printed(script)).groups()]


def schedulers(kind, claim_of, *, at_step=None, **options):
    """A scheduler of diffusers beside a claim that is made here from its levels."""
    diffusers = pytest.importorskip("diffusers")
    from refdiff.validation.audits.protocols.diffusers.playing import Made, play

    made = Made(getattr(diffusers, kind), options, 6, at_step=at_step or {})
    grid = to_numpy(made.new().sigmas).astype(float)
    return Sampler(kind, play(made), np.dtype(np.float32), claim_of(grid), script=made.script())


def of_x(family, prediction="noise", **options):
    """A claim about states x = alpha x_0 + sigma eps."""
    return lambda grid: Claim(lambda g: family(PRESERVING, g, **options), grid, PRESERVING, prediction)


def in_sigma(family, **options):
    """A claim about states x_0 + sigma eps, shown as x / sqrt(1 + sigma^2)."""
    return lambda grid: Claim(
        lambda g: family(PRESERVING, g, **options),
        grid,
        PRESERVING,
        "noise",
        "x/alpha",
        lambda rho: 1 / np.sqrt(1 + rho * rho),
    )


# schedulers beside claims that they do not fulfil: of another order
UNLIKE = {
    "states as they are": lambda: schedulers("DPMSolverMultistepScheduler", of_x(dpm_solver_pp_multistep, order=1)),
    "states that are scaled": lambda: schedulers("EulerDiscreteScheduler", in_sigma(dpm_solver_multistep, order=2)),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_wrong_step_of_a_scheduler_is_printed_as_the_audit_read_it(case, numbers):
    sampler = UNLIKE[case]()
    comparison = compare(sampler)
    first = comparison.wrong[0]
    found, right = numbers(scripts.impulse(sampler, comparison))
    gap = np.abs(first.row - first.right)
    assert abs(found - right) > 100 * sampler.eps * abs(right)
    at = np.flatnonzero(comparison.table.evaluated).tolist()
    scale = sampler.claim.scales(comparison.table)[at.index(first.seen)] if first.seen in at else 1.0
    column = int(np.argmax(gap))
    np.testing.assert_allclose([found, right], np.array([first.row[column], first.right[column]]) * scale, rtol=1e-6)


CALLED = """\
sigmas = {grid}
for s, t in zip(sigmas[:-1], sigmas[1:]):
    x = x + {factor} * (t - s) * (x - model(x, s)) / s + {noise} * draw(x)"""


def called(factor, noise, claimed=0.0):
    """A function that calls its model and draws its normals, with its own lines as the script."""
    grid = np.array([10.0, 4.0, 1.0, 0.1])

    def play(model, x, normal):
        for s, t in zip(grid[:-1], grid[1:], strict=True):  # noqa: RUF007
            x = x + factor * (t - s) * (x - model(x, s)) / s + noise * normal()
        return x

    def build(g):
        table = edm_euler(EXPLODING, g)
        return table if not claimed else noisy(table, claimed)

    script = CALLED.format(grid=grid.tolist(), factor=factor, noise=noise)
    return Sampler("mine", play, claim=Claim(build, grid, EXPLODING, "denoiser"), script=script)


def noisy(table, level):
    """The table with a fresh normal in every step."""
    from dataclasses import replace

    noise = np.zeros((table.stages, 1))
    noise[1:] = level
    return replace(table, noise=noise, normals=np.arange(table.stages))


def test_a_function_that_calls_its_model_itself_is_printed_too(numbers):
    sampler = called(0.9, 0.0)
    found, right = numbers(scripts.impulse(sampler, compare(sampler)))
    assert found != right
    # the first step, of which 0.9 is taken: x (1 + f (t - s) / s) - f (t - s) / s D
    assert [found, right] == pytest.approx([0.54, 0.6]) or [found, right] == pytest.approx([0.46, 0.4])


def test_normals_are_impulses_as_well(numbers):
    sampler = called(1.0, 0.5, claimed=0.25)
    found, right = numbers(scripts.impulse(sampler, compare(sampler)))
    np.testing.assert_allclose([abs(found), abs(right)], [0.5, 0.25])


def test_what_is_right_or_has_no_lines_has_no_reproduction():
    from dataclasses import replace

    right, wrong = called(1.0, 0.0), called(0.9, 0.0)
    assert scripts.impulse(right, compare(right)) == ""
    assert scripts.impulse(replace(wrong, script=""), compare(wrong)) == ""
    assert scripts.exception("", ValueError()) == ""


def test_numbers_that_are_none_are_printed(printed):
    script = scripts.exception("x = 0.0 * model(x, 0) / (0.0 * x)", ValueError("nan\nin two lines"))
    assert script.startswith("# ValueError: nan in two lines\n")
    assert "tensor([[nan]]" in printed(script)


def test_an_exception_is_raised_again(run):
    status, _, errors = run(scripts.exception("raise KeyError('mu')", KeyError("mu")))
    assert status == 1
    assert errors.rstrip().endswith("KeyError: 'mu'")


def test_an_end_that_is_wrong_is_shown_by_the_step_that_is(printed):
    from refdiff.validation.audits.findings import Finding, Verdict

    def finding(question, place, script, verdict=Verdict.WRONG):
        return Finding("A", question, verdict, "text", place=place, script=script)

    given = [
        finding("coefficients", "5 steps", "print(5)"),
        finding("coefficients", "9 steps", "print(9)"),
        finding("law", "9 steps, data N(0, 1)", "x = x"),
        finding("law", "7 steps, data N(0, 1)", "x = x"),
        finding("law", "3 steps", "x = x", Verdict.OK),
        finding("law", "2 steps", ""),
    ]
    found = [one.script for one in scripts.reproduced(given)]
    assert found[2:4] == ["# by the step that is wrong\nprint(9)", "# by the step that is wrong\nprint(5)"]
    assert found[:2] + found[4:] == ["print(5)", "print(9)", "x = x", ""]
    (alone,) = scripts.reproduced(given[2:3])
    assert "output tensor([[1.]]" in printed(alone.script)
