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
from bert_jax.nn.norm import LayerNorm

# What a head over whole texts reads: `none` the pooled output; the others the first token's hidden state, through a
# layer of the head's own with this activation. RoBERTa's has tanh (fairseq `models/roberta/model.py`,
# RobertaClassificationHead), DistilBERT's relu (transformers `modeling_distilbert.py`, pre_classifier), that of
# ELECTRA in transformers gelu (`modeling_electra.py`, ElectraClassificationHead). `last` is for
# encoders that read from left to right: the hidden state of the last token that is no padding, as it is, and a
# projection without bias (transformers `modeling_gpt2.py`, GPT2ForSequenceClassification).
# `last_tanh` is that state through a layer with tanh: XLNet's (zihangdai/xlnet `modeling.py`, `summarize_sequence`).
# ModernBERT's is `gelu_norm` on the first token or, `mean_gelu_norm`, on the mean over the tokens that are no padding:
# a layer without bias, GELU, a norm without bias (transformers `modeling_modernbert.py`, ModernBertPredictionHead).
Hidden = Literal["none", "tanh", "relu", "gelu", "last", "last_tanh", "gelu_norm", "mean_gelu_norm"]

HIDDEN_NORM_EPSILON = 1e-5  # that of ModernBERT's norms


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
    dtype = str(encoded.hidden.dtype)
    output = Linear("BD,DC->BC", (count,), head.init_stddev, head.hidden != "last", dtype, name="output")
    pooled = encoded.pooled_or_error() if head.hidden == "none" else _own_pooled(head, encoded, train)
    return output(Dropout(head.dropout)(pooled, train, Places.of_array(pooled.shape, encoded.row)))


def _own_pooled(head: nn.Module, encoded: Encoded, train: bool) -> Float[Array, "B D"]:
    """The first token's hidden state through a layer of the head's, or the last one's as it is."""
    if head.hidden == "last":
        return encoded.last_hidden()
    if head.hidden == "mean_gelu_norm":
        return gelu_norm("BD,DE->BE", encoded.mean_hidden(), head.init_stddev)
    first = encoded.last_hidden() if head.hidden == "last_tanh" else encoded.hidden[:, 0]
    dtype = encoded.hidden.dtype
    if head.hidden == "gelu_norm":
        return gelu_norm("BD,DE->BE", first, head.init_stddev)
    if head.hidden in ("tanh", "gelu"):  # RoBERTa's and ELECTRA's have dropout before the layer, too
        first = Dropout(head.dropout)(first, train, Places.of_array(first.shape, encoded.row))
    hidden = Linear("BD,DE->BE", first.shape[-1:], head.init_stddev, dtype=str(dtype), name="hidden")(first)
    activation = jnp.tanh if head.hidden in ("tanh", "last_tanh") else ACTIVATIONS[head.hidden]
    return activation(hidden).astype(dtype)


def gelu_norm(equation: str, x: Float[Array, "... D"], stddev: float) -> Float[Array, "... E"]:
    """ModernBERT's hidden layer of a head, which is called from its compact method."""
    hidden = Linear(equation, x.shape[-1:], stddev, use_bias=False, dtype=str(x.dtype), name="hidden")(x)
    hidden = ACTIVATIONS["gelu"](hidden)
    return LayerNorm(HIDDEN_NORM_EPSILON, use_bias=False, name="hidden_norm")(hidden).astype(x.dtype)
