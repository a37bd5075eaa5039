"""Processes with an offset: the Ornstein-Uhlenbeck process that returns to a mean, from channels to samplers."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from refdiff import AffineProcess, ExactModel, FlowMatching, VPLinear, backends, convert
from refdiff.distributions import random_mixture
from refdiff.dynamics.flow import flow
from refdiff.samplers import families, run, to_coordinate
from refdiff.samplers.picard import paradigms
from refdiff.validation.numeric import derivative

THETA, MEAN, NOISE = 1.3, np.array([1.5, -2.0]), 0.8


def returning(theta=THETA, mean=MEAN):
    """dx = -theta (x - mean) dt + sqrt(2 theta) dw on [0, 2]: b = (1 - e^(-theta t)) mean."""

    def offset(t):
        left = np.exp(-theta * t)
        return -np.expm1(-theta * t) * mean, theta * left * mean, -(theta**2) * left * mean

    return AffineProcess(VPLinear(2 * theta, 2 * theta, T=2.0), offset)


LAW, T = random_mixture(2, 3, 1, "full"), 0.7
MODEL = ExactModel(LAW, returning())
X = MODEL.sample(6, T, 0)


def test_the_mean_of_a_returning_process_follows_its_equation():
    mean = solve_ivp(lambda _, m: -THETA * (m - MEAN), (0, T), LAW.mean(), rtol=1e-12, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(MODEL.marginal(T).mean(), mean, rtol=1e-10)  # the solver's tolerance, a few steps


def test_channels_with_an_offset_compose_along_time():
    process = MODEL.process
    composed = process.channel(0.3, T).compose(process.kernel(0.3))
    np.testing.assert_allclose(composed.offset, process.kernel(T).offset, rtol=1e-14)
    assert process.channel(T, T).offset == 0


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_velocity_moves_the_density(backend):
    with backends.use(backend):
        velocity, score, divergence = MODEL.velocity(X, T), MODEL.score(X, T), MODEL.velocity_divergence(X, T)
    change = np.array([derivative(lambda t, x=x: MODEL.log_density(x, t), T, 1e-3) for x in X])
    rest = -divergence - (velocity * score).sum(axis=1)
    # an eighth-order difference at h = 1e-3 rounds to 1e-12 of terms of size 10
    np.testing.assert_allclose(change, rest, atol=1e-9)
    np.testing.assert_allclose(MODEL.log_density_rate(X, T), rest, rtol=1e-11, atol=1e-12)
    without = rest + (MODEL.process.offset(T).rate * score).sum(axis=1)
    assert np.abs(change - without).max() > 0.1  # as it would be if the offset did not move


def test_the_velocity_changes_at_its_rate():
    change = derivative(lambda t: MODEL.velocity(X, t), T, 1e-3)
    np.testing.assert_allclose(MODEL.velocity_rate(X, T), change, atol=1e-9)


@pytest.mark.parametrize("name", ["denoiser", "noise", "score", "v_prediction", "velocity"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_predictions_are_those_of_the_centred_point(name, backend):
    b = MODEL.process.offset(T)
    with backends.use(backend):
        found = MODEL.predict(X, T, name)
    plain = MODEL.centred.predict(X - b.value, T, name)
    np.testing.assert_allclose(found, plain + b.rate if name == "velocity" else plain, rtol=1e-11, atol=1e-12)
    for other in ("velocity", "score"):
        made = convert(found, X, T, MODEL.process, name, other)
        np.testing.assert_allclose(made, MODEL.predict(X, T, other), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("question", ["hessian", "denoiser_jacobian", "posterior_covariance"])
def test_second_moments_are_those_of_the_centred_point(question):
    plain = getattr(MODEL.centred, question)(X - MODEL.process.offset(T).value, T)
    np.testing.assert_allclose(getattr(MODEL, question)(X, T), plain, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_flows_and_samplers_lead_to_the_same_points(backend):
    def slope(t, y):
        return MODEL.velocity(y.reshape(X.shape), t).ravel()

    way = solve_ivp(slope, (T, 0.1), X.ravel(), rtol=1e-11, atol=1e-11).y[:, -1].reshape(X.shape)
    times = np.linspace(T, 0.1, 65)
    with backends.use(backend):
        mapped = flow(MODEL, X, T, 0.1).x
        sampled = run(families()["fm-dormand-prince"](MODEL.process, times), MODEL, X)
    np.testing.assert_allclose(mapped, way, atol=1e-9)
    np.testing.assert_allclose(sampled, way, atol=1e-8)  # order 5 at h = 0.01
    plain = run(families()["fm-dormand-prince"](MODEL.process, times), MODEL.centred, X)
    assert np.abs(plain - way).max() > 0.1


@pytest.mark.parametrize("coordinate", ["x", "x/alpha", "x/sigma"])
def test_stages_are_in_the_coordinate_of_the_table(coordinate):
    table = to_coordinate(families()["ddpm"](MODEL.process, np.linspace(T, 0.1, 5)), coordinate)
    b = np.array([MODEL.process.offset(t).value for t in table.times]) / table.scale[:, None]
    start = X / table.scale[0]
    stages = run(table, MODEL, start, seed=3, trajectory=True)
    plain = run(table, MODEL.centred, start - b[0], seed=3, trajectory=True)
    np.testing.assert_allclose(stages, plain + b[:, None], rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(run(table, MODEL, start, seed=3), stages[-1])
    given = run(table, MODEL, start, seed=3, given={2: stages[2]})
    np.testing.assert_allclose(given, stages[-1], rtol=1e-12, atol=1e-13)
    assert run(table, MODEL, start.astype(np.float32), seed=3).dtype == np.float32


def test_an_offset_may_be_one_number_on_per_axis_processes():
    process = AffineProcess([VPLinear(), FlowMatching()], lambda t: (t * t, 2 * t, 2.0))
    model = ExactModel(LAW, process)
    x = model.sample(3, 0.4, 1)
    change = derivative(lambda t: model.log_density(x[0], t), 0.4, 1e-3)
    assert change == pytest.approx(float(model.log_density_rate(x[0], 0.4)), abs=1e-9)
    assert process.centred == AffineProcess([VPLinear(), FlowMatching()])


def test_the_force_is_what_the_equation_has_beside_its_drift():
    returning = AffineProcess(VPLinear(2.6, 2.6), lambda t: (2 - 2 * np.exp(-1.3 * t), 2.6 * np.exp(-1.3 * t), 0.0))
    for t in (0.0, 0.3, 1.0):
        assert abs(returning.force(t) - 1.3 * 2) < 1e-14
    assert AffineProcess(FlowMatching()).force(1.0) == 0.0  # where the drift is infinite
    moved = AffineProcess(FlowMatching(), lambda t: ([t, 0.0], [1.0, 0.0], 0.0))
    assert not np.isfinite(moved.force(1.0)).any()


def test_what_is_no_offset_is_said():
    with pytest.raises(TypeError, match=r"offset must be a function of time, got 3"):
        AffineProcess(VPLinear(), 3)
    with pytest.raises(ValueError, match=r"b, b' and b'', got 2 values"):
        AffineProcess(VPLinear(), lambda t: (t, 1.0)).offset(0.5)
    with pytest.raises(ValueError, match=r"offset of 2 axes like the data, got \[\(3,\)"):
        ExactModel(LAW, AffineProcess(VPLinear(), lambda t: (np.zeros(3),) * 3))
    with pytest.raises(ValueError, match=r"take model\.centred"):
        paradigms(MODEL.process, MODEL, X, np.linspace(T, 0.1, 5))
