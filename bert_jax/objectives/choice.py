"""Multiple choice: which of C continuations fits? (Devlin et al. 2018, section 4.4: SWAG)"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.models.encoded import Encoded
from bert_jax.nn.linear import INIT_STDDEV
from bert_jax.nn.losses import Mean, classification
from bert_jax.objectives.pooled import Hidden, pooled_scores


class Choice(nn.Module):
    """A score for each row from its pooled output; the C rows of a question follow each other and share a softmax.

    A question of fewer choices has rows that only fill it up: where `choice_mask` [B] is in the batch and False, the
    probability is 0, and nothing is learned of the row. A question needs a row that is one.

    Attributes:
        num_choices: C; 0 stands for that of the task's data.
        dropout: on the pooled output.
        hidden: as in `Classify`.
    """

    num_choices: int = 0
    dropout: float = 0.1
    init_stddev: float = INIT_STDDEV
    hidden: Hidden = "none"

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy against `label`, the same in all rows of a question, as is `weight`."""
        logits = self._of_questions(self._scores(encoded, train), batch)
        labels, weights = batch["label"][:: self.num_choices], batch["weight"][:: self.num_choices]
        return classification(logits, labels, weights)

    @nn.compact
    def predict(self, encoded: Encoded, batch: Mapping[str, Array]) -> dict[str, Float[Array, " B"]]:
        """`probabilities` [B] of each row among those of its question."""
        logits = self._of_questions(self._scores(encoded, False), batch)
        return {"probabilities": jax.nn.softmax(logits, axis=-1).reshape(-1)}

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, " B"]]:
        """`logits` [B]: the score of each row."""
        return {"logits": self._scores(encoded, False)}

    @nn.nowrap
    def _of_questions(self, scores: Float[Array, " B"], batch: Mapping[str, Array]) -> Float[Array, "Q C"]:
        if self.num_choices < 2 or scores.shape[0] % self.num_choices:
            raise ValueError(f"{scores.shape[0]} rows do not make questions of num_choices {self.num_choices}")
        if "choice_mask" in batch:
            scores = jnp.where(batch["choice_mask"], scores, -jnp.inf)
        return scores.reshape(-1, self.num_choices)

    @nn.nowrap
    def _scores(self, encoded: Encoded, train: bool) -> Float[Array, " B"]:
        return pooled_scores(self, encoded, 1, train)[:, 0]
