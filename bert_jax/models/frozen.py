"""The feature-based approach: an encoder's layers as given features of its tokens (Devlin et al. 2018, section 5.3)."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.lstm import BiLstm
from bert_jax.nn.mix import Mix


class Frozen(nn.Module):
    """What a head reads in place of the last layer: chosen layers, combined, without any gradient to the encoder, and
    after them, if wanted, a BiLSTM of its own.

    Attributes:
        layers: 0 the embeddings, 1 the first layer; -1 the last, -2 that before it; empty: all but the embeddings.
        combine: "concat" side by side; "sum"; or "weighted", by learned weights that start equal (`nn.mix.Mix`).
        lstm_width: of a BiLSTM, both directions together; 0 for none. The paper's has 768 (it does not say whether in
            each direction).
        lstm_layers: of it.
    """

    layers: tuple[int, ...] = (-4, -3, -2, -1)
    combine: Literal["concat", "sum", "weighted"] = "concat"
    lstm_width: int = 768
    lstm_layers: int = 2

    @nn.compact
    def __call__(self, encoded: Encoded) -> Encoded:
        """The same with other `hidden` and without `pooled`; raises ValueError for a layer that is not there, and for
        packed rows under a BiLSTM."""
        dtype = encoded.hidden.dtype
        found = jax.lax.stop_gradient(self._chosen(encoded))
        if self.combine == "weighted":
            hidden = Mix(name="mix")(found)
        elif self.combine == "sum":
            hidden = jnp.sum(found, axis=0)
        else:
            hidden = jnp.concatenate(list(found), axis=-1)
        hidden = hidden.astype(dtype)
        if self.lstm_width:
            if encoded.sequence_ids is not None:
                raise ValueError("a BiLSTM reads right-padded rows, and these hold several sequences, or holes")
            hidden = BiLstm(self.lstm_width, self.lstm_layers, name="lstm")(hidden, encoded.lengths)
        return encoded._replace(hidden=hidden, pooled=None)

    @nn.nowrap
    def _chosen(self, encoded: Encoded) -> Float[Array, "N B L D"]:
        every = jnp.concatenate([encoded.intermediates["embeddings"][None], encoded.intermediates["layers"]])
        last = len(every) - 1
        layers = self.layers or range(1, last + 1)
        if wrong := [layer for layer in layers if not -last - 1 <= layer <= last]:
            raise ValueError(f"layer {wrong[0]}: there are 0, the embeddings, to {last}")
        return every[jnp.array([layer % (last + 1) for layer in layers])]
