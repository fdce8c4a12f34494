"""Hugging Face transformers on JAX through torchax: forward and backward pass of BertForPreTraining."""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch
import transformers

from tools.benchmarks.checks import check_loss, masked_batches

_overload = torch._ops.OpOverloadPacket.__getattr__


def _overload_or_name(packet: Any, name: str) -> Any:
    """An overload of an operation of PyTorch; of one for named tensors, which PyTorch 2.13 has no more, its name."""
    try:
        return _overload(packet, name)
    except AttributeError:
        if "name" not in name.lower() or name.startswith("__"):
            raise
        return f"{packet}.{name}"


# torchax 0.0.13 lists such overloads in tables of what it translates, as keys that nothing asks for.
with mock.patch.object(torch._ops.OpOverloadPacket, "__getattr__", _overload_or_name):
    import torchax
    from torchax import interop

    torchax.default_env()


class Gradient:
    """The gradient of the losses of MLM and NSP, with dropout and SDPA attention, in one compiled function.

    Args:
        start: folder of the initial weights.
        batches: file of masked batches, which are read again and again.
        dtype: float32.
        loss: of the first batch without dropout.
    """

    def __init__(self, start: str, batches: str, dtype: str, loss: float):
        self._at = 0
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._model = transformers.BertForPreTraining.from_pretrained(
            start, dtype=torch.float32, attn_implementation="sdpa", hidden_act="gelu_pytorch_tanh"
        )
        self._batches = [inputs(batch) for batch in masked_batches(batches)]
        self._env = torchax.default_env()
        trained = {name: array.detach().numpy() for name, array in self._model.named_parameters()}
        self._trained = jax.device_put(trained)
        self._others = jax.device_put({name: array.numpy() for name, array in self._model.named_buffers()})
        self._model.eval()
        first = jax.jit(self._loss)(self._trained, self._others, jax.random.key(0), self._batches[0][1])
        check_loss(loss, float(first), dtype)
        self._model.train()
        self._gradient = jax.jit(jax.value_and_grad(self._loss_in_training))
        versions = {"torchax": torchax.__version__, "transformers": transformers.__version__, "jax": jax.__version__}
        self.facts = versions | {"dtype": dtype, "parameters": sum(array.size for array in self._trained.values())}

    def run(self, steps: int) -> dict[str, Any]:
        """Computes gradients; `work` is the tokens that are no padding."""
        work = 0
        for _ in range(steps):
            tokens, batch = self._batches[self._at % len(self._batches)]
            self._at, work = self._at + 1, work + tokens
            loss, gradient = self._gradient(self._trained, self._others, jax.random.key(self._at), batch)
        jax.block_until_ready(gradient)
        return {"work": work, "loss": float(loss)}

    def _loss(self, trained: Mapping, others: Mapping, key: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
        with self._env.override_property(prng=key), self._env:
            state = interop.torch_view({**trained, **others})
            found = torch.func.functional_call(self._model, state, (), interop.torch_view(dict(batch)))
            return interop.jax_view(found.loss)

    def _loss_in_training(self, *arguments: Any) -> jax.Array:
        return self._loss(*arguments)  # another function, so that nothing is taken from the trace without dropout


def inputs(batch: Mapping[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
    """How many tokens are no padding, and a batch as their model takes it."""
    mask = np.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
    found = {
        "input_ids": batch["tokens"],
        "token_type_ids": batch["segments"],
        "attention_mask": mask.astype(np.int32),
        "labels": batch["labels"],
        "next_sentence_label": batch["pair_label"],
    }
    return int(mask.sum()), found
