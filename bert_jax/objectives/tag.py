"""Tagging: a class for every token (Devlin et al. 2018, section 5.3: named entities)."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.dropout import Dropout, Places
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.losses import Mean, classification
from bert_jax.objectives.pooled import READINGS, own_layer


class Tag(nn.Module):
    """Dropout and one projection of every token's hidden state to C classes.

    Attributes:
        num_classes: C; 0 stands for that of the task's data.
        dropout: on the hidden states.
        labels: the names of the classes, in order, where they are known.
        features: what is read in place of the last layer, a module `(encoded) -> Encoded`: `models.frozen.Frozen`, the
            feature-based approach of the same section, under which the encoder is not trained.
        hidden: a layer of its own before the dropout: ModernBERT's (`objectives.pooled.READINGS`).
    """

    num_classes: int = 0
    dropout: float = 0.1
    init_stddev: float = INIT_STDDEV
    labels: tuple[str, ...] = ()
    features: Any = None
    hidden: Literal["none", "gelu_norm"] = "none"

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy against `tags` [B, L], over the tokens whose tag is not negative."""
        logits = self._logits(encoded, train)
        tags = batch["tags"]
        weights = (tags >= 0) * batch["weight"][:, None]
        return classification(logits, jnp.maximum(tags, 0), weights)

    @nn.compact
    def predict(self, encoded: Encoded, batch: Mapping[str, Array]) -> dict[str, Float[Array, "B L C"]]:
        """`probabilities` [B, L, C]."""
        return {"probabilities": jax.nn.softmax(self._logits(encoded, False), axis=-1)}

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B L C"]]:
        """`logits` [B, L, C]."""
        return {"logits": self._logits(encoded, False)}

    @nn.nowrap
    def _logits(self, encoded: Encoded, train: bool) -> Float[Array, "B L C"]:
        if self.num_classes < 2:
            raise ValueError(f"Tag has num_classes {self.num_classes}: give at least 2")
        if self.features is not None:
            encoded = self.features(encoded)
        x = encoded.hidden
        output = Linear("BLD,DC->BLC", (self.num_classes,), self.init_stddev, dtype=str(x.dtype), name="output")
        if self.hidden != "none":
            x = own_layer("BLD,DE->BLE", x, READINGS[self.hidden], self.init_stddev)
        return output(Dropout(self.dropout)(x, train, Places.of_array(x.shape, encoded.row)))
