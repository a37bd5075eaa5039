"""SA-Solver against the paper's algorithm on numbers, its coefficients against quadrature in many digits."""

from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import against, flow_order, in_log_snr

from refdiff import ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.processes import AffineProcess
from refdiff.samplers.dpm_sde import dpmpp_3m_sde, sde_dpm_solver, sde_dpm_solver_pp
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.running import run
from refdiff.samplers.sa_solver import adams_weights, sa_solver
from refdiff.samplers.unipc import unipc

MIXTURE = GaussianMixture.isotropic([[-1.0], [0.8]], [0.09, 0.25], [0.3, 0.7])
VP, FM = VPLinear(), FlowMatching()
LAMBDAS = np.array([-1.4, -0.9, -0.1, 0.2, 0.9, 1.3, 2.0])
NODES, WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(40))


def integrals(known, start, end, weight):
    """int_start^end weight(lambda) l_j(lambda) dlambda by Gauss-Legendre, the l_j by their products."""
    lam = start + (NODES + 0.5) * (end - start)
    values = []
    for j, own in enumerate(known):
        basis = np.prod([(lam - other) / (own - other) for i, other in enumerate(known) if i != j], axis=0)
        values.append(np.sum(WEIGHTS * (end - start) * weight(lam) * basis))
    return values


def xue(process, times, p, q, tau, x0=True):
    """Algorithm 1 of Xue et al. 2023, the corrector with the same noise; no corrector after the last step."""
    c = [process.coefficients(t) for t in times]
    lam = [float(np.log(each.alpha / each.sigma)) for each in c]

    def mean(x, i, at, values, square):
        a, b = c[i], c[i + 1]
        if x0:
            weight = lambda u: (1 + square) * np.exp(-square * (lam[i + 1] - u)) * np.exp(u)  # noqa: E731
            linear, scale = b.sigma / a.sigma * np.exp(-square * (lam[i + 1] - lam[i])), b.sigma
        else:
            weight = lambda u: (1 + square) * np.exp(-u)  # noqa: E731
            linear, scale = b.alpha / a.alpha, -b.alpha
        found = integrals([lam[j] for j in at], lam[i], lam[i + 1], weight)
        return linear * x + scale * sum(w * v for w, v in zip(found, values, strict=True))

    def sampler(model, x, normal):
        seen = [model(x, times[0])]
        for i in range(len(times) - 1):
            square = (tau(times[i]) if callable(tau) else tau) ** 2
            h = lam[i + 1] - lam[i]
            variance = 1 - np.exp(-2 * square * h) if x0 else square * (np.exp(2 * h) - 1)
            noise = c[i + 1].sigma * np.sqrt(variance) * normal() if square else 0.0
            at = [i - j for j in range(min(p, i + 1))]
            predicted = mean(x, i, at, [seen[j] for j in at], square) + noise
            if i == len(times) - 2:
                return predicted
            seen.append(model(predicted, times[i + 1]))
            at = [i + 1 - j for j in range(min(q, i + 2))]
            x = mean(x, i, at, [seen[j] for j in at], square) + noise if q else predicted
        return x

    return sampler


def switched(t):
    return 0.8 if 0.2 < t < 0.6 else 0.0


@pytest.mark.parametrize("process", [VP, FM], ids=["VP", "FM"])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0, switched], ids=["0", "0.6", "1", "switched"])
@pytest.mark.parametrize("prediction", ["denoiser", "noise"])
def test_the_table_is_the_impulse_response_of_the_papers_algorithm(process, tau, prediction):
    times = process.time_of_log_snr(LAMBDAS)
    for p, q in ((2, 0), (3, 1), (3, 4)):
        table = sa_solver(process, times, predictor_order=p, corrector_order=q, tau=tau, prediction=prediction)
        plain = xue(process, times, p, q, tau, prediction == "denoiser")
        found = impulse_response(plain, process, prediction=prediction, end_time=times[-1])
        assert found.difference(table) < 1e-12
        assert table.nfe == len(times) - 1


@pytest.mark.parametrize(("p", "q"), [(1, 2), (2, 2), (3, 3), (4, 4)])
def test_runs_on_a_mixture_are_the_papers(p, q):
    times, model = VP.time_of_log_snr(LAMBDAS), ExactModel(MIXTURE, VP)
    table = sa_solver(VP, times, predictor_order=p, corrector_order=q, tau=0.7)
    against(xue(VP, times, p, q, 0.7), table, model, atol=1e-12)


@given(k=st.floats(0.01, 4), gaps=st.lists(st.floats(0.2, 2), max_size=3), sign=st.sampled_from([-1, 1]))
def test_weights_are_the_integrals_of_the_lagrange_polynomials(k, gaps, sign):
    nodes = [1.0, 0.0, *(-np.cumsum(gaps))]
    found = adams_weights(nodes, sign * k)
    with mpmath.workdps(30):
        for j, own in enumerate(nodes):
            others = [node for i, node in enumerate(nodes) if i != j]

            def weighted(u, own=own, others=others):
                value = k * mpmath.exp(sign * k * (1 - u))
                for other in others:
                    value *= (u - other) / (mpmath.mpf(own) - other)
                return value

            exact = float(mpmath.quad(weighted, [0, 1]))
            # the equations have the powers of the nodes in them
            size = np.abs(found).max() * max(1.0, abs(nodes[-1])) ** (len(nodes) - 1)
            assert abs(found[j] - exact) < 1e-13 * size


# ---------------------------------------------------------------------- what it is elsewhere


