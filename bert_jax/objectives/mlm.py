"""Masked language modelling: choose, corrupt, predict (Devlin et al. 2018, section 3.1 and appendix A.1)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bert_jax.models.encoded import Encoded
from bert_jax.nn.dot import dot
from bert_jax.nn.linear import INIT_STDDEV, Linear, kernel_init
from bert_jax.nn.losses import Mean, classification
from bert_jax.nn.mlp import ACTIVATIONS, Activation
from bert_jax.nn.norm import LayerNorm


class Mlm(nn.Module):
    """Predicts 15 % of the tokens from a corrupted input, with a decoder tied to the token embeddings.

    Attributes:
        max_predictions: P, the most positions predicted in a row: 20 for rows of 128, 76-80 for 512.
        rate: share of the tokens of a row (with [CLS] and [SEP] counted) that are predicted.
        mask_share: of the predicted positions, those shown as [MASK].
        random_share: those shown as a random token of the whole vocabulary; the rest keep theirs.
        whole_word: predict all pieces of a word or none; the 80/10/10 coin is still tossed for each piece
            (create_pretraining_data.py:391-401).
        masking: what chooses the positions in its own way, and which of them share a coin: `objectives.spans.Spans`,
            `objectives.ngrams.Ngrams`, or another dataclass with their `choose`.
        vocab_size: V; 0 stands for the tokenizer's.
        special_ids: ids of [CLS], [SEP], [MASK]; empty stands for the tokenizer's.
        static: one corruption per instance for the whole training, as the original's prepared data has (with its
            `dupe_factor` copies of each text); by default every visit of an instance is corrupted anew.
        tied: the decoder is the table of token embeddings; False gives it a table of its own.
        activation, norm_epsilon, init_stddev: of the transform, as in the encoder.
        use_bias: of the transform and its norm; the decoder always has one.
    """

    max_predictions: int = 20
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_word: bool = False
    masking: Any = None
    static: bool = False
    vocab_size: int = 0
    special_ids: tuple[int, ...] = ()
    tied: bool = True
    activation: Activation = "gelu_tanh"
    norm_epsilon: float = 1e-12
    init_stddev: float = INIT_STDDEV
    use_bias: bool = True

    def for_vocabulary(self, vocab_size: int, special_ids: tuple[int, ...]) -> "Mlm":
        """The same objective over a vocabulary. Raises ValueError where it was made for another one."""
        if self.vocab_size not in (0, vocab_size) or self.special_ids not in ((), special_ids):
            raise ValueError(
                f"Mlm has vocab_size {self.vocab_size} and special_ids {self.special_ids}, "
                f"but the tokenizer has {vocab_size} and {special_ids}; 0 and () take the tokenizer's"
            )
        return self.clone(vocab_size=vocab_size, special_ids=special_ids)

    def corrupt(self, keys: Key[Array, " B"], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Adds `mlm_positions`, `mlm_labels`, `mlm_weights` [B, P] (at most L columns) and replaces `tokens`.

        Follows create_pretraining_data.py:342-415 row by row: the number of predictions is rounded (half to even) over
        the length with special tokens; [CLS] and [SEP] are never chosen; positions are sorted; rows of fewer than P
        predictions are filled up with position 0 of weight 0. Needs `continues` [B, L] for whole words and `masking`.
        """
        if not self.vocab_size or not self.special_ids:
            raise ValueError("Mlm has no vocabulary: give vocab_size and special_ids, or use for_vocabulary")
        if self.masking is not None and self.whole_word:
            raise ValueError("Mlm has both whole_word and masking, and each chooses the positions: give one of them")
        tokens, lengths = batch["tokens"], batch["lengths"]
        choose, coin, draw = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        cls_id, sep_id, mask_id = self.special_ids
        length = tokens.shape[1]
        candidate = (tokens != cls_id) & (tokens != sep_id) & (jnp.arange(length) < lengths[:, None])
        score = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(choose)
        count = jnp.asarray(self.prediction_counts(length))[lengths]
        coin_of = None
        if self.masking is not None:
            chosen, coin_of = self.masking.choose(choose, candidate, batch["continues"], count)
        elif self.whole_word:
            chosen = _choose_words(score, candidate, batch["continues"], count)
        else:
            rank = jnp.argsort(jnp.argsort(jnp.where(candidate, score, 2.0), axis=1), axis=1)
            chosen = candidate & (rank < count[:, None])
        # The chosen positions come first in a stable sort, in their own order.
        positions = jnp.argsort(~chosen, axis=1, stable=True)[:, : self.max_predictions]
        weights = jnp.take_along_axis(chosen, positions, axis=1).astype(jnp.float32)
        positions = jnp.where(weights > 0, positions, 0)
        labels = jnp.where(weights > 0, jnp.take_along_axis(tokens, positions, axis=1), 0)
        toss = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(coin)
        toss = toss if coin_of is None else jnp.take_along_axis(toss, coin_of, axis=1)
        anything = jax.vmap(lambda key: jax.random.randint(key, (length,), 0, self.vocab_size, tokens.dtype))(draw)
        shown = jnp.where(toss < self.mask_share, mask_id, anything)
        replaced = chosen & (toss < self.mask_share + self.random_share)
        return dict(batch) | {
            "tokens": jnp.where(replaced, shown, tokens).astype(tokens.dtype),
            "mlm_positions": positions,
            "mlm_labels": labels,
            "mlm_weights": weights * batch["weight"][:, None],
        }

    def prediction_counts(self, length: int) -> np.ndarray:
        """How many positions are predicted in a row of 0 ... `length` tokens (int32 [length + 1])."""
        return np.array(
            [min(self.max_predictions, max(1, round(n * self.rate))) if n else 0 for n in range(length + 1)], np.int32
        )

    @nn.compact
    def __call__(self, encoded: Encoded, batch: Mapping[str, Array], train: bool) -> dict[str, Mean]:
        """Loss in nats and accuracy over the chosen positions (run_pretraining.py:240-285)."""
        # Gathered first, so that the transform and the vocabulary projection see P rows and not L.
        x = jnp.take_along_axis(encoded.hidden, batch["mlm_positions"][..., None], axis=1)
        logits = token_logits(self, encoded, x)
        labels, weights = batch["mlm_labels"], batch["mlm_weights"]
        return classification(logits, labels, weights)

    @nn.compact
    def outputs(self, encoded: Encoded) -> dict[str, Float[Array, "B L V"]]:
        """`mlm_logits` [B, L, V] of every position."""
        return {"mlm_logits": token_logits(self, encoded, encoded.hidden)}


