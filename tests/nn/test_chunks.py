"""Rows in chunks: cut, put together again, and what stands before each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn.chunks import Chunks


def test_by_hand():
    """Two rows of seven tokens in chunks of three, with a memory that is longer than a chunk."""
    chunks = Chunks.of(2, 7, size=3, memory=4)
    assert chunks.count == 3
    x = jnp.arange(1, 15).reshape(2, 7)
    folded = chunks.fold(x)
    assert folded.tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0], [8, 9, 10], [11, 12, 13], [14, 0, 0]]
    np.testing.assert_array_equal(chunks.unfold(folded), x)
    before = [[0, 0, 0, 0], [0, 1, 2, 3], [3, 4, 5, 6], [0, 0, 0, 0], [0, 8, 9, 10], [10, 11, 12, 13]]
    assert chunks.before(folded).tolist() == before
    np.testing.assert_array_equal(chunks.known(), np.array(before) > 0)
    assert chunks.lengths(jnp.array([7, 4])).tolist() == [3, 3, 1, 3, 1, 0]
    columns = jnp.array([[0, 2, 3, 4, 6, 6], [1, 1, 5, 3, 6, 6]])
    own = chunks.own_columns(columns)
    assert own.tolist() == [[0, 2], [0, 1], [0, 0], [1, 1], [2, 0], [0, 0]]
    np.testing.assert_array_equal(chunks.row_columns(own), columns)


def test_states_and_their_gradient():
    """Arrays with more axes; of what stands before a chunk there is no gradient."""
    chunks = Chunks.of(2, 6, size=2, memory=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5)), jnp.float32)
    found = chunks.before(chunks.fold(x))
    np.testing.assert_array_equal(found[2], x[0, 1:4])
    np.testing.assert_array_equal(found[4], np.concatenate([np.zeros((1, 5)), x[1, :2]]))
    assert not jax.grad(lambda x: jnp.sum(chunks.before(chunks.fold(x))))(x).any()


@pytest.mark.parametrize("size", [0, 4, 9])
def test_rows_that_are_one_chunk(size):
    """Rows that are not cut, or no longer than a chunk, stay as they are, and nothing stands before them."""
    chunks = Chunks.of(3, 4, size, memory=size)
    x = jnp.ones((3, 4, 2))
    assert chunks == Chunks(3, 4, 4, 0) and chunks.count == 1
    np.testing.assert_array_equal(chunks.fold(x), x)
    assert chunks.before(x).shape == (3, 0, 2) and chunks.known().shape == (3, 0)


@pytest.mark.parametrize(("size", "memory"), [(-1, 0), (4, -2), (0, 3)])
def test_what_is_refused(size, memory):
    """Sizes that are none, and a memory of nothing."""
    with pytest.raises(ValueError, match=f"chunk is {size} and memory {memory}"):
        Chunks.of(2, 8, size, memory)
