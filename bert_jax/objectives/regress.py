"""A number for a text or a pair of texts, from the pooled output, such as the similarity of two sentences."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV
from bert_jax.nn.losses import Mean
from bert_jax.objectives.pooled import Hidden, pooled_scores


class Regress(nn.Module):
    """Dropout and one linear output, as `Classify` has C of them; the original has no regression.

    Attributes:
        dropout: on the pooled output.
        hidden: as in `Classify`.
    """

    dropout: float = 0.1
    init_stddev: float = INIT_STDDEV
    hidden: Hidden = "none"

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """`loss`, the mean squared error against `target` [B]."""
        errors = pooled_scores(self, encoded, 1, train)[:, 0] - batch["target"]
        return {"loss": Mean.of(jnp.square(errors), batch["weight"])}

    @nn.compact
    def predict(self, encoded: Encoded, batch: Mapping[str, Array]) -> dict[str, Float[Array, " B"]]:
        """`score` [B], in the units of the targets."""
        return {"score": pooled_scores(self, encoded, 1, False)[:, 0]}

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B 1"]]:
        """`logits` [B, 1]: the scores."""
        return {"logits": pooled_scores(self, encoded, 1, False)}
