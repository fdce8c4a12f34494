"""MPNet's pre-training: masked and permuted language modelling (Song et al. 2020, arXiv 2004.09297, section 2).

The code followed is microsoft/MPNet, `pretraining/fairseq/tasks/masked_permutation_lm.py` (`MaskedDataset`) and
`models/masked_permutation_net.py` (`compute_mpnet`).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from bert_jax.learners.multitask import Multitask
from bert_jax.models.mpnet import Mpnet, Permuted
from bert_jax.nn.losses import Mean
from bert_jax.objectives.mlm import Mlm


class MaskedPermuted(nn.Module):
    """`MaskedPermuted(mpnet("base"), {"mlm": Mlm(77, whole_word=True, activation="gelu", norm_epsilon=1e-5)})`.

    The tokens of each row are permuted, anew at every visit, and the last of the permutation are predicted, one after
    another, by the head of a masked LM: from the tokens before it in the permutation as they are, and from what stands
    in for itself and for those after it, most often the mask, at their positions, so that the whole row is seen at
    every step (section 2). Attention has two streams (`models.mpnet.Mpnet`). What `load` opens is encoder and head,
    an ordinary masked LM.

    As in the released code [CLS] and [SEP] are tokens as any other, and may be predicted. Padding is seen by none and
    not predicted, where there it is as any token. A random token is of the whole vocabulary, where there it is none of
    four special ones. Rows are never packed: in a batch that is laid out so, the plan is passed over.

    Attributes:
        encoder: of the kind `Mpnet`.
        objectives: the masked LM alone, called "mlm". `rate` and `max_predictions` say how many tokens are predicted,
            `mask_share` and `random_share` what stands in for them; with `whole_word` (section 3) it is the order of
            the words that is drawn, of which the first that is predicted may be cut, and then that of the tokens that
            are predicted.
    """

    encoder: Any
    objectives: Mapping[str, nn.Module]

    @nn.nowrap
    def as_multitask(self) -> Multitask:
        """Encoder and head: what `load` opens a run as."""
        return Multitask(self.encoder, self.objectives, parent=None)

    @nn.nowrap
    def for_vocabulary(self, vocab_size: int, special_ids: tuple[int, ...]) -> "MaskedPermuted":
        """The same learner over a vocabulary; as `Multitask.for_vocabulary`.

        Raises ValueError for objectives other than the one masked LM, for one that chooses tokens in a way of its own,
        and for another encoder than `Mpnet`.
        """
        if list(self.objectives) != ["mlm"] or not isinstance(self.objectives["mlm"], Mlm):
            raise ValueError(f"MPNet has one objective, an Mlm called 'mlm', and not {', '.join(self.objectives)}")
        if self.objectives["mlm"].masking is not None:
            raise ValueError("the Mlm has masking, and what MPNet predicts is the end of a permutation: leave it out")
        if not isinstance(self.encoder, Mpnet):
            raise ValueError(f"the encoder is a {type(self.encoder).__name__}, and only Mpnet has two streams")
        filled = self.as_multitask().for_vocabulary(vocab_size, special_ids)
        return self.clone(encoder=filled.encoder, objectives=filled.objectives)

    @nn.nowrap
    def corrupt(self, key: Key[Array, ""], step: Array | int, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Adds `mlm_positions`, `mlm_labels`, `mlm_weights` [B, P] (at most L columns), in the order of the
        permutation, filled up with position 0 of weight 0, and `mlm_shown` [B, P], what stands in for them; `tokens`
        stay. Needs `continues` [B, L] for whole words. Random bits are a function of (key, step, example)."""
        mlm = self.objectives["mlm"]
        tokens, lengths = batch["tokens"], batch["lengths"]
        length, count = tokens.shape[1], min(mlm.max_predictions, tokens.shape[1])
        own = jax.random.fold_in(key, 0 if mlm.static else step)
        keys = jax.vmap(lambda example: jax.random.split(jax.random.fold_in(own, example), 4))(batch["example"])
        first, again, coin, draw = jnp.moveaxis(keys, 1, 0)
        continues = batch["continues"] if mlm.whole_word else jnp.zeros(tokens.shape, bool)
        wanted = jnp.asarray(mlm.prediction_counts(length))[lengths]
        chosen = last_of(_uniform(first, length), continues, lengths, wanted)
        positions = jnp.argsort(jnp.where(chosen, _uniform(again, length), 2.0), axis=1)[:, :count]
        there = jnp.arange(count) < wanted[:, None]
        positions = jnp.where(there, positions, 0).astype(jnp.int32)
        labels = jnp.take_along_axis(tokens, positions, axis=1)
        # Drawn for each column of the row, so that they do not depend on how many are predicted at most.
        toss, anything = _uniform(coin, length)[:, :count], _tokens(draw, length, mlm.vocab_size)[:, :count]
        shown = jnp.where(toss < mlm.mask_share, mlm.special_ids[-1], anything)
        return dict(batch) | {
            "mlm_positions": positions,
            "mlm_labels": jnp.where(there, labels, 0),
            "mlm_weights": there * batch["weight"][:, None],
            "mlm_shown": jnp.where(toss < mlm.mask_share + mlm.random_share, shown, labels).astype(tokens.dtype),
        }

    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> dict[str, Mean]:
        """Metrics by name: `mlm/loss`, `mlm/accuracy`, of the query stream."""
        weights = batch["mlm_weights"]
        # The plan for packed rows is of the tokens, and the rows here are those of two streams.
        rows = {name: batch[name] for name in batch if name != "packing"}
        encoded = self.encoder(rows, train, Permuted(batch["mlm_positions"], batch["mlm_shown"], weights > 0))
        each = {"mlm_positions": jnp.broadcast_to(jnp.arange(weights.shape[1]), weights.shape)}
        encoded = encoded._replace(hidden=encoded.intermediates["predicted"])
        own = self.objectives["mlm"](encoded, {**batch, **each}, train)
        return {f"mlm/{name}": mean for name, mean in own.items()}

    @nn.nowrap
    def loss_of(self, metrics: Mapping[str, Mean]) -> Float[Array, ""]:
        """The mean over all that is predicted."""
        return metrics["mlm/loss"].value

    @nn.nowrap
    def predict(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Nothing, as of pre-training."""
        return {}


def last_of(
    score: Float[Array, "B L"], continues: Bool[Array, "B L"], lengths: Int[Array, " B"], count: Int[Array, " B"]
) -> Bool[Array, "B L"]:
    """The last tokens of a permutation of each row's words, with their tokens in order (`span_perm`).

    Args:
        score: of the n-th word in its n-th column, by which they are sorted.
        continues: tokens that belong to the word of the one before.
        lengths, count: tokens of each row, and how many of them are the last.
    """
    length = score.shape[1]
    real = jnp.arange(length) < lengths[:, None]
    word = jnp.maximum(jnp.cumsum(real & ~continues, axis=1) - 1, 0)
    of_word = jnp.where(real, jnp.take_along_axis(score, word, axis=1), -1.0)  # padding comes first
    rank = jnp.argsort(jnp.argsort(of_word, axis=1, stable=True), axis=1)
    return rank >= length - count[:, None]


def _uniform(keys: Key[Array, " B"], length: int) -> Float[Array, "B L"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)


def _tokens(keys: Key[Array, " B"], length: int, vocab_size: int) -> Int[Array, "B L"]:
    return jax.vmap(lambda key: jax.random.randint(key, (length,), 0, vocab_size))(keys)
