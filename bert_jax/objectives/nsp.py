"""Next sentence prediction: does segment B follow segment A in its document? (Devlin et al. 2018, section 3.1)"""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.losses import Mean, classification


class Nsp(nn.Module):
    """Two classes over the pooled output, no dropout; label 0 = follows, 1 = random (run_pretraining.py:288-304)."""

    init_stddev: float = INIT_STDDEV

    pairs = "next"  # What the corpus must have been prepared with.

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy against `pair_label` [B]."""
        logits = self._logits(encoded)
        labels, weights = batch["pair_label"], batch["weight"]
        return classification(logits, labels, weights)

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B C"]]:
        """`nsp_logits` [B, 2]: follows, random."""
        return {"nsp_logits": self._logits(encoded)}

    @nn.nowrap
    def _logits(self, encoded: Encoded) -> Float[Array, "B C"]:
        output = Linear("BD,DC->BC", (2,), stddev=self.init_stddev, dtype=str(encoded.hidden.dtype), name="output")
        return output(encoded.pooled_or_error())
