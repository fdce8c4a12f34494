"""Multi-head self-attention over right-padded or packed rows."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from bert_jax.nn import cache
from bert_jax.nn.dot import ComputeDtype, compute_dtype, dot
from bert_jax.nn.dropout import Dropout, DropoutBits, Places
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.rotary import rotate

# `plain` is `attend`; the others are `jax.nn.dot_product_attention`, of which cuDNN's is fused and needs an NVIDIA GPU.
AttentionKind = Literal["plain", "xla", "cudnn"]


def visible_keys(
    length: int,
    lengths: Int[Array, " B"] | None = None,
    sequence_ids: Int[Array, "B M"] | None = None,
    causal: bool = False,
    window: int | Int[Array, ""] | None = None,
) -> Bool[Array, "#B 1 #L M"] | None:
    """Which keys each query attends to, from what tells the tokens of a row apart.

    Args:
        length: M, the width of the rows.
        lengths: right-padded rows; every query sees the first `lengths` keys (modeling.py:524-555).
        sequence_ids: several sequences in a row, or holes; a query sees the keys that have its own id. 0 is padding.
        causal: of these, a query sees its own and those before it, in the order of the row.
        window: of these, a query sees its own and as many on each side, in the order of the row.
    """
    visible = None
    if sequence_ids is not None:
        visible = (sequence_ids[:, :, None] == sequence_ids[:, None, :])[:, None]
    elif lengths is not None:
        visible = (jnp.arange(length)[None, :] < lengths[:, None])[:, None, None]
    if causal:
        before = jnp.tri(length, dtype=bool)[None, None]
        visible = before if visible is None else visible & before
    if window is not None:
        place = jnp.arange(length)
        near = (jnp.abs(place[:, None] - place[None, :]) <= window)[None, None]
        visible = near if visible is None else visible & near
    return visible


def attend(
    query: Float[Array, "B H L K"],
    key: Float[Array, "B H M K"],
    value: Float[Array, "B H M K"],
    dtype: jnp.dtype,
    lengths: Int[Array, " B"] | None = None,
    sequence_ids: Int[Array, "B M"] | None = None,
    causal: bool = False,
    window: int | Int[Array, ""] | None = None,
    visible: Bool[Array, "B 1 L M"] | None = None,
    bias: Float[Array, "#B H L M"] | None = None,
    dropout=lambda probabilities: probabilities,
) -> tuple[Float[Array, "B H L K"], Float[Array, "B H L M"]]:
    """Scaled dot-product attention; returns the mixed values and the probabilities before dropout.

    Scores and softmax are float32. A masked score becomes the most negative finite number, which after the softmax is
    the same 0.0 as with the original's adder of -10000 (modeling.py:712); a row without any visible key stays finite.
    `visible` is in place of all that says which keys a query sees; `bias` is added to the scores.
    """
    scores = dot("BHLK,BHMK->BHLM", query, key, dtype) * (query.shape[-1] ** -0.5)
    scores = scores if bias is None else scores + bias
    if visible is None:
        visible = visible_keys(key.shape[2], lengths, sequence_ids, causal, window)
    if visible is not None:
        scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    return dot("BHLM,BHMK->BHLK", dropout(probabilities), value, dtype), probabilities


def fused(
    query: Float[Array, "B H L K"],
    key: Float[Array, "B H M K"],
    value: Float[Array, "B H M K"],
    dtype: jnp.dtype,
    lengths: Int[Array, " B"] | None = None,
    sequence_ids: Int[Array, "B M"] | None = None,
    causal: bool = False,
    window: int | Int[Array, ""] | None = None,
    bias: Float[Array, "#B H L M"] | None = None,
    kind: AttentionKind = "cudnn",
) -> Float[Array, "B H L K"]:
    """The mixed values of `attend` by `jax.nn.dot_product_attention`, without dropout and rounded to `dtype`.

    cuDNN keeps no [L, M] array, and wants bfloat16. Right padding reaches it as lengths, of which none may be 0; which
    sequence of a packed row a token belongs to, and a window, only as a mask, which becomes such an array again: the
    windows that cuDNN knows are to the left alone. Raises ValueError for a bias with cuDNN, whose gradient it gives for
    some shapes only.
    """
    if bias is not None and kind == "cudnn":
        raise ValueError("attention 'cudnn' has no bias on the scores that is learned: take attention 'plain' or 'xla'")
    query, key, value = (jnp.swapaxes(x.astype(dtype), 1, 2) for x in (query, key, value))
    mask = None
    if sequence_ids is not None or window is not None:
        mask = visible_keys(key.shape[1], lengths, sequence_ids, window=window)
    # Padding sees itself where nothing else does: a row of the softmax without any key is no number.
    mask = None if mask is None else mask | jnp.eye(key.shape[1], dtype=bool)
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias=bias,
        mask=mask,
        is_causal=causal,
        key_value_seq_lengths=lengths if mask is None else None,
        implementation=kind,
    )
    return jnp.swapaxes(mixed, 1, 2)


class SelfAttention(nn.Module):
    """Query, key and value in one projection, attention, output projection (modeling.py:558-751).

    Attributes:
        kind: what computes it; others than `plain` have no dropout on the probabilities.
        use_bias: of both projections.
        out_stddev: of the output projection; that of the other one if not given.
    """

    num_heads: int
    dropout: float = 0.1
    stddev: float = INIT_STDDEV
    dtype: ComputeDtype = "auto"
    causal: bool = False
    kind: AttentionKind = "plain"
    dropout_bits: DropoutBits = "hash"
    use_bias: bool = True
    out_stddev: float | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        lengths: Int[Array, " B"] | None,
        sequence_ids: Int[Array, "B L"] | None,
        train: bool,
        token_index: UInt32[Array, "B L"] | None = None,
        turned: Float[Array, "2 #B L half"] | None = None,
        window: int | Int[Array, ""] | None = None,
        bias: Float[Array, "#B H L M"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Dropout is a function of `token_index`, by default of the place in the array; queries and keys are rotated
        by `turned` (`nn.rotary.turns`); a token sees `window` others on each side (`visible_keys`); `bias` is added to
        the scores."""
        width = x.shape[-1]
        head_width = width // self.num_heads
        qkv = Linear(
            "BLD,DJHK->JBHLK", (3, self.num_heads, head_width), self.stddev, self.use_bias, self.dtype, name="qkv"
        )(x)
        if turned is not None:
            qkv = rotate(qkv[0], turned), rotate(qkv[1], turned), qkv[2]
        seen = {"lengths": lengths, "sequence_ids": sequence_ids, "causal": self.causal, "window": window, "bias": bias}
        if self.has_variable(cache.CACHE, "key"):  # generation: its callers alone bring one (`nn.cache`)
            if window is not None or bias is not None:
                raise ValueError("attention with a cache knows no window and no bias, so this encoder cannot generate")
            *known, visible = cache.joined(self, *qkv[1:])
            mixed, _ = attend(qkv[0], *known, compute_dtype(self.dtype), visible=visible)
        elif self.kind == "plain":
            drop = Dropout(self.dropout, self.dropout_bits)
            places = None if token_index is None else Places.of_pairs(token_index, self.num_heads)
            mixed, _ = attend(*qkv, compute_dtype(self.dtype), **seen, dropout=lambda share: drop(share, train, places))
        elif train and self.dropout:
            raise ValueError(
                f"attention {self.kind!r} has no dropout on the attention probabilities: set attention_dropout to 0, "
                "or take attention 'plain'"
            )
        else:
            mixed = fused(*qkv, compute_dtype(self.dtype), **seen, kind=self.kind)
        stddev = self.stddev if self.out_stddev is None else self.out_stddev
        return Linear("BHLK,HKD->BLD", (width,), stddev, self.use_bias, self.dtype, name="out")(mixed)
