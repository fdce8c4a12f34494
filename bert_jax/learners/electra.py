"""ELECTRA's pre-training: a generator replaces tokens, a discriminator finds which (Clark et al. 2020, arXiv
2003.10555).

The code followed is google-research/electra, `run_pretraining.py` (`PretrainingModel`).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from bert_jax.learners.multitask import Multitask
from bert_jax.models.electra import Electra, generator_of
from bert_jax.nn.losses import Mean, classification

# What the two draw from is told apart by a number that no objective has (`Multitask.corrupt`).
_SAMPLE = 2**31 - 1


class GeneratorDiscriminator(nn.Module):
    """`GeneratorDiscriminator(electra("small"), {"mlm": Mlm(mask_share=1.0, ...), "rtd": Rtd()})`.

    The generator is a masked LM over a smaller tower. Each masked token is drawn anew from its predictions, and the
    discriminator says of every token whether it is the original's; one that is drawn as it was counts as original
    (section 2). Both have the embeddings of tokens, positions and segments, and their norm, in common, which is one
    parameter with the gradients of both; the layers, and the projections between, each has its own. Nothing is learned
    through the draw. What `load` opens of a run is the discriminator; `generator_alone` gives the other one, and a run
    that starts from a checkpoint has a new generator.

    Attributes:
        encoder: of the discriminator.
        objectives: "mlm", of the generator, and "rtd", of the discriminator.
        generator_size: the generator's width as a share of the discriminator's: 1/4 in small and large, 1/3 in base
            (appendix A, table 6).
        mlm_weight, rtd_weight: of the losses (section 3.1: 1 and 50).
    """

    encoder: Any
    objectives: Mapping[str, nn.Module]
    generator_size: float = 0.25
    mlm_weight: float = 1.0
    rtd_weight: float = 50.0

    def setup(self):
        self.generator = generator_of(self.encoder, self.generator_size)

    @nn.nowrap
    def as_multitask(self) -> Multitask:
        """The discriminator alone: what `load` opens a run as."""
        return Multitask(self.encoder, {"rtd": self.objectives["rtd"]}, parent=None)

    @nn.nowrap
    def generator_alone(self, params: Mapping[str, Any]) -> tuple[Multitask, dict[str, Any]]:
        """The generator as a model of its own, and its part of a run's parameters, the embeddings among them.

        The learner may be that of the run's record, which leaves the size of the vocabulary to the data.
        """
        rows = params["encoder"]["embeddings"]["words"]["table"].shape[0]
        own = generator_of(self.encoder.clone(vocab_size=rows), self.generator_size)
        model = Multitask(own, {"mlm": self.objectives["mlm"]}, parent=None)
        encoder = {"embeddings": params["encoder"]["embeddings"], **params["generator"]}
        return model, {"encoder": encoder, "objectives_mlm": params["objectives_mlm"]}

    @nn.nowrap
    def for_vocabulary(self, vocab_size: int, special_ids: tuple[int, ...]) -> "GeneratorDiscriminator":
        """The same learner over a vocabulary; as `Multitask.for_vocabulary`.

        Raises ValueError for objectives other than the two, and for another encoder than `Electra`.
        """
        if set(self.objectives) != {"mlm", "rtd"}:
            raise ValueError(
                f"ELECTRA has the objectives 'mlm' and 'rtd', and not {', '.join(self.objectives) or 'none'}"
            )
        if not isinstance(self.encoder, Electra):
            kind = type(self.encoder).__name__
            raise ValueError(f"the encoder is a {kind}, and only Electra's embeddings can be shared with a generator")
        generator_of(self.encoder, self.generator_size)  # raises for a share that leaves no width
        filled = Multitask(self.encoder, self.objectives, parent=None).for_vocabulary(vocab_size, special_ids)
        return self.clone(encoder=filled.encoder, objectives=filled.objectives)

    @nn.nowrap
    def corrupt(self, key: Key[Array, ""], step: Array | int, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Masks tokens as `Multitask.corrupt`, and adds `originals` [B, L], and `draws` [B, 2], the bits of a key for
        each row, a function of (key, step, example), which its tokens are drawn with."""
        own = jax.random.fold_in(jax.random.fold_in(key, _SAMPLE), step)
        draws = jax.vmap(lambda example: jax.random.key_data(jax.random.fold_in(own, example)))(batch["example"])
        masked = Multitask(self.encoder, self.objectives, parent=None).corrupt(key, step, batch)
        return masked | {"originals": batch["tokens"], "draws": draws}

    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> dict[str, Mean]:
        """Metrics by name: `mlm/loss` and `mlm/accuracy` of the generator, those of `Rtd` of the discriminator."""
        mlm, rtd = self.objectives["mlm"], self.objectives["rtd"]
        encoded = self.generator(batch, train, self.encoder.embeddings)
        positions, weights = batch["mlm_positions"], batch["mlm_weights"]
        # Gathered first, so that the head sees P rows and not L; once, both for the loss and for the draw.
        chosen = encoded._replace(hidden=jnp.take_along_axis(encoded.hidden, positions[..., None], axis=1))
        logits = mlm.outputs(chosen)["mlm_logits"]
        metrics = {f"mlm/{name}": x for name, x in classification(logits, batch["mlm_labels"], weights).items()}
        tokens = replaced(batch["originals"], positions, weights, drawn(logits, batch["draws"]))
        shown = {**batch, "tokens": tokens, "replaced": tokens != batch["originals"]}
        own = rtd(self.encoder(shown, train), shown, train)
        return metrics | {f"rtd/{name}": mean for name, mean in own.items()}

    @nn.nowrap
    def loss_of(self, metrics: Mapping[str, Mean]) -> Float[Array, ""]:
        """The weighted sum of the two mean losses."""
        return self.mlm_weight * metrics["mlm/loss"].value + self.rtd_weight * metrics["rtd/loss"].value

    @nn.nowrap
    def predict(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Nothing, as of pre-training."""
        return {}


def drawn(logits: Float[Array, "B P V"], draws: UInt32[Array, "B words"]) -> Int[Array, "B P"]:
    """A token for each prediction, with the probability that it gives it: the largest of the logits with Gumbel noise,
    which is a function of the row's key and the place in the row (pretrain_helpers.py, `sample_from_softmax`)."""
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
    return jax.vmap(jax.random.categorical)(jax.random.wrap_key_data(draws), logits)


def replaced(
    originals: Int[Array, "B L"], positions: Int[Array, "B P"], weights: Float[Array, "B P"], tokens: Int[Array, "B P"]
) -> Int[Array, "B L"]:
    """The originals with other tokens at the positions that have a weight."""
    places = jnp.where(weights > 0, positions, originals.shape[1])  # outside of the row, where nothing is written
    return jax.vmap(lambda row, place, token: row.at[place].set(token, mode="drop"))(
        originals, places, tokens.astype(originals.dtype)
    )
