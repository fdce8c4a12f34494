"""The span-boundary objective: a masked span from what stands around it (Joshi et al. 2019, arXiv 1907.10529, 3.2)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV, Linear, Table
from bert_jax.nn.losses import Mean, classification
from bert_jax.nn.mlp import ACTIVATIONS, Activation
from bert_jax.nn.norm import LayerNorm
from bert_jax.objectives.mlm import token_logits

DEFAULT_LONGEST = 20  # facebookresearch/SpanBERT, `--max-pair-targets`


class Sbo(nn.Module):
    """Predicts each token that an `Mlm` beside it predicts, from the hidden states of the two tokens outside of its
    span and an embedding of its place there; two layers with GELU and layer norm, the decoder tied.

    A span is a run of predicted positions, so that those that overlap or touch are one, and neither of the two tokens
    is a predicted one. As in the released code (`fairseq/data/masking.py`, `span_masking`; `models/pair_bert.py`,
    BertPairTargetPredictionHead) spans at the beginning and end of a row are left out, around which there is but a
    special token, and of a longer span the tokens after the first `longest`.

    Attributes:
        longest: places in a span that have an embedding.
        position_width: of these embeddings.
        tied: the decoder is the table of token embeddings; False gives it a table of its own.
        activation: the exact GELU.
        norm_epsilon, init_stddev: as in the encoder.
    """

    longest: int = DEFAULT_LONGEST
    position_width: int = 200
    tied: bool = True
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-12
    init_stddev: float = INIT_STDDEV

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy over the predicted positions that have two tokens around their span.

        Raises ValueError where no `Mlm` has chosen positions.
        """
        if "mlm_positions" not in batch:
            raise ValueError('Sbo predicts what an Mlm has masked: give one before it, {"mlm": Mlm(...), "sbo": Sbo()}')
        places = batch["mlm_positions"]
        first, last = spans_of(places, batch["mlm_weights"])
        inside = (first > 1) & (last < batch["lengths"][:, None] - 2) & (places - first < self.longest)
        weights = batch["mlm_weights"] * inside
        around = [_hidden_at(encoded.hidden, column) for column in (first - 1, last + 1)]
        offset = jnp.clip(places - first, 0, self.longest - 1)
        table = Table("LX", (self.longest, self.position_width), self.init_stddev, name="positions")
        x = jnp.concatenate([*around, table(offset)], axis=-1)
        width, dtype = encoded.hidden.shape[-1], str(encoded.hidden.dtype)
        x = Linear("BPX,XD->BPD", (width,), self.init_stddev, dtype=dtype, name="join")(x)  # X: two tokens and a place
        x = LayerNorm(self.norm_epsilon, name="join_norm")(ACTIVATIONS[self.activation](x))
        labels = batch["mlm_labels"]
        return classification(token_logits(self, encoded, x), labels, weights)

    def outputs(self, encoded: Encoded) -> dict[str, Array]:
        """Nothing: it has scores of the tokens of a span, and none is given."""
        return {}


def spans_of(places: Int[Array, "B P"], weights: Float[Array, "B P"]) -> tuple[Int[Array, "B P"], Int[Array, "B P"]]:
    """First and last position of the run of each of the ascending `places`, where they have a weight."""
    joins = (places[:, 1:] == places[:, :-1] + 1) & (weights[:, 1:] > 0) & (weights[:, :-1] > 0)
    begins, ends = (jnp.pad(~joins, ((0, 0), side), constant_values=True) for side in ((1, 0), (0, 1)))
    first = jax.lax.cummax(jnp.where(begins, places, 0), axis=1)
    beyond = jnp.iinfo(places.dtype).max
    last = jax.lax.cummin(jnp.where(ends & (weights > 0), places, beyond), axis=1, reverse=True)
    return first, last


def _hidden_at(hidden: Float[Array, "B L D"], column: Int[Array, "B P"]) -> Float[Array, "B P D"]:
    column = jnp.clip(column, 0, hidden.shape[1] - 1)  # outside for those that have no weight only
    return jnp.take_along_axis(hidden, column[..., None], axis=1)
