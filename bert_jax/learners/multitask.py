"""One encoder under several objectives: pre-training, fine-tuning, and both at once."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float, Key

from bert_jax.nn.losses import Mean


class Multitask(nn.Module):
    """`Multitask(bert("base"), {"mlm": Mlm(), "nsp": Nsp()})`; the loss is the sum of the objectives' mean losses.

    Attributes:
        encoder: a module `(batch, train) -> Encoded`; None stands for that of the checkpoint that training starts from.
        objectives: by name; the names prefix metrics (`mlm/loss`) and parameters (`objectives_mlm`).
        weights: of the losses, by name; 1 where absent (run_pretraining.py:148: 1 : 1).
    """

    encoder: Any
    objectives: Mapping[str, nn.Module]
    weights: Mapping[str, float] | None = None

    def frozen(self) -> "Multitask":
        """The same model with a hash, which jit asks of what it does not trace, and which a dict has not; the weights
        of the losses, which outputs do not depend on, are left out."""
        return self.clone(objectives=FrozenDict(self.objectives), weights=None)

    @property
    def trains_encoder(self) -> bool:
        """Whether any objective does: not one that reads its layers as given features (`models.frozen.Frozen`). An
        encoder that is not trained has no dropout and no gradient."""
        return any(getattr(self.objectives[name], "features", None) is None for name in self.objectives)

    @property
    def read_only(self) -> tuple[str, ...]:
        """Top-level names of the parameters that the optimizer does not see."""
        return () if self.trains_encoder else ("encoder",)

    def for_vocabulary(self, vocab_size: int, special_ids: tuple[int, ...]) -> "Multitask":
        """The same learner over a vocabulary (its size and its [CLS], [SEP], [MASK]).

        Raises ValueError where a part of it was made for another one.
        """
        if self.encoder.vocab_size not in (0, vocab_size):
            raise ValueError(
                f"the encoder has vocab_size {self.encoder.vocab_size}, but the tokenizer has {vocab_size} pieces; "
                "0 takes the tokenizer's"
            )
        objectives = {
            name: objective.for_vocabulary(vocab_size, special_ids)
            if hasattr(objective, "for_vocabulary")
            else objective
            for name, objective in self.objectives.items()
        }
        return self.clone(encoder=self.encoder.clone(vocab_size=vocab_size), objectives=objectives)

    def corrupt(self, key: Key[Array, ""], step: Array | int, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Applies every objective's corruption; random bits are a function of (key, objective, step, example)."""
        for i, name in enumerate(self.objectives):
            objective = self.objectives[name]
            if not hasattr(objective, "corrupt"):
                continue
            own = jax.random.fold_in(key, i)
            own = jax.random.fold_in(own, 0 if getattr(objective, "static", False) else step)
            batch = objective.corrupt(
                jax.vmap(lambda example, k=own: jax.random.fold_in(k, example))(batch["example"]), batch
            )
        return dict(batch)

    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> dict[str, Mean]:
        """Metrics by name; `loss_of` gives what is minimised."""
        encoded = self.encoder(batch, train and self.trains_encoder)
        metrics = {}
        for name in self.objectives:  # over the keys: a bound module's dict is a FrozenDict with one-shot items()
            if hasattr(self.objectives[name], "check_encoder"):
                self.objectives[name].check_encoder(self.encoder)
            own = self.objectives[name](encoded, batch, train)
            metrics |= {f"{name}/{metric}": mean for metric, mean in own.items()}
        return metrics

    def loss_of(self, metrics: Mapping[str, Mean]) -> Float[Array, ""]:
        """The weighted sum of the objectives' mean losses."""
        weights = self.weights or {}
        if unknown := set(weights) - set(self.objectives):
            raise ValueError(f"weights for {sorted(unknown)}, which are no objectives: {sorted(self.objectives)}")
        return sum((weights.get(name, 1.0) * metrics[f"{name}/loss"].value for name in self.objectives), jnp.float32(0))

    def predict(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """What the objectives predict without labels, by `objective/name`."""
        encoded = self.encoder(batch, False)
        predictions = {}
        for name in self.objectives:
            objective = self.objectives[name]
            if hasattr(objective, "predict"):
                predictions |= {f"{name}/{key}": value for key, value in objective.predict(encoded, batch).items()}
        return predictions

    def outputs(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """What the encoder and each head compute of a batch without labels: `hidden` [B, L, D], `pooled` [B, D] where
        there is a pooler, the hidden states of every layer as `layers` [N, B, L, D] after `embeddings` [B, L, D], and
        the heads' `mlm_logits`, `nsp_logits`, `logits`. jit drops what is not used."""
        encoded = self.encoder(batch, False)
        found = {"hidden": encoded.hidden} | encoded.intermediates
        found |= {} if encoded.pooled is None else {"pooled": encoded.pooled}
        for name in self.objectives:
            found |= self.objectives[name].outputs(encoded)
        return found
