"""Classification of a text or a pair of texts from the pooled output."""

from collections.abc import Mapping

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.dropout import Dropout, Places
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.losses import Mean, classification


class Classify(nn.Module):
    """Dropout and one projection to C classes (run_classifier.py:590-612).

    Attributes:
        num_classes: C; 0 stands for that of the task's data.
        dropout: on the pooled output.
        labels: the names of the classes, in order, where they are known.
    """

    num_classes: int = 0
    dropout: float = 0.1
    init_stddev: float = INIT_STDDEV
    labels: tuple[str, ...] = ()

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
        head: whose parameters they become, called from its compact method; has the fields `dropout` and `init_stddev`.
        count: C, scores of a row.
    """
    output = Linear("BD,DC->BC", (count,), head.init_stddev, dtype=str(encoded.hidden.dtype), name="output")
    pooled = encoded.pooled_or_error()
    return output(Dropout(head.dropout)(pooled, train, Places.of_array(pooled.shape, encoded.row)))
