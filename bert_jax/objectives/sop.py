"""Sentence-order prediction: do two consecutive segments stand in their order? (Lan et al. 2019, section 3.1)"""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.losses import Mean, classification


class Sop(nn.Module):
    """Two classes over the pooled output, no dropout; label 0 = in their order, 1 = swapped (google-research/albert
    run_pretraining.py, `get_sentence_order_output`).

    The pairs are those of a corpus that was prepared for it (`data.stages.CorpusConfig.pairs`).
    """

    init_stddev: float = INIT_STDDEV
    pairs = "order"  # What the corpus must have been prepared with.

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy against `pair_label` [B]."""
        return classification(self._logits(encoded), batch["pair_label"], batch["weight"])

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B C"]]:
        """`sop_logits` [B, 2]: in their order, swapped."""
        return {"sop_logits": self._logits(encoded)}

    @nn.nowrap
    def _logits(self, encoded: Encoded) -> Float[Array, "B C"]:
        output = Linear("BD,DC->BC", (2,), stddev=self.init_stddev, dtype=str(encoded.hidden.dtype), name="output")
        return output(encoded.pooled_or_error())
