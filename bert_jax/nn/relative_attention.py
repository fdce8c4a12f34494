"""Self-attention that knows how far a key is and whether it is of the query's segment, and no absolute position (Dai et
al. 2019, arXiv 1901.02860, section 3.3; Yang et al. 2019, arXiv 1906.08237, section 2.5; zihangdai/xlnet `modeling.py`,
`rel_attn_core`)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from bert_jax.nn.attention import attend
from bert_jax.nn.dot import ComputeDtype, compute_dtype, dot
from bert_jax.nn.dropout import Dropout, DropoutBits, Places
from bert_jax.nn.linear import INIT_STDDEV, Linear, kernel_init
from bert_jax.nn.rotary import frequencies, turns

THETA = 10_000.0  # modeling.py, `relative_positional_encoding`


def distances(length: int, memory: int = 0) -> Int[Array, " R"]:
    """How far behind the query a key can be, in a row of `length` tokens L with `memory` columns before it, M keys in
    all: M - 1, ..., 0, ..., -L. The last is of none (`by_distance`)."""
    return jnp.arange(memory + length - 1, -length - 1, -1)


def sinusoids(apart: Int[Array, " R"], width: int) -> Float[Array, "R D"]:
    """The encoding of each distance: sines and then cosines (modeling.py, `positional_embedding`). Raises ValueError
    for an odd `width`."""
    cosine, sine = turns(apart[None], frequencies(width, THETA))[:, 0]
    return jnp.concatenate([sine, cosine], axis=-1)


def by_distance(scores: Float[Array, "B H T R"], asked: Int[Array, "B P"] | None = None) -> Float[Array, "B H T M"]:
    """Scores of each query with each of the M keys, from those with each of the M + L `distances`.

    The first L queries are the tokens of the row; the others stand at the places `asked`.
    """
    batch, heads, queries, count = scores.shape
    length = queries if asked is None else queries - asked.shape[1]
    keys = count - length
    # Column j of row i is entry L - 1 - i + j of the row: read one further to the left in each row, so in rows of one
    # entry less (modeling.py, `rel_shift`).
    flat = scores[:, :, :length].reshape(batch, heads, -1)[..., length - 1 :][..., : length * (count - 1)]
    shifted = flat.reshape(batch, heads, length, count - 1)[..., :keys]
    if asked is None:
        return shifted
    entries = length - 1 - asked[:, None, :, None] + jnp.arange(keys)
    return jnp.concatenate([shifted, jnp.take_along_axis(scores[:, :, length:], entries, axis=-1)], axis=2)


class RelativeAttention(nn.Module):
    """Scores of a query with a key's content, its distance and its segment, each with a bias of its own in the query's
    place; no other biases. Queries that nobody sees can follow the tokens of a row: XLNet's second stream. Keys that do
    not ask can stand before them: Transformer-XL's memory."""

    num_heads: int
    dropout: float = 0.1
    stddev: float = INIT_STDDEV
    dtype: ComputeDtype = "auto"
    dropout_bits: DropoutBits = "hash"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Int[Array, " B"] | None,
        sequence_ids: Int[Array, "B L"] | None,
        train: bool,
        token_index: UInt32[Array, "B T"],
        relative: Float[Array, "R D"],
        same: Bool[Array, "B T M"] | None = None,
        visible: Bool[Array, "B 1 T M"] | None = None,
        asked: Int[Array, "B P"] | None = None,
        memory: tuple[Float[Array, "B before D"], UInt32[Array, "B before"]] | None = None,
    ) -> Float[Array, "B T D"]:
        """Mixes the values of M keys, which are those of the memory and of the first L tokens.

        Args:
            x: the tokens of the row, and behind them the queries at the places `asked`, T = L + P.
            relative: the encoding of each of the M + L `distances`.
            same: whether a key is of the query's segment; without, all are.
            visible: in place of `lengths` and `sequence_ids`, and needed with a memory; a query that sees nothing gets
                0.
            memory: what stands before the row, and its `token_index`.
        """
        width, dtype = x.shape[-1], compute_dtype(self.dtype)
        length = x.shape[1] if asked is None else x.shape[1] - asked.shape[1]
        heads = self.num_heads, width // self.num_heads
        init = kernel_init(self.stddev)
        content, position, segment = (
            self.param(f"{name}_bias", nn.with_logical_partitioning(init, ("H", "K")), heads)[:, None]
            for name in ("content", "position", "segment")
        )
        segments = self.param("segments", nn.with_logical_partitioning(init, ("S", "H", "K")), (2, *heads))
        qkv = Linear("BLD,DJHK->JBHLK", (3, *heads), self.stddev, False, self.dtype, name="qkv")
        query, key, value = qkv(x)
        key, value, index = key[:, :, :length], value[:, :, :length], token_index[:, :length]
        if memory is not None:
            _, *earlier = qkv(memory[0])
            key, value = (jnp.concatenate(pair, axis=2) for pair in zip(earlier, (key, value), strict=True))
            index = jnp.concatenate([memory[1], index], axis=1)
        of_distance = Linear("BLD,DHK->BLHK", heads, self.stddev, False, self.dtype, name="relative")(relative[None])[0]
        scores = by_distance(dot("BHLK,RHK->BHLR", query + position, of_distance, dtype), asked)
        if same is not None:
            of_segment = dot("BHLK,SHK->BHLS", query + segment, segments, dtype)
            scores += jnp.where(same[:, None], of_segment[..., :1], of_segment[..., 1:])
        drop, places = Dropout(self.dropout, self.dropout_bits), Places.of_pairs(token_index, self.num_heads)
        places = places._replace(column=index[:, None, None])
        mixed, _ = attend(
            query + content,
            key,
            value,
            dtype,
            lengths,
            sequence_ids,
            visible=visible,
            bias=scores * heads[1] ** -0.5,
            dropout=lambda share: drop(share, train, places),
        )
        if visible is not None:  # the softmax over nothing is the mean of everything, of what is not to be seen, too
            mixed = jnp.where(jnp.any(visible, axis=-1, keepdims=True), mixed, 0.0)
        return Linear("BHLK,HKD->BLD", (width,), self.stddev, False, self.dtype, name="out")(mixed)
