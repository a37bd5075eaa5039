"""DEIS against the paper's integrals by adaptive quadrature in time, and its Runge-Kutta forms against EDM's Heun."""

from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import flow_order, order_of, sampled_alone
from scipy.integrate import quad

from refdiff import ExactModel, GaussianMixture
from refdiff.processes import beta_table
from refdiff.samplers.adams import lms
from refdiff.samplers.conversions import butcher, to_prediction
from refdiff.samplers.ddim import ddim
from refdiff.samplers.deis import FAMILIES, VARIANTS, deis, deis_rk, noise_weights
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run
from refdiff.schedules import FlowMatching, SubVP, VEPower, VPCosine, VPLinear

LAW = GaussianMixture.isotropic([[-1.0, 0.3], [1.2, -0.4], [0.1, 0.9]], [0.09, 0.25, 0.16], [0.5, 0.2, 0.3])
UNEVEN = np.array([0.9, 0.8, 0.55, 0.5, 0.31, 0.2, 0.12])

VALUES = {"t": lambda s, t: t, "rho": lambda s, t: s.sigma(t) / s.alpha(t), "log_snr": lambda s, t: s.log_snr(t)}


@cache
def plain_weight(schedule, times, j, clock):
    """C_j = (1/2) int (g^2 / sigma)(alpha_t / alpha_tau) l_j dtau, times = (t, s, earlier nodes)."""
    t, s, *_ = times
    nodes = [VALUES[clock](schedule, node) for node in times[1:]]

    def integrand(tau):
        c = schedule.coefficients(tau)
        value = VALUES[clock](schedule, tau)
        basis = np.prod([(value - b) / (nodes[j] - b) for i, b in enumerate(nodes) if i != j])
        return c.g2 / (2 * c.sigma) * schedule.alpha(t) / c.alpha * basis

    return quad(integrand, s, t, epsabs=0, epsrel=2e-14, limit=200)[0]


def plain_deis(model, schedule, x, times, degree, clock):
    """The paper's algorithm with the noise prediction."""
    past = []
    for i, (s, t) in enumerate(pairwise(times)):
        past = [model(x, s), *past][: degree + 1]
        nodes = [t, *times[i::-1][: len(past)]]
        x = schedule.alpha(t) / schedule.alpha(s) * x + sum(
            plain_weight(schedule, tuple(nodes), j, clock) * eps for j, eps in enumerate(past)
        )
    return x


def plain_rho_rk(model, sigmas, x, method):
    """Runge-Kutta steps of dx/dsigma = eps for alpha = 1, written out."""
    for s, t in pairwise(sigmas):
        h, e1 = t - s, model(x, s)
        if method == "midpoint":
            x = x + h * model(x + h / 2 * e1, s + h / 2)
        elif method == "heun":
            x = x + h / 2 * (e1 + model(x + h * e1, t))
        elif method == "kutta3":
            e2 = model(x + h / 2 * e1, s + h / 2)
            x = x + h / 6 * (e1 + 4 * e2 + model(x + h * (2 * e2 - e1), t))
        else:
            e2 = model(x + h / 2 * e1, s + h / 2)
            e3 = model(x + h / 2 * e2, s + h / 2)
            x = x + h / 6 * (e1 + 2 * e2 + 2 * e3 + model(x + h * e3, t))
    return x


@pytest.mark.parametrize("clock", list(VARIANTS))
@pytest.mark.parametrize("schedule", [VPLinear(), FlowMatching(), SubVP()], ids=["VP", "straight", "sub-VP"])
def test_deis_is_the_algorithm_of_the_paper(schedule, clock):
    model = ExactModel(LAW, schedule)
    x = model.sample(4, UNEVEN[0], 0)
    for degree in (0, 1, 3):
        table = deis(schedule, UNEVEN, degree=degree, clock=clock)
        plain = plain_deis(model.noise, schedule, x, UNEVEN, degree, clock)
        np.testing.assert_allclose(run(table, model, x), plain, rtol=0, atol=1e-12 * np.abs(plain).max())
        read = impulse_response(
            lambda m, y, _, n=degree: plain_deis(m, schedule, y, UNEVEN, n, clock),
            schedule,
            prediction="noise",
            end_time=UNEVEN[-1],
        )
        assert to_prediction(table, "noise").close(read, 1e-12)


