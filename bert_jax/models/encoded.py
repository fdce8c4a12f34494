"""What every encoder returns."""

from typing import NamedTuple

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
