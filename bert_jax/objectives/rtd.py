"""Replaced-token detection: which tokens of a text are not the original's? (Clark et al. 2020, arXiv 2003.10555)"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV, Linear
from bert_jax.nn.losses import Mean
from bert_jax.nn.mlp import ACTIVATIONS, Activation


class Rtd(nn.Module):
    """A score for every token: a layer, its activation, one output (section 2; run_pretraining.py of
    google-research/electra, `_get_discriminator_output`).

    Attributes:
        activation: of the layer; the encoder's.
    """

    activation: Activation = "gelu"
    init_stddev: float = INIT_STDDEV

    num_classes = 1  # outputs of the last projection

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """What is found of `replaced` [B, L], over all tokens but padding.

        `loss` in nats; `accuracy`; and as shares of these tokens `replaced`, those that are, `called`, those that are
        called so, and `found`, those that are both: precision is found / called, recall found / replaced, and what
        calls everything original has the accuracy 1 - replaced. (They are not averages over the tokens called so,
        since what a batch is averaged over is known before its parts are computed: `training.accumulation`.)
        """
        logits = self._logits(encoded)
        replaced, called = batch["replaced"], logits > 0
        if "sequence_ids" in batch:
            real = batch["sequence_ids"] > 0
        elif "lengths" in batch:
            real = jnp.arange(logits.shape[1]) < batch["lengths"][:, None]
        else:
            real = jnp.ones(logits.shape, bool)
        weights = real * batch["weight"][:, None]
        # Of a binary choice: log(1 + exp(logit)), less the logit where the answer is yes.
        shares = {"accuracy": called == replaced, "replaced": replaced, "called": called, "found": called & replaced}
        return {"loss": Mean.of(jax.nn.softplus(logits) - logits * replaced, weights)} | {
            name: Mean.of(share.astype(jnp.float32), weights) for name, share in shares.items()
        }

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B L"]]:
        """`rtd_logits` [B, L]: positive where a token is likelier replaced than not."""
        return {"rtd_logits": self._logits(encoded)}

    @nn.nowrap
    def _logits(self, encoded: Encoded) -> Float[Array, "B L"]:
        dtype = str(encoded.hidden.dtype)
        wide = Linear("BLD,DE->BLE", encoded.hidden.shape[-1:], self.init_stddev, dtype=dtype, name="hidden")
        output = Linear("BLE,EC->BLC", (self.num_classes,), self.init_stddev, dtype=dtype, name="output")
        return output(ACTIVATIONS[self.activation](wide(encoded.hidden)))[..., 0]
