"""BERT once more: float64, numpy, one row at a time, straight from Devlin et al. 2018 and Vaswani et al. 2017.

It works on tensors under Hugging Face's names, so that it referees both the model and what the model's parameters are
called elsewhere.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import erf

ACTIVATIONS = {
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
}


def forward(
    state: Mapping[str, np.ndarray], config: Mapping, tokens: np.ndarray, segments: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """`hidden` [B, L, D] and, where their tensors are there, `pooled` [B, D], `mlm_logits` [B, L, V], `nsp_logits`
    [B, 2], and the `logits` of a classifier over the pooled output [B, C] or of a projection of every token [B, L, 2].

    Args:
        state: by their names, `bert.` included.
        config: the fields of their `config.json`.
        tokens, segments: [B, L].
        mask: [B, L], 1 for tokens that others may attend to.
    """
    rows = [_row(state, config, *row) for row in zip(tokens, segments, mask, strict=True)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _row(state, config, tokens, segments, mask) -> dict[str, np.ndarray]:
    state = {name: np.asarray(value, np.float64) for name, value in state.items()}
    activate, heads = ACTIVATIONS[config["hidden_act"]], config["num_attention_heads"]

    def dense(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config["layer_norm_eps"])
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attention(x, name):
        query, key, value = (dense(x, f"{name}.self.{part}") for part in ("query", "key", "value"))
        mixed = []
        for part in np.split(np.arange(x.shape[1]), heads):  # each head has its own columns, one head after the other
            scores = query[:, part] @ key[:, part].T / math.sqrt(len(part))
            weights = np.exp(scores - scores.max(axis=1, keepdims=True)) * mask
            mixed.append(weights / weights.sum(axis=1, keepdims=True) @ value[:, part])
        return dense(np.concatenate(mixed, axis=1), f"{name}.output.dense")

    tables = [state[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = tables[0][tokens] + tables[1][: len(tokens)] + tables[2][segments]
    x = norm(x, "bert.embeddings.LayerNorm")
    for n in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{n}"
        x = norm(x + attention(x, f"{layer}.attention"), f"{layer}.attention.output.LayerNorm")
        wide = activate(dense(x, f"{layer}.intermediate.dense"))
        x = norm(x + dense(wide, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")

    found = {"hidden": x}
    if "bert.pooler.dense.weight" in state:
        found["pooled"] = np.tanh(dense(x[0], "bert.pooler.dense"))
    if "cls.predictions.bias" in state:
        shown = activate(dense(x, "cls.predictions.transform.dense"))
        shown = norm(shown, "cls.predictions.transform.LayerNorm")
        decoder = state.get("cls.predictions.decoder.weight", tables[0])
        found["mlm_logits"] = shown @ decoder.T + state["cls.predictions.bias"]
    if "cls.seq_relationship.weight" in state:
        found["nsp_logits"] = dense(found["pooled"], "cls.seq_relationship")
    if "qa_outputs.weight" in state:
        found["logits"] = dense(x, "qa_outputs")
    if "classifier.weight" in state:
        found["logits"] = dense(found.get("pooled", x), "classifier")
    return found
