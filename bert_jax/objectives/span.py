"""Answers as spans: where in the text does the answer start and end? (Devlin et al. 2018, sections 4.2 and 4.3)"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.losses import Mean, cross_entropy, hits


class Span(nn.Module):
    """One projection of every token's hidden state to two scores: start and end (run_squad.py:550-590, no dropout).

    Attributes:
        over_padding: the softmax of the loss is over the padding of a row, too, as the original's is, whose loss so
            depends on how far a row is padded; it needs rows of one length, `padding` "full". Otherwise it is over the
            tokens of the row.
    """

    init_stddev: float = INIT_STDDEV
    over_padding: bool = False

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Half the sum of the two losses in nats, and how often both ends are right, against `span` [B, 2]
        (first and last token; 0, 0 where there is no answer; run_squad.py:640-660)."""
        if self.over_padding and "packing" in batch:
            raise ValueError('over_padding needs rows that are padded: set padding to "full"')
        logits = jnp.moveaxis(self._logits(encoded), -1, 1)  # B C L: the classes are the positions
        if "lengths" in batch and not self.over_padding:
            real = jnp.arange(logits.shape[-1]) < batch["lengths"][:, None, None]
            logits = jnp.where(real, logits, jnp.finfo(logits.dtype).min)
        ends, weights = batch["span"], batch["weight"]
        right = jnp.prod(hits(logits, ends), axis=1)
        return {
            "loss": Mean.of(jnp.mean(cross_entropy(logits, ends), axis=1), weights),
            "accuracy": Mean.of(right, weights),
        }

    @nn.compact
    def predict(self, encoded: Encoded, batch: Mapping[str, Array]) -> dict[str, Float[Array, "B L C"]]:
        """`logits` [B, L, 2]: start and end."""
        return {"logits": self._logits(encoded)}

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B L C"]]:
        """`logits` [B, L, 2]: start and end."""
        return {"logits": self._logits(encoded)}

    @nn.nowrap
    def _logits(self, encoded: Encoded) -> Float[Array, "B L C"]:
        return Linear("BLD,DC->BLC", (2,), self.init_stddev, dtype=str(encoded.hidden.dtype), name="output")(
            encoded.hidden
        )
