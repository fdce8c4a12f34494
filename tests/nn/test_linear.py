"""Projections and tables: shapes read from letters, initial values, look-ups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn.linear import Linear, Table


@pytest.mark.parametrize(
    ("equation", "shape", "features", "kernel", "bias"),
    [
        ("BLD,DF->BLF", (2, 3, 4), (5,), (4, 5), (5,)),
        ("BLF,DF->BLD", (2, 3, 5), (4,), (4, 5), (4,)),
        ("BLD,DJHK->JBHLK", (2, 3, 4), (3, 2, 5), (4, 3, 2, 5), (3, 2, 5)),
        ("BHLK,HKD->BLD", (2, 3, 4, 5), (6,), (3, 5, 6), (6,)),
    ],
)
def test_shapes_and_bias_follow_the_letters(equation, shape, features, kernel, bias):
    """The bias stands on the letters that the kernel adds, wherever the output has them."""
    module = Linear(equation, features)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 1, jax.tree.map(jnp.asarray, params))
    shapes = jax.tree.map(jnp.shape, {name: leaf.value for name, leaf in params.items()})
    assert shapes == {"kernel": kernel, "bias": bias}
    names = equation.replace("->", ",").split(",")
    added = "".join(letter for letter in names[1] if letter not in names[0])
    ones = np.ones([dict(zip(names[0], shape, strict=True)).get(letter, 1) for letter in names[2]])
    want = np.einsum(equation, x, params["kernel"].value)
    want = want + np.einsum(f"{added},{names[2]}->{names[2]}", params["bias"].value, np.broadcast_to(ones, want.shape))
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), want, rtol=1e-5)


def test_a_bias_can_be_left_out():
    """`use_bias=False` makes no parameter for it."""
    params = Linear("BD,DC->BC", (3,), use_bias=False).init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    assert set(params) == {"kernel"}


def test_table_looks_up_rows():
    """Every index its row, in any shape of indices; gradients add up where an index comes twice."""
    table = Table("VD", (5, 2))
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    look_up = lambda rows: table.apply({"params": {"table": rows}}, jnp.array([[4, 0], [4, 1]]))  # noqa: E731
    np.testing.assert_array_equal(look_up(rows), rows[[[4, 0], [4, 1]]])
    gradient = jax.grad(lambda rows: look_up(rows).sum())(rows)
    np.testing.assert_array_equal(gradient[:, 0], [1, 1, 0, 0, 2])
