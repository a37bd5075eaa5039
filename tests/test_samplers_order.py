"""Orders of methods whose errors are known in closed form, and what the fit does near rounding."""

from functools import partial

import mpmath
import numpy as np
import pytest
from sampling import in_log_snr

from refdiff import ExactModel, FlowMatching, Gaussian, GaussianMixture, VPLinear
from refdiff.samplers.ddim import ddim
from refdiff.samplers.extended import ExtendedProcess
from refdiff.samplers.families import families
from refdiff.samplers.order import fit, gaussian_error, measure_order, reference_flow
from refdiff.samplers.propagation import propagate
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_angle, uniform_log_snr

LAW = Gaussian([0.0], 1.0)
VP = VPLinear()
MIXTURE = GaussianMixture.isotropic([[-1.0], [1.2]], [0.09, 0.25], [0.4, 0.6])


def middle(n):
    return uniform_log_snr(VP, n, start=0.7, end=0.2)


def test_the_error_of_ddim_is_one_less_a_product_of_cosines():
    times = uniform_angle(VP, 16, start=0.7, end=0.2)
    angles = np.arctan2(VP.sigma(times), VP.alpha(times))
    # N(0, 1) data: the exact map is the identity
    expected = 1 - np.prod(np.cos(np.diff(angles)))
    np.testing.assert_allclose(gaussian_error(ddim(VP, times), LAW), expected, rtol=1e-12)


def test_the_errors_of_a_sum_of_powers_have_their_leading_power():
    n = np.array([16, 32, 64, 128])
    found = fit(n, 3.0 * n**-2.0 * (1 + 2.0 / n), 1e-12, 4)
    assert abs(found.order - 2) < 0.005  # the plain slope is 2.04 at these counts
    assert found.window == (16, 32, 64, 128)
    assert found.spread > 0.04


def test_errors_at_rounding_are_left_out():
    found = fit((8, 16, 32, 64, 128), (1e-4, 1e-7, 1e-10, 1e-13, 2e-13), 1e-12, 4)
    assert found.window == (8, 16, 32)
    np.testing.assert_allclose(found.order, np.log2(1000), rtol=1e-10)
    with pytest.raises(ValueError, match="counts must give at least two errors above the floor"):
        fit((8, 16), (1e-13, 1e-14), 1e-12, 4)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp-2m", 2), ("dpmpp-3s", 3)])
def test_the_local_order_is_one_more(name, order):
    found = measure_order(lambda t: families()[name](VP, t), LAW, VP, middle, kind="local", counts=(16, 32, 64, 128))
    assert abs(found.order - order - 1) < 0.1


@pytest.mark.parametrize(("name", "order"), [("deis-tab2", 3)])
def test_the_local_order_on_a_mixture_is_one_more_with_an_exact_history(name, order):
    found = measure_order(lambda t: families()[name](VP, t), MIXTURE, VP, middle, kind="local", counts=(16, 32, 64))
    assert abs(found.order - order - 1) < 0.1, found


def test_the_order_on_a_mixture_is_that_of_the_distance_to_the_flow():
    build, counts = (lambda t: families()["dpmpp-2s"](VP, t)), (16, 32, 64)
    found = measure_order(build, MIXTURE, VP, middle, counts=counts)
    assert abs(found.order - 2) < 0.1, found
    model = ExactModel(MIXTURE, VP)
    times = middle(16)
    x = model.sample(8, float(times[0]), 0)  # as it draws them
    off = np.abs(run(build(times), model, x) - reference_flow(model, x, float(times[0]), float(times[-1]))).max()
    np.testing.assert_allclose(found.errors[0], off, rtol=1e-12)


def test_exact_first_steps_reveal_the_order_of_a_multistep_method_on_a_mixture():
    build, counts = (lambda t: families()["dpmpp-3m"](VP, t)), (32, 64)
    found = measure_order(build, MIXTURE, VP, middle, counts=counts, exact_steps=2)
    assert abs(found.order - 3) < 0.1, found


def test_the_reference_flow_ends_where_quantiles_go():
    from refdiff import ExactModel
    from refdiff.dynamics import quantile_flow

    model, x = ExactModel(MIXTURE, VP), np.array([[-2.0], [0.1], [1.5]])
    np.testing.assert_allclose(reference_flow(model, x, 0.9, 0.1), quantile_flow(model, x, 0.9, 0.1), atol=1e-11)


@pytest.mark.parametrize("name", ["ddim", "ddim-eta1", "dpmpp-3m", "unipc-3", "deis-rhoab2", "edm-heun"])
def test_extended_precision_is_the_same_sampler(name):
    family = families()[name]
    with mpmath.workdps(30):
        found = gaussian_error(family(ExtendedProcess(VP), middle(12)), Gaussian([0.7], 0.25))
    # the error itself is a difference of numbers of size 1
    np.testing.assert_allclose(found, gaussian_error(family(VP, middle(12)), Gaussian([0.7], 0.25)), rtol=0, atol=1e-13)


def test_extended_precision_sees_what_rounding_hides():
    family, law = families()["unipc-4"], Gaussian([0.7], 0.25)
    options = {"grid": in_log_snr(VP, 0.4, 0.33), "counts": (32, 64), "exact_steps": 4}
    with pytest.raises(ValueError, match="at least two errors above the floor"):
        measure_order(partial(family, VP), law, VP, **options)
    with mpmath.workdps(40):
        found = measure_order(partial(family, ExtendedProcess(VP)), law, VP, **options)
    assert abs(found.order - family.order) < 0.1, found
    assert found.errors[-1] < 1e-12


def test_points_made_for_a_log_snr_have_it_exactly():
    with mpmath.workdps(40):
        process = ExtendedProcess(VP)
        wanted = mpmath.mpf(1) / 3
        c = process.coefficients(process.time_of_log_snr(wanted))
        assert c.log_snr == wanted
        assert abs(mpmath.log(c.alpha / c.sigma) - wanted) < mpmath.mpf(10) ** -38
        other = process.time_of_log_snr(wanted + mpmath.mpf(10) ** -30)  # the same float64 time, and yet another point
        assert process.coefficients(other).log_snr != wanted


def test_stochastic_samplers_are_judged_by_their_law():
    tableau = ddim(VP, middle(10), eta=1.0)
    found = propagate(tableau, Gaussian([0.7], 0.25))
    expected = found.wasserstein() / np.sqrt(found.target().cov()[0, 0])
    np.testing.assert_allclose(gaussian_error(tableau, Gaussian([0.7], 0.25)), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "weak"}, "kind must be global or local, got 'weak'"),
        ({"exact_steps": -1}, "exact_steps must be at least 0"),
        (
            {"law": MIXTURE, "build": lambda t: ddim(VP, t, eta=1.0)},
            "tableau must be deterministic to be compared with a flow map",
        ),
    ],
)
def test_bad_input_is_named(options, message):
    arguments = {"build": lambda t: ddim(VP, t), "law": LAW, "process": VP, "grid": middle} | options
    with pytest.raises(ValueError, match=message):
        measure_order(**arguments)


def test_more_digits_are_for_the_line():
    with mpmath.workdps(30), pytest.raises(ValueError, match="law must have dimension 1 in extended precision, got 2"):
        gaussian_error(ddim(ExtendedProcess(FlowMatching()), [0.9, 0.5]), Gaussian([0.0, 0.0], 1.0))
