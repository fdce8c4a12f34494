"""Attention against hand-made numbers, and what padding, packing and empty rows must not change."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn.attention import SelfAttention, attend, fused, visible_keys

FLOAT32 = jnp.dtype("float32")
D, H = 12, 3


@pytest.fixture(scope="module")
def params():
    """Of a module over 3 heads of width 4, with biases that are not zero."""
    module = SelfAttention(H)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 2, D)), None, None, False))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), nn.unbox(shapes))


@jax.jit
def attention(params, x, lengths=None, sequence_ids=None):
    return SelfAttention(H).apply({"params": params}, x, lengths, sequence_ids, False)


@jax.jit
def gradients(params, x, weight, lengths=None, sequence_ids=None):
    """Of a weighted sum of the output, in the parameters and the input."""
    return jax.grad(lambda p, x: jnp.sum(weight * attention(p, x, lengths, sequence_ids)), (0, 1))(params, x)


def test_two_tokens_by_hand():
    """Scores over the root of the head width 4, softmax over the keys, values mixed: computed with a pen."""
    query = jnp.array([[1.0, 0, 0, 0], [0, 2, 0, 0]])[None, None]
    key = jnp.array([[1.0, 1, 0, 0], [0, 3, 5, 0]])[None, None]
    value = jnp.array([[10.0, 0, 1, 0], [20, 4, 1, 0]])[None, None]
    # q0: scores 1 and 0, halved: 0.5, 0.  q1: scores 2 and 6, halved: 1, 3.
    first = math.exp(0.5) / (math.exp(0.5) + 1)
    second = 1 / (1 + math.exp(2))
    mixed, probabilities = attend(query, key, value, FLOAT32)
    np.testing.assert_allclose(probabilities[0, 0], [[first, 1 - first], [second, 1 - second]], rtol=1e-6)
    want = [[20 - 10 * p, 4 - 4 * p, 1, 0] for p in (first, second)]
    np.testing.assert_allclose(mixed[0, 0], want, rtol=1e-6)


def test_query_key_and_value_are_the_axis_j_of_one_projection(params):
    """In this order, with heads before head width: what checkpoint conversion relies on."""
    x = np.random.default_rng(1).normal(size=(2, 5, D))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    query, key, value = (
        np.einsum("bld,dhk->bhlk", x, p["qkv"]["kernel"][:, j]) + p["qkv"]["bias"][j][None, :, None] for j in range(3)
    )
    scores = np.einsum("bhlk,bhmk->bhlm", query, key) / math.sqrt(D // H)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhlm,bhmk->blhk", weights, value)
    want = np.einsum("blhk,hkd->bld", mixed, p["out"]["kernel"]) + p["out"]["bias"]
    np.testing.assert_allclose(attention(params, x.astype(np.float32)), want, rtol=1e-5, atol=1e-5)


def test_only_keys_are_masked():
    """modeling.py:524-555: a padding query sees the real keys like any other, nobody sees a padding key."""
    seen = np.asarray(visible_keys(4, lengths=jnp.array([3, 1])))
    assert seen.shape == (2, 1, 1, 4)
    np.testing.assert_array_equal(seen[:, 0, 0], [[1, 1, 1, 0], [1, 0, 0, 0]])
    assert visible_keys(4) is None


def test_packed_rows_see_their_own_sequence():
    """Each query sees the keys of its id, in both directions."""
    seen = np.asarray(visible_keys(4, sequence_ids=jnp.array([[1, 1, 2, 0]])))[0, 0]
    np.testing.assert_array_equal(seen, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]),
        ({"lengths": jnp.array([3])}, [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]),
        ({"sequence_ids": jnp.array([[1, 1, 2, 2]])}, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]),
    ],
    ids=["nothing else", "lengths", "sequence ids"],
)
def test_causal_keys(given, want):
    """Itself and those before it, of the keys that lengths and sequence ids leave."""
    np.testing.assert_array_equal(visible_keys(4, **given, causal=True)[0, 0], want)


def test_padding_changes_nothing(params):
    """Neither values nor gradients of the real tokens, whatever stands in the padding; none flows into it."""
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(2, 1, 5, D)).astype(np.float32)
    wide = np.concatenate([x, 100 * rng.normal(size=(1, 3, D)).astype(np.float32)], axis=1)
    wide_weight = np.concatenate([weight, np.zeros((1, 3, D), np.float32)], axis=1)
    lengths = jnp.array([5])
    np.testing.assert_allclose(attention(params, wide, lengths)[:, :5], attention(params, x), rtol=1e-5, atol=1e-6)
    got_params, got_x = gradients(params, wide, wide_weight, lengths)
    want_params, want_x = gradients(params, x, weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got_params, want_params)
    np.testing.assert_allclose(got_x[:, :5], want_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got_x[:, 5:], 0)


def test_packing_changes_nothing(params):
    """Two sequences in one row are what they are in two rows: values and gradients."""
    rng = np.random.default_rng(3)
    x, weight = rng.normal(size=(2, 1, 9, D)).astype(np.float32)
    weight[:, 7:] = 0
    ids = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0, 0]])
    split = lambda rows: np.concatenate([np.pad(rows[:, :3], ((0, 0), (0, 1), (0, 0))), rows[:, 3:7]])  # noqa: E731
    lengths = jnp.array([3, 4])
    packed, apart = attention(params, x, None, ids), attention(params, split(x), lengths)
    np.testing.assert_allclose(packed[0, :3], apart[0, :3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(packed[0, 3:7], apart[1], rtol=1e-5, atol=1e-6)
    got_params, got_x = gradients(params, x, weight, None, ids)
    want_params, want_x = gradients(params, split(x), split(weight), lengths)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got_params, want_params)
    np.testing.assert_allclose(split(np.asarray(got_x)), want_x, rtol=1e-4, atol=1e-5)


def test_a_row_without_tokens_stays_finite(params):
    """A filler row of length 0 must not put NaN into the gradients of the whole batch."""
    x = np.random.default_rng(4).normal(size=(2, 4, D)).astype(np.float32)
    lengths = jnp.array([0, 4])
    assert np.all(np.isfinite(attention(params, x, lengths)))
    for leaf in jax.tree.leaves(gradients(params, x, np.ones_like(x), lengths)):
        assert np.all(np.isfinite(leaf))


def test_dropout_is_on_single_probabilities():
    """Each (row, head, query, key) has a coin of its own; broadcasting one mask over rows or heads is a known
    mistake."""
    x = jnp.zeros((4, 6, 8))
    params = {
        "qkv": {"kernel": jnp.zeros((8, 3, 2, 4)), "bias": jnp.ones((3, 2, 4))},
        "out": {"kernel": jnp.eye(8).reshape(2, 4, 8), "bias": jnp.zeros(8)},
    }
    module = SelfAttention(2, dropout=0.5)
    run = jax.jit(lambda p, x: module.apply({"params": p}, x, None, None, True, rngs={"dropout": jax.random.key(0)}))
    kept = run(params, x)
    counts = np.asarray(kept[..., ::4] * 3).round(5)  # of the 6 keys of equal weight, doubled: how many were kept
    assert set(counts.ravel()) <= set(range(7))
    assert len({counts[i, :, j].tobytes() for i in range(4) for j in range(2)}) == 8
    assert len(set(counts[0, :, 0])) > 1


@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"lengths": jnp.array([6, 4])},
        {"causal": True},
        {"lengths": jnp.array([6, 4]), "causal": True},
        {"sequence_ids": jnp.array([[1, 1, 2, 2, 2, 0], [1, 2, 2, 3, 0, 0]])},
    ],
    ids=["all", "padded", "causal", "padded causal", "packed"],
)
def test_jaxs_own_attention_sees_the_same(seen):
    """Values of the real tokens, and all gradients: what is right for `xla` here is right for `cudnn`, which has the
    same interface and no CPU."""
    rng = np.random.default_rng(6)
    query, key, value, weight = rng.normal(size=(4, 2, H, 6, 4)).astype(np.float32)
    real = np.ones((2, 6), bool)
    if "lengths" in seen:
        real = np.arange(6) < np.asarray(seen["lengths"])[:, None]
    if "sequence_ids" in seen:
        real = np.asarray(seen["sequence_ids"]) > 0
    weight = weight * real[:, None, :, None]

    def value_and_gradients(attention):
        total = lambda *qkv: jnp.sum(weight * attention(*qkv))  # noqa: E731
        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(query, key, value)

    got = value_and_gradients(lambda *qkv: fused(*qkv, FLOAT32, **seen, kind="xla"))
    want = value_and_gradients(lambda *qkv: attend(*qkv, FLOAT32, **seen)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_fused_attention_refuses_the_dropout_that_it_has_not(params):
    """A silent 0 would be another model; without dropout, and when nothing is trained, it computes."""
    x, key, params = jnp.ones((1, 4, D)), {"dropout": jax.random.key(0)}, jax.tree.map(jnp.asarray, params)
    run = lambda rate, train: SelfAttention(H, rate, kind="xla").apply(  # noqa: E731
        {"params": params}, x, None, None, train, rngs=key
    )
    with pytest.raises(ValueError, match="set attention_dropout to 0"):
        run(0.1, True)
    np.testing.assert_allclose(run(0.0, True), run(0.1, False))
