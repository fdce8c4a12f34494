"""Classification of a text or a pair of texts from the pooled output."""

from collections.abc import Mapping

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV
from bert_jax.nn.losses import Mean, classification
from bert_jax.objectives.pooled import Hidden, pooled_scores


class Classify(nn.Module):
    """Dropout and one projection to C classes (run_classifier.py:590-612).

    Attributes:
        num_classes: C; 0 stands for that of the task's data.
        dropout: on the pooled output.
        hidden: what is read in place of the encoder's pooler (`objectives.pooled.READINGS`).
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
