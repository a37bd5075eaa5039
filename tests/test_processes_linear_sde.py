"""Matrix SDEs as processes: channels, frames of the noise, rates, and d = 1 as the scalar process."""

import matrices
import numpy as np
import plain
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from refdiff import AffineProcess, VPLinear
from refdiff.processes import LinearProcess
from refdiff.validation.numeric import derivative

SEEDS = st.integers(0, 2**32 - 1)
KS = [0.0, 0.5, 1.0, 2.0]


def moving(dim, seed, columns=None, T=1.0):
    made = matrices.Coefficients(dim, seed, columns)
    return made, LinearProcess(made.drift, made.noise, T, force=made.force, rates=made.rates)


def close(found, wanted, slack):
    np.testing.assert_allclose(found, wanted, atol=slack * max(np.abs(wanted).max(), 1e-300))


def langevin(T=5.0):
    return LinearProcess(*matrices.langevin(), T)


# ---------------------------------------------------------------------- channels


@pytest.mark.parametrize("dim", range(2, 9))
def test_channels_have_the_moments_of_their_equation(dim):
    made, process = moving(dim, dim)
    for s, t in ((0.0, 1.0), (0.3, 0.8), (0.71, 0.72)):
        channel = process.channel(s, t)
        for found, wanted in zip((channel.gain, channel.offset, channel.noise), matrices.moments(made, s, t),
                                 strict=True):  # fmt: skip
            close(found, wanted, 1e-11)  # DOP853 at rtol = 1e-13


@given(SEEDS, st.integers(1, 4), st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted))
def test_channels_compose_along_time(seed, dim, times):
    s, m, t = times
    process = moving(dim, seed)[1]
    whole, parts = process.channel(s, t), process.channel(m, t).compose(process.channel(s, m))
    for name in ("gain", "offset", "noise"):
        close(getattr(parts, name), getattr(whole, name), 1e-12)


@given(SEEDS, st.integers(1, 6), st.floats(0, 1))
def test_covariances_are_semi_definite_from_the_first_moment(seed, dim, t):
    channel = moving(dim, seed, 1)[1].channel(0.0, t)
    assert np.linalg.eigvalsh(channel.noise).min() >= -4 * dim * plain.EPS * np.abs(channel.noise).max()
    tiny = moving(dim, seed)[1].channel(0.0, 1e-9 * t)
    assert np.linalg.eigvalsh(tiny.noise).min() >= 0


@given(SEEDS, st.integers(1, 5), st.floats(0.05, 3))
def test_constant_coefficients_need_no_functions(seed, dim, t):
    made = matrices.Coefficients(dim, seed)
    f, g, u = made.drift(0.5), made.noise(0.5), made.force(0.5)
    steady = LinearProcess(f, g, 3.0, force=u)
    asked = LinearProcess(lambda _: f, lambda _: g, 3.0, force=lambda _: u)
    assert steady.steady
    assert not asked.steady
    for name in ("gain", "offset", "noise"):
        close(getattr(steady.kernel(t), name), getattr(asked.kernel(t), name), 1e-12)


def test_the_equation_is_what_was_given():
    made, process = moving(3, 1, 2)
    np.testing.assert_array_equal(process.drift(0.4), made.drift(0.4))
    np.testing.assert_array_equal(process.noise(0.4), made.noise(0.4))
    np.testing.assert_array_equal(process.force(0.4), made.force(0.4))
    np.testing.assert_array_equal(process.diffusion(0.4), made.diffusion(0.4))
    assert (process.axes, process.T) == (3, 1.0)