# far ends, where rho grows like e^(B/2) and starts like sqrt(t); a table, whose t(rho) has kinks
FAR = {
    "VP": (VPLinear(), [1e-4, 0.99, 1.0]),
    "VP, rate from 1e-3": (VPLinear(1e-3, 20.0), [1e-5, 0.99, 1.0]),
    "cosine": (VPCosine(), [1e-3, 0.5, 0.999]),
    "EDM": (VEPower(), [0.01, 20.0, 60.0]),
    "table": (beta_table.linear(40, 1e-3, 0.3), [1.5, 33.0, 37.5, 40.0]),
}


@pytest.mark.parametrize("name", list(FAR))
def test_the_quadrature_in_time_is_complete(name):
    schedule, times = FAR[name]
    rec = Recorder("", schedule, times[::-1])
    t, s = rec.points[-1], rec.points[-2]
    nodes = times[1:]
    kinks = np.arange(np.ceil(t.t), s.t) if name == "table" else [0.01 * s.t, 0.3 * s.t]
    pieces = np.unique([t.t, s.t, *kinks])
    weights = noise_weights(rec.process, s, t, nodes, "t")
    for j, found in enumerate(weights):

        def integrand(root, j=j):
            # tau = root^2: g^2 / sigma starts like tau^(-1/2)
            tau = root**2
            c = schedule.coefficients(tau)
            basis = np.prod([(tau - b) / (nodes[j] - b) for i, b in enumerate(nodes) if i != j])
            return t.alpha * c.g2 / (c.sigma * c.alpha) * basis * root

        exact = -sum(quad(integrand, a**0.5, b**0.5, epsabs=0, epsrel=2e-13, limit=200)[0] for a, b in pairwise(pieces))
        assert found == pytest.approx(exact, abs=1e-12 * np.abs(weights).max())


@given(st.lists(st.floats(0.05, 1.0), min_size=3, max_size=6), st.sampled_from(list(VARIANTS)))
@settings(max_examples=12)
def test_weights_add_up_to_ddim_and_continue_polynomials_exactly(steps, clock):
    times = 0.05 + 0.9 * np.append(np.cumsum(steps[::-1])[::-1], 0.0) / sum(steps)
    rec = Recorder("", VPLinear(), times)
    s, t = rec.points[-2:]
    nodes = [VALUES[clock](VPLinear(), p.t) for p in rec.points[-2::-1]][:4]
    weights = np.array(noise_weights(rec.process, s, t, nodes, clock))
    size = np.abs(weights).sum()
    assert weights.sum() == pytest.approx(t.sigma - t.alpha * s.rho, abs=1e-12 * size)
    for degree in range(len(nodes)):
        centre = nodes[0]

        def power(lam, degree=degree, centre=centre):
            tau = VPLinear().time_of_log_snr(lam)
            return -t.alpha * np.exp(-lam) * (VALUES[clock](VPLinear(), tau) - centre) ** degree

        exact = quad(power, s.log_snr, t.log_snr, epsabs=0, epsrel=1e-13)[0]
        terms = weights * (np.array(nodes) - centre) ** degree
        assert terms.sum() == pytest.approx(exact, abs=1e-12 * np.abs(terms).sum() + 1e-12 * abs(exact))


def test_rho_deis_is_the_linear_multistep_method():
    for schedule in (VPLinear(), FlowMatching(), VEPower()):
        for degree in (0, 1, 2, 3, 4):
            assert deis(schedule, UNEVEN, degree=degree, clock="rho").close(
                lms(schedule, UNEVEN, order=degree + 1), 1e-12
            )


@pytest.mark.parametrize("clock", list(VARIANTS))
def test_degree_zero_is_ddim(clock):
    for schedule in (VPLinear(), FlowMatching(), VPCosine(), beta_table.linear(1000)):
        times = np.linspace(schedule.T, 0.0, 7)
        assert deis(schedule, times, degree=0, clock=clock).close(ddim(schedule, times), 1e-14)


