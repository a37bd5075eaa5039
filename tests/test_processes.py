"""Processes as channels: Chapman-Kolmogorov, close times, ends, per-axis."""

import mpmath as mp
import numpy as np
import plain
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refdiff import AffineProcess, FlowMatching, SubVP, VEGeometric, VEPower, VPCosine, VPLinear, beta_table, testing
from refdiff.validation.numeric import derivative

PROCESSES = testing.processes(2)


def times(process, *fractions):
    return [process.T if u == 1 else u * process.T for u in sorted(fractions)]


@given(PROCESSES, st.floats(0, 0.5), st.floats(0.5, 0.9), st.floats(0.9, 1))
def test_channels_compose_along_time(process, a, b, c):
    s, m, t = times(process, a, b, c)
    if (process.coefficients(m).alpha == 0).any():
        return
    apart, direct = process.channel(m, t).compose(process.channel(s, m)), process.channel(s, t)
    # alpha ratios and expm1 of log_snr differences: rounding of lambda times the variance
    slack = 1e-12 * (1 + np.abs(direct.noise).max() + process.coefficients(t).sigma.max() ** 2)
    np.testing.assert_allclose(apart.gain, direct.gain, rtol=1e-12)
    np.testing.assert_allclose(apart.noise, direct.noise, rtol=1e-9, atol=slack)


@given(PROCESSES, st.floats(0, 1))
def test_the_kernel_is_the_channel_from_the_data(process, u):
    (t,) = times(process, u)
    c, kernel = process.coefficients(t), process.kernel(t)
    np.testing.assert_array_equal(kernel.gain, c.alpha)
    np.testing.assert_allclose(kernel.noise, c.sigma**2, rtol=1e-15)
    if t > 0 and (process.coefficients(0.0).sigma == 0).all():
        np.testing.assert_allclose(process.channel(0.0, t).noise, c.sigma**2, rtol=1e-14)


@given(PROCESSES, st.floats(0.01, 0.98), st.integers(0, 200))
def test_channels_between_neighbouring_floats_have_a_noise_that_is_not_negative(process, u, steps):
    s = t = u * process.T
    for _ in range(steps):
        t = np.nextafter(t, np.inf)
    assume((process.coefficients(t).alpha > 0).all())  # a last beta of 1 jumps to pure noise at once
    channel = process.channel(s, t)
    assert (channel.noise >= 0).all()
    np.testing.assert_allclose(channel.gain, 1, rtol=1e-10)


@pytest.mark.parametrize("process", [FlowMatching(), VPLinear(), VPCosine(), SubVP(), VEPower(T=1.0)], ids=repr)
@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-9, 1e-12])
def test_the_noise_of_a_short_step_keeps_the_digits_that_its_times_have(process, step):
    s = 0.3
    t = s + step
    found = float(AffineProcess(process).channel(s, t).noise)
    rate = process.g2(s)
    with mp.workdps(60):
        width = float(mp.mpf(t) - mp.mpf(s))
    # g2 dt to first order; g2 moves by about 10 dt, and lambda is rounded to eps beside lambda' dt
    np.testing.assert_allclose(found / width, rate, rtol=50 * step + 16 * plain.EPS / step)


@given(PROCESSES, st.floats(0.1, 0.9))
def test_moments_follow_the_drift_and_the_diffusion(process, u):
    t = u * process.T
    if any(hasattr(s, "betas") for s in process.schedules):
        t = np.floor(t) + 0.5
        h = 1e-3
    else:
        h = 2e-3 * min(t, process.T - t)
    alpha = derivative(lambda v: process.coefficients(v).alpha, t, h)
    variance = derivative(lambda v: process.coefficients(v).sigma ** 2, t, h)
    c = process.coefficients(t)
    np.testing.assert_allclose(alpha, process.drift(t) * c.alpha, rtol=1e-6, atol=1e-9)
    moving = 2 * process.drift(t) * c.sigma**2 + process.diffusion(t)
    np.testing.assert_allclose(variance, moving, rtol=1e-6, atol=1e-7 * (1 + np.abs(process.diffusion(t)).max()))


def test_a_per_axis_process_is_each_schedule_on_its_axis():
    one, two = VPLinear(), FlowMatching()
    process = AffineProcess([one, two])
    assert process.per_axis
    for name, both in process.coefficients(0.3)._asdict().items():
        np.testing.assert_array_equal(
            both, [getattr(one.coefficients(0.3), name), getattr(two.coefficients(0.3), name)]
        )
    np.testing.assert_array_equal(process.log_snr(0.3), [one.log_snr(0.3), two.log_snr(0.3)])
    np.testing.assert_array_equal(
        process.channel(0.1, 0.3).noise, [AffineProcess(s).channel(0.1, 0.3).noise for s in (one, two)]
    )


def test_the_past_cannot_be_scaled_back_from_pure_noise():
    table = beta_table.linear(10).zero_terminal_snr()
    with pytest.raises(ValueError, match=r"s must have alpha\(s\) > 0"):
        AffineProcess(table).channel(9.5, 10.0)
    # but the last step into pure noise is a channel
    last = AffineProcess(table).channel(9.0, 10.0)
    assert last.gain == 0
    assert last.noise == 1


def test_one_axis_of_pure_noise_is_enough_to_refuse_a_past():
    tables = [beta_table.linear(10).zero_terminal_snr(), beta_table.linear(10)]
    with pytest.raises(ValueError, match=r"s must have alpha\(s\) > 0"):
        AffineProcess(tables).channel(9.5, 10.0)


def test_axes_share_their_final_time():
    with pytest.raises(ValueError, match="schedules must share one final time T"):
        AffineProcess([VPLinear(), VPLinear(T=2.0)])


def test_no_time_passes_between_equal_times():
    for process in (AffineProcess(VEGeometric()), AffineProcess(beta_table.linear())):
        channel = process.channel(process.T, process.T)
        assert channel.gain == 1
        assert channel.noise == 0


@pytest.mark.parametrize("hashed", [True, False])
def test_what_is_kept_of_a_time_is_what_the_schedules_say_and_no_one_can_change_it(hashed):
    class Own(VPLinear):
        __hash__ = VPLinear.__hash__ if hashed else None

    for process in (AffineProcess(Own(0.2, 3.0)), AffineProcess([Own(0.2, 3.0), FlowMatching()])):
        wanted = [schedule.coefficients(0.4) for schedule in process.schedules]
        for _ in range(2):
            found = process.coefficients(0.4)
            for part, values in zip(found, zip(*wanted, strict=True), strict=True):
                np.testing.assert_array_equal(np.ravel(part), values)
                part += 1.0
        np.testing.assert_array_equal(np.ravel(process.log_snr(0.4)), [one.log_snr for one in wanted])
        assert process.coefficients(0.4).alpha.flags.c_contiguous
