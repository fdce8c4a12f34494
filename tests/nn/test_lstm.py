"""The bidirectional LSTM: against the equations, and without a look at padding."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn.lstm import BiLstm

B, L, D, WIDTH = 3, 7, 5, 6
MODEL = BiLstm(WIDTH)
X = np.random.default_rng(0).normal(size=(B, L, D)).astype(np.float32)
LENGTHS = np.array([7, 1, 4], np.int32)


@pytest.fixture(scope="module")
def params():
    """Random ones, biases included."""
    shapes = nn.unbox(jax.eval_shape(MODEL.init, jax.random.key(0), X, LENGTHS))["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=3)
def apply(params, x, lengths, model=MODEL):
    return model.apply({"params": params}, x, lengths)


def one_direction(params, x):
    """Hochreiter and Schmidhuber 1997 with forget gates, a row [L, D] in float64, one token at a time."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    h = c = np.zeros(WIDTH // 2)
    found = []
    for token in x.astype(np.float64):
        gate = {k: token @ p[f"i{k}"]["kernel"] + h @ p[f"h{k}"]["kernel"] + p[f"h{k}"]["bias"] for k in "ifgo"}
        i, f, o = (1 / (1 + np.exp(-gate[k])) for k in "ifo")
        c = f * c + i * np.tanh(gate["g"])
        h = o * np.tanh(c)
        found.append(h)
    return np.array(found)


def test_against_the_equations(params):
    """Two layers of two directions, each row for itself and without its padding."""
    got = apply(params, X, LENGTHS)
    assert got.shape == (B, L, WIDTH)
    for row, length in enumerate(LENGTHS):
        x = X[row, :length]
        for layer in range(2):
            left = one_direction(params[f"left_{layer}"], x)
            right = one_direction(params[f"right_{layer}"], x[::-1])[::-1]
            x = np.concatenate([left, right], axis=-1)
        np.testing.assert_allclose(got[row, :length], x, atol=1e-6)


def test_padding_is_not_read(params):
    """The tokens of a row are the same whatever is behind them; without lengths all tokens are read."""
    padded = np.where(np.arange(L)[None, :, None] < LENGTHS[:, None, None], X, 100.0).astype(np.float32)
    got, wanted = apply(params, padded, LENGTHS), apply(params, X, LENGTHS)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(got[row, :length], wanted[row, :length])
    np.testing.assert_array_equal(apply(params, X, None)[0], wanted[0])
    assert np.abs(apply(params, X, None)[2, 0] - wanted[2, 0]).max() > 1e-3


def test_dtype_and_width(params):
    """The output has the dtype of the input; an odd width has no two equal halves."""
    low = apply(params, X.astype(jnp.bfloat16), LENGTHS)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(np.float32)[0], apply(params, X, LENGTHS)[0], atol=0.03)
    with pytest.raises(ValueError, match="width 5 is of both directions together: give an even number"):
        jax.eval_shape(BiLstm(5).init, jax.random.key(0), X)
