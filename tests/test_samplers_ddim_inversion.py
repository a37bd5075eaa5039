"""DDIM inversion and its round trip: null-text inversion's algorithm, orders, one point, both ends, bad input."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from sampling import GAUSSIAN

from refdiff.distributions import Empirical, GaussianMixture
from refdiff.model import ExactModel
from refdiff.processes import beta_table
from refdiff.samplers.ddim import ddim_inversion, ddim_round_trip
from refdiff.samplers.impulse import impulse_response
from refdiff.samplers.order import gaussian_error, measure_order, reference_flow
from refdiff.samplers.running import run
from refdiff.samplers.times import uniform_angle
from refdiff.schedules import FlowMatching, VPLinear

MIXTURE = GaussianMixture.isotropic([[-1.0], [0.8]], [0.09, 0.25], [0.3, 0.7])
TABLE = beta_table.linear()
COUNTS = (16, 32, 64)


def mokady(table, indices, noisier):
    """Null-text inversion's `next_step`: the model is asked at x_t with the index of t or of the next one."""
    alpha_bar = np.append(1.0, np.cumprod(1 - table.betas))

    def sampler(model, x, _):
        for now, later in pairwise(indices.astype(int)):
            a, b = alpha_bar[now], alpha_bar[later]
            eps = model(x, float(later if noisier else now))
            x = np.sqrt(b) * (x - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - b) * eps
        return x

    return sampler


@pytest.mark.parametrize("noisier", [False, True])
def test_inversion_is_the_box_of_null_text_inversion(noisier):
    up = np.array([0.0, 3, 40, 201, 500, 777, 1000])
    tableau = ddim_inversion(TABLE, up, evaluate_at="noisier" if noisier else "cleaner")
    # the start is where data are: a box may begin anywhere
    model, x = ExactModel(MIXTURE, TABLE), np.linspace(-2, 2, 7)[:, None]
    expected = mokady(TABLE, up, noisier)(lambda y, t: model.noise(y, t), x, None)
    np.testing.assert_allclose(run(tableau, model, x), expected, atol=2e-13)
    read = impulse_response(mokady(TABLE, up, noisier), TABLE, prediction="noise", start_time=0.0, end_time=1000.0)
    assert tableau.difference(read) < 1e-12


@pytest.mark.parametrize("place", ["cleaner", "noisier"])
def test_inversion_and_its_round_trip_are_of_first_order(place):
    schedule = FlowMatching()

    def grid(n):
        return uniform_angle(schedule, n, start=0.9, end=0.02)[::-1]

    found = measure_order(partial(ddim_inversion, schedule, evaluate_at=place), GAUSSIAN, schedule, grid, counts=COUNTS)
    assert found.order == pytest.approx(1, abs=0.1)
    model, x = ExactModel(MIXTURE, schedule), np.linspace(-1.5, 1.5, 5)[:, None]
    coded = run(ddim_inversion(schedule, grid(200), evaluate_at=place), model, x)
    np.testing.assert_allclose(coded, reference_flow(model, x, 0.02, 0.9), atol=0.1)
    lost = [np.abs(run(ddim_round_trip(schedule, grid(n), evaluate_at=place), model, x) - x).max() for n in (50, 100)]
    assert np.log2(np.divide(lost[:-1], lost[1:])) == pytest.approx(1, abs=0.1)


def test_one_point_is_encoded_and_decoded_exactly():
    schedule, model = FlowMatching(), ExactModel(Empirical([[0.4]]), FlowMatching())
    x = np.array([[0.9], [-2.0]])
    for place in ("cleaner", "noisier"):
        back = run(ddim_round_trip(schedule, [0.2, 0.5, 0.8], evaluate_at=place), model, x)
        # eps depends on x and t together: only the point's own time gives the exact one
        assert np.allclose(back, x, atol=1e-13) == (place == "cleaner")


def test_inversion_from_data_to_pure_noise():
    schedule = FlowMatching()
    tableau = ddim_round_trip(schedule, np.linspace(0, 1, 200))
    assert gaussian_error(tableau, GAUSSIAN) < 0.05
    assert tableau.nfe == 398


@pytest.mark.parametrize(
    ("times", "options", "message"),
    [
        ([1, 0.5], {}, "times must increase"),
        ([0.5, 0.5], {}, "times must increase"),
        ([0.5], {}, "at least two times"),
        ([0.5, 2], {}, "times must lie in"),
        ([0.5, 1], {"evaluate_at": "middle"}, "evaluate_at must be one of cleaner, noisier"),
    ],
)
def test_bad_input_is_refused(times, options, message):
    with pytest.raises(ValueError, match=message):
        ddim_inversion(VPLinear(), times, **options)
