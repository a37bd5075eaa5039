"""UniPC against the paper's algorithms, written here on numbers, and against its order conditions."""

from functools import partial
from math import factorial

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import against, flow_order, in_log_snr

from refdiff import ExactModel, FlowMatching, GaussianMixture, VPLinear
from refdiff.processes import AffineProcess
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.numbers import vandermonde
from refdiff.samplers.unipc import B, coefficients, unip, unipc

MIXTURE = GaussianMixture.isotropic([[-1.0], [0.8]], [0.09, 0.25], [0.3, 0.7])
VP, FM = VPLinear(), FlowMatching()
LAMBDAS = np.array([-1.4, -0.9, -0.1, 0.2, 0.9, 1.3, 2.0, 2.4])


def zhao(process, times, order, variant, x0, corrector=True, skipped=(), final=True):
    """Algorithms 5 to 8 of Zhao et al. 2023 with the system R a = b in matrix form, as in section 3 and appendix E."""
    c = [process.coefficients(t) for t in times]
    lam = [float(np.log(each.alpha / each.sigma)) for each in c]

    def update(x, i, values, at):
        """One step from i to i + 1 with the values at the indices `at`, the first of which is i."""
        a, b, h = c[i], c[i + 1], lam[i + 1] - lam[i]
        hh = -h if x0 else h
        size = {"bh1": hh, "bh2": np.expm1(hh)}[variant]
        x = b.sigma / a.sigma * x - b.alpha * np.expm1(hh) * values[0] if x0 else (
            b.alpha / a.alpha * x - b.sigma * np.expm1(hh) * values[0]
        )  # fmt: skip
        r = np.array([(lam[j] - lam[i]) / h for j in at[1:]])
        if len(r) == 0:
            return x
        phi, moments = np.expm1(hh) / hh - 1, []
        for k in range(1, len(r) + 1):
            moments.append(phi * factorial(k) / size)
            phi = phi / hh - 1 / factorial(k + 1)
        weights = np.linalg.solve(np.vander(r, increasing=True).T, moments) if len(r) > 1 else [0.5]
        total = sum(w * (v - values[0]) / one for w, v, one in zip(weights, values[1:], r, strict=True))
        return x - (b.alpha if x0 else b.sigma) * size * total

    def sampler(model, x, normal):  # noqa: ARG001
        n, outputs = len(times) - 1, [model(x, times[0])]
        for i in range(n):
            p = min(order, i + 1, n - i if final else order)
            at = [i - j for j in range(p)]
            values = [outputs[j] for j in at]
            predicted = update(x, i, values, at)
            if i == n - 1:
                return predicted
            outputs.append(model(predicted, times[i + 1]))
            x = update(x, i, [*values, outputs[-1]], [*at, i + 1]) if corrector and i not in skipped else predicted
        return x

    return sampler


@pytest.mark.parametrize("process", [VP, FM], ids=["VP", "FM"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("prediction", ["denoiser", "noise"])
def test_the_table_is_the_impulse_response_of_the_papers_algorithm(process, order, variant, prediction):
    times = process.time_of_log_snr(LAMBDAS)
    for corrector, skipped, final in ((True, (), True), (True, (0, 3), False), (False, (), True)):
        plain = zhao(process, times, order, variant, prediction == "denoiser", corrector, skipped, final)
        table = unipc(
            process,
            times,
            order=order,
            solver_type=variant,
            prediction=prediction,
            corrector=corrector,
            disable_corrector=skipped,
            lower_order_final=final,
        )
        found = impulse_response(plain, process, prediction=prediction, end_time=times[-1])
        assert found.difference(table) < 1e-12
        assert table.nfe == len(times) - 1
        if not corrector:
            assert table.close(
                unip(process, times, order=order, solver_type=variant, prediction=prediction, lower_order_final=final),
                0.0,
            )


@pytest.mark.parametrize("prediction", ["denoiser", "noise"])
def test_runs_on_a_mixture_are_the_papers(prediction):
    times, model = VP.time_of_log_snr(LAMBDAS), ExactModel(MIXTURE, VP)
    for order in (1, 2, 3, 4):
        table = unipc(VP, times, order=order, prediction=prediction)
        against(zhao(VP, times, order, "bh2", prediction == "denoiser"), table, model, atol=1e-13)


# ---------------------------------------------------------------------- coefficients


@pytest.mark.parametrize("solver_type", B)
@given(h=st.floats(0.01, 3), gaps=st.lists(st.floats(0.2, 2), min_size=1, max_size=4), sign=st.sampled_from([-1, 1]))
def test_coefficients_integrate_polynomials_exactly(solver_type, h, gaps, sign):
    nodes = [*(-np.cumsum(gaps)), 1.0]
    k = sign * h
    found = coefficients(nodes, k, solver_type, halves=False)
    size, scale = B[solver_type](k), np.abs(found)
    for degree in range(1, len(nodes) + 1):
        with mpmath.workdps(30):
            # int_0^1 k e^{k (1 - u)} u^degree du
            exact = mpmath.quad(lambda u, degree=degree: k * mpmath.exp(k * (1 - u)) * u**degree, [0, 1])
        terms = np.array([size * a / r * r**degree for a, r in zip(found, nodes, strict=True)])
        noise = 1e-12 * (np.abs(terms).sum() + abs(size) * scale.sum())
        assert abs(terms.sum() - float(exact)) < noise


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=6, unique=True), st.integers(0, 99))
def test_vandermonde_solves_the_moment_equations_axis_by_axis(places, seed):
    nodes = [np.array([place / 10, place / 5 + 1]) for place in places]
    moments = list(np.random.default_rng(seed).standard_normal((len(nodes), 2)))
    found = vandermonde(nodes, moments)
    for axis in range(2):
        exact = mpmath.lu_solve(
            mpmath.matrix([[mpmath.mpf(node[axis]) ** j for node in nodes] for j in range(len(nodes))]),
            mpmath.matrix([m[axis] for m in moments]),
        )
        condition = np.linalg.cond(np.vander([node[axis] for node in nodes], increasing=True))
        np.testing.assert_allclose(
            [float(value[axis]) for value in found],
            [float(value) for value in exact],
            rtol=0,
            atol=1e-15 * condition * 10 * np.abs(moments).max(),
        )


