"""Functions of log t kept as polynomials: resolved to rounding, to the function's own rounding, and around jumps."""

import numpy as np
import pytest

from refdiff.processes.pieces import Pieces


def asked(function, final=2.0):
    calls = []

    def counted(t):
        calls.append(t)
        return function(t)

    return Pieces(counted, final), calls


def smooth(t):
    return np.array([[np.sin(5 * t), np.sqrt(t)], [1 / (1 + t), np.log(t)]])


@pytest.mark.parametrize("u", [0.0, -0.2, -0.5, -3.3, -12.0])
def test_smooth_functions_are_known_to_rounding(u):
    pieces, _ = asked(smooth)
    np.testing.assert_allclose(pieces(u), smooth(2 * np.exp(u)), atol=1e-12)


def test_a_piece_is_computed_once():
    pieces, calls = asked(smooth)
    pieces(-0.1)
    known = len(calls)
    for u in np.linspace(-0.14, -0.06, 20):
        pieces(u)
    assert len(calls) == known
    assert 0 < min(calls)
    assert max(calls) <= 2


@pytest.mark.parametrize("when", [0.7, 1.0, 1.9])
def test_jumps_are_where_they_are(when):
    pieces, calls = asked(lambda t: np.array([float(t >= when), t]))
    for u in np.append(np.linspace(-1.5, 0, 40), np.log(when / 2) + np.array([-1e-9, 1e-9])):
        t = 2 * np.exp(u)
        np.testing.assert_allclose(pieces(u), [float(t >= when), t], atol=1e-12)
    assert len(calls) < 2000


def test_a_function_with_rounding_of_its_own_is_not_halved_for_ever():
    rng = np.random.default_rng(0)
    pieces, calls = asked(lambda t: np.array([np.sin(t)]) + 1e-9 * rng.uniform(-1, 1))
    for u in np.linspace(-2, 0, 50):
        np.testing.assert_allclose(pieces(u), np.sin(2 * np.exp(u)), atol=1e-8)
    assert len(calls) < 200  # four pieces of 17 nodes, three neighbours each, and some halves
