"""The solvers in lambda of diffusers against the tables that they claim."""

from __future__ import annotations

import warnings
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from refdiff.samplers.dpm_sde import dpmpp_sde
from refdiff.samplers.impulse import NotFinite
from refdiff.schedules import VPLinear

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("torchsde")  # two of the classes are there only with it

from refdiff.validation.audits.levels import PRESERVING, strictly  # noqa: E402
from refdiff.validation.audits.protocols.diffusers.claims import (  # noqa: E402
    deis as deis_claims,
)
from refdiff.validation.audits.protocols.diffusers.claims import (  # noqa: E402
    dpm_sde,
    dpm_singlestep,
    dpm_solver,
    edm_dpm,
    exponential,
    unipc,
)
from refdiff.validation.audits.protocols.diffusers.claims import sa_solver as sa_claims  # noqa: E402
from refdiff.validation.audits.protocols.diffusers.normals import drawn  # noqa: E402
from refdiff.validation.audits.protocols.diffusers.playing import Made  # noqa: E402
from refdiff.validation.audits.steps import compare  # noqa: E402

READERS = {
    name: reader
    for module in (deis_claims, dpm_sde, dpm_singlestep, dpm_solver, edm_dpm, sa_claims, unipc)
    for name, reader in module.CLASSES.items()
}
VP = VPLinear()
MIN = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
MULTI, SINGLE, INVERSE, UNIPC, DEIS, SA, EDM, COSINE, TREE = (
    f"{name}Scheduler"
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverMultistepInverse", "UniPCMultistep",
                 "DEISMultistep", "SASolver", "EDMDPMSolverMultistep", "CosineDPMSolverMultistep", "DPMSolverSDE")
)  # fmt: skip


@pytest.fixture(autouse=True)
def foreign_warnings():
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def sampler(name, steps, at_step=None, kind=None, **options):
    return READERS[name](Made(kind or getattr(diffusers, name), options, steps, {}, at_step or {}))


RIGHT = [
    (MULTI, {}),
    (MULTI, {"solver_type": "heun", "prediction_type": "v_prediction", "use_karras_sigmas": True}),
    (MULTI, {"algorithm_type": "dpmsolver", "use_exponential_sigmas": True, **MIN}),
    (MULTI, {**SDE, "solver_type": "heun", "euler_at_final": True}),
    (MULTI, {"algorithm_type": "sde-dpmsolver", "solver_type": "heun", **MIN}),
    (MULTI, {"use_lu_lambdas": True, "lower_order_final": False}),
    (MULTI, {**FLOW, "flow_shift": 3.0}),
    (INVERSE, {}),
    (INVERSE, {"algorithm_type": "dpmsolver", "solver_type": "heun"}),
    (SINGLE, {"solver_order": 3}),
    (SINGLE, {"solver_order": 3, "solver_type": "heun", "algorithm_type": "dpmsolver", **MIN}),
    (SINGLE, {"solver_order": 2, **FLOW}),
    (UNIPC, {"solver_order": 3, "disable_corrector": [1, 90]}),
    (UNIPC, {"predict_x0": False, "solver_type": "bh1", **MIN}),
    (UNIPC, {**FLOW, "use_karras_sigmas": True}),
    (DEIS, {"solver_order": 3}),
    (DEIS, {"use_karras_sigmas": True, "prediction_type": "sample"}),
    (SA, {}),
    (SA, {"predictor_order": 3, "corrector_order": 3, "algorithm_type": "noise_prediction"}),
    (SA, {"predictor_order": 1, "corrector_order": 4, "lower_order_final": False}),
    (EDM, {"sigma_data": 1.3}),
    (EDM, {**SDE, "solver_type": "heun", "prediction_type": "v_prediction"}),
    (COSINE, {"solver_type": "heun"}),
    (COSINE, {"sigma_data": 0.5, "prediction_type": "epsilon", **MIN}),
    (TREE, {"use_karras_sigmas": True}),
    (TREE, {"prediction_type": "v_prediction"}),
]


@pytest.mark.parametrize(("name", "options"), RIGHT)
@pytest.mark.parametrize("steps", [1, 16])
def test_every_step_is_that_of_the_method(name, options, steps):
    if name == UNIPC and options.get("disable_corrector") and steps == 1:
        options = {}
    assert [str(step) for step in compare(sampler(name, steps, **options)).wrong] == []


@pytest.mark.parametrize(("name", "options"), [case for case in RIGHT if case[0] not in (EDM, COSINE)])
def test_with_levels_in_double_precision_coefficients_agree_to_rounding(name, options):
    """So that what is compared are the formulas, and float32 hides nothing."""
    new = Made.new

    def double(made):
        scheduler = new(made)
        scheduler.sigmas = scheduler.sigmas.double()
        return scheduler

    # one class casts the sample to float32, whatever it is
    rounding, kind = (1e-6, np.float32) if name == MULTI else (1e-11, np.float64)
    with patch.object(Made, "new", double):
        found = compare(replace(sampler(name, 9, **options), dtype=np.dtype(kind)))
    assert max(step.error for step in found.steps) < rounding


