"""Runs through SciPy's steps: what is counted, whose tolerances hold, what becomes of a step too far."""

import numpy as np
import pytest

from refdiff import Empirical, ExactModel, VPLinear
from refdiff.dynamics import Unfinished
from refdiff.dynamics.stepping import LEAST_RTOL, METHODS, MOST, Run, Steps, times_with_density

X = np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 0.1]])


def swinging(x, t):
    """A field that is slow at first and fast later: steps that have grown too long are rejected."""
    return 40 * np.cos(40 * t**4) * np.ones_like(x), None


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_evaluation_and_every_attempt_is_counted(method):
    asked = []

    def field(x, t):
        asked.append(t)
        return swinging(x, t)

    run, accepted = Run(X, None, 0.0, 2.0), []
    run.together(slice(0, 3), field, Steps(method, 1e-6, 1e-6, 10_000), lambda solver: accepted.append(solver.t))
    evaluations, steps, rejected = run.counts[0]
    # the field is asked once more, whether it can be asked at the start at all
    assert evaluations == len(asked) - 1
    assert steps == len(accepted)
    # the first step is chosen by two evaluations, every attempt takes as many as the method has stages
    assert evaluations == 2 + METHODS[method].n_stages * (steps + rejected)
    assert rejected > 0
    assert accepted[-1] == 2.0
    assert (run.counts == run.counts[0]).all()
    # one attempt fewer is too few
    few = Run(X, None, 0.0, 2.0)
    few.together(slice(0, 3), swinging, Steps(method, 1e-6, 1e-6, int(steps + rejected)))
    np.testing.assert_array_equal(few.x, run.x)
    few = Run(X, None, 0.0, 2.0)
    few.together(slice(0, 3), swinging, Steps(method, 1e-6, 1e-6, int(steps + rejected) - 1))
    with pytest.raises(Unfinished, match="max_steps"):
        few.flow(lambda part: part)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_points_have_the_absolute_tolerance_and_what_runs_beside_has_not(method):
    def steps(atol, beside):
        run = Run(0 * X, np.zeros(3) if beside else None, 0.0, 2.0)
        still = np.zeros_like(X)
        run.together(
            slice(0, 3),
            lambda x, t: (still, swinging(x, t)[0][:, 0]) if beside else swinging(x, t),
            Steps(method, 1e-6 if beside else 1e-13, atol, 10_000),
        )
        return run.counts[0, 1]

    # points of size 1 under rtol = 1e-13: a large atol spares most steps, which a smaller one does not
    assert 2 * steps(1e-3, False) < steps(1e-9, False)
    assert steps(1e-3, True) == steps(1e-9, True)


def test_a_step_that_asks_beyond_the_field_is_shortened():
    def field(x, _):
        if (np.abs(x) > 10).any():
            raise ValueError("beyond")
        return -50 * x, None

    run = Run(X, None, 0.0, 1.0)
    run.together(slice(0, 3), field, Steps("dop853", 1e-6, 1e-6, 10_000))
    np.testing.assert_allclose(run.x, 0, atol=1e-5)
    with pytest.raises(ValueError, match="beyond"):
        Run(100 * X, None, 0.0, 1.0).together(slice(0, 3), field, Steps("dop853", 1e-6, 1e-6, 10))


def test_times_are_checked_by_their_names():
    model = ExactModel(Empirical([[0.0]]), VPLinear())
    assert times_with_density(model, start=1, end=0.5) == [1.0, 0.5]
    for error, said, times in (
        (ValueError, r"late must lie in \[0, 1.0\], got 2.0", {"late": 2.0}),
        (ValueError, r"clean must be a time at which the data have a density, got 0.0", {"noisy": 1.0, "clean": 0.0}),
    ):
        with pytest.raises(error, match=said):
            times_with_density(model, **times)
    with pytest.raises(TypeError, match="model must be an ExactModel"):
        times_with_density(None)


def test_no_way_takes_no_evaluation():
    run = Run(X, np.zeros(3), 0.7, 0.7)
    assert list(run.groups(2)) == []
    found = run.flow(lambda part: part)
    np.testing.assert_array_equal(found.x, X)
    assert not np.stack([found.evaluations, found.steps, found.rejected, found.log_density_change]).any()


def test_points_share_a_solver_as_long_as_their_tolerance_stays_above_the_least():
    """n points ask SciPy for rtol / sqrt(n)."""
    assert Steps("dop853", 1e-10, 1e-12, 10).sharing == MOST
    tight = Steps("dop853", 1e-13, 1e-12, 10)
    assert LEAST_RTOL <= tight.rtol / np.sqrt(tight.sharing) < 1.1 * LEAST_RTOL
    assert Steps("dop853", LEAST_RTOL, 1e-12, 10).sharing == 1
