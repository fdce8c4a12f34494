"""keras-hub on JAX: forward and backward pass of its BERT with the heads of pre-training."""

import os

os.environ["KERAS_BACKEND"] = "jax"

from collections.abc import Mapping
from typing import Any

import jax
import keras
import keras_hub
import numpy as np
from safetensors.numpy import load_file

from tools.benchmarks.checks import check_loss, masked_batches


class Gradient:
    """The gradient of the losses of MLM, whose head sees the predicted positions only, and NSP, with dropout.

    Args:
        start: folder of the initial weights.
        batches: file of masked batches, which are read again and again.
        dtype: float32.
        loss: of the first batch without dropout.
    """

    def __init__(self, start: str, batches: str, dtype: str, loss: float):
        self._at, self._key = 0, 0
        self._model = with_heads(start)
        self._batches = [inputs(batch) for batch in masked_batches(batches)]
        self._trained = [variable.value for variable in self._model.trainable_variables]
        self._others = [variable.value for variable in self._model.non_trainable_variables]
        first, _ = jax.jit(self._loss, static_argnums=3)(self._trained, self._others, self._batches[0][1], False)
        check_loss(loss, float(first), dtype)
        self._gradient = jax.jit(jax.value_and_grad(self._loss, has_aux=True), static_argnums=3)
        versions = {"keras": keras.__version__, "keras-hub": keras_hub.__version__, "jax": jax.__version__}
        self.facts = versions | {"dtype": dtype, "parameters": sum(array.size for array in self._trained)}

    def run(self, steps: int) -> dict[str, Any]:
        """Computes gradients; `work` is the tokens that are no padding."""
        work = 0
        for _ in range(steps):
            tokens, batch = self._batches[self._at % len(self._batches)]
            self._at, work = self._at + 1, work + tokens
            (loss, self._others), gradient = self._gradient(self._trained, self._others, batch, True)
        jax.block_until_ready(gradient)
        return {"work": work, "loss": float(loss)}

    def _loss(self, trained: list, others: list, batch: Mapping[str, Any], train: bool) -> tuple[Any, list]:
        places = {name: batch[name] for name in ("token_ids", "segment_ids", "padding_mask", "mask_positions")}
        (pieces, pairs), others = self._model.stateless_call(trained, others, places, training=train)
        chosen = jax.nn.log_softmax(pieces)
        chosen = jax.numpy.take_along_axis(chosen, batch["mask_labels"][..., None], axis=-1)[..., 0]
        of_masks = -(chosen * batch["mask_weights"]).sum() / batch["mask_weights"].sum()
        of_pairs = -jax.numpy.take_along_axis(jax.nn.log_softmax(pairs), batch["pair_label"][:, None], axis=1).mean()
        return of_masks + of_pairs, others


def with_heads(start: str) -> keras.Model:
    """Their encoder with the weights of a folder, their head of masked LM, and a dense layer for pairs."""
    backbone = keras_hub.models.BertBackbone.from_preset(start)
    head = keras_hub.layers.MaskedLMHead(
        token_embedding=backbone.token_embedding,
        intermediate_activation=lambda x: keras.activations.gelu(x, approximate=True),
        layer_norm_epsilon=1e-12,
    )
    places = keras.Input((None,), dtype="int32", name="mask_positions")
    pairs = keras.layers.Dense(2)
    found = backbone(backbone.input)
    outputs = head(found["sequence_output"], places), pairs(found["pooled_output"])
    model = keras.Model({**backbone.input, "mask_positions": places}, outputs)
    weights = load_file(f"{start}/model.safetensors")
    of_masks = "cls.predictions."
    head._intermediate_dense.kernel.assign(weights[f"{of_masks}transform.dense.weight"].T)
    head._intermediate_dense.bias.assign(weights[f"{of_masks}transform.dense.bias"])
    head._intermediate_layer_norm.gamma.assign(weights[f"{of_masks}transform.LayerNorm.weight"])
    head._intermediate_layer_norm.beta.assign(weights[f"{of_masks}transform.LayerNorm.bias"])
    head._bias.assign(weights[f"{of_masks}bias"])
    pairs.kernel.assign(weights["cls.seq_relationship.weight"].T)
    pairs.bias.assign(weights["cls.seq_relationship.bias"])
    return model


def inputs(batch: Mapping[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
    """How many tokens are no padding, and a batch as the model takes it."""
    mask = np.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
    found = {
        "token_ids": batch["tokens"],
        "segment_ids": batch["segments"],
        "padding_mask": mask.astype(np.int32),
        "mask_positions": batch["mlm_positions"],
        "mask_labels": batch["mlm_labels"],
        "mask_weights": batch["mlm_weights"],
        "pair_label": batch["pair_label"],
    }
    return int(mask.sum()), found
