"""What every encoder returns."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32


class Encoded(NamedTuple):
    """An encoded batch.

    Attributes:
        hidden: the last layer's output, in the encoder's compute dtype, which the heads take over for their dots.
        pooled: the pooler's output per row, likewise, or None for an encoder without one.
        table: the token embeddings, so that tying a decoder to them is an argument.
        intermediates: by name, e.g. `embeddings` [B, L, D] and `layers` [N, B, L, D]; jit drops what is unused.
        lengths, sequence_ids: of the batch, if it has them: what tells the tokens of a row from padding.
        row: of a micro-batch, the number of each row in the whole batch, which a head's dropout is a function of
            (`Places.of_array`); None where it is the index.
    """

    hidden: Float[Array, "B L D"]
    pooled: Float[Array, "B D"] | None
    table: Float[Array, "V E"]
    intermediates: dict[str, Array]
    lengths: Int[Array, " B"] | None = None
    sequence_ids: Int[Array, "B L"] | None = None
    row: UInt32[Array, " B"] | None = None

    def pooled_or_error(self) -> Float[Array, "B D"]:
        """`pooled`; raises ValueError for an encoder without a pooler, which a head over it cannot use."""
        if self.pooled is None:
            raise ValueError("this head needs an encoder with a pooler (pooler=True), or a layer of its own (hidden)")
        return self.pooled

    def hidden_of(self, token: Literal["first", "last", "mean"]) -> Float[Array, "B D"]:
        """The hidden state of each row's first token, of its last one that is no padding, or the mean of those that are
        of no padding, 0 where there is none."""
        if token == "first":
            return self.hidden[:, 0]
        if token == "last":
            column = last_column(*self.hidden.shape[:2], self.lengths, self.sequence_ids)
            return jnp.take_along_axis(self.hidden, column[:, None, None], axis=1)[:, 0]
        length = self.hidden.shape[1]
        if self.sequence_ids is not None:
            real = self.sequence_ids > 0
        elif self.lengths is not None:
            real = jnp.arange(length) < self.lengths[:, None]
        else:
            real = jnp.ones(self.hidden.shape[:2], bool)
        total = jnp.sum(jnp.where(real[..., None], self.hidden.astype(jnp.float32), 0.0), axis=1)
        return (total / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)).astype(self.hidden.dtype)


def last_column(
    rows: int, length: int, lengths: Int[Array, " B"] | None, sequence_ids: Int[Array, "B L"] | None
) -> Int[Array, " B"]:
    """The place of the last token of each row that is no padding."""
    if sequence_ids is not None:
        return jnp.max(jnp.where(sequence_ids > 0, jnp.arange(length), 0), axis=1)
    if lengths is not None:
        return jnp.maximum(lengths - 1, 0)
    return jnp.full(rows, length - 1)
