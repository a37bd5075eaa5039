"""smalldiffusion's sampler, schedules and denoiser; broken copies are found."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from refdiff.samplers import families, to_prediction
from refdiff.validation.audits.checks.coefficients import coefficients
from refdiff.validation.audits.checks.denoisers import DenoiserSubject, denoiser
from refdiff.validation.audits.checks.parts import parts
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import smalldiffusion
from refdiff.validation.audits.protocols.protocol import Request
from refdiff.validation.audits.subject import Subject

pytest.importorskip("torch")


def verdicts(subject: Subject, steps: tuple[int, ...] = (1, 2, 5)) -> list[Finding]:
    return list(coefficients(replace(subject, steps=steps), False))


def samples(model, sigmas, gam=1.0, mu=0.0, xt=None, accelerator=None, slip=""):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """The published page, with slips."""
    import torch

    eps = None
    for i in range(len(sigmas) - 1):
        s, t = sigmas[i], sigmas[i + 1]
        before, eps = eps, model.predict_eps_cfg(xt, s, None, 0.0)
        mean = eps * gam + before * (1 - gam) if i else eps
        down = (t / s**mu) ** (1 / (1 - mu))
        up = torch.sqrt(t**2 - down**2) if slip != "variance" else t**2 - down**2
        if slip == "previous" and i:
            mean = before
        xt = xt - (s - down) * mean + up * model.rand_input(len(xt))
        yield xt


@pytest.mark.parametrize("options", [{}, {"mu": 0.5}, {"gam": 2.0}, {"gam": 1.5, "mu": 0.3}])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_published_page_passes(options: dict[str, float], dtype: str) -> None:
    found = verdicts(smalldiffusion.wrap(samples, Request(options=options, dtype=dtype)))
    assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


def test_slips_are_found() -> None:
    for slip, said in (("variance", "normal"), ("previous", "evaluation")):
        found = verdicts(smalldiffusion.wrap(samples, Request(options={"mu": 0.5}, dtype="float64")))
        assert all(f.verdict is Verdict.OK for f in found)

        def mine(model, sigmas, mu=0.5, xt=None, accelerator=None, slip=slip):  # type: ignore[no-untyped-def]  # noqa: ARG001
            yield from samples(model, sigmas, mu=mu, xt=xt, slip=slip)

        wrong = verdicts(smalldiffusion.wrap(mine, Request(options={"mu": 0.5})), (5,))
        assert [f.verdict for f in wrong] == [Verdict.WRONG]
        assert said in wrong[0].text


def test_half_of_mu_is_ddpm_and_none_is_ddim() -> None:
    grid = np.geomspace(10.0, 0.1, 6)
    for mu, name in ((0.0, "edm-euler"), (0.5, "euler-ancestral")):
        one, two = smalldiffusion.gradient_estimation(grid, mu=mu), families()[name](EXPLODING, grid)
        assert one.close(to_prediction(two, "noise"))


def members(name: str) -> list[Subject]:
    if find_spec("smalldiffusion") is None:  # not importorskip: what it needs besides may be missing
        pytest.skip("smalldiffusion is not installed")
    return list(smalldiffusion.members(False)[name]())


def test_the_library_samples_as_documented() -> None:
    for subject in members("samples"):
        assert all(f.verdict is Verdict.OK for f in verdicts(subject))


@pytest.mark.parametrize("name", list(smalldiffusion.TABLES))
def test_tables_of_levels(name: str) -> None:
    found = [f for subject in members(name) for f in parts(subject, False)]
    assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


def test_a_table_that_is_off_by_a_thousandth_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    assert members("ScheduleLDM")
    import smalldiffusion as library

    right = library.ScheduleLDM
    monkeypatch.setattr(library, "ScheduleLDM", lambda n: SimpleNamespace(sigmas=1.001 * right(n).sigmas))
    (subject,) = members("ScheduleLDM")
    found = list(parts(subject, False))
    assert found
    assert all(f.verdict is Verdict.WRONG for f in found)


def test_long_grids_repeat_a_level_and_ddpm_on_them_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smalldiffusion, "TABLES", dict.fromkeys(["ScheduleLogLinear", "ScheduleLDM"]))
    repeated = [f.place for f in parts(members("sample_sigmas")[0], False) if f.verdict is Verdict.WRONG]
    assert repeated == ["67 steps of 100 levels fall", "99 steps of 100 levels fall", "100 steps of 100 levels fall"]
    broken = [f for f in parts(members("samples on own grids")[0], False) if f.verdict is Verdict.WRONG]
    assert "ScheduleLDM(1000), 1000 steps, mu = 0.5" in [f.place for f in broken]
    assert all("nan" in f.text and "mu = 0.5" in f.place for f in broken)


def test_the_ideal_denoiser_is_exact_and_its_negative_is_named() -> None:
    (subject,) = members("IdealDenoiser")
    assert all(f.verdict is Verdict.OK for f in denoiser(subject, False))
    assert isinstance(subject, DenoiserSubject)
    answer = subject.answer
    wrong = list(denoiser(replace(subject, answer=lambda x, t: -answer(x, t)), False))
    assert all(f.verdict is Verdict.WRONG and "minus the noise prediction" in f.text for f in wrong)
