"""Packed rows: what stands where, out again what went in, and a gradient that is gathered on its own device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.data.packing import plan
from bert_jax.nn.packing import Packing
from bert_jax.training.sharding import MeshShape

L, M, D = 6, 8, 3
LENGTHS = np.array([3, 6, 0, 2, 1, 4, 5, 2])


def reference(x, packing, rows, columns):
    """[B, L, D] of packed x [R, M, D], token by token."""
    groups = len(packing)
    found = np.zeros((groups, rows // groups * columns, x.shape[-1]), x.dtype)
    x = np.asarray(x).reshape(groups, -1, x.shape[-1])
    for group, tokens in enumerate(packing.reshape(groups, -1)):
        for place, token in enumerate(tokens):
            if token >= 0:
                found[group, token] = x[group, place]
    return found.reshape(rows, columns, -1)


def packed(groups):
    packing = plan(LENGTHS, L, M, groups)
    return packing, Packing(jnp.asarray(packing), len(LENGTHS), L)


def test_inputs_by_hand():
    """Two sequences in the first row, one in the second; ids from 1 on, positions from 0 on in each, 0 elsewhere.
    In a second group the ids go on from the rows of the first."""
    packing = Packing(jnp.array([[[0, 1, 2, 8, 9], [4, 5, -1, -1, -1]]]), 3, 4)
    batch = {
        "tokens": jnp.array([[11, 12, 13, 0], [21, 22, 0, 0], [31, 32, 0, 0]]),
        "segments": jnp.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]),
        "lengths": jnp.array([3, 2, 2]),
        "label": jnp.array([0, 1, 2]),
    }
    found = {name: rows.tolist() for name, rows in packing.inputs(batch).items()}
    assert found == {
        "tokens": [[11, 12, 13, 31, 32], [21, 22, 0, 0, 0]],
        "segments": [[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]],
        "sequence_ids": [[1, 1, 1, 3, 3], [2, 2, 0, 0, 0]],
        "positions": [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]],
    }
    groups = Packing(jnp.array([[[0, 1, 4, 5]], [[4, 5, 6, -1]]]), 4, 4)
    found = groups.inputs({"tokens": jnp.zeros((4, 4), jnp.int32)})
    assert found["sequence_ids"].tolist() == [[1, 1, 2, 2], [4, 4, 4, 0]]
    assert found["positions"].tolist() == [[0, 1, 0, 1], [0, 1, 2, 0]]
    assert "segments" not in packing.inputs({"tokens": batch["tokens"]})


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_out_comes_what_went_in(groups, dtype):
    """Hidden states of each token in the rows of the batch, 0 at padding; of one token of each sequence, likewise."""
    packing, packed_rows = packed(groups)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(packing.shape[0] * packing.shape[1], M, D)), dtype)
    wanted = reference(x, packing, len(LENGTHS), L)
    found = packed_rows.unpack(x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, wanted)
    last = np.maximum(LENGTHS - 1, 0)
    for column in (np.zeros_like(last), last):
        found = packed_rows.one_each(x, jnp.asarray(column))
        np.testing.assert_array_equal(found, wanted[np.arange(len(LENGTHS)), column])


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients(groups):
    """Those of a plain gather, to the bit; no number of theirs is scattered; 0 at padding and in empty rows."""
    packing, packed_rows = packed(groups)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(packing.shape[0] * packing.shape[1], M, D)), jnp.float32)
    weights, column = jnp.asarray(rng.normal(size=(len(LENGTHS), L, D)), jnp.float32), jnp.maximum(LENGTHS - 1, 0)
    spread = np.zeros((groups, packing[0].size, D), np.float32)
    for group, tokens in enumerate(packing.reshape(groups, -1)):
        own = np.asarray(weights).reshape(groups, -1, D)[group]
        spread[group, tokens >= 0] = own[tokens[tokens >= 0]]
    functions = {
        "unpack": (lambda x: jnp.sum(packed_rows.unpack(x) * weights), spread.reshape(x.shape)),
        "one_each": (
            lambda x: jnp.sum(packed_rows.one_each(x, column) * weights[:, 0]),
            jax.grad(lambda x: jnp.sum(packed_rows.unpack(x)[np.arange(len(LENGTHS)), column] * weights[:, 0]))(x),
        ),
    }
    for name, (function, wanted) in functions.items():
        np.testing.assert_array_equal(jax.grad(function)(x), wanted, err_msg=name)
        assert np.any(wanted) and not np.all(wanted)
        assert "scatter" not in str(jax.make_jaxpr(jax.grad(function))(x)), name


def test_several_runs():
    """Under vmap each has a plan of its own."""
    plans = [plan(lengths, L, M) for lengths in (np.array([4, 4, 2, 2]), np.array([5, 3, 6, 1]))]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, M, D)), jnp.float32)
    found = jax.vmap(lambda own, x: Packing(own, 4, L).unpack(x))(jnp.stack(plans), x)
    for i, own in enumerate(plans):
        np.testing.assert_array_equal(found[i], reference(x[i], own, 4, L))


def test_nothing_moves_between_devices():
    """With a group for each device the compiled program, and its gradient, communicates nothing."""
    packing = plan(np.random.default_rng(0).integers(1, L + 1, 32), L, M, groups=8)
    mesh = MeshShape().build()
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def function(packing, tokens, x):
        def unpacked(x):
            packed_rows = Packing(packing, 32, L)
            hidden, first = packed_rows.unpack(x), packed_rows.one_each(x, jnp.zeros(32, jnp.int32))
            return hidden, first

        value, back = jax.vjp(unpacked, x)
        return Packing(packing, 32, L).inputs({"tokens": tokens}), value, back(value)

    x = jnp.ones((packing.shape[0] * packing.shape[1], M, D))
    arguments = jax.device_put((jnp.asarray(packing), jnp.ones((32, L), jnp.int32), x), rows)
    text = jax.jit(function, out_shardings=rows).lower(*arguments).compile().as_text()
    assert "gather" in text
    for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert name not in text


def test_a_plan_for_another_number_of_parts():
    """Named before anything is computed."""
    with pytest.raises(ValueError, match="a plan for 3 groups does not fit a batch of 8 rows"):
        Packing(jnp.zeros((3, 1, 4), jnp.int32), 8, 4)