@pytest.mark.parametrize("method", ["midpoint", "heun", "kutta3", "rk4"])
def test_rho_runge_kutta_is_runge_kutta_in_sigma(method):
    sigmas = np.array([8.0, 5.0, 2.0, 0.7, 0.3])
    model = ExactModel(LAW, VEPower())
    x = model.sample(4, 8.0, 0)
    table = deis_rk(VEPower(), sigmas, method=method)
    plain = plain_rho_rk(model.noise, sigmas, x, method)
    np.testing.assert_allclose(run(table, model, x), plain, rtol=0, atol=1e-12)
    read = impulse_response(
        lambda m, y, _: plain_rho_rk(m, sigmas, y, method), VEPower(), prediction="noise", end_time=0.3
    )
    assert to_prediction(table, "noise").close(read, 1e-12)


def test_rho_runge_kutta_steps_have_their_butcher_tables():
    heun, kutta = (butcher(deis_rk(VPLinear(), [0.7, 0.4], method=m)) for m in ("heun", "kutta3"))
    np.testing.assert_allclose(heun.A, [[0, 0], [1, 0]], atol=1e-13)
    np.testing.assert_allclose(kutta.A, [[0, 0, 0], [0.5, 0, 0], [-1, 2, 0]], atol=1e-13)
    np.testing.assert_allclose(kutta.b, [1 / 6, 2 / 3, 1 / 6], atol=1e-13)


@pytest.mark.parametrize("clock", list(VARIANTS))
def test_local_order_is_two_above_the_degree(clock):
    for degree in (0, 1, 2, 3):
        build = partial(deis, degree=degree, clock=clock)
        grid = lambda n: np.linspace(0.6, 0.4, n + 1)  # noqa: E731
        found = order_of(build, FlowMatching(), grid, kind="local", counts=(32, 64, 128), floor=1e-14)
        assert found == pytest.approx(degree + 2, abs=0.15)


def test_orders_on_a_mixture():
    for options, expected in (
        ({"method": "midpoint"}, 2),
        ({"method": "heun"}, 2),
        ({"method": "rk4"}, 4),
        ({"degree": 3}, 2),
        ({"degree": 3, "start": "runge-kutta"}, 4),
    ):
        build = partial(deis_rk if "method" in options else deis, **options)
        found = flow_order(build, FlowMatching(), lambda n: np.linspace(0.5, 0.2, n + 1))
        assert found == pytest.approx(expected, abs=0.1), options


@given(st.sampled_from(FAMILIES), st.integers(1, 5))
def test_tables_reach_from_pure_noise_to_clean_data(family, steps):
    for schedule in (VPCosine(), FlowMatching(), beta_table.scaled_linear(50).zero_terminal_snr()):
        times = np.linspace(schedule.T, 0.0, steps + 1)
        x = np.random.default_rng(0).standard_normal((4, 2))
        assert np.isfinite(run(family(schedule, times), ExactModel(LAW, schedule), x)).all()


def test_infinite_ends_take_the_documented_step():
    times = np.array([1.0, 0.6, 0.3, 0.0])
    for clock in VARIANTS:
        first = deis(FlowMatching(), times[:2], clock=clock)
        assert first.close(ddim(FlowMatching(), times[:2]), 0.0)
    last = deis(FlowMatching(), times[1:], clock="log_snr").unroll().outputs[-1]
    np.testing.assert_allclose(last, ddim(FlowMatching(), times[1:]).unroll().outputs[-1], atol=1e-14)
    # in t the node at alpha = 0 is finite and takes part, in rho it does not
    assert deis(FlowMatching(), times[:3], clock="rho").close(ddim(FlowMatching(), times[:3]), 1e-14)
    assert not deis(FlowMatching(), times[:3], clock="t").close(ddim(FlowMatching(), times[:3]), 1e-3)


def test_axes_with_their_own_schedule_are_sampled_one_by_one():
    for clock in VARIANTS:
        sampled_alone(partial(deis, degree=2, clock=clock), (FlowMatching(), VPCosine()), [1.0, 0.7, 0.6, 0.2])


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (deis, {"degree": -1}, "degree"),
        (deis, {"clock": "angle"}, "clock"),
        (deis, {"start": "exact"}, "start"),
        (deis_rk, {"method": "rk5"}, "method"),
    ],
)
def test_bad_options_are_refused(build, options, message):
    with pytest.raises(ValueError, match=f"{message} must be"):
        build(VPLinear(), [0.9, 0.1], **options)
