"""Flow maps by quantiles against the differential equation, 60 digits, and themselves."""

import mpmath
import numpy as np
import pytest
from numba import config

from refdiff import (
    AffineProcess,
    Empirical,
    ExactModel,
    FlowMatching,
    Gaussian,
    GaussianMixture,
    VEPower,
    VPCosine,
    VPLinear,
    backends,
)
from refdiff.distributions import monotone_map
from refdiff.dynamics import flow, quantile_flow

LAW = GaussianMixture.isotropic([[-2.0], [0.5], [3.0]], [0.09, 1.0, 0.25], [0.5, 0.3, 0.2])
WAYS = {
    "VP to data": (VPLinear(), 1.0, 0.0),
    "VP from data": (VPLinear(), 0.0, 1.0),
    "straight, all of it": (FlowMatching(), 1.0, 0.0),
    "EDM down": (VEPower(T=80.0), 80.0, 0.002),
    "cosine up": (VPCosine(), 0.1, 0.8),
}


def run(model, x, start, end):
    """By the kernel, which takes milliseconds; tests/test_dynamics_flow.py compares it with SciPy."""
    with backends.use("numba"):
        return flow(model, x, start, end, rtol=1e-13, atol=1e-15).x


@pytest.mark.skipif(config.DISABLE_JIT, reason="hours without compilation")
@pytest.mark.parametrize("way", sorted(WAYS))
def test_quantiles_are_where_the_differential_equation_leads(way):
    schedule, start, end = WAYS[way]
    model = ExactModel(LAW, schedule)
    before = model.marginal(start)
    far = before.mean() + np.linspace(-8, 8, 17)[:, None] * np.sqrt(before.cov())
    x = np.concatenate([model.sample(40, start, 1), far])
    found = run(model, x, start, end)
    size = max(1.0, np.abs(found).max())
    np.testing.assert_allclose(quantile_flow(model, x, start, end), found, rtol=0, atol=1e-12 * size)


def test_offsets_and_axes_with_schedules_of_their_own_are_processes_too():
    process = AffineProcess([VPLinear()], offset=lambda t: (t**2, 2 * t, 2.0))
    model = ExactModel(LAW, process)
    x = model.sample(3, 0.9, 2)
    found = flow(model, x, 0.9, 0.1, rtol=1e-13, atol=1e-15).x
    np.testing.assert_allclose(quantile_flow(model, x, 0.9, 0.1), found, rtol=0, atol=2e-12)


def mass_between(model, x, start, y, end):
    """F_end(y) - F_start(x) in 400 digits, which see what happens in a gap of 25 deviations."""
    law = model.distribution
    total = mpmath.mpf(0)
    for sign, t, point in ((1, end, y), (-1, start, x)):
        c = model.process.coefficients(t)
        a, s = mpmath.mpf(float(c.alpha)), mpmath.mpf(float(c.sigma))
        for w, m, v in zip(law.weights, law.means[:, 0], law.covariances.variances[:, 0], strict=True):
            std = mpmath.sqrt(a**2 * mpmath.mpf(float(v)) + s**2)
            total += sign * mpmath.mpf(float(w)) * mpmath.erfc((a * float(m) - point) / (std * mpmath.sqrt(2))) / 2
    return total


def test_points_in_a_gap_keep_their_digits():
    """Where the density is e^-300 at both times, F rests at a sum of weights to all its 16 digits."""
    law = GaussianMixture.isotropic([[-1.0], [1.0]], [0.0016, 0.0009], [0.4, 0.6])
    model = ExactModel(law, VEPower(T=1.0))
    for x in (-0.3, 0.1, 0.142, 0.15, 0.4):
        y = float(quantile_flow(model, [[x]], 0.01, 0.02)[0, 0])
        with mpmath.workdps(400):
            low, high = (mass_between(model, x, 0.01, mpmath.mpf(y) + error, 0.02) for error in (-1e-14, 1e-14))
            assert low < 0 < high
    # the control: by F itself there is nothing between the components
    held = monotone_map(model.marginal(0.01), model.marginal(0.02), [[0.1], [0.4]])
    assert held[0, 0] == held[1, 0]


def test_point_sets_are_reached_in_the_limit_and_not_left():
    model = ExactModel(Empirical([[-1.0], [0.0], [2.0]], [0.25, 0.5, 0.25]), VEPower(T=10.0))
    x = model.sample(100, 10.0, 3)
    atoms = quantile_flow(model, x, 10.0, 0.0)
    assert set(atoms.ravel()) == {-1.0, 0.0, 2.0}
    near = quantile_flow(model, x, 10.0, 1e-3)
    assert (np.abs(near - atoms) < 6e-3).all()  # six deviations
    with pytest.raises(ValueError, match="at which the data have a density"):
        quantile_flow(model, atoms, 0.0, 1.0)
    one = ExactModel(Gaussian([0.7], 0.0), VEPower(T=10.0))
    np.testing.assert_allclose(quantile_flow(one, x, 10.0, 0.5), 0.7 + (x - 0.7) / 20, rtol=1e-14)
    assert (quantile_flow(one, x, 10.0, 0.0) == 0.7).all()


def test_shapes_and_types_follow_the_points():
    model = ExactModel(LAW, VPLinear())
    x = model.sample(6, 1.0, 4)
    double = quantile_flow(model, x.reshape(2, 3, 1), 1.0, 0.2)
    single = quantile_flow(model, x.astype(np.float32), 1.0, 0.2)
    assert double.shape == (2, 3, 1)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double.reshape(6, 1), rtol=1e-5)
    assert np.array_equal(quantile_flow(model, x, 0.4, 0.4), x)
    assert quantile_flow(model, np.empty((0, 1)), 1.0, 0.0).shape == (0, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": VPLinear()}, TypeError, "model must be an ExactModel"),
        ({"model": ExactModel(Gaussian([0.0, 1.0], 1.0), VPLinear())}, ValueError, "model must be on the line, got 2"),
        ({"x": [0.0, 1.0]}, ValueError, "x must have shape"),
        ({"start": 1.5}, ValueError, "start must lie in"),
        ({"end": -1.0}, ValueError, "end must lie in"),
        ({"x": [[1e200]]}, ValueError, "near enough"),
    ],
)
def test_what_cannot_be_done_is_refused(change, error, message):
    arguments = {"model": ExactModel(LAW, VPLinear()), "x": [[0.0]], "start": 1.0, "end": 0.0} | change
    with pytest.raises(error, match=message):
        quantile_flow(**arguments)
