"""What a head over whole texts reads: one vector of each row, and scores of it."""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.dropout import Dropout, Places
from bert_jax.nn.linear import Linear
from bert_jax.nn.mlp import ACTIVATIONS
from bert_jax.nn.norm import LayerNorm

# The name of a way (`READINGS`): "none" is the encoder's pooled output.
Hidden = Literal["none", "tanh", "relu", "gelu", "last", "last_tanh", "gelu_norm", "mean_gelu_norm"]

HIDDEN_NORM_EPSILON = 1e-5  # that of ModernBERT's norms


class Reading(NamedTuple):
    """A way to read a row without the encoder's pooler.

    Attributes:
        token: whose hidden state; that of padding is not among them.
        activation: of a layer of the head's own over it; None for no layer.
        dropout: before that layer, too.
        norm: behind it; neither layer nor norm have a bias then.
        output_bias: of the projection to scores.
    """

    token: Literal["first", "last", "mean"] = "first"
    activation: str | None = None
    dropout: bool = False
    norm: bool = False
    output_bias: bool = True


READINGS = {
    # RoBERTa (fairseq `models/roberta/model.py`, RobertaClassificationHead)
    "tanh": Reading(activation="tanh", dropout=True),
    # DistilBERT (transformers `modeling_distilbert.py`, pre_classifier)
    "relu": Reading(activation="relu"),
    # ELECTRA in transformers (`modeling_electra.py`, ElectraClassificationHead)
    "gelu": Reading(activation="gelu", dropout=True),
    # GPT-2 in transformers (`modeling_gpt2.py`, GPT2ForSequenceClassification): encoders that read from left to right
    "last": Reading("last", output_bias=False),
    # XLNet (zihangdai/xlnet `modeling.py`, `summarize_sequence`)
    "last_tanh": Reading("last", "tanh"),
    # ModernBERT (transformers `modeling_modernbert.py`, ModernBertPredictionHead), its pooling "cls" and "mean"
    "gelu_norm": Reading(activation="gelu", norm=True),
    "mean_gelu_norm": Reading("mean", "gelu", norm=True),
}


def pooled_scores(head: nn.Module, encoded: Encoded, count: int, train: bool) -> Float[Array, "B C"]:
    """Dropout on the pooled output, and one projection of it (run_classifier.py:590-612).

    Args:
        head: whose parameters they become, called from its compact method; has the fields `dropout`, `init_stddev`
            and `hidden`.
        count: C, scores of a row.
    """
    reading = READINGS.get(head.hidden)
    pooled = encoded.pooled_or_error() if reading is None else encoded.hidden_of(reading.token)
    places = Places.of_array(pooled.shape, encoded.row)
    if reading is not None and reading.dropout:
        pooled = Dropout(head.dropout)(pooled, train, places)
    if reading is not None:
        pooled = own_layer("BD,DE->BE", pooled, reading, head.init_stddev)
    output_bias = reading is None or reading.output_bias
    output = Linear("BD,DC->BC", (count,), head.init_stddev, output_bias, str(encoded.hidden.dtype), name="output")
    return output(Dropout(head.dropout)(pooled, train, places))


def own_layer(equation: str, x: Float[Array, "... D"], reading: Reading, stddev: float) -> Float[Array, "... E"]:
    """The layer of the head's own, from whose compact method it is called."""
    if reading.activation is None:
        return x
    hidden = Linear(equation, x.shape[-1:], stddev, not reading.norm, str(x.dtype), name="hidden")(x)
    hidden = jnp.tanh(hidden) if reading.activation == "tanh" else ACTIVATIONS[reading.activation](hidden)
    if reading.norm:
        hidden = LayerNorm(HIDDEN_NORM_EPSILON, use_bias=False, name="hidden_norm")(hidden)
    return hidden.astype(x.dtype)