def test_b_cancels_where_the_conditions_are_solved():
    times = VP.time_of_log_snr(LAMBDAS)
    for order in (1, 2, 3, 4):
        one, two = (unipc(VP, times, order=order, solver_type=b, halves=False) for b in B)
        assert one.close(two, 1e-12)
        assert not unipc(VP, times, order=order, solver_type="bh1").close(one, 1e-5)  # 1/2 in the first corrector
    assert unip(VP, times, order=1).close(ddim(VP, times), 1e-13)


# ---------------------------------------------------------------------- orders


@pytest.mark.parametrize(("corrector", "order"), [(False, 2), (True, 3)])
def test_the_corrector_raises_the_order_by_one_on_a_mixture(corrector, order):
    build = partial(unipc, order=2, corrector=corrector, lower_order_final=False)
    found = flow_order(build, VP, in_log_snr(VP, 0.6, 0.15), law=MIXTURE, counts=(16, 32, 64, 128))
    assert abs(found - order) < 0.1


# ---------------------------------------------------------------------- ends and bad input


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("solver_type", B)
@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.7, 0.4, 0.2, 0.1, 0.05, 0.0]])
@pytest.mark.parametrize("final", [True, False])
def test_from_pure_noise_to_data_everything_is_finite_and_the_last_step_is_ddim(order, solver_type, times, final):
    table = unipc(FM, times, order=order, solver_type=solver_type, lower_order_final=final)
    assert all(np.isfinite(part).all() for part in (table.states, table.outputs))
    assert [w for _, w in table.row(table.stages - 1)[1]] == [1.0]  # the denoised point
    np.testing.assert_allclose(unipc(FM, times[:2], order=order).unroll().outputs[-1, 0], FM.alpha(times[1]))


def test_the_noise_prediction_reaches_the_data_and_is_refused_at_pure_noise():
    table = unipc(FM, [0.9, 0.5, 0.2, 0.0], order=3, prediction="noise", lower_order_final=False)
    last = table.row(table.stages - 1)
    assert last[0][0][1] == pytest.approx(1 / FM.alpha(0.2))
    assert [w for _, w in last[1]] == [pytest.approx(-FM.sigma(0.2) / FM.alpha(0.2))]
    with pytest.raises(ValueError, match="times must start where alpha > 0"):
        unipc(FM, [1.0, 0.5], prediction="noise")


def test_axes_have_their_own_steps():
    process, times = AffineProcess([VP, FM]), [0.9, 0.6, 0.4, 0.3, 0.1, 0.0]
    both, one, two = (unipc(p, times, order=3) for p in (process, VP, FM))
    for name in ("states", "outputs"):
        expected = np.stack([getattr(one, name), getattr(two, name)], axis=-1)
        np.testing.assert_allclose(getattr(both, name), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, "order must be"),
        ({"solver_type": "bh3"}, "solver_type must be"),
        ({"prediction": "score"}, "prediction must be"),
        ({"disable_corrector": [7]}, "disable_corrector must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        unipc(VP, [0.9, 0.5, 0.1], **options)


def test_steps_that_are_no_collection_are_refused():
    with pytest.raises(TypeError, match="disable_corrector must be a collection of steps"):
        unipc(FM, [0.9, 0.5], disable_corrector=0)