def test_with_one_evaluation_it_is_the_first_order_sde_dpm_solver():
    times = VP.time_of_log_snr(LAMBDAS)
    for tau in (0.0, 0.7, 1.0):
        one = sa_solver(VP, times, predictor_order=1, corrector_order=0, tau=tau)
        assert one.close(sde_dpm_solver_pp(VP, times, order=1, eta=tau**2), 1e-13)
    noise = sa_solver(VP, times, predictor_order=1, corrector_order=0, prediction="noise")
    assert noise.close(sde_dpm_solver(VP, times, order=1), 1e-13)


def test_two_and_three_evaluations_are_2m_heun_and_the_whole_parabola_of_3m():
    times = VP.time_of_log_snr(LAMBDAS)
    two, three = (sa_solver(VP, times, predictor_order=p, corrector_order=0, tau=0.7) for p in (2, 3))
    assert two.close(sde_dpm_solver_pp(VP, times, solver_type="heun", eta=0.7**2), 1e-12)
    assert three.close(dpmpp_3m_sde(VP, times, eta=0.7**2, published=False), 1e-12)
    assert not three.close(dpmpp_3m_sde(VP, times, eta=0.7**2), 1e-3)


@pytest.mark.parametrize("prediction", ["denoiser", "noise"])
def test_without_noise_it_is_unipc_with_solved_coefficients(prediction):
    times = VP.time_of_log_snr(LAMBDAS)
    for p in (1, 2, 3, 4):
        here = sa_solver(VP, times, predictor_order=p, corrector_order=p + 1, tau=0.0, prediction=prediction)
        there = unipc(VP, times, order=p, prediction=prediction, lower_order_final=False, halves=False)
        assert here.close(there, 1e-12)


def test_the_few_step_weights_differ_by_the_cube_of_the_step():
    for h in (0.4, 0.2, 0.1):
        plain, few = (np.array(adams_weights([0.0, -1.0], -h, few_steps=few)) for few in (False, True))
        assert few.sum() == pytest.approx(plain.sum(), rel=1e-14)
        assert few[1] - plain[1] == pytest.approx(-(h**2) / 6, rel=0.3 * h)


# ---------------------------------------------------------------------- orders


def test_without_noise_the_order_holds_on_a_mixture():
    build = partial(sa_solver, predictor_order=2, corrector_order=3, tau=0.0)
    found = flow_order(build, VP, in_log_snr(VP, 0.6, 0.15), law=MIXTURE, counts=(16, 32, 64, 128))
    assert abs(found - 3) < 0.1


# ---------------------------------------------------------------------- ends and bad input


@pytest.mark.parametrize("orders", [(1, 0), (2, 2), (4, 1), (3, 5)])
@pytest.mark.parametrize("tau", [0.0, 0.5])
@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.7, 0.4, 0.2, 0.1, 0.05, 0.0]])
def test_from_pure_noise_to_data_everything_is_finite_and_the_last_step_gives_the_denoised_point(orders, tau, times):
    table = sa_solver(FM, times, predictor_order=orders[0], corrector_order=orders[1], tau=tau)
    assert all(np.isfinite(part).all() for part in (table.states, table.outputs, table.noise))
    states, outputs, drawn = table.row(table.stages - 1)
    assert (states, [w for _, w in outputs], drawn) == ([], [1.0], [])


def test_a_step_from_pure_noise_is_of_order_one_and_not_corrected_and_later_steps_start_afresh():
    table = sa_solver(FM, [1.0, 0.7, 0.4, 0.2], predictor_order=3, corrector_order=3)
    assert table.row(1)[1] == [(0, pytest.approx(FM.alpha(0.7)))]
    later = sa_solver(FM, [0.7, 0.4, 0.2], predictor_order=3, corrector_order=3)
    assert table.stages == later.stages + 1
    model, x, z = ExactModel(Gaussian([0.7], 0.25), FM), np.array([[0.3]]), np.array([1.0, -0.5, 0.8])[:, None, None]
    path = run(table, model, x, normals=z, trajectory=True)
    np.testing.assert_allclose(run(later, model, path[1], normals=z[1:]), path[-1], rtol=1e-13)


def test_the_noise_prediction_gives_the_denoised_point_and_is_refused_at_pure_noise():
    states, outputs, drawn = sa_solver(FM, [0.9, 0.5, 0.2, 0.0], prediction="noise").row(5)
    assert states[0][1] == pytest.approx(1 / FM.alpha(0.2))
    assert outputs[0][1] == pytest.approx(-FM.sigma(0.2) / FM.alpha(0.2))
    assert drawn == []
    with pytest.raises(ValueError, match="times must start where alpha > 0"):
        sa_solver(FM, [1.0, 0.5], prediction="noise")


def test_predictor_and_corrector_share_their_noise():
    table = sa_solver(VP, VP.time_of_log_snr(LAMBDAS))
    for predicted in np.flatnonzero(table.evaluated)[1:]:
        (one,), (two,) = table.row(predicted)[2], table.row(predicted + 1)[2]
        assert one == two
    assert table.draws == table.nfe


def test_axes_have_their_own_steps():
    process, times = AffineProcess([VP, FM]), [0.9, 0.6, 0.4, 0.3, 0.1]
    both, one, two = (sa_solver(p, times, predictor_order=3, corrector_order=3) for p in (process, VP, FM))
    for name in ("states", "outputs", "noise"):
        expected = np.stack([getattr(one, name), getattr(two, name)], axis=-1)
        np.testing.assert_allclose(getattr(both, name), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictor_order": 0}, "predictor_order must be"),
        ({"corrector_order": -1}, "corrector_order must be"),
        ({"tau": -0.5}, "tau must"),
        ({"tau": lambda t: -t}, "tau must"),
        ({"prediction": "score"}, "prediction must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sa_solver(VP, [0.9, 0.5, 0.1], **options)
