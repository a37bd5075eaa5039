"""Foreign samplers, written on numbers as their authors would, give their table back; what is no table is refused."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from tables import tableaus

from refdiff import AffineProcess, FlowMatching, VEPower, VPLinear
from refdiff.samplers.ddim import ddim
from refdiff.samplers.impulse import NotLinear, impulse_response
from refdiff.samplers.running import run

PROCESS = VPLinear()
TIMES = np.linspace(1.0, 0.0, 6)


def as_foreign(tableau):
    """A table as a function (model, x, normal), which draws all its normals at once."""

    def sampler(model, x, normal):
        normals = np.array([normal() for _ in range(tableau.draws)]).reshape(tableau.draws, *x.shape)
        return run(tableau, model, x, normals=normals)

    return sampler


@given(tableaus(process=PROCESS))
def test_a_run_gives_its_table_back(tableau):
    found = impulse_response(
        as_foreign(tableau),
        PROCESS,
        prediction=tableau.prediction,
        end_time=tableau.times[-1],
        start_time=tableau.times[0],
    )
    assert found.difference(tableau) < 1e-13


def their_euler(model, x, normal):
    """Euler ancestral as k-diffusion's users know it, on a grid of sigmas with a final zero."""
    sigmas = np.array([10.0, 4.0, 1.0, 0.3, 0.0])
    for i in range(len(sigmas) - 1):
        denoised = model(x, np.full(len(x), sigmas[i]))
        up = np.sqrt(sigmas[i + 1] ** 2 * (sigmas[i] ** 2 - sigmas[i + 1] ** 2) / sigmas[i] ** 2)
        down = np.sqrt(sigmas[i + 1] ** 2 - up**2)
        x = x + (x - denoised) / sigmas[i] * (down - sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + normal() * up
    return x


def test_normals_drawn_between_evaluations_are_placed_where_they_are_drawn():
    edm = VEPower(T=80.0)
    found = impulse_response(their_euler, edm)
    assert (found.nfe, found.draws) == (4, 3)
    assert found.normals.tolist() == [0, 0, 1, 2, 3, 3]
    # with alpha = 1 it is DDIM with the full posterior noise
    assert found.difference(ddim(edm, [10.0, 4.0, 1.0, 0.3, 0.0], eta=1.0)) < 1e-13


def test_times_are_translated():
    found = impulse_response(their_euler, VEPower(T=8.0), time=lambda sigma: 0.8 * sigma)
    np.testing.assert_allclose(found.times, [8.0, 8.0, 3.2, 0.8, 0.24, 0.0])


def test_a_sampler_without_evaluations_is_a_table():
    found = impulse_response(lambda model, x, normal: 0.5 * x + 2.0 * normal(), PROCESS)
    assert (found.nfe, found.draws) == (0, 1)
    np.testing.assert_allclose(found.unroll().start[-1], 0.5)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda model, x, normal: np.clip(model(x, 0.5), -1, 1), "must be linear .* got a deviation"),
        (lambda model, x, normal: np.clip(model(x, 0.5), -1e6, 1e6), "must be linear .* got a deviation"),
        (lambda model, x, normal: np.clip(model(x, 0.5), -0.02, None), "must be linear .* got a deviation"),
        (lambda model, x, normal: model(x, 0.5) ** 2, "must be linear"),
        (
            lambda model, x, normal: model(x, 0.5) + np.where(np.abs(x) > 1e7, np.nan, 0.0),
            "must be linear .* got a deviation",
        ),
        (lambda model, x, normal: x + normal() if len(x) < 2 else x, "got 0 calls and 1 normals, then 0 calls and 0"),
        (lambda model, x, normal: model(x, 0.5 if abs(x[0, 0]) < 0.5 else 0.6), "must ask at the same times .* 0.5"),
        (lambda model, x, normal: model(x, 0.5 if x[0, 0] in (0, 1) else 0.6), "must ask at the same times .* 0.6"),
        (lambda model, x, normal: x + normal() if x[0, 0] in (0, 1) else x, "must make the same calls"),
        (lambda model, x, normal: model(x, 0.5) + 1.0, "must be linear"),
        (lambda model, x, normal: model(x - x.mean(), 0.5), "must be linear|depends on a later output"),
        (lambda model, x, normal: model(x, np.linspace(0.1, 0.9, len(x))), "must ask about one time in a call"),
        (
            lambda model, x, normal: model(x, 0.5) if len(x) < 2 else x,
            "got 1 calls and 0 normals, then 0 calls",
        ),
    ],
)
def test_what_is_no_table_is_refused(sampler, message):
    with pytest.raises(NotLinear, match=message):
        impulse_response(sampler, PROCESS)


def test_a_sampler_that_asks_at_no_time_is_refused():
    with pytest.raises(ValueError, match="must ask at times that are numbers, got nan"):
        impulse_response(lambda model, x, normal: model(x, np.nan), PROCESS)


def in_place(model, x, normal):  # noqa: ARG001
    """DDIM on sigmas that overwrites its state and the model's answer, as frugal implementations do."""
    for s, t in pairwise([10.0, 4.0, 1.0]):
        denoised = model(x, s)
        x -= denoised
        x *= t / s
        denoised += x
        x[:] = denoised
    return x


def test_a_sampler_that_works_in_place_is_read_all_the_same():
    edm = VEPower(T=80.0)
    found = impulse_response(in_place, edm, end_time=1.0)
    assert found.difference(ddim(edm, [10.0, 4.0, 1.0])) < 1e-13


def test_what_no_evaluation_times_is_said_by_hand_or_begins_at_the_end_of_noise():
    assert impulse_response(lambda model, x, normal: 0.5 * x, PROCESS).times.tolist() == [1.0, 0.0]
    found = impulse_response(lambda model, x, normal: 0.5 * x, PROCESS, start_time=0.7, end_time=0.2)
    assert found.times.tolist() == [0.7, 0.2]


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"sampler must return points of the shape of x, \(1, 1\), got \(1,\)"):
        impulse_response(lambda model, x, normal: model(x, 0.5)[:, 0], PROCESS)


def test_one_process_for_all_axes_is_needed():
    with pytest.raises(ValueError, match="process must be the same on all axes"):
        impulse_response(as_foreign(ddim(PROCESS, TIMES)), AffineProcess([FlowMatching()] * 2))
