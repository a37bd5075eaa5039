"""Blocks of components in two storages: the same matrices, in diagonals as long as all that enter are."""

from itertools import product

import numpy as np
import pytest

from refdiff.distributions.blocks import between, plus, slopes, stored, total, traces, transposed
from refdiff.distributions.covariances import Dense, Diagonal

DIM, COUNT = 3, 4
RNG = np.random.default_rng(0)
BLOCKS = {
    "one number": Diagonal(np.array([[0.7]])),
    "numbers": Diagonal(RNG.random((COUNT, 1)) + 0.5),
    "one diagonal": Diagonal(RNG.random((1, DIM)) + 0.5),
    "diagonals": Diagonal(RNG.random((COUNT, DIM)) + 0.5),
    "one matrix": Dense(RNG.standard_normal((1, DIM, DIM))),
    "matrices": Dense(RNG.standard_normal((COUNT, DIM, DIM))),
}
OPERATORS = {
    "number": np.array(-1.5),
    "diagonal": RNG.standard_normal(DIM),
    "matrix": RNG.standard_normal((DIM, DIM)),
}


def full(block):
    return np.broadcast_to(block.dense(DIM), (COUNT, DIM, DIM))


def square(operator):
    return operator if operator.ndim == 2 else operator * np.eye(DIM)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_between_operators_are_products_of_matrices_and_stay_diagonal_where_they_can(name):
    block = BLOCKS[name]
    np.testing.assert_array_equal(full(transposed(block)), np.swapaxes(full(block), 1, 2))
    np.testing.assert_allclose(np.broadcast_to(traces(block, DIM), COUNT), np.trace(full(block), axis1=1, axis2=2))
    for left, right in product(OPERATORS.values(), OPERATORS.values()):
        found = between(left, block, right)
        np.testing.assert_allclose(full(found), square(left) @ full(block) @ square(right).T, atol=1e-14)
        assert isinstance(found, Diagonal) == (isinstance(block, Diagonal) and max(left.ndim, right.ndim) < 2)


@pytest.mark.parametrize("name", BLOCKS)
def test_sums_are_those_of_matrices(name):
    for other in BLOCKS.values():
        found = total([BLOCKS[name], other, BLOCKS[name]])
        np.testing.assert_allclose(full(found), 2 * full(BLOCKS[name]) + full(other), rtol=1e-15)
        assert isinstance(found, Diagonal) == isinstance(BLOCKS[name], Diagonal) & isinstance(other, Diagonal)
    for operator in OPERATORS.values():
        np.testing.assert_allclose(full(plus(BLOCKS[name], operator)), full(BLOCKS[name]) + square(operator))
        np.testing.assert_array_equal(full(stored(operator)), np.broadcast_to(square(operator), (COUNT, DIM, DIM)))


@pytest.mark.parametrize("name", BLOCKS)
def test_slopes_undo_the_spread(name):
    for other in BLOCKS.values():
        matrices = other.dense(DIM)
        spread = other if isinstance(other, Diagonal) else Dense(matrices @ np.swapaxes(matrices, 1, 2) + np.eye(DIM))
        found = slopes(BLOCKS[name], spread, DIM)
        np.testing.assert_allclose(full(found) @ full(spread), full(BLOCKS[name]), atol=1e-13)
    with pytest.raises(ValueError, match="singular"):
        slopes(BLOCKS[name], Dense(np.zeros((1, DIM, DIM))), DIM)
