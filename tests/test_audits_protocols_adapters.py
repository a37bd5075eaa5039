"""The adapters of ADAPTERS.md run, and find what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import refdiff.validation.audits as audits
from refdiff.validation.audits.checks.coefficients import coefficients
from refdiff.validation.audits.findings import Verdict
from refdiff.validation.audits.protocols.plain import wrap_impulse
from refdiff.validation.audits.protocols.protocol import Request

PAGE = Path(audits.__path__[0]) / "ADAPTERS.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if PAGE.exists() else []


def block(word: str) -> str:
    found = [one for one in BLOCKS if word in one]
    if not found:
        pytest.skip("the page is not installed")
    return found[0]


def test_all_blocks_are_programs() -> None:
    assert len(BLOCKS) >= 3 or not PAGE.exists()
    for one in BLOCKS:
        assert compile(one, "ADAPTERS.md", "exec").co_names


def test_the_page_names_what_its_wrong_denoiser_and_schedule_are(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("DenoiserSubject"), {})
    said = capsys.readouterr().out
    assert said.count("Tweedie without the division by alpha") == 3
    assert "it is the variance sigma^2" in said


@pytest.mark.parametrize(("library", "function", "family", "verdict"), [
    ("denoising_diffusion_pytorch", "ddpm", "ddpm", Verdict.OK),
    ("denoising_diffusion_pytorch", "ddpm", "ddpm-beta", Verdict.WRONG),
    ("monai", "ddim", "ddim", Verdict.WRONG),
])  # fmt: skip
def test_the_page_tells_the_truth_about_a_library(library: str, function: str, family: str, verdict: Verdict) -> None:
    pytest.importorskip(library)
    names: dict[str, object] = {}
    exec(block(f"from {library}"), names)
    (found,) = coefficients(wrap_impulse(names[function], Request(family=family, dtype="float32")), False)
    assert found.verdict is verdict