def test_one_axis_is_the_scalar_process_in_every_method():
    schedule = VPLinear()

    def beta(t):
        return np.array([[schedule.coefficients(t).g2]])

    slope = (20.0 - 0.1) / schedule.T

    def rates(_):
        return [[-slope / 2]], [0.0], [[slope]]

    wanted = AffineProcess(schedule)
    process = LinearProcess(lambda t: -beta(t) / 2, lambda t: np.sqrt(beta(t)), schedule.T, rates=rates)
    assert beta(1.0)[0, 0] - beta(0.0)[0, 0] == pytest.approx(slope)
    for s, t in ((0.0, 0.3), (0.2, 1.0), (0.4, 0.4)):
        for found, scalar in ((process.channel(s, t), wanted.channel(s, t)), (process.kernel(t), wanted.kernel(t))):
            np.testing.assert_allclose(found.gain, scalar.gain, rtol=1e-12)
            np.testing.assert_allclose(found.noise, scalar.noise, rtol=1e-12)
        for k in KS:
            found, scalar = process.noise_channel(t, s, k), wanted.noise_channel(t, s, k)
            np.testing.assert_allclose(found.gain, scalar.gain, rtol=1e-12)
            np.testing.assert_allclose(found.noise, scalar.noise, rtol=1e-11)
        np.testing.assert_allclose(process.frame(t), wanted.coefficients(t).sigma, rtol=1e-12)
        *found, _ = process.motion(t)
        *scalar, _ = wanted.motion(t)
        for one, other in zip(found, scalar, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11)
        np.testing.assert_allclose(process.drift(t), wanted.drift(t), rtol=1e-12)
        np.testing.assert_allclose(process.diffusion(t), wanted.diffusion(t), rtol=1e-12)
    assert process.centred is process
    assert process.motion(0.0).noise == 0
    _, turn, noise = process.turning(0.5)
    assert turn == 0
    np.testing.assert_allclose(noise, np.sqrt(beta(0.5)) / wanted.coefficients(0.5).sigma, rtol=1e-12)


# ---------------------------------------------------------------------- the rest of the noise


@pytest.mark.parametrize(("dim", "k"), [(2, 0.0), (3, 0.5), (2, 2.0), (5, 1.0)])
def test_what_is_left_of_a_point_mass_moves_as_its_equation_says(dim, k):
    made, process = moving(dim, dim)
    here, there = process.kernel(0.9).noise, process.kernel(0.3).noise
    channel = process.noise_channel(0.9, 0.3, k)
    close(channel.gain, matrices.carried(made, lambda t: process.kernel(t).noise, 0.9, 0.3, k), 1e-10)
    # the law N(0, C_s) is carried to N(0, C_t)
    rest = there - channel.gain @ here @ channel.gain.T
    np.testing.assert_allclose(channel.noise, rest, atol=1e-11 * np.abs(there).max())
    if k == 0:
        back = process.noise_channel(0.3, 0.9)
        np.testing.assert_allclose(back.gain @ channel.gain, np.eye(dim), atol=1e-11)
        assert not channel.noise.any()


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_full_noise_is_the_posterior_of_the_earlier_state(dim):
    process = moving(dim, 10 + dim)[1]
    s, t = 0.9, 0.35
    earlier, onward = process.kernel(t).noise, process.channel(t, s)
    spread = onward.gain @ earlier @ onward.gain.T + onward.noise
    gain = np.linalg.solve(spread, onward.gain @ earlier).T
    channel = process.noise_channel(s, t, 1.0)
    size = np.linalg.cond(spread)
    close(channel.gain, gain, 1e-13 * size + 1e-12)
    np.testing.assert_allclose(
        channel.noise, earlier - gain @ spread @ gain.T, atol=(1e-13 * size + 1e-12) * np.abs(earlier).max()
    )


@pytest.mark.parametrize(("dim", "k"), [(1, 0.0), (3, 0.0), (2, 0.5), (2, 2.0)])
def test_reverse_channels_compose_and_end_in_clean_data(dim, k):
    process = moving(dim, dim)[1]
    whole = process.noise_channel(0.9, 0.2, k)
    parts = process.noise_channel(0.5, 0.2, k).compose(process.noise_channel(0.9, 0.5, k))
    close(parts.gain, whole.gain, 1e-11)
    np.testing.assert_allclose(parts.noise, whole.noise, atol=1e-11 * np.abs(process.kernel(0.2).noise).max())
    clean = process.noise_channel(0.9, 0.0, k)
    assert not clean.gain.any()
    assert not clean.noise.any()
    still = process.noise_channel(0.4, 0.4, k)
    np.testing.assert_allclose(still.gain, np.eye(dim), atol=1e-12)
    assert not still.noise.any()


@given(SEEDS, st.integers(1, 6), st.floats(1e-6, 1))
def test_frames_are_cholesky_roots_that_turn_by_an_antisymmetric_matrix(seed, dim, t):
    made, process = moving(dim, seed)
    lower, turn, noise = process.turning(t)
    close(lower @ lower.T, process.kernel(t).noise, 1e-14)
    np.testing.assert_array_equal(lower, np.tril(lower))
    assert (np.diag(lower) > 0).all()
    np.testing.assert_array_equal(turn, -turn.T)
    np.testing.assert_allclose(lower @ noise, made.noise(t), atol=1e-12 * np.abs(made.noise(t)).max())