@pytest.mark.parametrize(
    ("name", "options", "slip", "first"),
    [
        (MULTI, {"solver_order": 3}, dpm_solver.HALVED, 3),
        (MULTI, {"solver_order": 3, **SDE}, dpm_solver.SUBTRACTED, 3),
        (MULTI, {"solver_order": 3, "algorithm_type": "dpmsolver", **MIN}, dpm_solver.HALVED, 3),
        (EDM, {"solver_order": 3}, dpm_solver.HALVED, 3),
        (SINGLE, {"solver_order": 2, **SDE}, dpm_singlestep.ANEW, 2),
        (SINGLE, {"solver_order": 3, "solver_type": "heun", **SDE},
         f"{dpm_singlestep.SUBTRACTED}, and {dpm_singlestep.ANEW}", 2),
        (UNIPC, {"use_flow_sigmas": True, "prediction_type": "v_prediction"}, exponential.UNIT_CIRCLE, 1),
    ],
)  # fmt: skip
def test_a_known_slip_is_found_at_its_first_step_and_named(name, options, slip, first):
    found = sampler(name, 8, **options)
    assert compare(found).wrong[0].number == first
    fits = [v.name for v in found.claim.variants if not compare(found, replace(found.claim, build=v.build)).wrong]
    assert fits == [slip]


@pytest.mark.parametrize(
    ("name", "options", "method"),
    [
        (MULTI, {}, "multistep_dpm_solver_second_order_update"),
        (SINGLE, {}, "singlestep_dpm_solver_update"),
        (DEIS, {}, "multistep_deis_second_order_update"),
        (UNIPC, {}, "multistep_uni_p_bh_update"),
        (SA, {}, "stochastic_adams_bashforth_update"),
        (EDM, {}, "multistep_dpm_solver_second_order_update"),
        (COSINE, {}, "multistep_dpm_solver_second_order_update"),
        (TREE, {}, "step"),
    ],
)
def test_a_step_that_is_off_by_a_part_in_a_thousand_is_found(name, options, method):
    """The control: the method that makes step 5 of 8 adds a thousandth of the sample."""
    kind = getattr(diffusers, name)
    right = getattr(kind, method)

    def broken(self, *args, **kwargs):
        made = right(self, *args, **kwargs)
        if method == "step":
            return (made[0] * 1.001, *made[1:]) if self.step_index == 10 else made
        return made * 1.001 if self.step_index == 4 else made

    wrong = compare(sampler(name, 8, kind=type(name, (kind,), {method: broken}), **options)).wrong
    assert {step.number for step in wrong} == {5}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (UNIPC, {"solver_type": "bh1"}),  # B(h) = h is infinite in the step to sigma = 0, and is multiplied by 0
        (UNIPC, {"predict_x0": False}),  # sigma_t (e^h - 1) is 0 times infinity there
        (UNIPC, {"lower_order_final": False}),
        (MULTI, {"solver_type": "heun", "use_karras_sigmas": True, **MIN}),  # (e^-h - 1) / h at h = 0
        (INVERSE, SDE),  # sqrt(1 - e^-2h) of a step towards noise
        (DEIS, {**FLOW, "use_karras_sigmas": True}),  # alpha = 1 - sigma of levels up to 157
    ],
)
def test_what_is_no_number_is_said_and_not_taken_for_something_nonlinear(name, options):
    with pytest.raises(NotFinite, match="must give numbers"):
        compare(sampler(name, 16, **options))


def test_an_inversion_whose_levels_fall_is_refused():
    with pytest.raises(ValueError, match="levels must rise from data to noise"):
        compare(sampler(INVERSE, 8, **FLOW))


def test_flow_answers_for_states_that_are_not_on_a_flow_claim_nothing():
    assert sampler(MULTI, 4, prediction_type="flow_prediction").claim is None


# ---------------------------------------------------------------------- normals of a Brownian path


def test_increments_of_the_path_have_the_covariance_of_brownian_motion():
    """Over nested, overlapping and disjoint intervals, in any order: cov = overlap / sqrt(product of the lengths)."""
    torch = pytest.importorskip("torch")
    intervals = [(9.0, 4.0), (9.0, 1.0), (4.0, 1.0), (6.0, 2.0), (1.0, 0.5), (12.0, 9.0), (7.0, 6.5)]
    scheduler, draws = diffusers.DPMSolverSDEScheduler(), 12
    weights = np.zeros((draws, len(intervals)))
    for pulse in range(draws):
        count = iter(range(draws))

        def normal(pulse=pulse, count=count):
            return np.array([[float(next(count) == pulse)]])

        with drawn(scheduler, normal, torch.zeros(1, 1, dtype=torch.float64)):
            import diffusers.schedulers.scheduling_dpmsolver_sde as module

            path = module.BrownianTreeNoiseSampler(torch.zeros(1, 1), 0.5, 12.0)
            weights[pulse] = [path(torch.tensor(s), torch.tensor(t)).item() for s, t in intervals]
    for i, (a, b) in enumerate(intervals):
        for j, (c, d) in enumerate(intervals):
            overlap = max(0.0, min(a, c) - max(b, d))
            assert weights[:, i] @ weights[:, j] == pytest.approx(overlap / np.sqrt((a - b) * (c - d)), abs=1e-12)


@pytest.mark.parametrize("path", ["snr", "independent"])
def test_noises_of_another_path_are_rejected(path):
    found = sampler(TREE, 5)
    claim = replace(found.claim, build=lambda levels: dpmpp_sde(PRESERVING, strictly(levels), path=path))
    assert compare(found, claim).wrong
