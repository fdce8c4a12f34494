"""Classification of a text or a pair of texts from the pooled output."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.dropout import Dropout, Places
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.losses import Mean, classification
from bert_jax.nn.mlp import ACTIVATIONS

# What a head over whole texts reads: `none` the pooled output; the others the first token's hidden state, through a
# layer of the head's own with this activation. RoBERTa's has tanh (fairseq `models/roberta/model.py`,
# RobertaClassificationHead), DistilBERT's relu (transformers `modeling_distilbert.py`, pre_classifier).
Hidden = Literal["none", "tanh", "relu"]


class Classify(nn.Module):
    """Dropout and one projection to C classes (run_classifier.py:590-612).

    Attributes:
        num_classes: C; 0 stands for that of the task's data.
        dropout: on the pooled output.
        hidden: a layer of its own before the projection, in place of the encoder's pooler.
        labels: the names of the classes, in order, where they are known.
    """

    num_classes: int = 0
    dropout: float = 0.1
    init_stddev: float = INIT_STDDEV
    labels: tuple[str, ...] = ()
    hidden: Hidden = "none"

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy against `label` [B]."""
        logits = self._logits(encoded, train)
        labels, weights = batch["label"], batch["weight"]
        return classification(logits, labels, weights)

    @nn.compact
    def predict(self, encoded: Encoded, batch: Mapping[str, Array]) -> dict[str, Float[Array, "B C"]]:
        """`probabilities` [B, C]."""
        return {"probabilities": jax.nn.softmax(self._logits(encoded, False), axis=-1)}

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B C"]]:
        """`logits` [B, C]."""
        return {"logits": self._logits(encoded, False)}

    @nn.nowrap
    def _logits(self, encoded: Encoded, train: bool) -> Float[Array, "B C"]:
        if self.num_classes < 2:
            raise ValueError(f"Classify has num_classes {self.num_classes}: give at least 2")
        return pooled_scores(self, encoded, self.num_classes, train)


def pooled_scores(head: nn.Module, encoded: Encoded, count: int, train: bool) -> Float[Array, "B C"]:
    """Dropout on the pooled output, and one projection of it (run_classifier.py:590-612).

    Args:
        head: whose parameters they become, called from its compact method; has the fields `dropout`, `init_stddev`
            and `hidden`.
        count: C, scores of a row.
    """
    output = Linear("BD,DC->BC", (count,), head.init_stddev, dtype=str(encoded.hidden.dtype), name="output")
    pooled = encoded.pooled_or_error() if head.hidden == "none" else _own_pooled(head, encoded, train)
    return output(Dropout(head.dropout)(pooled, train, Places.of_array(pooled.shape, encoded.row)))


def _own_pooled(head: nn.Module, encoded: Encoded, train: bool) -> Float[Array, "B D"]:
    """The first token's hidden state through a layer of the head's."""
    first, dtype = encoded.hidden[:, 0], encoded.hidden.dtype
    if head.hidden == "tanh":  # RoBERTa's has dropout before the layer, too
        first = Dropout(head.dropout)(first, train, Places.of_array(first.shape, encoded.row))
    hidden = Linear("BD,DE->BE", first.shape[-1:], head.init_stddev, dtype=str(dtype), name="hidden")(first)
    return (jnp.tanh(hidden) if head.hidden == "tanh" else ACTIVATIONS[head.hidden](hidden)).astype(dtype)