def test_the_frame_moves_by_the_difference_of_the_drift_and_its_turning():
    # V = L Z with Z' = W Z solves V' = (F + D C^-1 / 2) V, so L' = (F + D C^-1 / 2) L - L W
    made, process = moving(4, 3)
    t = 0.6
    lower, turn, _ = process.turning(t)
    pull = made.drift(t) + np.linalg.solve(process.kernel(t).noise, made.diffusion(t)).T / 2
    np.testing.assert_allclose(derivative(process.frame, t, 0.01), pull @ lower - lower @ turn, atol=1e-8)


def test_noise_that_comes_in_through_one_coordinate_turns_without_end_towards_the_data():
    # positions and velocities: 0.866 rad in each e-fold of time, sqrt(3)/2 (RDX-14)
    process = langevin()
    for t in (1e-9, 1e-6, 1e-3):
        turn = process.turning(t)[1]
        np.testing.assert_allclose(np.abs(t * turn[0, 1]), np.sqrt(3) / 2, atol=20 * t)
    made = type("F, G", (), {"dim": 2})
    f, g = matrices.langevin()
    made.drift, made.diffusion = staticmethod(lambda _: f), staticmethod(lambda _: g @ g.T)
    found = process.noise_channel(0.2, 0.01)
    wanted = matrices.carried(made, lambda t: process.kernel(t).noise, 0.2, 0.01)
    np.testing.assert_allclose(found.gain, wanted, atol=1e-10 * np.abs(wanted).max())
    for k in (0.0, 1.0):
        channel = process.noise_channel(0.2, 1e-4, k)
        there = process.kernel(1e-4).noise
        std = np.sqrt(np.diag(there))
        rest = channel.gain @ process.kernel(0.2).noise @ channel.gain.T + channel.noise - there
        assert (np.abs(rest) <= 1e-11 * np.multiply.outer(std, std)).all()


def bayes(process, s, t):
    """The gain C_t K' C_s^-1 of the posterior of x_t given x_s."""
    return np.linalg.solve(process.kernel(s).noise, process.channel(t, s).gain @ process.kernel(t).noise).T


@pytest.mark.parametrize("k", [5.0, 100.0, 1000.0])
def test_much_noise_forgets_the_state_and_keeps_its_law(k):
    process = LinearProcess([[-1.0, 0.5], [0.0, -2.0]], np.eye(2))
    whole, there = process.noise_channel(1.0, 0.5, k), process.kernel(0.5).noise
    parts = process.noise_channel(0.52, 0.5, k).compose(process.noise_channel(1.0, 0.52, k))
    assert np.abs(whole.gain).max() < 1e-4
    np.testing.assert_allclose(parts.gain, whole.gain, rtol=1e-9, atol=1e-30)
    kept = there - whole.gain @ process.kernel(1.0).noise @ whole.gain.T
    for channel in (whole, parts):
        np.testing.assert_allclose(channel.noise, kept, rtol=1e-12)


@pytest.mark.parametrize("kind", ["a jump of F", "a kink of F", "a jump of G"])
def test_frames_turn_through_jumps_and_kinks(kind):
    a, b, g = np.random.default_rng(0).standard_normal((3, 2, 2))
    when = np.pi / 7  # of no step's end
    drift, noise = {
        "a jump of F": (lambda t: a if t < when else b, lambda t: g + t * a),
        "a kink of F": (lambda t: a + abs(t - when) * b, lambda t: g + t * a),
        "a jump of G": (lambda t: a + t * b, lambda t: g if t < when else g + np.eye(2)),
    }[kind]
    process = LinearProcess(drift, noise)
    channel = process.noise_channel(0.5, 0.4, 1.0)
    close(channel.gain, bayes(process, 0.5, 0.4), 1e-11)
    rest = process.kernel(0.4).noise - channel.gain @ process.kernel(0.5).noise @ channel.gain.T
    np.testing.assert_allclose(channel.noise, rest, atol=1e-12 * np.abs(process.kernel(0.4).noise).max())


