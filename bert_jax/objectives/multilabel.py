"""Any number of labels for a text or a pair of texts, each yes or no, from the pooled output."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV
from bert_jax.nn.losses import Mean
from bert_jax.objectives.pooled import Hidden, pooled_scores


class MultiLabel(nn.Module):
    """Dropout and one projection to C labels, as `Classify`, each with a sigmoid of its own; the original has no such
    task.

    Attributes:
        num_classes: C; 0 stands for that of the task's data.
        dropout: on the pooled output.
        hidden: as in `Classify`.
        labels: their names, in order, where they are known.
    """

    num_classes: int = 0
    dropout: float = 0.1
    init_stddev: float = INIT_STDDEV
    labels: tuple[str, ...] = ()
    hidden: Hidden = "none"

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """`loss` against `targets` [B, C] of 0 and 1: the binary cross-entropy in nats, its mean over the labels."""
        losses = optax.sigmoid_binary_cross_entropy(self._logits(encoded, train), batch["targets"])
        return {"loss": Mean.of(jnp.mean(losses, axis=-1), batch["weight"])}

    @nn.compact
    def predict(self, encoded: Encoded, batch: Mapping[str, Array]) -> dict[str, Float[Array, "B C"]]:
        """`probabilities` [B, C], each of its label alone."""
        return {"probabilities": jax.nn.sigmoid(self._logits(encoded, False))}

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B C"]]:
        """`logits` [B, C]."""
        return {"logits": self._logits(encoded, False)}

    @nn.nowrap
    def _logits(self, encoded: Encoded, train: bool) -> Float[Array, "B C"]:
        if self.num_classes < 1:
            raise ValueError(f"MultiLabel has num_classes {self.num_classes}: give at least 1")
        return pooled_scores(self, encoded, self.num_classes, train)
