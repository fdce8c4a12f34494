"""Permutation language modelling: the tokens of a row are predicted in a random order, each from those before it in
that order (Yang et al. 2019, arXiv 1906.08237, sections 2.2 and 2.3)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bert_jax.models.encoded import Encoded
from bert_jax.nn.chunks import Chunks
from bert_jax.nn.dot import dot
from bert_jax.nn.linear import INIT_STDDEV, kernel_init
from bert_jax.nn.losses import Mean, classification


class Plm(nn.Module):
    """Predicts the last tokens of a random order, with a decoder tied to the token embeddings; the encoder computes two
    streams (`models.xlnet.Xlnet`).

    The order is of the whole row, or of each chunk of it: the original's is of each half of a row, the first before the
    second, since the first is what the next row remembers; here rows do not overlap.

    Attributes:
        max_predictions: P, the most positions predicted in a row, or in each chunk: 85 of 512 (zihangdai/xlnet
            README.md).
        rate: share of the tokens of a row (with [CLS] and [SEP] counted) that are predicted: 1 / K for the paper's K.
        masking: what chooses them, by default one by one: a dataclass with `choose`, such as
            `objectives.ngrams.Ngrams(longest=5)`, whose words in a row are drawn as the original's
            (data_utils.py, `_sample_mask`, which keeps its n-grams apart).
        vocab_size: V; 0 stands for the tokenizer's.
        special_ids: ids of [CLS], [SEP], [MASK]; empty stands for the tokenizer's.
        chunk: that of the encoder: of longer rows each chunk has its own order, and its share of predictions.
        tied: the decoder is the table of token embeddings; False gives it a table of its own. It has a bias.
    """

    max_predictions: int = 85
    rate: float = 1 / 6
    masking: Any = None
    vocab_size: int = 0
    special_ids: tuple[int, ...] = ()
    chunk: int = 0
    tied: bool = True
    init_stddev: float = INIT_STDDEV

    def for_vocabulary(self, vocab_size: int, special_ids: tuple[int, ...]) -> "Plm":
        """The same objective over a vocabulary. Raises ValueError where it was made for another one."""
        if self.vocab_size not in (0, vocab_size) or self.special_ids not in ((), special_ids):
            raise ValueError(
                f"Plm has vocab_size {self.vocab_size} and special_ids {self.special_ids}, "
                f"but the tokenizer has {vocab_size} and {special_ids}; 0 and () take the tokenizer's"
            )
        return self.clone(vocab_size=vocab_size, special_ids=special_ids)

    def check_encoder(self, encoder: nn.Module) -> None:
        """Raises ValueError for an encoder of one stream, in which a token that is predicted would see itself, and for
        one of other chunks."""
        if not getattr(encoder, "permutes", False):
            raise ValueError(f"Plm needs an encoder of two streams, such as Xlnet, and not {type(encoder).__name__}")
        if encoder.chunk != self.chunk:
            raise ValueError(
                f"Plm has chunk {self.chunk} and the encoder {encoder.chunk}: both must cut rows into the same"
            )

    def corrupt(self, keys: Key[Array, " B"], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Adds `order` [B, L] and `asked` [B, C P] of rows of C chunks (`models.xlnet.Xlnet`), and `plm_labels`,
        `plm_weights` [B, C P].

        As data_utils.py, `_local_perm`: what is not predicted is given, and all that is given sees all of itself. But
        [CLS] and [SEP], never predicted, have a place in the order, and are seen from there on. Chunks of fewer than P
        predictions are filled up with their first place, of weight 0. Needs `continues` [B, L] for `masking`.
        """
        if not self.vocab_size or not self.special_ids:
            raise ValueError("Plm has no vocabulary: give vocab_size and special_ids, or use for_vocabulary")
        chunks = Chunks.of(*batch["tokens"].shape, self.chunk)
        if chunks.count > 1:
            of_row = jax.vmap(jax.random.fold_in, (None, 0))
            keys = jax.vmap(of_row, (0, None))(keys, jnp.arange(chunks.count)).reshape(-1)
        tokens, lengths = chunks.fold(batch["tokens"]), chunks.lengths(batch["lengths"])
        choose, shuffle = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        cls_id, sep_id, _ = self.special_ids
        real = jnp.arange(chunks.size) < lengths[:, None]
        candidate = (tokens != cls_id) & (tokens != sep_id) & real
        count = jnp.asarray(self.prediction_counts(chunks.size))[lengths]
        if self.masking is not None:
            chosen, _ = self.masking.choose(choose, candidate, chunks.fold(batch["continues"]), count)
        else:
            chosen = candidate & (_rank(choose, candidate) < count[:, None])
        ordered = chosen | (real & ~candidate)
        asked = jnp.argsort(~chosen, axis=1, stable=True)[:, : self.max_predictions]
        weights = jnp.take_along_axis(chosen, asked, axis=1).astype(jnp.float32)
        asked = jnp.where(weights > 0, asked, 0)
        labels = jnp.where(weights > 0, jnp.take_along_axis(tokens, asked, axis=1), 0)
        of_rows = batch["tokens"].shape[0], -1
        return dict(batch) | {
            "order": chunks.unfold(jnp.where(ordered, 1 + _rank(shuffle, ordered), 0)),
            "asked": chunks.row_columns(asked),
            "plm_labels": labels.reshape(of_rows),
            "plm_weights": weights.reshape(of_rows) * batch["weight"][:, None],
        }

    def prediction_counts(self, length: int) -> np.ndarray:
        """How many tokens are predicted in a row of 0 ... `length` tokens (int32 [length + 1])."""
        return np.array(
            [min(self.max_predictions, max(1, round(n * self.rate))) if n else 0 for n in range(length + 1)], np.int32
        )

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy over the predicted tokens (modeling.py, `lm_loss`)."""
        logits = self._logits(encoded, encoded.intermediates["asked"])
        return classification(logits, batch["plm_labels"], batch["plm_weights"])

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B L V"]]:
        """`lm_logits` [B, L, V]: of each token, which it sees, as their XLNetLMHeadModel computes without an order."""
        return {"lm_logits": self._logits(encoded, encoded.hidden)}

    @nn.nowrap
    def _logits(self, encoded: Encoded, x: Float[Array, "B P D"]) -> Float[Array, "B P V"]:
        table = encoded.table
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("V",)), table.shape[:1])
        if not self.tied:
            init = nn.with_logical_partitioning(kernel_init(self.init_stddev), ("V", "D"))
            table = self.param("decoder", init, table.shape)
        return dot("BPE,VE->BPV", x, table, encoded.hidden.dtype) + bias


def _rank(keys: Key[Array, " B"], candidate: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """A random place from 0 for each candidate of a row; all others come behind them."""
    score = jax.vmap(lambda key: jax.random.uniform(key, candidate.shape[1:]))(keys)
    return jnp.argsort(jnp.argsort(jnp.where(candidate, score, 2.0), axis=1), axis=1)
