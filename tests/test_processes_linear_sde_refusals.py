"""What is no matrix SDE, and what one cannot be asked, is refused by name."""

import numpy as np
import pytest

from refdiff.processes import LinearProcess

F, G = -np.eye(2), np.eye(2)
REFUSED = {
    "a drift that is not square": (lambda: LinearProcess(np.ones((2, 3)), G), "drift must be square"),
    "a drift that is a number": (lambda: LinearProcess(-1.0, G), "drift must have 2 dimensions"),
    "an empty drift": (lambda: LinearProcess(np.ones((0, 0)), G), "drift must not be empty"),
    "noise of another dimension": (lambda: LinearProcess(F, np.ones((3, 2))), r"noise must have shape \(2, 2\)"),
    "noise without columns": (lambda: LinearProcess(F, np.ones((2, 0))), "noise must not be empty"),
    "noise that changes its columns": (
        lambda: LinearProcess(F, lambda t: np.ones((2, 1 + int(t)))), r"noise must have shape \(2, 1\), got .*\(2, 2\)",
    ),
    "a force of another dimension": (lambda: LinearProcess(F, G, force=np.ones(3)), r"force must have shape \(2,\)"),
    "a drift that is not finite": (lambda: LinearProcess(F * np.nan, G), "drift must be finite"),
    "noise that is not finite at the end": (
        lambda: LinearProcess(F, lambda t: G / (1 - t) if t < 1 else np.full((2, 2), np.inf)), "noise must be finite",
    ),
    "a drift that is not finite between": (
        lambda: LinearProcess(lambda t: F * (np.nan if 0 < t < 1 else 1), G).kernel(0.5), "drift must be finite",
    ),
    "no time": (lambda: LinearProcess(F, G, 0.0), "T must lie in"),
    "a time before the data": (lambda: LinearProcess(F, G).kernel(-0.1), "t must lie in"),
    "a time after the end": (lambda: LinearProcess(F, G).channel(0.5, 1.5), "t must lie in"),
    "times in reverse": (lambda: LinearProcess(F, G).channel(0.5, 0.2), "s must not exceed t"),
    "the rest of no noise": (lambda: LinearProcess(F, G).noise_channel(0.0, 0.5), "s must be > 0"),
    "noise on the way to noise": (lambda: LinearProcess(F, G).noise_channel(0.2, 0.5, 1.0), "t must not exceed s"),
    "less than no noise": (lambda: LinearProcess(F, G).noise_channel(0.5, 0.2, -1.0), "stochasticity must lie in"),
    "noise of one direction": (
        lambda: LinearProcess(F, np.eye(2)[:, :1]).frame(0.5), "noise must reach every direction by t = 0.5",
    ),
    "what is left of noise of one direction": (
        lambda: LinearProcess(F, np.eye(2)[:, :1]).noise_channel(0.5, 0.2), "noise must reach every direction",
    ),
    "noise of one direction up to rounding": (
        lambda: LinearProcess(-F, np.array([[1.0, 0.0], [1.0, 1e-8]])).noise_channel(0.9, 0.3),
        "noise must reach every direction .* got one with the part 1e-16 of its variance",
    ),
    "a frame of clean data": (lambda: LinearProcess(F, G).frame(0.0), "noise must reach every direction by t = 0"),
    "rates of other shapes": (
        lambda: LinearProcess(lambda _: F, G, rates=lambda _: (F, np.zeros(3), F)).motion(0.5), "rates must answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_process_is_refused_by_name(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_rates_are_a_function():
    with pytest.raises(TypeError, match="rates must be a function of time"):
        LinearProcess(F, G, rates=(F, np.zeros(2), F))
