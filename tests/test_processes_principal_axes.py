"""A process along axes of its own: the per-axis process, turned, and a matrix SDE like any other."""

import numpy as np
import pytest

from refdiff import AffineProcess, FlowMatching, SubVP, VEPower, VPCosine, VPLinear
from refdiff.processes import LinearProcess, PrincipalAxes

DIM = 3
TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0]


def bend(t):
    return [np.sin(t), t, 1.0], [np.cos(t), 1.0, 0.0], [-np.sin(t), 0.0, 0.0]


ALONG = {
    "different axes": AffineProcess([VPLinear(), VPCosine(), SubVP()]),
    "clean and noisy ends": AffineProcess([VPLinear(), FlowMatching(), VEPower(T=1.0)]),
    "with an offset": AffineProcess([VPLinear(), VEPower(T=1.0), SubVP()], bend),
    "one schedule": AffineProcess(VPLinear()),
    "one schedule with an offset": AffineProcess(SubVP(), lambda t: (t, 1.0, 0.0)),
}


def turned(a):
    return a * np.eye(DIM) if np.ndim(a) == 0 else TURN @ np.diag(a) @ TURN.T


def matches(found, wanted, rtol=1e-13):
    dense = found * np.eye(DIM) if np.ndim(found) == 0 else found
    np.testing.assert_allclose(dense, turned(wanted), atol=rtol * max(1e-300, np.abs(wanted).max()))


@pytest.mark.parametrize("name", ALONG)
def test_everything_is_the_process_along_the_axes_turned(name):
    along = ALONG[name]
    process = PrincipalAxes(along, TURN)
    assert (process.T, process.axes) == (along.T, DIM)
    for s, t in ((0.2, 0.7), (0.0, 0.4), (0.5, 0.5)):
        pairs = [(process.channel(s, t), along.channel(s, t)), (process.kernel(t), along.kernel(t))]
        pairs += [(process.noise_channel(t, s, k), along.noise_channel(t, s, k)) for k in (0.0, 0.7, 1.0)]
        for found, wanted in pairs:
            matches(found.gain, wanted.gain)
            matches(found.noise, wanted.noise)
            np.testing.assert_allclose(found.offset, TURN @ np.broadcast_to(wanted.offset, (DIM,)), atol=1e-14)
        for found, wanted in zip(process.offset(t), along.offset(t), strict=True):
            np.testing.assert_allclose(found, TURN @ np.broadcast_to(wanted, (DIM,)), atol=1e-15)
    *operators, offset = process.motion(0.6)
    for found, wanted in zip(operators, along.motion(0.6)[:-1], strict=True):
        matches(found, wanted)
    np.testing.assert_array_equal(offset.value, process.offset(0.6).value)
    matches(process.drift(0.6), along.drift(0.6))
    matches(process.diffusion(0.6), along.diffusion(0.6))


@pytest.mark.parametrize("name", ["different axes", "with an offset"])
def test_it_is_the_matrix_equation_of_its_drift_and_diffusion(name):
    process = PrincipalAxes(ALONG[name], TURN)

    def noise(t):
        return TURN * np.sqrt(ALONG[name].diffusion(t))

    def force(t):
        offset = process.offset(t)
        return offset.rate - process.drift(t) @ offset.value

    # VPCosine's drift is unbounded at its end
    matrix = LinearProcess(process.drift, noise, 0.9, force=force)
    for s, t in ((0.0, 0.8), (0.3, 0.5)):
        found, wanted = matrix.channel(s, t), process.channel(s, t)
        np.testing.assert_allclose(found.gain, wanted.gain, atol=1e-12)
        np.testing.assert_allclose(found.noise, wanted.noise, atol=1e-12)
        np.testing.assert_allclose(found.offset, wanted.offset, atol=1e-12)
    for k in (0.0, 1.0):
        found, wanted = matrix.noise_channel(0.8, 0.3, k), process.noise_channel(0.8, 0.3, k)
        np.testing.assert_allclose(found.gain, wanted.gain, atol=1e-11)
        np.testing.assert_allclose(found.noise, wanted.noise, atol=1e-11)
    for part in ("dgain", "noise", "spread"):
        np.testing.assert_allclose(getattr(matrix.motion(0.7), part), getattr(process.motion(0.7), part), atol=1e-11)


def test_centring_takes_the_offset_away():
    process = PrincipalAxes(ALONG["with an offset"], TURN)
    assert process.centred is not process
    centred = process.centred
    assert not process.centred.offset(0.5).value.any()
    assert centred.centred is centred
    plain = PrincipalAxes(ALONG["different axes"], TURN)
    assert plain.centred is plain
    np.testing.assert_array_equal(process.centred.kernel(0.5).noise, process.kernel(0.5).noise)


def test_the_axes_of_the_data_may_be_kept_as_they_are():
    along = ALONG["different axes"]
    process = PrincipalAxes(along, np.eye(DIM))
    np.testing.assert_allclose(process.kernel(0.4).noise, np.diag(along.kernel(0.4).noise), rtol=1e-15)


def test_bases_are_orthonormal_and_of_the_dimension_of_the_process():
    along = ALONG["different axes"]
    with pytest.raises(ValueError, match="basis must have orthonormal columns"):
        PrincipalAxes(along, TURN + 1e-6)
    with pytest.raises(ValueError, match=r"basis must have shape \(d, d\)"):
        PrincipalAxes(along, np.eye(2))
    with pytest.raises(ValueError, match=r"basis must have shape \(d, d\)"):
        PrincipalAxes(along, TURN[:, :2])
    with pytest.raises(ValueError, match="basis must be finite"):
        PrincipalAxes(along, TURN * np.nan)
    with pytest.raises(TypeError, match="along must be an AffineProcess"):
        PrincipalAxes(VPLinear(), TURN)
