"""Processes of matrices go to other processes: their equation is pickled, and says what it is."""

import copy
import math
import pickle
from functools import partial

import numpy as np
import pytest

from refdiff import ExactModel, Gaussian
from refdiff.processes import LinearProcess, Rotating, critically_damped_langevin, ornstein_uhlenbeck
from refdiff.processes.matrix_families import variance_preserving

F, G = np.array([[-1.0, 0.4], [-0.4, -2.0]]), np.array([[1.0, 0.0], [0.3, 0.7]])
DIAGONAL = np.array([0.3, 1.0])


def wave(matrix, power, t):
    return (1 + math.sin(t)) ** power * matrix


def slope(matrix, t):
    return math.cos(t) * matrix


def rates(t):
    return slope(F, t), np.array([math.cos(t), 0.0]), slope(G @ G.T, t)


def force(t):
    return np.array([math.sin(t), 1.0])


def made():
    turned = Rotating([[0.0, 1.0], [-1.0, 0.0]], DIAGONAL)
    return {
        "constant": LinearProcess(F, G, 2.0, force=[1.0, 0.0]),
        "of time": LinearProcess(partial(wave, F, 1), partial(wave, G, 0.5), force=force, rates=rates),
        "Ornstein-Uhlenbeck": ornstein_uhlenbeck(-F, noise=G, mean=[1.0, 2.0]),
        "Langevin": critically_damped_langevin(1, math.exp, beta_rate=math.exp),
        "variance-preserving": variance_preserving(partial(wave, G, 1), noise_rate=partial(slope, G)),
        "turning": LinearProcess(turned.drift, turned.noise, rates=turned.rates),
    }


@pytest.mark.parametrize("name", made())
@pytest.mark.parametrize("copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_process_that_is_sent_is_the_same_process(name, copied):
    process = made()[name]
    new, used = copied(process), process.noise_channel(0.9, 0.5, 1.0)
    again = copied(ExactModel(Gaussian(np.zeros(2), 1.0), process)).process  # with what has been computed left behind
    for other in (new, again):
        assert len(pickle.dumps(other)) < 3000
        np.testing.assert_array_equal(other.noise_channel(0.9, 0.5, 1.0).gain, used.gain)
        for one, two in zip(other.motion(0.7)[:-1], process.motion(0.7)[:-1], strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(other.centred.kernel(0.7).noise, process.centred.kernel(0.7).noise)
        np.testing.assert_array_equal(other.offset(0.7), process.offset(0.7))


def test_a_process_says_what_it_is_in_a_line():
    assert repr(made()["constant"]) == "LinearProcess(R^2, G (2, 2), constant, with a force, T = 2)"
    assert repr(made()["Langevin"]) == "LinearProcess(R^2, G (2, 1), of time, T = 1)"


def test_what_was_given_may_change_afterwards():
    f = F.copy()
    process = LinearProcess(f, G)
    f[:] = 0
    np.testing.assert_array_equal(process.drift(0.5), F)
    with pytest.raises(ValueError, match="read-only"):
        process.drift(0.5)[0, 0] = 1.0
