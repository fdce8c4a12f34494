"""A bidirectional LSTM over right-padded rows."""

import flax.linen as nn
from jaxtyping import Array, Float, Int


class BiLstm(nn.Module):
    """Layers of two LSTMs each, one from the left and one from the right, whose outputs are concatenated.

    Attributes:
        width: of the output of a layer, both directions together.
        num_layers: how many.
    """

    width: int
    num_layers: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], lengths: Int[Array, " B"] | None = None) -> Float[Array, "B L F"]:
        """The outputs, in the dtype of `x`; the first `lengths` tokens of a row do not depend on its padding."""
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width {self.width} is of both directions together: give an even number")
        dtype = x.dtype
        for layer in range(self.num_layers):
            left, right = (
                nn.RNN(nn.OptimizedLSTMCell(self.width // 2, dtype=dtype, name=f"{side}_{layer}"))
                for side in ("left", "right")
            )
            x = nn.Bidirectional(left, right)(x, seq_lengths=lengths).astype(dtype)
        return x
