"""Functions called as k-diffusion's: right ones pass in both number types, and slips are named by step and term."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
from presented import broken, loop

from refdiff.validation.audits.checks.coefficients import coefficients
from refdiff.validation.audits.checks.denoisers import denoiser
from refdiff.validation.audits.checks.parts import parts
from refdiff.validation.audits.findings import Finding, Verdict
from refdiff.validation.audits.protocols import k_diffusion
from refdiff.validation.audits.protocols.protocol import Request
from refdiff.validation.audits.subject import Subject

pytest.importorskip("torch")
NAMES = [name for name in k_diffusion.KNOWN if name != "sample_dpm_fast"]
OPTIONS = [(name, dict(options)) for name in NAMES for options in ({}, *k_diffusion.KNOWN[name].options)]


def verdicts(subject: Subject, steps: tuple[int, ...] = (1, 2, 5)) -> list[Finding]:
    return list(coefficients(replace(subject, steps=steps), False))


def fork(name: str, change=lambda table: table):  # type: ignore[no-untyped-def]
    """The claimed table of one of k-diffusion's names as a function of its convention, under that name."""

    def mine(model, x, sigmas, **options):  # type: ignore[no-untyped-def]
        import torch

        grid = sigmas.numpy().astype(float)
        table = change(k_diffusion.KNOWN[name].build(grid, float(grid[0]), **options))
        answer = model if table.prediction == "denoiser" else lambda y, s: (y - model(y, s)) / s
        return loop(table, lambda y, s: answer(y, torch.tensor(s, dtype=y.dtype)), x, lambda: torch.randn_like(x))

    mine.__name__ = name
    return mine


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_tables_themselves_pass(name: str, options: dict[str, object]) -> None:
    kinds = ("float64", "float32")  # both for every name, one after the other for its options
    for dtype in (kinds[OPTIONS.index((name, options)) % 2],) if options else kinds:
        found = verdicts(k_diffusion.wrap(fork(name), Request(options=options, dtype=dtype)), (5,))
        assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_off_by_a_hundredth_is_found(name: str) -> None:
    found = verdicts(k_diffusion.wrap(fork(name, broken), Request()), (5,))
    assert [f.verdict for f in found] == [Verdict.WRONG]
    assert "1 of" in found[0].text


def test_a_function_of_another_name_is_what_its_family_says() -> None:
    def mine(model, x, sigmas, **_):  # type: ignore[no-untyped-def]
        return fork("sample_heun")(model, x, sigmas)

    assert {f.verdict for f in verdicts(k_diffusion.wrap(mine, Request()))} == {Verdict.NOT_APPLICABLE}
    assert {f.verdict for f in verdicts(k_diffusion.wrap(mine, Request(family="edm-heun")))} == {Verdict.OK}
    assert Verdict.WRONG in {f.verdict for f in verdicts(k_diffusion.wrap(mine, Request(family="edm-midpoint")))}


def test_a_sampler_that_writes_into_its_levels_is_heard_on_the_same_ones_every_time() -> None:
    def sample_euler(model, x, sigmas):  # type: ignore[no-untyped-def]
        sigmas[1:-1] *= 1.01
        for s, t in pairwise(sigmas):
            x = x + (t - s) * (x - model(x, s * x.new_ones([len(x)]))) / s
        return x

    (found,) = verdicts(k_diffusion.wrap(sample_euler, Request()), (5,))
    assert found.verdict is Verdict.WRONG
    assert "step 1" in found.text


def test_a_dropped_half_step_names_the_weight() -> None:
    def mine(model, x, sigmas):  # type: ignore[no-untyped-def]
        for s, t in pairwise(sigmas):
            x = x + (t - s) / 2 * (x - model(x, s)) / s
        return x

    mine.arrays = "torch"  # type: ignore[attr-defined]
    found = verdicts(k_diffusion.wrap(mine, Request(family="edm-euler")), (5,))
    assert found[0].verdict is Verdict.WRONG


def test_independent_normals_of_dpmpp_sde_are_found() -> None:
    """The whole step's normal is part of the Brownian path of the inner one."""
    table = k_diffusion.KNOWN["sample_dpmpp_sde"].build
    independent = partial(table, path="independent")

    def mine(model, x, sigmas):  # type: ignore[no-untyped-def]
        import torch

        grid = sigmas.numpy().astype(float)
        return loop(independent(grid, float(grid[0])), model, x, lambda: torch.randn_like(x))

    found = verdicts(k_diffusion.wrap(mine, Request(family="dpmpp-sde")), (5,))
    assert found[0].verdict is Verdict.WRONG


# ---------------------------------------------------------------------- the library


def subjects(member: str) -> list[Subject]:
    if find_spec("k_diffusion") is None:  # not importorskip: what its metrics need may be missing
        pytest.skip("k_diffusion is not installed")
    return list(k_diffusion.members(False)[member]())