@pytest.mark.parametrize("dim", [4, 5, 6])
def test_frames_of_a_chain_of_integrators_are_as_exact_as_their_covariance_is_regular(dim):
    f, g = np.diag(np.ones(dim - 1), 1) - 0.1 * np.eye(dim), np.eye(dim)[:, -1:]
    process = LinearProcess(f, g, 5.0)
    # conditions of 5e3, 1e5 and 3e6; Bayes' formula, the other side, divides by the covariance
    slack = 16 * plain.EPS * np.linalg.cond(process.kernel(4.0).noise)
    close(process.noise_channel(4.0, 1.0, 1.0).gain, bayes(process, 4.0, 1.0), slack)


@pytest.mark.parametrize("own", [1e-2, 1e-4, 1e-6])
def test_noise_of_nearly_one_direction_keeps_the_digits_there_are(own):
    # F = -1: the rest shrinks as sigma does, whatever G; the own part of one direction's variance is own^2
    process = LinearProcess(-np.eye(2), np.array([[1.0, 0.0], [1.0, own]]))
    wanted = np.sqrt(np.expm1(-2 * 0.3) / np.expm1(-2 * 0.9)) * np.eye(2)
    np.testing.assert_allclose(process.noise_channel(0.9, 0.3).gain, wanted, atol=4 * plain.EPS / own**2)


# ---------------------------------------------------------------------- motion and offset


@given(SEEDS, st.integers(1, 4), st.integers(1, 3))
def test_motions_have_the_rates_of_the_kernel(seed, dim, columns):
    process = moving(dim, seed, columns)[1]
    t, h = 0.5, 0.02
    m, kernel = process.motion(t), process.kernel(t)
    np.testing.assert_array_equal(m.gain, kernel.gain)
    np.testing.assert_allclose(m.root @ m.root.T, kernel.noise, atol=1e-13 * np.abs(kernel.noise).max())
    np.testing.assert_array_equal(m.root, np.tril(m.root))
    for found, part in (
        (m.dgain, lambda u: process.motion(u).gain),
        (m.d2gain, lambda u: process.motion(u).dgain),
        (m.spread + m.spread.T, lambda u: process.motion(u).noise),
        (m.dspread, lambda u: process.motion(u).spread),
        (m.offset.rate, lambda u: process.offset(u).value),
        (m.offset.acceleration, lambda u: process.offset(u).rate),
    ):
        close(found, derivative(part, t, h), 1e-8)


def test_the_root_of_a_motion_does_not_jump_with_time():
    for process in (moving(3, 2)[1], langevin(), LinearProcess([[-0.5]], [[1.0]], 3.0)):
        roots = np.stack([process.motion(t).root for t in np.linspace(0.1, 0.2, 41)])
        assert np.abs(np.diff(roots, axis=0)).max() < 0.05 * np.abs(roots).max()


def test_the_offset_follows_its_equation_and_leaves_with_centring():
    made, process = moving(3, 4)
    found = solve_ivp(lambda t, b: made.drift(t) @ b + made.force(t), (0, 0.7), np.zeros(3), method="DOP853",
                      rtol=1e-13, atol=1e-15).y[:, -1]  # fmt: skip
    np.testing.assert_allclose(process.offset(0.7).value, found, atol=1e-11 * np.abs(found).max())
    centred = process.centred
    assert centred.centred is centred
    assert not centred.offset(0.7).value.any()
    np.testing.assert_array_equal(centred.kernel(0.7).noise, process.kernel(0.7).noise)
    np.testing.assert_array_equal(centred.motion(0.7).dspread, process.motion(0.7).dspread)
    steady = LinearProcess(made.drift(0), made.noise(0), force=made.force(0))
    assert not steady.centred.offset(1.0).value.any()
    assert steady.centred.steady


@pytest.mark.parametrize("varying", [True, False])
def test_a_process_without_a_force_is_its_own_centre(varying):
    made = matrices.Coefficients(2, 0)
    parts = (made.drift, made.noise) if varying else (made.drift(0), made.noise(0))
    for force in (None, np.zeros(2)):
        process = LinearProcess(*parts, force=force)
        assert process.centred is process


def test_accelerations_need_rates():
    made = matrices.Coefficients(2, 0)
    motion = LinearProcess(made.drift, made.noise).motion(0.5)
    assert motion.d2gain is None
    assert motion.dspread is None
    steady = LinearProcess(made.drift(0), made.noise(0)).motion(0.5)
    f = made.drift(0)
    np.testing.assert_allclose(steady.d2gain, f @ f @ steady.gain, atol=1e-12)
