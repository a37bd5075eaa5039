"""What every family promises: finite tables, its number of evaluations, its orders, and its table read back."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sampling import flow_order

from refdiff import ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.samplers.families import families
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run

FAMILIES = families()
EVERY = pytest.mark.parametrize("name", FAMILIES)
GAUSSIAN = Gaussian([0.7], 0.25)
VP = VPLinear()


@cache
def table(name, process=VP, steps=12, start=None, end=None):
    """The family on equal steps of its clock; ends inside the process, where every family can be built."""
    family = FAMILIES[name]
    first = 0.98 * process.T if start is None else start
    return family(process, family.grid(process, steps, first, 0.04 * process.T if end is None else end))


def attempt(build, *arguments, **options):
    """The table, or the words with which it was refused."""
    try:
        return build(*arguments, **options), ""
    except ValueError as error:
        return None, str(error)


@EVERY
@pytest.mark.parametrize("process", [VP, FlowMatching()], ids=["VP", "FM"])
def test_the_number_of_evaluations_is_the_stated_one(name, process):
    tableau = table(name, process)
    assert np.isfinite(tableau.states).all()
    assert np.isfinite(tableau.outputs).all()
    assert tableau.nfe == FAMILIES[name].evaluations(12)


@EVERY
def test_the_impulse_response_of_a_run_is_the_table(name):
    tableau = table(name, steps=7)

    def sampler(model, x, normal):
        normals = np.array([normal() for _ in range(tableau.draws)]).reshape(tableau.draws, *x.shape)
        return run(tableau, model, x, normals=normals)

    found = impulse_response(
        sampler, VP, prediction=tableau.prediction, start_time=tableau.times[0], end_time=tableau.times[-1]
    )
    assert found.difference(tableau) < 1e-12


@EVERY
def test_a_deterministic_run_is_the_propagated_map_and_a_stochastic_one_has_its_mean(name):
    tableau, model = table(name), ExactModel(GAUSSIAN, VP)
    found, x = propagate(tableau, GAUSSIAN), np.array([[-1.0], [0.3], [2.0]])
    # normals that cancel in pairs: Gaussian data make the sampler affine in them
    normals = np.random.default_rng(0).standard_normal((tableau.draws, 3, 1))
    pair = [run(tableau, model, x, normals=sign * normals) for sign in (1, -1)]
    gain, offset = found.channel().gain, found.channel().offset
    np.testing.assert_allclose((pair[0] + pair[1]) / 2, gain * x + offset, rtol=0, atol=1e-12)
    if not tableau.stochastic:
        np.testing.assert_array_equal(pair[0], pair[1])


@EVERY
def test_grids_that_end_without_noise_or_start_without_signal_are_tables_or_are_refused(name):
    family, process = FAMILIES[name], FlowMatching()
    for times, possible in (
        (np.linspace(0.9, 0.0, 7), family.ends_clean),
        (np.linspace(1.0, 0.1, 7), family.starts_pure),
        (np.array([1.0, 0.0]), family.starts_pure and family.ends_clean),
    ):
        tableau, refusal = attempt(family, process, times)
        if tableau is None:
            assert not possible or len(times) == 2, refusal  # some need a second step, and say so
            continue
        assert possible, f"{name} is said not to work on {times}"
        for weights in (tableau.states, tableau.outputs, tableau.noise):
            assert np.isfinite(weights).all()


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_a_finite_table_or_a_clear_refusal(name, steps):
    tableau, refusal = attempt(table, name, steps=steps)
    if tableau is None:
        assert "steps" in refusal or "times" in refusal
        return
    assert np.isfinite(propagate(tableau, GAUSSIAN).output.mean()).all()


@EVERY
def test_single_precision_goes_in_and_comes_out(name):
    tableau, model = table(name), ExactModel(GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.5]], 0.1), VP)
    x = np.ones((3, 2), dtype=np.float32)
    assert run(tableau, model, x, 0).dtype == np.float32


# Three axes: the error of one may pass through zero, or lose its leading term by a symmetry, at some number of steps.
THREE_AXES = Gaussian([0.7, -0.3, 0.5], [0.25, 1.5, 0.12])
MEASURED = [name for name, family in FAMILIES.items() if family.order is not None]


# At these counts the leading term of the error stands alone, but where the next one is large. (A family may also say
# in its `measure` which counts show its order.)
COUNTS = (16, 32, 64)
LATER = {
    (32, 64, 128, 256): (
        *("ab4-log-snr", "ab4-t", "ab4-t-rk", "ab4-angle", "lms3", "ipndm-v3"),
        *("deis-rhoab2", "deis-tab3", "deis-tab3-rk"),
    ),
    (64, 128, 256, 512): ("sa-solver", "sa-solver-p3"),
}


def measured(name, **more):
    family = FAMILIES[name]
    counts = next((counts for counts, names in LATER.items() if name in names), COUNTS)
    return family.measured(THREE_AXES, **{"counts": counts, **family.measure, **more})


@pytest.mark.parametrize("name", MEASURED)
def test_the_order_is_the_stated_one(name):
    family, found = FAMILIES[name], measured(name)
    expected = family.order if family.on_gaussians is None else family.on_gaussians
    assert abs(found.order - expected) < 0.1, found


@pytest.mark.parametrize("name", [name for name in MEASURED if FAMILIES[name].startup is not None])
def test_the_start_up_caps_the_order_as_stated(name):
    found = measured(name, as_run=True)
    assert abs(found.order - FAMILIES[name].startup) < 0.1, found


@pytest.mark.parametrize("name", [name for name in MEASURED if FAMILIES[name].on_gaussians is not None])
def test_an_order_gained_on_gaussians_is_lost_on_a_mixture(name):
    family = FAMILIES[name]
    ends = [float(VP.time_of_log_snr(lam)) for lam in (-1.0, 1.2)]
    mixture = GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], [0.4, 0.6])
    found = flow_order(family, VP, lambda n: family.grid(VP, n, *ends), law=mixture, counts=(16, 32, 64, 128))
    assert abs(found - family.order) < 0.1


def test_unknown_grids_and_times_are_refused_by_every_family():
    for family in FAMILIES.values():
        for times in ([0.5], [0.2, 0.5], [0.5, np.nan, 0.2], [2.0, 0.5]):
            with pytest.raises(ValueError, match="times"):
                family(VP, times)


@pytest.mark.parametrize(("nfe", "steps", "count"), [("n", 5, 5), ("2n", 5, 10), ("3n - 1", 4, 11), ("n + 9", 4, 13)])
def test_formulas_of_evaluations_are_read(nfe, steps, count):
    assert replace(FAMILIES["ddim"], nfe=nfe).evaluations(steps) == count