@pytest.mark.parametrize("member", [name for name in k_diffusion.KNOWN if not name.endswith("m_sde")])
def test_samplers_of_the_library_are_what_their_names_say(member: str) -> None:
    for subject in subjects(member):
        # what a single step and two do is asked with default options
        found = verdicts(subject, (5,) if subject.options else (1, 2, 5))
        wrong = [f for f in found if f.verdict is not Verdict.OK]
        if "eta=1.3" in subject.name and member == "sample_dpm_2_ancestral":
            assert k_diffusion.SILENT in wrong[0].text
        else:
            assert not wrong, [f.text for f in wrong]


def test_the_stochastic_multistep_samplers_break_on_a_single_step() -> None:
    for member in ("sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"):
        one, two, _ = verdicts(subjects(member)[0])
        assert one.verdict is Verdict.WRONG
        assert "UnboundLocalError" in one.text
        assert two.verdict is Verdict.OK


def test_the_third_order_sampler_halves_its_second_difference() -> None:
    for subject in subjects("sample_dpmpp_3m_sde"):
        five = verdicts(subject, (5,))[0]
        assert five.verdict is Verdict.WRONG
        assert k_diffusion.HALVED in five.text
        assert verdicts(subject, (2,))[0].verdict is Verdict.OK


def test_grids_and_conversions_of_the_library() -> None:
    for member in ("get_sigmas_karras", "get_sigmas_exponential", "get_sigmas_polyexponential", "get_ancestral_step",
                   "to_d", "DiscreteSchedule"):  # fmt: skip
        found = [f for subject in subjects(member) for f in parts(subject, False)]
        assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found if f.verdict is not Verdict.OK]
    # sqrt(e^B - 1) in float32 has a relative error of eps / 2 B at B = 1.1e-4
    cancelled = [f for f in parts(subjects("get_sigmas_vp")[0], False) if f.verdict is Verdict.WRONG]
    assert len(cancelled) == 7
    assert all(np.isclose(f.number or 0, 2.15e-6, rtol=0.01) for f in cancelled)


def larger(found):  # type: ignore[no-untyped-def]
    return 1.001 * found


@pytest.mark.parametrize(("name", "broken_one"), [
    ("get_sigmas_exponential", larger),
    ("get_sigmas_polyexponential", larger),
    ("get_ancestral_step", lambda found: (larger(found[0]), found[1])),
    ("get_ancestral_step", lambda found: (found[0], larger(found[1]))),
    ("to_d", lambda found: -found),
])  # fmt: skip
def test_parts_that_are_off_by_a_thousandth_are_found(monkeypatch, name, broken_one) -> None:  # type: ignore[no-untyped-def]
    assert subjects(name)
    module = k_diffusion.sampling()
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given, **named: broken_one(right(*given, **named)))
    found = [f.verdict for subject in subjects(name) for f in parts(subject, True)]
    assert found.count(Verdict.WRONG) >= len(found) / 2  # some are 0


@pytest.mark.parametrize("method", ["t_to_sigma", "sigma_to_t", "get_sigmas"])
def test_a_discrete_schedule_that_is_off_is_found(monkeypatch, method) -> None:  # type: ignore[no-untyped-def]
    assert subjects("DiscreteSchedule")
    from k_diffusion.external import DiscreteSchedule

    right = getattr(DiscreteSchedule, method)
    monkeypatch.setattr(DiscreteSchedule, method, lambda *given, **named: larger(right(*given, **named)))
    (subject,) = subjects("DiscreteSchedule")
    assert {f.place.partition("(")[0] for f in parts(subject, True) if f.verdict is Verdict.WRONG} >= {method}


def test_a_denoiser_with_the_scaling_of_another_is_found(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert subjects("denoisers")
    from k_diffusion.external import DiscreteEpsDDPMDenoiser, VDenoiser

    for kind in (DiscreteEpsDDPMDenoiser, VDenoiser):
        right = kind.get_scalings
        monkeypatch.setattr(kind, "get_scalings", lambda *given, of=right: (*of(*given)[:-1], -of(*given)[-1]))
    wrong = [all(f.verdict is Verdict.WRONG for f in denoiser(subject, True)) for subject in subjects("denoisers")]
    assert wrong == [True, False, True]


def test_denoisers_of_the_library_are_exact_for_exact_networks() -> None:
    for subject in subjects("denoisers"):
        found = list(denoiser(subject, False))
        assert len(found) == 5
        assert all(f.verdict is Verdict.OK for f in found), [f.text for f in found]


def test_a_wrong_grid_is_named_by_its_entry() -> None:
    from refdiff.validation.audits.checks.parts import Part
    from refdiff.validation.audits.protocols.k_diffusion.parts import _grids, _karras

    def mine(n, *_, rho=7.0):  # type: ignore[no-untyped-def]
        grid = _karras(n, rho).copy()
        grid[n // 2] *= 1.001
        return grid

    part = Part("mine", answers=partial(_grids, mine, "get_sigmas_karras"))
    found = list(parts(part, False))
    assert all(f.verdict is Verdict.WRONG for f in found)
    assert "in entry 2" in found[3].text
