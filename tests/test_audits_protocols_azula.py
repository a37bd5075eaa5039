"""azula's samplers, schedules and denoisers; broken copies of them are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refdiff.schedules import FunctionSchedule
from refdiff.validation.audits.checks.coefficients import coefficients
from refdiff.validation.audits.checks.denoisers import DenoiserSubject, denoiser
from refdiff.validation.audits.checks.schedules import ScheduleSubject, schedule
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.levels import EXPLODING
from refdiff.validation.audits.protocols import azula
from refdiff.validation.audits.protocols.azula.documented import DOCUMENTED
from refdiff.validation.audits.protocols.azula.tables import KNOWN, in_log, in_ratio, rosenbrock
from refdiff.validation.audits.protocols.protocol import Request
from refdiff.validation.audits.subject import Subject

pytest.importorskip("azula")


def verdicts(subject: Subject, steps: tuple[int, ...] = (4,)) -> list[Finding]:
    return list(coefficients(replace(subject, steps=steps), False))


@pytest.mark.parametrize("member", [name for name in KNOWN if name != "REABSampler"])
def test_samplers_are_what_their_documentation_says(member: str) -> None:
    one = list(DOCUMENTED)[list(KNOWN).index(member) % len(DOCUMENTED)]  # each schedule with some samplers
    for subject in azula.members(False)[member]():
        if dict(subject.options)["schedule"] in ("RectifiedSchedule", one):
            found = verdicts(subject)
            assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


def test_the_rosenbrock_sampler_takes_sigma_of_the_wrong_end() -> None:
    for subject in azula.members(False)["REABSampler"]():
        for found in verdicts(subject):
            assert found.verdict is Verdict.WRONG
            assert azula.SWAPPED in found.text


def test_the_swapped_sigma_lowers_the_order_from_two_to_one() -> None:
    """The Rosenbrock step of order 2 against its variant, on data N(0, 0.25): errors of 64 and 128 steps."""
    from refdiff.distributions import GaussianMixture
    from refdiff.samplers.order import gaussian_error

    law = GaussianMixture.isotropic([[0.0]], 0.25)

    def ratio(wrong: bool) -> float:
        errors = []
        for n in (64, 128):
            grid = np.geomspace(10.0, 0.1, n + 1)
            table = rosenbrock(grid, order=2, swapped=np.ones(n + 1) if wrong else None)
            errors.append(gaussian_error(table, law, None))
        return float(np.log2(errors[0] / errors[1]))

    assert ratio(wrong=False) == pytest.approx(2.0, abs=0.15)
    assert ratio(wrong=True) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_broken_samplers_are_found(dtype: str) -> None:
    import torch
    from azula.sample import DDIMSampler, DDPMSampler, HeunSampler

    class DDPM(DDPMSampler):  # type: ignore[misc]
        def step(self, x_t, t, s, **_):  # type: ignore[no-untyped-def]
            (alpha_s, sigma_s), (alpha_t, sigma_t) = self.denoiser.schedule(s), self.denoiser.schedule(t)
            tau = 1 - (alpha_t / alpha_s * sigma_s / sigma_t) ** 2
            mean = self.denoiser(x_t, t).mean
            x_s = alpha_s * mean + sigma_s * torch.sqrt(1 - tau) / sigma_t * (x_t - alpha_t * mean)
            return x_s + sigma_s * tau * torch.randn_like(x_t)  # tau for its root

    class DDIM(DDIMSampler):  # type: ignore[misc]
        def step(self, x_t, t, s, **_):  # type: ignore[no-untyped-def]
            (alpha_s, sigma_s), (_, sigma_t) = self.denoiser.schedule(s), self.denoiser.schedule(t)
            mean = self.denoiser(x_t, t).mean
            return alpha_s * mean + sigma_s / sigma_t * (x_t - mean)  # alpha_t is missing

    class Heun(HeunSampler):  # type: ignore[misc]
        def step(self, x_t, t, s, **_):  # type: ignore[no-untyped-def]
            return super().step(x_t, t, s) if t < 0.9 else (super().step(x_t, t, s) * 1.01)

    for kind, base in ((DDPM, "DDPMSampler"), (DDIM, "DDIMSampler"), (Heun, "HeunSampler")):
        kind.__name__ = base
        found = verdicts(azula.wrap(kind, Request(dtype=dtype)), (5,))
        assert [f.verdict for f in found] == [Verdict.WRONG]
        assert dtype == "float32" or ("normal" in found[0].text) == (kind is DDPM)
    kind = type("Mine", (DDIMSampler,), {})
    assert verdicts(azula.wrap(kind, Request(family="ddim", dtype=dtype)), (5,))[0].verdict is Verdict.OK
    assert verdicts(azula.wrap(kind, Request(family="ddpm", dtype=dtype)), (5,))[0].verdict is Verdict.WRONG


@pytest.mark.parametrize("name", DOCUMENTED)
def test_schedules_are_what_their_documentation_says(name: str) -> None:
    for subject in azula.members(False)[name]():
        found = list(schedule(subject, False))
        assert len(found) == 3
        assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]
        assert isinstance(subject, ScheduleSubject)
        sigma = subject.sigma
        wrong = list(schedule(replace(subject, sigma=lambda t, sigma=sigma: sigma(t) ** 2), False))
        assert any(f.place == "sigma" and "the variance sigma^2" in f.text for f in wrong)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_schedules_have_their_own_slopes(name: str) -> None:
    one, t = DOCUMENTED[name], np.array([0.05, 0.3, 0.9])
    closed, taken = one.coefficients(t), FunctionSchedule(one.alpha_of, one.sigma_of).coefficients(t)
    for part in ("dalpha", "dsigma", "d2alpha", "d2sigma"):
        np.testing.assert_allclose(getattr(closed, part), getattr(taken, part), rtol=1e-6, atol=1e-7)


def test_the_gaussian_denoiser_is_exact_and_broken_ones_are_named() -> None:
    for subject in azula.members(False)["GaussianDenoiser"]():
        assert all(f.verdict is Verdict.OK for f in denoiser(subject, False))
        assert isinstance(subject, DenoiserSubject)
        answer, process = subject.answer, subject.process
        wrong = replace(subject, answer=lambda x, t, a=answer, p=process: a(x, t) * p.alpha(t))
        found = [f for f in denoiser(wrong, False) if f.verdict is Verdict.WRONG]
        assert found
        assert all("without the division by alpha" in f.text for f in found)


def test_levels_keep_their_order_where_they_are_moved() -> None:
    grid, errors = np.geomspace(1e3, 1e-3, 20), 1e-15 * np.random.default_rng(0).choice([-1.0, 1.0], 20)
    for moved in (in_ratio, in_log):
        assert np.all(np.diff(moved(grid, errors)) < 0)
        assert np.allclose(moved(grid, errors), grid, rtol=1e-11)
    assert EXPLODING.T > grid[0]
