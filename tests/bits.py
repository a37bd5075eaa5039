"""What must change no bit of an answer: the other points of a batch, the order of threads, how much memory there is."""

import numpy as np
from emulator import cupy as stand_in

from refdiff import compiled
from refdiff.schedules import FlowMatching

WHEN = compiled.at(FlowMatching().coefficients(0.3), "velocity")


def assert_no_neighbour_matters(answers, data):
    """What (data, x, when) -> answers says of a point it says in other batches, and of no points nothing."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((260, data.dim))
    whole, order = answers(data, x, WHEN), rng.permutation(len(x))
    for rows in (order, order[:128], order[:1]):
        for found, expected in zip(answers(data, x[rows], WHEN), whole, strict=True):
            assert np.array_equal(found, expected[rows])
    assert [one.shape for one in answers(data, x[:0], WHEN)] == [(0, data.dim), (0,)]


def assert_no_order_matters(answers, data, fewer):
    """The same of (cupy, data, x, when) -> answers, whose launches are more than `fewer` where memory is little."""
    x = np.random.default_rng(0).standard_normal((130, data.dim))
    with stand_in.standing_in() as cupy:
        whole = answers(cupy, data, x, WHEN)
        for order, seed, memory in (("forward", 1, 2**30), ("backward", 1, 2**30), ("random", 7, 20000)):
            cupy.state.order, cupy.state.seed, cupy.state.total = order, seed, memory
            launches = len(cupy.state.launches)
            assert all(map(np.array_equal, answers(cupy, data, x, WHEN), whole))
            assert len(cupy.state.launches) - launches > fewer * (memory < 2**30)