def token_logits(head: nn.Module, encoded: Encoded, x: Float[Array, "B P D"]) -> Float[Array, "B P V"]:
    """A score for each piece of the vocabulary: transform, norm, decoder (run_pretraining.py:246-268).

    Args:
        head: whose parameters they become, called from its compact method; has the fields `activation`,
            `norm_epsilon`, `init_stddev` and `tied`, and where transform and norm may have no bias, `use_bias`.
        x: hidden states of the positions that are predicted.
    """
    dtype, use_bias = encoded.hidden.dtype, getattr(head, "use_bias", True)
    pieces, width = encoded.table.shape
    x = Linear("BPD,DE->BPE", (width,), head.init_stddev, use_bias, str(dtype), name="transform")(x)
    x = LayerNorm(head.norm_epsilon, use_bias, name="norm")(ACTIVATIONS[head.activation](x))
    bias = head.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("V",)), (pieces,))
    table = encoded.table
    if not head.tied:
        init = nn.with_logical_partitioning(kernel_init(head.init_stddev), ("V", "D"))
        table = head.param("decoder", init, table.shape)
    return dot("BPE,VE->BPV", x, table, dtype) + bias


def _choose_words(
    score: Float[Array, "B L"], candidate: Bool[Array, "B L"], continues: Bool[Array, "B L"], count: Int[Array, " B"]
) -> Bool[Array, "B L"]:
    """Whole words in random order; one that would exceed the count is passed over for the next (lines 372-380)."""
    batch, length = score.shape
    rows = jnp.arange(batch)
    # As in the original a continuation joins the last candidate before it, even across a [SEP] (lines 359-363).
    has_earlier = jnp.cumsum(candidate, axis=1) > candidate
    word = jnp.maximum(jnp.cumsum(candidate & ~(continues & has_earlier), axis=1) - 1, 0)
    size = jnp.zeros((batch, length), jnp.int32).at[rows[:, None], word].add(candidate)
    order = jnp.argsort(jnp.where(size > 0, score, 2.0), axis=1)

    def take(left, word_of_rank):
        wanted = size[rows, word_of_rank]
        taken = (wanted > 0) & (wanted <= left)
        return left - jnp.where(taken, wanted, 0), taken

    _, taken = jax.lax.scan(take, count, order.T)
    taken_word = jnp.zeros((batch, length), bool).at[rows[:, None], order].set(taken.T)
    return candidate & jnp.take_along_axis(taken_word, word, axis=1)
