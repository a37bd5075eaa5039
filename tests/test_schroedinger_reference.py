"""References and their bridges as interpolants: rates, the flow of a bridge, ends, Brownian motion, refusals."""

import numpy as np
import pytest

from refdiff import AffineProcess, VEPower, VPLinear, operators
from refdiff.interpolants import Interpolant, InterpolantModel, brownian
from refdiff.path_measures import PinnedBridge
from refdiff.processes import LinearProcess, Process
from refdiff.schedules import FlowMatching, VEGeometric
from refdiff.schroedinger import BrownianReference, ReferenceBridges, reference_process
from refdiff.transport import point_pairs
from refdiff.validation.numeric import derivative


def varying(t):
    return np.array([[1 + t, 0.2], [0.0, 0.1 + t * t]])


def spread_rate(t):
    slope = np.array([[1.0, 0.0], [0.0, 2 * t]])
    return slope @ varying(t).T + varying(t) @ slope.T


VARYING = LinearProcess(
    lambda t: np.array([[np.sin(t), 1.0], [-t, -1.0]]),
    varying,
    force=lambda t: np.array([t, 1.0]),
    rates=lambda t: (np.array([[np.cos(t), 0.0], [-1.0, 0.0]]), np.array([1.0, 0.0]), spread_rate(t)),
)
LANGEVIN = LinearProcess([[0.0, 2.0], [-1.0, -2.0]], [[0.0], [1.7]], force=[0.1, -0.4])
SHIFTED = AffineProcess(
    [VPLinear(0.5, 3.0), VEPower(0.5, T=1.0)],
    offset=lambda t: (np.array([t * t, 1.0 + t]), np.array([2 * t, 1.0]), np.array([2.0, 0.0])),
)
KINDS = {
    "Brownian": 0.7,
    "VP": VPLinear(0.5, 3.0),
    "VE with noise at its start": VEGeometric(0.05, 2.0),
    "axes": SHIFTED,
    "Langevin": LANGEVIN,
    "of time": VARYING,
}
RATES = {
    "first": "dfirst",
    "second": "dsecond",
    "offset": "doffset",
    "dfirst": "d2first",
    "dsecond": "d2second",
    "doffset": "d2offset",
    "spread": "dspread",
}


