"""Matrix processes with names: what they keep, what they start from, and the principal axes of data."""

import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refdiff import Empirical, ExactModel, FlowMatching, Gaussian, VEPower, VPLinear
from refdiff.distributions import random_mixture
from refdiff.processes import (
    LinearProcess,
    critically_damped_langevin,
    data_axes,
    ornstein_uhlenbeck,
    positions,
    variance_preserving,
    with_velocity,
)
from refdiff.samplers.ddim import ddim
from refdiff.samplers.propagation import propagate
from refdiff.samplers.times import karras
from refdiff.validation.numeric import derivative

SEEDS = st.integers(0, 2**32 - 1)


def turn(dim, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


# ---------------------------------------------------------------------- Ornstein-Uhlenbeck


def rate_and_noise(seed, dim):
    """B with eigenvalues of positive real part, since its symmetric part is positive, and G (d, 1 or more)."""
    rng = np.random.default_rng(seed)
    root, skew = rng.standard_normal((2, dim, dim)) / np.sqrt(dim)
    return root @ root.T + 0.3 * np.eye(dim) + skew - skew.T, rng.standard_normal((dim, 1 + seed % dim))


@given(SEEDS, st.integers(1, 4))
def test_an_ornstein_uhlenbeck_process_keeps_the_covariance_it_was_given(seed, dim):
    b, g = rate_and_noise(seed, dim)
    by_noise = ornstein_uhlenbeck(b, noise=g, T=200.0)
    kept = by_noise.kernel(200.0).noise
    np.testing.assert_allclose(b @ kept + kept @ b.T, g @ g.T, atol=1e-10 * np.abs(g @ g.T).max())
    process = ornstein_uhlenbeck(b, stationary=kept, mean=np.arange(dim), T=3.0)
    np.testing.assert_allclose(process.diffusion(0.0), g @ g.T, atol=1e-10 * np.abs(g @ g.T).max())
    law = Gaussian(np.arange(dim), kept) if np.linalg.eigvalsh(kept)[0] > 1e-6 else None
    if law is not None:
        later = process.kernel(2.0).push(law)
        np.testing.assert_allclose(later.mean(), np.arange(dim), atol=1e-10)
        np.testing.assert_allclose(later.cov(), kept, atol=1e-10 * np.abs(kept).max())


def test_storages_of_the_stationary_covariance_are_the_same():
    b = np.array([[1.0, 0.4], [-0.4, 2.0]])
    number, diagonal, matrix = (ornstein_uhlenbeck(b, stationary=s) for s in (0.5, [0.5, 0.5], 0.5 * np.eye(2)))
    for other in (diagonal, matrix):
        np.testing.assert_array_equal(number.diffusion(0), other.diffusion(0))
    np.testing.assert_allclose(number.diffusion(0), np.diag([1.0, 2.0]), rtol=1e-14)


def test_a_rotation_keeps_every_isotropic_covariance_without_noise():
    process = ornstein_uhlenbeck([[0.0, 1.0], [-1.0, 0.0]], stationary=2.0)
    assert not process.diffusion(0.0).any()
    assert not process.kernel(1.0).noise.any()


# ---------------------------------------------------------------------- Langevin


@pytest.mark.parametrize(("mass", "friction"), [(0.25, None), (0.25, 0.3), (2.0, 5.0)])
def test_langevin_dynamics_keeps_unit_positions_and_velocities_of_its_mass(mass, friction):
    process = critically_damped_langevin(2, 4.0, mass=mass, friction=friction, T=40.0)
    stationary = np.diag([1.0, 1.0, mass, mass])
    np.testing.assert_allclose(process.kernel(40.0).noise, stationary, atol=1e-10)
    kept = process.kernel(0.7).push(Gaussian(np.zeros(4), np.diag(stationary))).cov()
    np.testing.assert_allclose(kept, stationary, atol=1e-12)


def test_critical_damping_is_the_fastest_that_does_not_oscillate():
    values = np.linalg.eigvals(critically_damped_langevin(1, 4.0, mass=0.25).drift(0))
    np.testing.assert_allclose(values, -8, atol=1e-6)  # a double eigenvalue is known to sqrt(eps)
    assert np.iscomplex(np.linalg.eigvals(critically_damped_langevin(1, 4.0, mass=0.25, friction=0.9).drift(0))).all()
    slow = np.linalg.eigvals(critically_damped_langevin(1, 4.0, mass=0.25, friction=1.2).drift(0))
    assert slow.real.max() > -8


def test_a_clock_of_langevin_dynamics_is_another_time():
    moving = critically_damped_langevin(2, lambda t: 1 + 3 * t, beta_rate=lambda _: 3.0)
    steady = critically_damped_langevin(2, 1.0, T=3.0)
    t = 0.8
    there = t + 1.5 * t * t
    np.testing.assert_allclose(moving.kernel(t).gain, steady.kernel(there).gain, atol=1e-12)
    np.testing.assert_allclose(moving.kernel(t).noise, steady.kernel(there).noise, atol=1e-12)
    for k in (0.0, 1.0):
        found, wanted = moving.noise_channel(t, 0.1, k), steady.noise_channel(there, 0.115, k)
        np.testing.assert_allclose(found.gain, wanted.gain, atol=1e-11)
    np.testing.assert_allclose(
        moving.motion(t).dspread, derivative(lambda u: moving.motion(u).spread, t, 0.01), atol=1e-7
    )
    assert critically_damped_langevin(2, lambda t: 1 + 3 * t).motion(t).d2gain is None


def test_axes_of_positions_move_alone():
    one, three = critically_damped_langevin(1), critically_damped_langevin(3)
    np.testing.assert_allclose(three.kernel(0.4).noise, np.kron(one.kernel(0.4).noise, np.eye(3)), atol=1e-14)


@pytest.mark.parametrize("variance", [0.0, 0.3])
@pytest.mark.parametrize("law", [random_mixture(2, 3, 1, "full"), Empirical([[0.0, 1.0], [2.0, -1.0]], [0.3, 0.7])],
                         ids=["mixture", "points"])  # fmt: skip
def test_a_velocity_joins_and_leaves_the_data(law, variance):
    both = with_velocity(law, variance)
    assert both.dim == 4
    np.testing.assert_allclose(both.cov()[2:, 2:], variance * np.eye(2), atol=1e-15)
    assert not both.cov()[:2, 2:].any()
    back = positions(both)
    np.testing.assert_array_equal(back.means, law.means)
    np.testing.assert_allclose(back.cov(), law.cov(), atol=1e-14)
    # at rest at time 0, and a density a moment later
    model = ExactModel(both, critically_damped_langevin(2))
    x = model.sample(5, 1e-3, 0)
    assert np.isfinite(model.score(x, 1e-3)).all()
    np.testing.assert_allclose(positions(model.marginal(0.0)).means, law.means)


# ---------------------------------------------------------------------- F = -D / 2


@given(SEEDS, st.integers(1, 5), st.floats(0, 1))
def test_variance_is_preserved_whatever_the_noise(seed, dim, t):
    a, b = np.random.default_rng(seed).standard_normal((2, dim, 2))
    moving = variance_preserving(lambda u: a + np.sin(3 * u) * b)
    steady = variance_preserving(a)
    assert steady.steady
    for process in (moving, steady):
        kernel = process.kernel(t)
        np.testing.assert_allclose(kernel.noise, np.eye(dim) - kernel.gain @ kernel.gain.T, atol=1e-12)
        np.testing.assert_allclose(process.drift(t), -process.diffusion(t) / 2, atol=1e-12)


def test_variance_preserving_noise_knows_its_rates():
    a, b = np.random.default_rng(0).standard_normal((2, 3, 2))
    process = variance_preserving(lambda t: a + np.sin(3 * t) * b, noise_rate=lambda t: 3 * np.cos(3 * t) * b)
    for found, part in (("d2gain", "dgain"), ("dspread", "spread")):
        wanted = derivative(lambda u, part=part: getattr(process.motion(u), part), 0.5, 0.01)
        np.testing.assert_allclose(getattr(process.motion(0.5), found), wanted, atol=1e-8)


# ---------------------------------------------------------------------- principal axes

STD = np.array([5.0, 1.0, 0.5, 0.05])


@pytest.mark.parametrize("schedule", [VPLinear(), FlowMatching(), VEPower(T=80.0)], ids=repr)
@pytest.mark.parametrize("preserving", [True, False])
def test_axes_are_those_of_the_data_and_as_hard_as_each_other(schedule, preserving):
    axes = turn(4, 1)
    law = Gaussian(np.zeros(4), (axes * STD**2) @ axes.T)
    process = data_axes(law, schedule, preserving=preserving)
    np.testing.assert_allclose(np.abs(process.basis.T @ axes), np.eye(4), atol=1e-12)
    t = 0.37 * schedule.T
    c, base = process.along.coefficients(t), schedule.coefficients(t)
    np.testing.assert_allclose(c.sigma / c.alpha, STD * base.sigma / base.alpha, rtol=1e-12)
    if preserving:
        np.testing.assert_allclose(c.alpha**2 + c.sigma**2, 1, rtol=1e-13)
    else:
        np.testing.assert_allclose(c.alpha, base.alpha, rtol=1e-15)
    for name, of in plain.RATES.items():
        slope = derivative(lambda u, of=of: getattr(process.along.coefficients(u), of), t, 2e-3 * t)
        np.testing.assert_allclose(getattr(c, name), slope, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(c.g2, c.dvariance - 2 * c.f * c.sigma**2, rtol=1e-9)
    # whitened data under the schedule itself
    white = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    spread = process.kernel(t).push(law).cov()
    wanted = (process.basis * (STD**2 * white * (c.alpha / base.alpha) ** 2)) @ process.basis.T
    np.testing.assert_allclose(spread, wanted, atol=1e-13 * np.abs(wanted).max())


@pytest.mark.parametrize("preserving", [True, False])
def test_all_axes_lose_the_same_where_one_schedule_loses_most_on_the_narrowest(preserving):
    # RDX-53: 20 steps of DDIM on Karras' noises from 80 to 0.002, what is lost of each deviation
    axes, schedule = turn(4, 2), VEPower(T=80.0)
    law = Gaussian(np.zeros(4), (axes * STD**2) @ axes.T)
    times = karras(schedule, 20, end=0.002, append_clean=True)

    def lost(process, data):
        return np.sqrt(np.diag(propagate(ddim(process, times), data).output.cov())) / STD - 1

    process = data_axes(law, schedule, preserving=preserving)
    along = law.affine(process.basis.T)
    np.testing.assert_array_equal(np.round(lost(schedule, along), 3), [-0.102, -0.127, -0.139, -0.188])
    np.testing.assert_array_equal(np.round(lost(process.along, along), 3), [-0.127] * 4)
    np.testing.assert_allclose(lost(process.along, along), lost(schedule, along)[1], rtol=1e-10)
    # and the same in the data's own coordinates, with tables of matrices
    found = propagate(ddim(process, times), law).output.cov()
    wanted = (1 + lost(schedule, along)[1]) ** 2 * law.cov()
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())


# ---------------------------------------------------------------------- refusals

B = np.eye(2)
REFUSED = {
    "a rate that is not square": (lambda: ornstein_uhlenbeck(np.ones((2, 3)), noise=B), "rate must be square"),
    "no noise at all": (lambda: ornstein_uhlenbeck(B), "noise or stationary must be given"),
    "noise twice": (lambda: ornstein_uhlenbeck(B, noise=B, stationary=1.0), "noise or stationary must be given"),
    "a covariance that no noise keeps": (
        lambda: ornstein_uhlenbeck([[1.0, 5.0], [0.0, 1.0]], stationary=1.0), "stationary must be kept by some noise",
    ),
    "a covariance of another dimension": (lambda: ornstein_uhlenbeck(B, stationary=np.eye(3)), "stationary"),
    "a negative variance": (lambda: ornstein_uhlenbeck(B, stationary=-1.0), "stationary must not be negative"),
    "a mean of another dimension": (lambda: ornstein_uhlenbeck(B, noise=B, mean=np.ones(3)), "mean of shape"),
    "no positions": (lambda: critically_damped_langevin(0), "dim must be"),
    "no mass": (lambda: critically_damped_langevin(1, mass=0.0), "mass must lie in"),
    "no friction": (lambda: critically_damped_langevin(1, friction=0.0), "friction must lie in"),
    "a clock that runs back": (lambda: critically_damped_langevin(1, -1.0), "beta must lie in"),
    "a clock that turns back": (lambda: critically_damped_langevin(1, lambda t: 0.5 - t), "beta must lie in"),
    "the rate of a number": (lambda: critically_damped_langevin(1, 1.0, beta_rate=lambda _: 0.0), "beta_rate must be"),
    "a negative velocity": (lambda: with_velocity(Gaussian([0.0], 1.0), -1.0), "variance must lie in"),
    "an odd half": (lambda: positions(Gaussian(np.zeros(3), 1.0)), "law must have positions and velocities"),
    "the rate of a matrix": (lambda: variance_preserving(B, noise_rate=lambda _: B), "noise_rate must be left out"),
    "data that do not vary": (
        lambda: data_axes(Empirical([[0.0, 0.0], [1.0, 1.0]]), VPLinear()), "law must vary along every axis",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_process_is_refused_by_name(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_function_and_no_law_is_refused():
    with pytest.raises(TypeError, match="beta_rate must be a function"):
        critically_damped_langevin(1, lambda t: t, beta_rate=1.0)
    with pytest.raises(TypeError, match="noise_rate must be a function"):
        variance_preserving(lambda _: B, noise_rate=B)
    for split in (with_velocity, positions):
        with pytest.raises(TypeError, match="law must be a GaussianMixture, got ndarray"):
            split(np.zeros((3, 4)))  # points
    with pytest.raises(TypeError, match="schedule must be a Schedule"):
        data_axes(Gaussian([0.0], 1.0), LinearProcess([[-1.0]], [[1.0]]))
