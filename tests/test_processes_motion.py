"""How kernels move: every kind of process says the same things, and they are those of its own kernel."""

import matrices
import numpy as np
import pytest

from refdiff import AffineProcess, FlowMatching, SubVP, VPLinear, operators
from refdiff.processes import LinearProcess, Motion, PrincipalAxes, Process, critically_damped_langevin
from refdiff.processes.motion import NO_OFFSET
from refdiff.validation.numeric import derivative

TURN = np.linalg.qr(np.random.default_rng(1).standard_normal((2, 2)))[0]
MADE = matrices.Coefficients(2, 3)
PROCESSES = {
    "scalar": AffineProcess(VPLinear()),
    "per axis": AffineProcess([SubVP(), FlowMatching()]),
    "along axes": PrincipalAxes(AffineProcess([SubVP(), VPLinear()], lambda t: (t * t, 2 * t, 2.0)), TURN),
    "matrix": LinearProcess(MADE.drift, MADE.noise, force=MADE.force, rates=MADE.rates),
    "matrix, constant": LinearProcess(MADE.drift(0), MADE.noise(0), force=MADE.force(0)),
    "positions and velocities": critically_damped_langevin(1),
}


def dense(a):
    return operators.dense(np.asarray(a), 2)


@pytest.mark.parametrize("name", PROCESSES)
def test_motions_are_of_the_kernel_and_the_equation(name):
    process, t = PROCESSES[name], 0.45
    assert isinstance(process, Process)
    m, kernel = process.motion(t), process.kernel(t)
    np.testing.assert_array_equal(dense(m.gain), dense(kernel.gain))
    for found, wanted in ((m.noise, kernel.noise), (m.noise, dense(m.root) @ dense(m.root).T)):
        np.testing.assert_allclose(dense(found), dense(wanted), rtol=1e-13, atol=1e-16)
    f, d = dense(process.drift(t)), dense(process.diffusion(t))
    np.testing.assert_allclose(dense(m.dgain), f @ dense(m.gain), atol=1e-12)
    np.testing.assert_allclose(dense(m.spread), f @ dense(m.noise) + d / 2, atol=1e-12)
    b = process.offset(t)
    np.testing.assert_allclose(process.force(t) * np.ones(2), b.rate - f @ (b.value * np.ones(2)), atol=1e-12)
    for found, part in (
        (dense(m.dgain), lambda u: dense(process.motion(u).gain)),
        (dense(m.d2gain), lambda u: dense(process.motion(u).dgain)),
        (dense(m.spread + m.spread.T), lambda u: dense(process.motion(u).noise)),
        (dense(m.dspread), lambda u: dense(process.motion(u).spread)),
        (m.offset.rate, lambda u: process.offset(u).value),
        (m.offset.acceleration, lambda u: process.offset(u).rate),
    ):
        np.testing.assert_allclose(found, derivative(part, t, 0.005), atol=1e-7 * (1 + np.abs(found).max()))


@pytest.mark.parametrize("name", PROCESSES)
def test_clean_data_are_an_ordinary_point(name):
    m = PROCESSES[name].motion(0.0)
    np.testing.assert_allclose(dense(m.gain), np.eye(2), atol=1e-15)
    assert not dense(m.noise).any()
    np.testing.assert_allclose(dense(m.spread), dense(PROCESSES[name].diffusion(0.0)) / 2, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_rest_of_the_noise_keeps_its_law_on_every_way_to_data(name):
    process = PROCESSES[name]
    here, there = (dense(process.kernel(t).noise) for t in (0.8, 0.3))
    for k in (0.0, 1.0, 1.7):
        channel = process.noise_channel(0.8, 0.3, k)
        psi = dense(channel.gain)
        np.testing.assert_allclose(psi @ here @ psi.T + dense(channel.noise), there, atol=1e-11 * np.abs(here).max())
        assert not np.any(channel.offset)
    full, onward = process.noise_channel(0.8, 0.3, 1.0), dense(process.channel(0.3, 0.8).gain)
    # k = 1 is Bayes' rule, whose gain is C_t K' C_s^-1
    np.testing.assert_allclose(dense(full.gain), np.linalg.solve(here, onward @ there).T, atol=1e-10)
    assert not np.any(process.noise_channel(0.8, 0.0, 1.0).noise)


def test_no_offset_is_zero_of_every_order():
    assert all(part == 0 for part in NO_OFFSET)
    assert Motion(*(np.ones(()) for _ in range(7))).offset is NO_OFFSET