@pytest.mark.parametrize("name", KINDS)
def test_rates_are_those_of_the_bridges(name):
    bridges = ReferenceBridges(KINDS[name])
    assert isinstance(bridges, Interpolant)
    for t in (0.3, 0.9):
        now = bridges.at(t)
        for part, rate in RATES.items():
            by_stencil = derivative(lambda u, part=part: getattr(bridges.at(u), part), t, 0.004)
            # a stencil rounds to 1e-13 of what it is taken of, and is cut off at (7 h)^8 of the fastest one, e^(7 t)
            np.testing.assert_allclose(by_stencil, getattr(now, rate), rtol=1e-9, atol=1e-10, err_msg=rate)
        grown = derivative(lambda u: bridges.at(u).noise, t, 0.004)
        np.testing.assert_allclose(grown, now.spread + now.spread.T, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_one_pair_flows_as_its_bridge_does(name):
    # the spread is not any S with S + S' = V': the flow of a pinned bridge is b - D score / 2 of its own equation
    bridges = ReferenceBridges(KINDS[name])
    start, end, x = np.array([0.4, -0.2]), np.array([-0.5, 0.6]), np.array([[0.1, 0.2], [-0.4, 1.0]])
    pinned = PinnedBridge(bridges.process, start, end, 0.0, bridges.T)
    model = InterpolantModel(point_pairs([start], [end]), bridges)
    for t in (0.2, 0.5, 0.8):
        law = pinned.at(t)
        np.testing.assert_allclose(model.marginal(t).mean(), law.mean(), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(model.marginal(t).cov(), law.cov(), rtol=1e-10, atol=1e-14)
        half = 0.5 * operators.apply(bridges.process.diffusion(t), law.score(x))
        # pulls of 1 / (T - t), of noise that comes in through another axis by its cube, cancel to what is left
        np.testing.assert_allclose(model.velocity(x, t), pinned.equation().drift_at(x, t) - half, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_bridges_are_at_their_ends_exactly(name):
    bridges = ReferenceBridges(KINDS[name])
    for t, (a, b) in ((0.0, (1.0, 0.0)), (bridges.T, (0.0, 1.0))):
        now = bridges.at(t)
        np.testing.assert_array_equal(operators.dense(now.first, 2), a * np.eye(2))
        np.testing.assert_array_equal(operators.dense(now.second, 2), b * np.eye(2))
        assert not now.noise.any()
        assert not now.offset.any()


def test_brownian_bridges_are_those_of_interpolants():
    mine, plain = ReferenceBridges(0.7, 2.0), brownian(0.7, 2.0)
    for t in (0.0, 1e-9, 0.3, 1.99999, 2.0):
        for one, other in zip(mine.at(t), plain.at(t), strict=True):
            np.testing.assert_allclose(one, other, rtol=4e-16, atol=1e-16)


def test_brownian_motion_is_the_process_of_a_power_of_one_half():
    mine, other = BrownianReference(1.0, 2.0), AffineProcess(VEPower(0.5, T=2.0))
    assert isinstance(mine, Process)
    assert mine.centred is mine
    assert mine.axes is None
    for ask in (
        lambda p: p.kernel(0.7).noise,
        lambda p: p.channel(0.3, 0.7).noise,
        lambda p: p.noise_channel(0.7, 0.3, 1.5).gain,
        lambda p: p.noise_channel(0.7, 0.3, 1.5).noise,
        lambda p: p.noise_channel(0.3, 0.7).gain,
        lambda p: p.drift(0.3),
        lambda p: p.force(0.3),
        lambda p: p.diffusion(0.3),
        lambda p: p.motion(0.3)[:7],
    ):
        np.testing.assert_allclose(ask(mine), ask(other), rtol=1e-14)


def test_a_bridge_may_end_before_its_process():
    whole, early = ReferenceBridges(LANGEVIN), ReferenceBridges(LANGEVIN, 0.5)
    assert (whole.T, early.T) == (1.0, 0.5)
    pinned = PinnedBridge(LANGEVIN, [0.4, -0.2], [-0.5, 0.6], 0.0, 0.5)
    np.testing.assert_allclose(early.at(0.3).noise, pinned.at(0.3).cov(), rtol=1e-12)


def test_second_rates_are_left_out_where_a_process_does_not_know_them():
    unknown = LinearProcess(lambda t: np.array([[-1.0 - t]]), [[1.0]])
    now = ReferenceBridges(unknown).at(0.5)
    assert now.d2first is None
    assert now.dspread is None
    assert now.dfirst.shape == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("VP",), TypeError, "reference"),
        ((True,), TypeError, "reference"),
        (([0.5, 1.0],), TypeError, "reference"),
        ((0.0,), ValueError, "epsilon"),
        ((0.5, 0.0), ValueError, "T must"),
        ((LANGEVIN, 2.0), ValueError, "T must"),
    ],
    ids=["a word", "a truth", "numbers", "no noise", "no time", "too late"],
)
def test_what_is_no_reference_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        reference_process(*arguments)


def test_noise_has_to_reach_every_direction_by_the_end():
    with pytest.raises(ValueError, match="reaches every direction"):
        ReferenceBridges(LinearProcess(np.zeros((2, 2)), [[1.0], [0.0]]))


def test_a_process_that_forgets_all_at_its_end_has_bridges_that_end_before():
    for schedule in (FlowMatching(), AffineProcess([VPLinear(), FlowMatching()])):
        with pytest.raises(ValueError, match="keep something of x_0"):
            ReferenceBridges(schedule)
        assert ReferenceBridges(schedule, 0.9).at(0.9).noise.sum() == 0


def test_times_without_rates_and_outside_are_refused():
    fast = ReferenceBridges(VEPower(0.25, T=1.0))
    with pytest.raises(ValueError, match="finite drift"), np.errstate(divide="ignore"):
        fast.at(0.0)
    with pytest.raises(ValueError, match="t must lie"):
        fast.at(1.1)


def test_bad_parts_of_brownian_motion_are_refused():
    with pytest.raises(ValueError, match="epsilon"):
        BrownianReference(-1.0)
    with pytest.raises(ValueError, match="s must lie"):
        BrownianReference(1.0).channel(0.7, 0.3)
    with pytest.raises(ValueError, match="noise"):
        BrownianReference(1.0).noise_channel(0.3, 0.7, 1.0)
    with pytest.raises(ValueError, match="s must lie"):
        BrownianReference(1.0).noise_channel(0.0, 0.7)
