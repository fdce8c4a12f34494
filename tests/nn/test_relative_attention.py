"""Relative attention is what its formula says, pair by pair."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn.relative_attention import RelativeAttention, by_distance, distances, sinusoids

B, L, P, D, H, K = 2, 5, 3, 12, 2, 6


@pytest.mark.parametrize("memory", [0, 3, 7])
def test_by_distance_by_hand(memory):
    """Each query's score with a key is its score with their distance, in the row, at places that are asked, and where
    keys stand before the row."""
    assert distances(3).tolist() == [2, 1, 0, -1, -2, -3] and distances(2, 1).tolist() == [2, 1, 0, -1, -2]
    scores = np.random.default_rng(0).normal(size=(B, H, L + P, memory + 2 * L)).astype(np.float32)
    asked = np.array([[0, 4, 2], [3, 3, 1]])
    found = by_distance(jnp.asarray(scores), jnp.asarray(asked))
    assert found.shape == (B, H, L + P, memory + L)
    entry = {apart: place for place, apart in enumerate(distances(L, memory).tolist())}
    for row in range(B):
        for query, at in enumerate([*range(L), *asked[row]]):
            for key in range(-memory, L):
                expected = scores[row, :, query, entry[at - key]]
                np.testing.assert_array_equal(found[row, :, query, memory + key], expected)
    np.testing.assert_array_equal(by_distance(jnp.asarray(scores[:, :, :L])), found[:, :, :L])


def test_sinusoids_by_hand():
    """Sines and then cosines of distance / 10000 ** (2 i / D); an odd width has no such pairs."""
    apart = np.array([3, 0, -1])
    angles = apart[:, None] / 10_000 ** (np.array([0, 2, 4]) / 6)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(sinusoids(jnp.asarray(apart), 6), expected, atol=1e-6)
    with pytest.raises(ValueError, match="take an even width"):
        sinusoids(jnp.asarray(apart), 5)


@pytest.mark.parametrize("memory", [0, 3])
def test_pair_by_pair(memory):
    """Both streams beside loops over queries and keys (Dai et al. 2019, section 3.3, with the term of segments), and
    over keys of a memory; a query that sees nothing gets nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, L + P, D)).astype(np.float32)
    asked = np.array([[0, 4, 2], [3, 0, 1]])
    same, visible = (rng.random((B, L + P, memory + L)) < share for share in (0.5, 0.7))
    visible[1, 6] = False
    relative = np.asarray(sinusoids(distances(L, memory), D))
    earlier = rng.normal(size=(B, memory, D)).astype(np.float32)
    module = RelativeAttention(H, dropout=0.0, dtype="float32")
    given = (jnp.zeros((B, L + P), jnp.uint32), relative, same, visible[:, None], asked)
    if memory:
        given += ((earlier, np.zeros((B, memory), np.uint32)),)
    given = jax.tree.map(jnp.asarray, given)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(x), None, None, False, *given))
    params = jax.tree.map(lambda a: rng.normal(0, 0.4, a.shape).astype(np.float32), nn.unbox(shapes))["params"]
    found = jax.jit(lambda p, x: module.apply({"params": p}, x, None, None, False, *given))(params, jnp.asarray(x))

    q, k, v = np.einsum("btd,djhk->jbthk", np.concatenate([earlier, x], axis=1), params["qkv"]["kernel"])
    q = q[:, memory:]
    expected = np.zeros_like(x)
    for row in range(B):
        for query, at in enumerate([*range(L), *asked[row]]):
            seen = np.flatnonzero(visible[row, query])
            for head in range(H if len(seen) else 0):
                own = q[row, query, head]
                terms = []
                for key in seen:
                    apart = (
                        relative[distances(L, memory).tolist().index(memory + at - key)]
                        @ params["relative"]["kernel"][:, head]
                    )
                    segment = params["segments"][0 if same[row, query, key] else 1, head]
                    terms.append(
                        (own + params["content_bias"][head]) @ k[row, key, head]
                        + (own + params["position_bias"][head]) @ apart
                        + (own + params["segment_bias"][head]) @ segment
                    )
                share = np.exp(np.array(terms) / np.sqrt(K))
                mixed = (share / share.sum()) @ v[row, seen, head]
                expected[row, query] += mixed @ params["out"]["kernel"][head]
    assert not expected[1, 6].any()
    np.testing.assert_allclose(found, expected, atol=1e-4)
