"""The tools for foreign implementations: strategies give what they promise, assertions tell right from wrong."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import (
    AffineProcess,
    BetaTable,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VPLinear,
    beta_table,
    testing,
)
from refdiff.distributions import random_mixture, ring
from refdiff.validation import cases
from refdiff.validation.identity import ROUNDING, Identity, Sides

MODEL = ExactModel(ring(), VPLinear())
TIMES = [0.1, 0.4, 0.8]


def c(t):
    return MODEL.process.coefficients(t)


# ---------------------------------------------------------------------- strategies


@given(testing.distributions(dim=3))
def test_distributions_are_laws_of_the_dimension_asked_for(law):
    assert isinstance(law, GaussianMixture)
    assert law.dim == 3
    assert np.isfinite(law.sample(2, 0)).all()


@given(testing.distributions(kinds=testing.WITH_DENSITY))
def test_distributions_with_a_density_have_one(law):
    assert np.isfinite(law.score(law.sample(2, 0))).all()


@given(testing.distributions(kinds=["points", "degenerate"]))
def test_degenerate_distributions_have_none(law):
    assert law.covariances.singular


@given(testing.covariances(4, 2))
def test_covariances_have_the_rank_asked_for(matrix):
    assert np.linalg.matrix_rank(matrix, tol=1e-6) == 2


@given(testing.schedules(), st.floats(0, 1))
def test_schedules_answer_on_their_whole_interval(schedule, fraction):
    t = schedule.T if fraction == 1 else fraction * schedule.T
    assert schedule.alpha(t) >= 0
    assert schedule.sigma(t) >= 0


@given(testing.schedules(2.0))
def test_schedules_end_where_they_are_asked_to(schedule):
    assert schedule.T == 2.0


@given(testing.matrix_processes(2), st.data())
def test_matrix_processes_have_moments_that_obey_their_equation(process, data):
    """Central differences of Sigma and U with h = 1e-4 T: their curvature is at most some hundred."""
    t = data.draw(testing.times(process, 0.2, 0.8))
    h, drift = 1e-4 * process.T, process.drift(t)
    before, here, after = (process.kernel(u) for u in (t - h, t, t + h))
    rate = drift @ here.noise + here.noise @ drift.T + process.diffusion(t)
    np.testing.assert_allclose((after.noise - before.noise) / (2 * h), rate, atol=1e-4 * np.abs(rate).max())
    np.testing.assert_allclose((after.gain - before.gain) / (2 * h), drift @ here.gain, atol=1e-4)


@given(testing.matrix_processes(2), testing.distributions(2, kinds=testing.WITH_DENSITY), st.integers(0, 99))
def test_foreign_denoisers_are_judged_under_matrices_too(process, law, seed):
    model = ExactModel(law, process)
    m = process.motion(0.5 * process.T)

    def tweedie(x, t):
        return np.linalg.solve(m.gain, (x + model.score(x, t) @ m.noise).T).T

    testing.assert_denoiser(tweedie, model, 0.5 * process.T, seed=seed)
    with pytest.raises(AssertionError, match="denoiser is wrong"):
        testing.assert_denoiser(lambda x, t: tweedie(x, t) + 0.01 * np.abs(x).max(), model, 0.5 * process.T, seed=seed)


@given(testing.processes(2).flatmap(lambda p: st.tuples(st.just(p), testing.times(p, 0.0, 1.0))))
def test_times_lie_in_the_interval_of_the_process(pair):
    process, t = pair
    assert 0 <= t <= process.T
    process.kernel(t)


@given(testing.beta_tables(8, zero_terminal=False), testing.points(2, 4, 3.0))
def test_tables_and_points_have_the_size_asked_for(table, x):
    assert table.steps <= 8
    assert table.alpha(table.T) > 0
    assert x.shape == (4, 2)
    assert np.abs(x).max() <= 3


@given(st.data())
def test_unknown_kinds_of_distributions_are_refused(data):
    with pytest.raises(ValueError, match="kinds must be some of"):
        data.draw(testing.distributions(kinds=["round"]))


# ---------------------------------------------------------------------- denoisers and scores


@given(testing.models(kinds=testing.WITH_DENSITY, spread=2.0), st.data())
def test_the_exact_model_passes_its_own_tests(model, data):
    t = data.draw(testing.times(model.process))
    testing.assert_denoiser(model.denoiser, model, t, n=4)
    testing.assert_score(model.score, model, [t], n=4)


@given(testing.models(kinds=testing.WITH_DENSITY, spread=2.0), st.data())
def test_a_denoiser_made_from_the_noise_passes(model, data):
    t = data.draw(testing.times(model.process, 0.2, 0.8))
    k = model.process.coefficients(t)
    testing.assert_denoiser(lambda x, t: (x - k.sigma * model.noise(x, t)) / k.alpha, model, t, n=4)


DENOISER_SLIPS = {
    "the noise prediction": lambda x, t: MODEL.noise(x, t),
    "the score grad log p_t": lambda x, t: MODEL.score(x, t),
    "the velocity": lambda x, t: MODEL.velocity(x, t),
    "the v prediction": lambda x, t: MODEL.v_prediction(x, t),
    "its own input x": lambda x, t: x,
    "minus the denoiser": lambda x, t: -MODEL.denoiser(x, t),
    "sigma in place of sigma\\^2": lambda x, t: (x + c(t).sigma * MODEL.score(x, t)) / c(t).alpha,
    "without the division by alpha": lambda x, t: x + c(t).sigma ** 2 * MODEL.score(x, t),
    "sign of the score reversed": lambda x, t: (x - c(t).sigma ** 2 * MODEL.score(x, t)) / c(t).alpha,
    "alpha\\^2 in place of alpha": lambda x, t: (x + c(t).sigma ** 2 * MODEL.score(x, t)) / c(t).alpha ** 2,
    "t reversed": lambda x, t: MODEL.denoiser(x, 1 - t),
    "times a factor: 1.5 at t = 0.1": lambda x, t: 1.5 * MODEL.denoiser(x, t),
    "float32": lambda x, t: MODEL.denoiser(x, t) * (1 + 1e-6 * np.sign(x)),
}
SCORE_SLIPS = {
    "the noise prediction": lambda x, t: MODEL.noise(x, t),
    "minus the score": lambda x, t: -MODEL.score(x, t),
    "sigma in place of sigma\\^2": lambda x, t: MODEL.score(x, t) * c(t).sigma,
    "without alpha": lambda x, t: (MODEL.denoiser(x, t) - x) / c(t).sigma ** 2,
    "-eps / sigma\\^2": lambda x, t: -MODEL.noise(x, t) / c(t).sigma ** 2,
    "the score of the noise alone": lambda x, t: -x / c(t).sigma ** 2,
    "t reversed": lambda x, t: MODEL.score(x, 1 - t),
}


@pytest.mark.parametrize("slip", DENOISER_SLIPS)
def test_a_slip_in_a_denoiser_is_found_and_named(slip):
    with pytest.raises(AssertionError, match=f"your result matches .*{slip}"):
        testing.assert_denoiser(DENOISER_SLIPS[slip], MODEL, TIMES)


@pytest.mark.parametrize("slip", SCORE_SLIPS)
def test_a_slip_in_a_score_is_found_and_named(slip):
    with pytest.raises(AssertionError, match=f"your result matches .*{slip}"):
        testing.assert_score(SCORE_SLIPS[slip], MODEL, TIMES)


def test_a_step_counted_from_the_wrong_end_is_named():
    model = ExactModel(ring(), beta_table.linear(50, 0.001, 0.2))
    with pytest.raises(AssertionError, match="t one step too early"):
        testing.assert_score(lambda x, t: model.score(x, t - 1), model, [10.0, 20.0, 30.0])


def test_a_time_divided_by_the_number_of_steps_is_named():
    model = ExactModel(ring(), AffineProcess(VPLinear(T=10.0)))
    with pytest.raises(AssertionError, match="t divided by T"):
        testing.assert_denoiser(lambda x, t: model.denoiser(x, t / 10), model, [3.0, 8.0])


def test_a_failure_names_the_worst_time_and_point_and_both_values():
    def wrong(x, t):
        answer = MODEL.denoiser(x, t)
        answer[5] += 3.0 if t == 0.4 else 0.0
        return answer

    x = MODEL.sample(32, 0.1, (rng := np.random.default_rng(0)))
    x = MODEL.sample(32, 0.4, rng)
    with pytest.raises(AssertionError) as failure:
        testing.assert_denoiser(wrong, MODEL, TIMES, seed=0)
    message = str(failure.value)
    assert "t = 0.4" in message
    for row in (x[5], MODEL.denoiser(x[5], 0.4), MODEL.denoiser(x[5], 0.4) + 3):
        assert np.array2string(row, precision=9) in message
    assert "your result matches" not in message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_fails(bad):
    with pytest.raises(AssertionError, match="error inf"):
        testing.assert_score(lambda x, _: np.where(x > 0, x, bad), MODEL, 0.5)


def test_an_answer_of_a_wrong_shape_fails():
    with pytest.raises(AssertionError, match=r"must send points of shape \(32, 2\)"):
        testing.assert_score(lambda x, _: x[0], MODEL, 0.5)


def test_a_function_cannot_pass_by_writing_into_its_points():
    def writer(x, t):
        x[:] = 0.0
        return MODEL.denoiser(x, t)

    with pytest.raises(AssertionError, match="denoiser is wrong"):
        testing.assert_denoiser(writer, MODEL, TIMES)


def test_rtol_is_what_is_allowed():
    def off(x, t):
        return MODEL.denoiser(x, t) * (1 + 1e-5)

    testing.assert_denoiser(off, MODEL, TIMES, rtol=1e-4)
    with pytest.raises(AssertionError):
        testing.assert_denoiser(off, MODEL, TIMES, rtol=1e-6)


BAD_CALLS = {
    "denoiser": lambda: testing.assert_denoiser(3, MODEL, 0.5),
    "model": lambda: testing.assert_denoiser(MODEL.denoiser, ring(), 0.5),
    "times": lambda: testing.assert_score(MODEL.score, MODEL, []),
    "t": lambda: testing.assert_score(MODEL.score, MODEL, [2.0]),
    "seed": lambda: testing.assert_score(MODEL.score, MODEL, 0.5, seed=None),
    "rtol": lambda: testing.assert_score(MODEL.score, MODEL, 0.5, rtol=0.0),
    "n": lambda: testing.assert_score(MODEL.score, MODEL, 0.5, n=0),
}


@pytest.mark.parametrize("argument", BAD_CALLS)
def test_malformed_calls_are_refused_by_the_name_of_their_argument(argument):
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b must"):
        BAD_CALLS[argument]()


# ---------------------------------------------------------------------- identities


def made(over, check, needs=lambda _: True):
    return Identity("made", "t", "f", (), (), over, ROUNDING, 1e-12, "c", needs, None, check)


@given(testing.models(kinds=testing.WITH_DENSITY), st.data())
def test_tweedie_holds_for_every_model(model, data):
    t = data.draw(testing.times(model.process, 0.3, 0.9))
    assert testing.assert_identity("Tweedie, first order", model, s=t / 2, t=t)


SUBJECTS = {
    "models": MODEL,
    "processes": FlowMatching(),
    "laws": Gaussian([0.0], 1.0),
    "tables": BetaTable([0.1, 0.2]),
    "once": 7,
}


@pytest.mark.parametrize("over", SUBJECTS)
def test_every_kind_of_subject_becomes_the_case_an_identity_expects(over):
    kind = {
        "models": cases.ModelCase,
        "processes": cases.ProcessCase,
        "laws": cases.LawCase,
        "tables": cases.TableCase,
        "once": cases.Case,
    }[over]
    seen = []

    def check(case, _):
        seen.append(case)
        return Sides([1.0], [1.0])

    assert testing.assert_identity(made(over, check), SUBJECTS[over])
    assert isinstance(seen[0], kind)
    again = testing.assert_identity(made(over, check), seen[0])
    assert again
    wrong = next(subject for name, subject in SUBJECTS.items() if name == ("once" if over != "once" else "laws"))
    with pytest.raises(TypeError, match="subject must fit an identity over"):
        testing.assert_identity(made(over, check), wrong)


def test_an_identity_that_does_not_hold_says_by_how_much_and_where():
    with pytest.raises(AssertionError, match=r"made does not hold for .*error 0\.5"):
        testing.assert_identity(made("laws", lambda *_: Sides([1.0], [2.0])), random_mixture(2, 2, 0))


def test_an_identity_that_does_not_apply_says_so():
    assert not testing.assert_identity(made("laws", lambda *_: Sides([1.0], [2.0]), lambda _: False), ring())


def test_unknown_identities_and_times_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"identity must be the name of a registered identity.*Tweedie, first order"):
        testing.assert_identity("Tweedie first order", MODEL)
    with pytest.raises(ValueError, match="s and t must satisfy"):
        testing.assert_identity("Tweedie, first order", MODEL, s=0.5, t=0.4)


WITHOUT = """
import sys
sys.modules["hypothesis"] = None  # as where it is not installed
from refdiff.testing import assert_denoiser, assert_sampler, audit
import refdiff.testing
try:
    from refdiff.testing import models
except ImportError as error:
    print(error)
try:
    refdiff.testing.laws
except AttributeError as error:
    print(error)
"""


def test_only_strategies_need_hypothesis():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"strategies .* need hypothesis: install .*\nmodule .* no attribute 'laws'\n", done.stdout)
    assert set(testing.__all__) <= set(dir(testing))
