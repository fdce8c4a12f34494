"""Left-to-right language modelling: GPT-2's objective (Radford et al. 2019, section 2), and BERT's comparison with
masking (Devlin et al. 2018, section 5.1)."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.dot import dot
from bert_jax.nn.linear import INIT_STDDEV, kernel_init
from bert_jax.nn.losses import Mean, classification
from bert_jax.nn.mlp import Activation
from bert_jax.objectives.mlm import token_logits


class CausalLm(nn.Module):
    """Predicts every token of a row but the first from those before it, by default with the head of `Mlm` and its
    parameters.

    `[CLS]`, the first, is what the first prediction is made from. Each `[SEP]` is predicted, too: it is how the model
    says that a segment ends. Padding is neither. The encoder must be causal.

    Attributes:
        tied: the decoder is the table of token embeddings; False gives it a table of its own.
        activation, norm_epsilon, init_stddev: of the transform, as in the encoder.
        transform: whether there is one, with `Mlm`'s norm and bias; without, the decoder reads the hidden states as
            they are: GPT-2's head (openai/gpt-2 `src/model.py`, `model`), which has no parameter where it is tied.
    """

    tied: bool = True
    activation: Activation = "gelu_tanh"
    norm_epsilon: float = 1e-12
    init_stddev: float = INIT_STDDEV
    transform: bool = True

    def check_encoder(self, encoder: nn.Module) -> None:
        """Raises ValueError for an encoder whose tokens see what comes after them, which would read the answers."""
        if not getattr(encoder, "causal", False):
            raise ValueError("CausalLm predicts the next token: it needs an encoder that cannot see it (causal=True)")

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy over the tokens after the first of each row, or of each packed sequence."""
        logits = self._logits(encoded, encoded.hidden[:, :-1])
        labels = batch["tokens"][:, 1:]
        weights = jnp.broadcast_to(batch["weight"][:, None], labels.shape)
        if "sequence_ids" in batch:
            before, after = batch["sequence_ids"][:, :-1], batch["sequence_ids"][:, 1:]
            weights *= (after > 0) & (before == after)
        elif "lengths" in batch:
            weights *= jnp.arange(1, batch["tokens"].shape[1]) < batch["lengths"][:, None]
        return classification(logits, labels, weights)

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B L V"]]:
        """`lm_logits` [B, L, V]: at each token, the scores of the one after it."""
        return {"lm_logits": self._logits(encoded, encoded.hidden)}

    @nn.nowrap
    def _logits(self, encoded: Encoded, x: Float[Array, "B P D"]) -> Float[Array, "B P V"]:
        if self.transform:
            return token_logits(self, encoded, x)
        table = encoded.table
        if not self.tied:
            init = nn.with_logical_partitioning(kernel_init(self.init_stddev), ("V", "D"))
            table = self.param("decoder", init, table.shape)
        return dot("BPE,VE->BPV", x, table, encoded.hidden.dtype)
