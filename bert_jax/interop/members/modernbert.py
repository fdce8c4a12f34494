"""ModernBERT: fused projections without biases, one norm fewer than layers, and a hidden layer in every head."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.parameter import Parameter, dense, norm, output, same
from bert_jax.models.modernbert import ModernBert
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.pooled import HIDDEN_NORM_EPSILON
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.tag import Tag

POOLING = {"cls": "gelu_norm", "mean": "mean_gelu_norm"}
# Of the released tokenizer; of another one they are to be put right by hand.
IDS = {"bos_token_id": 50281, "cls_token_id": 50281, "eos_token_id": 50282, "sep_token_id": 50282}
IDS["pad_token_id"] = 50283
LAYER = "model.layers.{N}"
FIRST_NORM = "model.layers.0.attn_norm.weight"  # not in any file of theirs


def _kernel(*names: str) -> Parameter:
    """A projection without bias."""
    return next(dense(*names))


def _scale(*names: str) -> Parameter:
    """A layer norm without bias."""
    return next(norm(*names))


ENCODER = (
    same("embeddings/words/table", "VD", "model.embeddings.tok_embeddings.weight"),
    _scale("embeddings/norm", "D", "model.embeddings.norm"),
    _scale("layers/attention_norm", "ND", f"{LAYER}.attn_norm"),
    _kernel("layers/attention/qkv", "NDJHK", f"{LAYER}.attn.Wqkv", "D", "(J H K)"),
    _kernel("layers/attention/out", "NHKD", f"{LAYER}.attn.Wo", "(H K)", "D"),
    _scale("layers/mlp_norm", "ND", f"{LAYER}.mlp_norm"),
    _kernel("layers/mlp/widen", "NDGF", f"{LAYER}.mlp.Wi", "D", "(G F)"),
    _kernel("layers/mlp/narrow", "NDF", f"{LAYER}.mlp.Wo", "F", "D"),
    _scale("last_norm", "D", "model.final_norm"),
)
MLM = (
    _kernel("transform", "DE", "head.dense", "D", "E"),
    _scale("norm", "E", "head.norm"),
    same("bias", "V", "decoder.bias"),
)
DECODER = (same("decoder", "VE", "decoder.weight"),)
OTHERS = (
    _kernel("hidden", "DE", "head.dense", "D", "E"),
    _scale("hidden_norm", "E", "head.norm"),
    *output("classifier", ""),
)


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    if type(objective) in (Classify, Regress, MultiLabel, Choice):
        return OTHERS if objective.hidden in POOLING.values() else None
    return OTHERS if type(objective) is Tag and objective.hidden == "gelu_norm" else None


def _spelled(config: dict[str, Any]) -> dict[str, Any]:
    """Since version 5 `transformers` lists the kind of each layer, and has the bases of the angles by kind."""
    config, rope = dict(config), config.get("rope_parameters") or {}
    for kind, field in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        own = rope.get(kind) or {} if isinstance(rope, Mapping) else rope
        if not isinstance(own, Mapping) or own.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters of {kind} {own!r} are not supported, only rope_type 'default'")
        if "rope_theta" in own:
            config[field] = own["rope_theta"]
    types, every = config.get("layer_types"), config.get("global_attn_every_n_layers", 3)
    if types is not None:
        count = len(types) if isinstance(types, list) else 0
        fitting = [n for n in (every, *range(1, count + 1)) if type(n) is int and n > 0 and types == _types(n, count)]
        if not fitting:
            raise ValueError(f"layer_types {types!r} are not full_attention in the first and every n-th layer after it")
        config["global_attn_every_n_layers"] = fitting[0]
    if config.get("classifier_pooling", "cls") not in POOLING:
        raise ValueError(f"classifier_pooling is {config['classifier_pooling']!r}, expected 'cls' or 'mean'")
    # Their class has one number for the dropout of the probabilities and that behind them; the second is not theirs.
    config.setdefault("attn_out_dropout_prob", config.get("attention_dropout", 0.0))
    return config


def _types(every: int, count: int) -> list[str]:
    return ["sliding_attention" if n % every else "full_attention" for n in range(count)]


def _id(value: int) -> Callable[[ModernBert], int | None]:
    return lambda encoder: value if encoder.vocab_size > value else None


MODERNBERT = Member(
    model_type="modernbert",
    encoder=ModernBert,
    fields={
        "vocab_size": "vocab_size",
        "num_hidden_layers": "num_layers",
        "hidden_size": "width",
        "num_attention_heads": "num_heads",
        "intermediate_size": "mlp_width",
        "max_position_embeddings": "max_length",
        "attn_out_dropout_prob": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "init_stddev",
        "global_attn_every_n_layers": "global_every",
        "local_attention": "window",
        "global_rope_theta": "global_theta",
        "local_rope_theta": "local_theta",
    },
    defaults={  # ModernBertConfig
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "attn_out_dropout_prob": 0.0,
        "attention_dropout": 0.0,
        "classifier_dropout": 0.0,
        "classifier_pooling": "cls",
        "initializer_range": 0.02,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "tie_word_embeddings": True,
    },
    encoder_table=lambda encoder: ENCODER,
    head_table=_head_table,
    architectures=classes_of("ModernBert", Mlm, Classify, Regress, MultiLabel, Tag, Choice),
    without_pooler=(),
    prefix="model",
    parts=("embeddings", "layers", "final_norm"),
    predictions="decoder.",
    decoder="decoder.weight",
    decoder_bias="decoder.bias",
    bias="decoder.bias",
    activation="hidden_activation",
    required={
        "norm_eps": HIDDEN_NORM_EPSILON,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "decoder_bias": True,
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "rope_scaling": None,
    },
    written={"norm_eps": HIDDEN_NORM_EPSILON} | {name: _id(value) for name, value in IDS.items()},
    token_ids={name: f"{name[:3]}_id" for name in ("cls_token_id", "sep_token_id", "pad_token_id")}
    | {"bos_token_id": "cls_id", "eos_token_id": "sep_id"},
    unsaid={"norm_epsilon": HIDDEN_NORM_EPSILON, "segment_types": 0},
    mlm_activation="gelu",
    hidden=("gelu_norm", "head.dense"),
    words="embeddings.tok_embeddings.weight",
    implied=lambda encoder: {FIRST_NORM: np.ones(encoder.width, np.float32)},
    mlm_bias=False,
    pooling=POOLING,
    tag_hidden="gelu_norm",
    spelled=_spelled,
)
